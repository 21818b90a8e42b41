//! `init` and `accept`: the verbs that write the environment's own file.

mod only;

use crate::config::Source;
use crate::exclusive::{check_clock, check_file, exclusively};
use crate::report::{self, Report};
use crate::session::Host;
use crate::verbs::verify;
use base::error::{Class, Error, Result};
use base::id::SnapshotId;
use catalogue::environment::{self, AcceptedState, EnvironmentFile};
use catalogue::history::{self, FileDoubt, History};
use catalogue::lease::Lease;
use catalogue::proof::{Mark, Verification};
use catalogue::questions::{self, Answer, Kind, Names, Question};
use jiff::Timestamp;
use postgres::Session;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// What the person asked `accept` for.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Arguments {
    /// Environment, as the configuration names it
    #[arg(long = "env", value_name = "NAME")]
    pub environment: String,
    /// Show what waits and what would change; change nothing
    #[arg(long)]
    dry_run: bool,
    /// No run saves this source any more, and its snapshots age; answers nothing else but which sources are new; may be given several times
    #[arg(long, value_name = "SOURCE")]
    retire: Vec<String>,
    /// Give up what is lost, and answer nothing else: objects that are missing, records that cannot be read, snapshots of which a
    /// verification failed
    #[arg(long)]
    lost: bool,
    /// Answer or take back nothing but this: a source, what a question is about as `status --json` names it, or both as `suspect:docs`; may
    /// be given several times
    #[arg(long, value_name = "WHAT")]
    only: Vec<String>,
    /// Take back what was accepted of this snapshot, of its sources or its time, and answer nothing else: they are doubted again, and so
    /// is what was whole after it only because of that; may be given several times
    #[arg(long, value_name = "ID", conflicts_with_all = ["retire", "lost", "adopted"])]
    withdraw: Vec<String>,
    /// The time of this snapshot is right, and so that of all that were made under the same clock; answers nothing else
    #[arg(long, value_name = "ID", conflicts_with_all = ["retire", "lost", "adopted", "only", "withdraw"])]
    right_time: Option<String>,
    /// Let the adopted snapshots that there are now age like recorded ones, and answer nothing else
    #[arg(long)]
    adopted: bool,
}

/// Makes the environment's own file, and shows what the store holds. Where there is one, nothing is changed.
///
/// # Errors
/// [`Class::Config`] where the machine's clock and the store's are apart; the store's and the lease's.
pub async fn init(host: &Host) -> Result<Report> {
    let now = host.clock.now();
    let load = async || history::load(&host.store, &host.environment, &host.sources.configured, now).await;
    let history = load().await?;
    if is_initialised(&history) {
        return Ok(of_init(host, &history, false));
    }
    host.check_apart()?;
    let identities = identities(host).await;
    let made = exclusively(host, now, async |lease, history| {
        check_clock(host, lease, now)?;
        check_formats(&history)?;
        if is_initialised(&history) {
            return Ok((history, false));
        }
        if history.environment.is_some() {
            check_file(host, &history)?;
        }
        lease.check().await?;
        let zone = host.time_zone_name();
        // What was answered before still holds, as far as a version is readable.
        let newest = history.environment.as_ref();
        let file = match (newest, &history.readable_before) {
            // Whatever is written next gets the key that version 1 had not.
            (Some(newest), _) => {
                EnvironmentFile { reason: "init: the key of fingerprints".to_owned(), ..newest.file.clone() }
            }
            (None, Some(before)) => EnvironmentFile {
                reason: format!("init: the version after {} could not be read", before.stamp),
                ..before.file.clone()
            },
            (None, None) => {
                let mut first = EnvironmentFile::first(
                    &host.environment,
                    &host.sources.configured,
                    &identities,
                    &host.guard,
                    zone,
                    now,
                );
                first.retention = Some(host.retention.clone());
                questions::expect_recorded(&mut first, &history, now);
                first
            }
        };
        // The stamp of a version that cannot be read must not stay the newest.
        let before = newest.or(history.readable_before.as_ref());
        environment::write(&host.store, &host.environment, before, history.newest_file(), file, now).await?;
        Ok((load().await?, true))
    });
    let (history, made) = made.await?;
    Ok(of_init(host, &history, made))
}

