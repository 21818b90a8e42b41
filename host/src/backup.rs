//! One run: from the lease to the report, one call a phase.
//!
//! The record is written last. Whatever stops a run before that leaves every listed snapshot restorable and no
//! object of the run behind; whatever stops it after that leaves a complete snapshot and a retention to repeat.

mod dump;
mod record;
mod sweep;

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
use crate::snapshot::{Outcome, Record, SnapshotId};
use crate::store::{Created, ObjectKey};
use bytes::Bytes;
use futures::future::join_all;
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::sync::Arc;

use dump::{Dumped, dump};
use record::record;
use sweep::{clear, free_id, sweep, unused};

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
    fingerprint_millis: Option<u64>,
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
        fingerprint: host.plugin(Role::Fingerprint).await?,
        dump: host.plugin(Role::Dump).await?,
        retention: host.plugin(Role::Retention).await?,
    };
    if options.dry_run {
        return preview(host, &plugins, options, now).await;
    }
    let id = free_id(host, now).await?;
    let (lease, abandoned) = Lease::take(&host.store, &host.environment, id).await?;
    let lease = lease.and(host.cluster_lease().await).await?;
    let result = tokio::select! {
        result = under_lease(host, &plugins, &lease, abandoned, options, id) => result,
        () = interrupted => Err(Error::new(Class::Interrupted, "the run was interrupted before its snapshot was committed")
            .hint("nothing of it is listed; run it again")),
    };
    let cleared = match &result {
        Ok(_) => true,
        Err(_) => {
            host.store.settle().await;
            clear(host, id).await
        }
    };
    // A mark that stays tells the next run what to clear.
    if cleared {
        lease.release().await;
    }
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
        work.push(Work {
            name: name.clone(),
            kind: source.kind(),
            opened,
            fingerprint: None,
            fingerprint_millis: None,
        });
    }
    Ok(work)
}

/// Fingerprints every source that is open, side by side.
async fn evidence(host: &Host, plugins: &Plugins, work: &mut [Work], tallies: &mut Tallies) -> Result<()> {
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
