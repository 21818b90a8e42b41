//! `accept`: a person answers the open questions. The answers become the next version of the environment's file.

mod only;

use crate::exclusive::{check_clock, check_file, check_formats, environment_file, exclusively};
use crate::report::{self, Report};
use crate::session::Session;
use crate::verification;
use base::error::{Class, Error, Result};
use base::id::{SnapshotId, Stamp};
use catalogue::environment::{self, AcceptedState, EnvironmentFile};
use catalogue::history::{self, FileDoubt, History};
use catalogue::lease::Lease;
use catalogue::proof::{Mark, Verification};
use catalogue::questions::{self, Answer, Names, Question, QuestionKind};
use jiff::Timestamp;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// The command-line arguments.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Arguments {
    /// Name of the environment in the configuration
    #[arg(long = "env", value_name = "NAME")]
    pub environment: String,
    /// Show the open questions and what would change, without changing anything
    #[arg(long)]
    dry_run: bool,
    /// Retire this source: no run saves it any more, and its snapshots age out. Answers only this
    /// question and those about new sources. May be repeated
    #[arg(long, value_name = "SOURCE")]
    retire: Vec<String>,
    /// Give up lost data, and answer nothing else: missing objects, unreadable records, and snapshots whose
    /// verification failed
    #[arg(long)]
    lost: bool,
    /// Answer or take back only this: a source, a kind of question as shown by `status --json`, or both, as in
    /// `suspect:docs`. May be repeated
    #[arg(long, value_name = "WHAT")]
    only: Vec<String>,
    /// Take back everything that was accepted for this snapshot (its sources or its time), and answer nothing else.
    /// Later snapshots that were whole only because of that answer are in doubt again, too. May be repeated
    #[arg(long, value_name = "ID", conflicts_with_all = ["retire", "lost", "adopted"])]
    withdraw: Vec<String>,
    /// Confirm the time of this snapshot and of all others made with the same clock, and answer nothing else
    #[arg(long, value_name = "ID", conflicts_with_all = ["retire", "lost", "adopted", "only", "withdraw"])]
    right_time: Option<String>,
    /// Let all current adopted snapshots age like recorded ones, and answer nothing else
    #[arg(long)]
    adopted: bool,
}

/// Shows the open questions and writes the answers.
///
/// # Errors
/// [`Class::Usage`] for an unknown source; [`Class::Config`] where the environment was never initialised, or the clock
/// of this machine is wrong. Questions that stay open are the report's failure, of class [`Class::Stale`].
pub async fn run(session: &Session, arguments: &Arguments) -> Result<Report> {
    let now = session.clock.now();
    if arguments.dry_run {
        let history = session.history(now).await?;
        return answer(session, None, &history, arguments, now).await;
    }
    exclusively(session, now, async |lease, history| {
        check_clock(session, lease, now)?;
        answer(session, Some(lease), &history, arguments, now).await
    })
    .await
}

/// Without a lease nothing is written.
async fn answer(
    session: &Session,
    lease: Option<&Lease>,
    history: &History,
    arguments: &Arguments,
    now: Timestamp,
) -> Result<Report> {
    let environment = &session.environment;
    check_formats(history)?;
    let stored = environment_file(session, history)?;
    let retire: BTreeSet<String> = arguments.retire.iter().cloned().collect();
    check_retired(session, &stored.file, &retire)?;
    let waiting = questions::questions(session.asked(), history, now);
    let breaks = if arguments.lost { breaks(session, history).await? } else { BTreeMap::new() };
    let failures = if arguments.lost { failures(session, history).await? } else { BTreeMap::new() };
    let withdraw = withdrawn(history, &stored.file, &arguments.withdraw)?;
    let Arguments { lost, adopted, .. } = *arguments;
    let only = if withdraw.is_empty() {
        let named = only::only(&Names::of(&waiting), &arguments.only, "nothing is asked about")?;
        let implied = || only::implied(arguments, &waiting, &stored.file);
        named.or_else(implied).map(|only| only::with_retired(only, &retire))
    } else {
        only::only(&answered(&stored.file, &withdraw), &arguments.only, "nothing was accepted for")?
    };
    let accepted_in = if withdraw.is_empty() { BTreeMap::new() } else { accepted_in(session).await? };
    let right_time = arguments.right_time.as_deref().map(parsed).transpose()?;
    let answer = Answer { retire, lost, adopted, breaks, failures, withdraw, accepted_in, right_time, only };
    let (next, changes) = questions::answer(session.asked(), history, &stored.file, &answer, now);
    if let (Some(id), true) = (right_time, changes.is_empty()) {
        return Err(Error::new(Class::Usage, format!("the time of the snapshot {id} is not in doubt"))
            .hint("`list` shows the snapshots whose time is in doubt"));
    }
    if let (Some(id), true) = (answer.withdraw.first(), changes.is_empty()) {
        return Err(Error::new(Class::Usage, format!("the question about the snapshot {id} is already open"))
            .hint("`status` shows the open questions and the command that answers each"));
    }
    if !changes.is_empty()
        && waiting.iter().any(|question| question.kind == QuestionKind::OtherFile && answer.leaves_open(question))
    {
        check_file(session, history)?;
    }
    let mut open: Vec<Question> = waiting.iter().filter(|question| answer.leaves_open(question)).cloned().collect();
    if let Some(lease) = lease.filter(|_| !changes.is_empty()) {
        lease.check().await?;
        let gone = match history.file_doubt {
            Some(FileDoubt::Gone { stamp, .. }) => Some(stamp),
            Some(FileDoubt::Changed { .. } | FileDoubt::Unchained { .. }) | None => None,
        };
        environment::write(&session.store, environment, Some(stored), gone, next, now).await?;
        let after = history::load(&session.store, environment, &session.sources.configured, now).await?;
        open = questions::questions(session.asked(), &after, now);
        // Questions that this answer raises were not open before, so they are no failure of this command.
        open.retain(|question| waiting.iter().any(|waited| waited.name() == question.name()));
    }
    let mut text = String::new();
    for question in &waiting {
        let _ = writeln!(text, "waited: {}", question.text);
    }
    let verb = if arguments.dry_run { "would change" } else { "changed" };
    for change in &changes {
        let _ = writeln!(text, "{verb}: {change}");
    }
    if changes.is_empty() {
        text.push_str("nothing was changed\n");
    }
    for question in &open {
        let _ = writeln!(text, "still open: {} (answer with `{}`)", question.text, question.command);
    }
    let document = json!({
        "format_version": report::FORMAT_VERSION,
        "environment": environment.as_str(),
        "dry_run": arguments.dry_run,
        "waited": report::questions_value(&waiting),
        "changes": changes,
        "still_waiting": report::questions_value(&open),
    });
    let failure = open.first().map(|question| {
        Error::new(Class::Stale, format!("{environment}: {}", question.text))
            .hint(format!("run `{}` if this is intended", question.command))
    });
    Ok(Report { document, text, failure })
}

