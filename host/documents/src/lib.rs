//! A folder of documents: summarising it, archiving it and restoring it.
//!
//! The root is opened once. Everything is read relative to that descriptor, without following links. This crate never
//! writes to the folder: only [`restore`] opens files for writing, and only below the folder that it creates.
#![warn(missing_docs)]

mod acl;
mod archive;
mod attributes;
mod check;
mod digests;
mod entry;
mod exclude;
mod failure;
mod get;
mod header;
mod index;
mod member;
mod object;
mod open;
mod path;
mod pipeline;
mod plan;
mod read;
mod report;
pub mod restore;
mod summary;
mod walk;

#[cfg(test)]
mod tests;

pub use archive::{ArchiveOptions, Archived};
pub use check::{Checked, check};
pub use digests::{Digests, DocumentState, Listed, Listing};
pub use get::{Content, Document, Got, Target, count_below, each, get, look_up, shown_path};
pub use object::{Archive, Fetch, StoredObject};
pub use report::{ArchiveReport, EXCLUDED_FOLDERS_MAX, PROBLEMS_MAX, Problem, UnreadableEntry, WhenUnreadable};
pub use summary::{Detail, Summary};

use base::error::{Error, Result};
use base::evidence::{Counts, Measured, Selected};
use base::stream::ByteStream;
use base::text::counted;
use exclude::Matcher;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// Bytes that an archive may need for an entry in addition to its content: headers and padding. This is an upper
/// estimate; a store chooses its part size from it.
const ENTRY_BYTES_MAX: u64 = 4_096;

/// Pattern lists that one run remembers. Later lists of a plugin that asks more often are not recorded.
const LISTS_MAX: usize = 64;

/// A source that is a folder.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FolderConfig {
    /// The folder. If this is a symbolic link, it is followed once, on opening. Links below it are never followed.
    pub path: PathBuf,
}

/// One folder, open for one run.
#[derive(Debug)]
pub struct Tree {
    root: Arc<OwnedFd>,
    scope: String,
    seen: Mutex<Seen>,
}

/// What this run has done with the folder so far.
#[derive(Debug, Default)]
struct Seen {
    excludes: Excludes,
    expected_bytes: Option<u64>,
    /// Whether a summary included change times.
    with_times: bool,
    /// The largest number of entries that a summary could not read.
    unreadable: u64,
    /// The largest number of files that a summary counted, excluded files not included.
    files: u64,
}

/// The patterns that were passed in during one run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Excludes {
    /// The patterns of every summary.
    pub summarised: Vec<Vec<String>>,
    /// The patterns of every archive.
    pub archived: Vec<Vec<String>>,
}

impl Excludes {
    /// The patterns that a summary excluded and an archive did not, sorted. A fingerprint from such a summary misses
    /// changes to files that the archive holds.
    pub fn blind(&self) -> Vec<&str> {
        let mut blind = BTreeSet::new();
        for archived in &self.archived {
            let left_out: BTreeSet<&str> = archived.iter().map(String::as_str).collect();
            let summarised = self.summarised.iter().flatten().map(String::as_str);
            blind.extend(summarised.filter(|pattern| !left_out.contains(pattern)));
        }
        blind.into_iter().collect()
    }
}

