//! What `status` reports from the store alone.

use crate::scene::{COMPILED, Scene, complains};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use tempfile::TempDir;
use tests::binary::{Outcome, Run};

/// An environment with only documents. `more` may add another environment, which is never backed up.
struct Office(TempDir);

impl Office {
    fn new(more: &str) -> Self {
        let office = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir(office.at("documents")).unwrap();
        std::fs::write(office.at("documents/a.txt"), "a").unwrap();
        office.configure(more);
        office
    }

    fn configure(&self, more: &str) {
        let text = format!(
            "time_zone = \"Europe/Paris\"\n[store]\nurl = \"file://{0}/store\"\n[env.prod.sources.docs]\nkind = \"directory\"\npath = \"{0}/documents\"\n{more}",
            self.0.path().display()
        );
        std::fs::write(self.at("dolibarr-backup.toml"), text).unwrap();
    }

    fn at(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Outcome {
        Run::new(arguments.iter().copied()).folder(self.0.path()).env("XDG_CACHE_HOME", COMPILED).finish()
    }

    fn backup(&self, now: &str) {
        let _ = self.run(&["backup", "--env", "prod", "--now", now]).expect_code(0);
    }

    #[track_caller]
    fn status(&self, code: i32, now: &str, more: &[&str]) -> Value {
        let all = [&["--json", "status", "--now", now][..], more].concat();
        self.run(&all).expect_code(code).json()
    }

    fn put(&self, key: &str, text: &str) {
        let path = self.at("store").join(key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

/// A database whose server does not answer, and documents that do not exist.
const SANDBOX: &str = "[env.sandbox.sources.db]\nkind = \"postgres\"\nhost = \"192.0.2.1\"\ndatabase = \"erp\"\n\
credentials = { user = \"u\" }\n[env.sandbox.sources.docs]\nkind = \"directory\"\npath = \"/nowhere/at/all\"\n";

fn problems(environment: &Value) -> Vec<(&str, Option<&str>)> {
    let problems = environment["problems"].as_array().unwrap().iter();
    problems.map(|problem| (problem["kind"].as_str().unwrap(), problem["source"].as_str())).collect()
}

fn files(folder: &Path) -> BTreeMap<std::path::PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path))
        } else {
            drop(found.insert(path.clone(), std::fs::read(&path).unwrap()))
        }
    }
    found
}

#[test]
fn what_is_configured_and_was_never_backed_up_is_seen_and_neither_source_is_opened() {
    let office = Office::new(SANDBOX);
    office.backup("2026-06-30T01:00:00Z");
    let before = files(&office.at("store"));
    std::fs::remove_dir_all(office.at("documents")).unwrap();
    let status = office.status(4, "2026-06-30T12:00:00Z", &[]);
    let [prod, sandbox] = status["environments"].as_array().unwrap().as_slice() else { panic!("{status}") };
    assert_eq!((status["format_version"].as_u64(), status["healthy"].as_bool()), (Some(1), Some(false)));
    assert_eq!((prod["healthy"].as_bool(), problems(prod).len()), (Some(true), 0), "{prod}");
    assert_eq!(prod["sources"]["docs"]["last_snapshot"], "20260630T010000Z");
    assert_eq!(prod["retention"]["state"], "applied");
    assert_eq!(problems(sandbox), [("waiting", None), ("never", Some("db")), ("never", Some("docs"))]);
    for problem in sandbox["problems"].as_array().unwrap() {
        assert_eq!(problem["command"], "init --env sandbox", "{problem}");
    }
    assert_eq!(sandbox["sources"]["db"]["last_success"], Value::Null);
    assert_eq!(files(&office.at("store")), before, "a status writes nothing");

    let shown = office.run(&["status", "--now", "2026-06-30T12:00:00Z"]);
    complains(&shown, 4, "sandbox: the store holds nothing for sandbox: its disk is not mounted");
    assert!(shown.stderr.contains("hint: if this is intended, run `init --env sandbox`"), "{}", shown.stderr);
    assert!(shown.stdout.contains("never") && shown.stdout.contains("2026-06-30 03:00"), "{}", shown.stdout);
    let alone = office.run(&["status", "--env", "prod", "--now", "2026-06-30T12:00:00Z"]).expect_code(0);
    assert!(alone.stdout.contains("all is well"), "{}", alone.stdout);
}

