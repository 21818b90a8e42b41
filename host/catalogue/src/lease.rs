//! The lease: one run per environment at a time, in the store itself, so that it holds wherever runs come from.
//!
//! Every contender writes a mark under a name of its own and then lists the marks. Whoever sees no other live mark
//! holds the lease; everybody else takes the own mark back. That needs no conditional write, which several S3
//! servers accept and ignore. A mark's age is the difference of two times that the store gave, so no clock of a
//! machine is trusted.
//!
//! A mark says which objects its run is about to make, before it makes them. A mark that outlives its run therefore says
//! what lies about without a record, and nothing else is ever cleared for that run.
//!
//! A run that was paused for longer than the life of its lease may have been overtaken without noticing. So the lease is a
//! fence too: it holds only while its last renewal is younger than its life, by a clock that goes on while the machine sleeps.

mod mark;
mod rivals;

pub use mark::{Mark, read_mark};

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

/// How long a mark lives that nobody renews. Long enough for a store that stalls, short enough for a retried job.
const LIFE: SignedDuration = SignedDuration::from_secs(120);

/// How often a mark is renewed: three may fail before it expires.
const RENEWAL: Duration = Duration::from_secs(30);

/// How long one renewal may take. It is two small requests; one that takes longer is better repeated.
const RENEWAL_TIME_MAX: Duration = Duration::from_secs(20);

/// What must be left of the lease's life when something is committed or deleted, so that the request for it is over before
/// anybody can take the lease.
const MARGIN: Duration = Duration::from_secs(30);

/// Marks written this close together belong to runs that started together: wait and try again instead of giving up.
const TOGETHER: SignedDuration = SignedDuration::from_secs(5);

/// How long a mark from the future is watched: somebody who lives renews it in this time.
const WATCH: Duration = Duration::from_secs(45);

/// How often runs that started together try again.
const TRIES_MAX: u32 = 4;

/// Shortest and longest wait before another try.
const WAIT_MS_MIN: u64 = 100;
const WAIT_MS_MAX: u64 = 1_500;

/// A held lease. Dropping it stops the renewal and leaves the mark to expire; [`Lease::release`] takes it back.
#[derive(Debug)]
pub struct Lease {
    held: Arc<Held>,
    renewal: tokio::task::JoinHandle<()>,
    /// When the mark was written, by the store's time.
    store_time: Timestamp,
    /// The same moment by the fence's clock.
    taken_millis: u64,
    /// Held, checked and given back with this one.
    in_cluster: Option<ClusterLease>,
}

#[derive(Debug)]
struct Held {
    store: Arc<Store>,
    key: ObjectKey,
    /// What the store is to hold under the key. Whoever writes it holds the lock.
    mark: tokio::sync::Mutex<Mark>,
    nonce: String,
    fence: Fence,
}

/// Whether a lease holds, without asking the store.
#[derive(Debug, Clone)]
pub struct Fence(Arc<Renewed>);

#[derive(Debug)]
struct Renewed {
    clock: fn() -> u64,
    /// When the last renewal that succeeded began, in milliseconds of the clock.
    at_millis: AtomicU64,
    lost: AtomicBool,
}

/// What a lease takes from the machine. A simulation has others, so that a seed gives the same history every time.
#[derive(Debug, Clone, Copy)]
pub struct Machine {
    /// A clock that never goes back, in milliseconds.
    pub monotonic: fn() -> u64,
    /// A number that nobody else draws.
    pub draw: fn() -> u128,
}

impl Machine {
    /// The one that this process runs on.
    pub const OWN: Self = Self { monotonic: base::clock::since_boot, draw: rand::random::<u128> };
}

/// A run that ended without taking its mark back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Abandoned {
    /// What it said that it would make.
    pub mark: Mark,
    key: ObjectKey,
}

impl Fence {
    fn new(clock: fn() -> u64) -> Self {
        Self(Arc::new(Renewed { clock, at_millis: AtomicU64::new(clock()), lost: AtomicBool::new(false) }))
    }

    /// Whether the lease still holds, and for so much longer.
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

    /// Whether there is time to commit or to delete something under it.
    #[must_use]
    pub fn allows_a_change(&self) -> bool {
        self.holds_for(MARGIN)
    }

    /// The failure of whoever would go on without it.
    #[must_use]
    pub fn lost() -> Error {
        Error::unavailable("the lease was lost while the run went on")
            .hint("nothing was committed; run it again when the store answers")
    }
}

