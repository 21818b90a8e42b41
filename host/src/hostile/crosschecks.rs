//! Crosscheck guests that lie, flood and trap, and the parts of a database and a folder that they can see.

use super::*;
use crate::crosscheck;
use ::tests::postgres::Server;
use catalogue::proof::CrosscheckReport;
use postgres::OpenDatabase;

/// A guest that may read two columns of one table.
fn reading(doing: &str) -> Plugin {
    within(doing, "")
}

/// The same guest with other limits.
fn within(doing: &str, limits: &str) -> Plugin {
    let tables = "tables = { llx_user = [\"rowid\", \"login\"], llx_gone = [\"rowid\"] }";
    let rest = format!("{tables}\nsettings = {{ {doing} }}\nlimits = {{ {limits} }}");
    load(Role::Crosscheck, &rest).unwrap()
}

/// A table with a column that no guest may read and with more than one page of rows, and a table that no guest may
/// read.
const TABLES: &str = "CREATE TABLE llx_user (rowid serial PRIMARY KEY, login text, api_key text);
INSERT INTO llx_user (login, api_key) SELECT 'user' || n, 'canary-api-' || n FROM generate_series(1, 2500) AS n;
CREATE TABLE llx_const (rowid serial PRIMARY KEY, value text);
INSERT INTO llx_const (value) VALUES ('canary-const');";

async fn database(server: &Server) -> Arc<OpenDatabase> {
    let config: postgres::DatabaseConfig = toml::from_str(&format!(
        "host = {}\nport = {}\ndatabase = \"erp\"\npg_dump = {}\ncredentials = {{ user = \"postgres\" }}",
        quoted(&server.socket().to_string_lossy()),
        server.port(),
        quoted(&server.bin().join("pg_dump").to_string_lossy()),
    ))
    .unwrap();
    OpenDatabase::open(&config, "prod/db".to_owned()).await.unwrap()
}

/// An open documents folder.
struct Place {
    folder: TempDir,
    tree: Arc<Tree>,
}

impl Place {
    fn new() -> Self {
        let folder = documents_folder();
        let config = documents::FolderConfig { path: folder.path().join("docs") };
        let tree = Tree::open(&config, "prod/docs".to_owned()).unwrap();
        Self { folder, tree }
    }
}

/// A database, and a folder of 1,500 files.
async fn scene() -> Option<(Server, Arc<OpenDatabase>, Place)> {
    let server = Server::start()?;
    server.create_database("erp", &[]);
    server.psql("erp", TABLES);
    let database = database(&server).await;
    let place = Place::new();
    std::fs::write(place.folder.path().join("secret"), "outside").unwrap();
    std::os::unix::fs::symlink("../secret", place.folder.path().join("docs/link")).unwrap();
    for n in 0..1_500 {
        std::fs::write(place.folder.path().join(format!("docs/{n:04}.pdf")), n.to_string()).unwrap();
    }
    Some((server, database, place))
}

async fn check(plugin: &Plugin, database: &Arc<OpenDatabase>, place: &Place) -> Result<CrosscheckReport> {
    crosscheck::compare(plugin, database, &place.tree, &[], None).await.map_err(|failed| failed.error)
}

