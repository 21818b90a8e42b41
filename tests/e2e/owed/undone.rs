//! Wrong answers that are undone: nothing is lost before the mistake is noticed, and everything is as before once it is
//! undone.

use super::{Office, commands, keep_last, listed, problems};

/// Lines for `keep_last`: what the plugin no longer keeps is deleted after a day in the bin.
pub(super) const SHORT: &str = "bin_days = 1";

/// The same as a section, for the shipped retention.
pub(super) const SHORT_GUARD: &str = "[guard]\nbin_days = 1\n";

/// Nights of work on these days, all with this exit code.
pub(super) fn nights(office: &Office, year_and_month: &str, days: std::ops::RangeInclusive<u32>, code: i32) {
    for day in days {
        office.age_bin(2);
        let _ = office.worked(&format!("{year_and_month}-{day:02}T22:00:00Z"), code);
    }
}

pub(super) fn is_green(office: &Office, now: &str) {
    let _ = office.verb(&["verify"], now, 0);
    office.is_green(now);
}

pub(super) fn empty(office: &Office) {
    office.hide("docs");
    std::fs::create_dir(office.documents("docs")).unwrap();
}

#[test]
fn an_answer_under_a_clock_that_fell_back_is_asked_about_when_the_clock_is_right_and_hides_no_loss() {
    let office = Office::new(&["docs"], &keep_last(3, SHORT));
    nights(&office, "2025-11", 1..=3, 0);
    let _ = office.verb(&["accept"], "2024-11-04T02:00:00Z", 0);
    // The clock is right again, and the mount is missing.
    empty(&office);
    let night = office.backup("2025-11-04T22:00:00Z", 3);
    assert_eq!(night["snapshot"]["sources"]["docs"]["condition"], "suspect", "{night}");
    office.show("docs");
    nights(&office, "2025-11", 5..=20, 3);
    assert_eq!(office.restored("docs", ["--at", "2025-11-02"], "2025-11-20T23:00:00Z"), "2025-11-02T22:00:00Z");
    let status = office.status("2025-11-20T23:00:00Z", 4);
    assert!(status.to_string().contains("which `accept` took to be from the future"), "{status}");
    let decided = office.verb(&["accept", "--right-time", "20251102T220000Z"], "2025-11-20T23:10:00Z", 4);
    assert!(decided["changes"].to_string().contains("the time of 3 snapshots"), "{decided}");
    assert!(decided["changes"].to_string().contains("is right"), "{decided}");
    let again = ["accept", "--env", "prod", "--right-time", "20251102T220000Z", "--now", "2025-11-20T23:11:00Z"];
    assert!(office.run(&again).expect_code(2).stderr.contains("is not in doubt"));
    let _ = office.verb(&["accept"], "2025-11-20T23:20:00Z", 0);
    let _ = office.worked("2025-11-21T22:00:00Z", 0);
    is_green(&office, "2025-11-21T23:00:00Z");
}

#[test]
fn what_ran_under_a_clock_that_fell_back_does_not_keep_the_place_of_the_true_year_end() {
    let office = Office::new(&["docs"], &keep_last(5, SHORT));
    nights(&office, "2025-12", 20..=31, 0);
    nights(&office, "2026-01", 1..=19, 0);
    // The clock falls back by weeks, to just after the last run of the year, and somebody accepts it.
    let _ = office.worked("2025-12-31T22:30:00Z", 3);
    let _ = office.verb(&["accept"], "2025-12-31T22:40:00Z", 0);
    let _ = office.worked("2026-01-01T22:30:00Z", 0);
    nights(&office, "2026-01", 21..=30, 3);
    let answered = office.verb(&["accept"], "2026-01-31T08:00:00Z", 0);
    assert!(answered["changes"].to_string().contains("used only where no other snapshot is available"), "{answered}");
    nights(&office, "2026-02", 1..=12, 0);
    // Both sides are kept until somebody decides.
    let ids = office.ids("2026-02-12T23:00:00Z");
    for kept in ["20251231T223000Z", "20260101T223000Z", "20260119T220000Z"] {
        assert!(ids.iter().any(|id| id == kept), "{kept} is not in {ids:?}");
    }
    let decided = office.verb(&["accept", "--right-time", "20260119T220000Z"], "2026-02-12T23:05:00Z", 0);
    let changes = decided["changes"].to_string();
    assert!(changes.contains("2 snapshots (20251231T223000Z, 20260101T223000Z) are used only where"), "{decided}");
    assert_eq!(office.restored("docs", ["--at", "2025-12-31"], "2026-02-12T23:00:00Z"), "2025-12-31T22:00:00Z");
    is_green(&office, "2026-02-12T23:00:00Z");
}

