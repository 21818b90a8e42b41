//! What a dump requires of the target server, apart from its version: extensions, roles, tablespaces, and a superuser
//! for some objects. This is checked before anything is created, so that a restore that cannot succeed does not start.

use super::{Server, properties::Properties};
use crate::archive::{Contents, DumpEntry};
use crate::statements::statements;
use base::error::{Error, Result};
use base::text::printable;
use std::collections::BTreeSet;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

/// Kinds of entry of which only a superuser may create some or all.
pub(crate) const SUPERUSER_KINDS: [&str; 5] =
    ["EVENT TRIGGER", "PUBLICATION", "PUBLICATION TABLE", "PUBLICATION TABLES IN SCHEMA", "FOREIGN DATA WRAPPER"];

/// Kinds of entry that belong to another one. Their name begins with the kind of that entry.
const COMMENT_OR_LABEL: [&str; 2] = ["COMMENT", LABEL];

const LABEL: &str = "SECURITY LABEL";

/// How a dump is restored to one server.
#[derive(Debug, Clone, Default)]
pub struct RestorePlan {
    pub(super) properties: Properties,
    /// Entries that pg_restore leaves out.
    pub(super) left_out: BTreeSet<i64>,
    pub(super) without_tablespaces: bool,
    pub(super) without_labels: bool,
    /// Statements that are run after everything else is restored.
    pub(super) afterwards: Vec<String>,
    /// What will differ from the dumped database, one sentence for each item.
    pub notes: Vec<String>,
}

impl Contents {
    /// The names of the extensions.
    pub(crate) fn extensions(&self) -> Vec<&str> {
        self.of_kind("EXTENSION").map(|entry| entry.name.as_str()).collect()
    }

    /// The roles that policies and user mappings name. They must exist even though rights are not restored.
    pub(crate) fn roles(&self) -> BTreeSet<String> {
        let of_policies = self.of_kind("POLICY").flat_map(|entry| names(entry, "CREATE POLICY", "TO"));
        let of_mappings = self.of_kind("USER MAPPING").flat_map(|entry| names(entry, "CREATE USER MAPPING", "FOR"));
        of_policies.chain(of_mappings).filter(|role| role != "public" && !role.contains('\u{fffd}')).collect()
    }

    /// The entries of [`SUPERUSER_KINDS`], with their comments and labels.
    pub(crate) fn superuser_entries(&self) -> impl Iterator<Item = &DumpEntry> {
        let matches =
            |entry: &&DumpEntry| SUPERUSER_KINDS.iter().any(|kind| entry.kind == *kind || is_attached_to(entry, kind));
        self.special.iter().filter(matches)
    }

    /// The providers of the security labels that will be restored.
    fn label_providers(&self) -> BTreeSet<String> {
        // Subscriptions are not created, so their labels do not matter.
        let labels = self.of_kind(LABEL).filter(|entry| !is_attached_to(entry, "SUBSCRIPTION"));
        let labels = labels.filter_map(|entry| statements(&entry.definition));
        labels.flatten().filter_map(|statement| statement.name_after("SECURITY LABEL FOR")).collect()
    }
}

fn names(entry: &DumpEntry, begin: &str, keyword: &str) -> Vec<String> {
    let found = statements(&entry.definition).unwrap_or_default();
    found.into_iter().filter(|statement| statement.begins(begin)).flat_map(|s| s.names_after(keyword)).collect()
}

/// Whether an entry is a comment or label on an object of this kind.
fn is_attached_to(entry: &DumpEntry, kind: &str) -> bool {
    COMMENT_OR_LABEL.contains(&entry.kind.as_str())
        && entry.name.strip_prefix(kind).is_some_and(|name| name.starts_with(' '))
}

fn is_of_event_trigger(entry: &DumpEntry) -> bool {
    entry.kind == "EVENT TRIGGER" || is_attached_to(entry, "EVENT TRIGGER")
}

/// Whether only a superuser may create the entry. The owner of the tables may create a publication of single tables.
fn needs_superuser(entry: &DumpEntry) -> bool {
    match entry.kind.as_str() {
        "COMMENT" | LABEL | "PUBLICATION TABLE" => false,
        "PUBLICATION" => statements(&entry.definition).is_none_or(|all| all.iter().any(|s| s.has("FOR ALL TABLES"))),
        _ => true,
    }
}

/// A list of names for messages.
fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(|name| format!("`{}`", printable(name))).collect::<Vec<_>>().join(", ")
}

impl Server {
    /// Plans the restore of a dump to this server, without changing anything.
    ///
    /// # Errors
    /// Class `Config` if the server lacks something that the dump needs, with a hint; see also
    /// [`crate::OpenDatabase::open`].
    pub async fn plan(&self, contents: &Contents) -> Result<RestorePlan> {
        let place = self.describe();
        let roles = contents.roles();
        let missing = self.missing(ROLES, roles.iter().map(String::as_str).collect()).await?;
        if let Some(first) = missing.first() {
            let hint = format!(
                "create each of them, as in CREATE ROLE {} NOLOGIN, or restore to a server that has them",
                super::quoted(first)
            );
            let missing = listed(missing.iter().map(String::as_str));
            return Err(Error::config(format!(
                "policies or user mappings of the dump name the roles {missing}, which do not exist on {place}"
            ))
            .hint(hint));
        }
        // An event trigger that already exists would fire while materialized views are filled.
        let event_triggers: Vec<&DumpEntry> =
            contents.superuser_entries().filter(|entry| is_of_event_trigger(entry)).collect();
        let mut plan = self.plan_with(contents, event_triggers.iter().map(|entry| entry.id).collect()).await?;
        let made = event_triggers.iter().filter(|entry| !(plan.without_labels && entry.kind == LABEL));
        let made = made.filter_map(|entry| statements(&entry.definition)).flatten();
        plan.afterwards = made.map(|statement| statement.text()).collect();
        plan.notes.extend(self.superuser_note(contents).await?);
        Ok(plan)
    }

