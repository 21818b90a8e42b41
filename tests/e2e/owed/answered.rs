//! A wrong answer or a changed rule costs only time.

use super::{Office, commands, keep_last, listed, problems};
use serde_json::Value;

/// Asserts that `status` asks a question that contains this text.
#[track_caller]
fn asks(office: &Office, now: &str, says: &str) -> Value {
    let status = office.status(now, 4);
    assert!(status.to_string().contains(says), "`{says}` is not asked: {status}");
    status
}

#[test]
fn an_answer_under_a_clock_that_fell_back_by_years_retires_nothing_for_good() {
    let office = Office::new(&["docs"], "");
    office.old();
    // The clocks of the machine and of the store fall back by years. The snapshots are then from the future, and
    // `status` names the command.
    let status = asks(&office, "2014-01-01T01:00:00Z", "from the future");
    assert!(commands(&status, "clock").contains(&"accept --env prod"), "{status}");
    let _ = office.verb(&["accept"], "2014-01-01T02:00:00Z", 0);
    for day in 2..=5 {
        let _ = office.worked(&format!("2014-01-{day:02}T01:00:00Z"), 0);
        office.age_bin(9);
    }
    // The clock is set right.
    let _ = office.worked("2025-01-13T22:00:00Z", 3);
    let answered = office.verb(&["accept"], "2025-01-14T08:00:00Z", 0);
    assert!(answered["changes"].to_string().contains("is right"), "{answered}");
    for day in 14..=17 {
        office.age_bin(9);
        let _ = office.worked(&format!("2025-01-{day:02}T22:00:00Z"), 0);
    }
    for year in 2016..=2024 {
        let state = office.restored("docs", ["--at", &format!("{year}-12-31")], "2025-01-17T23:00:00Z");
        assert_eq!(state, format!("{year}-12-31T22:00:00Z"), "{year}");
    }
}

#[test]
fn what_was_accepted_too_early_is_taken_back_and_the_year_has_its_documents_again() {
    let office = Office::new(&["docs"], "");
    let _ = office.worked("2025-12-30T22:00:00Z", 0);
    office.hide("docs");
    std::fs::create_dir(office.documents("docs")).unwrap();
    let _ = office.backup("2025-12-31T22:00:00Z", 3);
    let _ = office.verb(&["accept"], "2026-01-01T08:00:00Z", 0);
    office.show("docs");
    let _ = office.worked("2026-01-01T22:00:00Z", 0);
    let refused =
        office.run(&["accept", "--env", "prod", "--withdraw", "20251230T220000Z", "--now", "2026-01-02T08:00:00Z"]);
    let refused = refused.expect_code(2).stderr;
    assert!(refused.contains("nothing was accepted") && refused.contains("20251231T220000Z"), "{refused}");
    let taken = office.verb(&["accept", "--withdraw", "20251231T220000Z"], "2026-01-02T09:00:00Z", 0);
    assert!(taken["changes"].to_string().contains("suspect again"), "{taken}");
    assert_eq!(office.restored("docs", ["--at", "2025-12-31"], "2026-01-02T10:00:00Z"), "2025-12-30T22:00:00Z");
    let _ = office.worked("2026-01-02T22:00:00Z", 0);
    office.is_green("2026-01-02T23:00:00Z");
}

#[test]
fn another_retention_or_other_settings_of_it_forget_nothing_before_they_are_accepted() {
    let office = Office::new(&["docs"], "[guard]\nmin_age = \"0m\"\nlegal_years = 0\n");
    for day in 1..=6 {
        let _ = office.worked(&format!("2026-06-{day:02}T01:00:00Z"), 0);
    }
    office.configure(&[("docs", "docs")], &keep_last(2, "legal_years = 0"));
    for day in 7..=8 {
        let night = office.worked(&format!("2026-06-{day:02}T01:00:00Z"), 3);
        assert_eq!(listed(&night, "binned"), Vec::<String>::new(), "{night}");
    }
    let status = asks(
        &office,
        "2026-06-08T02:00:00Z",
        "the retention changes from retention-tiered {} to retention-last {\\\"keep\\\":2}",
    );
    assert!(commands(&status, "waiting").contains(&"accept --env prod"), "{status}");
    // If the change is undone, it leaves no trace.
    office.configure(&[("docs", "docs")], "[guard]\nmin_age = \"0m\"\nlegal_years = 0\n");
    let _ = office.worked("2026-06-09T01:00:00Z", 0);
    office.is_green("2026-06-09T02:00:00Z");
    office.configure(&[("docs", "docs")], &keep_last(2, "legal_years = 0"));
    let _ = office.verb(&["accept"], "2026-06-09T03:00:00Z", 0);
    let night = office.worked("2026-06-10T01:00:00Z", 0);
    assert!(!listed(&night, "binned").is_empty(), "{night}");
}

#[test]
fn a_guard_that_was_made_stronger_is_not_weakened_in_silence() {
    let with = |years: u32| keep_last(2, &format!("legal_years = {years}"));
    let office = Office::new(&["docs"], &with(0));
    let _ = office.worked("2024-12-31T22:00:00Z", 0);
    let _ = office.worked("2025-01-02T22:00:00Z", 0);
    office.configure(&[("docs", "docs")], &with(10));
    for day in 3..=5 {
        let _ = office.worked(&format!("2025-01-{day:02}T22:00:00Z"), 0);
    }
    office.is_green("2025-01-05T23:00:00Z");
    office.configure(&[("docs", "docs")], &with(0));
    let night = office.worked("2025-01-06T22:00:00Z", 3);
    assert_eq!(listed(&night, "binned"), Vec::<String>::new(), "{night}");
    let status = asks(&office, "2025-01-06T23:00:00Z", "legal_years 10 becomes 0");
    assert!(problems(&status).contains(&("waiting", None)), "{status}");
}
