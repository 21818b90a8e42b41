//! `drill`: what an auditor wants once a month. A snapshot is restored to a scratch place, both halves are looked at alone and
//! together, every step is timed, and a dated report is left in the store: one file for machines, one page for the binder.
//!
//! It takes no lease, touches nothing that a person uses, and leaves nothing but the report and a verification record.

mod page;

use crate::choice::{self, Which};
use crate::config::Source;
use crate::error::{Class, Error, Result};
use crate::history::{self, History, Snapshot};
use crate::host::Host;
use crate::proof::{CrossCheck, Depth, Drill, FORMAT_VERSION, SourceProof};
use crate::rehearsal::{Place, Rehearsal, Stage};
use crate::report::{self, Report};
use crate::snapshot::{SnapshotId, to_bytes};
use crate::store::Created;
use crate::stream::unless;
use crate::verify::{self, Chain};
use bytes::Bytes;
use indicatif::{HumanBytes, HumanDuration};
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::pin::pin;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// What the person asked for.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Environment, as the configuration names it
    #[arg(long = "env", value_name = "NAME")]
    pub environment: String,
    /// The oldest snapshot that is a restore point, instead of the newest: whether what was kept for years still comes back
    #[arg(long)]
    oldest: bool,
    #[command(flatten)]
    stage: Stage,
}

/// What the steps came to.
struct Outcome {
    sources: BTreeMap<String, SourceProof>,
    crosscheck: Option<CrossCheck>,
    server: Option<String>,
}

/// Drills, and stores the report.
///
/// # Errors
/// What keeps it from being done: no snapshot, the store's, a server that cannot be had. What is wrong with the snapshot is in
/// the report, as a failure of class [`Class::Stale`].
pub async fn run(host: &Host, arguments: &Arguments, interrupted: impl Future<Output = ()>) -> Result<Report> {
    let stop = CancellationToken::new();
    let _stop_on_drop = stop.clone().drop_guard();
    let id = SnapshotId::at(host.clock.now());
    let history = history::load(&host.store, &host.environment, &host.sources).await?;
    let snapshot = chosen(host, &history, arguments.oldest)?;
    let chain = verify::check_chain(&host.store, &host.environment, &history).await?;
    let mut rehearsal = Rehearsal::begin(host, &arguments.stage)?;
    let work = rehearse(host, &history, snapshot, &mut rehearsal, &stop);
    let done = unless(pin!(interrupted), work).await;
    // What was restored goes in any case; the first failure is the one that is told.
    let ended = rehearsal.end().await;
    let (outcome, phases) = (done?, ended?);
    let verification = verify::conclude(host, snapshot, id, Depth::Deep, outcome.sources, &chain);
    verify::store(host, id, &verification).await?;
    let together = outcome.crosscheck.as_ref().is_none_or(|crosscheck| crosscheck.findings_total == 0);
    let drill = Drill {
        format_version: FORMAT_VERSION,
        id,
        environment: host.environment.to_string(),
        snapshot: snapshot.id,
        time_zone: host.time_zone_name().to_owned(),
        finished: host.clock.now(),
        host_version: env!("CARGO_PKG_VERSION").to_owned(),
        server: outcome.server,
        passed: verification.passed && verification.chain.is_empty() && together,
        phases,
        sources: verification.sources,
        crosscheck: outcome.crosscheck,
        chain: verification.chain,
    };
    store(host, &drill).await?;
    Ok(report(host, &drill, &chain))
}

/// The snapshot that is restored.
fn chosen<'h>(host: &Host, history: &'h History, oldest: bool) -> Result<&'h Snapshot> {
    if !oldest {
        return choice::snapshot(history, &Which::default(), &host.time_zone);
    }
    history.snapshots.iter().find(|snapshot| snapshot.complete).ok_or_else(|| {
        Error::new(Class::Usage, format!("{} has no complete snapshot to drill", host.environment))
            .hint("make one with `backup`")
    })
}

