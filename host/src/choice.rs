//! Which snapshot, source and object a person means, for the verbs that read a backup back. It reads and decides nothing
//! else.

use crate::config::Source;
use crate::session::Host;
use base::error::{Class, Error, Result};
use base::id::SnapshotId;
use catalogue::history::{History, Object, Snapshot};
use catalogue::proof::Standing;
use catalogue::questions;
use catalogue::record::{ArchiveRecord, Condition};
use documents;
use futures::FutureExt;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use postgres::{self, ServerConfig};
use std::sync::Arc;
use store::ObjectKey;

/// Snapshots that a message names when the one asked for is not there.
const NEAREST_MAX: usize = 3;

/// Which snapshot; the newest that has what is asked for when neither is given.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(multiple = false)]
pub struct Which {
    /// The last snapshot at or before this time that has it whole: 2026-06-30T01:00:00Z, or 2026-06-30T03:00 or 2026-06-30 (its end) in the business time zone
    #[arg(long, value_name = "TIME")]
    pub at: Option<String>,
    /// This snapshot, as `list` names it
    #[arg(long, value_name = "ID")]
    pub snapshot: Option<String>,
}

/// What a snapshot has to have whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted<'a> {
    /// One source.
    Source(&'a str),
    /// Every source that it names.
    All,
}

impl Wanted<'_> {
    fn is_met(self, snapshot: &Snapshot) -> bool {
        match self {
            Self::Source(source) => snapshot.has_whole(source),
            Self::All => snapshot.complete && !snapshot.retired,
        }
    }

    fn describe(self) -> String {
        match self {
            Self::Source(source) => format!("whole snapshot of {}", base::text::printable(source)),
            Self::All => "complete snapshot".to_owned(),
        }
    }
}

/// The snapshot that is meant. One that is named by its id is taken as it is; see [`usable`].
///
/// # Errors
/// Of class [`Class::Usage`] where there is none, naming the nearest.
pub fn snapshot<'h>(history: &'h History, which: &Which, wanted: Wanted<'_>, zone: &TimeZone) -> Result<&'h Snapshot> {
    if let Some(text) = &which.snapshot {
        let text = text.as_str();
        let id: SnapshotId = text.parse().map_err(|error| usage(error).hint(nearest(history, None)))?;
        return history.snapshot(id).ok_or_else(|| {
            let forgotten = if history.forgotten.contains_key(&id) { "was forgotten" } else { "does not exist" };
            usage(format!("the snapshot {id} {forgotten}")).hint(nearest(history, Some(id.taken())))
        });
    }
    let at = which.at.as_deref().map(|text| moment(text, zone)).transpose()?;
    let whole = || history.snapshots.iter().filter(|snapshot| wanted.is_met(snapshot));
    let until = || whole().rev().filter(|snapshot| at.is_none_or(|at| snapshot.id.taken() <= at));
    // A run under a wrong clock answers for a day only where no other one does, and so does one that was found damaged.
    let is_placed = |snapshot: &&Snapshot| !snapshot.ahead && (at.is_none() || !snapshot.misplaced);
    let is_sound = |snapshot: &&Snapshot| snapshot.standing != Standing::Failed;
    let found = until().filter(is_sound).find(is_placed);
    let found = found.or_else(|| until().find(is_placed)).or_else(|| until().next());
    // One of a doubted time that nobody knows to be wrong makes way for one of that day that nobody doubts.
    let day = |snapshot: &Snapshot| snapshot.id.taken().to_zoned_datetime(zone.clone()).date();
    let of_its_day = |doubted: &Snapshot| {
        let mut certain = until().filter(is_sound).filter(|snapshot| !snapshot.clock_doubted);
        certain.find(|snapshot| day(snapshot) == day(doubted))
    };
    let doubted = found.filter(|found| at.is_some() && found.clock_doubted);
    let found = doubted.and_then(of_its_day).or(found);
    if let Some((found, (over, why))) = found.and_then(|found| Some((found, passed_over(history, found, wanted, at)?)))
    {
        tracing::warn!("{over} is passed over, because {why}; {} is taken", found.id);
    }
    if let (Some(found), Some(_)) = (found, at) {
        if found.clock_doubted {
            tracing::warn!("the time of {} may be wrong, and nothing else answers for that day", found.id);
        }
        if let Some(doubted) = questions::follows_doubted(history, found.id).filter(|_| !found.clock_doubted) {
            tracing::warn!(
                "{} follows {doubted}, whose time is doubted, without a hole: its own may be wrong too",
                found.id
            );
        }
        let mut of_its_day = whole().filter(|other| day(other) == day(found) && other.clock != found.clock);
        if let Some(other) = of_its_day.next_back() {
            tracing::warn!("two clocks disagreed on that day: {} is the other one's (--snapshot takes it)", other.id);
        }
    }
    found.ok_or_else(|| match (at, whole().next()) {
        (Some(at), Some(first)) => usage(format!("no {} is from {at} or before", wanted.describe()))
            .hint(format!("the first one is {}; `list` shows all", first.id)),
        _ => usage(format!("there is no {}", wanted.describe()))
            .hint(format!("{}; another one can be named with --snapshot", nearest(history, at))),
    })
}

