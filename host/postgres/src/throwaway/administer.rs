//! What a throwaway server is given so that a dump can be restored to it by a user who may do next to nothing.
//!
//! A dump is data from a store, and whoever can write to the store could put a statement into it. So nothing of it is run by the
//! administrator because it stands there: he makes roles and extensions by their names, of those that are installed on this machine, and
//! runs the few statements that only he may, each alone, only where its beginning is known, and none that has an expression in it: the
//! constants of one are read by functions that a dump may define. Event triggers come last, and he never enters the database again.

use super::{ADMINISTRATOR, Throwaway, USER};
use crate::archive::{Contents, Entry};
use crate::client::{Connection, Dialer};
use crate::restore::{Plan, Server, literal, quoted};
use crate::statements::{Statement, statements};
use base::error::{Error, Result};

/// How a statement begins that the administrator runs after everything else. None of them has an expression in it, and PostgreSQL fires
/// no event trigger for the last three.
const AFTERWARDS: [&str; 6] = [
    "COMMENT ON PUBLICATION",
    "COMMENT ON EXTENSION",
    "COMMENT ON FOREIGN DATA WRAPPER",
    "CREATE EVENT TRIGGER",
    "ALTER EVENT TRIGGER",
    "COMMENT ON EVENT TRIGGER",
];

/// Those among them that come last.
const EVENT_TRIGGERS: [&str; 3] = ["CREATE EVENT TRIGGER", "ALTER EVENT TRIGGER", "COMMENT ON EVENT TRIGGER"];

impl Throwaway {
    /// How a dump is restored here. The roles that it names are made; they can log in nowhere.
    ///
    /// # Errors
    /// Class `Config` for an extension that is not installed on this machine.
    pub async fn plan(&self, server: &Server, contents: &Contents) -> Result<Plan> {
        let administrator = self.administrator("postgres").await?;
        for role in contents.roles() {
            let make = format!("CREATE ROLE {} NOLOGIN", quoted(&role));
            match administrator.execute(&make).await {
                Err(refused) if refused.state != ROLE_EXISTS => return Err(refused.error),
                Ok(()) | Err(_) => {}
            }
        }
        if let Some(wrapper) = contents.of_kind("FOREIGN DATA WRAPPER").next() {
            // Its handler runs whatever a table of it says, and only a validator that the dump could leave out asks who may.
            let name = base::text::printable(&wrapper.name);
            return Err(Error::config(format!(
                "only a superuser may make the foreign data wrapper `{name}`, and here none is asked to"
            ))
            .hint("name a server with --server, with a superuser's credentials"));
        }
        // Rows of a publication are chosen by expressions, which the user who restores reads and nobody else.
        let own = contents.of_superusers().filter(|entry| entry.kind != "PUBLICATION TABLE");
        let own = own.chain(contents.of_kind("EXTENSION"));
        let comments = contents.of_kind("COMMENT").filter(|entry| entry.name.starts_with("EXTENSION "));
        let left_out = own.chain(comments).chain(schemas_of_extensions(contents)).map(|entry| entry.id).collect();
        server.plan_with(contents, left_out).await
    }

    /// Makes what the dump needs and only an administrator may make, in the database that is about to be filled.
    ///
    /// # Errors
    /// Those of the server.
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
            let made = statements(&publication.definition).unwrap_or_default();
            for statement in
                made.iter().filter(|statement| statement.begins("CREATE PUBLICATION") && !statement.has("WHERE"))
            {
                run(statement.text()).await?;
                if !statement.has("FOR ALL TABLES") {
                    run(format!("ALTER PUBLICATION {} OWNER TO {USER}", quoted(&publication.name))).await?;
                }
            }
        }
        // Rows that a dump has of an extension's own tables, and servers of its wrappers, are the user's to make.
        run(GRANTS.replace("USER", &literal(USER))).await
    }

    /// Makes what only an administrator may make, once everything else is there.
    ///
    /// # Errors
    /// Those of the server.
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

/// The statements of a dump that begin in one of some ways, event triggers last: from then on they fire.
fn listed(contents: &Contents, beginnings: &[&str]) -> Vec<Statement> {
    let comments = contents.of_kind("COMMENT").filter(|entry| entry.name.starts_with("EXTENSION "));
    let entries = contents.of_superusers().chain(comments);
    let all = entries.filter_map(|entry| statements(&entry.definition)).flatten();
    let mut listed: Vec<Statement> =
        all.filter(|statement| beginnings.iter().any(|beginning| statement.begins(beginning))).collect();
    listed.sort_by_key(|statement| EVENT_TRIGGERS.iter().any(|beginning| statement.begins(beginning)));
    listed
}

/// Publications and the schemas whose tables they have.
fn published_schemas(contents: &Contents) -> impl Iterator<Item = (String, String)> {
    let all =
        contents.of_kind("PUBLICATION TABLES IN SCHEMA").filter_map(|entry| statements(&entry.definition)).flatten();
    all.filter_map(|statement| Some((statement.name_after("ALTER PUBLICATION")?, statement.name_after("IN SCHEMA")?)))
}

/// The schema that an extension is made in.
fn schema_of(extension: &Entry) -> Option<String> {
    statements(&extension.definition)?.iter().find_map(|statement| statement.name_after("WITH SCHEMA"))
}

/// The schemas of the dump that extensions are made in; they have to be there first.
fn schemas_of_extensions(contents: &Contents) -> impl Iterator<Item = &Entry> {
    let wanted: Vec<String> = contents.of_kind("EXTENSION").filter_map(schema_of).collect();
    contents.of_kind("SCHEMA").filter(move |schema| schema.name != "public" && wanted.contains(&schema.name))
}

/// The server says so of a role that is there.
const ROLE_EXISTS: &str = "42710";

/// What the user who restores may do with what extensions brought.
const GRANTS: &str = "DO $$ DECLARE x record; BEGIN \
     FOR x IN SELECT d.objid::regclass AS label FROM pg_depend AS d JOIN pg_class AS c ON c.oid = d.objid \
         WHERE d.classid = 'pg_class'::regclass AND d.deptype = 'e' AND c.relkind IN ('r', 'S') \
     LOOP EXECUTE format('GRANT ALL ON %s TO %I', x.label, USER); END LOOP; \
     FOR x IN SELECT fdwname AS label FROM pg_foreign_data_wrapper \
     LOOP EXECUTE format('GRANT USAGE ON FOREIGN DATA WRAPPER %I TO %I', x.label, USER); END LOOP; END $$";