    /// Like [`Server::plan`], but pg_restore leaves out some entries, which the caller creates.
    ///
    /// # Errors
    /// As [`Server::plan`].
    pub(crate) async fn plan_with(&self, contents: &Contents, left_out: BTreeSet<i64>) -> Result<RestorePlan> {
        let place = self.describe();
        let missing = self.missing(EXTENSIONS, contents.extensions()).await?;
        if !missing.is_empty() {
            let missing = listed(missing.iter().map(String::as_str));
            return Err(Error::config(format!("the dump needs the extensions {missing}, which {place} does not have"))
                .hint("install their packages on that server, or restore to a server that has them"));
        }
        let mut plan =
            RestorePlan { properties: Properties::from_contents(contents), left_out, ..RestorePlan::default() };
        let missing = self.missing(TABLESPACES, contents.tablespaces.iter().map(String::as_str).collect()).await?;
        if !missing.is_empty() {
            plan.without_tablespaces = true;
            let missing = listed(missing.iter().map(String::as_str));
            plan.notes.push(format!(
                "everything goes to the default tablespace, because {missing} cannot be used or does not exist"
            ));
        }
        for provider in contents.label_providers() {
            if !self.has_label_provider(&provider).await? {
                plan.without_labels = true;
                plan.notes.push(format!(
                    "the security labels of objects in the database are not restored, because `{}` is not loaded",
                    printable(&provider)
                ));
            }
        }
        if contents.rights > 0 {
            plan.notes.push(
                "the owners and rights of objects in the database are not restored: they follow the target's settings"
                    .to_owned(),
            );
        }
        let subscriptions = contents.of_kind("SUBSCRIPTION").count();
        if subscriptions > 0 {
            // pg_restore skips the subscriptions, but older versions do not skip their comments and labels.
            let attached = contents.special.iter().filter(|entry| is_attached_to(entry, "SUBSCRIPTION"));
            plan.left_out.extend(attached.map(|entry| entry.id));
            plan.notes.push(format!(
                "{subscriptions} subscriptions are not created, so that the database does not replicate from production"
            ));
        }
        plan.notes.extend(self.check_properties(&mut plan.properties).await?);
        Ok(plan)
    }

    /// A note about objects that usually only a superuser may create, if this user is not one. It is not an error,
    /// because cloud providers allow their administrators to create some of them.
    async fn superuser_note(&self, contents: &Contents) -> Result<Option<String>> {
        if self.is_superuser {
            return Ok(None);
        }
        let untrusted = self.rows(UNTRUSTED, contents.extensions()).await?;
        let extensions = untrusted.iter().map(|name| format!("the extension `{}`", printable(name)));
        let entries = contents.superuser_entries().filter(|entry| needs_superuser(entry));
        let entries = entries.map(|entry| format!("the {} `{}`", entry.kind.to_lowercase(), printable(&entry.name)));
        let restricted: Vec<String> = extensions.chain(entries).collect();
        Ok(restricted.first().map(|first| {
            let others = match restricted.len() - 1 {
                0 => String::new(),
                count => format!(" and {count} more"),
            };
            format!(
                "usually only a superuser may create {first}{others}, but {} is not one: if the restore fails, set \
                 `restore_credentials` to those of a superuser",
                self.describe()
            )
        }))
    }

    /// The names that a statement does not find.
    async fn missing(&self, sql: &str, names: Vec<&str>) -> Result<Vec<String>> {
        let found = self.rows(sql, names.clone()).await?;
        Ok(names.into_iter().filter(|name| !found.iter().any(|found| found == name)).map(str::to_owned).collect())
    }

    async fn rows(&self, sql: &str, names: Vec<&str>) -> Result<Vec<String>> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let rows = self.connection.query(sql, &[(&names, Type::TEXT_ARRAY)]).await?;
        rows.iter().map(|row| self.connection.read(row, 0)).collect()
    }

    /// Whether the server has loaded the library of a label provider. No catalog lists them, so this tries to use it.
    pub(super) async fn has_label_provider(&self, provider: &str) -> Result<bool> {
        let statement =
            format!("SECURITY LABEL FOR {} ON ROLE {} IS NULL", super::quoted(provider), super::quoted(&self.user));
        self.connection.execute("BEGIN").await.map_err(|refused| refused.error)?;
        let tried = self.connection.execute_one(&statement).await;
        self.connection.execute("ROLLBACK").await.map_err(|refused| refused.error)?;
        Ok(!tried.is_err_and(|refused| refused.state == Some(SqlState::INVALID_PARAMETER_VALUE)))
    }
}

const EXTENSIONS: &str = "SELECT name::text FROM pg_available_extensions WHERE name = ANY ($1)";

const ROLES: &str = "SELECT rolname::text FROM pg_roles WHERE rolname = ANY ($1)";

const TABLESPACES: &str =
    "SELECT spcname::text FROM pg_tablespace WHERE spcname = ANY ($1) AND has_tablespace_privilege(oid, 'CREATE')";

/// Extensions whose default version only a superuser may create. Trusted extensions need only CREATE on the database.
const UNTRUSTED: &str = "SELECT e.name::text FROM pg_available_extensions AS e JOIN pg_available_extension_versions AS v \
     ON v.name = e.name AND v.version = e.default_version WHERE e.name = ANY ($1) AND v.superuser AND NOT v.trusted";
