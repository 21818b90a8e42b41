//! Proofs: what a verification or a drill found, as it is stored beside the snapshots.
//!
//! The types here are the persisted format and nothing else. A proof is written once and never changed; what it says in its
//! key (which snapshot, when, how deep, whether it passed) is enough to know where an environment stands.

mod crosscheck;

pub use crosscheck::{CrosscheckReport, Finding, Head, PATHS_MAX, Paths, Verdict};

use crate::configured::Environment;
use crate::keys::key;
use crate::record::PluginRecord;
use base::error::{Error, Result};
use base::id::SnapshotId;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use store::ObjectKey;

/// Version of both formats. A field that is added, dropped or read differently raises it. Version 2 added what could not be tried, and notes.
pub const FORMAT_VERSION: u32 = 2;

/// How closely a snapshot was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Depth {
    /// Every object was read to its end and is as it was recorded.
    Read,
    /// And every source was restored to a scratch place and looked at there.
    Deep,
}

impl fmt::Display for Depth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Deep => "deep",
        })
    }
}

/// What the verifications of a snapshot come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Standing {
    /// Nobody looked.
    #[default]
    Unproven,
    /// The last one passed, and none that looked more closely failed since.
    Passed,
    /// One failed, and none that looked as closely passed later.
    Failed,
}

/// How far ahead the clock of whoever verified may have been.
const AHEAD_MAX: SignedDuration = SignedDuration::from_mins(15);

/// What the verifications of a snapshot come to. A failure is undone only by a later one that looked at least as closely; of
/// two in the same second the failure counts. What passed in the future proves nothing.
#[must_use]
pub fn standing(marks: &[Mark], snapshot: SnapshotId, now: Timestamp) -> Standing {
    let of = || marks.iter().filter(|mark| mark.snapshot == snapshot);
    let passed = || of().filter(|mark| mark.passed && !mark.is_from_the_future(now));
    let undone = |failed: &Mark| passed().any(|later| later.at > failed.at && later.depth >= failed.depth);
    if of().any(|mark| !mark.passed && !undone(mark)) {
        Standing::Failed
    } else if passed().next().is_some() {
        Standing::Passed
    } else {
        Standing::Unproven
    }
}

/// What the key of a verification record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// The snapshot that was looked at.
    pub snapshot: SnapshotId,
    /// When the verification began.
    pub at: SnapshotId,
    /// How closely.
    pub depth: Depth,
    /// Whether everything was right.
    pub passed: bool,
}

impl Mark {
    /// The name of its record: `20260630T010000Z-20260701T020000Z-deep-passed.json`.
    #[must_use]
    pub fn name(self) -> String {
        let verdict = if self.passed { "passed" } else { "failed" };
        format!("{}-{}-{}-{verdict}.json", self.snapshot, self.at, self.depth)
    }

    /// Whether the clock of whoever verified was ahead of this one.
    #[must_use]
    pub fn is_from_the_future(self, now: Timestamp) -> bool {
        self.at.taken().duration_since(now) > AHEAD_MAX
    }

    /// Takes the one spelling that [`Mark::name`] writes, and no other.
    #[must_use]
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
    ///
    /// # Errors
    /// Never for a checked environment name.
    pub fn key(self, environment: &Environment) -> Result<ObjectKey> {
        key(&format!("{environment}/verified/{}", self.name()))
    }
}

/// A problem with a source, as a person knows it.
#[must_use]
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
    /// When its last object was looked at.
    pub finished: Timestamp,
    /// Version of the host.
    pub host_version: String,
    /// How closely it was looked at.
    pub depth: Depth,
    /// Whether everything was right.
    pub passed: bool,
    /// SHA-256 of the snapshot's record as it was then; none for an adopted snapshot.
    pub record_sha256: Option<String>,
    /// What was found of each source.
    pub sources: BTreeMap<String, SourceProof>,
    /// What was wrong with the chain of records, of the whole environment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chain: Vec<String>,
}

