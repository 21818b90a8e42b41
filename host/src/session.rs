//! The context of a command: the configuration, the store and the plugins, each opened once.

use crate::config::{Config, EnvironmentConfig, Source};
use base::clock::Clock;
use base::error::{Error, Result};
use catalogue::configured::Environment;
use catalogue::history::{self, History};
use catalogue::lease;
use catalogue::questions::QuestionContext;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use kubernetes::Cluster;
use kubernetes::lease::ClusterLease;
use plugin::{Engine, Plugin, Plugins, Role};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use store::Store;

/// One command for one environment.
#[derive(Debug)]
pub struct Session {
    /// The environment of this command; no other one can be reached through this value.
    pub environment: Environment,
    /// Its sources.
    pub sources: EnvironmentConfig,
    /// The business time zone.
    pub time_zone: TimeZone,
    /// Rules that no plugin overrides.
    pub guard: catalogue::guard::GuardConfig,
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

impl Session {
    /// Opens the store for one environment of a configuration.
    ///
    /// # Errors
    /// [`base::error::Class::Config`] for an unknown environment, or a store that cannot be opened.
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
            retention: config.plugins.retention.identity_line(),
            store,
            clock: Clock::starting_at(now),
            config,
            engine: Engine::new()?,
            plugins_folder,
        })
    }

    /// The history of the environment, as it is at `now`.
    ///
    /// # Errors
    /// As [`history::load`].
    pub async fn history(&self, now: Timestamp) -> Result<History> {
        history::load(&self.store, &self.environment, &self.sources.configured, now).await
    }

    /// Loads the plugin of a role and checks its settings.
    ///
    /// # Errors
    /// As [`Plugin::load`] and [`Plugin::check_settings`].
    pub async fn plugin(&self, role: Role) -> Result<Plugin> {
        self.plugin_of(&self.config.plugins, role).await
    }

    /// Loads a plugin from another configuration than the active one.
    ///
    /// # Errors
    /// As [`Session::plugin`].
    pub async fn plugin_of(&self, plugins: &Plugins, role: Role) -> Result<Plugin> {
        let plugin = Plugin::load(&self.engine, plugins, role, self.plugins_folder.as_deref()).await?;
        plugin.check_settings().await?;
        Ok(plugin)
    }

    /// Takes the environment's lease in the cluster, if the configuration names a namespace for leases.
    ///
    /// # Errors
    /// As [`ClusterLease::take`].
    pub async fn cluster_lease(&self) -> Result<Option<ClusterLease>> {
        let Some(namespace) = &self.config.kubernetes.lease_namespace else { return Ok(None) };
        let (cluster, clock) = (Cluster::connect(&self.config.kubernetes).await?, self.clock);
        let now = move || clock.now();
        ClusterLease::take(cluster, namespace, self.environment.as_str(), &lease::holder(), now).await.map(Some)
    }

    /// Refuses a store inside a folder that is backed up, because each archive would contain all earlier ones.
    ///
    /// # Errors
    /// [`base::error::Class::Config`], naming both.
    pub fn check_apart(&self) -> Result<()> {
        let Store::Directory(folder) = &*self.store else { return Ok(()) };
        for (name, source) in &self.sources.sources {
            let Source::Directory(config) = source else { continue };
            // A folder that does not exist cannot contain the store.
            let Ok(path) = std::fs::canonicalize(&config.path) else { continue };
            if folder.is_below(&path) {
                let (store, path) = (self.store.describe(), path.display());
                return Err(Error::config(format!(
                    "the store {store} is inside {path}, which the source {name} backs up"
                ))
                .hint("move the store out of the folder that is backed up"));
            }
        }
        Ok(())
    }

    /// Time left until the limit of the run.
    pub fn time_left(&self) -> Duration {
        self.config.deadlines.run.0.unsigned_abs().saturating_sub(self.clock.elapsed())
    }

    /// The context for finding open questions.
    pub fn asked(&self) -> QuestionContext<'_> {
        QuestionContext {
            environment: self.environment.as_str(),
            configured: &self.sources.configured,
            guard: &self.guard,
            time_zone: self.time_zone_name(),
            retention: &self.retention,
        }
    }

    /// The configuration of this command.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// The plugins that the configuration names.
    pub const fn plugins(&self) -> &Plugins {
        &self.config.plugins
    }

    /// The folder of the shipped components.
    pub fn plugins_folder(&self) -> Option<&std::path::Path> {
        self.plugins_folder.as_deref()
    }

    /// The IANA name of the business time zone.
    pub fn time_zone_name(&self) -> &str {
        self.time_zone.iana_name().unwrap_or("UTC")
    }
}
