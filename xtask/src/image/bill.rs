//! The bill of materials: CycloneDX, with every Debian package, every crate of the host and of the plugins, and every
//! component, each with its version and digest where there is one.

use super::debian::Package;
use crate::machine;
use crate::run::{failure, quiet};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;

/// What the bill names itself by.
pub struct Subject<'a> {
    pub name: &'a str,
    pub version: &'a str,
    pub created: &'a str,
}

/// The whole bill as JSON.
///
/// # Errors
/// When Cargo does not say what the binary is made of.
pub fn bill(subject: &Subject, packages: &[Package], components: &[(String, Vec<u8>)]) -> Result<Vec<u8>> {
    let debian = packages.iter().map(|package| {
        let version = package.version.replace(':', "%3A").replace('+', "%2B");
        let purl = format!("pkg:deb/debian/{}@{version}?arch={}", package.name, package.architecture);
        json!({
            "type": "library", "bom-ref": purl, "name": package.name, "version": package.version, "purl": purl,
            "hashes": [{"alg": "SHA-256", "content": package.sha256}],
        })
    });
    let crates = crates()?.into_iter().map(|Crate { name, version, license }| {
        let purl = format!("pkg:cargo/{name}@{version}");
        json!({
            "type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl,
            "licenses": [{"expression": license}],
        })
    });
    let plugins = components.iter().map(|(name, content)| {
        json!({
            "type": "file", "bom-ref": format!("plugin:{name}"), "name": name, "version": subject.version,
            "hashes": [{"alg": "SHA-256", "content": hex::encode(Sha256::digest(content))}],
        })
    });
    let all: Vec<Value> = debian.chain(crates).chain(plugins).collect();
    let bill = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": subject.created,
            "component": {
                "type": "container", "bom-ref": "image", "name": subject.name, "version": subject.version,
            },
        },
        "components": all,
    });
    serde_json::to_vec_pretty(&bill).context("cannot write the bill of materials")
}

/// One crate, with its licence as an SPDX expression.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Crate {
    name: String,
    version: String,
    license: String,
}

/// The crates that the host and the plugins are made of, from `Cargo.lock` as Cargo resolves it.
fn crates() -> Result<BTreeSet<Crate>> {
    let mut tree = machine::cargo();
    tree.args(["tree", "--locked", "--workspace", "--exclude", "tests", "--exclude", "xtask"]);
    tree.args(["--edges", "normal", "--prefix", "none", "--format", "{p}|{l}"]);
    let text = quiet(&mut tree, "check that Cargo.lock is as the manifests ask for")?;
    let crates: BTreeSet<_> = text.lines().filter_map(named).collect();
    if crates.is_empty() {
        return Err(failure("Cargo names no crate of the binary", "run `cargo tree` by hand"));
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
        let crates = crates().expect("what Cargo says");
        let has = |name: &str| crates.iter().any(|one| one.name == name);
        assert!(has("wasmtime") && has("aws-sdk-s3") && has("dolibarr-backup") && has("retention-tiered"));
        assert!(!has("oci-spec-of-nobody") && !has("xtask") && !has("proptest"));
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
