//! The capability `object-write`: new objects under one source's prefix, named with the run's stamp.

use crate::context::{Content, Context, GuestResult};
use base::error::{Class, Error, Result};
use base::id::SnapshotId;
use documents::Archived;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use store::{Fencing, ObjectKey, Store, Stored};
use wasmtime::component::Resource;

pub(crate) mod bindings {
    wasmtime::component::bindgen!({
        inline: "package host:store; world store { import backup:host/object-write@0.2.0; }",
        path: "../../wit",
        imports: { default: async | trappable },
        with: {
            "backup:host/types": crate::context::types,
            "backup:host/bytes": crate::context::bytes,
            "backup:host/object-write.prefix": super::Prefix,
        },
    });
}
use bindings::backup::host::object_write;

/// Longest extension of an object's name: `tar.gz` and `index` need six.
const EXTENSION_BYTES_MAX: usize = 16;

/// The place where one run may store objects of one source. The handle behind `object-write.prefix`.
#[derive(Debug, Clone)]
pub struct Prefix {
    store: Arc<Store>,
    /// `prod/db`: environment and source.
    scope: String,
    stamp: SnapshotId,
    fencing: Fencing,
    /// What was stored through any copy of this prefix, to check a plugin's receipt against; at most one object.
    stored: Arc<Mutex<Vec<(ObjectKey, Stored)>>>,
    /// The outcome of the archive that was stored.
    archived: Arc<Mutex<Option<Archived>>>,
    /// Whether an object was written through any copy of this prefix. The outcome of a second attempt would tell the
    /// plugin more about the documents.
    tried: Arc<AtomicBool>,
}

impl Prefix {
    /// A prefix for one run.
    pub fn new(store: Arc<Store>, scope: String, stamp: SnapshotId, fencing: Fencing) -> Self {
        Self { store, scope, stamp, fencing, stored: Arc::default(), archived: Arc::default(), tried: Arc::default() }
    }

    /// The objects that were stored under it so far.
    pub fn stored(&self) -> Vec<(ObjectKey, Stored)> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes the outcome of the archive that was stored; `None` for a dump.
    pub fn take_archived(&self) -> Option<Archived> {
        self.archived.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    async fn put(&self, name: &str, content: Content) -> Result<(ObjectKey, Stored)> {
        let key = self.key(name)?;
        if let Some((first, _)) = self.stored().first() {
            let message = format!("the plugin stores {key} in addition to {first}, but the host asked for one object");
            return Err(Error::new(Class::PluginRefused, message));
        }
        if self.tried.swap(true, Ordering::Relaxed) {
            let message =
                format!("the plugin stores {key} after a failed first attempt, but the host asked for one object");
            return Err(Error::new(Class::PluginRefused, message));
        }
        let bar = base::telemetry::bar(&self.scope, content.bytes.expected_bytes());
        let stored = self.fencing.put_stream(&self.store, &key, content.bytes.observed(bar.clone())).await;
        bar.finish_and_clear();
        let stored = (key, stored?);
        if let Some(archived) = content.archived {
            *self.archived.lock().unwrap_or_else(PoisonError::into_inner) = archived.await.ok();
        }
        self.stored.lock().unwrap_or_else(PoisonError::into_inner).push(stored.clone());
        Ok(stored)
    }

    /// The key of an object that a plugin named, or the reason why it is refused.
    fn key(&self, name: &str) -> Result<ObjectKey> {
        let extension = name.strip_prefix(&self.stamp.to_string()).and_then(|rest| rest.strip_prefix('.'));
        let valid = |e: &str| {
            e.len() <= EXTENSION_BYTES_MAX
                && e.split('.')
                    .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()))
        };
        extension.filter(|e| valid(e)).and_then(|_| ObjectKey::parse(&format!("{}/{name}", self.scope))).ok_or_else(
            || {
                Error::new(
                    Class::PluginRefused,
                    format!(
                        "the plugin named an object `{}`, which is not the run's stamp {} plus an extension",
                        base::text::printable(name),
                        self.stamp
                    ),
                )
            },
        )
    }
}

interfaces! {
    /// Links `object-write`.
    add_to_linker: object_write { HostPrefix => Prefix }
}

impl object_write::Host for Context {
    async fn put(
        &mut self,
        under: Resource<Prefix>,
        name: String,
        content: Resource<Content>,
    ) -> GuestResult<object_write::Receipt> {
        let prefix = self.table.get(&under)?.clone();
        let content = self.table.delete(content)?;
        let stored = prefix.put(&name, content).await;
        self.count("object-write.put", &prefix.scope, 0, stored.as_ref().map_or(0, |(_, stored)| stored.bytes));
        Ok(self.answer(stored.map(|(key, stored)| object_write::Receipt {
            key: key.to_string(),
            bytes: stored.bytes,
            sha256: stored.sha256,
        })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::stream::channel;
    use bytes::Bytes;
    use jiff::Timestamp;
    use store::memory::Memory;

    #[tokio::test]
    async fn a_second_attempt_is_refused() {
        let stamp = SnapshotId::at("2026-01-02T03:04:05Z".parse().unwrap());
        let store = Arc::new(Store::Memory(Memory::new(Timestamp::UNIX_EPOCH)));
        let prefix = Prefix::new(store, "prod/docs".to_owned(), stamp, Fencing::none());
        let name = format!("{stamp}.tar.gz");
        let content = || async {
            let (writer, content) = channel(None);
            writer.send(Bytes::from_static(b"archive")).await.unwrap();
            (writer, Content { bytes: content, archived: None })
        };
        let (writer, failing) = content().await;
        writer.fail(Error::new(Class::Stale, "a document cannot be read")).await;
        assert_eq!(prefix.put(&name, failing).await.unwrap_err().class(), Class::Stale);
        let (writer, whole) = content().await;
        writer.finish().await.unwrap();
        let refused = prefix.clone().put(&name, whole).await.unwrap_err();
        assert_eq!(refused.class(), Class::PluginRefused);
        assert!(refused.message().contains("after a failed first attempt"), "{refused}");
    }
}
