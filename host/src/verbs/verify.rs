//! `verify`: whether what the store holds is what was put there, and whether it comes back.
//!
//! Objects are read to their end and held against the record, the records against each other, and with `--deep` each source
//! is restored to a scratch place and compared. It takes no lease, and writes nothing but the record of what it found.

mod chain;
mod objects;

pub use chain::{Chain, check as check_chain};
pub use objects::read;

use crate::choice::{self, Wanted, Which};
use crate::rehearsal::{Rehearsal, Stage};
use crate::report::{self, Report};
use crate::session::Host;
use base::error::{Class, Error, Result};
use base::id::SnapshotId;
use base::stream::unless;
use bytes::Bytes;
use catalogue::environment::{KnownFailure, Stored};
use catalogue::history::{self, History, Snapshot, State};
use catalogue::proof::{Depth, FORMAT_VERSION, Mark, SourceProof, Verification, finding};
use catalogue::record::{Condition, to_bytes};
use jiff::Timestamp;
use rand::seq::IndexedRandom;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::pin::pin;
use store::ObjectKey;
use tokio_util::sync::CancellationToken;

/// What the person asked for.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Environment, as the configuration names it
    #[arg(long = "env", value_name = "NAME")]
    pub environment: String,
    /// This snapshot, as `list` names it; without it the newest complete one
    #[arg(long, value_name = "ID", conflicts_with_all = ["all", "sample"])]
    snapshot: Option<String>,
    /// Every snapshot
    #[arg(long, conflicts_with = "sample")]
    all: bool,
    /// The newest complete snapshot and so many others by chance
    #[arg(long, value_name = "N")]
    sample: Option<usize>,
    /// Restore each source to a scratch place and compare it with the record
    #[arg(long)]
    deep: bool,
    #[command(flatten)]
    stage: Stage,
}

/// What was found of each object or restored source, so that nothing is read twice.
type Found = BTreeMap<(ObjectKey, String), SourceProof>;

/// Verifies, and stores what it found of each snapshot.
///
/// # Errors
/// What keeps it from being done: [`Class::Usage`] for a snapshot that there is not, the store's, a server that cannot be had.
/// What is wrong with the snapshots is in the report, as a failure of class [`Class::Stale`].
pub async fn run(host: &Host, arguments: &Arguments, interrupted: impl Future<Output = ()>) -> Result<Report> {
    let stop = CancellationToken::new();
    let _stop_on_drop = stop.clone().drop_guard();
    let mut interrupted = pin!(interrupted);
    let history = history::load(&host.store, &host.environment, &host.sources.configured, host.clock.now()).await?;
    let at = moment(&history, host.clock.now());
    let chosen = chosen(host, &history, arguments)?;
    let chain = check_chain(&host.store, &host.environment, &history).await?;
    let found = unless(interrupted.as_mut(), read_all(host, &history, &chosen, &stop)).await?;
    let (depth, restored) = if arguments.deep {
        let mut rehearsal = Rehearsal::begin(host, &arguments.stage)?;
        let work = restore_all(host, &history, &chosen, &found, &mut rehearsal, &stop);
        let done = unless(interrupted, work).await;
        // What was restored goes in any case; the first failure is the one that is told.
        let ended = rehearsal.end().await;
        let restored = done?;
        ended?;
        (Depth::Deep, restored)
    } else {
        (Depth::Read, Found::new())
    };
    let mut verifications = Vec::new();
    for snapshot in chosen {
        let sources = proofs(snapshot, &found, &restored);
        let whole = sources.values().all(|source| source.problems.is_empty());
        if snapshot.damage.is_none() && snapshot.sources.values().all(|state| state.object.is_none()) {
            tracing::info!(snapshot = %snapshot.id, "holds nothing to verify: every source failed in that run");
            continue;
        }
        if !whole && is_forgotten(host, snapshot).await? {
            tracing::info!(snapshot = %snapshot.id, "was forgotten meanwhile");
            continue;
        }
        let verification = conclude(host, snapshot, at, depth, sources, &chain);
        store(host, &history, at, &verification).await?;
        verifications.push(verification);
    }
    Ok(report(host, &history, &verifications, &chain))
}

