//! The wall between a guest that selects and the content that it selects: whatever is in a source, a guest hears the same.

use super::*;
use crate::context::heard;
use ::tests::postgres::Server;
use base::evidence::SealKey;
use postgres::{self, Session};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use std::collections::BTreeSet;

/// Names that a customer is given in turn: each takes three calls of the server, some 100 ms.
const NAMES: usize = 24;

/// What is in the table whose rows a guest would like to know.
const SCHEMA: &str = "CREATE TABLE llx_societe (rowid int PRIMARY KEY, nom text, tms timestamp, amount numeric);
     CREATE TABLE llx_const (name text, value text);
     CREATE TABLE llx_user (rowid int PRIMARY KEY, pass_crypted text, datelastlogin timestamp);
     INSERT INTO llx_societe SELECT n, 'customer ' || n, '2026-01-01', n FROM generate_series(1, 50) AS n;
     INSERT INTO llx_const VALUES ('MAIN_INFO_SOCIETE_NOM', 'a company');
     INSERT INTO llx_user VALUES (1, 'a hash', '2026-01-01');";

/// What one row says, in several ways: with another beginning, empty, of another length, as another number, gone.
const CONTENTS: [&str; 7] = [
    "UPDATE llx_const SET value = 'another company'",
    "UPDATE llx_societe SET nom = 'Adam' WHERE rowid = 7",
    "UPDATE llx_societe SET nom = 'Haldimann & Cie' WHERE rowid = 7",
    "UPDATE llx_societe SET nom = '' WHERE rowid = 7",
    "UPDATE llx_societe SET nom = NULL, amount = 99999 WHERE rowid = 7",
    "UPDATE llx_user SET pass_crypted = 'another hash'",
    "DELETE FROM llx_societe WHERE rowid = 7",
];

fn config(server: &Server) -> postgres::Config {
    toml::from_str(&format!(
        "host = {}\nport = {}\ndatabase = \"erp\"\npg_dump = {}\ncredentials = {{ user = \"postgres\" }}",
        quoted(&server.socket().to_string_lossy()),
        server.port(),
        quoted(&server.bin().join("pg_dump").to_string_lossy())
    ))
    .unwrap()
}

/// Everything that leaves one call: what the guest heard, what it said, and what the host writes down of it but the seal.
async fn call(plugin: &Plugin, server: &Server, key: &SealKey) -> (Vec<String>, Vec<String>, String, String) {
    let session = Session::open(&config(server), "prod/db".to_owned()).await.unwrap();
    let log = Log::default();
    let guard = log.begin();
    heard::take();
    let called = plugin.of_database(session.clone()).await;
    let heard = heard::take();
    drop(guard);
    session.close().await;
    let fingerprint = key.seal(called.result.unwrap());
    let written = format!("{} {:?} {:?}", fingerprint.basis, fingerprint.selected, called.tally);
    let said = log.text().lines().filter(|line| line.contains("plugin=")).map(ToOwned::to_owned).collect();
    (heard, said, written, fingerprint.value)
}

#[tokio::test]
async fn two_databases_that_differ_in_one_row_tell_a_guest_the_same_call_by_call() {
    let Some(server) = Server::start() else { return };
    server.create_database("erp", &[]);
    server.psql("erp", SCHEMA);
    let key = SealKey::draw();
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
        let (heard, said, written, value) = call(plugin, &server, &key).await;
        assert!(!heard.is_empty());
        let mut values = BTreeSet::from([value]);
        for content in CONTENTS {
            server.psql("erp", content);
            let (heard_now, said_now, written_now, value) = call(plugin, &server, &key).await;
            assert_eq!((&heard_now, &said_now), (&heard, &said), "{content}");
            // How many rows there are is the host's to say, of tables that count whole.
            let counted = written != written_now;
            assert!(!counted || content.starts_with("DELETE"), "{content}: {written} became {written_now}");
            values.insert(value);
            server.psql("erp", "TRUNCATE llx_societe, llx_const, llx_user");
            server.psql("erp", SCHEMA.split_once("INSERT").map(|(_, rest)| format!("INSERT{rest}")).unwrap().as_str());
        }
        assert!(values.len() > 1, "what the guest selected counts all the same");
    }
}

