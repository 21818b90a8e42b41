//! What a disk does and how it fails: names that are given once, syncs, and whose turn it is when it refuses.

use crate::{Created, Meta, ObjectKey};
use base::error::{Class, Error, Result};
use base::stream::{BLOCK_BYTES, Writer};
use bytes::Bytes;
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use tempfile::NamedTempFile;

/// Gives a synced temporary file its name unless there is one.
pub(super) fn persist_new(file: NamedTempFile, place: &Path) -> Result<Created> {
    let refused = match file.persist_noclobber(place) {
        Ok(_) => return sync_above(place).map(|()| Created::Created),
        Err(refused) => refused,
    };
    match Errno::from_io_error(&refused.error) {
        Some(Errno::EXIST) => Ok(Created::Exists),
        // A USB disk's FAT has neither a rename that refuses nor links: look, then rename.
        Some(Errno::PERM | Errno::NOTSUP | Errno::NOSYS) => {
            if place.symlink_metadata().is_ok() {
                return Ok(Created::Exists);
            }
            refused.file.persist(place).map_err(|e| failure("store", place, &e.error))?;
            sync_above(place).map(|()| Created::Created)
        }
        _ => Err(failure("store", place, &refused.error)),
    }
}

/// Makes a new name survive a power cut.
pub(super) fn sync_above(place: &Path) -> Result<()> {
    let Some(folder) = place.parent() else { return Ok(()) };
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        // Some network file systems cannot sync a folder and need not.
        Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::INVAL | Errno::NOTSUP)) => Ok(()),
        synced => synced.map_err(|error| failure("sync", folder, &error)),
    }
}

/// Sends exactly `length` bytes of a file.
pub(super) fn produce(file: File, length: u64, place: &Path, writer: Writer) {
    let mut file = file.take(length);
    let mut left = length;
    while left > 0 {
        let mut block = Vec::new();
        let wanted = left.min(BLOCK_BYTES as u64);
        match file.by_ref().take(wanted).read_to_end(&mut block) {
            Err(error) => return writer.blocking_fail(failure("read", place, &error)),
            Ok(0) => {
                let text = format!("{} ended {left} bytes before its end", place.display());
                return writer.blocking_fail(Error::new(Class::Stale, text));
            }
            Ok(read) => left -= read as u64,
        }
        if writer.blocking_send(Bytes::from(block)).is_err() {
            return;
        }
    }
    // Nobody listens any more: nobody needs to hear that it ended well.
    let _ = writer.blocking_finish();
}

pub(super) fn meta_of(key: ObjectKey, meta: &std::fs::Metadata, place: &Path) -> Result<Meta> {
    let modified = meta.modified().map_err(|error| failure("look at", place, &error))?;
    let modified = jiff::Timestamp::try_from(modified)
        .map_err(|_| Error::unexpected(format!("{} has a time that no calendar has", place.display())))?;
    Ok(Meta { key, bytes: meta.len(), modified })
}

pub(super) fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

pub(super) fn is_denied(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

pub(super) fn failure(doing: &str, place: &Path, error: &io::Error) -> Error {
    let place = place.display();
    let said = |what: &str| format!("failed to {doing} {place}: {what}");
    match Errno::from_io_error(error) {
        Some(Errno::NOSPC | Errno::DQUOT) => Error::unexpected(said("no space is left"))
            .hint("free space in the store's folder, or use a larger disk; nothing that was stored is lost"),
        Some(Errno::FBIG) => Error::unexpected(said("the file system holds no file that large"))
            .hint("use a file system other than FAT for the store"),
        Some(Errno::ROFS) => Error::config(said("it is mounted read-only")).hint("mount the store's disk writable"),
        Some(Errno::ACCESS | Errno::PERM) => Error::config(said("permission denied"))
            .hint("give the user that runs this the store's folder: mode 0700, files 0600"),
        Some(Errno::NOENT | Errno::NOTDIR) => {
            Error::unavailable(said("the store's folder is gone")).hint("check that the store's disk is mounted")
        }
        Some(Errno::LOOP) => Error::config(said("it is a symbolic link")).hint("put the object itself there"),
        Some(Errno::IO | Errno::STALE | Errno::NOTCONN | Errno::HOSTDOWN | Errno::TIMEDOUT | Errno::NODEV) => {
            Error::unavailable(said(&error.to_string())).hint("check the disk or the network share")
        }
        _ => Error::unexpected(said(&error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;
    use std::io::Write;

    #[test]
    fn a_failure_of_the_disk_says_whose_turn_it_is() {
        let table = [
            (Errno::NOSPC, Class::Unexpected, "no space"),
            (Errno::DQUOT, Class::Unexpected, "no space"),
            (Errno::ROFS, Class::Config, "read-only"),
            (Errno::ACCESS, Class::Config, "permission"),
            (Errno::NOENT, Class::Unavailable, "gone"),
            (Errno::STALE, Class::Unavailable, "tale"),
        ];
        for (errno, class, word) in table {
            let error = failure("write", Path::new("/srv/x"), &errno.into());
            assert_eq!(error.class(), class, "{error}");
            assert!(error.message().contains(word) && error.advice().is_some(), "{error:?}");
        }
    }

    #[test]
    fn a_disk_that_is_full_is_named_as_such() {
        let mut full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let error = failure("write", Path::new("/srv/x"), &full.write_all(b"x").unwrap_err());
        assert_eq!(error.message(), "failed to write /srv/x: no space is left");
    }
}
