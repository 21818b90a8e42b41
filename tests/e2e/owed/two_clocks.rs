//! Two clocks were in use for some time. Whatever the answers, the last state of each month and year by either clock is
//! kept.

use super::undone::{SHORT_GUARD, nights};
use super::{Office, commands};
use std::ops::RangeInclusive;

/// Nights of work under a wrong clock, at half past eleven in the evening in Paris.
fn wrong_nights(office: &Office, month: &str, days: RangeInclusive<u32>, code: i32) {
    for day in days {
        office.age_bin(2);
        let _ = office.worked(&format!("{month}-{day:02}T22:30:00Z"), code);
    }
}

/// Nights of work. After each one, somebody accepts whatever is asked.
fn answered_nights(office: &Office, month: &str, days: RangeInclusive<u32>, time: &str) {
    for day in days {
        office.age_bin(2);
        let now = format!("{month}-{day:02}T{time}:00Z");
        office.work(&now);
        if office.run(&["backup", "--env", "prod", "--now", &now]).code == Some(3) {
            let _ = office.verb(&["accept"], &now.replace(time, "23:00"), 0);
        }
    }
}

/// Two quiet months, after which everything that may be deleted has been deleted.
fn much_later(office: &Office) {
    nights(office, "2027-03", 1..=31, 0);
    nights(office, "2027-04", 1..=30, 0);
}

/// Asserts the content of a snapshot, whichever one `--at` selects.
fn holds(office: &Office, id: &str, content: &str) {
    let now = "2027-05-01T08:00:00Z";
    let ids = office.ids(now);
    assert!(ids.iter().any(|known| known == id), "{id} is gone: {ids:?}");
    assert_eq!(office.restored("docs", ["--snapshot", id], now), content);
}

/// The snapshots whose time `list` shows as doubted.
fn doubted(office: &Office, now: &str) -> Vec<String> {
    let listed = office.snapshots(now).into_iter().filter(|snapshot| snapshot["time_doubted"] == true);
    listed.map(|snapshot| snapshot["id"].as_str().unwrap().to_owned()).collect()
}

fn at_years_end(office: &Office) -> String {
    office.restored("docs", ["--at", "2026-12-31"], "2027-05-01T08:00:00Z")
}

/// The clock is a week ahead for ten nights, so some of their dates lie before the first night under the right clock.
fn ten_nights_a_week_ahead(office: &Office) {
    nights(office, "2026-12", 1..=16, 0);
    wrong_nights(office, "2026-12", 24..=31, 0);
    wrong_nights(office, "2027-01", 1..=2, 0);
    nights(office, "2026-12", 27..=31, 3);
}

#[test]
fn a_clock_that_was_ahead_for_more_nights_than_days_takes_no_year_end() {
    let office = Office::new(&["docs"], SHORT_GUARD);
    ten_nights_a_week_ahead(&office);
    nights(&office, "2027-01", 1..=31, 3);
    let answered = office.verb(&["accept"], "2027-02-01T08:00:00Z", 0)["changes"].to_string();
    assert!(answered.contains("the time of 7 snapshots (20261227T220000Z") && answered.contains("right"), "{answered}");
    nights(&office, "2027-02", 1..=28, 0);
    much_later(&office);
    holds(&office, "20261231T220000Z", "2026-12-31T22:00:00Z");
    assert_eq!(at_years_end(&office), "2026-12-31T22:00:00Z");
}

#[test]
fn an_answer_that_says_a_time_is_right_takes_back_that_it_was_doubted() {
    let office = Office::new(&["docs"], SHORT_GUARD);
    ten_nights_a_week_ahead(&office);
    nights(&office, "2027-01", 1..=4, 3);
    let _ = office.verb(&["accept"], "2027-01-05T08:00:00Z", 0);
    answered_nights(&office, "2027-01", 5..=31, "22:00");
    answered_nights(&office, "2027-02", 1..=28, "22:00");
    much_later(&office);
    holds(&office, "20261231T220000Z", "2026-12-31T22:00:00Z");
    assert_eq!(at_years_end(&office), "2026-12-31T22:00:00Z");
}

