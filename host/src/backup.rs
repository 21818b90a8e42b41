//! One run: from the lease to the report, one call a phase.
//!
//! The record is written last. Whatever stops a run before that leaves every listed snapshot restorable and no
//! object of the run behind; whatever stops it after that leaves a snapshot and a retention to repeat. A source that fails
//! never keeps another one from being saved.

mod dump;
mod record;
mod state;
mod sweep;

use crate::capability::Tally;
use crate::config::Source;
use crate::documents::{self, Tree};
use crate::error::{Class, Error, Result};
use crate::history::{self, History};
use crate::host::Host;
use crate::lease::{Abandoned, Lease, since_boot};
use crate::plugin::call::{Fingerprint, dumping};
use crate::plugin::{Plugin, Role};
use crate::postgres::{self, Session};
use crate::questions::{self, Asked};
use crate::report::{self, Report};
use crate::retention;
use crate::snapshot::{Outcome, Record};
use crate::store::{Created, ObjectKey};
use bytes::Bytes;
use futures::future::join_all;
use jiff::Timestamp;
use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

use dump::{Dumped, dump};
use record::{When, record};
pub(crate) use sweep::sweep;
use sweep::undo;

/// How long opening a source may take. A database has a shorter limit of its own for connecting.
const OPEN_TIME_MAX: Duration = Duration::from_secs(120);

/// How long writing the record may take: less than what is left of the lease when it begins.
const COMMIT_TIME_MAX: Duration = Duration::from_secs(25);

/// What the person asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Dump every source, whatever its fingerprint says.
    pub force: bool,
    /// Show what would happen and write nothing.
    pub dry_run: bool,
}

struct Plugins {
    fingerprint: Plugin,
    dump: Plugin,
    retention: Plugin,
}

/// What the plugins did in a run until its record was written.
#[derive(Default)]
struct Tallies {
    fingerprint: Tally,
    dump: Tally,
}

/// A source in the course of a run.
struct Work {
    name: String,
    kind: &'static str,
    opened: Result<Opened>,
    fingerprint: Option<Fingerprint>,
    /// Why the plugin could not take it.
    fingerprint_failure: Option<Error>,
    fingerprint_millis: Option<u64>,
}

/// A source, open for reading.
#[derive(Clone)]
enum Opened {
    Database(Arc<Session>),
    Tree(Arc<Tree>),
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

/// Runs one backup. `interrupted` resolves when the run is to stop: before the commit at once, after it between two steps.
///
/// # Errors
/// Whatever kept the run from committing a snapshot. What goes wrong after that is in the report.
pub async fn run(
    host: &Host,
    options: Options,
    now: Timestamp,
    interrupted: impl Future<Output = ()>,
) -> Result<Report> {
    let plugins = Plugins {
        fingerprint: host.plugin(Role::Fingerprint).await?,
        dump: host.plugin(Role::Dump).await?,
        retention: host.plugin(Role::Retention).await?,
    };
    if options.dry_run {
        return preview(host, &plugins, options, now).await;
    }
    let (lease, abandoned) = Lease::take(&host.store, &host.environment, since_boot).await?;
    let lease = lease.and(host.cluster_lease().await).await?;
    let mut interrupted = pin!(interrupted);
    let prepared = tokio::select! {
        prepared = prepare(host, &plugins, &lease, abandoned, options, now) => prepared,
        () = interrupted.as_mut() => Err(Error::new(Class::Interrupted, "the run was interrupted before its snapshot was committed")
            .hint("nothing of it is listed; run it again")),
    };
    let prepared = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return Err(undo(host, lease, error).await),
    };
    match commit(host, &lease, &prepared.record).await {
        Committed::Yes => {}
        Committed::No(error) => return Err(undo(host, lease, error).await),
        Committed::Unknown(error) => {
            lease.leave().await;
            return Err(error
                .hint("its record may be in the store: `list` shows whether it is; the next run clears what is not"));
        }
    }
    let report = {
        let stop = CancellationToken::new();
        let mut rest = pin!(finish(host, &plugins, &lease, prepared, &stop));
        tokio::select! {
            report = rest.as_mut() => report,
            () = interrupted.as_mut() => {
                stop.cancel();
                rest.await
            }
        }
    };
    lease.release().await;
    Ok(report)
}

