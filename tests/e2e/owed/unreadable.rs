//! Documents that exist but that the backup's user may not read.

use super::{Office, commands, keep_last, listed, problems};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

/// Runs the binary as the user `nobody`, so that file modes apply.
fn as_nobody(office: &Office, arguments: &[&str]) -> std::io::Result<Output> {
    let mut command = Command::new("runuser");
    command.args(["-u", "nobody", "--", "env", "--ignore-environment", "HOME=/tmp", "PATH=/usr/bin:/bin"]);
    command.arg(tests::binary::program()).args(arguments).current_dir(office.folder.path()).output()
}

/// A night's backup as the user `nobody`.
#[track_caller]
fn night(office: &Office, now: &str, code: i32) -> Value {
    let output = as_nobody(office, &["--json", "backup", "--env", "prod", "--now", now]).unwrap();
    assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// An office whose store belongs to the user `nobody`. If nothing can run as that user, returns `None` and records the
/// skip.
fn office_of_nobody(policy: &str) -> Option<Office> {
    let office = Office::new(&["docs"], policy);
    std::fs::set_permissions(office.folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::create_dir(office.at("store")).unwrap();
    let given = Command::new("chown").arg("nobody").arg(office.at("store")).output();
    let able = rustix::process::geteuid().is_root()
        && given.is_ok_and(|output| output.status.success())
        && as_nobody(&office, &["--version"]).is_ok_and(|output| output.status.success());
    if !able {
        tests::skip("nothing can be run as the user nobody, for whom the modes of documents count");
        return None;
    }
    for name in ["FA1.pdf", "FA2.pdf", "more/FA3.pdf"] {
        let path = office.documents("docs").join("facture").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, name).unwrap();
    }
    let founded = as_nobody(&office, &["init", "--env", "prod", "--now", "2025-12-29T22:00:00Z"]).unwrap();
    assert!(founded.status.success(), "{}", String::from_utf8_lossy(&founded.stderr));
    Some(office)
}

fn lock(office: &Office, name: &str, mode: u32) {
    std::fs::set_permissions(office.documents("docs").join(name), std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_folder_that_cannot_be_read_is_partial_every_day_until_it_can() {
    let Some(office) = office_of_nobody(&keep_last(1, "legal_years = 0")) else { return };
    let _ = night(&office, "2025-12-29T22:00:00Z", 0);
    office.write("docs", "a", "the last whole one");
    let whole = night(&office, "2025-12-30T22:00:00Z", 0);
    assert_eq!(listed(&whole, "binned"), ["20251229T220000Z"], "{whole}");

    lock(&office, "facture", 0o700);
    for day in ["2025-12-31", "2026-01-01", "2026-01-02"] {
        office.write("docs", "b", day);
        if day == "2026-01-01" {
            office.write("docs", "b", "2025-12-31");
        }
        let partial = night(&office, &format!("{day}T22:00:00Z"), 3);
        let docs = &partial["snapshot"]["sources"]["docs"];
        assert_eq!((docs["condition"].as_str(), docs["outcome"].as_str()), (Some("partial"), Some("saved")), "{docs}");
        // Two documents, and one in a subfolder.
        let said = docs["doubts"][0].as_str().unwrap();
        assert!(said.contains("1 entry could not be read, and 3 that the last whole archive has below"), "{said}");
        assert_eq!(partial["retention"]["state"], "frozen", "{partial}");
        let pruned = office.run(&["prune", "--env", "prod", "--now", &format!("{day}T23:00:00Z")]).expect_code(3);
        assert!(pruned.stderr.contains("nothing was forgotten: docs is partial"), "{}", pruned.stderr);
        let status = office.status(&format!("{day}T23:00:00Z"), 4);
        assert!(problems(&status).contains(&("partial", Some("docs"))), "{status}");
        assert_eq!(commands(&status, "partial"), ["backup --env prod"]);
    }
    assert_eq!(office.certificates(), 1, "something entered the bin");

    let now = "2026-01-02T23:00:00Z";
    let into = office.at("restored");
    let restore = |more: &[&str]| {
        let words = ["restore", "--env", "prod", "--source", "docs", "--into", into.to_str().unwrap(), "--now", now];
        office.run(&[&words[..], more].concat())
    };
    let refused = restore(&["--snapshot", "20251231T220000Z"]).expect_code(4);
    assert!(refused.stderr.contains("could not be read, and 3 that the last whole"), "{}", refused.stderr);
    assert!(refused.stderr.contains("--allow-partial") && !into.exists(), "{}", refused.stderr);
    let _ = restore(&["--snapshot", "20251231T220000Z", "--allow-partial"]).expect_code(0);
    assert!(into.join("a").exists() && !into.join("facture/FA1.pdf").exists());
    std::fs::remove_dir_all(&into).unwrap();
    // If no snapshot is named, the restore uses the last whole one, even for the last day of the year.
    for more in [&[][..], &["--at", "2025-12-31"]] {
        let _ = restore(more).expect_code(0);
        assert_eq!(std::fs::read_to_string(into.join("b")).unwrap(), "b of docs", "{more:?}");
        assert_eq!(std::fs::read_to_string(into.join("facture/more/FA3.pdf")).unwrap(), "more/FA3.pdf");
        std::fs::remove_dir_all(&into).unwrap();
    }

    lock(&office, "facture", 0o755);
    let mended = night(&office, "2026-01-03T22:00:00Z", 0);
    assert_eq!(mended["snapshot"]["sources"]["docs"]["condition"], "whole", "{mended}");
    assert_eq!(mended["retention"]["state"], "applied", "{mended}");
    office.is_green("2026-01-03T23:00:00Z");
}

#[test]
fn one_document_that_cannot_be_read_is_partial_too_and_one_that_vanished_is_not() {
    let Some(office) = office_of_nobody("") else { return };
    let _ = night(&office, "2025-12-30T22:00:00Z", 0);
    lock(&office, "facture/FA1.pdf", 0o600);
    let partial = night(&office, "2025-12-31T22:00:00Z", 3);
    assert_eq!(partial["snapshot"]["sources"]["docs"]["condition"], "partial", "{partial}");
    assert_eq!(problems(&office.status("2025-12-31T23:00:00Z", 4)), [("partial", Some("docs"))]);
    std::fs::remove_file(office.documents("docs").join("facture/FA1.pdf")).unwrap();
    let _ = night(&office, "2026-01-01T22:00:00Z", 0);
    office.is_green("2026-01-01T23:00:00Z");
}

#[test]
fn the_year_end_of_a_source_that_was_partial_is_its_last_whole_state_and_the_partial_one_stays_beside_it() {
    let Some(office) = office_of_nobody(&keep_last(1, "")) else { return };
    office.write("docs", "a", "30 December");
    let _ = night(&office, "2025-12-30T22:00:00Z", 0);
    lock(&office, "facture", 0o700);
    office.write("docs", "a", "31 December");
    let _ = night(&office, "2025-12-31T22:00:00Z", 3);
    lock(&office, "facture", 0o755);
    for day in ["2026-01-01", "2026-01-02", "2026-01-03", "2026-01-04", "2026-01-05"] {
        office.write("docs", "a", day);
        let _ = night(&office, &format!("{day}T22:00:00Z"), 0);
        office.age_bin(8);
    }
    let now = "2026-01-05T23:00:00Z";
    assert!(!office.ids(now).contains(&"20260101T220000Z".to_owned()), "{:?}", office.ids(now));
    assert_eq!(office.restored("docs", ["--at", "2025-12-31"], now), "30 December");
}

#[test]
fn what_a_partial_state_held_counts_beside_a_smaller_whole_one() {
    let Some(office) = office_of_nobody("") else { return };
    let _ = night(&office, "2025-12-30T01:00:00Z", 0);
    for n in 0..200 {
        office.write("docs", &format!("more-{n}"), "x");
    }
    lock(&office, "facture", 0o700);
    let _ = night(&office, "2025-12-31T01:00:00Z", 3);
    for n in 0..195 {
        std::fs::remove_file(office.documents("docs").join(format!("more-{n}"))).unwrap();
    }
    lock(&office, "facture", 0o755);
    let lost = night(&office, "2026-01-01T01:00:00Z", 3);
    assert_eq!(lost["snapshot"]["sources"]["docs"]["condition"], "suspect", "{lost}");
}

#[test]
fn what_root_writes_to_a_store_of_another_user_can_be_read_by_that_user() {
    let Some(office) = office_of_nobody("") else { return };
    let _ = night(&office, "2025-12-30T01:00:00Z", 0);
    office.founded.set(true);
    for verb in [&["unforget", "20251230T010000Z"][..], &["verify"]] {
        let _ = office.verb(verb, "2025-12-30T02:00:00Z", 0);
    }
    let next = night(&office, "2025-12-31T01:00:00Z", 0);
    assert_eq!(next["retention"]["state"], "applied", "{next}");
}
