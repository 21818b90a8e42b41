//! Single documents by name: whether they exist, their size and their MD5, which is the digest that Dolibarr records.
//!
//! This is the only capability that reveals file names. File contents never leave this module, and no path leads out of
//! the folder.

use super::entry::{Entry, Kind};
use super::exclude::Matcher;
use super::failure::Failure;
use super::open::Folders;
use super::pipeline::{self, Outlet};
use super::walk::{Found, Walk};
use super::{StopOnDrop, Tree, path, summary};
use base::error::{Class, Error, Result, reason};
use md5::Md5;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Paths in one request.
const PATHS_MAX: usize = 1_000;

/// Files on one page, even if the caller asks for more.
const PAGE_FILES_MAX: u32 = 1_000;

/// Paths in one job: enough to be worth the hand-over, few enough that every core gets some.
const BATCH_PATHS: usize = 16;

/// What exists at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DocumentState {
    /// A regular file.
    File {
        /// The number of bytes that were read.
        bytes: u64,
        /// MD5 of the content, in lower-case hexadecimal.
        md5: String,
    },
    /// Nothing exists at this path below the folder.
    Missing,
    /// It is a folder, a link or a device.
    NotAFile,
    /// It exists but cannot be read; this is the reason.
    Unreadable(String),
}

/// A file in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Path below the root.
    pub path: String,
    /// Size of the file.
    pub bytes: u64,
}

/// A page of files in path order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// The files whose paths are UTF-8.
    pub documents: Vec<Listed>,
    /// The number of files whose paths are not UTF-8.
    pub unnamed: u64,
    /// Entries that could not be examined.
    pub unreadable: u64,
    /// Where the next page begins; `None` after the last page.
    pub next: Option<String>,
}

/// Answers questions about single documents in a folder. It remembers where the last page ended, so that paging through
/// a million files walks the tree only once.
pub struct Digests {
    tree: Arc<Tree>,
    /// What the archive that the folder was restored from excluded.
    excluded: Matcher,
    walk: Mutex<Option<Paused>>,
}

/// A walk that is paused between two pages.
struct Paused {
    /// The end of the previous page; `None` at the start.
    after: Option<String>,
    walk: Walk,
}

impl std::fmt::Debug for Digests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Digests").field("tree", &self.tree).finish_non_exhaustive()
    }
}

impl Digests {
    /// Takes an open folder that was restored from an archive, and the archive's exclude patterns.
    ///
    /// # Errors
    /// [`Class::PluginRefused`] for a pattern that is not a glob.
    pub fn new(tree: Arc<Tree>, exclude: &[String]) -> Result<Self> {
        Ok(Self { tree, excluded: Matcher::new(exclude)?, walk: Mutex::default() })
    }

    /// Environment and source, as in `prod/docs`.
    pub fn scope(&self) -> &str {
        self.tree.scope()
    }

    /// Whether each path or one of its parent folders was excluded, in the order of the request.
    ///
    /// # Errors
    /// [`Class::PluginRefused`] for too many paths, or a path that is too long.
    pub fn left_out(&self, paths: &[String]) -> Result<Vec<bool>> {
        check(paths)?;
        let is_left_out = |path: &String| {
            let Ok(below) = path::below(path.as_bytes()) else { return false };
            let ends = below.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| end);
            let on_the_way = ends.map(|end| (below.get(..end).unwrap_or_default(), true));
            on_the_way
                .chain([(below.as_slice(), false)])
                .any(|(path, is_folder)| self.excluded.matches(path, is_folder))
        };
        Ok(paths.iter().map(is_left_out).collect())
    }

    /// What exists at each path, in the order of the request. Dropping the future stops the work.
    ///
    /// # Errors
    /// [`Class::PluginRefused`] for too many paths, or a path that is too long.
    pub async fn look_up(&self, paths: Vec<String>) -> Result<Vec<DocumentState>> {
        check(&paths)?;
        let root = Arc::clone(&self.tree.root);
        self.blocking(move |stop| look_up(&root, &paths, stop)).await
    }

    /// Whether each path is a file, in the order of the request. A path counts only if it is written exactly as
    /// [`Digests::list`] returns it. No content is read. Dropping the future stops the work.
    pub async fn are_files(&self, paths: Vec<String>) -> Result<Vec<bool>> {
        let root = Arc::clone(&self.tree.root);
        self.blocking(move |_| {
            let mut folders = Folders::new(root);
            Some(paths.iter().map(|path| is_file(path, &mut folders)).collect())
        })
        .await
    }

    /// A page of files after the path `after`. Dropping the future stops the work.
    pub async fn list(&self, after: Option<String>, count: u32) -> Result<Listing> {
        let paused = self.walk.lock().unwrap_or_else(PoisonError::into_inner).take();
        let root = Arc::clone(&self.tree.root);
        let nothing_left_out = Matcher::new(&[])?;
        let (listing, paused) = self
            .blocking(move |stop| {
                let fitting = paused.filter(|paused| paused.after == after);
                let (mut walk, skip_to) = match fitting {
                    Some(paused) => (paused.walk, None),
                    None => (Walk::new(root, nothing_left_out), after),
                };
                let listing = page(&mut walk, skip_to.as_deref(), count.clamp(1, PAGE_FILES_MAX), stop)?;
                Some((listing.clone(), Paused { after: listing.next, walk }))
            })
            .await?;
        if listing.next.is_some() {
            *self.walk.lock().unwrap_or_else(PoisonError::into_inner) = Some(paused);
        }
        Ok(listing)
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&AtomicBool) -> Option<T> + Send + 'static,
    ) -> Result<T> {
        let stop = Arc::new(AtomicBool::new(false));
        let _stop_on_drop = StopOnDrop(Arc::clone(&stop));
        tokio::task::spawn_blocking(move || work(&stop))
            .await
            .map_err(|error| Error::unexpected(format!("failed to examine the documents: {error}")))?
            .ok_or_else(|| Error::unexpected("examining the documents was stopped"))
    }
}

