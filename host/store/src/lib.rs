//! Object stores: a folder, or a server that speaks S3; memory, for simulations. One behaviour suite runs against the real ones.
//!
//! An object appears under its key whole or not at all, and no upload of a stream ever replaces one. Nothing here
//! decides what is stored, kept or deleted, and nothing here knows of plugins.
#![warn(missing_docs)]

pub mod directory;
mod fencing;
mod location;
pub mod memory;
pub mod profile;
pub mod s3;
#[cfg(test)]
mod suite;

pub use fencing::Fencing;

use base::error::{Error, Result};
use base::stream::ByteStream;
use bytes::Bytes;
use location::{Location, locate};
use serde::Deserialize;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

/// Longest key. S3 allows 1,024 bytes with the store's own prefix.
const KEY_BYTES_MAX: usize = 512;

/// Largest object that [`Store::get`] reads into memory. Records and indexes of real installations have a few MiB.
pub const GET_BYTES_MAX: u64 = 64 << 20;

/// Most keys that one listing returns. A million objects are 270 years of ten a day, and a gigabyte of keys is a mistake.
const LIST_KEYS_MAX: usize = 1_000_000;

/// Where an object is, below the store's root: `prod/db/20260630T010000Z.dump`. Whoever reads a history has thousands of copies of one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey(Arc<str>);

impl ObjectKey {
    /// A key of one or more segments. Each is made of `[A-Za-z0-9._:+-]`, is not empty, and is neither `.` nor `..`. The
    /// program itself writes no colon and no plus; scripts have them in their stamps.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let segment = |s: &str| {
            !matches!(s, "" | "." | "..")
                && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b':' | b'+'))
        };
        (text.len() <= KEY_BYTES_MAX && text.split('/').all(segment)).then(|| Self(text.into()))
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a store says of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// Its key.
    pub key: ObjectKey,
    /// Its size.
    pub bytes: u64,
    /// When it was last written, by the store's own clock.
    pub modified: jiff::Timestamp,
}

/// What became of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Size of the object.
    pub bytes: u64,
    /// SHA-256 of its bytes, in lower-case hexadecimal.
    pub sha256: String,
}

/// What became of a deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    /// The object is gone, or never was.
    Gone,
    /// The store keeps it: a lock, a retention rule, or a credential without the permission.
    Retained,
}

/// What became of a creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// The object is new.
    Created,
    /// There was one already, and it is untouched.
    Exists,
}

/// `[store]` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `s3://BUCKET/PREFIX` or `file:///FOLDER`.
    pub url: String,
    /// The S3 server. By default what the credentials name (`AWS_ENDPOINTS`, `AWS_ENDPOINT_URL`), then the profile's own.
    pub endpoint: Option<String>,
    /// The region that requests are signed for. By default the profile's.
    pub region: Option<String>,
    /// Which S3 server it is.
    #[serde(default)]
    pub profile: profile::Profile,
    /// The access key.
    pub credentials: Option<base::secret::Source>,
    /// PEM certificates of the authorities that may vouch for the endpoint, in place of the system's.
    pub ca_file: Option<PathBuf>,
}

/// A store.
#[derive(Debug)]
pub enum Store {
    /// A server that speaks S3.
    S3(s3::S3),
    /// A folder.
    Directory(directory::Directory),
    /// Memory, for simulations.
    Memory(memory::Memory),
}

impl Store {
    /// Opens a store and checks that it can be reached: one listing of one key, or one look at the folder. A folder
    /// that does not exist is made if the one above it exists.
    ///
    /// # Errors
    /// [`base::error::Class::Config`] for a URL, a credential, a bucket or a folder that is wrong,
    /// [`base::error::Class::Unavailable`] where nobody answers.
    pub async fn open(config: &Config) -> Result<Self> {
        match locate(&config.url)? {
            Location::Bucket { bucket, prefix } => {
                s3::S3::open(config, bucket, prefix, s3::Patience::default()).await.map(Self::S3)
            }
            Location::Folder(root) => {
                let set = [
                    ("endpoint", config.endpoint.is_some()),
                    ("region", config.region.is_some()),
                    ("credentials", config.credentials.is_some()),
                    ("ca_file", config.ca_file.is_some()),
                ];
                if let Some((name, _)) = set.into_iter().find(|(_, is_set)| *is_set) {
                    return Err(Error::config(format!("a folder has no use for `{name}`"))
                        .hint(format!("remove `{name}` from [store], or use an s3:// url")));
                }
                directory::Directory::open(root).await.map(Self::Directory)
            }
        }
    }

