//! What a listing and records come to.

use super::keys::sort;
use super::*;
use crate::snapshot::{FORMAT_VERSION, SourceRecord};

fn config() -> EnvironmentConfig {
    let text = "[store]\nurl = \"file:///x\"\n[env.prod.sources.db]\nkind = \"postgres\"\ndatabase = \"erp\"\n\
                host = \"h\"\ncredentials = { user = \"u\" }\n\
                [env.prod.sources.docs]\nkind = \"directory\"\npath = \"/d\"\n";
    crate::config::Config::parse(text).unwrap().environment("prod").unwrap().1.clone()
}

fn environment() -> Environment {
    let text = "[store]\nurl = \"file:///x\"\n[env.prod.sources.docs]\nkind = \"directory\"\npath = \"/d\"\n";
    crate::config::Config::parse(text).unwrap().environment("prod").unwrap().0.clone()
}

fn history(listed: &[(&str, u64)], records: Vec<Record>) -> History {
    let config = config();
    let listed = listed.iter().map(|(key, bytes)| (ObjectKey::parse(key).unwrap(), *bytes));
    let keys = sort(&environment(), &config, listed);
    let records = records.into_iter().map(|record| (record.id, Ok(record), "hash".to_owned())).collect();
    build(&config, &keys, records, &BTreeSet::new())
}

fn record(id: &str, objects: &[(&str, &str, u64)]) -> Record {
    let id: SnapshotId = id.parse().unwrap();
    let source = |(name, key, bytes): &(&str, &str, u64)| {
        let object =
            ObjectRecord { key: ObjectKey::parse(key).unwrap(), bytes: *bytes, sha256: "00".into(), made: id.taken() };
        let source = SourceRecord {
            kind: "postgres".into(),
            outcome: Outcome::Saved,
            reason: "test".into(),
            fingerprint: Some("f".into()),
            basis: None,
            object: Some(object),
            database: None,
            fingerprint_millis: None,
            dump_millis: None,
            archive: None,
        };
        ((*name).to_owned(), source)
    };
    Record {
        format_version: FORMAT_VERSION,
        id,
        environment: "prod".into(),
        started: id.taken(),
        finished: id.taken(),
        time_zone: "UTC".into(),
        host_version: "0".into(),
        complete: true,
        sources: objects.iter().map(source).collect(),
        plugins: vec![],
        warnings: vec![],
        previous: None,
    }
}

#[test]
fn a_snapshot_is_complete_only_while_its_objects_are_there_at_their_size() {
    let record = || record("20260630T010000Z", &[("db", "prod/db/20260630T010000Z.dump", 7)]);
    let complete = |listed: &[(&str, u64)]| history(listed, vec![record()]).snapshots[0].complete;
    assert!(complete(&[("prod/db/20260630T010000Z.dump", 7)]));
    assert!(!complete(&[("prod/db/20260630T010000Z.dump", 6)]));
    assert!(!complete(&[]));
}

#[test]
fn objects_of_a_script_are_adopted_and_carry_over_what_the_script_skipped() {
    let history = history(
        &[
            ("prod/db/20260101T010000Z.dump", 5),
            ("prod/docs/20260101T010000Z.tar.gz", 9),
            ("prod/db/20260102T010000Z.dump", 6),
            ("prod/docs/2026-01-03.tar.gz", 4),
        ],
        vec![],
    );
    let shown: Vec<_> = history
        .snapshots
        .iter()
        .map(|s| {
            let of = |source: &str| s.sources[source].outcome.to_string();
            (s.id.to_string(), s.complete && s.adopted, of("db"), of("docs"), s.bytes())
        })
        .collect();
    let row = |id: &str, db: &str, docs: &str, bytes| (id.to_owned(), true, db.to_owned(), docs.to_owned(), bytes);
    assert_eq!(
        shown,
        [
            row("20260101T010000Z", "adopted", "adopted", 14),
            row("20260102T010000Z", "adopted", "unchanged", 15),
            row("20260103T000000Z", "unchanged", "adopted", 10),
        ]
    );
    assert!(history.orphans.is_empty());
}

