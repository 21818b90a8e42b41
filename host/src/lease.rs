//! The lease: one run per environment at a time, in the store itself, so that it holds wherever runs come from.
//!
//! Every contender writes a mark under a name of its own and then lists the marks. Whoever sees no other live mark
//! holds the lease; everybody else takes the own mark back. That needs no conditional write, which several S3
//! servers accept and ignore. A mark's age is the difference of two times that the store gave, so no clock of a
//! machine is trusted.
//!
//! A mark names its run, in its key too. A mark that outlives its run therefore says which objects lie about without
//! a record, and nobody takes them for a snapshot.

use crate::config::Environment;
use crate::error::{Class, Error, Result};
use crate::history::key;
use crate::kube::lease::ClusterLease;
use crate::snapshot::SnapshotId;
use crate::store::{Meta, ObjectKey, Store};
use bytes::Bytes;
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long a mark lives that nobody renews. Long enough for a store that stalls, short enough for a retried job.
const LIFE: SignedDuration = SignedDuration::from_secs(120);

/// How often a mark is renewed: three may fail before it expires.
const RENEWAL: Duration = Duration::from_secs(30);

/// Marks written this close together belong to runs that started together: wait and try again instead of giving up.
const TOGETHER: SignedDuration = SignedDuration::from_secs(5);

/// How often runs that started together try again.
const TRIES_MAX: u32 = 4;

/// Longest wait before another try.
const WAIT_MS_MAX: u64 = 1_500;

/// Whoever a mark belongs to. Persisted, but only for as long as a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mark {
    format_version: u32,
    run: SnapshotId,
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

/// A held lease. Dropping it stops the renewal and leaves the mark to expire; [`Lease::release`] takes it back.
#[derive(Debug)]
pub struct Lease {
    store: Arc<Store>,
    key: ObjectKey,
    renewal: tokio::task::JoinHandle<()>,
    lost: Arc<AtomicBool>,
    /// Held, checked and given back with this one.
    in_cluster: Option<ClusterLease>,
}

/// A run that ended without taking its mark back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Abandoned {
    /// The run.
    pub run: SnapshotId,
    key: ObjectKey,
}