/// The moment of a verification that begins now: after every other one, so that two in one second are in order. One from the
/// future was made under a wrong clock and is passed over.
#[must_use]
pub fn moment(history: &History, now: Timestamp) -> SnapshotId {
    let others = history.verifications.iter().filter(|mark| !mark.is_from_the_future(now)).map(|mark| mark.at);
    let newest = others.max();
    SnapshotId::at(now).max(newest.map_or(SnapshotId::at(now), SnapshotId::next))
}

/// The snapshots that are meant, newest first.
fn chosen<'h>(host: &Host, history: &'h History, arguments: &Arguments) -> Result<Vec<&'h Snapshot>> {
    if arguments.all {
        let all: Vec<_> = history.snapshots.iter().rev().collect();
        return if all.is_empty() { Err(nothing(host)) } else { Ok(all) };
    }
    let first = if arguments.snapshot.is_some() {
        let which = Which { at: None, snapshot: arguments.snapshot.clone() };
        choice::snapshot(history, &which, Wanted::All, &host.time_zone)?
    } else {
        choice::newest(history, &host.time_zone)?
    };
    let others: Vec<_> = history.snapshots.iter().filter(|other| other.complete && other.id != first.id).collect();
    let mut chosen = vec![first];
    chosen.extend(others.sample(&mut rand::rng(), arguments.sample.unwrap_or(0)));
    chosen.sort_by_key(|snapshot| std::cmp::Reverse(snapshot.id));
    Ok(chosen)
}

fn nothing(host: &Host) -> Error {
    Error::new(Class::Usage, format!("{} has no snapshot to verify", host.environment)).hint("make one with `backup`")
}

/// Reads every object of the snapshots, each once.
async fn read_all(host: &Host, history: &History, snapshots: &[&Snapshot], stop: &CancellationToken) -> Result<Found> {
    let mut found = Found::new();
    for (source, state) in snapshots.iter().flat_map(|snapshot| &snapshot.sources) {
        let Some(object) = &state.object else { continue };
        let known = (object.key.clone(), String::new());
        if found.contains_key(&known) {
            continue;
        }
        tracing::info!(object = %object.key, "reading");
        found.insert(known, read(host, history, source, object, stop).await?);
    }
    Ok(found)
}

/// Restores every source of the snapshots that was read without a finding, each state of it once.
async fn restore_all(
    host: &Host,
    history: &History,
    snapshots: &[&Snapshot],
    found: &Found,
    rehearsal: &mut Rehearsal,
    stop: &CancellationToken,
) -> Result<Found> {
    let mut restored = Found::new();
    let states = snapshots
        .iter()
        .flat_map(|snapshot| snapshot.sources.iter().map(move |(name, state)| (*snapshot, name, state)));
    for (snapshot, source, state) in states {
        let Some(object) = &state.object else { continue };
        let whole = found.get(&(object.key.clone(), String::new())).is_some_and(|proof| proof.problems.is_empty());
        let known = (object.key.clone(), state.fingerprint.clone());
        if !whole || restored.contains_key(&known) {
            continue;
        }
        // What no configuration has any more is restored all the same.
        let done = match history.sources.get(source).map(String::as_str) {
            Some("postgres") => rehearsal.database(host, history, snapshot, source, object, stop).await?,
            Some("directory") => rehearsal.documents(host, history, snapshot, source, object, stop).await?,
            Some(_) | None => continue,
        };
        rehearsal.discard(done.place.as_ref()).await?;
        restored.insert(known, done.proof);
    }
    Ok(restored)
}

/// Whether a run that held the lease has forgotten a snapshot since the history was read, and may have pruned its objects.
async fn is_forgotten(host: &Host, snapshot: &Snapshot) -> Result<bool> {
    let certificate = catalogue::keys::certificate_key(&host.environment, snapshot.id)?;
    let record = catalogue::keys::record_key(&host.environment, snapshot.id)?;
    Ok(host.store.head(&certificate).await?.is_some() && host.store.head(&record).await?.is_none())
}

