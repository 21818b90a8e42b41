//! Keeps what answers for the end of each of the last 30 days, 12 months and 10 fiscal years.
//!
//! `settings.rs` reads the settings, `calendar.rs` knows the periods, `history.rs` what can serve them, `policy.rs`
//! decides, and this file translates between them and the world `retention`. It asks the host for nothing but the time
//! zone, and to tell what a panic says: a plan is data, and the host alone deletes.

mod calendar;
mod history;
#[path = "../../panics.rs"]
mod panics;
mod policy;
mod settings;
#[cfg(test)]
mod simulation;

wit_bindgen::generate!({ world: "retention", path: "../../wit", generate_all });

use backup::host::log;
use backup::host::types::{Error, Timestamp};
use exports::backup::host::retaining::{self, Guest, RetentionPlan, Verdict};

/// What the component exports. Natively it decides the same, for tests and simulations.
pub struct Plugin;

impl Guest for Plugin {
    fn settings_schema() -> String {
        settings::SCHEMA.into()
    }

    fn plan(
        now: Timestamp,
        time_zone: String,
        settings: String,
        snapshots: Vec<retaining::Snapshot>,
    ) -> Result<RetentionPlan, Error> {
        panics::told_by(|said| log::emit(log::Level::Error, said, &[]));
        let settings = settings::Settings::parse(&settings).map_err(Error::Denied)?;
        let calendar = calendar(&time_zone, &settings).map_err(Error::Denied)?;
        let seen: Vec<_> = snapshots
            .iter()
            .map(|s| policy::Snapshot { taken: s.taken, complete: s.complete, pinned: s.pinned })
            .collect();
        let policy::Plan { decisions, notes } = policy::plan(now, &calendar, &settings, &seen);
        let decisions = snapshots.into_iter().zip(decisions).map(|(snapshot, decision)| retaining::Decision {
            id: snapshot.id,
            verdict: if decision.keep { Verdict::Keep } else { Verdict::Forget },
            reasons: decision.reasons,
        });
        Ok(RetentionPlan { decisions: decisions.collect(), notes })
    }
}

/// The calendar by the host's own offsets.
#[cfg(target_family = "wasm")]
fn calendar(time_zone: &str, settings: &settings::Settings) -> Result<calendar::Calendar, String> {
    calendar::Calendar::new(time_zone, &backup::host::business_zone::tzif(), settings)
}

/// The calendar, where there is no host to ask.
#[cfg(not(target_family = "wasm"))]
fn calendar(time_zone: &str, settings: &settings::Settings) -> Result<calendar::Calendar, String> {
    let zone = jiff::tz::TimeZoneDatabase::bundled().get(time_zone).map_err(|error| error.to_string())?;
    Ok(calendar::Calendar::of(zone, settings))
}

// Component export names are no symbols to a native linker, and only a component needs them.
#[cfg(target_family = "wasm")]
export!(Plugin);