impl Lease {
    /// Takes the lease, and names the runs that were abandoned under it.
    ///
    /// # Errors
    /// [`Class::Held`] when another run holds it: nothing was changed then. The store's.
    pub async fn take(
        store: &Arc<Store>,
        environment: &Environment,
        machine: Machine,
    ) -> Result<(Self, Vec<Abandoned>)> {
        let nonce = format!("{:032x}", (machine.draw)());
        let mark = Mark::own(nonce.clone());
        let body = Bytes::from(crate::record::to_bytes(&mark)?);
        let own = key(&format!("{environment}/leases/{nonce}.json"))?;
        for attempt in 1..=TRIES_MAX {
            let fence = Fence::new(machine.monotonic);
            store.put(&own, body.clone()).await?;
            let mut rivals = match rivals::rivals(store, environment, &own).await {
                Ok(rivals) => rivals,
                Err(error) => {
                    drop(store.delete(&own).await);
                    return Err(error);
                }
            };
            if rivals.live.is_empty() && !rivals.from_the_future.is_empty() {
                tracing::info!("a mark of another run is from the future; waiting whether it is renewed");
                tokio::time::sleep(WATCH).await;
                rivals.watched(store, environment).await?;
            }
            if rivals.live.is_empty() && fence.allows_a_change() {
                let mark = tokio::sync::Mutex::new(mark);
                let held = Arc::new(Held { store: Arc::clone(store), key: own, mark, nonce, fence });
                return Ok((Self::hold(held, rivals.now), rivals.abandoned));
            }
            store.delete(&own).await?;
            let together = rivals.live.iter().all(|rival| rival.age < TOGETHER);
            if !together || attempt == TRIES_MAX {
                return Err(rivals::held(environment, &rivals.live));
            }
            let spread = u128::from(WAIT_MS_MAX - WAIT_MS_MIN);
            let wait = u64::try_from((machine.draw)() % spread).unwrap_or(0);
            tokio::time::sleep(Duration::from_millis(WAIT_MS_MIN + wait)).await;
        }
        Err(Error::new(Class::Held, format!("another run holds the lease of {environment}")))
    }

    fn hold(held: Arc<Held>, store_time: Timestamp) -> Self {
        let renewal = tokio::spawn(renew_on_and_on(Arc::clone(&held)));
        let taken_millis = held.fence.0.at_millis.load(Ordering::Acquire);
        Self { held, renewal, store_time, taken_millis, in_cluster: None }
    }

    /// Holds a lease in a cluster too, where there is one. Where that is refused, this one is given back.
    ///
    /// # Errors
    /// Those of taking the other.
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

    /// The time by the store's clock when the lease was taken.
    #[must_use]
    pub const fn store_time(&self) -> Timestamp {
        self.store_time
    }

    /// The time by the store's clock now.
    #[must_use]
    pub fn store_now(&self) -> Timestamp {
        let passed = (self.held.fence.0.clock)().saturating_sub(self.taken_millis);
        let passed = SignedDuration::from_millis(i64::try_from(passed).unwrap_or(i64::MAX));
        self.store_time.checked_add(passed).unwrap_or(self.store_time)
    }

    /// Whether it holds, for whoever cannot wait for the store.
    #[must_use]
    pub fn fence(&self) -> Fence {
        self.held.fence.clone()
    }

    /// Says in the mark what is about to be made, before it is. What was said before costs no request.
    ///
    /// # Errors
    /// [`Class::Unavailable`] when the mark is not this run's any more or could not be written.
    pub async fn announce(&self, run: SnapshotId, keys: &[ObjectKey]) -> Result<()> {
        self.held.announce(run, keys).await
    }

    /// What a capability does around every object that it makes for a run.
    #[must_use]
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

    /// What was announced so far.
    pub async fn announced(&self) -> Vec<ObjectKey> {
        self.held.mark.lock().await.keys.clone()
    }

    /// The run, as soon as something was announced for it.
    pub async fn run(&self) -> Option<SnapshotId> {
        self.held.mark.lock().await.run
    }

    /// Whether the lease still holds; asked before anything is committed or deleted.
    ///
    /// # Errors
    /// [`Class::Unavailable`] when the mark is not this run's any more, or the store was out of reach for so long that
    /// another run may have taken over.
    pub async fn check(&self) -> Result<()> {
        self.in_cluster.as_ref().map_or(Ok(()), ClusterLease::check)?;
        if !self.held.fence.allows_a_change() {
            // There may be time to renew it, unless somebody else holds it by now.
            self.held.renew_to_the_end(|_| {}).await?;
        }
        let there = self.held.is_there().await?;
        if there && self.held.fence.allows_a_change() { Ok(()) } else { Err(Fence::lost()) }
    }

    /// Gives the lease back. A store that does not answer now lets it expire by itself.
    pub async fn release(mut self) {
        self.renewal.abort();
        if let Some(other) = self.in_cluster.take() {
            other.release().await;
        }
        // A renewal that is under way would put the mark back.
        let _mark = self.held.mark.lock().await;
        if let Err(error) = self.held.store.delete(&self.held.key).await {
            tracing::warn!("the lease could not be given back and expires in {} s: {error}", LIFE.as_secs());
        }
    }

