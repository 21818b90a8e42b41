//! Walks a tree: returns every entry in path order and marks excluded ones. Several threads list folders ahead of the
//! caller.
//!
//! Path order compares name by name, each by its bytes, so a folder comes right before its content. Memory depends on
//! the names of the largest folder, not on the size of the tree. The walk crosses mount points, as `tar` does, and
//! never follows symbolic links.

use super::attributes::Attributes;
use super::entry::{Entry, Kind};
use super::exclude::Matcher;
use super::failure::Failure;
use super::open::{self, Folders};
use super::path;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// Threads that list folders. They mostly wait for a disk or a network, so there may be more threads than cores.
const LISTERS: usize = 4;

/// Entries that are examined at once. A larger folder is split into chunks, so that a folder with a million files only
/// needs memory for its names, and all threads share its work.
const CHUNK_ENTRIES: usize = 1_024;

/// Listings that may be in progress or waiting. Limits memory to 64 chunks.
const AHEAD_MAX: usize = 64;

/// An item of the walk.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// An entry that is not excluded.
    Entry(Entry),
    /// An excluded entry. `top` is set if it matched a pattern itself, not just one of the folders above it.
    Excluded { entry: Entry, top: bool },
    /// An entry, or the content of a folder, that could not be examined.
    Unreadable(Unseen),
}

/// An entry, or the content of a folder, that the walk could not examine.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unseen {
    pub(super) path: Vec<u8>,
    /// Whether it is a folder that could not be listed. Otherwise, its kind is unknown.
    pub(super) is_folder: bool,
    /// Whether it is excluded, so that the archive lacks nothing.
    pub(super) excluded: bool,
    pub(super) failure: Failure,
    /// The system's error message.
    pub(super) reason: String,
}

/// The walk, an iterator.
#[derive(Debug)]
pub(super) struct Walk {
    here: Lister,
    jobs: Option<Sender<ListJob>>,
    listers: Vec<JoinHandle<()>>,
    frames: Vec<Frame>,
    start: Option<Found>,
    ahead: usize,
}

/// A folder on the path from the root to the walk's current position.
#[derive(Debug)]
struct Frame {
    found: VecDeque<Found>,
    /// How many items of `found`, from the front, were scanned for folders to list ahead.
    scanned: usize,
    /// Listings of folders that come later in `found`, in the same order.
    folders: VecDeque<(Vec<u8>, Receiver<ListedChunk>)>,
    names: Arc<FolderNames>,
    next_chunk: usize,
    chunks: VecDeque<Receiver<ListedChunk>>,
}

/// A folder's names, sorted, in one allocation.
#[derive(Debug, Default)]
struct FolderNames {
    folder: Vec<u8>,
    excluded: bool,
    bytes: Vec<u8>,
    places: Vec<(usize, usize)>,
    /// Attributes of the folder itself, until they move to the listing.
    attributes: Attributes,
    /// Whether a chunk has already reported that the folder cannot be reached any more.
    lost: AtomicBool,
}

#[derive(Debug)]
struct ListedChunk {
    found: Vec<Found>,
    names: Arc<FolderNames>,
    /// Attributes of the folder itself.
    attributes: Attributes,
}

#[derive(Debug)]
struct ListJob {
    what: What,
    reply: Sender<ListedChunk>,
}

#[derive(Debug)]
enum What {
    Folder { path: Vec<u8>, excluded: bool },
    Chunk(Arc<FolderNames>, usize),
}

#[derive(Debug)]
struct Lister {
    folders: Folders,
    matcher: Matcher,
}

impl Walk {
    /// Starts a walk below an open folder.
    pub(super) fn new(root: Arc<OwnedFd>, matcher: Matcher) -> Self {
        let (jobs, queue) = unbounded::<ListJob>();
        let mut here = Lister { folders: Folders::new(Arc::clone(&root)), matcher: matcher.clone() };
        let listers = (0..LISTERS)
            .filter_map(|_| {
                let mut lister = Lister { folders: Folders::new(Arc::clone(&root)), matcher: matcher.clone() };
                let queue: Receiver<ListJob> = queue.clone();
                let work = move || {
                    for job in queue {
                        drop(job.reply.send(lister.list(job.what)));
                    }
                };
                // If a thread cannot start, the walk continues without it and lists the folders itself.
                std::thread::Builder::new().name("walk".to_owned()).spawn(work).ok()
            })
            .collect();
        let start = here.root();
        Self { here, jobs: Some(jobs), listers, frames: Vec::new(), start: Some(start), ahead: 0 }
    }

