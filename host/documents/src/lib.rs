//! A folder of documents: what can be said of it, its archive, and the way back.
//!
//! Everything is read through one descriptor of the root that is opened once, relative to it, without following a
//! link, and never written to: nothing but [`restore`] opens anything for writing, and that below a folder of its own.
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

pub use archive::ArchiveOptions;
pub use check::{Checked, check};
pub use digests::{Digests, DocumentState, Listed, Listing};
pub use get::{Content, Document, Got, Target, count_below, each, get, look_up, shown_path};
pub use object::{Archive, Fetch, Object};
pub use report::{ArchiveReport, EXCLUDED_FOLDERS_MAX, PROBLEMS_MAX, Problem, UnreadableEntry, WhenUnreadable};
pub use summary::{Depth, Summary};

use base::error::{Error, Result};
use base::evidence::{Counts, Measured, Selected};
use base::stream::ByteStream;
use exclude::Matcher;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tempfile::SpooledTempFile;

/// What an archive may need for an entry besides its content: headers and the rest of a block. An upper estimate,
/// from which a store chooses its part size.
const ENTRY_BYTES_MAX: u64 = 4_096;

/// Lists of patterns of one run that are remembered. A plugin that asks more often than this is not told of.
const LISTS_MAX: usize = 64;

/// A source that is a folder.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The folder. A symbolic link here is followed, once, when it is opened; none below it ever is.
    pub path: PathBuf,
}

/// One folder, open for one run.
#[derive(Debug)]
pub struct Tree {
    root: Arc<OwnedFd>,
    scope: String,
    seen: Mutex<Seen>,
}

/// What this run did with the folder so far.
#[derive(Debug, Default)]
struct Seen {
    excludes: Excludes,
    expected_bytes: Option<u64>,
    /// Whether a summary looked at times of change.
    with_times: bool,
    /// The most entries that a summary could not read.
    unreadable: u64,
    /// The most files that a summary counted, without those that its patterns leave out.
    files: u64,
    report: Option<ArchiveReport>,
    index: Option<SpooledTempFile>,
}

/// The patterns that were passed in during one run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Excludes {
    /// Of every summary.
    pub summarised: Vec<Vec<String>>,
    /// Of every archive.
    pub archived: Vec<Vec<String>>,
}

