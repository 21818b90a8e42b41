//! The rules for every plugin of a world, checked with made-up arguments. They are the same for shipped plugins and for
//! new ones. No rule gives a plugin access to a source, a store or a cluster.

use base::error::{Class, Error};
use base::id::SnapshotId;
use catalogue::guard::{self, Decision};
use jiff::{SignedDuration, Timestamp};
use plugin::call::{dumping, retaining};
use plugin::{Plugin, Role};
use std::collections::BTreeSet;

/// The present of every rule: a summer day, at noon.
const NOW_SECOND: i64 = 1_782_820_800;

/// A setting that no plugin has.
const UNKNOWN_SETTING: &str = "no_plugin_has_this";

/// Number of snapshots that a plan must handle within its limits. One a day for ten years is a third of that.
const MANY_SNAPSHOTS: i64 = 10_000;

/// Time zones for the plans: far east, far west, one with a half-hour offset, one without summer time.
const ZONES: [&str; 5] = ["Europe/Paris", "Pacific/Kiritimati", "Pacific/Pago_Pago", "Asia/Kolkata", "UTC"];

/// One rule, and the result for a plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// The rule, as a phrase that describes what the plugin does.
    pub rule: &'static str,
    /// The reason for the rule.
    pub why: &'static str,
    /// What the plugin did instead; `None` if it follows the rule.
    pub broken: Option<Error>,
}

impl Tried {
    fn new(rule: &'static str, why: &'static str, result: Result<(), Error>) -> Self {
        Self { rule, why, broken: result.err() }
    }
}

/// Checks every rule of the plugin's world.
pub async fn check(plugin: &Plugin, with_unknown_setting: &Plugin) -> Vec<Tried> {
    let mut found = vec![
        Tried::new(
            "exports a JSON Schema of its settings, and accepts the configured ones",
            "settings are checked against the schema before anything is dumped or forgotten",
            plugin.check_settings().await,
        ),
        Tried::new(
            "has a schema that refuses unknown settings",
            "a mistyped setting would be ignored, and the plugin would follow another policy than intended",
            refuses(plugin, with_unknown_setting.check_settings().await),
        ),
    ];
    match plugin.role() {
        Role::Retention => found.extend(check_retention(plugin, with_unknown_setting).await),
        Role::Dump => found.extend(check_dump(plugin, with_unknown_setting).await),
        // These roles decide nothing without the handles of a real call.
        Role::Fingerprint | Role::Crosscheck | Role::Job | Role::Coverage => {}
    }
    found
}

/// Checks that the plugin blames the configuration for an unknown setting, and names the setting.
fn refuses<T>(plugin: &Plugin, result: Result<T, Error>) -> Result<(), Error> {
    match result {
        Ok(_) => Err(plugin.refused(format!("it accepts the setting `{UNKNOWN_SETTING}`"))),
        Err(error) if error.class() == Class::Config && error.message().contains(UNKNOWN_SETTING) => Ok(()),
        Err(error) => Err(plugin.refused(format!(
            "it does not report the setting `{UNKNOWN_SETTING}` in an error of the kind `denied`, but returns: {error}"
        ))),
    }
}

/// The additional setting of the second plugin that [`check`] takes.
pub fn unknown_setting() -> (String, toml::Value) {
    (UNKNOWN_SETTING.to_owned(), toml::Value::Integer(1))
}

fn now() -> Timestamp {
    Timestamp::from_second(NOW_SECOND).unwrap_or_default()
}

/// One complete snapshot a day, the newest one hour before `now`.
pub(super) fn daily_until(now: Timestamp, days: i64) -> Vec<retaining::Snapshot> {
    (0..days)
        .rev()
        .map(|ago| now - SignedDuration::from_hours(24 * ago + 1))
        .map(|taken| retaining::Snapshot {
            id: SnapshotId::at(taken).to_string(),
            taken: taken.as_second(),
            complete: true,
            bytes: 1_000,
            pinned: false,
            verified: false,
            adopted: false,
        })
        .collect()
}

fn daily(days: i64) -> Vec<retaining::Snapshot> {
    daily_until(now(), days)
}

