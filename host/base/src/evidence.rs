//! Evidence of a source's content: what a plugin selected, what the host measured of it, and the seal that stands for both.
//!
//! A plugin chooses what is measured and never sees what came out: a guest that may ask, see a number and ask again can spell
//! out any text by counting the rows that begin with it. What is written down is a keyed hash, which says to whoever has two of
//! them whether they are equal, and nothing to whoever guesses.

use hmac::{Hmac, KeyInit, Mac};
use indicatif::HumanCount;
use rand::RngExt;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Version of the seal: another way to measure or to seal must not look like an unchanged source. Version 3 hashes with SHA-256, and
/// what a restore changes apart from what it does not.
const SEAL_VERSION: u32 = 3;

/// Bytes of the name of a key: two of one environment are told apart.
const NAME_BYTES: usize = 4;

/// Length of the environment's key, in bytes: what HMAC-SHA256 takes without hashing it first, and no more than its output.
const KEY_BYTES: usize = 32;

/// One thing that a plugin selected to be measured, as it is recorded.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "measure", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Selected {
    /// Everything that is defined in a database, by attributes that one dump and restore leave as they are.
    Structure,
    /// The expressions of a database as the server prints them.
    Definitions,
    /// Comments.
    Comments,
    /// Owners, rights and security labels, and what the database itself is set to.
    Rights,
    /// Every byte of the large objects.
    LargeObjects,
    /// The values of the sequences.
    Sequences {
        /// Tables whose columns' own sequences do not count, by schema.
        skip: BTreeMap<String, BTreeSet<String>>,
    },
    /// The exact content of tables.
    Content {
        /// By schema.
        schemas: BTreeMap<String, SelectedTables>,
    },
    /// Row count and greatest value of one column of tables.
    Latest {
        /// The column.
        column: String,
        /// Names of tables by schema.
        schemas: BTreeMap<String, BTreeSet<String>>,
    },
    /// What a folder's file system says of every entry.
    TreeMetadata {
        /// Patterns of what is left out, in the plugin's order.
        exclude: Vec<String>,
    },
    /// Every byte of a folder's files.
    TreeContent {
        /// Patterns of what is left out, in the plugin's order.
        exclude: Vec<String>,
    },
}

/// Tables of one schema, and which parts of them do not count.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SelectedTables {
    /// Their names.
    pub tables: BTreeSet<String>,
    /// Columns that do not count, by table.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub skip_columns: BTreeMap<String, BTreeSet<String>>,
    /// Rows that do not count, by table.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub skip_rows: BTreeMap<String, RowFilter>,
}

/// Rows to leave out: those whose text in `column` is one of `values`, or begins with one that ends in `*`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RowFilter {
    /// The column. One that the table does not have leaves out nothing.
    pub column: String,
    /// Texts, or beginnings of texts.
    pub values: BTreeSet<String>,
}

/// What was measured. It never reaches a plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measured {
    /// What was selected.
    pub selected: Selected,
    /// What was found, hashed.
    pub digest: String,
    /// How much that is.
    pub counts: Counts,
}

/// How much was measured. What a plugin could use to count by a pattern is not among it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tables.
    pub tables: u64,
    /// Those of them of which a filter left out rows.
    pub tables_in_part: u64,
    /// Rows of the others.
    pub rows: u64,
    /// Large objects.
    pub large_objects: u64,
    /// Sequences.
    pub sequences: u64,
    /// Entries of a folder that are not folders, also those that patterns leave out.
    pub files: u64,
    /// Content of the regular files among them, or of the large objects.
    pub bytes: u64,
}

/// What stands for a source's durable content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    /// `method:version:key-seal`, where `key` names the key. Equal means unchanged.
    pub value: String,
    /// What it rests on, for people.
    pub basis: String,
    /// What was selected, sorted.
    pub selected: Vec<Selected>,
    /// A seal of each of them alone, so that a comparison can say in which they differ.
    pub seals: Vec<String>,
}

impl Fingerprint {
    /// Whether another one was sealed with the same key.
    #[must_use]
    pub fn is_sealed_as(&self, other: &str) -> bool {
        let seal = |value: &str| value.rsplit(':').next().and_then(|seal| Some(seal.split_once('-')?.0.to_owned()));
        seal(&self.value) == seal(other)
    }
}

