//! Reading a history: one listing, then what it has to ask for by name.

use super::adopted::{self, Explained};
use super::clocks;
use super::file::{File, environment_file, file_doubt};
use super::listing::{Found, Keys, sort};
use super::{FileDoubt, History, Object, Orphan, Snapshot, State};
use crate::configured::{Configured, Environment};
use crate::environment::{EnvironmentFile, Stored};
use crate::keys::{certificate_key, record_key};
use crate::lease;
use crate::proof::{self, Verification};
use crate::record::{ClockDoubt, Condition, Measure, Outcome, Previous, Record, SourceRecord};
use base::error::{Error, Result};
use base::id::SnapshotId;
use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use store::{ObjectKey, Store};

/// Records that are read at the same time. Each is a small request whose time is all latency.
const READS_IN_FLIGHT_MAX: usize = 16;

/// Reads an environment's history.
///
/// # Errors
/// The store's. A record that cannot be read is no error here but a damaged snapshot.
pub async fn load(
    store: &Store,
    environment: &Environment,
    configured: &Configured,
    now: Timestamp,
) -> Result<History> {
    load_after(store, environment, configured, now, None).await
}

/// Reads it again, and of the records only those that `before` does not have.
///
/// # Errors
/// As [`load`].
pub async fn load_after(
    store: &Store,
    environment: &Environment,
    configured: &Configured,
    now: Timestamp,
    before: Option<&History>,
) -> Result<History> {
    let listed = store.list(&format!("{environment}/")).await?;
    let mut keys = sort(environment, listed.into_iter());
    let File { newest: file, damage, readable_before } = environment_file(store, environment, &keys, before).await?;
    let mut records = records(store, environment, &keys, before).await?;
    let sources = sources(configured, file.as_ref(), &records);
    keys.objects.retain(|_, found| sources.contains_key(&found.source));
    look_again(store, environment, &mut keys, &mut records).await?;
    let missing = missing(store, environment, &keys, file.as_ref(), &records).await?;
    let changed = changed(file.as_ref(), &records);
    let file_doubt = match &file {
        Some(newest) => file_doubt(store, environment, newest, &keys, &records).await?,
        None => None,
    };
    let referenced = referenced(&records);
    let free: BTreeMap<&ObjectKey, &Found> = keys.objects.iter().filter(|(key, _)| !referenced.contains(key)).collect();
    // Marks and certificates are read only where something is there that no record names.
    let announced = if free.is_empty() { Announced::default() } else { announced(store, environment, &keys).await? };
    let explained =
        if free.is_empty() { BTreeMap::new() } else { adopted::explained(store, environment, &keys, &free).await? };
    let facts = Facts {
        configured,
        file,
        damage,
        readable_before,
        sources,
        missing,
        changed,
        file_doubt,
        announced,
        explained,
        now,
    };
    Ok(build(&keys, records, facts))
}

/// What runs under way said that they would make.
#[derive(Debug, Default)]
pub(super) struct Announced {
    pub(super) keys: BTreeSet<ObjectKey>,
    /// Runs of version 1, whose marks name no keys.
    pub(super) runs: BTreeSet<SnapshotId>,
    /// A mark could not be read: anything may be one of its keys.
    pub(super) unclear: bool,
}

/// A record that was read, or why it cannot be, with the hash of its bytes.
pub(super) type Read = (SnapshotId, Result<Record>, String);

/// What else a history is built of.
pub(super) struct Facts<'a> {
    pub(super) configured: &'a Configured,
    pub(super) file: Option<Stored>,
    pub(super) damage: Option<Error>,
    pub(super) readable_before: Option<Stored>,
    pub(super) sources: BTreeMap<String, String>,
    pub(super) missing: BTreeSet<SnapshotId>,
    pub(super) changed: BTreeSet<SnapshotId>,
    pub(super) file_doubt: Option<FileDoubt>,
    pub(super) announced: Announced,
    pub(super) explained: BTreeMap<ObjectKey, Explained>,
    pub(super) now: Timestamp,
}

async fn records(store: &Store, environment: &Environment, keys: &Keys, before: Option<&History>) -> Result<Vec<Read>> {
    let known = |id: SnapshotId| {
        let snapshot = before?.snapshots.iter().find(|snapshot| snapshot.id == id)?;
        let record = snapshot.record.clone()?;
        Some((id, Ok(record), snapshot.record_sha256.clone()?))
    };
    let read = |id: SnapshotId| async move {
        if let Some(known) = known(id) {
            return Ok(Some(known));
        }
        // Forgotten between the listing and the read, by a run that holds the lease while this one only looks.
        let Some(bytes) = store.get(&record_key(environment, id)?).await? else { return Ok(None) };
        let parsed = Record::parse(&bytes, environment.as_str(), id);
        Ok::<_, Error>(Some((id, parsed, hex::encode(Sha256::digest(&bytes)))))
    };
    let read: Vec<Option<Read>> = futures::stream::iter(keys.records.keys().copied())
        .map(read)
        .buffer_unordered(READS_IN_FLIGHT_MAX)
        .try_collect()
        .await?;
    let mut records: Vec<Read> = read.into_iter().flatten().collect();
    records.sort_unstable_by_key(|(id, ..)| *id);
    Ok(records)
}

