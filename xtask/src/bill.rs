//! Writes bills of materials in the CycloneDX format for the image, the binary and each component. They list every part
//! with its version, licence and, if known, digest.

use crate::machine::{self, WASM_TARGET};
use crate::run::{failure, quiet};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;

/// The subject of a bill.
pub struct Subject<'a> {
    /// A CycloneDX type: `container` or `application`.
    pub kind: &'a str,
    pub name: &'a str,
    pub version: &'a str,
    /// When it was created, as text in UTC.
    pub created: &'a str,
    /// `None` for an image, which contains its own bill.
    pub content: Option<&'a [u8]>,
}

/// A complete bill as JSON.
pub fn bill(subject: &Subject, parts: &[Value]) -> Result<Vec<u8>> {
    let hashes: Vec<Value> = subject.content.into_iter().map(hash).collect();
    let bill = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": subject.created,
            "component": {
                "type": subject.kind, "bom-ref": subject.name, "name": subject.name, "version": subject.version,
                "hashes": hashes,
            },
        },
        "components": parts,
    });
    serde_json::to_vec_pretty(&bill).context("cannot write the bill of materials")
}

/// A component as an entry of a bill, by its file name.
pub fn component(name: &str, version: &str, content: &[u8]) -> Value {
    json!({
        "type": "file", "bom-ref": format!("plugin:{name}"), "name": name, "version": version,
        "hashes": [hash(content)],
    })
}

fn hash(content: &[u8]) -> Value {
    json!({"alg": "SHA-256", "content": hex::encode(Sha256::digest(content))})
}

/// The part of a release whose crates are listed.
#[derive(Debug, Clone, Copy)]
pub enum Part<'a> {
    /// The host and every plugin.
    Image,
    /// Only the host.
    Binary,
    /// One plugin, by its package name.
    Plugin(&'a str),
}

/// The crates that a part is built from, from `Cargo.lock` as Cargo resolves it.
pub fn crates(part: Part<'_>) -> Result<Vec<Value>> {
    let value = |Crate { name, version, license }: Crate| {
        let purl = format!("pkg:cargo/{name}@{version}");
        json!({
            "type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl,
            "licenses": [{"expression": license}],
        })
    };
    Ok(resolved(part)?.into_iter().map(value).collect())
}

/// One crate, with its licence as an SPDX expression.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Crate {
    name: String,
    version: String,
    license: String,
}

fn resolved(part: Part<'_>) -> Result<BTreeSet<Crate>> {
    let mut tree = machine::cargo();
    tree.args(["tree", "--locked", "--edges", "normal", "--prefix", "none", "--format", "{p}|{l}"]);
    match part {
        Part::Image => tree.args(["--workspace", "--exclude", "tests", "--exclude", "xtask"]),
        Part::Binary => tree.args(["--package", "dolibarr-backup"]),
        Part::Plugin(name) => tree.args(["--package", name, "--target", WASM_TARGET]),
    };
    let text = quiet(&mut tree, "check that Cargo.lock matches the manifests")?;
    let crates: BTreeSet<_> = text.lines().filter_map(parse_crate).collect();
    if crates.is_empty() {
        return Err(failure(format_args!("Cargo listed no crates for {part:?}"), "run `cargo tree` by hand"));
    }
    Ok(crates)
}

/// Reads `serde v1.0.228 (proc-macro)|MIT OR Apache-2.0`. Older manifests separate licences by a slash.
fn parse_crate(line: &str) -> Option<Crate> {
    let (package, license) = line.split_once('|')?;
    let mut words = package.split(' ');
    let (name, version) = (words.next()?.to_owned(), words.next()?.strip_prefix('v')?.to_owned());
    let license = license.trim_end_matches(" (*)").replace(" / ", "/").replace('/', " OR ");
    (!license.is_empty()).then_some(Crate { name, version, license })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bill_has_the_crates_of_the_binary_and_none_of_the_tests() {
        let has = |part: Part<'_>, name: &str| {
            let crates = resolved(part).expect("Cargo lists the crates");
            crates.iter().any(|one| one.name == name)
        };
        for name in ["wasmtime", "aws-sdk-s3", "dolibarr-backup", "retention-tiered"] {
            assert!(has(Part::Image, name), "{name}");
        }
        for name in ["oci-spec-of-nobody", "xtask", "proptest"] {
            assert!(!has(Part::Image, name), "{name}");
        }
        assert!(has(Part::Binary, "wasmtime") && !has(Part::Binary, "retention-tiered"));
        let plugin = Part::Plugin("retention-tiered");
        assert!(has(plugin, "wit-bindgen") && has(plugin, "retention-tiered") && !has(plugin, "wasmtime"));
        assert!(resolved(Part::Plugin("retention-of-nobody")).is_err());
    }

    #[test]
    fn a_line_of_cargo_tree_is_read_as_a_crate() {
        let serde =
            |license: &str| Some(Crate { name: "serde".into(), version: "1.0.228".into(), license: license.into() });
        assert_eq!(parse_crate("serde v1.0.228 (proc-macro)|MIT OR Apache-2.0"), serde("MIT OR Apache-2.0"));
        assert_eq!(parse_crate("serde v1.0.228|MIT/Apache-2.0 (*)"), serde("MIT OR Apache-2.0"));
        assert_eq!(parse_crate("serde v1.0.228|MIT / Apache-2.0"), serde("MIT OR Apache-2.0"));
        assert_eq!(parse_crate(""), None);
        assert_eq!(parse_crate("[build-dependencies]"), None);
    }
}
