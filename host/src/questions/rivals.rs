//! Two clocks of which one was wrong: what was from the future when a person said so, and whose time has come since.
//!
//! While a clock is wrong nobody can tell which of two it is. Later the store can, in part: where runs went on without a hole until the
//! time of these snapshots had come, it was theirs that was ahead. Where there is a hole, a clock may have been set right in it, or an
//! office closed: then both sides stay in doubt and both are kept, until somebody says whose time is right.

use super::{is_ahead, named};
use crate::environment::{EnvironmentFile, RivalClocks};
use crate::history::{History, Snapshot};
use crate::snapshot::{ClockDoubt, SnapshotId};
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// Gaps between runs that say how often there is one.
const GAPS_MAX: usize = 30;

/// A gap that is longer than the usual one by a quarter is a hole: a clock that fell by less than that moves nothing to another day but
/// around midnight.
const HOLE_QUARTERS: i32 = 5;

/// Snapshots whose time has come, and what the runs since then say of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Come {
    /// They, oldest first.
    pub ids: Vec<SnapshotId>,
    /// Whether somebody said of all of them, while that was so, that they were from the future.
    pub was_answered: bool,
    /// What was recorded since somebody took them to be from the future, and stands before the last of them.
    pub since: Vec<SnapshotId>,
    /// Whether runs went on until their time had come, so that theirs was wrong.
    pub are_wrong: bool,
}

impl Come {
    /// One sentence that begins in lower case.
    pub fn describe(&self) -> String {
        let by =
            if self.was_answered { "`accept` took to be from the future" } else { "was in the future of later runs" };
        let came = format!("the time of {} has come, which {by}", named(&self.ids));
        if self.are_wrong {
            return format!("{came}: runs went on until then, so it was their clock that was ahead");
        }
        let other = match self.since.as_slice() {
            [] => "that of this answer".to_owned(),
            since => format!("that of {}", named(since)),
        };
        format!(
            "{came}: either their clock was wrong, or {other}. `accept --right-time ID` names one snapshot of the right clock; plain `accept` keeps both sides, and they answer only where no other one does"
        )
    }

    /// Both sides.
    pub fn rivals(&self) -> RivalClocks {
        let (ahead, since) = (self.ids.iter().copied().collect(), self.since.iter().copied().collect());
        RivalClocks { ahead, since, by_person: false }
    }
}

/// What runs met in their future by their own records, and those runs: a pair for each of the newest that they met. Whether anybody answered
/// for it makes no difference. Where what they met follows without a hole on what was before, no clock jumped ahead: it was theirs that fell
/// back.
fn met(history: &History) -> Vec<RivalClocks> {
    let record =
        |snapshot: &Snapshot| snapshot.record.as_ref().map(|record| (record.clock_doubt, record.environment_file));
    let mut runs: BTreeMap<SnapshotId, Vec<&Snapshot>> = BTreeMap::new();
    for run in &history.snapshots {
        if let Some((Some(ClockDoubt::Behind { newest }), _)) = record(run) {
            runs.entry(newest).or_default().push(run);
        }
    }
    let pair = |(newest, runs): (SnapshotId, Vec<&Snapshot>)| {
        // What was recorded after them went by a later version of the environment's file, or met the same.
        let is_met = |other: &&Snapshot| {
            let Some((doubt, version)) = record(other) else { return false };
            let before = |run: &&Snapshot| run.id < other.id && version <= record(run).and_then(|(_, version)| version);
            other.id <= newest && !matches!(doubt, Some(ClockDoubt::Behind { .. })) && runs.iter().any(before)
        };
        let ahead = history.snapshots.iter().filter(is_met).map(|snapshot| snapshot.id).collect();
        RivalClocks { ahead, since: runs.iter().map(|run| run.id).collect(), by_person: false }
    };
    let jumped = |pair: &RivalClocks| {
        let Some(first) = pair.ahead.first().copied() else { return false };
        let others: Vec<&Snapshot> =
            history.snapshots.iter().filter(|snapshot| snapshot.record.is_some() && !pair.has(snapshot.id)).collect();
        let before = others.iter().map(|snapshot| snapshot.id).filter(|id| *id < first).max();
        let hole = before.map(|before| first.taken().duration_since(before.taken()));
        hole.zip(usual_gap(&others, first)).is_none_or(|(hole, usual)| is_hole(hole, usual))
    };
    runs.into_iter().map(pair).filter(jumped).collect()
}

