//! The fence around every object that a run makes.

use crate::{ObjectKey, Store, Stored};
use base::error::{Error, Result};
use base::stream::{ByteStream, Guard};
use futures::FutureExt;
use futures::future::BoxFuture;
use std::sync::Arc;

/// What a run does around every object that it makes: it says so before, and asks whether it still may in the end.
#[derive(Clone)]
pub struct Fencing {
    /// Says which object is about to be made.
    pub announce: Arc<dyn Fn(ObjectKey) -> BoxFuture<'static, Result<()>> + Send + Sync>,
    /// Takes that back of an object that somebody else made: it is not the run's to clear.
    pub withdraw: Arc<dyn Fn(ObjectKey) -> BoxFuture<'static, ()> + Send + Sync>,
    /// Whether it may come into being.
    pub guard: Guard,
}

impl Fencing {
    /// Announces an object and makes it.
    ///
    /// # Errors
    /// Those of the announcement and of the store.
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
    /// A fence that lets everything pass, for a store that nobody else writes to.
    #[must_use]
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
