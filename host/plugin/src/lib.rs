//! Plugins: which component plays which role, what it is granted, and the engine that runs it.
//!
//! Two walls separate policy from capabilities and secrets. At link time, an interface that is not granted does not
//! exist, and the host reports this before anything runs. At run time, a plugin has only the handles that were passed
//! into the call.
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

pub use config::{Grants, Limits, Places, PluginConfig, Plugins};

use base::error::{Error, Result};
use postgres::{Filters, Readable};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Largest component that is read. An interpreter with its library has 18 MB, a Rust plugin less than 1 MB.
pub const COMPONENT_BYTES_MAX: u64 = 64 << 20;

/// How often a running guest is interrupted to check its deadlines.
const EPOCH_TICK: Duration = Duration::from_millis(10);

/// Linear memory of a plugin unless `limits` says otherwise. The largest shipped plugin needs 4 MiB for 10,000
/// snapshots.
const MEMORY_MIB: usize = 64;

/// Time that a guest may compute in one call unless `limits` says otherwise. The shipped plugins need milliseconds.
/// Time in which the guest waits for the host does not count.
const COMPUTE_SECONDS: u64 = 30;

/// Stack of a guest: wasmtime's default, named here because endless recursion ends at this limit.
const STACK_BYTES_MAX: usize = 512 << 10;

/// What is known of a role.
struct RoleFacts {
    /// Name in the configuration, which is also the name of the world.
    name: &'static str,
    /// The interface that a component of this role exports.
    export: &'static str,
    /// Whether a plugin of this role receives rows and names of documents. After that, it may emit only numbers.
    sees_rows: bool,
    /// How long one call may take, guest and host together.
    wall_seconds: u64,
}

base::table! {
    /// What a plugin does: first the roles of a run, in its order, then that of a drill, then those that need a cluster.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub enum Role with RoleFacts {
        /// Defines a source's durable content.
        Fingerprint {
            name: "fingerprint",
            export: "fingerprinting",
            sees_rows: false,
            // A fingerprint reads a whole database.
            wall_seconds: 3_600,
        }
        /// Decides what is dumped and how.
        Dump {
            name: "dump",
            export: "dumping",
            sees_rows: false,
            // A dump transfers it.
            wall_seconds: 12 * 3_600,
        }
        /// Decides what is kept.
        Retention {
            name: "retention",
            export: "retaining",
            sees_rows: false,
            // A plan reads its arguments.
            wall_seconds: 60,
        }
        /// Compares a restored database with the restored documents. No backup runs it.
        Crosscheck {
            name: "crosscheck",
            export: "crosschecking",
            sees_rows: true,
            // A crosscheck reads every document.
            wall_seconds: 4 * 3_600,
        }
        /// Runs a backup as a Job in a cluster.
        Job {
            name: "job",
            export: "launching",
            sees_rows: false,
            // A Job may wait for a node, and then runs a whole backup.
            wall_seconds: 24 * 3_600,
        }
        /// Finds volumes that no backup covers.
        Coverage {
            name: "coverage",
            export: "covering",
            sees_rows: false,
            // A coverage judgement reads a few lists.
            wall_seconds: 300,
        }
    }
}

impl Role {
    /// Name in the configuration, which is also the name of the world.
    pub const fn name(self) -> &'static str {
        self.facts().name
    }

    /// The interface that a component of this role exports.
    pub const fn export(self) -> &'static str {
        self.facts().export
    }

    /// Whether a plugin of this role receives rows and names of documents. After that, it may emit only numbers.
    pub const fn sees_rows(self) -> bool {
        self.facts().sees_rows
    }

    /// How long one call may take, guest and host together.
    const fn wall_seconds(self) -> u64 {
        self.facts().wall_seconds
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

    /// The same engine without the thread, for a process that only compiles.
    fn compiler() -> Result<Self> {
        let mut config = wasmtime::Config::new();
        config
            .wasm_component_model(true)
            .concurrency_support(false)
            .epoch_interruption(true)
            .cranelift_nan_canonicalization(true)
            .wasm_relaxed_simd(false)
            // A run spends milliseconds in each plugin and a tenth of a second compiling it. Compiling without
            // optimisation takes two thirds of the time.
            .cranelift_opt_level(wasmtime::OptLevel::None)
            .max_wasm_stack(STACK_BYTES_MAX)
            .async_stack_size(STACK_BYTES_MAX + (512 << 10));
        let wasm = wasmtime::Engine::new(&config)
            .map_err(|e| Error::unexpected(format!("this machine cannot run plugins: {e:#}")))?;
        Ok(Self { wasm })
    }
}

/// A component that was read, checked against its grants and compiled, but has not run.
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
    memory: crate::context::MemoryLimit,
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
    /// [`base::error::Class::Config`] if the file does not exist or is not a component of this role and version, if its
    /// digest differs, or if it imports something that it is not granted.
    pub async fn load(engine: &Engine, plugins: &Plugins, role: Role, folder: Option<&Path>) -> Result<Self> {
        let config = plugins.of(role);
        let found = component::read(role, config, plugins.require_digest, folder).await?;
        component::check(role, &found, config)?;
        if plugins.require_lock {
            let lock_file = plugins.lock_file.as_deref().unwrap_or(Path::new(lock::FILE));
            lock::enforce(lock_file, role, config, &found)?;
        }
        let linked = call::link(engine, role, &found, config)?;
        let settings = serde_json::to_string(&config.settings).map_err(|e| {
            Error::config(format!("the settings of the plugin `{}` cannot be written as JSON: {e}", role.name()))
        })?;
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
            memory: crate::context::MemoryLimit {
                bytes_max: config.limits.memory_mib.unwrap_or(MEMORY_MIB).saturating_mul(1 << 20),
            },
            engine: engine.clone(),
            linked,
        })
    }

    /// SHA-256 of the component.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// SHA-256 of its settings as JSON.
    pub fn settings_sha256(&self) -> String {
        use sha2::Digest;
        hex::encode(sha2::Sha256::digest(&self.settings))
    }

    /// Its grants.
    pub const fn grants(&self) -> &Grants {
        &self.grants
    }

    /// Location of the component, as the configuration names it.
    pub fn component(&self) -> std::path::Display<'_> {
        self.file.display()
    }
}

/// A component's bytes.
#[derive(Debug)]
pub struct Component {
    /// Where it was found: a file or an address in a registry.
    pub path: PathBuf,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// SHA-256 of the bytes, in lower-case hexadecimal.
    pub digest: String,
}

/// The first digits of a digest, enough for people to compare.
pub fn short_digest(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}
