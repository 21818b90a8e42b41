//! The wall between a guest that selects and the content that it selects: whatever is in a source, a guest hears the same.

use super::*;
use crate::capability::heard;
use crate::evidence::SealKey;
use crate::postgres::{self, Session};
use ::tests::postgres::Server;

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
    let spelling = |table: &str, column: &str| {
        let rest = format!(
            "settings = {{ do = \"spell\", table = \"{table}\", column = \"{column}\" }}\nfilters = {{ {table} = \"{column}\" }}"
        );
        load_file(Role::Fingerprint, &guest(Role::Fingerprint), &rest).unwrap()
    };
    let guests = [
        shipped,
        spelling("llx_societe", "nom"),
        spelling("llx_societe", "amount"),
        spelling("llx_user", "pass_crypted"),
        spelling("llx_const", "value"),
    ];
    for plugin in &guests {
        let (heard, said, written, value) = call(plugin, &server, &key).await;
        assert!(!heard.is_empty());
        let mut values = std::collections::BTreeSet::from([value]);
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
    assert_eq!(measured[0].selected, crate::evidence::Selected::Definitions);
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