/// The newest complete snapshot, whatever a verification found of it.
///
/// # Errors
/// Of class [`Class::Usage`] where no snapshot is complete.
pub fn newest<'h>(history: &'h History, zone: &TimeZone) -> Result<&'h Snapshot> {
    let newest = history.snapshots.iter().rev().find(|snapshot| Wanted::All.is_met(snapshot) && !snapshot.ahead);
    newest.map_or_else(|| snapshot(history, &Which::default(), Wanted::All, zone), Ok)
}

/// The newest snapshot after the one that is taken that should have what is wanted and has not, and why.
fn passed_over(
    history: &History,
    taken: &Snapshot,
    wanted: Wanted<'_>,
    at: Option<Timestamp>,
) -> Option<(SnapshotId, String)> {
    let later = history.snapshots.iter().rev().filter(|snapshot| snapshot.id > taken.id && !snapshot.retired);
    let mut later = later.filter(|snapshot| at.is_none_or(|at| snapshot.id.taken() <= at));
    later.find_map(|snapshot| {
        let why = |(source, state): (&String, &catalogue::history::State)| match (&state.object, state.condition) {
            (Some(object), _) if !object.present => Some(format!("the object of {source} is lost")),
            (_, Condition::Whole) => None,
            (_, condition) => Some(format!("{source} is {condition} in it")),
        };
        let named = |(source, _): &(&String, &catalogue::history::State)| match wanted {
            Wanted::Source(wanted) => wanted == source.as_str(),
            Wanted::All => true,
        };
        let why = match &snapshot.damage {
            Some(_) => Some("its record cannot be read".to_owned()),
            None if wanted.is_met(snapshot) && snapshot.ahead => {
                Some("it is from the future (--snapshot takes it all the same)".to_owned())
            }
            None if wanted.is_met(snapshot) && snapshot.standing == Standing::Failed => {
                Some("a verification of it failed (--snapshot takes it all the same)".to_owned())
            }
            None if wanted.is_met(snapshot) => Some("its time is doubted".to_owned()),
            None => snapshot.sources.iter().filter(named).find_map(why),
        };
        Some((snapshot.id, why?))
    })
}

/// Refuses a state of a source that is not whole, unless a person said that it may be partial.
///
/// # Errors
/// Of class [`Class::Stale`], saying what is missing.
pub fn usable(snapshot: &Snapshot, source: &str, allow_partial: bool) -> Result<()> {
    let Some(state) = snapshot.sources.get(source) else { return Ok(()) };
    if allow_partial || !matches!(state.condition, Condition::Partial | Condition::Suspect) {
        return Ok(());
    }
    let doubts = snapshot.record.as_ref().and_then(|record| Some(record.sources.get(source)?.doubts.join("; ")));
    let why = doubts.filter(|doubts| !doubts.is_empty()).unwrap_or_else(|| "entries could not be read".to_owned());
    Err(Error::new(Class::Stale, format!("{source} is {} in the snapshot {}: {why}", state.condition, snapshot.id))
        .hint("take another snapshot, or say --allow-partial to have what there is"))
}

/// A time as a person gives it. A day alone means its end.
fn moment(text: &str, zone: &TimeZone) -> Result<Timestamp> {
    let local =
        |civil: jiff::civil::DateTime| civil.to_zoned_datetime(zone.clone()).map(|zoned| zoned.timestamp()).ok();
    if let Ok(exact) = text.parse::<Timestamp>() {
        return Ok(exact);
    }
    let day = text.parse::<jiff::civil::Date>().ok().filter(|_| !text.contains(['T', ' ', ':']));
    let end_of_day = || {
        day?.tomorrow()
            .ok()
            .and_then(|next| local(next.at(0, 0, 0, 0)))?
            .checked_sub(jiff::SignedDuration::from_nanos(1))
            .ok()
    };
    let found = match day {
        Some(_) => end_of_day(),
        None => text.parse::<jiff::civil::DateTime>().ok().and_then(local),
    };
    found.ok_or_else(|| {
        usage(format!("`{}` is not a valid time", base::text::printable(text)))
            .hint("write 2026-06-30T01:00:00Z, or 2026-06-30T03:00 or 2026-06-30 in the business time zone")
    })
}

