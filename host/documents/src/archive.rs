//! The archive: a plain `tar.gz` that stock tools read to the end, made of many gzip members.
//!
//! Each member is a run of whole tar entries, or a part of a large file; members are made in parallel and sent in path
//! order. The same tree gives the same bytes. A file that changes, shrinks or vanishes while it is read never aborts the
//! archive, unless that was asked for, and never damages what comes after it.

use super::attributes::Attributes;
use super::entry::{Entry, Kind, Meta};
use super::exclude::Matcher;
use super::header::{self, END};
use super::index::reader::Reader;
use super::index::{Digest, Index, Line, Member};
use super::member::{MEMBER_BYTES, Packer};
use super::open::Folders;
use super::pipeline::{self, Gone, Outlet};
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

/// What to archive and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveOptions {
    /// Globs as gitignore has them.
    pub exclude: Vec<String>,
    /// What to do about a file that cannot be read as it is.
    pub when_unreadable: WhenUnreadable,
}

/// What is left of an archive when its stream has ended well.
pub(super) struct Done {
    pub(super) report: ArchiveReport,
    /// None where the temporary file for it could not be written, which the report tells.
    pub(super) index: Option<SpooledTempFile>,
}

/// Starts an archive on threads of its own. `done` hears of it right before the stream ends well. Dropping the stream
/// stops every thread.
pub(super) fn start(
    root: Arc<OwnedFd>,
    matcher: Matcher,
    options: ArchiveOptions,
    expected_bytes: Option<u64>,
    done: impl FnOnce(Done) + Send + 'static,
) -> Result<ByteStream> {
    let (writer, stream) = stream::channel(expected_bytes);
    let work = move || {
        let ledger = Ledger::new(options.exclude, options.when_unreadable);
        let mut index = Index::new().map(Some);
        let all_sent = make(&root, matcher, &ledger, |member| {
            index = match std::mem::replace(&mut index, Ok(None)) {
                Ok(Some(mut index)) => index.add(&member).map(|()| Some(index)),
                over => over,
            };
            send(&writer, member)
        });
        if let Some(failure) = ledger.failure() {
            writer.blocking_fail(failure);
        } else if all_sent {
            let index = index.and_then(|index| index.map(Index::finish).transpose());
            let index = index.map_err(|error| reason(&error)).and_then(|index| index.map(read_back).transpose());
            if let Err(error) = &index {
                ledger.note(b"", &format!("has no index, because none could be written: {error}"));
            }
            done(Done { report: ledger.finish(), index: index.unwrap_or_default() });
            // Whoever no longer listens does not need to know that it is done.
            writer.blocking_finish().ok();
        }
    };
    std::thread::Builder::new()
        .name("archive".to_owned())
        .spawn(work)
        .map_err(|error| Error::unexpected(format!("no thread can be started for the archive: {error}")))?;
    Ok(stream)
}

/// Reads an index as whoever restores will, before a record names it.
fn read_back((mut file, archive_bytes): (SpooledTempFile, u64)) -> std::result::Result<SpooledTempFile, String> {
    file.rewind().map_err(|error| reason(&error))?;
    let read = Reader::new(BufReader::new(&mut file), archive_bytes).and_then(|mut index| {
        while index.next()?.is_some() {}
        Ok(())
    });
    read.map(|()| file).map_err(|error| error.message().to_owned())
}

/// Sends a member in blocks, without copying it; whether the consumer is still there.
fn send(writer: &stream::Writer, member: Member) -> bool {
    let packed = Bytes::from(member.packed);
    let starts = (0..packed.len()).step_by(BLOCK_BYTES);
    starts.into_iter().all(|from| {
        let to = packed.len().min(from + BLOCK_BYTES);
        writer.blocking_send(packed.slice(from..to)).is_ok()
    })
}

/// Makes the archive and hands out its members in order; whether all of it was made and taken.
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
            let mut scribe = Scribe::new(Arc::clone(root), ledger);
            move |job, outlet: &Outlet<Member>| {
                // The taker has gone, and the maker of jobs will notice at its next one.
                scribe.work(job, outlet).ok();
            }
        },
        |member| {
            all_taken = take(member);
            if all_taken && ledger.failure().is_none() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        },
    );
    all_taken
}

/// A worker: it turns jobs into members.
struct Scribe<'l> {
    folders: Folders,
    packer: Packer,
    ledger: &'l Ledger,
    /// Tar, waiting to become a member.
    plain: Vec<u8>,
    /// What is known of that member.
    member: Member,
    files: u64,
    bytes: u64,
}

impl<'l> Scribe<'l> {
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

