//! Kubernetes: a backup as a Job from anywhere, credentials out of a Secret, the volumes that no backup covers, the instances
//! of a fleet, and a lease where a cluster is at hand.
//!
//! What is asked of the API server is listed in docs/kubernetes.md, verb by verb. No Secret's value is logged or handed to
//! a plugin, and the one request that carries any creates the Secret of a Job, which the cluster removes with it.

mod client;
pub mod fleet;
pub mod follow;
pub mod host;
pub mod job;
pub mod lease;
pub mod secret;
pub mod template;
#[cfg(test)]
mod tests;
pub mod volumes;

pub use client::Cluster;

use crate::capability::printable;
use serde::Deserialize;
use std::fmt;
use std::path::PathBuf;

/// Longest name of an object, and of a namespace.
const NAME_BYTES_MAX: usize = 253;

/// Longest name of a namespace, and of what becomes part of a host's name or a label.
const LABEL_BYTES_MAX: usize = 63;

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

/// A namespace's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Namespace(String);

impl Namespace {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Namespace {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if is_label(&text) { Ok(Self(text)) } else { Err(format!("`{}` cannot name a namespace", printable(&text))) }
    }
}

/// An object in a namespace: `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Reference {
    /// Where it is.
    pub namespace: Namespace,
    /// What it is called.
    pub name: String,
}

impl TryFrom<String> for Reference {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || format!("`{}` is not `namespace/name`", printable(&text));
        let (namespace, name) = text.split_once('/').ok_or_else(wrong)?;
        if !is_name(name) {
            return Err(wrong());
        }
        Ok(Self { namespace: namespace.to_owned().try_into().map_err(|_| wrong())?, name: name.to_owned() })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Whether a text is a label of a host's name, as namespaces and volumes have it.
fn is_label(text: &str) -> bool {
    text.len() <= LABEL_BYTES_MAX && !text.contains('.') && is_name(text)
}

/// Whether a text can name an object.
fn is_name(text: &str) -> bool {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    text.len() <= NAME_BYTES_MAX && edge(text.bytes().next()) && edge(text.bytes().last()) && text.bytes().all(inner)
}
