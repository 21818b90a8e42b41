//! Restores databases: into new ones, into a sandbox, on a new machine. What cannot be restored is reported in one
//! sentence.

mod days;
mod failing;
mod museum;

use crate::scene::{DATABASE, ROLE, Scene, complains, excluded, key, manifest, signal};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tests::binary::{Outcome, Run};

/// A scene whose configuration has a server to restore to, and a sandbox on the same server.
fn scene() -> Option<Scene> {
    with_targets(Scene::small()?)
}

fn with_targets(mut scene: Scene) -> Option<Scene> {
    let (socket, port) = (scene.server.socket().to_owned(), scene.server.port());
    let credentials = scene.folder.path().join("credentials");
    let rights = "restore_credentials = { user = \"postgres\" }";
    let at = (socket.to_str().unwrap(), port);
    scene.config =
        scene.config.server("lab", &socket, port).database(("sandbox", "db"), at, "sandbox", &credentials, rights);
    Some(scene)
}

fn databases(scene: &Scene) -> BTreeSet<String> {
    let names = scene.server.psql("postgres", "SELECT datname FROM pg_database WHERE NOT datistemplate ORDER BY 1");
    names.lines().map(str::to_owned).collect()
}

fn restore(scene: &Scene, more: &[&str]) -> Outcome {
    command(scene, more).finish()
}

fn command(scene: &Scene, more: &[&str]) -> Run {
    scene.command(["--json", "restore", "--env", "prod", "--source", "db"].into_iter().chain(more.iter().copied()))
}

#[test]
fn a_database_comes_back_into_a_fresh_one_and_is_compared_with_its_record() {
    let Some(scene) = scene() else { return };
    scene.backup(&["--now", "2026-06-30T01:00:00Z"]);
    let (before, stored) = (databases(&scene), scene.stored());

    let planned = restore(&scene, &["--into", "erp_new", "--server", "lab", "--dry-run"]).expect_code(0).json();
    assert_eq!((databases(&scene), planned["dry_run"].as_bool()), (before.clone(), Some(true)));
    assert_eq!(planned["plan"]["snapshot"], "20260630T010000Z");
    assert!(
        planned["plan"]["target"]["version"]
            .as_str()
            .unwrap()
            .starts_with(planned["plan"]["server_version"].as_str().unwrap())
    );
    assert_eq!(planned["plan"]["replaces"], serde_json::Value::Null);
    assert!(planned["plan"]["database_bytes"].as_u64().unwrap() > 1 << 20, "{planned}");

    let done = restore(&scene, &["--into", "erp_new", "--server", "lab"]).expect_code(0).json();
    assert_eq!(done["restored"]["compared"], "equal", "{done}");
    assert_eq!(scene.contents("erp_new"), scene.contents(DATABASE));
    let url = format!(
        "postgres://postgres@{}:{}/",
        scene.server.socket().to_str().unwrap().replace('/', "%2F"),
        scene.server.port()
    );
    let done =
        restore(&scene, &["--into", "by url", "--server", &url, "--jobs", "3", "--owner", ROLE]).expect_code(0).json();
    assert_eq!(done["restored"]["compared"], "equal", "{done}");
    let owners = scene.server.psql("by url", "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'");
    assert_eq!(owners.trim(), ROLE);
    assert_eq!(scene.contents("by url"), scene.contents(DATABASE));
    let made: Vec<_> = databases(&scene).difference(&before).cloned().collect();
    assert_eq!(made, ["by url", "erp_new"]);
    assert_eq!(scene.stored(), stored, "a restore changed the store");
}

