//! The result of a command: one JSON object for machines, a few lines for people, and optionally the failure that sets
//! the exit code.

pub mod document;
mod list;

pub use list::{ListOptions, of_list};

use crate::retention::{self, Applied, Planned, Steps};
use base::error::{Class, Error};
use base::id::SnapshotId;
use base::text::counted;
use catalogue::configured::Environment;
use catalogue::guard::Decisions;
use catalogue::history::History;
use catalogue::questions::Question;
use catalogue::record::{Condition, Record, SourceRecord};
use indicatif::{HumanBytes, HumanCount, HumanDuration};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use plugin::call::dumping;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::time::Duration;

/// Version of the JSON objects that commands print.
pub const FORMAT_VERSION: u32 = 1;

/// The age of what a wrong clock made.
const IN_THE_FUTURE: &str = "in the future";

/// A command's result.
#[derive(Debug)]
pub struct Report {
    /// For machines.
    pub document: Value,
    /// For people; ends with a newline.
    pub text: String,
    /// Why the exit code is not 0 although there is a result.
    pub failure: Option<Error>,
}

/// The result of the retention after a run.
#[derive(Debug)]
pub enum Retention {
    /// Carried out.
    Applied(Box<Planned>, Box<Applied>),
    /// Nothing was forgotten; snapshots that the plan keeps again left the bin.
    Frozen {
        /// The reasons, one sentence each.
        because: Vec<String>,
        /// The snapshots that left the bin.
        applied: Box<Applied>,
    },
    /// There is no plan.
    Refused(Error),
}

/// A run that committed its snapshot.
pub fn of_backup(
    environment: &Environment,
    record: Record,
    failures: Vec<(String, Error)>,
    retention: Retention,
    history: &History,
) -> Report {
    let worst = record.sources.values().map(SourceRecord::condition).max().unwrap_or(Condition::Failed);
    let shown = if worst == Condition::Whole { String::new() } else { format!(" is {worst}") };
    let mut text = format!("snapshot {} of {}{shown}\n", record.id, environment);
    for (name, source) in &record.sources {
        let size = source.object.as_ref().map(|object| HumanBytes(object.bytes).to_string()).unwrap_or_default();
        let _ = writeln!(text, "  {name:<10} {:<10} {size:>11}  {}", source.outcome, source.reason);
        let condition = source.condition();
        if !matches!(condition, Condition::Whole | Condition::Failed) {
            let _ = writeln!(text, "  {:<10} {condition}: {}", "", source.doubts.join("; "));
        }
        if let Some(archive) = &source.archive {
            let _ = writeln!(
                text,
                "  {:<10} {} archived, {} ({}) left out by the exclude patterns",
                "",
                counted(archive.files, "file"),
                HumanCount(archive.excluded_files),
                HumanBytes(archive.excluded_bytes)
            );
            if let Some(first) = archive.links_out.first() {
                let more = match archive.links_out_total {
                    1 => String::new(),
                    total => format!(" and {} more", HumanCount(total - 1)),
                };
                let _ = writeln!(
                    text,
                    "  {:<10} note: {first}{more}: link to a target outside the folder, which is not archived",
                    ""
                );
            }
            if !archive.foreign_attributes.is_empty() {
                let names = archive.foreign_attributes.join(", ");
                let _ = writeln!(text, "  {:<10} note: file attributes that are not saved: {names}", "");
            }
            for problem in &archive.problems {
                let _ = writeln!(text, "  {:<10} warning: {}: {}", "", problem.path, problem.reason);
            }
        }
    }
    for warning in &record.warnings {
        let _ = writeln!(text, "  warning: {warning}");
    }
    let (value, retention_failure) = match &retention {
        Retention::Applied(planned, applied) => {
            text.push_str(&retention_text(planned, applied, history));
            (retention_value("applied", &planned.plan, planned, Some(applied)), applied_failure(applied))
        }
        Retention::Frozen { because, applied } => {
            text.push_str("  retention  frozen; nothing was forgotten\n");
            for obstacle in because {
                let _ = writeln!(text, "             because {obstacle}");
            }
            for id in &applied.taken_back {
                let _ = writeln!(text, "             {id} left the bin, because the plan keeps it again");
            }
            let value = json!({ "state": "frozen", "because": because, "taken_back": applied.taken_back });
            (value, Some(frozen_failure(environment, because)))
        }
        Retention::Refused(error) => {
            let _ = writeln!(text, "  retention  failed: {error}");
            (json!({ "state": "refused", "error": error.to_string() }), Some(retention_incomplete(error)))
        }
    };
    let failure =
        run_failure(&failures, record.sources.len()).or_else(|| doubtful(environment, &record)).or(retention_failure);
    Report {
        document: json!({ "format_version": FORMAT_VERSION, "environment": environment.as_str(), "dry_run": false, "snapshot": record, "retention": value }),
        text,
        failure,
    }
}

