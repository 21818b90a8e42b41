//! `list` and `prune`: the two verbs that look at the history without making a snapshot.

use crate::error::Result;
use crate::guard::Allowance;
use crate::history;
use crate::host::Host;
use crate::lease::Lease;
use crate::plugin::Role;
use crate::report::{self, Report};
use crate::retention;
use crate::snapshot::SnapshotId;

/// Shows what the store holds and why it is kept. Takes no lease and changes nothing.
///
/// # Errors
/// The store's. A retention plugin that fails leaves a list without reasons.
pub async fn list(host: &Host) -> Result<Report> {
    let now = host.clock.now();
    let history = history::load(&host.store, &host.environment, &host.sources).await?;
    let plan = match host.plugin(Role::Retention).await {
        Ok(plugin) => retention::plan(host, &plugin, &history, now, Allowance { mass_forget: true }).await,
        Err(error) => Err(error),
    };
    Ok(report::of_list(host, &history, plan, now))
}

/// What the person asked `prune` for.
#[derive(Debug, Clone, Copy, Default)]
pub struct PruneOptions {
    /// Show the plan and change nothing.
    pub dry_run: bool,
    /// Forget more than the guard allows in one run, and adopted snapshots.
    pub allow_mass_forget: bool,
}

/// Plans the retention and carries it out.
///
/// # Errors
/// The plugin's, the guard's, the store's, and the lease's.
pub async fn prune(host: &Host, options: PruneOptions) -> Result<Report> {
    let plugin = host.plugin(Role::Retention).await?;
    let now = host.clock.now();
    let allowance = Allowance { mass_forget: options.allow_mass_forget };
    if options.dry_run {
        let history = history::load(&host.store, &host.environment, &host.sources).await?;
        let planned = retention::plan(host, &plugin, &history, now, allowance).await?;
        return Ok(report::of_prune(host, &history, &planned, None));
    }
    let (lease, _) = Lease::take(&host.store, &host.environment, SnapshotId::at(now)).await?;
    let lease = lease.and(host.cluster_lease().await).await?;
    let result = async {
        let history = history::load(&host.store, &host.environment, &host.sources).await?;
        let planned = retention::plan(host, &plugin, &history, now, allowance).await?;
        lease.check().await?;
        let applied = retention::apply(host, &history, &planned, now).await;
        Ok(report::of_prune(host, &history, &planned, Some(&applied)))
    }
    .await;
    lease.release().await;
    result
}
