//! What an environment's status comes to: a pure function of the configured inventory and of what the store holds.

use super::proofs::{Proof, Proofs};
use crate::config::{Environment, EnvironmentConfig};
use crate::history::{History, Snapshot, State};
use crate::report::span;
use crate::snapshot::{Outcome, SnapshotId};
use jiff::{SignedDuration, Timestamp};

/// Snapshots that a problem names; `list` shows the others.
const NAMED_MAX: usize = 3;

/// How old things may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// The newest restorable snapshot of a source.
    pub(super) max_age: SignedDuration,
    /// The last verification or drill that passed.
    pub(super) max_unverified: SignedDuration,
}

/// How retention fares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Retention {
    /// No run of this program is recorded.
    Never,
    /// Nothing that was due at the last run is left.
    Applied,
    /// The last run is incomplete, so nothing is forgotten.
    Frozen,
    /// So many snapshots were due at the last run and are still there.
    Behind(usize),
    /// There is no plan, or one that the guard holds back.
    Refused(String),
    /// The plugin that plans is not here, so nobody can say.
    Unseen(String),
}

/// One environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EnvironmentStatus {
    pub(super) environment: String,
    pub(super) sources: Vec<SourceStatus>,
    /// The newest complete snapshot.
    pub(super) complete: Option<SnapshotId>,
    /// The last verification, whichever snapshot it was of.
    pub(super) verification: Option<Proof>,
    /// The last drill.
    pub(super) drill: Option<Proof>,
    /// The last verification or drill that passed.
    pub(super) proven: Option<Timestamp>,
    pub(super) retention: Retention,
    pub(super) counts: Counts,
    /// Everything that is not as it should be; nothing where all is well.
    pub(super) problems: Vec<Problem>,
}

/// Snapshots by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) complete: usize,
    pub(super) incomplete: usize,
    pub(super) damaged: usize,
    /// Of the complete and incomplete ones, those without a record.
    pub(super) adopted: usize,
}

/// One configured source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SourceStatus {
    pub(super) source: String,
    /// The newest snapshot that it is restorable from.
    pub(super) restorable: Option<SnapshotId>,
    /// When the object of that snapshot was made, and its size.
    pub(super) saved: Option<(Timestamp, u64)>,
    /// What became of it in the newest run.
    pub(super) outcome: Option<Outcome>,
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) kind: Kind,
    pub(super) source: Option<String>,
    /// One sentence that begins in lower case.
    pub(super) said: String,
}

/// Kinds of problems, by what is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Never backed up.
    Never,
    /// Too old.
    Stale,
    /// The last run failed.
    Failed,
    /// Something that the store should hold is not there, or cannot be read.
    Missing,
    /// Nobody proved for too long that it can be restored.
    Unverified,
    /// The last proof failed.
    Disproved,
    /// Retention does not do its work.
    Retention,
}

impl Kind {
    /// As machines are told.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Stale => "stale",
            Self::Failed => "failed",
            Self::Missing => "missing",
            Self::Unverified => "unverified",
            Self::Disproved => "disproved",
            Self::Retention => "retention",
        }
    }

    /// What to do.
    pub(super) const fn advice(self) -> &'static str {
        match self {
            Self::Never | Self::Stale => "run `backup`, and look at why whatever should run it did not",
            Self::Failed => "look at the last run's log; `list` shows what became of each source",
            Self::Missing => "look at `list` for what is missing, and at who may delete from the store",
            Self::Unverified => "run `verify` or `drill`",
            Self::Disproved => "look at the last report of `verify` or `drill` in the store",
            Self::Retention => "look at `prune --dry-run`",
        }
    }
}

impl EnvironmentStatus {
    /// Whether nothing is wrong.
    pub(super) fn is_healthy(&self) -> bool {
        self.problems.is_empty()
    }
}

/// Judges.
pub(super) fn judge(
    environment: &Environment,
    config: &EnvironmentConfig,
    history: &History,
    proofs: Proofs,
    retention: Retention,
    limits: Limits,
    now: Timestamp,
) -> EnvironmentStatus {
    // A snapshot from the future was made under a wrong clock and says nothing of how old the backup is.
    let past: Vec<&Snapshot> = history.snapshots.iter().filter(|snapshot| snapshot.id.taken() <= now).collect();
    let sources: Vec<SourceStatus> = config.sources.keys().map(|source| source_status(source, &past)).collect();
    let verification = proofs.verifications.last().map(|(_, proof)| *proof);
    let passed = proofs.verifications.iter().filter(|(_, proof)| proof.passed).map(|(_, proof)| proof.at);
    let mut status = EnvironmentStatus {
        environment: environment.to_string(),
        sources,
        complete: past.iter().rev().find(|snapshot| snapshot.complete).map(|snapshot| snapshot.id),
        verification,
        drill: proofs.drill,
        proven: passed.chain(proofs.drill_passed).max(),
        retention,
        counts: counts(history),
        problems: Vec::new(),
    };
    let mut problems = stale(&status, limits, now);
    problems.extend(failed(&past));
    problems.extend(missing(history));
    problems.extend(future(history, now));
    problems.extend(unproven(&status, &proofs, &past, limits, now));
    problems.extend(neglected(&status.retention));
    status.problems = problems;
    status
}

