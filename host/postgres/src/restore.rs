//! Restores a dump: creates a fresh database, fills it with pg_restore, and renames it to the requested name after it
//! has been checked. Until then, no existing database is changed.
//!
//! This is the only module that writes to a server, and it writes only to the target of the restore.

mod fill;
mod properties;
mod requirements;
mod reworded;
mod verdict;

pub use requirements::RestorePlan;

use super::archive::{Contents, Origin};
use super::client::{Connection, Dialer, Refused};
use super::program::{self, Program};
use super::{DatabaseConfig, SERVER_MAJOR_MIN};
use base::error::{Class, Error, Result};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

/// Maximum length of a database name in bytes. The server truncates longer names, which could then be those of other
/// databases.
pub const NAME_BYTES_MAX: usize = 63;

/// Upper limit for the default number of pg_restore jobs, which is the number of cores. More jobs would not help,
/// because they all write to one disk.
pub const JOBS_DEFAULT_MAX: usize = 4;

/// How long to retry the drop of a database after the server crashed. A server recovers within seconds, or somebody has
/// to look into it.
const DROP_PATIENCE: Duration = Duration::from_secs(15);

/// The first server version with `idle_session_timeout`.
const IDLE_TIMEOUT_MAJOR_MIN: u32 = 14;

/// Interval between these retries.
const DROP_INTERVAL: Duration = Duration::from_millis(500);

/// A server that databases are restored to.
pub struct Server {
    dialer: Dialer,
    connection: Connection,
    version: String,
    major: u32,
    user: String,
    may_create: bool,
    is_superuser: bool,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Server({}, {})", self.describe(), self.version)
    }
}

/// An existing database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Existing {
    /// Name of the database.
    pub name: String,
    /// Owner of the database.
    pub owner: String,
    /// Size on disk. `None` if this user may not read it.
    pub bytes: Option<u64>,
    /// Number of connections to the database.
    pub sessions: u64,
    /// Whether this user may rename and drop the database.
    pub may_replace: bool,
}

/// A fresh database and what it is filled from. Only [`Server::drop_database`] drops it.
#[derive(Debug, Clone, Copy)]
pub struct Filling<'a> {
    /// Name of the database.
    pub name: &'a str,
    /// The role that will own the database and everything in it. Default: the connecting user.
    pub owner: Option<&'a str>,
    /// The dump file.
    pub dump: &'a Path,
    /// Who made the dump.
    pub origin: &'a Origin,
    /// Number of pg_restore jobs.
    pub jobs: usize,
    /// What the server needs to restore the dump.
    pub plan: &'a RestorePlan,
}

impl Server {
    /// Connects to the server through the configured database, usually `postgres`.
    ///
    /// # Errors
    /// As [`super::OpenDatabase::open`].
    pub async fn connect(config: &DatabaseConfig) -> Result<Self> {
        let own = DatabaseConfig {
            credentials: config.restore_credentials.as_deref().unwrap_or(&config.credentials).clone(),
            ..config.clone()
        };
        let own = own.resolved()?;
        own.check()?;
        let dialer = Dialer::for_restore(&own)?;
        let connection = dialer.connect().await?;
        let row = connection.query_one(SERVER, &[]).await?;
        let version: String = connection.read(&row, 0)?;
        let major = u32::try_from(connection.read::<i32>(&row, 1)? / 10_000).unwrap_or(0);
        if major < SERVER_MAJOR_MIN {
            return Err(Error::config(format!(
                "{}: PostgreSQL {version} is older than {SERVER_MAJOR_MIN}",
                connection.target()
            ))
            .hint(format!("restore to PostgreSQL {SERVER_MAJOR_MIN} or later")));
        }
        connection.execute(WITHOUT_LIMITS).await.map_err(|refused| refused.error)?;
        connection.query(super::client::PINS_OF_NEWER_SERVERS_IN_SESSION, &[]).await?;
        let (user, may_create) = (connection.read(&row, 2)?, connection.read(&row, 3)?);
        let is_superuser = connection.read(&row, 4)?;
        let version = base::text::printable(&version);
        Ok(Self { dialer, version, major, user, may_create, is_superuser, connection })
    }

    /// The version, as the server reports it.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The server and user for messages.
    pub fn describe(&self) -> String {
        let config = self.dialer.config();
        format!("{}:{} as user `{}`", config.host, config.port, self.user)
    }

    /// The configuration for connecting to one of the server's databases.
    pub fn config(&self, database: &str) -> DatabaseConfig {
        DatabaseConfig { database: database.to_owned(), ..self.dialer.config().clone() }
    }

