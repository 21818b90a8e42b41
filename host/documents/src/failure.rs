//! What a failed attempt to read an entry says about the entry.

use rustix::io::Errno;
use std::io;

/// What became of an entry that was listed and could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// It is gone. People rename and delete documents all day.
    Vanished,
    /// It is not what was listed any more, or nothing that an archive can hold.
    Unfit,
    /// It exists and could not be read: permission denied, an I/O error, a stale handle. The archive lacks it.
    Unreadable,
}

impl Failure {
    /// What an error of opening, looking at or reading an entry means. An error that nobody thought of counts as
    /// unreadable: a false alarm costs a look, and a silent gap costs documents.
    pub(super) fn of(error: &io::Error) -> Self {
        match Errno::from_io_error(error) {
            Some(Errno::NOENT) => Self::Vanished,
            // A link or a file has taken the place of the entry, or of a folder on the way to it.
            Some(Errno::LOOP | Errno::NOTDIR) => Self::Unfit,
            Some(_) => Self::Unreadable,
            None => match error.kind() {
                // What this program says itself of an entry that changed.
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
    fn only_what_exists_and_cannot_be_read_is_unreadable() {
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
            assert_eq!(Failure::of(&errno.into()), expected, "{errno}");
        }
        assert_eq!(Failure::of(&io::Error::other("it is no longer a file")), Failure::Unfit);
        assert_eq!(Failure::of(&io::ErrorKind::UnexpectedEof.into()), Failure::Unfit);
        assert_eq!(Failure::of(&io::ErrorKind::InvalidInput.into()), Failure::Unreadable);
    }
}
