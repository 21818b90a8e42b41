//! The configuration, one TOML file, and the one place that reads the environment.
//!
//! Every section belongs to the module that uses it; here they are put together, defaults are filled in and
//! names are checked. It never opens anything but the file itself.

mod fleet;

pub use fleet::Fleet;

use base::error::{Error, Result, reason};
use base::id::SnapshotId;
use base::secret::Fetch;
use base::variables::{cache_folder, docker_config, environment_variable};
use catalogue::configured::{Configured, Environment, SourceKind};
use catalogue::guard;
use jiff::tz::TimeZone;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where the configuration is looked for.
pub const DEFAULT_FILE: &str = "dolibarr-backup.toml";

/// Largest configuration that is read. A hand-written one has a few kilobytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The whole configuration, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// The business time zone: periods of retention, and what people are shown.
    pub time_zone: TimeZone,
    /// The store that every environment is kept in.
    pub store: store::Config,
    /// The environments by name.
    pub environments: BTreeMap<Environment, EnvironmentConfig>,
    /// Servers that databases are restored to, by name.
    pub servers: BTreeMap<String, postgres::ServerConfig>,
    /// The plugins by role.
    pub plugins: plugin::Plugins,
    /// Rules that no plugin overrides.
    pub guard: guard::Config,
    /// How long a run may take.
    pub deadlines: Deadlines,
    /// Which cluster, where one is needed.
    pub kubernetes: kubernetes::Config,
    /// Which of its volumes `coverage` looks at.
    pub coverage: Option<kubernetes::volumes::Config>,
}

/// `[deadlines]` of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Deadlines {
    /// How long a whole run may take. What was not saved by then has failed, and the rest is recorded; so it should be less
    /// than what a scheduler allows.
    pub run: guard::Age,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { run: guard::Age(jiff::SignedDuration::from_hours(RUN_HOURS)) }
    }
}

/// The next day's run is then due.
const RUN_HOURS: i64 = 23;

/// What an environment consists of.
#[derive(Debug, Clone)]
pub struct EnvironmentConfig {
    /// The sources by name.
    pub sources: BTreeMap<String, Source>,
    /// What the catalogue knows of them: names, kinds and pins.
    pub configured: Configured,
    /// Where `backup` runs.
    pub run: Run,
    /// The Job that it runs as.
    pub job: Option<kubernetes::template::Config>,
}

/// Where `backup` runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Run {
    /// In this process.
    #[default]
    Here,
    /// As a Job in the cluster.
    Job,
}

/// One thing to back up.
#[derive(Debug, Clone)]
pub enum Source {
    /// A PostgreSQL database.
    Postgres(Box<postgres::Config>),
    /// A folder.
    Directory(documents::Config),
}

impl Source {
    /// What it is.
    #[must_use]
    pub const fn kind(&self) -> SourceKind {
        match self {
            Self::Postgres(_) => SourceKind::Postgres,
            Self::Directory(_) => SourceKind::Directory,
        }
    }
}

/// The text of a configuration file.
fn text(path: &Path) -> Result<String> {
    let unreadable = |why: String| {
        Error::config(format!("the configuration {} {why}", path.display()))
            .hint("name the file with --config FILE, or run where dolibarr-backup.toml is")
    };
    let meta = std::fs::metadata(path).map_err(|e| unreadable(format!("cannot be read: {}", reason(&e))))?;
    if meta.len() > FILE_BYTES_MAX {
        return Err(unreadable(format!("is longer than {FILE_BYTES_MAX} bytes")));
    }
    std::fs::read_to_string(path).map_err(|e| unreadable(format!("cannot be read: {}", reason(&e))))
}

