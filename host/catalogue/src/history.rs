//! The history of an environment: every snapshot that the store holds, and which objects are really there.
//!
//! One listing answers what exists; the records are then read side by side. Objects without a record, as a shell
//! script with the same keys leaves them, are adopted as snapshots. Nothing here writes.

mod adopted;
mod clocks;
mod file;
mod listing;
mod load;
mod snapshot;
#[cfg(test)]
pub(crate) mod tests;

pub use clocks::met_by;
pub use load::{load, load_after};
pub use snapshot::{Object, Snapshot, State};

use crate::environment::Stored;
use crate::guard::{Serves, Subject};
use crate::proof::{self, Mark, Standing};
use crate::record::{Condition, Measure, ObjectRecord, Previous};
use base::error::Error;
use base::evidence::{SealKey, Selected};
use base::id::SnapshotId;
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use store::ObjectKey;

/// How far back states count for what a source held: the default retention keeps each day for so long.
const COMPARED_WITH: SignedDuration = SignedDuration::from_hours(30 * 24);

/// What a partial state held, with what could not be read counted.
fn met(snapshot: &Snapshot, source: &str, state: &State) -> Measure {
    let archive = snapshot.record.as_ref().and_then(|record| record.sources.get(source)?.archive.as_ref());
    let unreadable = archive.map_or(0, |archive| archive.unreadable_total);
    let files = state.measure.files.map(|files| files.saturating_add(unreadable));
    Measure { files, ..state.measure }
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

/// Why the newest version of the environment's file is not the one that runs went by: answers of a person are missing from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileDoubt {
    /// A run went by a newer one, which is gone.
    Gone {
        /// The one that is gone.
        stamp: SnapshotId,
        /// The run.
        run: SnapshotId,
    },
    /// It is not what the newest run that went by it saw.
    Changed {
        /// Its stamp.
        stamp: SnapshotId,
        /// The run.
        run: SnapshotId,
    },
    /// It does not follow the one before it, as a copy of an older one does not.
    Unchained {
        /// The newest one.
        stamp: SnapshotId,
        /// The one before it, which it does not name.
        before: SnapshotId,
    },
}

