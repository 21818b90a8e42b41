//! `[plugins]` of the configuration: which component plays which role, its grants, and the limits of one call.

use super::{Role, cache, signature};
use crate::grant::Grant;
use base::error::{Error, Result};
use postgres::{Filters, Readable, ShownColumns};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::path::PathBuf;

/// Columns that the shipped crosscheck plugin may read: its default settings compare these.
const SHIPPED_TABLES: [(&str, &[&str]); 2] = [
    ("llx_ecm_files", &["rowid", "entity", "filepath", "filename", "label"]),
    ("llx_blockedlog", &["rowid", "entity", "signature"]),
];

/// Columns that its report may show: the path of a document, the company of a log, and the log's last signature.
const SHIPPED_SHOWN: [(&str, &[&str]); 2] =
    [("llx_ecm_files", &["filepath", "filename"]), ("llx_blockedlog", &["entity", "signature"])];

/// Longest settings that a question shows in full.
const SETTINGS_BYTES_MAX: usize = 500;

/// `[plugins]` of the configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Plugins {
    /// Refuse a component whose sha256 is not pinned.
    pub require_digest: bool,
    /// Refuse a component that differs from `capabilities.lock` beside the configuration.
    pub require_lock: bool,
    /// Path of that file; `None` if the configuration did not come from a file.
    #[serde(skip)]
    pub lock_file: Option<PathBuf>,
    /// The key that every component must be signed with, unless its role sets another one.
    pub signed_by: Option<signature::Key>,
    /// Folder for components from registries and for compiled components.
    pub cache: Option<PathBuf>,
    /// The fingerprint plugin.
    pub fingerprint: PluginConfig,
    /// The dump plugin.
    pub dump: PluginConfig,
    /// The retention plugin.
    pub retention: PluginConfig,
    /// The job plugin.
    pub job: PluginConfig,
    /// The coverage plugin.
    pub coverage: PluginConfig,
    /// The crosscheck plugin.
    pub crosscheck: PluginConfig,
}

impl Default for Plugins {
    fn default() -> Self {
        let shipped = |component: &str, grants: &[Grant]| PluginConfig {
            component: component.into(),
            grants: Grants(grants.to_vec()),
            ..PluginConfig::default()
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
            crosscheck: PluginConfig {
                tables: Readable::of(&SHIPPED_TABLES).unwrap_or_default(),
                shown: ShownColumns::of(&SHIPPED_SHOWN),
                ..shipped("crosscheck-dolibarr.wasm", &[Grant::TableRows, Grant::DocumentsDigests])
            },
        }
    }
}

/// `[plugins.ROLE]` of the configuration.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PluginConfig {
    /// A file beside the binary in its `plugins` folder, an absolute path, or `oci://registry/repository@sha256:…`.
    pub component: PathBuf,
    /// Lower-case hexadecimal digest that the component must have.
    pub sha256: Option<String>,
    /// The key that the component must be signed with.
    pub signed_by: Option<signature::Key>,
    /// Its capabilities; none by default.
    #[serde(default)]
    pub grants: Grants,
    /// Settings, which are passed to the plugin as JSON.
    #[serde(default)]
    pub settings: toml::Table,
    /// The tables and columns that the grant `table-rows` covers; none by default. Only for a crosscheck plugin.
    #[serde(default)]
    pub tables: Readable,
    /// The columns of these tables that a report may show. Without them, it shows the row's key. Only for a crosscheck
    /// plugin.
    #[serde(default)]
    pub shown: ShownColumns,
    /// The columns by which the grant `database-evidence` may leave out rows; by default those that the shipped plugin
    /// needs. Only for a fingerprint plugin.
    pub filters: Option<Filters>,
    /// Its limits.
    #[serde(default)]
    pub limits: Limits,
    /// Where else components are, the same for every role.
    #[serde(skip)]
    pub places: Places,
}

impl PluginConfig {
    /// The component's address, without the scheme, if the component is in a registry.
    pub fn registry_address(&self) -> Option<&str> {
        self.component.to_str()?.strip_prefix(super::registry::SCHEME)
    }

    /// The component's name and its settings on one line, as recorded in the environment's file. Together they
    /// determine its behaviour. The path of the file is left out, because it differs between a pod and a laptop.
    pub fn identity_line(&self) -> String {
        let settings = serde_json::to_string(&self.settings).unwrap_or_default();
        let name = self.component.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        // An address in a registry ends with its digest.
        let name = name.split('@').next().filter(|_| self.registry_address().is_some()).unwrap_or(&name);
        let name = name.strip_suffix(".wasm").unwrap_or(name);
        // Settings that are too long for a line are represented by their hash.
        let settings = if settings.len() <= SETTINGS_BYTES_MAX {
            settings
        } else {
            format!("with settings of {} bytes, sha256 {}", settings.len(), hex::encode(Sha256::digest(&settings)))
        };
        base::text::printable(&format!("{name} {settings}"))
    }

