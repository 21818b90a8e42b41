//! If a Job cannot run, the user gets one sentence with the cluster's reason, well before any timeout, and nothing is
//! left behind.

use super::Laptop;
use crate::scene::complains;
use serde_json::{Value, json};
use std::time::Duration;
use tests::binary::Outcome;
use tests::kubernetes::Kubernetes;

/// How long a message of the cluster may take to reach the user. The default timeout is two minutes; a Job may run for
/// hours.
const SOON: Duration = Duration::from_secs(30);

const BACKUP: [&str; 3] = ["backup", "--env", "prod"];

#[test]
fn a_pod_that_does_not_start_is_told_with_the_clusters_reason() {
    let Some(laptop) = Laptop::new() else { return };
    laptop.configure("patience_seconds = 4");
    let waiting = |reason: &str, message: &str| json!({ "waiting": { "reason": reason, "message": message } });
    let back_off = "Back-off pulling image \"registry.example.org/dolibarr-backup:1\"";
    for (state, code, says) in [
        (waiting("ImagePullBackOff", back_off), 64, back_off),
        (waiting("ErrImagePull", "manifest unknown"), 64, "ErrImagePull: manifest unknown"),
        (waiting("InvalidImageName", "couldn't parse image"), 64, "couldn't parse image"),
        (waiting("CreateContainerConfigError", "secret \"db\" not found"), 64, "secret \"db\" not found"),
        (waiting("ContainerCreating", ""), 75, "its pod did not start within 4 s"),
    ] {
        let told = with_pod(&laptop, |pod| {
            laptop.kubelet.bind(pod);
            laptop.kubelet.report(pod, "Pending", &state);
        });
        soon(&laptop, &told, code, says);
    }

    let nodes = "0/3 nodes are available: 3 Insufficient memory.";
    let unschedulable =
        json!({ "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": nodes });
    let told = with_pod(&laptop, |pod| laptop.kubelet.condition(pod, &unschedulable));
    soon(&laptop, &told, 75, nodes);

    let told = with_pod(&laptop, |pod| {
        laptop.kubelet.bind(pod);
        let event = json!({
            "apiVersion": "v1", "kind": "Event", "type": "Warning", "reason": "FailedMount",
            "message": "MountVolume.SetUp failed for volume \"config\": configmap \"dolibarr-backup-prod\" not found",
            "metadata": { "generateName": "mount-", "namespace": laptop.namespace },
            "involvedObject": {
                "apiVersion": "v1", "kind": "Pod", "namespace": laptop.namespace,
                "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"],
            },
        });
        laptop.cluster.kubectl(&["create", "--filename", "-"], &event.to_string());
    });
    soon(&laptop, &told, 75, "configmap \"dolibarr-backup-prod\" not found");
}

#[test]
fn what_the_cluster_refuses_is_told_with_its_reason() {
    let Some(cluster) = Kubernetes::shared() else { return };

    let laptop = Laptop::on(&cluster);
    cluster.apply(&format!(
        "apiVersion: v1\nkind: ResourceQuota\nmetadata: {{ name: none, namespace: {} }}\nspec: {{ hard: {{ pods: '0' }} }}\n",
        laptop.namespace
    ));
    cluster.wait("quota", || {
        let quotas = cluster.list("resourcequotas", &laptop.namespace);
        quotas.first().filter(|quota| !quota["status"]["hard"].is_null()).map(drop)
    });
    soon(&laptop, &laptop.command(BACKUP).finish(), 64, "exceeded quota: none");

    let laptop = Laptop::on(&cluster);
    laptop.install_cron_job("          serviceAccountName: nobody");
    soon(&laptop, &laptop.command(BACKUP).finish(), 64, "serviceaccount \"nobody\" not found");

    let laptop = Laptop::on(&cluster);
    cluster.apply(&format!(
        "apiVersion: v1\nkind: LimitRange\nmetadata: {{ name: small, namespace: {} }}\n\
         spec: {{ limits: [{{ type: Pod, min: {{ memory: 1Gi }} }}] }}\n",
        laptop.namespace
    ));
    soon(&laptop, &laptop.command(BACKUP).finish(), 64, "minimum memory usage per Pod is 1Gi");
}

