//! Snapshots: the record of one run, as it is stored for up to ten years.
//!
//! The types here are the persisted format and nothing else. A record is immutable. It names the previous record by id
//! and hash, so that a missing, edited or reordered record is detected.

mod source;

pub use source::{ArchiveRecord, DatabaseRecord, ObjectRecord, ProblemRecord, SourceRecord};

use crate::configured::Environment;
use base::error::{Class, Error, Result};
use base::id::{SnapshotId, Stamp};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use store::ObjectKey;

/// Version of the record's format. Increment it when a field is added, dropped or read differently. Version 2 added the
/// condition and the measure of each source, and the store's time. Version 3 added the basis of the fingerprint,
/// version 4 the snapshots that the run found ahead of its own time, version 5 a seal for each selected item and the
/// notes of pg_dump.
pub const FORMAT_VERSION: u32 = 5;

/// The record of one run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// See [`FORMAT_VERSION`].
    pub format_version: u32,
    /// The run.
    pub id: SnapshotId,
    /// The environment that it belongs to.
    pub environment: String,
    /// When the run began.
    pub started: Timestamp,
    /// When the record was written.
    pub finished: Timestamp,
    /// The business time zone of that day, an IANA name.
    pub time_zone: String,
    /// Version of the host.
    pub host_version: String,
    /// Whether every source can be restored from it.
    pub complete: bool,
    /// What was recorded of each source.
    pub sources: BTreeMap<String, SourceRecord>,
    /// The plugins and what each did.
    pub plugins: Vec<PluginRecord>,
    /// The warnings of the run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// The store's time when the run began. Version 1 did not record it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_time: Option<Timestamp>,
    /// Why the time of this run cannot be trusted; `None` if it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_doubt: Option<ClockDoubt>,
    /// Snapshots that had a later time than a run that found them in the store, whether that was this run or an earlier
    /// one.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub met_ahead: BTreeSet<SnapshotId>,
    /// The stamp of the version of the environment's file that the run used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment_file: Option<Stamp>,
    /// SHA-256 of that version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment_sha256: Option<String>,
    /// Other existing records that no record names any more, because those that did are forgotten or in the bin. Naming
    /// them here means that the edit or loss of any record is detected through another one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub witnessed: Vec<Previous>,
    /// The previous record.
    pub previous: Option<Previous>,
}

/// A link in the chain of records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Previous {
    /// The previous record.
    pub id: SnapshotId,
    /// SHA-256 of its bytes.
    pub sha256: String,
}

/// Why the time of a run may be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum ClockDoubt {
    /// The machine's clock and the store's differ.
    Skew {
        /// The machine's time minus the store's; positive if the machine is ahead.
        seconds: i64,
    },
    /// Nothing was recorded for so long that the clock may have jumped forward.
    Gap {
        /// The newest time that was known.
        newest: Stamp,
    },
    /// Something in the store has a later time than the run.
    Behind {
        /// The newest time that was known.
        newest: Stamp,
    },
}

impl ClockDoubt {
    /// Whether the run may be in the wrong place among the others. A gap means only that it came late.
    pub const fn misplaces(self) -> bool {
        matches!(self, Self::Skew { .. } | Self::Behind { .. })
    }
}

/// How much of a source its object holds. The condition of a snapshot is the worst of its sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, derive_more::Display)]
#[display(rename_all = "lowercase")]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    /// Everything was read.
    Whole,
    /// Entries that exist could not be read.
    Partial,
    /// Everything was read, but the source is another one than before, or most of its previous content is gone.
    Suspect,
    /// There is no object.
    Failed,
}

/// How much a source held, as far as it was counted. Runs compare their counts with those of earlier runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measure {
    /// Entries of a folder, without subfolders.
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

/// What happened to a source in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, derive_more::Display)]
#[display(rename_all = "lowercase")]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Dumped to a new object.
    Saved,
    /// Carried over: the object of an earlier run still holds the current state.
    Unchanged,
    /// An object without a record, left by another tool.
    Adopted,
    /// Neither dumped nor carried over.
    Failed,
}

/// A plugin and what it did.
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
    /// SHA-256 of its settings as JSON: two answers can be compared only if it is the same. Older versions did not
    /// record it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings_sha256: Option<String>,
    /// What it did with its grants.
    pub tally: Vec<TallyRecord>,
}

/// How often one function was called for one scope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TallyRecord {
    /// `interface.function`.
    pub function: String,
    /// `environment/source`.
    pub scope: String,
    /// Calls.
    pub calls: u64,
    /// Items in calls that take or return many: tables that were selected, rows or documents that were passed. Older
    /// versions did not count them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub items: u64,
    /// Bytes that the host moved for it.
    pub bytes: u64,
}

