//! Table tests of the pure functions that decide about a Job. The end-to-end suite runs the binary against a real API
//! server.

use super::follow::{Followed, Seen, Verdict, judge};
use super::template::{self, Plan, compose};
use super::*;
use base::error::Class;
use base::reference::is_label;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

fn config(more: &str) -> template::JobConfig {
    let text = format!("namespace = \"erp\"\ncron_job = \"backup\"\n{more}");
    toml::from_str(&text).unwrap()
}

fn template(containers: &Value, volumes: &Value) -> Value {
    json!({ "spec": { "template": { "spec": { "containers": containers, "volumes": volumes } } } })
}

fn composed(config: &template::JobConfig, template: &Value, secrets: &[(&str, &str)]) -> Value {
    let secrets: BTreeMap<String, String> =
        secrets.iter().map(|(place, name)| ((*place).to_owned(), (*name).to_owned())).collect();
    let plan = Plan { name: "j", environment: "prod", arguments: &["--json".to_owned()], secrets: &secrets };
    compose(config, template, &plan).unwrap()
}

#[test]
fn references_and_namespaces_must_be_valid_names() {
    for (text, good) in [
        ("erp/s3", true),
        ("longhorn-system/longhorn-gcs-backup-credentials", true),
        ("erp/a.b", true),
        ("erp", false),
        ("erp/", false),
        ("/s3", false),
        ("erp/s3/x", false),
        ("../s3", false),
        ("a.b/s3", false),
        ("erp/S3", false),
        ("erp/-s3", false),
        ("", false),
    ] {
        assert_eq!(Reference::try_from(text.to_owned()).is_ok(), good, "{text}");
    }
    assert!(Namespace::try_from("x".repeat(64)).is_err() && Namespace::try_from("x".repeat(63)).is_ok());
}

#[test]
fn the_command_keeps_the_arguments_before_backup_and_replaces_the_others() {
    for (command, args, expected_command, expected) in [
        (
            json!(null),
            json!(["--config", "/c", "backup", "--env", "x", "--force"]),
            json!(null),
            &["--config", "/c"][..],
        ),
        (json!(null), json!(["backup"]), json!(null), &[]),
        (json!(null), json!(null), json!(null), &[]),
        (json!(["dolibarr-backup"]), json!(["--json", "backup"]), json!(["dolibarr-backup"]), &["--json"]),
        (json!(["b", "--config", "/c", "backup", "--env"]), json!(null), json!(["b", "--config", "/c"]), &[]),
    ] {
        let mut container = json!({ "name": "c", "args": args });
        if !command.is_null() {
            container["command"] = command;
        }
        let job = composed(&config(""), &template(&json!([container]), &json!([])), &[]);
        let made = &job["spec"]["template"]["spec"]["containers"][0];
        let own = ["backup", "--env", "prod", "--here", "--json"];
        let wanted: Vec<&str> = expected.iter().copied().chain(own).collect();
        assert_eq!((&made["args"], made.get("command").unwrap_or(&Value::Null)), (&json!(wanted), &expected_command));
    }
}

