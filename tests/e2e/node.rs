//! Tests on a cluster with one real node: the rendered chart runs in the shipped image as an unprivileged user on a
//! read-only root, a laptop with a kubeconfig does the same from outside, and what was stored can be restored.
//!
//! The API server is older than the chart requires. It knows an older version of CronJobs and drops the fields that it
//! does not know: the time zone and the policy for failed pods.

mod laptop;

use crate::scene::{DATABASE, PASSWORD, ROLE, Scene, succeed};
use laptop::Laptop;
use serde_json::{Value, json};
use std::process::Command;
use tests::garage::Garage;
use tests::helm::Helm;
use tests::kubernetes::{Kubernetes, Node};

/// The backup's CronJob and account, of a release named `erp`.
const BACKUP: &str = "erp-dolibarr-backup";

/// The prefix of the names of Jobs that are started by hand.
const BY_HAND: &str = "by-hand-";

/// The user who may launch the backup's Job from a laptop.
const LAUNCHER: &str = "lea";

/// The user and group of the chart's pods: the owner of the documents.
const USER: &str = "33:33";

/// Prints the kernel's status of the process, and the places that it can write to.
const CONFESS: &str = "\
while read -r line; do echo \"$line\"; done < /proc/self/status
for place in / /etc/dolibarr-backup /run/secrets/db /var/www/documents /tmp; do
  (: > \"$place/written\") 2> /dev/null && echo \"wrote to $place\"
done
exit 0
";

/// A company whose backups run in a cluster.
struct Cluster {
    scene: Scene,
    node: Node,
    namespace: String,
    /// The namespace of the Secret that a laptop lends.
    storage: String,
}

/// How the first pod of a Job ended.
struct Ended {
    exit_code: i64,
    log: String,
}

impl Ended {
    /// The result that the run printed. The log also contains stderr, where a failure is a JSON object too.
    #[track_caller]
    fn result(&self) -> Value {
        let mut objects = self.log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        objects.find(|object| object["error"].is_null()).unwrap_or_else(|| panic!("no JSON in {}", self.log))
    }

    #[track_caller]
    fn expect_code(self, code: i64) -> Self {
        assert_eq!(self.exit_code, code, "{}", self.log);
        assert!(!self.log.contains(PASSWORD), "{}", self.log);
        self
    }
}

impl Cluster {
    /// If any part of it is not installed, returns `None` and records the skip.
    fn new() -> Option<Self> {
        let engine = Helm::installed()?;
        let image = crate::image::file()?;
        let scene = Scene::small()?.on_garage()?;
        let mut node = Node::start()?;
        node.import(&image).unwrap();
        let (namespace, storage) = (node.cluster().namespace(), node.cluster().namespace());
        node.offer(scene.server.port());
        node.offer(scene.garage.as_ref().unwrap().port());
        // As on a real volume, the documents belong to the user that reads them.
        succeed(Command::new("chown").args(["-R", USER]).arg(&scene.documents));
        let cluster = Self { scene, node, namespace, storage };
        cluster.furnish();
        cluster.install(&engine);
        Some(cluster)
    }

    fn api(&self) -> &Kubernetes {
        self.node.cluster()
    }

    fn garage(&self) -> &Garage {
        self.scene.garage.as_ref().unwrap()
    }

    /// `s3://bucket/prefix`.
    fn store_url(&self) -> String {
        let text = self.scene.config.text();
        text.split("url = \"").nth(1).unwrap().split('"').next().unwrap().to_owned()
    }

    /// Creates what the chart expects to exist: the volume with its claim, and the Secrets.
    fn furnish(&self) {
        let size = json!({ "storage": "1Gi" });
        let volume = json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": { "name": "documents" },
            "spec": {
                "capacity": size, "accessModes": ["ReadWriteOnce"], "hostPath": { "path": self.scene.documents },
                "claimRef": { "namespace": self.namespace, "name": "dolibarr-documents" },
            },
        });
        let claim = json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": { "name": "dolibarr-documents", "namespace": self.namespace },
            "spec": {
                "accessModes": ["ReadWriteOnce"], "storageClassName": "", "volumeName": "documents",
                "resources": { "requests": size },
            },
        });
        let secret = |namespace: &str, name: &str, values: Value| {
            json!({
                "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name, "namespace": namespace },
                "stringData": values,
            })
        };
        let keys =
            json!({ "AWS_ACCESS_KEY_ID": self.garage().key_id(), "AWS_SECRET_ACCESS_KEY": self.garage().secret() });
        let items = [
            volume,
            claim,
            secret(&self.namespace, "vso-db-credentials", json!({ "username": ROLE, "password": PASSWORD })),
            secret(&self.namespace, "store", keys.clone()),
            secret(&self.storage, "s3", keys),
        ];
        self.api().apply(&json!({ "apiVersion": "v1", "kind": "List", "items": items }).to_string());
    }

    /// Renders the chart and applies it. Its CronJobs are suspended; tests start their Jobs by hand.
    fn install(&self, engine: &Helm) {
        let endpoint = format!("http://{}:{}", Node::ADDRESS, self.garage().port());
        let values = json!({
            "environment": "prod",
            "image": { "repository": "docker.io/library/dolibarr-backup" },
            "backup": { "enabled": true, "suspend": true },
            "store": {
                "url": self.store_url(), "endpoint": endpoint, "region": Garage::REGION, "profile": "garage",
                "secretName": "store", "vault": { "enabled": false },
            },
            "database": { "host": Node::ADDRESS, "port": self.scene.server.port(), "name": DATABASE },
            "documents": { "claimName": "dolibarr-documents" },
            "drill": { "scratch": { "size": "1Gi" } },
            "kubernetesApi": { "enabled": true },
            "coverage": { "enabled": true, "longhornNamespace": self.namespace },
            "launchers": [{ "kind": "User", "name": LAUNCHER }],
        });
        let request = json!([{ "helm": 4, "name": "erp", "namespace": self.namespace, "values": values }]);
        let mut answer = engine.ask(&request).unwrap().remove(0);
        assert!(answer["error"].is_null(), "{answer}");
        let mut items: Vec<Value> = serde_json::from_value(answer["documents"].take()).unwrap();
        // Keeps the hook of the installation. The other hook is for `helm test`.
        let is_init = |item: &Value| item["metadata"]["name"] == format!("{BACKUP}-init");
        items.retain(|item| item["metadata"]["annotations"]["helm.sh/hook"].is_null() || is_init(item));
        for item in items.iter_mut().filter(|item| item["kind"] == "CronJob") {
            item["apiVersion"] = "batch/v1beta1".into();
        }
        // As Helm does: accounts before the objects that use them.
        items.sort_by_key(|item| item["kind"] != "ServiceAccount");
        self.api().apply(&json!({ "apiVersion": "v1", "kind": "List", "items": items }).to_string());
        let init = self.see_to_its_end(&format!("{BACKUP}-init")).expect_code(0);
        assert!(init.log.contains("prod in s3://") && init.log.contains("is initialised"), "{}", init.log);
        // The pod is removed after its Job. Later checks compare the remaining objects with those that exist now.
        let is_gone = || self.left().iter().all(|name| !name.contains("-init")).then_some(());
        self.api().wait("end of the init's pod", is_gone);
    }

    /// Starts the Job of a CronJob as the chart's notes say, and waits for its end.
    #[track_caller]
    fn run(&self, cron_job: &str) -> Ended {
        let (job, from) = (by_hand(), format!("--from=cronjob/{cron_job}"));
        self.api().kubectl(&["create", "job", &job, &from, "--namespace", &self.namespace], "");
        self.see_to_its_end(&job)
    }

    /// Waits for the end of a Job's first pod, and deletes the Job.
    #[track_caller]
    fn see_to_its_end(&self, job: &str) -> Ended {
        let ended = |pod: Value| {
            let state = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
            state["exitCode"].as_i64().map(|code| (code, pod["metadata"]["name"].as_str().unwrap().to_owned()))
        };
        let (exit_code, pod) = self.api().wait(&format!("end of {job}"), || {
            let pods = self.api().list("pods", &self.namespace).into_iter();
            pods.filter(|pod| pod["metadata"]["labels"]["job-name"] == job).find_map(ended)
        });
        let log = self.api().kubectl(&["logs", &pod, "--namespace", &self.namespace], "");
        self.api().kubectl(&["delete", "job", job, "--namespace", &self.namespace], "");
        Ended { exit_code, log }
    }

    /// Runs the backup's pod with a script instead of its program.
    fn run_instead(&self, script: &str) -> Ended {
        let path = format!("/apis/batch/v1beta1/namespaces/{}/cronjobs/{BACKUP}", self.namespace);
        let cron_job: Value = serde_json::from_str(&self.api().kubectl(&["get", "--raw", &path], "")).unwrap();
        let mut spec = cron_job["spec"]["jobTemplate"]["spec"].clone();
        spec["template"]["spec"]["containers"][0]["command"] = json!(["/usr/bin/dash", "-c", script]);
        let name = by_hand();
        let metadata = json!({ "name": name, "namespace": self.namespace });
        let job = json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec });
        self.api().apply(&job.to_string());
        self.see_to_its_end(&name)
    }

    /// Names of the Jobs, pods and Secrets, except those of Jobs that were started by hand.
    fn left(&self) -> Vec<String> {
        let names = |kind: &'static str| {
            let objects = self.api().list(kind, &self.namespace).into_iter();
            objects.map(move |object| format!("{kind}/{}", object["metadata"]["name"].as_str().unwrap()))
        };
        let all = ["jobs", "pods", "secrets"].into_iter().flat_map(names);
        all.filter(|name| !name.contains(BY_HAND)).collect()
    }

    /// The requests of an account to the API server, as `verb resource`, without duplicates.
    #[track_caller]
    fn asked_by(&self, account: &str) -> Vec<String> {
        let audit = self.api().audit(&format!("system:serviceaccount:{}:{account}", self.namespace));
        let refused = audit.iter().find(|event| event["responseStatus"]["code"] == 403);
        assert!(refused.is_none(), "the chart's Role does not allow it: {refused:?}");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut asked: Vec<String> = audit
            .iter()
            .map(|event| format!("{} {}", text(&event["verb"]), text(&event["objectRef"]["resource"])))
            .collect();
        asked.sort();
        asked.dedup();
        asked
    }
}