/// Kinds of the sources that anything names: what one configuration leaves out is there all the same.
pub(super) fn sources(configured: &Configured, file: Option<&Stored>, records: &[Read]) -> BTreeMap<String, String> {
    let mut sources = BTreeMap::new();
    for record in records.iter().filter_map(|(_, record, _)| record.as_ref().ok()) {
        for (name, source) in &record.sources {
            // Most records name the same few sources.
            if !sources.contains_key(name) {
                sources.insert(name.clone(), source.kind.clone());
            }
        }
    }
    if let Some(Stored { file, .. }) = file {
        let known = file.retired_sources.iter().chain(&file.sources);
        sources.extend(known.map(|(name, known)| (name.clone(), known.kind.clone())));
    }
    sources.extend(configured.sources.iter().map(|(name, kind)| (name.clone(), kind.name().to_owned())));
    sources
}

fn referenced(records: &[Read]) -> BTreeSet<ObjectKey> {
    let records = records.iter().filter_map(|(_, record, _)| record.as_ref().ok());
    records
        .flat_map(|record| record.sources.values())
        .filter_map(|source| Some(source.object.as_ref()?.key.clone()))
        .collect()
}

/// Asks for each object that a record names and the listing did not have. A listing and the reads after it are no single
/// moment: a run may have committed or forgotten something in between, and a missing object must not be a mere coincidence.
async fn look_again(store: &Store, environment: &Environment, keys: &mut Keys, records: &mut Vec<Read>) -> Result<()> {
    let mut wanted: BTreeMap<ObjectKey, BTreeSet<SnapshotId>> = BTreeMap::new();
    for (id, record, _) in records.iter() {
        let objects = record.iter().flat_map(|record| record.sources.values()).filter_map(|s| s.object.as_ref());
        for object in objects {
            if keys.objects.get(&object.key).is_none_or(|found| found.bytes != object.bytes) {
                wanted.entry(object.key.clone()).or_default().insert(*id);
            }
        }
    }
    let mut suspects = BTreeSet::new();
    let looks = futures::stream::iter(wanted)
        .map(|(key, ids)| async move { Ok::<_, Error>((store.head(&key).await?, key, ids)) });
    let mut looks = looks.buffer_unordered(READS_IN_FLIGHT_MAX);
    while let Some((meta, key, ids)) = looks.try_next().await? {
        match meta {
            Some(meta) => {
                if let Some(id) = ids.first().copied() {
                    let source = key.as_str().split('/').nth(1).unwrap_or_default().to_owned();
                    let found = Found { bytes: meta.bytes, source, kind: "", moment: id, own: false };
                    keys.objects.insert(key, found);
                }
            }
            None => suspects.extend(ids),
        }
    }
    let mut gone = BTreeSet::new();
    for id in suspects {
        if store.head(&record_key(environment, id)?).await?.is_none() {
            gone.insert(id);
        }
    }
    records.retain(|(id, ..)| !gone.contains(id));
    for id in gone {
        keys.records.remove(&id);
    }
    Ok(())
}

/// Snapshots that a record names as the one before it and that left nothing else. Each is asked for by name, because a listing and the
/// reads after it are no single moment.
async fn missing(
    store: &Store,
    environment: &Environment,
    keys: &Keys,
    file: Option<&Stored>,
    records: &[Read],
) -> Result<BTreeSet<SnapshotId>> {
    let has_certificate = |id: &SnapshotId| keys.certificates.contains_key(id) && !keys.empty_certificates.contains(id);
    let is_known = |id: &SnapshotId| {
        keys.records.contains_key(id)
            || has_certificate(id)
            || file.is_some_and(|stored| stored.file.known_breaks.contains(id))
    };
    let mut missing = BTreeSet::new();
    let mut wanted: BTreeSet<SnapshotId> = named(records).map(|previous| previous.id).collect();
    // What was made from a script's objects had no record.
    let was_adopted = |id: &SnapshotId| keys.objects.values().any(|found| found.moment == *id);
    wanted.extend(keys.empty_certificates.iter().filter(|id| !was_adopted(id)));
    wanted.retain(|id| !is_known(id));
    // What was verified and left nothing else had a record, or was made from a script's objects, which a script may take away.
    for mark in keys.verified.iter().filter(|mark| mark.passed && !is_known(&mark.snapshot)) {
        let bytes = store.get(&mark.key(environment)?).await?;
        let seen = bytes.and_then(|bytes| Verification::parse(&bytes).ok()).and_then(|seen| seen.record_sha256);
        wanted.extend(seen.map(|_| mark.snapshot));
    }
    for id in wanted {
        let there = store.head(&record_key(environment, id)?).await?.is_some()
            || store.head(&certificate_key(environment, id)?).await?.is_some_and(|found| found.bytes > 0);
        if !there {
            missing.insert(id);
        }
    }
    Ok(missing)
}

