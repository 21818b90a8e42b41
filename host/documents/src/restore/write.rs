//! Creates files, folders and links below a new folder, without ever leaving it.
//!
//! Every step is relative to a folder that was opened before it and does not follow links. Existing files are never
//! written to: a file is either created or refused.

use super::parse::{Described, refused, unreadable};
use super::sparse::Map;
use crate::entry::{Kind, Time};
use crate::path;
use crate::path::shown;
use base::error::{Error, Result, reason};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Folders that one thread keeps open along its current path, as in [`crate::open`].
const FOLDERS_OPEN_MAX: usize = 24;

/// Block size of a file system: a hole consists of whole blocks.
const BLOCK_BYTES: usize = 4_096;

/// The shortest run of zeros that becomes a hole: shorter ones are cheaper to write than to skip.
const HOLE_BYTES_MIN: usize = 16 * BLOCK_BYTES;

/// Bytes of a content that are read and written at once.
const PIECE_BYTES: usize = 1 << 20;

/// Zeros to compare with.
const ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

const STEP: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Mode of folders while a tree is being restored: only the owner has access.
pub(super) const FOLDER_MODE: Mode = Mode::RWXU;

/// Whether this process is root, which can restore owners, set-user-ID and set-group-ID bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Privileged(pub(super) bool);

impl Privileged {
    pub(super) fn of_this_process() -> Self {
        Self(rustix::process::geteuid().is_root())
    }

    fn mode(self, described: &Described) -> Mode {
        let kept = if self.0 { 0o7777 } else { 0o1777 };
        Mode::from_raw_mode(described.mode & kept)
    }

    fn owner(self, described: &Described) -> Option<(Uid, Gid)> {
        self.0.then(|| (Uid::from_raw(described.uid), Gid::from_raw(described.gid)))
    }
}

/// Creates entries for one thread. Keeps the folders from the root to the current one open.
#[derive(Debug)]
pub(super) struct Sink {
    root: Arc<OwnedFd>,
    privileged: Privileged,
    /// Names and descriptors of the open folders, outermost first.
    way: Vec<(Vec<u8>, OwnedFd)>,
    /// The current folder, if it is deeper than `way` reaches.
    deep: Option<OwnedFd>,
}

impl Sink {
    pub(super) fn new(root: Arc<OwnedFd>, privileged: Privileged) -> Self {
        Self { root, privileged, way: Vec::new(), deep: None }
    }

    /// Creates a folder and the folders above it, if they do not exist yet.
    pub(super) fn folder(&mut self, path: &[u8]) -> Result<()> {
        self.at(path).map(drop).map_err(|error| failure(path, error))
    }

    /// Removes an entry that is not a folder, so that a later entry can have its name.
    pub(super) fn remove(&mut self, path: &[u8]) -> Result<()> {
        let (folder, name) = path::split(path);
        let remove = |sink: &mut Self| rustix::fs::unlinkat(sink.existing(folder)?, name, AtFlags::empty());
        remove(self).map_err(|error| failure(path, error))
    }

    /// Creates a new file.
    pub(super) fn file(&mut self, path: &[u8]) -> Result<File> {
        let create = |sink: &mut Self| {
            let (folder, name) = path::split(path);
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(sink.at(folder)?, name, flags, Mode::RUSR | Mode::WUSR)
        };
        create(self).map(File::from).map_err(|error| failure(path, error))
    }

    /// Sets the owner, attributes, mode and time of a complete file. Attributes that cannot be set are added to the
    /// losses in `described`.
    pub(super) fn finish(&self, file: &File, described: &mut Described) -> Result<()> {
        set_open_metadata(file.as_fd(), self.privileged, described).map_err(|error| failure(&described.path, error))
    }

