//! `list`: the snapshots, the state of each source, and why each is kept.

use crate::report::{self, Report};
use crate::retention;
use crate::session::Session;
use base::error::Result;
use catalogue::questions;
use plugin::Role;

/// The command-line arguments.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Name of the environment in the configuration
    #[arg(long = "env", value_name = "NAME")]
    pub environment: String,
}

/// Shows what the store holds and why it is kept. Takes no lease and changes nothing.
///
/// # Errors
/// The store's. A retention plugin that fails leaves a list without reasons.
pub async fn run(session: &Session) -> Result<Report> {
    let now = session.clock.now();
    let history = session.history(now).await?;
    let plan = match session.plugin(Role::Retention).await {
        Ok(plugin) => retention::plan_of(session, &plugin, &history, now, true).await,
        Err(error) => Err(error),
    };
    let questions = questions::questions(session.asked(), &history, now);
    Ok(report::of_list(
        &session.environment,
        report::ListOptions { zone: &session.time_zone, bin_days: session.guard.bin_days },
        &history,
        plan,
        &questions,
        now,
    ))
}
