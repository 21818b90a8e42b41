//! What waits for a person: everything in which the store and a configuration, a clock or a source disagree.
//!
//! A pure function of what the store holds and of what is configured. As long as anything is asked, runs save and nothing is
//! forgotten; each question names the command that answers it.

mod answer;
mod question;
mod rivals;
mod unasked;
mod withdraw;

pub use answer::{Answer, DISPROVED, answer, is_known_failure};
pub use question::{Kind, Names, Question, name_of};
pub use rivals::follows_doubted;
pub use unasked::{expect_recorded, taken_silently};

use crate::clock::{GAP_MAX, SKEW_MAX, is_ahead};
use crate::configured::Configured;
use crate::environment::EnvironmentFile;
use crate::guard;
use crate::history::{FileDoubt, History, Snapshot};
use crate::record::{ClockDoubt, Condition};
use base::id::SnapshotId;
use jiff::Timestamp;
use std::collections::BTreeSet;

/// Snapshots that a question names; `list` shows the others.
const NAMED_MAX: usize = 3;

/// What questions follow from.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The environment's name.
    pub environment: &'a str,
    /// What is configured of it.
    pub configured: &'a Configured,
    /// Rules that no plugin overrides, as configured.
    pub guard: &'a guard::Config,
    /// The configured time zone, an IANA name.
    pub time_zone: &'a str,
    /// The configured retention plugin with its settings, as the plugin crate spells them.
    pub retention: &'a str,
}

/// The sources that every run has to save. The environment's file names them; where there is none, the configuration does.
#[must_use]
pub fn expected<'a>(history: &'a History, configured: &'a Configured) -> BTreeSet<&'a str> {
    match &history.environment {
        Some(stored) => stored.file.sources.keys().map(String::as_str).collect(),
        None => configured.sources.keys().map(String::as_str).collect(),
    }
}

/// Why the moment that a run takes for the present may be wrong. `store_now` is the same moment by the store's clock.
#[must_use]
pub fn clock_doubt(now: Timestamp, store_now: Timestamp, history: &History) -> Option<ClockDoubt> {
    let skew = now.duration_since(store_now);
    if skew.abs() > SKEW_MAX {
        return Some(ClockDoubt::Skew { seconds: skew.as_secs() });
    }
    let newest = history.newest_moment()?;
    if now.duration_since(newest.taken()) < -SKEW_MAX {
        return Some(ClockDoubt::Behind { newest });
    }
    let certain = history.newest_certain(now).unwrap_or(newest);
    (now.duration_since(certain.taken()) > GAP_MAX).then_some(ClockDoubt::Gap { newest: certain })
}

/// Everything that waits for a person.
#[must_use]
pub fn questions(asked: Asked<'_>, history: &History, now: Timestamp) -> Vec<Question> {
    let now = history.present(now);
    let environment = asked.environment;
    let mut found = Vec::new();
    match (&history.environment, &history.environment_damage) {
        (_, Some(damage)) => found.push(Question {
            said: format!("{damage}; `init` goes on from the version before, or from the configuration"),
            ..question(Kind::FileDamaged, format!("init --env {environment}"))
        }),
        (None, None) => found.push(Question {
            said: if history.is_blank() {
                format!(
                    "the store has nothing of {environment}: its disk is not mounted, or `url` is wrong, or it is a new environment"
                )
            } else {
                match history.snapshots.iter().rev().find_map(|snapshot| snapshot.record.as_ref()?.environment_file) {
                    Some(stamp) => format!(
                        "the environment's file, of which a run went by the version {stamp}, is gone: put it back, or begin a new one without its answers"
                    ),
                    None => "the environment was never initialised, so nothing is forgotten".to_owned(),
                }
            },
            ..question(Kind::Uninitialised, format!("init --env {environment}"))
        }),
        (Some(stored), None) => {
            found.extend(history.file_doubt.map(|doubt| Question {
                said: describe_file(doubt),
                ..question(Kind::OtherFile, format!("accept --env {environment}"))
            }));
            found.extend(of_sources(asked, &stored.file));
            found.extend(of_rules(asked, &stored.file));
        }
    }
    let accept = || format!("accept --env {environment}");
    for source in expected(history, asked.configured) {
        found.extend(suspect(history, source, now).map(|said| said.into_question(accept())));
    }
    found.extend(of_time(history, now).into_iter().map(|said| said.into_question(accept())));
    let give_up = || format!("accept --env {environment} --lost");
    found.extend(of_losses(history).into_iter().map(|said| said.into_question(give_up())));
    // Whoever means one of several answers that one.
    let plain = accept();
    if found.iter().filter(|question| question.command.starts_with(&plain)).count() > 1 {
        let names = Names::of(&found);
        let only = found.iter().map(|question| names.shortest(question.kind.name(), question.source.as_deref()));
        let only: Vec<String> = only.collect();
        for (question, only) in found.iter_mut().zip(only) {
            if let Some(more) = question.command.strip_prefix(&plain) {
                question.command = format!("{plain} --only {only}{more}");
            }
        }
    }
    found
}

