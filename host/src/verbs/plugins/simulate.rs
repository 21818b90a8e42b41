//! `plugins simulate`: simulates years of daily runs in a second or two, with a prune after each, and shows what
//! remains.
//!
//! The component and the guard are real. The snapshots are made up, and the same in every simulation. The command opens
//! no store and reads no source.

use super::settings;
use crate::config::Config;
use crate::report::{FORMAT_VERSION, Report};
use crate::retention::{self, Rules, Wait};
use base::error::{Class, Error, Result};
use base::id::SnapshotId;
use catalogue::guard::{self, DecidedBy};
use catalogue::history::{History, Snapshot};
use catalogue::record::Condition;
use clap::ValueEnum;
use jiff::civil::{Date, Weekday};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use plugin::{Engine, Plugin, Plugins, Role};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use store::ObjectKey;

/// Longest simulation: more than twice the legal retention period.
const YEARS_MAX: u16 = 40;

/// The one source of a simulation.
const SOURCE: &str = "all";

/// Local hour of the daily run.
const RUN_HOUR: i8 = 1;

/// Periods that must be restorable: this many days and months, and the guard's years.
const DAYS_OWED: i32 = 30;
const MONTHS_OWED: i32 = 12;

/// Interval between changes in the pattern `quiet`.
const QUIET_CHANGE_DAYS: i64 = 11;

/// The pattern `holes`: in every period of `HOLE_EVERY_DAYS` days, the first `HOLE_DAYS` have no run, as if a cluster
/// were down over the holidays. One run in `FAILURE_EVERY_DAYS` fails.
const HOLE_EVERY_DAYS: i64 = 170;
const HOLE_DAYS: i64 = 19;
const FAILURE_EVERY_DAYS: i64 = 23;

/// Arguments of `plugins simulate`.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// The component, as named in the configuration or as a path; default: the configured retention plugin
    #[arg(long, value_name = "FILE")]
    component: Option<PathBuf>,
    /// Settings of the component, as the content of a TOML table: 'keep = 14'
    #[arg(long, value_name = "TOML")]
    settings: Option<String>,
    /// Years of daily runs
    #[arg(long, default_value_t = 14, value_parser = clap::value_parser!(u16).range(1..=i64::from(YEARS_MAX)))]
    years: u16,
    /// When the sources change, and which runs are missing or fail
    #[arg(long, value_enum, default_value_t = Pattern::Office)]
    pattern: Pattern,
}

/// When the sources change, and which runs are missing or fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Pattern {
    /// Changes from Monday to Friday
    Office,
    /// A change every eleven days
    Quiet,
    /// Changes from Monday to Friday, weeks without a run, and runs that fail
    Holes,
}

/// A made-up snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct MadeSnapshot {
    /// The day of the last change before it, whose object it holds.
    object: Date,
    complete: bool,
}

/// The result of a simulation.
#[derive(Debug, Default)]
struct Simulated {
    runs: usize,
    failed: usize,
    kept: BTreeMap<SnapshotId, MadeSnapshot>,
    most: usize,
    /// Snapshots in the bin, with the time at which they entered it.
    binned: BTreeMap<SnapshotId, Timestamp>,
    guarded: BTreeSet<String>,
    /// How often a snapshot had to wait for a later run.
    deferred: usize,
    /// Required points in time that were not restorable, with the first day on which this was so.
    lost: BTreeMap<String, Date>,
}

