//! `[plugins]` of the configuration: which component plays which role, what it is granted, and what one call of it may use up.

use super::{Role, cache, signature};
use crate::grant::Grant;
use base::error::{Error, Result};
use postgres::{Filters, Readable, Shown};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::path::PathBuf;

/// What the shipped crosscheck plugin is given to read: by its own default settings it compares these.
const SHIPPED_TABLES: [(&str, &[&str]); 2] = [
    ("llx_ecm_files", &["rowid", "entity", "filepath", "filename", "label"]),
    ("llx_blockedlog", &["rowid", "entity", "signature"]),
];

/// What its report shows of a row: the path of a document, and which company's log it is with its last signature.
const SHIPPED_SHOWN: [(&str, &[&str]); 2] =
    [("llx_ecm_files", &["filepath", "filename"]), ("llx_blockedlog", &["entity", "signature"])];

/// Settings that a question shows whole.
const SPELT_BYTES_MAX: usize = 500;

/// `[plugins]` of the configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Plugins {
    /// Refuse a component whose sha256 is not pinned.
    pub require_digest: bool,
    /// Refuse a component that is not as `capabilities.lock` beside the configuration has it.
    pub require_lock: bool,
    /// Where that file is; none for a configuration that is no file.
    #[serde(skip)]
    pub lock_file: Option<PathBuf>,
    /// The key that every component must be signed with, unless its role names another one.
    pub signed_by: Option<signature::Key>,
    /// Where components of registries and compiled ones are kept.
    pub cache: Option<PathBuf>,
    /// Who fingerprints.
    pub fingerprint: Config,
    /// Who dumps.
    pub dump: Config,
    /// Who retains.
    pub retention: Config,
    /// Who runs Jobs.
    pub job: Config,
    /// Who finds what is not covered.
    pub coverage: Config,
    /// Who compares a restored database with its documents.
    pub crosscheck: Config,
}

impl Default for Plugins {
    fn default() -> Self {
        let shipped = |component: &str, grants: &[Grant]| Config {
            component: component.into(),
            grants: Grants(grants.to_vec()),
            ..Config::default()
        };
        Self {
            require_digest: false,
            require_lock: false,
            lock_file: None,
            signed_by: None,
            cache: None,
            fingerprint: shipped("fingerprint.wasm", &[Grant::DatabaseEvidence, Grant::TreeEvidence]),
            dump: shipped("dump.wasm", &[Grant::DatabaseDump, Grant::TreeArchive, Grant::ObjectWrite]),
            retention: shipped("retention-tiered.wasm", &[]),
            job: shipped("dump-job.wasm", &[Grant::KubeJob]),
            coverage: shipped("coverage.wasm", &[Grant::KubeVolumes]),
            crosscheck: Config {
                tables: Readable::of(&SHIPPED_TABLES).unwrap_or_default(),
                shown: Shown::of(&SHIPPED_SHOWN),
                ..shipped("crosscheck-dolibarr.wasm", &[Grant::TableRows, Grant::DocumentsDigests])
            },
        }
    }
}

/// `[plugins.ROLE]` of the configuration.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// A file beside the binary in its `plugins` folder, an absolute path, or `oci://registry/repository@sha256:…`.
    pub component: PathBuf,
    /// Lower-case hexadecimal digest that the component must have.
    pub sha256: Option<String>,
    /// The key that it must be signed with.
    pub signed_by: Option<signature::Key>,
    /// What it may use; nothing unless said.
    #[serde(default)]
    pub grants: Grants,
    /// Handed to the plugin as JSON.
    #[serde(default)]
    pub settings: toml::Table,
    /// The tables and columns that the grant `table-rows` reaches; none unless said. Only a crosscheck plugin has them.
    #[serde(default)]
    pub tables: Readable,
    /// The columns of these tables that a report may show of a row; without them it shows the row's key. Only a crosscheck plugin has
    /// them.
    #[serde(default)]
    pub shown: Shown,
    /// The columns that the grant `database-evidence` may leave out rows by; what the shipped plugin needs unless said. Only a
    /// fingerprint plugin has them.
    pub filters: Option<Filters>,
    /// What it may use up.
    #[serde(default)]
    pub limits: Limits,
    /// Where the component is looked for besides, the same for every role.
    #[serde(skip)]
    pub places: Places,
}

