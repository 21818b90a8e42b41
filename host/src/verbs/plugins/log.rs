//! `plugins log`: shows what each plugin did, from the store: from records of runs, certificates of forgotten runs and
//! of plans that put something into the bin, and drills.

use crate::report::{FORMAT_VERSION, Report};
use crate::session::Session;
use crate::verification::certificates;
use base::error::Result;
use base::id::{SnapshotId, Stamp};
use base::text::{counted, printable};
use catalogue::guard::Age;
use catalogue::history::{self, History};
use catalogue::proof::Drill;
use catalogue::record::PluginRecord;
use clap::builder::PossibleValuesParser;
use comfy_table::{Table, presets};
use indicatif::HumanBytes;
use jiff::Timestamp;
use plugin::Role;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// Activity of a plugin is unusual above this multiple of its usual level. Twice the documents at a year's end are not
/// unusual.
const UNUSUAL_TIMES: u64 = 3;

/// Earlier occasions that are needed to determine the usual level: one week of nightly runs.
const USUAL_MIN: usize = 7;

/// Arguments of `plugins log`.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Environment, as named in the configuration
    #[arg(long = "env", value_name = "NAME")]
    pub(super) environment: String,
    /// How far to look back, such as 30d or 48h; use 365d for a year
    #[arg(long, value_name = "AGE", default_value = "30d", value_parser = parse_age)]
    since: Age,
    /// Only this role, such as crosscheck
    #[arg(long, value_name = "ROLE", value_parser = PossibleValuesParser::new(Role::ALL.map(Role::name)))]
    plugin: Option<String>,
    /// Only components whose sha256 begins with these digits
    #[arg(long, value_name = "SHA256", value_parser = parse_digest)]
    digest: Option<String>,
}

/// Parses the first digits of a digest. A mistyped digest would match nothing, as if the plugin had done nothing.
fn parse_digest(text: &str) -> std::result::Result<String, String> {
    let is_digest = (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_digest
        .then(|| text.to_ascii_lowercase())
        .ok_or_else(|| "expected the first hexadecimal digits of a SHA-256".to_owned())
}

fn parse_age(text: &str) -> std::result::Result<Age, String> {
    Age::try_from(text.to_owned())
}

/// One occasion on which plugins did something.
#[derive(Debug)]
struct Occasion {
    at: Stamp,
    kind: Kind,
    plugins: Vec<PluginRecord>,
}

/// The kind of an occasion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A run, of which the store has the record or only the certificate.
    Run,
    /// A plan that put something into the bin, by a run or a prune.
    Plan,
    /// A drill.
    Drill,
}

/// Plugin, digest, function and scope.
type Deed = (String, String, String, String);

/// The total of one deed.
#[derive(Debug, Clone, Copy)]
struct Sum {
    occasions: u64,
    calls: u64,
    items: u64,
    bytes: u64,
    first: Stamp,
    last: Stamp,
}

