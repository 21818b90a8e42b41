//! Object stores: a folder, or a server that speaks S3. One behaviour suite runs against both.

pub mod host;

use crate::error::Result;
use crate::stream::ByteStream;
use bytes::Bytes;
use std::fmt;

/// Where an object is, below the store's root: `prod/db/20260630T010000Z.dump`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey(String);

impl ObjectKey {
    /// A key of one or more segments. Each is made of `[A-Za-z0-9._-]`, is not empty, and is neither `.` nor `..`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let segment = |s: &str| {
            !matches!(s, "" | "." | "..")
                && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        };
        (text.len() <= KEY_BYTES_MAX && text.split('/').all(segment)).then(|| Self(text.to_owned()))
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Longest key. S3 allows 1,024 bytes with the store's own prefix.
const KEY_BYTES_MAX: usize = 512;

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

/// A store.
#[derive(Debug)]
pub struct Store;

impl Store {
    /// Stores the whole stream as one new object.
    pub async fn put_stream(&self, _key: &ObjectKey, _content: ByteStream) -> Result<Stored> {
        unreachable!()
    }
    /// x
    pub async fn get(&self, _key: &ObjectKey) -> Result<Option<Bytes>> {
        unreachable!()
    }
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
