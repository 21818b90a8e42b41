//! Retention: the plugin proposes, the guard decides, and only then is anything forgotten or pruned.
//!
//! Planning is pure and shown before it acts; applying collects failures instead of stopping, because every single
//! step leaves a store in which each listed snapshot is restorable: certificate, record, and objects last.

use crate::capability::{Tally, printable};
use crate::error::{Class, Error, Result};
use crate::guard::{self, Allowance, Decision, Plan, Refusal, Subject};
use crate::history::{self, History, Snapshot};
use crate::host::Host;
use crate::plugin::Plugin;
use crate::plugin::call::retaining;
use crate::snapshot::{Certificate, FORMAT_VERSION, Previous, SnapshotId};
use crate::store::{Created, Deleted, ObjectKey};
use bytes::Bytes;
use futures::StreamExt;
use jiff::Timestamp;
use std::collections::BTreeSet;

/// Deletions under way at the same time. One by one is what every server can do; this many hide the latency.
const DELETIONS_IN_FLIGHT_MAX: usize = 8;

/// Lines that a plan may carry for the operator.
const NOTES_MAX: usize = 100;

/// What is to happen, decided.
#[derive(Debug)]
pub struct Planned {
    /// Every snapshot with its verdict, after the guard.
    pub plan: Plan,
    /// What the plugin says besides.
    pub notes: Vec<String>,
    /// What the plugin did while it planned.
    pub tally: Tally,
    /// Milliseconds that the plugin took.
    pub plan_millis: u64,
    plugin_sha256: String,
}

/// What has happened.
#[derive(Debug, Default)]
pub struct Applied {
    /// Snapshots that are forgotten.
    pub forgotten: Vec<SnapshotId>,
    /// Objects that are deleted, with their sizes.
    pub pruned: Vec<(ObjectKey, u64)>,
    /// Records and objects that the store keeps by a rule of its own.
    pub retained: Vec<ObjectKey>,
    /// What failed.
    pub failures: Vec<Error>,
}

/// Asks the plugin and applies the guard. Changes nothing.
///
/// Where there are adopted snapshots beside recorded ones, the plugin is asked for the recorded ones alone too: what it keeps
/// of them then stays. Nobody knows what an adopted object is worth, so one must not take the place of a recorded one.
///
/// # Errors
/// The plugin's; [`Class::PluginRefused`] for a plan that is no answer; [`Class::RetentionIncomplete`] for one that
/// forgets too much at once.
pub async fn plan(
    host: &Host,
    plugin: &Plugin,
    history: &History,
    now: Timestamp,
    allowance: Allowance,
) -> Result<Planned> {
    let began = host.clock.now();
    let subjects = history.subjects();
    let Proposed { mut plan, notes, mut tally } = propose(host, plugin, history, &subjects, now).await?;
    let recorded: Vec<Subject> = subjects.iter().filter(|subject| !subject.adopted).cloned().collect();
    if !recorded.is_empty() && recorded.len() < subjects.len() {
        let alone = propose(host, plugin, history, &recorded, now).await?;
        plan.extend(alone.plan.into_iter().filter(|(_, decision)| decision.keep));
        for (function, count) in alone.tally {
            let sum = tally.entry(function).or_default();
            sum.calls += count.calls;
            sum.bytes += count.bytes;
        }
    }
    let plan_millis = host.clock.millis_since(began);
    let plan = guard::apply(&host.guard, allowance, &host.time_zone, now, &subjects, plan).map_err(|refusal| {
        match refusal {
        Refusal::Invalid(_) => plugin.refused(refusal),
        Refusal::TooMany { .. } => Error::new(Class::RetentionIncomplete, refusal).hint(format!(
            "look at `prune --env {} --dry-run --allow-mass-forget`, then run it without --dry-run if that is meant",
            host.environment
        )),
    }
    })?;
    Ok(Planned { plan, notes, tally, plan_millis, plugin_sha256: plugin.digest().to_owned() })
}

/// What the plugin proposes, paired with the question.
struct Proposed {
    plan: Plan,
    notes: Vec<String>,
    tally: Tally,
}

