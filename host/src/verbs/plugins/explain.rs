//! `plugins explain fingerprint`: explains what the newest fingerprint of each source is based on, from the records in
//! the store.

use crate::report::{FORMAT_VERSION, Report};
use crate::session::Session;
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

/// Arguments of `plugins explain`.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// The plugin whose selection is explained
    #[arg(value_name = "PLUGIN")]
    what: Explained,
    /// Environment, as named in the configuration
    #[arg(long = "env", value_name = "NAME")]
    pub(super) environment: String,
}

/// Plugins that select what is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Explained {
    /// What counts as a change of a source
    Fingerprint,
}

/// Explains the fingerprints from the records. Opens no source and runs no plugin.
///
/// # Errors
/// Those of the store; [`base::error::Class::Config`] if no record has a fingerprint.
pub(super) async fn run(session: &Session, arguments: &Arguments) -> Result<Report> {
    let Explained::Fingerprint = arguments.what;
    let history =
        history::load(&session.store, &session.environment, &session.sources.configured, session.clock.now()).await?;
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
            "no record of {} has a fingerprint that can be explained",
            session.environment
        ))
        .hint("run `backup` first; `status` shows why a source has no fingerprint"));
    }
    let text = newest.iter().map(|(name, (snapshot, source))| describe(name, snapshot, source)).collect();
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
        "environment": session.environment.as_str(),
        "sources": newest.iter().map(value).collect::<Vec<Value>>(),
    });
    Ok(Report { document, text, failure: None })
}

fn describe(name: &str, snapshot: &Snapshot, source: &SourceRecord) -> String {
    let basis = printable(source.basis.as_deref().unwrap_or("nothing"));
    let mut text = format!("{name}, from the record of {}: {basis}\n", snapshot.id);
    if source.selected.is_empty() {
        text.push_str("  an older version wrote this record without the selection; the next run records it\n");
    }
    for selected in &source.selected {
        match selected {
            Selected::Structure => text.push_str(
                "  structure: tables, columns, types, keys, indexes, triggers, functions and all other definitions\n",
            ),
            Selected::Definitions => text.push_str(
                "  definitions: defaults, checks, views, policies and conditions as the server prints them\n",
            ),
            Selected::Comments => text.push_str("  comments\n"),
            Selected::Rights => text.push_str("  owners, rights, security labels and the database's own settings\n"),
            Selected::LargeObjects => text.push_str("  every byte of the large objects\n"),
            Selected::Sequences { skip } => {
                text.push_str("  the values of the sequences, except those of\n");
                match skip.is_empty() {
                    true => text.push_str("    nothing\n"),
                    false => push_tables(&mut text, skip),
                }
            }
            Selected::Content { schemas } => push_content(&mut text, schemas, source),
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
                text.push_str("    no other change of a row is noticed\n");
            }
            Selected::TreeMetadata { exclude } => {
                text.push_str("  path, kind, mode, owner, size and times of every entry; no byte of a file\n");
                push_left_out(&mut text, exclude);
            }
            Selected::TreeContent { exclude } => {
                text.push_str("  path, kind, mode, owner and every byte of every file; no times\n");
                push_left_out(&mut text, exclude);
            }
        }
    }
    text
}

fn push_content(text: &mut String, schemas: &BTreeMap<String, SelectedTables>, source: &SourceRecord) {
    let selected: usize = schemas.values().map(|schema| schema.tables.len()).sum();
    let there = source.measure.and_then(|measure| measure.tables);
    let of = there.map(|there| format!(" of {}", HumanCount(there))).unwrap_or_default();
    let _ = writeln!(text, "  every row of {}{of} tables, except", HumanCount(selected as u64));
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

fn push_tables(text: &mut String, schemas: &BTreeMap<String, BTreeSet<String>>) {
    for (schema, tables) in schemas {
        let _ = writeln!(text, "    tables of {}: {}", printable(schema), list(tables));
    }
}

fn push_left_out(text: &mut String, exclude: &[String]) {
    let shown = exclude.iter().map(|glob| printable(glob)).collect::<Vec<_>>().join(", ");
    let _ = writeln!(text, "    left out: {}", if shown.is_empty() { "nothing" } else { &shown });
}

fn list(names: &BTreeSet<String>) -> String {
    names.iter().map(|name| printable(name)).collect::<Vec<_>>().join(", ")
}
