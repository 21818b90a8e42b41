//! Questions that are not answered in time, answered in part, or answered while something is out of reach stay open.

use super::undone::{SHORT, SHORT_GUARD, empty, nights};
use super::{Office, keep_last};
use serde_json::Value;
use std::ops::RangeInclusive;

/// Nights of work in several months, each as `2026-12` and its days.
fn months(office: &Office, months: &[(&str, RangeInclusive<u32>)]) {
    for (month, days) in months {
        for day in days.clone() {
            office.age_bin(2);
            let _ = office.worked(&format!("{month}-{day:02}T22:00:00Z"), 0);
        }
    }
}

fn changes(answered: &Value) -> String {
    answered["changes"].to_string()
}

/// A run under a clock that was eleven days ahead, and nights until its time has come.
fn ahead_until_the_years_end(office: &Office) {
    nights(office, "2026-12", 16..=19, 0);
    let _ = office.worked("2026-12-31T22:30:00Z", 0);
    nights(office, "2026-12", 21..=31, 3);
}

/// Asserts that weeks later the year's end is still the true state of its last day.
fn year_end_is_true(office: &Office) {
    months(office, &[("2027-01", 2..=28), ("2027-02", 1..=20)]);
    assert_eq!(office.restored("docs", ["--at", "2026-12-31"], "2027-02-21T08:00:00Z"), "2026-12-31T22:00:00Z");
}

#[test]
fn a_clock_that_nobody_answered_for_in_time_does_not_answer_for_the_year() {
    let office = Office::new(&["docs"], SHORT_GUARD);
    ahead_until_the_years_end(&office);
    let _ = office.worked("2027-01-01T22:00:00Z", 3);
    let status = office.status("2027-01-02T08:00:00Z", 4);
    assert!(status.to_string().contains("was in the future of later runs"), "{status}");
    let answered = changes(&office.verb(&["accept"], "2027-01-02T08:10:00Z", 0));
    assert!(answered.contains("the time of 11 snapshots") && answered.contains("is right"), "{answered}");
    assert!(office.is_doubted("20261231T223000Z", "2027-01-02T08:20:00Z"), "{answered}");
    year_end_is_true(&office);
}

#[test]
fn an_answer_to_one_half_of_the_question_about_a_clock_leaves_the_other_half() {
    let office = Office::new(&["docs"], SHORT_GUARD);
    ahead_until_the_years_end(&office);
    // The answer says that the later runs are right. The question about the snapshot that is ahead stays open until its
    // time comes.
    let _ = office.verb(&["accept", "--only", "clock"], "2026-12-31T22:05:00Z", 4);
    let _ = office.worked("2027-01-01T22:00:00Z", 3);
    let _ = office.verb(&["accept"], "2027-01-02T08:00:00Z", 0);
    assert!(office.is_doubted("20261231T223000Z", "2027-01-02T08:20:00Z"));
    year_end_is_true(&office);
}

#[test]
fn one_snapshot_names_all_of_its_clock_before_the_time_of_the_others_has_come_too() {
    let office = Office::new(&["docs"], "");
    nights(&office, "2026-06", 1..=4, 0);
    for day in 10..=12 {
        let _ = office.worked(&format!("2026-07-{day}T22:00:00Z"), 0);
    }
    nights(&office, "2026-06", 8..=10, 3);
    let right = ["accept", "--right-time", "20260608T220000Z"];
    let decided = changes(&office.verb(&right, "2026-06-11T08:00:00Z", 0));
    assert!(decided.contains("the time of 3 snapshots") && decided.contains("3 snapshots (20260710"), "{decided}");
    nights(&office, "2026-06", 11..=12, 0);
    // The opposite answer changes both sides too.
    let other = ["accept", "--right-time", "20260711T220000Z"];
    let decided = changes(&office.verb(&other, "2026-06-13T08:00:00Z", 0));
    assert!(decided.contains("(20260608T220000Z") && decided.contains("the time is wrong"), "{decided}");
    let status = office.status("2026-06-13T08:10:00Z", 4);
    assert!(status.to_string().contains("3 snapshots are from the future"), "{status}");
}

