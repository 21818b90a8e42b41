//! `drill`: the monthly proof for an auditor. It restores a snapshot to a scratch place, checks the database, the
//! documents and both together, times every step, and stores a dated report: a JSON file, and a page to print.
//!
//! It takes no lease, touches nothing that a person uses, and leaves nothing but the report and a verification record.

mod page;

use crate::archive;
use crate::choice;
use crate::crosscheck;
use crate::rehearsal::{Place, Rehearsal, Stage};
use crate::report::{self, Report};
use crate::saved::SavedSource;
use crate::session::Session;
use crate::verification::{self, Chain};
use base::error::{Class, Error, Result};
use base::stream::run_until_interrupted;
use base::text::counted;
use bytes::Bytes;
use catalogue::history::{History, Snapshot};
use catalogue::proof::{CrosscheckReport, CrosscheckVerdict};
use catalogue::proof::{Depth, Drill, FORMAT_VERSION, SourceProof};
use catalogue::record::{PluginRecord, to_bytes};
use documents::{self, Tree};
use indicatif::{HumanBytes, HumanDuration};
use jiff::tz::TimeZone;
use postgres::OpenDatabase;
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::pin::pin;
use std::time::Duration;
use store::Created;
use tokio_util::sync::CancellationToken;

/// Number of reports that are read, newest first, to find the one to compare with.
const DRILLS_READ_MAX: usize = 24;

/// Number of paths per kind that are printed; the report has more.
const PATHS_SHOWN_MAX: usize = 10;

/// The command-line arguments.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Name of the environment in the configuration
    #[arg(long = "env", value_name = "NAME")]
    pub environment: String,
    /// Drill the oldest complete snapshot instead of the newest, to check that old backups can still be restored
    #[arg(long)]
    oldest: bool,
    #[command(flatten)]
    stage: Stage,
}

/// The results of the steps.
struct Rehearsed {
    sources: BTreeMap<String, SourceProof>,
    crosscheck: Option<CrosscheckReport>,
    crosscheck_failed: Option<PluginRecord>,
    server: Option<String>,
}

/// Drills, and stores the report.
///
/// # Errors
/// Without a snapshot, and when the store or the server fails. Problems with the snapshot are in the report, as a
/// failure of class [`Class::Stale`].
pub async fn run(session: &Session, arguments: &Arguments, interrupted: impl Future<Output = ()>) -> Result<Report> {
    let stop = CancellationToken::new();
    let _stop_on_drop = stop.clone().drop_guard();
    let history = session.history(session.clock.now()).await?;
    let id = verification::moment(&history, session.clock.now());
    let snapshot = chosen(session, &history, arguments.oldest)?;
    let chain = verification::check_chain(&session.store, &session.environment, &history).await?;
    let mut rehearsal = Rehearsal::begin(session, &arguments.stage)?;
    let work = rehearse(session, &history, snapshot, &mut rehearsal, &stop);
    let done = run_until_interrupted(pin!(interrupted), work).await;
    // What was restored is always removed; the first failure is reported.
    let ended = rehearsal.end().await;
    let (outcome, phases) = (done?, ended?);
    let verification = verification::conclude(session, snapshot, id, Depth::Deep, outcome.sources, &chain);
    verification::store_unless_known(session, &history, id, &verification).await?;
    let shrunk_logs = match &outcome.crosscheck {
        Some(crosscheck) => shrunk_logs(session, snapshot, crosscheck).await?,
        None => Vec::new(),
    };
    let together = outcome.crosscheck.as_ref().is_none_or(CrosscheckReport::passed) && shrunk_logs.is_empty();
    // A failure that is no finding about the snapshot is in the step where it happened.
    let done = phases.iter().all(|phase| phase.failure.is_none());
    let drill = Drill {
        format_version: FORMAT_VERSION,
        id,
        environment: session.environment.to_string(),
        snapshot: snapshot.id,
        time_zone: session.time_zone_name().to_owned(),
        finished: session.clock.now(),
        host_version: env!("CARGO_PKG_VERSION").to_owned(),
        server: outcome.server,
        passed: verification.passed
            && verification.chain.is_empty()
            && together
            && done
            && verification.sources.values().all(|source| source.untried.is_none()),
        phases,
        sources: verification.sources,
        crosscheck: outcome.crosscheck,
        crosscheck_failed: outcome.crosscheck_failed,
        shrunk_logs,
        chain: verification.chain,
    };
    store(session, &drill).await?;
    Ok(report(&session.time_zone, &drill, &chain))
}

/// The snapshot that is restored.
fn chosen<'h>(session: &Session, history: &'h History, oldest: bool) -> Result<&'h Snapshot> {
    if !oldest {
        return choice::newest(history, &session.time_zone);
    }
    history.snapshots.iter().find(|snapshot| snapshot.complete).ok_or_else(|| {
        Error::new(Class::Usage, format!("{} has no complete snapshot to drill", session.environment))
            .hint("make one with `backup`")
    })
}

