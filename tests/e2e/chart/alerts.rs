//! The alerts for the CronJobs, checked and fired by Prometheus' promtool, and the dashboard.

use super::{documents, name, of_kind, prod_with};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use tests::helm::{self, Helm};

/// The number of waiting questions in the tests in which any wait.
const QUESTIONS: &str = "2";

/// The labels of the backup's CronJob in the metrics.
const OF: &str = "namespace=\"erp\",cronjob=\"erp-dolibarr-backup\"";

#[test]
fn the_alerts_watch_the_cron_jobs_that_are_rendered() {
    let Some(engine) = Helm::installed() else { return };
    let values = prod_with(&[
        ("monitoring", json!({"prometheusRule": {"enabled": true}})),
        ("drill", json!({"enabled": false})),
    ]);
    let documents = documents(&engine, &values);
    let jobs: BTreeSet<_> = of_kind(&documents, "CronJob").into_iter().map(name).collect();
    let rules = of_kind(&documents, "PrometheusRule")[0]["spec"]["groups"][0]["rules"].as_array().unwrap().clone();
    let alerts: Vec<_> = rules.iter().map(|rule| rule["alert"].as_str().unwrap()).collect();
    let expected = "DolibarrBackupStale DolibarrBackupNever DolibarrBackupVerifyStale DolibarrBackupVerifyNever \
         DolibarrBackupFailed DolibarrBackupGone DolibarrBackupSuspended DolibarrBackupNotWhole \
         DolibarrBackupWaiting";
    assert_eq!(alerts.join(" "), expected);
    for rule in &rules {
        let expression = rule["expr"].as_str().unwrap();
        let watched = expression.split("cronjob=\"").skip(1).map(|rest| rest.split('"').next().unwrap());
        for cronjob in watched {
            assert!(jobs.contains(cronjob), "{cronjob} in {expression} is not one of {jobs:?}");
        }
        let open = |c: char| expression.matches(c).count();
        assert!(open('(') == open(')') && open('{') == open('}'), "{expression}");
    }
}

/// The rendered alert rules.
fn rules(engine: &Helm) -> Value {
    let monitoring = json!({"prometheusRule": {"enabled": true}});
    let values = prod_with(&[("monitoring", monitoring), ("coverage", json!({"enabled": true}))]);
    let documents = documents(engine, &values);
    of_kind(&documents, "PrometheusRule")[0]["spec"].clone()
}

#[track_caller]
fn promtool(program: &Path, arguments: &[&str], folder: &Path) {
    let output = Command::new(program).args(arguments).current_dir(folder).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&text));
}

/// A promtool test of one alert: the input series, one value a minute from time 0, and whether the alert fires after
/// this many hours.
fn fires(rules: &Value, series: &[&(String, &str)], alert: &str, hours: u32, fires: bool) -> Value {
    let all = rules["groups"][0]["rules"].as_array().unwrap();
    let rule = all.iter().find(|rule| rule["alert"] == alert).unwrap_or_else(|| panic!("no alert {alert}"));
    let owner = match alert {
        "DolibarrBackupFailed" => Some("erp-dolibarr-backup-verify"),
        "DolibarrVolumeUncovered" => Some("erp-dolibarr-backup-coverage"),
        _ => None,
    };
    let mut labels = match (owner, alert) {
        (Some(owner), _) => json!({"namespace": "erp", "job_name": "job-1", "owner_name": owner, "condition": "true"}),
        (None, "DolibarrBackupNotWhole") => json!({"env": "prod", "source": "docs"}),
        (None, "DolibarrBackupWaiting") => json!({"env": "prod"}),
        (None, _) => json!({"namespace": "erp", "cronjob": "erp-dolibarr-backup"}),
    };
    for (key, value) in rule["labels"].as_object().unwrap() {
        labels[key] = value.clone();
    }
    let mut annotations = rule["annotations"].to_string();
    for label in ["owner_name", "job_name", "source"] {
        let filled = labels[label].as_str().unwrap_or_default();
        annotations = annotations.replace(&format!("{{{{ $labels.{label} }}}}"), filled);
    }
    let annotations = annotations.replace("{{ $value }}", QUESTIONS);
    let annotations: Value = serde_json::from_str(&annotations).unwrap();
    let expected = if fires { json!([{"exp_labels": labels, "exp_annotations": annotations}]) } else { json!([]) };
    let series: Vec<_> = series.iter().map(|(series, values)| json!({"series": series, "values": values})).collect();
    json!({
        "interval": "1m",
        "input_series": series,
        "alert_rule_test": [{"eval_time": format!("{hours}h"), "alertname": alert, "exp_alerts": expected}],
    })
}

