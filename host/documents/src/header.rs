//! The headers of one tar entry: POSIX ustar, with PAX records for what its fields cannot hold, and long names as
//! GNU tar writes them.
//!
//! Long names do not go into PAX `path` records, although those would be the standard's way: such a record is UTF-8
//! by definition, so readers convert it to the locale (bsdtar fails with exit code 1 under `LC_ALL=C`) and no
//! record can hold a name that is not UTF-8 without a warning from one reader or another. GNU's long-name entries are
//! bytes, and GNU tar, bsdtar and Python restore them byte for byte in every locale.

use super::attributes::Attributes;
use super::entry::{Kind, Meta, Time};
use tar::{EntryType, Header};

/// Tar's unit: headers and contents are padded to it.
pub(super) const TAR_BLOCK_BYTES: usize = 512;

/// What ends an archive.
pub(super) const END: [u8; 2 * TAR_BLOCK_BYTES] = [0; 2 * TAR_BLOCK_BYTES];

/// Longest name, and longest link target, in a ustar header.
const NAME_BYTES_MAX: usize = 100;

/// Greatest number in the twelve octal digits of a size or a time.
const OCTAL_LONG_MAX: u64 = 0o777_7777_7777;

/// Greatest number in the seven octal digits of an owner or a device.
const OCTAL_SHORT_MAX: u64 = 0o777_7777;

/// Name of the entry that holds PAX records. It is the same for all, because it compresses best and nobody reads it.
const PAX_NAME: &[u8] = b"././@PaxHeader";

/// Name of the entry that holds a long name, as GNU tar has it.
const LONG_NAME: &[u8] = b"././@LongLink";

/// Appends the headers of an entry; the content, padded with [`pad`], comes next. `linked` is the path of the entry
/// that holds the content, for a further name of one file.
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

/// Fills up the last block of a content of `bytes`.
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

/// As much of a name as fits; the rest is in the long-name entry before.
fn fill(field: &mut [u8; NAME_BYTES_MAX], name: &[u8]) {
    for (slot, byte) in field.iter_mut().zip(name) {
        *slot = *byte;
    }
}

/// A time for PAX, where the header's whole seconds since 1970 do not do.
fn decimal(time: Time) -> Option<String> {
    let fits = time.nanoseconds == 0 && u64::try_from(time.seconds).is_ok_and(|s| s <= OCTAL_LONG_MAX);
    (!fits).then(|| seconds(time))
}

/// A time in seconds since 1970, with as many digits behind the point as it needs.
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

/// A time as [`seconds`] writes it. Digits beyond nanoseconds are left out, as everybody does.
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

/// One PAX record: its own length in decimal, a blank, `key=value` and a newline.
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
    fn a_time_is_written_in_full_where_whole_seconds_do_not_do() {
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
    fn a_record_counts_its_own_digits() {
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
