//! File system primitives: creating a name without replacing one, syncing, and explaining I/O errors.

use crate::{Created, Meta, ObjectKey};
use base::error::{Class, Error, Result};
use base::stream::{BLOCK_BYTES, Writer};
use bytes::Bytes;
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use tempfile::NamedTempFile;

/// Renames a synced temporary file to its final path unless that path exists.
pub(super) fn persist_new(file: NamedTempFile, place: &Path) -> Result<Created> {
    let failed = match file.persist_noclobber(place) {
        Ok(_) => return sync_above(place).map(|()| Created::Created),
        Err(failed) => failed,
    };
    match Errno::from_io_error(&failed.error) {
        Some(Errno::EXIST) => Ok(Created::Exists),
        // FAT, as on USB disks, supports neither RENAME_NOREPLACE nor hard links: check first, then rename.
        Some(Errno::PERM | Errno::NOTSUP | Errno::NOSYS) => {
            if place.symlink_metadata().is_ok() {
                return Ok(Created::Exists);
            }
            failed.file.persist(place).map_err(|e| failure("store", place, &e.error))?;
            sync_above(place).map(|()| Created::Created)
        }
        _ => Err(failure("store", place, &failed.error)),
    }
}

/// Syncs the parent folder, so that a new name survives a power failure.
pub(super) fn sync_above(place: &Path) -> Result<()> {
    let Some(folder) = place.parent() else { return Ok(()) };
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        // Some network file systems cannot sync folders and do not need to.
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
                let text = format!("{} ended {left} bytes early", place.display());
                return writer.blocking_fail(Error::new(Class::Stale, text));
            }
            Ok(read) => left -= read as u64,
        }
        if writer.blocking_send(Bytes::from(block)).is_err() {
            return;
        }
    }
    // If the reader is gone, nobody needs to know that the stream is complete.
    let _ = writer.blocking_finish();
}

pub(super) fn meta_of(key: ObjectKey, meta: &std::fs::Metadata, place: &Path) -> Result<Meta> {
    let modified = meta.modified().map_err(|error| failure("read the metadata of", place, &error))?;
    let modified = jiff::Timestamp::try_from(modified)
        .map_err(|_| Error::unexpected(format!("{} has a modification time out of range", place.display())))?;
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
    let message = |what: &str| format!("failed to {doing} {place}: {what}");
    match Errno::from_io_error(error) {
        Some(Errno::NOSPC | Errno::DQUOT) => Error::unexpected(message("no space left on the device"))
            .hint("free space on the store's disk, or use a larger one; existing objects are intact"),
        Some(Errno::FBIG) => Error::unexpected(message("the file system does not support files of this size"))
            .hint("use a file system other than FAT for the store"),
        Some(Errno::ROFS) => {
            Error::config(message("the file system is mounted read-only")).hint("remount the store's disk read-write")
        }
        Some(Errno::ACCESS | Errno::PERM) => Error::config(message("permission denied"))
            .hint("make this user the owner of the store's folder: mode 0700, files 0600"),
        Some(Errno::NOENT | Errno::NOTDIR) => {
            Error::unavailable(message("the store's folder is gone")).hint("check that the store's disk is mounted")
        }
        Some(Errno::LOOP) => {
            Error::config(message("it is a symbolic link")).hint("replace the link with the object itself")
        }
        Some(Errno::IO | Errno::STALE | Errno::NOTCONN | Errno::HOSTDOWN | Errno::TIMEDOUT | Errno::NODEV) => {
            Error::unavailable(message(&error.to_string())).hint("check the disk or the network share")
        }
        _ => Error::unexpected(message(&error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;
    use std::io::Write;

    #[test]
    fn disk_errors_map_to_a_class_and_a_message() {
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
    fn a_full_disk_is_reported_as_such() {
        let mut full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let error = failure("write", Path::new("/srv/x"), &full.write_all(b"x").unwrap_err());
        assert_eq!(error.message(), "failed to write /srv/x: no space left on the device");
    }
}
