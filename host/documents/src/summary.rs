//! Summarises a tree in one digest, over the metadata of each entry or over the content of each file.
//!
//! The digest is SHA-256 over one line per entry, in path order. Each field has a length prefix or a fixed width, so
//! two different trees never give the same bytes. No name and no content leaves this module.

use super::attributes::Attributes;
use super::entry::{Entry, Kind};
use super::exclude::Matcher;
use super::failure::Failure;
use super::open::{self, Folders};
use super::pipeline::{self, Disconnected, Inlet, Outlet};
use super::walk::{Found, Walk};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// How closely a tree is examined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// Path, kind, mode, owner, size, modification and change time, link target.
    Metadata,
    /// Path, kind, mode, owner, link target and the SHA-256 of each file's bytes; no times.
    Content,
}

/// The summary of a tree.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Summary {
    /// SHA-256 over every entry that is not excluded, in lower-case hexadecimal.
    pub digest: String,
    /// Entries that are not folders.
    pub files: u64,
    /// Content of the regular files among them.
    pub bytes: u64,
    /// Excluded entries that are not folders.
    pub excluded_files: u64,
    /// Content of the regular files among those.
    pub excluded_bytes: u64,
    /// Entries that could not be read. Only their paths are part of the digest.
    pub unreadable: u64,
}

/// Files that one job hashes.
const BATCH_FILES_MAX: usize = 256;

/// Bytes that one job hashes, unless a single file is larger.
const BATCH_BYTES_MAX: u64 = 4 << 20;

/// Bytes that are read at once while hashing.
pub(super) const READ_BYTES: usize = 256 << 10;

/// Examines every entry below `root`; `None` if `stop` was set.
pub(super) fn summarise(root: Arc<OwnedFd>, matcher: Matcher, detail: Detail, stop: &AtomicBool) -> Option<Summary> {
    let walk = Walk::new(Arc::clone(&root), matcher);
    match detail {
        Detail::Metadata => summarise_metadata(walk, stop),
        Detail::Content => summarise_content(walk, &root, stop),
    }
}

fn summarise_metadata(walk: Walk, stop: &AtomicBool) -> Option<Summary> {
    let mut summary = Summary::default();
    let mut digest = Sha256::new_with_prefix(b"tree metadata 1\n");
    let mut line = Vec::new();
    for found in walk {
        if stop.load(Ordering::Relaxed) {
            return None;
        }
        if let Some(entry) = summary.count(&found) {
            line.clear();
            push_common(&mut line, entry);
            // A folder's size and times change with its content, including excluded entries.
            if entry.meta.kind == Kind::Folder {
                push_attributes(&mut line, &entry.attributes);
            } else {
                line.extend_from_slice(&entry.meta.size_bytes.to_le_bytes());
                for time in [entry.meta.modified, entry.meta.changed] {
                    line.extend_from_slice(&time.seconds.to_le_bytes());
                    line.extend_from_slice(&time.nanoseconds.to_le_bytes());
                }
            }
            digest.update(&line);
        } else if let Some(path) = unreadable_path(&found) {
            line.clear();
            push_unreadable(&mut line, path);
            digest.update(&line);
        }
    }
    summary.digest = hex::encode(digest.finalize());
    Some(summary)
}

/// The lines of some entries, and the number of them that could not be read.
struct Hashed {
    lines: Vec<u8>,
    unreadable: u64,
}

fn summarise_content(walk: Walk, root: &Arc<OwnedFd>, stop: &AtomicBool) -> Option<Summary> {
    let mut summary = Summary::default();
    let mut digest = Sha256::new_with_prefix(b"tree content 1\n");
    let mut unreadable = 0;
    let counted = &mut summary;
    pipeline::run(
        pipeline::workers(),
        move |inlet| batches(walk, counted, stop, inlet),
        || {
            let mut folders = Folders::new(Arc::clone(root));
            let mut buffer = vec![0; READ_BYTES];
            move |batch: Vec<Found>, outlet: &Outlet<Hashed>| {
                let mut hashed = Hashed { lines: Vec::new(), unreadable: 0 };
                for found in &batch {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    hash(found, &mut folders, &mut buffer, stop, &mut hashed);
                }
                outlet.put(hashed).ok();
            }
        },
        |hashed| {
            digest.update(&hashed.lines);
            unreadable += hashed.unreadable;
            if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        },
    );
    if stop.load(Ordering::Relaxed) {
        return None;
    }
    summary.unreadable += unreadable;
    summary.digest = hex::encode(digest.finalize());
    Some(summary)
}

fn batches(
    walk: Walk,
    summary: &mut Summary,
    stop: &AtomicBool,
    inlet: &Inlet<Vec<Found>, Hashed>,
) -> Result<(), Disconnected> {
    let mut batch = Vec::new();
    let mut bytes = 0_u64;
    for found in walk {
        if stop.load(Ordering::Relaxed) {
            return Err(Disconnected);
        }
        let cost = |entry: &Entry| entry.content_bytes() + entry.attributes.bytes() as u64;
        let content = summary.count(&found).map(cost);
        if content.is_none() && unreadable_path(&found).is_none() {
            continue;
        }
        bytes = bytes.saturating_add(content.unwrap_or(0));
        batch.push(found);
        if batch.len() >= BATCH_FILES_MAX || bytes >= BATCH_BYTES_MAX {
            inlet.put(std::mem::take(&mut batch))?;
            bytes = 0;
        }
    }
    inlet.put(batch)
}