/// Adds up the tallies. Records that cannot be read are left out and listed in the report.
pub(super) async fn run(session: &Session, arguments: &Arguments) -> Result<Report> {
    let now = session.clock.now();
    let from = now.checked_sub(arguments.since.0).unwrap_or(Timestamp::MIN);
    let history = history::load(&session.store, &session.environment, &session.sources.configured, now).await?;
    let wanted = |plugin: &PluginRecord| {
        arguments.plugin.as_ref().is_none_or(|role| *role == plugin.name)
            && arguments.digest.as_ref().is_none_or(|digest| plugin.sha256.starts_with(digest.as_str()))
    };
    let mut occasions = occasions(session, &history).await?;
    occasions.iter_mut().for_each(|occasion| occasion.plugins.retain(wanted));
    occasions.sort_by_key(|occasion| occasion.at);
    let unusual = unusual(&occasions, from);
    occasions.retain(|occasion| occasion.at.moment() >= from && !occasion.plugins.is_empty());
    let count = |kind: Kind| occasions.iter().filter(|occasion| occasion.kind == kind).count();
    let (runs, plans, drills) = (count(Kind::Run), count(Kind::Plan), count(Kind::Drill));
    let sums = sum(&occasions);
    let since = from.to_zoned_datetime(session.time_zone.clone()).strftime("%Y-%m-%d %H:%M").to_string();
    let mut text = format!(
        "{} since {since}: {}, {} that put something into the bin, {}\n",
        session.environment,
        counted(runs, "run"),
        counted(plans, "plan"),
        counted(drills, "drill")
    );
    if !sums.is_empty() {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table
            .set_header(["plugin", "sha256", "function", "scope", "times", "calls", "items", "bytes", "first", "last"]);
        for ((plugin, sha256, function, scope), sum) in &sums {
            let numbers = [sum.occasions.to_string(), sum.calls.to_string(), sum.items.to_string()];
            let [times, calls, items] = numbers;
            let (bytes, digest) = (HumanBytes(sum.bytes).to_string(), plugin::short_digest(sha256));
            let (first, last) = (sum.first.to_string(), sum.last.to_string());
            table.add_row([plugin, digest, function, scope, &times, &calls, &items, &bytes, &first, &last]);
        }
        let _ = writeln!(text, "{}", table.trim_fmt());
    }
    for line in &unusual {
        let _ = writeln!(text, "unusual: {line}");
    }
    for damage in history.damaged() {
        let _ = writeln!(text, "warning: {damage}");
    }
    let rows: Vec<Value> = sums
        .iter()
        .map(|((plugin, sha256, function, scope), sum)| {
            json!({
                "plugin": plugin, "sha256": sha256, "function": function, "scope": scope,
                "times": sum.occasions, "calls": sum.calls, "items": sum.items, "bytes": sum.bytes,
                "first": sum.first, "last": sum.last,
            })
        })
        .collect();
    let document = json!({
        "format_version": FORMAT_VERSION,
        "environment": session.environment.as_str(),
        "since": from,
        "runs": runs,
        "plans": plans,
        "drills": drills,
        "deeds": rows,
        "unusual": unusual,
    });
    Ok(Report { document, text, failure: None })
}

/// All occasions in the store.
async fn occasions(session: &Session, history: &History) -> Result<Vec<Occasion>> {
    let records = history.snapshots.iter().filter_map(|snapshot| snapshot.record.as_ref());
    let mut occasions: Vec<Occasion> = records
        .map(|record| Occasion { at: record.id.stamp(), kind: Kind::Run, plugins: record.plugins.clone() })
        .collect();
    let binned = history.snapshots.iter().filter(|snapshot| snapshot.binned.is_some()).map(|snapshot| snapshot.id);
    let ids: Vec<SnapshotId> = history.forgotten.keys().copied().chain(binned).collect();
    // One plan can put several snapshots into the bin, and the certificate of each contains it.
    let mut plans = BTreeSet::new();
    for (id, certificate) in certificates(&session.store, &session.environment, ids).await? {
        // `verify` reports certificates that cannot be read.
        let Ok(certificate) = certificate else { continue };
        if history.forgotten.contains_key(&id) && !certificate.plugins.is_empty() {
            occasions.push(Occasion { at: id.stamp(), kind: Kind::Run, plugins: certificate.plugins });
        }
        let at = Stamp::at(certificate.forgotten);
        if let Some(plugin) = certificate.planned_by.filter(|_| plans.insert(at)) {
            occasions.push(Occasion { at, kind: Kind::Plan, plugins: vec![plugin] });
        }
    }
    let listed = session.store.list(&format!("{}/drills/", session.environment)).await?;
    for meta in listed.into_iter().filter(|meta| meta.key.as_str().ends_with(".json")) {
        // A drill that cannot be read is skipped.
        let drill = session.store.get(&meta.key).await?.and_then(|bytes| Drill::parse(&bytes).ok());
        let deed =
            |drill: Drill| Some((drill.id, drill.crosscheck.map(|report| report.plugin).or(drill.crosscheck_failed)?));
        let plugin = drill.and_then(deed);
        occasions.extend(plugin.map(|(at, plugin)| Occasion { at, kind: Kind::Drill, plugins: vec![plugin] }));
    }
    Ok(occasions)
}

