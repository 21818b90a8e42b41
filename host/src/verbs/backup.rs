//! One run: from the lease to the report, one call a phase.
//!
//! The record is written last. Whatever stops a run before that leaves every listed snapshot restorable and no
//! object of the run behind; whatever stops it after that leaves a snapshot and a retention to repeat. A source that fails
//! never keeps another one from being saved.

pub mod course;
mod dump;
mod record;
mod seen;

use crate::config::Source;
use crate::report::{self, Report};
use crate::session::Host;
use base::error::{Class, Error, Result};
use base::evidence::{Fingerprint, Selected};
use catalogue::history::{self, History};
use catalogue::lease::Lease;
use documents::{self, Tree};
use futures::future::join_all;
use jiff::Timestamp;
use plugin::call::dumping;
use plugin::context::{Tally, add};
use plugin::{Plugin, Role};
use postgres::Session;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use course::{Course, Save, Saved, When};
use dump::{Dumped, dump};
use record::record;

/// How long opening a source may take. A database has a shorter limit of its own for connecting.
const OPEN_TIME_MAX: Duration = Duration::from_secs(120);

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
    // `init` refuses it; who has it already may leave the store out by a pattern, and another source is saved in any case.
    if let Err(error) = host.check_apart() {
        tracing::warn!("{error}: it grows by every backup of itself, unless the dump plugin leaves it out");
    }
    let plugins = Plugins {
        fingerprint: host.plugin(Role::Fingerprint).await?,
        dump: host.plugin(Role::Dump).await?,
        retention: host.plugin(Role::Retention).await?,
    };
    if options.dry_run {
        return preview(host, &plugins, options, now).await;
    }
    let course = Course::of(host);
    let mut saver = Saver { host, plugins: &plugins, force: options.force };
    let done = course::run(&course, &mut saver, &plugins.retention, host.cluster_lease(), now, interrupted).await?;
    Ok(report::of_backup(host, done.record, done.failures, done.retention, &done.history))
}

/// Saves the configured sources through the plugins.
struct Saver<'a> {
    host: &'a Host,
    plugins: &'a Plugins,
    force: bool,
}

impl Save for Saver<'_> {
    async fn save(&mut self, lease: &Lease, history: &History, when: When) -> Result<Saved> {
        let Self { host, plugins, force } = *self;
        let mut tallies = Tallies::default();
        let now = when.id.taken();
        let mut work = open(host).await;
        evidence(host, plugins, &mut work, history, now, &mut tallies).await;
        let decisions = decide(host, plugins, &mut work, history, force, now, &mut tallies).await;
        let Dumped { sources, failures } =
            dump(host, plugins, lease, &work, &decisions, history, when.id, &mut tallies).await?;
        Ok(Saved { record: record(host, plugins, sources, history, when, &tallies), failures })
    }
}

/// What a run would do, up to the decision. Takes no lease and writes nothing.
async fn preview(host: &Host, plugins: &Plugins, options: Options, now: Timestamp) -> Result<Report> {
    let mut tallies = Tallies::default();
    let history = history::load(&host.store, &host.environment, &host.sources.configured, now).await?;
    let id = history.free_id(now);
    let mut work = open(host).await;
    evidence(host, plugins, &mut work, &history, now, &mut tallies).await;
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
async fn evidence(
    host: &Host,
    plugins: &Plugins,
    work: &mut [Work],
    history: &History,
    now: Timestamp,
    tallies: &mut Tallies,
) {
    let Some(key) = history.seal_key() else {
        // A seal without a key would tell whoever guesses a row that the guess is right.
        tracing::warn!("fingerprints need the key that `init` draws; without it every source is saved");
        return;
    };
    let spinner = base::telemetry::spinner("fingerprinting");
    let plugin = &plugins.fingerprint;
    let calls = work.iter().map(|source| async move {
        let began = host.clock.now();
        let called = match source.opened.as_ref().ok()?.clone() {
            Opened::Database(session) => {
                // As a rule a plugin asks for what it asked for last time.
                session.list_ahead(history.selected(&source.name, now));
                plugin.of_database(session).await
            }
            Opened::Tree(tree) => plugin.of_tree(plugin::capabilities::documents::EvidenceTree(tree)).await,
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
            Ok(measured) => {
                let fingerprint = key.seal(measured);
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
            let same = !catalogue::judgement::is_another(seen::identity(opened).as_deref(), &source.name, history, now);
            let carried = history.carried(&source.name, now).filter(|_| same);
            let before = carried.as_ref().map(|(state, _)| state.fingerprint.as_str());
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

/// What this run's fingerprint says beside the one that the object was made with.
fn compared(now: Option<&Fingerprint>, before: Option<&str>, selected: &[Selected]) -> dumping::Evidence {
    match (now, before.filter(|before| !before.is_empty())) {
        (None, _) | (_, None) => dumping::Evidence::Missing,
        (Some(now), Some(before)) if now.value == before => dumping::Evidence::Unchanged,
        (Some(now), Some(before)) if now.selected == selected && now.is_sealed_as(before) => dumping::Evidence::Changed,
        (Some(_), Some(_)) => dumping::Evidence::Incomparable,
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
