//! A lease on `coordination.k8s.io`: runs of one environment exclude each other in the cluster too, besides the store's lease.
//!
//! No clock is compared with another machine's. A lease that somebody holds is watched for as long as it says that it lasts:
//! if it is renewed in that time, somebody lives; if not, it is taken over. Every write names the version that it
//! replaces, so of two that take it at once one does.

use super::client::LEASES;
use super::{Cluster, Namespace};
use base::clock::since_boot;
use base::error::{Class, Error, Result};
use base::text::printable;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio_util::task::AbortOnDropHandle;

/// How long a lease lasts that nobody renews, and so how long a run waits after one that died.
const LIFE: Duration = Duration::from_secs(30);

/// How often it is renewed: two renewals may fail before it ends.
const RENEWAL: Duration = Duration::from_secs(8);

/// How often a lease that somebody holds is looked at.
const POLL: Duration = Duration::from_secs(1);

/// Longest life that another holder's lease is believed.
const LIFE_SECONDS_MAX: u64 = 300;

/// How often one that is taken by others at the same time is tried for.
const TRIES_MAX: u32 = 10;

/// A held lease. Dropping it stops the renewal and lets it end by itself; [`ClusterLease::release`] gives it back.
#[derive(Debug)]
pub struct ClusterLease {
    held: Arc<Held>,
    renewal: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct Held {
    cluster: Cluster,
    namespace: Namespace,
    name: String,
    /// As it was last written.
    object: tokio::sync::Mutex<Value>,
    lost: AtomicBool,
    /// When the last renewal that succeeded began, in milliseconds since the machine was started: a machine that slept may
    /// have been overtaken.
    renewed_millis: AtomicU64,
}

/// What a lease looks like from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Other {
    holder: String,
    version: String,
    life: Duration,
}

impl ClusterLease {
    /// Takes the lease of an environment, and waits for one that died. `holder` names this process; `now` is only written.
    ///
    /// # Errors
    /// [`Class::Held`] when somebody renews it; the cluster's.
    pub async fn take(
        cluster: Cluster,
        namespace: &Namespace,
        environment: &str,
        holder: &str,
        now: impl Fn() -> Timestamp + Send + Sync + 'static,
    ) -> Result<Self> {
        let name = format!("dolibarr-backup-{environment}");
        for _ in 0..TRIES_MAX {
            let before = cluster.get(LEASES, namespace.as_str(), &name).await?;
            if let Some(object) = &before {
                wait_for_its_end(&cluster, namespace, &name, object).await?;
            }
            let wanted = taken(before.as_ref(), &name, holder, now());
            let began = since_boot();
            let written = match before {
                Some(_) => cluster.replace(LEASES, namespace.as_str(), &name, &wanted).await?,
                None => cluster.create(LEASES, namespace.as_str(), &wanted).await?,
            };
            let Some(object) = written else { continue };
            let held = Held {
                cluster,
                namespace: namespace.clone(),
                name,
                object: tokio::sync::Mutex::new(object),
                lost: AtomicBool::new(false),
                renewed_millis: AtomicU64::new(began),
            };
            let held = Arc::new(held);
            let renewal = AbortOnDropHandle::new(tokio::spawn(renew(Arc::clone(&held), now)));
            return Ok(Self { held, renewal });
        }
        Err(Error::new(Class::Held, format!("others take the lease {namespace}/{name} again and again"))
            .hint("wait for them to end"))
    }

    /// Whether it still holds; asked before anything is committed or deleted.
    ///
    /// # Errors
    /// [`Class::Unavailable`] when it could not be renewed for so long that another run may have taken over.
    pub fn check(&self) -> Result<()> {
        let silent = since_boot().saturating_sub(self.held.renewed_millis.load(Ordering::Acquire));
        if !self.held.lost.load(Ordering::Relaxed) && u128::from(silent) < LIFE.as_millis() {
            return Ok(());
        }
        Err(Error::unavailable(format!("the lease {} was lost while the run went on", self.held.shown()))
            .hint("nothing was committed; run it again when the cluster answers"))
    }

    /// Gives it back. A cluster that does not answer now lets it end by itself.
    pub async fn release(self) {
        drop(self.renewal);
        if self.held.lost.load(Ordering::Relaxed) {
            return;
        }
        let mut object = self.held.object.lock().await;
        object["spec"]["holderIdentity"] = json!("");
        if let Err(error) = self.held.write(&object).await {
            let life = LIFE.as_secs();
            tracing::warn!("the lease {} could not be given back and ends in {life} s: {error}", self.held.shown());
        }
    }
}

