//! Classifies what a successful pg_dump prints to its error output. A table lists the messages that are harmless and
//! those that mean that something is missing from the dump. An unknown message is a failure, because the dump may be
//! incomplete.

use base::secret::{SecretString, redact};
use base::text::printable;

/// Maximum number of messages of each kind that are kept. A database with a thousand circular keys causes a thousand
/// similar messages.
const NOTES_MAX: usize = 20;

/// What a message means for the dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// The dump is complete.
    Harmless,
    /// Something is missing from the dump.
    Partial,
}

/// Known messages by a part of their text, as pg_dump 13 to 18 and the servers print them in the C locale.
const KNOWN: [(&str, Meaning); 11] = [
    // A complete dump creates foreign keys after all rows are loaded, so the order of the rows does not matter.
    ("there are circular foreign-key constraints", Meaning::Harmless),
    // The role was dropped. A restore does not set owners.
    ("owner of ", Meaning::Harmless),
    // Subscriptions are left out on purpose: a connection string contains a password, and a restored database must not
    // replicate from production.
    ("subscriptions not dumped", Meaning::Harmless),
    // Text sorts differently since an update of the operating system. The rows are the same.
    ("collation version mismatch", Meaning::Harmless),
    // Notices that the server sends to every connection.
    ("NOTICE:  ", Meaning::Harmless),
    ("INFO:  ", Meaning::Harmless),
    ("LOG:  ", Meaning::Harmless),
    // The catalog is damaged, and pg_dump skips the object.
    ("could not be dumped correctly", Meaning::Partial),
    ("typtype of data type", Meaning::Partial),
    ("bogus ", Meaning::Partial),
    ("could not find operator with OID", Meaning::Partial),
];

/// Beginnings of lines that continue the message before them.
const CONTINUATIONS: [&str; 6] =
    ["pg_dump: detail: ", "pg_dump: hint: ", "DETAIL:  ", "HINT:  ", "CONTEXT:  ", "pg_dump:   "];

/// The messages of pg_dump, by their meaning.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Remarks {
    /// The dump is complete.
    pub(super) harmless: Vec<String>,
    /// Something is missing from the dump.
    pub(super) partial: Vec<String>,
    /// The message is not in the table.
    pub(super) unknown: Vec<String>,
}

impl Remarks {
    /// Classifies the messages of an error output, and redacts secrets in them.
    pub(super) fn parse(stderr: &str, secrets: &[&SecretString]) -> Self {
        let mut remarks = Self::default();
        let mut last = None;
        for line in stderr.lines().filter(|line| !line.trim().is_empty()) {
            let is_continuation =
                line.starts_with(char::is_whitespace) || CONTINUATIONS.iter().any(|begin| line.starts_with(begin));
            if is_continuation && last.is_some() {
                continue;
            }
            let known = KNOWN.iter().find(|(part, _)| line.contains(part)).map(|(_, meaning)| *meaning);
            let list = match known {
                Some(Meaning::Harmless) => &mut remarks.harmless,
                Some(Meaning::Partial) => &mut remarks.partial,
                None => &mut remarks.unknown,
            };
            let text = line.trim().trim_start_matches("pg_dump: ").trim_start_matches("warning: ");
            let text = printable(&redact(text, secrets));
            if list.len() < NOTES_MAX && !list.contains(&text) {
                list.push(text);
            }
            last = Some(known);
        }
        remarks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_messages_are_harmless_or_partial_and_all_others_are_unknown() {
        let stderr = "pg_dump: warning: there are circular foreign-key constraints on this table:\n\
            pg_dump: detail: llx_categorie\n\
            pg_dump: hint: You might not be able to restore the dump without using --disable-triggers.\n\
            pg_dump: warning: owner of table \"llx_x\" appears to be invalid\n\
            WARNING:  database \"erp\" has a collation version mismatch\n\
            DETAIL:  The database was created using collation version 2.31.\n\
            HINT:  Rebuild all objects.\n\
            NOTICE:  welcome\n\
            pg_dump: warning: aggregate function joined could not be dumped correctly for this database version; ignored\n\
            pg_dump: warning: something new\n";
        let remarks = Remarks::parse(stderr, &[]);
        assert_eq!(remarks.harmless.len(), 4, "{remarks:?}");
        assert_eq!(remarks.harmless[1], "owner of table \"llx_x\" appears to be invalid");
        assert_eq!(remarks.partial.len(), 1, "{remarks:?}");
        assert_eq!(remarks.unknown, ["something new"]);
        assert_eq!(Remarks::parse("  \n", &[]), Remarks::default());
        let alone = Remarks::parse("DETAIL:  of nothing\n", &[]);
        assert_eq!(alone.unknown.len(), 1, "a continuation without a message before it is unknown");
    }

    #[test]
    fn a_message_is_kept_once_and_the_number_of_messages_is_limited() {
        let many: String = (0..1_000).map(|n| format!("NOTICE:  {}\n", n % 50)).collect();
        assert_eq!(Remarks::parse(&many, &[]).harmless.len(), NOTES_MAX);
        assert_eq!(Remarks::parse("NOTICE:  a\nNOTICE:  a\n", &[]).harmless, ["NOTICE:  a"]);
        let password = SecretString::from("circular");
        let remarks = Remarks::parse("warning: there are circular foreign-key constraints", &[&password]);
        assert_eq!(remarks.harmless, ["there are [redacted] foreign-key constraints"]);
    }
}
