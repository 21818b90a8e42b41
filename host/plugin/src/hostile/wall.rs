//! The wall between a guest and the content that it selects: whatever a source contains, the guest receives the same
//! answers.

use super::*;
use crate::context::heard;
use ::tests::postgres::Server;
use base::evidence::SealKey;
use postgres::{self, OpenDatabase};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use std::collections::BTreeSet;

/// Names that a customer gets in turn. Each takes three calls of the server, about 100 ms.
const NAMES: usize = 24;

/// The tables whose rows a guest tries to learn.
const SCHEMA: &str = "CREATE TABLE llx_societe (rowid int PRIMARY KEY, nom text, tms timestamp, amount numeric);
     CREATE TABLE llx_const (name text, value text);
     CREATE TABLE llx_user (rowid int PRIMARY KEY, pass_crypted text, datelastlogin timestamp);
     INSERT INTO llx_societe SELECT n, 'customer ' || n, '2026-01-01', n FROM generate_series(1, 50) AS n;
     INSERT INTO llx_const VALUES ('MAIN_INFO_SOCIETE_NOM', 'a company');
     INSERT INTO llx_user VALUES (1, 'a hash', '2026-01-01');";

/// Changes of one row: another beginning, empty, another length, another number, deleted.
const CONTENTS: [&str; 7] = [
    "UPDATE llx_const SET value = 'another company'",
    "UPDATE llx_societe SET nom = 'Adam' WHERE rowid = 7",
    "UPDATE llx_societe SET nom = 'Haldimann & Cie' WHERE rowid = 7",
    "UPDATE llx_societe SET nom = '' WHERE rowid = 7",
    "UPDATE llx_societe SET nom = NULL, amount = 99999 WHERE rowid = 7",
    "UPDATE llx_user SET pass_crypted = 'another hash'",
    "DELETE FROM llx_societe WHERE rowid = 7",
];

fn config(server: &Server) -> postgres::DatabaseConfig {
    toml::from_str(&format!(
        "host = {}\nport = {}\ndatabase = \"erp\"\npg_dump = {}\ncredentials = {{ user = \"postgres\" }}",
        quoted(&server.socket().to_string_lossy()),
        server.port(),
        quoted(&server.bin().join("pg_dump").to_string_lossy())
    ))
    .unwrap()
}

/// All outputs of one call: the answers that the guest received, its log lines, the host's record without the seal, and
/// the seal.
async fn call(plugin: &Plugin, server: &Server, key: &SealKey) -> (Vec<String>, Vec<String>, String, String) {
    let database = OpenDatabase::open(&config(server), "prod/db".to_owned()).await.unwrap();
    let log = Log::default();
    let guard = log.begin();
    heard::take();
    let called = plugin.measure_database(database.clone()).await;
    let heard = heard::take();
    drop(guard);
    database.close().await;
    let fingerprint = key.seal(called.result.unwrap());
    let written = format!("{} {:?} {:?}", fingerprint.basis, fingerprint.selected, called.tally);
    let logged = log.text().lines().filter(|line| line.contains("plugin=")).map(ToOwned::to_owned).collect();
    (heard, logged, written, fingerprint.value)
}

#[tokio::test]
async fn databases_that_differ_in_one_row_give_a_guest_the_same_answers() {
    let Some(server) = Server::start() else { return };
    server.create_database("erp", &[]);
    server.psql("erp", SCHEMA);
    let key = SealKey::generate();
    let shipped = {
        let binary = std::env::current_exe().unwrap();
        let file = binary.ancestors().nth(2).unwrap().join("plugins/fingerprint.wasm");
        load_file(Role::Fingerprint, &file, "").unwrap()
    };
    let guests = [
        shipped,
        spelling("spell", "llx_societe", "nom"),
        spelling("spell", "llx_societe", "amount"),
        spelling("spell", "llx_user", "pass_crypted"),
        spelling("spell", "llx_const", "value"),
    ];
    for plugin in &guests {
        let (heard, logged, written, value) = call(plugin, &server, &key).await;
        assert!(!heard.is_empty());
        let mut values = BTreeSet::from([value]);
        for content in CONTENTS {
            server.psql("erp", content);
            let (heard_now, logged_now, written_now, value) = call(plugin, &server, &key).await;
            assert_eq!((&heard_now, &logged_now), (&heard, &logged), "{content}");
            // Only the host may report the number of rows, for tables that count as a whole.
            let counted = written != written_now;
            assert!(!counted || content.starts_with("DELETE"), "{content}: {written} became {written_now}");
            values.insert(value);
            server.psql("erp", "TRUNCATE llx_societe, llx_const, llx_user");
            server.psql("erp", SCHEMA.split_once("INSERT").map(|(_, rest)| format!("INSERT{rest}")).unwrap().as_str());
        }
        assert!(values.len() > 1, "the selected content still counts");
    }
}

