//! Two clocks of which one was wrong: snapshots that were from the future, and whose time has arrived since.
//!
//! While a clock is wrong, nobody can tell which of the two it is. Later, the store can partly tell. A clock that jumps
//! ahead leaves a hole as long as the jump, and its runs fill the time until the right clock continues. If both hold,
//! and runs continued until the time of these snapshots arrived, their clock was ahead. If there is no such hole, the
//! other clock fell back. If it can be either, because an office may have closed, both sides stay in doubt until a
//! person decides which time is right. Retention never depends on this: the guard keeps the last state of each clock.

use super::answer::record_time_verdicts;
use super::{count_and_ids, is_or_are};
use crate::clock::{GAP_MAX, is_ahead};
use crate::environment::{EnvironmentFile, RivalClocks};
use crate::history::{History, Snapshot, found_ahead_by};
use crate::record::ClockDoubt;
use base::id::SnapshotId;
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// The number of gaps between runs from which the usual gap is computed.
const GAPS_MAX: usize = 30;

/// A gap is a hole if it is more than a quarter longer than the usual gap. A clock that fell back by less moves
/// snapshots to another day only around midnight.
const HOLE_QUARTERS: i32 = 5;

/// Runs before the snapshots that were ahead that must be known before the absence of a hole means anything: those of a
/// week.
const KNOWN_MIN: usize = 7;

/// How many runs before a snapshot are searched for a doubted one under the same clock: two months of nightly runs.
const DRIFT_MAX: usize = 62;

/// Snapshots from the future whose time has arrived, and what later runs reveal about their clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrived {
    /// The snapshots, oldest first.
    pub ids: Vec<SnapshotId>,
    /// Whether a person answered for all of them while they were from the future.
    pub was_answered: bool,
    /// Snapshots that were recorded after these were found to be from the future, with times before the last of them.
    pub since: Vec<SnapshotId>,
    /// What the runs reveal.
    pub verdict: Verdict,
}

/// Which of two clocks was wrong, as far as the runs under both reveal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The clock of the snapshots that were ahead: runs continued until their time arrived, and they exactly fill a
    /// hole.
    Ahead,
    /// The other clock: there is no hole that a clock can have jumped over.
    Since,
    /// Unknown.
    Open,
}

impl Arrived {
    /// Whether a snapshot belongs to either side.
    pub fn has(&self, id: SnapshotId) -> bool {
        self.ids.contains(&id) || self.since.contains(&id)
    }

    /// A sentence that starts in lower case.
    pub fn describe(&self) -> String {
        let by =
            if self.was_answered { "`accept` took to be from the future" } else { "was in the future of later runs" };
        let came = format!("the time of {} has come, which {by}", count_and_ids(&self.ids));
        let other = match self.since.as_slice() {
            [] => "the clock of that answer".to_owned(),
            since => format!("the clock of {}", count_and_ids(since)),
        };
        match self.verdict {
            Verdict::Ahead => {
                return format!("{came}: runs continued until then, so their clock was ahead");
            }
            Verdict::Since => {
                return format!("{came}: no time is missing before them, so another clock fell back: {other}");
            }
            Verdict::Open => {}
        }
        format!(
            "{came}: either their clock or {other} was wrong. `accept --right-time ID` names one snapshot of \
             the right clock; plain `accept` keeps both sides and uses them only where no other snapshot is available"
        )
    }

    /// Both sides as a pair.
    pub fn rivals(&self) -> RivalClocks {
        let (ahead, since) = (self.ids.iter().copied().collect(), self.since.iter().copied().collect());
        RivalClocks { ahead, since, by_person: false }
    }
}

/// Pairs of clocks according to records: what runs found in their future, and those runs. There is one pair for each
/// newest snapshot that runs found ahead, whether or not a person answered for it.
fn recorded_pairs(history: &History) -> Vec<RivalClocks> {
    let mut pairs: BTreeMap<SnapshotId, RivalClocks> = BTreeMap::new();
    for run in &history.snapshots {
        let Some(ClockDoubt::Behind { newest }) = run.record.as_ref().and_then(|record| record.clock_doubt) else {
            continue;
        };
        let pair = pairs.entry(SnapshotId::named(newest)).or_default();
        pair.since.insert(run.id);
        let is_there = |id: &SnapshotId| id.stamp() <= newest && history.snapshot(*id).is_some();
        pair.ahead.extend(found_ahead_by(run, history.snapshots.iter()).into_iter().filter(is_there));
    }
    let mut pairs: Vec<RivalClocks> = pairs.into_values().collect();
    // A run under a third clock found the second one ahead, and was itself found ahead.
    pairs.iter_mut().for_each(|pair| pair.since.retain(|id| !pair.ahead.contains(id)));
    pairs
}

