//! A source that is suddenly empty or is another one than before, and a store that does not exist.

use super::{Office, commands, keep_last, listed, problems};
use crate::scene::{DATABASE, PASSWORD, ROLE, Scene};
use serde_json::Value;
use tests::postgres::Server;

#[test]
fn an_empty_folder_does_not_answer_for_the_year_and_is_red_until_it_is_full_again() {
    let office = Office::new(&["docs"], &keep_last(1, "legal_years = 0"));
    let _ = office.worked("2025-12-29T22:00:00Z", 0);
    let _ = office.worked("2025-12-30T22:00:00Z", 0);
    let binned = office.certificates();
    office.hide("docs");
    std::fs::create_dir(office.documents("docs")).unwrap();
    for day in ["2025-12-31", "2026-01-01", "2026-01-02"] {
        let empty = office.backup(&format!("{day}T22:00:00Z"), 3);
        assert_eq!(empty["snapshot"]["sources"]["docs"]["condition"], "suspect", "{empty}");
        assert_eq!(empty["retention"]["state"], "frozen", "{empty}");
        let now = format!("{day}T23:00:00Z");
        let status = office.status(&now, 4);
        assert!(problems(&status).contains(&("suspect", Some("docs"))), "{status}");
        assert_eq!(commands(&status, "suspect"), ["accept --env prod"]);
        let _ = office.verb(&["prune"], &now, 3);
        assert_eq!(office.restored("docs", ["--at", day], &now), "2025-12-30T22:00:00Z");
    }
    assert_eq!(office.certificates(), binned, "something entered the bin");
    office.show("docs");
    let full = office.worked("2026-01-03T22:00:00Z", 0);
    assert_eq!(full["retention"]["state"], "applied", "{full}");
    office.is_green("2026-01-03T23:00:00Z");
    assert_eq!(office.restored("docs", ["--at", "2026-01-02"], "2026-01-03T23:00:00Z"), "2025-12-30T22:00:00Z");
}

#[test]
fn an_empty_folder_that_is_accepted_counts_from_then_on() {
    let office = Office::new(&["docs"], "");
    let _ = office.worked("2026-05-30T22:00:00Z", 0);
    office.hide("docs");
    std::fs::create_dir(office.documents("docs")).unwrap();
    let _ = office.backup("2026-05-31T22:00:00Z", 3);
    let _ = office.verb(&["accept"], "2026-06-01T08:00:00Z", 0);
    office.is_green("2026-06-01T09:00:00Z");
    let next = office.backup("2026-06-01T22:00:00Z", 0);
    assert_eq!(next["snapshot"]["sources"]["docs"]["condition"], "whole", "{next}");
    let into = office.at("restored");
    let restore = ["restore", "--source", "docs", "--at", "2026-05-31T22:00:00Z", "--into", into.to_str().unwrap()];
    let _ = office.verb(&restore, "2026-06-01T23:00:00Z", 0);
    assert_eq!(std::fs::read_dir(into).unwrap().count(), 0, "the restore did not use the accepted state");
}

/// A scene with a server to restore to as its administrator.
fn scene() -> Option<Scene> {
    let mut scene = Scene::small()?;
    scene.config = scene.config.server("lab", scene.server.socket(), scene.server.port());
    Some(scene)
}

/// The snapshot from which a restore would take the database.
fn chosen(scene: &Scene, edit: impl Fn(&str) -> String, now: &str, more: &[&str]) -> String {
    let words =
        "--json restore --env prod --source db --into again --server lab --dry-run --now".split(' ').chain([now]);
    let report = scene.run_edited(edit, &words.chain(more.iter().copied()).collect::<Vec<_>>()).expect_code(0).json();
    fn find(value: &Value) -> Option<&str> {
        match value {
            Value::Object(map) => map.get("snapshot").and_then(Value::as_str).or_else(|| map.values().find_map(find)),
            _ => None,
        }
    }
    find(&report).unwrap_or_else(|| panic!("{report}")).to_owned()
}

