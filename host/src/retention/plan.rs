//! The plan: the plugin's proposal for each source, checked by the guard.

use crate::session::Session;
use base::error::{Error, Result};
use base::id::SnapshotId;
use base::text::printable;
use catalogue::guard::Serves;
use catalogue::guard::{self, Decision, Decisions, Guarded, Subject};
use catalogue::history::{History, Snapshot};
use catalogue::record::PluginRecord;
use jiff::Timestamp;
use plugin::Plugin;
use plugin::call::retaining;
use plugin::context::{self, Tally};
use std::collections::{BTreeMap, BTreeSet};

/// The ranks of states, best first.
const RANKS: [Serves; 4] = [Serves::First, Serves::Disproved, Serves::Doubtful, Serves::Misplaced];

/// A decided plan.
#[derive(Debug, Clone, Default)]
pub struct Planned {
    /// Every snapshot with its verdict, after the guard.
    pub plan: Decisions,
    /// Snapshots that may be forgotten, but only by a later run.
    pub deferred: BTreeSet<SnapshotId>,
    /// Notes of the plugin for the operator.
    pub notes: Vec<String>,
    /// What the plugin did while it planned.
    pub tally: Tally,
    /// Milliseconds that the plugin took.
    pub plan_millis: u64,
    pub(super) plugin_sha256: String,
    /// The plugin and its calls; `None` if no plugin planned.
    pub(super) planned_by: Option<PluginRecord>,
}

/// A snapshot as a proposer sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its id.
    pub id: SnapshotId,
    /// Whether the source that is asked about is restorable from it.
    pub complete: bool,
    /// Size of all objects that it refers to.
    pub bytes: u64,
    /// Whether the configuration pins it, or `unforget` keeps it.
    pub pinned: bool,
    /// Whether its last verification passed.
    pub verified: bool,
    /// Whether it was made from objects without a record.
    pub adopted: bool,
}

/// The answer of a proposer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proposal {
    /// A decision for every snapshot, by the id as the proposer wrote it.
    pub decisions: Vec<(String, Decision)>,
    /// Lines for the operator.
    pub notes: Vec<String>,
}

/// Proposes which snapshots of one source to keep. Snapshots are passed oldest first.
pub trait Propose {
    /// A plan for the given snapshots, and the calls that it took.
    fn propose(
        &self,
        now: Timestamp,
        time_zone: &str,
        snapshots: &[Candidate],
    ) -> impl Future<Output = (Result<Proposal>, Tally)>;

    /// An error that refuses an answer.
    fn refused(&self, why: String) -> Error;

    /// SHA-256 of the proposer.
    fn digest(&self) -> &str;

    /// The record of the proposer for a certificate; `None` if it is not a plugin.
    fn record(&self, tally: &Tally) -> Option<PluginRecord>;
}

impl Propose for Plugin {
    async fn propose(&self, now: Timestamp, time_zone: &str, snapshots: &[Candidate]) -> (Result<Proposal>, Tally) {
        let asked: Vec<_> = snapshots
            .iter()
            .map(|candidate| retaining::Snapshot {
                id: candidate.id.to_string(),
                taken: candidate.id.taken().as_second(),
                complete: candidate.complete,
                bytes: candidate.bytes,
                pinned: candidate.pinned,
                verified: candidate.verified,
                adopted: candidate.adopted,
            })
            .collect();
        let called = self.plan_retention(now, time_zone, &asked).await;
        let decision = |decision: retaining::Decision| {
            let reasons = decision.reasons.iter().map(|reason| printable(reason)).collect();
            (decision.id, Decision::of_plan(decision.verdict == retaining::Verdict::Keep, reasons))
        };
        let proposal = called.result.map(|plan| Proposal {
            decisions: plan.decisions.into_iter().map(decision).collect(),
            notes: plan.notes.iter().map(|note| printable(note)).collect(),
        });
        (proposal, called.tally)
    }

    fn refused(&self, why: String) -> Error {
        Self::refused(self, why)
    }

    fn digest(&self) -> &str {
        Self::digest(self)
    }

    fn record(&self, tally: &Tally) -> Option<PluginRecord> {
        Some(crate::tally::plugin_record(self, tally))
    }
}

/// The rules for a plan, in addition to the history.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// Rules that no plugin overrides.
    pub guard: &'a guard::GuardConfig,
    /// The business time zone.
    pub time_zone: &'a jiff::tz::TimeZone,
    /// Whether more may enter the bin than the guard allows at once.
    pub allow_more: bool,
}

impl<'a> Rules<'a> {
    fn time_zone_name(&self) -> &'a str {
        self.time_zone.iana_name().unwrap_or("UTC")
    }
}