async fn propose(
    host: &Host,
    plugin: &Plugin,
    history: &History,
    subjects: &[Subject],
    now: Timestamp,
) -> Result<Proposed> {
    let ids: BTreeSet<SnapshotId> = subjects.iter().map(|subject| subject.id).collect();
    let asked: Vec<_> = history.snapshots.iter().filter(|snapshot| ids.contains(&snapshot.id)).map(asked).collect();
    let called = plugin.plan_retention(now, host.time_zone_name(), &asked).await;
    let answer = called.result?;
    let decisions = answer.decisions.into_iter().map(|decision| {
        let reasons = decision.reasons.iter().map(|reason| printable(reason)).collect();
        (decision.id, Decision { keep: decision.verdict == retaining::Verdict::Keep, reasons })
    });
    let plan = guard::match_up(subjects, decisions.collect()).map_err(|refusal| plugin.refused(refusal))?;
    let notes = answer.notes.iter().take(NOTES_MAX).map(|note| printable(note)).collect();
    Ok(Proposed { plan, notes, tally: called.tally })
}

fn asked(snapshot: &Snapshot) -> retaining::Snapshot {
    retaining::Snapshot {
        id: snapshot.id.to_string(),
        taken: snapshot.id.taken().as_second(),
        complete: snapshot.complete,
        bytes: snapshot.bytes(),
        pinned: snapshot.pinned,
        verified: snapshot.verified,
        adopted: snapshot.adopted,
    }
}

impl Planned {
    /// The snapshots that the plan forgets.
    #[must_use]
    pub fn forgets(&self) -> BTreeSet<SnapshotId> {
        self.plan.iter().filter(|(_, decision)| !decision.keep).map(|(id, _)| *id).collect()
    }
}

/// Carries a plan out: forgets snapshots one by one, oldest first, then deletes what nothing refers to any more.
pub async fn apply(host: &Host, history: &History, planned: &Planned, now: Timestamp) -> Applied {
    let mut applied = Applied::default();
    let mut gone = BTreeSet::new();
    for snapshot in history.snapshots.iter().filter(|s| planned.plan.get(&s.id).is_some_and(|d| !d.keep)) {
        match forget(host, snapshot, planned, now).await {
            Ok(Deleted::Gone) => {
                gone.insert(snapshot.id);
                applied.forgotten.push(snapshot.id);
            }
            Ok(Deleted::Retained) => applied.retained.extend(history::record_key(&host.environment, snapshot.id)),
            Err(error) => applied.failures.push(error.context(format!("forgetting {}", snapshot.id))),
        }
    }
    let deletions = history.unreferenced_without(&gone).into_iter().map(|(key, bytes)| async move {
        let deleted = prune(host, &key).await;
        (key, bytes, deleted)
    });
    let mut deletions = futures::stream::iter(deletions).buffered(DELETIONS_IN_FLIGHT_MAX);
    while let Some((key, bytes, deleted)) = deletions.next().await {
        match deleted {
            Ok(Deleted::Gone) => applied.pruned.push((key, bytes)),
            Ok(Deleted::Retained) => applied.retained.push(key),
            Err(error) => applied.failures.push(error.context(format!("pruning {key}"))),
        }
    }
    applied
}

/// Leaves the certificate first: from then on the snapshot's objects can never be taken for adopted ones.
async fn forget(host: &Host, snapshot: &Snapshot, planned: &Planned, now: Timestamp) -> Result<Deleted> {
    let environment = &host.environment;
    let certificate = Certificate {
        format_version: FORMAT_VERSION,
        id: snapshot.id,
        environment: environment.to_string(),
        record_sha256: snapshot.record_sha256.clone(),
        previous: snapshot.record.as_ref().and_then(|record| record.previous.clone()),
        objects: snapshot.adopted_objects().cloned().collect(),
        forgotten: now,
        plugin_sha256: planned.plugin_sha256.clone(),
        reasons: planned.plan.get(&snapshot.id).map(|decision| decision.reasons.clone()).unwrap_or_default(),
    };
    let body = Bytes::from(crate::snapshot::to_bytes(&certificate)?);
    // One that exists is from a run that was stopped right here.
    let (Created::Created | Created::Exists) =
        host.store.create(&history::certificate_key(environment, snapshot.id)?, body).await?;
    if snapshot.adopted {
        return Ok(Deleted::Gone);
    }
    host.store.delete(&history::record_key(environment, snapshot.id)?).await
}

/// Deletes an object, and its index where it has one.
async fn prune(host: &Host, key: &ObjectKey) -> Result<Deleted> {
    if let Some(stem) = key.as_str().strip_suffix(".tar.gz") {
        host.store.delete(&history::key(&format!("{stem}.index"))?).await?;
    }
    host.store.delete(key).await
}

impl Snapshot {
    /// The link that the next record makes to this one.
    #[must_use]
    pub fn link(&self) -> Option<Previous> {
        self.record_sha256.clone().map(|sha256| Previous { id: self.id, sha256 })
    }
}
