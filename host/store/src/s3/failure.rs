//! Interprets a server's refusal or silence, and decides who has to act.

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use base::error::{Error, Result};
use base::secret::{SecretString, redact};

/// Most characters of a server's message that are shown.
const MESSAGE_CHARS_MAX: usize = 300;

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reading {
    /// The server answered with an error. Code and message are empty if it sent none.
    Refused { status: u16, code: String, message: String },
    /// There was no usable answer. The request may still have been carried out.
    Silence { why: String, is_certificate: bool },
    /// The request was never sent.
    Unsent(Error),
}

impl Reading {
    /// Whether the request may have been carried out despite the failure.
    pub(super) fn is_ambiguous(&self) -> bool {
        match self {
            // If the first completion was carried out, a repeated one finds no upload.
            Self::Refused { status, code, .. } => *status >= 500 || *status < 300 || code == "NoSuchUpload",
            Self::Silence { is_certificate, .. } => !is_certificate,
            Self::Unsent(_) => false,
        }
    }

    /// Whether the store refused to delete an object.
    pub(super) fn is_retention(&self) -> bool {
        let Self::Refused { status, code, message } = self else { return false };
        let lock_words = ["ObjectLock", "Retention", "WORM", "UnderActiveHold", "LegalHold"];
        let is_lock = lock_words.iter().any(|word| code.contains(word) || message.contains(word));
        is_lock || (*status == 403 && !is_credential(code))
    }
}

fn is_credential(code: &str) -> bool {
    const CODES: [&str; 7] = [
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "InvalidToken",
        "ExpiredToken",
        "InvalidSecurity",
        "AuthorizationHeaderMalformed",
        "RequestTimeTooSkewed",
    ];
    CODES.contains(&code)
}

/// Converts the SDK's error.
pub(super) fn read<E>(error: &SdkError<E, HttpResponse>) -> Reading
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    if let Some(error) = wrapped_error(error) {
        return Reading::Unsent(error);
    }
    let silence = |why: String| {
        let is_certificate = why.contains("certificate");
        Reading::Silence { why, is_certificate }
    };
    match error {
        SdkError::ServiceError(answered) => {
            let meta = answered.err().meta();
            let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
            let status = answered.raw().status().as_u16();
            Reading::Refused { status, code: text(meta.code()), message: text(meta.message()) }
        }
        // Not an S3 response, such as an error page of a proxy.
        SdkError::ResponseError(answered) => {
            let status = answered.raw().status().as_u16();
            let message = "the response does not come from an S3 server".to_owned();
            Reading::Refused { status, code: String::new(), message }
        }
        SdkError::TimeoutError(_) => silence("no response within the time limit".to_owned()),
        SdkError::ConstructionFailure(_) => {
            Reading::Unsent(Error::unexpected(format!("the request could not be built: {}", innermost(error))))
        }
        _ => silence(innermost(error)),
    }
}

/// The host's own error inside an SDK error, such as credentials that cannot be read.
fn wrapped_error(error: &(dyn std::error::Error + 'static)) -> Option<Error> {
    let mut at = Some(error);
    while let Some(error) = at {
        if let Some(own) = error.downcast_ref::<Error>() {
            return Some(own.clone());
        }
        at = error.source();
    }
    None
}

/// The text of an error's innermost cause. The SDK's outer errors are too vague to show.
pub(super) fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut at = error;
    while let Some(source) = at.source() {
        at = source;
    }
    at.to_string()
}

/// Explains a failure: what is wrong, at which endpoint, and what to do. The text never contains a secret.
pub(super) fn explain(reading: Reading, bucket: &str, endpoint: &str, secrets: &[SecretString]) -> Error {
    let (status, code, message) = match reading {
        Reading::Unsent(error) => return error,
        Reading::Silence { why, is_certificate: true } => {
            return Error::config(format!("the certificate of {endpoint} is not trusted: {}", clean(&why, secrets)))
                .hint("set `ca_file` in [store] to the certificate of the CA that issued the server's certificate");
        }
        Reading::Silence { why, .. } => {
            return Error::unavailable(format!("{endpoint} cannot be reached: {}", clean(&why, secrets)))
                .hint("check the endpoint and the network, then run the command again");
        }
        Reading::Refused { status, code, message } => (status, code, clean(&message, secrets)),
    };
    let detail = match (code.is_empty(), message.is_empty()) {
        (true, true) => format!("status {status}"),
        (true, false) => format!("status {status}: {message}"),
        (false, true) => clean(&code, secrets),
        (false, false) => format!("{}: {message}", clean(&code, secrets)),
    };
    match (status, code.as_str()) {
        (_, "NoSuchBucket") => Error::config(format!("the bucket `{bucket}` does not exist at {endpoint}"))
            .hint("check `url` and `endpoint` in [store], or create the bucket"),
        (_, "RequestTimeTooSkewed") => Error::config(format!("{endpoint} rejected the request's timestamp ({detail})"))
            .hint("correct this machine's clock"),
        (_, "AuthorizationHeaderMalformed" | "InvalidRegion" | "IllegalLocationConstraintException")
        | (301 | 307, _) => Error::config(format!("{endpoint} expects another region or address ({detail})"))
            .hint("set `region` in [store] to the bucket's region"),
        (_, code) if is_credential(code) => Error::config(format!("{endpoint} rejected the credentials ({detail})"))
            .hint("check the access key that `credentials` in [store] points to"),
        (401 | 403, _) => Error::config(format!("{endpoint} denied access to the bucket `{bucket}` ({detail})"))
            .hint("check that the access key may list, read, write and delete below the store's prefix"),
        (501, _) => Error::config(format!("{endpoint} does not support the request ({detail})"))
            .hint("set `profile` in [store] to the kind of server, or to \"generic\""),
        (507, _) | (_, "QuotaExceeded" | "QuotaExceededException" | "EntityTooLarge" | "StorageFull") => {
            Error::unexpected(format!("{endpoint} has no space left ({detail})")).hint("raise the bucket's quota")
        }
        (429 | 500.., _) | (_, "SlowDown" | "InternalError" | "RequestTimeout" | "ServiceUnavailable") => {
            Error::unavailable(format!("{endpoint} is unavailable ({detail})")).hint("run the command again later")
        }
        _ => Error::unexpected(format!("{endpoint} refused the request ({detail})")),
    }
}

