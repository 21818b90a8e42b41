//! Volumes, jobs and backups as they occur, and the verdict on each.

use super::*;

const NOW: i64 = 1_782_781_200;
const HOUR: i64 = 3_600;

fn claim(name: &str) -> Claim {
    let (namespace, phase, volume) = ("erp".into(), "Bound".into(), format!("pv-{name}"));
    Claim { namespace, name: name.into(), phase, storage_class: String::new(), volume, bytes: 0 }
}

fn volume(name: &str) -> Volume {
    Volume { name: format!("pv-{name}"), driver: DRIVER.into(), handle: format!("lh-{name}") }
}

fn longhorn(name: &str, groups: &[&str]) -> LonghornVolume {
    let groups = groups.iter().map(|group| (*group).to_owned()).collect();
    LonghornVolume { name: format!("lh-{name}"), groups, jobs: vec![], last_backup: None }
}

fn job(name: &str, task: &str, groups: &[&str]) -> RecurringJob {
    let groups = groups.iter().map(|group| (*group).to_owned()).collect();
    RecurringJob { name: name.into(), task: task.into(), cron: String::new(), groups }
}

fn backup(name: &str, hours: i64) -> LonghornBackup {
    LonghornBackup { volume: format!("lh-{name}"), state: COMPLETED.into(), created: Some(NOW - hours * HOUR) }
}

/// One documents volume in the group `default`.
fn seen(jobs: Vec<RecurringJob>, backups: Vec<LonghornBackup>) -> Seen {
    Seen {
        claims: vec![claim("docs")],
        volumes: vec![volume("docs")],
        longhorn: Some(vec![longhorn("docs", &["default"])]),
        jobs: Some(jobs),
        backups: Some(backups),
        snapshots: vec![],
    }
}

fn one(seen: &Seen) -> Finding {
    judge(NOW, &Settings::default(), seen).findings.pop().unwrap()
}

#[test]
fn a_volume_in_the_group_default_is_uncovered_when_the_one_backup_job_serves_no_group() {
    let judgement = judge(NOW, &Settings::default(), &seen(vec![job("nightly", "backup", &[])], vec![]));
    let docs = &judgement.findings[0];
    assert_eq!((docs.state, docs.last_backup, docs.served_by.len()), (State::Uncovered, None, 0));
    for part in ["only in the group `default`", "`nightly` serves no group", "never backed up"] {
        assert!(docs.reason.contains(part), "{}", docs.reason);
    }
    let names = |remarks: &[Remark]| remarks.iter().map(|remark| remark.name.clone()).collect::<Vec<_>>();
    assert_eq!((names(&judgement.jobs), names(&judgement.groups)), (vec!["nightly".into()], vec!["default".into()]));
}

#[test]
fn a_volume_is_covered_only_by_a_job_that_reaches_it_and_a_recent_backup() {
    let nightly = || job("nightly", "backup", &["default"]);
    let failed = LonghornBackup { state: "Error".into(), ..backup("docs", 1) };
    let deleted = |mut seen: Seen| {
        seen.longhorn.as_mut().unwrap()[0].last_backup = Some(NOW - HOUR);
        seen
    };
    let by_name = |mut seen: Seen| {
        seen.longhorn.as_mut().unwrap()[0] = LonghornVolume { jobs: vec!["nightly".into()], ..longhorn("docs", &[]) };
        seen
    };
    for (seen, state, part) in [
        (seen(vec![nightly()], vec![backup("docs", 48)]), State::Covered, "through the group `default`"),
        (by_name(seen(vec![job("nightly", "backup", &[])], vec![backup("docs", 1)])), State::Covered, "serves it;"),
        (seen(vec![nightly()], vec![backup("docs", 49)]), State::Uncovered, "last backup was 2 days ago"),
        (seen(vec![nightly()], vec![backup("docs", -5)]), State::Covered, "in the future"),
        (seen(vec![nightly()], vec![]), State::Uncovered, "never backed up"),
        (seen(vec![nightly()], vec![backup("other", 1)]), State::Uncovered, "never backed up"),
        (seen(vec![nightly()], vec![failed]), State::Uncovered, "never backed up"),
        (deleted(seen(vec![nightly()], vec![])), State::Uncovered, "no complete backup of it exists"),
        (seen(vec![job("x", "snapshot", &["default"])], vec![]), State::Uncovered, "no backup job serves"),
        (seen(vec![job("x", "backup", &["defaults"])], vec![]), State::Uncovered, "no backup job serves"),
    ] {
        let finding = one(&seen);
        assert_eq!(finding.state, state, "{}", finding.reason);
        assert!(finding.reason.contains(part), "`{}` does not say `{part}`", finding.reason);
    }
}

