//! A clock that was wrong during one run.

use super::{Office, commands, listed};

/// The night after [`Office::old`] runs under a wrong clock and the next ones under the right one. Then a person
/// answers.
fn a_wrong_clock(wrong: &str, retires: bool) {
    let office = Office::new(&["docs"], "");
    office.old();
    let night = office.worked(wrong, 3);
    assert_eq!(office.certificates(), 0, "{wrong}: something entered the bin: {night}");
    assert_eq!(night["snapshot"]["sources"]["docs"]["outcome"], "saved", "{night}");
    assert_eq!(night["retention"]["state"], "frozen", "{night}");
    let _ = office.verb(&["prune"], wrong, 3);
    for day in ["2025-01-12T22:00:00Z", "2025-01-13T22:00:00Z"] {
        let right = office.worked(day, 3);
        assert_eq!(right["snapshot"]["sources"]["docs"]["outcome"], "saved", "{right}");
        assert_eq!(right["retention"]["state"], "frozen", "{right}");
        let _ = office.verb(&["prune"], day, 3);
    }
    assert_eq!(office.certificates(), 0, "{wrong}");
    let chain = office.verb(&["verify", "--all"], "2025-01-14T07:00:00Z", 0);
    assert_eq!(chain["chain"]["problems"].as_array().unwrap().len(), 0, "{wrong}: {chain}");
    let status = office.status("2025-01-14T08:00:00Z", 4);
    let all = status["problems"].as_array().unwrap().len();
    let commands_of_clock = commands(&status, "clock");
    assert_eq!(commands_of_clock.len(), all, "{wrong}: {status}");
    assert!(commands_of_clock.iter().all(|command| command.starts_with("accept --env prod")), "{wrong}: {status}");
    let _ = office.verb(&["accept"], "2025-01-14T09:00:00Z", 0);
    let answered = office.run(&["--json", "status", "--now", "2025-01-14T10:00:00Z"]).json()["environments"][0].clone();
    assert_eq!(commands(&answered, "clock").len(), 0, "{wrong}: {answered}");
    let id = wrong.replace(['-', ':'], "");
    let next = office.worked("2025-01-14T22:00:00Z", 0);
    let expected = if retires { vec![id.clone()] } else { Vec::new() };
    assert_eq!(listed(&next, "binned"), expected, "{wrong}: {next}");
    office.is_green("2025-01-14T23:00:00Z");
    office.age_bin(8);
    let _ = office.worked("2025-01-15T22:00:00Z", 0);
    let last = office.worked("2025-01-16T22:00:00Z", 0);
    assert_eq!(listed(&last, "failures"), Vec::<String>::new());
    assert_eq!(office.ids("2025-01-16T23:00:00Z").contains(&id), !retires, "{wrong}: {last}");
    office.has_all_of_old("docs", "2025-01-16T23:00:00Z");
    for day in 12..=16 {
        let said = format!("2025-01-{day}T22:00:00Z");
        assert_eq!(office.restored("docs", ["--at", &said], "2025-01-16T23:00:00Z"), said, "{wrong}");
    }
    office.is_green("2025-01-16T23:00:00Z");
}

#[test]
fn one_run_under_a_clock_that_is_two_months_ahead_forgets_nothing() {
    a_wrong_clock("2025-03-12T22:00:00Z", true);
}

#[test]
fn one_run_under_a_clock_that_is_ten_years_ahead_forgets_nothing_and_is_retired_by_the_answer() {
    a_wrong_clock("2036-01-12T22:00:00Z", true);
}

#[test]
fn one_run_under_a_clock_that_is_behind_forgets_nothing() {
    a_wrong_clock("2024-11-12T22:00:00Z", false);
}

#[test]
fn one_run_under_a_clock_that_is_ten_years_behind_forgets_nothing() {
    a_wrong_clock("2015-01-12T22:00:00Z", false);
}

