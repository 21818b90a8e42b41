//! What the record says of a run: plain data put together from what the phases came to.

use super::{Opened, Plugins, Tallies, Work};
use crate::capability::Tally;
use crate::error::Error;
use crate::history::{self, History};
use crate::host::Host;
use crate::snapshot::{
    ArchiveRecord, DatabaseRecord, FORMAT_VERSION, ObjectRecord, Outcome, ProblemRecord, Record, SnapshotId,
    SourceRecord,
};
use jiff::Timestamp;
use std::collections::BTreeMap;

pub(super) fn failed(source: &Work, error: &Error) -> SourceRecord {
    SourceRecord { outcome: Outcome::Failed, reason: error.to_string(), ..blank(source) }
}

pub(super) fn carried(
    source: &Work,
    opened: &Opened,
    reason: String,
    history: &History,
    now: Timestamp,
) -> SourceRecord {
    let object = history.carried(&source.name, now).map(|(_, object)| object);
    SourceRecord { outcome: Outcome::Unchanged, reason, object, database: database(opened), ..blank(source) }
}

pub(super) fn saved(
    source: &Work,
    opened: &Opened,
    reason: String,
    object: ObjectRecord,
    index: Option<ObjectRecord>,
    dump_millis: u64,
) -> SourceRecord {
    let mut record = SourceRecord {
        outcome: Outcome::Saved,
        reason,
        object: Some(object),
        database: database(opened),
        dump_millis: Some(dump_millis),
        archive: archive(opened, index),
        ..blank(source)
    };
    if let Opened::Tree(tree) = opened {
        let excludes = tree.excludes();
        let blind = excludes.blind();
        if !blind.is_empty() {
            let shown = crate::capability::printable(&blind.join("`, `"));
            tracing::warn!(
                source = %source.name,
                "the fingerprint leaves out `{shown}`, which the archive holds, so it is not trusted: give both plugins the same `exclude`"
            );
            record.fingerprint = None;
        }
    }
    record
}

fn blank(source: &Work) -> SourceRecord {
    SourceRecord {
        kind: source.kind.to_owned(),
        outcome: Outcome::Failed,
        reason: String::new(),
        fingerprint: source.fingerprint.as_ref().map(|f| f.value.clone()),
        basis: source.fingerprint.as_ref().map(|f| f.basis.clone()),
        object: None,
        database: None,
        fingerprint_millis: source.fingerprint_millis,
        dump_millis: None,
        archive: None,
    }
}

fn database(opened: &Opened) -> Option<DatabaseRecord> {
    let Opened::Database(session) = opened else { return None };
    let facts = session.facts();
    Some(DatabaseRecord {
        server_version: facts.server_version,
        pg_dump_version: facts.pg_dump_version,
        database_bytes: Some(facts.database_bytes),
    })
}

fn archive(opened: &Opened, index: Option<ObjectRecord>) -> Option<ArchiveRecord> {
    let Opened::Tree(tree) = opened else { return None };
    let report = tree.report()?;
    Some(ArchiveRecord {
        files: report.files,
        bytes: report.bytes,
        excluded_files: report.excluded_files,
        excluded_bytes: report.excluded_bytes,
        exclude: report.exclude,
        excluded_folders: report.excluded_folders,
        excluded_folders_total: report.excluded_folders_total,
        problems_total: report.problems_total,
        problems: report.problems.into_iter().map(|p| ProblemRecord { path: p.path, reason: p.reason }).collect(),
        index,
    })
}

/// Puts the record together.
pub(super) fn record(
    host: &Host,
    plugins: &Plugins,
    work: &[Work],
    sources: BTreeMap<String, SourceRecord>,
    history: &History,
    id: SnapshotId,
    tallies: &Tallies,
) -> Record {
    let complete = work.len() == host.sources.sources.len() && sources.values().all(|source| source.object.is_some());
    let mut warnings: Vec<String> = history.damaged().map(ToString::to_string).collect();
    for (name, source) in &sources {
        if let Some(archive) = source.archive.as_ref().filter(|archive| archive.problems_total > 0) {
            warnings.push(format!("{} files of {name} could not be archived as they were", archive.problems_total));
        }
    }
    Record {
        format_version: FORMAT_VERSION,
        id,
        environment: host.environment.to_string(),
        started: id.taken(),
        finished: host.clock.now(),
        time_zone: host.time_zone_name().to_owned(),
        host_version: env!("CARGO_PKG_VERSION").to_owned(),
        complete,
        sources,
        plugins: vec![
            plugins.fingerprint.record(&tallies.fingerprint),
            plugins.dump.record(&tallies.dump),
            plugins.retention.record(&Tally::new()),
        ],
        warnings,
        previous: history.previous(id.taken()).and_then(history::Snapshot::link),
    }
}
