//! Plans which entries go into which gzip member, and which names are hard links to a file that came earlier. The plan
//! depends on the walk only, so the same tree always gives the same members.

use super::entry::{Entry, Kind};
use super::header::{self, TAR_BLOCK_BYTES};
use super::index::{self, Line};
use super::member::MEMBER_BYTES;
use super::open::Folders;
use super::path;
use super::pipeline::{Disconnected, Inlet};
use super::read::Large;
use super::report::Ledger;
use super::restore::described;
use super::walk::{Found, Walk};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Entries in one member. Limits the memory of a run of empty files.
const MEMBER_ENTRIES_MAX: usize = 4_096;

/// Files with several names whose first name is remembered. Beyond this limit, a file is archived once for each name.
const LINKS_MAX: usize = 100_000;

/// What a worker turns into members.
pub(super) enum Job {
    /// Whole entries, usually one member.
    Entries(Vec<Planned>),
    /// A part of a large file: one member.
    Part(Part),
    /// The end of the archive.
    End,
}

/// An entry of a run.
pub(super) struct Planned {
    pub(super) entry: Entry,
    pub(super) name: Name,
}

/// Which of a file's names (hard links) an entry is.
pub(super) enum Name {
    /// The only name.
    Only,
    /// The first name, under which the content is archived.
    First(Announcer),
    /// A further name. It becomes a hard link to the first name if that one is in the archive.
    Further(Arc<First>),
}

/// The first name of a file. Its further names wait until it is known whether the content was archived under this name.
#[derive(Debug)]
pub(super) struct First {
    pub(super) path: Vec<u8>,
    identity: (u64, u64),
    archived: Mutex<Option<bool>>,
    announced: Condvar,
}

/// Announces to a file's further names whether the first one was archived. Dropping it announces that it was not, so no
/// thread waits forever.
pub(super) struct Announcer(Arc<First>);

/// A part of a large file. Dropping it before it is hashed gives up the file's hash, so that no other part waits for
/// it.
pub(super) struct Part {
    pub(super) file: Arc<Shared>,
    pub(super) number: u64,
    hashed: bool,
}

impl Part {
    pub(super) fn new(file: &Arc<Shared>, number: u64) -> Self {
        Self { file: Arc::clone(file), number, hashed: false }
    }

    /// Whether this is the last part.
    pub(super) fn is_last(&self) -> bool {
        self.number + 1 == self.file.parts()
    }

    /// See [`Shared::hash`].
    pub(super) fn hash(&mut self, bytes: &[u8]) -> Option<[u8; 32]> {
        self.hashed = true;
        self.file.hash(self.number, bytes)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.hashed {
            self.file.give_up_hash();
        }
    }
}

/// A large file that several workers read.
pub(super) struct Shared {
    pub(super) path: Vec<u8>,
    pub(super) large: Large,
    has_problem: AtomicBool,
    unreadable: AtomicBool,
    hash: Mutex<Hash>,
    hashed: Condvar,
}

/// The hash of a large file. Several threads read its parts; they are hashed in order.
struct Hash {
    next: u64,
    state: Option<Sha256>,
}

impl Shared {
    /// A file that is read in [`Shared::parts`].
    pub(super) fn new(path: Vec<u8>, large: Large) -> Self {
        let hash = Mutex::new(Hash { next: 0, state: Some(Sha256::new()) });
        let (has_problem, unreadable) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { path, large, has_problem, unreadable, hash, hashed: Condvar::new() }
    }

    /// Checks that a restore accepts the file's headers.
    ///
    /// # Errors
    /// The error that a restore would report.
    pub(super) fn check(&self) -> base::error::Result<()> {
        let mut plain = Vec::new();
        header::push(&mut plain, &self.path, &self.large.meta, None, &self.large.attributes);
        let (meta, content_at) = (&self.large.meta, plain.len());
        let line = Line {
            kind: Kind::File,
            path: self.path.clone(),
            linked: None,
            at: 0,
            content_at,
            size_bytes: meta.size_bytes,
            modified: meta.modified,
            digest: index::Digest::Later,
        };
        described(&line, &plain).map(drop)
    }

    /// The number of parts of [`MEMBER_BYTES`]; the last one may be shorter. At least one, for the headers.
    pub(super) fn parts(&self) -> u64 {
        self.large.meta.size_bytes.div_ceil(MEMBER_BYTES as u64).max(1)
    }

    /// Waits for its turn and hashes a part. The last part returns the hash of the whole file, unless a part was
    /// dropped.
    ///
    /// It does not wait forever: workers take parts in order, and dropping a part gives up the hash.
    fn hash(&self, number: u64, bytes: &[u8]) -> Option<[u8; 32]> {
        let mut hash = self.hash.lock().unwrap_or_else(PoisonError::into_inner);
        while hash.next != number && hash.state.is_some() {
            hash = self.hashed.wait(hash).unwrap_or_else(PoisonError::into_inner);
        }
        hash.next += 1;
        hash.state.as_mut()?.update(bytes);
        let all = if hash.next == self.parts() { hash.state.take().map(|state| state.finalize().into()) } else { None };
        self.hashed.notify_all();
        all
    }

    fn give_up_hash(&self) {
        self.hash.lock().unwrap_or_else(PoisonError::into_inner).state = None;
        self.hashed.notify_all();
    }

