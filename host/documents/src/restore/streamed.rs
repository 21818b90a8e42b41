//! Restores without an index: one pass over any `tar.gz`.
//!
//! One thread unpacks and reads headers, because an archive with a single gzip member cannot be unpacked in parallel.
//! The other threads write the small files.

use super::Work;
use super::gunzip::Gunzip;
use super::names::Names;
use super::parse::{self, Described, damaged, unreadable};
use super::sparse::Expanded;
use super::write::{self, Sink, io_failure};
use crate::entry::Kind;
use crate::header::TAR_BLOCK_BYTES;
use crate::object::StoredObject;
use crate::pipeline;
use base::error::Result;
use base::stream::{BlockingReader, interrupted_error};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::fs::File;
use std::io::{self, BufReader, Read};

/// Largest file that is passed to another thread. Larger files are written as they are read.
const SMALL_BYTES_MAX: u64 = 1 << 20;

/// Bytes that are unpacked at once.
const BUFFER_BYTES: usize = 256 << 10;

type Input = BufReader<Gunzip<BlockingReader>>;

/// A new file with its content.
type SmallFile = (File, Described, Vec<u8>);

/// Restores everything except what has to wait for the end ([`super::late`]).
pub(super) fn run(object: &StoredObject, work: &Work) -> Result<()> {
    let workers = pipeline::workers();
    let (files, queue) = bounded::<SmallFile>(workers);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            let queue = queue.clone();
            scope.spawn(move || small_files(work, &queue).map_err(|error| work.fail(error)));
        }
        drop(queue);
        let read = read(object, work, &files);
        drop(files);
        // If a worker failed first, its error is kept: the reader only failed because the workers were gone.
        read.map_err(|error| work.fail(error)).ok();
    });
    if work.is_stopped() { Err(work.failed(interrupted_error())) } else { Ok(()) }
}

fn small_files(work: &Work, queue: &Receiver<SmallFile>) -> Result<()> {
    let sink = work.sink();
    for (file, mut described, content) in queue {
        if work.is_stopped() {
            return Ok(());
        }
        let ends_in_hole = write::fill(&file, &content, 0).map_err(|error| io_failure(&described.path, &error))?;
        if ends_in_hole {
            file.set_len(described.size_bytes).map_err(|error| io_failure(&described.path, &error))?;
        }
        sink.finish(&file, &mut described)?;
        work.note(&described);
    }
    Ok(())
}

fn read(object: &StoredObject, work: &Work, files: &Sender<SmallFile>) -> Result<()> {
    let reader = object.read(None, &work.means, true)?;
    let mut input: Input = BufReader::with_capacity(BUFFER_BYTES, Gunzip::new(reader));
    let mut sink = work.sink();
    let mut names = Names::default();
    while let Some(described) = parse::next(&mut input)? {
        if work.is_stopped() {
            return Ok(());
        }
        if names.add(&described)? {
            sink.remove(&described.path)?;
        }
        if let Some(first) = &described.linked {
            // A later entry may replace its target, so it cannot wait.
            work.count_file(0);
            if *first != described.path {
                sink.link(&described.path, first)?;
            }
            continue;
        }
        if described.kind != Kind::File {
            work.restore_bare(&described, &mut sink)?;
            skip(&mut input, described.stored_bytes.saturating_add(padding(described.stored_bytes)))?;
            continue;
        }
        let padding = padding(described.stored_bytes);
        work.count_file(described.size_bytes);
        if described.size_bytes > SMALL_BYTES_MAX {
            large(described, &mut input, &mut sink, work)?;
        } else {
            // The file is created here, in the order of the archive, so that it exists before a later entry replaces
            // it.
            let file = sink.file(&described.path)?;
            let mut content = vec![0; usize::try_from(described.size_bytes).unwrap_or_default()];
            let mut expanded = Expanded::new(&mut input, described.map.as_ref(), described.size_bytes);
            expanded.read_exact(&mut content).map_err(unreadable)?;
            if files.send((file, described, content)).is_err() {
                return Ok(());
            }
        }
        skip(&mut input, padding)?;
    }
    nothing_more(&mut input)?;
    let input = input.into_inner().into_inner().ok_or_else(|| unreadable(io::ErrorKind::UnexpectedEof.into()))?;
    object.check(input).map_err(|error| error.context(&object.name))
}

fn large(mut described: Described, input: &mut Input, sink: &mut Sink, work: &Work) -> Result<()> {
    let file = sink.file(&described.path)?;
    let go_on = |_: &[u8]| if work.is_stopped() { Err(interrupted_error()) } else { Ok(()) };
    let failed = |error: io::Error| io_failure(&described.path, &error);
    write::write_content(input, &file, described.size_bytes, described.map.as_ref(), go_on, failed)?;
    sink.finish(&file, &mut described)?;
    work.note(&described);
    Ok(())
}

/// Reads everything after the end-of-archive marker, which must be zeros. The decompressor compares the checksum only
/// when it reaches the end.
pub(crate) fn nothing_more(input: &mut impl Read) -> Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match input.read(&mut buffer).map_err(unreadable)? {
            0 => return Ok(()),
            read if buffer.iter().take(read).all(|byte| *byte == 0) => {}
            _ => {
                return Err(damaged("more data follows its end, such as a second archive")
                    .hint("nothing was restored; `tar -xzif` reads concatenated archives"));
            }
        }
    }
}

/// Bytes between a content and the next headers.
pub(crate) fn padding(size_bytes: u64) -> u64 {
    let block = TAR_BLOCK_BYTES as u64;
    (block - size_bytes % block) % block
}

/// Skips bytes.
pub(crate) fn skip(input: &mut impl Read, bytes: u64) -> Result<()> {
    let skipped = io::copy(&mut input.take(bytes), &mut io::sink()).map_err(unreadable)?;
    if skipped == bytes { Ok(()) } else { Err(unreadable(io::ErrorKind::UnexpectedEof.into())) }
}
