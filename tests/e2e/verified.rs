//! `verify` finds every changed byte and every changed record, and a restore refuses the same damage before it changes
//! a target.

use crate::scene::{DATABASE, Scene, age_all, complains, key, signal};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tests::binary::Outcome;

fn scene() -> Option<Scene> {
    let mut scene = Scene::small()?;
    scene.config = scene.config.server("lab", scene.server.socket(), scene.server.port());
    Some(scene)
}

fn verify(scene: &Scene, more: &[&str]) -> Outcome {
    scene.run(["--json", "verify", "--env", "prod"].into_iter().chain(more.iter().copied()))
}

/// The problems that the result names. Asserts that there are any.
#[track_caller]
fn problems(outcome: &Outcome) -> String {
    assert_eq!(outcome.code, Some(4), "stdout:\n{}\nstderr:\n{}", outcome.stdout, outcome.stderr);
    let result = outcome.json();
    let verifications = result["verifications"].as_array().unwrap().iter();
    let sources = verifications.flat_map(|v| v["sources"].as_object().unwrap().values().cloned().collect::<Vec<_>>());
    let of_sources = sources.flat_map(|source| source["problems"].as_array().cloned().unwrap_or_default());
    let of_chain = result["chain"]["problems"].as_array().unwrap().clone();
    of_sources.chain(of_chain).map(|problem| format!("{}\n", problem.as_str().unwrap())).collect()
}

/// A separate small file system.
pub struct SmallDisk {
    pub path: PathBuf,
}

/// Mounts a file system of this size. If a test may not mount one, returns `None` and records the skip.
pub fn small_disk(scene: &Scene, size: &str) -> Option<SmallDisk> {
    let path = scene.folder.path().join("small");
    std::fs::create_dir(&path).unwrap();
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(&path).output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        tests::skip("this machine does not let a test mount a small file system");
        return None;
    }
    Some(SmallDisk { path })
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("--lazy").arg(&self.path).status());
    }
}

/// A folder for throwaway servers, with a short path that every user may enter.
fn scratch(scene: &Scene) -> PathBuf {
    let scratch = scene.folder.path().join("s");
    std::fs::create_dir_all(&scratch).unwrap();
    scratch
}

