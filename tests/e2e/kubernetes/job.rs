//! A backup as a Job, started from a laptop that has only a kubeconfig.

use super::{KEY, KEY_ID, KEY_ID_SEALED, KEY_SEALED, Laptop};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The verbs and resources of [`super::JOB_RULES`], and the one of the borrowed Secret.
const ALLOWED: [(&str, &str); 10] = [
    ("get", "cronjobs"),
    ("get", "secrets"),
    ("create", "jobs"),
    ("create", "secrets"),
    ("patch", "jobs"),
    ("get", "jobs"),
    ("list", "pods"),
    ("list", "events"),
    ("get", "pods/log"),
    ("delete", "jobs"),
];

#[test]
fn a_backup_runs_as_a_job_of_the_installed_cron_job_and_leaves_nothing_behind() {
    let Some(laptop) = Laptop::new() else { return };
    let run =
        laptop.command(["--json", "backup", "--env", "prod", "--force"]).env("DOLIBARR_BACKUP_LOG", "debug").start();
    let pod = laptop.kubelet.pod_of(&laptop.namespace);

    let job = laptop.cluster.wait("Job with all its time", || {
        let jobs = laptop.cluster.list("jobs", &laptop.namespace);
        jobs.into_iter().find(|job| job["spec"]["activeDeadlineSeconds"] == 7200)
    });
    let secrets = laptop.secrets();
    let spec = &pod["spec"];
    let wanted =
        "--config /etc/dolibarr-backup/dolibarr-backup.toml backup --env prod --here --force --json".split(' ');
    assert_eq!(spec["containers"][0]["args"], json!(wanted.collect::<Vec<_>>()));
    assert_eq!(spec["restartPolicy"], "Never");
    assert_eq!((&job["spec"]["backoffLimit"], &job["spec"]["activeDeadlineSeconds"]), (&json!(0), &json!(7200)));
    assert!(job["spec"]["ttlSecondsAfterFinished"].as_i64().is_some_and(|seconds| seconds <= 3_600), "{job}");
    let [secret] = &secrets[..] else { panic!("expected exactly one Secret: {secrets:?}") };
    let volumes: Vec<&Value> = spec["volumes"].as_array().unwrap().iter().filter(|v| !v["secret"].is_null()).collect();
    assert_eq!(volumes.len(), 1, "the borrowed Secret must replace the operator's: {volumes:?}");
    assert_eq!(
        (&volumes[0]["secret"]["secretName"], &volumes[0]["secret"]["defaultMode"]),
        (&json!(secret), &json!(288))
    );
    let owned = laptop.cluster.list("secrets", &laptop.namespace);
    let owned = owned.iter().find(|one| one["metadata"]["name"] == json!(secret)).unwrap();
    assert_eq!(owned["metadata"]["ownerReferences"][0]["uid"], job["metadata"]["uid"]);
    assert_eq!(owned["data"]["AWS_SECRET_ACCESS_KEY"], KEY_SEALED);

    laptop.kubelet.bind(&pod);
    let result = json!({ "format_version": 1, "snapshot": "20260630T010000Z" }).to_string();
    laptop.kubelet.run(&pod, &["fingerprinting", "dumping"]);
    std::thread::sleep(std::time::Duration::from_secs(3));
    laptop.kubelet.end(&pod, 0, "Completed", &["fingerprinting", "dumping", "committed", &result]);

    let outcome = run.finish().expect_code(0);
    let document = outcome.json();
    assert_eq!((&document["snapshot"], &document["job"]["exit_code"]), (&json!("20260630T010000Z"), &json!(0)));
    for line in ["fingerprinting", "dumping", "committed"] {
        assert_eq!(outcome.stderr.lines().filter(|shown| *shown == line).count(), 1, "{line}: {}", outcome.stderr);
    }
    laptop.assert_nothing_is_left();

    let audit = laptop.cluster.audit(&laptop.user);
    let done: BTreeSet<(String, String)> = audit.iter().map(asked).collect();
    let allowed: BTreeSet<(String, String)> = ALLOWED.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
    assert_eq!(done, allowed, "docs/kubernetes.md lists another set");
    // Older servers have CronJobs only in an older API version, and answer 404 once.
    let codes: BTreeSet<u64> = audit.iter().filter_map(|event| event["responseStatus"]["code"].as_u64()).collect();
    assert!(codes.iter().all(|code| *code < 300 || *code == 404), "something was refused: {codes:?}");
    let carrying: Vec<_> = audit.iter().filter(|event| holds_a_value(&event["requestObject"])).map(asked).collect();
    assert_eq!(carrying, [("create".to_owned(), "secrets".to_owned())]);
    for text in [&outcome.stdout, &outcome.stderr] {
        assert!(!is_secret(text), "{text}");
    }
    assert!(audit.iter().all(|event| !is_secret(event["requestURI"].as_str().unwrap_or_default())));
}

