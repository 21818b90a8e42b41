//! Reading an archive to its end without unpacking it anywhere: whether every byte is as it was recorded, and whether the
//! index says what is in it.
//!
//! Every byte of the archive is read once. Members are unpacked one by one where the index says that they are, so that an
//! index which passes leads every later reader to the right place.

use super::entry::Kind;
use super::header::TAR_BLOCK_BYTES;
use super::index::reader::{Item, Reader, Span};
use super::index::{Digest, Line};
use super::object::{Archive, Means, Object, blocking};
use super::path::shown;
use super::restore::{
    Gunzip, Names, archive_unreadable, check_digest, damaged, described, next_entry, nothing_more, padding, skip,
};
use base::error::{Error, Result};
use base::stream::{BlockingReader, stopped};
use libdeflater::Decompressor;
use sha2::{Digest as _, Sha256};
use std::io::{self, BufReader, Read};
use tokio_util::sync::CancellationToken;

/// Bytes that are unpacked at once where there is no index.
const BUFFER_BYTES: usize = 256 << 10;

/// What an archive holds that was read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Checked {
    /// Entries that are no folders.
    pub files: u64,
    /// Folders.
    pub folders: u64,
    /// Whether each content was compared with its SHA-256 in the index.
    pub indexed: bool,
}

/// Reads an archive to its end, and its index beside it where it has one.
///
/// # Errors
/// Of class [`base::error::Class::Stale`] for what is not as it was, naming the object; the store's.
pub async fn check(archive: &Archive, stop: &CancellationToken) -> Result<Checked> {
    let archive = archive.clone();
    blocking(stop, move |means| match archive.index(&means, true)? {
        Some(index) => by_index(&archive, index, &means),
        None => by_pass(&archive.object, &means).map_err(|error| error.context(&archive.object.name)),
    })
    .await
}

/// A content that goes on in the next member.
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
    /// Whether nothing is in the last member so far.
    vacant: bool,
    checked: Checked,
}

fn by_index(archive: &Archive, mut index: Reader<BlockingReader>, means: &Means) -> Result<Checked> {
    let of_archive = |error: Error| error.context(&archive.object.name);
    let of_index = |error: Error| match &archive.index {
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
    while let Some(item) = index.next().map_err(of_index)? {
        if means.stop.is_cancelled() {
            return Err(stopped());
        }
        match item {
            Item::Member(span) => pass.member(span).map_err(of_archive)?,
            Item::Entry(line) => pass.entry(&line).map_err(of_archive)?,
        }
    }
    pass.end().map_err(of_archive)?;
    archive.object.check(pass.archive).map_err(of_archive)?;
    if let Some(object) = &archive.index {
        object.check(index.into_inner()).map_err(of_index)?;
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
            return Err(damaged(&format!("the member at byte {at} cannot be unpacked to what its index says")));
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
        if self.vacant && is_end { Ok(()) } else { Err(damaged("its last member is not its end")) }
    }
}

/// Any `tar.gz`: its headers make sense to the end, and its checksums are right.
fn by_pass(object: &Object, means: &Means) -> Result<Checked> {
    let reader = object.read(None, means, true)?;
    let mut input = BufReader::with_capacity(BUFFER_BYTES, Gunzip::new(reader));
    let (mut checked, mut names) = (Checked::default(), Names::default());
    while let Some(entry) = next_entry(&mut input)? {
        if means.stop.is_cancelled() {
            return Err(stopped());
        }
        names.take(&entry)?;
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
