//! `list`, `prune` and `unforget`: the verbs that look at the history without making a snapshot.

use crate::exclusive::{check_clock, check_file, exclusively};
use crate::report::{self, Report};
use crate::retention::{self, Hands, Wait};
use crate::session::Host;
use base::error::{Class, Error, Result};
use base::id::SnapshotId;
use catalogue::environment;
use catalogue::history::{self, History};
use catalogue::questions::{self, expected, obstacles};
use jiff::Timestamp;
use plugin::Role;
use serde_json::json;
use std::pin::pin;
use store::Deleted;
use tokio_util::sync::CancellationToken;

/// Shows what the store holds and why it is kept. Takes no lease and changes nothing.
///
/// # Errors
/// The store's. A retention plugin that fails leaves a list without reasons.
pub async fn list(host: &Host) -> Result<Report> {
    let now = host.clock.now();
    let history = history::load(&host.store, &host.environment, &host.sources.configured, now).await?;
    let plan = match host.plugin(Role::Retention).await {
        Ok(plugin) => retention::plan_of(host, &plugin, &history, now, true).await,
        Err(error) => Err(error),
    };
    let questions = questions::questions(host.asked(), &history, now);
    Ok(report::of_list(host, &history, plan, &questions, now))
}

/// What the person asked `prune` for.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct PruneOptions {
    /// Show what would be kept, put into the bin and deleted, and why; change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Whether what lies in the bin already has waited long enough: `--now` without a time.
    #[arg(skip)]
    pub now: bool,
    /// Put more snapshots into the bin than the guard allows at once
    #[arg(long)]
    pub no_limit: bool,
}

impl PruneOptions {
    fn wait(self, host: &Host) -> Wait {
        if self.now { Wait::Over } else { Wait::Days(host.guard.bin_days) }
    }
}

/// Plans the retention and carries it out: takes back, deletes what is due, and puts into the bin what may go.
///
/// # Errors
/// The plugin's, the store's, and the lease's; [`Class::RetentionIncomplete`] where something waits for an answer.
pub async fn prune(host: &Host, options: PruneOptions, interrupted: impl Future<Output = ()>) -> Result<Report> {
    let plugin = host.plugin(Role::Retention).await?;
    let now = host.clock.now();
    if options.dry_run {
        let history = history::load(&host.store, &host.environment, &host.sources.configured, now).await?;
        let planned = retention::plan_of(host, &plugin, &history, now, options.no_limit).await?;
        let steps =
            planned.steps(&history, options.wait(host), Some(now), &expected(&history, &host.sources.configured));
        // Nobody asked the store for its time, so that is taken for the same.
        let mut why = obstacles(host.asked(), &history, now);
        why.extend(doubt(now, now, &history));
        return Ok(report::of_prune_preview(host, &history, &planned, &steps, &why));
    }
    let stop = CancellationToken::new();
    let work = exclusively(host, now, async |lease, history| {
        let mut why = obstacles(host.asked(), &history, now);
        why.extend(doubt(now, host.clock.shown_by(lease.store_time()), &history));
        if !why.is_empty() {
            let hint = format!("`status --env {}` shows what waits, and the command for each", host.environment);
            return Err(retention::frozen(&why).hint(hint));
        }
        let planned = retention::plan_of(host, &plugin, &history, now, options.no_limit).await?;
        let store_now = lease.store_now();
        let steps =
            planned.steps(&history, options.wait(host), Some(store_now), &expected(&history, &host.sources.configured));
        let hands = Hands {
            store: &host.store,
            environment: &host.environment,
            lease,
            stop: &stop,
            bin_days: host.guard.bin_days,
            store_now,
        };
        let applied = retention::apply(&hands, &history, &planned, &steps, now).await;
        Ok(report::of_prune(host, &history, &planned, &applied))
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
    let said = questions::describe(doubt);
    Some(format!("the time is doubted: {said}; set the clock, or run `backup` and then `accept`"))
}

/// Takes a snapshot out of the bin, and keeps it from then on; with `release` it may go again.
///
/// # Errors
/// [`Class::Usage`] for a snapshot that there is not; the store's, and the lease's.
pub async fn unforget(host: &Host, id: &str, release: bool) -> Result<Report> {
    let now = host.clock.now();
    let id: SnapshotId = id.parse().map_err(|error| Error::new(Class::Usage, error).hint("`list` shows the ids"))?;
    exclusively(host, now, async |lease, history| {
        let Some(snapshot) = history.snapshot(id) else {
            let gone = if history.forgotten.contains_key(&id) { "is deleted" } else { "does not exist" };
            return Err(
                Error::new(Class::Usage, format!("the snapshot {id} {gone}")).hint("`list` shows those that there are")
            );
        };
        let stored = history.environment.as_ref().ok_or_else(|| {
            Error::config(format!("{} was never initialised", host.environment))
                .hint(format!("run `init --env {}` first; nothing is forgotten before", host.environment))
        })?;
        check_clock(host, lease, now)?;
        check_file(host, &history)?;
        lease.check().await?;
        let mut next = stored.file.clone();
        let changed = if release {
            next.kept.remove(&id)
        } else {
            // One that was retired by mistake serves again. What is from the future is kept until its time has come, and serves nothing
            // before.
            let was_ahead = !catalogue::clock::is_ahead(id, now) && next.retired_ahead.remove(&id);
            was_ahead | next.retired_snapshots.remove(&id) | next.given_up_records.remove(&id) | next.kept.insert(id)
        };
        next.reason = format!("unforget {id}{}", if release { " --release" } else { "" });
        if changed {
            environment::write(&host.store, &host.environment, Some(stored), None, next, now).await?;
        }
        // From here on the next plan keeps it, also where the certificate cannot be deleted.
        if !release && snapshot.binned.is_some() {
            let deleted = host.store.delete(&catalogue::keys::certificate_key(&host.environment, id)?).await?;
            if deleted == Deleted::Retained {
                tracing::warn!("the store refused to delete the certificate of {id} (object lock or retention rule)");
            }
        }
        let said = match (release, changed) {
            (true, true) => "may be forgotten again",
            (true, false) => "was not kept by `unforget`",
            (false, _) => "is kept, until `unforget --release` says otherwise",
        };
        let document = json!({
            "format_version": report::FORMAT_VERSION,
            "environment": host.environment.as_str(),
            "snapshot": id,
            "kept": !release,
            "changed": changed,
        });
        Ok(Report { document, text: format!("the snapshot {id} of {} {said}\n", host.environment), failure: None })
    })
    .await
}
