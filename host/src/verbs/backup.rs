//! One run: from the lease to the report, one call a phase.
//!
//! The record is written last. If a run stops before that, every listed snapshot stays restorable and the objects of
//! the run are removed. If it stops later, the snapshot exists and only the retention must be repeated. A source that
//! fails never prevents another one from being saved.

pub mod course;
mod dump;
pub mod job;
mod record;
mod seen;

use crate::config::Source;
use crate::report::{self, Report};
use crate::session::Session;
use base::error::{Class, Error, Result};
use base::evidence::{Fingerprint, Selected};
use catalogue::history::History;
use catalogue::lease::Lease;
use documents::{self, Tree};
use futures::future::join_all;
use jiff::Timestamp;
use plugin::call::dumping;
use plugin::context::{Tally, add_tally};
use plugin::{Plugin, Role};
use postgres::OpenDatabase;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use course::{Course, Save, Saved, When};
use dump::{Dumped, dump};
use record::record;

/// Time limit for opening a source. Connecting to a database has a shorter limit.
const OPEN_TIME_MAX: Duration = Duration::from_secs(120);

/// The command-line arguments.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Arguments {
    /// Name of the environment in the configuration
    #[arg(long = "env", value_name = "NAME")]
    pub environment: String,
    /// Dump every source, even if it has not changed
    #[arg(long)]
    pub force: bool,
    /// Show what would be dumped, without writing anything
    #[arg(long)]
    pub dry_run: bool,
    /// Run in this process, even if the environment has run = "job"
    #[arg(long)]
    pub here: bool,
    /// If this process is interrupted, leave the Job in the cluster running without asking
    #[arg(long, conflicts_with = "here")]
    pub leave_on_interrupt: bool,
}

struct Plugins {
    fingerprint: Plugin,
    dump: Plugin,
    retention: Plugin,
}

/// The plugin calls of a run until its record was written.
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
    /// Why the plugin could not fingerprint it.
    fingerprint_failure: Option<Error>,
    fingerprint_millis: Option<u64>,
}

/// A source, open for reading.
#[derive(Clone)]
enum Opened {
    Database(Arc<OpenDatabase>),
    Tree(Arc<Tree>),
}

/// Runs one backup. `interrupted` resolves when the run should stop: at once before the commit, between two steps after
/// it.
///
/// # Errors
/// The reason why no snapshot was committed. Later failures are in the report.
pub async fn run(
    session: &Session,
    arguments: &Arguments,
    now: Timestamp,
    interrupted: impl Future<Output = ()>,
) -> Result<Report> {
    // `init` refuses this. In an existing environment a pattern may exclude the store, and other sources are saved
    // anyway.
    if let Err(error) = session.check_apart() {
        tracing::warn!(
            "{error}: every backup then contains all earlier ones, unless the dump plugin excludes the store"
        );
    }
    let plugins = Plugins {
        fingerprint: session.plugin(Role::Fingerprint).await?,
        dump: session.plugin(Role::Dump).await?,
        retention: session.plugin(Role::Retention).await?,
    };
    if arguments.dry_run {
        return preview(session, &plugins, arguments.force, now).await;
    }
    let course = Course::of(session);
    let mut saver = Saver { session, plugins: &plugins, force: arguments.force };
    let done = course::run(&course, &mut saver, &plugins.retention, session.cluster_lease(), now, interrupted).await?;
    Ok(report::of_backup(&session.environment, done.record, done.failures, done.retention, &done.history))
}

/// Saves the configured sources through the plugins.
struct Saver<'a> {
    session: &'a Session,
    plugins: &'a Plugins,
    force: bool,
}

impl Save for Saver<'_> {
    async fn save(&mut self, lease: &Lease, history: &History, when: When) -> Result<Saved> {
        let Self { session, plugins, force } = *self;
        let mut tallies = Tallies::default();
        let now = when.id.taken();
        let mut work = open(session).await;
        evidence(session, plugins, &mut work, history, now, &mut tallies).await;
        let decisions = decide(session, plugins, &mut work, history, force, now, &mut tallies).await;
        let Dumped { sources, failures } =
            dump(session, plugins, lease, &work, &decisions, history, when.id, &mut tallies).await?;
        Ok(Saved { record: record(session, plugins, sources, history, when, &tallies), failures })
    }
}

/// Shows what a run would do. Takes no lease and writes nothing.
async fn preview(session: &Session, plugins: &Plugins, force: bool, now: Timestamp) -> Result<Report> {
    let mut tallies = Tallies::default();
    let history = session.history(now).await?;
    let id = history.free_id(now);
    let mut work = open(session).await;
    evidence(session, plugins, &mut work, &history, now, &mut tallies).await;
    let decisions = decide(session, plugins, &mut work, &history, force, now, &mut tallies).await;
    Ok(report::of_preview(
        &session.environment,
        id,
        &decisions,
        work.iter().map(|w| (w.name.as_str(), w.opened.as_ref().err())),
    ))
}