/// Everything between taking the lease and the commit.
async fn prepare(
    host: &Host,
    plugins: &Plugins,
    lease: &Lease,
    abandoned: Vec<Abandoned>,
    options: Options,
    now: Timestamp,
) -> Result<Prepared> {
    let mut tallies = Tallies::default();
    let history = history::load(&host.store, &host.environment, &host.sources, now).await?;
    founded(host, &history)?;
    sweep(host, lease, abandoned, &history).await?;
    let id = history.free_id(now);
    let store_time = host.clock.shown_by(lease.store_time());
    let clock_doubt = questions::clock_doubt(now, store_time, &history);
    let mut work = open(host).await;
    evidence(host, plugins, &mut work, &mut tallies).await;
    let decisions = decide(host, plugins, &mut work, &history, options.force, now, &mut tallies).await;
    let Dumped { sources, failures } =
        dump(host, plugins, lease, &work, &decisions, &history, id, &mut tallies).await?;
    let when = When { id, store_time, clock_doubt };
    let record = record(host, plugins, sources, &history, when, &tallies);
    Ok(Prepared { record, history, failures })
}

/// Refuses a store that holds nothing of the environment: a mistyped bucket or a disk that is not mounted must not be
/// founded anew.
fn founded(host: &Host, history: &History) -> Result<()> {
    let unknown = history.environment.is_none() && history.environment_damage.is_none();
    if unknown && !history.snapshots.iter().any(|snapshot| !snapshot.adopted) {
        let (environment, store) = (&host.environment, host.store.describe());
        return Err(Error::config(format!("the store {store} does not have the environment {environment}"))
            .hint(format!(
                "if it is new, run `dolibarr-backup init --env {environment}` first; if it is not, the url is wrong or the disk is not mounted"
            )));
    }
    Ok(())
}

/// What a run would do, up to the decision. Takes no lease and writes nothing.
async fn preview(host: &Host, plugins: &Plugins, options: Options, now: Timestamp) -> Result<Report> {
    let mut tallies = Tallies::default();
    let history = history::load(&host.store, &host.environment, &host.sources, now).await?;
    let id = history.free_id(now);
    let mut work = open(host).await;
    evidence(host, plugins, &mut work, &mut tallies).await;
    let decisions = decide(host, plugins, &mut work, &history, options.force, now, &mut tallies).await;
    Ok(report::of_preview(host, id, &decisions, work.iter().map(|w| (w.name.as_str(), w.opened.as_ref().err()))))
}

/// Opens every source, databases first: their snapshot is then older than everything that is read of the documents. A source
/// that cannot be opened fails by itself, whatever the reason.
async fn open(host: &Host) -> Vec<Work> {
    let mut sources: Vec<_> = host.sources.sources.iter().collect();
    sources.sort_by_key(|(_, source)| matches!(source, Source::Directory(_)));
    let mut work = Vec::new();
    for (name, source) in sources {
        let scope = format!("{}/{name}", host.environment);
        let opening = open_one(source, scope.clone());
        let late = |_| {
            Err(Error::unavailable(format!("{scope} was not open within {} s", OPEN_TIME_MAX.as_secs()))
                .hint("look at the server or the volume that it is on"))
        };
        let opened = tokio::time::timeout(OPEN_TIME_MAX, opening).await.unwrap_or_else(late);
        if let Err(error) = &opened {
            tracing::error!(source = %scope, "{error}");
        }
        work.push(Work {
            name: name.clone(),
            kind: source.kind(),
            opened,
            fingerprint: None,
            fingerprint_failure: None,
            fingerprint_millis: None,
        });
    }
    work
}

async fn open_one(source: &Source, scope: String) -> Result<Opened> {
    match source {
        Source::Postgres(config) => Session::open(config, scope).await.map(Opened::Database),
        Source::Directory(config) => {
            // A network file system that hangs must not hang the run.
            let config = config.clone();
            let opened = tokio::task::spawn_blocking(move || Tree::open(&config, scope)).await;
            opened.map_err(|error| Error::unexpected(format!("opening the folder: {error}")))?.map(Opened::Tree)
        }
    }
}

