//! Evidence of a source's content: what a plugin selected, what the host measured, and the seal over both.
//!
//! A plugin chooses what to measure but never sees the result. A guest that could query counts repeatedly could
//! reconstruct any text by counting the rows that begin with each prefix. Only a keyed hash is recorded: it shows
//! whether two measurements are equal, and cannot be used to test guesses without the key.

use hmac::{Hmac, KeyInit, Mac};
use indicatif::HumanCount;
use rand::RngExt;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Version of the seal. It changes with the method of measuring or sealing, so that old and new fingerprints never
/// compare as equal. Version 3 uses SHA-256, and hashes what a restore changes separately from the rest.
const SEAL_VERSION: u32 = 3;

/// Bytes of a key's name: enough to distinguish the keys of one environment.
const NAME_BYTES: usize = 4;

/// Length of the environment's key, in bytes: the output size of HMAC-SHA256, short enough to be used without hashing.
const KEY_BYTES: usize = 32;

/// One measure that a plugin selected, as it is recorded.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "measure", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Selected {
    /// Every definition in a database, by attributes that a dump and restore preserve.
    Structure,
    /// The expressions in a database, as the server prints them.
    Definitions,
    /// Comments.
    Comments,
    /// Owners, privileges, security labels, and the settings of the database.
    Rights,
    /// Every byte of the large objects.
    LargeObjects,
    /// The values of sequences.
    Sequences {
        /// Tables, by schema, whose columns' own sequences are left out.
        skip: BTreeMap<String, BTreeSet<String>>,
    },
    /// The exact content of tables.
    Content {
        /// Tables by schema.
        schemas: BTreeMap<String, SelectedTables>,
    },
    /// The row count of tables, and the greatest value of one column.
    Latest {
        /// The column.
        column: String,
        /// Names of tables by schema.
        schemas: BTreeMap<String, BTreeSet<String>>,
    },
    /// The file system's metadata of every entry in a folder.
    TreeMetadata {
        /// Patterns of excluded paths, in the plugin's order.
        exclude: Vec<String>,
    },
    /// Every byte of the files in a folder.
    TreeContent {
        /// Patterns of excluded paths, in the plugin's order.
        exclude: Vec<String>,
    },
}

/// Tables of one schema, and the parts of them that are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SelectedTables {
    /// Names of the tables.
    pub tables: BTreeSet<String>,
    /// Columns to leave out, by table.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub skip_columns: BTreeMap<String, BTreeSet<String>>,
    /// Rows to leave out, by table.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub skip_rows: BTreeMap<String, RowFilter>,
}

/// Rows to leave out: those whose text in `column` equals one of `values`, or begins with a value that ends in `*`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RowFilter {
    /// The column. If the table does not have it, no row is left out.
    pub column: String,
    /// Exact texts, or prefixes that end in `*`.
    pub values: BTreeSet<String>,
}

/// The result of a measurement. It never reaches a plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measured {
    /// What was selected.
    pub selected: Selected,
    /// Hash of the content.
    pub digest: String,
    /// How much was measured.
    pub counts: Counts,
}

/// How much was measured. It contains no count that depends on a plugin's pattern or filter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tables.
    pub tables: u64,
    /// Tables in which a filter left out rows.
    pub tables_in_part: u64,
    /// Rows of the tables without a filter.
    pub rows: u64,
    /// Large objects.
    pub large_objects: u64,
    /// Sequences.
    pub sequences: u64,
    /// Entries of a folder that are not folders, including those that patterns exclude.
    pub files: u64,
    /// Total size of the regular files among them, or of the large objects.
    pub bytes: u64,
}

/// Identifies a source's durable content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    /// `methods:version:key-seal`, where `key` is the name of the key. Equal values mean unchanged content.
    pub value: String,
    /// What it is based on, for people.
    pub basis: String,
    /// What was selected, sorted.
    pub selected: Vec<Selected>,
    /// A seal for each selection, so that a comparison can say which ones differ.
    pub seals: Vec<String>,
}

impl Fingerprint {
    /// Whether another fingerprint was sealed with the same key.
    pub fn is_sealed_as(&self, other: &str) -> bool {
        let key = |value: &str| value.rsplit(':').next().and_then(|seal| Some(seal.split_once('-')?.0.to_owned()));
        key(&self.value) == key(other)
    }
}

