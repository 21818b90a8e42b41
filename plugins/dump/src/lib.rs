//! Dumps the sources that changed, with a reason for each decision.
//!
//! `settings.rs` reads the settings, `policy.rs` decides, and this file connects them to the world `dump`. It only combines handles: the host moves the bytes, and the plugin sees none of them.

#![cfg_attr(target_family = "wasm", expect(unsafe_code, reason = "the exports that wit-bindgen generates"))]

mod policy;
mod settings;

wit_bindgen::generate!({ world: "dump", path: "../../wit", generate_all });

use backup::host::database_dump::{self, Database};
use backup::host::log;
use backup::host::object_write::{self, Prefix, Receipt};
use backup::host::tree_archive::{self, Tree};
use backup::host::types::{Error, Timestamp};
use exports::backup::host::dumping::{Decision, Guest, Source};
use kit::PluginSettings;
use settings::{Compression, Settings, WhenUnreadable};

struct Plugin;

impl Guest for Plugin {
    fn settings_schema() -> String {
        Settings::SCHEMA.into()
    }

    fn plan(now: Timestamp, force: bool, settings: String, sources: Vec<Source>) -> Result<Vec<Decision>, Error> {
        kit::panics::report_to(|message| log::emit(log::Level::Error, message, &[]));
        let settings = Settings::parse(&settings).map_err(Error::Denied)?;
        Ok(policy::plan(now, force, &settings, sources))
    }

    fn dump_database(settings: String, stamp: String, db: &Database, into: &Prefix) -> Result<Receipt, Error> {
        kit::panics::report_to(|message| log::emit(log::Level::Error, message, &[]));
        let compression = match Settings::parse(&settings).map_err(Error::Denied)?.compression {
            Compression::Automatic => database_dump::Compression::Automatic,
            Compression::None => database_dump::Compression::None,
            Compression::Gzip(level) => database_dump::Compression::Gzip(level),
            Compression::Zstd(level) => database_dump::Compression::Zstd(level),
            Compression::Lz4(level) => database_dump::Compression::Lz4(level),
        };
        let content = database_dump::open(db, database_dump::Options { compression })?;
        object_write::put(into, &format!("{stamp}.dump"), content)
    }

    fn dump_tree(settings: String, stamp: String, tree: &Tree, into: &Prefix) -> Result<Receipt, Error> {
        kit::panics::report_to(|message| log::emit(log::Level::Error, message, &[]));
        let settings = Settings::parse(&settings).map_err(Error::Denied)?;
        let when_unreadable = match settings.when_unreadable {
            WhenUnreadable::Report => tree_archive::WhenUnreadable::Report,
            WhenUnreadable::Fail => tree_archive::WhenUnreadable::Fail,
        };
        let content = tree_archive::open(tree, &tree_archive::Options { exclude: settings.exclude, when_unreadable })?;
        object_write::put(into, &format!("{stamp}.tar.gz"), content)
    }
}

// A native linker does not accept the export names of a component, and only a component needs them.
#[cfg(target_family = "wasm")]
export!(Plugin);