/// What was from the future, may be right, and is asked about now.
pub fn come(history: &History, now: Timestamp) -> Option<Come> {
    let file = &history.environment.as_ref()?.file;
    let doubts_itself = |snapshot: &Snapshot| {
        let doubt = snapshot.record.as_ref().map(|record| record.clock_doubt.is_some());
        doubt.unwrap_or(true) && !file.trusted_times.contains(&snapshot.id)
    };
    // Nobody answered while they were from the future: then the runs that met them say so.
    let met: BTreeSet<SnapshotId> = met(history).into_iter().flat_map(|pair| pair.ahead).collect();
    let is_judged = |id: SnapshotId| file.trusted_times.contains(&id) || file.is_of_rivals(id);
    let was_ahead = |snapshot: &&Snapshot| {
        if file.retired_ahead.contains(&snapshot.id) {
            !doubts_itself(snapshot)
        } else {
            met.contains(&snapshot.id) && !is_judged(snapshot.id)
        }
    };
    let come: Vec<&Snapshot> = history
        .snapshots
        .iter()
        .filter(|snapshot| !snapshot.retired && !is_ahead(snapshot.id, now))
        .filter(|snapshot| !file.doubted_times.contains(&snapshot.id))
        .filter(was_ahead)
        .collect();
    let ids: Vec<SnapshotId> = come.iter().map(|snapshot| snapshot.id).collect();
    let (first, last) = (*ids.first()?, *ids.last()?);
    let of_them: BTreeSet<SnapshotId> = ids.iter().copied().collect();
    let went_by = |snapshot: &Snapshot| snapshot.record.as_ref().and_then(|record| record.environment_file);
    let newest_version = come.iter().filter_map(|snapshot| went_by(snapshot)).max();
    // Each answer is a version of the environment's file, and versions go up whatever the clock says.
    let is_later = |snapshot: &&&Snapshot| {
        let doubt = snapshot.record.as_ref().and_then(|record| record.clock_doubt);
        let met = matches!(doubt, Some(ClockDoubt::Behind { newest }) if of_them.contains(&newest));
        met || went_by(snapshot) > newest_version
    };
    let others: Vec<&Snapshot> = history
        .snapshots
        .iter()
        .filter(|snapshot| snapshot.record.is_some() && !snapshot.retired && !of_them.contains(&snapshot.id))
        .filter(|snapshot| !is_ahead(snapshot.id, now))
        .collect();
    let since: Vec<SnapshotId> =
        others.iter().filter(|snapshot| snapshot.id <= last).filter(is_later).map(|snapshot| snapshot.id).collect();
    let before = others.iter().map(|snapshot| snapshot.id).filter(|id| *id <= last).max();
    let after = others.iter().map(|snapshot| snapshot.id.taken()).filter(|taken| *taken > last.taken()).min();
    let hole = before.map(|before| after.unwrap_or(now).duration_since(before.taken()));
    let went_on = hole.zip(usual_gap(&others, first)).is_some_and(|(hole, usual)| !is_hole(hole, usual));
    let was_answered = ids.iter().all(|id| file.retired_ahead.contains(id));
    Some(Come { are_wrong: went_on && !since.is_empty(), ids, was_answered, since })
}

fn is_hole(gap: SignedDuration, usual: SignedDuration) -> bool {
    gap * 4 > usual * HOLE_QUARTERS
}

