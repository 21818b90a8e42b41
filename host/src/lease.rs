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

use crate::config::Environment;
use crate::error::{Class, Error, Result};
use crate::history::key;
use crate::kube::lease::ClusterLease;
use crate::snapshot::SnapshotId;
use crate::store::host::Fencing;
use crate::store::{Meta, ObjectKey, Store};
use crate::stream::Guard;
use bytes::Bytes;
use futures::FutureExt;
use jiff::{SignedDuration, Timestamp};
use rustix::process::Pid;
use rustix::time::ClockId;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Version of a mark's format. Version 1 named a run and no keys.
const FORMAT_VERSION: u32 = 2;

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

/// Longest wait before another try.
const WAIT_MS_MAX: u64 = 1_500;

/// Whoever a mark belongs to. Persisted, but only for as long as a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    format_version: u32,
    /// Drawn by its run: a mark that was swept and written again by somebody else is not this one.
    #[serde(default)]
    nonce: String,
    /// The run, as soon as it has an id.
    #[serde(default)]
    pub run: Option<SnapshotId>,
    /// What the run is about to make, or has made.
    #[serde(default)]
    pub keys: Vec<ObjectKey>,
    host: String,
    process: Process,
}

/// A process, told apart from any other of any machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Process {
    boot: String,
    namespace: String,
    pid: u32,
    started: String,
}

/// Reads a mark; none where it cannot be read.
#[must_use]
pub fn read_mark(bytes: &[u8]) -> Option<Mark> {
    serde_json::from_slice::<Mark>(bytes).ok().filter(|mark| mark.format_version <= FORMAT_VERSION)
}

impl Mark {
    /// Whether it says what its run makes. One of version 1 does not.
    #[must_use]
    pub const fn names_keys(&self) -> bool {
        self.format_version >= 2
    }
}

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
    clock: Monotonic,
    /// When the last renewal that succeeded began, in milliseconds of the clock.
    at_millis: AtomicU64,
    lost: AtomicBool,
}

/// A clock that never goes back, in milliseconds.
pub type Monotonic = fn() -> u64;

/// Milliseconds since the machine was started, those included that it slept.
#[must_use]
pub fn since_boot() -> u64 {
    let now = rustix::time::clock_gettime(ClockId::Boottime);
    let millis = now.tv_sec.saturating_mul(1_000).saturating_add(now.tv_nsec / 1_000_000);
    u64::try_from(millis).unwrap_or(0)
}

/// A run that ended without taking its mark back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Abandoned {
    /// What it said that it would make.
    pub mark: Mark,
    key: ObjectKey,
}