/// Says which snapshots are next to a moment, the newest ones without.
fn nearest(history: &History, moment: Option<Timestamp>) -> String {
    let mut ids: Vec<SnapshotId> = history.snapshots.iter().map(|snapshot| snapshot.id).collect();
    let distance =
        |id: &SnapshotId| moment.map_or(0, |moment| id.taken().duration_since(moment).as_secs().unsigned_abs());
    // Of two that are as near, the newer one.
    ids.sort_by_key(|id| (distance(id), std::cmp::Reverse(*id)));
    ids.truncate(NEAREST_MAX);
    match ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ") {
        none if none.is_empty() => "there is no snapshot at all; make one with `backup`".to_owned(),
        ids if moment.is_some() => format!("the nearest are {ids}; `list` shows all"),
        ids => format!("the newest are {ids}; `list` shows all"),
    }
}

/// The source that is meant: the one named, or the only one that is wanted by its kind.
///
/// # Errors
/// Of class [`Class::Usage`] with the names that there are.
pub fn source<'h>(host: &'h Host, name: Option<&str>, kind: fn(&Source) -> bool) -> Result<(&'h str, &'h Source)> {
    let sources = &host.sources.sources;
    let fitting: Vec<_> = sources.iter().filter(|(_, source)| kind(source)).collect();
    let listed = fitting.iter().map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let found = match name {
        Some(name) => fitting.iter().find(|(own, _)| *own == name),
        None => fitting.first().filter(|_| fitting.len() == 1),
    };
    found.map(|(name, source)| (name.as_str(), *source)).ok_or_else(|| {
        let said = match name {
            Some(name) => {
                format!("{} has no such source as `{}`", host.environment, base::text::printable(name))
            }
            None if fitting.is_empty() => format!("{} has no documents", host.environment),
            None => format!("{} has several sources to choose from", host.environment),
        };
        usage(said).hint(if listed.is_empty() {
            "the configuration names the sources".to_owned()
        } else {
            format!("--source takes {listed}; one that was retired is read with its section in the configuration")
        })
    })
}

/// The object that holds a source in a snapshot.
///
/// # Errors
/// Of class [`Class::Stale`] when the snapshot has none, or the store has lost it.
pub fn object<'h>(snapshot: &'h Snapshot, source: &str) -> Result<&'h Object> {
    if let Some(damage) = &snapshot.damage {
        return Err(damage.clone().hint("take another snapshot: `list` shows them"));
    }
    let object = snapshot.sources.get(source).and_then(|state| state.object.as_ref());
    let stale = |text| Error::new(Class::Stale, text).hint("take another snapshot: `list` shows them");
    match object {
        Some(object) if object.present => Ok(object),
        Some(object) if object.bytes == 0 => Err(stale(format!("the object {} is empty", object.key))),
        Some(object) => {
            Err(stale(format!("the object {} of snapshot {} is not in the store", object.key, snapshot.id)))
        }
        None => Err(stale(format!("the snapshot {} holds nothing of {source}", snapshot.id))),
    }
}

/// The server that a person means: a URL, or a section of the configuration.
///
/// # Errors
/// Of class [`Class::Usage`] with the names that there are.
pub fn server(host: &Host, named: &str) -> Result<postgres::Config> {
    if named.contains("://") {
        return ServerConfig::of_url(named).map(|server| server.config());
    }
    let servers = &host.config().servers;
    servers.get(named).map(ServerConfig::config).ok_or_else(|| {
        let known = servers.keys().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        usage(format!("the configuration has no server `{}`", base::text::printable(named))).hint(if known.is_empty() {
            "add a section [servers.NAME], or write postgres://USER@HOST:5432/postgres".to_owned()
        } else {
            format!("--server takes {known}, or postgres://USER@HOST:5432/postgres")
        })
    })
}

/// What the run that made an archive recorded of it, if its snapshot is still there.
#[must_use]
pub fn recorded<'h>(history: &'h History, key: &ObjectKey) -> Option<&'h ArchiveRecord> {
    let sources = history.snapshots.iter().filter_map(|s| s.record.as_ref()).flat_map(|record| record.sources.values());
    sources
        .filter(|source| source.object.as_ref().is_some_and(|object| object.key == *key))
        .find_map(|s| s.archive.as_ref())
}

