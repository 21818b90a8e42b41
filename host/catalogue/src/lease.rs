//! The lease: one run per environment at a time. It is kept in the store, so that it applies wherever runs are started.
//!
//! Each contender writes a mark under its own name and then lists the marks. A contender that sees no other live mark
//! holds the lease; all others remove their mark. This needs no conditional write, which several S3 servers accept and
//! ignore. The age of a mark is the difference of two times that the store reported, so no machine's clock has to be
//! trusted.
//!
//! A mark lists the objects that its run is about to make, before it makes them. A mark that outlives its run therefore
//! lists what the run left without a record. Nothing else is ever cleaned up for that run.
//!
//! A run that was paused for longer than the life of its lease may have been overtaken without noticing. So the lease
//! is also a fence: it holds only while its last renewal is younger than its life, by a clock that keeps running while
//! the machine sleeps.

mod mark;
mod rivals;

pub use mark::{LeaseMark, read_mark};

use crate::configured::Environment;
use crate::keys::key;
use base::error::{Class, Error, Result};
use base::id::SnapshotId;
use base::stream::Guard;
use bytes::Bytes;
use futures::FutureExt;
use jiff::{SignedDuration, Timestamp};
use kubernetes::lease::ClusterLease;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use store::Fencing;
use store::{ObjectKey, Store};

/// How long a mark lives without renewal. Long enough for a store that stalls, short enough for a retried job.
const LIFE: SignedDuration = SignedDuration::from_secs(120);

/// How often a mark is renewed. Three renewals may fail before it expires.
const RENEWAL: Duration = Duration::from_secs(30);

/// How long one renewal may take. It is two small requests; if it takes longer, repeating it is better.
const RENEWAL_TIME_MAX: Duration = Duration::from_secs(20);

/// How much of the lease's life must be left for a commit or a deletion, so that the request finishes before another
/// run can take the lease.
const MARGIN: Duration = Duration::from_secs(30);

/// Marks written this close together belong to runs that started together. They wait and try again instead of giving
/// up.
const TOGETHER: SignedDuration = SignedDuration::from_secs(5);

/// How long a mark from the future is watched. A live run renews it within this time.
const WATCH: Duration = Duration::from_secs(45);

/// How many times runs that started together try.
const TRIES_MAX: u32 = 4;

/// Shortest and longest wait before another attempt.
const WAIT_MS_MIN: u64 = 100;
const WAIT_MS_MAX: u64 = 1_500;

/// A held lease. Dropping it stops the renewal and leaves the mark to expire; [`Lease::release`] removes the mark.
#[derive(Debug)]
pub struct Lease {
    held: Arc<Held>,
    renewal: tokio::task::JoinHandle<()>,
    /// When the mark was written, by the store's time.
    store_time: Timestamp,
    /// The same moment by the fence's clock.
    taken_millis: u64,
    /// A lease in the cluster that is held, checked and released together with this one.
    in_cluster: Option<ClusterLease>,
}

#[derive(Debug)]
struct Held {
    store: Arc<Store>,
    key: ObjectKey,
    /// What the store should hold under the key. The lock is held while it is written.
    mark: tokio::sync::Mutex<LeaseMark>,
    nonce: String,
    fence: Fence,
}

/// Tells whether a lease holds, without a request to the store.
#[derive(Debug, Clone)]
pub struct Fence(Arc<Renewed>);

#[derive(Debug)]
struct Renewed {
    clock: fn() -> u64,
    /// When the last successful renewal began, in milliseconds of the clock.
    at_millis: AtomicU64,
    lost: AtomicBool,
}

/// What a lease needs from the machine. A simulation replaces these, so that a seed gives the same history every time.
#[derive(Debug, Clone, Copy)]
pub struct Machine {
    /// A clock that never goes back, in milliseconds.
    pub monotonic: fn() -> u64,
    /// Draws a random number that no other run draws.
    pub draw: fn() -> u128,
}

impl Machine {
    /// The machine that this process runs on.
    pub const OWN: Self = Self { monotonic: base::clock::since_boot, draw: rand::random::<u128> };
}

