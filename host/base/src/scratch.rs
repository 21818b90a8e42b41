//! Temporary folders of one command, for a fetched dump or restored documents.
//!
//! Dropping the value removes the folder. If a process is killed, its folder stays, but its lock is released. The next
//! command that creates a folder at the same place recognises it by the free lock and removes it.

use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Prefix of the folders' names. The program uses it for nothing else.
const PREFIX: &str = "dolibarr-backup-scratch-";

/// File that the owner keeps locked while it runs.
pub const LOCK: &str = "lock";

/// Name of the lock file before it is locked. A sweep only looks for [`LOCK`].
const LOCK_PENDING: &str = "lock.new";

/// A temporary folder of this process.
#[derive(Debug)]
pub struct Scratch {
    folder: TempDir,
    /// The lock belongs to the open file, so the kernel releases it however this process ends.
    _lock: File,
}

impl Scratch {
    /// Removes leftovers of other processes below `below`, then creates a new folder there.
    ///
    /// # Errors
    /// If nothing can be created there.
    pub fn make(below: &Path) -> io::Result<Self> {
        sweep(below);
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(below)?;
        let (pending, locked) = (folder.path().join(LOCK_PENDING), folder.path().join(LOCK));
        let lock = File::create_new(&pending)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        std::fs::rename(pending, locked)?;
        Ok(Self { folder, _lock: lock })
    }

    /// The folder's path.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Removes the folder.
    ///
    /// # Errors
    /// If part of it cannot be removed.
    pub fn close(self) -> io::Result<()> {
        self.folder.close()
    }
}

/// Removes folders of processes that have ended. Folders that are in use or belong to another user stay.
pub fn sweep(below: &Path) {
    sweep_after(below, PREFIX, |_| ());
}

/// [`sweep`] for folders with another prefix. `end` is called first, to stop what still runs in a folder.
pub fn sweep_after(below: &Path, prefix: &str, end: impl Fn(&Path)) {
    let Ok(entries) = std::fs::read_dir(below) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            sweep_one(&entry.path(), &end);
        }
    }
}

fn sweep_one(folder: &Path, end: impl Fn(&Path)) {
    let is_own =
        folder.symlink_metadata().is_ok_and(|meta| meta.is_dir() && meta.uid() == rustix::process::geteuid().as_raw());
    let Some(lock) = is_own.then(|| File::open(folder.join(LOCK)).ok()).flatten() else { return };
    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        return;
    }
    end(folder);
    match std::fs::remove_dir_all(folder) {
        Ok(()) => tracing::info!("removed {}, which an interrupted run left behind", folder.display()),
        Err(error) => tracing::warn!("could not remove {}: {}", folder.display(), error.kind()),
    }
}

/// Resolves symbolic links in a path that need not exist yet.
pub fn resolve_links(path: &Path) -> PathBuf {
    let mut existing = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut rest = Vec::new();
    loop {
        if let Ok(real) = existing.canonicalize() {
            return rest.iter().rev().fold(real, |path, name| path.join(name));
        }
        match existing.file_name() {
            Some(name) => rest.push(name.to_owned()),
            None => return path.to_owned(),
        }
        existing.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(below: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(below).unwrap().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_sweep_removes_abandoned_folders_and_keeps_folders_in_use() {
        let below = tempfile::tempdir().unwrap();
        let mut gone = Scratch::make(below.path()).unwrap();
        std::fs::create_dir(gone.path().join("restored")).unwrap();
        std::fs::write(gone.path().join("restored/invoice.pdf"), "x").unwrap();
        let used = Scratch::make(below.path()).unwrap();
        assert_eq!(names(below.path()).len(), 2, "a folder in use was swept");

        // Same state as after SIGKILL: the lock was released with the process, the folder is still there.
        gone._lock = File::open("/dev/null").unwrap();
        let leftover = gone.folder.keep();
        std::fs::create_dir(below.path().join(format!("{PREFIX}without-lock"))).unwrap();
        std::os::unix::fs::symlink(used.path(), below.path().join(format!("{PREFIX}link"))).unwrap();
        std::fs::write(below.path().join("dolibarr-backup-notes"), "mine").unwrap();
        sweep(below.path());
        assert!(!leftover.exists() && used.path().exists());
        assert_eq!(names(below.path()).len(), 4, "something else was removed: {:?}", names(below.path()));
        used.close().unwrap();
        assert_eq!(names(below.path()).len(), 3);
    }

    #[test]
    fn a_folder_that_cannot_be_created_reports_the_reason() {
        let below = tempfile::tempdir().unwrap();
        assert_eq!(Scratch::make(&below.path().join("absent")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