/// The deeds of one plugin on one occasion. A plugin without calls gets one line of zeros.
fn deeds(plugin: &PluginRecord) -> impl Iterator<Item = (Deed, [u64; 3])> {
    let deed = |function: &str, scope: &str| {
        (plugin.name.clone(), plugin.sha256.clone(), function.to_owned(), scope.to_owned())
    };
    let nothing = plugin.tally.is_empty().then(|| (deed("-", "-"), [0; 3]));
    let called =
        plugin.tally.iter().map(move |line| (deed(&line.function, &line.scope), [line.calls, line.items, line.bytes]));
    called.chain(nothing)
}

fn sum(occasions: &[Occasion]) -> BTreeMap<Deed, Sum> {
    let mut sums: BTreeMap<Deed, Sum> = BTreeMap::new();
    for occasion in occasions {
        for (deed, [calls, items, bytes]) in occasion.plugins.iter().flat_map(deeds) {
            let none = Sum { occasions: 0, calls: 0, items: 0, bytes: 0, first: occasion.at, last: occasion.at };
            let sum = sums.entry(deed).or_insert(none);
            sum.occasions += 1;
            sum.calls = sum.calls.saturating_add(calls);
            sum.items = sum.items.saturating_add(items);
            sum.bytes = sum.bytes.saturating_add(bytes);
            sum.last = sum.last.max(occasion.at);
        }
    }
    sums
}

/// Activity since `from` that is far above the role's usual level on earlier occasions, whichever component played the
/// role.
fn unusual(occasions: &[Occasion], from: Timestamp) -> Vec<String> {
    let mut before: BTreeMap<(String, String, String), Vec<[u64; 3]>> = BTreeMap::new();
    let mut found = Vec::new();
    for occasion in occasions {
        for ((plugin, sha256, function, scope), done) in occasion.plugins.iter().flat_map(deeds) {
            let usual = before.entry((plugin.clone(), function.clone(), scope.clone())).or_default();
            if usual.len() >= USUAL_MIN && occasion.at.moment() >= from {
                for (number, what) in ["calls", "items", "bytes"].into_iter().enumerate() {
                    let (now, median) = (done.get(number).copied().unwrap_or(0), median(usual, number));
                    if now > median.saturating_mul(UNUSUAL_TIMES) && now > UNUSUAL_TIMES {
                        let digest = plugin::short_digest(&sha256);
                        found.push(printable(&format!(
                            "{plugin} ({digest}) {function} of {scope} at {}: {now} {what}, usually {median}",
                            occasion.at
                        )));
                    }
                }
            }
            usual.push(done);
        }
    }
    found
}

fn median(counts: &[[u64; 3]], number: usize) -> u64 {
    let mut values: Vec<u64> = counts.iter().filter_map(|done| done.get(number).copied()).collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use catalogue::record::TallyRecord;

    fn occasion(day: u32, calls: u64, bytes: u64) -> Occasion {
        let line = TallyRecord {
            function: "object-write.put".to_owned(),
            scope: "prod/db".to_owned(),
            calls,
            items: 0,
            bytes,
        };
        let plugin = PluginRecord {
            name: "dump".to_owned(),
            component: "dump.wasm".to_owned(),
            sha256: "0123456789abcdef".to_owned(),
            grants: Vec::new(),
            settings_sha256: None,
            tally: vec![line],
        };
        Occasion { at: format!("202606{day:02}T010000Z").parse().unwrap(), kind: Kind::Run, plugins: vec![plugin] }
    }

    #[test]
    fn far_more_than_usual_is_unusual_but_not_twice_as_much_or_in_the_first_week() {
        let unusual_of = |last: Occasion, days: u32| {
            let occasions: Vec<_> = (1..=days).map(|day| occasion(day, 1, 1_000)).chain([last]).collect();
            unusual(&occasions, "2026-06-20T00:00:00Z".parse().unwrap())
        };
        assert_eq!(unusual_of(occasion(20, 1, 2_000), 10), Vec::<String>::new());
        let found = unusual_of(occasion(20, 1, 3_001), 10);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("dump (0123456789ab) object-write.put of prod/db at 20260620T010000Z: 3001 bytes"));
        assert_eq!(unusual_of(occasion(20, 40, 3_001), 10).len(), 2);
        assert_eq!(unusual_of(occasion(20, 40, 3_001), 6), Vec::<String>::new(), "the usual level is not known yet");
        assert_eq!(unusual_of(occasion(19, 40, 3_001), 10), Vec::<String>::new(), "that was before `from`");
    }
}
