//! A laptop that has only a kubeconfig: no credentials of the store or the database, and no documents.

use super::{BACKUP, Cluster, LAUNCHER};
use crate::scene::{DATABASE, complains, key, succeed};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;
use tests::binary::{Outcome, Run};
use tests::garage::Garage;

/// A pull that cannot succeed must be reported within this time, well before the limit of 120 s.
const PULL_REPORT_MAX: Duration = Duration::from_secs(30);

pub struct Laptop<'a> {
    cluster: &'a Cluster,
    kubeconfig: PathBuf,
    folder: TempDir,
}

impl<'a> Laptop<'a> {
    pub fn new(cluster: &'a Cluster) -> Self {
        let read = "- { apiGroups: [''], resources: [secrets], resourceNames: [s3], verbs: [get] }";
        cluster.api().grant(LAUNCHER, Some(&cluster.storage), read);
        let kubeconfig = cluster.api().kubeconfig(LAUNCHER);
        let laptop = Self { cluster, kubeconfig, folder: tempfile::tempdir().unwrap() };
        laptop.configure(BACKUP);
        laptop
    }

    fn configure(&self, cron_job: &str) {
        let Cluster { scene, namespace, storage, .. } = self.cluster;
        let text = format!(
            "time_zone = \"Europe/Paris\"\n\
             [store]\nurl = \"{url}\"\nendpoint = \"{endpoint}\"\nregion = \"{region}\"\nprofile = \"garage\"\n\
             credentials = {{ kube_secret = \"{storage}/s3\" }}\n\
             [kubernetes]\nkubeconfig = \"{kubeconfig}\"\n\
             [env.prod]\nrun = \"job\"\n[env.prod.job]\nnamespace = \"{namespace}\"\ncron_job = \"{cron_job}\"\n\
             secrets.s3 = {{ from = \"{storage}/s3\", mount = \"/run/secrets/s3\" }}\n\
             [env.prod.sources.db]\nkind = \"postgres\"\nhost = \"postgres.tools\"\ndatabase = \"{DATABASE}\"\n\
             credentials = {{ user = \"nobody\" }}\n\
             [env.prod.sources.docs]\nkind = \"directory\"\npath = \"/var/www/documents\"\n\
             [servers.lab]\nhost = \"{socket}\"\nport = {port}\ncredentials = {{ user = \"postgres\" }}\n",
            url = self.cluster.store_url(),
            endpoint = self.cluster.garage().endpoint(),
            region = Garage::REGION,
            kubeconfig = self.kubeconfig.display(),
            socket = scene.server.socket().display(),
            port = scene.server.port(),
        );
        std::fs::write(self.folder.path().join("dolibarr-backup.toml"), text).unwrap();
    }

    fn run(&self, arguments: &[&str]) -> Outcome {
        Run::new(arguments.iter().copied()).folder(self.folder.path()).without_init().finish()
    }

    /// Waits until only the objects of `before` are left.
    #[track_caller]
    pub fn assert_left(&self, before: &[String]) {
        self.cluster.api().wait("end of what a Job leaves", || (self.cluster.left() == before).then_some(()));
    }

    pub fn launches_a_backup_and_leaves_nothing_behind(&self) {
        let before = self.cluster.left();
        self.cluster.scene.server.psql(DATABASE, tests::sample::CHANGE_INVOICE);
        let done = self.run(&["--json", "backup", "--env", "prod"]).expect_code(0);
        let document = done.json();
        let sources = &document["snapshot"]["sources"];
        assert_eq!((&sources["db"]["outcome"], &sources["docs"]["outcome"]), (&json!("saved"), &json!("unchanged")));
        assert_eq!((&document["job"]["exit_code"], &document["job"]["reason"]), (&json!(0), &json!("Completed")));
        // The cluster's events, and the log of the run.
        for line in ["Started container", "dumping: content changed"] {
            assert!(done.stderr.contains(line), "`{line}` is not in: {}", done.stderr);
        }
        self.assert_left(&before);
    }

    pub fn ends_with_the_jobs_exit_code(&self) {
        let before = self.cluster.left();
        let password = |password: &str| {
            self.cluster.scene.server.psql(DATABASE, &format!("ALTER ROLE backup PASSWORD '{password}'"));
        };
        password("another");
        let refused = self.run(&["backup", "--env", "prod"]);
        let as_json = self.run(&["--json", "backup", "--env", "prod"]).expect_code(64);
        password(crate::scene::PASSWORD);
        complains(&refused, 64, "ended with 64 (Error)");
        let document = as_json.json();
        assert_eq!((&document["job"]["exit_code"], &document["error"]), (&json!(64), &Value::Null), "{document}");
        // The error of the run, and that of this process.
        for said in ["password", "ended with 64 (Error)"] {
            assert!(as_json.stderr.contains(said), "no `{said}` in {}", as_json.stderr);
        }
        self.assert_left(&before);
    }

    /// The kubelet takes half a minute to end its pod, so the caller uses [`Self::assert_left`] later.
    pub fn says_that_an_image_cannot_be_had(&self) {
        let namespace = &self.cluster.namespace;
        let get = ["get", "cronjobs.v1beta1.batch", BACKUP, "--namespace", namespace, "--output", "json"];
        let mut cron_job: Value = serde_json::from_str(&self.cluster.api().kubectl(&get, "")).unwrap();
        cron_job["metadata"] = json!({ "name": "elsewhere", "namespace": namespace });
        let pod = &mut cron_job["spec"]["jobTemplate"]["spec"]["template"]["spec"];
        pod["containers"][0]["image"] = "127.0.0.1:9/dolibarr-backup:none".into();
        self.cluster.api().apply(&cron_job.to_string());
        self.cluster.api().grant(
            LAUNCHER,
            Some(namespace),
            "- { apiGroups: [batch], resources: [cronjobs], resourceNames: [elsewhere], verbs: [get] }",
        );
        self.configure("elsewhere");
        let refused = self.run(&["backup", "--env", "prod"]);
        self.configure(BACKUP);
        complains(&refused, 64, "ImagePullBackOff");
        assert!(refused.elapsed < PULL_REPORT_MAX, "{:?}", refused.elapsed);
    }

    pub fn restores_what_was_stored(&self) {
        let scene = &self.cluster.scene;
        let listed = self.run(&["--json", "list", "--env", "prod"]).expect_code(0).json();
        let newest = &listed["snapshots"][0];

        let into = self.folder.path().join("restored");
        let _ = self
            .run(&["restore", "--env", "prod", "--source", "docs", "--into", into.to_str().unwrap()])
            .expect_code(0);
        crate::restored::same(scene, &into);
        let database = ["restore", "--env", "prod", "--source", "db", "--into", "erp_new", "--server", "lab"];
        let _ = self.run(&database).expect_code(0);
        assert_eq!(scene.contents("erp_new"), scene.contents(DATABASE));

        // The same with stock tools only.
        let dump = scene.fetch(&key(&newest["sources"], "db"), "fetched.dump");
        scene.server.create_database("by_stock_tools", &[]);
        scene.server.restore("by_stock_tools", &dump);
        assert_eq!(scene.contents("by_stock_tools"), scene.contents(DATABASE));
        let archive = scene.fetch(&key(&newest["sources"], "docs"), "fetched.tar.gz");
        let unpacked = self.folder.path().join("unpacked");
        std::fs::create_dir(&unpacked).unwrap();
        succeed(Command::new("tar").arg("-xzpf").arg(archive).arg("-C").arg(&unpacked));
        crate::restored::same(scene, &unpacked);
    }
}