/// Ids, keys of the database and whether each was found at that moment.
fn databases(history: &History) -> Vec<(String, &str, Outcome)> {
    let states = history.snapshots.iter().filter_map(|snapshot| Some((snapshot.id, snapshot.sources.get("db")?)));
    states.map(|(id, state)| (id.to_string(), state.object.as_ref().unwrap().key.as_str(), state.outcome)).collect()
}

#[test]
fn names_that_mean_one_moment_are_snapshots_of_their_own_and_none_hides_another() {
    let history = history(
        &[
            ("prod/db/2026-01-01.dump", 1),
            ("prod/db/20260101.dump", 2),
            ("prod/db/20260101T000000Z.dump", 3),
            ("prod/db/20260101T000001Z.dump", 4),
            ("prod/docs/2026-01-01T00:00:00Z.tar.gz", 5),
        ],
        vec![],
    );
    let found = Outcome::Adopted;
    let row = |id: &str, key| (id.to_owned(), key, found);
    assert_eq!(
        databases(&history),
        [
            row("20260101T000000Z", "prod/db/20260101T000000Z.dump"),
            row("20260101T000001Z", "prod/db/20260101T000001Z.dump"),
            row("20260101T000002Z", "prod/db/2026-01-01.dump"),
            row("20260101T000003Z", "prod/db/20260101.dump"),
        ]
    );
    assert!(history.snapshots.iter().all(|snapshot| snapshot.adopted && snapshot.complete), "docs is carried over");
    assert_eq!(history.snapshots[0].sources["docs"].outcome, found, "whatever its spelling");
    assert!(history.orphans.is_empty());
}

#[test]
fn an_empty_object_is_a_dump_that_failed_and_what_was_there_before_is_carried_on() {
    let history = history(
        &[
            ("prod/db/2026-01-01.dump", 5),
            ("prod/docs/2026-01-01.tar.gz", 5),
            ("prod/db/2026-01-02.dump", 0),
            ("prod/docs/2026-01-02.tar.gz", 6),
            ("prod/docs/2026-01-03.tar.gz", 7),
        ],
        vec![],
    );
    assert_eq!(
        databases(&history),
        [
            ("20260101T000000Z".to_owned(), "prod/db/2026-01-01.dump", Outcome::Adopted),
            ("20260102T000000Z".to_owned(), "prod/db/2026-01-02.dump", Outcome::Failed),
            ("20260103T000000Z".to_owned(), "prod/db/2026-01-01.dump", Outcome::Unchanged),
        ]
    );
    assert_eq!(history.snapshots.iter().map(|s| s.complete).collect::<Vec<_>>(), [true, false, true]);
    assert!(!history.snapshots[1].sources["db"].is_restorable());
    assert_eq!(history.snapshots[1].adopted_objects().count(), 2, "its certificate explains the empty one too");
}

#[test]
fn a_name_of_a_moment_that_a_run_has_is_adopted_beside_it_and_never_deleted() {
    let run = record("20260101T010000Z", &[("db", "prod/db/20260101T010000Z.dump", 5)]);
    let listed = [
        ("prod/db/20260101T010000Z.dump", 5),
        ("prod/db/20260101-010000.dump", 6),
        ("prod/leases/20260101T010001Z.00ff.json", 1),
        ("prod/forgotten/20260101T010002Z.json", 1),
    ];
    let history = history(&listed, vec![run]);
    let (saved, found) = (Outcome::Saved, Outcome::Adopted);
    assert_eq!(
        databases(&history),
        [
            ("20260101T010000Z".to_owned(), "prod/db/20260101T010000Z.dump", saved),
            ("20260101T010003Z".to_owned(), "prod/db/20260101-010000.dump", found),
        ]
    );
    assert!(history.orphans.is_empty());
    let all = history.snapshots.iter().map(|snapshot| snapshot.id).filter(|id| id.to_string().ends_with("010000Z"));
    let freed = history.unreferenced_without(&all.collect());
    assert_eq!(freed.len(), 1, "forgetting the run leaves the other's object: {freed:?}");
}

