//! The history of an environment: every snapshot that the store holds, and which objects are really there.
//!
//! One listing answers what exists; the records are then read side by side. Objects without a record, as a shell
//! script with the same keys leaves them, are adopted as snapshots. Nothing here writes.

mod adopted;
mod keys;
#[cfg(test)]
mod tests;

pub use keys::{certificate_key, key, record_key};

use crate::config::{Environment, EnvironmentConfig};
use crate::error::{Error, Result};
use crate::guard::Subject;
use crate::proof::Mark;
use crate::snapshot::{ObjectRecord, Outcome, Record, SnapshotId};
use crate::store::{ObjectKey, Store};
use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use keys::{Found, Keys, sort};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// Records that are read at the same time. Each is a small request whose time is all latency.
const READS_IN_FLIGHT_MAX: usize = 16;

/// One snapshot as the store holds it.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Its id.
    pub id: SnapshotId,
    /// Its record; none for an adopted one and for one whose record cannot be read.
    pub record: Option<Record>,
    /// SHA-256 of the record's bytes.
    pub record_sha256: Option<String>,
    /// Why the record cannot be read.
    pub damage: Option<Error>,
    /// Whether every configured source is restorable from it, going by its record and by what is there.
    pub complete: bool,
    /// Whether it was made from objects without a record.
    pub adopted: bool,
    /// Whether its last verification succeeded.
    pub verified: bool,
    /// Whether the configuration pins it.
    pub pinned: bool,
    /// The state of each source.
    pub sources: BTreeMap<String, State>,
}

/// One source in one snapshot.
#[derive(Debug, Clone)]
pub struct State {
    /// What became of it in that run.
    pub outcome: Outcome,
    /// The object that holds it.
    pub object: Option<Object>,
    /// The fingerprint it had; empty when none is known.
    pub fingerprint: String,
}

/// An object that a snapshot refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its key.
    pub key: ObjectKey,
    /// The size that it must have.
    pub bytes: u64,
    /// SHA-256 of its bytes; none for an adopted one, of which nobody recorded it.
    pub sha256: Option<String>,
    /// When the run that made it began.
    pub made: Timestamp,
    /// Whether the store holds it at that size. An empty one of an adopted snapshot holds nothing.
    pub present: bool,
}

/// Everything that the store holds of an environment.
#[derive(Debug)]
pub struct History {
    /// Oldest first.
    pub snapshots: Vec<Snapshot>,
    /// Objects that no snapshot refers to and that a certificate or a record of the same id accounts for.
    pub orphans: Vec<(ObjectKey, u64)>,
    /// Ids of forgotten snapshots.
    pub forgotten: BTreeSet<SnapshotId>,
    /// Verifications, by snapshot and then by time; also of snapshots that are forgotten.
    pub verifications: Vec<Mark>,
}

/// Reads an environment's history.
///
/// # Errors
/// The store's. A record that cannot be read is no error here but a damaged snapshot.
pub async fn load(store: &Store, environment: &Environment, config: &EnvironmentConfig) -> Result<History> {
    let listed = store.list(&format!("{environment}/")).await?;
    let keys = sort(environment, config, listed.into_iter().map(|meta| (meta.key, meta.bytes)));
    let read = |id: SnapshotId| async move {
        let bytes = store.get(&record_key(environment, id)?).await?;
        Ok::<_, Error>((id, bytes))
    };
    let mut records: Vec<_> = futures::stream::iter(keys.records.iter().copied())
        .map(read)
        .buffer_unordered(READS_IN_FLIGHT_MAX)
        .try_collect()
        .await?;
    records.sort_unstable_by_key(|(id, _)| *id);
    let explained = adopted::explained(store, environment, &keys).await?;
    let records = records
        .into_iter()
        // Forgotten between the listing and the read, by a run that holds the lease while this one only looks.
        .filter_map(|(id, bytes)| Some((id, bytes?)))
        .map(|(id, bytes)| (id, Record::parse(&bytes, environment.as_str(), id), hex::encode(Sha256::digest(&bytes))))
        .collect();
    Ok(build(config, &keys, records, &explained))
}

