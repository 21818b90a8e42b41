//! What answers of a person say of snapshots, as it is persisted.

use base::id::SnapshotId;
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

/// A failed verification that a person knows of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownFailure {
    /// The newest one when the person said so: a later one is not known.
    pub at: SnapshotId,
    /// What it found, each as `source: problem`. The same found again is known too.
    pub problems: BTreeSet<String>,
}

/// Snapshots of two clocks of which one was wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RivalClocks {
    /// Those that were from the future when a person said so.
    pub ahead: BTreeSet<SnapshotId>,
    /// Those that were recorded since then, at times that came before the last of these.
    pub since: BTreeSet<SnapshotId>,
    /// Whether a person said which was right. What the runs since then say of it is no person's word.
    #[serde(default)]
    pub by_person: bool,
}

impl RivalClocks {
    /// Whether a snapshot is of one of them.
    #[must_use]
    pub fn has(&self, id: SnapshotId) -> bool {
        self.ahead.contains(&id) || self.since.contains(&id)
    }
}

/// What a list says of its snapshots is less than what is asked now, so it says nothing and they are asked about again.
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
            tracing::debug!("{} known failures of an earlier version are asked about again", ids.len());
            BTreeMap::new()
        }
    })
}
