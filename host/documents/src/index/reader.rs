//! Reading an index back, a line at a time: strict, and never more of it in memory than one line and the way to it.
//!
//! What it hands out holds together: members follow each other, entries follow each other within them, every path is
//! relative and below a folder that came before it, and none comes twice. Whoever restores relies on that.

use super::{Digest, Line};
use crate::entry::Kind;
use crate::header::{self, TAR_BLOCK_BYTES};
use crate::path;
use base::error::{Class, Error, Result, reason};
use base::stream::cause;
use flate2::bufread::GzDecoder;
use std::cmp::Ordering;
use std::io::{self, BufRead, BufReader, Read};

/// What the first line says before the version.
const NAME: &[u8] = b"dolibarr-backup index ";

/// The version that this reader knows.
const VERSION: &[u8] = b"1";

/// Longest line. A path takes at most four characters for each of its bytes, and a line holds two of them.
const LINE_BYTES_MAX: u64 = 8 * path::BYTES_MAX as u64 + 1_024;

/// Largest member, unpacked. They aim at 1 MiB; one whose files all grew while they were read is larger. With a
/// dozen workers this is what bounds the memory of a restore from a hostile index.
pub(crate) const MEMBER_PLAIN_BYTES_MAX: usize = 16 << 20;

/// Largest member as it is stored: one that did not shrink has a few bytes for each 64 KiB, and its frame.
const MEMBER_PACKED_BYTES_MAX: usize = MEMBER_PLAIN_BYTES_MAX + (1 << 20);

/// Bytes that are unpacked at once.
const BUFFER_BYTES: usize = 64 << 10;

/// Where a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    /// In bytes of the archive.
    pub(crate) offset: u64,
    pub(crate) packed_bytes: usize,
    pub(crate) plain_bytes: usize,
}

/// What a line says.
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
    /// Length that the archive must have.
    archive_bytes: u64,
    members: u64,
    entries: u64,
    next_offset: u64,
    member: Option<Span>,
    /// Where the next entry begins in the last member; beyond its end while a content goes on.
    cursor: u64,
    /// Whether nothing is in the last member, as is right for the last one alone.
    vacant: bool,
    /// The folders on the way to the last entry, outermost first.
    folders: Vec<Vec<u8>>,
    last: Option<Vec<u8>>,
    ended: bool,
}

impl<R: BufRead> Reader<R> {
    /// Begins to read the index of an archive of `archive_bytes`.
    ///
    /// # Errors
    /// As [`Reader::next`]; also for a version that is not known, which is named.
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
                Err(damaged(format!("it has version {other}, and this program reads version 1"))
                    .hint("use the newer version of dolibarr-backup that wrote it, or --ignore-index"))
            }
            None => Err(reader.wrong("it does not begin as an index does")),
        }
    }

    /// The next member or entry; none after the last line.
    ///
    /// # Errors
    /// Of class [`Class::Stale`] when it is damaged, cut off or contradicts itself, naming the line; the stream's own.
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
            _ => Err(self.wrong("it has no such line")),
        };
        self.text = text;
        item
    }

    /// What is left of the compressed input. After [`Reader::next`] gave none, nothing but what does not belong to it.
    pub(crate) fn into_inner(self) -> R {
        self.input.into_inner().into_inner()
    }

    /// Reads a line without its end.
    fn line(&mut self) -> Result<()> {
        self.text.clear();
        self.number += 1;
        let read = self.input.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut self.text);
        read.map_err(|error| self.unreadable(error))?;
        if self.text.pop_if(|byte| *byte == b'\n').is_some() {
            Ok(())
        } else if self.text.len() as u64 == LINE_BYTES_MAX {
            Err(self.wrong("it is longer than any line may be"))
        } else {
            Err(self.wrong("it is cut off"))
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
        let Some(span) = span else { return Err(self.wrong("a number is none")) };
        let fits = (1..=MEMBER_PACKED_BYTES_MAX).contains(&span.packed_bytes)
            && (1..=MEMBER_PLAIN_BYTES_MAX).contains(&span.plain_bytes);
        if span.offset != self.next_offset || !fits {
            return Err(self.wrong("the member cannot be there"));
        }
        if self.vacant {
            return Err(self.wrong("a member without an entry is not the last one"));
        }
        self.next_offset += span.packed_bytes as u64;
        self.members += 1;
        let carried = self.member.map_or(0, |member| self.cursor.saturating_sub(member.plain_bytes as u64));
        self.cursor = carried;
        self.vacant = carried == 0;
        self.member = Some(span);
        Ok(span)
    }

    /// A member must be full before another one begins; a content may go on in the next.
    fn close_member(&mut self) -> Result<()> {
        match self.member {
            Some(member) if !self.vacant && self.cursor < member.plain_bytes as u64 => {
                Err(self.wrong("the member before has bytes that belong to no entry"))
            }
            _ => Ok(()),
        }
    }

    fn entry(&mut self, fields: [&[u8]; 7], target: Option<&[u8]>) -> Result<Line> {
        let line = parsed(fields, target).map_err(|why| self.wrong(why))?;
        let Some(member) = self.member else { return Err(self.wrong("no member holds the entry")) };
        let headers = line.content_at.saturating_sub(line.at);
        let names = line.path.len() + target_of(&line).map_or(0, <[u8]>::len);
        let is_whole = headers >= TAR_BLOCK_BYTES && headers.is_multiple_of(TAR_BLOCK_BYTES) && names <= headers;
        if line.at as u64 != self.cursor || !is_whole || line.content_at > member.plain_bytes {
            return Err(self.wrong("the entry cannot be there"));
        }
        let padded = line.size_bytes.checked_next_multiple_of(TAR_BLOCK_BYTES as u64);
        let Some(end) = padded.and_then(|padded| padded.checked_add(line.content_at as u64)) else {
            return Err(self.wrong("the entry is larger than any can be"));
        };
        self.place(&line)?;
        self.cursor = end;
        self.vacant = false;
        self.entries += 1;
        Ok(line)
    }

    /// Whether the entry may come after the last one, and lies in a folder that the index has.
    fn place(&mut self, line: &Line) -> Result<()> {
        let follows = self.last.as_ref().is_none_or(|last| path::order(last, &line.path) == Ordering::Less);
        if !follows {
            return Err(self.wrong("its path comes twice or is not in order"));
        }
        while self.folders.pop_if(|folder| !path::is_below(&line.path, folder)).is_some() {}
        let (above, _) = path::split(&line.path);
        let is_root = line.path.is_empty() && line.kind == Kind::Folder;
        if !is_root && self.folders.last().is_none_or(|folder| folder != above) {
            return Err(self.wrong("its path is in no folder of the index"));
        }
        if line.linked.as_ref().is_some_and(|first| path::order(first, &line.path) != Ordering::Less) {
            return Err(self.wrong("a further name comes before the first one"));
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
            return Err(self.wrong("the end of the archive is missing"));
        }
        let said = [number(entries), number(members), number(bytes)];
        if said != [Some(self.entries), Some(self.members), Some(self.next_offset)] {
            return Err(self.wrong("its totals are not those of its lines"));
        }
        if self.next_offset != self.archive_bytes {
            let text = format!("it is of an archive of {} bytes, not of {}", self.next_offset, self.archive_bytes);
            return Err(self.wrong(&text));
        }
        self.ended = true;
        // Only at its end does the decompressor compare the checksum.
        let more = self.input.fill_buf().map(|rest| !rest.is_empty());
        let more = more.and_then(|more| Ok(more || !self.input.get_mut().get_mut().fill_buf()?.is_empty()));
        match more {
            Ok(false) => Ok(()),
            Ok(true) => Err(self.wrong("something follows its end")),
            Err(error) => Err(self.unreadable(error)),
        }
    }

    fn unreadable(&self, error: io::Error) -> Error {
        cause(error, |error| match error.kind() {
            io::ErrorKind::UnexpectedEof => self.wrong("it is cut off"),
            _ => self.wrong(&reason(&error)),
        })
    }

    fn wrong(&self, why: &str) -> Error {
        damaged(format!("line {}: {why}", self.number))
    }
}

