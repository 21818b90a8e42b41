//! Connections: connecting, TLS fallback, and the settings that are fixed for every session.

mod failure;

pub(super) use self::failure::explain;
use self::failure::{Failed, Refusal};
use super::program::{NOWHERE, Program};
use super::{DatabaseConfig, SessionAttrs, SslMode, tls};
use base::error::{Class, Error, Result};
use base::secret::{ExposeSecret, SecretString};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{FromSqlOwned, ToSql, Type};
use tokio_postgres::{AsyncMessage, Row};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::task::AbortOnDropHandle;

/// The application name that the server's administrator sees.
pub(super) const APPLICATION_NAME: &str = "dolibarr-backup";

/// Sent when connecting, so that not even the first statement can write. Poolers may refuse this option; the
/// transaction is READ ONLY in any case.
pub(super) const STARTUP_OPTIONS: &str = "-c default_transaction_read_only=on";

/// A firewall drops an idle connection after minutes, but the connection that holds the snapshot is idle for hours.
const KEEPALIVE_IDLE_SECONDS: u64 = 60;

/// How long to wait for a lock that another session holds. If a migration takes longer, it is better to run later than
/// to queue behind it and block all later sessions.
pub(super) const LOCK_TIMEOUT_SECONDS: u64 = 300;

/// Maximum number of server notices that are kept. A connection usually receives one or two.
const NOTICES_MAX: usize = 32;

/// Fixes all settings that text output depends on, and disables timeouts that could end a long read. `row_security` is
/// off, so that a policy makes a read fail instead of silently leaving out rows.
const PINS: &str = "SET LOCAL search_path = ''; SET LOCAL client_encoding = 'UTF8'; SET LOCAL DateStyle = 'ISO, YMD'; \
     SET LOCAL TimeZone = 'UTC'; SET LOCAL IntervalStyle = 'postgres'; SET LOCAL extra_float_digits = 3; \
     SET LOCAL bytea_output = 'hex'; SET LOCAL lc_monetary = 'C'; SET LOCAL quote_all_identifiers = off; \
     SET LOCAL row_security = off; SET LOCAL jit = off; \
     SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0";

/// Disables the timeouts that only newer versions have, for the session.
pub(super) const PINS_OF_NEWER_SERVERS_IN_SESSION: &str = "SELECT set_config(name, '0', false) FROM pg_settings \
     WHERE name IN ('transaction_timeout', 'idle_session_timeout')";

/// The same, for the transaction.
const PINS_OF_NEWER_SERVERS: &str = "SELECT set_config(name, '0', true) FROM pg_settings \
     WHERE name IN ('transaction_timeout', 'idle_session_timeout')";

/// A database, host and user for messages.
#[derive(Debug, Clone, derive_more::Display)]
#[display("database `{database}` on {host}:{port} as user `{user}`")]
pub(super) struct Target {
    host: String,
    port: u16,
    database: String,
    user: String,
}

/// Credentials for one login. They are read again for each connection.
pub(super) struct Login {
    pub user: String,
    pub password: Option<SecretString>,
}

/// A server message that is not an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Notice {
    pub severity: String,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

/// Opens connections to one database.
pub(super) struct Dialer {
    config: DatabaseConfig,
    /// The place of the first connection. All other connections and child processes use the same one, because a
    /// snapshot belongs to one server.
    chosen: OnceLock<DatabaseConfig>,
    tls: MakeRustlsConnect,
    /// Set if a pooler refused [`STARTUP_OPTIONS`], or if connections have to write.
    without_options: AtomicBool,
}

impl Dialer {
    pub(super) fn new(config: &DatabaseConfig) -> Result<Self> {
        let config = config.resolved()?;
        let tls = tls::connector(&config)?;
        Ok(Self { config, chosen: OnceLock::new(), tls, without_options: AtomicBool::new(false) })
    }

    /// A dialer for a restore, whose connections may write. `config` must be the target of the restore, never a source.
    pub(super) fn for_restore(config: &DatabaseConfig) -> Result<Self> {
        let mut dialer = Self::new(config)?;
        // A standby cannot be written to, even if backups read from one.
        dialer.config.target_session_attrs = SessionAttrs::Primary;
        dialer.without_options.store(true, Ordering::Relaxed);
        Ok(dialer)
    }

