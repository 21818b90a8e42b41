//! Judges the status of an environment: a pure function of the configured sources and the content of the store.

use super::proofs::{Proof, Proofs};
use crate::report::span;
use base::id::SnapshotId;
use base::text::counted;
use catalogue::history::{History, Snapshot};
use catalogue::proof::VerificationState;
use catalogue::questions::{self, Question, QuestionContext, QuestionKind, expected};
use catalogue::record::{Condition, Outcome};
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeSet;

/// How old things may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// The newest restorable snapshot of a source.
    pub(super) max_age: SignedDuration,
    /// The last verification or drill that passed.
    pub(super) max_unverified: SignedDuration,
}

/// The state of the retention.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Retention {
    /// No run of this program is recorded.
    Never,
    /// Nothing that was due at the last run is left.
    Applied,
    /// A question is open or a source is not whole, so nothing is forgotten.
    Frozen,
    /// What froze it was answered after the last run, so the next run goes on.
    Pending,
    /// The number of snapshots that the last run should have put into the bin or deleted, but did not.
    Behind(usize),
    /// There is no plan.
    Refused(String),
    /// Unknown, because the retention plugin is not available here.
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
    /// The open questions.
    pub(super) waiting: Vec<Question>,
    pub(super) counts: Counts,
    /// All problems; empty if the environment is healthy.
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
    /// Of all of them, those in the bin.
    pub(super) binned: usize,
}

/// One configured source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SourceStatus {
    pub(super) source: String,
    /// The newest snapshot that it is restorable from.
    pub(super) restorable: Option<SnapshotId>,
    /// When the object of that snapshot was made, and its size.
    pub(super) saved: Option<(Timestamp, u64)>,
    /// Its outcome in the newest run.
    pub(super) outcome: Option<Outcome>,
    /// Its condition in the newest run; `None` if that run does not name it.
    pub(super) condition: Option<Condition>,
}

/// A problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) kind: Kind,
    pub(super) source: Option<String>,
    /// One sentence that begins in lower case.
    pub(super) message: String,
    /// The command that resolves it, without `dolibarr-backup`. The cause may have to be fixed first.
    pub(super) command: String,
}

/// Kinds of problems, by the action that they need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Never backed up.
    Never,
    /// Too old.
    Stale,
    /// The last run failed.
    Failed,
    /// The last run could not read all of it.
    Partial,
    /// A different source than before, or most of its data is gone.
    Suspect,
    /// Something is missing from the store, or cannot be read.
    Missing,
    /// A clock is or was wrong.
    Clock,
    /// The configuration and the environment disagree, or nobody ran `init`.
    Waiting,
    /// A newer version wrote a record or the environment's file.
    Newer,
    /// The last verification or drill is too old.
    Unverified,
    /// The last verification or drill failed.
    Disproved,
    /// Retention was not carried out.
    Retention,
}

impl Kind {
    /// The name in JSON.
    pub(super) const fn name(self) -> &'static str {
        self.facts().0
    }

    /// The name, and the beginning of the hint.
    const fn facts(self) -> (&'static str, &'static str) {
        match self {
            Self::Never => ("never", ""),
            Self::Stale => ("stale", "find out why no scheduled run saved it whole; "),
            Self::Failed => ("failed", "fix the cause shown in the log of the last run; "),
            Self::Partial => (
                "partial",
                "make it readable, or add it to `exclude` in the settings of [plugins.dump] if it is not needed; ",
            ),
            Self::Suspect => ("suspect", "if this is intended, "),
            Self::Missing => ("missing", "put a copy back, or, if it is lost for good, "),
            Self::Clock => ("clock", "if this is intended, "),
            Self::Waiting => ("waiting", "if this is intended, "),
            Self::Newer => ("newer", "use the version that wrote it: "),
            Self::Unverified => ("unverified", ""),
            Self::Disproved => ("disproved", "read the report in the store, and make a new backup; "),
            Self::Retention => ("retention", ""),
        }
    }

    const fn of(question: QuestionKind) -> Self {
        match question {
            QuestionKind::Suspect => Self::Suspect,
            QuestionKind::Lost
            | QuestionKind::DamagedRecord
            | QuestionKind::MissingRecord
            | QuestionKind::ChangedRecord
            | QuestionKind::OtherFile => Self::Missing,
            QuestionKind::Clock | QuestionKind::Clocks | QuestionKind::Future => Self::Clock,
            QuestionKind::NewerFormat => Self::Newer,
            QuestionKind::Uninitialised
            | QuestionKind::FileDamaged
            | QuestionKind::NewSource
            | QuestionKind::GoneSource
            | QuestionKind::Guard
            | QuestionKind::Retention
            | QuestionKind::TimeZone => Self::Waiting,
        }
    }
}

