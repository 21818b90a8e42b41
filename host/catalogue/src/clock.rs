//! How far clocks may differ, and what records say about the clock under which a snapshot was made.

use base::id::Stamp;
use jiff::{SignedDuration, Timestamp};

/// How far the machine's clock may differ from the store's. Synchronised clocks differ by less than a second. This
/// limit tolerates a clock that is set by hand, and it can move a snapshot to another day only around midnight.
pub const SKEW_MAX: SignedDuration = SignedDuration::from_mins(15);

/// The longest time without a run that needs no explanation: a closure of one month plus two weeks.
pub const GAP_MAX: SignedDuration = SignedDuration::from_hours(45 * 24);

/// What records say about the clock of a snapshot. Snapshots of two clocks that disagreed have different facts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClockFacts {
    /// A run with an earlier time found this snapshot in the store.
    pub met_ahead: bool,
    /// Its own run found a snapshot with a later time in the store.
    pub behind: bool,
    /// The machine's clock and the store's differed.
    pub skewed: bool,
}

/// Whether a time is in the future.
pub fn is_ahead(at: impl Into<Stamp>, now: Timestamp) -> bool {
    at.into().moment().duration_since(now) > SKEW_MAX
}
