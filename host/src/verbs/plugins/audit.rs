//! `plugins audit`: shows for each configured plugin what it imports, what it is granted, and whether these agree.

use crate::config::{Config, Source};
use crate::report::{FORMAT_VERSION, Report};
use base::error::{Error, Result};
use base::text::printable;
use comfy_table::{Table, presets};
use plugin::Component;
use plugin::component::{self, Import};
use plugin::grant::Grant;
use plugin::lock::{self, Change, Lock, Locked};
use plugin::{self, Role};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::Path;

/// Arguments of `plugins audit`.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct Arguments {
    /// Also fail if something is granted that is not imported
    #[arg(long)]
    strict: bool,
    /// Also fail if there is no capabilities.lock beside the configuration
    #[arg(long, conflicts_with = "write")]
    locked: bool,
    /// Write the result to capabilities.lock beside the configuration, unless something is denied
    #[arg(long)]
    write: bool,
}

/// The verdict on an import or a grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Imported and granted.
    Granted,
    /// Imported, and needs no grant: for example the log, and interfaces that contain only types.
    Free,
    /// Imported and not granted.
    Denied,
    /// Imported, but not offered by this host.
    Unknown,
    /// Granted and not imported.
    Unused,
}

impl Verdict {
    const fn name(self) -> &'static str {
        match self {
            Self::Granted => "granted",
            Self::Free => "free",
            Self::Denied => "DENIED",
            Self::Unknown => "UNKNOWN",
            Self::Unused => "unused",
        }
    }
}

/// One line of an audit.
struct AuditedImport {
    verdict: Verdict,
    interface: String,
    functions: Vec<String>,
    scope: Vec<String>,
}

/// The audit of one plugin.
struct Audited {
    role: Role,
    config: plugin::PluginConfig,
    component: Component,
    lines: Vec<AuditedImport>,
    /// Why it could not run with any grants.
    unfit: Option<Error>,
}

/// Audits every plugin. Compiles and runs nothing, opens no store and reads no credential.
///
/// # Errors
/// [`base::error::Class::Config`] for a component that cannot be read, or a lock file that cannot be read or written.
/// The report contains denied imports as a failure.
pub(super) async fn run(
    config: &Config,
    arguments: &Arguments,
    folder: Option<&Path>,
    lock_file: &Path,
) -> Result<Report> {
    let mut audited: Vec<Audited> = Vec::new();
    for role in config.roles() {
        audited.push(audit(config, role, folder).await?);
    }
    let locked = audited.iter().map(|plugin| Ok((plugin.role.name().to_owned(), plugin.locked()?)));
    let found = Lock::new(locked.collect::<Result<Vec<_>>>()?.into_iter());
    let known = match lock::read(lock_file) {
        // The hint of this error suggests to write a new file, so --write must work.
        Err(_) if arguments.write => None,
        known => known?,
    };
    let changes = known.as_ref().map(|known| known.changes(&found)).unwrap_or_default();
    let denied: Vec<String> = audited.iter().flat_map(Audited::denied).collect();
    let unused: Vec<String> = audited.iter().flat_map(Audited::unused).collect();

    let mut text: String = audited.iter().map(Audited::text).collect();
    for change in &changes {
        let _ = writeln!(text, "{}: {}", lock::FILE, change.description);
    }
    if known.is_none() && !arguments.write {
        let _ = writeln!(text, "there is no {} yet: `plugins audit --write` creates it from this audit", lock::FILE);
    }
    let mut failure = verdict(&audited, &denied, &unused, &changes, arguments);
    if arguments.locked && known.is_none() {
        let absent = Error::config(format!("there is no {}", lock_file.display()))
            .hint("review this audit, then run `plugins audit --write` and commit the file");
        failure = failure.or(Some(absent));
    }
    if arguments.write && denied.is_empty() && audited.iter().all(|plugin| plugin.unfit.is_none()) {
        lock::write(lock_file, &found)?;
        let _ = writeln!(text, "wrote {}; commit it beside the configuration", lock_file.display());
        failure = failure.filter(|_| arguments.strict && !unused.is_empty());
    }
    let document = json!({
        "format_version": FORMAT_VERSION,
        "plugins": audited.iter().map(Audited::value).collect::<Vec<_>>(),
        "lock": {
            "file": lock_file.to_string_lossy(),
            "found": known.is_some(),
            "changes": changes.iter().map(|c| json!({ "grown": c.grown, "said": c.description })).collect::<Vec<_>>(),
        },
        "denied": denied,
        "unused": unused,
    });
    Ok(Report { document, text, failure })
}

