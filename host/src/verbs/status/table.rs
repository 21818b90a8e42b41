//! A status for people and for machines.

use super::judge::{EnvironmentStatus, Retention, SourceStatus};
use super::proofs::Proof;
use crate::report::{age, local};
use comfy_table::{Cell, CellAlignment, Table, presets};
use indicatif::HumanBytes;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use std::fmt::Write as _;

/// One line per configured source, then the problems.
pub(super) fn text(found: &[EnvironmentStatus], zone: &TimeZone, now: Timestamp) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["ENV", "SOURCE", "LAST BACKUP", "AGE", "LAST SAVED", "SIZE", "VERIFIED", "DRILLED", "RETENTION"]);
    for status in found {
        for source in &status.sources {
            table.add_row(row(status, source, zone, now));
        }
    }
    let mut text = format!("{}\n", table.trim_fmt());
    for status in found {
        for problem in &status.problems {
            let _ = writeln!(text, "{}: {} (`{}`)", status.environment, problem.message, problem.command);
        }
    }
    for status in found.iter().filter(|status| status.counts.binned > 0) {
        let (environment, binned) = (&status.environment, status.counts.binned);
        let _ = writeln!(text, "{environment}: snapshots in the bin: {binned} (`list --env {environment}`)");
    }
    if found.iter().all(EnvironmentStatus::is_healthy) {
        text.push_str("all is well\n");
    }
    text
}

fn row(status: &EnvironmentStatus, source: &SourceStatus, zone: &TimeZone, now: Timestamp) -> Vec<Cell> {
    let never = || "never".to_owned();
    let taken = source.restorable.map(|id| id.taken());
    let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
    vec![
        Cell::new(&status.environment),
        Cell::new(&source.source),
        Cell::new(taken.map_or_else(never, |at| local(at, zone))),
        right(taken.map_or_else(|| "-".to_owned(), |at| age(at, now))),
        Cell::new(source.saved.map_or_else(never, |(made, _)| local(made, zone))),
        right(source.saved.map_or_else(|| "-".to_owned(), |(_, bytes)| HumanBytes(bytes).to_string())),
        Cell::new(proof(status.verification, zone)),
        Cell::new(proof(status.drill, zone)),
        Cell::new(retention(&status.retention)),
    ]
}

fn proof(proof: Option<Proof>, zone: &TimeZone) -> String {
    match proof {
        None => "never".to_owned(),
        Some(Proof { at, passed: true }) => local(at, zone),
        Some(Proof { at, passed: false }) => format!("{}, FAILED", local(at, zone)),
    }
}

pub(super) fn retention(retention: &Retention) -> String {
    match retention {
        Retention::Never => "never".to_owned(),
        Retention::Applied => "applied".to_owned(),
        Retention::Frozen => "frozen".to_owned(),
        Retention::Pending => "with the next run".to_owned(),
        Retention::Behind(due) => format!("behind by {due}"),
        Retention::Refused(_) => "refused".to_owned(),
        Retention::Unseen(_) => "unknown".to_owned(),
    }
}

/// The status as JSON; `null` means never.
pub(super) fn value(status: &EnvironmentStatus) -> Value {
    let shown = |proof: Option<Proof>| proof.map(|proof| json!({ "at": proof.at, "passed": proof.passed }));
    let sources: serde_json::Map<String, Value> = status
        .sources
        .iter()
        .map(|source| {
            let value = json!({
                "last_snapshot": source.restorable,
                "last_success": source.restorable.map(|id| id.taken()),
                "last_saved": source.saved.map(|(made, _)| made),
                "bytes": source.saved.map(|(_, bytes)| bytes),
                "last_outcome": source.outcome,
                "last_condition": source.condition,
            });
            (source.source.clone(), value)
        })
        .collect();
    let problems: Vec<Value> = status
        .problems
        .iter()
        .map(|problem| json!({ "kind": problem.kind.name(), "source": problem.source, "said": problem.message, "command": problem.command }))
        .collect();
    let (state, due, error) = match &status.retention {
        Retention::Never => ("never", None, None),
        Retention::Applied => ("applied", Some(0), None),
        Retention::Frozen => ("frozen", None, None),
        Retention::Pending => ("pending", None, None),
        Retention::Behind(due) => ("behind", Some(*due), None),
        Retention::Refused(error) => ("refused", None, Some(error)),
        Retention::Unseen(error) => ("unseen", None, Some(error)),
    };
    json!({
        "environment": status.environment,
        "healthy": status.is_healthy(),
        "sources": sources,
        "last_complete": status.complete,
        "last_verification": shown(status.verification),
        "last_drill": shown(status.drill),
        "last_proof_passed": status.proven,
        "retention": { "state": state, "due": due, "error": error },
        "snapshots": {
            "complete": status.counts.complete,
            "incomplete": status.counts.incomplete,
            "damaged": status.counts.damaged,
            "adopted": status.counts.adopted,
            "in_bin": status.counts.binned,
        },
        "waiting": crate::report::questions_value(&status.waiting),
        "problems": problems,
    })
}
