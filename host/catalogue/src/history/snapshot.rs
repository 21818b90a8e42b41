//! One snapshot as the store holds it, and what it is worth.

use crate::clock::Clock;
use crate::guard::Serves;
use crate::proof::Standing;
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
    /// Its record; none for an adopted one and for one whose record cannot be read.
    pub record: Option<Record>,
    /// SHA-256 of the record's bytes.
    pub record_sha256: Option<String>,
    /// When the record was written, by the store's time.
    pub stored: Option<Timestamp>,
    /// Why the record cannot be read.
    pub damage: Option<Error>,
    /// Whether every source that it names is whole and there.
    pub complete: bool,
    /// Whether it was made from objects without a record.
    pub adopted: bool,
    /// What its verifications come to.
    pub standing: Standing,
    /// Whether the configuration pins it, or `unforget` keeps it.
    pub pinned: bool,
    /// Whether a person said that it serves nothing.
    pub retired: bool,
    /// Whether its time is in the future.
    pub ahead: bool,
    /// Whether it was retired because it is from the future, and nothing else says that its clock was wrong: that may be the clock of
    /// today.
    pub early: bool,
    /// Whether it is of two clocks of which nobody knows yet which was wrong.
    pub undecided: bool,
    /// Whether its time is doubted, and nobody said that it is right.
    pub clock_doubted: bool,
    /// Whether it so stands at a wrong place among the others, as far as its record or a person says.
    pub misplaced: bool,
    /// Whether its own record speaks against its time, and no person for it.
    pub disowned: bool,
    /// What records say of the clock that it was made under.
    pub clock: Clock,
    /// Since when it lies in the bin, by the store's time; none where it does not.
    pub binned: Option<Timestamp>,
    /// The state of each source.
    pub sources: BTreeMap<String, State>,
}

/// One source in one snapshot.
#[derive(Debug, Clone)]
pub struct State {
    /// What became of it in that run.
    pub outcome: Outcome,
    /// How much of the source the object holds. A suspect state that a person accepted is whole.
    pub condition: Condition,
    /// The object that holds it.
    pub object: Option<Object>,
    /// The fingerprint it had; empty when none is known.
    pub fingerprint: String,
    /// How much it held.
    pub measure: Measure,
    /// Which database it was.
    pub identity: Option<String>,
    /// Whether a person knows that its object is lost.
    pub given_up: bool,
}

/// An object that a snapshot refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its key.
    pub key: ObjectKey,
    /// The size that it must have.
    pub bytes: u64,
    /// SHA-256 of its bytes; none for an adopted one, of which nobody recorded it.
    pub sha256: Option<String>,
    /// When the run that made it began.
    pub made: Timestamp,
    /// Whether the store holds it at that size. An empty one of an adopted snapshot holds nothing.
    pub present: bool,
}

impl State {
    /// Whether the source can be restored from it, going by what is there.
    #[must_use]
    pub fn is_restorable(&self) -> bool {
        self.object.as_ref().is_some_and(|object| object.present)
    }
}

impl Snapshot {
    /// A snapshot of which nothing is known yet.
    pub(super) fn blank(id: SnapshotId) -> Self {
        Self {
            id,
            record: None,
            record_sha256: None,
            stored: None,
            damage: None,
            complete: false,
            adopted: false,
            standing: Standing::Unproven,
            pinned: false,
            retired: false,
            ahead: false,
            early: false,
            undecided: false,
            clock_doubted: false,
            misplaced: false,
            disowned: false,
            clock: Clock::default(),
            binned: None,
            sources: BTreeMap::new(),
        }
    }

    /// A recorded snapshot of one source, made up for a simulation.
    #[must_use]
    pub fn of_one_source(id: SnapshotId, source: &str, condition: Condition, key: Option<ObjectKey>) -> Self {
        let made = id.taken();
        let state = State {
            outcome: if key.is_some() { Outcome::Saved } else { Outcome::Failed },
            condition,
            object: key.map(|key| Object { key, bytes: 1, sha256: None, made, present: true }),
            fingerprint: String::new(),
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

    /// Whether the state of a source in it can answer for a point in time.
    #[must_use]
    pub fn serves(&self, source: &str) -> Serves {
        match self.holds(source) {
            Serves::Nothing => Serves::Nothing,
            _ if self.clock_doubted => Serves::Misplaced,
            holds => holds,
        }
    }

    /// The same, were its time right.
    #[must_use]
    pub fn holds(&self, source: &str) -> Serves {
        let Some(state) = self.sources.get(source).filter(|state| state.is_restorable() && !self.retired) else {
            return Serves::Nothing;
        };
        match state.condition {
            Condition::Failed => Serves::Nothing,
            Condition::Partial | Condition::Suspect => Serves::Doubtful,
            Condition::Whole if self.standing == Standing::Failed => Serves::Disproved,
            Condition::Whole => Serves::First,
        }
    }

    /// Whether all of a source was read into an object that is there, whatever else is doubted of the snapshot.
    #[must_use]
    pub fn has_whole(&self, source: &str) -> bool {
        let whole = |state: &State| state.condition == Condition::Whole && state.is_restorable();
        !self.retired && self.sources.get(source).is_some_and(whole)
    }

    /// The worst condition of its sources; none where it names no source.
    #[must_use]
    pub fn condition(&self) -> Option<Condition> {
        self.sources.values().map(|state| state.condition).max()
    }

    /// Sources whose object the store has lost, and nobody knows it yet.
    pub fn lost(&self) -> impl Iterator<Item = &String> {
        let lost = |state: &State| state.outcome != Outcome::Failed && state.object.is_some() && !state.is_restorable();
        let known = |state: &State| state.given_up || self.retired;
        self.sources.iter().filter(move |(_, state)| lost(state) && !known(state)).map(|(name, _)| name)
    }

    /// The objects that its certificate names: of an adopted one those that it was made from, because those that it carries
    /// over belong to another one.
    pub fn certified_objects(&self) -> impl Iterator<Item = &ObjectKey> {
        let own = |state: &&State| !self.adopted || matches!(state.outcome, Outcome::Adopted | Outcome::Failed);
        self.sources.values().filter(own).filter_map(|state| state.object.as_ref()).map(|object| &object.key)
    }

    /// Size of all objects that it refers to.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.sources.values().filter_map(|state| state.object.as_ref()).map(|object| object.bytes).sum()
    }

    /// Whether every source that a run is expected to save is whole in it.
    #[must_use]
    pub fn is_whole(&self, expected: &BTreeSet<&str>) -> bool {
        expected.iter().all(|source| self.has_whole(source))
    }

    /// The link that the next record makes to this one.
    #[must_use]
    pub fn link(&self) -> Option<Previous> {
        self.record_sha256.clone().map(|sha256| Previous { id: self.id, sha256 })
    }
}