/// Simulates up to `now`.
///
/// # Errors
/// Errors of loading and running the component.
pub(super) async fn run(
    config: &Config,
    arguments: &Arguments,
    folder: Option<&Path>,
    now: Timestamp,
) -> Result<Report> {
    let plugins = plugins(config, arguments)?;
    let plugin = Plugin::load(&Engine::new()?, &plugins, Role::Retention, folder).await?;
    plugin.check_settings().await?;
    let zone = &config.time_zone;
    let today = now.to_zoned_datetime(zone.clone()).date();
    let first =
        today.checked_sub(i32::from(arguments.years).years()).map_err(|e| Error::new(Class::Usage, e.to_string()))?;
    let mut outcome = Simulated::default();
    let mut all: BTreeMap<SnapshotId, MadeSnapshot> = BTreeMap::new();
    let mut object = first;
    let mut day = first;
    while day <= today {
        let number = i64::from((day - first).get_days());
        if is_change(arguments.pattern, day, number) {
            object = day;
        }
        if has_run(arguments.pattern, number)
            && let Some(id) = run_on(day, zone)
        {
            let made = MadeSnapshot { object, complete: !fails(arguments.pattern, number) };
            outcome.runs += 1;
            outcome.failed += usize::from(!made.complete);
            all.insert(id, made);
            outcome.kept.insert(id, made);
            // A failed run freezes the retention.
            if made.complete {
                prune(config, &plugin, id.taken(), &mut outcome).await?;
            }
            outcome.most = outcome.most.max(outcome.kept.len());
            for (label, end) in owed(&config.guard, day, zone) {
                if is_lost(&all, &outcome.kept, end) {
                    outcome.lost.entry(label).or_insert(day);
                }
            }
        }
        day = day.tomorrow().map_err(|e| Error::unexpected(e.to_string()))?;
    }
    Ok(report(config, &plugins, &plugin, arguments, today, &all, &outcome))
}

fn plugins(config: &Config, arguments: &Arguments) -> Result<Plugins> {
    let mut plugins = config.plugins.clone();
    if let Some(component) = &arguments.component
        && *component != plugins.retention.component
    {
        plugins.retention.component.clone_from(component);
        plugins.retention.sha256 = None;
        plugins.retention.settings = toml::Table::new();
        // The component is only evaluated here, before anybody pins or locks it.
        (plugins.require_digest, plugins.require_lock) = (false, false);
        plugins.retention.signed_by.clone_from(&plugins.signed_by);
    }
    if let Some(text) = &arguments.settings {
        plugins.retention.settings = settings(text)?;
    }
    Ok(plugins)
}

fn is_change(pattern: Pattern, day: Date, number: i64) -> bool {
    match pattern {
        Pattern::Office | Pattern::Holes => !matches!(day.weekday(), Weekday::Saturday | Weekday::Sunday),
        Pattern::Quiet => number % QUIET_CHANGE_DAYS == 0,
    }
}

fn has_run(pattern: Pattern, number: i64) -> bool {
    pattern != Pattern::Holes || number % HOLE_EVERY_DAYS >= HOLE_DAYS
}

fn fails(pattern: Pattern, number: i64) -> bool {
    pattern == Pattern::Holes && number % FAILURE_EVERY_DAYS == 0
}

fn run_on(day: Date, zone: &TimeZone) -> Option<SnapshotId> {
    day.at(RUN_HOUR, 0, 0, 0).to_zoned_datetime(zone.clone()).ok().map(|run| SnapshotId::at(run.timestamp()))
}

/// The retention of one night, with the program's own steps: a snapshot enters the bin before it is deleted.
async fn prune(config: &Config, plugin: &Plugin, now: Timestamp, outcome: &mut Simulated) -> Result<()> {
    let history = history(outcome);
    let rules = Rules { guard: &config.guard, time_zone: &config.time_zone, allow_more: false };
    let planned = retention::plan(rules, plugin, &history, now).await?;
    let wait = Wait::Days(config.guard.bin_days);
    let steps = planned.steps(&history, wait, Some(now), &BTreeSet::from([SOURCE]));
    for id in &steps.taken_back {
        outcome.binned.remove(id);
    }
    for id in &steps.due {
        outcome.binned.remove(id);
        outcome.kept.remove(id);
    }
    outcome.binned.extend(steps.entering.iter().map(|id| (*id, now)));
    outcome.deferred += planned.deferred.len();
    let guarded = planned.plan.values().filter(|decision| decision.by == DecidedBy::Guard);
    outcome.guarded.extend(guarded.flat_map(|decision| decision.reasons.iter().cloned()));
    Ok(())
}