/// Asks the plugin, source by source, and applies the guard. Changes nothing.
///
/// A state must not replace a better one, and an adopted object must not replace a recorded one. So the plugin is asked
/// once per rank, with all states of that rank or better, with and without adopted ones. What it keeps in any answer is
/// kept.
///
/// # Errors
/// The plugin's; [`base::error::Class::PluginRefused`] for a plan that does not answer the question.
pub async fn plan(rules: Rules<'_>, proposer: &impl Propose, history: &History, now: Timestamp) -> Result<Planned> {
    let now = history.present(now);
    let subjects = history.subjects();
    let sources: BTreeSet<&String> = subjects.iter().flat_map(|subject| subject.sources.keys()).collect();
    let mut proposed = Proposed::default();
    for source in sources {
        let named: Vec<&Subject> = subjects.iter().filter(|s| s.sources.contains_key(source) && !s.retired).collect();
        let mut asked = BTreeSet::new();
        for (least, with_adopted) in RANKS.into_iter().flat_map(|least| [(least, true), (least, false)]) {
            let question: Vec<(SnapshotId, bool)> = named
                .iter()
                .filter(|subject| with_adopted || !subject.adopted)
                .map(|subject| (subject.id, subject.sources.get(source).is_some_and(|serves| *serves >= least)))
                .collect();
            // On most days all of these questions are equal.
            if !question.is_empty() && asked.insert(question.clone()) {
                proposed.ask(rules, proposer, history, source, &question, now).await?;
            }
        }
    }
    let Proposed { mut keeps, forgets, notes, tally } = proposed;
    let plan = subjects
        .iter()
        .map(|subject| {
            let kept = keeps.remove(&subject.id).map(|reasons| reasons.shown(subject));
            let decision = match kept {
                Some(reasons) => Decision::of_plan(true, reasons),
                // Either the clock of its run or the clock now is wrong, and it is unknown which.
                None if subject.early => Decision::of_plan(true, vec!["its time has not come".to_owned()]),
                None if subject.retired => Decision::of_plan(false, vec!["retired by `accept`".to_owned()]),
                None => {
                    let reasons = forgets.get(&subject.id).cloned().unwrap_or_else(|| "names no source".to_owned());
                    Decision::of_plan(false, vec![reasons])
                }
            };
            (subject.id, decision)
        })
        .collect();
    let Guarded { plan, deferred } = guard::apply(rules.guard, rules.allow_more, rules.time_zone, now, &subjects, plan);
    let planned_by = proposer.record(&tally);
    Ok(Planned {
        plan,
        deferred,
        notes,
        tally,
        plan_millis: 0,
        plugin_sha256: proposer.digest().to_owned(),
        planned_by,
    })
}

/// [`plan`] with the plugin of a session, timed.
pub async fn plan_of(
    session: &Session,
    plugin: &Plugin,
    history: &History,
    now: Timestamp,
    allow_more: bool,
) -> Result<Planned> {
    let began = session.clock.now();
    let rules = Rules { guard: &session.guard, time_zone: &session.time_zone, allow_more };
    let planned = plan(rules, plugin, history, now).await?;
    Ok(Planned { plan_millis: session.clock.millis_since(began), ..planned })
}

/// The plugin's answers so far.
#[derive(Default)]
struct Proposed {
    keeps: BTreeMap<SnapshotId, Reasons>,
    forgets: BTreeMap<SnapshotId, String>,
    notes: Vec<String>,
    tally: Tally,
}

/// Reasons in order of arrival, each with the sources that it applies to.
#[derive(Debug, Clone, Default)]
struct Reasons(Vec<(String, BTreeSet<String>)>);

impl Reasons {
    fn add(&mut self, source: &str, reason: String) {
        match self.0.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, sources)) => drop(sources.insert(source.to_owned())),
            None => self.0.push((reason, BTreeSet::from([source.to_owned()]))),
        }
    }

    /// Formats the reasons. One that does not apply to every source names the sources.
    fn shown(self, subject: &Subject) -> Vec<String> {
        let each = |(reason, sources): (String, BTreeSet<String>)| {
            if sources.len() == subject.sources.len() {
                return reason;
            }
            let named: Vec<&str> = sources.iter().map(String::as_str).collect();
            format!("{reason} ({})", named.join(", "))
        };
        self.0.into_iter().map(each).collect()
    }
}

impl Proposed {
    async fn ask(
        &mut self,
        rules: Rules<'_>,
        proposer: &impl Propose,
        history: &History,
        source: &str,
        question: &[(SnapshotId, bool)],
        now: Timestamp,
    ) -> Result<()> {
        let asked: Vec<Candidate> = question
            .iter()
            .filter_map(|(id, complete)| Some(Candidate::of(history.snapshot(*id)?, *complete)))
            .collect();
        let (answer, tally) = proposer.propose(now, rules.time_zone_name(), &asked).await;
        context::add_tally(&mut self.tally, tally);
        let answer = answer?;
        let ids: BTreeSet<SnapshotId> = question.iter().map(|(id, _)| *id).collect();
        let plan =
            guard::pair_decisions(&ids, answer.decisions).map_err(|refusal| proposer.refused(refusal.to_string()))?;
        for (id, decision) in plan {
            if decision.keep {
                let reasons = self.keeps.entry(id).or_default();
                decision.reasons.into_iter().for_each(|reason| reasons.add(source, reason));
            } else {
                self.forgets.entry(id).or_insert_with(|| printable(&decision.reasons.join(", ")));
            }
        }
        for note in answer.notes {
            if !self.notes.contains(&note) {
                self.notes.push(note);
            }
        }
        Ok(())
    }
}

impl Candidate {
    fn of(snapshot: &Snapshot, complete: bool) -> Self {
        Self {
            id: snapshot.id,
            complete,
            bytes: snapshot.bytes(),
            pinned: snapshot.pinned,
            verified: snapshot.verification_state == catalogue::proof::VerificationState::Passed,
            adopted: snapshot.adopted,
        }
    }
}

impl Planned {
    /// The snapshots that the plan forgets, including those already in the bin.
    pub fn forgets(&self) -> BTreeSet<SnapshotId> {
        self.plan.iter().filter(|(_, decision)| !decision.keep).map(|(id, _)| *id).collect()
    }
}