    /// Enters a folder that was found, and returns it with its attributes. Returns other items unchanged.
    fn enter(&mut self, mut found: Found) -> Found {
        let Some((path, excluded)) = found.inside() else { return found };
        let path = path.to_vec();
        let listed = self.frames.last_mut().and_then(|frame| {
            let (ahead, _) = frame.folders.front()?;
            (*ahead == path).then(|| frame.folders.pop_front()).flatten()
        });
        let listing = self.take(listed.map(|(_, reply)| reply), || What::Folder { path, excluded });
        if let Found::Entry(entry) = &mut found {
            entry.attributes = listing.attributes;
        }
        self.frames.push(Frame {
            found: listing.found.into(),
            scanned: 0,
            folders: VecDeque::new(),
            names: listing.names,
            next_chunk: 1,
            chunks: VecDeque::new(),
        });
        self.look_ahead();
        found
    }

    /// Receives a listing that was requested, or makes it on this thread.
    fn take(&mut self, requested: Option<Receiver<ListedChunk>>, what: impl FnOnce() -> What) -> ListedChunk {
        if let Some(reply) = requested {
            self.ahead = self.ahead.saturating_sub(1);
            if let Ok(listing) = reply.recv() {
                return listing;
            }
        }
        self.here.list(what())
    }

    /// Requests the listings that the innermost folder needs next.
    fn look_ahead(&mut self) {
        let (Some(frame), Some(jobs)) = (self.frames.last_mut(), &self.jobs) else { return };
        while frame.scanned < frame.found.len() && self.ahead < AHEAD_MAX {
            if let Some((path, excluded)) = frame.found.get(frame.scanned).and_then(Found::inside)
                && let Some(listing) = request(jobs, What::Folder { path: path.to_vec(), excluded })
            {
                frame.folders.push_back((path.to_vec(), listing));
                self.ahead += 1;
            }
            frame.scanned += 1;
        }
        while frame.next_chunk < frame.names.chunks() && frame.chunks.len() < LISTERS && self.ahead < AHEAD_MAX {
            let Some(listing) = request(jobs, What::Chunk(Arc::clone(&frame.names), frame.next_chunk)) else { return };
            frame.chunks.push_back(listing);
            frame.next_chunk += 1;
            self.ahead += 1;
        }
    }

    /// Takes the next chunk of the innermost folder. Returns false if there are no more.
    fn next_chunk(&mut self) -> bool {
        let Some(frame) = self.frames.last_mut() else { return false };
        let requested = frame.chunks.pop_front();
        if requested.is_none() && frame.next_chunk >= frame.names.chunks() {
            return false;
        }
        let names = Arc::clone(&frame.names);
        // Chunks are requested in order, so the oldest request is this far back.
        let chunk = frame.next_chunk - frame.chunks.len() - usize::from(requested.is_some());
        if requested.is_none() {
            frame.next_chunk += 1;
        }
        let listing = self.take(requested, || What::Chunk(names, chunk));
        if let Some(frame) = self.frames.last_mut() {
            frame.found.extend(listing.found);
        }
        self.look_ahead();
        true
    }
}

/// Requests a listing from the listers.
fn request(jobs: &Sender<ListJob>, what: What) -> Option<Receiver<ListedChunk>> {
    let (reply, listing) = bounded(1);
    jobs.send(ListJob { what, reply }).is_ok().then_some(listing)
}

impl Iterator for Walk {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        if let Some(start) = self.start.take() {
            return Some(self.enter(start));
        }
        loop {
            let frame = self.frames.last_mut()?;
            if let Some(found) = frame.found.pop_front() {
                frame.scanned = frame.scanned.saturating_sub(1);
                return Some(self.enter(found));
            }
            if !self.next_chunk() {
                self.frames.pop();
                self.look_ahead();
            }
        }
    }
}

impl Drop for Walk {
    fn drop(&mut self) {
        self.jobs = None;
        self.frames.clear();
        for lister in self.listers.drain(..) {
            // If a lister panicked, the walk has listed the folders itself.
            drop(lister.join());
        }
    }
}

impl Found {
    /// The path of a folder whose content comes next, and whether it is excluded.
    fn inside(&self) -> Option<(&[u8], bool)> {
        match self {
            Self::Entry(entry) if entry.meta.kind == Kind::Folder => Some((&entry.path, false)),
            Self::Excluded { entry, .. } if entry.meta.kind == Kind::Folder => Some((&entry.path, true)),
            _ => None,
        }
    }
}

impl Unseen {
    /// An entry that a restore would refuse because of its path, including everything below it.
    fn too_deep(path: Vec<u8>, excluded: bool) -> Found {
        let reason =
            format!("it is deeper than {} folders, or its path is too long for an archive", path::DEPTH_MAX - 1);
        Found::Unreadable(Self { path, is_folder: true, excluded, failure: Failure::Unreadable, reason })
    }

    fn entry(path: Vec<u8>, excluded: bool, error: &io::Error) -> Found {
        let (failure, reason) = (Failure::from_error(error), base::error::reason(error));
        Found::Unreadable(Self { path, is_folder: false, excluded, failure, reason })
    }

