//! The cache folder, kept between runs: components by their digest, and compiled components.
//!
//! The cache is optional: if the folder is missing, full or not trusted, a run takes longer but does not fail. A
//! component is hashed again whenever it is read, so it may come from anywhere. A compiled component is native code of
//! this process, and no hash in the same folder can vouch for it: [`compiled`] loads it only if the folder and the file
//! belong to the running user or root and nobody else may write to them.

pub mod compiled;

use rustix::fs::{FileType, Mode, OFlags};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Once;

/// The cache folder of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// A cache in a folder. The folder is created when something is stored.
    pub const fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The bytes with this sha256, given as hexadecimal digits. `None` if they are not cached or do not match the
    /// digest.
    pub fn find(&self, digest: &str, bytes_max: u64) -> Option<Vec<u8>> {
        let folder = Folder::open(&self.components()).ok()?;
        let bytes = folder.read(digest, bytes_max, |_| Ok(())).ok()??;
        if hex::encode(Sha256::digest(&bytes)) == digest {
            return Some(bytes);
        }
        let file = self.components().join(digest);
        tracing::warn!(file = %file.display(), "a cached component is damaged; fetching it again");
        None
    }

    /// Stores bytes under the digits of their sha256. A failure is logged once.
    pub fn keep(&self, digest: &str, bytes: &[u8]) {
        if let Err(why) = Folder::make(&self.components()).and_then(|folder| folder.write(digest, &[bytes])) {
            self.warn_unused(&why, Delay::Seconds);
        }
    }

    fn components(&self) -> PathBuf {
        self.folder.join("sha256")
    }

    fn compiled(&self) -> PathBuf {
        self.folder.join("compiled")
    }

    /// Warns once per process, because several plugins share the folder and its problem. A container with a read-only
    /// root has no such folder by design, so a delay that nobody notices is logged only for debugging.
    fn warn_unused(&self, why: &str, delay: Delay) {
        static WARNED: Once = Once::new();
        if delay == Delay::Unnoticed {
            tracing::debug!(folder = %self.folder.display(), "the component cache is not used: {why}");
            return;
        }
        WARNED.call_once(|| {
            tracing::warn!(
                folder = %self.folder.display(),
                "the component cache is not used, so every start takes longer: {why}; \
                 set cache = \"…\" in [plugins] to a folder of the running user"
            );
        });
    }
}

/// How much longer a start takes without the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Delay {
    /// A fraction of a second.
    Unnoticed,
    Seconds,
}

/// An open folder: its path may come to name another folder, but the open one stays the same.
struct Folder {
    path: PathBuf,
    open: OwnedFd,
}

/// Who owns a file or folder, and who may write to it.
#[derive(Debug, Clone, Copy)]
struct Ownership {
    owner: u32,
    mode: u32,
}

impl Ownership {
    /// Refuses a file or folder that another user could have written.
    fn check_trusted(self, running: u32) -> Result<(), String> {
        if self.owner != running && self.owner != 0 {
            return Err(format!("it belongs to the user {}", self.owner));
        }
        if self.mode & 0o022 != 0 {
            return Err(format!("others may write to it (mode {:o})", self.mode & 0o7777));
        }
        Ok(())
    }
}

impl Folder {
    fn make(path: &Path) -> Result<Self, String> {
        use std::os::unix::fs::DirBuilderExt;
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(path).map_err(|e| format!("{}: {e}", path.display()))?;
        Self::open(path)
    }

