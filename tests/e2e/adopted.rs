//! A store that a shell script filled is listed, restored, and adopted without losing anything.

use crate::scene::{Scene, complains, manifest, succeed};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// A shell script that saves one file at a time, with its own format of time stamps.
struct Script<'s>(&'s Scene);

impl Script<'_> {
    fn target(&self, key: &str) -> std::path::PathBuf {
        let path = self.0.store.join(key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    fn docs(&self, stamp: &str) {
        let target = self.target(&format!("prod/docs/{stamp}.tar.gz"));
        // GNU tar takes the part before a colon for a host name.
        succeed(
            Command::new("tar").arg("--force-local").arg("-czf").arg(target).arg("-C").arg(&self.0.documents).arg("."),
        );
    }

    fn db(&self, stamp: &str) {
        let dump = self.0.server.client("pg_dump").args(["-Fc", crate::scene::DATABASE]).output().unwrap();
        assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
        std::fs::write(self.target(&format!("prod/db/{stamp}.dump")), dump.stdout).unwrap();
    }

    fn mark(&self, key: &str, text: &str) {
        std::fs::write(self.target(key), text).unwrap();
    }
}

fn ids(list: &[Value]) -> Vec<&str> {
    list.iter().map(|snapshot| snapshot["id"].as_str().unwrap()).collect()
}

#[track_caller]
fn same(documents: &Path, restored: &Path) {
    let of = |root: &Path| manifest(root, |_, _| false);
    assert_eq!(of(documents).symmetric_difference(&of(restored)).count(), 0);
}

#[test]
fn a_scripts_store_is_listed_restored_and_read_whatever_its_stamps() {
    let Some(scene) = Scene::small() else { return };
    let script = Script(&scene);
    let invoice = format!("facture/{0}/{0}.pdf", tests::sample::invoice(60));
    let before = std::fs::read(scene.documents.join(&invoice)).unwrap();
    script.db("2026-06-28T01:00:00Z");
    script.docs("2026-06-28T01:00:00Z");
    script.db("20260629-010000");
    tests::sample::rewrite_invoice_pdf(&scene.documents).unwrap();
    script.docs("2026-06-30_01-00-00");
    script.db("20260701010000");
    script.docs("2026-07-02T03:00:00+02:00");
    for key in ["prod/.fp-db", "prod/.fp-docs", "prod/docs/latest.tar.gz", "prod/db/20260703.sql.gz", "prod/README"] {
        script.mark(key, "left alone");
    }
    let untouched = scene.stored();
    let list = scene.list();
    let expected = ["20260702T010000Z", "20260701T010000Z", "20260630T010000Z", "20260629T010000Z", "20260628T010000Z"];
    assert_eq!(ids(&list), expected);
    assert!(list.iter().all(|snapshot| snapshot["adopted"] == true && snapshot["complete"] == true), "{list:?}");
    assert_eq!(list[3]["sources"]["docs"]["key"], "prod/docs/2026-06-28T01:00:00Z.tar.gz", "carried over");

    let at = |name: &str| scene.folder.path().join(name);
    let restore = |at: &str, into: &Path| {
        let into = into.to_str().unwrap();
        scene.run(["restore", "--env", "prod", "--source", "docs", "--at", at, "--into", into])
    };
    let _ = restore("2026-07-02", &at("newest")).expect_code(0);
    same(&scene.documents, &at("newest"));
    let _ = restore("2026-06-29", &at("older")).expect_code(0);
    assert_eq!(std::fs::read(at("older").join(&invoice)).unwrap(), before);
    complains(&restore("2026-06-27", &at("never")), 2, "no whole snapshot of docs at or before");
    let output = at("one.pdf");
    let got =
        ["get", "--env", "prod", "--snapshot", "20260628T010000Z", &invoice, "--output", output.to_str().unwrap()];
    let _ = scene.run(got).expect_code(0);
    assert_eq!(std::fs::read(output).unwrap(), before);
    let dump = scene.fetch(list[1]["sources"]["db"]["key"].as_str().unwrap(), "db.dump");
    scene.server.create_database("again", &[]);
    scene.server.restore("again", &dump);
    assert_eq!(scene.contents("again"), scene.contents(crate::scene::DATABASE));
    assert_eq!(scene.stored(), untouched, "none of this may change the store");
    let now = ["--now", "2026-07-02T12:00:00Z"];
    let status = || scene.run(["--json", "status"].into_iter().chain(now));
    let before_init = status().expect_code(4).json();
    assert_eq!(before_init["environments"][0]["problems"][0]["command"], "init --env prod");
    let init = scene.run(["init", "--env", "prod"].into_iter().chain(now)).expect_code(0);
    assert!(init.stdout.contains("5 adopted from objects without a record"), "{}", init.stdout);
    assert_eq!(status().expect_code(0).json()["environments"][0]["snapshots"]["adopted"], 5);

    // No record describes these objects, so `verify` reads them to check whether they are whole.
    let verify = |code| {
        scene.run(["--json", "verify", "--env", "prod", "--all", "--now", "2026-07-02T12:00:00Z"]).expect_code(code)
    };
    let _ = verify(0);
    script.db("20260702-010000");
    script.mark("prod/docs/2026-07-03.tar.gz", "");
    let failed = scene.run(["--json", "status", "--now", "2026-07-03T12:00:00Z"]).expect_code(4).json();
    let problems = failed["environments"][0]["problems"].as_array().unwrap();
    assert!(problems.iter().any(|problem| problem["kind"] == "failed" && problem["source"] == "docs"), "{failed}");
    let cut = scene.store.join("prod/docs/2026-06-30_01-00-00.tar.gz");
    let bytes = std::fs::read(&cut).unwrap();
    std::fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    std::fs::write(scene.store.join("prod/db/20260629-010000.dump"), "").unwrap();
    let wrong = verify(4).stdout;
    for key in ["prod/docs/2026-06-30_01-00-00.tar.gz", "prod/db/20260629-010000.dump"] {
        assert!(wrong.contains(key), "{key} is not named: {wrong}");
    }
}

#[test]
fn a_scripts_store_enters_retention_without_losing_anything() {
    let Some(mut scene) = Scene::small() else { return };
    scene.config = scene.config.clone().retention("retention-last.wasm", "keep = 2").guard("legal_years = 0");
    let script = Script(&scene);
    for day in 10..=15 {
        script.db(&format!("202606{day}-010000"));
        script.docs(&format!("2026-06-{day}"));
    }
    let strangers =
        ["prod/db/latest.dump", "prod/.fp-db", "sandbox/db/20260610-010000.dump", "prod/db/20260610-010000.dump.md5"];
    for key in strangers {
        script.mark(key, "x");
    }
    let by_script = scene.stored();
    let adopted = ids(&scene.list()).len();
    assert_eq!(adopted, 12, "a snapshot of the date and one of the exact time, for each day");

    // Runs and prunes keep all of it, until somebody accepts that it may age.
    let first = scene.backup(&["--now", "2026-06-16T01:00:00Z"]);
    assert_eq!(first["retention"]["state"], "applied", "{first}");
    assert_eq!(first["snapshot"]["sources"]["docs"]["outcome"], "saved", "adopted objects prove nothing");
    let _ = scene.backup(&["--now", "2026-06-17T01:00:00Z"]);
    let now = ["--now", "2026-06-18T12:00:00Z"];
    let prune = |more: &[&'static str]| {
        let all: Vec<&str> = ["--json", "prune", "--env", "prod"].iter().chain(more).chain(&now).copied().collect();
        scene.run(all).expect_code(0).json()
    };
    let pruned = prune(&[]);
    assert_eq!(pruned["retention"]["forgotten"].as_array().unwrap().len(), 0, "{pruned}");
    let stored = scene.stored();
    assert!(by_script.iter().all(|(key, bytes)| key.ends_with(".fp-db") || stored.get(key) == Some(bytes)));

    let accepted = scene.run(["accept", "--env", "prod", "--adopted", "--now", now[1]]).expect_code(0);
    assert!(accepted.stdout.contains("adopted snapshots may age"), "{}", accepted.stdout);
    let planned = prune(&["--dry-run"]);
    assert_eq!(planned["retention"]["would_bin"].as_array().unwrap().len(), adopted, "{planned}");
    let binned = prune(&[]);
    assert_eq!(binned["retention"]["binned"].as_array().unwrap().len(), adopted, "{binned}");
    assert_eq!(ids(&scene.list()).len(), adopted + 2, "snapshots in the bin are still listed");
    assert_eq!(prune(&[])["retention"]["forgotten"].as_array().unwrap().len(), 0, "they stay for a week");
    let pruned = scene.empty_bin(now[1]);
    assert_eq!(pruned["retention"]["forgotten"].as_array().unwrap().len(), adopted, "{pruned}");
    assert_eq!(ids(&scene.list()), ["20260617T010000Z", "20260616T010000Z"]);
    let stored = scene.stored();
    for key in strangers {
        assert!(stored.contains_key(key), "{key} is gone");
    }
    let left: BTreeSet<&str> =
        stored.keys().map(String::as_str).filter(|key| key.starts_with("prod/docs/2026-")).collect();
    assert!(left.is_empty(), "{left:?}");
    let certificates = stored.iter().filter(|(key, _)| key.starts_with("prod/forgotten/"));
    let named: BTreeSet<String> = certificates
        .flat_map(|(_, bytes)| {
            let certificate: Value = serde_json::from_slice(bytes).unwrap();
            let objects = certificate["objects"].as_array().cloned().unwrap_or_default();
            objects.into_iter().map(|key| key.as_str().unwrap().to_owned()).collect::<Vec<_>>()
        })
        .collect();
    let expected = by_script.keys().filter(|key| key.ends_with("-010000.dump") && key.starts_with("prod/"));
    let expected: BTreeSet<String> =
        expected.chain(by_script.keys().filter(|key| key.ends_with(".tar.gz"))).cloned().collect();
    assert_eq!(named, expected, "the certificates name the objects that they explain");

    // An object counts as new, and stays, even if a forgotten one had the same time in another format.
    script.db("2026-06-10-010000");
    let listed = scene.list();
    assert_eq!(ids(&listed), ["20260617T010000Z", "20260616T010000Z", "20260610T010001Z"]);
    let again = prune(&[]);
    assert_eq!(again["retention"]["pruned"].as_array().unwrap().len(), 0, "{again}");
    assert!(scene.stored().contains_key("prod/db/2026-06-10-010000.dump"));
}

#[test]
fn a_script_that_still_runs_beside_the_program_loses_nothing_to_it() {
    let Some(scene) = Scene::small() else { return };
    scene.backup(&["--now", "2026-06-30T01:00:00Z"]);
    let script = Script(&scene);
    // The same second in another format.
    script.db("20260630-010000");
    script.docs("20260630-010000");
    let list = scene.list();
    assert_eq!(ids(&list), ["20260630T010001Z", "20260630T010000Z"]);
    assert_eq!((list[0]["adopted"].as_bool(), list[1]["adopted"].as_bool()), (Some(true), Some(false)));
    let _ = scene.backup(&["--now", "2026-06-30T01:00:01Z"]);
    script.db("2026-06-30_23-00-00");
    script.mark("prod/docs/2026-06-30_23-00-00.tar.gz", "cut off");
    let now = ["--now", "2026-07-30T12:00:00Z"];
    let _ = scene.run(["accept", "--env", "prod", "--adopted"].into_iter().chain(now)).expect_code(0);
    let binned = scene.run(["--json", "prune", "--env", "prod"].into_iter().chain(now)).expect_code(0).json();
    assert!(!binned["retention"]["binned"].as_array().unwrap().is_empty(), "{binned}");
    let _ = scene.backup(&now);
    let pruned = scene.empty_bin(now[1]);
    let kept: Vec<&str> = pruned["retention"]["plan"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|line| line["verdict"] == "keep")
        .map(|line| line["id"].as_str().unwrap())
        .collect();
    assert!(
        kept.contains(&"20260630T010002Z"),
        "the script's broken archive took the place of the day's run: {pruned}"
    );
    let left = ids(&scene.list()).len();
    assert_eq!(left, kept.len());
    let into = scene.folder.path().join("restored");
    let restored = "restore --env prod --source docs --snapshot 20260630T010002Z --into"
        .split(' ')
        .chain([into.to_str().unwrap()]);
    let _ = scene.run(restored).expect_code(0);
}
