//! A crosscheck plugin that misbehaves as its settings say.

#![cfg_attr(target_family = "wasm", expect(unsafe_code, reason = "the exports that wit-bindgen generates"))]

#[path = "../../misbehave.rs"]
mod misbehave;

wit_bindgen::generate!({ world: "crosscheck", path: "../../../wit", generate_all });

use backup::host::documents_digests::{self, Document, Tree};
use backup::host::notices::{self, Level};
use backup::host::table_rows::{self, Order, Row, Table};
use backup::host::types::Error;
use exports::backup::host::crosschecking::{
    Finding, Guest, Head, Paths, Readable, Report, RowName, Rows, ToCheck, Verdict,
};

struct Plugin;

/// The guest can report what it saw only as the index of one of these words.
const WORDS: [&str; 13] = [
    "found",
    "clean",
    "as expected",
    "another file",
    "missing",
    "not a file",
    "unreadable",
    "nothing",
    "done",
    "no table",
    "two columns",
    "other columns",
    "at most",
];

#[derive(serde::Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
enum Behaviour {
    Loop,
    Recurse,
    TakeMemory,
    Panic,
    /// Returns a report with these numbers and names, whatever the data is.
    Answer {
        #[serde(default)]
        compared: u64,
        #[serde(default)]
        missing: u64,
        #[serde(default)]
        rows: Vec<(String, i64)>,
        #[serde(default)]
        orphaned: Vec<String>,
        /// Numbers of checks, each with a count and a total.
        #[serde(default)]
        findings: Vec<(u32, u64, u64)>,
        /// Table and key of the last entry, the number of entries, and a column for the signature.
        #[serde(default)]
        heads: Vec<(String, i64, u64, String)>,
        /// First reads rows and documents.
        #[serde(default)]
        looks: bool,
    },
    /// Declares this many checks, all with this text.
    Checks {
        count: usize,
        text: String,
    },
    /// Fails with a value of a row as its message.
    FailWithARow,
    /// Emits this many notices.
    Notices {
        count: u16,
    },
    /// Requests the digest of this path this many times.
    Ask {
        path: String,
        count: usize,
    },
    /// Reports what is at one path as its only finding.
    LookUp {
        path: String,
        #[serde(default)]
        md5: String,
    },
    /// Requests more rows and files than exist, from every position and in both orders.
    Flood,
    /// Calls the host in an endless loop.
    AskForEver,
    /// Traps while it uses all its handles.
    TrapWithEverything,
    /// Reports what it can see of its tables.
    Tables,
    /// Uses its handles, and then searches its memory for a text.
    Look {
        masked: String,
    },
}

fn behaviour(settings: &str) -> Result<Behaviour, Error> {
    serde_json::from_str(settings).map_err(|e| Error::Denied(e.to_string()))
}

impl Guest for Plugin {
    fn settings_schema() -> String {
        "{}".into()
    }

    fn checks(settings: String, _tables: Vec<Readable>) -> Result<Vec<ToCheck>, Error> {
        let of = |name: &str, counts: &str| ToCheck { name: name.into(), counts: counts.into() };
        Ok(match behaviour(&settings)? {
            Behaviour::Checks { count, text } => (0..count).map(|_| of(&text, &text)).collect(),
            _ => WORDS.into_iter().map(|word| of(word, "things")).collect(),
        })
    }