/// The failure of a run whose snapshot has a partial or suspect source.
fn doubtful(environment: &Environment, record: &Record) -> Option<Error> {
    let odd = record.sources.iter().filter(|(_, source)| source.condition() != Condition::Whole);
    let messages: Vec<String> =
        odd.map(|(name, source)| format!("{name} is {}: {}", source.condition(), source.doubts.join("; "))).collect();
    let suspect = record.sources.values().any(|source| source.condition() == Condition::Suspect);
    let hint = if suspect {
        format!(
            "if this is intended, run `accept --env {}`; if not, fix the cause and run the backup again",
            environment
        )
    } else {
        "fix the cause, such as the permissions of a folder, and run the backup again".to_owned()
    };
    (!messages.is_empty()).then(|| Error::new(Class::RetentionIncomplete, messages.join("; ")).hint(hint))
}

fn frozen_failure(environment: &Environment, why: &[String]) -> Error {
    retention::frozen(why)
        .hint(format!("`status --env {}` shows the open questions and the command that answers each", environment))
}

/// What a run would do.
pub fn of_preview<'a>(
    environment: &Environment,
    id: SnapshotId,
    decisions: &[dumping::Decision],
    sources: impl Iterator<Item = (&'a str, Option<&'a Error>)>,
) -> Report {
    let mut text = format!("a run now would make snapshot {id} of {}; nothing was written\n", environment);
    let mut shown = serde_json::Map::new();
    let mut failures = Vec::new();
    for (name, error) in sources {
        let decision = decisions.iter().find(|decision| decision.source == name);
        let (action, reason) = match (decision, error) {
            (_, Some(error)) => {
                failures.push((name.to_owned(), error.clone()));
                ("fail", error.to_string())
            }
            (Some(decision), None) => {
                let action = match decision.action {
                    dumping::Action::Carry => "carry",
                    dumping::Action::Dump => "dump",
                };
                (action, base::text::printable(&decision.reason))
            }
            (None, None) => ("none", String::new()),
        };
        let _ = writeln!(text, "  {name:<10} {action:<10} {reason}");
        shown.insert(name.to_owned(), json!({ "action": action, "reason": reason }));
    }
    let failure = run_failure(&failures, shown.len());
    let document = json!({ "format_version": FORMAT_VERSION, "environment": environment.as_str(), "dry_run": true, "id": id, "sources": shown });
    Report { document, text, failure }
}

/// The open questions, for machines.
pub fn questions_value(questions: &[Question]) -> Value {
    let each = |question: &Question| {
        json!({
            "kind": question.kind.name(),
            "source": question.source,
            "snapshots": question.snapshots,
            "said": question.text,
            "command": question.command,
        })
    };
    questions.iter().map(each).collect()
}

