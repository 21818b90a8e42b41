//! Each red line of `status` names the command that clears it once the cause is fixed.

use super::{Office, commands, keep_last};
use serde_json::Value;
use std::collections::BTreeSet;

/// A day with a problem: what causes it, and what a person fixes before running the command.
struct Day {
    kind: &'static str,
    make: fn(&Office),
    mend: fn(&Office),
}

const fn day(kind: &'static str, make: fn(&Office), mend: fn(&Office)) -> Day {
    Day { kind, make, mend }
}

fn nothing(_: &Office) {}

const OWN: [(&str, &str); 2] = [("docs", "docs"), ("mail", "mail")];

/// Every day begins with a green office after five days' work.
const DAYS: [Day; 18] = [
    day("stale", |office| assert!(office.certificates() == 0), nothing),
    day(
        "failed",
        |office| {
            office.hide("mail");
            drop(office.worked("2026-06-06T01:00:00Z", 64));
        },
        |office| office.show("mail"),
    ),
    day(
        "suspect",
        |office| {
            empty(office);
            drop(office.backup("2026-06-06T01:00:00Z", 3));
        },
        nothing,
    ),
    day(
        "suspect",
        |office| {
            empty(office);
            drop(office.backup("2026-06-06T01:00:00Z", 3));
        },
        |office| office.show("mail"),
    ),
    day(
        "missing",
        |office| std::fs::remove_file(office.at("store/prod/docs/20260602T010000Z.tar.gz")).unwrap(),
        nothing,
    ),
    day(
        "missing",
        |office| std::fs::remove_file(office.at("store/prod/docs/20260605T010000Z.tar.gz")).unwrap(),
        nothing,
    ),
    day("missing", |office| office.put("prod/snapshots/20260603T010000Z.json", b"{}"), nothing),
    day(
        "missing",
        |office| std::fs::remove_file(office.at("store/prod/snapshots/20260603T010000Z.json")).unwrap(),
        nothing,
    ),
    day("clock", |office| drop(office.worked("2036-01-01T01:00:00Z", 3)), nothing),
    day("clock", |office| drop(office.worked("2026-05-20T01:00:00Z", 3)), nothing),
    day("waiting", |office| std::fs::remove_dir_all(office.at("store/prod/environment")).unwrap(), nothing),
    day("waiting", |office| office.put("prod/environment/20260605T020000Z.json", b"{}"), nothing),
    day("waiting", |office| office.configure(&[("docs", "docs"), ("mail", "mail"), ("more", "docs")], ""), nothing),
    day("waiting", |office| office.configure(&OWN[..1], ""), nothing),
    day("waiting", |office| office.configure(&OWN, "[guard]\nlegal_years = 3\n"), nothing),
    day(
        "disproved",
        |office| office.put("prod/verified/20260602T010000Z-20260605T020000Z-deep-failed.json", b"{}"),
        nothing,
    ),
    day(
        "disproved",
        |office| office.put("prod/drills/20260605T020000Z.json", b"{ \"format_version\": 1, \"passed\": false }"),
        nothing,
    ),
    day(
        "retention",
        |office| {
            office.configure(&OWN, &keep_last(1, "min_age = \"24h\"").replace("min_age = \"0m\"\n", ""));
            drop(office.verb(&["accept"], "2026-06-05T01:30:00Z", 0));
            drop(office.worked("2026-06-05T01:40:00Z", 0));
            // As if the store had refused the certificates of the snapshots that went into the bin.
            std::fs::remove_dir_all(office.at("store/prod/forgotten")).unwrap();
        },
        nothing,
    ),
];

fn empty(office: &Office) {
    office.hide("mail");
    std::fs::create_dir(office.documents("mail")).unwrap();
}

/// The part of a red line that distinguishes it from others, without ages and counts.
fn lines(status: &Value) -> Vec<String> {
    let problems = status["problems"].as_array().unwrap().iter();
    problems.map(|problem| format!("{} {} {}", problem["kind"], problem["source"], problem["command"])).collect()
}

/// Runs the command of the first red line until no line is red, and returns the commands. Each command must clear its
/// line.
#[track_caller]
fn obey(office: &Office, what: &str, morning: &str) -> Vec<String> {
    let mut ran = Vec::new();
    for minute in 0..8 {
        let now = format!("{morning}:{:02}:00Z", 5 * minute);
        let all = office.run(&["--json", "status", "--env", "prod", "--now", &now]);
        if all.code == Some(0) {
            return ran;
        }
        let status = all.expect_code(4).json()["environments"][0].clone();
        let (line, command) =
            (lines(&status)[0].clone(), status["problems"][0]["command"].as_str().unwrap().to_owned());
        assert!(!command.is_empty(), "{what}: {status}");
        let at = format!("{morning}:{:02}:00Z", 5 * minute + 1);
        let words: Vec<&str> = command.split(' ').chain(["--now", &at]).collect();
        let outcome = office.run(&words);
        ran.push(command.clone());
        let after = format!("{morning}:{:02}:00Z", 5 * minute + 2);
        let left =
            office.run(&["--json", "status", "--env", "prod", "--now", &after]).json()["environments"][0].clone();
        assert!(
            !lines(&left).contains(&line),
            "{what}: `{words:?}` did not help with {line}: {} {left}",
            outcome.stderr
        );
    }
    panic!("{what}: still red after {ran:?}");
}

