//! The world of one history: the real content of the sources, the configuration, and the events of each day.

use crate::Tally;
use crate::events::{Event, Scheduled};
use crate::oracle::{Oracle, Violation};
use crate::runs::{self, ENVIRONMENT};
use base::error::Result;
use bytes::Bytes;
use catalogue::environment::{self, EnvironmentFile};
use catalogue::record::Measure;
use dolibarr_backup::config::Config;
use jiff::{SignedDuration, Timestamp};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;
use std::sync::Arc;
use store::memory::Memory;
use store::{ObjectKey, Store};

/// The earliest start of a history: 2014-06-01T01:00:00Z. Each starts up to a year later.
const BEGIN: i64 = 1_401_584_400;

/// Nights with a normal plugin between two wild phases, so that the snapshots that the wild plugin put into the bin
/// come back.
const NIGHTS_BETWEEN: u32 = 3;

/// The real content of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Truth {
    /// The source, independent of its name in the configuration.
    pub label: &'static str,
    pub kind: &'static str,
    pub version: u64,
    pub is_out: bool,
    pub unreadable: u64,
    pub is_empty: bool,
    /// Whether it is empty by mistake.
    pub is_emptied: bool,
    pub measure: Measure,
    pub identity: Option<String>,
}

impl Truth {
    fn new(label: &'static str, kind: &'static str) -> Self {
        let database = kind == "postgres";
        let measure = if database {
            Measure { tables: Some(300), rows: Some(50_000), ..Measure::default() }
        } else {
            Measure { files: Some(1_000), bytes: Some(5_000_000_000), ..Measure::default() }
        };
        Self {
            label,
            kind,
            version: 1,
            is_out: false,
            unreadable: 0,
            is_empty: false,
            is_emptied: false,
            measure,
            identity: database.then(|| "1/erp".to_owned()),
        }
    }

    /// The content of its object, which is also its fingerprint.
    pub fn content(&self) -> String {
        let what = match (self.is_empty, self.unreadable > 0) {
            (true, _) => "empty".to_owned(),
            (false, true) => format!("part of {}", self.version),
            (false, false) => self.version.to_string(),
        };
        format!("{}:{}:{what}", self.label, self.identity.as_deref().unwrap_or_default())
    }

    /// Whether a run may report that it saved the source completely.
    pub(crate) fn is_sound(&self) -> bool {
        !self.is_out
            && !self.is_emptied
            && self.unreadable == 0
            && self.identity.as_deref().is_none_or(|identity| identity == "1/erp")
    }
}

/// The day on which each condition ends. On that day it no longer holds.
#[derive(Debug, Clone, Default)]
pub struct Lasting {
    out: BTreeMap<&'static str, u32>,
    unreadable: u32,
    empty: BTreeMap<&'static str, u32>,
    other_database: u32,
    renamed: u32,
    removed: u32,
    zone: u32,
    weak_guard: u32,
    pub(crate) wild: u32,
    holiday: u32,
}

/// The state of one history.
pub struct World {
    pub(crate) memory: Memory,
    pub(crate) store: Arc<Store>,
    pub(crate) random: StdRng,
    pub(crate) day: u32,
    begin: i64,
    /// Whether the store uses the machine's clock, as a folder does.
    pub(crate) store_is_local: bool,
    pub(crate) truths: BTreeMap<&'static str, Truth>,
    pub(crate) lasting: Lasting,
    /// The documents were renamed permanently.
    pub(crate) renamed_for_good: bool,
    /// The administrator must still retire the old name.
    pub(crate) must_retire: bool,
    pub(crate) has_mails: bool,
    /// The last day with a mistake that was undone, and the last day with a snapshot.
    pub(crate) mistaken_on: u32,
    pub(crate) committed_on: u32,
    /// Runs since the plugin was last wild. Nights without a run repair nothing.
    pub(crate) behaved: u32,
    pub(crate) oracle: Oracle,
    /// The counts so far.
    pub tally: Tally,
}

