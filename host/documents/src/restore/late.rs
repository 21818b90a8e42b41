//! Work that has to wait until every file exists: hard links, and the times and modes of folders.
//!
//! The lists move to disk when they are large: a tree may have a million folders.

use super::parse::Described;
use super::write::Sink;
use crate::attributes::Attributes;
use crate::entry::{Kind, Time};
use crate::path;
use base::error::{Error, Result, reason};
use std::collections::BTreeMap;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::sync::{Mutex, PoisonError};
use tempfile::SpooledTempFile;

/// Memory of each list before it moves to a temporary file: about ten thousand folders.
const MEMORY_BYTES_MAX: usize = 2 << 20;

/// Longest path that is read back. Longer ones are never written.
const PATH_BYTES_MAX: u32 = path::BYTES_MAX as u32;

/// Longest attributes that are read back. They come from the PAX records of one entry.
const ATTRIBUTES_BYTES_MAX: u32 = 2 << 20;

/// A list that moves to disk when it is large.
type Spool = Mutex<BufWriter<SpooledTempFile>>;

/// Work that waits for the end.
#[derive(Debug)]
pub(super) struct Late {
    folders: Spool,
    links: Spool,
}

impl Late {
    pub(super) fn new() -> Self {
        let spool = || Mutex::new(BufWriter::new(tempfile::spooled_tempfile(MEMORY_BYTES_MAX)));
        Self { folders: spool(), links: spool() }
    }

    /// Remembers a folder, which gets its owner, mode and time at the end. If it occurs twice, the later one counts.
    pub(super) fn folder(&self, folder: &Described) -> Result<()> {
        let mut record = Vec::with_capacity(folder.path.len() + 32);
        for number in [folder.mode, folder.uid, folder.gid, folder.modified.nanoseconds] {
            record.extend_from_slice(&number.to_le_bytes());
        }
        record.extend_from_slice(&folder.modified.seconds.to_le_bytes());
        push_field(&mut record, &folder.path);
        push_field(&mut record, &folder.attributes.to_bytes());
        append(&self.folders, &record)
    }

    /// Remembers a hard link at `path` to `first`.
    pub(super) fn link(&self, path: &[u8], first: &[u8]) -> Result<()> {
        let mut record = Vec::with_capacity(path.len() + first.len() + 8);
        push_field(&mut record, path);
        push_field(&mut record, first);
        append(&self.links, &record)
    }

    /// Does the work. `done` gets each folder with the attributes that could not be restored. The root is not changed
    /// but returned, because it gets its metadata when it is put in place.
    pub(super) fn finish(self, sink: &mut Sink, mut done: impl FnMut(&Described)) -> Result<Option<Described>> {
        let mut links = read_back(self.links)?;
        while let Some(path) = read_field(&mut links, PATH_BYTES_MAX).map_err(spool_failure)? {
            let first = read_field(&mut links, PATH_BYTES_MAX).map_err(spool_failure)?.unwrap_or_default();
            sink.link(&path, &first)?;
        }
        let mut folders = read_back(self.folders)?;
        let (mut root, mut closed) = (None, BTreeMap::new());
        while let Some(mut folder) = read_folder(&mut folders).map_err(spool_failure)? {
            if folder.path.is_empty() {
                root = Some(folder);
            } else if folder.mode & 0o700 == 0o700 {
                closed.remove(&folder.path);
                sink.set_metadata(&mut folder)?;
                done(&folder);
            } else {
                closed.insert(folder.path.clone(), folder);
            }
        }
        // Folders that deny access to their owner get their mode last, deepest first.
        let mut closed: Vec<_> = closed.into_values().collect();
        closed.sort_by(|a, b| path::order(&b.path, &a.path));
        for mut folder in closed {
            sink.set_metadata(&mut folder)?;
            done(&folder);
        }
        Ok(root)
    }
}

fn append(spool: &Spool, record: &[u8]) -> Result<()> {
    spool.lock().unwrap_or_else(PoisonError::into_inner).write_all(record).map_err(spool_failure)
}

fn read_back(spool: Spool) -> Result<BufReader<SpooledTempFile>> {
    let spool = spool.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut spool = spool.into_inner().map_err(|error| spool_failure(error.into_error()))?;
    spool.rewind().map_err(spool_failure)?;
    Ok(BufReader::new(spool))
}

fn push_field(record: &mut Vec<u8>, field: &[u8]) {
    // The lengths of paths and attributes were checked when they were read.
    record.extend_from_slice(&u32::try_from(field.len()).unwrap_or(u32::MAX).to_le_bytes());
    record.extend_from_slice(field);
}

/// The next field that [`push_field`] wrote, of at most `bytes_max`; `None` at the end.
fn read_field(input: &mut impl Read, bytes_max: u32) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match input.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let length = u32::from_le_bytes(length);
    if length > bytes_max {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut field = vec![0; length as usize];
    input.read_exact(&mut field)?;
    Ok(Some(field))
}

fn read_folder(input: &mut impl Read) -> io::Result<Option<Described>> {
    let mut numbers = [[0; 4]; 4];
    for (n, number) in numbers.iter_mut().enumerate() {
        match input.read_exact(number) {
            Err(error) if n == 0 && error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
    }
    let [mode, uid, gid, nanoseconds] = numbers.map(u32::from_le_bytes);
    let mut seconds = [0; 8];
    input.read_exact(&mut seconds)?;
    let path = read_field(input, PATH_BYTES_MAX)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let attributes = read_field(input, ATTRIBUTES_BYTES_MAX)?.and_then(|bytes| Attributes::from_bytes(&bytes));
    let modified = Time { seconds: i64::from_le_bytes(seconds), nanoseconds };
    Ok(Some(Described {
        path,
        kind: Kind::Folder,
        linked: None,
        mode,
        uid,
        gid,
        modified,
        size_bytes: 0,
        stored_bytes: 0,
        map: None,
        attributes: attributes.ok_or(io::ErrorKind::InvalidData)?,
    }))
}

#[expect(clippy::needless_pass_by_value, reason = "it is passed to `map_err`")]
fn spool_failure(error: io::Error) -> Error {
    Error::unexpected(format!("the restore cannot use its temporary file: {}", reason(&error)))
        .hint("nothing was restored; free space in the temporary directory (TMPDIR)")
}
