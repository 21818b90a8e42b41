//! Applies a person's answer to the environment's file.

use super::{
    Question, QuestionContext, QuestionKind, count_and_ids, is_or_are, newest_record_with, questions, rivals, withdraw,
};
use crate::clock::is_ahead;
use crate::environment::{AcceptedState, EnvironmentFile, KnownFailure, KnownSource};
use crate::history::{History, Snapshot};
use crate::judgement::collapsed;
use crate::proof::VerificationState;
use crate::record::ClockDoubt;
use base::id::{SnapshotId, Stamp};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// What a person allows in an answer, beyond plain `accept`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// Sources that are no longer saved.
    pub retire: BTreeSet<String>,
    /// Whether lost objects, damaged records and failed verifications are acknowledged.
    pub lost: bool,
    /// Whether adopted snapshots may age.
    pub adopted: bool,
    /// Snapshots at which the chain of records is broken, with the SHA-256 of the record if there is one. The answer
    /// acknowledges these breaks.
    pub breaks: BTreeMap<SnapshotId, Option<String>>,
    /// What the last failed verification of each snapshot found, each as `source: problem`.
    pub failures: BTreeMap<SnapshotId, BTreeSet<String>>,
    /// Snapshots whose accepted answers are withdrawn. If there are any, nothing else is answered.
    pub withdraw: BTreeSet<SnapshotId>,
    /// The version of the environment's file in which each state was accepted, as far as the versions can be read.
    /// States that one answer accepted are withdrawn together.
    pub accepted_in: BTreeMap<AcceptedState, Stamp>,
    /// A snapshot whose time is right, and with it the times of all snapshots that were made under the same clock. If
    /// it is set, nothing else is answered.
    pub right_time: Option<SnapshotId>,
    /// The names of what is answered or withdrawn, as in [`Question::name`]. `None` means everything.
    pub only: Option<BTreeSet<String>>,
}

/// The name of failed verifications in `--only`. They have no question.
pub const DISPROVED: &str = "disproved";

impl Answer {
    /// Whether the answer covers a question.
    fn is_about(&self, question: &Question) -> bool {
        self.withdraw.is_empty() && self.right_time.is_none() && self.covers(&question.name())
    }

    /// Whether the answer or withdrawal covers this name.
    pub(super) fn covers(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(name))
    }

    /// Whether it leaves a question open because that question needs an explicit option.
    pub fn leaves_open(&self, question: &Question) -> bool {
        if !self.is_about(question) {
            return true;
        }
        match question.kind {
            QuestionKind::GoneSource => question.source.as_ref().is_some_and(|source| !self.retire.contains(source)),
            QuestionKind::Lost
            | QuestionKind::DamagedRecord
            | QuestionKind::MissingRecord
            | QuestionKind::ChangedRecord => !self.lost,
            QuestionKind::Uninitialised | QuestionKind::FileDamaged | QuestionKind::NewerFormat => true,
            QuestionKind::NewSource
            | QuestionKind::Suspect
            | QuestionKind::Guard
            | QuestionKind::Retention
            | QuestionKind::TimeZone
            | QuestionKind::Clock
            | QuestionKind::Clocks
            | QuestionKind::Future
            | QuestionKind::OtherFile => false,
        }
    }
}

