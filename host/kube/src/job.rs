//! Runs a backup as a Job: creates the Job with a short deadline, creates its Secrets, raises the deadline, follows the
//! Job and deletes it.
//!
//! The order ensures that the cluster cleans up by itself if this process dies at any point: the Job has a deadline
//! from the start, is removed some time after its end, and owns its Secrets.

use super::client::{JOBS, Kind, SECRETS};
use super::follow::{self, Ended, Followed};
use super::template::{self, JobConfig, Plan};
use super::{Cluster, Reference};
use base::error::{Class, Error, Result};
use base::secret::{ExposeSecret, Sealed};
use base::text::printable;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Arguments that a plugin may add to the host's command.
const ARGUMENTS: [&str; 3] = ["--force", "--dry-run", "--json"];

/// API versions of CronJobs. The second is for servers before 1.21.
const CRON_JOBS: [Kind; 2] = [Kind::new("batch", "v1", "cronjobs"), Kind::new("batch", "v1beta1", "cronjobs")];

/// Timeout for deleting a Job.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(15);

/// A Job that can be launched once. Clones refer to the same Job.
#[derive(Debug, Clone)]
pub struct OneShot {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    cluster: Cluster,
    config: JobConfig,
    environment: String,
    name: String,
    /// The `jobTemplate`, as a CronJob has it.
    template: Value,
    container: String,
    state: Mutex<State>,
    /// The result that the Job's command printed.
    result: Mutex<Option<Value>>,
}

/// Progress of the Job.
#[derive(Debug, Default)]
struct State {
    /// The Job may exist in the cluster.
    made: bool,
    ended: Option<Ended>,
}

/// A borrowed Secret for one place in a Job.
#[derive(Debug, Clone)]
pub struct Lent {
    place: String,
    sealed: Arc<Sealed>,
}

impl Lent {
    /// The name of the place.
    pub fn place(&self) -> &str {
        &self.place
    }
}

