//! Requests that Google Cloud Storage refuses or answers differently, and the responses of faults.

use super::{Fault, Operation, Request, State};

/// Smallest part of a multipart upload, except the last.
const PART_BYTES_MIN: u64 = 5 << 20;

/// Maximum number of keys in one DeleteObjects.
const DELETE_KEYS_MAX: usize = 1_000;

/// The response, if Google Cloud Storage refuses a request because of its head.
pub(super) fn refuse(request: &Request) -> Option<String> {
    let has = |name: &str| request.header(name).is_some();
    let starts = |prefix: &str| request.headers.iter().any(|(name, _)| name.starts_with(prefix));
    let value = |name: &str| request.header(name).unwrap_or_default();
    let signed = value("authorization").split("SignedHeaders=").nth(1).and_then(|rest| rest.split(',').next());
    let is_signed = |name: &str| signed.is_some_and(|signed| signed.split(';').any(|header| header == name));
    let is_upload = matches!(request.method.as_str(), "PUT" | "POST");

    if is_upload && !has("content-length") {
        return Some(answer(
            "411 Length Required",
            "text/html",
            "<html><title>Error 411 (Length Required)!!1</title></html>",
        ));
    }
    if value("content-encoding").contains("aws-chunked")
        || has("x-amz-trailer")
        || value("x-amz-content-sha256").starts_with("STREAMING-")
        || is_signed("accept-encoding")
    {
        return Some(error("403 Forbidden", "SignatureDoesNotMatch", "the signature does not match"));
    }
    if starts("x-goog-") && starts("x-amz-") {
        return Some(error("400 Bad Request", "ExcessHeaderValues", "x-goog and x-amz headers do not mix"));
    }
    if request.operation == Operation::UploadPartCopy {
        return Some(error("400 Bad Request", "NotImplemented", "UploadPartCopy is not implemented"));
    }
    if request.operation == Operation::CreateMultipartUpload && (has("if-match") || has("if-none-match")) {
        return Some(error("400 Bad Request", "NotImplemented", "no precondition on an initiate"));
    }
    if request.operation == Operation::CompleteMultipartUpload && starts("x-amz-checksum-") {
        return Some(error("412 Precondition Failed", "PreconditionFailed", "a composite checksum"));
    }
    if request.operation == Operation::DeleteObjects && !has("content-md5") && !has("x-amz-checksum-crc32") {
        return Some(error("400 Bad Request", "MissingContentMD5", "neither Content-MD5 nor CRC32"));
    }
    // A body larger than a thousand of the longest entries has too many keys in any case.
    if request.operation == Operation::DeleteObjects && request.body_bytes() > (DELETE_KEYS_MAX * 1_100) as u64 {
        return Some(error("400 Bad Request", "MalformedXML", "more than 1,000 keys"));
    }
    if request.target.contains("%0D") || request.target.contains("%0A") {
        return Some(error("400 Bad Request", "InvalidArgument", "a line break in a key"));
    }
    if has("x-amz-tagging") || request.query("versionId").is_some() || request.query("tagging").is_some() {
        return Some(error("400 Bad Request", "NotImplemented", "no tags and no versions by this interface"));
    }
    let class = value("x-amz-storage-class");
    if !class.is_empty() && class != "STANDARD" {
        return Some(error("400 Bad Request", "InvalidStorageClass", "a storage class of another provider"));
    }
    None
}

/// Remembers the sizes of parts, and refuses to complete an upload if a part before the last is too small.
pub(super) fn refuse_parts(request: &Request, state: &mut State) -> Option<String> {
    let upload = request.query("uploadId")?.to_owned();
    match request.operation {
        Operation::UploadPart => {
            let number = request.query("partNumber")?.parse().ok()?;
            state.parts.entry(upload).or_default().insert(number, request.body_bytes());
            None
        }
        Operation::CompleteMultipartUpload => {
            let parts = state.parts.get(&upload)?;
            let is_small = parts.values().rev().skip(1).any(|bytes| *bytes < PART_BYTES_MIN);
            is_small.then(|| error("400 Bad Request", "EntityTooSmall", "a part before the last is too small"))
        }
        _ => None,
    }
}

/// The response that a fault sends instead of the server, if any.
pub(super) fn answer_of_fault(fault: Fault) -> Option<String> {
    match fault {
        Fault::TooManyRequests => Some(answer(
            "429 Too Many Requests",
            "application/xml",
            "<?xml version='1.0'?><RateLimit><Reason>rateLimitExceeded</Reason></RateLimit>",
        )),
        Fault::SlowDown => Some(error("503 Service Unavailable", "SlowDown", "reduce your request rate")),
        Fault::AccessDenied => Some(error("403 Forbidden", "AccessDenied", "access denied")),
        Fault::ErrorIn200 => Some(error("200 OK", "InternalError", "an internal error, please try again")),
        Fault::Swallow => Some("HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n".to_owned()),
        Fault::CommitThenDrop | Fault::Stall(_) | Fault::ResetRequestAfter(_) | Fault::ResetAnswerAfter(_) => None,
    }
}

fn error(status: &str, code: &str, message: &str) -> String {
    let body =
        format!("<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>{message}</Message></Error>");
    answer(status, "application/xml", &body)
}

fn answer(status: &str, kind: &str, body: &str) -> String {
    let bytes = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {bytes}\r\nconnection: close\r\n\r\n{body}")
}

/// Replaces the ETag of an object of several parts: Google Cloud Storage has no MD5 for it, and its ETag does not look
/// like one.
pub(super) fn without_md5_of_parts(line: &str) -> String {
    let is_of_parts = line.to_ascii_lowercase().starts_with("etag:") && line.contains('-');
    if is_of_parts { "etag: \"CKih16GjycICEAE=\"".to_owned() } else { line.to_owned() }
}