impl World {
    /// The world of a seed.
    pub fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed ^ 0x5eed);
        runs::seed_chance(seed ^ 0xc4a9ce);
        let begin = BEGIN + random.random_range(0..365) * 86_400;
        let memory = Memory::new(at(begin));
        let truths = [Truth::new("db", "postgres"), Truth::new("docs", "directory"), Truth::new("mails", "directory")];
        Self {
            store: Arc::new(Store::Memory(memory.clone())),
            memory,
            day: 0,
            begin,
            store_is_local: random.random_bool(0.5),
            truths: truths.into_iter().map(|truth| (truth.label, truth)).collect(),
            lasting: Lasting::default(),
            renamed_for_good: false,
            must_retire: false,
            has_mails: false,
            mistaken_on: 0,
            committed_on: 0,
            behaved: 0,
            oracle: Oracle::default(),
            tally: Tally::default(),
            random,
        }
    }

    /// The true time.
    pub(crate) fn now(&self) -> Timestamp {
        at(self.begin + i64::from(self.day) * 86_400)
    }

    pub(crate) fn broken(&self, what: impl Into<String>) -> Violation {
        Violation { day: self.day, what: what.into() }
    }

    /// Simulates the years.
    pub(crate) async fn live(&mut self, years: u16, events: &[Scheduled]) -> Result<(), Violation> {
        self.set_clocks(self.now());
        self.init().await?;
        let mut events = events.iter().peekable();
        for day in 0..u32::from(years) * 365 {
            self.day = day;
            self.set_clocks(self.now());
            self.change();
            let mut troubles = Vec::new();
            while let Some(scheduled) = events.next_if(|scheduled| scheduled.day <= day) {
                self.happen(scheduled.event, &mut troubles);
            }
            if self.lasting.holiday <= day {
                self.night(&troubles).await?;
            }
            self.memory.heal();
            self.set_clocks(self.now());
            self.react().await?;
            let now = self.now();
            self.tally.owed += self.oracle.check(day, now, &self.memory.objects())?;
        }
        Ok(())
    }

    /// Initialises the environment, as an administrator does before the first backup.
    async fn init(&self) -> Result<(), Violation> {
        let config = self.config();
        let founded = async {
            let (environment, sources) = config.environment(ENVIRONMENT)?;
            let file = EnvironmentFile::first(
                environment,
                &sources.configured,
                &BTreeMap::new(),
                &config.guard,
                config.time_zone.iana_name().unwrap_or("UTC"),
                self.now(),
            );
            environment::write(&self.store, environment, None, None, file, self.now()).await
        };
        founded.await.map(drop).map_err(|error| self.broken(format!("init: {error}")))
    }

    /// Sets the clocks of the machine and the store.
    pub(crate) fn set_clocks(&self, machine: Timestamp) {
        self.memory.set_now(if self.store_is_local { machine } else { self.now() });
        let passed = self.now().as_second() - self.begin;
        runs::set_monotonic(u64::try_from(passed * 1_000).unwrap_or(0) + 1_000_000);
    }

    /// Applies the daily changes to the sources.
    fn change(&mut self) {
        for truth in self.truths.values_mut() {
            truth.version += u64::from(self.random.random_bool(0.6));
        }
        let (day, lasting) = (self.day, &self.lasting);
        let holds = |until: Option<&u32>| until.is_some_and(|until| *until > day);
        for (label, truth) in &mut self.truths {
            truth.is_out = holds(lasting.out.get(label));
            let is_empty = holds(lasting.empty.get(label));
            truth.is_emptied = is_empty && lasting.empty.get(label).is_some_and(|until| *until < u32::MAX);
            if is_empty != truth.is_empty {
                let Truth { label, kind, version, .. } = truth.clone();
                *truth = Truth { version, is_empty, ..Truth::new(label, kind) };
                if is_empty {
                    let zero = |count: Option<u64>| count.map(|_| 0);
                    let Measure { files, bytes, tables, rows } = truth.measure;
                    truth.measure = Measure { files: zero(files), bytes: zero(bytes), tables, rows: zero(rows) };
                }
            }
        }
        if let Some(docs) = self.truths.get_mut("docs") {
            docs.unreadable = if self.lasting.unreadable > day { 7 } else { 0 };
        }
        if let Some(db) = self.truths.get_mut("db") {
            let server = if self.lasting.other_database > day { "2/erp" } else { "1/erp" };
            db.identity = Some(server.to_owned());
        }
    }

    fn happen(&mut self, event: Event, troubles: &mut Vec<Event>) {
        let label = |database: bool| if database { "db" } else { "docs" };
        let until = |days: u16| self.day + u32::from(days);
        match event {
            Event::Outage { database, days } => drop(self.lasting.out.insert(label(database), until(days))),
            Event::Unreadable { days } => self.lasting.unreadable = until(days),
            Event::Emptied { database, days, meant } => {
                // A source that was deliberately started from scratch loses nothing when it is empty.
                let began_anew = self.lasting.empty.get(label(database)) == Some(&u32::MAX);
                let until = if meant || began_anew { u32::MAX } else { until(days) };
                self.lasting.empty.insert(label(database), until);
            }
            Event::OtherDatabase { days } => self.lasting.other_database = until(days),
            Event::Renamed { meant: true, .. } if !self.renamed_for_good => {
                (self.renamed_for_good, self.must_retire) = (true, true);
            }
            Event::Renamed { days, .. } => self.lasting.renamed = until(days),
            Event::Removed { days } => self.lasting.removed = until(days),
            Event::Added => self.has_mails = true,
            Event::TimeZone { days } => self.lasting.zone = until(days),
            Event::WeakGuard { days } => self.lasting.weak_guard = until(days),
            // Without nights in between, two such events would last longer than a snapshot stays in the bin.
            Event::WildPlugin { days } if self.behaved >= NIGHTS_BETWEEN && self.lasting.wild < self.day => {
                self.lasting.wild = until(days);
            }
            Event::WildPlugin { .. } => {}
            Event::Holiday { days } => self.lasting.holiday = until(days),
            Event::Script { same } => self.script(same),
            Event::Lost => self.lose(),
            Event::Disproved => self.disprove(),
            Event::Kill { .. }
            | Event::Interrupt { .. }
            | Event::Race { .. }
            | Event::Pause { .. }
            | Event::StoreFault { .. }
            | Event::ScriptMeanwhile { .. }
            | Event::Clock { .. } => troubles.push(event),
        }
        self.apply_lasting();
    }

    /// Applies today's events to the sources at once, without another daily change.
    fn apply_lasting(&mut self) {
        let versions: Vec<u64> = self.truths.values().map(|truth| truth.version).collect();
        self.change();
        for (truth, version) in self.truths.values_mut().zip(versions) {
            truth.version = version;
        }
    }

    pub(crate) fn script(&mut self, same: bool) {
        let moment = self.now() - SignedDuration::from_hours(if same { 0 } else { 3 });
        let stamp = moment.strftime("%Y%m%dT%H%M%SZ");
        let key = ObjectKey::parse(&format!("{ENVIRONMENT}/db/{stamp}.dump"));
        if let Some(key) = key.filter(|key| !self.memory.objects().contains_key(key)) {
            self.oracle.by_script(&key);
            self.memory.place(key, Bytes::from(format!("script {stamp}")));
        }
    }

    /// Removes one of the objects, but not the newest.
    fn lose(&mut self) {
        let objects = self.memory.objects();
        let of_source = |key: &&ObjectKey| key.as_str().starts_with("prod/docs/") && !self.oracle.is_by_script(key);
        let keys: Vec<&ObjectKey> = objects.keys().filter(of_source).collect();
        if keys.len() > 3 {
            let key = keys[self.random.random_range(0..keys.len() - 1)].clone();
            self.memory.take_away(&key);
            self.oracle.lost(&key);
        }
    }

    /// Adds a verification that reports the newest snapshot as damaged.
    fn disprove(&mut self) {
        let objects = self.memory.objects();
        let records =
            objects.keys().filter_map(|key| key.as_str().strip_prefix("prod/snapshots/")?.strip_suffix(".json"));
        if let Some(newest) = records.last() {
            let at = self.now().strftime("%Y%m%dT%H%M%SZ");
            let name = format!("{ENVIRONMENT}/verified/{newest}-{at}-read-failed.json");
            self.memory.place(ObjectKey::parse(&name).expect("a key"), Bytes::from_static(b"{}"));
        }
    }

    /// Whether a mistake that will be undone still lasts.
    pub(crate) fn has_a_mistake(&self) -> bool {
        let Lasting { empty, other_database, renamed, removed, zone, weak_guard, .. } = &self.lasting;
        let is_mistaken = empty.values().any(|until| *until > self.day && *until < u32::MAX);
        is_mistaken || [other_database, renamed, removed, zone, weak_guard].into_iter().any(|until| *until > self.day)
    }

    /// Today's configuration.
    pub(crate) fn config(&self) -> Arc<Config> {
        let holds = |until: u32| until > self.day;
        let zone = if holds(self.lasting.zone) { "America/Martinique" } else { "Europe/Paris" };
        let guard = if holds(self.lasting.weak_guard) { "legal_years = 0\nbin_days = 0" } else { "" };
        let sources: String = self
            .configured()
            .into_iter()
            .map(|(name, label)| match label {
                "db" => format!(
                    "[env.prod.sources.{name}]\nkind = \"postgres\"\nhost = \"h\"\ndatabase = \"erp\"\ncredentials = {{ user = \"u\" }}\n"
                ),
                _ => format!("[env.prod.sources.{name}]\nkind = \"directory\"\npath = \"/{label}\"\n"),
            })
            .collect();
        let text = format!("time_zone = \"{zone}\"\n[store]\nurl = \"file:///simulated\"\n{sources}[guard]\n{guard}\n");
        Arc::new(Config::parse(&text).expect("a configuration of the simulation"))
    }

    /// Configured sources, each as its name in the configuration and its label.
    pub(crate) fn configured(&self) -> Vec<(&'static str, &'static str)> {
        let mut sources = vec![("db", "db")];
        let renamed = self.renamed_for_good || self.lasting.renamed > self.day;
        if self.lasting.removed <= self.day {
            sources.push((if renamed { "papers" } else { "docs" }, "docs"));
        }
        if self.has_mails {
            sources.push(("mails", "mails"));
        }
        sources
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).expect("a moment of the simulation")
}
