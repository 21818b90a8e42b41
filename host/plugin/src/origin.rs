//! Who built a component, by its own word: what compilers and tools note in it, and what its author says of it.
//!
//! `wasm-metadata` reads the same and keeps all of it, names of functions too. Here a file that nobody trusts is read as a stream.

use base::text::printable;
use std::collections::BTreeSet;
use wasmparser::{Parser, Payload, ProducersSectionReader};

/// Entries that are shown. An interpreter with its plugin has some twenty.
const ENTRIES_MAX: usize = 40;

/// Bytes of one section that are looked at; what tools write has a few hundred.
const SECTION_BYTES_MAX: usize = 64 << 10;

/// Custom sections that hold one text each, as `wasm-metadata` of the Bytecode Alliance writes them.
const TEXTS: [&str; 7] = ["authors", "description", "homepage", "licenses", "revision", "source", "version"];

/// What it says of itself, `field: value` each, from all that is nested in it; sorted. Nobody checked any of it.
pub fn said(bytes: &[u8]) -> Vec<String> {
    let mut found = BTreeSet::new();
    for payload in Parser::new(0).parse_all(bytes).map_while(Result::ok) {
        let Payload::CustomSection(section) = payload else { continue };
        if section.data().len() > SECTION_BYTES_MAX || found.len() > ENTRIES_MAX {
            continue;
        }
        let name = section.name();
        if name == "producers" {
            found.extend(producers(&section).into_iter().flatten());
        } else if TEXTS.contains(&name) {
            found.insert(format!("{name}: {}", printable(&String::from_utf8_lossy(section.data()))));
        }
    }
    found.into_iter().take(ENTRIES_MAX).collect()
}

/// The section that compilers write, after the tool conventions of WebAssembly.
fn producers(section: &wasmparser::CustomSectionReader<'_>) -> Option<Vec<String>> {
    let reader = wasmparser::BinaryReader::new(section.data(), section.data_offset());
    let mut found = Vec::new();
    for field in ProducersSectionReader::new(reader).ok()?.into_iter().map_while(Result::ok) {
        for value in field.values.into_iter().map_while(Result::ok).take(ENTRIES_MAX) {
            found.push(format!(
                "{}: {}",
                printable(field.name),
                printable(&format!("{} {}", value.name, value.version))
            ));
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(name: &str, data: &[u8]) -> Vec<u8> {
        let mut content = vec![u8::try_from(name.len()).unwrap()];
        content.extend(name.as_bytes());
        content.extend(data);
        let mut bytes = vec![0, u8::try_from(content.len()).unwrap()];
        bytes.extend(content);
        bytes
    }

    #[test]
    fn what_tools_and_authors_say_is_shown_and_nonsense_is_not() {
        let bytes = [
            &b"\0asm\x0d\0\x01\0"[..],
            &section("producers", b"\x01\x08language\x01\x04Rust\x041.95"),
            &section("authors", b"Anna\x1b[2J"),
            &section("producers", b"\xff\xff"),
            &section("surprise", b"x"),
        ]
        .concat();
        assert_eq!(said(&bytes), ["authors: Anna\u{fffd}[2J", "language: Rust 1.95"]);
        assert_eq!(said(b"nothing at all"), Vec::<String>::new());
    }

    #[test]
    fn a_shipped_component_names_what_made_it() {
        let folder = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("plugins");
        let said = said(&std::fs::read(folder.join("retention-last.wasm")).unwrap());
        assert!(said.iter().any(|line| line.starts_with("processed-by: wit-component ")), "{said:?}");
    }
}