#[test]
fn what_was_ahead_of_a_clock_that_was_right_stays_in_doubt_when_its_time_comes() {
    let office = Office::new(&["docs"], &keep_last(5, SHORT));
    nights(&office, "2025-11", 1..=20, 0);
    let _ = office.worked("2025-12-08T22:00:00Z", 0);
    let _ = office.verb(&["accept"], "2025-11-21T08:00:00Z", 0);
    nights(&office, "2025-11", 21..=30, 0);
    nights(&office, "2025-12", 1..=7, 0);
    nights(&office, "2025-12", 8..=9, 3);
    let answered = office.verb(&["accept"], "2025-12-10T08:00:00Z", 0);
    assert!(answered["changes"].to_string().contains("used only where no other snapshot is available"), "{answered}");
    nights(&office, "2025-12", 10..=12, 0);
    is_green(&office, "2025-12-12T23:00:00Z");
}

#[test]
fn a_clock_that_jumps_to_the_same_wrong_place_twice_is_doubted_twice() {
    let office = Office::new(&["docs"], &keep_last(3, SHORT));
    nights(&office, "2025-12", 20..=31, 0);
    let _ = office.worked("2040-01-01T22:00:00Z", 3);
    let _ = office.verb(&["accept"], "2026-01-01T01:00:00Z", 0);
    nights(&office, "2026-01", 1..=2, 0);
    for day in 2..=6 {
        office.age_bin(2);
        let night = office.worked(&format!("2040-01-{day:02}T22:00:00Z"), 3);
        assert_eq!(listed(&night, "forgotten"), Vec::<String>::new(), "{night}");
    }
    assert_eq!(office.restored("docs", ["--at", "2025-12-31"], "2026-01-03T01:00:00Z"), "2025-12-31T22:00:00Z");
}

#[test]
fn what_was_whole_only_because_of_an_answer_is_suspect_once_that_is_taken_back() {
    let office = Office::new(&["docs"], &keep_last(4, SHORT));
    nights(&office, "2025-12", 10..=29, 0);
    empty(&office);
    let _ = office.backup("2025-12-30T22:00:00Z", 3);
    let _ = office.verb(&["accept"], "2025-12-30T23:00:00Z", 0);
    let _ = office.backup("2025-12-31T22:00:00Z", 0);
    let taken = office.verb(&["accept", "--withdraw", "20251230T220000Z"], "2026-01-01T08:00:00Z", 0);
    assert!(taken["changes"].to_string().contains("2 snapshots (20251230T220000Z, 20251231T220000Z)"), "{taken}");
    let status = office.status("2026-01-01T09:00:00Z", 4);
    assert!(problems(&status).iter().any(|(_, source)| *source == Some("docs")), "{status}");
    // The folder is still empty. Nothing is carried over from a snapshot in doubt.
    let night = office.backup("2026-01-01T22:00:00Z", 3);
    assert_eq!(night["snapshot"]["sources"]["docs"]["condition"], "suspect", "{night}");
    office.show("docs");
    nights(&office, "2026-01", 2..=31, 0);
    assert_eq!(office.restored("docs", ["--at", "2025-12-31"], "2026-01-31T23:00:00Z"), "2025-12-29T22:00:00Z");
    is_green(&office, "2026-01-31T23:00:00Z");
}

