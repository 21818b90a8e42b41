//! The properties of the database itself, apart from its content: encoding, locale provider and locale, settings,
//! connection limit, and who may connect. pg_restore does not restore them into an existing database.

use super::{Server, literal, quoted};
use crate::archive::Contents;
use crate::statements::{Statement, statements};
use base::error::Result;
use base::text::printable;
use std::collections::BTreeSet;
use tokio_postgres::types::Type;

/// The option of `CREATE DATABASE` for the encoding.
const ENCODING: &str = "ENCODING";
/// Options of the ICU provider (since PostgreSQL 15) and the builtin provider (since 17). They do not need a locale of
/// the operating system.
const PROVIDER_OPTIONS: [&str; 4] = ["LOCALE_PROVIDER", "ICU_LOCALE", "ICU_RULES", "BUILTIN_LOCALE"];
/// Options that need a locale of the operating system.
const SYSTEM_OPTIONS: [&str; 3] = ["LOCALE", "LC_COLLATE", "LC_CTYPE"];

/// Locales that every system has.
const EVERYWHERE: [&str; 4] = ["C", "POSIX", "C.UTF-8", "C.utf8"];

/// Statements that set a property: how they begin, and the keywords before the database's name in them.
const SETTING: [(&str, &str); 6] = [
    ("COMMENT ON DATABASE", "COMMENT ON DATABASE"),
    ("SECURITY LABEL", "ON DATABASE"),
    ("ALTER DATABASE", "ALTER DATABASE"),
    ("ALTER ROLE", "IN DATABASE"),
    ("GRANT", "ON DATABASE"),
    ("REVOKE", "ON DATABASE"),
];

/// The properties of the dumped database.
#[derive(Debug, Clone, Default)]
pub(super) struct Properties {
    creation: Option<Statement>,
    settings: Vec<Setting>,
    /// The descriptions of the settings that this server refuses.
    refused: BTreeSet<String>,
}

/// One statement that sets a property of the database.
#[derive(Debug, Clone)]
struct Setting {
    statement: Statement,
    /// The keywords before the database's name.
    before_name: &'static str,
}

impl Properties {
    /// Reads the properties from the table of contents of a dump.
    pub(super) fn from_contents(contents: &Contents) -> Self {
        let creation =
            contents.creation().and_then(|text| statements(text)?.into_iter().find(|s| s.begins("CREATE DATABASE")));
        let entries = contents.special.iter().filter(|entry| {
            entry.kind == "DATABASE PROPERTIES"
                || (["ACL", "COMMENT", "SECURITY LABEL"].contains(&entry.kind.as_str())
                    && entry.name.starts_with("DATABASE "))
        });
        let found = entries.filter_map(|entry| statements(&entry.definition)).flatten();
        let settings = found.filter_map(|statement| {
            // A template database could not be dropped or replaced.
            if statement.has("IS_TEMPLATE") {
                return None;
            }
            let (_, before_name) = SETTING.iter().find(|(begin, _)| statement.begins(begin))?;
            Some(Setting { statement, before_name })
        });
        Self { creation, settings: settings.collect(), refused: BTreeSet::new() }
    }

    /// Candidates for the options of `CREATE DATABASE`, the most complete first. If the server does not have the
    /// locale, the next candidate is tried.
    pub(super) fn options(&self) -> Vec<String> {
        let option = |key: &&str| {
            let (value, is_text) = self.creation.as_ref()?.option(key)?;
            if *key == "LOCALE_PROVIDER" && value == "libc" {
                // This is the default everywhere, and servers before 15 do not know the option.
                return None;
            }
            Some(if is_text { format!(" {key} {}", literal(&value)) } else { format!(" {key} {}", quoted(&value)) })
        };
        let join = |keys: &[&str]| keys.iter().filter_map(option).collect::<String>();
        let encoding = join(&[ENCODING]);
        let encoding = if encoding.is_empty() { format!(" {ENCODING} 'UTF8'") } else { encoding };
        let (provider, system) = (join(&PROVIDER_OPTIONS), join(&SYSTEM_OPTIONS));
        let mut options = vec![format!("{encoding}{provider}{system}"), format!("{encoding}{provider}"), encoding];
        options.dedup();
        options
    }

    /// The locale for messages.
    pub(super) fn locale(&self) -> Option<String> {
        let creation = self.creation.as_ref()?;
        let keys = PROVIDER_OPTIONS.iter().chain(&SYSTEM_OPTIONS);
        let parts: Vec<String> = keys.filter_map(|key| Some(format!("{key} {}", creation.option(key)?.0))).collect();
        (!parts.is_empty()).then(|| printable(&parts.join(", ")))
    }

