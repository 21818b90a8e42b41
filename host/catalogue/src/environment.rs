//! The environment's file: what the store itself knows about an environment, whichever configuration is used.
//!
//! Each version is immutable and contains the hash of the previous one; the newest is valid. `init` makes the first
//! version, and each answer of a person makes another. This module has the persisted format and the changes that an
//! answer makes to it. [`crate::questions`] decides which questions there are.

mod answers;
mod rules;
mod versions;

use answers::known_failures;
pub use answers::{AcceptedState, KnownFailure, RivalClocks};
pub use rules::{GuardRules, LongerBin};
pub use versions::{file_key, versions, write};

use crate::configured::{Configured, Environment, SourceKind};
use crate::guard;
use crate::record::parse_stored;
use base::error::{Error, Result};
use base::evidence::SealKey;
use base::id::{SnapshotId, Stamp};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Version of the format. Increment it when a field is added, dropped or read differently. Version 2 added the key of
/// fingerprints; version 3 added answers about clocks and about lost or edited records.
pub const FORMAT_VERSION: u32 = 3;

/// How old a certificate must be before its snapshot counts as permanently gone. A snapshot in the bin has a
/// certificate too, and its record may be temporarily unreachable.
const FORGOTTEN_FOR_GOOD: SignedDuration = SignedDuration::from_hours(365 * 24);

/// The folder below the environment.
pub const FOLDER: &str = "environment";

/// One version of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnvironmentFile {
    /// See [`FORMAT_VERSION`].
    pub format_version: u32,
    /// The environment.
    pub environment: String,
    /// Drawn by `init`. It shows whether two stores hold the same environment.
    pub id: String,
    /// The key that seals fingerprints. Version 1 had none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seal_key: Option<SealKey>,
    /// When this version was written.
    pub written: Timestamp,
    /// Why it was written, in one sentence.
    pub reason: String,
    /// Version of the host.
    pub host_version: String,
    /// The previous version; `None` for the first one.
    pub previous: Option<PreviousFile>,
    /// The business time zone, an IANA name.
    pub time_zone: String,
    /// Rules that no plugin can override.
    pub guard: GuardRules,
    /// Which plugin plans the retention, with its settings; `None` if it is not recorded yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<String>,
    /// The sources that every run is expected to save.
    pub sources: BTreeMap<String, KnownSource>,
    /// Sources that are no longer saved. Their snapshots age.
    #[serde(default)]
    pub retired_sources: BTreeMap<String, KnownSource>,
    /// Suspect states that a person accepted.
    #[serde(default)]
    pub accepted: BTreeSet<AcceptedState>,
    /// States that are suspect although they were recorded as whole, because they followed a state whose acceptance was
    /// withdrawn.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub suspected: BTreeSet<AcceptedState>,
    /// Snapshots whose time was doubted but is right.
    #[serde(default)]
    pub trusted_times: BTreeSet<SnapshotId>,
    /// Snapshots whose time may be wrong, as a person acknowledged. They are used only where no other snapshot is
    /// available.
    #[serde(default)]
    pub doubted_times: BTreeSet<SnapshotId>,
    /// States whose object is lost, as a person acknowledged.
    #[serde(default)]
    pub given_up: BTreeSet<AcceptedState>,
    /// Failed verifications that a person acknowledged. Earlier versions had a list without the findings.
    #[serde(default, deserialize_with = "known_failures")]
    pub known_failures: BTreeMap<SnapshotId, KnownFailure>,
    /// Snapshots that are not used, as recorded by earlier versions: those of a wrong clock, or with a damaged record.
    #[serde(default)]
    pub retired_snapshots: BTreeSet<SnapshotId>,
    /// Snapshots whose record cannot be read, as a person acknowledged. They are not used as long as it cannot be read.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub given_up_records: BTreeSet<SnapshotId>,
    /// Snapshots that were from the future when a person answered. They are not used until their time has come. After
    /// that they are used only where no other snapshot is available, because the clock at the time of the answer may
    /// have been the wrong one.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub retired_ahead: BTreeSet<SnapshotId>,
    /// Snapshots of two clocks of which one was wrong. Both sides are kept until a person decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub undecided: Vec<RivalClocks>,
    /// Pairs that a person decided, or that later runs decided. A mistake is corrected on both sides together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub decided: Vec<RivalClocks>,
    /// Snapshots that `unforget` keeps.
    #[serde(default)]
    pub kept: BTreeSet<SnapshotId>,
    /// Adopted snapshots that may age.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub adopted_may_age: BTreeSet<SnapshotId>,
    /// All adopted snapshots up to this one may age too, as recorded by earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopted_age_up_to: Option<SnapshotId>,
    /// Snapshots whose record or certificate is missing or cannot be read, as a person acknowledged.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub known_breaks: BTreeSet<SnapshotId>,
    /// Snapshots whose record is not the one that another record names, as a person acknowledged, each with the SHA-256
    /// of the record at that time. If it is edited again, it becomes a question again.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub known_edits: BTreeMap<SnapshotId, String>,
    /// What applies to snapshots that entered the bin before `bin_days` was reduced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub longer_bin: Option<LongerBin>,
    /// Sources that a restore replaced, and when. Earlier measures cannot be compared with the current content.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub replaced: BTreeMap<String, SnapshotId>,
}

