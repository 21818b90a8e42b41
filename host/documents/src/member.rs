//! Compresses one gzip member, which holds whole tar entries or a part of a large file.
//!
//! Most documents are compressed already, and `tar -czf` is slow because it tries to compress them anyway. This module
//! stores bytes that look random and compresses bytes that look like text (headers, padding, the structure of a PDF).
//! If a sample shows that the data repeats itself, it compresses the whole member. The same bytes always give the same
//! member: it contains no time and no name.

use flate2::{Compress, Compression, FlushCompress};
use libdeflater::{CompressionLvl, Compressor, Crc};

/// Target size of a member with several entries, uncompressed: large enough that a member's 18 bytes of overhead and
/// its empty window cost nothing, small enough that restoring one document reads little else.
pub(super) const MEMBER_BYTES: usize = 1 << 20;

/// Compression level of compressible bytes. Higher levels cost more time than they save bytes.
const LEVEL: i32 = 6;

/// Compression level of the sample, which only has to detect repetition.
const SAMPLE_LEVEL: i32 = 1;

/// Length of the sample: twice the window of deflate, so that half of it has a full window before it.
const SAMPLE_BYTES: usize = 64 << 10;

/// Compressing a whole member must save at least this much over compressing its pieces, in percent of its length. For
/// 2.6 GB of invoices, 1 took 11.4 s for 0.5 % more than gzip, 3 took 7.0 s for 0.65 %, 8 took 6.3 s for 0.68 %.
const GAIN_PERCENT_MIN: usize = 3;

/// If less than one byte in this many looks random, the member is compressed as a whole without taking a sample.
const FEW_RANDOM: usize = 8;

/// Bytes that are classified together as text or random: one tar block.
const PIECE_BYTES: usize = 512;

/// The classification looks at the first half of each group of this many bytes: that is enough, and takes half the
/// time.
const JUDGED_BYTES: usize = 16;

/// 256 bytes look random if the sum of the squares of their byte counts is at most this. Random bytes give
/// 256 + 256² / 256 = 512 on average and hardly ever 620; text and headers give several times that.
const RANDOM_SQUARES_MAX: u32 = 680;

/// The shortest run of random pieces that is worth storing: switching costs about ten bytes.
const STRETCH_BYTES_MIN: usize = 4 * PIECE_BYTES;

/// Length of the repeated strings that are searched for in a sample. Shorter ones save almost nothing.
const WORD_BYTES: usize = 8;

/// Slots in the hash table of a sample's strings: twice the number of its words, so that few collide.
const WORDS: usize = 2 * SAMPLE_BYTES / WORD_BYTES;

/// First bytes of a member: deflate, no name, no time, unknown system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

/// Zeros to compare with.
const ZEROS: [u8; 4_096] = [0; 4_096];

/// Compresses members. Each worker has its own, because it reuses its tables.
pub(super) struct Packer {
    sampler: Compressor,
    whole: Compressor,
    pieces: Compress,
    scratch: Vec<u8>,
    /// Strings of a sample, indexed by their hashes.
    words: Vec<u64>,
    /// The length of the last all-zero input, and its member. A hole consists of many such members.
    zeros: (usize, Vec<u8>),
}

impl Packer {
    pub(super) fn new() -> Self {
        Self {
            sampler: compressor(SAMPLE_LEVEL),
            whole: compressor(LEVEL),
            pieces: Compress::new(Compression::new(LEVEL.unsigned_abs()), false),
            scratch: Vec::new(),
            words: Vec::new(),
            zeros: (0, Vec::new()),
        }
    }

    /// Compresses `plain` into a member.
    pub(super) fn pack(&mut self, plain: &[u8]) -> Vec<u8> {
        let zeros = plain.chunks(ZEROS.len()).all(|chunk| ZEROS.starts_with(chunk));
        if zeros && !plain.is_empty() && self.zeros.0 == plain.len() {
            return self.zeros.1.clone();
        }
        let member = self.pack_afresh(plain);
        if zeros {
            self.zeros = (plain.len(), member.clone());
        }
        member
    }

    fn pack_afresh(&mut self, plain: &[u8]) -> Vec<u8> {
        let stretches: Vec<Stretch<'_>> = Stretches(plain).collect();
        let random_bytes: usize = stretches.iter().filter(|stretch| stretch.random).map(|s| s.bytes.len()).sum();
        let packed = if random_bytes < plain.len() / FEW_RANDOM || self.repeats(plain) {
            self.pack_whole(plain)
        } else {
            self.pack_pieces(plain, stretches)
        };
        let mut member = packed.unwrap_or_else(|| store(plain));
        // The member may wait for a slow store, and its buffer was sized for incompressible data.
        member.shrink_to_fit();
        member
    }

