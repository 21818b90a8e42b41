//! Decides which snapshots to keep: the last N complete ones. A pure function of its arguments; it never sees a clock,
//! an object or a store.

use crate::exports::backup::host::retaining::{Snapshot, Verdict};
use crate::settings::Settings;

/// The decision for one snapshot, with its reason.
pub type Decision = (Verdict, &'static str);

/// Decides for each snapshot. The decisions have the order of the snapshots.
///
/// The business time zone, an IANA name, is for rules that count days; this rule does not.
///
/// A snapshot taken after `now` is kept and not counted: one wrong clock must not push out the real last N.
pub fn plan(now: i64, _time_zone: &str, settings: &Settings, snapshots: &[Snapshot]) -> Vec<Decision> {
    let mut newest_first: Vec<usize> = (0..snapshots.len()).collect();
    newest_first.sort_by_key(|&at| std::cmp::Reverse((snapshots[at].taken, at)));

    let mut decisions = vec![(Verdict::Forget, "older than the complete snapshots to keep"); snapshots.len()];
    let mut left = settings.keep;
    for at in newest_first {
        let snapshot = &snapshots[at];
        let counts = snapshot.complete && snapshot.taken <= now;
        decisions[at] = match snapshot {
            Snapshot { taken, .. } if *taken > now => (Verdict::Keep, "taken in the future"),
            _ if counts && left > 0 => (Verdict::Keep, "one of the last complete snapshots"),
            Snapshot { pinned: true, .. } => (Verdict::Keep, "pinned"),
            // The record of a failed run is kept as long as the complete snapshots around it.
            Snapshot { complete: false, .. } if left > 0 => (Verdict::Keep, "incomplete, not older than what is kept"),
            Snapshot { complete: false, .. } => (Verdict::Forget, "incomplete, older than what is kept"),
            _ => continue,
        };
        left = left.saturating_sub(u32::from(counts));
    }
    decisions
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: i64 = 1_000;

    fn complete(taken: i64) -> Snapshot {
        let id = taken.to_string();
        Snapshot { id, taken, complete: true, bytes: 1, pinned: false, verified: false, adopted: false }
    }

    fn incomplete(taken: i64) -> Snapshot {
        Snapshot { complete: false, ..complete(taken) }
    }

    fn pinned(taken: i64) -> Snapshot {
        Snapshot { pinned: true, ..complete(taken) }
    }

    fn kept(keep: u32, snapshots: &[Snapshot]) -> Vec<i64> {
        let settings = Settings { keep, keep_nothing: keep == 0 };
        let decisions = plan(NOW, "Europe/Paris", &settings, snapshots);
        let kept = snapshots.iter().zip(decisions).filter(|(_, decision)| matches!(decision, (Verdict::Keep, _)));
        kept.map(|(snapshot, _)| snapshot.taken).collect()
    }

    #[test]
    fn each_case_keeps_the_expected_snapshots() {
        let skewed = NOW + 1;
        for (case, keep, snapshots, expected) in [
            ("an empty list", 3, vec![], vec![]),
            ("fewer than N", 3, vec![complete(1), complete(2)], vec![1, 2]),
            ("exactly N", 2, vec![complete(1), complete(2)], vec![1, 2]),
            ("more than N", 2, vec![complete(1), complete(2), complete(3)], vec![2, 3]),
            ("newest first", 2, vec![complete(3), complete(2), complete(1)], vec![3, 2]),
            ("incomplete ones are not counted", 1, vec![complete(1), incomplete(2)], vec![1, 2]),
            ("an incomplete one older than the oldest kept", 1, vec![incomplete(1), complete(2)], vec![2]),
            ("incomplete ones alone", 1, vec![incomplete(1), incomplete(2)], vec![1, 2]),
            ("a pinned one beyond N", 1, vec![pinned(1), complete(2), complete(3)], vec![1, 3]),
            ("a pinned one counts among N", 2, vec![complete(1), pinned(2), complete(3)], vec![2, 3]),
            (
                "the future is kept and not counted",
                1,
                vec![complete(1), complete(NOW), complete(skewed)],
                vec![NOW, skewed],
            ),
            ("keep = 0", 0, vec![pinned(1), complete(2), incomplete(3), complete(skewed)], vec![1, skewed]),
        ] {
            assert_eq!(kept(keep, &snapshots), expected, "{case}");
        }
    }

    #[test]
    fn of_two_snapshots_in_the_same_second_the_later_in_the_list_is_newer() {
        let decisions =
            plan(NOW, "Europe/Paris", &Settings { keep: 1, keep_nothing: false }, &[complete(5), complete(5)]);
        assert!(matches!(decisions[..], [(Verdict::Forget, _), (Verdict::Keep, _)]), "{decisions:?}");
    }

    proptest! {
        #[test]
        fn the_last_n_complete_snapshots_and_every_pinned_one_are_kept(
            keep in 1..5_u32,
            snapshots in prop::collection::vec(
                (0..NOW + 9, any::<bool>(), any::<bool>())
                    .prop_map(|(taken, is_complete, pinned)| Snapshot { complete: is_complete, pinned, ..complete(taken) }),
                0..30,
            ),
        ) {
            let decisions = plan(NOW, "Europe/Paris", &Settings { keep, keep_nothing: false }, &snapshots);
            prop_assert_eq!(decisions.len(), snapshots.len());
            for (snapshot, decision) in snapshots.iter().zip(decisions) {
                let newer = snapshots.iter().filter(|other| {
                    other.complete && other.taken <= NOW && other.taken >= snapshot.taken
                });
                let owed = snapshot.complete && snapshot.taken <= NOW && newer.count() <= keep as usize;
                if owed || snapshot.pinned || snapshot.taken > NOW {
                    prop_assert!(matches!(decision, (Verdict::Keep, _)), "{:?} {:?}", snapshot, decision);
                }
            }
        }
    }
}
