//! One snapshot as the store holds it, and what it can be used for.

use crate::clock::ClockFacts;
use crate::guard::Serves;
use crate::proof::VerificationState;
use crate::record::{Condition, Measure, Outcome, Previous, Record};
use base::error::Error;
use base::id::SnapshotId;
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use store::ObjectKey;

/// One snapshot as the store holds it.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Its id.
    pub id: SnapshotId,
    /// Its record; `None` if the snapshot is adopted or the record cannot be read.
    pub record: Option<Record>,
    /// SHA-256 of the record's bytes.
    pub record_sha256: Option<String>,
    /// When the record was written, by the store's time.
    pub stored: Option<Timestamp>,
    /// Why the record cannot be read.
    pub damage: Option<Error>,
    /// Whether every source that it names is whole and its object exists.
    pub complete: bool,
    /// Whether it was made from objects without a record.
    pub adopted: bool,
    /// The result of its verifications.
    pub verification_state: VerificationState,
    /// Whether the configuration pins it, or `unforget` keeps it.
    pub pinned: bool,
    /// Whether a person retired it, so that it is not used for anything.
    pub retired: bool,
    /// Whether its time is in the future.
    pub ahead: bool,
    /// Whether it was retired because it is from the future, and nothing else suggests that its clock was wrong.
    /// Today's clock may be the wrong one.
    pub early: bool,
    /// Whether it belongs to a pair of clocks of which it is not yet known which was wrong.
    pub undecided: bool,
    /// Whether its time is doubted and nobody confirmed it.
    pub clock_doubted: bool,
    /// Whether it is therefore in the wrong place among the others, according to its record or a person.
    pub misplaced: bool,
    /// Whether its own record contradicts its time and nobody confirmed it.
    pub disowned: bool,
    /// What records say about the clock under which it was made.
    pub clock: ClockFacts,
    /// When it entered the bin, by the store's time; `None` if it is not in the bin.
    pub binned: Option<Timestamp>,
    /// The state of each source.
    pub sources: BTreeMap<String, State>,
}

/// One source in one snapshot.
#[derive(Debug, Clone)]
pub struct State {
    /// What happened to the source in that run.
    pub outcome: Outcome,
    /// How much of the source the object holds. A suspect state that a person accepted counts as whole.
    pub condition: Condition,
    /// The object that holds it.
    pub object: Option<Object>,
    /// Its fingerprint, if known.
    pub fingerprint: Option<String>,
    /// How much it held.
    pub measure: Measure,
    /// Which database it was.
    pub identity: Option<String>,
    /// Whether a person acknowledged that its object is lost.
    pub given_up: bool,
}

/// An object that a snapshot refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its key.
    pub key: ObjectKey,
    /// Its expected size.
    pub bytes: u64,
    /// SHA-256 of its bytes; `None` for an adopted object, for which it was never recorded.
    pub sha256: Option<String>,
    /// When the run that made it began.
    pub made: Timestamp,
    /// Whether the store holds it with that size. An empty object of an adopted snapshot counts as absent.
    pub present: bool,
}

impl State {
    /// Whether the object that the source is restored from exists.
    pub fn is_restorable(&self) -> bool {
        self.object.as_ref().is_some_and(|object| object.present)
    }
}

impl Snapshot {
    /// A snapshot about which nothing is known yet.
    pub(super) fn blank(id: SnapshotId) -> Self {
        Self {
            id,
            record: None,
            record_sha256: None,
            stored: None,
            damage: None,
            complete: false,
            adopted: false,
            verification_state: VerificationState::Unproven,
            pinned: false,
            retired: false,
            ahead: false,
            early: false,
            undecided: false,
            clock_doubted: false,
            misplaced: false,
            disowned: false,
            clock: ClockFacts::default(),
            binned: None,
            sources: BTreeMap::new(),
        }
    }

    /// A synthetic snapshot of one source, for simulations and tests.
    pub fn of_one_source(id: SnapshotId, source: &str, condition: Condition, key: Option<ObjectKey>) -> Self {
        let made = id.taken();
        let state = State {
            outcome: if key.is_some() { Outcome::Saved } else { Outcome::Failed },
            condition,
            object: key.map(|key| Object { key, bytes: 1, sha256: None, made, present: true }),
            fingerprint: None,
            measure: Measure::default(),
            identity: None,
            given_up: false,
        };
        let mut snapshot = Self { sources: [(source.to_owned(), state)].into(), ..Self::blank(id) };
        snapshot.complete = snapshot.is_complete();
        snapshot
    }

    pub(super) fn is_complete(&self) -> bool {
        let whole = |state: &State| state.condition == Condition::Whole && state.is_restorable();
        self.damage.is_none() && !self.sources.is_empty() && self.sources.values().all(whole)
    }

    /// How well its state of a source can represent a point in time.
    pub fn serves(&self, source: &str) -> Serves {
        match self.holds(source) {
            Serves::Nothing => Serves::Nothing,
            _ if self.clock_doubted => Serves::Misplaced,
            holds => holds,
        }
    }

    /// The same as [`Self::serves`], as if its time were right.
    pub fn holds(&self, source: &str) -> Serves {
        let Some(state) = self.sources.get(source).filter(|state| state.is_restorable() && !self.retired) else {
            return Serves::Nothing;
        };
        match state.condition {
            Condition::Failed => Serves::Nothing,
            Condition::Partial | Condition::Suspect => Serves::Doubtful,
            Condition::Whole if self.verification_state == VerificationState::Failed => Serves::Disproved,
            Condition::Whole => Serves::First,
        }
    }

    /// Whether all of a source was read into an object that exists, regardless of other doubts about the snapshot.
    pub fn has_whole(&self, source: &str) -> bool {
        let whole = |state: &State| state.condition == Condition::Whole && state.is_restorable();
        !self.retired && self.sources.get(source).is_some_and(whole)
    }

    /// The worst condition of its sources; `None` if it names no source.
    pub fn condition(&self) -> Option<Condition> {
        self.sources.values().map(|state| state.condition).max()
    }

    /// Sources whose object the store has lost, and whose loss nobody acknowledged.
    pub fn lost(&self) -> impl Iterator<Item = &String> {
        let lost = |state: &State| state.outcome != Outcome::Failed && state.object.is_some() && !state.is_restorable();
        let known = |state: &State| state.given_up || self.retired;
        self.sources.iter().filter(move |(_, state)| lost(state) && !known(state)).map(|(name, _)| name)
    }

    /// The objects that its certificate names. For an adopted snapshot these are the objects that it was made from,
    /// because the objects that it carries over belong to another snapshot.
    pub fn certified_objects(&self) -> impl Iterator<Item = &ObjectKey> {
        let is_own = |state: &&State| !self.adopted || matches!(state.outcome, Outcome::Adopted | Outcome::Failed);
        self.sources.values().filter(is_own).filter_map(|state| state.object.as_ref()).map(|object| &object.key)
    }

    /// Total size of all objects that it refers to, in bytes.
    pub fn bytes(&self) -> u64 {
        self.sources.values().filter_map(|state| state.object.as_ref()).map(|object| object.bytes).sum()
    }

    /// Whether every source that a run is expected to save is whole in it.
    pub fn is_whole(&self, expected: &BTreeSet<&str>) -> bool {
        expected.iter().all(|source| self.has_whole(source))
    }

    /// The link to this snapshot for the next record.
    pub fn link(&self) -> Option<Previous> {
        self.record_sha256.clone().map(|sha256| Previous { id: self.id, sha256 })
    }
}