/// How long it usually takes from one run to the next, before a moment.
fn usual_gap(runs: &[&Snapshot], before: SnapshotId) -> Option<SignedDuration> {
    let mut times: Vec<Timestamp> =
        runs.iter().map(|snapshot| snapshot.id).filter(|id| *id < before).map(SnapshotId::taken).collect();
    times.sort_unstable();
    let newest = times.iter().rev().zip(times.iter().rev().skip(1)).take(GAPS_MAX);
    let mut gaps: Vec<SignedDuration> = newest.map(|(later, earlier)| later.duration_since(*earlier)).collect();
    gaps.sort_unstable();
    gaps.get(gaps.len() / 2).copied()
}

/// Takes the word of a person that the time of a snapshot is right, and so that of all that were made under the same clock. Gives back what
/// changes; nothing where nobody doubts it.
pub fn decide(history: &History, id: SnapshotId, next: &mut EnvironmentFile, now: Timestamp) -> Vec<String> {
    let come = come(history, now).map(|come| come.rivals()).filter(|rivals| rivals.has(id));
    let known = next.undecided.iter().chain(&next.decided).filter(|rivals| rivals.has(id)).cloned();
    // A clock that jumped twice makes two pairs, and whatever ran in between is in both.
    let mut pairs: Vec<RivalClocks> = known.collect();
    let mut is_open = next.is_undecided(id);
    for new in come.into_iter().chain(met(history).into_iter().filter(|pair| pair.has(id))) {
        if !pairs.iter().any(|pair| new.ahead.is_subset(&pair.ahead) && new.since.is_subset(&pair.since)) {
            is_open = true;
            pairs.push(new);
        }
    }
    let is_doubted = |id: &SnapshotId| {
        let own = history.snapshot(*id).and_then(|snapshot| snapshot.record.as_ref()?.clock_doubt);
        next.doubted_times.contains(id) || (own.is_some() && !next.trusted_times.contains(id))
    };
    let (mut right, mut wrong) = (BTreeSet::from([id]), BTreeSet::new());
    for RivalClocks { ahead, since, .. } in &pairs {
        let (own, other) = if ahead.contains(&id) { (ahead, since) } else { (since, ahead) };
        right.extend(own);
        wrong.extend(other);
    }
    // What an answer about other clocks called wrong is wrong, whatever side of these it stands on.
    let elsewhere = |other: &SnapshotId| {
        let is_other = |pair: &RivalClocks| pair.has(*other) && !pair.has(id);
        next.doubted_times.contains(other) && next.decided.iter().any(is_other)
    };
    right.retain(|other| *other == id || !elsewhere(other));
    wrong.retain(|id| !right.contains(id));
    if !is_open && !right.iter().any(is_doubted) && wrong.iter().all(is_doubted) {
        return Vec::new();
    }
    next.undecided.retain(|rivals| !rivals.has(id));
    next.decided.retain(|rivals| !rivals.has(id));
    // A mistake is corrected on both sides at once.
    next.decided.extend(pairs.into_iter().map(|pair| RivalClocks { by_person: true, ..pair }));
    next.retired_ahead.retain(|id| !right.contains(id));
    next.doubted_times.retain(|id| !right.contains(id));
    next.trusted_times.retain(|id| !wrong.contains(id));
    let of = |ids: &BTreeSet<SnapshotId>| named(&ids.iter().copied().collect::<Vec<_>>());
    let mut changes = vec![format!("the time of {} is right", of(&right))];
    if !wrong.is_empty() {
        changes.push(format!("{} answer only where no other one does, because their time is wrong", of(&wrong)));
    }
    // They serve nothing before their time has come, either.
    next.retired_ahead.extend(wrong.iter().copied().filter(|id| is_ahead(*id, now)));
    next.doubted_times.extend(wrong);
    next.trusted_times.extend(right);
    changes
}
