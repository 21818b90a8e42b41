//! Runs a backup as a Job in the cluster.
//!
//! `settings.rs` reads the settings, `policy.rs` decides, and this file translates between them and the world `job`. It
//! composes handles; the host writes the Job, carries the Secrets and follows the log, and none of these comes by here.

#[path = "../../panics.rs"]
mod panics;
mod policy;
mod settings;

wit_bindgen::generate!({ world: "job", path: "../../wit", generate_all });

use backup::host::kube_job::{self, Ended, Secret, Template};
use backup::host::log;
use backup::host::types::Error;
use exports::backup::host::launching::{Guest, Request};
use settings::Settings;

struct Plugin;

impl Guest for Plugin {
    fn settings_schema() -> String {
        settings::SCHEMA.into()
    }

    fn backup(
        settings: String,
        what: Request,
        from: &Template,
        secrets: Vec<(String, Secret)>,
    ) -> Result<Ended, Error> {
        panics::told_by(|said| log::emit(log::Level::Error, said, &[]));
        let settings = Settings::parse(&settings).map_err(Error::Denied)?;
        let lent: Vec<&str> = secrets.iter().map(|(place, _)| place.as_str()).collect();
        if let [first, ..] = policy::missing(&settings, &lent)[..] {
            return Err(Error::Denied(format!("dump-job settings: no Secret is lent to the place `{first}`")));
        }
        let request = policy::Request { force: what.force, dry_run: what.dry_run, json: what.json };
        let run = kube_job::launch(from, &policy::options(&settings, request), secrets)?;
        kube_job::follow(run)
    }
}

// Component export names are no symbols to a native linker, and only a component needs them.
#[cfg(target_family = "wasm")]
export!(Plugin);
