//! No secret appears in an argument, log, error, record or report. The tests plant canaries and search everything.

use crate::scene::{PASSWORD, Scene};
use std::collections::BTreeSet;

/// The argument lists of all processes on the machine, for tests that search them during a run.
pub fn arguments() -> BTreeSet<Vec<u8>> {
    let mut all = BTreeSet::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        if entry.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit()) {
            // A process may end between the listing and the read.
            all.extend(std::fs::read(entry.path().join("cmdline")));
        }
    }
    all
}

/// Whether bytes contain a text.
pub fn holds(bytes: &[u8], secret: &str) -> bool {
    bytes.windows(secret.len()).any(|window| window == secret.as_bytes())
}

#[test]
fn no_secret_is_in_an_argument_a_log_a_record_or_a_report() {
    let Some(scene) = Scene::small() else { return };
    for arguments_of_run in [["--json", "backup"], ["--json", "list"]] {
        let command = scene.command(arguments_of_run.into_iter().chain(["--env", "prod"]));
        let mut seen = BTreeSet::new();
        let run = command.env("DOLIBARR_BACKUP_LOG", "debug").start().kill_when(|| {
            seen.extend(arguments());
            false
        });
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        let seen: Vec<u8> = seen.into_iter().flatten().collect();
        assert!(holds(&seen, "--env"), "no argument list was read");
        for (what, bytes) in
            [("arguments", &seen), ("stdout", &run.stdout.into_bytes()), ("stderr", &run.stderr.into_bytes())]
        {
            assert!(!holds(bytes, PASSWORD), "the password is in {what}");
        }
    }
    let stored = scene.stored();
    assert!(stored.keys().any(|key| key.contains("/snapshots/")));
    for (key, bytes) in stored {
        assert!(!holds(&bytes, PASSWORD), "the password is in {key}");
    }
}

#[test]
fn no_key_of_a_server_is_in_what_a_run_says_at_its_most_talkative() {
    let Some(scene) = Scene::small().and_then(Scene::on_garage) else { return };
    let garage = scene.garage.clone().unwrap();
    let run = scene.command(["--json", "backup", "--env", "prod"]).env("DOLIBARR_BACKUP_LOG", "debug").finish();
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    for text in [&run.stdout, &run.stderr] {
        assert!(!text.contains(garage.secret()) && !text.contains(PASSWORD));
    }
    let record = scene.list()[0].to_string();
    assert!(!record.contains(garage.secret()) && !record.contains(PASSWORD));
}
