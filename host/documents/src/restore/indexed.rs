//! Restores from an index: fetches ranges of whole members ahead, and unpacks and writes them on every core.
//!
//! One thread reads the index and plans runs of members. The runtime fetches a few runs at once. Workers take members
//! in the order of the archive. If a content spans members, several workers write its parts and hash them in order.

use super::parse::{self, Described, damaged};
use super::write::{self, Sink, io_failure};
use super::{Work, check_digest};
use crate::entry::Kind;
use crate::header::TAR_BLOCK_BYTES;
use crate::index::reader::{Item, Span};
use crate::index::{Digest, Line};
use crate::object::{Archive, StoredObject};
use crate::path::shown;
use crate::pipeline;
use base::error::{Error, Result};
use base::stream::interrupted_error;
use bytes::Bytes;
use futures::StreamExt;
use libdeflater::Decompressor;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;

/// Target size of one ranged read: a handful of members, enough that the latency costs little.
const RUN_BYTES: usize = 4 << 20;

/// Members in one read. A large hole consists of thousands of tiny members.
const RUN_MEMBERS_MAX: usize = 64;

/// Entries in one read. Limits their memory while they wait.
const RUN_ENTRIES_MAX: usize = 4_096;

/// Reads in progress. With [`RUN_BYTES`] they use 16 MiB, and saturate 100 MB/s at 160 ms per read.
const READS_IN_FLIGHT_MAX: usize = 4;

/// How often a worker that waits for another one checks whether the restore was stopped.
const STOP_INTERVAL: Duration = Duration::from_millis(50);

/// Members that follow one another in the archive.
#[derive(Default)]
struct MemberRun {
    members: Vec<RestoredMember>,
    packed_bytes: usize,
    entries: usize,
}

/// A member and its entries.
struct RestoredMember {
    span: Span,
    /// The part of a content that continues from the previous member.
    carried: Option<FilePart>,
    lines: Vec<Line>,
    /// The first part of the last line's content, if it does not end in this member.
    begun: Option<FilePart>,
}

/// A part of a content that spans members.
struct FilePart {
    large: Arc<SharedFile>,
    offset: u64,
    bytes: usize,
}

/// A file that several workers write.
struct SharedFile {
    path: Vec<u8>,
    size_bytes: u64,
    digest: Digest,
    state: Mutex<WriteState>,
    changed: Condvar,
}

#[derive(Default)]
struct WriteState {
    file: Option<(Arc<File>, Described)>,
    hashed_bytes: u64,
    hasher: Sha256,
}

/// A member with its bytes.
struct PackedMember {
    member: RestoredMember,
    packed: Bytes,
}

/// Restores everything except what has to wait for the end ([`super::late`]).
pub(super) fn run(archive: &Archive, work: &Work) -> Result<()> {
    let (planned, runs) = mpsc::channel(1);
    let workers = pipeline::workers();
    let (ready, jobs) = mpsc::channel(workers);
    let jobs = Mutex::new(jobs);
    std::thread::scope(|scope| {
        scope.spawn(|| note_failure(work, plan(archive, work, &planned)).inspect(|()| drop(planned)));
        scope.spawn(|| note_failure(work, work.means.runtime.block_on(fetch(&archive.object, work, runs, ready))));
        for _ in 0..workers {
            scope.spawn(|| note_failure(work, Unpacker::new(work).run(&jobs)));
        }
    });
    if work.is_stopped() { Err(work.failed(interrupted_error())) } else { Ok(()) }
}

fn note_failure(work: &Work, done: Result<()>) -> Option<()> {
    done.map_err(|error| work.fail(error)).ok()
}

/// Reads the index and sends runs of members to `out`.
fn plan(archive: &Archive, work: &Work, out: &mpsc::Sender<MemberRun>) -> Result<()> {
    let in_index = |error: Error| match &archive.index {
        Some(index) => error.context(&index.name),
        None => error,
    };
    let Some(mut reader) = archive.index(&work.means, false)? else { return Ok(()) };
    let mut run = MemberRun::default();
    let mut member: Option<RestoredMember> = None;
    loop {
        let item = reader.next().map_err(in_index)?;
        match item {
            Some(Item::Entry(line)) => {
                if let Some(member) = &mut member {
                    member.lines.push(line);
                }
            }
            next => {
                let mut rest = None;
                if let Some((closed, continued)) = member.take().map(RestoredMember::close) {
                    if run.is_full_with(&closed) && out.blocking_send(std::mem::take(&mut run)).is_err() {
                        return Ok(());
                    }
                    run.push(closed);
                    rest = continued;
                }
                let Some(Item::Member(span)) = next else { break };
                member = Some(RestoredMember::open(span, rest));
            }
        }
    }
    // This fails only if the restore was stopped.
    let _ = out.blocking_send(run);
    Ok(())
}