/// Two nights with a database that is not the same as before, and then a person who accepts it.
fn another_database(scene: &Scene, edit: impl Fn(&str) -> String, says: &str) {
    let unedited = |text: &str| text.to_owned();
    for now in ["2025-12-31T22:00:00Z", "2026-01-01T22:00:00Z"] {
        let night = scene.run_edited(&edit, &["--json", "backup", "--env", "prod", "--now", now]).expect_code(3).json();
        let db = &night["snapshot"]["sources"]["db"];
        assert_eq!((db["condition"].as_str(), db["outcome"].as_str()), (Some("suspect"), Some("saved")), "{db}");
        assert!(db["doubts"].to_string().contains(says), "{db}");
        assert_eq!(night["snapshot"]["sources"]["docs"]["condition"], "whole", "{night}");
        assert_eq!(night["retention"]["state"], "frozen", "{night}");
        let status = scene.run_edited(&edit, &["--json", "status", "--now", now]).expect_code(4).json();
        assert!(problems(&status["environments"][0]).contains(&("suspect", Some("db"))), "{status}");
    }
    assert_eq!(chosen(scene, unedited, "2026-01-02T08:00:00Z", &["--at", "2025-12-31"]), "20251230T220000Z");
    assert!(!scene.stored().keys().any(|key| key.starts_with("prod/forgotten/")), "something entered the bin");
    let _ = scene.run_edited(&edit, &["accept", "--env", "prod", "--now", "2026-01-02T09:00:00Z"]).expect_code(0);
    let _ = scene.run_edited(&edit, &["status", "--now", "2026-01-02T09:30:00Z"]).expect_code(0);
    let night = ["--json", "backup", "--env", "prod", "--now", "2026-01-02T22:00:00Z"];
    let next = scene.run_edited(&edit, &night).expect_code(0).json();
    assert_eq!(next["snapshot"]["sources"]["db"]["condition"], "whole", "{next}");
    assert_eq!(chosen(scene, unedited, "2026-01-02T23:00:00Z", &["--at", "2025-12-31"]), "20251231T220000Z");
}

#[test]
fn an_emptied_database_does_not_answer_for_the_year_until_it_is_accepted() {
    let Some(scene) = scene() else { return };
    scene.backup(&["--now", "2025-12-30T22:00:00Z"]);
    let tables = scene.server.psql(
        DATABASE,
        "SELECT string_agg(quote_ident(table_name), ', ') FROM information_schema.tables \
         WHERE table_schema = 'public' AND table_type = 'BASE TABLE'",
    );
    scene.server.psql(DATABASE, &format!("TRUNCATE {} CASCADE", tables.trim()));
    another_database(&scene, |text| text.to_owned(), "most of its rows are gone: 0 of");
}

