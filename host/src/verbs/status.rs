//! `status`: whether every configured source is backed up, proven restorable and pruned, from the store alone.
//!
//! It begins with what is configured, not with what is stored, so that a source that was never backed up is seen. It opens
//! no database and no documents folder, takes no lease and writes nothing.

mod fleet;
mod judge;
mod metrics;
mod proofs;
mod table;

use crate::config::{Config, Fleet};
use crate::report::{FORMAT_VERSION, Report};
use crate::retention::{self, Wait};
use crate::session::Host;
use base::error::{Class, Error, Result};
use catalogue::guard::Age;
use catalogue::history::{self, History};
use catalogue::questions::{expected, obstacles};
use jiff::Timestamp;
use judge::{EnvironmentStatus, Limits, Retention};
use plugin::{Plugin, Role};
use serde_json::json;
use std::path::Path;

/// What the person asked for.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// One environment; all that are configured when it is left out
    #[arg(long = "env", value_name = "NAME")]
    environment: Option<String>,
    /// Every instance that the chart installed in the Kubernetes cluster, in place of what the configuration names
    #[arg(long, conflicts_with = "environment")]
    fleet: bool,
    /// A source whose newest restorable snapshot is older is stale. A day's run and two hours for it to end
    #[arg(long, value_name = "AGE", default_value = "26h", value_parser = age)]
    max_age: Age,
    /// An environment that was neither verified nor drilled for longer fails. A month's drill and four days for it to be repeated
    #[arg(long, value_name = "AGE", default_value = "35d", value_parser = age)]
    max_unverified: Age,
    /// Print metrics in Prometheus's text format instead
    #[arg(long)]
    prometheus: bool,
}

fn age(text: &str) -> std::result::Result<Age, String> {
    Age::try_from(text.to_owned())
}

impl Arguments {
    /// Whether a whole fleet is meant.
    #[must_use]
    pub const fn of_a_fleet(&self) -> bool {
        self.fleet
    }

    fn check(&self, json: bool) -> Result<()> {
        if json && self.prometheus {
            return Err(
                Error::new(Class::Usage, "--json and --prometheus cannot be combined").hint("leave out one of them")
            );
        }
        Ok(())
    }

    const fn limits(&self) -> Limits {
        Limits { max_age: self.max_age.0, max_unverified: self.max_unverified.0 }
    }
}

/// Whose files a configuration speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Files {
    /// This machine's.
    Ours,
    /// Those of a pod: a plugin that is one of them is not here, and another version of a shipped one may be.
    OfAPod,
}

/// Looks at every instance of a fleet.
///
/// # Errors
/// [`Class::Config`] where no instance is found, [`Class::Usage`] for metrics as JSON; the cluster's. What is wrong with an
/// instance, or keeps it from being looked at, is the report's failure.
pub async fn run_fleet(
    config: &Fleet,
    arguments: &Arguments,
    json: bool,
    folder: Option<&Path>,
    now: Timestamp,
) -> Result<Report> {
    arguments.check(json)?;
    fleet::run(config, arguments.limits(), arguments.prometheus, folder, now).await
}

/// Looks at one environment or at all.
///
/// # Errors
/// [`Class::Config`] for an unknown environment, [`Class::Usage`] for metrics as JSON; the store's. What is stale, missing or
/// broken is the report's failure, of class [`Class::Stale`].
pub async fn run(
    config: &Config,
    arguments: &Arguments,
    json: bool,
    folder: Option<&Path>,
    now: Timestamp,
) -> Result<Report> {
    arguments.check(json)?;
    let names: Vec<&str> = match &arguments.environment {
        Some(name) => vec![config.environment(name)?.0.as_str()],
        None => config.environments.keys().map(|environment| environment.as_str()).collect(),
    };
    let mut found = Vec::new();
    for name in names {
        let host = Host::open(config.clone(), name, folder.map(Path::to_owned), now).await?;
        found.push(look(&host, Files::Ours, arguments.limits(), now).await?);
    }
    let document = json!({
        "format_version": FORMAT_VERSION,
        "healthy": found.iter().all(EnvironmentStatus::is_healthy),
        "environments": found.iter().map(table::value).collect::<Vec<_>>(),
    });
    let text = if arguments.prometheus { metrics::text(&found)? } else { table::text(&found, &config.time_zone, now) };
    Ok(Report { document, text, failure: failure(&found) })
}

/// Looks at one environment.
async fn look(host: &Host, files: Files, limits: Limits, now: Timestamp) -> Result<EnvironmentStatus> {
    let history = history::load(&host.store, &host.environment, &host.sources.configured, now).await?;
    let proofs = proofs::load(&host.store, &host.environment, &history, now).await?;
    let retention = retention_health(host, files, &history, now).await;
    Ok(judge::judge(host.asked(), &history, proofs, retention, limits, now))
}

/// Whether the last retention was carried out: what it would have put into the bin or deleted then is still there if it was
/// not. The plan is made as of the newest run, because whatever falls due later is the next run's.
async fn retention_health(host: &Host, files: Files, history: &History, now: Timestamp) -> Retention {
    let runs =
        || history.snapshots.iter().rev().filter(|run| run.record.is_some() && run.id.taken() <= history.present(now));
    let Some(newest) = runs().next() else { return Retention::Never };
    // What an answer let happen is the next run's.
    let answered = history.environment.as_ref().is_some_and(|stored| stored.stamp > newest.id);
    if answered || !obstacles(host.asked(), history, now).is_empty() {
        return Retention::Frozen;
    }
    let plugin = match retention_plugin(host, files).await {
        Ok(plugin) => plugin,
        Err(error) if files == Files::OfAPod => return Retention::Unseen(error.to_string()),
        Err(error) => return Retention::Refused(error.to_string()),
    };
    // What was verified since then changes what the next run does.
    let then = history.proven_by(newest.id.taken());
    match retention::plan_of(host, &plugin, &then, newest.id.taken(), false).await {
        Ok(planned) => {
            let bin = Wait::Days(host.guard.bin_days);
            let steps = planned.steps(&then, bin, newest.stored, &expected(history, &host.sources.configured));
            match steps.entering.len() + steps.due.len() {
                0 => Retention::Applied,
                left => Retention::Behind(left),
            }
        }
        Err(error) => Retention::Refused(error.to_string()),
    }
}

async fn retention_plugin(host: &Host, files: Files) -> Result<Plugin> {
    let component = &host.plugins().retention.component;
    let is_a_path = component.components().count() > 1 && !component.starts_with("oci:");
    if files == Files::OfAPod && is_a_path {
        return Err(Error::config("its retention plugin is a file of its pods"));
    }
    host.plugin(Role::Retention).await
}

fn failure(found: &[EnvironmentStatus]) -> Option<Error> {
    let mut problems = found.iter().flat_map(|status| status.problems.iter().map(move |problem| (status, problem)));
    let (status, first) = problems.next()?;
    let more = match problems.count() {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    let said = format!("{}: {}{more}", status.environment, first.said);
    Some(Error::new(Class::Stale, said).hint(first.advice()))
}
