//! The host's error type: what went wrong, who has to act, and the exit code.
//!
//! One type serves the whole host, because every failure ends the same way: a sentence, a hint, an exit code.
//! An error never holds a secret: code that turns another crate's error into an [`Error`] passes the text through
//! [`crate::secret::redact`] if a credential was involved.

use std::fmt;

/// What is known of a class.
struct Facts {
    /// The exit code of the process.
    code: u8,
    /// What the exit code means, for the documentation.
    meaning: &'static str,
    /// Advice for an error that has none of its own.
    hint: &'static str,
}

crate::table! {
    /// What the caller (in the end the person or scheduler that ran the command) can do about a failure.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub enum Class with Facts {
        /// Anything else.
        Unexpected { code: 1, meaning: "unexpected error, such as a source that failed; the run is recorded", hint: "set DOLIBARR_BACKUP_LOG=debug and run the command again for details" }
        /// The command line is wrong.
        Usage { code: 2, meaning: "wrong command line", hint: "see `dolibarr-backup --help`" }
        /// The snapshot was committed, but retention did not finish.
        RetentionIncomplete { code: 3, meaning: "the snapshot is committed, but a source is partial or suspect, a question waits, or the retention is not done", hint: "run `prune` once the cause is fixed" }
        /// Something is stale, or a verification failed.
        Stale { code: 4, meaning: "something is stale, missing, unproven, damaged or not covered, or a verification failed", hint: "run `list` to see what is missing" }
        /// Another run holds the environment's lease.
        Held { code: 11, meaning: "another run holds the environment's lease", hint: "wait for the other run to end" }
        /// The configuration, a grant or a permission is wrong; a retry will not help.
        Config { code: 64, meaning: "wrong configuration, missing permission or missing grant", hint: "`dolibarr-backup example` prints a complete configuration" }
        /// A plugin trapped or exceeded a limit.
        PluginTrapped { code: 70, meaning: "a plugin trapped or reached a limit", hint: "the plugin is at fault; use another version of it" }
        /// The host refused a plugin's answer.
        PluginRefused { code: 71, meaning: "a plugin returned something that the host refuses", hint: "the plugin is at fault; use another version of it" }
        /// A service was unavailable. The only class for which a retry makes sense.
        Unavailable { code: 75, meaning: "a service was unavailable", hint: "run the command again when the service is available" }
        /// A person or the scheduler interrupted the run.
        Interrupted { code: 130, meaning: "interrupted", hint: "run the command again" }
    }
}

impl Class {
    /// The exit code of the process.
    pub const fn exit_code(self) -> u8 {
        self.facts().code
    }

    /// What the exit code means.
    pub const fn meaning(self) -> &'static str {
        self.facts().meaning
    }

    /// The class that another run of this program reported by its exit code; `None` if it succeeded.
    pub fn of_exit_code(code: i32) -> Option<Self> {
        let known = Self::ALL.into_iter().find(|class| i32::from(class.exit_code()) == code);
        (code != 0).then(|| known.unwrap_or(Self::Unexpected))
    }
}

/// A failure: one lowercase sentence that reads well after "error: ", and a hint.
#[derive(Debug, Clone, PartialEq, Eq, derive_more::Display)]
#[display("{message}")]
pub struct Error {
    class: Class,
    message: String,
    hint: Option<String>,
    is_taken: bool,
}

/// The host's result type.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of a class. The message is a lowercase fragment without a full stop.
    pub fn new(class: Class, message: impl fmt::Display) -> Self {
        Self { class, message: message.to_string(), hint: None, is_taken: false }
    }

    /// See [`Class::Config`].
    pub fn config(message: impl fmt::Display) -> Self {
        Self::new(Class::Config, message)
    }

    /// See [`Class::Unavailable`].
    pub fn unavailable(message: impl fmt::Display) -> Self {
        Self::new(Class::Unavailable, message)
    }

    /// See [`Class::Unexpected`].
    pub fn unexpected(message: impl fmt::Display) -> Self {
        Self::new(Class::Unexpected, message)
    }

    /// An error for a name that already belongs to something else.
    pub fn taken(message: impl fmt::Display) -> Self {
        Self { is_taken: true, ..Self::unexpected(message) }
    }

    /// Whether the operation failed because the name already exists.
    pub const fn is_taken(&self) -> bool {
        self.is_taken
    }

    /// Adds advice: an imperative sentence, shown after `hint:`.
    #[must_use]
    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }

    /// [`Error::hint`] if the error does not have one yet.
    #[must_use]
    pub fn or_hint(self, hint: impl fmt::Display) -> Self {
        if self.hint.is_some() { self } else { self.hint(hint) }
    }

    /// Adds general advice for the class if the error does not have a hint yet.
    #[must_use]
    pub fn or_default_hint(self) -> Self {
        let advice = self.class.facts().hint;
        self.or_hint(advice)
    }

    /// The message, if the failure is damage and so a finding of a verification.
    ///
    /// # Errors
    /// The failure itself, if it says nothing about the data: it keeps the verification from being made.
    pub fn into_finding(self) -> Result<String> {
        if self.class == Class::Stale { Ok(self.message) } else { Err(self) }
    }

    /// Prefixes the message with what was being done.
    #[must_use]
    pub fn context(mut self, doing: impl fmt::Display) -> Self {
        self.message = format!("{doing}: {}", self.message);
        self
    }

    /// Adds to the message what followed from the failure.
    #[must_use]
    pub fn and(mut self, what: impl fmt::Display) -> Self {
        self.message = format!("{}; {what}", self.message);
        self
    }

    /// The class of the failure.
    pub const fn class(&self) -> Class {
        self.class
    }

    /// The message, without the hint.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The hint, if there is one.
    pub fn advice(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl std::error::Error for Error {}

/// The text of a system error in lower case, without the error number.
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
    fn exit_codes_map_back_to_classes_and_unknown_codes_are_unexpected() {
        assert_eq!(Class::of_exit_code(0), None);
        for (code, class) in
            [(75, Class::Unavailable), (4, Class::Stale), (137, Class::Unexpected), (-1, Class::Unexpected)]
        {
            assert_eq!(Class::of_exit_code(code), Some(class), "{code}");
        }
    }

    #[test]
    fn only_unavailable_exits_with_the_retry_code() {
        let all = Class::ALL;
        let retryable: Vec<_> = all.into_iter().filter(|class| class.exit_code() == 75).collect();
        assert_eq!(retryable, [Class::Unavailable]);
        let codes: std::collections::BTreeSet<_> = all.into_iter().map(Class::exit_code).collect();
        assert_eq!(codes.len(), all.len(), "two classes share a code");
    }

    #[test]
    fn a_reason_is_a_lowercase_phrase() {
        assert_eq!(reason(&std::io::Error::from_raw_os_error(13)), "permission denied");
        assert_eq!(reason(&std::io::Error::other("its kind is unknown")), "its kind is unknown");
    }
}
