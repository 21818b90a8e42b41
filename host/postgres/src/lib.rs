//! PostgreSQL as a source. Each run exports one REPEATABLE READ, READ ONLY snapshot, collects evidence of its content
//! and takes a dump from that same snapshot.
//!
//! Only [`restore`] writes to a database. This crate never returns rows of a table that the configuration does not
//! list, and never puts a password into an argument, a log line or an error.
#![warn(missing_docs)]

mod archive;
mod client;
mod dump;
pub mod evidence;
mod facts;
mod filters;
mod listing;
mod measure;
mod places;
mod program;
pub mod restore;
mod rows;
mod server;
mod service;
mod statements;
mod throwaway;
mod tls;

#[cfg(test)]
mod tests;

pub use archive::{Contents, Flaw, Origin, Scanner};
pub use dump::{Compression, DumpOptions};
pub use evidence::{Column, Digest, Latest, RowFilter, Selection, Table, TableName};
pub use facts::{DatabaseFacts, SetEverywhere};
pub use filters::Filters;
pub use listing::Listing;
pub use program::major;
pub use rows::{Order, PAGE_ROWS_MAX, Readable, ReadableTable, Row, Shape, ShownColumns};
pub use server::ServerConfig;
pub use throwaway::Throwaway;

use base::error::{Error, Result};
use base::secret::SecretSource;
use client::{Connection, Dialer};
use facts::{FACTS, identity, set_everywhere};
use listing::Listings;
use program::Program;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// PostgreSQL's own default.
const PORT_DEFAULT: u16 = 5432;

/// Timeout for one attempt to connect, including the login. A healthy server answers in milliseconds. Waiting for a pod
/// that is still being scheduled is the job of whatever schedules this run.
const CONNECT_TIMEOUT_DEFAULT_SECONDS: u16 = 10;

/// Timeout for opening a source. A healthy server answers the few small queries in milliseconds. A server that has not
/// answered after a minute hangs, and without a limit the run would hang with it.
const OPEN_TIMEOUT_DEFAULT_SECONDS: u16 = 60;

/// The oldest server version that the queries support. PostgreSQL 12 has had no fixes since 2024.
const SERVER_MAJOR_MIN: u32 = 13;

/// Upper limit for the `connections` setting. By default, a server allows 100 connections in total.
const CONNECTIONS_MAX: u8 = 16;

/// Default number of connections that read evidence at the same time, if there are at least as many cores.
const CONNECTIONS_DEFAULT: usize = 4;

/// The configuration of one database.
#[derive(Debug, Clone, Deserialize)]
#[serde(from = "service::Written")]
pub struct DatabaseConfig {
    /// A host name, an address, or the directory of a Unix socket, which begins with `/`. Several hosts, separated by
    /// commas, are tried in order. May come from `service` instead.
    pub host: String,
    /// TCP port, or the number in the socket's name.
    pub port: u16,
    /// Name of the database. May come from `service` instead.
    pub database: String,
    /// A section of the service file. It provides the settings that the configuration omits.
    pub service: Option<String>,
    /// Path of the service file. Default: the value of `PGSERVICEFILE`.
    pub service_file: Option<PathBuf>,
    /// Which kind of server is acceptable.
    pub target_session_attrs: SessionAttrs,
    /// TLS mode, with libpq's names.
    pub ssl_mode: SslMode,
    /// PEM file with the certificates to trust, or `system` for the operating system's certificates.
    pub ssl_root_cert: Option<PathBuf>,
    /// PEM file with the client certificate, followed by the certificates that signed it.
    pub ssl_cert: Option<PathBuf>,
    /// PEM file with the unencrypted key of the client certificate. As in libpq, only its owner may read the file.
    pub ssl_key: Option<PathBuf>,
    /// `username` and `password` as files, or `PGUSER` and `PGPASSWORD`. They are read again for every connection.
    pub credentials: SecretSource,
    /// Credentials for restoring to this server, of a user who may create databases.
    pub restore_credentials: Option<Box<SecretSource>>,
    /// The pg_dump to use; pg_restore must be in the same directory. Default: the installed pg_dump that fits the
    /// server best.
    pub pg_dump: Option<PathBuf>,
    /// Timeout for one attempt to connect, in seconds.
    pub connect_timeout: u16,
    /// Timeout for opening the source, from the first attempt to connect until its snapshot is open, in seconds.
    pub open_timeout: u16,
    /// Maximum number of connections that read evidence at the same time. Default: the number of cores, but at most
    /// four, because more would compete with the people who work in Dolibarr.
    pub connections: Option<u8>,
    /// The address to connect to, if the host name is already resolved.
    address: Option<IpAddr>,
    /// The settings that the service may provide, because the configuration omits them.
    unset: service::Unset,
}

