//! Follows a Job: what its pod waits for, its log, and how it ends.
//!
//! [`judge`] is pure: it takes what the API server answered and how long was waited, and says whether to go on. It asks
//! for no watch, so a laptop that slept for an hour goes on where it was.

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

/// How often the cluster is asked. A person who waits sees a change within a breath.
const POLL: Duration = Duration::from_secs(1);

/// How long a cluster may be out of reach while a Job runs: a laptop changes networks, an API server is replaced.
const SILENCE_MAX: Duration = Duration::from_secs(300);

/// How long the rest of a log is waited for after its container has ended.
const LAST_LINES_MAX: Duration = Duration::from_secs(10);

/// Longest line of a log that is kept whole.
const LINE_BYTES_MAX: usize = 1 << 20;

/// Events whose text is remembered, so that each is shown once.
const EVENTS_SHOWN_MAX: usize = 500;

/// How a Job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Namespace and name.
    pub job: String,
    /// Of its container.
    pub exit_code: i32,
    /// The cluster's word for it.
    pub reason: String,
}

/// What a Job is followed by.
#[derive(Debug, Clone)]
pub(super) struct Followed {
    pub namespace: Namespace,
    pub job: String,
    pub container: String,
    pub patience: Duration,
}

/// What one look at the cluster says.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    pub job: Option<Value>,
    /// The newest pod.
    pub pod: Option<Value>,
    /// Of the pod, or of the Job while there is none.
    pub events: Vec<Value>,
}

/// What to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing yet.
    Wait,
    /// Its log can be read.
    Running,
    /// Exit code and the cluster's word.
    Ended(i32, String),
    /// It will not run to its end.
    Never(Error),
}

