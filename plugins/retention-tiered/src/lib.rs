//! Keeps the state at the end of each of the last 30 days, 12 months and 10 fiscal years.
//!
//! `settings.rs` reads the settings, `calendar.rs` knows the periods, `history.rs` knows the snapshots that can serve
//! them, `policy.rs` decides, and this file translates between them and the world `retention`. It calls the host only
//! for the time zone and to log a panic: a plan is data, and only the host deletes.

#![cfg_attr(target_family = "wasm", expect(unsafe_code, reason = "the exports that wit-bindgen generates"))]

mod calendar;
mod history;
mod policy;
mod settings;
#[cfg(test)]
mod simulation;

wit_bindgen::generate!({ world: "retention", path: "../../wit", generate_all });

use backup::host::log;
use backup::host::types::{Error, Timestamp};
use exports::backup::host::retaining::{self, Guest, RetentionPlan, Verdict};
use kit::PluginSettings;
use settings::Settings;

/// The component's exports. A native build decides the same, for tests and simulations.
pub struct Plugin;

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
        let calendar = calendar(&time_zone, &settings).map_err(Error::Denied)?;
        let inputs: Vec<_> = snapshots
            .iter()
            .map(|s| policy::Snapshot { taken: s.taken, complete: s.complete, pinned: s.pinned })
            .collect();
        let policy::Plan { decisions, notes } = policy::plan(now, &calendar, &settings, &inputs);
        let decisions = snapshots.into_iter().zip(decisions).map(|(snapshot, decision)| retaining::Decision {
            id: snapshot.id,
            verdict: if decision.keep { Verdict::Keep } else { Verdict::Forget },
            reasons: decision.reasons,
        });
        Ok(RetentionPlan { decisions: decisions.collect(), notes })
    }
}

/// The calendar, with the host's rules of the time zone.
#[cfg(target_family = "wasm")]
fn calendar(time_zone: &str, settings: &Settings) -> Result<calendar::Calendar, String> {
    calendar::Calendar::new(time_zone, &backup::host::business_zone::tzif(), settings)
}

/// The calendar of a native build, which has no host: with the rules that `jiff` bundles.
#[cfg(not(target_family = "wasm"))]
fn calendar(time_zone: &str, settings: &Settings) -> Result<calendar::Calendar, String> {
    let zone = jiff::tz::TimeZoneDatabase::bundled().get(time_zone).map_err(|error| error.to_string())?;
    Ok(calendar::Calendar::from_zone(zone, settings))
}

// A native linker does not accept the export names of a component, and only a component needs them.
#[cfg(target_family = "wasm")]
export!(Plugin);
