//! The guard: rules for a retention plan that no plugin and no plugin setting can override.
//!
//! A pure function of the plan. It refuses a plan that does not decide on exactly the given snapshots, changes
//! individual decisions from forget to keep, source by source, and limits how many snapshots enter the bin at once. It
//! never changes a keep to a forget.

mod clocks;
mod config;

pub use self::config::{Age, FiscalYearEnd, GuardConfig};

use self::config::fiscal_year;
use crate::clock::ClockFacts;
use base::id::SnapshotId;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use std::collections::{BTreeMap, BTreeSet};

/// How well the state of a source in a snapshot can represent a point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Serves {
    /// Not at all.
    Nothing,
    /// Only if no other state does: its time is doubted, so it may belong to another day.
    Misplaced,
    /// Only if no whole state does: it is partial or suspect.
    Doubtful,
    /// Only if no better state does: it was whole, but a verification failed.
    Disproved,
    /// It is whole, and its object exists.
    First,
}

/// What the guard knows about a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// Its id.
    pub id: SnapshotId,
    /// Whether its verifications passed.
    pub verified: bool,
    /// Whether the configuration pins it, or `unforget` keeps it.
    pub pinned: bool,
    /// Whether it was made from objects without a record.
    pub adopted: bool,
    /// Whether it may be forgotten at all. An adopted snapshot may only if a person allowed it.
    pub may_age: bool,
    /// Whether its record cannot be read.
    pub damaged: bool,
    /// Whether a person retired it, so that it is not used for anything.
    pub retired: bool,
    /// Whether it was retired because it is from the future, although its own record does not doubt its time.
    pub early: bool,
    /// Whether it belongs to a pair of clocks of which it is not yet known which was wrong.
    pub undecided: bool,
    /// Whether it is already in the bin.
    pub binned: bool,
    /// What records say about the clock under which it was made.
    pub clock: ClockFacts,
    /// The sources that it names, and how well it can represent each.
    pub sources: BTreeMap<String, Serves>,
    /// The same, as if its time were right.
    pub but_for_its_time: BTreeMap<String, Serves>,
}

/// Who made a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecidedBy {
    /// The plugin's plan.
    Plan,
    /// The guard, against the plan.
    Guard,
}

/// One line of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Whether the snapshot is kept.
    pub keep: bool,
    /// Who decided it.
    pub by: DecidedBy,
    /// Why, a short phrase each.
    pub reasons: Vec<String>,
}

impl Decision {
    /// A decision of the plan.
    pub const fn of_plan(keep: bool, reasons: Vec<String>) -> Self {
        Self { keep, by: DecidedBy::Plan, reasons }
    }

    /// The reasons as shown to people and in JSON. Reasons of the guard are marked.
    pub fn shown(&self) -> Vec<String> {
        let prefix = match self.by {
            DecidedBy::Plan => "",
            DecidedBy::Guard => "guard: ",
        };
        self.reasons.iter().map(|reason| format!("{prefix}{reason}")).collect()
    }
}

/// A plan by snapshot.
pub type Decisions = BTreeMap<SnapshotId, Decision>;

/// Why a plan is not carried out at all. This is always the plugin's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the plan {0}")]
pub struct Refusal(String);

/// A plan after the rules were applied.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Guarded {
    /// The decision for every snapshot.
    pub plan: Decisions,
    /// Snapshots that may be forgotten but wait for a later run, because the number that enter the bin at once is
    /// limited.
    pub deferred: BTreeSet<SnapshotId>,
}

/// Checks that a plugin's answer has exactly one decision for every snapshot and none for any other.
///
/// # Errors
/// A [`Refusal`] that names the first snapshot that violates this.
pub fn pair_decisions(known: &BTreeSet<SnapshotId>, answer: Vec<(String, Decision)>) -> Result<Decisions, Refusal> {
    let mut plan = Decisions::new();
    for (id, decision) in answer {
        let shown = base::text::printable(&id);
        let parsed = id.parse::<SnapshotId>().ok().filter(|id| known.contains(id));
        let Some(id) = parsed else {
            return Err(Refusal(format!("names an unknown snapshot `{shown}`")));
        };
        if decision.reasons.is_empty() {
            return Err(Refusal(format!("gives no reason for {id}")));
        }
        if plan.insert(id, decision).is_some() {
            return Err(Refusal(format!("names the snapshot {id} twice")));
        }
    }
    match known.iter().find(|id| !plan.contains_key(id)) {
        Some(missing) => Err(Refusal(format!("leaves out the snapshot {missing}"))),
        None => Ok(plan),
    }
}