impl Config {
    /// The component's name and its settings, on one line: what decides how it behaves, as the environment's file has it. Where the
    /// file lies says nothing: in a pod it is another place than on a laptop.
    #[must_use]
    pub fn spelt(&self) -> String {
        let settings = serde_json::to_string(&self.settings).unwrap_or_default();
        let name = self.component.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        // An address in a registry ends with its digest.
        let is_address = self.component.to_string_lossy().starts_with(super::registry::SCHEME);
        let name = name.split('@').next().filter(|_| is_address).unwrap_or(&name);
        let name = name.strip_suffix(".wasm").unwrap_or(name);
        // What does not fit on a line differs by its hash.
        let settings = if settings.len() <= SPELT_BYTES_MAX {
            settings
        } else {
            format!("with settings of {} bytes, sha256 {}", settings.len(), hex::encode(Sha256::digest(&settings)))
        };
        base::text::printable(&format!("{name} {settings}"))
    }

    /// The tables that may be read, with what a report may show of them.
    ///
    /// # Errors
    /// [`base::error::Class::Config`] for a column that is to be shown and may not be read.
    pub fn readable(&self) -> Result<Readable> {
        self.tables.showing(&self.shown).map_err(|said| {
            Error::config(said).hint("name a table and columns that stand in [plugins.crosscheck.tables] too")
        })
    }

    /// The columns that rows may be left out by.
    #[must_use]
    pub fn filters(&self) -> Filters {
        self.filters.clone().unwrap_or_else(Filters::shipped)
    }
}

/// Where components are, apart from files. Empty, nothing is cached and registries are asked without credentials.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    /// What is kept between runs.
    pub cache: Option<cache::Cache>,
    /// Credentials for registries, in the form of Docker's `config.json`.
    pub docker: Option<PathBuf>,
}

/// What a plugin may use up: in one call, and to be compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Linear memory in MiB.
    pub memory_mib: Option<usize>,
    /// Time in seconds, guest and host together.
    pub call_seconds: Option<u64>,
    /// Time in seconds that the guest itself computes.
    pub compute_seconds: Option<u64>,
    /// Memory in MiB that compiling it may take.
    pub compile_mib: Option<u64>,
    /// Processor time in seconds that compiling it may take.
    pub compile_seconds: Option<u64>,
}

impl Limits {
    /// Those that the configuration sets, each as `memory_mib 64`.
    pub fn named(&self) -> impl Iterator<Item = String> {
        let memory = self.memory_mib.map(|value| format!("memory_mib {value}"));
        let call = self.call_seconds.map(|value| format!("call_seconds {value}"));
        let compute = self.compute_seconds.map(|value| format!("compute_seconds {value}"));
        let compile_memory = self.compile_mib.map(|value| format!("compile_mib {value}"));
        let compile = self.compile_seconds.map(|value| format!("compile_seconds {value}"));
        [memory, call, compute, compile_memory, compile].into_iter().flatten()
    }
}

/// The grants of one plugin, each once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<String>")]
pub struct Grants(Vec<Grant>);

impl TryFrom<Vec<String>> for Grants {
    type Error = crate::grant::UnknownGrant;

    fn try_from(words: Vec<String>) -> Result<Self, Self::Error> {
        words.iter().map(|word| word.parse()).collect::<Result<_, _>>().map(Self)
    }
}

impl FromIterator<Grant> for Grants {
    fn from_iter<T: IntoIterator<Item = Grant>>(grants: T) -> Self {
        let mut found = Vec::new();
        for grant in grants {
            if !found.contains(&grant) {
                found.push(grant);
            }
        }
        Self(found)
    }
}

impl Grants {
    /// Whether a capability is among them.
    #[must_use]
    pub fn has(&self, grant: Grant) -> bool {
        self.0.contains(&grant)
    }

