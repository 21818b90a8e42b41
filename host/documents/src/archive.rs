//! Creates the archive: a plain `tar.gz` that stock tools can read to the end, made of many gzip members.
//!
//! Each member holds whole tar entries or a part of a large file. Members are compressed in parallel and sent in path
//! order. The same tree gives the same bytes. A file that changes, shrinks or vanishes while it is read does not abort
//! the archive, unless the caller asks for that, and never damages the entries after it.

use super::attributes::Attributes;
use super::entry::{Entry, Kind, Meta};
use super::exclude::Matcher;
use super::header::{self, END};
use super::index::reader::Reader;
use super::index::{self, Digest, Index, Line, Member};
use super::member::{MEMBER_BYTES, Packer};
use super::open::Folders;
use super::pipeline::{self, Disconnected, Outlet};
use super::plan::{self, Job, Name, Part, Planned, Shared};
use super::read::{self, Small};
use super::report::{ArchiveReport, Ledger, WhenUnreadable};
use super::restore::described;
use super::walk::Walk;
use base::error::{Error, Result, reason};
use base::stream::{self, BLOCK_BYTES, ByteStream};
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use std::io::{self, BufReader, Seek};
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tempfile::SpooledTempFile;
use tokio::sync::oneshot;

/// What to archive and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveOptions {
    /// Globs in gitignore syntax.
    pub exclude: Vec<String>,
    /// What to do about a file that cannot be read, or that changes while it is read.
    pub when_unreadable: WhenUnreadable,
}

/// The outcome of an archive whose stream ended successfully.
#[derive(Debug)]
pub struct Archived {
    /// What it holds, what was excluded and what went wrong.
    pub report: ArchiveReport,
    index: Option<SpooledTempFile>,
}

impl Archived {
    /// Takes the index, which is stored beside the archive. `docs/format.md` describes its format. `None` if its
    /// temporary file could not be written, as the report then says, and on every later call.
    pub fn take_index(&mut self) -> Option<ByteStream> {
        self.index.take().map(index::stream)
    }
}

/// Starts an archive on its own threads. Its outcome is sent right before the stream ends successfully. Dropping the
/// stream stops every thread.
pub(super) fn start(
    root: Arc<OwnedFd>,
    matcher: Matcher,
    options: ArchiveOptions,
    expected_bytes: Option<u64>,
) -> Result<(ByteStream, oneshot::Receiver<Archived>)> {
    let (outcome, received) = oneshot::channel();
    let (writer, stream) = stream::channel(expected_bytes);
    let work = move || {
        let ledger = Ledger::new(options.exclude, options.when_unreadable);
        let mut index = Index::new().map(Some);
        let all_sent = make(&root, matcher, &ledger, |member| {
            index = match std::mem::replace(&mut index, Ok(None)) {
                Ok(Some(mut index)) => index.add(&member).map(|()| Some(index)),
                other => other,
            };
            send(&writer, member)
        });
        if let Some(failure) = ledger.failure() {
            writer.blocking_fail(failure);
        } else if all_sent {
            let index = index.and_then(|index| index.map(Index::finish).transpose());
            let index = index.map_err(|error| reason(&error)).and_then(|index| index.map(read_back).transpose());
            if let Err(error) = &index {
                ledger.note(b"", &format!("has no index, because writing the index failed: {error}"));
            }
            // Nobody has to wait for it.
            outcome.send(Archived { report: ledger.finish(), index: index.unwrap_or_default() }).ok();
            // A consumer that is gone does not need the end of the stream.
            writer.blocking_finish().ok();
        }
    };
    std::thread::Builder::new()
        .name("archive".to_owned())
        .spawn(work)
        .map_err(|error| Error::unexpected(format!("failed to start a thread for the archive: {error}")))?;
    Ok((stream, received))
}

/// Reads the index the way a restore does, before a record refers to it.
fn read_back((mut file, archive_bytes): (SpooledTempFile, u64)) -> std::result::Result<SpooledTempFile, String> {
    file.rewind().map_err(|error| reason(&error))?;
    let read = Reader::new(BufReader::new(&mut file), archive_bytes).and_then(|mut index| {
        while index.next()?.is_some() {}
        Ok(())
    });
    read.map(|()| file).map_err(|error| error.message().to_owned())
}

