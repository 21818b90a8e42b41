//! Ten days of changes. Each day can be restored exactly.

use super::*;

/// Changes the database and the documents. Every third day one document is rewritten and another one deleted.
fn live_a_day(scene: &Scene, day: u32) {
    let sql = format!(
        "UPDATE llx_facture SET note_public = 'day {day}', total_ht = total_ht + {day} WHERE rowid % 10 = {};\
         CREATE TABLE llx_day_{day} AS SELECT {day} AS day; GRANT SELECT ON llx_day_{day} TO {ROLE}",
        day % 10
    );
    scene.server.psql(DATABASE, &sql);
    let invoices = scene.documents.join("facture");
    std::fs::write(invoices.join(format!("day-{day}.pdf")), format!("%PDF day {day}")).unwrap();
    if day.is_multiple_of(3) {
        std::fs::write(invoices.join(format!("day-{}.pdf", day - 1)), format!("%PDF again on {day}")).unwrap();
        std::fs::remove_file(invoices.join(format!("day-{}.pdf", day - 2))).unwrap();
    }
}

/// Backs up ten days of changes, and restores the database and the documents of each day.
fn ten_days(scene: &Scene) {
    let mut days = Vec::new();
    for day in 1..=10 {
        live_a_day(scene, day);
        scene.backup(&["--now", &format!("2026-06-{day:02}T01:00:00Z")]);
        days.push((day, scene.contents(DATABASE), manifest(&scene.documents, excluded)));
    }
    for (day, contents, documents) in days {
        let (at, name) = (format!("2026-06-{day:02}T01:00:00Z"), format!("day_{day}"));
        let done = restore(scene, &["--at", &at, "--into", &name, "--server", "lab"]).expect_code(0).json();
        assert_eq!(done["restored"]["compared"], "equal", "{done}");
        assert_eq!(scene.contents(&name), contents, "day {day}");
        let into = scene.folder.path().join(&name);
        let arguments = ["restore", "--env", "prod", "--source", "docs", "--at", &at, "--into", into.to_str().unwrap()];
        let _ = scene.run(arguments).expect_code(0);
        assert_eq!(manifest(&into, |_, _| false), documents, "day {day}");
        std::fs::remove_dir_all(&into).unwrap();
        scene.server.psql("postgres", &format!("DROP DATABASE {name}"));
    }
}

#[test]
fn ten_days_of_changes_come_back_day_by_day() {
    let Some(scene) = scene() else { return };
    ten_days(&scene);
}

#[test]
fn ten_days_of_a_real_dolibarr_come_back_day_by_day() {
    let Some(scene) = Scene::real().and_then(with_targets) else { return };
    ten_days(&scene);
}