async fn plan(
    plugin: &Plugin,
    zone: &str,
    snapshots: &[retaining::Snapshot],
) -> Result<retaining::RetentionPlan, Error> {
    plugin.plan_retention(now(), zone, snapshots).await.result
}

/// The ids that a plan keeps, after a check that the plan answers for exactly these snapshots.
async fn kept(plugin: &Plugin, zone: &str, snapshots: &[retaining::Snapshot]) -> Result<BTreeSet<String>, Error> {
    let plan = plan(plugin, zone, snapshots).await?;
    let known: BTreeSet<SnapshotId> = snapshots.iter().filter_map(|snapshot| snapshot.id.parse().ok()).collect();
    let answer = plan.decisions.into_iter().map(|decision| {
        let keep = decision.verdict == retaining::Verdict::Keep;
        (decision.id, Decision::of_plan(keep, decision.reasons))
    });
    let matched = guard::pair_decisions(&known, answer.collect()).map_err(|refusal| plugin.refused(refusal))?;
    Ok(matched.into_iter().filter(|(_, decision)| decision.keep).map(|(id, _)| id.to_string()).collect())
}

async fn check_retention(plugin: &Plugin, with_unknown_setting: &Plugin) -> Vec<Tried> {
    vec![
        Tried::new(
            "decides about every given snapshot exactly once, each time with a reason",
            "a plan without a decision for a snapshot is incomplete, so the host refuses the whole plan",
            answers_all(plugin).await,
        ),
        Tried::new(
            "keeps the newest complete snapshot, every pinned one, and those from the future",
            "the guard keeps these in any case, so a plan that forgets them counts wrong",
            keeps_the_best(plugin).await,
        ),
        Tried::new(
            "decides the same for the same snapshots in any order",
            "a snapshot stays in the bin for days, planned anew each day: if decisions alternate, it is never deleted",
            is_deterministic(plugin).await,
        ),
        Tried::new(
            "plans in time zones from one end of the day to the other",
            "an office may be anywhere, and a policy that counts days or weeks depends on the office's time zone",
            plans_everywhere(plugin).await,
        ),
        Tried::new(
            "plans 10,000 snapshots within its limits",
            "ten years of daily runs make 3,650 snapshots, and an hourly schedule makes more",
            kept(plugin, "Europe/Paris", &daily(MANY_SNAPSHOTS)).await.map(drop),
        ),
        Tried::new(
            "refuses an unknown setting, and names it",
            "the schema helps people and editors, but the plugin must check its settings itself",
            refuses(plugin, plan(with_unknown_setting, "Europe/Paris", &daily(3)).await),
        ),
    ]
}

async fn answers_all(plugin: &Plugin) -> Result<(), Error> {
    for days in [0, 1, 2, 400] {
        let mut snapshots = daily(days);
        for (index, snapshot) in snapshots.iter_mut().enumerate() {
            snapshot.complete = index % 7 != 0;
            snapshot.adopted = index % 5 == 0;
        }
        kept(plugin, "Europe/Paris", &snapshots).await.map_err(|e| e.context(format!("with {days} snapshots")))?;
    }
    Ok(())
}

async fn keeps_the_best(plugin: &Plugin) -> Result<(), Error> {
    let mut snapshots = daily(400);
    let Some(newest) = snapshots.last().cloned() else { return Ok(()) };
    let future = now() + SignedDuration::from_hours(24 * 400);
    let ahead =
        retaining::Snapshot { id: SnapshotId::at(future).to_string(), taken: future.as_second(), ..newest.clone() };
    let mut wanted = vec![("the newest", newest.id.clone()), ("one from the future", ahead.id.clone())];
    if let Some(pinned) = snapshots.get_mut(3) {
        pinned.pinned = true;
        wanted.push(("a pinned one", pinned.id.clone()));
    }
    // A failed snapshot must not displace the newest complete one.
    let failed = now() - SignedDuration::from_mins(10);
    let (id, taken) = (SnapshotId::at(failed).to_string(), failed.as_second());
    snapshots.push(retaining::Snapshot { id, taken, complete: false, ..newest });
    snapshots.push(ahead);
    let kept = kept(plugin, "Europe/Paris", &snapshots).await?;
    match wanted.into_iter().find(|(_, id)| !kept.contains(id)) {
        Some((which, id)) => Err(plugin.refused(format!("of 402 snapshots it forgets {which}, {id}"))),
        None => Ok(()),
    }
}

