//! Prepares a throwaway server so that a user with minimal rights can restore a dump to it.
//!
//! A dump comes from a store, and anyone who can write to the store could put a statement into it. The administrator
//! therefore never runs a statement just because the dump contains it. It creates roles and those extensions that are
//! installed on this machine, by their names. It also runs the few statements that only an administrator may run: each
//! one separately, only if its beginning is known, and never one with an expression, because the constants in an
//! expression are parsed by functions that a dump may define. Event triggers come last, and after that the
//! administrator never connects to the database again.

use super::{ADMINISTRATOR, Throwaway, USER};
use crate::archive::{Contents, DumpEntry};
use crate::client::{Connection, Dialer};
use crate::restore::{RestorePlan, Server, literal, quoted};
use crate::statements::{Statement, statements};
use base::error::{Error, Result};
use tokio_postgres::error::SqlState;

/// Beginnings of the statements that the administrator runs after everything else. None of them contains an expression,
/// and PostgreSQL does not fire event triggers for the last three.
const AFTERWARDS: [&str; 6] = [
    "COMMENT ON PUBLICATION",
    "COMMENT ON EXTENSION",
    "COMMENT ON FOREIGN DATA WRAPPER",
    "CREATE EVENT TRIGGER",
    "ALTER EVENT TRIGGER",
    "COMMENT ON EVENT TRIGGER",
];

/// The statements among them that come last.
const EVENT_TRIGGERS: [&str; 3] = ["CREATE EVENT TRIGGER", "ALTER EVENT TRIGGER", "COMMENT ON EVENT TRIGGER"];

impl Throwaway {
    /// Plans the restore of a dump to this server, and creates the roles that the dump names. These roles cannot log
    /// in.
    ///
    /// # Errors
    /// Class `Config` for an extension that is not installed on this machine, or for a foreign data wrapper.
    pub async fn plan(&self, server: &Server, contents: &Contents) -> Result<RestorePlan> {
        let administrator = self.administrator("postgres").await?;
        for role in contents.roles() {
            let statement = format!("CREATE ROLE {} NOLOGIN", quoted(&role));
            match administrator.execute(&statement).await {
                Err(refused) if refused.state != Some(SqlState::DUPLICATE_OBJECT) => return Err(refused.error),
                Ok(()) | Err(_) => {}
            }
        }
        if let Some(wrapper) = contents.of_kind("FOREIGN DATA WRAPPER").next() {
            // The handler of a wrapper does whatever its foreign tables ask for. Only the validator checks rights, and
            // a dump could leave it out.
            let name = base::text::printable(&wrapper.name);
            return Err(Error::config(format!(
                "only a superuser may create the foreign data wrapper `{name}`, which the throwaway server does not allow"
            ))
            .hint("choose a server with --server and a superuser's credentials"));
        }
        // A publication may filter rows with expressions, which only the user who restores may parse.
        let entries = contents.superuser_entries().filter(|entry| entry.kind != "PUBLICATION TABLE");
        let entries = entries.chain(contents.of_kind("EXTENSION"));
        let comments = contents.of_kind("COMMENT").filter(|entry| entry.name.starts_with("EXTENSION "));
        let left_out = entries.chain(comments).chain(schemas_of_extensions(contents)).map(|entry| entry.id).collect();
        server.plan_with(contents, left_out).await
    }

    /// Creates the objects that the dump needs and that only an administrator may create, in the database that is about
    /// to be filled.
    pub async fn before_filling(&self, database: &str, contents: &Contents) -> Result<()> {
        let administrator = self.administrator(database).await?;
        let run = async |sql: String| administrator.execute_one(&sql).await.map_err(|refused| refused.error);
        for schema in schemas_of_extensions(contents) {
            run(format!("CREATE SCHEMA {} AUTHORIZATION {USER}", quoted(&schema.name))).await?;
        }
        for extension in contents.of_kind("EXTENSION") {
            let schema = schema_of(extension).map(|schema| format!(" SCHEMA {}", quoted(&schema))).unwrap_or_default();
            run(format!("CREATE EXTENSION IF NOT EXISTS {}{schema} CASCADE", quoted(&extension.name))).await?;
        }
        for publication in contents.of_kind("PUBLICATION") {
            let definition = statements(&publication.definition).unwrap_or_default();
            for statement in
                definition.iter().filter(|statement| statement.begins("CREATE PUBLICATION") && !statement.has("WHERE"))
            {
                run(statement.text()).await?;
                if !statement.has("FOR ALL TABLES") {
                    run(format!("ALTER PUBLICATION {} OWNER TO {USER}", quoted(&publication.name))).await?;
                }
            }
        }
        // The user restores the rows of extensions' tables and the foreign servers of their wrappers.
        run(GRANTS.replace("USER", &literal(USER))).await
    }