/// The key that an environment's fingerprints are sealed with. It lies in the environment's file; no plugin sees it, and it is
/// never shown.
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
        let wrong = || serde::de::Error::custom(format!("the key is not {KEY_BYTES} bytes in hexadecimal"));
        hex::decode_to_slice(text, &mut key).map_err(|_| wrong())?;
        Ok(Self(key))
    }
}

impl SealKey {
    /// A new one, drawn by the operating system's generator.
    #[must_use]
    pub fn draw() -> Self {
        let mut key = [0; KEY_BYTES];
        rand::rng().fill(&mut key);
        Self(key)
    }

    /// What tells keys apart, and says nothing of one.
    #[must_use]
    pub fn name(&self) -> String {
        let hash = <Sha256 as sha2::Digest>::digest([b"name of a key", self.0.as_slice()].concat());
        hex::encode(hash.first_chunk::<NAME_BYTES>().unwrap_or(&[0; NAME_BYTES]))
    }

    /// A name for a value that nobody without the key can guess it by; the same value has the same one.
    #[must_use]
    pub fn pseudonym(&self, value: &str) -> String {
        let mut mac = mac_of(&self.0);
        // No seal of a fingerprint begins with this length.
        mac.update(&u64::MAX.to_be_bytes());
        mac.update(value.as_bytes());
        hex::encode(mac.finalize().into_bytes()).chars().take(2 * NAME_BYTES).collect()
    }

    /// Whether a fingerprint was sealed as this version does it.
    #[must_use]
    pub fn is_current(fingerprint: &str) -> bool {
        fingerprint.rsplit(':').nth(1) == Some(SEAL_VERSION.to_string().as_str())
    }

    /// Whether a fingerprint was sealed with this key.
    #[must_use]
    pub fn sealed(&self, fingerprint: &str) -> bool {
        let seal = fingerprint.rsplit(':').next().unwrap_or_default();
        seal.split_once('-').is_some_and(|(name, _)| name == self.name())
    }

    /// What stands for everything that was measured, whatever the order in which the plugin handed it back.
    #[must_use]
    pub fn seal(&self, mut measured: Vec<Measured>) -> Fingerprint {
        measured.sort_by(|a, b| a.selected.cmp(&b.selected));
        measured.dedup_by(|a, b| a.selected == b.selected);
        let mut mac = mac_of(&self.0);
        let mut seals = Vec::new();
        for one in &measured {
            let mut own = mac_of(&self.0);
            // Borders count, so that no two different lists are the same bytes.
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
    /// How many tables it names.
    #[must_use]
    pub fn tables(&self) -> u64 {
        let tables = match self {
            Self::Content { schemas } => schemas.values().map(|schema| schema.tables.len()).sum(),
            Self::Latest { schemas, .. } => schemas.values().map(BTreeSet::len).sum(),
            _ => 0,
        };
        tables as u64
    }

    /// As the record spells it.
    #[must_use]
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

    /// For people, in the plural.
    #[must_use]
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

    /// As JSON: the same text for the same selection, because everything in it has one order.
    #[must_use]
    pub fn canonical(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Columns by whose values rows are left out, as `schema.table#column`.
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
    /// What was measured, in the host's words; none of definitions, which every basis of a database has.
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
    fn a_seal_depends_on_the_key_the_selection_and_what_was_found() {
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
    fn neither_the_order_nor_a_repetition_of_measures_says_anything() {
        let key = SealKey::draw();
        let (a, b) = (folder(&[], "x"), folder(&["*.log"], "y"));
        let sealed = key.seal(vec![a.clone(), b.clone()]);
        assert_eq!(key.seal(vec![b.clone(), a.clone()]), sealed);
        assert_eq!(key.seal(vec![b.clone(), a, b]), sealed);
    }

    #[test]
    fn the_basis_is_in_the_hosts_words_and_counts_nothing_that_a_pattern_chose() {
        let key = SealKey::draw();
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
    fn a_key_is_written_and_read_back_and_never_shown() {
        let key = SealKey::draw();
        let text = serde_json::to_string(&key).unwrap();
        assert_eq!(text.len(), 2 * KEY_BYTES + 2);
        assert_eq!(serde_json::from_str::<SealKey>(&text).unwrap(), key);
        assert!(!format!("{key:?}").contains(&text[1..9]));
        assert_ne!(SealKey::draw(), key);
        for wrong in ["\"\"", "\"00\"", "5", &text.replace('"', "\"0")] {
            assert!(serde_json::from_str::<SealKey>(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn what_was_selected_is_read_back_as_it_was(
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
