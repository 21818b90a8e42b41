//! The keys that this program composes.

use crate::configured::Environment;
use base::error::{Error, Result};
use base::id::SnapshotId;
use store::ObjectKey;

/// Key of a snapshot's record.
///
/// # Errors
/// Never for a checked environment name.
pub fn record_key(environment: &Environment, id: SnapshotId) -> Result<ObjectKey> {
    key(&format!("{environment}/snapshots/{id}.json"))
}

/// Key of a forgotten snapshot's certificate.
///
/// # Errors
/// Never for a checked environment name.
pub fn certificate_key(environment: &Environment, id: SnapshotId) -> Result<ObjectKey> {
    key(&format!("{environment}/forgotten/{id}.json"))
}

/// A key that this host composes.
///
/// # Errors
/// When it is none, which a checked name rules out.
pub fn key(text: &str) -> Result<ObjectKey> {
    ObjectKey::parse(text).ok_or_else(|| Error::unexpected(format!("`{text}` is not a valid object key")))
}
