//! Writes the index of an archive: where each entry is, so that a restore can read one document with one ranged read,
//! and a whole tree on all cores. The index is written while the archive is created, in the same order.
//! `docs/format.md` describes the format.
//!
//! It is gzip-compressed text with one line per member and one per entry, so that `zcat` and `grep` can still read it
//! in ten years.

pub(super) mod reader;

use super::entry::{Kind, Time};
use super::header;
use super::path::shown;
use base::error::{Error, reason};
use base::stream::{self, BLOCK_BYTES, ByteStream};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::{self, BufWriter, Read, Seek, Write};
use tempfile::SpooledTempFile;

/// First line: the name and the version of the format.
const FIRST_LINE: &str = "dolibarr-backup index 1\n";

/// Memory that an index may use before it moves to a temporary file: enough for about a hundred thousand documents.
pub(super) const MEMORY_BYTES_MAX: usize = 8 << 20;

/// Text that is compressed at once. The compressor writes its output at the end of each call, so without this buffer a
/// million lines would cost three million system calls once the index is in a file.
const TEXT_BUFFER_BYTES: usize = 64 << 10;

/// Compression level. For a million entries, level 1 gives 82 MB in 0.7 s, level 2 gives 55 MB in 1.1 s and level 6
/// gives 54 MB in 1.7 s. Most of a line is the digest, which only dynamic Huffman codes shorten; level 1 does not use
/// them.
const LEVEL: u32 = 2;

/// One entry and its position in its member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) kind: Kind,
    pub(super) path: Vec<u8>,
    /// For a hard link to an earlier entry, the path of that entry.
    pub(super) linked: Option<Vec<u8>>,
    /// Offset of the headers in the unpacked member, in bytes.
    pub(super) at: usize,
    /// Offset of the content in the unpacked member, in bytes.
    pub(super) content_at: usize,
    pub(super) size_bytes: u64,
    pub(super) modified: Time,
    pub(super) digest: Digest,
}

/// The SHA-256 of a content, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Digest {
    /// The entry has no content, or its digest is unknown.
    None,
    Sha256([u8; 32]),
    /// The digest follows with the last member that holds the content.
    Later,
}

/// A member on its way into the archive.
#[derive(Debug, Default)]
pub(super) struct Member {
    pub(super) packed: Vec<u8>,
    pub(super) plain_bytes: usize,
    /// Entries that begin in this member.
    pub(super) lines: Vec<Line>,
    /// Digest of the content that began in an earlier member and ends in this one.
    pub(super) ended: Option<[u8; 32]>,
}

/// An index that is being written.
#[derive(Debug)]
pub(super) struct Index {
    out: BufWriter<GzEncoder<SpooledTempFile>>,
    offset: u64,
    entries: u64,
    members: u64,
    /// An entry whose digest is not known yet, and the lines of the members since then.
    waiting: Option<(Line, String)>,
}

impl Index {
    pub(super) fn new() -> io::Result<Self> {
        let packed = GzEncoder::new(tempfile::spooled_tempfile(MEMORY_BYTES_MAX), Compression::new(LEVEL));
        let mut out = BufWriter::with_capacity(TEXT_BUFFER_BYTES, packed);
        out.write_all(FIRST_LINE.as_bytes())?;
        Ok(Self { out, offset: 0, entries: 0, members: 0, waiting: None })
    }

    /// Adds the next member of the archive.
    pub(super) fn add(&mut self, member: &Member) -> io::Result<()> {
        let text = format!("m\t{}\t{}\t{}\n", self.offset, member.packed.len(), member.plain_bytes);
        self.offset += member.packed.len() as u64;
        self.members += 1;
        match &mut self.waiting {
            Some((_, since)) => since.push_str(&text),
            None => self.out.write_all(text.as_bytes())?,
        }
        if let Some(digest) = member.ended
            && let Some((line, since)) = self.waiting.take()
        {
            self.entry(&Line { digest: Digest::Sha256(digest), ..line })?;
            self.out.write_all(since.as_bytes())?;
        }
        for line in &member.lines {
            self.entries += 1;
            if line.digest == Digest::Later {
                self.waiting = Some((line.clone(), String::new()));
            } else {
                self.entry(line)?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, line: &Line) -> io::Result<()> {
        let letter = match (&line.kind, &line.linked) {
            (Kind::File, Some(_)) => 'h',
            (Kind::File, None) | (Kind::Socket, _) => 'f',
            (Kind::Folder, _) => 'd',
            (Kind::Link(_), _) => 'l',
            (Kind::Fifo, _) => 'p',
            (Kind::CharacterDevice, _) => 'c',
            (Kind::BlockDevice, _) => 'b',
        };
        let digest = match line.digest {
            Digest::Sha256(digest) => hex::encode(digest),
            Digest::None | Digest::Later => "-".to_owned(),
        };
        let target = match (&line.kind, &line.linked) {
            (Kind::Link(target), _) | (_, Some(target)) => format!("\t{}", shown(target)),
            _ => String::new(),
        };
        writeln!(
            self.out,
            "{letter}\t{}\t{}\t{}\t{}\t{digest}\t{}{target}",
            line.at,
            line.content_at,
            line.size_bytes,
            header::seconds(line.modified),
            shown(&line.path),
        )
    }

    /// Finishes the index. Also returns the length of the archive.
    pub(super) fn finish(mut self) -> io::Result<(SpooledTempFile, u64)> {
        if let Some((line, since)) = self.waiting.take() {
            self.entry(&line)?;
            self.out.write_all(since.as_bytes())?;
        }
        writeln!(self.out, "end\t{}\t{}\t{}", self.entries, self.members, self.offset)?;
        let file = self.out.into_inner().map_err(io::IntoInnerError::into_error)?.finish()?;
        Ok((file, self.offset))
    }
}

/// Streams an index from its own thread.
pub(super) fn stream(mut index: SpooledTempFile) -> ByteStream {
    let expected_bytes = index.seek(io::SeekFrom::End(0)).ok();
    let (writer, stream) = stream::channel(expected_bytes);
    let work = move || {
        let sent = index.rewind().and_then(|()| {
            loop {
                let mut block = Vec::with_capacity(BLOCK_BYTES);
                Read::by_ref(&mut index).take(BLOCK_BYTES as u64).read_to_end(&mut block)?;
                if block.is_empty() || writer.blocking_send(Bytes::from(block)).is_err() {
                    return Ok(());
                }
            }
        });
        match sent {
            Ok(()) => writer.blocking_finish().ok(),
            Err(error) => {
                let message = format!("the index of the documents cannot be read back: {}", reason(&error));
                writer.blocking_fail(Error::unexpected(message));
                None
            }
        };
    };
    // If the thread cannot start, the writer is dropped and the stream fails.
    drop(std::thread::Builder::new().name("index".to_owned()).spawn(work));
    stream
}