impl Excludes {
    /// The patterns that a summary left out and an archive did not: a fingerprint made of that summary is blind to
    /// changes of files that the archive holds. Sorted.
    #[must_use]
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

/// Raises a flag when it goes, so that work on another thread ends with the future that waits for it.
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
    /// [`base::error::Class::Config`] when it is missing, is not a folder or cannot be read.
    pub fn open(config: &Config, scope: String) -> Result<Arc<Self>> {
        let shown = config.path.display();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&config.path, flags, Mode::empty()).map_err(|error| match error {
            Errno::NOENT => Error::config(format!("the documents folder {shown} does not exist"))
                .hint(format!("check `path` of the source `{scope}`, and that its volume is mounted")),
            Errno::NOTDIR => Error::config(format!("the documents folder {shown} is not a folder"))
                .hint(format!("check `path` of the source `{scope}`")),
            Errno::ACCESS | Errno::PERM => Error::config(format!("the documents folder {shown} may not be read"))
                .hint("run as a user who may read it, such as the web server's"),
            error => Error::unavailable(format!(
                "the documents folder {shown} cannot be opened: {}",
                base::error::reason(&error.into())
            ))
            .hint("check the volume that it is on"),
        })?;
        Ok(Arc::new(Self { root: Arc::new(root), scope, seen: Mutex::default() }))
    }

    /// Environment and source, as in `prod/docs`.
    #[must_use]
    pub fn scope(&self) -> &str {
        &self.scope
    }

    /// Says what can be said of the folder. Dropping the future ends the work.
    ///
    /// # Errors
    /// [`base::error::Class::PluginRefused`] for a pattern that is none, naming it.
    pub async fn summarise(&self, exclude: &[String], depth: Depth) -> Result<Summary> {
        let matcher = Matcher::new(exclude)?;
        {
            let mut seen = self.seen();
            seen.with_times |= depth == Depth::Metadata;
            let lists = &mut seen.excludes.summarised;
            if lists.len() < LISTS_MAX {
                lists.push(exclude.to_vec());
            }
        }
        let root = Arc::clone(&self.root);
        let stop = Arc::new(AtomicBool::new(false));
        let _stop_on_drop = StopOnDrop(Arc::clone(&stop));
        let summary = tokio::task::spawn_blocking(move || summary::summarise(root, matcher, depth, &stop))
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

    /// Measures what was selected, as a record can repeat it.
    ///
    /// # Errors
    /// As [`Tree::summarise`].
    pub async fn measure(&self, selected: Selected) -> Result<Measured> {
        let (exclude, depth) = match &selected {
            Selected::TreeMetadata { exclude } => (exclude, Depth::Metadata),
            Selected::TreeContent { exclude } => (exclude, Depth::Content),
            _ => {
                return Err(Error::unexpected(format!("a folder has no {}", selected.name())));
            }
        };
        let summary = self.summarise(exclude, depth).await?;
        // Of the whole folder: a pattern must not count.
        let files = summary.files.saturating_add(summary.excluded_files);
        let bytes = summary.bytes.saturating_add(summary.excluded_bytes);
        let counts = Counts { files, bytes, ..Counts::default() };
        Ok(Measured { digest: summary.digest, counts, selected })
    }

    /// Starts an archive. Whether it succeeded shows when the stream ends; dropping the stream ends the work.
    ///
    /// # Errors
    /// [`base::error::Class::PluginRefused`] for a pattern that is none, naming it.
    pub fn archive(self: &Arc<Self>, options: ArchiveOptions) -> Result<ByteStream> {
        let matcher = Matcher::new(&options.exclude)?;
        let expected_bytes = {
            let mut seen = self.seen();
            if seen.excludes.archived.len() < LISTS_MAX {
                seen.excludes.archived.push(options.exclude.clone());
            }
            seen.report = None;
            seen.index = None;
            seen.expected_bytes
        };
        let tree = Arc::clone(self);
        let done = move |done: archive::Done| {
            let mut seen = tree.seen();
            seen.report = Some(done.report);
            seen.index = done.index;
        };
        archive::start(Arc::clone(&self.root), matcher, options, expected_bytes, done)
    }

    /// What became of the last archive; none unless its stream ended well.
    #[must_use]
    pub fn report(&self) -> Option<ArchiveReport> {
        self.seen().report.clone()
    }

    /// The index of the last archive, to be stored beside it; none unless its stream ended well, or when it was taken
    /// before. `docs/format.md` says what it holds.
    #[must_use]
    pub fn index(&self) -> Option<ByteStream> {
        let index = self.seen().index.take()?;
        Some(index::stream(index))
    }

    /// Whether a summary of this run looked at times of change, which no copy of the folder has.
    #[must_use]
    pub fn rests_on_times(&self) -> bool {
        self.seen().with_times
    }

    /// Why a fingerprint of this run's summaries does not stand for its archive: a folder that was unreadable for one of them,
    /// or that was there for the one and gone for the other, as a disk that is unmounted in between.
    #[must_use]
    pub fn difference_to_summary(&self) -> Option<String> {
        let seen = self.seen();
        let report = seen.report.as_ref()?;
        if seen.unreadable > 0 {
            return Some(format!("{} entries could not be read when it was summarised", seen.unreadable));
        }
        let archived = seen.excludes.archived.last();
        if seen.excludes.summarised.iter().any(|patterns| Some(patterns) != archived) {
            return None;
        }
        // What no archive can hold, or what changed while it was read, is named among its problems.
        let archived = report.files.saturating_add(report.problems_total.saturating_sub(report.vanished_total));
        (archived < seen.files)
            .then(|| format!("the archive has {} files, and the summary before it had {}", report.files, seen.files))
    }

    /// The patterns that were passed in so far.
    #[must_use]
    pub fn excludes(&self) -> Excludes {
        self.seen().excludes.clone()
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
