//! A dump plugin that misbehaves as its settings say.

#![cfg_attr(target_family = "wasm", expect(unsafe_code, reason = "the exports that wit-bindgen generates"))]

#[path = "../../misbehave.rs"]
mod misbehave;

wit_bindgen::generate!({ world: "dump", path: "../../../wit", generate_all });

use backup::host::bytes::Stream;
use backup::host::database_dump::{self, Compression, Database};
use backup::host::object_write::{self, Prefix, Receipt};
use backup::host::tree_archive::{self, Tree, WhenUnreadable};
use backup::host::types::{Error, Timestamp};
use exports::backup::host::dumping::{Action, Decision, Guest, Source};

struct Plugin;

#[derive(serde::Deserialize)]
struct Settings {
    #[serde(default)]
    plan: Planning,
    #[serde(default)]
    dump: Dumping,
}

#[derive(serde::Deserialize, Default)]
#[serde(tag = "do", rename_all = "kebab-case")]
enum Planning {
    /// Behaves correctly.
    #[default]
    DumpAll,
    CarryAll,
    NameUnknown {
        source: String,
    },
    NameTwice,
    LeaveOut,
    Reason {
        text: String,
    },
}

#[derive(serde::Deserialize, Default)]
#[serde(tag = "do", rename_all = "kebab-case")]
enum Dumping {
    /// Behaves correctly.
    #[default]
    Store,
    Loop,
    Recurse,
    TakeMemory,
    Panic,
    PanicWithStream,
    PanicAfterStoring,
    OpenForEver,
    OpenAndDropForEver,
    /// Stores no object but returns a receipt.
    NeverStore,
    /// Stores an object but returns the receipt of another.
    OtherReceipt,
    /// Stores the object under this name, in which `STAMP` becomes the run's stamp.
    StoreAs {
        name: String,
    },
    /// Stores the object again under another name.
    StoreTwice {
        name: String,
    },
    /// Hides the host's refusal and returns a made-up receipt.
    StoreAsAndPretend {
        name: String,
    },
    FailAfterStoring {
        text: String,
    },
    /// Uses its handles, and then searches its memory for a text.
    Look {
        masked: String,
    },
}

impl Guest for Plugin {
    fn settings_schema() -> String {
        "{}".into()
    }

    fn plan(_now: Timestamp, _force: bool, settings: String, sources: Vec<Source>) -> Result<Vec<Decision>, Error> {
        let mut action = Action::Dump;
        let mut reason = "asked to".to_owned();
        let mut names: Vec<String> = sources.into_iter().map(|source| source.name).collect();
        match parse(&settings)?.plan {
            Planning::DumpAll => {}
            Planning::CarryAll => action = Action::Carry,
            Planning::NameUnknown { source } => names.push(source),
            Planning::NameTwice => names.extend(names.last().cloned()),
            Planning::LeaveOut => drop(names.pop()),
            Planning::Reason { text } => reason = text,
        }
        Ok(names.into_iter().map(|source| Decision { source, action, reason: reason.clone() }).collect())
    }

    fn dump_database(settings: String, stamp: String, db: &Database, into: &Prefix) -> Result<Receipt, Error> {
        let open = || database_dump::open(db, database_dump::Options { compression: Compression::Automatic });
        dump(parse(&settings)?.dump, &stamp, "dump", open, into)
    }

    fn dump_tree(settings: String, stamp: String, tree: &Tree, into: &Prefix) -> Result<Receipt, Error> {
        let options = tree_archive::Options { exclude: Vec::new(), when_unreadable: WhenUnreadable::Report };
        let open = || tree_archive::open(tree, &options);
        dump(parse(&settings)?.dump, &stamp, "tar.gz", open, into)
    }
}

fn parse(settings: &str) -> Result<Settings, Error> {
    serde_json::from_str(settings).map_err(|e| Error::Denied(e.to_string()))
}

fn dump(
    behaviour: Dumping,
    stamp: &str,
    extension: &str,
    open: impl Fn() -> Result<Stream, Error>,
    into: &Prefix,
) -> Result<Receipt, Error> {
    let name = format!("{stamp}.{extension}");
    let put = |name: &str| object_write::put(into, &name.replace("STAMP", stamp), open()?);
    match behaviour {
        Dumping::Store => put(&name),
        Dumping::Loop => misbehave::endless_loop(),
        Dumping::Recurse => Ok(made_up(&misbehave::endless_recursion(1).to_string())),
        Dumping::TakeMemory => misbehave::memory_bomb(),
        Dumping::Panic => panic!("the guest's own words"),
        Dumping::PanicWithStream => {
            let _open = open()?;
            panic!("with a stream open");
        }
        Dumping::PanicAfterStoring => {
            put(&name)?;
            panic!("with an object stored");
        }
        Dumping::OpenForEver => {
            let mut held = Vec::new();
            loop {
                held.push(open()?);
            }
        }
        Dumping::OpenAndDropForEver => loop {
            drop(open()?);
        },
        Dumping::NeverStore => {
            let _open = open()?;
            Ok(made_up(&name))
        }
        Dumping::OtherReceipt => put(&name).map(|_| made_up(&name)),
        Dumping::StoreAs { name } => put(&name),
        Dumping::StoreTwice { name: second } => {
            let receipt = put(&name)?;
            put(&second)?;
            Ok(receipt)
        }
        Dumping::StoreAsAndPretend { name: refused } => {
            let _kept_quiet = put(&refused);
            Ok(made_up(&name))
        }
        Dumping::FailAfterStoring { text } => {
            put(&name)?;
            Err(Error::Permanent(text))
        }
        Dumping::Look { masked } => {
            let stored = put(&name);
            let refused = put("../elsewhere");
            let found = misbehave::is_in_memory(&masked);
            drop((stored, refused));
            Err(Error::Permanent(if found { "found" } else { "clean" }.into()))
        }
    }
}

fn made_up(name: &str) -> Receipt {
    Receipt { key: format!("prod/docs/{name}"), bytes: 1, sha256: "00".repeat(32) }
}

// A native linker does not accept the export names of a component, and only a component needs them.
#[cfg(target_family = "wasm")]
export!(Plugin);
