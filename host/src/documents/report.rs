//! What an archive held, left out and stumbled over, collected while it is made.

use super::entry::{Entry, Kind, shown};
use crate::error::{Class, Error};
use rustix::io::Errno;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Problems that a report names. The total is always counted; a record with more lines than this helps nobody.
pub const PROBLEMS_MAX: usize = 1_000;

/// Excluded folders that a report names; the total is always counted.
pub const EXCLUDED_FOLDERS_MAX: usize = 1_000;

/// What an archive is to do about a file that cannot be read, or that vanishes or changes while it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenUnreadable {
    /// Name it and the reason in the report, and go on.
    Report,
    /// Fail the archive.
    Fail,
}

/// Something that is not, or not quite, in the archive.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Path below the root, without loss and fit to be shown.
    pub path: String,
    /// A lowercase phrase.
    pub reason: String,
}

/// What became of an archive.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ArchiveReport {
    /// The patterns that were left out.
    pub exclude: Vec<String>,
    /// Entries in the archive that are not folders.
    pub files: u64,
    /// Content of the regular files among them.
    pub bytes: u64,
    /// Entries left out that are not folders.
    pub excluded_files: u64,
    /// Content of the regular files among those.
    pub excluded_bytes: u64,
    /// Folders that matched a pattern, the first [`EXCLUDED_FOLDERS_MAX`] in path order.
    pub excluded_folders: Vec<String>,
    /// How many there are.
    pub excluded_folders_total: u64,
    /// In path order. There may be more than are named here: up to [`PROBLEMS_MAX`] are.
    pub problems: Vec<Problem>,
    /// How many there are.
    pub problems_total: u64,
    /// Those of them that are entries which exist and could not be read: permissions, a failing disk, a stale handle.
    pub unreadable_total: u64,
    /// Paths of the first [`PROBLEMS_MAX`] of those, in bytes, in path order.
    pub unreadable: Vec<Vec<u8>>,
    /// Those of them that vanished between being listed and being read.
    pub vanished_total: u64,
}

/// A report in the making, shared by everyone who works on the archive.
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

impl Ledger {
    pub(super) fn new(exclude: Vec<String>, when_unreadable: WhenUnreadable) -> Self {
        let report = ArchiveReport { exclude, ..ArchiveReport::default() };
        Self { when_unreadable, kept: Mutex::new(Kept { report, failure: None }) }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts what is in the archive.
    pub(super) fn archived(&self, files: u64, bytes: u64) {
        let report = &mut self.kept().report;
        report.files += files;
        report.bytes += bytes;
    }

    /// Counts what is left out; `top` where it matched a pattern itself.
    pub(super) fn excluded(&self, entry: &Entry, top: bool) {
        let report = &mut self.kept().report;
        if entry.meta.kind != Kind::Folder {
            report.excluded_files += 1;
            report.excluded_bytes = report.excluded_bytes.saturating_add(entry.content_bytes());
        } else if top {
            report.excluded_folders_total += 1;
            if report.excluded_folders.len() < EXCLUDED_FOLDERS_MAX {
                report.excluded_folders.push(shown(&entry.path));
            }
        }
    }

    /// Notes what no setting can help: an entry that no archive can hold.
    pub(super) fn note(&self, path: &[u8], reason: &str) {
        let report = &mut self.kept().report;
        report.problems_total += 1;
        if report.problems.len() < PROBLEMS_MAX {
            report.problems.push(Problem { path: shown(path), reason: reason.to_owned() });
        }
    }

    /// Notes what is not as it was on the disk, which fails the archive where that was asked for.
    pub(super) fn problem(&self, path: &[u8], reason: &str) {
        self.note(path, reason);
        if self.when_unreadable == WhenUnreadable::Fail {
            self.kept().failure.get_or_insert_with(|| {
                Error::new(
                    Class::Unexpected,
                    format!("the documents cannot be archived as they are: `{}` {reason}", shown(path)),
                )
                .hint("run it again, or let the dump plugin report such files and go on")
            });
        }
    }

    /// [`Ledger::problem`] with the system's reason.
    pub(super) fn unreadable(&self, path: &[u8], error: &io::Error) {
        self.unreadable_because(path, error.kind(), &crate::error::reason(error));
    }

    /// [`Ledger::unreadable`] with the reason as text.
    pub(super) fn unreadable_because(&self, path: &[u8], why: io::ErrorKind, reason: &str) {
        match why {
            io::ErrorKind::NotFound => {
                self.kept().report.vanished_total += 1;
                self.problem(path, "vanished before it was read");
            }
            // Another kind of entry has its name by now, so what was listed is gone.
            io::ErrorKind::NotADirectory | io::ErrorKind::Other => {
                self.problem(path, &format!("cannot be read: {reason}"));
            }
            link if link == io::Error::from(Errno::LOOP).kind() => {
                self.problem(path, &format!("cannot be read: {reason}"));
            }
            _ => self.unread(path, &format!("cannot be read: {reason}")),
        }
    }

    /// Notes an entry that exists and could not be read, or not to its end.
    pub(super) fn unread(&self, path: &[u8], reason: &str) {
        {
            let report = &mut self.kept().report;
            report.unreadable_total += 1;
            if report.unreadable.len() < PROBLEMS_MAX {
                report.unreadable.push(path.to_vec());
            }
        }
        self.problem(path, reason);
    }

    /// Why the archive has failed.
    pub(super) fn failure(&self) -> Option<Error> {
        self.kept().failure.clone()
    }

    /// The report, when all is done.
    pub(super) fn finish(&self) -> ArchiveReport {
        let mut report = self.kept().report.clone();
        report.problems.sort();
        report.unreadable.sort();
        report
    }
}
