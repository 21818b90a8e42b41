//! Classifies an error from reading an entry: is the entry gone, changed or unreadable?

use rustix::io::Errno;
use std::io;

/// Why an entry that was listed could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// It no longer exists. People rename and delete documents all day.
    Vanished,
    /// It is no longer what was listed, or an archive cannot hold it.
    Unfit,
    /// It exists but could not be read: permission denied, an I/O error, a stale handle. The archive lacks it.
    Unreadable,
}

impl Failure {
    /// Classifies an error from opening, examining or reading an entry. An unexpected error counts as unreadable: a
    /// false alarm costs a check, a silent gap costs documents.
    pub(super) fn from_error(error: &io::Error) -> Self {
        match Errno::from_io_error(error) {
            Some(Errno::NOENT) => Self::Vanished,
            // A link or a file has replaced the entry or one of its parent folders.
            Some(Errno::LOOP | Errno::NOTDIR) => Self::Unfit,
            Some(_) => Self::Unreadable,
            None => match error.kind() {
                // This crate returns these for an entry that changed.
                io::ErrorKind::Other | io::ErrorKind::UnexpectedEof => Self::Unfit,
                _ => Self::Unreadable,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_entries_that_exist_and_cannot_be_read_are_unreadable() {
        for (errno, expected) in [
            (Errno::NOENT, Failure::Vanished),
            (Errno::LOOP, Failure::Unfit),
            (Errno::NOTDIR, Failure::Unfit),
            (Errno::ACCESS, Failure::Unreadable),
            (Errno::PERM, Failure::Unreadable),
            (Errno::IO, Failure::Unreadable),
            (Errno::STALE, Failure::Unreadable),
            (Errno::NOTCONN, Failure::Unreadable),
            (Errno::TIMEDOUT, Failure::Unreadable),
            (Errno::MFILE, Failure::Unreadable),
        ] {
            assert_eq!(Failure::from_error(&errno.into()), expected, "{errno}");
        }
        assert_eq!(Failure::from_error(&io::Error::other("it is no longer a file")), Failure::Unfit);
        assert_eq!(Failure::from_error(&io::ErrorKind::UnexpectedEof.into()), Failure::Unfit);
        assert_eq!(Failure::from_error(&io::ErrorKind::InvalidInput.into()), Failure::Unreadable);
    }
}