    /// How to reach the server: the chosen place, once one has answered.
    pub(super) fn config(&self) -> &DatabaseConfig {
        self.chosen.get().unwrap_or(&self.config)
    }

    /// The startup options that a child process may send.
    pub(super) fn startup_options(&self) -> Option<&'static str> {
        (!self.without_options.load(Ordering::Relaxed)).then_some(STARTUP_OPTIONS)
    }

    /// Checks that the chosen pg_dump supports the TLS settings.
    pub(super) fn check_program(&self, program: &Program) -> Result<()> {
        if !self.config.is_socket()
            && tls::is_system(&self.config)
            && program.version.major < tls::SYSTEM_ROOTS_MAJOR_MIN
        {
            return Err(Error::config(format!(
                "pg_dump {} does not support `ssl_root_cert = \"system\"`",
                program.version.text
            ))
            .hint("set it to a file, such as /etc/ssl/certs/ca-certificates.crt, or install pg_dump 16 or later"));
        }
        Ok(())
    }

    /// Reads the credentials, which may have changed since the last time.
    pub(super) async fn login(&self) -> Result<Login> {
        let source = &self.config.credentials;
        let values = source.open().await?;
        let user = match &source.user {
            Some(user) => user.clone(),
            None => values.read("username", "PGUSER")?.expose_secret().to_owned(),
        };
        Ok(Login { user, password: values.read_optional("password", "PGPASSWORD")? })
    }

    /// Passes the connection to a child process in libpq's environment variables, so that no argument contains it.
    pub(super) fn set_environment(&self, command: &mut tokio::process::Command, login: &Login) {
        let config = self.config();
        let mode = if config.is_socket() { SslMode::Disable } else { config.ssl_mode };
        command
            .env("PGHOST", &config.host)
            .env("PGPORT", config.port.to_string())
            .env("PGDATABASE", &config.database)
            .env("PGUSER", &login.user)
            .env("PGSSLMODE", mode.name())
            .env("PGSSLROOTCERT", config.ssl_root_cert.as_deref().unwrap_or(NOWHERE.as_ref()))
            .env("PGSSLCERT", config.ssl_cert.as_deref().unwrap_or(NOWHERE.as_ref()))
            .env("PGSSLKEY", config.ssl_key.as_deref().unwrap_or(NOWHERE.as_ref()))
            .env("PGGSSENCMODE", "disable")
            .env("PGCONNECT_TIMEOUT", config.connect_timeout.to_string())
            .env("PGAPPNAME", APPLICATION_NAME);
        if let Some(address) = config.address {
            command.env("PGHOSTADDR", address.to_string());
        }
        if let Some(password) = &login.password {
            command.env("PGPASSWORD", password.expose_secret());
        }
        if let Some(options) = self.startup_options() {
            command.env("PGOPTIONS", options);
        }
    }

    pub(super) fn target(&self, user: &str) -> Target {
        target(self.config(), user)
    }

    /// A logged-in connection to the chosen place, or else to the first acceptable one.
    ///
    /// # Errors
    /// See [`explain`]. If several places fail, the error of the first one.
    pub(super) async fn connect(&self) -> Result<Connection> {
        if let Some(chosen) = self.chosen.get() {
            return self.connect_to(chosen).await;
        }
        let places = self.config.places().await;
        let attempts = places.len() * self.config.target_session_attrs.rounds().len();
        let mut first = None;
        for wanted in self.config.target_session_attrs.rounds() {
            for place in &places {
                let answered = async {
                    let connection = self.connect_to(place).await?;
                    wanted.check(&connection, attempts > 1).await.map(|()| connection)
                };
                let refused = match answered.await {
                    Ok(connection) => {
                        // Another task may have been faster. It usually found the same server.
                        let _ = self.chosen.set(place.clone());
                        return Ok(connection);
                    }
                    // This server refused the connection. Trying the next one would hide that.
                    Err(error) if error.class() == Class::Config => return Err(error),
                    Err(error) => error,
                };
                tracing::debug!("{refused}");
                first.get_or_insert(refused);
            }
        }
        Err(first.unwrap_or_else(|| Error::unexpected("no connection was attempted")))
    }

    async fn connect_to(&self, place: &DatabaseConfig) -> Result<Connection> {
        let login = self.login().await?;
        let target = target(place, &login.user);
        let mut first = None;
        for mode in tls_modes(place) {
            match self.attempt(place, *mode, &login, &target).await {
                Ok(connection) => return Ok(connection),
                Err(Failed { error, other_mode_may_help }) => {
                    let error = first.get_or_insert(error);
                    if !other_mode_may_help {
                        return Err(error.clone());
                    }
                }
            }
        }
        Err(first.unwrap_or_else(|| Error::unexpected(format!("{target}: no connection was attempted"))))
    }

    async fn attempt(
        &self,
        place: &DatabaseConfig,
        mode: tokio_postgres::config::SslMode,
        login: &Login,
        target: &Target,
    ) -> Result<Connection, Failed> {
        let options = self.startup_options();
        let refused = match self.log_in(place, mode, login, target, options).await {
            Err(failed) if options.is_some() && failed.is_refused_option() => failed,
            Err(failed) => return Err(failed.explain(target, login)),
            Ok(connection) => return Ok(connection),
        };
        tracing::debug!(error = %refused, "connecting without startup options");
        let connection =
            self.log_in(place, mode, login, target, None).await.map_err(|failed| failed.explain(target, login))?;
        self.without_options.store(true, Ordering::Relaxed);
        Ok(connection)
    }

    async fn log_in(
        &self,
        place: &DatabaseConfig,
        mode: tokio_postgres::config::SslMode,
        login: &Login,
        target: &Target,
        options: Option<&str>,
    ) -> Result<Connection, Refusal> {
        let timeout = Duration::from_secs(u64::from(self.config.connect_timeout));
        let mut config = tokio_postgres::Config::new();
        config
            .host(&place.host)
            .port(place.port)
            .dbname(&place.database)
            .user(&login.user)
            .application_name(APPLICATION_NAME)
            .ssl_mode(mode)
            .connect_timeout(timeout)
            .keepalives_idle(Duration::from_secs(KEEPALIVE_IDLE_SECONDS));
        if let Some(address) = place.address {
            config.hostaddr(address);
        }
        if let Some(password) = &login.password {
            config.password(password.expose_secret());
        }
        if let Some(options) = options {
            config.options(options);
        }
        let (client, mut connection) = match tokio::time::timeout(timeout, config.connect(self.tls.clone())).await {
            Ok(result) => result.map_err(Refusal::Error)?,
            Err(_) => return Err(Refusal::Timeout(self.config.connect_timeout)),
        };
        let notices = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn({
            let notices = Arc::clone(&notices);
            async move {
                while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
                    keep_notice(&notices, message);
                }
            }
        });
        Ok(Connection {
            client,
            tls: self.tls.clone(),
            target: target.clone(),
            password: login.password.clone(),
            notices,
            busy: AtomicBool::new(false),
            _task: AbortOnDropHandle::new(task),
        })
    }
}