/// The steps, a call each.
async fn rehearse(
    host: &Host,
    history: &History,
    snapshot: &Snapshot,
    rehearsal: &mut Rehearsal,
    stop: &CancellationToken,
) -> Result<Outcome> {
    let (mut sources, mut places) = (BTreeMap::new(), BTreeMap::new());
    for (source, state) in &snapshot.sources {
        let Some(object) = &state.object else { continue };
        let name = format!("read {source}");
        let reading = verify::read(host, history, source, object, stop);
        let mut proof = rehearsal.time(&name, Some(object.bytes), reading).await?;
        if proof.problems.is_empty()
            && let Some(kind) = host.sources.sources.get(source)
        {
            let restored = match kind {
                Source::Postgres(_) => rehearsal.database(host, snapshot, source, object, stop).await?,
                Source::Directory(_) => rehearsal.documents(host, history, snapshot, source, object, stop).await?,
            };
            proof = restored.proof;
            places.insert(source.clone(), restored.place);
        }
        sources.insert(source.clone(), proof);
    }
    let whole = sources.values().all(|proof| proof.problems.is_empty());
    let crosscheck = if whole { together(host, snapshot, &places, rehearsal).await? } else { None };
    Ok(Outcome { sources, crosscheck, server: rehearsal.describe_server() })
}

/// Has both halves looked at together, where there is somebody who knows how.
async fn together(
    _host: &Host,
    _snapshot: &Snapshot,
    _places: &BTreeMap<String, Place>,
    _rehearsal: &mut Rehearsal,
) -> Result<Option<CrossCheck>> {
    Ok(None)
}

/// Leaves the report, the page first: whoever sees the one for machines finds the other.
async fn store(host: &Host, drill: &Drill) -> Result<()> {
    let (json, html) = Drill::keys(&host.environment, drill.id)?;
    let page = Bytes::from(page::of(drill, &host.time_zone));
    for (key, body) in [(html, page), (json, Bytes::from(to_bytes(drill)?))] {
        match host.store.create(&key, body).await? {
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
    let of_sources =
        drill.sources.iter().flat_map(|(name, source)| source.problems.iter().map(move |p| format!("{name}: {p}")));
    let of_both = drill.crosscheck.iter().flat_map(|crosscheck| crosscheck.findings.iter().cloned());
    of_sources.chain(of_both).chain(drill.chain.iter().cloned()).collect()
}

fn report(host: &Host, drill: &Drill, chain: &Chain) -> Report {
    let taken = report::local(drill.snapshot.taken(), &host.time_zone);
    let verdict = if drill.passed { "passed" } else { "FAILED" };
    let mut text =
        format!("drill {} of {}: snapshot {} of {taken}: {verdict}\n", drill.id, host.environment, drill.snapshot);
    for phase in &drill.phases {
        let bytes = phase.bytes.map(|bytes| format!("  {}", HumanBytes(bytes))).unwrap_or_default();
        let failure = phase.failure.as_ref().map(|why| format!("  failed: {why}")).unwrap_or_default();
        let _ = writeln!(text, "  {:<22} {:>9}{bytes}{failure}", phase.name, span(phase.millis));
    }
    for (name, source) in &drill.sources {
        text.push_str(&verify::source_text(name, source));
    }
    if let Some(crosscheck) = &drill.crosscheck {
        let _ = writeln!(text, "  {:<10} {}, {} findings", "together", crosscheck.basis, crosscheck.findings_total);
        for line in crosscheck.findings.iter().chain(&crosscheck.notes) {
            let _ = writeln!(text, "  {:<10} {line}", "");
        }
    }
    for problem in &drill.chain {
        let _ = writeln!(text, "  wrong: {problem}");
    }
    for note in &chain.notes {
        let _ = writeln!(text, "  note: {note}");
    }
    let _ = writeln!(text, "the report is in the store: {}/drills/{}.json and .html", host.environment, drill.id);
    let problems = problems(drill);
    let failure = (!drill.passed).then(|| {
        let first = problems.first().map_or("the snapshot is incomplete", String::as_str);
        Error::new(Class::Stale, format!("the drill of {} failed: {first}", host.environment))
            .hint("the report in the store has all of it; `verify --all` says which snapshots are whole")
    });
    let document =
        json!({ "format_version": report::FORMAT_VERSION, "environment": host.environment.as_str(), "drill": drill });
    Report { document, text, failure }
}