/// A server's text, shortened and without secrets or control characters.
fn clean(text: &str, secrets: &[SecretString]) -> String {
    let text = redact(text, &secrets.iter().collect::<Vec<_>>());
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().take(MESSAGE_CHARS_MAX).map(printable).collect::<String>().trim().to_owned()
}

/// A result whose error may leave open whether the request was carried out.
pub(super) type Uncertain<T> = Result<T, Reading>;

#[cfg(test)]
mod tests {
    use super::*;
    use base::error::Class;

    fn refused(status: u16, code: &str, message: &str) -> Reading {
        Reading::Refused { status, code: code.into(), message: message.into() }
    }

    #[test]
    fn a_refusal_maps_to_a_class_and_a_hint() {
        let table = [
            (refused(404, "NoSuchBucket", ""), Class::Config),
            (refused(403, "AccessDenied", "no"), Class::Config),
            (refused(403, "", ""), Class::Config),
            (refused(403, "InvalidAccessKeyId", ""), Class::Config),
            (refused(403, "SignatureDoesNotMatch", ""), Class::Config),
            (refused(403, "RequestTimeTooSkewed", ""), Class::Config),
            (refused(400, "AuthorizationHeaderMalformed", ""), Class::Config),
            (refused(301, "PermanentRedirect", ""), Class::Config),
            (refused(501, "NotImplemented", ""), Class::Config),
            (refused(507, "", ""), Class::Unexpected),
            (refused(429, "", ""), Class::Unavailable),
            (refused(503, "SlowDown", ""), Class::Unavailable),
            (refused(500, "", ""), Class::Unavailable),
            (refused(200, "InternalError", ""), Class::Unavailable),
            (Reading::Silence { why: "connection refused".into(), is_certificate: false }, Class::Unavailable),
            (Reading::Silence { why: "invalid peer certificate".into(), is_certificate: true }, Class::Config),
        ];
        for (reading, class) in table {
            let error = explain(reading, "backup", "https://s3.example.org", &[]);
            assert_eq!(error.class(), class, "{error}");
            assert!(error.message().contains("https://s3.example.org"), "{error}");
            assert!(error.advice().is_some(), "{error}");
        }
    }

    #[test]
    fn a_servers_message_is_shortened_and_cleaned() {
        let secret = SecretString::from("hunter2-canary".to_owned());
        let message = format!("\u{1b}[2J\nkey hunter2-canary {}", "x".repeat(1_000));
        let text = explain(refused(400, "Odd", &message), "b", "e", &[secret]).to_string();
        assert!(!text.contains("canary") && text.contains("[redacted]"), "{text}");
        assert!(!text.contains(char::is_control) && text.len() < MESSAGE_CHARS_MAX + 100, "{text}");
    }

    #[test]
    fn a_refused_delete_is_retention_but_an_invalid_credential_is_not() {
        for reading in [
            refused(403, "AccessDenied", ""),
            refused(403, "", ""),
            refused(400, "InvalidRequest", "Object is WORM protected and cannot be overwritten"),
            refused(409, "ObjectLockedByBucketPolicy", ""),
            refused(403, "RetentionPolicyNotMet", ""),
        ] {
            assert!(reading.is_retention(), "{reading:?}");
        }
        for reading in [
            refused(403, "InvalidAccessKeyId", ""),
            refused(403, "SignatureDoesNotMatch", ""),
            refused(403, "ExpiredToken", ""),
            refused(404, "NoSuchBucket", ""),
            refused(503, "SlowDown", ""),
            Reading::Silence { why: String::new(), is_certificate: false },
        ] {
            assert!(!reading.is_retention(), "{reading:?}");
        }
    }

    #[test]
    fn only_a_definite_answer_is_not_ambiguous() {
        let silence = Reading::Silence { why: "timeout".into(), is_certificate: false };
        for reading in
            [silence, refused(500, "", ""), refused(200, "InternalError", ""), refused(404, "NoSuchUpload", "")]
        {
            assert!(reading.is_ambiguous(), "{reading:?}");
        }
        for reading in [
            refused(403, "AccessDenied", ""),
            refused(400, "InvalidPart", ""),
            refused(412, "", ""),
            refused(429, "", ""),
        ] {
            assert!(!reading.is_ambiguous(), "{reading:?}");
        }
    }
}