/// Everything that the store holds of an environment.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// Oldest first.
    pub snapshots: Vec<Snapshot>,
    /// Objects that no snapshot refers to and that the certificate of a forgotten snapshot names.
    pub orphans: Vec<Orphan>,
    /// Ids of forgotten snapshots, those with a certificate of which nothing else is left, and when that was written by the store's time.
    pub forgotten: BTreeMap<SnapshotId, Timestamp>,
    /// Ids of snapshots that a record names as the one before it, and of which there is neither record nor certificate; without
    /// those that a person knows of.
    pub missing: BTreeSet<SnapshotId>,
    /// Ids of snapshots whose record is not what the next one names: it was edited or replaced. Without those that a person knows of.
    pub changed: BTreeSet<SnapshotId>,
    /// Why the newest version of the environment's file is not the one that runs went by.
    pub file_doubt: Option<FileDoubt>,
    /// Verifications, by snapshot and then by time; also of snapshots that are forgotten.
    pub verifications: Vec<Mark>,
    /// The environment's own file; none where nobody ran `init`.
    pub environment: Option<Stored>,
    /// Why the environment's own file cannot be read.
    pub environment_damage: Option<Error>,
    /// The newest version of it that can be read, where the newest one cannot.
    pub readable_before: Option<Stored>,
    /// Kinds of all sources that the configuration, the environment's file or a record names.
    pub sources: BTreeMap<String, String>,
    /// The newest version of the environment's file, also one that cannot be read.
    newest_file: Option<SnapshotId>,
    /// Every moment that some name in the store spells.
    stamps: BTreeSet<SnapshotId>,
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
        let newest = self.holder(source, now)?;
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

    /// What the fingerprint of the newest object of a source rests on; nothing where nobody recorded it.
    #[must_use]
    pub fn selected(&self, source: &str, now: Timestamp) -> &[Selected] {
        let record = self.holder(source, now).and_then(|snapshot| snapshot.record.as_ref()?.sources.get(source));
        record.map_or(&[], |source| source.selected.as_slice())
    }

    /// What pg_dump remarked when it made an object. Older versions left it out of the records of later days.
    #[must_use]
    pub fn notes(&self, key: &ObjectKey) -> &[String] {
        let records = self.snapshots.iter().filter_map(|snapshot| snapshot.record.as_ref());
        let mut of_object = records
            .flat_map(|record| record.sources.values())
            .filter(|source| source.object.as_ref().is_some_and(|object| object.key == *key))
            .filter_map(|source| source.database.as_ref());
        of_object.find(|database| !database.notes.is_empty()).map_or(&[], |database| database.notes.as_slice())
    }

    /// The newest snapshot that has an object of a source.
    fn holder(&self, source: &str, now: Timestamp) -> Option<&Snapshot> {
        self.past(now).find(|snapshot| snapshot.sources.get(source).is_some_and(|state| state.object.is_some()))
    }

    /// What fingerprints are sealed with; none before `init`.
    #[must_use]
    pub fn seal_key(&self) -> Option<&SealKey> {
        self.environment.as_ref().and_then(|stored| stored.file.seal_key.as_ref())
    }

    /// The newest whole state of a source that a run recorded: what the next one is compared with.
    #[must_use]
    pub fn last_whole(&self, source: &str, now: Timestamp) -> Option<(SnapshotId, &State)> {
        let recorded = self.past(now).filter(|snapshot| snapshot.record.is_some());
        let mut whole = recorded.filter(|snapshot| snapshot.serves(source) == Serves::First);
        whole.find_map(|snapshot| Some((snapshot.id, snapshot.sources.get(source)?)))
    }

    /// What a source held, newest first, for the comparison with a new state. The last whole state is not enough: a loss could hide
    /// behind a smaller one on the day before. So all states of the last 30 days count, whole ones and partial ones, also those whose
    /// time is doubted, for what they held is not. Nothing counts from before the last state that a person accepted, or before the last
    /// restore. Where nothing whole is left to compare with, what is from the future is better than nothing.
    #[must_use]
    pub fn held(&self, source: &str, now: Timestamp) -> Vec<(SnapshotId, Measure)> {
        let file = self.environment.as_ref().map(|stored| &stored.file);
        let replaced = file.and_then(|file| file.replaced.get(source).copied());
        // One that was noted under a clock that was ahead would hold for years.
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
                    held.push((snapshot.id, met(snapshot, source, state)))
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

    /// Whether the newest recorded state of a source is suspect, and nobody accepted it. A night on which a part could not be read says
    /// nothing of that.
    #[must_use]
    pub fn is_suspected(&self, source: &str, now: Timestamp) -> bool {
        self.suspected(source, now).is_some()
    }

    /// The newest recorded state of a source, where it is suspect.
    #[must_use]
    pub fn suspected(&self, source: &str, now: Timestamp) -> Option<(SnapshotId, Measure)> {
        let mut recorded = self.past(now).filter(|snapshot| snapshot.record.is_some());
        let read = |state: &&State| state.object.is_some() && state.condition != Condition::Partial;
        let (id, newest) =
            recorded.find_map(|snapshot| Some((snapshot.id, snapshot.sources.get(source).filter(read)?)))?;
        (newest.condition == Condition::Suspect).then_some((id, newest.measure))
    }

    /// The records that are there and that no record outside of the bin names, but for the one that the next record names as the one
    /// before it. What lies in the bin leaves the store some days later, so that there always is another one that names them.
    #[must_use]
    pub fn witnessed(&self, now: Timestamp) -> Vec<Previous> {
        let records = || self.snapshots.iter().filter_map(|snapshot| Some((snapshot, snapshot.record.as_ref()?)));
        let stays = records().filter(|(snapshot, _)| snapshot.binned.is_none());
        let named = stays.flat_map(|(_, record)| record.previous.iter().chain(&record.witnessed)).map(|other| other.id);
        let named: BTreeSet<SnapshotId> = named.chain(self.previous(now).map(|snapshot| snapshot.id)).collect();
        let unnamed = records().map(|(snapshot, _)| snapshot).filter(|snapshot| !named.contains(&snapshot.id));
        unnamed.filter_map(Snapshot::link).collect()
    }

    /// Whether the store holds nothing at all of the environment.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        self.snapshots.is_empty() && self.orphans.is_empty() && self.stamps.is_empty()
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

    /// The newest moment before `now` that is not doubted: one that is does not vouch for the next jump of a clock to the same place.
    #[must_use]
    pub fn newest_certain(&self, now: Timestamp) -> Option<SnapshotId> {
        let certain = |snapshot: &&Snapshot| !snapshot.adopted && !snapshot.clock_doubted;
        let recorded = self.past(now).find(certain).map(|snapshot| snapshot.id);
        let founded = self.environment.as_ref().map(|stored| SnapshotId::at(stored.file.written));
        recorded.max(founded.filter(|founded| founded.taken() <= now))
    }

    /// A moment that was noted, or in place of one that is still ahead the newest snapshot before the present: it was noted after that.
    #[must_use]
    pub fn not_ahead(&self, at: SnapshotId, now: Timestamp) -> SnapshotId {
        if !crate::clock::is_ahead(at, now) {
            return at;
        }
        let before = self.past(now).map(|snapshot| snapshot.id).find(|id| id.taken() < now);
        before.unwrap_or_else(|| SnapshotId::at(Timestamp::UNIX_EPOCH))
    }

    /// The present as this history has it: of several runs in one second each is named a second after the one before, and none
    /// of them is from the future.
    #[must_use]
    pub fn present(&self, now: Timestamp) -> Timestamp {
        let near = |id: SnapshotId| id.taken().duration_since(now) <= crate::clock::SKEW_MAX;
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
        self.forgotten.contains_key(&id) || self.snapshots.iter().any(|snapshot| snapshot.id == id)
    }

    /// The same with the verifications alone that there were at a moment.
    #[must_use]
    pub fn proven_by(&self, moment: Timestamp) -> Self {
        let mut then = self.clone();
        then.verifications.retain(|mark| mark.at.taken() <= moment);
        for snapshot in &mut then.snapshots {
            snapshot.standing = proof::standing(&then.verifications, snapshot.id, moment);
        }
        then
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

    /// Days that a snapshot lies in the bin that entered it at a moment: those of the configuration, of the environment, or of the
    /// rule that was in force then, whichever are more.
    #[must_use]
    pub fn bin_days(&self, configured: u16, since: Timestamp) -> u16 {
        self.environment.as_ref().map_or(configured, |stored| configured.max(stored.file.bin_days(since)))
    }

    /// What the guard needs to know.
    #[must_use]
    pub fn subjects(&self) -> Vec<Subject> {
        let file = self.environment.as_ref().map(|stored| &stored.file);
        let may_age = |id: SnapshotId| file.is_some_and(|file| file.may_age(id));
        let subject = |snapshot: &Snapshot| Subject {
            id: snapshot.id,
            verified: snapshot.standing == Standing::Passed,
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
