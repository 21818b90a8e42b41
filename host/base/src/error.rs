//! What went wrong, whose turn it is, and the exit code that says so.
//!
//! One error type serves the whole host, because every failure ends the same way: a sentence, a hint, a code.
//! Nothing here holds a secret: whoever makes an [`Error`] from another crate's error passes its text through
//! [`crate::secret::redact`] where a credential was at hand.

use std::fmt;

/// What the caller, in the end the person or the scheduler that ran the command, can do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// The command line is wrong.
    Usage,
    /// The configuration, a grant or a permission is wrong; asking again will not help.
    Config,
    /// Another run holds the environment's lease.
    Held,
    /// A plugin trapped or ran into a limit.
    PluginTrapped,
    /// A plugin answered something that the host refuses.
    PluginRefused,
    /// A service was unavailable; the only class that is worth a retry.
    Unavailable,
    /// The snapshot is committed, the retention is not done.
    RetentionIncomplete,
    /// Something is stale, or a verification failed.
    Stale,
    /// The person or the scheduler interrupted the run.
    Interrupted,
    /// Anything else.
    Unexpected,
}

impl Class {
    /// The process's exit code, as the table in README.md has it.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Unexpected => 1,
            Self::Usage => 2,
            Self::RetentionIncomplete => 3,
            Self::Stale => 4,
            Self::Held => 11,
            Self::Config => 64,
            Self::PluginTrapped => 70,
            Self::PluginRefused => 71,
            Self::Unavailable => 75,
            Self::Interrupted => 130,
        }
    }
}

impl Class {
    /// What another run of this program meant by its exit code; none where it succeeded.
    #[must_use]
    pub fn of_exit_code(code: i32) -> Option<Self> {
        const ALL: [Class; 10] = [
            Class::Usage,
            Class::Config,
            Class::Held,
            Class::PluginTrapped,
            Class::PluginRefused,
            Class::Unavailable,
            Class::RetentionIncomplete,
            Class::Stale,
            Class::Interrupted,
            Class::Unexpected,
        ];
        let known = ALL.into_iter().find(|class| i32::from(class.exit_code()) == code);
        (code != 0).then(|| known.unwrap_or(Self::Unexpected))
    }
}

/// A failure: one lowercase sentence that fits behind "failed to …" or "error: ", and advice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    class: Class,
    message: String,
    hint: Option<String>,
    is_taken: bool,
}

/// The host's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of a class. The message is a lowercase fragment without a full stop.
    #[must_use]
    pub fn new(class: Class, message: impl fmt::Display) -> Self {
        Self { class, message: message.to_string(), hint: None, is_taken: false }
    }

    /// See [`Class::Config`].
    #[must_use]
    pub fn config(message: impl fmt::Display) -> Self {
        Self::new(Class::Config, message)
    }

    /// See [`Class::Unavailable`].
    #[must_use]
    pub fn unavailable(message: impl fmt::Display) -> Self {
        Self::new(Class::Unavailable, message)
    }

    /// See [`Class::Unexpected`].
    #[must_use]
    pub fn unexpected(message: impl fmt::Display) -> Self {
        Self::new(Class::Unexpected, message)
    }

    /// Of whoever would make something under a name that somebody else has.
    #[must_use]
    pub fn taken(message: impl fmt::Display) -> Self {
        Self { is_taken: true, ..Self::unexpected(message) }
    }

    /// Whether somebody else has the name of what was to be made.
    #[must_use]
    pub const fn is_taken(&self) -> bool {
        self.is_taken
    }

    /// What to do about it: an imperative sentence, shown behind `hint:`.
    #[must_use]
    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }

    /// [`Error::hint`] where there is none yet.
    #[must_use]
    pub fn or_hint(self, hint: impl fmt::Display) -> Self {
        if self.hint.is_some() { self } else { self.hint(hint) }
    }

    /// Advice that follows from the class alone, where whoever failed had none that is better.
    #[must_use]
    pub fn or_default_hint(self) -> Self {
        let advice = match self.class {
            Class::Usage => "see `dolibarr-backup --help`",
            Class::Config => "README.md has a whole example of the configuration",
            Class::Held => "wait for the other run to end",
            Class::PluginTrapped | Class::PluginRefused => "the plugin is at fault: use another version of it",
            Class::Unavailable => "run it again when the service answers",
            Class::RetentionIncomplete => "run `prune` once the cause is mended",
            Class::Stale => "look at `list` for what is missing",
            Class::Interrupted => "run it again",
            Class::Unexpected => "set DOLIBARR_BACKUP_LOG=debug and run it again to see more",
        };
        self.or_hint(advice)
    }

    /// Says what was being done, in front of the message.
    #[must_use]
    pub fn context(mut self, doing: impl fmt::Display) -> Self {
        self.message = format!("{doing}: {}", self.message);
        self
    }

    /// What can be done about it.
    #[must_use]
    pub const fn class(&self) -> Class {
        self.class
    }

    /// The sentence.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The advice, if there is any.
    #[must_use]
    pub fn advice(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// Why the system refused, without its number.
pub fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_code_of_this_program_is_understood_and_any_other_is_unexpected() {
        assert_eq!(Class::of_exit_code(0), None);
        for (code, class) in
            [(75, Class::Unavailable), (4, Class::Stale), (137, Class::Unexpected), (-1, Class::Unexpected)]
        {
            assert_eq!(Class::of_exit_code(code), Some(class), "{code}");
        }
    }

    #[test]
    fn only_an_unavailable_service_exits_with_the_code_that_is_worth_a_retry() {
        let all = [
            Class::Usage,
            Class::Config,
            Class::Held,
            Class::PluginTrapped,
            Class::PluginRefused,
            Class::Unavailable,
            Class::RetentionIncomplete,
            Class::Stale,
            Class::Interrupted,
            Class::Unexpected,
        ];
        let retried: Vec<_> = all.into_iter().filter(|class| class.exit_code() == 75).collect();
        assert_eq!(retried, [Class::Unavailable]);
        let codes: std::collections::BTreeSet<_> = all.into_iter().map(Class::exit_code).collect();
        assert_eq!(codes.len(), all.len(), "two classes share a code");
    }

    #[test]
    fn a_reason_is_a_lowercase_phrase() {
        assert_eq!(reason(&std::io::Error::from_raw_os_error(13)), "permission denied");
        assert_eq!(reason(&std::io::Error::other("its kind is unknown")), "its kind is unknown");
    }
}
