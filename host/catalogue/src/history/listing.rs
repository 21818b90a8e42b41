//! The keys of an environment: how they are composed, and what a listing of them says. Parsed strictly; a key that does
//! not parse is not touched.

use crate::configured::{Environment, RESERVED};
use crate::proof::Mark;
use base::id::SnapshotId;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ZonedDateTime};
use std::collections::{BTreeMap, BTreeSet};
use store::{Meta, ObjectKey};

/// Spellings of a moment in the names that scripts give to their objects: `date` of coreutils with the usual formats. The
/// first is this program's own.
///
/// Those without a zone are taken as UTC, which is what containers and most servers run in. Taking them in the business time
/// zone would make a snapshot's id follow from a setting: whoever corrected `time_zone` would give every adopted snapshot
/// another id, and neither a pin nor the certificate of a forgotten one would fit its object any more.
const STAMPS: [&str; 17] = [
    OWN,
    "%Y-%m-%dT%H-%M-%SZ",
    "%Y-%m-%dT%H:%M:%SZ",
    "%Y%m%dT%H%M%S",
    "%Y-%m-%dT%H:%M:%S",
    "%Y-%m-%dT%H-%M-%S",
    "%Y%m%d-%H%M%S",
    "%Y%m%d_%H%M%S",
    "%Y%m%d%H%M%S",
    "%Y-%m-%d_%H-%M-%S",
    "%Y-%m-%d-%H-%M-%S",
    "%Y-%m-%d-%H%M%S",
    "%Y-%m-%d_%H%M%S",
    "%Y%m%d-%H%M",
    "%Y%m%d_%H%M",
    "%Y%m%d%H%M",
    "%Y-%m-%d_%H-%M",
];

/// This program's own.
const OWN: &str = "%Y%m%dT%H%M%SZ";

/// Spellings that say their zone by themselves, as `date --iso-8601=seconds` has it.
const ZONED_STAMPS: [&str; 2] = ["%Y-%m-%dT%H:%M:%S%:z", "%Y%m%dT%H%M%S%z"];

/// Spellings of a day alone, which stand for its first moment: what was saved on that day is never taken for older.
const DAYS: [&str; 2] = ["%Y%m%d", "%Y-%m-%d"];

/// What one listing of an environment's keys comes to.
#[derive(Debug, Default)]
pub(super) struct Keys {
    /// Records, with when each was written by the store's time.
    pub records: BTreeMap<SnapshotId, Timestamp>,
    /// Certificates, with when each was written by the store's time.
    pub certificates: BTreeMap<SnapshotId, Timestamp>,
    /// Those among them that say nothing, as a full disk leaves them.
    pub empty_certificates: BTreeSet<SnapshotId>,
    /// Versions of the environment's file.
    pub environment_files: BTreeSet<SnapshotId>,
    pub verified: Vec<Mark>,
    /// Marks of runs that hold the lease, or held it when they were killed.
    pub leases: Vec<ObjectKey>,
    /// What may be an object of a source.
    pub objects: BTreeMap<ObjectKey, Found>,
    /// Every moment that some name spells as this program does: no run takes one of them for its id.
    pub stamps: BTreeSet<SnapshotId>,
}

/// What may be an object of a source: it lies in a folder that no other kind of file has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub bytes: u64,
    pub source: String,
    /// The kind of source that has such objects.
    pub kind: &'static str,
    /// What its name says.
    pub moment: SnapshotId,
    /// Whether the moment is spelt as this program does, so that the run of that moment can have made it.
    pub own: bool,
}

