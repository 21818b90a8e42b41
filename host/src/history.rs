//! The history of an environment: every snapshot that the store holds, and which objects are really there.
//!
//! One listing answers what exists; the records are then read side by side. Objects without a record, as a shell
//! script with the same keys leaves them, are adopted as snapshots. Nothing here writes.

use crate::config::{Environment, EnvironmentConfig};
use crate::error::{Error, Result};
use crate::guard::Subject;
use crate::snapshot::{ObjectRecord, Outcome, Record, SnapshotId};
use crate::store::{ObjectKey, Store};
use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// Records that are read at the same time. Each is a small request whose time is all latency.
const READS_IN_FLIGHT_MAX: usize = 16;

/// Spellings of a moment in the names that scripts give to their objects, taken as UTC: `date` of coreutils with
/// the usual formats. The first is this program's own.
const STAMPS: [&str; 7] = [
    "%Y%m%dT%H%M%SZ",
    "%Y-%m-%dT%H-%M-%SZ",
    "%Y-%m-%dT%H:%M:%SZ",
    "%Y%m%d-%H%M%S",
    "%Y%m%d_%H%M%S",
    "%Y-%m-%d_%H-%M-%S",
    "%Y-%m-%d-%H%M%S",
];

/// Spellings of a day alone, which stand for its first moment.
const DAYS: [&str; 2] = ["%Y%m%d", "%Y-%m-%d"];

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
    /// Whether the store holds it at that size.
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
}

/// What one listing of an environment's keys comes to.
#[derive(Debug, Default)]
struct Keys {
    records: BTreeSet<SnapshotId>,
    forgotten: BTreeSet<SnapshotId>,
    verified: BTreeSet<SnapshotId>,
    /// Runs that hold the lease, or held it when they were killed.
    under_way: BTreeSet<SnapshotId>,
    /// Objects of the configured sources by key: size, source, moment of the name.
    objects: BTreeMap<ObjectKey, (u64, String, SnapshotId)>,
}

/// Key of a snapshot's record.
///
/// # Errors
/// Never for a checked environment name.
pub fn record_key(environment: &Environment, id: SnapshotId) -> Result<ObjectKey> {
    key(&format!("{environment}/snapshots/{id}.json"))
}

/// Key of a forgotten snapshot's certificate.
///
/// # Errors
/// Never for a checked environment name.
pub fn certificate_key(environment: &Environment, id: SnapshotId) -> Result<ObjectKey> {
    key(&format!("{environment}/forgotten/{id}.json"))
}

/// A key that this host composes.
///
/// # Errors
/// When it is none, which a checked name rules out.
pub fn key(text: &str) -> Result<ObjectKey> {
    ObjectKey::parse(text).ok_or_else(|| Error::unexpected(format!("`{text}` is no object key")))
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
    let records = records
        .into_iter()
        // Forgotten between the listing and the read, by a run that holds the lease while this one only looks.
        .filter_map(|(id, bytes)| Some((id, bytes?)))
        .map(|(id, bytes)| (id, Record::parse(&bytes, environment.as_str(), id), hex::encode(Sha256::digest(&bytes))))
        .collect();
    Ok(build(config, &keys, records))
}