    /// Checks that a dump can be restored here: the server is not older than the dumped one, and this user may create
    /// databases.
    ///
    /// # Errors
    /// Class `Config` if not.
    pub fn check(&self, origin: &Origin) -> Result<()> {
        let dumped = program::major(&origin.server_version).unwrap_or(0);
        if dumped > self.major {
            let (version, dumped_version) = (&self.version, &origin.server_version);
            return Err(Error::config(format!(
                "the dump comes from PostgreSQL {dumped_version}, but the target server is older: {version}"
            ))
            .hint(format!("restore to PostgreSQL {dumped} or later")));
        }
        if !self.may_create {
            return Err(Error::config(format!(
                "the user `{}` may not create databases on {}",
                self.user,
                self.describe()
            ))
            .hint(format!(
                "run `ALTER ROLE {} CREATEDB`, or set `restore_credentials` to those of a user who may",
                self.user
            )));
        }
        Ok(())
    }

    /// Checks that the role exists and that this user is a member of it.
    ///
    /// # Errors
    /// Class `Config` if not.
    pub async fn check_owner(&self, owner: &str) -> Result<()> {
        let rows = self.connection.query(OWNER, &[(&owner, Type::TEXT)]).await?;
        let shown = base::text::printable(owner);
        let may = rows.first().map(|row| self.connection.read::<bool>(row, 0)).transpose()?;
        match may {
            Some(true) => Ok(()),
            Some(false) => {
                Err(Error::config(format!("the user `{}` is not a member of the role `{shown}`", self.user))
                    .hint(format!("run `GRANT {shown} TO {}`, or choose another role with --owner", self.user)))
            }
            None => Err(Error::config(format!("the role `{shown}` does not exist on {}", self.describe()))
                .hint("create it first with CREATE ROLE, or choose another role with --owner")),
        }
    }

    /// The database of this name, if it exists.
    ///
    /// # Errors
    /// As [`super::OpenDatabase::open`].
    pub async fn find_database(&self, name: &str) -> Result<Option<Existing>> {
        Ok(self.existing("d.datname = $1", name).await?.pop())
    }

    /// All databases whose names begin with `prefix`.
    ///
    /// # Errors
    /// As [`super::OpenDatabase::open`].
    pub async fn beginning(&self, prefix: &str) -> Result<Vec<Existing>> {
        self.existing("starts_with(d.datname, $1)", prefix).await
    }

    async fn existing(&self, condition: &str, value: &str) -> Result<Vec<Existing>> {
        let rows =
            self.connection.query(&format!("{EXISTING} WHERE {condition} ORDER BY 1"), &[(&value, Type::TEXT)]).await?;
        let read = |row| {
            Ok(Existing {
                name: self.connection.read(row, 0)?,
                owner: self.connection.read(row, 1)?,
                bytes: self.connection.read::<Option<i64>>(row, 2)?.and_then(|bytes| u64::try_from(bytes).ok()),
                sessions: u64::try_from(self.connection.read::<i64>(row, 3)?).unwrap_or(0),
                may_replace: self.connection.read(row, 4)?,
            })
        };
        rows.iter().map(read).collect()
    }

    /// Creates an empty database with the encoding, provider and locale of the dumped one. If the server does not have
    /// them, the database gets the server's own, and a note is returned.
    async fn create(&self, filling: Filling<'_>) -> Result<Option<String>> {
        let Filling { name, owner, plan, .. } = filling;
        let owner = owner.map(|owner| format!(" OWNER {}", quoted(owner))).unwrap_or_default();
        let base = format!("CREATE DATABASE {}{owner} TEMPLATE template0", quoted(name));
        let candidates = plan.properties.options();
        let mut left = candidates.iter().peekable();
        while let Some(options) = left.next() {
            match self.connection.execute(&format!("{base}{options}")).await {
                Ok(()) if Some(options) == candidates.first() => return Ok(None),
                Ok(()) => {
                    let locale = plan.properties.locale().unwrap_or_default();
                    let note = format!("the server does not have {locale}: the database uses {}", fallback(options));
                    tracing::warn!("{note}");
                    return Ok(Some(note));
                }
                Err(refused) if left.peek().is_some() && is_about_locale(&refused) => {}
                Err(refused) => {
                    let name = base::text::printable(name);
                    return Err(refused.error.context(format!("creating `{name}`")));
                }
            }
        }
        Err(Error::unexpected("no CREATE DATABASE was attempted"))
    }

    /// Gathers the planner's statistics, which a dump does not contain. Without them, the first queries get poor plans.
    pub async fn analyze(&self, database: &str) -> Result<()> {
        let connection = Dialer::for_restore(&self.config(database))?.connect().await?;
        connection.execute(WITHOUT_LIMITS).await.map_err(|refused| refused.error)?;
        connection.execute("ANALYZE").await.map_err(|refused| refused.error.context("gathering statistics"))
    }

    /// Applies the settings of the dumped database. Returns one sentence for each setting that could not be applied.
    /// This is the last step, because the settings apply to every later connection.
    pub async fn finish(&self, database: &str, plan: &RestorePlan) -> Vec<String> {
        self.apply(database, &plan.properties).await
    }