    /// The grants in the order of the configuration.
    pub fn iter(&self) -> impl Iterator<Item = Grant> {
        self.0.iter().copied()
    }

    /// Whether nothing is granted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many are granted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl Plugins {
    /// Tells every role where its component may be: the `cache` of the configuration or else the folder of the
    /// environment, and the environment's file of credentials; and whose signature it needs.
    ///
    /// # Errors
    /// [`base::error::Class::Config`] when `cache` is relative, for a scheduler runs the program anywhere, and when a role
    /// that is never handed a table names some.
    pub fn at(mut self, cache: Option<PathBuf>, docker: Option<PathBuf>) -> Result<Self> {
        if let Some(folder) = self.cache.as_ref().filter(|folder| !folder.is_absolute()) {
            let shown = base::text::printable(&folder.to_string_lossy());
            return Err(Error::config(format!("`{shown}` cannot be the cache of [plugins]"))
                .hint("write an absolute path, such as cache = \"/var/cache/dolibarr-backup\""));
        }
        for role in Role::ALL {
            let (config, name) = (self.of(role), role.name());
            config.readable()?;
            if role != Role::Crosscheck && !config.tables.is_empty() {
                return Err(Error::config(format!("[plugins.{name}] has `tables`, which its world cannot read"))
                    .hint("only [plugins.crosscheck.tables] says which tables a plugin may read"));
            }
            if role != Role::Fingerprint && config.filters.is_some() {
                return Err(Error::config(format!("[plugins.{name}] has `filters`, which its world cannot use"))
                    .hint("only [plugins.fingerprint.filters] says by which columns rows may be left out"));
            }
        }
        let cache = self.cache.clone().or(cache).map(cache::Cache::new);
        let places = Places { cache, docker };
        for config in [
            &mut self.fingerprint,
            &mut self.dump,
            &mut self.retention,
            &mut self.crosscheck,
            &mut self.job,
            &mut self.coverage,
        ] {
            config.places.clone_from(&places);
            config.signed_by = config.signed_by.take().or_else(|| self.signed_by.clone());
        }
        Ok(self)
    }

    /// Those that ship, and another one in one role.
    #[must_use]
    pub fn with(role: Role, config: Config) -> Self {
        let mut plugins = Self::default();
        match role {
            Role::Fingerprint => plugins.fingerprint = config,
            Role::Dump => plugins.dump = config,
            Role::Retention => plugins.retention = config,
            Role::Job => plugins.job = config,
            Role::Coverage => plugins.coverage = config,
            Role::Crosscheck => plugins.crosscheck = config,
        }
        plugins
    }

    /// The configuration of a role.
    #[must_use]
    pub const fn of(&self, role: Role) -> &Config {
        match role {
            Role::Fingerprint => &self.fingerprint,
            Role::Dump => &self.dump,
            Role::Retention => &self.retention,
            Role::Job => &self.job,
            Role::Coverage => &self.coverage,
            Role::Crosscheck => &self.crosscheck,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_plugin_is_is_the_same_wherever_its_file_lies_and_another_with_each_setting() {
        let of = |component: &str, keep: i64| {
            let settings = [("keep".to_owned(), toml::Value::Integer(keep))].into_iter().collect();
            Config { component: component.into(), settings, ..Config::default() }.spelt()
        };
        let digest = "ab".repeat(32);
        for same in
            ["last.wasm", "/plugins/config-map/last.wasm", &format!("oci://r.example.org/x/last@sha256:{digest}")]
        {
            assert_eq!(of(same, 7), "last {\"keep\":7}", "{same}");
        }
        assert_ne!(of("last.wasm", 7), of("last.wasm", 8));
        assert_ne!(of("last.wasm", 7), of("first.wasm", 7));
        let long = |text: &str| {
            let settings = [("x".to_owned(), toml::Value::String(format!("{}{text}", "y".repeat(5_000))))];
            Config { component: "last.wasm".into(), settings: settings.into_iter().collect(), ..Config::default() }
                .spelt()
        };
        assert!(long("a") != long("b") && long("a").len() < 200, "{}", long("a"));
    }
}
