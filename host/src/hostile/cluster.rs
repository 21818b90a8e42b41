//! Misbehaving guests on a real cluster: requests beyond their handles are refused, their claims are checked against
//! what the host observed, and none of their Jobs remain.

use crate::config::Config;
use crate::report::Report;
use crate::verbs::backup::{self, job};
use crate::verbs::coverage;
use ::tests::guests;
use ::tests::kubernetes::Kubernetes;
use base::error::{Class, Error, Result};
use std::path::PathBuf;
use std::sync::Arc;

/// Content of the lent Secret.
const CANARY: &str = "canary-in-a-secret-5512";

struct Scene {
    cluster: Arc<Kubernetes>,
    namespace: String,
    kubeconfig: PathBuf,
}

impl Scene {
    /// `None`, with a logged reason, if Kubernetes is not available.
    fn new() -> Option<Self> {
        let cluster = Kubernetes::shared()?;
        let namespace = cluster.namespace();
        let (user, kubeconfig) = ("guest-host", cluster.kubeconfig("guest-host"));
        cluster.grant(user, None, "- { apiGroups: ['*'], resources: ['*'], verbs: ['*'] }");
        cluster.apply(&format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{ name: s3, namespace: {namespace} }}\nstringData: {{ KEY: {CANARY} }}\n"
        ));
        Some(Self { cluster, namespace, kubeconfig })
    }

    fn config(&self, plugins: &str) -> Config {
        let namespace = &self.namespace;
        Config::parse(&format!(
            "[store]\nurl = \"file:///x\"\n[kubernetes]\nkubeconfig = \"{}\"\n[coverage]\nnamespaces = [\"{namespace}\"]\n\
             [env.prod]\nrun = \"job\"\n[env.prod.sources.docs]\nkind = \"directory\"\npath = \"/x\"\n\
             [env.prod.job]\nnamespace = \"{namespace}\"\nsecrets.s3 = {{ from = \"{namespace}/s3\", mount = \"/s3\" }}\n\
             secrets.other = {{ from = \"{namespace}/s3\", mount = \"/other\" }}\n\
             [env.prod.job.template]\nimage = \"i\"\nconfig_map = \"c\"\n{plugins}",
            self.kubeconfig.display()
        ))
        .unwrap()
    }

    async fn run_job(&self, settings: &str) -> Result<Report> {
        let plugins = section("job", "kube-job", settings);
        let arguments = backup::Arguments { environment: "prod".to_owned(), ..backup::Arguments::default() };
        let now = "2026-06-30T12:00:00Z".parse().unwrap();
        job::run(&self.config(&plugins), None, &arguments, false, now).await
    }

    async fn judge(&self, settings: &str) -> Result<Report> {
        let plugins = section("coverage", "kube-volumes", settings);
        coverage::run(&self.config(&plugins), None, "2026-06-30T12:00:00Z".parse().unwrap()).await
    }

    fn assert_nothing_remains(&self) {
        self.cluster.wait("end of what a Job leaves", || {
            let secrets = self.cluster.list("secrets", &self.namespace);
            let borrowed = secrets.iter().any(|one| one["metadata"]["name"].as_str().unwrap().starts_with("backup-"));
            let jobs = self.cluster.list("jobs", &self.namespace);
            (jobs.is_empty() && !borrowed).then_some(())
        });
    }
}

/// The section of a guest of `tests/guests`.
fn section(role: &str, grant: &str, settings: &str) -> String {
    let rest = format!("settings = {{ {settings} }}\nlimits = {{ compute_seconds = 1, call_seconds = 20 }}");
    format!("[plugins.{role}]\n{}", guests::section(&guests::component(role), &[grant], &rest))
}

