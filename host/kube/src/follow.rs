//! Follows a Job: shows what its pod waits for, streams its log, and reports how it ends.
//!
//! [`judge`] is a pure function: from the API server's answers and the time waited, it decides whether to continue. The
//! cluster is polled rather than watched, so a laptop that slept for an hour simply continues.

use super::client::{EVENTS, JOBS, PODS};
use super::{Cluster, Namespace};
use base::error::{Class, Error, Result};
use base::text::printable;
use futures::{AsyncBufRead, AsyncBufReadExt};
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::task::AbortOnDropHandle;

/// Polling interval. Short enough that a person who waits sees changes immediately.
const POLL: Duration = Duration::from_secs(1);

/// How long the cluster may be unreachable while a Job runs: a laptop changes networks, an API server is replaced.
const SILENCE_MAX: Duration = Duration::from_secs(300);

/// Timeout for the rest of the log after the container has ended.
const LAST_LINES_MAX: Duration = Duration::from_secs(10);

/// Longest log line that is kept whole.
const LINE_BYTES_MAX: usize = 1 << 20;

/// Most events whose text is remembered, so that each is shown once.
const EVENTS_SHOWN_MAX: usize = 500;

/// How a Job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Namespace and name.
    pub job: String,
    /// Exit code of its container.
    pub exit_code: i32,
    /// The cluster's reason.
    pub reason: String,
}

/// The Job to follow.
#[derive(Debug, Clone)]
pub(super) struct Followed {
    pub namespace: Namespace,
    pub job: String,
    pub container: String,
    pub patience: Duration,
}

/// The state of the Job in the cluster at one moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    pub job: Option<Value>,
    /// The newest pod.
    pub pod: Option<Value>,
    /// Events of the pod, or of the Job if it has no pod yet.
    pub events: Vec<Value>,
}

/// What [`judge`] concludes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The container has not started yet.
    Wait,
    /// The container runs, and its log can be read.
    Running,
    /// The container ended, with exit code and the cluster's reason.
    Ended(i32, String),
    /// The Job will not run to its end.
    Never(Error),
}