fn by_hand() -> String {
    format!("{BY_HAND}{:08x}", rand::random::<u32>())
}

/// One cluster for all parts, because its start takes longer than any of them.
#[test]
fn the_charts_jobs_and_a_laptops_run_on_a_real_node_and_what_they_store_comes_back() {
    let Some(cluster) = Cluster::new() else { return };
    tests::skip("the node puts no network policy into effect, and Kubernetes 1.20 no policy on failed pods");
    let before = cluster.left();
    the_pod_has_no_rights(&cluster);
    a_run_saves_and_the_next_one_finds_nothing_new(&cluster);
    let laptop = Laptop::new(&cluster);
    laptop.launches_a_backup_and_leaves_nothing_behind();
    laptop.ends_with_the_jobs_exit_code();
    laptop.says_that_an_image_cannot_be_had();
    what_looks_at_the_store_agrees(&cluster);
    the_volume_is_seen(&cluster);
    laptop.restores_what_was_stored();
    laptop.assert_left(&before);
}

fn the_pod_has_no_rights(cluster: &Cluster) {
    let said = cluster.run_instead(CONFESS).expect_code(0).log;
    let of = |key: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {key} in {said}")).split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!((of("Uid"), of("Gid")), ("33 33 33 33".to_owned(), "33 33 33 33".to_owned()));
    let none = "0000000000000000";
    assert_eq!((of("CapEff"), of("CapBnd"), of("CapPrm")), (none.to_owned(), none.to_owned(), none.to_owned()));
    assert_eq!((of("NoNewPrivs"), of("Seccomp")), ("1".to_owned(), "2".to_owned()));
    let wrote: Vec<&str> = said.lines().filter(|line| line.starts_with("wrote")).collect();
    assert_eq!(wrote, ["wrote to /tmp"]);
}

