//! What every verb works with: the configuration, the store and the plugins, each opened once.

use crate::config::{Config, Environment, EnvironmentConfig};
use crate::error::Result;
use crate::plugin::{Engine, Plugin, Role};
use crate::store::Store;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

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
}

impl Clock {
    /// A clock that shows `began` now.
    #[must_use]
    pub fn starting_at(began: Timestamp) -> Self {
        Self { began, since: Instant::now() }
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
            store,
            clock: Clock::starting_at(now),
            config,
            engine: Engine::new()?,
            plugins_folder,
        })
    }

    /// Loads the plugin of a role.
    ///
    /// # Errors
    /// As [`Plugin::load`].
    pub fn plugin(&self, role: Role) -> Result<Plugin> {
        Plugin::load(&self.engine, &self.config.plugins, role, self.plugins_folder.as_deref())
    }

    /// The IANA name of the business time zone.
    #[must_use]
    pub fn time_zone_name(&self) -> &str {
        self.time_zone.iana_name().unwrap_or("UTC")
    }
}
