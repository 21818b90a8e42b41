//! Bills of materials: CycloneDX, of the image, of the binary and of each component, with everything that went in, its version, licence and
//! digest where there is one.

use crate::machine::{self, WASM_TARGET};
use crate::run::{failure, quiet};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;

/// What a bill is of.
pub struct Subject<'a> {
    /// As CycloneDX names kinds: `container`, `application`.
    pub kind: &'a str,
    pub name: &'a str,
    pub version: &'a str,
    /// A moment as text, in UTC.
    pub created: &'a str,
    /// None for an image, which holds its bill itself.
    pub content: Option<&'a [u8]>,
}

/// A whole bill as JSON.
///
/// # Errors
/// When it cannot be written as JSON.
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

/// A component as part of something, by the name of its file.
pub fn component(name: &str, version: &str, content: &[u8]) -> Value {
    json!({
        "type": "file", "bom-ref": format!("plugin:{name}"), "name": name, "version": version,
        "hashes": [hash(content)],
    })
}

fn hash(content: &[u8]) -> Value {
    json!({"alg": "SHA-256", "content": hex::encode(Sha256::digest(content))})
}

/// Whose crates are asked for.
#[derive(Debug, Clone, Copy)]
pub enum Of<'a> {
    /// The host and every plugin.
    Image,
    /// The host alone.
    Binary,
    /// One plugin, by the name of its package.
    Plugin(&'a str),
}

/// The crates that something is made of, from `Cargo.lock` as Cargo resolves it.
///
/// # Errors
/// When Cargo does not say, or knows no such package.
pub fn crates(of: Of<'_>) -> Result<Vec<Value>> {
    let value = |Crate { name, version, license }: Crate| {
        let purl = format!("pkg:cargo/{name}@{version}");
        json!({
            "type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl,
            "licenses": [{"expression": license}],
        })
    };
    Ok(resolved(of)?.into_iter().map(value).collect())
}

/// One crate, with its licence as an SPDX expression.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Crate {
    name: String,
    version: String,
    license: String,
}

fn resolved(of: Of<'_>) -> Result<BTreeSet<Crate>> {
    let mut tree = machine::cargo();
    tree.args(["tree", "--locked", "--edges", "normal", "--prefix", "none", "--format", "{p}|{l}"]);
    match of {
        Of::Image => tree.args(["--workspace", "--exclude", "tests", "--exclude", "xtask"]),
        Of::Binary => tree.args(["--package", "dolibarr-backup"]),
        Of::Plugin(name) => tree.args(["--package", name, "--target", WASM_TARGET]),
    };
    let text = quiet(&mut tree, "check that Cargo.lock is as the manifests ask for")?;
    let crates: BTreeSet<_> = text.lines().filter_map(named).collect();
    if crates.is_empty() {
        return Err(failure(format_args!("Cargo names no crate of {of:?}"), "run `cargo tree` by hand"));
    }
    Ok(crates)
}

/// Reads `serde v1.0.228 (proc-macro)|MIT OR Apache-2.0`. Older manifests separate licences by a slash.
fn named(line: &str) -> Option<Crate> {
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
        let has = |of: Of<'_>, name: &str| {
            let crates = resolved(of).expect("what Cargo says");
            crates.iter().any(|one| one.name == name)
        };
        for name in ["wasmtime", "aws-sdk-s3", "dolibarr-backup", "retention-tiered"] {
            assert!(has(Of::Image, name), "{name}");
        }
        for name in ["oci-spec-of-nobody", "xtask", "proptest"] {
            assert!(!has(Of::Image, name), "{name}");
        }
        assert!(has(Of::Binary, "wasmtime") && !has(Of::Binary, "retention-tiered"));
        let plugin = Of::Plugin("retention-tiered");
        assert!(has(plugin, "wit-bindgen") && has(plugin, "retention-tiered") && !has(plugin, "wasmtime"));
        assert!(resolved(Of::Plugin("retention-of-nobody")).is_err());
    }

    #[test]
    fn a_line_of_cargo_names_a_crate() {
        let serde =
            |license: &str| Some(Crate { name: "serde".into(), version: "1.0.228".into(), license: license.into() });
        assert_eq!(named("serde v1.0.228 (proc-macro)|MIT OR Apache-2.0"), serde("MIT OR Apache-2.0"));
        assert_eq!(named("serde v1.0.228|MIT/Apache-2.0 (*)"), serde("MIT OR Apache-2.0"));
        assert_eq!(named("serde v1.0.228|MIT / Apache-2.0"), serde("MIT OR Apache-2.0"));
        assert_eq!(named(""), None);
        assert_eq!(named("[build-dependencies]"), None);
    }
}
