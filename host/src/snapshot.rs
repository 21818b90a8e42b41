//! Snapshots: the record of one run, and the catalogue of an environment.

use std::fmt;

/// When a run began, to the second, and the name of all that it made: `20260630T010000Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId(jiff::Timestamp);

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.strftime("%Y%m%dT%H%M%SZ"))
    }
}
