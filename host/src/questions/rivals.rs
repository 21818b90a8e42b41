//! Two clocks of which one was wrong: what was from the future when a person said so, and whose time has come since.
//!
//! While a clock is wrong nobody can tell which of two it is. Later the store can: where runs went on up to the time of these snapshots, it
//! was theirs that was ahead; where there is a hole instead, the clock had fallen back when somebody accepted that, and what it recorded
//! meanwhile stands in the wrong place.

use super::{GAP_MAX, SKEW_MAX, is_ahead, named};
use crate::history::{History, Snapshot};
use crate::snapshot::{ClockDoubt, SnapshotId};
use jiff::Timestamp;
use std::collections::BTreeSet;

/// Snapshots whose time has come, and what the runs since then say of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Come {
    /// They, oldest first.
    pub ids: Vec<SnapshotId>,
    /// Whether their time is right.
    pub are_right: bool,
    /// Where it is, the snapshots that were recorded under the clock that was wrong.
    pub wrong: Vec<SnapshotId>,
}

impl Come {
    /// One sentence that begins in lower case.
    pub fn describe(&self) -> String {
        let came = format!("the time of {} has come, which `accept` took to be from the future", named(&self.ids));
        match (self.are_right, self.wrong.as_slice()) {
            (true, []) => format!("{came}: that clock had fallen back, and theirs is right"),
            (true, wrong) => {
                format!(
                    "{came}: that clock had fallen back, theirs is right, and {} stand in the wrong place",
                    named(wrong)
                )
            }
            (false, _) => format!("{came}: runs went on until then, so it was their clock that was ahead"),
        }
    }
}

/// What was from the future, may be right, and is asked about now.
pub fn come(history: &History, now: Timestamp) -> Option<Come> {
    let file = &history.environment.as_ref()?.file;
    // A record that doubts its own time, and one that was there before its time, is of a clock that was ahead.
    let is_contradicted = |snapshot: &Snapshot| {
        snapshot.record.as_ref().is_none_or(|record| record.clock_doubt.is_some())
            || snapshot.stored.is_some_and(|stored| snapshot.id.taken().duration_since(stored) > SKEW_MAX)
    };
    let come: Vec<&Snapshot> = history
        .snapshots
        .iter()
        .filter(|snapshot| file.retired_ahead.contains(&snapshot.id) && !is_ahead(snapshot.id, now))
        .filter(|snapshot| !file.doubted_times.contains(&snapshot.id) && !is_contradicted(snapshot))
        .collect();
    let ids: Vec<SnapshotId> = come.iter().map(|snapshot| snapshot.id).collect();
    let (first, last) = (*ids.first()?, *ids.last()?);
    let of_them: BTreeSet<SnapshotId> = ids.iter().copied().collect();
    let went_by = |snapshot: &Snapshot| snapshot.record.as_ref().and_then(|record| record.environment_file);
    let newest_version = come.iter().filter_map(|snapshot| went_by(snapshot)).max();
    // Each answer is a version of the environment's file, and versions go up whatever the clock says.
    let is_later = |snapshot: &&Snapshot| {
        let doubt = snapshot.record.as_ref().and_then(|record| record.clock_doubt);
        let met = matches!(doubt, Some(ClockDoubt::Behind { newest }) if of_them.contains(&newest));
        met || went_by(snapshot) > newest_version
    };
    let since: Vec<SnapshotId> = history
        .snapshots
        .iter()
        .filter(|snapshot| {
            snapshot.record.is_some() && snapshot.id <= last && !file.retired_ahead.contains(&snapshot.id)
        })
        .filter(is_later)
        .map(|snapshot| snapshot.id)
        .collect();
    let near = since.iter().filter(|id| first.taken().duration_since(id.taken()) <= GAP_MAX).count();
    let are_right = 2 * near < ids.len();
    Some(Come { wrong: if are_right { since } else { Vec::new() }, ids, are_right })
}
