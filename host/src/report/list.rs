//! The list of snapshots: one row each, with the reason why it is kept.

use super::{FORMAT_VERSION, Report, age, local, questions_value, shortened};
use crate::retention::{self, Planned};
use base::error::Error;
use base::text::counted;
use catalogue::configured::Environment;
use catalogue::guard::Decision;
use catalogue::history::{History, Snapshot};
use catalogue::proof::VerificationState;
use catalogue::questions::Question;
use catalogue::record::{Condition, Outcome, is_newer_format};
use comfy_table::{Cell, CellAlignment, Table, presets};
use indicatif::HumanBytes;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use std::fmt::Write as _;

/// How a list shows times.
#[derive(Debug, Clone, Copy)]
pub struct ListOptions<'a> {
    /// The business time zone.
    pub zone: &'a TimeZone,
    /// Days in the bin, as configured.
    pub bin_days: u16,
}

/// The snapshots in the store. `plan` has the reasons why they are kept; if it failed, the list has no reasons.
pub fn of_list(
    environment: &Environment,
    shown: ListOptions<'_>,
    history: &History,
    plan: Result<Planned, Error>,
    questions: &[Question],
    now: Timestamp,
) -> Report {
    let rows: Vec<Value> = history.snapshots.iter().rev().map(|s| snapshot_value(s, plan.as_ref().ok())).collect();
    let mut document =
        json!({ "format_version": FORMAT_VERSION, "environment": environment.as_str(), "snapshots": rows });
    let mut text = String::new();
    if history.snapshots.is_empty() {
        let _ = writeln!(text, "{environment} has no snapshots");
    } else {
        let _ = writeln!(text, "{}", list_table(shown, history, plan.as_ref().ok(), now));
        let (count, bytes) = (counted(history.snapshots.len(), "snapshot"), HumanBytes(stored_bytes(history)));
        let _ = writeln!(text, "{count}, {bytes} in objects");
    }
    for question in questions {
        let _ = writeln!(text, "open question: {} (answer with `{}`)", question.text, question.command);
    }
    document["waiting"] = questions_value(questions);
    match plan {
        Ok(planned) => {
            for note in &planned.notes {
                let _ = writeln!(text, "note: {note}");
            }
            document["notes"] = json!(planned.notes);
        }
        Err(error) => {
            let _ = writeln!(text, "warning: cannot show why snapshots are kept: {error}");
            document["plan_error"] = json!(error.to_string());
        }
    }
    Report { document, text, failure: None }
}

fn snapshot_value(snapshot: &Snapshot, plan: Option<&Planned>) -> Value {
    let sources: serde_json::Map<String, Value> = snapshot
        .sources
        .iter()
        .map(|(name, state)| {
            let object = state.object.as_ref();
            let value = json!({
                "outcome": state.outcome,
                "condition": state.condition,
                "fingerprint": state.fingerprint.as_deref().unwrap_or_default(),
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
    let reasons = |keep: bool| decision.filter(|d| d.keep == keep).map(Decision::shown).unwrap_or_default();
    json!({
        "id": snapshot.id,
        "taken": snapshot.id.taken(),
        "complete": snapshot.complete,
        "condition": snapshot.condition(),
        "adopted": snapshot.adopted,
        "verified": snapshot.verification_state == VerificationState::Passed,
        "disproved": snapshot.verification_state == VerificationState::Failed,
        "pinned": snapshot.pinned,
        "retired": snapshot.retired,
        "time_doubted": snapshot.clock_doubted,
        "in_bin_since": snapshot.binned,
        "damaged": snapshot.damage.as_ref().map(ToString::to_string),
        "sources": sources,
        "keep": reasons(true),
        "forget": reasons(false),
    })
}

fn list_table(shown: ListOptions<'_>, history: &History, plan: Option<&Planned>, now: Timestamp) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let mut header =
        vec!["SNAPSHOT".to_owned(), format!("TAKEN ({})", shown.zone.iana_name().unwrap_or("UTC")), "AGE".to_owned()];
    header.extend(history.sources.keys().map(|source| source.to_uppercase()));
    header.extend(["SIZE".to_owned(), "KEPT FOR".to_owned()]);
    table.set_header(header);
    for snapshot in history.snapshots.iter().rev() {
        let mut row = vec![
            Cell::new(snapshot.id),
            Cell::new(local(snapshot.id.taken(), shown.zone)),
            Cell::new(age(snapshot.id.taken(), now)).set_alignment(CellAlignment::Right),
        ];
        row.extend(history.sources.keys().map(|source| Cell::new(source_cell(snapshot, source))));
        row.push(Cell::new(HumanBytes(snapshot.bytes())).set_alignment(CellAlignment::Right));
        row.push(Cell::new(kept_for(shown, history, snapshot, plan)));
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
        Some(_) if matches!(state.condition, Condition::Partial | Condition::Suspect) => {
            format!("{}, {}", state.outcome, state.condition.to_string().to_uppercase())
        }
        Some(_) | None => state.outcome.to_string(),
    }
}

fn kept_for(shown: ListOptions<'_>, history: &History, snapshot: &Snapshot, plan: Option<&Planned>) -> String {
    let mut notes = Vec::new();
    if let Some(damage) = &snapshot.damage {
        notes.push(if is_newer_format(damage) { "record of a newer version" } else { "damaged record" }.to_owned());
    }
    if snapshot.retired {
        notes.push("retired".to_owned());
    }
    if snapshot.clock_doubted {
        notes.push("time in doubt".to_owned());
    }
    if let Some(since) = snapshot.binned {
        let days = history.bin_days(shown.bin_days, since);
        let until = local(retention::due(since, days), shown.zone);
        notes.push(format!("in the bin until {until}"));
    }
    match plan.and_then(|planned| planned.plan.get(&snapshot.id)) {
        Some(decision) if decision.keep || snapshot.binned.is_some() => notes.push(shortened(&decision.shown())),
        Some(decision) => notes.push(format!("may go: {}", shortened(&decision.shown()))),
        None => {}
    }
    notes.join("; ")
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
