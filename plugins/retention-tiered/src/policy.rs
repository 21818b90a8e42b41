//! Decides which snapshots to keep, and why. A pure function of its arguments; it never sees a clock, an object or a
//! store.
//!
//! A point in time is owed if a setting promises the state at that time: now, and the end of each of the last N days,
//! months and fiscal years. The last complete snapshot before the point serves it, however old that snapshot is, so a
//! quiet or failed night costs nothing. Pruning every day loses no state that a history without pruning could restore:
//! - a future end is served by the newest snapshot or by one not taken yet, and the newest is always kept;
//! - a past end is owed from the moment it has passed until it leaves its tier for good.

use crate::calendar::{Calendar, Period, Tier, next};
use crate::history::History;
use crate::settings::Settings;
use jiff::ToSpan;
use jiff::civil::Date;

/// The parts of a snapshot that the rule uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// Seconds since 1970-01-01T00:00:00Z.
    pub taken: i64,
    /// Every source can be restored from it.
    pub complete: bool,
    /// Never forgotten, whatever the rule decides.
    pub pinned: bool,
}

/// The decision for one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Whether to keep it.
    pub keep: bool,
    /// Short phrases, at least one.
    pub reasons: Vec<String>,
}

/// The decisions for all snapshots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// One for each snapshot, in the same order.
    pub decisions: Vec<Decision>,
    /// Lines for the operator.
    pub notes: Vec<String>,
}

/// Decides for every snapshot. Of two taken in the same second, the later one in the list counts as newer.
///
/// A snapshot taken after `now` is kept but serves nothing: one wrong clock must not push out the real history.
pub fn plan(now: i64, calendar: &Calendar, settings: &Settings, snapshots: &[Snapshot]) -> Plan {
    let mut reasons: Vec<Vec<String>> = vec![Vec::new(); snapshots.len()];
    let mut notes = Vec::new();
    let today = calendar.day_of(now);

    if !settings.keep_nothing {
        let history = History::from_snapshots(now, snapshots);
        let tiers = [(Tier::Day, settings.daily), (Tier::Month, settings.monthly), (Tier::FiscalYear, settings.yearly)];
        let owed = tiers.into_iter().filter(|&(_, count)| count > 0);
        let periods: Vec<_> = owed.map(|(tier, count)| calendar.periods(tier, count, today)).collect();
        if let Some(newest) = history.newest() {
            reasons[newest].push("newest".into());
        }
        for tier in &periods {
            keep_owed(now, tier, &history, &mut reasons);
        }
        for gap in history.gaps(now, periods.iter().flatten()) {
            keep_neighbours(gap, today, calendar, &history, &mut reasons, &mut notes);
        }
    }

    let decisions = snapshots
        .iter()
        .zip(reasons)
        .map(|(snapshot, served)| decide(snapshot, served, now, today, calendar, settings));
    Plan { decisions: decisions.collect(), notes }
}

/// Adds what the owed points do not decide: pins, clock skew and failed runs.
fn decide(
    snapshot: &Snapshot,
    mut reasons: Vec<String>,
    now: i64,
    today: Date,
    calendar: &Calendar,
    settings: &Settings,
) -> Decision {
    let days = settings.incomplete_days();
    let evidence_begins = || calendar.begin(today.checked_sub(i64::from(days).days()).unwrap_or(Date::MIN));
    if snapshot.pinned {
        reasons.push("pinned".into());
    }
    if snapshot.taken > now {
        reasons.push("taken in the future".into());
    } else if !snapshot.complete && days > 0 && snapshot.taken >= evidence_begins() {
        reasons.push(format!("incomplete, evidence for {days} days"));
    }
    if !reasons.is_empty() {
        return Decision { keep: true, reasons };
    }
    let reason = match snapshot.complete {
        _ if settings.keep_nothing => "keep_nothing is set".into(),
        true => "serves no owed day, month or fiscal year".into(),
        false => format!("incomplete, older than {days} days"),
    };
    Decision { keep: false, reasons: vec![reason] }
}

