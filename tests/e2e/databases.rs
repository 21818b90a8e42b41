//! Databases that come back: into fresh ones, into a sandbox, at each of ten days; and what stays as it was where they cannot.

use crate::scene::{DATABASE, ROLE, Scene, complains, key, manifest, signal};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tests::binary::{Outcome, Run};

/// A scene whose configuration has a server to restore to, and a sandbox on the same one.
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

    // Two that would be kept under the same second's name are kept under two.
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
        (&["--into", DATABASE, "--server", "lab"], 2, "is where prod itself lives"),
        (&["--into", "new", "--swap", DATABASE, "--server", "lab"], 2, "is where prod itself lives"),
        (&["--into", DATABASE, "--overwrite", "--server", "lab"], 2, "is where prod itself lives"),
        (&["--into", DATABASE, "--same-environment", "--server", "lab"], 2, "is there already"),
        (&["--into", "postgres", "--server", "lab"], 2, "belongs to the server"),
        (&["--into", &long, "--server", "lab"], 2, "cannot be the name"),
        (&["--into", "new", "--server", "absent"], 2, "has no server `absent`"),
        (&["--into", "new", "--server", "postgres://a:canary@x/"], 2, "holds a password"),
        (&["--into", "new", "--server", "postgres://postgres@127.0.0.1:1/"], 75, "127.0.0.1:1"),
        (&["--into", "new", "--target-env", "absent"], 64, "unknown environment `absent`"),
        (&["--into", "new"], 64, "may not make a database"),
        (&["--into", "new", "--server", "lab", "--owner", "absent"], 64, "the role `absent` does not exist"),
        (&["--into", "new", "--server", "lab", "--scratch", small.to_str().unwrap()], 64, "absent"),
        (&["--into", "new", "--server", "lab", "--snapshot", "20260101T000000Z"], 2, "does not exist"),
        (&["--into", "new", "--server", "lab", "--at", "2026-01-01"], 2, "no complete snapshot is from"),
        (&["--into", "new", "--server", "lab", "--ignore-index"], 2, "has no index"),
        (&["--into", "new", "--server", &own_socket], 64, "password"),
    ];
    for (more, code, says) in table {
        let arguments = ["restore", "--env", "prod", "--source", "db"].into_iter().chain(more.iter().copied());
        let run = scene.run(arguments);
        complains(&run, code, says);
        assert!(!run.stderr.contains("canary"), "{}", run.stderr);
        assert_eq!(databases(&scene), before, "{more:?} made something");
    }
    let documents = ["restore", "--env", "prod", "--source", "docs", "--into"];
    let own = scene.documents.to_str().unwrap();
    complains(&scene.run(documents.into_iter().chain(["x", "--server", "lab"])), 2, "is for databases");
    complains(&scene.run(documents.into_iter().chain([own])), 2, "is where prod itself lives");
    assert_eq!(databases(&scene), before);
}

#[test]
fn a_dump_of_a_newer_server_or_pg_dump_is_refused_before_anything_is_fetched() {
    let Some(scene) = scene() else { return };
    let made = scene.backup(&[]);
    let dump = std::fs::read(scene.store.join(key(&made["snapshot"]["sources"], "db"))).unwrap();
    let before = databases(&scene);
    // As a shell script leaves it, with no record that says what it should be.
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
    for (at, says) in [(number(server), "is the older"), (number(tool), "needs pg_restore 99")] {
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

/// Makes the scene's database slow to restore: each row of one table takes a while anywhere but in its own database.
fn slow_down(scene: &Scene, rows: u32) {
    let sql = format!(
        "CREATE FUNCTION slowly(i int) RETURNS boolean LANGUAGE sql AS \
         $$ SELECT CASE WHEN current_database() = '{DATABASE}' THEN true ELSE pg_sleep(0.2) IS NOT NULL END $$; \
         CREATE TABLE zz_slow (i int CHECK (public.slowly(i))); INSERT INTO zz_slow SELECT generate_series(1, {rows}); \
         GRANT SELECT ON zz_slow TO {ROLE}"
    );
    scene.server.psql(DATABASE, &sql);
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

/// The pg_restore that a run has started.
fn pg_restore_of(parent: u32) -> Option<u32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut children = pids.filter(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().nth(1).map(str::to_owned));
        stat.contains("(pg_restore)") && after.flatten() == Some(parent.to_string())
    });
    children.next()
}

