//! An administrator answers in several steps, notices a mistake and corrects it. Each command changes only what it
//! names, and the right states exist afterwards.

use super::undone::{SHORT, SHORT_GUARD, empty, is_green, nights};
use super::{Office, commands, keep_last, listed};

/// Nights in which nobody worked.
fn idle(office: &Office, year_and_month: &str, days: std::ops::RangeInclusive<u32>, code: i32) {
    for day in days {
        office.age_bin(2);
        let _ = office.backup(&format!("{year_and_month}-{day:02}T22:00:00Z"), code);
    }
}

#[test]
fn two_mistakes_of_one_source_are_taken_back_at_once() {
    let office = Office::new(&["docs"], &keep_last(8, SHORT));
    nights(&office, "2026-12", 20..=24, 0);
    for mistaken in [25, 31] {
        empty(&office);
        idle(&office, "2026-12", mistaken..=mistaken, 3);
        let _ = office.verb(&["accept"], &format!("2026-12-{mistaken}T23:00:00Z"), 0);
        office.show("docs");
        if mistaken == 25 {
            nights(&office, "2026-12", 26..=30, 0);
        }
    }
    nights(&office, "2027-01", 1..=1, 0);
    let both = ["accept", "--withdraw", "20261225T220000Z", "--withdraw", "20261231T220000Z"];
    let taken = office.verb(&both, "2027-01-02T02:00:00Z", 0);
    for id in ["20261225T220000Z", "20261231T220000Z"] {
        assert!(taken["changes"].to_string().contains(id), "{taken}");
    }
    nights(&office, "2027-01", 2..=31, 0);
    assert_eq!(office.restored("docs", ["--at", "2026-12-31"], "2027-01-31T23:00:00Z"), "2026-12-30T22:00:00Z");
    is_green(&office, "2027-01-31T23:00:00Z");
}

#[test]
fn the_answer_of_the_night_before_stands_when_the_next_one_is_taken_back() {
    let office = Office::new(&["docs"], "");
    let files = |count: usize| {
        for file in 0..40 {
            let path = office.documents("docs").join(format!("f{file}"));
            if file < count { std::fs::write(path, "a document").unwrap() } else { drop(std::fs::remove_file(path)) }
        }
    };
    files(40);
    nights(&office, "2026-06", 1..=3, 0);
    files(8);
    nights(&office, "2026-06", 4..=4, 3);
    let _ = office.verb(&["accept"], "2026-06-04T23:00:00Z", 0);
    empty(&office);
    idle(&office, "2026-06", 5..=5, 3);
    let _ = office.verb(&["accept"], "2026-06-05T23:00:00Z", 0);
    office.show("docs");
    let taken = office.verb(&["accept", "--withdraw", "20260605T220000Z"], "2026-06-06T08:00:00Z", 0);
    assert!(taken["changes"].to_string().contains("1 snapshot (20260605T220000Z)"), "{taken}");
    nights(&office, "2026-06", 6..=6, 0);
    is_green(&office, "2026-06-06T23:00:00Z");
}

#[test]
fn one_of_two_sources_is_taken_back() {
    let office = Office::new(&["docs", "mail"], "");
    nights(&office, "2026-06", 1..=2, 0);
    for source in ["docs", "mail"] {
        for name in ["a", "b", "c"] {
            std::fs::remove_file(office.documents(source).join(name)).unwrap();
        }
    }
    idle(&office, "2026-06", 3..=3, 3);
    let _ = office.verb(&["accept"], "2026-06-03T23:00:00Z", 0);
    let only = ["accept", "--withdraw", "20260603T220000Z", "--only", "docs"];
    let taken = office.verb(&only, "2026-06-03T23:10:00Z", 0);
    assert!(taken["changes"].to_string().contains("docs is suspect again"), "{taken}");
    assert!(!taken["changes"].to_string().contains("mail"), "{taken}");
    let wrong = ["accept", "--env", "prod", "--withdraw", "20260603T220000Z", "--only", "docs"];
    let wrong = office.run(&[&wrong[..], &["--now", "2026-06-03T23:20:00Z"]].concat()).expect_code(2);
    assert!(wrong.stderr.contains("hint: "), "{}", wrong.stderr);
}

