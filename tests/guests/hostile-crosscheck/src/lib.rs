//! A crosscheck plugin that misbehaves as its settings say.

#[path = "../../misbehave.rs"]
mod misbehave;

wit_bindgen::generate!({ world: "crosscheck", path: "../../../wit", generate_all });

use backup::host::documents_digests::{self, Document, Tree};
use backup::host::table_rows::{self, Order, Table};
use backup::host::types::Error;
use exports::backup::host::crosschecking::{Finding, Guest, Head, Paths, Report, Verdict};

struct Plugin;

#[derive(serde::Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
enum Behaviour {
    Loop,
    Recurse,
    TakeMemory,
    Panic,
    /// A report of these numbers and texts, whatever is there.
    Answer {
        compared: u64,
        missing: u64,
        listed: usize,
        findings: usize,
        heads: usize,
        text: String,
    },
    /// Asks for documents by names of its own.
    Ask {
        path: String,
        count: usize,
    },
    /// Says what is at one path, as the one finding.
    LookUp {
        path: String,
    },
    /// Asks for more rows and files than there are, from every end.
    Flood,
    /// Asks the host again and again.
    AskForEver,
    /// Traps while it holds everything that it was handed.
    TrapWithEverything,
    /// Says which tables it was handed, and what it can see of them, as findings.
    Tables,
    /// Uses what it is handed, and then looks for a text in its memory.
    Look {
        masked: String,
    },
}

impl Guest for Plugin {
    fn settings_schema() -> String {
        "{}".into()
    }

    fn check(settings: String, tables: Vec<(String, Table)>, tree: &Tree) -> Result<Report, Error> {
        let behaviour: Behaviour = serde_json::from_str(&settings).map_err(|e| Error::Denied(e.to_string()))?;
        match behaviour {
            Behaviour::Loop => misbehave::endless_loop(),
            Behaviour::Recurse => Ok(saying(misbehave::endless_recursion(1).to_string())),
            Behaviour::TakeMemory => misbehave::memory_bomb(),
            Behaviour::Panic => panic!("the guest's own words"),
            Behaviour::Answer { compared, missing, listed, findings, heads, text } => {
                Ok(report(compared, missing, listed, findings, heads, &text))
            }
            Behaviour::Ask { path, count } => {
                documents_digests::digests(tree, &vec![path; count])?;
                Ok(saying("asked".into()))
            }
            Behaviour::LookUp { path } => {
                let found = documents_digests::digests(tree, &[path])?;
                Ok(saying(match found.first() {
                    Some(Document::File(digest)) => format!("file {} {}", digest.bytes, digest.md5),
                    Some(Document::Missing) => "missing".into(),
                    Some(Document::NotAFile) => "not a file".into(),
                    Some(Document::Unreadable(why)) => format!("unreadable: {why}"),
                    None => "nothing".into(),
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
                let mut report = saying("tables".into());
                for (name, table) in &tables {
                    report.findings.push(finding(format!("{name}: {:?}", table_rows::describe(table)?)));
                }
                Ok(report)
            }
            Behaviour::Look { masked } => {
                for (_, table) in &tables {
                    let _ = table_rows::page(table, None, Order::Ascending, 10)?;
                }
                documents_digests::names(tree, None, 10)?;
                Ok(saying(if misbehave::is_in_memory(&masked) { "found" } else { "clean" }.into()))
            }
        }
    }
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
    Ok(saying(format!("at most {most}")))
}

fn finding(name: String) -> Finding {
    Finding { name, verdict: Verdict::Passed, detail: String::new() }
}

fn saying(name: String) -> Report {
    let mut report = report(0, 0, 0, 0, 0, "");
    report.findings.push(finding(name));
    report
}

fn report(compared: u64, missing: u64, listed: usize, findings: usize, heads: usize, text: &str) -> Report {
    let none = || Paths { total: 0, first: Vec::new() };
    let head = Head { log: text.to_owned(), entries: u64::MAX, last: i64::MIN, signature: text.to_owned() };
    let finding = Finding { name: text.to_owned(), verdict: Verdict::Passed, detail: text.to_owned() };
    Report {
        compared,
        missing: Paths { total: missing, first: vec![text.to_owned(); listed] },
        altered: none(),
        orphaned: none(),
        findings: vec![finding; findings],
        heads: vec![head; heads],
    }
}

// Component export names are no symbols to a native linker, and only a component needs them.
#[cfg(target_family = "wasm")]
export!(Plugin);