#[test]
fn alerts_fire_when_they_should_and_not_before() {
    let Some(engine) = Helm::installed() else { return };
    let Some(program) = helm::promtool() else { return };
    let rules = rules(&engine);
    let succeeded = (format!("kube_cronjob_status_last_successful_time{{{OF}}}"), "0x3000");
    let created = (format!("kube_cronjob_created{{{OF}}}"), "0x3000");
    let there = (format!("kube_cronjob_info{{{OF}}}"), "1x3000");
    let suspended = (format!("kube_cronjob_spec_suspend{{{OF}}}"), "1x3000");
    let job = "namespace=\"erp\",job_name=\"job-1\"";
    let failed = (format!("kube_job_failed{{{job},condition=\"true\"}}"), "1x3000");
    let owner =
        |name: &str| (format!("kube_job_owner{{{job},owner_kind=\"CronJob\",owner_name=\"{name}\"}}"), "1x3000");
    let (ours, other) = (owner("erp-dolibarr-backup-verify"), owner("erp-dolibarr-backup-of-others"));
    let coverage = owner("erp-dolibarr-backup-coverage");
    let both = [&succeeded, &created];
    let tests = [
        fires(&rules, &both, "DolibarrBackupStale", 26, false),
        fires(&rules, &both, "DolibarrBackupStale", 27, true),
        fires(&rules, &[&created], "DolibarrBackupStale", 40, false),
        fires(&rules, &[&created], "DolibarrBackupNever", 26, false),
        fires(&rules, &[&created], "DolibarrBackupNever", 27, true),
        fires(&rules, &both, "DolibarrBackupNever", 40, false),
        fires(&rules, &[&failed, &ours], "DolibarrBackupFailed", 1, true),
        fires(&rules, &[&failed, &other], "DolibarrBackupFailed", 1, false),
        fires(&rules, &[&failed, &ours], "DolibarrVolumeUncovered", 1, false),
        fires(&rules, &[&failed, &coverage], "DolibarrVolumeUncovered", 1, true),
        fires(&rules, &[&failed, &coverage], "DolibarrBackupFailed", 1, false),
        fires(&rules, &[&there], "DolibarrBackupGone", 3, false),
        fires(&rules, &[], "DolibarrBackupGone", 3, true),
        fires(&rules, &[&suspended], "DolibarrBackupSuspended", 23, false),
        fires(&rules, &[&suspended], "DolibarrBackupSuspended", 25, true),
    ];
    test_rules(&program, &rules, &tests);
}

/// Checks the rules with promtool, and runs the tests.
#[track_caller]
fn test_rules(program: &Path, rules: &Value, tests: &[Value]) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("rules.json"), rules.to_string()).unwrap();
    let suite = json!({"rule_files": ["rules.json"], "evaluation_interval": "1m", "tests": tests});
    std::fs::write(folder.path().join("tests.json"), suite.to_string()).unwrap();
    promtool(program, &["check", "rules", "rules.json"], folder.path());
    promtool(program, &["test", "rules", "tests.json"], folder.path());
}

