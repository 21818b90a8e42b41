//! The bin: derives the steps of a plan and carries them out.

use super::plan::Planned;
use base::error::{Error, Result};
use base::id::SnapshotId;
use bytes::Bytes;
use catalogue::history::{History, Orphan, Snapshot};
use catalogue::lease::Lease;
use catalogue::record::{Certificate, FORMAT_VERSION, is_newer_format};
use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeSet;
use std::time::Duration;
use store::{Created, Deleted, ObjectKey, Store};
use tokio_util::sync::CancellationToken;

/// Timeout of one deletion. It is shorter than the remaining lease, so that no deletion outlives the lease.
const DELETION_TIME_MAX: Duration = Duration::from_secs(25);

/// Number of concurrent deletions. Not every server supports batch deletion; this many requests hide the latency.
const DELETIONS_IN_FLIGHT_MAX: usize = 8;

/// Number of whole runs that must happen while a snapshot is in the bin, the last two after its time is up. So there
/// are two mornings to notice it, and a single wrong clock deletes nothing.
pub const WHOLE_RUNS_IN_BIN: usize = 2;

/// The steps that a plan requires now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Steps {
    /// In the bin, but kept by the plan again.
    pub taken_back: Vec<SnapshotId>,
    /// In the bin, and their time is up.
    pub due: Vec<SnapshotId>,
    /// To be put into the bin.
    pub entering: Vec<SnapshotId>,
    /// In the bin, and not due yet.
    pub waiting: Vec<SnapshotId>,
}

/// The steps that were carried out.
#[derive(Debug, Default)]
pub struct Applied {
    /// Snapshots that left the bin, because the plan keeps them again.
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

/// How long a snapshot stays in the bin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// This number of days by the store's clock, or the environment's number if that is larger, and
    /// [`WHOLE_RUNS_IN_BIN`] whole runs.
    Days(u16),
    /// Snapshots that are in the bin are due now, as requested by the user.
    Over,
}

impl Planned {
    /// The steps of the plan now. `store_now` is the time of the store's clock, which decides what is due; without it
    /// nothing is due. `expected` are the sources that a whole run saves.
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

/// Whether a snapshot that entered the bin at `since` has been there long enough.
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
    // A wrong clock may have dated the entry or the time since, so the wait starts again at a run whose clock was in
    // doubt.
    let doubted = history.snapshots.iter().filter(|run| run.record.as_ref().is_some_and(|r| r.clock_doubt.is_some()));
    let since = doubted.filter_map(|run| run.stored).filter(|stored| *stored <= store_now).fold(since, Timestamp::max);
    let whole = history.snapshots.iter().filter(|run| run.is_whole(expected));
    let mut runs: Vec<Timestamp> = whole.filter_map(|run| run.stored).filter(|stored| *stored > since).collect();
    runs.sort_unstable();
    // The time must have been up for the previous run too, so that one clock that jumps ahead deletes nothing.
    let before_this_one = runs.len().checked_sub(WHOLE_RUNS_IN_BIN).and_then(|place| runs.get(place));
    before_this_one.is_some_and(|before| store_now.min(*before) >= due(since, wait_days))
}

/// The earliest time at which a snapshot in the bin may be deleted.
pub fn due(since: Timestamp, days: u16) -> Timestamp {
    since.checked_add(SignedDuration::from_hours(24 * i64::from(days))).unwrap_or(since)
}

/// Everything that is needed to carry out a plan.
#[derive(Debug)]
pub struct Executor<'a> {
    /// The store.
    pub store: &'a Store,
    /// The environment whose lease is held.
    pub environment: &'a catalogue::configured::Environment,
    /// Checked before each batch.
    pub lease: &'a Lease,
    /// Cancelled on an interrupt: no new step is started then.
    pub stop: &'a CancellationToken,
    /// Configured number of days in the bin.
    pub bin_days: u16,
    /// The time by the store's clock.
    pub store_now: Timestamp,
}

/// Carries a plan out: takes back, deletes what is due, oldest first, and puts into the bin what may go.
pub async fn apply(
    executor: &Executor<'_>,
    history: &History,
    planned: &Planned,
    steps: &Steps,
    now: Timestamp,
) -> Applied {
    let mut applied = Applied::default();
    let orphans = executor.ripe_orphans(history);
    let nothing =
        steps.taken_back.is_empty() && steps.due.is_empty() && steps.entering.is_empty() && orphans.is_empty();
    if nothing || !executor.may_go_on(&mut applied).await {
        return applied;
    }
    executor.take_back(steps, &mut applied).await;
    for id in &steps.entering {
        if executor.stop.is_cancelled() {
            applied.interrupted = true;
            return applied;
        }
        let Some(snapshot) = history.snapshot(*id) else { continue };
        match executor.put_into_bin(history, snapshot, planned, now).await {
            Ok(()) => applied.binned.push(*id),
            Err(error) => applied.failures.push(error.context(format!("putting {id} into the bin"))),
        }
    }
    executor.delete(history, planned, steps, orphans, now, &mut applied).await;
    applied
}

/// Only takes back the snapshots that the plan keeps again.
pub async fn take_back(executor: &Executor<'_>, steps: &Steps) -> Applied {
    let mut applied = Applied::default();
    if !steps.taken_back.is_empty() && executor.may_go_on(&mut applied).await {
        executor.take_back(steps, &mut applied).await;
    }
    applied
}

impl Executor<'_> {
    /// Whether the lease is still held and no interrupt happened.
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

    /// Objects that a certificate names, whose record is gone, and whose time is up. So a record that is lost while in
    /// the bin does not cause its objects to be deleted at once.
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

    /// Writes the certificate. From then on, the snapshot's objects are never taken for adopted ones.
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
        // An existing certificate is from a run that was stopped here.
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
                // Its record is the last word on it, so the record stays until there is a certificate that says as
                // much.
                Ok(false) => {
                    tracing::warn!(snapshot = %id, "its certificate in the bin cannot be read or belongs to another record, so its waiting time starts again");
                    if let Err(error) = self.certify_anew(history, snapshot, planned, now).await {
                        applied.failures.push(error.context(format!("putting {id} into the bin again")));
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

    /// Whether the certificate matches the record that it will outlive.
    async fn is_certified(&self, snapshot: &Snapshot) -> Result<bool> {
        let Some(bytes) = self.store.get(&catalogue::keys::certificate_key(self.environment, snapshot.id)?).await?
        else {
            return Ok(false);
        };
        match Certificate::parse(&bytes, self.environment, snapshot.id) {
            Err(newer) if is_newer_format(&newer) => Err(newer),
            read => Ok(read.is_ok_and(|certificate| certificate.record_sha256 == snapshot.record_sha256)),
        }
    }

    /// Deletes the record. An adopted snapshot has none; its certificate alone marks it as forgotten.
    async fn forget(&self, snapshot: &Snapshot) -> Result<Deleted> {
        if snapshot.adopted {
            return Ok(Deleted::Gone);
        }
        self.remove(&catalogue::keys::record_key(self.environment, snapshot.id)?).await
    }

    async fn remove(&self, key: &ObjectKey) -> Result<Deleted> {
        let late = |_| Err(Error::unavailable(format!("the store did not answer while {key} was being deleted")));
        tokio::time::timeout(DELETION_TIME_MAX, self.store.delete(key)).await.unwrap_or_else(late)
    }

    /// Deletes an object and its index, if any. The index is deleted first, because nothing names it once the archive
    /// is gone; if the store retains it, the archive is kept too.
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
