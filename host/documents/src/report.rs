//! The report of an archive: what it holds, what was excluded and what went wrong, collected while it is created.

use super::attributes::Attributes;
use super::entry::{Entry, Kind};
use super::failure::Failure;
use super::path;
use super::path::shown;
use super::walk::Unseen;
use base::error::{Class, Error};
use std::collections::BTreeSet;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Problems that a report lists. The total is always counted; a record with more lines would help nobody.
pub const PROBLEMS_MAX: usize = 1_000;

/// Excluded folders that a report lists; the total is always counted.
pub const EXCLUDED_FOLDERS_MAX: usize = 1_000;

/// Excluded files that a report lists; the total is always counted.
pub const EXCLUDED_NAMES_MAX: usize = 1_000;

/// Links out of the folder that a report lists; the total is always counted. If there are more, they are all alike.
pub const LINKS_OUT_MAX: usize = 100;

/// Names of attributes that are not kept. A file system usually has a handful.
pub const FOREIGN_ATTRIBUTES_MAX: usize = 100;

/// What to do about a file that cannot be read, or that vanishes or changes while it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenUnreadable {
    /// List the file and the reason in the report, and continue.
    Report,
    /// Fail the archive.
    Fail,
}

/// An entry that is missing from the archive or not archived faithfully.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Path below the root, for display and without loss.
    pub path: String,
    /// The reason, a lowercase phrase.
    pub reason: String,
}

/// An entry that exists but could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadableEntry {
    /// Path below the root, in bytes; empty for the root.
    pub path: Vec<u8>,
    /// Whether it is a folder that could not be listed. If not even its metadata could be read, this is false, but the
    /// entry may still be a folder.
    pub is_folder: bool,
}

/// The report of a finished archive.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ArchiveReport {
    /// The exclude patterns.
    pub exclude: Vec<String>,
    /// Entries in the archive that are not folders.
    pub files: u64,
    /// Content of the regular files among them.
    pub bytes: u64,
    /// Excluded entries that are not folders.
    pub excluded_files: u64,
    /// Content of the regular files among those.
    pub excluded_bytes: u64,
    /// Folders that matched a pattern, the first [`EXCLUDED_FOLDERS_MAX`] in path order.
    pub excluded_folders: Vec<String>,
    /// How many folders matched.
    pub excluded_folders_total: u64,
    /// Files that matched a pattern themselves, the first [`EXCLUDED_NAMES_MAX`] in path order.
    pub excluded_names: Vec<String>,
    /// How many files matched.
    pub excluded_names_total: u64,
    /// Symbolic links whose target is outside the folder and therefore not in the archive, the first [`LINKS_OUT_MAX`]
    /// in path order.
    pub links_out: Vec<String>,
    /// How many such links there are.
    pub links_out_total: u64,
    /// Names of extended attributes that the archive does not keep, at most [`FOREIGN_ATTRIBUTES_MAX`].
    pub foreign_attributes: BTreeSet<String>,
    /// Problems in path order, at most [`PROBLEMS_MAX`].
    pub problems: Vec<Problem>,
    /// How many problems there are.
    pub problems_total: u64,
    /// The problems of entries that exist but could not be read, or not to their end: permission denied, an I/O error,
    /// a stale handle. A folder that cannot be listed counts once, no matter what is below it.
    pub unreadable_total: u64,
    /// The unreadable entries in path order, at most [`PROBLEMS_MAX`]. If there are more, folders take precedence.
    pub unreadable: Vec<UnreadableEntry>,
    /// The problems of entries that vanished between being listed and being read.
    pub vanished_total: u64,
}

/// A report that is being collected, shared by all threads that work on the archive.
#[derive(Debug)]
pub(super) struct Ledger {
    when_unreadable: WhenUnreadable,
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    report: ArchiveReport,
    failure: Option<Error>,
}

impl ArchiveReport {
    fn unreadable(&mut self, entry: UnreadableEntry) {
        self.unreadable_total += 1;
        if self.unreadable.len() < PROBLEMS_MAX {
            self.unreadable.push(entry);
        } else if entry.is_folder
            && let Some(other) = self.unreadable.iter_mut().rfind(|kept| !kept.is_folder)
        {
            *other = entry;
        }
    }
}

