//! Giving something up covers only that thing. If it returns and is lost again, or something else appears later,
//! `status` asks again.

use super::undone::{SHORT, is_green, nights};
use super::{Office, keep_last, listed};

#[test]
fn what_a_person_copies_into_the_store_later_is_not_what_was_let_age() {
    let office = Office::new(&["docs"], &keep_last(1, &format!("{SHORT}\nlegal_years = 0")));
    for stamp in ["20221231T220000Z", "20231231T220000Z", "20241231T220000Z"] {
        office.put(&format!("prod/docs/{stamp}.tar.gz"), b"an archive");
    }
    nights(&office, "2026-01", 1..=2, 0);
    let _ = office.verb(&["accept", "--adopted"], "2026-01-03T08:00:00Z", 0);
    office.put("prod/docs/20231230T220000Z.tar.gz", b"the good archive");
    nights(&office, "2026-01", 3..=12, 0);
    let there: Vec<String> = office.objects("docs").into_keys().filter(|key| key < &"2025".to_owned()).collect();
    assert_eq!(there, ["20231230T220000Z.tar.gz"]);
    let _ = office.verb(&["accept", "--adopted"], "2026-01-13T08:00:00Z", 0);
    nights(&office, "2026-01", 13..=16, 0);
    assert!(!office.objects("docs").contains_key("20231230T220000Z.tar.gz"), "the second answer must let it age too");
}

#[test]
fn a_record_that_is_known_to_be_edited_is_not_known_to_be_missing_nor_to_be_edited_again() {
    let office = Office::new(&["docs"], "");
    nights(&office, "2026-06", 1..=5, 0);
    let record = office.at("store/prod/snapshots/20260603T220000Z.json");
    let text = std::fs::read_to_string(&record).unwrap();
    let edit = |by: &str| std::fs::write(&record, text.clone() + by).unwrap();
    edit("\n");
    let _ = office.status("2026-06-06T08:00:00Z", 4);
    let _ = office.verb(&["accept", "--lost"], "2026-06-06T08:10:00Z", 0);
    let known = office.status("2026-06-06T08:20:00Z", 0);
    edit("\n\n");
    let status = office.status("2026-06-06T08:30:00Z", 4);
    assert!(status.to_string().contains("was edited or replaced"), "{known} {status}");
    edit("\n");
    let _ = office.status("2026-06-06T08:40:00Z", 0);
    std::fs::remove_file(&record).unwrap();
    let status = office.status("2026-06-06T09:00:00Z", 4);
    assert!(status.to_string().contains("is missing, although"), "{status}");
}

#[test]
fn an_object_that_came_back_and_is_lost_again_is_lost_anew() {
    let office = Office::new(&["docs"], "");
    nights(&office, "2026-06", 1..=5, 0);
    let archive = office.at("store/prod/docs/20260603T220000Z.tar.gz");
    let bytes = std::fs::read(&archive).unwrap();
    std::fs::remove_file(&archive).unwrap();
    let _ = office.verb(&["accept", "--lost"], "2026-06-06T08:00:00Z", 0);
    nights(&office, "2026-06", 6..=6, 0);
    office.is_green("2026-06-06T23:00:00Z");
    std::fs::write(&archive, bytes).unwrap();
    nights(&office, "2026-06", 7..=7, 0);
    std::fs::remove_file(&archive).unwrap();
    let status = office.status("2026-06-08T08:00:00Z", 4);
    assert!(status.to_string().contains("lost an object"), "{status}");
}

#[test]
fn the_command_that_is_named_for_one_loss_gives_up_no_other() {
    let office = Office::new(&["docs"], "");
    nights(&office, "2026-06", 1..=6, 0);
    let record = |day: u32| office.at(&format!("store/prod/snapshots/202606{day:02}T220000Z.json"));
    std::fs::remove_file(record(3)).unwrap();
    let edited = std::fs::read_to_string(record(4)).unwrap() + "\n";
    std::fs::write(record(4), edited).unwrap();
    // With objects left, this would be a snapshot that lost its record.
    for entry in std::fs::read_dir(office.at("store/prod/docs")).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.to_string_lossy().contains("20260603") {
            std::fs::remove_file(entry).unwrap();
        }
    }
    let answered = office.verb(&["accept", "--only", "disproved", "--lost"], "2026-06-07T07:00:00Z", 4);
    assert_eq!(answered["changes"].as_array().map(Vec::len), Some(0), "{answered}");
    let _ = office.verb(&["accept", "--only", "missing-record", "--lost"], "2026-06-07T08:00:00Z", 4);
    let status = office.status("2026-06-07T08:10:00Z", 4);
    assert!(status.to_string().contains("was edited or replaced"), "{status}");
    let _ = office.verb(&["accept", "--only", "changed-record", "--lost"], "2026-06-07T08:20:00Z", 0);
    let _ = office.status("2026-06-07T08:30:00Z", 0);
}

