//! Removes what an interrupted run left: the run does it itself, or the next run does it when it finds the mark.
//!
//! It deletes only objects that a mark announced, and never one that a record names.

use base::error::{Error, Result};
use base::id::SnapshotId;
use catalogue::configured::Environment;
use catalogue::configured::RESERVED;
use catalogue::history::History;
use catalogue::lease::{Abandoned, Lease, LeaseMark};
use std::time::Duration;
use store::{Deleted, ObjectKey, Store};

/// How long a run that ends waits for the store to confirm its lease. A scheduler that stops it waits half a minute.
const ASK_TIME_MAX: Duration = Duration::from_secs(15);

/// Removes what killed runs left: their uploads, and the objects that they announced and no record names. The mark of a
/// run is deleted last, so that the next run tries again if something could not be removed.
pub async fn sweep(
    store: &Store,
    environment: &Environment,
    lease: &Lease,
    abandoned: Vec<Abandoned>,
    history: &History,
) -> Result<()> {
    if abandoned.is_empty() {
        return Ok(());
    }
    lease.check().await?;
    // Also for runs that wrote their record: they may have been killed while writing something after it.
    abort_uploads(store, environment).await;
    for left in abandoned {
        let run = left.mark.run.map_or_else(|| "without an id".to_owned(), |id| id.to_string());
        if !left.mark.names_keys() {
            tracing::warn!(run, "a run of an older version was killed; the objects that it left are listed as adopted");
            left.forget(store).await?;
            continue;
        }
        tracing::warn!(run, "an earlier run was killed; removing the objects that it left");
        if clear_after(store, environment, history, &left.mark).await? {
            left.forget(store).await?;
        }
    }
    Ok(())
}

/// Deletes the objects that a mark names; returns whether all are gone. If in doubt, they are kept, and so is the mark.
async fn clear_after(store: &Store, environment: &Environment, history: &History, mark: &LeaseMark) -> Result<bool> {
    if history.damaged().next().is_some() {
        tracing::warn!("a record cannot be read; it may name objects that an earlier run left, so they are kept");
        return Ok(false);
    }
    // The record may have been written after the listing.
    if let Some(run) = mark.run
        && history.snapshot(run).is_none()
        && store.head(&catalogue::keys::record_key(environment, run)?).await?.is_some()
    {
        tracing::warn!(run = %run, "the record of an earlier run was written late; the objects that it names are kept");
        return Ok(false);
    }
    // A run announces only objects of sources, so other names in a mark are ignored.
    let free = mark.keys.iter().filter(|key| is_of_a_source(environment, key) && !history.refers_to(key));
    Ok(delete(store, free).await)
}

/// Whether a key belongs to a source, such as `prod/db/…`, and is neither a record nor another internal file.
fn is_of_a_source(environment: &Environment, key: &ObjectKey) -> bool {
    let below = key.as_str().strip_prefix(environment.as_str()).and_then(|rest| rest.strip_prefix('/'));
    let source = below.and_then(|rest| rest.split_once('/')).map(|(folder, _)| folder);
    source.is_some_and(|source| !RESERVED.contains(&source))
}

/// Ends a run that commits nothing: deletes the objects that it announced and releases the lease. A run that was
/// overtaken deletes nothing, because the run that overtook it already did.
pub(super) async fn undo(store: &Store, environment: &Environment, lease: Lease, error: Error) -> Error {
    store.settle().await;
    let announced = lease.announced().await;
    let cleared = if still_held(&lease).await {
        if !announced.is_empty() {
            abort_uploads(store, environment).await;
        }
        delete(store, announced.iter()).await
    } else {
        // The run that overtook this one deleted the objects that existed then. Later objects are for this run to
        // delete, unless the other run makes objects with the same names.
        lease.fence().holds()
            && nobody_else_makes(store, environment, lease.run().await, &announced).await.unwrap_or(false)
            && delete(store, announced.iter()).await
    };
    // If the mark stays, the next run deletes the objects that it names.
    if cleared {
        lease.release().await;
    } else {
        lease.leave().await;
    }
    error
}

/// Whether this run still holds the lease according to its mark, not only the clock. It is checked before deleting an
/// object that another run may have made under the same name. If the store does not answer in time, nothing is deleted.
pub(super) async fn still_held(lease: &Lease) -> bool {
    lease.fence().holds() && tokio::time::timeout(ASK_TIME_MAX, lease.check()).await.is_ok_and(|held| held.is_ok())
}

/// Whether neither a record of the run nor another mark may name the announced objects.
async fn nobody_else_makes(
    store: &Store,
    environment: &Environment,
    run: Option<SnapshotId>,
    announced: &[ObjectKey],
) -> Result<bool> {
    let Some(run) = run else { return Ok(announced.is_empty()) };
    for mark in store.list(&format!("{environment}/leases/")).await? {
        let Some(bytes) = store.get(&mark.key).await? else { continue };
        if catalogue::lease::read_mark(&bytes).is_none_or(|mark| mark.run == Some(run) || mark.run.is_none()) {
            return Ok(false);
        }
    }
    Ok(store.head(&catalogue::keys::record_key(environment, run)?).await?.is_none())
}

/// Aborts incomplete uploads of the environment, whose lease this run holds. A failure is only logged: an incomplete
/// upload is not an object, and a credential may lack the permission to list uploads.
async fn abort_uploads(store: &Store, environment: &Environment) {
    if let Err(error) = store.abort_uploads(&format!("{environment}/")).await {
        tracing::warn!("incomplete uploads could not be removed: {error}");
    }
}

/// Deletes objects that a run made but did not commit; returns whether all are gone. A failure only costs space: as
/// long as the mark of the lease exists, the objects are not taken for a snapshot.
pub(super) async fn delete(store: &Store, keys: impl Iterator<Item = &ObjectKey>) -> bool {
    let mut gone = true;
    for key in keys {
        match store.delete(key).await {
            Ok(Deleted::Gone) => {}
            Ok(Deleted::Retained) => {
                tracing::warn!(key = %key, "an object that the run left could not be deleted: the store retains it");
                gone = false;
            }
            Err(error) => {
                tracing::warn!(key = %key, "an object that the run left could not be deleted: {error}");
                gone = false;
            }
        }
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_covers_only_objects_of_sources() {
        let config = crate::config::Config::parse(
            "[store]\nurl = \"file:///x\"\n[env.prod.sources.docs]\nkind = \"directory\"\npath = \"/d\"\n",
        )
        .unwrap();
        let (environment, _) = config.environment("prod").unwrap();
        for (key, expected) in [
            ("prod/docs/20260101T010000Z.tar.gz", true),
            ("prod/gone/20260101T010000Z.dump", true),
            ("prod/snapshots/20260101T010000Z.json", false),
            ("prod/forgotten/20260101T010000Z.json", false),
            ("prod/environment/20260101T010000Z.json", false),
            ("prod/leases/x.json", false),
            ("prod/.fp-docs", false),
            ("sandbox/docs/20260101T010000Z.tar.gz", false),
            ("production/docs/20260101T010000Z.tar.gz", false),
        ] {
            assert_eq!(is_of_a_source(environment, &ObjectKey::parse(key).unwrap()), expected, "{key}");
        }
    }
}
