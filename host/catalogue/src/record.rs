//! Snapshots: the record of one run, as it is stored for ten years.
//!
//! The types here are the persisted format and nothing else. A record is immutable; it names the one before it by
//! id and hash, so that a missing, edited or re-ordered record shows.

use base::error::{Error, Result};
use base::evidence::Selected;
use base::id::SnapshotId;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use store::ObjectKey;

/// Version of the record's format. A field that is added, dropped or read differently raises it. Version 2 added the
/// condition of each source, what was measured of it, and the store's time; version 3 what its fingerprint rests on; version 4 what its run found ahead; version 5 a seal of each
/// measure, and what pg_dump remarked.
pub const FORMAT_VERSION: u32 = 5;

/// The record of one run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// See [`FORMAT_VERSION`].
    pub format_version: u32,
    /// The run.
    pub id: SnapshotId,
    /// The environment it belongs to.
    pub environment: String,
    /// When the run began.
    pub started: Timestamp,
    /// When the record was written.
    pub finished: Timestamp,
    /// The business time zone of that day, an IANA name.
    pub time_zone: String,
    /// Version of the host.
    pub host_version: String,
    /// Whether every source is restorable from it.
    pub complete: bool,
    /// What each source was.
    pub sources: BTreeMap<String, SourceRecord>,
    /// What each plugin was and did.
    pub plugins: Vec<PluginRecord>,
    /// What the run warned of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// The time by the store when the run began. Version 1 did not record it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_time: Option<Timestamp>,
    /// Why the time of this run is not to be trusted; none where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_doubt: Option<ClockDoubt>,
    /// Snapshots with a later time than a run that found them there: this run or an earlier one.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub met_ahead: BTreeSet<SnapshotId>,
    /// The version of the environment's file that the run went by, by its stamp.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment_file: Option<SnapshotId>,
    /// SHA-256 of that version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment_sha256: Option<String>,
    /// The other records that are there and that none names any more, because those that did are forgotten or in the bin: so an edit or
    /// a loss of any record shows against another one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub witnessed: Vec<Previous>,
    /// The record before this one.
    pub previous: Option<Previous>,
}

/// A link of the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Previous {
    /// The record before.
    pub id: SnapshotId,
    /// SHA-256 of its bytes.
    pub sha256: String,
}

/// Why the moment that a run takes for the present may be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum ClockDoubt {
    /// The machine's clock and the store's differ by so many seconds; positive where the machine's is ahead.
    Skew {
        /// The machine's time less the store's.
        seconds: i64,
    },
    /// Nothing was recorded for so long that the clock may have jumped ahead.
    Gap {
        /// The newest moment that was known.
        newest: SnapshotId,
    },
    /// Something that is known is from the future.
    Behind {
        /// The newest moment that was known.
        newest: SnapshotId,
    },
}

impl ClockDoubt {
    /// Whether the run may stand at a wrong place among the others. A gap says only that it came late.
    #[must_use]
    pub const fn misplaces(self) -> bool {
        matches!(self, Self::Skew { .. } | Self::Behind { .. })
    }
}

/// How much of a source its object holds. One word for a snapshot is the worst of its sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    /// All that was to be read was read.
    Whole,
    /// Entries that exist could not be read.
    Partial,
    /// All was read, but it is another thing than before, or most of what was there before is gone.
    Suspect,
    /// There is no object.
    Failed,
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Whole => "whole",
            Self::Partial => "partial",
            Self::Suspect => "suspect",
            Self::Failed => "failed",
        })
    }
}

/// How much a source held, as far as it was counted. What one run counts is compared with what an earlier one counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measure {
    /// Entries of a folder that are not folders.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<u64>,
    /// Content of the regular files among them, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Tables of a database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tables: Option<u64>,
    /// Rows of the tables that the fingerprint counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
}

/// What became of a source in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Dumped to a new object.
    Saved,
    /// Carried over: the object of an earlier run still holds its state.
    Unchanged,
    /// An object without a record, as another tool left it.
    Adopted,
    /// Neither dumped nor carried over.
    Failed,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Saved => "saved",
            Self::Unchanged => "unchanged",
            Self::Adopted => "adopted",
            Self::Failed => "failed",
        })
    }
}