/// Sets a flag when it is dropped, so that work on another thread ends with the future that waits for it.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Tree {
    /// Opens the folder. `scope` is the environment and the source, as in `prod/docs`.
    ///
    /// # Errors
    /// [`base::error::Class::Config`] if the folder is missing, is not a folder or cannot be read.
    pub fn open(config: &FolderConfig, scope: String) -> Result<Arc<Self>> {
        let shown = config.path.display();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&config.path, flags, Mode::empty()).map_err(|error| match error {
            Errno::NOENT => Error::config(format!("the documents folder {shown} does not exist"))
                .hint(format!("check `path` of the source `{scope}`, and check that its volume is mounted")),
            Errno::NOTDIR => Error::config(format!("the documents folder {shown} is not a folder"))
                .hint(format!("check `path` of the source `{scope}`")),
            Errno::ACCESS | Errno::PERM => Error::config(format!("no permission to read the documents folder {shown}"))
                .hint("run as a user that can read it, such as the web server's user"),
            error => Error::unavailable(format!(
                "the documents folder {shown} cannot be opened: {}",
                base::error::reason(&error.into())
            ))
            .hint("check the volume that holds the folder"),
        })?;
        Ok(Arc::new(Self { root: Arc::new(root), scope, seen: Mutex::default() }))
    }

    /// Environment and source, as in `prod/docs`.
    pub fn scope(&self) -> &str {
        &self.scope
    }

    /// Summarises the folder. Dropping the future stops the work.
    ///
    /// # Errors
    /// [`base::error::Class::PluginRefused`] for an invalid pattern, naming it.
    pub async fn summarise(&self, exclude: &[String], detail: Detail) -> Result<Summary> {
        let matcher = Matcher::new(exclude)?;
        {
            let mut seen = self.seen();
            seen.with_times |= detail == Detail::Metadata;
            let lists = &mut seen.excludes.summarised;
            if lists.len() < LISTS_MAX {
                lists.push(exclude.to_vec());
            }
        }
        let root = Arc::clone(&self.root);
        let stop = Arc::new(AtomicBool::new(false));
        let _stop_on_drop = StopOnDrop(Arc::clone(&stop));
        let summary = tokio::task::spawn_blocking(move || summary::summarise(root, matcher, detail, &stop))
            .await
            .map_err(|error| Error::unexpected(format!("the documents could not be summarised: {error}")))?
            .ok_or_else(|| Error::unexpected("the summary of the documents was stopped"))?;
        let entries = summary.files.saturating_add(summary.excluded_files);
        let content = summary.bytes.saturating_add(summary.excluded_bytes);
        let mut seen = self.seen();
        seen.unreadable = seen.unreadable.max(summary.unreadable);
        seen.files = seen.files.max(summary.files);
        seen.expected_bytes = Some(content.saturating_add(entries.saturating_mul(ENTRY_BYTES_MAX)));
        drop(seen);
        Ok(summary)
    }

    /// Measures what was selected, in a form that a later run can repeat from the record.
    ///
    /// # Errors
    /// See [`Tree::summarise`].
    pub async fn measure(&self, selected: Selected) -> Result<Measured> {
        let (exclude, detail) = match &selected {
            Selected::TreeMetadata { exclude } => (exclude, Detail::Metadata),
            Selected::TreeContent { exclude } => (exclude, Detail::Content),
            _ => {
                return Err(Error::unexpected(format!("a folder has no {}", selected.name())));
            }
        };
        let summary = self.summarise(exclude, detail).await?;
        // The counts cover the whole folder: exclude patterns must not change them.
        let files = summary.files.saturating_add(summary.excluded_files);
        let bytes = summary.bytes.saturating_add(summary.excluded_bytes);
        let counts = Counts { files, bytes, ..Counts::default() };
        Ok(Measured { digest: summary.digest, counts, selected })
    }

    /// Starts an archive. The end of the stream shows whether it succeeded; only then is there an outcome. Dropping the
    /// stream stops the work.
    ///
    /// # Errors
    /// [`base::error::Class::PluginRefused`] for an invalid pattern, naming it.
    pub fn archive(&self, options: ArchiveOptions) -> Result<(ByteStream, oneshot::Receiver<Archived>)> {
        let matcher = Matcher::new(&options.exclude)?;
        let expected_bytes = {
            let mut seen = self.seen();
            if seen.excludes.archived.len() < LISTS_MAX {
                seen.excludes.archived.push(options.exclude.clone());
            }
            seen.expected_bytes
        };
        archive::start(Arc::clone(&self.root), matcher, options, expected_bytes)
    }

    /// Whether a summary of this run included change times, which a copy of the folder cannot reproduce.
    pub fn rests_on_times(&self) -> bool {
        self.seen().with_times
    }

    /// Why a fingerprint from this run's summaries does not describe its archive: entries were unreadable, or they
    /// disappeared in between, for example because a disk was unmounted.
    pub fn difference_to_summary(&self, report: &ArchiveReport) -> Option<String> {
        let seen = self.seen();
        if seen.unreadable > 0 {
            return Some(format!("the summary could not read {}", counted(seen.unreadable, "entry")));
        }
        let archived = seen.excludes.archived.last();
        if seen.excludes.summarised.iter().any(|patterns| Some(patterns) != archived) {
            return None;
        }
        // Entries that an archive cannot hold, and entries that changed while they were read, are listed as problems.
        let archived = report.files.saturating_add(report.problems_total.saturating_sub(report.vanished_total));
        (archived < seen.files)
            .then(|| format!("the archive has {} files, but the summary before it had {}", report.files, seen.files))
    }

    /// The patterns that were passed in so far.
    pub fn excludes(&self) -> Excludes {
        self.seen().excludes.clone()
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