/// Opens every source, databases first, so that their snapshot is older than all documents that are read. A source that
/// cannot be opened fails alone, for any reason.
async fn open(session: &Session) -> Vec<Work> {
    let mut sources: Vec<_> = session.sources.sources.iter().collect();
    sources.sort_by_key(|(_, source)| matches!(source, Source::Directory(_)));
    let mut work = Vec::new();
    for (name, source) in sources {
        let scope = format!("{}/{name}", session.environment);
        let opening = open_one(source, scope.clone());
        let late = |_| {
            Err(Error::unavailable(format!("{scope} could not be opened within {} s", OPEN_TIME_MAX.as_secs()))
                .hint("check the server or the volume that holds it"))
        };
        let opened = tokio::time::timeout(OPEN_TIME_MAX, opening).await.unwrap_or_else(late);
        if let Err(error) = &opened {
            tracing::error!(source = %scope, "{error}");
        }
        work.push(Work {
            name: name.clone(),
            kind: source.kind().name(),
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
        Source::Postgres(config) => OpenDatabase::open(config, scope).await.map(Opened::Database),
        Source::Directory(config) => {
            // A network file system that hangs must not hang the run.
            let config = config.clone();
            let opened = tokio::task::spawn_blocking(move || Tree::open(&config, scope)).await;
            opened.map_err(|error| Error::unexpected(format!("opening the folder: {error}")))?.map(Opened::Tree)
        }
    }
}

/// Fingerprints all open sources concurrently. If the plugin fails, the source is dumped without a fingerprint; if the
/// database fails, the source fails.
async fn evidence(
    session: &Session,
    plugins: &Plugins,
    work: &mut [Work],
    history: &History,
    now: Timestamp,
    tallies: &mut Tallies,
) {
    let Some(key) = history.seal_key() else {
        // A seal without a key would let anyone confirm a guessed row.
        tracing::warn!("fingerprints need the key in the environment's file; without it every source is saved");
        return;
    };
    let spinner = base::telemetry::spinner("fingerprinting");
    let plugin = &plugins.fingerprint;
    let calls = work.iter().map(|source| async move {
        let began = session.clock.now();
        let called = match source.opened.as_ref().ok()?.clone() {
            Opened::Database(database) => {
                // Plugins usually ask for the same selection as last time.
                database.list_ahead(history.selected(&source.name, now));
                plugin.measure_database(database).await
            }
            Opened::Tree(tree) => plugin.measure_tree(plugin::capabilities::documents::EvidenceTree(tree)).await,
        };
        Some((called, session.clock.millis_since(began)))
    });
    let answers = join_all(calls).await;
    spinner.finish_and_clear();
    for (source, called) in work.iter_mut().zip(answers) {
        let Some((called, millis)) = called else { continue };
        source.fingerprint_millis = Some(millis);
        add_tally(&mut tallies.fingerprint, called.tally);
        match called.result {
            Ok(measured) => {
                let fingerprint = key.seal(measured);
                tracing::debug!(source = %source.name, fingerprint = %fingerprint.value, "{}", fingerprint.basis);
                source.fingerprint = Some(fingerprint);
            }
            Err(error) => {
                tracing::error!(source = %format!("{}/{}", session.environment, source.name), "{error}");
                match error.class() {
                    Class::PluginTrapped | Class::PluginRefused => source.fingerprint_failure = Some(error),
                    _ => source.opened = Err(error),
                }
            }
        }
    }
}

/// Asks the dump plugin what to do with each open source, and checks the answer. If the plugin fails or its answer is
/// invalid, all these sources fail.
async fn decide(
    session: &Session,
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
            let same = !catalogue::judgement::is_another(seen::identity(opened).as_deref(), &source.name, history, now);
            let carried = history.carried(&source.name, now).filter(|_| same);
            let before = carried.as_ref().and_then(|(state, _)| state.fingerprint.as_deref());
            let evidence = compared(source.fingerprint.as_ref(), before, history.selected(&source.name, now));
            let carried = carried.map(|(state, object)| dumping::Carried {
                made: object.made.as_second(),
                bytes: object.bytes,
                present: state.object.as_ref().is_some_and(|object| object.present),
            });
            Some(dumping::Source { name: source.name.clone(), kind, evidence, carried })
        })
        .collect();
    if asked.is_empty() {
        return Vec::new();
    }
    let called = plugins.dump.plan_dumps(now, force, &asked).await;
    add_tally(&mut tallies.dump, called.tally);
    match called.result.and_then(|decisions| checked(session, plugins, &asked, decisions)) {
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

/// Compares this run's fingerprint with the one of the stored object.
fn compared(now: Option<&Fingerprint>, before: Option<&str>, selected: &[Selected]) -> dumping::Evidence {
    match (now, before.filter(|before| !before.is_empty())) {
        (None, _) | (_, None) => dumping::Evidence::Missing,
        (Some(now), Some(before)) if now.value == before => dumping::Evidence::Unchanged,
        (Some(now), Some(before)) if now.selected == selected && now.is_sealed_as(before) => dumping::Evidence::Changed,
        (Some(_), Some(_)) => dumping::Evidence::Incomparable,
    }
}

fn checked(
    session: &Session,
    plugins: &Plugins,
    asked: &[dumping::Source],
    decisions: Vec<dumping::Decision>,
) -> Result<Vec<dumping::Decision>> {
    let answered: BTreeSet<&str> = decisions.iter().map(|decision| decision.source.as_str()).collect();
    let expected: BTreeSet<&str> = asked.iter().map(|source| source.name.as_str()).collect();
    if answered != expected || decisions.len() != asked.len() {
        return Err(plugins.dump.refused("its plan does not have exactly one decision for every source"));
    }
    for decision in decisions.iter().filter(|decision| decision.action == dumping::Action::Carry) {
        let there = asked.iter().any(|s| s.name == decision.source && s.carried.as_ref().is_some_and(|c| c.present));
        if !there {
            return Err(plugins.dump.refused(format!(
                "it reports `{}/{}` as unchanged, but the store has no object of it",
                session.environment, decision.source
            )));
        }
    }
    Ok(decisions)
}
