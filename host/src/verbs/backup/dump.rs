//! The dumps of a run: the plugin composes, the host moves the bytes and checks the receipt.

use super::record::{Dump, carried, failed, saved};
use super::{Opened, Plugins, Tallies, Work, add_tally};
use crate::archive;
use crate::session::Session;
use crate::sweep::{delete, still_held};
use base::error::{Error, Result};
use base::evidence::{SealKey, Selected};
use base::id::SnapshotId;
use base::stream::ByteStream;
use catalogue::history::History;
use catalogue::lease::Lease;
use catalogue::record::{ObjectRecord, SourceRecord};
use documents::{ArchiveReport, Archived};
use plugin::call::dumping;
use plugin::capabilities::documents::ArchiveTree;
use plugin::capabilities::postgres::DumpDatabase;
use plugin::capabilities::store::Prefix;
use std::collections::BTreeMap;
use std::time::Duration;
use store::ObjectKey;
use tokio_util::sync::CancellationToken;

/// Part of the run's time limit that is reserved for the commit and the retention.
const RESERVE: Duration = Duration::from_secs(60);

/// The results of the dumps.
pub(super) struct Dumped {
    pub sources: BTreeMap<String, SourceRecord>,
    pub failures: Vec<(String, Error)>,
}

/// Carries the decisions out in their order. A source that fails does not keep the next one from being saved.
///
/// # Errors
/// If the lease is lost; then nothing may be committed.
#[expect(clippy::too_many_arguments, reason = "each is a phase's own result")]
pub(super) async fn dump(
    session: &Session,
    plugins: &Plugins,
    lease: &Lease,
    work: &[Work],
    decisions: &[dumping::Decision],
    history: &History,
    id: SnapshotId,
    tallies: &mut Tallies,
) -> Result<Dumped> {
    let mut sources: BTreeMap<String, SourceRecord> = BTreeMap::new();
    let mut failures = Vec::new();
    for source in work {
        if let Err(error) = &source.opened {
            sources.insert(source.name.clone(), failed(source, error));
            failures.push((source.name.clone(), error.clone()));
        } else if let Some(error) = &source.fingerprint_failure {
            failures.push((source.name.clone(), error.clone().context("saved without a fingerprint")));
        }
    }
    lease.announce(id, &usual_keys(session, work, decisions, id)).await?;
    for (done, decision) in decisions.iter().enumerate() {
        let Some(source) = work.iter().find(|source| source.name == decision.source) else { continue };
        let Ok(opened) = &source.opened else { continue };
        let reason = base::text::printable(&decision.reason);
        let record = match decision.action {
            dumping::Action::Carry => carried(source, opened, reason, history, id.taken()),
            dumping::Action::Dump => {
                tracing::info!(source = %source.name, "dumping: {reason}");
                let limit = share(session.time_left().saturating_sub(RESERVE), &decisions[done..]);
                match dump_in_time(session, plugins, lease, source, opened, history, id, limit, tallies).await {
                    Ok(dump) => saved(source, opened, reason, dump, history, id.taken()),
                    Err(error) => {
                        if !lease.fence().holds() {
                            return Err(error);
                        }
                        tracing::error!(source = %format!("{}/{}", session.environment, source.name), "{error}");
                        let record = failed(source, &error);
                        failures.push((source.name.clone(), error));
                        record
                    }
                }
            }
        };
        sources.insert(source.name.clone(), record);
    }
    Ok(Dumped { sources, failures })
}

/// The keys of what is about to be made, as the shipped plugin names it: one request announces all of them. What
/// another plugin names otherwise is announced when it comes.
fn usual_keys(session: &Session, work: &[Work], decisions: &[dumping::Decision], id: SnapshotId) -> Vec<ObjectKey> {
    let dumped = decisions.iter().filter(|decision| decision.action == dumping::Action::Dump);
    let sources = dumped.filter_map(|decision| work.iter().find(|source| source.name == decision.source));
    let names = sources.flat_map(|source| {
        let extensions: &[&str] = match source.opened {
            Ok(Opened::Database(_)) => &["dump"],
            Ok(Opened::Tree(_)) => &["tar.gz", "index"],
            Err(_) => &[],
        };
        extensions.iter().map(|extension| format!("{}/{}/{id}.{extension}", session.environment, source.name))
    });
    names.filter_map(|name| ObjectKey::parse(&name)).collect()
}

/// What the first of these may take of the time that is left: an equal share with those after it that are dumped too,
/// so that one that hangs does not cost the others. What it does not need is left to them.
fn share(left: Duration, decisions: &[dumping::Decision]) -> Duration {
    let dumped = decisions.iter().filter(|decision| decision.action == dumping::Action::Dump).count();
    left / u32::try_from(dumped).unwrap_or(u32::MAX).max(1)
}

