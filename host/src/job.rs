//! `backup` as a Job in the cluster: a plugin composes the handles, the host makes the Job, carries its Secrets, shows its
//! log, ends with its exit code and takes it away.
//!
//! It opens neither the store nor a source: all of that happens in the Job, by the same command.

mod interrupt;

use crate::config::Config;
use crate::report::{FORMAT_VERSION, Report};
use base::error::{Class, Error, Result};
use base::id::SnapshotId;
use interrupt::{Decision, Signals};
use jiff::Timestamp;
use kubernetes::Cluster;
use kubernetes::job::OneShot;
use plugin::call::launching;
use plugin::{Engine, Plugin, Role};
use serde_json::{Value, json};
use std::path::Path;

/// What the person asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Dump every source, whatever its fingerprint says.
    pub force: bool,
    /// Show what would happen and write nothing.
    pub dry_run: bool,
    /// The result is one JSON object.
    pub json: bool,
    /// Let the Job go on when this process is interrupted.
    pub leave: bool,
}

/// Runs one backup of an environment as a Job. On Ctrl-C a person is asked what becomes of it; where there is none it is stopped and
/// taken away, unless it is to be left.
///
/// # Errors
/// Why there is no Job, or it did not run to its end: one sentence with the cluster's reason. A backup that failed in the Job
/// is in the report.
pub async fn run(
    config: &Config,
    environment: &str,
    folder: Option<&Path>,
    options: Options,
    now: Timestamp,
) -> Result<Report> {
    let (environment, own) = config.environment(environment)?;
    let job = own.job.as_ref().ok_or_else(|| {
        Error::config(format!("the environment `{environment}` has no Job"))
            .hint(format!("add [env.{environment}.job] with `namespace` and `cron_job`"))
    })?;
    let plugin = Plugin::load(&Engine::new()?, &config.plugins, Role::Job, folder)?;
    plugin.check_settings().await?;
    let cluster = Cluster::connect(&config.kubernetes).await?;
    let stamp = SnapshotId::at(now).to_string();
    let one_shot = OneShot::prepare(cluster, job, environment.as_str(), &stamp, rand::random()).await?;
    let secrets = one_shot.borrow_secrets().await?;
    let request = launching::Request {
        environment: environment.to_string(),
        force: options.force,
        dry_run: options.dry_run,
        json: options.json,
    };
    let shown = one_shot.shown();
    let (called, decision) = tokio::select! {
        called = plugin.run_job(&request, one_shot.clone(), secrets) => (Some(called.result), Decision::Stop),
        decision = interrupt::decided(Signals::listen()?, &shown, options.leave) => (None, decision),
    };
    if decision == Decision::Stop {
        one_shot.remove().await;
    }
    let ended = called.unwrap_or_else(|| Err(stopped(&shown, decision)))?;
    let seen = one_shot.ended().ok_or_else(|| plugin.refused("it names the end of a Job that it never followed"))?;
    if (seen.job.as_str(), seen.exit_code, seen.reason.as_str()) != (&ended.job, ended.exit_code, &ended.reason) {
        return Err(plugin.refused("it says of the Job's end what the cluster does not"));
    }
    let verdict = json!({ "name": seen.job, "exit_code": seen.exit_code, "reason": seen.reason });
    let mut document = one_shot
        .take_result()
        .filter(Value::is_object)
        .unwrap_or_else(|| json!({ "format_version": FORMAT_VERSION, "environment": environment.as_str() }));
    document["job"] = verdict;
    let text = format!("the Job {} ended with {} ({})\n", seen.job, seen.exit_code, seen.reason);
    let failure = Class::of_exit_code(seen.exit_code).map(|class| {
        Error::new(class, format!("the Job {} ended with {} ({})", seen.job, seen.exit_code, seen.reason))
            .hint("its log above says why")
    });
    Ok(Report { document, text, failure })
}

fn stopped(job: &str, decision: Decision) -> Error {
    match decision {
        Decision::Stop => Error::new(Class::Interrupted, format!("interrupted: the Job {job} is stopped"))
            .hint("`--leave-on-interrupt` lets it go on"),
        Decision::Leave => {
            let (namespace, name) = job.split_once('/').unwrap_or_default();
            Error::new(Class::Interrupted, format!("interrupted: the Job {job} goes on, if it was started"))
                .hint(format!("see it with `kubectl --namespace {namespace} logs --follow job/{name}`"))
        }
    }
}