/// What a prune would do. `obstacles` are the reasons that would freeze it.
pub fn of_prune_preview(
    environment: &Environment,
    history: &History,
    planned: &Planned,
    steps: &Steps,
    obstacles: &[String],
) -> Report {
    let mut text = String::new();
    for (id, decision) in &planned.plan {
        let binned = history.snapshot(*id).is_some_and(|snapshot| snapshot.binned.is_some());
        let verb = match (decision.keep, binned) {
            (true, true) => "take back",
            (true, false) => "keep",
            (false, _) if planned.deferred.contains(id) => "later",
            (false, false) => "bin",
            (false, true) if steps.due.contains(id) => "delete",
            (false, true) => "in bin",
        };
        let _ = writeln!(text, "  {id}  {verb:<9}  {}", decision.shown().join(", "));
    }
    let objects = history.unreferenced_without(&steps.due.iter().copied().collect());
    let bytes: u64 = objects.iter().map(|(_, bytes)| bytes).sum();
    let _ = writeln!(
        text,
        "a prune now would put {} of {} into the bin, take {} back, and delete {} with {} ({}); nothing was changed",
        steps.entering.len(),
        counted(planned.plan.len(), "snapshot"),
        steps.taken_back.len(),
        steps.due.len(),
        counted(objects.len(), "object"),
        HumanBytes(bytes)
    );
    for obstacle in obstacles {
        let _ = writeln!(text, "but retention is frozen: {obstacle}");
    }
    for note in &planned.notes {
        let _ = writeln!(text, "note: {note}");
    }
    let mut value = retention_value("planned", &planned.plan, planned, None);
    value["would_bin"] = json!(steps.entering);
    value["would_take_back"] = json!(steps.taken_back);
    value["would_forget"] = json!(steps.due);
    value["would_prune"] = objects_value(&objects);
    value["frozen_because"] = json!(obstacles);
    let document = json!({ "format_version": FORMAT_VERSION, "environment": environment.as_str(), "dry_run": true, "retention": value });
    Report { document, text, failure: None }
}

/// What a prune did.
pub fn of_prune(environment: &Environment, history: &History, planned: &Planned, applied: &Applied) -> Report {
    let text = retention_text(planned, applied, history);
    let value = retention_value("applied", &planned.plan, planned, Some(applied));
    let document = json!({ "format_version": FORMAT_VERSION, "environment": environment.as_str(), "dry_run": false, "retention": value });
    Report { document, text, failure: applied_failure(applied) }
}

fn retention_text(planned: &Planned, applied: &Applied, history: &History) -> String {
    let bytes: u64 = applied.pruned.iter().map(|(_, bytes)| bytes).sum();
    let before = history.snapshots.iter().filter(|snapshot| snapshot.binned.is_some()).count();
    let in_bin = (before + applied.binned.len()).saturating_sub(applied.taken_back.len() + applied.forgotten.len());
    let mut text = format!(
        "  retention  {}, {in_bin} in the bin; {} deleted with {} ({})\n",
        counted(history.snapshots.len().saturating_sub(applied.forgotten.len()), "snapshot"),
        applied.forgotten.len(),
        counted(applied.pruned.len(), "object"),
        HumanBytes(bytes)
    );
    for (verb, ids) in
        [("into the bin", &applied.binned), ("out of the bin", &applied.taken_back), ("deleted", &applied.forgotten)]
    {
        for id in ids {
            let reasons = planned.plan.get(id).map(|decision| decision.shown().join(", ")).unwrap_or_default();
            let _ = writeln!(text, "             {verb}: {id}: {reasons}");
        }
    }
    if !planned.deferred.is_empty() {
        let count = planned.deferred.len();
        let _ = writeln!(text, "             {count} more will be put into the bin by later runs (max_forget)");
    }
    for key in &applied.retained {
        let _ = writeln!(text, "             the store refused to delete {key} (object lock or retention rule)");
    }
    for failure in &applied.failures {
        let _ = writeln!(text, "             failed: {failure}");
    }
    for note in &planned.notes {
        let _ = writeln!(text, "             note: {note}");
    }
    text
}

