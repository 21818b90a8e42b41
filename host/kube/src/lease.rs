//! A Lease of `coordination.k8s.io`. It makes runs of one environment exclude each other in the cluster, in addition to
//! the lease in the store.
//!
//! Clocks of different machines are never compared. A lease with a holder is watched for its own duration: if it is
//! renewed in that time, the holder is alive; if not, the lease is taken over. Every write names the version that it
//! replaces, so only one of two runs that take the lease at the same time succeeds.

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

/// How long a lease lasts without renewal, and thus how long a run waits for the lease of a run that died.
const LIFE: Duration = Duration::from_secs(30);

/// Interval between renewals. Two renewals may fail before the lease expires.
const RENEWAL: Duration = Duration::from_secs(8);

/// Interval between checks of a lease that another run holds.
const POLL: Duration = Duration::from_secs(1);

/// Longest duration that is accepted for another holder's lease.
const LIFE_SECONDS_MAX: u64 = 300;

/// Attempts to take a lease while other runs take it at the same time.
const TRIES_MAX: u32 = 10;

/// A held lease. Dropping it stops the renewal, so that the lease expires; [`ClusterLease::release`] ends it at once.
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
    /// The object as it was last written.
    object: tokio::sync::Mutex<Value>,
    lost: AtomicBool,
    /// When the last successful renewal began, in milliseconds since boot including suspension, because another run may
    /// have taken over while the machine slept.
    renewed_millis: AtomicU64,
}

/// A lease that another run holds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct OtherLease {
    holder: String,
    version: String,
    life: Duration,
}

impl ClusterLease {
    /// Takes the lease of an environment, and waits if its holder may have died. `holder` names this process; `now` is
    /// only recorded.
    ///
    /// # Errors
    /// [`Class::Held`] if another run renews it; otherwise the cluster's error.
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
                wait_for_expiry(&cluster, namespace, &name, object).await?;
            }
            let lease = taken_over(before.as_ref(), &name, holder, now());
            let began = since_boot();
            let written = match before {
                Some(_) => cluster.replace(LEASES, namespace.as_str(), &name, &lease).await?,
                None => cluster.create(LEASES, namespace.as_str(), &lease).await?,
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
        Err(Error::new(Class::Held, format!("other runs keep taking the lease {namespace}/{name}"))
            .hint("wait for the other runs to end"))
    }

    /// Checks that the lease is still held. Called before anything is committed or deleted.
    ///
    /// # Errors
    /// [`Class::Unavailable`] if it could not be renewed for so long that another run may have taken it over.
    pub fn check(&self) -> Result<()> {
        let silent = since_boot().saturating_sub(self.held.renewed_millis.load(Ordering::Acquire));
        if !self.held.lost.load(Ordering::Relaxed) && u128::from(silent) < LIFE.as_millis() {
            return Ok(());
        }
        Err(Error::unavailable(format!("the lease {} was lost during the run", self.held.shown()))
            .hint("nothing was committed; run the command again when the cluster is available"))
    }

    /// Releases the lease. If the cluster does not answer, the lease expires by itself.
    pub async fn release(self) {
        drop(self.renewal);
        if self.held.lost.load(Ordering::Relaxed) {
            return;
        }
        let mut object = self.held.object.lock().await;
        object["spec"]["holderIdentity"] = json!("");
        if let Err(error) = self.held.write(&object).await {
            let life = LIFE.as_secs();
            tracing::warn!("could not release the lease {}, which expires in {life} s: {error}", self.held.shown());
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
        object["spec"]["renewTime"] = json!(micro_time(now()));
        match held.write(&object).await {
            Ok(Some(written)) => {
                *object = written;
                held.renewed_millis.fetch_max(began, Ordering::AcqRel);
            }
            Ok(None) => {
                tracing::warn!("another run took the lease {}", held.shown());
                held.lost.store(true, Ordering::Relaxed);
                return;
            }
            Err(error) => tracing::warn!("could not renew the lease {}: {error}", held.shown()),
        }
        let silent = Duration::from_millis(since_boot().saturating_sub(held.renewed_millis.load(Ordering::Acquire)));
        if silent + RENEWAL >= LIFE {
            held.lost.store(true, Ordering::Relaxed);
        }
    }
}

