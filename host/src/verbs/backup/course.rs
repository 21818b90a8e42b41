//! The course of a run, whatever it saves: lease, history, what killed runs left, the sources, the record, and the retention.
//!
//! One commit behind a fence. Before it a run may stop anywhere and leaves nothing; from it on the snapshot exists, and nothing
//! that it refers to is cleared by anybody.

use crate::report::Retention;
use crate::retention::{self, Hands, Propose, Rules, Wait};
use crate::session::Host;
use crate::sweep::{delete, sweep, undo};
use base::error::{Class, Error, Result};
use base::id::SnapshotId;
use bytes::Bytes;
use catalogue::configured::Configured;
use catalogue::configured::Environment;
use catalogue::environment;
use catalogue::guard;
use catalogue::history::{self, History};
use catalogue::lease::{Abandoned, Fence, Lease, Machine};
use catalogue::questions::{self, Asked};
use catalogue::record::{ClockDoubt, Outcome, Record};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use kubernetes::lease::ClusterLease;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use store::{Created, Deleted, ObjectKey, Store};
use tokio_util::sync::CancellationToken;

/// How long writing the record may take: less than what is left of the lease when it begins.
const COMMIT_TIME_MAX: Duration = Duration::from_secs(25);

/// What a run works on.
#[derive(Debug, Clone, Copy)]
pub struct Course<'a> {
    /// The store.
    pub store: &'a Arc<Store>,
    /// The environment.
    pub environment: &'a Environment,
    /// What is configured of it.
    pub sources: &'a Configured,
    /// Rules that no plugin overrides.
    pub guard: &'a guard::Config,
    /// The business time zone.
    pub time_zone: &'a TimeZone,
    /// The configured retention plugin with its settings.
    pub retention: &'a str,
    /// What a lease takes from the machine.
    pub machine: Machine,
    /// How far the machine's time was moved, for tests and simulations: the store's is moved with it.
    pub shift: SignedDuration,
}

/// The moment of a run, by the machine and by the store.
#[derive(Debug, Clone, Copy)]
pub struct When {
    /// The run's id, its time by the machine's clock.
    pub id: SnapshotId,
    /// The same moment by the store's.
    pub store_time: Timestamp,
    /// Why the machine's may be wrong.
    pub clock_doubt: Option<ClockDoubt>,
}

/// What saving the sources came to.
#[derive(Debug)]
pub struct Saved {
    /// The record, not written yet.
    pub record: Record,
    /// What failed, by source.
    pub failures: Vec<(String, Error)>,
}

/// Whoever saves the sources.
pub trait Save {
    /// Saves every source by itself. Each object is announced under the lease before it is made.
    ///
    /// # Errors
    /// When the lease is lost: then nothing of the run may be committed. A source that fails is no error here.
    fn save(&mut self, lease: &Lease, history: &History, when: When) -> impl Future<Output = Result<Saved>>;
}

/// A run that committed its snapshot.
#[derive(Debug)]
pub struct Done {
    /// The record.
    pub record: Record,
    /// What failed, by source.
    pub failures: Vec<(String, Error)>,
    /// What became of the retention.
    pub retention: Retention,
    /// What the store held when the retention began.
    pub history: History,
}

/// Everything that a run has before it commits.
struct Prepared {
    record: Record,
    history: History,
    failures: Vec<(String, Error)>,
}

/// What became of the record.
enum Committed {
    /// It is there.
    Yes,
    /// It is certainly not there, and why.
    No(Error),
    /// Nobody can say, and why.
    Unknown(Error),
}

impl<'a> Course<'a> {
    /// Of one host.
    #[must_use]
    pub fn of(host: &'a Host) -> Self {
        Self {
            store: &host.store,
            environment: &host.environment,
            sources: &host.sources.configured,
            guard: &host.guard,
            time_zone: &host.time_zone,
            retention: &host.retention,
            machine: Machine::OWN,
            shift: host.clock.shift(),
        }
    }