/// The key that seals an environment's fingerprints. It is stored in the environment's file, and is never shown or
/// given to a plugin.
#[derive(Clone, PartialEq, Eq)]
pub struct SealKey([u8; KEY_BYTES]);

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey(redacted)")
    }
}

impl Serialize for SealKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(self.0))
    }
}

impl<'de> Deserialize<'de> for SealKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut key = [0; KEY_BYTES];
        let invalid = || serde::de::Error::custom(format!("the key is not {KEY_BYTES} bytes in hexadecimal"));
        hex::decode_to_slice(text, &mut key).map_err(|_| invalid())?;
        Ok(Self(key))
    }
}

impl SealKey {
    /// A new random key.
    pub fn generate() -> Self {
        let mut key = [0; KEY_BYTES];
        rand::rng().fill(&mut key);
        Self(key)
    }

    /// A name that distinguishes keys without revealing anything about them.
    pub fn name(&self) -> String {
        let hash = <Sha256 as sha2::Digest>::digest([b"name of a key", self.0.as_slice()].concat());
        hex::encode(hash.first_chunk::<NAME_BYTES>().unwrap_or(&[0; NAME_BYTES]))
    }

    /// A stable pseudonym for a value. Without the key, it cannot be linked to the value.
    pub fn pseudonym(&self, value: &str) -> String {
        let mut mac = mac_of(&self.0);
        // No fingerprint's seal begins with this length, so a pseudonym never equals one.
        mac.update(&u64::MAX.to_be_bytes());
        mac.update(value.as_bytes());
        hex::encode(mac.finalize().into_bytes()).chars().take(2 * NAME_BYTES).collect()
    }

    /// Whether a fingerprint has this version's seal.
    pub fn is_current(fingerprint: &str) -> bool {
        fingerprint.rsplit(':').nth(1) == Some(SEAL_VERSION.to_string().as_str())
    }

    /// Whether a fingerprint was sealed with this key.
    pub fn sealed(&self, fingerprint: &str) -> bool {
        let seal = fingerprint.rsplit(':').next().unwrap_or_default();
        seal.split_once('-').is_some_and(|(name, _)| name == self.name())
    }

    /// The fingerprint of everything that was measured. It does not depend on the order of the measurements.
    pub fn seal(&self, mut measured: Vec<Measured>) -> Fingerprint {
        measured.sort_by(|a, b| a.selected.cmp(&b.selected));
        measured.dedup_by(|a, b| a.selected == b.selected);
        let mut mac = mac_of(&self.0);
        let mut seals = Vec::new();
        for one in &measured {
            let mut own = mac_of(&self.0);
            // Each part is preceded by its length, so that different lists never give the same bytes.
            for part in [one.selected.canonical().as_bytes(), one.digest.as_bytes()] {
                for mac in [&mut mac, &mut own] {
                    mac.update(&(part.len() as u64).to_be_bytes());
                    mac.update(part);
                }
            }
            seals.push(hex::encode(own.finalize().into_bytes()));
        }
        let methods: BTreeSet<&str> = measured.iter().map(|one| one.selected.name()).collect();
        let methods = methods.into_iter().collect::<Vec<_>>().join("+");
        let basis = measured.iter().filter_map(Measured::basis).collect::<Vec<_>>().join("; ");
        Fingerprint {
            value: format!("{methods}:{SEAL_VERSION}:{}-{}", self.name(), hex::encode(mac.finalize().into_bytes())),
            basis: if basis.is_empty() { "definitions alone".to_owned() } else { basis },
            selected: measured.into_iter().map(|one| one.selected).collect(),
            seals,
        }
    }
}

fn mac_of(key: &[u8]) -> Hmac<Sha256> {
    #[expect(clippy::expect_used, reason = "HMAC takes a key of any length")]
    Hmac::<Sha256>::new_from_slice(key).expect("a key")
}

impl Selected {
    /// The number of tables that it names.
    pub fn tables(&self) -> u64 {
        let tables = match self {
            Self::Content { schemas } => schemas.values().map(|schema| schema.tables.len()).sum(),
            Self::Latest { schemas, .. } => schemas.values().map(BTreeSet::len).sum(),
            _ => 0,
        };
        tables as u64
    }

