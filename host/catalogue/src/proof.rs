//! Proofs: the results of verifications and drills, as they are stored beside the snapshots.
//!
//! The types here are the persisted format and nothing else. A proof is written once and never changed. Its key alone
//! (snapshot, time, depth, verdict) is enough to know the state of an environment.

mod crosscheck;

pub use crosscheck::{CrosscheckReport, CrosscheckVerdict, Finding, Head, PATHS_MAX, Paths};

use crate::configured::Environment;
use crate::keys::key;
use crate::record::{PluginRecord, parse_stored};
use base::error::{Error, Result};
use base::id::{SnapshotId, Stamp};
use jiff::{SignedDuration, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use store::ObjectKey;

/// Version of both formats. Increment it when a field is added, dropped or read differently. Version 2 added what could
/// not be tried, and notes.
pub const FORMAT_VERSION: u32 = 2;

/// How thoroughly a snapshot was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, derive_more::Display)]
#[display(rename_all = "lowercase")]
#[serde(rename_all = "lowercase")]
pub enum Depth {
    /// Every object was read completely and compared with its record.
    Read,
    /// In addition, every source was restored to a temporary place and checked there.
    Deep,
}

/// The overall result of the verifications of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum VerificationState {
    /// Never verified.
    #[default]
    Unproven,
    /// One passed, and every failure was followed by a pass that was at least as thorough.
    Passed,
    /// One failed, and no later one that was at least as thorough passed.
    Failed,
}

/// How far ahead the clock of a verification may have been.
const AHEAD_MAX: SignedDuration = SignedDuration::from_mins(15);

/// The overall result of the verifications of a snapshot. A failure is cleared only by a later pass that was at least
/// as thorough. Of two in the same second, the failure counts. A pass with a future time proves nothing.
pub fn verification_state(marks: &[Mark], snapshot: SnapshotId, now: Timestamp) -> VerificationState {
    let own = || marks.iter().filter(|mark| mark.snapshot == snapshot);
    let passed = || own().filter(|mark| mark.passed && !mark.is_from_the_future(now));
    let is_cleared = |failed: &Mark| passed().any(|later| later.at > failed.at && later.depth >= failed.depth);
    if own().any(|mark| !mark.passed && !is_cleared(mark)) {
        VerificationState::Failed
    } else if passed().next().is_some() {
        VerificationState::Passed
    } else {
        VerificationState::Unproven
    }
}

/// What the key of a verification record contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// The snapshot that was verified.
    pub snapshot: SnapshotId,
    /// When the verification began.
    pub at: Stamp,
    /// How thoroughly.
    pub depth: Depth,
    /// Whether no problem was found.
    pub passed: bool,
}

impl Mark {
    /// The name of its record: `20260630T010000Z-20260701T020000Z-deep-passed.json`.
    pub fn name(self) -> String {
        let verdict = if self.passed { "passed" } else { "failed" };
        format!("{}-{}-{}-{verdict}.json", self.snapshot, self.at, self.depth)
    }

    /// Whether the clock of the verification was ahead of this one.
    pub fn is_from_the_future(self, now: Timestamp) -> bool {
        self.at.moment().duration_since(now) > AHEAD_MAX
    }

    /// Parses exactly what [`Mark::name`] writes.
    pub fn parse(name: &str) -> Option<Self> {
        let parts: Vec<&str> = name.strip_suffix(".json")?.split('-').collect();
        let [snapshot, at, depth, verdict] = parts.as_slice() else { return None };
        let depth = [Depth::Read, Depth::Deep].into_iter().find(|known| known.to_string() == *depth)?;
        let passed = match *verdict {
            "passed" => true,
            "failed" => false,
            _ => return None,
        };
        Some(Self { snapshot: snapshot.parse().ok()?, at: at.parse().ok()?, depth, passed })
    }

    /// Key of its record.
    pub fn key(self, environment: &Environment) -> Result<ObjectKey> {
        key(&format!("{environment}/verified/{}", self.name()))
    }
}

/// A problem with a source, as it is shown to a person.
pub fn finding(source: &str, problem: &str) -> String {
    format!("{source}: {problem}")
}

