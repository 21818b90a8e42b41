//! A store in memory, with its own clock and injectable faults, for simulations. Each operation yields once, so that
//! the simulation can interleave other operations.

use super::{Created, Deleted, Meta, ObjectKey, Stored};
use base::error::{Error, Result};
use base::stream::{self, ByteStream};
use bytes::Bytes;
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A fault in one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The operation fails and has no effect.
    Refused,
    /// The operation takes effect, but its answer is lost.
    AnswerLost,
}

/// The store. Clones share its content.
#[derive(Debug, Clone)]
pub struct Memory(Arc<Mutex<Inner>>);

/// An object with the time at which it was written.
#[derive(Debug, Clone)]
pub struct StoredObject {
    /// Its content.
    pub bytes: Bytes,
    written: Timestamp,
}

/// All objects of a store.
pub type Objects = BTreeMap<ObjectKey, StoredObject>;

#[derive(Debug)]
struct Inner {
    // Shared with whoever looks at it, and copied only if it changes meanwhile.
    objects: Arc<Objects>,
    now: Timestamp,
    operations: u64,
    faults: BTreeMap<u64, Fault>,
}

impl Inner {
    fn put(&mut self, key: ObjectKey, bytes: Bytes) {
        Arc::make_mut(&mut self.objects).insert(key, StoredObject { bytes, written: self.now });
    }

    fn remove(&mut self, key: &ObjectKey) {
        Arc::make_mut(&mut self.objects).remove(key);
    }
}

impl Memory {
    /// An empty store whose clock shows `now`.
    pub fn new(now: Timestamp) -> Self {
        let inner = Inner { objects: Arc::default(), now, operations: 0, faults: BTreeMap::new() };
        Self(Arc::new(Mutex::new(inner)))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the store's clock.
    pub fn set_now(&self, now: Timestamp) {
        self.inner().now = now;
    }

    /// The number of operations so far.
    pub fn operations(&self) -> u64 {
        self.inner().operations
    }

    /// Makes an operation fail. `after` counts from the next operation, which is 0.
    pub fn fail(&self, after: u64, fault: Fault) {
        let mut inner = self.inner();
        let at = inner.operations + after;
        inner.faults.insert(at, fault);
    }

    /// Removes faults that have not occurred yet.
    pub fn heal(&self) {
        self.inner().faults.clear();
    }

    /// All objects, as they are now.
    pub fn objects(&self) -> Arc<Objects> {
        Arc::clone(&self.inner().objects)
    }

    /// Stores an object as another program would.
    pub fn place(&self, key: ObjectKey, bytes: Bytes) {
        self.inner().put(key, bytes);
    }

    /// Removes an object as another program would.
    pub fn take_away(&self, key: &ObjectKey) {
        self.inner().remove(key);
    }

    /// Runs one operation: yields to others first, then applies the fault that is due, if any.
    async fn operate<T>(&self, operation: impl FnOnce(&mut Inner) -> Result<T>) -> Result<T> {
        tokio::task::yield_now().await;
        let mut inner = self.inner();
        let number = inner.operations;
        inner.operations += 1;
        let lost = || Error::unavailable("the store did not answer");
        match inner.faults.remove(&number) {
            Some(Fault::Refused) => Err(lost()),
            Some(Fault::AnswerLost) => operation(&mut inner).and(Err(lost())),
            None => operation(&mut inner),
        }
    }

    /// See [`super::Store::put_stream`].
    pub async fn put_stream(&self, key: &ObjectKey, mut content: ByteStream) -> Result<Stored> {
        let mut body = Vec::new();
        while let Some(block) = content.next().await? {
            body.extend_from_slice(&block);
        }
        let stored = Stored { bytes: body.len() as u64, sha256: hex::encode(Sha256::digest(&body)) };
        self.operate(|inner| {
            if inner.objects.contains_key(key) {
                return Err(super::exists(key));
            }
            inner.put(key.clone(), Bytes::from(body));
            Ok(stored)
        })
        .await
    }

    /// See [`super::Store::put`].
    pub async fn put(&self, key: &ObjectKey, body: Bytes) -> Result<()> {
        self.operate(|inner| {
            inner.put(key.clone(), body);
            Ok(())
        })
        .await
    }

    /// See [`super::Store::create`].
    pub async fn create(&self, key: &ObjectKey, body: Bytes) -> Result<Created> {
        self.operate(|inner| {
            if inner.objects.contains_key(key) {
                return Ok(Created::Exists);
            }
            inner.put(key.clone(), body);
            Ok(Created::Created)
        })
        .await
    }

    /// See [`super::Store::get`].
    pub async fn get(&self, key: &ObjectKey) -> Result<Option<Bytes>> {
        self.operate(|inner| Ok(inner.objects.get(key).map(|object| object.bytes.clone()))).await
    }

    /// See [`super::Store::head`].
    pub async fn head(&self, key: &ObjectKey) -> Result<Option<Meta>> {
        self.operate(|inner| Ok(inner.objects.get(key).map(|object| meta(key, object)))).await
    }

    /// See [`super::Store::list`].
    pub async fn list(&self, under: &str) -> Result<Vec<Meta>> {
        self.operate(|inner| Ok(starting_with(&inner.objects, under).map(|(key, object)| meta(key, object)).collect()))
            .await
    }

    /// See [`super::Store::delete`].
    pub async fn delete(&self, key: &ObjectKey) -> Result<Deleted> {
        self.operate(|inner| {
            inner.remove(key);
            Ok(Deleted::Gone)
        })
        .await
    }

    /// See [`super::Store::read`].
    pub async fn read(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<ByteStream> {
        let whole = self.get(key).await?.ok_or_else(|| super::missing(key, "memory"))?;
        let range = range.unwrap_or(0..whole.len() as u64);
        let (start, end) =
            (usize::try_from(range.start).unwrap_or(0), usize::try_from(range.end).unwrap_or(usize::MAX));
        let part = whole.get(start..end).map(Bytes::copy_from_slice);
        let part = part.ok_or_else(|| super::too_short(key, range.end, whole.len() as u64))?;
        let (writer, stream) = stream::channel(Some(part.len() as u64));
        // Both items fit in the channel, so sending does not wait for a reader.
        let sent = writer.send(part).await.is_ok() && writer.finish().await.is_ok();
        assert!(sent, "the receiving half is still alive");
        Ok(stream)
    }
}

/// The objects whose key begins with `start`.
pub fn starting_with<'o>(objects: &'o Objects, start: &str) -> impl Iterator<Item = (&'o ObjectKey, &'o StoredObject)> {
    objects
        .range::<str, _>((Bound::Included(start), Bound::Unbounded))
        .take_while(move |(key, _)| key.as_str().starts_with(start))
}

fn meta(key: &ObjectKey, StoredObject { bytes, written }: &StoredObject) -> Meta {
    Meta { key: key.clone(), bytes: bytes.len() as u64, modified: *written }
}
