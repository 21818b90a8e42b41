//! The guard: rules on a retention plan that no plugin and no setting of a plugin overrides.
//!
//! A pure function over the plan. It refuses a plan that is no answer to the question, turns single decisions from
//! forget to keep, and holds back a plan that forgets too much at once. It never turns a keep into a forget.

mod config;

pub use self::config::{Age, Config, FiscalYearEnd};

use self::config::fiscal_year;
use crate::snapshot::SnapshotId;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use std::collections::{BTreeMap, BTreeSet};

/// What the guard knows of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// Its id.
    pub id: SnapshotId,
    /// Whether every source is restorable from it.
    pub complete: bool,
    /// Whether its last verification succeeded.
    pub verified: bool,
    /// Whether the configuration pins it.
    pub pinned: bool,
    /// Whether it was made from objects without a record.
    pub adopted: bool,
    /// Whether its record cannot be read.
    pub damaged: bool,
    /// The sources that it holds a state of.
    pub sources: BTreeSet<String>,
}

/// One line of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Whether the snapshot stays.
    pub keep: bool,
    /// Why, a short phrase each.
    pub reasons: Vec<String>,
}

/// A plan by snapshot.
pub type Plan = BTreeMap<SnapshotId, Decision>;

/// Why a plan is not carried out as a whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The plan is no answer to the question: the plugin's fault.
    #[error("the plan {0}")]
    Invalid(String),
    /// The plan forgets more than one run may.
    #[error("the plan forgets {planned} snapshots, and one run may forget {allowed}")]
    TooMany {
        /// How many it forgets after the other rules.
        planned: usize,
        /// How many one run may.
        allowed: usize,
    },
}

/// What a run may do beyond the ordinary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Allowance {
    /// `--allow-mass-forget`: more than `max_forget`, and adopted snapshots.
    pub mass_forget: bool,
}

/// Pairs a plugin's answer with the question: one decision for every subject and none beside.
///
/// # Errors
/// [`Refusal::Invalid`] that names the first snapshot that is wrong.
pub fn match_up(subjects: &[Subject], answer: Vec<(String, Decision)>) -> Result<Plan, Refusal> {
    let known: BTreeSet<SnapshotId> = subjects.iter().map(|subject| subject.id).collect();
    let mut plan = Plan::new();
    for (id, decision) in answer {
        let shown = crate::capability::printable(&id);
        let parsed = id.parse::<SnapshotId>().ok().filter(|id| known.contains(id));
        let Some(id) = parsed else {
            return Err(Refusal::Invalid(format!("names the snapshot `{shown}`, which there is not")));
        };
        if decision.reasons.is_empty() {
            return Err(Refusal::Invalid(format!("gives no reason for {id}")));
        }
        if plan.insert(id, decision).is_some() {
            return Err(Refusal::Invalid(format!("names the snapshot {id} twice")));
        }
    }
    match known.iter().find(|id| !plan.contains_key(id)) {
        Some(missing) => Err(Refusal::Invalid(format!("leaves out the snapshot {missing}"))),
        None => Ok(plan),
    }
}

/// Applies the rules to a plan.
///
/// # Errors
/// [`Refusal::TooMany`] when the plan still forgets more than one run may.
pub fn apply(
    config: &Config,
    allowance: Allowance,
    time_zone: &TimeZone,
    now: Timestamp,
    subjects: &[Subject],
    mut plan: Plan,
) -> Result<Plan, Refusal> {
    for (id, rule) in protected(config, allowance, time_zone, now, subjects) {
        let Some(decision) = plan.get_mut(&id) else { continue };
        if !decision.keep {
            decision.keep = true;
            decision.reasons = vec![format!("guard: {rule}")];
        }
    }
    let planned = plan.values().filter(|decision| !decision.keep).count();
    if planned > config.max_forget && !allowance.mass_forget {
        return Err(Refusal::TooMany { planned, allowed: config.max_forget });
    }
    Ok(plan)
}

/// Every snapshot that a rule protects, with the rule.
fn protected(
    config: &Config,
    allowance: Allowance,
    time_zone: &TimeZone,
    now: Timestamp,
    subjects: &[Subject],
) -> Vec<(SnapshotId, String)> {
    let complete: Vec<&Subject> = subjects.iter().filter(|subject| subject.complete).collect();
    let mut rules = Vec::new();
    if let Some(newest) = complete.iter().map(|s| s.id).max() {
        rules.push((newest, "the newest complete snapshot".to_owned()));
    }
    let mut newest_of_source: BTreeMap<&str, SnapshotId> = BTreeMap::new();
    for subject in subjects {
        for source in &subject.sources {
            let newest = newest_of_source.entry(source).or_insert(subject.id);
            *newest = subject.id.max(*newest);
        }
    }
    for (source, id) in newest_of_source {
        rules.push((id, format!("the newest snapshot of {source}")));
    }
    if let Some(verified) = subjects.iter().filter(|s| s.verified).map(|s| s.id).max() {
        rules.push((verified, "the last verified snapshot".to_owned()));
    }
    for subject in subjects {
        let age = now.duration_since(subject.id.taken());
        if age < config.min_age.0 {
            rules.push((subject.id, "younger than min_age".to_owned()));
        }
        if subject.pinned {
            rules.push((subject.id, "pinned".to_owned()));
        }
        if subject.damaged {
            rules.push((subject.id, "its record cannot be read".to_owned()));
        }
        if subject.adopted && !allowance.mass_forget {
            rules.push((subject.id, "adopted; --allow-mass-forget forgets it".to_owned()));
        }
    }
    rules.extend(legal_floor(config, time_zone, now, &complete));
    rules
}