/// Returns immediately if nobody holds the lease, otherwise once the holder has not renewed it for its whole duration.
async fn wait_for_expiry(cluster: &Cluster, namespace: &Namespace, name: &str, object: &Value) -> Result<()> {
    let Some(first) = other_lease(object) else { return Ok(()) };
    let since = Instant::now();
    tracing::info!("the lease {namespace}/{name} is held by {}; waiting to see whether it is renewed", first.holder);
    while since.elapsed() < first.life {
        tokio::time::sleep(POLL).await;
        let Some(now) = cluster.get(LEASES, namespace.as_str(), name).await? else { return Ok(()) };
        match other_lease(&now) {
            None => return Ok(()),
            Some(now) if now.version != first.version => {
                return Err(Error::new(Class::Held, format!("{} holds the lease {namespace}/{name}", now.holder))
                    .hint("wait for that run to end; if it dies, its lease expires by itself"));
            }
            Some(_) => {}
        }
    }
    tracing::warn!("{} did not renew the lease {namespace}/{name}; taking it over", first.holder);
    Ok(())
}

/// Who holds the lease; `None` if nobody does.
fn other_lease(object: &Value) -> Option<OtherLease> {
    let holder = object.pointer("/spec/holderIdentity").and_then(Value::as_str).filter(|holder| !holder.is_empty())?;
    let seconds = object.pointer("/spec/leaseDurationSeconds").and_then(Value::as_u64).unwrap_or(LIFE.as_secs());
    let version = object.pointer("/metadata/resourceVersion").and_then(Value::as_str).unwrap_or_default();
    Some(OtherLease {
        holder: printable(holder),
        version: version.to_owned(),
        life: Duration::from_secs(seconds.min(LIFE_SECONDS_MAX)),
    })
}

/// The lease with this process as its holder, replacing `before`.
fn taken_over(before: Option<&Value>, name: &str, holder: &str, now: Timestamp) -> Value {
    let new_object = || {
        json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": { "name": name },
            "spec": { "leaseTransitions": -1 },
        })
    };
    let mut object = before.cloned().unwrap_or_else(new_object);
    let transitions = object.pointer("/spec/leaseTransitions").and_then(Value::as_i64).unwrap_or(0);
    object["spec"] = json!({
        "holderIdentity": holder,
        "leaseDurationSeconds": LIFE.as_secs(),
        "acquireTime": micro_time(now),
        "renewTime": micro_time(now),
        "leaseTransitions": transitions.saturating_add(1),
    });
    object
}

/// A time in the format of a Lease, with microseconds.
fn micro_time(now: Timestamp) -> String {
    format!("{now:.6}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_without_a_holder_is_free_and_anothers_duration_is_limited() {
        assert_eq!(other_lease(&json!({ "spec": {} })), None);
        assert_eq!(other_lease(&json!({ "spec": { "holderIdentity": "" } })), None);
        let held = json!({
            "metadata": { "resourceVersion": "7" },
            "spec": { "holderIdentity": "a\u{1b}", "leaseDurationSeconds": 86_400 },
        });
        let other = other_lease(&held).unwrap();
        assert_eq!((other.version.as_str(), other.life.as_secs()), ("7", LIFE_SECONDS_MAX));
        assert!(!other.holder.contains('\u{1b}'));
    }

    #[test]
    fn taking_over_counts_transitions_and_keeps_the_resource_version() {
        let now = "2026-06-30T01:00:00Z".parse().unwrap();
        let first = taken_over(None, "dolibarr-backup-prod", "a", now);
        assert_eq!(first["spec"]["leaseTransitions"], 0);
        assert_eq!(first["spec"]["renewTime"], "2026-06-30T01:00:00.000000Z");
        let mut before = first;
        before["metadata"]["resourceVersion"] = json!("7");
        let second = taken_over(Some(&before), "dolibarr-backup-prod", "b", now);
        assert_eq!(
            (&second["metadata"]["resourceVersion"], &second["spec"]["leaseTransitions"]),
            (&json!("7"), &json!(1))
        );
    }
}
