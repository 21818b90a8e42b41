//! The history of an environment: every snapshot that the store holds, and which objects are really there.
//!
//! One listing answers what exists; the records are then read side by side. Objects without a record, as a shell
//! script with the same keys leaves them, are adopted as snapshots. Nothing here writes.

mod adopted;
mod keys;
#[cfg(test)]
pub(crate) mod tests;

pub use keys::{certificate_key, key, record_key};

use crate::config::{Environment, EnvironmentConfig};
use crate::environment::{EnvironmentFile, Stored, file_key};
use crate::error::{Error, Result};
use crate::guard::Subject;
use crate::lease;
use crate::proof::{self, Mark, Standing};
use crate::snapshot::{Condition, Measure, ObjectRecord, Outcome, Record, SnapshotId};
use crate::store::{ObjectKey, Store};
use adopted::Explained;
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
    /// When the record was written, by the store's time.
    pub stored: Option<Timestamp>,
    /// Why the record cannot be read.
    pub damage: Option<Error>,
    /// Whether every source that it names is whole and there.
    pub complete: bool,
    /// Whether it was made from objects without a record.
    pub adopted: bool,
    /// What its verifications come to.
    pub standing: Standing,
    /// Whether the configuration pins it, or `unforget` keeps it.
    pub pinned: bool,
    /// Whether a person said that it serves nothing.
    pub retired: bool,
    /// Whether its time is doubted, and nobody said that it is right.
    pub clock_doubted: bool,
    /// Since when it lies in the bin, by the store's time; none where it does not.
    pub binned: Option<Timestamp>,
    /// The state of each source.
    pub sources: BTreeMap<String, State>,
}

/// One source in one snapshot.
#[derive(Debug, Clone)]
pub struct State {
    /// What became of it in that run.
    pub outcome: Outcome,
    /// How much of the source the object holds. A suspect state that a person accepted is whole.
    pub condition: Condition,
    /// The object that holds it.
    pub object: Option<Object>,
    /// The fingerprint it had; empty when none is known.
    pub fingerprint: String,
    /// How much it held.
    pub measure: Measure,
    /// Which database it was.
    pub identity: Option<String>,
    /// Whether a person knows that its object is lost.
    pub given_up: bool,
}

/// Whether the state of a source in a snapshot can answer for a point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Serves {
    /// Not at all.
    Nothing,
    /// Only where no other one does: it is partial, suspect, disproved, or of a doubted time.
    Second,
    /// It is whole, and there.
    First,
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

/// An object that no snapshot refers to, and whose deletion was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    /// Its key.
    pub key: ObjectKey,
    /// Its size.
    pub bytes: u64,
    /// When the certificate that names it was written, by the store's time.
    pub since: Timestamp,
}

/// Everything that the store holds of an environment.
#[derive(Debug, Default)]
pub struct History {
    /// Oldest first.
    pub snapshots: Vec<Snapshot>,
    /// Objects that no snapshot refers to and that the certificate of a forgotten snapshot names.
    pub orphans: Vec<Orphan>,
    /// Ids of forgotten snapshots: those with a certificate of which nothing else is left.
    pub forgotten: BTreeSet<SnapshotId>,
    /// Verifications, by snapshot and then by time; also of snapshots that are forgotten.
    pub verifications: Vec<Mark>,
    /// The environment's own file; none where nobody ran `init`.
    pub environment: Option<Stored>,
    /// Why the environment's own file cannot be read.
    pub environment_damage: Option<Error>,
    /// Kinds of all sources that the configuration, the environment's file or a record names.
    pub sources: BTreeMap<String, String>,
    /// The newest version of the environment's file, also one that cannot be read.
    newest_file: Option<SnapshotId>,
    /// Every moment that some name in the store spells.
    stamps: BTreeSet<SnapshotId>,
}

/// Reads an environment's history.
///
/// # Errors
/// The store's. A record that cannot be read is no error here but a damaged snapshot.
pub async fn load(
    store: &Store,
    environment: &Environment,
    config: &EnvironmentConfig,
    now: Timestamp,
) -> Result<History> {
    load_after(store, environment, config, now, None).await
}

