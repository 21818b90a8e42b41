//! Runs a command that writes but is not a backup run: it holds the environment's lease, and first removes what killed
//! runs left.

use crate::session::Session;
use crate::sweep::sweep;
use base::error::{Error, Result};
use catalogue::environment::StoredFile;
use catalogue::history::History;
use catalogue::lease::{Lease, Machine};
use catalogue::questions::{self, QuestionKind};
use catalogue::record::{ClockDoubt, is_newer_format};
use jiff::Timestamp;

/// Runs `work` under the environment's lease, with a history that was read under the same lease.
pub async fn exclusively<T>(
    session: &Session,
    now: Timestamp,
    work: impl AsyncFnOnce(&Lease, History) -> Result<T>,
) -> Result<T> {
    let (lease, abandoned) = Lease::take(&session.store, &session.environment, Machine::OWN).await?;
    let lease = lease.and(session.cluster_lease().await).await?;
    let done = async {
        let history = session.history(now).await?;
        sweep(&session.store, &session.environment, &lease, abandoned, &history).await?;
        work(&lease, history).await
    }
    .await;
    lease.release().await;
    done
}

/// Refuses to write with a wrong clock. The new version would stay the newest for as long as the clock was ahead, and
/// the time of every later run would be in doubt.
///
/// # Errors
/// [`base::error::Class::Config`], with the difference between the clocks.
pub fn check_clock(session: &Session, lease: &Lease, now: Timestamp) -> Result<()> {
    let skew = now.duration_since(session.clock.shown_by(lease.store_time()));
    if skew.abs() <= catalogue::clock::SKEW_MAX {
        return Ok(());
    }
    let doubt = ClockDoubt::Skew { seconds: skew.as_secs() };
    Err(Error::config(questions::describe(doubt)).hint("set the clock of this machine, then run the command again"))
}

/// Refuses to write a new version of the environment's file if an earlier one is gone or was replaced. Otherwise its
/// absence would go unnoticed, and its answers would be lost silently.
///
/// # Errors
/// [`base::error::Class::Config`] with what is wrong with it.
pub fn check_file(session: &Session, history: &History) -> Result<()> {
    let Some(doubt) = history.file_doubt else { return Ok(()) };
    Err(Error::config(questions::describe_file(doubt)).hint(format!(
        "answer this question first: `accept --env {} --only {}`",
        session.environment,
        QuestionKind::OtherFile.name()
    )))
}

/// The environment's file, for a command that writes its next version.
///
/// # Errors
/// [`base::error::Class::Config`] if the environment has no file or a newer version wrote it; the error of a damaged one.
pub fn environment_file<'h>(session: &Session, history: &'h History) -> Result<&'h StoredFile> {
    let environment = &session.environment;
    let init = format!("run `init --env {environment}` first; until then nothing is forgotten");
    history.environment.as_ref().ok_or_else(|| match history.environment_damage.clone() {
        Some(newer) if is_newer_format(&newer) => newer,
        Some(damage) => damage.hint(init),
        None => Error::config(format!("{environment} was never initialised")).hint(init),
    })
}

/// Refuses to answer for what a newer version wrote: it is not damaged, and this version cannot know what it says.
pub fn check_formats(history: &History) -> Result<()> {
    let mut unreadable = history.environment_damage.iter().chain(history.damaged());
    unreadable.find(|error| is_newer_format(error)).map_or(Ok(()), |newer| Err(newer.clone()))
}
