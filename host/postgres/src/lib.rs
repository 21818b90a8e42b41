//! PostgreSQL as a source: one exported REPEATABLE READ, READ ONLY snapshot a run, evidence of what it holds, and
//! a dump taken from that same snapshot.
//!
//! Nothing here but [`restore`] writes to a database; nothing hands out a row of a table that the configuration does not name, or lets
//! a password into an argument, a log or an error.
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
pub use facts::{Facts, SetEverywhere};
pub use filters::Filters;
pub use listing::Listing;
pub use program::major;
pub use rows::{Order, PAGE_ROWS_MAX, Readable, ReadableTable, Row, Shape, Shown};
pub use server::ServerConfig;
pub use throwaway::Throwaway;

use base::error::{Error, Result};
use base::secret::Source;
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

/// Time for one attempt to connect, log in included. A healthy server answers in milliseconds; a pod that is just
/// being scheduled is the scheduler's to retry.
const CONNECT_TIMEOUT_DEFAULT_SECONDS: u16 = 10;

/// Time for opening a source. A healthy server answers the few small queries in milliseconds; one that has not answered
/// after a minute hangs, and without a limit the run would hang with it.
const OPEN_TIMEOUT_DEFAULT_SECONDS: u16 = 60;

/// The oldest server that the queries are written for. PostgreSQL 12 has had no fixes since 2024.
const SERVER_MAJOR_MIN: u32 = 13;

/// Most connections that an administrator may allow; a server has 100 by default, for everybody.
const CONNECTIONS_MAX: u8 = 16;

/// Connections that read evidence at a time, where the administrator does not say and there are as many cores.
const CONNECTIONS_DEFAULT: usize = 4;

/// One database, as the configuration names it.
#[derive(Debug, Clone, Deserialize)]
#[serde(from = "service::Written")]
pub struct Config {
    /// A host name, an address, or the folder of a Unix socket, which begins with `/`; several, with commas between them, are tried in
    /// turn. May be left to `service`.
    pub host: String,
    /// TCP port, or the number in the socket's name.
    pub port: u16,
    /// Name of the database. May be left to `service`.
    pub database: String,
    /// A section of the service file, which says what is not said here.
    pub service: Option<String>,
    /// That file. In a configuration that names none, `PGSERVICEFILE` does.
    pub service_file: Option<PathBuf>,
    /// Which of several hosts will do.
    pub target_session_attrs: SessionAttrs,
    /// How TLS is used, by libpq's names.
    pub ssl_mode: SslMode,
    /// Certificates to trust, in PEM; `system` for the ones that the operating system trusts.
    pub ssl_root_cert: Option<PathBuf>,
    /// A certificate to show the server, in PEM, with those that signed it behind it.
    pub ssl_cert: Option<PathBuf>,
    /// Its key, in PEM and not encrypted. Nobody but its owner may read the file, as libpq has it.
    pub ssl_key: Option<PathBuf>,
    /// `username` and `password` as files, or `PGUSER` and `PGPASSWORD`; read again for every connection.
    pub credentials: Source,
    /// As `credentials`, of a user who may make databases on this server: for restoring to it.
    pub restore_credentials: Option<Box<Source>>,
    /// The pg_dump to use, with the pg_restore beside it. Without it the installed one that fits the server best.
    pub pg_dump: Option<PathBuf>,
    /// Time for one attempt to connect, in seconds.
    pub connect_timeout: u16,
    /// Time for opening the source, from the first attempt to connect until its snapshot is open, in seconds.
    pub open_timeout: u16,
    /// Most connections that read evidence at a time. Without it as many as there are cores, and at most four: more would
    /// compete with the people who work in Dolibarr.
    pub connections: Option<u8>,
    /// The one of the host's addresses that answered.
    address: Option<IpAddr>,
    /// What the configuration leaves to its service.
    unsaid: service::Unsaid,
}

/// Which of several servers will do, by libpq's names. `read-write` is the same as `primary` here, and `read-only` as `standby`: each session is
/// read-only by itself, so that a server's default says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SessionAttrs {
    /// The first that answers.
    #[default]
    Any,
    /// One that is no standby.
    #[serde(alias = "read-write")]
    Primary,
    /// A standby.
    #[serde(alias = "read-only")]
    Standby,
    /// A standby if one answers, else the first that does.
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
    /// If the server can.
    #[default]
    Prefer,
    /// Always. The certificate is checked only where `ssl_root_cert` is set, and then as for `verify-ca`.
    Require,
    /// Always, with a certificate that a trusted one signed.
    VerifyCa,
    /// Always, with such a certificate in the name of the host.
    VerifyFull,
}

impl SslMode {
    /// As the configuration and libpq spell it.
    #[must_use]
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

impl Config {
    /// A database at one place, and everything else as it is where the configuration says nothing.
    #[must_use]
    pub fn new(host: impl Into<String>, port: u16, database: impl Into<String>, credentials: Source) -> Self {
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
            unsaid: service::Unsaid::default(),
        }
    }

    fn check(&self) -> Result<()> {
        if self.hosts().any(str::is_empty) || self.host.contains('\0') {
            return Err(Error::config(
                "the database's `host` must name servers or socket folders, with commas between them",
            )
            .hint("set `host`, or name a `service` that has one"));
        }
        if self.database.is_empty() || self.database.contains('\0') {
            return Err(Error::config("the name of the database is empty or holds a zero byte"));
        }
        if self.connect_timeout == 0 {
            return Err(Error::config("`connect_timeout` must be at least one second"));
        }
        if self.open_timeout == 0 {
            return Err(Error::config("`open_timeout` must be at least one second"));
        }
        if self.connections.is_some_and(|count| !(1..=CONNECTIONS_MAX).contains(&count)) {
            return Err(Error::config(format!("`connections` must be from 1 to {CONNECTIONS_MAX}")));
        }
        Ok(())
    }

