//! Writes the headers of one tar entry: POSIX ustar, PAX records for values that do not fit its fields, and GNU tar's
//! entries for long names.
//!
//! Long names do not use PAX `path` records, although the standard has them for this. A PAX record is UTF-8 by
//! definition, so readers convert it to the locale (bsdtar fails with exit code 1 under `LC_ALL=C`), and for a name
//! that is not UTF-8 at least one reader prints a warning. GNU's long-name entries are bytes. GNU tar, bsdtar and
//! Python restore them byte for byte in every locale.

use super::attributes::Attributes;
use super::entry::{Kind, Meta, Time};
use tar::{EntryType, Header};

/// Tar's block size: headers and contents are padded to it.
pub(super) const TAR_BLOCK_BYTES: usize = 512;

/// The end-of-archive marker.
pub(super) const END: [u8; 2 * TAR_BLOCK_BYTES] = [0; 2 * TAR_BLOCK_BYTES];

/// Longest name, and longest link target, in a ustar header.
const NAME_BYTES_MAX: usize = 100;

/// Largest number that the octal field of a size or a time holds.
const OCTAL_LONG_MAX: u64 = 0o777_7777_7777;

/// Largest number that the octal field of an owner or a device holds.
const OCTAL_SHORT_MAX: u64 = 0o777_7777;

/// Name of the entries that hold PAX records. All have the same name, because that compresses best and nobody reads it.
const PAX_NAME: &[u8] = b"././@PaxHeader";

/// Name of the entries that hold a long name, as in GNU tar.
const LONG_NAME: &[u8] = b"././@LongLink";

/// Appends the headers of an entry. The content, padded with [`pad`], follows them. For a hard link to an earlier
/// entry, `linked` is the path of that entry.
pub(super) fn push(out: &mut Vec<u8>, path: &[u8], meta: &Meta, linked: Option<&[u8]>, attributes: &Attributes) {
    let mut name = path.to_vec();
    if path.is_empty() {
        name.extend_from_slice(b"./");
    } else if meta.kind == Kind::Folder {
        name.push(b'/');
    }
    let (kind, target) = match (&meta.kind, linked) {
        (Kind::File, Some(first)) => (EntryType::Link, first),
        (Kind::File, None) | (Kind::Socket, _) => (EntryType::Regular, &[][..]),
        (Kind::Folder, _) => (EntryType::Directory, &[][..]),
        (Kind::Link(target), _) => (EntryType::Symlink, target.as_slice()),
        (Kind::Fifo, _) => (EntryType::Fifo, &[][..]),
        (Kind::CharacterDevice, _) => (EntryType::Char, &[][..]),
        (Kind::BlockDevice, _) => (EntryType::Block, &[][..]),
    };
    let size = if kind == EntryType::Regular { meta.size_bytes } else { 0 };

    let mut records = Vec::new();
    if let Some(time) = decimal(meta.modified) {
        record(&mut records, b"mtime", time.as_bytes());
    }
    for (key, number, octal_max) in [
        ("size", size, OCTAL_LONG_MAX),
        ("uid", meta.uid.into(), OCTAL_SHORT_MAX),
        ("gid", meta.gid.into(), OCTAL_SHORT_MAX),
    ] {
        if number > octal_max {
            record(&mut records, key.as_bytes(), number.to_string().as_bytes());
        }
    }
    for (key, value) in attributes.records() {
        record(&mut records, &key, &value);
    }
    if !records.is_empty() {
        push_extra(out, PAX_NAME, EntryType::XHeader, &records);
    }
    for (long, kind) in [(target, EntryType::GNULongLink), (&name, EntryType::GNULongName)] {
        if long.len() > NAME_BYTES_MAX {
            push_extra(out, LONG_NAME, kind, &[long, b"\0"].concat());
        }
    }

    let mut header = header(&name, kind, size);
    header.set_mode(meta.mode);
    header.set_uid(meta.uid.into());
    header.set_gid(meta.gid.into());
    header.set_mtime(u64::try_from(meta.modified.seconds).unwrap_or(0).min(OCTAL_LONG_MAX));
    if let Some(ustar) = header.as_ustar_mut() {
        fill(&mut ustar.linkname, target);
        if matches!(kind, EntryType::Char | EntryType::Block) {
            ustar.set_device_major(rustix::fs::major(meta.device));
            ustar.set_device_minor(rustix::fs::minor(meta.device));
        }
    }
    header.set_cksum();
    out.extend_from_slice(header.as_bytes());
}

/// Pads a content of `bytes` to whole blocks.
pub(super) fn pad(out: &mut Vec<u8>, bytes: u64) {
    let block = TAR_BLOCK_BYTES as u64;
    let missing = (block - bytes % block) % block;
    out.resize(out.len() + usize::try_from(missing).unwrap_or(0), 0);
}

