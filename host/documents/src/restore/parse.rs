//! Parses the headers of one tar entry from any tool: ustar with its prefix, GNU's long names, PAX records.
//!
//! This is also where a path that leads out of the folder, or that no folder can hold, is refused. Later code never
//! sees such a path.

use super::sparse::{self, Map};
use crate::attributes::Attributes;
use crate::entry::{Kind, Time};
use crate::header::{self, TAR_BLOCK_BYTES};
use crate::path;
use crate::path::shown;
use base::error::{Class, Error, Result, reason};
use base::stream::producer_error;
use std::io::{self, Read};
use tar::{EntryType, Header};

/// Longest long name and longest list of PAX records, and also the limit for all extra headers of one entry except the
/// last: enough for a path, a target and the records of other tools.
const EXTRA_BYTES_MAX: u64 = 1 << 20;

/// One entry, as described by its headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Described {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    /// For a hard link to an earlier entry, the path of that entry.
    pub(crate) linked: Option<Vec<u8>>,
    /// Permissions including set-user-ID, set-group-ID and sticky.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) modified: Time,
    pub(crate) size_bytes: u64,
    /// Bytes of the archive that hold the content: fewer than its size if it has holes.
    pub(crate) stored_bytes: u64,
    /// Where the stored bytes belong, if the content has holes.
    pub(crate) map: Option<Map>,
    pub(crate) attributes: Attributes,
}

/// The extra headers before an entry's own header.
#[derive(Default)]
struct Extras {
    name: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    modified: Option<Time>,
    sparse: sparse::Records,
    attributes: Attributes,
}

/// Reads the headers of the next entry. Its content, padded to whole blocks, comes next in the input. `None` at the
/// end-of-archive marker.
///
/// # Errors
/// [`Class::Stale`] if the input is not a tar archive, is cut off, or has a path that leads out of the folder, naming
/// the entry.
pub(crate) fn next(input: &mut impl Read) -> Result<Option<Described>> {
    let mut extras = Extras::default();
    let mut extra_bytes = 0_u64;
    loop {
        let mut block = [0; TAR_BLOCK_BYTES];
        input.read_exact(&mut block).map_err(unreadable)?;
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let header = Header::from_byte_slice(&block);
        check(header)?;
        let is_label = header.entry_type().as_byte() == b'V';
        // GNU tar leaves the numeric fields of a label empty.
        let size = header.entry_size().or_else(|error| if is_label { Ok(0) } else { Err(invalid(error)) })?;
        if extra_bytes > EXTRA_BYTES_MAX {
            return Err(damaged("a name or its records are too long"));
        }
        extra_bytes = extra_bytes.saturating_add(size.max(TAR_BLOCK_BYTES as u64));
        match header.entry_type() {
            EntryType::GNULongName => extras.name = Some(read_long_name(input, size)?),
            EntryType::GNULongLink => extras.target = Some(read_long_name(input, size)?),
            EntryType::XHeader => parse_records(&read_extra(input, size)?, &mut extras)?,
            // Defaults for a whole archive. Tools use them for comments only.
            EntryType::XGlobalHeader => drop(read_extra(input, size)?),
            // The label that `tar -V` writes.
            _ if is_label => drop(read_extra(input, size)?),
            _ => return described(header, extras, input).map(Some),
        }
    }
}

