//! Which entries go into which gzip member, and which names are further names of one file. Decided from what the
//! walk says alone, so that the same tree always gives the same members.

use super::entry::{Entry, Kind};
use super::header::{self, TAR_BLOCK_BYTES};
use super::index::{self, Line};
use super::member::MEMBER_BYTES;
use super::open::Folders;
use super::path;
use super::pipeline::{Gone, Inlet};
use super::read::Large;
use super::report::Ledger;
use super::restore::described;
use super::walk::{Found, Walk};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Entries in one member. Bounds what a run of empty files holds in memory.
const MEMBER_ENTRIES_MAX: usize = 4_096;

/// Files with several names whose first name is remembered. A file with further names beyond that is archived once for each.
const LINKS_MAX: usize = 100_000;

/// What a worker makes into members.
pub(super) enum Job {
    /// Whole entries, one member as a rule.
    Run(Vec<Planned>),
    /// A part of a large file, one member.
    Part(Part),
    /// The end of the archive.
    End,
}

/// An entry of a run.
pub(super) struct Planned {
    pub(super) entry: Entry,
    pub(super) name: Name,
}

/// Which of its names a file is met under.
pub(super) enum Name {
    /// The only one.
    Only,
    /// The first one, under which the content is archived.
    First(Teller),
    /// A further one, which refers to the first, if that is in the archive.
    Further(Arc<First>),
}

/// Whether a file's content went into the archive under its first name; its further names wait to hear.
#[derive(Debug)]
pub(super) struct First {
    pub(super) path: Vec<u8>,
    identity: (u64, u64),
    held: Mutex<Option<bool>>,
    told: Condvar,
}

/// Tells a file's further names. Dropped without a word it says no, so nobody waits for ever.
pub(super) struct Teller(Arc<First>);

/// A part of a large file. Dropped without being hashed it gives up the hash, so that no other part waits for it.
pub(super) struct Part {
    pub(super) file: Arc<Shared>,
    pub(super) number: u64,
    hashed: bool,
}

impl Part {
    pub(super) fn new(file: &Arc<Shared>, number: u64) -> Self {
        Self { file: Arc::clone(file), number, hashed: false }
    }

    /// Whether it is the last part.
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
    troubled: AtomicBool,
    unreadable: AtomicBool,
    hash: Mutex<Hash>,
    hashed: Condvar,
}

/// The hash of a large file, which takes its parts in order, whoever reads them.
struct Hash {
    next: u64,
    state: Option<Sha256>,
}

impl Shared {
    /// A file that is read in [`Shared::parts`].
    pub(super) fn new(path: Vec<u8>, large: Large) -> Self {
        let hash = Mutex::new(Hash { next: 0, state: Some(Sha256::new()) });
        let (troubled, unreadable) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { path, large, troubled, unreadable, hash, hashed: Condvar::new() }
    }

    /// Whether whoever restores takes its headers for what they are.
    ///
    /// # Errors
    /// What they would say.
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

    /// Parts of [`MEMBER_BYTES`], the last one shorter; at least one, for the headers.
    pub(super) fn parts(&self) -> u64 {
        self.large.meta.size_bytes.div_ceil(MEMBER_BYTES as u64).max(1)
    }

    /// Hashes a part when its turn has come. The last part gives the hash of all, unless a part was given up.
    ///
    /// It does not wait for ever: parts are worked on in their order, and one that is dropped gives up the hash.
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

    /// Whether this is the first trouble with it: one line a file is enough.
    pub(super) fn is_first_trouble(&self) -> bool {
        !self.troubled.swap(true, Ordering::AcqRel)
    }

    /// Whether this is the first part of it that cannot be read. That counts even where other trouble was noted before.
    pub(super) fn is_first_unreadable(&self) -> bool {
        self.troubled.store(true, Ordering::Release);
        !self.unreadable.swap(true, Ordering::AcqRel)
    }
}

impl First {
    /// Waits until the content is in the archive, or will never be.
    pub(super) fn is_held(&self) -> bool {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match *held {
                Some(held) => return held,
                None => held = self.told.wait(held).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

impl Teller {
    /// The content of this file went into the archive under the first name.
    pub(super) fn tell(&self, archived: (u64, u64)) {
        self.say(archived == self.0.identity);
    }

    fn say(&self, held: bool) {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(held);
        self.0.told.notify_all();
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        self.say(false);
    }
}

/// Puts the jobs of a whole walk into the pipeline.
pub(super) fn plan<R>(walk: Walk, folders: &mut Folders, ledger: &Ledger, inlet: &Inlet<Job, R>) -> Result<(), Gone> {
    let mut links = Links::default();
    let mut run = Run::default();
    for found in walk {
        let entry = match found {
            Found::Entry(entry) => entry,
            Found::Excluded { entry, top } => {
                ledger.excluded(&entry, top);
                continue;
            }
            Found::Unreadable(unseen) => {
                ledger.unseen(&unseen);
                continue;
            }
        };
        if entry.meta.kind == Kind::Socket {
            ledger.note(&entry.path, "is a socket, which no archive can hold");
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
            return Err(Gone);
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
) -> Result<(), Gone> {
    let large = match Large::open(&entry, folders) {
        Ok(large) => large,
        Err(error) => {
            ledger.unread(&entry.path, &error);
            return Ok(());
        }
    };
    let file = Arc::new(Shared::new(entry.path, large));
    if let Err(error) = file.check() {
        ledger.unreadable(&file.path, false, &format!("cannot be archived: {}", error.message()));
        return Ok(());
    }
    if let Name::First(teller) = name {
        teller.tell(file.large.meta.identity);
    }
    (0..file.parts()).try_for_each(|number| inlet.put(Job::Part(Part::new(&file, number))))
}

/// Entries that will make one member.
#[derive(Default)]
struct Run {
    entries: Vec<Planned>,
    bytes: usize,
}

impl Run {
    fn is_full_with(&self, next: &Entry) -> bool {
        self.entries.len() >= MEMBER_ENTRIES_MAX || self.bytes + cost_bytes(next) > MEMBER_BYTES
    }

    fn push(&mut self, planned: Planned) {
        self.bytes += cost_bytes(&planned.entry);
        self.entries.push(planned);
    }

    fn put<R>(&mut self, inlet: &Inlet<Job, R>) -> Result<(), Gone> {
        self.bytes = 0;
        if self.entries.is_empty() { Ok(()) } else { inlet.put(Job::Run(std::mem::take(&mut self.entries))) }
    }
}

/// What an entry adds to a member, about. Of a folder its attributes are in memory already.
fn cost_bytes(entry: &Entry) -> usize {
    let content = usize::try_from(entry.content_bytes()).unwrap_or(usize::MAX);
    content.saturating_add(3 * TAR_BLOCK_BYTES + entry.path.len() + entry.attributes.bytes())
}

/// The first names of files that have several, until all of them were met.
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
            held: Mutex::new(None),
            told: Condvar::new(),
        });
        self.0.insert(meta.identity, (Arc::clone(&first), meta.names - 1));
        Name::First(Teller(first))
    }
}
