//! The clock under which each snapshot was made, as far as records show. These are facts: no answer of a person changes
//! them, and the guard relies on them if two clocks disagreed.

use super::{History, Snapshot};
use crate::clock::{ClockFacts, GAP_MAX, is_ahead};
use crate::record::ClockDoubt;
use base::id::SnapshotId;
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

/// The first format in which a record lists the snapshots that its run found ahead.
const LISTS_MET_AHEAD: u32 = 4;

/// The snapshots that the run of a snapshot found ahead of its own time.
pub fn found_ahead_by<'s>(run: &'s Snapshot, snapshots: impl Iterator<Item = &'s Snapshot>) -> BTreeSet<SnapshotId> {
    let Some(record) = &run.record else { return BTreeSet::new() };
    let lists_them = record.format_version >= LISTS_MET_AHEAD;
    let Some(ClockDoubt::Behind { newest }) = record.clock_doubt.filter(|_| !lists_them) else {
        return record.met_ahead.iter().copied().filter(|id| *id > run.id).collect();
    };
    // Snapshots that were recorded after this run used a later version of the environment's file, or found the same
    // ahead.
    let was_there = |other: &&Snapshot| {
        let Some(other_record) = &other.record else { return false };
        let fell_back = matches!(other_record.clock_doubt, Some(ClockDoubt::Behind { .. }));
        let is_earlier_version = other_record.environment_file <= record.environment_file;
        other.id > run.id && other.id.stamp() <= newest && !fell_back && is_earlier_version
    };
    snapshots.filter(was_there).map(|other| other.id).collect()
}

/// Sets [`Snapshot::clock`] of each snapshot.
pub(super) fn set_facts(snapshots: &mut [Snapshot]) {
    let mut met: BTreeSet<SnapshotId> = BTreeSet::new();
    for run in snapshots.iter() {
        met.extend(run.record.iter().flat_map(|record| &record.met_ahead));
        met.extend(found_ahead_by(run, snapshots.iter()));
    }
    for snapshot in snapshots {
        let doubt = snapshot.record.as_ref().and_then(|record| record.clock_doubt);
        let found_one = snapshot.record.iter().flat_map(|record| &record.met_ahead).any(|id| *id > snapshot.id);
        snapshot.clock = ClockFacts {
            met_ahead: met.contains(&snapshot.id),
            behind: found_one || matches!(doubt, Some(ClockDoubt::Behind { .. })),
            skewed: matches!(doubt, Some(ClockDoubt::Skew { .. })),
        };
    }
}

/// Marks the snapshots whose own record contradicts their time: the store's clock differed, or the snapshot came after
/// a long gap and no other snapshot is near. It is not a contradiction that another clock was behind, nor that runs
/// continued after a closure.
pub(super) fn mark_disowned(snapshots: &mut BTreeMap<SnapshotId, Snapshot>) {
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
    /// The snapshots that a run at this time finds ahead of itself, and those that earlier runs found. Records are
    /// forgotten, but this must not be.
    pub fn met_ahead(&self, at: Timestamp) -> BTreeSet<SnapshotId> {
        let recorded = || self.snapshots.iter().filter(|snapshot| !snapshot.adopted);
        let is_behind = recorded().any(|snapshot| !snapshot.retired && is_ahead(snapshot.id, at));
        let found = recorded().filter(|snapshot| snapshot.clock.met_ahead || is_behind && snapshot.id.taken() > at);
        found.map(|snapshot| snapshot.id).collect()
    }
}
