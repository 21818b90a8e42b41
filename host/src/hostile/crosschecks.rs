//! Crosscheck guests that lie, flood and trap, and what they can see of a database and a folder at all.

use super::*;
use crate::crosscheck;
use ::tests::postgres::Server;
use catalogue::proof::CrosscheckReport;
use postgres::Session;

/// A guest that may read two columns of one table.
fn reading(doing: &str) -> Plugin {
    within(doing, "")
}

/// The same within other limits.
fn within(doing: &str, limits: &str) -> Plugin {
    let tables = "tables = { llx_user = [\"rowid\", \"login\"], llx_gone = [\"rowid\"] }";
    let rest = format!("{tables}\nsettings = {{ {doing} }}\nlimits = {{ {limits} }}");
    load(Role::Crosscheck, &rest).unwrap()
}

/// A table with a column that no guest is given, with rows for more than one page.
const TABLES: &str = "CREATE TABLE llx_user (rowid serial PRIMARY KEY, login text, api_key text);
INSERT INTO llx_user (login, api_key) SELECT 'user' || n, 'canary-api-' || n FROM generate_series(1, 2500) AS n;
CREATE TABLE llx_const (rowid serial PRIMARY KEY, value text);
INSERT INTO llx_const (value) VALUES ('canary-const');";

async fn session(server: &Server) -> Arc<Session> {
    let config: postgres::Config = toml::from_str(&format!(
        "host = {}\nport = {}\ndatabase = \"erp\"\npg_dump = {}\ncredentials = {{ user = \"postgres\" }}",
        quoted(&server.socket().to_string_lossy()),
        server.port(),
        quoted(&server.bin().join("pg_dump").to_string_lossy()),
    ))
    .unwrap();
    Session::open(&config, "prod/db".to_owned()).await.unwrap()
}

/// A documents folder, open.
struct Place {
    folder: TempDir,
    tree: Arc<Tree>,
}

impl Place {
    fn new() -> Self {
        let folder = documents_folder();
        let config = documents::Config { path: folder.path().join("docs") };
        let tree = Tree::open(&config, "prod/docs".to_owned()).unwrap();
        Self { folder, tree }
    }
}

/// A database, a folder of 1,500 files and what is called on them.
async fn scene() -> Option<(Server, Arc<Session>, Place)> {
    let server = Server::start()?;
    server.create_database("erp", &[]);
    server.psql("erp", TABLES);
    let session = session(&server).await;
    let place = Place::new();
    std::fs::write(place.folder.path().join("secret"), "outside").unwrap();
    std::os::unix::fs::symlink("../secret", place.folder.path().join("docs/link")).unwrap();
    for n in 0..1_500 {
        std::fs::write(place.folder.path().join(format!("docs/{n:04}.pdf")), n.to_string()).unwrap();
    }
    Some((server, session, place))
}

async fn check(plugin: &Plugin, session: &Arc<Session>, place: &Place) -> Result<CrosscheckReport> {
    crosscheck::compare(plugin, session, &place.tree, &[], None).await.map_err(|failed| failed.error)
}

