//! `plugins explain fingerprint`: what the newest fingerprint of each source rests on, in words, from the records in the store.

use crate::report::{FORMAT_VERSION, Report};
use crate::session::Host;
use base::error::{Error, Result};
use base::evidence::{Selected, SelectedTables};
use base::text::printable;
use catalogue::history::{self, Snapshot};
use catalogue::record::SourceRecord;
use clap::ValueEnum;
use indicatif::HumanCount;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// What the person asked for.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// The plugin whose choice is explained
    #[arg(value_name = "PLUGIN")]
    what: Explained,
    /// Environment, as the configuration names it
    #[arg(long = "env", value_name = "NAME")]
    pub(super) environment: String,
}

/// Plugins that choose what is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Explained {
    /// What counts as a change of a source
    Fingerprint,
}

/// Reads the records. No source is opened and no plugin runs.
///
/// # Errors
/// The store's; [`base::error::Class::Config`] where no record has a fingerprint.
pub(super) async fn run(host: &Host, arguments: &Arguments) -> Result<Report> {
    let Explained::Fingerprint = arguments.what;
    let history = history::load(&host.store, &host.environment, &host.sources.configured, host.clock.now()).await?;
    let mut newest: BTreeMap<&str, (&Snapshot, &SourceRecord)> = BTreeMap::new();
    for snapshot in &history.snapshots {
        for (name, source) in snapshot.record.iter().flat_map(|record| &record.sources) {
            if source.fingerprint.is_some() {
                newest.insert(name, (snapshot, source));
            }
        }
    }
    if newest.is_empty() {
        return Err(Error::config(format!(
            "no record of {} has a fingerprint that could be explained",
            host.environment
        ))
        .hint("run `backup` first; `status` shows what keeps a source from being fingerprinted"));
    }
    let text = newest.iter().map(|(name, (snapshot, source))| words(name, snapshot, source)).collect();
    let value = |(name, (snapshot, source)): (&&str, &(&Snapshot, &SourceRecord))| {
        json!({
            "source": name,
            "snapshot": snapshot.id,
            "basis": source.basis,
            "selected": source.selected,
            "filtered_columns": source.selected.iter().flat_map(Selected::filtered_columns).collect::<Vec<_>>(),
        })
    };
    let document = json!({
        "format_version": FORMAT_VERSION,
        "environment": host.environment.as_str(),
        "sources": newest.iter().map(value).collect::<Vec<Value>>(),
    });
    Ok(Report { document, text, failure: None })
}

fn words(name: &str, snapshot: &Snapshot, source: &SourceRecord) -> String {
    let basis = printable(source.basis.as_deref().unwrap_or("nothing"));
    let mut text = format!("{name}, by the record of {}: {basis}\n", snapshot.id);
    if source.selected.is_empty() {
        text.push_str("  an older version recorded no selection; the next run does\n");
    }
    for selected in &source.selected {
        match selected {
            Selected::Structure => text.push_str(
                "  structure: tables, columns, types, keys, indexes, triggers, functions and all else that is defined\n",
            ),
            Selected::Definitions => text.push_str(
                "  definitions: defaults, checks, views, policies and conditions as the server prints them\n",
            ),
            Selected::Comments => text.push_str("  comments\n"),
            Selected::Rights => text.push_str("  owners, rights and security labels, and what the database itself is set to\n"),
            Selected::LargeObjects => text.push_str("  every byte of the large objects\n"),
            Selected::Sequences { skip } => {
                text.push_str("  the values of the sequences, but for those of\n");
                match skip.is_empty() {
                    true => text.push_str("    nothing\n"),
                    false => tables(&mut text, skip),
                }
            }
            Selected::Content { schemas } => content(&mut text, schemas, source),
            Selected::Latest { column, schemas } => {
                let column = printable(column);
                for (schema, tables) in schemas {
                    let _ = writeln!(
                        text,
                        "  row count and greatest `{column}` of {} tables of {}: {}",
                        HumanCount(tables.len() as u64),
                        printable(schema),
                        list(tables)
                    );
                }
                text.push_str("    no other change of a row is seen\n");
            }
            Selected::TreeMetadata { exclude } => {
                text.push_str("  path, kind, mode, owner, size and times of every entry; no byte of a file\n");
                left_out(&mut text, exclude);
            }
            Selected::TreeContent { exclude } => {
                text.push_str("  path, kind, mode, owner and every byte of every file; no times\n");
                left_out(&mut text, exclude);
            }
        }
    }
    text
}

fn content(text: &mut String, schemas: &BTreeMap<String, SelectedTables>, source: &SourceRecord) {
    let selected: usize = schemas.values().map(|schema| schema.tables.len()).sum();
    let there = source.measure.and_then(|measure| measure.tables);
    let of = there.map(|there| format!(" of {}", HumanCount(there))).unwrap_or_default();
    let _ = writeln!(text, "  every row of {}{of} tables, but for", HumanCount(selected as u64));
    let mut exceptions = String::new();
    for (schema, selected) in schemas {
        for (table, columns) in &selected.skip_columns {
            let (schema, table) = (printable(schema), printable(table));
            let _ = writeln!(exceptions, "    {schema}.{table}: the columns {} do not count", list(columns));
        }
        for (table, filter) in &selected.skip_rows {
            let (schema, table, column) = (printable(schema), printable(table), printable(&filter.column));
            let _ = writeln!(
                exceptions,
                "    {schema}.{table}: rows whose `{column}` is {} do not count",
                filter.values.iter().map(|value| printable(value)).collect::<Vec<_>>().join(" or ")
            );
        }
    }
    text.push_str(if exceptions.is_empty() { "    nothing\n" } else { &exceptions });
    for (schema, selected) in schemas {
        let _ = writeln!(text, "    tables of {}: {}", printable(schema), list(&selected.tables));
    }
}

fn tables(text: &mut String, schemas: &BTreeMap<String, BTreeSet<String>>) {
    for (schema, tables) in schemas {
        let _ = writeln!(text, "    tables of {}: {}", printable(schema), list(tables));
    }
}

fn left_out(text: &mut String, exclude: &[String]) {
    let shown = exclude.iter().map(|glob| printable(glob)).collect::<Vec<_>>().join(", ");
    let _ = writeln!(text, "    left out: {}", if shown.is_empty() { "nothing" } else { &shown });
}

fn list(names: &BTreeSet<String>) -> String {
    names.iter().map(|name| printable(name)).collect::<Vec<_>>().join(", ")
}