/// A guest that spells a column of a table, and does it as `doing` says.
fn spelling(doing: &str, table: &str, column: &str) -> Plugin {
    let rest = format!(
        "settings = {{ do = \"{doing}\", table = \"{table}\", column = \"{column}\" }}\nfilters = {{ {table} = \"{column}\" }}"
    );
    load_file(Role::Fingerprint, &guest(Role::Fingerprint), &rest).unwrap()
}

/// Whatever the customer is called, and how long the name is: the same call by call.
#[tokio::test]
async fn two_databases_that_differ_in_one_customers_name_tell_a_guest_the_same_whatever_it_is() {
    let Some(server) = Server::start() else { return };
    server.create_database("erp", &[]);
    server.psql("erp", SCHEMA);
    let key = SealKey::draw();
    let plugin = spelling("spell", "llx_societe", "nom");
    let (heard, said, written, _) = call(&plugin, &server, &key).await;
    let mut runner = TestRunner::deterministic();
    let mut values = BTreeSet::new();
    for _ in 0..NAMES {
        // What one may be called: any text without a NUL, which no column of PostgreSQL holds.
        let name = "[^\u{0}]{0,200}".new_tree(&mut runner).unwrap().current();
        server.psql("erp", &format!("UPDATE llx_societe SET nom = '{}' WHERE rowid = 7", name.replace('\'', "''")));
        let (heard_now, said_now, written_now, value) = call(&plugin, &server, &key).await;
        assert_eq!((&heard_now, &said_now, &written_now), (&heard, &said, &written), "{name:?}");
        values.insert(value);
    }
    assert!(values.len() > NAMES / 2, "the name counts all the same: {} values", values.len());
}

/// How a call ends is what an operator sees: a guest that traps with everything that it knows ends each day in the same words.
#[tokio::test]
async fn a_trap_says_the_same_of_every_content() {
    let Some(server) = Server::start() else { return };
    server.create_database("erp", &[]);
    server.psql("erp", SCHEMA);
    let plugin = spelling("cry", "llx_societe", "nom");
    let mut ends = BTreeSet::new();
    for content in CONTENTS {
        let session = Session::open(&config(&server), "prod/db".to_owned()).await.unwrap();
        let log = Log::default();
        let guard = log.begin();
        let error = plugin.of_database(session.clone()).await.result.unwrap_err();
        drop(guard);
        session.close().await;
        assert_blamed(&error, Role::Fingerprint, Class::PluginTrapped, "");
        let lines: Vec<String> =
            log.text().lines().filter(|line| line.contains("plugin=")).map(ToOwned::to_owned).collect();
        assert!(lines.iter().any(|line| line.contains("latest")), "it says what it was told: {lines:?}");
        ends.insert((error.to_string(), lines));
        server.psql("erp", content);
    }
    assert_eq!(ends.len(), 1, "{ends:?}");
}

/// The order of rows on disk, of tables in the catalogue, and small sizes are what was written when, and so content.
#[tokio::test]
async fn neither_an_order_nor_a_small_size_tells_what_was_written_when() {
    let Some(server) = Server::start() else { return };
    let (before, inserts) = SCHEMA.split_once("INSERT").unwrap();
    let mut tables: Vec<&str> = before.split(';').filter(|table| !table.trim().is_empty()).collect();
    let key = SealKey::draw();
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
        // 300 kB in a table that is told as 1 MiB: what fits below a power of two is not told.
        server.psql(
            "erp",
            "INSERT INTO llx_user SELECT n, repeat(md5(n::text), 30), NULL FROM generate_series(2, 300) AS n",
        );
        let (heard, said, ..) = call(&plugin, &server, &key).await;
        assert_eq!((&heard, &said), (&outcomes[0].0, &outcomes[0].1));
        server.psql("postgres", "DROP DATABASE erp WITH (FORCE)");
        tables.reverse();
    }
    assert_eq!(outcomes[0], outcomes[1], "the same content gives the same answers, and the same seal");
}

