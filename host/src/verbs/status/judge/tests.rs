//! Stores in every state that matters, and what the status reports about each.

use super::*;
use base::error::Error;
use base::id::Stamp;
use catalogue::configured::{Configured, Environment, SourceKind};
use catalogue::environment::{EnvironmentFile, StoredFile};
use catalogue::record::Record;
use std::collections::{BTreeMap, BTreeSet};
use store::ObjectKey;

const HOUR: i64 = 60;

fn now() -> Timestamp {
    "2026-06-30T12:00:00Z".parse().unwrap()
}

fn ago(minutes: i64) -> Timestamp {
    now() - SignedDuration::from_mins(minutes)
}

fn inventory() -> (Environment, Configured) {
    let mut configured = Configured::default();
    configured.add("db", SourceKind::Postgres).unwrap();
    configured.add("docs", SourceKind::Directory).unwrap();
    (Environment::new("prod").unwrap(), configured)
}

/// A snapshot taken this many minutes ago, with the outcome of each source and the age of its object in minutes.
fn snapshot(minutes: i64, db: (Outcome, i64), docs: (Outcome, i64)) -> Snapshot {
    let id = SnapshotId::at(ago(minutes));
    let state = |(outcome, made): (Outcome, i64), name: &str| {
        let condition = if outcome == Outcome::Failed { Condition::Failed } else { Condition::Whole };
        let key = ObjectKey::parse(name).filter(|_| outcome != Outcome::Failed);
        let mut state = Snapshot::of_one_source(id, name, condition, key).sources.remove(name).unwrap();
        state.outcome = outcome;
        if let Some(object) = &mut state.object {
            (object.bytes, object.made) = (7, ago(made));
        }
        (name.to_owned(), state)
    };
    let sources = BTreeMap::from([state(db, "db"), state(docs, "docs")]);
    let complete = db.0 != Outcome::Failed && docs.0 != Outcome::Failed;
    Snapshot { complete, sources, ..recorded(Snapshot::of_one_source(id, "db", Condition::Failed, None)) }
}

/// The same snapshot with a record. Only the existence of the record matters.
fn recorded(snapshot: Snapshot) -> Snapshot {
    Snapshot { record: Some(Record { complete: true, ..Record::blank(snapshot.id, "prod") }), ..snapshot }
}

/// A snapshot taken this many minutes ago that saved both sources.
fn saved(minutes: i64) -> Snapshot {
    snapshot(minutes, (Outcome::Saved, minutes), (Outcome::Saved, minutes))
}

fn judged(snapshots: Vec<Snapshot>, proofs: Proofs, retention: Retention) -> EnvironmentStatus {
    let (environment, config) = inventory();
    let guard = catalogue::guard::GuardConfig::default();
    let file = EnvironmentFile::first(&environment, &config, &BTreeMap::new(), &guard, "UTC", ago(0));
    let mut history = History::of(snapshots);
    history.environment = Some(StoredFile { stamp: Stamp::at(ago(0)), sha256: String::new(), file });
    let limits =
        Limits { max_age: SignedDuration::from_hours(26), max_unverified: SignedDuration::from_hours(35 * 24) };
    let context =
        QuestionContext { environment: "prod", configured: &config, guard: &guard, time_zone: "UTC", retention: "r" };
    judge(context, &history, proofs, retention, limits, now())
}

fn alone(snapshots: Vec<Snapshot>) -> EnvironmentStatus {
    judged(snapshots, Proofs::default(), Retention::Applied)
}

fn message(status: &EnvironmentStatus) -> Vec<(Kind, Option<&str>, &str)> {
    status.problems.iter().map(|problem| (problem.kind, problem.source.as_deref(), problem.message.as_str())).collect()
}

#[test]
fn what_is_configured_and_was_never_backed_up_is_seen_in_an_empty_store() {
    let status = alone(Vec::new());
    let never = Kind::Never;
    assert_eq!(
        message(&status),
        [
            (never, Some("db"), "db has never been backed up whole"),
            (never, Some("docs"), "docs has never been backed up whole"),
        ]
    );
    assert_eq!((status.complete, status.verification, status.proven), (None, None, None));
    assert!(!status.is_healthy());
}

