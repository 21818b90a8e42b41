//! The oracle: it knows which states are owed. It parses the stored JSON itself and shares no code with guard, policy
//! or history.

use bytes::Bytes;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use store::ObjectKey;
use store::memory::{Objects, StoredObject, starting_with};

/// The default policy owes the ends of this many past days, months and calendar years.
const DAYS_OWED: i32 = 30;
const MONTHS_OWED: i32 = 12;
const YEARS_OWED: i32 = 10;

/// Where records, certificates of what was forgotten, and versions of the environment's file are.
const RECORDS: &str = "prod/snapshots/";
const CERTIFICATES: &str = "prod/forgotten/";
const VERSIONS: &str = "prod/environment/";

/// Number of runs that may commit while an object exists that nothing explains.
const UNEXPLAINED_RUNS_MAX: u32 = 1;

/// A rule that was broken.
#[derive(Debug, Clone, PartialEq, Eq, derive_more::Display)]
#[display("on day {day}: {what}")]
pub struct Violation {
    /// The day of the simulation.
    pub day: u32,
    /// The broken rule, with details.
    pub what: String,
}

/// A state of a source, from a record.
struct State {
    id: String,
    /// Whether the record doubts its time.
    doubted: bool,
    /// Whether it was made with the right clock, whatever the record says.
    by_right_clock: bool,
    condition: String,
    key: String,
}

/// What the oracle remembers.
#[derive(Default)]
pub struct Oracle {
    /// Ids of all records that ever existed.
    ever: BTreeSet<String>,
    /// The history without pruning, by source and time.
    states: BTreeMap<String, BTreeMap<Timestamp, State>>,
    /// The newest version of the environment's file, as it is stored and parsed.
    newest_file: Bytes,
    environment: Value,
    /// Snapshots that were retired, including those that no longer exist.
    retired: BTreeSet<String>,
    /// Snapshots with a source that was accepted in them. Until then another state served their day. That state may be
    /// gone, even if the acceptance is withdrawn later.
    accepted: BTreeSet<(String, String)>,
    /// Snapshots whose time was ever confirmed as right. The states that they replaced then may be gone.
    trusted: BTreeSet<String>,
    /// Whether today's run has a wrong clock.
    clock_is_wrong: bool,
    lost: BTreeSet<String>,
    by_script: BTreeSet<String>,
    /// Objects of a script that may age, and the adopted snapshots that were allowed to age.
    may_age: BTreeSet<String>,
    let_age: BTreeSet<String>,
    unexplained: BTreeMap<String, u32>,
    /// The objects that each record and certificate names. Neither ever changes.
    named: HashMap<ObjectKey, Vec<String>>,
    /// The records and certificates that name each object, as far as they were read.
    named_by: HashMap<String, Vec<ObjectKey>>,
    read: HashSet<ObjectKey>,
    /// The state at the last check. Nothing is checked again until it changes or a period ends.
    last_check: Option<(Date, usize, usize)>,
}

impl Oracle {
    /// Records that an object is lost permanently.
    pub fn lost(&mut self, key: &ObjectKey) {
        self.lost.insert(key.to_string());
    }

    /// Sets whether runs from now on have a wrong clock.
    pub fn under_wrong_clock(&mut self, is_wrong: bool) {
        self.clock_is_wrong = is_wrong;
    }

    /// Records that a script stored an object.
    pub fn by_script(&mut self, key: &ObjectKey) {
        self.by_script.insert(key.to_string());
    }

    /// Whether a script stored the object.
    pub fn is_by_script(&self, key: &ObjectKey) -> bool {
        self.by_script.contains(key.as_str())
    }