/// Sorts the keys of an environment by what they are. A key that does not parse is not touched.
fn sort(environment: &Environment, config: &EnvironmentConfig, listed: impl Iterator<Item = (ObjectKey, u64)>) -> Keys {
    let mut keys = Keys::default();
    for (key, bytes) in listed {
        let mut parts = key.as_str().split('/');
        let (Some(first), Some(folder), Some(name), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        if first != environment.as_str() {
            continue;
        }
        let id = |name: &str| name.strip_suffix(".json").and_then(|stem| stem.parse::<SnapshotId>().ok());
        if folder == "leases" {
            keys.under_way.extend(name.split('.').next().and_then(|run| run.parse::<SnapshotId>().ok()));
            continue;
        }
        match (folder, id(name)) {
            ("snapshots", Some(id)) => drop(keys.records.insert(id)),
            ("forgotten", Some(id)) => drop(keys.forgotten.insert(id)),
            ("verified", Some(id)) => drop(keys.verified.insert(id)),
            _ => {
                if let (Some(kind), Some((moment, extension))) =
                    (config.sources.get(folder).map(crate::config::Source::kind), object_name(name))
                    && is_object(kind, extension)
                {
                    keys.objects.insert(key.clone(), (bytes, folder.to_owned(), moment));
                }
            }
        }
    }
    keys
}

/// The moment and extension of an object's name.
fn object_name(name: &str) -> Option<(SnapshotId, &str)> {
    let (stem, extension) = name.split_once('.')?;
    let moment = |format: &&str| jiff::civil::DateTime::strptime(format, stem).ok();
    let day = |format: &&str| jiff::civil::Date::strptime(format, stem).ok().map(|day| day.at(0, 0, 0, 0));
    let moment = STAMPS.iter().find_map(moment).or_else(|| DAYS.iter().find_map(day))?;
    let moment = moment.to_zoned_datetime(jiff::tz::TimeZone::UTC).ok()?.timestamp();
    Some((SnapshotId::at(moment), extension))
}

/// Whether an extension is that of a source's main object; an archive's index is none.
fn is_object(kind: &str, extension: &str) -> bool {
    match kind {
        "postgres" => extension == "dump",
        _ => extension == "tar.gz",
    }
}

/// Puts records and objects together.
fn build(config: &EnvironmentConfig, keys: &Keys, records: Vec<(SnapshotId, Result<Record>, String)>) -> History {
    let present = |key: &ObjectKey, bytes: u64| keys.objects.get(key).is_some_and(|(size, ..)| *size == bytes);
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
                verified: keys.verified.contains(&id),
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
    let free: Vec<_> = keys
        .objects
        .iter()
        .filter(|(key, (_, _, moment))| !referenced.contains(key) && !keys.under_way.contains(moment))
        .collect();
    let accounted = |id: &SnapshotId| keys.forgotten.contains(id) || keys.records.contains(id);
    let orphans = free
        .iter()
        // A record that cannot be read may refer to any of them.
        .filter(|(_, (_, _, moment))| accounted(moment) && !damaged)
        .map(|(key, (bytes, ..))| ((*key).clone(), *bytes))
        .collect();
    adopt(config, keys, free.into_iter().filter(|(_, (_, _, moment))| !accounted(moment)), &mut snapshots);
    History { snapshots: snapshots.into_values().collect(), orphans, forgotten: keys.forgotten.clone() }
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

/// Makes a snapshot of every moment that only unrecorded objects have. A source without an object of that moment is
/// carried over from the newest earlier one, because such scripts skip what has not changed.
fn adopt<'a>(
    config: &EnvironmentConfig,
    keys: &Keys,
    free: impl Iterator<Item = (&'a ObjectKey, &'a (u64, String, SnapshotId))>,
    snapshots: &mut BTreeMap<SnapshotId, Snapshot>,
) {
    let object = |key: &ObjectKey, bytes: u64, made: SnapshotId| Object {
        key: key.clone(),
        bytes,
        sha256: None,
        made: made.taken(),
        present: true,
    };
    let mut newest: BTreeMap<String, Object> = BTreeMap::new();
    let mut moments: BTreeMap<SnapshotId, Vec<(String, Object)>> = BTreeMap::new();
    for (key, (bytes, source, moment)) in free {
        moments.entry(*moment).or_default().push((source.clone(), object(key, *bytes, *moment)));
    }
    for (moment, objects) in moments {
        for (source, object) in objects {
            newest.insert(source, object);
        }
        let sources: BTreeMap<String, State> = newest
            .iter()
            .map(|(source, object)| {
                let outcome = if object.made == moment.taken() { Outcome::Adopted } else { Outcome::Unchanged };
                (source.clone(), State { outcome, object: Some(object.clone()), fingerprint: String::new() })
            })
            .collect();
        snapshots.entry(moment).or_insert_with(|| Snapshot {
            id: moment,
            record: None,
            record_sha256: None,
            damage: None,
            complete: config.sources.keys().all(|source| sources.contains_key(source)),
            adopted: true,
            verified: keys.verified.contains(&moment),
            pinned: config.pinned.contains(&moment),
            sources,
        });
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

impl Snapshot {
    /// Size of all objects that it refers to.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.sources.values().filter_map(|state| state.object.as_ref()).map(|object| object.bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{FORMAT_VERSION, SourceRecord};

    fn config() -> EnvironmentConfig {
        let text = "[store]\nurl = \"file:///x\"\n[env.prod.sources.db]\nkind = \"postgres\"\ndatabase = \"erp\"\n\
                    host = \"h\"\ncredentials = { user = \"u\" }\n\
                    [env.prod.sources.docs]\nkind = \"directory\"\npath = \"/d\"\n";
        crate::config::Config::parse(text).unwrap().environment("prod").unwrap().1.clone()
    }

    fn environment() -> Environment {
        let text = "[store]\nurl = \"file:///x\"\n[env.prod.sources.docs]\nkind = \"directory\"\npath = \"/d\"\n";
        crate::config::Config::parse(text).unwrap().environment("prod").unwrap().0.clone()
    }

    fn history(listed: &[(&str, u64)], records: Vec<Record>) -> History {
        let config = config();
        let listed = listed.iter().map(|(key, bytes)| (ObjectKey::parse(key).unwrap(), *bytes));
        let keys = sort(&environment(), &config, listed);
        let records = records.into_iter().map(|record| (record.id, Ok(record), "hash".to_owned())).collect();
        build(&config, &keys, records)
    }

    fn record(id: &str, objects: &[(&str, &str, u64)]) -> Record {
        let id: SnapshotId = id.parse().unwrap();
        let source = |(name, key, bytes): &(&str, &str, u64)| {
            let object = ObjectRecord {
                key: ObjectKey::parse(key).unwrap(),
                bytes: *bytes,
                sha256: "00".into(),
                made: id.taken(),
            };
            let source = SourceRecord {
                kind: "postgres".into(),
                outcome: Outcome::Saved,
                reason: "test".into(),
                fingerprint: Some("f".into()),
                basis: None,
                object: Some(object),
                database: None,
                archive: None,
            };
            ((*name).to_owned(), source)
        };
        Record {
            format_version: FORMAT_VERSION,
            id,
            environment: "prod".into(),
            started: id.taken(),
            finished: id.taken(),
            time_zone: "UTC".into(),
            host_version: "0".into(),
            complete: true,
            sources: objects.iter().map(source).collect(),
            plugins: vec![],
            warnings: vec![],
            previous: None,
        }
    }

    #[test]
    fn a_snapshot_is_complete_only_while_its_objects_are_there_at_their_size() {
        let record = || record("20260630T010000Z", &[("db", "prod/db/20260630T010000Z.dump", 7)]);
        let complete = |listed: &[(&str, u64)]| history(listed, vec![record()]).snapshots[0].complete;
        assert!(complete(&[("prod/db/20260630T010000Z.dump", 7)]));
        assert!(!complete(&[("prod/db/20260630T010000Z.dump", 6)]));
        assert!(!complete(&[]));
    }

    #[test]
    fn objects_of_a_script_are_adopted_and_carry_over_what_the_script_skipped() {
        let history = history(
            &[
                ("prod/db/20260101T010000Z.dump", 5),
                ("prod/docs/20260101T010000Z.tar.gz", 9),
                ("prod/db/20260102T010000Z.dump", 6),
                ("prod/docs/2026-01-03.tar.gz", 4),
            ],
            vec![],
        );
        let shown: Vec<_> = history
            .snapshots
            .iter()
            .map(|s| {
                let of = |source: &str| s.sources[source].outcome.to_string();
                (s.id.to_string(), s.complete && s.adopted, of("db"), of("docs"), s.bytes())
            })
            .collect();
        let row = |id: &str, db: &str, docs: &str, bytes| (id.to_owned(), true, db.to_owned(), docs.to_owned(), bytes);
        assert_eq!(
            shown,
            [
                row("20260101T010000Z", "adopted", "adopted", 14),
                row("20260102T010000Z", "adopted", "unchanged", 15),
                row("20260103T000000Z", "unchanged", "adopted", 10),
            ]
        );
        assert!(history.orphans.is_empty());
    }

    #[test]
    fn keys_of_another_environment_or_that_do_not_parse_are_not_touched() {
        let history = history(
            &[
                ("prod/db/latest.dump", 1),
                ("prod/db/20260101T010000Z.txt", 1),
                ("prod/docs/20260101T010000Z.index", 1),
                ("prod/db/old/20260101T010000Z.dump", 1),
                ("prod-1/db/20260101T010000Z.dump", 1),
                ("prod/other/20260101T010000Z.dump", 1),
            ],
            vec![],
        );
        assert!(history.snapshots.is_empty() && history.orphans.is_empty());
    }

    #[test]
    fn what_a_run_has_not_committed_is_neither_a_snapshot_nor_an_orphan() {
        let history =
            history(&[("prod/db/20260101T010000Z.dump", 5), ("prod/leases/20260101T010000Z.00ff.json", 1)], vec![]);
        assert!(history.snapshots.is_empty() && history.orphans.is_empty());
    }

    #[test]
    fn an_object_of_a_forgotten_snapshot_is_an_orphan_and_never_comes_back_as_adopted() {
        let history =
            history(&[("prod/db/20260101T010000Z.dump", 5), ("prod/forgotten/20260101T010000Z.json", 1)], vec![]);
        assert!(history.snapshots.is_empty());
        assert_eq!(history.orphans.len(), 1);
    }

    #[test]
    fn an_object_lives_as_long_as_any_kept_snapshot_refers_to_it() {
        let shared = ("db", "prod/db/20260101T010000Z.dump", 5);
        let history = history(
            &[("prod/db/20260101T010000Z.dump", 5)],
            vec![record("20260101T010000Z", &[shared]), record("20260201T010000Z", &[shared])],
        );
        let forget =
            |ids: &[&str]| history.unreferenced_without(&ids.iter().map(|id| id.parse().unwrap()).collect()).len();
        assert_eq!(forget(&["20260101T010000Z"]), 0);
        assert_eq!(forget(&["20260101T010000Z", "20260201T010000Z"]), 1);
    }

    #[test]
    fn a_record_that_cannot_be_read_freezes_every_deletion() {
        let config = config();
        let listed = [("prod/db/20260101T010000Z.dump", 5), ("prod/forgotten/20260101T010000Z.json", 1)];
        let keys = sort(
            &environment(),
            &config,
            listed.into_iter().map(|(key, bytes)| (ObjectKey::parse(key).unwrap(), bytes)),
        );
        let id: SnapshotId = "20260202T010000Z".parse().unwrap();
        let history = build(&config, &keys, vec![(id, Err(Error::unexpected("damaged")), "h".into())]);
        assert!(history.orphans.is_empty());
        assert!(history.unreferenced_without(&[id].into()).is_empty());
        assert!(history.subjects()[0].damaged);
    }

    #[test]
    fn a_snapshot_from_the_future_is_neither_carried_nor_chained_to() {
        let past = record("20260101T010000Z", &[("db", "prod/db/20260101T010000Z.dump", 5)]);
        let future = record("20990101T010000Z", &[("db", "prod/db/20990101T010000Z.dump", 5)]);
        let history = history(&[], vec![past, future]);
        let now = "2026-06-30T00:00:00Z".parse().unwrap();
        assert_eq!(history.previous(now).unwrap().id.to_string(), "20260101T010000Z");
        assert!(history.carried("db", now).unwrap().1.key.as_str().contains("20260101"));
    }
}
