//! What a command says when it is done: one JSON object for machines, a few lines for people, and the failure that
//! sets the exit code where there is one.

use crate::error::{Class, Error};
use crate::guard::Plan;
use crate::history::{History, Snapshot};
use crate::host::Host;
use crate::plugin::call::dumping;
use crate::retention::{Applied, Planned};
use crate::snapshot::{Outcome, Record, SnapshotId};
use comfy_table::{Cell, CellAlignment, Table, presets};
use indicatif::{HumanBytes, HumanCount, HumanDuration};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::time::Duration;

/// Version of the JSON objects that commands print.
pub const FORMAT_VERSION: u32 = 1;

/// A command's result.
#[derive(Debug)]
pub struct Report {
    /// For machines.
    pub document: Value,
    /// For people; ends with a newline.
    pub text: String,
    /// Why the exit code is not 0, although there is a result.
    pub failure: Option<Error>,
}

/// What became of retention after a run.
#[derive(Debug)]
pub enum Retention {
    /// Carried out.
    Applied(Planned, Applied),
    /// Not even planned, because a source failed.
    Frozen,
    /// No plan, or one that is not carried out.
    Refused(Error),
}

/// A run that committed its snapshot.
#[must_use]
pub fn of_backup(
    host: &Host,
    record: Record,
    failures: Vec<(String, Error)>,
    retention: Retention,
    history: &History,
) -> Report {
    let mut text = format!(
        "snapshot {} of {}{}\n",
        record.id,
        host.environment,
        if record.complete { "" } else { " is incomplete" }
    );
    for (name, source) in &record.sources {
        let size = source.object.as_ref().map(|object| HumanBytes(object.bytes).to_string()).unwrap_or_default();
        let _ = writeln!(text, "  {name:<10} {:<10} {size:>11}  {}", source.outcome, source.reason);
        if let Some(archive) = &source.archive {
            let _ = writeln!(
                text,
                "  {:<10} {} files archived, {} ({}) left out by the exclude patterns",
                "",
                HumanCount(archive.files),
                HumanCount(archive.excluded_files),
                HumanBytes(archive.excluded_bytes)
            );
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
        Retention::Frozen => {
            text.push_str("  retention  frozen, because the run is incomplete; nothing was forgotten\n");
            (json!({ "state": "frozen" }), None)
        }
        Retention::Refused(error) => {
            let _ = writeln!(text, "  retention  not done: {error}");
            (json!({ "state": "refused", "error": error.to_string() }), Some(retention_incomplete(error)))
        }
    };
    let failure = run_failure(&failures, record.sources.len()).or(retention_failure);
    Report {
        document: json!({ "format_version": FORMAT_VERSION, "environment": host.environment.as_str(), "dry_run": false, "snapshot": record, "retention": value }),
        text,
        failure,
    }
}

/// What a run would do.
#[must_use]
pub fn of_preview<'a>(
    host: &Host,
    id: SnapshotId,
    decisions: &[dumping::Decision],
    sources: impl Iterator<Item = (&'a str, Option<&'a Error>)>,
) -> Report {
    let mut text = format!("a run now would make snapshot {id} of {}; nothing was written\n", host.environment);
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
                (action, crate::capability::printable(&decision.reason))
            }
            (None, None) => ("none", String::new()),
        };
        let _ = writeln!(text, "  {name:<10} {action:<10} {reason}");
        shown.insert(name.to_owned(), json!({ "action": action, "reason": reason }));
    }
    let failure = run_failure(&failures, shown.len());
    let document = json!({ "format_version": FORMAT_VERSION, "environment": host.environment.as_str(), "dry_run": true, "id": id, "sources": shown });
    Report { document, text, failure }
}

/// What the store holds. `plan` says why each snapshot is kept; where it failed, the list is shown without reasons.
#[must_use]
pub fn of_list(host: &Host, history: &History, plan: Result<Planned, Error>, now: Timestamp) -> Report {
    let rows: Vec<Value> = history.snapshots.iter().rev().map(|s| snapshot_value(s, plan.as_ref().ok())).collect();
    let mut document =
        json!({ "format_version": FORMAT_VERSION, "environment": host.environment.as_str(), "snapshots": rows });
    let mut text = String::new();
    if history.snapshots.is_empty() {
        let _ = writeln!(text, "{} has no snapshot", host.environment);
    } else {
        let _ = writeln!(text, "{}", list_table(host, history, plan.as_ref().ok(), now));
        let _ =
            writeln!(text, "{} snapshots, {} in objects", history.snapshots.len(), HumanBytes(stored_bytes(history)));
    }
    for error in history.damaged() {
        let _ = writeln!(text, "warning: {error}");
    }
    match plan {
        Ok(planned) => {
            for note in &planned.notes {
                let _ = writeln!(text, "note: {note}");
            }
            document["notes"] = json!(planned.notes);
        }
        Err(error) => {
            let _ = writeln!(text, "warning: why they are kept is unknown: {error}");
            document["plan_error"] = json!(error.to_string());
        }
    }
    Report { document, text, failure: None }
}

