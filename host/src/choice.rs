//! Finds the snapshot, source and object that the user selected, for the commands that read a backup back.

use crate::config::Source;
use crate::session::Session;
use base::error::{Class, Error, Result};
use base::id::SnapshotId;
use catalogue::configured::Environment;
use catalogue::history::{History, Object, Snapshot};
use catalogue::proof::VerificationState;
use catalogue::questions;
use catalogue::record::Condition;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use postgres::{self, ServerConfig};
use std::collections::BTreeMap;

/// Number of snapshots that a message lists if the requested one does not exist.
const NEAREST_MAX: usize = 3;

/// Selects a snapshot; by default the newest one that contains the wanted sources.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(multiple = false)]
pub struct Which {
    /// The last whole snapshot at or before this time: 2026-06-30T01:00:00Z, or 2026-06-30T03:00 or 2026-06-30 (end of
    /// the day) in the business time zone
    #[arg(long, value_name = "TIME")]
    pub at: Option<String>,
    /// The snapshot with this ID, as shown by `list`
    #[arg(long, value_name = "ID")]
    pub snapshot: Option<String>,
}

/// What a snapshot must contain whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted<'a> {
    /// One source.
    Source(&'a str),
    /// Every source of the snapshot.
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

/// Finds the selected snapshot. One that is selected by its id is not checked; see [`usable`].
///
/// # Errors
/// [`Class::Usage`] if there is no such snapshot, naming the nearest ones.
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
    // A run with a wrong clock, or one that was found damaged, is used only if there is no other for that day.
    let is_placed = |snapshot: &&Snapshot| !snapshot.ahead && (at.is_none() || !snapshot.misplaced);
    let is_sound = |snapshot: &&Snapshot| snapshot.verification_state != VerificationState::Failed;
    let found = until().filter(is_sound).find(is_placed);
    let found = found.or_else(|| until().find(is_placed)).or_else(|| until().next());
    // Prefer a snapshot of the same day whose time is certain over one whose time is in doubt.
    let day = |snapshot: &Snapshot| snapshot.id.taken().to_zoned_datetime(zone.clone()).date();
    let of_its_day = |doubted: &Snapshot| {
        let mut certain = until().filter(is_sound).filter(|snapshot| !snapshot.clock_doubted);
        certain.find(|snapshot| day(snapshot) == day(doubted))
    };
    let doubted = found.filter(|found| at.is_some() && found.clock_doubted);
    let found = doubted.and_then(of_its_day).or(found);
    if let Some((found, (over, why))) = found.and_then(|found| Some((found, skipped(history, found, wanted, at)?))) {
        tracing::warn!("skipping {over} because {why}; using {}", found.id);
    }
    if let (Some(found), Some(_)) = (found, at) {
        if found.clock_doubted {
            tracing::warn!("the time of {} may be wrong, but there is no other snapshot of that day", found.id);
        }
        if let Some(doubted) = questions::follows_doubted(history, found.id).filter(|_| !found.clock_doubted) {
            tracing::warn!(
                "{} directly follows {doubted}, whose time is in doubt, so its own time may be wrong too",
                found.id
            );
        }
        let mut of_its_day = whole().filter(|other| day(other) == day(found) && other.clock != found.clock);
        if let Some(other) = of_its_day.next_back() {
            tracing::warn!(
                "two clocks disagreed on that day: {} was made with the other clock (select it with --snapshot)",
                other.id
            );
        }
    }
    found.ok_or_else(|| match (at, whole().next()) {
        (Some(at), Some(first)) => usage(format!("there is no {} at or before {at}", wanted.describe()))
            .hint(format!("the first one is {}; `list` shows all", first.id)),
        _ => usage(format!("there is no {}", wanted.describe()))
            .hint(format!("{}; select another one with --snapshot", nearest(history, at))),
    })
}

/// The newest complete snapshot, whether or not its verification passed.
///
/// # Errors
/// [`Class::Usage`] if no snapshot is complete.
pub fn newest<'h>(history: &'h History, zone: &TimeZone) -> Result<&'h Snapshot> {
    let newest = history.snapshots.iter().rev().find(|snapshot| Wanted::All.is_met(snapshot) && !snapshot.ahead);
    newest.map_or_else(|| snapshot(history, &Which::default(), Wanted::All, zone), Ok)
}

/// The newest snapshot that was skipped in favour of `taken`, and why.
fn skipped(
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
                Some("it is dated in the future (use --snapshot to select it anyway)".to_owned())
            }
            None if wanted.is_met(snapshot) && snapshot.verification_state == VerificationState::Failed => {
                Some("its verification failed (use --snapshot to select it anyway)".to_owned())
            }
            None if wanted.is_met(snapshot) => Some("its time is in doubt".to_owned()),
            None => snapshot.sources.iter().filter(named).find_map(why),
        };
        Some((snapshot.id, why?))
    })
}

/// Refuses a source that is not whole, unless the user allowed a partial one.
///
/// # Errors
/// [`Class::Stale`], naming what is missing.
pub fn usable(snapshot: &Snapshot, source: &str, allow_partial: bool) -> Result<()> {
    let Some(state) = snapshot.sources.get(source) else { return Ok(()) };
    if allow_partial || !matches!(state.condition, Condition::Partial | Condition::Suspect) {
        return Ok(());
    }
    let doubts = snapshot.record.as_ref().and_then(|record| Some(record.sources.get(source)?.doubts.join("; ")));
    let why = doubts.filter(|doubts| !doubts.is_empty()).unwrap_or_else(|| "entries could not be read".to_owned());
    Err(Error::new(Class::Stale, format!("{source} is {} in the snapshot {}: {why}", state.condition, snapshot.id))
        .hint("take another snapshot, or use --allow-partial to restore what was saved"))
}