#[test]
fn retiring_a_source_accepts_none_of_its_states() {
    let office = Office::new(&["docs"], &keep_last(3, SHORT));
    nights(&office, "2026-12", 20..=30, 0);
    empty(&office);
    idle(&office, "2026-12", 31..=31, 3);
    office.show("docs");
    office.configure(&[("papers", "docs")], &keep_last(3, SHORT));
    let status = office.status("2027-01-01T08:00:00Z", 4);
    let named: Vec<&str> = commands(&status, "waiting").into_iter().chain(commands(&status, "suspect")).collect();
    let retire = named.iter().find(|command| command.contains("--retire docs")).expect("a command to retire");
    let words: Vec<&str> = retire.split(' ').filter(|word| !["--env", "prod"].contains(word)).collect();
    let retired = office.verb(&words, "2027-01-01T08:10:00Z", 4);
    assert!(!retired["changes"].to_string().contains("is accepted as it is"), "{retired}");
    let status = office.status("2027-01-01T08:20:00Z", 4);
    let left: Vec<String> = commands(&status, "waiting").into_iter().map(str::to_owned).collect();
    assert_eq!(left, ["accept --env prod"], "no question about the retired source may be left: {status}");
    let _ = office.verb(&["accept"], "2027-01-01T08:30:00Z", 0);
    nights(&office, "2027-01", 1..=31, 0);
    office.configure(&[("papers", "docs"), ("docs", "gone")], &keep_last(3, SHORT));
    assert_eq!(office.restored("docs", ["--at", "2026-12-31"], "2027-01-31T23:00:00Z"), "2026-12-30T22:00:00Z");
}

#[test]
fn a_source_that_is_called_as_a_question_is_no_other_question() {
    let office = Office::new(&["clock"], "");
    nights(&office, "2026-06", 1..=10, 0);
    // The clock falls back for a night, and then the folder is empty.
    let _ = office.worked("2026-06-04T23:00:00Z", 3);
    office.hide("clock");
    std::fs::create_dir(office.documents("clock")).unwrap();
    let _ = office.backup("2026-06-10T23:00:00Z", 3);
    let status = office.status("2026-06-11T08:00:00Z", 4);
    let (suspect, waiting) = (commands(&status, "suspect"), commands(&status, "clock"));
    assert!(!waiting.is_empty(), "{status}");
    assert!(waiting.iter().chain(&suspect).all(|command| command.contains("--only")), "{status}");
    let words: Vec<&str> = waiting[0].split(' ').filter(|word| !["--env", "prod"].contains(word)).collect();
    let answered = office.run(&[&["--json"], &words[..], &["--env", "prod", "--now", "2026-06-11T08:10:00Z"]].concat());
    assert!(!answered.stdout.contains("is accepted as it is in"), "{} {}", waiting[0], answered.stdout);
}

/// The clock is right until 3 January. Then it falls back by weeks and is trusted for four nights. Then it is right
/// again.
fn two_clocks(more: &str) -> Office {
    let office = Office::new(&["docs"], more);
    nights(&office, "2026-12", 1..=31, 0);
    nights(&office, "2027-01", 1..=3, 0);
    let _ = office.worked("2026-12-05T23:00:00Z", 3);
    let _ = office.verb(&["accept"], "2026-12-05T23:30:00Z", 0);
    for day in 6..=8 {
        office.age_bin(2);
        let now = format!("2026-12-{day:02}T23:00:00Z");
        office.write("docs", "a", &now);
        // The exit code depends on the retention: it may have left snapshots of the other clock to ask about, or not.
        let _ = office.run(&["--json", "backup", "--env", "prod", "--now", &now]);
    }
    nights(&office, "2027-01", 8..=8, 3);
    office
}

#[test]
fn the_wrong_one_of_two_clocks_is_named_and_then_the_right_one() {
    for first in [&["accept"][..], &["accept", "--right-time", "20261205T230000Z"]] {
        let office = two_clocks(&keep_last(3, SHORT));
        let _ = office.run(&[&["--json"], first, &["--env", "prod", "--now", "2027-01-09T08:00:00Z"]].concat());
        let right = office.verb(&["accept", "--right-time", "20270103T220000Z"], "2027-01-09T08:10:00Z", 0);
        assert!(right["changes"].to_string().contains("4 snapshots (20261205T230000Z"), "{first:?}: {right}");
        let again = ["accept", "--env", "prod", "--right-time", "20270103T220000Z", "--now", "2027-01-09T08:20:00Z"];
        assert!(office.run(&again).expect_code(2).stderr.contains("is not in doubt"));
        nights(&office, "2027-01", 9..=31, 0);
        assert_eq!(office.restored("docs", ["--at", "2026-12-31"], "2027-01-31T23:00:00Z"), "2026-12-31T22:00:00Z");
        is_green(&office, "2027-01-31T23:00:00Z");
    }
}

