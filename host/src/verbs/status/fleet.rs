//! `status --fleet`: one line for every instance that the chart installed, read only from its store.
//!
//! An instance that cannot be checked is shown with the reason and does not affect the others.

use super::judge::{EnvironmentStatus, Limits};
use super::metrics::{self, Subject};
use super::{Files, check_environment, table};
use crate::config::{Config, Fleet};
use crate::report::{FORMAT_VERSION, Report, age};
use crate::session::Session;
use base::error::{Class, Error, Result};
use comfy_table::{Table, presets};
use futures::{StreamExt, stream};
use jiff::Timestamp;
use kubernetes::Cluster;
use kubernetes::fleet::{self, Installed};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

/// Environments that are checked concurrently. Each mostly waits for its store, and holds its records in memory.
const CHECKS_MAX: usize = 8;

/// Time limit for one environment. A reachable store takes seconds; an unreachable one has been tried three times by
/// then.
const CHECK_TIMEOUT: Duration = Duration::from_secs(120);

/// One line.
#[derive(Debug)]
struct InstanceStatus {
    namespace: String,
    /// The instance, by the name of its ConfigMap and its CronJob; `None` for a namespace that could not be read.
    instance: Option<String>,
    /// The environment; `None` if the configuration could not be read.
    environment: Option<String>,
    /// The status, or why it is unknown.
    seen: Result<EnvironmentStatus>,
}

/// Checks every instance.
pub(super) async fn run(
    config: &Fleet,
    limits: Limits,
    prometheus: bool,
    folder: Option<&Path>,
    now: Timestamp,
) -> Result<Report> {
    let cluster = Cluster::connect(&config.kubernetes).await?;
    let (installed, closed) = fleet::installed(&cluster, &config.looked_at).await?;
    let lines = closed.into_iter().map(|closed| InstanceStatus {
        namespace: closed.namespace.to_string(),
        instance: None,
        environment: None,
        seen: Err(closed.why),
    });
    let mut lines: Vec<InstanceStatus> = lines.collect();
    let environments = installed.iter().flat_map(|of| environments(config, of));
    let looked = stream::iter(environments).map(|of| line(of, folder, limits, now));
    lines.extend(looked.buffered(CHECKS_MAX).collect::<Vec<_>>().await);
    let document = json!({
        "format_version": FORMAT_VERSION,
        "healthy": lines.iter().all(InstanceStatus::is_healthy),
        "instances": lines.iter().map(InstanceStatus::value).collect::<Vec<_>>(),
    });
    let text = if prometheus { metrics::fleet_text(&subjects(&lines))? } else { text(&lines, now) };
    Ok(Report { document, text, failure: failure(&lines) })
}

/// An environment to check.
struct ToCheck {
    of: Installed,
    /// The environment with its instance's configuration, or the error in it.
    environment: Result<(String, Config)>,
}

fn environments(config: &Fleet, of: &Installed) -> Vec<ToCheck> {
    let wanted = |environment| ToCheck { of: of.clone(), environment };
    match config.instance(of) {
        Ok(own) => own.environments.keys().map(|name| wanted(Ok((name.to_string(), own.clone())))).collect(),
        Err(error) => vec![wanted(Err(error))],
    }
}

async fn line(wanted: ToCheck, folder: Option<&Path>, limits: Limits, now: Timestamp) -> InstanceStatus {
    let at = wanted.of.at;
    let (environment, seen) = match wanted.environment {
        Ok((name, config)) => {
            let looked = async {
                let session = Session::open(config, &name, folder.map(Path::to_owned), now).await?;
                check_environment(&session, Files::OfAPod, limits, now).await
            };
            let late =
                |_| Err(Error::unavailable(format!("checking it took longer than {} s", CHECK_TIMEOUT.as_secs())));
            let seen = tokio::time::timeout(CHECK_TIMEOUT, looked).await.unwrap_or_else(late);
            (Some(name), seen)
        }
        Err(error) => (None, Err(error)),
    };
    InstanceStatus { namespace: at.namespace.to_string(), instance: Some(at.name), environment, seen }
}

impl InstanceStatus {
    fn is_healthy(&self) -> bool {
        self.seen.as_ref().is_ok_and(EnvironmentStatus::is_healthy)
    }

    /// For people: which instance.
    fn shown(&self) -> String {
        let parts = [Some(&self.namespace), self.instance.as_ref(), self.environment.as_ref()];
        parts.into_iter().flatten().map(String::as_str).collect::<Vec<_>>().join("/")
    }

    /// One word, or the kinds of its problems.
    fn verdict(&self) -> String {
        match &self.seen {
            Ok(status) if status.is_healthy() => "healthy".to_owned(),
            Ok(status) => {
                let kinds: BTreeSet<_> = status.problems.iter().map(|problem| problem.kind).collect();
                kinds.into_iter().map(super::judge::Kind::name).collect::<Vec<_>>().join(", ")
            }
            Err(error) => match error.class() {
                Class::Unavailable => "unavailable".to_owned(),
                Class::Config => "refused".to_owned(),
                _ => "failed".to_owned(),
            },
        }
    }

    /// The problems, one sentence each.
    fn messages(&self) -> Vec<&str> {
        match &self.seen {
            Ok(status) => status.problems.iter().map(|problem| problem.message.as_str()).collect(),
            Err(error) => vec![error.message()],
        }
    }

