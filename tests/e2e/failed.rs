//! A source that fails gets neither an object nor a restore point, and retention is frozen.

use crate::scene::{PASSWORD, Scene, complains};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Creates a folder with a fake pg_dump and the real pg_restore, and returns the path of the pg_dump.
fn fake_pg_dump(scene: &Scene, name: &str, script: &str) -> PathBuf {
    let folder = scene.folder.path().join(name);
    std::fs::create_dir(&folder).unwrap();
    let real = scene.server.bin().join("pg_dump");
    let text =
        format!("#!/bin/sh\nREAL={}\n[ \"$1\" = --version ] && exec $REAL --version\n{script}\n", real.display());
    let path = folder.join("pg_dump");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink(scene.server.bin().join("pg_restore"), folder.join("pg_restore")).unwrap();
    path
}

fn with_pg_dump(program: &Path) -> impl Fn(&str) -> String {
    let line = format!("kind = \"postgres\"\npg_dump = \"{}\"", program.display());
    move |text| text.replacen("kind = \"postgres\"", &line, 1)
}

fn objects(scene: &Scene, folder: &str) -> Vec<String> {
    scene.stored().into_keys().filter(|key| key.starts_with(folder)).collect()
}

#[test]
fn a_pg_dump_that_fails_leaves_no_object_no_claim_and_a_frozen_retention() {
    let Some(mut scene) = Scene::small() else { return };
    // A plan that would forget everything but the last, so that only the freeze keeps the rest.
    scene.config = scene.config.retention("retention-last.wasm", "keep = 1").guard("min_age = \"0m\"");
    scene.backup(&["--now", "2026-06-01T01:00:00Z"]);
    let scripts = [
        ("fails", "exit 1", "exit code 1"),
        ("speaks", "$REAL \"$@\"; echo 'pg_dump: warning: half of it' >&2", "half of it"),
        ("killed", "$REAL \"$@\" | head -c 20000; kill -9 $$", "signal 9"),
        ("short", "$REAL \"$@\" | head -c 20000; exit 0", "db"),
        ("empty", "exit 0", "db"),
        ("leaks", "echo \"$PGPASSWORD\" >&2; exit 1", "[redacted]"),
    ];
    for (day, (name, script, says)) in (2..).zip(scripts) {
        let before = objects(&scene, "prod/db/");
        let program = fake_pg_dump(&scene, name, script);
        let now = format!("2026-06-{day:02}T01:00:00Z");
        let run =
            scene.run_edited(with_pg_dump(&program), &["--json", "--now", &now, "backup", "--env", "prod", "--force"]);
        assert_eq!(run.code, Some(1), "{name}: {}", run.stderr);
        assert!(run.stderr.contains(says), "{name}: {}", run.stderr);
        assert!(!run.stderr.contains(PASSWORD) && !run.stdout.contains(PASSWORD));
        let result = run.json();
        assert_eq!(result["snapshot"]["complete"], false, "{name}");
        assert_eq!(result["snapshot"]["sources"]["db"]["outcome"], "failed", "{name}");
        assert_eq!(result["snapshot"]["sources"]["docs"]["outcome"], "saved", "{name}: the documents were not saved");
        assert_eq!(result["retention"]["state"], "frozen", "{name}");
        assert_eq!(objects(&scene, "prod/db/"), before, "{name} left an object");
    }
    let listed = scene.list();
    assert_eq!(listed.len(), 1 + scripts.len(), "a failed run forgot something");
    assert_eq!(listed.iter().filter(|snapshot| snapshot["complete"] == true).count(), 1);
    let good = scene.backup(&["--now", "2026-06-20T01:00:00Z"]);
    assert_eq!(good["retention"]["state"], "applied");
}

#[test]
fn a_database_out_of_reach_fails_by_itself_and_the_documents_are_saved() {
    let Some(scene) = Scene::small() else { return };
    let port = format!("port = {}", scene.server.port());
    let run = scene.run_edited(|text| text.replace(&port, "port = 1"), &["--json", "backup", "--env", "prod"]);
    assert_eq!(run.code, Some(75), "{}", run.stderr);
    let result = run.json();
    assert_eq!(result["snapshot"]["sources"]["db"]["outcome"], "failed");
    assert_eq!(result["snapshot"]["sources"]["docs"]["outcome"], "saved");
    assert_eq!(result["snapshot"]["complete"], false);
}

#[test]
fn a_full_store_ends_in_one_sentence_and_leaves_nothing_half_written() {
    let Some(mut scene) = Scene::small() else { return };
    let mount = scene.folder.path().join("small");
    std::fs::create_dir(&mount).unwrap();
    let mounted =
        std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=600k", "tmpfs"]).arg(&mount).output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        tests::skip("this machine does not let a test mount a small file system");
        return;
    }
    let _unmount = Unmount(&mount);
    scene.store = mount.join("store");
    scene.config =
        Scene::sources(tests::binary::Config::directory_store(&scene.store), &scene.server, scene.folder.path());
    let run = scene.run(["backup", "--env", "prod"]);
    complains(&run, 1, "No space left");
    let big: Vec<_> =
        scene.stored().into_iter().filter(|(key, _)| key.contains("/docs/")).map(|(key, _)| key).collect();
    assert!(big.is_empty(), "{big:?}");
}

struct Unmount<'a>(&'a Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        drop(std::process::Command::new("umount").arg("--lazy").arg(self.0).status());
    }
}

#[test]
fn a_file_that_cannot_be_archived_as_it_is_is_named_and_the_run_succeeds() {
    let Some(scene) = Scene::small() else { return };
    let socket = scene.documents.join("medias/a socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let run = scene.backup(&[]);
    let archive = &run["snapshot"]["sources"]["docs"]["archive"];
    assert_eq!(archive["problems_total"], 1, "{archive}");
    assert!(archive["problems"][0]["path"].as_str().unwrap().contains("a socket"));
    assert_eq!(run["snapshot"]["complete"], true);
}
