//! The target of a restore: a new folder, or an existing empty one.
//!
//! The tree is created in a temporary folder next to the target, or in it if the target exists. It is put in place once
//! it is complete. Until then the target is unchanged. After a failure, everything that was created is removed.

use super::parse::Described;
use super::write::{FOLDER_MODE, Privileged, Sink};
use crate::acl;
use crate::path::shown;
use base::error::{Class, Error, Result, reason};
use rustix::fs::{Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A folder that every new ext file system contains.
const LOST_AND_FOUND: &str = "lost+found";

/// A folder that is being restored.
#[derive(Debug)]
pub(super) struct Target {
    into: PathBuf,
    /// Whether `into` exists already, so that it is filled instead of created.
    exists: bool,
    temporary: PathBuf,
    pub(super) root: Arc<OwnedFd>,
}

/// The free space of a target's file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) bytes: u64,
    /// `None` if the file system does not limit the number of files.
    pub(super) files: Option<u64>,
}

/// Checks that a target is new or empty. Returns whether it exists, and the free space. Changes nothing.
///
/// # Errors
/// [`Class::Usage`] if the target exists and is not an empty folder; [`Class::Config`] if it cannot be examined or
/// created.
pub(super) fn inspect(into: &Path) -> Result<(bool, Room)> {
    let shown = into.display();
    let exists = match std::fs::metadata(into) {
        Ok(meta) if meta.is_dir() => {
            check_empty(into)?;
            true
        }
        Ok(_) => return Err(unusable(format!("{shown} exists and is not a folder"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound && into.symlink_metadata().is_err() => false,
        Err(error) => return Err(Error::config(format!("{shown} cannot be accessed: {}", reason(&error)))),
    };
    let (parent, _) = if exists { (into.to_owned(), OsString::new()) } else { split_parent(into)? };
    let stat = rustix::fs::statvfs(&parent).map_err(|error| match error {
        Errno::NOENT => Error::config(format!("the folder {} does not exist", parent.display()))
            .hint("create it, or name another folder to restore into"),
        error => Error::config(format!("{} cannot be accessed: {}", parent.display(), reason(&error.into()))),
    })?;
    let files = (stat.f_files > 0).then_some(stat.f_favail);
    Ok((exists, Room { bytes: stat.f_bavail.saturating_mul(stat.f_frsize), files }))
}

/// The parent folder of a path that does not exist yet, and its name.
fn split_parent(into: &Path) -> Result<(PathBuf, OsString)> {
    let name = into.file_name().ok_or_else(|| unusable(format!("{} does not name a folder", into.display())))?;
    let parent = into.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    Ok((parent.to_owned(), name.to_owned()))
}

fn check_empty(into: &Path) -> Result<()> {
    let failed = |error| Error::config(format!("{} cannot be accessed: {}", into.display(), reason(&error)));
    for entry in std::fs::read_dir(into).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if name != LOST_AND_FOUND {
            let name = shown(name.as_bytes());
            return Err(unusable(format!("{} is not empty: it contains `{name}`", into.display())));
        }
    }
    Ok(())
}

fn unusable(text: String) -> Error {
    Error::new(Class::Usage, text).hint("name a folder that does not exist yet, or an empty one")
}

impl Target {
    /// Creates the temporary folder. `id` distinguishes it from those of other restores.
    ///
    /// # Errors
    /// See [`inspect`].
    pub(super) fn begin(into: &Path, id: &str) -> Result<Self> {
        let (exists, _) = inspect(into)?;
        let temporary = if exists {
            into.join(format!(".restoring-{id}"))
        } else {
            let (parent, name) = split_parent(into)?;
            let mut hidden = OsString::from(".");
            hidden.push(name);
            hidden.push(format!(".restoring-{id}"));
            parent.join(hidden)
        };
        let made = rustix::fs::mkdir(&temporary, FOLDER_MODE).and_then(|()| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::open(&temporary, flags, Mode::empty())
        });
        let root = made.map_err(|error| {
            Error::config(format!("{} cannot be created: {}", temporary.display(), reason(&error.into())))
                .hint("restore to a folder that this user can create")
        })?;
        // Remove the lists that the folder inherits from its parent: they would add to those in the archive.
        for list in [acl::DEFAULT, acl::ACCESS] {
            let _ = rustix::fs::fremovexattr(&root, list);
        }
        rustix::fs::fchmod(&root, FOLDER_MODE).map_err(|error| {
            Error::config(format!("{} cannot be created: {}", temporary.display(), reason(&error.into())))
        })?;
        Ok(Self { into: into.to_owned(), exists, temporary, root: Arc::new(root) })
    }

    /// Syncs everything to disk and puts it in place. `root` describes the folder itself. Returns the attributes of the
    /// folder that could not be restored.
    ///
    /// # Errors
    /// [`Class::Unexpected`] if another process has created the target meanwhile. Everything that was created is
    /// removed.
    pub(super) fn finish(self, mut root: Option<Described>, privileged: Privileged) -> Result<Vec<String>> {
        match self.place(root.as_mut(), privileged) {
            Ok(()) => Ok(root.map(|root| root.attributes.losses).unwrap_or_default()),
            Err(error) => Err(self.abort(error)),
        }
    }

    fn place(&self, mut root: Option<&mut Described>, privileged: Privileged) -> Result<()> {
        let failed = |error: Errno| {
            let text = format!("{} cannot be put in place: {}", self.into.display(), reason(&error.into()));
            Error::unexpected(text).hint("nothing was restored; check whether another process created it meanwhile")
        };
        let mut set_metadata = |folder: &Arc<OwnedFd>| match &mut root {
            Some(root) => Sink::new(Arc::clone(folder), privileged).set_metadata(root),
            None => Ok(()),
        };
        if !self.exists {
            set_metadata(&self.root)?;
        }
        // One sync for everything: syncing each of a million files would take longer than the restore.
        rustix::fs::syncfs(&*self.root).map_err(failed)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        if !self.exists {
            let (parent, name) = split_parent(&self.into)?;
            let parent = rustix::fs::open(&parent, flags, Mode::empty()).map_err(failed)?;
            let hidden = self.temporary.file_name().unwrap_or_default();
            rename_new(&parent, hidden, &parent, &name).map_err(failed)?;
            return sync(&parent).map_err(failed);
        }
        let into = Arc::new(rustix::fs::open(&self.into, flags, Mode::empty()).map_err(failed)?);
        let mut moved = Vec::new();
        if let Err(error) = self.move_up(&into, &mut moved) {
            for name in moved {
                // An entry that cannot be moved back stays in the target.
                let _ = rename_new(&into, &name, &self.root, &name);
            }
            return Err(failed(error));
        }
        // Remove the lists of the existing folder: they would add to those in the archive.
        for list in [acl::DEFAULT, acl::ACCESS] {
            let _ = rustix::fs::fremovexattr(&*into, list);
        }
        std::fs::remove_dir(&self.temporary).map_err(|e| failed(Errno::from_io_error(&e).unwrap_or(Errno::IO)))?;
        set_metadata(&into)?;
        sync(&into).map_err(failed)
    }

    fn move_up(&self, into: &OwnedFd, moved: &mut Vec<OsString>) -> rustix::io::Result<()> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.root)? {
            let name = OsString::from_vec(entry?.file_name().to_bytes().to_vec());
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        for name in names {
            rename_new(&self.root, &name, into, &name)?;
            moved.push(name);
        }
        Ok(())
    }

    /// Removes everything that was created. If that fails too, the returned error says so.
    pub(super) fn abort(self, error: Error) -> Error {
        match std::fs::remove_dir_all(&self.temporary) {
            Err(left) if left.kind() != io::ErrorKind::NotFound => {
                let (place, why) = (self.temporary.display(), reason(&left));
                Error::new(error.class(), format!("{error}; in addition, {place} cannot be removed: {why}"))
                    .hint(format!("remove {place} by hand"))
            }
            _ => error,
        }
    }
}

