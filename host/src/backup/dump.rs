//! The dumps of a run: the plugin composes, the host moves the bytes and checks the receipt.

use super::record::{carried, failed, saved};
use super::{Opened, Plugins, Tallies, Work, add, fatal_unless_the_sources_own};
use crate::documents;
use crate::error::{Error, Result};
use crate::history::{self, History};
use crate::host::Host;
use crate::plugin::call::dumping;
use crate::postgres;
use crate::snapshot::{ObjectRecord, SnapshotId, SourceRecord};
use crate::store::host::Prefix;
use std::collections::BTreeMap;

/// What the dumps came to.
pub(super) struct Dumped {
    pub sources: BTreeMap<String, SourceRecord>,
    pub failures: Vec<(String, Error)>,
}

/// Carries the decisions out in their order. A source that fails does not keep the next one from being saved.
pub(super) async fn dump(
    host: &Host,
    plugins: &Plugins,
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
        }
    }
    for decision in decisions {
        let Some(source) = work.iter().find(|source| source.name == decision.source) else { continue };
        let Ok(opened) = &source.opened else { continue };
        let reason = crate::capability::printable(&decision.reason);
        let record = match decision.action {
            dumping::Action::Carry => carried(source, opened, reason, history, id.taken()),
            dumping::Action::Dump => {
                tracing::info!(source = %source.name, "dumping: {reason}");
                let began = host.clock.now();
                match dump_one(host, plugins, source, opened, id, tallies).await {
                    Ok(object) => {
                        let millis = host.clock.millis_since(began);
                        let index = store_index(host, source, opened, id).await;
                        saved(source, opened, reason, object, index, millis)
                    }
                    Err(error) => {
                        let error = fatal_unless_the_sources_own(host, &source.name, error)?;
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

/// Has the plugin dump one source and checks its receipt against what the host really stored.
async fn dump_one(
    host: &Host,
    plugins: &Plugins,
    source: &Work,
    opened: &Opened,
    id: SnapshotId,
    tallies: &mut Tallies,
) -> Result<ObjectRecord> {
    let scope = format!("{}/{}", host.environment, source.name);
    let into = Prefix::new(host.store.clone(), scope, id);
    let stamp = id.to_string();
    let called = match opened.clone() {
        Opened::Database(session) => {
            plugins.dump.dump_database(&stamp, postgres::host::DumpDatabase(session), into.clone()).await
        }
        Opened::Tree(tree) => plugins.dump.dump_tree(&stamp, documents::host::ArchiveTree(tree), into.clone()).await,
    };
    add(&mut tallies.dump, called.tally);
    let receipt = called.result?;
    let stored = into.stored();
    let [(key, object)] = stored.as_slice() else {
        return Err(plugins.dump.refused(format!("it stored {} objects where one was asked for", stored.len())));
    };
    if (receipt.key.as_str(), receipt.bytes, &receipt.sha256) != (key.as_str(), object.bytes, &object.sha256) {
        return Err(plugins.dump.refused("it answered a receipt that the host did not give"));
    }
    Ok(ObjectRecord { key: key.clone(), bytes: object.bytes, sha256: object.sha256.clone(), made: id.taken() })
}

/// Stores the archive's index beside it. It makes one document quick to find and is not needed to restore, so a
/// failure costs that and nothing else.
async fn store_index(host: &Host, source: &Work, opened: &Opened, id: SnapshotId) -> Option<ObjectRecord> {
    let Opened::Tree(tree) = opened else { return None };
    let index = tree.index()?;
    let stored = async {
        let key = history::key(&format!("{}/{}/{id}.index", host.environment, source.name))?;
        let stored = host.store.put_stream(&key, index).await?;
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
