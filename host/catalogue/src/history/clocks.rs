//! Which clock a snapshot was made under, as far as records say. These are facts: no answer of a person changes them, and where two clocks
//! disagreed the guard goes by them.

use super::{History, Snapshot};
use crate::clock::{Clock, GAP_MAX, is_ahead};
use crate::record::ClockDoubt;
use base::id::SnapshotId;
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

/// The format from which on a record says what its run found ahead.
const SAYS_WHICH: u32 = 4;

/// What the run of a snapshot found ahead of its own time.
pub fn met_by<'s>(run: &'s Snapshot, snapshots: impl Iterator<Item = &'s Snapshot>) -> BTreeSet<SnapshotId> {
    let Some(record) = &run.record else { return BTreeSet::new() };
    let Some(ClockDoubt::Behind { newest }) = record.clock_doubt.filter(|_| record.format_version < SAYS_WHICH) else {
        return record.met_ahead.iter().copied().filter(|id| *id > run.id).collect();
    };
    // What was recorded after it went by a later version of the environment's file, or met the same.
    let was_there = |other: &&Snapshot| {
        let Some(of) = &other.record else { return false };
        let fell = matches!(of.clock_doubt, Some(ClockDoubt::Behind { .. }));
        other.id > run.id && other.id <= newest && !fell && of.environment_file <= record.environment_file
    };
    snapshots.filter(was_there).map(|other| other.id).collect()
}

/// Sets [`Snapshot::clock`] of each.
pub(super) fn tell(snapshots: &mut [Snapshot]) {
    let mut met: BTreeSet<SnapshotId> = BTreeSet::new();
    for run in snapshots.iter() {
        met.extend(run.record.iter().flat_map(|record| &record.met_ahead));
        met.extend(met_by(run, snapshots.iter()));
    }
    for snapshot in snapshots {
        let doubt = snapshot.record.as_ref().and_then(|record| record.clock_doubt);
        let found_one = snapshot.record.iter().flat_map(|record| &record.met_ahead).any(|id| *id > snapshot.id);
        snapshot.clock = Clock {
            met_ahead: met.contains(&snapshot.id),
            behind: found_one || matches!(doubt, Some(ClockDoubt::Behind { .. })),
            skewed: matches!(doubt, Some(ClockDoubt::Skew { .. })),
        };
    }
}

/// Marks the snapshots whose own record speaks against their time: the store's clock was another one, or it came after a long gap and
/// nothing else is anywhere near. That another clock was behind it is no such word, and neither is a closure after which nights went on.
pub(super) fn disown(snapshots: &mut BTreeMap<SnapshotId, Snapshot>) {
    let recorded = snapshots.values().filter(|snapshot| snapshot.record.is_some());
    let ids: Vec<SnapshotId> = recorded.map(|snapshot| snapshot.id).collect();
    for snapshot in snapshots.values_mut().filter(|snapshot| snapshot.clock_doubted) {
        let is_near = |id: &SnapshotId| id.taken().duration_since(snapshot.id.taken()).abs() <= GAP_MAX;
        snapshot.disowned = match snapshot.record.as_ref().and_then(|record| record.clock_doubt) {
            Some(ClockDoubt::Skew { .. }) => true,
            Some(ClockDoubt::Gap { .. }) => ids.iter().filter(|id| is_near(id)).nth(1).is_none(),
            Some(ClockDoubt::Behind { .. }) | None => false,
        };
    }
}

impl History {
    /// What a run at this moment finds ahead of itself, and what earlier ones found: records are forgotten, and this must not be.
    #[must_use]
    pub fn met_ahead(&self, at: Timestamp) -> BTreeSet<SnapshotId> {
        let recorded = || self.snapshots.iter().filter(|snapshot| !snapshot.adopted);
        let is_behind = recorded().any(|snapshot| !snapshot.retired && is_ahead(snapshot.id, at));
        let found = recorded().filter(|snapshot| snapshot.clock.met_ahead || is_behind && snapshot.id.taken() > at);
        found.map(|snapshot| snapshot.id).collect()
    }
}
