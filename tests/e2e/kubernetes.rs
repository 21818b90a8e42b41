//! Tests with a real API server and controller manager. The tests play the kubelet.

mod borrowed;
mod coverage;
mod credentials;
mod fleet;
mod job;
mod killed;
mod lease;
mod refused;
mod terminal;

use serde_json::Value;
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;
use tests::binary::Run;
use tests::kubernetes::{Kubelet, Kubernetes};

/// The values in the borrowed Secret. They may occur only in Secrets.
const KEY_ID: &str = "canary-key-id-31c7";
const KEY: &str = "canary-key-9d0e";
/// The same values in Base64, as the API server has them.
const KEY_ID_SEALED: &str = "Y2FuYXJ5LWtleS1pZC0zMWM3";
const KEY_SEALED: &str = "Y2FuYXJ5LWtleS05ZDBl";

/// The rights of a laptop that launches Jobs, in the namespace where they run. docs/kubernetes.md has the same list.
const JOB_RULES: &str = "\
- { apiGroups: [batch], resources: [cronjobs], verbs: [get] }
- { apiGroups: [batch], resources: [jobs], verbs: [create, get, patch, delete] }
- { apiGroups: [''], resources: [secrets], verbs: [create] }
- { apiGroups: [''], resources: [pods, events], verbs: [list] }
- { apiGroups: [''], resources: [pods/log], verbs: [get] }";

/// One laptop, one user, one namespace with a CronJob, and one with the borrowed Secret.
struct Laptop {
    cluster: Arc<Kubernetes>,
    kubelet: Kubelet,
    namespace: String,
    storage: String,
    user: String,
    kubeconfig: PathBuf,
    folder: TempDir,
}

impl Laptop {
    /// If Kubernetes is not installed, returns `None` and records the skip.
    fn new() -> Option<Self> {
        let cluster = Kubernetes::shared()?;
        Some(Self::on(&cluster))
    }

    fn on(cluster: &Arc<Kubernetes>) -> Self {
        let laptop = Self::without_rights(cluster);
        cluster.grant(&laptop.user, Some(&laptop.namespace), JOB_RULES);
        let read = "- { apiGroups: [''], resources: [secrets], resourceNames: [s3], verbs: [get] }";
        cluster.grant(&laptop.user, Some(&laptop.storage), read);
        laptop
    }

    fn without_rights(cluster: &Arc<Kubernetes>) -> Self {
        let (namespace, storage) = (cluster.namespace(), cluster.namespace());
        let user = format!("laptop-{:08x}", rand::random::<u32>());
        let kubeconfig = cluster.kubeconfig(&user);
        let laptop = Self {
            kubelet: Kubelet::start(cluster),
            cluster: Arc::clone(cluster),
            folder: tempfile::tempdir().unwrap(),
            namespace,
            storage,
            user,
            kubeconfig,
        };
        std::fs::create_dir(laptop.folder.path().join("documents")).unwrap();
        cluster.apply(&format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{ name: s3, namespace: {} }}\n\
             stringData: {{ AWS_ACCESS_KEY_ID: {KEY_ID}, AWS_SECRET_ACCESS_KEY: {KEY} }}\n",
            laptop.storage
        ));
        laptop.install_cron_job("");
        laptop.configure("");
        laptop
    }

    /// The CronJob that a chart would install. `pod` holds further lines of its pod.
    fn install_cron_job(&self, pod: &str) {
        let version = if self.cluster.version() < (1, 21) { "v1beta1" } else { "v1" };
        self.cluster.apply(&format!(
            "apiVersion: batch/{version}
kind: CronJob
metadata: {{ name: dolibarr-backup-prod, namespace: {namespace} }}
spec:
  schedule: '0 1 * * *'
  suspend: true
  jobTemplate:
    metadata: {{ labels: {{ app: backup }} }}
    spec:
      backoffLimit: 3
      activeDeadlineSeconds: 7200
      template:
        metadata: {{ labels: {{ app: backup }} }}
        spec:
          restartPolicy: OnFailure
          automountServiceAccountToken: false
{pod}
          containers:
            - name: backup
              image: registry.example.org/dolibarr-backup:1
              args: [--config, /etc/dolibarr-backup/dolibarr-backup.toml, backup, --env, prod]
              volumeMounts:
                - {{ name: config, mountPath: /etc/dolibarr-backup }}
                - {{ name: s3, mountPath: /run/secrets/s3, readOnly: true }}
          volumes:
            - {{ name: config, configMap: {{ name: dolibarr-backup-prod }} }}
            - {{ name: s3, secret: {{ secretName: made-by-an-operator, defaultMode: 288 }} }}
",
            namespace = self.namespace
        ));
    }

    /// Writes the configuration; `job` holds further lines of its Job.
    fn configure(&self, job: &str) {
        self.write(&format!(
            "[env.prod]\nrun = \"job\"\n[env.prod.job]\nnamespace = \"{}\"\ncron_job = \"dolibarr-backup-prod\"\n\
             secrets.s3 = {{ from = \"{}/s3\", mount = \"/run/secrets/s3\" }}\n{job}\n",
            self.namespace, self.storage
        ));
    }

    fn write(&self, sections: &str) {
        let at = self.folder.path().display();
        let text = format!(
            "[store]\nurl = \"file://{at}/store\"\n[kubernetes]\nkubeconfig = \"{}\"\n\
             [env.prod.sources.docs]\nkind = \"directory\"\npath = \"{at}/documents\"\n{sections}",
            self.kubeconfig.display()
        );
        std::fs::write(self.folder.path().join("dolibarr-backup.toml"), text).unwrap();
    }

    fn command<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Run {
        Run::new(arguments).folder(self.folder.path())
    }

    /// Names of the Jobs.
    fn jobs(&self) -> Vec<String> {
        names(&self.cluster.list("jobs", &self.namespace))
    }

    /// Names of the Secrets, without the tokens of service accounts.
    fn secrets(&self) -> Vec<String> {
        let mut all = self.cluster.list("secrets", &self.namespace);
        all.retain(|secret| secret["type"] != "kubernetes.io/service-account-token");
        names(&all)
    }

    /// Waits until no Job, pod or Secret is left in the namespace.
    #[track_caller]
    fn assert_nothing_is_left(&self) {
        self.cluster.wait("end of what a Job leaves", || {
            let pods = self.cluster.list("pods", &self.namespace);
            (self.jobs().is_empty() && self.secrets().is_empty() && pods.is_empty()).then_some(())
        });
    }
}

fn names(objects: &[Value]) -> Vec<String> {
    objects.iter().map(|object| object["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}