/// Runs the steps, one call each.
async fn rehearse(
    session: &Session,
    history: &History,
    snapshot: &Snapshot,
    rehearsal: &mut Rehearsal,
    stop: &CancellationToken,
) -> Result<Rehearsed> {
    let (mut sources, mut places) = (BTreeMap::new(), BTreeMap::new());
    for (source, state) in &snapshot.sources {
        let Some(object) = &state.object else { continue };
        let name = format!("read {source}");
        let reading = verification::read(session, history, source, object, stop);
        let mut proof = rehearsal.time(&name, Some(object.bytes), reading).await?;
        if proof.problems.is_empty()
            && let Some(restored) =
                rehearsal.restore(SavedSource { history, snapshot, name: source, object }, stop).await?
        {
            proof = restored.proof;
            places.extend(restored.place.map(|place| (source.clone(), place)));
        }
        sources.insert(source.clone(), proof);
    }
    let whole = sources.values().all(|proof| proof.problems.is_empty() && proof.untried.is_none());
    let (crosscheck, crosscheck_failed) =
        if whole { together(session, history, snapshot, &places, rehearsal).await? } else { (None, None) };
    Ok(Rehearsed { sources, crosscheck, crosscheck_failed, server: rehearsal.describe_server() })
}

/// Runs the crosscheck on the restored database and folder. Returns its report, or the plugin's record if it failed.
/// Does nothing unless there is exactly one of each, because nobody knows which of several belong together.
///
/// # Errors
/// If the server cannot be reached any more. A plugin that fails is the step's failure.
async fn together(
    session: &Session,
    history: &History,
    snapshot: &Snapshot,
    places: &BTreeMap<String, Place>,
    rehearsal: &mut Rehearsal,
) -> Result<(Option<CrosscheckReport>, Option<PluginRecord>)> {
    let databases = places.iter().filter_map(|(name, place)| match place {
        Place::Database(config) => Some((name, config)),
        Place::Folder(_) => None,
    });
    let folders = places.iter().filter_map(|(name, place)| match place {
        Place::Folder(path) => Some((name, path)),
        Place::Database(_) => None,
    });
    let (databases, folders): (Vec<_>, Vec<_>) = (databases.collect(), folders.collect());
    let ([(database, config)], [(folder, path)]) = (databases.as_slice(), folders.as_slice()) else {
        return Ok((None, None));
    };
    let tree = documents::FolderConfig { path: (*path).clone() };
    let archive =
        snapshot.sources.get(*folder).and_then(|state| archive::recorded(history, &state.object.as_ref()?.key));
    let exclude = archive.map(|archive| archive.exclude.as_slice()).unwrap_or_default();
    let mut did = None;
    let look = async {
        let opened = OpenDatabase::open(config, format!("{}/{database}", session.environment)).await?;
        let report = match Tree::open(&tree, format!("{}/{folder}", session.environment)) {
            Ok(tree) => crosscheck::run(session, &opened, &tree, exclude, history.seal_key()).await.map_err(|failed| {
                did = failed.plugin;
                failed.error
            }),
            Err(error) => Err(error),
        };
        opened.close().await;
        report
    };
    match rehearsal.time("look at both together", None, look).await {
        Ok(report) => Ok((Some(report), None)),
        Err(error) if error.class() == Class::Unavailable => Err(error),
        Err(error) => {
            tracing::error!("{error}");
            Ok((None, did))
        }
    }
}

/// Compares each signed log with the last drill of this snapshot or an earlier one. Such a log only grows, so one that
/// became shorter is a problem.
async fn shrunk_logs(session: &Session, snapshot: &Snapshot, found: &CrosscheckReport) -> Result<Vec<String>> {
    let listed = session.store.list(&format!("{}/drills/", session.environment)).await?;
    let reports = listed.into_iter().rev().map(|meta| meta.key).filter(|key| key.as_str().ends_with(".json"));
    for key in reports.take(DRILLS_READ_MAX) {
        // Skip unreadable reports.
        let read = session.store.get(&key).await?.and_then(|bytes| Drill::parse(&bytes).ok());
        let Some(drill) = read.filter(|drill| drill.snapshot <= snapshot.id) else { continue };
        let Some(before) = drill.crosscheck else { continue };
        let shrunk = before.heads.iter().filter_map(|then| {
            let now = found.heads.iter().find(|head| head.log == then.log);
            let entries = now.map_or(0, |head| head.entries);
            (entries < then.entries).then(|| {
                format!("the log {} has {entries} entries, and had {} in {}", then.log, then.entries, drill.snapshot)
            })
        });
        return Ok(shrunk.collect());
    }
    Ok(Vec::new())
}