/// Of several runs in one second, each is named one second after the previous one, but none counts as from the future.
#[test]
fn what_a_run_found_is_said_in_the_same_second() {
    let office = Office::new("");
    let now = "2026-06-30T01:00:00Z";
    for n in 0..12 {
        std::fs::write(office.at(&format!("documents/{n}.txt")), "x").unwrap();
    }
    office.backup(now);
    std::fs::rename(office.at("documents"), office.at("away")).unwrap();
    std::fs::create_dir(office.at("documents")).unwrap();
    let empty = office.run(&["backup", "--env", "prod", "--now", now]);
    assert_eq!(empty.code, Some(3), "{}", empty.stderr);
    let status = office.status(4, now, &[]);
    assert_eq!(problems(&status["environments"][0]), [("suspect", Some("docs"))]);
    let listed = office.run(&["list", "--env", "prod", "--now", now]).expect_code(0).stdout;
    assert!(listed.contains("SUSPECT") && !listed.contains("future"), "{listed}");
    let _ = office.run(&["accept", "--env", "prod", "--now", now]).expect_code(0);
    let _ = office.status(0, now, &[]);
}

#[test]
fn a_backup_becomes_stale_at_the_age_that_is_given() {
    let office = Office::new("");
    office.backup("2026-06-30T01:00:00Z");
    let _ = office.status(0, "2026-07-01T03:00:00Z", &[]);
    let stale = office.status(4, "2026-07-01T03:00:01Z", &[]);
    assert_eq!(problems(&stale["environments"][0]), [("stale", Some("docs"))]);
    let _ = office.status(0, "2026-07-01T03:00:01Z", &["--max-age", "27h"]);
    // A day on which nothing changed is backed up like any other.
    office.backup("2026-07-01T01:00:00Z");
    let fresh = office.status(0, "2026-07-02T02:00:00Z", &[]);
    let docs = &fresh["environments"][0]["sources"]["docs"];
    assert_eq!(
        (docs["last_outcome"].as_str(), docs["last_saved"].as_str()),
        (Some("unchanged"), Some("2026-06-30T01:00:00Z"))
    );
}

#[test]
fn what_cannot_be_asked_is_said_in_one_sentence() {
    let office = Office::new("");
    complains(&office.run(&["status", "--env", "prd"]), 64, "unknown environment `prd`");
    let both = office.run(&["--json", "status", "--prometheus"]).expect_code(2);
    assert!(
        both.stderr.contains("--json and --prometheus cannot be combined") && both.stdout.is_empty(),
        "{}",
        both.stderr
    );
    let soon = office.run(&["status", "--max-age", "soon"]).expect_code(2);
    assert!(
        soon.stderr.contains("`soon` is not a valid age; expected a number with a unit, such as 24h, 90m or 7d"),
        "{}",
        soon.stderr
    );
    let gone = office.run(&["status", "--config", "gone.toml"]);
    complains(&gone, 64, "gone.toml");
}

#[test]
fn an_object_or_a_record_that_is_lost_is_missing() {
    let office = Office::new("");
    for day in 1..=3 {
        std::fs::write(office.at("documents/a.txt"), format!("{day}")).unwrap();
        office.backup(&format!("2026-06-0{day}T01:00:00Z"));
    }
    let now = "2026-06-03T12:00:00Z";
    let _ = office.status(0, now, &[]);
    std::fs::remove_file(office.at("store/prod/docs/20260602T010000Z.tar.gz")).unwrap();
    let status = office.status(4, now, &[]);
    let prod = &status["environments"][0];
    assert_eq!(problems(prod), [("missing", None)]);
    assert!(prod["problems"][0]["said"].as_str().unwrap().ends_with("20260602T010000Z"), "{prod}");
    office.put("prod/snapshots/20260601T010000Z.json", "{}");
    let status = office.status(4, now, &[]);
    assert_eq!(problems(&status["environments"][0]), [("missing", None), ("missing", None)]);
    assert_eq!(status["environments"][0]["snapshots"]["damaged"], 1);
}

#[test]
fn a_source_that_failed_in_the_last_run_is_named_and_freezes_retention() {
    let Some(scene) = Scene::small() else { return };
    scene.backup(&["--now", "2026-06-30T01:00:00Z"]);
    let now = ["--json", "status", "--now", "2026-06-30T12:00:00Z"];
    let _ = scene.run(now).expect_code(0);
    let nowhere = |text: &str| text.replace("127.0.0.1", "127.0.0.2");
    let failed = scene.run_edited(nowhere, &["backup", "--env", "prod", "--now", "2026-06-30T02:00:00Z"]);
    assert_eq!(failed.code, Some(75), "{}", failed.stderr);
    let status = scene.run(now).expect_code(4).json();
    let prod = &status["environments"][0];
    assert_eq!(problems(prod), [("failed", Some("db"))], "{prod}");
    assert_eq!(prod["retention"]["state"], "frozen");
    assert_eq!(prod["sources"]["db"]["last_snapshot"], "20260630T010000Z");
    assert_eq!(prod["sources"]["docs"]["last_snapshot"], "20260630T020000Z");
}