fn entries(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

#[test]
fn a_whole_store_passes_and_the_guard_learns_of_it() {
    let Some(mut scene) = scene() else { return };
    scene.config =
        scene.config.fingerprint_settings("documents = \"content\"").retention("retention-last.wasm", "keep = 1");
    scene.config = scene.config.guard("min_age = \"0m\"\nlegal_years = 0");
    let scratch = scratch(&scene);
    scene.backup(&["--now", "2026-06-01T01:00:00Z"]);
    assert_eq!(scene.list()[0]["verified"], false);

    let read = verify(&scene, &["--now", "2026-06-01T02:00:00Z"]).expect_code(0).json();
    assert_eq!((read["passed"].as_bool(), read["format_version"].as_u64()), (Some(true), Some(1)));
    let at = ["--now", "2026-06-01T03:00:00Z", "--deep", "--scratch", scratch.to_str().unwrap()];
    let deep = verify(&scene, &at).expect_code(0).json();
    for source in ["db", "docs"] {
        let found = &deep["verifications"][0]["sources"][source];
        assert_eq!(found["compared"], "equal", "{source}: {found}");
    }
    assert_eq!(entries(&scratch), 0, "something was left in the scratch folder");
    assert_eq!(scene.list()[0]["verified"], true);
    let records: Vec<_> = scene.stored().into_keys().filter(|key| key.starts_with("prod/verified/")).collect();
    assert_eq!(
        records,
        [
            "prod/verified/20260601T010000Z-20260601T020000Z-read-passed.json",
            "prod/verified/20260601T010000Z-20260601T030000Z-deep-passed.json"
        ]
    );

    for day in ["02", "03", "04", "12", "13"] {
        if day == "12" {
            // Snapshots stay in the bin for a week, and for the two nights after it.
            age_all(&scene.store.join("prod"), 8, 0);
        }
        scene.server.psql(DATABASE, tests::sample::CHANGE_INVOICE);
        scene.backup(&["--now", &format!("2026-06-{day}T01:00:00Z")]);
    }
    let listed = scene.list();
    let outside = listed.iter().filter(|snapshot| snapshot["in_bin_since"].is_null());
    let kept: Vec<_> = outside.map(|snapshot| snapshot["id"].clone()).collect();
    assert_eq!(kept, ["20260613T010000Z", "20260601T010000Z"], "the last verified one was forgotten");
    let deep = verify(&scene, &["--all", "--deep", "--server", "lab"]).expect_code(0).json();
    let compared: Vec<_> =
        deep["verifications"].as_array().unwrap().iter().map(|v| &v["sources"]["db"]["compared"]).collect();
    assert_eq!(compared, ["equal"; 4], "the two in the bin are verified too: {deep}");
    let all = verify(&scene, &["--all"]).expect_code(0).json();
    assert_eq!((&all["chain"]["records"], &all["chain"]["certificates"]), (&4.into(), &2.into()));
    assert_eq!(verify(&scene, &["--sample", "5"]).expect_code(0).json()["verifications"].as_array().unwrap().len(), 4);
    complains(&scene.run(["verify", "--env", "prod", "--snapshot", "20260602T010000Z"]), 2, "was forgotten");
    assert_eq!(scene.run(["verify", "--env", "prod", "--all", "--sample", "1"]).code, Some(2));
}

#[test]
fn a_store_without_a_snapshot_has_nothing_to_verify() {
    let Some(scene) = scene() else { return };
    complains(&scene.run(["verify", "--env", "prod"]), 2, "there is no complete snapshot");
    complains(&scene.run(["verify", "--env", "prod", "--all"]), 2, "no snapshot to verify");
}

/// Asserts that a restore of a source with a damaged object fails and does not touch the target.
#[track_caller]
fn restore_refuses(scene: &Scene, source: &str, code: i32) {
    let into =
        if source == "db" { "refused".to_owned() } else { scene.folder.path().join("refused").display().to_string() };
    let mut arguments = vec!["restore", "--env", "prod", "--source", source, "--into", &into];
    if source == "db" {
        arguments.extend(["--server", "lab"]);
    }
    let run = scene.run(arguments.iter().copied());
    assert_eq!(run.code, Some(code), "{}", run.stderr);
    assert!(run.stderr.contains("hint: "), "{}", run.stderr);
    let made = scene.server.psql("postgres", "SELECT count(*) FROM pg_database WHERE datname LIKE 'refused%'");
    assert_eq!(made.trim(), "0", "{}", run.stderr);
    assert!(!scene.folder.path().join("refused").exists(), "{}", run.stderr);
}

#[test]
fn one_flipped_bit_anywhere_is_found_and_named_and_nothing_is_restored_from_it() {
    let Some(scene) = scene() else { return };
    let made = scene.backup(&[]);
    let dump = key(&made["snapshot"]["sources"], "db");
    let archive = key(&made["snapshot"]["sources"], "docs");
    let index = archive.replace(".tar.gz", ".index");
    let mut runner = TestRunner::new(Config { cases: 6, failure_persistence: None, ..Config::default() });
    let flips = (0.0..1.0_f64, 0..8_u8);
    for (object, source) in [(dump, "db"), (archive, "docs"), (index, "docs")] {
        let path = scene.store.join(&object);
        let whole = std::fs::read(&path).unwrap();
        let result = runner.run(&flips, |(at, bit)| {
            let mut bytes = whole.clone();
            let at = ((bytes.len() - 1) as f64 * at) as usize;
            bytes[at] ^= 1 << bit;
            std::fs::write(&path, bytes).unwrap();
            let found = problems(&verify(&scene, &[]));
            prop_assert!(found.contains(&object), "{object} at {at}: {found}");
            restore_refuses(&scene, source, 4);
            Ok(())
        });
        result.unwrap_or_else(|error| panic!("{object}: {error}"));
        std::fs::write(&path, whole).unwrap();
    }
    let _ = verify(&scene, &[]).expect_code(0);
}

#[test]
fn what_is_cut_off_swapped_emptied_or_gone_is_named() {
    let Some(scene) = scene() else { return };
    let first = scene.backup(&["--now", "2026-06-01T01:00:00Z"]);
    scene.server.psql(DATABASE, tests::sample::CHANGE_INVOICE);
    tests::sample::rewrite_invoice_pdf(&scene.documents).unwrap();
    let second = scene.backup(&["--now", "2026-06-02T01:00:00Z"]);
    let of = |run: &serde_json::Value, source: &str| key(&run["snapshot"]["sources"], source);
    for source in ["db", "docs"] {
        let (old, object) = (of(&first, source), of(&second, source));
        let path = scene.store.join(&object);
        let (whole, other) = (std::fs::read(&path).unwrap(), std::fs::read(scene.store.join(old)).unwrap());
        assert_ne!(whole, other);
        let longer = [&whole[..], b"\0"].concat();
        for (what, bytes) in [
            ("cut off", Some(&whole[..whole.len() - 1])),
            ("cut in half", Some(&whole[..whole.len() / 2])),
            ("emptied", Some(&whole[..0])),
            ("longer", Some(&longer[..])),
            ("swapped", Some(&other[..])),
            ("gone", None),
        ] {
            match bytes {
                Some(bytes) => std::fs::write(&path, bytes).unwrap(),
                None => std::fs::remove_file(&path).unwrap(),
            }
            let found = problems(&verify(&scene, &["--snapshot", "20260602T010000Z"]));
            assert!(found.contains(&object), "{source} {what}: {found}");
            let newest =
                ["restore", "--env", "prod", "--source", source, "--snapshot", "20260602T010000Z", "--into", "refused"];
            let more: &[&str] = if source == "db" { &["--server", "lab"] } else { &[] };
            complains(&scene.run(newest.iter().chain(more).copied()), 4, "");
            assert!(!scene.folder.path().join("refused").exists());
            std::fs::write(&path, &whole).unwrap();
        }
    }
    let _ = verify(&scene, &["--all"]).expect_code(0);
    let index = scene.store.join(of(&second, "docs").replace(".tar.gz", ".index"));
    std::fs::remove_file(&index).unwrap();
    assert!(problems(&verify(&scene, &[])).contains("20260602T010000Z.index is missing"));
}

#[test]
fn a_record_that_was_edited_moved_or_removed_is_named_across_certificates() {
    let Some(mut scene) = scene() else { return };
    scene.config = scene.config.retention("retention-last.wasm", "keep = 3").guard("min_age = \"0m\"\nlegal_years = 0");
    for day in 1..=6 {
        scene.backup(&["--now", &format!("2026-06-{day:02}T01:00:00Z")]);
    }
    scene.empty_bin("2026-06-06T01:30:00Z");
    let at = |day: u32| scene.store.join(format!("prod/snapshots/202606{day:02}T010000Z.json"));
    let certificate = scene.store.join("prod/forgotten/20260602T010000Z.json");
    let certified = std::fs::read_to_string(&certificate).unwrap();
    let (fourth, fifth) = (std::fs::read(at(4)).unwrap(), std::fs::read(at(5)).unwrap());
    scene.empty_bin("2026-06-06T02:00:00Z");
    assert_eq!(scene.list().len(), 3);
    let clean = verify(&scene, &["--all"]).expect_code(0).json();
    assert_eq!(clean["chain"]["certificates"], 3);
    let restore = || {
        std::fs::write(at(4), &fourth).unwrap();
        std::fs::write(at(5), &fifth).unwrap();
        std::fs::write(&certificate, &certified).unwrap();
    };

    let text = String::from_utf8(fifth.clone()).unwrap();
    std::fs::write(at(5), text.replace("\"host_version\": \"", "\"host_version\": \"9")).unwrap();
    assert!(
        problems(&verify(&scene, &[])).contains("the record of 20260605T010000Z is not what 20260606T010000Z names")
    );
    restore();
    std::fs::write(at(5), &text[..text.len() / 2]).unwrap();
    assert!(problems(&verify(&scene, &[])).contains("the record of snapshot 20260605T010000Z of prod cannot be read"));
    restore();
    std::fs::remove_file(at(5)).unwrap();
    assert!(problems(&verify(&scene, &[])).contains("the record of 20260605T010000Z, which 20260606T010000Z names"));
    restore();
    std::fs::write(at(4), &fifth).unwrap();
    std::fs::write(at(5), &fourth).unwrap();
    let found = problems(&verify(&scene, &[]));
    assert!(found.contains("20260604T010000Z") && found.contains("20260605T010000Z"), "{found}");
    restore();
    std::fs::write(&certificate, certified.replace("\"record_sha256\": \"", "\"record_sha256\": \"0")).unwrap();
    assert!(problems(&verify(&scene, &[])).contains("the certificate of 20260602T010000Z is not what"));
    restore();
    std::fs::remove_file(&certificate).unwrap();
    assert!(problems(&verify(&scene, &[])).contains("the record of 20260602T010000Z, which 20260603T010000Z names"));
    restore();
    std::fs::write(&certificate, certified.replacen("\"format_version\": ", "\"format_version\": 9", 1)).unwrap();
    let newer = verify(&scene, &[]).expect_code(0).json();
    assert!(newer["chain"]["notes"].to_string().contains("the certificate of 20260602T010000Z of prod has format 9"));
    restore();

    // No later record names the newest one, so only the verification that saw it can prove a change.
    let sixth = std::fs::read_to_string(at(6)).unwrap();
    std::fs::write(at(6), sixth.replace("\"host_version\": \"", "\"host_version\": \"9")).unwrap();
    assert!(problems(&verify(&scene, &[])).contains("the record of 20260606T010000Z is not the one that was verified"));
    std::fs::remove_file(at(6)).unwrap();
    assert!(problems(&verify(&scene, &[])).contains("the record of 20260606T010000Z, which was verified"));
    std::fs::write(at(6), sixth).unwrap();
    let _ = verify(&scene, &["--all"]).expect_code(0);
}

#[test]
fn an_incomplete_run_is_no_restore_point_and_no_damage() {
    let Some(scene) = scene() else { return };
    let port = format!("port = {}", scene.server.port());
    let failed = scene.run_edited(
        |text| text.replacen(&port, "port = 1", 1),
        &["backup", "--env", "prod", "--now", "2026-06-01T01:00:00Z"],
    );
    assert_eq!(failed.code, Some(75), "{}", failed.stderr);
    let only = verify(&scene, &["--all"]).expect_code(0).json();
    assert_eq!(only["verifications"][0]["passed"], true, "what the run saved is whole: {only}");
    assert_eq!((&scene.list()[0]["complete"], &scene.list()[0]["verified"]), (&false.into(), &true.into()));
    complains(&scene.run(["verify", "--env", "prod"]), 2, "there is no complete snapshot");
}

#[test]
fn a_deep_look_measures_what_the_record_says_whatever_is_configured_now() {
    let Some(mut scene) = scene() else { return };
    let scratch = scratch(&scene);
    scene.backup(&["--now", "2026-06-01T01:00:00Z"]);
    scene.config = scene.config.fingerprint_settings("database = \"tms\"");
    let deep = verify(&scene, &["--deep", "--scratch", scratch.to_str().unwrap()]).expect_code(0).json();
    let db = &deep["verifications"][0]["sources"]["db"];
    assert_eq!(db["compared"], "equal", "{db}");
    assert!(db["comparison"].as_str().unwrap().contains("content of "), "{db}");
}

#[test]
fn a_database_that_is_not_the_recorded_one_does_not_pass_the_deep_look() {
    let Some(scene) = scene() else { return };
    let scratch = scratch(&scene);
    let made = scene.backup(&["--now", "2026-06-01T01:00:00Z"]);
    // A dump that is whole and recorded but has another content. Only a restore shows that.
    scene.server.psql(DATABASE, tests::sample::CHANGE_INVOICE);
    let other = scene.backup(&["--now", "2026-06-02T01:00:00Z"]);
    let record = scene.store.join("prod/snapshots/20260602T010000Z.json");
    let text = std::fs::read_to_string(&record).unwrap();
    let fingerprint =
        |run: &serde_json::Value| run["snapshot"]["sources"]["db"]["fingerprint"].as_str().unwrap().to_owned();
    assert!(text.contains(&fingerprint(&other)));
    let mut text = text.replace(&fingerprint(&other), &fingerprint(&made));
    let seals = |run: &serde_json::Value| run["snapshot"]["sources"]["db"]["seals"].as_array().unwrap().clone();
    for (other, made) in seals(&other).iter().zip(seals(&made)) {
        text = text.replace(other.as_str().unwrap(), made.as_str().unwrap());
    }
    std::fs::write(&record, text).unwrap();
    let _ = verify(&scene, &[]).expect_code(0);
    let found = problems(&verify(&scene, &["--deep", "--scratch", scratch.to_str().unwrap()]));
    assert!(found.contains("it is not what was saved"), "{found}");
    assert_eq!(entries(&scratch), 0);
    let named = ["--snapshot", "20260602T010000Z", "--into", "refused", "--server", "lab"];
    let restored = scene.run(["restore", "--env", "prod", "--source", "db"].into_iter().chain(named));
    complains(&restored, 4, "does not match the record");
    let meant = scene
        .run(["--json", "restore", "--env", "prod", "--source", "db", "--accept-different"].into_iter().chain(named));
    let meant = meant.expect_code(0).json();
    assert_eq!(meant["restored"]["compared"], "different", "{meant}");
    assert!(meant["restored"]["comparison"].as_str().unwrap().contains("its rows differ"), "{meant}");
    scene.server.psql("postgres", "DROP DATABASE refused");
    let made = scene.server.psql("postgres", "SELECT count(*) FROM pg_database WHERE datname LIKE 'refused%'");
    assert_eq!(made.trim(), "0");
}

#[test]
fn a_deep_look_that_is_killed_leaves_what_the_next_one_sweeps() {
    let Some(scene) = scene() else { return };
    let scratch = scratch(&scene);
    scene.backup(&[]);
    let deep = ["verify", "--env", "prod", "--deep", "--scratch", scratch.to_str().unwrap()];
    let servers = || {
        let folders = std::fs::read_dir(&scratch).unwrap().flatten().map(|entry| entry.path());
        let pids = folders.filter_map(|folder| std::fs::read_to_string(folder.join("server/data/postmaster.pid")).ok());
        pids.filter_map(|text| text.lines().next()?.trim().parse::<u32>().ok()).collect::<BTreeSet<_>>()
    };
    let killed = scene.command(deep).start().kill_when(|| !servers().is_empty());
    assert_eq!(killed.signal, Some(9), "{}", killed.stderr);
    let left = servers();
    assert!(!left.is_empty() && entries(&scratch) > 0);
    let next = scene.run(deep).expect_code(0);
    assert!(next.stderr.contains("which an interrupted run left"), "{}", next.stderr);
    assert!(servers().is_empty());
    let begun = Instant::now();
    while left.iter().any(|pid| Path::new(&format!("/proc/{pid}")).exists()) {
        assert!(begun.elapsed() < Duration::from_secs(20), "the server of the killed run is still running");
        std::thread::sleep(Duration::from_millis(50));
    }

    let mut interrupted = scene.command(deep).start();
    interrupted.wait_until("a server was started", || !servers().is_empty());
    signal(interrupted.id(), rustix::process::Signal::INT);
    let interrupted = interrupted.finish();
    assert_eq!(interrupted.code, Some(130), "{}", interrupted.stderr);
    let left: Vec<_> = std::fs::read_dir(&scratch).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with("dolibarr-backup-pg-")), "{left:?}");
}

