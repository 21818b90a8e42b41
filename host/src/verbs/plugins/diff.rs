//! `plugins diff`: what another component may do more, and, of a retention plugin, what it would forget on the real
//! catalogue of an environment. Changes nothing.

use super::settings;
use crate::report::{FORMAT_VERSION, Report};
use crate::retention::{self, Planned, Wait};
use crate::session::Host;
use base::error::{Class, Error, Result};
use base::id::SnapshotId;
use catalogue::guard::Decision;
use catalogue::history;
use catalogue::questions::expected;
use plugin::component::{self, Import};
use plugin::{self, Plugins, Role};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

/// What the person asked for.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// The component that is in use, as the configuration names it or as a path
    #[arg(value_name = "OLD")]
    old: PathBuf,
    /// The one that might take its place
    #[arg(value_name = "NEW")]
    new: PathBuf,
    /// Environment whose catalogue is planned for
    #[arg(long = "env", value_name = "NAME")]
    pub(super) environment: String,
    /// End with 4 where NEW imports more, or plans to forget what OLD keeps
    #[arg(long, value_name = "WHAT", value_delimiter = ',')]
    fail_on: Vec<FailOn>,
    /// Settings of NEW, as the inside of a TOML table: 'keep = 14'; the configured ones where NEW is the configured component
    #[arg(long, value_name = "TOML")]
    settings: Option<String>,
}

/// What a build may not accept unseen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum FailOn {
    /// NEW imports what OLD does not
    MoreCapabilities,
    /// NEW forgets snapshots that OLD keeps
    ForgetsMore,
}

/// One of the two.
struct Side {
    config: plugin::Config,
    digest: String,
    imports: Vec<Import>,
}

/// Compares.
///
/// # Errors
/// [`Class::Usage`] for components of different roles; those of loading and running them.
pub(super) async fn run(host: &Host, arguments: &Arguments) -> Result<Report> {
    let (old_role, old) = side(host, &arguments.old, None)?;
    let (role, new) = side(host, &arguments.new, arguments.settings.as_deref())?;
    if old_role != role {
        let said = format!("OLD is a {} plugin and NEW a {} plugin", old_role.name(), role.name());
        return Err(Error::new(Class::Usage, said).hint("compare two components of one world"));
    }
    let (more, less) = (missing(&new, &old), missing(&old, &new));
    let mut text = format!(
        "OLD {} (sha256 {})\nNEW {} (sha256 {})\n",
        old.config.component.display(),
        plugin::short(&old.digest),
        new.config.component.display(),
        plugin::short(&new.digest)
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
        "environment": host.environment.as_str(),
        "role": role.name(),
        "old": { "component": old.config.component.to_string_lossy(), "sha256": old.digest },
        "new": { "component": new.config.component.to_string_lossy(), "sha256": new.digest },
        "imports_more": more,
        "imports_less": less,
    });
    let mut failure = None;
    if role == Role::Retention {
        match compare(host, &old, &new, &mut text).await {
            Ok(value) => document["retention"] = value,
            Err(error) => failure = Some(error),
        }
    }
    let count = |what: &str| document["retention"][what].as_array().map_or(0, Vec::len);
    let forgets = count("new_forgets") + count("new_would_forget");
    failure = failure.or_else(|| worse(&arguments.fail_on, &more, forgets));
    Ok(Report { document, text, failure })
}

/// What a person asked to fail on.
fn worse(fail_on: &[FailOn], more: &[String], forgets: usize) -> Option<Error> {
    let said = if fail_on.contains(&FailOn::MoreCapabilities) && !more.is_empty() {
        format!("NEW imports more than OLD: {}", more.join(", "))
    } else if fail_on.contains(&FailOn::ForgetsMore) && forgets > 0 {
        format!("NEW forgets {forgets} snapshots that OLD keeps")
    } else {
        return None;
    };
    Some(Error::new(Class::Stale, said).hint("review what is shown; without --fail-on this is no failure"))
}

