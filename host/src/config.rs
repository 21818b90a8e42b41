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
use catalogue::configured::{Configured, Environment, SourceKind, check_source_name};
use catalogue::guard;
use jiff::tz::TimeZone;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A complete configuration with comments, which `example` prints.
pub const EXAMPLE: &str = include_str!("../../examples/dolibarr-backup.toml");

/// The default configuration file.
pub const DEFAULT_FILE: &str = "dolibarr-backup.toml";

/// Size limit of a configuration file. A hand-written one has a few kilobytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The whole configuration, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// The business time zone, for the periods of the retention and for displayed times.
    pub time_zone: TimeZone,
    /// The store of all environments.
    pub store: store::StoreConfig,
    /// The environments by name.
    pub environments: BTreeMap<Environment, EnvironmentConfig>,
    /// Servers that databases are restored to, by name.
    pub servers: BTreeMap<String, postgres::ServerConfig>,
    /// The plugins by role.
    pub plugins: plugin::Plugins,
    /// Rules that no plugin overrides.
    pub guard: guard::GuardConfig,
    /// How long a run may take.
    pub deadlines: Deadlines,
    /// The Kubernetes cluster, if one is used.
    pub kubernetes: kubernetes::ClusterConfig,
    /// The volumes that `coverage` checks.
    pub coverage: Option<kubernetes::volumes::CoverageConfig>,
}

/// `[deadlines]` of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Deadlines {
    /// Time limit of a whole run. A source that is not saved by then fails, and the others are recorded. It should be
    /// shorter than the scheduler's limit.
    pub run: guard::Age,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { run: guard::Age(jiff::SignedDuration::from_hours(RUN_HOURS)) }
    }
}

/// The next daily run is due one hour later.
const RUN_HOURS: i64 = 23;

/// What an environment consists of.
#[derive(Debug, Clone)]
pub struct EnvironmentConfig {
    /// The sources by name.
    pub sources: BTreeMap<String, Source>,
    /// Names, kinds and pins, for the catalogue.
    pub configured: Configured,
    /// Where `backup` runs.
    pub run: Run,
    /// The Job for `run = "job"`.
    pub job: Option<kubernetes::template::JobConfig>,
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
    Postgres(Box<postgres::DatabaseConfig>),
    /// A folder.
    Directory(documents::FolderConfig),
}

impl Source {
    /// Its kind.
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
            .hint("name the file with --config FILE, or run in the folder of dolibarr-backup.toml")
    };
    let meta = std::fs::metadata(path).map_err(|e| unreadable(format!("cannot be read: {}", reason(&e))))?;
    if meta.len() > FILE_BYTES_MAX {
        return Err(unreadable(format!("is longer than {FILE_BYTES_MAX} bytes")));
    }
    std::fs::read_to_string(path).map_err(|e| unreadable(format!("cannot be read: {}", reason(&e))))
}