impl Problem {
    /// The hint for the user.
    pub(super) fn advice(&self) -> String {
        let (_, first) = self.kind.facts();
        format!("{first}run `{}`", self.command)
    }
}

impl EnvironmentStatus {
    /// Whether there are no problems.
    pub(super) fn is_healthy(&self) -> bool {
        self.problems.is_empty()
    }
}

/// Judges.
pub(super) fn judge(
    asked: QuestionContext<'_>,
    history: &History,
    proofs: Proofs,
    retention: Retention,
    limits: Limits,
    now: Timestamp,
) -> EnvironmentStatus {
    let (environment, now) = (asked.environment, history.present(now));
    // A snapshot from the future was made under a wrong clock and says nothing of how old the backup is.
    let is_past = |snapshot: &&Snapshot| snapshot.id.taken() <= now && !snapshot.retired;
    let past: Vec<&Snapshot> = history.snapshots.iter().filter(is_past).collect();
    let mut names: BTreeSet<&str> = expected(history, asked.configured);
    names.extend(asked.configured.sources.keys().map(String::as_str));
    let sources: Vec<SourceStatus> = names.iter().map(|source| source_status(source, &past)).collect();
    let verification = proofs.verifications.last().map(|(_, proof)| *proof);
    let mut status = EnvironmentStatus {
        environment: environment.to_owned(),
        sources,
        complete: past.iter().rev().find(|snapshot| snapshot.complete).map(|snapshot| snapshot.id),
        verification,
        drill: proofs.drill,
        proven: proofs.passed.max(proofs.drill_passed),
        retention,
        waiting: questions::questions(asked, history, now),
        counts: counts(history),
        problems: Vec::new(),
    };
    // No run can save a source that is not configured any more; there is a question about it.
    let configured: BTreeSet<&str> =
        names.iter().copied().filter(|name| asked.configured.sources.contains_key(*name)).collect();
    let verb = if history.lacks_environment() { "init" } else { "backup" };
    let command = format!("{verb} --env {environment}");
    let mut problems = stale(&status, &configured, limits, now, &command);
    problems.extend(not_whole(&command, &past, &configured));
    // A store without the environment may be the wrong store, which explains everything else.
    let first = if history.lacks_environment() { 0 } else { problems.len() };
    problems.splice(first..first, status.waiting.iter().map(waiting));
    problems.extend(unproven(&status, history, &past, limits, now));
    problems.extend(neglected(environment, &status.retention));
    status.problems = problems;
    status
}

fn waiting(question: &Question) -> Problem {
    Problem {
        kind: Kind::of(question.kind),
        source: question.source.clone(),
        message: question.text.clone(),
        command: question.command.clone(),
    }
}

fn source_status(source: &str, past: &[&Snapshot]) -> SourceStatus {
    let newest_first = || past.iter().rev();
    let whole = newest_first().find(|snapshot| snapshot.has_whole(source));
    let object = whole.and_then(|snapshot| snapshot.sources.get(source)?.object.as_ref());
    let recorded = newest_first().find(|snapshot| snapshot.record.is_some()).or_else(|| newest_first().next());
    let last = recorded.and_then(|snapshot| snapshot.sources.get(source));
    SourceStatus {
        source: source.to_owned(),
        restorable: whole.map(|snapshot| snapshot.id),
        saved: object.map(|object| (object.made, object.bytes)),
        outcome: last.map(|state| state.outcome),
        condition: last.map(|state| state.condition),
    }
}

fn counts(history: &History) -> Counts {
    let count = |of: fn(&&Snapshot) -> bool| history.snapshots.iter().filter(of).count();
    Counts {
        complete: count(|snapshot| snapshot.complete),
        incomplete: count(|snapshot| !snapshot.complete && snapshot.damage.is_none()),
        damaged: count(|snapshot| snapshot.damage.is_some()),
        adopted: count(|snapshot| snapshot.adopted),
        binned: count(|snapshot| snapshot.binned.is_some()),
    }
}

