//! The control groups below which the kubelet creates those of its pods. Each process has its own in every hierarchy,
//! so that no other kubelet on the machine takes them for orphans.

use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Prefix of every group's name. The id of the creating process follows.
const NAME: &str = "dolibarr-backup-node-";

/// A killed process leaves its group only when the kernel has removed it.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(5);

/// The controllers that the kubelet requires.
const CONTROLLERS: [&str; 3] = ["cpu", "cpuset", "memory"];

/// Control groups, removed on drop.
#[derive(Debug)]
pub(super) struct Cgroups {
    name: String,
    folders: Vec<PathBuf>,
}

/// Checks that control groups can be created. The error is the reason for skipping the test.
pub(super) fn possible() -> Result<(), String> {
    let hierarchies = hierarchies();
    // Version 2 has every controller in one hierarchy. Next to version 1 hierarchies it has none, but is still used.
    let unified = hierarchies.iter().all(|(kind, _, _)| kind == "cgroup2");
    let has = |name: &&str| hierarchies.iter().any(|(_, _, options)| options.split(',').any(|option| option == *name));
    let missing = CONTROLLERS.iter().find(|name| !unified && !has(name));
    let denied =
        hierarchies.iter().find(|(_, folder, _)| rustix::fs::access(folder, rustix::fs::Access::WRITE_OK).is_err());
    match (hierarchies.is_empty(), missing, denied) {
        (true, ..) => Err("a Kubernetes node needs control groups, but none are mounted".to_owned()),
        (_, Some(missing), _) => Err(format!("a Kubernetes node needs the control groups for {missing}")),
        (.., Some((_, folder, _))) => {
            Err(format!("a Kubernetes node creates control groups, but {} is not writable", folder.display()))
        }
        (false, None, None) => Ok(()),
    }
}

/// Kind, folder and options of every mounted hierarchy that the kubelet uses.
fn hierarchies() -> Vec<(String, PathBuf, String)> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let parse = |line: &str| {
        let mut words = line.split(' ').skip(1);
        let (folder, kind, options) = (words.next()?, words.next()?, words.next()?);
        kind.starts_with("cgroup").then(|| (kind.to_owned(), PathBuf::from(folder), options.to_owned()))
    };
    mounts.lines().filter_map(parse).collect()
}

impl Cgroups {
    /// Creates the groups, and removes those of processes that were killed.
    pub(super) fn create() -> Result<Self> {
        let name = format!("{NAME}{}", std::process::id());
        let mut made = Self { name, folders: Vec::new() };
        for (_, hierarchy, _) in hierarchies() {
            remove_left_behind(&hierarchy);
            let folder = hierarchy.join(&made.name);
            fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
            made.folders.push(folder);
        }
        Ok(made)
    }

    /// Their name below each hierarchy.
    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        let start = Instant::now();
        while !self.folders.iter().all(|folder| remove(folder)) && start.elapsed() < REMOVAL_TIMEOUT {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn remove_left_behind(hierarchy: &Path) {
    for entry in fs::read_dir(hierarchy).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.strip_prefix(NAME));
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            remove(&entry.path());
        }
    }
}

/// Removes a group and its subgroups as far as they are empty. The files in them belong to the kernel.
fn remove(folder: &Path) -> bool {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    fs::remove_dir(folder).is_ok() || !folder.exists()
}
