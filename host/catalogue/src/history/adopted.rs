//! Adoption: turns objects without a record, as a shell script with the same keys leaves them, into snapshots.
//!
//! No object is lost because names coincide. Two names for the same time, or a name for the time of a run, become
//! separate snapshots one second apart. Only a certificate that names an object explains it. A script whose dump failed
//! leaves an empty object: the source counts as failed, and nothing is restored from it.

use super::listing::{Found, Keys};
use super::{Object, Snapshot, State};
use crate::configured::{Configured, Environment};
use crate::keys::certificate_key;
use crate::record::{Certificate, Condition, Measure, Outcome};
use base::error::Result;
use base::id::{SnapshotId, Stamp};
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use store::{ObjectKey, Store};

/// How far the id of an adopted snapshot may be from the time in its name if that second is taken. There are fewer name
/// formats than this.
const SECONDS_APART_MAX: i64 = 60;

/// The ids that a snapshot with this time in its name can get, in order of preference.
fn candidate_ids(moment: Stamp) -> impl Iterator<Item = SnapshotId> {
    (0..=SECONDS_APART_MAX).map(move |seconds| SnapshotId::named(moment.after(seconds)))
}

/// Why an object without a record exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Explained {
    /// A certificate of a recorded snapshot names it: its deletion was decided, then interrupted.
    Forgotten {
        /// When the certificate was written, by the store's time.
        since: Timestamp,
    },
    /// The certificate of an adopted snapshot names it: that snapshot is in the bin.
    Binned {
        /// The snapshot.
        id: SnapshotId,
        /// When the certificate was written, by the store's time.
        since: Timestamp,
    },
    /// A certificate of version 1, which names no objects, has the same time: the object may belong to that run or to a
    /// script.
    Unclear,
}

/// Finds out from certificates why objects exist that no record names. Reads only the certificates that could name such
/// an object. After a prune that ended, no such object is left.
///
/// # Errors
/// Those of the store. An unreadable certificate is not an error: what it may name stays.
pub(super) async fn explain(
    store: &Store,
    environment: &Environment,
    keys: &Keys,
    free: &BTreeMap<&ObjectKey, &Found>,
) -> Result<BTreeMap<ObjectKey, Explained>> {
    let near: BTreeSet<SnapshotId> = free
        .values()
        .flat_map(|found| candidate_ids(found.moment))
        .filter(|id| keys.certificates.contains_key(id))
        .collect();
    let mut explained = BTreeMap::new();
    for id in near {
        let Some(since) = keys.certificates.get(&id).copied() else { continue };
        let Some(bytes) = store.get(&certificate_key(environment, id)?).await? else { continue };
        let certificate = match Certificate::parse(&bytes, environment, id) {
            Ok(certificate) => certificate,
            Err(error) => {
                tracing::warn!("{error}");
                // The snapshot is or was in the bin. Objects with this time stay listed, and the certificate is
                // rewritten before they are deleted.
                let own = free.iter().filter(|(_, found)| found.moment == id.stamp());
                explained.extend(own.map(|(key, _)| ((*key).clone(), Explained::Binned { id, since })));
                continue;
            }
        };
        let named = match (&certificate.record_sha256, certificate.due) {
            (None, Some(_)) => Explained::Binned { id, since },
            (Some(_), _) | (None, None) => Explained::Forgotten { since },
        };
        // Version 1 named no objects. A certificate of this version names none if its record could not be read. Objects
        // with this time stay listed.
        if certificate.record_sha256.is_some() && certificate.due.is_none() && certificate.objects.is_empty() {
            let own = free.iter().filter(|(_, found)| found.own && found.moment == id.stamp());
            explained.extend(own.map(|(key, _)| ((*key).clone(), Explained::Unclear)));
        }
        explained.extend(certificate.objects.into_iter().map(|key| (key, named)));
    }
    Ok(explained)
}