    fn asked(&self) -> Asked<'a> {
        Asked {
            environment: self.environment.as_str(),
            configured: self.sources,
            guard: self.guard,
            time_zone: self.time_zone.iana_name().unwrap_or("UTC"),
            retention: self.retention,
        }
    }

    async fn load(&self, now: Timestamp, before: Option<&History>) -> Result<History> {
        history::load_after(self.store, self.environment, self.sources, now, before).await
    }
}

/// Runs. `interrupted` resolves when the run is to stop: before the commit at once, after it between two steps.
///
/// # Errors
/// Whatever kept the run from committing a snapshot. What goes wrong after that is in the result.
pub async fn run(
    course: &Course<'_>,
    saver: &mut impl Save,
    proposer: &impl Propose,
    cluster_lease: impl Future<Output = Result<Option<ClusterLease>>>,
    now: Timestamp,
    interrupted: impl Future<Output = ()>,
) -> Result<Done> {
    let (lease, abandoned) = Lease::take(course.store, course.environment, course.machine).await?;
    let lease = lease.and(cluster_lease.await).await?;
    let mut interrupted = pin!(interrupted);
    let prepared = tokio::select! {
        biased;
        () = interrupted.as_mut() => Err(Error::new(Class::Interrupted, "the run was interrupted before its snapshot was committed")
            .hint("nothing of it is listed; run it again")),
        prepared = prepare(course, saver, &lease, abandoned, now) => prepared,
    };
    let prepared = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return Err(undo(course.store, course.environment, lease, error).await),
    };
    match commit(course, &lease, &prepared.record).await {
        Committed::Yes => {}
        Committed::No(error) => return Err(undo(course.store, course.environment, lease, error).await),
        Committed::Unknown(error) => {
            lease.leave().await;
            return Err(error
                .hint("its record may be in the store: `list` shows whether it is; the next run clears what is not"));
        }
    }
    let done = {
        let stop = CancellationToken::new();
        let mut rest = pin!(finish(course, proposer, &lease, prepared, &stop));
        tokio::select! {
            biased;
            done = rest.as_mut() => done,
            () = interrupted.as_mut() => {
                stop.cancel();
                rest.await
            }
        }
    };
    let done = match done {
        Ok(done) => done,
        Err(error) => return Err(undo(course.store, course.environment, lease, error).await),
    };
    // What was announced and is not in the record was given up, perhaps by a request whose answer got lost.
    course.store.settle().await;
    let announced = lease.announced().await;
    let given_up = announced.iter().filter(|key| !names(&done.record, key) && !done.history.refers_to(key));
    if delete(course.store, given_up).await {
        lease.release().await;
    } else {
        lease.leave().await;
    }
    Ok(done)
}

/// Whether a record names an object, an archive or its index.
fn names(record: &Record, key: &ObjectKey) -> bool {
    let indexes = record.sources.values().filter_map(|source| source.archive.as_ref()?.index.as_ref());
    let objects = record.sources.values().filter_map(|source| source.object.as_ref());
    objects.chain(indexes).any(|object| object.key == *key)
}

/// Everything between taking the lease and the commit.
async fn prepare(
    course: &Course<'_>,
    saver: &mut impl Save,
    lease: &Lease,
    abandoned: Vec<Abandoned>,
    now: Timestamp,
) -> Result<Prepared> {
    let history = course.load(now, None).await?;
    founded(course, &history)?;
    sweep(course.store, course.environment, lease, abandoned, &history).await?;
    let store_time = lease.store_time().checked_add(course.shift).unwrap_or(lease.store_time());
    let clock_doubt = questions::clock_doubt(now, store_time, &history);
    let when = When { id: history.free_id(now), store_time, clock_doubt };
    let Saved { record, failures } = saver.save(lease, &history, when).await?;
    Ok(Prepared { record, history, failures })
}

