//! Retention: the plugin proposes, the guard decides, and forgetting takes two steps, days apart.
//!
//! Planning is pure and shown before it acts. It goes source by source: a snapshot may go if no source needs it. What may go
//! gets a certificate and lies in the bin, still restorable; a later run plans anew, takes back what is wanted again, and
//! deletes the rest when its time is up. Applying collects failures instead of stopping, because every single step leaves a
//! store in which each listed snapshot is restorable: certificate, record, and objects last.

use crate::capability::{Tally, printable};
use crate::error::{Class, Error, Result};
use crate::guard::{self, Decision, Guarded, Plan, Subject};
use crate::history::{self, History, Orphan, Serves, Snapshot};
use crate::host::Host;
use crate::lease::Lease;
use crate::plugin::Plugin;
use crate::plugin::call::retaining;
use crate::snapshot::{Certificate, FORMAT_VERSION, Previous, SnapshotId};
use crate::store::{Created, Deleted, ObjectKey, Store};
use bytes::Bytes;
use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use tokio_util::sync::CancellationToken;

/// Deletions under way at the same time. One by one is what every server can do; this many hide the latency.
const DELETIONS_IN_FLIGHT_MAX: usize = 8;

/// Lines that a plan may carry for the operator.
const NOTES_MAX: usize = 100;

/// Runs with every source whole that have to come while a snapshot lies in the bin, the last two of them when its time is up: two
/// mornings on which somebody could see it, and no single wrong clock.
pub const WHOLE_RUNS_IN_BIN: usize = 2;

/// What is to happen, decided.
#[derive(Debug, Clone, Default)]
pub struct Planned {
    /// Every snapshot with its verdict, after the guard.
    pub plan: Plan,
    /// Snapshots that may go and wait for a later run.
    pub deferred: BTreeSet<SnapshotId>,
    /// Lines of the plugin for the operator.
    pub notes: Vec<String>,
    /// What the plugin did while it planned.
    pub tally: Tally,
    /// Milliseconds that the plugin took.
    pub plan_millis: u64,
    plugin_sha256: String,
}

/// The steps that a plan comes to now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Steps {
    /// In the bin, and wanted again.
    pub taken_back: Vec<SnapshotId>,
    /// In the bin, and their time is up.
    pub due: Vec<SnapshotId>,
    /// On their way into the bin.
    pub entering: Vec<SnapshotId>,
    /// In the bin, and staying there.
    pub waiting: Vec<SnapshotId>,
}

/// What has happened.
#[derive(Debug, Default)]
pub struct Applied {
    /// Snapshots that left the bin, because they are wanted again.
    pub taken_back: Vec<SnapshotId>,
    /// Snapshots that entered the bin.
    pub binned: Vec<SnapshotId>,
    /// Snapshots that are deleted.
    pub forgotten: Vec<SnapshotId>,
    /// Objects that are deleted, with their sizes.
    pub pruned: Vec<(ObjectKey, u64)>,
    /// Records and objects that the store refused to delete.
    pub retained: Vec<ObjectKey>,
    /// What failed.
    pub failures: Vec<Error>,
    /// Whether it was stopped between two steps.
    pub interrupted: bool,
}

/// How long a snapshot lies in the bin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// So many days by the store's time, and [`WHOLE_RUNS_IN_BIN`] whole runs.
    Days(u16),
    /// What lies there already has waited long enough: a person says so.
    Over,
}

/// What a proposer is told of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its id.
    pub id: SnapshotId,
    /// Whether the source that is asked about is restorable from it.
    pub complete: bool,
    /// Of all objects that it refers to.
    pub bytes: u64,
    /// Whether the configuration pins it, or `unforget` keeps it.
    pub pinned: bool,
    /// Whether its verifications come to a proof.
    pub verified: bool,
    /// Whether it was made from objects without a record.
    pub adopted: bool,
}

/// What a proposer answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proposal {
    /// A decision for every snapshot, by the id as the proposer wrote it.
    pub decisions: Vec<(String, Decision)>,
    /// Lines for the operator.
    pub notes: Vec<String>,
}

/// Who proposes a plan: what it is asked is one source's snapshots, oldest first.
pub trait Propose {
    /// A plan for the snapshots that were passed in, and what was done for it.
    fn propose(
        &self,
        now: Timestamp,
        time_zone: &str,
        snapshots: &[Candidate],
    ) -> impl Future<Output = (Result<Proposal>, Tally)>;

    /// The refusal of an answer.
    fn refused(&self, why: String) -> Error;

    /// SHA-256 of what decides.
    fn digest(&self) -> &str;
}