/// Puts records and objects together.
fn build(
    config: &EnvironmentConfig,
    keys: &Keys,
    records: Vec<(SnapshotId, Result<Record>, String)>,
    explained: &BTreeSet<ObjectKey>,
) -> History {
    let present = |key: &ObjectKey, bytes: u64| keys.objects.get(key).is_some_and(|found| found.bytes == bytes);
    let mut snapshots: BTreeMap<SnapshotId, Snapshot> = BTreeMap::new();
    for (id, record, sha256) in records {
        let (record, damage) = match record {
            Ok(record) => (Some(record), None),
            Err(error) => (None, Some(error)),
        };
        let sources: BTreeMap<String, State> = record
            .as_ref()
            .map(|record| record.sources.iter().map(|(name, source)| (name.clone(), state(source, &present))).collect())
            .unwrap_or_default();
        let complete = record.as_ref().is_some_and(|record| record.complete)
            && sources.values().all(|state| state.object.as_ref().is_some_and(|object| object.present));
        snapshots.insert(
            id,
            Snapshot {
                id,
                record,
                record_sha256: Some(sha256),
                damage,
                complete,
                adopted: false,
                verified: keys.is_verified(id),
                pinned: config.pinned.contains(&id),
                sources,
            },
        );
    }
    let damaged = snapshots.values().any(|snapshot| snapshot.damage.is_some());
    let referenced: BTreeSet<ObjectKey> = snapshots
        .values()
        .flat_map(|snapshot| snapshot.sources.values())
        .filter_map(|state| state.object.as_ref().map(|object| object.key.clone()))
        .collect();
    // What a run has stored and not committed yet is neither a snapshot nor garbage: the lease's mark says whose it is.
    let free: Vec<(&ObjectKey, &Found)> = keys
        .objects
        .iter()
        .filter(|(key, _)| !referenced.contains(key))
        .filter(|(_, found)| !found.own || !keys.under_way.contains(&found.moment))
        .collect();
    // A run's record or certificate explains what has that run's name, and a certificate whatever it names.
    let accounted = |key: &ObjectKey, found: &Found| {
        let id = &found.moment;
        explained.contains(key) || found.own && (keys.forgotten.contains(id) || keys.records.contains(id))
    };
    let orphans = free
        .iter()
        // A record that cannot be read may refer to any of them.
        .filter(|(key, found)| accounted(key, found) && !damaged)
        .map(|(key, found)| ((*key).clone(), found.bytes))
        .collect();
    adopted::adopt(config, keys, free.into_iter().filter(|(key, found)| !accounted(key, found)), &mut snapshots);
    let mut verifications = keys.verified.clone();
    verifications.sort_unstable();
    History { snapshots: snapshots.into_values().collect(), orphans, forgotten: keys.forgotten.clone(), verifications }
}

fn state(source: &crate::snapshot::SourceRecord, present: &impl Fn(&ObjectKey, u64) -> bool) -> State {
    State {
        outcome: source.outcome,
        fingerprint: source.fingerprint.clone().unwrap_or_default(),
        object: source.object.as_ref().map(|object| Object {
            key: object.key.clone(),
            bytes: object.bytes,
            sha256: Some(object.sha256.clone()),
            made: object.made,
            present: present(&object.key, object.bytes),
        }),
    }
}

impl History {
    /// The newest recorded object that holds a state of a source, with that state. Snapshots from the future, made
    /// under a wrong clock, would hide every later state, and of an adopted object nobody knows what it should be.
    #[must_use]
    pub fn carried(&self, source: &str, now: Timestamp) -> Option<(&State, ObjectRecord)> {
        self.past(now).find_map(|snapshot| {
            let state = snapshot.sources.get(source)?;
            let object = state.object.as_ref()?;
            let record = ObjectRecord {
                key: object.key.clone(),
                bytes: object.bytes,
                sha256: object.sha256.clone()?,
                made: object.made,
            };
            Some((state, record))
        })
    }