impl Lease {
    /// Takes the lease, and names the runs that were abandoned under it.
    ///
    /// # Errors
    /// [`Class::Held`] when another run holds it; the store's own.
    pub async fn take(
        store: &Arc<Store>,
        environment: &Environment,
        run: SnapshotId,
    ) -> Result<(Self, Vec<Abandoned>)> {
        let mark =
            Mark { format_version: crate::snapshot::FORMAT_VERSION, run, host: hostname(), process: Process::own() };
        let body = Bytes::from(crate::snapshot::to_bytes(&mark)?);
        let own = key(&format!("{environment}/leases/{run}.{:016x}.json", rand::random::<u64>()))?;
        for attempt in 1..=TRIES_MAX {
            store.put(&own, body.clone()).await?;
            let rivals = match rivals(store, environment, &own).await {
                Ok(rivals) => rivals,
                Err(error) => {
                    drop(store.delete(&own).await);
                    return Err(error);
                }
            };
            if rivals.live.is_empty() {
                return Ok((Self::hold(store, own, body), rivals.abandoned));
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

    fn hold(store: &Arc<Store>, key: ObjectKey, body: Bytes) -> Self {
        let lost = Arc::new(AtomicBool::new(false));
        let renewal = tokio::spawn(renew(store.clone(), key.clone(), body, lost.clone()));
        Self { store: store.clone(), key, renewal, lost, in_cluster: None }
    }

    /// Holds a lease in a cluster besides, where there is one. Where that is refused, this one is given back.
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

    /// Whether the lease still holds; asked before anything is committed or deleted.
    ///
    /// # Errors
    /// [`Class::Unavailable`] when the store could not be reached for so long that another run may have taken over.
    pub async fn check(&self) -> Result<()> {
        self.in_cluster.as_ref().map_or(Ok(()), ClusterLease::check)?;
        let gone = self.lost.load(Ordering::Relaxed) || self.store.head(&self.key).await?.is_none();
        if gone {
            return Err(Error::unavailable("the lease was lost while the run went on")
                .hint("nothing was committed; run it again when the store answers"));
        }
        Ok(())
    }

    /// Gives the lease back. A store that does not answer now lets it expire by itself.
    pub async fn release(mut self) {
        self.renewal.abort();
        if let Some(other) = self.in_cluster.take() {
            other.release().await;
        }
        if let Err(error) = self.store.delete(&self.key).await {
            tracing::warn!("the lease could not be given back and expires in {} s: {error}", LIFE.as_secs());
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.renewal.abort();
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
    live: Vec<Rival>,
    abandoned: Vec<Abandoned>,
}

/// The other marks of an environment, seen from the own one.
async fn rivals(store: &Store, environment: &Environment, own: &ObjectKey) -> Result<Rivals> {
    let marks = store.list(&format!("{environment}/leases/")).await?;
    let Some(mine) = marks.iter().find(|meta| &meta.key == own).map(|meta| meta.modified) else {
        return Err(Error::unavailable("the store does not list what was just written to it")
            .hint("the lease needs a store that lists its own writes at once, as S3 does since 2020"));
    };
    let mut rivals = Rivals { live: Vec::new(), abandoned: Vec::new() };
    for Meta { key, modified, .. } in marks.into_iter().filter(|meta| &meta.key != own) {
        let Some(bytes) = store.get(&key).await? else { continue };
        let mark: Option<Mark> = serde_json::from_slice(&bytes).ok();
        let age = mine.duration_since(modified);
        let dead = age > LIFE || mark.as_ref().is_some_and(|mark| mark.process.is_dead());
        match (dead, mark) {
            (true, Some(mark)) => rivals.abandoned.push(Abandoned { run: mark.run, key }),
            // Nobody can say which run it was, so nothing is cleared for it; it stays until somebody looks.
            (true, None) => tracing::warn!("{key} is no mark of a lease"),
            (false, mark) => rivals.live.push(Rival { mark, age }),
        }
    }
    Ok(rivals)
}

async fn renew(store: Arc<Store>, key: ObjectKey, body: Bytes, lost: Arc<AtomicBool>) {
    let mut failures = 0_i64;
    loop {
        tokio::time::sleep(RENEWAL).await;
        match store.put(&key, body.clone()).await {
            Ok(()) => failures = 0,
            Err(error) => {
                failures += 1;
                tracing::warn!("the lease could not be renewed: {error}");
                let silent =
                    SignedDuration::try_from(RENEWAL).unwrap_or(LIFE) * i32::try_from(failures + 1).unwrap_or(i32::MAX);
                if silent >= LIFE {
                    lost.store(true, Ordering::Relaxed);
                    return;
                }
            }
        }
    }
}

fn held(environment: &Environment, live: &[Rival]) -> Error {
    let who = live.iter().find_map(|rival| {
        let mark = rival.mark.as_ref()?;
        Some(format!(
            " (run {}, process {} on {})",
            mark.run,
            mark.process.pid,
            crate::capability::printable(&mark.host)
        ))
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
    /// of its number and start is there.
    fn is_dead(&self) -> bool {
        let here =
            !self.boot.is_empty() && self.boot == boot() && !self.namespace.is_empty() && self.namespace == namespace();
        here && started(self.pid).is_none_or(|started| started != self.started)
    }
}

fn boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

fn namespace() -> String {
    std::fs::read_link("/proc/self/ns/pid").map(|link| link.display().to_string()).unwrap_or_default()
}

/// When a process started, in the kernel's ticks since boot: the 22nd field of `/proc/PID/stat`, the 20th after the
/// name, which stands in parentheses and may hold anything.
fn started(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    // A process that ended and was not waited for does nothing any more.
    if state == "Z" { None } else { fields.nth(18).map(str::to_owned) }
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
