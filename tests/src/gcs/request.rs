//! A request of the S3 protocol, and its operation as recognised from the head.

use anyhow::{Context, Result, bail};

/// Maximum number of headers in one head.
const HEADERS_MAX: usize = 64;

/// The operation of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names of the S3 operations")]
pub enum Operation {
    AbortMultipartUpload,
    CompleteMultipartUpload,
    CopyObject,
    CreateMultipartUpload,
    DeleteObject,
    DeleteObjects,
    GetObject,
    HeadObject,
    ListMultipartUploads,
    ListObjects,
    ListParts,
    PutObject,
    UploadPart,
    UploadPartCopy,
}

/// A request as received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The operation.
    pub operation: Operation,
    /// The HTTP method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// The headers, with names in lower case.
    pub headers: Vec<(String, String)>,
}

impl Request {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }

    /// Reads a head.
    pub(super) fn parse(head: &[u8]) -> Result<Self> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut parsed = httparse::Request::new(&mut headers);
        parsed.parse(head)?;
        let method = parsed.method.context("no method")?.to_owned();
        let target = parsed.path.context("no path")?.to_owned();
        let headers = parsed.headers.iter();
        let headers = headers
            .map(|header| (header.name.to_ascii_lowercase(), String::from_utf8_lossy(header.value).into_owned()))
            .collect();
        let mut request = Self { operation: Operation::GetObject, method, target, headers };
        request.operation = operation(&request)?;
        Ok(request)
    }

    pub(super) fn body_bytes(&self) -> u64 {
        self.header("content-length").and_then(|value| value.parse().ok()).unwrap_or(0)
    }

    pub(super) fn query(&self, name: &str) -> Option<&str> {
        let (_, query) = self.target.split_once('?')?;
        query.split('&').find_map(|pair| match pair.split_once('=') {
            Some((key, value)) => (key == name).then_some(value),
            None => (pair == name).then_some(""),
        })
    }
}

fn operation(request: &Request) -> Result<Operation> {
    let has = |name: &str| request.query(name).is_some();
    let copies = request.header("x-amz-copy-source").is_some();
    let path = request.target.split('?').next().unwrap_or_default();
    let is_bucket = !path.trim_matches('/').contains('/');
    Ok(match request.method.as_str() {
        "HEAD" => Operation::HeadObject,
        "GET" if has("uploads") => Operation::ListMultipartUploads,
        "GET" if has("uploadId") => Operation::ListParts,
        "GET" if is_bucket => Operation::ListObjects,
        "GET" => Operation::GetObject,
        "PUT" if has("partNumber") && copies => Operation::UploadPartCopy,
        "PUT" if has("partNumber") => Operation::UploadPart,
        "PUT" if copies => Operation::CopyObject,
        "PUT" => Operation::PutObject,
        "POST" if has("uploads") => Operation::CreateMultipartUpload,
        "POST" if has("uploadId") => Operation::CompleteMultipartUpload,
        "POST" if has("delete") => Operation::DeleteObjects,
        "DELETE" if has("uploadId") => Operation::AbortMultipartUpload,
        "DELETE" => Operation::DeleteObject,
        other => bail!("the proxy does not know {other} {}", request.target),
    })
}