/// Refuses a store that holds nothing of the environment: a mistyped bucket or a disk that is not mounted must not be
/// founded anew.
fn founded(course: &Course<'_>, history: &History) -> Result<()> {
    let unknown = history.environment.is_none() && history.environment_damage.is_none();
    if unknown && !history.snapshots.iter().any(|snapshot| !snapshot.adopted) {
        let (environment, store) = (course.environment, course.store.describe());
        return Err(Error::config(format!("the store {store} does not have the environment {environment}"))
            .hint(format!(
                "if it is new, run `dolibarr-backup init --env {environment}` first; if it is not, the url is wrong or the disk is not mounted"
            )));
    }
    Ok(())
}

/// Writes the record under the lease. From here on the snapshot exists. An answer that got lost is asked for again.
async fn commit(course: &Course<'_>, lease: &Lease, record: &Record) -> Committed {
    let body = match record.to_bytes() {
        Ok(body) => Bytes::from(body),
        Err(error) => return Committed::No(error),
    };
    let key = match catalogue::keys::record_key(course.environment, record.id) {
        Ok(key) => key,
        Err(error) => return Committed::No(error),
    };
    if let Err(error) = lease.check().await {
        return Committed::No(error);
    }
    let written = tokio::time::timeout(COMMIT_TIME_MAX, course.store.create(&key, body.clone())).await;
    let failure = match written {
        Ok(Ok(Created::Created)) => return Committed::Yes,
        Ok(Ok(Created::Exists)) => Error::unexpected(format!("a record of snapshot {} exists already", record.id)),
        Ok(Err(error)) => error,
        Err(_) => Error::unavailable("the store did not answer when the record was written"),
    };
    match course.store.get(&key).await {
        Ok(Some(there)) if there == body => Committed::Yes,
        // A request that is still under way may write it yet.
        Ok(None) if failure.class() != Class::Unavailable => Committed::No(failure),
        Ok(_) | Err(_) => Committed::Unknown(failure),
    }
}

/// What comes after the commit: the marks for tools that read them, the look at what is really there, and the retention.
///
/// # Errors
/// The lease's, where the run was overtaken at the very moment of its commit, and took its record back.
async fn finish(
    course: &Course<'_>,
    proposer: &impl Propose,
    lease: &Lease,
    prepared: Prepared,
    stop: &CancellationToken,
) -> Result<Done> {
    let Prepared { record, history: before, failures } = prepared;
    let now = record.id.taken();
    for (name, source) in &record.sources {
        let Some(fingerprint) = source.fingerprint.clone().filter(|_| source.outcome == Outcome::Saved) else {
            continue;
        };
        if let Err(error) = mark(course, name, fingerprint).await {
            // A store with locked retention refuses to overwrite; nothing of ours reads the mark.
            tracing::debug!("the mark .fp-{name} was not written: {error}");
        }
    }
    let history = match course.load(now, Some(&before)).await {
        Ok(history) => history,
        Err(error) => return Ok(Done { record, failures, retention: Retention::Refused(error), history: before }),
    };
    if let Err(error) = read_back(&history, &record) {
        // It was paused between the look at its lease and the commit, for so long that another run cleared what it had made. No
        // request can be tied to a lease, so that shows only now.
        if !lease.fence().holds() && withdraw(course, &record).await {
            return Err(Fence::lost());
        }
        return Ok(Done { record, failures, retention: Retention::Refused(error), history: before });
    }
    if let Err(error) = take_rules(course, lease, &history, record.id).await {
        tracing::warn!("what the configuration strengthens is not in the environment's file yet: {error}");
    }
    let retention = retain(course, proposer, lease, &history, now, stop).await;
    Ok(Done { record, failures, retention, history })
}

