//! The volumes of a cluster and the objects that back them up: read-only lists with a few fields of each object.

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

/// Longhorn's API group. The second version is for Longhorn before 1.3.
const LONGHORN: &str = "longhorn.io";
const LONGHORN_VERSIONS: [&str; 2] = ["v1beta2", "v1beta1"];
const SNAPSHOTS: [Kind; 2] = [
    Kind::new("snapshot.storage.k8s.io", "v1", "volumesnapshots"),
    Kind::new("snapshot.storage.k8s.io", "v1beta1", "volumesnapshots"),
];

/// `[coverage]` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CoverageConfig {
    /// Namespaces whose claims are checked. Default: all.
    #[serde(default)]
    pub namespaces: Vec<Namespace>,
    /// Longhorn's namespace.
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
    /// Its phase, such as `Bound`.
    pub phase: String,
    /// Its storage class.
    pub storage_class: String,
    /// Its PersistentVolume; empty if it is not bound.
    pub volume: String,
    /// Its capacity.
    pub bytes: u64,
}

/// A PersistentVolume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// The name of its CSI driver.
    pub driver: String,
    /// The driver's handle of the volume.
    pub handle: String,
}

/// A Longhorn Volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LonghornVolume {
    /// Its name.
    pub name: String,
    /// Groups of recurring jobs that it belongs to.
    pub groups: Vec<String>,
    /// Recurring jobs that it is assigned to directly.
    pub jobs: Vec<String>,
    /// When it was last backed up, according to its status.
    pub last_backup: Option<Timestamp>,
}

/// A Longhorn RecurringJob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecurringJob {
    /// Its name.
    pub name: String,
    /// Its task, such as `backup`.
    pub task: String,
    /// Its schedule, as a cron expression.
    pub cron: String,
    /// Groups that it serves.
    pub groups: Vec<String>,
}

/// A Longhorn Backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// Its Longhorn volume.
    pub volume: String,
    /// Its state, such as `Completed`.
    pub state: String,
    /// When it was made.
    pub created: Option<Timestamp>,
}

/// A VolumeSnapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeSnapshot {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its claim.
    pub claim: String,
    /// Whether it is ready to use.
    pub ready: bool,
    /// When it was taken.
    pub created: Option<Timestamp>,
}

/// The volumes for one coverage check. Clones share the lists, and each list is requested once, so that the check sees
/// one state of it and a plugin that asks repeatedly causes no further requests.
#[derive(Debug, Clone)]
pub struct Volumes {
    cluster: Cluster,
    config: CoverageConfig,
    lists: Arc<Lists>,
}

/// A list that is requested at most once, even if the request fails.
type Once<T> = OnceCell<Result<T>>;

#[derive(Debug, Default)]
struct Lists {
    claims: Once<Vec<Claim>>,
    volumes: Once<Vec<Volume>>,
    longhorn: Once<Option<Vec<LonghornVolume>>>,
    jobs: Once<Option<Vec<RecurringJob>>>,
    backups: Once<Option<Vec<Backup>>>,
    snapshots: Once<Option<Vec<VolumeSnapshot>>>,
}

impl Volumes {
    /// The volumes in the configured namespaces. Sends no request yet.
    pub fn new(cluster: Cluster, config: CoverageConfig) -> Self {
        Self { cluster, config, lists: Arc::default() }
    }

    /// The namespaces whose claims are checked, for messages.
    pub fn scope(&self) -> String {
        scope(&self.config)
    }

    /// Claims in the configured namespaces, sorted.
    pub async fn claims(&self) -> Result<Vec<Claim>> {
        let request = async || {
            let found = self.list_in_namespaces(CLAIMS).await?.unwrap_or_default();
            let mut found: Vec<Claim> = found.iter().map(Claim::from).collect();
            found.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
            Ok(found)
        };
        self.lists.claims.get_or_init(request).await.clone()
    }

    /// Every PersistentVolume.
    pub async fn volumes(&self) -> Result<Vec<Volume>> {
        let request = async || {
            let found = self.cluster.list(VOLUMES, None, None, None).await?.unwrap_or_default();
            Ok(found.iter().map(Volume::from).collect())
        };
        self.lists.volumes.get_or_init(request).await.clone()
    }

    /// Longhorn's volumes; `None` if Longhorn is not installed.
    pub async fn longhorn_volumes(&self) -> Result<Option<Vec<LonghornVolume>>> {
        self.lists.longhorn.get_or_init(|| self.list_longhorn("volumes")).await.clone()
    }

    /// Longhorn's recurring jobs; `None` if Longhorn is not installed.
    pub async fn recurring_jobs(&self) -> Result<Option<Vec<RecurringJob>>> {
        self.lists.jobs.get_or_init(|| self.list_longhorn("recurringjobs")).await.clone()
    }

    /// Longhorn's backups; `None` if Longhorn is not installed.
    pub async fn backups(&self) -> Result<Option<Vec<Backup>>> {
        self.lists.backups.get_or_init(|| self.list_longhorn("backups")).await.clone()
    }

    /// VolumeSnapshots in the configured namespaces; `None` if the cluster does not have the resource.
    pub async fn snapshots(&self) -> Result<Option<Vec<VolumeSnapshot>>> {
        let request = async || {
            for kind in SNAPSHOTS {
                if let Some(found) = self.list_in_namespaces(kind).await? {
                    return Ok(Some(found.iter().map(VolumeSnapshot::from).collect()));
                }
            }
            Ok(None)
        };
        self.lists.snapshots.get_or_init(request).await.clone()
    }

    async fn list_longhorn<T: for<'a> From<&'a Value>>(&self, plural: &'static str) -> Result<Option<Vec<T>>> {
        for version in LONGHORN_VERSIONS {
            let kind = Kind::new(LONGHORN, version, plural);
            let namespace = Some(self.config.longhorn_namespace.as_str());
            if let Some(found) = self.cluster.list(kind, namespace, None, None).await? {
                return Ok(Some(found.iter().map(T::from).collect()));
            }
        }
        Ok(None)
    }

    async fn list_in_namespaces(&self, kind: Kind) -> Result<Option<Vec<Value>>> {
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

/// The namespaces whose claims are checked, for messages.
pub fn scope(config: &CoverageConfig) -> String {
    if config.namespaces.is_empty() {
        return "every namespace".to_owned();
    }
    config.namespaces.iter().map(Namespace::as_str).collect::<Vec<_>>().join(", ")
}