    fn check(settings: String, tables: Vec<(String, Table)>, tree: &Tree) -> Result<Report, Error> {
        match behaviour(&settings)? {
            Behaviour::Loop => misbehave::endless_loop(),
            Behaviour::Recurse => Ok(counting("done", misbehave::endless_recursion(1))),
            Behaviour::TakeMemory => misbehave::memory_bomb(),
            Behaviour::Panic => panic!("the guest's own words"),
            Behaviour::Answer { compared, missing, rows, orphaned, findings, heads, looks } => {
                if looks {
                    look(&tables, tree)?;
                }
                let row = |(table, key): (String, i64)| RowName { table, key };
                let finding = |(check, count, total)| Finding { check, verdict: Verdict::Passed, count, total };
                let head = |(table, key, entries, signature): (String, i64, u64, String)| Head {
                    last: RowName { table, key },
                    entries,
                    part: None,
                    signature,
                };
                Ok(Report {
                    compared,
                    missing: Rows { total: missing, first: rows.into_iter().map(row).collect() },
                    orphaned: Paths { total: orphaned.len() as u64, first: orphaned },
                    findings: findings.into_iter().map(finding).collect(),
                    heads: heads.into_iter().map(head).collect(),
                    ..saying("done")
                })
            }
            Behaviour::Checks { .. } => Ok(saying("found")),
            Behaviour::FailWithARow => {
                let (_, table) = tables.last().ok_or_else(|| Error::Permanent("no table".into()))?;
                let row = table_rows::page(table, None, Order::Ascending, 1)?;
                let text = row.first().and_then(|row| row.values.last().cloned().flatten());
                Err(Error::Denied(text.unwrap_or_default()))
            }
            Behaviour::Notices { count } => {
                (0..count).for_each(|number| notices::emit(Level::Warn, number));
                Ok(saying("done"))
            }
            Behaviour::Ask { path, count } => {
                documents_digests::digests(tree, &vec![path; count])?;
                Ok(saying("done"))
            }
            Behaviour::LookUp { path, md5 } => {
                let found = documents_digests::digests(tree, &[path])?;
                Ok(saying(match found.first() {
                    Some(Document::File(digest)) if digest.md5 == md5 => "as expected",
                    Some(Document::File(_)) => "another file",
                    Some(Document::Missing) => "missing",
                    Some(Document::NotAFile) => "not a file",
                    Some(Document::Unreadable(_)) => "unreadable",
                    None => "nothing",
                }))
            }
            Behaviour::Flood => flood(&tables, tree),
            Behaviour::AskForEver => loop {
                documents_digests::names(tree, None, u32::MAX)?;
            },
            Behaviour::TrapWithEverything => {
                documents_digests::names(tree, None, 1)?;
                let held: Vec<_> = tables.iter().map(|(_, table)| table_rows::describe(table)).collect();
                panic!("the guest's own words, {} held", held.len())
            }
            Behaviour::Tables => {
                let mut report = Report { findings: Vec::new(), ..saying("done") };
                for (_, table) in &tables {
                    let shape = table_rows::describe(table)?;
                    let columns = shape.map(|shape| shape.columns);
                    report.findings.push(finding(match columns.as_deref() {
                        None => "no table",
                        Some([key, login]) if key == "rowid" && login == "login" => "two columns",
                        Some(_) => "other columns",
                    }));
                }
                Ok(report)
            }
            Behaviour::Look { masked } => {
                let seen = look(&tables, tree)?;
                let looked = Ok(saying(if misbehave::is_in_memory(&masked) { "found" } else { "clean" }));
                // Keeps what it saw in memory until the search is over.
                drop(seen);
                looked
            }
        }
    }
}

/// Reads a part of everything that its handles give access to.
fn look(tables: &[(String, Table)], tree: &Tree) -> Result<(Vec<Vec<Row>>, Vec<String>), Error> {
    let page = |(_, table): &(String, Table)| table_rows::page(table, None, Order::Ascending, 10);
    let rows = tables.iter().map(page).collect::<Result<_, _>>()?;
    let listing = documents_digests::names(tree, None, 10)?;
    let paths: Vec<String> = listing.documents.into_iter().map(|listed| listed.path).collect();
    documents_digests::digests(tree, &paths)?;
    Ok((rows, paths))
}

fn flood(tables: &[(String, Table)], tree: &Tree) -> Result<Report, Error> {
    let mut most = 0;
    for (_, table) in tables {
        for after in [None, Some(i64::MIN), Some(-1), Some(0), Some(i64::MAX)] {
            for order in [Order::Ascending, Order::Descending] {
                for count in [0, 1, u32::MAX] {
                    most = most.max(table_rows::page(table, after, order, count)?.len());
                }
            }
        }
    }
    for after in [None, Some(""), Some("/"), Some("../.."), Some("\0"), Some("\u{10ffff}")] {
        for count in [0, 1, u32::MAX] {
            most = most.max(documents_digests::names(tree, after, count)?.documents.len());
        }
    }
    Ok(counting("at most", most as u64))
}

fn finding(word: &str) -> Finding {
    let check = WORDS.iter().position(|known| *known == word).unwrap_or_default() as u32;
    Finding { check, verdict: Verdict::Passed, count: 0, total: 0 }
}

fn saying(word: &str) -> Report {
    counting(word, 0)
}

fn counting(word: &str, count: u64) -> Report {
    let no_rows = || Rows { total: 0, first: Vec::new() };
    Report {
        compared: 0,
        missing: no_rows(),
        altered: no_rows(),
        orphaned: Paths { total: 0, first: Vec::new() },
        findings: vec![Finding { count, total: count, ..finding(word) }],
        heads: Vec::new(),
    }
}

// A native linker does not accept the export names of a component, and only a component needs them.
#[cfg(target_family = "wasm")]
export!(Plugin);
