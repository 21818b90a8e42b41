//! What `verify`, `drill` and `accept` share: reading objects, checking the chain of records, and the record of a
//! verification.

mod chain;
mod objects;

pub use chain::{Chain, certificates, check as check_chain};
pub use objects::read;

use crate::session::Session;
use base::error::{Error, Result};
use base::id::{SnapshotId, Stamp};
use bytes::Bytes;
use catalogue::environment::{KnownFailure, StoredFile};
use catalogue::history::{History, Snapshot, State};
use catalogue::proof::{Depth, FORMAT_VERSION, Mark, SourceProof, Verification, finding};
use catalogue::record::to_bytes;
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use store::ObjectKey;

/// The moment of a verification that begins now. It is later than every other one, so that two in one second are in
/// order. Those from the future are ignored, because a wrong clock made them.
pub fn moment(history: &History, now: Timestamp) -> Stamp {
    let others = history.verifications.iter().filter(|mark| !mark.is_from_the_future(now)).map(|mark| mark.at);
    let newest = others.max();
    Stamp::at(now).max(newest.map_or(Stamp::at(now), |newest| newest.after(1)))
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
    // If a restore was not possible here, the objects were only read.
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

/// Stores the verification, so that the guard takes it into account. One that found only what a person already accepted
/// is not stored, because it would raise the same question again.
pub async fn store_unless_known(
    session: &Session,
    history: &History,
    at: Stamp,
    verification: &Verification,
) -> Result<()> {
    if found_nothing_new(history, verification) {
        return Ok(());
    }
    let Verification { snapshot, depth, passed, .. } = *verification;
    let key = Mark { snapshot, at, depth, passed }.key(&session.environment)?;
    // An existing one verified the same snapshot in the same second, and found the same.
    session.store.create(&key, Bytes::from(to_bytes(verification)?)).await.map(drop)
}

/// Whether a problem was accepted before: the object is given up and still missing, or an accepted verification found
/// the same problem.
pub fn is_accepted(history: &History, snapshot: SnapshotId, source: &str, problem: &str) -> bool {
    let Some(StoredFile { file, .. }) = &history.environment else { return false };
    let known = file.known_failures.get(&snapshot);
    let is_there = history.snapshot(snapshot).and_then(|of| of.sources.get(source)).is_some_and(State::is_restorable);
    // If a verification passed in between, the damage is new.
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
