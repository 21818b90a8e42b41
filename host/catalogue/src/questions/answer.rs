//! Answering: what changes in the environment's file.

use super::{Asked, Kind, Question, named, newest_of, questions, rivals, withdraw};
use crate::clock::is_ahead;
use crate::environment::{AcceptedState, EnvironmentFile, KnownFailure, KnownSource};
use crate::history::History;
use crate::judgement::collapsed;
use crate::proof::Standing;
use crate::record::ClockDoubt;
use base::id::SnapshotId;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// What a person lets happen by an answer, beyond what plain `accept` answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// Sources that are saved no more.
    pub retire: BTreeSet<String>,
    /// Whether lost objects, damaged records and failed verifications are known.
    pub lost: bool,
    /// Whether adopted snapshots may age.
    pub adopted: bool,
    /// Snapshots at which the chain of records is broken, and known to be so from now on, with the SHA-256 of the record where there is one.
    pub breaks: BTreeMap<SnapshotId, Option<String>>,
    /// What the last failed verification found of snapshots, each as `source: problem`.
    pub failures: BTreeMap<SnapshotId, BTreeSet<String>>,
    /// Snapshots of which nothing is accepted any more. Then nothing else is answered.
    pub withdraw: BTreeSet<SnapshotId>,
    /// The version of the environment's file by which each state was accepted, as far as they can be read: what one answer accepted is taken
    /// back together.
    pub accepted_in: BTreeMap<AcceptedState, SnapshotId>,
    /// A snapshot whose time is right, and so that of all that were made under the same clock. Then nothing else is answered.
    pub right_time: Option<SnapshotId>,
    /// The names of what is answered or taken back, as [`Question::name`] has them. `None` stands for everything.
    pub only: Option<BTreeSet<String>>,
}

/// How `--only` names failed verifications, about which nothing waits.
pub const DISPROVED: &str = "disproved";

impl Answer {
    /// Whether a question is among those that are answered.
    fn is_about(&self, question: &Question) -> bool {
        self.withdraw.is_empty() && self.right_time.is_none() && self.covers(&question.name())
    }

    /// Whether what has this name is answered or taken back.
    pub(super) fn covers(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(name))
    }

    /// Whether it leaves a question open, because that takes a word of its own.
    #[must_use]
    pub fn leaves_open(&self, question: &Question) -> bool {
        if !self.is_about(question) {
            return true;
        }
        match question.kind {
            Kind::GoneSource => question.source.as_ref().is_some_and(|source| !self.retire.contains(source)),
            Kind::Lost | Kind::DamagedRecord | Kind::MissingRecord | Kind::ChangedRecord => !self.lost,
            Kind::Uninitialised | Kind::FileDamaged => true,
            Kind::NewSource
            | Kind::Suspect
            | Kind::Guard
            | Kind::Retention
            | Kind::TimeZone
            | Kind::Clock
            | Kind::Clocks
            | Kind::Future
            | Kind::OtherFile => false,
        }
    }
}