fn described(header: &Header, mut extras: Extras, input: &mut impl Read) -> Result<Described> {
    let name = extras.sparse.name.take().or(extras.name);
    let name = name.unwrap_or_else(|| header.path_bytes().into_owned());
    let target = extras.target.or_else(|| header.link_name_bytes().map(|target| target.into_owned()));
    let target = target.unwrap_or_default();
    let (mut kind, mut linked) = (Kind::File, None);
    match header.entry_type() {
        // Before POSIX, a folder was a file whose name ends with a slash.
        EntryType::Regular if name.ends_with(b"/") => kind = Kind::Folder,
        EntryType::Regular | EntryType::Continuous => {}
        EntryType::Directory => kind = Kind::Folder,
        EntryType::Symlink if target.contains(&0) || target.is_empty() => {
            return Err(refused(&name, "is a symbolic link with an invalid target"));
        }
        EntryType::Symlink => kind = Kind::Link(target),
        EntryType::Link => linked = Some(path::below(&target)?),
        EntryType::Fifo => kind = Kind::Fifo,
        EntryType::Char => kind = Kind::CharacterDevice,
        EntryType::Block => kind = Kind::BlockDevice,
        EntryType::GNUSparse => {}
        // A folder of an incremental archive. Its listing only matters when several archives are restored.
        other if other.as_byte() == b'D' => kind = Kind::Folder,
        other => {
            let kind = char::from(other.as_byte()).escape_default();
            return Err(refused(&name, &format!("is of the unknown kind `{kind}`")));
        }
    }
    let path = path::below(&name)?;
    if path.is_empty() && kind != Kind::Folder {
        return Err(refused(&name, "has no name"));
    }
    let owner = |extra: Option<u64>, own: io::Result<u64>| {
        let id = extra.map_or(own, Ok).map_err(invalid)?;
        u32::try_from(id).ok().filter(|id| *id != u32::MAX).ok_or_else(|| refused(&name, "has an invalid owner"))
    };
    let is_content = kind == Kind::File && linked.is_none();
    let size = extras.size.map_or_else(|| header.entry_size(), Ok).map_err(invalid)?;
    if !is_content && size != 0 && kind != Kind::Folder && linked.is_none() {
        return Err(refused(&name, "has a content although it is not a file"));
    }
    // Old versions of tar give folders and hard links a size, but no content.
    let (mut size_bytes, mut stored_bytes) = match header.entry_type().as_byte() {
        _ if is_content => (size, size),
        b'D' => (0, size),
        _ => (0, 0),
    };
    let mut map = None;
    if is_content && header.entry_type() == EntryType::GNUSparse {
        let (places, real_size) = sparse::old(header, input)?;
        (size_bytes, map) = (real_size, Some(places));
    } else if is_content
        && let Some(real_size) = extras.sparse.real_size
        && let Some((places, read)) = extras.sparse.map(input)?
    {
        stored_bytes = stored_bytes.checked_sub(read).ok_or_else(sparse::broken)?;
        (size_bytes, map) = (real_size, Some(places));
    }
    if let Some(map) = &map {
        sparse::check(map, size_bytes, stored_bytes)?;
    }
    Ok(Described {
        uid: owner(extras.uid, header.uid())?,
        gid: owner(extras.gid, header.gid())?,
        mode: header.mode().map_err(invalid)? & 0o7777,
        modified: match extras.modified {
            Some(modified) => modified,
            // GNU tar writes a time before 1970 in two's complement.
            None => Time { seconds: header.mtime().map_err(invalid)?.cast_signed(), nanoseconds: 0 },
        },
        size_bytes,
        stored_bytes,
        map,
        attributes: extras.attributes,
        path,
        kind,
        linked,
    })
}

/// Compares the header's checksum, which is the sum of its bytes with spaces in the checksum field.
fn check(header: &Header) -> Result<()> {
    let old = header.as_old();
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    let expected = sum(header.as_bytes()) - sum(&old.cksum) + 8 * u32::from(b' ');
    if header.cksum().is_ok_and(|sum| sum == expected) { Ok(()) } else { Err(invalid(io::Error::other("checksum"))) }
}

fn read_long_name(input: &mut impl Read, size: u64) -> Result<Vec<u8>> {
    let mut name = read_extra(input, size)?;
    while name.pop_if(|byte| *byte == 0).is_some() {}
    Ok(name)
}

