//! Reads an index line by line and validates it strictly. Only one line and the folders above it are in memory.
//!
//! Everything the reader returns is consistent: members follow each other without gaps, entries follow each other
//! within them, every path is relative and below a folder that came earlier, and no path occurs twice. A restore relies
//! on this.

use super::{Digest, Line};
use crate::entry::Kind;
use crate::header::{self, TAR_BLOCK_BYTES};
use crate::path;
use base::error::{Class, Error, Result, reason};
use base::stream::producer_error;
use flate2::bufread::GzDecoder;
use std::cmp::Ordering;
use std::io::{self, BufRead, BufReader, Read};

/// The first line up to the version.
const NAME: &[u8] = b"dolibarr-backup index ";

/// The version that this reader knows.
const VERSION: &[u8] = b"1";

/// Longest line. A path takes at most four characters for each of its bytes, and a line holds two of them.
const LINE_BYTES_MAX: u64 = 8 * path::BYTES_MAX as u64 + 1_024;

/// Largest member, unpacked. Members aim at 1 MiB; a member is larger if its files grew while they were read. With a
/// dozen workers, this limits the memory of a restore from a hostile index.
pub(crate) const MEMBER_PLAIN_BYTES_MAX: usize = 16 << 20;

/// Largest member as stored. Incompressible data needs a few extra bytes for each 64 KiB, plus header and trailer.
const MEMBER_PACKED_BYTES_MAX: usize = MEMBER_PLAIN_BYTES_MAX + (1 << 20);

/// Bytes that are unpacked at once.
const BUFFER_BYTES: usize = 64 << 10;

/// The position of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    /// Offset in the archive, in bytes.
    pub(crate) offset: u64,
    pub(crate) packed_bytes: usize,
    pub(crate) plain_bytes: usize,
}

/// One line of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Item {
    /// A member begins.
    Member(Span),
    /// An entry begins in the last member.
    Entry(Line),
}

/// An index being read.
pub(crate) struct Reader<R> {
    input: BufReader<GzDecoder<R>>,
    text: Vec<u8>,
    number: u64,
    /// The length of the archive, which the index must match.
    archive_bytes: u64,
    members: u64,
    entries: u64,
    next_offset: u64,
    member: Option<Span>,
    /// Where the next entry begins in the last member; beyond its end while a content continues.
    cursor: u64,
    /// Whether the last member is empty so far. Only the final member of an archive may stay empty.
    vacant: bool,
    /// The folders above the last entry, outermost first.
    folders: Vec<Vec<u8>>,
    last: Option<Vec<u8>>,
    ended: bool,
}

impl<R: BufRead> Reader<R> {
    /// Starts reading the index of an archive of `archive_bytes`.
    ///
    /// # Errors
    /// See [`Reader::next`]; also [`Class::Stale`] for an unknown version, naming it.
    pub(crate) fn new(input: R, archive_bytes: u64) -> Result<Self> {
        let mut reader = Self {
            input: BufReader::with_capacity(BUFFER_BYTES, GzDecoder::new(input)),
            text: Vec::new(),
            number: 0,
            archive_bytes,
            members: 0,
            entries: 0,
            next_offset: 0,
            member: None,
            cursor: 0,
            vacant: false,
            folders: Vec::new(),
            last: None,
            ended: false,
        };
        reader.line()?;
        match reader.text.strip_prefix(NAME) {
            Some(VERSION) => Ok(reader),
            Some(other) => {
                let other = base::text::printable(&String::from_utf8_lossy(other));
                Err(damaged(format!("it has version {other}, but this program only reads version 1"))
                    .hint("use the newer version of dolibarr-backup that wrote it, or --ignore-index"))
            }
            None => Err(reader.invalid("not an index: unknown first line")),
        }
    }

    /// The next member or entry; `None` after the last line.
    ///
    /// # Errors
    /// [`Class::Stale`] if the index is damaged, cut off or contradicts itself, naming the line.
    pub(crate) fn next(&mut self) -> Result<Option<Item>> {
        if self.ended {
            return Ok(None);
        }
        self.line()?;
        let text = std::mem::take(&mut self.text);
        let fields: Vec<&[u8]> = text.split(|b| *b == b'\t').collect();
        let item = match fields.as_slice() {
            [b"m", offset, packed, plain] => self.member(offset, packed, plain).map(|span| Some(Item::Member(span))),
            [b"end", entries, members, bytes] => self.end(entries, members, bytes).map(|()| None),
            [kind, at, content_at, size, modified, digest, path, target @ ..] if target.len() <= 1 => self
                .entry([kind, at, content_at, size, modified, digest, path], target.first().copied())
                .map(|line| Some(Item::Entry(line))),
            _ => Err(self.invalid("unknown kind of line")),
        };
        self.text = text;
        item
    }