fn push_extra(out: &mut Vec<u8>, name: &[u8], kind: EntryType, content: &[u8]) {
    let mut header = header(name, kind, content.len() as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(content);
    pad(out, content.len() as u64);
}

fn header(name: &[u8], kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_size(size);
    if let Some(ustar) = header.as_ustar_mut() {
        fill(&mut ustar.name, name);
    }
    header
}

/// Copies as much of a name as fits. The preceding long-name entry holds the whole name.
fn fill(field: &mut [u8; NAME_BYTES_MAX], name: &[u8]) {
    for (slot, byte) in field.iter_mut().zip(name) {
        *slot = *byte;
    }
}

/// A time for a PAX record; `None` if the header field can hold it, as whole seconds since 1970.
fn decimal(time: Time) -> Option<String> {
    let fits = time.nanoseconds == 0 && u64::try_from(time.seconds).is_ok_and(|s| s <= OCTAL_LONG_MAX);
    (!fits).then(|| seconds(time))
}

/// A time in seconds since 1970, with as many decimal places as it needs.
pub(super) fn seconds(time: Time) -> String {
    let Time { seconds, nanoseconds } = time;
    // Before 1970 the fraction counts away from zero: -1.5 is second -2 and 500,000,000 ns.
    let (sign, whole, fraction) = if seconds < 0 && nanoseconds > 0 {
        ("-", (seconds + 1).unsigned_abs(), 1_000_000_000 - nanoseconds)
    } else {
        (if seconds < 0 { "-" } else { "" }, seconds.unsigned_abs(), nanoseconds)
    };
    if fraction == 0 {
        return format!("{sign}{whole}");
    }
    let text = format!("{sign}{whole}.{fraction:09}");
    text.trim_end_matches('0').to_owned()
}

/// Parses a time in the format of [`seconds`]. Digits beyond nanoseconds are ignored, as other tools do.
pub(super) fn parse_seconds(text: &[u8]) -> Option<Time> {
    let text = std::str::from_utf8(text).ok()?;
    let (is_before, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let all_digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !all_digits(whole) || !all_digits(fraction) {
        return None;
    }
    let whole: i64 = whole.parse().ok()?;
    let nanoseconds: u32 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    Some(match (is_before, nanoseconds) {
        (false, _) => Time { seconds: whole, nanoseconds },
        (true, 0) => Time { seconds: -whole, nanoseconds },
        (true, _) => Time { seconds: -whole - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

/// Appends one PAX record: its own length in decimal, a space, `key=value` and a newline.
fn record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length += 1;
    }
    out.extend_from_slice(format!("{length} ").as_bytes());
    for part in [key, b"=", value, b"\n"] {
        out.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_does_not_fit_whole_seconds_is_written_in_full() {
        for (seconds, nanoseconds, expected) in [
            (0, 0, None),
            (1_700_000_000, 0, None),
            (4_102_444_800, 0, None),
            (OCTAL_LONG_MAX as i64, 0, None),
            (OCTAL_LONG_MAX as i64 + 1, 0, Some("8589934592")),
            (1_700_000_000, 123_456_789, Some("1700000000.123456789")),
            (1_700_000_000, 120_000_000, Some("1700000000.12")),
            (0, 1, Some("0.000000001")),
            (-1, 0, Some("-1")),
            (-10, 0, Some("-10")),
            (-1, 500_000_000, Some("-0.5")),
            (-2, 500_000_000, Some("-1.5")),
            (-2, 999_999_999, Some("-1.000000001")),
        ] {
            assert_eq!(decimal(Time { seconds, nanoseconds }).as_deref(), expected, "{seconds} {nanoseconds}");
            let time = Time { seconds, nanoseconds };
            assert_eq!(parse_seconds(super::seconds(time).as_bytes()), Some(time));
        }
        for text in ["", "-", ".5", "5.", "1e9", "+1", " 1", "--1", "1.2.3", "99999999999999999999"] {
            assert_eq!(parse_seconds(text.as_bytes()), None, "{text}");
        }
        let finer = Time { seconds: 1, nanoseconds: 123_456_789 };
        assert_eq!(parse_seconds(b"1.1234567899"), Some(finer));
    }

    #[test]
    fn a_record_length_includes_its_own_digits() {
        for (length, expected) in [(0, "5 k=\n"), (3, "8 k=vvv\n"), (4, "9 k=vvvv\n"), (5, "11 k=vvvvv\n")] {
            let mut out = Vec::new();
            record(&mut out, b"k", "v".repeat(length).as_bytes());
            assert_eq!(out, expected.as_bytes());
        }
        for length in 80..120 {
            let mut out = Vec::new();
            record(&mut out, b"k", "v".repeat(length).as_bytes());
            let text = String::from_utf8(out).unwrap();
            assert_eq!(text.split(' ').next().unwrap().parse::<usize>().unwrap(), text.len());
        }
    }

    #[test]
    fn contents_are_padded_to_whole_blocks() {
        for (bytes, expected) in [(0, 0), (1, 511), (511, 1), (512, 0), (513, 511), (9_663_676_416, 0)] {
            let mut out = Vec::new();
            pad(&mut out, bytes);
            assert_eq!(out.len(), expected, "{bytes}");
        }
    }
}
