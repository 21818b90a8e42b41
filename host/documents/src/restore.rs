//! Restores an archive into a new folder: in parallel with an index, or in one pass over any `tar.gz` without one.
//!
//! No archive can make a restore touch anything outside the new folder. The target appears as a whole or not at all.
//! This module does not choose snapshots; the caller passes an archive.

mod compare;
mod gunzip;
mod indexed;
mod late;
mod names;
mod parse;
mod sparse;
mod streamed;
mod target;
mod write;

#[cfg(test)]
pub(super) use compare::with_index;
pub(super) use gunzip::Gunzip;
pub(super) use indexed::described;
pub(super) use names::{Names, Place};
pub(super) use parse::{Described, damaged, next as next_entry, unreadable as archive_unreadable};
pub(super) use sparse::{Expanded, Map};
pub(super) use streamed::{nothing_more, padding, skip};
pub(super) use write::write_content;

use super::entry::Kind;
use super::index::Digest;
use super::index::reader::{Item, Span};
use super::object::{Archive, Means, blocking};
use super::path::shown;
use super::report::{PROBLEMS_MAX, Problem};
use base::error::{Error, Result};
use base::stream::interrupted_error;
use indicatif::HumanBytes;
use late::Late;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use target::Target;
use tokio_util::sync::CancellationToken;
use write::Privileged;

/// What a restored folder is compared with, for display.
pub const COMPARED_WITH_INDEX: &str = "its index: names, kinds, sizes, times, and the SHA-256 of each content";

/// Space for the file system's own metadata, in bytes per entry.
const ENTRY_BYTES: u64 = 512;

/// Totals of an archive, according to its index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Survey {
    /// Entries that are not folders.
    pub files: u64,
    /// Folders.
    pub folders: u64,
    /// Bytes of content, each file counted once.
    pub bytes: u64,
    /// Approximate number of bytes without holes: the disk space that a restore needs.
    pub dense_bytes: u64,
}

/// What was restored.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RestoredFolder {
    /// Files, links and FIFOs.
    pub files: u64,
    /// Folders.
    pub folders: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// Whether owners were restored. Only root can change owners.
    pub owners: bool,
    /// The first entries that were left out, and why.
    pub skipped: Vec<Problem>,
    /// How many entries were left out.
    pub skipped_total: u64,
    /// Whether everything was compared with the archive's index. Always false for an archive without an index.
    pub is_compared: bool,
    /// The first entries that were restored incompletely (attributes, access control lists, times), and why.
    pub lacking: Vec<Problem>,
    /// How many entries were restored incompletely.
    pub lacking_total: u64,
}

/// Reads a whole index and adds up its entries. `None` if the archive has no index.
///
/// # Errors
/// [`base::error::Class::Stale`] if the index is damaged or does not match its recorded SHA-256.
pub async fn survey(archive: &Archive, stop: &CancellationToken) -> Result<Option<Survey>> {
    let archive = archive.clone();
    blocking(stop, move |means| survey_blocking(&archive, &means)).await
}

fn survey_blocking(archive: &Archive, means: &Means) -> Result<Option<Survey>> {
    let (Some(object), Some(mut reader)) = (&archive.index, archive.index(means, true)?) else { return Ok(None) };
    let mut survey = Survey::default();
    let mut count = || {
        while let Some(item) = reader.next()? {
            match item {
                Item::Entry(line) if line.kind == Kind::Folder => survey.folders += 1,
                Item::Entry(line) => {
                    survey.files += 1;
                    survey.bytes = survey.bytes.saturating_add(line.size_bytes);
                }
                Item::Member(span) => survey.dense_bytes = survey.dense_bytes.saturating_add(dense(&span)),
            }
        }
        Ok(survey)
    };
    let counted = count().map_err(|error: Error| error.context(&object.name))?;
    object.check(reader.into_inner()).map_err(|error| error.context(&object.name))?;
    Ok(Some(counted))
}

/// The approximate disk space of a member. Only zeros compress to less than a two-hundredth (to about a thousandth).
const fn dense(span: &Span) -> u64 {
    const HOLE: usize = 200;
    if span.packed_bytes.saturating_mul(HOLE) < span.plain_bytes { 0 } else { span.plain_bytes as u64 }
}

/// Checks that the target is new or empty, and that its file system has enough space. Changes nothing.
///
/// # Errors
/// [`base::error::Class::Usage`] if the target exists and is not empty; [`base::error::Class::Unexpected`] if there is
/// not enough space.
pub fn check_target(into: &Path, bytes: u64, entries: u64) -> Result<()> {
    let (_, room) = target::inspect(into)?;
    let needed = bytes.saturating_add(entries.saturating_mul(ENTRY_BYTES));
    let place = into.display();
    if needed > room.bytes {
        let text = format!("not enough space for {place}: {} of {} needed", HumanBytes(room.bytes), HumanBytes(needed));
        return Err(Error::unexpected(text).hint("free some space, or restore to another disk"));
    }
    match room.files {
        Some(files) if files < entries => {
            let text = format!("the file system of {place} has room for {files} more files, but {entries} are needed");
            Err(Error::unexpected(text).hint("restore to another disk"))
        }
        _ => Ok(()),
    }
}

