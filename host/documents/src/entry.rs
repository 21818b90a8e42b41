//! One entry of a tree: its path, its kind and its metadata.

use super::attributes::Attributes;
use super::open;
use rustix::fs::{FileType, Stat};
use rustix::io::Errno;
use std::io;
use std::os::fd::BorrowedFd;

/// A file system time since 1970. Seconds may be negative; nanoseconds count upward from them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Time {
    pub(super) seconds: i64,
    pub(super) nanoseconds: u32,
}

/// The kind of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Folder,
    /// A symbolic link and its target. This crate never follows links.
    Link(Vec<u8>),
    Fifo,
    Socket,
    CharacterDevice,
    BlockDevice,
}

/// The metadata that the kernel keeps for an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) kind: Kind,
    /// Permissions including set-user-ID, set-group-ID and sticky, without the kind.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size_bytes: u64,
    pub(super) modified: Time,
    pub(super) changed: Time,
    /// Device and inode. All names (hard links) of one file have the same.
    pub(super) identity: (u64, u64),
    pub(super) names: u64,
    /// Device number; set for devices only.
    pub(super) device: u64,
    /// Allocated bytes: less than the size if the file has holes.
    pub(super) stored_bytes: u64,
}

/// One entry below the root. The root's own path is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) path: Vec<u8>,
    pub(super) meta: Meta,
    /// Set for folders only, when a folder is opened for listing. The attributes of a file are read with its content.
    pub(super) attributes: Attributes,
}

impl Meta {
    /// Metadata from `stat`. For a symbolic link, also reads the target of `name` in `folder`.
    pub(super) fn new(stat: &Stat, folder: BorrowedFd<'_>, name: &[u8]) -> io::Result<Self> {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Folder,
            FileType::Symlink => match rustix::fs::readlinkat(folder, name, Vec::new()) {
                Ok(target) => Kind::Link(target.into_bytes()),
                Err(Errno::INVAL) => return Err(io::Error::other("it is no longer a symbolic link")),
                Err(error) => return Err(error.into()),
            },
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
            FileType::CharacterDevice => Kind::CharacterDevice,
            FileType::BlockDevice => Kind::BlockDevice,
            FileType::Unknown => return Err(io::Error::other("it is of an unknown kind")),
        };
        Ok(Self::of_kind(stat, kind))
    }

    /// Metadata from `stat` for an entry whose kind is known.
    #[expect(
        clippy::unnecessary_cast,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the widths of the fields differ between architectures; the values are never negative or wider"
    )]
    pub(super) fn of_kind(stat: &Stat, kind: Kind) -> Self {
        Self {
            kind,
            mode: stat.st_mode as u32 & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size_bytes: stat.st_size as u64,
            modified: Time { seconds: stat.st_mtime as i64, nanoseconds: stat.st_mtime_nsec as u32 },
            changed: Time { seconds: stat.st_ctime as i64, nanoseconds: stat.st_ctime_nsec as u32 },
            identity: (stat.st_dev as u64, stat.st_ino as u64),
            names: stat.st_nlink as u64,
            device: stat.st_rdev as u64,
            stored_bytes: (stat.st_blocks as u64).saturating_mul(512),
        }
    }

    /// Whether the file is unchanged since `self` was read.
    pub(super) fn is_unchanged(&self, later: &Self) -> bool {
        self.size_bytes == later.size_bytes
            && self.modified == later.modified
            && self.changed == later.changed
            && self.identity == later.identity
    }
}

impl Entry {
    /// Reads the metadata of an entry of an open folder, without following links.
    pub(super) fn stat(folder: BorrowedFd<'_>, name: &[u8], path: Vec<u8>) -> io::Result<Self> {
        let stat = open::stat(folder, name)?;
        Ok(Self { path, meta: Meta::new(&stat, folder, name)?, attributes: Attributes::default() })
    }

    /// Bytes of content that an archive holds for this entry.
    pub(super) fn content_bytes(&self) -> u64 {
        if self.meta.kind == Kind::File { self.meta.size_bytes } else { 0 }
    }
}