fn in_file(path: &Path, error: Error) -> Error {
    error
        .context(format!("the configuration {}", path.display()))
        .or_hint("`dolibarr-backup example` prints a complete configuration")
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    time_zone: Option<String>,
    store: Option<store::StoreConfig>,
    #[serde(default)]
    env: BTreeMap<String, FileEnvironment>,
    #[serde(default)]
    servers: BTreeMap<String, postgres::ServerConfig>,
    #[serde(default)]
    plugins: plugin::Plugins,
    #[serde(default)]
    guard: guard::GuardConfig,
    #[serde(default)]
    deadlines: Deadlines,
    #[serde(default)]
    kubernetes: kubernetes::ClusterConfig,
    coverage: Option<kubernetes::volumes::CoverageConfig>,
    #[serde(default)]
    fleet: kubernetes::fleet::FleetConfig,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileEnvironment {
    sources: BTreeMap<String, toml::Table>,
    #[serde(default)]
    pinned: Vec<SnapshotId>,
    #[serde(default)]
    run: Run,
    job: Option<kubernetes::template::JobConfig>,
}

impl Config {
    /// Reads and checks a configuration file.
    ///
    /// # Errors
    /// [`base::error::Class::Config`], naming the file, the line if known, and the problem.
    pub fn read(path: &Path) -> Result<Self> {
        let mut config = Self::parse(&text(path)?).map_err(|e| in_file(path, e))?;
        config.plugins.lock_file = Some(plugin::lock::path_for(path));
        Ok(config)
    }

    /// Checks a configuration.
    pub fn parse(text: &str) -> Result<Self> {
        Self::of(toml::from_str(text).map_err(|e| toml_error(text, &e))?)
    }

    fn of(mut file: File) -> Result<Self> {
        let fetch = kubernetes::secret::fetch(Arc::new(file.kubernetes.clone()));
        let mut store = file.store.ok_or_else(|| {
            Error::config("no store is configured")
                .hint("add [store] with its `url`; `dolibarr-backup example` prints a complete configuration")
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
                .hint("add a section such as [env.prod.sources.db]; `dolibarr-backup example` prints a complete configuration"));
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

    /// The plugin roles that this configuration can use.
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
    /// [`base::error::Class::Config`], listing the existing names.
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
            check_source_name(&name)?;
            let mut source = source(table).map_err(|e| e.context(format!("in [env.{environment}.sources.{name}]")))?;
            if let Source::Postgres(database) = &mut source {
                if database.service.is_none() && (database.host.is_empty() || database.database.is_empty()) {
                    return Err(Error::config(format!(
                        "in [env.{environment}.sources.{name}]: `host` or `database` is missing"
                    ))
                    .hint("set both, or name a `service` that sets them"));
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
            return Err(Error::config(format!("[env.{environment}] has run = \"job\" but no [env.{environment}.job]"))
                .hint("add the section, such as namespace = \"erp\", cron_job = \"dolibarr-backup-prod\""));
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
            .hint("use a name from the IANA time zone database, such as Europe/Paris")
    })
}

/// Describes a TOML error in one sentence, with the line if known.
fn toml_error(text: &str, error: &toml::de::Error) -> Error {
    let line = error.span().map(|span| text.get(..span.start).unwrap_or("").matches('\n').count() + 1);
    let message = error.message().replace('\n', ", ");
    match line {
        Some(line) => Error::config(format!("line {line}: {message}")),
        None => Error::config(message),
    }
    .hint("`dolibarr-backup example` prints a complete configuration")
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

    /// The lines of the example that are commented out and set a key, in place of their comments.
    fn uncommented(example: &str) -> String {
        let is_key = |line: &str| {
            line.split_once(" = ")
                .is_some_and(|(key, _)| key.chars().all(|c| c.is_ascii_lowercase() || "_.-".contains(c)))
        };
        let line = |line: &str| match line.strip_prefix("# ").filter(|rest| is_key(rest)) {
            Some(key) => format!("{key}\n"),
            None => format!("{line}\n"),
        };
        example.lines().map(line).collect()
    }

    #[test]
    fn the_example_loads_as_it_stands_and_with_every_key_that_it_shows() {
        for text in [EXAMPLE.to_owned(), uncommented(EXAMPLE)] {
            let config = Config::parse(&text).unwrap_or_else(|error| panic!("{error}: {:?}\n{text}", error.advice()));
            assert!(config.environments.len() > 1);
        }
        assert_ne!(uncommented(EXAMPLE), EXAMPLE, "the example has no key that is commented out");
    }

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
    fn a_mistake_is_reported_in_one_sentence_that_names_it() {
        let table = [
            ("[store]\nurl = \"file:///x\"\n", "no environment is configured"),
            (&format!("{GOOD}\n[extra]\n"), "unknown field `extra`, expected one of"),
            (
                &GOOD.replace("[env.prod.sources.docs]", "[env.prod.sources.\"x\\ny\"]").replace("path =", "pfad ="),
                "cannot name a source",
            ),
            (&GOOD.replace("host =", "hots ="), "unknown field `hots`, expected one of"),
            (&GOOD.replace("host =", "hots ="), "in [env.prod.sources.db]"),
            (&GOOD.replace("host =", "service_file ="), "in [env.prod.sources.db]: `host` or `database` is missing"),
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
            (&format!("{GOOD}\n[plugins]\ncache = \"here\"\n"), "`here` is not an absolute path"),
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
