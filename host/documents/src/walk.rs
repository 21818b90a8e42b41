//! The walk: every entry of a tree in path order, excluded ones told apart, listed by several threads ahead of
//! the one that asks.
//!
//! Path order compares name by name, each by its bytes: a folder comes right before what is in it. Memory is
//! bounded by the names of the largest folder, not by the tree. Mount points are crossed, as `tar` does; symbolic
//! links are never followed.

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

/// Threads that list folders. They wait for a disk or a network most of the time, so there may be more than cores.
const LISTERS: usize = 4;

/// Entries that are looked at in one go. A folder with more is taken in chunks, so that a folder of a million
/// files costs the memory of its names and is looked at by all threads.
const CHUNK_ENTRIES: usize = 1_024;

/// Lists that may be under way or waiting to be taken. Bounds memory at 64 chunks.
const AHEAD_MAX: usize = 64;

/// What the walk comes across.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// An entry that counts.
    Entry(Entry),
    /// An entry that is left out; `top` where it matched a pattern itself and not only lies in a folder that did.
    Excluded { entry: Entry, top: bool },
    /// An entry, or the inside of a folder, that cannot be seen.
    Unreadable(Unseen),
}

/// What the walk could not see.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unseen {
    pub(super) path: Vec<u8>,
    /// It is a folder, and it could not be listed. Otherwise nobody could even see what it is.
    pub(super) is_folder: bool,
    /// It is left out, so nobody misses it.
    pub(super) excluded: bool,
    pub(super) failure: Failure,
    /// The system's.
    pub(super) reason: String,
}

/// The walk itself, an iterator.
#[derive(Debug)]
pub(super) struct Walk {
    here: Lister,
    jobs: Option<Sender<Job>>,
    listers: Vec<JoinHandle<()>>,
    frames: Vec<Frame>,
    start: Option<Found>,
    ahead: usize,
}

/// A folder on the way from the root to where the walk is.
#[derive(Debug)]
struct Frame {
    found: VecDeque<Found>,
    /// How many of `found`, from the front, were scanned for folders to list ahead.
    scanned: usize,
    /// Lists of folders that lie ahead in `found`, in their order.
    folders: VecDeque<(Vec<u8>, Receiver<Listing>)>,
    names: Arc<Names>,
    next_chunk: usize,
    chunks: VecDeque<Receiver<Listing>>,
}

/// A folder's names, sorted, in one allocation.
#[derive(Debug, Default)]
struct Names {
    folder: Vec<u8>,
    excluded: bool,
    bytes: Vec<u8>,
    places: Vec<(usize, usize)>,
    /// Of the folder itself, until the list is made.
    attributes: Attributes,
    /// A chunk of it said already that the folder cannot be reached any more.
    lost: AtomicBool,
}

#[derive(Debug)]
struct Listing {
    found: Vec<Found>,
    names: Arc<Names>,
    /// Of the folder itself.
    attributes: Attributes,
}

#[derive(Debug)]
struct Job {
    what: What,
    reply: Sender<Listing>,
}

#[derive(Debug)]
enum What {
    Folder { path: Vec<u8>, excluded: bool },
    Chunk(Arc<Names>, usize),
}

#[derive(Debug)]
struct Lister {
    folders: Folders,
    matcher: Matcher,
}

impl Walk {
    /// A walk below an open folder.
    pub(super) fn new(root: Arc<OwnedFd>, matcher: Matcher) -> Self {
        let (jobs, queue) = unbounded::<Job>();
        let mut here = Lister { folders: Folders::new(Arc::clone(&root)), matcher: matcher.clone() };
        let listers = (0..LISTERS)
            .filter_map(|_| {
                let mut lister = Lister { folders: Folders::new(Arc::clone(&root)), matcher: matcher.clone() };
                let queue: Receiver<Job> = queue.clone();
                let work = move || {
                    for job in queue {
                        drop(job.reply.send(lister.list(job.what)));
                    }
                };
                // A thread that cannot be had is done without: the walk lists what nobody listed for it.
                std::thread::Builder::new().name("walk".to_owned()).spawn(work).ok()
            })
            .collect();
        let start = here.root();
        Self { here, jobs: Some(jobs), listers, frames: Vec::new(), start: Some(start), ahead: 0 }
    }

    /// Goes into a folder that was found, and gives it back with its attributes.
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

    /// A list that was asked for, or else made here and now.
    fn take(&mut self, asked: Option<Receiver<Listing>>, what: impl FnOnce() -> What) -> Listing {
        if let Some(reply) = asked {
            self.ahead = self.ahead.saturating_sub(1);
            if let Ok(listing) = reply.recv() {
                return listing;
            }
        }
        self.here.list(what())
    }

    /// Asks for the lists that the innermost folder needs next.
    fn look_ahead(&mut self) {
        let (Some(frame), Some(jobs)) = (self.frames.last_mut(), &self.jobs) else { return };
        while frame.scanned < frame.found.len() && self.ahead < AHEAD_MAX {
            if let Some((path, excluded)) = frame.found.get(frame.scanned).and_then(Found::inside)
                && let Some(listing) = ask(jobs, What::Folder { path: path.to_vec(), excluded })
            {
                frame.folders.push_back((path.to_vec(), listing));
                self.ahead += 1;
            }
            frame.scanned += 1;
        }
        while frame.next_chunk < frame.names.chunks() && frame.chunks.len() < LISTERS && self.ahead < AHEAD_MAX {
            let Some(listing) = ask(jobs, What::Chunk(Arc::clone(&frame.names), frame.next_chunk)) else { return };
            frame.chunks.push_back(listing);
            frame.next_chunk += 1;
            self.ahead += 1;
        }
    }