/// Asserts that only the test still holds the database and the folder.
async fn assert_released(database: &Arc<OpenDatabase>, place: &Place) {
    let begun = Instant::now();
    while Arc::strong_count(database) > 1 || Arc::strong_count(&place.tree) > 1 {
        assert!(begun.elapsed() < Duration::from_secs(10), "a handle outlives its call");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn first_finding(report: &CrosscheckReport) -> &str {
    &report.findings.first().unwrap().name
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_sees_only_the_configured_tables_and_columns() {
    let Some((_server, database, place)) = scene().await else { return };
    let report = check(&reading("do = \"tables\""), &database, &place).await.unwrap();
    let names: Vec<&str> = report.findings.iter().map(|finding| finding.name.as_str()).collect();
    assert_eq!(names, ["no table", "two columns"]);
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
        let report = check(&plugin, &database, &place).await.unwrap();
        assert_eq!(first_finding(&report), expected, "{text}");
    }
    assert_released(&database, &place).await;
    database.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_has_at_most_a_thousand_rows_or_files_and_is_counted() {
    let Some((_server, database, place)) = scene().await else { return };
    let report = check(&reading("do = \"flood\""), &database, &place).await.unwrap();
    assert_eq!(report.findings[0].detail, "1000 of 1000 things");
    let deed = |function: &str| report.plugin.tally.iter().find(|deed| deed.function == function).unwrap();
    let pages = deed("table-rows.page");
    // Sixty calls, rounded up to a power of two, because a guest that sees rows chooses their number.
    assert_eq!((pages.scope.as_str(), pages.calls), ("prod/db", 64));
    assert!(pages.items > 1_000 && pages.bytes > 1_000 * 8, "{pages:?}");
    let names = deed("documents-digests.names");
    assert_eq!((names.scope.as_str(), names.calls, names.bytes), ("prod/docs", 32, 0), "eighteen, rounded up");
    assert_released(&database, &place).await;
    database.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trapped_guests_handles_are_dropped_with_its_call() {
    let Some((_server, database, place)) = scene().await else { return };
    for (doing, compute_seconds, expected) in [
        ("do = \"trap-with-everything\"", 5, "panicked"),
        ("do = \"ask-for-ever\"", 60, "did not finish `check` within 3 s"),
        ("do = \"loop\"", 1, "computed for more than 1 s"),
    ] {
        let plugin = within(doing, &format!("compute_seconds = {compute_seconds}, call_seconds = 3"));
        let error = check(&plugin, &database, &place).await.unwrap_err();
        assert_blamed(&error, Role::Crosscheck, Class::PluginTrapped, expected);
        assert_released(&database, &place).await;
    }
    assert_eq!(database.tables().await.unwrap().len(), 2, "the database still works");
    database.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_that_contradicts_itself_or_the_guests_input_is_refused() {
    let Some((_server, database, place)) = scene().await else { return };
    let findings = |count: u32| (0..count).map(|check| format!("[{check}, 0, 0]")).collect::<Vec<_>>().join(", ");
    let rows = |count: i64| (1..=count).map(|key| format!("[\"llx_user\", {key}]")).collect::<Vec<_>>().join(", ");
    let heads = |count: i64| {
        (1..=count).map(|key| format!("[\"llx_user\", {key}, 1, \"login\"]")).collect::<Vec<_>>().join(", ")
    };
    let one = "findings = [[8, 0, 0]]";
    for (doing, expected) in [
        (format!("compared = 1, {one}"), "compares more documents than the plugin received"),
        (format!("looks = true, compared = 11, {one}"), "compares more documents than the plugin received"),
        (format!("compared = {}, {one}", i64::MAX), "documents than the plugin received"),
        (
            format!("looks = true, compared = 1, missing = 2, {one}"),
            "counts more missing and altered documents than it compares",
        ),
        (
            format!("looks = true, compared = 9, missing = 1, rows = [{}], {one}", rows(2)),
            "lists more missing documents than it counts",
        ),
        ("findings = []".to_owned(), "has no findings, or two for one check"),
        ("findings = [[1, 0, 0], [1, 0, 0]]".to_owned(), "has no findings, or two for one check"),
        ("findings = [[13, 0, 0]]".to_owned(), "a finding for a check that is not among the 13 announced"),
        ("findings = [[0, 2, 1]]".to_owned(), "counts more things than its own total"),
        (format!("looks = true, findings = [[0, 0, {}]]", i64::MAX), "more things than the plugin received"),
        (
            format!("looks = true, compared = 1, missing = 1, rows = [[\"llx_user\", 9999]], {one}"),
            "a row of llx_user that does not exist",
        ),
        (
            format!("looks = true, compared = 1, missing = 1, rows = [[\"llx_const\", 1]], {one}"),
            "a table that the plugin did not receive",
        ),
        (
            format!("looks = true, compared = 1, missing = 1, rows = [[\"canary\", 1]], {one}"),
            "a table that the plugin did not receive",
        ),
        (format!("looks = true, orphaned = [\"the text of a row\"], {one}"), "orphaned document that does not exist"),
        (format!("looks = true, orphaned = [\"../secret\"], {one}"), "orphaned document that does not exist"),
        (format!("looks = true, orphaned = [\"link\"], {one}"), "orphaned document that does not exist"),
        // A file must have one canonical path, because variants of its spelling could carry information.
        (format!("looks = true, orphaned = [\".//0001.pdf\"], {one}"), "orphaned document that does not exist"),
        (format!("looks = true, orphaned = [\"0001.pdf/\"], {one}"), "orphaned document that does not exist"),
        (
            format!("looks = true, heads = [[\"llx_user\", 1, 11, \"login\"]], {one}"),
            "counts more entries of a log than the plugin received",
        ),
        (format!("looks = true, heads = [[\"llx_user\", 1, 1, \"api_key\"]], {one}"), "that the plugin may not read"),
        (format!("looks = true, heads = [{}], {one}", heads(101)), "has more than 100 heads"),
        (format!("findings = [{}]", findings(17)), "a finding for a check that is not among"),
        (
            format!("looks = true, heads = [[\"llx_user\", 1, 1, \"login\"], [\"llx_user\", 2, 1, \"login\"]], {one}"),
            "names one log twice",
        ),
    ] {
        let error = check(&reading(&format!("do = \"answer\", {doing}")), &database, &place).await.expect_err(&doing);
        assert_blamed(&error, Role::Crosscheck, Class::PluginRefused, expected);
        assert!(!error.message().contains("canary") && !error.message().contains("the text of a row"), "{error}");
    }
    for (count, text, expected) in [(0, "x", "has 0 checks"), (17, "x", "has 17 checks"), (1, " ", "has no name")] {
        let doing = format!("do = \"checks\", count = {count}, text = \"{text}\"");
        let error = check(&reading(&doing), &database, &place).await.unwrap_err();
        assert_blamed(&error, Role::Crosscheck, Class::PluginRefused, expected);
    }
    let escapes = quoted(&"\u{1b}[2J\r\nforged\u{202e}".repeat(10_000));
    let report = check(&reading(&format!("do = \"checks\", count = 1, text = {escapes}")), &database, &place).await;
    let report = report.unwrap();
    for text in [&report.findings[0].name, &report.findings[0].detail] {
        assert!(text.len() <= 1_003 && !text.chars().any(char::is_control), "{text:?}");
    }
    database.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_shows_a_rows_configured_columns_or_else_its_key() {
    let Some((_server, database, place)) = scene().await else { return };
    let doing = "do = \"answer\", looks = true, compared = 2, missing = 2, findings = [[8, 3, 7]], \
                 rows = [[\"llx_user\", 7], [\"llx_user\", 2500]], heads = [[\"llx_user\", 9, 4, \"login\"]]";
    let report = check(&reading(doing), &database, &place).await.unwrap();
    assert_eq!(report.missing.first, ["llx_user 7", "llx_user 2500"]);
    // Neither order nor repetition is preserved.
    let ordered = "do = \"answer\", looks = true, compared = 3, missing = 3, findings = [[8, 0, 0], [2, 0, 0]], \
                   orphaned = [\"0007.pdf\", \"0003.pdf\", \"0007.pdf\"], \
                   rows = [[\"llx_user\", 2500], [\"llx_user\", 7], [\"llx_user\", 2500]]";
    let other = check(&reading(ordered), &database, &place).await.unwrap();
    assert_eq!(other.missing.first, report.missing.first);
    assert_eq!(other.orphaned.first, ["0003.pdf", "0007.pdf"]);
    assert_ne!(other.findings[0], report.findings[0]);
    assert_eq!((report.heads[0].log.as_str(), report.heads[0].signature.as_str()), ("llx_user", ""));
    // The guest reported four, but the host counts the entries of a log.
    assert_eq!(report.heads[0].entries, 2_500);
    assert_eq!(report.findings[0].detail, "3 of 7 things");
    let shown = format!(
        "tables = {{ llx_user = [\"rowid\", \"login\"] }}\nshown = {{ llx_user = [\"login\"] }}\nsettings = {{ {doing} }}"
    );
    let plugin = load(Role::Crosscheck, &shown).unwrap();
    let report = check(&plugin, &database, &place).await.unwrap();
    assert_eq!(report.missing.first, ["user7", "user2500"]);
    assert_eq!((report.heads[0].entries, report.heads[0].signature.as_str()), (2_500, "user9"));
    let more = shown.replace("shown = { llx_user = [\"login\"] }", "shown = { llx_user = [\"api_key\"] }");
    let error = load(Role::Crosscheck, &more).unwrap_err();
    assert!(
        error.message().contains("`api_key` of `llx_user`, which is not readable according to `tables`"),
        "{error}"
    );
    database.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_errors_nor_notices_leak_a_row() {
    let Some((_server, database, place)) = scene().await else { return };
    let error = check(&reading("do = \"fail-with-a-row\""), &database, &place).await.unwrap_err();
    assert_eq!(error.class(), Class::Config);
    let shown = format!("{error} {:?}", error.advice());
    assert!(shown.contains("its message is not shown") && !shown.contains("user1"), "{shown}");
    // The record still shows that it read rows.
    let plugin = reading("do = \"fail-with-a-row\"");
    let failed = crosscheck::compare(&plugin, &database, &place.tree, &[], None).await.unwrap_err();
    let did = failed.plugin.unwrap();
    assert!(did.tally.iter().any(|deed| deed.function == "table-rows.page" && deed.calls > 0), "{did:?}");
    let report = check(&reading("do = \"notices\", count = 500"), &database, &place).await.unwrap();
    let notices = report.plugin.tally.iter().find(|deed| deed.function == "notices.emit").unwrap();
    assert_eq!((notices.calls, notices.bytes), (32, 0), "the twenty that are shown, but none of the guest's numbers");
    database.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paths_outside_the_folder_and_overlong_paths_find_nothing() {
    let Some((_server, database, place)) = scene().await else { return };
    for (path, expected) in [
        ("0007.pdf", "as expected"),
        (".//0007.pdf", "as expected"),
        ("0008.pdf", "another file"),
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
        let plugin =
            reading(&format!("do = \"look-up\", md5 = \"8f14e45fceea167a5a36dedd4bea2543\", path = {}", quoted(path)));
        let report = check(&plugin, &database, &place).await.unwrap();
        assert_eq!(first_finding(&report), expected, "{path}");
    }
    for (path, count, expected) in [
        ("x", 1_001, "asked for more than 1000 documents in one call"),
        (&"x".repeat((32 << 10) + 1), 1, "a path longer than 32768 bytes"),
    ] {
        let plugin = reading(&format!("do = \"ask\", path = {}, count = {count}", quoted(path)));
        let error = check(&plugin, &database, &place).await.unwrap_err();
        assert_blamed(&error, Role::Crosscheck, Class::PluginRefused, expected);
    }
    database.close().await;
}

#[test]
fn only_the_crosscheck_role_may_have_tables() {
    for role in ["fingerprint", "dump", "retention"] {
        let section = format!("[{role}]\ncomponent = \"x.wasm\"\ntables = {{ llx_user = [\"rowid\"] }}");
        let error = toml::from_str::<Plugins>(&section).unwrap().at(None, None).unwrap_err();
        assert_eq!(error.class(), Class::Config);
        assert!(error.message().contains(&format!("[plugins.{role}] has `tables`")), "{error}");
    }
    let nothing: Plugins = toml::from_str("[crosscheck]\ncomponent = \"x.wasm\"").unwrap();
    assert!(nothing.at(None, None).unwrap().crosscheck.tables.is_empty(), "nothing may be read by default");
}
