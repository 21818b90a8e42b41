//! Histories built from listings and records.

use super::adopted::Explained;
use super::listing::{Keys, sort_keys};
use super::load::{Announced, Facts, build, known_sources};
use super::*;
use crate::configured::{Configured, Environment, SourceKind};
use crate::record::{Outcome, Record, SourceRecord};
use base::error::Result;
use store::Meta;

fn configured() -> Configured {
    let mut configured = Configured::default();
    configured.add("db", SourceKind::Postgres).unwrap();
    configured.add("docs", SourceKind::Directory).unwrap();
    configured
}

fn environment() -> Environment {
    Environment::new("prod").unwrap()
}

fn now() -> Timestamp {
    "2026-06-30T12:00:00Z".parse().unwrap()
}

fn keys(listed: &[(&str, u64)]) -> Keys {
    let meta =
        |(key, bytes): &(&str, u64)| Meta { key: ObjectKey::parse(key).unwrap(), bytes: *bytes, modified: now() };
    sort_keys(&environment(), listed.iter().map(meta))
}

fn built(
    listed: &[(&str, u64)],
    records: Vec<(SnapshotId, Result<Record>, String)>,
    explained: &[(&str, Explained)],
    announced: Announced,
) -> History {
    let (configured, mut keys) = (configured(), keys(listed));
    let sources = known_sources(&configured, None, &records);
    keys.objects.retain(|_, found| sources.contains_key(&found.source));
    let explained = explained.iter().map(|(key, why)| (ObjectKey::parse(key).unwrap(), *why)).collect();
    let facts = Facts {
        readable_before: None,
        configured: &configured,
        file: None,
        damage: None,
        sources,
        missing: BTreeSet::new(),
        changed: BTreeSet::new(),
        file_doubt: None,
        announced,
        explained,
        now: now(),
    };
    build(&keys, records, facts)
}

fn history(listed: &[(&str, u64)], records: Vec<Record>) -> History {
    let records = records.into_iter().map(|record| (record.id, Ok(record), "hash".to_owned())).collect();
    built(listed, records, &[], Announced::default())
}

fn record(id: &str, objects: &[(&str, &str, u64)]) -> Record {
    let id: SnapshotId = id.parse().unwrap();
    let source = |(name, key, bytes): &(&str, &str, u64)| {
        let object =
            ObjectRecord { key: ObjectKey::parse(key).unwrap(), bytes: *bytes, sha256: "00".into(), made: id.taken() };
        let source = SourceRecord {
            fingerprint: Some("f".into()),
            object: Some(object),
            condition: Some(Condition::Whole),
            ..SourceRecord::blank("postgres", Outcome::Saved)
        };
        ((*name).to_owned(), source)
    };
    Record { complete: true, sources: objects.iter().map(source).collect(), ..Record::blank(id, "prod") }
}

