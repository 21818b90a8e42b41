//! The chart, rendered by Helm 3 and 4: what values produce, what is refused, and whether the binary accepts the
//! configuration. Nothing here needs a cluster.

mod alerts;
mod apart;
mod cluster;
mod config;
mod init;
mod pods;
mod tenants;
mod values;

use serde_json::{Value, json};
use std::collections::BTreeSet;
use tests::helm::{self, Helm};

/// The oldest Kubernetes that the chart supports, the last one without image volumes, and newer ones.
const KUBERNETES: [&str; 5] = ["1.27", "1.30", "1.31", "1.34", "1.37"];

/// Complete values of one instance.
fn prod() -> Value {
    json!({
        "environment": "prod",
        "image": {"repository": "registry.example.org/dolibarr-backup"},
        "backup": {"enabled": true},
        "store": {"url": "s3://example-backup/erp", "profile": "gcs"},
        "database": {"host": "postgres.tools", "name": "erp"},
        "documents": {"claimName": "dolibarr-documents"},
    })
}

/// The same values with changes, each as a path such as `store.url` and the new value.
fn prod_with(changes: &[(&str, Value)]) -> Value {
    changes.iter().fold(prod(), |values, (path, value)| with(values, path, value.clone()))
}

fn with(mut values: Value, path: &str, value: Value) -> Value {
    let mut place = &mut values;
    for key in path.split('.') {
        place = &mut place[key];
    }
    *place = value;
    values
}

fn request(helm: u8, values: &Value) -> Value {
    json!({"helm": helm, "name": "erp", "namespace": "erp", "values": values})
}

/// Renders values with Helm 4 and returns its answer.
#[track_caller]
fn render(engine: &Helm, values: &Value) -> Value {
    engine.ask(&json!([request(4, values)])).unwrap().remove(0)
}

/// Renders values, which must succeed, and returns the documents.
#[track_caller]
fn documents(engine: &Helm, values: &Value) -> Vec<Value> {
    let mut answer = render(engine, values);
    assert!(answer["error"].is_null(), "{}", answer["error"]);
    serde_json::from_value(answer["documents"].take()).unwrap()
}

fn of_kind<'a>(documents: &'a [Value], kind: &str) -> Vec<&'a Value> {
    documents.iter().filter(|document| document["kind"] == kind).collect()
}

fn name(document: &Value) -> &str {
    document["metadata"]["name"].as_str().unwrap()
}

#[test]
fn the_defaults_render_nothing_at_all() {
    let Some(engine) = Helm::installed() else { return };
    for answer in engine.ask(&json!([request(3, &json!({})), request(4, &json!({}))])).unwrap() {
        assert_eq!(answer["documents"], json!([]), "{answer}");
    }
    let notes = render(&engine, &json!({}))["notes"].as_str().unwrap().to_owned();
    for step in ["vault kv put -mount=kvv2 erp/backup", "kvv2/data/erp/backup", "--set backup.enabled=true"] {
        assert!(notes.contains(step), "{step} is not in: {notes}");
    }
}

#[test]
fn the_notes_of_an_enabled_release_say_how_to_check_it() {
    let Some(engine) = Helm::installed() else { return };
    let notes = render(&engine, &prod())["notes"].as_str().unwrap().to_owned();
    for line in [
        "backs up 1 instance:",
        "at \"0 1 * * *\" Europe/Paris, to s3://example-backup/erp/prod/",
        "helm test erp --namespace erp --logs",
        "create job --from=cronjob/erp-dolibarr-backup",
    ] {
        assert!(notes.contains(line), "`{line}` is not in: {notes}");
    }
}