/// A link to the previous version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PreviousFile {
    /// Its stamp.
    pub stamp: Stamp,
    /// SHA-256 of its bytes, in lower-case hexadecimal.
    pub sha256: String,
}

/// A source as recorded in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownSource {
    /// `postgres` or `directory`.
    pub kind: String,
    /// Which database it is; `None` for a folder, or if it is not known yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// When it was added or retired.
    pub since: Timestamp,
}

/// A version of the file as it is in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredFile {
    /// Its stamp.
    pub stamp: Stamp,
    /// SHA-256 of its bytes.
    pub sha256: String,
    /// Its content.
    pub file: EnvironmentFile,
}

impl EnvironmentFile {
    /// The first version, from a configuration.
    pub fn first(
        environment: &Environment,
        configured: &Configured,
        identities: &BTreeMap<String, String>,
        guard: &guard::GuardConfig,
        time_zone: &str,
        now: Timestamp,
    ) -> Self {
        let known = |(name, kind): (&String, &SourceKind)| {
            let identity = identities.get(name).cloned();
            (name.clone(), KnownSource { kind: kind.name().to_owned(), identity, since: now })
        };
        Self {
            format_version: FORMAT_VERSION,
            environment: environment.to_string(),
            id: format!("{:032x}", rand::random::<u128>()),
            seal_key: Some(SealKey::generate()),
            written: now,
            reason: "init".to_owned(),
            host_version: env!("CARGO_PKG_VERSION").to_owned(),
            previous: None,
            time_zone: time_zone.to_owned(),
            guard: GuardRules::of(guard),
            retention: None,
            sources: configured.sources.iter().map(known).collect(),
            retired_sources: BTreeMap::new(),
            accepted: BTreeSet::new(),
            suspected: BTreeSet::new(),
            trusted_times: BTreeSet::new(),
            doubted_times: BTreeSet::new(),
            given_up: BTreeSet::new(),
            known_failures: BTreeMap::new(),
            retired_snapshots: BTreeSet::new(),
            given_up_records: BTreeSet::new(),
            retired_ahead: BTreeSet::new(),
            undecided: Vec::new(),
            decided: Vec::new(),
            kept: BTreeSet::new(),
            adopted_may_age: BTreeSet::new(),
            adopted_age_up_to: None,
            known_breaks: BTreeSet::new(),
            known_edits: BTreeMap::new(),
            longer_bin: None,
            replaced: BTreeMap::new(),
        }
    }

    /// Whether a person gave up a snapshot because its record cannot be read.
    pub fn has_given_up_record(&self, id: SnapshotId) -> bool {
        self.given_up_records.contains(&id) || self.retired_snapshots.contains(&id)
    }

    /// Whether a person allowed an adopted snapshot to age.
    pub fn may_age(&self, id: SnapshotId) -> bool {
        self.adopted_may_age.contains(&id) || self.adopted_age_up_to.is_some_and(|up_to| id <= up_to)
    }

    /// Whether a person acknowledged that the record of a snapshot, with this hash, is not the one that another record
    /// names.
    pub fn knows_edit(&self, id: SnapshotId, sha256: &str) -> bool {
        self.known_edits.get(&id).is_some_and(|known| known == sha256)
    }

    /// Whether a person accepted the suspect state of a source.
    pub fn has_accepted(&self, snapshot: SnapshotId, source: &str) -> bool {
        self.accepted.contains(&AcceptedState { snapshot, source: source.to_owned() })
    }

    /// Whether a withdrawn answer made the state of a source suspect again.
    pub fn is_suspected(&self, snapshot: SnapshotId, source: &str) -> bool {
        self.suspected.contains(&AcceptedState { snapshot, source: source.to_owned() })
    }

    /// Whether a snapshot belongs to a pair of clocks of which it is unknown which was wrong.
    pub fn is_undecided(&self, id: SnapshotId) -> bool {
        self.undecided.iter().any(|rivals| rivals.has(id))
    }