/// Keeps the snapshot that serves the end of each period, and one taken in the exact second of that end. The latter
/// belongs to the next period but shows the state at the end of this one.
fn keep_owed(now: i64, newest_first: &[Period], history: &History, reasons: &mut [Vec<String>]) {
    let mut served: Vec<(usize, Vec<&Period>)> = Vec::new();
    for period in newest_first.iter().rev() {
        let before = history.before(period.ends);
        let up_to = if period.ends <= now { history.before(period.ends.saturating_add(1)) } else { before };
        if up_to > before {
            reasons[history.complete[up_to - 1].1].push(format!("{} (in the second it ended)", range(&[period])));
        }
        let Some(position) = before.checked_sub(1) else { continue };
        match served.last_mut() {
            Some((last, periods)) if *last == position => periods.push(period),
            _ => served.push((position, vec![period])),
        }
    }
    for (position, periods) in served {
        reasons[history.complete[position].1].push(range(&periods));
    }
}

/// Keeps the first snapshot after a gap and notes it. The last one before the gap already serves an owed point.
fn keep_neighbours(
    gap: usize,
    today: Date,
    calendar: &Calendar,
    history: &History,
    reasons: &mut [Vec<String>],
    notes: &mut Vec<String>,
) {
    let (taken, before) = history.complete[gap];
    let from = next(calendar.day_of(taken));
    let Some(&(taken, after)) = history.complete.get(gap + 1) else {
        notes.push(format!("no complete snapshot since {}, today is {today}", calendar.day_of(taken)));
        return;
    };
    let to = calendar.day_of(taken);
    let to = to.yesterday().unwrap_or(to);
    let days = if from < to { format!("{from}..{to}") } else { from.to_string() };
    reasons[before].push(format!("before the gap {days}"));
    reasons[after].push(format!("after the gap {days}"));
    notes.push(format!("no complete snapshot on {days}: keeping the last before and the first after the gap"));
}