impl Ledger {
    pub(super) fn new(exclude: Vec<String>, when_unreadable: WhenUnreadable) -> Self {
        let report = ArchiveReport { exclude, ..ArchiveReport::default() };
        Self { when_unreadable, kept: Mutex::new(Kept { report, failure: None }) }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts archived entries and their content.
    pub(super) fn archived(&self, files: u64, bytes: u64) {
        let report = &mut self.kept().report;
        report.files += files;
        report.bytes += bytes;
    }

    /// Counts an excluded entry. `top` is set if the entry matched a pattern itself.
    pub(super) fn excluded(&self, entry: &Entry, top: bool) {
        let report = &mut self.kept().report;
        if entry.meta.kind != Kind::Folder {
            report.excluded_files += 1;
            report.excluded_bytes = report.excluded_bytes.saturating_add(entry.content_bytes());
            if top {
                report.excluded_names_total += 1;
                if report.excluded_names.len() < EXCLUDED_NAMES_MAX {
                    report.excluded_names.push(shown(&entry.path));
                }
            }
        } else if top {
            report.excluded_folders_total += 1;
            if report.excluded_folders.len() < EXCLUDED_FOLDERS_MAX {
                report.excluded_folders.push(shown(&entry.path));
            }
        }
    }

    /// Counts a symbolic link whose target is outside the folder.
    pub(super) fn leads_out(&self, path: &[u8]) {
        let report = &mut self.kept().report;
        report.links_out_total += 1;
        if report.links_out.len() < LINKS_OUT_MAX {
            report.links_out.push(shown(path));
        }
    }

    /// Notes the attributes of an entry that the archive does not keep.
    pub(super) fn attributes(&self, path: &[u8], attributes: &Attributes) {
        for loss in &attributes.losses {
            self.note(path, loss);
        }
        if !attributes.foreign.is_empty() {
            let names = &mut self.kept().report.foreign_attributes;
            let room = FOREIGN_ATTRIBUTES_MAX.saturating_sub(names.len());
            names.extend(attributes.foreign.iter().take(room).cloned());
        }
    }

    /// Notes a problem that never fails the archive, such as an entry that an archive cannot hold.
    pub(super) fn note(&self, path: &[u8], reason: &str) {
        let report = &mut self.kept().report;
        report.problems_total += 1;
        if report.problems.len() < PROBLEMS_MAX {
            report.problems.push(Problem { path: shown(path), reason: reason.to_owned() });
        }
    }

    /// Notes an entry that is not archived as it was on disk. With [`WhenUnreadable::Fail`], this fails the archive.
    pub(super) fn problem(&self, path: &[u8], reason: &str) {
        self.note(path, reason);
        if self.when_unreadable == WhenUnreadable::Fail {
            self.kept().failure.get_or_insert_with(|| {
                Error::new(
                    Class::Unexpected,
                    format!("the documents could not be archived as they were: `{}` {reason}", shown(path)),
                )
                .hint("run it again, or configure the dump plugin to report such files and continue")
            });
        }
    }

    /// Notes an entry that the walk could not examine.
    pub(super) fn note_unseen(&self, unseen: &Unseen) {
        let Unseen { path, is_folder, excluded, failure, reason } = unseen;
        // An excluded entry is not missing from the archive, so it does not count as unreadable.
        let failure = if *excluded && *failure == Failure::Unreadable { Failure::Unfit } else { *failure };
        if *excluded && failure == Failure::Vanished {
            return;
        }
        self.note_failure(path, *is_folder, failure, reason);
    }

    /// Notes a file that could not be opened or read.
    pub(super) fn note_unread(&self, path: &[u8], error: &io::Error) {
        self.note_failure(path, false, Failure::from_error(error), &base::error::reason(error));
    }

    fn note_failure(&self, path: &[u8], is_folder: bool, failure: Failure, reason: &str) {
        match failure {
            Failure::Vanished => {
                self.kept().report.vanished_total += 1;
                self.problem(path, "vanished before it was read");
            }
            Failure::Unfit => self.problem(path, &format!("cannot be read: {reason}")),
            Failure::Unreadable => self.unreadable(path, is_folder, &format!("cannot be read: {reason}")),
        }
    }

    /// Notes an entry that exists but could not be read, or not to its end.
    pub(super) fn unreadable(&self, path: &[u8], is_folder: bool, reason: &str) {
        self.kept().report.unreadable(UnreadableEntry { path: path.to_vec(), is_folder });
        self.problem(path, reason);
    }

    /// Why the archive has failed.
    pub(super) fn failure(&self) -> Option<Error> {
        self.kept().failure.clone()
    }

    /// The finished report, sorted.
    pub(super) fn finish(&self) -> ArchiveReport {
        let mut report = self.kept().report.clone();
        report.problems.sort();
        report.unreadable.sort_by(|a, b| path::order(&a.path, &b.path));
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_list_of_unreadable_entries_keeps_folders_and_counts_all() {
        let ledger = Ledger::new(Vec::new(), WhenUnreadable::Report);
        for n in 0..PROBLEMS_MAX {
            ledger.unreadable(format!("f{n:04}").as_bytes(), false, "cannot be read");
        }
        for folder in ["z", "a"] {
            ledger.unreadable(folder.as_bytes(), true, "cannot be read");
        }
        ledger.unreadable(b"late", false, "cannot be read");
        let report = ledger.finish();
        let total = PROBLEMS_MAX as u64 + 3;
        assert_eq!((report.unreadable_total, report.problems_total, report.vanished_total), (total, total, 0));
        let folders = report.unreadable.iter().filter(|entry| entry.is_folder).count();
        assert_eq!((report.unreadable.len(), folders), (PROBLEMS_MAX, 2));
        assert!(report.unreadable.is_sorted_by(|a, b| path::order(&a.path, &b.path).is_le()));
        assert_eq!(report.unreadable.last().unwrap().path, b"z");
    }
}
