//! What is known of the volumes of a cluster and of what backs them up: lists, read-only, a few fields of each.

mod read;

use super::client::Kind;
use super::{Cluster, Namespace};
use base::error::Result;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;
use tokio::sync::OnceCell;

const CLAIMS: Kind = Kind::new("", "v1", "persistentvolumeclaims");
const VOLUMES: Kind = Kind::new("", "v1", "persistentvolumes");

/// Longhorn's group; the second version is that of Longhorn before 1.3.
const LONGHORN: &str = "longhorn.io";
const LONGHORN_VERSIONS: [&str; 2] = ["v1beta2", "v1beta1"];
const SNAPSHOTS: [Kind; 2] = [
    Kind::new("snapshot.storage.k8s.io", "v1", "volumesnapshots"),
    Kind::new("snapshot.storage.k8s.io", "v1beta1", "volumesnapshots"),
];

/// `[coverage]` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Namespaces whose claims are looked at; all of them unless said.
    #[serde(default)]
    pub namespaces: Vec<Namespace>,
    /// Where Longhorn is.
    #[serde(default = "longhorn_default")]
    pub longhorn_namespace: Namespace,
}

fn longhorn_default() -> Namespace {
    Namespace::literal("longhorn-system")
}

/// A PersistentVolumeClaim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Such as `Bound`.
    pub phase: String,
    /// Its class.
    pub storage_class: String,
    /// Its PersistentVolume; empty where it is not bound.
    pub volume: String,
    /// How much it holds.
    pub bytes: u64,
}

/// A PersistentVolume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Of its CSI driver.
    pub driver: String,
    /// The driver's own name of it.
    pub handle: String,
}

/// A Volume of Longhorn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LonghornVolume {
    /// Its name.
    pub name: String,
    /// Groups of recurring jobs.
    pub groups: Vec<String>,
    /// Recurring jobs that it names itself.
    pub jobs: Vec<String>,
    /// When it was last backed up, by its own account.
    pub last_backup: Option<Timestamp>,
}

/// A RecurringJob of Longhorn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecurringJob {
    /// Its name.
    pub name: String,
    /// Such as `backup`.
    pub task: String,
    /// When it runs.
    pub cron: String,
    /// Groups that it serves.
    pub groups: Vec<String>,
}

/// A Backup of Longhorn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// Its volume of Longhorn.
    pub volume: String,
    /// Such as `Completed`.
    pub state: String,
    /// When it was made.
    pub created: Option<Timestamp>,
}

/// A VolumeSnapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its claim.
    pub claim: String,
    /// Whether it can be used.
    pub ready: bool,
    /// When it was taken.
    pub created: Option<Timestamp>,
}

/// The volumes that one judgement may look at. Every copy is the same one, and each list is asked for once: whoever judges
/// sees one state of it, and a plugin that asks for ever asks nobody.
#[derive(Debug, Clone)]
pub struct Volumes {
    cluster: Cluster,
    config: Config,
    lists: Arc<Lists>,
}

/// A list that is asked for at most once, whatever comes of it.
type Once<T> = OnceCell<Result<T>>;

#[derive(Debug, Default)]
struct Lists {
    claims: Once<Vec<Claim>>,
    volumes: Once<Vec<Volume>>,
    longhorn: Once<Option<Vec<LonghornVolume>>>,
    jobs: Once<Option<Vec<RecurringJob>>>,
    backups: Once<Option<Vec<Backup>>>,
    snapshots: Once<Option<Vec<Snapshot>>>,
}

impl Volumes {
    /// What the configuration names of a cluster. Asks nobody yet.
    #[must_use]
    pub fn new(cluster: Cluster, config: Config) -> Self {
        Self { cluster, config, lists: Arc::default() }
    }

    /// For the tally: where the claims are.
    #[must_use]
    pub fn scope(&self) -> String {
        scope(&self.config)
    }

    /// Claims of the namespaces, sorted.
    ///
    /// # Errors
    /// The cluster's.
    pub async fn claims(&self) -> Result<Vec<Claim>> {
        let ask = async || {
            let found = self.of_namespaces(CLAIMS).await?.unwrap_or_default();
            let mut found: Vec<Claim> = found.iter().map(Claim::from).collect();
            found.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
            Ok(found)
        };
        self.lists.claims.get_or_init(ask).await.clone()
    }

    /// Every PersistentVolume.
    ///
    /// # Errors
    /// The cluster's.
    pub async fn volumes(&self) -> Result<Vec<Volume>> {
        let ask = async || {
            let found = self.cluster.list(VOLUMES, None, None, None).await?.unwrap_or_default();
            Ok(found.iter().map(Volume::from).collect())
        };
        self.lists.volumes.get_or_init(ask).await.clone()
    }

    /// Volumes of Longhorn; none where it is not installed.
    ///
    /// # Errors
    /// The cluster's.
    pub async fn longhorn_volumes(&self) -> Result<Option<Vec<LonghornVolume>>> {
        self.lists.longhorn.get_or_init(|| self.of_longhorn("volumes")).await.clone()
    }

    /// Recurring jobs of Longhorn; none where it is not installed.
    ///
    /// # Errors
    /// The cluster's.
    pub async fn recurring_jobs(&self) -> Result<Option<Vec<RecurringJob>>> {
        self.lists.jobs.get_or_init(|| self.of_longhorn("recurringjobs")).await.clone()
    }

    /// Backups of Longhorn; none where it is not installed.
    ///
    /// # Errors
    /// The cluster's.
    pub async fn backups(&self) -> Result<Option<Vec<Backup>>> {
        self.lists.backups.get_or_init(|| self.of_longhorn("backups")).await.clone()
    }

    /// VolumeSnapshots of the namespaces; none where the cluster does not know them.
    ///
    /// # Errors
    /// The cluster's.
    pub async fn snapshots(&self) -> Result<Option<Vec<Snapshot>>> {
        let ask = async || {
            for kind in SNAPSHOTS {
                if let Some(found) = self.of_namespaces(kind).await? {
                    return Ok(Some(found.iter().map(Snapshot::from).collect()));
                }
            }
            Ok(None)
        };
        self.lists.snapshots.get_or_init(ask).await.clone()
    }

    async fn of_longhorn<T: for<'a> From<&'a Value>>(&self, plural: &'static str) -> Result<Option<Vec<T>>> {
        for version in LONGHORN_VERSIONS {
            let kind = Kind::new(LONGHORN, version, plural);
            let namespace = Some(self.config.longhorn_namespace.as_str());
            if let Some(found) = self.cluster.list(kind, namespace, None, None).await? {
                return Ok(Some(found.iter().map(T::from).collect()));
            }
        }
        Ok(None)
    }

    async fn of_namespaces(&self, kind: Kind) -> Result<Option<Vec<Value>>> {
        if self.config.namespaces.is_empty() {
            return self.cluster.list(kind, None, None, None).await;
        }
        let mut all = None;
        for namespace in &self.config.namespaces {
            if let Some(found) = self.cluster.list(kind, Some(namespace.as_str()), None, None).await? {
                all.get_or_insert_with(Vec::new).extend(found);
            }
        }
        Ok(all)
    }
}

/// For people: where claims are looked at.
#[must_use]
pub fn scope(config: &Config) -> String {
    if config.namespaces.is_empty() {
        return "every namespace".to_owned();
    }
    config.namespaces.iter().map(Namespace::as_str).collect::<Vec<_>>().join(", ")
}
