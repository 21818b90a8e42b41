//! Keeps the last N complete snapshots. The smallest useful retention plugin, and the one to copy.
//!
//! `settings.rs` reads the settings, `policy.rs` decides, and this file translates between them and the world
//! `retention`. It calls the host only to log a panic: a plan is data, and only the host deletes.

#![cfg_attr(target_family = "wasm", expect(unsafe_code, reason = "the exports that wit-bindgen generates"))]

mod policy;
mod settings;

wit_bindgen::generate!({ world: "retention", path: "../../wit", generate_all });

use backup::host::log;
use backup::host::types::{Error, Timestamp};
use exports::backup::host::retaining::{self, Guest, RetentionPlan};
use kit::PluginSettings;
use settings::Settings;

struct Plugin;

impl Guest for Plugin {
    fn settings_schema() -> String {
        Settings::SCHEMA.into()
    }

    fn plan(
        now: Timestamp,
        time_zone: String,
        settings: String,
        snapshots: Vec<retaining::Snapshot>,
    ) -> Result<RetentionPlan, Error> {
        kit::panics::report_to(|message| log::emit(log::Level::Error, message, &[]));
        let settings = Settings::parse(&settings).map_err(Error::Denied)?;
        let decisions = policy::plan(now, &time_zone, &settings, &snapshots);
        let decisions = snapshots.into_iter().zip(decisions).map(|(snapshot, (verdict, reason))| retaining::Decision {
            id: snapshot.id,
            verdict,
            reasons: vec![reason.into()],
        });
        Ok(RetentionPlan { decisions: decisions.collect(), notes: vec![] })
    }
}

// A native linker does not accept the export names of a component, and only a component needs them.
#[cfg(target_family = "wasm")]
export!(Plugin);
