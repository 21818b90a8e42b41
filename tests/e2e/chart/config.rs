//! The binary reads the configuration in the ConfigMap.

use super::{documents, name, of_kind, prod, prod_with, render};
use crate::scene::{DATABASE, Scene};
use serde_json::{Value, json};
use std::path::Path;
use tests::binary::Run;
use tests::helm::{self, Helm};

/// The one configuration in rendered documents.
fn config(documents: &[Value]) -> String {
    let maps = of_kind(documents, "ConfigMap").into_iter();
    let texts: Vec<_> = maps.filter_map(|map| map["data"]["dolibarr-backup.toml"].as_str()).collect();
    assert_eq!(texts.len(), 1);
    texts[0].to_owned()
}

/// Replaces external components in a line with built ones, and removes digests and keys, which do not match the build.
fn with_built_components(line: &str) -> Option<String> {
    let elsewhere = line.starts_with("component = \"oci:");
    let line = if elsewhere { "component = \"retention-last.wasm\"" } else { line };
    let line = line.replace("/plugins/image/", "").replace("require_digest = true", "require_digest = false");
    (!line.starts_with("sha256 = ") && !line.starts_with("signed_by = ")).then_some(line)
}

#[test]
fn the_binary_takes_the_configuration_of_every_case() {
    let Some(engine) = Helm::installed() else { return };
    let folder = tempfile::tempdir().unwrap();
    let names = helm::case_names().unwrap();
    let request =
        |name: &String| json!({"helm": 4, "name": "erp", "namespace": "erp", "file": format!("values/{name}.yaml")});
    let answers = engine.ask(&names.iter().map(request).collect()).unwrap();
    for (case, answer) in names.iter().zip(answers) {
        let documents = answer["documents"].as_array().unwrap();
        let maps = of_kind(documents, "ConfigMap").into_iter();
        for (map, text) in maps.filter_map(|map| Some((name(map), map["data"]["dolibarr-backup.toml"].as_str()?))) {
            let text: Vec<_> = text.lines().filter_map(with_built_components).collect();
            let text = text.join("\n");
            let file = folder.path().join(format!("{case}-{map}.toml"));
            std::fs::write(&file, text).unwrap();
            let audit = Run::new(["--config", file.to_str().unwrap(), "plugins", "audit", "--strict"]).finish();
            assert_eq!(audit.code, Some(0), "{case}: {}\n{}", audit.stderr, std::fs::read_to_string(file).unwrap());
        }
    }
}

#[test]
fn values_reach_the_configuration_as_they_are() {
    let Some(engine) = Helm::installed() else { return };
    let settings = json!({
        "text": "é \"quoted\" \\ <&> {{ .Values }} \u{1f4e6}", "whole": 14, "large": 3_000_000, "part": 0.5, "yes": true,
        "list": ["a", 2, [false]], "empty": [], "nothing": {}, "below": {"with space": {"deep": "er"}},
    });
    let values = prod_with(&[
        ("plugins", json!({"retention": {"settings": settings}})),
        ("database.name", json!("erp \"x\" \\ '")),
        ("database.host", json!("db-0.example.org,db-1.example.org")),
        ("database.targetSessionAttrs", json!("prefer-standby")),
        ("guard", json!({"maxForget": 2_000_000, "binDays": 0})),
    ]);
    let parsed: toml::Table = config(&documents(&engine, &values)).parse().unwrap();
    assert_eq!(serde_json::to_value(&parsed["plugins"]["retention"]["settings"]).unwrap(), settings);
    assert_eq!(parsed["env"]["prod"]["sources"]["db"]["database"].as_str(), Some("erp \"x\" \\ '"));
    assert_eq!(parsed["guard"]["max_forget"].as_integer(), Some(2_000_000));
    assert_eq!(parsed["guard"]["bin_days"].as_integer(), Some(0));
    let database = &parsed["env"]["prod"]["sources"]["db"];
    assert_eq!(database["port"].as_integer(), Some(5432));
    assert_eq!(database["host"].as_str(), Some("db-0.example.org,db-1.example.org"));
    assert_eq!(database["target_session_attrs"].as_str(), Some("prefer-standby"));
}

/// Writes the files of the ConfigMap with the configuration to a folder, as a pod mounts them.
fn mounted(folder: &Path, documents: &[Value]) {
    let maps = of_kind(documents, "ConfigMap");
    let map = maps.iter().find(|map| map["data"]["dolibarr-backup.toml"].is_string()).unwrap();
    let _ = std::fs::remove_dir_all(folder);
    std::fs::create_dir(folder).unwrap();
    for (name, text) in map["data"].as_object().unwrap() {
        std::fs::write(folder.join(name), text.as_str().unwrap()).unwrap();
    }
}

