//! `plugins check`: checks that a component follows the rules for every plugin of its world. It runs the component with
//! made-up arguments, without a source, a store or a cluster.

mod rules;
#[cfg(test)]
mod suite;

use super::settings;
use crate::report::{FORMAT_VERSION, Report};
use base::error::{Class, Error, Result};
use base::text::printable;
use base::variables::cache_folder;
use plugin::{Engine, Plugin, PluginConfig, Plugins, Role, component};
use rules::Tried;
use serde_json::json;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Arguments of `plugins check`.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// The component
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Settings of the component, as the content of a TOML table: 'keep = 14'
    #[arg(long, value_name = "TOML")]
    settings: Option<String>,
}

pub(super) async fn run(arguments: &Arguments) -> Result<Report> {
    let found = component::inspect(&arguments.file, None)?;
    if let Some(unfit) = super::inspect::unfit(&found) {
        return Err(unfit);
    }
    let settings = arguments.settings.as_deref().map(settings).transpose()?.unwrap_or_default();
    let mut text = format!("{}\n", arguments.file.display());
    let (mut worlds, mut broken) = (Vec::new(), Vec::new());
    for role in &found.roles {
        let tried = try_role(*role, &arguments.file, settings.clone()).await?;
        let _ = writeln!(text, "  as a plugin of the world {}", role.name());
        for Tried { rule, why, broken: seen } in &tried {
            let _ = match seen {
                None => writeln!(text, "    holds   it {rule}"),
                Some(seen) => {
                    writeln!(text, "    BROKEN  it {rule}\n            found: {seen}\n            because {why}")
                }
            };
        }
        broken.extend(tried.iter().filter_map(|tried| tried.broken.clone()));
        worlds.push(json!({
            "world": role.name(),
            "rules": tried.iter().map(|tried| json!({
                "rule": tried.rule,
                "why": tried.why,
                "seen": tried.broken.as_ref().map(|error| printable(error.message())),
            })).collect::<Vec<_>>(),
        }));
    }
    let document = json!({
        "format_version": FORMAT_VERSION,
        "file": arguments.file.to_string_lossy(),
        "sha256": found.digest,
        "worlds": worlds,
        "passed": broken.is_empty(),
    });
    let failure = broken.first().map(|first| {
        let class = if first.class() == Class::PluginTrapped { Class::PluginTrapped } else { Class::PluginRefused };
        Error::new(class, format!("the plugin breaks {} of the rules above", broken.len()))
            .hint("fix the plugin; `docs/writing-a-plugin.md` explains the rules in detail")
    });
    Ok(Report { document, text, failure })
}

/// Checks every rule of one world. All imports are granted, because no rule passes in a handle on which the plugin
/// could use them.
async fn try_role(role: Role, file: &Path, settings: toml::Table) -> Result<Vec<Tried>> {
    let engine = Engine::new()?;
    let load = async |settings: toml::Table| {
        let component = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
        let found = component::inspect(&component, None)?;
        let needs = found.imports.iter().filter_map(|import| import.needs).collect();
        let config = PluginConfig { component, grants: needs, settings, ..PluginConfig::default() };
        Plugin::load(&engine, &Plugins::with(role, config).at(cache_folder(), None)?, role, None).await
    };
    let with_more = settings.clone().into_iter().chain([rules::unknown_setting()]).collect();
    Ok(rules::check(&load(settings).await?, &load(with_more).await?).await)
}
