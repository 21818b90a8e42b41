//! Questions that wait for a person: every disagreement between the store and a configuration, a clock or a source.
//!
//! A pure function of the store's content and the configuration. While a question is open, runs still save but nothing
//! is forgotten. Each question names the command that answers it.

mod answer;
mod question;
mod rivals;
mod unasked;
mod withdraw;

pub use answer::{Answer, DISPROVED, answer, is_known_failure};
pub use question::{Names, Question, QuestionKind, question_name};
pub use rivals::follows_doubted;
pub use unasked::{expect_recorded, taken_silently};

use crate::clock::{GAP_MAX, SKEW_MAX, is_ahead};
use crate::configured::Configured;
use crate::environment::EnvironmentFile;
use crate::guard;
use crate::history::{FileDoubt, History, Snapshot};
use crate::record::{ClockDoubt, Condition, is_newer_format};
use base::id::SnapshotId;
use base::text::counted;
use jiff::Timestamp;
use std::collections::BTreeSet;

/// Snapshots that a question lists. `list` shows the others.
const NAMED_MAX: usize = 3;

/// The configuration that questions are derived from.
#[derive(Debug, Clone, Copy)]
pub struct QuestionContext<'a> {
    /// The environment's name.
    pub environment: &'a str,
    /// What the configuration says about it.
    pub configured: &'a Configured,
    /// The configured rules that no plugin can override.
    pub guard: &'a guard::GuardConfig,
    /// The configured time zone, an IANA name.
    pub time_zone: &'a str,
    /// The configured retention plugin with its settings, as the plugin crate writes them.
    pub retention: &'a str,
}

/// The sources that every run has to save. They come from the environment's file, or without one from the
/// configuration.
pub fn expected<'a>(history: &'a History, configured: &'a Configured) -> BTreeSet<&'a str> {
    match &history.environment {
        Some(stored) => stored.file.sources.keys().map(String::as_str).collect(),
        None => configured.sources.keys().map(String::as_str).collect(),
    }
}

/// Why the time of a run may be wrong. `store_now` is the same moment by the store's clock.
pub fn clock_doubt(now: Timestamp, store_now: Timestamp, history: &History) -> Option<ClockDoubt> {
    let skew = now.duration_since(store_now);
    if skew.abs() > SKEW_MAX {
        return Some(ClockDoubt::Skew { seconds: skew.as_secs() });
    }
    let newest = history.newest_moment()?;
    if now.duration_since(newest.moment()) < -SKEW_MAX {
        return Some(ClockDoubt::Behind { newest });
    }
    let certain = history.newest_certain(now).unwrap_or(newest);
    (now.duration_since(certain.moment()) > GAP_MAX).then_some(ClockDoubt::Gap { newest: certain })
}

