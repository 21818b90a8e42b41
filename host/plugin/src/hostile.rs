//! Tests with misbehaving guests. Every call ends within its limit, the error names the plugin and who is at fault, the
//! guest's text is sanitised before it appears in the error, and the store is unchanged.
//!
//! The guests are real components: those of `tests/guests`, built by `cargo xtask plugins`, and a few that no compiler
//! would produce, written here as text.

mod answers;
mod canaries;
mod files;
mod limits;
mod wall;

use super::call::retaining;
use super::*;
use crate::capabilities::documents::{ArchiveTree, DigestTree, EvidenceTree};
use crate::capabilities::store::Prefix;
use ::tests::guests::{self, files, quoted};
use base::error::Class;
use base::id::SnapshotId;
use documents::{self, Digests, Tree};
use futures::FutureExt;
use jiff::{SignedDuration, Timestamp};
use std::io::Write;
use std::sync::Mutex;
use std::time::Instant;
use store::{self, Store};
use tempfile::TempDir;

/// The roles that need no cluster. The host's tests cover the others.
const ROLES: [Role; 4] = [Role::Fingerprint, Role::Dump, Role::Retention, Role::Crosscheck];

fn guest(role: Role) -> PathBuf {
    guests::component(role.name())
}

/// The section of the configuration for a guest with every grant of its role. `rest` holds further lines.
fn section(role: Role, component: &Path, rest: &str) -> String {
    let grants: Vec<String> = Plugins::default().of(role).grants.iter().map(|grant| grant.to_string()).collect();
    guests::section(component, &grants, rest)
}

fn load_file(role: Role, component: &Path, rest: &str) -> Result<Plugin> {
    let config: PluginConfig = toml::from_str(&section(role, component, rest)).unwrap();
    Plugin::load(&Engine::new().unwrap(), &Plugins::with(role, config), role, None)
        .now_or_never()
        .expect("a file needs no network")
}

/// The guest of a role that misbehaves as `doing` describes, which is the content of a TOML table.
fn load(role: Role, doing: &str, limits: &str) -> Plugin {
    let settings = match role {
        Role::Dump => format!("dump = {{ {doing} }}"),
        Role::Fingerprint | Role::Retention | Role::Crosscheck | Role::Job | Role::Coverage => doing.to_owned(),
    };
    load_file(role, &guest(role), &format!("settings = {{ {settings} }}\nlimits = {{ {limits} }}")).unwrap()
}

/// A documents folder and a store.
struct Place {
    folder: TempDir,
    store: Arc<Store>,
    tree: Arc<Tree>,
}

impl Place {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("docs")).unwrap();
        std::fs::write(folder.path().join("docs/FA2601-0001.pdf"), "%PDF-1.4 ".repeat(10_000)).unwrap();
        let url = format!("url = \"file://{}/store\"", folder.path().display());
        let store = Arc::new(Store::open(&toml::from_str::<store::StoreConfig>(&url).unwrap()).await.unwrap());
        let config = documents::FolderConfig { path: folder.path().join("docs") };
        let tree = Tree::open(&config, "prod/docs".to_owned()).unwrap();
        Self { folder, store, tree }
    }

    fn prefix(&self) -> Prefix {
        Prefix::new(self.store.clone(), "prod/docs".to_owned(), stamp(), store::Fencing::none())
    }

    /// Calls the plugin as a run does.
    async fn call(&self, plugin: &Plugin) -> Result<String> {
        match plugin.role() {
            Role::Fingerprint => {
                // The guest reports what it found as a failure.
                plugin.measure_tree(EvidenceTree(self.tree.clone())).await.result.map(|_| "clean".to_owned())
            }
            Role::Dump => {
                let stamp = stamp().to_string();
                let called = plugin.dump_tree(&stamp, ArchiveTree(self.tree.clone()), self.prefix());
                called.await.result.map(|receipt| receipt.key)
            }
            Role::Job | Role::Coverage => panic!("these need a cluster"),
            Role::Retention => {
                let snapshots = snapshots(3);
                let called = plugin.plan_retention(now(), "Europe/Paris", &snapshots);
                called.await.result.map(|plan| plan.decisions.len().to_string())
            }
            Role::Crosscheck => {
                let documents = DigestTree(Arc::new(Digests::new(self.tree.clone(), &[]).unwrap()));
                let checks = plugin.checks().await.result?;
                let called = plugin.crosscheck(Vec::new(), documents).await;
                let name = |check: u32| checks.get(check as usize).unwrap().name.as_str();
                called.result.map(|report| report.findings.iter().map(|finding| name(finding.check)).collect())
            }
        }
    }

    /// Asserts that there is no object, no temporary file, and no reader of the documents left.
    async fn assert_untouched(&self) {
        self.store.settle().await;
        let begun = Instant::now();
        while Arc::strong_count(&self.tree) > 1 || !files(&self.folder.path().join("store")).is_empty() {
            let left = files(&self.folder.path().join("store"));
            let held = Arc::strong_count(&self.tree) - 1;
            assert!(
                begun.elapsed() < Duration::from_secs(10),
                "{held} readers hold the documents, and the store contains {left:?}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Collects log output.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Captures all log output while the guard lives.
    fn begin(&self) -> tracing::subscriber::DefaultGuard {
        let log = self.clone();
        let subscriber = tracing_subscriber::fmt().without_time().with_ansi(false).with_writer(move || log.clone());
        tracing::subscriber::set_default(subscriber.finish())
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

fn now() -> Timestamp {
    "2026-06-30T12:00:00Z".parse().unwrap()
}

fn stamp() -> SnapshotId {
    SnapshotId::at(now())
}

fn snapshots(days: i64) -> Vec<retaining::Snapshot> {
    let daily = |ago| now() - SignedDuration::from_hours(24 * ago + 1);
    (0..days)
        .rev()
        .map(|ago| retaining::Snapshot {
            id: SnapshotId::at(daily(ago)).to_string(),
            taken: daily(ago).as_second(),
            complete: true,
            bytes: 1_000,
            pinned: false,
            verified: false,
            adopted: false,
        })
        .collect()
}

/// Asserts that the message is one line that names the plugin, who is at fault and the problem, without control
/// characters.
fn assert_blamed(error: &Error, role: Role, class: Class, expected: &str) {
    assert_eq!(error.class(), class, "{error}");
    assert!(error.message().contains(expected), "`{error}` does not contain `{expected}`");
    assert!(error.message().contains(&format!("the plugin `{}`", role.name())), "does not name the plugin: {error}");
    assert_presentable(error);
}

fn assert_presentable(error: &Error) {
    guests::assert_presentable(&[error.message(), error.advice().unwrap_or_default()]);
}
