//! Plugins: which component plays which role, what it is granted, and the engine that runs it.
//!
//! Two walls keep policy apart from capabilities and secrets. At link time an interface that is not granted is not
//! there, and the host says so before anything runs. At run time a plugin has only the handles that one call passed in.

pub mod cache;
pub mod call;
pub mod component;
#[cfg(test)]
mod hostile;
pub(crate) mod lock;
pub mod registry;
mod settings;
mod structure;
#[cfg(test)]
mod suite;

use crate::error::{Error, Result};
use crate::grant::Grant;
use crate::postgres::{Filters, Readable, Shown};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How often a running guest is interrupted so that deadlines are seen.
const EPOCH_TICK: Duration = Duration::from_millis(10);

/// Linear memory of a plugin unless `limits` says otherwise. The largest shipped plugin needs 4 MiB for 10,000 snapshots.
const MEMORY_MIB: usize = 64;

/// Time that a guest itself may compute in one call unless `limits` says otherwise. The shipped plugins need
/// milliseconds; time in which it waits for the host does not count.
const COMPUTE_SECONDS: u64 = 30;

/// Stack of a guest; wasmtime's own default, named because endless recursion ends here.
const STACK_BYTES_MAX: usize = 512 << 10;

/// What the shipped crosscheck plugin is given to read: by its own default settings it compares these.
const SHIPPED_TABLES: [(&str, &[&str]); 2] = [
    ("llx_ecm_files", &["rowid", "entity", "filepath", "filename", "label"]),
    ("llx_blockedlog", &["rowid", "entity", "signature"]),
];

/// What its report shows of a row: the path of a document, and which company's log it is with its last signature.
const SHIPPED_SHOWN: [(&str, &[&str]); 2] =
    [("llx_ecm_files", &["filepath", "filename"]), ("llx_blockedlog", &["entity", "signature"])];

/// What a plugin does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Says what a source's durable content is.
    Fingerprint,
    /// Decides what is dumped and how.
    Dump,
    /// Decides what is kept.
    Retention,
    /// Compares a restored database with the restored documents. No backup runs it.
    Crosscheck,
    /// Runs a backup as a Job in a cluster.
    Job,
    /// Finds volumes that no backup covers.
    Coverage,
}

impl Role {
    /// Every role, in the order of a run, then what a drill runs, and what needs a cluster.
    pub const ALL: [Self; 6] =
        [Self::Fingerprint, Self::Dump, Self::Retention, Self::Crosscheck, Self::Job, Self::Coverage];

    /// As the configuration spells it, which is also the world's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fingerprint => "fingerprint",
            Self::Dump => "dump",
            Self::Retention => "retention",
            Self::Job => "job",
            Self::Coverage => "coverage",
            Self::Crosscheck => "crosscheck",
        }
    }

    /// The interface that a component of this role exports.
    #[must_use]
    pub const fn export(self) -> &'static str {
        match self {
            Self::Fingerprint => "fingerprinting",
            Self::Dump => "dumping",
            Self::Retention => "retaining",
            Self::Job => "launching",
            Self::Coverage => "covering",
            Self::Crosscheck => "crosschecking",
        }
    }

    /// Whether it is handed rows and names of documents. What it says after that is bounded to numbers.
    #[must_use]
    pub const fn sees_rows(self) -> bool {
        matches!(self, Self::Crosscheck)
    }

    /// How long one call may take, guest and host together. A fingerprint reads a whole database, a dump moves it,
    /// a plan reads its arguments, a cross-check reads every document, a Job does all of a backup behind a wait for a node, and a
    /// judgement reads a few lists.
    const fn wall_seconds(self) -> u64 {
        match self {
            Self::Fingerprint => 3_600,
            Self::Dump => 12 * 3_600,
            Self::Retention => 60,
            Self::Job => 24 * 3_600,
            Self::Coverage => 300,
            Self::Crosscheck => 4 * 3_600,
        }
    }
}

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
    /// What one call of it may use up.
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
        let name = name.split('@').next().unwrap_or_default();
        crate::capability::printable(&format!("{} {settings}", name.strip_suffix(".wasm").unwrap_or(name)))
    }

    /// The tables that may be read, with what a report may show of them.
    ///
    /// # Errors
    /// [`crate::error::Class::Config`] for a column that is to be shown and may not be read.
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

/// What one call of a plugin may use up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Linear memory in MiB.
    pub memory_mib: Option<usize>,
    /// Time in seconds, guest and host together.
    pub call_seconds: Option<u64>,
    /// Time in seconds that the guest itself computes.
    pub compute_seconds: Option<u64>,
}

