//! SIGKILL of the laptop's process at each step: once the Job has ended, nothing is left in the namespace.

use super::Laptop;
use serde_json::Value;

/// The request after which the process is killed, as verb and resource in the audit log.
const STEPS: [(&str, &str); 4] = [("create", "jobs"), ("create", "secrets"), ("patch", "jobs"), ("list", "pods")];

#[test]
fn a_laptop_that_is_killed_leaves_nothing_after_the_job_has_ended() {
    let Some(laptop) = Laptop::new() else { return };
    for (verb, resource) in STEPS {
        let before = laptop.cluster.audit(&laptop.user).len();
        let done = || {
            let events = laptop.cluster.audit(&laptop.user);
            events.iter().skip(before).any(|e| e["verb"] == verb && e["objectRef"]["resource"] == resource)
        };
        let killed = laptop.command(["backup", "--env", "prod"]).start().kill_when(done);
        assert_eq!(killed.signal, Some(9), "it ended before {verb} {resource}: {}", killed.stderr);
        let jobs = laptop.cluster.list("jobs", &laptop.namespace);
        let [job] = &jobs[..] else { panic!("expected exactly one Job after {verb} {resource}: {jobs:?}") };
        end(&laptop, job);
        laptop.assert_nothing_is_left();
    }
}

/// Lets the Job end as usual, but sooner: its pod finishes or, if its deadline was never extended, it reaches that.
fn end(laptop: &Laptop, job: &Value) {
    let deadline = job["spec"]["activeDeadlineSeconds"].as_i64().expect("a Job always has a deadline");
    let started = deadline == 7_200;
    assert!(started || deadline <= 120, "a Job without its Secret has a deadline of {deadline} s");
    assert!(job["spec"]["ttlSecondsAfterFinished"].as_i64().is_some_and(|seconds| seconds <= 600), "{job}");
    let sooner = if started {
        let pod = laptop.kubelet.pod_of(&laptop.namespace);
        laptop.kubelet.bind(&pod);
        laptop.kubelet.end(&pod, 0, "Completed", &["saved"]);
        r#"{"spec": {"ttlSecondsAfterFinished": 1}}"#
    } else {
        r#"{"spec": {"ttlSecondsAfterFinished": 1, "activeDeadlineSeconds": 2}}"#
    };
    let name = job["metadata"]["name"].as_str().unwrap();
    let patch = ["patch", "job", name, "--namespace", &laptop.namespace, "--type=merge", "--patch", sooner];
    laptop.cluster.kubectl(&patch, "");
}