fn retention_value(state: &str, plan: &Decisions, planned: &Planned, applied: Option<&Applied>) -> Value {
    let decisions: Vec<Value> = plan
        .iter()
        .map(|(id, decision)| json!({ "id": id, "verdict": if decision.keep { "keep" } else { "forget" }, "reasons": decision.shown() }))
        .collect();
    let mut value = json!({ "state": state, "plan": decisions, "deferred": planned.deferred, "plan_millis": planned.plan_millis, "notes": planned.notes });
    if let Some(applied) = applied {
        value["binned"] = json!(applied.binned);
        value["taken_back"] = json!(applied.taken_back);
        value["forgotten"] = json!(applied.forgotten);
        value["pruned"] = objects_value(&applied.pruned);
        value["retained"] = json!(applied.retained);
        value["failures"] = json!(applied.failures.iter().map(ToString::to_string).collect::<Vec<_>>());
    }
    value
}

fn objects_value(objects: &[(store::ObjectKey, u64)]) -> Value {
    objects.iter().map(|(key, bytes)| json!({ "key": key, "bytes": bytes })).collect()
}

/// The first reasons, to fit a line; `--json` has all of them.
fn shortened(reasons: &[String]) -> String {
    const SHOWN: usize = 3;
    match reasons.len().checked_sub(SHOWN) {
        Some(more @ 1..) => format!("{}, and {more} more", reasons.get(..SHOWN).unwrap_or_default().join(", ")),
        Some(0) | None => reasons.join(", "),
    }
}

pub(crate) fn local(moment: Timestamp, zone: &TimeZone) -> String {
    moment.to_zoned_datetime(zone.clone()).strftime("%Y-%m-%d %H:%M").to_string()
}

/// The age of something. It may be slightly negative: a run that began in the same second as another gets the next
/// second as its id.
pub(crate) fn age(moment: Timestamp, now: Timestamp) -> String {
    passed(moment, now).map_or_else(|| IN_THE_FUTURE.to_owned(), span)
}

/// The time since a moment, unless that is in the future.
fn passed(moment: Timestamp, now: Timestamp) -> Option<jiff::SignedDuration> {
    let passed = now.duration_since(moment);
    (passed >= -catalogue::clock::SKEW_MAX).then(|| passed.max(jiff::SignedDuration::ZERO))
}

/// `5 days ago`, or `in the future`.
pub(crate) fn ago(moment: Timestamp, now: Timestamp) -> String {
    passed(moment, now).map_or_else(|| IN_THE_FUTURE.to_owned(), |passed| format!("{} ago", span(passed)))
}

/// A span of time in its largest unit.
pub(crate) fn span(passed: jiff::SignedDuration) -> String {
    HumanDuration(Duration::from_secs(passed.as_secs().unsigned_abs())).to_string()
}

/// The failure of a run in which sources failed. If all failures have the same class, the run has it too; so a run is
/// only worth a retry if every failure is.
fn run_failure(failures: &[(String, Error)], sources: usize) -> Option<Error> {
    let (_, first) = failures.first()?;
    let alike = failures.iter().all(|(_, error)| error.class() == first.class());
    let class = if alike { first.class() } else { Class::Unexpected };
    let messages: Vec<String> = failures.iter().map(|(name, error)| format!("{name}: {error}")).collect();
    let error = Error::new(
        class,
        format!("{} of {} failed: {}", failures.len(), counted(sources, "source"), messages.join("; ")),
    );
    Some(match first.advice() {
        Some(hint) => error.hint(hint),
        None => error.hint("the failure is recorded and nothing was forgotten; fix the cause and run the backup again"),
    })
}

fn applied_failure(applied: &Applied) -> Option<Error> {
    if applied.interrupted {
        let error = Error::new(Class::RetentionIncomplete, "retention was interrupted between two steps");
        return Some(error.hint("the snapshot is committed; the next run continues the retention"));
    }
    let first = applied.failures.first()?;
    let failed = counted(applied.failures.len(), "step");
    Some(retention_incomplete(&first.clone().context(format!("{failed} of the retention failed, first"))))
}

fn retention_incomplete(error: &Error) -> Error {
    let incomplete = Error::new(Class::RetentionIncomplete, format!("retention failed: {error}"));
    match error.advice() {
        Some(hint) => incomplete.hint(hint),
        None => incomplete,
    }
}