/// Sorts the keys of an environment by what they are. A key that does not parse is not touched.
pub(super) fn sort(environment: &Environment, listed: impl Iterator<Item = Meta>) -> Keys {
    let mut keys = Keys::default();
    for Meta { key, bytes, modified } in listed {
        let mut parts = key.as_str().split('/');
        let (Some(first), Some(folder), Some(name), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        if first != environment.as_str() {
            continue;
        }
        let own = name.split('.').next().and_then(|stem| stem.parse::<SnapshotId>().ok());
        if folder == "snapshots" || folder == "forgotten" || !RESERVED.contains(&folder) {
            keys.stamps.extend(own);
        }
        let id = |name: &str| name.strip_suffix(".json").and_then(|stem| stem.parse::<SnapshotId>().ok());
        match (folder, id(name)) {
            ("leases", _) => keys.leases.push(key),
            ("snapshots", Some(id)) => drop(keys.records.insert(id, modified)),
            ("forgotten", Some(id)) => {
                keys.certificates.insert(id, modified);
                keys.empty_certificates.extend((bytes == 0).then_some(id));
            }
            (crate::environment::FOLDER, Some(stamp)) => drop(keys.environment_files.insert(stamp)),
            ("verified", None) => keys.verified.extend(Mark::parse(name)),
            _ if RESERVED.contains(&folder) => {}
            _ => {
                if let Some((stem, extension)) = name.split_once('.')
                    && let Some(kind) = kind_of(extension)
                    && let Some(moment) = moment(stem)
                {
                    let (source, own) = (folder.to_owned(), own == Some(moment));
                    keys.objects.insert(key, Found { bytes, source, kind, moment, own });
                }
            }
        }
    }
    keys
}

/// The moment that an object's name spells. A spelling has to be exact: what does not come out again as it went in is none.
fn moment(stem: &str) -> Option<SnapshotId> {
    if let Ok(own) = stem.parse() {
        return Some(own);
    }
    // A year may have a sign, and none of these has.
    if !stem.starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    let utc = |civil: DateTime| Some(civil.to_zoned_datetime(TimeZone::UTC).ok()?.timestamp());
    let spelt = |format: &&str| {
        let civil = DateTime::strptime(format, stem).ok()?;
        (civil.strftime(format).to_string() == stem).then_some(civil)
    };
    let day = |format: &&str| {
        let day = Date::strptime(format, stem).ok()?;
        (day.strftime(format).to_string() == stem).then(|| day.at(0, 0, 0, 0))
    };
    let zoned = |format: &&str| {
        let zoned = ZonedDateTime::strptime(format, stem).ok()?;
        (zoned.strftime(format).to_string() == stem).then(|| zoned.timestamp())
    };
    let plain = STAMPS.iter().find_map(spelt).or_else(|| DAYS.iter().find_map(day)).and_then(utc);
    plain.or_else(|| ZONED_STAMPS.iter().find_map(zoned)).map(SnapshotId::at)
}

/// The kind of source whose main objects have an extension; an archive's index is no main object.
fn kind_of(extension: &str) -> Option<&'static str> {
    match extension {
        "dump" => Some("postgres"),
        "tar.gz" => Some("directory"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_usual_spelling_of_a_moment_is_read_and_those_without_a_zone_are_utc() {
        for (stem, expected) in [
            ("20260630T010203Z", "20260630T010203Z"),
            ("2026-06-30T01:02:03Z", "20260630T010203Z"),
            ("2026-06-30T01-02-03Z", "20260630T010203Z"),
            ("2026-06-30T01:02:03", "20260630T010203Z"),
            ("2026-06-30T01-02-03", "20260630T010203Z"),
            ("20260630T010203", "20260630T010203Z"),
            ("20260630-010203", "20260630T010203Z"),
            ("20260630_010203", "20260630T010203Z"),
            ("20260630010203", "20260630T010203Z"),
            ("2026-06-30_01-02-03", "20260630T010203Z"),
            ("2026-06-30-01-02-03", "20260630T010203Z"),
            ("2026-06-30-010203", "20260630T010203Z"),
            ("2026-06-30_010203", "20260630T010203Z"),
            ("20260630-0102", "20260630T010200Z"),
            ("20260630_0102", "20260630T010200Z"),
            ("202606300102", "20260630T010200Z"),
            ("2026-06-30_01-02", "20260630T010200Z"),
            ("20260630", "20260630T000000Z"),
            ("2026-06-30", "20260630T000000Z"),
            ("2026-06-30T03:02:03+02:00", "20260630T010203Z"),
            ("20260630T030203+0200", "20260630T010203Z"),
            ("20240229", "20240229T000000Z"),
            ("20251231235959", "20251231T235959Z"),
        ] {
            assert_eq!(moment(stem).map(|id| id.to_string()).as_deref(), Some(expected), "{stem}");
        }
    }

    #[test]
    fn what_spells_no_moment_exactly_is_none() {
        for stem in [
            "",
            "latest",
            "erp-20260630",
            "20260630-copy",
            "2026",
            "202606",
            "2026063",
            "20260631",
            "20230229",
            "20261301",
            "20260630T250000Z",
            "20260630T010060Z",
            "20260630-1",
            "2026-6-30",
            "2026-06-30T1:02:03Z",
            " 20260630",
            "20260630 ",
            "+20260630",
            "-20260630",
            "2026-06-30T01:02:03+99:00",
            "202606300102030",
            "1782781323",
        ] {
            assert_eq!(moment(stem), None, "{stem:?}");
        }
    }
}
