//! Invalid input leads to one clear sentence, a hint and the documented exit code, and leaves the store unchanged.

use crate::scene::{Scene, complains};
use std::os::unix::fs::PermissionsExt;

#[test]
fn a_mistake_in_the_configuration_writes_nothing() {
    let Some(scene) = Scene::small() else { return };
    scene.backup(&[]);
    let before = scene.stored();
    let newer = scene.folder.path().join("old-tools");
    std::fs::create_dir(&newer).unwrap();
    for tool in ["pg_dump", "pg_restore"] {
        let path = newer.join(tool);
        std::fs::write(&path, format!("#!/bin/sh\necho '{tool} (PostgreSQL) 9.6.24'\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let replace = |from: &str, to: &str| {
        let (from, to) = (from.to_owned(), to.to_owned());
        Box::new(move |text: &str| {
            assert!(text.contains(&from), "nothing to replace: {from}");
            text.replacen(&from, &to, 1)
        }) as Box<dyn Fn(&str) -> String>
    };
    let documents = scene.documents.display().to_string();
    let credentials = scene.folder.path().join("credentials").display().to_string();
    let store = scene.store.display().to_string();
    let old = format!("kind = \"postgres\"\npg_dump = \"{}\"", newer.join("pg_dump").display());
    let table = [
        (replace("[store]", "[store"), 64, "line"),
        (replace("[store]", "[stores]"), 64, "unknown field `stores`, expected one of"),
        (replace("kind = \"postgres\"", "kind = \"mysql\""), 64, "unknown kind `mysql`"),
        (replace(&format!("file://{store}"), "file:///nonexistent/a/b"), 64, "/nonexistent/a"),
        (replace(&format!("file://{store}"), "file:///proc/erp"), 64, "/proc/erp"),
        (replace(&format!("file://{store}"), "ftp://example/x"), 64, "ftp"),
        (replace("fingerprint.wasm", "absent.wasm"), 64, "cannot be read"),
        (replace("fingerprint.wasm", "dump.wasm"), 64, "instead of"),
        (replace("fingerprint.wasm", "/bin/sh"), 64, "not a WebAssembly component"),
        (replace("\"database-evidence\", ", ""), 64, "which it is not granted"),
        (replace("\"database-evidence\"", "\"database\""), 64, "unknown grant `database`"),
        (replace("Europe/Paris", "Mars/Olympus"), 64, "unknown time zone"),
    ];
    for (edit, code, says) in table {
        let run = scene.run_edited(edit, &["backup", "--env", "prod"]);
        complains(&run, code, says);
        assert_eq!(scene.stored(), before, "`{says}` changed the store");
    }
    // A wrong source fails alone: the other one is saved, and the record names the failure.
    let sources = [
        (replace("database = \"erp\"", "database = \"absent\""), "db", "absent"),
        (replace(&credentials, "/nonexistent"), "db", "/nonexistent"),
        (replace("kind = \"postgres\"", &old), "db", "9.6"),
        (replace(&format!("{documents}\""), &format!("{documents}/absent\"")), "docs", "does not exist"),
        (replace(&format!("{documents}\""), &format!("{documents}/install.lock\"")), "docs", "is not a folder"),
    ];
    for (edit, source, says) in sources {
        let run = scene.run_edited(edit, &["--json", "backup", "--env", "prod"]).expect_code(64);
        assert!(run.stderr.contains(says), "{}", run.stderr);
        let saved = run.json();
        for (name, found) in saved["snapshot"]["sources"].as_object().unwrap() {
            assert_eq!(found["condition"] == "failed", name == source, "{says}: {saved}");
        }
    }
    let before = scene.stored();
    complains(&scene.run(["backup", "--env", "prd"]), 64, "unknown environment `prd`");
    complains(&scene.run(["--config", "absent.toml", "list", "--env", "prod"]), 64, "absent.toml");
    std::fs::write(scene.folder.path().join("credentials/password"), "wrong").unwrap();
    assert_eq!(scene.run(["backup"]).code, Some(2));
    assert_eq!(scene.run(["--version"]).code, Some(0));
    assert_eq!(scene.stored(), before);
    complains(&scene.run(["backup", "--env", "prod"]), 64, "password authentication failed");
}

#[test]
fn a_wrong_setting_of_a_plugin_is_told_before_anything_is_written() {
    let Some(mut scene) = Scene::small() else { return };
    scene.config = scene.config.fingerprint_settings("databse = \"tms\"");
    complains(&scene.run(["backup", "--env", "prod"]), 64, "databse");
    assert!(scene.data().is_empty(), "{:?}", scene.data().keys());
}

#[test]
fn a_wrong_bucket_key_or_address_of_an_s3_server_is_told_apart() {
    let Some(scene) = Scene::small().and_then(Scene::on_garage) else { return };
    let garage = scene.garage.clone().unwrap();
    let wrong = scene.folder.path().join("wrong");
    std::fs::create_dir(&wrong).unwrap();
    std::fs::write(wrong.join("AWS_ACCESS_KEY_ID"), garage.key_id()).unwrap();
    std::fs::write(wrong.join("AWS_SECRET_ACCESS_KEY"), "canary-wrong-secret").unwrap();
    let right = garage.credentials().display().to_string();
    let wrong = wrong.display().to_string();
    let (endpoint, bucket) = (garage.endpoint(), format!("s3://{}/", tests::garage::Garage::BUCKET));
    let table: [(&str, &str, i32, &str); 3] = [
        (&bucket, "s3://absent-bucket/", 64, "absent-bucket"),
        (&right, &wrong, 64, "denied access"),
        (&endpoint, "http://127.0.0.1:1", 75, "127.0.0.1:1"),
    ];
    for (from, to, code, says) in table {
        let run = scene.run_edited(|text| text.replacen(from, to, 1), &["backup", "--env", "prod"]);
        complains(&run, code, says);
        assert!(!run.stderr.contains("canary-wrong-secret") && !run.stderr.contains(garage.secret()));
    }
}

#[test]
fn a_hostile_plugin_ends_with_its_exit_code_and_costs_its_own_work_alone() {
    let Some(scene) = Scene::small() else { return };
    let guests = tests::binary::program().parent().unwrap().join("guests");
    let hostile = |role: &str, behaviour: &str| {
        let component = guests.join(format!("hostile-{role}.wasm"));
        assert!(component.is_file(), "{} is not built: run `cargo xtask plugins`", component.display());
        let (role, behaviour) = (role.to_owned(), behaviour.to_owned());
        move |text: &str| {
            let shipped = if role == "retention" { "retention-tiered.wasm".to_owned() } else { format!("{role}.wasm") };
            let line = format!("component = \"{shipped}\"");
            let other = format!("component = \"{}\"\nsettings = {{ {behaviour} }}", component.display());
            assert!(text.contains(&line));
            text.replacen(&line, &other, 1)
        }
    };
    for (role, behaviour, code) in HOSTILE {
        let objects = || scene.data().into_keys().filter(|key| key.contains("/db/") || key.contains("/docs/"));
        let before = objects().count();
        let run = scene.run_edited(hostile(role, behaviour), &["backup", "--env", "prod", "--force"]);
        complains(&run, code, &format!("`{role}`"));
        let newest = &scene.list()[0];
        for (name, source) in newest["sources"].as_object().unwrap() {
            // Without a fingerprint, a source is still saved; without a working dump plugin, it is not.
            let expected = if role == "fingerprint" { "whole" } else { "failed" };
            assert_eq!(source["condition"], expected, "{role} {behaviour}: {name} of {newest}");
            assert!(role != "fingerprint" || source["fingerprint"] == "", "{source}");
        }
        let made = if role == "fingerprint" { 3 } else { 0 };
        assert_eq!(
            objects().count(),
            before + made,
            "{role} {behaviour}: a dump, an archive and its index, or nothing"
        );
    }
}

/// Role, behaviour as named in the guests' README, exit code.
const HOSTILE: [(&str, &str, i32); 5] = [
    ("dump", "plan = { do = \"carry-all\" }", 71),
    ("fingerprint", "do = \"panic\"", 70),
    ("fingerprint", "do = \"nothing\"", 71),
    ("dump", "plan = { do = \"dump-all\" }, dump = { do = \"panic-with-stream\" }", 70),
    ("dump", "plan = { do = \"dump-all\" }, dump = { do = \"never-store\" }", 71),
];