#[test]
fn a_database_whose_rows_were_deleted_is_suspect_until_they_are_back() {
    let Some(scene) = scene() else { return };
    scene.backup(&["--now", "2025-12-30T22:00:00Z"]);
    let before = scene.fetch(scene.list()[0]["sources"]["db"]["key"].as_str().unwrap(), "before.dump");
    let tables = scene.server.psql(DATABASE, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'");
    let deletes: String = tables.lines().map(|table| format!("DELETE FROM \"{table}\"; ")).collect();
    scene.server.psql(DATABASE, &format!("BEGIN; SET LOCAL session_replication_role = replica; {deletes} COMMIT"));
    let night =
        |now: &str, code: i32| scene.run(["--json", "backup", "--env", "prod", "--now", now]).expect_code(code).json();
    let empty = night("2025-12-31T22:00:00Z", 3);
    assert_eq!(empty["snapshot"]["sources"]["db"]["condition"], "suspect", "{empty}");
    scene.server.psql(DATABASE, "DROP SCHEMA public CASCADE; CREATE SCHEMA public");
    scene.server.restore(DATABASE, &before);
    scene.server.psql(
        DATABASE,
        &format!("GRANT USAGE ON SCHEMA public TO {ROLE}; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {ROLE}; GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO {ROLE}"),
    );
    let full = night("2026-01-01T22:00:00Z", 0);
    assert_eq!(full["retention"]["state"], "applied", "{full}");
    let _ = scene.run(["status", "--now", "2026-01-01T23:00:00Z"]).expect_code(0);
    assert_eq!(
        chosen(&scene, |text| text.to_owned(), "2026-01-01T23:00:00Z", &["--at", "2025-12-31"]),
        "20251230T220000Z"
    );
}

#[test]
fn another_server_with_the_same_data_behind_the_name_is_asked_about() {
    let Some(scene) = scene() else { return };
    let Some(other) = Server::start() else { return };
    other.create_database(DATABASE, &[]);
    other.psql(DATABASE, &format!("CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}'"));
    other.psql(DATABASE, &tests::sample::sql());
    other.psql(
        DATABASE,
        &format!("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {ROLE}; GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO {ROLE}"),
    );
    scene.backup(&["--now", "2025-12-30T22:00:00Z"]);
    let (from, to) = (format!("port = {}", scene.server.port()), format!("port = {}", other.port()));
    another_database(&scene, |text| text.replacen(&from, &to, 1), "it is another database than before");
}

#[test]
fn a_store_that_is_not_mounted_is_refused_and_nothing_is_written_to_its_place() {
    let office = Office::new(&["docs"], "");
    let _ = office.worked("2026-06-01T22:00:00Z", 0);
    std::fs::rename(office.at("store"), office.at("unmounted")).unwrap();
    std::fs::create_dir(office.at("store")).unwrap();
    let night = ["backup", "--env", "prod", "--now", "2026-06-02T22:00:00Z"];
    let run = || tests::binary::Run::new(night).without_init().folder(office.folder.path()).finish();
    let refused = run().expect_code(64);
    assert!(refused.stderr.contains("does not contain the environment prod"), "{}", refused.stderr);
    assert!(refused.stderr.contains("whether the disk is mounted"), "{}", refused.stderr);
    fn files(folder: &std::path::Path) -> usize {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries.map(|path| if path.is_dir() { files(&path) } else { 1 }).sum()
    }
    assert_eq!(files(&office.at("store")), 0, "something was written to the mount point");
    std::fs::remove_dir_all(office.at("store")).unwrap();
    std::fs::rename(office.at("unmounted"), office.at("store")).unwrap();
    let _ = run().expect_code(0);
    office.is_green("2026-06-02T23:00:00Z");
}

#[test]
fn an_environment_is_founded_once_however_often_init_is_run() {
    let office = Office::new(&["docs"], "");
    let file = || {
        let entries =
            std::fs::read_dir(office.at("store/prod/environment")).unwrap().map(|entry| entry.unwrap().path());
        entries.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect::<Vec<_>>()
    };
    assert_eq!(office.verb(&["init"], "2026-06-01T20:00:00Z", 0)["made"], true);
    let first = file();
    assert_eq!(office.verb(&["init"], "2026-06-01T21:00:00Z", 0)["made"], false);
    let night = office.worked("2026-06-01T22:00:00Z", 0);
    assert_eq!(listed(&night, "binned"), Vec::<String>::new());
    // `init` does not apply a changed configuration either. That needs `accept`.
    office.configure(&[("docs", "docs")], "[guard]\nlegal_years = 1\n");
    assert_eq!(office.verb(&["init"], "2026-06-02T21:00:00Z", 0)["made"], false);
    assert_eq!((file(), first.len()), (first, 1));
}

/// A restore in place is intended, so the next run does not ask about it. A restore to another place does not concern
/// the source.
#[test]
fn only_a_restore_into_the_source_itself_says_that_less_is_meant() {
    for in_place in [true, false] {
        let office = Office::new(&["docs"], "");
        let _ = office.worked("2026-06-01T01:00:00Z", 0);
        let documents = office.documents("docs");
        let many: Vec<_> = (0..400).map(|n| documents.join(format!("{n}.pdf"))).collect();
        many.iter().for_each(|path| std::fs::write(path, "an invoice").unwrap());
        let _ = office.worked("2026-06-02T01:00:00Z", 0);
        let into = if in_place { documents.clone() } else { office.at("elsewhere") };
        if in_place {
            std::fs::remove_dir_all(&documents).unwrap();
        } else {
            many.iter().for_each(|path| std::fs::remove_file(path).unwrap());
        }
        let restore = "restore --source docs --snapshot 20260601T010000Z --same-environment --into"
            .split(' ')
            .chain([into.to_str().unwrap()])
            .collect::<Vec<_>>();
        let _ = office.verb(&restore, "2026-06-02T09:00:00Z", 0);
        let code = if in_place { 0 } else { 3 };
        let night = office.worked("2026-06-03T01:00:00Z", code);
        let condition = if in_place { "whole" } else { "suspect" };
        assert_eq!(night["snapshot"]["sources"]["docs"]["condition"], condition, "{night}");
    }
}

/// Replaces the documents with this many, each with a name of its own.
fn fill(office: &Office, count: usize) {
    let folder = office.documents("docs");
    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::create_dir(&folder).unwrap();
    (0..count).for_each(|n| office.write("docs", &format!("{n}"), "x"));
}

fn condition(night: &Value) -> &str {
    night["snapshot"]["sources"]["docs"]["condition"].as_str().unwrap()
}

#[test]
fn a_source_that_lost_most_of_it_is_not_whole_again_when_half_of_it_is_back() {
    let office = Office::new(&["docs"], "");
    for (day, count, expected) in [(28, 100, "whole"), (29, 18, "suspect"), (30, 50, "suspect"), (31, 89, "suspect")] {
        fill(&office, count);
        let night = office.backup(&format!("2025-12-{day}T22:00:00Z"), if expected == "whole" { 0 } else { 3 });
        assert_eq!(condition(&night), expected, "{count}: {night}");
    }
    fill(&office, 95);
    assert_eq!(condition(&office.backup("2026-01-01T22:00:00Z", 0)), "whole", "the loss of a tenth is tolerated");
    office.is_green("2026-01-01T23:00:00Z");
}

#[test]
fn a_loss_does_not_hide_behind_a_smaller_one_on_each_day() {
    let office = Office::new(&["docs"], "");
    for (day, count, expected) in [(28, 1_000, "whole"), (29, 600, "whole"), (30, 400, "suspect"), (31, 300, "suspect")]
    {
        fill(&office, count);
        let night = office.backup(&format!("2025-12-{day}T22:00:00Z"), if expected == "whole" { 0 } else { 3 });
        assert_eq!(condition(&night), expected, "{count}: {night}");
    }
    // From then on, runs are compared with the accepted state.
    let _ = office.verb(&["accept"], "2026-01-01T08:00:00Z", 0);
    for (day, count) in [(1, 290), (2, 200)] {
        fill(&office, count);
        assert_eq!(condition(&office.backup(&format!("2026-01-{day:02}T22:00:00Z"), 0)), "whole", "{count}");
    }
}

#[test]
fn a_store_inside_of_what_it_saves_is_not_founded_and_told_where_it_is() {
    let office = Office::new(&["docs"], "");
    let _ = office.backup("2026-06-01T01:00:00Z", 0);
    let inside = office.documents("docs").join("store");
    std::fs::rename(office.at("store"), &inside).unwrap();
    let path = office.at("dolibarr-backup.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let moved = text.replace(&office.at("store").display().to_string(), &inside.display().to_string());
    std::fs::write(path, moved).unwrap();
    // A run only warns, because the dump plugin may leave the store out, and the other documents are saved in any case.
    let told = office.run(&["backup", "--env", "prod", "--now", "2026-06-02T01:00:00Z"]).expect_code(0).stderr;
    assert!(told.contains("which the source docs backs up"), "{told}");
    std::fs::remove_dir_all(inside.join("prod")).unwrap();
    let refused = office.run(&["init", "--env", "prod", "--now", "2026-06-02T02:00:00Z"]).expect_code(64).stderr;
    assert!(refused.contains("which the source docs backs up") && refused.contains("hint:"), "{refused}");
}