    /// The rest of the compressed input. It is empty after [`Reader::next`] has returned `None`.
    pub(crate) fn into_inner(self) -> R {
        self.input.into_inner().into_inner()
    }

    /// Reads a line without its newline.
    fn line(&mut self) -> Result<()> {
        self.text.clear();
        self.number += 1;
        let read = self.input.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut self.text);
        read.map_err(|error| self.unreadable(error))?;
        if self.text.pop_if(|byte| *byte == b'\n').is_some() {
            Ok(())
        } else if self.text.len() as u64 == LINE_BYTES_MAX {
            Err(self.invalid(&format!("it is longer than {LINE_BYTES_MAX} bytes")))
        } else {
            Err(self.invalid("it is cut off"))
        }
    }

    fn member(&mut self, offset: &[u8], packed: &[u8], plain: &[u8]) -> Result<Span> {
        self.close_member()?;
        let span = number(offset).zip(number(packed)).zip(number(plain)).and_then(|((offset, packed), plain)| {
            Some(Span {
                offset,
                packed_bytes: usize::try_from(packed).ok()?,
                plain_bytes: usize::try_from(plain).ok()?,
            })
        });
        let Some(span) = span else { return Err(self.invalid(NUMBER_EXPECTED)) };
        let fits = (1..=MEMBER_PACKED_BYTES_MAX).contains(&span.packed_bytes)
            && (1..=MEMBER_PLAIN_BYTES_MAX).contains(&span.plain_bytes);
        if span.offset != self.next_offset || !fits {
            return Err(self.invalid("the member has an invalid position or size"));
        }
        if self.vacant {
            return Err(self.invalid("an empty member is not the last one"));
        }
        self.next_offset += span.packed_bytes as u64;
        self.members += 1;
        let carried = self.member.map_or(0, |member| self.cursor.saturating_sub(member.plain_bytes as u64));
        self.cursor = carried;
        self.vacant = carried == 0;
        self.member = Some(span);
        Ok(span)
    }

    /// Checks that the last member is full. A content may continue in the next one.
    fn close_member(&mut self) -> Result<()> {
        match self.member {
            Some(member) if !self.vacant && self.cursor < member.plain_bytes as u64 => {
                Err(self.invalid("the previous member has bytes that belong to no entry"))
            }
            _ => Ok(()),
        }
    }

    fn entry(&mut self, fields: [&[u8]; 7], target: Option<&[u8]>) -> Result<Line> {
        let line = parse_line(fields, target).map_err(|why| self.invalid(why))?;
        let Some(member) = self.member else { return Err(self.invalid("no member precedes the entry")) };
        let headers = line.content_at.saturating_sub(line.at);
        let names = line.path.len() + target_of(&line).map_or(0, <[u8]>::len);
        let is_whole = headers >= TAR_BLOCK_BYTES && headers.is_multiple_of(TAR_BLOCK_BYTES) && names <= headers;
        if line.at as u64 != self.cursor || !is_whole || line.content_at > member.plain_bytes {
            return Err(self.invalid("the entry has an invalid position"));
        }
        let padded = line.size_bytes.checked_next_multiple_of(TAR_BLOCK_BYTES as u64);
        let Some(end) = padded.and_then(|padded| padded.checked_add(line.content_at as u64)) else {
            return Err(self.invalid("the entry is too large"));
        };
        self.place(&line)?;
        self.cursor = end;
        self.vacant = false;
        self.entries += 1;
        Ok(line)
    }

    /// Checks that the entry follows the last one in path order, and that its folder is in the index.
    fn place(&mut self, line: &Line) -> Result<()> {
        let follows = self.last.as_ref().is_none_or(|last| path::order(last, &line.path) == Ordering::Less);
        if !follows {
            return Err(self.invalid("its path occurs twice or is not in order"));
        }
        while self.folders.pop_if(|folder| !path::is_below(&line.path, folder)).is_some() {}
        let (above, _) = path::split(&line.path);
        let is_root = line.path.is_empty() && line.kind == Kind::Folder;
        if !is_root && self.folders.last().is_none_or(|folder| folder != above) {
            return Err(self.invalid("its folder is not in the index"));
        }
        if line.linked.as_ref().is_some_and(|first| path::order(first, &line.path) != Ordering::Less) {
            return Err(self.invalid("a hard link comes before its target"));
        }
        if line.kind == Kind::Folder {
            self.folders.push(line.path.clone());
        }
        self.last = Some(line.path.clone());
        Ok(())
    }

    fn end(&mut self, entries: &[u8], members: &[u8], bytes: &[u8]) -> Result<()> {
        self.close_member()?;
        if !self.vacant {
            return Err(self.invalid("the end of the archive is missing"));
        }
        let totals = [number(entries), number(members), number(bytes)];
        if totals != [Some(self.entries), Some(self.members), Some(self.next_offset)] {
            return Err(self.invalid("its totals do not match its lines"));
        }
        if self.next_offset != self.archive_bytes {
            let (expected, actual) = (self.next_offset, self.archive_bytes);
            let text = format!("it describes an archive of {expected} bytes, but the archive has {actual} bytes");
            return Err(self.invalid(&text));
        }
        self.ended = true;
        // The decompressor checks the checksum only when it reaches the end.
        let more = self.input.fill_buf().map(|rest| !rest.is_empty());
        let more = more.and_then(|more| Ok(more || !self.input.get_mut().get_mut().fill_buf()?.is_empty()));
        match more {
            Ok(false) => Ok(()),
            Ok(true) => Err(self.invalid("unexpected data follows its end")),
            Err(error) => Err(self.unreadable(error)),
        }
    }

    fn unreadable(&self, error: io::Error) -> Error {
        producer_error(error, |error| match error.kind() {
            io::ErrorKind::UnexpectedEof => self.invalid("it is cut off"),
            _ => self.invalid(&reason(&error)),
        })
    }

    fn invalid(&self, why: &str) -> Error {
        damaged(format!("line {}: {why}", self.number))
    }
}

