//! The phases of a run, independent of how it saves: lease, history, cleanup after killed runs, sources, record,
//! retention.
//!
//! There is one commit, protected by a fence. A run that stops before it leaves nothing. After it the snapshot exists,
//! and no run deletes the objects that it refers to.

use crate::report::Retention;
use crate::retention::{self, Executor, Propose, Rules, Wait};
use crate::session::Session;
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
use catalogue::questions::{self, QuestionContext};
use catalogue::record::{ClockDoubt, Outcome, Record};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use kubernetes::lease::ClusterLease;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use store::{Created, Deleted, ObjectKey, Store};
use tokio_util::sync::CancellationToken;

/// Time limit for writing the record. It is shorter than the remaining lease.
const COMMIT_TIME_MAX: Duration = Duration::from_secs(25);

/// The inputs of a run.
#[derive(Debug, Clone, Copy)]
pub struct Course<'a> {
    /// The store.
    pub store: &'a Arc<Store>,
    /// The environment.
    pub environment: &'a Environment,
    /// Its configured sources.
    pub sources: &'a Configured,
    /// Rules that no plugin overrides.
    pub guard: &'a guard::GuardConfig,
    /// The business time zone.
    pub time_zone: &'a TimeZone,
    /// The configured retention plugin with its settings.
    pub retention: &'a str,
    /// The machine's properties for the lease.
    pub machine: Machine,
    /// Shift of the machine's clock for tests and simulations; the store's clock is shifted by the same amount.
    pub shift: SignedDuration,
}

/// The time of a run, by the machine's and the store's clock.
#[derive(Debug, Clone, Copy)]
pub struct When {
    /// The run's id, which is its time by the machine's clock.
    pub id: SnapshotId,
    /// The same moment by the store's clock.
    pub store_time: Timestamp,
    /// Why the machine's clock may be wrong.
    pub clock_doubt: Option<ClockDoubt>,
}

/// The result of saving the sources.
#[derive(Debug)]
pub struct Saved {
    /// The record, not written yet.
    pub record: Record,
    /// What failed, by source.
    pub failures: Vec<(String, Error)>,
}

/// Saves the sources of a run.
pub trait Save {
    /// Saves every source independently. Each object is announced under the lease before it is made.
    ///
    /// # Errors
    /// If the lease is lost; then nothing may be committed. A source that fails is not an error here.
    fn save(&mut self, lease: &Lease, history: &History, when: When) -> impl Future<Output = Result<Saved>>;
}

/// A run that committed its snapshot.
#[derive(Debug)]
pub struct Done {
    /// The record.
    pub record: Record,
    /// What failed, by source.
    pub failures: Vec<(String, Error)>,
    /// The result of the retention.
    pub retention: Retention,
    /// The history at the start of the retention.
    pub history: History,
}

/// Everything that a run has before it commits.
struct Prepared {
    record: Record,
    history: History,
    failures: Vec<(String, Error)>,
}

/// The result of writing the record.
enum Committed {
    /// It is there.
    Yes,
    /// It certainly does not exist, with the reason.
    No(Error),
    /// Unknown, with the reason.
    Unknown(Error),
}

impl<'a> Course<'a> {
    /// Of one session.
    pub fn of(session: &'a Session) -> Self {
        Self {
            store: &session.store,
            environment: &session.environment,
            sources: &session.sources.configured,
            guard: &session.guard,
            time_zone: &session.time_zone,
            retention: &session.retention,
            machine: Machine::OWN,
            shift: session.clock.shift(),
        }
    }

    fn asked(&self) -> QuestionContext<'a> {
        QuestionContext {
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

/// Performs a run. `interrupted` resolves when it should stop: at once before the commit, between two steps after it.
///
/// # Errors
/// The reason why no snapshot was committed. Later failures are in the result.
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
            .hint("no snapshot was made; run the backup again")),
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
                .hint("check with `list` whether the record is in the store; if not, the next run removes the objects of this one"));
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
    // An announced object that the record does not name was abandoned, perhaps because the response to its upload was
    // lost.
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
    check_environment_exists(course, &history)?;
    sweep(course.store, course.environment, lease, abandoned, &history).await?;
    let store_time = lease.store_time().checked_add(course.shift).unwrap_or(lease.store_time());
    let clock_doubt = questions::clock_doubt(now, store_time, &history);
    let when = When { id: history.free_id(now), store_time, clock_doubt };
    let Saved { record, failures } = saver.save(lease, &history, when).await?;
    Ok(Prepared { record, history, failures })
}