/// A guest that spells out a column of a table in the way that `doing` describes.
fn spelling(doing: &str, table: &str, column: &str) -> Plugin {
    let rest = format!(
        "settings = {{ do = \"{doing}\", table = \"{table}\", column = \"{column}\" }}\nfilters = {{ {table} = \"{column}\" }}"
    );
    load_file(Role::Fingerprint, &guest(Role::Fingerprint), &rest).unwrap()
}

#[tokio::test]
async fn databases_that_differ_in_a_customers_name_give_a_guest_the_same_answers() {
    let Some(server) = Server::start() else { return };
    server.create_database("erp", &[]);
    server.psql("erp", SCHEMA);
    let key = SealKey::generate();
    let plugin = spelling("spell", "llx_societe", "nom");
    let (heard, logged, written, _) = call(&plugin, &server, &key).await;
    let mut runner = TestRunner::deterministic();
    let mut values = BTreeSet::new();
    for _ in 0..NAMES {
        // Any text without NUL, which PostgreSQL does not store.
        let name = "[^\u{0}]{0,200}".new_tree(&mut runner).unwrap().current();
        server.psql("erp", &format!("UPDATE llx_societe SET nom = '{}' WHERE rowid = 7", name.replace('\'', "''")));
        let (heard_now, logged_now, written_now, value) = call(&plugin, &server, &key).await;
        assert_eq!((&heard_now, &logged_now, &written_now), (&heard, &logged, &written), "{name:?}");
        values.insert(value);
    }
    assert!(values.len() > NAMES / 2, "the name still counts: {} values", values.len());
}

/// An operator sees how a call ends. A guest that traps with all its knowledge must end with the same message each day.
#[tokio::test]
async fn a_trap_gives_the_same_message_for_every_content() {
    let Some(server) = Server::start() else { return };
    server.create_database("erp", &[]);
    server.psql("erp", SCHEMA);
    let plugin = spelling("cry", "llx_societe", "nom");
    let mut ends = BTreeSet::new();
    for content in CONTENTS {
        let database = OpenDatabase::open(&config(&server), "prod/db".to_owned()).await.unwrap();
        let log = Log::default();
        let guard = log.begin();
        let error = plugin.measure_database(database.clone()).await.result.unwrap_err();
        drop(guard);
        database.close().await;
        assert_blamed(&error, Role::Fingerprint, Class::PluginTrapped, "");
        let lines: Vec<String> =
            log.text().lines().filter(|line| line.contains("plugin=")).map(ToOwned::to_owned).collect();
        assert!(lines.iter().any(|line| line.contains("latest")), "it logs what it received: {lines:?}");
        ends.insert((error.to_string(), lines));
        server.psql("erp", content);
    }
    assert_eq!(ends.len(), 1, "{ends:?}");
}

/// The order of rows on disk, the order of tables in the catalogue, and small sizes depend on when data was written, so
/// they are content.
#[tokio::test]
async fn neither_order_nor_small_sizes_reveal_when_data_was_written() {
    let Some(server) = Server::start() else { return };
    let (before, inserts) = SCHEMA.split_once("INSERT").unwrap();
    let mut tables: Vec<&str> = before.split(';').filter(|table| !table.trim().is_empty()).collect();
    let key = SealKey::generate();
    let plugin = spelling("spell", "llx_societe", "nom");
    let mut outcomes = Vec::new();
    for rows in ["n", "(51 - n)"] {
        server.create_database("erp", &[]);
        server.psql("erp", &tables.join(";"));
        server.psql(
            "erp",
            &format!("INSERT{inserts}").replace(
                "SELECT n, 'customer ' || n, '2026-01-01', n",
                &format!("SELECT {rows}, 'customer ' || {rows}, '2026-01-01', {rows}"),
            ),
        );
        outcomes.push(call(&plugin, &server, &key).await);
        // 300 kB in a table that is reported as 1 MiB: a change below the next power of two does not show.
        server.psql(
            "erp",
            "INSERT INTO llx_user SELECT n, repeat(md5(n::text), 30), NULL FROM generate_series(2, 300) AS n",
        );
        let (heard, logged, ..) = call(&plugin, &server, &key).await;
        assert_eq!((&heard, &logged), (&outcomes[0].0, &outcomes[0].1));
        server.psql("postgres", "DROP DATABASE erp WITH (FORCE)");
        tables.reverse();
    }
    assert_eq!(outcomes[0], outcomes[1], "the same content gives the same answers and the same seal");
}