#[test]
fn a_snapshot_is_complete_only_while_its_objects_exist_with_the_recorded_size() {
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
            // A dump is nothing that a folder can be restored from.
            ("prod/docs/20260104T010000Z.dump", 8),
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

/// For each snapshot its id, and the key and outcome of its database.
fn databases(history: &History) -> Vec<(String, &str, Outcome)> {
    let states = history.snapshots.iter().filter_map(|snapshot| Some((snapshot.id, snapshot.sources.get("db")?)));
    states.map(|(id, state)| (id.to_string(), state.object.as_ref().unwrap().key.as_str(), state.outcome)).collect()
}

#[test]
fn names_for_the_same_time_become_separate_snapshots() {
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
    assert_eq!(history.snapshots[0].sources["docs"].outcome, found, "the name format does not matter");
    assert!(history.orphans.is_empty());
}

#[test]
fn an_empty_object_is_a_failed_dump_and_the_previous_object_is_carried_over() {
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
    assert_eq!(history.snapshots[1].certified_objects().count(), 2, "its certificate explains the empty one too");
}

#[test]
fn an_object_named_for_the_time_of_a_run_is_adopted_separately_and_never_deleted() {
    let run = record("20260101T010000Z", &[("db", "prod/db/20260101T010000Z.dump", 5)]);
    let listed = [
        ("prod/db/20260101T010000Z.dump", 5),
        ("prod/db/20260101-010000.dump", 6),
        ("prod/forgotten/20260101T010002Z.json", 1),
    ];
    let under_way = Announced { runs: ["20260101T010001Z".parse().unwrap()].into(), ..Announced::default() };
    let history = built(&listed, vec![(run.id, Ok(run), "hash".to_owned())], &[], under_way);
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
    assert_eq!(freed.len(), 1, "forgetting the run leaves the other object: {freed:?}");
}

#[test]
fn a_record_that_cannot_be_read_is_not_hidden_by_a_certificate_that_cannot_either() {
    let id: SnapshotId = "20260101T010000Z".parse().unwrap();
    let listed = [("prod/db/20260101T010000Z.dump", 5), ("prod/forgotten/20260101T010000Z.json", 1)];
    let explained = [("prod/db/20260101T010000Z.dump", Explained::Binned { id, since: now() })];
    let damaged = Err(base::error::Error::unexpected("damaged"));
    let history = built(&listed, vec![(id, damaged, "hash".to_owned())], &explained, Announced::default());
    assert_eq!(history.damaged().count(), 1, "nothing may be deleted beside it");
}

#[test]
fn a_certificate_explains_only_the_objects_that_it_names() {
    let listed = [
        ("prod/db/20260101-010000.dump", 5),
        ("prod/db/20260101_010000.dump", 6),
        ("prod/forgotten/20260101T010000Z.json", 1),
    ];
    let explained = [("prod/db/20260101-010000.dump", Explained::Forgotten { since: now() })];
    let history = built(&listed, vec![], &explained, Announced::default());
    assert_eq!(
        history.orphans.iter().map(|orphan| orphan.key.as_str()).collect::<Vec<_>>(),
        ["prod/db/20260101-010000.dump"]
    );
    assert_eq!(
        databases(&history),
        [("20260101T010001Z".to_owned(), "prod/db/20260101_010000.dump", Outcome::Adopted)]
    );
    let kept: Vec<_> = history.snapshots[0].certified_objects().map(ObjectKey::as_str).collect();
    assert_eq!(kept, ["prod/db/20260101_010000.dump"]);
}

#[test]
fn an_adopted_snapshot_in_the_bin_keeps_its_id_and_its_objects() {
    let listed = [
        ("prod/db/20260101-010000.dump", 5),
        ("prod/docs/20260101-010000.tar.gz", 5),
        ("prod/forgotten/20260101T010000Z.json", 1),
    ];
    let binned = Explained::Binned { id: "20260101T010000Z".parse().unwrap(), since: now() };
    let explained = [("prod/db/20260101-010000.dump", binned), ("prod/docs/20260101-010000.tar.gz", binned)];
    let history = built(&listed, vec![], &explained, Announced::default());
    assert!(history.orphans.is_empty() && history.forgotten.is_empty());
    let [snapshot] = history.snapshots.as_slice() else { panic!("{:?}", history.snapshots) };
    assert_eq!((snapshot.id.to_string().as_str(), snapshot.binned), ("20260101T010000Z", Some(now())));
    assert!(snapshot.complete && snapshot.adopted);
}

/// A source failed in that run, and a script saved it in the same second: no certificate explains the object.
#[test]
fn an_object_with_the_stamp_of_a_run_that_does_not_name_it_is_adopted() {
    let run = record("20260101T010000Z", &[("docs", "prod/docs/20260101T010000Z.tar.gz", 5)]);
    let listed = [("prod/docs/20260101T010000Z.tar.gz", 5), ("prod/db/20260101T010000Z.dump", 7)];
    let history = history(&listed, vec![run]);
    assert!(history.orphans.is_empty());
    let adopted: Vec<_> = history.snapshots.iter().filter(|s| s.adopted).map(|s| s.id.to_string()).collect();
    assert_eq!(adopted, ["20260101T010001Z"]);
}

#[test]
fn a_source_that_only_a_record_names_is_judged_like_any_other() {
    let object = "prod/mails/20260101T010000Z.tar.gz";
    let history = history(&[(object, 5)], vec![record("20260101T010000Z", &[("mails", object, 5)])]);
    assert_eq!(history.snapshots[0].serves("mails"), Serves::First);
    assert!(history.sources.contains_key("mails") && history.sources.contains_key("db"));
}

#[test]
fn keys_of_another_environment_and_unparsable_keys_are_not_touched() {
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
fn uncommitted_objects_are_neither_snapshots_nor_orphans() {
    let listed = [("prod/db/20260101T010000Z.dump", 5), ("prod/db/20260102T010000Z.dump", 5)];
    let named = || Announced {
        keys: [ObjectKey::parse("prod/db/20260101T010000Z.dump").unwrap()].into(),
        ..Announced::default()
    };
    let version_1 = || Announced { runs: ["20260101T010000Z".parse().unwrap()].into(), ..Announced::default() };
    for announced in [named(), version_1()] {
        let history = built(&listed, vec![], &[], announced);
        let ids: Vec<_> = history.snapshots.iter().map(|snapshot| snapshot.id.to_string()).collect();
        assert_eq!(ids, ["20260102T010000Z"]);
        assert!(history.orphans.is_empty());
    }
    let unclear = built(&listed, vec![], &[], Announced { unclear: true, ..Announced::default() });
    assert!(unclear.snapshots.is_empty() && unclear.orphans.is_empty(), "if in doubt, nothing is adopted or deleted");
}

#[test]
fn an_object_that_a_certificate_names_is_an_orphan_and_never_comes_back_as_adopted() {
    let listed = [("prod/db/20260101T010000Z.dump", 5), ("prod/forgotten/20260101T010000Z.json", 1)];
    let of = |why| built(&listed, vec![], &[("prod/db/20260101T010000Z.dump", why)], Announced::default());
    let forgotten = of(Explained::Forgotten { since: now() });
    assert!(forgotten.snapshots.is_empty());
    assert_eq!((forgotten.orphans.len(), forgotten.orphans[0].since), (1, now()));
    let unclear = of(Explained::Unclear);
    assert!(unclear.snapshots.is_empty() && unclear.orphans.is_empty(), "a certificate of version 1 names nothing");
}

#[test]
fn a_snapshot_with_a_record_and_a_certificate_is_in_the_bin() {
    let object = "prod/db/20260101T010000Z.dump";
    let listed =
        [(object, 5), ("prod/forgotten/20260101T010000Z.json", 1), ("prod/snapshots/20260101T010000Z.json", 1)];
    let history = history(&listed, vec![record("20260101T010000Z", &[("db", object, 5)])]);
    assert_eq!(history.snapshots[0].binned, Some(now()));
    assert!(history.forgotten.is_empty() && history.orphans.is_empty());
}

#[test]
fn a_partial_or_suspect_state_is_not_carried_over_and_is_second_choice() {
    let with = |condition| {
        let mut record = record("20260102T010000Z", &[("db", "prod/db/20260102T010000Z.dump", 5)]);
        record.sources.get_mut("db").unwrap().condition = Some(condition);
        let whole = self::record("20260101T010000Z", &[("db", "prod/db/20260101T010000Z.dump", 5)]);
        history(&[("prod/db/20260101T010000Z.dump", 5), ("prod/db/20260102T010000Z.dump", 5)], vec![whole, record])
    };
    for condition in [Condition::Partial, Condition::Suspect] {
        let history = with(condition);
        assert_eq!(history.snapshots[1].serves("db"), Serves::Doubtful);
        assert!(history.carried("db", now()).is_none() && !history.snapshots[1].complete);
        assert_eq!(history.last_whole("db", now()).unwrap().0.to_string(), "20260101T010000Z");
    }
    assert!(with(Condition::Whole).carried("db", now()).is_some());
}

#[test]
fn an_archive_of_version_1_with_unreadable_entries_is_partial_wherever_it_is_carried_over() {
    let object = ("docs", "prod/docs/20260101T010000Z.tar.gz", 5);
    let mut made = record("20260101T010000Z", &[object]);
    let mut carried = record("20260102T010000Z", &[object]);
    let problem =
        crate::record::ProblemRecord { path: "facture".into(), reason: "cannot be read: permission denied".into() };
    let archive: crate::record::ArchiveRecord = serde_json::from_value(serde_json::json!({
        "files": 1, "bytes": 1, "excluded_files": 0, "excluded_bytes": 0, "exclude": [], "excluded_folders": [],
        "excluded_folders_total": 0, "problems_total": 1, "problems": [problem], "index": null,
    }))
    .unwrap();
    made.sources.get_mut("docs").unwrap().archive = Some(archive);
    for record in [&mut made, &mut carried] {
        let source = record.sources.get_mut("docs").unwrap();
        source.condition = None;
        source.outcome =
            if record.id.to_string().starts_with("20260101") { Outcome::Saved } else { Outcome::Unchanged };
    }
    let history = history(&[("prod/docs/20260101T010000Z.tar.gz", 5)], vec![made, carried]);
    assert!(history.snapshots.iter().all(|snapshot| snapshot.serves("docs") == Serves::Doubtful));
}

#[test]
fn an_object_that_a_verification_found_damaged_is_not_carried_over() {
    let record = record("20260101T010000Z", &[("db", "prod/db/20260101T010000Z.dump", 5)]);
    let carried = |marks: &[(&str, u64)]| {
        let listed = [&[("prod/db/20260101T010000Z.dump", 5)], marks].concat();
        history(&listed, vec![record.clone()]).carried("db", now()).is_some()
    };
    let failed = ("prod/verified/20260101T010000Z-20260102T020000Z-read-failed.json", 1);
    assert!(!carried(&[failed]));
    assert!(carried(&[("prod/verified/20260101T010000Z-20260102T020000Z-read-passed.json", 1)]));
    let empty = ("prod/verified/20260101T010000Z-20260103T020000Z-deep-passed.json", 0);
    assert!(!carried(&[failed, empty]), "an empty file, as a full disk leaves it, proves nothing");
}

#[test]
fn a_run_gets_an_id_that_no_name_in_the_store_contains() {
    let listed = [
        ("prod/db/20260630T120000Z.dump", 5),
        ("prod/other/20260630T120001Z.index", 5),
        ("prod/forgotten/20260630T120002Z.json", 1),
        ("prod/environment/20260630T120003Z.json", 1),
    ];
    assert_eq!(history(&listed, vec![]).free_id(now()).to_string(), "20260630T120003Z");
}

#[test]
fn a_run_that_waited_gets_an_id_after_the_newest_snapshot() {
    let newest = |id: &str| history(&[], vec![record(id, &[])]).free_id(now()).to_string();
    assert_eq!(newest("20260630T120214Z"), "20260630T120215Z");
    assert_eq!(newest("20260630T115959Z"), SnapshotId::at(now()).to_string());
    // So far ahead that one of the two clocks was wrong: the run keeps its own time and records the doubt.
    assert_eq!(newest("20260701T120000Z"), SnapshotId::at(now()).to_string());
}

#[test]
fn an_object_stays_while_any_kept_snapshot_refers_to_it() {
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
fn a_record_that_cannot_be_read_blocks_every_deletion() {
    let listed = [("prod/db/20260101T010000Z.dump", 5), ("prod/forgotten/20260101T010000Z.json", 1)];
    let id: SnapshotId = "20260202T010000Z".parse().unwrap();
    let explained = [("prod/db/20260101T010000Z.dump", Explained::Forgotten { since: now() })];
    let damaged = vec![(id, Err(Error::unexpected("damaged")), "h".into())];
    let history = built(&listed, damaged, &explained, Announced::default());
    assert!(history.orphans.is_empty());
    assert!(history.unreferenced_without(&[id].into()).is_empty());
    assert!(history.subjects()[0].damaged);
}

#[test]
fn a_snapshot_from_the_future_is_neither_carried_nor_chained_to() {
    let past = record("20260101T010000Z", &[("db", "prod/db/20260101T010000Z.dump", 5)]);
    let future = record("20990101T010000Z", &[("db", "prod/db/20990101T010000Z.dump", 5)]);
    let listed = [("prod/db/20260101T010000Z.dump", 5), ("prod/db/20990101T010000Z.dump", 5)];
    let history = history(&listed, vec![past, future]);
    let now = "2026-06-30T00:00:00Z".parse().unwrap();
    assert_eq!(history.previous(now).unwrap().id.to_string(), "20260101T010000Z");
    assert!(history.carried("db", now).unwrap().1.key.as_str().contains("20260101"));
}
