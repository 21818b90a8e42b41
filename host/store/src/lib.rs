//! Object stores: a folder, an S3 server, or memory for simulations. One test suite runs against folders and servers.
//!
//! An object appears under its key completely or not at all, and the upload of a stream never replaces an object. This
//! crate does not decide what is stored, kept or deleted, and does not know about plugins.
#![warn(missing_docs)]

mod directory;
mod fencing;
mod location;
pub mod memory;
mod profile;
mod s3;
#[cfg(test)]
mod suite;

pub use fencing::Fencing;

use base::error::{Error, Result};
use base::stream::ByteStream;
use bytes::Bytes;
use location::{Location, locate};
use serde::Deserialize;
use std::borrow::Borrow;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

/// Longest key. S3 allows 1,024 bytes including the store's prefix.
const KEY_BYTES_MAX: usize = 512;

/// Largest object that [`Store::get`] reads into memory. Records and indexes of real installations take a few MiB.
pub const GET_BYTES_MAX: u64 = 64 << 20;

/// Most keys that one listing returns. A million objects is 270 years of ten per day; a gigabyte of keys is a mistake.
const LIST_KEYS_MAX: usize = 1_000_000;

/// An object's path below the store's root: `prod/db/20260630T010000Z.dump`. Cheap to clone, because a history holds
/// thousands of copies.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, derive_more::Display)]
pub struct ObjectKey(Arc<str>);

impl ObjectKey {
    /// A key of one or more segments. A segment consists of `[A-Za-z0-9._:+-]`, is not empty, and is neither `.` nor
    /// `..`. The program itself never writes a colon or a plus; backup scripts use them in timestamps.
    pub fn parse(text: &str) -> Option<Self> {
        let is_segment = |s: &str| {
            !matches!(s, "" | "." | "..")
                && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b':' | b'+'))
        };
        (text.len() <= KEY_BYTES_MAX && text.split('/').all(is_segment)).then(|| Self(text.into()))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for ObjectKey {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// A store's metadata of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// Its key.
    pub key: ObjectKey,
    /// Its size.
    pub bytes: u64,
    /// When it was last written, by the store's clock.
    pub modified: jiff::Timestamp,
}

/// The result of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Size of the object.
    pub bytes: u64,
    /// SHA-256 of its bytes, in lower-case hexadecimal.
    pub sha256: String,
}

/// The result of a deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    /// The object is gone, or never existed.
    Gone,
    /// The store refused to delete it: an object lock, a retention rule, or a credential without the permission.
    Retained,
}

/// The result of a creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// The object was created.
    Created,
    /// The object already existed and was not changed.
    Exists,
}

