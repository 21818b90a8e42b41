//! Simulates the promise: prune every day for years, and check at each moment that every owed point can still be
//! restored to the same state as from a history without pruning.
//!
//! This file finds the ends of periods in a different way than `calendar.rs`: it walks the calendar day by day.

use crate::calendar::Calendar;
use crate::policy::{Snapshot, plan};
use crate::settings::{Cutoff, FiscalYearEnd, Settings};
use jiff::ToSpan;
use jiff::civil::{Date, date};
use jiff::tz::TimeZoneDatabase;
use proptest::prelude::*;

const ZONES: [&str; 8] = [
    "Europe/Paris",
    "America/New_York",
    "America/Sao_Paulo",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Africa/Casablanca",
    "Asia/Kathmandu",
    "UTC",
];
const FISCAL_YEAR_ENDS: [&str; 6] = ["12-31", "03-31", "06-30", "02-28", "02-29", "09-30"];
const CUTOFFS: [&str; 5] = ["00:00", "00:30", "02:30", "03:00", "22:00"];

/// When a company's runs happen and how they end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pattern {
    /// Every night.
    Nightly,
    /// Only on the evenings of working days.
    Office,
    /// Every fifth run fails, some without leaving a record.
    Failing,
    /// Weeks, months and once more than a year without any run.
    Holes,
    /// Several runs a day: some in the second in which a day ends, two in the same second, some with a wrong clock.
    Busy,
}

const PATTERNS: [Pattern; 5] = [Pattern::Nightly, Pattern::Office, Pattern::Failing, Pattern::Holes, Pattern::Busy];

/// SplitMix64: reproducible, so that a failure can be replayed from its seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }
}

#[derive(Debug, Clone)]
struct Scenario {
    zone: &'static str,
    settings: Settings,
    pattern: Pattern,
    first: Date,
    days: i32,
    seed: u64,
}

/// The ends of all days, months and fiscal years, by walking the days.
struct Ends {
    tiers: [Vec<i64>; 3],
}

impl Ends {
    fn from_scenario(scenario: &Scenario) -> Self {
        let zone = TimeZoneDatabase::bundled().get(scenario.zone).unwrap();
        let end = scenario.settings.fiscal_year_end;
        let mut tiers = [vec![], vec![], vec![]];
        let horizon = scenario.first.checked_add((scenario.days + 40).days()).unwrap();
        let mut day = scenario.first.checked_sub(12.years()).unwrap();
        while day < horizon {
            let tomorrow = day.tomorrow().unwrap();
            let at = zone.to_timestamp(tomorrow.to_datetime(scenario.settings.cutoff.0)).unwrap().as_second();
            let last_of_fiscal_year = day.month() == end.month && day.day() == end.day.min(day.days_in_month());
            if tiers[0].last() != Some(&at) {
                tiers[0].push(at);
            }
            if tomorrow.day() == 1 {
                tiers[1].push(at);
            }
            if last_of_fiscal_year {
                tiers[2].push(at);
            }
            day = tomorrow;
        }
        Self { tiers }
    }

    /// The ended periods that are owed, as (begin, end).
    fn owed(&self, now: i64, settings: &Settings) -> Vec<(i64, i64)> {
        let counts = [settings.daily, settings.monthly, settings.yearly];
        let owed = self.tiers.iter().zip(counts).flat_map(|(ends, count)| {
            let ended = ends.partition_point(|&end| end <= now);
            let first = ended.saturating_sub(count as usize).max(1);
            (first..ended).map(|at| (ends[at - 1], ends[at]))
        });
        owed.collect()
    }
}

/// One day's runs as (taken, complete), and when the day's prune happens.
fn runs(scenario: &Scenario, number: i32, begins: i64, chance: &mut Chance) -> (Vec<(i64, bool)>, i64) {
    let night = begins + 3_600 + chance.below(600).cast_signed();
    let nightly = vec![(night, true)];
    let taken = match scenario.pattern {
        Pattern::Nightly => nightly,
        Pattern::Office if number % 7 < 5 => vec![(begins + 19 * 3_600, true)],
        Pattern::Office => vec![],
        Pattern::Failing if chance.one_in(5) && chance.one_in(2) => vec![],
        Pattern::Failing => vec![(night, !chance.one_in(6))],
        Pattern::Holes => {
            let hole = matches!(number % 400, 20..29 | 100..175) || matches!(number, 1_500..1_950) || chance.one_in(40);
            if hole { vec![] } else { vec![(night, true), (night + 40_000, true)] }
        }
        Pattern::Busy => {
            let mut taken: Vec<_> = (0..chance.below(4)).map(|_| chance.below(86_400).cast_signed() + begins).collect();
            taken.extend(chance.one_in(4).then_some(begins));
            taken.extend(taken.first().copied().filter(|_| chance.one_in(4)));
            let skew = if chance.one_in(50) { 3 * 86_400 } else { 0 };
            taken.sort_unstable();
            taken.into_iter().map(|at| (at + skew, true)).map(|(at, _)| (at, !chance.one_in(8))).collect()
        }
    };
    let last = taken.iter().map(|&(at, _)| at).filter(|&at| at < begins + 90_000).max();
    let prune = last.unwrap_or(begins + 3_600) + chance.below(30).cast_signed();
    (taken, prune)
}

