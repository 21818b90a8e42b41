//! The stored objects that documents are restored from: an archive and its index.
//!
//! The caller decides where they are and how they are fetched; this module only reads and checks them.

use super::index::reader::{Reader, damaged};
use base::error::{Error, Result, reason};
use base::stream::{BlockingReader, ByteStream};
use futures::future::BoxFuture;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

/// Reads a range of an object, or all of it.
pub type Fetch = Arc<dyn Fn(Option<Range<u64>>) -> BoxFuture<'static, Result<ByteStream>> + Send + Sync>;

/// A stored object.
#[derive(Clone)]
pub struct StoredObject {
    /// Its name in messages.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of its bytes in lower-case hexadecimal, if it was recorded.
    pub sha256: Option<String>,
    /// Reads it from the store.
    pub fetch: Fetch,
}

impl fmt::Debug for StoredObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes)", self.name, self.bytes)
    }
}

/// An archive and its index, if it has one.
#[derive(Debug, Clone)]
pub struct Archive {
    /// The `tar.gz`.
    pub object: StoredObject,
    /// Its index.
    pub index: Option<StoredObject>,
}

/// What a blocking thread needs to read objects.
#[derive(Debug, Clone)]
pub(super) struct Means {
    pub(super) runtime: Handle,
    pub(super) stop: CancellationToken,
}

impl StoredObject {
    /// Opens the object for reading on a thread that may block.
    pub(super) fn read(&self, range: Option<Range<u64>>, means: &Means, hashed: bool) -> Result<BlockingReader> {
        let stream = means.runtime.block_on((self.fetch)(range))?;
        Ok(BlockingReader::new(stream, means.runtime.clone(), means.stop.clone(), hashed))
    }

    /// Reads the rest of the object, and compares its length and SHA-256 with those that were recorded.
    pub(super) fn check(&self, reader: BlockingReader) -> Result<()> {
        let unreadable = |error| base::stream::producer_error(error, |e| Error::unexpected(reason(&e)));
        let (bytes, sha256) = reader.finish().map_err(unreadable)?;
        if bytes != self.bytes {
            return Err(damaged(format!("it has {bytes} bytes, expected {}", self.bytes)));
        }
        match (&self.sha256, sha256.map(hex::encode)) {
            (Some(expected), Some(found)) if *expected != found => {
                Err(damaged("its SHA-256 does not match the recorded one".to_owned()))
            }
            _ => Ok(()),
        }
    }
}

impl Archive {
    /// Opens the index, if there is one.
    pub(super) fn index(&self, means: &Means, hashed: bool) -> Result<Option<Reader<BlockingReader>>> {
        let Some(index) = &self.index else { return Ok(None) };
        let reader = index.read(None, means, hashed)?;
        Reader::new(reader, self.object.bytes).map(Some).map_err(|error| error.context(&index.name))
    }
}

/// Runs blocking work on its own thread. Dropping the future cancels the work.
pub(super) async fn blocking<T: Send + 'static>(
    stop: &CancellationToken,
    work: impl FnOnce(Means) -> Result<T> + Send + 'static,
) -> Result<T> {
    let stop = stop.child_token();
    let means = Means { runtime: Handle::current(), stop: stop.clone() };
    let _stop_on_drop = stop.drop_guard();
    match tokio::task::spawn_blocking(move || work(means)).await {
        Ok(result) => result,
        Err(error) => Err(Error::unexpected(format!("a thread that reads documents failed: {error}"))),
    }
}