#[test]
fn alerts_on_what_the_store_shows_fire_where_its_metrics_are_collected_and_nowhere_else() {
    let Some(engine) = Helm::installed() else { return };
    let Some(program) = helm::promtool() else { return };
    let rules = rules(&engine);
    let whole = |labels: &str, value| (format!("dolibarr_backup_source_whole{{{labels}}}"), value);
    let waiting = |labels: &str, value| (format!("dolibarr_backup_waiting{{{labels}}}"), value);
    let database = whole("env=\"prod\",source=\"db\"", "1x3000");
    let documents = whole("env=\"prod\",source=\"docs\"", "0x3000");
    let mended = whole("env=\"prod\",source=\"docs\"", "0x10 1x3000");
    // With the labels that the collector's scrape adds, and with those that a fleet's metrics have.
    let scraped = whole("env=\"prod\",source=\"docs\",namespace=\"monitoring\",job=\"node\"", "0x3000");
    let of_fleet = whole("env=\"prod\",source=\"docs\",namespace=\"erp\",cronjob=\"erp-dolibarr-backup\"", "0x3000");
    let of_another = whole("env=\"prod\",source=\"docs\",namespace=\"x\",cronjob=\"x-dolibarr-backup\"", "0x3000");
    let sandbox = whole("env=\"sandbox\",source=\"docs\"", "0x3000");
    let (two, none) = (waiting("env=\"prod\"", "2x3000"), waiting("env=\"prod\"", "0x3000"));
    let others = waiting("env=\"sandbox\"", "2x3000");
    let not_whole = |series: &[&(String, &str)], does| fires(&rules, series, "DolibarrBackupNotWhole", 1, does);
    let tests = [
        not_whole(&[&database, &documents], true),
        not_whole(&[&database], false),
        not_whole(&[&mended], false),
        not_whole(&[&scraped], true),
        not_whole(&[&of_fleet], true),
        not_whole(&[&of_another], false),
        not_whole(&[&sandbox], false),
        not_whole(&[], false),
        fires(&rules, &[&two], "DolibarrBackupWaiting", 2, true),
        fires(&rules, &[&two], "DolibarrBackupWaiting", 0, false),
        fires(&rules, &[&none], "DolibarrBackupWaiting", 2, false),
        fires(&rules, &[&others], "DolibarrBackupWaiting", 2, false),
        fires(&rules, &[], "DolibarrBackupWaiting", 2, false),
    ];
    test_rules(&program, &rules, &tests);
    let all = rules["groups"][0]["rules"].as_array().unwrap();
    for (alert, severity) in [("DolibarrBackupNotWhole", "critical"), ("DolibarrBackupWaiting", "warning")] {
        let rule = all.iter().find(|rule| rule["alert"] == alert).unwrap();
        assert_eq!(rule["labels"], json!({"severity": severity, "environment": "prod"}));
        let description = rule["annotations"]["description"].as_str().unwrap();
        for command in ["dolibarr-backup status", "dolibarr-backup accept --env prod"] {
            assert!(description.contains(command), "{alert}: {description}");
        }
    }
}

#[test]
fn the_dashboards_queries_are_such() {
    let Some(program) = helm::promtool() else { return };
    let text = std::fs::read_to_string(tests::workspace_root().join("chart/dashboards/dolibarr-backup.json")).unwrap();
    let dashboard: Value =
        serde_json::from_str(&text.replace("$namespace", "erp").replace("$cronjob", "backup")).unwrap();
    let targets = dashboard["panels"].as_array().unwrap().iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let rules: Vec<_> = targets
        .enumerate()
        .map(|(at, target)| json!({"record": format!("panel:{at}"), "expr": target["expr"]}))
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let groups = json!({"groups": [{"name": "dashboard", "rules": rules}]});
    std::fs::write(folder.path().join("rules.json"), groups.to_string()).unwrap();
    promtool(&program, &["check", "rules", "rules.json"], folder.path());
}

#[test]
fn the_dashboard_is_json_whose_panels_do_not_overlap() {
    let Some(engine) = Helm::installed() else { return };
    let documents = documents(&engine, &prod_with(&[("monitoring", json!({"dashboard": {"enabled": true}}))]));
    let dashboard = of_kind(&documents, "ConfigMap").into_iter().find(|map| name(map).ends_with("-dashboard")).unwrap();
    assert_eq!(dashboard["metadata"]["labels"]["grafana_dashboard"], "1");
    let json: Value = serde_json::from_str(dashboard["data"]["dolibarr-backup.json"].as_str().unwrap()).unwrap();
    let mut cells = BTreeSet::new();
    for panel in json["panels"].as_array().unwrap() {
        let at = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        for (x, y) in (at("x")..at("x") + at("w")).flat_map(|x| (at("y")..at("y") + at("h")).map(move |y| (x, y))) {
            assert!(x < 24 && cells.insert((x, y)), "{} overlaps another panel", panel["title"]);
        }
        assert!(panel["targets"][0]["expr"].as_str().is_some_and(|expr| !expr.is_empty()), "{}", panel["title"]);
    }
}