    fn system_locales(&self) -> BTreeSet<String> {
        let creation = self.creation.as_ref();
        let named = SYSTEM_OPTIONS.iter().filter_map(|key| Some(creation?.option(key)?.0));
        named.filter(|locale| !EVERYWHERE.contains(&locale.as_str())).collect()
    }
}

impl Setting {
    /// The statement for a database of another name.
    fn statement_for(&self, database: &str) -> String {
        self.statement.with_name_after(self.before_name, &quoted(database)).unwrap_or_default()
    }

    /// The statement for messages, without the database's name, so that a person who pastes it has to fill in the right
    /// one.
    fn describe(&self) -> String {
        printable(&self.statement.with_name_after(self.before_name, "…").unwrap_or_default())
    }

    /// The roles that the statement names.
    fn roles(&self) -> Vec<String> {
        let to = if self.statement.begins("REVOKE") { "FROM" } else { "TO" };
        let mut roles = match self.before_name {
            "ALTER DATABASE" => Vec::new(),
            "IN DATABASE" => self.statement.name_after("ALTER ROLE").into_iter().collect(),
            _ => self.statement.names_after(to),
        };
        roles.retain(|role| role != "public");
        roles
    }

    /// The parameter and the statement that sets it for one transaction, if the statement sets a parameter.
    fn as_local(&self) -> Option<(String, String)> {
        let name = self.statement.name_after(match self.before_name {
            "ALTER DATABASE" => "SET",
            _ => return None,
        })?;
        let text = self.statement.text();
        let at = text.find(" SET ")?;
        Some((name, format!("SET LOCAL {}", text.get(at + " SET ".len()..)?)))
    }
}

impl Server {
    /// Checks which properties this server would not accept, without changing anything. Returns one sentence for each.
    ///
    /// # Errors
    /// As [`crate::OpenDatabase::open`].
    pub(super) async fn check_properties(&self, properties: &mut Properties) -> Result<Vec<String>> {
        let mut lost = Vec::new();
        for locale in properties.system_locales() {
            let known: bool = self.ask(HAS_LOCALE, &locale).await?;
            if !known {
                let locale = printable(&locale);
                lost.push(format!(
                    "the server does not seem to have the locale `{locale}`; without it, the server's own is used"
                ));
            }
        }
        for setting in &properties.settings {
            if let Some(reason) = self.refusal_reason(setting).await? {
                lost.push(format!("not applied: {} ({reason})", setting.describe()));
                properties.refused.insert(setting.describe());
            }
        }
        Ok(lost)
    }

    /// Why a setting cannot be applied, as far as this can be found out without changing anything.
    async fn refusal_reason(&self, setting: &Setting) -> Result<Option<String>> {
        for role in setting.roles() {
            if !self.ask::<bool>(HAS_ROLE, &role).await? {
                return Ok(Some(format!("the role `{}` does not exist", printable(&role))));
            }
        }
        if setting.statement.text().contains('\u{fffd}') {
            return Ok(Some("it is not valid UTF-8".to_owned()));
        }
        if let Some(provider) = setting.statement.name_after("SECURITY LABEL FOR")
            && !self.has_label_provider(&provider).await?
        {
            return Ok(Some(format!("`{}` is not loaded", printable(&provider))));
        }
        let Some((name, local)) = setting.as_local() else { return Ok(None) };
        let context: Option<String> = self.ask(CONTEXT, &name).await?;
        if !matches!(context.as_deref(), None | Some("user" | "superuser")) {
            return Ok(None);
        }
        self.connection.execute("BEGIN").await.map_err(|refused| refused.error)?;
        let tried = self.connection.execute_one(&local).await;
        self.connection.execute("ROLLBACK").await.map_err(|refused| refused.error)?;
        Ok(tried.err().map(|refused| printable(refused.error.message())))
    }

    /// Applies the settings. Returns one sentence for each that could not be applied.
    pub(super) async fn apply(&self, database: &str, properties: &Properties) -> Vec<String> {
        let mut lost = Vec::new();
        for setting in properties.settings.iter().filter(|setting| !properties.refused.contains(&setting.describe())) {
            if let Err(refused) = self.connection.execute_one(&setting.statement_for(database)).await {
                lost.push(format!("not applied: {} ({})", setting.describe(), printable(refused.error.message())));
            }
        }
        lost
    }

    async fn ask<T: tokio_postgres::types::FromSqlOwned>(&self, sql: &str, parameter: &str) -> Result<T> {
        let row = self.connection.query_one(sql, &[(&parameter, Type::TEXT)]).await?;
        self.connection.read(&row, 0)
    }
}