/// The newest complete snapshot within each of the last completed fiscal years that has one.
fn legal_floor(
    config: &Config,
    time_zone: &TimeZone,
    now: Timestamp,
    complete: &[&Subject],
) -> Vec<(SnapshotId, String)> {
    let today = now.to_zoned_datetime(time_zone.clone()).date();
    let mut newest: BTreeMap<Date, SnapshotId> = BTreeMap::new();
    for subject in complete {
        let day = subject.id.taken().to_zoned_datetime(time_zone.clone()).date();
        let Some(end) = fiscal_year(config.fiscal_year_end, day) else { continue };
        if end >= today {
            continue;
        }
        let kept = newest.entry(end).or_insert(subject.id);
        *kept = subject.id.max(*kept);
    }
    let Some(running) = fiscal_year(config.fiscal_year_end, today) else { return Vec::new() };
    let oldest = running.saturating_sub(i32::from(config.legal_years).saturating_add(1).years());
    newest
        .into_iter()
        // The running year ends in `running`; of the completed ones `legal_years` end after `oldest`.
        .filter(|(end, _)| end.year() > oldest.year())
        .map(|(end, id)| (id, format!("the legal floor of the fiscal year that ended on {end}")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn subject(id: &str) -> Subject {
        Subject {
            id: id.parse().unwrap(),
            complete: true,
            verified: false,
            pinned: false,
            adopted: false,
            damaged: false,
            sources: ["db".to_owned(), "docs".to_owned()].into(),
        }
    }

    fn forget_all(subjects: &[Subject]) -> Plan {
        subjects.iter().map(|s| (s.id, Decision { keep: false, reasons: vec!["test".into()] })).collect()
    }

    fn kept(config: &Config, allowance: Allowance, now: &str, subjects: &[Subject]) -> Vec<String> {
        let zone = TimeZone::get("Europe/Paris").unwrap();
        let plan = apply(config, allowance, &zone, now.parse().unwrap(), subjects, forget_all(subjects)).unwrap();
        plan.into_iter().filter(|(_, decision)| decision.keep).map(|(id, _)| id.to_string()).collect()
    }

    #[test]
    fn a_plan_that_is_no_answer_is_refused_whole() {
        let subjects = [subject("20260101T010000Z"), subject("20260102T010000Z")];
        let forget = || Decision { keep: false, reasons: vec!["old".into()] };
        let both = || vec![("20260101T010000Z".to_owned(), forget()), ("20260102T010000Z".to_owned(), forget())];
        assert_eq!(match_up(&subjects, both()).unwrap().len(), 2);
        let table: [(&str, Vec<(String, Decision)>); 5] = [
            ("leaves out", both().into_iter().take(1).collect()),
            ("twice", both().into_iter().chain(both()).collect()),
            ("which there is not", both().into_iter().chain([("20990101T000000Z".to_owned(), forget())]).collect()),
            ("which there is not", vec![("\u{1b}[2J".to_owned(), forget())]),
            ("no reason", both().into_iter().map(|(id, _)| (id, Decision { keep: true, reasons: vec![] })).collect()),
        ];
        for (expected, answer) in table {
            let refusal = match_up(&subjects, answer).expect_err(expected).to_string();
            assert!(refusal.contains(expected), "`{refusal}` does not say `{expected}`");
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
        let kept = kept(&Config::default(), Allowance::default(), "2026-06-30T12:00:00Z", &subjects);
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
        let years = |legal_years| Config { legal_years, ..Config::default() };
        let now = "2026-07-30T12:00:00Z";
        let kept = |n| kept(&years(n), Allowance::default(), now, &subjects);
        assert_eq!(kept(10), ["20160601T010000Z", "20250601T010000Z", "20260601T010000Z"]);
        assert_eq!(kept(11).len(), 4);
        assert_eq!(kept(1), ["20250601T010000Z", "20260601T010000Z"]);
        assert_eq!(kept(0), ["20260601T010000Z"]);
    }

    #[test]
    fn a_fiscal_year_that_ends_in_june_or_february_has_its_own_floor() {
        let subjects = [subject("20240229T120000Z"), subject("20240301T120000Z"), subject("20260601T010000Z")];
        let february = Config { fiscal_year_end: "02-29".to_owned().try_into().unwrap(), ..Config::default() };
        assert_eq!(kept(&february, Allowance::default(), "2026-07-01T00:00:00Z", &subjects).len(), 3);
        let december = Config::default();
        assert_eq!(
            kept(&december, Allowance::default(), "2026-07-01T00:00:00Z", &subjects),
            ["20240301T120000Z", "20260601T010000Z"]
        );
    }

    #[test]
    fn young_pinned_verified_damaged_and_adopted_snapshots_are_kept() {
        let mut subjects: Vec<_> = (1..=7).map(|day| subject(&format!("2026060{day}T010000Z"))).collect();
        subjects[0].pinned = true;
        subjects[1].verified = true;
        subjects[2].damaged = true;
        subjects[3].adopted = true;
        subjects[4].complete = false; // incomplete, old: may go
        subjects[5].sources = ["db".to_owned()].into();
        let now = "2026-06-07T02:00:00Z";
        assert_eq!(
            kept(&Config::default(), Allowance::default(), now, &subjects),
            ["20260601T010000Z", "20260602T010000Z", "20260603T010000Z", "20260604T010000Z", "20260607T010000Z"]
        );
        assert!(
            !kept(&Config::default(), Allowance { mass_forget: true }, now, &subjects)
                .contains(&"20260604T010000Z".to_owned())
        );
    }

    #[test]
    fn a_snapshot_from_the_future_counts_as_young() {
        let subjects = [subject("20260601T010000Z"), subject("20300101T010000Z"), subject("20310101T010000Z")];
        let kept = kept(&Config::default(), Allowance::default(), "2026-06-07T02:00:00Z", &subjects);
        assert_eq!(kept, ["20300101T010000Z", "20310101T010000Z"]);
    }

    #[test]
    fn forgetting_more_than_allowed_needs_the_flag() {
        let subjects: Vec<_> = (10..30).map(|day| subject(&format!("202606{day}T010000Z"))).collect();
        let config = Config { max_forget: 18, ..Config::default() };
        let zone = TimeZone::UTC;
        let now = "2026-12-01T00:00:00Z".parse().unwrap();
        let run = |config: &Config, mass_forget| {
            apply(config, Allowance { mass_forget }, &zone, now, &subjects, forget_all(&subjects))
        };
        assert_eq!(run(&config, false), Err(Refusal::TooMany { planned: 19, allowed: 18 }));
        assert!(run(&config, true).is_ok());
        assert!(run(&Config { max_forget: 19, ..config }, false).is_ok());
    }

    proptest! {
        /// Whatever a plugin plans, the guard never forgets what the rules protect and never forgets more than it planned.
        #[test]
        fn no_plan_gets_past_the_guard(
            days in proptest::collection::btree_set(0_i64..5_000, 1..40),
            flags in proptest::collection::vec(any::<(bool, bool, bool, bool)>(), 40),
            keeps in proptest::collection::vec(any::<bool>(), 40),
            now_day in 0_i64..6_000,
        ) {
            let base = 1_400_000_000_i64;
            let at = |day: i64| Timestamp::from_second(base + day * 86_400).unwrap();
            let subjects: Vec<Subject> = days.iter().zip(&flags).map(|(day, (complete, verified, pinned, db))| Subject {
                id: SnapshotId::at(at(*day)),
                complete: *complete,
                verified: *verified,
                pinned: *pinned,
                adopted: false,
                damaged: false,
                sources: if *db { ["db".to_owned()].into() } else { BTreeSet::new() },
            }).collect();
            let plan: Plan = subjects.iter().zip(&keeps)
                .map(|(s, keep)| (s.id, Decision { keep: *keep, reasons: vec!["x".into()] })).collect();
            let config = Config { max_forget: usize::MAX, ..Config::default() };
            let now = at(now_day);
            let guarded = apply(&config, Allowance::default(), &TimeZone::UTC, now, &subjects, plan.clone()).unwrap();
            prop_assert_eq!(guarded.len(), plan.len());
            for subject in &subjects {
                let decision = &guarded[&subject.id];
                prop_assert!(decision.keep || !plan[&subject.id].keep, "a keep became a forget");
                prop_assert!(decision.keep || !subject.pinned);
                prop_assert!(decision.keep || now.duration_since(subject.id.taken()) >= config.min_age.0);
            }
            let newest = |what: &dyn Fn(&&Subject) -> bool| subjects.iter().filter(what).map(|s| s.id).max();
            for protected in [newest(&|s| s.complete), newest(&|s| s.verified), newest(&|s| s.sources.contains("db"))]
                .into_iter().flatten() {
                prop_assert!(guarded[&protected].keep);
            }
        }
    }
}
