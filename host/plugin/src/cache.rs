//! What is kept between runs, in one folder: components by their digest, and what was compiled of them.
//!
//! Nothing here is needed: a folder that is missing, full or not to be trusted costs time, never a run. A component is
//! hashed again whenever it is read, so it can be read from anywhere. A compiled one is native code of this process,
//! which no hash in the same folder can vouch for: [`compiled`] loads it only from a folder and a file that belong to
//! the running user or root and that nobody else may write.

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
    /// A cache in a folder, which is made when something is kept.
    #[must_use]
    pub const fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Bytes by the digits of their sha256. None where they are not there or are not what they are called.
    #[must_use]
    pub fn find(&self, digest: &str, bytes_max: u64) -> Option<Vec<u8>> {
        let folder = Folder::open(&self.components()).ok()?;
        let bytes = folder.read(digest, bytes_max, |_| Ok(())).ok()??;
        if hex::encode(Sha256::digest(&bytes)) == digest {
            return Some(bytes);
        }
        let file = self.components().join(digest);
        tracing::warn!(file = %file.display(), "a cached component is damaged and is fetched anew");
        None
    }

    /// Keeps bytes under the digits of their sha256. Where that fails, it is said once.
    pub fn keep(&self, digest: &str, bytes: &[u8]) {
        if let Err(why) = Folder::make(&self.components()).and_then(|folder| folder.write(digest, &[bytes])) {
            self.complain(&why, Delay::Seconds);
        }
    }

    fn components(&self) -> PathBuf {
        self.folder.join("sha256")
    }

    fn compiled(&self) -> PathBuf {
        self.folder.join("compiled")
    }

    /// Once a process: several plugins share the folder and its fault. A container with a read-only root has no such
    /// folder by design, and need not hear at every run of what nobody would notice.
    fn complain(&self, why: &str, delay: Delay) {
        static SAID: Once = Once::new();
        if delay == Delay::Unnoticed {
            tracing::debug!(folder = %self.folder.display(), "the cache of components is not used: {why}");
            return;
        }
        SAID.call_once(|| {
            tracing::warn!(
                folder = %self.folder.display(),
                "the cache of components is not used, so every start takes longer: {why}; \
                 name a folder of the running user with cache = \"…\" in [plugins]"
            );
        });
    }
}

/// What doing without the cache costs a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Delay {
    /// A fraction of a second.
    Unnoticed,
    Seconds,
}

/// An open folder: what it is called may change meanwhile, what it is does not.
struct Folder {
    path: PathBuf,
    open: OwnedFd,
}

/// Who owns a file or folder, and who may write to it.
#[derive(Debug, Clone, Copy)]
struct Standing {
    owner: u32,
    mode: u32,
}

impl Standing {
    /// Refuses what another user could have written.
    fn trusted(self, running: u32) -> Result<(), String> {
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

    fn standing(&self) -> Result<Standing, String> {
        let stat = rustix::fs::fstat(&self.open).map_err(|e| e.to_string())?;
        Ok(Standing { owner: stat.st_uid, mode: stat.st_mode })
    }

    /// A file's bytes, if it is there, is a file, and `judge` agrees to what it is.
    fn read(
        &self,
        name: &str,
        bytes_max: u64,
        judge: impl FnOnce(Standing) -> Result<(), String>,
    ) -> Result<Option<Vec<u8>>, String> {
        let Some((file, length)) = self.file(name, bytes_max, judge)? else { return Ok(None) };
        let said = |e: &dyn std::fmt::Display| format!("{}: {e}", self.path.join(name).display());
        let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
        file.take(length).read_to_end(&mut bytes).map_err(|e| said(&e))?;
        Ok(Some(bytes))
    }

    /// An open file and its length, if it is there, is a file, is no longer than that, and `judge` agrees to what it is.
    fn file(
        &self,
        name: &str,
        bytes_max: u64,
        judge: impl FnOnce(Standing) -> Result<(), String>,
    ) -> Result<Option<(File, u64)>, String> {
        let said = |e: &dyn std::fmt::Display| format!("{}: {e}", self.path.join(name).display());
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let open = match rustix::fs::openat(&self.open, name, flags, Mode::empty()) {
            Ok(open) => open,
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(e) => return Err(said(&e)),
        };
        let stat = rustix::fs::fstat(&open).map_err(|e| said(&e))?;
        if !FileType::from_raw_mode(stat.st_mode).is_file() {
            return Err(said(&"it is no file"));
        }
        judge(Standing { owner: stat.st_uid, mode: stat.st_mode }).map_err(|e| said(&e))?;
        let length = u64::try_from(stat.st_size).unwrap_or_default();
        if length > bytes_max {
            return Err(said(&format_args!("it is longer than {bytes_max} bytes")));
        }
        Ok(Some((File::from(open), length)))
    }

    /// Writes a file whole or not at all: two that write the same at the same time both leave a whole one.
    fn write(&self, name: &str, parts: &[&[u8]]) -> Result<(), String> {
        let said = |e: std::io::Error| format!("{}: {e}", self.path.join(name).display());
        let mut file = tempfile::Builder::new().prefix(".partial-").tempfile_in(&self.path).map_err(said)?;
        parts.iter().try_for_each(|part| file.write_all(part)).map_err(said)?;
        file.as_file().sync_all().map_err(said)?;
        file.persist(self.path.join(name)).map_err(|e| said(e.error)).map(drop)
    }

    /// Removes the files whose names `unwanted` picks; one that stays does no harm.
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
    fn what_was_kept_is_found_by_its_digest_and_damage_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().join("made/by/the/cache"));
        let digest = hex::encode(Sha256::digest(b"component"));
        assert_eq!(cache.find(&digest, 100), None, "nothing is there yet");
        cache.keep(&digest, b"component");
        assert_eq!(cache.find(&digest, 100).as_deref(), Some(&b"component"[..]));
        assert_eq!(cache.find(&digest, 8), None, "longer than allowed");
        std::fs::write(cache.components().join(&digest), b"componenT").unwrap();
        assert_eq!(cache.find(&digest, 100), None);
        cache.keep(&digest, b"component");
        assert!(cache.find(&digest, 100).is_some(), "mended");
        assert_eq!(std::fs::read_dir(cache.components()).unwrap().count(), 1, "no partial file is left");
    }

    #[test]
    fn neither_a_link_nor_a_folder_nor_a_pipe_is_read() {
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
    fn a_folder_that_cannot_be_made_costs_nothing_but_the_cache() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), b"").unwrap();
        let cache = Cache::new(folder.path().join("file/below"));
        let digest = hex::encode(Sha256::digest(b"x"));
        cache.keep(&digest, b"x");
        assert_eq!(cache.find(&digest, 100), None);
    }

    #[test]
    fn only_what_nobody_else_may_write_is_trusted() {
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
            assert_eq!(Standing { owner, mode }.trusted(1000).is_ok(), good, "{owner} {mode:o}");
        }
    }
}
