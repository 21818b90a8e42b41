//! Reports which volumes are covered by a backup and which are not.
//!
//! `settings.rs` reads the settings, `policy.rs` decides, and this file translates between them and the world
//! `coverage`.

#![cfg_attr(target_family = "wasm", expect(unsafe_code, reason = "the exports that wit-bindgen generates"))]

mod policy;
mod settings;

wit_bindgen::generate!({ world: "coverage", path: "../../wit", generate_all });

use backup::host::kube_volumes::{self, Cluster};
use backup::host::log;
use backup::host::types::{Error, Timestamp};
use exports::backup::host::covering::{Finding, Guest, Judgement, Remark, Service, State};
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
            claims: kube_volumes::claims(cluster)?.into_iter().map(policy::Claim::from).collect(),
            volumes: kube_volumes::volumes(cluster)?.into_iter().map(policy::Volume::from).collect(),
            longhorn: convert_all(kube_volumes::longhorn_volumes(cluster)?),
            jobs: convert_all(kube_volumes::recurring_jobs(cluster)?),
            backups: convert_all(kube_volumes::longhorn_backups(cluster)?),
            snapshots: convert_all(kube_volumes::volume_snapshots(cluster)?).unwrap_or_default(),
        };
        Ok(policy::judge(now, &settings, &seen).into())
    }
}

fn convert_all<T, U: From<T>>(listed: Option<Vec<T>>) -> Option<Vec<U>> {
    listed.map(|listed| listed.into_iter().map(U::from).collect())
}

impl From<kube_volumes::Claim> for policy::Claim {
    fn from(claim: kube_volumes::Claim) -> Self {
        Self { namespace: claim.namespace, name: claim.name, phase: claim.phase, volume: claim.volume }
    }
}

impl From<kube_volumes::Volume> for policy::Volume {
    fn from(volume: kube_volumes::Volume) -> Self {
        Self { name: volume.name, driver: volume.driver, handle: volume.handle }
    }
}

impl From<kube_volumes::LonghornVolume> for policy::LonghornVolume {
    fn from(volume: kube_volumes::LonghornVolume) -> Self {
        Self { name: volume.name, groups: volume.groups, jobs: volume.jobs, last_backup: volume.last_backup }
    }
}

impl From<kube_volumes::RecurringJob> for policy::Job {
    fn from(job: kube_volumes::RecurringJob) -> Self {
        Self { name: job.name, task: job.task, groups: job.groups }
    }
}

impl From<kube_volumes::LonghornBackup> for policy::Backup {
    fn from(backup: kube_volumes::LonghornBackup) -> Self {
        Self { volume: backup.volume, completed: backup.state == "Completed", created: backup.created }
    }
}

impl From<kube_volumes::VolumeSnapshot> for policy::Snapshot {
    fn from(snapshot: kube_volumes::VolumeSnapshot) -> Self {
        let kube_volumes::VolumeSnapshot { namespace, claim, ready, created, .. } = snapshot;
        Self { namespace, claim, ready, created }
    }
}

impl From<policy::Judgement> for Judgement {
    fn from(judgement: policy::Judgement) -> Self {
        let remark = |remark: policy::Remark| Remark { name: remark.name, problem: remark.problem };
        Self {
            findings: judgement.findings.into_iter().map(Finding::from).collect(),
            jobs: judgement.jobs.into_iter().map(remark).collect(),
            groups: judgement.groups.into_iter().map(remark).collect(),
            notes: judgement.notes,
        }
    }
}

impl From<policy::Finding> for Finding {
    fn from(finding: policy::Finding) -> Self {
        let state = match finding.state {
            policy::State::Covered => State::Covered,
            policy::State::Uncovered => State::Uncovered,
            policy::State::Excluded => State::Excluded,
        };
        let service = |service: policy::Service| Service { job: service.job, group: service.group };
        Self {
            namespace: finding.namespace,
            claim: finding.claim,
            state,
            reason: finding.reason,
            served_by: finding.served_by.into_iter().map(service).collect(),
            last_backup: finding.last_backup,
        }
    }
}

// A native linker does not accept the export names of a component, and only a component needs them.
#[cfg(target_family = "wasm")]
export!(Plugin);
