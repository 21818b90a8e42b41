//! After a run is killed, interrupted or overtaken, every listed snapshot can be restored, and the next run works.

use crate::scene::{Scene, complains, signal};
use std::collections::BTreeSet;

/// Adds incompressible content that takes a moment to archive, so that a test can catch a run in every phase.
fn write_ballast(scene: &Scene) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(40 << 20);
    while bytes.len() < 40 << 20 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend(state.to_le_bytes());
    }
    std::fs::write(scene.documents.join("medias/ballast.bin"), bytes).unwrap();
}

/// The paths of all files in the store. It reads no file, so it is cheap enough for polling.
fn names(scene: &Scene) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![scene.store.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path.strip_prefix(&scene.store).unwrap().to_string_lossy().into_owned());
            }
        }
    }
    found
}

/// Asserts that a record names every object, and that nothing else was left behind.
#[track_caller]
fn nothing_lies_about(scene: &Scene) {
    let referenced: BTreeSet<String> = scene
        .list()
        .iter()
        .flat_map(|snapshot| {
            snapshot["sources"].as_object().unwrap().values().map(|s| s["key"].clone()).collect::<Vec<_>>()
        })
        .filter_map(|key| key.as_str().map(str::to_owned))
        .collect();
    let stray: Vec<_> = names(scene)
        .into_iter()
        .filter(|name| {
            let kept = ["prod/snapshots/", "prod/environment/", "prod/forgotten/", "prod/.fp-"];
            !kept.iter().any(|begin| name.starts_with(begin)) && !name.ends_with(".index")
        })
        // A half-written lease mark has no effect; the next sweep removes it.
        .filter(|name| !referenced.contains(name) && !name.starts_with("prod/leases/.upload"))
        .collect();
    assert!(stray.is_empty(), "{stray:#?}");
}

/// The path of the mark of the run that holds the lease.
fn lease(scene: &Scene) -> Option<String> {
    names(scene).into_iter().find(|name| name.starts_with("prod/leases/") && name.ends_with(".json"))
}

#[track_caller]
fn every_listed_snapshot_is_restorable(scene: &Scene) {
    for snapshot in scene.list() {
        assert_eq!((&snapshot["complete"], &snapshot["adopted"]), (&true.into(), &false.into()), "{snapshot}");
        for (name, source) in snapshot["sources"].as_object().unwrap() {
            assert_eq!(source["present"], true, "{name} of {snapshot}");
        }
    }
}

/// Whether a phase is reached, judged by the paths in the store now and before the run.
type Reached<'a> = dyn Fn(&[String], &[String]) -> bool + 'a;