#[test]
fn a_restore_that_fails_half_way_leaves_what_was_there_as_it_was() {
    use rustix::process::Signal;
    let Some(scene) = scene() else { return };
    slow_down(&scene, 300);
    scene.backup(&[]);
    scene.server.create_database("sandbox", &[]);
    scene.server.psql("sandbox", "CREATE TABLE theirs AS SELECT 1 AS a");
    let (before, contents) = (databases(&scene), scene.contents(DATABASE));
    let filling =
        "SELECT pid FROM pg_stat_activity WHERE datname LIKE '%\\_restoring\\_%' AND query ILIKE 'COPY %zz_slow%'";
    for (what, code, says) in [
        ("pg_restore is killed", 75, "signal 9"),
        ("its connection is cut", 75, "pg_restore failed"),
        ("the server crashes", 75, "pg_restore failed"),
        ("it is interrupted", 130, "interrupted"),
    ] {
        let run =
            command(&scene, &["--target-env", "sandbox", "--into", "sandbox_new", "--swap", "sandbox", "--jobs", "1"])
                .start();
        eventually("a restore under way", || !scene.server.psql("postgres", filling).trim().is_empty());
        let backend: u32 = scene.server.psql("postgres", filling).lines().next().unwrap().trim().parse().unwrap();
        match what {
            "pg_restore is killed" => signal(pg_restore_of(run.id()).unwrap(), Signal::KILL),
            "its connection is cut" => {
                drop(scene.server.psql("postgres", &format!("SELECT pg_terminate_backend({backend})")))
            }
            "the server crashes" => signal(backend, Signal::KILL),
            _ => signal(run.id(), Signal::TERM),
        }
        let ended = run.finish();
        assert_eq!(ended.code, Some(code), "{what}: {}", ended.stderr);
        assert!(
            ended.stderr.contains(says) && ended.stderr.contains("nothing else was touched"),
            "{what}: {}",
            ended.stderr
        );
        eventually("the server back", || scene.server.client("pg_isready").arg("-q").status().unwrap().success());
        assert_eq!(databases(&scene), before, "{what}");
        assert_eq!(scene.server.psql("sandbox", "SELECT a FROM theirs").trim(), "1", "{what}");
    }
    assert_eq!(scene.contents(DATABASE), contents);

    // A SIGKILL leaves a database that says what it is, and the next restore names it.
    let scratch = scene.folder.path().join("scratch");
    std::fs::create_dir(&scratch).unwrap();
    let at = ["--server", "lab", "--jobs", "1", "--scratch", scratch.to_str().unwrap()];
    let run = command(&scene, &[&["--into", "sandbox_new"][..], &at].concat()).start();
    let killed = run.kill_when(|| !scene.server.psql("postgres", filling).trim().is_empty());
    assert_eq!(killed.signal, Some(9));
    let left: Vec<_> = databases(&scene).difference(&before).cloned().collect();
    assert!(left.len() == 1 && left[0].starts_with("sandbox_new_restoring_"), "{left:?}");
    let planned = scene.run([
        "restore",
        "--env",
        "prod",
        "--source",
        "db",
        "--into",
        "sandbox_new",
        "--server",
        "lab",
        "--dry-run",
    ]);
    assert!(planned.expect_code(0).stdout.contains(&left[0]));

    // And it leaves the dump, which the next restore removes. One that is only planned changes nothing.
    let entries = || std::fs::read_dir(&scratch).unwrap().count();
    let _ = restore(&scene, &[&["--into", "after", "--dry-run"][..], &at].concat()).expect_code(0);
    assert_eq!(entries(), 1);
    let _ = restore(&scene, &[&["--into", "after"][..], &at].concat()).expect_code(0);
    assert_eq!(entries(), 0, "the dump of the killed restore is still there");
}

