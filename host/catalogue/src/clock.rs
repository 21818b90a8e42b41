//! How far clocks may be apart, and what records say of the clock that a snapshot was made under.

use base::id::SnapshotId;
use jiff::{SignedDuration, Timestamp};

/// How far the machine's clock and the store's may be apart. Clocks that are kept in step differ by less than a second; this
/// holds for one that is set by hand, and moves no snapshot to another day but around midnight.
pub const SKEW_MAX: SignedDuration = SignedDuration::from_mins(15);

/// The longest time without a run that needs no explanation: a month's closure and two weeks.
pub const GAP_MAX: SignedDuration = SignedDuration::from_hours(45 * 24);

/// What records say of the clock of a snapshot. Two that disagreed differ in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Clock {
    /// A run with an earlier time found the snapshot there.
    pub met_ahead: bool,
    /// Its own run found one with a later time there.
    pub behind: bool,
    /// The store's clock was another one.
    pub skewed: bool,
}

/// Whether a snapshot is from the future.
#[must_use]
pub fn is_ahead(id: SnapshotId, now: Timestamp) -> bool {
    id.taken().duration_since(now) > SKEW_MAX
}
