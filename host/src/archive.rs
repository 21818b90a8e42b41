//! Opens archives in the store for the documents crate.

use base::error::Result;
use catalogue::history::{History, Object};
use catalogue::record::ArchiveRecord;
use futures::FutureExt;
use std::sync::Arc;
use store::{ObjectKey, Store};

/// The record of an archive by the run that made it, if that snapshot still exists.
pub fn recorded<'h>(history: &'h History, key: &ObjectKey) -> Option<&'h ArchiveRecord> {
    let sources = history.snapshots.iter().filter_map(|s| s.record.as_ref()).flat_map(|record| record.sources.values());
    sources
        .filter(|source| source.object.as_ref().is_some_and(|object| object.key == *key))
        .find_map(|s| s.archive.as_ref())
}

/// Opens an archive for reading. If no record names its index any more, the index next to it is used.
pub async fn open(
    store: &Arc<Store>,
    history: &History,
    object: &Object,
    ignore_index: bool,
) -> Result<documents::Archive> {
    let archive = stored(store, &object.key, object.bytes, object.sha256.clone());
    if ignore_index {
        return Ok(documents::Archive { object: archive, index: None });
    }
    let known = recorded(history, &object.key).and_then(|record| record.index.as_ref());
    let beside = || ObjectKey::parse(&format!("{}.index", object.key.as_str().strip_suffix(".tar.gz")?));
    let key = known.map(|index| index.key.clone()).or_else(beside);
    let there = match &key {
        Some(key) => store.head(key).await?,
        None => None,
    };
    if let (Some(index), None) = (known, &there) {
        tracing::warn!(key = %index.key, "the index is not in the store; reading the archive without it");
    }
    let index = there.map(|meta| {
        let (bytes, sha256) = known.map_or((meta.bytes, None), |index| (index.bytes, Some(index.sha256.clone())));
        stored(store, &meta.key, bytes, sha256)
    });
    Ok(documents::Archive { object: archive, index })
}

fn stored(store: &Arc<Store>, key: &ObjectKey, bytes: u64, sha256: Option<String>) -> documents::StoredObject {
    let (store, name) = (Arc::clone(store), key.to_string());
    let key = key.clone();
    let fetch: documents::Fetch = Arc::new(move |range| {
        let (store, key) = (Arc::clone(&store), key.clone());
        async move { store.read(&key, range).await }.boxed()
    });
    documents::StoredObject { name, bytes, sha256, fetch }
}
