//! Kubernetes: a backup as a Job from anywhere, credentials out of a Secret, the volumes that no backup covers, the instances
//! of a fleet, and a lease where a cluster is at hand.
//!
//! What is asked of the API server is listed in docs/kubernetes.md, verb by verb. No Secret's value is logged or handed to
//! a plugin, and the one request that carries any creates the Secret of a Job, which the cluster removes with it.
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

/// `[kubernetes]` of the configuration: which cluster. Without it the one that `kubectl` would talk to, or in a pod its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// A kubeconfig; otherwise `$KUBECONFIG`, `~/.kube/config`, or the pod's service account.
    pub kubeconfig: Option<PathBuf>,
    /// One of its contexts; otherwise the current one.
    pub context: Option<String>,
    /// A namespace for leases, in which runs of one environment exclude each other besides the store's lease.
    pub lease_namespace: Option<Namespace>,
}