fn source_status(source: &str, past: &[&Snapshot]) -> SourceStatus {
    let newest_first = || past.iter().rev();
    let restorable = newest_first().find_map(|snapshot| {
        let object = snapshot.sources.get(source)?.object.as_ref().filter(|object| object.present)?;
        Some((snapshot.id, object))
    });
    SourceStatus {
        source: source.to_owned(),
        restorable: restorable.map(|(id, _)| id),
        saved: restorable.map(|(_, object)| (object.made, object.bytes)),
        outcome: newest_first().next().and_then(|snapshot| Some(snapshot.sources.get(source)?.outcome)),
    }
}

fn counts(history: &History) -> Counts {
    let count = |of: fn(&&Snapshot) -> bool| history.snapshots.iter().filter(of).count();
    Counts {
        complete: count(|snapshot| snapshot.complete),
        incomplete: count(|snapshot| !snapshot.complete && snapshot.damage.is_none()),
        damaged: count(|snapshot| snapshot.damage.is_some()),
        adopted: count(|snapshot| snapshot.adopted),
    }
}

fn stale(status: &EnvironmentStatus, limits: Limits, now: Timestamp) -> Vec<Problem> {
    let problem = |source: &SourceStatus| {
        let name = &source.source;
        let (kind, said) = match source.restorable {
            None => (Kind::Never, format!("{name} was never backed up")),
            Some(id) => {
                let age = now.duration_since(id.taken());
                if age <= limits.max_age {
                    return None;
                }
                (Kind::Stale, format!("the last backup of {name} is {} old", span(age)))
            }
        };
        Some(Problem { kind, source: Some(name.clone()), said })
    };
    status.sources.iter().filter_map(problem).collect()
}

/// What failed in the newest run.
fn failed(past: &[&Snapshot]) -> Vec<Problem> {
    let Some(newest) = past.last() else { return Vec::new() };
    let failed = newest.sources.iter().filter(|(_, state)| state.outcome == Outcome::Failed);
    failed
        .map(|(source, _)| Problem {
            kind: Kind::Failed,
            source: Some(source.clone()),
            said: format!("{source} failed in the last run, {}", newest.id),
        })
        .collect()
}

/// Snapshots that are no longer what they were.
fn missing(history: &History) -> Vec<Problem> {
    let lost = |snapshot: &&Snapshot| {
        let gone = |state: &State| state.outcome != Outcome::Failed && state.object.is_some() && !state.is_restorable();
        snapshot.sources.values().any(gone)
    };
    let damaged = |snapshot: &&Snapshot| snapshot.damage.is_some();
    let named = |wanted: &dyn Fn(&&Snapshot) -> bool, what: &str| {
        let ids: Vec<String> =
            history.snapshots.iter().filter(wanted).map(|snapshot| snapshot.id.to_string()).collect();
        let shown = ids.get(..NAMED_MAX).unwrap_or(&ids).join(", ");
        let more = if ids.len() > NAMED_MAX { ", …" } else { "" };
        let said = format!("{} snapshots {what}: {shown}{more}", ids.len());
        (!ids.is_empty()).then_some(Problem { kind: Kind::Missing, source: None, said })
    };
    let lost = named(&lost, "have lost an object");
    lost.into_iter().chain(named(&damaged, "have a record that cannot be read")).collect()
}

/// Recorded runs under a clock that was ahead. A script's local time may look so for some hours.
fn future(history: &History, now: Timestamp) -> Option<Problem> {
    let ahead: Vec<_> =
        history.snapshots.iter().filter(|snapshot| !snapshot.adopted && snapshot.id.taken() > now).collect();
    let first = ahead.first()?;
    let said = format!("{} snapshots are from the future, the first is {}: a clock is wrong", ahead.len(), first.id);
    Some(Problem { kind: Kind::Missing, source: None, said })
}

/// What nobody proved, or somebody disproved.
fn unproven(
    status: &EnvironmentStatus,
    proofs: &Proofs,
    past: &[&Snapshot],
    limits: Limits,
    now: Timestamp,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    let of = |kind, said| Problem { kind, source: None, said };
    let there = |id: &SnapshotId| past.iter().any(|snapshot| snapshot.id == *id);
    let bad: Vec<&SnapshotId> =
        proofs.verifications.iter().filter(|(id, proof)| !proof.passed && there(id)).map(|(id, _)| id).collect();
    if let Some(last) = bad.last() {
        let said = format!("the last verification of {} snapshots failed, such as of {last}", bad.len());
        problems.push(of(Kind::Disproved, said));
    }
    if let Some(drill) = status.drill.filter(|drill| !drill.passed) {
        problems.push(of(Kind::Disproved, format!("the last drill, of {}, failed", drill.at)));
    }
    // What is younger than the limit needs no proof yet.
    let Some(first) = past.iter().find(|snapshot| snapshot.complete) else { return problems };
    let since = status.proven.unwrap_or_else(|| first.id.taken());
    if now.duration_since(since) > limits.max_unverified {
        problems.push(of(
            Kind::Unverified,
            match status.proven {
                Some(_) => format!("nothing was verified or drilled for {}", span(now.duration_since(since))),
                None => "nothing was ever verified or drilled".to_owned(),
            },
        ));
    }
    problems
}

fn neglected(retention: &Retention) -> Option<Problem> {
    let said = match retention {
        Retention::Never | Retention::Applied | Retention::Unseen(_) => return None,
        Retention::Frozen => "retention is frozen, because the last run is incomplete".to_owned(),
        Retention::Behind(due) => {
            format!("retention was not carried out: {due} snapshots were due and are still there")
        }
        Retention::Refused(why) => format!("retention is not done: {why}"),
    };
    Some(Problem { kind: Kind::Retention, source: None, said })
}

#[cfg(test)]
mod tests;
