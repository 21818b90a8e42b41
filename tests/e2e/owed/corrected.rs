//! A person who answers in parts, sees a mistake, and corrects it: each command does what it says, to that alone, and the right states
//! are there afterwards.

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
    assert!(!retired["changes"].to_string().contains("is what it is"), "{retired}");
    let status = office.status("2027-01-01T08:20:00Z", 4);
    let left: Vec<String> = commands(&status, "waiting").into_iter().map(str::to_owned).collect();
    assert_eq!(left, ["accept --env prod"], "nobody asks about the source that is retired: {status}");
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
    assert!(!answered.stdout.contains("is what it is in"), "{} {}", waiting[0], answered.stdout);
}

/// The right clock until 3 January, then one that fell back by weeks and is believed for four nights, then the right one.
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
        // Whether the other clock's nights of then are there to be asked about, depends on the retention.
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
        assert!(!asked.contains("the time of 20261207T230000Z has come"), "it never was from the future: {status}");
        let _ = office.verb(&["accept"], "2027-01-09T08:30:00Z", 0);
        nights(&office, "2027-01", 9..=31, 0);
        let ids = office.ids("2027-01-31T23:00:00Z");
        for kept in ["20261231T220000Z", "20270103T220000Z", "20261205T230000Z", "20261208T230000Z"] {
            assert!(ids.iter().any(|id| id == kept), "{of}: {kept} of {ids:?}");
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
    assert!(!office.objects("docs").contains_key("20231230T220000Z.tar.gz"), "it ages too now");
}

#[test]
fn a_record_that_is_known_to_be_edited_is_not_known_to_be_missing_nor_to_be_edited_again() {
    let office = Office::new(&["docs"], "");
    nights(&office, "2026-06", 1..=5, 0);
    let record = office.at("store/prod/snapshots/20260603T220000Z.json");
    let text = std::fs::read_to_string(&record).unwrap();
    let edit = |by: &str| std::fs::write(&record, text.replacen("20260603", by, 0) + by).unwrap();
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
    // A snapshot that left objects behind is one that lost its record.
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
    assert_eq!(listed(&night, "deleted"), Vec::<String>::new(), "{night}");
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