/// Takes into the environment's file what needs no question. A run of a doubted time leaves that to the next one.
async fn take_rules(course: &Course<'_>, lease: &Lease, history: &History, run: SnapshotId) -> Result<()> {
    let Some(stored) = &history.environment else { return Ok(()) };
    let now = run.taken();
    let doubted = history.snapshot(run).is_none_or(|snapshot| snapshot.clock_doubted);
    if doubted || history.environment_damage.is_some() || history.file_doubt.is_some() {
        return Ok(());
    }
    let Some(next) = questions::taken_silently(&stored.file, course.guard, course.retention, history, now) else {
        return Ok(());
    };
    lease.check().await?;
    environment::write(course.store, course.environment, Some(stored), None, next, now).await.map(drop)
}

/// Deletes the record of a run whose objects are gone, and says whether it is gone too: a listed snapshot is restorable.
async fn withdraw(course: &Course<'_>, record: &Record) -> bool {
    let Ok(key) = catalogue::keys::record_key(course.environment, record.id) else { return false };
    let deleted = course.store.delete(&key).await;
    if let Err(error) = &deleted {
        tracing::warn!("the record of the overtaken run could not be taken back: {error}");
    }
    matches!(deleted, Ok(Deleted::Gone))
}

/// The record is what was written, and whatever it names is there at its size.
fn read_back(history: &History, record: &Record) -> Result<()> {
    let failed = |what: String| {
        Error::unexpected(format!("the snapshot {} was committed, and {what}", record.id))
            .hint("look at who else writes to the store, and run `verify`")
    };
    let snapshot =
        history.snapshot(record.id).ok_or_else(|| failed("its record is not in the store any more".to_owned()))?;
    if snapshot.record.as_ref() != Some(record) {
        return Err(failed("its record in the store is another one".to_owned()));
    }
    match snapshot.lost().next() {
        Some(source) => Err(failed(format!("the object of {source} is not in the store"))),
        None => Ok(()),
    }
}

async fn mark(course: &Course<'_>, source: &str, fingerprint: String) -> Result<()> {
    let key: ObjectKey = catalogue::keys::key(&format!("{}/.fp-{source}", course.environment))?;
    course.store.put(&key, Bytes::from(format!("{fingerprint}\n"))).await
}

/// Retention after a committed run; frozen while anything is not as it should be, because a failure must never be followed by
/// forgetting. What is wanted again leaves the bin all the same: a mistake that is undone while something else waits for an
/// answer must not go on ripening.
async fn retain(
    course: &Course<'_>,
    proposer: &impl Propose,
    lease: &Lease,
    history: &History,
    now: Timestamp,
    stop: &CancellationToken,
) -> Retention {
    let because = questions::obstacles(course.asked(), history, now);
    let is_frozen = !because.is_empty();
    if is_frozen && !history.snapshots.iter().any(|snapshot| snapshot.binned.is_some()) {
        return Retention::Frozen { because, applied: Box::default() };
    }
    let rules = Rules { guard: course.guard, time_zone: course.time_zone, allow_more: false };
    let planned = match retention::plan(rules, proposer, history, now).await {
        Ok(planned) => planned,
        Err(error) if is_frozen => {
            tracing::warn!("nothing was looked for in the bin: {error}");
            return Retention::Frozen { because, applied: Box::default() };
        }
        Err(error) => return Retention::Refused(error),
    };
    let (bin_days, store_now) = (course.guard.bin_days, lease.store_now());
    let expected = questions::expected(history, course.sources);
    let steps = planned.steps(history, Wait::Days(bin_days), Some(store_now), &expected);
    let hands = Hands { store: course.store, environment: course.environment, lease, stop, bin_days, store_now };
    if is_frozen {
        let applied = retention::take_back(&hands, &steps).await;
        applied.failures.iter().for_each(|failure| tracing::warn!("{failure}"));
        return Retention::Frozen { because, applied: Box::new(applied) };
    }
    let applied = retention::apply(&hands, history, &planned, &steps, now).await;
    Retention::Applied(Box::new(planned), Box::new(applied))
}