#[test]
fn taking_one_answer_back_and_answering_one_question_answer_nothing_else() {
    let office = Office::new(&["docs", "mail"], "");
    nights(&office, "2026-06", 1..=3, 0);
    empty(&office);
    let _ = office.backup("2026-06-04T22:00:00Z", 3);
    let zone = "time_zone = \"Europe/Paris\"";
    let configuration = office.at("dolibarr-backup.toml");
    let text = std::fs::read_to_string(&configuration).unwrap();
    std::fs::write(&configuration, text.replace(zone, "time_zone = \"Europe/Berlin\"")).unwrap();
    let status = office.status("2026-06-04T23:00:00Z", 4);
    let mut all = commands(&status, "waiting");
    all.extend(commands(&status, "suspect"));
    assert!(all.contains(&"accept --env prod --only docs"), "{status}");
    assert!(all.contains(&"accept --env prod --only time-zone"), "{status}");
    let unknown = office.run(&["accept", "--env", "prod", "--only", "moon", "--now", "2026-06-04T23:10:00Z"]);
    let unknown = unknown.expect_code(2).stderr;
    assert!(unknown.contains("nothing is asked about `moon`") && unknown.contains("time-zone"), "{unknown}");
    let _ = office.verb(&["accept", "--only", "time-zone"], "2026-06-04T23:20:00Z", 4);
    let _ = office.verb(&["accept", "--only", "docs"], "2026-06-04T23:30:00Z", 0);
    std::fs::write(&configuration, &text).unwrap();
    let taken = office.verb(&["accept", "--withdraw", "20260604T220000Z"], "2026-06-04T23:40:00Z", 4);
    assert!(!taken["changes"].to_string().contains("time zone"), "{taken}");
}

#[test]
fn a_night_that_is_partial_hides_no_suspicion() {
    let office = Office::new(&["docs"], "");
    for file in 0..20 {
        office.write("docs", &format!("f{file}"), "a document");
    }
    let _ = office.worked("2026-06-01T22:00:00Z", 0);
    let keep = |count: usize| {
        for file in 0..20 {
            let path = office.documents("docs").join(format!("f{file}"));
            if file < count { std::fs::write(path, "a document").unwrap() } else { drop(std::fs::remove_file(path)) }
        }
    };
    keep(2);
    let _ = office.worked("2026-06-02T22:00:00Z", 3);
    // Root can read everything except entries that are not files.
    let socket = std::os::unix::net::UnixListener::bind(office.documents("docs").join("f19"));
    drop(socket);
    let _ = office.run(&["backup", "--env", "prod", "--now", "2026-06-03T22:00:00Z"]);
    drop(std::fs::remove_file(office.documents("docs").join("f19")));
    keep(12);
    let night = office.worked("2026-06-04T22:00:00Z", 3);
    assert_eq!(night["snapshot"]["sources"]["docs"]["condition"], "suspect", "{night}");
}

#[test]
fn an_environment_file_of_a_stamp_in_the_future_that_is_gone_is_asked_about_once() {
    let office = Office::new(&["docs"], "");
    let _ = office.worked("2026-06-01T22:00:00Z", 0);
    let _ = office.worked("2036-06-01T22:00:00Z", 3);
    let _ = office.verb(&["accept"], "2036-06-01T23:00:00Z", 0);
    let _ = office.worked("2036-06-02T22:00:00Z", 0);
    for version in office.environment_files().iter().filter(|name| name.starts_with("2036")) {
        std::fs::remove_file(office.at("store/prod/environment").join(version)).unwrap();
    }
    let _ = office.worked("2026-06-02T22:00:00Z", 3);
    let _ = office.verb(&["accept"], "2026-06-02T23:00:00Z", 0);
    let _ = office.worked("2026-06-03T22:00:00Z", 0);
    is_green(&office, "2026-06-03T23:00:00Z");
}

#[test]
fn a_list_of_known_failures_as_earlier_versions_wrote_it_is_read() {
    let office = Office::new(&["docs"], "");
    let _ = office.worked("2026-06-01T22:00:00Z", 0);
    let _ = office.verb(&["unforget", "20260601T220000Z"], "2026-06-01T23:00:00Z", 0);
    for version in office.environment_files() {
        let file = office.at("store/prod/environment").join(version);
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replace("\"known_failures\": {}", "\"known_failures\": []")).unwrap();
        assert!(text.contains("\"known_failures\": {}"), "{text}");
    }
    // The file differs from the one that the runs used, but it can be read.
    let status = office.run(&["--json", "status", "--now", "2026-06-02T01:00:00Z"]).stdout;
    assert!(!status.contains("cannot be read"), "{status}");
    assert!(office.snapshots("2026-06-02T02:00:00Z")[0].to_string().contains("\"pinned\":true"));
}