fn verdict(
    audited: &[Audited],
    denied: &[String],
    unused: &[String],
    changes: &[Change],
    arguments: &Arguments,
) -> Option<Error> {
    if let Some(unfit) = audited.iter().find_map(|plugin| plugin.unfit.clone()) {
        return Some(unfit);
    }
    if !denied.is_empty() {
        return Some(
            Error::config(format!("plugins import interfaces that they have not been granted: {}", denied.join("; ")))
                .hint("grant them in the configuration if the plugins should have them; otherwise use other plugins"),
        );
    }
    let changed: Vec<&str> = changes.iter().map(|change| change.description.as_str()).collect();
    if !changed.is_empty() && !arguments.write {
        return Some(
            Error::config(format!("{} does not match: {}", lock::FILE, changed.join("; ")))
                .hint("review the change, then run `plugins audit --write` and commit the file"),
        );
    }
    (arguments.strict && !unused.is_empty()).then(|| {
        Error::config(format!("plugins have grants that they do not use: {}", unused.join("; ")))
            .hint("remove these grants from the configuration")
    })
}

async fn audit(config: &Config, role: Role, folder: Option<&Path>) -> Result<Audited> {
    let own = config.plugins.of(role);
    let component = component::read(role, own, config.plugins.require_digest, folder).await?;
    let unfit = component::check(role, &component, own).err();
    let imports = component::imports(role, &component)?;
    let mut lines: Vec<AuditedImport> = imports.iter().map(|import| line(config, role, import)).collect();
    let unused = own.grants.iter().filter(|grant| imports.iter().all(|import| import.needs != Some(*grant)));
    lines.extend(unused.map(|grant| AuditedImport {
        verdict: Verdict::Unused,
        interface: grant.to_string(),
        functions: Vec::new(),
        scope: scope(config, own, grant),
    }));
    // The package's own interfaces come first, then WASI.
    lines.sort_by_key(|line| line.interface.starts_with("wasi:"));
    // A denied import has its own line and its own message.
    let unfit = unfit.filter(|_| lines.iter().all(|line| !matches!(line.verdict, Verdict::Denied)));
    Ok(Audited { role, config: own.clone(), component, lines, unfit })
}

fn line(config: &Config, role: Role, import: &Import) -> AuditedImport {
    let plugin = config.plugins.of(role);
    let verdict = match import.needs {
        Some(grant) if plugin.grants.has(grant) => Verdict::Granted,
        Some(_) => Verdict::Denied,
        None if component::is_free(role, &import.interface) => Verdict::Free,
        None => Verdict::Unknown,
    };
    AuditedImport {
        verdict,
        interface: printable(&import.interface),
        functions: import.functions.iter().map(|function| printable(function)).collect(),
        scope: import.needs.map(|grant| scope(config, plugin, grant)).unwrap_or_default(),
    }
}

/// What a grant covers. A single call reaches only one of these, through the handle that is passed in.
fn scope(config: &Config, plugin: &plugin::PluginConfig, grant: Grant) -> Vec<String> {
    let sources = |wanted: fn(&Source) -> bool, shown: &dyn Fn(&str, &str) -> String| {
        let mut found = Vec::new();
        for (environment, own) in &config.environments {
            let names = own.sources.iter().filter(|(_, source)| wanted(source)).map(|(name, _)| name);
            found.extend(names.map(|name| shown(environment.as_str(), name)));
        }
        found
    };
    let named = |environment: &str, source: &str| format!("{environment}/{source}");
    match grant {
        Grant::DatabaseEvidence | Grant::DatabaseDump => sources(|s| matches!(s, Source::Postgres(_)), &named),
        Grant::TreeEvidence | Grant::TreeArchive | Grant::DocumentsDigests => {
            sources(|s| matches!(s, Source::Directory(_)), &named)
        }
        Grant::TableRows if plugin.tables.is_empty() => vec!["nothing: `tables` names no table".to_owned()],
        Grant::TableRows => {
            let tables = plugin.tables.iter().map(|table| format!("{} ({})", table.label, table.columns.join(", ")));
            let tables = printable(&tables.collect::<Vec<_>>().join(", "));
            sources(|s| matches!(s, Source::Postgres(_)), &|environment, source| {
                format!("{environment}/{source}: {tables}")
            })
        }
        Grant::ObjectWrite => {
            let url = config.store.url.trim_end_matches('/');
            sources(|_| true, &|environment, source| format!("{url}/{environment}/{source}/ (new objects only)"))
        }
        Grant::KubeJob => {
            let job = |(environment, own): (&catalogue::configured::Environment, &crate::config::EnvironmentConfig)| {
                let job = own.job.as_ref()?;
                let lent: Vec<String> = job.secrets.values().map(|borrowed| borrowed.from.to_string()).collect();
                let lent = if lent.is_empty() { "no Secret".to_owned() } else { lent.join(", ") };
                Some(format!("one Job of {environment} in the namespace {}, with {lent}", job.namespace))
            };
            config.environments.iter().filter_map(job).collect()
        }
        Grant::KubeVolumes => config
            .coverage
            .iter()
            .map(|own| {
                format!("claims of {}, and Longhorn in {}", kubernetes::volumes::scope(own), own.longhorn_namespace)
            })
            .collect(),
        Grant::Wasi => vec!["nothing: a fixed clock, fixed randomness, no file, no network".to_owned()],
    }
}

