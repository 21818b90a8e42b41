//! Runs of one environment exclude each other in the cluster, in addition to the store's lease.

use super::Laptop;
use crate::scene::complains;
use serde_json::{Value, json};
use std::time::Duration;

const RULES: &str = "- { apiGroups: [coordination.k8s.io], resources: [leases], verbs: [get, create, update] }";

impl Laptop {
    fn lease(&self) -> Option<Value> {
        let found = ["get", "lease", "dolibarr-backup-prod", "--namespace", &self.namespace, "--output", "json"];
        let text = self.cluster.try_kubectl(&found, "").ok()?;
        Some(serde_json::from_str(&text).unwrap())
    }

    /// Makes another run the holder of the lease.
    fn hold(&self, renewed: u32) {
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": { "name": "dolibarr-backup-prod", "namespace": self.namespace },
            "spec": {
                "holderIdentity": "another-run", "leaseDurationSeconds": 5, "leaseTransitions": renewed,
                "renewTime": format!("2020-01-01T00:00:{renewed:02}.000000Z"),
            },
        });
        self.cluster.apply(&lease.to_string());
    }
}

#[test]
fn a_lease_in_the_cluster_is_held_renewed_given_back_and_taken_over_from_the_dead() {
    let Some(laptop) = Laptop::new() else { return };
    laptop.write("");
    let configuration = laptop.folder.path().join("dolibarr-backup.toml");
    let text = std::fs::read_to_string(&configuration).unwrap();
    let _ = laptop.command(["init", "--env", "prod"]).finish().expect_code(0);
    let place = format!("[kubernetes]\nlease_namespace = \"{}\"", laptop.namespace);
    std::fs::write(&configuration, text.replace("[kubernetes]", &place)).unwrap();
    std::fs::write(laptop.folder.path().join("documents/FA2601-0001.pdf"), "%PDF-1.4").unwrap();
    let backup = || laptop.command(["backup", "--env", "prod"]).without_init();

    complains(&backup().finish(), 64, "get leases.coordination.k8s.io `dolibarr-backup-prod`");
    laptop.cluster.grant(&laptop.user, Some(&laptop.namespace), RULES);
    let _ = backup().finish().expect_code(0);
    let lease = laptop.lease().unwrap();
    assert!(lease["spec"]["holderIdentity"].as_str().unwrap_or_default().is_empty(), "not released: {lease}");
    assert_eq!(lease["spec"]["leaseTransitions"], 0);

    // A holder that renews its lease is alive, whatever time its clock shows.
    laptop.hold(1);
    let before = laptop.cluster.audit(&laptop.user).len();
    let run = backup().start();
    laptop.cluster.wait("look at the lease", || (laptop.cluster.audit(&laptop.user).len() > before).then_some(()));
    laptop.hold(2);
    let held = run.finish();
    complains(&held, 11, "another-run holds the lease");
    assert!(held.elapsed < Duration::from_secs(20), "{:?}", held.elapsed);

    // A holder that does not renew its lease is dead.
    let taken_over = backup().finish().expect_code(0);
    assert!(taken_over.stderr.contains("taking it over"), "{}", taken_over.stderr);
    assert_eq!(laptop.lease().unwrap()["spec"]["leaseTransitions"], 3);
}