/// Writes an answer into the environment's file. Gives back what changes, a sentence each, and what is left open.
#[must_use]
pub fn answer(
    asked: Asked<'_>,
    history: &History,
    file: &EnvironmentFile,
    answer: &Answer,
    now: Timestamp,
) -> (EnvironmentFile, Vec<String>) {
    let now = history.present(now);
    let mut next = file.clone();
    let mut changes = Vec::new();
    for question in questions(asked, history, now).into_iter().filter(|question| answer.is_about(question)) {
        match question.kind {
            // `init` answers the first two; a source is retired by its name, below.
            Kind::Uninitialised | Kind::FileDamaged | Kind::GoneSource => {}
            Kind::NewSource => {
                let Some(name) = question.source else { continue };
                let Some(kind) = asked.configured.sources.get(&name) else { continue };
                let identity = history.last_whole(&name, now).and_then(|(_, state)| state.identity.clone());
                let known = KnownSource { kind: kind.name().to_owned(), identity, since: now };
                next.retired_sources.remove(&name);
                next.sources.insert(name.clone(), known);
                changes.push(format!("the source {name} belongs to the environment"));
            }
            Kind::Suspect => {
                let Some(name) = question.source else { continue };
                let newest = newest_of(history, &name, now).and_then(|snapshot| snapshot.sources.get(&name));
                if let (Some(known), Some(state)) = (next.sources.get_mut(&name), newest)
                    && state.identity.is_some()
                {
                    known.identity.clone_from(&state.identity);
                }
                // Whoever means the newest state says nothing of an earlier night on which most of that was gone, too.
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
                changes.push(format!("{name} is what it is in {}", named(&meant)));
                if !less.is_empty() {
                    changes.push(format!("{name} stays suspect in {}, which held far less than that", named(&less)));
                }
            }
            Kind::Guard => {
                next.take_rules(asked.guard, now);
                changes.push("the guard has the configured rules".to_owned());
            }
            Kind::Retention => {
                next.retention = Some(asked.retention.to_owned());
                changes.push(format!("the retention is {}", asked.retention));
            }
            Kind::TimeZone => {
                asked.time_zone.clone_into(&mut next.time_zone);
                changes.push(format!("the time zone is {}", next.time_zone));
            }
            Kind::Clock => changes.extend(judge_times(asked, history, &question.snapshots, &mut next, now)),
            Kind::Clocks => changes.extend(rivals::judge(history, &mut next, now)),
            Kind::Future => {
                next.retired_ahead.extend(&question.snapshots);
                let doubts_itself = |id: &SnapshotId| {
                    history.snapshot(*id).is_none_or(|found| found.disowned || found.damage.is_some())
                };
                let (wrong, unclear): (Vec<_>, Vec<_>) = question.snapshots.iter().copied().partition(doubts_itself);
                if !unclear.is_empty() {
                    changes.push(format!("{} serve nothing before their time has come", named(&unclear)));
                }
                if !wrong.is_empty() {
                    let said = "go into the bin: their own records doubt their time";
                    changes.push(format!("{} serve nothing and {said}", named(&wrong)));
                }
            }
            Kind::Lost if answer.lost => {
                for snapshot in history.snapshots.iter().filter(|s| question.snapshots.contains(&s.id)) {
                    let states =
                        snapshot.lost().map(|source| AcceptedState { snapshot: snapshot.id, source: source.clone() });
                    next.given_up.extend(states);
                }
                changes.push(format!("what is lost of {} is given up", named(&question.snapshots)));
            }
            Kind::DamagedRecord if answer.lost => {
                next.given_up_records.extend(&question.snapshots);
                changes.push(format!("{} retired: their record cannot be read", named(&question.snapshots)));
            }
            Kind::MissingRecord if answer.lost => {
                next.known_breaks.extend(&question.snapshots);
                changes.push(format!("the record of {} is given up", named(&question.snapshots)));
            }
            Kind::ChangedRecord if answer.lost => {
                let found = question.snapshots.iter().filter_map(|id| history.snapshot(*id));
                next.known_edits.extend(found.filter_map(|found| Some((found.id, found.record_sha256.clone()?))));
                changes.push(format!("the record of {} is taken as it is", named(&question.snapshots)));
            }
            Kind::OtherFile => changes.push(format!("the environment goes on from the version of {}", file.written)),
            Kind::Lost | Kind::DamagedRecord | Kind::MissingRecord | Kind::ChangedRecord => {}
        }
    }
    // What is asked about has its own answer.
    let is_damaged = |id: &SnapshotId| history.snapshot(*id).is_some_and(|snapshot| snapshot.damage.is_some());
    let asked_about = |id: &SnapshotId| history.missing.contains(id) || history.changed.contains(id) || is_damaged(id);
    let breaks: Vec<_> = answer.breaks.iter().filter(|(id, _)| !asked_about(id) && answer.covers(DISPROVED)).collect();
    if !breaks.is_empty() {
        let ids: Vec<SnapshotId> = breaks.iter().map(|(id, _)| **id).collect();
        changes.push(format!("the chain of records is known to be broken at {}", named(&ids)));
    }
    for (id, sha256) in breaks {
        match sha256 {
            Some(sha256) => drop(next.known_edits.insert(*id, sha256.clone())),
            None => drop(next.known_breaks.insert(*id)),
        }
    }
    if answer.lost && answer.covers(DISPROVED) {
        let failed = history.snapshots.iter().filter(|snapshot| snapshot.standing == Standing::Failed);
        let mut failed: Vec<SnapshotId> = failed.map(|snapshot| snapshot.id).collect();
        failed.retain(|id| !is_known_failure(&next, history, *id, now));
        if !failed.is_empty() {
            changes.push(format!("the failed verification of {} is known", named(&failed)));
        }
        for id in failed {
            let at = last_failure(history, id, now).unwrap_or(SnapshotId::at(now));
            let known = next.known_failures.entry(id).or_insert(KnownFailure { at, problems: BTreeSet::new() });
            known.at = at;
            known.problems.extend(answer.failures.get(&id).into_iter().flatten().cloned());
        }
    }
    changes.extend(withdraw::withdraw(history, answer, &mut next, now));
    changes.extend(answer.right_time.into_iter().flat_map(|id| rivals::decide(history, id, &mut next, now)));
    for name in &answer.retire {
        if let Some(known) = next.sources.remove(name) {
            next.retired_sources.insert(name.clone(), KnownSource { since: now, ..known });
            changes.push(format!("the source {name} is retired: its snapshots age, and no run saves it"));
        }
    }
    if answer.adopted {
        let adopted = history.snapshots.iter().filter(|snapshot| snapshot.adopted).map(|snapshot| snapshot.id);
        let new: Vec<SnapshotId> = adopted.filter(|id| !next.may_age(*id)).collect();
        if !new.is_empty() {
            changes.push(format!("adopted snapshots may age like recorded ones: {}", named(&new)));
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

/// The newest verification of a snapshot that failed. One from the future, of a wrong clock, must not stand for those to come.
fn last_failure(history: &History, id: SnapshotId, now: Timestamp) -> Option<SnapshotId> {
    let failed = history.verifications.iter().filter(|mark| mark.snapshot == id && !mark.passed);
    failed.map(|mark| mark.at).filter(|at| !is_ahead(*at, now)).max()
}

/// Whether a person knows of the newest verification of a snapshot that failed.
#[must_use]
pub fn is_known_failure(file: &EnvironmentFile, history: &History, id: SnapshotId, now: Timestamp) -> bool {
    file.known_failures.get(&id).is_some_and(|known| last_failure(history, id, now).is_none_or(|last| last <= known.at))
}

/// Sorts doubted snapshots by what is known now: certainly right, or unclear.
fn judge_times(
    asked: Asked<'_>,
    history: &History,
    ids: &[SnapshotId],
    next: &mut EnvironmentFile,
    now: Timestamp,
) -> Vec<String> {
    let (mut right, mut unclear) = (Vec::new(), Vec::new());
    let come = rivals::come(history, now);
    let of_come = |id: &SnapshotId| come.as_ref().is_some_and(|come| come.ids.contains(id) || come.since.contains(id));
    for snapshot in history.snapshots.iter().filter(|s| ids.contains(&s.id) && !of_come(&s.id)) {
        // A run of an earlier time met it there: that one may be right, or this one.
        let is_met = snapshot.clock.met_ahead;
        let Some(doubt) = snapshot.record.as_ref().and_then(|record| record.clock_doubt) else { continue };
        let of = match doubt {
            // Which of the two clocks was wrong, nobody can say.
            ClockDoubt::Skew { seconds } if !is_of_one_day(asked, snapshot.id, seconds) => &mut unclear,
            ClockDoubt::Skew { .. } | ClockDoubt::Gap { .. } => &mut right,
            // What it met in its future is in ours too: that one is wrong.
            ClockDoubt::Behind { newest } if is_ahead(newest, now) && !is_met => &mut right,
            ClockDoubt::Behind { .. } => &mut unclear,
        };
        of.push(snapshot.id);
    }
    rivals::note(history, &unclear, next);
    times(&right, &unclear, next)
}

/// Says of some snapshots that their time is right, and of others that it may be wrong. Gives back what changes.
pub(super) fn times(right: &[SnapshotId], unclear: &[SnapshotId], next: &mut EnvironmentFile) -> Vec<String> {
    let mut changes = Vec::new();
    // What a person said of two clocks stands.
    let right: Vec<SnapshotId> = right.iter().copied().filter(|id| !next.is_overruled(*id)).collect();
    if !right.is_empty() {
        changes.push(format!("the time of {} is right", named(&right)));
        next.doubted_times.retain(|id| !right.contains(id));
        next.trusted_times.extend(right);
    }
    let unclear: Vec<SnapshotId> = unclear.iter().copied().filter(|id| !next.is_upheld(*id)).collect();
    if !unclear.is_empty() {
        changes
            .push(format!("{} answer only where no other one does, because their time may be wrong", named(&unclear)));
        next.trusted_times.retain(|id| !unclear.contains(id));
        next.doubted_times.extend(unclear);
    }
    changes
}

/// Whether a snapshot belongs to its day although its clock was ahead by so much.
fn is_of_one_day(asked: Asked<'_>, id: SnapshotId, ahead_seconds: i64) -> bool {
    let Ok(zone) = TimeZone::get(asked.time_zone) else { return false };
    let day = |moment: Timestamp| moment.to_zoned_datetime(zone.clone()).date();
    let real = id.taken().checked_sub(SignedDuration::from_secs(ahead_seconds));
    real.is_ok_and(|real| day(real) == day(id.taken()))
}