    /// Its hosts, in the order in which they are tried.
    fn hosts(&self) -> impl Iterator<Item = &str> {
        self.host.split(',').map(str::trim)
    }

    fn is_socket(&self) -> bool {
        self.hosts().all(|host| host.starts_with('/'))
    }

    /// Whether nothing of a connection leaves this machine, by the host's name alone.
    fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
    }
}

/// One database in one snapshot. As long as it lives, the snapshot does.
pub struct Session {
    scope: String,
    facts: Facts,
    program: Program,
    dialer: Dialer,
    /// Holds the transaction whose snapshot the others import. It runs no query that a plugin can make fail,
    /// because the first error would end the snapshot.
    holder: Connection,
    snapshot: String,
    /// Connections in that snapshot with nothing to do.
    idle: Mutex<Vec<Connection>>,
    catalog: tokio::sync::OnceCell<Arc<evidence::Catalog>>,
    /// What was listed in this snapshot.
    listings: Listings,
    /// Connections that read evidence at a time.
    readers_max: usize,
    /// One for each of them.
    reading: tokio::sync::Semaphore,
    /// Rows of each table that evidence digested without a row filter.
    rows: Mutex<BTreeMap<TableName, u64>>,
    /// What pg_dump remarked on the last dump.
    remarks: Mutex<Remarked>,
}

/// What is to be said of a dump that was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Remarked {
    /// What changes nothing.
    pub notes: Vec<String>,
    /// What the dump lacks, by pg_dump's words.
    pub lacking: Vec<String>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("scope", &self.scope)
            .field("facts", &self.facts)
            .field("snapshot", &self.snapshot)
            .finish_non_exhaustive()
    }
}

impl Session {
    /// Connects, checks that the installed pg_dump can read the server, and opens the snapshot. `scope` is the
    /// environment and the source: `prod/db`.
    ///
    /// # Errors
    /// Class `Config` for what the configuration, a role's rights or a missing program cause, `Unavailable` for a server that
    /// cannot be reached, takes no connection now, or does not answer within `open_timeout`. Nothing was written anywhere.
    pub async fn open(config: &Config, scope: String) -> Result<Arc<Self>> {
        let config = &config.resolved()?;
        config.check()?;
        let limit = Duration::from_secs(u64::from(config.open_timeout));
        tokio::time::timeout(limit, Self::open_now(config, scope)).await.unwrap_or_else(|_| Err(too_late(config)))
    }

    async fn open_now(config: &Config, scope: String) -> Result<Arc<Self>> {
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
            .hint(format!("upgrade the server to PostgreSQL {SERVER_MAJOR_MIN} or newer")));
        }
        let program = program::choose(programs, server_major, &server_version).await?;
        dialer.check_program(&program)?;
        let facts = Facts {
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
            return Err(Error::unexpected(format!("{}: the server exported no snapshot", holder.target())));
        }
        let is_encrypted: Option<bool> = holder.read(&row, 8)?;
        if is_encrypted == Some(false) && !config.is_socket() && config.ssl_mode != SslMode::Disable {
            let said = "the connection is not encrypted, because the server offers no TLS";
            if dialer.config().is_loopback() {
                tracing::info!(scope, "{said}; it does not leave this machine");
            } else {
                tracing::warn!(scope, "{said}; `ssl_mode = \"require\"` refuses that");
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

    /// Environment and source: `prod/db`.
    #[must_use]
    pub fn scope(&self) -> &str {
        &self.scope
    }

    /// What was learnt on opening.
    #[must_use]
    pub fn facts(&self) -> Facts {
        self.facts.clone()
    }

    /// Rows of all tables that evidence has digested without a row filter so far, each table once; none where it has
    /// digested no table like that.
    #[must_use]
    pub fn rows_read(&self) -> Option<u64> {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        (!rows.is_empty()).then(|| rows.values().fold(0, |sum: u64, rows| sum.saturating_add(*rows)))
    }

    /// What pg_dump remarked on the last dump of this session that was made.
    #[must_use]
    pub fn remarks(&self) -> Remarked {
        self.remarks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the transactions and with them every lock. Dropping the session does too, without waiting for it.
    pub async fn close(self: Arc<Self>) {
        self.holder.rollback().await;
        let readers = std::mem::take(&mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner));
        for reader in readers {
            reader.rollback().await;
        }
    }

    /// A connection in the snapshot: one with nothing to do, or a new one.
    async fn reader(&self) -> Result<Connection> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(connection) = idle {
            return Ok(connection);
        }
        let connection = self.dialer.connect().await?;
        connection.begin(Some(&self.snapshot)).await?;
        Ok(connection)
    }

    /// Takes back a connection whose last query succeeded. One that failed is dropped instead: its transaction is
    /// over.
    fn release(&self, connection: Connection) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    }
}

fn too_late(config: &Config) -> Error {
    let Config { host, port, database, open_timeout, .. } = config;
    Error::unavailable(format!(
        "database `{database}` on {host}:{port}: no snapshot was opened within {open_timeout} s, because the server has stopped \
         answering or answers too slowly"
    ))
    .hint("check whether the server, a pooler or a firewall between holds the connection; a slow server needs a larger `open_timeout`")
}
