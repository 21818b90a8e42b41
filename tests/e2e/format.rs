//! Stores written by earlier versions. Each fixture is unchanged since its version wrote it, and must never be renewed.

use crate::scene::{Scene, complains};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// A scene whose store is a copy of a fixture.
fn on(fixture: &str) -> Option<Scene> {
    let scene = Scene::small()?;
    let from = tests::workspace_root().join("tests/fixtures").join(fixture);
    crate::scene::succeed(Command::new("cp").arg("--recursive").arg(&from).arg(&scene.store));
    Some(scene)
}

fn backup(scene: &Scene, now: &str, code: i32) -> Value {
    scene.command(["--json", "backup", "--env", "prod", "--now", now]).without_init().finish().expect_code(code).json()
}

fn entries(folder: &Path) -> usize {
    std::fs::read_dir(folder).into_iter().flatten().count()
}

#[test]
fn a_store_of_format_1_is_read_verified_restored_and_carried_on() {
    let Some(scene) = on("store-format-1") else { return };
    let now = ["--now", "2026-06-06T12:00:00Z"];
    let run = |arguments: &[&str]| scene.run(arguments.iter().chain(&now).copied());
    let by_version_1 = scene.stored();

    // Read: five records, two certificates, and one object of a script.
    let listed = scene.list();
    let of = |id: &str| listed.iter().find(|snapshot| snapshot["id"] == id).unwrap().clone();
    assert_eq!(listed.len(), 6);
    assert!(
        listed.iter().all(|s| s["adopted"] == true || (s["complete"] == true && s["condition"] == "whole")),
        "{listed:#?}"
    );
    assert_eq!(of("20260606T010000Z")["verified"], true);
    assert_eq!(of("20260520T010000Z")["adopted"], true);

    // Verified and restored.
    let all = run(&["--json", "verify", "--env", "prod", "--snapshot", "20251231T220000Z"]).expect_code(0).json();
    assert_eq!((&all["chain"]["records"], &all["chain"]["certificates"]), (&5.into(), &2.into()), "{all}");
    let folder = |name: &str| scene.folder.path().join(name);
    for (at, into, files) in [("2025-12-31", "old", 4), ("2026-06-06", "new", 5)] {
        let path = folder(into);
        let arguments = ["restore", "--env", "prod", "--source", "docs", "--at", at, "--into", path.to_str().unwrap()];
        let _ = run(&arguments).expect_code(0);
        assert_eq!(entries(&path.join("facture/FA1")), files, "{at}");
    }
    let dump = scene.fetch("prod/db/20260602T010000Z.dump", "db.dump");
    scene.server.create_database("old", &[]);
    scene.server.restore("old", &dump);
    assert_eq!(scene.server.psql("old", "SELECT count(*) FROM llx_facture").trim(), "21");

    // Carried on: until somebody runs `init`, a run saves, forgets nothing and says so.
    let status = run(&["--json", "status"]).expect_code(4).json();
    assert_eq!(status["environments"][0]["problems"][0]["command"], "init --env prod", "{status}");
    let first = backup(&scene, "2026-06-07T01:00:00Z", 3);
    assert_eq!((&first["retention"]["state"], &first["snapshot"]["complete"]), (&"frozen".into(), &true.into()));
    let kept = |stored: &std::collections::BTreeMap<String, Vec<u8>>| {
        by_version_1.iter().all(|(key, bytes)| key.contains(".fp-") || stored.get(key) == Some(bytes))
    };
    assert!(kept(&scene.stored()), "a run without `init` changed something");
    let prune = scene.run(["prune", "--env", "prod", "--now", "2026-06-07T02:00:00Z"]);
    complains(&prune, 3, "was never initialised");
    let init = scene.run(["init", "--env", "prod", "--now", "2026-06-07T03:00:00Z"]).expect_code(0);
    assert!(init.stdout.contains("6 snapshots, and 1 adopted"), "{}", init.stdout);
    let again = scene.run(["init", "--env", "prod", "--now", "2026-06-07T03:00:00Z"]).expect_code(0);
    assert!(again.stdout.contains("is already initialised"), "{}", again.stdout);

    // From then on, retention works, in two steps.
    let second = backup(&scene, "2026-06-08T01:00:00Z", 0);
    assert_eq!(second["retention"]["state"], "applied", "{second}");
    assert!(kept(&scene.stored()), "the retention deleted something in one step");
    let chain = scene.run(["--json", "verify", "--env", "prod", "--now", "2026-06-08T02:00:00Z"]).expect_code(0).json();
    assert_eq!(
        (&chain["chain"]["records"], &chain["chain"]["problems"]),
        (&7.into(), &serde_json::json!([])),
        "{chain}"
    );
}
