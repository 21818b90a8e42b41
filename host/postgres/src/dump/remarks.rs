//! What pg_dump says on its error output although it succeeds. One table tells what is harmless, what leaves something out of the
//! dump, and what nobody foresaw, which is a failure: a dump that was not understood is not called whole.

use base::text::printable;

/// Lines that are kept. A database with a thousand circular keys says a thousand times the same.
const NOTES_MAX: usize = 20;

/// What a message means for the dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// The dump is whole.
    Harmless,
    /// The dump lacks something.
    Partial,
}

/// Messages by a part of their text, as pg_dump 13 to 18 and the servers say them in the C locale.
const KNOWN: [(&str, Meaning); 11] = [
    // It says so of loops between the rows of tables. A whole dump makes the keys after all rows, so their order is no matter.
    ("there are circular foreign-key constraints", Meaning::Harmless),
    // The role was dropped; a restore gives no owner.
    ("owner of ", Meaning::Harmless),
    // A connection string holds a password, and a restored database must not draw from production.
    ("subscriptions not dumped", Meaning::Harmless),
    // Text sorts in another way since an update of the operating system. The rows are the same.
    ("collation version mismatch", Meaning::Harmless),
    // What the server tells everybody who logs in.
    ("NOTICE:  ", Meaning::Harmless),
    ("INFO:  ", Meaning::Harmless),
    ("LOG:  ", Meaning::Harmless),
    // A catalog with damage in it: pg_dump passes the object over.
    ("could not be dumped correctly", Meaning::Partial),
    ("typtype of data type", Meaning::Partial),
    ("bogus ", Meaning::Partial),
    ("could not find operator with OID", Meaning::Partial),
];

/// How a line begins that goes on with the message before it.
const CONTINUED: [&str; 6] =
    ["pg_dump: detail: ", "pg_dump: hint: ", "DETAIL:  ", "HINT:  ", "CONTEXT:  ", "pg_dump:   "];

/// What was said, by what it means.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Remarks {
    /// What changes nothing.
    pub(super) harmless: Vec<String>,
    /// What the dump lacks.
    pub(super) partial: Vec<String>,
    /// What nobody foresaw.
    pub(super) unknown: Vec<String>,
}

impl Remarks {
    /// Sorts the lines of an error output.
    pub(super) fn of(stderr: &str) -> Self {
        let mut remarks = Self::default();
        let mut last = None;
        for line in stderr.lines().filter(|line| !line.trim().is_empty()) {
            let goes_on =
                line.starts_with(char::is_whitespace) || CONTINUED.iter().any(|begin| line.starts_with(begin));
            if goes_on && last.is_some() {
                continue;
            }
            let known = KNOWN.iter().find(|(part, _)| line.contains(part)).map(|(_, meaning)| *meaning);
            let list = match known {
                Some(Meaning::Harmless) => &mut remarks.harmless,
                Some(Meaning::Partial) => &mut remarks.partial,
                None => &mut remarks.unknown,
            };
            let text = printable(line.trim().trim_start_matches("pg_dump: ").trim_start_matches("warning: "));
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
    fn what_is_known_is_told_apart_and_what_nobody_foresaw_is_a_failure() {
        let said = "pg_dump: warning: there are circular foreign-key constraints on this table:\n\
            pg_dump: detail: llx_categorie\n\
            pg_dump: hint: You might not be able to restore the dump without using --disable-triggers.\n\
            pg_dump: warning: owner of table \"llx_x\" appears to be invalid\n\
            WARNING:  database \"erp\" has a collation version mismatch\n\
            DETAIL:  The database was created using collation version 2.31.\n\
            HINT:  Rebuild all objects.\n\
            NOTICE:  welcome\n\
            pg_dump: warning: aggregate function joined could not be dumped correctly for this database version; ignored\n\
            pg_dump: warning: something new\n";
        let remarks = Remarks::of(said);
        assert_eq!(remarks.harmless.len(), 4, "{remarks:?}");
        assert_eq!(remarks.harmless[1], "owner of table \"llx_x\" appears to be invalid");
        assert_eq!(remarks.partial.len(), 1, "{remarks:?}");
        assert_eq!(remarks.unknown, ["something new"]);
        assert_eq!(Remarks::of("  \n"), Remarks::default());
        let alone = Remarks::of("DETAIL:  of nothing\n");
        assert_eq!(alone.unknown.len(), 1, "a line that goes on with nothing is no remark that is known");
    }

    #[test]
    fn a_message_is_kept_once_and_not_without_end() {
        let many: String = (0..1_000).map(|n| format!("NOTICE:  {}\n", n % 50)).collect();
        assert_eq!(Remarks::of(&many).harmless.len(), NOTES_MAX);
        assert_eq!(Remarks::of("NOTICE:  a\nNOTICE:  a\n").harmless, ["NOTICE:  a"]);
    }
}
