//! What every verb works with: the configuration, the store and the plugins, each opened once.

use crate::config::{Config, Environment, EnvironmentConfig, Source};
use crate::error::{Error, Result};
use crate::kube::Cluster;
use crate::kube::lease::ClusterLease;
use crate::lease;
use crate::plugin::{Engine, Plugin, Plugins, Role};
use crate::store::Store;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The host of one command for one environment.
#[derive(Debug)]
pub struct Host {
    /// The environment that the command is for; no other is reachable through this value.
    pub environment: Environment,
    /// What it consists of.
    pub sources: EnvironmentConfig,
    /// The business time zone.
    pub time_zone: TimeZone,
    /// Rules that no plugin overrides.
    pub guard: crate::guard::Config,
    /// The plugin that plans the retention, with its settings.
    pub retention: String,
    /// The store.
    pub store: Arc<Store>,
    /// The time of this command.
    pub clock: Clock,
    config: Config,
    engine: Engine,
    plugins_folder: Option<PathBuf>,
}

/// The time of one command: the moment it was given, and what has passed since.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    began: Timestamp,
    since: Instant,
    /// How far it was moved from the machine's time, for tests and simulations.
    shift: SignedDuration,
}

impl Clock {
    /// A clock that shows `began` now.
    #[must_use]
    pub fn starting_at(began: Timestamp) -> Self {
        Self { began, since: Instant::now(), shift: SignedDuration::ZERO }
    }

    /// The same clock, which somebody moved by so much from the machine's time.
    #[must_use]
    pub const fn moved_by(mut self, shift: SignedDuration) -> Self {
        self.shift = shift;
        self
    }

    /// How far it was moved from the machine's time. Whoever moves that in a simulation moves the store's with it.
    #[must_use]
    pub const fn shift(&self) -> SignedDuration {
        self.shift
    }

    /// What this clock shows when the store's shows a moment.
    #[must_use]
    pub fn shown_by(&self, store: Timestamp) -> Timestamp {
        store.checked_add(self.shift).unwrap_or(store)
    }

    /// Time since the command began.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }

    /// The time now. Never earlier than when the command began, whatever is done to the machine's clock.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let passed = SignedDuration::try_from(self.since.elapsed()).unwrap_or_default();
        self.began.checked_add(passed).unwrap_or(self.began)
    }

    /// Milliseconds since an earlier time of this clock.
    #[must_use]
    pub fn millis_since(&self, earlier: Timestamp) -> u64 {
        u64::try_from(self.now().duration_since(earlier).as_millis()).unwrap_or(0)
    }
}

impl Host {
    /// Opens the store for one environment of a configuration.
    ///
    /// # Errors
    /// [`crate::error::Class::Config`] for an unknown environment; the store's own.
    pub async fn open(
        config: Config,
        environment: &str,
        plugins_folder: Option<PathBuf>,
        now: Timestamp,
    ) -> Result<Self> {
        let (environment, sources) = config.environment(environment)?;
        let (environment, sources) = (environment.clone(), sources.clone());
        let store = Arc::new(Store::open(&config.store).await?);
        Ok(Self {
            environment,
            sources,
            time_zone: config.time_zone.clone(),
            guard: config.guard.clone(),
            retention: config.plugins.retention.spelt(),
            store,
            clock: Clock::starting_at(now),
            config,
            engine: Engine::new()?,
            plugins_folder,
        })
    }

    /// Loads the plugin of a role and checks its settings.
    ///
    /// # Errors
    /// As [`Plugin::load`] and [`Plugin::check_settings`].
    pub async fn plugin(&self, role: Role) -> Result<Plugin> {
        self.plugin_of(&self.config.plugins, role).await
    }

    /// The same of another configuration than the one that is in force.
    ///
    /// # Errors
    /// As [`Host::plugin`].
    pub async fn plugin_of(&self, plugins: &Plugins, role: Role) -> Result<Plugin> {
        let plugin = Plugin::load(&self.engine, plugins, role, self.plugins_folder.as_deref())?;
        plugin.check_settings().await?;
        Ok(plugin)
    }

    /// Takes the environment's lease in the cluster, where the configuration names a namespace for leases.
    ///
    /// # Errors
    /// As [`ClusterLease::take`].
    pub async fn cluster_lease(&self) -> Result<Option<ClusterLease>> {
        let Some(namespace) = &self.config.kubernetes.lease_namespace else { return Ok(None) };
        let (cluster, clock) = (Cluster::connect(&self.config.kubernetes).await?, self.clock);
        let now = move || clock.now();
        ClusterLease::take(cluster, namespace, self.environment.as_str(), &lease::holder(), now).await.map(Some)
    }

    /// Refuses a store that lies in a folder that is to be saved: each archive would hold all of those before it.
    ///
    /// # Errors
    /// [`crate::error::Class::Config`], naming both.
    pub fn check_apart(&self) -> Result<()> {
        let Store::Directory(folder) = &*self.store else { return Ok(()) };
        for (name, source) in &self.sources.sources {
            let Source::Directory(config) = source else { continue };
            // What is not there cannot hold the store.
            let Ok(path) = std::fs::canonicalize(&config.path) else { continue };
            if folder.is_below(&path) {
                let (store, path) = (self.store.describe(), path.display());
                return Err(Error::config(format!(
                    "the store {store} is inside of {path}, which the source {name} saves"
                ))
                .hint("keep the store outside of what it saves"));
            }
        }
        Ok(())
    }

    /// What is left of the run's own limit.
    #[must_use]
    pub fn time_left(&self) -> Duration {
        self.config.deadlines.run.0.unsigned_abs().saturating_sub(self.clock.elapsed())
    }

    /// The configuration that this command works with.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// The plugins that the configuration names.
    #[must_use]
    pub const fn plugins(&self) -> &Plugins {
        &self.config.plugins
    }

    /// The folder of the shipped components.
    #[must_use]
    pub fn plugins_folder(&self) -> Option<&std::path::Path> {
        self.plugins_folder.as_deref()
    }

    /// The IANA name of the business time zone.
    #[must_use]
    pub fn time_zone_name(&self) -> &str {
        self.time_zone.iana_name().unwrap_or("UTC")
    }
}