/// The failure of whoever reads a damaged index.
pub(crate) fn damaged(why: String) -> Error {
    Error::new(Class::Stale, why).hint("with --ignore-index the archive is read without its index")
}

/// The target of a symbolic link, or the first name of a file with several.
fn target_of(line: &Line) -> Option<&[u8]> {
    match (&line.kind, &line.linked) {
        (Kind::Link(target), _) | (_, Some(target)) => Some(target),
        _ => None,
    }
}

fn parsed(fields: [&[u8]; 7], target: Option<&[u8]>) -> Result<Line, &'static str> {
    let [kind, at, content_at, size, modified, digest, path] = fields;
    let target = target.map(path::parsed).transpose().map_err(|()| "a path is none")?;
    let (kind, linked) = match (kind, target) {
        (b"f", None) => (Kind::File, None),
        (b"d", None) => (Kind::Folder, None),
        (b"p", None) => (Kind::Fifo, None),
        (b"c", None) => (Kind::CharacterDevice, None),
        (b"b", None) => (Kind::BlockDevice, None),
        (b"h", Some(first)) => (Kind::File, Some(path::below(&first).map_err(|_| "a path is none")?)),
        (b"l", Some(target)) => (Kind::Link(target), None),
        _ => return Err("its kind and its fields do not go together"),
    };
    let path = path::parsed(path).map_err(|()| "a path is none")?;
    let clean = path::below(&path).map_err(|_| "a path is none")?;
    if clean != path && path != b"." {
        return Err("a path is none");
    }
    let digest = match digest {
        b"-" => Digest::None,
        hexadecimal => {
            let mut digest = [0; 32];
            hex::decode_to_slice(hexadecimal, &mut digest).map_err(|_| "a SHA-256 is none")?;
            Digest::Sha256(digest)
        }
    };
    let numbers = number(at).zip(number(content_at)).zip(number(size));
    let ((at, content_at), size_bytes) = numbers.ok_or("a number is none")?;
    let is_content = kind == Kind::File && linked.is_none();
    if !is_content && (size_bytes != 0 || digest != Digest::None) {
        return Err("what is no file has a content");
    }
    Ok(Line {
        kind,
        path: clean,
        linked,
        at: usize::try_from(at).map_err(|_| "a number is none")?,
        content_at: usize::try_from(content_at).map_err(|_| "a number is none")?,
        size_bytes,
        modified: header::parse_seconds(modified).ok_or("a time is none")?,
        digest,
    })
}

/// A number as it is written: decimal digits alone.
fn number(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    digits.then(|| std::str::from_utf8(text).ok()?.parse().ok()).flatten()
}