/// Reads the content of an extra header.
fn read_extra(input: &mut impl Read, size: u64) -> Result<Vec<u8>> {
    if size > EXTRA_BYTES_MAX {
        return Err(damaged("a name or its records are too long"));
    }
    let mut content = Vec::new();
    let padded = size.next_multiple_of(TAR_BLOCK_BYTES as u64);
    input.take(padded).read_to_end(&mut content).map_err(unreadable)?;
    if content.len() as u64 != padded {
        return Err(unreadable(io::ErrorKind::UnexpectedEof.into()));
    }
    content.truncate(usize::try_from(size).unwrap_or_default());
    Ok(content)
}

fn parse_records(mut content: &[u8], extras: &mut Extras) -> Result<()> {
    let broken = || damaged("invalid PAX record");
    while !content.is_empty() {
        let (key, value, rest) = split_record(content).ok_or_else(broken)?;
        content = rest;
        let number = || std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).ok_or_else(broken);
        match key {
            b"path" => extras.name = Some(value.to_vec()),
            b"linkpath" => extras.target = Some(value.to_vec()),
            b"size" => extras.size = Some(number()?),
            b"uid" => extras.uid = Some(number()?),
            b"gid" => extras.gid = Some(number()?),
            b"mtime" => extras.modified = Some(header::parse_seconds(value).ok_or_else(broken)?),
            _ => match key.strip_prefix(b"GNU.sparse.") {
                Some(key) => extras.sparse.add(key, value).ok_or_else(broken)?,
                None => extras.attributes.add_record(key, value),
            },
        }
    }
    Ok(())
}

/// Splits off the first PAX record: key, value, and the rest. A value may contain any bytes, so only the length tells
/// where it ends.
fn split_record(content: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let blank = content.iter().position(|byte| *byte == b' ')?;
    let (digits, _) = content.split_at_checked(blank)?;
    let length: usize = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let (record, rest) = content.split_at_checked(length)?;
    let record = record.get(blank + 1..)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    let (key, value) = record.split_at_checked(equals)?;
    Some((key, value.get(1..)?, rest))
}

/// An error for an entry that a restore refuses.
pub(super) fn refused(name: &[u8], why: &str) -> Error {
    Error::new(Class::Stale, format!("the archive holds `{}`, which {why}", shown(name)))
        .hint("nothing was restored; if you trust the creator of this archive, `tar -xzf` may unpack it")
}

/// An error for a damaged archive.
pub(crate) fn damaged(why: &str) -> Error {
    Error::new(Class::Stale, format!("the archive is damaged: {why}"))
        .hint("nothing was restored; use another snapshot, or a copy of this object")
}

/// The error for a failed read of the archive: the store's own error, or damage.
pub(crate) fn unreadable(error: io::Error) -> Error {
    producer_error(error, |error| match error.kind() {
        io::ErrorKind::UnexpectedEof => damaged("it is cut off"),
        _ => damaged(&reason(&error)),
    })
}