/// What was found of each source of a snapshot.
fn proofs(snapshot: &Snapshot, found: &Found, restored: &Found) -> BTreeMap<String, SourceProof> {
    let of = |state: &history::State| {
        let Some(object) = &state.object else {
            // The record says so, and promises nothing of it.
            return SourceProof { holds: Some("the run saved nothing of it".to_owned()), ..SourceProof::default() };
        };
        let deep = restored.get(&(object.key.clone(), state.fingerprint.clone()));
        let read = found.get(&(object.key.clone(), String::new()));
        let mut proof = read.cloned().unwrap_or_default();
        if let Some(deep) = deep {
            proof.problems.extend(deep.problems.iter().cloned());
            proof.holds = deep.holds.clone().or(proof.holds);
            (proof.compared, proof.comparison) = (deep.compared.clone(), deep.comparison.clone());
            (proof.untried, proof.notes) = (deep.untried.clone(), deep.notes.clone());
        }
        if matches!(state.condition, Condition::Partial | Condition::Suspect) {
            proof.holds = proof.holds.map(|holds| format!("{holds} ({})", state.condition));
        }
        proof
    };
    snapshot.sources.iter().map(|(name, state)| (name.clone(), of(state))).collect()
}

/// Puts the record of one verification together.
#[must_use]
pub fn conclude(
    host: &Host,
    snapshot: &Snapshot,
    at: SnapshotId,
    depth: Depth,
    sources: BTreeMap<String, SourceProof>,
    chain: &Chain,
) -> Verification {
    let own = chain.problems.iter().any(|(id, _)| *id == snapshot.id);
    // What could not be tried was read to its end, and no more is known of it.
    let depth = if sources.values().any(|source| source.untried.is_some()) { Depth::Read } else { depth };
    let whole = snapshot.damage.is_none() && sources.values().all(|source| source.problems.is_empty());
    Verification {
        format_version: FORMAT_VERSION,
        snapshot: snapshot.id,
        environment: host.environment.to_string(),
        started: at.taken(),
        finished: host.clock.now(),
        host_version: env!("CARGO_PKG_VERSION").to_owned(),
        depth,
        passed: whole && !own,
        record_sha256: snapshot.record_sha256.clone(),
        sources,
        chain: chain.problems.iter().map(|(_, problem)| problem.clone()).collect(),
    }
}

/// Stores what was found, so that the guard knows of it; not what a person knows already, which would be asked about anew.
///
/// # Errors
/// The store's.
pub async fn store(host: &Host, history: &History, at: SnapshotId, verification: &Verification) -> Result<()> {
    if found_nothing_new(history, verification) {
        return Ok(());
    }
    let Verification { snapshot, depth, passed, .. } = *verification;
    let key = Mark { snapshot, at, depth, passed }.key(&host.environment)?;
    // One that exists was made in the same second of the same snapshot, and says the same.
    host.store.create(&key, Bytes::from(to_bytes(verification)?)).await.map(drop)
}

/// Whether a person knows of a problem with a source of a snapshot: its object is given up and is missing still, or a verification
/// found the same before.
fn is_accepted(history: &History, snapshot: SnapshotId, source: &str, problem: &str) -> bool {
    let Some(Stored { file, .. }) = &history.environment else { return false };
    let known = file.known_failures.get(&snapshot);
    let is_there = history.snapshot(snapshot).and_then(|of| of.sources.get(source)).is_some_and(State::is_restorable);
    // What was sound in between is damaged anew.
    let was_sound = |known: &KnownFailure| {
        history.verifications.iter().any(|mark| mark.snapshot == snapshot && mark.passed && mark.at > known.at)
    };
    let known = known.filter(|known| !was_sound(known));
    (file.has_given_up(snapshot, source) && !is_there)
        || known.is_some_and(|known| known.problems.contains(&finding(source, problem)))
}

/// Whether a verification found nothing that a person does not know.
fn found_nothing_new(history: &History, verification: &Verification) -> bool {
    let Verification { snapshot, sources, passed, chain, .. } = verification;
    let own = chain.is_empty() && history.snapshot(*snapshot).is_some_and(|snapshot| snapshot.damage.is_none());
    let known = |(name, source): (&String, &SourceProof)| {
        source.problems.iter().all(|problem| is_accepted(history, *snapshot, name, problem))
    };
    !passed && own && sources.iter().all(known)
}

