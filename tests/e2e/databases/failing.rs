//! Restores that fail half-way, or would fail, leave the existing database unchanged.

use super::*;

/// Makes the scene's database slow to restore: a check delays each row of one table in every database but the original.
fn slow_down(scene: &Scene, rows: u32) {
    let sql = format!(
        "CREATE FUNCTION slowly(i int) RETURNS boolean LANGUAGE sql AS \
         $$ SELECT CASE WHEN current_database() = '{DATABASE}' THEN true ELSE pg_sleep(0.2) IS NOT NULL END $$; \
         CREATE TABLE zz_slow (i int CHECK (public.slowly(i))); INSERT INTO zz_slow SELECT generate_series(1, {rows}); \
         GRANT SELECT ON zz_slow TO {ROLE}"
    );
    scene.server.psql(DATABASE, &sql);
}

/// The process id of the pg_restore that a run has started.
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
            ended.stderr.contains(says) && ended.stderr.contains("nothing else was changed"),
            "{what}: {}",
            ended.stderr
        );
        eventually("the server back", || scene.server.client("pg_isready").arg("-q").status().unwrap().success());
        assert_eq!(databases(&scene), before, "{what}");
        assert_eq!(scene.server.psql("sandbox", "SELECT a FROM theirs").trim(), "1", "{what}");
    }
    assert_eq!(scene.contents(DATABASE), contents);

    // A SIGKILL leaves a database whose name shows what it is, and the next restore reports it.
    let scratch = scene.folder.path().join("scratch");
    std::fs::create_dir(&scratch).unwrap();
    let at = ["--server", "lab", "--jobs", "1", "--scratch", scratch.to_str().unwrap()];
    let run = command(&scene, &[&["--into", "sandbox_new"][..], &at].concat()).start();
    let killed = run.kill_when(|| !scene.server.psql("postgres", filling).trim().is_empty());
    assert_eq!(killed.signal, Some(9));
    let left: Vec<_> = databases(&scene).difference(&before).cloned().collect();
    assert!(left.len() == 1 && left[0].starts_with("sandbox_new_restoring_"), "{left:?}");
    let planned = scene.run("restore --env prod --source db --into sandbox_new --server lab --dry-run".split(' '));
    assert!(planned.expect_code(0).stdout.contains(&left[0]));

    // A SIGKILL also leaves the dump, which the next restore removes. A dry run removes nothing.
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
        ended.stderr.contains("is kept as `sandbox_new`") && ended.stderr.contains("stop Dolibarr"),
        "{}",
        ended.stderr
    );
    scene.server.psql("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'sandbox'");
    visitor.wait().unwrap();
    assert_eq!(scene.server.psql("sandbox", "SELECT a FROM theirs").trim(), "1");
    assert_eq!(scene.contents("sandbox_new"), scene.contents(DATABASE));
    assert_eq!(scene.server.psql("postgres", restoring).trim(), "0");
}

/// A check constraint that reads another table depends on the order of the dump, which parallel jobs do not keep.
#[test]
fn what_fails_with_several_jobs_at_once_is_restored_by_one() {
    let Some(scene) = scene() else { return };
    let lines = |table: &str| {
        format!(
            "CREATE TABLE {table} (id int, rate int CHECK (public.known(rate))); \
             INSERT INTO {table} SELECT i, 20 FROM generate_series(1, 100) AS i; GRANT SELECT ON {table} TO {ROLE};"
        )
    };
    // This table is restored first and slowly, and no other session sees its rows before it is complete.
    let rates = "CREATE TABLE aa_rates (rate int); INSERT INTO aa_rates SELECT generate_series(1, 800000); \
                 CREATE FUNCTION known(r int) RETURNS boolean LANGUAGE sql STABLE AS \
                 $$ SELECT EXISTS (SELECT FROM public.aa_rates WHERE rate = r) $$;";
    let sql = format!("{rates} GRANT SELECT ON aa_rates TO {ROLE}; {} {}", lines("bb_lines"), lines("cc_lines"));
    scene.server.psql(DATABASE, &sql);
    scene.backup(&[]);
    let into = |jobs: &str| restore(&scene, &["--into", &format!("by_{jobs}"), "--server", "lab", "--jobs", jobs]);
    let one = into("1").expect_code(0);
    assert!(!one.stderr.contains("once more"), "{}", one.stderr);
    let two = into("2").expect_code(0);
    assert!(two.stderr.contains("check constraint") && two.stderr.contains("once more with one job"), "{}", two.stderr);
    assert_eq!(two.json()["restored"]["compared"], "equal");
    assert_eq!(scene.contents("by_2"), scene.contents(DATABASE));
    let _ = scene.run(["verify", "--env", "prod", "--deep"]).expect_code(0);
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
    // A new database is created in the tablespace of its template.
    scene.server.psql("postgres", &format!("CREATE TABLESPACE small LOCATION '{}'", disk.path.display()));
    scene.server.psql("postgres", "ALTER DATABASE template0 SET TABLESPACE small");
    let before = databases(&scene);
    let full = restore(&scene, &["--target-env", "sandbox", "--into", "sandbox_new", "--swap", "sandbox"]);
    assert_eq!(full.code, Some(75), "{}", full.stderr);
    assert!(full.stderr.contains("No space left") && full.stderr.contains("free some space"), "{}", full.stderr);
    assert!(full.stderr.contains("nothing else was changed"), "{}", full.stderr);
    assert_eq!(databases(&scene), before);
    assert_eq!(scene.server.psql("sandbox", "SELECT a FROM theirs").trim(), "1");
    scene.server.psql("postgres", "ALTER DATABASE template0 SET TABLESPACE pg_default");
}

#[test]
fn a_disk_that_fills_up_under_documents_leaves_no_folder() {
    let Some(scene) = scene() else { return };
    // For an archive of another tool, no record has the size of its content.
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
fn what_a_server_and_a_role_end_by_default_ends_no_restore() {
    let Some(scene) = scene() else { return };
    slow_down(&scene, 20);
    scene.backup(&[]);
    let limits = tests::postgres::Options { settings: "idle_session_timeout = '500ms'".into(), ..Default::default() };
    let other = tests::postgres::Server::start_with(&limits).unwrap();
    other.psql(
        "postgres",
        "ALTER ROLE postgres SET statement_timeout = '500ms'; ALTER ROLE postgres SET lock_timeout = '500ms'; \
         ALTER ROLE postgres SET idle_in_transaction_session_timeout = '500ms'; \
         ALTER ROLE postgres SET default_transaction_read_only = on",
    );
    let url = format!("postgres://postgres@{}:{}/", other.socket().to_str().unwrap().replace('/', "%2F"), other.port());
    let done = restore(&scene, &["--into", "slow", "--server", &url, "--jobs", "1"]).expect_code(0).json();
    assert_eq!(done["restored"]["compared"], "equal", "{done}");
    let swapped = ["--into", "slow_next", "--swap", "slow", "--server", &url];
    let done = restore(&scene, &swapped).expect_code(0).json();
    assert!(done["restored"]["kept_as"].is_string(), "{done}");
}
