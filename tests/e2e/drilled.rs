//! A drill checks a snapshot and leaves only a report.

use crate::scene::{DATABASE, Scene, complains, key};
use serde_json::Value;
use std::path::Path;

fn drill(scene: &Scene, more: &[&str]) -> tests::binary::Outcome {
    scene.run(["--json", "drill", "--env", "prod"].into_iter().chain(more.iter().copied()))
}

fn reports(scene: &Scene) -> Vec<(String, String)> {
    let stored = scene.stored().into_iter().filter(|(key, _)| key.starts_with("prod/drills/"));
    stored.map(|(key, bytes)| (key, String::from_utf8(bytes).unwrap())).collect()
}

fn entries(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

#[test]
fn a_drill_restores_both_halves_and_leaves_a_dated_report_and_nothing_else() {
    let Some(scene) = Scene::small() else { return };
    let scratch = scene.folder.path().join("s");
    std::fs::create_dir(&scratch).unwrap();
    scene.backup(&["--now", "2025-12-31T01:00:00Z"]);
    scene.server.psql(DATABASE, tests::sample::CHANGE_INVOICE);
    // After half a year without a run, the run asks a question.
    let _ = scene.run(["backup", "--env", "prod", "--now", "2026-06-30T01:00:00Z"]).expect_code(3);
    let databases = scene.server.psql("postgres", "SELECT datname FROM pg_database ORDER BY 1");

    let place = ["--scratch", scratch.to_str().unwrap()];
    let newest = drill(&scene, &[&place[..], &["--now", "2026-07-01T02:00:00Z"]].concat()).expect_code(0).json();
    let report = &newest["drill"];
    assert_eq!((&report["snapshot"], &report["passed"]), (&"20260630T010000Z".into(), &true.into()), "{report}");
    assert_eq!(report["sources"]["db"]["compared"], "equal", "{report}");
    let steps: Vec<&str> = report["phases"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
    for step in [
        "read db",
        "start a server",
        "restore the database",
        "compare the database",
        "restore the documents",
        "look at both together",
        "clean up",
    ] {
        assert!(steps.contains(&step), "{steps:?}");
    }
    assert!(report["phases"].as_array().unwrap().iter().all(|phase| phase["millis"].is_u64()));
    let crosscheck = &report["crosscheck"];
    assert_eq!(crosscheck["compared"], tests::sample::INVOICES, "{crosscheck}");
    assert_eq!(
        (&crosscheck["missing"]["total"], &crosscheck["altered"]["total"]),
        (&0.into(), &0.into()),
        "{crosscheck}"
    );
    assert!(crosscheck["heads"][0]["entries"].as_u64().unwrap() > 0, "{crosscheck}");
    let stored = reports(&scene);
    let names: Vec<&str> = stored.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["prod/drills/20260701T020000Z.html", "prod/drills/20260701T020000Z.json"]);
    assert!(
        stored[0].1.contains("Passed") && stored[0].1.contains("2026-07-01 04:00") && !stored[0].1.contains("<script")
    );
    assert_eq!(serde_json::from_str::<Value>(&stored[1].1).unwrap(), *report);
    assert_eq!(scene.list()[0]["verified"], true);

    let oldest =
        drill(&scene, &[&place[..], &["--oldest", "--now", "2026-07-01T03:00:00Z"]].concat()).expect_code(0).json();
    assert_eq!(oldest["drill"]["snapshot"], "20251231T010000Z");
    assert_eq!(oldest["drill"]["sources"]["db"]["compared"], "equal");
    assert_eq!(entries(&scratch), 0);
    assert_eq!(scene.server.psql("postgres", "SELECT datname FROM pg_database ORDER BY 1"), databases);
    let said = scene.run(["drill", "--env", "prod", "--scratch", scratch.to_str().unwrap()]).expect_code(0).stdout;
    assert!(said.contains("passed") && said.contains("the report is in the store"), "{said}");
}

#[test]
fn a_drill_of_what_is_damaged_fails_and_its_report_says_why() {
    let Some(scene) = Scene::small() else { return };
    complains(&scene.run(["drill", "--env", "prod"]), 2, "there is no complete snapshot");
    complains(&scene.run(["drill", "--env", "prod", "--oldest"]), 2, "no complete snapshot to drill");
    let made = scene.backup(&["--now", "2026-06-30T01:00:00Z"]);
    let object = key(&made["snapshot"]["sources"], "db");
    let path = scene.store.join(&object);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let failed = drill(&scene, &["--now", "2026-07-01T02:00:00Z"]);
    assert_eq!(failed.code, Some(4), "{}", failed.stderr);
    assert_eq!(failed.json()["drill"]["passed"], false);
    let stored = reports(&scene);
    assert!(stored.len() == 2 && stored[0].1.contains("Failed") && stored[0].1.contains(&object), "{stored:?}");
    assert_eq!(scene.list()[0]["verified"], false);
}

#[test]
fn halves_that_do_not_belong_together_and_a_log_that_shrank_are_told() {
    let Some(scene) = Scene::small() else { return };
    let invoice = |number| {
        let name = tests::sample::invoice(number);
        scene.documents.join(format!("facture/{name}/{name}.pdf"))
    };
    let (gone, altered) = (std::fs::read(invoice(2)).unwrap(), std::fs::read(invoice(3)).unwrap());
    std::fs::remove_file(invoice(2)).unwrap();
    std::fs::write(invoice(3), [&altered[..], b"% more"].concat()).unwrap();
    scene.backup(&["--now", "2026-06-29T01:00:00Z"]);
    let failed = drill(&scene, &["--now", "2026-06-29T02:00:00Z"]);
    assert_eq!(failed.code, Some(4), "{}", failed.stderr);
    let report = failed.json()["drill"].clone();
    let first = |kind: &str| report["crosscheck"][kind]["first"][0].as_str().unwrap_or_default().to_owned();
    assert!(first("missing").contains(&tests::sample::invoice(2)), "{report}");
    assert!(first("altered").contains(&tests::sample::invoice(3)), "{report}");
    let page = &reports(&scene)[0].1;
    assert!(page.contains("Failed") && page.contains(&tests::sample::invoice(2)), "{page}");
    assert_eq!(report["sources"]["docs"]["problems"], Value::Null, "the documents by themselves are whole");

    std::fs::write(invoice(2), gone).unwrap();
    std::fs::write(invoice(3), altered).unwrap();
    scene.server.psql(DATABASE, "DELETE FROM llx_blockedlog WHERE rowid = (SELECT max(rowid) FROM llx_blockedlog)");
    scene.backup(&["--now", "2026-06-30T01:00:00Z"]);
    let shrunk = drill(&scene, &["--now", "2026-06-30T02:00:00Z"]);
    assert_eq!(shrunk.code, Some(4), "{}", shrunk.stderr);
    assert!(shrunk.stderr.contains("entries, and had"), "{}", shrunk.stderr);
    assert_eq!(shrunk.json()["drill"]["shrunk_logs"].as_array().unwrap().len(), 1);
}
