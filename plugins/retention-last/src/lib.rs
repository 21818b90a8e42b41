//! Keeps the last N complete snapshots. The smallest useful retention plugin, and the one to copy.

mod policy;

wit_bindgen::generate!({ world: "retention", path: "../../wit", generate_all });

use backup::host::types::{Error, Timestamp};
use exports::backup::host::retaining::{Guest, RetentionPlan, Snapshot};

struct Plugin;

impl Guest for Plugin {
    fn settings_schema() -> String {
        String::new()
    }
    fn plan(
        _now: Timestamp,
        _time_zone: String,
        settings: String,
        snapshots: Vec<Snapshot>,
    ) -> Result<RetentionPlan, Error> {
        let _ = (settings, snapshots);
        Err(Error::Permanent(String::new()))
    }
}

export!(Plugin);
