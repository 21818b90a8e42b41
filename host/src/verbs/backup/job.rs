//! `backup` as a Job in the cluster: a plugin composes the handles, the host makes the Job, carries its Secrets, shows
//! its log, ends with its exit code and takes it away.
//!
//! It opens neither the store nor a source: all of that happens in the Job, by the same command.

mod interrupt;

use super::Arguments;
use crate::config::Config;
use crate::report::{FORMAT_VERSION, Report};
use base::error::{Class, Error, Result};
use base::id::SnapshotId;
use interrupt::{Interruption, Signals};
use jiff::Timestamp;
use kubernetes::Cluster;
use kubernetes::job::OneShot;
use plugin::call::launching;
use plugin::{Engine, Plugin, Role};
use serde_json::{Value, json};
use std::path::Path;

/// Runs one backup of an environment as a Job. On Ctrl-C the user is asked what to do with it. Without a terminal it is
/// stopped and removed, unless it should be left running.
///
/// # Errors
/// If the Job could not be started or did not run to its end, with the cluster's reason. A backup that failed in the
/// Job is in the report.
pub async fn run(
    config: &Config,
    folder: Option<&Path>,
    arguments: &Arguments,
    json: bool,
    now: Timestamp,
) -> Result<Report> {
    let (environment, own) = config.environment(&arguments.environment)?;
    let job = own.job.as_ref().ok_or_else(|| {
        Error::config(format!("the environment `{environment}` has no Job"))
            .hint(format!("add [env.{environment}.job] with `namespace` and `cron_job`"))
    })?;
    let plugin = Plugin::load(&Engine::new()?, &config.plugins, Role::Job, folder).await?;
    plugin.check_settings().await?;
    let cluster = Cluster::connect(&config.kubernetes).await?;
    let stamp = SnapshotId::at(now).to_string();
    let one_shot = OneShot::prepare(cluster, job, environment.as_str(), &stamp, rand::random()).await?;
    let secrets = one_shot.borrow_secrets().await?;
    let request = launching::Request {
        environment: environment.to_string(),
        force: arguments.force,
        dry_run: arguments.dry_run,
        json,
    };
    let shown = one_shot.shown();
    let (called, interruption) = tokio::select! {
        called = plugin.run_job(&request, one_shot.clone(), secrets) => (Some(called.result), Interruption::Stop),
        interruption = interrupt::decided(Signals::listen()?, &shown, arguments.leave_on_interrupt) => (None, interruption),
    };
    if interruption == Interruption::Stop {
        one_shot.remove().await;
    }
    let ended = called.unwrap_or_else(|| Err(stopped(&shown, interruption)))?;
    let seen = one_shot.ended().ok_or_else(|| plugin.refused("it reports the end of a Job that it never followed"))?;
    if (seen.job.as_str(), seen.exit_code, seen.reason.as_str()) != (&ended.job, ended.exit_code, &ended.reason) {
        return Err(plugin.refused("its report of the Job's end does not match the cluster"));
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
            .hint("see the log above")
    });
    Ok(Report { document, text, failure })
}

fn stopped(job: &str, interruption: Interruption) -> Error {
    match interruption {
        Interruption::Stop => Error::new(Class::Interrupted, format!("interrupted: the Job {job} was stopped"))
            .hint("use --leave-on-interrupt to leave it running"),
        Interruption::Leave => {
            let (namespace, name) = job.split_once('/').unwrap_or_default();
            Error::new(Class::Interrupted, format!("interrupted: the Job {job} keeps running, if it was started"))
                .hint(format!("follow it with `kubectl --namespace {namespace} logs --follow job/{name}`"))
        }
    }
}
