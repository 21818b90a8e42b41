//! One run: from the lease to the report, one call a phase.
//!
//! The record is written last. Whatever stops a run before that leaves every listed snapshot restorable and no
//! object of the run behind; whatever stops it after that leaves a complete snapshot and a retention to repeat.

use crate::capability::Tally;
use crate::config::Source;
use crate::documents::{self, Tree};
use crate::error::{Class, Error, Result};
use crate::guard::Allowance;
use crate::history::{self, History};
use crate::host::Host;
use crate::lease::{Abandoned, Lease};
use crate::plugin::call::{Fingerprint, dumping};
use crate::plugin::{Plugin, Role};
use crate::postgres::{self, Session};
use crate::report::{self, Report};
use crate::retention;
use crate::snapshot::{
    ArchiveRecord, DatabaseRecord, FORMAT_VERSION, ObjectRecord, Outcome, ProblemRecord, Record, SnapshotId,
    SourceRecord,
};
use crate::store::host::Prefix;
use crate::store::{Created, ObjectKey};
use bytes::Bytes;
use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

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
}

/// What the dumps came to.
struct Dumped {
    sources: BTreeMap<String, SourceRecord>,
    failures: Vec<(String, Error)>,
}

/// A source, open for reading.
#[derive(Clone)]
enum Opened {
    Database(Arc<Session>),
    Tree(Arc<Tree>),
}

/// Runs one backup. `interrupted` resolves when the run is to stop.
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
        fingerprint: host.plugin(Role::Fingerprint)?,
        dump: host.plugin(Role::Dump)?,
        retention: host.plugin(Role::Retention)?,
    };
    if options.dry_run {
        return preview(host, &plugins, options, now).await;
    }
    let id = free_id(host, now).await?;
    let (lease, abandoned) = Lease::take(&host.store, &host.environment, id).await?;
    let result = tokio::select! {
        result = under_lease(host, &plugins, &lease, abandoned, options, id) => result,
        () = interrupted => Err(Error::new(Class::Interrupted, "the run was interrupted before its snapshot was committed")
            .hint("nothing of it is listed; run it again")),
    };
    if result.is_err() {
        host.store.settle().await;
        clear(host, id).await;
    }
    lease.release().await;
    result
}

/// Everything between taking and giving back the lease.
async fn under_lease(
    host: &Host,
    plugins: &Plugins,
    lease: &Lease,
    abandoned: Vec<Abandoned>,
    options: Options,
    id: SnapshotId,
) -> Result<Report> {
    let now = id.taken();
    let mut tallies = Tallies::default();
    sweep(host, abandoned).await?;
    let mut history = history::load(&host.store, &host.environment, &host.sources).await?;
    unused(&history, id)?;
    let mut work = open(host).await?;
    evidence(host, plugins, &mut work, &mut tallies).await?;
    let decisions = decide(host, plugins, &work, &history, options.force, now, &mut tallies).await?;
    let Dumped { sources, failures } = dump(host, plugins, &work, &decisions, &history, id, &mut tallies).await?;
    lease.check().await?;
    let record = record(host, plugins, &work, sources, &history, id, &tallies);
    commit(host, &mut history, &record).await?;
    let retention = retain(host, plugins, &history, &record, now).await;
    Ok(report::of_backup(host, record, failures, retention, &history))
}

/// What a run would do, up to the decision. Takes no lease and writes nothing.
async fn preview(host: &Host, plugins: &Plugins, options: Options, now: Timestamp) -> Result<Report> {
    let id = SnapshotId::at(now);
    let mut tallies = Tallies::default();
    let history = history::load(&host.store, &host.environment, &host.sources).await?;
    let mut work = open(host).await?;
    evidence(host, plugins, &mut work, &mut tallies).await?;
    let decisions = decide(host, plugins, &work, &history, options.force, now, &mut tallies).await?;
    Ok(report::of_preview(host, id, &decisions, work.iter().map(|w| (w.name.as_str(), w.opened.as_ref().err()))))
}