    /// Ends the run and leaves the mark, which tells the next run what to clear. Whoever overtook this run has taken the mark away,
    /// and may not have seen a request that was under way then: so it is written again.
    pub async fn leave(mut self) {
        self.renewal.abort();
        if let Some(other) = self.in_cluster.take() {
            other.release().await;
        }
        let mark = self.held.mark.lock().await;
        let is_there = self.held.fence.holds() && self.held.is_there().await.unwrap_or(true);
        if is_there || mark.keys.is_empty() {
            return;
        }
        let Ok(body) = crate::record::to_bytes(&*mark) else { return };
        let written = self.held.store.put(&self.held.key, Bytes::from(body));
        if !matches!(tokio::time::timeout(RENEWAL_TIME_MAX, written).await, Ok(Ok(()))) {
            tracing::warn!("the mark that says what this run left could not be written");
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
    async fn is_there(&self) -> Result<bool> {
        let bytes = self.store.get(&self.key).await?;
        Ok(bytes.and_then(|bytes| read_mark(&bytes)).is_some_and(|mark| mark.nonce == self.nonce))
    }

    async fn announce(self: &Arc<Self>, run: SnapshotId, keys: &[ObjectKey]) -> Result<()> {
        let known = self.mark.lock().await.keys.clone();
        let keys: Vec<ObjectKey> = keys.iter().filter(|key| !known.contains(key)).cloned().collect();
        if keys.is_empty() {
            return Ok(());
        }
        self.renew_to_the_end(move |mark| {
            mark.run = Some(run);
            mark.keys.extend(keys);
        })
        .await
    }

    /// Takes back that a key is this run's. Where the store does not hear of it now, the next renewal says so.
    async fn withdraw(self: &Arc<Self>, key: &ObjectKey) {
        self.mark.lock().await.keys.retain(|known| known != key);
        if let Err(error) = self.renew_to_the_end(|_| {}).await {
            tracing::warn!("the lease's mark still names {key}: {error}");
        }
    }

    /// [`Held::renew`] that goes on when nobody waits for it any more: a request that was sent may be carried out, and until it
    /// is over nobody else may write the mark.
    async fn renew_to_the_end(self: &Arc<Self>, change: impl FnOnce(&mut Mark) + Send + 'static) -> Result<()> {
        let held = Arc::clone(self);
        let renewed = tokio::spawn(async move { held.renew(change).await }).await;
        renewed.map_err(|error| Error::unexpected(format!("renewing the lease: {error}")))?
    }

    /// Writes the mark again, changed, if it is still there. A mark that is gone was swept: somebody took this run for dead.
    async fn renew(&self, change: impl FnOnce(&mut Mark)) -> Result<()> {
        let mut mark = self.mark.lock().await;
        let mut changed = mark.clone();
        change(&mut changed);
        // The age counts from before the request, because nobody knows when the store carries it out.
        let began = (self.fence.0.clock)();
        let renewal = async {
            if !self.is_there().await? {
                self.fence.0.lost.store(true, Ordering::Release);
                return Err(Fence::lost());
            }
            self.store.put(&self.key, Bytes::from(crate::record::to_bytes(&changed)?)).await
        };
        let late = |_| Err(Error::unavailable("the store did not renew the lease in time"));
        tokio::time::timeout(RENEWAL_TIME_MAX, renewal).await.unwrap_or_else(late)?;
        if !self.fence.holds() {
            // It was paused for longer than the lease lives: the mark that it has just written may stand beside another run's.
            self.fence.0.lost.store(true, Ordering::Release);
            return Err(Fence::lost());
        }
        *mark = changed;
        self.fence.0.at_millis.fetch_max(began, Ordering::AcqRel);
        Ok(())
    }
}

async fn renew_on_and_on(held: Arc<Held>) {
    loop {
        tokio::time::sleep(RENEWAL).await;
        if let Err(error) = held.renew_to_the_end(|_| {}).await {
            tracing::warn!("the lease could not be renewed: {error}");
        }
        if held.fence.0.lost.load(Ordering::Acquire) {
            return;
        }
    }
}

impl Abandoned {
    /// Takes the mark of the abandoned run away, once what it left is cleared.
    ///
    /// # Errors
    /// The store's.
    pub async fn forget(self, store: &Store) -> Result<()> {
        store.delete(&self.key).await.map(|_| ())
    }
}

/// What names this process to whoever else wants a lease in a cluster.
#[must_use]
pub fn holder() -> String {
    format!("{}-{}-{:08x}", mark::hostname(), std::process::id(), rand::random::<u32>())
}
