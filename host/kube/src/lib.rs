//! Kubernetes: running a backup as a Job, reading credentials from a Secret, finding volumes without a backup, listing
//! the instances of a fleet, and holding a Lease.
//!
//! docs/kubernetes.md lists every request to the API server, by verb. The values of Secrets are never logged or given
//! to a plugin. The only request that contains them creates a Job's Secret, which the cluster removes with the Job.
#![warn(missing_docs)]

mod client;
pub mod fleet;
pub mod follow;
pub mod job;
pub mod lease;
pub mod secret;
pub mod template;
#[cfg(test)]
mod tests;
pub mod volumes;

pub use base::reference::{Namespace, Reference};
pub use client::Cluster;

use serde::Deserialize;
use std::path::PathBuf;

/// `[kubernetes]` of the configuration: which cluster to use. Default: the one that `kubectl` would use, or in a pod
/// its own cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterConfig {
    /// A kubeconfig file. Default: `$KUBECONFIG`, `~/.kube/config`, or the pod's service account.
    pub kubeconfig: Option<PathBuf>,
    /// A context in the kubeconfig. Default: the current context.
    pub context: Option<String>,
    /// A namespace for Leases. Runs of an environment then exclude each other in the cluster, in addition to the lease
    /// in the store.
    pub lease_namespace: Option<Namespace>,
}
