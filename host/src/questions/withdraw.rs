//! Taking an answer back: what was accepted is doubted again, and so is what was whole only because of it.

use super::named;
use crate::backup::state::{collapsed, not_back};
use crate::environment::{AcceptedState, EnvironmentFile};
use crate::history::{History, Serves, Snapshot, State};
use crate::snapshot::{Condition, SnapshotId};
use std::collections::BTreeSet;

/// Takes back what was accepted of some snapshots. Gives back what changes, a sentence each.
pub fn withdraw(history: &History, ids: &BTreeSet<SnapshotId>, next: &mut EnvironmentFile) -> Vec<String> {
    let mut changes = Vec::new();
    let named_sources: BTreeSet<String> =
        next.accepted.iter().filter(|state| ids.contains(&state.snapshot)).map(|state| state.source.clone()).collect();
    for source in named_sources {
        let of = |file: &EnvironmentFile, id: SnapshotId| file.has_accepted(id, &source);
        let Some(first) = ids.iter().copied().find(|id| of(next, *id)) else { continue };
        let first = first_of_answer(history, next, first, &source);
        let before = history.snapshots.iter().rev().filter(|other| other.id < first);
        let mut before = before.filter(|other| other.record.is_some() && other.serves(&source) == Serves::First);
        let before = before.find_map(|other| other.sources.get(&source));
        let all = rest_on_it(history, first, &source, before);
        if let (Some(known), Some(identity)) =
            (next.sources.get_mut(&source), before.and_then(|state| state.identity.clone()))
        {
            known.identity = Some(identity);
        }
        changes.push(format!("{source} is suspect again in {}", named(&all)));
        for snapshot in all {
            let state = AcceptedState { snapshot, source: source.clone() };
            next.accepted.remove(&state);
            next.suspected.insert(state);
        }
    }
    let mut times = Vec::new();
    for id in ids {
        let known = [&mut next.trusted_times, &mut next.doubted_times, &mut next.retired_ahead];
        if !known.into_iter().any(|known| known.contains(id)) {
            continue;
        }
        times.push(*id);
        next.trusted_times.remove(id);
        next.doubted_times.remove(id);
        next.undecided.retain(|rivals| !rivals.ahead.contains(id) && !rivals.since.contains(id));
        let record = history.snapshot(*id).and_then(|snapshot| snapshot.record.as_ref());
        // What its own record doubts is asked about by that; the other side of two clocks is asked about as such.
        if record.is_some_and(|record| record.clock_doubt.is_none()) {
            next.retired_ahead.insert(*id);
        } else {
            next.retired_ahead.remove(id);
        }
    }
    if !times.is_empty() {
        changes.push(format!("what was accepted of the time of {} is taken back", named(&times)));
    }
    changes
}

/// The first state of the same answer: several nights in a row are accepted at once.
fn first_of_answer(history: &History, file: &EnvironmentFile, accepted: SnapshotId, source: &str) -> SnapshotId {
    let earlier = history.snapshots.iter().rev().filter(|snapshot| snapshot.id < accepted && snapshot.record.is_some());
    let read = earlier.filter_map(|snapshot| Some((snapshot.id, snapshot.sources.get(source)?)));
    let read = read.filter(|(_, state)| state.object.is_some() && state.condition != Condition::Partial);
    let of_answer = read.take_while(|(id, _)| file.has_accepted(*id, source));
    of_answer.map(|(id, _)| id).last().unwrap_or(accepted)
}

/// The states from an accepted one on in which the source is not back, the accepted one among them.
fn rest_on_it(history: &History, accepted: SnapshotId, source: &str, before: Option<&State>) -> Vec<SnapshotId> {
    let Some(mistaken) = history.snapshot(accepted).and_then(|snapshot| snapshot.sources.get(source)) else {
        return Vec::new();
    };
    let is_back = |state: &State| match before {
        Some(before) => {
            let another = before.identity.is_some() && state.identity != before.identity;
            let is_less = collapsed(before.measure, state.measure).or_else(|| not_back(before.measure, state.measure));
            !another && is_less.is_none()
        }
        // What was there before is forgotten. It is back where the mistaken state is a collapse beside it.
        None => collapsed(state.measure, mistaken.measure).is_some(),
    };
    let later = history.snapshots.iter().filter(|snapshot| snapshot.id >= accepted && snapshot.record.is_some());
    let named = later.filter_map(|snapshot: &Snapshot| Some((snapshot.id, snapshot.sources.get(source)?)));
    let read = named.filter(|(_, state)| matches!(state.condition, Condition::Whole | Condition::Suspect));
    read.take_while(|(id, state)| *id == accepted || !is_back(state)).map(|(id, _)| id).collect()
}