#[test]
fn prod_goes_into_the_sandbox_and_the_old_one_is_kept() {
    let Some(scene) = scene() else { return };
    scene.backup(&[]);
    scene.server.create_database("sandbox", &[]);
    scene.server.psql("sandbox", "CREATE TABLE theirs AS SELECT 1 AS a");
    let swap = ["--target-env", "sandbox", "--into", "sandbox_new", "--swap", "sandbox"];

    let mut visitor = scene.server.client("psql");
    let mut visitor = visitor.args(["sandbox", "-c", "SELECT pg_sleep(60)"]).spawn().unwrap();
    let visits = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'sandbox' AND query LIKE '%pg_sleep(60)'";
    eventually("the visit", || scene.server.psql("postgres", visits).trim() != "0");
    let before = databases(&scene);
    let held = restore(&scene, &swap);
    assert_eq!(held.code, Some(64), "{}", held.stderr);
    assert!(held.stderr.contains("is in use by") && held.stderr.contains("stop Dolibarr"), "{}", held.stderr);
    assert_eq!(databases(&scene), before);
    scene.server.psql("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'sandbox'");
    visitor.wait().unwrap();

    let done = restore(&scene, &swap).expect_code(0).json();
    let kept = done["restored"]["kept_as"].as_str().unwrap();
    assert!(kept.starts_with("sandbox_before_"), "{done}");
    assert_eq!(scene.contents("sandbox"), scene.contents(DATABASE));
    assert_eq!(scene.server.psql(kept, "SELECT a FROM theirs").trim(), "1");
    assert!(!databases(&scene).contains("sandbox_new"));

    let done = restore(&scene, &["--target-env", "sandbox", "--into", "sandbox", "--overwrite"]).expect_code(0).json();
    assert_eq!(done["restored"]["kept_as"], serde_json::Value::Null);
    assert_eq!(
        databases(&scene).iter().filter(|name| name.starts_with("sandbox")).count(),
        2,
        "{:?}",
        databases(&scene)
    );

    // If the name with this second is taken, the replaced database gets the name with the next second.
    scene.server.create_database("sandbox_before_20360630T235959Z", &[]);
    let planned = [&swap[..], &["--dry-run", "--now", "2036-06-30T23:59:59Z"]].concat();
    let planned = restore(&scene, &planned).expect_code(0).json();
    assert_eq!(planned["plan"]["replaces"]["kept_as"], "sandbox_before_20360701T000000Z", "{planned}");
}

#[test]
fn what_cannot_be_is_said_in_one_sentence_and_nothing_is_made() {
    let Some(scene) = scene() else { return };
    scene.backup(&["--now", "2026-06-30T01:00:00Z"]);
    scene.server.create_database("taken", &[]);
    let before = databases(&scene);
    let own_socket = format!(
        "postgres://backup@{}:{}/",
        scene.server.socket().to_str().unwrap().replace('/', "%2F"),
        scene.server.port()
    );
    let small = scene.folder.path().join("absent");
    let long = "x".repeat(64);
    let table: [(&[&str], i32, &str); 18] = [
        (&["--into", "taken", "--server", "lab"], 2, "`taken`"),
        (&["--into", DATABASE, "--server", "lab"], 2, "is part of prod itself"),
        (&["--into", "new", "--swap", DATABASE, "--server", "lab"], 2, "is part of prod itself"),
        (&["--into", DATABASE, "--overwrite", "--server", "lab"], 2, "is part of prod itself"),
        (&["--into", DATABASE, "--same-environment", "--server", "lab"], 2, "already exists"),
        (&["--into", "postgres", "--server", "lab"], 2, "belongs to the server"),
        (&["--into", &long, "--server", "lab"], 2, "is not a valid database name"),
        (&["--into", "new", "--server", "absent"], 2, "has no server `absent`"),
        (&["--into", "new", "--server", "postgres://a:canary@x/"], 2, "contains a password"),
        (&["--into", "new", "--server", "postgres://postgres@127.0.0.1:1/"], 75, "127.0.0.1:1"),
        (&["--into", "new", "--target-env", "absent"], 64, "unknown environment `absent`"),
        (&["--into", "new"], 64, "may not create databases"),
        (&["--into", "new", "--server", "lab", "--owner", "absent"], 64, "the role `absent` does not exist"),
        (&["--into", "new", "--server", "lab", "--scratch", small.to_str().unwrap()], 64, "absent"),
        (&["--into", "new", "--server", "lab", "--snapshot", "20260101T000000Z"], 2, "does not exist"),
        (&["--into", "new", "--server", "lab", "--at", "2026-01-01"], 2, "no whole snapshot of db at or before"),
        (&["--into", "new", "--server", "lab", "--ignore-index"], 2, "has no index"),
        (&["--into", "new", "--server", &own_socket], 64, "password"),
    ];
    for (more, code, says) in table {
        let arguments = ["restore", "--env", "prod", "--source", "db"].into_iter().chain(more.iter().copied());
        let run = scene.run(arguments);
        complains(&run, code, says);
        assert!(!run.stderr.contains("canary"), "{}", run.stderr);
        assert_eq!(databases(&scene), before, "{more:?} created a database");
    }
    let documents = ["restore", "--env", "prod", "--source", "docs", "--into"];
    let own = scene.documents.to_str().unwrap();
    complains(&scene.run(documents.into_iter().chain(["x", "--server", "lab"])), 2, "is only for databases");
    complains(&scene.run(documents.into_iter().chain([own])), 2, "is part of prod itself");
    assert_eq!(databases(&scene), before);
}