#[test]
fn enabled_and_nothing_else_names_what_is_missing() {
    let Some(engine) = Helm::installed() else { return };
    let enabled = json!({"backup": {"enabled": true}});
    for answer in engine.ask(&json!([request(3, &enabled), request(4, &enabled)])).unwrap() {
        let error = answer["error"].as_str().unwrap();
        let missing = "backup.enabled is true, and these values are missing: environment, image.repository, store.url, \
                       database.host, database.name, documents.claimName";
        assert!(error.contains(missing), "{error}");
    }
    let table = [
        ("environment", json!(""), "missing: environment"),
        ("documents.claimName", json!(""), "missing: documents.claimName"),
        ("store.url", json!("file:///srv/backup/erp"), "missing: store.volume.claimName"),
        ("store.vault", json!({"enabled": false}), "missing: store.secretName"),
        (
            "store",
            json!({"url": "file:///mnt/erp", "volume": {"claimName": "nas"}}),
            "is not below store.volume.mountPath",
        ),
    ];
    for (path, value, says) in table {
        let error = render(&engine, &prod_with(&[(path, value)]))["error"].to_string();
        assert!(error.contains(says), "{path}: {error}");
    }
}

#[test]
fn every_case_renders_as_it_is_kept_with_both_helms() {
    let Some(engine) = Helm::installed() else { return };
    let advice = "if that is meant, run `cargo xtask chart --renew` and read the difference";
    for case in engine.cases().unwrap() {
        assert_eq!(case.helm3, case.helm4, "{}: Helm 3 and Helm 4 differ", case.name);
        let kept = std::fs::read_to_string(&case.golden).unwrap_or_default();
        assert!(case.helm4 == kept, "{} differs from {}; {advice}", case.name, case.golden.display());
    }
}

#[test]
fn everything_rendered_fits_the_published_schemas() {
    let Some(engine) = Helm::installed() else { return };
    let requests = helm::case_names().unwrap().into_iter().map(|name| {
        // This case uses image volumes, which Kubernetes has only since 1.31. They have their own test.
        let versions = if name == "everything" { &KUBERNETES[2..] } else { &KUBERNETES[..] };
        json!({"helm": 4, "name": "erp", "namespace": "erp", "file": format!("values/{name}.yaml"), "schemas": versions})
    });
    let mut kinds = BTreeSet::new();
    for answer in engine.ask(&requests.collect()).unwrap() {
        assert_eq!(answer["misfits"], json!([]), "{answer}");
        let documents = answer["documents"].as_array().unwrap().iter();
        kinds.extend(documents.map(|document| document["kind"].as_str().unwrap().to_owned()));
    }
    let expected = "ClusterRole ClusterRoleBinding ConfigMap CronJob Job NetworkPolicy Pod PrometheusRule Role RoleBinding \
         ServiceAccount VaultStaticSecret";
    assert!(kinds.iter().eq(expected.split(' ')), "{kinds:?}");
}

#[test]
fn a_misspelt_field_does_not_fit_the_schemas() {
    // If the validator accepted everything, the test above would prove nothing.
    let Some(engine) = Helm::installed() else { return };
    let values = prod_with(&[("networkPolicy.store.to", json!([{"podSelector": {"matchLabel": {"a": "b"}}}]))]);
    let mut request = request(4, &values);
    request["schemas"] = json!(["1.37"]);
    let answer = engine.ask(&json!([request])).unwrap().remove(0);
    assert!(answer["misfits"][0].as_str().unwrap().contains("matchLabel"), "{answer}");
}

#[test]
fn volumes_from_images_need_a_kubernetes_that_has_them() {
    let Some(engine) = Helm::installed() else { return };
    let values = prod_with(&[("plugins", json!({"image": {"reference": "registry.example.org/plugins:1"}}))]);
    let at = |version: &str| {
        let mut request = request(3, &values);
        request["kube"] = version.into();
        engine.ask(&json!([request])).unwrap().remove(0)
    };
    let error = at("1.30.4")["error"].to_string();
    assert!(error.contains("plugins.image needs Kubernetes 1.31 or newer") && error.contains("1.30.4"), "{error}");
    assert!(at("1.31.0")["text"].as_str().unwrap().contains("reference: registry.example.org/plugins:1"));
    let error = at("1.26.9")["error"].to_string();
    assert!(error.contains("1.27.0"), "this Kubernetes is older than the chart supports: {error}");
}