/// What was found of one source.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceProof {
    /// The object that holds it.
    pub object: Option<ObjectKey>,
    /// Bytes that were read of it.
    pub bytes: u64,
    /// What is wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// What is in it, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holds: Option<String>,
    /// `equal` or `unknown` where it was restored and compared with the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compared: Option<String>,
    /// What the comparison rests on, or why it could not be made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comparison: Option<String>,
    /// Why it could not be restored here, which says nothing against it, and what would help.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub untried: Option<String>,
    /// What is equal and still to be known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// The report of one drill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drill {
    /// See [`FORMAT_VERSION`].
    pub format_version: u32,
    /// The drill, by the moment it began.
    pub id: SnapshotId,
    /// The environment.
    pub environment: String,
    /// The snapshot that was restored.
    pub snapshot: SnapshotId,
    /// The business time zone.
    pub time_zone: String,
    /// When it was over.
    pub finished: Timestamp,
    /// Version of the host.
    pub host_version: String,
    /// The server that the database was restored to.
    pub server: Option<String>,
    /// Whether everything was right.
    pub passed: bool,
    /// What was done, in order.
    pub phases: Vec<Phase>,
    /// What was found of each source.
    pub sources: BTreeMap<String, SourceProof>,
    /// Whether both halves belong together; none where they were not looked at together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crosscheck: Option<CrosscheckReport>,
    /// What a crosscheck plugin did that failed or whose report was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crosscheck_failed: Option<PluginRecord>,
    /// Logs chained by signatures that are shorter than an earlier drill found them in an earlier snapshot.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shrunk_logs: Vec<String>,
    /// What was wrong with the chain of records.
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
    /// Bytes that went through it; none where that says nothing.
    pub bytes: Option<u64>,
    /// Why it failed.
    pub failure: Option<String>,
}

impl Drill {
    /// Keys of its report: the JSON, and the page that is printed.
    ///
    /// # Errors
    /// Never for a checked environment name.
    pub fn keys(environment: &Environment, id: SnapshotId) -> Result<(ObjectKey, ObjectKey)> {
        Ok((key(&format!("{environment}/drills/{id}.json"))?, key(&format!("{environment}/drills/{id}.html"))?))
    }

    /// Reads a stored report.
    ///
    /// # Errors
    /// [`base::error::Class::Unexpected`] when it is none, or of a newer format.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        parse(bytes, "the report of a drill")
    }
}

impl Verification {
    /// What is wrong with its sources, each as `source: problem`.
    pub fn findings(&self) -> impl Iterator<Item = String> {
        let sources = self.sources.iter();
        sources.flat_map(|(name, source)| source.problems.iter().map(move |problem| finding(name, problem)))
    }

    /// Reads a stored record.
    ///
    /// # Errors
    /// [`base::error::Class::Unexpected`] when it is none, or of a newer format.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        parse(bytes, "the record of a verification")
    }
}

/// The one field that every version has.
#[derive(Deserialize)]
struct Versioned {
    format_version: u32,
}

fn parse<T: for<'de> Deserialize<'de>>(bytes: &[u8], what: &str) -> Result<T> {
    let unreadable = |error: serde_json::Error| Error::unexpected(format!("{what} cannot be read: {error}"));
    let version: Versioned = serde_json::from_slice(bytes).map_err(unreadable)?;
    if version.format_version > FORMAT_VERSION {
        let found = version.format_version;
        return Err(Error::unexpected(format!(
            "{what} has format {found}, and this version reads up to {FORMAT_VERSION}"
        ))
        .hint("use the newer version of dolibarr-backup that wrote it"));
    }
    serde_json::from_slice(bytes).map_err(unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_back_from_its_name_and_from_no_other() {
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
    fn a_failure_stands_until_something_as_close_passes_later_and_the_future_proves_nothing() {
        let now: Timestamp = "2026-07-20T00:00:00Z".parse().unwrap();
        let snapshot: SnapshotId = "20260630T010000Z".parse().unwrap();
        let of = |names: &[&str]| {
            let mark = |name: &&str| Mark::parse(&format!("20260630T010000Z-{name}.json")).unwrap();
            standing(&names.iter().map(mark).collect::<Vec<_>>(), snapshot, now)
        };
        for (case, names, expected) in [
            ("nothing", &[][..], Standing::Unproven),
            ("passed", &["20260701T020000Z-read-passed"], Standing::Passed),
            ("failed", &["20260701T020000Z-read-failed"], Standing::Failed),
            (
                "a later one that looked less closely",
                &["20260701T020000Z-deep-failed", "20260702T020000Z-read-passed"],
                Standing::Failed,
            ),
            (
                "a later one that looked as closely",
                &["20260701T020000Z-deep-failed", "20260702T020000Z-deep-passed"],
                Standing::Passed,
            ),
            (
                "a later one that looked more closely",
                &["20260701T020000Z-read-failed", "20260702T020000Z-deep-passed"],
                Standing::Passed,
            ),
            (
                "one of the same second",
                &["20260701T020000Z-deep-passed", "20260701T020000Z-deep-failed"],
                Standing::Failed,
            ),
            ("an earlier one", &["20260701T020000Z-deep-passed", "20260702T020000Z-read-failed"], Standing::Failed),
            ("one from the future", &["20360701T020000Z-deep-passed"], Standing::Unproven),
            (
                "a failure that only the future undoes",
                &["20260701T020000Z-read-failed", "20360701T020000Z-deep-passed"],
                Standing::Failed,
            ),
        ] {
            assert_eq!(of(names), expected, "{case}");
        }
    }

    #[test]
    fn a_verification_is_read_back_and_a_newer_or_an_edited_one_is_refused() {
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
