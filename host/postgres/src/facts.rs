//! What is learnt of a database when it is opened, and what of it no dump has.

use super::client::Connection;
use base::error::Error;
use base::text::printable;

/// What is known of a database and of the pg_dump that reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// As the server prints it, such as `15.18 (Debian 15.18-0+deb12u1)`.
    pub server_version: String,
    /// As pg_dump prints it.
    pub pg_dump_version: String,
    /// Size on disk of the whole database.
    pub database_bytes: u64,
    /// The server's encoding of the database, such as `UTF8`.
    pub encoding: String,
    /// Which database it is: the server's `system_identifier` and the database's name, as in `7431234567890123456/erp`.
    /// None where the server refuses to report it.
    pub identity: Option<String>,
    /// Ordinary tables outside PostgreSQL's own schemas and its extensions. A dump with fewer is not whole.
    pub tables: u64,
    /// Unlogged tables that nobody can read, because the server is a standby; a dump has none of their rows.
    pub unreadable_unlogged: u64,
    /// Subscriptions, which no dump has.
    pub subscriptions: u64,
    /// User mappings whose options, as a rule a password, this user cannot read; a dump has them without.
    pub unreadable_mappings: u64,
    /// What sets sessions in every database of the server, this one among them. It is the server's own, and no dump of one database has it.
    pub set_everywhere: SetEverywhere,
}

/// Settings of `ALTER ROLE … SET` without `IN DATABASE`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SetEverywhere {
    /// Roles that have some, and own something in the database, have rights in it, or are members of one that does.
    pub roles: Vec<String>,
    /// Whether there are some for all roles, as `ALTER ROLE ALL SET` makes them.
    pub all: bool,
}

impl Facts {
    /// What no dump of this database has, a sentence each.
    #[must_use]
    pub fn left_out(&self) -> Vec<String> {
        let Self { subscriptions, unreadable_unlogged, unreadable_mappings, .. } = *self;
        let subscriptions =
            (subscriptions > 0).then(|| format!("{subscriptions} subscriptions are left out: make them anew by hand"));
        let unlogged = (unreadable_unlogged > 0)
            .then(|| format!("{unreadable_unlogged} unlogged tables are without rows, because a standby has none"));
        let mappings = (unreadable_mappings > 0).then(|| {
            format!("{unreadable_mappings} user mappings are without options, which only a superuser or who may use them reads")
        });
        let SetEverywhere { roles, all } = &self.set_everywhere;
        let of_roles = roles.first().map(|first| {
            let others = match roles.len() - 1 {
                0 => String::new(),
                1 => " and one more role".to_owned(),
                count => format!(" and {count} more roles"),
            };
            format!(
                "what ALTER ROLE sets in every database for `{}`{others} is left out: `pg_dumpall --roles-only` has it",
                printable(first)
            )
        });
        let of_all =
            all.then(|| "what ALTER ROLE ALL sets in every database is left out: set it anew by hand".to_owned());
        [subscriptions, unlogged, mappings, of_roles, of_all].into_iter().flatten().collect()
    }
}

/// Version as text and number, size, encoding, the snapshot for the others, and how many there are: tables, those among them that nobody
/// can read on a standby, subscriptions; whether the connection is encrypted; user mappings without options.
pub(super) const FACTS: &str = "SELECT current_setting('server_version'), current_setting('server_version_num')::int4, \
     pg_database_size(current_database()), current_setting('server_encoding'), pg_export_snapshot(), t.readable, t.unreadable, \
     (SELECT count(*) FROM pg_subscription AS s JOIN pg_database AS b ON b.oid = s.subdbid WHERE b.datname = current_database()), \
     (SELECT s.ssl FROM pg_stat_ssl AS s WHERE s.pid = pg_backend_pid()), \
     (SELECT count(*) FROM pg_user_mappings AS m WHERE m.umoptions IS NULL) \
     FROM (SELECT count(*) FILTER (WHERE NOT u.is_out) AS readable, count(*) FILTER (WHERE u.is_out) AS unreadable \
         FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace \
         CROSS JOIN LATERAL (SELECT c.relpersistence = 'u' AND pg_is_in_recovery()) AS u (is_out) \
         WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' \
         AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')) \
     AS t";

/// Roles with settings for every database, and whether all roles have some. The server's first role owns things without an entry in
/// `pg_shdepend`. Superusers are members of every role, so only what is a role's own counts for them.
const SET_EVERYWHERE: &str = "WITH own (oid) AS ( \
         SELECT d.refobjid FROM pg_catalog.pg_shdepend AS d JOIN pg_catalog.pg_database AS b ON b.datname = pg_catalog.current_database() \
         WHERE d.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass \
         AND (d.dbid = b.oid OR (d.classid = 'pg_catalog.pg_database'::pg_catalog.regclass AND d.objid = b.oid)) \
         UNION SELECT b.datdba FROM pg_catalog.pg_database AS b WHERE b.datname = pg_catalog.current_database() \
         UNION SELECT c.relowner FROM pg_catalog.pg_class AS c WHERE c.oid >= 16384) \
     SELECT ARRAY(SELECT r.rolname::pg_catalog.text FROM pg_catalog.pg_db_role_setting AS s \
         JOIN pg_catalog.pg_roles AS r ON r.oid = s.setrole WHERE s.setdatabase = 0 AND EXISTS (SELECT FROM own AS o WHERE o.oid = r.oid \
             OR (NOT r.rolsuper AND pg_catalog.pg_has_role(r.oid, o.oid, 'MEMBER'))) ORDER BY 1), \
     EXISTS (SELECT FROM pg_catalog.pg_db_role_setting AS s WHERE s.setdatabase = 0 AND s.setrole = 0)";

/// What sets sessions everywhere. It is for a note alone: a server that tells nobody, or a name in another encoding, ends no backup.
pub(super) async fn set_everywhere(connection: &Connection, scope: &str) -> SetEverywhere {
    let ask = async {
        let row = connection.query_one(SET_EVERYWHERE, &[]).await?;
        Ok::<_, Error>(SetEverywhere { roles: connection.read(&row, 0)?, all: connection.read(&row, 1)? })
    };
    ask.await.unwrap_or_else(|error| {
        tracing::debug!(scope, %error, "the settings of roles are not known");
        SetEverywhere::default()
    })
}

/// The number that a server got when its data folder was made; a replica has the number of its primary. Every role may ask.
const IDENTITY: &str = "SELECT system_identifier::pg_catalog.text, pg_catalog.current_database()::pg_catalog.text \
     FROM pg_catalog.pg_control_system()";

/// Which database a connection is to. It must be asked before the transaction begins: a server that refuses to say it
/// would end the transaction, and the snapshot with it.
pub(super) async fn identity(connection: &Connection, scope: &str) -> Option<String> {
    let asked = async {
        let row = connection.query_one(IDENTITY, &[]).await?;
        let (server, database): (String, String) = (connection.read(&row, 0)?, connection.read(&row, 1)?);
        Ok::<_, Error>(format!("{server}/{database}"))
    };
    let refused = |error: &Error| tracing::debug!(scope, %error, "the server does not report its system identifier");
    asked.await.inspect_err(refused).ok()
}