/// Whether there is nothing left for `init` to write.
fn is_initialised(history: &History) -> bool {
    history.environment_damage.is_none() && history.seal_key().is_some()
}

/// Which database is behind each name. One that is out of reach is asked by the first run.
async fn identities(host: &Host) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for (name, source) in &host.sources.sources {
        let Source::Postgres(config) = source else { continue };
        match Session::open(config, format!("{}/{name}", host.environment)).await {
            Ok(session) => {
                found.extend(session.facts().identity.map(|identity| (name.clone(), identity)));
                session.close().await;
            }
            Err(error) => tracing::warn!("{name} could not be asked which database it is: {error}"),
        }
    }
    found
}

fn of_init(host: &Host, history: &History, made: bool) -> Report {
    let now = host.clock.now();
    let (environment, store) = (&host.environment, host.store.describe());
    let did = if made { "is initialised" } else { "was initialised already; nothing was changed" };
    let mut text = format!("{environment} in {store} {did}\n");
    let id = history.environment.as_ref().map(|stored| stored.file.id.clone());
    if let Some(stored) = &history.environment {
        for (name, source) in &stored.file.sources {
            let identity = source.identity.as_deref().map(|identity| format!(", {identity}")).unwrap_or_default();
            let _ = writeln!(text, "  {name:<10} {}{identity}", source.kind);
        }
    }
    let adopted = history.snapshots.iter().filter(|snapshot| snapshot.adopted).count();
    let recorded = history.snapshots.len() - adopted;
    let _ = writeln!(text, "  found      {recorded} snapshots, and {adopted} adopted from objects without a record");
    if adopted > 0 {
        let _ = writeln!(text, "  adopted ones are kept until `accept --env {environment} --adopted` lets them age");
    }
    let document = json!({
        "format_version": report::FORMAT_VERSION,
        "environment": environment.as_str(),
        "made": made,
        "id": id,
        "snapshots": recorded,
        "adopted": adopted,
        "waiting": report::questions_value(&questions::questions(host.asked(), history, now)),
    });
    Report { document, text, failure: None }
}

/// Shows what waits and writes the answer.
///
/// # Errors
/// [`Class::Usage`] for an unknown source; [`Class::Config`] where the environment was never initialised, or the clock of this
/// machine is wrong; the store's and the lease's. What stays open is the report's failure, of class [`Class::Stale`].
pub async fn accept(host: &Host, arguments: &Arguments) -> Result<Report> {
    let now = host.clock.now();
    if arguments.dry_run {
        let history = history::load(&host.store, &host.environment, &host.sources.configured, now).await?;
        return answer(host, None, &history, arguments, now).await;
    }
    exclusively(host, now, async |lease, history| {
        check_clock(host, lease, now)?;
        check_formats(&history)?;
        answer(host, Some(lease), &history, arguments, now).await
    })
    .await
}

/// Notes that a source was replaced by a restore: it is what it is now, whatever was measured of it before.
///
/// # Errors
/// The store's and the lease's.
pub async fn replaced(host: &Host, source: &str) -> Result<()> {
    let now = host.clock.now();
    let identity = identities(host).await.remove(source);
    exclusively(host, now, async |lease, history| {
        check_clock(host, lease, now)?;
        // Without a file there is nobody who would ask.
        let Some(stored) = &history.environment else { return Ok(()) };
        check_file(host, &history)?;
        let mut next = stored.file.clone();
        next.replaced.insert(source.to_owned(), SnapshotId::at(now));
        if let (Some(known), Some(identity)) = (next.sources.get_mut(source), identity) {
            known.identity = Some(identity);
        }
        next.reason = format!("restore of {source} into the environment itself");
        lease.check().await?;
        environment::write(&host.store, &host.environment, Some(stored), None, next, now).await.map(drop)
    })
    .await
}