    /// Remembers new records and the newest environment file.
    pub fn observe(&mut self, objects: &Objects) {
        for (key, object) in files(objects, RECORDS) {
            let new = between(key, RECORDS).filter(|id| !self.ever.contains(*id));
            let Some((id, taken)) = new.and_then(|id| Some((id, moment(id)?))) else { continue };
            self.ever.insert(id.to_owned());
            let record = parsed(&object.bytes);
            for (source, state) in record["sources"].as_object().into_iter().flatten() {
                let (Some(condition), Some(key)) = (state["condition"].as_str(), state["object"]["key"].as_str())
                else {
                    continue;
                };
                let doubted = !record["clock_doubt"].is_null();
                let by_right_clock = !self.clock_is_wrong;
                let (id, condition, key) = (id.to_owned(), condition.to_owned(), key.to_owned());
                let state = State { id, doubted, by_right_clock, condition, key };
                self.states.entry(source.clone()).or_default().insert(taken, state);
            }
        }
        let newest = files(objects, VERSIONS).last();
        if let Some((_, object)) = newest.filter(|(_, object)| self.newest_file != object.bytes) {
            self.newest_file = object.bytes.clone();
            self.environment = parsed(&object.bytes);
            for list in ["retired_snapshots", "given_up_records", "retired_ahead"] {
                let retired = self.environment[list].as_array().into_iter().flatten();
                self.retired.extend(retired.filter_map(Value::as_str).map(str::to_owned));
            }
            let let_age = self.environment["adopted_may_age"].as_array().into_iter().flatten();
            let let_age: BTreeSet<String> = let_age.filter_map(Value::as_str).map(str::to_owned).collect();
            if !let_age.is_subset(&self.let_age) {
                self.let_age.extend(let_age);
                let there = self.by_script.iter().filter(|key| objects.contains_key(key.as_str()));
                self.may_age.extend(there.cloned());
            }
            let trusted = self.environment["trusted_times"].as_array().into_iter().flatten();
            self.trusted.extend(trusted.filter_map(Value::as_str).map(str::to_owned));
            for state in self.environment["accepted"].as_array().into_iter().flatten() {
                let text = |field: &str| state[field].as_str().unwrap_or_default().to_owned();
                self.accepted.insert((text("snapshot"), text("source")));
            }
        }
    }

    /// Checks that every owed state of the history without pruning can be restored. Returns how many were checked.
    pub fn check(&mut self, day: u32, now: Timestamp, objects: &Objects) -> Result<u64, Violation> {
        self.observe(objects);
        self.restorable(day, objects)?;
        self.adopted(day, objects)?;
        let zone = TimeZone::get("Europe/Paris").expect("a zone");
        let today = now.to_zoned_datetime(zone.clone()).date();
        let state = (today.first_of_month(), self.ever.len(), objects.len());
        // Without a deletion nothing can be missing. A new month changes what is owed.
        if self.last_check.is_some_and(|last| last.0 == state.0 && last.2 <= state.2 && !day.is_multiple_of(10)) {
            self.last_check = Some(state);
            return Ok(0);
        }
        self.last_check = Some(state);
        let is_kept = |id: &str| objects.contains_key(format!("{RECORDS}{id}.json").as_str());
        let points = owed(today, &zone);
        let mut checked = 0;
        for (source, states) in &self.states {
            for (label, end) in &points {
                let before = || states.range(..*end).rev().filter(|(taken, _)| **taken <= now);
                let mut whole = before().map(|(_, state)| state).filter(|state| self.is_whole(state, source));
                let Some(expected) = whole.next() else { continue };
                // A lost object is missing, and so is every state that needs it.
                if self.lost.contains(&expected.key) {
                    continue;
                }
                checked += 1;
                let is_left = |state: &&State| is_kept(&state.id) && objects.contains_key(state.key.as_str());
                // A later state also serves this end if it was made with the right clock and its time was confirmed
                // once, even if it is doubted again.
                let is_true = |state: &&State| {
                    state.by_right_clock && self.trusted.contains(&state.id) && self.is_intact(state, source)
                };
                let truly_later = before().map(|(_, state)| state).take_while(|state| state.id > expected.id);
                if truly_later.filter(is_true).any(|state| is_left(&state)) {
                    continue;
                }
                let actual = std::iter::once(expected).chain(whole).find(is_left);
                if actual.is_none_or(|actual| actual.key != expected.key) {
                    let State { id, key, .. } = expected;
                    let instead = actual.map_or("nothing", |actual| actual.id.as_str());
                    let what = format!("{source}: the end of {label} needs {key} of {id}, found {instead}");
                    return Err(Violation { day, what });
                }
            }
        }
        Ok(checked)
    }

    /// Checks that every object that a record names exists, except lost ones.
    fn restorable(&mut self, day: u32, objects: &Objects) -> Result<(), Violation> {
        for (record, object) in files(objects, RECORDS) {
            let named = self.named.entry(record.clone()).or_insert_with(|| names(&object.bytes));
            let is_gone = |key: &&String| !objects.contains_key(key.as_str()) && !self.lost.contains(*key);
            if let Some(key) = named.iter().find(is_gone) {
                return Err(Violation { day, what: format!("{record} names {key}, which does not exist") });
            }
        }
        Ok(())
    }

    /// Checks that every object of a script exists, until it may age.
    fn adopted(&self, day: u32, objects: &Objects) -> Result<(), Violation> {
        for key in &self.by_script {
            if !objects.contains_key(key.as_str()) && !self.may_age.contains(key) {
                return Err(Violation {
                    day,
                    what: format!("{key} of a script is gone, but nobody allowed it to age"),
                });
            }
        }
        Ok(())
    }