    /// The name of the measure in records.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Structure => "structure",
            Self::Definitions => "definitions",
            Self::Comments => "comments",
            Self::Rights => "rights",
            Self::LargeObjects => "large-objects",
            Self::Sequences { .. } => "sequences",
            Self::Content { .. } => "content",
            Self::Latest { .. } => "latest",
            Self::TreeMetadata { .. } => "tree-metadata",
            Self::TreeContent { .. } => "tree-content",
        }
    }

    /// What is measured, as a plural for messages.
    pub const fn describe(&self) -> &'static str {
        match self {
            Self::Structure => "structures",
            Self::Definitions => "definitions",
            Self::Comments => "comments",
            Self::Rights => "rights",
            Self::LargeObjects => "large objects",
            Self::Sequences { .. } => "sequences",
            Self::Content { .. } => "rows",
            Self::Latest { .. } => "newest rows",
            Self::TreeMetadata { .. } | Self::TreeContent { .. } => "files",
        }
    }

    /// Canonical JSON: equal selections give equal text, because every collection in it is ordered.
    pub fn canonical(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Columns of row filters, as `schema.table#column`.
    pub fn filtered_columns(&self) -> impl Iterator<Item = String> {
        let schemas = match self {
            Self::Content { schemas } => Some(schemas),
            _ => None,
        };
        schemas.into_iter().flatten().flat_map(|(schema, tables)| {
            tables.skip_rows.iter().map(move |(table, filter)| format!("{schema}.{table}#{}", filter.column))
        })
    }
}