    /// Adds the snapshot of a record that was just written, with every object of it there.
    pub fn add(&mut self, record: Record, sha256: String) {
        let sources = record.sources.iter().map(|(name, source)| (name.clone(), state(source, &|_, _| true))).collect();
        let snapshot = Snapshot {
            id: record.id,
            complete: record.complete,
            adopted: false,
            verified: false,
            pinned: false,
            damage: None,
            sources,
            record: Some(record),
            record_sha256: Some(sha256),
        };
        let place = self.snapshots.partition_point(|other| other.id < snapshot.id);
        self.snapshots.insert(place, snapshot);
    }

    /// The newest snapshot with a readable record that is not from the future.
    #[must_use]
    pub fn previous(&self, now: Timestamp) -> Option<&Snapshot> {
        self.past(now).find(|snapshot| snapshot.record.is_some())
    }

    fn past(&self, now: Timestamp) -> impl Iterator<Item = &Snapshot> {
        self.snapshots.iter().rev().filter(move |snapshot| snapshot.id.taken() <= now)
    }

    /// Whether an id is taken, by a snapshot or by the certificate of one.
    #[must_use]
    pub fn knows(&self, id: SnapshotId) -> bool {
        self.forgotten.contains(&id) || self.snapshots.iter().any(|snapshot| snapshot.id == id)
    }

    /// Snapshots whose record cannot be read.
    pub fn damaged(&self) -> impl Iterator<Item = &Error> {
        self.snapshots.iter().filter_map(|snapshot| snapshot.damage.as_ref())
    }

    /// What the guard needs to know.
    #[must_use]
    pub fn subjects(&self) -> Vec<Subject> {
        self.snapshots
            .iter()
            .map(|snapshot| Subject {
                id: snapshot.id,
                complete: snapshot.complete,
                verified: snapshot.verified,
                pinned: snapshot.pinned,
                adopted: snapshot.adopted,
                damaged: snapshot.damage.is_some(),
                sources: snapshot
                    .sources
                    .iter()
                    .filter(|(_, state)| state.object.as_ref().is_some_and(|object| object.present))
                    .map(|(source, _)| source.clone())
                    .collect(),
            })
            .collect()
    }

    /// Objects that nothing would refer to once some snapshots are forgotten, with those that nothing refers to now.
    /// None at all while a record cannot be read, because it may refer to any of them.
    #[must_use]
    pub fn unreferenced_without(&self, forgotten: &BTreeSet<SnapshotId>) -> Vec<(ObjectKey, u64)> {
        if self.damaged().next().is_some() {
            return Vec::new();
        }
        let objects = |keep: bool| {
            self.snapshots
                .iter()
                .filter(move |snapshot| forgotten.contains(&snapshot.id) != keep)
                .flat_map(|snapshot| snapshot.sources.values())
                .filter_map(|state| state.object.as_ref())
        };
        let needed: BTreeSet<&ObjectKey> = objects(true).map(|object| &object.key).collect();
        let mut free: BTreeMap<ObjectKey, u64> = objects(false)
            .filter(|object| !needed.contains(&object.key))
            .map(|object| (object.key.clone(), object.bytes))
            .collect();
        free.extend(self.orphans.iter().cloned());
        free.into_iter().collect()
    }
}

impl State {
    /// Whether the source can be restored from it, going by what is there.
    #[must_use]
    pub fn is_restorable(&self) -> bool {
        self.object.as_ref().is_some_and(|object| object.present)
    }
}

impl Snapshot {
    /// The objects that it was made from, where no record was; those that it carries over belong to another one.
    pub fn adopted_objects(&self) -> impl Iterator<Item = &ObjectKey> {
        let own = self.sources.values().filter(|state| matches!(state.outcome, Outcome::Adopted | Outcome::Failed));
        own.filter(|_| self.adopted).filter_map(|state| state.object.as_ref()).map(|object| &object.key)
    }

    /// Size of all objects that it refers to.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.sources.values().filter_map(|state| state.object.as_ref()).map(|object| object.bytes).sum()
    }
}