/// The history that a store would contain.
fn history(outcome: &Simulated) -> History {
    let snapshot = |(id, made): (&SnapshotId, &MadeSnapshot)| {
        let condition = if made.complete { Condition::Whole } else { Condition::Failed };
        let object = made.complete.then(|| made.object.to_string().replace('-', ""));
        Snapshot {
            binned: outcome.binned.get(id).copied(),
            stored: Some(id.taken()),
            ..Snapshot::of_one_source(*id, SOURCE, condition, object.and_then(|name| ObjectKey::parse(&name)))
        }
    };
    History::of(outcome.kept.iter().map(snapshot).collect())
}

/// The points in time that must be restorable on a day, each with the first moment after it.
fn owed(guard: &guard::GuardConfig, day: Date, zone: &TimeZone) -> Vec<(String, Timestamp)> {
    let start = |day: Date| day.to_zoned_datetime(zone.clone()).ok().map(|zoned| zoned.timestamp());
    let mut points = Vec::new();
    for back in 0..DAYS_OWED {
        let end = day.saturating_sub(back.days());
        points.extend(start(end).map(|moment| (format!("day {}", end.saturating_sub(1.day())), moment)));
    }
    for back in 0..MONTHS_OWED {
        let end = day.first_of_month().saturating_sub(back.months());
        let label = end.saturating_sub(1.day()).strftime("month %Y-%m").to_string();
        points.extend(start(end).map(|moment| (label, moment)));
    }
    for end in guard.completed_years(day) {
        let moment = end.tomorrow().ok().and_then(start);
        points.extend(moment.map(|moment| (format!("fiscal year to {end}"), moment)));
    }
    points
}

/// Whether the kept snapshots no longer give the same state for a moment as a history without pruning.
fn is_lost(
    all: &BTreeMap<SnapshotId, MadeSnapshot>,
    kept: &BTreeMap<SnapshotId, MadeSnapshot>,
    before: Timestamp,
) -> bool {
    let state = |snapshots: &BTreeMap<SnapshotId, MadeSnapshot>| {
        let complete =
            |(id, made): (&SnapshotId, &MadeSnapshot)| (made.complete && id.taken() < before).then_some(made.object);
        // The ids are in chronological order.
        snapshots.range(..SnapshotId::at(before)).rev().find_map(complete)
    };
    let expected = state(all);
    expected.is_some() && state(kept) != expected
}

fn report(
    config: &Config,
    plugins: &Plugins,
    plugin: &Plugin,
    arguments: &Arguments,
    today: Date,
    all: &BTreeMap<SnapshotId, MadeSnapshot>,
    outcome: &Simulated,
) -> Report {
    let objects: BTreeSet<Date> = outcome.kept.values().map(|made| made.object).collect();
    let component = plugins.retention.component.display();
    let mut text = format!(
        "{component} over {} years, {} runs, {} of them failed, up to {today}\n  ends with {} snapshots, {} of them in the bin, and {} objects per source; at most {} snapshots at a time\n",
        arguments.years,
        outcome.runs,
        outcome.failed,
        outcome.kept.len(),
        outcome.binned.len(),
        objects.len(),
        outcome.most,
    );
    let points = owed(&config.guard, today, &config.time_zone);
    let lost_now: Vec<&String> =
        points.iter().filter(|(_, end)| is_lost(all, &outcome.kept, *end)).map(|(label, _)| label).collect();
    if outcome.lost.is_empty() {
        let _ = writeln!(
            text,
            "  every required point was always restorable: {DAYS_OWED} days, {MONTHS_OWED} months, {} fiscal years",
            config.guard.legal_years
        );
    } else {
        let _ = writeln!(
            text,
            "  {} required points were not restorable at some time, {} are not now",
            outcome.lost.len(),
            lost_now.len()
        );
        for label in &lost_now {
            let _ = writeln!(text, "    lost: {label}");
        }
    }
    if outcome.deferred > 0 {
        let _ = writeln!(text, "  snapshots waited for a later run {} times, because of max_forget", outcome.deferred);
    }
    for rule in &outcome.guarded {
        let _ = writeln!(text, "  the guard kept: {rule}");
    }
    text.push_str(&picture(config, today, outcome));
    let document = json!({
        "format_version": FORMAT_VERSION,
        "component": plugins.retention.component.to_string_lossy(),
        "sha256": plugin.digest(),
        "years": arguments.years,
        "runs": outcome.runs,
        "failed_runs": outcome.failed,
        "snapshots": outcome.kept.len(),
        "snapshots_max": outcome.most,
        "objects": objects.len(),
        "lost": lost_now,
        "ever_lost": outcome.lost.iter().map(|(label, day)| json!({ "point": label, "since": day })).collect::<Vec<_>>(),
        "in_bin": outcome.binned.len(),
        "deferred": outcome.deferred,
        "guard_kept": outcome.guarded,
        "kept": outcome.kept.keys().collect::<Vec<_>>(),
    });
    Report { document, text, failure: None }
}

