//! Judges a source in a run: whole, partial or suspect, by what was read and by comparison with its last whole state.

use crate::history::History;
use crate::record::{Condition, Measure};
use base::id::SnapshotId;
use base::text::counted;
use indicatif::HumanCount;
use jiff::Timestamp;

/// A folder with fewer files may lose most of them when one person tidies up.
const FILES_MIN: u64 = 10;

/// Less content than this may be a single document that was replaced.
const BYTES_MIN: u64 = 1 << 20;

/// A database with fewer tables is not a Dolibarr database, which has over three hundred.
const TABLES_MIN: u64 = 10;

/// Fewer rows may be settings that somebody cleared.
const ROWS_MIN: u64 = 100;

/// A suspect source is whole again when at most a tenth of what it had is missing: that much can be a day's tidying up.
const BACK_TENTH: u64 = 10;

/// What a run found in one source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Which database it is; `None` for a folder.
    pub identity: Option<String>,
    /// How much it holds.
    pub measure: Measure,
    /// Entries that exist and could not be read.
    pub unreadable: u64,
    /// Entries that the last whole archive has below unreadable folders; `None` if unknown.
    pub below_unreadable: Option<u64>,
    /// What the dump of a database lacks, in pg_dump's words.
    pub lacking: Vec<String>,
}

/// The verdict on a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// How much of it was saved.
    pub condition: Condition,
    /// Why it is not whole, one sentence each.
    pub doubts: Vec<String>,
}

/// The identity that a source is expected to have: the one that a person accepted, or else that of the last whole
/// state.
fn known_identity<'h>(name: &str, history: &'h History, now: Timestamp) -> Option<&'h str> {
    let accepted = history.environment.as_ref().and_then(|stored| stored.file.sources.get(name)?.identity.as_deref());
    accepted.or_else(|| history.last_whole(name, now).and_then(|(_, state)| state.identity.as_deref()))
}

/// The expected identity and the one that was found, if they differ.
fn identity_change<'a>(
    identity: Option<&'a str>,
    name: &str,
    history: &'a History,
    now: Timestamp,
) -> Option<(&'a str, &'a str)> {
    known_identity(name, history, now).zip(identity).filter(|(known, found)| known != found)
}

/// Whether the source's name now refers to another database than before.
pub fn is_another(identity: Option<&str>, name: &str, history: &History, now: Timestamp) -> bool {
    identity_change(identity, name, history, now).is_some()
}

/// Judges a source that was dumped in this run.
pub fn judge(name: &str, seen: &Seen, history: &History, now: Timestamp) -> Judgement {
    if seen.unreadable > 0 {
        let below = match seen.below_unreadable {
            Some(below @ 1..) => {
                format!(", and {} that the last whole archive has below them are missing", HumanCount(below))
            }
            Some(0) | None => String::new(),
        };
        let doubt = format!("{} could not be read{below}", counted(seen.unreadable, "entry"));
        return Judgement { condition: Condition::Partial, doubts: vec![doubt] };
    }
    if !seen.lacking.is_empty() {
        let doubts = seen.lacking.iter().map(|what| format!("the dump lacks something: {what}")).collect();
        return Judgement { condition: Condition::Partial, doubts };
    }
    let mut doubts = Vec::new();
    if let Some((known, found)) = identity_change(seen.identity.as_deref(), name, history, now) {
        doubts.push(format!("it is another database than before ({known} became {found})"));
    }
    let is_suspected = history.is_suspected(name, now);
    let loss_since = |(id, before): (SnapshotId, Measure)| {
        let missing = || is_suspected.then(|| still_missing(before, seen.measure)).flatten();
        let what = collapsed(before, seen.measure).or_else(missing);
        what.map(|what| format!("{what} since {id}"))
    };
    let held = history.held(name, now);
    if let (true, Some((id, before))) = (held.is_empty(), history.suspected(name, now))
        && collapsed(seen.measure, before).is_none()
    {
        doubts.push(format!("it is unchanged since {id}, which is suspect, and no whole state is left for comparison"));
    }
    doubts.extend(held.into_iter().find_map(loss_since));
    let condition = if doubts.is_empty() { Condition::Whole } else { Condition::Suspect };
    Judgement { condition, doubts }
}

/// Each count that both measures have: its name, its values before and now, and the minimum before below which a
/// halving means nothing.
fn counts(before: Measure, now: Measure) -> impl Iterator<Item = (&'static str, u64, u64, u64)> {
    let counts = [
        ("files", before.files, now.files, FILES_MIN),
        ("bytes", before.bytes, now.bytes, BYTES_MIN),
        ("tables", before.tables, now.tables, TABLES_MIN),
        ("rows", before.rows, now.rows, ROWS_MIN),
    ];
    counts.into_iter().filter_map(|(what, before, now, least)| Some((what, before?, now?, least)))
}

/// Describes the loss if most of what was there before is gone.
pub(crate) fn collapsed(before: Measure, now: Measure) -> Option<String> {
    let is_lost = |before, now, least| (before > 0 && now == 0) || (before >= least && now < before / 2);
    let mut lost = counts(before, now).filter(|(_, before, now, least)| is_lost(*before, *now, *least));
    lost.next().map(|(what, before, now, _)| {
        format!("most of its {what} are gone: {} of {} are left", HumanCount(now), HumanCount(before))
    })
}

/// Describes what is still missing from a source that had collapsed: getting half of it back does not make it whole.
pub(crate) fn still_missing(before: Measure, now: Measure) -> Option<String> {
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
    fn a_loss_is_more_than_half_or_everything_if_there_were_few() {
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
        assert_eq!(collapsed(files(10), Measure::default()), None, "a count that was not taken is not a loss");
        let rows = |rows| Measure { files: Some(1), rows: Some(rows), ..Measure::default() };
        let loss = collapsed(rows(12_345), rows(0)).unwrap();
        assert_eq!(loss, "most of its rows are gone: 0 of 12,345 are left");
    }
}