impl MemberRun {
    fn is_full_with(&self, next: &RestoredMember) -> bool {
        !self.members.is_empty()
            && (self.packed_bytes + next.span.packed_bytes > RUN_BYTES
                || self.members.len() >= RUN_MEMBERS_MAX
                || self.entries + next.lines.len() > RUN_ENTRIES_MAX)
    }

    fn push(&mut self, member: RestoredMember) {
        self.packed_bytes += member.span.packed_bytes;
        self.entries += member.lines.len();
        self.members.push(member);
    }
}

impl RestoredMember {
    /// A new member. `rest` is a content that continues from the previous member, and the offset where it continues.
    fn open(span: Span, rest: Option<(Arc<SharedFile>, u64)>) -> Self {
        let carried = rest.map(|(large, offset)| {
            let left = usize::try_from(large.size_bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
            FilePart { large, offset, bytes: left.min(span.plain_bytes) }
        });
        Self { span, carried, lines: Vec::new(), begun: None }
    }

    /// Call this once all lines are known. Also returns the content that continues in the next member, and its offset.
    fn close(mut self) -> (Self, Option<(Arc<SharedFile>, u64)>) {
        let last = self.lines.last().filter(|line| line.kind == Kind::File && line.linked.is_none());
        if let Some(line) = last {
            let here = self.span.plain_bytes.saturating_sub(line.content_at);
            if line.size_bytes > here as u64 {
                self.begun = Some(FilePart { large: Arc::new(SharedFile::new(line)), offset: 0, bytes: here });
            }
        }
        // A carried content can only continue if no line follows it in this member.
        let open = self.begun.as_ref().or(self.carried.as_ref().filter(|_| self.lines.is_empty()));
        let rest = open.map(|part| (Arc::clone(&part.large), part.offset + part.bytes as u64));
        let rest = rest.filter(|(large, done)| *done < large.size_bytes);
        (self, rest)
    }
}

/// Fetches a few runs ahead and passes their members on in order.
async fn fetch(
    object: &StoredObject,
    work: &Work,
    runs: mpsc::Receiver<MemberRun>,
    ready: mpsc::Sender<PackedMember>,
) -> Result<()> {
    let runs = futures::stream::unfold(runs, |mut runs| async { runs.recv().await.map(|run| (run, runs)) });
    let mut fetched = std::pin::pin!(runs.map(|run| read(object, run)).buffered(READS_IN_FLIGHT_MAX));
    loop {
        let next = tokio::select! {
            biased;
            () = work.means.stop.cancelled() => return Ok(()),
            next = fetched.next() => next,
        };
        let Some(fetched) = next else { return Ok(()) };
        let (run, mut packed) = fetched?;
        for member in run.members {
            let packed = packed.split_to(member.span.packed_bytes.min(packed.len()));
            // If all workers have failed, nobody empties their queue. Without checking `stop`, this would wait forever.
            let sent = tokio::select! {
                biased;
                () = work.means.stop.cancelled() => return Ok(()),
                sent = ready.send(PackedMember { member, packed }) => sent,
            };
            if sent.is_err() {
                return Ok(());
            }
        }
    }
}

async fn read(object: &StoredObject, run: MemberRun) -> Result<(MemberRun, Bytes)> {
    let (Some(first), Some(last)) = (run.members.first(), run.members.last()) else { return Ok((run, Bytes::new())) };
    let range = first.span.offset..last.span.offset + last.span.packed_bytes as u64;
    let length = usize::try_from(range.end - range.start).unwrap_or_default();
    let mut packed = Vec::with_capacity(length);
    let mut stream = (object.fetch)(Some(range)).await?;
    while let Some(block) = stream.next().await? {
        packed.extend_from_slice(&block);
    }
    Ok((run, Bytes::from(packed)))
}

struct Unpacker<'w> {
    work: &'w Work,
    sink: Sink,
    unpacker: Decompressor,
    plain: Vec<u8>,
}

impl<'w> Unpacker<'w> {
    fn new(work: &'w Work) -> Self {
        Self { work, sink: work.sink(), unpacker: Decompressor::new(), plain: Vec::new() }
    }

    fn run(mut self, jobs: &Mutex<mpsc::Receiver<PackedMember>>) -> Result<()> {
        while !self.work.is_stopped() {
            let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
            let Some(job) = next else { return Ok(()) };
            let mut plain = std::mem::take(&mut self.plain);
            plain.resize(job.member.span.plain_bytes, 0);
            let unpacked = self.unpacker.gzip_decompress(&job.packed, &mut plain);
            if unpacked != Ok(plain.len()) {
                let at = job.member.span.offset;
                return Err(damaged(&format!("the member at byte {at} does not unpack to the length in the index")));
            }
            drop(job.packed);
            self.member(job.member, &plain)?;
            self.plain = plain;
        }
        Ok(())
    }

