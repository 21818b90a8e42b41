//! The fence around every object that a run creates.

use crate::{ObjectKey, Store, Stored};
use base::error::{Error, Result};
use base::stream::{ByteStream, Guard};
use futures::FutureExt;
use futures::future::BoxFuture;
use std::sync::Arc;

/// What a run does around every object that it creates: it announces the object first, and checks at the end that it
/// still holds the lease.
#[derive(Clone)]
pub struct Fencing {
    /// Announces the object that is about to be created.
    pub announce: Arc<dyn Fn(ObjectKey) -> BoxFuture<'static, Result<()>> + Send + Sync>,
    /// Withdraws the announcement of an object that another run created, so that this run does not remove it.
    pub withdraw: Arc<dyn Fn(ObjectKey) -> BoxFuture<'static, ()> + Send + Sync>,
    /// Decides whether the object may be created.
    pub guard: Guard,
}

impl Fencing {
    /// Announces an object and stores it.
    pub async fn put_stream(&self, store: &Store, key: &ObjectKey, content: ByteStream) -> Result<Stored> {
        (self.announce)(key.clone()).await?;
        let stored = store.put_stream(key, content.guarded(self.guard.clone())).await;
        if stored.as_ref().is_err_and(Error::is_taken) {
            (self.withdraw)(key.clone()).await;
        }
        stored
    }
}

impl Fencing {
    /// A fence that allows everything, for a store without other writers.
    pub fn none() -> Self {
        Self {
            announce: Arc::new(|_| async { Ok(()) }.boxed()),
            withdraw: Arc::new(|_| async {}.boxed()),
            guard: Guard::new(|| Ok(())),
        }
    }
}

impl std::fmt::Debug for Fencing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fencing")
    }
}