/// The records at which the chain is broken, as `verify` finds them, each with its SHA-256 if it exists.
async fn breaks(session: &Session, history: &History) -> Result<BTreeMap<SnapshotId, Option<String>>> {
    let chain = verification::check_chain(&session.store, &session.environment, history).await?;
    Ok(chain.problems.into_iter().map(|(id, _)| (id, chain.hashes.get(&id).cloned())).collect())
}

/// The findings of the last failed verification of each snapshot.
async fn failures(session: &Session, history: &History) -> Result<BTreeMap<SnapshotId, BTreeSet<String>>> {
    let mut last: BTreeMap<SnapshotId, Mark> = BTreeMap::new();
    // They are sorted by snapshot and time.
    let failed = history.verifications.iter().filter(|mark| !mark.passed);
    last.extend(failed.filter(|mark| history.snapshot(mark.snapshot).is_some()).map(|mark| (mark.snapshot, *mark)));
    let mut found = BTreeMap::new();
    for (id, mark) in last {
        // An unreadable one says only that it failed, so there are no findings to accept.
        let bytes = session.store.get(&mark.key(&session.environment)?).await?;
        let Some(read) = bytes.and_then(|bytes| Verification::parse(&bytes).ok()) else { continue };
        found.insert(id, read.findings().collect());
    }
    Ok(found)
}

/// For each accepted state, the version of the environment's file that accepted it last. Unreadable versions are left
/// out.
async fn accepted_in(session: &Session) -> Result<BTreeMap<AcceptedState, Stamp>> {
    let mut found = BTreeMap::new();
    for version in environment::versions(&session.store, &session.environment).await? {
        let accepted = version.file.accepted;
        // A state that was taken back in between was accepted again by a later answer.
        found.retain(|state, _| accepted.contains(state));
        for state in accepted {
            found.entry(state).or_insert(version.stamp);
        }
    }
    Ok(found)
}

/// The names that `--only` accepts together with `--withdraw`, for some snapshots.
fn answered<'f>(file: &'f EnvironmentFile, of: &BTreeSet<SnapshotId>) -> Names<'f> {
    let sources = file.accepted.iter().filter(|state| of.contains(&state.snapshot));
    let sources = sources.map(|state| (QuestionKind::Suspect.name(), Some(state.source.as_str())));
    sources.chain([(QuestionKind::Clock.name(), None), (QuestionKind::Clocks.name(), None)]).collect()
}

/// The snapshots named with `--withdraw`. Each must have something that was accepted.
fn withdrawn(history: &History, file: &EnvironmentFile, named: &[String]) -> Result<BTreeSet<SnapshotId>> {
    let accepted = |text: &String| {
        let id = parsed(text)?;
        let rivals = file.undecided.iter().chain(&file.decided).flat_map(|rivals| rivals.ahead.union(&rivals.since));
        let times = file.trusted_times.iter().chain(&file.doubted_times).chain(&file.retired_ahead).chain(rivals);
        let known = file.accepted.iter().map(|state| &state.snapshot).chain(times);
        let known: BTreeSet<SnapshotId> = known.filter(|id| history.snapshot(**id).is_some()).copied().collect();
        if known.contains(&id) {
            return Ok(id);
        }
        let hint = match known.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ") {
            none if none.is_empty() => "nothing was accepted for any existing snapshot".to_owned(),
            known => format!("use one of these with --withdraw: {known}"),
        };
        Err(Error::new(Class::Usage, format!("nothing was accepted for the snapshot {id}")).hint(hint))
    };
    named.iter().map(accepted).collect()
}

fn parsed(text: &str) -> Result<SnapshotId> {
    text.parse().map_err(|error| Error::new(Class::Usage, error).hint("`list` shows the ids"))
}

fn check_retired(session: &Session, file: &EnvironmentFile, retire: &BTreeSet<String>) -> Result<()> {
    for name in retire {
        let shown = base::text::printable(name);
        if !file.sources.contains_key(name) {
            let known = file.sources.keys().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            return Err(Error::new(Class::Usage, format!("{} has no source `{shown}` to retire", session.environment))
                .hint(format!("use one of these with --retire: {known}")));
        }
        if session.sources.sources.contains_key(name) {
            return Err(Error::new(
                Class::Usage,
                format!("the source `{shown}` is configured, so it cannot be retired"),
            )
            .hint("remove it from the configuration first"));
        }
    }
    Ok(())
}
