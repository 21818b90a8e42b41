//! `plugins log`: what each plugin did, read back from the records in the store.

use crate::error::Result;
use crate::guard::Age;
use crate::history;
use crate::host::Host;
use crate::plugin::component;
use crate::report::{FORMAT_VERSION, Report};
use crate::snapshot::{Record, SnapshotId};
use comfy_table::{Table, presets};
use indicatif::HumanBytes;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What the person asked for.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Environment, as the configuration names it
    #[arg(long = "env", value_name = "NAME")]
    pub(super) environment: String,
    /// How far to look back, as 30d or 48h
    #[arg(long, value_name = "AGE", default_value = "30d", value_parser = age)]
    since: Age,
}

fn age(text: &str) -> std::result::Result<Age, String> {
    Age::try_from(text.to_owned())
}

/// Plugin, digest, function and scope.
type Deed = (String, String, String, String);

/// What was done so.
#[derive(Debug, Clone, Copy)]
struct Sum {
    runs: u64,
    calls: u64,
    bytes: u64,
    first: SnapshotId,
    last: SnapshotId,
}

/// Adds up the tallies.
///
/// # Errors
/// The store's. A record that cannot be read is left out, and the report says so.
pub(super) async fn run(host: &Host, arguments: &Arguments) -> Result<Report> {
    let now = host.clock.now();
    let from = now.checked_sub(arguments.since.0).unwrap_or(jiff::Timestamp::MIN);
    let history = history::load(&host.store, &host.environment, &host.sources, now).await?;
    let records: Vec<&Record> = history
        .snapshots
        .iter()
        .filter_map(|snapshot| snapshot.record.as_ref())
        .filter(|record| record.id.taken() >= from)
        .collect();
    let sums = sum(&records);
    let mut text = format!(
        "{} runs of {} since {}\n",
        records.len(),
        host.environment,
        from.to_zoned_datetime(host.time_zone.clone()).strftime("%Y-%m-%d %H:%M")
    );
    if !sums.is_empty() {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(["plugin", "sha256", "function", "scope", "runs", "calls", "bytes", "first", "last"]);
        for ((plugin, sha256, function, scope), sum) in &sums {
            let (bytes, digest) = (HumanBytes(sum.bytes).to_string(), component::short(sha256));
            let (runs, calls) = (sum.runs.to_string(), sum.calls.to_string());
            let (first, last) = (sum.first.to_string(), sum.last.to_string());
            table.add_row([plugin, digest, function, scope, &runs, &calls, &bytes, &first, &last]);
        }
        let _ = writeln!(text, "{}", table.trim_fmt());
    }
    for damage in history.damaged() {
        let _ = writeln!(text, "warning: {damage}");
    }
    let rows: Vec<Value> = sums
        .iter()
        .map(|((plugin, sha256, function, scope), sum)| {
            json!({
                "plugin": plugin, "sha256": sha256, "function": function, "scope": scope,
                "runs": sum.runs, "calls": sum.calls, "bytes": sum.bytes, "first": sum.first, "last": sum.last,
            })
        })
        .collect();
    let document = json!({
        "format_version": FORMAT_VERSION,
        "environment": host.environment.as_str(),
        "since": from,
        "runs": records.len(),
        "deeds": rows,
    });
    Ok(Report { document, text, failure: None })
}

fn sum(records: &[&Record]) -> BTreeMap<Deed, Sum> {
    let mut sums: BTreeMap<Deed, Sum> = BTreeMap::new();
    for record in records {
        for plugin in &record.plugins {
            for line in &plugin.tally {
                let deed = (plugin.name.clone(), plugin.sha256.clone(), line.function.clone(), line.scope.clone());
                let none = Sum { runs: 0, calls: 0, bytes: 0, first: record.id, last: record.id };
                let sum = sums.entry(deed).or_insert(none);
                sum.runs += 1;
                sum.calls = sum.calls.saturating_add(line.calls);
                sum.bytes = sum.bytes.saturating_add(line.bytes);
                sum.first = sum.first.min(record.id);
                sum.last = sum.last.max(record.id);
            }
        }
    }
    sums
}