    /// The tables that may be read, with the columns that a report may show.
    ///
    /// # Errors
    /// [`base::error::Class::Config`] for a column in `shown` that may not be read.
    pub fn readable(&self) -> Result<Readable> {
        self.tables.showing(&self.shown).map_err(|why| {
            Error::config(why).hint("name only tables and columns that [plugins.crosscheck.tables] also names")
        })
    }

    /// The columns by which rows may be left out.
    pub fn filters(&self) -> Filters {
        self.filters.clone().unwrap_or_else(Filters::shipped)
    }
}

/// The cache and the registry credentials. If both are empty, nothing is cached and registries are accessed
/// anonymously.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    /// The cache that is kept between runs.
    pub cache: Option<cache::Cache>,
    /// File with credentials for registries, in the format of Docker's `config.json`.
    pub docker: Option<PathBuf>,
}

/// Limits of a plugin, for one call and for its compilation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Linear memory in MiB.
    pub memory_mib: Option<usize>,
    /// Time in seconds, guest and host together.
    pub call_seconds: Option<u64>,
    /// Time in seconds for which the guest itself may compute.
    pub compute_seconds: Option<u64>,
    /// Memory in MiB that compiling it may take.
    pub compile_mib: Option<u64>,
    /// Processor time in seconds that compiling it may take.
    pub compile_seconds: Option<u64>,
}

impl Limits {
    /// The limits that the configuration sets, each written as `memory_mib 64`.
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
    /// Whether a capability is granted.
    pub fn has(&self, grant: Grant) -> bool {
        self.0.contains(&grant)
    }

    /// The grants in the order of the configuration.
    pub fn iter(&self) -> impl Iterator<Item = Grant> {
        self.0.iter().copied()
    }

    /// Whether nothing is granted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Number of grants.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl Plugins {
    /// Checks the section and completes each role's configuration: the cache folder (from the configuration, or else
    /// `cache` from the process's environment), the credentials file, and the key that its component must be signed
    /// with.
    ///
    /// # Errors
    /// [`base::error::Class::Config`] if `cache` is relative, because a scheduler may run the program in any folder, or
    /// if a role has `tables` or `filters` that its world cannot use.
    pub fn at(mut self, cache: Option<PathBuf>, docker: Option<PathBuf>) -> Result<Self> {
        if let Some(folder) = self.cache.as_ref().filter(|folder| !folder.is_absolute()) {
            let shown = base::text::printable(&folder.to_string_lossy());
            return Err(Error::config(format!("`{shown}` is not an absolute path for the cache of [plugins]"))
                .hint("write an absolute path, such as cache = \"/var/cache/dolibarr-backup\""));
        }
        for role in Role::ALL {
            let (config, name) = (self.of(role), role.name());
            config.readable()?;
            if role != Role::Crosscheck && !config.tables.is_empty() {
                return Err(Error::config(format!("[plugins.{name}] has `tables`, which its world cannot read"))
                    .hint("only a crosscheck plugin may read tables: set them in [plugins.crosscheck.tables]"));
            }
            if role != Role::Fingerprint && config.filters.is_some() {
                return Err(Error::config(format!("[plugins.{name}] has `filters`, which its world cannot use"))
                    .hint("only a fingerprint plugin may leave out rows: set them in [plugins.fingerprint.filters]"));
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

    /// The shipped plugins, with another one in one role.
    pub fn with(role: Role, config: PluginConfig) -> Self {
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
    pub const fn of(&self, role: Role) -> &PluginConfig {
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
    fn a_plugin_is_identified_by_its_name_and_settings_but_not_by_its_path() {
        let identity = |component: &str, keep: i64| {
            let settings = [("keep".to_owned(), toml::Value::Integer(keep))].into_iter().collect();
            PluginConfig { component: component.into(), settings, ..PluginConfig::default() }.identity_line()
        };
        let digest = "ab".repeat(32);
        for same in
            ["last.wasm", "/plugins/config-map/last.wasm", &format!("oci://r.example.org/x/last@sha256:{digest}")]
        {
            assert_eq!(identity(same, 7), "last {\"keep\":7}", "{same}");
        }
        assert_ne!(identity("last.wasm", 7), identity("last.wasm", 8));
        assert_ne!(identity("last.wasm", 7), identity("first.wasm", 7));
        let long = |text: &str| {
            let settings = [("x".to_owned(), toml::Value::String(format!("{}{text}", "y".repeat(5_000))))];
            PluginConfig {
                component: "last.wasm".into(),
                settings: settings.into_iter().collect(),
                ..PluginConfig::default()
            }
            .identity_line()
        };
        assert!(long("a") != long("b") && long("a").len() < 200, "{}", long("a"));
    }
}