/// Applies the rules to a plan. `allow_more` lifts the limit on how many snapshots enter the bin at once.
pub fn apply(
    config: &GuardConfig,
    allow_more: bool,
    time_zone: &TimeZone,
    now: Timestamp,
    subjects: &[Subject],
    mut plan: Decisions,
) -> Guarded {
    for (id, rule) in protected(config, time_zone, now, subjects) {
        let Some(decision) = plan.get_mut(&id) else { continue };
        if !decision.keep {
            *decision = Decision { keep: true, by: DecidedBy::Guard, reasons: vec![rule] };
        }
    }
    let binned: BTreeSet<SnapshotId> = subjects.iter().filter(|subject| subject.binned).map(|s| s.id).collect();
    // The plan is ordered by time, so the newest snapshots wait.
    let entering = plan.iter().filter(|(id, decision)| !decision.keep && !binned.contains(id)).map(|(id, _)| *id);
    let allowed = if allow_more { usize::MAX } else { config.max_forget };
    let deferred = entering.skip(allowed).collect();
    Guarded { plan, deferred }
}

/// The snapshots that rules protect, each with the rule.
fn protected(
    config: &GuardConfig,
    time_zone: &TimeZone,
    now: Timestamp,
    subjects: &[Subject],
) -> Vec<(SnapshotId, String)> {
    let mut rules = Vec::new();
    let sources: BTreeSet<&String> = subjects.iter().flat_map(|subject| subject.sources.keys()).collect();
    for source in sources {
        rules.extend(protected_for_source(config, time_zone, now, subjects, source));
    }
    for subject in subjects {
        let age = now.duration_since(subject.id.taken());
        // A snapshot that a person gave up need not reach the minimum age.
        if age < config.min_age.0 && !subject.retired {
            rules.push((subject.id, "younger than min_age".to_owned()));
        }
        if subject.pinned {
            rules.push((subject.id, "pinned".to_owned()));
        }
        if subject.damaged && !subject.retired {
            rules.push((subject.id, "its record cannot be read".to_owned()));
        }
        if subject.undecided {
            rules.push((subject.id, "of two clocks that disagreed; `accept --right-time` decides".to_owned()));
        }
        if !subject.may_age {
            rules.push((subject.id, "adopted; `accept --adopted` lets it age".to_owned()));
        }
    }
    rules
}

/// The snapshots that one source needs, regardless of the other sources.
fn protected_for_source(
    config: &GuardConfig,
    time_zone: &TimeZone,
    now: Timestamp,
    subjects: &[Subject],
    source: &str,
) -> Vec<(SnapshotId, String)> {
    let serves = |subject: &Subject| subject.sources.get(source).copied().unwrap_or(Serves::Nothing);
    let holders: Vec<&Subject> = subjects.iter().filter(|subject| serves(subject) != Serves::Nothing).collect();
    let mut rules = Vec::new();
    // A snapshot from the future was made under a wrong clock and must not take the place of the newest one.
    let past = || holders.iter().filter(|subject| subject.id.taken() <= now);
    if let Some(newest) = past().max_by_key(|subject| (serves(subject), subject.id)) {
        rules.push((newest.id, format!("the newest snapshot of {source}")));
    } else if let Some(last) = subjects.iter().filter(|s| s.sources.contains_key(source)).map(|s| s.id).max() {
        rules.push((last, format!("the only trace of {source}")));
    }
    if let Some(verified) = holders.iter().filter(|subject| subject.verified).map(|subject| subject.id).max() {
        rules.push((verified, format!("the last verified snapshot of {source}")));
    }
    let years = legal_floor(config, time_zone, now, holders.iter().map(|subject| (serves(subject), subject.id)));
    rules.extend(
        years
            .into_iter()
            .map(|(id, end)| (id, format!("the legal floor of the fiscal year that ended on {end}, of {source}"))),
    );
    rules.extend(clocks::last_of_each_clock(config, time_zone, now, subjects, source));
    rules
}