/// Refuses a store without the environment: a mistyped bucket or an unmounted disk must not become a new environment.
fn check_environment_exists(course: &Course<'_>, history: &History) -> Result<()> {
    if history.lacks_environment() {
        let (environment, store) = (course.environment, course.store.describe());
        return Err(Error::config(format!("the store {store} does not contain the environment {environment}"))
            .hint(format!(
                "if it is new, run `dolibarr-backup init --env {environment}` first; if not, check the url, or whether the disk is mounted"
            )));
    }
    Ok(())
}

/// Writes the record under the lease; from here on the snapshot exists. If the response is lost, the store is asked
/// again.
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
        Ok(Ok(Created::Exists)) => Error::unexpected(format!("a record of snapshot {} already exists", record.id)),
        Ok(Err(error)) => error,
        Err(_) => Error::unavailable("the store did not answer while the record was being written"),
    };
    match course.store.get(&key).await {
        Ok(Some(there)) if there == body => Committed::Yes,
        // A request that is still in flight may write it later.
        Ok(None) if failure.class() != Class::Unavailable => Committed::No(failure),
        Ok(_) | Err(_) => Committed::Unknown(failure),
    }
}

/// The steps after the commit: marks for other tools, reading back what was stored, and the retention.
///
/// # Errors
/// If the run was overtaken at the moment of its commit and deleted its record again.
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
        // It was paused between the look at its lease and the commit, for so long that another run cleared what it had
        // made. No request can be tied to a lease, so that shows only now.
        if !lease.fence().holds() && withdraw(course, &record).await {
            return Err(Fence::lost());
        }
        return Ok(Done { record, failures, retention: Retention::Refused(error), history: before });
    }
    if let Err(error) = take_rules(course, lease, &history, record.id).await {
        tracing::warn!("stricter settings could not be written to the environment's file yet: {error}");
    }
    let retention = apply_retention(course, proposer, lease, &history, now, stop).await;
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

/// Deletes the record of a run whose objects are gone, because a listed snapshot must be restorable. Returns whether it
/// is gone.
async fn withdraw(course: &Course<'_>, record: &Record) -> bool {
    let Ok(key) = catalogue::keys::record_key(course.environment, record.id) else { return false };
    let deleted = course.store.delete(&key).await;
    if let Err(error) = &deleted {
        tracing::warn!("the record of the overtaken run could not be deleted: {error}");
    }
    matches!(deleted, Ok(Deleted::Gone))
}

/// Checks that the stored record is what was written, and that all its objects exist with their sizes.
fn read_back(history: &History, record: &Record) -> Result<()> {
    let failed = |what: String| {
        Error::unexpected(format!("the snapshot {} was committed, but {what}", record.id))
            .hint("check who else writes to the store, and run `verify`")
    };
    let snapshot =
        history.snapshot(record.id).ok_or_else(|| failed("its record is no longer in the store".to_owned()))?;
    if snapshot.record.as_ref() != Some(record) {
        return Err(failed("its record in the store is different".to_owned()));
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

/// Runs the retention after a commit. It is frozen while there is any problem, because nothing may be forgotten after a
/// failure. Snapshots that the plan keeps again leave the bin even then, so that they do not become due meanwhile.
async fn apply_retention(
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
            tracing::warn!("the bin was not checked: {error}");
            return Retention::Frozen { because, applied: Box::default() };
        }
        Err(error) => return Retention::Refused(error),
    };
    let (bin_days, store_now) = (course.guard.bin_days, lease.store_now());
    let expected = questions::expected(history, course.sources);
    let steps = planned.steps(history, Wait::Days(bin_days), Some(store_now), &expected);
    let executor = Executor { store: course.store, environment: course.environment, lease, stop, bin_days, store_now };
    if is_frozen {
        let applied = retention::take_back(&executor, &steps).await;
        applied.failures.iter().for_each(|failure| tracing::warn!("{failure}"));
        return Retention::Frozen { because, applied: Box::new(applied) };
    }
    let applied = retention::apply(&executor, history, &planned, &steps, now).await;
    Retention::Applied(Box::new(planned), Box::new(applied))
}