/// Restores an archive into a folder that is new or empty. `id` is part of the temporary folder's name. If `stop` is
/// cancelled or the future is dropped, the threads end and remove everything that they created.
///
/// # Errors
/// [`base::error::Class::Stale`] for an archive that is damaged or leads out of the folder, naming the entry; see also
/// [`check_target`]. On any error, the target is unchanged.
pub async fn restore(archive: &Archive, into: PathBuf, id: String, stop: &CancellationToken) -> Result<RestoredFolder> {
    let archive = archive.clone();
    blocking(stop, move |means| {
        let target = Target::begin(&into, &id)?;
        let work = Work::new(Arc::clone(&target.root), means);
        let done =
            if archive.index.is_some() { indexed::run(&archive, &work) } else { streamed::run(&archive.object, &work) };
        if let Err(error) =
            done.and_then(|()| if work.means.stop.is_cancelled() { Err(interrupted_error()) } else { Ok(()) })
        {
            return Err(target.abort(work.failed(error)));
        }
        let (privileged, means) = (work.privileged, work.means.clone());
        let finished = work.finish().and_then(|(restored, root)| {
            let mut restored = restored;
            let mut lacking = Problems { first: std::mem::take(&mut restored.lacking), total: restored.lacking_total };
            restored.is_compared = compare::with_index(&target.root, &archive, &means, |path| {
                lacking.add(path, "has a different modification time: the file system cannot store the original");
            })?;
            (restored.lacking, restored.lacking_total) = (lacking.first, lacking.total);
            Ok((restored, root))
        });
        match finished {
            Ok((mut restored, root)) => {
                let losses = target.finish(root, privileged)?;
                restored.lacking_total += losses.len() as u64;
                restored.lacking.extend(losses.into_iter().map(|reason| Problem { path: shown(b""), reason }));
                Ok(restored)
            }
            Err(error) => Err(target.abort(error)),
        }
    })
    .await
}

/// The first problems, and the number of all problems.
#[derive(Debug, Default)]
struct Problems {
    first: Vec<Problem>,
    total: u64,
}

impl Problems {
    fn add(&mut self, path: &[u8], reason: &str) {
        self.total += 1;
        if self.first.len() < PROBLEMS_MAX {
            self.first.push(Problem { path: shown(path), reason: reason.to_owned() });
        }
    }
}

/// Notes the attributes that could not be restored on an entry.
fn note(lacking: &Mutex<Problems>, described: &Described) {
    for loss in &described.attributes.losses {
        lacking.lock().unwrap_or_else(PoisonError::into_inner).add(&described.path, loss);
    }
}

/// What the threads of one restore share.
struct Work {
    root: Arc<OwnedFd>,
    means: Means,
    privileged: Privileged,
    late: Late,
    files: AtomicU64,
    folders: AtomicU64,
    bytes: AtomicU64,
    skipped: Mutex<Problems>,
    lacking: Mutex<Problems>,
    /// The first failure. It stops all threads.
    failure: Mutex<Option<Error>>,
}

impl Work {
    fn new(root: Arc<OwnedFd>, means: Means) -> Self {
        Self {
            root,
            means: Means { stop: means.stop.child_token(), ..means },
            privileged: Privileged::of_this_process(),
            late: Late::new(),
            files: AtomicU64::new(0),
            folders: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            skipped: Mutex::default(),
            lacking: Mutex::default(),
            failure: Mutex::default(),
        }
    }

    fn sink(&self) -> write::Sink {
        write::Sink::new(Arc::clone(&self.root), self.privileged)
    }

    /// Notes a failure and stops every thread.
    fn fail(&self, error: Error) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.means.stop.cancel();
    }

    /// The first failure. `last` may only be a consequence of it.
    fn failed(&self, last: Error) -> Error {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or(last)
    }

    fn is_stopped(&self) -> bool {
        self.means.stop.is_cancelled()
    }

    fn count_file(&self, bytes: u64) {
        self.files.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Restores an entry without content of its own.
    fn restore_bare(&self, described: &Described, sink: &mut write::Sink) -> Result<()> {
        match (&described.kind, &described.linked) {
            (Kind::Folder, _) => {
                sink.folder(&described.path)?;
                self.note(described);
                self.folders.fetch_add(1, Ordering::Relaxed);
                self.late.folder(described)
            }
            (_, Some(first)) => {
                self.count_file(0);
                self.late.link(&described.path, first)
            }
            (Kind::CharacterDevice | Kind::BlockDevice | Kind::Socket, _) => {
                let mut skipped = self.skipped.lock().unwrap_or_else(PoisonError::into_inner);
                skipped.add(&described.path, "is a device; devices are not restored");
                Ok(())
            }
            (Kind::File | Kind::Link(_) | Kind::Fifo, None) => {
                self.count_file(0);
                sink.special(described)
            }
        }
    }

    /// Notes the attributes that could not be restored on an entry.
    fn note(&self, described: &Described) {
        note(&self.lacking, described);
    }

    /// Does the work that had to wait for all files.
    fn finish(self) -> Result<(RestoredFolder, Option<Described>)> {
        let mut sink = self.sink();
        let root = self.late.finish(&mut sink, |folder| note(&self.lacking, folder))?;
        let taken = |problems: Mutex<Problems>| problems.into_inner().unwrap_or_else(PoisonError::into_inner);
        let (skipped, lacking) = (taken(self.skipped), taken(self.lacking));
        let restored = RestoredFolder {
            files: self.files.into_inner(),
            folders: self.folders.into_inner(),
            bytes: self.bytes.into_inner(),
            owners: self.privileged.0,
            skipped: skipped.first,
            skipped_total: skipped.total,
            is_compared: false,
            lacking: lacking.first,
            lacking_total: lacking.total,
        };
        Ok((restored, root))
    }
}

/// Compares a content with its SHA-256, if one is known.
pub(super) fn check_digest(path: &[u8], expected: Digest, found: impl FnOnce() -> [u8; 32]) -> Result<()> {
    match expected {
        Digest::Sha256(expected) if expected != found() => {
            let shown = shown(path);
            Err(parse::damaged(&format!("the content of `{shown}` does not match its SHA-256 in the index")))
        }
        _ => Ok(()),
    }
}