fn invalid(_: io::Error) -> Error {
    damaged("invalid header")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &[u8], kind: EntryType, link: &str, edit: impl Fn(&mut Header)) -> Vec<u8> {
        let mut header = Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(1);
        header.set_gid(2);
        header.set_size(0);
        header.set_mtime(5);
        edit(&mut header);
        header.set_cksum();
        header.as_bytes().to_vec()
    }

    fn extra(kind: EntryType, content: &[u8]) -> Vec<u8> {
        let mut all = entry(b"x", kind, "", |header| header.set_size(content.len() as u64));
        all.extend_from_slice(content);
        all.resize(all.len().next_multiple_of(TAR_BLOCK_BYTES), 0);
        all
    }

    fn read(bytes: &[u8]) -> Result<Option<Described>> {
        next(&mut &bytes[..])
    }

    #[test]
    fn names_come_from_where_each_dialect_keeps_them() {
        let file = |edit: fn(&mut Header)| entry(b"own", EntryType::Regular, "", edit);
        let prefixed = file(|header| header.as_ustar_mut().unwrap().prefix[..3].copy_from_slice(b"far"));
        let long = [extra(EntryType::GNULongName, b"long\xff/name\0"), file(|_| ())].concat();
        let pax = [extra(EntryType::XHeader, b"14 path=p/a/x\n22 mtime=-1.500000000\n"), file(|_| ())].concat();
        let global = [extra(EntryType::XGlobalHeader, b"13 comment=x\n"), file(|_| ())].concat();
        for (bytes, path, seconds) in
            [(prefixed, &b"far/own"[..], 5), (long, b"long\xff/name", 5), (pax, b"p/a/x", -2), (global, b"own", 5)]
        {
            let described = read(&bytes).unwrap().unwrap();
            assert_eq!((described.path.as_slice(), described.modified.seconds), (path, seconds));
            assert_eq!((described.mode, described.uid, described.gid), (0o644, 1, 2));
        }
        let folder = read(&entry(b"old/", EntryType::Regular, "", |_| ())).unwrap().unwrap();
        assert_eq!((folder.kind, folder.path), (Kind::Folder, b"old".to_vec()));
        assert_eq!(read(&[0; 1_024]).unwrap(), None);
    }

    #[test]
    fn paths_out_of_the_folder_and_invalid_headers_are_refused_in_one_sentence() {
        let file = |name: &[u8]| entry(name, EntryType::Regular, "", |_| ());
        let mut flipped = file(b"good");
        flipped[0] ^= 1;
        for (bytes, expected) in [
            (file(b"/etc/passwd"), "`/etc/passwd`, which is an absolute path"),
            (file(b"a/../../x"), "`a/../../x`, which leads out"),
            ([extra(EntryType::GNULongName, b"../x"), file(b"good")].concat(), "leads out"),
            ([extra(EntryType::XHeader, b"13 path=/a/b\n"), file(b"good")].concat(), "absolute"),
            ([extra(EntryType::XHeader, b"12 path=a\0b\n"), file(b"good")].concat(), "zero byte"),
            (entry(b"h", EntryType::Link, "../../etc/passwd", |_| ()), "leads out"),
            (entry(b"l", EntryType::Symlink, "", |_| ()), "invalid target"),
            (file(b"."), "has no name"),
            (entry(b"odd", EntryType::new(b'M'), "", |_| ()), "is of the unknown kind `M`"),
            (entry(b"s", EntryType::GNUSparse, "", |_| ()), "sparse"),
            (
                [extra(EntryType::XHeader, b"22 GNU.sparse.major=1\n25 GNU.sparse.realsize=5\n"), file(b"x")].concat(),
                "cut off",
            ),
            (
                [extra(EntryType::XHeader, b"24 GNU.sparse.map=0,1,2\n25 GNU.sparse.realsize=5\n"), file(b"x")]
                    .concat(),
                "sparse",
            ),
            (
                [extra(EntryType::XHeader, b"22 GNU.sparse.map=3,9\n25 GNU.sparse.realsize=5\n"), file(b"x")].concat(),
                "sparse",
            ),
            ([extra(EntryType::XHeader, b"99 path=x\n"), file(b"x")].concat(), "PAX"),
            (entry(b"x", EntryType::GNULongName, "", |header| header.set_size(1 << 40)), "too long"),
            (extra(EntryType::XHeader, b"22 SCHILY.acl.access=\n").repeat(3_000), "too long"),
            (extra(EntryType::GNULongName, &[b'x'; 600])[..700].to_vec(), "cut off"),
            (file(b"x")[..100].to_vec(), "cut off"),
            (flipped, "invalid header"),
            (vec![7; 512], "invalid header"),
            (Vec::new(), "cut off"),
        ] {
            let error = read(&bytes).unwrap_err();
            assert!(error.message().contains(expected), "`{error}` does not say `{expected}`");
            assert_eq!(error.class(), Class::Stale);
            assert!(!error.message().contains('\n'));
        }
    }
}