#[test]
fn taking_the_answer_about_two_clocks_back_takes_it_back_of_both_sides() {
    for of in ["20270103T220000Z", "20261205T230000Z", "20261207T230000Z"] {
        let office = two_clocks(&keep_last(3, SHORT));
        let _ = office.verb(&["accept"], "2027-01-09T08:00:00Z", 0);
        let taken = office.verb(&["accept", "--withdraw", of], "2027-01-09T08:10:00Z", 0);
        let status = office.status("2027-01-09T08:20:00Z", 4);
        let asked = status.to_string();
        assert!(asked.contains("which `accept` took to be from the future"), "{of}: {taken} {status}");
        assert!(!asked.contains("the time of 20261207T230000Z has come"), "it was never from the future: {status}");
        let _ = office.verb(&["accept"], "2027-01-09T08:30:00Z", 0);
        nights(&office, "2027-01", 9..=31, 0);
        let ids = office.ids("2027-01-31T23:00:00Z");
        for kept in ["20261231T220000Z", "20270103T220000Z", "20261205T230000Z", "20261208T230000Z"] {
            assert!(ids.iter().any(|id| id == kept), "{of}: {kept} is not in {ids:?}");
        }
    }
}

#[test]
fn a_state_of_which_an_answer_doubts_the_time_answers_for_no_day_that_has_another() {
    let office = two_clocks("");
    let right = office.verb(&["accept", "--right-time", "20270103T220000Z"], "2027-01-09T08:00:00Z", 0);
    assert_eq!(right["still_waiting"].as_array().map(Vec::len), Some(0), "{right}");
    for day in ["2026-12-06", "2026-12-08"] {
        let restored = office.restored("docs", ["--at", day], "2027-01-09T09:00:00Z");
        assert_eq!(restored, format!("{day}T22:00:00Z"));
    }
}

#[test]
fn one_night_under_a_clock_that_was_ahead_does_not_answer_for_the_year() {
    let office = Office::new(&["docs"], SHORT_GUARD);
    nights(&office, "2026-11", 1..=28, 0);
    let _ = office.worked("2026-12-31T22:30:00Z", 0);
    nights(&office, "2026-11", 29..=29, 3);
    let _ = office.verb(&["accept"], "2026-11-29T23:00:00Z", 0);
    nights(&office, "2026-11", 30..=30, 0);
    nights(&office, "2026-12", 1..=31, 0);
    nights(&office, "2027-01", 1..=1, 3);
    let _ = office.verb(&["accept"], "2027-01-01T23:00:00Z", 0);
    assert_eq!(office.restored("docs", ["--at", "2026-12-31"], "2027-01-02T08:00:00Z"), "2026-12-31T22:00:00Z");
}

#[test]
fn what_was_said_to_be_from_the_future_is_asked_about_again_when_that_is_taken_back() {
    let office = Office::new(&["docs"], "");
    nights(&office, "2026-01", 5..=9, 0);
    let _ = office.worked("2026-02-05T22:00:00Z", 0);
    let _ = office.verb(&["accept"], "2026-01-13T08:00:00Z", 0);
    let _ = office.verb(&["accept", "--withdraw", "20260205T220000Z"], "2026-01-13T09:00:00Z", 0);
    let status = office.status("2026-01-13T10:00:00Z", 4);
    assert!(status.to_string().contains("is from the future"), "{status}");
    let night = office.worked("2026-01-13T22:00:00Z", 3);
    assert_eq!(listed(&night, "binned"), Vec::<String>::new(), "{night}");
}

#[test]
fn what_was_accepted_taken_back_and_accepted_again_is_of_the_last_answer() {
    let office = Office::new(&["docs"], &keep_last(8, SHORT));
    nights(&office, "2026-12", 25..=30, 0);
    empty(&office);
    idle(&office, "2026-12", 31..=31, 3);
    let _ = office.verb(&["accept"], "2026-12-31T23:00:00Z", 0);
    let _ = office.verb(&["accept", "--withdraw", "20261231T220000Z"], "2026-12-31T23:10:00Z", 0);
    idle(&office, "2027-01", 1..=1, 3);
    let _ = office.verb(&["accept"], "2027-01-01T23:00:00Z", 0);
    let taken = office.verb(&["accept", "--withdraw", "20270101T220000Z"], "2027-01-01T23:10:00Z", 0);
    assert!(taken["changes"].to_string().contains("2 snapshots (20261231T220000Z, 20270101T220000Z)"), "{taken}");
}