/// Without a lease nothing is written.
async fn answer(
    host: &Host,
    lease: Option<&Lease>,
    history: &History,
    arguments: &Arguments,
    now: Timestamp,
) -> Result<Report> {
    let environment = &host.environment;
    let Some(stored) = &history.environment else {
        let why = history.environment_damage.clone();
        return Err(why
            .unwrap_or_else(|| Error::config(format!("{environment} was never initialised")))
            .hint(format!("run `init --env {environment}`")));
    };
    let retire: BTreeSet<String> = arguments.retire.iter().cloned().collect();
    check_retired(host, &stored.file, &retire)?;
    let waiting = questions::questions(host.asked(), history, now);
    let breaks = if arguments.lost { breaks(host, history).await? } else { BTreeMap::new() };
    let failures = if arguments.lost { failures(host, history).await? } else { BTreeMap::new() };
    let withdraw = withdrawn(history, &stored.file, &arguments.withdraw)?;
    let Arguments { lost, adopted, .. } = *arguments;
    let only = if withdraw.is_empty() {
        let named = only::only(&Names::of(&waiting), &arguments.only, "nothing is asked about")?;
        let implied = || only::implied(arguments, &waiting, &stored.file);
        named.or_else(implied).map(|only| only::with_retired(only, &retire))
    } else {
        only::only(&answered(&stored.file, &withdraw), &arguments.only, "these answers accepted nothing of")?
    };
    let accepted_in = if withdraw.is_empty() { BTreeMap::new() } else { accepted_in(host).await? };
    let right_time = arguments.right_time.as_deref().map(parsed).transpose()?;
    let answer = Answer { retire, lost, adopted, breaks, failures, withdraw, accepted_in, right_time, only };
    let (next, changes) = questions::answer(host.asked(), history, &stored.file, &answer, now);
    if let (Some(id), true) = (right_time, changes.is_empty()) {
        return Err(Error::new(Class::Usage, format!("the time of the snapshot {id} is not in doubt"))
            .hint("`list` says of which snapshots it is"));
    }
    if let (Some(id), true) = (answer.withdraw.first(), changes.is_empty()) {
        return Err(Error::new(Class::Usage, format!("what was accepted of the snapshot {id} is asked about already"))
            .hint("`status` shows what waits, and the command that answers it"));
    }
    if !changes.is_empty()
        && waiting.iter().any(|question| question.kind == Kind::OtherFile && answer.leaves_open(question))
    {
        check_file(host, history)?;
    }
    let mut open: Vec<Question> = waiting.iter().filter(|question| answer.leaves_open(question)).cloned().collect();
    if let Some(lease) = lease.filter(|_| !changes.is_empty()) {
        lease.check().await?;
        let gone = match history.file_doubt {
            Some(FileDoubt::Gone { stamp, .. }) => Some(stamp),
            Some(FileDoubt::Changed { .. } | FileDoubt::Unchained { .. }) | None => None,
        };
        environment::write(&host.store, environment, Some(stored), gone, next, now).await?;
        let after = history::load(&host.store, environment, &host.sources.configured, now).await?;
        open = questions::questions(host.asked(), &after, now);
        // What is asked about because of this answer did not wait before.
        open.retain(|question| waiting.iter().any(|waited| waited.name() == question.name()));
    }
    let mut text = String::new();
    for question in &waiting {
        let _ = writeln!(text, "waited: {}", question.said);
    }
    let verb = if arguments.dry_run { "would change" } else { "changed" };
    for change in &changes {
        let _ = writeln!(text, "{verb}: {change}");
    }
    if changes.is_empty() {
        text.push_str("nothing was changed\n");
    }
    for question in &open {
        let _ = writeln!(text, "still waits: {} (answer with `{}`)", question.said, question.command);
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
        Error::new(Class::Stale, format!("{environment}: {}", question.said))
            .hint(format!("run `{}` if that is meant", question.command))
    });
    Ok(Report { document, text, failure })
}

