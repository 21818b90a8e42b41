//! Makes the record of a run from the results of its phases.

use super::course::When;
use super::{Opened, Plugins, Tallies, Work};
use crate::session::Session;
use crate::tally::plugin_record;
use base::error::Error;
use base::text::counted;
use catalogue::history::History;
use catalogue::judgement::{self, Judgement};
use catalogue::record::{
    ArchiveRecord, Condition, DatabaseRecord, ObjectRecord, Outcome, ProblemRecord, Record, SourceRecord,
};
use documents::ArchiveReport;
use jiff::Timestamp;
use plugin::context::Tally;
use std::collections::BTreeMap;

/// The result of a dump.
pub(super) struct Dump {
    pub(super) object: ObjectRecord,
    /// A seal of each measurement of the fingerprint; `None` for one that changed while the object was made.
    pub(super) seals: Vec<Option<String>>,
    pub(super) index: Option<ObjectRecord>,
    /// What an archive holds; `None` for a database.
    pub(super) report: Option<ArchiveReport>,
    pub(super) below_unreadable: Option<u64>,
    pub(super) millis: u64,
}

pub(super) fn failed(source: &Work, error: &Error) -> SourceRecord {
    let doubts = vec![error.to_string()];
    // The fingerprint of what was not saved is of no use, and its counts may cover only what a pattern selected.
    SourceRecord {
        reason: error.to_string(),
        condition: Some(Condition::Failed),
        doubts,
        fingerprint: None,
        basis: None,
        selected: Vec::new(),
        seals: Vec::new(),
        ..blank(source)
    }
}

/// An object is carried over only from a whole state, so the source is whole.
pub(super) fn carried(
    source: &Work,
    opened: &Opened,
    reason: String,
    history: &History,
    now: Timestamp,
) -> SourceRecord {
    let (state, object) = history.carried(&source.name, now).unzip();
    let notes = object.as_ref().map_or(&[][..], |object| history.notes(&object.key)).to_vec();
    SourceRecord {
        outcome: Outcome::Unchanged,
        reason,
        database: database(opened).map(|database| DatabaseRecord { notes, ..database }),
        object,
        condition: Some(Condition::Whole),
        identity: state.and_then(|state| state.identity.clone()),
        measure: state.map(|state| state.measure),
        ..blank(source)
    }
}

pub(super) fn saved(
    source: &Work,
    opened: &Opened,
    reason: String,
    dump: Dump,
    history: &History,
    now: Timestamp,
) -> SourceRecord {
    let difference = match (opened, &dump.report) {
        (Opened::Tree(tree), Some(report)) => tree.difference_to_summary(report),
        _ => None,
    };
    let archive = dump.report.map(|report| archive(report, dump.index, dump.below_unreadable));
    let seen = super::seen::seen(opened, archive.as_ref());
    let Judgement { condition, doubts } = judgement::judge(&source.name, &seen, history, now);
    let judgement::Seen { identity, measure, .. } = seen;
    let mut record = SourceRecord {
        seals: dump.seals,
        outcome: Outcome::Saved,
        reason,
        object: Some(dump.object),
        database: database(opened).map(|database| DatabaseRecord { notes: notes(opened), ..database }),
        dump_millis: Some(dump.millis),
        archive,
        condition: Some(condition),
        doubts,
        identity,
        measure: Some(measure),
        ..blank(source)
    };
    if condition != Condition::Whole {
        tracing::error!(source = %source.name, "{condition}: {}", record.doubts.join("; "));
        // Without it nothing is carried over: the source is saved every night until it is whole.
        (record.fingerprint, record.seals) = (None, Vec::new());
    }
    if let Opened::Tree(tree) = opened {
        // With this fingerprint, later runs would carry the archive over, and what it lacks would stay missing.
        if let Some(why) = difference {
            tracing::warn!(source = %source.name, "{why}; the fingerprint is not trusted, and the next run saves the source again");
            (record.fingerprint, record.seals) = (None, Vec::new());
        }
        let excludes = tree.excludes();
        let blind = excludes.blind();
        if !blind.is_empty() {
            let shown = base::text::printable(&blind.join("`, `"));
            tracing::warn!(
                source = %source.name,
                "the fingerprint excludes `{shown}`, which the archive contains, so it is not trusted: give both plugins the same `exclude`"
            );
            (record.fingerprint, record.basis, record.seals) = (None, None, Vec::new());
        }
    }
    record
}

