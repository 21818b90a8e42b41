//! Withdraws an answer: what was accepted is doubted again, and so is what was whole only because of the answer.

use super::{Answer, QuestionKind, count_and_ids, question_name};
use crate::clock::is_ahead;
use crate::environment::{AcceptedState, EnvironmentFile, RivalClocks};
use crate::guard::Serves;
use crate::history::{History, Snapshot, State};
use crate::judgement::{collapsed, still_missing};
use crate::record::Condition;
use base::id::SnapshotId;
use jiff::Timestamp;
use std::collections::BTreeSet;

/// Withdraws what was accepted for the snapshots that an answer names. Returns what changes, one sentence each.
pub fn withdraw(history: &History, answer: &Answer, next: &mut EnvironmentFile, now: Timestamp) -> Vec<String> {
    let mut changes = Vec::new();
    let accepted = next.accepted.iter().filter(|state| answer.withdraw.contains(&state.snapshot));
    let sources: BTreeSet<String> = accepted.map(|state| state.source.clone()).collect();
    let is_covered = |source: &&String| answer.covers(&question_name(QuestionKind::Suspect.name(), Some(source)));
    for source in sources.iter().filter(is_covered) {
        let mut all = BTreeSet::new();
        // One answer at a time, oldest first.
        while let Some(id) = answer.withdraw.iter().copied().find(|id| next.has_accepted(*id, source)) {
            let withdrawn = states_of_answer(history, answer, id, source, next);
            for snapshot in withdrawn.iter().copied().chain([id]) {
                let state = AcceptedState { snapshot, source: source.clone() };
                next.accepted.remove(&state);
                next.suspected.insert(state);
                all.insert(snapshot);
            }
        }
        let all: Vec<SnapshotId> = all.into_iter().collect();
        changes.push(format!("{source} is suspect again in {}", count_and_ids(&all)));
    }
    if answer.covers(QuestionKind::Clock.name()) || answer.covers(QuestionKind::Clocks.name()) {
        let times: BTreeSet<SnapshotId> =
            answer.withdraw.iter().flat_map(|id| withdraw_time(history, *id, next, now)).collect();
        let times: Vec<SnapshotId> = times.into_iter().collect();
        if !times.is_empty() {
            changes.push(format!("the answer about the time of {} is withdrawn", count_and_ids(&times)));
        }
    }
    changes
}

/// The states of a source that are whole because of the answer that accepted one of them, oldest first. Also restores
/// the identity of the source from before that answer.
fn states_of_answer(
    history: &History,
    answer: &Answer,
    accepted: SnapshotId,
    source: &str,
    next: &mut EnvironmentFile,
) -> Vec<SnapshotId> {
    let version =
        |snapshot: SnapshotId| answer.accepted_in.get(&AcceptedState { snapshot, source: source.to_owned() }).copied();
    let of_answer = |id: SnapshotId| next.has_accepted(id, source) && version(id) == version(accepted);
    let first = first_of_answer(history, accepted, source, of_answer);
    let before = history.snapshots.iter().rev().filter(|other| other.id < first);
    // A state that is withdrawn at the same time does not count as good either.
    let mut before = before.filter(|other| {
        other.record.is_some() && other.serves(source) == Serves::First && !next.is_suspected(other.id, source)
    });
    let before = before.find_map(|other| other.sources.get(source));
    let mut all = states_that_rest_on(history, first, source, before);
    // States that another answer accepted are not withdrawn.
    let of_another = all.iter().position(|id| next.has_accepted(*id, source) && !of_answer(*id));
    all.truncate(of_another.unwrap_or(all.len()));
    if let (Some(known), Some(identity)) =
        (next.sources.get_mut(source), before.and_then(|state| state.identity.clone()))
    {
        known.identity = Some(identity);
    }
    all
}

