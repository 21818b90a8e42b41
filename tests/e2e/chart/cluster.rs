//! A real API server accepts the chart's objects and enforces the rights of their accounts.

use super::{of_kind, prod, prod_with, render};
use serde_json::{Value, json};
use tests::helm::Helm;
use tests::kubernetes::Kubernetes;

/// The account that a release named `erp` runs its backups as.
const ACCOUNT: &str = "erp-dolibarr-backup";

/// The Job that initialises its store.
const INIT: &str = "erp-dolibarr-backup-init";

/// The Secrets that a release refers to.
const SECRETS: [&str; 2] = ["erp-dolibarr-backup-store", "vso-db-credentials"];

/// Renders a release of an environment and applies it, without what the API server does not know yet.
fn install(engine: &Helm, cluster: &Kubernetes, environment: &str, namespace: &str) {
    let values = prod_with(&[
        ("environment", environment.into()),
        ("kubernetesApi", json!({"enabled": true})),
        ("coverage", json!({"enabled": true, "longhornNamespace": namespace})),
        ("launchers", json!([{"kind": "User", "name": "lea"}])),
        ("watchers", json!([{"kind": "User", "name": "wim"}])),
    ]);
    let request = json!([{"helm": 4, "name": "erp", "namespace": namespace, "values": values}]);
    let answer = engine.ask(&request).unwrap().remove(0);
    let documents = answer["documents"].as_array().unwrap_or_else(|| panic!("{answer}"));
    // As Helm does: accounts before the objects that use them.
    let mut items: Vec<_> = documents.iter().filter_map(known).collect();
    items.sort_by_key(|item| item["kind"] != "ServiceAccount");
    cluster.apply(&json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string());
    for secret in SECRETS {
        let create =
            ["create", "secret", "generic", secret, "--namespace", namespace, "--from-literal=password=canary"];
        cluster.kubectl(&create, "");
    }
}

/// A document in a form for Kubernetes 1.20: the Job of a CronJob, and Jobs without a policy for failed pods.
fn known(document: &Value) -> Option<Value> {
    match document["kind"].as_str() {
        Some("VaultStaticSecret") => None,
        Some("CronJob") => {
            let mut spec = document["spec"]["jobTemplate"]["spec"].clone();
            spec.as_object_mut()?.remove("podFailurePolicy");
            let metadata = document["metadata"].clone();
            Some(json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}))
        }
        Some("Job") => {
            let mut job = document.clone();
            job["spec"].as_object_mut()?.remove("podFailurePolicy");
            Some(job)
        }
        _ => Some(document.clone()),
    }
}

fn account(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}

#[test]
fn the_api_server_takes_the_objects_and_makes_the_pods() {
    let Some(engine) = Helm::installed() else { return };
    let Some(cluster) = Kubernetes::shared() else { return };
    tests::skip(
        "CronJobs and policies on failed pods are not in Kubernetes 1.20; their Jobs and the schemas are tested",
    );
    let namespace = cluster.namespace();
    install(&engine, &cluster, "prod", &namespace);
    for job in ["", "-init", "-verify", "-drill", "-status"].map(|verb| format!("{ACCOUNT}{verb}")) {
        let pod = cluster.wait(&format!("the pod of {job}"), || {
            let pods = cluster.list("pods", &namespace);
            pods.into_iter().find(|pod| pod["metadata"]["labels"]["job-name"] == job.as_str())
        });
        assert_eq!(pod["spec"]["securityContext"]["runAsNonRoot"], true, "{pod}");
        let token = pod["spec"]["volumes"].as_array().unwrap().iter().any(|volume| {
            volume["name"].as_str().is_some_and(|name| name.contains("token") || name.contains("kube-api-access"))
        });
        assert_eq!(token, [ACCOUNT, INIT].contains(&job.as_str()), "{job}: whether its pod has a token");
    }
}

#[test]
fn the_command_in_the_notes_turns_the_backups_job_into_another_verbs() {
    let Some(engine) = Helm::installed() else { return };
    let Some(cluster) = Kubernetes::shared() else { return };
    let answer = render(&engine, &prod_with(&[("init", json!({"enabled": false}))]));
    let notes = answer["notes"].as_str().unwrap();
    let patch = notes.split("--patch='").nth(1).unwrap().split('\'').next().unwrap();
    let documents = answer["documents"].as_array().unwrap();
    let mut backup = known(of_kind(documents, "CronJob")[0]).unwrap();
    let arguments = ["patch", "--local", "--filename=-", "--type=json", "--output=json", "--patch", patch];
    let patched: Value = serde_json::from_str(&cluster.kubectl(&arguments, &backup.to_string())).unwrap();
    let init = super::documents(&engine, &prod());
    let container = "/spec/template/spec/containers/0/args";
    let expected = of_kind(&init, "Job")[0].pointer(container).unwrap();
    *backup.pointer_mut(container).unwrap() = expected.clone();
    assert_eq!(patched, backup, "the arguments of the Job `init`, and nothing else changed");
}

