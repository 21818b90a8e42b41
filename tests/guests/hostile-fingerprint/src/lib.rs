//! A fingerprint plugin that misbehaves as its settings say.

#![cfg_attr(target_family = "wasm", expect(unsafe_code, reason = "the exports that wit-bindgen generates"))]

#[path = "../../misbehave.rs"]
mod misbehave;

wit_bindgen::generate!({ world: "fingerprint", path: "../../../wit", generate_all });

use backup::host::database_evidence::{self, Database, Measure as DatabaseMeasure, RowFilter, Selection, TableName};
use backup::host::log::{Level, emit};
use backup::host::tree_evidence::{self, Measure as TreeMeasure, Tree};
use backup::host::types::Error;
use exports::backup::host::fingerprinting::Guest;
use std::sync::atomic::{AtomicUsize, Ordering};

struct Plugin;

#[derive(serde::Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
enum Behaviour {
    Loop,
    Recurse,
    TakeMemory,
    Panic,
    /// Returns no measures.
    Nothing,
    /// Measures a folder's metadata, or a database's definitions, and no more.
    Least,
    /// Measures the source with this pattern or name, repeated this many times.
    Ask {
        pattern: String,
        count: usize,
    },
    /// Calls the host in an endless loop.
    AskForEver,
    /// Uses its handles, and then searches its memory for a text. Fails if it finds the text.
    Look {
        masked: String,
    },
    /// Tries to spell out a text letter by letter: for each letter, measures without the rows whose column begins with
    /// it, and logs every answer.
    Spell {
        table: String,
        column: String,
    },
    /// Does the same, and then traps with all the answers in its message.
    Cry {
        table: String,
        column: String,
    },
    /// Logs how often it was called before.
    Remember,
}

/// State that a guest could keep from one day to the next.
static CALLS: AtomicUsize = AtomicUsize::new(0);

impl Guest for Plugin {
    fn settings_schema() -> String {
        "{}".into()
    }

    fn of_database(settings: String, db: &Database) -> Result<Vec<DatabaseMeasure>, Error> {
        match parse(&settings)? {
            Behaviour::Nothing => Ok(vec![]),
            Behaviour::Least => Ok(vec![database_evidence::definitions(db)?]),
            Behaviour::Ask { pattern, count } => {
                let selection = Selection {
                    table: TableName { schema: pattern.clone(), name: pattern },
                    skip_columns: Vec::new(),
                    skip_rows: None,
                };
                Ok(vec![database_evidence::content(db, &vec![selection; count])?])
            }
            Behaviour::AskForEver => loop {
                drop(database_evidence::definitions(db));
            },
            Behaviour::Look { masked } => {
                let tables = database_evidence::tables(db)?;
                let definitions = database_evidence::definitions(db)?;
                let missing = TableName { schema: "no".into(), name: "such".into() };
                let failed = database_evidence::latest(db, &[missing], "tms");
                let found = misbehave::is_in_memory(&masked);
                drop((tables, failed));
                looked(found, definitions)
            }
            Behaviour::Spell { table, column } => spell(db, &table, &column).map(|(measures, _)| measures),
            Behaviour::Cry { table, column } => {
                let (_, told) = spell(db, &table, &column)?;
                panic!("{}", told.join(", "))
            }
            Behaviour::Remember => {
                let calls = CALLS.fetch_add(1, Ordering::Relaxed);
                emit(Level::Info, "before", &[("calls".into(), calls.to_string())]);
                Ok(vec![database_evidence::definitions(db)?])
            }
            other => alone(&other),
        }
    }

    fn of_tree(settings: String, tree: &Tree) -> Result<Vec<TreeMeasure>, Error> {
        match parse(&settings)? {
            Behaviour::Nothing => Ok(vec![]),
            Behaviour::Least => Ok(vec![tree_evidence::metadata(tree, &[])?]),
            Behaviour::Ask { pattern, count } => Ok(vec![tree_evidence::metadata(tree, &vec![pattern; count])?]),
            Behaviour::AskForEver => loop {
                drop(tree_evidence::metadata(tree, &[]));
            },
            Behaviour::Look { masked } => {
                let measure = tree_evidence::content(tree, &[])?;
                looked(misbehave::is_in_memory(&masked), measure)
            }
            Behaviour::Spell { .. } => {
                // Tests whether a customer's folder exists: each pattern excludes all names that do not begin with one
                // letter.
                let mut measures = Vec::new();
                for letter in 'a'..='h' {
                    measures.push(tree_evidence::content(tree, &[format!("[!{letter}]*")])?);
                }
                Ok(measures)
            }
            other => alone(&other),
        }
    }
}

/// Returns the measures, and everything that the host answered.
fn spell(db: &Database, table: &str, column: &str) -> Result<(Vec<DatabaseMeasure>, Vec<String>), Error> {
    let (mut measures, mut told) = (Vec::new(), Vec::new());
    let mut say = |message: &str, name: String, value: String| {
        told.push(format!("{name}: {value}"));
        emit(Level::Info, message, &[(name, value)]);
    };
    for letter in 'A'..='H' {
        let selection = Selection {
            table: TableName { schema: "public".into(), name: table.into() },
            skip_columns: Vec::new(),
            skip_rows: Some(RowFilter { column: column.into(), values: vec![format!("{letter}*")] }),
        };
        let answer = database_evidence::content(db, &[selection]);
        say("told", letter.to_string(), format!("{answer:?}"));
        measures.extend(answer.ok());
    }
    let latest = database_evidence::latest(db, &[TableName { schema: "public".into(), name: table.into() }], column);
    say("told", "latest".into(), format!("{latest:?}"));
    for table in database_evidence::tables(db)? {
        say("table", table.name, table.bytes.to_string());
    }
    if measures.is_empty() {
        measures.push(database_evidence::definitions(db)?);
    }
    Ok((measures, told))
}

fn parse(settings: &str) -> Result<Behaviour, Error> {
    serde_json::from_str(settings).map_err(|e| Error::Denied(e.to_string()))
}

/// Behaviours that need no source.
fn alone<T>(behaviour: &Behaviour) -> Result<Vec<T>, Error> {
    match behaviour {
        Behaviour::Loop => misbehave::endless_loop(),
        Behaviour::Recurse => Err(Error::Permanent(misbehave::endless_recursion(1).to_string())),
        Behaviour::TakeMemory => misbehave::memory_bomb(),
        Behaviour::Panic => panic!("the guest's own words"),
        _ => Ok(vec![]),
    }
}

fn looked<T>(found: bool, measure: T) -> Result<Vec<T>, Error> {
    if found { Err(Error::Permanent("found".into())) } else { Ok(vec![measure]) }
}

// A native linker does not accept the export names of a component, and only a component needs them.
#[cfg(target_family = "wasm")]
export!(Plugin);
