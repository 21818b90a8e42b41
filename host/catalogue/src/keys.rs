//! Composes the object keys that this program writes.

use crate::configured::Environment;
use base::error::{Error, Result};
use base::id::SnapshotId;
use store::ObjectKey;

/// Key of a snapshot's record.
pub fn record_key(environment: &Environment, id: SnapshotId) -> Result<ObjectKey> {
    key(&format!("{environment}/snapshots/{id}.json"))
}

/// Key of a forgotten snapshot's certificate.
pub fn certificate_key(environment: &Environment, id: SnapshotId) -> Result<ObjectKey> {
    key(&format!("{environment}/forgotten/{id}.json"))
}

/// Parses a key that this host composed.
///
/// # Errors
/// [`base::error::Class::Unexpected`] if the text is not a valid key. A validated environment name rules this out.
pub fn key(text: &str) -> Result<ObjectKey> {
    ObjectKey::parse(text).ok_or_else(|| Error::unexpected(format!("`{text}` is not a valid object key")))
}
