//! Opens entries below the root for reading, without ever leaving the root.
//!
//! Every step is relative to the folder that was opened before it and refuses symbolic links. If a folder is replaced
//! with a link during a run, opening it fails. Paths may be longer than the kernel accepts in one call.

use rustix::fs::{AtFlags, Mode, OFlags, Stat};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// Folders that one thread keeps open along its current path. A documents tree is four deep. With a dozen threads, this
/// stays far below the usual limit of 1,024 descriptors. Deeper folders are opened again each time.
const FOLDERS_OPEN_MAX: usize = 24;

const STEP: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The open folders from the root to the current one. They stay open, because the next folder is likely to be near.
#[derive(Debug)]
pub(super) struct Folders {
    root: Arc<OwnedFd>,
    /// Names and descriptors of the open folders, outermost first.
    way: Vec<(Vec<u8>, OwnedFd)>,
    /// The current folder, if it is deeper than `way` reaches.
    deep: Option<(Vec<u8>, OwnedFd)>,
}

impl Folders {
    pub(super) fn new(root: Arc<OwnedFd>) -> Self {
        Self { root, way: Vec::new(), deep: None }
    }

    /// The folder at a path below the root; the empty path is the root.
    pub(super) fn at(&mut self, path: &[u8]) -> io::Result<BorrowedFd<'_>> {
        let names: Vec<&[u8]> = path.split(|b| *b == b'/').filter(|name| !name.is_empty()).collect();
        if names.contains(&b"..".as_slice()) {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        let same = self.way.iter().zip(&names).take_while(|((open, _), name)| open.as_slice() == **name).count();
        self.way.truncate(same);
        let (near, far) = names.split_at(names.len().min(FOLDERS_OPEN_MAX));
        for name in near.iter().skip(same) {
            let next = step(self.last(), name)?;
            self.way.push((name.to_vec(), next));
        }
        if far.is_empty() {
            return Ok(self.last());
        }
        if self.deep.as_ref().is_none_or(|(open, _)| open != path) {
            let mut next: Option<OwnedFd> = None;
            for name in far {
                next = Some(step(next.as_ref().map_or_else(|| self.last(), AsFd::as_fd), name)?);
            }
            self.deep = next.map(|folder| (path.to_vec(), folder));
        }
        Ok(self.deep.as_ref().map_or_else(|| self.root.as_fd(), |(_, folder)| folder.as_fd()))
    }

    /// Closes all open folders, so that the next step opens whatever has its name now.
    pub(super) fn forget(&mut self) {
        self.way.clear();
        self.deep = None;
    }

    /// The parent folder of an entry, and the entry's name.
    pub(super) fn parent_of<'p>(&mut self, path: &'p [u8]) -> io::Result<(BorrowedFd<'_>, &'p [u8])> {
        let (folder, name) = split(path);
        Ok((self.at(folder)?, name))
    }

    fn last(&self) -> BorrowedFd<'_> {
        self.way.last().map_or_else(|| self.root.as_fd(), |(_, folder)| folder.as_fd())
    }
}

/// A path's folder and last name.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (path.get(..at).unwrap_or_default(), path.get(at + 1..).unwrap_or_default()),
        None => (&[], path),
    }
}

fn step(folder: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(folder, name, STEP, Mode::empty())?)
}

/// Reads the metadata of an entry without following links. An empty name is the folder itself.
pub(super) fn stat(folder: BorrowedFd<'_>, name: &[u8]) -> io::Result<Stat> {
    let name = if name.is_empty() { b".".as_slice() } else { name };
    Ok(rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Opens a folder for listing.
pub(super) fn list(folder: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    quietly(folder, b".", OFlags::DIRECTORY)
}

/// Opens a regular file for reading. If it is a FIFO instead, this does not block; the caller must check the kind.
pub(super) fn file(folder: BorrowedFd<'_>, name: &[u8]) -> io::Result<File> {
    Ok(File::from(quietly(folder, name, OFlags::NONBLOCK.union(OFlags::NOCTTY))?))
}

/// Opens without updating the access time if possible: only the owner and root may ask for that.
fn quietly(folder: BorrowedFd<'_>, name: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags.union(OFlags::RDONLY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
    match rustix::fs::openat(folder, name, flags.union(OFlags::NOATIME), Mode::empty()) {
        Err(rustix::io::Errno::PERM) => Ok(rustix::fs::openat(folder, name, flags, Mode::empty())?),
        opened => Ok(opened?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn root(path: &std::path::Path) -> Arc<OwnedFd> {
        Arc::new(rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap())
    }

    #[test]
    fn a_folder_replaced_with_a_link_cannot_be_opened() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(outside.path().join("b")).unwrap();
        std::fs::write(outside.path().join("b/secret"), "x").unwrap();
        let tree = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(tree.path().join("a/b")).unwrap();
        std::fs::write(tree.path().join("a/b/secret"), "y").unwrap();
        assert!(Folders::new(root(tree.path())).at(b"a/b").is_ok());
        std::fs::rename(tree.path().join("a"), tree.path().join("was")).unwrap();
        symlink(outside.path(), tree.path().join("a")).unwrap();
        assert!(Folders::new(root(tree.path())).at(b"a/b").is_err());
        assert!(Folders::new(root(tree.path())).at(b"a").is_err());
        symlink("/etc/passwd", tree.path().join("link")).unwrap();
        let mut folders = Folders::new(root(tree.path()));
        assert!(file(folders.at(b"").unwrap(), b"link").is_err());
        assert!(folders.at(b"..").is_err());
        assert!(folders.at(b"was/../..").is_err());
    }

    #[test]
    fn folders_deeper_than_the_kernel_accepts_in_one_call_open_with_few_descriptors() {
        let tree = tempfile::tempdir().unwrap();
        let mut at = rustix::fs::open(tree.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let name = "d".repeat(60);
        for _ in 0..100 {
            rustix::fs::mkdirat(&at, &name, Mode::from_raw_mode(0o755)).unwrap();
            at = rustix::fs::openat(&at, &name, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        let mut folders = Folders::new(root(tree.path()));
        let path = vec![name; 100].join("/").into_bytes();
        assert!(path.len() > 4_096);
        folders.at(&path).unwrap();
        assert_eq!(folders.way.len(), FOLDERS_OPEN_MAX);
        folders.at(b"").unwrap();
        assert!(folders.at(b"missing").is_err());
        let (folder, last) = split(&path);
        assert_eq!(folders.parent_of(&path).unwrap().1, last);
        assert_eq!(split(b"top"), (b"".as_slice(), b"top".as_slice()));
        assert!(folder.len() < path.len());
    }
}
