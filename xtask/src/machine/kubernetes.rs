//! Kubernetes for the tests: a control plane, and what a node needs to run pods.

use super::{root, unpack};
use crate::cache;
use crate::run::{failure, quiet, timed};
use anyhow::Result;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The control plane, by the version that its folder is named after.
const CONTROL_PLANE: &str = "kubernetes-1.20";

/// What a node needs of the same version.
const NODE: &str = "kubernetes-1.20-node";

/// Where both are built, one after the other; the number of this process follows.
const WORK: &str = "kubernetes-1.20.work";

/// Builds them from the distribution's sources, where it lies beside the checkout.
const RECIPE: &str = "../shared/tools/kube-assets-from-debian.sh";

/// What runs containers: the packages bring services, and so are not installed.
const RUNTIME: [&str; 4] = ["containerd", "runc", "containernetworking-plugins", "busybox-static"];

/// A control plane for the tests: the one that `KUBEBUILDER_ASSETS` names, else the cache's, which is filled where there is
/// a recipe.
///
/// # Errors
/// When there is none.
pub fn control_plane() -> Result<()> {
    if cache::variable("KUBEBUILDER_ASSETS").is_some() {
        return Ok(());
    }
    let hint = "set KUBEBUILDER_ASSETS to a folder with etcd, kube-apiserver, kube-controller-manager and kubectl";
    let doing = "building a Kubernetes control plane, once on this machine, about 6 minutes on 2 cores";
    build(CONTROL_PLANE, "kube-apiserver kube-controller-manager kubectl", doing, hint)
}

/// A kubelet and a scheduler, and what runs containers.
///
/// # Errors
/// When there are none.
pub fn node() -> Result<()> {
    let doing = "building a Kubernetes node, once on this machine, about 5 minutes on 2 cores";
    let built =
        build(NODE, "kube-scheduler kubelet", doing, "the tests of pods that really run are skipped without one");
    // Some 2 GB, of which nothing is needed any more.
    let _ = std::fs::remove_dir_all(work_folder()?);
    built?;
    unpack("containerd", &RUNTIME, "fetching containerd for the tests")
}

fn build(folder: &str, components: &str, doing: &str, hint: &str) -> Result<()> {
    let work = work_folder()?;
    let recipe = root().join(RECIPE);
    let make = |folder: &Path| {
        if !recipe.is_file() {
            return Err(failure("there is no recipe for Kubernetes beside the checkout", hint));
        }
        let mut build = Command::new(&recipe);
        build.arg(folder).env("KUBE_COMPONENTS", components).env("KUBE_WORK", &work).env("KEEP_WORK", "1");
        timed(doing, || quiet(&mut build, hint).map(drop))
    };
    cache::once(folder, make).map(drop)
}

fn work_folder() -> Result<PathBuf> {
    Ok(cache::folder()?.join(format!("{WORK}-{}", std::process::id())))
}