/// Nobody but the test holds the session and the folder.
async fn assert_let_go(session: &Arc<Session>, place: &Place) {
    let begun = Instant::now();
    while Arc::strong_count(session) > 1 || Arc::strong_count(&place.tree) > 1 {
        assert!(begun.elapsed() < Duration::from_secs(10), "a handle outlives its call");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn first_finding(report: &CrosscheckReport) -> &str {
    &report.findings.first().unwrap().name
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_sees_the_tables_and_columns_of_the_configuration_and_nothing_else() {
    let Some((_server, session, place)) = scene().await else { return };
    let report = check(&reading("do = \"tables\""), &session, &place).await.unwrap();
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
    assert_eq!(report.findings[0].detail, "1000 of 1000 things");
    let deed = |function: &str| report.plugin.tally.iter().find(|deed| deed.function == function).unwrap();
    let pages = deed("table-rows.page");
    // Sixty calls, of which the power of two is kept, because a guest that sees rows chooses their number.
    assert_eq!((pages.scope.as_str(), pages.calls), ("prod/db", 64));
    assert!(pages.items > 1_000 && pages.bytes > 1_000 * 8, "{pages:?}");
    let names = deed("documents-digests.names");
    assert_eq!((names.scope.as_str(), names.calls, names.bytes), ("prod/docs", 32, 0), "eighteen");
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
        let plugin = within(doing, &format!("compute_seconds = {compute_seconds}, call_seconds = 3"));
        let error = check(&plugin, &session, &place).await.unwrap_err();
        assert_blamed(&error, Role::Crosscheck, Class::PluginTrapped, expected);
        assert_let_go(&session, &place).await;
    }
    assert_eq!(session.tables().await.unwrap().len(), 2, "the session serves on");
    session.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_that_contradicts_itself_or_what_the_guest_was_handed_is_refused() {
    let Some((_server, session, place)) = scene().await else { return };
    let findings = |count: u32| (0..count).map(|check| format!("[{check}, 0, 0]")).collect::<Vec<_>>().join(", ");
    let rows = |count: i64| (1..=count).map(|key| format!("[\"llx_user\", {key}]")).collect::<Vec<_>>().join(", ");
    let heads = |count: i64| {
        (1..=count).map(|key| format!("[\"llx_user\", {key}, 1, \"login\"]")).collect::<Vec<_>>().join(", ")
    };
    let one = "findings = [[8, 0, 0]]";
    for (doing, expected) in [
        (format!("compared = 1, {one}"), "compares more documents than it was handed"),
        (format!("looks = true, compared = 11, {one}"), "compares more documents than it was handed"),
        (format!("compared = {}, {one}", i64::MAX), "documents than it was handed"),
        (
            format!("looks = true, compared = 1, missing = 2, {one}"),
            "counts more missing and altered documents than it compares",
        ),
        (
            format!("looks = true, compared = 9, missing = 1, rows = [{}], {one}", rows(2)),
            "lists more missing documents than it counts",
        ),
        ("findings = []".to_owned(), "has no finding, or two on one check"),
        ("findings = [[1, 0, 0], [1, 0, 0]]".to_owned(), "has no finding, or two on one check"),
        ("findings = [[13, 0, 0]]".to_owned(), "a finding on a check beside the 13 that it named"),
        ("findings = [[0, 2, 1]]".to_owned(), "counts more things than there are of them"),
        (format!("looks = true, findings = [[0, 0, {}]]", i64::MAX), "more things than it was handed"),
        (
            format!("looks = true, compared = 1, missing = 1, rows = [[\"llx_user\", 9999]], {one}"),
            "a row of llx_user that is not there",
        ),
        (
            format!("looks = true, compared = 1, missing = 1, rows = [[\"llx_const\", 1]], {one}"),
            "a table that it was not handed",
        ),
        (
            format!("looks = true, compared = 1, missing = 1, rows = [[\"canary\", 1]], {one}"),
            "a table that it was not handed",
        ),
        (format!("looks = true, orphaned = [\"the text of a row\"], {one}"), "an orphaned document that is not there"),
        (format!("looks = true, orphaned = [\"../secret\"], {one}"), "an orphaned document that is not there"),
        (format!("looks = true, orphaned = [\"link\"], {one}"), "an orphaned document that is not there"),
        // A file has one name: how it is spelt could say anything.
        (format!("looks = true, orphaned = [\".//0001.pdf\"], {one}"), "an orphaned document that is not there"),
        (format!("looks = true, orphaned = [\"0001.pdf/\"], {one}"), "an orphaned document that is not there"),
        (
            format!("looks = true, heads = [[\"llx_user\", 1, 11, \"login\"]], {one}"),
            "counts more entries of a log than it was handed",
        ),
        (format!("looks = true, heads = [[\"llx_user\", 1, 1, \"api_key\"]], {one}"), "a column that it may not read"),
        (format!("looks = true, heads = [{}], {one}", heads(101)), "has more than 100 heads"),
        (format!("findings = [{}]", findings(17)), "a finding on a check beside"),
        (
            format!("looks = true, heads = [[\"llx_user\", 1, 1, \"login\"], [\"llx_user\", 2, 1, \"login\"]], {one}"),
            "names one log twice",
        ),
    ] {
        let error = check(&reading(&format!("do = \"answer\", {doing}")), &session, &place).await.expect_err(&doing);
        assert_blamed(&error, Role::Crosscheck, Class::PluginRefused, expected);
        assert!(!error.message().contains("canary") && !error.message().contains("the text of a row"), "{error}");
    }
    for (count, text, expected) in
        [(0, "x", "looks at 0 things"), (17, "x", "looks at 17 things"), (1, " ", "has no name")]
    {
        let doing = format!("do = \"checks\", count = {count}, text = \"{text}\"");
        let error = check(&reading(&doing), &session, &place).await.unwrap_err();
        assert_blamed(&error, Role::Crosscheck, Class::PluginRefused, expected);
    }
    let escapes = quoted(&"\u{1b}[2J\r\nforged\u{202e}".repeat(10_000));
    let report = check(&reading(&format!("do = \"checks\", count = 1, text = {escapes}")), &session, &place).await;
    let report = report.unwrap();
    for text in [&report.findings[0].name, &report.findings[0].detail] {
        assert!(text.len() <= 1_003 && !text.chars().any(char::is_control), "{text:?}");
    }
    session.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_shows_of_a_row_what_the_configuration_lets_it_and_else_its_key() {
    let Some((_server, session, place)) = scene().await else { return };
    let doing = "do = \"answer\", looks = true, compared = 2, missing = 2, findings = [[8, 3, 7]], \
                 rows = [[\"llx_user\", 7], [\"llx_user\", 2500]], heads = [[\"llx_user\", 9, 4, \"login\"]]";
    let report = check(&reading(doing), &session, &place).await.unwrap();
    assert_eq!(report.missing.first, ["llx_user 7", "llx_user 2500"]);
    // Neither an order nor a repetition comes out.
    let ordered = "do = \"answer\", looks = true, compared = 3, missing = 3, findings = [[8, 0, 0], [2, 0, 0]], \
                   orphaned = [\"0007.pdf\", \"0003.pdf\", \"0007.pdf\"], \
                   rows = [[\"llx_user\", 2500], [\"llx_user\", 7], [\"llx_user\", 2500]]";
    let told = check(&reading(ordered), &session, &place).await.unwrap();
    assert_eq!(told.missing.first, report.missing.first);
    assert_eq!(told.orphaned.first, ["0003.pdf", "0007.pdf"]);
    assert_ne!(told.findings[0], report.findings[0]);
    assert_eq!((report.heads[0].log.as_str(), report.heads[0].signature.as_str()), ("llx_user", ""));
    // The guest said four: how long a log is, the host counts.
    assert_eq!(report.heads[0].entries, 2_500);
    assert_eq!(report.findings[0].detail, "3 of 7 things");
    let shown = format!(
        "tables = {{ llx_user = [\"rowid\", \"login\"] }}\nshown = {{ llx_user = [\"login\"] }}\nsettings = {{ {doing} }}"
    );
    let plugin = load(Role::Crosscheck, &shown).unwrap();
    let report = check(&plugin, &session, &place).await.unwrap();
    assert_eq!(report.missing.first, ["user7", "user2500"]);
    assert_eq!((report.heads[0].entries, report.heads[0].signature.as_str()), (2_500, "user9"));
    let more = shown.replace("shown = { llx_user = [\"login\"] }", "shown = { llx_user = [\"api_key\"] }");
    let error = load(Role::Crosscheck, &more).unwrap_err();
    assert!(error.message().contains("`api_key` of `llx_user`, which `tables` does not let be read"), "{error}");
    session.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_an_error_nor_a_notice_carries_a_row_out() {
    let Some((_server, session, place)) = scene().await else { return };
    let error = check(&reading("do = \"fail-with-a-row\""), &session, &place).await.unwrap_err();
    assert_eq!(error.class(), Class::Config);
    let said = format!("{error} {:?}", error.advice());
    assert!(said.contains("what it says is not shown") && !said.contains("user1"), "{said}");
    // That it read them is kept all the same.
    let plugin = reading("do = \"fail-with-a-row\"");
    let failed = crosscheck::compare(&plugin, &session, &place.tree, &[], None).await.unwrap_err();
    let did = failed.plugin.unwrap();
    assert!(did.tally.iter().any(|deed| deed.function == "table-rows.page" && deed.calls > 0), "{did:?}");
    let report = check(&reading("do = \"notices\", count = 500"), &session, &place).await.unwrap();
    let notices = report.plugin.tally.iter().find(|deed| deed.function == "notices.emit").unwrap();
    assert_eq!((notices.calls, notices.bytes), (32, 0), "the twenty that are shown, and no number of the guest's");
    session.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paths_that_lead_elsewhere_or_never_end_find_nothing() {
    let Some((_server, session, place)) = scene().await else { return };
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
        let report = check(&plugin, &session, &place).await.unwrap();
        assert_eq!(first_finding(&report), expected, "{path}");
    }
    for (path, count, expected) in [
        ("x", 1_001, "asked for more than 1000 documents in one call"),
        (&"x".repeat((32 << 10) + 1), 1, "a path of more than 32768 bytes"),
    ] {
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
