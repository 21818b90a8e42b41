//! Which values are refused, and whether the README agrees with `values.yaml`.

use super::{prod_with, render};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tests::helm::Helm;

#[test]
fn nonsense_is_refused_by_name() {
    let Some(engine) = Helm::installed() else { return };
    let table = [
        ("nonsense", json!(1), "nonsense"),
        ("backup.shedule", json!("0 1 * * *"), "shedule"),
        ("backup.schedule", json!("every night"), "schedule"),
        ("backup.schedule", json!("0 1 * *"), "schedule"),
        ("backup.enabled", json!("yes"), "enabled"),
        ("backup.retries", json!(-1), "retries"),
        ("backup.activeDeadlineSeconds", json!(0), "activeDeadlineSeconds"),
        ("init", json!({"onUpgrade": "once"}), "onUpgrade"),
        ("init", json!({"activeDeadlineSeconds": 1}), "activeDeadlineSeconds"),
        ("init", json!({"schedule": "0 1 * * *"}), "schedule"),
        ("environment", json!("Prod/x"), "environment"),
        ("timeZone", json!("0 1"), "timeZone"),
        ("image", json!({"repository": "r", "digest": "sha256:12"}), "digest"),
        ("image", json!({"repository": "r", "pullPolicy": "Sometimes"}), "pullPolicy"),
        ("store.url", json!("https://example.org/bucket"), "url"),
        ("store.url", json!("s3://example-backup/erp?versionId=1"), "url"),
        ("store.profile", json!("floppy"), "profile"),
        ("store.endpoint", json!("storage.googleapis.com"), "endpoint"),
        ("store.vault", json!({"refreshAfter": "soon"}), "refreshAfter"),
        ("database.host", json!("db-0,,db-1"), "host"),
        ("database.port", json!(70_000), "port"),
        ("database.targetSessionAttrs", json!("nearest"), "targetSessionAttrs"),
        ("database.sslMode", json!("sometimes"), "sslMode"),
        ("database.password", json!("hunter2"), "password"),
        ("documents.subPath", json!("../other"), "subPath"),
        ("documents.subPath", json!("/absolute"), "subPath"),
        ("extraFolders", json!([{"name": "docs", "claimName": "x"}]), "extraFolders"),
        ("extraFolders", json!([{"name": "environment", "claimName": "x"}]), "extraFolders"),
        ("pinned", json!(["yesterday"]), "pinned"),
        ("guard", json!({"minAge": "a day"}), "minAge"),
        ("guard", json!({"fiscalYearEnd": "13-01"}), "fiscalYearEnd"),
        ("guard", json!({"binDays": "7d"}), "binDays"),
        ("guard", json!({"binDays": -1}), "binDays"),
        ("plugins", json!({"retention": {"component": "oci://registry.example.org/x:latest"}}), "component"),
        ("plugins", json!({"retention": {"grants": "all"}}), "grants"),
        ("plugins", json!({"signedBy": "RWQ"}), "signedBy"),
        ("plugins", json!({"dump": {"signedBy": "hunter2"}}), "signedBy"),
        ("plugins", json!({"retention": {"filters": {"llx_const": "name"}}}), "filters"),
        ("plugins", json!({"fingerprint": {"filters": {"llx_const": ["name"]}}}), "filters"),
        ("pod", json!({"runAsUser": 0}), "runAsUser"),
        ("pod", json!({"securityContext": {"privileged": true}}), "securityContext"),
        ("networkPolicy", json!({"store": {"to": [{"everywhere": {}}]}}), "everywhere"),
        ("spread", json!({"from": "25:00"}), "from"),
        ("launchers", json!([{"kind": "Robot", "name": "r2"}]), "kind"),
        ("watchers", json!([{"kind": "Robot", "name": "r2"}]), "kind"),
        ("fleet", json!([{"namespace": "erp"}]), "name"),
        ("fleet", json!([{"name": "a", "fleet": []}]), "fleet"),
    ];
    for (path, value, says) in table {
        let answer = render(&engine, &prod_with(&[(path, value.clone())]));
        let error = answer["error"].as_str().unwrap_or_else(|| panic!("{path}: {value} is accepted"));
        assert!(error.contains("schema") || error.contains("at '"), "{path}: not refused by the schema: {error}");
        assert!(error.contains(says), "{path}: {value}: {error}");
    }
}

/// Every leaf of the values by its path, as JSON. An empty object or list is a leaf.
fn leaves(values: &Value, path: &str, into: &mut BTreeMap<String, String>) {
    // A set of labels is one value.
    let whole = path.ends_with(".labels");
    match values.as_object().filter(|object| !object.is_empty() && !whole) {
        Some(object) => {
            for (key, value) in object {
                let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                leaves(value, &below, into);
            }
        }
        None => {
            into.insert(path.to_owned(), values.to_string());
        }
    }
}

#[test]
fn the_readme_has_every_value_and_its_default() {
    let Some(engine) = Helm::installed() else { return };
    let mut expected = BTreeMap::new();
    let defaults = engine.ask(&json!([{"defaults": true}])).unwrap().remove(0);
    leaves(&defaults["defaults"], "", &mut expected);
    let readme = std::fs::read_to_string(tests::workspace_root().join("chart/README.md")).unwrap();
    let rows = readme.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | `"));
    let documented: BTreeMap<_, _> =
        rows.filter_map(|(path, rest)| Some((path.to_owned(), rest.split_once("` | ")?.0.to_owned()))).collect();
    assert_eq!(documented, expected, "chart/README.md and chart/values.yaml differ");
}

#[test]
fn the_chart_is_of_the_same_version_as_the_binary() {
    let read = |name: &str| std::fs::read_to_string(tests::workspace_root().join(name)).unwrap();
    let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
    let version = manifest["workspace"]["package"]["version"].as_str().unwrap();
    let chart = read("chart/Chart.yaml");
    assert!(chart.contains(&format!("\nappVersion: \"{version}\"\n")), "{version} is not in: {chart}");
}