/// A guest that kept state could learn a little more each day.
#[tokio::test]
async fn a_guest_keeps_no_state_between_calls() {
    let Some(server) = Server::start() else { return };
    server.create_database("erp", &[]);
    server.psql("erp", SCHEMA);
    let key = SealKey::generate();
    let plugin = load(Role::Fingerprint, "do = \"remember\"", "");
    let (heard, logged, ..) = call(&plugin, &server, &key).await;
    assert!(logged.iter().any(|line| line.contains("calls=\"0\"") || line.contains("calls=0")), "{logged:?}");
    for content in CONTENTS {
        server.psql("erp", content);
        let (heard_now, logged_now, ..) = call(&plugin, &server, &key).await;
        assert_eq!((&heard_now, &logged_now), (&heard, &logged), "{content}");
    }
}

#[tokio::test]
async fn folders_that_differ_in_a_name_or_a_byte_give_a_guest_the_same_answers() {
    let mut outcomes = Vec::new();
    for (name, content) in [("Adam.pdf", "x"), ("Haldimann.pdf", "x"), ("Adam.pdf", "another"), ("a/b/c.pdf", "")] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, content).unwrap();
        let tree =
            Tree::open(&documents::FolderConfig { path: folder.path().to_owned() }, "prod/docs".to_owned()).unwrap();
        let doing = "do = \"spell\", table = \"\", column = \"\"";
        heard::take();
        let called = load(Role::Fingerprint, doing, "").measure_tree(EvidenceTree(tree)).await;
        assert_eq!(called.result.unwrap().len(), 8);
        outcomes.push((heard::take(), called.tally));
    }
    assert!(outcomes[0].0.len() == 8 && outcomes.iter().all(|outcome| *outcome == outcomes[0]), "{outcomes:?}");
}

#[tokio::test]
async fn a_guest_can_filter_only_by_configured_columns() {
    let Some(server) = Server::start() else { return };
    server.create_database("erp", &[]);
    server.psql("erp", SCHEMA);
    let rest = "settings = { do = \"spell\", table = \"llx_societe\", column = \"nom\" }";
    let plugin = load_file(Role::Fingerprint, &guest(Role::Fingerprint), rest).unwrap();
    let database = OpenDatabase::open(&config(&server), "prod/db".to_owned()).await.unwrap();
    let called = plugin.measure_database(database.clone()).await;
    database.close().await;
    // Every attempt was refused, so the guest returns the definitions instead.
    let measured = called.result.unwrap();
    assert_eq!(measured.len(), 1);
    assert_eq!(measured[0].selected, base::evidence::Selected::Definitions);
    assert_eq!(called.tally[&("database-evidence.content", "prod/db".to_owned())].bytes, 0);
}

#[tokio::test]
async fn a_failure_is_reported_to_the_guest_without_the_servers_message() {
    let Some(server) = Server::start() else { return };
    server.create_database("erp", &[]);
    server.psql("erp", &format!("{SCHEMA} CREATE VIEW llx_view AS SELECT 1;"));
    let database = OpenDatabase::open(&config(&server), "prod/db".to_owned()).await.unwrap();
    for doing in ["do = \"ask\", pattern = \"nobody\", count = 1", "do = \"ask\", pattern = \"nobody\", count = 2"] {
        heard::take();
        let error = load(Role::Fingerprint, doing, "").measure_database(database.clone()).await.result.unwrap_err();
        assert_blamed(&error, Role::Fingerprint, Class::PluginRefused, "nobody");
        let heard = heard::take().concat();
        assert!(heard.contains("the host refuses this") && !heard.contains("nobody"), "{heard}");
    }
    database.close().await;
}
