//! Persisted answers of a person about snapshots.

use base::id::{SnapshotId, Stamp};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The state of one source in one snapshot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcceptedState {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The source.
    pub source: String,
}

/// A failed verification that a person acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownFailure {
    /// The newest failed verification at the time of the answer. A later one is not acknowledged.
    pub at: Stamp,
    /// What it found, each as `source: problem`. The same finding in a later verification is acknowledged too.
    pub problems: BTreeSet<String>,
}

/// Snapshots of two clocks of which one was wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RivalClocks {
    /// Snapshots that were from the future when a person answered.
    pub ahead: BTreeSet<SnapshotId>,
    /// Snapshots that were recorded after these were found to be from the future, with times before the last of them.
    pub since: BTreeSet<SnapshotId>,
    /// Whether a person decided which clock was right. It is false if only later runs decided.
    #[serde(default)]
    pub by_person: bool,
}

impl RivalClocks {
    /// Whether a snapshot belongs to either side.
    pub fn has(&self, id: SnapshotId) -> bool {
        self.ahead.contains(&id) || self.since.contains(&id)
    }
}

/// Reads the current format. A list of an earlier version lacks the findings, so it is ignored and the failures are
/// asked about again.
pub(super) fn known_failures<'de, D>(
    deserializer: D,
) -> std::result::Result<BTreeMap<SnapshotId, KnownFailure>, D::Error>
where
    D: serde::Deserializer<'de>,
{
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Known {
        ByFinding(BTreeMap<SnapshotId, KnownFailure>),
        List(Vec<SnapshotId>),
    }
    Ok(match Known::deserialize(deserializer)? {
        Known::ByFinding(known) => known,
        Known::List(ids) => {
            tracing::debug!("asking again about {} known failures that an earlier version recorded", ids.len());
            BTreeMap::new()
        }
    })
}
