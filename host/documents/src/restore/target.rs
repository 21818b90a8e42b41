//! Where a tree is restored to: a new folder, or one that is there and empty.
//!
//! The tree is made under a name of its own, beside the target or in it, and put in place when all of it is there. Until
//! then the target is as it was; on a failure everything that was made is removed.

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

/// What a fresh file system holds, which nobody put there.
const LOST_AND_FOUND: &str = "lost+found";

/// A folder that is being made.
#[derive(Debug)]
pub(super) struct Target {
    into: PathBuf,
    /// What is in `into` already, so that it is filled and not made.
    is_there: bool,
    temporary: PathBuf,
    pub(super) root: Arc<OwnedFd>,
}

/// What a target has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) bytes: u64,
    /// None where the file system does not count them.
    pub(super) files: Option<u64>,
}

/// Whether a folder can be restored to, and what it has room for. Changes nothing.
///
/// # Errors
/// Of class [`Class::Usage`] where something is there already, [`Class::Config`] where it cannot be made.
pub(super) fn look(into: &Path) -> Result<(bool, Room)> {
    let shown = into.display();
    let is_there = match std::fs::metadata(into) {
        Ok(meta) if meta.is_dir() => {
            check_empty(into)?;
            true
        }
        Ok(_) => return Err(taken(format!("{shown} is there and is no folder"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound && into.symlink_metadata().is_err() => false,
        Err(error) => return Err(Error::config(format!("{shown} cannot be looked at: {}", reason(&error)))),
    };
    let (above, _) = if is_there { (into.to_owned(), OsString::new()) } else { above(into)? };
    let stat = rustix::fs::statvfs(&above).map_err(|error| match error {
        Errno::NOENT => Error::config(format!("the folder {} does not exist", above.display()))
            .hint("make it, or name another folder to restore into"),
        error => Error::config(format!("{} cannot be looked at: {}", above.display(), reason(&error.into()))),
    })?;
    let files = (stat.f_files > 0).then_some(stat.f_favail);
    Ok((is_there, Room { bytes: stat.f_bavail.saturating_mul(stat.f_frsize), files }))
}

/// The folder that holds a path that is not there yet, and its name.
fn above(into: &Path) -> Result<(PathBuf, OsString)> {
    let name = into.file_name().ok_or_else(|| taken(format!("{} names no folder", into.display())))?;
    let above = into.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    Ok((above.to_owned(), name.to_owned()))
}

fn check_empty(into: &Path) -> Result<()> {
    let refused = |error| Error::config(format!("{} cannot be looked at: {}", into.display(), reason(&error)));
    for entry in std::fs::read_dir(into).map_err(refused)? {
        let name = entry.map_err(refused)?.file_name();
        if name != LOST_AND_FOUND {
            let name = shown(name.as_bytes());
            return Err(taken(format!("{} is not empty: it holds `{name}`", into.display())));
        }
    }
    Ok(())
}

fn taken(text: String) -> Error {
    Error::new(Class::Usage, text).hint("name a folder that does not exist yet, or an empty one")
}

impl Target {
    /// Begins to make a folder. `id` tells it from what another restore makes.
    ///
    /// # Errors
    /// As [`look`].
    pub(super) fn begin(into: &Path, id: &str) -> Result<Self> {
        let (is_there, _) = look(into)?;
        let temporary = if is_there {
            into.join(format!(".restoring-{id}"))
        } else {
            let (above, name) = above(into)?;
            let mut hidden = OsString::from(".");
            hidden.push(name);
            hidden.push(format!(".restoring-{id}"));
            above.join(hidden)
        };
        let made = rustix::fs::mkdir(&temporary, FOLDER_MODE).and_then(|()| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::open(&temporary, flags, Mode::empty())
        });
        let root = made.map_err(|error| {
            Error::config(format!("{} cannot be made: {}", temporary.display(), reason(&error.into())))
                .hint("restore to a folder that this user may make")
        })?;
        // What the folder above gives to everything that is made in it would count beside what the archive says.
        for list in [acl::DEFAULT, acl::ACCESS] {
            let _ = rustix::fs::fremovexattr(&root, list);
        }
        rustix::fs::fchmod(&root, FOLDER_MODE).map_err(|error| {
            Error::config(format!("{} cannot be made: {}", temporary.display(), reason(&error.into())))
        })?;
        Ok(Self { into: into.to_owned(), is_there, temporary, root: Arc::new(root) })
    }

    /// Writes everything to disk and puts it in place. `root` is what the archive says of the folder itself, and the answer which of its
    /// attributes it has not got back.
    ///
    /// # Errors
    /// When the target was taken meanwhile; then what was made is removed.
    pub(super) fn finish(self, mut root: Option<Described>, privileged: Privileged) -> Result<Vec<String>> {
        match self.place(root.as_mut(), privileged) {
            Ok(()) => Ok(root.map(|root| root.attributes.lacks).unwrap_or_default()),
            Err(error) => Err(self.abort(error)),
        }
    }

    fn place(&self, mut root: Option<&mut Described>, privileged: Privileged) -> Result<()> {
        let failed = |error: Errno| {
            let text = format!("{} cannot be put in place: {}", self.into.display(), reason(&error.into()));
            Error::unexpected(text).hint("nothing was restored; see whether somebody else made it meanwhile")
        };
        let mut adorn = |folder: &Arc<OwnedFd>| match &mut root {
            Some(root) => Sink::new(Arc::clone(folder), privileged).adorn(root),
            None => Ok(()),
        };
        if !self.is_there {
            adorn(&self.root)?;
        }
        // Once for all of it: a sync of each of a million files would take longer than the restore.
        rustix::fs::syncfs(&*self.root).map_err(failed)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        if !self.is_there {
            let (above, name) = above(&self.into)?;
            let above = rustix::fs::open(&above, flags, Mode::empty()).map_err(failed)?;
            let hidden = self.temporary.file_name().unwrap_or_default();
            rename_new(&above, hidden, &above, &name).map_err(failed)?;
            return sync(&above).map_err(failed);
        }
        let into = Arc::new(rustix::fs::open(&self.into, flags, Mode::empty()).map_err(failed)?);
        let mut moved = Vec::new();
        if let Err(error) = self.move_up(&into, &mut moved) {
            for name in moved {
                // What cannot be moved back stays where it is, and the message says that the target was touched.
                let _ = rename_new(&into, &name, &self.root, &name);
            }
            return Err(failed(error));
        }
        // What the empty folder let others do would count beside what the archive says, like what a new one inherits.
        for list in [acl::DEFAULT, acl::ACCESS] {
            let _ = rustix::fs::fremovexattr(&*into, list);
        }
        std::fs::remove_dir(&self.temporary).map_err(|e| failed(Errno::from_io_error(&e).unwrap_or(Errno::IO)))?;
        adorn(&into)?;
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

    /// Removes everything that was made, and says so where that fails too.
    pub(super) fn abort(self, error: Error) -> Error {
        match std::fs::remove_dir_all(&self.temporary) {
            Err(left) if left.kind() != io::ErrorKind::NotFound => {
                let (place, why) = (self.temporary.display(), reason(&left));
                Error::new(error.class(), format!("{error}; and {place} cannot be removed: {why}"))
                    .hint(format!("remove {place} by hand"))
            }
            _ => error,
        }
    }
}

/// Renames to a name that nobody has.
fn rename_new(from: &impl AsFd, name: &OsStr, to: &impl AsFd, new: &OsStr) -> rustix::io::Result<()> {
    match rustix::fs::renameat_with(from, name, to, new, RenameFlags::NOREPLACE) {
        // Some network file systems cannot refuse: look, then rename.
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
        // Some network file systems cannot sync a folder and need not.
        Err(Errno::INVAL | Errno::NOTSUP) => Ok(()),
        synced => synced,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_folder_that_is_new_or_empty_is_restored_to() {
        let base = tempfile::tempdir().unwrap();
        let at = |name: &str| base.path().join(name);
        std::fs::create_dir(at("empty")).unwrap();
        std::fs::create_dir_all(at("fresh disk/lost+found")).unwrap();
        std::fs::create_dir_all(at("full/thing")).unwrap();
        std::fs::write(at("file"), "").unwrap();
        std::os::unix::fs::symlink("nowhere", at("dangling")).unwrap();
        assert!(!look(&at("new")).unwrap().0);
        assert!(look(&at("empty")).unwrap().0 && look(&at("fresh disk")).unwrap().0);
        for (name, class, says) in [
            ("full", Class::Usage, "is not empty: it holds `thing`"),
            ("file", Class::Usage, "is no folder"),
            ("dangling", Class::Config, "cannot be looked at"),
            ("missing/new", Class::Config, "missing does not exist"),
        ] {
            let error = look(&at(name)).unwrap_err();
            assert!(error.class() == class && error.message().contains(says), "{error:?}");
        }
    }

    #[test]
    fn a_target_that_is_taken_meanwhile_stays_as_it_is_and_nothing_is_left() {
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