/// What a prune did, or would do where nothing was applied.
#[must_use]
pub fn of_prune(host: &Host, history: &History, planned: &Planned, applied: Option<&Applied>) -> Report {
    let mut text = String::new();
    let empty = Applied::default();
    if applied.is_none() {
        for (id, decision) in &planned.plan {
            let verb = if decision.keep { "keep" } else { "forget" };
            let _ = writeln!(text, "  {id}  {verb:<6}  {}", decision.reasons.join(", "));
        }
        let objects = history.unreferenced_without(&planned.forgets());
        let bytes: u64 = objects.iter().map(|(_, bytes)| bytes).sum();
        let _ = writeln!(
            text,
            "a prune now would forget {} of {} snapshots and delete {} objects ({}); nothing was changed",
            planned.forgets().len(),
            planned.plan.len(),
            objects.len(),
            HumanBytes(bytes)
        );
        for note in &planned.notes {
            let _ = writeln!(text, "note: {note}");
        }
    } else {
        text.push_str(&retention_text(planned, applied.unwrap_or(&empty), history));
    }
    let state = if applied.is_some() { "applied" } else { "planned" };
    let mut value = retention_value(state, &planned.plan, planned, applied);
    if applied.is_none() {
        value["would_prune"] = objects_value(&history.unreferenced_without(&planned.forgets()));
    }
    let document = json!({ "format_version": FORMAT_VERSION, "environment": host.environment.as_str(), "dry_run": applied.is_none(), "retention": value });
    Report { document, text, failure: applied.and_then(applied_failure) }
}

fn retention_text(planned: &Planned, applied: &Applied, history: &History) -> String {
    let bytes: u64 = applied.pruned.iter().map(|(_, bytes)| bytes).sum();
    let mut text = format!(
        "  retention  {} of {} snapshots kept, {} forgotten, {} objects ({}) deleted\n",
        history.snapshots.len().saturating_sub(applied.forgotten.len()),
        history.snapshots.len(),
        applied.forgotten.len(),
        applied.pruned.len(),
        HumanBytes(bytes)
    );
    for id in &applied.forgotten {
        let reasons = planned.plan.get(id).map(|decision| decision.reasons.join(", ")).unwrap_or_default();
        let _ = writeln!(text, "             forgotten {id}: {reasons}");
    }
    for key in &applied.retained {
        let _ = writeln!(text, "             the store keeps {key} by a rule of its own");
    }
    for failure in &applied.failures {
        let _ = writeln!(text, "             failed: {failure}");
    }
    for note in &planned.notes {
        let _ = writeln!(text, "             note: {note}");
    }
    text
}

fn retention_value(state: &str, plan: &Plan, planned: &Planned, applied: Option<&Applied>) -> Value {
    let decisions: Vec<Value> = plan
        .iter()
        .map(|(id, decision)| json!({ "id": id, "verdict": if decision.keep { "keep" } else { "forget" }, "reasons": decision.reasons }))
        .collect();
    let mut value =
        json!({ "state": state, "plan": decisions, "plan_millis": planned.plan_millis, "notes": planned.notes });
    if let Some(applied) = applied {
        value["forgotten"] = json!(applied.forgotten);
        value["pruned"] = objects_value(&applied.pruned);
        value["retained"] = json!(applied.retained);
        value["failures"] = json!(applied.failures.iter().map(ToString::to_string).collect::<Vec<_>>());
    }
    value
}

fn objects_value(objects: &[(crate::store::ObjectKey, u64)]) -> Value {
    objects.iter().map(|(key, bytes)| json!({ "key": key, "bytes": bytes })).collect()
}

fn snapshot_value(snapshot: &Snapshot, plan: Option<&Planned>) -> Value {
    let sources: serde_json::Map<String, Value> = snapshot
        .sources
        .iter()
        .map(|(name, state)| {
            let object = state.object.as_ref();
            let value = json!({
                "outcome": state.outcome,
                "fingerprint": state.fingerprint,
                "key": object.map(|o| &o.key),
                "bytes": object.map(|o| o.bytes),
                "sha256": object.and_then(|o| o.sha256.as_ref()),
                "made": object.map(|o| o.made),
                "present": object.is_some_and(|o| o.present),
            });
            (name.clone(), value)
        })
        .collect();
    let decision = plan.and_then(|planned| planned.plan.get(&snapshot.id));
    let reasons = |keep: bool| decision.filter(|d| d.keep == keep).map(|d| d.reasons.clone()).unwrap_or_default();
    json!({
        "id": snapshot.id,
        "taken": snapshot.id.taken(),
        "complete": snapshot.complete,
        "adopted": snapshot.adopted,
        "verified": snapshot.verified,
        "pinned": snapshot.pinned,
        "damaged": snapshot.damage.as_ref().map(ToString::to_string),
        "sources": sources,
        "keep": reasons(true),
        "forget": reasons(false),
    })
}