/// Reads it again, and of the records only those that `before` does not have.
///
/// # Errors
/// As [`load`].
pub async fn load_after(
    store: &Store,
    environment: &Environment,
    config: &EnvironmentConfig,
    now: Timestamp,
    before: Option<&History>,
) -> Result<History> {
    let listed = store.list(&format!("{environment}/")).await?;
    let mut keys = sort(environment, listed.into_iter());
    let (file, damage) = environment_file(store, environment, &keys, before).await?;
    let mut records = records(store, environment, &keys, before).await?;
    let sources = sources(config, file.as_ref(), &records);
    keys.objects.retain(|_, found| sources.contains_key(&found.source));
    look_again(store, environment, &mut keys, &mut records).await?;
    let referenced = referenced(&records);
    let free: BTreeMap<&ObjectKey, &Found> = keys.objects.iter().filter(|(key, _)| !referenced.contains(key)).collect();
    // Marks and certificates are read only where something is there that no record names.
    let announced = if free.is_empty() { Announced::default() } else { announced(store, environment, &keys).await? };
    let explained =
        if free.is_empty() { BTreeMap::new() } else { adopted::explained(store, environment, &keys, &free).await? };
    let facts = Facts { config, file, damage, sources, announced, explained, now };
    Ok(build(&keys, records, facts))
}

/// What runs under way said that they would make.
#[derive(Debug, Default)]
struct Announced {
    keys: BTreeSet<ObjectKey>,
    /// Runs of version 1, whose marks name no keys.
    runs: BTreeSet<SnapshotId>,
    /// A mark could not be read: anything may be one of its keys.
    unclear: bool,
}

/// A record that was read, or why it cannot be, with the hash of its bytes.
type Read = (SnapshotId, Result<Record>, String);

/// What else a history is built of.
struct Facts<'a> {
    config: &'a EnvironmentConfig,
    file: Option<Stored>,
    damage: Option<Error>,
    sources: BTreeMap<String, String>,
    announced: Announced,
    explained: BTreeMap<ObjectKey, Explained>,
    now: Timestamp,
}