/// One source in a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceRecord {
    /// `postgres` or `directory`.
    pub kind: String,
    /// What became of it.
    pub outcome: Outcome,
    /// Why, in the dump plugin's words, or the failure.
    pub reason: String,
    /// What stands for its content, sealed with the environment's key; none where nothing could be measured. In versions 1 and 2,
    /// what the fingerprint plugin said.
    pub fingerprint: Option<String>,
    /// What the fingerprint rests on, in the host's words; in versions 1 and 2, in the plugin's.
    pub basis: Option<String>,
    /// What the fingerprint plugin selected, so that the same can be measured again. Versions 1 and 2 did not record it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub selected: Vec<Selected>,
    /// A seal of each of them alone, in their order; none of what changed while the object was made, which only a sequence can. Versions
    /// before 5 did not record it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub seals: Vec<Option<String>>,
    /// The object that holds its state; none where it failed.
    pub object: Option<ObjectRecord>,
    /// The server and the tool that dumped it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<DatabaseRecord>,
    /// Milliseconds that the fingerprint took; none where there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint_millis: Option<u64>,
    /// Milliseconds that the object took, from the first byte read to the last one stored; only where one was made in this run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dump_millis: Option<u64>,
    /// What the archive holds and leaves out; only where one was made in this run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<ArchiveRecord>,
    /// How much of the source the object holds. Version 1 did not record it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub condition: Option<Condition>,
    /// Why it is not whole, a sentence each.
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
    /// As the server names its version.
    pub server_version: String,
    /// As `pg_dump --version` prints it.
    pub pg_dump_version: String,
    /// Size of the database on the server's disk: what a restore needs, about. Older versions did not record it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database_bytes: Option<u64>,
    /// What pg_dump remarked when the dump was made. Older versions recorded it only in the run that made the dump, with what
    /// is left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// What no dump of the database has, a sentence each, as it was in this run.
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
    /// Bytes left out by them.
    pub excluded_bytes: u64,
    /// The patterns.
    pub exclude: Vec<String>,
    /// The first folders that the patterns left out with all that is in them, such as one that a user named `temp`.
    pub excluded_folders: Vec<String>,
    /// How many there are.
    pub excluded_folders_total: u64,
    /// The first files that matched a pattern themselves, such as an attachment named `server.log`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub excluded_names: Vec<String>,
    /// How many there are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub excluded_names_total: u64,
    /// The first symbolic links whose target lies outside of the folder, and so in no archive of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links_out: Vec<String>,
    /// How many there are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub links_out_total: u64,
    /// Names of extended attributes that entries have and the archive does not keep.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub foreign_attributes: Vec<String>,
    /// How many entries could not be archived as they were.
    pub problems_total: u64,
    /// The first of them, by path and reason.
    pub problems: Vec<ProblemRecord>,
    /// The member index beside the archive; none where it could not be made. The archive is whole without it.
    pub index: Option<ObjectRecord>,
    /// Entries that exist and could not be read. Version 1 counted them among the problems.
    #[serde(default)]
    pub unreadable_total: u64,
    /// Entries that an earlier archive has below folders that could not be listed; none where nobody knows.
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
    /// Below the root; bytes that are no text are escaped.
    pub path: String,
    /// Why.
    pub reason: String,
}

/// What a plugin was and did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PluginRecord {
    /// Its role in the configuration.
    pub name: String,
    /// The component, as the configuration names it.
    pub component: String,
    /// SHA-256 of the component.
    pub sha256: String,
    /// What it was granted.
    pub grants: Vec<String>,
    /// SHA-256 of its settings as JSON: whether two of its answers can be compared. Older versions did not record it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings_sha256: Option<String>,
    /// What it did with that.
    pub tally: Vec<TallyRecord>,
}

/// How often one function was called with one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TallyRecord {
    /// `interface.function`.
    pub function: String,
    /// `environment/source`.
    pub scope: String,
    /// Calls.
    pub calls: u64,
    /// What they asked for many of at once: tables that were selected, rows or documents that were handed over. Older versions
    /// did not count it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub items: u64,
    /// Bytes that the host moved for it.
    pub bytes: u64,
}