/// Follows a Job to its end. The log goes to stderr line by line; its last line that is a JSON object is put into `result`.
pub(super) async fn follow(cluster: &Cluster, of: &Followed, result: &Mutex<Option<Value>>) -> Result<Ended> {
    let log = Arc::new(Log { cluster: cluster.clone(), of: of.clone(), at: tokio::sync::Mutex::default() });
    let mut reading: Option<AbortOnDropHandle<()>> = None;
    let mut shown = BTreeSet::new();
    let (mut heard, mut waiting_since) = (Instant::now(), Instant::now());
    loop {
        let seen = match look(cluster, of).await {
            Ok(seen) => seen,
            Err(error) if error.class() == Class::Unavailable && heard.elapsed() < SILENCE_MAX => {
                tracing::warn!("{error}");
                tokio::time::sleep(POLL).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        heard = Instant::now();
        show_events(&seen.events, &mut shown);
        let pod = seen.pod.as_ref().and_then(|pod| text(pod, "/metadata/name")).map(str::to_owned);
        match judge(&seen, of, waiting_since.elapsed()) {
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
                *result.lock().unwrap_or_else(PoisonError::into_inner) = log.at.lock().await.result.take();
                return Ok(Ended { job: format!("{}/{}", of.namespace, of.job), exit_code, reason });
            }
            Verdict::Never(error) => return Err(error.context(format!("the Job {}/{}", of.namespace, of.job))),
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn look(cluster: &Cluster, of: &Followed) -> Result<Seen> {
    let namespace = of.namespace.as_str();
    let job = cluster.get(JOBS, namespace, &of.job).await?;
    let labels = format!("job-name={}", of.job);
    let mut pods = cluster.list(PODS, Some(namespace), Some(&labels), None).await?.unwrap_or_default();
    pods.sort_by_key(|pod| text(pod, "/metadata/creationTimestamp").unwrap_or_default().to_owned());
    let pod = pods.pop();
    let about = pod.as_ref().and_then(|pod| text(pod, "/metadata/name")).unwrap_or(&of.job);
    let fields = format!("involvedObject.name={about}");
    let events = match cluster.list(EVENTS, Some(namespace), None, Some(&fields)).await {
        Ok(events) => events.unwrap_or_default(),
        // Events explain; without the right to see them the Job runs all the same.
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
        let said = |path| printable(text(event, path).unwrap_or_default());
        let line = format!("{}: {}", said("/reason"), said("/message"));
        if shown.len() < EVENTS_SHOWN_MAX && shown.insert(line.clone()) {
            match text(event, "/type") {
                Some("Warning") => tracing::warn!("{line}"),
                _ => tracing::info!("{line}"),
            }
        }
    }
}

/// Says what becomes of a Job. `waited` is the time since it was last seen to make progress.
pub(super) fn judge(seen: &Seen, of: &Followed, waited: Duration) -> Verdict {
    let patient = waited < of.patience;
    if let Some((code, reason)) = seen.pod.as_ref().and_then(|pod| terminated(pod, &of.container)) {
        return Verdict::Ended(code, reason);
    }
    let Some(job) = &seen.job else {
        let gone = Error::unexpected("was deleted by somebody else before it ended").hint("run it again");
        return Verdict::Never(gone);
    };
    if let Some(pod) = seen.pod.as_ref().filter(|pod| text(pod, "/status/phase") == Some("Failed")) {
        let word = printable(text(pod, "/status/reason").unwrap_or("its pod failed"));
        let why = printable(text(pod, "/status/message").unwrap_or("the cluster gives no reason"));
        return Verdict::Never(Error::unavailable(format!("{word}: {why}")).hint("run it again"));
    }
    if let Some(failed) = condition(job, "Failed") {
        let word = printable(text(failed, "/reason").unwrap_or("Failed"));
        let why = printable(text(failed, "/message").unwrap_or_default());
        return Verdict::Never(
            Error::unexpected(format!("{word}: {why}")).hint("`deadline_seconds` in [env.….job] lets it run longer"),
        );
    }
    if condition(job, "Complete").is_some() {
        return Verdict::Ended(0, "Completed".to_owned());
    }
    match &seen.pod {
        Some(pod) => judge_pod(pod, &seen.events, of, patient),
        None => judge_podless(&seen.events, of, patient),
    }
}

fn judge_pod(pod: &Value, events: &[Value], of: &Followed, patient: bool) -> Verdict {
    if container(pod, &of.container).and_then(|one| one.pointer("/state/running")).is_some() {
        return Verdict::Running;
    }
    let image = |path| printable(text(pod, path).unwrap_or_default());
    for waiting in waiting(pod) {
        let word = text(waiting, "/reason").unwrap_or_default();
        let why = printable(text(waiting, "/message").unwrap_or("the cluster gives no reason"));
        let error = || Error::config(format!("{}: {why}", printable(word)));
        match word {
            "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" | "ImageInspectError" => {
                let named = image("/spec/containers/0/image");
                return Verdict::Never(
                    error().hint(format!("check the image {named}, and the registry's credentials")),
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
        let why = printable(text(unscheduled, "/message").unwrap_or("the cluster gives no reason"));
        return Verdict::Never(
            Error::unavailable(format!("no node takes its pod: {why}"))
                .hint("`patience_seconds` in [env.….job] waits longer, say for a node that joins"),
        );
    }
    let why = last_warning(events).unwrap_or_else(|| "the cluster gives no reason".to_owned());
    let waited = of.patience.as_secs();
    Verdict::Never(
        Error::unavailable(format!("its pod did not start within {waited} s: {why}"))
            .hint("`patience_seconds` in [env.….job] waits longer"),
    )
}

/// No pod yet. The controller keeps trying what the cluster refuses, and the reason does not change by itself.
fn judge_podless(events: &[Value], of: &Followed, patient: bool) -> Verdict {
    let refused = events.iter().rev().find(|event| text(event, "/reason") == Some("FailedCreate"));
    let why = refused.and_then(|event| text(event, "/message")).map(printable);
    let for_good = |why: &str| ["forbidden", "denied", "is invalid", "not found"].iter().any(|word| why.contains(word));
    match why {
        Some(why) if for_good(&why) || !patient => Verdict::Never(
            Error::config(format!("the cluster refuses its pod: {why}"))
                .hint("the reason is the cluster's own: a quota, a policy, or something that the template names"),
        ),
        None if !patient => {
            let waited = of.patience.as_secs();
            Verdict::Never(
                Error::unavailable(format!("the cluster made no pod of it within {waited} s"))
                    .hint("look at the cluster's controller manager"),
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

/// Every container that waits, those that come first in front.
fn waiting(pod: &Value) -> impl Iterator<Item = &Value> {
    let lists = ["/status/initContainerStatuses", "/status/containerStatuses"];
    let all = lists.into_iter().filter_map(|list| pod.pointer(list)?.as_array()).flatten();
    all.filter_map(|one| one.pointer("/state/waiting"))
}

/// A condition that holds, or one that does not as `Type=False`.
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

/// The log of one container, each line once.
struct Log {
    cluster: Cluster,
    of: Followed,
    at: tokio::sync::Mutex<Position>,
}

/// How far a log was read.
#[derive(Default)]
struct Position {
    /// The time of the last line, as the cluster writes it; such texts sort as the times do.
    time: String,
    /// The last line that was a run's result.
    result: Option<Value>,
}

impl Log {
    /// Reads for as long as the pod runs, and begins again where a connection ended.
    async fn read_on(&self, pod: &str) {
        loop {
            if let Err(error) = self.read(pod).await {
                tracing::debug!("{error}");
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Reads what is left of a container that has ended.
    async fn read_rest(&self, pod: &str) {
        match tokio::time::timeout(LAST_LINES_MAX, self.read(pod)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!("the end of the Job's log could not be read: {error}"),
            Err(_) => tracing::warn!("the end of the Job's log did not come within {} s", LAST_LINES_MAX.as_secs()),
        }
    }

    async fn read(&self, pod: &str) -> Result<()> {
        let mut lines = self.cluster.log(self.of.namespace.as_str(), pod, &self.of.container).await?;
        while let Some(line) = next_line(&mut lines).await? {
            self.take(&line).await;
        }
        Ok(())
    }

    async fn take(&self, line: &str) {
        let (time, said) = line.split_once(' ').unwrap_or((line, ""));
        let mut at = self.at.lock().await;
        if time <= at.time.as_str() {
            return;
        }
        time.clone_into(&mut at.time);
        match serde_json::from_str(said) {
            // A failure is an object too, after the result and on stderr, which a log does not tell apart.
            Ok(Value::Object(object)) if !object.contains_key("error") => at.result = Some(Value::Object(object)),
            Ok(_) | Err(_) => base::telemetry::foreign_line(said),
        }
    }
}

/// The next line without its end. What goes beyond the longest line is left out.
async fn next_line(from: &mut (impl AsyncBufRead + Unpin)) -> Result<Option<String>> {
    let broken = |e: std::io::Error| Error::unavailable(format!("the Job's log broke off: {e}"));
    let mut line = Vec::new();
    loop {
        let block = from.fill_buf().await.map_err(broken)?;
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