#[test]
fn both_sides_stand_where_an_office_closed_after_the_clock_was_set_right() {
    let office = Office::new(&["docs"], SHORT_GUARD);
    nights(&office, "2026-12", 1..=19, 0);
    wrong_nights(&office, "2026-12", 23..=31, 0);
    wrong_nights(&office, "2027-01", 1..=1, 0);
    nights(&office, "2026-12", 30..=30, 3);
    nights(&office, "2027-01", 7..=31, 3);
    let _ = office.verb(&["accept"], "2027-02-01T08:00:00Z", 0);
    nights(&office, "2027-02", 1..=28, 0);
    much_later(&office);
    holds(&office, "20261230T220000Z", "2026-12-30T22:00:00Z");
    holds(&office, "20261231T223000Z", "2026-12-31T22:30:00Z");
}

#[test]
fn a_third_clock_takes_no_year_end() {
    for right in [&["accept", "--right-time", "20261214T220000Z"][..], &["accept"]] {
        let office = Office::new(&["docs"], SHORT_GUARD);
        nights(&office, "2026-12", 1..=10, 0);
        wrong_nights(&office, "2027-01", 20..=20, 0);
        wrong_nights(&office, "2026-12", 31..=31, 3);
        nights(&office, "2026-12", 13..=31, 3);
        nights(&office, "2027-01", 1..=1, 3);
        let _ = office.verb(right, "2027-01-02T08:00:00Z", 0);
        nights(&office, "2027-01", 2..=20, 0);
        answered_nights(&office, "2027-01", 21..=31, "22:00");
        answered_nights(&office, "2027-02", 1..=28, "22:00");
        much_later(&office);
        holds(&office, "20261231T220000Z", "2026-12-31T22:00:00Z");
        assert_eq!(at_years_end(&office), "2026-12-31T22:00:00Z", "{right:?}");
    }
}

/// One night is missed. Later the clock falls back to that night and goes on from there.
#[test]
fn a_clock_that_fell_to_a_missed_night_takes_no_month() {
    let office = Office::new(&["docs"], SHORT_GUARD);
    nights(&office, "2027-01", 1..=19, 0);
    nights(&office, "2027-01", 21..=31, 0);
    nights(&office, "2027-02", 1..=1, 0);
    wrong_nights(&office, "2027-01", 20..=31, 3);
    wrong_nights(&office, "2027-02", 1..=5, 3);
    let _ = office.verb(&["accept"], "2027-02-05T23:00:00Z", 0);
    wrong_nights(&office, "2027-02", 6..=28, 0);
    much_later(&office);
    holds(&office, "20270131T220000Z", "2027-01-31T22:00:00Z");
    let month = office.restored("docs", ["--at", "2027-01-31"], "2027-05-01T08:00:00Z");
    assert_eq!(month, "2027-01-31T22:00:00Z");
}

#[test]
fn an_answer_under_a_clock_that_fell_back_costs_no_month() {
    let office = Office::new(&["docs"], SHORT_GUARD);
    nights(&office, "2027-01", 1..=31, 0);
    nights(&office, "2027-02", 1..=1, 0);
    wrong_nights(&office, "2027-01", 20..=20, 3);
    let _ = office.verb(&["accept"], "2027-01-20T23:00:00Z", 0);
    answered_nights(&office, "2027-01", 21..=31, "22:30");
    answered_nights(&office, "2027-02", 1..=28, "22:30");
    much_later(&office);
    holds(&office, "20270131T220000Z", "2027-01-31T22:00:00Z");
}

/// A run after a long closure reports that a clock may have jumped. That does not put its own time in doubt.
#[test]
fn nights_after_a_closure_are_not_retired_under_a_clock_that_fell_back() {
    let office = Office::new(&["docs"], SHORT_GUARD);
    nights(&office, "2026-12", 1..=10, 0);
    nights(&office, "2027-01", 27..=31, 3);
    nights(&office, "2027-02", 1..=3, 3);
    wrong_nights(&office, "2027-01", 13..=13, 3);
    let _ = office.verb(&["accept"], "2027-01-13T23:00:00Z", 0);
    wrong_nights(&office, "2027-01", 14..=25, 0);
    // The clock is right again.
    nights(&office, "2027-02", 17..=18, 3);
    let _ = office.verb(&["accept"], "2027-02-18T23:00:00Z", 0);
    nights(&office, "2027-02", 19..=28, 0);
    much_later(&office);
    holds(&office, "20270131T220000Z", "2027-01-31T22:00:00Z");
}

