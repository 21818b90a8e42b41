//! `verify`: checks whether the objects in the store are intact and can be restored.
//!
//! It reads every object to its end and checks it against the record, and checks the records against each other. With
//! `--deep` it also restores each source to a temporary location and compares it. It takes no lease, and writes only
//! the record of its findings.

mod chain;
mod objects;

pub use chain::{Chain, check as check_chain};
pub use objects::read;

use crate::choice::{self, Wanted, Which};
use crate::rehearsal::{Rehearsal, Stage};
use crate::report::{self, Report};
use crate::session::Session;
use base::error::{Class, Error, Result};
use base::id::{SnapshotId, Stamp};
use base::stream::run_until_interrupted;
use bytes::Bytes;
use catalogue::configured::{Environment, SourceKind};
use catalogue::environment::{KnownFailure, StoredFile};
use catalogue::history::{self, History, Snapshot, State};
use catalogue::proof::{Depth, FORMAT_VERSION, Mark, SourceProof, Verification, finding};
use catalogue::record::{Condition, to_bytes};
use jiff::Timestamp;
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

/// What restoring came to, by object and by the fingerprint of the state: an object that was carried over is compared
/// with each state.
type RestoredStates = BTreeMap<(ObjectKey, Option<String>), SourceProof>;

/// Verifies snapshots and stores the findings for each.
///
/// # Errors
/// [`Class::Usage`] for an unknown snapshot; errors of the store and the server. Problems with the snapshots are in the
/// report, as a failure of class [`Class::Stale`].
pub async fn run(session: &Session, arguments: &Arguments, interrupted: impl Future<Output = ()>) -> Result<Report> {
    let stop = CancellationToken::new();
    let _stop_on_drop = stop.clone().drop_guard();
    let mut interrupted = pin!(interrupted);
    let history = session.history(session.clock.now()).await?;
    let at = moment(&history, session.clock.now());
    let chosen = chosen(session, &history, arguments)?;
    let chain = check_chain(&session.store, &session.environment, &history).await?;
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
        let verification = conclude(session, snapshot, at, depth, sources, &chain);
        store(session, &history, at, &verification).await?;
        verifications.push(verification);
    }
    Ok(report(&session.environment, &session.time_zone, &history, &verifications, &chain))
}

/// The moment of a verification that begins now: after every other one, so that two in one second are in order. One
/// from the future was made under a wrong clock and is passed over.
pub fn moment(history: &History, now: Timestamp) -> Stamp {
    let others = history.verifications.iter().filter(|mark| !mark.is_from_the_future(now)).map(|mark| mark.at);
    let newest = others.max();
    Stamp::at(now).max(newest.map_or(Stamp::at(now), |newest| newest.after(1)))
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
        found.insert(object.key.clone(), read(session, history, source, object, stop).await?);
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
        // A source that is no longer configured is restored too.
        let done = match history.sources.get(source).and_then(|kind| SourceKind::parse(kind)) {
            Some(SourceKind::Postgres) => rehearsal.database(history, snapshot, source, object, stop).await?,
            Some(SourceKind::Directory) => rehearsal.documents(history, snapshot, source, object, stop).await?,
            None => continue,
        };
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
            // The record says so, and promises nothing of it.
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

/// Makes the record of one verification.
pub fn conclude(
    session: &Session,
    snapshot: &Snapshot,
    at: Stamp,
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
        environment: session.environment.to_string(),
        started: at.moment(),
        finished: session.clock.now(),
        host_version: env!("CARGO_PKG_VERSION").to_owned(),
        depth,
        passed: whole && !own,
        record_sha256: snapshot.record_sha256.clone(),
        sources,
        chain: chain.problems.iter().map(|(_, problem)| problem.clone()).collect(),
    }
}

/// Stores what was found, so that the guard knows of it; not what a person knows already, which would be asked about
/// anew.
pub async fn store(session: &Session, history: &History, at: Stamp, verification: &Verification) -> Result<()> {
    if found_nothing_new(history, verification) {
        return Ok(());
    }
    let Verification { snapshot, depth, passed, .. } = *verification;
    let key = Mark { snapshot, at, depth, passed }.key(&session.environment)?;
    // One that exists was made in the same second of the same snapshot, and says the same.
    session.store.create(&key, Bytes::from(to_bytes(verification)?)).await.map(drop)
}

/// Whether a problem was accepted before: the object is given up and still missing, or an accepted verification found
/// the same problem.
fn is_accepted(history: &History, snapshot: SnapshotId, source: &str, problem: &str) -> bool {
    let Some(StoredFile { file, .. }) = &history.environment else { return false };
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

/// Whether every problem that a verification found was accepted before.
fn found_nothing_new(history: &History, verification: &Verification) -> bool {
    let Verification { snapshot, sources, passed, chain, .. } = verification;
    let own = chain.is_empty() && history.snapshot(*snapshot).is_some_and(|snapshot| snapshot.damage.is_none());
    let known = |(name, source): (&String, &SourceProof)| {
        source.problems.iter().all(|problem| is_accepted(history, *snapshot, name, problem))
    };
    !passed && own && sources.iter().all(known)
}

fn report(
    environment: &Environment,
    zone: &TimeZone,
    history: &History,
    verifications: &[Verification],
    chain: &Chain,
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
            text.push_str(&source_text(name, source));
            let known = |problem: &String| is_accepted(history, verification.snapshot, name, problem);
            if !source.problems.is_empty() && source.problems.iter().all(known) {
                let _ = writeln!(text, "  {:<10} note: known (accepted)", "");
            }
        }
    }
    let failure = failure(environment, history, verifications, chain);
    let (records, certificates) = (chain.records, chain.certificates);
    let state = if chain.problems.is_empty() { "unbroken" } else { "BROKEN" };
    let _ = writeln!(text, "chain {state}: {records} records, {certificates} certificates of forgotten snapshots");
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

/// A source's lines in a report.
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
        let _ = writeln!(text, "  {:<10} could not be restored here: {why}", "");
    }
    for problem in &source.problems {
        let _ = writeln!(text, "  {:<10} wrong: {problem}", "");
    }
    text
}

/// The failure if a restore was not possible here, although no problem was found.
pub fn untried<'p>(proofs: impl Iterator<Item = &'p SourceProof>) -> Option<Error> {
    let why: BTreeSet<&String> = proofs.filter_map(|proof| proof.untried.as_ref()).collect();
    let first = why.first()?;
    let others = match why.len() - 1 {
        0 => String::new(),
        count => format!(" (and {count} more)"),
    };
    Some(
        Error::config(format!("the restore could not be tested: {first}{others}"))
            .hint("the objects that were read are whole; run the restore where the missing programs are installed, or name a server with --server"),
    )
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
    let open = problems.filter(|(id, name, problem)| !is_accepted(history, *id, name, problem));
    let of_objects: BTreeSet<&String> = open.map(|(_, _, problem)| problem).collect();
    let is_whole = of_objects.is_empty();
    let problems: BTreeSet<&String> =
        of_objects.into_iter().chain(chain.problems.iter().map(|(_, problem)| problem)).collect();
    let Some(first) = problems.first() else { return untried(verifications.iter().flat_map(|of| of.sources.values())) };
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