impl Propose for Plugin {
    async fn propose(&self, now: Timestamp, time_zone: &str, snapshots: &[Candidate]) -> (Result<Proposal>, Tally) {
        let asked: Vec<_> = snapshots
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
        let called = self.plan_retention(now, time_zone, &asked).await;
        let decision = |decision: retaining::Decision| {
            let reasons = decision.reasons.iter().map(|reason| printable(reason)).collect();
            (decision.id, Decision { keep: decision.verdict == retaining::Verdict::Keep, reasons })
        };
        let proposal = called.result.map(|plan| Proposal {
            decisions: plan.decisions.into_iter().map(decision).collect(),
            notes: plan.notes.iter().map(|note| printable(note)).collect(),
        });
        (proposal, called.tally)
    }

    fn refused(&self, why: String) -> Error {
        Self::refused(self, why)
    }

    fn digest(&self) -> &str {
        Self::digest(self)
    }
}

/// What a plan follows from, besides the history.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// Rules that no plugin overrides.
    pub guard: &'a guard::Config,
    /// The business time zone.
    pub time_zone: &'a jiff::tz::TimeZone,
    /// Whether more may enter the bin than the guard allows at once.
    pub allow_more: bool,
}

impl<'a> Rules<'a> {
    /// Those of a configuration.
    #[must_use]
    pub fn of(host: &'a Host) -> Self {
        Self { guard: &host.guard, time_zone: &host.time_zone, allow_more: false }
    }

    fn time_zone_name(&self) -> &'a str {
        self.time_zone.iana_name().unwrap_or("UTC")
    }
}

/// Asks the plugin, source by source, and applies the guard. Changes nothing.
///
/// A state that is not whole, and an adopted object, must not take the place of a whole and recorded one: nobody knows what
/// they are worth. So where there are such ones, the plugin is asked without them too, and what it keeps then stays as well.
///
/// # Errors
/// The plugin's; [`Class::PluginRefused`] for a plan that does not answer the question.
pub async fn plan(rules: Rules<'_>, proposer: &impl Propose, history: &History, now: Timestamp) -> Result<Planned> {
    let now = history.present(now);
    let subjects = history.subjects();
    let sources: BTreeSet<&String> = subjects.iter().flat_map(|subject| subject.sources.keys()).collect();
    let mut proposed = Proposed::default();
    for source in sources {
        let named: Vec<&Subject> = subjects.iter().filter(|s| s.sources.contains_key(source) && !s.retired).collect();
        let mut asked = BTreeSet::new();
        for (with_adopted, least) in
            [(true, Serves::First), (false, Serves::First), (true, Serves::Second), (false, Serves::Second)]
        {
            let question: Vec<(SnapshotId, bool)> = named
                .iter()
                .filter(|subject| with_adopted || !subject.adopted)
                .map(|subject| (subject.id, subject.sources.get(source).is_some_and(|serves| *serves >= least)))
                .collect();
            // On most days all of these are one question.
            if !question.is_empty() && asked.insert(question.clone()) {
                proposed.ask(rules, proposer, history, source, &question, now).await?;
            }
        }
    }
    let Proposed { mut keeps, forgets, notes, tally } = proposed;
    let plan = subjects
        .iter()
        .map(|subject| {
            let kept = keeps.remove(&subject.id).map(|reasons| reasons.shown(subject));
            let decision = match kept {
                Some(reasons) => Decision { keep: true, reasons },
                None if subject.retired => Decision { keep: false, reasons: vec!["retired by `accept`".to_owned()] },
                None => {
                    let reasons = forgets.get(&subject.id).cloned().unwrap_or_else(|| "names no source".to_owned());
                    Decision { keep: false, reasons: vec![reasons] }
                }
            };
            (subject.id, decision)
        })
        .collect();
    let Guarded { plan, deferred } = guard::apply(rules.guard, rules.allow_more, rules.time_zone, now, &subjects, plan);
    let notes = notes.into_iter().take(NOTES_MAX).collect();
    Ok(Planned { plan, deferred, notes, tally, plan_millis: 0, plugin_sha256: proposer.digest().to_owned() })
}

/// [`plan`] with the plugin of a host, timed.
///
/// # Errors
/// As there.
pub async fn plan_of(
    host: &Host,
    plugin: &Plugin,
    history: &History,
    now: Timestamp,
    allow_more: bool,
) -> Result<Planned> {
    let began = host.clock.now();
    let rules = Rules { allow_more, ..Rules::of(host) };
    let planned = plan(rules, plugin, history, now).await?;
    Ok(Planned { plan_millis: host.clock.millis_since(began), ..planned })
}

