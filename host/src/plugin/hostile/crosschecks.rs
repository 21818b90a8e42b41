//! Crosscheck guests that lie, flood and trap, and what they can see of a database and a folder at all.

use super::*;
use crate::crosscheck;
use crate::postgres::Session;
use ::tests::postgres::Server;

/// A guest that may read two columns of one table.
fn reading(doing: &str) -> Plugin {
    let rest =
        format!("tables = {{ llx_user = [\"rowid\", \"login\"], llx_gone = [\"rowid\"] }}\nsettings = {{ {doing} }}");
    load_file(Role::Crosscheck, &guest(Role::Crosscheck), &rest).unwrap()
}

/// A table with a column that no guest is given, with rows for more than one page.
const TABLES: &str = "CREATE TABLE llx_user (rowid serial PRIMARY KEY, login text, api_key text);
INSERT INTO llx_user (login, api_key) SELECT 'user' || n, 'canary-api-' || n FROM generate_series(1, 2500) AS n;
CREATE TABLE llx_const (rowid serial PRIMARY KEY, value text);
INSERT INTO llx_const (value) VALUES ('canary-const');";

async fn session(server: &Server) -> Arc<Session> {
    let config: crate::postgres::Config = toml::from_str(&format!(
        "host = {}\nport = {}\ndatabase = \"erp\"\npg_dump = {}\ncredentials = {{ user = \"postgres\" }}",
        quoted(&server.socket().to_string_lossy()),
        server.port(),
        quoted(&server.bin().join("pg_dump").to_string_lossy()),
    ))
    .unwrap();
    Session::open(&config, "prod/db".to_owned()).await.unwrap()
}

/// A database, a folder of 1,500 files and what is called on them.
async fn scene() -> Option<(Server, Arc<Session>, Place)> {
    let server = Server::start()?;
    server.create_database("erp", &[]);
    server.psql("erp", TABLES);
    let session = session(&server).await;
    let place = Place::new().await;
    std::fs::write(place.folder.path().join("secret"), "outside").unwrap();
    std::os::unix::fs::symlink("../secret", place.folder.path().join("docs/link")).unwrap();
    for n in 0..1_500 {
        std::fs::write(place.folder.path().join(format!("docs/{n:04}.pdf")), n.to_string()).unwrap();
    }
    Some((server, session, place))
}

async fn check(plugin: &Plugin, session: &Arc<Session>, place: &Place) -> Result<crosscheck::CrosscheckReport> {
    crosscheck::compare(plugin, session, &place.tree).await
}

