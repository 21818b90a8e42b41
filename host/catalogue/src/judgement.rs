//! What a source is in a run: whole, partial or suspect, judged by itself and against its own last whole state.

use crate::history::History;
use crate::record::{Condition, Measure};
use base::id::SnapshotId;
use indicatif::HumanCount;
use jiff::Timestamp;

/// A folder that had fewer files may lose most of them to one person's tidying up.
const FILES_MIN: u64 = 10;

/// Content of so few bytes may be one document that was replaced.
const BYTES_MIN: u64 = 1 << 20;

/// A database with fewer tables is no Dolibarr, which has over three hundred.
const TABLES_MIN: u64 = 10;

/// So few rows are settings that somebody may have cleared.
const ROWS_MIN: u64 = 100;

/// A source that was suspect is whole again when no more than a tenth of what it had is missing: a day's work of tidying up.
const BACK_TENTH: u64 = 10;

/// What a run saw of one source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Which database it is; none of a folder.
    pub identity: Option<String>,
    /// How much it holds.
    pub measure: Measure,
    /// Entries that exist and could not be read.
    pub unreadable: u64,
    /// Entries that the last whole archive has below those; none where nobody knows.
    pub below_unreadable: Option<u64>,
    /// What the dump of a database lacks, by pg_dump's words.
    pub lacking: Vec<String>,
}

/// What a source is by that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// How much of it was saved.
    pub condition: Condition,
    /// Why it is not whole, a sentence each.
    pub doubts: Vec<String>,
}

/// The identity that a source is expected to have: what a person accepted, or else what the last whole one had.
fn known_identity<'h>(name: &str, history: &'h History, now: Timestamp) -> Option<&'h str> {
    let of_file = history.environment.as_ref().and_then(|stored| stored.file.sources.get(name)?.identity.as_deref());
    of_file.or_else(|| history.last_whole(name, now).and_then(|(_, state)| state.identity.as_deref()))
}

/// The identity that was expected and the one that was found, where they differ.
fn exchanged<'a>(
    identity: Option<&'a str>,
    name: &str,
    history: &'a History,
    now: Timestamp,
) -> Option<(&'a str, &'a str)> {
    known_identity(name, history, now).zip(identity).filter(|(known, found)| known != found)
}

/// Whether another database stands behind a source's name than before.
#[must_use]
pub fn is_another(identity: Option<&str>, name: &str, history: &History, now: Timestamp) -> bool {
    exchanged(identity, name, history, now).is_some()
}

/// Judges a source that was dumped in this run.
#[must_use]
pub fn judge(name: &str, seen: &Seen, history: &History, now: Timestamp) -> Judgement {
    if seen.unreadable > 0 {
        let below = match seen.below_unreadable {
            Some(below @ 1..) => {
                format!(", and {} that the last whole archive has below them are missing", HumanCount(below))
            }
            Some(0) | None => String::new(),
        };
        let doubt = format!("{} entries could not be read{below}", HumanCount(seen.unreadable));
        return Judgement { condition: Condition::Partial, doubts: vec![doubt] };
    }
    if !seen.lacking.is_empty() {
        let doubts = seen.lacking.iter().map(|what| format!("the dump lacks something: {what}")).collect();
        return Judgement { condition: Condition::Partial, doubts };
    }
    let mut doubts = Vec::new();
    if let Some((known, found)) = exchanged(seen.identity.as_deref(), name, history, now) {
        doubts.push(format!("it is another database than before ({known} became {found})"));
    }
    let is_suspected = history.is_suspected(name, now);
    let gone = |(id, before): (SnapshotId, Measure)| {
        let not_back = || is_suspected.then(|| not_back(before, seen.measure)).flatten();
        let what = collapsed(before, seen.measure).or_else(not_back);
        what.map(|what| format!("{what} since {id}"))
    };
    let held = history.held(name, now);
    if let (true, Some((id, before))) = (held.is_empty(), history.suspected(name, now))
        && collapsed(seen.measure, before).is_none()
    {
        doubts.push(format!("it is as it was in {id}, which is suspect, and nothing whole is left to compare with"));
    }
    doubts.extend(held.into_iter().find_map(gone));
    let condition = if doubts.is_empty() { Condition::Whole } else { Condition::Suspect };
    Judgement { condition, doubts }
}

/// Each count that both have, by its name, before and now, with how many there must have been for half of them to say anything.
fn counts(before: Measure, now: Measure) -> impl Iterator<Item = (&'static str, u64, u64, u64)> {
    let counts = [
        ("files", before.files, now.files, FILES_MIN),
        ("bytes", before.bytes, now.bytes, BYTES_MIN),
        ("tables", before.tables, now.tables, TABLES_MIN),
        ("rows", before.rows, now.rows, ROWS_MIN),
    ];
    counts.into_iter().filter_map(|(what, before, now, least)| Some((what, before?, now?, least)))
}

/// Whether most of what was there is gone, and what of it.
pub(crate) fn collapsed(before: Measure, now: Measure) -> Option<String> {
    let gone = |before, now, least| (before > 0 && now == 0) || (before >= least && now < before / 2);
    let mut lost = counts(before, now).filter(|(_, before, now, least)| gone(*before, *now, *least));
    lost.next().map(|(what, before, now, _)| {
        format!("most of its {what} are gone: {} of {} are left", HumanCount(now), HumanCount(before))
    })
}

/// Whether something of what was missing is missing still: of a source that lost most of it nobody takes the half that comes back
/// for the whole.
pub(crate) fn not_back(before: Measure, now: Measure) -> Option<String> {
    let missing = |before: u64, now: u64| now < before.saturating_sub(before / BACK_TENTH);
    let mut lost = counts(before, now).filter(|(_, before, now, _)| missing(*before, *now));
    lost.next().map(|(what, before, now, _)| {
        format!("its {what} are not all back: {} of {} are there", HumanCount(now), HumanCount(before))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_means_more_than_half_and_of_a_few_all() {
        let files = |files| Measure { files: Some(files), ..Measure::default() };
        for (before, now, gone) in [
            (0, 0, false),
            (3, 1, false),
            (3, 0, true),
            (10, 5, false),
            (10, 4, true),
            (1_000, 499, true),
            (5, 900, false),
        ] {
            assert_eq!(collapsed(files(before), files(now)).is_some(), gone, "{before} to {now}");
        }
        assert_eq!(collapsed(files(10), Measure::default()), None, "what nobody counted is not gone");
        let rows = |rows| Measure { files: Some(1), rows: Some(rows), ..Measure::default() };
        let said = collapsed(rows(12_345), rows(0)).unwrap();
        assert_eq!(said, "most of its rows are gone: 0 of 12,345 are left");
    }
}