#[test]
fn somebody_who_connects_during_the_restore_costs_the_swap_and_nothing_else() {
    let Some(scene) = scene() else { return };
    slow_down(&scene, 15);
    scene.backup(&[]);
    scene.server.create_database("sandbox", &[]);
    scene.server.psql("sandbox", "CREATE TABLE theirs AS SELECT 1 AS a");
    let run = command(&scene, &["--target-env", "sandbox", "--into", "sandbox_new", "--swap", "sandbox"]).start();
    let restoring = "SELECT count(*) FROM pg_database WHERE datname LIKE '%\\_restoring\\_%'";
    eventually("a restore under way", || scene.server.psql("postgres", restoring).trim() == "1");
    let mut visitor = scene.server.client("psql");
    let mut visitor = visitor.args(["sandbox", "-c", "SELECT pg_sleep(60)"]).spawn().unwrap();
    let ended = run.finish();
    assert_eq!(ended.code, Some(64), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("stays as `sandbox_new`") && ended.stderr.contains("stop Dolibarr"),
        "{}",
        ended.stderr
    );
    scene.server.psql("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'sandbox'");
    visitor.wait().unwrap();
    assert_eq!(scene.server.psql("sandbox", "SELECT a FROM theirs").trim(), "1");
    assert_eq!(scene.contents("sandbox_new"), scene.contents(DATABASE));
    assert_eq!(scene.server.psql("postgres", restoring).trim(), "0");
}

#[test]
fn an_empty_scratch_disk_is_noticed_before_anything_is_made() {
    let Some(scene) = scene() else { return };
    scene.backup(&[]);
    let Some(mount) = crate::verified::small_disk(&scene, "8k") else { return };
    let before = databases(&scene);
    let scratch = mount.path.to_str().unwrap();
    let arguments =
        ["restore", "--env", "prod", "--source", "db", "--into", "new", "--server", "lab", "--scratch", scratch];
    complains(&scene.run(arguments), 1, "not enough space");
    assert_eq!(databases(&scene), before);
}

/// Changes in both halves; every third day a document is rewritten and another one goes.
fn live_a_day(scene: &Scene, day: u32) {
    let sql = format!(
        "UPDATE llx_facture SET note_public = 'day {day}', total_ht = total_ht + {day} WHERE rowid % 10 = {};\
         CREATE TABLE llx_day_{day} AS SELECT {day} AS day; GRANT SELECT ON llx_day_{day} TO {ROLE}",
        day % 10
    );
    scene.server.psql(DATABASE, &sql);
    let invoices = scene.documents.join("facture");
    std::fs::write(invoices.join(format!("day-{day}.pdf")), format!("%PDF day {day}")).unwrap();
    if day.is_multiple_of(3) {
        std::fs::write(invoices.join(format!("day-{}.pdf", day - 1)), format!("%PDF again on {day}")).unwrap();
        std::fs::remove_file(invoices.join(format!("day-{}.pdf", day - 2))).unwrap();
    }
}

/// Lives ten days, and restores both halves of each.
fn ten_days(scene: &Scene, excluded: impl Fn(&std::path::Path, bool) -> bool + Copy) {
    let mut days = Vec::new();
    for day in 1..=10 {
        live_a_day(scene, day);
        scene.backup(&["--now", &format!("2026-06-{day:02}T01:00:00Z")]);
        days.push((day, scene.contents(DATABASE), manifest(&scene.documents, excluded)));
    }
    for (day, contents, documents) in days {
        let (at, name) = (format!("2026-06-{day:02}T01:00:00Z"), format!("day_{day}"));
        let done = restore(scene, &["--at", &at, "--into", &name, "--server", "lab"]).expect_code(0).json();
        assert_eq!(done["restored"]["compared"], "equal", "{done}");
        assert_eq!(scene.contents(&name), contents, "day {day}");
        let into = scene.folder.path().join(&name);
        let arguments = ["restore", "--env", "prod", "--source", "docs", "--at", &at, "--into", into.to_str().unwrap()];
        let _ = scene.run(arguments).expect_code(0);
        assert_eq!(manifest(&into, |_, _| false), documents, "day {day}");
        std::fs::remove_dir_all(&into).unwrap();
        scene.server.psql("postgres", &format!("DROP DATABASE {name}"));
    }
}

