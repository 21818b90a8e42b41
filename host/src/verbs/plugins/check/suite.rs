//! One suite for every retention plugin, and tests of the engine with the shipped components. They are real
//! components, built by `cargo xtask plugins` beside the test binary.

use super::rules;
use base::error::{Class, Result};
use futures::FutureExt;
use jiff::Timestamp;
use plugin::call::dumping;
use plugin::grant::Grant;
use plugin::{Component, component};
use plugin::{Engine, Plugin, PluginConfig, Plugins, Role};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    let binary = std::env::current_exe().unwrap();
    let folder = binary.ancestors().nth(2).unwrap().join("plugins");
    assert!(folder.is_dir(), "{} is missing: run `cargo xtask plugins`", folder.display());
    folder
}

/// Every built component of the world `retention`: the shipped ones, the examples, and any that were added.
fn every_retention() -> Vec<String> {
    let files = [folder(), folder().join("examples")].into_iter().filter_map(|folder| folder.read_dir().ok()).flatten();
    let mut found: Vec<_> = files.map(|entry| entry.unwrap().path()).filter(|path| is_retention(path)).collect();
    found.sort();
    let found: Vec<_> = found.into_iter().map(|path| path.to_str().unwrap().to_owned()).collect();
    for shipped in ["/retention-tiered.wasm", "/retention-last.wasm"] {
        assert!(found.iter().any(|path| path.ends_with(shipped)), "{shipped} is missing: run `cargo xtask plugins`");
    }
    found
}

fn is_retention(path: &Path) -> bool {
    let config = PluginConfig { component: path.to_owned(), ..PluginConfig::default() };
    path.extension().is_some_and(|end| end == "wasm")
        && component::read(Role::Retention, &config, false, None)
            .now_or_never()
            .expect("a file needs no network")
            .is_ok_and(|found| component::check(Role::Retention, &found, &config).is_ok())
}

fn plugins(role: Role, text: &str) -> Plugins {
    let mut config: PluginConfig = toml::from_str(text).unwrap();
    // Each test runs in its own process, and an interpreter takes long to compile.
    config.places.cache = Some(plugin::cache::Cache::new(folder().with_file_name("component-cache")));
    Plugins::with(role, config)
}

fn load(role: Role, text: &str) -> Result<Plugin> {
    Plugin::load(&Engine::new().unwrap(), &plugins(role, text), role, Some(&folder()))
        .now_or_never()
        .expect("a file needs no network")
}

fn retention(component: &str, settings: &str) -> Plugin {
    load(Role::Retention, &format!("component = \"{component}\"\nsettings = {{ {settings} }}")).unwrap()
}

fn now() -> Timestamp {
    "2026-06-30T12:00:00Z".parse().unwrap()
}

#[tokio::test]
async fn every_built_plugin_follows_the_rules_of_its_world() {
    let grants = "grants = [\"database-dump\", \"tree-archive\", \"object-write\"]";
    let all = every_retention().into_iter().map(|path| (Role::Retention, path, ""));
    for (role, component, grants) in all.chain([(Role::Dump, "dump.wasm".to_owned(), grants)]) {
        let load_with = |settings: &str| {
            load(role, &format!("component = \"{component}\"\nsettings = {{ {settings} }}\n{grants}")).unwrap()
        };
        let unknown = format!("{} = 1", rules::unknown_setting().0);
        let tried = rules::check(&load_with(""), &load_with(&unknown)).await;
        let broken: Vec<_> = tried.iter().filter(|tried| tried.broken.is_some()).collect();
        assert!(broken.is_empty(), "{component}: {broken:?}");
        assert!(tried.len() >= 6, "{component}: {} rules", tried.len());
    }
}

#[tokio::test]
async fn the_hint_for_a_wrong_setting_names_its_section() {
    for component in every_retention() {
        let plugin = retention(&component, "surprise = 1");
        let error = plugin.plan_retention(now(), "Europe/Paris", &[]).await.result.unwrap_err();
        assert!(error.message().contains("expected"), "{error}");
        assert!(error.advice().unwrap().contains("[plugins.retention]"));
    }
}

#[tokio::test]
async fn the_dump_plugin_plans_databases_first_and_carries_only_existing_objects() {
    let plugin =
        load(Role::Dump, "component = \"dump.wasm\"\ngrants = [\"database-dump\", \"tree-archive\", \"object-write\"]")
            .unwrap();
    let carried = |present| dumping::Carried { made: now().as_second() - 86_400, bytes: 5, present };
    let source = |name: &str, kind, present| dumping::Source {
        name: name.into(),
        kind,
        evidence: dumping::Evidence::Unchanged,
        carried: Some(carried(present)),
    };
    let sources = [source("docs", dumping::Kind::Tree, true), source("db", dumping::Kind::Database, false)];
    let decisions = plugin.plan_dumps(now(), false, &sources).await.result.unwrap();
    let shown: Vec<_> = decisions.iter().map(|d| (d.source.as_str(), d.action)).collect();
    assert_eq!(shown, [("db", dumping::Action::Dump), ("docs", dumping::Action::Carry)]);
    let forced = plugin.plan_dumps(now(), true, &sources).await.result.unwrap();
    assert!(forced.iter().all(|d| d.action == dumping::Action::Dump));
}

#[test]
fn an_import_that_is_not_granted_is_reported_with_the_line_to_add() {
    let error =
        load(Role::Dump, "component = \"dump.wasm\"\ngrants = [\"database-dump\", \"tree-archive\"]").unwrap_err();
    assert_eq!(error.class(), Class::Config);
    assert!(error.message().contains("`put` of backup:host/object-write@0.2.0"), "{error}");
    let line = "grants = [\"database-dump\", \"tree-archive\", \"object-write\"] in [plugins.dump]";
    assert!(error.advice().unwrap().contains(line), "{error:?}");
}

#[test]
fn a_component_of_another_role_is_refused() {
    let error = load(Role::Retention, "component = \"fingerprint.wasm\"").unwrap_err();
    assert!(error.message().contains("fingerprinting@0.2.0 instead of"), "{error}");
}

#[test]
fn the_shipped_components_import_exactly_what_they_are_granted_by_default_and_no_wasi() {
    let plugins = Plugins::default();
    for role in Role::ALL {
        let config = plugins.of(role);
        let component: Component = component::read(role, config, false, Some(&folder()))
            .now_or_never()
            .expect("a file needs no network")
            .unwrap();
        let needed: BTreeSet<Grant> =
            component::imports(role, &component).unwrap().iter().filter_map(|import| import.needs).collect();
        assert_eq!(needed, config.grants.iter().collect(), "{}", role.name());
    }
}

#[test]
fn a_component_of_another_version_is_distinguished_from_one_of_another_role() {
    let bytes = std::fs::read(folder().join("retention-last.wasm")).unwrap();
    let mut newer = bytes.clone();
    let from = b"retaining@0.2.0";
    for at in 0..newer.len() - from.len() {
        if &newer[at..at + from.len()] == from {
            newer[at..at + from.len()].copy_from_slice(b"retaining@0.9.0");
        }
    }
    assert_ne!(newer, bytes);
    let file = tempfile::Builder::new().suffix(".wasm").tempfile().unwrap();
    std::fs::write(file.path(), newer).unwrap();
    let error = load(Role::Retention, &format!("component = \"{}\"", file.path().display())).unwrap_err();
    assert!(error.message().contains("retaining@0.9.0") && error.message().contains("0.2.0"), "{error}");
    assert!(error.advice().unwrap().contains("rebuild"), "{error:?}");
}