/// Simulates the scenario. Returns the number of snapshots at the end, and the highest number after any prune.
fn play(scenario: &Scenario) -> (usize, usize) {
    let settings = &scenario.settings;
    let calendar = Calendar::from_zone(TimeZoneDatabase::bundled().get(scenario.zone).unwrap(), settings);
    let ends = Ends::from_scenario(scenario);
    let mut chance = Chance(scenario.seed);
    let mut history: Vec<(i64, usize)> = Vec::new();
    let mut alive: Vec<(usize, Snapshot)> = Vec::new();
    let (mut number_of_runs, mut most, mut clock) = (0, 0, i64::MIN);

    for number in 0..scenario.days {
        let begins = calendar.begin(scenario.first.checked_add(number.days()).unwrap());
        let (taken, prune) = runs(scenario, number, begins, &mut chance);
        clock = clock.max(prune);
        for (taken, complete) in taken {
            alive.push((number_of_runs, Snapshot { taken, complete, pinned: false }));
            history.extend(complete.then_some((taken, number_of_runs)));
            number_of_runs += 1;
        }
        alive.sort_by_key(|&(id, snapshot)| (snapshot.taken, id));
        history.sort_unstable();

        let snapshots: Vec<_> = alive.iter().map(|&(_, snapshot)| snapshot).collect();
        let decisions = plan(clock, &calendar, settings, &snapshots).decisions;
        let mut keep = decisions.iter().map(|decision| decision.keep);
        alive.retain(|_| keep.next().unwrap());
        most = most.max(alive.len());
        check(clock, &ends, &history, &alive, scenario);
    }
    (alive.len(), most)
}

/// Checks the promise at one moment.
fn check(now: i64, ends: &Ends, history: &[(i64, usize)], alive: &[(usize, Snapshot)], scenario: &Scenario) {
    let has = |wanted: usize| alive.iter().any(|&(id, _)| id == wanted);
    let before = |instant: i64| history.partition_point(|&(taken, _)| taken < instant);
    let promise = |position: Option<usize>, what: &str, instant: i64| {
        if let Some(&(taken, id)) =
            position.and_then(|position| history.get(position)).filter(|(taken, _)| *taken <= now)
        {
            assert!(has(id), "{what} {instant}: the one taken at {taken} is gone at {now} in {scenario:?}");
        }
    };
    promise(before(now.saturating_add(1)).checked_sub(1), "the newest at", now);
    for (begin, end) in ends.owed(now, &scenario.settings) {
        promise(before(end).checked_sub(1), "the last before", end);
        promise(before(end + 1).checked_sub(1), "the last up to", end);
        if before(begin) == before(end) && before(begin) > 0 {
            promise(Some(before(end)), "the first after the gap to", end);
        }
    }
}

fn settings(daily: u32, monthly: u32, yearly: u32, cutoff: &str, fiscal_year_end: &str) -> Settings {
    Settings {
        daily,
        monthly,
        yearly,
        cutoff: Cutoff::try_from(cutoff.to_owned()).unwrap(),
        fiscal_year_end: FiscalYearEnd::try_from(fiscal_year_end.to_owned()).unwrap(),
        ..Settings::default()
    }
}

#[test]
fn fourteen_years_of_daily_pruning_lose_no_owed_point() {
    for (at, pattern) in PATTERNS.into_iter().enumerate() {
        let settings = settings(30, 12, 10, CUTOFFS[at], FISCAL_YEAR_ENDS[at]);
        let (zone, first) = (ZONES[at], date(2010, 1, 4));
        let scenario = Scenario { zone, settings, pattern, first, days: 14 * 365 + 4, seed: 7 };
        let (left, most) = play(&scenario);
        // The current period and the ended ones of each tier: the number of kept snapshots does not grow with the
        // history.
        let points = 31 + 13 + 11;
        match pattern {
            Pattern::Nightly => assert!((points - 5..=points).contains(&left) && most <= points, "{left}, {most}"),
            // Every gap and every failed run of the last 30 days adds at most one, and so does a run in the exact
            // second in which a day ended.
            _ => assert!(most <= 3 * points, "{pattern:?}: {most}"),
        }
    }
}

#[test]
fn sparse_settings_also_lose_no_owed_point() {
    for (daily, monthly, yearly) in [(0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 2, 2), (3, 0, 10), (0, 0, 10)] {
        for pattern in PATTERNS {
            let settings = settings(daily, monthly, yearly, "03:00", "02-29");
            let (zone, first) = ("Europe/Paris", date(2023, 6, 1));
            play(&Scenario { zone, settings, pattern, first, days: 1_000, seed: 11 });
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_history_settings_or_time_zone_loses_an_owed_point(
        zone in prop::sample::select(&ZONES[..]),
        cutoff in prop::sample::select(&CUTOFFS[..]),
        fiscal_year_end in prop::sample::select(&FISCAL_YEAR_ENDS[..]),
        pattern in prop::sample::select(&PATTERNS[..]),
        (daily, monthly, yearly) in (0..6_u32, 0..5_u32, 0..4_u32).prop_filter("keep_nothing", |t| *t != (0, 0, 0)),
        year in 2005..2030_i16,
        days in 1..700,
        seed: u64,
    ) {
        let settings = settings(daily, monthly, yearly, cutoff, fiscal_year_end);
        play(&Scenario { zone, settings, pattern, first: date(year, 11, 20), days, seed });
    }
}