/// Dumps one source with its index, within its share of the run's own limit.
#[expect(clippy::too_many_arguments, reason = "each is a phase's own result")]
async fn dump_in_time(
    session: &Session,
    plugins: &Plugins,
    lease: &Lease,
    source: &Work,
    opened: &Opened,
    history: &History,
    id: SnapshotId,
    limit: Duration,
    tallies: &mut Tallies,
) -> Result<Dump> {
    let began = session.clock.now();
    let dumping = async {
        let (object, mut archived) = dump_one(session, plugins, lease, source, opened, id, tallies).await?;
        let millis = session.clock.millis_since(began);
        let seals = seals(source, opened, history.seal_key()).await;
        let index = store_index(session, lease, source, archived.as_mut().and_then(Archived::take_index), id).await;
        let report = archived.map(|archived| archived.report);
        let below_unreadable = below_unreadable(session, source, report.as_ref(), history, id).await;
        Ok(Dump { object, seals, index, report, below_unreadable, millis })
    };
    let late = |_| {
        Err(Error::unavailable(format!("{} was not saved within its share of the run's time limit", source.name))
            .hint("find out what is slow, or raise `run` in [deadlines]"))
    };
    tokio::time::timeout(limit, dumping).await.unwrap_or_else(late)
}

/// The seals of the fingerprint's measures, but for the sequences' where one moved on while the dump was made: they are
/// outside of every snapshot, so the dump may have the earlier value or the later one, and both are right.
async fn seals(source: &Work, opened: &Opened, key: Option<&SealKey>) -> Vec<Option<String>> {
    let Some(fingerprint) = &source.fingerprint else { return Vec::new() };
    let mut seals = Vec::new();
    for (selected, seal) in fingerprint.selected.iter().zip(&fingerprint.seals) {
        let moved = match (opened, selected, key) {
            (Opened::Database(database), Selected::Sequences { .. }, Some(key)) => {
                let again = database.measure(selected.clone()).await;
                again.map_or(true, |measured| key.seal(vec![measured]).seals.first() != Some(seal))
            }
            _ => false,
        };
        seals.push((!moved).then(|| seal.clone()));
    }
    seals
}

/// Has the plugin dump one source and checks its receipt against what the host really stored. What it stored besides is
/// deleted at once.
async fn dump_one(
    session: &Session,
    plugins: &Plugins,
    lease: &Lease,
    source: &Work,
    opened: &Opened,
    id: SnapshotId,
    tallies: &mut Tallies,
) -> Result<(ObjectRecord, Option<Archived>)> {
    let scope = format!("{}/{}", session.environment, source.name);
    let into = Prefix::new(session.store.clone(), scope, id, lease.fencing(id));
    let stamp = id.to_string();
    let called = match opened.clone() {
        Opened::Database(database) => plugins.dump.dump_database(&stamp, DumpDatabase(database), into.clone()).await,
        Opened::Tree(tree) => plugins.dump.dump_tree(&stamp, ArchiveTree(tree), into.clone()).await,
    };
    add_tally(&mut tallies.dump, called.tally);
    let stored = into.stored();
    let checked = called.result.and_then(|receipt| {
        let [(key, object)] = stored.as_slice() else {
            return Err(plugins.dump.refused(format!("it stored {} objects instead of one", stored.len())));
        };
        if (receipt.key.as_str(), receipt.bytes, &receipt.sha256) != (key.as_str(), object.bytes, &object.sha256) {
            return Err(plugins.dump.refused("it returned a receipt that the host did not issue"));
        }
        Ok(ObjectRecord { key: key.clone(), bytes: object.bytes, sha256: object.sha256.clone(), made: id.taken() })
    });
    if checked.is_err() && still_held(lease).await {
        delete(&session.store, stored.iter().map(|(key, _)| key)).await;
    }
    checked.map(|object| (object, into.take_archived()))
}

/// Stores the archive's index beside it. It makes one document quick to find and is not needed to restore, so a
/// failure costs that and nothing else.
async fn store_index(
    session: &Session,
    lease: &Lease,
    source: &Work,
    index: Option<ByteStream>,
    id: SnapshotId,
) -> Option<ObjectRecord> {
    let index = index?;
    let stored = async {
        let key = catalogue::keys::key(&format!("{}/{}/{id}.index", session.environment, source.name))?;
        let stored = lease.fencing(id).put_stream(&session.store, &key, index).await?;
        Ok::<_, Error>(ObjectRecord { key, bytes: stored.bytes, sha256: stored.sha256, made: id.taken() })
    };
    match stored.await {
        Ok(object) => Some(object),
        Err(error) => {
            tracing::warn!(source = %source.name, "the archive's index was not stored: {error}");
            None
        }
    }
}

/// How many entries the last whole archive has below folders that could not be listed now. None where nobody can say.
async fn below_unreadable(
    session: &Session,
    source: &Work,
    report: Option<&ArchiveReport>,
    history: &History,
    id: SnapshotId,
) -> Option<u64> {
    let folders: Vec<_> = report?.unreadable.iter().map(|entry| entry.path.clone()).collect();
    if folders.is_empty() {
        return None;
    }
    let (_, state) = history.last_whole(&source.name, id.taken())?;
    let counted = async {
        let archive = archive::open(&session.store, history, state.object.as_ref()?, false).await.ok()?;
        documents::count_below(&archive, folders, &CancellationToken::new()).await.ok()?
    };
    counted.await
}