/// Sources without a recent whole backup.
fn stale(
    status: &EnvironmentStatus,
    names: &BTreeSet<&str>,
    limits: Limits,
    now: Timestamp,
    command: &str,
) -> Vec<Problem> {
    let problem = |source: &SourceStatus| {
        let name = &source.source;
        let (kind, message) = match source.restorable {
            None => (Kind::Never, format!("{name} has never been backed up whole")),
            Some(id) => {
                let age = now.duration_since(id.taken());
                if age <= limits.max_age {
                    return None;
                }
                (Kind::Stale, format!("the last whole backup of {name} is {} old", span(age)))
            }
        };
        Some(Problem { kind, source: Some(name.clone()), message, command: command.to_owned() })
    };
    status.sources.iter().filter(|source| names.contains(source.source.as_str())).filter_map(problem).collect()
}

/// Sources that failed or could not be read completely in the newest run. A suspect source is a question instead.
fn not_whole(command: &str, past: &[&Snapshot], names: &BTreeSet<&str>) -> Vec<Problem> {
    let newest_first = || past.iter().rev();
    // A store of a script has no records; there the newest snapshot counts.
    let newest = newest_first().find(|snapshot| snapshot.record.is_some()).or_else(|| newest_first().next());
    let Some(newest) = newest else { return Vec::new() };
    let problem = |name: &&str| {
        let state = newest.sources.get(*name);
        let doubts = || newest.record.as_ref().and_then(|record| Some(record.sources.get(*name)?.doubts.join("; ")));
        let (kind, message) = match state.map(|state| state.condition) {
            Some(Condition::Whole | Condition::Suspect) => return None,
            Some(Condition::Failed) => (Kind::Failed, format!("{name} failed in the last run, {}", newest.id)),
            Some(Condition::Partial) => {
                let doubts = doubts().unwrap_or_default();
                (Kind::Partial, format!("{name} is partial in the last run, {}: {doubts}", newest.id))
            }
            None => (Kind::Failed, format!("{name} was not saved in the last run, {}", newest.id)),
        };
        Some(Problem { kind, source: Some((*name).to_owned()), message, command: command.to_owned() })
    };
    names.iter().filter_map(problem).collect()
}

/// Missing or failed verifications and drills.
fn unproven(
    status: &EnvironmentStatus,
    history: &History,
    past: &[&Snapshot],
    limits: Limits,
    now: Timestamp,
) -> Vec<Problem> {
    let environment = &status.environment;
    let of = |kind, message, command| Problem { kind, source: None, message, command };
    let mut problems = Vec::new();
    let file = history.environment.as_ref().map(|stored| &stored.file);
    let known = |id: &SnapshotId| file.is_some_and(|file| questions::is_known_failure(file, history, *id, now));
    let failed = past.iter().filter(|snapshot| snapshot.verification_state == VerificationState::Failed);
    let failed: Vec<SnapshotId> = failed.map(|snapshot| snapshot.id).filter(|id| !known(id)).collect();
    if let Some(last) = failed.last() {
        let message = match failed.len() {
            1 => format!("the verification of {last} failed"),
            count => format!("the verification of {count} snapshots failed, including {last}"),
        };
        problems.push(of(
            Kind::Disproved,
            message,
            format!("accept --env {environment} --only {} --lost", questions::DISPROVED),
        ));
    }
    if let Some(drill) = status.drill.filter(|drill| !drill.passed) {
        let message = format!("the last drill ({}) failed", drill.at);
        problems.push(of(Kind::Disproved, message, format!("drill --env {environment}")));
    }
    // An environment that is younger than the limit needs no verification yet.
    let Some(first) = past.iter().find(|snapshot| snapshot.complete) else { return problems };
    let since = status.proven.unwrap_or_else(|| first.id.taken());
    if now.duration_since(since) > limits.max_unverified {
        let message = match status.proven {
            Some(_) => format!("nothing has been verified or drilled for {}", span(now.duration_since(since))),
            None => "nothing has ever been verified or drilled".to_owned(),
        };
        problems.push(of(Kind::Unverified, message, format!("verify --env {environment}")));
    }
    problems
}

/// A frozen retention is not a separate problem, because its cause already is one.
fn neglected(environment: &str, retention: &Retention) -> Option<Problem> {
    let message = match retention {
        Retention::Never | Retention::Applied | Retention::Frozen | Retention::Pending | Retention::Unseen(_) => {
            return None;
        }
        Retention::Behind(due) => {
            let due = counted(*due, "snapshot");
            format!("retention was not carried out: {due} should have been put into the bin or deleted")
        }
        Retention::Refused(why) => format!("retention failed: {why}"),
    };
    Some(Problem { kind: Kind::Retention, source: None, message, command: format!("prune --env {environment}") })
}

#[cfg(test)]
mod tests;