/// Fingerprints every source that is open, side by side. A plugin that fails costs the fingerprint, and the source is dumped
/// without one; a database that fails under it has failed.
async fn evidence(host: &Host, plugins: &Plugins, work: &mut [Work], tallies: &mut Tallies) {
    let spinner = crate::telemetry::spinner("fingerprinting");
    let plugin = &plugins.fingerprint;
    let calls = work.iter().map(|source| async move {
        let began = host.clock.now();
        let called = match source.opened.as_ref().ok()?.clone() {
            Opened::Database(session) => plugin.of_database(postgres::host::EvidenceDatabase(session)).await,
            Opened::Tree(tree) => plugin.of_tree(documents::host::EvidenceTree(tree)).await,
        };
        Some((called, host.clock.millis_since(began)))
    });
    let answers = join_all(calls).await;
    spinner.finish_and_clear();
    for (source, called) in work.iter_mut().zip(answers) {
        let Some((called, millis)) = called else { continue };
        source.fingerprint_millis = Some(millis);
        add(&mut tallies.fingerprint, called.tally);
        match called.result {
            Ok(fingerprint) => {
                tracing::debug!(source = %source.name, fingerprint = %fingerprint.value, "{}", fingerprint.basis);
                source.fingerprint = Some(fingerprint);
            }
            Err(error) => {
                tracing::error!(source = %format!("{}/{}", host.environment, source.name), "{error}");
                match error.class() {
                    Class::PluginTrapped | Class::PluginRefused => source.fingerprint_failure = Some(error),
                    _ => source.opened = Err(error),
                }
            }
        }
    }
}

/// Asks the dump plugin what to do with each source that is open, and checks the answer. A plugin that fails or answers
/// something else fails every source that it was asked about.
async fn decide(
    host: &Host,
    plugins: &Plugins,
    work: &mut [Work],
    history: &History,
    force: bool,
    now: Timestamp,
    tallies: &mut Tallies,
) -> Vec<dumping::Decision> {
    let asked: Vec<_> = work
        .iter()
        .filter_map(|source| {
            let opened = source.opened.as_ref().ok()?;
            let kind = match opened {
                Opened::Database(_) => dumping::Kind::Database,
                Opened::Tree(_) => dumping::Kind::Tree,
            };
            let same = !state::is_another(opened, &source.name, history, now);
            let carried = history.carried(&source.name, now).filter(|_| same).map(|(state, object)| dumping::Carried {
                made: object.made.as_second(),
                bytes: object.bytes,
                present: state.object.as_ref().is_some_and(|object| object.present),
                fingerprint: state.fingerprint.clone(),
            });
            let fingerprint = source.fingerprint.as_ref().map(|f| f.value.clone()).unwrap_or_default();
            Some(dumping::Source { name: source.name.clone(), kind, fingerprint, carried })
        })
        .collect();
    if asked.is_empty() {
        return Vec::new();
    }
    let called = plugins.dump.plan_dumps(now, force, &asked).await;
    add(&mut tallies.dump, called.tally);
    match called.result.and_then(|decisions| checked(host, plugins, &asked, decisions)) {
        Ok(decisions) => decisions,
        Err(error) => {
            tracing::error!("{error}");
            for source in work.iter_mut().filter(|source| source.opened.is_ok()) {
                source.opened = Err(error.clone());
            }
            Vec::new()
        }
    }
}

fn checked(
    host: &Host,
    plugins: &Plugins,
    asked: &[dumping::Source],
    decisions: Vec<dumping::Decision>,
) -> Result<Vec<dumping::Decision>> {
    let answered: BTreeSet<&str> = decisions.iter().map(|decision| decision.source.as_str()).collect();
    let expected: BTreeSet<&str> = asked.iter().map(|source| source.name.as_str()).collect();
    if answered != expected || decisions.len() != asked.len() {
        return Err(plugins.dump.refused("its plan does not have one decision for every source"));
    }
    for decision in decisions.iter().filter(|decision| decision.action == dumping::Action::Carry) {
        let there = asked.iter().any(|s| s.name == decision.source && s.carried.as_ref().is_some_and(|c| c.present));
        if !there {
            return Err(plugins.dump.refused(format!(
                "it calls `{}/{}` unchanged, and the store holds no object of it",
                host.environment, decision.source
            )));
        }
    }
    Ok(decisions)
}

