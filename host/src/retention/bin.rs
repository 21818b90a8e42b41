//! The bin: what a plan comes to now, and the hands that carry it out.

use super::plan::Planned;
use base::error::{Error, Result};
use base::id::SnapshotId;
use bytes::Bytes;
use catalogue::history::{History, Orphan, Snapshot};
use catalogue::lease::Lease;
use catalogue::record::{Certificate, FORMAT_VERSION};
use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeSet;
use std::time::Duration;
use store::{Created, Deleted, ObjectKey, Store};
use tokio_util::sync::CancellationToken;

/// How long one deletion is waited for: less than what is left of the lease when it begins, so that none outlives it.
const DELETION_TIME_MAX: Duration = Duration::from_secs(25);

/// Deletions under way at the same time. One by one is what every server can do; this many hide the latency.
const DELETIONS_IN_FLIGHT_MAX: usize = 8;

/// Runs with every source whole that have to come while a snapshot lies in the bin, the last two of them when its time is up: two
/// mornings on which somebody could see it, and no single wrong clock.
pub const WHOLE_RUNS_IN_BIN: usize = 2;

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
    /// So many days by the store's time, or what the environment knows if that is more, and [`WHOLE_RUNS_IN_BIN`] whole runs.
    Days(u16),
    /// What lies there already has waited long enough: a person says so.
    Over,
}

impl Planned {
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
    let Wait::Days(configured) = wait else { return true };
    let wait_days = history.bin_days(configured, since);
    let Some(store_now) = store_now else { return false };
    // A clock that was wrong may have dated the entry, or made the time pass: the wait begins anew with the run that met it.
    let doubted = history.snapshots.iter().filter(|run| run.record.as_ref().is_some_and(|r| r.clock_doubt.is_some()));
    let since = doubted.filter_map(|run| run.stored).filter(|stored| *stored <= store_now).fold(since, Timestamp::max);
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

/// What carrying a plan out takes.
#[derive(Debug)]
pub struct Hands<'a> {
    /// The store.
    pub store: &'a Store,
    /// The environment whose lease is held.
    pub environment: &'a catalogue::configured::Environment,
    /// Asked before each batch.
    pub lease: &'a Lease,
    /// Raised when the person interrupts: nothing new is begun then.
    pub stop: &'a CancellationToken,
    /// Days that a snapshot lies in the bin, as configured.
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
    hands.take_back(steps, &mut applied).await;
    for id in &steps.entering {
        if hands.stop.is_cancelled() {
            applied.interrupted = true;
            return applied;
        }
        let Some(snapshot) = history.snapshot(*id) else { continue };
        match hands.put_into_bin(history, snapshot, planned, now).await {
            Ok(()) => applied.binned.push(*id),
            Err(error) => applied.failures.push(error.context(format!("putting {id} into the bin"))),
        }
    }
    hands.delete(history, planned, steps, orphans, now, &mut applied).await;
    applied
}