/// Whether the clock of one side can have jumped ahead and come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Jump {
    /// There is no hole that it can have jumped over, so the other clock fell back.
    None,
    /// There is a hole, but a night is also missing before the other side, so it may have been a closure.
    Possible,
    /// There is a hole, and its runs exactly fill the time until the other side continues.
    Likely,
}

/// The run that a record names as the previous one, even if that run is forgotten.
fn run_before(history: &History, id: SnapshotId) -> Option<SnapshotId> {
    Some(history.snapshot(id)?.record.as_ref()?.previous.as_ref()?.id)
}

/// Looks for the hole that a clock leaves when it jumps ahead: as long as the jump, before the first run under that
/// clock. Some of its runs may come before all runs of the other side, and therefore belong to neither.
fn find_jump(history: &History, pair: &RivalClocks) -> Jump {
    let (Some(first), Some(last)) = (pair.ahead.first(), pair.ahead.last()) else { return Jump::None };
    let before = |id: SnapshotId| run_before(history, id);
    let of_others = |snapshot: &&Snapshot| snapshot.record.is_some() && !pair.ahead.contains(&snapshot.id);
    let others: Vec<&Snapshot> = history.snapshots.iter().filter(of_others).collect();
    let (Some(_), Some(usual)) = (before(*first), usual_gap(&others, *first)) else {
        // A single run proves nothing about either clock; many runs are not all wrong because of one.
        return if pair.ahead.len() == 1 { Jump::Possible } else { Jump::None };
    };
    let stretch = std::iter::successors(Some(*first), |id| before(*id)).take(GAPS_MAX);
    let holes = stretch.filter_map(|after| Some((before(after)?, after)));
    let kind = |(before_it, after): (SnapshotId, SnapshotId)| {
        // The snapshot before the hole was made under a third clock.
        let Some(resumed) = pair.since.range(before_it..).next() else { return Jump::None };
        let ahead_by = last.taken().duration_since(resumed.taken());
        let hole = after.taken().duration_since(before_it.taken());
        if !is_hole(hole, usual) || hole < ahead_by {
            return Jump::None;
        }
        // By the right clock, its runs belong between the run before the hole and the first run of the other side.
        let room = resumed.taken().duration_since(before_it.taken()) - last.taken().duration_since(after.taken());
        // If forgotten runs came before that first run, there was no hole there.
        let went_on = before(*resumed).is_some_and(|id| id > before_it && history.snapshot(id).is_none());
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

/// Snapshots that were from the future, whose time may be right, and that are a question now.
pub fn arrived(history: &History, now: Timestamp) -> Option<Arrived> {
    let file = &history.environment.as_ref()?.file;
    // If nobody answered while they were from the future, the runs that found them ahead identify them.
    let pairs = recorded_pairs(history).into_iter().filter(|pair| find_jump(history, pair) > Jump::None);
    let met: BTreeSet<SnapshotId> = pairs.flat_map(|pair| pair.ahead).collect();
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
    let arrived: Vec<&Snapshot> = history
        .snapshots
        .iter()
        .filter(|snapshot| !snapshot.retired && !is_ahead(snapshot.id, now))
        .filter(|snapshot| !file.doubted_times.contains(&snapshot.id))
        .filter(was_ahead)
        .collect();
    let ids: Vec<SnapshotId> = arrived.iter().map(|snapshot| snapshot.id).collect();
    let (first, last) = (*ids.first()?, *ids.last()?);
    let id_set: BTreeSet<SnapshotId> = ids.iter().copied().collect();
    let file_version = |snapshot: &Snapshot| snapshot.record.as_ref().and_then(|record| record.environment_file);
    let newest_version = arrived.iter().filter_map(|snapshot| file_version(snapshot)).max();
    // Each answer is a version of the environment's file, and versions increase whatever the clock shows.
    let is_later = |snapshot: &&&Snapshot| {
        let doubt = snapshot.record.as_ref().and_then(|record| record.clock_doubt);
        let met = matches!(doubt, Some(ClockDoubt::Behind { newest }) if id_set.contains(&SnapshotId::named(newest)));
        met || file_version(snapshot) > newest_version
    };
    let others: Vec<&Snapshot> = history
        .snapshots
        .iter()
        .filter(|snapshot| snapshot.record.is_some() && !snapshot.retired && !id_set.contains(&snapshot.id))
        .filter(|snapshot| !is_ahead(snapshot.id, now))
        .collect();
    let since: Vec<SnapshotId> =
        others.iter().filter(|snapshot| snapshot.id <= last).filter(is_later).map(|snapshot| snapshot.id).collect();
    let before = others.iter().map(|snapshot| snapshot.id).filter(|id| *id <= last).max();
    let after = others.iter().map(|snapshot| snapshot.id.taken()).filter(|taken| *taken > last.taken()).min();
    let hole = before.map(|before| after.unwrap_or(now).duration_since(before.taken()));
    let went_on = hole.zip(usual_gap(&others, first)).is_some_and(|(hole, usual)| !is_hole(hole, usual));
    let was_answered = ids.iter().all(|id| file.retired_ahead.contains(id));
    let arrived = Arrived { verdict: Verdict::Open, ids, was_answered, since };
    let verdict = match find_jump(history, &arrived.rivals()) {
        Jump::Likely if went_on && !arrived.since.is_empty() => Verdict::Ahead,
        Jump::None if is_known(history, first, arrived.since.last()) => Verdict::Since,
        Jump::None | Jump::Possible | Jump::Likely => Verdict::Open,
    };
    Some(Arrived { verdict, ..arrived })
}

/// Whether enough is known of the time before the snapshots that were ahead for a hole to show: the runs of a week, or
/// that the whole other side is much older.
fn is_known(history: &History, first: SnapshotId, last_since: Option<&SnapshotId>) -> bool {
    let known =
        std::iter::successors(Some(first), |id| run_before(history, *id)).take(KNOWN_MIN + 1).count() > KNOWN_MIN;
    last_since.is_some_and(|last| known || first.taken().duration_since(last.taken()) > GAP_MAX)
}

/// The doubted run under a clock that fell back which a snapshot follows without a hole. The snapshot may have been
/// made under the same clock, although nothing was ahead of it any more.
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

/// The usual time between runs before a snapshot.
fn usual_gap(runs: &[&Snapshot], before: SnapshotId) -> Option<SignedDuration> {
    let mut times: Vec<Timestamp> =
        runs.iter().map(|snapshot| snapshot.id).filter(|id| *id < before).map(SnapshotId::taken).collect();
    times.sort_unstable();
    let newest = times.iter().rev().zip(times.iter().rev().skip(1)).take(GAPS_MAX);
    let mut gaps: Vec<SignedDuration> = newest.map(|(later, earlier)| later.duration_since(*earlier)).collect();
    gaps.sort_unstable();
    gaps.get(gaps.len() / 2).copied()
}

/// Answers for arrived snapshots as far as later runs allow: records which clock was wrong, or that it is unknown.
/// Returns what changes.
pub fn settle(history: &History, next: &mut EnvironmentFile, now: Timestamp) -> Vec<String> {
    let Some(arrived) = arrived(history, now) else { return Vec::new() };
    if arrived.verdict == Verdict::Open {
        next.undecided.push(arrived.rivals());
        return record_time_verdicts(&[], &[arrived.ids, arrived.since].concat(), next);
    }
    let is_doubted = |id: &SnapshotId| {
        let Some(snapshot) = history.snapshot(*id) else { return false };
        let doubt = snapshot.record.as_ref().and_then(|record| record.clock_doubt);
        if snapshot.clock.met_ahead && arrived.verdict == Verdict::Ahead {
            // A third clock: an earlier run found this snapshot ahead, so its time may be wrong too.
            return false;
        }
        if next.doubted_times.contains(id) {
            // If an answer about other clocks called it wrong, it is wrong.
            return !next.is_of_rivals(*id);
        }
        doubt.is_some() && !next.trusted_times.contains(id)
    };
    let (right, wrong) = match arrived.verdict {
        Verdict::Since => (arrived.ids.clone(), &arrived.since),
        Verdict::Ahead | Verdict::Open => (arrived.since.iter().copied().filter(is_doubted).collect(), &arrived.ids),
    };
    // Only the absence of a hole suggests that a clock fell back, so both sides stay until a person decides.
    let pairs = if arrived.verdict == Verdict::Since { &mut next.undecided } else { &mut next.decided };
    pairs.push(arrived.rivals());
    let changes = record_time_verdicts(&right, wrong, next);
    next.retired_ahead.retain(|id| !right.contains(id));
    changes
}

/// Records the pairs in which doubted runs are the side whose clock fell back, so that the other side does not become a
/// question when fewer of its snapshots are left.
pub fn record_fallen_clocks(history: &History, doubted: &[SnapshotId], next: &mut EnvironmentFile) {
    let fell_back = |pair: &RivalClocks| {
        let has_doubted = pair.since.iter().any(|id| doubted.contains(id));
        has_doubted && find_jump(history, pair) == Jump::None && !pair.ahead.is_empty()
    };
    let pairs = recorded_pairs(history).into_iter().filter(fell_back);
    let new: Vec<RivalClocks> = pairs.filter(|pair| !pair.ahead.iter().any(|id| next.is_of_rivals(*id))).collect();
    next.decided.extend(new);
}

/// Records a person's decision that the time of a snapshot is right, and with it the times of all snapshots under the
/// same clock. Returns what changes; nothing if the time is not in doubt.
pub fn confirm_time(history: &History, id: SnapshotId, next: &mut EnvironmentFile, now: Timestamp) -> Vec<String> {
    let arrived = arrived(history, now).map(|arrived| arrived.rivals()).filter(|rivals| rivals.has(id));
    let known = next.undecided.iter().chain(&next.decided).filter(|rivals| rivals.has(id)).cloned();
    // A clock that jumped twice makes two pairs, and runs in between are in both.
    let mut pairs: Vec<RivalClocks> = known.collect();
    let mut is_open = next.is_undecided(id) || next.decided.iter().any(|rivals| rivals.has(id) && !rivals.by_person);
    for new in arrived.into_iter().chain(recorded_pairs(history).into_iter().filter(|pair| pair.has(id))) {
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
    // If an answer about other clocks called a snapshot wrong, it is wrong on either side of these.
    let is_wrong_elsewhere = |other: &SnapshotId| {
        let is_other = |pair: &RivalClocks| pair.has(*other) && !pair.has(id);
        next.doubted_times.contains(other) && next.decided.iter().any(is_other)
    };
    right.retain(|other| *other == id || !is_wrong_elsewhere(other));
    wrong.retain(|id| !right.contains(id));
    if !is_open && !right.iter().any(is_doubted) && wrong.iter().all(is_doubted) {
        return Vec::new();
    }
    next.undecided.retain(|rivals| !rivals.has(id));
    next.decided.retain(|rivals| !rivals.has(id));
    // A mistake is corrected on both sides together.
    next.decided.extend(pairs.into_iter().map(|pair| RivalClocks { by_person: true, ..pair }));
    next.retired_ahead.retain(|id| !right.contains(id));
    next.doubted_times.retain(|id| !right.contains(id));
    next.trusted_times.retain(|id| !wrong.contains(id));
    let right_ids: Vec<SnapshotId> = right.iter().copied().collect();
    let wrong_ids: Vec<SnapshotId> = wrong.iter().copied().collect();
    let mut changes = vec![format!("the time of {} is right", count_and_ids(&right_ids))];
    if !wrong.is_empty() {
        changes.push(format!(
            "{} {} used only where no other snapshot is available, because the time is wrong",
            count_and_ids(&wrong_ids),
            is_or_are(&wrong_ids)
        ));
    }
    // Snapshots from the future are also not used before their time has come.
    next.retired_ahead.extend(wrong.iter().copied().filter(|id| is_ahead(*id, now)));
    next.doubted_times.extend(wrong);
    next.trusted_times.extend(right);
    changes
}