#[test]
fn mistakes_that_are_taken_back_at_once_are_held_against_what_was_before_all_of_them() {
    let office = Office::new(&["docs"], "");
    let files = |count: usize| {
        for file in 0..100 {
            let path = office.documents("docs").join(format!("f{file}"));
            if file < count { std::fs::write(path, "a document") } else { std::fs::remove_file(path).or(Ok(())) }
                .unwrap();
        }
    };
    for (day, count, code) in [(1, 100, 0), (2, 40, 3), (3, 12, 3), (4, 38, 0), (5, 38, 0)] {
        files(count);
        nights(&office, "2026-12", day..=day, code);
        if code == 3 {
            let _ = office.verb(&["accept"], &format!("2026-12-{day:02}T23:00:00Z"), 0);
        }
    }
    let both = ["accept", "--withdraw", "20261202T220000Z", "--withdraw", "20261203T220000Z"];
    let taken = office.verb(&both, "2026-12-06T08:00:00Z", 0);
    assert!(taken["changes"].to_string().contains("4 snapshots"), "{taken}");
    let status = office.status("2026-12-06T09:00:00Z", 4);
    assert!(!commands(&status, "suspect").is_empty(), "{status}");
}

#[test]
fn a_flag_of_accept_answers_nothing_that_went_wrong_since() {
    let office = Office::new(&["docs", "mail"], "[guard]\nlegal_years = 10\n");
    nights(&office, "2026-06", 1..=3, 0);
    office.configure(&[("docs", "docs")], "[guard]\nlegal_years = 2\n");
    empty(&office);
    idle(&office, "2026-06", 4..=4, 3);
    for flags in [&["accept", "--adopted"][..], &["accept", "--lost"], &["accept", "--retire", "mail"]] {
        let answered = office.verb(flags, "2026-06-04T23:00:00Z", 4);
        let changes = answered["changes"].to_string();
        assert!(!changes.contains("guard") && !changes.contains("is accepted as it is"), "{flags:?}: {answered}");
    }
    let status = office.status("2026-06-04T23:10:00Z", 4);
    let left = commands(&status, "waiting").len() + commands(&status, "suspect").len();
    assert_eq!(left, 2, "only the questions about the guard and docs are left: {status}");
}

/// The clock jumps ahead twice, each time for one night. The runs in between are on the same side of both jumps.
#[test]
fn what_is_of_two_pairs_of_clocks_is_decided_in_both() {
    let office = Office::new(&["docs"], "");
    nights(&office, "2026-11", 2..=5, 0);
    let _ = office.worked("2026-11-20T23:00:00Z", 0);
    nights(&office, "2026-11", 6..=6, 3);
    let _ = office.verb(&["accept"], "2026-11-06T23:00:00Z", 0);
    nights(&office, "2026-11", 7..=7, 0);
    // This run is past the time of the first jump, and nobody has said which clock was right.
    let _ = office.worked("2026-12-10T23:00:00Z", 3);
    nights(&office, "2026-11", 8..=8, 3);
    let _ = office.verb(&["accept"], "2026-11-08T23:00:00Z", 0);
    nights(&office, "2026-11", 9..=9, 0);
    nights(&office, "2026-11", 25..=25, 3);
    let _ = office.verb(&["accept"], "2026-11-25T23:00:00Z", 0);
    nights(&office, "2026-12", 15..=15, 3);
    let _ = office.verb(&["accept"], "2026-12-15T23:00:00Z", 0);
    let _ = office.verb(&["accept", "--right-time", "20261210T230000Z"], "2026-12-16T08:00:00Z", 0);
    let _ = office.verb(&["accept", "--right-time", "20261109T220000Z"], "2026-12-16T08:10:00Z", 0);
    let doubted = |id: &str| office.is_doubted(id, "2026-12-16T08:20:00Z");
    for wrong in ["20261120T230000Z", "20261210T230000Z"] {
        assert!(doubted(wrong), "{wrong}");
    }
    for right in ["20261106T220000Z", "20261109T220000Z"] {
        assert!(!doubted(right), "{right}");
    }
    assert_eq!(office.restored("docs", ["--at", "2026-12-10"], "2026-12-16T08:30:00Z"), "2026-11-25T22:00:00Z");
}