fn asked(event: &Value) -> (String, String) {
    let of = &event["objectRef"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let resource = match text(&of["subresource"]) {
        none if none.is_empty() => text(&of["resource"]),
        sub => format!("{}/{sub}", text(&of["resource"])),
    };
    (text(&event["verb"]), resource)
}

fn holds_a_value(object: &Value) -> bool {
    is_secret(&object.to_string())
}

fn is_secret(text: &str) -> bool {
    [KEY_ID, KEY, KEY_ID_SEALED, KEY_SEALED].iter().any(|value| text.contains(value))
}

#[test]
fn a_job_ends_with_its_own_exit_code_and_one_that_is_interrupted_is_stopped_or_left() {
    let Some(laptop) = Laptop::new() else { return };
    for (code, reason, expected) in [(75, "Error", 75), (3, "Error", 3), (137, "OOMKilled", 1)] {
        let run = laptop.command(["backup", "--env", "prod"]).start();
        let pod = laptop.kubelet.pod_of(&laptop.namespace);
        laptop.kubelet.bind(&pod);
        laptop.kubelet.end(&pod, code, reason, &["the store does not answer"]);
        let outcome = run.finish();
        crate::scene::complains(&outcome, expected, &format!("ended with {code} ({reason})"));
        assert!(outcome.stderr.contains("the store does not answer"), "{}", outcome.stderr);
        laptop.assert_nothing_is_left();
    }

    for leave in [false, true] {
        let more = if leave { &["--leave-on-interrupt"][..] } else { &[] };
        let run = laptop.command(["backup", "--env", "prod"].into_iter().chain(more.iter().copied())).start();
        let pod = laptop.kubelet.pod_of(&laptop.namespace);
        laptop.kubelet.bind(&pod);
        laptop.kubelet.run(&pod, &["dumping"]);
        crate::scene::signal(run.id(), rustix::process::Signal::INT);
        let outcome = run.finish();
        crate::scene::complains(&outcome, 130, if leave { "keeps running" } else { "was stopped" });
        if leave {
            assert_eq!(laptop.jobs().len(), 1);
            laptop.kubelet.end(&pod, 0, "Completed", &["dumping"]);
            let shorter = r#"{"spec": {"ttlSecondsAfterFinished": 1}}"#;
            let jobs = laptop.jobs();
            laptop.cluster.kubectl(
                &["patch", "job", &jobs[0], "--namespace", &laptop.namespace, "--type=merge", "--patch", shorter],
                "",
            );
            laptop.assert_nothing_is_left();
        } else {
            // Only its node can remove a pod that runs there. The test does it instead.
            let name = pod["metadata"]["name"].as_str().unwrap();
            laptop.cluster.wait("deletion of the pod", || {
                let pods = laptop.cluster.list("pods", &laptop.namespace);
                pods.iter().all(|pod| !pod["metadata"]["deletionTimestamp"].is_null()).then_some(())
            });
            drop(laptop.cluster.try_kubectl(
                &["delete", "pod", name, "--namespace", &laptop.namespace, "--grace-period=0", "--force"],
                "",
            ));
            laptop.assert_nothing_is_left();
        }
    }
}

#[test]
fn without_a_chart_the_host_writes_a_restricted_job_itself() {
    let Some(laptop) = Laptop::new() else { return };
    laptop.write(&format!(
        "[env.prod]\nrun = \"job\"\n[env.prod.job]\nnamespace = \"{}\"\n[env.prod.job.template]\n\
         image = \"registry.example.org/dolibarr-backup:1\"\nconfig_map = \"dolibarr-backup\"\nrun_as_user = 33\n\
         claims = {{ dolibarr-documents = \"/var/www/documents\" }}\nsecrets = {{ db = \"/run/secrets/db\" }}\n",
        laptop.namespace
    ));
    let run = laptop.command(["backup", "--env", "prod"]).start();
    let pod = laptop.kubelet.pod_of(&laptop.namespace);
    let (spec, container) = (&pod["spec"], &pod["spec"]["containers"][0]);
    assert_eq!(
        container["args"],
        json!(["--config", "/etc/dolibarr-backup/dolibarr-backup.toml", "backup", "--env", "prod", "--here"])
    );
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
    assert_eq!(container["securityContext"]["capabilities"]["drop"], json!(["ALL"]));
    assert_eq!(
        (&spec["securityContext"]["runAsNonRoot"], &spec["securityContext"]["runAsUser"]),
        (&json!(true), &json!(33))
    );
    assert_eq!(spec["automountServiceAccountToken"], false);
    let claims: Vec<&Value> =
        spec["volumes"].as_array().unwrap().iter().filter(|v| !v["persistentVolumeClaim"].is_null()).collect();
    assert_eq!(claims[0]["persistentVolumeClaim"], json!({ "claimName": "dolibarr-documents", "readOnly": true }));
    laptop.kubelet.bind(&pod);
    laptop.kubelet.end(&pod, 0, "Completed", &["saved"]);
    let outcome = run.finish().expect_code(0);
    assert!(outcome.stdout.contains("ended with 0 (Completed)"), "{}", outcome.stdout);
    laptop.assert_nothing_is_left();
}
