//! What every verb does that writes and is no run: alone in its environment, after what killed runs left is cleared away.

use crate::session::Host;
use crate::sweep::sweep;
use base::error::{Error, Result};
use catalogue::history::{self, History};
use catalogue::lease::{Lease, Machine};
use catalogue::questions::{self, Kind};
use catalogue::record::ClockDoubt;
use jiff::Timestamp;

/// Does some work under the environment's lease, on a history that was read under it.
///
/// # Errors
/// The lease's, the store's, and those of the work.
pub async fn exclusively<T>(
    host: &Host,
    now: Timestamp,
    work: impl AsyncFnOnce(&Lease, History) -> Result<T>,
) -> Result<T> {
    let (lease, abandoned) = Lease::take(&host.store, &host.environment, Machine::OWN).await?;
    let lease = lease.and(host.cluster_lease().await).await?;
    let done = async {
        let history = history::load(&host.store, &host.environment, &host.sources.configured, now).await?;
        sweep(&host.store, &host.environment, &lease, abandoned, &history).await?;
        work(&lease, history).await
    }
    .await;
    lease.release().await;
    done
}

/// Refuses to write what is dated by a wrong clock: it would be the newest for as long as the clock was ahead, and every run after
/// it would be doubted.
///
/// # Errors
/// [`base::error::Class::Config`], with how far the clocks are apart.
pub fn check_clock(host: &Host, lease: &Lease, now: Timestamp) -> Result<()> {
    let skew = now.duration_since(host.clock.shown_by(lease.store_time()));
    if skew.abs() <= catalogue::clock::SKEW_MAX {
        return Ok(());
    }
    let doubt = ClockDoubt::Skew { seconds: skew.as_secs() };
    Err(Error::config(questions::describe(doubt)).hint("set the clock of this machine, then run it again"))
}

/// Refuses to write another version of the environment's file after one that is gone or was replaced: nobody would miss it any more, and its
/// answers would be taken back in silence.
///
/// # Errors
/// [`base::error::Class::Config`] with what is wrong with it.
pub fn check_file(host: &Host, history: &History) -> Result<()> {
    let Some(doubt) = history.file_doubt else { return Ok(()) };
    Err(Error::config(questions::describe_file(doubt)).hint(format!(
        "answer that first: `accept --env {} --only {}`",
        host.environment,
        Kind::OtherFile.name()
    )))
}
