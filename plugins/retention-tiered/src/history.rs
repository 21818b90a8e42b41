//! The snapshots that can serve an owed point: the complete ones, in the order in which they were taken.

use crate::calendar::Period;
use crate::policy::Snapshot;
use std::collections::BTreeSet;

/// The complete snapshots up to now.
pub struct History {
    /// Oldest first, as (taken, place in the list).
    pub complete: Vec<(i64, usize)>,
}

impl History {
    /// Takes the complete snapshots that were not taken after `now`.
    pub fn from_snapshots(now: i64, snapshots: &[Snapshot]) -> Self {
        let numbered = snapshots.iter().enumerate();
        let mut complete: Vec<_> =
            numbered.filter(|(_, s)| s.complete && s.taken <= now).map(|(place, s)| (s.taken, place)).collect();
        complete.sort_unstable();
        Self { complete }
    }

    /// The place of the newest snapshot in the list.
    pub fn newest(&self) -> Option<usize> {
        self.complete.last().map(|&(_, place)| place)
    }

    /// How many snapshots were taken before an instant.
    pub fn before(&self, instant: i64) -> usize {
        self.complete.partition_point(|&(taken, _)| taken < instant)
    }

    /// Positions in `complete` that are followed by at least one ended period without a snapshot.
    pub fn gaps<'a>(&self, now: i64, periods: impl Iterator<Item = &'a Period>) -> BTreeSet<usize> {
        let ended = periods.filter(|period| period.ends <= now);
        let empty = ended.filter(|period| self.before(period.begins) == self.before(period.ends));
        empty.filter_map(|period| self.before(period.ends).checked_sub(1)).collect()
    }
}
