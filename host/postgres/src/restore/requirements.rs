//! What a dump needs of the server that it is restored to, besides its version: extensions, roles, tablespaces, and a superuser for what
//! only one may make. It is looked at before anything is made, so that a restore that cannot end does not begin.

use super::{Server, properties::Properties};
use crate::archive::{Contents, Entry};
use crate::statements::statements;
use base::error::{Error, Result};
use base::text::printable;
use std::collections::BTreeSet;
use tokio_postgres::types::Type;

/// Kinds of entry that a superuser makes, at least some of them.
pub(crate) const OF_SUPERUSERS: [&str; 5] =
    ["EVENT TRIGGER", "PUBLICATION", "PUBLICATION TABLE", "PUBLICATION TABLES IN SCHEMA", "FOREIGN DATA WRAPPER"];

/// Kinds of entry that are said of another one, whose kind their name begins with.
const COMMENT_OR_LABEL: [&str; 2] = ["COMMENT", LABEL];

const LABEL: &str = "SECURITY LABEL";

/// How a dump is restored to one server.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    pub(super) properties: Properties,
    /// Entries that are not restored, or by somebody else.
    pub(super) left_out: BTreeSet<i64>,
    pub(super) without_tablespaces: bool,
    pub(super) without_labels: bool,
    /// Statements that are run when everything else is there.
    pub(super) afterwards: Vec<String>,
    /// What will not be as it was, a sentence each.
    pub notes: Vec<String>,
}

impl Contents {
    /// The names of the extensions.
    pub(crate) fn extensions(&self) -> Vec<&str> {
        self.of_kind("EXTENSION").map(|entry| entry.name.as_str()).collect()
    }

    /// The roles that have to be there although nobody gets rights: those that policies and user mappings name.
    pub(crate) fn roles(&self) -> BTreeSet<String> {
        let of_policies = self.of_kind("POLICY").flat_map(|entry| names(entry, "CREATE POLICY", "TO"));
        let of_mappings = self.of_kind("USER MAPPING").flat_map(|entry| names(entry, "CREATE USER MAPPING", "FOR"));
        of_policies.chain(of_mappings).filter(|role| role != "public" && !role.contains('\u{fffd}')).collect()
    }

    /// Those of [`OF_SUPERUSERS`], and what is said of them.
    pub(crate) fn of_superusers(&self) -> impl Iterator<Item = &Entry> {
        let is = |entry: &&Entry| OF_SUPERUSERS.iter().any(|kind| entry.kind == *kind || is_said_of(entry, kind));
        self.special.iter().filter(is)
    }

    /// Providers of security labels.
    fn label_providers(&self) -> BTreeSet<String> {
        // Subscriptions are not made, whatever is said of them.
        let labels = self.of_kind(LABEL).filter(|entry| !is_said_of(entry, "SUBSCRIPTION"));
        let labels = labels.filter_map(|entry| statements(&entry.definition));
        labels.flatten().filter_map(|statement| statement.name_after("SECURITY LABEL FOR")).collect()
    }
}

fn names(entry: &Entry, begin: &str, keyword: &str) -> Vec<String> {
    let found = statements(&entry.definition).unwrap_or_default();
    found.into_iter().filter(|statement| statement.begins(begin)).flat_map(|s| s.names_after(keyword)).collect()
}

/// Whether it is a comment or a label on something of a kind.
fn is_said_of(entry: &Entry, kind: &str) -> bool {
    COMMENT_OR_LABEL.contains(&entry.kind.as_str())
        && entry.name.strip_prefix(kind).is_some_and(|name| name.starts_with(' '))
}

fn is_of_event_trigger(entry: &Entry) -> bool {
    entry.kind == "EVENT TRIGGER" || is_said_of(entry, "EVENT TRIGGER")
}

/// Whether nobody but a superuser may make it. A publication of single tables may be made by who owns them.
fn needs_superuser(entry: &Entry) -> bool {
    match entry.kind.as_str() {
        "COMMENT" | LABEL | "PUBLICATION TABLE" => false,
        "PUBLICATION" => statements(&entry.definition).is_none_or(|all| all.iter().any(|s| s.has("FOR ALL TABLES"))),
        _ => true,
    }
}

/// Names for people.
fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(|name| format!("`{}`", printable(name))).collect::<Vec<_>>().join(", ")
}

impl Server {
    /// How a dump is restored here, and what will not be as it was. Nothing is made.
    ///
    /// # Errors
    /// Class `Config` for what the server lacks, in one sentence with what to do; see also [`crate::Session::open`].
    pub async fn plan(&self, contents: &Contents) -> Result<Plan> {
        let place = self.describe();
        let roles = contents.roles();
        let missing = self.missing(ROLES, roles.iter().map(String::as_str).collect()).await?;
        if let Some(first) = missing.first() {
            let hint = format!(
                "make each with CREATE ROLE {} NOLOGIN, or restore to a server that has them",
                super::quoted(first)
            );
            let missing = listed(missing.iter().map(String::as_str));
            return Err(Error::config(format!(
                "policies or user mappings of the dump name the roles {missing}, which {place} has not"
            ))
            .hint(hint));
        }
        // One that is there already would fire while views are filled.
        let event_triggers: Vec<&Entry> = contents.of_superusers().filter(|entry| is_of_event_trigger(entry)).collect();
        let mut plan = self.plan_with(contents, event_triggers.iter().map(|entry| entry.id).collect()).await?;
        let made = event_triggers.iter().filter(|entry| !(plan.without_labels && entry.kind == LABEL));
        let made = made.filter_map(|entry| statements(&entry.definition)).flatten();
        plan.afterwards = made.map(|statement| statement.text()).collect();
        plan.notes.extend(self.beyond_rights(contents).await?);
        Ok(plan)
    }