fn in_file(path: &Path, error: Error) -> Error {
    error.context(format!("the configuration {}", path.display())).or_hint("README.md has a whole example")
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    time_zone: Option<String>,
    store: Option<store::Config>,
    #[serde(default)]
    env: BTreeMap<String, FileEnvironment>,
    #[serde(default)]
    servers: BTreeMap<String, postgres::ServerConfig>,
    #[serde(default)]
    plugins: plugin::Plugins,
    #[serde(default)]
    guard: guard::Config,
    #[serde(default)]
    deadlines: Deadlines,
    #[serde(default)]
    kubernetes: kubernetes::Config,
    coverage: Option<kubernetes::volumes::Config>,
    #[serde(default)]
    fleet: kubernetes::fleet::Config,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileEnvironment {
    sources: BTreeMap<String, toml::Table>,
    #[serde(default)]
    pinned: Vec<SnapshotId>,
    #[serde(default)]
    run: Run,
    job: Option<kubernetes::template::Config>,
}

impl Config {
    /// Reads and checks a configuration file.
    ///
    /// # Errors
    /// [`base::error::Class::Config`] naming the file, the line where there is one, and what is wrong.
    pub fn read(path: &Path) -> Result<Self> {
        let mut config = Self::parse(&text(path)?).map_err(|e| in_file(path, e))?;
        config.plugins.lock_file = Some(plugin::lock::beside(path));
        Ok(config)
    }

    /// Checks a configuration.
    ///
    /// # Errors
    /// [`base::error::Class::Config`].
    pub fn parse(text: &str) -> Result<Self> {
        Self::of(toml::from_str(text).map_err(|e| toml_error(text, &e))?)
    }

    fn of(mut file: File) -> Result<Self> {
        let fetch = kubernetes::secret::fetch(Arc::new(file.kubernetes.clone()));
        let mut store = file.store.ok_or_else(|| {
            Error::config("no store is configured").hint("add [store] with its `url`; README.md has a whole example")
        })?;
        if let Some(credentials) = &mut store.credentials {
            credentials.fetch = Some(fetch.clone());
        }
        for server in file.servers.values_mut() {
            server.credentials.fetch = Some(fetch.clone());
        }
        let mut environments = BTreeMap::new();
        for (name, environment) in file.env {
            let name = Environment::new(&name)?;
            let environment = environment.check(name.as_str(), &fetch)?;
            environments.insert(name, environment);
        }
        if environments.is_empty() {
            return Err(Error::config("no environment is configured")
                .hint("add a section such as [env.prod.sources.db]; README.md has a whole example"));
        }
        Ok(Self {
            time_zone: time_zone(file.time_zone.as_deref())?,
            store,
            environments,
            servers: file.servers,
            plugins: file.plugins.at(cache_folder(), docker_config())?,
            guard: file.guard,
            deadlines: file.deadlines,
            kubernetes: file.kubernetes,
            coverage: file.coverage,
        })
    }

    /// The roles that this configuration can put a plugin into.
    pub fn roles(&self) -> impl Iterator<Item = plugin::Role> {
        let jobs = self.environments.values().any(|environment| environment.job.is_some());
        let coverage = self.coverage.is_some();
        plugin::Role::ALL.into_iter().filter(move |role| match role {
            plugin::Role::Fingerprint | plugin::Role::Dump | plugin::Role::Retention | plugin::Role::Crosscheck => true,
            plugin::Role::Job => jobs,
            plugin::Role::Coverage => coverage,
        })
    }

    /// One environment.
    ///
    /// # Errors
    /// [`base::error::Class::Config`] with the names that there are.
    pub fn environment(&self, name: &str) -> Result<(&Environment, &EnvironmentConfig)> {
        self.environments.iter().find(|(environment, _)| environment.as_str() == name).ok_or_else(|| {
            let known: Vec<_> = self.environments.keys().map(|e| format!("`{e}`")).collect();
            Error::config(format!("unknown environment `{}`", base::text::printable(name)))
                .hint(format!("the configuration has {}", known.join(", ")))
        })
    }
}

impl FileEnvironment {
    fn check(self, environment: &str, fetch: &Fetch) -> Result<EnvironmentConfig> {
        if self.sources.is_empty() {
            return Err(Error::config(format!("the environment `{environment}` has no source"))
                .hint(format!("add a section such as [env.{environment}.sources.db]")));
        }
        let mut sources = BTreeMap::new();
        let mut configured = Configured { pinned: self.pinned, ..Configured::default() };
        for (name, table) in self.sources {
            let mut source = source(table).map_err(|e| e.context(format!("in [env.{environment}.sources.{name}]")))?;
            if let Source::Postgres(database) = &mut source {
                if database.service.is_none() && (database.host.is_empty() || database.database.is_empty()) {
                    return Err(Error::config(format!(
                        "in [env.{environment}.sources.{name}]: `host` and `database` say where it is, and one is missing"
                    ))
                    .hint("set both, or name a `service` that has them"));
                }
                if database.service.is_some() && database.service_file.is_none() {
                    database.service_file = environment_variable("PGSERVICEFILE").map(PathBuf::from);
                }
                let others = database.restore_credentials.as_deref_mut();
                for credentials in [&mut database.credentials].into_iter().chain(others) {
                    credentials.fetch = Some(fetch.clone());
                }
            }
            configured.add(&name, source.kind())?;
            sources.insert(name, source);
        }
        let in_job = |e: Error| e.context(format!("in [env.{environment}.job]"));
        self.job.as_ref().map_or(Ok(()), |job| job.check().map_err(in_job))?;
        if self.run == Run::Job && self.job.is_none() {
            return Err(Error::config(format!(
                "[env.{environment}] has run = \"job\", and no [env.{environment}.job]"
            ))
            .hint("say which Job: namespace = \"erp\", cron_job = \"dolibarr-backup-prod\""));
        }
        Ok(EnvironmentConfig { sources, configured, run: self.run, job: self.job })
    }
}

/// Reads one source's table, whose valid keys follow from its `kind`.
fn source(mut table: toml::Table) -> Result<Source> {
    let kind = match table.remove("kind") {
        Some(toml::Value::String(kind)) => kind,
        Some(_) => return Err(Error::config("`kind` must be a string")),
        None => {
            return Err(Error::config("missing key `kind`").hint("write kind = \"postgres\" or kind = \"directory\""));
        }
    };
    let invalid = |e: toml::de::Error| Error::config(e.message());
    match kind.as_str() {
        "postgres" => table.try_into().map(Source::Postgres).map_err(invalid),
        "directory" => table.try_into().map(Source::Directory).map_err(invalid),
        other => Err(Error::config(format!("unknown kind `{other}`, expected one of `postgres`, `directory`"))),
    }
}

fn time_zone(name: Option<&str>) -> Result<TimeZone> {
    let Some(name) = name else { return Ok(TimeZone::UTC) };
    TimeZone::get(name).map_err(|_| {
        Error::config(format!("unknown time zone `{}`", base::text::printable(name)))
            .hint("use a name of the IANA database, such as Europe/Paris")
    })
}

/// One sentence of a TOML error, with the line where it is known.
fn toml_error(text: &str, error: &toml::de::Error) -> Error {
    let line = error.span().map(|span| text.get(..span.start).unwrap_or("").matches('\n').count() + 1);
    let message = error.message().replace('\n', ", ");
    match line {
        Some(line) => Error::config(format!("line {line}: {message}")),
        None => Error::config(message),
    }
    .hint("README.md has a whole example of the configuration")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
time_zone = "Europe/Paris"
[store]
url = "file:///srv/backup/erp"
[env.prod.sources.db]
kind = "postgres"
host = "postgres.tools"
database = "erp"
credentials = { files = "/run/secrets/db" }
[env.prod.sources.docs]
kind = "directory"
path = "/var/www/documents"
"#;

    #[test]
    fn a_small_configuration_gets_the_default_plugins_with_exactly_their_grants() {
        let config = Config::parse(GOOD).unwrap();
        let (name, environment) = config.environment("prod").unwrap();
        assert_eq!(name.as_str(), "prod");
        assert_eq!(environment.sources.keys().collect::<Vec<_>>(), ["db", "docs"]);
        assert!(config.plugins.retention.grants.is_empty());
        assert_eq!(config.plugins.fingerprint.grants.len(), 2);
    }

    #[test]
    fn a_mistake_is_told_in_one_sentence_that_names_it() {
        let table = [
            ("[store]\nurl = \"file:///x\"\n", "no environment is configured"),
            (&format!("{GOOD}\n[extra]\n"), "unknown field `extra`, expected one of"),
            (&GOOD.replace("host =", "hots ="), "unknown field `hots`, expected one of"),
            (&GOOD.replace("host =", "hots ="), "in [env.prod.sources.db]"),
            (
                &GOOD.replace("host =", "service_file ="),
                "in [env.prod.sources.db]: `host` and `database` say where it is",
            ),
            (&GOOD.replace("\"directory\"", "\"folder\""), "unknown kind `folder`"),
            (&GOOD.replace("kind = \"directory\"", ""), "missing key `kind`"),
            (&GOOD.replace("Europe/Paris", "Europe/Pariss"), "unknown time zone `Europe/Pariss`"),
            (&GOOD.replace("sources.docs", "sources.snapshots"), "`snapshots` cannot name a source"),
            (&GOOD.replace("env.prod", "env.\"Prod/x\""), "cannot name an environment"),
            (
                &format!("{GOOD}\n[plugins.retention]\ngrants = [\"delete\"]\n"),
                "unknown grant `delete`, expected one of",
            ),
            (
                &GOOD.replace("[env.prod.sources.db]", "[env.prod]\nrun = \"job\"\n[env.prod.sources.db]"),
                "no [env.prod.job]",
            ),
            (&format!("{GOOD}\n[env.prod.job]\nnamespace = \"erp\"\n"), "neither `cron_job` nor `template` is set"),
            (&format!("{GOOD}\n[coverage]\nnamespaces = [\"a/b\"]\n"), "`a/b` cannot name a namespace"),
            (&GOOD.replace("files = \"/run/secrets/db\"", "kube_secret = \"db\""), "`db` is not `namespace/name`"),
            (&format!("{GOOD}\n[plugins.retnetion]\n"), "unknown field `retnetion`"),
            (&format!("{GOOD}\n[plugins]\ncache = \"here\"\n"), "`here` cannot be the cache"),
            (&format!("{GOOD}\n[guard]\nlegal_years = -1\n"), "line"),
            ("time_zone = ", "line 1"),
        ];
        for (text, expected) in table {
            let error = Config::parse(text).map(|_| ()).expect_err(expected);
            assert!(error.message().contains(expected), "`{error}` does not say `{expected}`");
            assert!(!error.message().contains('\n'), "more than a line: {error}");
        }
    }

    #[test]
    fn an_unknown_environment_lists_the_known_ones() {
        let error = Config::parse(GOOD).unwrap().environment("prd").map(|_| ()).unwrap_err();
        assert!(error.advice().unwrap().contains("`prod`"));
    }
}