    fn open(path: &Path) -> Result<Self, String> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(Self { path: path.to_owned(), open })
    }

    fn ownership(&self) -> Result<Ownership, String> {
        let stat = rustix::fs::fstat(&self.open).map_err(|e| e.to_string())?;
        Ok(Ownership { owner: stat.st_uid, mode: stat.st_mode })
    }

    /// The bytes of a regular file, if it exists and `accept` accepts its owner and mode.
    fn read(
        &self,
        name: &str,
        bytes_max: u64,
        accept: impl FnOnce(Ownership) -> Result<(), String>,
    ) -> Result<Option<Vec<u8>>, String> {
        let Some((file, length)) = self.file(name, bytes_max, accept)? else { return Ok(None) };
        let in_file = |e: &dyn std::fmt::Display| format!("{}: {e}", self.path.join(name).display());
        let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
        file.take(length).read_to_end(&mut bytes).map_err(|e| in_file(&e))?;
        Ok(Some(bytes))
    }

    /// An open regular file and its length, if it exists, is not longer than `bytes_max`, and `accept` accepts its
    /// owner and mode.
    fn file(
        &self,
        name: &str,
        bytes_max: u64,
        accept: impl FnOnce(Ownership) -> Result<(), String>,
    ) -> Result<Option<(File, u64)>, String> {
        let in_file = |e: &dyn std::fmt::Display| format!("{}: {e}", self.path.join(name).display());
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let open = match rustix::fs::openat(&self.open, name, flags, Mode::empty()) {
            Ok(open) => open,
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(e) => return Err(in_file(&e)),
        };
        let stat = rustix::fs::fstat(&open).map_err(|e| in_file(&e))?;
        if !FileType::from_raw_mode(stat.st_mode).is_file() {
            return Err(in_file(&"it is not a regular file"));
        }
        accept(Ownership { owner: stat.st_uid, mode: stat.st_mode }).map_err(|e| in_file(&e))?;
        let length = u64::try_from(stat.st_size).unwrap_or_default();
        if length > bytes_max {
            return Err(in_file(&format_args!("it is longer than {bytes_max} bytes")));
        }
        Ok(Some((File::from(open), length)))
    }

    /// Writes a file completely or not at all. Two processes that write the same file at the same time both leave a
    /// complete one.
    fn write(&self, name: &str, parts: &[&[u8]]) -> Result<(), String> {
        let in_file = |e: std::io::Error| format!("{}: {e}", self.path.join(name).display());
        let mut file = tempfile::Builder::new().prefix(".partial-").tempfile_in(&self.path).map_err(in_file)?;
        parts.iter().try_for_each(|part| file.write_all(part)).map_err(in_file)?;
        file.as_file().sync_all().map_err(in_file)?;
        file.persist(self.path.join(name)).map_err(|e| in_file(e.error)).map(drop)
    }

    /// Removes the files whose names match `unwanted`. A file that cannot be removed does no harm.
    fn sweep(&self, unwanted: impl Fn(&str) -> bool) {
        for entry in std::fs::read_dir(&self.path).into_iter().flatten().flatten() {
            if entry.file_name().to_str().is_some_and(&unwanted) {
                drop(std::fs::remove_file(entry.path()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_bytes_are_found_by_digest_and_damage_is_detected() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().join("made/by/the/cache"));
        let digest = hex::encode(Sha256::digest(b"component"));
        assert_eq!(cache.find(&digest, 100), None, "nothing is cached yet");
        cache.keep(&digest, b"component");
        assert_eq!(cache.find(&digest, 100).as_deref(), Some(&b"component"[..]));
        assert_eq!(cache.find(&digest, 8), None, "longer than allowed");
        std::fs::write(cache.components().join(&digest), b"componenT").unwrap();
        assert_eq!(cache.find(&digest, 100), None);
        cache.keep(&digest, b"component");
        assert!(cache.find(&digest, 100).is_some(), "replaced");
        assert_eq!(std::fs::read_dir(cache.components()).unwrap().count(), 1, "no partial file is left");
    }

    #[test]
    fn links_folders_and_pipes_are_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().to_owned());
        let digest = hex::encode(Sha256::digest(b"x"));
        cache.keep(&digest, b"x");
        let file = cache.components().join(&digest);
        std::fs::rename(&file, folder.path().join("elsewhere")).unwrap();
        std::os::unix::fs::symlink(folder.path().join("elsewhere"), &file).unwrap();
        assert_eq!(cache.find(&digest, 100), None);
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir(&file).unwrap();
        assert_eq!(cache.find(&digest, 100), None);
        std::fs::remove_dir(&file).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &file, FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert_eq!(cache.find(&digest, 100), None, "and it does not wait for a writer");
    }

    #[test]
    fn without_a_folder_only_the_cache_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), b"").unwrap();
        let cache = Cache::new(folder.path().join("file/below"));
        let digest = hex::encode(Sha256::digest(b"x"));
        cache.keep(&digest, b"x");
        assert_eq!(cache.find(&digest, 100), None);
    }

    #[test]
    fn only_files_that_nobody_else_may_write_are_trusted() {
        let table = [
            (1000, 0o100_600, true),
            (0, 0o100_644, true),
            (0, 0o040_755, true),
            (1001, 0o100_600, false),
            (1000, 0o100_620, false),
            (1000, 0o100_602, false),
            (0, 0o041_777, false),
        ];
        for (owner, mode, good) in table {
            assert_eq!(Ownership { owner, mode }.check_trusted(1000).is_ok(), good, "{owner} {mode:o}");
        }
    }
}