/// What the plugin answered so far.
#[derive(Default)]
struct Proposed {
    keeps: BTreeMap<SnapshotId, Reasons>,
    forgets: BTreeMap<SnapshotId, String>,
    notes: Vec<String>,
    tally: Tally,
}

/// Reasons in the order in which they came, each with the sources that it is one for.
#[derive(Debug, Clone, Default)]
struct Reasons(Vec<(String, BTreeSet<String>)>);

impl Reasons {
    fn add(&mut self, source: &str, reason: String) {
        match self.0.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, sources)) => drop(sources.insert(source.to_owned())),
            None => self.0.push((reason, BTreeSet::from([source.to_owned()]))),
        }
    }

    /// A reason that is not one for every source of the snapshot names those that it is one for.
    fn shown(self, subject: &Subject) -> Vec<String> {
        let each = |(reason, sources): (String, BTreeSet<String>)| {
            if sources.len() == subject.sources.len() {
                return reason;
            }
            let named: Vec<&str> = sources.iter().map(String::as_str).collect();
            format!("{reason} ({})", named.join(", "))
        };
        self.0.into_iter().map(each).collect()
    }
}

impl Proposed {
    async fn ask(
        &mut self,
        rules: Rules<'_>,
        proposer: &impl Propose,
        history: &History,
        source: &str,
        question: &[(SnapshotId, bool)],
        now: Timestamp,
    ) -> Result<()> {
        let asked: Vec<Candidate> = question
            .iter()
            .filter_map(|(id, complete)| Some(Candidate::of(history.snapshot(*id)?, *complete)))
            .collect();
        let (answer, tally) = proposer.propose(now, rules.time_zone_name(), &asked).await;
        for (function, count) in tally {
            let sum = self.tally.entry(function).or_default();
            sum.calls += count.calls;
            sum.bytes += count.bytes;
        }
        let answer = answer?;
        let ids: BTreeSet<SnapshotId> = question.iter().map(|(id, _)| *id).collect();
        let plan = guard::match_up(&ids, answer.decisions).map_err(|refusal| proposer.refused(refusal.to_string()))?;
        for (id, decision) in plan {
            if decision.keep {
                let reasons = self.keeps.entry(id).or_default();
                decision.reasons.into_iter().for_each(|reason| reasons.add(source, reason));
            } else {
                self.forgets.entry(id).or_insert_with(|| decision.reasons.join(", "));
            }
        }
        for note in answer.notes {
            if !self.notes.contains(&note) {
                self.notes.push(note);
            }
        }
        Ok(())
    }
}

impl Candidate {
    fn of(snapshot: &Snapshot, complete: bool) -> Self {
        Self {
            id: snapshot.id,
            complete,
            bytes: snapshot.bytes(),
            pinned: snapshot.pinned,
            verified: snapshot.standing == crate::proof::Standing::Passed,
            adopted: snapshot.adopted,
        }
    }
}

impl Planned {
    /// The snapshots that the plan forgets, whatever lies in the bin already.
    #[must_use]
    pub fn forgets(&self) -> BTreeSet<SnapshotId> {
        self.plan.iter().filter(|(_, decision)| !decision.keep).map(|(id, _)| *id).collect()
    }

    /// What the plan comes to now. `store_now` is the time by the store's clock, which the bin goes by; without it nothing is
    /// due. `expected` are the sources that a whole run saves.
    #[must_use]
    pub fn steps(
        &self,
        history: &History,
        wait: Wait,
        store_now: Option<Timestamp>,
        expected: &BTreeSet<&str>,
    ) -> Steps {
        let mut steps = Steps::default();
        for snapshot in &history.snapshots {
            let Some(decision) = self.plan.get(&snapshot.id) else { continue };
            match (decision.keep, snapshot.binned) {
                (true, Some(_)) => steps.taken_back.push(snapshot.id),
                (true, None) => {}
                (false, None) if self.deferred.contains(&snapshot.id) => {}
                (false, None) => steps.entering.push(snapshot.id),
                (false, Some(since)) if has_waited(history, wait, since, store_now, expected) => {
                    steps.due.push(snapshot.id);
                }
                (false, Some(_)) => steps.waiting.push(snapshot.id),
            }
        }
        steps
    }
}

