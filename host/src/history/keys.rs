//! The keys of an environment: how they are composed, and what a listing of them says. Parsed strictly; a key that does
//! not parse is not touched.

use crate::config::{Environment, EnvironmentConfig};
use crate::error::{Error, Result};
use crate::proof::Mark;
use crate::snapshot::SnapshotId;
use crate::store::ObjectKey;
use std::collections::{BTreeMap, BTreeSet};

/// Spellings of a moment in the names that scripts give to their objects, taken as UTC: `date` of coreutils with
/// the usual formats. The first is this program's own.
const STAMPS: [&str; 7] = [
    "%Y%m%dT%H%M%SZ",
    "%Y-%m-%dT%H-%M-%SZ",
    "%Y-%m-%dT%H:%M:%SZ",
    "%Y%m%d-%H%M%S",
    "%Y%m%d_%H%M%S",
    "%Y-%m-%d_%H-%M-%S",
    "%Y-%m-%d-%H%M%S",
];

/// Spellings of a day alone, which stand for its first moment.
const DAYS: [&str; 2] = ["%Y%m%d", "%Y-%m-%d"];

/// What one listing of an environment's keys comes to.
#[derive(Debug, Default)]
pub(super) struct Keys {
    pub records: BTreeSet<SnapshotId>,
    pub forgotten: BTreeSet<SnapshotId>,
    pub verified: Vec<Mark>,
    /// Runs that hold the lease, or held it when they were killed.
    pub under_way: BTreeSet<SnapshotId>,
    /// Objects of the configured sources by key: size, source, moment of the name.
    pub objects: BTreeMap<ObjectKey, (u64, String, SnapshotId)>,
}

/// Key of a snapshot's record.
///
/// # Errors
/// Never for a checked environment name.
pub fn record_key(environment: &Environment, id: SnapshotId) -> Result<ObjectKey> {
    key(&format!("{environment}/snapshots/{id}.json"))
}

/// Key of a forgotten snapshot's certificate.
///
/// # Errors
/// Never for a checked environment name.
pub fn certificate_key(environment: &Environment, id: SnapshotId) -> Result<ObjectKey> {
    key(&format!("{environment}/forgotten/{id}.json"))
}

/// A key that this host composes.
///
/// # Errors
/// When it is none, which a checked name rules out.
pub fn key(text: &str) -> Result<ObjectKey> {
    ObjectKey::parse(text).ok_or_else(|| Error::unexpected(format!("`{text}` is no object key")))
}

/// Sorts the keys of an environment by what they are. A key that does not parse is not touched.
pub(super) fn sort(
    environment: &Environment,
    config: &EnvironmentConfig,
    listed: impl Iterator<Item = (ObjectKey, u64)>,
) -> Keys {
    let mut keys = Keys::default();
    for (key, bytes) in listed {
        let mut parts = key.as_str().split('/');
        let (Some(first), Some(folder), Some(name), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        if first != environment.as_str() {
            continue;
        }
        let id = |name: &str| name.strip_suffix(".json").and_then(|stem| stem.parse::<SnapshotId>().ok());
        if folder == "leases" {
            keys.under_way.extend(name.split('.').next().and_then(|run| run.parse::<SnapshotId>().ok()));
            continue;
        }
        match (folder, id(name)) {
            ("snapshots", Some(id)) => drop(keys.records.insert(id)),
            ("forgotten", Some(id)) => drop(keys.forgotten.insert(id)),
            ("verified", None) => keys.verified.extend(Mark::parse(name)),
            _ => {
                if let (Some(kind), Some((moment, extension))) =
                    (config.sources.get(folder).map(crate::config::Source::kind), object_name(name))
                    && is_object(kind, extension)
                {
                    keys.objects.insert(key.clone(), (bytes, folder.to_owned(), moment));
                }
            }
        }
    }
    keys
}

impl Keys {
    /// Whether the last verification of a snapshot passed.
    pub(super) fn is_verified(&self, snapshot: SnapshotId) -> bool {
        let of_snapshot = self.verified.iter().filter(|mark| mark.snapshot == snapshot);
        of_snapshot.max_by_key(|mark| mark.at).is_some_and(|mark| mark.passed)
    }
}

/// The moment and extension of an object's name.
fn object_name(name: &str) -> Option<(SnapshotId, &str)> {
    let (stem, extension) = name.split_once('.')?;
    let moment = |format: &&str| jiff::civil::DateTime::strptime(format, stem).ok();
    let day = |format: &&str| jiff::civil::Date::strptime(format, stem).ok().map(|day| day.at(0, 0, 0, 0));
    let moment = STAMPS.iter().find_map(moment).or_else(|| DAYS.iter().find_map(day))?;
    let moment = moment.to_zoned_datetime(jiff::tz::TimeZone::UTC).ok()?.timestamp();
    Some((SnapshotId::at(moment), extension))
}

/// Whether an extension is that of a source's main object; an archive's index is none.
fn is_object(kind: &str, extension: &str) -> bool {
    match kind {
        "postgres" => extension == "dump",
        _ => extension == "tar.gz",
    }
}