#[test]
fn what_is_missing_or_not_allowed_is_named_before_anything_is_made() {
    let Some(cluster) = Kubernetes::shared() else { return };
    let laptop = Laptop::without_rights(&cluster);
    let allow = |namespace: &str, rule: &str| cluster.grant(&laptop.user, Some(namespace), rule);
    let refused = |says: &str| soon(&laptop, &laptop.command(BACKUP).finish(), 64, says);

    refused("get cronjobs.batch `dolibarr-backup-prod` in the namespace");
    allow(&laptop.namespace, "- { apiGroups: [batch], resources: [cronjobs], verbs: [get] }");
    refused("get secrets `s3` in the namespace");
    allow(&laptop.storage, "- { apiGroups: [''], resources: [secrets], verbs: [get] }");
    refused("create jobs.batch");
    allow(&laptop.namespace, "- { apiGroups: [batch], resources: [jobs], verbs: [create, get, patch, delete] }");
    refused("create secrets");
    assert!(laptop.jobs().is_empty(), "the Job without its Secret was not deleted");

    laptop.configure(
        "secrets.more = { from = \"STORAGE/none\", mount = \"/x\" }".replace("STORAGE", &laptop.storage).as_str(),
    );
    refused("has no Secret");
    laptop.configure("");
    let text = std::fs::read_to_string(laptop.folder.path().join("dolibarr-backup.toml")).unwrap();
    let keys = text.replace("mount = \"/run/secrets/s3\"", "mount = \"/run/secrets/s3\", keys = [\"AWS_ENDPOINTS\"]");
    std::fs::write(laptop.folder.path().join("dolibarr-backup.toml"), keys).unwrap();
    refused("has no key `AWS_ENDPOINTS`");
    std::fs::write(laptop.folder.path().join("dolibarr-backup.toml"), text.replace("backup-prod", "backup-prd"))
        .unwrap();
    refused("has no CronJob");
}

#[test]
fn a_cluster_that_is_not_there_or_not_known_is_told_apart() {
    let Some(cluster) = Kubernetes::shared() else { return };
    let laptop = Laptop::on(&cluster);
    let kubeconfig = std::fs::read_to_string(&laptop.kubeconfig).unwrap();
    let server = kubeconfig.split("https://127.0.0.1:").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let other = laptop.folder.path().join("other.kubeconfig");
    let configuration = laptop.folder.path().join("dolibarr-backup.toml");
    let text = std::fs::read_to_string(&configuration).unwrap();
    let shown = laptop.kubeconfig.display().to_string();
    std::fs::write(&configuration, text.replace(&shown, &other.display().to_string())).unwrap();
    let stranger = cluster.kubeconfig("stranger").with_file_name("accounts.key").display().to_string();
    let authority = laptop.kubeconfig.with_file_name("authority.crt").display().to_string();
    let own = laptop.kubeconfig.with_file_name(format!("{}.crt", laptop.user)).display().to_string();
    for (edited, code, says) in [
        (kubeconfig.replace(&server, "1"), 75, "cannot be reached"),
        (kubeconfig.replace(&authority, &own), 64, "cannot be reached"),
        (
            kubeconfig.replace("\"current-context\":\"test\"", "\"current-context\":\"none\""),
            64,
            "no Kubernetes cluster is known",
        ),
        (kubeconfig.replace(&own, &stranger), 64, "could not create a client"),
        (String::from("{"), 64, "no Kubernetes cluster is known"),
    ] {
        std::fs::write(&other, edited).unwrap();
        complains(&laptop.command(BACKUP).finish(), code, says);
    }
    std::fs::remove_file(&other).unwrap();
    complains(&laptop.command(BACKUP).finish(), 64, "no Kubernetes cluster is known");
}

/// Runs a backup, and calls `act` with its pod.
fn with_pod(laptop: &Laptop, act: impl FnOnce(&Value)) -> Outcome {
    let run = laptop.command(BACKUP).start();
    let pod = laptop.cluster.wait("new pod", || {
        let pods = laptop.cluster.list("pods", &laptop.namespace);
        pods.into_iter().find(|pod| pod["metadata"]["deletionTimestamp"].is_null())
    });
    act(&pod);
    let outcome = run.finish();
    let name = pod["metadata"]["name"].as_str().unwrap();
    // Only its node can remove a pod. The test does it instead.
    drop(
        laptop
            .cluster
            .try_kubectl(&["delete", "pod", name, "--namespace", &laptop.namespace, "--grace-period=0", "--force"], ""),
    );
    outcome
}

#[track_caller]
fn soon(laptop: &Laptop, outcome: &Outcome, code: i32, says: &str) {
    complains(outcome, code, says);
    assert!(outcome.elapsed < SOON, "it took {:?}: {}", outcome.elapsed, outcome.stderr);
    laptop.assert_nothing_is_left();
}