    /// The store for people: its URL, which never holds a secret.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::S3(s3) => s3.describe(),
            Self::Directory(directory) => directory.describe(),
            Self::Memory(_) => "memory".to_owned(),
        }
    }

    /// Stores the whole stream as one new object, which appears only when the stream ended well. On an error, and when
    /// the future is dropped, nothing of it stays; what a killed process leaves is what [`Store::abort_uploads`] removes.
    ///
    /// # Errors
    /// The producer's own error, unchanged. Of class `Unexpected` when the object exists or the store is full.
    pub async fn put_stream(&self, key: &ObjectKey, content: ByteStream) -> Result<Stored> {
        match self {
            Self::S3(s3) => s3.put_stream(key, content).await,
            Self::Directory(directory) => directory.put_stream(key, content).await,
            Self::Memory(memory) => memory.put_stream(key, content).await,
        }
    }

    /// Stores a small object, in place of one that exists.
    ///
    /// # Errors
    /// When the store refuses it or is unavailable.
    pub async fn put(&self, key: &ObjectKey, body: Bytes) -> Result<()> {
        match self {
            Self::S3(s3) => s3.put(key, body).await,
            Self::Directory(directory) => directory.put(key, body).await,
            Self::Memory(memory) => memory.put(key, body).await,
        }
    }

    /// Stores a small object unless there is one. Where the profile knows no conditional write, it looks first: then
    /// of two that create at the same moment both may be told `Created`, which the caller's lease has to make harmless.
    ///
    /// # Errors
    /// When the store refuses it or is unavailable.
    pub async fn create(&self, key: &ObjectKey, body: Bytes) -> Result<Created> {
        match self {
            Self::S3(s3) => s3.create(key, body).await,
            Self::Directory(directory) => directory.create(key, body).await,
            Self::Memory(memory) => memory.create(key, body).await,
        }
    }

    /// A small object's bytes; none where there is no object.
    ///
    /// # Errors
    /// When it is larger than [`GET_BYTES_MAX`], or the store is unavailable.
    pub async fn get(&self, key: &ObjectKey) -> Result<Option<Bytes>> {
        match self {
            Self::S3(s3) => s3.get(key).await,
            Self::Directory(directory) => directory.get(key).await,
            Self::Memory(memory) => memory.get(key).await,
        }
    }

    /// What the store says of one object; none where there is none.
    ///
    /// # Errors
    /// When the store is unavailable.
    pub async fn head(&self, key: &ObjectKey) -> Result<Option<Meta>> {
        match self {
            Self::S3(s3) => s3.head(key).await,
            Self::Directory(directory) => directory.head(key).await,
            Self::Memory(memory) => memory.head(key).await,
        }
    }

    /// All objects below a folder such as `prod/db/`, at any depth, sorted by key; below the root for `""`. The slash
    /// at the end may be left out: `xx-1` never lists `xx-11`. What has no valid key is left out.
    ///
    /// # Errors
    /// When the store is unavailable.
    pub async fn list(&self, under: &str) -> Result<Vec<Meta>> {
        let under = folder(under)?;
        let mut found = match self {
            Self::S3(s3) => s3.list(&under).await,
            Self::Directory(directory) => directory.list(&under).await,
            Self::Memory(memory) => memory.list(&under).await,
        }?;
        found.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    /// Deletes one object. In a versioned bucket that adds a marker, and the bytes stay.
    ///
    /// # Errors
    /// When the store is unavailable, or a credential is wrong rather than not permitted.
    pub async fn delete(&self, key: &ObjectKey) -> Result<Deleted> {
        match self {
            Self::S3(s3) => s3.delete(key).await,
            Self::Directory(directory) => directory.delete(key).await,
            Self::Memory(memory) => memory.delete(key).await,
        }
    }

    /// Removes what uploads below a folder left behind, and says how many there were. An upload that is still running
    /// is removed too: the caller holds the lease.
    ///
    /// # Errors
    /// When the store is unavailable or does not let the credential list uploads.
    pub async fn abort_uploads(&self, under: &str) -> Result<u32> {
        let under = folder(under)?;
        match self {
            Self::S3(s3) => s3.abort_uploads(&under).await,
            Self::Directory(directory) => directory.abort_uploads(&under).await,
            // An upload to it is one step.
            Self::Memory(_) => Ok(0),
        }
    }

    /// Streams an object, or a part of it, in blocks. The stream fails if it ends before its length.
    ///
    /// # Errors
    /// Of class [`base::error::Class::Stale`] when there is no such object or it is shorter than the range.
    pub async fn read(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<ByteStream> {
        match self {
            Self::S3(s3) => s3.read(key, range).await,
            Self::Directory(directory) => directory.read(key, range).await,
            Self::Memory(memory) => memory.read(key, range).await,
        }
    }

    /// Waits until everything that dropped uploads left behind is cleaned up. Worth a few seconds before the process
    /// ends early; [`Store::abort_uploads`] finds the rest in the next run.
    pub async fn settle(&self) {
        match self {
            Self::S3(s3) => s3.settle().await,
            Self::Directory(directory) => directory.settle().await,
            Self::Memory(_) => {}
        }
    }
}

/// The failure of whoever reads an object that is not there.
fn missing(key: &ObjectKey, store: &str) -> Error {
    Error::new(base::error::Class::Stale, format!("the object {key} is not in {store}"))
        .hint("run `verify` to see which snapshots miss objects")
}

/// The failure of whoever reads beyond an object's end.
fn too_short(key: &ObjectKey, wanted: u64, bytes: u64) -> Error {
    Error::new(base::error::Class::Stale, format!("the object {key} has {bytes} bytes, not the {wanted} that are read"))
        .hint("run `verify` to see which objects are damaged")
}

/// The failure of whoever uploads over an object.
fn exists(key: &ObjectKey) -> Error {
    Error::taken(format!("the object {key} exists already and is not overwritten"))
        .hint("run again: a new run has a new name")
}

/// The failure of whoever gets a large object.
fn too_large(key: &ObjectKey, bytes: u64) -> Error {
    Error::unexpected(format!(
        "the object {key} has {bytes} bytes, more than the {GET_BYTES_MAX} that are read at once"
    ))
}

/// A folder's name below the root, with a slash at its end; empty for the root itself.
fn folder(under: &str) -> Result<String> {
    let name = under.strip_suffix('/').unwrap_or(under);
    if name.is_empty() {
        return Ok(String::new());
    }
    let key = ObjectKey::parse(name);
    key.map(|key| format!("{key}/")).ok_or_else(|| Error::unexpected(format!("`{under}` is no folder of a store")))
}

impl serde::Serialize for ObjectKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for ObjectKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <String as serde::Deserialize>::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom(format!("`{text}` is no object key")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_or_profile_of_the_configuration_is_refused_by_name() {
        let parse = |text: &str| toml::from_str::<Config>(text);
        let config =
            parse("url = \"s3://bucket/erp\"\nprofile = \"gcs\"\ncredentials = { files = \"/run/s3\" }").unwrap();
        assert_eq!(config.profile, profile::Profile::Gcs);
        assert_eq!(parse("url = \"file:///x\"").unwrap().profile, profile::Profile::Generic);
        assert!(parse("url = \"s3://bucket\"\nendpont = \"x\"").unwrap_err().to_string().contains("endpont"));
        let unknown = parse("url = \"s3://bucket\"\nprofile = \"azure\"").unwrap_err().to_string();
        for profile in profile::Profile::ALL {
            assert!(unknown.contains(&format!("`{profile}`")), "{profile} is not in: {unknown}");
        }
    }

    #[test]
    fn a_key_that_could_leave_its_folder_is_no_key() {
        for text in [
            "",
            "/",
            "a/",
            "/a",
            "a//b",
            ".",
            "..",
            "a/../b",
            "a b",
            "a\\b",
            "é",
            "a\n",
            &"x".repeat(KEY_BYTES_MAX + 1),
        ] {
            assert_eq!(ObjectKey::parse(text), None, "{text}");
        }
        for text in [
            "a",
            "prod/db/20260630T010000Z.dump",
            "prod/.fp-db",
            "db/2026-06-30T03:00:00+02:00.dump",
            &"x".repeat(KEY_BYTES_MAX),
        ] {
            assert_eq!(ObjectKey::parse(text).unwrap().as_str(), text);
        }
    }
}
