//! Two clocks of which one was wrong: what was from the future when a person said so, and whose time has come since.
//!
//! While a clock is wrong nobody can tell which of two it is. Later the store can, in part. A clock that jumps ahead leaves a hole as long as
//! the jump, and its runs fill the time until the right clock goes on: where both are so, and runs went on until the time of these
//! snapshots had come, it was theirs that was ahead. Where there is no such hole, the other one fell back. Where it may be either, because an
//! office may have closed, both sides stay in doubt until somebody says whose time is right. What is kept never follows from this:
//! the guard keeps the last state of each clock.

use super::answer::times;
use super::named;
use crate::clock::{GAP_MAX, is_ahead};
use crate::environment::{EnvironmentFile, RivalClocks};
use crate::history::{History, Snapshot, met_by};
use crate::record::ClockDoubt;
use base::id::SnapshotId;
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// Gaps between runs that say how often there is one.
const GAPS_MAX: usize = 30;

/// A gap that is longer than the usual one by a quarter is a hole: a clock that fell by less than that moves nothing to another day but
/// around midnight.
const HOLE_QUARTERS: i32 = 5;

/// Runs before what was ahead that have to be known until a hole that is not there says something: a week's.
const KNOWN_MIN: usize = 7;

/// Runs that may follow a doubted one under the same clock until nobody looks any more: two months of nights.
const DRIFT_MAX: usize = 62;

/// Snapshots whose time has come, and what the runs since then say of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Come {
    /// They, oldest first.
    pub ids: Vec<SnapshotId>,
    /// Whether somebody said of all of them, while that was so, that they were from the future.
    pub was_answered: bool,
    /// What was recorded since somebody took them to be from the future, and stands before the last of them.
    pub since: Vec<SnapshotId>,
    /// What the runs say.
    pub verdict: Verdict,
}

/// Which of two clocks was wrong, as far as the runs under both say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// That of what was ahead: runs went on until its time had come, and it just fills a hole.
    Ahead,
    /// The other one: there is no hole that a clock can have jumped over.
    Since,
    /// Nobody knows.
    Open,
}