async fn environment_file(
    store: &Store,
    environment: &Environment,
    keys: &Keys,
    before: Option<&History>,
) -> Result<(Option<Stored>, Option<Error>)> {
    let Some(stamp) = keys.environment_files.last().copied() else { return Ok((None, None)) };
    if let Some(known) = before.and_then(|before| before.environment.as_ref()).filter(|known| known.stamp == stamp) {
        return Ok((Some(known.clone()), None));
    }
    let Some(bytes) = store.get(&file_key(environment, stamp)?).await? else { return Ok((None, None)) };
    let sha256 = hex::encode(Sha256::digest(&bytes));
    match EnvironmentFile::parse(&bytes, environment, stamp) {
        Ok(file) => Ok((Some(Stored { stamp, sha256, file }), None)),
        Err(error) => Ok((None, Some(error))),
    }
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
fn sources(config: &EnvironmentConfig, file: Option<&Stored>, records: &[Read]) -> BTreeMap<String, String> {
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
    sources.extend(config.sources.iter().map(|(name, source)| (name.clone(), source.kind().to_owned())));
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
fn build(keys: &Keys, records: Vec<Read>, facts: Facts<'_>) -> History {
    let present = |key: &ObjectKey, bytes: u64| keys.objects.get(key).is_some_and(|found| found.bytes == bytes);
    let file = facts.file.as_ref().map(|stored| &stored.file);
    let makers = conditions_of_makers(&records);
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
                (name.clone(), State { given_up, ..state(source, accepted, &makers, &present) })
            })
            .collect();
        let doubted = record.as_ref().is_some_and(|record| record.clock_doubt.is_some());
        snapshots.insert(
            id,
            Snapshot {
                record,
                record_sha256: Some(sha256),
                stored: keys.records.get(&id).copied(),
                damage,
                clock_doubted: doubted && !file.is_some_and(|file| file.trusted_times.contains(&id)),
                binned: keys.certificates.get(&id).copied(),
                sources,
                ..Snapshot::blank(id)
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
    adopted::adopt(facts.config, keys, &announced.runs, free.into_iter(), &facts.explained, &mut snapshots);
    let mut verifications = keys.verified.clone();
    verifications.sort_unstable();
    for snapshot in snapshots.values_mut() {
        let kept = file.is_some_and(|file| file.kept.contains(&snapshot.id));
        snapshot.pinned = kept || facts.config.pinned.contains(&snapshot.id);
        snapshot.retired = file.is_some_and(|file| file.retired_snapshots.contains(&snapshot.id));
        snapshot.standing = proof::standing(&verifications, snapshot.id, facts.now);
        if !snapshot.adopted {
            snapshot.complete = snapshot.is_complete();
        }
    }
    let forgotten = keys.certificates.keys().filter(|id| !snapshots.contains_key(id)).copied().collect();
    History {
        snapshots: snapshots.into_values().collect(),
        orphans,
        forgotten,
        verifications,
        environment: facts.file,
        environment_damage: facts.damage,
        sources: facts.sources,
        newest_file: keys.environment_files.last().copied(),
        stamps: keys.stamps.clone(),
    }
}

/// What the records of version 1 say of the objects that they made: those that carried one over said nothing of it.
fn conditions_of_makers(records: &[Read]) -> BTreeMap<ObjectKey, Condition> {
    let records = records.iter().filter_map(|(_, record, _)| record.as_ref().ok());
    let made = records.flat_map(|record| record.sources.values()).filter(|source| source.outcome == Outcome::Saved);
    let odd = made.filter(|source| source.condition() != Condition::Whole);
    odd.filter_map(|source| Some((source.object.as_ref()?.key.clone(), source.condition()))).collect()
}

fn state(
    source: &crate::snapshot::SourceRecord,
    accepted: bool,
    makers: &BTreeMap<ObjectKey, Condition>,
    present: &impl Fn(&ObjectKey, u64) -> bool,
) -> State {
    let of_maker = |object: &ObjectRecord| makers.get(&object.key).copied();
    let condition = match source.condition {
        Some(Condition::Suspect) if accepted => Condition::Whole,
        Some(condition) => condition,
        None => source.object.as_ref().and_then(of_maker).unwrap_or_else(|| source.condition()),
    };
    State {
        outcome: source.outcome,
        condition,
        fingerprint: source.fingerprint.clone().unwrap_or_default(),
        measure: source.measured(),
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

impl History {
    /// A history of nothing but these snapshots, oldest first.
    #[must_use]
    pub fn of(snapshots: Vec<Snapshot>) -> Self {
        Self { snapshots, ..Self::default() }
    }

    /// The newest recorded object that holds a source, with its state, if that is whole; it may be lost. Snapshots from the future, made
    /// under a wrong clock, would hide every later state; of an adopted object nobody knows what it should be; and one that
    /// a verification found damaged is not to be relied on for another day.
    #[must_use]
    pub fn carried(&self, source: &str, now: Timestamp) -> Option<(&State, ObjectRecord)> {
        let newest =
            self.past(now).find(|snapshot| snapshot.sources.get(source).is_some_and(|s| s.object.is_some()))?;
        let state =
            newest.sources.get(source).filter(|state| state.condition == Condition::Whole && !state.given_up)?;
        let object = state.object.as_ref()?;
        let damaged = |snapshot: &Snapshot| {
            let holds = |state: &State| state.object.as_ref().is_some_and(|other| other.key == object.key);
            snapshot.standing == Standing::Failed && snapshot.sources.values().any(holds)
        };
        if self.snapshots.iter().any(damaged) {
            return None;
        }
        let record = ObjectRecord {
            key: object.key.clone(),
            bytes: object.bytes,
            sha256: object.sha256.clone()?,
            made: object.made,
        };
        Some((state, record))
    }

    /// The newest whole state of a source that a run recorded: what the next one is compared with.
    #[must_use]
    pub fn last_whole(&self, source: &str, now: Timestamp) -> Option<(SnapshotId, &State)> {
        let recorded = self.past(now).filter(|snapshot| snapshot.record.is_some());
        let mut whole = recorded.filter(|snapshot| snapshot.serves(source) == Serves::First);
        whole.find_map(|snapshot| Some((snapshot.id, snapshot.sources.get(source)?)))
    }

    /// The newest snapshot with a readable record that is not from the future.
    #[must_use]
    pub fn previous(&self, now: Timestamp) -> Option<&Snapshot> {
        self.past(now).find(|snapshot| snapshot.record.is_some())
    }

    /// The newest moment that anything of this program is known of, also one from the future; not of what a person retired.
    #[must_use]
    pub fn newest_moment(&self) -> Option<SnapshotId> {
        let recorded = self.snapshots.iter().rev().find(|snapshot| !snapshot.adopted && !snapshot.retired);
        let founded = self.environment.as_ref().map(|stored| SnapshotId::at(stored.file.written));
        recorded.map(|snapshot| snapshot.id).max(founded)
    }

    /// The stamp of the newest version of the environment's file, also of one that cannot be read.
    #[must_use]
    pub const fn newest_file(&self) -> Option<SnapshotId> {
        self.newest_file
    }

    /// The present as this history has it: of several runs in one second each is named a second after the one before, and none
    /// of them is from the future.
    #[must_use]
    pub fn present(&self, now: Timestamp) -> Timestamp {
        let near = |id: SnapshotId| id.taken().duration_since(now) <= crate::questions::SKEW_MAX;
        let recorded = self.snapshots.iter().rev().filter(|snapshot| !snapshot.adopted && !snapshot.retired);
        let newest = recorded.map(|snapshot| snapshot.id).find(|id| near(*id));
        newest.map_or(now, |id| id.taken().max(now))
    }

    /// A free id for a run that begins now: nothing in the store has a name of that second, and it comes after the newest
    /// snapshot, so that a run that waited, or one of the same second as a run that was cleared, never holds a later state under
    /// an earlier name. A clock that is far behind the newest snapshot is doubted instead.
    #[must_use]
    pub fn free_id(&self, now: Timestamp) -> SnapshotId {
        let mut id = SnapshotId::at(self.present(now));
        while self.stamps.contains(&id) || self.knows(id) {
            id = id.next();
        }
        id
    }

    fn past(&self, now: Timestamp) -> impl Iterator<Item = &Snapshot> {
        self.snapshots.iter().rev().filter(move |snapshot| snapshot.id.taken() <= now && !snapshot.retired)
    }

    /// Whether an id is taken, by a snapshot or by the certificate of one.
    #[must_use]
    pub fn knows(&self, id: SnapshotId) -> bool {
        self.forgotten.contains(&id) || self.snapshots.iter().any(|snapshot| snapshot.id == id)
    }

    /// One snapshot.
    #[must_use]
    pub fn snapshot(&self, id: SnapshotId) -> Option<&Snapshot> {
        self.snapshots.iter().find(|snapshot| snapshot.id == id)
    }

    /// Snapshots whose record cannot be read.
    pub fn damaged(&self) -> impl Iterator<Item = &Error> {
        self.snapshots.iter().filter_map(|snapshot| snapshot.damage.as_ref())
    }

    /// Whether the store holds anything of this environment that a run or a script left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.snapshots.is_empty() && self.forgotten.is_empty() && self.orphans.is_empty()
    }

    /// What the guard needs to know.
    #[must_use]
    pub fn subjects(&self) -> Vec<Subject> {
        let file = self.environment.as_ref().map(|stored| &stored.file);
        let may_age = |id: SnapshotId| file.and_then(|file| file.adopted_age_up_to).is_some_and(|up_to| id <= up_to);
        let subject = |snapshot: &Snapshot| Subject {
            id: snapshot.id,
            verified: snapshot.standing == Standing::Passed,
            pinned: snapshot.pinned,
            adopted: snapshot.adopted,
            may_age: !snapshot.adopted || may_age(snapshot.id),
            damaged: snapshot.damage.is_some(),
            retired: snapshot.retired,
            binned: snapshot.binned.is_some(),
            sources: snapshot.sources.keys().map(|name| (name.clone(), snapshot.serves(name))).collect(),
        };
        self.snapshots.iter().map(subject).collect()
    }

    /// Objects that nothing would refer to once some snapshots are gone. None at all while a record cannot be read, because it
    /// may refer to any of them.
    #[must_use]
    pub fn unreferenced_without(&self, gone: &BTreeSet<SnapshotId>) -> Vec<(ObjectKey, u64)> {
        if self.damaged().next().is_some() {
            return Vec::new();
        }
        let objects = |keep: bool| {
            self.snapshots
                .iter()
                .filter(move |snapshot| gone.contains(&snapshot.id) != keep)
                .flat_map(|snapshot| snapshot.sources.values())
                .filter_map(|state| state.object.as_ref())
        };
        let needed: BTreeSet<&ObjectKey> = objects(true).map(|object| &object.key).collect();
        let free: BTreeMap<ObjectKey, u64> = objects(false)
            .filter(|object| !needed.contains(&object.key))
            .map(|object| (object.key.clone(), object.bytes))
            .collect();
        free.into_iter().collect()
    }

    /// Whether any record names an object.
    #[must_use]
    pub fn refers_to(&self, key: &ObjectKey) -> bool {
        let objects = self.snapshots.iter().flat_map(|snapshot| snapshot.sources.values());
        let indexes = self.snapshots.iter().filter_map(|snapshot| snapshot.record.as_ref());
        let mut indexes =
            indexes.flat_map(|record| record.sources.values()).filter_map(|source| source.archive.as_ref());
        objects.filter_map(|state| state.object.as_ref()).any(|object| object.key == *key)
            || indexes.any(|archive| archive.index.as_ref().is_some_and(|index| index.key == *key))
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
    /// A snapshot of which nothing is known yet.
    fn blank(id: SnapshotId) -> Self {
        Self {
            id,
            record: None,
            record_sha256: None,
            stored: None,
            damage: None,
            complete: false,
            adopted: false,
            standing: Standing::Unproven,
            pinned: false,
            retired: false,
            clock_doubted: false,
            binned: None,
            sources: BTreeMap::new(),
        }
    }

    /// A recorded snapshot of one source, made up for a simulation.
    #[must_use]
    pub fn of_one_source(id: SnapshotId, source: &str, condition: Condition, key: Option<ObjectKey>) -> Self {
        let made = id.taken();
        let state = State {
            outcome: if key.is_some() { Outcome::Saved } else { Outcome::Failed },
            condition,
            object: key.map(|key| Object { key, bytes: 1, sha256: None, made, present: true }),
            fingerprint: String::new(),
            measure: Measure::default(),
            identity: None,
            given_up: false,
        };
        let mut snapshot = Self { sources: [(source.to_owned(), state)].into(), ..Self::blank(id) };
        snapshot.complete = snapshot.is_complete();
        snapshot
    }

    fn is_complete(&self) -> bool {
        let whole = |state: &State| state.condition == Condition::Whole && state.is_restorable();
        self.damage.is_none() && !self.sources.is_empty() && self.sources.values().all(whole)
    }

    /// Whether the state of a source in it can answer for a point in time.
    #[must_use]
    pub fn serves(&self, source: &str) -> Serves {
        let Some(state) = self.sources.get(source).filter(|state| state.is_restorable() && !self.retired) else {
            return Serves::Nothing;
        };
        match state.condition {
            Condition::Failed => Serves::Nothing,
            Condition::Whole if self.standing != Standing::Failed && !self.clock_doubted => Serves::First,
            Condition::Whole | Condition::Partial | Condition::Suspect => Serves::Second,
        }
    }

    /// Whether all of a source was read into an object that is there, whatever else is doubted of the snapshot.
    #[must_use]
    pub fn has_whole(&self, source: &str) -> bool {
        let whole = |state: &State| state.condition == Condition::Whole && state.is_restorable();
        !self.retired && self.sources.get(source).is_some_and(whole)
    }

    /// Whether it may stand at a wrong place among the others, and nobody said that its time is right.
    #[must_use]
    pub fn may_be_misplaced(&self) -> bool {
        let doubt = self.record.as_ref().and_then(|record| record.clock_doubt);
        self.clock_doubted && doubt.is_some_and(crate::snapshot::ClockDoubt::misplaces)
    }

    /// The worst condition of its sources; none where it names no source.
    #[must_use]
    pub fn condition(&self) -> Option<Condition> {
        self.sources.values().map(|state| state.condition).max()
    }

    /// Sources whose object the store has lost, and nobody knows it yet.
    pub fn lost(&self) -> impl Iterator<Item = &String> {
        let lost = |state: &State| state.outcome != Outcome::Failed && state.object.is_some() && !state.is_restorable();
        let known = |state: &State| state.given_up || self.retired;
        self.sources.iter().filter(move |(_, state)| lost(state) && !known(state)).map(|(name, _)| name)
    }

    /// The objects that its certificate names: of an adopted one those that it was made from, because those that it carries
    /// over belong to another one.
    pub fn certified_objects(&self) -> impl Iterator<Item = &ObjectKey> {
        let own = |state: &&State| !self.adopted || matches!(state.outcome, Outcome::Adopted | Outcome::Failed);
        self.sources.values().filter(own).filter_map(|state| state.object.as_ref()).map(|object| &object.key)
    }

    /// Size of all objects that it refers to.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.sources.values().filter_map(|state| state.object.as_ref()).map(|object| object.bytes).sum()
    }

    /// Whether every source that a run is expected to save is whole in it.
    #[must_use]
    pub fn is_whole(&self, expected: &BTreeSet<&str>) -> bool {
        expected.iter().all(|source| self.has_whole(source))
    }
}
