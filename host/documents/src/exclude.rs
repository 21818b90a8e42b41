//! Which entries of a tree are left out: a list of globs with the meaning that gitignore gives them.
//!
//! It knows globs and relative paths, never the file system. Matching is by bytes, so a name that is not UTF-8
//! matches like any other.

use base::error::{Class, Error, Result};
use base::text::printable;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Patterns of one list. A list that people keep has a dozen.
pub const PATTERNS_MAX: usize = 1_000;

/// Longest pattern: no path that the kernel takes is longer.
pub const PATTERN_BYTES_MAX: usize = 4_096;

/// All patterns of a list together. Reading globs is work for the host that no limit of a plugin ends: a thousand of
/// the longest were seen to take 28 s in a debug build, and this many bytes take less than one.
pub const LIST_BYTES_MAX: usize = 64 << 10;

/// A list of globs, ready to match.
#[derive(Debug, Clone)]
pub(super) struct Matcher(Gitignore);

impl Matcher {
    /// A matcher for a list that came from a plugin.
    ///
    /// What is a comment, a negation or nothing at all in a `.gitignore` is refused: `#recycle` would silently match
    /// nothing, and `!keep` would make the meaning of a list depend on its order.
    ///
    /// # Errors
    /// [`Class::PluginRefused`], naming the pattern.
    pub(super) fn new(patterns: &[String]) -> Result<Self> {
        if patterns.len() > PATTERNS_MAX {
            return Err(refused(format!("{} exclude patterns are more than {PATTERNS_MAX}", patterns.len())));
        }
        let bytes: usize = patterns.iter().map(String::len).sum();
        // A single pattern that is too long is told by itself.
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

    /// Whether an entry is left out. A folder that is takes everything in it along: do not ask about that.
    pub(super) fn matches(&self, path: &[u8], folder: bool) -> bool {
        self.0.matched(Path::new(OsStr::from_bytes(path)), folder).is_ignore()
    }
}

fn check(pattern: &str) -> Result<()> {
    let shown = printable(pattern);
    if pattern.trim().is_empty() {
        return Err(refused("an exclude pattern is empty").hint("take it off the list"));
    }
    if pattern.len() > PATTERN_BYTES_MAX {
        return Err(refused(format!("the exclude pattern `{shown}` is longer than {PATTERN_BYTES_MAX} bytes")));
    }
    if pattern.contains(['\0', '\n']) {
        return Err(refused(format!("the exclude pattern `{shown}` holds a character that no pattern can hold")));
    }
    match pattern.chars().next() {
        Some('!') => Err(refused(format!("the exclude pattern `{shown}` negates, which a list of excludes cannot"))
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
    fn patterns_mean_what_they_mean_in_gitignore() {
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
        assert!(!matcher(&[]).matches(b"anything", false), "an empty list leaves nothing out");
    }

    #[test]
    fn a_pattern_that_cannot_be_meant_is_refused_by_name() {
        for (pattern, said) in [
            ("", "is empty"),
            ("  ", "is empty"),
            ("#recycle", "`#recycle` would be a comment"),
            ("!keep", "`!keep` negates"),
            ("a[", "`a[` is not a glob"),
            ("{a", "`{a` is not a glob"),
            ("a\nb", "no pattern can hold"),
            (&"x".repeat(PATTERN_BYTES_MAX + 1), "is longer than"),
        ] {
            let error = Matcher::new(&["temp".to_owned(), pattern.to_owned()]).unwrap_err();
            assert!(error.message().contains(said), "{pattern}: {error}");
            assert_eq!(error.class(), Class::PluginRefused);
        }
        assert!(Matcher::new(&vec!["x".to_owned(); PATTERNS_MAX]).is_ok());
        assert!(Matcher::new(&vec!["x".to_owned(); PATTERNS_MAX + 1]).is_err());
        let long = "x".repeat(PATTERN_BYTES_MAX);
        assert!(Matcher::new(&vec![long.clone(); LIST_BYTES_MAX / PATTERN_BYTES_MAX]).is_ok());
        assert!(Matcher::new(&vec![long; LIST_BYTES_MAX / PATTERN_BYTES_MAX + 1]).is_err());
    }
}
