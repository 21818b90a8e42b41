//! What a run that ended early leaves, and how it is cleared: by the run itself, or by the next one that finds its mark.
//!
//! Nothing is deleted by the look of its name: only what a mark says that its run would make, and never what a record names.

use base::error::{Error, Result};
use base::id::SnapshotId;
use catalogue::configured::Environment;
use catalogue::configured::RESERVED;
use catalogue::history::History;
use catalogue::lease::{Abandoned, Lease, Mark};
use std::time::Duration;
use store::{Deleted, ObjectKey, Store};

/// How long the end of a run waits for the store to say whose the lease is: a scheduler that stops it waits for half a minute.
const ASK_TIME_MAX: Duration = Duration::from_secs(15);

/// Clears what runs left that ended without a word: their uploads, and what they announced and no record names. The mark of a
/// run goes last, so that what could not be cleared is tried again by the next run.
///
/// # Errors
/// The store's, and the lease's.
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
    // Also of those that wrote their record: they may have been killed at what is written after it.
    abort_uploads(store, environment).await;
    for left in abandoned {
        let run = left.mark.run.map_or_else(|| "without an id".to_owned(), |id| id.to_string());
        if !left.mark.names_keys() {
            tracing::warn!(run, "a run of an older version was killed; what it left is listed as adopted");
            left.forget(store).await?;
            continue;
        }
        tracing::warn!(run, "an earlier run was killed; clearing what it left");
        if clear_after(store, environment, history, &left.mark).await? {
            left.forget(store).await?;
        }
    }
    Ok(())
}

/// Clears what a mark names, and says whether it is gone. In doubt everything stays, and the mark too.
async fn clear_after(store: &Store, environment: &Environment, history: &History, mark: &Mark) -> Result<bool> {
    if history.damaged().next().is_some() {
        tracing::warn!("a record cannot be read and may name what an earlier run left, so that stays");
        return Ok(false);
    }
    // The record may have come after the listing.
    if let Some(run) = mark.run
        && history.snapshot(run).is_none()
        && store.head(&catalogue::keys::record_key(environment, run)?).await?.is_some()
    {
        tracing::warn!(run = %run, "the record of an earlier run was written late; what it names stays");
        return Ok(false);
    }
    // A run announces objects of sources; a mark that names anything else was not written by one.
    let free = mark.keys.iter().filter(|key| is_of_a_source(environment, key) && !history.refers_to(key));
    Ok(delete(store, free).await)
}

/// Whether a key is where the objects of a source are: `prod/db/…`, and neither a record nor anything else of ours.
fn is_of_a_source(environment: &Environment, key: &ObjectKey) -> bool {
    let below = key.as_str().strip_prefix(environment.as_str()).and_then(|rest| rest.strip_prefix('/'));
    let source = below.and_then(|rest| rest.split_once('/')).map(|(folder, _)| folder);
    source.is_some_and(|source| !RESERVED.contains(&source))
}

/// Ends a run that commits nothing: clears what it announced, and gives the lease back. A run that was overtaken clears
/// nothing, because whoever overtook it has.
pub(super) async fn undo(store: &Store, environment: &Environment, lease: Lease, error: Error) -> Error {
    store.settle().await;
    let announced = lease.announced().await;
    let cleared = if still_held(&lease).await {
        if !announced.is_empty() {
            abort_uploads(store, environment).await;
        }
        delete(store, announced.iter()).await
    } else {
        // Whoever overtook this run has cleared what was there then. What came later is this run's alone to clear, unless the
        // other one makes objects of the same names.
        lease.fence().holds()
            && nobody_else_makes(store, environment, lease.run().await, &announced).await.unwrap_or(false)
            && delete(store, announced.iter()).await
    };
    // A mark that stays tells the next run what to clear.
    if cleared {
        lease.release().await;
    } else {
        lease.leave().await;
    }
    error
}

/// Whether the lease is this run's by its mark, and not by the clock alone: before anything is deleted that another run may have
/// made under the same name. A store that does not say so in time is asked no further, and nothing is deleted.
pub(super) async fn still_held(lease: &Lease) -> bool {
    lease.fence().holds() && tokio::time::timeout(ASK_TIME_MAX, lease.check()).await.is_ok_and(|held| held.is_ok())
}

/// Whether no record of the run and no mark names what was announced.
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

/// Removes what is half uploaded below the environment, whose lease this run holds. Half an upload is no object, and a
/// credential that may not list uploads is no reason to keep a run's objects: a failure is logged and no more.
async fn abort_uploads(store: &Store, environment: &Environment) {
    if let Err(error) = store.abort_uploads(&format!("{environment}/")).await {
        tracing::warn!("what was half uploaded could not be cleared: {error}");
    }
}

/// Deletes what a run made and did not commit, and says whether all of it is gone. A failure costs space, never a snapshot: as
/// long as the lease's mark is there, nobody takes the objects for one.
pub(super) async fn delete(store: &Store, keys: impl Iterator<Item = &ObjectKey>) -> bool {
    let mut gone = true;
    for key in keys {
        match store.delete(key).await {
            Ok(Deleted::Gone) => {}
            Ok(Deleted::Retained) => {
                tracing::warn!(key = %key, "what the run left could not be cleared: the store retains it");
                gone = false;
            }
            Err(error) => {
                tracing::warn!(key = %key, "what the run left could not be cleared: {error}");
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
    fn a_mark_is_believed_of_objects_of_sources_alone() {
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
