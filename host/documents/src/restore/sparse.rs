//! Sparse files as GNU tar keeps them: the data alone, and a map of where it belongs. There are four dialects: the map in the header
//! and blocks behind it (`S`), or in PAX records (versions 0.0 and 0.1), or before the data (version 1.0).
//!
//! Source: "Sparse Formats" in the manual of GNU tar.

use super::parse::damaged;
use crate::header::TAR_BLOCK_BYTES;
use base::error::Result;
use std::io::{self, Read};
use tar::{GnuExtSparseHeader, GnuSparseHeader, Header};

/// Stretches of data of one file. A database's file of a terabyte with a hole in each megabyte has as many.
const STRETCHES_MAX: usize = 1 << 20;

/// A number in a map has at most 20 digits.
const DIGITS_MAX: usize = 20;

/// Where data belongs: offset and length, in bytes.
pub(crate) type Map = Vec<(u64, u64)>;

/// What PAX records say of a sparse file.
#[derive(Debug, Default)]
pub(super) struct Records {
    major: u64,
    pub(super) name: Option<Vec<u8>>,
    pub(super) real_size: Option<u64>,
    /// The numbers of a map, as they come.
    numbers: Vec<u64>,
}

impl Records {
    /// Takes a record whose key begins with `GNU.sparse.`; none where it is broken.
    pub(super) fn take(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
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

    /// The map, where these records announce one, and how many of the entry's bytes were read for it.
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

/// The numbers before the data: one a line, in whole blocks.
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

/// The map and the real size of an old entry, `S`: four places in the header, more in blocks behind it.
pub(super) fn old(header: &Header, input: &mut impl Read) -> Result<(Map, u64)> {
    let gnu = header.as_gnu().ok_or_else(broken)?;
    let real_size = gnu.real_size().map_err(|_| broken())?;
    let mut map = Map::new();
    push(&mut map, &gnu.sparse)?;
    let mut goes_on = gnu.is_extended();
    while goes_on {
        let mut block = GnuExtSparseHeader::new();
        input.read_exact(block.as_mut_bytes()).map_err(super::parse::unreadable)?;
        push(&mut map, block.sparse())?;
        goes_on = block.is_extended();
    }
    Ok((map, real_size))
}

fn push(map: &mut Map, places: &[GnuSparseHeader]) -> Result<()> {
    for place in places.iter().filter(|place| !place.is_empty()) {
        map.push((place.offset().map_err(|_| broken())?, place.length().map_err(|_| broken())?));
    }
    if map.len() > STRETCHES_MAX { Err(broken()) } else { Ok(()) }
}

/// Whether a map lies within its file, in order, and has as many bytes as are stored.
pub(super) fn check(map: &Map, real_size: u64, stored_bytes: u64) -> Result<()> {
    let mut at = 0_u64;
    let mut stored = 0_u64;
    for (offset, length) in map {
        let end = offset.checked_add(*length).filter(|end| *offset >= at && *end <= real_size).ok_or_else(broken)?;
        (at, stored) = (end, stored + length);
    }
    if stored == stored_bytes { Ok(()) } else { Err(broken()) }
}

/// A content as it was, of what is stored of it.
pub(crate) struct Expanded<'c, R> {
    input: &'c mut R,
    map: std::slice::Iter<'c, (u64, u64)>,
    zeros: u64,
    data: u64,
    at: u64,
    size_bytes: u64,
}

impl<'c, R: Read> Expanded<'c, R> {
    /// A content of `size_bytes`; all of it is stored where there is no map.
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

/// The failure of whoever meets a map that cannot be that of its file.
pub(super) fn broken() -> base::error::Error {
    damaged("the map of a sparse file makes no sense")
}