#[test]
fn a_restore_under_a_clock_that_is_ahead_does_not_switch_the_comparison_off() {
    let office = Office::new(&["docs"], "");
    let _ = office.worked("2026-06-01T22:00:00Z", 0);
    let into = office.documents("docs").to_str().unwrap().to_owned();
    office.hide("docs");
    let restore = ["restore", "--source", "docs", "--into", &into, "--same-environment"];
    let _ = office.verb(&restore, "2036-06-01T22:00:00Z", 0);
    let _ = office.run(&["--json", "backup", "--env", "prod", "--now", "2026-06-02T22:00:00Z"]);
    let _ = office.run(&["--json", "accept", "--env", "prod", "--now", "2026-06-02T23:00:00Z"]);
    let _ = office.worked("2026-06-03T22:00:00Z", 0);
    std::fs::rename(&into, office.at("away")).unwrap();
    std::fs::create_dir(&into).unwrap();
    let night = office.backup("2026-06-04T22:00:00Z", 3);
    assert_eq!(night["snapshot"]["sources"]["docs"]["condition"], "suspect", "{night}");
}

#[test]
fn a_lost_object_that_comes_back_damaged_is_found() {
    let office = Office::new(&["docs"], "");
    nights(&office, "2026-06", 1..=3, 0);
    let objects = std::fs::read_dir(office.at("store/prod/docs")).unwrap().map(|entry| entry.unwrap().path());
    let archive = objects
        .filter(|path| path.to_string_lossy().contains("20260602"))
        .find(|path| path.to_string_lossy().ends_with(".tar.gz"))
        .unwrap();
    let bytes = std::fs::read(&archive).unwrap();
    std::fs::remove_file(&archive).unwrap();
    let _ = office.verb(&["accept", "--lost"], "2026-06-04T01:00:00Z", 0);
    let _ = office.verb(&["verify", "--all"], "2026-06-04T02:00:00Z", 0);
    std::fs::write(&archive, vec![b'x'; bytes.len()]).unwrap();
    let _ = office.verb(&["verify", "--all"], "2026-06-04T03:00:00Z", 4);
    assert_eq!(office.restored("docs", ["--at", "2026-06-02"], "2026-06-04T04:00:00Z"), "2026-06-01T22:00:00Z");
}

#[test]
fn a_damaged_record_from_the_future_waits_for_its_own_answer_and_then_prunes_go_on() {
    let office = Office::new(&["docs"], &keep_last(3, SHORT));
    nights(&office, "2026-06", 1..=4, 0);
    let _ = office.worked("2036-06-05T22:00:00Z", 3);
    let record = office.at("store/prod/snapshots/20360605T220000Z.json");
    std::fs::write(&record, "{").unwrap();
    let _ = office.verb(&["accept"], "2026-06-05T08:00:00Z", 4);
    let _ = office.status("2026-06-05T09:00:00Z", 4);
    let _ = office.worked("2026-06-05T22:00:00Z", 3);
    let _ = office.verb(&["accept", "--lost"], "2026-06-06T08:00:00Z", 0);
    nights(&office, "2026-06", 6..=14, 0);
    is_green(&office, "2026-06-14T23:00:00Z");
    assert!(!record.exists(), "the record must be deleted like any other");
    assert!(office.objects("docs").len() < 20, "objects are still not deleted: {:?}", office.objects("docs").keys());
}

#[test]
fn a_clock_that_fell_back_by_two_days_at_the_years_end_takes_nothing_from_it() {
    let office = Office::new(&["docs"], SHORT_GUARD);
    nights(&office, "2023-12", 11..=31, 0);
    nights(&office, "2024-01", 1..=1, 0);
    let _ = office.worked("2023-12-31T22:30:00Z", 3);
    let _ = office.verb(&["accept"], "2023-12-31T22:40:00Z", 0);
    nights(&office, "2024-01", 3..=3, 3);
    let _ = office.verb(&["accept"], "2024-01-04T08:00:00Z", 0);
    nights(&office, "2024-01", 4..=31, 0);
    assert_eq!(office.restored("docs", ["--at", "2023-12-31"], "2024-01-31T23:00:00Z"), "2023-12-31T22:00:00Z");
}