    /// Whether an answer covers a pair of clocks to which a snapshot belongs.
    pub fn is_of_rivals(&self, id: SnapshotId) -> bool {
        self.undecided.iter().chain(&self.decided).any(|rivals| rivals.has(id))
    }

    /// Whether a person decided that the other clock of a pair was right.
    pub fn is_overruled(&self, id: SnapshotId) -> bool {
        let by_person = |rivals: &RivalClocks| {
            let other = if rivals.ahead.contains(&id) { &rivals.since } else { &rivals.ahead };
            // A snapshot that is right in this pair may be doubted because of another pair.
            rivals.has(id) && rivals.by_person && (other.is_empty() || !other.is_subset(&self.doubted_times))
        };
        self.doubted_times.contains(&id) && self.decided.iter().any(by_person)
    }

    /// Whether a person decided that the clock of a snapshot was the right one of a pair.
    pub fn is_upheld(&self, id: SnapshotId) -> bool {
        self.trusted_times.contains(&id) && self.decided.iter().any(|rivals| rivals.by_person && rivals.has(id))
    }

    /// Whether a person gave up the state of a source because its object is lost.
    pub fn has_given_up(&self, snapshot: SnapshotId, source: &str) -> bool {
        self.given_up.contains(&AcceptedState { snapshot, source: source.to_owned() })
    }

    /// Days that a snapshot stays in the bin if it entered at the given time.
    pub fn bin_days(&self, since: Timestamp) -> u16 {
        let longer = self.longer_bin.filter(|longer| since < longer.entered_before).map_or(0, |longer| longer.days);
        self.guard.bin_days.max(longer)
    }

    /// Adopts the rules of a configuration.
    pub fn take_rules(&mut self, config: &guard::GuardConfig, now: Timestamp) {
        let rules = GuardRules::of(config);
        if rules.bin_days < self.guard.bin_days {
            let days = self.longer_bin.map_or(0, |longer| longer.days).max(self.guard.bin_days);
            self.longer_bin = Some(LongerBin { days, entered_before: now });
        }
        self.guard = rules;
    }

    /// Drops the entries of forgotten snapshots. `forgotten` has the time at which each certificate was written. A
    /// snapshot whose record is unreachable for a night keeps its entries, also if it is in the bin.
    pub fn drop_forgotten(&mut self, forgotten: &BTreeMap<SnapshotId, Timestamp>, now: Timestamp) {
        let is_new = |since: &Timestamp| now.duration_since(*since) < FORGOTTEN_FOR_GOOD;
        let stays = |id: &SnapshotId| forgotten.get(id).is_none_or(is_new);
        self.accepted.retain(|state| stays(&state.snapshot));
        self.suspected.retain(|state| stays(&state.snapshot));
        self.given_up.retain(|state| stays(&state.snapshot));
        self.known_failures.retain(|id, _| stays(id));
        let rivals = self.undecided.iter_mut().chain(&mut self.decided);
        let sides = rivals.flat_map(|rivals| [&mut rivals.ahead, &mut rivals.since]);
        let id_sets = [
            &mut self.trusted_times,
            &mut self.doubted_times,
            &mut self.retired_snapshots,
            &mut self.given_up_records,
            &mut self.retired_ahead,
            &mut self.kept,
            &mut self.adopted_may_age,
        ];
        id_sets.into_iter().chain(sides).for_each(|ids| ids.retain(stays));
        for rivals in [&mut self.undecided, &mut self.decided] {
            rivals.retain(|rivals| !rivals.ahead.is_empty() || !rivals.since.is_empty());
        }
    }

    /// Reads a stored version.
    ///
    /// # Errors
    /// [`base::error::Class::Unexpected`] if it cannot be read or belongs to another environment;
    /// [`base::error::Class::Config`] if a newer version wrote it.
    pub fn parse(bytes: &[u8], environment: &Environment, stamp: Stamp) -> Result<Self> {
        let what = || format!("the environment's file {environment}/{FOLDER}/{stamp}.json");
        let damaged = |why: String| {
            let hint = "nothing is forgotten while it is damaged; put a copy back in its place";
            Error::unexpected(format!("{} {why}", what())).hint(hint)
        };
        let file = parse_stored(bytes, FORMAT_VERSION, |file: &Self| file.format_version, what, damaged)?;
        if file.environment != environment.as_str() {
            return Err(damaged(format!("belongs to `{}`", base::text::printable(&file.environment))));
        }
        Ok(file)
    }
}

#[cfg(test)]
mod tests;
