//! Unpacks any whole `tar.gz`: one gzip member or many. Zeros after the last member are ignored, as `gzip` does; tapes
//! and block devices leave them.

use flate2::bufread::GzDecoder;
use std::io::{self, BufRead, ErrorKind, Read};

/// First byte of a member.
const GZIP: u8 = 0x1f;

/// The unpacked bytes of all members.
pub(crate) struct Gunzip<R>(GunzipState<R>);

enum GunzipState<R> {
    Member(Box<GzDecoder<R>>),
    Ended(R),
    /// Between two states; permanent after an error.
    Invalid,
}

impl<R: BufRead> Gunzip<R> {
    pub(crate) fn new(input: R) -> Self {
        Self(GunzipState::Member(Box::new(GzDecoder::new(input))))
    }

    /// The compressed input. It is empty once everything was read. `None` after an error.
    pub(crate) fn into_inner(self) -> Option<R> {
        match self.0 {
            GunzipState::Member(decoder) => Some(decoder.into_inner()),
            GunzipState::Ended(input) => Some(input),
            GunzipState::Invalid => None,
        }
    }

    /// Continues with the next member.
    fn next_member(&mut self) -> io::Result<()> {
        let GunzipState::Member(decoder) = std::mem::replace(&mut self.0, GunzipState::Invalid) else { return Ok(()) };
        let mut input = decoder.into_inner();
        let zeros = skip_zeros(&mut input)?;
        let next = input.fill_buf()?.first().copied();
        self.0 = match (next, zeros) {
            (None, _) => GunzipState::Ended(input),
            (Some(GZIP), 0) => GunzipState::Member(Box::new(GzDecoder::new(input))),
            _ => {
                let text = "data that is not gzip follows its end; everything before it is intact";
                return Err(io::Error::new(ErrorKind::InvalidData, text));
            }
        };
        Ok(())
    }
}

impl<R: BufRead> Read for Gunzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let GunzipState::Member(decoder) = &mut self.0 {
            match decoder.read(buffer)? {
                0 if !buffer.is_empty() => self.next_member()?,
                read => return Ok(read),
            }
        }
        Ok(0)
    }
}

/// Skips zeros and returns their number.
fn skip_zeros(input: &mut impl BufRead) -> io::Result<u64> {
    let mut skipped = 0;
    loop {
        let buffer = input.fill_buf()?;
        let zeros = buffer.iter().take_while(|byte| **byte == 0).count();
        if zeros == 0 {
            return Ok(skipped);
        }
        input.consume(zeros);
        skipped += zeros as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write as _;

    fn member(text: &[u8]) -> Vec<u8> {
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(text).unwrap();
        packed.finish().unwrap()
    }

    #[test]
    fn only_zeros_after_the_end_are_ignored() {
        let unpacked = |packed: &[u8]| {
            let mut plain = Vec::new();
            let mut input = Gunzip::new(packed);
            input.read_to_end(&mut plain).map(|_| (plain, input.into_inner().unwrap().len()))
        };
        let two = [member(b"one"), member(b""), member(b"two")].concat();
        for tail in [0, 1, 511, 10_240, 200_000] {
            let packed = [two.clone(), vec![0; tail]].concat();
            assert_eq!(unpacked(&packed).unwrap(), (b"onetwo".to_vec(), 0), "{tail} zeros");
        }
        for tail in [&b"x"[..], b"\0\0x", &[&[0; 9][..], &member(b"three")].concat()] {
            assert!(unpacked(&[two.clone(), tail.to_vec()].concat()).is_err());
        }
        assert!(unpacked(&two[..two.len() - 1]).is_err(), "cut off");
        assert!(unpacked(&[]).is_err());
    }
}