/// Renames to a name that must not exist yet.
fn rename_new(from: &impl AsFd, name: &OsStr, to: &impl AsFd, new: &OsStr) -> rustix::io::Result<()> {
    match rustix::fs::renameat_with(from, name, to, new, RenameFlags::NOREPLACE) {
        // Some network file systems do not support NOREPLACE: check, then rename.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            match rustix::fs::statat(to, new, rustix::fs::AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => rustix::fs::renameat(from, name, to, new),
                Ok(_) => Err(Errno::EXIST),
                Err(error) => Err(error),
            }
        }
        renamed => renamed,
    }
}

fn sync(folder: &impl AsFd) -> rustix::io::Result<()> {
    match rustix::fs::fsync(folder) {
        // Some network file systems do not support syncing a folder and do not need it.
        Err(Errno::INVAL | Errno::NOTSUP) => Ok(()),
        synced => synced,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_must_be_new_or_empty() {
        let base = tempfile::tempdir().unwrap();
        let at = |name: &str| base.path().join(name);
        std::fs::create_dir(at("empty")).unwrap();
        std::fs::create_dir_all(at("fresh disk/lost+found")).unwrap();
        std::fs::create_dir_all(at("full/thing")).unwrap();
        std::fs::write(at("file"), "").unwrap();
        std::os::unix::fs::symlink("nowhere", at("dangling")).unwrap();
        assert!(!inspect(&at("new")).unwrap().0);
        assert!(inspect(&at("empty")).unwrap().0 && inspect(&at("fresh disk")).unwrap().0);
        for (name, class, expected) in [
            ("full", Class::Usage, "is not empty: it contains `thing`"),
            ("file", Class::Usage, "is not a folder"),
            ("dangling", Class::Config, "cannot be accessed"),
            ("missing/new", Class::Config, "missing does not exist"),
        ] {
            let error = inspect(&at(name)).unwrap_err();
            assert!(error.class() == class && error.message().contains(expected), "{error:?}");
        }
    }

    #[test]
    fn a_target_that_another_process_fills_meanwhile_stays_unchanged_and_nothing_is_left() {
        let base = tempfile::tempdir().unwrap();
        let into = base.path().join("into");
        let target = Target::begin(&into, "x").unwrap();
        std::fs::write(target.temporary.join("made"), "").unwrap();
        std::fs::create_dir(&into).unwrap();
        std::fs::write(into.join("theirs"), "").unwrap();
        let error = target.finish(None, Privileged(false)).unwrap_err();
        assert!(error.message().contains("cannot be put in place"), "{error}");
        assert!(into.join("theirs").exists() && !into.join("made").exists());
        assert_eq!(std::fs::read_dir(base.path()).unwrap().count(), 1);

        std::fs::remove_file(into.join("theirs")).unwrap();
        let target = Target::begin(&into, "x").unwrap();
        for name in ["a", "b", "c"] {
            std::fs::write(target.temporary.join(name), "").unwrap();
        }
        std::fs::write(into.join("b"), "theirs").unwrap();
        assert!(target.finish(None, Privileged(false)).is_err());
        assert_eq!(std::fs::read_dir(&into).unwrap().count(), 1);
        assert_eq!(std::fs::read_to_string(into.join("b")).unwrap(), "theirs");
    }
}