    /// Creates a symbolic link or a FIFO.
    pub(super) fn special(&mut self, described: &Described) -> Result<()> {
        let privileged = self.privileged;
        let create = |sink: &mut Self| {
            let (folder, name) = path::split(&described.path);
            let folder = sink.at(folder)?;
            match &described.kind {
                Kind::Link(target) => rustix::fs::symlinkat(target.as_slice(), folder, name)?,
                _ => rustix::fs::mknodat(folder, name, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?,
            }
            if let Some((uid, gid)) = privileged.owner(described) {
                rustix::fs::chownat(folder, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
            }
            if described.kind == Kind::Fifo {
                // This process has just created it, in a folder that only this user can access.
                rustix::fs::chmodat(folder, name, privileged.mode(described), AtFlags::empty())?;
            }
            rustix::fs::utimensat(folder, name, &times(described.modified), AtFlags::SYMLINK_NOFOLLOW)
        };
        create(self).map_err(|error| failure(&described.path, error))
    }

    /// Creates a hard link at `path` to `first`.
    pub(super) fn link(&mut self, path: &[u8], first: &[u8]) -> Result<()> {
        let (folder, name) = path::split(first);
        let root = Arc::clone(&self.root);
        let mut other = Self::new(root, self.privileged);
        let mut create = |sink: &mut Self| {
            let from = other.existing(folder)?;
            let (folder, new_name) = path::split(path);
            // Without flags, this links a symbolic link itself instead of following it.
            rustix::fs::linkat(from, name, sink.at(folder)?, new_name, AtFlags::empty())
        };
        create(self).map_err(|error| match error {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::PERM => {
                refused(path, &format!("is a hard link to `{}`, which is not a file in the archive", shown(first)))
            }
            error => failure(path, error),
        })
    }

    /// Sets the owner, attributes, mode and time of a folder. The empty path is the root.
    pub(super) fn set_metadata(&mut self, described: &mut Described) -> Result<()> {
        let privileged = self.privileged;
        let set = |sink: &mut Self, described: &mut Described| {
            let path = described.path.clone();
            let (folder, name) = path::split(&path);
            if name.is_empty() {
                return set_metadata_at(sink.root.as_fd(), c".".to_bytes(), privileged, described);
            }
            set_metadata_at(sink.existing(folder)?, name, privileged, described)
        };
        set(self, described).map_err(|error| failure(&described.path, error))
    }

    /// The folder at a path. Creates it if it does not exist.
    fn at(&mut self, path: &[u8]) -> rustix::io::Result<BorrowedFd<'_>> {
        self.walk(path, true)
    }

    fn existing(&mut self, path: &[u8]) -> rustix::io::Result<BorrowedFd<'_>> {
        self.walk(path, false)
    }

    fn walk(&mut self, path: &[u8], make: bool) -> rustix::io::Result<BorrowedFd<'_>> {
        let names = || path.split(|b| *b == b'/').filter(|name| !name.is_empty());
        let same = self.way.iter().zip(names()).take_while(|((open, _), name)| open.as_slice() == *name).count();
        self.way.truncate(same);
        self.deep = None;
        for name in names().skip(same) {
            let next = step(self.last(), name, make)?;
            if self.way.len() < FOLDERS_OPEN_MAX {
                self.way.push((name.to_vec(), next));
            } else {
                self.deep = Some(next);
            }
        }
        Ok(self.last())
    }

    fn last(&self) -> BorrowedFd<'_> {
        let near = self.way.last().map_or(&*self.root, |(_, folder)| folder);
        self.deep.as_ref().unwrap_or(near).as_fd()
    }
}

fn step(folder: BorrowedFd<'_>, name: &[u8], make: bool) -> rustix::io::Result<OwnedFd> {
    match rustix::fs::openat(folder, name, STEP, Mode::empty()) {
        Err(Errno::NOENT) if make => match rustix::fs::mkdirat(folder, name, FOLDER_MODE) {
            // Another thread may have created it first.
            Ok(()) | Err(Errno::EXIST) => rustix::fs::openat(folder, name, STEP, Mode::empty()),
            Err(error) => Err(error),
        },
        opened => opened,
    }
}

fn set_metadata_at(
    folder: BorrowedFd<'_>,
    name: &[u8],
    privileged: Privileged,
    described: &mut Described,
) -> rustix::io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = rustix::fs::openat(folder, name, flags, Mode::empty())?;
    set_open_metadata(folder.as_fd(), privileged, described)
}