    /// Whether a sample from the middle compresses noticeably better as a whole than piece by piece.
    fn repeats(&mut self, plain: &[u8]) -> bool {
        let from = plain.len().saturating_sub(SAMPLE_BYTES) / 2 / PIECE_BYTES * PIECE_BYTES;
        let sample = plain.get(from..plain.len().min(from + SAMPLE_BYTES)).unwrap_or(plain);
        let stretches: Vec<Stretch<'_>> = Stretches(sample).collect();
        let random_bytes: usize = stretches.iter().filter(|stretch| stretch.random).map(|s| s.bytes.len()).sum();
        let Some(pieces) = self.pack_pieces(sample, stretches) else { return false };
        let gain_min = sample.len() * GAIN_PERCENT_MIN / 100;
        // Searching for repeated strings takes a tenth of the time of compressing, and decides for nearly all
        // documents. Compressing the whole can save at most these strings, and half of the compressed size of the rest.
        let squeezed = pieces.len().saturating_sub(random_bytes) / 2;
        if squeezed < gain_min && squeezed + self.repeated_bytes(sample) < gain_min {
            return false;
        }
        let limit = pieces.len().saturating_sub(gain_min);
        self.scratch.resize(self.scratch.len().max(limit), 0);
        let room = self.scratch.get_mut(..limit).unwrap_or_default();
        self.sampler.deflate_compress(sample, room).is_ok()
    }

    /// Approximate number of bytes in a sample that repeat an earlier word. If two words collide, one is forgotten.
    fn repeated_bytes(&mut self, sample: &[u8]) -> usize {
        self.words.clear();
        self.words.resize(WORDS, 0);
        let (mut repeated, mut at, mut remembered) = (0, 0, 0);
        while let Some(word) = sample.get(at..).and_then(|rest| rest.first_chunk::<WORD_BYTES>()) {
            let word = u64::from_le_bytes(*word);
            let Some(place) = self.words.get_mut(place_of(word)) else { return repeated };
            let is_known = *place == word;
            if at >= remembered {
                *place = word;
                remembered = at + WORD_BYTES;
            }
            if is_known {
                repeated += WORD_BYTES;
                at += WORD_BYTES;
            } else {
                at += 1;
            }
        }
        repeated
    }

    fn pack_whole(&mut self, plain: &[u8]) -> Option<Vec<u8>> {
        let bound = self.whole.gzip_compress_bound(plain.len());
        self.scratch.resize(self.scratch.len().max(bound), 0);
        let length = self.whole.gzip_compress(plain, &mut self.scratch).ok()?;
        self.scratch.get(..length).map(<[u8]>::to_vec)
    }

    fn pack_pieces<'p>(&mut self, plain: &[u8], stretches: impl IntoIterator<Item = Stretch<'p>>) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(plain.len() + plain.len() / 64 + 1_024);
        out.extend_from_slice(&HEADER);
        for Stretch { bytes, random } in stretches {
            if random {
                push_stored(&mut out, bytes, false);
            } else {
                self.squeeze(bytes, &mut out)?;
            }
        }
        push_stored(&mut out, &[], true);
        trailer(&mut out, plain);
        Some(out)
    }

    /// Appends compressed blocks that end at a byte boundary, so that stored blocks can follow. The blocks do not refer
    /// to earlier data, because stored data is not in the compressor's window.
    fn squeeze(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Option<()> {
        self.pieces.reset();
        let mut rest = bytes;
        loop {
            out.reserve(rest.len() + rest.len() / 64 + 64);
            let before = self.pieces.total_in();
            self.pieces.compress_vec(rest, out, FlushCompress::Sync).ok()?;
            rest = rest.get(usize::try_from(self.pieces.total_in() - before).ok()?..)?;
            if rest.is_empty() && out.len() < out.capacity() {
                return Some(());
            }
        }
    }
}

/// The slot of a string: the upper bits of its product with an odd number near the golden ratio, which distributes
/// well.
#[expect(clippy::cast_possible_truncation, reason = "what is left after the shift is below WORDS")]
const fn place_of(word: u64) -> usize {
    (word.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - WORDS.ilog2())) as usize
}

fn compressor(level: i32) -> Compressor {
    Compressor::new(CompressionLvl::new(level).unwrap_or_default())
}

/// A member without compression.
fn store(plain: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(plain.len() + plain.len() / STORED_BYTES_MAX * 5 + 64);
    out.extend_from_slice(&HEADER);
    push_stored(&mut out, plain, false);
    push_stored(&mut out, &[], true);
    trailer(&mut out, plain);
    out
}

/// Longest stored block of deflate.
const STORED_BYTES_MAX: usize = 65_535;

/// Appends stored blocks. If `last` is set, the final block is marked as the last of the member.
fn push_stored(out: &mut Vec<u8>, bytes: &[u8], last: bool) {
    let mut rest = bytes;
    loop {
        let (block, next) = rest.split_at(rest.len().min(STORED_BYTES_MAX));
        let length = u16::try_from(block.len()).unwrap_or(u16::MAX);
        out.push(u8::from(last && next.is_empty()));
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&(!length).to_le_bytes());
        out.extend_from_slice(block);
        rest = next;
        if rest.is_empty() {
            return;
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "gzip keeps the length modulo 2^32")]
fn trailer(out: &mut Vec<u8>, plain: &[u8]) {
    let mut crc = Crc::new();
    crc.update(plain);
    out.extend_from_slice(&crc.sum().to_le_bytes());
    out.extend_from_slice(&(plain.len() as u32).to_le_bytes());
}