impl Audited {
    fn denied(&self) -> Vec<String> {
        let denied = self.lines.iter().filter(|line| matches!(line.verdict, Verdict::Denied | Verdict::Unknown));
        denied.map(|line| format!("`{}` imports {}", self.role.name(), line.named())).collect()
    }

    fn unused(&self) -> Vec<String> {
        let unused = self.lines.iter().filter(|line| line.verdict == Verdict::Unused);
        unused.map(|line| format!("`{}` does not use {}", self.role.name(), line.interface)).collect()
    }

    fn locked(&self) -> Result<Locked> {
        Locked::from_config(self.role, &self.config, &self.component)
    }

    /// The columns by which rows may be left out.
    fn filters(&self) -> impl Iterator<Item = String> {
        let filters = (self.role == Role::Fingerprint).then(|| self.config.filters());
        filters.into_iter().flat_map(|filters| filters.columns().collect::<Vec<_>>())
    }

    /// The columns that a report may show.
    fn shown(&self) -> impl Iterator<Item = String> {
        self.config.shown.columns()
    }

    /// The columns that may be read.
    fn columns(&self) -> impl Iterator<Item = String> {
        lock::columns(&self.config)
    }

    fn is_pinned(&self) -> bool {
        // Every accepted address contains a digest.
        self.config.sha256.is_some() || self.config.registry_address().is_some()
    }

    fn text(&self) -> String {
        let pinned = if self.is_pinned() { "pinned" } else { "not pinned" };
        let signed = self.config.signed_by.as_ref().map(|key| format!(", signed by {key}")).unwrap_or_default();
        let mut text = format!(
            "{}: {}\n  sha256 {}, {pinned}{signed}; world {} {}\n",
            self.role.name(),
            self.component.path.display(),
            self.component.digest,
            self.role.name(),
            component::WORLD_VERSION
        );
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(["  verdict", "interface", "functions", "reaches"]);
        for line in &self.lines {
            let (functions, scope) = (line.functions.join(", "), line.scope.join(", "));
            table.add_row([&format!("  {}", line.verdict.name()), &line.interface, &functions, &scope]);
        }
        if !self.config.settings.is_empty() {
            let _ = writeln!(text, "  settings {}", printable(&json!(self.config.settings).to_string()));
        }
        let limits: Vec<String> = self.config.limits.named().collect();
        if !limits.is_empty() {
            let _ = writeln!(text, "  limits {}", limits.join(", "));
        }
        let filters: Vec<String> = self.filters().map(|column| printable(&column)).collect();
        if !filters.is_empty() {
            let _ = writeln!(text, "  may leave out rows by {}", filters.join(", "));
        }
        let shown: Vec<String> = self.shown().map(|column| printable(&column)).collect();
        if !shown.is_empty() {
            let _ = writeln!(text, "  a report may show {}", shown.join(", "));
        }
        if self.lines.is_empty() {
            text.push_str("  imports nothing and is granted nothing\n");
        } else {
            let _ = writeln!(text, "{}", table.trim_fmt());
        }
        text.push('\n');
        text
    }

    fn value(&self) -> Value {
        let lines: Vec<Value> = self
            .lines
            .iter()
            .map(|line| {
                json!({
                    "verdict": line.verdict.name().to_lowercase(),
                    "interface": line.interface,
                    "functions": line.functions,
                    "scope": line.scope,
                    "wasi": line.interface.starts_with("wasi:"),
                })
            })
            .collect();
        json!({
            "role": self.role.name(),
            "component": self.component.path.to_string_lossy(),
            "sha256": self.component.digest,
            "pinned": self.is_pinned(),
            "signed_by": self.config.signed_by.as_ref().map(ToString::to_string),
            "world": self.role.name(),
            "world_version": component::WORLD_VERSION,
            "settings": self.config.settings,
            "limits": self.config.limits.named().collect::<Vec<_>>(),
            "grants": self.config.grants.iter().map(|grant| grant.to_string()).collect::<Vec<_>>(),
            "columns": self.columns().collect::<Vec<_>>(),
            "shown": self.shown().collect::<Vec<_>>(),
            "filters": self.filters().collect::<Vec<_>>(),
            "lines": lines,
            "unfit": self.unfit.as_ref().map(ToString::to_string),
        })
    }
}

impl AuditedImport {
    fn named(&self) -> String {
        match self.functions.as_slice() {
            [] => self.interface.clone(),
            functions => format!("{} of {}", functions.join(", "), self.interface),
        }
    }
}
