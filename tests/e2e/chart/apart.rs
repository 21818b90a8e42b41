//! Instances share nothing: neither releases of two environments nor the entries of a fleet.

use super::{documents, of_kind, prod, prod_with, render, with};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use tests::helm::Helm;

/// Number of instances in the fleet whose schedules are checked for their spread.
const FLEET: usize = 50;

/// Everything that a rendering owns or refers to, by kind: names of objects and Secrets with their namespace, Vault
/// paths, prefixes of the store, databases.
fn belongings(documents: &[Value]) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for document in documents {
        // Cluster-wide objects have no namespace.
        let namespace = document["metadata"]["namespace"].as_str().unwrap_or_default();
        all.insert(format!("{} {namespace}/{}", document["kind"], document["metadata"]["name"]));
        referred(document, namespace, &mut all);
        if document["kind"] == "VaultStaticSecret" {
            all.insert(format!("vault {}/{}", document["spec"]["mount"], document["spec"]["path"]));
        }
        if let Some(text) = document["data"]["dolibarr-backup.toml"].as_str() {
            let config: toml::Table = text.parse().unwrap();
            for (environment, of) in config["env"].as_table().unwrap() {
                all.insert(format!("prefix {}/{environment}/", config["store"]["url"].as_str().unwrap()));
                let database = &of["sources"]["db"];
                all.insert(format!("database {}/{}", database["host"], database["database"]));
            }
        }
    }
    all
}

/// Names of Secrets, ConfigMaps, claims and ServiceAccounts anywhere in a document.
fn referred(value: &Value, namespace: &str, into: &mut BTreeSet<String>) {
    if let Some(object) = value.as_object() {
        for key in ["secretName", "claimName", "serviceAccountName"] {
            into.extend(object.get(key).map(|name| format!("{key} {namespace}/{name}")));
        }
        object.values().for_each(|below| referred(below, namespace, into));
    }
    value.as_array().into_iter().flatten().for_each(|below| referred(below, namespace, into));
}

#[test]
fn releases_of_prod_and_sandbox_share_nothing() {
    let Some(engine) = Helm::installed() else { return };
    let request = |namespace: &str, environment: &str| {
        let file = format!("values/{environment}.yaml");
        json!({"helm": 4, "name": "erp", "namespace": namespace, "file": file})
    };
    let answers = engine.ask(&json!([request("erp", "prod"), request("erp-sandbox", "sandbox")])).unwrap();
    let of = |answer: &Value| belongings(answer["documents"].as_array().unwrap());
    let (prod, sandbox) = (of(&answers[0]), of(&answers[1]));
    assert!(prod.contains("vault \"kvv2\"/\"erp/backup\""), "{prod:?}");
    assert!(prod.contains("secretName erp/\"vso-db-credentials\""), "{prod:?}");
    assert!(sandbox.contains("prefix s3://example-backup/erp/sandbox/"), "{sandbox:?}");
    let shared: Vec<_> = prod.intersection(&sandbox).collect();
    assert!(shared.is_empty(), "{shared:?}");
    let text = answers[1]["text"].as_str().unwrap();
    assert!(!text.contains("prod"), "the sandbox's release names prod");
}

#[test]
fn entries_of_a_fleet_share_nothing_and_render_what_a_release_would() {
    let Some(engine) = Helm::installed() else { return };
    let request = json!([{"helm": 4, "name": "erp", "namespace": "erp", "file": "values/fleet.yaml"}]);
    let answer = engine.ask(&request).unwrap().remove(0);
    let mut by_instance: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for document in answer["documents"].as_array().unwrap() {
        let Some(instance) = document["metadata"]["labels"]["dolibarr-backup/environment"].as_str() else { continue };
        by_instance.entry(instance.to_owned()).or_default().push(document.clone());
    }
    assert_eq!(by_instance.keys().collect::<Vec<_>>(), ["bakery", "prod", "sandbox"]);
    let sets: Vec<_> = by_instance.values().map(|documents| belongings(documents)).collect();
    for (index, one) in sets.iter().enumerate() {
        for other in &sets[index + 1..] {
            let shared: Vec<_> = one.intersection(other).collect();
            assert!(shared.is_empty(), "{shared:?}");
        }
    }
    let jobs = |name: &str| of_kind(&by_instance[name], "CronJob").len();
    assert_eq!((jobs("prod"), jobs("sandbox"), jobs("bakery")), (4, 3, 4), "sandbox has switched its drill off");
    let bakery = of_kind(&by_instance["bakery"], "CronJob")[0];
    assert_eq!(bakery["spec"]["schedule"], "0 23 * * *", "the instance keeps its own schedule");
}

fn entry(name: &str) -> Value {
    json!({"name": name, "namespace": name, "database": {"name": name}, "documents": {"claimName": name}})
}