    fn member(&mut self, member: RestoredMember, plain: &[u8]) -> Result<()> {
        if member.carried.is_none() && member.lines.is_empty() {
            let is_end = plain.len() >= 2 * TAR_BLOCK_BYTES && plain.iter().all(|byte| *byte == 0);
            return if is_end { Ok(()) } else { Err(damaged("its last member is not an end-of-archive marker")) };
        }
        if let Some(part) = member.carried {
            self.part(&part, plain.get(..part.bytes).unwrap_or_default())?;
        }
        let last = member.lines.len().saturating_sub(1);
        let mut begun = member.begun;
        for (n, line) in member.lines.iter().enumerate() {
            let begun = if n == last { begun.take() } else { None };
            self.entry(line, begun, plain)?;
        }
        Ok(())
    }

    fn entry(&mut self, line: &Line, begun: Option<FilePart>, plain: &[u8]) -> Result<()> {
        let mut described = described(line, plain)?;
        if line.kind != Kind::File || line.linked.is_some() {
            return self.work.restore_bare(&described, &mut self.sink);
        }
        self.work.count_file(line.size_bytes);
        let file = self.sink.file(&line.path)?;
        let rest = plain.get(line.content_at..).unwrap_or_default();
        if let Some(part) = begun {
            file.set_len(line.size_bytes).map_err(|error| io_failure(&line.path, &error))?;
            let mut state = part.large.state();
            state.file = Some((Arc::new(file), described));
            drop(state);
            part.large.changed.notify_all();
            return self.part(&part, rest.get(..part.bytes).unwrap_or_default());
        }
        let size = usize::try_from(line.size_bytes).unwrap_or(usize::MAX);
        let content = rest.get(..size).ok_or_else(|| mismatch(&line.path))?;
        check_digest(&line.path, line.digest, || Sha256::digest(content).into())?;
        let ends_in_hole = write::fill(&file, content, 0).map_err(|error| io_failure(&line.path, &error))?;
        if ends_in_hole {
            file.set_len(line.size_bytes).map_err(|error| io_failure(&line.path, &error))?;
        }
        self.sink.finish(&file, &mut described)?;
        self.work.note(&described);
        Ok(())
    }

    /// Writes a part at its place, waits for its turn to hash it, and finishes the file after the last part.
    fn part(&self, part: &FilePart, content: &[u8]) -> Result<()> {
        let large = &part.large;
        let opened = |state: &WriteState| state.file.as_ref().map(|(file, _)| Arc::clone(file));
        let Some(file) = self.wait(large, opened) else { return Ok(()) };
        write::fill(&file, content, part.offset).map_err(|error| io_failure(&large.path, &error))?;
        drop(file);
        // Workers take members in order, so another worker already has the part whose turn it is.
        let turn = |state: &WriteState| (state.hashed_bytes == part.offset).then(|| state.hasher.clone());
        let Some(mut hasher) = self.wait(large, turn) else { return Ok(()) };
        if large.digest != Digest::None {
            hasher.update(content);
        }
        let mut state = large.state();
        state.hashed_bytes += content.len() as u64;
        state.hasher = hasher;
        let done = (state.hashed_bytes == large.size_bytes).then(|| (state.file.take(), state.hasher.clone()));
        drop(state);
        large.changed.notify_all();
        let Some((Some((file, mut described)), hasher)) = done else { return Ok(()) };
        check_digest(&large.path, large.digest, || hasher.finalize().into())?;
        self.sink.finish(&file, &mut described)?;
        self.work.note(&described);
        Ok(())
    }

    /// Waits until `ready` returns a value; `None` if the restore was stopped.
    fn wait<T>(&self, large: &SharedFile, ready: impl Fn(&WriteState) -> Option<T>) -> Option<T> {
        let mut state = large.state();
        loop {
            if let Some(found) = ready(&state) {
                return Some(found);
            }
            if self.work.is_stopped() {
                return None;
            }
            let waited = large.changed.wait_timeout(state, STOP_INTERVAL);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl SharedFile {
    fn new(line: &Line) -> Self {
        let (path, size_bytes, digest) = (line.path.clone(), line.size_bytes, line.digest);
        Self { path, size_bytes, digest, state: Mutex::default(), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, WriteState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads an entry's headers and compares them with the index.
pub(crate) fn described(line: &Line, plain: &[u8]) -> Result<Described> {
    let mut headers = plain.get(line.at..line.content_at).ok_or_else(|| mismatch(&line.path))?;
    let described = parse::next(&mut headers)?.filter(|_| headers.is_empty()).ok_or_else(|| mismatch(&line.path))?;
    let same = described.path == line.path
        && described.kind == line.kind
        && described.linked == line.linked
        && described.size_bytes == line.size_bytes
        && described.modified == line.modified;
    if same { Ok(described) } else { Err(mismatch(&line.path)) }
}

fn mismatch(path: &[u8]) -> Error {
    damaged(&format!("its index and its headers contradict each other at `{}`", shown(path)))
        .hint("use --ignore-index to read the archive without its index")
}