    fn work(&mut self, job: Job, outlet: &Outlet<Member>) -> std::result::Result<(), Gone> {
        match job {
            Job::Run(entries) => {
                for planned in entries {
                    self.entry(planned, outlet)?;
                }
            }
            Job::Part(part) => self.part(part),
            Job::End => self.plain.extend_from_slice(&END),
        }
        self.flush(outlet)?;
        self.ledger.archived(std::mem::take(&mut self.files), std::mem::take(&mut self.bytes));
        Ok(())
    }

    /// Makes a member of what is waiting.
    fn flush(&mut self, outlet: &Outlet<Member>) -> std::result::Result<(), Gone> {
        if self.plain.is_empty() {
            return Ok(());
        }
        let mut member = std::mem::take(&mut self.member);
        member.plain_bytes = self.plain.len();
        member.packed = self.packer.pack(&self.plain);
        self.plain.clear();
        outlet.put(member)
    }

    fn entry(&mut self, planned: Planned, outlet: &Outlet<Member>) -> std::result::Result<(), Gone> {
        let Planned { entry, name } = planned;
        // Files may all have grown since the run was planned.
        if self.plain.len() >= MEMBER_BYTES {
            self.flush(outlet)?;
        }
        let linked = match &name {
            Name::Further(first) if first.is_held() => Some(first.path.as_slice()),
            _ => None,
        };
        if entry.meta.kind != Kind::File || linked.is_some() {
            let Entry { path, meta, attributes } = entry;
            let counts = meta.kind != Kind::Folder;
            self.files += u64::from(self.headers(path, &meta, linked, &attributes, Digest::None) && counts);
            return Ok(());
        }
        let at = self.plain.len();
        let (meta, body, attributes) =
            match read::small(&entry, MEMBER_BYTES as u64, &mut self.folders, &mut self.plain) {
                Ok(Small::Whole { meta, body, attributes }) => (meta, body, attributes),
                Ok(Small::Restless { meta, body, attributes }) => {
                    let trouble = "changed each time it was read; it is archived as it was the last time";
                    self.ledger.problem(&entry.path, trouble);
                    (meta, body, attributes)
                }
                Ok(Small::Grown(large)) => {
                    let file = Shared::new(entry.path, large);
                    if let Err(error) = file.check() {
                        self.ledger.unreadable(&file.path, false, &format!("cannot be archived: {}", error.message()));
                        return Ok(());
                    }
                    if let Name::First(teller) = &name {
                        teller.tell(file.large.meta.identity);
                    }
                    return self.grown(Arc::new(file), outlet);
                }
                Err(error) => {
                    self.ledger.unread(&entry.path, &error);
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
        if self.line(line, &attributes) {
            if let Name::First(teller) = &name {
                teller.tell(meta.identity);
            }
            self.files += 1;
            self.bytes += meta.size_bytes;
        }
        Ok(())
    }

    /// Appends an entry's headers; whether they can be read back.
    fn headers(
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
        self.line(line, attributes)
    }

    /// Notes an entry that was appended, if whoever restores takes its headers for what they are. What they would refuse is not in the
    /// archive, where it would keep everything else from being restored.
    fn line(&mut self, line: Line, attributes: &Attributes) -> bool {
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

    /// Takes a file in parts that was small when it was planned.
    fn grown(&mut self, file: Arc<Shared>, outlet: &Outlet<Member>) -> std::result::Result<(), Gone> {
        self.flush(outlet)?;
        for number in 0..file.parts() {
            self.part(Part::new(&file, number));
            self.flush(outlet)?;
        }
        Ok(())
    }

    /// Appends a part of a large file, at the length that the header announced, whatever became of the file.
    fn part(&mut self, mut part: Part) {
        let file = Arc::clone(&part.file);
        let meta = &file.large.meta;
        if part.number == 0 {
            self.files += 1;
            self.bytes += meta.size_bytes;
            self.headers(file.path.clone(), meta, None, &file.large.attributes, Digest::Later);
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
            self.ends(digest);
        }
        let trouble = match filled {
            // Every part before the last was read by now, because they are hashed in order.
            Ok(()) if part.is_last() && !file.large.is_unchanged() => {
                "changed while it was read; what is archived may mix both states"
            }
            Ok(()) => return,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                "became shorter while it was read; zeros stand for what is missing"
            }
            Err(error) => {
                if file.is_first_unreadable() {
                    let trouble = format!("cannot be read around byte {offset}, where zeros stand: {}", reason(&error));
                    self.ledger.unreadable(&file.path, false, &trouble);
                }
                return;
            }
        };
        if file.is_first_trouble() {
            self.ledger.problem(&file.path, trouble);
        }
    }

    /// Notes the hash of a large file, whose last part this is.
    fn ends(&mut self, digest: Option<[u8; 32]>) {
        match (self.member.lines.last_mut(), digest) {
            (Some(line), Some(digest)) if line.digest == Digest::Later => line.digest = Digest::Sha256(digest),
            _ => self.member.ended = digest,
        }
    }
}