/// What records say of other records.
fn named(records: &[Read]) -> impl Iterator<Item = &Previous> {
    let records = records.iter().filter_map(|(_, record, _)| record.as_ref().ok());
    records.flat_map(|record| record.previous.iter().chain(&record.witnessed))
}

/// Snapshots whose record can be read and is not what a later one names.
pub(super) fn changed(file: Option<&Stored>, records: &[Read]) -> BTreeSet<SnapshotId> {
    let hashes: BTreeMap<SnapshotId, &str> =
        records.iter().filter(|(_, record, _)| record.is_ok()).map(|(id, _, sha256)| (*id, sha256.as_str())).collect();
    let differs = |previous: &&Previous| hashes.get(&previous.id).is_some_and(|sha256| *sha256 != previous.sha256);
    let known = |id: &SnapshotId| {
        let edit = |file: &EnvironmentFile| hashes.get(id).is_some_and(|sha256| file.knows_edit(*id, sha256));
        file.is_some_and(|stored| stored.file.retired_snapshots.contains(id) || edit(&stored.file))
    };
    named(records).filter(differs).map(|previous| previous.id).filter(|id| !known(id)).collect()
}

/// What the marks of runs under way name.
async fn announced(store: &Store, environment: &Environment, keys: &Keys) -> Result<Announced> {
    let mut announced = Announced::default();
    for key in &keys.leases {
        let Some(bytes) = store.get(key).await? else { continue };
        match lease::read_mark(&bytes) {
            Some(mark) if mark.names_keys() => announced.keys.extend(mark.keys),
            Some(mark) => announced.runs.extend(mark.run),
            None => {
                tracing::warn!("{key} of {environment} is not a readable mark of a lease");
                announced.unclear = true;
            }
        }
    }
    Ok(announced)
}

