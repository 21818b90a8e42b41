//! Reads a history: one listing, then requests for individual keys.

use super::adopted::{self, Explained};
use super::clocks;
use super::file::{File, environment_file, file_doubt};
use super::listing::{Found, Keys, sort_keys};
use super::{FileDoubt, History, Object, Orphan, Snapshot, State};
use crate::configured::{Configured, Environment};
use crate::environment::{EnvironmentFile, StoredFile};
use crate::keys::{certificate_key, record_key};
use crate::lease;
use crate::proof::{self, Verification};
use crate::record::{ClockDoubt, Condition, Measure, Outcome, Previous, Record, SourceRecord};
use base::error::{Error, Result};
use base::id::SnapshotId;
use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use store::{ObjectKey, Store};

/// Records that are read at the same time. Each is a small request dominated by latency.
const READS_IN_FLIGHT_MAX: usize = 16;

/// Reads an environment's history.
///
/// # Errors
/// Those of the store. An unreadable record is not an error but a damaged snapshot.
pub async fn load(
    store: &Store,
    environment: &Environment,
    configured: &Configured,
    now: Timestamp,
) -> Result<History> {
    load_after(store, environment, configured, now, None).await
}

/// Reads the history again, but only those records that `before` does not have.
pub async fn load_after(
    store: &Store,
    environment: &Environment,
    configured: &Configured,
    now: Timestamp,
    before: Option<&History>,
) -> Result<History> {
    let listed = store.list(&format!("{environment}/")).await?;
    let mut keys = sort_keys(environment, listed.into_iter());
    let File { newest: file, damage, readable_before } = environment_file(store, environment, &keys, before).await?;
    let mut records = read_records(store, environment, &keys, before).await?;
    let sources = known_sources(configured, file.as_ref(), &records);
    keys.objects.retain(|_, found| sources.contains_key(&found.source));
    recheck_objects(store, environment, &mut keys, &mut records).await?;
    let missing = missing_records(store, environment, &keys, file.as_ref(), &records).await?;
    let changed = changed_records(file.as_ref(), &records);
    let file_doubt = match &file {
        Some(newest) => file_doubt(store, environment, newest, &keys, &records).await?,
        None => None,
    };
    let referenced = referenced_objects(&records);
    let free: BTreeMap<&ObjectKey, &Found> = keys.objects.iter().filter(|(key, _)| !referenced.contains(key)).collect();
    // Lease marks and certificates are read only if there are objects that no record names.
    let (announced, explained) = if free.is_empty() {
        (Announced::default(), BTreeMap::new())
    } else {
        let announced = read_announced(store, environment, &keys).await?;
        (announced, adopted::explain(store, environment, &keys, &free).await?)
    };
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

/// What running backups announced that they will make.
#[derive(Debug, Default)]
pub(super) struct Announced {
    pub(super) keys: BTreeSet<ObjectKey>,
    /// Runs of version 1, whose lease marks name no keys.
    pub(super) runs: BTreeSet<SnapshotId>,
    /// Whether a lease mark could not be read, so that any object may be one of its keys.
    pub(super) unclear: bool,
}

/// A record, or why it cannot be read, with the hash of its bytes.
pub(super) type Read = (SnapshotId, Result<Record>, String);

/// Everything else that a history is built from.
pub(super) struct Facts<'a> {
    pub(super) configured: &'a Configured,
    pub(super) file: Option<StoredFile>,
    pub(super) damage: Option<Error>,
    pub(super) readable_before: Option<StoredFile>,
    pub(super) sources: BTreeMap<String, String>,
    pub(super) missing: BTreeSet<SnapshotId>,
    pub(super) changed: BTreeSet<SnapshotId>,
    pub(super) file_doubt: Option<FileDoubt>,
    pub(super) announced: Announced,
    pub(super) explained: BTreeMap<ObjectKey, Explained>,
    pub(super) now: Timestamp,
}

