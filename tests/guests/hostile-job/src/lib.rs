//! A job plugin that misbehaves as its settings say.

#![cfg_attr(target_family = "wasm", expect(unsafe_code, reason = "the exports that wit-bindgen generates"))]

#[path = "../../misbehave.rs"]
mod misbehave;

wit_bindgen::generate!({ world: "job", path: "../../../wit", generate_all });

use backup::host::kube_job::{self, Ended, Secret, Template};
use backup::host::types::Error;
use exports::backup::host::launching::{Guest, Request};

struct Plugin;

#[derive(serde::Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
enum Settings {
    /// Gives the Job these arguments.
    Arguments {
        arguments: Vec<String>,
    },
    /// Puts every Secret at this place.
    Place {
        place: String,
    },
    /// Launches a second Job in addition to the first.
    LaunchTwice,
    /// Launches a Job, and reports how it ended without following it.
    NeverFollow,
    /// Launches nothing, and reports success.
    NeverLaunch,
    PanicAfterLaunching,
    LoopAfterLaunching,
    RecurseAfterLaunching,
    TakeMemoryAfterLaunching,
    /// Launches a Job, and then searches its memory for a text.
    Look {
        masked: String,
    },
}

impl Guest for Plugin {
    fn settings_schema() -> String {
        "{}".into()
    }

    fn backup(
        settings: String,
        _what: Request,
        from: &Template,
        secrets: Vec<(String, Secret)>,
    ) -> Result<Ended, Error> {
        let settings = serde_json::from_str(&settings).map_err(|e| Error::Denied(e.to_string()))?;
        match settings {
            Settings::Arguments { arguments } => kube_job::follow(kube_job::launch(from, &arguments, secrets)?),
            Settings::Place { place } => {
                let moved = secrets.into_iter().map(|(_, secret)| (place.clone(), secret)).collect();
                kube_job::follow(kube_job::launch(from, &[], moved)?)
            }
            Settings::LaunchTwice => {
                let _first = kube_job::launch(from, &[], secrets)?;
                kube_job::follow(kube_job::launch(from, &[], vec![])?)
            }
            Settings::NeverFollow => {
                let _run = kube_job::launch(from, &[], secrets)?;
                Ok(fine())
            }
            Settings::NeverLaunch => Ok(fine()),
            Settings::PanicAfterLaunching => {
                let _run = kube_job::launch(from, &[], secrets)?;
                panic!("the guest's own words");
            }
            Settings::LoopAfterLaunching => {
                let _run = kube_job::launch(from, &[], secrets)?;
                misbehave::endless_loop()
            }
            Settings::RecurseAfterLaunching => {
                let _run = kube_job::launch(from, &[], secrets)?;
                Err(Error::Permanent(misbehave::endless_recursion(1).to_string()))
            }
            Settings::TakeMemoryAfterLaunching => {
                let _run = kube_job::launch(from, &[], secrets)?;
                misbehave::memory_bomb()
            }
            Settings::Look { masked } => {
                let run = kube_job::launch(from, &[], secrets);
                let found = misbehave::is_in_memory(&masked);
                drop(run);
                Err(Error::Permanent(if found { "found" } else { "clean" }.into()))
            }
        }
    }
}

fn fine() -> Ended {
    Ended { job: "erp/made-up".into(), exit_code: 0, reason: "Completed".into() }
}

// A native linker does not accept the export names of a component, and only a component needs them.
#[cfg(target_family = "wasm")]
export!(Plugin);