impl Come {
    /// One sentence that begins in lower case.
    pub fn describe(&self) -> String {
        let by =
            if self.was_answered { "`accept` took to be from the future" } else { "was in the future of later runs" };
        let came = format!("the time of {} has come, which {by}", named(&self.ids));
        let other = match self.since.as_slice() {
            [] => "that of this answer".to_owned(),
            since => format!("that of {}", named(since)),
        };
        match self.verdict {
            Verdict::Ahead => {
                return format!("{came}: runs went on until then, so it was their clock that was ahead");
            }
            Verdict::Since => {
                return format!(
                    "{came}: no time is missing before them, so it was another clock that fell back, {other}"
                );
            }
            Verdict::Open => {}
        }
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
/// for it makes no difference.
fn met(history: &History) -> Vec<RivalClocks> {
    let mut pairs: BTreeMap<SnapshotId, RivalClocks> = BTreeMap::new();
    for run in &history.snapshots {
        let Some(ClockDoubt::Behind { newest }) = run.record.as_ref().and_then(|record| record.clock_doubt) else {
            continue;
        };
        let pair = pairs.entry(newest).or_default();
        pair.since.insert(run.id);
        let is_there = |id: &SnapshotId| *id <= newest && history.snapshot(*id).is_some();
        pair.ahead.extend(met_by(run, history.snapshots.iter()).into_iter().filter(is_there));
    }
    let mut pairs: Vec<RivalClocks> = pairs.into_values().collect();
    // A third clock met the second one, and was met.
    pairs.iter_mut().for_each(|pair| pair.since.retain(|id| !pair.ahead.contains(id)));
    pairs
}

/// Whether the clock of one side can have jumped ahead and come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Jump {
    /// There is no hole that it can have jumped over: the other one fell back.
    None,
    /// There is one, and a night is missing before the other side all the same: it may have been a closure.
    Possible,
    /// There is one, and its runs just fill the time until the other side goes on.
    Likely,
}

/// The run that a record names as the one before it, also where that one is forgotten.
fn run_before(history: &History, id: SnapshotId) -> Option<SnapshotId> {
    Some(history.snapshot(id)?.record.as_ref()?.previous.as_ref()?.id)
}

/// Looks for the hole that a clock leaves when it jumps ahead: as long as it was ahead, before the first run under it. Some of its runs may
/// lie before all of the other side, and so in neither.
fn jump(history: &History, pair: &RivalClocks) -> Jump {
    let (Some(first), Some(last)) = (pair.ahead.first(), pair.ahead.last()) else { return Jump::None };
    let before = |id: SnapshotId| run_before(history, id);
    let of_others = |snapshot: &&Snapshot| snapshot.record.is_some() && !pair.ahead.contains(&snapshot.id);
    let others: Vec<&Snapshot> = history.snapshots.iter().filter(of_others).collect();
    let (Some(_), Some(usual)) = (before(*first), usual_gap(&others, *first)) else {
        // Of one run nobody can say more than of the other one; many are not all wrong because of one.
        return if pair.ahead.len() == 1 { Jump::Possible } else { Jump::None };
    };
    let stretch = std::iter::successors(Some(*first), |id| before(*id)).take(GAPS_MAX);
    let holes = stretch.filter_map(|after| Some((before(after)?, after)));
    let kind = |(before_it, after): (SnapshotId, SnapshotId)| {
        // What stands before the hole was made under a third clock.
        let Some(on) = pair.since.range(before_it..).next() else { return Jump::None };
        let ahead_by = last.taken().duration_since(on.taken());
        let hole = after.taken().duration_since(before_it.taken());
        if !is_hole(hole, usual) || hole < ahead_by {
            return Jump::None;
        }
        // By the clock that was right, its runs lie between the one before the hole and the first of the other side.
        let room = on.taken().duration_since(before_it.taken()) - last.taken().duration_since(after.taken());
        // Where others came before that one, and are forgotten, there was no hole.
        let went_on = before(*on).is_some_and(|id| id > before_it && history.snapshot(id).is_none());
        if went_on || !room.is_negative() && !is_hole(room, usual * 2) {
            Jump::Likely
        } else if room.is_negative() {
            Jump::None
        } else {
            Jump::Possible
        }
    };
    holes.map(kind).max().unwrap_or(Jump::None)
}

/// What was from the future, may be right, and is asked about now.
pub fn come(history: &History, now: Timestamp) -> Option<Come> {
    let file = &history.environment.as_ref()?.file;
    // Nobody answered while they were from the future: then the runs that met them say so.
    let met = met(history).into_iter().filter(|pair| jump(history, pair) > Jump::None);
    let met: BTreeSet<SnapshotId> = met.flat_map(|pair| pair.ahead).collect();
    let was_ahead = |snapshot: &&Snapshot| {
        let id = snapshot.id;
        if file.trusted_times.contains(&id) {
            return false;
        }
        if file.retired_ahead.contains(&id) {
            snapshot.record.is_some() && !snapshot.disowned
        } else {
            met.contains(&id) && !file.is_of_rivals(id)
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
    let come = Come { verdict: Verdict::Open, ids, was_answered, since };
    let verdict = match jump(history, &come.rivals()) {
        Jump::Likely if went_on && !come.since.is_empty() => Verdict::Ahead,
        Jump::None if is_known(history, first, come.since.last()) => Verdict::Since,
        Jump::None | Jump::Possible | Jump::Likely => Verdict::Open,
    };
    Some(Come { verdict, ..come })
}

/// Whether so much is known of the time before what was ahead that a hole would show: the runs of a week, or that all of the other side is
/// from long before anything else.
fn is_known(history: &History, first: SnapshotId, last_since: Option<&SnapshotId>) -> bool {
    let known =
        std::iter::successors(Some(first), |id| run_before(history, *id)).take(KNOWN_MIN + 1).count() > KNOWN_MIN;
    last_since.is_some_and(|last| known || first.taken().duration_since(last.taken()) > GAP_MAX)
}

/// The run under a clock that fell back, and whose time is doubted, that a snapshot follows without a hole: the clock may have been that one
/// still, although nothing was ahead of it any more.
#[must_use]
pub fn follows_doubted(history: &History, id: SnapshotId) -> Option<SnapshotId> {
    let recorded: Vec<&Snapshot> = history.snapshots.iter().filter(|snapshot| snapshot.record.is_some()).collect();
    let usual = usual_gap(&recorded, id)?;
    let mut after = id;
    for snapshot in recorded.iter().rev().filter(|snapshot| snapshot.id < id).take(DRIFT_MAX) {
        if is_hole(after.taken().duration_since(snapshot.id.taken()), usual) {
            return None;
        }
        if snapshot.clock_doubted && !snapshot.clock.met_ahead {
            return Some(snapshot.id);
        }
        after = snapshot.id;
    }
    None
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

/// Answers for what has come as far as the runs since then do: which clock was wrong, or that nobody knows. Gives back what changes.
pub fn judge(history: &History, next: &mut EnvironmentFile, now: Timestamp) -> Vec<String> {
    let Some(come) = come(history, now) else { return Vec::new() };
    if come.verdict == Verdict::Open {
        next.undecided.push(come.rivals());
        return times(&[], &[come.ids, come.since].concat(), next);
    }
    let is_doubted = |id: &SnapshotId| {
        let Some(snapshot) = history.snapshot(*id) else { return false };
        let doubt = snapshot.record.as_ref().and_then(|record| record.clock_doubt);
        if snapshot.clock.met_ahead && come.verdict == Verdict::Ahead {
            // A third clock: what its run met was wrong, and so may it be.
            return false;
        }
        if next.doubted_times.contains(id) {
            // What an answer about other clocks called wrong is wrong.
            return !next.is_of_rivals(*id);
        }
        doubt.is_some() && !next.trusted_times.contains(id)
    };
    let (right, wrong) = match come.verdict {
        Verdict::Since => (come.ids.clone(), &come.since),
        Verdict::Ahead | Verdict::Open => (come.since.iter().copied().filter(is_doubted).collect(), &come.ids),
    };
    // That a clock fell back, only what is missing says: both sides stay until a person says so.
    let said = if come.verdict == Verdict::Since { &mut next.undecided } else { &mut next.decided };
    said.push(come.rivals());
    let changes = times(&right, wrong, next);
    next.retired_ahead.retain(|id| !right.contains(id));
    changes
}

/// Notes of which pairs some doubted runs are one side, where it was their clock that fell back: what they met is not asked about when less of
/// it is left.
pub fn note(history: &History, doubted: &[SnapshotId], next: &mut EnvironmentFile) {
    let fell = |pair: &RivalClocks| {
        pair.since.iter().any(|id| doubted.contains(id)) && jump(history, pair) == Jump::None && !pair.ahead.is_empty()
    };
    let pairs = met(history).into_iter().filter(fell);
    let new: Vec<RivalClocks> = pairs.filter(|pair| !pair.ahead.iter().any(|id| next.is_of_rivals(*id))).collect();
    next.decided.extend(new);
}

/// Takes the word of a person that the time of a snapshot is right, and so that of all that were made under the same clock. Gives back what
/// changes; nothing where nobody doubts it.
pub fn decide(history: &History, id: SnapshotId, next: &mut EnvironmentFile, now: Timestamp) -> Vec<String> {
    let come = come(history, now).map(|come| come.rivals()).filter(|rivals| rivals.has(id));
    let known = next.undecided.iter().chain(&next.decided).filter(|rivals| rivals.has(id)).cloned();
    // A clock that jumped twice makes two pairs, and whatever ran in between is in both.
    let mut pairs: Vec<RivalClocks> = known.collect();
    let mut is_open = next.is_undecided(id) || next.decided.iter().any(|rivals| rivals.has(id) && !rivals.by_person);
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