/// Looks for a collation that the server created from the system's locale. The hyphen in encoding names is optional.
const HAS_LOCALE: &str = "SELECT EXISTS (SELECT FROM pg_collation \
     WHERE lower(replace(collcollate, '-', '')) = lower(replace($1, '-', '')) OR lower(replace(collctype, '-', '')) = lower(replace($1, '-', '')))";

const HAS_ROLE: &str = "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)";

const CONTEXT: &str = "SELECT (SELECT context FROM pg_settings WHERE lower(name) = lower($1))";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::DumpEntry;

    fn contents(creation: &str, properties: &str, rights: &str) -> Contents {
        let entry = |kind: &str, name: &str, definition: &str| DumpEntry {
            kind: kind.to_owned(),
            name: name.to_owned(),
            definition: definition.to_owned(),
            ..DumpEntry::default()
        };
        let special = vec![
            entry("DATABASE", "erp", creation),
            entry("DATABASE PROPERTIES", "erp", properties),
            entry("ACL", "DATABASE erp", rights),
        ];
        Contents { special, ..Contents::default() }
    }

    #[test]
    fn the_system_locale_is_dropped_before_the_provider() {
        let icu = "CREATE DATABASE erp WITH TEMPLATE = template0 ENCODING = 'UTF8' LOCALE_PROVIDER = icu LOCALE = 'fr_FR.utf8' ICU_LOCALE = 'fr-FR';";
        let properties = Properties::from_contents(&contents(icu, "", ""));
        assert_eq!(
            properties.options(),
            [
                " ENCODING 'UTF8' LOCALE_PROVIDER \"icu\" ICU_LOCALE 'fr-FR' LOCALE 'fr_FR.utf8'",
                " ENCODING 'UTF8' LOCALE_PROVIDER \"icu\" ICU_LOCALE 'fr-FR'",
                " ENCODING 'UTF8'"
            ]
        );
        assert_eq!(properties.locale().unwrap(), "LOCALE_PROVIDER icu, ICU_LOCALE fr-FR, LOCALE fr_FR.utf8");
        let latin1 = "CREATE DATABASE e WITH TEMPLATE = template0 ENCODING = 'LATIN1';";
        let plain = Properties::from_contents(&contents(latin1, "", ""));
        assert_eq!(plain.options(), [" ENCODING 'LATIN1'"]);
        assert_eq!(Properties::default().options(), [" ENCODING 'UTF8'"]);
        let injection = "CREATE DATABASE e ENCODING = 'x''; DROP DATABASE y; --';";
        let injected = Properties::from_contents(&contents(injection, "", ""));
        assert_eq!(injected.options(), [" ENCODING 'x''; DROP DATABASE y; --'"]);
    }

    #[test]
    fn settings_are_applied_to_the_new_name_and_other_statements_are_ignored() {
        let properties = Properties::from_contents(&contents(
            "",
            "ALTER DATABASE erp SET search_path TO 'dolibarr', 'public';\nALTER DATABASE erp CONNECTION LIMIT = 50;\n\
             ALTER ROLE app IN DATABASE erp SET work_mem TO '8MB';\nDROP DATABASE other;\n",
            "REVOKE CONNECT,TEMPORARY ON DATABASE erp FROM PUBLIC;\nGRANT CONNECT ON DATABASE erp TO app;\n",
        ));
        let statements: Vec<String> =
            properties.settings.iter().map(|setting| setting.statement_for("n\"ew")).collect();
        assert_eq!(
            statements,
            [
                "ALTER DATABASE \"n\"\"ew\" SET search_path TO 'dolibarr', 'public'",
                "ALTER DATABASE \"n\"\"ew\" CONNECTION LIMIT = 50",
                "ALTER ROLE app IN DATABASE \"n\"\"ew\" SET work_mem TO '8MB'",
                "REVOKE CONNECT,TEMPORARY ON DATABASE \"n\"\"ew\" FROM PUBLIC",
                "GRANT CONNECT ON DATABASE \"n\"\"ew\" TO app",
            ]
        );
        let roles: Vec<Vec<String>> = properties.settings.iter().map(Setting::roles).collect();
        assert_eq!(roles, [vec![], vec![], vec!["app".to_owned()], vec![], vec!["app".to_owned()]]);
        let local = properties.settings.iter().filter_map(Setting::as_local).collect::<Vec<_>>();
        assert_eq!(local, [("search_path".to_owned(), "SET LOCAL search_path TO 'dolibarr', 'public'".to_owned())]);
    }
}