/// Stores the report. The page is stored first, so that it exists whenever the JSON report does.
async fn store(session: &Session, drill: &Drill) -> Result<()> {
    let (json, html) = Drill::keys(&session.environment, drill.id)?;
    let page = Bytes::from(page::of(drill, &session.time_zone));
    for (key, body) in [(html, page), (json, Bytes::from(to_bytes(drill)?))] {
        match session.store.create(&key, body).await? {
            Created::Created => {}
            Created::Exists => {
                return Err(Error::unexpected(format!("{key} exists already")).hint("run the drill again"));
            }
        }
    }
    Ok(())
}

/// A span of time for people, to a tenth of a second where it is short.
fn span(millis: u64) -> String {
    if millis < 100_000 {
        format!("{}.{} s", millis / 1_000, millis % 1_000 / 100)
    } else {
        HumanDuration(Duration::from_millis(millis)).to_string()
    }
}

/// Everything that is wrong.
fn problems(drill: &Drill) -> Vec<String> {
    let of_sources = drill
        .sources
        .iter()
        .flat_map(|(name, source)| source.problems.iter().map(move |problem| format!("{name}: {problem}")));
    let of_both = drill.crosscheck.iter().flat_map(CrosscheckReport::failed);
    let of_both = of_both.map(|finding| format!("{}: {}", finding.name, finding.detail));
    let of_steps = drill.phases.iter().filter_map(|phase| Some(format!("{}: {}", phase.name, phase.failure.as_ref()?)));
    let all = of_sources.chain(of_both).chain(drill.shrunk_logs.iter().cloned());
    all.chain(of_steps).chain(drill.chain.iter().cloned()).collect()
}

/// A verdict for people.
const fn verdict(verdict: CrosscheckVerdict) -> &'static str {
    match verdict {
        CrosscheckVerdict::Passed => "passed",
        CrosscheckVerdict::Noted => "noted",
        CrosscheckVerdict::Failed => "FAILED",
        CrosscheckVerdict::Skipped => "skipped",
    }
}

fn report(zone: &TimeZone, drill: &Drill, chain: &Chain) -> Report {
    let taken = report::local(drill.snapshot.taken(), zone);
    let outcome = if drill.passed { "passed" } else { "FAILED" };
    let mut text =
        format!("drill {} of {}: snapshot {} of {taken}: {outcome}\n", drill.id, drill.environment, drill.snapshot);
    for phase in &drill.phases {
        let bytes = phase.bytes.map(|bytes| format!("  {}", HumanBytes(bytes))).unwrap_or_default();
        let failure = phase.failure.as_ref().map(|why| format!("  failed: {why}")).unwrap_or_default();
        let _ = writeln!(text, "  {:<22} {:>9}{bytes}{failure}", phase.name, span(phase.millis));
    }
    for (name, source) in &drill.sources {
        text.push_str(&verification::source_text(name, source));
    }
    if let Some(crosscheck) = &drill.crosscheck {
        let compared = counted(crosscheck.compared, "document");
        let _ = writeln!(text, "  {:<10} {compared} compared with the database", "together");
        for finding in &crosscheck.findings {
            let _ = writeln!(text, "  {:<10} {}: {}, {}", "", verdict(finding.verdict), finding.name, finding.detail);
        }
        let lists =
            [("missing", &crosscheck.missing), ("altered", &crosscheck.altered), ("orphaned", &crosscheck.orphaned)];
        for (kind, paths) in lists {
            for path in paths.first.iter().take(PATHS_SHOWN_MAX) {
                let _ = writeln!(text, "  {:<10} {kind}: {path}", "");
            }
        }
    }
    for problem in &drill.shrunk_logs {
        let _ = writeln!(text, "  wrong: {problem}");
    }
    for problem in &drill.chain {
        let _ = writeln!(text, "  wrong: {problem}");
    }
    for note in &chain.notes {
        let _ = writeln!(text, "  note: {note}");
    }
    let _ = writeln!(text, "the report is in the store: {}/drills/{}.json and .html", drill.environment, drill.id);
    let problems = problems(drill);
    let untried = verification::untried(drill.sources.values()).filter(|_| problems.is_empty());
    let failure = (!drill.passed && untried.is_none()).then(|| {
        let first = problems.first().map_or("the snapshot is incomplete", String::as_str);
        Error::new(Class::Stale, format!("the drill of {} failed: {first}", drill.environment))
            .hint("the report in the store lists all problems; `verify --all` shows which snapshots are whole")
    });
    let document =
        json!({ "format_version": report::FORMAT_VERSION, "environment": drill.environment, "drill": drill });
    Report { document, text, failure: failure.or(untried) }
}