    /// Counts the tables of a database and compares the number with the dump's.
    ///
    /// # Errors
    /// Class `Stale` if tables are missing.
    pub async fn check_tables(&self, database: &str, contents: Option<&Contents>) -> Result<u64> {
        let dialer = Dialer::new(&self.config(database))?;
        let connection = dialer.connect().await?;
        let row = connection.query_one(TABLES, &[]).await?;
        let tables = u64::try_from(connection.read::<i64>(&row, 0)?).unwrap_or(0);
        match contents.map(|contents| contents.tables as u64) {
            Some(expected) if tables < expected => Err(Error::new(
                Class::Stale,
                format!("the restored database has {tables} tables, but the dump contains {expected}"),
            )
            .hint("choose another snapshot: `list` shows them")),
            _ => Ok(tables),
        }
    }

    /// Renames databases in one transaction: all of them or none.
    ///
    /// # Errors
    /// Class `Config` while one of the databases has connections.
    pub async fn rename(&self, names: &[(&str, &str)]) -> Result<()> {
        let statements: String = names
            .iter()
            .map(|(from, to)| format!("ALTER DATABASE {} RENAME TO {}; ", quoted(from), quoted(to)))
            .collect();
        match self.connection.execute(&format!("BEGIN; {statements}COMMIT")).await {
            Ok(()) => Ok(()),
            Err(refused) => {
                drop(self.connection.execute("ROLLBACK").await);
                let error = refused.error;
                let in_use = refused.state == Some(SqlState::OBJECT_IN_USE);
                Err(if in_use { Error::config(error.message()).hint(HINT_IN_USE) } else { error })
            }
        }
    }

    /// Drops a database and terminates its connections. If the server has just crashed, this waits until it is back.
    pub async fn drop_database(&self, name: &str) -> Result<()> {
        let statement = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quoted(name));
        if self.connection.execute(&statement).await.is_ok() {
            return Ok(());
        }
        let begun = Instant::now();
        loop {
            let dropped = match self.dialer.connect().await {
                Ok(connection) => connection.execute(&statement).await.map_err(|refused| refused.error),
                Err(error) => Err(error),
            };
            match dropped {
                Err(error) if error.class() == Class::Unavailable && begun.elapsed() < DROP_PATIENCE => {
                    tokio::time::sleep(DROP_INTERVAL).await;
                }
                dropped => return dropped,
            }
        }
    }
}

/// Checks that a pg_restore that can read the dump is installed, before anything is created.
///
/// # Errors
/// Class `Config` if none is installed.
pub async fn check_program(origin: &Origin) -> Result<()> {
    program_for(origin).await.map(drop)
}

async fn program_for(origin: &Origin) -> Result<Program> {
    let major = program::major(&origin.pg_dump_version).unwrap_or(SERVER_MAJOR_MIN);
    program::for_dump(major, &origin.pg_dump_version).await
}

/// The hint for a database that is in use.
pub const HINT_IN_USE: &str = "stop Dolibarr and other clients of the database during the swap";

fn is_about_locale(refused: &Refused) -> bool {
    let message = refused.error.message();
    ["locale", "ICU", "collat", "LC_CTYPE"].iter().any(|sign| message.contains(sign))
}

/// What a database uses instead of its own locale, for messages.
fn fallback(options: &str) -> &'static str {
    if options.contains("LOCALE_PROVIDER") {
        "its own provider to sort text, and the server's locale otherwise"
    } else {
        "the server's own locale"
    }
}

/// A quoted SQL identifier.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A SQL string literal that is valid with any setting of `standard_conforming_strings`.
pub(crate) fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

/// A connection string for a database, so that libpq does not mistake its name for one.
fn conninfo(database: &str) -> String {
    format!("dbname='{}'", database.replace('\\', "\\\\").replace('\'', "\\'"))
}

const SERVER: &str = "SELECT current_setting('server_version'), current_setting('server_version_num')::int4, current_user::text, \
     (SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user), \
     (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)";

/// Disables settings that a role or a database may have by default and that would abort a restore.
const WITHOUT_LIMITS: &str = "SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0; \
     SET default_transaction_read_only = off";

const OWNER: &str = "SELECT pg_has_role(current_user, oid, 'MEMBER') FROM pg_roles WHERE rolname = $1";

const EXISTING: &str = "SELECT d.datname::text, r.rolname::text, \
     CASE WHEN has_database_privilege(d.oid, 'CONNECT') THEN pg_database_size(d.oid) END, \
     (SELECT count(*) FROM pg_stat_activity AS a WHERE a.datid = d.oid), \
     (SELECT u.rolsuper OR (u.rolcreatedb AND pg_has_role(current_user, d.datdba, 'MEMBER')) FROM pg_roles AS u WHERE u.rolname = current_user) \
     FROM pg_database AS d JOIN pg_roles AS r ON r.oid = d.datdba";

const TABLES: &str = "SELECT count(*) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace \
     WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_texts_cannot_escape_their_quotes() {
        assert_eq!(quoted("a\"; DROP"), "\"a\"\"; DROP\"");
        assert_eq!(literal("a'; DROP\\"), "E'a''; DROP\\\\'");
        assert_eq!(conninfo("a' host=x"), "dbname='a\\' host=x'");
    }
}