/// A run with a wrong date must not stand for the end of a year, which is what an auditor asks for.
#[test]
fn a_run_under_a_clock_that_is_behind_does_not_take_the_place_of_a_year_end() {
    let office = Office::new(&["docs"], "");
    office.old();
    // Half an hour after the real run, and still in the same year in Paris.
    let _ = office.worked("2023-12-31T22:30:00Z", 3);
    let _ = office.worked("2025-01-12T22:00:00Z", 3);
    let _ = office.verb(&["accept"], "2025-01-13T09:00:00Z", 0);
    let _ = office.worked("2025-01-13T22:00:00Z", 0);
    office.age_bin(8);
    let _ = office.worked("2025-01-14T22:00:00Z", 0);
    let _ = office.worked("2025-01-15T22:00:00Z", 0);
    let real = ["--snapshot", "20231231T220000Z"];
    assert_eq!(office.restored("docs", real, "2025-01-15T23:00:00Z"), "2023-12-31T22:00:00Z");
    assert_eq!(office.restored("docs", ["--at", "2023-12-31"], "2025-01-15T23:00:00Z"), "2023-12-31T22:00:00Z");
}

#[test]
fn a_month_and_a_half_without_a_run_is_asked_about_and_the_answer_is_enough() {
    let office = Office::new(&["docs"], "");
    let _ = office.worked("2026-06-01T22:00:00Z", 0);
    let _ = office.worked("2026-07-16T21:00:00Z", 0);
    let gap = office.worked("2026-08-31T22:00:00Z", 3);
    assert_eq!(gap["retention"]["state"], "frozen", "{gap}");
    assert_eq!(commands(&office.status("2026-08-31T23:00:00Z", 4), "clock"), ["accept --env prod"]);
    let _ = office.verb(&["accept"], "2026-09-01T08:00:00Z", 0);
    let _ = office.worked("2026-09-01T22:00:00Z", 0);
    let _ = office.verb(&["verify"], "2026-09-01T22:30:00Z", 0);
    office.is_green("2026-09-01T23:00:00Z");
    assert_eq!(
        office.restored("docs", ["--at", "2026-08-31T22:00:00Z"], "2026-09-01T23:00:00Z"),
        "2026-08-31T22:00:00Z"
    );
}

/// The clock falls back by a year, the administrator trusts it, and later it is corrected: two mistakes, but no loss.
#[test]
fn an_answer_under_a_clock_that_is_behind_deletes_nothing_once_the_clock_is_right() {
    let office = Office::new(&["docs"], "");
    office.old();
    let _ = office.worked("2024-02-01T22:00:00Z", 3);
    let _ = office.verb(&["accept"], "2024-02-02T09:00:00Z", 0);
    for day in 2..=3 {
        let _ = office.worked(&format!("2024-02-0{day}T22:00:00Z"), 0);
    }
    assert_eq!(office.ids("2024-02-03T23:00:00Z").len(), 23, "snapshots from the future stay until their time");
    // A folder store has the machine's time, so everything was dated a year too early.
    office.pass(365);
    for day in 12..=15 {
        // The first run asks once more which of the two clocks was wrong.
        let night = office.worked(&format!("2025-01-{day}T22:00:00Z"), if day == 12 { 3 } else { 0 });
        if day == 12 {
            let _ = office.verb(&["accept"], "2025-01-13T08:00:00Z", 0);
        }
        assert_eq!(listed(&night, "forgotten"), Vec::<String>::new(), "{night}");
    }
    let now = "2025-01-15T23:00:00Z";
    for day in 1..=11 {
        let said = format!("2025-01-{day:02}");
        assert_eq!(office.restored("docs", ["--at", &said], now), format!("{said}T22:00:00Z"));
    }
    let in_bin = |snapshot: &serde_json::Value| !snapshot["in_bin_since"].is_null();
    let binned = office.snapshots(now).into_iter().filter(in_bin).map(|snapshot| snapshot["id"].to_string());
    assert!(binned.clone().all(|id| id.contains("202402")), "{:?}", binned.collect::<Vec<_>>());
    office.is_green(now);
}