/// The clock is five days behind for twelve nights. The last seven of them find no snapshot that is ahead of them any
/// more.
#[test]
fn what_follows_a_clock_that_fell_back_without_a_hole_says_so() {
    let office = Office::new(&["docs"], SHORT_GUARD);
    nights(&office, "2026-12", 1..=28, 0);
    answered_nights(&office, "2026-12", 24..=31, "22:30");
    answered_nights(&office, "2027-01", 1..=4, "22:30");
    answered_nights(&office, "2027-01", 10..=20, "22:00");
    let says = |at: &str| office.restored_saying("docs", &["--at", at], "2027-01-21T08:00:00Z").1;
    let wrong = says("2026-12-31");
    assert!(
        wrong.contains("20261231T223000Z directly follows 2026122") && wrong.contains("whose time is in doubt"),
        "{wrong}"
    );
    let right = says("2027-01-15");
    assert!(!right.contains("directly follows"), "{right}");
}

/// The clock was ahead on the very first two nights, so that no earlier snapshot shows a gap before them.
#[test]
fn no_run_overturns_what_a_person_said_of_two_clocks() {
    let office = Office::new(&["docs"], SHORT_GUARD);
    wrong_nights(&office, "2027-03", 1..=2, 0);
    nights(&office, "2027-01", 22..=31, 3);
    nights(&office, "2027-02", 1..=26, 3);
    let _ =
        office.run(&["accept", "--env", "prod", "--right-time", "20270122T220000Z", "--now", "2027-02-26T23:00:00Z"]);
    answered_nights(&office, "2027-02", 27..=28, "22:00");
    answered_nights(&office, "2027-03", 1..=10, "22:00");
    assert_eq!(doubted(&office, "2027-03-11T08:00:00Z"), ["20270302T223000Z", "20270301T223000Z"]);
}

/// Snapshots that were ahead of a clock that fell back are asked about once, even if most of them are gone.
#[test]
fn a_clock_that_fell_back_and_was_answered_for_is_not_asked_about_again() {
    let office = Office::new(&["docs"], SHORT_GUARD);
    nights(&office, "2026-12", 1..=28, 0);
    answered_nights(&office, "2026-12", 24..=31, "22:30");
    answered_nights(&office, "2027-01", 1..=4, "22:30");
    answered_nights(&office, "2027-01", 10..=12, "22:00");
    nights(&office, "2027-01", 13..=31, 0);
    nights(&office, "2027-02", 1..=28, 0);
    much_later(&office);
}

/// The clock's battery is dead: one run has the year 2000.
#[test]
fn a_clock_of_the_year_2000_puts_nothing_else_in_doubt() {
    let office = Office::new(&["docs"], SHORT_GUARD);
    nights(&office, "2027-02", 1..=20, 0);
    let _ = office.worked("2000-01-01T00:05:00Z", 3);
    nights(&office, "2027-02", 21..=21, 3);
    let status = office.status("2027-02-22T08:00:00Z", 4).to_string();
    assert!(status.contains("20000101T000500Z") && !status.contains("20 snapshots"), "{status}");
    let _ = office.verb(&["accept"], "2027-02-22T08:10:00Z", 0);
    assert_eq!(doubted(&office, "2027-02-22T08:20:00Z"), ["20000101T000500Z"]);
    nights(&office, "2027-02", 22..=28, 0);
}

#[test]
fn a_snapshot_whose_time_a_person_called_right_is_not_asked_about_again() {
    let office = Office::new(&["docs"], SHORT_GUARD);
    nights(&office, "2027-01", 1..=9, 0);
    nights(&office, "2027-02", 9..=11, 0);
    // The clock falls back for a night.
    wrong_nights(&office, "2027-01", 12..=12, 3);
    let _ = office.verb(&["accept", "--right-time", "20270210T220000Z"], "2027-01-13T08:00:00Z", 4);
    let _ = office.verb(&["accept"], "2027-01-13T08:10:00Z", 0);
    nights(&office, "2027-02", 12..=12, 0);
    let doubted = |id: &str| office.is_doubted(id, "2027-02-13T08:00:00Z");
    assert!(!doubted("20270210T220000Z") && doubted("20270112T223000Z"));
    nights(&office, "2027-02", 13..=28, 0);
}