fn a_run_saves_and_the_next_one_finds_nothing_new(cluster: &Cluster) {
    for outcome in ["saved", "unchanged"] {
        let report = cluster.run(BACKUP).expect_code(0).result();
        for source in ["db", "docs"] {
            assert_eq!(report["snapshot"]["sources"][source]["outcome"], outcome, "{report}");
        }
    }
    // The run used the pod's own token, and only the rights of the chart's Role.
    assert_eq!(cluster.asked_by(BACKUP), ["create leases", "get leases", "update leases"]);
    let path = format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases/dolibarr-backup-prod", cluster.namespace);
    let lease: Value = serde_json::from_str(&cluster.api().kubectl(&["get", "--raw", &path], "")).unwrap();
    assert!(lease["spec"]["holderIdentity"].as_str().unwrap_or_default().is_empty(), "not released: {lease}");
}

fn what_looks_at_the_store_agrees(cluster: &Cluster) {
    let _ = cluster.run(&format!("{BACKUP}-verify")).expect_code(0);
    let drilled = cluster.run(&format!("{BACKUP}-drill")).expect_code(0).result();
    assert_eq!(drilled["drill"]["passed"], true, "{drilled}");
    assert_eq!(drilled["drill"]["sources"]["db"]["compared"], "equal", "{drilled}");
    // The laptop's last Job failed, and the status reports that until a run saves the whole database again.
    let status = cluster.run(&format!("{BACKUP}-status")).expect_code(4).result();
    assert_eq!(status["environments"][0]["problems"][0]["kind"], "failed", "{status}");
    let _ = cluster.run(BACKUP).expect_code(0);
    let _ = cluster.run(&format!("{BACKUP}-status")).expect_code(0);
}

fn the_volume_is_seen(cluster: &Cluster) {
    let account = format!("{BACKUP}-coverage");
    let found = cluster.run(&account).expect_code(4).result();
    let uncovered = format!("{}/dolibarr-documents", cluster.namespace);
    assert_eq!(found["uncovered"], json!([uncovered]), "{found}");
    let asked = cluster.asked_by(&account);
    assert!(!asked.is_empty() && asked.iter().all(|one| one.starts_with("list ")), "{asked:?}");
}
