//! Text for people: foreign text that is safe to show, and counts.

use indicatif::HumanCount;

/// Longest foreign text that is shown in full: enough for any sentence or path, too little to fill a log.
const TEXT_BYTES_MAX: usize = 1_000;

/// Makes foreign text (from a plugin, a server, a file name) safe for a terminal, a log or a record: replaces control
/// characters and cuts the text at [`TEXT_BYTES_MAX`] bytes.
pub fn printable(text: &str) -> String {
    let mut line = String::new();
    for c in text.chars().map(|c| if is_printable(c) { c } else { '\u{fffd}' }) {
        // The replacement character may be longer than the character that it replaces.
        if line.len() + c.len_utf8() > TEXT_BYTES_MAX {
            line.push('…');
            break;
        }
        line.push(c);
    }
    line
}

/// Like [`printable`], but keeps line breaks and tabs and does not cut: for whole messages that quote foreign text.
pub fn printable_lines(text: &str) -> String {
    text.chars().map(|c| if is_printable(c) || matches!(c, '\n' | '\t') { c } else { '\u{fffd}' }).collect()
}

/// A count with its noun: `1 snapshot`, `1,000 snapshots`, `2 entries`. `noun` is a singular whose plural ends with `s`.
pub fn counted(count: impl TryInto<u64>, noun: &str) -> String {
    let count = count.try_into().unwrap_or(u64::MAX);
    let (stem, ending) = match noun.strip_suffix("ry") {
        _ if count == 1 => (noun, ""),
        Some(stem) => (stem, "ries"),
        None => (noun, "s"),
    };
    format!("{} {stem}{ending}", HumanCount(count))
}

/// Whether a character leaves the cursor and the text direction alone.
fn is_printable(c: char) -> bool {
    !c.is_control()
        && !matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_agrees_with_its_noun() {
        for (count, text) in [(0, "0 files"), (1, "1 file"), (2, "2 files"), (1_000, "1,000 files")] {
            assert_eq!(counted(count, "file"), text);
        }
        assert_eq!([1, 2].map(|count| counted(count, "entry")), ["1 entry", "2 entries"]);
    }

    #[test]
    fn foreign_text_cannot_move_the_cursor_or_fill_the_log() {
        assert_eq!(printable("a\u{1b}[2Jb\nc"), "a\u{fffd}[2Jb\u{fffd}c");
        assert_eq!(printable("x\u{202e}y"), "x\u{fffd}y");
        for long in ["é", "\0", "x", "漢"].map(|c| c.repeat(TEXT_BYTES_MAX + 1)) {
            let shown = printable(&long);
            assert!(shown.len() <= TEXT_BYTES_MAX + '…'.len_utf8(), "{} bytes", shown.len());
            assert!(shown.ends_with('…'));
        }
        let exactly = "x".repeat(TEXT_BYTES_MAX);
        assert_eq!(printable(&exactly), exactly);
        assert_eq!(printable(""), "");
    }
}