/// The record of one verification of one snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verification {
    /// See [`FORMAT_VERSION`].
    pub format_version: u32,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Its environment.
    pub environment: String,
    /// When the verification began.
    pub started: Timestamp,
    /// When its last object was checked.
    pub finished: Timestamp,
    /// Version of the host.
    pub host_version: String,
    /// How thoroughly it was checked.
    pub depth: Depth,
    /// Whether no problem was found.
    pub passed: bool,
    /// SHA-256 of the snapshot's record at that time; `None` for an adopted snapshot.
    pub record_sha256: Option<String>,
    /// What was found for each source.
    pub sources: BTreeMap<String, SourceProof>,
    /// Problems with the chain of records of the whole environment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chain: Vec<String>,
}

/// The result of a comparison with the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compared {
    /// What was restored equals what was saved.
    Equal,
    /// It differs.
    Different,
    /// It could not be compared.
    Unknown,
}

/// What was found for one source.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceProof {
    /// The object that holds it.
    pub object: Option<ObjectKey>,
    /// Bytes that were read from it.
    pub bytes: u64,
    /// The problems.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// Its content, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holds: Option<String>,
    /// The result of the comparison with the record, if the source was restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compared: Option<Compared>,
    /// What the comparison is based on, or why it could not be made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comparison: Option<String>,
    /// Why it could not be restored here and what would help. This is not a problem of the snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub untried: Option<String>,
    /// Notes about a source that is equal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// The report of one drill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drill {
    /// See [`FORMAT_VERSION`].
    pub format_version: u32,
    /// The drill, identified by the time at which it began.
    pub id: Stamp,
    /// The environment.
    pub environment: String,
    /// The snapshot that was restored.
    pub snapshot: SnapshotId,
    /// The business time zone.
    pub time_zone: String,
    /// When it ended.
    pub finished: Timestamp,
    /// Version of the host.
    pub host_version: String,
    /// The server that the database was restored to.
    pub server: Option<String>,
    /// Whether no problem was found.
    pub passed: bool,
    /// What was done, in order.
    pub phases: Vec<Phase>,
    /// What was found for each source.
    pub sources: BTreeMap<String, SourceProof>,
    /// Whether the database and the documents belong together; `None` if they were not compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crosscheck: Option<CrosscheckReport>,
    /// What a crosscheck plugin did, if it failed or its report was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crosscheck_failed: Option<PluginRecord>,
    /// Logs chained by signatures that are shorter than they were in an earlier snapshot, according to an earlier
    /// drill.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shrunk_logs: Vec<String>,
    /// Problems with the chain of records.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chain: Vec<String>,
}

/// One step of a drill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    /// What it does.
    pub name: String,
    /// How long it took, in milliseconds.
    pub millis: u64,
    /// Bytes that it processed; `None` if that does not apply.
    pub bytes: Option<u64>,
    /// Why it failed.
    pub failure: Option<String>,
}

impl Drill {
    /// Keys of its report: the JSON and the printable page.
    pub fn keys(environment: &Environment, id: Stamp) -> Result<(ObjectKey, ObjectKey)> {
        Ok((key(&format!("{environment}/drills/{id}.json"))?, key(&format!("{environment}/drills/{id}.html"))?))
    }

    /// Reads a stored report.
    ///
    /// # Errors
    /// [`base::error::Class::Unexpected`] if it cannot be read; [`base::error::Class::Config`] if a newer version wrote it.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        parse(bytes, "the report of a drill", |drill: &Self| drill.format_version)
    }
}

impl Verification {
    /// The problems of its sources, each as `source: problem`.
    pub fn findings(&self) -> impl Iterator<Item = String> {
        let sources = self.sources.iter();
        sources.flat_map(|(name, source)| source.problems.iter().map(move |problem| finding(name, problem)))
    }