/// Writes the record under the lease. From here on the snapshot exists. An answer that got lost is asked for again.
async fn commit(host: &Host, lease: &Lease, record: &Record) -> Committed {
    let body = match record.to_bytes() {
        Ok(body) => Bytes::from(body),
        Err(error) => return Committed::No(error),
    };
    let key = match history::record_key(&host.environment, record.id) {
        Ok(key) => key,
        Err(error) => return Committed::No(error),
    };
    if let Err(error) = lease.check().await {
        return Committed::No(error);
    }
    let written = tokio::time::timeout(COMMIT_TIME_MAX, host.store.create(&key, body.clone())).await;
    let failure = match written {
        Ok(Ok(Created::Created)) => return Committed::Yes,
        Ok(Ok(Created::Exists)) => Error::unexpected(format!("a record of snapshot {} exists already", record.id)),
        Ok(Err(error)) => error,
        Err(_) => Error::unavailable("the store did not answer when the record was written"),
    };
    match host.store.get(&key).await {
        Ok(Some(there)) if there == body => Committed::Yes,
        // A request that is still under way may write it yet.
        Ok(None) if failure.class() != Class::Unavailable => Committed::No(failure),
        Ok(_) | Err(_) => Committed::Unknown(failure),
    }
}

/// What comes after the commit: the marks for tools that read them, the look at what is really there, and the retention.
async fn finish(host: &Host, plugins: &Plugins, lease: &Lease, prepared: Prepared, stop: &CancellationToken) -> Report {
    let Prepared { record, history: before, failures } = prepared;
    let now = record.id.taken();
    for (name, source) in &record.sources {
        let Some(fingerprint) = source.fingerprint.clone().filter(|_| source.outcome == Outcome::Saved) else {
            continue;
        };
        if let Err(error) = mark(host, name, fingerprint).await {
            // A store with locked retention refuses to overwrite; nothing of ours reads the mark.
            tracing::debug!("the mark .fp-{name} was not written: {error}");
        }
    }
    let again = history::load_after(&host.store, &host.environment, &host.sources, now, Some(&before)).await;
    let history = match again.and_then(|history| read_back(&history, &record).map(|()| history)) {
        Ok(history) => history,
        Err(error) => {
            return report::of_backup(host, record, failures, report::Retention::Refused(error), &before);
        }
    };
    let retention = retain(host, plugins, lease, &history, now, stop).await;
    report::of_backup(host, record, failures, retention, &history)
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

async fn mark(host: &Host, source: &str, fingerprint: String) -> Result<()> {
    let key: ObjectKey = history::key(&format!("{}/.fp-{source}", host.environment))?;
    host.store.put(&key, Bytes::from(format!("{fingerprint}\n"))).await
}

/// Retention after a committed run; frozen while anything is not as it should be, because a failure must never be followed by
/// forgetting.
async fn retain(
    host: &Host,
    plugins: &Plugins,
    lease: &Lease,
    history: &History,
    now: Timestamp,
    stop: &CancellationToken,
) -> report::Retention {
    let obstacles = questions::obstacles(Asked::of(host), history, now);
    if !obstacles.is_empty() {
        return report::Retention::Frozen(obstacles);
    }
    let planned = match retention::plan_of(host, &plugins.retention, history, now, false).await {
        Ok(planned) => planned,
        Err(error) => return report::Retention::Refused(error),
    };
    let bin = retention::Bin::of(host, lease, history);
    let steps = planned.steps(history, bin.wait(), Some(bin.store_now), &questions::expected(history, &host.sources));
    let hands = bin.hands(host, lease, stop);
    let applied = retention::apply(&hands, history, &planned, &steps, now).await;
    report::Retention::Applied(planned, applied)
}

fn add(total: &mut Tally, tally: Tally) {
    for (key, count) in tally {
        let sum = total.entry(key).or_default();
        sum.calls += count.calls;
        sum.bytes += count.bytes;
    }
}
