//! The environment's own file: what the store itself knows of an environment, whatever configuration happens to run.
//!
//! Each file is immutable and names the hash of the one before; the newest counts. `init` makes the first one, and every
//! answer of a person makes the next. The type here is the persisted format and the changes that an answer makes to it;
//! which questions there are is decided in [`crate::questions`].

mod answers;
mod rules;
mod versions;

use answers::known_failures;
pub use answers::{AcceptedState, KnownFailure, RivalClocks};
pub use rules::{GuardRules, LongerBin};
pub use versions::{file_key, versions, write};

use crate::configured::{Configured, Environment, SourceKind};
use crate::guard;
use crate::record::newer;
use base::error::{Error, Result};
use base::evidence::SealKey;
use base::id::SnapshotId;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Version of the format. A field that is added, dropped or read differently raises it. Version 2 added the key of
/// fingerprints, version 3 what is said of clocks and of records that were lost or edited.
pub const FORMAT_VERSION: u32 = 3;

/// How long a certificate has to be there until its snapshot is gone for good: what lies in the bin has one too, and its record may be out
/// of reach.
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
    /// Drawn by `init`: whether two stores hold the same environment.
    pub id: String,
    /// What fingerprints are sealed with. Version 1 had none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seal_key: Option<SealKey>,
    /// When this version was written.
    pub written: Timestamp,
    /// What it was written for, in a sentence.
    pub reason: String,
    /// Version of the host.
    pub host_version: String,
    /// The version before; none for the first one.
    pub previous: Option<PreviousFile>,
    /// The business time zone, an IANA name.
    pub time_zone: String,
    /// Rules that no plugin overrides.
    pub guard: GuardRules,
    /// Which plugin plans the retention, with its settings; none where no version knew it yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<String>,
    /// The sources that every run is expected to save.
    pub sources: BTreeMap<String, KnownSource>,
    /// Sources that are saved no more; their snapshots age.
    #[serde(default)]
    pub retired_sources: BTreeMap<String, KnownSource>,
    /// Suspect states that a person accepted.
    #[serde(default)]
    pub accepted: BTreeSet<AcceptedState>,
    /// States that are suspect although they were recorded as whole: they followed one whose acceptance a person took back.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub suspected: BTreeSet<AcceptedState>,
    /// Snapshots whose time was doubted and is right.
    #[serde(default)]
    pub trusted_times: BTreeSet<SnapshotId>,
    /// Snapshots whose time may be wrong, as a person knows: they answer only where no other one does.
    #[serde(default)]
    pub doubted_times: BTreeSet<SnapshotId>,
    /// States whose object is lost, as a person knows.
    #[serde(default)]
    pub given_up: BTreeSet<AcceptedState>,
    /// Failed verifications of snapshots, as a person knows them. Before they were known one by one they were a list.
    #[serde(default, deserialize_with = "known_failures")]
    pub known_failures: BTreeMap<SnapshotId, KnownFailure>,
    /// Snapshots that serve nothing, as earlier versions of the program noted them: of a wrong clock, or with a damaged record.
    #[serde(default)]
    pub retired_snapshots: BTreeSet<SnapshotId>,
    /// Snapshots whose record cannot be read, as a person knows: they serve nothing for as long as it cannot.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub given_up_records: BTreeSet<SnapshotId>,
    /// Snapshots that were from the future when a person said so: they serve nothing until their time has come. After it they answer
    /// only where no other one does, because it may have been the clock of that person that was wrong.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub retired_ahead: BTreeSet<SnapshotId>,
    /// Snapshots of two clocks of which one was wrong: both sides are kept until somebody says which.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub undecided: Vec<RivalClocks>,
    /// Those of which somebody said so, or runs went on under one of them: a mistake is corrected on both sides at once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub decided: Vec<RivalClocks>,
    /// Snapshots that `unforget` keeps.
    #[serde(default)]
    pub kept: BTreeSet<SnapshotId>,
    /// Adopted snapshots that may age.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub adopted_may_age: BTreeSet<SnapshotId>,
    /// All adopted snapshots up to this one may age too, as earlier versions of the program noted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopted_age_up_to: Option<SnapshotId>,
    /// Snapshots whose record or certificate is missing or cannot be read, as a person knows.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub known_breaks: BTreeSet<SnapshotId>,
    /// Snapshots whose record is not what another one names, as a person knows, each with its SHA-256 then: once more edited, it is
    /// another one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub known_edits: BTreeMap<SnapshotId, String>,
    /// What holds for snapshots that entered the bin before `bin_days` became less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub longer_bin: Option<LongerBin>,
    /// Sources that a restore replaced, and when: what was measured before says nothing of what is there now.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub replaced: BTreeMap<String, SnapshotId>,
}

