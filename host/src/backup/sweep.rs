//! What a run that ended early leaves, and how it is cleared: by the run itself, or by the next one that finds its mark.

use crate::error::{Class, Error, Result};
use crate::history::{self, History};
use crate::host::Host;
use crate::lease::Abandoned;
use crate::snapshot::SnapshotId;
use jiff::{SignedDuration, Timestamp};

/// The first second from `now` on that no snapshot has. Two runs within one second are told apart here.
pub(super) async fn free_id(host: &Host, now: Timestamp) -> Result<SnapshotId> {
    let mut id = SnapshotId::at(now);
    while host.store.head(&history::record_key(&host.environment, id)?).await?.is_some()
        || host.store.head(&history::certificate_key(&host.environment, id)?).await?.is_some()
    {
        id = SnapshotId::at(id.taken() + SignedDuration::from_secs(1));
    }
    Ok(id)
}

/// Whether the id is still free now that the lease is held.
pub(super) fn unused(history: &History, id: SnapshotId) -> Result<()> {
    if history.knows(id) {
        return Err(Error::new(Class::Held, format!("a snapshot {id} was made by another tool or run just now"))
            .hint("run it again"));
    }
    Ok(())
}

/// Clears what runs left that ended without a word: their uploads, and their objects where they wrote no record. The
/// mark of a run goes last, so that what could not be cleared is tried again by the next run.
pub(super) async fn sweep(host: &Host, abandoned: Vec<Abandoned>) -> Result<()> {
    if abandoned.is_empty() {
        return Ok(());
    }
    // Also of those that wrote their record: they may have been killed at what is written after it.
    abort_uploads(host).await;
    for run in abandoned {
        tracing::warn!(run = %run.run, "an earlier run was killed; clearing what it left");
        let recorded = host.store.head(&history::record_key(&host.environment, run.run)?).await?.is_some();
        if recorded || clear_objects(host, run.run).await {
            run.forget(&host.store).await?;
        }
    }
    Ok(())
}

/// Clears what a run made that commits nothing, half or whole, and says whether its objects are gone.
pub(super) async fn clear(host: &Host, run: SnapshotId) -> bool {
    abort_uploads(host).await;
    clear_objects(host, run).await
}

/// Removes what is half uploaded below the environment, whose lease this run holds. Half an upload is no object, and a
/// credential that may not list uploads is no reason to keep a run's objects: a failure is said and no more.
async fn abort_uploads(host: &Host) {
    if let Err(error) = host.store.abort_uploads(&format!("{}/", host.environment)).await {
        tracing::warn!("what was half uploaded could not be cleared: {error}");
    }
}

/// Deletes every object that a run made and did not commit, and says whether all of it is gone. A failure costs space,
/// never a snapshot: as long as the lease's mark is there, nobody takes the objects for one.
async fn clear_objects(host: &Host, run: SnapshotId) -> bool {
    let cleared = delete_objects(host, run).await;
    if let Err(error) = &cleared {
        tracing::warn!(run = %run, "what the run left could not be cleared: {error}");
    }
    cleared.is_ok()
}

async fn delete_objects(host: &Host, run: SnapshotId) -> Result<()> {
    for source in host.sources.sources.keys() {
        let folder = format!("{}/{source}/", host.environment);
        let begins = format!("{folder}{run}.");
        for meta in host.store.list(&folder).await? {
            if meta.key.as_str().starts_with(&begins) {
                host.store.delete(&meta.key).await?;
            }
        }
    }
    Ok(())
}