#[test]
fn a_volume_that_longhorn_does_not_manage_is_uncovered_and_the_reason_says_why() {
    let good = seen(vec![], vec![]);
    let gone = Seen { longhorn: Some(vec![]), ..good.clone() };
    let unknown = Seen { volumes: vec![], ..good.clone() };
    let other = Volume { driver: "ebs.csi.aws.com".into(), ..volume("docs") };
    let host_path = Volume { driver: String::new(), ..volume("docs") };
    for (seen, part) in [
        (gone, "Longhorn has no volume lh-docs"),
        (unknown, "its volume pv-docs does not exist"),
        (Seen { volumes: vec![other], ..good.clone() }, "the volume belongs to ebs.csi.aws.com"),
        (Seen { volumes: vec![host_path], ..good.clone() }, "no CSI driver"),
    ] {
        let finding = one(&seen);
        assert_eq!(finding.state, State::Uncovered);
        assert!(finding.reason.contains(part), "{}", finding.reason);
    }
    let nothing = Seen { longhorn: None, jobs: None, backups: None, ..good };
    let judgement = judge(NOW, &Settings::default(), &nothing);
    assert!(judgement.notes[0].contains("not installed") && judgement.findings[0].state == State::Uncovered);
}

#[test]
fn an_unbound_or_excluded_claim_raises_no_alarm() {
    let pending = Claim { volume: String::new(), phase: "Pending".into(), ..claim("new") };
    let seen = Seen { claims: vec![claim("docs"), pending], ..seen(vec![], vec![]) };
    let settings = Settings { exclude: vec!["erp/docs".into()], ..Settings::default() };
    let states: Vec<_> = judge(NOW, &settings, &seen).findings.iter().map(|finding| finding.state).collect();
    assert_eq!(states, [State::Excluded, State::Excluded]);
    assert!(judge(NOW, &settings, &Seen::default()).findings.is_empty());
}

#[test]
fn a_snapshot_covers_a_volume_only_if_the_settings_say_so() {
    let snapshot = |hours: i64, ready| VolumeSnapshot {
        namespace: "erp".into(),
        name: "s".into(),
        claim: "docs".into(),
        ready,
        created: Some(NOW - hours * HOUR),
    };
    let counting = Settings { snapshots_count: true, ..Settings::default() };
    for (settings, snapshots, state) in [
        (&counting, vec![snapshot(1, true)], State::Covered),
        (&counting, vec![snapshot(49, true)], State::Uncovered),
        (&counting, vec![snapshot(1, false)], State::Uncovered),
        (&Settings::default(), vec![snapshot(1, true)], State::Uncovered),
    ] {
        let seen = Seen { snapshots, ..seen(vec![], vec![]) };
        assert_eq!(judge(NOW, settings, &seen).findings[0].state, state);
    }
}

#[test]
fn jobs_without_volumes_and_groups_without_jobs_are_reported() {
    let mut seen = seen(vec![job("a", "backup", &["erp"]), job("b", "snapshot", &["default"])], vec![]);
    let judgement = judge(NOW, &Settings::default(), &seen);
    assert_eq!(judgement.jobs[0].problem, "serves `erp`, but no volume is in it");
    assert_eq!(judgement.groups[0].problem, "has 1 volume but no backup job, only snapshot");
    seen.longhorn.as_mut().unwrap().push(longhorn("more", &["erp"]));
    assert!(judge(NOW, &Settings::default(), &seen).jobs.is_empty());
}
