//! What a record holds of one source: its object, and how the source was when it was saved.

use super::{Condition, Measure, Outcome, is_zero};
use base::evidence::Selected;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use store::ObjectKey;

/// One source in a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceRecord {
    /// `postgres` or `directory`.
    pub kind: String,
    /// What happened to it.
    pub outcome: Outcome,
    /// Why, in the dump plugin's words; or why it failed.
    pub reason: String,
    /// The fingerprint of its content, sealed with the environment's key; `None` if it could not be computed. In
    /// versions 1 and 2, the fingerprint plugin's answer.
    pub fingerprint: Option<String>,
    /// What the fingerprint is based on, in the host's words; in versions 1 and 2, in the plugin's words.
    pub basis: Option<String>,
    /// What the fingerprint plugin selected, so that the fingerprint can be computed again. Versions 1 and 2 did not
    /// record it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub selected: Vec<Selected>,
    /// A seal of each selected item, in the same order; `None` for one that changed while the object was made, which
    /// only a sequence can do. Versions before 5 did not record it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub seals: Vec<Option<String>>,
    /// The object that holds its state; `None` if the source failed.
    pub object: Option<ObjectRecord>,
    /// The server and the tool that dumped it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<DatabaseRecord>,
    /// Milliseconds that the fingerprint took; `None` if it was not computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint_millis: Option<u64>,
    /// Milliseconds from the first byte read to the last byte stored; only if this run made the object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dump_millis: Option<u64>,
    /// What the archive holds and leaves out; only if this run made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<ArchiveRecord>,
    /// How much of the source the object holds. Version 1 did not record it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub condition: Option<Condition>,
    /// Why it is not whole, one sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub doubts: Vec<String>,
    /// Which database it was: the server's `system_identifier` and the database's name. A folder has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// How much it held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measure: Option<Measure>,
}

/// An object that holds a source's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectRecord {
    /// Its key below the store's root.
    pub key: ObjectKey,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of its bytes, in lower-case hexadecimal.
    pub sha256: String,
    /// When the run that made it began.
    pub made: Timestamp,
}

/// The server and the tool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseRecord {
    /// The version that the server reports.
    pub server_version: String,
    /// The output of `pg_dump --version`.
    pub pg_dump_version: String,
    /// Size of the database on the server's disk: roughly what a restore needs. Older versions did not record it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database_bytes: Option<u64>,
    /// Notes of pg_dump when the dump was made. Older versions recorded them only in the run that made the dump,
    /// together with what is left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// What a dump of the database never contains, one sentence each, as of this run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
}

/// What an archive holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchiveRecord {
    /// Entries in it.
    pub files: u64,
    /// Bytes of their content.
    pub bytes: u64,
    /// Entries left out by the exclude patterns.
    pub excluded_files: u64,
    /// Bytes left out by the exclude patterns.
    pub excluded_bytes: u64,
    /// The patterns.
    pub exclude: Vec<String>,
    /// The first folders that the patterns left out with all their content, such as one that a user named `temp`.
    pub excluded_folders: Vec<String>,
    /// How many there are.
    pub excluded_folders_total: u64,
    /// The first files that matched a pattern themselves, such as an attachment named `server.log`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub excluded_names: Vec<String>,
    /// How many there are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub excluded_names_total: u64,
    /// The first symbolic links whose target is outside the folder, and therefore not in the archive.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links_out: Vec<String>,
    /// How many there are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub links_out_total: u64,
    /// Names of extended attributes that entries have but the archive does not keep.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub foreign_attributes: Vec<String>,
    /// How many entries could not be archived as they were.
    pub problems_total: u64,
    /// The first of them.
    pub problems: Vec<ProblemRecord>,
    /// The member index beside the archive; `None` if it could not be made. The archive is complete without it.
    pub index: Option<ObjectRecord>,
    /// Entries that exist and could not be read. Version 1 counted them among the problems.
    #[serde(default)]
    pub unreadable_total: u64,
    /// Entries that an earlier archive has below folders that could not be listed; `None` if unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub below_unreadable: Option<u64>,
    /// Entries that vanished between being listed and being read.
    #[serde(default)]
    pub vanished_total: u64,
}

/// An entry that could not be archived as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProblemRecord {
    /// Path below the root; bytes that are not valid text are escaped.
    pub path: String,
    /// Why.
    pub reason: String,
}

/// Prefix of the reason that version 1 gave for an entry that exists but could not be read.
const UNREADABLE_OF_VERSION_1: &str = "cannot be read";

impl SourceRecord {
    /// A record of a source of which nothing was stored.
    pub fn blank(kind: &str, outcome: Outcome) -> Self {
        Self {
            kind: kind.to_owned(),
            outcome,
            reason: String::new(),
            fingerprint: None,
            basis: None,
            selected: Vec::new(),
            seals: Vec::new(),
            object: None,
            database: None,
            fingerprint_millis: None,
            dump_millis: None,
            archive: None,
            condition: None,
            doubts: Vec::new(),
            identity: None,
            measure: None,
        }
    }

    /// How much of the source the object holds. Version 1 did not record it, so for an archive it follows from the
    /// problems. A carried-over object is judged by the record of the run that made it.
    pub fn condition(&self) -> Condition {
        let unreadable = |archive: &ArchiveRecord| {
            archive.problems.iter().any(|problem| problem.reason.starts_with(UNREADABLE_OF_VERSION_1))
        };
        match self.condition {
            Some(condition) => condition,
            None if self.object.is_none() => Condition::Failed,
            None if self.archive.as_ref().is_some_and(unreadable) => Condition::Partial,
            None => Condition::Whole,
        }
    }

    /// How much it held, as far as the record shows.
    pub fn measured(&self) -> Measure {
        let archived = |archive: &ArchiveRecord| Measure {
            files: Some(archive.files),
            bytes: Some(archive.bytes),
            ..Measure::default()
        };
        self.measure.or_else(|| self.archive.as_ref().map(archived)).unwrap_or_default()
    }
}