/// All questions that wait for a person.
pub fn questions(context: QuestionContext<'_>, history: &History, now: Timestamp) -> Vec<Question> {
    let now = history.present(now);
    let environment = context.environment;
    // First, because this version can answer nothing else while it waits.
    let mut found: Vec<Question> = newer_records(history, environment).into_iter().collect();
    match (&history.environment, &history.environment_damage) {
        (_, Some(newer)) if is_newer_format(newer) => found.push(Question {
            text: format!("{newer}: run the newer version of dolibarr-backup that wrote it"),
            ..question(QuestionKind::NewerFormat, format!("status --env {environment}"))
        }),
        (_, Some(damage)) => found.push(Question {
            text: format!("{damage}; `init` continues from the previous version, or from the configuration"),
            ..question(QuestionKind::FileDamaged, format!("init --env {environment}"))
        }),
        (None, None) => found.push(Question {
            text: if history.is_blank() {
                format!(
                    "the store holds nothing for {environment}: its disk is not mounted, `url` is wrong, \
                     or the environment is new"
                )
            } else {
                match history.snapshots.iter().rev().find_map(|snapshot| snapshot.record.as_ref()?.environment_file) {
                    Some(stamp) => format!(
                        "the environment's file is gone, although a run used its version {stamp}: restore it, \
                         or start a new one without its answers"
                    ),
                    None => "the environment was never initialised, so nothing is forgotten".to_owned(),
                }
            },
            ..question(QuestionKind::Uninitialised, format!("init --env {environment}"))
        }),
        (Some(stored), None) => {
            found.extend(history.file_doubt.map(|doubt| Question {
                text: describe_file(doubt),
                ..question(QuestionKind::OtherFile, format!("accept --env {environment}"))
            }));
            found.extend(source_questions(context, &stored.file));
            found.extend(rule_questions(context, &stored.file));
        }
    }
    let plain = format!("accept --env {environment}");
    for source in expected(history, context.configured) {
        found.extend(suspect_question(history, source, now, &plain));
    }
    found.extend(clock_questions(history, now, &plain));
    found.extend(loss_questions(history, environment));
    // If several questions have the same command, `--only` selects one.
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

fn question(kind: QuestionKind, command: String) -> Question {
    Question { kind, source: None, snapshots: Vec::new(), text: String::new(), command }
}

/// A question about snapshots.
fn about(kind: QuestionKind, snapshots: Vec<SnapshotId>, text: String, command: &str) -> Question {
    Question { snapshots, text, ..question(kind, command.to_owned()) }
}

fn source_questions(context: QuestionContext<'_>, file: &EnvironmentFile) -> Vec<Question> {
    let QuestionContext { environment, configured, .. } = context;
    let mut found = Vec::new();
    for name in file.sources.keys().filter(|name| !configured.sources.contains_key(*name)) {
        found.push(Question {
            source: Some(name.clone()),
            text: format!(
                "the environment has the source {name}, but this configuration does not: add it again, or retire it"
            ),
            ..question(QuestionKind::GoneSource, format!("accept --env {environment} --retire {name}"))
        });
    }
    for (name, kind) in &configured.sources {
        let text = match file.sources.get(name) {
            Some(known) if known.kind == kind.name() => continue,
            Some(known) => {
                format!("the source {name} was of kind {}, but is configured as {}", known.kind, kind.name())
            }
            None => format!("the configuration has a source {name} that the environment does not have"),
        };
        let command = format!("accept --env {environment}");
        found.push(Question { source: Some(name.clone()), text, ..question(QuestionKind::NewSource, command) });
    }
    found
}

fn rule_questions(context: QuestionContext<'_>, file: &EnvironmentFile) -> Vec<Question> {
    let command = || format!("accept --env {}", context.environment);
    let mut found = Vec::new();
    let weakened = file.guard.weakened_by(context.guard);
    if !weakened.is_empty() {
        let text = format!("this configuration weakens the guard: {}", weakened.join(", "));
        found.push(Question { text, ..question(QuestionKind::Guard, command()) });
    }
    if let Some(known) = file.retention.as_ref().filter(|known| *known != context.retention) {
        let new = base::text::printable(context.retention);
        let text = format!("the retention changes from {known} to {new}, which may keep less");
        found.push(Question { text, ..question(QuestionKind::Retention, command()) });
    }
    if file.time_zone != context.time_zone {
        let (old, new) = (&file.time_zone, base::text::printable(context.time_zone));
        let text = format!("the time zone changes from {old} to {new}, which moves days and fiscal years");
        found.push(Question { text, ..question(QuestionKind::TimeZone, command()) });
    }
    found
}

/// Asks about the newest recorded state of a source, if it is suspect.
fn suspect_question(history: &History, source: &str, now: Timestamp, command: &str) -> Option<Question> {
    let newest = newest_record_with(history, source, now)?;
    let is_suspect =
        |snapshot: &Snapshot| snapshot.sources.get(source).is_some_and(|state| state.condition == Condition::Suspect);
    if !is_suspect(newest) {
        return None;
    }
    let whole = history.last_whole(source, now).map(|(id, _)| id);
    let is_newer = |snapshot: &&Snapshot| whole.is_none_or(|whole| snapshot.id > whole);
    // Suspect states of another database in between are a different question, which is obsolete.
    let identity = newest.sources.get(source).and_then(|state| state.identity.as_ref());
    let is_same =
        |snapshot: &&Snapshot| snapshot.sources.get(source).is_some_and(|state| state.identity.as_ref() == identity);
    let suspects = history
        .snapshots
        .iter()
        .filter(is_newer)
        .filter(is_same)
        .filter(|snapshot| is_suspect(snapshot) && !snapshot.retired);
    let doubts = newest.record.as_ref().and_then(|record| Some(record.sources.get(source)?.doubts.join("; ")));
    let doubts = doubts.filter(|doubts| !doubts.is_empty());
    let withdrawn = || "it was whole only because of an answer that was withdrawn".to_owned();
    let text = format!("{source} is suspect in {}: {}", newest.id, doubts.unwrap_or_else(withdrawn));
    let snapshots = suspects.map(|snapshot| snapshot.id).collect();
    Some(Question { source: Some(source.to_owned()), ..about(QuestionKind::Suspect, snapshots, text, command) })
}

/// The newest recorded snapshot that has a source and is not from the future.
fn newest_record_with<'h>(history: &'h History, source: &str, now: Timestamp) -> Option<&'h Snapshot> {
    let mut recorded = history.snapshots.iter().rev().filter(|snapshot| snapshot.record.is_some() && !snapshot.retired);
    recorded.find(|snapshot| snapshot.id.taken() <= now && snapshot.sources.contains_key(source))
}

