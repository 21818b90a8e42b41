//! The findings of verifications and their consequences.

use super::{Office, commands, problems};

fn mark(office: &Office, snapshot: &str, at: &str, verdict: &str) {
    office.put(&format!("prod/verified/{snapshot}-{at}-{verdict}.json"), b"{}");
}

/// Flips one bit in the middle of an object.
fn damage(office: &Office, key: &str) {
    let path = office.at("store").join(key);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_deep_verification_that_failed_is_not_hidden_by_a_later_read_that_passed() {
    let office = Office::new(&["docs"], "");
    let _ = office.worked("2026-06-01T01:00:00Z", 0);
    mark(&office, "20260601T010000Z", "20260601T020000Z", "deep-failed");
    let _ = office.verb(&["verify"], "2026-06-01T03:00:00Z", 0);
    let status = office.status("2026-06-01T04:00:00Z", 4);
    assert_eq!(problems(&status), [("disproved", None)], "{status}");
    assert_eq!(office.snapshots("2026-06-01T04:00:00Z")[0]["disproved"], true);
    mark(&office, "20260601T010000Z", "20260601T050000Z", "deep-passed");
    office.is_green("2026-06-01T06:00:00Z");
}

#[test]
fn of_two_verifications_in_one_second_the_one_that_failed_counts() {
    let office = Office::new(&["docs"], "");
    let _ = office.worked("2026-06-01T01:00:00Z", 0);
    for verdict in ["read-failed", "read-passed"] {
        mark(&office, "20260601T010000Z", "20260601T020000Z", verdict);
    }
    assert_eq!(problems(&office.status("2026-06-01T03:00:00Z", 4)), [("disproved", None)]);
    mark(&office, "20260601T010000Z", "20260601T020001Z", "read-passed");
    office.is_green("2026-06-01T03:00:00Z");
}

#[test]
fn a_verification_of_2036_proves_nothing() {
    let office = Office::new(&["docs"], "");
    let _ = office.worked("2026-06-01T01:00:00Z", 0);
    let _ = office.worked("2026-07-10T01:00:00Z", 0);
    mark(&office, "20260601T010000Z", "20360101T000000Z", "deep-passed");
    let now = "2026-07-10T02:00:00Z";
    let status = office.status(now, 4);
    assert_eq!(problems(&status), [("unverified", None)], "{status}");
    assert!(office.snapshots(now).iter().all(|snapshot| snapshot["verified"] == false));
    mark(&office, "20260710T010000Z", "20260710T013000Z", "read-failed");
    mark(&office, "20260710T010000Z", "20360101T000000Z", "read-passed");
    assert!(problems(&office.status(now, 4)).contains(&("disproved", None)), "it must not undo a failure");
    let _ = office.verb(&["verify"], "2026-07-10T03:00:00Z", 0);
    office.is_green("2026-07-10T04:00:00Z");
}

#[test]
fn what_is_proven_damaged_is_saved_anew_by_the_next_run_and_given_up_by_a_person() {
    let office = Office::new(&["docs"], "");
    let _ = office.worked("2026-06-01T01:00:00Z", 0);
    let carried = office.backup("2026-06-02T01:00:00Z", 0);
    assert_eq!(carried["snapshot"]["sources"]["docs"]["outcome"], "unchanged");
    damage(&office, "prod/docs/20260601T010000Z.tar.gz");
    let _ = office.verb(&["verify"], "2026-06-02T02:00:00Z", 4);
    assert_eq!(problems(&office.status("2026-06-02T03:00:00Z", 4)), [("disproved", None)]);

    let anew = office.run(&["--json", "backup", "--env", "prod", "--now", "2026-06-03T01:00:00Z"]).json();
    assert_eq!(anew["snapshot"]["sources"]["docs"]["outcome"], "saved", "a damaged object was carried over: {anew}");
    assert_eq!(anew["snapshot"]["sources"]["docs"]["object"]["key"], "prod/docs/20260603T010000Z.tar.gz");
    assert_eq!(
        office.restored("docs", ["--snapshot", "20260603T010000Z"], "2026-06-03T02:00:00Z"),
        "2026-06-01T01:00:00Z"
    );
    let status = office.status("2026-06-03T02:00:00Z", 4);
    assert_eq!(commands(&status, "disproved"), ["accept --env prod --only disproved --lost"], "{status}");
    let _ = office.verb(&["accept", "--only", "disproved", "--lost"], "2026-06-03T03:00:00Z", 0);
    office.is_green("2026-06-03T04:00:00Z");
    let next = office.worked("2026-06-04T01:00:00Z", 0);
    assert_eq!(next["retention"]["state"], "applied", "{next}");
    office.is_green("2026-06-04T02:00:00Z");
}

#[test]
fn verifying_all_of_a_store_with_an_incomplete_snapshot_leaves_status_as_it_was() {
    let office = Office::new(&["docs", "mail"], "");
    let _ = office.worked("2026-06-01T01:00:00Z", 0);
    office.hide("mail");
    let _ = office.worked("2026-06-02T01:00:00Z", 64);
    office.show("mail");
    let _ = office.worked("2026-06-03T01:00:00Z", 0);
    office.is_green("2026-06-03T02:00:00Z");
    let all = office.verb(&["verify", "--all"], "2026-06-03T03:00:00Z", 0);
    assert_eq!(all["passed"], true, "{all}");
    office.is_green("2026-06-03T04:00:00Z");
    let listed = office.snapshots("2026-06-03T04:00:00Z");
    assert!(listed.iter().all(|snapshot| snapshot["disproved"] == false), "{listed:?}");
}

#[test]
fn what_was_given_up_in_a_snapshot_does_not_hide_what_breaks_in_it_later() {
    let office = Office::new(&["docs", "other"], "");
    let _ = office.worked("2026-06-01T01:00:00Z", 0);
    for entry in std::fs::read_dir(office.at("store/prod/docs")).unwrap() {
        let path = entry.unwrap().path();
        if path.to_string_lossy().ends_with("index") {
            std::fs::remove_file(path).unwrap();
        }
    }
    let _ = office.verb(&["verify"], "2026-06-01T02:00:00Z", 4);
    let _ = office.verb(&["accept", "--lost"], "2026-06-01T03:00:00Z", 0);
    let _ = office.verb(&["verify"], "2026-06-01T04:00:00Z", 0);
    office.is_green("2026-06-01T05:00:00Z");
    damage(&office, "prod/other/20260601T010000Z.tar.gz");
    let _ = office.verb(&["verify"], "2026-06-01T06:00:00Z", 4);
    assert!(problems(&office.status("2026-06-01T07:00:00Z", 4)).contains(&("disproved", None)));
    let _ = office.verb(&["accept", "--lost"], "2026-06-01T08:00:00Z", 0);
    let _ = office.verb(&["verify"], "2026-06-01T09:00:00Z", 0);
    office.is_green("2026-06-01T10:00:00Z");
}

#[test]
fn a_deep_verification_restores_a_source_that_the_configuration_leaves_out() {
    let office = Office::new(&["docs", "other"], "");
    let _ = office.worked("2026-06-01T01:00:00Z", 0);
    office.configure(&[("docs", "docs")], "");
    let verified = office.verb(&["verify", "--deep"], "2026-06-01T02:00:00Z", 0);
    let other = &verified["verifications"][0]["sources"]["other"];
    assert!(other["holds"].as_str().is_some_and(|holds| holds.starts_with("3 files")), "{verified}");
}

#[test]
fn a_restore_of_a_day_passes_over_what_was_proven_damaged_and_says_so() {
    let office = Office::new(&["docs"], "");
    for day in 1..=3 {
        let _ = office.worked(&format!("2026-06-0{day}T01:00:00Z"), 0);
    }
    damage(&office, "prod/docs/20260602T010000Z.tar.gz");
    let _ = office.verb(&["verify", "--all"], "2026-06-03T02:00:00Z", 4);
    let into = office.at("restored");
    let restore = ["restore", "--env", "prod", "--source", "docs", "--at", "2026-06-02", "--into"];
    let all = [&restore[..], &[into.to_str().unwrap(), "--now", "2026-06-03T03:00:00Z"]].concat();
    let said = office.run(&all).expect_code(0).stderr;
    assert!(said.contains("skipping 20260602T010000Z because its verification failed"), "{said}");
    assert_eq!(std::fs::read_to_string(into.join("a")).unwrap(), "2026-06-01T01:00:00Z");
}

#[test]
fn a_dump_that_was_fingerprinted_under_another_key_is_restored_and_not_called_another_one() {
    let Some(scene) = crate::scene::Scene::small() else { return };
    let before = scene.backup(&["--now", "2026-06-01T01:00:00Z"]);
    std::fs::remove_dir_all(scene.store.join("prod/environment")).unwrap();
    let again = ["init", "--env", "prod", "--now", "2026-06-01T02:00:00Z"];
    let _ = scene.run(again).expect_code(0);
    let deep = ["--json", "verify", "--env", "prod", "--deep", "--now", "2026-06-01T03:00:00Z"];
    let verified = scene.run(deep).expect_code(0).json();
    let db = &verified["verifications"][0]["sources"]["db"];
    assert_eq!(db["compared"], "unknown", "{verified}");
    assert!(db["comparison"].as_str().unwrap().contains("sealed with a key"), "{verified}");
    let after = scene.backup(&["--now", "2026-06-02T01:00:00Z"]);
    let made = |run: &serde_json::Value| run["snapshot"]["sources"]["db"]["object"]["key"].clone();
    assert_ne!(made(&before), made(&after), "it must be saved again, because nothing shows that it is unchanged");
}
