//! Changes to the environment's file that need no question.

use crate::environment::{AcceptedState, EnvironmentFile, KnownSource};
use crate::guard;
use crate::history::History;
use jiff::Timestamp;

/// Adds every source of the newest recorded run to the expected sources, so that a source missing from this
/// configuration becomes a question.
pub fn expect_recorded(file: &mut EnvironmentFile, history: &History, now: Timestamp) {
    let newest = history.previous(now).and_then(|snapshot| snapshot.record.as_ref());
    for (name, source) in newest.into_iter().flat_map(|record| &record.sources) {
        let identity = source.identity.clone();
        let known = KnownSource { kind: source.kind.clone(), identity, since: now };
        file.sources.entry(name.clone()).or_insert(known);
    }
}

/// What a run adopts without a question; `None` if nothing is new. Stronger rules of the configuration are adopted, so
/// that weakening them later becomes a question. The retention is recorded if none was. Lost objects and records that
/// are back are no longer given up, so that losing them again is a new loss. The limit by which earlier versions let
/// adopted snapshots age is converted to a list of snapshots.
pub fn taken_silently(
    file: &EnvironmentFile,
    guard: &guard::GuardConfig,
    retention: &str,
    history: &History,
    now: Timestamp,
) -> Option<EnvironmentFile> {
    let mut next = file.clone();
    let mut reasons = Vec::new();
    if let Some(stronger) = file.guard.strengthened_by(guard) {
        next.guard = stronger;
        reasons.push("the configuration strengthens the guard");
    }
    if file.retention.is_none() {
        next.retention = Some(retention.to_owned());
        reasons.push("the retention is known");
    }
    for snapshot in &history.snapshots {
        if snapshot.record.is_some() {
            next.known_breaks.remove(&snapshot.id);
            next.given_up_records.remove(&snapshot.id);
        }
        if snapshot.damage.is_some() && next.retired_snapshots.remove(&snapshot.id) {
            next.given_up_records.insert(snapshot.id);
        }
        if snapshot.adopted && next.adopted_age_up_to.is_some_and(|up_to| snapshot.id <= up_to) {
            next.adopted_may_age.insert(snapshot.id);
        }
        let back = snapshot.sources.iter().filter(|(_, state)| state.is_restorable());
        for (source, _) in back {
            next.given_up.remove(&AcceptedState { snapshot: snapshot.id, source: source.clone() });
        }
    }
    let is_back = !next.given_up_records.is_superset(&file.given_up_records);
    if is_back || next.given_up != file.given_up || next.known_breaks != file.known_breaks {
        reasons.push("what was lost is back");
    }
    if next.retired_snapshots != file.retired_snapshots {
        reasons.push("records that cannot be read are listed separately");
    }
    // A restore that was recorded under a clock that was ahead would hide every loss until then.
    for at in next.replaced.values_mut() {
        *at = history.not_ahead(*at, now);
    }
    if next.replaced != file.replaced {
        reasons.push("a restore was recorded under a clock that was ahead");
    }
    if next.adopted_age_up_to.take().is_some() {
        reasons.push("adopted snapshots that may age are listed individually");
    }
    next.reason = reasons.join("; ");
    (!reasons.is_empty()).then_some(next)
}