async fn read_records(
    store: &Store,
    environment: &Environment,
    keys: &Keys,
    before: Option<&History>,
) -> Result<Vec<Read>> {
    let known = |id: SnapshotId| {
        let snapshot = before?.snapshot(id)?;
        let record = snapshot.record.clone()?;
        Some((id, Ok(record), snapshot.record_sha256.clone()?))
    };
    let read = |id: SnapshotId| async move {
        if let Some(known) = known(id) {
            return Ok(Some(known));
        }
        // A run that holds the lease may forget a snapshot between the listing and this read.
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

/// Kinds of all sources that are named anywhere. A source that this configuration lacks still exists.
pub(super) fn known_sources(
    configured: &Configured,
    file: Option<&StoredFile>,
    records: &[Read],
) -> BTreeMap<String, String> {
    let mut sources = BTreeMap::new();
    for record in records.iter().filter_map(|(_, record, _)| record.as_ref().ok()) {
        for (name, source) in &record.sources {
            // Most records name the same few sources.
            if !sources.contains_key(name) {
                sources.insert(name.clone(), source.kind.clone());
            }
        }
    }
    if let Some(StoredFile { file, .. }) = file {
        let known = file.retired_sources.iter().chain(&file.sources);
        sources.extend(known.map(|(name, known)| (name.clone(), known.kind.clone())));
    }
    sources.extend(configured.sources.iter().map(|(name, kind)| (name.clone(), kind.name().to_owned())));
    sources
}

fn referenced_objects(records: &[Read]) -> HashSet<&ObjectKey> {
    let records = records.iter().filter_map(|(_, record, _)| record.as_ref().ok());
    let sources = records.flat_map(|record| record.sources.values());
    sources.filter_map(|source| Some(&source.object.as_ref()?.key)).collect()
}

/// Requests each object that a record names and the listing lacked. The listing and the later reads are not atomic: a
/// run may have committed or forgotten something in between, and that must not look like a lost object.
async fn recheck_objects(
    store: &Store,
    environment: &Environment,
    keys: &mut Keys,
    records: &mut Vec<Read>,
) -> Result<()> {
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
    let requests = futures::stream::iter(wanted)
        .map(|(key, ids)| async move { Ok::<_, Error>((store.head(&key).await?, key, ids)) });
    let mut answers = requests.buffer_unordered(READS_IN_FLIGHT_MAX);
    while let Some((meta, key, ids)) = answers.try_next().await? {
        match meta {
            Some(meta) => {
                if let Some(id) = ids.first().copied() {
                    let source = key.as_str().split('/').nth(1).unwrap_or_default().to_owned();
                    let found = Found { bytes: meta.bytes, source, kind: "", moment: id.stamp(), own: false };
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

/// Snapshots that a record or a verification names and that have neither a record nor a certificate. Each key is
/// requested again, because the listing and the later reads are not atomic.
async fn missing_records(
    store: &Store,
    environment: &Environment,
    keys: &Keys,
    file: Option<&StoredFile>,
    records: &[Read],
) -> Result<BTreeSet<SnapshotId>> {
    let has_certificate = |id: &SnapshotId| keys.certificates.contains_key(id) && !keys.empty_certificates.contains(id);
    let is_known = |id: &SnapshotId| {
        keys.records.contains_key(id)
            || has_certificate(id)
            || file.is_some_and(|stored| stored.file.known_breaks.contains(id))
    };
    let mut missing = BTreeSet::new();
    let mut wanted: BTreeSet<SnapshotId> = links(records).map(|previous| previous.id).collect();
    // A snapshot that was adopted from a script's objects had no record.
    let was_adopted = |id: &SnapshotId| keys.objects.values().any(|found| found.moment == id.stamp());
    wanted.extend(keys.empty_certificates.iter().filter(|id| !was_adopted(id)));
    wanted.retain(|id| !is_known(id));
    // A snapshot that was verified and left nothing else had a record, or was adopted from a script's objects, which
    // the script may have deleted.
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

/// The links from records to other records.
fn links(records: &[Read]) -> impl Iterator<Item = &Previous> {
    let records = records.iter().filter_map(|(_, record, _)| record.as_ref().ok());
    records.flat_map(|record| record.previous.iter().chain(&record.witnessed))
}

/// Snapshots whose record can be read but is not the one that a later record names.
fn changed_records(file: Option<&StoredFile>, records: &[Read]) -> BTreeSet<SnapshotId> {
    let hashes: BTreeMap<SnapshotId, &str> =
        records.iter().filter(|(_, record, _)| record.is_ok()).map(|(id, _, sha256)| (*id, sha256.as_str())).collect();
    let differs = |previous: &&Previous| hashes.get(&previous.id).is_some_and(|sha256| *sha256 != previous.sha256);
    let known = |id: &SnapshotId| {
        let edit = |file: &EnvironmentFile| hashes.get(id).is_some_and(|sha256| file.knows_edit(*id, sha256));
        file.is_some_and(|stored| stored.file.retired_snapshots.contains(id) || edit(&stored.file))
    };
    links(records).filter(differs).map(|previous| previous.id).filter(|id| !known(id)).collect()
}

/// Reads what the lease marks of running backups announce.
async fn read_announced(store: &Store, environment: &Environment, keys: &Keys) -> Result<Announced> {
    let mut announced = Announced::default();
    for key in &keys.leases {
        let Some(bytes) = store.get(key).await? else { continue };
        match lease::read_mark(&bytes) {
            Some(mark) if mark.names_keys() => announced.keys.extend(mark.keys),
            Some(mark) => announced.runs.extend(mark.run),
            None => {
                tracing::warn!("{key} of {environment} is not a readable lease mark");
                announced.unclear = true;
            }
        }
    }
    Ok(announced)
}

/// Builds the history from records and objects.
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
                let mut state = State { given_up, ..recorded_state(source, accepted, &makers, &present) };
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
                // A record that was restored after its certificate was written waits again from then on.
                binned: keys
                    .certificates
                    .get(&id)
                    .map(|since| keys.records.get(&id).map_or(*since, |stored| *since.max(stored))),
                sources,
                ..Snapshot::blank(id)
            },
        );
    }
    clocks::mark_disowned(&mut snapshots);
    let damaged = snapshots.values().any(|snapshot| snapshot.damage.is_some());
    let states = snapshots.values().flat_map(|snapshot| snapshot.sources.values());
    let referenced: HashSet<&ObjectKey> = states.filter_map(|state| Some(&state.object.as_ref()?.key)).collect();
    // Objects that a run has stored but not committed are neither a snapshot nor garbage. The lease mark says which run
    // they belong to.
    let announced = &facts.announced;
    let under_way = |key: &ObjectKey, found: &Found| {
        announced.keys.contains(key)
            || found.own && (announced.unclear || announced.runs.contains(&SnapshotId::named(found.moment)))
    };
    let free: Vec<(&ObjectKey, &Found)> =
        keys.objects.iter().filter(|(key, found)| !referenced.contains(key) && !under_way(key, found)).collect();
    let orphan = |(key, found): &(&ObjectKey, &Found)| match facts.explained.get(*key) {
        Some(Explained::Forgotten { since }) => Some(Orphan { key: (*key).clone(), bytes: found.bytes, since: *since }),
        Some(Explained::Binned { .. } | Explained::Unclear) | None => None,
    };
    // A record that cannot be read may refer to any of them.
    let orphans = if damaged { Vec::new() } else { free.iter().filter_map(orphan).collect() };
    let is_of_its_kind = |found: &Found| facts.sources.get(&found.source).is_none_or(|kind| kind == found.kind);
    let fitting = free.into_iter().filter(|(_, found)| is_of_its_kind(found));
    adopted::adopt(facts.configured, keys, &announced.runs, fitting, &facts.explained, &mut snapshots);
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
            // A person may have confirmed its time, under any clock.
            snapshot.clock_doubted |= !is_ahead && !file.is_some_and(|file| file.trusted_times.contains(&snapshot.id));
        }
        snapshot.undecided = file.is_some_and(|file| file.is_undecided(snapshot.id));
        snapshot.clock_doubted |= file.is_some_and(|file| file.doubted_times.contains(&snapshot.id));
        snapshot.misplaced |= file.is_some_and(|file| file.is_overruled(snapshot.id));
        snapshot.verification_state = proof::verification_state(&verifications, snapshot.id, facts.now);
        if !snapshot.adopted {
            snapshot.complete = snapshot.is_complete();
        }
    }
    let forgotten = keys.certificates.iter().filter(|(id, _)| !snapshots.contains_key(id));
    let forgotten = forgotten.map(|(id, since)| (*id, *since)).collect();
    let mut snapshots: Vec<Snapshot> = snapshots.into_values().collect();
    clocks::set_facts(&mut snapshots);
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

/// The condition and measure of each object, from the record of the run that made it. Records of version 1 that carried
/// an object over did not repeat them.
fn makers(records: &[Read]) -> BTreeMap<ObjectKey, (Condition, Measure)> {
    let records = records.iter().filter_map(|(_, record, _)| record.as_ref().ok());
    let made = records.flat_map(|record| record.sources.values()).filter(|source| source.outcome == Outcome::Saved);
    let entry =
        |source: &SourceRecord| Some((source.object.as_ref()?.key.clone(), (source.condition(), source.measured())));
    made.filter_map(entry).collect()
}

fn recorded_state(
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
        fingerprint: source.fingerprint.clone(),
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