/// Sets owner, attributes, mode, access control lists and time, in this order. Changing the owner clears the
/// set-user-ID bit, so the mode comes after it. The mode may deny writing attributes, so they come before it. The mode
/// is a part of the access control list, so the list comes after it.
fn set_open_metadata(
    open: BorrowedFd<'_>,
    privileged: Privileged,
    described: &mut Described,
) -> rustix::io::Result<()> {
    if let Some((uid, gid)) = privileged.owner(described) {
        rustix::fs::fchown(open, Some(uid), Some(gid))?;
    }
    if described.attributes.is_empty() {
        rustix::fs::fchmod(open, privileged.mode(described))?;
    } else {
        described.attributes.restore_own(open);
        rustix::fs::fchmod(open, privileged.mode(described))?;
        if let Some(group) = described.attributes.restore_lists(open) {
            let mode = privileged.mode(described).as_raw_mode() & !0o070;
            rustix::fs::fchmod(open, Mode::from_raw_mode(mode | group << 3))?;
        }
    }
    rustix::fs::futimens(open, &times(described.modified))
}

fn times(modified: Time) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: modified.seconds, tv_nsec: modified.nanoseconds.into() },
    }
}

/// Writes a piece of a new file at its place, and leaves holes for long runs of zeros. Returns whether the piece ends
/// in a hole; the caller has to set the file's length then.
pub(super) fn fill(file: &File, content: &[u8], offset: u64) -> io::Result<bool> {
    let (mut data, mut at, mut zeros) = (0, 0, 0);
    let put = |from: usize, to: usize| match content.get(from..to) {
        Some(piece) if !piece.is_empty() => file.write_all_at(piece, offset + from as u64),
        _ => Ok(()),
    };
    for block in content.chunks(BLOCK_BYTES) {
        if ZEROS.starts_with(block) {
            zeros += block.len();
        } else {
            if zeros >= HOLE_BYTES_MIN {
                put(data, at - zeros)?;
                data = at;
            }
            zeros = 0;
        }
        at += block.len();
    }
    let ends_in_hole = zeros >= HOLE_BYTES_MIN;
    put(data, if ends_in_hole { at - zeros } else { at })?;
    Ok(ends_in_hole)
}

/// Copies a content from the archive to a new file, and leaves holes for long runs of zeros and where the map has no
/// data. `seen` gets each piece before it is written. `failed` converts an I/O error of the file.
///
/// # Errors
/// [`base::error::Class::Stale`] if the archive is damaged or ends early; errors of `seen` and `failed`.
pub(crate) fn write_content(
    input: &mut impl Read,
    file: &File,
    size_bytes: u64,
    map: Option<&Map>,
    mut seen: impl FnMut(&[u8]) -> Result<()>,
    failed: impl Fn(io::Error) -> Error,
) -> Result<()> {
    let set_length = || file.set_len(size_bytes).map_err(&failed);
    if map.is_some() {
        // If the size is too large for a file, this fails before anything is read.
        set_length()?;
    }
    let whole = [(0, size_bytes)];
    let mut piece = vec![0; PIECE_BYTES];
    for (from, bytes) in map.map_or(&whole[..], Vec::as_slice) {
        let (mut offset, end) = (*from, from + bytes);
        while offset < end {
            let length = usize::try_from(end - offset).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
            let piece = piece.get_mut(..length).unwrap_or_default();
            input.read_exact(piece).map_err(unreadable)?;
            seen(piece)?;
            fill(file, piece, offset).map_err(&failed)?;
            offset += length as u64;
        }
    }
    set_length()
}

