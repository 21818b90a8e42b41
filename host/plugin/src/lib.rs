//! Plugins: which component plays which role, what it is granted, and the engine that runs it.
//!
//! Two walls keep policy apart from capabilities and secrets. At link time an interface that is not granted is not
//! there, and the host says so before anything runs. At run time a plugin has only the handles that one call passed in.
#![warn(missing_docs)]

mod bounded_file;
pub mod cache;
pub mod call;
pub mod capabilities;
pub mod compile;
pub mod component;
mod config;
pub mod context;
pub mod grant;
#[cfg(test)]
mod hostile;
pub mod lock;
mod origin;
pub mod registry;
mod settings;
pub mod signature;
mod structure;
mod wasi;

pub use config::{Config, Grants, Limits, Places, Plugins};

use base::error::{Error, Result};
use postgres::{Filters, Readable};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Largest component that is read. An interpreter with its library has 18 MB, a Rust plugin below one.
pub const COMPONENT_BYTES_MAX: u64 = 64 << 20;

/// How often a running guest is interrupted so that deadlines are seen.
const EPOCH_TICK: Duration = Duration::from_millis(10);

/// Linear memory of a plugin unless `limits` says otherwise. The largest shipped plugin needs 4 MiB for 10,000 snapshots.
const MEMORY_MIB: usize = 64;

/// Time that a guest itself may compute in one call unless `limits` says otherwise. The shipped plugins need
/// milliseconds; time in which it waits for the host does not count.
const COMPUTE_SECONDS: u64 = 30;

/// Stack of a guest; wasmtime's own default, named because endless recursion ends here.
const STACK_BYTES_MAX: usize = 512 << 10;

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

/// The engine that every plugin of a process shares.
#[derive(Debug, Clone)]
pub struct Engine {
    wasm: wasmtime::Engine,
}

impl Engine {
    /// Starts the engine and the thread that advances its epoch for as long as the engine lives.
    ///
    /// # Errors
    /// [`base::error::Class::Unexpected`] when this machine cannot run compiled wasm.
    pub fn new() -> Result<Self> {
        let engine = Self::compiler()?;
        let weak = engine.wasm.weak();
        std::thread::spawn(move || {
            while let Some(engine) = weak.upgrade() {
                engine.increment_epoch();
                drop(engine);
                std::thread::sleep(EPOCH_TICK);
            }
        });
        Ok(engine)
    }

    /// The same engine where nothing runs.
    ///
    /// # Errors
    /// As [`Engine::new`].
    fn compiler() -> Result<Self> {
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
    memory: crate::context::Memory,
    engine: Engine,
    linked: wasmtime::component::InstancePre<crate::context::Context>,
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
    /// [`base::error::Class::Config`] when there is no such file, it is no component of this role and version, its
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
            memory: crate::context::Memory {
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

    /// What it was granted.
    #[must_use]
    pub const fn grants(&self) -> &Grants {
        &self.grants
    }

    /// Where the component is, as the configuration names it.
    #[must_use]
    pub fn component(&self) -> std::path::Display<'_> {
        self.file.display()
    }
}

/// A component's bytes.
#[derive(Debug)]
pub struct Component {
    /// Where it was found: a file, or the address in a registry.
    pub path: PathBuf,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// SHA-256 of them, in lower-case hexadecimal.
    pub digest: String,
}

/// The first digits of a digest, enough for people to compare.
#[must_use]
pub fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}