    /// Reads a stored record.
    ///
    /// # Errors
    /// [`base::error::Class::Unexpected`] if it cannot be read; [`base::error::Class::Config`] if a newer version wrote it.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        parse(bytes, "the record of a verification", |verification: &Self| verification.format_version)
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8], what: &str, version_of: impl Fn(&T) -> u32) -> Result<T> {
    let damaged = |why: String| Error::unexpected(format!("{what} {why}"));
    parse_stored(bytes, FORMAT_VERSION, version_of, || what.to_owned(), damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_parsed_only_from_the_name_that_it_writes() {
        let mark = |depth, passed| Mark {
            snapshot: "20260630T010000Z".parse().unwrap(),
            at: "20260701T020000Z".parse().unwrap(),
            depth,
            passed,
        };
        assert_eq!(mark(Depth::Deep, true).name(), "20260630T010000Z-20260701T020000Z-deep-passed.json");
        for mark in [mark(Depth::Read, true), mark(Depth::Read, false), mark(Depth::Deep, false)] {
            assert_eq!(Mark::parse(&mark.name()), Some(mark));
        }
        for name in [
            "",
            "20260630T010000Z.json",
            "20260630T010000Z-20260701T020000Z-deep-passed",
            "20260630T010000Z-20260701T020000Z-deep-perhaps.json",
            "20260630T010000Z-20260701T020000Z-Deep-passed.json",
            "20260630T010000Z-20260701T020000Z-deep-passed-x.json",
        ] {
            assert_eq!(Mark::parse(name), None, "{name}");
        }
    }

    #[test]
    fn a_failure_stands_until_a_later_pass_that_is_as_thorough() {
        let now: Timestamp = "2026-07-20T00:00:00Z".parse().unwrap();
        let snapshot: SnapshotId = "20260630T010000Z".parse().unwrap();
        let result = |names: &[&str]| {
            let mark = |name: &&str| Mark::parse(&format!("20260630T010000Z-{name}.json")).unwrap();
            verification_state(&names.iter().map(mark).collect::<Vec<_>>(), snapshot, now)
        };
        for (case, names, expected) in [
            ("nothing", &[][..], VerificationState::Unproven),
            ("passed", &["20260701T020000Z-read-passed"], VerificationState::Passed),
            ("failed", &["20260701T020000Z-read-failed"], VerificationState::Failed),
            (
                "a later, less thorough pass",
                &["20260701T020000Z-deep-failed", "20260702T020000Z-read-passed"],
                VerificationState::Failed,
            ),
            (
                "a later, equally thorough pass",
                &["20260701T020000Z-deep-failed", "20260702T020000Z-deep-passed"],
                VerificationState::Passed,
            ),
            (
                "a later, more thorough pass",
                &["20260701T020000Z-read-failed", "20260702T020000Z-deep-passed"],
                VerificationState::Passed,
            ),
            (
                "both in the same second",
                &["20260701T020000Z-deep-passed", "20260701T020000Z-deep-failed"],
                VerificationState::Failed,
            ),
            (
                "an earlier, more thorough pass",
                &["20260701T020000Z-deep-passed", "20260702T020000Z-read-failed"],
                VerificationState::Failed,
            ),
            ("a pass from the future", &["20360701T020000Z-deep-passed"], VerificationState::Unproven),
            (
                "a failure that only a future pass would clear",
                &["20260701T020000Z-read-failed", "20360701T020000Z-deep-passed"],
                VerificationState::Failed,
            ),
        ] {
            assert_eq!(result(names), expected, "{case}");
        }
    }

    #[test]
    fn a_verification_with_a_newer_format_or_an_unknown_field_is_refused() {
        let verification = Verification {
            format_version: FORMAT_VERSION,
            snapshot: "20260630T010000Z".parse().unwrap(),
            environment: "prod".into(),
            started: Timestamp::UNIX_EPOCH,
            finished: Timestamp::UNIX_EPOCH,
            host_version: "0.1.0".into(),
            depth: Depth::Deep,
            passed: true,
            record_sha256: None,
            sources: [("db".to_owned(), SourceProof::default())].into(),
            chain: Vec::new(),
        };
        let text = String::from_utf8(crate::record::to_bytes(&verification).unwrap()).unwrap();
        assert_eq!(Verification::parse(text.as_bytes()).unwrap(), verification);
        let version = |number: u32| format!("\"format_version\": {number}");
        let newer = text.replace(&version(FORMAT_VERSION), &version(FORMAT_VERSION + 1));
        assert!(Verification::parse(newer.as_bytes()).unwrap_err().advice().unwrap().contains("newer version"));
        let more = text.replace("\"passed\"", "\"surprise\": 1, \"passed\"");
        assert!(Verification::parse(more.as_bytes()).is_err());
        assert!(Drill::parse(text.as_bytes()).is_err());
    }
}
