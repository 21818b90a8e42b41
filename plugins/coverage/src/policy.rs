//! Decides whether a volume is covered: a recurring backup job must reach it, and a recent backup must exist.
//!
//! Membership in a group proves nothing. A volume can be in a group that no job serves, and a job can serve a group
//! without volumes; each looks right from its own side. So the policy compares both sides, and then checks the
//! backups themselves.

use crate::backup::host::kube_volumes::{Claim, LonghornBackup, LonghornVolume, RecurringJob, Volume, VolumeSnapshot};
use crate::exports::backup::host::covering::{Finding, Judgement, Remark, Service, State};
use crate::settings::Settings;
use std::collections::{BTreeMap, BTreeSet};

/// Longhorn's CSI driver.
const DRIVER: &str = "driver.longhorn.io";

/// Tasks of a recurring job that store a backup outside the volume.
const BACKUP_TASKS: [&str; 2] = ["backup", "backup-force-create"];

/// The state of a Longhorn Backup that is whole.
const COMPLETED: &str = "Completed";

/// Everything the cluster reports. A list is `None` if the cluster does not know the kind.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    pub claims: Vec<Claim>,
    pub volumes: Vec<Volume>,
    pub longhorn: Option<Vec<LonghornVolume>>,
    pub jobs: Option<Vec<RecurringJob>>,
    pub backups: Option<Vec<LonghornBackup>>,
    pub snapshots: Vec<VolumeSnapshot>,
}

/// Judges every claim, job and group.
pub fn judge(now: i64, settings: &Settings, seen: &Seen) -> Judgement {
    let jobs = seen.jobs.as_deref().unwrap_or_default();
    let enrolled = seen.longhorn.as_deref().unwrap_or_default();
    let mut notes = Vec::new();
    if seen.longhorn.is_none() {
        notes.push("Longhorn is not installed, so no recurring job covers any volume".to_owned());
    } else if !jobs.iter().any(is_backup) {
        notes.push("no recurring backup job exists".to_owned());
    }
    Judgement {
        findings: seen.claims.iter().map(|claim| finding(now, settings, seen, claim)).collect(),
        jobs: jobs.iter().filter_map(|job| remark_on_job(job, enrolled)).collect(),
        groups: remarks_on_groups(jobs, enrolled),
        notes,
    }
}

fn is_backup(job: &RecurringJob) -> bool {
    BACKUP_TASKS.contains(&job.task.as_str())
}

fn finding(now: i64, settings: &Settings, seen: &Seen, claim: &Claim) -> Finding {
    let volume = seen.volumes.iter().find(|volume| volume.name == claim.volume);
    let longhorn = volume
        .filter(|volume| volume.driver == DRIVER)
        .and_then(|volume| seen.longhorn.iter().flatten().find(|longhorn| longhorn.name == volume.handle));
    let served_by = longhorn.map(|volume| services(volume, seen.jobs.as_deref().unwrap_or_default()));
    let served_by = served_by.unwrap_or_default();
    let last_backup = longhorn.and_then(|volume| last_backup(volume, seen.backups.as_deref()));
    let (state, reason) = if settings.excludes(&claim.namespace, &claim.name) {
        (State::Excluded, "excluded by the settings".to_owned())
    } else if claim.volume.is_empty() {
        (State::Excluded, format!("{}: the claim has no volume yet", claim.phase.to_lowercase()))
    } else if let Some(age) = snapshot_age(now, settings, seen, claim) {
        (State::Covered, format!("a snapshot is ready, {}", ago(age)))
    } else {
        match (volume, longhorn) {
            (None, _) => (State::Uncovered, format!("its volume {} does not exist", claim.volume)),
            (Some(volume), None) if volume.driver == DRIVER => {
                (State::Uncovered, format!("Longhorn has no volume {}", volume.handle))
            }
            (Some(volume), None) => (State::Uncovered, foreign_driver(volume)),
            (Some(_), Some(longhorn)) => judge_longhorn(now, settings, seen, longhorn, &served_by, last_backup),
        }
    };
    Finding { namespace: claim.namespace.clone(), claim: claim.name.clone(), state, reason, served_by, last_backup }
}

fn foreign_driver(volume: &Volume) -> String {
    match volume.driver.as_str() {
        "" => "the volume has no CSI driver, so no recurring job reaches it".to_owned(),
        driver => format!("the volume belongs to {driver}, so no recurring job reaches it"),
    }
}

fn judge_longhorn(
    now: i64,
    settings: &Settings,
    seen: &Seen,
    volume: &LonghornVolume,
    served_by: &[Service],
    last_backup: Option<i64>,
) -> (State, String) {
    let Some(service) = served_by.first() else {
        return (State::Uncovered, unserved(volume, seen.jobs.as_deref().unwrap_or_default(), last_backup, now));
    };
    let by = match &service.group {
        Some(group) => format!("`{}` serves it through the group `{group}`", service.job),
        None => format!("`{}` serves it", service.job),
    };
    match last_backup {
        None if volume.last_backup.is_some() => {
            (State::Uncovered, format!("{by}, but no complete backup of it exists"))
        }
        None => (State::Uncovered, format!("{by}, but it was never backed up")),
        Some(at) if now.saturating_sub(at) > i64::from(settings.max_age_hours) * 3_600 => {
            (State::Uncovered, format!("{by}, but its last backup was {}", ago(now.saturating_sub(at))))
        }
        Some(at) => (State::Covered, format!("{by}; last backup {}", ago(now.saturating_sub(at)))),
    }
}