impl Measured {
    /// What was measured, in the host's words; `None` for definitions, which are part of every database's basis.
    fn basis(&self) -> Option<String> {
        let Counts { tables, tables_in_part, rows, large_objects, sequences, files, bytes } = self.counts;
        let (tables, rows) = (HumanCount(tables), HumanCount(rows));
        match &self.selected {
            Selected::Structure | Selected::Definitions | Selected::Comments | Selected::Rights => None,
            Selected::LargeObjects if large_objects == 0 => None,
            Selected::Sequences { .. } if sequences == 0 => None,
            Selected::LargeObjects => {
                Some(format!("{} large objects, {} bytes", HumanCount(large_objects), HumanCount(bytes)))
            }
            Selected::Sequences { .. } => Some(format!("{} sequences", HumanCount(sequences))),
            Selected::Content { .. } if tables_in_part > 0 => Some(format!(
                "content of {tables} tables, {} of them in part, {rows} rows in the others",
                HumanCount(tables_in_part)
            )),
            Selected::Content { .. } => Some(format!("content of {tables} tables, {rows} rows")),
            Selected::Latest { column, .. } => {
                Some(format!("row count and newest {} of {tables} tables, {rows} rows", crate::text::printable(column)))
            }
            Selected::TreeMetadata { exclude } | Selected::TreeContent { exclude } => {
                let what = if matches!(self.selected, Selected::TreeContent { .. }) { "content" } else { "metadata" };
                let part = if exclude.is_empty() { "" } else { "a part of " };
                Some(format!("{what} of {part}{} files, {} bytes", HumanCount(files), HumanCount(bytes)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn folder(exclude: &[&str], digest: &str) -> Measured {
        let exclude = exclude.iter().map(|&glob| glob.to_owned()).collect();
        let selected = Selected::TreeMetadata { exclude };
        Measured { selected, digest: digest.to_owned(), counts: Counts { files: 1_234, bytes: 5, ..Counts::default() } }
    }

    fn content(filter: Option<&str>) -> Measured {
        let skip_rows = filter.map(|value| {
            ("llx_const".to_owned(), RowFilter { column: "name".to_owned(), values: [value.to_owned()].into() })
        });
        let tables = SelectedTables {
            tables: ["llx_const".to_owned(), "llx_facture".to_owned()].into(),
            skip_rows: skip_rows.into_iter().collect(),
            ..SelectedTables::default()
        };
        Measured {
            selected: Selected::Content { schemas: [("public".to_owned(), tables)].into() },
            digest: "d".to_owned(),
            counts: Counts { tables: 2, tables_in_part: filter.map_or(0, |_| 1), rows: 30_112, ..Counts::default() },
        }
    }

    #[test]
    fn a_seal_depends_on_the_key_the_selection_and_the_content() {
        let (key, other) = (SealKey([1; KEY_BYTES]), SealKey([2; KEY_BYTES]));
        let value = |key: &SealKey, measured: Vec<Measured>| key.seal(measured).value;
        let sealed = value(&key, vec![folder(&["temp/"], "x")]);
        assert_eq!(sealed, value(&key, vec![folder(&["temp/"], "x")]));
        assert!(
            sealed.starts_with("tree-metadata:3:") && sealed.len() == "tree-metadata:3:".len() + 9 + 64,
            "{sealed}"
        );
        assert!(key.sealed(&sealed) && !other.sealed(&sealed) && !key.sealed("tree-metadata:3:00"));
        for different in [
            value(&other, vec![folder(&["temp/"], "x")]),
            value(&key, vec![folder(&["temp/"], "y")]),
            value(&key, vec![folder(&[], "x")]),
            value(&key, vec![folder(&["temp/"], "x"), folder(&[], "x")]),
            value(&key, vec![content(None)]),
            value(&key, vec![content(Some("A*"))]),
        ] {
            assert_ne!(different, sealed);
        }
    }

    #[test]
    fn order_and_repetition_of_measures_do_not_matter() {
        let key = SealKey::generate();
        let (a, b) = (folder(&[], "x"), folder(&["*.log"], "y"));
        let sealed = key.seal(vec![a.clone(), b.clone()]);
        assert_eq!(key.seal(vec![b.clone(), a.clone()]), sealed);
        assert_eq!(key.seal(vec![b.clone(), a, b]), sealed);
    }

    #[test]
    fn the_basis_is_in_the_hosts_words_and_ignores_a_plugins_patterns() {
        let key = SealKey::generate();
        let definitions =
            Measured { selected: Selected::Definitions, digest: String::new(), counts: Counts::default() };
        assert_eq!(key.seal(vec![definitions.clone()]).basis, "definitions alone");
        let whole = key.seal(vec![content(None), definitions]);
        assert_eq!(whole.basis, "content of 2 tables, 30,112 rows");
        assert!(whole.value.starts_with("content+definitions:3:"), "{}", whole.value);
        let part = key.seal(vec![content(Some("Müller*"))]);
        assert_eq!(part.basis, "content of 2 tables, 1 of them in part, 30,112 rows in the others");
        assert_eq!(key.seal(vec![folder(&[], "a")]).basis, "metadata of 1,234 files, 5 bytes");
        assert_eq!(key.seal(vec![folder(&["M*"], "a")]).basis, "metadata of a part of 1,234 files, 5 bytes");
        assert_eq!(part.selected[0].filtered_columns().collect::<Vec<_>>(), ["public.llx_const#name"]);
    }

    #[test]
    fn a_key_survives_serialisation_and_is_never_shown() {
        let key = SealKey::generate();
        let text = serde_json::to_string(&key).unwrap();
        assert_eq!(text.len(), 2 * KEY_BYTES + 2);
        assert_eq!(serde_json::from_str::<SealKey>(&text).unwrap(), key);
        assert!(!format!("{key:?}").contains(&text[1..9]));
        assert_ne!(SealKey::generate(), key);
        for invalid in ["\"\"", "\"00\"", "5", &text.replace('"', "\"0")] {
            assert!(serde_json::from_str::<SealKey>(invalid).is_err(), "{invalid}");
        }
    }

    proptest! {
        #[test]
        fn a_selection_survives_serialisation(
            column in ".{1,8}",
            names in prop::collection::btree_set("[a-zé\".]{1,6}", 0..4),
            values in prop::collection::btree_set(".{0,6}", 0..4),
        ) {
            let tables = SelectedTables {
                tables: names.clone(),
                skip_columns: names.iter().map(|name| (name.clone(), values.clone())).collect(),
                skip_rows: names.iter().map(|name| (name.clone(), RowFilter { column: column.clone(), values: values.clone() })).collect(),
            };
            for selected in [
                Selected::Definitions,
                Selected::Content { schemas: [("public".to_owned(), tables)].into() },
                Selected::Latest { column, schemas: [("x".to_owned(), names)].into() },
                Selected::TreeMetadata { exclude: values.iter().cloned().collect() },
                Selected::TreeContent { exclude: values.into_iter().collect() },
            ] {
                prop_assert_eq!(serde_json::from_str::<Selected>(&selected.canonical()).unwrap(), selected);
            }
        }
    }
}