/// A guest that could keep something would learn a bit more each day.
#[tokio::test]
async fn a_guest_remembers_nothing_of_the_days_before() {
    let Some(server) = Server::start() else { return };
    server.create_database("erp", &[]);
    server.psql("erp", SCHEMA);
    let key = SealKey::draw();
    let plugin = load(Role::Fingerprint, "do = \"remember\"", "");
    let (heard, said, ..) = call(&plugin, &server, &key).await;
    assert!(said.iter().any(|line| line.contains("calls=\"0\"") || line.contains("calls=0")), "{said:?}");
    for content in CONTENTS {
        server.psql("erp", content);
        let (heard_now, said_now, ..) = call(&plugin, &server, &key).await;
        assert_eq!((&heard_now, &said_now), (&heard, &said), "{content}");
    }
}

#[tokio::test]
async fn two_folders_that_differ_in_a_name_or_a_byte_tell_a_guest_the_same() {
    let mut outcomes = Vec::new();
    for (name, content) in [("Adam.pdf", "x"), ("Haldimann.pdf", "x"), ("Adam.pdf", "another"), ("a/b/c.pdf", "")] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, content).unwrap();
        let tree = Tree::open(&documents::Config { path: folder.path().to_owned() }, "prod/docs".to_owned()).unwrap();
        let doing = "do = \"spell\", table = \"\", column = \"\"";
        heard::take();
        let called = load(Role::Fingerprint, doing, "").of_tree(EvidenceTree(tree)).await;
        assert_eq!(called.result.unwrap().len(), 8);
        outcomes.push((heard::take(), called.tally));
    }
    assert!(outcomes[0].0.len() == 8 && outcomes.iter().all(|outcome| *outcome == outcomes[0]), "{outcomes:?}");
}

#[tokio::test]
async fn a_guest_filters_by_no_column_that_the_configuration_does_not_name() {
    let Some(server) = Server::start() else { return };
    server.create_database("erp", &[]);
    server.psql("erp", SCHEMA);
    let rest = "settings = { do = \"spell\", table = \"llx_societe\", column = \"nom\" }";
    let plugin = load_file(Role::Fingerprint, &guest(Role::Fingerprint), rest).unwrap();
    let session = Session::open(&config(&server), "prod/db".to_owned()).await.unwrap();
    let called = plugin.of_database(session.clone()).await;
    session.close().await;
    // It was refused each time, and hands back the definitions in place of what it wanted.
    let measured = called.result.unwrap();
    assert_eq!(measured.len(), 1);
    assert_eq!(measured[0].selected, base::evidence::Selected::Definitions);
    assert_eq!(called.tally[&("database-evidence.content", "prod/db".to_owned())].bytes, 0);
}

#[tokio::test]
async fn a_failure_is_told_without_a_word_of_the_servers() {
    let Some(server) = Server::start() else { return };
    server.create_database("erp", &[]);
    server.psql("erp", &format!("{SCHEMA} CREATE VIEW llx_view AS SELECT 1;"));
    let session = Session::open(&config(&server), "prod/db".to_owned()).await.unwrap();
    for doing in ["do = \"ask\", pattern = \"nobody\", count = 1", "do = \"ask\", pattern = \"nobody\", count = 2"] {
        heard::take();
        let error = load(Role::Fingerprint, doing, "").of_database(session.clone()).await.result.unwrap_err();
        assert_blamed(&error, Role::Fingerprint, Class::PluginRefused, "nobody");
        let heard = heard::take().concat();
        assert!(heard.contains("the host refuses this") && !heard.contains("nobody"), "{heard}");
    }
    session.close().await;
}
