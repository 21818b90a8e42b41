//! A source that fails, for any reason, never prevents other sources from being saved, and the run always ends.

use crate::scene::{DATABASE, Scene};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

/// Asserts that one source failed, that the other one is whole, and that the record in the store says so.
#[track_caller]
fn half(scene: &Scene, night: &Value, failed: &str, says: &str) {
    let key = format!("prod/snapshots/{}.json", night["snapshot"]["id"].as_str().unwrap());
    let record: Value = serde_json::from_slice(&scene.stored()[&key]).unwrap();
    for source in ["db", "docs"] {
        let state = &record["sources"][source];
        let expected = if source == failed { "failed" } else { "whole" };
        assert_eq!(state["condition"], expected, "{source}: {record}");
        assert_eq!(state["object"].is_null(), source == failed, "{source}: {record}");
    }
    assert!(record["sources"][failed].to_string().contains(says), "`{says}` is not recorded: {record}");
    assert_eq!(night["retention"]["state"], "frozen", "{night}");
}

#[test]
fn one_new_table_that_may_not_be_read_costs_the_database_alone_and_is_named() {
    let Some(scene) = Scene::small() else { return };
    scene.backup(&["--now", "2026-06-01T01:00:00Z"]);
    scene.server.psql(DATABASE, "CREATE TABLE llx_brand_new (rowid integer PRIMARY KEY)");
    std::fs::write(scene.documents.join("new.pdf"), "new").unwrap();
    let night = |now: &str| scene.run(["--json", "backup", "--env", "prod", "--now", now]);
    let without = night("2026-06-02T01:00:00Z");
    assert!(matches!(without.code, Some(1 | 64)), "{:?} {}", without.code, without.stderr);
    assert!(without.stderr.contains("llx_brand_new"), "{}", without.stderr);
    half(&scene, &without.json(), "db", "llx_brand_new");
    assert_eq!(without.json()["snapshot"]["sources"]["docs"]["outcome"], "saved");
    let status = scene.run(["--json", "status", "--now", "2026-06-02T02:00:00Z"]).expect_code(4).json();
    assert_eq!(super::problems(&status["environments"][0]), [("failed", Some("db"))]);
    scene.server.psql(DATABASE, &format!("GRANT SELECT ON llx_brand_new TO {}", crate::scene::ROLE));
    let _ = night("2026-06-03T01:00:00Z").expect_code(0);
    let _ = scene.run(["status", "--now", "2026-06-03T02:00:00Z"]).expect_code(0);
}

#[test]
fn a_missing_documents_folder_costs_the_documents_alone() {
    let Some(scene) = Scene::small() else { return };
    let away = scene.folder.path().join("away");
    std::fs::rename(&scene.documents, &away).unwrap();
    let night = scene.run(["--json", "backup", "--env", "prod", "--now", "2026-06-01T01:00:00Z"]).expect_code(64);
    assert!(night.stderr.contains("does not exist"), "{}", night.stderr);
    half(&scene, &night.json(), "docs", "does not exist");
    std::fs::rename(&away, &scene.documents).unwrap();
    scene.backup(&["--now", "2026-06-02T01:00:00Z"]);
    let _ = scene.run(["status", "--now", "2026-06-02T02:00:00Z"]).expect_code(0);
}