/// Refuses to answer for what a newer version wrote: it is not damaged, and this version cannot know what it says.
fn check_formats(history: &History) -> Result<()> {
    let mut unreadable = history.environment_damage.iter().chain(history.damaged());
    unreadable.find(|error| error.class() == Class::Config).map_or(Ok(()), |newer| Err(newer.clone()))
}

/// Where the chain of records is broken: what `verify` would say of it.
async fn breaks(host: &Host, history: &History) -> Result<BTreeMap<SnapshotId, Option<String>>> {
    let chain = verify::check_chain(&host.store, &host.environment, history).await?;
    Ok(chain.problems.into_iter().map(|(id, _)| (id, chain.hashes.get(&id).cloned())).collect())
}

/// What the last failed verification of each snapshot found.
async fn failures(host: &Host, history: &History) -> Result<BTreeMap<SnapshotId, BTreeSet<String>>> {
    let mut last: BTreeMap<SnapshotId, Mark> = BTreeMap::new();
    // They are sorted by snapshot and time.
    let failed = history.verifications.iter().filter(|mark| !mark.passed);
    last.extend(failed.filter(|mark| history.snapshot(mark.snapshot).is_some()).map(|mark| (mark.snapshot, *mark)));
    let mut found = BTreeMap::new();
    for (id, mark) in last {
        // Of one that cannot be read nothing is known but that it failed.
        let bytes = host.store.get(&mark.key(&host.environment)?).await?;
        let Some(read) = bytes.and_then(|bytes| Verification::parse(&bytes).ok()) else { continue };
        found.insert(id, read.findings().collect());
    }
    Ok(found)
}

/// By which version of the environment's file each state was accepted, the last time that it was, as far as they can be read.
async fn accepted_in(host: &Host) -> Result<BTreeMap<AcceptedState, SnapshotId>> {
    let mut found = BTreeMap::new();
    for version in environment::versions(&host.store, &host.environment).await? {
        let accepted = version.file.accepted;
        // What was taken back in between is of another answer.
        found.retain(|state, _| accepted.contains(state));
        for state in accepted {
            found.entry(state).or_insert(version.stamp);
        }
    }
    Ok(found)
}

/// What `--only` may name of what was accepted of some snapshots.
fn answered<'f>(file: &'f EnvironmentFile, of: &BTreeSet<SnapshotId>) -> Names<'f> {
    let sources = file.accepted.iter().filter(|state| of.contains(&state.snapshot));
    let sources = sources.map(|state| (Kind::Suspect.name(), Some(state.source.as_str())));
    sources.chain([(Kind::Clock.name(), None), (Kind::Clocks.name(), None)]).collect()
}

/// The snapshots of which something was accepted, among those that a person names.
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
            none if none.is_empty() => "nothing was accepted of any snapshot that is there".to_owned(),
            known => format!("--withdraw takes {known}"),
        };
        Err(Error::new(Class::Usage, format!("nothing was accepted of the snapshot {id}")).hint(hint))
    };
    named.iter().map(accepted).collect()
}

fn parsed(text: &str) -> Result<SnapshotId> {
    text.parse().map_err(|error| Error::new(Class::Usage, error).hint("`list` shows the ids"))
}

fn check_retired(host: &Host, file: &EnvironmentFile, retire: &BTreeSet<String>) -> Result<()> {
    for name in retire {
        let shown = base::text::printable(name);
        if !file.sources.contains_key(name) {
            let known = file.sources.keys().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            return Err(Error::new(Class::Usage, format!("{} has no source `{shown}` to retire", host.environment))
                .hint(format!("--retire takes {known}")));
        }
        if host.sources.sources.contains_key(name) {
            return Err(Error::new(
                Class::Usage,
                format!("the source `{shown}` is configured, so it cannot be retired"),
            )
            .hint("remove it from the configuration first"));
        }
    }
    Ok(())
}
