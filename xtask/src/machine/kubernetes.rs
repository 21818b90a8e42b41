//! Kubernetes for the tests: a control plane, and the programs that a node needs to run pods.

mod source;

use super::unpack;
use crate::cache;
use crate::run::timed;
use anyhow::Result;

/// The cache folder of the control plane, named after its version.
const CONTROL_PLANE: &str = "kubernetes-1.20";

/// The cache folder of a node's programs, of the same version.
const NODE: &str = "kubernetes-1.20-node";

/// The folder where both are built, one after the other. It is kept until both are complete, so that a run continues
/// where an interrupted one stopped.
const WORK: &str = "kubernetes-1.20.work";

/// Only one process builds at a time: it locks this folder.
const LOCK: &str = "kubernetes-1.20.lock";

/// Packages with the programs that run containers. They are not installed, because they contain services.
const RUNTIME: [&str; 4] = ["containerd", "runc", "containernetworking-plugins", "busybox-static"];

/// Provides a control plane for the tests: the one in `KUBEBUILDER_ASSETS`, else the one in the cache, which is
/// built once.
pub fn control_plane() -> Result<()> {
    if cache::variable("KUBEBUILDER_ASSETS").is_some() {
        return Ok(());
    }
    let doing = "building a Kubernetes control plane, once on this machine, about 3 minutes on 2 cores";
    build(CONTROL_PLANE, &["kube-apiserver", "kube-controller-manager"], doing)
}

/// Provides a kubelet, a scheduler and a container runtime.
pub fn node() -> Result<()> {
    let doing = "building a Kubernetes node, once on this machine, about a minute on 2 cores";
    build(NODE, &["kube-scheduler", "kubelet"], doing)?;
    unpack("containerd", &RUNTIME, "fetching containerd for the tests")
}

fn build(folder: &str, components: &[&str], doing: &str) -> Result<()> {
    let cache = cache::folder()?;
    let work = cache.join(WORK);
    // The node is built last. If a run was interrupted while it removed the work folder, this run removes the rest.
    let is_last = folder == NODE;
    if cache.join(folder).is_dir() && !(is_last && work.exists()) {
        return Ok(());
    }
    let _held = cache::lock(&cache.join(LOCK))?;
    cache::once(folder, |into| timed(doing, || source::build(&work, components, into)))?;
    if is_last {
        // About 2 GB that are no longer needed.
        source::remove(&work);
    }
    Ok(())
}