/// Sends a member in blocks, without copying it. Returns whether the consumer is still there.
fn send(writer: &stream::Writer, member: Member) -> bool {
    let packed = Bytes::from(member.packed);
    let starts = (0..packed.len()).step_by(BLOCK_BYTES);
    starts.into_iter().all(|from| {
        let to = packed.len().min(from + BLOCK_BYTES);
        writer.blocking_send(packed.slice(from..to)).is_ok()
    })
}

/// Creates the archive and passes its members to `take` in order. Returns whether `take` accepted all of them.
fn make(root: &Arc<OwnedFd>, matcher: Matcher, ledger: &Ledger, mut take: impl FnMut(Member) -> bool) -> bool {
    let mut all_taken = true;
    pipeline::run(
        pipeline::workers(),
        |inlet| {
            let walk = Walk::new(Arc::clone(root), matcher);
            plan::plan(walk, &mut Folders::new(Arc::clone(root)), ledger, inlet)?;
            inlet.put(Job::End)
        },
        || {
            let mut worker = Worker::new(Arc::clone(root), ledger);
            move |job, outlet: &Outlet<Member>| {
                // If the consumer is gone, the planner notices when it submits its next job.
                worker.run(job, outlet).ok();
            }
        },
        |member| {
            all_taken = take(member);
            if all_taken && ledger.failure().is_none() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        },
    );
    all_taken
}

/// Turns jobs into members.
struct Worker<'l> {
    folders: Folders,
    packer: Packer,
    ledger: &'l Ledger,
    /// Uncompressed tar data of the next member.
    plain: Vec<u8>,
    /// What is known about that member.
    member: Member,
    files: u64,
    bytes: u64,
}

impl<'l> Worker<'l> {
    fn new(root: Arc<OwnedFd>, ledger: &'l Ledger) -> Self {
        Self {
            folders: Folders::new(root),
            packer: Packer::new(),
            ledger,
            plain: Vec::new(),
            member: Member::default(),
            files: 0,
            bytes: 0,
        }
    }

    fn run(&mut self, job: Job, outlet: &Outlet<Member>) -> std::result::Result<(), Disconnected> {
        match job {
            Job::Entries(entries) => {
                for planned in entries {
                    self.add_entry(planned, outlet)?;
                }
            }
            Job::Part(part) => self.add_part(part),
            Job::End => self.plain.extend_from_slice(&END),
        }
        self.flush(outlet)?;
        self.ledger.archived(std::mem::take(&mut self.files), std::mem::take(&mut self.bytes));
        Ok(())
    }

    /// Compresses the pending data into a member and passes it on.
    fn flush(&mut self, outlet: &Outlet<Member>) -> std::result::Result<(), Disconnected> {
        if self.plain.is_empty() {
            return Ok(());
        }
        let mut member = std::mem::take(&mut self.member);
        member.plain_bytes = self.plain.len();
        member.packed = self.packer.pack(&self.plain);
        self.plain.clear();
        outlet.put(member)
    }

    fn add_entry(&mut self, planned: Planned, outlet: &Outlet<Member>) -> std::result::Result<(), Disconnected> {
        let Planned { entry, name } = planned;
        // All of the files may have grown since the run was planned.
        if self.plain.len() >= MEMBER_BYTES {
            self.flush(outlet)?;
        }
        let linked = match &name {
            Name::Further(first) if first.is_archived() => Some(first.path.as_slice()),
            _ => None,
        };
        if entry.meta.kind != Kind::File || linked.is_some() {
            let Entry { path, meta, attributes } = entry;
            let counts = meta.kind != Kind::Folder;
            self.files += u64::from(self.add_headers(path, &meta, linked, &attributes, Digest::None) && counts);
            return Ok(());
        }
        let at = self.plain.len();
        let (meta, body, attributes) =
            match read::small(&entry, MEMBER_BYTES as u64, &mut self.folders, &mut self.plain) {
                Ok(Small::Whole { meta, body, attributes }) => (meta, body, attributes),
                Ok(Small::Changing { meta, body, attributes }) => {
                    let problem = "changed during every read; the archive holds the last version read";
                    self.ledger.problem(&entry.path, problem);
                    (meta, body, attributes)
                }
                Ok(Small::Grown(large)) => {
                    let file = Shared::new(entry.path, large);
                    if let Err(error) = file.check() {
                        self.ledger.unreadable(&file.path, false, &format!("cannot be archived: {}", error.message()));
                        return Ok(());
                    }
                    if let Name::First(announcer) = &name {
                        announcer.announce(file.large.meta.identity);
                    }
                    return self.add_grown(Arc::new(file), outlet);
                }
                Err(error) => {
                    self.ledger.note_unread(&entry.path, &error);
                    return Ok(());
                }
            };
        let content = self.plain.get(body..).unwrap_or_default();
        let content = content.get(..usize::try_from(meta.size_bytes).unwrap_or(0)).unwrap_or(content);
        let line = Line {
            kind: Kind::File,
            path: entry.path,
            linked: None,
            at,
            content_at: body,
            size_bytes: meta.size_bytes,
            modified: meta.modified,
            digest: Digest::Sha256(Sha256::digest(content).into()),
        };
        if self.add_line(line, &attributes) {
            if let Name::First(announcer) = &name {
                announcer.announce(meta.identity);
            }
            self.files += 1;
            self.bytes += meta.size_bytes;
        }
        Ok(())
    }

