//! Reads the verifications and drills in the store. The key of a verification says everything. Of a drill's report only
//! one flag is read, so that reports of other versions count too.

use base::error::Result;
use base::id::{SnapshotId, Stamp};
use catalogue::configured::Environment;
use catalogue::history::History;
use catalogue::proof::Mark;
use jiff::Timestamp;
use std::collections::BTreeMap;
use store::Store;

/// One verification or drill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Proof {
    /// When it began.
    pub(super) at: Timestamp,
    /// Whether everything was right.
    pub(super) passed: bool,
}

/// The verifications and drills of an environment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Proofs {
    /// The last verification of each snapshot that has one, oldest first.
    pub(super) verifications: Vec<(SnapshotId, Proof)>,
    /// The last verification of a complete snapshot that passed.
    pub(super) passed: Option<Timestamp>,
    /// The last drill.
    pub(super) drill: Option<Proof>,
    /// The last drill that passed, as far as it was looked for.
    pub(super) drill_passed: Option<Timestamp>,
}

/// Drills that are read, newest first, to find one that passed. Monthly ones fill a year.
const DRILLS_READ_MAX: usize = 12;

/// Reads them.
pub(super) async fn load(
    store: &Store,
    environment: &Environment,
    history: &History,
    now: Timestamp,
) -> Result<Proofs> {
    // Ignore verifications from the future: they would count as the newest until their time has come.
    let marks: Vec<Mark> = history.verifications.iter().filter(|mark| !mark.is_from_the_future(now)).copied().collect();
    // A verification of an incomplete snapshot may pass, but proves no backup.
    let proves = |mark: &&Mark| {
        mark.passed && history.snapshot(mark.snapshot).is_none_or(|snapshot| snapshot.complete && !snapshot.retired)
    };
    let passed = marks.iter().filter(proves).map(|mark| mark.at.moment()).max();
    let mut proofs = Proofs { verifications: last_of_each(&marks), passed, ..Proofs::default() };
    let drills = store.list(&format!("{environment}/drills/")).await?;
    let id = |name: &str| name.strip_suffix(".json")?.parse::<Stamp>().ok();
    let mut drills: Vec<_> =
        drills.into_iter().filter_map(|meta| Some((id(meta.key.as_str().rsplit('/').next()?)?, meta.key))).collect();
    drills.retain(|(id, _)| !catalogue::clock::is_ahead(*id, now));
    drills.sort_unstable_by_key(|(id, _)| std::cmp::Reverse(*id));
    for (id, key) in drills.into_iter().take(DRILLS_READ_MAX) {
        let Some(bytes) = store.get(&key).await? else { continue };
        let proof = Proof { at: id.moment(), passed: self::passed(&bytes) };
        proofs.drill.get_or_insert(proof);
        if proof.passed {
            proofs.drill_passed = Some(proof.at);
            break;
        }
    }
    Ok(proofs)
}

/// The last one of each snapshot, in the order in which they were made.
fn last_of_each(marks: &[Mark]) -> Vec<(SnapshotId, Proof)> {
    let mut last: BTreeMap<SnapshotId, &Mark> = BTreeMap::new();
    for mark in marks {
        let known = last.entry(mark.snapshot).or_insert(mark);
        // Of two in the same second, the failed one counts.
        if (mark.at, !mark.passed) >= (known.at, !known.passed) {
            *known = mark;
        }
    }
    let proof = |mark: &Mark| Proof { at: mark.at.moment(), passed: mark.passed };
    let mut last: Vec<_> = last.into_iter().map(|(snapshot, mark)| (snapshot, proof(mark))).collect();
    last.sort_by_key(|(_, proof)| proof.at);
    last
}

/// Whether a report says that everything passed. An unreadable one does not.
fn passed(bytes: &[u8]) -> bool {
    let report: serde_json::Value = serde_json::from_slice(bytes).unwrap_or_default();
    report.get("passed").and_then(serde_json::Value::as_bool).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_on_a_snapshot_counts_whatever_the_order_of_the_listing() {
        let mark = |name| Mark::parse(name).unwrap();
        let good = mark("20260630T010000Z-20260701T020000Z-deep-passed.json");
        let bad = mark("20260630T010000Z-20260708T020000Z-read-failed.json");
        let older = mark("20260629T010000Z-20260709T020000Z-read-passed.json");
        for marks in [[good, bad, older], [older, bad, good]] {
            let found = last_of_each(&marks);
            let shown: Vec<_> = found.iter().map(|(id, proof)| (id.to_string(), proof.passed)).collect();
            assert_eq!(shown, [("20260630T010000Z".to_owned(), false), ("20260629T010000Z".to_owned(), true)]);
        }
        assert!(last_of_each(&[]).is_empty());
    }

    #[test]
    fn a_drill_that_cannot_be_read_did_not_pass() {
        for (bytes, expected) in [
            (&b"{\"passed\": true, \"format_version\": 9}"[..], true),
            (b"{\"passed\": false}", false),
            (b"{\"passed\": \"true\"}", false),
            (b"{}", false),
            (b"[true]", false),
            (b"", false),
            (b"\xff", false),
        ] {
            assert_eq!(passed(bytes), expected, "{bytes:?}");
        }
    }
}