fn report(host: &Host, history: &History, verifications: &[Verification], chain: &Chain) -> Report {
    let mut text = String::new();
    for verification in verifications {
        let whole = verification.sources.values().all(|source| source.problems.is_empty());
        let verdict = match (verification.passed, whole) {
            (true, _) => "passed",
            (false, true) => "FAILED: its record is not in order",
            (false, false) => "FAILED",
        };
        let taken = report::local(verification.snapshot.taken(), &host.time_zone);
        let _ = writeln!(text, "snapshot {} of {}, taken {taken}: {verdict}", verification.snapshot, host.environment);
        for (name, source) in &verification.sources {
            text.push_str(&source_text(name, source));
            let known = |problem: &String| is_accepted(history, verification.snapshot, name, problem);
            if !source.problems.is_empty() && source.problems.iter().all(known) {
                let _ = writeln!(text, "  {:<10} note: that is known (accepted)", "");
            }
        }
    }
    let failure = failure(host, history, verifications, chain);
    let (records, certificates) = (chain.records, chain.certificates);
    let state = if chain.problems.is_empty() { "unbroken" } else { "BROKEN" };
    let _ = writeln!(text, "chain {state}: {records} records, {certificates} certificates of forgotten ones");
    for (_, problem) in &chain.problems {
        let _ = writeln!(text, "  wrong: {problem}");
    }
    for note in &chain.notes {
        let _ = writeln!(text, "  note: {note}");
    }
    let document = json!({
        "format_version": report::FORMAT_VERSION,
        "environment": host.environment.as_str(),
        "passed": failure.is_none(),
        "verifications": verifications,
        "chain": {
            "records": records,
            "certificates": certificates,
            "problems": chain.problems.iter().map(|(_, problem)| problem).collect::<Vec<_>>(),
            "notes": chain.notes,
        },
    });
    Report { document, text, failure }
}

/// A source's lines in a report.
#[must_use]
pub fn source_text(name: &str, source: &SourceProof) -> String {
    let mut text = String::new();
    let key = source.object.as_ref().map_or("-", ObjectKey::as_str);
    let holds = source.holds.as_deref().map(|holds| format!(": {holds}")).unwrap_or_default();
    let _ = writeln!(text, "  {name:<10} {key}{holds}");
    if let Some(comparison) = &source.comparison {
        let _ = writeln!(text, "  {:<10} {comparison}", "");
    }
    for note in &source.notes {
        let _ = writeln!(text, "  {:<10} note: {note}", "");
    }
    if let Some(why) = &source.untried {
        let _ = writeln!(text, "  {:<10} could not be tried: {why}", "");
    }
    for problem in &source.problems {
        let _ = writeln!(text, "  {:<10} wrong: {problem}", "");
    }
    text
}

/// What nothing is wrong with, as far as it could be tried.
#[must_use]
pub fn untried<'p>(proofs: impl Iterator<Item = &'p SourceProof>) -> Option<Error> {
    let why: BTreeSet<&String> = proofs.filter_map(|proof| proof.untried.as_ref()).collect();
    let first = why.first()?;
    let others = match why.len() - 1 {
        0 => String::new(),
        count => format!(" (and {count} more)"),
    };
    Some(
        Error::config(format!("a restore could not be tried: {first}{others}"))
            .hint("what was read is whole; try it where what is missing is there, as with --server"),
    )
}

fn failure(host: &Host, history: &History, verifications: &[Verification], chain: &Chain) -> Option<Error> {
    let sources =
        verifications.iter().flat_map(|of| of.sources.iter().map(|(name, source)| (of.snapshot, name, source)));
    let problems =
        sources.flat_map(|(id, name, source)| source.problems.iter().map(move |problem| (id, name, problem)));
    let open = problems.filter(|(id, name, problem)| !is_accepted(history, *id, name, problem));
    let of_objects: BTreeSet<&String> = open.map(|(_, _, problem)| problem).collect();
    let is_whole = of_objects.is_empty();
    let problems: BTreeSet<&String> =
        of_objects.into_iter().chain(chain.problems.iter().map(|(_, problem)| problem)).collect();
    let Some(first) = problems.first() else { return untried(verifications.iter().flat_map(|of| of.sources.values())) };
    let text = match problems.len() {
        1 => format!("the verification of {} failed: {first}", host.environment),
        count => format!("the verification of {} found {count} things wrong, first: {first}", host.environment),
    };
    let hint = if is_whole {
        format!("put a copy of the record back; if there is none, run `accept --env {} --lost`", host.environment)
    } else {
        "keep what is there; run a backup with --force, and look for a copy of what is damaged".to_owned()
    };
    Some(Error::new(Class::Stale, text).hint(hint))
}