/// An archive as it can be read back. Where no record names its index any more, the one beside it counts.
///
/// # Errors
/// The store's.
pub async fn archive(
    host: &Host,
    history: &History,
    object: &Object,
    ignore_index: bool,
) -> Result<documents::Archive> {
    let archive = stored(host, &object.key, object.bytes, object.sha256.clone());
    if ignore_index {
        return Ok(documents::Archive { object: archive, index: None });
    }
    let known = recorded(history, &object.key).and_then(|record| record.index.as_ref());
    let beside = || ObjectKey::parse(&format!("{}.index", object.key.as_str().strip_suffix(".tar.gz")?));
    let key = known.map(|index| index.key.clone()).or_else(beside);
    let there = match &key {
        Some(key) => host.store.head(key).await?,
        None => None,
    };
    if let (Some(index), None) = (known, &there) {
        tracing::warn!(key = %index.key, "the index is not in the store; the archive is read without it");
    }
    let index = there.map(|meta| {
        let (bytes, sha256) = known.map_or((meta.bytes, None), |index| (index.bytes, Some(index.sha256.clone())));
        stored(host, &meta.key, bytes, sha256)
    });
    Ok(documents::Archive { object: archive, index })
}

fn stored(host: &Host, key: &ObjectKey, bytes: u64, sha256: Option<String>) -> documents::Object {
    let (store, name) = (Arc::clone(&host.store), key.to_string());
    let key = key.clone();
    let fetch: documents::Fetch = Arc::new(move |range| {
        let (store, key) = (Arc::clone(&store), key.clone());
        async move { store.read(&key, range).await }.boxed()
    });
    documents::Object { name, bytes, sha256, fetch }
}

fn usage(text: impl std::fmt::Display) -> Error {
    Error::new(Class::Usage, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn history(ids: &[(&str, bool)]) -> History {
        let snapshot = |(id, complete): &(&str, bool)| {
            let condition = if *complete { Condition::Whole } else { Condition::Partial };
            let key = ObjectKey::parse(&format!("prod/docs/{id}.tar.gz"));
            Snapshot::of_one_source(id.parse().unwrap(), "docs", condition, key)
        };
        let forgotten = BTreeMap::from([("20250101T000000Z".parse().unwrap(), Timestamp::UNIX_EPOCH)]);
        let mut history = History::of(ids.iter().map(snapshot).collect());
        history.forgotten = forgotten;
        history
    }

    fn chosen(history: &History, at: Option<&str>, id: Option<&str>) -> Result<String> {
        let which = Which { at: at.map(str::to_owned), snapshot: id.map(str::to_owned) };
        snapshot(history, &which, Wanted::All, &TimeZone::get("Europe/Paris").unwrap())
            .map(|snapshot| snapshot.id.to_string())
    }

    const IDS: [(&str, bool); 4] = [
        ("20260628T010000Z", true),
        ("20260629T010000Z", true),
        ("20260629T220000Z", true),
        ("20260630T010000Z", false),
    ];

    #[test]
    fn a_time_means_the_last_complete_snapshot_at_or_before_it() {
        let history = history(&IDS);
        for (at, expected) in [
            (None, "20260629T220000Z"),
            (Some("2026-06-30T01:00:00Z"), "20260629T220000Z"),
            (Some("2026-06-29T01:00:00Z"), "20260629T010000Z"),
            (Some("2026-06-29T00:59:59Z"), "20260628T010000Z"),
            // In Paris it is two hours later, so the evening's snapshot is of the 30th.
            (Some("2026-06-29"), "20260629T010000Z"),
            (Some("2026-06-30"), "20260629T220000Z"),
            (Some("2026-06-29T03:00"), "20260629T010000Z"),
            (Some("2026-06-29 02:59"), "20260628T010000Z"),
        ] {
            assert_eq!(chosen(&history, at, None).unwrap(), expected, "{at:?}");
        }
        assert_eq!(chosen(&history, None, Some("20260630T010000Z")).unwrap(), "20260630T010000Z");
    }

    #[test]
    fn what_is_not_there_is_said_with_what_is_near() {
        let (some, none) = (history(&IDS), history(&[]));
        for (history, at, id, says, hint) in [
            (&some, Some("2026-06-27"), None, "no complete snapshot is from", "the first one is 20260628T010000Z"),
            (&some, Some("yesterday"), None, "`yesterday` is not a valid time", "2026-06-30"),
            (&some, None, Some("20260629T020000Z"), "does not exist", "nearest are 20260629T010000Z, 20260629T220000Z"),
            (&some, None, Some("20250101T000000Z"), "was forgotten", "nearest are 20260628T010000Z"),
            (&some, None, Some("latest"), "`latest` is not a valid snapshot id", "newest are 20260630T010000Z"),
            (&none, None, None, "there is no complete snapshot", "no snapshot at all"),
            (&none, None, Some("20260629T020000Z"), "does not exist", "no snapshot at all"),
        ] {
            let error = chosen(history, at, id).unwrap_err();
            assert_eq!(error.class(), Class::Usage);
            assert!(error.message().contains(says), "{error:?}");
            assert!(error.advice().unwrap().contains(hint), "{error:?}");
        }
    }
}