fn question(kind: Kind, command: String) -> Question {
    Question { kind, source: None, snapshots: Vec::new(), said: String::new(), command }
}

/// A question without its command.
struct Said {
    kind: Kind,
    source: Option<String>,
    snapshots: Vec<SnapshotId>,
    text: String,
}

impl Said {
    fn into_question(self, command: String) -> Question {
        let Self { kind, source, snapshots, text } = self;
        Question { kind, source, snapshots, said: text, command }
    }
}

fn of_sources(asked: Asked<'_>, file: &EnvironmentFile) -> Vec<Question> {
    let Asked { environment, configured, .. } = asked;
    let mut found = Vec::new();
    for name in file.sources.keys().filter(|name| !configured.sources.contains_key(*name)) {
        found.push(Question {
            source: Some(name.clone()),
            said: format!(
                "the environment has the source {name}, and this configuration does not: put it back, or retire it"
            ),
            ..question(Kind::GoneSource, format!("accept --env {environment} --retire {name}"))
        });
    }
    for (name, kind) in &configured.sources {
        let said = match file.sources.get(name) {
            Some(known) if known.kind == kind.name() => continue,
            Some(known) => {
                format!("the source {name} was of kind {}, and is configured as {}", known.kind, kind.name())
            }
            None => format!("the configuration has a source {name} that the environment does not have"),
        };
        let command = format!("accept --env {environment}");
        found.push(Question { source: Some(name.clone()), said, ..question(Kind::NewSource, command) });
    }
    found
}

fn of_rules(asked: Asked<'_>, file: &EnvironmentFile) -> Vec<Question> {
    let command = || format!("accept --env {}", asked.environment);
    let mut found = Vec::new();
    let weakened = file.guard.weakened_by(asked.guard);
    if !weakened.is_empty() {
        let said = format!("this configuration weakens the guard: {}", weakened.join(", "));
        found.push(Question { said, ..question(Kind::Guard, command()) });
    }
    if let Some(known) = file.retention.as_ref().filter(|known| *known != asked.retention) {
        let new = base::text::printable(asked.retention);
        let said = format!("the retention {known} becomes {new}, which may keep less");
        found.push(Question { said, ..question(Kind::Retention, command()) });
    }
    if file.time_zone != asked.time_zone {
        let (old, new) = (&file.time_zone, base::text::printable(asked.time_zone));
        let said = format!("the time zone {old} becomes {new}, which moves days and fiscal years");
        found.push(Question { said, ..question(Kind::TimeZone, command()) });
    }
    found
}