#[test]
fn a_source_is_stale_beyond_the_limit_and_not_at_it() {
    for (minutes, healthy) in [(0, true), (26 * HOUR, true), (26 * HOUR + 1, false)] {
        let status = alone(vec![saved(minutes)]);
        assert_eq!(status.is_healthy(), healthy, "{minutes} minutes: {:?}", status.problems);
    }
    let status = alone(vec![saved(50 * HOUR)]);
    assert_eq!(message(&status)[0], (Kind::Stale, Some("db"), "the last whole backup of db is 2 days old"));
}

#[test]
fn an_unchanged_source_is_fresh_and_says_when_it_was_saved() {
    let status = alone(vec![saved(80 * HOUR), snapshot(HOUR, (Outcome::Saved, HOUR), (Outcome::Unchanged, 80 * HOUR))]);
    assert!(status.is_healthy(), "{:?}", status.problems);
    let docs = &status.sources[1];
    assert_eq!(docs.restorable, Some(SnapshotId::at(ago(HOUR))));
    assert_eq!(docs.saved, Some((ago(80 * HOUR), 7)));
    assert_eq!(docs.outcome, Some(Outcome::Unchanged));
}

#[test]
fn a_failed_source_is_named_and_its_last_good_state_counts() {
    let failed = snapshot(HOUR, (Outcome::Failed, 0), (Outcome::Saved, HOUR));
    let status = judged(vec![saved(25 * HOUR), failed], Proofs::default(), Retention::Frozen);
    let kinds: Vec<_> = status.problems.iter().map(|problem| (problem.kind, problem.source.as_deref())).collect();
    assert_eq!(kinds, [(Kind::Failed, Some("db"))], "not stale yet");
    assert_eq!(status.sources[0].restorable, Some(SnapshotId::at(ago(25 * HOUR))));
    assert_eq!(status.complete, Some(SnapshotId::at(ago(25 * HOUR))));
    assert_eq!(status.counts, Counts { complete: 1, incomplete: 1, damaged: 0, adopted: 0, binned: 0 });
}

#[test]
fn what_the_store_lost_is_missing_and_no_state_to_restore() {
    let mut lost = saved(HOUR);
    lost.sources.get_mut("db").unwrap().object.as_mut().unwrap().present = false;
    lost.complete = false;
    let damaged = Snapshot {
        damage: Some(Error::unexpected("damaged")),
        complete: false,
        sources: BTreeMap::new(),
        ..saved(2 * HOUR)
    };
    let status = alone(vec![saved(100 * HOUR), damaged, lost]);
    let kinds: Vec<_> = status.problems.iter().map(|problem| (problem.kind, problem.source.as_deref())).collect();
    assert_eq!(kinds, [(Kind::Stale, Some("db")), (Kind::Missing, None), (Kind::Missing, None)]);
    assert_eq!(status.problems[1].message, "1 snapshot lost an object: 20260630T110000Z");
    assert_eq!(status.problems[2].message, "1 snapshot has a record that cannot be read: 20260630T100000Z");
    assert!(
        status.problems[1..]
            .iter()
            .all(|problem| problem.command.starts_with("accept --env prod") && problem.command.ends_with(" --lost")),
        "{status:?}"
    );
}

#[test]
fn many_lost_snapshots_are_counted_and_the_first_named() {
    let lost = |minutes| {
        let mut snapshot = saved(minutes);
        snapshot.sources.get_mut("db").unwrap().object.as_mut().unwrap().present = false;
        snapshot
    };
    let status = alone((1..=9).rev().map(|n| lost(n * HOUR)).collect());
    let missing = status.problems.iter().find(|problem| problem.kind == Kind::Missing).unwrap();
    assert!(
        missing.message.starts_with("9 snapshots lost an object: ") && missing.message.ends_with(", …"),
        "{missing:?}"
    );
}

#[test]
fn a_clock_that_was_ahead_does_not_make_a_backup_fresh() {
    let status = alone(vec![saved(30 * HOUR), saved(-HOUR)]);
    let kinds: Vec<_> = status.problems.iter().map(|problem| problem.kind).collect();
    assert_eq!(kinds, [Kind::Stale, Kind::Stale, Kind::Clock], "{status:?}");
    let adopted = Snapshot { adopted: true, record: None, ..saved(-HOUR) };
    assert!(alone(vec![saved(HOUR), adopted]).is_healthy(), "a script's local time is ahead of UTC");
}

