//! What can serve an owed point: the complete snapshots in the order in which they were taken.

use crate::calendar::Period;
use crate::policy::Snapshot;
use std::collections::BTreeSet;

/// The complete snapshots up to now.
pub struct History {
    /// Oldest first, as (taken, place in the list).
    pub complete: Vec<(i64, usize)>,
}

impl History {
    /// Leaves out what is incomplete and what is from the future.
    #[must_use]
    pub fn of(now: i64, snapshots: &[Snapshot]) -> Self {
        let numbered = snapshots.iter().enumerate();
        let mut complete: Vec<_> =
            numbered.filter(|(_, s)| s.complete && s.taken <= now).map(|(place, s)| (s.taken, place)).collect();
        complete.sort_unstable();
        Self { complete }
    }

    /// Its place in the list.
    #[must_use]
    pub fn newest(&self) -> Option<usize> {
        self.complete.last().map(|&(_, place)| place)
    }

    /// How many were taken before an instant.
    #[must_use]
    pub fn before(&self, instant: i64) -> usize {
        self.complete.partition_point(|&(taken, _)| taken < instant)
    }

    /// Positions after which at least one of the ended periods has no snapshot at all.
    #[must_use]
    pub fn gaps<'a>(&self, now: i64, periods: impl Iterator<Item = &'a Period>) -> BTreeSet<usize> {
        let ended = periods.filter(|period| period.ends <= now);
        let empty = ended.filter(|period| self.before(period.begins) == self.before(period.ends));
        empty.filter_map(|period| self.before(period.ends).checked_sub(1)).collect()
    }
}
