//! Restoring a dump: a fresh database is made beside all others, filled by pg_restore, and put in place by a rename when
//! somebody has looked at it. Until then no database that was there before is touched.
//!
//! This is the one module that writes to a server, and only to the one that is named as the target.

mod fill;
mod properties;
mod requirements;
mod reworded;
mod verdict;

pub use requirements::Plan;

use super::archive::{Contents, Origin};
use super::client::{Connection, Dialer, Refused};
use super::program::{self, Program};
use super::{Config, SERVER_MAJOR_MIN};
use base::error::{Class, Error, Result};
use std::time::{Duration, Instant};
use tokio_postgres::types::Type;

/// Longest name of a database, in bytes. The server cuts off what is longer, and would then meet another one.
pub const NAME_BYTES_MAX: usize = 63;

/// Jobs of pg_restore where nobody says: as many as cores, and at most so many, because they all write to one disk.
pub const JOBS_DEFAULT_MAX: usize = 4;

/// How long a server that broke is waited for, to drop what it holds: it recovers in seconds, or somebody has to look.
const DROP_PATIENCE: Duration = Duration::from_secs(15);

/// The first server that ends sessions because they are idle.
const IDLE_TIMEOUT_MAJOR_MIN: u32 = 14;

/// How often it is asked.
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

/// A database that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Existing {
    /// Its name.
    pub name: String,
    /// Whose it is.
    pub owner: String,
    /// Its size on disk; none where this user may not know.
    pub bytes: Option<u64>,
    /// Connections to it.
    pub sessions: u64,
    /// Whether this user may rename and drop it.
    pub may_replace: bool,
}

/// A database that is being filled. Nobody drops it but [`Server::drop_database`].
#[derive(Debug, Clone, Copy)]
pub struct Fresh<'a> {
    /// Its name.
    pub name: &'a str,
    /// Whose it and everything in it will be; the connecting user's where nobody is named.
    pub owner: Option<&'a str>,
}

impl Server {
    /// Connects to the server through the database that the configuration names, as a rule `postgres`.
    ///
    /// # Errors
    /// As [`super::Session::open`].
    pub async fn connect(config: &Config) -> Result<Self> {
        let own = Config {
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
            .hint(format!("restore to PostgreSQL {SERVER_MAJOR_MIN} or newer")));
        }
        connection.execute(WITHOUT_LIMITS).await.map_err(|refused| refused.error)?;
        connection.query(super::client::PINS_OF_NEWER_SERVERS_IN_SESSION, &[]).await?;
        let (user, may_create) = (connection.read(&row, 2)?, connection.read(&row, 3)?);
        let is_superuser = connection.read(&row, 4)?;
        let version = base::text::printable(&version);
        Ok(Self { dialer, version, major, user, may_create, is_superuser, connection })
    }

    /// As the server names its version.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The server for people.
    #[must_use]
    pub fn describe(&self) -> String {
        let config = self.dialer.config();
        format!("{}:{} as user `{}`", config.host, config.port, self.user)
    }

    /// How to read one of its databases.
    #[must_use]
    pub fn config(&self, database: &str) -> Config {
        Config { database: database.to_owned(), ..self.dialer.config().clone() }
    }

    /// Whether a dump can be restored here: the server's version, and this user's right to make a database.
    ///
    /// # Errors
    /// Class `Config`.
    pub fn check(&self, origin: &Origin) -> Result<()> {
        let dumped = program::major(&origin.server_version).unwrap_or(0);
        if dumped > self.major {
            let (version, dumped_version) = (&self.version, &origin.server_version);
            return Err(Error::config(format!(
                "the dump is of PostgreSQL {dumped_version}, and the target server is the older {version}"
            ))
            .hint(format!("restore to PostgreSQL {dumped} or newer")));
        }
        if !self.may_create {
            return Err(Error::config(format!(
                "the user `{}` may not make a database on {}",
                self.user,
                self.describe()
            ))
            .hint(format!(
                "let it, with `ALTER ROLE {} CREATEDB`, or give `restore_credentials` of a user who may",
                self.user
            )));
        }
        Ok(())
    }

    /// Whether there is a role, and this user may act for it.
    ///
    /// # Errors
    /// Class `Config` when not.
    pub async fn check_owner(&self, owner: &str) -> Result<()> {
        let rows = self.connection.query(OWNER, &[(&owner, Type::TEXT)]).await?;
        let shown = base::text::printable(owner);
        let may = rows.first().map(|row| self.connection.read::<bool>(row, 0)).transpose()?;
        match may {
            Some(true) => Ok(()),
            Some(false) => Err(Error::config(format!("the user `{}` may not act for the role `{shown}`", self.user))
                .hint(format!("let it, with `GRANT {shown} TO {}`, or name another role with --owner", self.user))),
            None => Err(Error::config(format!("the role `{shown}` does not exist on {}", self.describe()))
                .hint("make it first with CREATE ROLE, or name another one with --owner")),
        }
    }

    /// A database of this name, if there is one.
    ///
    /// # Errors
    /// As [`super::Session::open`].
    pub async fn look(&self, name: &str) -> Result<Option<Existing>> {
        Ok(self.existing("d.datname = $1", name).await?.pop())
    }

    /// Databases whose names begin so.
    ///
    /// # Errors
    /// As [`super::Session::open`].
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

    /// Makes an empty database with the encoding, provider and locale of the one that was dumped. Where the server does not have
    /// them, it gets the server's own, and the answer says so.
    ///
    /// # Errors
    /// Those of the server.
    async fn create(&self, fresh: Fresh<'_>, plan: &Plan) -> Result<Option<String>> {
        let owner = fresh.owner.map(|owner| format!(" OWNER {}", quoted(owner))).unwrap_or_default();
        let base = format!("CREATE DATABASE {}{owner} TEMPLATE template0", quoted(fresh.name));
        let wanted = plan.properties.options();
        let mut left = wanted.iter().peekable();
        while let Some(options) = left.next() {
            match self.connection.execute(&format!("{base}{options}")).await {
                Ok(()) if Some(options) == wanted.first() => return Ok(None),
                Ok(()) => {
                    let locale = plan.properties.locale().unwrap_or_default();
                    let note = format!("the server has not {locale}: text is sorted by{}", kept(options));
                    tracing::warn!("{note}");
                    return Ok(Some(note));
                }
                Err(refused) if left.peek().is_some() && is_about_locale(&refused) => {}
                Err(refused) => {
                    let name = base::text::printable(fresh.name);
                    return Err(refused.error.context(format!("making `{name}`")));
                }
            }
        }
        Err(Error::unexpected("no way to make a database was tried"))
    }

    /// Gathers the statistics that no dump has; without them the first queries are planned blindly.
    ///
    /// # Errors
    /// Those of the server.
    pub async fn analyze(&self, database: &str) -> Result<()> {
        let connection = Dialer::for_restore(&self.config(database))?.connect().await?;
        connection.execute(WITHOUT_LIMITS).await.map_err(|refused| refused.error)?;
        connection.execute("ANALYZE").await.map_err(|refused| refused.error.context("gathering statistics"))
    }

    /// Gives the database what the dumped one was set to; what could not be is in the answer, a sentence each. It is the last
    /// step, because a setting counts for whoever connects from then on.
    pub async fn finish(&self, database: &str, plan: &Plan) -> Vec<String> {
        self.apply(database, &plan.properties).await
    }

    /// Compares what is in a database with what its dump announced.
    ///
    /// # Errors
    /// Class `Stale` when tables are missing.
    pub async fn check_tables(&self, database: &str, contents: Option<&Contents>) -> Result<u64> {
        let dialer = Dialer::new(&self.config(database))?;
        let connection = dialer.connect().await?;
        let row = connection.query_one(TABLES, &[]).await?;
        let tables = u64::try_from(connection.read::<i64>(&row, 0)?).unwrap_or(0);
        match contents.map(|contents| contents.tables as u64) {
            Some(expected) if tables < expected => Err(Error::new(
                Class::Stale,
                format!("the restored database has {tables} tables, and the dump announced {expected}"),
            )
            .hint("take another snapshot: `list` shows them")),
            _ => Ok(tables),
        }
    }

    /// Gives databases new names, all of them or none.
    ///
    /// # Errors
    /// Class `Config` while somebody is connected to one of them; those of the server.
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
                let in_use = refused.state == "55006";
                Err(if in_use { Error::config(error.message()).hint(HINT_IN_USE) } else { error })
            }
        }
    }

    /// Drops a database, and ends what is left of connections to it. A server that has just broken is given time to come back.
    ///
    /// # Errors
    /// Those of the server.
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