#[test]
fn a_run_killed_in_any_phase_leaves_what_is_listed_restorable_and_the_next_run_works() {
    let Some(scene) = Scene::small() else { return };
    write_ballast(&scene);
    scene.backup(&[]);
    let snapshots = |names: &[String]| names.iter().filter(|n| n.starts_with("prod/snapshots/")).count();
    let objects = |names: &[String], folder: &str| {
        names.iter().filter(|n| n.starts_with(folder) && !n.contains("upload")).count()
    };
    let (mut killed, before) = (0, scene.stored());
    let first = before.keys().cloned().collect::<Vec<_>>();
    let phases: [(&str, &Reached<'_>); 5] = [
        ("leased", &|now, _| now.iter().any(|n| n.starts_with("prod/leases/"))),
        ("database stored", &|now, then| objects(now, "prod/db/") > objects(then, "prod/db/")),
        ("archiving", &|now, then| objects(now, "prod/db/") > objects(then, "prod/db/") && now.len() > then.len() + 2),
        ("documents stored", &|now, then| objects(now, "prod/docs/") > objects(then, "prod/docs/")),
        ("committed", &|now, then| snapshots(now) > snapshots(then)),
    ];
    for (phase, reached) in phases {
        let then = names(&scene);
        let run = scene.command(["backup", "--env", "prod", "--force"]).start();
        let outcome = run.kill_when(|| reached(&names(&scene), &then));
        killed += u32::from(outcome.signal == Some(9));
        every_listed_snapshot_is_restorable(&scene);
        let next = scene.run(["--json", "backup", "--env", "prod"]);
        assert_eq!(next.code, Some(0), "after a kill when {phase}: {}", next.stderr);
        every_listed_snapshot_is_restorable(&scene);
        nothing_lies_about(&scene);
    }
    assert!(killed >= 4, "only {killed} runs were killed in their phase");
    let after = scene.stored();
    assert!(first.iter().filter(|n| n.contains("/db/") || n.contains("/docs/")).all(|n| after[n] == before[n]));
}

/// A run writes sidecars after its record, and may be killed while it does.
#[test]
fn what_a_run_left_half_written_after_its_record_is_cleared_by_the_next() {
    let Some(scene) = Scene::small() else { return };
    let mut run = scene.command(["backup", "--env", "prod"]).start();
    let mut found = None;
    run.wait_until("its lease was seen", || {
        found = lease(&scene).and_then(|mark| Some((std::fs::read(scene.store.join(&mark)).ok()?, mark)));
        found.is_some()
    });
    let (content, mark) = found.unwrap();
    assert_eq!(run.finish().code, Some(0));
    let before = scene.stored();
    std::fs::write(scene.store.join(&mark), content).unwrap();
    std::fs::write(scene.store.join("prod/.upload~half"), "half").unwrap();
    let next = scene.run(["backup", "--env", "prod"]);
    assert_eq!(next.code, Some(0), "{}", next.stderr);
    assert!(next.stderr.contains("an earlier run was killed"), "{}", next.stderr);
    nothing_lies_about(&scene);
    every_listed_snapshot_is_restorable(&scene);
    let after = scene.stored();
    assert!(before.iter().all(|(name, object)| name.contains(".fp-") || after.get(name) == Some(object)));
}

#[test]
fn an_interrupted_run_exits_with_130_and_leaves_nothing() {
    let Some(scene) = Scene::small() else { return };
    write_ballast(&scene);
    scene.backup(&[]);
    let before = scene.stored();
    let then = names(&scene).len();
    let mut run = scene.command(["backup", "--env", "prod", "--force"]).start();
    run.wait_until("it stored anything", || names(&scene).len() >= then + 2);
    signal(run.id(), rustix::process::Signal::TERM);
    let outcome = run.finish();
    complains(&outcome, 130, "interrupted");
    let after = scene.stored();
    let changed = |(key, bytes): &(&String, &Vec<u8>)| before.get(*key) != Some(*bytes);
    let changed: Vec<_> = after.iter().filter(changed).map(|(key, _)| key).collect();
    assert!(changed.is_empty() && after.len() == before.len(), "{changed:?}");
}

#[test]
fn a_second_run_at_the_same_time_gives_way_and_says_to_whom() {
    let Some(scene) = Scene::small() else { return };
    write_ballast(&scene);
    scene.backup(&[]);
    let mut run = scene.command(["backup", "--env", "prod", "--force"]).start();
    let pid = run.id();
    // Lease marks that are written within seconds of each other count as simultaneous and are tried again; the first
    // one stays.
    run.wait_until("its lease was seen", || lease(&scene).is_some());
    signal(pid, rustix::process::Signal::STOP);
    let second = scene.run(["backup", "--env", "prod"]);
    signal(pid, rustix::process::Signal::CONT);
    complains(&second, 11, &format!("process {pid}"));
    let first = run.finish();
    assert_eq!(first.code, Some(0), "{}", first.stderr);
    every_listed_snapshot_is_restorable(&scene);
    nothing_lies_about(&scene);
}

/// The scene with a plan that keeps two snapshots and forgets at once, so that every run deletes something.
fn hasty(scene: Scene) -> Scene {
    let config = scene.config.clone().retention("retention-last.wasm", "keep = 2");
    Scene { config: config.guard("min_age = \"0m\"\nlegal_years = 0\nbin_days = 0"), ..scene }
}

#[test]
fn a_signal_at_any_moment_around_the_commit_costs_no_listed_snapshot_its_objects() {
    let Some(scene) = Scene::small().map(hasty) else { return };
    scene.backup(&[]);
    let records = |names: &[String]| names.iter().filter(|n| n.starts_with("prod/snapshots/")).count();
    let mut interrupted = 0;
    for round in 0..12_u64 {
        let then = records(&names(&scene));
        let mut run = scene.command(["backup", "--env", "prod", "--force"]).start();
        if round % 2 == 0 {
            // As soon as the record exists, and a little later each time.
            run.wait_until("its record was seen", || records(&names(&scene)) > then);
            std::thread::sleep(std::time::Duration::from_millis(round));
        } else {
            std::thread::sleep(std::time::Duration::from_millis(30 * round));
        }
        // It may already have ended.
        if std::path::Path::new(&format!("/proc/{}", run.id())).exists() {
            signal(run.id(), rustix::process::Signal::TERM);
        }
        let outcome = run.finish();
        let committed = records(&names(&scene)) > then;
        match outcome.code {
            // Without a code, the signal ended the run before it could handle signals.
            Some(0 | 3) | None => {}
            Some(130) => {
                interrupted += 1;
                assert!(!committed || then >= 3, "interrupted, but its record exists: {}", outcome.stderr);
            }
            other => panic!("{other:?}: {}", outcome.stderr),
        }
        every_listed_snapshot_is_restorable(&scene);
    }
    assert!(interrupted > 0, "no run was interrupted");
    scene.backup(&[]);
    nothing_lies_about(&scene);
}

#[test]
fn of_two_runs_in_one_second_the_one_that_gives_way_deletes_nothing_of_the_other() {
    let Some(scene) = Scene::small() else { return };
    scene.backup(&["--now", "2026-06-29T01:00:00Z"]);
    for day in 1..=5 {
        let now = format!("2026-07-0{day}T01:00:00Z");
        let start = || scene.command(["backup", "--env", "prod", "--force", "--now", &now]).start();
        let (one, other) = (start(), start());
        let outcomes = [one.finish(), other.finish()];
        let codes: BTreeSet<_> = outcomes.iter().map(|run| run.code.unwrap()).collect();
        // If the second run started late enough, it gets a time stamp of its own.
        let said = outcomes.map(|run| run.stderr);
        assert!(codes == BTreeSet::from([0, 11]) || codes == BTreeSet::from([0]), "{codes:?}: {said:#?}");
        every_listed_snapshot_is_restorable(&scene);
        nothing_lies_about(&scene);
    }
}

#[test]
fn a_run_that_was_paused_and_overtaken_commits_nothing_and_clears_nothing() {
    overtaken(false);
}

/// Both runs create objects with the same names, and the overtaken run must not delete those of the other.
#[test]
fn a_run_that_was_overtaken_by_one_of_the_same_second_clears_nothing() {
    overtaken(true);
}

fn overtaken(in_one_second: bool) {
    let Some(scene) = Scene::small() else { return };
    write_ballast(&scene);
    scene.backup(&[]);
    let first: jiff::Timestamp = scene.list()[0]["id"].as_str().unwrap().parse().unwrap();
    let later = (first + jiff::SignedDuration::from_mins(10)).to_string();
    let now = if in_one_second { &["--now", later.as_str()][..] } else { &[] };
    let forced = [&["backup", "--env", "prod", "--force"], now].concat();
    let then = names(&scene);
    let dumps = |names: &[String]| names.iter().filter(|n| n.starts_with("prod/db/") && !n.contains("upload")).count();
    let mut paused = scene.command(forced.iter().copied()).start();
    paused.wait_until("its dump was stored", || dumps(&names(&scene)) > dumps(&then));
    signal(paused.id(), rustix::process::Signal::STOP);
    // Ages the mark as if the pause were longer than a lease is valid. The time of a folder store is that of its files.
    let mark = scene.store.join(lease(&scene).expect("the mark of the paused run"));
    crate::scene::age(&mark, std::time::Duration::from_secs(600));
    let overtaking = scene.run(forced.iter().copied());
    assert_eq!(overtaking.code, Some(0), "{}", overtaking.stderr);
    assert!(overtaking.stderr.contains("an earlier run was killed"), "{}", overtaking.stderr);
    let (records, before) = (scene.list().len(), scene.data());
    signal(paused.id(), rustix::process::Signal::CONT);
    let woken = paused.finish();
    if !in_one_second {
        complains(&woken, 75, "the lease was lost");
    } else {
        assert_ne!(woken.code, Some(0), "{}", woken.stderr);
    }
    assert_eq!(scene.list().len(), records, "an overtaken run committed");
    every_listed_snapshot_is_restorable(&scene);
    let after = scene.data();
    assert!(before.iter().all(|(name, bytes)| after.get(name) == Some(bytes)), "an overtaken run deleted something");
    scene.backup(&[]);
    nothing_lies_about(&scene);
}

#[test]
fn a_run_on_an_s3_server_that_is_killed_or_stopped_leaves_what_is_listed_restorable() {
    let Some(scene) = Scene::small().and_then(Scene::on_garage) else { return };
    write_ballast(&scene);
    scene.backup(&[]);
    for (round, how) in
        [rustix::process::Signal::KILL, rustix::process::Signal::TERM].into_iter().cycle().take(6).enumerate()
    {
        let run = scene.command(["backup", "--env", "prod", "--force"]).start();
        std::thread::sleep(std::time::Duration::from_millis(250 * (round as u64 + 1)));
        if std::path::Path::new(&format!("/proc/{}", run.id())).exists() {
            signal(run.id(), how);
        }
        drop(run.finish());
        every_listed_snapshot_is_restorable(&scene);
        let next = scene.run(["--json", "backup", "--env", "prod"]);
        assert_eq!(next.code, Some(0), "{}", next.stderr);
        every_listed_snapshot_is_restorable(&scene);
        assert_eq!(scene.run(["verify", "--env", "prod"]).code, Some(0));
    }
}