/// The first state that the same answer accepted: one answer accepts several nights in a row.
fn first_of_answer(
    history: &History,
    accepted: SnapshotId,
    source: &str,
    of_answer: impl Fn(SnapshotId) -> bool,
) -> SnapshotId {
    let earlier = history.snapshots.iter().rev().filter(|snapshot| snapshot.id < accepted && snapshot.record.is_some());
    let read = earlier.filter_map(|snapshot| Some((snapshot.id, snapshot.sources.get(source)?)));
    let read = read.filter(|(_, state)| state.object.is_some() && state.condition != Condition::Partial);
    read.map(|(id, _)| id).take_while(|id| of_answer(*id)).last().unwrap_or(accepted)
}

/// The states from an accepted one onwards in which the source is not back, including the accepted one.
fn states_that_rest_on(
    history: &History,
    accepted: SnapshotId,
    source: &str,
    before: Option<&State>,
) -> Vec<SnapshotId> {
    let Some(mistaken) = history.snapshot(accepted).and_then(|snapshot| snapshot.sources.get(source)) else {
        return Vec::new();
    };
    let is_back = |state: &State| match before {
        Some(before) => {
            let another = before.identity.is_some() && state.identity != before.identity;
            let (expected, found) = (before.measure, state.measure);
            let is_less = collapsed(expected, found).or_else(|| still_missing(expected, found));
            !another && is_less.is_none()
        }
        // The state before is forgotten. The source is back if the mistaken state is a collapse compared with it.
        None => collapsed(state.measure, mistaken.measure).is_some(),
    };
    let later = history.snapshots.iter().filter(|snapshot| snapshot.id >= accepted && snapshot.record.is_some());
    let named = later.filter_map(|snapshot: &Snapshot| Some((snapshot.id, snapshot.sources.get(source)?)));
    let read = named.filter(|(_, state)| matches!(state.condition, Condition::Whole | Condition::Suspect));
    read.take_while(|(id, state)| *id == accepted || !is_back(state)).map(|(id, _)| id).collect()
}

/// Withdraws the answer about the time of a snapshot; for a pair of clocks, the answer about both. Returns the
/// snapshots concerned.
fn withdraw_time(
    history: &History,
    id: SnapshotId,
    next: &mut EnvironmentFile,
    now: Timestamp,
) -> BTreeSet<SnapshotId> {
    let doubts_itself = |id: SnapshotId| {
        let record = history.snapshot(id).and_then(|snapshot| snapshot.record.as_ref());
        record.is_none_or(|record| record.clock_doubt.is_some())
    };
    let rivals: Vec<RivalClocks> =
        next.undecided.iter().chain(&next.decided).filter(|rivals| rivals.has(id)).cloned().collect();
    if !rivals.is_empty() {
        next.undecided.retain(|rivals| !rivals.has(id));
        next.decided.retain(|rivals| !rivals.has(id));
        let ahead: BTreeSet<SnapshotId> = rivals.iter().flat_map(|rivals| &rivals.ahead).copied().collect();
        let mut both: BTreeSet<SnapshotId> =
            rivals.iter().flat_map(|rivals| &rivals.since).chain(&ahead).copied().collect();
        // Other answers about some of them remain.
        both.retain(|other| *other == id || !next.is_of_rivals(*other));
        next.trusted_times.retain(|id| !both.contains(id));
        next.doubted_times.retain(|id| !both.contains(id));
        // These are asked about again as two clocks. A snapshot whose own record doubts its time is asked about for
        // that reason.
        next.retired_ahead.retain(|id| !both.contains(id));
        next.retired_ahead.extend(ahead.into_iter().filter(|id| both.contains(id) && !doubts_itself(*id)));
        return both;
    }
    let was_judged = next.trusted_times.remove(&id) | next.doubted_times.remove(&id);
    // After its time has come, this entry is what makes it a question, so it stays.
    let was_ahead = (is_ahead(id, now) || doubts_itself(id)) && next.retired_ahead.remove(&id);
    (was_judged || was_ahead).then_some(id).into_iter().collect()
}