/// For counts that older versions did not have.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out a reference")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// The certificate of a snapshot that is in the bin or forgotten. It is in the bin as long as its record exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// See [`FORMAT_VERSION`].
    pub format_version: u32,
    /// The snapshot.
    pub id: SnapshotId,
    /// Its environment.
    pub environment: String,
    /// SHA-256 of its record; `None` for an adopted snapshot, which had no record.
    pub record_sha256: Option<String>,
    /// The link to the previous record, so that the chain can be followed across this snapshot.
    pub previous: Option<Previous>,
    /// As in its record. A snapshot that was made while later ones existed has no place in the order of the chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_doubt: Option<ClockDoubt>,
    /// Objects that it refers to. This certificate explains only these. Version 1 named only the objects of adopted
    /// snapshots.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub objects: Vec<ObjectKey>,
    /// When it entered the bin; in version 1, when it was forgotten.
    pub forgotten: Timestamp,
    /// The earliest time at which it may be deleted, by the store's time. Version 1 had no bin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<Timestamp>,
    /// SHA-256 of the retention plugin that planned it.
    pub plugin_sha256: String,
    /// The reasons in the plan.
    pub reasons: Vec<String>,
    /// What the plugins did in the run, copied from its record, so that it can be looked up later.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plugins: Vec<PluginRecord>,
    /// What the retention plugin did when it planned to forget the snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub planned_by: Option<PluginRecord>,
}

impl Certificate {
    /// Reads a stored certificate and checks that it belongs to its key.
    ///
    /// # Errors
    /// [`base::error::Class::Unexpected`] if it is not a valid certificate or is that of another snapshot;
    /// [`base::error::Class::Config`] if a newer version wrote it.
    pub fn parse(bytes: &[u8], environment: &Environment, id: SnapshotId) -> Result<Self> {
        let what = || format!("the certificate of {id} of {environment}");
        let damaged = |why: String| Error::unexpected(format!("{} {why}", what()));
        let read = parse_stored(bytes, FORMAT_VERSION, |certificate: &Self| certificate.format_version, what, damaged)?;
        let is_own = read.id == id && read.environment == environment.as_str();
        if is_own { Ok(read) } else { Err(damaged("is of another snapshot".to_owned())) }
    }
}

impl Record {
    /// A record without sources that follows no other one, and is not complete.
    pub fn blank(id: SnapshotId, environment: &str) -> Self {
        Self {
            format_version: FORMAT_VERSION,
            id,
            environment: environment.to_owned(),
            started: id.taken(),
            finished: id.taken(),
            time_zone: "UTC".to_owned(),
            host_version: env!("CARGO_PKG_VERSION").to_owned(),
            complete: false,
            sources: BTreeMap::new(),
            plugins: Vec::new(),
            warnings: Vec::new(),
            store_time: None,
            clock_doubt: None,
            met_ahead: BTreeSet::new(),
            environment_file: None,
            environment_sha256: None,
            witnessed: Vec::new(),
            previous: None,
        }
    }

    /// Reads a stored record and checks that it belongs to its key.
    ///
    /// # Errors
    /// [`base::error::Class::Unexpected`] if it is not a valid record or is the record of another snapshot;
    /// [`base::error::Class::Config`] if a newer version wrote it.
    pub fn parse(bytes: &[u8], environment: &str, id: SnapshotId) -> Result<Self> {
        let what = || format!("the record of snapshot {id} of {environment}");
        let damaged = |why: String| {
            Error::unexpected(format!("{} {why}", what()))
                .hint("no object is deleted while a record is damaged; compare it with a copy, or move it away by hand")
        };
        let record = parse_stored(bytes, FORMAT_VERSION, |record: &Self| record.format_version, what, damaged)?;
        if record.id != id || record.environment != environment {
            return Err(damaged(format!("belongs to snapshot {} of {}", record.id, record.environment)));
        }
        Ok(record)
    }

    /// The bytes that are stored and hashed.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        to_bytes(self)
    }
}

/// Reads a stored file of a format up to `newest`. `version_of` returns the format of a file that was read, `what` names
/// the file in a message, and `damaged` makes the error for one that cannot be read.
///
/// # Errors
/// What `damaged` makes; [`base::error::Class::Config`] if a newer version wrote the file.
pub(crate) fn parse_stored<T: DeserializeOwned>(
    bytes: &[u8],
    newest: u32,
    version_of: impl Fn(&T) -> u32,
    what: impl Fn() -> String,
    damaged: impl Fn(String) -> Error,
) -> Result<T> {
    /// The one field that every format has.
    #[derive(Deserialize)]
    #[serde(expecting = "a JSON object")]
    struct Versioned {
        format_version: u32,
    }
    let unreadable = |error: serde_json::Error| damaged(format!("cannot be read: {error}"));
    let value = serde_json::from_slice(bytes);
    let version = match &value {
        // serde also reads a struct from an array, which no version wrote.
        Ok(value) if bytes.trim_ascii_start().starts_with(b"{") => version_of(value),
        Ok(_) | Err(_) => serde_json::from_slice::<Versioned>(bytes).map_err(unreadable)?.format_version,
    };
    if version > newest {
        let what = what();
        let error = format!("{what} has format {version}, but this version reads only formats up to {newest}");
        return Err(Error::config(error).hint("use the newer version of dolibarr-backup that wrote it"));
    }
    value.map_err(unreadable)
}

/// Whether an error of reading a stored file says that a newer version wrote it. Such a file is not damaged.
pub fn is_newer_format(error: &Error) -> bool {
    error.class() == Class::Config
}

/// Serialises a value that is stored, indented so that it can be read with `aws s3 cp` and a pager.
pub fn to_bytes<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|e| Error::unexpected(format!("writing JSON: {e}")))?;
    bytes.push(b'\n');
    Ok(bytes)
}

#[cfg(test)]
mod tests;
