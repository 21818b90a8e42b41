//! The main task: stock tools restore what was stored, and it equals the original.

use crate::scene::{DATABASE, Scene, excluded, key, manifest, raw, succeed};
use std::path::Path;
use std::process::Command;

#[track_caller]
fn restores_equal(scene: &Scene, snapshot: &serde_json::Value) {
    let dump = scene.fetch(&key(&snapshot["sources"], "db"), "fetched.dump");
    scene.server.create_database("restored", &[]);
    scene.server.restore("restored", &dump);
    assert_eq!(scene.contents("restored"), scene.contents(DATABASE));

    let archive = scene.fetch(&key(&snapshot["sources"], "docs"), "fetched.tar.gz");
    let target = scene.folder.path().join("unpacked");
    std::fs::create_dir(&target).unwrap();
    succeed(Command::new("gzip").arg("-t").arg(&archive));
    succeed(Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(&target));
    let (there, here) = (manifest(&scene.documents, excluded), manifest(&target, |_, _| false));
    let shown = |line: &Vec<u8>| String::from_utf8_lossy(&line[..line.len().min(200)]).into_owned();
    let missing: Vec<_> = there.difference(&here).map(shown).collect();
    let extra: Vec<_> = here.difference(&there).map(shown).collect();
    assert!(missing.is_empty() && extra.is_empty(), "missing: {missing:#?}\nextra: {extra:#?}");
}