    /// A folder that cannot be listed. It counts as vanished only if its name is gone too: a server that lost a folder,
    /// or a mount that went away, can cause the same error. The root never counts as vanished.
    fn folder(path: Vec<u8>, excluded: bool, error: &io::Error, folders: &mut Folders) -> Found {
        let mut failure = Failure::from_error(error);
        if path.is_empty() {
            failure = Failure::Unreadable;
        } else if failure == Failure::Vanished {
            folders.forget();
            let there = folders.parent_of(&path).and_then(|(folder, name)| open::stat(folder, name));
            failure = there.map_or_else(|error| Failure::from_error(&error), |_| Failure::Unreadable);
        }
        let reason = base::error::reason(error);
        Found::Unreadable(Self { path, is_folder: true, excluded, failure, reason })
    }
}

impl FolderNames {
    fn chunks(&self) -> usize {
        self.places.len().div_ceil(CHUNK_ENTRIES)
    }

    fn chunk(&self, chunk: usize) -> impl Iterator<Item = &[u8]> {
        let places = self.places.iter().skip(chunk.saturating_mul(CHUNK_ENTRIES)).take(CHUNK_ENTRIES);
        places.map(|(from, to)| self.bytes.get(*from..*to).unwrap_or_default())
    }

    /// Reads and sorts the names in a folder.
    fn read(path: Vec<u8>, excluded: bool, folders: &mut Folders) -> Result<Self, Box<Found>> {
        let mut names = Self { folder: path, excluded, ..Self::default() };
        let mut filled = names.fill(folders);
        if filled.as_ref().is_err_and(|error| Failure::from_error(error) == Failure::Vanished) {
            // Another folder may have the same name now; the old one was still open.
            folders.forget();
            filled = names.fill(folders);
        }
        if let Err(error) = filled {
            return Err(Box::new(Unseen::folder(names.folder, excluded, &error, folders)));
        }
        let Self { bytes, places, .. } = &mut names;
        places.sort_unstable_by(|(a, a_end), (b, b_end)| bytes.get(*a..*a_end).cmp(&bytes.get(*b..*b_end)));
        Ok(names)
    }

    fn fill(&mut self, folders: &mut Folders) -> io::Result<()> {
        self.bytes.clear();
        self.places.clear();
        let folder = open::list(folders.at(&self.folder)?)?;
        if !self.excluded {
            self.attributes = Attributes::read_from(&folder);
        }
        let mut buffer = Vec::with_capacity(LIST_BUFFER_BYTES);
        let mut entries = rustix::fs::RawDir::new(folder, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                let from = self.bytes.len();
                self.bytes.extend_from_slice(name);
                self.places.push((from, self.bytes.len()));
            }
        }
        Ok(())
    }
}

/// Space for about 800 names per system call.
const LIST_BUFFER_BYTES: usize = 32 << 10;

impl Lister {
    /// The root as an entry.
    fn root(&mut self) -> Found {
        let stat = self.folders.at(b"").and_then(|folder| Entry::stat(folder, b"", Vec::new()));
        stat.map_or_else(|error| Unseen::folder(Vec::new(), false, &error, &mut self.folders), Found::Entry)
    }

    fn list(&mut self, what: What) -> ListedChunk {
        match what {
            What::Folder { path, excluded } => match FolderNames::read(path, excluded, &mut self.folders) {
                Ok(mut names) => {
                    let attributes = std::mem::take(&mut names.attributes);
                    let names = Arc::new(names);
                    ListedChunk { found: self.examine(&names, 0), names, attributes }
                }
                Err(unreadable) => {
                    ListedChunk { found: vec![*unreadable], names: Arc::default(), attributes: Attributes::default() }
                }
            },
            What::Chunk(names, chunk) => {
                ListedChunk { found: self.examine(&names, chunk), names, attributes: Attributes::default() }
            }
        }
    }

    /// Reads the metadata of the entries of one chunk.
    fn examine(&mut self, names: &FolderNames, chunk: usize) -> Vec<Found> {
        let Self { folders, matcher } = self;
        let folder = match folders.at(&names.folder) {
            Ok(folder) => folder,
            Err(_) if names.lost.swap(true, Ordering::Relaxed) => return Vec::new(),
            Err(error) => return vec![Unseen::folder(names.folder.clone(), names.excluded, &error, folders)],
        };
        let examine_entry = |name: &[u8]| {
            let mut path = names.folder.clone();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name);
            if !path::fits(&path) {
                let excluded = names.excluded || matcher.matches(&path, false) || matcher.matches(&path, true);
                return Unseen::too_deep(path, excluded);
            }
            match Entry::stat(folder, name, path.clone()) {
                Err(error) => {
                    let excluded = names.excluded || matcher.matches(&path, false);
                    Unseen::entry(path, excluded, &error)
                }
                Ok(entry) if names.excluded => Found::Excluded { entry, top: false },
                Ok(entry) if matcher.matches(&entry.path, entry.meta.kind == Kind::Folder) => {
                    Found::Excluded { entry, top: true }
                }
                Ok(entry) => Found::Entry(entry),
            }
        };
        names.chunk(chunk).map(examine_entry).collect()
    }
}

#[cfg(test)]
mod tests;