#[test]
fn a_certificate_that_was_emptied_is_missed_at_once() {
    let office = Office::new(&["docs"], &keep_last(2, SHORT));
    nights(&office, "2026-06", 1..=10, 0);
    is_green(&office, "2026-06-10T23:00:00Z");
    let folder = office.at("store/prod/forgotten");
    let mut names: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    std::fs::write(&names[2], "").unwrap();
    let _ = office.status("2026-06-10T23:10:00Z", 4);
    let night = office.worked("2026-06-11T22:00:00Z", 3);
    assert_eq!(listed(&night, "forgotten"), Vec::<String>::new(), "{night}");
    let _ = office.verb(&["accept", "--lost"], "2026-06-12T08:00:00Z", 0);
    nights(&office, "2026-06", 12..=13, 0);
    is_green(&office, "2026-06-13T23:00:00Z");
}

#[test]
fn a_verification_makes_nothing_overdue() {
    let office = Office::new(&["docs"], "");
    let _ = office.worked("2026-05-01T22:00:00Z", 0);
    let _ = office.verb(&["verify"], "2026-05-01T23:00:00Z", 0);
    nights(&office, "2026-05", 2..=31, 0);
    nights(&office, "2026-06", 1..=20, 0);
    is_green(&office, "2026-06-20T23:00:00Z");
    let _ = office.verb(&["verify", "--all"], "2026-06-20T23:10:00Z", 0);
    office.is_green("2026-06-20T23:20:00Z");
}

#[test]
fn a_record_that_is_put_back_after_it_was_given_up_serves_again() {
    let office = Office::new(&["docs"], &keep_last(6, SHORT));
    nights(&office, "2026-12", 28..=31, 0);
    nights(&office, "2027-01", 1..=2, 0);
    let record = office.at("store/prod/snapshots/20261231T220000Z.json");
    let good = std::fs::read(&record).unwrap();
    std::fs::write(&record, "").unwrap();
    let _ = office.verb(&["accept", "--lost"], "2027-01-03T08:00:00Z", 0);
    std::fs::write(&record, &good).unwrap();
    nights(&office, "2027-01", 3..=20, 0);
    assert_eq!(office.restored("docs", ["--at", "2026-12-31"], "2027-01-20T23:00:00Z"), "2026-12-31T22:00:00Z");
    std::fs::write(&record, "").unwrap();
    let status = office.status("2027-01-21T08:00:00Z", 4);
    assert!(status.to_string().contains("cannot be read"), "it is lost again: {status}");
}

#[test]
fn what_an_earlier_version_let_age_is_what_there_was_then() {
    let office = Office::new(&["docs"], &keep_last(1, &format!("{SHORT}\nlegal_years = 0")));
    office.put("prod/docs/20250101T010000Z.tar.gz", b"an archive");
    let _ = office.verb(&["init"], "2026-10-01T08:00:00Z", 0);
    let version = office.at("store/prod/environment").join(office.environment_files().first().unwrap());
    let text = std::fs::read_to_string(&version).unwrap();
    let marked = text.replacen("{", "{\n  \"adopted_age_up_to\": \"20250301T010000Z\",", 1);
    std::fs::write(&version, marked).unwrap();
    nights(&office, "2026-10", 1..=1, 0);
    office.put("prod/docs/20240610T010000Z.tar.gz", b"one that came later");
    nights(&office, "2026-10", 2..=8, 0);
    let there: Vec<String> = office.objects("docs").into_keys().filter(|key| key < &"2026".to_owned()).collect();
    assert_eq!(there, ["20240610T010000Z.tar.gz"]);
}