impl OneShot {
    /// Finds the template. `stamp` and `random` make the Job's name unique.
    ///
    /// # Errors
    /// [`Class::Config`] if the CronJob does not exist, or the container that backs up cannot be determined.
    pub async fn prepare(
        cluster: Cluster,
        config: &JobConfig,
        environment: &str,
        stamp: &str,
        random: u32,
    ) -> Result<Self> {
        config.check()?;
        let template = match (&config.cron_job, &config.template) {
            (Some(name), _) => {
                let cron_job = Reference { namespace: config.namespace.clone(), name: name.clone() };
                cron_job_template(&cluster, &cron_job).await?
            }
            (None, Some(inline)) => inline.job_template(),
            (None, None) => return Err(Error::config("neither `cron_job` nor `template` is set")),
        };
        let inner = Inner {
            container: template::container_of(config, &template)?,
            cluster,
            config: config.clone(),
            environment: environment.to_owned(),
            name: template::job_name(environment, stamp, random),
            template,
            state: Mutex::default(),
            result: Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Reads the Secrets that the Job borrows.
    ///
    /// # Errors
    /// [`Class::Config`] if one does not exist, lacks a key, or access is denied.
    pub async fn borrow_secrets(&self) -> Result<Vec<Lent>> {
        let mut lent = Vec::new();
        for (place, borrowed) in &self.inner.config.secrets {
            let sealed = super::secret::read(&self.inner.cluster, &borrowed.from).await?.only(&borrowed.keys)?;
            lent.push(Lent { place: place.clone(), sealed: Arc::new(sealed) });
        }
        Ok(lent)
    }

    /// Namespace and name of the Job.
    pub fn shown(&self) -> String {
        format!("{}/{}", self.inner.config.namespace, self.inner.name)
    }

    /// The environment, for messages.
    pub fn scope(&self) -> &str {
        &self.inner.environment
    }

    /// The result that the Job's command printed, if any.
    pub fn take_result(&self) -> Option<Value> {
        self.inner.result.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// How the Job ended, once [`OneShot::follow`] has seen its end.
    pub fn ended(&self) -> Option<Ended> {
        self.state().ended.clone()
    }

    /// Creates the Job and its Secrets, and lets it run.
    ///
    /// # Errors
    /// [`Class::PluginRefused`] if the plugin may not do that; otherwise the cluster's error.
    pub async fn launch(&self, arguments: &[String], secrets: &[(String, Lent)]) -> Result<()> {
        check_arguments(arguments)?;
        check_places(secrets)?;
        let Inner { cluster, config, environment, name, template, .. } = &*self.inner;
        // Set before the request: if the answer is lost, the Job may exist all the same.
        if std::mem::replace(&mut self.state().made, true) {
            return Err(Error::new(Class::PluginRefused, "the plugin launches a second Job; only one is allowed"));
        }
        let namespace = config.namespace.as_str();
        let names: BTreeMap<String, String> =
            secrets.iter().map(|(place, _)| (place.clone(), format!("{name}-{place}"))).collect();
        let plan = Plan { name, environment, arguments, secrets: &names };
        let job = template::compose(config, template, &plan)?;
        let created = cluster.create(JOBS, namespace, &job).await?;
        let created = created.ok_or_else(|| Error::unexpected(format!("the Job {} already exists", self.shown())))?;
        let uid = created.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default();
        for (place, lent) in secrets {
            let secret = job_secret(name, uid, &format!("{name}-{place}"), environment, &lent.sealed);
            if cluster.create(SECRETS, namespace, &secret).await?.is_none() {
                return Err(Error::unexpected(format!("the Secret {name}-{place} already exists")));
            }
        }
        if !secrets.is_empty() {
            let life = json!({ "spec": { "activeDeadlineSeconds": config.limit(template) } });
            cluster.patch(JOBS, namespace, name, &life).await?;
        }
        tracing::info!(job = self.shown(), "started in {}", cluster.shown());
        Ok(())
    }

    /// Follows the Job to its end.
    ///
    /// # Errors
    /// The cluster's reason, if the Job never started or ended without its container.
    pub async fn follow(&self) -> Result<Ended> {
        let Inner { cluster, config, name, container, .. } = &*self.inner;
        let followed = Followed {
            namespace: config.namespace.clone(),
            job: name.clone(),
            container: container.clone(),
            patience: Duration::from_secs(config.patience_seconds),
        };
        let ended = follow::follow(cluster, &followed, &self.inner.result).await?;
        self.state().ended = Some(ended.clone());
        Ok(ended)
    }

    /// Deletes the Job, if it may exist, together with its pod and its Secrets.
    pub async fn remove(&self) {
        if !std::mem::take(&mut self.state().made) {
            return;
        }
        let Inner { cluster, config, name, .. } = &*self.inner;
        let deleted = cluster.delete(JOBS, config.namespace.as_str(), name);
        let why = match tokio::time::timeout(REMOVAL_TIMEOUT, deleted).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", REMOVAL_TIMEOUT.as_secs()),
        };
        tracing::warn!(
            "could not delete the Job {}; the cluster removes it some minutes after it ends: {why}",
            self.shown()
        );
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn cron_job_template(cluster: &Cluster, cron_job: &Reference) -> Result<Value> {
    for kind in CRON_JOBS {
        let found = cluster.get(kind, cron_job.namespace.as_str(), &cron_job.name).await?;
        if let Some(template) = found.and_then(|found| found.pointer("/spec/jobTemplate").cloned()) {
            return Ok(template);
        }
    }
    Err(Error::config(format!("{} has no CronJob {cron_job}", cluster.shown()))
        .hint("install the chart, or describe the Job in [env.….job.template]"))
}

fn check_arguments(arguments: &[String]) -> Result<()> {
    let refused = |why: String| Err(Error::new(Class::PluginRefused, why));
    for (number, argument) in arguments.iter().enumerate() {
        if !ARGUMENTS.contains(&argument.as_str()) {
            let shown = printable(argument);
            return refused(format!("the plugin passes the Job `{shown}`; only {} are allowed", ARGUMENTS.join(", ")));
        }
        if arguments.iter().take(number).any(|before| before == argument) {
            return refused(format!("the plugin passes the Job `{argument}` twice"));
        }
    }
    Ok(())
}

fn check_places(secrets: &[(String, Lent)]) -> Result<()> {
    for (number, (place, lent)) in secrets.iter().enumerate() {
        if *place != lent.place {
            let shown = printable(place);
            return Err(Error::new(
                Class::PluginRefused,
                format!("the plugin puts the Secret of `{}` at `{shown}`", lent.place),
            ));
        }
        if secrets.iter().take(number).any(|(before, _)| before == place) {
            return Err(Error::new(Class::PluginRefused, format!("the plugin puts two Secrets at `{place}`")));
        }
    }
    Ok(())
}

/// A copy of a Secret that is owned by the Job. The values are copied as they were read.
fn job_secret(job: &str, uid: &str, name: &str, environment: &str, sealed: &Sealed) -> Value {
    let data: Map<String, Value> =
        sealed.values().iter().map(|(key, value)| (key.clone(), json!(value.expose_secret()))).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": name,
            "labels": { "dolibarr-backup/environment": environment, "dolibarr-backup/run": "one-shot" },
            "ownerReferences": [{
                "apiVersion": "batch/v1", "kind": "Job", "name": job, "uid": uid, "controller": true,
            }],
        },
        "immutable": true,
        "type": "Opaque",
        "data": data,
    })
}