/// Whether a pg_restore is installed that reads a dump, before anything is made of it.
///
/// # Errors
/// Class `Config` when there is none.
pub async fn check_program(origin: &Origin) -> Result<()> {
    program_for(origin).await.map(drop)
}

async fn program_for(origin: &Origin) -> Result<Program> {
    let major = program::major(&origin.pg_dump_version).unwrap_or(SERVER_MAJOR_MIN);
    program::for_dump(major, &origin.pg_dump_version).await
}

/// What to do about a database that somebody uses.
pub const HINT_IN_USE: &str = "stop Dolibarr, or whatever uses it, for the moment of the swap";

fn is_about_locale(refused: &Refused) -> bool {
    let message = refused.error.message();
    ["locale", "ICU", "collat", "LC_CTYPE"].iter().any(|sign| message.contains(sign))
}

/// What a database got instead of its locale, for people.
fn kept(options: &str) -> &'static str {
    if options.contains("LOCALE_PROVIDER") {
        " its own provider, and all else by the server's locale"
    } else {
        " the server's own locale"
    }
}

/// An identifier for SQL.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text for SQL, whatever `standard_conforming_strings` is.
pub(crate) fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

/// A database's name that libpq cannot take for a connection string.
fn conninfo(database: &str) -> String {
    format!("dbname='{}'", database.replace('\\', "\\\\").replace('\'', "\\'"))
}

const SERVER: &str = "SELECT current_setting('server_version'), current_setting('server_version_num')::int4, current_user::text, \
     (SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user), \
     (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)";

/// What a role or a database may have by default and what would end a restore half-way.
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
    fn names_and_texts_cannot_leave_their_quotes() {
        assert_eq!(quoted("a\"; DROP"), "\"a\"\"; DROP\"");
        assert_eq!(literal("a'; DROP\\"), "E'a''; DROP\\\\'");
        assert_eq!(conninfo("a' host=x"), "dbname='a\\' host=x'");
    }
}
