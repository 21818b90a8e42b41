//! Reads files that other processes may be writing. A file is read either whole and unchanged, or at a fixed length
//! with its problem reported.

use super::attributes::Attributes;
use super::entry::{Entry, Kind, Meta};
use super::header;
use super::open::{self, Folders};
use rustix::buffer::spare_capacity;
use rustix::fs::SeekFrom;
use rustix::io::retry_on_intr;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

/// How often a small file is read before the last version is accepted although the file changed during the read. Log
/// files change all the time.
const ATTEMPTS_MAX: u32 = 3;

/// The result of reading a small file.
#[derive(Debug)]
pub(super) enum Small {
    /// Headers and content were appended; the content begins at `body`.
    Whole { meta: Meta, body: usize, attributes: Attributes },
    /// Headers and content were appended, but the file changed during every read.
    Changing { meta: Meta, body: usize, attributes: Attributes },
    /// The file is no longer small; nothing was appended.
    Grown(Large),
}

/// A file that is read in parts, at the length that it had when it was opened.
#[derive(Debug)]
pub(super) struct Large {
    file: File,
    pub(super) meta: Meta,
    pub(super) attributes: Attributes,
}

/// Appends the headers and content of a file that had at most `bytes_max` when it was listed.
///
/// # Errors
/// If the file cannot be read; nothing was appended then.
pub(super) fn small(entry: &Entry, bytes_max: u64, folders: &mut Folders, out: &mut Vec<u8>) -> io::Result<Small> {
    let start = out.len();
    let mut attempt = 1;
    loop {
        let file = open(entry, folders)?;
        let mut meta = stat_file(&file)?;
        let attributes = Attributes::read_from(&file);
        if meta.size_bytes > bytes_max {
            return Ok(Small::Grown(Large { file, meta, attributes }));
        }
        header::push(out, &entry.path, &meta, None, &attributes);
        let body = out.len();
        let rest = append(&file, &mut meta, body, out);
        match rest {
            Ok(true) => {
                header::pad(out, meta.size_bytes);
                return Ok(Small::Whole { meta, body, attributes });
            }
            Ok(false) if attempt < ATTEMPTS_MAX => out.truncate(start),
            Ok(false) => {
                // The header has the old length; write it again with the length that was read.
                let content = out.split_off(body);
                out.truncate(start);
                meta.size_bytes = content.len() as u64;
                header::push(out, &entry.path, &meta, None, &attributes);
                let body = out.len();
                out.extend_from_slice(&content);
                header::pad(out, meta.size_bytes);
                return Ok(Small::Changing { meta, body, attributes });
            }
            Err(error) => {
                out.truncate(start);
                return Err(error);
            }
        }
        attempt += 1;
    }
}

/// Appends a file's content, at most as many bytes as `meta` says. Returns whether the file was unchanged meanwhile.
fn append(file: &File, meta: &mut Meta, body: usize, out: &mut Vec<u8>) -> io::Result<bool> {
    let size = usize::try_from(meta.size_bytes).map_err(io::Error::other)?;
    // One spare byte shows whether the file has grown. No second read checks for the end of the file: the metadata
    // afterwards shows any change.
    out.reserve(size + 1);
    while retry_on_intr(|| rustix::io::read(file, spare_capacity(out)))? != 0 && out.len() - body < size {}
    let read = out.len() - body;
    out.truncate(body + size.min(read));
    Ok(read == size && meta.is_unchanged(&stat_file(file)?))
}

fn open(entry: &Entry, folders: &mut Folders) -> io::Result<File> {
    let (folder, name) = folders.parent_of(&entry.path)?;
    open::file(folder, name)
}

fn stat_file(file: &File) -> io::Result<Meta> {
    let stat = rustix::fs::fstat(file)?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::RegularFile {
        return Err(io::Error::other("it is no longer a file"));
    }
    Ok(Meta::of_kind(&stat, Kind::File))
}

impl Large {
    /// Opens a file that is read in parts.
    pub(super) fn open(entry: &Entry, folders: &mut Folders) -> io::Result<Self> {
        let file = open(entry, folders)?;
        let meta = stat_file(&file)?;
        let attributes = Attributes::read_from(&file);
        Ok(Self { file, meta, attributes })
    }

    /// Fills `room`, which holds zeros, with the content from `offset` on. Holes are skipped.
    ///
    /// # Errors
    /// If the file cannot be read or has become shorter; the rest of `room` keeps its zeros then.
    pub(super) fn fill(&self, offset: u64, room: &mut [u8]) -> io::Result<()> {
        if self.meta.stored_bytes >= self.meta.size_bytes {
            return self.file.read_exact_at(room, offset);
        }
        let end = offset + room.len() as u64;
        let mut at = offset;
        while let Some((from, to)) = self.data(at, end)? {
            let place = usize::try_from(from - offset).unwrap_or(0)..usize::try_from(to - offset).unwrap_or(0);
            self.file.read_exact_at(room.get_mut(place).unwrap_or_default(), from)?;
            at = to;
        }
        Ok(())
    }

    /// The first stretch of data between two offsets; `None` if there is only a hole.
    fn data(&self, at: u64, end: u64) -> io::Result<Option<(u64, u64)>> {
        if at >= end {
            return Ok(None);
        }
        let file = self.file.as_fd();
        match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(from) if from < end => {
                Ok(Some((from, rustix::fs::seek(file, SeekFrom::Hole(from))?.clamp(from + 1, end))))
            }
            Ok(_) => Ok(None),
            // There is no data after this offset: it is in a hole, or the file has become shorter.
            Err(rustix::io::Errno::NXIO) if stat_file(&self.file)?.size_bytes >= end => Ok(None),
            Err(rustix::io::Errno::NXIO) => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            // The file system does not support holes.
            Err(rustix::io::Errno::INVAL) => Ok(Some((at, end))),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the file is unchanged since it was opened.
    pub(super) fn is_unchanged(&self) -> bool {
        stat_file(&self.file).is_ok_and(|later| self.meta.is_unchanged(&later))
    }
}