/// Takes back what a plan wants again, and does nothing else.
pub async fn take_back(hands: &Hands<'_>, steps: &Steps) -> Applied {
    let mut applied = Applied::default();
    if !steps.taken_back.is_empty() && hands.may_go_on(&mut applied).await {
        hands.take_back(steps, &mut applied).await;
    }
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
        let is_ripe =
            |orphan: &&Orphan| self.store_now >= due(orphan.since, history.bin_days(self.bin_days, orphan.since));
        history.orphans.iter().filter(is_ripe).collect()
    }

    async fn take_back(&self, steps: &Steps, applied: &mut Applied) {
        for id in &steps.taken_back {
            let deleted = match catalogue::keys::certificate_key(self.environment, *id) {
                Ok(key) => self.remove(&key).await,
                Err(error) => Err(error),
            };
            match deleted {
                Ok(Deleted::Gone) => applied.taken_back.push(*id),
                Ok(Deleted::Retained) => {
                    applied.retained.extend(catalogue::keys::certificate_key(self.environment, *id))
                }
                Err(error) => applied.failures.push(error.context(format!("taking {id} out of the bin"))),
            }
        }
    }

    /// Leaves the certificate: from then on the snapshot's objects can never be taken for adopted ones.
    async fn put_into_bin(
        &self,
        history: &History,
        snapshot: &Snapshot,
        planned: &Planned,
        now: Timestamp,
    ) -> Result<()> {
        let bin_days = history.bin_days(self.bin_days, self.store_now);
        let certificate = Certificate {
            format_version: FORMAT_VERSION,
            id: snapshot.id,
            environment: self.environment.to_string(),
            record_sha256: snapshot.record_sha256.clone(),
            previous: snapshot.record.as_ref().and_then(|record| record.previous.clone()),
            clock_doubt: snapshot.record.as_ref().and_then(|record| record.clock_doubt),
            objects: snapshot.certified_objects().cloned().collect(),
            forgotten: now,
            due: Some(due(self.store_now, bin_days)),
            plugin_sha256: planned.plugin_sha256.clone(),
            reasons: planned.plan.get(&snapshot.id).map(|decision| decision.reasons.clone()).unwrap_or_default(),
            plugins: snapshot.record.as_ref().map(|record| record.plugins.clone()).unwrap_or_default(),
            planned_by: planned.planned_by.clone(),
        };
        let body = Bytes::from(catalogue::record::to_bytes(&certificate)?);
        let key = catalogue::keys::certificate_key(self.environment, snapshot.id)?;
        // One that exists is from a run that was stopped right here.
        let (Created::Created | Created::Exists) = self.store.create(&key, body).await?;
        Ok(())
    }

    /// Deletes the records that are due, then the objects that nothing refers to any more.
    async fn delete(
        &self,
        history: &History,
        planned: &Planned,
        steps: &Steps,
        orphans: Vec<&Orphan>,
        now: Timestamp,
        applied: &mut Applied,
    ) {
        let mut gone = BTreeSet::new();
        for id in &steps.due {
            if !self.may_go_on(applied).await {
                break;
            }
            let Some(snapshot) = history.snapshot(*id) else { continue };
            match self.is_certified(snapshot).await {
                Ok(true) => {}
                // Its record is the last word on it, so the record stays until there is a certificate that says as much.
                Ok(false) => {
                    tracing::warn!(snapshot = %id, "its certificate in the bin is not of this record, so it waits anew");
                    if let Err(error) = self.certify_anew(history, snapshot, planned, now).await {
                        applied.failures.push(error.context(format!("putting {id} into the bin anew")));
                    }
                    continue;
                }
                Err(error) => {
                    applied.failures.push(error.context(format!("forgetting {id}")));
                    continue;
                }
            }
            match self.forget(snapshot).await {
                Ok(Deleted::Gone) => {
                    gone.insert(*id);
                    applied.forgotten.push(*id);
                }
                Ok(Deleted::Retained) => applied.retained.extend(catalogue::keys::record_key(self.environment, *id)),
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

    async fn certify_anew(
        &self,
        history: &History,
        snapshot: &Snapshot,
        planned: &Planned,
        now: Timestamp,
    ) -> Result<()> {
        match self.remove(&catalogue::keys::certificate_key(self.environment, snapshot.id)?).await? {
            Deleted::Gone => self.put_into_bin(history, snapshot, planned, now).await,
            Deleted::Retained => Ok(()),
        }
    }

    /// Whether the certificate says what it has to say once the record is gone.
    async fn is_certified(&self, snapshot: &Snapshot) -> Result<bool> {
        let Some(bytes) = self.store.get(&catalogue::keys::certificate_key(self.environment, snapshot.id)?).await?
        else {
            return Ok(false);
        };
        let certificate: Option<Certificate> = serde_json::from_slice(&bytes).ok();
        Ok(certificate.is_some_and(|certificate| {
            certificate.id == snapshot.id
                && certificate.environment == self.environment.as_str()
                && certificate.record_sha256 == snapshot.record_sha256
        }))
    }

    /// An adopted snapshot has no record; its certificate says that it is forgotten.
    async fn forget(&self, snapshot: &Snapshot) -> Result<Deleted> {
        if snapshot.adopted {
            return Ok(Deleted::Gone);
        }
        self.remove(&catalogue::keys::record_key(self.environment, snapshot.id)?).await
    }

    async fn remove(&self, key: &ObjectKey) -> Result<Deleted> {
        let late = |_| Err(Error::unavailable(format!("the store did not answer when {key} was deleted")));
        tokio::time::timeout(DELETION_TIME_MAX, self.store.delete(key)).await.unwrap_or_else(late)
    }

    /// Deletes an object, and its index where it has one. The index goes first, because nothing names it once the archive is
    /// gone; where the store retains it, the archive stays too.
    async fn prune(&self, key: &ObjectKey) -> Result<Deleted> {
        if let Some(stem) = key.as_str().strip_suffix(".tar.gz") {
            let index = catalogue::keys::key(&format!("{stem}.index"))?;
            if self.remove(&index).await? == Deleted::Retained {
                return Ok(Deleted::Retained);
            }
        }
        self.remove(key).await
    }
}