#[test]
fn nights_are_not_doubted_for_a_snapshot_that_somebody_took_away() {
    let office = Office::new(&["docs"], SHORT_GUARD);
    nights(&office, "2027-02", 1..=9, 0);
    wrong_nights(&office, "2027-03", 20..=20, 0);
    nights(&office, "2027-02", 10..=11, 3);
    for of in ["snapshots/20270320T223000Z.json", "docs/20270320T223000Z.tar.gz", "docs/20270320T223000Z.index"] {
        std::fs::remove_file(office.at("store/prod").join(of)).unwrap();
    }
    nights(&office, "2027-02", 12..=14, 3);
    let _ = office.verb(&["accept", "--lost"], "2027-02-15T08:00:00Z", 4);
    let _ = office.verb(&["accept"], "2027-02-15T08:10:00Z", 0);
    let doubted = doubted(&office, "2027-02-15T08:20:00Z");
    assert!(!doubted.iter().any(|id| id.as_str() >= "20270212"), "{doubted:?}");
    nights(&office, "2027-02", 15..=16, 0);
}

#[test]
fn each_question_about_a_time_has_a_name_of_its_own() {
    let office = Office::new(&["docs"], SHORT_GUARD);
    nights(&office, "2027-01", 1..=9, 0);
    wrong_nights(&office, "2027-01", 20..=20, 0);
    nights(&office, "2027-01", 12..=14, 3);
    let _ = office.worked("2027-03-20T22:00:00Z", 3);
    let status = office.status("2027-03-21T08:00:00Z", 4);
    let named = ["accept --env prod --only clock", "accept --env prod --only clocks"];
    assert_eq!(commands(&status, "clock"), named, "{status}");
    let answered = office.verb(&["accept", "--only", "clock"], "2027-03-21T08:10:00Z", 4);
    assert!(!answered["changes"].to_string().contains("20270120T223000Z"), "{answered}");
}

#[test]
fn a_word_against_a_clock_stands_after_the_other_side_was_forgotten() {
    let office = Office::new(&["docs"], SHORT_GUARD);
    nights(&office, "2027-01", 1..=9, 0);
    wrong_nights(&office, "2027-01", 31..=31, 0);
    nights(&office, "2027-01", 12..=12, 3);
    let _ = office.verb(&["accept", "--right-time", "20270112T220000Z"], "2027-01-13T08:00:00Z", 0);
    nights(&office, "2027-01", 13..=30, 0);
    nights(&office, "2027-02", 2..=28, 0);
    much_later(&office);
    let taken = || office.restored("docs", ["--at", "2027-01-31"], "2027-05-01T08:00:00Z");
    assert_eq!(taken(), "2027-01-30T22:00:00Z");
    let text = std::fs::read_to_string(office.at("dolibarr-backup.toml")).unwrap();
    std::fs::write(office.at("dolibarr-backup.toml"), text.replace("bin_days = 1", "bin_days = 1\nmax_forget = 60"))
        .unwrap();
    let _ = office.verb(&["accept"], "2027-05-01T08:10:00Z", 0);
    assert_eq!(taken(), "2027-01-30T22:00:00Z");
}

#[test]
fn a_run_of_a_doubted_time_takes_no_rule() {
    let office = Office::new(&["docs"], SHORT_GUARD);
    nights(&office, "2027-02", 2..=9, 0);
    let before = office.environment_files();
    let text = std::fs::read_to_string(office.at("dolibarr-backup.toml")).unwrap();
    std::fs::write(office.at("dolibarr-backup.toml"), text.replace("bin_days = 1", "bin_days = 9")).unwrap();
    let _ = office.worked("2027-02-03T12:00:00Z", 3);
    assert_eq!(office.environment_files(), before);
}
