//! Which modifications count as a change, and which do not.

use crate::scene::{DATABASE, Scene, complains};

#[track_caller]
fn outcome(scene: &Scene, source: &str) -> String {
    scene.backup(&[])["snapshot"]["sources"][source]["outcome"].as_str().unwrap().to_owned()
}

#[test]
fn a_login_a_cron_tick_and_an_excluded_file_are_no_change() {
    let Some(scene) = Scene::small() else { return };
    scene.backup(&[]);
    scene.server.psql(DATABASE, tests::sample::LOGIN);
    assert_eq!(outcome(&scene, "db"), "unchanged", "a login");
    scene.server.psql(DATABASE, tests::sample::CRON_TICK);
    assert_eq!(outcome(&scene, "db"), "unchanged", "a cron tick");
    scene.server.psql(DATABASE, "UPDATE llx_const SET value = '2026-07-02' WHERE name = 'MAIN_LAST_PING_OK_DATE'");
    assert_eq!(outcome(&scene, "db"), "unchanged", "a statistics ping");
    for path in ["dolibarr.log", "facture/temp/new.odt", "facture/FA2601-0001/FA2601-0001.pdf_preview-1.png"] {
        std::fs::write(scene.documents.join(path), "noise").unwrap();
        assert_eq!(outcome(&scene, "docs"), "unchanged", "{path}");
    }
}

#[test]
fn one_row_in_any_table_is_a_change() {
    let Some(scene) = Scene::small() else { return };
    scene.backup(&[]);
    let tables = scene.server.psql(
        DATABASE,
        "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' AND table_type = 'BASE TABLE' \
         AND table_name NOT IN ('llx_events', 'llx_session', 'llx_oauth_token', 'llx_oauth_state') ORDER BY 1",
    );
    let mut changed = 0;
    for table in tables.lines() {
        let rows: u32 = scene.server.psql(DATABASE, &format!("SELECT count(*) FROM {table}")).trim().parse().unwrap();
        if rows == 0 {
            continue;
        }
        // In any table, deleting a row is a change, and no trigger or `tms` column shows it.
        scene.server.psql(
            DATABASE,
            &format!("BEGIN; SET LOCAL session_replication_role = replica; DELETE FROM {table} WHERE ctid = (SELECT min(ctid) FROM {table}); COMMIT"),
        );
        let dry = scene.run(["--json", "backup", "--env", "prod", "--dry-run"]).expect_code(0).json();
        assert_eq!(dry["sources"]["db"]["action"], "dump", "a deleted row in {table} was not detected");
        scene.backup(&[]);
        changed += 1;
    }
    assert!(changed >= 15, "only {changed} tables had a row to delete");
}

#[test]
fn an_update_that_leaves_count_and_tms_alone_is_seen_by_content_and_not_by_tms() {
    let Some(mut scene) = Scene::small() else { return };
    let update = "BEGIN; SET LOCAL session_replication_role = replica; \
                  UPDATE llx_accounting_bookkeeping SET debit = debit + 0.01 WHERE rowid = (SELECT min(rowid) FROM llx_accounting_bookkeeping); COMMIT";
    scene.backup(&[]);
    scene.server.psql(DATABASE, update);
    assert_eq!(outcome(&scene, "db"), "saved");
    scene.config = scene.config.fingerprint_settings("database = \"tms\"");
    assert_eq!(outcome(&scene, "db"), "saved", "another method gives another fingerprint");
    scene.server.psql(DATABASE, update);
    assert_eq!(
        outcome(&scene, "db"),
        "unchanged",
        "count and max(tms) cannot see this, as the setting's documentation says"
    );
}

#[test]
fn a_changed_invoice_is_saved_with_its_document_and_the_other_half_is_carried() {
    let Some(scene) = Scene::small() else { return };
    scene.backup(&[]);
    scene.server.psql(DATABASE, tests::sample::CHANGE_INVOICE);
    let run = scene.backup(&[]);
    assert_eq!(run["snapshot"]["sources"]["db"]["outcome"], "saved");
    assert_eq!(run["snapshot"]["sources"]["docs"]["outcome"], "unchanged");
    tests::sample::rewrite_invoice_pdf(&scene.documents).unwrap();
    let run = scene.backup(&[]);
    assert_eq!(run["snapshot"]["sources"]["db"]["outcome"], "unchanged");
    assert_eq!(run["snapshot"]["sources"]["docs"]["outcome"], "saved");
}

#[test]
fn a_fingerprint_that_is_blind_to_archived_files_is_not_trusted() {
    let Some(mut scene) = Scene::small() else { return };
    scene.config = scene.config.fingerprint_settings("exclude = [\"facture\"]");
    let first = scene.run(["--json", "backup", "--env", "prod"]).expect_code(0);
    assert!(first.stderr.contains("give both plugins the same `exclude`"), "{}", first.stderr);
    assert_eq!(outcome(&scene, "docs"), "saved", "the second run trusts a blind fingerprint");
}

#[test]
fn what_counts_as_a_change_is_explained_from_the_records_alone() {
    let Some(scene) = Scene::small() else { return };
    let explain = ["plugins", "explain", "fingerprint", "--env", "prod"];
    complains(&scene.run(explain), 64, "has a fingerprint that can be explained");
    scene.backup(&[]);
    let text = scene.run(explain).expect_code(0).stdout;
    for says in [
        "every row of ",
        "public.llx_user: the columns datelastlogin, ",
        "public.llx_const: rows whose `name` is MAIN_FIRST_PING* or MAIN_LAST_PING* do not count",
        "tables of public: llx_",
        "left out: /*.log, ",
    ] {
        assert!(text.contains(says), "`{says}` is not in: {text}");
    }
    let lines: Vec<&str> = text.lines().collect();
    let naming: Vec<usize> = (0..lines.len()).filter(|at| lines[*at].contains("llx_events")).collect();
    let [at] = naming.as_slice() else { panic!("llx_events must be named exactly once: {text}") };
    assert!(lines[at - 1].contains("the values of the sequences, except those of"), "{text}");
    let value = scene.run([&["--json"], &explain[..]].concat()).expect_code(0).json();
    let db = value["sources"].as_array().unwrap().iter().find(|source| source["source"] == "db").unwrap();
    assert_eq!(db["filtered_columns"], serde_json::json!(["public.llx_actioncomm#code", "public.llx_const#name"]));
}

#[test]
fn a_changed_schema_is_a_change() {
    let Some(scene) = Scene::small() else { return };
    scene.backup(&[]);
    scene.server.psql(DATABASE, "ALTER TABLE llx_facture ADD COLUMN note_extra text");
    assert_eq!(outcome(&scene, "db"), "saved");
    assert_eq!(outcome(&scene, "db"), "unchanged");
}