/// The newest recorded state of a source, if it is suspect.
fn suspect(history: &History, source: &str, now: Timestamp) -> Option<Said> {
    let newest = newest_of(history, source, now)?;
    let is_suspect =
        |snapshot: &Snapshot| snapshot.sources.get(source).is_some_and(|state| state.condition == Condition::Suspect);
    if !is_suspect(newest) {
        return None;
    }
    let whole = history.last_whole(source, now).map(|(id, _)| id);
    let since = |snapshot: &&Snapshot| whole.is_none_or(|whole| snapshot.id > whole);
    // Another database in between is another question, and nobody asks it any more.
    let identity = newest.sources.get(source).and_then(|state| state.identity.as_ref());
    let is_same =
        |snapshot: &&Snapshot| snapshot.sources.get(source).is_some_and(|state| state.identity.as_ref() == identity);
    let suspects = history
        .snapshots
        .iter()
        .filter(since)
        .filter(is_same)
        .filter(|snapshot| is_suspect(snapshot) && !snapshot.retired);
    let doubts = newest.record.as_ref().and_then(|record| Some(record.sources.get(source)?.doubts.join("; ")));
    let doubts = doubts.filter(|doubts| !doubts.is_empty());
    let withdrawn = || "it was whole only by an answer that was withdrawn".to_owned();
    let text = format!("{source} is suspect in {}: {}", newest.id, doubts.unwrap_or_else(withdrawn));
    let snapshots = suspects.map(|snapshot| snapshot.id).collect();
    Some(Said { kind: Kind::Suspect, source: Some(source.to_owned()), snapshots, text })
}

/// The newest record that names a source and is not from the future.
fn newest_of<'h>(history: &'h History, source: &str, now: Timestamp) -> Option<&'h Snapshot> {
    let mut recorded = history.snapshots.iter().rev().filter(|snapshot| snapshot.record.is_some() && !snapshot.retired);
    recorded.find(|snapshot| snapshot.id.taken() <= now && snapshot.sources.contains_key(source))
}

fn of_time(history: &History, now: Timestamp) -> Vec<Said> {
    let mut found = Vec::new();
    let file = history.environment.as_ref().map(|stored| &stored.file);
    let open = || history.snapshots.iter().filter(|snapshot| !snapshot.retired && !snapshot.adopted);
    let known = |snapshot: &&Snapshot| {
        file.is_some_and(|file| file.doubted_times.contains(&snapshot.id) || file.retired_ahead.contains(&snapshot.id))
    };
    // What is from the future is asked about as such.
    let past = || open().filter(|snapshot| !is_ahead(snapshot.id, now));
    let come = rivals::come(history, now);
    let of_come = |id: SnapshotId| come.as_ref().is_some_and(|come| come.ids.contains(&id) || come.since.contains(&id));
    let doubted = past().filter(|snapshot| snapshot.clock_doubted && !known(snapshot) && !of_come(snapshot.id));
    let doubted: Vec<&Snapshot> = doubted.collect();
    if let Some(doubt) = doubted.first().and_then(|snapshot| snapshot.record.as_ref()?.clock_doubt) {
        let ids: Vec<SnapshotId> = doubted.iter().map(|snapshot| snapshot.id).collect();
        let text = format!("the time of {} is doubted: {}", named(&ids), describe(doubt));
        found.push(Said { kind: Kind::Clock, source: None, snapshots: ids, text });
    }
    found.extend(come.map(|come| {
        let text = come.describe();
        Said { kind: Kind::Clocks, source: None, snapshots: come.ids, text }
    }));
    let ahead: Vec<SnapshotId> = open().map(|snapshot| snapshot.id).filter(|id| is_ahead(*id, now)).collect();
    if !ahead.is_empty() {
        let is = if ahead.len() == 1 { "is" } else { "are" };
        let text = format!("{} {is} from the future, so a clock is or was wrong: {}", counted(&ahead), listed(&ahead));
        found.push(Said { kind: Kind::Future, source: None, snapshots: ahead, text });
    }
    found
}