fn assert_blamed(error: &Error, class: Class, says: &str) {
    assert_eq!(error.class(), class, "{error}");
    assert!(error.message().contains(says), "`{error}` does not contain `{says}`");
    let lines = [error.message(), error.advice().unwrap_or_default()];
    guests::assert_presentable(&lines);
    assert!(lines.iter().all(|text| !text.contains(CANARY)), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_plugin_that_exceeds_its_handles_is_refused_and_its_job_is_removed() {
    let Some(scene) = Scene::new() else { return };
    let arguments = |arguments: &str| format!("do = \"arguments\", arguments = [{arguments}]");
    for (settings, class, says) in [
        (arguments("\"prune\""), Class::PluginRefused, "passes the Job `prune`"),
        (arguments("\"--config\", \"/x\""), Class::PluginRefused, "only --force, --dry-run, --json are allowed"),
        (arguments("\"--json\", \"--json\""), Class::PluginRefused, "`--json` twice"),
        (arguments("\"\\u001b[2J\""), Class::PluginRefused, "only --force"),
        ("do = \"place\", place = \"elsewhere\"".to_owned(), Class::PluginRefused, "at `elsewhere`"),
        ("do = \"place\", place = \"s3\"".to_owned(), Class::PluginRefused, "puts the Secret of `other` at `s3`"),
        ("do = \"launch-twice\"".to_owned(), Class::PluginRefused, "launches a second Job"),
        ("do = \"never-follow\"".to_owned(), Class::PluginRefused, "that it never followed"),
        ("do = \"never-launch\"".to_owned(), Class::PluginRefused, "that it never followed"),
        ("do = \"panic-after-launching\"".to_owned(), Class::PluginTrapped, "panicked"),
        ("do = \"loop-after-launching\"".to_owned(), Class::PluginTrapped, "computed for more than 1 s"),
        ("do = \"recurse-after-launching\"".to_owned(), Class::PluginTrapped, "of stack"),
        ("do = \"take-memory-after-launching\"".to_owned(), Class::PluginTrapped, "memory"),
    ] {
        assert_blamed(&scene.run_job(&settings).await.unwrap_err(), class, says);
        scene.assert_nothing_remains();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lent_secret_never_enters_a_guests_memory() {
    let Some(scene) = Scene::new() else { return };
    use base64::Engine;
    for text in [CANARY.to_owned(), base64::prelude::BASE64_STANDARD.encode(CANARY)] {
        let masked: String = text.bytes().map(|byte| format!("{:02x}", byte ^ 0x5a)).collect();
        let error = scene.run_job(&format!("do = \"look\", masked = \"{masked}\"")).await.unwrap_err();
        assert!(error.message().ends_with("clean"), "{error}");
    }
    // The search finds a text that is in the guest's memory.
    let masked: String = "Completed".bytes().map(|byte| format!("{:02x}", byte ^ 0x5a)).collect();
    let error = scene.run_job(&format!("do = \"look\", masked = \"{masked}\"")).await.unwrap_err();
    assert!(error.message().ends_with("found"), "{error}");
    scene.assert_nothing_remains();
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_or_invented_findings_are_refused_and_endless_calls_query_the_cluster_once() {
    let Some(scene) = Scene::new() else { return };
    for name in ["docs", "db"] {
        scene.cluster.apply(&format!(
            "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{ name: {name}, namespace: {} }}\n\
             spec: {{ accessModes: [ReadWriteOnce], resources: {{ requests: {{ storage: 1Gi }} }} }}\n",
            scene.namespace
        ));
    }
    for (settings, class, says) in [
        ("do = \"leave-out\"", Class::PluginRefused, "one finding for every claim"),
        ("do = \"make-up\"", Class::PluginRefused, "one finding for every claim"),
        ("do = \"panic\"", Class::PluginTrapped, "panicked"),
    ] {
        assert_blamed(&scene.judge(settings).await.unwrap_err(), class, says);
    }
    let report = scene.judge("do = \"praise\", reason = \"\\u001b[2J\"").await.unwrap();
    assert!(!report.text.contains('\u{1b}') && !report.document.to_string().contains("\\u001b"), "{}", report.text);

    let before = scene.cluster.audit("guest-host").len();
    let error = scene.judge("do = \"ask-for-ever\"").await.unwrap_err();
    assert_eq!(error.class(), Class::PluginTrapped, "{error}");
    let asked = scene.cluster.audit("guest-host").len() - before;
    assert!(asked <= 4, "{asked} requests for three lists");
}