/// Whether what entered the bin at a moment has lain there long enough.
fn has_waited(
    history: &History,
    wait: Wait,
    since: Timestamp,
    store_now: Option<Timestamp>,
    expected: &BTreeSet<&str>,
) -> bool {
    let Wait::Days(wait_days) = wait else { return true };
    let Some(store_now) = store_now else { return false };
    let whole = history.snapshots.iter().filter(|run| run.is_whole(expected));
    let mut runs: Vec<Timestamp> = whole.filter_map(|run| run.stored).filter(|stored| *stored > since).collect();
    runs.sort_unstable();
    // The time has to be up for the run before this one too: then one clock that jumps ahead deletes nothing.
    let before_this_one = runs.len().checked_sub(WHOLE_RUNS_IN_BIN).and_then(|place| runs.get(place));
    before_this_one.is_some_and(|before| store_now.min(*before) >= due(since, wait_days))
}

/// When a snapshot that enters or entered the bin may be deleted at the earliest.
#[must_use]
pub fn due(since: Timestamp, days: u16) -> Timestamp {
    since.checked_add(SignedDuration::from_hours(24 * i64::from(days))).unwrap_or(since)
}

/// The bin of an environment in one run.
#[derive(Debug, Clone, Copy)]
pub struct Bin {
    /// Days that a snapshot lies in it: those of the configuration or of the environment, whichever are more.
    pub days: u16,
    /// The time by the store's clock.
    pub store_now: Timestamp,
}

impl Bin {
    /// The bin of an environment whose lease is held.
    #[must_use]
    pub fn of(guard: &guard::Config, lease: &Lease, history: &History) -> Self {
        let of_file = history.environment.as_ref().map_or(0, |stored| stored.file.guard.bin_days);
        Self { days: guard.bin_days.max(of_file), store_now: lease.store_now() }
    }

    /// How long a snapshot lies in it.
    #[must_use]
    pub const fn wait(&self) -> Wait {
        Wait::Days(self.days)
    }

    /// What carrying a plan out takes.
    #[must_use]
    pub const fn hands<'a>(
        &self,
        store: &'a Store,
        environment: &'a crate::config::Environment,
        lease: &'a Lease,
        stop: &'a CancellationToken,
    ) -> Hands<'a> {
        Hands { store, environment, lease, stop, bin_days: self.days, store_now: self.store_now }
    }
}

/// What carrying a plan out takes.
#[derive(Debug)]
pub struct Hands<'a> {
    /// The store.
    pub store: &'a Store,
    /// The environment whose lease is held.
    pub environment: &'a crate::config::Environment,
    /// Asked before each batch.
    pub lease: &'a Lease,
    /// Raised when the person interrupts: nothing new is begun then.
    pub stop: &'a CancellationToken,
    /// Days that a snapshot lies in the bin.
    pub bin_days: u16,
    /// The time by the store's clock.
    pub store_now: Timestamp,
}

/// Carries a plan out: takes back, deletes what is due, oldest first, and puts into the bin what may go.
pub async fn apply(hands: &Hands<'_>, history: &History, planned: &Planned, steps: &Steps, now: Timestamp) -> Applied {
    let mut applied = Applied::default();
    let orphans = hands.ripe_orphans(history);
    let nothing =
        steps.taken_back.is_empty() && steps.due.is_empty() && steps.entering.is_empty() && orphans.is_empty();
    if nothing || !hands.may_go_on(&mut applied).await {
        return applied;
    }
    for id in &steps.taken_back {
        match hands.take_back(*id).await {
            Ok(Deleted::Gone) => applied.taken_back.push(*id),
            Ok(Deleted::Retained) => applied.retained.extend(history::certificate_key(hands.environment, *id)),
            Err(error) => applied.failures.push(error.context(format!("taking {id} out of the bin"))),
        }
    }
    for id in &steps.entering {
        if hands.stop.is_cancelled() {
            applied.interrupted = true;
            return applied;
        }
        let Some(snapshot) = history.snapshot(*id) else { continue };
        match hands.put_into_bin(snapshot, planned, now).await {
            Ok(()) => applied.binned.push(*id),
            Err(error) => applied.failures.push(error.context(format!("putting {id} into the bin"))),
        }
    }
    hands.delete(history, steps, orphans, &mut applied).await;
    applied
}