/// Makes a snapshot for every time that only unrecorded objects have. A source without an object of that time is
/// carried over from the newest earlier one, because such scripts skip what has not changed.
pub(super) fn adopt<'a>(
    configured: &Configured,
    keys: &Keys,
    under_way: &BTreeSet<SnapshotId>,
    free: impl Iterator<Item = (&'a ObjectKey, &'a Found)>,
    explained: &BTreeMap<ObjectKey, Explained>,
    snapshots: &mut BTreeMap<SnapshotId, Snapshot>,
) {
    let taken: BTreeSet<SnapshotId> =
        snapshots.keys().chain(keys.records.keys()).chain(keys.certificates.keys()).chain(under_way).copied().collect();
    let mut binned: BTreeMap<SnapshotId, (Timestamp, Group)> = BTreeMap::new();
    let mut others = Vec::new();
    for (key, found) in free {
        match explained.get(key) {
            Some(Explained::Binned { id, since }) => {
                let (_, group) = binned.entry(*id).or_insert_with(|| (*since, Group::new()));
                group.insert(found.source.clone(), object(key, found));
            }
            Some(Explained::Forgotten { .. } | Explained::Unclear) => {}
            None => others.push((key, found)),
        }
    }
    let mut all: BTreeMap<SnapshotId, (Option<Timestamp>, Group)> =
        binned.into_iter().map(|(id, (since, group))| (id, (Some(since), group))).collect();
    let named = assign_ids(group_by_moment(others.into_iter()), taken);
    all.extend(named.into_iter().map(|(id, group)| (id, (None, group))));
    let mut newest: BTreeMap<String, Object> = BTreeMap::new();
    for (id, (binned, group)) in all {
        let state = |outcome, object: &Object| State {
            outcome,
            condition: if object.present { Condition::Whole } else { Condition::Failed },
            object: Some(object.clone()),
            fingerprint: None,
            measure: Measure::default(),
            identity: None,
            given_up: false,
        };
        let carried = newest.iter().map(|(source, object)| (source.clone(), state(Outcome::Unchanged, object)));
        let mut sources: BTreeMap<String, State> = carried.collect();
        for (source, object) in group {
            let outcome = if object.present { Outcome::Adopted } else { Outcome::Failed };
            sources.insert(source.clone(), state(outcome, &object));
            if object.present {
                newest.insert(source, object);
            }
        }
        let complete = configured.sources.keys().all(|source| sources.get(source).is_some_and(State::is_restorable));
        // A record that cannot be read stays in sight, or its damage would stop no deletion.
        let adopted = || Snapshot { complete, adopted: true, binned, sources, ..Snapshot::blank(id) };
        snapshots.entry(id).or_insert_with(adopted);
    }
}

/// Objects of one snapshot by source.
type Group = BTreeMap<String, Object>;

fn object(key: &ObjectKey, found: &Found) -> Object {
    let present = found.bytes > 0;
    Object { key: key.clone(), bytes: found.bytes, sha256: None, made: found.moment.moment(), present }
}

/// Groups the objects of each time, one object per source. Another object of the same source starts another group.
/// Names in this program's own format come first.
fn group_by_moment<'a>(free: impl Iterator<Item = (&'a ObjectKey, &'a Found)>) -> BTreeMap<Stamp, Vec<Group>> {
    let mut free: Vec<_> = free.collect();
    free.sort_by_key(|(key, found)| (found.moment, !found.own, *key));
    let mut moments: BTreeMap<Stamp, Vec<Group>> = BTreeMap::new();
    for (key, found) in free {
        let object = object(key, found);
        let groups = moments.entry(found.moment).or_default();
        match groups.iter_mut().find(|group| !group.contains_key(&found.source)) {
            Some(group) => drop(group.insert(found.source.clone(), object)),
            None => groups.push(Group::from([(found.source.clone(), object)])),
        }
    }
    moments
}

/// Gives each group an id. The first group of a time gets that time, unless it is taken. The others get the next free
/// second. A group without a free second is not listed.
fn assign_ids(moments: BTreeMap<Stamp, Vec<Group>>, mut taken: BTreeSet<SnapshotId>) -> BTreeMap<SnapshotId, Group> {
    let mut named = BTreeMap::new();
    let mut others = Vec::new();
    for (moment, groups) in moments {
        let mut groups = groups.into_iter();
        let id = SnapshotId::named(moment);
        if taken.insert(id) {
            named.extend(groups.next().map(|first| (id, first)));
        }
        others.extend(groups.map(|group| (moment, group)));
    }
    for (moment, group) in others {
        match candidate_ids(moment).find(|id| !taken.contains(id)) {
            Some(id) => {
                taken.insert(id);
                named.insert(id, group);
            }
            None => tracing::warn!("an object of {moment} is not listed: every second after it is taken"),
        }
    }
    named
}