/// Follows a Job to its end. Log lines are shown on stderr; the last line that is a JSON object is stored in `result`.
pub(super) async fn follow(cluster: &Cluster, target: &Followed, result: &Mutex<Option<Value>>) -> Result<Ended> {
    let position = tokio::sync::Mutex::default();
    let log = Arc::new(Log { cluster: cluster.clone(), target: target.clone(), position });
    let mut reading: Option<AbortOnDropHandle<()>> = None;
    let mut shown = BTreeSet::new();
    let (mut last_answer, mut waiting_since) = (Instant::now(), Instant::now());
    loop {
        let seen = match poll(cluster, target).await {
            Ok(seen) => seen,
            Err(error) if error.class() == Class::Unavailable && last_answer.elapsed() < SILENCE_MAX => {
                tracing::warn!("{error}");
                tokio::time::sleep(POLL).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        last_answer = Instant::now();
        show_events(&seen.events, &mut shown);
        let pod = seen.pod.as_ref().and_then(|pod| text(pod, "/metadata/name")).map(str::to_owned);
        match judge(&seen, target, waiting_since.elapsed()) {
            Verdict::Wait => {}
            Verdict::Running => {
                waiting_since = Instant::now();
                if let (None, Some(pod)) = (&reading, pod) {
                    let log = Arc::clone(&log);
                    reading = Some(AbortOnDropHandle::new(tokio::spawn(async move { log.read_on(&pod).await })));
                }
            }
            Verdict::Ended(exit_code, reason) => {
                drop(reading.take());
                if let Some(pod) = pod {
                    log.read_rest(&pod).await;
                }
                *result.lock().unwrap_or_else(PoisonError::into_inner) = log.position.lock().await.result.take();
                return Ok(Ended { job: format!("{}/{}", target.namespace, target.job), exit_code, reason });
            }
            Verdict::Never(error) => return Err(error.context(format!("the Job {}/{}", target.namespace, target.job))),
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn poll(cluster: &Cluster, target: &Followed) -> Result<Seen> {
    let namespace = target.namespace.as_str();
    let job = cluster.get(JOBS, namespace, &target.job).await?;
    let labels = format!("job-name={}", target.job);
    let mut pods = cluster.list(PODS, Some(namespace), Some(&labels), None).await?.unwrap_or_default();
    pods.sort_by_key(|pod| text(pod, "/metadata/creationTimestamp").unwrap_or_default().to_owned());
    let pod = pods.pop();
    let about = pod.as_ref().and_then(|pod| text(pod, "/metadata/name")).unwrap_or(&target.job);
    let fields = format!("involvedObject.name={about}");
    let events = match cluster.list(EVENTS, Some(namespace), None, Some(&fields)).await {
        Ok(events) => events.unwrap_or_default(),
        // Events only explain. The Job runs even if the user may not list them.
        Err(error) if error.class() == Class::Config => {
            tracing::debug!("{error}");
            Vec::new()
        }
        Err(error) => return Err(error),
    };
    Ok(Seen { job, pod, events })
}

fn show_events(events: &[Value], shown: &mut BTreeSet<String>) {
    for event in events {
        let field = |path| printable(text(event, path).unwrap_or_default());
        let line = format!("{}: {}", field("/reason"), field("/message"));
        if shown.len() < EVENTS_SHOWN_MAX && shown.insert(line.clone()) {
            match text(event, "/type") {
                Some("Warning") => tracing::warn!("{line}"),
                _ => tracing::info!("{line}"),
            }
        }
    }
}

/// Decides how to proceed. `waited` is the time since the Job last made progress.
pub(super) fn judge(seen: &Seen, target: &Followed, waited: Duration) -> Verdict {
    let patient = waited < target.patience;
    if let Some((code, reason)) = seen.pod.as_ref().and_then(|pod| terminated(pod, &target.container)) {
        return Verdict::Ended(code, reason);
    }
    let Some(job) = &seen.job else {
        let gone = Error::unexpected("it was deleted before it ended").hint("run the command again");
        return Verdict::Never(gone);
    };
    if let Some(pod) = seen.pod.as_ref().filter(|pod| text(pod, "/status/phase") == Some("Failed")) {
        let word = printable(text(pod, "/status/reason").unwrap_or("its pod failed"));
        let why = printable(text(pod, "/status/message").unwrap_or("the cluster gave no reason"));
        return Verdict::Never(Error::unavailable(format!("{word}: {why}")).hint("run the command again"));
    }
    if let Some(failed) = condition(job, "Failed") {
        let word = printable(text(failed, "/reason").unwrap_or("Failed"));
        let why = printable(text(failed, "/message").unwrap_or_default());
        return Verdict::Never(
            Error::unexpected(format!("{word}: {why}"))
                .hint("raise `deadline_seconds` in [env.….job] to let it run longer"),
        );
    }
    if condition(job, "Complete").is_some() {
        return Verdict::Ended(0, "Completed".to_owned());
    }
    match &seen.pod {
        Some(pod) => judge_pod(pod, &seen.events, target, patient),
        None => judge_podless(&seen.events, target, patient),
    }
}

fn judge_pod(pod: &Value, events: &[Value], target: &Followed, patient: bool) -> Verdict {
    if container(pod, &target.container).and_then(|one| one.pointer("/state/running")).is_some() {
        return Verdict::Running;
    }
    for waiting in waiting(pod) {
        let word = text(waiting, "/reason").unwrap_or_default();
        let why = printable(text(waiting, "/message").unwrap_or("the cluster gave no reason"));
        let error = || Error::config(format!("{}: {why}", printable(word)));
        match word {
            "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" | "ImageInspectError" => {
                let image = printable(text(pod, "/spec/containers/0/image").unwrap_or_default());
                return Verdict::Never(
                    error().hint(format!("check the image {image}, and the registry's credentials")),
                );
            }
            "CreateContainerConfigError" => {
                return Verdict::Never(error().hint("check what the Job's template refers to in its namespace"));
            }
            "ErrImagePull" | "CreateContainerError" | "RunContainerError" | "RegistryUnavailable" if !patient => {
                return Verdict::Never(error());
            }
            _ => {}
        }
    }
    let unscheduled = condition(pod, "PodScheduled=False").filter(|c| text(c, "/reason") == Some("Unschedulable"));
    if patient {
        return Verdict::Wait;
    }
    if let Some(unscheduled) = unscheduled {
        let why = printable(text(unscheduled, "/message").unwrap_or("the cluster gave no reason"));
        return Verdict::Never(
            Error::unavailable(format!("no node can run its pod: {why}"))
                .hint("raise `patience_seconds` in [env.….job] to wait longer, for example for a new node"),
        );
    }
    let why = last_warning(events).unwrap_or_else(|| "the cluster gave no reason".to_owned());
    let waited = target.patience.as_secs();
    Verdict::Never(
        Error::unavailable(format!("its pod did not start within {waited} s: {why}"))
            .hint("raise `patience_seconds` in [env.….job] to wait longer"),
    )
}

/// Judges a Job without a pod. The controller retries forever, but some reasons for a refusal never go away.
fn judge_podless(events: &[Value], target: &Followed, patient: bool) -> Verdict {
    let refused = events.iter().rev().find(|event| text(event, "/reason") == Some("FailedCreate"));
    let why = refused.and_then(|event| text(event, "/message")).map(printable);
    let permanent = ["forbidden", "denied", "is invalid", "not found"];
    let is_permanent = |why: &str| permanent.iter().any(|word| why.contains(word));
    match why {
        Some(why) if is_permanent(&why) || !patient => Verdict::Never(
            Error::config(format!("the cluster refused to create its pod: {why}"))
                .hint("check quotas, admission policies, and the objects that the template refers to"),
        ),
        None if !patient => {
            let waited = target.patience.as_secs();
            Verdict::Never(
                Error::unavailable(format!("the cluster did not create a pod for it within {waited} s"))
                    .hint("check the cluster's controller manager"),
            )
        }
        Some(_) | None => Verdict::Wait,
    }
}

fn terminated(pod: &Value, name: &str) -> Option<(i32, String)> {
    let ended = container(pod, name)?.pointer("/state/terminated")?;
    let code = ended.get("exitCode")?.as_i64().and_then(|code| i32::try_from(code).ok())?;
    Some((code, printable(text(ended, "/reason").unwrap_or(if code == 0 { "Completed" } else { "Error" }))))
}

fn container<'a>(pod: &'a Value, name: &str) -> Option<&'a Value> {
    let all = pod.pointer("/status/containerStatuses")?.as_array()?;
    all.iter().find(|one| text(one, "/name") == Some(name))
}

/// Every waiting container, init containers first.
fn waiting(pod: &Value) -> impl Iterator<Item = &Value> {
    let lists = ["/status/initContainerStatuses", "/status/containerStatuses"];
    let all = lists.into_iter().filter_map(|list| pod.pointer(list)?.as_array()).flatten();
    all.filter_map(|one| one.pointer("/state/waiting"))
}

/// The condition `Type`, if its status is `True`. `Type=False` matches another status.
fn condition<'a>(object: &'a Value, wanted: &str) -> Option<&'a Value> {
    let (kind, status) = wanted.split_once('=').unwrap_or((wanted, "True"));
    let all = object.pointer("/status/conditions")?.as_array()?;
    all.iter().find(|one| text(one, "/type") == Some(kind) && text(one, "/status") == Some(status))
}

fn last_warning(events: &[Value]) -> Option<String> {
    let warning = events.iter().rev().find(|event| text(event, "/type") == Some("Warning"))?;
    Some(format!("{}: {}", printable(text(warning, "/reason")?), printable(text(warning, "/message")?)))
}

fn text<'a>(object: &'a Value, path: &str) -> Option<&'a str> {
    object.pointer(path)?.as_str()
}