    /// Creates the objects that only an administrator may create, after everything else has been restored.
    pub async fn after_filling(&self, database: &str, contents: &Contents) -> Result<()> {
        let statements = listed(contents, &AFTERWARDS);
        let schemas: Vec<(String, String)> = published_schemas(contents).collect();
        if statements.is_empty() && schemas.is_empty() {
            return Ok(());
        }
        let administrator = self.administrator(database).await?;
        administrator.execute("SET search_path = pg_catalog").await.map_err(|refused| refused.error)?;
        for (publication, schema) in schemas {
            let add = format!("ALTER PUBLICATION {} ADD TABLES IN SCHEMA {}", quoted(&publication), quoted(&schema));
            administrator.execute_one(&add).await.map_err(|refused| refused.error)?;
        }
        for statement in statements {
            let done = administrator.execute_one(&statement.text()).await;
            done.map_err(|refused| refused.error)?;
        }
        Ok(())
    }

    async fn administrator(&self, database: &str) -> Result<Connection> {
        Dialer::for_restore(&self.config_as(ADMINISTRATOR, database))?.connect().await
    }
}

/// The statements of a dump with one of these beginnings. Event triggers come last, because they fire from then on.
fn listed(contents: &Contents, beginnings: &[&str]) -> Vec<Statement> {
    let comments = contents.of_kind("COMMENT").filter(|entry| entry.name.starts_with("EXTENSION "));
    let entries = contents.superuser_entries().chain(comments);
    let all = entries.filter_map(|entry| statements(&entry.definition)).flatten();
    let mut listed: Vec<Statement> =
        all.filter(|statement| beginnings.iter().any(|beginning| statement.begins(beginning))).collect();
    listed.sort_by_key(|statement| EVENT_TRIGGERS.iter().any(|beginning| statement.begins(beginning)));
    listed
}

/// Publications of whole schemas, each with its schema.
fn published_schemas(contents: &Contents) -> impl Iterator<Item = (String, String)> {
    let all =
        contents.of_kind("PUBLICATION TABLES IN SCHEMA").filter_map(|entry| statements(&entry.definition)).flatten();
    all.filter_map(|statement| Some((statement.name_after("ALTER PUBLICATION")?, statement.name_after("IN SCHEMA")?)))
}

/// The schema that an extension is created in.
fn schema_of(extension: &DumpEntry) -> Option<String> {
    statements(&extension.definition)?.iter().find_map(|statement| statement.name_after("WITH SCHEMA"))
}

/// The schemas of the dump that extensions are created in. They must exist before the extensions.
fn schemas_of_extensions(contents: &Contents) -> impl Iterator<Item = &DumpEntry> {
    let wanted: Vec<String> = contents.of_kind("EXTENSION").filter_map(schema_of).collect();
    contents.of_kind("SCHEMA").filter(move |schema| schema.name != "public" && wanted.contains(&schema.name))
}

/// Grants the user who restores rights on the objects of extensions.
const GRANTS: &str = "DO $$ DECLARE x record; BEGIN \
     FOR x IN SELECT d.objid::regclass AS label FROM pg_depend AS d JOIN pg_class AS c ON c.oid = d.objid \
         WHERE d.classid = 'pg_class'::regclass AND d.deptype = 'e' AND c.relkind IN ('r', 'S') \
     LOOP EXECUTE format('GRANT ALL ON %s TO %I', x.label, USER); END LOOP; \
     FOR x IN SELECT fdwname AS label FROM pg_foreign_data_wrapper \
     LOOP EXECUTE format('GRANT USAGE ON FOREIGN DATA WRAPPER %I TO %I', x.label, USER); END LOOP; END $$";