#[test]
fn every_red_line_names_the_command_that_makes_it_go() {
    for (number, Day { kind, make, mend }) in DAYS.into_iter().enumerate() {
        let what = format!("{number} {kind}");
        let office = Office::new(&["docs", "mail"], "");
        for day in 1..=5 {
            let _ = office.worked(&format!("2026-06-{day:02}T01:00:00Z"), 0);
        }
        office.is_green("2026-06-05T02:00:00Z");
        make(&office);
        let morning = if kind == "stale" { "2026-06-09T09" } else { "2026-06-06T01" };
        let status = office.status(&format!("{morning}:00:00Z"), 4);
        assert!(!commands(&status, kind).is_empty(), "{what}: {status}");
        mend(&office);
        let ran = obey(&office, &what, morning);
        assert!(ran.len() <= 4, "{what}: {ran:?}");
        // From then on, a night succeeds as usual.
        let next = office.run(&["--json", "backup", "--env", "prod", "--now", "2026-06-10T01:00:00Z"]);
        assert_eq!(next.code, Some(0), "{what}: {}", next.stderr);
        office.is_green("2026-06-10T02:00:00Z");
    }
}

#[test]
fn an_environment_that_was_never_backed_up_is_made_green_by_what_its_lines_say() {
    let office = Office::new(&["docs"], "");
    assert_eq!(commands(&office.status("2026-06-01T01:00:00Z", 4), "never"), ["init --env prod"]);
    let init = office.verb(&["init"], "2026-06-01T01:01:00Z", 0);
    assert_eq!(init["made"], true);
    assert_eq!(obey(&office, "never", "2026-06-01T02"), ["backup --env prod"]);
}

