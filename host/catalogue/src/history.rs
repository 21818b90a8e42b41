//! The history of an environment: every snapshot in the store, and which of its objects exist.
//!
//! One listing shows what exists, then the records are read in parallel. Objects without a record, as a shell script
//! with the same keys leaves them, are adopted as snapshots. Nothing here writes to the store.

mod adopted;
mod clocks;
mod file;
mod listing;
mod load;
mod snapshot;
#[cfg(test)]
pub(crate) mod tests;

pub use clocks::found_ahead_by;
pub use load::{load, load_after};
pub use snapshot::{Object, Snapshot, State};

use crate::environment::StoredFile;
use crate::guard::{Serves, Subject};
use crate::proof::{self, Mark, VerificationState};
use crate::record::{Condition, Measure, ObjectRecord, Previous, Record};
use base::error::Error;
use base::evidence::{SealKey, Selected};
use base::id::{SnapshotId, Stamp};
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use store::ObjectKey;

/// How far back states count when a new state is compared with what the source held: the default retention keeps every
/// day for this long.
const COMPARED_WITH: SignedDuration = SignedDuration::from_hours(30 * 24);

/// What a state held, including the entries that could not be read.
fn measure_with_unreadable(snapshot: &Snapshot, source: &str, state: &State) -> Measure {
    let archive = snapshot.record.as_ref().and_then(|record| record.sources.get(source)?.archive.as_ref());
    let unreadable = archive.map_or(0, |archive| archive.unreadable_total);
    let files = state.measure.files.map(|files| files.saturating_add(unreadable));
    Measure { files, ..state.measure }
}

/// An object that no snapshot refers to and whose deletion was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    /// Its key.
    pub key: ObjectKey,
    /// Its size.
    pub bytes: u64,
    /// When the certificate that names it was written, by the store's time.
    pub since: Timestamp,
}

/// Why the newest version of the environment's file is not the one that runs used: it lacks answers of a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileDoubt {
    /// A run used a newer version, which is gone.
    Gone {
        /// The version that is gone.
        stamp: Stamp,
        /// The run.
        run: SnapshotId,
    },
    /// It was changed after a run used it.
    Changed {
        /// Its stamp.
        stamp: Stamp,
        /// The run.
        run: SnapshotId,
    },
    /// It does not follow the previous version. A copy of an older version looks like this.
    Unchained {
        /// The newest version.
        stamp: Stamp,
        /// The previous version, which it does not name.
        before: Stamp,
    },
}

/// Everything that the store holds for an environment.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// Oldest first; [`History::snapshot`] relies on it.
    pub snapshots: Vec<Snapshot>,
    /// Objects that no snapshot refers to but that the certificate of a forgotten snapshot names.
    pub orphans: Vec<Orphan>,
    /// Ids of forgotten snapshots, of which only the certificate is left, with the time at which the store wrote it.
    pub forgotten: BTreeMap<SnapshotId, Timestamp>,
    /// Ids of snapshots that left traces but have neither a record nor a certificate, without those that a person
    /// acknowledged.
    pub missing: BTreeSet<SnapshotId>,
    /// Ids of snapshots whose record is not the one that a later record names, because it was edited or replaced,
    /// without those that a person acknowledged.
    pub changed: BTreeSet<SnapshotId>,
    /// Why the newest version of the environment's file is not the one that runs used.
    pub file_doubt: Option<FileDoubt>,
    /// Verifications, by snapshot and then by time, including those of forgotten snapshots.
    pub verifications: Vec<Mark>,
    /// The environment's file; `None` if nobody ran `init`.
    pub environment: Option<StoredFile>,
    /// Why the environment's file cannot be read.
    pub environment_damage: Option<Error>,
    /// The newest version that can be read, if the newest one cannot.
    pub readable_before: Option<StoredFile>,
    /// Kinds of all sources that the configuration, the environment's file or a record names.
    pub sources: BTreeMap<String, String>,
    /// The newest version of the environment's file, even if it cannot be read.
    newest_file: Option<Stamp>,
    /// Every time that a name in the store contains in this program's format.
    stamps: BTreeSet<Stamp>,
}

impl History {
    /// A history that consists of these snapshots, oldest first.
    pub fn of(snapshots: Vec<Snapshot>) -> Self {
        assert!(snapshots.is_sorted_by_key(|snapshot| snapshot.id), "the snapshots are not sorted");
        Self { snapshots, ..Self::default() }
    }

    /// Whether the store does not contain the environment, so that a backup is refused until somebody runs `init`.
    pub fn lacks_environment(&self) -> bool {
        let unknown = self.environment.is_none() && self.environment_damage.is_none();
        unknown && self.snapshots.iter().all(|snapshot| snapshot.adopted)
    }