/// `day 2026-06-30`, or `days 2026-06-11..2026-06-30` for consecutive periods.
fn range(periods: &[&Period]) -> String {
    let (Some(first), Some(last)) = (periods.first(), periods.last()) else { return String::new() };
    let tier = match first.tier {
        Tier::Day => "day",
        Tier::Month => "month",
        Tier::FiscalYear => "fiscal year",
    };
    match periods.len() {
        1 => format!("{tier} {}", first.name),
        _ => format!("{tier}s {}..{}", first.name, last.name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Cutoff, FiscalYearEnd};

    /// In summer Paris is two hours ahead of UTC, so local times and UTC are easy to distinguish.
    fn paris() -> jiff::tz::TimeZone {
        jiff::tz::TimeZoneDatabase::bundled().get("Europe/Paris").unwrap()
    }

    fn local(text: &str) -> i64 {
        let time: jiff::civil::DateTime = text.parse().unwrap();
        paris().to_timestamp(time).unwrap().as_second()
    }

    fn complete(text: &str) -> Snapshot {
        Snapshot { taken: local(text), complete: true, pinned: false }
    }

    fn incomplete(text: &str) -> Snapshot {
        Snapshot { complete: false, ..complete(text) }
    }

    fn counts(daily: u32, monthly: u32, yearly: u32) -> Settings {
        Settings { daily, monthly, yearly, ..Settings::default() }
    }

    fn planned(now: &str, settings: &Settings, snapshots: &[Snapshot]) -> Plan {
        plan(local(now), &Calendar::from_zone(paris(), settings), settings, snapshots)
    }

    /// Places of the kept snapshots.
    fn kept(now: &str, settings: &Settings, snapshots: &[Snapshot]) -> Vec<usize> {
        let decisions = planned(now, settings, snapshots).decisions;
        assert!(decisions.iter().all(|decision| !decision.reasons.is_empty()), "{decisions:?}");
        (0..snapshots.len()).filter(|&place| decisions[place].keep).collect()
    }

    #[test]
    fn an_empty_list_gives_an_empty_plan() {
        assert_eq!(planned("2026-07-01T01:00", &counts(1, 1, 1), &[]), Plan { decisions: vec![], notes: vec![] });
    }

    #[test]
    fn each_owed_end_is_served_by_the_last_snapshot_before_it() {
        let cutoff_at_three = Settings { cutoff: Cutoff("03:00".parse().unwrap()), ..counts(0, 1, 0) };
        let to_march = Settings { fiscal_year_end: FiscalYearEnd { month: 3, day: 31 }, ..counts(0, 0, 1) };
        for (case, now, settings, taken, expected) in [
            (
                "the month's last second, not the first of the next",
                "2026-07-02T12:00",
                counts(0, 1, 0),
                vec!["2026-06-30T12:00", "2026-06-30T23:59:59", "2026-07-01T00:00:01", "2026-07-02T01:00"],
                vec![1, 3],
            ),
            (
                "a run at 02:00 on the 1st belongs to the month before when the cut-off is 03:00",
                "2026-07-02T12:00",
                cutoff_at_three,
                vec!["2026-06-30T02:00", "2026-07-01T02:00", "2026-07-01T04:00", "2026-07-02T02:00"],
                vec![1, 3],
            ),
            (
                "without a cut-off that run belongs to the new month",
                "2026-07-02T12:00",
                counts(0, 1, 0),
                vec!["2026-06-30T02:00", "2026-07-01T02:00", "2026-07-02T02:00"],
                vec![0, 2],
            ),
            (
                "one at the boundary instant stays beside the one before it",
                "2026-07-02T12:00",
                counts(0, 1, 0),
                vec!["2026-06-30T02:00", "2026-07-01T00:00:00", "2026-07-01T00:00:01", "2026-07-02T02:00"],
                vec![0, 1, 3],
            ),
            (
                "of two in the same second the later in the list",
                "2026-07-02T12:00",
                counts(0, 1, 0),
                vec!["2026-06-30T02:00", "2026-06-30T02:00", "2026-07-02T02:00", "2026-07-02T02:00"],
                vec![1, 3],
            ),
            (
                "the fiscal year that ends in March",
                "2026-04-02T12:00",
                to_march,
                vec!["2025-12-31T23:00", "2026-03-31T23:00", "2026-04-01T23:00", "2026-04-02T01:00"],
                vec![1, 3],
            ),
            (
                "December 31 and January 1",
                "2027-01-02T12:00",
                counts(0, 0, 1),
                vec!["2026-12-31T01:00", "2026-12-31T23:59:59", "2027-01-01T00:00:30", "2027-01-02T01:00"],
                vec![1, 3],
            ),
            (
                "the end of a leap February",
                "2028-03-02T12:00",
                counts(0, 1, 0),
                vec!["2028-02-28T23:00", "2028-02-29T23:00", "2028-03-01T23:00", "2028-03-02T01:00"],
                vec![1, 3],
            ),
            (
                "a day of 23 and one of 25 hours are days",
                "2026-03-30T12:00",
                counts(2, 0, 0),
                vec!["2026-03-28T23:59:59", "2026-03-29T00:00:01", "2026-03-29T23:59:59", "2026-03-30T01:00"],
                vec![0, 2, 3],
            ),
            (
                "with no tier but the yearly one the newest stays",
                "2026-07-02T12:00",
                counts(0, 0, 1),
                vec!["2026-06-30T01:00", "2026-07-01T01:00", "2026-07-02T01:00"],
                vec![2],
            ),
        ] {
            let snapshots: Vec<_> = taken.into_iter().map(complete).collect();
            assert_eq!(kept(now, &settings, &snapshots), expected, "{case}");
        }
    }

    #[test]
    fn a_quiet_time_is_served_by_the_last_snapshot_before_it() {
        // The last snapshot is from May; the ends of May and June are owed from July on.
        let snapshots = [complete("2026-05-01T01:00"), complete("2026-05-20T01:00")];
        let plan = planned("2026-07-03T12:00", &counts(1, 2, 0), &snapshots);
        assert!(!plan.decisions[0].keep);
        assert_eq!(plan.decisions[1].reasons[..2], ["newest", "days 2026-07-02..2026-07-03"]);
        assert_eq!(plan.decisions[1].reasons[2], "months 2026-05..2026-07");
        assert_eq!(plan.notes, ["no complete snapshot since 2026-05-20, today is 2026-07-03"]);
    }

    #[test]
    fn a_gap_keeps_both_neighbours_and_is_reported() {
        let snapshots = [
            complete("2026-03-01T01:00"),
            complete("2026-03-01T20:00"),
            incomplete("2026-03-05T20:00"),
            complete("2026-03-10T01:00"),
            complete("2026-03-10T20:00"),
            complete("2026-03-11T01:00"),
        ];
        let plan = planned("2026-03-11T12:00", &counts(5, 0, 0), &snapshots);
        let kept: Vec<_> = plan.decisions.iter().map(|decision| decision.keep).collect();
        // The ends of 6 to 9 March are owed, and the evening of the 1st serves them.
        assert_eq!(kept, [false, true, false, true, true, true]);
        assert_eq!(plan.decisions[1].reasons, ["days 2026-03-06..2026-03-09", "before the gap 2026-03-02..2026-03-09"]);
        assert_eq!(plan.decisions[3].reasons, ["after the gap 2026-03-02..2026-03-09"]);
        assert_eq!(plan.decisions[4].reasons, ["day 2026-03-10"]);
        assert_eq!(plan.notes.len(), 1);
        assert!(plan.notes[0].contains("on 2026-03-02..2026-03-09"), "{:?}", plan.notes);
    }

    #[test]
    fn a_gap_of_one_day_has_one_date_and_the_time_before_the_first_snapshot_is_not_a_gap() {
        let snapshots = [complete("2026-03-08T01:00"), complete("2026-03-10T01:00")];
        let plan = planned("2026-03-10T12:00", &counts(30, 12, 10), &snapshots);
        assert_eq!(plan.decisions[1].reasons.last().unwrap(), "after the gap 2026-03-09");
        assert_eq!(plan.notes.len(), 1, "{:?}", plan.notes);
    }

    #[test]
    fn failed_runs_are_kept_for_some_days_and_never_serve_an_end() {
        let snapshots = [complete("2026-06-25T01:00"), incomplete("2026-06-28T01:00"), incomplete("2026-06-30T01:00")];
        assert_eq!(kept("2026-07-01T12:00", &counts(2, 0, 0), &snapshots), [0, 2]);
        let settings = Settings { incomplete_days: Some(3), ..counts(2, 0, 0) };
        assert_eq!(kept("2026-07-01T12:00", &settings, &snapshots), [0, 1, 2]);
        let settings = Settings { incomplete_days: Some(0), ..counts(2, 0, 0) };
        assert_eq!(kept("2026-07-01T12:00", &settings, &snapshots), [0]);
        assert_eq!(kept("2026-07-01T12:00", &counts(2, 0, 0), &snapshots[2..]), [0]);
    }

    #[test]
    fn pinned_snapshots_and_those_of_a_wrong_clock_are_kept_and_serve_nothing() {
        let pinned = Snapshot { pinned: true, ..complete("2019-01-01T01:00") };
        let taken = ["2026-06-30T01:00", "2026-06-30T02:00", "2026-07-01T01:00", "2031-01-01T01:00"].map(complete);
        let snapshots = [&[pinned], &taken[..]].concat();
        let plan = planned("2026-07-01T12:00", &counts(1, 0, 0), &snapshots);
        assert_eq!(plan.decisions[0].reasons, ["pinned"]);
        assert!(!plan.decisions[1].keep);
        assert_eq!(plan.decisions[2].reasons, ["day 2026-06-30"]);
        assert_eq!(plan.decisions[3].reasons[0], "newest");
        assert_eq!(plan.decisions[4].reasons, ["taken in the future"]);
    }

    #[test]
    fn keep_nothing_still_keeps_pins_and_the_future() {
        let settings = Settings { keep_nothing: true, ..counts(0, 0, 0) };
        let pinned = Snapshot { pinned: true, ..complete("2026-01-01T01:00") };
        let snapshots =
            [pinned, complete("2026-07-01T01:00"), incomplete("2026-07-01T02:00"), complete("2026-07-09T01:00")];
        assert_eq!(kept("2026-07-01T12:00", &settings, &snapshots), [0, 3]);
    }

    #[test]
    fn ten_thousand_snapshots_and_instants_beyond_the_calendar_are_decided() {
        let settings = counts(30, 12, 10);
        let now = local("2026-07-01T12:00");
        let mut snapshots: Vec<_> = (0..9_998)
            .map(|hours| Snapshot { taken: now - 30 - hours * 3600, complete: true, pinned: false })
            .collect();
        snapshots.push(Snapshot { taken: i64::MAX, complete: true, pinned: false });
        snapshots.push(Snapshot { taken: i64::MIN, complete: true, pinned: false });
        let calendar = Calendar::from_zone(paris(), &settings);
        let kept = plan(now, &calendar, &settings, &snapshots).decisions.into_iter().filter(|d| d.keep).count();
        // 31 days; 12 months, of which June ended on one of the days and December ended 2025; the first of last May
        // after the long gap; and the two snapshots outside the calendar.
        assert_eq!(kept, 31 + 11 + 1 + 2);
        for now in [i64::MIN, i64::MAX] {
            assert_eq!(plan(now, &calendar, &settings, &snapshots).decisions.len(), snapshots.len());
        }
    }
}
