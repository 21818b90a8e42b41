//! The plan: what the plugin proposes of each source, and what the guard makes of it.

use crate::session::Host;
use base::error::{Error, Result};
use base::id::SnapshotId;
use base::text::printable;
use catalogue::guard::Serves;
use catalogue::guard::{self, Decision, Guarded, Plan, Subject};
use catalogue::history::{History, Snapshot};
use catalogue::record::PluginRecord;
use jiff::Timestamp;
use plugin::Plugin;
use plugin::call::retaining;
use plugin::context::{self, Tally};
use std::collections::{BTreeMap, BTreeSet};

/// What serves, from the best on.
const RANKS: [Serves; 4] = [Serves::First, Serves::Disproved, Serves::Doubtful, Serves::Misplaced];

/// What is to happen, decided.
#[derive(Debug, Clone, Default)]
pub struct Planned {
    /// Every snapshot with its verdict, after the guard.
    pub plan: Plan,
    /// Snapshots that may go and wait for a later run.
    pub deferred: BTreeSet<SnapshotId>,
    /// Lines of the plugin for the operator.
    pub notes: Vec<String>,
    /// What the plugin did while it planned.
    pub tally: Tally,
    /// Milliseconds that the plugin took.
    pub plan_millis: u64,
    pub(super) plugin_sha256: String,
    /// The plugin and what it did, where it is one.
    pub(super) planned_by: Option<PluginRecord>,
}

/// What a proposer is told of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its id.
    pub id: SnapshotId,
    /// Whether the source that is asked about is restorable from it.
    pub complete: bool,
    /// Of all objects that it refers to.
    pub bytes: u64,
    /// Whether the configuration pins it, or `unforget` keeps it.
    pub pinned: bool,
    /// Whether its verifications come to a proof.
    pub verified: bool,
    /// Whether it was made from objects without a record.
    pub adopted: bool,
}

/// What a proposer answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proposal {
    /// A decision for every snapshot, by the id as the proposer wrote it.
    pub decisions: Vec<(String, Decision)>,
    /// Lines for the operator.
    pub notes: Vec<String>,
}

/// Who proposes a plan: what it is asked is one source's snapshots, oldest first.
pub trait Propose {
    /// A plan for the snapshots that were passed in, and what was done for it.
    fn propose(
        &self,
        now: Timestamp,
        time_zone: &str,
        snapshots: &[Candidate],
    ) -> impl Future<Output = (Result<Proposal>, Tally)>;

    /// The refusal of an answer.
    fn refused(&self, why: String) -> Error;

    /// SHA-256 of what decides.
    fn digest(&self) -> &str;

    /// What a certificate says of who planned it; none of what is no plugin.
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
            (decision.id, Decision { keep: decision.verdict == retaining::Verdict::Keep, reasons })
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

/// What a plan follows from, besides the history.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// Rules that no plugin overrides.
    pub guard: &'a guard::Config,
    /// The business time zone.
    pub time_zone: &'a jiff::tz::TimeZone,
    /// Whether more may enter the bin than the guard allows at once.
    pub allow_more: bool,
}

impl<'a> Rules<'a> {
    /// Those of a configuration.
    #[must_use]
    pub fn of(host: &'a Host) -> Self {
        Self { guard: &host.guard, time_zone: &host.time_zone, allow_more: false }
    }

    fn time_zone_name(&self) -> &'a str {
        self.time_zone.iana_name().unwrap_or("UTC")
    }
}

/// Asks the plugin, source by source, and applies the guard. Changes nothing.
///
/// A state must not take the place of one that is worth more, and an adopted object of no recorded one. So the plugin is asked for
/// each rank with all that rank above it, with adopted ones and without, and what it keeps in any answer stays.
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
            // On most days all of these are one question.
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
                Some(reasons) => Decision { keep: true, reasons },
                // Of the two clocks, that of its run and that of today, nobody knows which was wrong.
                None if subject.early => Decision { keep: true, reasons: vec!["its time has not come".to_owned()] },
                None if subject.retired => Decision { keep: false, reasons: vec!["retired by `accept`".to_owned()] },
                None => {
                    let reasons = forgets.get(&subject.id).cloned().unwrap_or_else(|| "names no source".to_owned());
                    Decision { keep: false, reasons: vec![reasons] }
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

/// [`plan`] with the plugin of a host, timed.
///
/// # Errors
/// As there.
pub async fn plan_of(
    host: &Host,
    plugin: &Plugin,
    history: &History,
    now: Timestamp,
    allow_more: bool,
) -> Result<Planned> {
    let began = host.clock.now();
    let rules = Rules { allow_more, ..Rules::of(host) };
    let planned = plan(rules, plugin, history, now).await?;
    Ok(Planned { plan_millis: host.clock.millis_since(began), ..planned })
}

/// What the plugin answered so far.
#[derive(Default)]
struct Proposed {
    keeps: BTreeMap<SnapshotId, Reasons>,
    forgets: BTreeMap<SnapshotId, String>,
    notes: Vec<String>,
    tally: Tally,
}

/// Reasons in the order in which they came, each with the sources that it is one for.
#[derive(Debug, Clone, Default)]
struct Reasons(Vec<(String, BTreeSet<String>)>);

impl Reasons {
    fn add(&mut self, source: &str, reason: String) {
        match self.0.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, sources)) => drop(sources.insert(source.to_owned())),
            None => self.0.push((reason, BTreeSet::from([source.to_owned()]))),
        }
    }

    /// A reason that is not one for every source of the snapshot names those that it is one for.
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
        context::add(&mut self.tally, tally);
        let answer = answer?;
        let ids: BTreeSet<SnapshotId> = question.iter().map(|(id, _)| *id).collect();
        let plan = guard::match_up(&ids, answer.decisions).map_err(|refusal| proposer.refused(refusal.to_string()))?;
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
            verified: snapshot.standing == catalogue::proof::Standing::Passed,
            adopted: snapshot.adopted,
        }
    }
}

impl Planned {
    /// The snapshots that the plan forgets, whatever lies in the bin already.
    #[must_use]
    pub fn forgets(&self) -> BTreeSet<SnapshotId> {
        self.plan.iter().filter(|(_, decision)| !decision.keep).map(|(id, _)| *id).collect()
    }
}