fn list_table(host: &Host, history: &History, plan: Option<&Planned>, now: Timestamp) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let mut header = vec!["SNAPSHOT".to_owned(), format!("TAKEN ({})", host.time_zone_name()), "AGE".to_owned()];
    header.extend(host.sources.sources.keys().map(|source| source.to_uppercase()));
    header.extend(["SIZE".to_owned(), "KEPT FOR".to_owned()]);
    table.set_header(header);
    for snapshot in history.snapshots.iter().rev() {
        let mut row = vec![
            Cell::new(snapshot.id),
            Cell::new(local(snapshot.id.taken(), &host.time_zone)),
            Cell::new(age(snapshot.id.taken(), now)).set_alignment(CellAlignment::Right),
        ];
        row.extend(host.sources.sources.keys().map(|source| Cell::new(source_cell(snapshot, source))));
        row.push(Cell::new(HumanBytes(snapshot.bytes())).set_alignment(CellAlignment::Right));
        row.push(Cell::new(kept_for(snapshot, plan)));
        table.add_row(row);
    }
    table
}

fn source_cell(snapshot: &Snapshot, source: &str) -> String {
    let Some(state) = snapshot.sources.get(source) else { return "-".to_owned() };
    match &state.object {
        Some(object) if !object.present && state.outcome != Outcome::Failed => {
            format!("{}, OBJECT MISSING", state.outcome)
        }
        Some(_) | None => state.outcome.to_string(),
    }
}

fn kept_for(snapshot: &Snapshot, plan: Option<&Planned>) -> String {
    let incomplete = if snapshot.damage.is_some() {
        "damaged record; "
    } else if snapshot.complete {
        ""
    } else {
        "incomplete; "
    };
    let reasons = match plan.and_then(|planned| planned.plan.get(&snapshot.id)) {
        Some(decision) if decision.keep => shortened(&decision.reasons),
        Some(decision) => format!("to be forgotten: {}", shortened(&decision.reasons)),
        None => String::new(),
    };
    format!("{incomplete}{reasons}")
}

/// Reasons that fit a line; `--json` has them all.
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

pub(crate) fn age(moment: Timestamp, now: Timestamp) -> String {
    let passed = now.duration_since(moment);
    if passed.is_negative() { "in the future".to_owned() } else { span(passed) }
}

/// A span of time in its largest unit.
pub(crate) fn span(passed: jiff::SignedDuration) -> String {
    HumanDuration(Duration::from_secs(passed.as_secs().unsigned_abs())).to_string()
}

/// Size of all objects that snapshots refer to, each counted once.
fn stored_bytes(history: &History) -> u64 {
    let objects: std::collections::BTreeMap<_, _> = history
        .snapshots
        .iter()
        .flat_map(|snapshot| snapshot.sources.values())
        .filter_map(|state| state.object.as_ref())
        .filter(|object| object.present)
        .map(|object| (&object.key, object.bytes))
        .collect();
    objects.values().sum()
}

/// The failure of a run whose snapshot is incomplete. Only when every source's failure is worth a retry, the run is.
fn run_failure(failures: &[(String, Error)], sources: usize) -> Option<Error> {
    let (_, first) = failures.first()?;
    let retry = failures.iter().all(|(_, error)| error.class() == Class::Unavailable);
    let class = if retry { Class::Unavailable } else { Class::Unexpected };
    let said: Vec<String> = failures.iter().map(|(name, error)| format!("{name}: {error}")).collect();
    let error = Error::new(class, format!("{} of {sources} sources failed: {}", failures.len(), said.join("; ")));
    Some(match first.advice() {
        Some(hint) => error.hint(hint),
        None => error
            .hint("the snapshot is recorded as incomplete and retention is frozen; mend the cause and run it again"),
    })
}

fn applied_failure(applied: &Applied) -> Option<Error> {
    let first = applied.failures.first()?;
    Some(retention_incomplete(
        &first.clone().context(format!("{} steps of the retention failed, first", applied.failures.len())),
    ))
}

fn retention_incomplete(error: &Error) -> Error {
    let incomplete = Error::new(Class::RetentionIncomplete, format!("the retention is not done: {error}"));
    match error.advice() {
        Some(hint) => incomplete.hint(hint),
        None => incomplete,
    }
}
