//! Forgetting in two steps: snapshots stay in the bin for days, and the administrator or the policy can restore them.

use super::{Office, keep_last, listed, problems};
use serde_json::Value;
use std::process::Command;

fn at(day: u32) -> String {
    format!("2026-06-{day:02}T01:00:00Z")
}

fn id(day: u32) -> String {
    format!("202606{day:02}T010000Z")
}

/// An office after this many days' work, with a policy that keeps the last two snapshots.
fn office(days: u32) -> Office {
    let office = Office::new(&["docs"], &keep_last(2, "legal_years = 0"));
    for day in 1..=days {
        let _ = office.worked(&at(day), 0);
    }
    office
}

fn in_bin(office: &Office, now: &str) -> Vec<String> {
    let snapshots = office.snapshots(now).into_iter().filter(|snapshot| !snapshot["in_bin_since"].is_null());
    snapshots.map(|snapshot| snapshot["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn what_may_go_is_restorable_for_a_week_and_two_whole_runs_and_is_shown() {
    let office = office(3);
    let now = "2026-06-03T02:00:00Z";
    assert_eq!(in_bin(&office, now), [id(1)]);
    assert_eq!(office.restored("docs", ["--snapshot", &id(1)], now), at(1));
    assert_eq!(office.status(now, 0)["snapshots"]["in_bin"], 1);
    let shown = office.run(&["list", "--env", "prod", "--now", now]).expect_code(0).stdout;
    let line = shown.lines().find(|line| line.contains(&id(1))).unwrap();
    assert!(line.contains("bin"), "{shown}");

    // Neither six days with two runs nor eight days without a further run are enough.
    office.pass(6);
    let _ = office.worked(&at(4), 0);
    let _ = office.worked(&at(5), 0);
    assert_eq!(office.restored("docs", ["--snapshot", &id(1)], now), at(1));
    office.pass(2);
    let pruned = office.verb(&["prune"], "2026-06-05T02:00:00Z", 0);
    assert_eq!(listed(&pruned, "forgotten"), Vec::<String>::new(), "{pruned}");
    let one = office.worked(&at(6), 0);
    assert_eq!(listed(&one, "forgotten"), Vec::<String>::new(), "only one run since its time came: {one}");
    assert_eq!(office.restored("docs", ["--snapshot", &id(1)], now), at(1));
    let two = office.worked(&at(7), 0);
    assert_eq!(listed(&two, "forgotten"), [id(1)], "{two}");
    assert!(!office.objects("docs").contains_key(&format!("{}.tar.gz", id(1))));
}

#[test]
fn a_person_who_asks_for_the_status_is_shown_that_something_lies_in_the_bin() {
    let office = office(3);
    let status = office.run(&["status", "--now", "2026-06-03T02:00:00Z"]).expect_code(0).stdout;
    assert!(status.contains("bin"), "{status}");
}

#[test]
fn what_lies_in_the_bin_is_not_deleted_while_a_source_is_down() {
    let office = Office::new(&["docs", "mail"], &keep_last(2, "legal_years = 0"));
    for day in 1..=3 {
        let _ = office.worked(&at(day), 0);
    }
    office.age_bin(8);
    office.hide("mail");
    for day in 4..=6 {
        let down = office.worked(&at(day), 64);
        assert_eq!(down["retention"]["state"], "frozen", "{down}");
    }
    for source in ["docs", "mail"] {
        assert_eq!(office.restored(source, ["--snapshot", &id(1)], "2026-06-06T02:00:00Z"), at(1));
    }
    office.show("mail");
    let _ = office.worked(&at(7), 0);
}

#[test]
fn a_snapshot_is_taken_out_of_the_bin_and_kept_until_it_is_released() {
    let office = office(4);
    let now = "2026-06-04T02:00:00Z";
    assert_eq!(in_bin(&office, now), [id(2), id(1)]);
    let _ = office.verb(&["unforget", &id(1)], now, 0);
    assert_eq!(in_bin(&office, now), [id(2)]);
    for day in 5..=8 {
        office.age_bin(8);
        let _ = office.worked(&at(day), 0);
    }
    let later = "2026-06-08T02:00:00Z";
    let left = office.ids(later);
    assert!(left.contains(&id(1)) && !left.contains(&id(2)), "{left:?}");
    assert_eq!(office.restored("docs", ["--snapshot", &id(1)], later), at(1));
    office.is_green(later);

    let _ = office.verb(&["unforget", "--release", &id(1)], later, 0);
    let binned = office.worked(&at(9), 0);
    assert!(listed(&binned, "binned").contains(&id(1)), "{binned}");
    office.age_bin(8);
    let _ = office.worked(&at(10), 0);
    assert!(!office.ids("2026-06-10T02:00:00Z").contains(&id(1)));
    let gone = office.run(&["unforget", "--env", "prod", &id(1), "--now", "2026-06-10T03:00:00Z"]).expect_code(2);
    assert!(gone.stderr.contains("is deleted"), "{}", gone.stderr);
}

/// 01:00 UTC this many days ago, according to `date`.
fn days_ago(days: u32) -> String {
    let output = Command::new("date").args(["-u", "-d", &format!("-{days} days"), "+%Y-%m-%dT01:00:00Z"]).output();
    String::from_utf8(output.unwrap().stdout).unwrap().trim().to_owned()
}

#[test]
fn a_prune_that_is_told_so_deletes_what_lies_in_the_bin_and_puts_in_what_is_new() {
    let office = Office::new(&["docs"], &keep_last(2, "legal_years = 0"));
    for days in [5, 4, 3] {
        let _ = office.worked(&days_ago(days), 0);
    }
    let of = |days: u32| days_ago(days).replace(['-', ':'], "");
    let own = [("docs", "docs")];
    office.configure(&own, &keep_last(1, "legal_years = 0"));
    let _ = office.run(&["accept", "--env", "prod"]).expect_code(0);
    let prune = || office.run(&["--json", "prune", "--env", "prod", "--now"]).expect_code(0).json();
    let dry = office.run(&["--json", "prune", "--env", "prod", "--dry-run", "--now"]).expect_code(0).json();
    assert_eq!((listed(&dry, "would_forget"), listed(&dry, "would_bin")), (vec![of(5)], vec![of(4)]), "{dry}");
    let first = prune();
    assert_eq!((listed(&first, "forgotten"), listed(&first, "binned")), (vec![of(5)], vec![of(4)]), "{first}");
    let second = prune();
    assert_eq!((listed(&second, "forgotten"), listed(&second, "binned")), (vec![of(4)], Vec::new()), "{second}");
}

#[test]
fn a_policy_that_is_changed_and_changed_back_within_the_week_loses_nothing() {
    let office = Office::new(&["docs"], "");
    for day in 1..=10 {
        let _ = office.worked(&at(day), 0);
    }
    let own = [("docs", "docs")];
    let one = "[plugins.retention]\ncomponent = \"retention-last.wasm\"\nsettings = { keep = 1 }\n";
    office.configure(&own, one);
    let _ = office.verb(&["accept"], "2026-06-10T02:00:00Z", 0);
    let changed = office.worked(&at(11), 0);
    assert_eq!(listed(&changed, "binned").len(), 10, "{changed}");
    let _ = office.worked(&at(12), 0);
    office.pass(6);
    let _ = office.worked(&at(13), 0);
    office.configure(&own, "");
    // The change raises a question again, but what the policy keeps again leaves the bin without an answer.
    let back = office.worked(&at(14), 3);
    assert_eq!(listed(&back, "forgotten"), Vec::<String>::new(), "{back}");
    assert!(listed(&back, "taken_back").len() >= 10, "{back}");
    let now = "2026-06-14T02:00:00Z";
    assert_eq!((in_bin(&office, now), office.ids(now).len()), (Vec::new(), 14));
    for day in 1..=14 {
        assert_eq!(office.restored("docs", ["--snapshot", &id(day)], now), at(day));
    }
    let _ = office.verb(&["accept"], now, 0);
    office.is_green(now);
}

#[test]
fn only_so_many_enter_the_bin_in_a_night_the_oldest_first_until_all_that_may_go_are_in_it() {
    let office = Office::new(&["docs"], &keep_last(20, "legal_years = 0\nmax_forget = 2"));
    for day in 1..=8 {
        let _ = office.worked(&at(day), 0);
    }
    office.configure(&[("docs", "docs")], &keep_last(3, "legal_years = 0\nmax_forget = 2"));
    let _ = office.verb(&["accept"], "2026-06-08T02:00:00Z", 0);
    // Each night puts two into the bin and adds one that may go, so the queue gets shorter by one.
    for (day, oldest) in [(9, [1, 2]), (10, [3, 4]), (11, [5, 6]), (12, [7, 8])] {
        let night = office.worked(&at(day), 0);
        assert_eq!(listed(&night, "binned"), oldest.map(id), "{night}");
        let waits = usize::try_from(day - 3).unwrap() - usize::try_from(oldest[1]).unwrap();
        assert_eq!(listed(&night, "deferred").len(), waits, "{night}");
    }
    let last = office.worked(&at(13), 0);
    assert_eq!((listed(&last, "binned"), listed(&last, "deferred").len()), (vec![id(9), id(10)], 0), "{last}");
    office.is_green("2026-06-13T02:00:00Z");
    assert_eq!(in_bin(&office, "2026-06-13T02:00:00Z").len(), 10);
}

#[test]
fn a_list_right_after_a_run_never_says_that_something_is_in_the_future() {
    let office = Office::new(&["docs"], "");
    for _ in 0..4 {
        let night: Value = office.run(&["--json", "backup", "--env", "prod", "--force"]).expect_code(0).json();
        let id = night["snapshot"]["id"].as_str().unwrap().to_owned();
        let shown = office.run(&["list", "--env", "prod"]).expect_code(0).stdout;
        assert!(shown.contains(&id) && !shown.contains("future"), "{shown}");
        let status = office.run(&["--json", "status"]).expect_code(0).json();
        assert_eq!(problems(&status["environments"][0]).len(), 0, "{status}");
    }
}

#[test]
fn what_the_plugins_of_a_forgotten_run_did_stays_in_the_log() {
    let office = Office::new(&["docs"], &keep_last(1, "legal_years = 0"));
    for day in 1..=3 {
        let _ = office.worked(&at(day), 0);
    }
    office.age_bin(9);
    let nights: Vec<_> = (4..=5).map(|day| office.worked(&at(day), 0)).collect();
    assert!(nights.iter().any(|night| !listed(night, "forgotten").is_empty()), "{nights:?}");
    let log = office.verb(&["plugins", "log", "--since", "365d"], "2026-06-05T02:00:00Z", 0);
    assert_eq!(log["runs"], 5, "{log}");
    assert!(log["plans"].as_u64().unwrap() >= 3, "each night put one into the bin: {log}");
    let deeds = log["deeds"].as_array().unwrap();
    let put = deeds.iter().find(|deed| deed["function"] == "object-write.put").unwrap();
    assert_eq!(put["times"], 5, "{put}");
    let recent = office.verb(&["plugins", "log", "--since", "36h"], "2026-06-05T02:00:00Z", 0);
    assert_eq!(recent["runs"], 2, "{recent}");
}