/// Nobody but the test holds the session and the folder.
async fn assert_let_go(session: &Arc<Session>, place: &Place) {
    let begun = Instant::now();
    while Arc::strong_count(session) > 1 || Arc::strong_count(&place.tree) > 1 {
        assert!(begun.elapsed() < Duration::from_secs(10), "a handle outlives its call");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn first_finding(report: &crosscheck::CrosscheckReport) -> &str {
    &report.findings.first().unwrap().name
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_sees_the_tables_and_columns_of_the_configuration_and_nothing_else() {
    let Some((_server, session, place)) = scene().await else { return };
    let report = check(&reading("do = \"tables\""), &session, &place).await.unwrap();
    let names: Vec<&str> = report.findings.iter().map(|finding| finding.name.as_str()).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    assert_eq!(names[1], "llx_gone: None");
    assert!(names[2].starts_with("llx_user: Some(") && names[2].contains("[\"rowid\", \"login\"]"), "{names:?}");
    assert!(names[2].contains("2500") && !names[2].contains("api_key"), "{names:?}");
    let masked = |text: &str| hex::encode(text.bytes().map(|byte| byte ^ 0x5a).collect::<Vec<u8>>());
    for (text, expected) in [
        ("user7", "found"),
        ("0007.pdf", "found"),
        ("canary-api-7", "clean"),
        ("canary-const", "clean"),
        ("%PDF-1.4", "clean"),
        ("outside", "clean"),
    ] {
        let plugin = reading(&format!("do = \"look\", masked = \"{}\"", masked(text)));
        let report = check(&plugin, &session, &place).await.unwrap();
        assert_eq!(first_finding(&report), expected, "{text}");
    }
    assert_let_go(&session, &place).await;
    session.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_has_a_thousand_rows_or_files_whatever_is_asked_and_is_counted() {
    let Some((_server, session, place)) = scene().await else { return };
    let report = check(&reading("do = \"flood\""), &session, &place).await.unwrap();
    assert_eq!(first_finding(&report), "at most 1000");
    let deed = |function: &str| report.plugin.tally.iter().find(|deed| deed.function == function).unwrap();
    let pages = deed("table-rows.page");
    assert_eq!((pages.scope.as_str(), pages.calls), ("prod/db", 60));
    assert!(pages.bytes > 1_000 * 8, "{pages:?}");
    let names = deed("documents-digests.names");
    assert_eq!((names.scope.as_str(), names.calls, names.bytes), ("prod/docs", 18, 0));
    assert_let_go(&session, &place).await;
    session.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_a_guest_traps_on_its_handles_go_with_the_call() {
    let Some((_server, session, place)) = scene().await else { return };
    for (doing, compute_seconds, expected) in [
        ("do = \"trap-with-everything\"", 5, "panicked"),
        ("do = \"ask-for-ever\"", 60, "did not end `check` within 3 s"),
        ("do = \"loop\"", 1, "computed for more than 1 s"),
    ] {
        let mut plugin = reading(doing);
        (plugin.wall, plugin.compute) = (Duration::from_secs(3), Duration::from_secs(compute_seconds));
        let error = check(&plugin, &session, &place).await.unwrap_err();
        assert_blamed(&error, Role::Crosscheck, Class::PluginTrapped, expected);
        assert_let_go(&session, &place).await;
    }
    assert_eq!(session.tables().await.unwrap().len(), 2, "the session serves on");
    session.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_that_contradicts_itself_or_never_ends_is_refused() {
    let Some((_server, session, place)) = scene().await else { return };
    for (compared, missing, listed, findings, heads, text, expected) in [
        (1, 2, 0, 1, 0, "x", "counts 2 missing and altered documents of 1 compared"),
        (u64::MAX >> 1, 1, 2, 1, 0, "x", "lists 2 missing documents of 1"),
        (1_000, 1_000, 101, 1, 0, "x", "lists 101 missing documents of 1000"),
        (0, 0, 0, 0, 0, "x", "has 0 findings"),
        (0, 0, 0, 65, 0, "x", "has 65 findings"),
        (0, 0, 0, 1, 0, " ", "has a finding without a name"),
        (0, 0, 0, 1, 101, "x", "has 101 heads"),
    ] {
        let doing = format!(
            "do = \"answer\", compared = {compared}, missing = {missing}, listed = {listed}, findings = {findings}, \
             heads = {heads}, text = \"{text}\""
        );
        let error = check(&reading(&doing), &session, &place).await.unwrap_err();
        assert_blamed(&error, Role::Crosscheck, Class::PluginRefused, expected);
    }
    let escapes = quoted(&"\u{1b}[2J\r\nforged\u{202e}".repeat(10_000));
    let doing =
        format!("do = \"answer\", compared = 9, missing = 9, listed = 9, findings = 1, heads = 1, text = {escapes}");
    let report = check(&reading(&doing), &session, &place).await.unwrap();
    let texts = [&report.missing.first[8], &report.findings[0].name, &report.findings[0].detail, &report.heads[0].log];
    for text in texts.into_iter().chain([&report.heads[0].signature]) {
        assert!(text.len() <= 1_003 && !text.chars().any(char::is_control), "{text:?}");
    }
    session.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paths_that_lead_elsewhere_or_never_end_find_nothing() {
    let Some((_server, session, place)) = scene().await else { return };
    for (path, expected) in [
        ("0007.pdf", "file 1 8f14e45fceea167a5a36dedd4bea2543"),
        (".//0007.pdf", "file 1 8f14e45fceea167a5a36dedd4bea2543"),
        ("../secret", "missing"),
        ("/etc/passwd", "missing"),
        ("0007.pdf/x", "missing"),
        ("link", "not a file"),
        ("link/x", "missing"),
        ("", "not a file"),
        (".", "not a file"),
        ("a\0b", "missing"),
        (&"x".repeat(300), "missing"),
        (&"d/".repeat(600), "missing"),
    ] {
        let plugin = reading(&format!("do = \"look-up\", path = {}", quoted(path)));
        let report = check(&plugin, &session, &place).await.unwrap();
        assert_eq!(first_finding(&report), expected, "{path}");
    }
    for (path, count, expected) in
        [("x", 1_001, "asked for 1001 documents"), (&"x".repeat((32 << 10) + 1), 1, "a path of 32769 bytes")]
    {
        let plugin = reading(&format!("do = \"ask\", path = {}, count = {count}", quoted(path)));
        let error = check(&plugin, &session, &place).await.unwrap_err();
        assert_blamed(&error, Role::Crosscheck, Class::PluginRefused, expected);
    }
    session.close().await;
}

#[test]
fn a_role_that_is_never_handed_a_table_may_not_name_one() {
    for role in ["fingerprint", "dump", "retention"] {
        let section = format!("[{role}]\ncomponent = \"x.wasm\"\ntables = {{ llx_user = [\"rowid\"] }}");
        let error = toml::from_str::<Plugins>(&section).unwrap().at(None, None).unwrap_err();
        assert_eq!(error.class(), Class::Config);
        assert!(error.message().contains(&format!("[plugins.{role}] has `tables`")), "{error}");
    }
    let nothing: Plugins = toml::from_str("[crosscheck]\ncomponent = \"x.wasm\"").unwrap();
    assert!(nothing.at(None, None).unwrap().crosscheck.tables.is_empty(), "nothing may be read unless it is said");
}