/// Why no backup job reaches a volume: its groups, and a backup job that serves no group.
fn unserved(volume: &LonghornVolume, jobs: &[RecurringJob], last_backup: Option<i64>, now: i64) -> String {
    let mut reason = match volume.groups.as_slice() {
        [] => "it is in no group and names no backup job".to_owned(),
        [group] => format!("it is only in the group `{group}`, which no backup job serves"),
        groups => format!("it is in the groups {}, which no backup job serves", quoted(groups)),
    };
    let idle: Vec<&str> =
        jobs.iter().filter(|job| is_backup(job) && job.groups.is_empty()).map(|job| job.name.as_str()).collect();
    if let [first, ..] = idle[..] {
        reason.push_str(&format!("; the backup job `{first}` serves no group"));
    }
    match last_backup {
        None => reason.push_str("; never backed up"),
        Some(at) => reason.push_str(&format!("; last backup {}", ago(now.saturating_sub(at)))),
    }
    reason
}

fn quoted(words: &[String]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

/// Backup jobs that reach a volume. Those that the volume names come first.
fn services(volume: &LonghornVolume, jobs: &[RecurringJob]) -> Vec<Service> {
    let named = jobs
        .iter()
        .filter(|job| is_backup(job) && volume.jobs.contains(&job.name))
        .map(|job| Service { job: job.name.clone(), group: None });
    let shared = jobs.iter().filter(|job| is_backup(job)).flat_map(|job| {
        let groups = job.groups.iter().filter(|group| volume.groups.contains(group));
        groups.map(|group| Service { job: job.name.clone(), group: Some(group.clone()) })
    });
    named.chain(shared).collect()
}

/// The time of the newest complete backup that exists. The time that Longhorn records on the volume counts only if
/// backups cannot be listed, because Longhorn keeps it after the backup is deleted.
fn last_backup(volume: &LonghornVolume, backups: Option<&[LonghornBackup]>) -> Option<i64> {
    let Some(backups) = backups else { return volume.last_backup };
    let of_volume = backups.iter().filter(|backup| backup.state == COMPLETED && backup.volume == volume.name);
    of_volume.filter_map(|backup| backup.created).max()
}

/// The age of the newest ready snapshot, if snapshots count and it is recent enough.
fn snapshot_age(now: i64, settings: &Settings, seen: &Seen, claim: &Claim) -> Option<i64> {
    if !settings.snapshots_count {
        return None;
    }
    let of_claim = |s: &&VolumeSnapshot| s.ready && s.namespace == claim.namespace && s.claim == claim.name;
    let newest = seen.snapshots.iter().filter(of_claim).filter_map(|snapshot| snapshot.created).max()?;
    let age = now.saturating_sub(newest);
    (age <= i64::from(settings.max_age_hours) * 3_600).then_some(age)
}

fn remark_on_job(job: &RecurringJob, volumes: &[LonghornVolume]) -> Option<Remark> {
    let named = volumes.iter().filter(|volume| volume.jobs.contains(&job.name)).count();
    let grouped = |volume: &&LonghornVolume| volume.groups.iter().any(|group| job.groups.contains(group));
    let problem = match (job.groups.as_slice(), named) {
        ([], 0) => format!("serves no group and no volume names it, so its {} never runs", job.task),
        (_, 1..) => return None,
        (groups, 0) if !volumes.iter().any(|volume| grouped(&volume)) => {
            format!("serves {}, but no volume is in it", quoted(groups))
        }
        (_, 0) => return None,
    };
    Some(Remark { name: job.name.clone(), problem })
}

fn remarks_on_groups(jobs: &[RecurringJob], volumes: &[LonghornVolume]) -> Vec<Remark> {
    let mut sizes: BTreeMap<&str, usize> = BTreeMap::new();
    for group in volumes.iter().flat_map(|volume| &volume.groups) {
        *sizes.entry(group).or_default() += 1;
    }
    let served: BTreeSet<&str> =
        jobs.iter().filter(|job| is_backup(job)).flat_map(|job| &job.groups).map(String::as_str).collect();
    let unserved = sizes.into_iter().filter(|(group, _)| !served.contains(group));
    unserved
        .map(|(group, size)| {
            let others = jobs.iter().filter(|job| job.groups.iter().any(|served| served == group));
            let tasks: BTreeSet<&str> = others.map(|job| job.task.as_str()).collect();
            let volumes = if size == 1 { "1 volume".to_owned() } else { format!("{size} volumes") };
            let problem = match tasks.into_iter().collect::<Vec<_>>()[..] {
                [] => format!("has {volumes} but no job"),
                ref tasks => format!("has {volumes} but no backup job, only {}", tasks.join(" and ")),
            };
            Remark { name: group.to_owned(), problem }
        })
        .collect()
}

/// An age as text.
fn ago(seconds: i64) -> String {
    match seconds {
        ..0 => "in the future by this clock".to_owned(),
        0..7_200 => format!("{} minutes ago", seconds / 60),
        7_200..172_800 => format!("{} hours ago", seconds / 3_600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests;
