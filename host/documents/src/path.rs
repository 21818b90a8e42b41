//! Paths below the archived folder: their order, their display, and which of them may be restored.

use base::error::{Class, Error, Result};
use std::cmp::Ordering;

/// Longest path of an archive: eight times what the kernel accepts in one call.
pub(super) const BYTES_MAX: usize = 32 << 10;

/// Deepest path. Cleaning up after a failed restore keeps one descriptor open per folder level, and a process usually
/// has 1,024. Documents are four deep.
pub(super) const DEPTH_MAX: usize = 500;

/// Normalises a path from an archive: `./a//b/` becomes `a/b`, and the folder itself becomes the empty path.
///
/// # Errors
/// [`Class::Stale`] if the path leads out of the folder, or if no file system can hold it, naming the path.
pub(super) fn below(path: &[u8]) -> Result<Vec<u8>> {
    let refused = |why: &str| {
        Err(Error::new(Class::Stale, format!("the archive holds `{}`, which {why}", shown(path)))
            .hint("nothing was restored; find out who created this archive before you unpack it with another tool"))
    };
    if path == b"/" {
        return Ok(Vec::new());
    }
    if path.starts_with(b"/") {
        return refused("is an absolute path");
    }
    if path.contains(&0) {
        return refused("contains a zero byte");
    }
    let names: Vec<&[u8]> = names(path).collect();
    if names.contains(&b"..".as_slice()) {
        return refused("leads out of the folder");
    }
    if path.len() > BYTES_MAX || names.len() > DEPTH_MAX {
        return refused("is too long or too deep");
    }
    Ok(names.join(&b'/'))
}

/// Whether a path may be in an archive: [`below`] must accept it when it is read back, including the slash that a
/// header adds to a folder.
pub(super) fn fits(path: &[u8]) -> bool {
    path.len() < BYTES_MAX && names(path).nth(DEPTH_MAX).is_none()
}

/// Whether the symbolic link at `path` leads out of the folder, judging by the text of its target only.
pub(super) fn leads_out(path: &[u8], target: &[u8]) -> bool {
    let mut depth = names(split(path).0).count();
    target.starts_with(b"/")
        || names(target).any(|name| {
            let above = (name == b"..").then(|| depth.checked_sub(1));
            depth = above.map_or(depth + 1, Option::unwrap_or_default);
            above == Some(None)
        })
}

/// The names in a path, outermost first.
fn names(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|b| *b == b'/').filter(|name| !matches!(*name, b"" | b"."))
}

/// The order of an archive: compares name by name, each by its bytes. A folder comes right before its content.
pub(super) fn order(a: &[u8], b: &[u8]) -> Ordering {
    names(a).cmp(names(b))
}

/// Whether a path is in a folder, at any depth. Everything but the root is below the root.
pub(super) fn is_below(path: &[u8], folder: &[u8]) -> bool {
    if folder.is_empty() {
        return !path.is_empty();
    }
    path.strip_prefix(folder).is_some_and(|rest| rest.starts_with(b"/"))
}

/// A path's folder and last name.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    super::open::split(path)
}

/// A path for a log, a record or a terminal: readable, on one line, and without loss. Bytes that are not printable
/// characters are written as `\xNN`, and a backslash as `\\`.
pub(super) fn shown(path: &[u8]) -> String {
    let mut text = String::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                c if base::text::printable(c.encode_utf8(&mut [0; 4])).starts_with(c) => text.push(c),
                c => escape(&mut text, c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        escape(&mut text, chunk.invalid());
    }
    if text.is_empty() { ".".to_owned() } else { text }
}

fn escape(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        text.push_str(&format!("\\x{byte:02x}"));
    }
}