/// The first second from `now` on that no snapshot has. Two runs within one second are told apart here.
async fn free_id(host: &Host, now: Timestamp) -> Result<SnapshotId> {
    let mut id = SnapshotId::at(now);
    while host.store.head(&history::record_key(&host.environment, id)?).await?.is_some()
        || host.store.head(&history::certificate_key(&host.environment, id)?).await?.is_some()
    {
        id = SnapshotId::at(id.taken() + SignedDuration::from_secs(1));
    }
    Ok(id)
}

fn unused(history: &History, id: SnapshotId) -> Result<()> {
    if history.knows(id) {
        return Err(Error::new(Class::Held, format!("a snapshot {id} was made by another tool or run just now"))
            .hint("run it again"));
    }
    Ok(())
}

/// Clears what runs left that ended without a word: their uploads, and their objects where they wrote no record.
async fn sweep(host: &Host, abandoned: Vec<Abandoned>) -> Result<()> {
    for run in abandoned {
        tracing::warn!(run = %run.run, "an earlier run was killed; clearing what it left");
        if host.store.head(&history::record_key(&host.environment, run.run)?).await?.is_none() {
            clear(host, run.run).await;
        }
        run.forget(&host.store).await?;
    }
    Ok(())
}

/// Deletes every object that a run made and did not commit. A failure here costs space, never a snapshot: the next
/// run tries again as long as the lease's mark is there.
async fn clear(host: &Host, run: SnapshotId) {
    if let Err(error) = try_clear(host, run).await {
        tracing::warn!(run = %run, "what the run left could not be cleared: {error}");
    }
}

async fn try_clear(host: &Host, run: SnapshotId) -> Result<()> {
    host.store.abort_uploads(&format!("{}/", host.environment)).await?;
    for source in host.sources.sources.keys() {
        let folder = format!("{}/{source}/", host.environment);
        let begins = format!("{folder}{run}.");
        for meta in host.store.list(&folder).await? {
            if meta.key.as_str().starts_with(&begins) {
                host.store.delete(&meta.key).await?;
            }
        }
    }
    Ok(())
}

/// Opens every source, databases first: their snapshot is then older than everything that is read of the documents.
/// A wrong configuration ends the run before anything is written; a source that is out of reach fails by itself.
async fn open(host: &Host) -> Result<Vec<Work>> {
    let mut sources: Vec<_> = host.sources.sources.iter().collect();
    sources.sort_by_key(|(_, source)| matches!(source, Source::Directory(_)));
    let mut work = Vec::new();
    for (name, source) in sources {
        let scope = format!("{}/{name}", host.environment);
        let opened = match source {
            Source::Postgres(config) => Session::open(config, scope.clone()).await.map(Opened::Database),
            Source::Directory(config) => Tree::open(config, scope.clone()).map(Opened::Tree),
        };
        if let Err(error) = &opened {
            if error.class() == Class::Config {
                return Err(error.clone().context(format!("opening {scope}")));
            }
            tracing::error!(source = %scope, "{error}");
        }
        work.push(Work { name: name.clone(), kind: source.kind(), opened, fingerprint: None });
    }
    Ok(work)
}

/// Fingerprints every source that is open, side by side.
async fn evidence(host: &Host, plugins: &Plugins, work: &mut [Work], tallies: &mut Tallies) -> Result<()> {
    let spinner = crate::telemetry::spinner("fingerprinting");
    let plugin = &plugins.fingerprint;
    let calls = work.iter().map(|source| async move {
        match source.opened.as_ref().ok()?.clone() {
            Opened::Database(session) => Some(plugin.of_database(postgres::host::EvidenceDatabase(session)).await),
            Opened::Tree(tree) => Some(plugin.of_tree(documents::host::EvidenceTree(tree)).await),
        }
    });
    let answers = join_all(calls).await;
    spinner.finish_and_clear();
    for (source, called) in work.iter_mut().zip(answers) {
        let Some(called) = called else { continue };
        add(&mut tallies.fingerprint, called.tally);
        match called.result {
            Ok(fingerprint) => {
                tracing::debug!(source = %source.name, fingerprint = %fingerprint.value, "{}", fingerprint.basis);
                source.fingerprint = Some(fingerprint);
            }
            Err(error) => source.opened = Err(fatal_unless_the_sources_own(host, &source.name, error)?),
        }
    }
    Ok(())
}