/// The error for a failed write below the new folder.
pub(super) fn failure(path: &[u8], error: Errno) -> Error {
    let shown = shown(path);
    match error {
        Errno::EXIST => refused(path, "occurs twice"),
        Errno::LOOP | Errno::NOTDIR => refused(path, "leads through something that is not a folder"),
        Errno::NAMETOOLONG => refused(path, "has a name that is too long for this file system"),
        Errno::NOSPC | Errno::DQUOT => Error::unexpected(format!("no space is left for `{shown}`"))
            .hint("nothing was restored; free some space, or restore to another disk"),
        Errno::FBIG => Error::unexpected(format!("`{shown}` is larger than this file system allows"))
            .hint("nothing was restored; restore to another file system"),
        Errno::PERM | Errno::ACCESS => Error::config(format!("no permission to restore `{shown}` as it was"))
            .hint("nothing was restored; restore as root, or to another file system"),
        error => Error::unexpected(format!("`{shown}` cannot be restored: {}", reason(&error.into())))
            .hint("nothing was restored; check the disk of the target"),
    }
}

/// [`failure`] for an error of the standard library.
pub(super) fn io_failure(path: &[u8], error: &io::Error) -> Error {
    failure(path, Errno::from_io_error(error).unwrap_or(Errno::IO))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};

    fn sink(path: &std::path::Path) -> Sink {
        let root = rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        Sink::new(Arc::new(root), Privileged::of_this_process())
    }

    #[test]
    fn nothing_is_created_through_a_link_and_nothing_is_overwritten() {
        let base = tempfile::tempdir().unwrap();
        let (outside, tree) = (base.path().join("outside"), base.path().join("tree"));
        std::fs::create_dir(&outside).unwrap();
        std::fs::create_dir(&tree).unwrap();
        std::fs::write(outside.join("victim"), "untouched").unwrap();
        symlink(&outside, tree.join("a")).unwrap();
        symlink(outside.join("victim"), tree.join("v")).unwrap();
        let mut sink = sink(&tree);
        for path in ["a/x", "a/b/c"] {
            let error = sink.file(path.as_bytes()).unwrap_err();
            assert!(error.message().contains(&format!("`{path}`, which leads through")), "{error}");
        }
        assert!(sink.folder(b"a").is_err() && sink.link(b"new", b"a/victim").is_err());
        let error = sink.file(b"v").unwrap_err();
        assert!(error.message().contains("twice"), "{error}");
        drop(sink.file(b"deep/er/file").unwrap());
        assert!(sink.file(b"deep/er/file").is_err() && sink.link(b"further", b"deep/er").is_err());
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
        assert_eq!(std::fs::read_to_string(outside.join("victim")).unwrap(), "untouched");
    }

    #[test]
    fn deep_folders_are_created_with_few_descriptors() {
        let base = tempfile::tempdir().unwrap();
        let mut sink = sink(base.path());
        let path = vec!["d".repeat(20); 300].join("/");
        drop(sink.file(format!("{path}/file").as_bytes()).unwrap());
        assert_eq!(sink.way.len(), FOLDERS_OPEN_MAX);
        drop(sink.file(b"top").unwrap());
        assert!(sink.file(format!("{path}/file").as_bytes()).is_err(), "it exists");
    }

    #[test]
    fn only_long_runs_of_zeros_become_holes() {
        let base = tempfile::tempdir().unwrap();
        for (name, pieces) in [
            ("data", vec![(7, 100_000)]),
            ("zeros", vec![(0, 1 << 20)]),
            ("island", vec![(0, 200_000), (1, 10), (0, 300_000)]),
            ("short zeros", vec![(1, 5_000), (0, 9_000), (1, 5_000)]),
            ("ends in zeros", vec![(1, 5_000), (0, 500_000)]),
            ("empty", vec![]),
        ] {
            let content: Vec<u8> = pieces.iter().flat_map(|(byte, length)| vec![*byte; *length]).collect();
            let file = File::create(base.path().join(name)).unwrap();
            if fill(&file, &content, 0).unwrap() {
                file.set_len(content.len() as u64).unwrap();
            }
            let path = base.path().join(name);
            assert!(std::fs::read(&path).unwrap() == content, "{name}");
            let stored = std::fs::metadata(&path).unwrap().blocks() * 512;
            let zeros: usize =
                pieces.iter().filter(|(byte, length)| *byte == 0 && *length > 100_000).map(|p| p.1).sum();
            assert!(stored <= (content.len() - zeros + 5 * BLOCK_BYTES) as u64, "{name}: {stored} bytes");
        }
    }
}