#[test]
fn one_of_two_nights_of_an_answer_takes_back_both() {
    let office = Office::new(&["docs"], &keep_last(3, SHORT));
    nights(&office, "2024-06", 1..=8, 0);
    empty(&office);
    let _ = office.backup("2024-06-09T22:00:00Z", 3);
    let _ = office.backup("2024-06-10T22:00:00Z", 3);
    let _ = office.verb(&["accept"], "2024-06-11T08:00:00Z", 0);
    let taken = office.verb(&["accept", "--withdraw", "20240610T220000Z"], "2024-06-11T09:00:00Z", 0);
    assert!(taken["changes"].to_string().contains("2 snapshots (20240609T220000Z, 20240610T220000Z)"), "{taken}");
    let night = office.backup("2024-06-11T22:00:00Z", 3);
    assert_eq!(night["snapshot"]["sources"]["docs"]["condition"], "suspect", "{night}");
}

#[test]
fn a_suspicion_does_not_end_because_nothing_whole_is_left_to_compare_with() {
    let office = Office::new(&["docs"], &keep_last(3, &format!("{SHORT}\nlegal_years = 0")));
    nights(&office, "2024-06", 1..=5, 0);
    empty(&office);
    let _ = office.backup("2024-06-06T22:00:00Z", 3);
    let _ = office.verb(&["accept"], "2024-06-07T08:00:00Z", 0);
    let _ = office.verb(&["unforget", "20240606T220000Z"], "2024-06-07T09:00:00Z", 0);
    for day in 7..=16 {
        office.age_bin(2);
        let _ = office.backup(&format!("2024-06-{day:02}T22:00:00Z"), 0);
    }
    let _ = office.verb(&["accept", "--withdraw", "20240606T220000Z"], "2024-06-17T08:00:00Z", 0);
    let night = office.backup("2024-06-17T22:00:00Z", 3);
    assert_eq!(night["snapshot"]["sources"]["docs"]["condition"], "suspect", "{night}");
    office.show("docs");
    let _ = office.worked("2024-06-18T22:00:00Z", 0);
}

#[test]
fn the_command_that_is_named_for_a_loss_accepts_no_empty_folder() {
    let office = Office::new(&["docs"], "");
    nights(&office, "2024-06", 1..=3, 0);
    let archive = office.at("store/prod/docs/20240602T220000Z.tar.gz");
    std::fs::remove_file(&archive).unwrap();
    empty(&office);
    let _ = office.backup("2024-06-04T22:00:00Z", 3);
    let status = office.status("2024-06-04T23:00:00Z", 4);
    let named: Vec<String> = status["problems"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|problem| problem["command"].as_str().filter(|command| command.ends_with("--lost")))
        .map(str::to_owned)
        .collect();
    assert_eq!(named, ["accept --env prod --only lost --lost"], "{status}");
    let answered = office.verb(&["accept", "--only", "lost", "--lost"], "2024-06-04T23:10:00Z", 4);
    assert!(!answered["changes"].to_string().contains("docs is accepted as it is"), "{answered}");
}

#[test]
fn a_damage_that_was_mended_in_between_is_new() {
    let office = Office::new(&["docs"], "");
    nights(&office, "2024-06", 1..=2, 0);
    let archive = office.at("store/prod/docs/20240601T220000Z.tar.gz");
    let sound = std::fs::read(&archive).unwrap();
    let damage = |with: u8| std::fs::write(&archive, vec![with; sound.len()]).unwrap();
    damage(b'x');
    let _ = office.verb(&["verify", "--all"], "2024-06-03T01:00:00Z", 4);
    let _ = office.verb(&["accept", "--lost"], "2024-06-03T02:00:00Z", 0);
    let _ = office.verb(&["verify", "--all"], "2024-06-03T03:00:00Z", 0);
    std::fs::write(&archive, &sound).unwrap();
    let _ = office.verb(&["verify", "--all"], "2024-06-03T04:00:00Z", 0);
    damage(b'y');
    let _ = office.verb(&["verify", "--all"], "2024-07-03T01:00:00Z", 4);
}