#[test]
fn retention_that_was_not_carried_out_is_seen_until_it_is() {
    let keep = |keep: usize, guard: &str| {
        format!(
            "[plugins.retention]\ncomponent = \"retention-last.wasm\"\nsettings = {{ keep = {keep} }}\n[guard]\nlegal_years = 0\n{guard}"
        )
    };
    let office = Office::new(&keep(9, ""));
    for day in 1..=5 {
        office.backup(&format!("2026-06-0{day}T01:00:00Z"));
    }
    let now = "2026-06-05T12:00:00Z";
    assert_eq!(office.status(0, now, &[])["environments"][0]["retention"]["state"], "applied");
    office.configure(&keep(2, ""));
    let _ = office.run(&["accept", "--env", "prod", "--now", "2026-06-05T12:01:00Z"]).expect_code(0);
    office.backup("2026-06-05T12:02:00Z");
    // As if the store had refused the certificates of the snapshots that went into the bin.
    std::fs::remove_dir_all(office.at("store/prod/forgotten")).unwrap();
    let now = "2026-06-05T12:03:00Z";
    let behind = office.status(4, now, &[]);
    assert_eq!(problems(&behind["environments"][0]), [("retention", None)]);
    assert_eq!(behind["environments"][0]["retention"]["due"], 4);
    office.configure(&keep(2, "max_forget = 1"));
    assert_eq!(
        office.status(4, now, &[])["environments"][0]["retention"]["due"],
        1,
        "only the oldest is due; the others follow later"
    );
    let _ = office.run(&["prune", "--env", "prod", "--now", now]).expect_code(0);
    let one = office.status(4, now, &[]);
    assert_eq!(one["environments"][0]["retention"]["due"], 1, "the next one is due");
    let _ = office.run(&["prune", "--env", "prod", "--no-limit", "--now", now]).expect_code(0);
    let binned = office.status(0, now, &[]);
    assert_eq!(binned["environments"][0]["snapshots"]["in_bin"], 4, "{binned}");
    // A plugin that cannot be loaded must not hide the rest.
    office.configure("[plugins.retention]\ncomponent = \"gone.wasm\"\n");
    let without = office.status(4, now, &[]);
    assert_eq!(problems(&without["environments"][0]), [("waiting", None)]);
    office.configure(&keep(2, "[plugins]\nrequire_digest = true\n"));
    let without = office.status(4, now, &[]);
    assert_eq!(without["environments"][0]["retention"]["state"], "refused");
    assert_eq!(without["environments"][0]["sources"]["docs"]["last_snapshot"], "20260605T120200Z");
}

#[test]
fn a_verification_or_drill_that_is_missing_too_long_or_failed_is_said() {
    let office = Office::new("");
    office.backup("2026-06-01T01:00:00Z");
    office.backup("2026-07-07T01:00:00Z");
    let now = "2026-07-07T12:00:00Z";
    let status = |code| office.status(code, now, &[]);
    let unverified = status(4);
    assert_eq!(problems(&unverified["environments"][0]), [("unverified", None)]);
    assert_eq!(unverified["environments"][0]["last_verification"], Value::Null);
    let _ = office.status(0, now, &["--max-unverified", "40d"]);
    office.put("prod/verified/20260601T010000Z-20260604T020000Z-read-passed.json", "{}");
    let _ = status(0);
    let _ = office.status(4, now, &["--max-unverified", "7d"]);
    office.put("prod/drills/20260703T020000Z.json", "{ \"format_version\": 1, \"passed\": true }");
    let drilled = office.status(0, now, &["--max-unverified", "7d"]);
    assert_eq!(drilled["environments"][0]["last_drill"]["at"], "2026-07-03T02:00:00Z");
    assert_eq!(drilled["environments"][0]["last_proof_passed"], "2026-07-03T02:00:00Z");
    office.put("prod/drills/20260704T020000Z.json", "{ \"format_version\": 1, \"passed\": false }");
    assert_eq!(problems(&status(4)["environments"][0]), [("disproved", None)]);
    office.put("prod/drills/20260705T020000Z.json", "{ \"format_version\": 1, \"passed\": true }");
    office.put("prod/drills/20260706T020000Z.html", "a page");
    let _ = status(0);
    office.put("prod/verified/20260707T010000Z-20260707T020000Z-deep-failed.json", "{}");
    assert_eq!(problems(&status(4)["environments"][0]), [("disproved", None)]);
    let shown = office.run(&["status", "--now", now]).stdout;
    assert!(shown.contains("2026-07-07 04:00, FAILED"), "{shown}");
}

