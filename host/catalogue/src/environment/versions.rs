//! The versions of the environment's file in the store. Each is immutable and names the previous one.

use super::{EnvironmentFile, FOLDER, FORMAT_VERSION, PreviousFile, StoredFile};
use crate::configured::Environment;
use crate::keys::key;
use crate::record::to_bytes;
use base::error::{Error, Result};
use base::evidence::SealKey;
use base::id::Stamp;
use bytes::Bytes;
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use store::{Created, ObjectKey, Store};

/// Key of one version.
pub fn file_key(environment: &Environment, stamp: Stamp) -> Result<ObjectKey> {
    key(&format!("{environment}/{FOLDER}/{stamp}.json"))
}

/// Reads every version that can be read, oldest first.
pub async fn versions(store: &Store, environment: &Environment) -> Result<Vec<StoredFile>> {
    let mut found = Vec::new();
    for meta in store.list(&format!("{environment}/{FOLDER}/")).await? {
        let stem = meta.key.as_str().rsplit('/').next().and_then(|name| name.strip_suffix(".json"));
        let Some(stamp) = stem.and_then(|stem| stem.parse().ok()) else { continue };
        let Some(bytes) = store.get(&meta.key).await? else { continue };
        let sha256 = hex::encode(Sha256::digest(&bytes));
        found.extend(EnvironmentFile::parse(&bytes, environment, stamp).map(|file| StoredFile { stamp, sha256, file }));
    }
    found.sort_unstable_by_key(|version| version.stamp);
    Ok(found)
}

/// Writes the version after `before`, or the first one. If `gone` names a version that is missing or cannot be read,
/// the new one also comes after that.
///
/// # Errors
/// [`base::error::Class::Held`] if another process wrote a version at the same time.
pub async fn write(
    store: &Store,
    environment: &Environment,
    before: Option<&StoredFile>,
    gone: Option<Stamp>,
    mut file: EnvironmentFile,
    now: Timestamp,
) -> Result<StoredFile> {
    // The newest version is valid, so a clock that was set back must not put this one before the one that it replaces.
    let after = before.map(|before| before.stamp).max(gone).map(|before| before.after(1));
    let stamp = after.map_or(Stamp::at(now), |after| after.max(Stamp::at(now)));
    if gone.is_some_and(|gone| stamp <= gone) {
        let last = file_key(environment, stamp)?;
        return Err(Error::config(format!("{last} has the highest possible name, so no version can follow it"))
            .hint("no run writes such a name; move the object away by hand"));
    }
    file.previous = before.map(|before| PreviousFile { stamp: before.stamp, sha256: before.sha256.clone() });
    file.written = now;
    file.format_version = FORMAT_VERSION;
    file.seal_key.get_or_insert_with(SealKey::generate);
    file.host_version = env!("CARGO_PKG_VERSION").to_owned();
    let body = Bytes::from(to_bytes(&file)?);
    let sha256 = hex::encode(Sha256::digest(&body));
    match store.create(&file_key(environment, stamp)?, body).await? {
        Created::Created => Ok(StoredFile { stamp, sha256, file }),
        Created::Exists => Err(Error::new(
            base::error::Class::Held,
            format!("another process has just changed the environment's file of {environment}"),
        )
        .hint("check what changed, then run the command again")),
    }
}