#[test]
fn a_deep_look_without_room_or_server_says_so_and_condemns_nothing() {
    let Some(scene) = scene() else { return };
    scene.backup(&[]);
    let Some(disk) = small_disk(&scene, "3m") else { return };
    let deep = ["verify", "--env", "prod", "--deep", "--scratch", disk.path.to_str().unwrap()];
    complains(&scene.run(deep), 1, "not enough space");
    complains(&scene.run(["verify", "--env", "prod", "--deep", "--server", "absent"]), 2, "has no server `absent`");
    let elsewhere = ["verify", "--env", "prod", "--deep", "--server", "postgres://postgres@127.0.0.1:1/"];
    complains(&scene.run(elsewhere), 75, "127.0.0.1:1");
    assert!(!scene.stored().keys().any(|key| key.contains("failed")), "a snapshot was recorded as damaged");
    let mut begun = scene.command(["verify", "--env", "prod", "--deep", "--server", "lab"]).start();
    let before =
        scene.server.psql("postgres", "SELECT datname FROM pg_database WHERE datname NOT LIKE '%scratch%' ORDER BY 1");
    let scratch = "SELECT count(*) FROM pg_database WHERE datname LIKE '%scratch%'";
    begun.wait_until("its database was made", || scene.server.psql("postgres", scratch).trim() != "0");
    signal(begun.id(), rustix::process::Signal::TERM);
    assert_eq!(begun.finish().code, Some(130));
    assert_eq!(
        scene.server.psql("postgres", "SELECT datname FROM pg_database ORDER BY 1"),
        before,
        "the interrupted run left its database"
    );
    let named = verify(&scene, &["--deep", "--server", "lab"]).expect_code(0).json();
    assert_eq!(named["verifications"][0]["sources"]["db"]["compared"], "equal", "{named}");
    assert_eq!(scene.server.psql("postgres", "SELECT datname FROM pg_database ORDER BY 1"), before);
}

#[test]
fn what_a_killed_deep_verification_leaves_is_removed_by_the_next() {
    let Some(scene) = Scene::small() else { return };
    let scratch = scratch(&scene);
    scene.backup(&[]);
    let deep = ["verify", "--env", "prod", "--deep", "--scratch", scratch.to_str().unwrap()];
    let places = || std::fs::read_dir(&scratch).unwrap().flatten().map(|entry| entry.path());
    let holds_a_dump = |folder: std::path::PathBuf| {
        std::fs::read_dir(folder).into_iter().flatten().flatten().any(|entry| {
            let fetched = std::fs::read_dir(entry.path()).into_iter().flatten().flatten();
            fetched.into_iter().any(|file| file.path().extension().is_some_and(|end| end == "dump"))
        })
    };
    let killed = scene.command(deep).start().kill_when(|| places().any(holds_a_dump));
    assert_eq!(killed.signal, Some(9), "it ended before it had fetched a dump: {}", killed.stderr);
    assert!(entries(&scratch) > 0, "the killed run left nothing to remove");
    let next = scene.run(deep).expect_code(0);
    assert_eq!(entries(&scratch), 0, "{}", next.stderr);
    assert!(next.stderr.contains("which an interrupted run left"), "{}", next.stderr);
}