/// Draws one mark for each period that shows whether a snapshot of it is kept.
fn picture(config: &Config, today: Date, outcome: &Simulated) -> String {
    let day_of = |id: &SnapshotId| id.taken().to_zoned_datetime(config.time_zone.clone()).date();
    let kept: BTreeSet<Date> =
        outcome.kept.iter().filter(|(_, made)| made.complete).map(|(id, _)| day_of(id)).collect();
    let marks = |periods: Vec<(Date, Date)>| -> String {
        periods.iter().map(|(from, to)| if kept.range(*from..=*to).next().is_some() { '■' } else { '·' }).collect()
    };
    let days = (0..DAYS_OWED).rev().map(|back| today.saturating_sub(back.days())).map(|day| (day, day)).collect();
    let month = |back: i32| {
        let first = today.first_of_month().saturating_sub(back.months());
        (first, first.last_of_month())
    };
    let months = (0..=MONTHS_OWED).rev().map(month).collect();
    let mut ends = config.guard.completed_years(today);
    ends.sort_unstable();
    let years = ends.iter().map(|end| (end.saturating_sub(1.year()).saturating_add(1.day()), *end)).collect();
    format!(
        "  days   {}\n  months {}\n  years  {}   (■ = a snapshot is kept; newest on the right)\n",
        marks(days),
        marks(months),
        marks(years)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(object: &str) -> MadeSnapshot {
        MadeSnapshot { object: object.parse().unwrap(), complete: true }
    }

    #[test]
    fn a_point_is_lost_only_if_no_snapshot_with_its_object_is_left() {
        let id = |text: &str| text.parse::<SnapshotId>().unwrap();
        let all: BTreeMap<_, _> = [
            (id("20260101T010000Z"), made("2026-01-01")),
            (id("20260102T010000Z"), made("2026-01-01")),
            (id("20260103T010000Z"), made("2026-01-03")),
        ]
        .into();
        let without = |gone: &str| {
            let mut kept = all.clone();
            kept.remove(&id(gone));
            kept
        };
        let end: Timestamp = "2026-01-03T00:00:00Z".parse().unwrap();
        assert!(!is_lost(&all, &all, end));
        assert!(!is_lost(&all, &without("20260102T010000Z"), end), "the day before holds the same object");
        let later: Timestamp = "2026-01-04T00:00:00Z".parse().unwrap();
        assert!(is_lost(&all, &without("20260103T010000Z"), later));
        let before: Timestamp = "2025-12-31T00:00:00Z".parse().unwrap();
        assert!(!is_lost(&all, &BTreeMap::new(), before), "there never was anything");
    }

    #[test]
    fn thirty_days_twelve_months_and_the_legal_years_are_required() {
        let zone = TimeZone::get("Europe/Paris").unwrap();
        let points = owed(&guard::GuardConfig::default(), "2026-03-01".parse().unwrap(), &zone);
        let labels: Vec<&str> = points.iter().map(|(label, _)| label.as_str()).collect();
        assert_eq!(labels.len(), 30 + 12 + 10);
        assert_eq!((labels[0], labels[29]), ("day 2026-02-28", "day 2026-01-30"));
        assert_eq!((labels[30], labels[41]), ("month 2026-02", "month 2025-03"));
        assert!(labels.contains(&"fiscal year to 2025-12-31") && labels.contains(&"fiscal year to 2016-12-31"));
        assert_eq!(points[0].1.to_string(), "2026-02-28T23:00:00Z", "midnight in Paris");
    }
}