fn excluded(path: &std::path::Path, is_folder: bool) -> bool {
    let text = path.to_string_lossy();
    tests::sample::EXCLUDED.contains(&&*text)
        || is_folder && (text == "temp" || text.ends_with("/temp"))
        || text == "admin/backup"
        || text == "admin/documents"
        || text.ends_with(".log")
        || text.contains(".pdf_preview-") && text.ends_with(".png")
}

#[test]
fn ten_days_of_changes_come_back_day_by_day() {
    let Some(scene) = scene() else { return };
    ten_days(&scene, excluded);
}

#[test]
fn ten_days_of_a_real_dolibarr_come_back_day_by_day() {
    let Some(scene) = Scene::real().and_then(with_targets) else { return };
    ten_days(&scene, excluded);
}

#[test]
fn a_new_machine_needs_nothing_but_the_store_and_its_credentials() {
    let Some(scene) = Scene::small().and_then(Scene::on_garage).and_then(with_targets) else { return };
    scene.backup(&[]);
    let (port, documents) = (format!("port = {}", scene.server.port()), scene.documents.display().to_string());
    // What was backed up is gone: no server answers, no folder is there, and nobody has its password.
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
fn a_disk_that_fills_up_half_way_leaves_what_was_there_as_it_was() {
    let Some(scene) = scene() else { return };
    let rows = "CREATE TABLE zz_large AS SELECT i, repeat(md5(i::text), 60) AS t FROM generate_series(1, 20000) AS i";
    scene.server.psql(
        DATABASE,
        &format!("{rows}; ALTER TABLE zz_large ALTER t SET STORAGE EXTERNAL; GRANT SELECT ON zz_large TO {ROLE}"),
    );
    scene.backup(&[]);
    scene.server.create_database("sandbox", &[]);
    scene.server.psql("sandbox", "CREATE TABLE theirs AS SELECT 1 AS a");
    let Some(disk) = crate::verified::small_disk(&scene, "24m") else { return };
    if let Some((user, group)) = scene.server.owner() {
        std::os::unix::fs::chown(&disk.path, Some(user), Some(group)).unwrap();
    }
    // A new database is made where its template is.
    scene.server.psql("postgres", &format!("CREATE TABLESPACE small LOCATION '{}'", disk.path.display()));
    scene.server.psql("postgres", "ALTER DATABASE template0 SET TABLESPACE small");
    let before = databases(&scene);
    let full = restore(&scene, &["--target-env", "sandbox", "--into", "sandbox_new", "--swap", "sandbox"]);
    assert_eq!(full.code, Some(75), "{}", full.stderr);
    assert!(full.stderr.contains("No space left") && full.stderr.contains("make room"), "{}", full.stderr);
    assert!(full.stderr.contains("nothing else was touched"), "{}", full.stderr);
    assert_eq!(databases(&scene), before);
    assert_eq!(scene.server.psql("sandbox", "SELECT a FROM theirs").trim(), "1");
    scene.server.psql("postgres", "ALTER DATABASE template0 SET TABLESPACE pg_default");
}

#[test]
fn a_disk_that_fills_up_under_documents_leaves_no_folder() {
    let Some(scene) = scene() else { return };
    // Nobody counted what is in an archive of another tool.
    let folder = scene.folder.path().join("tree");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("large"), vec![b'x'; 20 << 20]).unwrap();
    for folder in ["prod/db", "prod/docs"] {
        std::fs::create_dir_all(scene.store.join(folder)).unwrap();
    }
    std::fs::write(scene.store.join("prod/db/20260601T010000Z.dump"), "PGDMP").unwrap();
    let archive = scene.store.join("prod/docs/20260601T010000Z.tar.gz");
    crate::scene::succeed(std::process::Command::new("tar").arg("-czf").arg(archive).arg("-C").arg(&folder).arg("."));
    let Some(disk) = crate::verified::small_disk(&scene, "5m") else { return };
    let into = disk.path.join("into");
    let full = scene.run(["restore", "--env", "prod", "--source", "docs", "--into", into.to_str().unwrap()]);
    complains(&full, 1, "no space is left for `large`");
    assert_eq!(std::fs::read_dir(&disk.path).unwrap().count(), 0, "{}", full.stderr);
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