    /// Whether this is the first problem with the file: the report has one line per file.
    pub(super) fn is_first_problem(&self) -> bool {
        !self.has_problem.swap(true, Ordering::AcqRel)
    }

    /// Whether this is the first part of the file that cannot be read. This counts even if another problem was noted.
    pub(super) fn is_first_unreadable(&self) -> bool {
        self.has_problem.store(true, Ordering::Release);
        !self.unreadable.swap(true, Ordering::AcqRel)
    }
}

impl First {
    /// Waits until it is decided whether the content is in the archive under this name, and returns that.
    pub(super) fn is_archived(&self) -> bool {
        let mut archived = self.archived.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match *archived {
                Some(archived) => return archived,
                None => archived = self.announced.wait(archived).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

impl Announcer {
    /// Announces which file was archived under the first name. It may be another file by now.
    pub(super) fn announce(&self, identity: (u64, u64)) {
        self.set(identity == self.0.identity);
    }

    fn set(&self, archived: bool) {
        self.0.archived.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(archived);
        self.0.announced.notify_all();
    }
}

impl Drop for Announcer {
    fn drop(&mut self) {
        self.set(false);
    }
}

/// Submits the jobs of a whole walk to the pipeline.
pub(super) fn plan<R>(
    walk: Walk,
    folders: &mut Folders,
    ledger: &Ledger,
    inlet: &Inlet<Job, R>,
) -> Result<(), Disconnected> {
    let mut links = Links::default();
    let mut run = PlannedMember::default();
    for found in walk {
        let entry = match found {
            Found::Entry(entry) => entry,
            Found::Excluded { entry, top } => {
                ledger.excluded(&entry, top);
                continue;
            }
            Found::Unreadable(unseen) => {
                ledger.note_unseen(&unseen);
                continue;
            }
        };
        if entry.meta.kind == Kind::Socket {
            ledger.note(&entry.path, "is a socket, which an archive cannot hold");
            continue;
        }
        if let Kind::Link(target) = &entry.meta.kind
            && path::leads_out(&entry.path, target)
        {
            ledger.leads_out(&entry.path);
        }
        let name = links.name(&entry);
        let large = !matches!(name, Name::Further(_)) && entry.content_bytes() > MEMBER_BYTES as u64;
        if large || run.is_full_with(&entry) {
            run.put(inlet)?;
        }
        if large {
            plan_large(entry, &name, folders, ledger, inlet)?;
        } else {
            run.push(Planned { entry, name });
        }
        if ledger.failure().is_some() {
            return Err(Disconnected);
        }
    }
    run.put(inlet)
}

fn plan_large<R>(
    entry: Entry,
    name: &Name,
    folders: &mut Folders,
    ledger: &Ledger,
    inlet: &Inlet<Job, R>,
) -> Result<(), Disconnected> {
    let large = match Large::open(&entry, folders) {
        Ok(large) => large,
        Err(error) => {
            ledger.note_unread(&entry.path, &error);
            return Ok(());
        }
    };
    let file = Arc::new(Shared::new(entry.path, large));
    if let Err(error) = file.check() {
        ledger.unreadable(&file.path, false, &format!("cannot be archived: {}", error.message()));
        return Ok(());
    }
    if let Name::First(announcer) = name {
        announcer.announce(file.large.meta.identity);
    }
    (0..file.parts()).try_for_each(|number| inlet.put(Job::Part(Part::new(&file, number))))
}

/// Entries that will make one member.
#[derive(Default)]
struct PlannedMember {
    entries: Vec<Planned>,
    bytes: usize,
}

impl PlannedMember {
    fn is_full_with(&self, next: &Entry) -> bool {
        self.entries.len() >= MEMBER_ENTRIES_MAX || self.bytes + cost_bytes(next) > MEMBER_BYTES
    }

    fn push(&mut self, planned: Planned) {
        self.bytes += cost_bytes(&planned.entry);
        self.entries.push(planned);
    }

    fn put<R>(&mut self, inlet: &Inlet<Job, R>) -> Result<(), Disconnected> {
        self.bytes = 0;
        if self.entries.is_empty() { Ok(()) } else { inlet.put(Job::Entries(std::mem::take(&mut self.entries))) }
    }
}

/// The approximate number of bytes that an entry adds to a member. The attributes of a folder are known already.
fn cost_bytes(entry: &Entry) -> usize {
    let content = usize::try_from(entry.content_bytes()).unwrap_or(usize::MAX);
    content.saturating_add(3 * TAR_BLOCK_BYTES + entry.path.len() + entry.attributes.bytes())
}

/// The first names of files with several names, until all of their names were found.
#[derive(Default)]
struct Links(HashMap<(u64, u64), (Arc<First>, u64)>);

impl Links {
    fn name(&mut self, entry: &Entry) -> Name {
        let meta = &entry.meta;
        if meta.kind != Kind::File || meta.names < 2 {
            return Name::Only;
        }
        if let Some((first, left)) = self.0.get_mut(&meta.identity) {
            let first = Arc::clone(first);
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.0.remove(&meta.identity);
            }
            return Name::Further(first);
        }
        if self.0.len() >= LINKS_MAX {
            return Name::Only;
        }
        let first = Arc::new(First {
            path: entry.path.clone(),
            identity: meta.identity,
            archived: Mutex::new(None),
            announced: Condvar::new(),
        });
        self.0.insert(meta.identity, (Arc::clone(&first), meta.names - 1));
        Name::First(Announcer(first))
    }
}
