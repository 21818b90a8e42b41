//! Compares a restored folder with its index before it is put in place: the name, kind, size, link target and time of
//! every entry. Contents were compared with their SHA-256 while they were written.

use crate::entry::{Entry, Kind, Time};
use crate::exclude::Matcher;
use crate::index::Line;
use crate::index::reader::Item;
use crate::object::{Archive, Means};
use crate::path;
use crate::path::shown;
use crate::walk::{Found, Unseen, Walk};
use base::error::{Error, Result};
use base::stream::interrupted_error;
use std::cmp::Ordering;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Differences that a message lists.
const NAMED_MAX: usize = 3;

/// The coarsest time resolution of a file system: that of FAT.
const COARSE_NANOSECONDS: i128 = 2_000_000_000;

/// Time resolutions of other file systems, coarsest first: exFAT, some servers, NTFS.
const UNITS_NANOSECONDS: [u32; 4] = [10_000_000, 1_000_000, 1_000, 100];

/// Differences between the folder and its index.
#[derive(Default)]
struct Differences {
    named: Vec<String>,
    total: u64,
}

impl Differences {
    fn add(&mut self, path: &[u8], what: &str) {
        self.total += 1;
        if self.named.len() < NAMED_MAX {
            self.named.push(format!("`{}` {what}", shown(path)));
        }
    }
}

/// Compares a folder with the index of its archive. Returns whether the archive has an index. `note_time` gets each
/// entry whose modification time differs. A different time does not fail the restore: some file systems cannot store
/// times after 2038.
///
/// # Errors
/// [`base::error::Class::Unexpected`] if the folder differs, naming the first entries; see also
/// [`crate::index::reader::Reader::next`].
pub(crate) fn with_index(
    root: &Arc<OwnedFd>,
    archive: &Archive,
    means: &Means,
    mut note_time: impl FnMut(&[u8]),
) -> Result<bool> {
    let (Some(object), Some(mut index)) = (&archive.index, archive.index(means, false)?) else { return Ok(false) };
    let mut walk = Walk::new(Arc::clone(root), Matcher::new(&[])?)
        .filter(|found| found_path(found).is_some_and(|path| !path.is_empty()));
    let mut there = walk.next();
    let mut differences = Differences::default();
    while let Some(item) = index.next().map_err(|error| error.context(&object.name))? {
        if means.stop.is_cancelled() {
            return Err(interrupted_error());
        }
        let Item::Entry(line) = item else { continue };
        let is_device = matches!(line.kind, Kind::CharacterDevice | Kind::BlockDevice | Kind::Socket);
        if line.path.is_empty() || is_device {
            continue;
        }
        while let Some(found) = &there
            && found_path(found).is_some_and(|path| path::order(path, &line.path) == Ordering::Less)
            && !hides(found, &line.path)
        {
            if !matches!(found, Found::Unreadable(_)) {
                differences.add(found_path(found).unwrap_or_default(), "is not in the index");
            }
            there = walk.next();
        }
        match &there {
            // The folder's mode denies access even to its owner, and this process is not root.
            Some(found) if hides(found, &line.path) => {}
            Some(Found::Entry(entry)) if entry.path == line.path => {
                match difference(&line, entry) {
                    Some(what) => differences.add(&line.path, what),
                    None if line.linked.is_none() && !is_same_time(line.modified, entry.meta.modified) => {
                        note_time(&line.path)
                    }
                    None => {}
                }
                there = walk.next();
            }
            _ => differences.add(&line.path, "is missing"),
        }
    }
    for found in there.into_iter().chain(walk) {
        if !matches!(found, Found::Unreadable(_)) {
            differences.add(found_path(&found).unwrap_or_default(), "is not in the index");
        }
    }
    if differences.total == 0 {
        return Ok(true);
    }
    let more = differences.total - differences.named.len() as u64;
    let more = if more == 0 { String::new() } else { format!(", and {more} more") };
    let text = format!("the restored files do not match {}: {}{more}", object.name, differences.named.join(", "));
    Err(Error::unexpected(text)
        .hint("nothing was restored; check whether another process writes there, and check the disk"))
}

fn found_path(found: &Found) -> Option<&[u8]> {
    match found {
        Found::Entry(entry) => Some(&entry.path),
        Found::Unreadable(unseen) => Some(&unseen.path),
        Found::Excluded { .. } => None,
    }
}

/// Whether `found` is a folder that cannot be listed, and `path` is below it.
fn hides(found: &Found, path: &[u8]) -> bool {
    matches!(found, Found::Unreadable(Unseen { path: folder, is_folder: true, .. }) if path::is_below(path, folder))
}

fn difference(line: &Line, entry: &Entry) -> Option<&'static str> {
    let meta = &entry.meta;
    if line.linked.is_some() {
        return (meta.kind == Kind::Folder).then_some("is of a different kind");
    }
    let is_link = |kind: &Kind| matches!(kind, Kind::Link(_));
    match (&line.kind, &meta.kind) {
        (then, now) if then != now && is_link(then) && is_link(now) => Some("has a different target"),
        (then, now) if then != now => Some("is of a different kind"),
        (Kind::File, _) if line.size_bytes != meta.size_bytes => Some("has a different size"),
        _ => None,
    }
}

/// Whether a time is the one that was set, within the resolution of the file system.
fn is_same_time(then: Time, now: Time) -> bool {
    let nanoseconds = |time: Time| i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanoseconds);
    let lost = nanoseconds(then) - nanoseconds(now);
    let unit = match now.nanoseconds {
        0 => COARSE_NANOSECONDS,
        some => UNITS_NANOSECONDS.into_iter().find(|unit| some.is_multiple_of(*unit)).unwrap_or(1).into(),
    };
    (0..unit).contains(&lost)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_may_be_as_coarse_as_the_file_system_and_no_coarser() {
        let time = |seconds, nanoseconds| Time { seconds, nanoseconds };
        for (then, now, expected) in [
            (time(5, 123_456_789), time(5, 123_456_789), true),
            (time(5, 123_456_789), time(5, 123_456_700), true),
            (time(5, 123_456_789), time(5, 123_456_000), true),
            (time(5, 123_456_789), time(5, 0), true),
            (time(5, 123_456_789), time(4, 0), true),
            (time(-5, 1), time(-5, 0), true),
            (time(5, 123_456_789), time(5, 123_456_788), false),
            (time(5, 123_456_789), time(5, 120_000_000), true),
            (time(5, 123_456_789), time(5, 110_000_000), false),
            (time(5, 0), time(3, 0), false),
            (time(5, 0), time(6, 0), false),
        ] {
            assert_eq!(is_same_time(then, now), expected, "{then:?} {now:?}");
        }
    }
}