/// The newest state in each of the last completed fiscal years that has one. A better state is preferred to a newer
/// one.
fn legal_floor(
    config: &GuardConfig,
    time_zone: &TimeZone,
    now: Timestamp,
    states: impl Iterator<Item = (Serves, SnapshotId)>,
) -> Vec<(SnapshotId, Date)> {
    let today = now.to_zoned_datetime(time_zone.clone()).date();
    let mut newest: BTreeMap<Date, (Serves, SnapshotId)> = BTreeMap::new();
    for state in states {
        let day = state.1.taken().to_zoned_datetime(time_zone.clone()).date();
        let Some(end) = fiscal_year(config.fiscal_year_end, day) else { continue };
        if end >= today {
            continue;
        }
        let kept = newest.entry(end).or_insert(state);
        *kept = state.max(*kept);
    }
    let Some(running) = fiscal_year(config.fiscal_year_end, today) else { return Vec::new() };
    let oldest = running.saturating_sub(i32::from(config.legal_years).saturating_add(1).years());
    newest
        .into_iter()
        // The current year ends on `running`; `legal_years` completed years end after `oldest`.
        .filter(|(end, _)| end.year() > oldest.year())
        .map(|(end, (_, id))| (id, end))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn subject(id: &str) -> Subject {
        Subject {
            id: id.parse().unwrap(),
            verified: false,
            pinned: false,
            adopted: false,
            may_age: true,
            damaged: false,
            retired: false,
            early: false,
            undecided: false,
            binned: false,
            clock: ClockFacts::default(),
            sources: [("db".to_owned(), Serves::First), ("docs".to_owned(), Serves::First)].into(),
            but_for_its_time: BTreeMap::new(),
        }
    }

    pub(super) fn with(id: &str, db: Serves, docs: Serves) -> Subject {
        Subject { sources: [("db".to_owned(), db), ("docs".to_owned(), docs)].into(), ..subject(id) }
    }

    pub(super) fn forget_all(subjects: &[Subject]) -> Decisions {
        subjects.iter().map(|s| (s.id, Decision::of_plan(false, vec!["test".into()]))).collect()
    }

    fn kept(config: &GuardConfig, now: &str, subjects: &[Subject]) -> Vec<String> {
        let zone = TimeZone::get("Europe/Paris").unwrap();
        let guarded = apply(config, true, &zone, now.parse().unwrap(), subjects, forget_all(subjects));
        guarded.plan.into_iter().filter(|(_, decision)| decision.keep).map(|(id, _)| id.to_string()).collect()
    }

    #[test]
    fn a_plan_that_does_not_cover_exactly_the_snapshots_is_refused() {
        let subjects = ["20260101T010000Z", "20260102T010000Z"].map(|id| id.parse().unwrap()).into();
        let forget = || Decision::of_plan(false, vec!["old".into()]);
        let both = || vec![("20260101T010000Z".to_owned(), forget()), ("20260102T010000Z".to_owned(), forget())];
        assert_eq!(pair_decisions(&subjects, both()).unwrap().len(), 2);
        let table: [(&str, Vec<(String, Decision)>); 5] = [
            ("leaves out", both().into_iter().take(1).collect()),
            ("twice", both().into_iter().chain(both()).collect()),
            ("an unknown snapshot", both().into_iter().chain([("20990101T000000Z".to_owned(), forget())]).collect()),
            ("an unknown snapshot", vec![("\u{1b}[2J".to_owned(), forget())]),
            ("no reason", both().into_iter().map(|(id, _)| (id, Decision::of_plan(true, vec![]))).collect()),
        ];
        for (expected, answer) in table {
            let refusal = pair_decisions(&subjects, answer).expect_err(expected).to_string();
            assert!(refusal.contains(expected), "`{refusal}` does not contain `{expected}`");
            assert!(!refusal.contains('\u{1b}'));
        }
    }

    #[test]
    fn a_plan_that_forgets_everything_keeps_the_newest_and_the_legal_floor() {
        let subjects = [
            subject("20140630T010000Z"), // eleven years before: beyond the floor
            subject("20161231T010000Z"),
            subject("20161231T225959Z"), // still 2016 in Paris
            subject("20161231T230000Z"), // 2017 in Paris
            subject("20180101T010000Z"),
            subject("20260310T010000Z"),
            subject("20260311T010000Z"),
        ];
        let kept = kept(&GuardConfig::default(), "2026-06-30T12:00:00Z", &subjects);
        assert_eq!(kept, ["20161231T225959Z", "20161231T230000Z", "20180101T010000Z", "20260311T010000Z"]);
    }

    #[test]
    fn the_legal_floor_reaches_back_exactly_the_configured_years() {
        let subjects = [
            subject("20150601T010000Z"),
            subject("20160601T010000Z"),
            subject("20250601T010000Z"),
            subject("20260601T010000Z"),
        ];
        let years = |legal_years| GuardConfig { legal_years, ..GuardConfig::default() };
        let now = "2026-07-30T12:00:00Z";
        let kept = |n| kept(&years(n), now, &subjects);
        assert_eq!(kept(10), ["20160601T010000Z", "20250601T010000Z", "20260601T010000Z"]);
        assert_eq!(kept(11).len(), 4);
        assert_eq!(kept(1), ["20250601T010000Z", "20260601T010000Z"]);
        assert_eq!(kept(0), ["20260601T010000Z"]);
    }

    #[test]
    fn a_fiscal_year_that_ends_in_june_or_february_has_its_own_floor() {
        let subjects = [subject("20240229T120000Z"), subject("20240301T120000Z"), subject("20260601T010000Z")];
        let february =
            GuardConfig { fiscal_year_end: "02-29".to_owned().try_into().unwrap(), ..GuardConfig::default() };
        assert_eq!(kept(&february, "2026-07-01T00:00:00Z", &subjects).len(), 3);
        let december = GuardConfig::default();
        assert_eq!(kept(&december, "2026-07-01T00:00:00Z", &subjects), ["20240301T120000Z", "20260601T010000Z"]);
    }

    #[test]
    fn young_pinned_verified_damaged_and_adopted_snapshots_are_kept() {
        let mut subjects: Vec<_> = (1..=7).map(|day| subject(&format!("2026060{day}T010000Z"))).collect();
        subjects[0].pinned = true;
        subjects[1].verified = true;
        subjects[2].damaged = true;
        subjects[3].adopted = true;
        subjects[3].may_age = false;
        subjects[4].adopted = true; // a person said that it may age
        let now = "2026-06-07T02:00:00Z";
        assert_eq!(
            kept(&GuardConfig::default(), now, &subjects),
            ["20260601T010000Z", "20260602T010000Z", "20260603T010000Z", "20260604T010000Z", "20260607T010000Z"]
        );
    }

    #[test]
    fn each_source_has_its_own_newest_state_and_its_own_legal_floor() {
        use Serves::{Doubtful, First, Nothing};
        let subjects = [
            with("20241230T010000Z", First, First),
            with("20241231T010000Z", First, Nothing), // docs failed on the last day of the year
            with("20251230T010000Z", Doubtful, First), // db was partial all year
            with("20251231T010000Z", Doubtful, Nothing),
            with("20260601T010000Z", First, Nothing),
            with("20260602T010000Z", Nothing, First),
            with("20260603T010000Z", Doubtful, Doubtful), // suspect: it replaces no other state
        ];
        assert_eq!(
            kept(&GuardConfig::default(), "2026-06-30T00:00:00Z", &subjects),
            [
                "20241230T010000Z",
                "20241231T010000Z",
                "20251230T010000Z",
                "20251231T010000Z",
                "20260601T010000Z",
                "20260602T010000Z"
            ]
        );
    }

    #[test]
    fn a_retired_snapshot_is_forgotten_unless_it_is_the_only_trace_of_a_source() {
        use Serves::{First, Nothing};
        let retired = |id| Subject { retired: true, damaged: true, ..with(id, Nothing, Nothing) };
        let now = "2026-06-30T00:00:00Z";
        let both = [with("20260601T010000Z", First, First), retired("20360601T010000Z")];
        assert_eq!(kept(&GuardConfig::default(), now, &both), ["20260601T010000Z"]);
        assert_eq!(kept(&GuardConfig::default(), now, &[retired("20360601T010000Z")]), ["20360601T010000Z"]);
    }

    #[test]
    fn a_snapshot_from_the_future_counts_as_young_and_replaces_no_other() {
        let subjects = [subject("20260601T010000Z"), subject("20300101T010000Z"), subject("20310101T010000Z")];
        let kept = kept(&GuardConfig::default(), "2026-06-07T02:00:00Z", &subjects);
        assert_eq!(kept, ["20260601T010000Z", "20300101T010000Z", "20310101T010000Z"]);
    }

    #[test]
    fn beyond_the_limit_the_oldest_go_first_and_snapshots_in_the_bin_do_not_count() {
        let mut subjects: Vec<_> = (10..30).map(|day| subject(&format!("202606{day}T010000Z"))).collect();
        let now = "2026-12-01T00:00:00Z".parse().unwrap();
        let deferred = |subjects: &[Subject], max_forget, allow_more| {
            let config = GuardConfig { max_forget, ..GuardConfig::default() };
            let guarded = apply(&config, allow_more, &TimeZone::UTC, now, subjects, forget_all(subjects));
            guarded.deferred.into_iter().map(|id| id.to_string()).collect::<Vec<_>>()
        };
        // The newest snapshot stays, so nineteen may be forgotten.
        assert_eq!(deferred(&subjects, 17, false), ["20260627T010000Z", "20260628T010000Z"]);
        assert!(deferred(&subjects, 19, false).is_empty() && deferred(&subjects, 17, true).is_empty());
        subjects[0].binned = true;
        assert_eq!(deferred(&subjects, 17, false), ["20260628T010000Z"]);
    }

    proptest! {
        /// Whatever a plugin plans, the guard never forgets a protected snapshot and never forgets more than the plan
        /// did.
        #[test]
        fn no_plan_gets_past_the_guard(
            days in proptest::collection::btree_set(0_i64..5_000, 1..40),
            flags in proptest::collection::vec(any::<(bool, bool, bool, bool)>(), 40),
            keeps in proptest::collection::vec(any::<bool>(), 40),
            now_day in 0_i64..6_000,
        ) {
            let base = 1_400_000_000_i64;
            let at = |day: i64| Timestamp::from_second(base + day * 86_400).unwrap();
            let subjects: Vec<Subject> = days.iter().zip(&flags).map(|(day, (whole, verified, pinned, db))| Subject {
                verified: *verified,
                pinned: *pinned,
                id: SnapshotId::at(at(*day)),
                sources: if *db {
                    [("db".to_owned(), if *whole { Serves::First } else { Serves::Doubtful })].into()
                } else {
                    BTreeMap::new()
                },
                ..subject("20260101T000000Z")
            }).collect();
            let plan: Decisions = subjects.iter().zip(&keeps)
                .map(|(s, keep)| (s.id, Decision::of_plan(*keep, vec!["x".into()]))).collect();
            let now = at(now_day);
            let guarded = apply(&GuardConfig::default(), true, &TimeZone::UTC, now, &subjects, plan.clone()).plan;
            prop_assert_eq!(guarded.len(), plan.len());
            for subject in &subjects {
                let decision = &guarded[&subject.id];
                prop_assert!(decision.keep || !plan[&subject.id].keep, "a keep became a forget");
                prop_assert!(decision.keep || !subject.pinned);
                prop_assert!(decision.keep || now.duration_since(subject.id.taken()) >= GuardConfig::default().min_age.0);
            }
            let past = |s: &&Subject| s.id.taken() <= now;
            let whole = |s: &&Subject| s.sources.get("db") == Some(&Serves::First);
            let newest = subjects.iter().filter(past).filter(whole).map(|s| s.id).max();
            let proven = subjects.iter().filter(|s| s.verified && s.sources.contains_key("db")).map(|s| s.id).max();
            for protected in [newest, proven].into_iter().flatten() {
                prop_assert!(guarded[&protected].keep);
            }
        }
    }
}