/// The clock jumps ahead twice, the second time less far. The snapshot of the second jump, which an answer calls wrong,
/// is then among the runs that found the first one.
#[test]
fn what_one_answer_called_wrong_stays_wrong_beside_a_third_clock() {
    for answer in [["--right-time", "20270114T220000Z"], ["--withdraw", "20270115T230000Z"]] {
        let office = Office::new(&["docs"], SHORT_GUARD);
        nights(&office, "2026-12", 16..=19, 0);
        for (ahead, day) in [("2027-01-15T23:00:00Z", 21), ("2026-12-31T22:30:00Z", 24)] {
            let _ = office.worked(ahead, 0);
            nights(&office, "2026-12", day..=day, 3);
            let _ = office.verb(&["accept"], &format!("2026-12-{day}T23:00:00Z"), 0);
            nights(&office, "2026-12", day + 1..=day + 1, 0);
        }
        months(&office, &[("2026-12", 26..=31)]);
        nights(&office, "2027-01", 1..=1, 3);
        let _ = office.verb(&["accept"], "2027-01-01T23:00:00Z", 0);
        nights(&office, "2027-01", 2..=15, 0);
        nights(&office, "2027-01", 16..=16, 3);
        let _ = office.verb(&["accept"], "2027-01-16T23:00:00Z", 0);
        let _ = office.run(&["accept", "--env", "prod", answer[0], answer[1], "--now", "2027-01-17T08:00:00Z"]);
        assert!(office.is_doubted("20261231T223000Z", "2027-01-17T08:10:00Z"), "{answer:?}");
        assert!(!office.is_doubted("20261231T220000Z", "2027-01-17T08:10:00Z"), "{answer:?}");
    }
}

#[test]
fn what_is_from_the_future_is_not_taken_for_the_newest() {
    let office = Office::new(&["docs"], "");
    nights(&office, "2026-06", 2..=5, 0);
    let adopted = office.at("store/prod/docs");
    std::fs::copy(adopted.join("20260602T220000Z.tar.gz"), adopted.join("20301231T220000Z.tar.gz")).unwrap();
    nights(&office, "2026-06", 6..=6, 0);
    let newest = |now: &str| office.restored_saying("docs", &[], now);
    let (content, said) = newest("2026-06-07T08:00:00Z");
    assert_eq!(content, "2026-06-06T22:00:00Z");
    assert!(said.contains("skipping 20301231T220000Z because it is dated in the future"), "{said}");
    // One night under a clock that is ahead. Nobody answers the question about it.
    let _ = office.worked("2026-08-06T22:00:00Z", 3);
    nights(&office, "2026-06", 8..=12, 3);
    assert_eq!(newest("2026-06-13T08:00:00Z").0, "2026-06-12T22:00:00Z");
    let verified = office.verb(&["verify"], "2026-06-13T08:00:00Z", 0);
    assert!(verified.to_string().contains("20260612T220000Z"), "{verified}");
}

#[test]
fn what_is_kept_of_the_future_freezes_nothing_and_serves_nothing_before_its_time() {
    let office = Office::new(&["docs"], "");
    nights(&office, "2026-06", 2..=5, 0);
    let _ = office.worked("2026-07-06T22:00:00Z", 0);
    nights(&office, "2026-06", 6..=6, 3);
    let _ = office.verb(&["accept"], "2026-06-07T08:00:00Z", 0);
    let _ = office.verb(&["unforget", "20260706T220000Z"], "2026-06-07T08:10:00Z", 0);
    nights(&office, "2026-06", 7..=8, 0);
    assert_eq!(office.restored("docs", ["--at", "2026-06-09"], "2026-06-09T08:00:00Z"), "2026-06-08T22:00:00Z");
}

/// The mount is missing for a night. Then somebody deletes most of the documents.
#[test]
fn an_answer_about_the_newest_state_accepts_no_earlier_night_that_had_lost_far_more() {
    let office = Office::new(&["docs"], SHORT_GUARD);
    for file in 0..30 {
        office.write("docs", &format!("f{file}"), "a document");
    }
    nights(&office, "2026-12", 25..=30, 0);
    empty(&office);
    let _ = office.backup("2026-12-31T22:00:00Z", 3);
    office.show("docs");
    for file in 10..30 {
        std::fs::remove_file(office.documents("docs").join(format!("f{file}"))).unwrap();
    }
    nights(&office, "2027-01", 1..=1, 3);
    let answered = changes(&office.verb(&["accept"], "2027-01-02T08:00:00Z", 0));
    assert!(answered.contains("stays suspect in 1 snapshot (20261231T220000Z)"), "{answered}");
    months(&office, &[("2027-01", 2..=28), ("2027-02", 1..=10)]);
    assert_eq!(office.restored("docs", ["--at", "2026-12-31"], "2027-02-11T08:00:00Z"), "2026-12-30T22:00:00Z");
}

