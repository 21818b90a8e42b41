//! A status as metrics in Prometheus's text format, for a textfile collector. Names and labels are stable: dashboards
//! and alerts rest on them. What never happened is 0, so that `time() - metric` is large and no alert misses it.

use super::judge::{EnvironmentStatus, Retention};
use super::proofs::Proof;
use base::error::{Error, Result};
use catalogue::record::Condition;
use jiff::Timestamp;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, prometheus_text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use std::fmt;

/// Prefix of every name.
const PREFIX: &str = "dolibarr_backup";

/// One metric with its values, in the order of the environments and sources.
#[derive(Debug)]
struct Metric {
    name: &'static str,
    help: &'static str,
    values: Vec<(Vec<(&'static str, String)>, i64)>,
}

/// All of them. A collector of its own keeps their order, so that the same status gives the same text.
#[derive(Debug)]
struct Metrics(Vec<Metric>);

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for metric in &self.0 {
            let mut family = encoder.encode_descriptor(metric.name, metric.help, None, MetricType::Gauge)?;
            for (labels, value) in &metric.values {
                ConstGauge::new(*value).encode(family.encode_family(labels)?)?;
            }
        }
        Ok(())
    }
}

/// Labels of one environment's metrics.
pub(super) type Labels = Vec<(&'static str, String)>;

/// An environment, whether or not it could be checked.
#[derive(Debug)]
pub(super) struct Subject<'a> {
    /// Labels that identify it.
    pub(super) labels: Labels,
    /// Its status; `None` if it could not be checked.
    pub(super) status: Option<&'a EnvironmentStatus>,
}

/// The metrics of one configuration's environments.
pub(super) fn text(found: &[EnvironmentStatus]) -> Result<String> {
    let subject = |status| Subject { labels: labels(status), status: Some(status) };
    encoded(metrics(&found.iter().map(subject).collect::<Vec<_>>()))
}

/// The same of a fleet, and which of its instances could be looked at. One that could not has no other metric.
pub(super) fn fleet_text(found: &[Subject<'_>]) -> Result<String> {
    let seen = found.iter().map(|subject| (subject.labels.clone(), i64::from(subject.status.is_some())));
    let mut all =
        vec![Metric { name: "reachable", help: "1 if the instance's store could be read", values: seen.collect() }];
    all.extend(metrics(found));
    encoded(all)
}

/// Labels that identify an environment within one configuration.
pub(super) fn labels(status: &EnvironmentStatus) -> Labels {
    vec![("env", status.environment.clone())]
}

/// The text.
fn encoded(metrics: Vec<Metric>) -> Result<String> {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(Metrics(metrics)));
    let mut text = String::new();
    prometheus_text::encode(&mut text, &registry).map_err(|e| Error::unexpected(format!("writing metrics: {e}")))?;
    Ok(text)
}

fn metrics(subjects: &[Subject<'_>]) -> Vec<Metric> {
    let found: Vec<(&Labels, &EnvironmentStatus)> =
        subjects.iter().filter_map(|subject| Some((&subject.labels, subject.status?))).collect();
    let with = |labels: &Labels, name: &'static str, value: &str| {
        let mut labels = labels.clone();
        labels.push((name, value.to_owned()));
        labels
    };
    let per_source = |name, help, value: &dyn Fn(&super::judge::SourceStatus) -> i64| Metric {
        name,
        help,
        values: found
            .iter()
            .flat_map(|(labels, status)| status.sources.iter().map(move |source| (labels, source)))
            .map(|(labels, source)| (with(labels, "source", &source.source), value(source)))
            .collect(),
    };
    let where_known = |name, help, value: &dyn Fn(&EnvironmentStatus) -> Option<i64>| Metric {
        name,
        help,
        values: found.iter().filter_map(|(labels, status)| Some(((*labels).clone(), value(status)?))).collect(),
    };
    let per_environment =
        |name, help, value: &dyn Fn(&EnvironmentStatus) -> i64| where_known(name, help, &|status| Some(value(status)));
    let by_state = |status: &EnvironmentStatus| {
        let counts = status.counts;
        [("complete", counts.complete), ("incomplete", counts.incomplete), ("damaged", counts.damaged)]
    };
    vec![
        per_source(
            "last_success_timestamp_seconds",
            "Time of the newest snapshot from which the source can be restored; 0 if there is none",
            &|source| seconds(source.restorable.map(|id| id.taken())),
        ),
        per_source(
            "last_saved_timestamp_seconds",
            "Time when the object of the source in that snapshot was made; 0 if there is none",
            &|source| seconds(source.saved.map(|(made, _)| made)),
        ),
        per_source("object_size_bytes", "Size of that object", &|source| {
            source.saved.map_or(0, |(_, bytes)| i64::try_from(bytes).unwrap_or(i64::MAX))
        }),
        per_source("source_whole", "1 if the newest run saved the source whole", &|source| {
            i64::from(source.condition == Some(Condition::Whole))
        }),
        per_environment(
            "last_complete_timestamp_seconds",
            "Time of the newest snapshot from which every source can be restored; 0 if there is none",
            &|status| seconds(status.complete.map(|id| id.taken())),
        ),
        per_environment(
            "last_verification_timestamp_seconds",
            "Start of the last verification, whether it passed or not; 0 if there is none",
            &|status| seconds(status.verification.map(|proof| proof.at)),
        ),
        per_environment("last_verification_passed", "1 if the last verification passed", &|status| {
            passed(status.verification)
        }),
        per_environment(
            "last_drill_timestamp_seconds",
            "Start of the last drill, whether it passed or not; 0 if there is none",
            &|status| seconds(status.drill.map(|proof| proof.at)),
        ),
        per_environment("last_drill_passed", "1 if the last drill passed", &|status| passed(status.drill)),
        per_environment(
            "last_proof_timestamp_seconds",
            "Start of the last verification or drill that passed; 0 if there is none",
            &|status| seconds(status.proven),
        ),
        where_known(
            "retention_ok",
            "0 if retention is frozen, refused or was not carried out, otherwise 1",
            &|status| match status.retention {
                Retention::Applied | Retention::Never | Retention::Pending => Some(1),
                Retention::Frozen | Retention::Behind(_) | Retention::Refused(_) => Some(0),
                Retention::Unseen(_) => None,
            },
        ),
        Metric {
            name: "snapshots",
            help: "Snapshots in the store, by state",
            values: found
                .iter()
                .flat_map(|(labels, status)| by_state(status).map(|(state, count)| (labels, state, count)))
                .map(|(labels, state, count)| (with(labels, "state", state), i64::try_from(count).unwrap_or(i64::MAX)))
                .collect(),
        },
        per_environment("bin_snapshots", "Snapshots in the bin", &|status| count(status.counts.binned)),
        per_environment("waiting", "Number of open questions", &|status| count(status.waiting.len())),
        per_environment("problems", "Number of problems that status reports", &|status| count(status.problems.len())),
    ]
}

fn count(of: usize) -> i64 {
    i64::try_from(of).unwrap_or(i64::MAX)
}

fn seconds(moment: Option<Timestamp>) -> i64 {
    moment.map_or(0, Timestamp::as_second)
}

fn passed(proof: Option<Proof>) -> i64 {
    i64::from(proof.is_some_and(|proof| proof.passed))
}