#[test]
fn a_fingerprint_that_traps_costs_the_fingerprint_and_not_the_night() {
    let Some(scene) = Scene::small() else { return };
    let guest = tests::binary::program().parent().unwrap().join("guests/hostile-fingerprint.wasm");
    assert!(guest.is_file(), "{} is not built: run `cargo xtask plugins`", guest.display());
    let hostile = |text: &str| {
        let other = format!("component = \"{}\"\nsettings = {{ do = \"panic\" }}", guest.display());
        text.replacen("component = \"fingerprint.wasm\"", &other, 1)
    };
    let arguments = |now: &'static str| ["--json", "backup", "--env", "prod", "--now", now];
    let night = scene.run_edited(hostile, &arguments("2026-06-01T01:00:00Z"));
    assert_eq!(night.code, Some(70), "{}", night.stderr);
    for (name, source) in night.json()["snapshot"]["sources"].as_object().unwrap() {
        assert_eq!(
            (source["condition"].as_str(), source["outcome"].as_str()),
            (Some("whole"), Some("saved")),
            "{name}"
        );
    }
    // A failing plugin cannot cause a source to be carried over.
    let again = scene.run_edited(hostile, &arguments("2026-06-02T01:00:00Z"));
    assert_eq!(again.code, Some(70), "{}", again.stderr);
    assert_eq!(again.json()["snapshot"]["sources"]["db"]["outcome"], "saved");
}

/// A proxy in front of a server. It forwards everything until the login is done, and then discards the server's data.
fn silent_after_login(server: u16) -> u16 {
    /// `ReadyForQuery`, idle.
    const READY: [u8; 6] = [b'Z', 0, 0, 0, 5, b'I'];
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let pass = |mut from: TcpStream, mut to: TcpStream, ends: bool| {
        let (mut buffer, mut seen, mut silent) = ([0_u8; 4096], Vec::new(), false);
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            if silent {
                continue;
            }
            if to.write_all(&buffer[..count]).is_err() {
                break;
            }
            seen.extend_from_slice(&buffer[..count]);
            silent = ends && seen.windows(READY.len()).any(|window| window == READY);
        }
        if !silent {
            let _ = to.shutdown(Shutdown::Write);
        }
    };
    // The thread ends with the test's process.
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { return };
            let (from_client, from_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || pass(from_client, server, false));
            std::thread::spawn(move || pass(from_server, client, true));
        }
    });
    port
}

#[test]
fn a_server_that_goes_silent_after_the_login_ends_in_seconds_and_the_documents_are_saved() {
    let Some(scene) = Scene::small() else { return };
    let (from, proxy) = (format!("port = {}", scene.server.port()), silent_after_login(scene.server.port()));
    let through = |text: &str| text.replace(&from, &format!("port = {proxy}\nopen_timeout = 2"));
    let night = scene.run_edited(through, &["--json", "backup", "--env", "prod", "--now", "2026-06-01T01:00:00Z"]);
    assert_eq!(night.code, Some(75), "{}", night.stderr);
    assert!(night.elapsed < Duration::from_secs(30), "it took {:?}", night.elapsed);
    half(&scene, &night.json(), "db", "no snapshot was opened within 2 s");
    scene.backup(&["--now", "2026-06-02T01:00:00Z"]);
}

#[test]
fn a_dump_that_hangs_ends_with_the_runs_deadline_and_costs_the_database_alone() {
    let Some(scene) = Scene::small() else { return };
    let tools = scene.folder.path().join("hangs");
    std::fs::create_dir(&tools).unwrap();
    let program = tools.join("pg_dump");
    let real = scene.server.bin();
    let script =
        format!("#!/bin/sh\n[ \"$1\" = --version ] && exec {}/pg_dump --version\nexec sleep 300\n", real.display());
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink(real.join("pg_restore"), tools.join("pg_restore")).unwrap();
    let hangs = |text: &str| {
        let line = format!("kind = \"postgres\"\npg_dump = \"{}\"", program.display());
        // The run reserves a minute of it for the commit and the retention.
        format!("{}\n[deadlines]\nrun = \"66s\"\n", text.replacen("kind = \"postgres\"", &line, 1))
    };
    let night = scene.run_edited(hangs, &["--json", "backup", "--env", "prod", "--now", "2026-06-01T01:00:00Z"]);
    assert_eq!(night.code, Some(75), "{}", night.stderr);
    assert!(night.elapsed < Duration::from_secs(40), "it took {:?}", night.elapsed);
    half(&scene, &night.json(), "db", "was not saved within");
    assert!(!scene.stored().keys().any(|key| key.starts_with("prod/db/")), "a part of the dump was left");
}