fn of_losses(history: &History) -> Vec<Said> {
    let mut found = Vec::new();
    let lost: Vec<SnapshotId> =
        history.snapshots.iter().filter(|snapshot| snapshot.lost().next().is_some()).map(|s| s.id).collect();
    if !lost.is_empty() {
        let text = format!("{} lost an object: {}", counted(&lost), listed(&lost));
        found.push(Said { kind: Kind::Lost, source: None, snapshots: lost, text });
    }
    let file = history.environment.as_ref().map(|stored| &stored.file);
    let is_known = |snapshot: &Snapshot| file.is_some_and(|file| file.has_given_up_record(snapshot.id));
    let damaged = history.snapshots.iter().filter(|snapshot| snapshot.damage.is_some() && !is_known(snapshot));
    let damaged: Vec<SnapshotId> = damaged.map(|snapshot| snapshot.id).collect();
    if !damaged.is_empty() {
        let text = {
            let has = if damaged.len() == 1 { "has" } else { "have" };
            let ids = listed(&damaged);
            format!("{} {has} a record that cannot be read: {ids}", counted(&damaged))
        };
        found.push(Said { kind: Kind::DamagedRecord, source: None, snapshots: damaged, text });
    }
    if !history.missing.is_empty() {
        let missing: Vec<SnapshotId> = history.missing.iter().copied().collect();
        let text =
            format!("the record of {} is missing, although a later one names it or it was forgotten", named(&missing));
        found.push(Said { kind: Kind::MissingRecord, source: None, snapshots: missing, text });
    }
    if !history.changed.is_empty() {
        let changed: Vec<SnapshotId> = history.changed.iter().copied().collect();
        let text = format!("the record of {} was edited or replaced: a later one names another", named(&changed));
        found.push(Said { kind: Kind::ChangedRecord, source: None, snapshots: changed, text });
    }
    found
}

/// `1 snapshot`, or `5 snapshots`.
fn counted(ids: &[SnapshotId]) -> String {
    let count = ids.len();
    format!("{count} snapshot{}", if count == 1 { "" } else { "s" })
}

/// The first of them.
fn listed(ids: &[SnapshotId]) -> String {
    let shown: Vec<String> = ids.iter().take(NAMED_MAX).map(ToString::to_string).collect();
    let more = if ids.len() > NAMED_MAX { ", …" } else { "" };
    format!("{}{more}", shown.join(", "))
}

/// Both.
fn named(ids: &[SnapshotId]) -> String {
    format!("{} ({})", counted(ids), listed(ids))
}

/// What is wrong with the newest version of the environment's file, as one sentence that begins in lower case.
#[must_use]
pub fn describe_file(doubt: FileDoubt) -> String {
    match doubt {
        FileDoubt::Changed { stamp, run } => format!(
            "the version {stamp} of the environment's file was edited after the run {run} went by it: put it back, or go on with what it says"
        ),
        FileDoubt::Gone { stamp, run } => format!(
            "the version {stamp} of the environment's file is gone, and the run {run} went by it: put it back, or go on without its answers"
        ),
        FileDoubt::Unchained { stamp, before } => format!(
            "the version {stamp} of the environment's file does not follow {before}, as a copy of an older one: remove it, or go on with what it says"
        ),
    }
}

/// Why a time is doubted, for people.
#[must_use]
pub fn describe(doubt: ClockDoubt) -> String {
    match doubt {
        ClockDoubt::Skew { seconds } => {
            let (by, how) = (seconds.unsigned_abs(), if seconds > 0 { "ahead of" } else { "behind" });
            format!("the machine's clock was {by} s {how} the store's")
        }
        ClockDoubt::Gap { newest } => format!("nothing was recorded since {newest}, or the clock jumped ahead"),
        ClockDoubt::Behind { newest } => format!("{newest} was in its future"),
    }
}

/// Why nothing may be forgotten, a sentence each: every question, and every expected source that is not whole in the newest run.
#[must_use]
pub fn obstacles(asked: Asked<'_>, history: &History, now: Timestamp) -> Vec<String> {
    let now = history.present(now);
    let mut found: Vec<String> = questions(asked, history, now)
        .into_iter()
        .map(|question| format!("{} (answer with `{}`)", question.said, question.command))
        .collect();
    let Some(newest) = history.previous(now) else {
        found.push("no run of this program is recorded".to_owned());
        return found;
    };
    for source in expected(history, asked.configured) {
        if newest.has_whole(source) {
            continue;
        }
        let state = newest.sources.get(source);
        // A suspect one is asked about already.
        match state.map(|state| state.condition) {
            Some(Condition::Suspect) => {}
            Some(Condition::Whole) | None => {
                found.push(format!("{source} was not saved in the last run, {}", newest.id))
            }
            Some(condition) => found.push(format!("{source} is {condition} in the last run, {}", newest.id)),
        }
    }
    found
}

#[cfg(test)]
mod tests;
