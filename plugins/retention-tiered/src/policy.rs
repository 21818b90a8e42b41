//! Which snapshots stay, and why. A pure function of its arguments; it never sees a clock, an object or a store.
//!
//! A point in time is owed when a setting promises the state as of then: now, and the end of each of the last N
//! days, months and fiscal years. What serves it is the last complete snapshot before it, however old that is, so a
//! quiet or failed night costs nothing. Pruning every day never loses what a history never pruned would give: an
//! end that is still to come is served by the newest snapshot or by one not taken yet, the newest always stays, and
//! an end that has come is owed at once and until it leaves its tier for good.

use crate::calendar::{Calendar, Period, Tier, next};
use crate::settings::Settings;
use jiff::ToSpan;
use jiff::civil::Date;
use std::collections::BTreeSet;

/// What the rule looks at of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// Seconds since 1970-01-01T00:00:00Z.
    pub taken: i64,
    /// Every source is restorable from it.
    pub complete: bool,
    /// Never forgotten, whatever the rule says.
    pub pinned: bool,
}

/// What becomes of one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Whether it stays.
    pub keep: bool,
    /// Short phrases, at least one.
    pub reasons: Vec<String>,
}

/// What becomes of all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// One for each snapshot, in the order in which they came.
    pub decisions: Vec<Decision>,
    /// Lines for the operator.
    pub notes: Vec<String>,
}

/// Decides for every snapshot. Of two taken in the same second the later in the list is the newer.
///
/// A snapshot from the future of `now` stays and serves nothing: one wrong clock must not push out the real history.
#[must_use]
pub fn plan(now: i64, calendar: &Calendar, settings: &Settings, snapshots: &[Snapshot]) -> Plan {
    let mut reasons: Vec<Vec<String>> = vec![Vec::new(); snapshots.len()];
    let mut notes = Vec::new();
    let today = calendar.day_of(now);

    if !settings.keep_nothing {
        let history = History::of(now, snapshots);
        let periods = [
            calendar.periods(Tier::Day, settings.daily, today),
            calendar.periods(Tier::Month, settings.monthly, today),
            calendar.periods(Tier::FiscalYear, settings.yearly, today),
        ];
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

    let decisions = snapshots.iter().zip(reasons).map(|(snapshot, served)| decide(snapshot, served, now, today, calendar, settings));
    Plan { decisions: decisions.collect(), notes }
}

/// What the owed points leave open: pins, clock skew and failed runs.
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

/// Keeps what serves the end of each period, and what was taken in the very second of it: that one belongs to the
/// next period, but shows the state at the end of this.
fn keep_owed(now: i64, newest_first: &[Period], history: &History, reasons: &mut [Vec<String>]) {
    let mut served: Vec<(usize, Vec<&Period>)> = Vec::new();
    for period in newest_first.iter().rev().filter(|period| period.begins < period.ends) {
        let Some(position) = history.before(period.ends).checked_sub(1) else { continue };
        match served.last_mut() {
            Some((last, periods)) if *last == position => periods.push(period),
            _ => served.push((position, vec![period])),
        }
        let at_the_end = history.before(period.ends.saturating_add(1)).saturating_sub(1);
        if period.ends <= now && at_the_end != position {
            reasons[history.complete[at_the_end].1].push(format!("{} (in its last second)", range(&[period])));
        }
    }
    for (position, periods) in served {
        reasons[history.complete[position].1].push(range(&periods));
    }
}

/// Keeps the first snapshot after a gap (the last before it serves an owed point already), and says so.
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
    let hole = if from < to { format!("{from}..{to}") } else { from.to_string() };
    reasons[before].push(format!("before the hole {hole}"));
    reasons[after].push(format!("after the hole {hole}"));
    notes.push(format!("no complete snapshot was taken on {hole}: keeping the last before and the first after"));
}

/// `day 2026-06-30`, or `days 2026-06-11..2026-06-30` for periods in a row.
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

/// The complete snapshots up to now, oldest first, as (taken, place in the list).
struct History {
    complete: Vec<(i64, usize)>,
}

impl History {
    fn of(now: i64, snapshots: &[Snapshot]) -> Self {
        let numbered = snapshots.iter().enumerate();
        let mut complete: Vec<_> =
            numbered.filter(|(_, s)| s.complete && s.taken <= now).map(|(place, s)| (s.taken, place)).collect();
        complete.sort_unstable();
        Self { complete }
    }

    fn newest(&self) -> Option<usize> {
        self.complete.last().map(|&(_, place)| place)
    }

    /// How many were taken before an instant.
    fn before(&self, instant: i64) -> usize {
        self.complete.partition_point(|&(taken, _)| taken < instant)
    }

    /// Positions after which at least one of the ended periods has no snapshot at all.
    fn gaps<'a>(&self, now: i64, periods: impl Iterator<Item = &'a Period>) -> BTreeSet<usize> {
        let ended = periods.filter(|period| period.begins < period.ends && period.ends <= now);
        let empty = ended.filter(|period| self.before(period.begins) == self.before(period.ends));
        empty.filter_map(|period| self.before(period.ends).checked_sub(1)).collect()
    }
}