/// A run that ended without removing its mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Abandoned {
    /// The mark, which lists what the run was about to make.
    pub mark: LeaseMark,
    key: ObjectKey,
}

impl Fence {
    fn new(clock: fn() -> u64) -> Self {
        Self(Arc::new(Renewed { clock, at_millis: AtomicU64::new(clock()), lost: AtomicBool::new(false) }))
    }

    /// Whether the lease still holds and will hold for this much longer.
    fn holds_for(&self, margin: Duration) -> bool {
        let age = (self.0.clock)().saturating_sub(self.0.at_millis.load(Ordering::Acquire));
        let life = LIFE.unsigned_abs().saturating_sub(margin);
        !self.0.lost.load(Ordering::Acquire) && u128::from(age) < life.as_millis()
    }

    /// Whether the lease still holds.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.holds_for(Duration::ZERO)
    }

    /// Whether there is enough time to commit or delete something under the lease.
    #[must_use]
    pub fn allows_a_change(&self) -> bool {
        self.holds_for(MARGIN)
    }

    /// The error for a run that lost its lease.
    #[must_use]
    pub fn lost() -> Error {
        Error::unavailable("the lease was lost during the run")
            .hint("nothing was committed; run the command again when the store is reachable")
    }
}

impl Lease {
    /// Takes the lease, and returns the runs that were abandoned under it.
    ///
    /// # Errors
    /// [`Class::Held`] if another run holds it. Nothing was changed then.
    pub async fn take(
        store: &Arc<Store>,
        environment: &Environment,
        machine: Machine,
    ) -> Result<(Self, Vec<Abandoned>)> {
        let nonce = format!("{:032x}", (machine.draw)());
        let mark = LeaseMark::own(nonce.clone());
        let body = Bytes::from(crate::record::to_bytes(&mark)?);
        let own = key(&format!("{environment}/leases/{nonce}.json"))?;
        for attempt in 1..=TRIES_MAX {
            let fence = Fence::new(machine.monotonic);
            store.put(&own, body.clone()).await?;
            let mut rivals = match rivals::find(store, environment, &own).await {
                Ok(rivals) => rivals,
                Err(error) => {
                    drop(store.delete(&own).await);
                    return Err(error);
                }
            };
            if rivals.live.is_empty() && !rivals.from_the_future.is_empty() {
                tracing::info!("the mark of another run has a future time; waiting to see whether it is renewed");
                tokio::time::sleep(WATCH).await;
                rivals.recheck_future_marks(store, environment).await?;
            }
            if rivals.live.is_empty() && fence.allows_a_change() {
                let mark = tokio::sync::Mutex::new(mark);
                let held = Arc::new(Held { store: Arc::clone(store), key: own, mark, nonce, fence });
                return Ok((Self::hold(held, rivals.now), rivals.abandoned));
            }
            store.delete(&own).await?;
            let together = rivals.live.iter().all(|rival| rival.age < TOGETHER);
            if !together || attempt == TRIES_MAX {
                return Err(rivals::held_error(environment, &rivals.live));
            }
            let spread = u128::from(WAIT_MS_MAX - WAIT_MS_MIN);
            let wait = u64::try_from((machine.draw)() % spread).unwrap_or(0);
            tokio::time::sleep(Duration::from_millis(WAIT_MS_MIN + wait)).await;
        }
        Err(Error::new(Class::Held, format!("another run holds the lease of {environment}")))
    }

    fn hold(held: Arc<Held>, store_time: Timestamp) -> Self {
        let renewal = tokio::spawn(renew_periodically(Arc::clone(&held)));
        let taken_millis = held.fence.0.at_millis.load(Ordering::Acquire);
        Self { held, renewal, store_time, taken_millis, in_cluster: None }
    }

    /// Adds the lease in the cluster, if there is one. If that lease was refused, this one is released.
    pub async fn and(mut self, other: Result<Option<ClusterLease>>) -> Result<Self> {
        match other {
            Ok(other) => {
                self.in_cluster = other;
                Ok(self)
            }
            Err(error) => {
                self.release().await;
                Err(error)
            }
        }
    }