/// Which kind of server is acceptable, with libpq's names. Here `read-write` means the same as `primary`, and
/// `read-only` the same as `standby`: every session sets itself read-only, so the server's default does not matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SessionAttrs {
    /// The first server that answers.
    #[default]
    Any,
    /// A server that is not a standby.
    #[serde(alias = "read-write")]
    Primary,
    /// A standby.
    #[serde(alias = "read-only")]
    Standby,
    /// A standby if one answers, otherwise the first server that does.
    PreferStandby,
}

const fn port_default() -> u16 {
    PORT_DEFAULT
}

/// How TLS is used, exactly as libpq defines it. A Unix socket never uses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SslMode {
    /// Never.
    Disable,
    /// Only if the server insists.
    Allow,
    /// If the server supports it.
    #[default]
    Prefer,
    /// Always. The certificate is checked only if `ssl_root_cert` is set, and then as with `verify-ca`.
    Require,
    /// Always, with a certificate that was signed by a trusted one.
    VerifyCa,
    /// Always, with such a certificate that is also valid for the host name.
    VerifyFull,
}

impl SslMode {
    /// The name in the configuration and in libpq.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Allow => "allow",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }
}

impl DatabaseConfig {
    /// A database on the given server, with defaults for all other settings.
    pub fn new(host: impl Into<String>, port: u16, database: impl Into<String>, credentials: SecretSource) -> Self {
        Self {
            host: host.into(),
            port,
            database: database.into(),
            service: None,
            service_file: None,
            target_session_attrs: SessionAttrs::Any,
            ssl_mode: SslMode::default(),
            ssl_root_cert: None,
            ssl_cert: None,
            ssl_key: None,
            credentials,
            restore_credentials: None,
            pg_dump: None,
            connect_timeout: CONNECT_TIMEOUT_DEFAULT_SECONDS,
            open_timeout: OPEN_TIMEOUT_DEFAULT_SECONDS,
            connections: None,
            address: None,
            unset: service::Unset::default(),
        }
    }

    fn check(&self) -> Result<()> {
        if self.hosts().any(str::is_empty) || self.host.contains('\0') {
            return Err(Error::config(
                "the database's `host` must name servers or socket directories, separated by commas",
            )
            .hint("set `host`, or set `service` to a service with a host"));
        }
        if self.database.is_empty() || self.database.contains('\0') {
            return Err(Error::config("the database name is empty or contains a zero byte"));
        }
        if self.connect_timeout == 0 {
            return Err(Error::config("`connect_timeout` must be at least one second"));
        }
        if self.open_timeout == 0 {
            return Err(Error::config("`open_timeout` must be at least one second"));
        }
        if self.connections.is_some_and(|count| !(1..=CONNECTIONS_MAX).contains(&count)) {
            return Err(Error::config(format!("`connections` must be between 1 and {CONNECTIONS_MAX}")));
        }
        Ok(())
    }

    /// The hosts, in the order in which they are tried.
    fn hosts(&self) -> impl Iterator<Item = &str> {
        self.host.split(',').map(str::trim)
    }

