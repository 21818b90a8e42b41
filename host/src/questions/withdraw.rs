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
    let states: Vec<AcceptedState> =
        next.accepted.iter().filter(|state| ids.contains(&state.snapshot)).cloned().collect();
    next.accepted.retain(|state| !states.contains(state));
    for AcceptedState { snapshot, source } in states {
        let before = history.snapshots.iter().rev().filter(|other| other.id < snapshot);
        let mut before = before.filter(|other| other.record.is_some() && other.serves(&source) == Serves::First);
        let before = before.find_map(|other| other.sources.get(&source));
        let later = rest_on_it(history, next, snapshot, &source, before);
        if let (Some(known), Some(identity)) =
            (next.sources.get_mut(&source), before.and_then(|state| state.identity.clone()))
        {
            known.identity = Some(identity);
        }
        let mut all = vec![snapshot];
        all.extend(&later);
        changes.push(format!("{source} is suspect again in {}", named(&all)));
        next.suspected.extend(later.into_iter().map(|snapshot| AcceptedState { snapshot, source: source.clone() }));
    }
    let mut times = BTreeSet::new();
    for known in [&mut next.trusted_times, &mut next.doubted_times, &mut next.retired_ahead] {
        times.extend(known.intersection(ids).copied());
        known.retain(|id| !ids.contains(id));
    }
    if !times.is_empty() {
        let times: Vec<SnapshotId> = times.into_iter().collect();
        changes.push(format!("what was accepted of the time of {} is taken back", named(&times)));
    }
    changes
}

/// The states after an accepted one that are whole because of it: in which the source is not back.
fn rest_on_it(
    history: &History,
    file: &EnvironmentFile,
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
            let is_less = collapsed(before.measure, state.measure).or_else(|| not_back(before.measure, state.measure));
            !another && is_less.is_none()
        }
        // What was there before is forgotten. It is back where the mistaken state is a collapse beside it.
        None => collapsed(state.measure, mistaken.measure).is_some(),
    };
    let later = history.snapshots.iter().filter(|snapshot| snapshot.id > accepted && snapshot.record.is_some());
    let named = later.filter_map(|snapshot: &Snapshot| Some((snapshot.id, snapshot.sources.get(source)?)));
    let read = named.filter(|(_, state)| matches!(state.condition, Condition::Whole | Condition::Suspect));
    read.take_while(|(id, state)| !file.has_accepted(*id, source) && !is_back(state))
        .filter(|(_, state)| state.condition == Condition::Whole)
        .map(|(id, _)| id)
        .collect()
}
