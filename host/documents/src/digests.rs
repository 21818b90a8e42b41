//! Single documents by name: whether they are there, their size and their MD5, which is the digest that Dolibarr notes. The
//! one capability that says names of files; no byte of one leaves this module, and no path leads out of the folder.

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

/// Paths of one question.
const PATHS_MAX: usize = 1_000;

/// Files of one page, whatever is asked.
const PAGE_FILES_MAX: u32 = 1_000;

/// Paths that one job looks at: enough to be worth handing over, few enough that every core has some.
const BATCH_PATHS: usize = 16;

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DocumentState {
    /// A regular file.
    File {
        /// Its size as it was read.
        bytes: u64,
        /// Of its bytes, in lower-case hexadecimal.
        md5: String,
    },
    /// Nothing below the folder has that path.
    Missing,
    /// A folder, a link, a device.
    NotAFile,
    /// Why it cannot be read.
    Unreadable(String),
}

/// A file by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Below the root.
    pub path: String,
    /// Its size.
    pub bytes: u64,
}

/// A page of files in path order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// Those whose paths are UTF-8.
    pub documents: Vec<Listed>,
    /// Those whose paths are not.
    pub unnamed: u64,
    /// Entries that could not be looked at.
    pub unreadable: u64,
    /// Where the next page begins; none after the last.
    pub next: Option<String>,
}

/// A folder that is asked for single documents. It remembers where the last page ended, so that paging through a million
/// files walks the tree once.
pub struct Digests {
    tree: Arc<Tree>,
    /// What the archive that the folder was restored from leaves out.
    excluded: Matcher,
    walk: Mutex<Option<Paused>>,
}

/// A walk between two pages.
struct Paused {
    /// The end of the page before; none at the start.
    after: Option<String>,
    walk: Walk,
}

impl std::fmt::Debug for Digests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Digests").field("tree", &self.tree).finish_non_exhaustive()
    }
}

impl Digests {
    /// Of an open folder, which was restored from an archive without what these patterns leave out.
    ///
    /// # Errors
    /// [`Class::PluginRefused`] for a pattern that is not a glob.
    pub fn new(tree: Arc<Tree>, exclude: &[String]) -> Result<Self> {
        Ok(Self { tree, excluded: Matcher::new(exclude)?, walk: Mutex::default() })
    }

    /// Environment and source, as in `prod/docs`.
    #[must_use]
    pub fn scope(&self) -> &str {
        self.tree.scope()
    }

    /// Whether each path, or a folder on its way, is left out, in the order asked.
    ///
    /// # Errors
    /// [`Class::PluginRefused`] for more paths, or longer ones, than anybody needs.
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

    /// What is at each path, in the order asked. Dropping the future ends the work.
    ///
    /// # Errors
    /// [`Class::PluginRefused`] for more paths, or longer ones, than anybody needs.
    pub async fn look_up(&self, paths: Vec<String>) -> Result<Vec<DocumentState>> {
        check(&paths)?;
        let root = Arc::clone(&self.tree.root);
        self.blocking(move |stop| look_up(&root, &paths, stop)).await
    }

    /// Whether each path is one of a file, spelt as [`Digests::list`] names it, in the order asked. Nothing is read of them. Dropping the
    /// future ends the work.
    ///
    /// # Errors
    /// [`Class::Unexpected`] when it was stopped.
    pub async fn are_files(&self, paths: Vec<String>) -> Result<Vec<bool>> {
        let root = Arc::clone(&self.tree.root);
        self.blocking(move |_| {
            let mut folders = Folders::new(root);
            Some(paths.iter().map(|path| is_file(path, &mut folders)).collect())
        })
        .await
    }

    /// A page of files. Dropping the future ends the work.
    ///
    /// # Errors
    /// [`Class::Unexpected`] when it was stopped.
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
            .map_err(|error| Error::unexpected(format!("the documents could not be looked at: {error}")))?
            .ok_or_else(|| Error::unexpected("looking at the documents was stopped"))
    }
}

/// How many paths, and how long, the plugin decides after it saw rows: that reaches no sentence.
fn check(paths: &[String]) -> Result<()> {
    let refused = |said: String| Err(Error::new(Class::PluginRefused, said));
    if paths.len() > PATHS_MAX {
        return refused(format!("the plugin asked for more than {PATHS_MAX} documents in one call"));
    }
    if paths.iter().any(|path| path.len() > path::BYTES_MAX) {
        return refused(format!("the plugin asked for a path of more than {} bytes", path::BYTES_MAX));
    }
    Ok(())
}

/// Looks at paths on all cores; none when `stop` was raised.
fn look_up(root: &Arc<OwnedFd>, paths: &[String], stop: &AtomicBool) -> Option<Vec<DocumentState>> {
    let mut states = Vec::with_capacity(paths.len());
    pipeline::run(
        pipeline::workers(),
        |inlet| paths.chunks(BATCH_PATHS).try_for_each(|batch| inlet.put(batch)),
        || {
            let mut folders = Folders::new(Arc::clone(root));
            let mut buffer = vec![0; summary::READ_BYTES];
            move |batch: &[String], outlet: &Outlet<Vec<DocumentState>>| {
                let states = batch.iter().map(|path| look_at(path, &mut folders, &mut buffer, stop)).collect();
                // Nobody is left to take it when the call was given up.
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
    // One file has one name here: how somebody spells it could say anything.
    let Some(below) = path::below(path.as_bytes()).ok().filter(|below| below == path.as_bytes()) else { return false };
    let kind = folders.of(&below).and_then(|(folder, name)| Entry::stat(folder, name, Vec::new()));
    kind.is_ok_and(|entry| entry.meta.kind == Kind::File)
}

fn look_at(path: &str, folders: &mut Folders, buffer: &mut [u8], stop: &AtomicBool) -> DocumentState {
    // What cannot be a path below the folder names nothing there.
    let Ok(below) = path::below(path.as_bytes()) else { return DocumentState::Missing };
    let mut read = || -> io::Result<DocumentState> {
        let (folder, name) = folders.of(&below)?;
        if Entry::stat(folder, name, Vec::new())?.meta.kind != Kind::File {
            return Ok(DocumentState::NotAFile);
        }
        let (bytes, md5) = summary::content::<Md5>(&below, folders, buffer, stop, |_| ())?;
        Ok(DocumentState::File { bytes, md5: hex::encode(md5) })
    };
    read().unwrap_or_else(|error| match rustix::io::Errno::from_io_error(&error) {
        // On the way there is nothing, a file, or a link, which is not followed; no name is that long.
        Some(
            rustix::io::Errno::NOENT
            | rustix::io::Errno::NOTDIR
            | rustix::io::Errno::LOOP
            | rustix::io::Errno::NAMETOOLONG,
        ) => DocumentState::Missing,
        _ => DocumentState::Unreadable(reason(&error)),
    })
}

/// The next files of a walk, beyond `skip_to` where it is given; none when `stop` was raised.
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