async fn is_deterministic(plugin: &Plugin) -> Result<(), Error> {
    let mut snapshots = daily(300);
    let first = kept(plugin, "Europe/Paris", &snapshots).await?;
    if kept(plugin, "Europe/Paris", &snapshots).await? != first {
        return Err(plugin.refused("it keeps other snapshots when it is asked the same again"));
    }
    snapshots.reverse();
    if kept(plugin, "Europe/Paris", &snapshots).await? != first {
        return Err(plugin.refused("it keeps other snapshots when the same ones come newest first"));
    }
    Ok(())
}

async fn plans_everywhere(plugin: &Plugin) -> Result<(), Error> {
    let mut snapshots = daily(400);
    // A leap day, and the earliest possible time of a snapshot.
    for text in ["20240229T235959Z", "19700101T000000Z"] {
        let Ok(id) = text.parse::<SnapshotId>() else { continue };
        snapshots.push(retaining::Snapshot {
            id: text.to_owned(),
            taken: id.taken().as_second(),
            ..daily(1).remove(0)
        });
    }
    for zone in ZONES {
        kept(plugin, zone, &snapshots).await.map_err(|e| e.context(format!("in {zone}")))?;
    }
    Ok(())
}

async fn check_dump(plugin: &Plugin, with_unknown_setting: &Plugin) -> Vec<Tried> {
    vec![
        Tried::new(
            "decides about every source exactly once",
            "a source without a decision would not be backed up",
            decides_all(plugin, false).await.map(drop),
        ),
        Tried::new(
            "dumps everything if the user forces it",
            "`backup --force` is the way to replace damaged objects",
            forces(plugin).await,
        ),
        Tried::new(
            "dumps a source whose object is missing",
            "a missing object cannot represent a source",
            dumps_what_is_lost(plugin).await,
        ),
        Tried::new(
            "refuses an unknown setting, and names it",
            "the schema helps people and editors, but the plugin must check its settings itself",
            refuses(plugin, with_unknown_setting.plan_dumps(now(), false, &sources()).await.result),
        ),
    ]
}

/// An unchanged folder, and a database whose object is lost.
fn sources() -> Vec<dumping::Source> {
    let source = |name: &str, kind, present| dumping::Source {
        name: name.into(),
        kind,
        evidence: dumping::Evidence::Unchanged,
        carried: Some(dumping::Carried { made: NOW_SECOND - 86_400, bytes: 5, present }),
    };
    vec![source("docs", dumping::Kind::Tree, true), source("db", dumping::Kind::Database, false)]
}

async fn decides_all(plugin: &Plugin, force: bool) -> Result<Vec<dumping::Decision>, Error> {
    let decisions = plugin.plan_dumps(now(), force, &sources()).await.result?;
    let mut named: Vec<&str> = decisions.iter().map(|decision| decision.source.as_str()).collect();
    named.sort_unstable();
    if named != ["db", "docs"] {
        return Err(plugin.refused(format!("the sources are db and docs, but it decides about: {}", named.join(", "))));
    }
    Ok(decisions)
}

async fn forces(plugin: &Plugin) -> Result<(), Error> {
    let decisions = decides_all(plugin, true).await?;
    match decisions.iter().find(|decision| decision.action != dumping::Action::Dump) {
        Some(other) => Err(plugin.refused(format!("it does not dump {}", other.source))),
        None => Ok(()),
    }
}

async fn dumps_what_is_lost(plugin: &Plugin) -> Result<(), Error> {
    let decisions = decides_all(plugin, false).await?;
    let lost = decisions.iter().find(|decision| decision.source == "db");
    if lost.is_some_and(|decision| decision.action == dumping::Action::Dump) {
        return Ok(());
    }
    Err(plugin.refused("it does not dump db, although the store has no object of it"))
}