#[test]
fn a_lock_that_was_written_from_the_rendered_configuration_holds_for_it_and_for_nothing_else() {
    let Some(engine) = Helm::installed() else { return };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("etc");
    let file = folder.join("dolibarr-backup.toml");
    let audit =
        |more: &[&str]| Run::new([&["--config", file.to_str().unwrap(), "plugins", "audit"], more].concat()).finish();
    mounted(&folder, &documents(&engine, &prod()));
    assert_eq!(audit(&["--locked"]).code, Some(64), "no lock is written yet");
    let _ = audit(&["--write"]).expect_code(0);
    let lock = std::fs::read_to_string(folder.join("capabilities.lock")).unwrap();
    let locked = |more: &[(&str, Value)]| {
        let plugins = ("plugins", json!({"lock": lock, "requireLock": true}));
        documents(&engine, &prod_with(&[&[plugins], more].concat()))
    };
    mounted(&folder, &locked(&[]));
    let _ = audit(&["--locked"]).expect_code(0);
    let filters = json!({"llx_facture": "ref"});
    for (name, value) in [
        ("plugins.retention.settings", json!({"daily": 3})),
        ("plugins.dump.grants", json!(["database-dump", "object-write"])),
        ("plugins.fingerprint.filters", filters),
    ] {
        mounted(&folder, &locked(&[(name, value)]));
        let refused = audit(&["--locked"]);
        assert_eq!(refused.code, Some(64), "{name}: {}", refused.stderr);
    }
}

#[test]
fn a_lock_that_is_required_and_missing_renders_nothing() {
    let Some(engine) = Helm::installed() else { return };
    let error = render(&engine, &prod_with(&[("plugins", json!({"requireLock": true}))]))["error"].to_string();
    assert!(error.contains("plugins.lock is empty"), "{error}");
}

#[test]
fn a_run_ends_by_itself_before_its_job_is_killed() {
    let Some(engine) = Helm::installed() else { return };
    let table = [
        (60, "30s"),
        (121, "1m"),
        (599, "299s"),
        (600, "5m"),
        (601, "301s"),
        (7_200, "115m"),
        (21_600, "355m"),
        (604_800, "10075m"),
    ];
    for (job, run) in table {
        let values = prod_with(&[("backup", json!({"enabled": true, "activeDeadlineSeconds": job}))]);
        let parsed: toml::Table = config(&documents(&engine, &values)).parse().unwrap();
        assert_eq!(parsed["deadlines"]["run"].as_str(), Some(run), "the run's deadline in a Job with {job} s");
    }
}

#[test]
fn the_defaults_of_the_chart_are_those_of_the_binary() {
    let Some(engine) = Helm::installed() else { return };
    let folder = tempfile::tempdir().unwrap();
    let audit = |name: &str, text: &str| {
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        let run = Run::new(["--config", file.to_str().unwrap(), "--json", "plugins", "audit"]);
        run.finish().expect_code(0).json()
    };
    let text = config(&documents(&engine, &prod()));
    let plain = text.split("[plugins]").next().unwrap();
    assert_eq!(audit("chart.toml", &text), audit("plain.toml", plain));
    let guard: toml::Table = text.parse().unwrap();
    let expected =
        json!({"legal_years": 10, "fiscal_year_end": "12-31", "min_age": "24h", "max_forget": 50, "bin_days": 7});
    assert_eq!(serde_json::to_value(&guard["guard"]).unwrap(), expected, "the defaults in host/src/guard.rs");
}

#[test]
fn a_real_backup_runs_with_the_rendered_configuration_and_arguments() {
    let Some(engine) = Helm::installed() else { return };
    let Some(scene) = Scene::small() else { return };
    let store = scene.folder.path().join("backup");
    std::fs::create_dir(&store).unwrap();
    let values = prod_with(&[
        (
            "store",
            json!({
                "url": format!("file://{}/erp", store.display()),
                "volume": {"claimName": "nas", "mountPath": store.to_str().unwrap()},
            }),
        ),
        ("database", json!({"host": "127.0.0.1", "port": scene.server.port(), "name": DATABASE})),
    ]);
    let documents = documents(&engine, &values);
    let at = |path: &Path| path.to_str().unwrap().to_owned();
    let text = config(&documents)
        .replace("/run/secrets/db", &at(&scene.folder.path().join("credentials")))
        .replace("/var/www/documents", &at(&scene.documents))
        .replace("/tmp/components", &at(&scene.folder.path().join("components")));
    let file = at(&scene.folder.path().join("rendered.toml"));
    std::fs::write(&file, text).unwrap();
    let container = |document: &Value, path: &str| document.pointer(path).unwrap()["args"].as_array().unwrap().clone();
    let init = container(of_kind(&documents, "Job")[0], "/spec/template/spec/containers/0");
    let test = container(of_kind(&documents, "Pod")[0], "/spec/containers/0");
    let backup = container(of_kind(&documents, "CronJob")[0], "/spec/jobTemplate/spec/template/spec/containers/0");
    for arguments in [&test, &init, &backup] {
        let arguments = arguments.iter().map(|word| word.as_str().unwrap());
        let arguments = arguments.map(|word| if word.ends_with(".toml") { file.as_str() } else { word });
        let outcome = Run::new(arguments).folder(scene.folder.path()).finish();
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    }
    let stored: Vec<_> = store.join("erp/prod/snapshots").read_dir().unwrap().collect();
    assert_eq!(stored.len(), 1, "the dry run wrote nothing, the backup one record");
}