#[test]
fn what_verify_and_drill_leave_in_the_store_is_what_status_reads() {
    let Some(scene) = Scene::small() else { return };
    scene.backup(&["--now", "2026-05-17T01:00:00Z"]);
    scene.backup(&["--now", "2026-06-30T01:00:00Z"]);
    let run = |verb: &[&str], now: &str, code: i32| {
        let all = [&["--json"], verb, &["--now", now]].concat();
        scene.run(all).expect_code(code).json()
    };
    let status = |now: &str, code: i32| run(&["status"], now, code)["environments"][0].clone();
    assert_eq!(problems(&status("2026-06-30T02:00:00Z", 4)), [("unverified", None)]);
    let _ = run(&["verify", "--env", "prod"], "2026-06-30T03:00:00Z", 0);
    let verified = status("2026-06-30T04:00:00Z", 0);
    assert_eq!(verified["last_verification"]["passed"], true);
    assert_eq!(verified["last_verification"]["at"], "2026-06-30T03:00:00Z");
    assert_eq!(verified["last_drill"], Value::Null);
    let _ = run(&["drill", "--env", "prod"], "2026-06-30T05:00:00Z", 0);
    let drilled = status("2026-06-30T06:00:00Z", 0);
    assert_eq!(
        (drilled["last_drill"]["at"].as_str(), drilled["last_drill"]["passed"].as_bool()),
        (Some("2026-06-30T05:00:00Z"), Some(true))
    );
    let archive = scene.store.join("prod/docs/20260630T010000Z.tar.gz");
    let mut bytes = std::fs::read(&archive).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&archive, bytes).unwrap();
    let _ = run(&["verify", "--env", "prod"], "2026-06-30T07:00:00Z", 4);
    assert_eq!(problems(&status("2026-06-30T08:00:00Z", 4)), [("disproved", None)]);
    let _ = run(&["drill", "--env", "prod"], "2026-06-30T09:00:00Z", 4);
    assert_eq!(problems(&status("2026-06-30T10:00:00Z", 4)), [("disproved", None), ("disproved", None)]);
}

#[test]
fn metrics_are_valid_stable_and_say_never_as_zero() {
    let office = Office::new(SANDBOX);
    office.backup("2026-06-30T01:00:00Z");
    let run = || office.run(&["status", "--prometheus", "--now", "2026-06-30T12:00:00Z"]).expect_code(4);
    let text = run().stdout;
    assert_eq!(run().stdout, text, "the same every time");
    let (mut named, mut samples) = (Vec::new(), BTreeMap::new());
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            assert!(help.split_once(' ').is_some_and(|(_, said)| !said.is_empty()), "{line}");
            continue;
        }
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert_eq!(kind, "gauge");
            named.push(name);
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("not a sample: {line:?}"));
        let (name, labels) = sample.split_once('{').unwrap();
        assert_eq!(named.last(), Some(&name), "samples follow their type");
        assert!(labels.ends_with("\"}") && labels.starts_with("env=\""), "{line}");
        assert!(value.parse::<i64>().is_ok(), "{line}");
        assert!(samples.insert(sample.to_owned(), value.to_owned()).is_none(), "a sample occurs twice: {line}");
    }
    let expected = "dolibarr_backup_last_success_timestamp_seconds dolibarr_backup_last_saved_timestamp_seconds \
         dolibarr_backup_object_size_bytes dolibarr_backup_source_whole \
         dolibarr_backup_last_complete_timestamp_seconds dolibarr_backup_last_verification_timestamp_seconds \
         dolibarr_backup_last_verification_passed dolibarr_backup_last_drill_timestamp_seconds \
         dolibarr_backup_last_drill_passed dolibarr_backup_last_proof_timestamp_seconds \
         dolibarr_backup_retention_ok dolibarr_backup_snapshots dolibarr_backup_bin_snapshots \
         dolibarr_backup_waiting dolibarr_backup_problems";
    assert_eq!(named.join(" "), expected);
    for (sample, value) in [
        ("dolibarr_backup_last_success_timestamp_seconds{env=\"prod\",source=\"docs\"}", "1782781200"),
        ("dolibarr_backup_last_success_timestamp_seconds{env=\"sandbox\",source=\"db\"}", "0"),
        ("dolibarr_backup_last_drill_timestamp_seconds{env=\"prod\"}", "0"),
        ("dolibarr_backup_retention_ok{env=\"prod\"}", "1"),
        ("dolibarr_backup_snapshots{env=\"prod\",state=\"complete\"}", "1"),
        ("dolibarr_backup_problems{env=\"prod\"}", "0"),
        ("dolibarr_backup_problems{env=\"sandbox\"}", "3"),
        ("dolibarr_backup_source_whole{env=\"prod\",source=\"docs\"}", "1"),
        ("dolibarr_backup_source_whole{env=\"sandbox\",source=\"docs\"}", "0"),
        ("dolibarr_backup_waiting{env=\"prod\"}", "0"),
        ("dolibarr_backup_waiting{env=\"sandbox\"}", "1"),
        ("dolibarr_backup_bin_snapshots{env=\"prod\"}", "0"),
    ] {
        assert_eq!(samples.get(sample).map(String::as_str), Some(value), "{sample} in:\n{text}");
    }
    assert!(text.ends_with('\n'));
}