fn clock_questions(history: &History, now: Timestamp, command: &str) -> Vec<Question> {
    let mut found = Vec::new();
    let file = history.environment.as_ref().map(|stored| &stored.file);
    let open = || history.snapshots.iter().filter(|snapshot| !snapshot.retired && !snapshot.adopted);
    let known = |snapshot: &&Snapshot| {
        file.is_some_and(|file| file.doubted_times.contains(&snapshot.id) || file.retired_ahead.contains(&snapshot.id))
    };
    // Snapshots from the future get their own question.
    let past = || open().filter(|snapshot| !is_ahead(snapshot.id, now));
    let arrived = rivals::arrived(history, now);
    let has_arrived = |id: SnapshotId| arrived.as_ref().is_some_and(|arrived| arrived.has(id));
    let doubted = past().filter(|snapshot| snapshot.clock_doubted && !known(snapshot) && !has_arrived(snapshot.id));
    let doubted: Vec<&Snapshot> = doubted.collect();
    if let Some(doubt) = doubted.first().and_then(|snapshot| snapshot.record.as_ref()?.clock_doubt) {
        let ids: Vec<SnapshotId> = doubted.iter().map(|snapshot| snapshot.id).collect();
        let text = format!("the time of {} is doubted: {}", count_and_ids(&ids), describe(doubt));
        found.push(about(QuestionKind::Clock, ids, text, command));
    }
    found.extend(arrived.map(|arrived| {
        let text = arrived.describe();
        about(QuestionKind::Clocks, arrived.ids, text, command)
    }));
    let ahead: Vec<SnapshotId> = open().map(|snapshot| snapshot.id).filter(|id| is_ahead(*id, now)).collect();
    if !ahead.is_empty() {
        let is = is_or_are(&ahead);
        let (count, ids) = (counted(ahead.len(), "snapshot"), first_ids(&ahead));
        let text = format!("{count} {is} from the future, so a clock is or was wrong: {ids}");
        found.push(about(QuestionKind::Future, ahead, text, command));
    }
    found
}

/// Asks for the newer version that wrote some records.
fn newer_records(history: &History, environment: &str) -> Option<Question> {
    let is_newer = |snapshot: &&Snapshot| snapshot.damage.as_ref().is_some_and(is_newer_format);
    let open = history.snapshots.iter().filter(|snapshot| !snapshot.retired);
    let ids: Vec<SnapshotId> = open.filter(is_newer).map(|snapshot| snapshot.id).collect();
    let text = format!("a newer version of dolibarr-backup recorded {}: run that version", count_and_ids(&ids));
    let command = format!("status --env {environment}");
    (!ids.is_empty()).then(|| about(QuestionKind::NewerFormat, ids, text, &command))
}