#[test]
fn a_time_zone_and_a_long_silence_are_answered_by_the_command_of_their_line() {
    let office = Office::new(&["docs"], "");
    let _ = office.worked("2026-06-01T01:00:00Z", 0);
    let config = office.at("dolibarr-backup.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("Europe/Paris", "America/Martinique")).unwrap();
    assert_eq!(obey(&office, "zone", "2026-06-01T02"), ["accept --env prod"]);
    let _ = office.worked("2026-07-17T01:00:00Z", 3);
    let ran = obey(&office, "gap", "2026-07-17T02");
    assert_eq!(ran, ["accept --env prod", "verify --env prod"]);
}

/// The objects of an unreadable record still exist, even if a person gives the record up.
#[test]
fn the_objects_of_a_record_that_is_given_up_stay_listed_and_restorable() {
    let office = Office::new(&["docs"], "");
    for day in 1..=3 {
        let _ = office.worked(&format!("2026-06-0{day}T01:00:00Z"), 0);
    }
    office.put("prod/snapshots/20260602T010000Z.json", b"{}");
    let _ = office.verb(&["accept", "--lost"], "2026-06-03T09:00:00Z", 0);
    for (night, day) in (4..=6).enumerate() {
        let _ = office.worked(&format!("2026-06-0{day}T01:00:00Z"), 0);
        office.age_bin(if night == 0 { 8 } else { 0 });
    }
    let now = "2026-06-06T02:00:00Z";
    let adopted = office.ids(now).into_iter().find(|id| id.starts_with("20260602")).unwrap();
    assert_eq!(office.restored("docs", ["--snapshot", &adopted], now), "2026-06-02T01:00:00Z");
}

/// The newest version of the environment's file is damaged: `init` continues from the previous version, not from an
/// empty one.
#[test]
fn what_was_answered_before_still_holds_after_the_newest_version_of_the_file_was_damaged() {
    let office = Office::new(&["docs", "mail"], "");
    for day in 1..=3 {
        let _ = office.worked(&format!("2026-06-0{day}T01:00:00Z"), 0);
    }
    let _ = office.verb(&["unforget", "20260601T010000Z"], "2026-06-03T09:00:00Z", 0);
    office.put("prod/environment/20260603T100000Z.json", b"{");
    // A configuration with half of the sources must not become the complete list of sources.
    office.configure(&OWN[..1], "");
    let _ = office.verb(&["init"], "2026-06-03T11:00:00Z", 0);
    let status = office.status("2026-06-03T12:00:00Z", 4);
    assert_eq!(commands(&status, "waiting"), ["accept --env prod --retire mail"], "{status}");
    let kept = office.snapshots("2026-06-03T12:00:00Z");
    let kept: Vec<&Value> = kept.iter().filter(|snapshot| snapshot["pinned"] == true).map(|s| &s["id"]).collect();
    assert_eq!(kept, ["20260601T010000Z"]);
    office.configure(&OWN, "");
    office.is_green("2026-06-03T13:00:00Z");
}

/// An environment whose file has no key yet, as version 1 wrote it.
#[test]
fn init_gives_an_environment_of_version_1_the_key_of_its_fingerprints_and_until_then_all_is_saved() {
    let office = Office::new(&["docs"], "");
    let _ = office.verb(&["init"], "2026-06-01T00:30:00Z", 0);
    let folder = office.at("store/prod/environment");
    let file = folder.join(office.environment_files().into_iter().next_back().unwrap());
    let text = std::fs::read_to_string(&file).unwrap();
    let without: String =
        text.lines().filter(|line| !line.contains("seal_key")).map(|line| format!("{line}\n")).collect();
    std::fs::write(&file, without.replace("\"format_version\": 2", "\"format_version\": 1")).unwrap();
    let outcome = |now: &str| office.backup(now, 0)["snapshot"]["sources"]["docs"]["outcome"].clone();
    for day in 1..=3 {
        assert_eq!(outcome(&format!("2026-06-0{day}T01:00:00Z")), "saved", "without a key no fingerprint is sealed");
    }
    let _ = office.verb(&["init"], "2026-06-03T11:00:00Z", 0);
    assert_eq!(outcome("2026-06-04T01:00:00Z"), "saved");
    assert_eq!(outcome("2026-06-05T01:00:00Z"), "unchanged");
    office.is_green("2026-06-05T02:00:00Z");
}

/// An older version that runs for one night must not give up what a newer one wrote.
#[test]
fn what_a_newer_version_wrote_is_given_up_by_no_older_one() {
    let newer = b"{ \"format_version\": 99, \"what\": \"nobody knows\" }";
    for (key, verb) in [
        ("prod/snapshots/20260602T010000Z.json", vec!["accept", "--lost"]),
        ("prod/environment/20260604T010000Z.json", vec!["init"]),
    ] {
        let office = Office::new(&["docs"], "");
        for day in 1..=3 {
            let _ = office.worked(&format!("2026-06-0{day}T01:00:00Z"), 0);
        }
        office.put(key, newer);
        let before = office.environment_files();
        let refused = |verb: &[&str]| {
            let outcome = office.run(&[verb, &["--env", "prod", "--now", "2026-06-03T09:00:00Z"]].concat());
            assert_eq!(outcome.code, Some(64), "{verb:?}: {}", outcome.stderr);
            for part in ["has format 99", "use the newer version"] {
                assert!(outcome.stderr.contains(part), "{verb:?}: {}", outcome.stderr);
            }
        };
        refused(&verb);
        refused(&["accept", "--lost", "--dry-run"]);
        if key.contains("environment") {
            refused(&["unforget", "20260601T010000Z"]);
        }
        let status = || office.run(&["status", "--env", "prod", "--now", "2026-06-03T09:00:00Z"]).expect_code(4);
        let (shown, hint) = (status().stdout, "hint: use the version that wrote it");
        assert!(shown.contains("newer version of dolibarr-backup"), "{shown}");
        assert!(!shown.contains("--lost") && !shown.contains("`init"), "{shown}");
        office.put("prod/snapshots/20260601T010000Z.json", b"{");
        let both = status().stderr;
        assert!(both.contains(hint), "{verb:?} can be answered only by the newer version: {both}");
        assert_eq!(office.environment_files(), before, "{verb:?} wrote something");
    }
}

/// A verdict of `verify` stays in the store, so an older version gives none on what a newer one wrote.
#[test]
fn an_older_version_does_not_verify_what_a_newer_one_wrote() {
    let office = Office::new(&["docs"], "");
    for day in 1..=3 {
        let _ = office.worked(&format!("2026-06-0{day}T01:00:00Z"), 0);
    }
    office.put("prod/snapshots/20260602T010000Z.json", b"{ \"format_version\": 99, \"what\": \"nobody knows\" }");
    let verify = |which: &[&str]| {
        let outcome = office.run(&[&["verify", "--env", "prod", "--now", "2026-06-03T09:00:00Z"], which].concat());
        assert_eq!(outcome.code, Some(64), "{which:?}: {}", outcome.stderr);
        for part in ["20260602T010000Z", "has format 99", "use the newer version"] {
            assert!(outcome.stderr.contains(part), "{which:?}: {}", outcome.stderr);
        }
        outcome.stdout
    };
    let marks = || {
        let entries = std::fs::read_dir(office.at("store/prod/verified")).into_iter().flatten();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect::<BTreeSet<String>>()
    };
    assert_eq!(verify(&["--snapshot", "20260602T010000Z"]), "");
    assert_eq!(marks(), BTreeSet::new(), "a verdict on a snapshot that this version cannot read");
    let shown = verify(&["--all"]);
    assert!(shown.contains("snapshot 20260601T010000Z") && shown.contains("snapshot 20260603T010000Z"), "{shown}");
    assert!(!shown.contains("FAILED") && !shown.contains("BROKEN"), "{shown}");
    let marks = marks();
    assert!(marks.len() >= 2, "{marks:?}");
    assert!(marks.iter().all(|mark| !mark.starts_with("20260602T010000Z") && mark.contains("passed")), "{marks:?}");
    let drill = office.run(&["drill", "--env", "prod", "--now", "2026-06-03T11:00:00Z"]).expect_code(0);
    assert!(drill.stdout.contains("passed") && drill.stdout.contains("has format 99"), "{}", drill.stdout);
}