    fn is_socket(&self) -> bool {
        self.hosts().all(|host| host.starts_with('/'))
    }

    /// Whether connections stay on this machine, judged by the host name alone.
    fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
    }
}

/// One database in one snapshot. The snapshot lives as long as this value.
pub struct OpenDatabase {
    scope: String,
    facts: DatabaseFacts,
    program: Program,
    dialer: Dialer,
    /// Holds the transaction whose snapshot the other connections import. It never runs a query that a plugin can make
    /// fail, because the first error would end the snapshot.
    holder: Connection,
    snapshot: String,
    /// Idle connections in that snapshot.
    idle: Mutex<Vec<Connection>>,
    catalog: tokio::sync::OnceCell<Arc<evidence::Catalog>>,
    /// The listings that were already made in this snapshot.
    listings: Listings,
    /// Maximum number of connections that read evidence at the same time.
    readers_max: usize,
    /// One permit for each of these connections.
    reading: tokio::sync::Semaphore,
    /// Row count of each table that was digested without a row filter.
    rows: Mutex<BTreeMap<TableName, u64>>,
    /// What pg_dump reported about the last dump.
    remarks: Mutex<Remarked>,
}

/// What pg_dump reported about a successful dump.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Remarked {
    /// Harmless messages.
    pub notes: Vec<String>,
    /// What is missing from the dump, in pg_dump's words.
    pub lacking: Vec<String>,
}

impl std::fmt::Debug for OpenDatabase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenDatabase")
            .field("scope", &self.scope)
            .field("facts", &self.facts)
            .field("snapshot", &self.snapshot)
            .finish_non_exhaustive()
    }
}

impl OpenDatabase {
    /// Connects, checks that the installed pg_dump can read the server, and opens the snapshot. `scope` is the
    /// environment and the source, such as `prod/db`.
    ///
    /// # Errors
    /// Class `Config` if the configuration, the role's rights or a missing program are the cause; `Unavailable` if the
    /// server cannot be reached, accepts no connections at the moment, or does not answer within `open_timeout`.
    /// Nothing has been written anywhere.
    pub async fn open(config: &DatabaseConfig, scope: String) -> Result<Arc<Self>> {
        let config = &config.resolved()?;
        config.check()?;
        let limit = Duration::from_secs(u64::from(config.open_timeout));
        let opened = tokio::time::timeout(limit, Self::open_without_timeout(config, scope)).await;
        opened.unwrap_or_else(|_| Err(open_timed_out(config)))
    }