    /// Whether a state is whole and its time is not doubted.
    fn is_whole(&self, state: &State, source: &str) -> bool {
        let is_listed = |ids: &Vec<Value>| ids.iter().any(|known| known == state.id.as_str());
        let is_trusted = || self.environment["trusted_times"].as_array().is_some_and(is_listed);
        (!state.doubted || is_trusted()) && self.is_intact(state, source)
    }

    /// Whether a state is whole, whatever its time.
    fn is_intact(&self, state: &State, source: &str) -> bool {
        let accepted = || self.accepted.contains(&(state.id.clone(), source.to_owned()));
        !self.retired.contains(&state.id) && (state.condition == "whole" || state.condition == "suspect" && accepted())
    }

    /// Checks that every object is explained, at the latest one run after it was first seen unexplained.
    pub fn unexplained(&mut self, day: u32, objects: &Objects) -> Result<(), Violation> {
        let announced: BTreeSet<String> =
            starting_with(objects, "prod/leases/").flat_map(|(_, object)| names(&object.bytes)).collect();
        for (key, object) in files(objects, RECORDS).chain(files(objects, CERTIFICATES)) {
            if self.read.insert(key.clone()) {
                for named in self.named.entry(key.clone()).or_insert_with(|| names(&object.bytes)) {
                    self.named_by.entry(named.clone()).or_default().push(key.clone());
                }
            }
        }
        let is_named = |key: &str| {
            announced.contains(key)
                || self.named_by.get(key).is_some_and(|by| by.iter().any(|by| objects.contains_key(by)))
        };
        let other = ["drills/", "environment/", "forgotten/", "leases/", "snapshots/", "verified/", ".fp-"];
        let is_object = |key: &str| {
            !key.strip_prefix("prod/").is_some_and(|below| other.iter().any(|folder| below.starts_with(folder)))
        };
        let unexplained: Vec<String> = objects
            .keys()
            .map(ObjectKey::as_str)
            .filter(|key| is_object(key) && !self.by_script.contains(*key) && !is_named(key))
            .map(str::to_owned)
            .collect();
        self.unexplained.retain(|key, _| unexplained.contains(key));
        for key in unexplained {
            let runs = self.unexplained.entry(key.clone()).or_default();
            *runs += 1;
            if *runs > UNEXPLAINED_RUNS_MAX {
                return Err(Violation { day, what: format!("nothing explains {key}") });
            }
        }
        Ok(())
    }
}

/// The owed ends of periods, each with the first moment after it.
fn owed(today: Date, zone: &TimeZone) -> Vec<(String, Timestamp)> {
    let start = |day: Date| day.to_zoned_datetime(zone.clone()).expect("a day").timestamp();
    let days = (0..DAYS_OWED).map(|back| today.saturating_sub(back.days()));
    let months = (0..MONTHS_OWED).map(|back| today.first_of_month().saturating_sub(back.months()));
    let years = (0..YEARS_OWED).map(|back| today.first_of_year().saturating_sub(back.years()));
    let before = |day: Date| day.yesterday().expect("a day before");
    days.map(|day| (format!("the day {}", before(day)), start(day)))
        .chain(months.map(|day| (before(day).strftime("the month %Y-%m").to_string(), start(day))))
        .chain(years.map(|day| (before(day).strftime("the year %Y").to_string(), start(day))))
        .collect()
}

/// The objects that a record, a certificate or a mark names.
fn names(bytes: &Bytes) -> Vec<String> {
    let value = parsed(bytes);
    let sources = value["sources"].as_object().into_iter().flat_map(|sources| sources.values());
    let named = sources.map(|source| &source["object"]["key"]);
    let lists = ["keys", "objects"].into_iter().filter_map(|list| value[list].as_array()).flatten();
    named.chain(lists).filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The JSON files of a folder.
fn files<'o>(objects: &'o Objects, folder: &'o str) -> impl Iterator<Item = (&'o ObjectKey, &'o StoredObject)> {
    starting_with(objects, folder).filter(move |(key, _)| between(key, folder).is_some())
}

fn between<'k>(key: &'k ObjectKey, folder: &str) -> Option<&'k str> {
    key.as_str().strip_prefix(folder)?.strip_suffix(".json")
}

fn parsed(bytes: &Bytes) -> Value {
    serde_json::from_slice(bytes).unwrap_or_default()
}

fn moment(id: &str) -> Option<Timestamp> {
    let civil = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", id).ok()?;
    Some(civil.to_zoned_datetime(TimeZone::UTC).ok()?.timestamp())
}
