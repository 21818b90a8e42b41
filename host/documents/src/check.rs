//! Checks an archive by reading it to its end: whether every byte is as recorded, and whether the index matches the
//! archive. Nothing is written to disk.
//!
//! Every byte of the archive is read once. Members are unpacked one by one at the places that the index gives, so an
//! index that passes leads every later reader to the right place.

use super::entry::Kind;
use super::header::TAR_BLOCK_BYTES;
use super::index::reader::{Item, Reader, Span};
use super::index::{Digest, Line};
use super::object::{Archive, Means, StoredObject, blocking};
use super::path::shown;
use super::restore::{
    Gunzip, Names, archive_unreadable, check_digest, damaged, described, next_entry, nothing_more, padding, skip,
};
use base::error::{Error, Result};
use base::stream::{BlockingReader, interrupted_error};
use libdeflater::Decompressor;
use sha2::{Digest as _, Sha256};
use std::io::{self, BufReader, Read};
use tokio_util::sync::CancellationToken;

/// Bytes that are unpacked at once if there is no index.
const BUFFER_BYTES: usize = 256 << 10;

/// The result of checking an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Checked {
    /// Entries that are not folders.
    pub files: u64,
    /// Folders.
    pub folders: u64,
    /// Whether the content of each file was compared with its SHA-256 in the index.
    pub indexed: bool,
}

/// Reads an archive to its end, together with its index if it has one.
///
/// # Errors
/// [`base::error::Class::Stale`] if the archive or the index is damaged, naming the object.
pub async fn check(archive: &Archive, stop: &CancellationToken) -> Result<Checked> {
    let archive = archive.clone();
    blocking(stop, move |means| match archive.index(&means, true)? {
        Some(index) => by_index(&archive, index, &means),
        None => by_pass(&archive.object, &means).map_err(|error| error.context(&archive.object.name)),
    })
    .await
}

/// A file whose content continues in the next member.
struct Open {
    path: Vec<u8>,
    left_bytes: u64,
    digest: Digest,
    hasher: Sha256,
}

struct Pass {
    archive: BlockingReader,
    unpacker: Decompressor,
    packed: Vec<u8>,
    plain: Vec<u8>,
    open: Option<Open>,
    /// Whether no entry or content has been found in the last member so far.
    vacant: bool,
    checked: Checked,
}

fn by_index(archive: &Archive, mut index: Reader<BlockingReader>, means: &Means) -> Result<Checked> {
    let in_archive = |error: Error| error.context(&archive.object.name);
    let in_index = |error: Error| match &archive.index {
        Some(object) => error.context(&object.name),
        None => error,
    };
    let mut pass = Pass {
        archive: archive.object.read(None, means, true)?,
        unpacker: Decompressor::new(),
        packed: Vec::new(),
        plain: Vec::new(),
        open: None,
        vacant: false,
        checked: Checked { indexed: true, ..Checked::default() },
    };
    while let Some(item) = index.next().map_err(in_index)? {
        if means.stop.is_cancelled() {
            return Err(interrupted_error());
        }
        match item {
            Item::Member(span) => pass.member(span).map_err(in_archive)?,
            Item::Entry(line) => pass.entry(&line).map_err(in_archive)?,
        }
    }
    pass.end().map_err(in_archive)?;
    archive.object.check(pass.archive).map_err(in_archive)?;
    if let Some(object) = &archive.index {
        object.check(index.into_inner()).map_err(in_index)?;
    }
    Ok(pass.checked)
}

impl Pass {
    fn member(&mut self, span: Span) -> Result<()> {
        self.packed.resize(span.packed_bytes, 0);
        self.archive.read_exact(&mut self.packed).map_err(archive_unreadable)?;
        self.plain.resize(span.plain_bytes, 0);
        let unpacked = self.unpacker.gzip_decompress(&self.packed, &mut self.plain);
        if unpacked != Ok(self.plain.len()) {
            let at = span.offset;
            return Err(damaged(&format!("the member at byte {at} does not unpack to the length in the index")));
        }
        self.vacant = self.open.is_none();
        let Some(mut open) = self.open.take() else { return Ok(()) };
        let here = usize::try_from(open.left_bytes).unwrap_or(usize::MAX).min(self.plain.len());
        open.hasher.update(self.plain.get(..here).unwrap_or_default());
        open.left_bytes -= here as u64;
        if open.left_bytes == 0 {
            return check_digest(&open.path, open.digest, || open.hasher.finalize().into());
        }
        self.open = Some(open);
        Ok(())
    }

    fn entry(&mut self, line: &Line) -> Result<()> {
        self.vacant = false;
        described(line, &self.plain)?;
        match line.kind {
            Kind::Folder => self.checked.folders += 1,
            _ => self.checked.files += 1,
        }
        if line.kind != Kind::File || line.linked.is_some() {
            return Ok(());
        }
        let rest = self.plain.get(line.content_at..).unwrap_or_default();
        let size = usize::try_from(line.size_bytes).unwrap_or(usize::MAX);
        if let Some(content) = rest.get(..size) {
            return check_digest(&line.path, line.digest, || Sha256::digest(content).into());
        }
        let hasher = Sha256::new_with_prefix(rest);
        let left_bytes = line.size_bytes.saturating_sub(rest.len() as u64);
        self.open = Some(Open { path: line.path.clone(), left_bytes, digest: line.digest, hasher });
        Ok(())
    }

    fn end(&self) -> Result<()> {
        if let Some(open) = &self.open {
            return Err(damaged(&format!("it ends inside `{}`", shown(&open.path))));
        }
        let is_end = self.plain.len() >= 2 * TAR_BLOCK_BYTES && self.plain.iter().all(|byte| *byte == 0);
        if self.vacant && is_end { Ok(()) } else { Err(damaged("its last member is not an end-of-archive marker")) }
    }
}

/// Checks any `tar.gz` in one pass: whether its headers are valid to the end and its checksums are right.
fn by_pass(object: &StoredObject, means: &Means) -> Result<Checked> {
    let reader = object.read(None, means, true)?;
    let mut input = BufReader::with_capacity(BUFFER_BYTES, Gunzip::new(reader));
    let (mut checked, mut names) = (Checked::default(), Names::default());
    while let Some(entry) = next_entry(&mut input)? {
        if means.stop.is_cancelled() {
            return Err(interrupted_error());
        }
        names.add(&entry)?;
        match entry.kind {
            Kind::Folder => checked.folders += 1,
            _ => checked.files += 1,
        }
        skip(&mut input, entry.stored_bytes.saturating_add(padding(entry.stored_bytes)))?;
    }
    nothing_more(&mut input)?;
    let input = input.into_inner().into_inner();
    object.check(input.ok_or_else(|| archive_unreadable(io::ErrorKind::UnexpectedEof.into()))?)?;
    Ok(checked)
}