/// An error for a damaged index.
pub(crate) fn damaged(why: String) -> Error {
    Error::new(Class::Stale, why).hint("use --ignore-index to read the archive without its index")
}

/// The target of a symbolic link or a hard link.
fn target_of(line: &Line) -> Option<&[u8]> {
    match (&line.kind, &line.linked) {
        (Kind::Link(target), _) | (_, Some(target)) => Some(target),
        _ => None,
    }
}

const NUMBER_EXPECTED: &str = "expected a number";
const INVALID_PATH: &str = "invalid path";

fn parse_line(fields: [&[u8]; 7], target: Option<&[u8]>) -> Result<Line, &'static str> {
    let [kind, at, content_at, size, modified, digest, path] = fields;
    let target = target.map(path::parse).transpose().map_err(|()| INVALID_PATH)?;
    let (kind, linked) = match (kind, target) {
        (b"f", None) => (Kind::File, None),
        (b"d", None) => (Kind::Folder, None),
        (b"p", None) => (Kind::Fifo, None),
        (b"c", None) => (Kind::CharacterDevice, None),
        (b"b", None) => (Kind::BlockDevice, None),
        (b"h", Some(first)) => (Kind::File, Some(path::below(&first).map_err(|_| INVALID_PATH)?)),
        (b"l", Some(target)) => (Kind::Link(target), None),
        _ => return Err("its fields do not match its kind"),
    };
    let path = path::parse(path).map_err(|()| INVALID_PATH)?;
    let clean = path::below(&path).map_err(|_| INVALID_PATH)?;
    if clean != path && path != b"." {
        return Err(INVALID_PATH);
    }
    let digest = match digest {
        b"-" => Digest::None,
        hexadecimal => {
            let mut digest = [0; 32];
            hex::decode_to_slice(hexadecimal, &mut digest).map_err(|_| "invalid SHA-256")?;
            Digest::Sha256(digest)
        }
    };
    let numbers = number(at).zip(number(content_at)).zip(number(size));
    let ((at, content_at), size_bytes) = numbers.ok_or(NUMBER_EXPECTED)?;
    let is_content = kind == Kind::File && linked.is_none();
    if !is_content && (size_bytes != 0 || digest != Digest::None) {
        return Err("an entry that is not a file has a content");
    }
    Ok(Line {
        kind,
        path: clean,
        linked,
        at: usize::try_from(at).map_err(|_| NUMBER_EXPECTED)?,
        content_at: usize::try_from(content_at).map_err(|_| NUMBER_EXPECTED)?,
        size_bytes,
        modified: header::parse_seconds(modified).ok_or("invalid time")?,
        digest,
    })
}

/// Parses a number that consists of decimal digits only.
fn number(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    digits.then(|| std::str::from_utf8(text).ok()?.parse().ok()).flatten()
}
