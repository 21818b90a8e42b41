//! A backup as a Job: made with a short life, given its Secret, given its time, followed, and taken away.
//!
//! In this order, so that whatever ends this process leaves nothing that the cluster does not remove by itself: the Job has
//! a deadline from the start and a time to live after its end, and owns the Secret.

use super::client::{JOBS, Kind, SECRETS};
use super::follow::{self, Ended, Followed};
use super::template::{self, Config, Plan};
use super::{Cluster, Reference};
use base::error::{Class, Error, Result};
use base::secret::{ExposeSecret, Sealed};
use base::text::printable;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What a plugin may add to the command that the host writes.
const ARGUMENTS: [&str; 3] = ["--force", "--dry-run", "--json"];

/// CronJobs, in the versions that servers know them by; the second is that of servers before 1.21.
const CRON_JOBS: [Kind; 2] = [Kind::new("batch", "v1", "cronjobs"), Kind::new("batch", "v1beta1", "cronjobs")];

/// How long it may take to give a Job back.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(15);

/// One Job that may be made. Every copy is the same one.
#[derive(Debug, Clone)]
pub struct OneShot {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    cluster: Cluster,
    config: Config,
    environment: String,
    name: String,
    /// A CronJob's `jobTemplate`.
    template: Value,
    container: String,
    state: Mutex<State>,
    /// What the Job's command printed as its result.
    result: Mutex<Option<Value>>,
}

/// How far it has come.
#[derive(Debug, Default)]
struct State {
    /// Its name may be taken in the cluster.
    made: bool,
    ended: Option<Ended>,
}

/// A borrowed Secret for one place of a Job.
#[derive(Debug, Clone)]
pub struct Lent {
    place: String,
    sealed: Arc<Sealed>,
}

impl Lent {
    /// The place that it is for.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }
}

impl OneShot {
    /// Finds the template. `stamp` and `random` make the Job's name its own.
    ///
    /// # Errors
    /// [`Class::Config`] when there is no such CronJob, or it has no container that backs up.
    pub async fn prepare(
        cluster: Cluster,
        config: &Config,
        environment: &str,
        stamp: &str,
        random: u32,
    ) -> Result<Self> {
        config.check()?;
        let template = match (&config.cron_job, &config.template) {
            (Some(name), _) => {
                let of = Reference { namespace: config.namespace.clone(), name: name.clone() };
                installed(&cluster, &of).await?
            }
            (None, Some(own)) => own.job_template(),
            (None, None) => return Err(Error::config("the Job has no template")),
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
    /// [`Class::Config`] when one is missing or may not be read.
    pub async fn borrow_secrets(&self) -> Result<Vec<Lent>> {
        let mut lent = Vec::new();
        for (place, borrowed) in &self.inner.config.secrets {
            let sealed = super::secret::read(&self.inner.cluster, &borrowed.from).await?.only(&borrowed.keys)?;
            lent.push(Lent { place: place.clone(), sealed: Arc::new(sealed) });
        }
        Ok(lent)
    }

    /// Namespace and name of the Job.
    #[must_use]
    pub fn shown(&self) -> String {
        format!("{}/{}", self.inner.config.namespace, self.inner.name)
    }

    /// For the tally: the environment.
    #[must_use]
    pub fn scope(&self) -> &str {
        &self.inner.environment
    }

    /// What the Job's command printed as its result, if it did.
    #[must_use]
    pub fn take_result(&self) -> Option<Value> {
        self.inner.result.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// How it ended, as the host saw it.
    #[must_use]
    pub fn ended(&self) -> Option<Ended> {
        self.state().ended.clone()
    }

    /// Makes the Job and its Secrets, and lets it run.
    ///
    /// # Errors
    /// [`Class::PluginRefused`] for what a plugin may not ask; the cluster's.
    pub async fn launch(&self, arguments: &[String], secrets: &[(String, Lent)]) -> Result<()> {
        check_arguments(arguments)?;
        check_places(secrets)?;
        let Inner { cluster, config, environment, name, template, .. } = &*self.inner;
        // Before it is asked for: the answer may be lost, and the Job be there.
        if std::mem::replace(&mut self.state().made, true) {
            return Err(Error::new(Class::PluginRefused, "the plugin launches a second Job, and one was asked for"));
        }
        let namespace = config.namespace.as_str();
        let names: BTreeMap<String, String> =
            secrets.iter().map(|(place, _)| (place.clone(), format!("{name}-{place}"))).collect();
        let plan = Plan { name, environment, arguments, secrets: &names };
        let job = template::compose(config, template, &plan)?;
        let made = cluster.create(JOBS, namespace, &job).await?;
        let made = made.ok_or_else(|| Error::unexpected(format!("a Job {} exists already", self.shown())))?;
        let uid = made.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default();
        for (place, lent) in secrets {
            let secret = transient(name, uid, &format!("{name}-{place}"), environment, &lent.sealed);
            if cluster.create(SECRETS, namespace, &secret).await?.is_none() {
                return Err(Error::unexpected(format!("a Secret {name}-{place} exists already")));
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
    /// Why it never began, or ended without its container: one sentence with the cluster's reason.
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

    /// Deletes the Job, if it may be there, and with it its pod and its Secrets.
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
            "the Job {} was not deleted; the cluster does it some minutes after its end: {why}",
            self.shown()
        );
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn installed(cluster: &Cluster, of: &Reference) -> Result<Value> {
    for kind in CRON_JOBS {
        let found = cluster.get(kind, of.namespace.as_str(), &of.name).await?;
        if let Some(template) = found.and_then(|found| found.pointer("/spec/jobTemplate").cloned()) {
            return Ok(template);
        }
    }
    Err(Error::config(format!("{} has no CronJob {of}", cluster.shown()))
        .hint("install the chart, or describe the Job in [env.….job.template]"))
}

fn check_arguments(arguments: &[String]) -> Result<()> {
    let refused = |why: String| Err(Error::new(Class::PluginRefused, why));
    for (number, argument) in arguments.iter().enumerate() {
        if !ARGUMENTS.contains(&argument.as_str()) {
            let shown = printable(argument);
            return refused(format!("the plugin gives the Job `{shown}`, which is none of {}", ARGUMENTS.join(", ")));
        }
        if arguments.iter().take(number).any(|before| before == argument) {
            return refused(format!("the plugin gives the Job `{argument}` twice"));
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

/// The copy of a Secret that the Job owns. The values stay as they were read.
fn transient(job: &str, uid: &str, name: &str, environment: &str, sealed: &Sealed) -> Value {
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
