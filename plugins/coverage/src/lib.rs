//! Reports which volumes are covered by a backup and which are not.
//!
//! `settings.rs` reads the settings, `policy.rs` decides, and this file connects them to the world `coverage`.

#![cfg_attr(target_family = "wasm", expect(unsafe_code, reason = "the exports that wit-bindgen generates"))]

mod policy;
mod settings;

wit_bindgen::generate!({ world: "coverage", path: "../../wit", generate_all });

use backup::host::kube_volumes::{self, Cluster};
use backup::host::log;
use backup::host::types::{Error, Timestamp};
use exports::backup::host::covering::{Guest, Judgement};
use kit::PluginSettings;
use settings::Settings;

struct Plugin;

impl Guest for Plugin {
    fn settings_schema() -> String {
        Settings::SCHEMA.into()
    }

    fn judge(now: Timestamp, settings: String, cluster: &Cluster) -> Result<Judgement, Error> {
        kit::panics::report_to(|message| log::emit(log::Level::Error, message, &[]));
        let settings = Settings::parse(&settings).map_err(Error::Denied)?;
        let seen = policy::Seen {
            claims: kube_volumes::claims(cluster)?,
            volumes: kube_volumes::volumes(cluster)?,
            longhorn: kube_volumes::longhorn_volumes(cluster)?,
            jobs: kube_volumes::recurring_jobs(cluster)?,
            backups: kube_volumes::longhorn_backups(cluster)?,
            snapshots: kube_volumes::volume_snapshots(cluster)?.unwrap_or_default(),
        };
        Ok(policy::judge(now, &settings, &seen))
    }
}

// A native linker does not accept the export names of a component, and only a component needs them.
#[cfg(target_family = "wasm")]
export!(Plugin);
