//! Claims of a component about its origin: notes by compilers and tools, and metadata by its author.
//!
//! `wasm-metadata` reads the same sections but keeps everything, including function names. This module reads an
//! untrusted file as a stream.

use base::text::printable;
use std::collections::BTreeSet;
use wasmparser::{Parser, Payload, ProducersSectionReader};

/// Entries that are shown. An interpreter with its plugin has about twenty.
const ENTRIES_MAX: usize = 40;

/// Longest section that is read. Tools write a few hundred bytes.
const SECTION_BYTES_MAX: usize = 64 << 10;

/// Custom sections with one text each, as written by the Bytecode Alliance's `wasm-metadata`.
const TEXTS: [&str; 7] = ["authors", "description", "homepage", "licenses", "revision", "source", "version"];

/// Claims of a component and of everything nested in it, each as `field: value`, sorted. None of them is verified.
pub fn claims(bytes: &[u8]) -> Vec<String> {
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

/// The section that compilers write according to WebAssembly's tool conventions.
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
    fn claims_of_tools_and_authors_are_shown_and_invalid_sections_are_skipped() {
        let bytes = [
            &b"\0asm\x0d\0\x01\0"[..],
            &section("producers", b"\x01\x08language\x01\x04Rust\x041.95"),
            &section("authors", b"Anna\x1b[2J"),
            &section("producers", b"\xff\xff"),
            &section("surprise", b"x"),
        ]
        .concat();
        assert_eq!(claims(&bytes), ["authors: Anna\u{fffd}[2J", "language: Rust 1.95"]);
        assert_eq!(claims(b"nothing at all"), Vec::<String>::new());
    }

    #[test]
    fn a_shipped_component_names_its_tools() {
        let folder = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("plugins");
        let claims = claims(&std::fs::read(folder.join("retention-last.wasm")).unwrap());
        assert!(claims.iter().any(|line| line.starts_with("processed-by: wit-component ")), "{claims:?}");
    }
}