/// Checks the limits of a request. The messages do not repeat the number or length of the paths: the plugin chooses
/// them after it has seen rows, so they could leak data.
fn check(paths: &[String]) -> Result<()> {
    let refused = |message: String| Err(Error::new(Class::PluginRefused, message));
    if paths.len() > PATHS_MAX {
        return refused(format!("the plugin asked for more than {PATHS_MAX} documents in one call"));
    }
    if paths.iter().any(|path| path.len() > path::BYTES_MAX) {
        return refused(format!("the plugin asked for a path longer than {} bytes", path::BYTES_MAX));
    }
    Ok(())
}

/// Examines paths on all cores; `None` if `stop` was set.
fn look_up(root: &Arc<OwnedFd>, paths: &[String], stop: &AtomicBool) -> Option<Vec<DocumentState>> {
    let mut states = Vec::with_capacity(paths.len());
    pipeline::run(
        pipeline::workers(),
        |inlet| paths.chunks(BATCH_PATHS).try_for_each(|batch| inlet.put(batch)),
        || {
            let mut folders = Folders::new(Arc::clone(root));
            let mut buffer = vec![0; summary::READ_BYTES];
            move |batch: &[String], outlet: &Outlet<Vec<DocumentState>>| {
                let states = batch.iter().map(|path| state_of(path, &mut folders, &mut buffer, stop)).collect();
                // This fails only if the caller has gone away.
                outlet.put(states).ok();
            }
        },
        |batch| {
            states.extend(batch);
            if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        },
    );
    (!stop.load(Ordering::Relaxed) && states.len() == paths.len()).then_some(states)
}

fn is_file(path: &str, folders: &mut Folders) -> bool {
    // Accept one spelling only: other spellings of the same path could carry data.
    let Some(below) = path::below(path.as_bytes()).ok().filter(|below| below == path.as_bytes()) else { return false };
    let kind = folders.parent_of(&below).and_then(|(folder, name)| Entry::stat(folder, name, Vec::new()));
    kind.is_ok_and(|entry| entry.meta.kind == Kind::File)
}

fn state_of(path: &str, folders: &mut Folders, buffer: &mut [u8], stop: &AtomicBool) -> DocumentState {
    // Nothing can exist at an invalid path.
    let Ok(below) = path::below(path.as_bytes()) else { return DocumentState::Missing };
    let mut read = || -> io::Result<DocumentState> {
        let (folder, name) = folders.parent_of(&below)?;
        if Entry::stat(folder, name, Vec::new())?.meta.kind != Kind::File {
            return Ok(DocumentState::NotAFile);
        }
        let (bytes, md5) = summary::hash_content::<Md5>(&below, folders, buffer, stop, |_| ())?;
        Ok(DocumentState::File { bytes, md5: hex::encode(md5) })
    };
    read().unwrap_or_else(|error| match rustix::io::Errno::from_io_error(&error) {
        // The path leads through a missing folder, a file or a link (links are not followed), or a name is too long.
        Some(
            rustix::io::Errno::NOENT
            | rustix::io::Errno::NOTDIR
            | rustix::io::Errno::LOOP
            | rustix::io::Errno::NAMETOOLONG,
        ) => DocumentState::Missing,
        _ => DocumentState::Unreadable(reason(&error)),
    })
}

/// The next files of a walk, after `skip_to` if it is given; `None` if `stop` was set.
fn page(walk: &mut Walk, skip_to: Option<&str>, count: u32, stop: &AtomicBool) -> Option<Listing> {
    let mut listing = Listing::default();
    for found in walk {
        if stop.load(Ordering::Relaxed) {
            return None;
        }
        let beyond = |path: &[u8]| skip_to.is_none_or(|skip| path::order(path, skip.as_bytes()).is_gt());
        match found {
            Found::Entry(entry) if entry.meta.kind == Kind::File && beyond(&entry.path) => {
                let bytes = entry.meta.size_bytes;
                match String::from_utf8(entry.path) {
                    Ok(path) => listing.documents.push(Listed { path, bytes }),
                    Err(_) => listing.unnamed += 1,
                }
            }
            Found::Unreadable(unseen) if unseen.failure != Failure::Vanished && beyond(&unseen.path) => {
                listing.unreadable += 1;
            }
            Found::Entry(_) | Found::Excluded { .. } | Found::Unreadable(_) => {}
        }
        if listing.documents.len() >= count as usize {
            listing.next = listing.documents.last().map(|last| last.path.clone());
            return Some(listing);
        }
    }
    Some(listing)
}
