//! Tests of whole commands with misbehaving guests: their claims are checked against what the host did, and the store
//! is unchanged.

mod cluster;
mod crosschecks;
mod runs;

use ::tests::guests::{self, quoted};
use base::error::{Class, Error, Result};
use documents::Tree;
use futures::FutureExt;
use jiff::Timestamp;
use plugin::{Engine, Plugin, PluginConfig, Plugins, Role};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

fn guest(role: Role) -> PathBuf {
    guests::component(role.name())
}

/// The section of the configuration for a guest with every grant of its role. `rest` holds further lines.
fn section(role: Role, component: &Path, rest: &str) -> String {
    let grants: Vec<String> = Plugins::default().of(role).grants.iter().map(|grant| grant.to_string()).collect();
    guests::section(component, &grants, rest)
}

/// A plugin of a role with every grant.
fn load(role: Role, rest: &str) -> Result<Plugin> {
    let config: PluginConfig = toml::from_str(&section(role, &guest(role), rest)).unwrap();
    Plugin::load(&Engine::new().unwrap(), &Plugins::with(role, config), role, None)
        .now_or_never()
        .expect("a file needs no network")
}

/// A documents folder with one invoice.
fn documents_folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("docs")).unwrap();
    std::fs::write(folder.path().join("docs/FA2601-0001.pdf"), "%PDF-1.4 ".repeat(1_000)).unwrap();
    folder
}

fn now() -> Timestamp {
    "2026-06-30T12:00:00Z".parse().unwrap()
}

/// Asserts that the message is one line that names the plugin, who is at fault and the problem, without control
/// characters.
fn assert_blamed(error: &Error, role: Role, class: Class, expected: &str) {
    assert_eq!(error.class(), class, "{error}");
    assert!(error.message().contains(expected), "`{error}` does not contain `{expected}`");
    assert!(error.message().contains(&format!("the plugin `{}`", role.name())), "does not name the plugin: {error}");
    assert_presentable(error);
}

fn assert_presentable(error: &Error) {
    guests::assert_presentable(&[error.message(), error.advice().unwrap_or_default()]);
}