/// Names, kinds and times that real folders have and naive archives lose.
fn write_difficult_files(root: &Path) {
    let folder = root.join("medias/difficult");
    std::fs::create_dir_all(&folder).unwrap();
    let long = "n".repeat(255);
    for name in [
        &b"caf\xc3\xa9 \xe2\x82\xac.txt"[..],
        b"two\nlines",
        b"inv\xff\xfealid",
        long.as_bytes(),
        b" ",
        b"-rf",
        b"a\\b",
    ] {
        std::fs::write(folder.join(raw(name)), name).unwrap();
    }
    std::fs::write(folder.join("empty"), b"").unwrap();
    std::fs::create_dir(folder.join("empty folder")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", folder.join("absolute link")).unwrap();
    std::os::unix::fs::symlink("nowhere", folder.join("dangling link")).unwrap();
    std::fs::hard_link(folder.join("empty"), folder.join("hard link")).unwrap();
    let deep = folder.join("d".repeat(200)).join("e".repeat(200));
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::write(deep.join("deep"), b"deep").unwrap();
    for (name, mode) in [("setgid", 0o2640), ("sticky", 0o1777), ("none", 0o000), ("run", 0o755)] {
        let path = folder.join(name);
        std::fs::write(&path, name).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    }
    let old = std::time::UNIX_EPOCH - std::time::Duration::from_secs(86_400);
    let late = std::time::UNIX_EPOCH + std::time::Duration::new(4_102_444_800, 123_456_789);
    for (name, time) in [("before 1970", old), ("in 2100", late)] {
        let file = std::fs::File::create(folder.join(name)).unwrap();
        file.set_modified(time).unwrap();
    }
    // Larger than one member of the archive, and compressible.
    std::fs::write(folder.join("large"), "invoice line\n".repeat(700_000)).unwrap();
}

#[test]
fn the_sample_restores_equal_from_a_folder() {
    let Some(scene) = Scene::small() else { return };
    write_difficult_files(&scene.documents);
    let run = scene.backup(&[]);
    assert_eq!(run["snapshot"]["complete"], true);
    let archive = &run["snapshot"]["sources"]["docs"]["archive"];
    assert!(archive["excluded_files"].as_u64().unwrap() >= 6);
    assert!(scene.store.join(archive["index"]["key"].as_str().unwrap()).is_file(), "{archive}");
    restores_equal(&scene, &scene.list()[0]);
}

#[test]
fn the_sample_restores_equal_from_an_s3_server() {
    let Some(scene) = Scene::small().and_then(Scene::on_garage) else { return };
    write_difficult_files(&scene.documents);
    scene.backup(&[]);
    restores_equal(&scene, &scene.list()[0]);
}

#[test]
fn the_real_dolibarr_restores_equal_from_a_folder() {
    let Some(scene) = Scene::real() else { return };
    scene.backup(&[]);
    restores_equal(&scene, &scene.list()[0]);
    let again = scene.backup(&[]);
    for source in ["db", "docs"] {
        assert_eq!(again["snapshot"]["sources"][source]["outcome"], "unchanged");
    }
}

#[test]
fn the_real_dolibarr_restores_equal_from_an_s3_server() {
    let Some(scene) = Scene::real().and_then(Scene::on_garage) else { return };
    scene.backup(&[]);
    restores_equal(&scene, &scene.list()[0]);
}

#[test]
fn an_unchanged_run_uploads_nothing_and_is_recorded_all_the_same() {
    let Some(scene) = Scene::small() else { return };
    scene.backup(&[]);
    let before = scene.stored();
    let run = scene.backup(&[]);
    let after = scene.stored();
    let new: Vec<_> = after.keys().filter(|key| !before.contains_key(*key)).collect();
    assert_eq!(new.len(), 1, "{new:?}");
    assert!(new[0].starts_with("prod/snapshots/"));
    assert_eq!(before.iter().find(|(key, bytes)| after.get(*key) != Some(bytes)), None, "an object was rewritten");
    let record = &run["snapshot"];
    assert_eq!((&record["sources"]["db"]["outcome"], &record["complete"]), (&"unchanged".into(), &true.into()));
    let puts: Vec<_> =
        record["plugins"].as_array().unwrap().iter().flat_map(|p| p["tally"].as_array().unwrap()).collect();
    assert!(puts.iter().all(|tally| tally["function"] != "object-write.put"), "{puts:?}");
    assert!(puts.iter().any(|tally| tally["function"] == "database-evidence.content"), "{puts:?}");
}

#[test]
fn records_are_chained_by_the_hash_of_the_one_before() {
    let Some(scene) = Scene::small() else { return };
    for _ in 0..3 {
        scene.backup(&[]);
    }
    let records: Vec<_> = scene.stored().into_iter().filter(|(key, _)| key.contains("/snapshots/")).collect();
    assert_eq!(records.len(), 3);
    let mut before: Option<String> = None;
    for (_, bytes) in records {
        let record: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(record["previous"]["sha256"].as_str().map(str::to_owned), before);
        before = Some(hex::encode(<sha2::Sha256 as sha2::Digest>::digest(&bytes)));
    }
}

#[test]
fn a_carried_object_that_is_missing_or_has_another_size_is_dumped_anew() {
    let Some(scene) = Scene::small() else { return };
    let first = scene.backup(&[]);
    let objects = ["db", "docs"].map(|source| scene.store.join(key(&first["snapshot"]["sources"], source)));
    std::fs::remove_file(&objects[0]).unwrap();
    let file = std::fs::File::options().append(true).open(&objects[1]).unwrap();
    file.set_len(file.metadata().unwrap().len() - 1).unwrap();
    // The run saves both sources again, but asks a question about the lost objects.
    let second = scene.run(["--json", "backup", "--env", "prod"]).expect_code(3).json();
    for source in ["db", "docs"] {
        let source = &second["snapshot"]["sources"][source];
        assert_eq!(source["outcome"], "saved", "{source}");
        assert!(source["reason"].as_str().unwrap().contains("missing or has a different size"), "{source}");
    }
    let listed = scene.list();
    assert_eq!(listed[1]["complete"], false, "a snapshot without its objects is listed as complete");
    assert_eq!(listed[1]["sources"]["db"]["present"], false);
}

#[test]
fn a_forced_run_dumps_everything_and_a_dry_run_writes_nothing() {
    let Some(scene) = Scene::small() else { return };
    scene.backup(&[]);
    let before = scene.stored();
    let dry = scene.run(["--json", "backup", "--env", "prod", "--force", "--dry-run"]).expect_code(0).json();
    assert_eq!((&dry["dry_run"], &dry["sources"]["db"]["action"]), (&true.into(), &"dump".into()));
    assert_eq!(scene.stored(), before);
    let forced = scene.backup(&["--force"]);
    assert_eq!(forced["snapshot"]["sources"]["docs"]["outcome"], "saved");
}

#[test]
fn a_role_with_select_alone_suffices_and_the_server_sees_no_write() {
    let Some(scene) = Scene::small() else { return };
    let before = scene.server.log().len();
    scene.backup(&[]);
    let log = scene.server.log().split_off(before).to_uppercase();
    let statements: Vec<&str> =
        log.lines().filter(|line| line.contains("STATEMENT:") || line.contains("EXECUTE ")).collect();
    assert!(!statements.is_empty(), "the server logged nothing:\n{log}");
    for word in [
        "INSERT INTO",
        "UPDATE ",
        "DELETE FROM",
        "CREATE ",
        "ALTER ",
        "DROP ",
        "TRUNCATE ",
        "GRANT ",
        "NEXTVAL",
        "SETVAL",
        "VACUUM",
        "ANALYZE",
    ] {
        let written: Vec<_> = statements
            .iter()
            .filter(|line| {
                line.split_once("STATEMENT:")
                    .or(line.split_once(": "))
                    .is_some_and(|(_, sql)| sql.trim_start().starts_with(word))
            })
            .collect();
        assert!(written.is_empty(), "{word}: {written:#?}");
    }
}

#[test]
fn the_result_is_on_stdout_and_no_bar_is_drawn_away_from_a_terminal() {
    let Some(scene) = Scene::small() else { return };
    let run = scene.run(["backup", "--env", "prod"]).expect_code(0);
    assert!(run.stdout.contains("db         saved"), "{}", run.stdout);
    assert!(!run.stdout.contains('\u{1b}') && !run.stderr.contains('\u{1b}') && !run.stderr.contains('\r'));
    let listed = scene.run(["list", "--env", "prod"]).expect_code(0).stdout;
    for word in ["SNAPSHOT", "TAKEN (Europe/Paris)", "AGE", "DB", "DOCS", "SIZE", "KEPT FOR", "saved", "1 snapshot,"] {
        assert!(listed.contains(word), "no {word} in:\n{listed}");
    }
}
