//! Which snapshots of days, months and years stay if two clocks disagreed.

use super::config::fiscal_year;
use super::{GuardConfig, Subject};
use crate::clock::ClockFacts;
use crate::guard::Serves;
use base::id::SnapshotId;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use std::collections::{BTreeMap, BTreeSet};

/// How many days are protected individually after two clocks disagreed. The default retention keeps thirty days, and it
/// may take a month to notice.
const CLOCKS_DAYS: i32 = 62;

/// A day, a month or a fiscal year, by its last day.
type Period = (Span, Date);

/// How long a period is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Span {
    Day,
    Month,
    Year,
}

/// The last state of each day, month and fiscal year under each clock, if states of clocks that disagreed fall into the
/// same period. A person decides which clock was right. The person may be mistaken, and may decide years later.
pub(super) fn last_of_each_clock(
    config: &GuardConfig,
    time_zone: &TimeZone,
    now: Timestamp,
    subjects: &[Subject],
    source: &str,
) -> Vec<(SnapshotId, String)> {
    let holds = |subject: &Subject| subject.but_for_its_time.get(source).copied().unwrap_or(Serves::Nothing);
    let holders: Vec<&Subject> = subjects.iter().filter(|subject| holds(subject) != Serves::Nothing).collect();
    let clocks: BTreeSet<ClockFacts> = holders.iter().map(|subject| subject.clock).collect();
    if clocks.len() < 2 {
        return Vec::new();
    }
    let mut newest: BTreeMap<Period, BTreeMap<ClockFacts, (Serves, SnapshotId)>> = BTreeMap::new();
    let today = now.to_zoned_datetime(time_zone.clone()).date();
    for subject in holders {
        let state = (holds(subject), subject.id);
        let day = subject.id.taken().to_zoned_datetime(time_zone.clone()).date();
        let year = fiscal_year(config.fiscal_year_end, day).map(|end| (Span::Year, end));
        let periods = [Some((Span::Day, day)), Some((Span::Month, day.last_of_month())), year];
        for (span, end) in periods.into_iter().flatten() {
            let years = i32::from(config.legal_years).saturating_add(1);
            let held = if span == Span::Day { CLOCKS_DAYS.days() } else { years.years() };
            if end >= today.saturating_sub(held) {
                let kept = newest.entry((span, end)).or_default().entry(subject.clock).or_insert(state);
                *kept = state.max(*kept);
            }
        }
    }
    let disagreed = newest.into_iter().filter(|(_, clocks)| clocks.len() > 1);
    let rule = |(span, end): Period| match span {
        Span::Day => format!("the last of {end} by one of two clocks"),
        Span::Month => format!("the last of {} by one of two clocks", end.strftime("%Y-%m")),
        Span::Year => format!("the last of the fiscal year that ends on {end} by one of two clocks"),
    };
    disagreed.flat_map(|(period, clocks)| clocks.into_values().map(move |(_, id)| (id, rule(period)))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{forget_all, with};
    use super::super::{Age, apply};
    use super::*;

    #[test]
    fn the_last_of_each_period_under_each_clock_stays_whatever_a_person_answers() {
        let config = GuardConfig { min_age: Age::try_from("0m".to_owned()).unwrap(), ..GuardConfig::default() };
        let subject = |id: &str, clock: ClockFacts, judged: Serves| {
            let held = [("db".to_owned(), Serves::First), ("docs".to_owned(), Serves::First)].into();
            Subject { clock, but_for_its_time: held, ..with(id, judged, judged) }
        };
        let (plain, ahead) = (ClockFacts::default(), ClockFacts { met_ahead: true, ..ClockFacts::default() });
        let behind = ClockFacts { behind: true, ..ClockFacts::default() };
        let subjects = [
            subject("20251130T220000Z", plain, Serves::First),
            subject("20251224T223000Z", plain, Serves::First),
            subject("20251230T220000Z", behind, Serves::Misplaced),
            subject("20251231T220000Z", behind, Serves::Misplaced),
            subject("20251230T223000Z", ahead, Serves::First),
            subject("20251231T223000Z", ahead, Serves::First),
        ];
        let kept = |subjects: &[Subject], now: &str| -> Vec<String> {
            let zone = TimeZone::get("Europe/Paris").unwrap();
            let guarded = apply(&config, true, &zone, now.parse().unwrap(), subjects, forget_all(subjects));
            let kept = guarded.plan.into_iter().filter(|(_, decision)| decision.keep);
            kept.map(|(id, _)| id.to_string()).collect()
        };
        // Days are protected for two months, then only months and years.
        let days = kept(&subjects, "2026-01-20T00:00:00Z");
        assert!(
            days.contains(&"20251230T220000Z".to_owned()) && !days.contains(&"20251130T220000Z".to_owned()),
            "{days:?}"
        );
        let years = ["20251224T223000Z", "20251231T220000Z", "20251231T223000Z"];
        assert_eq!(kept(&subjects, "2030-06-01T00:00:00Z"), years);
        // With one clock only the usual rules apply: the newest, and the fiscal year.
        let alone: Vec<Subject> = subjects.into_iter().map(|subject| Subject { clock: plain, ..subject }).collect();
        assert_eq!(kept(&alone, "2030-06-01T00:00:00Z"), ["20251231T223000Z"]);
    }
}