/// A stretch of bytes that look alike.
struct Stretch<'a> {
    bytes: &'a [u8],
    random: bool,
}

/// Splits bytes into stretches; holds the bytes that are left.
struct Stretches<'a>(&'a [u8]);

impl<'a> Iterator for Stretches<'a> {
    type Item = Stretch<'a>;

    fn next(&mut self) -> Option<Stretch<'a>> {
        let mut pieces = self.0.chunks(PIECE_BYTES);
        let random = looks_random(pieces.next()?);
        let mut length = PIECE_BYTES.min(self.0.len());
        let mut against = 0;
        for piece in pieces {
            if looks_random(piece) == random {
                length += against + piece.len();
                against = 0;
                continue;
            }
            against += piece.len();
            // A few random pieces within text are not worth storing. A random stretch ends at the first text.
            if !random && against < STRETCH_BYTES_MIN {
                continue;
            }
            break;
        }
        let (bytes, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        Some(Stretch { bytes, random })
    }
}

/// Whether the bytes are distributed so evenly that Huffman coding cannot shorten them.
fn looks_random(piece: &[u8]) -> bool {
    if piece.len() < PIECE_BYTES {
        return false;
    }
    let mut counts = [0_u16; 256];
    for byte in piece.chunks(JUDGED_BYTES).flat_map(|some| some.iter().take(JUDGED_BYTES / 2)) {
        if let Some(count) = counts.get_mut(usize::from(*byte)) {
            *count += 1;
        }
    }
    counts.iter().map(|count| u32::from(*count) * u32::from(*count)).sum::<u32>() <= RANDOM_SQUARES_MAX
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::SmallRng;
    use rand::{RngExt, SeedableRng};
    use std::io::Read;

    fn unpacked(member: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(member).read_to_end(&mut plain).unwrap();
        plain
    }

    fn noise(bytes: usize) -> Vec<u8> {
        let mut noise = vec![0; bytes];
        SmallRng::seed_from_u64(7).fill(&mut noise[..]);
        noise
    }

    #[test]
    fn a_member_unpacks_to_its_input() {
        let text = b"the quick brown fox ".repeat(40_000);
        let noise = noise(MEMBER_BYTES);
        let mixed: Vec<u8> = (0..40)
            .flat_map(|n| [&text[n * 700..n * 700 + 900], &noise[n * 20_000..n * 20_000 + 19_111]].concat())
            .collect();
        let mut packer = Packer::new();
        for plain in [
            &[][..],
            b"a",
            &text,
            &noise,
            &mixed,
            &noise[..511],
            &noise[..512],
            &noise[..2_049],
            &vec![0; 1_536],
            &vec![0; 1_536],
        ] {
            let member = packer.pack(plain);
            assert_eq!(unpacked(&member), plain, "{} bytes", plain.len());
            assert_eq!(member, Packer::new().pack(plain), "a packer that was used before gives a different member");
            assert_eq!(unpacked(&store(plain)), plain);
            assert!(member.len() <= plain.len() + plain.len() / 1_000 + 64, "{} from {}", member.len(), plain.len());
        }
        assert!(packer.pack(&text).len() < text.len() / 50);
        let twice = noise[..20_000].repeat(40);
        assert!(packer.pack(&twice).len() < twice.len() / 20, "what looks random may still repeat itself");
        let headers: usize = 40 * 900;
        assert!(packer.pack(&mixed).len() < mixed.len() - headers * 8 / 10, "text between noise is compressed");
    }

    #[test]
    fn repeated_strings_are_found_at_any_distance_and_noise_has_none() {
        let mut packer = Packer::new();
        let noise = noise(SAMPLE_BYTES);
        assert_eq!(packer.repeated_bytes(&noise), 0);
        assert_eq!(packer.repeated_bytes(&noise[..WORD_BYTES - 1]), 0);
        assert_eq!(packer.repeated_bytes(&[]), 0);
        for distance in [1_000, 20_001, 32_003] {
            let again = [&noise[..distance], &noise[..distance]].concat();
            let found = packer.repeated_bytes(&again);
            assert!(found <= distance && found >= distance * 3 / 4, "{found} of {distance}");
        }
        assert!(packer.repeated_bytes(&vec![0; SAMPLE_BYTES]) >= SAMPLE_BYTES - WORD_BYTES);
    }

    #[test]
    fn only_random_bytes_look_random() {
        let noise = noise(PIECE_BYTES * 2_000);
        assert!(noise.chunks(PIECE_BYTES).all(looks_random));
        let text = b"<</Type /Page /Parent 1 0 R /LastModified (D:20260101000000) /Resources 2 0 R>>".repeat(7);
        assert!(!looks_random(&text[..PIECE_BYTES]));
        assert!(!looks_random(&[0; PIECE_BYTES]));
        assert!(!looks_random(&noise[..PIECE_BYTES - 1]), "a short piece is not worth storing");
    }
}
