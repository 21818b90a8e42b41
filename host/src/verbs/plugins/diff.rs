//! `plugins diff`: shows what another component imports in addition and, for a retention plugin, which snapshots it
//! would forget in the real catalogue of an environment. Changes nothing.

use super::settings;
use crate::report::{FORMAT_VERSION, Report};
use crate::retention::{self, Planned, Wait};
use crate::session::Session;
use base::error::{Class, Error, Result};
use base::id::SnapshotId;
use base::text::counted;
use catalogue::guard::{DecidedBy, Decision};
use catalogue::history;
use catalogue::questions::expected;
use plugin::component::{self, Import};
use plugin::{self, Plugins, Role};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

/// Arguments of `plugins diff`.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// The component in use, as named in the configuration or as a path
    #[arg(value_name = "OLD")]
    old: PathBuf,
    /// The component that may replace it
    #[arg(value_name = "NEW")]
    new: PathBuf,
    /// Environment whose catalogue is used for the plans
    #[arg(long = "env", value_name = "NAME")]
    pub(super) environment: String,
    /// Exit with 4 if NEW imports more, or if it plans to forget snapshots that OLD keeps
    #[arg(long, value_name = "WHAT", value_delimiter = ',')]
    fail_on: Vec<FailOn>,
    /// Settings of NEW, as the content of a TOML table: 'keep = 14'; default: the configured ones if NEW is the
    /// configured component
    #[arg(long, value_name = "TOML")]
    settings: Option<String>,
}

/// Differences that make the command fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum FailOn {
    /// NEW imports something that OLD does not
    MoreCapabilities,
    /// NEW forgets snapshots that OLD keeps
    ForgetsMore,
}

/// One of the two components.
struct Side {
    config: plugin::PluginConfig,
    digest: String,
    imports: Vec<Import>,
}

/// Compares the components.
///
/// # Errors
/// [`Class::Usage`] for components of different roles; errors of loading and running them.
pub(super) async fn run(session: &Session, arguments: &Arguments) -> Result<Report> {
    let (old_role, old) = side(session, &arguments.old, None)?;
    let (role, new) = side(session, &arguments.new, arguments.settings.as_deref())?;
    if old_role != role {
        let why = format!("OLD is a {} plugin and NEW a {} plugin", old_role.name(), role.name());
        return Err(Error::new(Class::Usage, why).hint("compare two components of the same world"));
    }
    let (more, less) = (only_in(&new, &old), only_in(&old, &new));
    let mut text = format!(
        "OLD {} (sha256 {})\nNEW {} (sha256 {})\n",
        old.config.component.display(),
        plugin::short_digest(&old.digest),
        new.config.component.display(),
        plugin::short_digest(&new.digest)
    );
    for (sign, lines) in [("+", &more), ("-", &less)] {
        for line in lines {
            let _ = writeln!(text, "{sign} imports {line}");
        }
    }
    if more.is_empty() && less.is_empty() {
        text.push_str("= both import the same\n");
    }
    let mut document = json!({
        "format_version": FORMAT_VERSION,
        "environment": session.environment.as_str(),
        "role": role.name(),
        "old": { "component": old.config.component.to_string_lossy(), "sha256": old.digest },
        "new": { "component": new.config.component.to_string_lossy(), "sha256": new.digest },
        "imports_more": more,
        "imports_less": less,
    });
    let mut failure = None;
    if role == Role::Retention {
        match compare(session, &old, &new, &mut text).await {
            Ok(value) => document["retention"] = value,
            Err(error) => failure = Some(error),
        }
    }
    let count = |what: &str| document["retention"][what].as_array().map_or(0, Vec::len);
    let forgets = count("new_forgets") + count("new_would_forget");
    failure = failure.or_else(|| requested_failure(&arguments.fail_on, &more, forgets));
    Ok(Report { document, text, failure })
}

/// The failure that --fail-on asks for.
fn requested_failure(fail_on: &[FailOn], more: &[String], forgets: usize) -> Option<Error> {
    let why = if fail_on.contains(&FailOn::MoreCapabilities) && !more.is_empty() {
        format!("NEW imports more than OLD: {}", more.join(", "))
    } else if fail_on.contains(&FailOn::ForgetsMore) && forgets > 0 {
        format!("NEW forgets {} that OLD keeps", counted(forgets, "snapshot"))
    } else {
        return None;
    };
    Some(Error::new(Class::Stale, why).hint("review the differences; without --fail-on this is not a failure"))
}