/// Applies an answer to the environment's file. Returns the new file and what changes, one sentence each.
pub fn answer(
    context: QuestionContext<'_>,
    history: &History,
    file: &EnvironmentFile,
    answer: &Answer,
    now: Timestamp,
) -> (EnvironmentFile, Vec<String>) {
    let now = history.present(now);
    let mut next = file.clone();
    let mut changes = Vec::new();
    for question in questions(context, history, now).into_iter().filter(|question| answer.is_about(question)) {
        match question.kind {
            // `init` answers the first two, and the newer version the third. Sources are retired by name, below.
            QuestionKind::Uninitialised
            | QuestionKind::FileDamaged
            | QuestionKind::NewerFormat
            | QuestionKind::GoneSource => {}
            QuestionKind::NewSource => {
                let Some(name) = question.source else { continue };
                let Some(kind) = context.configured.sources.get(&name) else { continue };
                let identity = history.last_whole(&name, now).and_then(|(_, state)| state.identity.clone());
                let known = KnownSource { kind: kind.name().to_owned(), identity, since: now };
                next.retired_sources.remove(&name);
                next.sources.insert(name.clone(), known);
                changes.push(format!("the source {name} belongs to the environment"));
            }
            QuestionKind::Suspect => {
                let Some(name) = question.source else { continue };
                let newest = newest_record_with(history, &name, now).and_then(|snapshot| snapshot.sources.get(&name));
                if let (Some(known), Some(state)) = (next.sources.get_mut(&name), newest)
                    && state.identity.is_some()
                {
                    known.identity.clone_from(&state.identity);
                }
                // Accepting the newest state does not accept an earlier night on which most of that state was gone,
                // too.
                let held = |id: &SnapshotId| Some(history.snapshot(*id)?.sources.get(&name)?.measure);
                let newest = newest.map(|state| state.measure);
                let is_less = |id: &SnapshotId| {
                    newest.zip(held(id)).is_some_and(|(newest, held)| collapsed(newest, held).is_some())
                };
                let (less, meant): (Vec<_>, Vec<_>) = question.snapshots.iter().copied().partition(is_less);
                let states = meant.iter();
                let states: Vec<_> = states.map(|id| AcceptedState { snapshot: *id, source: name.clone() }).collect();
                next.suspected.retain(|state| !states.contains(state));
                next.accepted.extend(states);
                changes.push(format!("{name} is accepted as it is in {}", count_and_ids(&meant)));
                if !less.is_empty() {
                    changes.push(format!("{name} stays suspect in {}, which held far less", count_and_ids(&less)));
                }
            }
            QuestionKind::Guard => {
                next.take_rules(context.guard, now);
                changes.push("the guard now has the configured rules".to_owned());
            }
            QuestionKind::Retention => {
                next.retention = Some(context.retention.to_owned());
                changes.push(format!("the retention is {}", context.retention));
            }
            QuestionKind::TimeZone => {
                context.time_zone.clone_into(&mut next.time_zone);
                changes.push(format!("the time zone is {}", next.time_zone));
            }
            QuestionKind::Clock => changes.extend(judge_times(context, history, &question.snapshots, &mut next, now)),
            QuestionKind::Clocks => changes.extend(rivals::settle(history, &mut next, now)),
            QuestionKind::Future => {
                next.retired_ahead.extend(&question.snapshots);
                let doubts_itself = |id: &SnapshotId| {
                    history.snapshot(*id).is_none_or(|found| found.disowned || found.damage.is_some())
                };
                let (wrong, unclear): (Vec<_>, Vec<_>) = question.snapshots.iter().copied().partition(doubts_itself);
                if !unclear.is_empty() {
                    let are = is_or_are(&unclear);
                    changes.push(format!("{} {are} not used before their time has come", count_and_ids(&unclear)));
                }
                if !wrong.is_empty() {
                    let are = is_or_are(&wrong);
                    changes.push(format!(
                        "{} {are} retired and will enter the bin: their own records doubt their time",
                        count_and_ids(&wrong)
                    ));
                }
            }
            QuestionKind::Lost if answer.lost => {
                for snapshot in history.snapshots.iter().filter(|s| question.snapshots.contains(&s.id)) {
                    let states =
                        snapshot.lost().map(|source| AcceptedState { snapshot: snapshot.id, source: source.clone() });
                    next.given_up.extend(states);
                }
                changes.push(format!("the lost objects of {} are given up", count_and_ids(&question.snapshots)));
            }
            QuestionKind::DamagedRecord if answer.lost => {
                next.given_up_records.extend(&question.snapshots);
                let are = is_or_are(&question.snapshots);
                changes.push(format!("{} {are} retired: no readable record", count_and_ids(&question.snapshots)));
            }
            QuestionKind::MissingRecord if answer.lost => {
                next.known_breaks.extend(&question.snapshots);
                changes.push(format!("the record of {} is given up", count_and_ids(&question.snapshots)));
            }
            QuestionKind::ChangedRecord if answer.lost => {
                let found = question.snapshots.iter().filter_map(|id| history.snapshot(*id));
                next.known_edits.extend(found.filter_map(|found| Some((found.id, found.record_sha256.clone()?))));
                changes.push(format!("the record of {} is accepted as it is", count_and_ids(&question.snapshots)));
            }
            QuestionKind::OtherFile => {
                changes.push(format!("the environment continues from the version of {}", file.written));
            }
            QuestionKind::Lost
            | QuestionKind::DamagedRecord
            | QuestionKind::MissingRecord
            | QuestionKind::ChangedRecord => {}
        }
    }
    // Breaks with a question of their own are answered above.
    let is_damaged = |id: &SnapshotId| history.snapshot(*id).is_some_and(|snapshot| snapshot.damage.is_some());
    let has_question = |id: &SnapshotId| history.missing.contains(id) || history.changed.contains(id) || is_damaged(id);
    let breaks: Vec<_> = answer.breaks.iter().filter(|(id, _)| !has_question(id) && answer.covers(DISPROVED)).collect();
    if !breaks.is_empty() {
        let ids: Vec<SnapshotId> = breaks.iter().map(|(id, _)| **id).collect();
        changes.push(format!("the break in the chain of records at {} is acknowledged", count_and_ids(&ids)));
    }
    for (id, sha256) in breaks {
        match sha256 {
            Some(sha256) => drop(next.known_edits.insert(*id, sha256.clone())),
            None => drop(next.known_breaks.insert(*id)),
        }
    }
    if answer.lost && answer.covers(DISPROVED) {
        let has_failed = |snapshot: &&Snapshot| snapshot.verification_state == VerificationState::Failed;
        let failed = history.snapshots.iter().filter(has_failed);
        let mut failed: Vec<SnapshotId> = failed.map(|snapshot| snapshot.id).collect();
        failed.retain(|id| !is_known_failure(&next, history, *id, now));
        if !failed.is_empty() {
            changes.push(format!("the failed verification of {} is acknowledged", count_and_ids(&failed)));
        }
        for id in failed {
            let at = last_failure(history, id, now).unwrap_or(Stamp::at(now));
            let known = next.known_failures.entry(id).or_insert(KnownFailure { at, problems: BTreeSet::new() });
            known.at = at;
            known.problems.extend(answer.failures.get(&id).into_iter().flatten().cloned());
        }
    }
    changes.extend(withdraw::withdraw(history, answer, &mut next, now));
    changes.extend(answer.right_time.into_iter().flat_map(|id| rivals::confirm_time(history, id, &mut next, now)));
    for name in &answer.retire {
        if let Some(known) = next.sources.remove(name) {
            next.retired_sources.insert(name.clone(), KnownSource { since: now, ..known });
            changes.push(format!("the source {name} is retired: its snapshots age, and runs no longer save it"));
        }
    }
    if answer.adopted {
        let adopted = history.snapshots.iter().filter(|snapshot| snapshot.adopted).map(|snapshot| snapshot.id);
        let new: Vec<SnapshotId> = adopted.filter(|id| !next.may_age(*id)).collect();
        if !new.is_empty() {
            changes.push(format!("adopted snapshots may age like recorded ones: {}", count_and_ids(&new)));
            next.adopted_may_age.extend(new);
        }
    }
    if changes.is_empty() {
        return (file.clone(), changes);
    }
    next.drop_forgotten(&history.forgotten, now);
    next.reason = format!("accept: {}", changes.join("; "));
    (next, changes)
}