#[test]
fn what_was_answered_of_a_record_stands_while_it_is_out_of_reach() {
    let office = Office::new(&["docs"], &keep_last(3, &format!("{SHORT}\nlegal_years = 0")));
    nights(&office, "2026-06", 1..=3, 0);
    let _ = office.verb(&["unforget", "20260601T220000Z"], "2026-06-04T08:00:00Z", 0);
    let record = office.at("store/prod/snapshots/20260601T220000Z.json");
    std::fs::rename(&record, office.at("away")).unwrap();
    let _ = office.verb(&["accept", "--lost"], "2026-06-04T09:00:00Z", 0);
    std::fs::rename(office.at("away"), &record).unwrap();
    nights(&office, "2026-06", 4..=12, 0);
    assert!(record.is_file(), "a person keeps this snapshot, so its record must stay");
}

#[test]
fn a_version_of_the_environments_file_that_is_gone_is_asked_about_before_anything_else_is_written() {
    let office = Office::new(&["docs"], &keep_last(3, &format!("{SHORT}\nlegal_years = 0")));
    office.put("prod/docs/20200101T000000Z.tar.gz", b"an archive");
    nights(&office, "2026-06", 1..=3, 0);
    let _ = office.verb(&["unforget", "20260601T220000Z"], "2026-06-04T08:00:00Z", 0);
    nights(&office, "2026-06", 4..=4, 0);
    let folder = office.at("store/prod/environment");
    let newest = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
    std::fs::remove_file(newest).unwrap();
    for verb in [&["accept", "--adopted"][..], &["unforget", "20260602T220000Z"]] {
        let arguments = [verb, &["--env", "prod", "--now", "2026-06-06T08:00:00Z"]].concat();
        let refused = office.run(&arguments).expect_code(64);
        assert!(refused.stderr.contains("accept --env prod --only other-file"), "{verb:?}: {}", refused.stderr);
    }
    let status = office.status("2026-06-06T08:10:00Z", 4);
    assert!(status.to_string().contains("is gone"), "{status}");
    let _ = office.verb(&["accept", "--only", "other-file"], "2026-06-06T08:20:00Z", 0);
    let _ = office.verb(&["accept", "--adopted"], "2026-06-06T08:30:00Z", 0);
}

#[test]
fn a_restore_under_a_clock_that_is_ahead_lets_no_collapse_pass() {
    let office = Office::new(&["docs"], SHORT_GUARD);
    nights(&office, "2026-12", 16..=19, 0);
    let folder = office.documents("docs");
    std::fs::remove_dir_all(&folder).unwrap();
    let into = folder.to_str().unwrap();
    let restore = ["restore", "--same-environment", "--env", "prod", "--source", "docs", "--into", into];
    let _ = office.run(&[&restore[..], &["--now", "2026-12-31T08:00:00Z"]].concat()).expect_code(0);
    let _ = office.worked("2026-12-20T22:00:00Z", 3);
    let _ = office.verb(&["accept"], "2026-12-20T23:00:00Z", 0);
    nights(&office, "2026-12", 21..=30, 0);
    empty(&office);
    let night = office.backup("2026-12-31T22:00:00Z", 3);
    assert_eq!(night["snapshot"]["sources"]["docs"]["condition"], "suspect", "{night}");
}

#[test]
fn retiring_one_source_says_nothing_of_the_kind_of_another_one() {
    let office = Office::new(&["docs", "mail"], "");
    nights(&office, "2026-06", 1..=2, 0);
    office.configure(&[], "[env.prod.sources.docs]\nkind = \"postgres\"\nhost = \"/nowhere\"\ndatabase = \"erp\"\ncredentials = { user = \"erp\" }\n");
    let retired = office.verb(&["accept", "--retire", "mail"], "2026-06-03T08:00:00Z", 4);
    assert!(!changes(&retired).contains("docs") && retired["still_waiting"].to_string().contains("kind"), "{retired}");
}
