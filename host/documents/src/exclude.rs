//! Exclude patterns: a list of globs in gitignore syntax that selects which entries of a tree are left out.
//!
//! This module works on globs and relative paths and never reads the file system. It matches bytes, so names that are
//! not UTF-8 match like any other.

use base::error::{Class, Error, Result};
use base::text::printable;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Patterns in one list. A list that people maintain has about a dozen.
pub const PATTERNS_MAX: usize = 1_000;

/// Longest pattern: the kernel accepts no longer path.
pub const PATTERN_BYTES_MAX: usize = 4_096;

/// Bytes of all patterns of a list together. The host compiles the globs, and no plugin limit covers that work: in a
/// debug build, a thousand patterns of the maximum length took 28 s, and this many bytes take less than 1 s.
pub const LIST_BYTES_MAX: usize = 64 << 10;

/// A list of globs, ready to match.
#[derive(Debug, Clone)]
pub(super) struct Matcher(Gitignore);

impl Matcher {
    /// Compiles a list that came from a plugin.
    ///
    /// Patterns that would be comments, negations or empty lines in a `.gitignore` are refused: `#recycle` would
    /// silently match nothing, and `!keep` would make the meaning of a list depend on its order.
    ///
    /// # Errors
    /// [`Class::PluginRefused`], naming the pattern.
    pub(super) fn new(patterns: &[String]) -> Result<Self> {
        if patterns.len() > PATTERNS_MAX {
            return Err(refused(format!("{} exclude patterns exceed the limit of {PATTERNS_MAX}", patterns.len())));
        }
        let bytes: usize = patterns.iter().map(String::len).sum();
        // A single pattern that is too long gets its own message below.
        if patterns.len() > 1 && bytes > LIST_BYTES_MAX {
            return Err(refused(format!(
                "the exclude patterns have {bytes} bytes, more than {LIST_BYTES_MAX} together"
            )));
        }
        let mut builder = GitignoreBuilder::new("");
        builder.allow_unclosed_class(false);
        for pattern in patterns {
            check(pattern)?;
            builder.add_line(None, pattern).map_err(|error| {
                let reason = match error {
                    ignore::Error::Glob { err, .. } => err,
                    other => other.to_string(),
                };
                refused(format!("the exclude pattern `{}` is not a glob: {reason}", printable(pattern)))
            })?;
        }
        let matcher = builder.build().map_err(|e| refused(format!("the exclude patterns cannot be used: {e}")))?;
        Ok(Self(matcher))
    }

    /// Whether an entry is excluded. An excluded folder excludes everything in it; do not call this for its contents.
    pub(super) fn matches(&self, path: &[u8], folder: bool) -> bool {
        self.0.matched(Path::new(OsStr::from_bytes(path)), folder).is_ignore()
    }
}

fn check(pattern: &str) -> Result<()> {
    let shown = printable(pattern);
    if pattern.trim().is_empty() {
        return Err(refused("an exclude pattern is empty").hint("remove it from the list"));
    }
    if pattern.len() > PATTERN_BYTES_MAX {
        return Err(refused(format!("the exclude pattern `{shown}` is longer than {PATTERN_BYTES_MAX} bytes")));
    }
    if pattern.contains(['\0', '\n']) {
        return Err(refused(format!("the exclude pattern `{shown}` contains a character that no pattern can hold")));
    }
    match pattern.chars().next() {
        Some('!') => Err(refused(format!("the exclude pattern `{shown}` is a negation, which is not supported"))
            .hint(format!("list what to leave out; for a name that begins with `!`, write `\\{shown}`"))),
        Some('#') => Err(refused(format!("the exclude pattern `{shown}` would be a comment"))
            .hint(format!("for a name that begins with `#`, write `\\{shown}`"))),
        _ => Ok(()),
    }
}

fn refused(message: impl std::fmt::Display) -> Error {
    Error::new(Class::PluginRefused, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matcher(patterns: &[&str]) -> Matcher {
        Matcher::new(&patterns.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn patterns_match_as_in_gitignore() {
        for (pattern, path, folder, expected) in [
            ("temp", b"temp".as_slice(), true, true),
            ("temp", b"facture/temp", true, true),
            ("temp", b"facture/temp", false, true),
            ("temp/", b"facture/temp", true, true),
            ("temp/", b"facture/temp", false, false),
            ("/temp", b"temp", true, true),
            ("/temp", b"facture/temp", true, false),
            ("*/temp", b"facture/temp", true, true),
            ("*/temp", b"temp", true, false),
            ("*/temp", b"a/b/temp", true, false),
            ("admin/documents", b"admin/documents", true, true),
            ("admin/documents", b"x/admin/documents", true, false),
            ("**/documents", b"x/admin/documents", true, true),
            ("admin/**", b"admin", true, false),
            ("admin/**", b"admin/a/b", false, true),
            ("*.log", b"dolibarr.log", false, true),
            ("*.log", b"a/b/dolibarr.log", false, true),
            ("*.log", b"dolibarr.log.1", false, false),
            ("*.pdf_preview-*.png", b"f/FA1/FA1.pdf_preview-0.png", false, true),
            ("\\#recycle", b"#recycle", true, true),
            ("\\!x", b"!x", false, true),
            ("*.log", b"latin-\xe9\xff.log", false, true),
            ("caf\u{e9}", "café".as_bytes(), false, true),
            ("*", b"\xff", false, true),
            ("a\\*", b"ab", false, false),
            ("a[0-9]", b"a7", false, true),
            ("*.log", b"line\nbreak.log", false, true),
        ] {
            let shown = String::from_utf8_lossy(path);
            assert_eq!(matcher(&[pattern]).matches(path, folder), expected, "{pattern} on {shown}, folder: {folder}");
        }
        assert!(!matcher(&[]).matches(b"anything", false), "an empty list excludes nothing");
    }

    #[test]
    fn an_invalid_pattern_is_refused_by_name() {
        for (pattern, expected) in [
            ("", "is empty"),
            ("  ", "is empty"),
            ("#recycle", "`#recycle` would be a comment"),
            ("!keep", "`!keep` is a negation"),
            ("a[", "`a[` is not a glob"),
            ("{a", "`{a` is not a glob"),
            ("a\nb", "no pattern can hold"),
            (&"x".repeat(PATTERN_BYTES_MAX + 1), "is longer than"),
        ] {
            let error = Matcher::new(&["temp".to_owned(), pattern.to_owned()]).unwrap_err();
            assert!(error.message().contains(expected), "{pattern}: {error}");
            assert_eq!(error.class(), Class::PluginRefused);
        }
        assert!(Matcher::new(&vec!["x".to_owned(); PATTERNS_MAX]).is_ok());
        assert!(Matcher::new(&vec!["x".to_owned(); PATTERNS_MAX + 1]).is_err());
        let long = "x".repeat(PATTERN_BYTES_MAX);
        assert!(Matcher::new(&vec![long.clone(); LIST_BYTES_MAX / PATTERN_BYTES_MAX]).is_ok());
        assert!(Matcher::new(&vec![long; LIST_BYTES_MAX / PATTERN_BYTES_MAX + 1]).is_err());
    }
}