/// The newest failed verification of a snapshot. One from the future, made under a wrong clock, must not cover later
/// failures.
fn last_failure(history: &History, id: SnapshotId, now: Timestamp) -> Option<Stamp> {
    let failed = history.verifications.iter().filter(|mark| mark.snapshot == id && !mark.passed);
    failed.map(|mark| mark.at).filter(|at| !is_ahead(*at, now)).max()
}

/// Whether a person acknowledged the newest failed verification of a snapshot.
pub fn is_known_failure(file: &EnvironmentFile, history: &History, id: SnapshotId, now: Timestamp) -> bool {
    file.known_failures.get(&id).is_some_and(|known| last_failure(history, id, now).is_none_or(|last| last <= known.at))
}

/// Sorts doubted snapshots by what is known now: right or unclear.
fn judge_times(
    context: QuestionContext<'_>,
    history: &History,
    ids: &[SnapshotId],
    next: &mut EnvironmentFile,
    now: Timestamp,
) -> Vec<String> {
    let (mut right, mut unclear) = (Vec::new(), Vec::new());
    let arrived = rivals::arrived(history, now);
    let has_arrived = |id: SnapshotId| arrived.as_ref().is_some_and(|arrived| arrived.has(id));
    for snapshot in history.snapshots.iter().filter(|s| ids.contains(&s.id) && !has_arrived(s.id)) {
        // A run with an earlier time found it in the store, so either clock may be right.
        let is_met = snapshot.clock.met_ahead;
        let Some(doubt) = snapshot.record.as_ref().and_then(|record| record.clock_doubt) else { continue };
        let verdict = match doubt {
            // It is unknown which of the two clocks was wrong.
            ClockDoubt::Skew { seconds } if !is_of_one_day(context, snapshot.id, seconds) => &mut unclear,
            ClockDoubt::Skew { .. } | ClockDoubt::Gap { .. } => &mut right,
            // What was in its future is still in the future, so the other clock was wrong.
            ClockDoubt::Behind { newest } if is_ahead(newest, now) && !is_met => &mut right,
            ClockDoubt::Behind { .. } => &mut unclear,
        };
        verdict.push(snapshot.id);
    }
    rivals::record_fallen_clocks(history, &unclear, next);
    record_time_verdicts(&right, &unclear, next)
}