/// A component with its configuration: the one in force where it is the configured component, an empty one otherwise.
fn side(host: &Host, name: &std::path::Path, own_settings: Option<&str>) -> Result<(Role, Side)> {
    let configured = Role::ALL.into_iter().find(|role| host.plugins().of(*role).component == name);
    let mut config = match configured {
        Some(role) => host.plugins().of(role).clone(),
        // Grants of the role in force: what is imported beyond them is refused with the line to add.
        None => plugin::Config { component: name.to_owned(), ..plugin::Config::default() },
    };
    if let Some(text) = own_settings {
        config.settings = settings(text)?;
    }
    if configured.is_none() {
        config.signed_by.clone_from(&host.plugins().signed_by);
    }
    let found = component::inspect(&component::locate(name, host.plugins_folder()), config.signed_by.as_ref())?;
    let role =
        configured.filter(|role| found.roles.contains(role)).or(found.roles.first().copied()).ok_or_else(|| {
            Error::config(format!("{} is no plugin of this host's version", name.display()))
                .hint("`plugins inspect` shows what it is")
        })?;
    if configured.is_none() {
        config.grants = host.plugins().of(role).grants.clone();
        config.places = host.plugins().of(role).places.clone();
    }
    Ok((role, Side { config, digest: found.digest, imports: found.imports }))
}

/// What the first imports and the second does not, function by function.
fn missing(of: &Side, from: &Side) -> Vec<String> {
    let spelt = |side: &Side| -> BTreeSet<String> {
        let each = |import: &Import| match import.functions.as_slice() {
            [] => vec![base::text::printable(&import.interface)],
            functions => {
                functions.iter().map(|f| base::text::printable(&format!("{f} of {}", import.interface))).collect()
            }
        };
        side.imports.iter().flat_map(each).collect()
    };
    spelt(of).difference(&spelt(from)).cloned().collect()
}

async fn compare(host: &Host, old: &Side, new: &Side, text: &mut String) -> Result<Value> {
    let now = host.clock.now();
    let history = history::load(&host.store, &host.environment, &host.sources.configured, now).await?;
    let mut plans = Vec::new();
    for side in [old, new] {
        let retention = side.config.clone();
        // A component that nobody has taken yet is in no lock.
        let plugins = Plugins { retention, require_lock: false, ..host.plugins().clone() };
        let plugin = host.plugin_of(&plugins, Role::Retention).await?;
        plans.push(retention::plan_of(host, &plugin, &history, now, false).await?);
    }
    let [before, after] = plans.as_slice() else { return Ok(Value::Null) };
    let forgets = differing(before, after, true);
    let keeps = differing(before, after, false);
    for (title, lines) in [("NEW forgets, OLD keeps", &forgets), ("NEW keeps, OLD forgets", &keeps)] {
        let _ = writeln!(text, "{title}: {} of {} snapshots", lines.len(), history.snapshots.len());
        for (id, old, new) in lines {
            let _ = writeln!(text, "  {id}  OLD: {}; NEW: {}", old.reasons.join(", "), new.reasons.join(", "));
        }
    }
    let guarded: Vec<&SnapshotId> = after
        .plan
        .iter()
        .filter(|(_, d)| d.reasons.iter().any(|reason| reason.starts_with("guard: ")))
        .map(|(id, _)| id)
        .collect();
    // The guard keeps these today; when they are older than its rules, nothing does.
    let by_itself = |id: &SnapshotId| {
        let old = before.plan.get(id);
        old.is_some_and(|old| old.keep && !old.reasons.iter().any(|reason| reason.starts_with("guard: ")))
    };
    let would_forget: Vec<&SnapshotId> = guarded.iter().copied().filter(|id| by_itself(id)).collect();
    for id in &guarded {
        let reasons = after.plan.get(id).map(|decision| decision.reasons.join(", ")).unwrap_or_default();
        let _ = writeln!(text, "the guard keeps {id} against NEW: {reasons}");
    }
    let lists = |planned: &Planned| {
        planned.steps(&history, Wait::Days(host.guard.bin_days), None, &expected(&history, &host.sources.configured))
    };
    let (old_steps, new_steps) = (lists(before), lists(after));
    for (side, steps, planned) in [("OLD", &old_steps, before), ("NEW", &new_steps, after)] {
        let _ = writeln!(
            text,
            "the next run with {side} would put {} snapshots into the bin and take {} back; {} more would wait for later runs",
            steps.entering.len(),
            steps.taken_back.len(),
            planned.deferred.len()
        );
    }
    let rows = |lines: &[(SnapshotId, &Decision, &Decision)]| -> Vec<Value> {
        lines.iter().map(|(id, old, new)| json!({ "id": id, "old": old.reasons, "new": new.reasons })).collect()
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

/// Snapshots that one keeps and the other forgets; with `forgets`, those that the second forgets.
fn differing<'p>(
    before: &'p Planned,
    after: &'p Planned,
    forgets: bool,
) -> Vec<(SnapshotId, &'p Decision, &'p Decision)> {
    let both = before.plan.iter().filter_map(|(id, old)| Some((*id, old, after.plan.get(id)?)));
    both.filter(|(_, old, new)| old.keep == forgets && new.keep != forgets).collect()
}