/// The target of a place, for messages.
fn target(place: &DatabaseConfig, user: &str) -> Target {
    let DatabaseConfig { host, port, database, .. } = place;
    Target { host: host.clone(), port: *port, database: database.clone(), user: user.to_owned() }
}

fn keep_notice(notices: &Mutex<Vec<Notice>>, message: AsyncMessage) {
    let AsyncMessage::Notice(notice) = message else { return };
    let mut notices = notices.lock().unwrap_or_else(PoisonError::into_inner);
    if notices.len() < NOTICES_MAX {
        notices.push(Notice {
            severity: notice.severity().to_owned(),
            message: notice.message().to_owned(),
            detail: notice.detail().map(str::to_owned),
            hint: notice.hint().map(str::to_owned),
        });
    }
}

/// The TLS modes in the order in which libpq tries them.
fn tls_modes(config: &DatabaseConfig) -> &'static [tokio_postgres::config::SslMode] {
    use tokio_postgres::config::SslMode as Tls;
    if config.is_socket() {
        return &[Tls::Disable];
    }
    match config.ssl_mode {
        SslMode::Disable => &[Tls::Disable],
        SslMode::Allow => &[Tls::Disable, Tls::Require],
        SslMode::Prefer => &[Tls::Prefer, Tls::Disable],
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => &[Tls::Require],
    }
}

