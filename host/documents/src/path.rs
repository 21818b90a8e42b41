//! Paths below the archived folder: their order, and which of them may be restored.

use base::error::{Class, Error, Result};
use std::cmp::Ordering;

/// Longest path of an archive: eight times what the kernel takes in one call, so that whatever was archived fits.
pub(super) const BYTES_MAX: usize = 32 << 10;

/// Deepest path. Removing what a failed restore left keeps a descriptor for each folder on the way open, and a process
/// has 1,024 as a rule. Documents are four deep.
pub(super) const DEPTH_MAX: usize = 500;

/// A path as an archive names it, made relative and plain: `./a//b/` is `a/b`, the folder itself is empty.
///
/// # Errors
/// Of class [`Class::Stale`], naming it, when it would lead out of the folder or no file system holds it.
pub(super) fn below(path: &[u8]) -> Result<Vec<u8>> {
    let refused = |why: &str| {
        Err(Error::new(Class::Stale, format!("the archive holds `{}`, which {why}", shown(path)))
            .hint("nothing was restored; find out who made this archive before you unpack it with another tool"))
    };
    if path == b"/" {
        return Ok(Vec::new());
    }
    if path.starts_with(b"/") {
        return refused("is an absolute path");
    }
    if path.contains(&0) {
        return refused("has a zero byte in its name");
    }
    let names: Vec<&[u8]> = names(path).collect();
    if names.contains(&b"..".as_slice()) {
        return refused("leads out of the folder");
    }
    if path.len() > BYTES_MAX || names.len() > DEPTH_MAX {
        return refused("is longer or deeper than any path may be");
    }
    Ok(names.join(&b'/'))
}

/// Whether a path below the folder may be in an archive, so that [`below`] takes it when it is read back, with the slash that a header adds to it.
pub(super) fn fits(path: &[u8]) -> bool {
    path.len() < BYTES_MAX && names(path).nth(DEPTH_MAX).is_none()
}

/// Whether the target of a symbolic link, at that path below the folder, may lie outside of the folder, as far as its text says.
pub(super) fn leads_out(path: &[u8], target: &[u8]) -> bool {
    let mut depth = names(split(path).0).count();
    target.starts_with(b"/")
        || names(target).any(|name| {
            let above = (name == b"..").then(|| depth.checked_sub(1));
            depth = above.map_or(depth + 1, Option::unwrap_or_default);
            above == Some(None)
        })
}

/// Its names, from the top.
fn names(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|b| *b == b'/').filter(|name| !matches!(*name, b"" | b"."))
}

/// The order of an archive: names one after the other, each by its bytes, so a folder comes right before what is in it.
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

/// A path as a log, a record or a terminal may show it: readable, on one line, and without loss. Whatever is not a
/// printable character stands as `\xNN`, and a backslash as `\\`.
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

/// A path as [`shown`] writes it, with every byte back in its place.
pub(super) fn parsed(text: &[u8]) -> Result<Vec<u8>, ()> {
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
    fn a_path_is_made_plain_or_refused_by_name() {
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
            ("a\0b", "`a\\x00b`, which has a zero byte"),
            (&"d/".repeat(DEPTH_MAX + 1), "deeper"),
            (&"x".repeat(BYTES_MAX + 1), "longer"),
        ] {
            let error = below(path.as_bytes()).unwrap_err();
            assert!(error.message().contains(expected), "{error}");
            assert_eq!(error.class(), Class::Stale);
        }
    }

    #[test]
    fn a_folder_comes_right_before_what_is_in_it() {
        let paths: [&[u8]; 7] = [b"", b"a", b"a/b", b"a/b/c", b"a-b", b"a.b", b"b"];
        assert!(paths.is_sorted_by(|a, b| order(a, b) == Ordering::Less));
        for (path, folder, expected) in
            [("a", "", true), ("", "", false), ("a/b", "a", true), ("ab", "a", false), ("a", "a", false)]
        {
            assert_eq!(is_below(path.as_bytes(), folder.as_bytes()), expected, "{path} in {folder}");
        }
    }

    #[test]
    fn what_fits_is_read_back_and_nothing_else() {
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
    fn a_link_that_leaves_the_folder_is_told_from_one_within() {
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
    fn what_is_no_path_of_an_index_is_refused() {
        for text in ["", "\\", "a\\", "\\x", "\\x0", "\\xzz", "\\n", "\\X00"] {
            assert_eq!(parsed(text.as_bytes()), Err(()), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_path_that_is_shown_is_read_back(path in prop::collection::vec(any::<u8>(), 1..60)) {
            prop_assert_eq!(parsed(shown(&path).as_bytes()), Ok(path));
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