#[test]
fn a_borrowed_secret_replaces_only_the_mount_at_its_place() {
    let lent = config("secrets.s3 = { from = \"a/b\", mount = \"/run/secrets/s3\" }");
    let mounts =
        json!([{ "name": "old", "mountPath": "/run/secrets/s3" }, { "name": "db", "mountPath": "/run/secrets/db" }]);
    let volumes =
        json!([{ "name": "old", "secret": { "secretName": "x" } }, { "name": "db", "secret": { "secretName": "y" } }]);
    let names = |job: &Value| -> Vec<String> {
        let all = job["spec"]["template"]["spec"]["volumes"].as_array().unwrap().clone();
        all.iter().map(|volume| volume["name"].as_str().unwrap().to_owned()).collect()
    };
    let one = json!({ "name": "c", "volumeMounts": mounts });
    let job = composed(&lent, &template(&json!([one]), &volumes), &[("s3", "j-s3")]);
    assert_eq!(names(&job), ["db", "borrowed-s3"]);
    assert_eq!(job["spec"]["template"]["spec"]["volumes"][1]["secret"]["secretName"], "j-s3");

    // Another container still uses the volume.
    let two = json!({ "name": "other", "volumeMounts": [{ "name": "old", "mountPath": "/x" }] });
    let named = template::JobConfig { container: Some("c".into()), ..lent.clone() };
    let job = composed(&named, &template(&json!([one, two]), &volumes), &[("s3", "j-s3")]);
    assert_eq!(names(&job), ["old", "db", "borrowed-s3"]);
    assert_eq!(job["spec"]["template"]["spec"]["containers"][1], two);

    // If the plugin leaves the Secret out, the template's own stays.
    let job = composed(&lent, &template(&json!([one]), &volumes), &[]);
    assert_eq!(names(&job), ["old", "db"]);
}

#[test]
fn a_job_has_one_pod_and_a_deadline() {
    let mut base = template(&json!([{ "name": "c" }]), &json!([]));
    for (field, value) in [
        ("parallelism", json!(5)),
        ("completions", json!(5)),
        ("suspend", json!(true)),
        ("activeDeadlineSeconds", json!(7_200)),
        ("podFailurePolicy", json!({ "rules": [] })),
        ("ttlSecondsAfterFinished", json!(999_999)),
    ] {
        base["spec"][field] = value;
    }
    base["spec"]["template"]["metadata"] = json!({ "labels": { "app": "x", "job-name": "y", "controller-uid": "z" } });
    let spec = composed(&config(""), &base, &[])["spec"].clone();
    assert_eq!((&spec["parallelism"], &spec["completions"], &spec["backoffLimit"]), (&json!(1), &json!(1), &json!(0)));
    assert_eq!(spec["activeDeadlineSeconds"], 7_200);
    let lent = composed(&config("secrets.s3 = { from = \"a/b\", mount = \"/s3\" }"), &base, &[("s3", "j-s3")]);
    assert_eq!(lent["spec"]["activeDeadlineSeconds"], json!(template::UNSTARTED_SECONDS_MAX));
    assert!(spec["ttlSecondsAfterFinished"].as_i64() <= Some(3_600));
    assert!(spec.get("suspend").is_none() && spec.get("podFailurePolicy").is_none());
    let labels = &spec["template"]["metadata"]["labels"];
    assert_eq!((&labels["app"], labels.get("job-name"), labels.get("controller-uid")), (&json!("x"), None, None));
    assert_eq!(config("").limit(&base), 7_200);
    assert_eq!(config("deadline_seconds = 60").limit(&base), 60);
}

#[test]
fn with_several_containers_one_must_be_named() {
    let two = template(&json!([{ "name": "a" }, { "name": "b" }]), &json!([]));
    let error = template::container_of(&config(""), &two).unwrap_err();
    assert!(error.message().contains("`a`, `b`") && error.advice().unwrap().contains("container"), "{error:?}");
    assert_eq!(template::container_of(&config("container = \"b\""), &two).unwrap(), "b");
    assert!(template::container_of(&config("container = \"c\""), &two).is_err());
    assert!(template::container_of(&config(""), &json!({})).is_err());
}

#[test]
fn a_jobs_name_always_fits_a_label() {
    for environment in ["prod", &"x".repeat(63), "a-very-long-name-of---x"] {
        let name = template::job_name(environment, "20260630T010000Z", u32::MAX);
        assert!(is_label(&name), "{name}");
    }
}

fn followed() -> Followed {
    Followed {
        namespace: "erp".to_owned().try_into().unwrap(),
        job: "j".into(),
        container: "c".into(),
        patience: Duration::from_secs(60),
    }
}