#[test]
fn a_dump_of_a_newer_server_or_pg_dump_is_refused_before_anything_is_fetched() {
    let Some(scene) = scene() else { return };
    let made = scene.backup(&[]);
    let dump = std::fs::read(scene.store.join(key(&made["snapshot"]["sources"], "db"))).unwrap();
    let before = databases(&scene);
    // A store as a shell script leaves it, without a record of the dump.
    std::fs::remove_dir_all(&scene.store).unwrap();
    for folder in ["prod/db", "prod/docs"] {
        std::fs::create_dir_all(scene.store.join(folder)).unwrap();
    }
    std::fs::write(scene.store.join("prod/docs/20260601T010000Z.tar.gz"), "not read here").unwrap();
    let versions: Vec<usize> =
        dump.windows(9).enumerate().filter(|(_, w)| w.ends_with(b" (Debian")).map(|(at, _)| at).take(2).collect();
    let &[server, tool] = versions.as_slice() else {
        tests::skip("this PostgreSQL does not name its version as Debian's does");
        return;
    };
    let number = |at: usize| dump[..at + 1].iter().rposition(|b| !b.is_ascii_digit() && *b != b'.').unwrap() + 1;
    for (at, says) in [(number(server), "target server is older"), (number(tool), "needs pg_restore 99")] {
        let mut patched = dump.clone();
        patched[at..at + 2].copy_from_slice(b"99");
        std::fs::write(scene.store.join("prod/db/20260601T010000Z.dump"), &patched).unwrap();
        let arguments = ["restore", "--env", "prod", "--source", "db", "--into", "new", "--server", "lab"];
        complains(&scene.run(arguments), 64, says);
        assert_eq!(databases(&scene), before);
    }
    std::fs::write(scene.store.join("prod/db/20260601T010000Z.dump"), &dump).unwrap();
    let done = restore(&scene, &["--into", "adopted", "--server", "lab"]).expect_code(0).json();
    assert_eq!(done["restored"]["compared"], "unknown");
    assert_eq!(scene.contents("adopted"), scene.contents(DATABASE));
}

/// Waits until a condition holds.
#[track_caller]
fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what} did not happen");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_new_machine_needs_nothing_but_the_store_and_its_credentials() {
    let Some(scene) = Scene::small().and_then(Scene::on_garage).and_then(with_targets) else { return };
    scene.backup(&[]);
    let (port, documents) = (format!("port = {}", scene.server.port()), scene.documents.display().to_string());
    // The sources are gone: no server answers, the folder does not exist, and its password is lost.
    let gone = |text: &str| {
        let credentials = format!("\"{}\"", scene.folder.path().join("credentials").display());
        text.replacen(&port, "port = 1", 1).replacen(&documents, "/nonexistent", 1).replacen(
            &credentials,
            "\"/nonexistent\"",
            1,
        )
    };
    let into = scene.folder.path().join("recovered");
    let run = |more: &[&str]| scene.run_edited(gone, &[&["restore", "--env", "prod"], more].concat());
    let _ = run(&["--source", "db", "--into", "recovered", "--server", "lab"]).expect_code(0);
    let _ = run(&["--source", "docs", "--into", into.to_str().unwrap()]).expect_code(0);
    assert_eq!(scene.contents("recovered"), scene.contents(DATABASE));
    assert_eq!(manifest(&into, |_, _| false), manifest(&scene.documents, excluded));
}

#[test]
fn a_real_dolibarr_comes_back_from_a_server_equal_in_both_halves() {
    let Some(scene) = Scene::real().and_then(Scene::on_garage).and_then(with_targets) else { return };
    scene.backup(&["--now", "2026-06-30T01:00:00Z"]);
    let done = restore(&scene, &["--into", "again", "--server", "lab"]).expect_code(0).json();
    assert_eq!(done["restored"]["compared"], "equal", "{done}");
    assert_eq!(scene.contents("again"), scene.contents(DATABASE));
    let into: PathBuf = scene.folder.path().join("again");
    let arguments = ["restore", "--env", "prod", "--source", "docs", "--into", into.to_str().unwrap()];
    let _ = scene.run(arguments).expect_code(0);
    let (restored, expected) = (manifest(&into, |_, _| false), manifest(&scene.documents, excluded));
    assert!(restored == expected, "{} entries restored, {} expected", restored.len(), expected.len());
    let deep = scene.run(["--json", "verify", "--env", "prod", "--deep"]).expect_code(0).json();
    assert_eq!(deep["verifications"][0]["sources"]["db"]["compared"], "equal", "{deep}");
    let drill = scene.run(["--json", "drill", "--env", "prod"]).expect_code(0).json();
    assert_eq!(drill["drill"]["sources"]["db"]["compared"], "equal", "{drill}");
}
