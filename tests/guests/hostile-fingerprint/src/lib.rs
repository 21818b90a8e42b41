//! A fingerprint plugin that misbehaves as its settings say.

#[path = "../../misbehave.rs"]
mod misbehave;

wit_bindgen::generate!({ world: "fingerprint", path: "../../../wit", generate_all });

use backup::host::database_evidence::{self, Database, Selection, TableName};
use backup::host::tree_evidence::{self, Depth, Tree};
use backup::host::types::Error;
use exports::backup::host::fingerprinting::{Fingerprint, Guest};

struct Plugin;

#[derive(serde::Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
enum Behaviour {
    Loop,
    Recurse,
    TakeMemory,
    Panic,
    /// The same for whatever is there.
    Answer {
        value: String,
        basis: String,
    },
    LongValue {
        bytes: usize,
    },
    LongBasis {
        bytes: usize,
    },
    /// Asks about the source with patterns or names of its own.
    Ask {
        pattern: String,
        count: usize,
    },
    /// Asks the host again and again.
    AskForEver,
    /// Uses what it is handed, and then looks for a text in its memory.
    Look {
        masked: String,
    },
}

impl Guest for Plugin {
    fn settings_schema() -> String {
        "{}".into()
    }

    fn of_database(settings: String, db: &Database) -> Result<Fingerprint, Error> {
        match parse(&settings)? {
            Behaviour::Ask { pattern, count } => {
                let selection = Selection {
                    table: TableName { schema: pattern.clone(), name: pattern },
                    skip_columns: Vec::new(),
                    skip_rows: None,
                };
                database_evidence::digest(db, &vec![selection; count])?;
                answer("asked", "")
            }
            Behaviour::AskForEver => loop {
                database_evidence::tables(db)?;
            },
            Behaviour::Look { masked } => {
                let tables = database_evidence::tables(db)?;
                let definitions = database_evidence::definitions(db)?;
                let missing = TableName { schema: "no".into(), name: "such".into() };
                let failed = database_evidence::latest(db, &[missing], "tms");
                let found = misbehave::is_in_memory(&masked);
                drop((tables, definitions, failed));
                look(found)
            }
            other => alone(other),
        }
    }

    fn of_tree(settings: String, tree: &Tree) -> Result<Fingerprint, Error> {
        match parse(&settings)? {
            Behaviour::Ask { pattern, count } => {
                tree_evidence::summarise(tree, &vec![pattern; count], Depth::Metadata)?;
                answer("asked", "")
            }
            Behaviour::AskForEver => loop {
                tree_evidence::summarise(tree, &[], Depth::Metadata)?;
            },
            Behaviour::Look { masked } => {
                let summary = tree_evidence::summarise(tree, &[], Depth::Content)?;
                let found = misbehave::is_in_memory(&masked);
                drop(summary);
                look(found)
            }
            other => alone(other),
        }
    }
}

fn parse(settings: &str) -> Result<Behaviour, Error> {
    serde_json::from_str(settings).map_err(|e| Error::Denied(e.to_string()))
}

/// What needs no source.
fn alone(behaviour: Behaviour) -> Result<Fingerprint, Error> {
    match behaviour {
        Behaviour::Loop => misbehave::endless_loop(),
        Behaviour::Recurse => answer(&misbehave::endless_recursion(1).to_string(), ""),
        Behaviour::TakeMemory => misbehave::memory_bomb(),
        Behaviour::Panic => panic!("the guest's own words"),
        Behaviour::Answer { value, basis } => answer(&value, &basis),
        Behaviour::LongValue { bytes } => answer(&"x".repeat(bytes), ""),
        Behaviour::LongBasis { bytes } => answer("x", &"\u{1b}".repeat(bytes)),
        Behaviour::Ask { .. } | Behaviour::AskForEver | Behaviour::Look { .. } => answer("nobody-to-ask", ""),
    }
}

fn answer(value: &str, basis: &str) -> Result<Fingerprint, Error> {
    Ok(Fingerprint { value: value.to_owned(), basis: basis.to_owned() })
}

fn look(found: bool) -> Result<Fingerprint, Error> {
    answer(if found { "found" } else { "clean" }, "")
}

// Component export names are no symbols to a native linker, and only a component needs them.
#[cfg(target_family = "wasm")]
export!(Plugin);