#[test]
fn the_sandboxs_accounts_can_read_and_change_nothing_of_prods() {
    let Some(engine) = Helm::installed() else { return };
    let Some(cluster) = Kubernetes::shared() else { return };
    let (prod, sandbox) = (cluster.namespace(), cluster.namespace());
    install(&engine, &cluster, "prod", &prod);
    install(&engine, &cluster, "sandbox", &sandbox);
    let whoami = account(&sandbox, ACCOUNT);
    for (namespace, secret) in
        [&prod, &sandbox].into_iter().flat_map(|namespace| SECRETS.map(|secret| (namespace, secret)))
    {
        let get = ["get", "secret", secret, "--namespace", namespace, "--output=yaml", "--as", &whoami];
        let refused = cluster.try_kubectl(&get, "").expect_err("a Secret was read").to_string();
        assert!(refused.contains("Forbidden"), "{refused}");
    }
    let may = |who: &str, verb: &str, what: &str, namespace: &str| {
        let ask = ["auth", "can-i", verb, what, "--namespace", namespace, "--as", who];
        cluster.try_kubectl(&ask, "").is_ok()
    };
    assert!(may(&whoami, "get", "leases.coordination.k8s.io/dolibarr-backup-sandbox", &sandbox));
    assert!(may(&whoami, "create", "leases.coordination.k8s.io", &sandbox));
    let nothing = [
        ("get", "leases.coordination.k8s.io/dolibarr-backup-sandbox"),
        ("create", "leases.coordination.k8s.io"),
        ("list", "secrets"),
        ("create", "secrets"),
        ("create", "pods"),
        ("create", "jobs.batch"),
        ("get", "configmaps"),
        ("list", "persistentvolumeclaims"),
        ("delete", "persistentvolumeclaims"),
    ];
    let coverage = account(&sandbox, &format!("{ACCOUNT}-coverage"));
    for (verb, what) in nothing {
        for who in [&whoami, &coverage] {
            assert!(!may(who, verb, what, &prod), "{who} may {verb} {what} in prod's namespace");
        }
    }
    assert!(!may(&whoami, "get", "leases.coordination.k8s.io/other", &sandbox), "the account may read another lease");
    assert!(
        may(&coverage, "list", "persistentvolumeclaims", &sandbox)
            && may(&coverage, "list", "persistentvolumes", &sandbox)
    );
    assert!(
        !may(&coverage, "get", "secrets", &sandbox)
            && !may(&coverage, "create", "leases.coordination.k8s.io", &sandbox)
    );
}

#[test]
fn a_launcher_may_start_the_job_and_no_more() {
    let Some(engine) = Helm::installed() else { return };
    let Some(cluster) = Kubernetes::shared() else { return };
    let namespace = cluster.namespace();
    install(&engine, &cluster, "prod", &namespace);
    let may = |verb: &str, what: &str| {
        cluster.try_kubectl(&["auth", "can-i", verb, what, "--namespace", &namespace, "--as", "lea"], "").is_ok()
    };
    let table = [
        ("get", "cronjobs.batch/erp-dolibarr-backup", true),
        ("get", "cronjobs.batch/another", false),
        ("patch", "cronjobs.batch/erp-dolibarr-backup", false),
        ("create", "jobs.batch", true),
        ("delete", "jobs.batch", true),
        ("create", "secrets", true),
        ("get", "secrets/vso-db-credentials", false),
        ("list", "secrets", false),
        ("list", "pods", true),
        ("list", "events", true),
        ("create", "pods", false),
        ("get", "configmaps", false),
    ];
    for (verb, what, allowed) in table {
        assert_eq!(may(verb, what), allowed, "{verb} {what}");
    }
    let log = ["auth", "can-i", "get", "pods", "--subresource=log", "--namespace", &namespace, "--as", "lea"];
    assert!(cluster.try_kubectl(&log, "").is_ok());
}

#[test]
fn a_watcher_may_find_instances_and_read_the_key_of_the_store_and_no_more() {
    let Some(engine) = Helm::installed() else { return };
    let Some(cluster) = Kubernetes::shared() else { return };
    let (prod, other) = (cluster.namespace(), cluster.namespace());
    install(&engine, &cluster, "prod", &prod);
    let may = |verb: &str, what: &str, namespace: &str| {
        cluster.try_kubectl(&["auth", "can-i", verb, what, "--namespace", namespace, "--as", "wim"], "").is_ok()
    };
    let store = "secrets/erp-dolibarr-backup-store";
    let table = [
        ("list", "configmaps", true),
        ("get", store, true),
        ("patch", store, false),
        ("list", "secrets", false),
        ("get", "secrets/vso-db-credentials", false),
        ("patch", "configmaps", false),
        ("create", "jobs.batch", false),
        ("list", "pods", false),
    ];
    for (verb, what, allowed) in table {
        assert_eq!(may(verb, what, &prod), allowed, "{verb} {what}");
        assert!(!may(verb, what, &other), "{verb} {what} in another namespace");
    }
}