    /// As [`Server::plan`], where somebody else makes some of the entries.
    ///
    /// # Errors
    /// As [`Server::plan`].
    pub(crate) async fn plan_with(&self, contents: &Contents, left_out: BTreeSet<i64>) -> Result<Plan> {
        let place = self.describe();
        let missing = self.missing(EXTENSIONS, contents.extensions()).await?;
        if !missing.is_empty() {
            let missing = listed(missing.iter().map(String::as_str));
            return Err(Error::config(format!("the dump needs the extensions {missing}, which {place} has not"))
                .hint("install the packages that they are in on that server, or restore to one that has them"));
        }
        let mut plan = Plan { properties: Properties::of(contents), left_out, ..Plan::default() };
        let missing = self.missing(TABLESPACES, contents.tablespaces.iter().map(String::as_str).collect()).await?;
        if !missing.is_empty() {
            plan.without_tablespaces = true;
            let missing = listed(missing.iter().map(String::as_str));
            plan.notes.push(format!(
                "everything goes to the default tablespace, because {missing} is not there or not to be used"
            ));
        }
        for provider in contents.label_providers() {
            if !self.has_label_provider(&provider).await? {
                plan.without_labels = true;
                plan.notes.push(format!(
                    "no security label of what is in it is set, because `{}` is not loaded",
                    printable(&provider)
                ));
            }
        }
        if contents.rights > 0 {
            plan.notes.push(
                "owners and rights of what is in it are the target's: those of the dump are not given".to_owned(),
            );
        }
        let subscriptions = contents.of_kind("SUBSCRIPTION").count();
        if subscriptions > 0 {
            // pg_restore passes over the subscriptions, and older versions of it not over what is said of them.
            let said = contents.special.iter().filter(|entry| is_said_of(entry, "SUBSCRIPTION"));
            plan.left_out.extend(said.map(|entry| entry.id));
            plan.notes
                .push(format!("{subscriptions} subscriptions are not made, so that nothing is drawn from production"));
        }
        plan.notes.extend(self.check_properties(&mut plan.properties).await?);
        Ok(plan)
    }

    /// What as a rule only a superuser may make, where this user is none. It is a note and no refusal: servers of a cloud let their
    /// administrators make some of it.
    async fn beyond_rights(&self, contents: &Contents) -> Result<Option<String>> {
        if self.is_superuser {
            return Ok(None);
        }
        let untrusted = self.rows(UNTRUSTED, contents.extensions()).await?;
        let extensions = untrusted.iter().map(|name| format!("the extension `{}`", printable(name)));
        let entries = contents.of_superusers().filter(|entry| needs_superuser(entry));
        let entries = entries.map(|entry| format!("the {} `{}`", entry.kind.to_lowercase(), printable(&entry.name)));
        let of_superusers: Vec<String> = extensions.chain(entries).collect();
        Ok(of_superusers.first().map(|first| {
            let others = match of_superusers.len() - 1 {
                0 => String::new(),
                count => format!(" and {count} more"),
            };
            format!(
                "as a rule only a superuser may make {first}{others}, which {} is not: give `restore_credentials` of one if it fails",
                self.describe()
            )
        }))
    }

    /// Those of some names that a statement does not find.
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

    /// A provider is named by a library that the server has loaded; nothing lists them.
    pub(super) async fn has_label_provider(&self, provider: &str) -> Result<bool> {
        let statement =
            format!("SECURITY LABEL FOR {} ON ROLE {} IS NULL", super::quoted(provider), super::quoted(&self.user));
        self.connection.execute("BEGIN").await.map_err(|refused| refused.error)?;
        let tried = self.connection.execute_one(&statement).await;
        self.connection.execute("ROLLBACK").await.map_err(|refused| refused.error)?;
        Ok(!tried.is_err_and(|refused| refused.state == "22023"))
    }
}

const EXTENSIONS: &str = "SELECT name::text FROM pg_available_extensions WHERE name = ANY ($1)";

const ROLES: &str = "SELECT rolname::text FROM pg_roles WHERE rolname = ANY ($1)";

const TABLESPACES: &str =
    "SELECT spcname::text FROM pg_tablespace WHERE spcname = ANY ($1) AND has_tablespace_privilege(oid, 'CREATE')";

/// By the version that is installed by default. Those that are trusted may be made by whoever may create in the database.
const UNTRUSTED: &str = "SELECT e.name::text FROM pg_available_extensions AS e JOIN pg_available_extension_versions AS v \
     ON v.name = e.name AND v.version = e.default_version WHERE e.name = ANY ($1) AND v.superuser AND NOT v.trusted";