/// For what older versions did not count.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out a reference")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// The certificate of a snapshot that is in the bin, or forgotten: it is in the bin for as long as its record is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// See [`FORMAT_VERSION`].
    pub format_version: u32,
    /// The snapshot.
    pub id: SnapshotId,
    /// Its environment.
    pub environment: String,
    /// SHA-256 of its record; none for an adopted snapshot, which had none.
    pub record_sha256: Option<String>,
    /// The link to the record before it, so that the chain can be followed across it.
    pub previous: Option<Previous>,
    /// As in its record: one that was made behind later ones has no place in the order of the chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_doubt: Option<ClockDoubt>,
    /// Objects that it refers to: only these are explained by this certificate. Version 1 named those of adopted snapshots alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub objects: Vec<ObjectKey>,
    /// When it was put in the bin; in version 1, when it was forgotten.
    pub forgotten: Timestamp,
    /// When it may be deleted at the earliest, by the store's time. Version 1 had no bin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<Timestamp>,
    /// SHA-256 of the retention plugin that planned it.
    pub plugin_sha256: String,
    /// The plan's reasons.
    pub reasons: Vec<String>,
    /// What the plugins did in the run, as its record had it: who looks back later finds it here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plugins: Vec<PluginRecord>,
    /// What the retention plugin did when it planned that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub planned_by: Option<PluginRecord>,
}

/// The one field that every version of a record has.
#[derive(Deserialize)]
struct Versioned {
    format_version: u32,
}

/// How version 1 began the reason of an entry that exists and could not be read.
const UNREADABLE_OF_VERSION_1: &str = "cannot be read";

impl SourceRecord {
    /// How much of the source the object holds. Version 1 did not say so; of an archive its problems do. An object that is
    /// carried over is judged by the record of the run that made it.
    #[must_use]
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

    /// How much it held, as far as the record says.
    #[must_use]
    pub fn measured(&self) -> Measure {
        let archived = |archive: &ArchiveRecord| Measure {
            files: Some(archive.files),
            bytes: Some(archive.bytes),
            ..Measure::default()
        };
        self.measure.or_else(|| self.archive.as_ref().map(archived)).unwrap_or_default()
    }
}

impl Record {
    /// Reads a stored record and checks that it is the one that its key says.
    ///
    /// # Errors
    /// [`base::error::Class::Unexpected`] when it is no record, another one, or of a newer format.
    pub fn parse(bytes: &[u8], environment: &str, id: SnapshotId) -> Result<Self> {
        let damaged = |why: String| {
            Error::unexpected(format!("the record of snapshot {id} of {environment} {why}"))
                .hint("no object is deleted while a record is damaged; compare it with a copy, or move it away by hand")
        };
        let version: Versioned = serde_json::from_slice(bytes).map_err(|e| damaged(format!("cannot be read: {e}")))?;
        if version.format_version > FORMAT_VERSION {
            let found = version.format_version;
            let said = format!("the record of snapshot {id} of {environment} has format {found}");
            return Err(newer(said, FORMAT_VERSION));
        }
        let record: Self = serde_json::from_slice(bytes).map_err(|e| damaged(format!("cannot be read: {e}")))?;
        if record.id != id || record.environment != environment {
            return Err(damaged(format!("says that it is {} of {}", record.id, record.environment)));
        }
        Ok(record)
    }

    /// The bytes that are stored and hashed.
    ///
    /// # Errors
    /// Never in practice: every field is plain data.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        to_bytes(self)
    }
}

/// The failure of whoever reads what a newer version wrote.
pub(crate) fn newer(said: String, reads_up_to: u32) -> Error {
    Error::config(format!("{said}, and this version reads up to {reads_up_to}"))
        .hint("use the newer version of dolibarr-backup that wrote it")
}

/// A persisted value as the bytes that are stored: indented, so that `aws s3 cp` and a pager suffice to read it.
///
/// # Errors
/// When the value cannot be JSON, which no type in this module can.
pub fn to_bytes<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|e| Error::unexpected(format!("writing JSON: {e}")))?;
    bytes.push(b'\n');
    Ok(bytes)
}

#[cfg(test)]
mod tests;
