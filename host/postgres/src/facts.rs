//! Facts about a database that are read when it is opened, and what a dump of it cannot contain.

use super::client::Connection;
use base::error::Error;
use base::text::printable;

/// Facts about a database and the pg_dump that reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseFacts {
    /// Version as the server reports it, such as `15.18 (Debian 15.18-0+deb12u1)`.
    pub server_version: String,
    /// Version as pg_dump reports it.
    pub pg_dump_version: String,
    /// Size of the whole database on disk.
    pub database_bytes: u64,
    /// The database's encoding on the server, such as `UTF8`.
    pub encoding: String,
    /// The server's `system_identifier` and the name of the database, such as `7431234567890123456/erp`. `None` if the
    /// server refuses to report it.
    pub identity: Option<String>,
    /// Number of ordinary tables outside PostgreSQL's own schemas and extensions. A dump with fewer tables is
    /// incomplete.
    pub tables: u64,
    /// Number of unlogged tables that cannot be read because the server is a standby. A dump does not contain their
    /// rows.
    pub unreadable_unlogged: u64,
    /// Number of subscriptions. A dump does not contain them.
    pub subscriptions: u64,
    /// Number of user mappings whose options, usually a password, this user cannot read. A dump contains these mappings
    /// without options.
    pub unreadable_mappings: u64,
    /// Settings that apply to sessions in every database of the server. They belong to the server, so a dump of one
    /// database does not contain them.
    pub set_everywhere: SetEverywhere,
}

/// Settings of `ALTER ROLE … SET` without `IN DATABASE`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SetEverywhere {
    /// Roles that have such settings and that own objects in the database, have rights in it, or are members of such a
    /// role.
    pub roles: Vec<String>,
    /// Whether `ALTER ROLE ALL SET` was used, which applies to all roles.
    pub all: bool,
}

impl DatabaseFacts {
    /// What a dump of this database does not contain, one sentence for each item.
    pub fn left_out(&self) -> Vec<String> {
        let Self { subscriptions, unreadable_unlogged, unreadable_mappings, .. } = *self;
        let subscriptions =
            (subscriptions > 0).then(|| format!("{subscriptions} subscriptions are left out: recreate them by hand"));
        let unlogged = (unreadable_unlogged > 0)
            .then(|| format!("{unreadable_unlogged} unlogged tables have no rows, because a standby has none of them"));
        let mappings = (unreadable_mappings > 0).then(|| {
            format!(
                "{unreadable_mappings} user mappings have no options, because only a superuser or a user of the \
                 mapping may read them"
            )
        });
        let SetEverywhere { roles, all } = &self.set_everywhere;
        let of_roles = roles.first().map(|first| {
            let others = match roles.len() - 1 {
                0 => String::new(),
                1 => " and one more role".to_owned(),
                count => format!(" and {count} more roles"),
            };
            format!(
                "the settings of ALTER ROLE for `{}`{others} in every database are left out: `pg_dumpall --roles-only` \
                 saves them",
                printable(first)
            )
        });
        let of_all =
            all.then(|| "the settings of ALTER ROLE ALL in every database are left out: set them by hand".to_owned());
        [subscriptions, unlogged, mappings, of_roles, of_all].into_iter().flatten().collect()
    }
}

/// Version as text and as a number, size, encoding, the exported snapshot, the number of readable tables, of tables
/// that cannot be read on a standby and of subscriptions, whether the connection is encrypted, and the number of user
/// mappings without options.
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

/// Roles with settings for every database, and whether there are settings for all roles. Objects of the server's first
/// role have no entry in `pg_shdepend`. Superusers are members of every role, so their memberships do not count.
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

/// Settings that apply in every database. They are needed only for a note, so a server that refuses the query, or a
/// name in another encoding, does not fail the backup.
pub(super) async fn set_everywhere(connection: &Connection, scope: &str) -> SetEverywhere {
    let query = async {
        let row = connection.query_one(SET_EVERYWHERE, &[]).await?;
        Ok::<_, Error>(SetEverywhere { roles: connection.read(&row, 0)?, all: connection.read(&row, 1)? })
    };
    query.await.unwrap_or_else(|error| {
        tracing::debug!(scope, %error, "the settings of roles could not be read");
        SetEverywhere::default()
    })
}

/// The number that a server gets when its data directory is created. A replica has the number of its primary. Every
/// role may query it.
const IDENTITY: &str = "SELECT system_identifier::pg_catalog.text, pg_catalog.current_database()::pg_catalog.text \
     FROM pg_catalog.pg_control_system()";

/// Identifies the database of a connection. The query must run before the transaction begins: if the server refused it,
/// the error would end the transaction and the snapshot.
pub(super) async fn identity(connection: &Connection, scope: &str) -> Option<String> {
    let query = async {
        let row = connection.query_one(IDENTITY, &[]).await?;
        let (server, database): (String, String) = (connection.read(&row, 0)?, connection.read(&row, 1)?);
        Ok::<_, Error>(format!("{server}/{database}"))
    };
    let log = |error: &Error| tracing::debug!(scope, %error, "the server does not report its system identifier");
    query.await.inspect_err(log).ok()
}
