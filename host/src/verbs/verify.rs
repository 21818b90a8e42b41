//! `verify`: checks whether the objects in the store are intact and can be restored.
//!
//! It reads every object to its end and checks it against the record, and checks the records against each other. With
//! `--deep` it also restores each source to a temporary location and compares it. It takes no lease, and writes only
//! the record of its findings.

use crate::choice::{self, Wanted, Which};
use crate::rehearsal::{Rehearsal, Stage};
use crate::report::{self, Report};
use crate::saved::SavedSource;
use crate::session::Session;
use crate::verification::{self, Chain};
use base::error::{Class, Error, Result};
use base::stream::run_until_interrupted;
use base::text::counted;
use catalogue::configured::Environment;
use catalogue::history::{self, History, Snapshot};
use catalogue::proof::{Depth, SourceProof, Verification};
use catalogue::record::{Condition, is_newer_format};
use jiff::tz::TimeZone;
use rand::seq::IndexedRandom;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::pin::pin;
use store::ObjectKey;
use tokio_util::sync::CancellationToken;

/// The command-line arguments.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Name of the environment in the configuration
    #[arg(long = "env", value_name = "NAME")]
    pub environment: String,
    /// The snapshot with this ID, as shown by `list` [default: the newest complete snapshot]
    #[arg(long, value_name = "ID", conflicts_with_all = ["all", "sample"])]
    snapshot: Option<String>,
    /// Every snapshot
    #[arg(long, conflicts_with = "sample")]
    all: bool,
    /// The newest complete snapshot plus N others chosen at random
    #[arg(long, value_name = "N")]
    sample: Option<usize>,
    /// Also restore each source to a temporary location and compare it with the record
    #[arg(long)]
    deep: bool,
    #[command(flatten)]
    stage: Stage,
}

/// The results of reading, by object.
type ReadObjects = BTreeMap<ObjectKey, SourceProof>;

/// The results of restoring, by object and by the fingerprint of the state. An object that several snapshots share is
/// compared with the state of each.
type RestoredStates = BTreeMap<(ObjectKey, Option<String>), SourceProof>;

/// Verifies snapshots and stores the findings for each.
///
/// # Errors
/// [`Class::Usage`] for an unknown snapshot; [`Class::Config`] for one that a newer version wrote; errors of the store
/// and the server. Problems with the snapshots are in the report, as a failure of class [`Class::Stale`].
pub async fn run(session: &Session, arguments: &Arguments, interrupted: impl Future<Output = ()>) -> Result<Report> {
    let stop = CancellationToken::new();
    let _stop_on_drop = stop.clone().drop_guard();
    let mut interrupted = pin!(interrupted);
    let history = session.history(session.clock.now()).await?;
    let at = verification::moment(&history, session.clock.now());
    let (newer, chosen) = by_format(chosen(session, &history, arguments)?);
    if let Some(newer) = newer.filter(|_| chosen.is_empty()) {
        return Err(newer.clone());
    }
    let chain = verification::check_chain(&session.store, &session.environment, &history).await?;
    let found = run_until_interrupted(interrupted.as_mut(), read_all(session, &history, &chosen, &stop)).await?;
    let (depth, restored) = if arguments.deep {
        let mut rehearsal = Rehearsal::begin(session, &arguments.stage)?;
        let work = restore_all(&history, &chosen, &found, &mut rehearsal, &stop);
        let done = run_until_interrupted(interrupted, work).await;
        // What was restored is always removed; the first failure is reported.
        let ended = rehearsal.end().await;
        let restored = done?;
        ended?;
        (Depth::Deep, restored)
    } else {
        (Depth::Read, RestoredStates::new())
    };
    let mut verifications = Vec::new();
    for snapshot in chosen {
        let sources = proofs(snapshot, &found, &restored);
        let whole = sources.values().all(|source| source.problems.is_empty());
        if snapshot.damage.is_none() && snapshot.sources.values().all(|state| state.object.is_none()) {
            tracing::info!(snapshot = %snapshot.id, "nothing to verify: every source failed in that run");
            continue;
        }
        if !whole && is_forgotten(session, snapshot).await? {
            tracing::info!(snapshot = %snapshot.id, "was forgotten in the meantime");
            continue;
        }
        let verification = verification::conclude(session, snapshot, at, depth, sources, &chain);
        verification::store_unless_known(session, &history, at, &verification).await?;
        verifications.push(verification);
    }
    Ok(report(&session.environment, &session.time_zone, &history, &verifications, &chain, newer))
}