/// A component with its configuration: the current one if it is the configured component, otherwise an empty one.
fn side(session: &Session, name: &std::path::Path, own_settings: Option<&str>) -> Result<(Role, Side)> {
    let configured = Role::ALL.into_iter().find(|role| session.plugins().of(*role).component == name);
    let mut config = match configured {
        Some(role) => session.plugins().of(role).clone(),
        // It gets the role's current grants below. Further imports are refused with the line to add.
        None => plugin::PluginConfig { component: name.to_owned(), ..plugin::PluginConfig::default() },
    };
    if let Some(text) = own_settings {
        config.settings = settings(text)?;
    }
    if configured.is_none() {
        config.signed_by.clone_from(&session.plugins().signed_by);
    }
    let found = component::inspect(&component::locate(name, session.plugins_folder()), config.signed_by.as_ref())?;
    let role =
        configured.filter(|role| found.roles.contains(role)).or(found.roles.first().copied()).ok_or_else(|| {
            Error::config(format!("{} is not a plugin for this version of the host", name.display()))
                .hint("`plugins inspect` describes the component")
        })?;
    if configured.is_none() {
        config.grants = session.plugins().of(role).grants.clone();
        config.places = session.plugins().of(role).places.clone();
    }
    Ok((role, Side { config, digest: found.digest, imports: found.imports }))
}

/// The functions that the first component imports and the second does not.
fn only_in(first: &Side, second: &Side) -> Vec<String> {
    let functions = |side: &Side| -> BTreeSet<String> {
        let each = |import: &Import| match import.functions.as_slice() {
            [] => vec![base::text::printable(&import.interface)],
            functions => {
                functions.iter().map(|f| base::text::printable(&format!("{f} of {}", import.interface))).collect()
            }
        };
        side.imports.iter().flat_map(each).collect()
    };
    functions(first).difference(&functions(second)).cloned().collect()
}

async fn compare(session: &Session, old: &Side, new: &Side, text: &mut String) -> Result<Value> {
    let now = session.clock.now();
    let history = history::load(&session.store, &session.environment, &session.sources.configured, now).await?;
    let mut plans = Vec::new();
    for side in [old, new] {
        let retention = side.config.clone();
        // A component that is not in use yet is not in the lock file.
        let plugins = Plugins { retention, require_lock: false, ..session.plugins().clone() };
        let plugin = session.plugin_of(&plugins, Role::Retention).await?;
        plans.push(retention::plan_of(session, &plugin, &history, now, false).await?);
    }
    let [before, after] = plans.as_slice() else { return Ok(Value::Null) };
    let forgets = differing(before, after, true);
    let keeps = differing(before, after, false);
    for (title, lines) in [("NEW forgets, OLD keeps", &forgets), ("NEW keeps, OLD forgets", &keeps)] {
        let _ = writeln!(text, "{title}: {} of {}", lines.len(), counted(history.snapshots.len(), "snapshot"));
        for (id, old, new) in lines {
            let _ = writeln!(text, "  {id}  OLD: {}; NEW: {}", old.shown().join(", "), new.shown().join(", "));
        }
    }
    let guarded: Vec<&SnapshotId> =
        after.plan.iter().filter(|(_, decision)| decision.by == DecidedBy::Guard).map(|(id, _)| id).collect();
    // The guard keeps these now. Once its rules no longer cover them, nothing does.
    let by_itself = |id: &SnapshotId| {
        let old = before.plan.get(id);
        old.is_some_and(|old| old.keep && old.by == DecidedBy::Plan)
    };
    let would_forget: Vec<&SnapshotId> = guarded.iter().copied().filter(|id| by_itself(id)).collect();
    for id in &guarded {
        let reasons = after.plan.get(id).map(|decision| decision.shown().join(", ")).unwrap_or_default();
        let _ = writeln!(text, "the guard keeps {id} against NEW: {reasons}");
    }
    let lists = |planned: &Planned| {
        planned.steps(
            &history,
            Wait::Days(session.guard.bin_days),
            None,
            &expected(&history, &session.sources.configured),
        )
    };
    let (old_steps, new_steps) = (lists(before), lists(after));
    for (side, steps, planned) in [("OLD", &old_steps, before), ("NEW", &new_steps, after)] {
        let _ = writeln!(
            text,
            "the next run with {side} would put {} into the bin and take {} back; {} more would wait for later runs",
            counted(steps.entering.len(), "snapshot"),
            steps.taken_back.len(),
            planned.deferred.len()
        );
    }
    let rows = |lines: &[(SnapshotId, &Decision, &Decision)]| -> Vec<Value> {
        lines.iter().map(|(id, old, new)| json!({ "id": id, "old": old.shown(), "new": new.shown() })).collect()
    };
    Ok(json!({
        "snapshots": history.snapshots.len(),
        "new_forgets": rows(&forgets),
        "new_keeps": rows(&keeps),
        "guard_keeps": guarded,
        "new_would_forget": would_forget,
        "new_enters_bin": new_steps.entering,
        "new_takes_back": new_steps.taken_back,
        "new_deferred": after.deferred,
        "old_notes": before.notes,
        "new_notes": after.notes,
    }))
}

/// Snapshots that one plan keeps and the other forgets. With `forgets`, those that the second one forgets.
fn differing<'p>(
    before: &'p Planned,
    after: &'p Planned,
    forgets: bool,
) -> Vec<(SnapshotId, &'p Decision, &'p Decision)> {
    let both = before.plan.iter().filter_map(|(id, old)| Some((*id, old, after.plan.get(id)?)));
    both.filter(|(_, old, new)| old.keep == forgets && new.keep != forgets).collect()
}