fn proof(minutes: i64, passed: bool) -> Proof {
    Proof { at: ago(minutes), passed }
}

#[test]
fn a_proof_is_missed_only_once_the_first_snapshot_is_older_than_the_limit() {
    const DAY: i64 = 24 * HOUR;
    let daily = |days: i64| (0..=days).rev().map(|day| saved(day * DAY)).collect::<Vec<_>>();
    for (days, verified, drilled, expected) in [
        (35, None, None, None),
        (36, None, None, Some("nothing has ever been verified or drilled")),
        (400, Some(35), None, None),
        (400, Some(36), None, Some("nothing has been verified or drilled for 5 weeks")),
        (400, Some(300), Some(3), None),
        (400, None, Some(60), Some("nothing has been verified or drilled for 9 weeks")),
    ] {
        let of = |days: Option<i64>| days.map(|days| proof(days * DAY, true));
        let id = SnapshotId::at(ago(DAY));
        let proofs = Proofs {
            verifications: of(verified).map(|proof| (id, proof)).into_iter().collect(),
            passed: of(verified).map(|proof| proof.at),
            drill: of(drilled),
            drill_passed: of(drilled).map(|proof| proof.at),
        };
        let status = judged(daily(days), proofs, Retention::Applied);
        let unverified: Vec<_> = message(&status).into_iter().filter(|(kind, ..)| *kind == Kind::Unverified).collect();
        let expected: Vec<_> = expected.map(|text| (Kind::Unverified, None, text)).into_iter().collect();
        assert_eq!(unverified, expected, "{days} days, {verified:?}, {drilled:?}");
    }
}

#[test]
fn a_proof_that_failed_is_a_problem_until_the_snapshot_passes_or_is_gone() {
    let failed = |minutes| Snapshot { verification_state: VerificationState::Failed, ..saved(minutes) };
    let snapshots = || vec![saved(25 * HOUR), saved(HOUR)];
    let status = judged(vec![failed(25 * HOUR), saved(HOUR)], Proofs::default(), Retention::Applied);
    assert_eq!(status.problems.len(), 1, "{status:?}");
    let problem = &status.problems[0];
    assert_eq!(
        (problem.kind, problem.command.as_str()),
        (Kind::Disproved, "accept --env prod --only disproved --lost")
    );
    assert!(judged(snapshots(), Proofs::default(), Retention::Applied).is_healthy());
    let drilled = Proofs { drill: Some(proof(3, false)), drill_passed: Some(ago(99)), ..Proofs::default() };
    let status = judged(snapshots(), drilled, Retention::Applied);
    assert_eq!(status.problems[0].message, "the last drill (2026-06-30T11:57:00Z) failed");
}

#[test]
fn retention_that_does_not_do_its_work_is_a_problem_of_its_own() {
    for (retention, expected) in [
        (Retention::Never, None),
        (Retention::Applied, None),
        (Retention::Frozen, None),
        (Retention::Pending, None),
        (Retention::Behind(3), Some("3 snapshots should have been put into the bin or deleted")),
        (Retention::Refused("too many".into()), Some("retention failed: too many")),
    ] {
        let status = judged(vec![saved(HOUR)], Proofs::default(), retention);
        let problem = status.problems.iter().find(|problem| problem.kind == Kind::Retention);
        assert_eq!(problem.is_some(), expected.is_some(), "{status:?}");
        assert!(problem.is_none_or(|problem| problem.message.contains(expected.unwrap_or_default())), "{status:?}");
    }
}

#[test]
fn every_kind_of_problem_has_a_name_of_its_own_and_advice() {
    let all = [
        Kind::Never,
        Kind::Stale,
        Kind::Failed,
        Kind::Partial,
        Kind::Suspect,
        Kind::Missing,
        Kind::Clock,
        Kind::Waiting,
        Kind::Newer,
        Kind::Unverified,
        Kind::Disproved,
        Kind::Retention,
    ];
    assert_eq!(all.iter().map(|kind| kind.name()).collect::<BTreeSet<_>>().len(), all.len());
    let problem = |kind| Problem { kind, source: None, message: String::new(), command: "backup --env prod".into() };
    assert!(all.into_iter().all(|kind| problem(kind).advice().ends_with("run `backup --env prod`")));
}