/// Sets snapshots aside that a newer version wrote, because a verdict stays in the store and this version cannot give
/// one. Returns the first one's error, and the other snapshots.
fn by_format(chosen: Vec<&Snapshot>) -> (Option<&Error>, Vec<&Snapshot>) {
    let is_newer = |snapshot: &&Snapshot| snapshot.damage.as_ref().is_some_and(is_newer_format);
    let (newer, others): (Vec<_>, Vec<_>) = chosen.into_iter().partition(is_newer);
    (newer.first().and_then(|snapshot| snapshot.damage.as_ref()), others)
}

/// The selected snapshots, newest first.
fn chosen<'h>(session: &Session, history: &'h History, arguments: &Arguments) -> Result<Vec<&'h Snapshot>> {
    if arguments.all {
        let all: Vec<_> = history.snapshots.iter().rev().collect();
        return if all.is_empty() { Err(nothing(&session.environment)) } else { Ok(all) };
    }
    let first = if arguments.snapshot.is_some() {
        let which = Which { at: None, snapshot: arguments.snapshot.clone() };
        choice::snapshot(history, &which, Wanted::All, &session.time_zone)?
    } else {
        choice::newest(history, &session.time_zone)?
    };
    let others: Vec<_> = history.snapshots.iter().filter(|other| other.complete && other.id != first.id).collect();
    let mut chosen = vec![first];
    chosen.extend(others.sample(&mut rand::rng(), arguments.sample.unwrap_or(0)));
    chosen.sort_by_key(|snapshot| std::cmp::Reverse(snapshot.id));
    Ok(chosen)
}

fn nothing(environment: &Environment) -> Error {
    Error::new(Class::Usage, format!("{environment} has no snapshot to verify")).hint("make one with `backup`")
}

/// Reads every object of the snapshots, each once.
async fn read_all(
    session: &Session,
    history: &History,
    snapshots: &[&Snapshot],
    stop: &CancellationToken,
) -> Result<ReadObjects> {
    let mut found = ReadObjects::new();
    for (source, state) in snapshots.iter().flat_map(|snapshot| &snapshot.sources) {
        let Some(object) = &state.object else { continue };
        if found.contains_key(&object.key) {
            continue;
        }
        tracing::info!(object = %object.key, "reading");
        found.insert(object.key.clone(), verification::read(session, history, source, object, stop).await?);
    }
    Ok(found)
}

/// Restores every source that was read without a finding, each state once.
async fn restore_all(
    history: &History,
    snapshots: &[&Snapshot],
    found: &ReadObjects,
    rehearsal: &mut Rehearsal,
    stop: &CancellationToken,
) -> Result<RestoredStates> {
    let mut restored = RestoredStates::new();
    let states = snapshots
        .iter()
        .flat_map(|snapshot| snapshot.sources.iter().map(move |(name, state)| (*snapshot, name, state)));
    for (snapshot, source, state) in states {
        let Some(object) = &state.object else { continue };
        let whole = found.get(&object.key).is_some_and(|proof| proof.problems.is_empty());
        let known = (object.key.clone(), state.fingerprint.clone());
        if !whole || restored.contains_key(&known) {
            continue;
        }
        let saved = SavedSource { history, snapshot, name: source, object };
        let Some(done) = rehearsal.restore(saved, stop).await? else { continue };
        rehearsal.discard(done.place.as_ref()).await?;
        restored.insert(known, done.proof);
    }
    Ok(restored)
}

/// Whether a run that held the lease has forgotten a snapshot since the history was read, and may have pruned its
/// objects.
async fn is_forgotten(session: &Session, snapshot: &Snapshot) -> Result<bool> {
    let certificate = catalogue::keys::certificate_key(&session.environment, snapshot.id)?;
    let record = catalogue::keys::record_key(&session.environment, snapshot.id)?;
    Ok(session.store.head(&certificate).await?.is_some() && session.store.head(&record).await?.is_none())
}