impl Hands<'_> {
    /// Whether the lease holds and nobody interrupted.
    async fn may_go_on(&self, applied: &mut Applied) -> bool {
        if self.stop.is_cancelled() {
            applied.interrupted = true;
            return false;
        }
        match self.lease.check().await {
            Ok(()) => true,
            Err(error) => {
                applied.failures.push(error);
                false
            }
        }
    }

    /// Objects that a certificate names, whose record is gone, and whose time is up: a record that was lost while it lay in the
    /// bin does not take its objects with it at once.
    fn ripe_orphans<'h>(&self, history: &'h History) -> Vec<&'h Orphan> {
        history.orphans.iter().filter(|orphan| self.store_now >= due(orphan.since, self.bin_days)).collect()
    }

    async fn take_back(&self, id: SnapshotId) -> Result<Deleted> {
        self.store.delete(&history::certificate_key(self.environment, id)?).await
    }

    /// Leaves the certificate: from then on the snapshot's objects can never be taken for adopted ones.
    async fn put_into_bin(&self, snapshot: &Snapshot, planned: &Planned, now: Timestamp) -> Result<()> {
        let certificate = Certificate {
            format_version: FORMAT_VERSION,
            id: snapshot.id,
            environment: self.environment.to_string(),
            record_sha256: snapshot.record_sha256.clone(),
            previous: snapshot.record.as_ref().and_then(|record| record.previous.clone()),
            clock_doubt: snapshot.record.as_ref().and_then(|record| record.clock_doubt),
            objects: snapshot.certified_objects().cloned().collect(),
            forgotten: now,
            due: Some(due(self.store_now, self.bin_days)),
            plugin_sha256: planned.plugin_sha256.clone(),
            reasons: planned.plan.get(&snapshot.id).map(|decision| decision.reasons.clone()).unwrap_or_default(),
        };
        let body = Bytes::from(crate::snapshot::to_bytes(&certificate)?);
        let key = history::certificate_key(self.environment, snapshot.id)?;
        // One that exists is from a run that was stopped right here.
        let (Created::Created | Created::Exists) = self.store.create(&key, body).await?;
        Ok(())
    }

    /// Deletes the records that are due, then the objects that nothing refers to any more.
    async fn delete(&self, history: &History, steps: &Steps, orphans: Vec<&Orphan>, applied: &mut Applied) {
        let mut gone = BTreeSet::new();
        for id in &steps.due {
            if !self.may_go_on(applied).await {
                break;
            }
            let Some(snapshot) = history.snapshot(*id) else { continue };
            match self.forget(snapshot).await {
                Ok(Deleted::Gone) => {
                    gone.insert(*id);
                    applied.forgotten.push(*id);
                }
                Ok(Deleted::Retained) => applied.retained.extend(history::record_key(self.environment, *id)),
                Err(error) => applied.failures.push(error.context(format!("forgetting {id}"))),
            }
        }
        let orphans = orphans.into_iter().map(|orphan| (orphan.key.clone(), orphan.bytes));
        let mut free: Vec<_> = history.unreferenced_without(&gone).into_iter().chain(orphans).collect();
        free.sort_unstable();
        free.dedup();
        for batch in free.chunks(DELETIONS_IN_FLIGHT_MAX) {
            if !self.may_go_on(applied).await {
                return;
            }
            let deletions = batch.iter().map(|(key, bytes)| async move { (key, *bytes, self.prune(key).await) });
            let mut deletions = futures::stream::iter(deletions).buffered(DELETIONS_IN_FLIGHT_MAX);
            while let Some((key, bytes, deleted)) = deletions.next().await {
                match deleted {
                    Ok(Deleted::Gone) => applied.pruned.push((key.clone(), bytes)),
                    Ok(Deleted::Retained) => applied.retained.push(key.clone()),
                    Err(error) => applied.failures.push(error.context(format!("pruning {key}"))),
                }
            }
        }
    }

    /// An adopted snapshot has no record; its certificate says that it is forgotten.
    async fn forget(&self, snapshot: &Snapshot) -> Result<Deleted> {
        if snapshot.adopted {
            return Ok(Deleted::Gone);
        }
        self.store.delete(&history::record_key(self.environment, snapshot.id)?).await
    }

    /// Deletes an object, and its index where it has one. The index goes first, because nothing names it once the archive is
    /// gone; where the store retains it, the archive stays too.
    async fn prune(&self, key: &ObjectKey) -> Result<Deleted> {
        if let Some(stem) = key.as_str().strip_suffix(".tar.gz") {
            let index = history::key(&format!("{stem}.index"))?;
            if self.store.delete(&index).await? == Deleted::Retained {
                return Ok(Deleted::Retained);
            }
        }
        self.store.delete(key).await
    }
}

impl Snapshot {
    /// The link that the next record makes to this one.
    #[must_use]
    pub fn link(&self) -> Option<Previous> {
        self.record_sha256.clone().map(|sha256| Previous { id: self.id, sha256 })
    }
}

/// The failure of whoever would forget while something keeps it from being done.
#[must_use]
pub fn frozen(why: &[String]) -> Error {
    let more = match why.len() {
        0 | 1 => String::new(),
        count => format!(", and {} more", count - 1),
    };
    let first = why.first().map_or("something waits for an answer", String::as_str);
    Error::new(Class::RetentionIncomplete, format!("nothing was forgotten: {first}{more}"))
}