fn hash(found: &Found, folders: &mut Folders, buffer: &mut [u8], stop: &AtomicBool, hashed: &mut Hashed) {
    let Found::Entry(entry) = found else {
        if let Some(path) = unreadable_path(found) {
            push_unreadable(&mut hashed.lines, path);
        }
        return;
    };
    if entry.meta.kind != Kind::File {
        push_common(&mut hashed.lines, entry);
        if entry.meta.kind == Kind::Folder {
            push_attributes(&mut hashed.lines, &entry.attributes);
        }
        return;
    }
    let mut kept = Attributes::default();
    match hash_content::<Sha256>(&entry.path, folders, buffer, stop, |file| kept = Attributes::read_from(file)) {
        Ok((_, content)) => {
            push_common(&mut hashed.lines, entry);
            hashed.lines.extend_from_slice(&content);
            push_attributes(&mut hashed.lines, &kept);
        }
        // The file has vanished: treat it as if it had never been listed.
        Err(error) if Failure::from_error(&error) == Failure::Vanished => {}
        Err(_) => {
            push_unreadable(&mut hashed.lines, &entry.path);
            hashed.unreadable += 1;
        }
    }
}

/// Reads a file to its end and returns the number and the digest of its bytes. `opened` gets the open file first.
pub(super) fn hash_content<D: Digest>(
    path: &[u8],
    folders: &mut Folders,
    buffer: &mut [u8],
    stop: &AtomicBool,
    opened: impl FnOnce(&File),
) -> io::Result<(u64, sha2::digest::Output<D>)> {
    let (folder, name) = folders.parent_of(path)?;
    let mut file = open::file(folder, name)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no longer a file"));
    }
    opened(&file);
    let (mut digest, mut bytes) = (D::new(), 0_u64);
    loop {
        if stop.load(Ordering::Relaxed) {
            return Err(io::Error::from(io::ErrorKind::Interrupted));
        }
        match file.read(buffer) {
            Ok(0) => return Ok((bytes, digest.finalize())),
            Ok(read) => {
                digest.update(buffer.get(..read).unwrap_or_default());
                bytes += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

impl Summary {
    /// Counts an entry. Returns it if it is part of the digest.
    fn count<'f>(&mut self, found: &'f Found) -> Option<&'f Entry> {
        match found {
            Found::Entry(entry) => {
                self.files += u64::from(entry.meta.kind != Kind::Folder);
                self.bytes = self.bytes.saturating_add(entry.content_bytes());
                Some(entry)
            }
            Found::Excluded { entry, .. } => {
                self.excluded_files += u64::from(entry.meta.kind != Kind::Folder);
                self.excluded_bytes = self.excluded_bytes.saturating_add(entry.content_bytes());
                None
            }
            Found::Unreadable(_) => {
                self.unreadable += u64::from(unreadable_path(found).is_some());
                None
            }
        }
    }
}

/// The path of an entry that counts as unreadable. Excluded entries, and entries that vanished after they were listed,
/// do not count.
fn unreadable_path(found: &Found) -> Option<&[u8]> {
    match found {
        Found::Unreadable(unseen) if unseen.failure != Failure::Vanished && !unseen.excluded => Some(&unseen.path),
        _ => None,
    }
}

fn push_unreadable(line: &mut Vec<u8>, path: &[u8]) {
    line.push(b'?');
    push_bytes(line, path);
}

/// Appends the fields that are part of the digest with either detail.
fn push_common(line: &mut Vec<u8>, entry: &Entry) {
    let meta = &entry.meta;
    let (letter, target) = match &meta.kind {
        Kind::File => (b'f', &[][..]),
        Kind::Folder => (b'd', &[][..]),
        Kind::Link(target) => (b'l', target.as_slice()),
        Kind::Fifo => (b'p', &[][..]),
        Kind::Socket => (b's', &[][..]),
        Kind::CharacterDevice => (b'c', &[][..]),
        Kind::BlockDevice => (b'b', &[][..]),
    };
    line.push(letter);
    push_bytes(line, &entry.path);
    line.extend_from_slice(&meta.mode.to_le_bytes());
    line.extend_from_slice(&meta.uid.to_le_bytes());
    line.extend_from_slice(&meta.gid.to_le_bytes());
    line.extend_from_slice(&meta.device.to_le_bytes());
    push_bytes(line, target);
}

/// Appends attributes, and nothing for an entry without any, so that such an entry keeps the digest that it
/// had before attributes were archived.
fn push_attributes(line: &mut Vec<u8>, attributes: &Attributes) {
    let bytes = attributes.to_bytes();
    if !bytes.is_empty() {
        line.push(b'a');
        push_bytes(line, &bytes);
    }
}

fn push_bytes(line: &mut Vec<u8>, bytes: &[u8]) {
    line.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    line.extend_from_slice(bytes);
}