/// Puts records and objects together.
pub(super) fn build(keys: &Keys, records: Vec<Read>, facts: Facts<'_>) -> History {
    let present = |key: &ObjectKey, bytes: u64| keys.objects.get(key).is_some_and(|found| found.bytes == bytes);
    let file = facts.file.as_ref().map(|stored| &stored.file);
    let makers = makers(&records);
    let mut snapshots: BTreeMap<SnapshotId, Snapshot> = BTreeMap::new();
    for (id, record, sha256) in records {
        let (record, damage) = match record {
            Ok(record) => (Some(record), None),
            Err(error) => (None, Some(error)),
        };
        let named = record.iter().flat_map(|record| &record.sources);
        let sources: BTreeMap<String, State> = named
            .map(|(name, source)| {
                let accepted = file.is_some_and(|file| file.has_accepted(id, name));
                let given_up = file.is_some_and(|file| file.has_given_up(id, name));
                let mut state = State { given_up, ..state(source, accepted, &makers, &present) };
                if state.condition == Condition::Whole && !accepted && file.is_some_and(|f| f.is_suspected(id, name)) {
                    state.condition = Condition::Suspect;
                }
                (name.clone(), state)
            })
            .collect();
        let doubt = record.as_ref().and_then(|record| record.clock_doubt);
        let doubt = doubt.filter(|_| !file.is_some_and(|file| file.trusted_times.contains(&id)));
        snapshots.insert(
            id,
            Snapshot {
                record,
                record_sha256: Some(sha256),
                stored: keys.records.get(&id).copied(),
                damage,
                clock_doubted: doubt.is_some(),
                misplaced: doubt.is_some_and(ClockDoubt::misplaces),
                // A record that was put back after its certificate waits anew.
                binned: keys
                    .certificates
                    .get(&id)
                    .map(|since| keys.records.get(&id).map_or(*since, |stored| *since.max(stored))),
                sources,
                ..Snapshot::blank(id)
            },
        );
    }
    clocks::disown(&mut snapshots);
    let damaged = snapshots.values().any(|snapshot| snapshot.damage.is_some());
    let referenced: BTreeSet<ObjectKey> = snapshots
        .values()
        .flat_map(|snapshot| snapshot.sources.values())
        .filter_map(|state| state.object.as_ref().map(|object| object.key.clone()))
        .collect();
    // What a run has stored and not committed yet is neither a snapshot nor garbage: the lease's mark says whose it is.
    let announced = &facts.announced;
    let under_way = |key: &ObjectKey, found: &Found| {
        announced.keys.contains(key) || found.own && (announced.unclear || announced.runs.contains(&found.moment))
    };
    let free: Vec<(&ObjectKey, &Found)> =
        keys.objects.iter().filter(|(key, found)| !referenced.contains(key) && !under_way(key, found)).collect();
    let orphan = |(key, found): &(&ObjectKey, &Found)| match facts.explained.get(*key) {
        Some(Explained::Forgotten { since }) => Some(Orphan { key: (*key).clone(), bytes: found.bytes, since: *since }),
        Some(Explained::Binned { .. } | Explained::Unclear) | None => None,
    };
    // A record that cannot be read may refer to any of them.
    let orphans = if damaged { Vec::new() } else { free.iter().filter_map(orphan).collect() };
    adopted::adopt(facts.configured, keys, &announced.runs, free.into_iter(), &facts.explained, &mut snapshots);
    let mut verifications = keys.verified.clone();
    verifications.sort_unstable();
    for snapshot in snapshots.values_mut() {
        let kept = file.is_some_and(|file| file.kept.contains(&snapshot.id));
        snapshot.pinned = kept || facts.configured.pinned.contains(&snapshot.id);
        snapshot.retired = file.is_some_and(|file| file.retired_snapshots.contains(&snapshot.id));
        snapshot.retired |= snapshot.damage.is_some() && file.is_some_and(|file| file.has_given_up_record(snapshot.id));
        snapshot.ahead = crate::clock::is_ahead(snapshot.id, facts.now);
        if file.is_some_and(|file| file.retired_ahead.contains(&snapshot.id)) {
            let is_ahead = snapshot.ahead;
            snapshot.early = is_ahead && !snapshot.retired && !snapshot.disowned && snapshot.damage.is_none();
            snapshot.retired |= is_ahead;
            // A person may have called its time right, under whatever clock.
            snapshot.clock_doubted |= !is_ahead && !file.is_some_and(|file| file.trusted_times.contains(&snapshot.id));
        }
        snapshot.undecided = file.is_some_and(|file| file.is_undecided(snapshot.id));
        snapshot.clock_doubted |= file.is_some_and(|file| file.doubted_times.contains(&snapshot.id));
        snapshot.misplaced |= file.is_some_and(|file| file.is_overruled(snapshot.id));
        snapshot.standing = proof::standing(&verifications, snapshot.id, facts.now);
        if !snapshot.adopted {
            snapshot.complete = snapshot.is_complete();
        }
    }
    let forgotten = keys.certificates.iter().filter(|(id, _)| !snapshots.contains_key(id));
    let forgotten = forgotten.map(|(id, since)| (*id, *since)).collect();
    let mut snapshots: Vec<Snapshot> = snapshots.into_values().collect();
    clocks::tell(&mut snapshots);
    History {
        snapshots,
        orphans,
        forgotten,
        missing: facts.missing,
        changed: facts.changed,
        file_doubt: facts.file_doubt,
        verifications,
        environment: facts.file,
        environment_damage: facts.damage,
        readable_before: facts.readable_before,
        sources: facts.sources,
        newest_file: keys.environment_files.last().copied(),
        stamps: keys.stamps.clone(),
    }
}

/// What the records of version 1 say of the objects that they made: those that carried one over said nothing of it.
fn makers(records: &[Read]) -> BTreeMap<ObjectKey, (Condition, Measure)> {
    let records = records.iter().filter_map(|(_, record, _)| record.as_ref().ok());
    let made = records.flat_map(|record| record.sources.values()).filter(|source| source.outcome == Outcome::Saved);
    let said =
        |source: &SourceRecord| Some((source.object.as_ref()?.key.clone(), (source.condition(), source.measured())));
    made.filter_map(said).collect()
}

fn state(
    source: &SourceRecord,
    accepted: bool,
    makers: &BTreeMap<ObjectKey, (Condition, Measure)>,
    present: &impl Fn(&ObjectKey, u64) -> bool,
) -> State {
    let maker = source.object.as_ref().and_then(|object| makers.get(&object.key));
    let condition = match source.condition {
        Some(Condition::Suspect) if accepted => Condition::Whole,
        Some(condition) => condition,
        None => maker.map_or_else(|| source.condition(), |(condition, _)| *condition),
    };
    State {
        outcome: source.outcome,
        condition,
        fingerprint: source.fingerprint.clone().unwrap_or_default(),
        measure: maker
            .filter(|_| source.measured() == Measure::default())
            .map_or_else(|| source.measured(), |(_, measure)| *measure),
        identity: source.identity.clone(),
        given_up: false,
        object: source.object.as_ref().map(|object| Object {
            key: object.key.clone(),
            bytes: object.bytes,
            sha256: Some(object.sha256.clone()),
            made: object.made,
            present: present(&object.key, object.bytes),
        }),
    }
}