/// Records that the time of some snapshots is right and that of others may be wrong. Returns what changes.
pub(super) fn record_time_verdicts(
    right: &[SnapshotId],
    unclear: &[SnapshotId],
    next: &mut EnvironmentFile,
) -> Vec<String> {
    let mut changes = Vec::new();
    // A person's decision between two clocks takes precedence.
    let right: Vec<SnapshotId> = right.iter().copied().filter(|id| !next.is_overruled(*id)).collect();
    if !right.is_empty() {
        changes.push(format!("the time of {} is right", count_and_ids(&right)));
        next.doubted_times.retain(|id| !right.contains(id));
        next.trusted_times.extend(right);
    }
    let unclear: Vec<SnapshotId> = unclear.iter().copied().filter(|id| !next.is_upheld(*id)).collect();
    if !unclear.is_empty() {
        let are = is_or_are(&unclear);
        changes.push(format!(
            "{} {are} used only where no other snapshot is available, because the time may be wrong",
            count_and_ids(&unclear)
        ));
        next.trusted_times.retain(|id| !unclear.contains(id));
        next.doubted_times.extend(unclear);
    }
    changes
}

/// Whether a snapshot belongs to its day although its clock was ahead by this much.
fn is_of_one_day(context: QuestionContext<'_>, id: SnapshotId, ahead_seconds: i64) -> bool {
    let Ok(zone) = TimeZone::get(context.time_zone) else { return false };
    let day = |moment: Timestamp| moment.to_zoned_datetime(zone.clone()).date();
    let real = id.taken().checked_sub(SignedDuration::from_secs(ahead_seconds));
    real.is_ok_and(|real| day(real) == day(id.taken()))
}
