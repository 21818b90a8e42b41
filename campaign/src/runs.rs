//! Runs on the simulated store: the host's real sequence of a run, with a saver that knows what the sources hold.

use crate::world::Truth;
use base::error::{Error, Result};
use base::stream;
use bytes::Bytes;
use catalogue::guard::Decision;
use catalogue::history::History;
use catalogue::judgement::{self, Judgement, Seen};
use catalogue::lease::{Lease, Machine};
use catalogue::questions;
use catalogue::record::{Condition, ObjectRecord, Outcome, PluginRecord, Record, SourceRecord};
use dolibarr_backup::config::Config;
use dolibarr_backup::retention::{Candidate, Proposal, Propose};
use dolibarr_backup::verbs::backup::course::{self, Course, Done, Save, Saved, When};
use jiff::{SignedDuration, Timestamp};
use plugin::context::Tally;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use retention_tiered::Plugin;
use retention_tiered::exports::backup::host::retaining::{self, Guest};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use store::{ObjectKey, Store};

/// The environment of every campaign.
pub const ENVIRONMENT: &str = "prod";

thread_local! {
    /// The clock that leases use. A thread simulates one history at a time.
    static MONOTONIC_MILLIS: Cell<u64> = const { Cell::new(0) };
    /// The random numbers that leases use.
    static CHANCE: RefCell<StdRng> = RefCell::new(StdRng::seed_from_u64(0));
}

/// The retention of every campaign, as a record names it.
pub const RETENTION: &str = "simulated";

/// Seeds the random numbers of a history.
pub fn seed_chance(seed: u64) {
    CHANCE.set(StdRng::seed_from_u64(seed));
}

/// The machine of every run. Its clock and its random numbers depend on the seed.
pub const MACHINE: Machine = Machine { monotonic, draw: || CHANCE.with_borrow_mut(|chance| chance.random()) };

/// Sets the clock that leases use.
pub fn set_monotonic(millis: u64) {
    MONOTONIC_MILLIS.set(millis);
}

/// The clock that leases use.
pub fn monotonic() -> u64 {
    MONOTONIC_MILLIS.get()
}

/// Everything that one run works with. Nothing is shared, so a killed run affects no other.
#[derive(Clone)]
pub struct Setting {
    pub store: Arc<Store>,
    pub config: Arc<Config>,
    /// What each configured source holds now.
    pub truths: BTreeMap<String, Truth>,
    /// The machine's clock.
    pub now: Timestamp,
    /// Whether the configured plugin forgets everything.
    pub wild: bool,
    /// Set to interrupt the run.
    pub signal: Arc<AtomicBool>,
}

/// Executes one run to its end.
pub async fn run(setting: Setting) -> Result<Done> {
    let Setting { store, config, truths, now, wild, signal } = setting;
    let (environment, configured) = config.environment(ENVIRONMENT)?;
    let sources = &configured.configured;
    let course = Course {
        store: &store,
        environment,
        sources,
        guard: &config.guard,
        time_zone: &config.time_zone,
        machine: MACHINE,
        shift: SignedDuration::ZERO,
        retention: RETENTION,
    };
    let mut saver = Saver { store: &store, sources, zone: course.time_zone.iana_name().unwrap_or("UTC"), truths };
    let interrupted = std::future::poll_fn(|_| {
        if signal.load(Ordering::Relaxed) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    });
    course::run(&course, &mut saver, &Policy { wild }, async { Ok(None) }, now, interrupted).await
}

struct Saver<'a> {
    store: &'a Store,
    sources: &'a catalogue::configured::Configured,
    zone: &'a str,
    truths: BTreeMap<String, Truth>,
}

impl Save for Saver<'_> {
    async fn save(&mut self, lease: &Lease, history: &History, when: When) -> Result<Saved> {
        let (mut sources, mut failures) = (BTreeMap::new(), Vec::new());
        for (name, truth) in &self.truths {
            let record = match self.save_one(name, truth, lease, history, when).await {
                Ok(record) => record,
                Err(error) if !lease.fence().holds() => return Err(error),
                Err(error) => {
                    failures.push((name.clone(), error.clone()));
                    let blank = blank(truth, Outcome::Failed, Condition::Failed);
                    SourceRecord { reason: error.to_string(), ..blank }
                }
            };
            sources.insert(name.clone(), record);
        }
        let expected = questions::expected(history, self.sources);
        let whole = |source: &SourceRecord| source.condition() == Condition::Whole;
        let complete = sources.values().all(whole) && expected.iter().all(|name| sources.contains_key(*name));
        let id = when.id;
        let record = Record {
            time_zone: self.zone.to_owned(),
            complete,
            sources,
            store_time: Some(when.store_time),
            clock_doubt: when.clock_doubt,
            ..history.next_record(id, ENVIRONMENT)
        };
        Ok(Saved { record, failures })
    }
}

