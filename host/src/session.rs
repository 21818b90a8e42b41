//! What every verb works with: the configuration, the store and the plugins, each opened once.

use crate::config::{Config, EnvironmentConfig, Source};
use base::clock::Clock;
use base::error::{Error, Result};
use catalogue::configured::Environment;
use catalogue::lease;
use catalogue::questions::Asked;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use kubernetes::Cluster;
use kubernetes::lease::ClusterLease;
use plugin::{Engine, Plugin, Plugins, Role};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use store::Store;

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
    pub guard: catalogue::guard::Config,
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

impl Host {
    /// Opens the store for one environment of a configuration.
    ///
    /// # Errors
    /// [`base::error::Class::Config`] for an unknown environment; the store's own.
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
    /// [`base::error::Class::Config`], naming both.
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

    /// What questions follow from.
    #[must_use]
    pub fn asked(&self) -> Asked<'_> {
        Asked {
            environment: self.environment.as_str(),
            configured: &self.sources.configured,
            guard: &self.guard,
            time_zone: self.time_zone_name(),
            retention: &self.retention,
        }
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