    /// The class and the hint of the first problem; `None` without a problem.
    fn failure(&self) -> Option<(Class, String)> {
        match &self.seen {
            Ok(status) => status.problems.first().map(|problem| (Class::Stale, problem.advice())),
            Err(error) => {
                let known = error.clone().or_default_hint();
                Some((error.class(), known.advice().unwrap_or_default().to_owned()))
            }
        }
    }

    fn value(&self) -> Value {
        let (status, error) = match &self.seen {
            Ok(status) => (Some(table::value(status)), None),
            Err(error) => {
                let code = error.class().exit_code();
                (None, Some(json!({ "error": error.message(), "hint": error.advice(), "exit_code": code })))
            }
        };
        json!({
            "namespace": self.namespace,
            "instance": self.instance,
            "environment": self.environment,
            "healthy": self.is_healthy(),
            "verdict": self.verdict(),
            "status": status,
            "failure": error,
        })
    }
}

/// A line for each, then what is wrong, then how many are healthy.
fn text(lines: &[InstanceStatus], now: Timestamp) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["NAMESPACE", "INSTANCE", "ENV", "LAST BACKUP", "SOURCES", "VERIFIED", "RETENTION", "VERDICT"]);
    for line in lines {
        table.add_row(row(line, now));
    }
    let mut text = format!("{}\n", table.trim_fmt());
    for line in lines {
        for message in line.messages() {
            let _ = writeln!(text, "{}: {message}", line.shown());
        }
    }
    let healthy = lines.iter().filter(|line| line.is_healthy()).count();
    let _ = writeln!(text, "{healthy} of {} are healthy", lines.len());
    text
}

fn row(line: &InstanceStatus, now: Timestamp) -> Vec<String> {
    let unseen = || "-".to_owned();
    let aged = |at: Option<Timestamp>| at.map_or_else(|| "never".to_owned(), |at| age(at, now));
    let mut row: Vec<String> = vec![line.namespace.clone()];
    row.extend([&line.instance, &line.environment].map(|name| name.clone().unwrap_or_else(unseen)));
    match &line.seen {
        Ok(status) => {
            let sources = status
                .sources
                .iter()
                .map(|source| format!("{} {}", source.source, aged(source.restorable.map(|id| id.taken()))));
            row.extend([
                aged(status.complete.map(|id| id.taken())),
                sources.collect::<Vec<_>>().join(", "),
                aged(status.proven),
                table::retention(&status.retention),
            ]);
        }
        Err(_) => row.extend([unseen(), unseen(), unseen(), unseen()]),
    }
    row.push(line.verdict());
    row
}

fn subjects(lines: &[InstanceStatus]) -> Vec<Subject<'_>> {
    let subject = |line: &'_ InstanceStatus| {
        let named = [
            ("namespace", Some(&line.namespace)),
            ("cronjob", line.instance.as_ref()),
            ("env", line.environment.as_ref()),
        ];
        let labels = named.into_iter().filter_map(|(name, value)| Some((name, value?.clone())));
        labels.collect::<metrics::Labels>()
    };
    lines.iter().map(|line| Subject { labels: subject(line), status: line.seen.as_ref().ok() }).collect()
}

/// The severity of a failure. Problems in a status come first, then errors that a retry cannot fix, then unavailable
/// services. So an exit code that is worth a retry means that there is no other failure.
const fn gravity(class: Class) -> u8 {
    match class {
        Class::Stale => 2,
        Class::Usage
        | Class::Config
        | Class::Held
        | Class::PluginTrapped
        | Class::PluginRefused
        | Class::RetentionIncomplete
        | Class::Interrupted
        | Class::Unexpected => 1,
        Class::Unavailable => 0,
    }
}

/// The worst of them, the first of several.
fn failure(lines: &[InstanceStatus]) -> Option<Error> {
    let failed: Vec<_> = lines.iter().filter_map(|line| Some((line, line.failure()?))).collect();
    let worst = failed.iter().rev().max_by_key(|(_, (class, _))| gravity(*class))?;
    let (line, (class, advice)) = worst;
    let first = line.messages().first().copied().unwrap_or_default();
    let more = match failed.len() - 1 {
        0 => String::new(),
        others => format!(", and {others} more are not healthy"),
    };
    Some(Error::new(*class, format!("{}: {first}{more}", line.shown())).hint(advice))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(class: Class) -> InstanceStatus {
        let seen = Err(Error::new(class, "it is so"));
        InstanceStatus { namespace: "erp".into(), instance: Some("erp-prod".into()), environment: None, seen }
    }

    #[test]
    fn the_worst_decides_and_a_retry_is_advised_only_where_nothing_else_is_wrong() {
        let table: [(&[Class], Option<Class>); 6] = [
            (&[], None),
            (&[Class::Unavailable], Some(Class::Unavailable)),
            (&[Class::Unavailable, Class::Config], Some(Class::Config)),
            (&[Class::Config, Class::PluginTrapped, Class::Unavailable], Some(Class::Config)),
            (&[Class::Unavailable, Class::Config, Class::Stale], Some(Class::Stale)),
            (&[Class::Stale, Class::Unavailable], Some(Class::Stale)),
        ];
        for (classes, expected) in table {
            let lines: Vec<InstanceStatus> = classes.iter().map(|class| failed(*class)).collect();
            let worst = failure(&lines);
            assert_eq!(worst.as_ref().map(Error::class), expected, "{classes:?}");
            let others = classes.len().saturating_sub(1);
            let says = format!("and {others} more");
            assert_eq!(worst.is_some_and(|worst| worst.message().contains(&says)), others > 0, "{classes:?}");
        }
    }
}
