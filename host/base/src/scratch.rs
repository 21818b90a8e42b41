//! Folders for what one command needs for a while: a fetched dump, restored documents.
//!
//! Each goes with its value. What a process left that was killed is told by a lock that nobody holds any more, and whoever
//! needs a folder at the same place next removes it.

use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// How a folder's name begins. No other temporary thing of this program is called so.
const PREFIX: &str = "dolibarr-backup-scratch-";

/// What its owner holds locked as long as it lives.
pub const LOCK: &str = "lock";

/// The same before it is locked; whoever sweeps looks at locks alone.
const LOCK_TO_BE: &str = "lock.new";

/// A folder of this process.
#[derive(Debug)]
pub struct Scratch {
    folder: TempDir,
    /// Held by the open file, and by nobody once this process is gone, however it went.
    _lock: File,
}

impl Scratch {
    /// Sweeps what others left in a folder, and makes one in there.
    ///
    /// # Errors
    /// When nothing can be made there.
    pub fn make(below: &Path) -> io::Result<Self> {
        sweep(below);
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(below)?;
        let (new, place) = (folder.path().join(LOCK_TO_BE), folder.path().join(LOCK));
        let lock = File::create_new(&new)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        std::fs::rename(new, place)?;
        Ok(Self { folder, _lock: lock })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Removes it.
    ///
    /// # Errors
    /// When something of it cannot be removed.
    pub fn close(self) -> io::Result<()> {
        self.folder.close()
    }
}

/// Removes the folders of processes that are gone. What belongs to somebody else, or is in use, is left alone.
pub fn sweep(below: &Path) {
    sweep_after(below, PREFIX, |_| ());
}

/// [`sweep`] for folders whose names begin otherwise; `end` first ends what still works in one.
pub fn sweep_after(below: &Path, prefix: &str, end: impl Fn(&Path)) {
    let Ok(entries) = std::fs::read_dir(below) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            sweep_one(&entry.path(), &end);
        }
    }
}

fn sweep_one(folder: &Path, end: impl Fn(&Path)) {
    let own =
        folder.symlink_metadata().is_ok_and(|meta| meta.is_dir() && meta.uid() == rustix::process::geteuid().as_raw());
    let Some(lock) = own.then(|| File::open(folder.join(LOCK)).ok()).flatten() else { return };
    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        return;
    }
    end(folder);
    match std::fs::remove_dir_all(folder) {
        Ok(()) => tracing::info!("removed {}, which an interrupted run left", folder.display()),
        Err(error) => tracing::warn!("{} cannot be removed: {}", folder.display(), error.kind()),
    }
}

/// Where a path leads, links followed, also one that is not there yet.
pub fn real(path: &Path) -> PathBuf {
    let mut there = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut rest = Vec::new();
    loop {
        if let Ok(real) = there.canonicalize() {
            return rest.iter().rev().fold(real, |path, name| path.join(name));
        }
        match there.file_name() {
            Some(name) => rest.push(name.to_owned()),
            None => return path.to_owned(),
        }
        there.pop();
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
    fn a_folder_in_use_is_left_alone_and_one_whose_owner_is_gone_is_removed_with_all_that_is_in_it() {
        let below = tempfile::tempdir().unwrap();
        let mut gone = Scratch::make(below.path()).unwrap();
        std::fs::create_dir(gone.path().join("restored")).unwrap();
        std::fs::write(gone.path().join("restored/invoice.pdf"), "x").unwrap();
        let used = Scratch::make(below.path()).unwrap();
        assert_eq!(names(below.path()).len(), 2, "a folder in use was swept");

        // As a SIGKILL leaves it: the lock is gone with the process, the folder is not.
        gone._lock = File::open("/dev/null").unwrap();
        let left = gone.folder.keep();
        std::fs::create_dir(below.path().join(format!("{PREFIX}without-lock"))).unwrap();
        std::os::unix::fs::symlink(used.path(), below.path().join(format!("{PREFIX}link"))).unwrap();
        std::fs::write(below.path().join("dolibarr-backup-notes"), "mine").unwrap();
        sweep(below.path());
        assert!(!left.exists() && used.path().exists());
        assert_eq!(names(below.path()).len(), 4, "something else was removed: {:?}", names(below.path()));
        used.close().unwrap();
        assert_eq!(names(below.path()).len(), 3);
    }

    #[test]
    fn where_nothing_can_be_made_the_reason_is_told() {
        let below = tempfile::tempdir().unwrap();
        assert_eq!(Scratch::make(&below.path().join("absent")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