fn loss_questions(history: &History, environment: &str) -> Vec<Question> {
    let give_up = format!("accept --env {environment} --lost");
    let mut found = Vec::new();
    let lost: Vec<SnapshotId> =
        history.snapshots.iter().filter(|snapshot| snapshot.lost().next().is_some()).map(|s| s.id).collect();
    if !lost.is_empty() {
        let text = format!("{} lost an object: {}", counted(lost.len(), "snapshot"), first_ids(&lost));
        found.push(about(QuestionKind::Lost, lost, text, &give_up));
    }
    let file = history.environment.as_ref().map(|stored| &stored.file);
    let is_known = |snapshot: &Snapshot| file.is_some_and(|file| file.has_given_up_record(snapshot.id));
    let is_damaged = |snapshot: &&Snapshot| snapshot.damage.as_ref().is_some_and(|why| !is_newer_format(why));
    let damaged = history.snapshots.iter().filter(|snapshot| !is_known(snapshot)).filter(is_damaged);
    let damaged: Vec<SnapshotId> = damaged.map(|snapshot| snapshot.id).collect();
    if !damaged.is_empty() {
        let has = if damaged.len() == 1 { "has" } else { "have" };
        let (count, ids) = (counted(damaged.len(), "snapshot"), first_ids(&damaged));
        let text = format!("{count} {has} a record that cannot be read: {ids}");
        found.push(about(QuestionKind::DamagedRecord, damaged, text, &give_up));
    }
    if !history.missing.is_empty() {
        let missing: Vec<SnapshotId> = history.missing.iter().copied().collect();
        let ids = count_and_ids(&missing);
        let text =
            format!("the record of {ids} is missing, although another record, a verification or certificate names it");
        found.push(about(QuestionKind::MissingRecord, missing, text, &give_up));
    }
    if !history.changed.is_empty() {
        let changed: Vec<SnapshotId> = history.changed.iter().copied().collect();
        let ids = count_and_ids(&changed);
        let text = format!("the record of {ids} was edited or replaced: a later record names a different one");
        found.push(about(QuestionKind::ChangedRecord, changed, text, &give_up));
    }
    found
}

/// `is` or `are`, by the number of ids.
const fn is_or_are(ids: &[SnapshotId]) -> &'static str {
    if ids.len() == 1 { "is" } else { "are" }
}

/// The first ids.
fn first_ids(ids: &[SnapshotId]) -> String {
    let shown: Vec<String> = ids.iter().take(NAMED_MAX).map(ToString::to_string).collect();
    let more = if ids.len() > NAMED_MAX { ", …" } else { "" };
    format!("{}{more}", shown.join(", "))
}

/// The count and the first ids.
fn count_and_ids(ids: &[SnapshotId]) -> String {
    format!("{} ({})", counted(ids.len(), "snapshot"), first_ids(ids))
}

/// Describes what is wrong with the newest version of the environment's file, in one sentence that starts in lower
/// case.
pub fn describe_file(doubt: FileDoubt) -> String {
    match doubt {
        FileDoubt::Changed { stamp, run } => format!(
            "the version {stamp} of the environment's file was edited after the run {run} used it: \
             restore it, or continue with its current content"
        ),
        FileDoubt::Gone { stamp, run } => format!(
            "the version {stamp} of the environment's file is gone, although the run {run} used it: \
             restore it, or continue without its answers"
        ),
        FileDoubt::Unchained { stamp, before } => format!(
            "the version {stamp} of the environment's file does not follow {before}, \
             so it may be a copy of an older version: remove it, or continue with its content"
        ),
    }
}

/// Describes why a time is doubted, for people.
pub fn describe(doubt: ClockDoubt) -> String {
    match doubt {
        ClockDoubt::Skew { seconds } => {
            let (by, how) = (seconds.unsigned_abs(), if seconds > 0 { "ahead of" } else { "behind" });
            format!("the machine's clock was {by} s {how} the store's")
        }
        ClockDoubt::Gap { newest } => format!("nothing had been recorded since {newest}, or the clock jumped ahead"),
        ClockDoubt::Behind { newest } => format!("the store already held a later time, {newest}"),
    }
}

/// Why nothing may be forgotten, one sentence each: every open question, and every expected source that is not whole in
/// the newest run.
#[must_use]
pub fn obstacles(context: QuestionContext<'_>, history: &History, now: Timestamp) -> Vec<String> {
    let now = history.present(now);
    let mut found: Vec<String> = questions(context, history, now)
        .into_iter()
        .map(|question| format!("{} (answer with `{}`)", question.text, question.command))
        .collect();
    let Some(newest) = history.previous(now) else {
        found.push("no run of this program is recorded".to_owned());
        return found;
    };
    for source in expected(history, context.configured) {
        if newest.has_whole(source) {
            continue;
        }
        let state = newest.sources.get(source);
        // A suspect source already has a question.
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
