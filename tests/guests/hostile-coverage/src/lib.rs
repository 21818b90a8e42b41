//! A coverage plugin that misbehaves as its settings say.

#![cfg_attr(target_family = "wasm", expect(unsafe_code, reason = "the exports that wit-bindgen generates"))]

wit_bindgen::generate!({ world: "coverage", path: "../../../wit", generate_all });

use backup::host::kube_volumes::{self, Cluster};
use backup::host::types::{Error, Timestamp};
use exports::backup::host::covering::{Finding, Guest, Judgement, State};

struct Plugin;

#[derive(serde::Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
enum Settings {
    /// Reports every claim as covered, with this reason.
    Praise {
        reason: String,
    },
    /// Leaves the last claim out.
    LeaveOut,
    /// Names a claim that does not exist.
    MakeUp,
    /// Requests the same lists in an endless loop.
    AskForEver,
    Panic,
}

impl Guest for Plugin {
    fn settings_schema() -> String {
        "{}".into()
    }

    fn judge(_now: Timestamp, settings: String, of: &Cluster) -> Result<Judgement, Error> {
        let settings = serde_json::from_str(&settings).map_err(|e| Error::Denied(e.to_string()))?;
        let mut reason = "all is well".to_owned();
        let mut names: Vec<(String, String)> =
            kube_volumes::claims(of)?.into_iter().map(|claim| (claim.namespace, claim.name)).collect();
        match settings {
            Settings::Praise { reason: given } => reason = given,
            Settings::LeaveOut => drop(names.pop()),
            Settings::MakeUp => names.push(("erp".into(), "made-up".into())),
            Settings::AskForEver => loop {
                drop((kube_volumes::claims(of)?, kube_volumes::volumes(of)?, kube_volumes::longhorn_backups(of)?));
            },
            Settings::Panic => panic!("the guest's own words"),
        }
        let finding = |(namespace, claim)| Finding {
            namespace,
            claim,
            state: State::Covered,
            reason: reason.clone(),
            served_by: vec![],
            last_backup: Some(i64::MIN),
        };
        let findings = names.into_iter().map(finding).collect();
        Ok(Judgement { findings, jobs: vec![], groups: vec![], notes: vec![reason.clone()] })
    }
}

// A native linker does not accept the export names of a component, and only a component needs them.
#[cfg(target_family = "wasm")]
export!(Plugin);