    /// The store's time when the lease was taken.
    pub const fn store_time(&self) -> Timestamp {
        self.store_time
    }

    /// The store's time now.
    pub fn store_now(&self) -> Timestamp {
        let passed = (self.held.fence.0.clock)().saturating_sub(self.taken_millis);
        let passed = SignedDuration::from_millis(i64::try_from(passed).unwrap_or(i64::MAX));
        self.store_time.checked_add(passed).unwrap_or(self.store_time)
    }

    /// A fence for code that cannot wait for the store.
    pub fn fence(&self) -> Fence {
        self.held.fence.clone()
    }

    /// Lists keys in the mark before their objects are made. Keys that are already listed cost no request.
    ///
    /// # Errors
    /// [`Class::Unavailable`] if the mark no longer belongs to this run or could not be written.
    pub async fn announce(&self, run: SnapshotId, keys: &[ObjectKey]) -> Result<()> {
        self.held.announce(run, keys).await
    }

    /// The calls that a capability makes around every object that it makes for a run.
    pub fn fencing(&self, run: SnapshotId) -> Fencing {
        let (held, fence) = (Arc::clone(&self.held), self.fence());
        let announce = move |key: ObjectKey| {
            let held = Arc::clone(&held);
            async move { held.announce(run, &[key]).await }.boxed()
        };
        let held = Arc::clone(&self.held);
        let withdraw = move |key: ObjectKey| {
            let held = Arc::clone(&held);
            async move { held.withdraw(&key).await }.boxed()
        };
        let guard = Guard::new(move || if fence.holds() { Ok(()) } else { Err(Fence::lost()) });
        Fencing { announce: Arc::new(announce), withdraw: Arc::new(withdraw), guard }
    }

    /// The keys that were announced so far.
    pub async fn announced(&self) -> Vec<ObjectKey> {
        self.held.mark.lock().await.keys.clone()
    }

    /// The run, once something was announced for it.
    pub async fn run(&self) -> Option<SnapshotId> {
        self.held.mark.lock().await.run
    }

    /// Checks that the lease still holds. Called before anything is committed or deleted.
    ///
    /// # Errors
    /// [`Class::Unavailable`] if the mark no longer belongs to this run, or if the store was unreachable for so long
    /// that another run may have taken over.
    pub async fn check(&self) -> Result<()> {
        self.in_cluster.as_ref().map_or(Ok(()), ClusterLease::check)?;
        if !self.held.fence.allows_a_change() {
            // There may still be time to renew it, unless another run has taken it.
            self.held.renew_uncancelled(|_| {}).await?;
        }
        let exists = self.held.mark_exists().await?;
        if exists && self.held.fence.allows_a_change() { Ok(()) } else { Err(Fence::lost()) }
    }

    /// Releases the lease. If the store does not respond now, the lease expires by itself.
    pub async fn release(mut self) {
        self.renewal.abort();
        if let Some(other) = self.in_cluster.take() {
            other.release().await;
        }
        // A renewal in progress would write the mark again.
        let _mark = self.held.mark.lock().await;
        if let Err(error) = self.held.store.delete(&self.held.key).await {
            tracing::warn!("could not release the lease; it expires in {} s: {error}", LIFE.as_secs());
        }
    }

