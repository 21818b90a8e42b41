//! `status`: shows whether every configured source is backed up, verified and pruned. It reads only the store.
//!
//! It starts from the configuration, not from the store, so that a source without any backup is noticed. It opens no
//! database and no documents folder, takes no lease and writes nothing.

mod fleet;
mod judge;
mod metrics;
mod proofs;
mod table;

use crate::config::{Config, Fleet};
use crate::report::{FORMAT_VERSION, Report};
use crate::retention::{self, Wait};
use crate::session::Session;
use base::error::{Class, Error, Result};
use catalogue::guard::Age;
use catalogue::history::History;
use catalogue::questions::{expected, obstacles};
use jiff::Timestamp;
use judge::{EnvironmentStatus, Limits, Retention};
use plugin::{Plugin, Role};
use serde_json::json;
use std::path::Path;

/// The command-line arguments.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Environment to check [default: all configured environments]
    #[arg(long = "env", value_name = "NAME")]
    environment: Option<String>,
    /// Check every instance that the chart installed in the Kubernetes cluster, instead of the configured environments
    #[arg(long, conflicts_with = "environment")]
    fleet: bool,
    /// Report a source as stale if its newest restorable snapshot is older than this. The default is one day plus two
    /// hours for the run
    #[arg(long, value_name = "AGE", default_value = "26h", value_parser = age)]
    max_age: Age,
    /// Fail if an environment was neither verified nor drilled for this long. The default is one month plus four days
    /// to repeat a drill
    #[arg(long, value_name = "AGE", default_value = "35d", value_parser = age)]
    max_unverified: Age,
    /// Print metrics in the Prometheus text format
    #[arg(long)]
    prometheus: bool,
}

fn age(text: &str) -> std::result::Result<Age, String> {
    Age::try_from(text.to_owned())
}

impl Arguments {
    /// Whether `--fleet` was given.
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

/// Where the files that a configuration names are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Files {
    /// On this machine.
    Ours,
    /// In a pod: a plugin that is a file is not available here, and a shipped plugin may have another version here.
    OfAPod,
}

/// Checks every instance of a fleet.
///
/// # Errors
/// [`Class::Config`] if no instance is found, [`Class::Usage`] for metrics as JSON. Problems of an instance, or of
/// reaching it, are the report's failure.
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

/// Checks one environment, or all.
///
/// # Errors
/// [`Class::Config`] for an unknown environment, [`Class::Usage`] for metrics as JSON. Problems of an environment are
/// the report's failure, of class [`Class::Stale`].
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
        let session = Session::open(config.clone(), name, folder.map(Path::to_owned), now).await?;
        found.push(check_environment(&session, Files::Ours, arguments.limits(), now).await?);
    }
    let document = json!({
        "format_version": FORMAT_VERSION,
        "healthy": found.iter().all(EnvironmentStatus::is_healthy),
        "environments": found.iter().map(table::value).collect::<Vec<_>>(),
    });
    let text = if arguments.prometheus { metrics::text(&found)? } else { table::text(&found, &config.time_zone, now) };
    Ok(Report { document, text, failure: failure(&found) })
}

/// Checks one environment.
async fn check_environment(
    session: &Session,
    files: Files,
    limits: Limits,
    now: Timestamp,
) -> Result<EnvironmentStatus> {
    let history = session.history(now).await?;
    let proofs = proofs::load(&session.store, &session.environment, &history, now).await?;
    let retention = retention_health(session, files, &history, now).await;
    Ok(judge::judge(session.asked(), &history, proofs, retention, limits, now))
}

/// Whether the last retention was carried out. If not, snapshots that it should have put into the bin or deleted are
/// still there. The plan is made as of the newest run, because anything that becomes due later is left to the next run.
async fn retention_health(session: &Session, files: Files, history: &History, now: Timestamp) -> Retention {
    let runs =
        || history.snapshots.iter().rev().filter(|run| run.record.is_some() && run.id.taken() <= history.present(now));
    let Some(newest) = runs().next() else { return Retention::Never };
    // Retention that an answer unblocked is left to the next run.
    let answered = history.environment.as_ref().is_some_and(|stored| stored.stamp > newest.id.stamp());
    if !obstacles(session.asked(), history, now).is_empty() {
        return Retention::Frozen;
    }
    if answered {
        return Retention::Pending;
    }
    let plugin = match retention_plugin(session, files).await {
        Ok(plugin) => plugin,
        Err(error) if files == Files::OfAPod => return Retention::Unseen(error.to_string()),
        Err(error) => return Retention::Refused(error.to_string()),
    };
    // Verifications since then only affect the next run.
    let then = history.proven_by(newest.id.taken());
    match retention::plan_of(session, &plugin, &then, newest.id.taken(), false).await {
        Ok(planned) => {
            let bin = Wait::Days(session.guard.bin_days);
            let steps = planned.steps(&then, bin, newest.stored, &expected(history, &session.sources.configured));
            match steps.entering.len() + steps.due.len() {
                0 => Retention::Applied,
                left => Retention::Behind(left),
            }
        }
        Err(error) => Retention::Refused(error.to_string()),
    }
}

async fn retention_plugin(session: &Session, files: Files) -> Result<Plugin> {
    let config = &session.plugins().retention;
    let is_a_path = config.component.components().count() > 1 && config.registry_address().is_none();
    if files == Files::OfAPod && is_a_path {
        return Err(Error::config("its retention plugin is a file in its pods, which cannot be read from here"));
    }
    session.plugin(Role::Retention).await
}

fn failure(found: &[EnvironmentStatus]) -> Option<Error> {
    let mut problems = found.iter().flat_map(|status| status.problems.iter().map(move |problem| (status, problem)));
    let (status, first) = problems.next()?;
    let more = match problems.count() {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    let message = format!("{}: {}{more}", status.environment, first.message);
    Some(Error::new(Class::Stale, message).hint(first.advice()))
}