    async fn open_without_timeout(config: &DatabaseConfig, scope: String) -> Result<Arc<Self>> {
        let programs = program::installed(config.pg_dump.as_deref()).await?;
        let dialer = Dialer::new(config)?;
        let holder = dialer.connect().await?;
        let identity = identity(&holder, &scope).await;
        let set_everywhere = set_everywhere(&holder, &scope).await;
        holder.begin(None).await?;
        let row = holder.query_one(FACTS, &[]).await?;
        let server_major = u32::try_from(holder.read::<i32>(&row, 1)? / 10_000).unwrap_or(0);
        let server_version: String = holder.read(&row, 0)?;
        if server_major < SERVER_MAJOR_MIN {
            return Err(Error::config(format!(
                "{}: PostgreSQL {server_version} is older than {SERVER_MAJOR_MIN}",
                holder.target()
            ))
            .hint(format!("upgrade the server to PostgreSQL {SERVER_MAJOR_MIN} or later")));
        }
        let program = program::choose(programs, server_major, &server_version).await?;
        dialer.check_program(&program)?;
        let facts = DatabaseFacts {
            server_version,
            pg_dump_version: program.version.text.clone(),
            database_bytes: u64::try_from(holder.read::<i64>(&row, 2)?).unwrap_or(0),
            encoding: holder.read(&row, 3)?,
            tables: u64::try_from(holder.read::<i64>(&row, 5)?).unwrap_or(0),
            unreadable_unlogged: u64::try_from(holder.read::<i64>(&row, 6)?).unwrap_or(0),
            subscriptions: u64::try_from(holder.read::<i64>(&row, 7)?).unwrap_or(0),
            unreadable_mappings: u64::try_from(holder.read::<i64>(&row, 9)?).unwrap_or(0),
            set_everywhere,
            identity,
        };
        let snapshot: String = holder.read(&row, 4)?;
        if snapshot.is_empty() || !snapshot.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return Err(Error::unexpected(format!("{}: the server did not export a snapshot", holder.target())));
        }
        let is_encrypted: Option<bool> = holder.read(&row, 8)?;
        if is_encrypted == Some(false) && !config.is_socket() && config.ssl_mode != SslMode::Disable {
            let problem = "the connection is not encrypted, because the server does not offer TLS";
            if dialer.config().is_loopback() {
                tracing::info!(scope, "{problem}; it does not leave this machine");
            } else {
                tracing::warn!(scope, "{problem}; set `ssl_mode = \"require\"` to refuse such connections");
            }
        }
        for notice in holder.notices() {
            tracing::warn!(scope, "{}", base::text::printable(&notice.message));
        }
        tracing::debug!(scope, server = facts.server_version, pg_dump = facts.pg_dump_version, "snapshot open");
        let (idle, catalog) = (Mutex::default(), tokio::sync::OnceCell::new());
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let readers_max = config.connections.map_or(cores.min(CONNECTIONS_DEFAULT), usize::from);
        let (rows, remarks) = (Mutex::default(), Mutex::default());
        Ok(Arc::new(Self {
            scope,
            facts,
            program,
            dialer,
            holder,
            snapshot,
            idle,
            catalog,
            listings: Listings::default(),
            readers_max,
            reading: tokio::sync::Semaphore::new(readers_max),
            rows,
            remarks,
        }))
    }

    /// Environment and source, such as `prod/db`.
    pub fn scope(&self) -> &str {
        &self.scope
    }

    /// What is known about the database and the pg_dump that reads it.
    pub fn facts(&self) -> DatabaseFacts {
        self.facts.clone()
    }

    /// Total row count of the tables that have been digested without a row filter so far, counting each table once.
    /// `None` if there is no such table.
    pub fn rows_read(&self) -> Option<u64> {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        (!rows.is_empty()).then(|| rows.values().fold(0, |sum: u64, rows| sum.saturating_add(*rows)))
    }

    /// What pg_dump reported about the last successful dump of this session.
    pub fn remarks(&self) -> Remarked {
        self.remarks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the transactions and releases their locks. Dropping the session does the same, but without waiting.
    pub async fn close(self: Arc<Self>) {
        self.holder.rollback().await;
        let readers = std::mem::take(&mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner));
        for reader in readers {
            reader.rollback().await;
        }
    }

    /// An idle connection in the snapshot, or a new one.
    async fn reader(&self) -> Result<Connection> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(connection) = idle {
            return Ok(connection);
        }
        let connection = self.dialer.connect().await?;
        connection.begin(Some(&self.snapshot)).await?;
        Ok(connection)
    }

    /// Takes back a connection whose last query succeeded. After a failed query the connection must be dropped instead,
    /// because its transaction is aborted.
    fn release(&self, connection: Connection) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    }
}

fn open_timed_out(config: &DatabaseConfig) -> Error {
    let DatabaseConfig { host, port, database, open_timeout, .. } = config;
    Error::unavailable(format!(
        "database `{database}` on {host}:{port}: no snapshot was opened within {open_timeout} s, because the server \
         has stopped answering or answers too slowly"
    ))
    .hint(
        "check whether the server, or a pooler or firewall in between, blocks the connection; increase `open_timeout` \
         if the server is slow",
    )
}