/// The log of one container. Each line is shown once.
struct Log {
    cluster: Cluster,
    target: Followed,
    position: tokio::sync::Mutex<Position>,
}

/// How far the log was read.
#[derive(Default)]
struct Position {
    /// Timestamp of the last line, as text. Such texts sort chronologically.
    time: String,
    /// The last line that is a run's result.
    result: Option<Value>,
}

impl Log {
    /// Reads the log until the task is aborted, and resumes if the connection ends.
    async fn read_on(&self, pod: &str) {
        loop {
            if let Err(error) = self.read(pod).await {
                tracing::debug!("{error}");
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Reads the rest of the log of a container that has ended.
    async fn read_rest(&self, pod: &str) {
        match tokio::time::timeout(LAST_LINES_MAX, self.read(pod)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!("could not read the end of the Job's log: {error}"),
            Err(_) => tracing::warn!("the end of the Job's log did not arrive within {} s", LAST_LINES_MAX.as_secs()),
        }
    }

    async fn read(&self, pod: &str) -> Result<()> {
        let mut lines = self.cluster.log(self.target.namespace.as_str(), pod, &self.target.container).await?;
        while let Some(line) = next_line(&mut lines).await? {
            self.take(&line).await;
        }
        Ok(())
    }

    async fn take(&self, line: &str) {
        let (time, content) = line.split_once(' ').unwrap_or((line, ""));
        let mut position = self.position.lock().await;
        if time <= position.time.as_str() {
            return;
        }
        time.clone_into(&mut position.time);
        match serde_json::from_str(content) {
            // A failure is printed as an object too, after the result. A log does not separate stdout and stderr.
            Ok(Value::Object(object)) if !object.contains_key("error") => position.result = Some(Value::Object(object)),
            Ok(_) | Err(_) => base::telemetry::foreign_line(content),
        }
    }
}

/// The next line without its line break, cut at [`LINE_BYTES_MAX`].
async fn next_line(from: &mut (impl AsyncBufRead + Unpin)) -> Result<Option<String>> {
    let broken_off = |e: std::io::Error| Error::unavailable(format!("the Job's log broke off: {e}"));
    let mut line = Vec::new();
    loop {
        let block = from.fill_buf().await.map_err(broken_off)?;
        if block.is_empty() {
            let line = (!line.is_empty()).then(|| String::from_utf8_lossy(&line).into_owned());
            return Ok(line);
        }
        let end = block.iter().position(|byte| *byte == b'\n');
        let part = block.get(..end.unwrap_or(block.len())).unwrap_or_default();
        let room = LINE_BYTES_MAX.saturating_sub(line.len());
        line.extend(part.iter().take(room));
        let used = part.len() + usize::from(end.is_some());
        from.consume_unpin(used);
        if end.is_some() {
            return Ok(Some(String::from_utf8_lossy(&line).into_owned()));
        }
    }
}