/// `[store]` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreConfig {
    /// `s3://BUCKET/PREFIX` or `file:///FOLDER`.
    pub url: String,
    /// The S3 server. Default: the one in the credentials (`AWS_ENDPOINTS`, `AWS_ENDPOINT_URL`), then the profile's.
    pub endpoint: Option<String>,
    /// The region that requests are signed for. Default: the profile's.
    pub region: Option<String>,
    /// The kind of S3 server.
    #[serde(default)]
    pub profile: profile::Profile,
    /// The access key.
    pub credentials: Option<base::secret::SecretSource>,
    /// PEM certificates of the authorities to trust for the endpoint, instead of the system's.
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
    /// Opens a store and checks that it can be reached, by listing one key or reading the folder. If the folder does
    /// not exist but its parent does, the first write creates it.
    ///
    /// # Errors
    /// [`base::error::Class::Config`] if the URL, a credential, the bucket or the folder is wrong,
    /// [`base::error::Class::Unavailable`] if the server does not answer.
    pub async fn open(config: &StoreConfig) -> Result<Self> {
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
                    return Err(Error::config(format!("`{name}` does not apply to a file:// store"))
                        .hint(format!("remove `{name}` from [store], or use an s3:// URL")));
                }
                directory::Directory::open(root).await.map(Self::Directory)
            }
        }
    }

    /// The store's URL, for messages. It never contains a secret.
    pub fn describe(&self) -> String {
        match self {
            Self::S3(s3) => s3.describe(),
            Self::Directory(directory) => directory.describe(),
            Self::Memory(_) => "memory".to_owned(),
        }
    }

    /// Stores the whole stream as one new object, which appears only if the stream completes. On an error, or if the
    /// future is dropped, nothing remains; [`Store::abort_uploads`] removes what a killed process leaves.
    ///
    /// # Errors
    /// The producer's error, unchanged. Class `Unexpected` if the object exists or the store is full.
    pub async fn put_stream(&self, key: &ObjectKey, content: ByteStream) -> Result<Stored> {
        match self {
            Self::S3(s3) => s3.put_stream(key, content).await,
            Self::Directory(directory) => directory.put_stream(key, content).await,
            Self::Memory(memory) => memory.put_stream(key, content).await,
        }
    }

    /// Stores a small object, replacing an existing one.
    pub async fn put(&self, key: &ObjectKey, body: Bytes) -> Result<()> {
        match self {
            Self::S3(s3) => s3.put(key, body).await,
            Self::Directory(directory) => directory.put(key, body).await,
            Self::Memory(memory) => memory.put(key, body).await,
        }
    }

    /// Stores a small object unless the key exists. If the profile does not support conditional writes, it checks
    /// first; then two concurrent creations may both return `Created`, and the caller's lease must make that harmless.
    pub async fn create(&self, key: &ObjectKey, body: Bytes) -> Result<Created> {
        match self {
            Self::S3(s3) => s3.create(key, body).await,
            Self::Directory(directory) => directory.create(key, body).await,
            Self::Memory(memory) => memory.create(key, body).await,
        }
    }

    /// A small object's bytes; `None` if it does not exist.
    ///
    /// # Errors
    /// If it is larger than [`GET_BYTES_MAX`], or the store is unavailable.
    pub async fn get(&self, key: &ObjectKey) -> Result<Option<Bytes>> {
        match self {
            Self::S3(s3) => s3.get(key).await,
            Self::Directory(directory) => directory.get(key).await,
            Self::Memory(memory) => memory.get(key).await,
        }
    }

    /// The metadata of one object; `None` if it does not exist.
    pub async fn head(&self, key: &ObjectKey) -> Result<Option<Meta>> {
        match self {
            Self::S3(s3) => s3.head(key).await,
            Self::Directory(directory) => directory.head(key).await,
            Self::Memory(memory) => memory.head(key).await,
        }
    }

    /// All objects below a folder such as `prod/db/`, at any depth, sorted by key; `""` is the root. The final slash is
    /// optional: `xx-1` never lists `xx-11`. Objects without a valid key are skipped.
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

    /// Deletes one object. In a versioned bucket this adds a delete marker, and the data stays.
    ///
    /// # Errors
    /// If the store is unavailable, or the credentials are invalid. A missing permission is [`Deleted::Retained`].
    pub async fn delete(&self, key: &ObjectKey) -> Result<Deleted> {
        match self {
            Self::S3(s3) => s3.delete(key).await,
            Self::Directory(directory) => directory.delete(key).await,
            Self::Memory(memory) => memory.delete(key).await,
        }
    }

    /// Removes unfinished uploads below a folder and returns their number. This includes uploads that are still
    /// running, so the caller must hold the lease.
    ///
    /// # Errors
    /// If the store is unavailable, or the credentials do not allow listing uploads.
    pub async fn abort_uploads(&self, under: &str) -> Result<u32> {
        let under = folder(under)?;
        match self {
            Self::S3(s3) => s3.abort_uploads(&under).await,
            Self::Directory(directory) => directory.abort_uploads(&under).await,
            // An upload to memory is atomic.
            Self::Memory(_) => Ok(0),
        }
    }

    /// Streams an object, or a part of it, in blocks. The stream fails if it ends early.
    ///
    /// # Errors
    /// [`base::error::Class::Stale`] if the object does not exist or is shorter than the range.
    pub async fn read(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<ByteStream> {
        match self {
            Self::S3(s3) => s3.read(key, range).await,
            Self::Directory(directory) => directory.read(key, range).await,
            Self::Memory(memory) => memory.read(key, range).await,
        }
    }

    /// Waits until dropped uploads are cleaned up. Worth a few seconds before the process exits early; the next run's
    /// [`Store::abort_uploads`] removes the rest.
    pub async fn settle(&self) {
        match self {
            Self::S3(s3) => s3.settle().await,
            Self::Directory(directory) => directory.settle().await,
            Self::Memory(_) => {}
        }
    }
}

/// Error for reading an object that does not exist.
fn missing(key: &ObjectKey, store: &str) -> Error {
    Error::new(base::error::Class::Stale, format!("the object {key} does not exist in {store}"))
        .hint("run `verify` to see which snapshots have missing objects")
}

/// Error for reading past the end of an object.
fn too_short(key: &ObjectKey, end: u64, bytes: u64) -> Error {
    Error::new(base::error::Class::Stale, format!("the object {key} has {bytes} bytes, expected at least {end}"))
        .hint("run `verify` to see which objects are damaged")
}

/// Error for uploading to a key that exists.
fn exists(key: &ObjectKey) -> Error {
    Error::taken(format!("the object {key} already exists and was not overwritten"))
        .hint("run the command again; the new run uses a new name")
}

/// Error for getting an object that is too large to hold in memory.
fn too_large(key: &ObjectKey, bytes: u64) -> Error {
    Error::unexpected(format!("the object {key} has {bytes} bytes, more than the limit of {GET_BYTES_MAX} bytes"))
}

/// A folder's path below the root, with a trailing slash; empty for the root.
fn folder(under: &str) -> Result<String> {
    let name = under.strip_suffix('/').unwrap_or(under);
    if name.is_empty() {
        return Ok(String::new());
    }
    let key = ObjectKey::parse(name);
    key.map(|key| format!("{key}/")).ok_or_else(|| Error::unexpected(format!("`{under}` is not a folder of a store")))
}

impl serde::Serialize for ObjectKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for ObjectKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <String as serde::Deserialize>::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom(format!("`{text}` is not a valid object key")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_and_profiles_in_the_configuration_are_named() {
        let parse = |text: &str| toml::from_str::<StoreConfig>(text);
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
    fn a_key_cannot_leave_its_folder() {
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
