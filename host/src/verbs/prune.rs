//! `prune`: the retention without a backup.

use crate::exclusive::exclusively;
use crate::report::{self, Report};
use crate::retention::{self, Executor, Wait};
use crate::session::Session;
use base::error::Result;
use catalogue::history::History;
use catalogue::questions::{self, expected, obstacles};
use jiff::Timestamp;
use plugin::Role;
use std::pin::pin;
use tokio_util::sync::CancellationToken;

/// The command-line arguments.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Arguments {
    /// Name of the environment in the configuration
    #[arg(long = "env", value_name = "NAME")]
    pub environment: String,
    /// Show what would be kept, put into the bin and deleted, and why, without changing anything
    #[arg(long)]
    dry_run: bool,
    /// Whether what lies in the bin already has waited long enough: `--now` without a time.
    #[arg(skip)]
    pub at_once: bool,
    /// Put more snapshots into the bin than `max_forget` allows at once
    #[arg(long)]
    no_limit: bool,
}

impl Arguments {
    fn wait(&self, session: &Session) -> Wait {
        if self.at_once { Wait::Over } else { Wait::Days(session.guard.bin_days) }
    }
}

/// Plans the retention and carries it out: takes back, deletes what is due, and puts into the bin what may go.
///
/// # Errors
/// [`base::error::Class::RetentionIncomplete`] if a question is open.
pub async fn run(session: &Session, arguments: &Arguments, interrupted: impl Future<Output = ()>) -> Result<Report> {
    let plugin = session.plugin(Role::Retention).await?;
    let now = session.clock.now();
    if arguments.dry_run {
        let history = session.history(now).await?;
        let planned = retention::plan_of(session, &plugin, &history, now, arguments.no_limit).await?;
        let steps = planned.steps(
            &history,
            arguments.wait(session),
            Some(now),
            &expected(&history, &session.sources.configured),
        );
        // Nobody asked the store for its time, so that is taken for the same.
        let mut why = obstacles(session.asked(), &history, now);
        why.extend(doubt(now, now, &history));
        return Ok(report::of_prune_preview(&session.environment, &history, &planned, &steps, &why));
    }
    let stop = CancellationToken::new();
    let work = exclusively(session, now, async |lease, history| {
        let mut why = obstacles(session.asked(), &history, now);
        why.extend(doubt(now, session.clock.shown_by(lease.store_time()), &history));
        if !why.is_empty() {
            let hint = format!(
                "`status --env {}` shows the open questions and the command that answers each",
                session.environment
            );
            return Err(retention::frozen(&why).hint(hint));
        }
        let planned = retention::plan_of(session, &plugin, &history, now, arguments.no_limit).await?;
        let store_now = lease.store_now();
        let steps = planned.steps(
            &history,
            arguments.wait(session),
            Some(store_now),
            &expected(&history, &session.sources.configured),
        );
        let executor = Executor {
            store: &session.store,
            environment: &session.environment,
            lease,
            stop: &stop,
            bin_days: session.guard.bin_days,
            store_now,
        };
        let applied = retention::apply(&executor, &history, &planned, &steps, now).await;
        Ok(report::of_prune(&session.environment, &history, &planned, &applied))
    });
    let mut work = pin!(work);
    tokio::select! {
        result = work.as_mut() => result,
        () = interrupted => {
            stop.cancel();
            work.await
        }
    }
}

/// Why the present may be another one, as an obstacle.
fn doubt(now: Timestamp, store_now: Timestamp, history: &History) -> Option<String> {
    let doubt = questions::clock_doubt(now, store_now, history)?;
    let description = questions::describe(doubt);
    Some(format!("the time is in doubt: {description}; set the clock, or run `backup` and then `accept`"))
}