/// A link to the version before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PreviousFile {
    /// Its stamp.
    pub stamp: SnapshotId,
    /// SHA-256 of its bytes, in lower-case hexadecimal.
    pub sha256: String,
}

/// A source as the store knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownSource {
    /// `postgres` or `directory`.
    pub kind: String,
    /// Which database it is; none of a folder, and where nobody could ask yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// When it was added or retired.
    pub since: Timestamp,
}

/// A version of the file as it lies in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its stamp.
    pub stamp: SnapshotId,
    /// SHA-256 of its bytes.
    pub sha256: String,
    /// What it says.
    pub file: EnvironmentFile,
}

impl EnvironmentFile {
    /// The first version, of what a configuration names.
    #[must_use]
    pub fn first(
        environment: &Environment,
        configured: &Configured,
        identities: &BTreeMap<String, String>,
        guard: &guard::Config,
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
            seal_key: Some(SealKey::draw()),
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

    /// Whether a person gave a snapshot up, because its record cannot be read.
    #[must_use]
    pub fn has_given_up_record(&self, id: SnapshotId) -> bool {
        self.given_up_records.contains(&id) || self.retired_snapshots.contains(&id)
    }

    /// Whether a person let an adopted snapshot age.
    #[must_use]
    pub fn may_age(&self, id: SnapshotId) -> bool {
        self.adopted_may_age.contains(&id) || self.adopted_age_up_to.is_some_and(|up_to| id <= up_to)
    }

    /// Whether a person knows that the record of a snapshot, of this hash, is not what another one names.
    #[must_use]
    pub fn knows_edit(&self, id: SnapshotId, sha256: &str) -> bool {
        self.known_edits.get(&id).is_some_and(|known| known == sha256)
    }

    /// Whether a person accepted the suspect state of a source.
    #[must_use]
    pub fn has_accepted(&self, snapshot: SnapshotId, source: &str) -> bool {
        self.accepted.contains(&AcceptedState { snapshot, source: source.to_owned() })
    }

    /// Whether a person made the state of a source suspect again.
    #[must_use]
    pub fn is_suspected(&self, snapshot: SnapshotId, source: &str) -> bool {
        self.suspected.contains(&AcceptedState { snapshot, source: source.to_owned() })
    }

    /// Whether a snapshot is of two clocks of which nobody knows which was wrong.
    #[must_use]
    pub fn is_undecided(&self, id: SnapshotId) -> bool {
        self.undecided.iter().any(|rivals| rivals.has(id))
    }

    /// Whether somebody answered for two clocks, one of which made a snapshot.
    #[must_use]
    pub fn is_of_rivals(&self, id: SnapshotId) -> bool {
        self.undecided.iter().chain(&self.decided).any(|rivals| rivals.has(id))
    }

    /// Whether a person said that the other one of two clocks was right.
    #[must_use]
    pub fn is_overruled(&self, id: SnapshotId) -> bool {
        let by_person = |rivals: &RivalClocks| {
            let other = if rivals.ahead.contains(&id) { &rivals.since } else { &rivals.ahead };
            // One that is right in this pair may be doubted because of another one.
            rivals.has(id) && rivals.by_person && (other.is_empty() || !other.is_subset(&self.doubted_times))
        };
        self.doubted_times.contains(&id) && self.decided.iter().any(by_person)
    }

    /// Whether a person said that the clock of a snapshot was the right one of two.
    #[must_use]
    pub fn is_upheld(&self, id: SnapshotId) -> bool {
        self.trusted_times.contains(&id) && self.decided.iter().any(|rivals| rivals.by_person && rivals.has(id))
    }

    /// Whether a person gave the state of a source up, because its object is lost.
    #[must_use]
    pub fn has_given_up(&self, snapshot: SnapshotId, source: &str) -> bool {
        self.given_up.contains(&AcceptedState { snapshot, source: source.to_owned() })
    }

    /// Days that a snapshot lies in the bin that entered it at a moment.
    #[must_use]
    pub fn bin_days(&self, since: Timestamp) -> u16 {
        let longer = self.longer_bin.filter(|longer| since < longer.entered_before).map_or(0, |longer| longer.days);
        self.guard.bin_days.max(longer)
    }

    /// Takes the rules of a configuration.
    pub fn take_rules(&mut self, config: &guard::Config, now: Timestamp) {
        let rules = GuardRules::of(config);
        if rules.bin_days < self.guard.bin_days {
            let days = self.longer_bin.map_or(0, |longer| longer.days).max(self.guard.bin_days);
            self.longer_bin = Some(LongerBin { days, entered_before: now });
        }
        self.guard = rules;
    }

    /// Drops what is said of snapshots that were forgotten, each with when its certificate was written. One whose record is out of reach
    /// for a night is still what it was, also in the bin.
    pub fn drop_forgotten(&mut self, forgotten: &BTreeMap<SnapshotId, Timestamp>, now: Timestamp) {
        let is_new = |since: &Timestamp| now.duration_since(*since) < FORGOTTEN_FOR_GOOD;
        let there = |id: &SnapshotId| forgotten.get(id).is_none_or(is_new);
        self.accepted.retain(|state| there(&state.snapshot));
        self.suspected.retain(|state| there(&state.snapshot));
        self.given_up.retain(|state| there(&state.snapshot));
        self.known_failures.retain(|id, _| there(id));
        let rivals = self.undecided.iter_mut().chain(&mut self.decided);
        let sides = rivals.flat_map(|rivals| [&mut rivals.ahead, &mut rivals.since]);
        let own = [
            &mut self.trusted_times,
            &mut self.doubted_times,
            &mut self.retired_snapshots,
            &mut self.given_up_records,
            &mut self.retired_ahead,
            &mut self.kept,
            &mut self.adopted_may_age,
        ];
        own.into_iter().chain(sides).for_each(|ids| ids.retain(there));
        for rivals in [&mut self.undecided, &mut self.decided] {
            rivals.retain(|rivals| !rivals.ahead.is_empty() || !rivals.since.is_empty());
        }
    }

    /// Reads a stored version.
    ///
    /// # Errors
    /// [`base::error::Class::Unexpected`] when it cannot be read, is of a newer format, or of another environment.
    pub fn parse(bytes: &[u8], environment: &Environment, stamp: SnapshotId) -> Result<Self> {
        let damaged = |why: String| {
            Error::unexpected(format!("the environment's file {environment}/{FOLDER}/{stamp}.json {why}"))
                .hint("nothing is forgotten while it is damaged; put a copy of it back")
        };
        let version: Versioned = serde_json::from_slice(bytes).map_err(|e| damaged(format!("cannot be read: {e}")))?;
        if version.format_version > FORMAT_VERSION {
            let found = version.format_version;
            let said = format!("the environment's file {environment}/{FOLDER}/{stamp}.json has format {found}");
            return Err(newer(said, FORMAT_VERSION));
        }
        let file: Self = serde_json::from_slice(bytes).map_err(|e| damaged(format!("cannot be read: {e}")))?;
        if file.environment != environment.as_str() {
            return Err(damaged(format!("belongs to `{}`", base::text::printable(&file.environment))));
        }
        Ok(file)
    }
}

/// The one field that every version has.
#[derive(Deserialize)]
struct Versioned {
    format_version: u32,
}

#[cfg(test)]
mod tests;