/// A plugin that misbehaves or a wrong setting ends the run; a source that fails is the record's business.
fn fatal_unless_the_sources_own(host: &Host, source: &str, error: Error) -> Result<Error> {
    match error.class() {
        Class::Unavailable | Class::Unexpected => {
            tracing::error!(source = %format!("{}/{source}", host.environment), "{error}");
            Ok(error)
        }
        Class::Usage
        | Class::Config
        | Class::Held
        | Class::PluginTrapped
        | Class::PluginRefused
        | Class::RetentionIncomplete
        | Class::Stale
        | Class::Interrupted => Err(error),
    }
}

/// Asks the dump plugin what to do with each source that is open, and checks the answer.
async fn decide(
    host: &Host,
    plugins: &Plugins,
    work: &[Work],
    history: &History,
    force: bool,
    now: Timestamp,
    tallies: &mut Tallies,
) -> Result<Vec<dumping::Decision>> {
    let asked: Vec<_> = work
        .iter()
        .filter_map(|source| {
            let kind = match source.opened.as_ref().ok()? {
                Opened::Database(_) => dumping::Kind::Database,
                Opened::Tree(_) => dumping::Kind::Tree,
            };
            let carried = history.carried(&source.name, now).map(|(state, object)| dumping::Carried {
                made: object.made.as_second(),
                bytes: object.bytes,
                present: state.object.as_ref().is_some_and(|object| object.present),
                fingerprint: state.fingerprint.clone(),
            });
            let fingerprint = source.fingerprint.as_ref().map(|f| f.value.clone()).unwrap_or_default();
            Some(dumping::Source { name: source.name.clone(), kind, fingerprint, carried })
        })
        .collect();
    let called = plugins.dump.plan_dumps(now, force, &asked).await;
    add(&mut tallies.dump, called.tally);
    let decisions = called.result?;
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

/// Carries the decisions out in their order. A source that fails does not keep the next one from being saved.
async fn dump(
    host: &Host,
    plugins: &Plugins,
    work: &[Work],
    decisions: &[dumping::Decision],
    history: &History,
    id: SnapshotId,
    tallies: &mut Tallies,
) -> Result<Dumped> {
    let mut sources: BTreeMap<String, SourceRecord> = BTreeMap::new();
    let mut failures = Vec::new();
    for source in work {
        if let Err(error) = &source.opened {
            sources.insert(source.name.clone(), failed(source, error));
            failures.push((source.name.clone(), error.clone()));
        }
    }
    for decision in decisions {
        let Some(source) = work.iter().find(|source| source.name == decision.source) else { continue };
        let Ok(opened) = &source.opened else { continue };
        let reason = crate::capability::printable(&decision.reason);
        let record = match decision.action {
            dumping::Action::Carry => carried(source, opened, reason, history, id.taken()),
            dumping::Action::Dump => {
                tracing::info!(source = %source.name, "dumping: {reason}");
                match dump_one(host, plugins, source, opened, id, tallies).await {
                    Ok(object) => {
                        let index = store_index(host, source, opened, id).await;
                        saved(source, opened, reason, object, index)
                    }
                    Err(error) => {
                        let error = fatal_unless_the_sources_own(host, &source.name, error)?;
                        let record = failed(source, &error);
                        failures.push((source.name.clone(), error));
                        record
                    }
                }
            }
        };
        sources.insert(source.name.clone(), record);
    }
    Ok(Dumped { sources, failures })
}

/// Has the plugin dump one source and checks its receipt against what the host really stored.
async fn dump_one(
    host: &Host,
    plugins: &Plugins,
    source: &Work,
    opened: &Opened,
    id: SnapshotId,
    tallies: &mut Tallies,
) -> Result<ObjectRecord> {
    let scope = format!("{}/{}", host.environment, source.name);
    let into = Prefix::new(host.store.clone(), scope, id);
    let stamp = id.to_string();
    let called = match opened.clone() {
        Opened::Database(session) => {
            plugins.dump.dump_database(&stamp, postgres::host::DumpDatabase(session), into.clone()).await
        }
        Opened::Tree(tree) => plugins.dump.dump_tree(&stamp, documents::host::ArchiveTree(tree), into.clone()).await,
    };
    add(&mut tallies.dump, called.tally);
    let receipt = called.result?;
    let stored = into.stored();
    let [(key, object)] = stored.as_slice() else {
        return Err(plugins.dump.refused(format!("it stored {} objects where one was asked for", stored.len())));
    };
    if (receipt.key.as_str(), receipt.bytes, &receipt.sha256) != (key.as_str(), object.bytes, &object.sha256) {
        return Err(plugins.dump.refused("it answered a receipt that the host did not give"));
    }
    Ok(ObjectRecord { key: key.clone(), bytes: object.bytes, sha256: object.sha256.clone(), made: id.taken() })
}

/// Stores the archive's index beside it. It makes one document quick to find and is not needed to restore, so a
/// failure costs that and nothing else.
async fn store_index(host: &Host, source: &Work, opened: &Opened, id: SnapshotId) -> Option<ObjectRecord> {
    let Opened::Tree(tree) = opened else { return None };
    let index = tree.index()?;
    let stored = async {
        let key = history::key(&format!("{}/{}/{id}.index", host.environment, source.name))?;
        let stored = host.store.put_stream(&key, index).await?;
        Ok::<_, Error>(ObjectRecord { key, bytes: stored.bytes, sha256: stored.sha256, made: id.taken() })
    };
    match stored.await {
        Ok(object) => Some(object),
        Err(error) => {
            tracing::warn!(source = %source.name, "the archive's index was not stored: {error}");
            None
        }
    }
}

fn failed(source: &Work, error: &Error) -> SourceRecord {
    SourceRecord { outcome: Outcome::Failed, reason: error.to_string(), ..blank(source) }
}

fn carried(source: &Work, opened: &Opened, reason: String, history: &History, now: Timestamp) -> SourceRecord {
    let object = history.carried(&source.name, now).map(|(_, object)| object);
    SourceRecord { outcome: Outcome::Unchanged, reason, object, database: database(opened), ..blank(source) }
}

fn saved(
    source: &Work,
    opened: &Opened,
    reason: String,
    object: ObjectRecord,
    index: Option<ObjectRecord>,
) -> SourceRecord {
    let mut record = SourceRecord {
        outcome: Outcome::Saved,
        reason,
        object: Some(object),
        database: database(opened),
        archive: archive(opened, index),
        ..blank(source)
    };
    if let Opened::Tree(tree) = opened {
        let excludes = tree.excludes();
        let blind = excludes.blind();
        if !blind.is_empty() {
            let shown = crate::capability::printable(&blind.join("`, `"));
            tracing::warn!(
                source = %source.name,
                "the fingerprint leaves out `{shown}`, which the archive holds, so it is not trusted: give both plugins the same `exclude`"
            );
            record.fingerprint = None;
        }
    }
    record
}

fn blank(source: &Work) -> SourceRecord {
    SourceRecord {
        kind: source.kind.to_owned(),
        outcome: Outcome::Failed,
        reason: String::new(),
        fingerprint: source.fingerprint.as_ref().map(|f| f.value.clone()),
        basis: source.fingerprint.as_ref().map(|f| f.basis.clone()),
        object: None,
        database: None,
        archive: None,
    }
}

fn database(opened: &Opened) -> Option<DatabaseRecord> {
    let Opened::Database(session) = opened else { return None };
    let facts = session.facts();
    Some(DatabaseRecord { server_version: facts.server_version, pg_dump_version: facts.pg_dump_version })
}

fn archive(opened: &Opened, index: Option<ObjectRecord>) -> Option<ArchiveRecord> {
    let Opened::Tree(tree) = opened else { return None };
    let report = tree.report()?;
    Some(ArchiveRecord {
        files: report.files,
        bytes: report.bytes,
        excluded_files: report.excluded_files,
        excluded_bytes: report.excluded_bytes,
        exclude: report.exclude,
        excluded_folders: report.excluded_folders,
        excluded_folders_total: report.excluded_folders_total,
        problems_total: report.problems_total,
        problems: report.problems.into_iter().map(|p| ProblemRecord { path: p.path, reason: p.reason }).collect(),
        index,
    })
}

/// Puts the record together.
fn record(
    host: &Host,
    plugins: &Plugins,
    work: &[Work],
    sources: BTreeMap<String, SourceRecord>,
    history: &History,
    id: SnapshotId,
    tallies: &Tallies,
) -> Record {
    let complete = work.len() == host.sources.sources.len() && sources.values().all(|source| source.object.is_some());
    let mut warnings: Vec<String> = history.damaged().map(ToString::to_string).collect();
    for (name, source) in &sources {
        if let Some(archive) = source.archive.as_ref().filter(|archive| archive.problems_total > 0) {
            warnings.push(format!("{} files of {name} could not be archived as they were", archive.problems_total));
        }
    }
    Record {
        format_version: FORMAT_VERSION,
        id,
        environment: host.environment.to_string(),
        started: id.taken(),
        finished: host.clock.now(),
        time_zone: host.time_zone_name().to_owned(),
        host_version: env!("CARGO_PKG_VERSION").to_owned(),
        complete,
        sources,
        plugins: vec![
            plugins.fingerprint.record(&tallies.fingerprint),
            plugins.dump.record(&tallies.dump),
            plugins.retention.record(&Tally::new()),
        ],
        warnings,
        previous: history.previous(id.taken()).and_then(history::Snapshot::link),
    }
}

/// Writes the record, and then the marks for tools that read them. From here on the snapshot exists.
async fn commit(host: &Host, history: &mut History, record: &Record) -> Result<()> {
    let body = Bytes::from(record.to_bytes()?);
    let sha256 = hex::encode(Sha256::digest(&body));
    let key = history::record_key(&host.environment, record.id)?;
    match host.store.create(&key, body).await? {
        Created::Created => {}
        Created::Exists => return Err(Error::unexpected(format!("a record of snapshot {} exists already", record.id))),
    }
    for (name, source) in &record.sources {
        let Some(fingerprint) = source.fingerprint.clone().filter(|_| source.outcome == Outcome::Saved) else {
            continue;
        };
        if let Err(error) = mark(host, name, fingerprint).await {
            // A store with locked retention refuses to overwrite; nothing of ours reads the mark.
            tracing::debug!("the mark .fp-{name} was not written: {error}");
        }
    }
    history.add(record.clone(), sha256);
    Ok(())
}

async fn mark(host: &Host, source: &str, fingerprint: String) -> Result<()> {
    let key: ObjectKey = history::key(&format!("{}/.fp-{source}", host.environment))?;
    host.store.put(&key, Bytes::from(format!("{fingerprint}\n"))).await
}

/// Retention after a committed run; frozen when a source failed, because a failure must never be followed by forgetting.
async fn retain(
    host: &Host,
    plugins: &Plugins,
    history: &History,
    record: &Record,
    now: Timestamp,
) -> report::Retention {
    if !record.complete {
        return report::Retention::Frozen;
    }
    match retention::plan(host, &plugins.retention, history, now, Allowance::default()).await {
        Ok(planned) => {
            let applied = retention::apply(host, history, &planned, now).await;
            report::Retention::Applied(planned, applied)
        }
        Err(error) => report::Retention::Refused(error),
    }
}

fn add(total: &mut Tally, tally: Tally) {
    for (key, count) in tally {
        let sum = total.entry(key).or_default();
        sum.calls += count.calls;
        sum.bytes += count.bytes;
    }
}