/// The findings for each source of a snapshot.
fn proofs(snapshot: &Snapshot, found: &ReadObjects, restored: &RestoredStates) -> BTreeMap<String, SourceProof> {
    let proof_of = |state: &history::State| {
        let Some(object) = &state.object else {
            // The record says so itself, so nothing is missing.
            return SourceProof { holds: Some("the run saved nothing of it".to_owned()), ..SourceProof::default() };
        };
        let deep = restored.get(&(object.key.clone(), state.fingerprint.clone()));
        let read = found.get(&object.key);
        let mut proof = read.cloned().unwrap_or_default();
        if let Some(deep) = deep {
            proof.problems.extend(deep.problems.iter().cloned());
            proof.holds = deep.holds.clone().or(proof.holds);
            (proof.compared, proof.comparison) = (deep.compared, deep.comparison.clone());
            (proof.untried, proof.notes) = (deep.untried.clone(), deep.notes.clone());
        }
        if matches!(state.condition, Condition::Partial | Condition::Suspect) {
            proof.holds = proof.holds.map(|holds| format!("{holds} ({})", state.condition));
        }
        proof
    };
    snapshot.sources.iter().map(|(name, state)| (name.clone(), proof_of(state))).collect()
}

fn report(
    environment: &Environment,
    zone: &TimeZone,
    history: &History,
    verifications: &[Verification],
    chain: &Chain,
    newer: Option<&Error>,
) -> Report {
    let mut text = String::new();
    for verification in verifications {
        let whole = verification.sources.values().all(|source| source.problems.is_empty());
        let verdict = match (verification.passed, whole) {
            (true, _) => "passed",
            (false, true) => "FAILED: there is a problem with its record",
            (false, false) => "FAILED",
        };
        let taken = report::local(verification.snapshot.taken(), zone);
        let _ = writeln!(text, "snapshot {} of {}, taken {taken}: {verdict}", verification.snapshot, environment);
        for (name, source) in &verification.sources {
            text.push_str(&verification::source_text(name, source));
            let known = |problem: &String| verification::is_accepted(history, verification.snapshot, name, problem);
            if !source.problems.is_empty() && source.problems.iter().all(known) {
                let _ = writeln!(text, "  {:<10} note: known (accepted)", "");
            }
        }
    }
    let failure = failure(environment, history, verifications, chain).or_else(|| newer.cloned());
    let (records, certificates) = (chain.records, chain.certificates);
    let state = if chain.problems.is_empty() { "unbroken" } else { "BROKEN" };
    let parts = (counted(records, "record"), counted(certificates, "certificate"));
    let _ = writeln!(text, "chain {state}: {}, {} of forgotten snapshots", parts.0, parts.1);
    for (_, problem) in &chain.problems {
        let _ = writeln!(text, "  wrong: {problem}");
    }
    for note in &chain.notes {
        let _ = writeln!(text, "  note: {note}");
    }
    let document = json!({
        "format_version": report::FORMAT_VERSION,
        "environment": environment.as_str(),
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

fn failure(
    environment: &Environment,
    history: &History,
    verifications: &[Verification],
    chain: &Chain,
) -> Option<Error> {
    let sources =
        verifications.iter().flat_map(|of| of.sources.iter().map(|(name, source)| (of.snapshot, name, source)));
    let problems =
        sources.flat_map(|(id, name, source)| source.problems.iter().map(move |problem| (id, name, problem)));
    let open = problems.filter(|(id, name, problem)| !verification::is_accepted(history, *id, name, problem));
    let of_objects: BTreeSet<&String> = open.map(|(_, _, problem)| problem).collect();
    let is_whole = of_objects.is_empty();
    let problems: BTreeSet<&String> =
        of_objects.into_iter().chain(chain.problems.iter().map(|(_, problem)| problem)).collect();
    let Some(first) = problems.first() else {
        return verification::untried(verifications.iter().flat_map(|of| of.sources.values()));
    };
    let text = match problems.len() {
        1 => format!("the verification of {environment} failed: {first}"),
        count => format!("the verification of {environment} found {count} problems, first: {first}"),
    };
    let hint = if is_whole {
        format!("put a copy of the record back; if there is none, run `accept --env {environment} --lost`")
    } else {
        "keep the store as it is, run a backup with --force, and look for a copy of the damaged object".to_owned()
    };
    Some(Error::new(Class::Stale, text).hint(hint))
}
