//! What can only be done once every file is there: further names of files, and the times and modes of folders.
//!
//! A million folders are remembered on disk, not in memory.

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

/// Memory of each list before it goes to a temporary file: some ten thousand folders.
const MEMORY_BYTES_MAX: usize = 2 << 20;

/// Longest path that is read back: none longer is ever put in.
const PATH_BYTES_MAX: u32 = path::BYTES_MAX as u32;

/// Longest attributes that are read back: they stood in the PAX records of one entry.
const ATTRIBUTES_BYTES_MAX: u32 = 2 << 20;

/// A list on its way to disk.
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

    /// A folder that gets its owner, mode and time at the end. Of one that comes twice, the last word counts.
    pub(super) fn folder(&self, folder: &Described) -> Result<()> {
        let mut record = Vec::with_capacity(folder.path.len() + 32);
        for number in [folder.mode, folder.uid, folder.gid, folder.modified.nanoseconds] {
            record.extend_from_slice(&number.to_le_bytes());
        }
        record.extend_from_slice(&folder.modified.seconds.to_le_bytes());
        push(&mut record, &folder.path);
        push(&mut record, &folder.attributes.to_bytes());
        put(&self.folders, &record)
    }

    /// A further name of a file.
    pub(super) fn link(&self, path: &[u8], first: &[u8]) -> Result<()> {
        let mut record = Vec::with_capacity(path.len() + first.len() + 8);
        push(&mut record, path);
        push(&mut record, first);
        put(&self.links, &record)
    }

    /// Does what waits; `done` gets each folder, with what it has not got back. The root is left to whoever puts it in its place, and
    /// is returned.
    pub(super) fn finish(self, sink: &mut Sink, mut done: impl FnMut(&Described)) -> Result<Option<Described>> {
        let mut links = back(self.links)?;
        while let Some(path) = pull(&mut links, PATH_BYTES_MAX).map_err(lost)? {
            let first = pull(&mut links, PATH_BYTES_MAX).map_err(lost)?.unwrap_or_default();
            sink.link(&path, &first)?;
        }
        let mut folders = back(self.folders)?;
        let (mut root, mut closed) = (None, BTreeMap::new());
        while let Some(mut folder) = pull_folder(&mut folders).map_err(lost)? {
            if folder.path.is_empty() {
                root = Some(folder);
            } else if folder.mode & 0o700 == 0o700 {
                closed.remove(&folder.path);
                sink.adorn(&mut folder)?;
                done(&folder);
            } else {
                closed.insert(folder.path.clone(), folder);
            }
        }
        // What its owner may not enter is closed from within, deepest first.
        let mut closed: Vec<_> = closed.into_values().collect();
        closed.sort_by(|a, b| path::order(&b.path, &a.path));
        for mut folder in closed {
            sink.adorn(&mut folder)?;
            done(&folder);
        }
        Ok(root)
    }
}

fn put(spool: &Spool, record: &[u8]) -> Result<()> {
    spool.lock().unwrap_or_else(PoisonError::into_inner).write_all(record).map_err(lost)
}

fn back(spool: Spool) -> Result<BufReader<SpooledTempFile>> {
    let spool = spool.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut spool = spool.into_inner().map_err(|error| lost(error.into_error()))?;
    spool.rewind().map_err(lost)?;
    Ok(BufReader::new(spool))
}

fn push(record: &mut Vec<u8>, path: &[u8]) {
    // Paths were measured when they were read.
    record.extend_from_slice(&u32::try_from(path.len()).unwrap_or(u32::MAX).to_le_bytes());
    record.extend_from_slice(path);
}

/// The next path, or whatever was put in, of at most so many bytes; none at the end.
fn pull(input: &mut impl Read, bytes_max: u32) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match input.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let length = u32::from_le_bytes(length);
    if length > bytes_max {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut path = vec![0; length as usize];
    input.read_exact(&mut path)?;
    Ok(Some(path))
}

fn pull_folder(input: &mut impl Read) -> io::Result<Option<Described>> {
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
    let path = pull(input, PATH_BYTES_MAX)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let attributes = pull(input, ATTRIBUTES_BYTES_MAX)?.and_then(|bytes| Attributes::from_bytes(&bytes));
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

#[expect(clippy::needless_pass_by_value, reason = "it stands in `map_err`")]
fn lost(error: io::Error) -> Error {
    Error::unexpected(format!("a temporary file of the restore fails: {}", reason(&error)))
        .hint("nothing was restored; make room where temporary files go (TMPDIR)")
}