/// Parses a time given by the user. A date alone means the end of that day.
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

/// Describes the snapshots nearest to a moment, or the newest ones if no moment is given.
fn nearest(history: &History, moment: Option<Timestamp>) -> String {
    let mut ids: Vec<SnapshotId> = history.snapshots.iter().map(|snapshot| snapshot.id).collect();
    let distance =
        |id: &SnapshotId| moment.map_or(0, |moment| id.taken().duration_since(moment).as_secs().unsigned_abs());
    // If two are equally near, the newer one comes first.
    ids.sort_by_key(|id| (distance(id), std::cmp::Reverse(*id)));
    ids.truncate(NEAREST_MAX);
    match ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ") {
        none if none.is_empty() => "there are no snapshots yet; make one with `backup`".to_owned(),
        ids if moment.is_some() => format!("the nearest are {ids}; `list` shows all"),
        ids => format!("the newest are {ids}; `list` shows all"),
    }
}

/// Finds the selected folder: the named one, or the only one.
///
/// # Errors
/// As [`source`].
pub fn folder<'s>(session: &'s Session, name: Option<&str>) -> Result<(&'s str, &'s Source)> {
    source(&session.environment, &session.sources.sources, name, |source| matches!(source, Source::Directory(_)))
}

/// Finds the selected source: the named one, or the only one of the wanted kind.
///
/// # Errors
/// [`Class::Usage`], listing the existing names.
pub fn source<'h>(
    environment: &Environment,
    sources: &'h BTreeMap<String, Source>,
    name: Option<&str>,
    kind: fn(&Source) -> bool,
) -> Result<(&'h str, &'h Source)> {
    let fitting: Vec<_> = sources.iter().filter(|(_, source)| kind(source)).collect();
    let listed = fitting.iter().map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let found = match name {
        Some(name) => fitting.iter().find(|(own, _)| *own == name),
        None => fitting.first().filter(|_| fitting.len() == 1),
    };
    found.map(|(name, source)| (name.as_str(), *source)).ok_or_else(|| {
        let message = match name {
            Some(name) => {
                format!("{environment} has no source `{}` of this kind", base::text::printable(name))
            }
            None if fitting.is_empty() => format!("{environment} has no documents folder"),
            None => format!("{environment} has several sources"),
        };
        usage(message).hint(if listed.is_empty() {
            "check the sources in the configuration".to_owned()
        } else {
            format!(
                "choose {listed} with --source; to read a retired source, put its section back into the configuration"
            )
        })
    })
}

/// The object of a source in a snapshot.
///
/// # Errors
/// [`Class::Stale`] if the snapshot has none, or it is no longer in the store.
pub fn object<'h>(snapshot: &'h Snapshot, source: &str) -> Result<&'h Object> {
    if let Some(damage) = &snapshot.damage {
        return Err(damage.clone().hint("take another snapshot; `list` shows them"));
    }
    let object = snapshot.sources.get(source).and_then(|state| state.object.as_ref());
    let stale = |text| Error::new(Class::Stale, text).hint("take another snapshot; `list` shows them");
    match object {
        Some(object) if object.present => Ok(object),
        Some(object) if object.bytes == 0 => Err(stale(format!("the object {} is empty", object.key))),
        Some(object) => {
            Err(stale(format!("the object {} of snapshot {} is not in the store", object.key, snapshot.id)))
        }
        None => Err(stale(format!("the snapshot {} does not contain {source}", snapshot.id))),
    }
}

/// Finds the selected server: a URL, or a section of the configuration.
///
/// # Errors
/// [`Class::Usage`], listing the existing names.
pub fn server(servers: &BTreeMap<String, ServerConfig>, named: &str) -> Result<postgres::DatabaseConfig> {
    if named.contains("://") {
        return ServerConfig::from_url(named).map(|server| server.config());
    }
    servers.get(named).map(ServerConfig::config).ok_or_else(|| {
        let known = servers.keys().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        usage(format!("the configuration has no server `{}`", base::text::printable(named))).hint(if known.is_empty() {
            "add a section [servers.NAME], or use postgres://USER@HOST:5432/postgres".to_owned()
        } else {
            format!("name a server with --server: {known}, or postgres://USER@HOST:5432/postgres")
        })
    })
}

fn usage(text: impl std::fmt::Display) -> Error {
    Error::new(Class::Usage, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use store::ObjectKey;

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
    fn a_missing_snapshot_is_reported_with_the_nearest_ones() {
        let (some, none) = (history(&IDS), history(&[]));
        for (history, at, id, says, hint) in [
            (
                &some,
                Some("2026-06-27"),
                None,
                "there is no complete snapshot at or before",
                "the first one is 20260628T010000Z",
            ),
            (&some, Some("yesterday"), None, "`yesterday` is not a valid time", "2026-06-30"),
            (&some, None, Some("20260629T020000Z"), "does not exist", "nearest are 20260629T010000Z, 20260629T220000Z"),
            (&some, None, Some("20250101T000000Z"), "was forgotten", "nearest are 20260628T010000Z"),
            (&some, None, Some("latest"), "`latest` is not a valid snapshot id", "newest are 20260630T010000Z"),
            (&none, None, None, "there is no complete snapshot", "no snapshots yet"),
            (&none, None, Some("20260629T020000Z"), "does not exist", "no snapshots yet"),
        ] {
            let error = chosen(history, at, id).unwrap_err();
            assert_eq!(error.class(), Class::Usage);
            assert!(error.message().contains(says), "{error:?}");
            assert!(error.advice().unwrap().contains(hint), "{error:?}");
        }
    }
}
