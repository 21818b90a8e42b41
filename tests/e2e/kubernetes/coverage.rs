//! Finds volumes without a backup in a cluster with Longhorn's kinds.

use super::Laptop;
use crate::scene::complains;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// The rights of `coverage`. docs/kubernetes.md has the same list.
const RULES: &str = "\
- { apiGroups: [''], resources: [persistentvolumeclaims, persistentvolumes], verbs: [list] }
- { apiGroups: [longhorn.io], resources: [volumes, recurringjobs, backups], verbs: [list] }
- { apiGroups: [snapshot.storage.k8s.io], resources: [volumesnapshots], verbs: [list] }";

impl Laptop {
    fn look(&self, more: &str) {
        self.write(&format!("[coverage]\nnamespaces = [\"{}\"]\n{more}", self.namespace));
    }

    fn claim(&self, name: &str, volume: &str, csi: &Value) {
        let size = json!({ "storage": "10Gi" });
        let reference = json!({ "namespace": self.namespace, "name": name });
        let volume_object = json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": { "name": volume },
            "spec": { "capacity": size, "accessModes": ["ReadWriteOnce"], "claimRef": reference, "csi": csi },
        });
        let claim = json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": { "name": name, "namespace": self.namespace },
            "spec": {
                "accessModes": ["ReadWriteOnce"], "storageClassName": "longhorn", "volumeName": volume,
                "resources": { "requests": size },
            },
        });
        self.cluster.apply(&volume_object.to_string());
        self.cluster.apply(&claim.to_string());
    }

    /// Serves Longhorn's objects: one volume in the group `default`, one backup job, and backups.
    fn longhorn(&self, groups: &Value, backups: &[Value]) {
        let docs = format!("{}-docs", self.namespace);
        let labels = json!({ "recurring-job-group.longhorn.io/default": "enabled", "longhornvolume": docs });
        let volume = json!({ "metadata": { "name": docs, "labels": labels }, "status": { "lastBackupAt": "" } });
        let nightly = json!({
            "metadata": { "name": "nightly" },
            "spec": { "name": "nightly", "task": "backup", "cron": "0 1 * * *", "groups": groups },
        });
        let kinds = BTreeMap::from([
            ("volumes", vec![volume]),
            ("recurringjobs", vec![nightly]),
            ("backups", backups.to_vec()),
        ]);
        self.kubelet.serve("longhorn.io", "v1beta2", &self.storage, &kinds);
    }
}