fn blank(source: &Work) -> SourceRecord {
    let mut blank = SourceRecord::blank(source.kind, Outcome::Failed);
    blank.fingerprint_millis = source.fingerprint_millis;
    if let Some(fingerprint) = &source.fingerprint {
        blank.fingerprint = Some(fingerprint.value.clone());
        blank.basis = Some(fingerprint.basis.clone());
        blank.selected.clone_from(&fingerprint.selected);
        blank.seals = fingerprint.seals.iter().cloned().map(Some).collect();
    }
    blank
}

fn database(opened: &Opened) -> Option<DatabaseRecord> {
    let Opened::Database(database) = opened else { return None };
    let facts = database.facts();
    let left_out = facts.left_out();
    Some(DatabaseRecord {
        server_version: facts.server_version,
        pg_dump_version: facts.pg_dump_version,
        database_bytes: Some(facts.database_bytes),
        left_out,
        notes: Vec::new(),
    })
}

fn notes(opened: &Opened) -> Vec<String> {
    match opened {
        Opened::Database(database) => database.remarks().notes,
        Opened::Tree(_) => Vec::new(),
    }
}

fn archive(report: ArchiveReport, index: Option<ObjectRecord>, below_unreadable: Option<u64>) -> ArchiveRecord {
    ArchiveRecord {
        files: report.files,
        bytes: report.bytes,
        excluded_files: report.excluded_files,
        excluded_bytes: report.excluded_bytes,
        exclude: report.exclude,
        excluded_folders: report.excluded_folders,
        excluded_folders_total: report.excluded_folders_total,
        excluded_names: report.excluded_names,
        excluded_names_total: report.excluded_names_total,
        links_out: report.links_out,
        links_out_total: report.links_out_total,
        foreign_attributes: report.foreign_attributes.into_iter().collect(),
        problems_total: report.problems_total,
        problems: report.problems.into_iter().map(|p| ProblemRecord { path: p.path, reason: p.reason }).collect(),
        index,
        unreadable_total: report.unreadable_total,
        below_unreadable,
        vanished_total: report.vanished_total,
    }
}

/// Makes the record.
pub(super) fn record(
    session: &Session,
    plugins: &Plugins,
    sources: BTreeMap<String, SourceRecord>,
    history: &History,
    when: When,
    tallies: &Tallies,
) -> Record {
    let When { id, store_time, clock_doubt } = when;
    let expected = catalogue::questions::expected(history, &session.sources.configured);
    let whole = |source: &SourceRecord| source.condition() == Condition::Whole;
    let complete = sources.values().all(whole) && expected.into_iter().all(|name| sources.contains_key(name));
    let mut warnings: Vec<String> = history.damaged().map(ToString::to_string).collect();
    for (name, source) in &sources {
        let Some(archive) = &source.archive else { continue };
        let others = archive.problems_total.saturating_sub(archive.unreadable_total);
        if others > 0 {
            warnings.push(format!("{} of {name} could not be archived as they were", counted(others, "file")));
        }
    }
    if let Some(doubt) = clock_doubt {
        warnings.push(format!("the time of this run is doubted: {}", catalogue::questions::describe(doubt)));
    }
    Record {
        finished: session.clock.now(),
        time_zone: session.time_zone_name().to_owned(),
        complete,
        sources,
        plugins: vec![
            plugin_record(&plugins.fingerprint, &tallies.fingerprint),
            plugin_record(&plugins.dump, &tallies.dump),
            plugin_record(&plugins.retention, &Tally::new()),
        ],
        warnings,
        store_time: Some(store_time),
        clock_doubt,
        ..history.next_record(id, session.environment.as_str())
    }
}
