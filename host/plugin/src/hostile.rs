//! Guests that misbehave, and what the host makes of them: every call ends within its limit, the error names the
//! plugin and whose fault it is, nothing of the guest's text reaches it as it was, and the store is as before.
//!
//! The guests are real components: those of `tests/guests`, built by `cargo xtask plugins`, and a few that no compiler
//! would make, written here as text.

mod answers;
mod canaries;
mod files;
mod limits;
mod wall;

use super::call::retaining;
use super::*;
use crate::capabilities::documents::{ArchiveTree, DigestTree, EvidenceTree};
use crate::capabilities::store::Prefix;
use ::tests::guests::{self, quoted};
use base::error::Class;
use base::id::SnapshotId;
use documents::{self, Digests, Tree};
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Mutex;
use std::time::Instant;
use store::{self, Store};
use tempfile::TempDir;

/// Those that need no cluster; the others are tried by the host, with a cluster.
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
    let config: Config = toml::from_str(&section(role, component, rest)).unwrap();
    Plugin::load(&Engine::new().unwrap(), &Plugins::with(role, config), role, None)
}

/// The guest of a role that misbehaves as `doing` says, the inside of a TOML table.
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
        let store = Arc::new(Store::open(&toml::from_str::<store::Config>(&url).unwrap()).await.unwrap());
        let config = documents::Config { path: folder.path().join("docs") };
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
                // What it looked for it says as a failure.
                plugin.of_tree(EvidenceTree(self.tree.clone())).await.result.map(|_| "clean".to_owned())
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

    /// No object, no temporary file, and nobody who still reads the documents.
    async fn assert_untouched(&self) {
        self.store.settle().await;
        let begun = Instant::now();
        while Arc::strong_count(&self.tree) > 1 || !files(&self.folder.path().join("store")).is_empty() {
            let left = files(&self.folder.path().join("store"));
            let held = Arc::strong_count(&self.tree) - 1;
            assert!(begun.elapsed() < Duration::from_secs(10), "{held} hold the documents, the store has {left:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Collects what is logged.
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
    /// Everything is logged here for as long as the guard lives.
    fn begin(&self) -> tracing::subscriber::DefaultGuard {
        let log = self.clone();
        let subscriber = tracing_subscriber::fmt().without_time().with_ansi(false).with_writer(move || log.clone());
        tracing::subscriber::set_default(subscriber.finish())
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

/// Every file below a folder with its bytes.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            // A temporary file may go between the two calls.
            found.insert(path.clone(), std::fs::read(&path).unwrap_or_default());
        }
    }
    found
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

/// One sentence of one line that says which plugin, whose fault and what; and nothing that could move a cursor.
fn assert_blamed(error: &Error, role: Role, class: Class, expected: &str) {
    assert_eq!(error.class(), class, "{error}");
    assert!(error.message().contains(expected), "`{error}` does not say `{expected}`");
    assert!(error.message().contains(&format!("the plugin `{}`", role.name())), "names no plugin: {error}");
    assert_presentable(error);
}

fn assert_presentable(error: &Error) {
    guests::assert_presentable(&[error.message(), error.advice().unwrap_or_default()]);
}