#[test]
fn a_volume_that_no_backup_covers_is_found_and_named() {
    let Some(laptop) = Laptop::new() else { return };
    let longhorn = format!("longhorn_namespace = \"{}\"\n", laptop.storage);
    laptop.look(&longhorn);
    let coverage = || laptop.command(["coverage", "--json"]).finish();
    complains_in_json(&coverage(), 64, "does not allow it");
    laptop.cluster.grant(&laptop.user, None, RULES);

    // Without Longhorn nothing covers a volume.
    laptop.claim(
        "files",
        &format!("{}-files", laptop.namespace),
        &json!({ "driver": "ebs.csi.aws.com", "volumeHandle": "v" }),
    );
    let found = coverage();
    assert_eq!(found.code, Some(4), "{}", found.stderr);
    assert!(found.json()["notes"][0].as_str().unwrap().contains("Longhorn is not installed"));

    // As found in a real cluster: the volume is only in the group `default`, and the one backup job serves no group.
    let handle = format!("{}-docs", laptop.namespace);
    laptop.claim("docs", &handle, &json!({ "driver": "driver.longhorn.io", "volumeHandle": handle }));
    laptop.longhorn(&json!([]), &[]);
    let found = coverage();
    assert_eq!(found.code, Some(4), "{}", found.stderr);
    let document = found.json();
    let docs = volume(&document, "docs");
    assert_eq!(
        (&docs["state"], &docs["last_backup"], &docs["bytes"]),
        (&json!("uncovered"), &Value::Null, &json!(10_u64 << 30))
    );
    for part in ["only in the group `default`", "`nightly` serves no group", "never backed up"] {
        assert!(docs["reason"].as_str().unwrap().contains(part), "{docs}");
    }
    assert_eq!((&document["jobs"][0]["name"], &document["groups"][0]["name"]), (&json!("nightly"), &json!("default")));
    let uncovered: BTreeSet<&str> =
        document["uncovered"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!(uncovered.len(), 2, "{uncovered:?}");
    complains(&laptop.command(["coverage"]).finish(), 4, &format!("no backup covers {}/docs", laptop.namespace));

    // The job now serves the group, and the other volume is excluded by name.
    laptop.longhorn(&json!(["default"]), &[]);
    let excluded = format!(
        "{longhorn}[plugins.coverage]\ncomponent = \"coverage.wasm\"\ngrants = [\"kube-volumes\"]\n\
         settings = {{ exclude = [\"{}/files\"], max_age_hours = 24 }}\n",
        laptop.namespace
    );
    laptop.look(&excluded);
    assert!(volume(&coverage().json(), "docs")["reason"].as_str().unwrap().contains("it was never backed up"));
    let made = json!({ "volumeName": handle, "state": "Completed", "backupCreatedAt": "2026-06-29T22:00:00Z" });
    laptop.longhorn(&json!(["default"]), &[json!({ "metadata": { "name": "backup-1" }, "status": made })]);
    let at = |now: &str| laptop.command(["--now", now, "coverage", "--json"]).finish();
    let covered = at("2026-06-30T12:00:00Z").expect_code(0).json();
    let docs = volume(&covered, "docs");
    assert_eq!(
        (&docs["state"], &docs["served_by"][0]),
        (&json!("covered"), &json!({ "job": "nightly", "group": "default" }))
    );
    assert_eq!(volume(&covered, "files")["state"], "excluded");
    let stale = at("2026-07-02T12:00:00Z");
    assert!(stale.code == Some(4) && volume(&stale.json(), "docs")["reason"].as_str().unwrap().contains("2 days ago"));

    let audit = laptop.cluster.audit(&laptop.user);
    assert!(
        audit.len() > 10 && audit.iter().all(|event| event["verb"] == "list"),
        "every request must be a list request"
    );
}

#[test]
fn the_audit_shows_what_the_cluster_plugins_reach() {
    let Some(laptop) = Laptop::new() else { return };
    laptop.configure("[coverage]\nnamespaces = [\"erp\"]\n");
    let audit = laptop.command(["plugins", "audit", "--json", "--strict"]).finish().json();
    let reaches = |role: &str, interface: &str| {
        let plugin = audit["plugins"].as_array().unwrap().iter().find(|p| p["role"] == role).unwrap();
        let line =
            plugin["lines"].as_array().unwrap().iter().find(|l| l["interface"].as_str().unwrap().contains(interface));
        line.unwrap_or_else(|| panic!("{plugin}"))["scope"][0].as_str().unwrap().to_owned()
    };
    let job = reaches("job", "kube-job");
    assert!(job.contains(&laptop.namespace) && job.contains(&format!("{}/s3", laptop.storage)), "{job}");
    assert!(reaches("coverage", "kube-volumes").contains("claims of erp"));
}

fn volume(document: &Value, claim: &str) -> Value {
    let all = document["volumes"].as_array().unwrap_or_else(|| panic!("{document}"));
    all.iter().find(|one| one["claim"] == claim).unwrap_or_else(|| panic!("no {claim} in {document}")).clone()
}

#[track_caller]
fn complains_in_json(outcome: &tests::binary::Outcome, code: i32, says: &str) {
    assert_eq!(outcome.code, Some(code), "{}", outcome.stderr);
    assert!(outcome.stderr.contains(says), "{}", outcome.stderr);
}