fn pod(phase: &str, state: &Value) -> Value {
    json!({
        "metadata": { "name": "p" },
        "status": { "phase": phase, "containerStatuses": [{ "name": "c", "state": state }] },
    })
}

fn judged(seen: &Seen, waited: u64) -> Verdict {
    judge(seen, &followed(), Duration::from_secs(waited))
}

#[test]
fn a_pods_state_decides_whether_to_wait_read_the_log_or_end() {
    let with = |pod: Value| Seen { job: Some(json!({})), pod: Some(pod), events: vec![] };
    let ended = pod("Failed", &json!({ "terminated": { "exitCode": 75, "reason": "Error" } }));
    assert_eq!(judged(&with(ended.clone()), 0), Verdict::Ended(75, "Error".into()));
    assert_eq!(judged(&Seen { job: None, ..with(ended) }, 0), Verdict::Ended(75, "Error".into()));
    assert_eq!(judged(&with(pod("Running", &json!({ "running": {} }))), 999), Verdict::Running);
    assert_eq!(judged(&with(pod("Pending", &json!({}))), 59), Verdict::Wait);
    let class = |seen: &Seen, waited| match judged(seen, waited) {
        Verdict::Never(error) => Some(error.class()),
        _ => None,
    };
    assert_eq!(class(&with(pod("Pending", &json!({}))), 60), Some(Class::Unavailable));
    for (reason, at_once, later) in [
        ("ImagePullBackOff", Some(Class::Config), Some(Class::Config)),
        ("ErrImagePull", None, Some(Class::Config)),
        ("CreateContainerConfigError", Some(Class::Config), Some(Class::Config)),
        ("PodInitializing", None, Some(Class::Unavailable)),
    ] {
        let seen = with(pod("Pending", &json!({ "waiting": { "reason": reason } })));
        assert_eq!((class(&seen, 0), class(&seen, 60)), (at_once, later), "{reason}");
    }
    let evicted =
        json!({ "metadata": { "name": "p" }, "status": { "phase": "Failed", "reason": "Evicted", "message": "disk" } });
    assert_eq!(class(&with(evicted), 0), Some(Class::Unavailable));
}

#[test]
fn a_job_without_a_pod_is_awaited_unless_the_refusal_is_permanent() {
    let seen = |job: Option<Value>, events: Vec<Value>| Seen { job, pod: None, events };
    let created = |message: &str| vec![json!({ "reason": "FailedCreate", "type": "Warning", "message": message })];
    let condition = |kind: &str, reason: &str| json!({ "status": { "conditions": [{ "type": kind, "status": "True", "reason": reason, "message": "m" }] } });
    let class = |seen: &Seen, waited| match judged(seen, waited) {
        Verdict::Never(error) => Some(error.class()),
        _ => None,
    };
    assert_eq!(judged(&seen(Some(json!({})), vec![]), 0), Verdict::Wait);
    assert_eq!(class(&seen(Some(json!({})), vec![]), 60), Some(Class::Unavailable));
    assert_eq!(class(&seen(None, vec![]), 0), Some(Class::Unexpected));
    let quota = "Error creating: pods \"x\" is forbidden: exceeded quota: none";
    assert_eq!(class(&seen(Some(json!({})), created(quota)), 0), Some(Class::Config));
    assert_eq!(judged(&seen(Some(json!({})), created("Error creating: timed out")), 0), Verdict::Wait);
    assert_eq!(class(&seen(Some(json!({})), created("Error creating: timed out")), 60), Some(Class::Config));
    assert_eq!(class(&seen(Some(condition("Failed", "DeadlineExceeded")), vec![]), 0), Some(Class::Unexpected));
    assert_eq!(judged(&seen(Some(condition("Complete", "")), vec![]), 0), Verdict::Ended(0, "Completed".into()));
    let Verdict::Never(error) = judged(&seen(Some(condition("Failed", "a\u{1b}b")), vec![]), 0) else { panic!() };
    assert!(!error.message().contains('\u{1b}'));
}