impl Fence {
    fn new(clock: Monotonic) -> Self {
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
        clock: Monotonic,
    ) -> Result<(Self, Vec<Abandoned>)> {
        let nonce = format!("{:032x}", rand::random::<u128>());
        let (host, process) = (hostname(), Process::own());
        let mark =
            Mark { format_version: FORMAT_VERSION, nonce: nonce.clone(), run: None, keys: Vec::new(), host, process };
        let body = Bytes::from(crate::snapshot::to_bytes(&mark)?);
        let own = key(&format!("{environment}/leases/{nonce}.json"))?;
        for attempt in 1..=TRIES_MAX {
            let fence = Fence::new(clock);
            store.put(&own, body.clone()).await?;
            let mut rivals = match rivals(store, environment, &own).await {
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
                return Err(held(environment, &rivals.live));
            }
            tokio::time::sleep(Duration::from_millis(rand::random_range(100..WAIT_MS_MAX))).await;
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
        let guard = Guard::new(move || if fence.holds() { Ok(()) } else { Err(Fence::lost()) });
        Fencing { announce: Arc::new(announce), guard }
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

    /// Ends the run and leaves the mark, which tells the next run what to clear.
    pub async fn leave(mut self) {
        self.renewal.abort();
        if let Some(other) = self.in_cluster.take() {
            other.release().await;
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
            self.store.put(&self.key, Bytes::from(crate::snapshot::to_bytes(&changed)?)).await
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
    format!("{}-{}-{:08x}", hostname(), std::process::id(), rand::random::<u32>())
}

struct Rival {
    mark: Option<Mark>,
    age: SignedDuration,
}

struct Rivals {
    /// When the own mark was written, by the store's time.
    now: Timestamp,
    live: Vec<Rival>,
    abandoned: Vec<Abandoned>,
    /// Marks that are younger than the own one by more than a lease's life: the store's clock was set back. Nobody can say from
    /// their age whether they are renewed.
    from_the_future: Vec<(ObjectKey, Timestamp, Option<Mark>)>,
}

impl Rivals {
    /// Says of the marks from the future whether somebody renewed them meanwhile, which gives them the present time.
    async fn watched(&mut self, store: &Store, environment: &Environment) -> Result<()> {
        let marks = store.list(&format!("{environment}/leases/")).await?;
        for (key, modified, mark) in std::mem::take(&mut self.from_the_future) {
            match (marks.iter().find(|meta| meta.key == key), mark) {
                (Some(meta), Some(mark)) if meta.modified == modified => self.abandoned.push(Abandoned { mark, key }),
                (Some(_), mark) => self.live.push(Rival { mark, age: SignedDuration::MAX }),
                (None, _) => {}
            }
        }
        Ok(())
    }
}

/// The other marks of an environment, seen from the own one.
async fn rivals(store: &Store, environment: &Environment, own: &ObjectKey) -> Result<Rivals> {
    let marks = store.list(&format!("{environment}/leases/")).await?;
    let Some(now) = marks.iter().find(|meta| &meta.key == own).map(|meta| meta.modified) else {
        return Err(Error::unavailable("the store does not list what was just written to it")
            .hint("the lease needs a store that lists its own writes at once, as S3 does since 2020"));
    };
    let mut rivals = Rivals { now, live: Vec::new(), abandoned: Vec::new(), from_the_future: Vec::new() };
    for Meta { key, modified, .. } in marks.into_iter().filter(|meta| &meta.key != own) {
        let Some(bytes) = store.get(&key).await? else { continue };
        let mark = read_mark(&bytes);
        let age = now.duration_since(modified);
        let dead = age > LIFE || mark.as_ref().is_some_and(|mark| mark.process.is_dead());
        match (dead, mark) {
            (true, Some(mark)) => rivals.abandoned.push(Abandoned { mark, key }),
            // Nobody can say which run it was, so nothing is cleared for it; it stays until somebody looks.
            (true, None) => tracing::warn!("{key} is not a readable mark of a lease"),
            (false, mark) if age < -LIFE => rivals.from_the_future.push((key, modified, mark)),
            (false, mark) => rivals.live.push(Rival { mark, age }),
        }
    }
    Ok(rivals)
}

fn held(environment: &Environment, live: &[Rival]) -> Error {
    let who = live.iter().find_map(|rival| {
        let mark = rival.mark.as_ref()?;
        let run = mark.run.map(|run| format!("run {run}, ")).unwrap_or_default();
        Some(format!(" ({run}process {} on {})", mark.process.pid, crate::capability::printable(&mark.host)))
    });
    Error::new(Class::Held, format!("another run holds the lease of {environment}{}", who.unwrap_or_default()))
        .hint(format!("wait for it to end; if it died, its lease expires {} s after its last renewal", LIFE.as_secs()))
}

fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

impl Process {
    fn own() -> Self {
        let pid = std::process::id();
        Self { boot: boot(), namespace: namespace(), pid, started: started(pid).unwrap_or_default() }
    }

    /// Whether the process is known to be gone: it ran in this very process namespace of this boot, and no process
    /// of its number and start is there. The kernel is asked by a signal that does nothing, because `/proc` may hide the
    /// processes of other users; a `/proc` that cannot be read says nothing.
    fn is_dead(&self) -> bool {
        let here =
            !self.boot.is_empty() && self.boot == boot() && !self.namespace.is_empty() && self.namespace == namespace();
        if !here {
            return false;
        }
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return false };
        match rustix::process::test_kill_process(pid) {
            Err(rustix::io::Errno::SRCH) => true,
            // It is another user's.
            Err(_) => false,
            Ok(()) => match state(self.pid) {
                State::Running(started) => !self.started.is_empty() && started != self.started,
                State::Ended => true,
                State::Hidden => false,
            },
        }
    }
}

/// What `/proc` says of a process that there is.
enum State {
    /// When it started, in the kernel's ticks since boot.
    Running(String),
    /// It ended and was not waited for: it does nothing any more.
    Ended,
    /// Nothing.
    Hidden,
}

fn boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

fn namespace() -> String {
    std::fs::read_link("/proc/self/ns/pid").map(|link| link.display().to_string()).unwrap_or_default()
}

/// The state is the first field of `/proc/PID/stat` after the name, which stands in parentheses and may hold anything; the
/// start is the 20th.
fn state(pid: u32) -> State {
    let fields = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
        Some((fields.next()?.to_owned(), fields.nth(18)?.to_owned()))
    };
    match fields() {
        Some((state, _)) if state == "Z" || state == "X" => State::Ended,
        Some((_, started)) => State::Running(started),
        None => State::Hidden,
    }
}

fn started(pid: u32) -> Option<String> {
    match state(pid) {
        State::Running(started) => Some(started),
        State::Ended | State::Hidden => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_process_lives_and_a_process_that_ended_is_dead() {
        assert!(!Process::own().is_dead());
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process { pid: child.id(), started: started(child.id()).unwrap(), ..Process::own() };
        assert!(!process.is_dead());
        assert!(
            Process { started: "0".into(), ..process.clone() }.is_dead(),
            "the number was given to another process"
        );
        assert!(!Process { boot: "another machine".into(), ..process.clone() }.is_dead());
        child.kill().unwrap();
        assert!(process.clone().started != String::new());
        child.wait().unwrap();
        assert!(process.is_dead());
    }
}