    /// Ends the run and leaves the mark, which tells the next run what to clean up. A run that overtook this one has
    /// removed the mark, but may have missed a request that was in progress then, so the mark is written again.
    pub async fn leave(mut self) {
        self.renewal.abort();
        if let Some(other) = self.in_cluster.take() {
            other.release().await;
        }
        let mark = self.held.mark.lock().await;
        let exists = self.held.fence.holds() && self.held.mark_exists().await.unwrap_or(true);
        if exists || mark.keys.is_empty() {
            return;
        }
        let Ok(body) = crate::record::to_bytes(&*mark) else { return };
        let written = self.held.store.put(&self.held.key, Bytes::from(body));
        if !matches!(tokio::time::timeout(RENEWAL_TIME_MAX, written).await, Ok(Ok(()))) {
            tracing::warn!("could not write the lease mark that lists what this run left behind");
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}

impl Held {
    /// Whether the store still holds the mark that this run wrote.
    async fn mark_exists(&self) -> Result<bool> {
        let bytes = self.store.get(&self.key).await?;
        Ok(bytes.and_then(|bytes| read_mark(&bytes)).is_some_and(|mark| mark.nonce == self.nonce))
    }

    async fn announce(self: &Arc<Self>, run: SnapshotId, keys: &[ObjectKey]) -> Result<()> {
        let known = self.mark.lock().await.keys.clone();
        let keys: Vec<ObjectKey> = keys.iter().filter(|key| !known.contains(key)).cloned().collect();
        if keys.is_empty() {
            return Ok(());
        }
        self.renew_uncancelled(move |mark| {
            mark.run = Some(run);
            mark.keys.extend(keys);
        })
        .await
    }

    /// Removes a key from the mark. If the store cannot be reached now, the next renewal removes it.
    async fn withdraw(self: &Arc<Self>, key: &ObjectKey) {
        self.mark.lock().await.keys.retain(|known| known != key);
        if let Err(error) = self.renew_uncancelled(|_| {}).await {
            tracing::warn!("the lease mark still lists {key}: {error}");
        }
    }

    /// [`Held::renew`] that continues even if its caller is cancelled: a request that was sent may still be carried
    /// out, and nothing else may write the mark until it is over.
    async fn renew_uncancelled(self: &Arc<Self>, change: impl FnOnce(&mut LeaseMark) + Send + 'static) -> Result<()> {
        let held = Arc::clone(self);
        let renewed = tokio::spawn(async move { held.renew(change).await }).await;
        renewed.map_err(|error| Error::unexpected(format!("renewing the lease: {error}")))?
    }

    /// Writes the changed mark if the mark still exists. A missing mark was swept, because another run considered this
    /// one dead.
    async fn renew(&self, change: impl FnOnce(&mut LeaseMark)) -> Result<()> {
        let mut mark = self.mark.lock().await;
        let mut changed = mark.clone();
        change(&mut changed);
        // The age counts from before the request, because it is unknown when the store carries it out.
        let began = (self.fence.0.clock)();
        let renewal = async {
            if !self.mark_exists().await? {
                self.fence.0.lost.store(true, Ordering::Release);
                return Err(Fence::lost());
            }
            self.store.put(&self.key, Bytes::from(crate::record::to_bytes(&changed)?)).await
        };
        let late = |_| Err(Error::unavailable("the store did not renew the lease in time"));
        tokio::time::timeout(RENEWAL_TIME_MAX, renewal).await.unwrap_or_else(late)?;
        if !self.fence.holds() {
            // The run was paused for longer than the lease lives, so the mark just written may exist beside that of
            // another run.
            self.fence.0.lost.store(true, Ordering::Release);
            return Err(Fence::lost());
        }
        *mark = changed;
        self.fence.0.at_millis.fetch_max(began, Ordering::AcqRel);
        Ok(())
    }
}

async fn renew_periodically(held: Arc<Held>) {
    loop {
        tokio::time::sleep(RENEWAL).await;
        if let Err(error) = held.renew_uncancelled(|_| {}).await {
            tracing::warn!("the lease could not be renewed: {error}");
        }
        if held.fence.0.lost.load(Ordering::Acquire) {
            return;
        }
    }
}

impl Abandoned {
    /// Removes the mark of the abandoned run, once what it left is cleaned up.
    pub async fn forget(self, store: &Store) -> Result<()> {
        store.delete(&self.key).await.map(|_| ())
    }
}

/// Identifies this process to others that want a lease in the cluster.
pub fn holder() -> String {
    format!("{}-{}-{:08x}", mark::hostname(), std::process::id(), rand::random::<u32>())
}
