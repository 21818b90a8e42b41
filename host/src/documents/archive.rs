//! The archive: a plain `tar.gz` that stock tools read to the end, made of many gzip members.
//!
//! Each member is a run of whole tar entries, or a part of a large file; members are made in parallel and sent in path
//! order. The same tree gives the same bytes. A file that changes, shrinks or vanishes while it is read never aborts the
//! archive, unless that was asked for, and never damages what comes after it.

use super::entry::Kind;
use super::exclude::Matcher;
use super::header::{self, END};
use super::member::{MEMBER_BYTES, Packer};
use super::open::Folders;
use super::pipeline::{self, Gone, Outlet};
use super::plan::{self, Job, Name, Part, Planned, Shared};
use super::read::{self, Small};
use super::report::{ArchiveReport, Ledger, WhenUnreadable};
use super::walk::Walk;
use crate::error::{Error, Result};
use crate::stream::{self, BLOCK_BYTES, ByteStream};
use bytes::Bytes;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// What to archive and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveOptions {
    /// Globs as gitignore has them.
    pub exclude: Vec<String>,
    /// What to do about a file that cannot be read as it is.
    pub when_unreadable: WhenUnreadable,
}

/// Starts an archive on threads of its own. `done` gets the report right before the stream ends well. Dropping the
/// stream stops every thread.
pub(super) fn start(
    root: Arc<OwnedFd>,
    matcher: Matcher,
    options: ArchiveOptions,
    expected_bytes: Option<u64>,
    done: impl FnOnce(ArchiveReport) + Send + 'static,
) -> Result<ByteStream> {
    let (writer, stream) = stream::channel(expected_bytes);
    let work = move || {
        let ledger = Ledger::new(options.exclude, options.when_unreadable);
        let all_sent = make(&root, matcher, &ledger, |block| writer.blocking_send(block).is_ok());
        match ledger.failure() {
            Some(failure) => writer.blocking_fail(failure),
            None if all_sent => {
                done(ledger.finish());
                // Whoever no longer listens does not need to know that it is done.
                writer.blocking_finish().ok();
            }
            None => {}
        }
    };
    std::thread::Builder::new()
        .name("archive".to_owned())
        .spawn(work)
        .map_err(|error| Error::unexpected(format!("no thread can be started for the archive: {error}")))?;
    Ok(stream)
}

/// Makes the archive and sends it; whether all of it was sent.
fn make(root: &Arc<OwnedFd>, matcher: Matcher, ledger: &Ledger, mut send: impl FnMut(Bytes) -> bool) -> bool {
    let mut all_sent = true;
    pipeline::run(
        pipeline::workers(),
        |inlet| {
            let walk = Walk::new(Arc::clone(root), matcher);
            plan::plan(walk, &mut Folders::new(Arc::clone(root)), ledger, inlet)?;
            inlet.put(Job::Done(END.to_vec()))
        },
        || {
            let mut scribe = Scribe::new(Arc::clone(root), ledger);
            move |job, outlet: &Outlet<Vec<u8>>| {
                // The taker has gone, and the maker of jobs will notice at its next one.
                scribe.work(job, outlet).ok();
            }
        },
        |member| {
            let member = Bytes::from(member);
            let mut from = 0;
            while from < member.len() && all_sent {
                let to = member.len().min(from + BLOCK_BYTES);
                all_sent = send(member.slice(from..to));
                from = to;
            }
            if all_sent && ledger.failure().is_none() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        },
    );
    all_sent
}

/// A worker: it turns jobs into members.
struct Scribe<'l> {
    folders: Folders,
    packer: Packer,
    ledger: &'l Ledger,
    /// Tar, waiting to become a member.
    plain: Vec<u8>,
    files: u64,
    bytes: u64,
}

impl<'l> Scribe<'l> {
    fn new(root: Arc<OwnedFd>, ledger: &'l Ledger) -> Self {
        Self { folders: Folders::new(root), packer: Packer::new(), ledger, plain: Vec::new(), files: 0, bytes: 0 }
    }