impl Held {
    fn shown(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    async fn write(&self, object: &Value) -> Result<Option<Value>> {
        self.cluster.replace(LEASES, self.namespace.as_str(), &self.name, object).await
    }
}

async fn renew(held: Arc<Held>, now: impl Fn() -> Timestamp + Send) {
    loop {
        tokio::time::sleep(RENEWAL).await;
        let began = since_boot();
        let mut object = held.object.lock().await;
        object["spec"]["renewTime"] = json!(moment(now()));
        match held.write(&object).await {
            Ok(Some(written)) => {
                *object = written;
                held.renewed_millis.fetch_max(began, Ordering::AcqRel);
            }
            Ok(None) => {
                tracing::warn!("somebody else took the lease {}", held.shown());
                held.lost.store(true, Ordering::Relaxed);
                return;
            }
            Err(error) => tracing::warn!("the lease {} could not be renewed: {error}", held.shown()),
        }
        let silent = Duration::from_millis(since_boot().saturating_sub(held.renewed_millis.load(Ordering::Acquire)));
        if silent + RENEWAL >= LIFE {
            held.lost.store(true, Ordering::Relaxed);
        }
    }
}

/// Returns at once where nobody holds it, and once a holder was silent for the whole life of its lease.
async fn wait_for_its_end(cluster: &Cluster, namespace: &Namespace, name: &str, object: &Value) -> Result<()> {
    let Some(first) = other(object) else { return Ok(()) };
    let since = Instant::now();
    tracing::info!("the lease {namespace}/{name} is held by {}; waiting whether it is renewed", first.holder);
    while since.elapsed() < first.life {
        tokio::time::sleep(POLL).await;
        let Some(now) = cluster.get(LEASES, namespace.as_str(), name).await? else { return Ok(()) };
        match other(&now) {
            None => return Ok(()),
            Some(now) if now.version != first.version => {
                return Err(Error::new(Class::Held, format!("{} holds the lease {namespace}/{name}", now.holder))
                    .hint("wait for it to end; if it dies, its lease ends by itself"));
            }
            Some(_) => {}
        }
    }
    tracing::warn!("{} did not renew the lease {namespace}/{name} and is taken for dead", first.holder);
    Ok(())
}

/// Who holds it; none where nobody does.
fn other(object: &Value) -> Option<Other> {
    let holder = object.pointer("/spec/holderIdentity").and_then(Value::as_str).filter(|holder| !holder.is_empty())?;
    let seconds = object.pointer("/spec/leaseDurationSeconds").and_then(Value::as_u64).unwrap_or(LIFE.as_secs());
    let version = object.pointer("/metadata/resourceVersion").and_then(Value::as_str).unwrap_or_default();
    Some(Other {
        holder: printable(holder),
        version: version.to_owned(),
        life: Duration::from_secs(seconds.min(LIFE_SECONDS_MAX)),
    })
}

/// The lease in this process's name, in place of the one before.
fn taken(before: Option<&Value>, name: &str, holder: &str, now: Timestamp) -> Value {
    let fresh = || {
        json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": { "name": name },
            "spec": { "leaseTransitions": -1 },
        })
    };
    let mut object = before.cloned().unwrap_or_else(fresh);
    let transitions = object.pointer("/spec/leaseTransitions").and_then(Value::as_i64).unwrap_or(0);
    object["spec"] = json!({
        "holderIdentity": holder,
        "leaseDurationSeconds": LIFE.as_secs(),
        "acquireTime": moment(now),
        "renewTime": moment(now),
        "leaseTransitions": transitions.saturating_add(1),
    });
    object
}

/// As the API server writes times of leases.
fn moment(now: Timestamp) -> String {
    format!("{now:.6}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_that_nobody_holds_is_free_and_another_one_is_believed_for_a_while_at_most() {
        assert_eq!(other(&json!({ "spec": {} })), None);
        assert_eq!(other(&json!({ "spec": { "holderIdentity": "" } })), None);
        let held = json!({
            "metadata": { "resourceVersion": "7" },
            "spec": { "holderIdentity": "a\u{1b}", "leaseDurationSeconds": 86_400 },
        });
        let other = other(&held).unwrap();
        assert_eq!((other.version.as_str(), other.life.as_secs()), ("7", LIFE_SECONDS_MAX));
        assert!(!other.holder.contains('\u{1b}'));
    }

    #[test]
    fn taking_over_counts_and_keeps_the_version_that_it_replaces() {
        let now = "2026-06-30T01:00:00Z".parse().unwrap();
        let first = taken(None, "dolibarr-backup-prod", "a", now);
        assert_eq!(first["spec"]["leaseTransitions"], 0);
        assert_eq!(first["spec"]["renewTime"], "2026-06-30T01:00:00.000000Z");
        let mut before = first;
        before["metadata"]["resourceVersion"] = json!("7");
        let second = taken(Some(&before), "dolibarr-backup-prod", "b", now);
        assert_eq!(
            (&second["metadata"]["resourceVersion"], &second["spec"]["leaseTransitions"]),
            (&json!("7"), &json!(1))
        );
    }
}