    /// The next chunk of the innermost folder; false where it has no more.
    fn next_chunk(&mut self) -> bool {
        let Some(frame) = self.frames.last_mut() else { return false };
        let asked = frame.chunks.pop_front();
        if asked.is_none() && frame.next_chunk >= frame.names.chunks() {
            return false;
        }
        let names = Arc::clone(&frame.names);
        // Chunks are asked for in order, so what was asked for first lies this far back.
        let chunk = frame.next_chunk - frame.chunks.len() - usize::from(asked.is_some());
        if asked.is_none() {
            frame.next_chunk += 1;
        }
        let listing = self.take(asked, || What::Chunk(names, chunk));
        if let Some(frame) = self.frames.last_mut() {
            frame.found.extend(listing.found);
        }
        self.look_ahead();
        true
    }
}

/// Asks the listers for a list.
fn ask(jobs: &Sender<Job>, what: What) -> Option<Receiver<Listing>> {
    let (reply, listing) = bounded(1);
    jobs.send(Job { what, reply }).is_ok().then_some(listing)
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
            // It ended by panicking, which the walk made up for by listing itself.
            drop(lister.join());
        }
    }
}

impl Found {
    /// The folder whose inside comes next, and whether that is left out.
    fn inside(&self) -> Option<(&[u8], bool)> {
        match self {
            Self::Entry(entry) if entry.meta.kind == Kind::Folder => Some((&entry.path, false)),
            Self::Excluded { entry, .. } if entry.meta.kind == Kind::Folder => Some((&entry.path, true)),
            _ => None,
        }
    }
}

impl Unseen {
    /// What no reader of an archive takes back, with all that may be in it.
    fn too_deep(path: Vec<u8>, excluded: bool) -> Found {
        let reason =
            format!("it lies deeper than {} folders, or its path is too long for an archive", path::DEPTH_MAX - 1);
        Found::Unreadable(Self { path, is_folder: true, excluded, failure: Failure::Unreadable, reason })
    }

    fn entry(path: Vec<u8>, excluded: bool, error: &io::Error) -> Found {
        let (failure, reason) = (Failure::of(error), base::error::reason(error));
        Found::Unreadable(Self { path, is_folder: false, excluded, failure, reason })
    }

    /// A folder that cannot be listed has vanished only where its name is gone too: a server that lost a folder, or a
    /// mount that went away, may give the same error. The root never vanishes, because it is what is to be archived.
    fn folder(path: Vec<u8>, excluded: bool, error: &io::Error, folders: &mut Folders) -> Found {
        let mut failure = Failure::of(error);
        if path.is_empty() {
            failure = Failure::Unreadable;
        } else if failure == Failure::Vanished {
            folders.forget();
            let there = folders.of(&path).and_then(|(folder, name)| open::stat(folder, name));
            failure = there.map_or_else(|error| Failure::of(&error), |_| Failure::Unreadable);
        }
        let reason = base::error::reason(error);
        Found::Unreadable(Self { path, is_folder: true, excluded, failure, reason })
    }
}

impl Names {
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
        if filled.as_ref().is_err_and(|error| Failure::of(error) == Failure::Vanished) {
            // Another folder may have its name by now, while the old one was still open.
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
            self.attributes = Attributes::of(&folder);
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

/// Room for some 800 names in one system call.
const LIST_BUFFER_BYTES: usize = 32 << 10;

impl Lister {
    /// The root as an entry.
    fn root(&mut self) -> Found {
        let stat = self.folders.at(b"").and_then(|folder| Entry::stat(folder, b"", Vec::new()));
        stat.map_or_else(|error| Unseen::folder(Vec::new(), false, &error, &mut self.folders), Found::Entry)
    }

    fn list(&mut self, what: What) -> Listing {
        match what {
            What::Folder { path, excluded } => match Names::read(path, excluded, &mut self.folders) {
                Ok(mut names) => {
                    let attributes = std::mem::take(&mut names.attributes);
                    let names = Arc::new(names);
                    Listing { found: self.look_at(&names, 0), names, attributes }
                }
                Err(unreadable) => {
                    Listing { found: vec![*unreadable], names: Arc::default(), attributes: Attributes::default() }
                }
            },
            What::Chunk(names, chunk) => {
                Listing { found: self.look_at(&names, chunk), names, attributes: Attributes::default() }
            }
        }
    }

    fn look_at(&mut self, names: &Names, chunk: usize) -> Vec<Found> {
        let Self { folders, matcher } = self;
        let folder = match folders.at(&names.folder) {
            Ok(folder) => folder,
            Err(_) if names.lost.swap(true, Ordering::Relaxed) => return Vec::new(),
            Err(error) => return vec![Unseen::folder(names.folder.clone(), names.excluded, &error, folders)],
        };
        let look = |name: &[u8]| {
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
        names.chunk(chunk).map(look).collect()
    }
}

#[cfg(test)]
mod tests;