    fn work(&mut self, job: Job<Vec<u8>>, outlet: &Outlet<Vec<u8>>) -> std::result::Result<(), Gone> {
        match job {
            Job::Run(entries) => {
                for planned in entries {
                    self.entry(planned, outlet)?;
                }
            }
            Job::Part(Part { file, number }) => self.part(&file, number),
            Job::Done(plain) => self.plain.extend_from_slice(&plain),
        }
        self.flush(outlet)?;
        self.ledger.archived(std::mem::take(&mut self.files), std::mem::take(&mut self.bytes));
        Ok(())
    }

    /// Makes a member of what is waiting.
    fn flush(&mut self, outlet: &Outlet<Vec<u8>>) -> std::result::Result<(), Gone> {
        if self.plain.is_empty() {
            return Ok(());
        }
        let member = self.packer.pack(&self.plain);
        self.plain.clear();
        outlet.put(member)
    }

    fn entry(&mut self, planned: Planned, outlet: &Outlet<Vec<u8>>) -> std::result::Result<(), Gone> {
        let Planned { entry, name } = planned;
        if entry.meta.kind != Kind::File {
            header::push(&mut self.plain, &entry.path, &entry.meta, None);
            self.files += u64::from(entry.meta.kind != Kind::Folder);
            return Ok(());
        }
        if let Name::Further(first) = &name
            && first.is_held()
        {
            header::push(&mut self.plain, &entry.path, &entry.meta, Some(&first.path));
            self.files += 1;
            return Ok(());
        }
        let meta = match read::small(&entry, MEMBER_BYTES as u64, &mut self.folders, &mut self.plain) {
            Ok(Small::Whole(meta)) => meta,
            Ok(Small::Restless(meta)) => {
                self.ledger
                    .problem(&entry.path, "changed each time it was read; it is archived as it was the last time");
                meta
            }
            Ok(Small::Grown(large)) => {
                if let Name::First(teller) = &name {
                    teller.tell(large.meta.identity);
                }
                let file = Shared::new(entry.path, large);
                self.flush(outlet)?;
                for number in 0..file.parts() {
                    self.part(&file, number);
                    self.flush(outlet)?;
                }
                return Ok(());
            }
            Err(error) => {
                self.ledger.unreadable(&entry.path, &error);
                return Ok(());
            }
        };
        if let Name::First(teller) = &name {
            teller.tell(meta.identity);
        }
        self.files += 1;
        self.bytes += meta.size_bytes;
        Ok(())
    }

    /// Appends a part of a large file, at the length that the header announced, whatever became of the file.
    fn part(&mut self, file: &Shared, number: u64) {
        let meta = &file.large.meta;
        if number == 0 {
            header::push(&mut self.plain, &file.path, meta, None);
            self.files += 1;
            self.bytes += meta.size_bytes;
        }
        let offset = number * MEMBER_BYTES as u64;
        let length = (meta.size_bytes - offset).min(MEMBER_BYTES as u64);
        let body = self.plain.len();
        self.plain.resize(body + usize::try_from(length).unwrap_or(MEMBER_BYTES), 0);
        let filled = file.large.fill(offset, self.plain.get_mut(body..).unwrap_or_default());
        if number + 1 == file.parts() {
            header::pad(&mut self.plain, meta.size_bytes);
        }
        let was_last = file.one_read();
        let trouble = match filled {
            Ok(()) if was_last && !file.large.is_unchanged() => {
                "changed while it was read; what is archived may mix both states".to_owned()
            }
            Ok(()) => return,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                "became shorter while it was read; zeros stand for what is missing".to_owned()
            }
            Err(error) => {
                format!("cannot be read around byte {offset}, where zeros stand: {}", super::entry::reason(&error))
            }
        };
        if file.is_first_trouble() {
            self.ledger.problem(&file.path, &trouble);
        }
    }
}
