//! A store's location: its URL, parsed once.

use super::ObjectKey;
use base::error::{Error, Result};
use std::path::PathBuf;
use url::Url;

/// Longest prefix in a store's URL. Together with the longest key it stays within S3's 1,024 bytes.
const PREFIX_BYTES_MAX: usize = 500;

/// A store's URL, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Location {
    /// The prefix is empty or ends with a slash.
    Bucket {
        bucket: String,
        prefix: String,
    },
    Folder(PathBuf),
}

/// Parses a store's URL. An invalid URL that may contain a password is not shown.
pub(super) fn locate(text: &str) -> Result<Location> {
    const FORMS: &str = "use `s3://BUCKET/PREFIX` or `file:///FOLDER`";
    let url = Url::parse(text).map_err(|e| Error::config(format!("the store's URL is invalid: {e}")).hint(FORMS))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Error::config("the store's URL contains a user name or a password")
            .hint("remove them from the URL and use `credentials`"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(Error::config("the store's URL contains a `?` or a `#`")
            .hint("write them as %3F and %23 if they are part of a folder's name"));
    }
    match url.scheme() {
        "s3" => locate_bucket(&url),
        "file" => {
            let folder = url.to_file_path().ok().filter(|path| path.is_absolute());
            folder
                .map(Location::Folder)
                .ok_or_else(|| Error::config(format!("the URL {url} does not name an absolute folder")).hint(FORMS))
        }
        other => Err(Error::config(format!("the store's URL has the unknown scheme `{other}`")).hint(FORMS)),
    }
}

fn locate_bucket(url: &Url) -> Result<Location> {
    let bucket = url.host_str().unwrap_or_default();
    let is_name = (3..=255).contains(&bucket.len())
        && bucket.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if !is_name || url.port().is_some() {
        return Err(Error::config(format!("the URL {url} does not name a bucket")).hint("use `s3://BUCKET/PREFIX`"));
    }
    let prefix = url.path().trim_matches('/');
    let is_plain = |prefix: &str| !prefix.contains([':', '+']) && ObjectKey::parse(prefix).is_some();
    let is_prefix = prefix.is_empty() || (prefix.len() <= PREFIX_BYTES_MAX && is_plain(prefix));
    if !is_prefix {
        return Err(Error::config(format!("the prefix in the URL {url} is invalid or too long"))
            .hint("use only A-Z a-z 0-9 . _ - and /, as in `s3://BUCKET/erp`"));
    }
    let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
    Ok(Location::Bucket { bucket: bucket.to_owned(), prefix })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_bucket_or_a_folder() {
        let bucket = |bucket: &str, prefix: &str| Location::Bucket { bucket: bucket.into(), prefix: prefix.into() };
        let table = [
            ("s3://arcodange-backup/erp", bucket("arcodange-backup", "erp/")),
            ("s3://arcodange-backup/erp/", bucket("arcodange-backup", "erp/")),
            ("s3://arcodange-backup", bucket("arcodange-backup", "")),
            ("s3://arcodange-backup/", bucket("arcodange-backup", "")),
            ("s3://b_c.d/a/b", bucket("b_c.d", "a/b/")),
            ("file:///srv/backup/erp", Location::Folder("/srv/backup/erp".into())),
            ("file:///srv/a%20b%C3%A9", Location::Folder("/srv/a bé".into())),
        ];
        for (text, expected) in table {
            assert_eq!(locate(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn an_invalid_url_gets_a_hint_and_never_shows_its_password() {
        let table = [
            "",
            "erp",
            "/srv/backup",
            "s3://",
            "s3:///erp",
            "s3://ab/erp",
            "s3://bucket:9000/erp",
            "s3://bucket/a//b",
            "s3://bucket/../x%2F",
            "s3://bucket/a%20b",
            "s3://bucket/a:b",
            "s3://bucket/a+b",
            "s3://bucket/erp?x=1",
            "s3://bucket/erp#x",
            "file://server/share",
            "gs://bucket/erp",
            "https://example.org/bucket",
            "s3://AKIA:hunter2-canary@bucket/erp",
            "file:relative?",
        ];
        for text in table {
            let error = locate(text).unwrap_err();
            assert_eq!(error.class(), base::error::Class::Config, "{text}");
            assert!(error.advice().is_some(), "{text}: {error}");
            assert!(!format!("{error} {error:?}").contains("canary"), "{error}");
        }
    }
}