/// One connection, with its own transaction.
pub(super) struct Connection {
    client: tokio_postgres::Client,
    tls: MakeRustlsConnect,
    target: Target,
    password: Option<SecretString>,
    notices: Arc<Mutex<Vec<Notice>>>,
    /// Whether a query is running. If the connection is dropped then, it cancels the query on the server.
    busy: AtomicBool,
    _task: AbortOnDropHandle<()>,
}

/// A statement that the server refused.
#[derive(Debug)]
pub(super) struct Refused {
    /// `None` if the server did not answer.
    pub state: Option<SqlState>,
    pub error: Error,
}

/// A query parameter with its type, so that the query does not have to be prepared.
pub(super) type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

impl Connection {
    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// The notices that the server has sent on this connection.
    pub(super) fn notices(&self) -> Vec<Notice> {
        self.notices.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Begins the READ ONLY transaction, in `snapshot` if one is given.
    pub(super) async fn begin(&self, snapshot: Option<&str>) -> Result<()> {
        let import = snapshot.map_or_else(String::new, |id| format!("SET TRANSACTION SNAPSHOT '{id}'; "));
        let begin = format!(
            "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY; {import}{PINS}; \
             SET LOCAL lock_timeout = '{LOCK_TIMEOUT_SECONDS}s'"
        );
        self.client.batch_execute(&begin).await.map_err(|error| {
            let explained = self.explain(&error);
            let gone = error.code().is_some_and(|code| {
                snapshot.is_some() && matches!(*code, SqlState::INVALID_PARAMETER_VALUE | SqlState::UNDEFINED_OBJECT)
            });
            if gone { Error::unavailable(format!("{explained}: the run's snapshot ended")) } else { explained }
        })?;
        self.query(PINS_OF_NEWER_SERVERS, &[]).await?;
        Ok(())
    }

    /// Ends the transaction. Errors are ignored, because the loss of the connection also ends it.
    pub(super) async fn rollback(&self) {
        if let Err(error) = self.client.batch_execute("ROLLBACK").await {
            tracing::debug!(%error, "rollback");
        }
    }

    /// Runs a query without preparing it, because a pooler may not keep track of prepared statements.
    pub(super) async fn query(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>> {
        self.busy.store(true, Ordering::Relaxed);
        let result = self.client.query_typed(sql, parameters).await;
        self.busy.store(false, Ordering::Relaxed);
        result.map_err(|error| self.explain(&error))
    }

    pub(super) async fn query_one(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Row> {
        let rows = self.query(sql, parameters).await?;
        rows.into_iter().next().ok_or_else(|| Error::unexpected(format!("{}: the query returned no row", self.target)))
    }

    /// Runs statements that return no rows, on a connection for a restore.
    pub(super) async fn execute(&self, sql: &str) -> Result<(), Refused> {
        self.busy.store(true, Ordering::Relaxed);
        let result = self.client.batch_execute(sql).await;
        self.busy.store(false, Ordering::Relaxed);
        result.map_err(|error| self.refused(&error))
    }

    /// Like [`Connection::execute`], but refuses a text with more than one statement.
    pub(super) async fn execute_one(&self, sql: &str) -> Result<(), Refused> {
        self.busy.store(true, Ordering::Relaxed);
        let result = self.client.query_typed(sql, &[]).await;
        self.busy.store(false, Ordering::Relaxed);
        result.map(drop).map_err(|error| self.refused(&error))
    }

    fn refused(&self, error: &tokio_postgres::Error) -> Refused {
        Refused { state: error.code().cloned(), error: self.explain(error) }
    }

    pub(super) fn read<T: FromSqlOwned>(&self, row: &Row, column: usize) -> Result<T> {
        row.try_get(column).map_err(|error| self.explain(&error))
    }

    fn explain(&self, error: &tokio_postgres::Error) -> Error {
        explain(error, &self.target, self.password.as_ref())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if !*self.busy.get_mut() {
            return;
        }
        let (cancel, tls) = (self.client.cancel_token(), self.tls.clone());
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { drop(cancel.cancel_query(tls).await) });
        }
    }
}
