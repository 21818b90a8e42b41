//! Sparse files in GNU tar's formats: only the data, and a map of where it belongs. There are four dialects: the map is
//! in the header and the blocks after it (`S`), in PAX records (versions 0.0 and 0.1), or before the data (version
//! 1.0).
//!
//! Source: "Sparse Formats" in the manual of GNU tar.

use super::parse::damaged;
use crate::header::TAR_BLOCK_BYTES;
use base::error::Result;
use std::io::{self, Read};
use tar::{GnuExtSparseHeader, GnuSparseHeader, Header};

/// Stretches of data in one file. A file of a terabyte with a hole in each megabyte has this many.
const STRETCHES_MAX: usize = 1 << 20;

/// Digits of a number in a map: a 64-bit number has at most 20.
const DIGITS_MAX: usize = 20;

/// Where data belongs: offset and length, in bytes.
pub(crate) type Map = Vec<(u64, u64)>;

/// The PAX records of a sparse file.
#[derive(Debug, Default)]
pub(super) struct Records {
    major: u64,
    pub(super) name: Option<Vec<u8>>,
    pub(super) real_size: Option<u64>,
    /// The numbers of a map, in the order of the records.
    numbers: Vec<u64>,
}

impl Records {
    /// Adds a record whose key began with `GNU.sparse.`; `None` if it is invalid.
    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        match key {
            b"major" => self.major = number(value)?,
            b"name" => self.name = Some(value.to_vec()),
            b"realsize" | b"size" => self.real_size = Some(number(value)?),
            b"offset" | b"numbytes" => self.numbers.push(number(value)?),
            b"map" => self.numbers = value.split(|b| *b == b',').map(number).collect::<Option<_>>()?,
            _ => {}
        }
        (self.numbers.len() <= 2 * STRETCHES_MAX).then_some(())
    }

    /// The map, if these records announce one, and the number of the entry's bytes that were read for it.
    pub(super) fn map(self, input: &mut impl Read) -> Result<Option<(Map, u64)>> {
        if self.real_size.is_none() {
            return Ok(None);
        }
        if self.major == 0 {
            let (pairs, []) = self.numbers.as_chunks::<2>() else { return Err(broken()) };
            return Ok(Some((pairs.iter().map(|[offset, length]| (*offset, *length)).collect(), 0)));
        }
        let mut lines = Lines { input, block: [0; TAR_BLOCK_BYTES], at: TAR_BLOCK_BYTES, read: 0 };
        let count = lines.number()?;
        if count > STRETCHES_MAX as u64 {
            return Err(broken());
        }
        let map = (0..count).map(|_| Ok((lines.number()?, lines.number()?))).collect::<Result<_>>()?;
        Ok(Some((map, lines.read)))
    }
}

/// The numbers before the data: one per line, in whole blocks.
struct Lines<'i, R> {
    input: &'i mut R,
    block: [u8; TAR_BLOCK_BYTES],
    at: usize,
    read: u64,
}

impl<R: Read> Lines<'_, R> {
    fn number(&mut self) -> Result<u64> {
        let mut digits = Vec::new();
        loop {
            if self.at == TAR_BLOCK_BYTES {
                self.input.read_exact(&mut self.block).map_err(super::parse::unreadable)?;
                self.at = 0;
                self.read += TAR_BLOCK_BYTES as u64;
            }
            let byte = self.block.get(self.at).copied().unwrap_or_default();
            self.at += 1;
            match byte {
                b'\n' => return number(&digits).ok_or_else(broken),
                _ if digits.len() < DIGITS_MAX => digits.push(byte),
                _ => return Err(broken()),
            }
        }
    }
}

/// The map and the real size of an old entry (`S`): four stretches are in the header, more in the blocks after it.
pub(super) fn old(header: &Header, input: &mut impl Read) -> Result<(Map, u64)> {
    let gnu = header.as_gnu().ok_or_else(broken)?;
    let real_size = gnu.real_size().map_err(|_| broken())?;
    let mut map = Map::new();
    push(&mut map, &gnu.sparse)?;
    let mut has_more = gnu.is_extended();
    while has_more {
        let mut block = GnuExtSparseHeader::new();
        input.read_exact(block.as_mut_bytes()).map_err(super::parse::unreadable)?;
        push(&mut map, block.sparse())?;
        has_more = block.is_extended();
    }
    Ok((map, real_size))
}

fn push(map: &mut Map, places: &[GnuSparseHeader]) -> Result<()> {
    for place in places.iter().filter(|place| !place.is_empty()) {
        map.push((place.offset().map_err(|_| broken())?, place.length().map_err(|_| broken())?));
    }
    if map.len() > STRETCHES_MAX { Err(broken()) } else { Ok(()) }
}

/// Checks that a map is in order, lies within its file, and covers exactly the stored bytes.
pub(super) fn check(map: &Map, real_size: u64, stored_bytes: u64) -> Result<()> {
    let mut at = 0_u64;
    let mut stored = 0_u64;
    for (offset, length) in map {
        let end = offset.checked_add(*length).filter(|end| *offset >= at && *end <= real_size).ok_or_else(broken)?;
        (at, stored) = (end, stored + length);
    }
    if stored == stored_bytes { Ok(()) } else { Err(broken()) }
}

/// Reads a content with its holes expanded to zeros.
pub(crate) struct Expanded<'c, R> {
    input: &'c mut R,
    map: std::slice::Iter<'c, (u64, u64)>,
    zeros: u64,
    data: u64,
    at: u64,
    size_bytes: u64,
}

impl<'c, R: Read> Expanded<'c, R> {
    /// A content of `size_bytes`. Without a map, all of it is stored.
    pub(crate) fn new(input: &'c mut R, map: Option<&'c Map>, size_bytes: u64) -> Self {
        let data = if map.is_none() { size_bytes } else { 0 };
        Self { input, map: map.map(Vec::as_slice).unwrap_or_default().iter(), zeros: 0, data, at: 0, size_bytes }
    }
}

impl<R: Read> Read for Expanded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.zeros == 0 && self.data == 0 && self.at < self.size_bytes {
            let (offset, length) = self.map.next().copied().unwrap_or((self.size_bytes, 0));
            (self.zeros, self.data) = (offset.saturating_sub(self.at), length);
        }
        let left = if self.zeros > 0 { &mut self.zeros } else { &mut self.data };
        let room = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
        let buffer = buffer.get_mut(..room).unwrap_or_default();
        let read = if self.zeros > 0 {
            buffer.fill(0);
            self.zeros -= room as u64;
            room
        } else {
            let read = self.input.read(buffer)?;
            self.data -= read as u64;
            read
        };
        self.at += read as u64;
        Ok(read)
    }
}

fn number(text: &[u8]) -> Option<u64> {
    let is_number = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    is_number.then(|| std::str::from_utf8(text).ok()?.parse().ok()).flatten()
}

/// An error for a map that does not match its file.
pub(super) fn broken() -> base::error::Error {
    damaged("invalid map of a sparse file")
}
