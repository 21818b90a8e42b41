//! Sorts the keys in a listing of an environment. Keys are parsed strictly, and a key that does not parse is never
//! touched.

use crate::configured::{Environment, RESERVED};
use crate::proof::Mark;
use base::id::{SnapshotId, Stamp};
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ZonedDateTime};
use std::collections::{BTreeMap, BTreeSet};
use store::{Meta, ObjectKey};

/// Time formats in the names that scripts give to their objects: the usual formats of `date` in coreutils. The first is
/// this program's own.
///
/// Times without a zone are read as UTC, in which containers and most servers run. If they were read in the business
/// time zone, the ids of adopted snapshots would depend on a setting: correcting `time_zone` would change all of them,
/// and pins and certificates would no longer match their objects.
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

/// Formats that include the zone, such as that of `date --iso-8601=seconds`.
const ZONED_STAMPS: [&str; 2] = ["%Y-%m-%dT%H:%M:%S%:z", "%Y%m%dT%H%M%S%z"];

/// Formats of a day without a time. They stand for the start of the day, so an object is never taken to be newer than
/// it is.
const DAYS: [&str; 2] = ["%Y%m%d", "%Y-%m-%d"];

/// The keys of an environment, sorted by what they are.
#[derive(Debug, Default)]
pub(super) struct Keys {
    /// Records, with when each was written by the store's time.
    pub records: BTreeMap<SnapshotId, Timestamp>,
    /// Certificates, with when each was written by the store's time.
    pub certificates: BTreeMap<SnapshotId, Timestamp>,
    /// Certificates that are empty, as a full disk leaves them.
    pub empty_certificates: BTreeSet<SnapshotId>,
    /// Versions of the environment's file.
    pub environment_files: BTreeSet<Stamp>,
    pub verified: Vec<Mark>,
    /// Lease marks of runs that hold the lease, or held it when they were killed.
    pub leases: Vec<ObjectKey>,
    /// What may be an object of a source.
    pub objects: BTreeMap<ObjectKey, Found>,
    /// Every time that a name contains in this program's own format. No run uses one of them as its id.
    pub stamps: BTreeSet<Stamp>,
}

/// What may be an object of a source: it is in a folder that no other kind of file uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub bytes: u64,
    pub source: String,
    /// The kind of source that has such objects.
    pub kind: &'static str,
    /// The time in its name.
    pub moment: Stamp,
    /// Whether the time is in this program's own format, so that the run of that time can have made it.
    pub own: bool,
}

/// Sorts the keys of an environment by what they are. A key that does not parse is not touched.
pub(super) fn sort_keys(environment: &Environment, listed: impl Iterator<Item = Meta>) -> Keys {
    let mut keys = Keys::default();
    // Collected first: a listing has thousands of them, and building a map from a list is faster than inserting each.
    let (mut certificates, mut stamps) = (Vec::new(), Vec::new());
    for Meta { key, bytes, modified } in listed {
        let mut parts = key.as_str().split('/');
        let (Some(first), Some(folder), Some(name), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        if first != environment.as_str() {
            continue;
        }
        let (stem, extension) = name.split_once('.').unwrap_or((name, ""));
        let own = stem.parse::<Stamp>().ok();
        if folder == "snapshots" || folder == "forgotten" || !RESERVED.contains(&folder) {
            stamps.extend(own);
        }
        let stamp = own.filter(|_| extension == "json");
        match (folder, stamp) {
            ("leases", _) => keys.leases.push(key),
            ("snapshots", Some(stamp)) => drop(keys.records.insert(SnapshotId::named(stamp), modified)),
            ("forgotten", Some(stamp)) => {
                let id = SnapshotId::named(stamp);
                certificates.push((id, modified));
                keys.empty_certificates.extend((bytes == 0).then_some(id));
            }
            (crate::environment::FOLDER, Some(stamp)) => drop(keys.environment_files.insert(stamp)),
            // An empty file, as a full disk leaves it, proves nothing. A failure is believed without its report.
            ("verified", None) => keys.verified.extend(Mark::parse(name).filter(|mark| bytes > 0 || !mark.passed)),
            _ if RESERVED.contains(&folder) => {}
            _ => {
                if let Some(kind) = kind_of(extension)
                    && let Some(moment) = parse_moment(stem)
                {
                    let (source, own) = (folder.to_owned(), own == Some(moment));
                    keys.objects.insert(key, Found { bytes, source, kind, moment, own });
                }
            }
        }
    }
    keys.certificates = certificates.into_iter().collect();
    keys.stamps = stamps.into_iter().collect();
    keys
}

/// Parses the time in an object's name. The format must match exactly: formatting the time again must give the same
/// text.
fn parse_moment(stem: &str) -> Option<Stamp> {
    if let Ok(own) = stem.parse() {
        return Some(own);
    }
    // The parser accepts a signed year, but no such name is valid.
    if !stem.starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    let utc = |civil: DateTime| Some(civil.to_zoned_datetime(TimeZone::UTC).ok()?.timestamp());
    let date_time = |format: &&str| {
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
    let plain = STAMPS.iter().find_map(date_time).or_else(|| DAYS.iter().find_map(day)).and_then(utc);
    plain.or_else(|| ZONED_STAMPS.iter().find_map(zoned)).map(Stamp::at)
}

/// The kind of source whose main objects have this extension. The index of an archive is not a main object.
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
    fn every_usual_time_format_is_read_and_one_without_a_zone_is_utc() {
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
            assert_eq!(parse_moment(stem).map(|id| id.to_string()).as_deref(), Some(expected), "{stem}");
        }
    }

    #[test]
    fn a_name_that_is_not_exactly_a_time_is_rejected() {
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
            assert_eq!(parse_moment(stem), None, "{stem:?}");
        }
    }
}