    /// The newest recorded object of a source, with its state, if the state is whole. The object may be lost. Excluded
    /// are snapshots from the future, which a wrong clock made and which would hide every later state; adopted objects,
    /// whose expected content is unknown; and objects that a verification found damaged.
    pub fn carried(&self, source: &str, now: Timestamp) -> Option<(&State, ObjectRecord)> {
        let newest = self.holder(source, now)?;
        let state =
            newest.sources.get(source).filter(|state| state.condition == Condition::Whole && !state.given_up)?;
        let object = state.object.as_ref()?;
        let damaged = |snapshot: &Snapshot| {
            let holds = |state: &State| state.object.as_ref().is_some_and(|other| other.key == object.key);
            snapshot.verification_state == VerificationState::Failed && snapshot.sources.values().any(holds)
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

    /// What the fingerprint of the newest object of a source is based on; empty if it was not recorded.
    pub fn selected(&self, source: &str, now: Timestamp) -> &[Selected] {
        let record = self.holder(source, now).and_then(|snapshot| snapshot.record.as_ref()?.sources.get(source));
        record.map_or(&[], |source| source.selected.as_slice())
    }

    /// The notes of pg_dump when it made an object. Older versions left them out of the records of later runs.
    pub fn notes(&self, key: &ObjectKey) -> &[String] {
        let records = self.snapshots.iter().filter_map(|snapshot| snapshot.record.as_ref());
        let mut databases = records
            .flat_map(|record| record.sources.values())
            .filter(|source| source.object.as_ref().is_some_and(|object| object.key == *key))
            .filter_map(|source| source.database.as_ref());
        databases.find(|database| !database.notes.is_empty()).map_or(&[], |database| database.notes.as_slice())
    }

    /// The newest snapshot that has an object of a source.
    fn holder(&self, source: &str, now: Timestamp) -> Option<&Snapshot> {
        self.past(now).find(|snapshot| snapshot.sources.get(source).is_some_and(|state| state.object.is_some()))
    }

    /// The key that seals fingerprints; `None` before `init`.
    pub fn seal_key(&self) -> Option<&SealKey> {
        self.environment.as_ref().and_then(|stored| stored.file.seal_key.as_ref())
    }

    /// The newest whole state of a source that a run recorded. The next one is compared with it.
    pub fn last_whole(&self, source: &str, now: Timestamp) -> Option<(SnapshotId, &State)> {
        let recorded = self.past(now).filter(|snapshot| snapshot.record.is_some());
        let mut whole = recorded.filter(|snapshot| snapshot.serves(source) == Serves::First);
        whole.find_map(|snapshot| Some((snapshot.id, snapshot.sources.get(source)?)))
    }

    /// What a source held, newest first, for comparison with a new state. The last whole state is not enough, because a
    /// loss could hide behind a smaller loss on the day before. So all whole and partial states of the last 30 days
    /// count, including those whose time is doubted, because their content is not. Nothing from before the last state
    /// that a person accepted or before the last restore counts. If no whole state is left, a state from the future is
    /// used.
    pub fn held(&self, source: &str, now: Timestamp) -> Vec<(SnapshotId, Measure)> {
        let file = self.environment.as_ref().map(|stored| &stored.file);
        let replaced = file.and_then(|file| file.replaced.get(source).copied());
        // A restore that was recorded under a clock that was ahead would suppress comparisons for years.
        let replaced = replaced.filter(|at| !crate::clock::is_ahead(*at, now));
        let (mut held, mut has_whole) = (Vec::new(), false);
        for snapshot in self.past(now).filter(|snapshot| snapshot.record.is_some()) {
            let is_recent = now.duration_since(snapshot.id.taken()) <= COMPARED_WITH;
            if replaced.is_some_and(|replaced| snapshot.id <= replaced) || (has_whole && !is_recent) {
                return held;
            }
            let Some(state) = snapshot.sources.get(source) else { continue };
            match snapshot.serves(source) {
                Serves::First | Serves::Disproved => {
                    has_whole = true;
                    held.push((snapshot.id, state.measure));
                }
                Serves::Misplaced if state.condition == Condition::Whole => held.push((snapshot.id, state.measure)),
                Serves::Doubtful if state.condition == Condition::Partial => {
                    held.push((snapshot.id, measure_with_unreadable(snapshot, source, state)))
                }
                Serves::Doubtful | Serves::Misplaced | Serves::Nothing => {}
            }
            if file.is_some_and(|file| file.has_accepted(snapshot.id, source)) {
                return held;
            }
        }
        if !has_whole {
            let ahead =
                self.snapshots.iter().rev().filter(|snapshot| snapshot.id.taken() > now && snapshot.record.is_some());
            let mut ahead = ahead.filter(|snapshot| snapshot.early || !snapshot.retired);
            let whole = ahead.find_map(|snapshot| {
                let state = snapshot.sources.get(source)?;
                let is_whole = state.condition == Condition::Whole && state.is_restorable();
                is_whole.then_some((snapshot.id, state.measure))
            });
            held.extend(whole);
        }
        held
    }

    /// Whether the newest recorded state of a source is suspect and nobody accepted it. A partial state says nothing
    /// about this.
    pub fn is_suspected(&self, source: &str, now: Timestamp) -> bool {
        self.suspected(source, now).is_some()
    }

    /// The newest recorded state of a source, if it is suspect.
    pub fn suspected(&self, source: &str, now: Timestamp) -> Option<(SnapshotId, Measure)> {
        let mut recorded = self.past(now).filter(|snapshot| snapshot.record.is_some());
        let read = |state: &&State| state.object.is_some() && state.condition != Condition::Partial;
        let (id, newest) =
            recorded.find_map(|snapshot| Some((snapshot.id, snapshot.sources.get(source).filter(read)?)))?;
        (newest.condition == Condition::Suspect).then_some((id, newest.measure))
    }

    /// Existing records that no record outside the bin names, except the one that the next record will name as its
    /// previous record. What is in the bin leaves the store some days later, so naming these records now keeps every
    /// record named by another one.
    pub fn witnessed(&self, now: Timestamp) -> Vec<Previous> {
        let records = || self.snapshots.iter().filter_map(|snapshot| Some((snapshot, snapshot.record.as_ref()?)));
        let stays = records().filter(|(snapshot, _)| snapshot.binned.is_none());
        let named = stays.flat_map(|(_, record)| record.previous.iter().chain(&record.witnessed)).map(|other| other.id);
        let named: BTreeSet<SnapshotId> = named.chain(self.previous(now).map(|snapshot| snapshot.id)).collect();
        let unnamed = records().map(|(snapshot, _)| snapshot).filter(|snapshot| !named.contains(&snapshot.id));
        unnamed.filter_map(Snapshot::link).collect()
    }

    /// Whether the store holds nothing at all for the environment.
    pub fn is_blank(&self) -> bool {
        self.snapshots.is_empty() && self.orphans.is_empty() && self.stamps.is_empty()
    }

    /// The newest snapshot that has a readable record and is not from the future.
    pub fn previous(&self, now: Timestamp) -> Option<&Snapshot> {
        self.past(now).find(|snapshot| snapshot.record.is_some())
    }

    /// The newest time at which this program wrote anything, even if it is in the future. Snapshots that a person
    /// retired do not count.
    pub fn newest_moment(&self) -> Option<Stamp> {
        let recorded = self.snapshots.iter().rev().find(|snapshot| !snapshot.adopted && !snapshot.retired);
        let founded = self.environment.as_ref().map(|stored| Stamp::at(stored.file.written));
        recorded.map(|snapshot| snapshot.id.stamp()).max(founded)
    }

    /// The stamp of the newest version of the environment's file, even if it cannot be read.
    pub const fn newest_file(&self) -> Option<Stamp> {
        self.newest_file
    }

    /// The newest time before `now` that is not doubted. A doubted time cannot justify another jump of a clock to the
    /// same time.
    pub fn newest_certain(&self, now: Timestamp) -> Option<Stamp> {
        let certain = |snapshot: &&Snapshot| !snapshot.adopted && !snapshot.clock_doubted;
        let recorded = self.past(now).find(certain).map(|snapshot| snapshot.id.stamp());
        let founded = self.environment.as_ref().map(|stored| Stamp::at(stored.file.written));
        recorded.max(founded.filter(|founded| founded.moment() <= now))
    }

    /// A recorded time; or, if it is still ahead, the id of the newest snapshot before now, because the time was
    /// recorded after that snapshot.
    pub fn not_ahead(&self, at: SnapshotId, now: Timestamp) -> SnapshotId {
        if !crate::clock::is_ahead(at, now) {
            return at;
        }
        let before = self.past(now).map(|snapshot| snapshot.id).find(|id| id.taken() < now);
        before.unwrap_or_else(|| SnapshotId::at(Timestamp::UNIX_EPOCH))
    }

    /// The present according to this history. Runs in the same second get ids one second apart, and none of them counts
    /// as from the future.
    pub fn present(&self, now: Timestamp) -> Timestamp {
        let near = |id: SnapshotId| id.taken().duration_since(now) <= crate::clock::SKEW_MAX;
        let recorded = self.snapshots.iter().rev().filter(|snapshot| !snapshot.adopted && !snapshot.retired);
        let newest = recorded.map(|snapshot| snapshot.id).find(|id| near(*id));
        newest.map_or(now, |id| id.taken().max(now))
    }

    /// A free id for a run that begins now. No name in the store contains this second, and the id comes after the
    /// newest snapshot. So a run that waited, or that starts in the same second as a run that was cleaned up, never
    /// stores a later state under an earlier name. A clock that is far behind the newest snapshot is doubted instead.
    pub fn free_id(&self, now: Timestamp) -> SnapshotId {
        let mut id = SnapshotId::at(self.present(now));
        while self.stamps.contains(&id.stamp()) || self.knows(id) {
            id = id.next();
        }
        id
    }

    /// A record without sources that follows this history.
    pub fn next_record(&self, id: SnapshotId, environment: &str) -> Record {
        Record {
            met_ahead: self.met_ahead(id.taken()),
            environment_file: self.environment.as_ref().map(|stored| stored.stamp),
            environment_sha256: self.environment.as_ref().map(|stored| stored.sha256.clone()),
            witnessed: self.witnessed(id.taken()),
            previous: self.previous(id.taken()).and_then(Snapshot::link),
            ..Record::blank(id, environment)
        }
    }

    fn past(&self, now: Timestamp) -> impl Iterator<Item = &Snapshot> {
        self.snapshots.iter().rev().filter(move |snapshot| snapshot.id.taken() <= now && !snapshot.retired)
    }

    /// Whether an id is taken by a snapshot or by a certificate.
    pub fn knows(&self, id: SnapshotId) -> bool {
        self.forgotten.contains_key(&id) || self.snapshots.iter().any(|snapshot| snapshot.id == id)
    }

    /// The same history, with only the verifications that existed at the given time.
    pub fn proven_by(&self, moment: Timestamp) -> Self {
        let mut then = self.clone();
        then.verifications.retain(|mark| mark.at.moment() <= moment);
        for snapshot in &mut then.snapshots {
            snapshot.verification_state = proof::verification_state(&then.verifications, snapshot.id, moment);
        }
        then
    }

    /// The snapshot with this id.
    pub fn snapshot(&self, id: SnapshotId) -> Option<&Snapshot> {
        self.snapshots.binary_search_by_key(&id, |snapshot| snapshot.id).ok().and_then(|at| self.snapshots.get(at))
    }

    /// The errors of records that cannot be read.
    pub fn damaged(&self) -> impl Iterator<Item = &Error> {
        self.snapshots.iter().filter_map(|snapshot| snapshot.damage.as_ref())
    }

    /// Whether the store holds nothing that a run or a script left for this environment.
    pub fn is_empty(&self) -> bool {
        self.snapshots.is_empty() && self.forgotten.is_empty() && self.orphans.is_empty()
    }

    /// Days that a snapshot stays in the bin if it entered at the given time: those of the configuration, of the
    /// environment, or of the rule that was in force then, whichever is longest.
    pub fn bin_days(&self, configured: u16, since: Timestamp) -> u16 {
        self.environment.as_ref().map_or(configured, |stored| configured.max(stored.file.bin_days(since)))
    }

    /// What the guard needs to know.
    pub fn subjects(&self) -> Vec<Subject> {
        let file = self.environment.as_ref().map(|stored| &stored.file);
        let may_age = |id: SnapshotId| file.is_some_and(|file| file.may_age(id));
        let subject = |snapshot: &Snapshot| Subject {
            id: snapshot.id,
            verified: snapshot.verification_state == VerificationState::Passed,
            pinned: snapshot.pinned,
            adopted: snapshot.adopted,
            may_age: !snapshot.adopted || may_age(snapshot.id),
            damaged: snapshot.damage.is_some(),
            retired: snapshot.retired,
            early: snapshot.early,
            undecided: snapshot.undecided,
            binned: snapshot.binned.is_some(),
            clock: snapshot.clock,
            sources: snapshot.sources.keys().map(|name| (name.clone(), snapshot.serves(name))).collect(),
            but_for_its_time: snapshot.sources.keys().map(|name| (name.clone(), snapshot.holds(name))).collect(),
        };
        self.snapshots.iter().map(subject).collect()
    }

    /// Objects that nothing would refer to once some snapshots are gone. Empty while a record cannot be read, because
    /// it may refer to any of them.
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
    pub fn refers_to(&self, key: &ObjectKey) -> bool {
        let objects = self.snapshots.iter().flat_map(|snapshot| snapshot.sources.values());
        let indexes = self.snapshots.iter().filter_map(|snapshot| snapshot.record.as_ref());
        let mut indexes =
            indexes.flat_map(|record| record.sources.values()).filter_map(|source| source.archive.as_ref());
        objects.filter_map(|state| state.object.as_ref()).any(|object| object.key == *key)
            || indexes.any(|archive| archive.index.as_ref().is_some_and(|index| index.key == *key))
    }
}
