//! The shipped plugin on a real server and a real folder: the sample, and a real installation if one is available.

use super::*;
use ::tests::postgres::Server;
use ::tests::sample;
use base::error::{Class, Error};
use documents;
use futures::FutureExt;
use plugin::{Engine, PluginConfig, Plugins};
use postgres;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;

struct Scene {
    server: Server,
    folder: TempDir,
}

impl Scene {
    fn sample() -> Option<Self> {
        let scene = Self::new()?;
        scene.server.psql("erp", &sample::sql());
        sample::write_documents(&scene.documents()).unwrap();
        Some(scene)
    }

    fn new() -> Option<Self> {
        let server = Server::start()?;
        server.create_database("erp", &[]);
        Some(Self { server, folder: tempfile::tempdir().unwrap() })
    }

    fn documents(&self) -> PathBuf {
        self.folder.path().join("documents")
    }

    /// Runs one cross-check with the configuration lines `more`.
    async fn check(&self, more: &str) -> Result<CrosscheckReport> {
        self.check_without(&[], more).await
    }

    /// The same with exclude patterns of the archive.
    async fn check_without(&self, exclude: &[&str], more: &str) -> Result<CrosscheckReport> {
        let exclude: Vec<String> = exclude.iter().map(|pattern| (*pattern).to_owned()).collect();
        let quoted = |path: &Path| toml::Value::String(path.to_str().unwrap().to_owned()).to_string();
        let config: postgres::DatabaseConfig = toml::from_str(&format!(
            "host = {}\nport = {}\ndatabase = \"erp\"\npg_dump = {}\ncredentials = {{ user = \"postgres\" }}",
            quoted(self.server.socket()),
            self.server.port(),
            quoted(&self.server.bin().join("pg_dump")),
        ))
        .unwrap();
        let database = OpenDatabase::open(&config, "prod/db".to_owned()).await.unwrap();
        let tree = Tree::open(&documents::FolderConfig { path: self.documents() }, "prod/docs".to_owned()).unwrap();
        let report = compare(&plugin(more)?, &database, &tree, &exclude, None).await;
        database.close().await;
        report.map_err(|failed| failed.error)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.documents().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

/// The shipped plugin. `more` replaces parts of its section.
fn plugin(more: &str) -> Result<Plugin> {
    let binary = std::env::current_exe().unwrap();
    let folder = binary.ancestors().nth(2).unwrap().join("plugins");
    let mut plugins = Plugins::default();
    if !more.is_empty() {
        let shipped = plugins.crosscheck.clone();
        let grants = if more.contains("grants =") { "" } else { "grants = [\"table-rows\", \"documents-digests\"]" };
        let section = format!("component = \"crosscheck-dolibarr.wasm\"\n{grants}\n{more}");
        plugins.crosscheck = toml::from_str::<PluginConfig>(&section).unwrap();
        if !more.contains("tables =") {
            (plugins.crosscheck.tables, plugins.crosscheck.shown) = (shipped.tables, shipped.shown);
        }
    }
    Plugin::load(&Engine::new()?, &plugins, Role::Crosscheck, Some(&folder))
        .now_or_never()
        .expect("a file needs no network")
}

fn verdict(report: &CrosscheckReport, name: &str) -> CrosscheckVerdict {
    report.findings.iter().find(|finding| finding.name == name).unwrap_or_else(|| panic!("{report:?}")).verdict
}

const INVOICE: &str = "facture/FA2601-0001/FA2601-0001.pdf";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_and_the_documents_that_belong_to_it_agree() {
    let Some(scene) = Scene::sample() else { return };
    let report = scene.check("").await.unwrap();
    assert!(report.passed(), "{report:?}");
    assert_eq!(report.compared, u64::from(sample::INVOICES));
    assert_eq!((report.missing.total, report.altered.total), (0, 0));
    assert_eq!(verdict(&report, "documents known"), CrosscheckVerdict::Noted, "Dolibarr does not note every file");
    assert!(report.orphaned.first.iter().any(|path| path == "users/1/signature.png"), "{report:?}");
    assert!(report.orphaned.first.iter().all(|path| !path.contains("temp/") && !path.ends_with(".log")), "{report:?}");
    let again = scene.check("").await.unwrap();
    assert_eq!(again, report, "the same every time");
    let bytes = serde_json::to_vec(&report).unwrap();
    assert_eq!(serde_json::from_slice::<CrosscheckReport>(&bytes).unwrap(), report);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_excluded_document_is_distinguished_from_a_missing_one() {
    let Some(scene) = Scene::sample() else { return };
    scene.server.psql(
        "erp",
        "INSERT INTO llx_ecm_files (ref, label, entity, filepath, filename) VALUES \
         ('a', md5('x'), 1, 'ticket/TS1', 'server.log'), ('b', md5('x'), 1, 'ecm/temp/deep', 'contrat.pdf'), \
         ('c', md5('x'), 2, 'ticket/TS2', 'other.log')",
    );
    let without = scene.check("").await.unwrap();
    assert_eq!((without.missing.total, verdict(&without, "documents present")), (3, CrosscheckVerdict::Failed));
    let report = scene.check_without(&["*.log", "ecm/temp/"], "").await.unwrap();
    assert!(report.passed() && report.missing.total == 0, "{report:?}");
    assert_eq!(verdict(&report, "documents left out"), CrosscheckVerdict::Noted);
    let detail = &report.findings.iter().find(|finding| finding.name == "documents left out").unwrap().detail;
    assert!(detail.starts_with("3 of "), "{detail}");
    let one = scene.check_without(&["*.log"], "").await.unwrap();
    assert_eq!(one.missing.first, ["ecm/temp/deep/contrat.pdf"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_difference_between_database_and_documents_is_reported() {
    let Some(scene) = Scene::sample() else { return };
    std::fs::remove_file(scene.documents().join(INVOICE)).unwrap();
    let altered = "facture/FA2601-0002/FA2601-0002.pdf";
    let mut bytes = std::fs::read(scene.documents().join(altered)).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(scene.documents().join(altered), bytes).unwrap();
    scene.write("facture/stranger.pdf", "x");
    scene.write("2/facture/FA1/FA1.pdf", "second");
    scene.write("2/propal/PR1/PR1.pdf", "second");
    scene.server.psql(
        "erp",
        "INSERT INTO llx_ecm_files (ref, label, entity, filepath, filename) VALUES \
         ('a', md5('second'), 2, '2/facture/FA1', 'FA1.pdf'), ('b', md5('second'), 2, 'propal/PR1', 'PR1.pdf'), \
         ('c', md5('x'), 2, 'propal/PR2', 'PR2.pdf'), ('d', md5('x'), 1, '../..', 'etc/passwd'), ('e', '', 1, 'medias/image', 'logo ''bleu''.svg')",
    );
    let report = scene.check("settings = { orphaned = \"fail\", shown = 100 }").await.unwrap();
    assert_eq!(report.missing.first, [INVOICE, "propal/PR2/PR2.pdf", "../../etc/passwd"], "by the keys of their rows");
    assert_eq!(report.altered.first, [altered]);
    assert!(report.orphaned.first.contains(&"facture/stranger.pdf".to_owned()), "{report:?}");
    assert!(!report.orphaned.first.iter().any(|path| path.starts_with("2/") || path.contains("logo")), "{report:?}");
    let failed: Vec<&str> = report.failed().map(|finding| finding.name.as_str()).collect();
    assert_eq!(failed, ["documents present", "documents unaltered", "documents known"]);
    assert_eq!(verdict(&report, "documents without digest"), CrosscheckVerdict::Noted);
    let lenient = scene.check("settings = { missing = \"report\", altered = \"report\" }").await.unwrap();
    assert!(lenient.passed() && lenient.missing.total == 3, "{lenient:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_head_of_the_anti_fraud_log_moves_with_its_last_entry_company_by_company() {
    let Some(scene) = Scene::sample() else { return };
    scene.server.psql("erp", "TRUNCATE llx_blockedlog RESTART IDENTITY");
    assert_eq!(verdict(&scene.check("").await.unwrap(), "anti-fraud log"), CrosscheckVerdict::Skipped);
    scene.server.psql(
        "erp",
        "INSERT INTO llx_blockedlog (entity, amounts, signature) SELECT 1 + n % 2, 0, md5(n::text) FROM generate_series(1, 2500) AS n",
    );
    let report = scene.check("").await.unwrap();
    let heads: Vec<_> = report.heads.iter().map(|head| (head.log.as_str(), head.entries, head.last)).collect();
    assert_eq!(heads, [("llx_blockedlog, entity 1", 1_250, 2_500), ("llx_blockedlog, entity 2", 1_250, 2_499)]);
    let signature = scene.server.psql("erp", "SELECT signature FROM llx_blockedlog WHERE rowid = 2500");
    assert_eq!(report.heads[0].signature, signature.trim());
    assert_eq!(verdict(&report, "anti-fraud log"), CrosscheckVerdict::Passed);
    scene.server.psql("erp", "DELETE FROM llx_blockedlog WHERE rowid = 2500");
    let older = scene.check("").await.unwrap();
    assert_eq!((older.heads[0].entries, older.heads[0].last), (1_249, 2_498));
    scene.server.psql("erp", "DROP TABLE llx_blockedlog");
    assert_eq!(verdict(&scene.check("").await.unwrap(), "anti-fraud log"), CrosscheckVerdict::Skipped);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_or_column_that_may_not_be_read_is_reported_with_the_setting() {
    let Some(scene) = Scene::sample() else { return };
    let denied = |error: Error, says: &str| {
        assert_eq!(error.class(), Class::Config, "{error}");
        assert!(error.message().contains(says), "`{error}` does not contain `{says}`");
    };
    let says = "the plugin may not read the table `llx_ecm_files`: list it in [plugins.crosscheck.tables]";
    denied(scene.check("tables = {}").await.unwrap_err(), says);
    let says = "the plugin may not read the table `abc_ecm_files`";
    denied(scene.check("settings = { prefix = \"abc_\" }").await.unwrap_err(), says);
    let narrow = "tables = { llx_ecm_files = [\"rowid\", \"filepath\", \"filename\", \"entity\"] }";
    denied(scene.check(narrow).await.unwrap_err(), "the plugin may not read the column `label` of llx_ecm_files");
    let keyless = "tables = { llx_ecm_files = [\"entity\", \"filepath\", \"filename\", \"label\"] }";
    denied(scene.check(keyless).await.unwrap_err(), "the column `entity` cannot be the key");
    denied(scene.check("grants = [\"documents-digests\"]").await.map(drop).unwrap_err(), "which it is not granted");
    let alone = "tables = { llx_ecm_files = [\"rowid\", \"entity\", \"filepath\", \"filename\", \"label\"] }";
    let report = scene.check(alone).await.unwrap();
    assert_eq!(verdict(&report, "anti-fraud log"), CrosscheckVerdict::Skipped);
    assert!(report.passed() && report.heads.is_empty(), "{report:?}");
    scene.server.psql("erp", "DROP TABLE llx_ecm_files");
    let report = scene.check("").await.unwrap();
    assert_eq!(verdict(&report, "documents noted"), CrosscheckVerdict::Failed, "a missing table is a failure");
    let detail = &report.failed().next().unwrap().detail;
    assert_eq!(detail, "0 of 1 table named llx_ecm_files exists; check the setting `prefix`");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_installation_agrees_with_its_documents() {
    let Some(shared) = ::tests::shared().map(|shared| shared.join("dolibarr")) else { return };
    let Some(scene) = Scene::new() else { return };
    scene.server.restore("erp", &shared.join("dolibarr-23.dump"));
    std::fs::create_dir(scene.documents()).unwrap();
    let mut tar = std::process::Command::new("tar");
    tar.arg("-xzf").arg(shared.join("documents.tar.gz")).arg("-C").arg(scene.documents()).arg("--strip-components=1");
    assert!(tar.status().unwrap().success());
    let begun = Instant::now();
    let report = scene.check("").await.unwrap();
    println!("{:.0?}, {report:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(60));
    assert!(report.passed(), "{report:?}");
    assert_eq!((report.compared, report.missing.total, report.altered.total), (1_064, 0, 0));
    assert!(report.orphaned.total < 10, "files that Dolibarr unpacks are not orphans: {:?}", report.orphaned);
    assert_eq!(report.heads.len(), 1);
    let rows = scene.server.psql("erp", "SELECT count(*) || ' ' || max(rowid) FROM llx_blockedlog");
    let head = &report.heads[0];
    assert_eq!(format!("{} {}", head.entries, head.last), rows.trim());
}