/// Parses a path that [`shown`] wrote.
pub(super) fn parse(text: &[u8]) -> Result<Vec<u8>, ()> {
    let mut path = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        rest = match (first, after) {
            (b'\\', [b'\\', after @ ..]) => {
                path.push(b'\\');
                after
            }
            (b'\\', [b'x', high, low, after @ ..]) => {
                let mut byte = [0];
                hex::decode_to_slice([*high, *low], &mut byte).map_err(|_| ())?;
                path.extend_from_slice(&byte);
                after
            }
            (b'\\', _) => return Err(()),
            (plain, after) => {
                path.push(*plain);
                after
            }
        };
    }
    if path.is_empty() { Err(()) } else { Ok(path) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_path_is_normalised_or_refused_by_name() {
        for (path, expected) in [
            ("./", ""),
            (".", ""),
            ("a", "a"),
            ("./a//b/", "a/b"),
            ("a/./b", "a/b"),
            ("..a/b..", "..a/b.."),
            ("...", "..."),
        ] {
            assert_eq!(below(path.as_bytes()).unwrap(), expected.as_bytes(), "{path}");
        }
        for (path, expected) in [
            ("/etc/passwd", "`/etc/passwd`, which is an absolute path"),
            ("//a", "absolute"),
            ("..", "leads out"),
            ("a/../../b", "leads out"),
            ("a/..", "leads out"),
            ("a\0b", "`a\\x00b`, which contains a zero byte"),
            (&"d/".repeat(DEPTH_MAX + 1), "too deep"),
            (&"x".repeat(BYTES_MAX + 1), "too long"),
        ] {
            let error = below(path.as_bytes()).unwrap_err();
            assert!(error.message().contains(expected), "{error}");
            assert_eq!(error.class(), Class::Stale);
        }
    }

    #[test]
    fn a_folder_comes_right_before_its_content() {
        let paths: [&[u8]; 7] = [b"", b"a", b"a/b", b"a/b/c", b"a-b", b"a.b", b"b"];
        assert!(paths.is_sorted_by(|a, b| order(a, b) == Ordering::Less));
        for (path, folder, expected) in
            [("a", "", true), ("", "", false), ("a/b", "a", true), ("ab", "a", false), ("a", "a", false)]
        {
            assert_eq!(is_below(path.as_bytes(), folder.as_bytes()), expected, "{path} in {folder}");
        }
    }

    #[test]
    fn exactly_the_paths_that_fit_are_read_back() {
        let deep = |depth: usize| "d/".repeat(depth);
        for path in
            [deep(DEPTH_MAX), deep(DEPTH_MAX + 1), "x".repeat(BYTES_MAX - 1), "x".repeat(BYTES_MAX), String::new()]
        {
            let path = path.trim_end_matches('/');
            let longest = if path.is_empty() { "./".to_owned() } else { format!("{path}/") };
            assert_eq!(fits(path.as_bytes()), below(longest.as_bytes()).is_ok(), "{} bytes", path.len());
        }
    }

    #[test]
    fn a_link_that_leads_out_of_the_folder_is_recognised() {
        for (path, target, expected) in [
            ("a", "b", false),
            ("a", "/etc", true),
            ("a", "..", true),
            ("a/b", "..", false),
            ("a/b", "../c/../../d", true),
            ("a/b", "./../c/..", false),
            ("a/b/c", "../../../a", true),
        ] {
            assert_eq!(leads_out(path.as_bytes(), target.as_bytes()), expected, "{path} -> {target}");
        }
    }

    #[test]
    fn an_invalid_escape_is_refused() {
        for text in ["", "\\", "a\\", "\\x", "\\x0", "\\xzz", "\\n", "\\X00"] {
            assert_eq!(parse(text.as_bytes()), Err(()), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_shown_path_is_parsed_back(path in prop::collection::vec(any::<u8>(), 1..60)) {
            prop_assert_eq!(parse(shown(&path).as_bytes()), Ok(path));
        }
    }

    #[test]
    fn a_path_is_shown_on_one_line_and_two_paths_never_look_the_same() {
        for (path, expected) in [
            (b"".as_slice(), "."),
            ("facture/café.pdf".as_bytes(), "facture/café.pdf"),
            (b"line\nbreak", "line\\x0abreak"),
            (b"\xe9t\xe9", "\\xe9t\\xe9"),
            (b"back\\x0aslash", "back\\\\x0aslash"),
            (b"\x1b[2J", "\\x1b[2J"),
            ("a\u{202e}b".as_bytes(), "a\\xe2\\x80\\xaeb"),
            ("\u{fffd}".as_bytes(), "\u{fffd}"),
        ] {
            assert_eq!(shown(path), expected);
        }
    }
}