#[test]
fn a_certificate_explains_the_objects_that_it_names_and_no_other_of_its_moment() {
    let listed = [
        ("prod/db/20260101-010000.dump", 5),
        ("prod/db/20260101_010000.dump", 6),
        ("prod/forgotten/20260101T010000Z.json", 1),
    ];
    let config = config();
    let listed = listed.iter().map(|(key, bytes)| (ObjectKey::parse(key).unwrap(), *bytes));
    let keys = sort(&environment(), &config, listed);
    let named = BTreeSet::from([ObjectKey::parse("prod/db/20260101-010000.dump").unwrap()]);
    let history = build(&config, &keys, vec![], &named);
    assert_eq!(
        history.orphans.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(),
        ["prod/db/20260101-010000.dump"]
    );
    assert_eq!(
        databases(&history),
        [("20260101T010001Z".to_owned(), "prod/db/20260101_010000.dump", Outcome::Adopted)]
    );
    let kept: Vec<_> = history.snapshots[0].adopted_objects().map(ObjectKey::as_str).collect();
    assert_eq!(kept, ["prod/db/20260101_010000.dump"]);
}

#[test]
fn keys_of_another_environment_or_that_do_not_parse_are_not_touched() {
    let history = history(
        &[
            ("prod/db/latest.dump", 1),
            ("prod/db/20260101T010000Z.txt", 1),
            ("prod/docs/20260101T010000Z.index", 1),
            ("prod/db/old/20260101T010000Z.dump", 1),
            ("prod-1/db/20260101T010000Z.dump", 1),
            ("prod/other/20260101T010000Z.dump", 1),
        ],
        vec![],
    );
    assert!(history.snapshots.is_empty() && history.orphans.is_empty());
}

#[test]
fn what_a_run_has_not_committed_is_neither_a_snapshot_nor_an_orphan() {
    let history =
        history(&[("prod/db/20260101T010000Z.dump", 5), ("prod/leases/20260101T010000Z.00ff.json", 1)], vec![]);
    assert!(history.snapshots.is_empty() && history.orphans.is_empty());
}

#[test]
fn an_object_of_a_forgotten_snapshot_is_an_orphan_and_never_comes_back_as_adopted() {
    let history = history(&[("prod/db/20260101T010000Z.dump", 5), ("prod/forgotten/20260101T010000Z.json", 1)], vec![]);
    assert!(history.snapshots.is_empty());
    assert_eq!(history.orphans.len(), 1);
}

#[test]
fn an_object_lives_as_long_as_any_kept_snapshot_refers_to_it() {
    let shared = ("db", "prod/db/20260101T010000Z.dump", 5);
    let history = history(
        &[("prod/db/20260101T010000Z.dump", 5)],
        vec![record("20260101T010000Z", &[shared]), record("20260201T010000Z", &[shared])],
    );
    let forget = |ids: &[&str]| history.unreferenced_without(&ids.iter().map(|id| id.parse().unwrap()).collect()).len();
    assert_eq!(forget(&["20260101T010000Z"]), 0);
    assert_eq!(forget(&["20260101T010000Z", "20260201T010000Z"]), 1);
}

#[test]
fn a_record_that_cannot_be_read_freezes_every_deletion() {
    let config = config();
    let listed = [("prod/db/20260101T010000Z.dump", 5), ("prod/forgotten/20260101T010000Z.json", 1)];
    let keys =
        sort(&environment(), &config, listed.into_iter().map(|(key, bytes)| (ObjectKey::parse(key).unwrap(), bytes)));
    let id: SnapshotId = "20260202T010000Z".parse().unwrap();
    let history = build(&config, &keys, vec![(id, Err(Error::unexpected("damaged")), "h".into())], &BTreeSet::new());
    assert!(history.orphans.is_empty());
    assert!(history.unreferenced_without(&[id].into()).is_empty());
    assert!(history.subjects()[0].damaged);
}

#[test]
fn a_snapshot_from_the_future_is_neither_carried_nor_chained_to() {
    let past = record("20260101T010000Z", &[("db", "prod/db/20260101T010000Z.dump", 5)]);
    let future = record("20990101T010000Z", &[("db", "prod/db/20990101T010000Z.dump", 5)]);
    let history = history(&[], vec![past, future]);
    let now = "2026-06-30T00:00:00Z".parse().unwrap();
    assert_eq!(history.previous(now).unwrap().id.to_string(), "20260101T010000Z");
    assert!(history.carried("db", now).unwrap().1.key.as_str().contains("20260101"));
}
