//! Runs a backup as a Job in the cluster.
//!
//! `settings.rs` reads the settings, `policy.rs` decides, and this file translates between them and the world `job`. It
//! only combines handles: the host writes the Job, passes the Secrets and follows the log. The plugin sees no Secret.

#![cfg_attr(target_family = "wasm", expect(unsafe_code, reason = "the exports that wit-bindgen generates"))]

mod policy;
mod settings;

wit_bindgen::generate!({ world: "job", path: "../../wit", generate_all });

use backup::host::kube_job::{self, Ended, Secret, Template};
use backup::host::log;
use backup::host::types::Error;
use exports::backup::host::launching::{Guest, Request};
use kit::PluginSettings;
use settings::Settings;

struct Plugin;

impl Guest for Plugin {
    fn settings_schema() -> String {
        Settings::SCHEMA.into()
    }

    fn backup(
        settings: String,
        what: Request,
        from: &Template,
        secrets: Vec<(String, Secret)>,
    ) -> Result<Ended, Error> {
        kit::panics::report_to(|message| log::emit(log::Level::Error, message, &[]));
        let settings = Settings::parse(&settings).map_err(Error::Denied)?;
        let lent: Vec<&str> = secrets.iter().map(|(place, _)| place.as_str()).collect();
        if let [first, ..] = policy::missing(&settings, &lent)[..] {
            let message = format!("dump-job settings: `secrets` of [env.NAME.job] has no Secret for `{first}`");
            return Err(Error::Denied(message));
        }
        let request = policy::Request { force: what.force, dry_run: what.dry_run, json: what.json };
        let run = kube_job::launch(from, &policy::options(&settings, request), secrets)?;
        kube_job::follow(run)
    }
}

// A native linker does not accept the export names of a component, and only a component needs them.
#[cfg(target_family = "wasm")]
export!(Plugin);