#[test]
fn entries_that_would_share_something_are_refused() {
    let Some(engine) = Helm::installed() else { return };
    let fleet = |one: Value, other: Value| prod_with(&[("fleet", json!([one, other]))]);
    let both = |path: &str, value: Value| {
        let one = with(entry("one"), path, value.clone());
        fleet(one, with(entry("other"), path, value))
    };
    assert!(render(&engine, &fleet(entry("one"), entry("other")))["error"].is_null());
    let own_paths = |change: &dyn Fn(Value) -> Value| {
        let own = |name: &str| change(with(entry(name), "store", json!({"vault": {"path": name}})));
        fleet(own("one"), own("other"))
    };
    let in_one_namespace = |path: &str| {
        let change = |name: &str| {
            let own = with(entry(name), "namespace", "erp".into());
            with(with(own, "database.secretName", name.into()), path, "same".into())
        };
        fleet(change("one"), change("other"))
    };
    let table = [
        (fleet(entry("one"), entry("one")), "share the"),
        (both("database.name", json!("erp")), "one and other share the database postgres.tools:5432/erp"),
        (both("environment", json!("prod")), "share the Vault path kvv2/erp/backup"),
        (
            own_paths(&|entry| with(entry, "environment", "prod".into())),
            "share the prefix in the store s3://example-backup/erp/prod/",
        ),
        (both("store", json!({"vault": {"path": "erp/backup"}})), "share the Vault path"),
        (in_one_namespace("documents.claimName"), "share the documents erp/same/"),
        (in_one_namespace("database.secretName"), "share the database's Secret erp/same"),
        (in_one_namespace("store.secretName"), "share the store's Secret erp/same"),
    ];
    for (values, says) in table {
        let error = render(&engine, &values)["error"].to_string();
        assert!(error.contains(says), "`{says}` is not in {error}");
    }
    let bare = with(entry("bare"), "documents", json!({"claimName": ""}));
    let missing = render(&engine, &fleet(entry("one"), bare))["error"].to_string();
    assert!(missing.contains("backup.enabled is true for bare, and these values are missing"), "{missing}");
}

#[test]
fn a_fleet_of_fifty_is_spread_and_no_time_depends_on_the_others() {
    let Some(engine) = Helm::installed() else { return };
    let fleet: Vec<_> = (0..FLEET).map(|number| entry(&format!("company-{number}"))).collect();
    let schedules = |fleet: &[Value]| -> BTreeMap<String, String> {
        let documents = documents(&engine, &prod_with(&[("fleet", fleet.into())]));
        let jobs = of_kind(&documents, "CronJob").into_iter();
        jobs.map(|job| (super::name(job).to_owned(), job["spec"]["schedule"].as_str().unwrap().to_owned())).collect()
    };
    let all = schedules(&fleet);
    assert_eq!(all.len(), 4 * FLEET);
    assert_eq!(schedules(&fleet), all, "the same values give the same times");
    let backups = (0..FLEET).map(|number| &all[&format!("erp-dolibarr-backup-company-{number}")]);
    let minutes: Vec<u32> = backups
        .map(|schedule| {
            let mut fields = schedule.split(' ').map(str::parse::<u32>);
            let (Some(Ok(minute)), Some(Ok(hour))) = (fields.next(), fields.next()) else { panic!("{schedule}") };
            60 * hour + minute
        })
        .collect();
    let (from, length) = (30, 270);
    assert!(minutes.iter().all(|minute| (from..from + length).contains(minute)), "{minutes:?}");
    // Fifty random draws over six parts of the window: fewer than two or more than eighteen in a part is not a spread.
    for part in 0..6 {
        let within = minutes.iter().filter(|minute| (**minute - from) / 45 == part).count();
        assert!((2..=18).contains(&within), "{within} in part {part}: {minutes:?}");
    }
    let busiest = minutes.iter().map(|minute| minutes.iter().filter(|other| *other == minute).count()).max();
    assert!(busiest <= Some(3), "{minutes:?}");
    let days = |kind: &str, field: usize| -> BTreeSet<String> {
        let of = all.iter().filter(|(name, _)| name.ends_with(kind));
        of.map(|(_, schedule)| schedule.split(' ').nth(field).unwrap().to_owned()).collect()
    };
    assert_eq!(days("-verify", 4).len(), 7, "the verifications use every day of the week");
    assert!(days("-drill", 2).len() > 15, "the drills use most days of the month");
    let fewer = schedules(&fleet[..FLEET / 2]);
    assert!(fewer.iter().all(|(name, schedule)| all[name] == *schedule), "fewer instances changed a schedule");
}

#[test]
fn a_single_release_keeps_the_time_that_its_values_say() {
    let Some(engine) = Helm::installed() else { return };
    let documents = documents(&engine, &prod());
    assert_eq!(of_kind(&documents, "CronJob")[0]["spec"]["schedule"], "0 1 * * *");
}
