//! The Job that initialises a store: a Helm hook that runs once, with the same pod as the backup.

use super::{documents, name, of_kind, prod, prod_with, render};
use serde_json::{Value, json};
use tests::helm::Helm;

/// The annotations of the one rendered Job.
fn annotations(engine: &Helm, values: &Value) -> Value {
    let documents = documents(engine, values);
    let [job] = of_kind(&documents, "Job")[..] else { panic!("expected exactly one Job") };
    job["metadata"]["annotations"].clone()
}

#[test]
fn a_store_is_initialised_after_the_installation_and_not_by_an_upgrade() {
    let Some(engine) = Helm::installed() else { return };
    let expected = json!({
        "helm.sh/hook": "post-install",
        "helm.sh/hook-delete-policy": "before-hook-creation,hook-succeeded",
        "helm.sh/hook-output-log-policy": "hook-failed",
        "argocd.argoproj.io/hook": "Skip",
    });
    assert_eq!(annotations(&engine, &prod()), expected);
}

#[test]
fn an_upgrade_initialises_a_store_where_the_values_say_so() {
    let Some(engine) = Helm::installed() else { return };
    let annotations = annotations(&engine, &prod_with(&[("init", json!({"onUpgrade": true}))]));
    assert_eq!(annotations["helm.sh/hook"], "post-install,post-upgrade");
    assert!(annotations["argocd.argoproj.io/hook"].is_null(), "{annotations}");
}

#[test]
fn nothing_is_initialised_where_that_is_switched_off() {
    let Some(engine) = Helm::installed() else { return };
    let answer = render(&engine, &prod_with(&[("init", json!({"enabled": false}))]));
    let documents: Vec<Value> = serde_json::from_value(answer["documents"].clone()).unwrap();
    assert!(of_kind(&documents, "Job").is_empty());
    let notes = answer["notes"].as_str().unwrap();
    for line in [
        "This installation does not run `init` for prod.",
        "create job erp-dolibarr-backup-by-hand --from=cronjob/erp-dolibarr-backup --dry-run=client",
        "\"init\",\"--env\",\"prod\"",
    ] {
        assert!(notes.contains(line), "`{line}` is not in: {notes}");
    }
}

#[test]
fn its_pod_is_the_backups_with_another_verb() {
    let Some(engine) = Helm::installed() else { return };
    let request = json!([
        {"helm": 4, "name": "erp", "namespace": "erp", "file": "values/everything.yaml"},
        {"helm": 4, "name": "erp", "namespace": "erp", "file": "values/cluster.yaml"},
        {"helm": 4, "name": "erp", "namespace": "erp", "file": "values/folder.yaml"},
    ]);
    for answer in engine.ask(&request).unwrap() {
        let documents: Vec<Value> = serde_json::from_value(answer["documents"].clone()).unwrap();
        let backup = &of_kind(&documents, "CronJob")[0]["spec"]["jobTemplate"]["spec"];
        let mut init = of_kind(&documents, "Job")[0]["spec"].clone();
        let arguments = &init["template"]["spec"]["containers"][0]["args"];
        let config = "/etc/dolibarr-backup/dolibarr-backup.toml";
        assert_eq!(*arguments, json!(["--config", config, "init", "--env", "prod"]));
        assert_ne!(init["activeDeadlineSeconds"], backup["activeDeadlineSeconds"]);
        // Apart from these fields, the two are equal.
        for place in [
            "/activeDeadlineSeconds",
            "/podFailurePolicy/rules/1/onExitCodes/containerName",
            "/template/metadata/labels/app.kubernetes.io~1component",
            "/template/spec/containers/0/name",
            "/template/spec/containers/0/args",
        ] {
            *init.pointer_mut(place).unwrap() = backup.pointer(place).unwrap().clone();
        }
        assert_eq!(init, *backup);
    }
}

#[test]
fn each_instance_of_a_fleet_has_its_own_job() {
    let Some(engine) = Helm::installed() else { return };
    let request = json!([{"helm": 4, "name": "erp", "namespace": "erp", "file": "values/fleet.yaml"}]);
    let answer = engine.ask(&request).unwrap().remove(0);
    let documents: Vec<Value> = serde_json::from_value(answer["documents"].clone()).unwrap();
    let jobs: Vec<_> = of_kind(&documents, "Job")
        .into_iter()
        .map(|job| {
            let arguments = job["spec"]["template"]["spec"]["containers"][0]["args"].as_array().unwrap();
            let environment = arguments.last().unwrap().as_str().unwrap();
            let hook = job["metadata"]["annotations"]["helm.sh/hook"].as_str().unwrap();
            (name(job), job["metadata"]["namespace"].as_str().unwrap(), environment, hook)
        })
        .collect();
    let expected = [
        ("erp-dolibarr-backup-bakery-init", "bakery", "bakery", "post-install,post-upgrade"),
        ("erp-dolibarr-backup-prod-init", "erp", "prod", "post-install"),
        ("erp-dolibarr-backup-sandbox-init", "erp-sandbox", "sandbox", "post-install"),
    ];
    assert_eq!(jobs, expected);
}