impl Saver<'_> {
    async fn save_one(
        &self,
        name: &str,
        truth: &Truth,
        lease: &Lease,
        history: &History,
        when: When,
    ) -> Result<SourceRecord> {
        let (id, now) = (when.id, when.id.taken());
        if truth.is_out {
            return Err(Error::unavailable(format!("{name} is out of reach")));
        }
        let fingerprint = truth.content();
        let another = judgement::is_another(truth.identity.as_deref(), name, history, now);
        if let Some((before, object)) = history.carried(name, now).filter(|_| !another)
            && before.fingerprint.as_ref() == Some(&fingerprint)
            && before.is_restorable()
            && truth.unreadable == 0
        {
            let (identity, measure) = (before.identity.clone(), before.measure);
            let blank = blank(truth, Outcome::Unchanged, Condition::Whole);
            let (object, measure) = (Some(object), Some(measure));
            return Ok(SourceRecord { fingerprint: Some(fingerprint), object, identity, measure, ..blank });
        }
        let extension = if truth.kind == "postgres" { "dump" } else { "tar.gz" };
        let text = format!("{ENVIRONMENT}/{name}/{id}.{extension}");
        let key = ObjectKey::parse(&text).ok_or_else(|| Error::unexpected("a key of the simulation"))?;
        let (writer, content) = stream::channel(None);
        // Both fit into the buffer of a stream, so neither waits.
        let sent = writer.send(Bytes::from(fingerprint.clone())).await.is_ok() && writer.finish().await.is_ok();
        assert!(sent, "the reader still exists");
        let stored = lease.fencing(id).put_stream(self.store, &key, content).await?;
        let seen = Seen {
            identity: truth.identity.clone(),
            measure: truth.measure,
            unreadable: truth.unreadable,
            below_unreadable: None,
            lacking: Vec::new(),
        };
        let Judgement { condition, doubts } = judgement::judge(name, &seen, history, now);
        let object = ObjectRecord { key, bytes: stored.bytes, sha256: stored.sha256, made: now };
        Ok(SourceRecord {
            fingerprint: (condition == Condition::Whole).then_some(fingerprint),
            object: Some(object),
            doubts,
            identity: seen.identity,
            measure: Some(seen.measure),
            ..blank(truth, Outcome::Saved, condition)
        })
    }
}

fn blank(truth: &Truth, outcome: Outcome, condition: Condition) -> SourceRecord {
    SourceRecord { condition: Some(condition), ..SourceRecord::blank(truth.kind, outcome) }
}

/// The shipped retention plugin as native code, or a plugin that forgets everything.
struct Policy {
    wild: bool,
}

impl Propose for Policy {
    async fn propose(&self, now: Timestamp, time_zone: &str, snapshots: &[Candidate]) -> (Result<Proposal>, Tally) {
        if self.wild {
            let forget = || Decision::of_plan(false, vec!["wild".to_owned()]);
            let decisions = snapshots.iter().map(|candidate| (candidate.id.to_string(), forget())).collect();
            return (Ok(Proposal { decisions, notes: Vec::new() }), Tally::new());
        }
        let inputs = snapshots
            .iter()
            .map(|candidate| retaining::Snapshot {
                id: candidate.id.to_string(),
                taken: candidate.id.taken().as_second(),
                complete: candidate.complete,
                bytes: candidate.bytes,
                pinned: candidate.pinned,
                verified: candidate.verified,
                adopted: candidate.adopted,
            })
            .collect();
        let answer = Plugin::plan(now.as_second(), time_zone.to_owned(), String::new(), inputs);
        let proposal = answer.map_err(|_| Error::unexpected("the shipped retention refuses its own settings"));
        let decision = |decision: retaining::Decision| {
            let keep = decision.verdict == retaining::Verdict::Keep;
            (decision.id, Decision::of_plan(keep, decision.reasons))
        };
        let proposal = proposal
            .map(|plan| Proposal { decisions: plan.decisions.into_iter().map(decision).collect(), notes: plan.notes });
        (proposal, Tally::new())
    }

    fn refused(&self, why: String) -> Error {
        Error::unexpected(why)
    }

    fn digest(&self) -> &str {
        "simulated"
    }

    fn record(&self, _: &Tally) -> Option<PluginRecord> {
        None
    }
}