impl Limits {
    /// Those that the configuration sets, each as `memory_mib 64`.
    pub fn named(&self) -> impl Iterator<Item = String> {
        let memory = self.memory_mib.map(|value| format!("memory_mib {value}"));
        let call = self.call_seconds.map(|value| format!("call_seconds {value}"));
        let compute = self.compute_seconds.map(|value| format!("compute_seconds {value}"));
        [memory, call, compute].into_iter().flatten()
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

/// The engine that every plugin of a process shares.
#[derive(Debug, Clone)]
pub struct Engine {
    wasm: wasmtime::Engine,
}

impl Engine {
    /// Starts the engine and the thread that advances its epoch for as long as the engine lives.
    ///
    /// # Errors
    /// [`crate::error::Class::Unexpected`] when this machine cannot run compiled wasm.
    pub fn new() -> Result<Self> {
        let mut config = wasmtime::Config::new();
        config
            .wasm_component_model(true)
            .concurrency_support(false)
            .epoch_interruption(true)
            .cranelift_nan_canonicalization(true)
            .wasm_relaxed_simd(false)
            // A run calls each plugin for milliseconds and compiles it for a tenth of a second: without optimising it
            // compiles in two thirds of the time.
            .cranelift_opt_level(wasmtime::OptLevel::None)
            .max_wasm_stack(STACK_BYTES_MAX)
            .async_stack_size(STACK_BYTES_MAX + (512 << 10));
        let wasm = wasmtime::Engine::new(&config)
            .map_err(|e| Error::unexpected(format!("this machine cannot run plugins: {e:#}")))?;
        let weak = wasm.weak();
        std::thread::spawn(move || {
            while let Some(engine) = weak.upgrade() {
                engine.increment_epoch();
                drop(engine);
                std::thread::sleep(EPOCH_TICK);
            }
        });
        Ok(Self { wasm })
    }
}

/// A component that was read, checked against its grants and compiled; nothing of it has run.
pub struct Plugin {
    role: Role,
    name: Arc<str>,
    file: PathBuf,
    digest: String,
    grants: Grants,
    settings: String,
    tables: Readable,
    filters: Arc<Filters>,
    wall: Duration,
    compute: Duration,
    memory: crate::capability::Memory,
    engine: Engine,
    linked: wasmtime::component::InstancePre<crate::capability::Context>,
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Plugin({}, {}, sha256 {})", self.name, self.file.display(), self.digest)
    }
}

impl Plugin {
    /// Reads, checks, compiles and links the component of a role.
    ///
    /// # Errors
    /// [`crate::error::Class::Config`] when there is no such file, it is no component of this role and version, its
    /// digest differs, or it imports what it is not granted.
    pub fn load(engine: &Engine, plugins: &Plugins, role: Role, folder: Option<&Path>) -> Result<Self> {
        let config = plugins.of(role);
        let found = component::read(role, config, plugins.require_digest, folder)?;
        component::check(role, &found, config)?;
        if plugins.require_lock {
            let beside = plugins.lock_file.as_deref().unwrap_or(Path::new(lock::FILE));
            lock::enforce(beside, role, config, &found)?;
        }
        let linked = call::link(engine, role, &found, config)?;
        let settings = serde_json::to_string(&config.settings)
            .map_err(|e| Error::config(format!("the settings of the plugin `{}` are no JSON: {e}", role.name())))?;
        Ok(Self {
            role,
            name: role.name().into(),
            file: config.component.clone(),
            digest: found.digest,
            grants: config.grants.clone(),
            settings,
            tables: config.readable()?,
            filters: Arc::new(config.filters()),
            wall: Duration::from_secs(config.limits.call_seconds.unwrap_or(role.wall_seconds())),
            compute: Duration::from_secs(config.limits.compute_seconds.unwrap_or(COMPUTE_SECONDS)),
            memory: crate::capability::Memory {
                bytes_max: config.limits.memory_mib.unwrap_or(MEMORY_MIB).saturating_mul(1 << 20),
            },
            engine: engine.clone(),
            linked,
        })
    }

    /// SHA-256 of the component.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// SHA-256 of its settings as JSON.
    #[must_use]
    pub fn settings_sha256(&self) -> String {
        use sha2::Digest;
        hex::encode(sha2::Sha256::digest(&self.settings))
    }

    /// What the record says of it.
    #[must_use]
    pub fn record(&self, tally: &crate::capability::Tally) -> crate::snapshot::PluginRecord {
        crate::snapshot::PluginRecord {
            name: self.name.to_string(),
            component: self.file.display().to_string(),
            sha256: self.digest.clone(),
            grants: self.grants.iter().map(|grant| grant.to_string()).collect(),
            settings_sha256: Some(self.settings_sha256()),
            tally: tally
                .iter()
                .map(|((function, scope), count)| crate::snapshot::TallyRecord {
                    function: (*function).to_owned(),
                    scope: scope.clone(),
                    calls: count.calls,
                    items: count.items,
                    bytes: count.bytes,
                })
                .collect(),
        }
    }
}

impl Plugins {
    /// Tells every role where its component may be: the `cache` of the configuration or else the folder of the
    /// environment, and the environment's file of credentials.
    ///
    /// # Errors
    /// [`crate::error::Class::Config`] when `cache` is relative, for a scheduler runs the program anywhere, and when a role
    /// that is never handed a table names some.
    pub fn at(mut self, cache: Option<PathBuf>, docker: Option<PathBuf>) -> Result<Self> {
        if let Some(folder) = self.cache.as_ref().filter(|folder| !folder.is_absolute()) {
            let shown = crate::capability::printable(&folder.to_string_lossy());
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
        }
        Ok(self)
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
    }
}
