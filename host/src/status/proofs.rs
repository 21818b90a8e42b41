//! What the store says of verifications and drills. Read by their keys and one flag, so that a status needs no more than two
//! small listings and one read, and so that a report of another version still counts.

use crate::config::Environment;
use crate::error::Result;
use crate::proof::Mark;
use crate::snapshot::SnapshotId;
use crate::store::Store;
use jiff::Timestamp;

/// One verification or drill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Proof {
    /// When it began.
    pub(super) at: Timestamp,
    /// Whether everything was right.
    pub(super) passed: bool,
}

/// What an environment has of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Proofs {
    /// The last verification of each snapshot that has one, oldest first.
    pub(super) verifications: Vec<(SnapshotId, Proof)>,
    /// The last drill.
    pub(super) drill: Option<Proof>,
    /// The last drill that passed, as far as it was looked for.
    pub(super) drill_passed: Option<Timestamp>,
}

/// Drills that are read, newest first, to find one that passed. Monthly ones fill a year.
const DRILLS_READ_MAX: usize = 12;

/// Reads them.
///
/// # Errors
/// The store's.
pub(super) async fn load(store: &Store, environment: &Environment) -> Result<Proofs> {
    let verified = store.list(&format!("{environment}/verified/")).await?;
    let names = verified.iter().filter_map(|meta| meta.key.as_str().rsplit('/').next());
    let mut proofs = Proofs { verifications: last_of_each(names.filter_map(verification)), ..Proofs::default() };
    let drills = store.list(&format!("{environment}/drills/")).await?;
    let id = |name: &str| name.strip_suffix(".json")?.parse::<SnapshotId>().ok();
    let mut drills: Vec<_> =
        drills.into_iter().filter_map(|meta| Some((id(meta.key.as_str().rsplit('/').next()?)?, meta.key))).collect();
    drills.sort_unstable_by_key(|(id, _)| std::cmp::Reverse(*id));
    for (id, key) in drills.into_iter().take(DRILLS_READ_MAX) {
        let Some(bytes) = store.get(&key).await? else { continue };
        let proof = Proof { at: id.taken(), passed: passed(&bytes) };
        proofs.drill.get_or_insert(proof);
        if proof.passed {
            proofs.drill_passed = Some(proof.at);
            break;
        }
    }
    Ok(proofs)
}

/// What the name of a verification record says.
fn verification(name: &str) -> Option<(SnapshotId, Proof)> {
    let Mark { snapshot, at, passed, .. } = Mark::parse(name)?;
    Some((snapshot, Proof { at: at.taken(), passed }))
}

/// The last one of each snapshot, in the order in which they were made.
fn last_of_each(found: impl Iterator<Item = (SnapshotId, Proof)>) -> Vec<(SnapshotId, Proof)> {
    let mut last = std::collections::BTreeMap::new();
    for (snapshot, proof) in found {
        let known = last.entry(snapshot).or_insert(proof);
        if proof.at >= known.at {
            *known = proof;
        }
    }
    let mut last: Vec<_> = last.into_iter().collect();
    last.sort_by_key(|(_, proof)| proof.at);
    last
}

/// Whether a report says that everything was right. One that cannot be read says nothing of the kind.
fn passed(bytes: &[u8]) -> bool {
    let report: serde_json::Value = serde_json::from_slice(bytes).unwrap_or_default();
    report.get("passed").and_then(serde_json::Value::as_bool).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_which_snapshot_when_and_how_it_ended() {
        let (snapshot, proof) = verification("20260630T010000Z-20260701T020000Z-deep-passed.json").unwrap();
        assert_eq!((snapshot.to_string().as_str(), proof.passed), ("20260630T010000Z", true));
        assert_eq!(proof.at.to_string(), "2026-07-01T02:00:00Z");
        assert!(!verification("20260630T010000Z-20260701T020000Z-read-failed.json").unwrap().1.passed);
        for name in [
            "",
            ".json",
            "20260630T010000Z.json",
            "x-y-deep-passed.json",
            "20260630T010000Z-20260701T020000Z-deep-perhaps.json",
        ] {
            assert_eq!(verification(name), None, "{name}");
        }
    }

    #[test]
    fn the_last_word_on_a_snapshot_counts_whatever_the_order_of_the_listing() {
        let read = |names: &[&str]| last_of_each(names.iter().filter_map(|name| verification(name)));
        let (good, bad) = (
            "20260630T010000Z-20260701T020000Z-deep-passed.json",
            "20260630T010000Z-20260708T020000Z-read-failed.json",
        );
        for names in [[good, bad], [bad, good]] {
            let found = read(&names);
            assert_eq!(found.len(), 1);
            assert!(!found[0].1.passed);
        }
        assert!(read(&[]).is_empty());
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