    /// Appends an entry's headers. Returns whether they can be read back.
    fn add_headers(
        &mut self,
        path: Vec<u8>,
        meta: &Meta,
        linked: Option<&[u8]>,
        attributes: &Attributes,
        digest: Digest,
    ) -> bool {
        let at = self.plain.len();
        header::push(&mut self.plain, &path, meta, linked, attributes);
        let line = Line {
            kind: meta.kind.clone(),
            path,
            linked: linked.map(<[u8]>::to_vec),
            at,
            content_at: self.plain.len(),
            size_bytes: if meta.kind == Kind::File && linked.is_none() { meta.size_bytes } else { 0 },
            modified: meta.modified,
            digest,
        };
        self.add_line(line, attributes)
    }

    /// Adds an appended entry to the index, if a restore accepts its headers. An entry that a restore would refuse is
    /// removed again, because it would block the restore of everything else.
    fn add_line(&mut self, line: Line, attributes: &Attributes) -> bool {
        if let Err(error) = described(&line, &self.plain) {
            self.plain.truncate(line.at);
            let is_folder = line.kind == Kind::Folder;
            self.ledger.unreadable(&line.path, is_folder, &format!("cannot be archived: {}", error.message()));
            return false;
        }
        self.ledger.attributes(&line.path, attributes);
        self.member.lines.push(line);
        true
    }

    /// Archives a file in parts that was small when it was planned.
    fn add_grown(&mut self, file: Arc<Shared>, outlet: &Outlet<Member>) -> std::result::Result<(), Disconnected> {
        self.flush(outlet)?;
        for number in 0..file.parts() {
            self.add_part(Part::new(&file, number));
            self.flush(outlet)?;
        }
        Ok(())
    }

    /// Appends a part of a large file, always at the length that the header announced, even if the file has changed.
    fn add_part(&mut self, mut part: Part) {
        let file = Arc::clone(&part.file);
        let meta = &file.large.meta;
        if part.number == 0 {
            self.files += 1;
            self.bytes += meta.size_bytes;
            self.add_headers(file.path.clone(), meta, None, &file.large.attributes, Digest::Later);
        }
        let offset = part.number * MEMBER_BYTES as u64;
        let length = (meta.size_bytes - offset).min(MEMBER_BYTES as u64);
        let body = self.plain.len();
        self.plain.resize(body + usize::try_from(length).unwrap_or(MEMBER_BYTES), 0);
        let room = self.plain.get_mut(body..).unwrap_or_default();
        let filled = file.large.fill(offset, room);
        let digest = part.hash(room);
        if part.is_last() {
            header::pad(&mut self.plain, meta.size_bytes);
            self.set_digest(digest);
        }
        let problem = match filled {
            // Parts are hashed in order, so every part before the last has been read by now.
            Ok(()) if part.is_last() && !file.large.is_unchanged() => {
                "changed while it was read; the archive may mix old and new content"
            }
            Ok(()) => return,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                "became shorter while it was read; the missing part is filled with zeros"
            }
            Err(error) => {
                if file.is_first_unreadable() {
                    let problem = format!("cannot be read around byte {offset}, filled with zeros: {}", reason(&error));
                    self.ledger.unreadable(&file.path, false, &problem);
                }
                return;
            }
        };
        if file.is_first_problem() {
            self.ledger.problem(&file.path, problem);
        }
    }

    /// Records the hash of a large file after its last part.
    fn set_digest(&mut self, digest: Option<[u8; 32]>) {
        match (self.member.lines.last_mut(), digest) {
            (Some(line), Some(digest)) if line.digest == Digest::Later => line.digest = Digest::Sha256(digest),
            _ => self.member.ended = digest,
        }
    }
}
