//! The settings, with what is volatile in Dolibarr as their defaults.
//!
//! Volatile is what a login, a scheduler's tick or a statistics cache changes on a day without business. The lists
//! are short on purpose: a volatile entry too many hides a change, one too few costs a dump.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// JSON Schema of [`Settings`]; a test holds the two together.
pub const SCHEMA: &str = include_str!("../settings.schema.json");

/// What Dolibarr makes and can make again, at the places where it does, for the main company and for those in numbered folders: logs beside
/// the modules' folders, work folders of modules and users, previews of pages, its archives of the documents, which would hold one another,
/// and its database dumps. A person may name a file `server.log` or a folder `temp`, in the file managers (`ecm`, `medias`): those
/// are saved.
///
/// The dump plugin has the same list: the host trusts a fingerprint only as far as the archive follows it.
pub const EXCLUDE: [&str; 21] = [
    "/*.log",
    "/[0-9]*/*.log",
    "/[!em]*/temp/",
    "/e[!c]*/temp/",
    "/m[!e]*/temp/",
    "/ec[!m]*/temp/",
    "/me[!d]*/temp/",
    "/[0-9]*/[!em]*/temp/",
    "/[0-9]*/e[!c]*/temp/",
    "/[0-9]*/m[!e]*/temp/",
    "/[0-9]*/ec[!m]*/temp/",
    "/[0-9]*/me[!d]*/temp/",
    "/expedition/*/temp/",
    "/reception/*/temp/",
    "/users/*/temp/",
    "/[0-9]*/users/*/temp/",
    "*.pdf_preview-*.png",
    "admin/documents",
    "admin/backup",
    "[0-9]*/admin/documents",
    "[0-9]*/admin/backup",
];

/// Log of logins, states and tokens of single sign-on (renewed by the scheduler, and of no use after a restore), and
/// PHP sessions where they are kept in the database.
const VOLATILE_TABLES: [&str; 4] = ["events", "oauth_state", "oauth_token", "session"];

/// The columns that a login, a tick or a counter writes. `tms` goes with them, because a trigger moves it at every
/// update; a real change of such a row shows in its other columns.
const VOLATILE_COLUMNS: [(&str, &[&str]); 7] = [
    (
        "cronjob",
        &[
            "datelastresult",
            "datelastrun",
            "datenextrun",
            "lastoutput",
            "lastresult",
            "nbrun",
            "pid",
            "processing",
            "tms",
        ],
    ),
    ("ecm_directories", &["cachenbofdoc", "tms"]),
    ("emailcollector_emailcollector", &["codelastresult", "datelastok", "datelastresult", "lastresult", "tms"]),
    ("partnership", &["count_last_url_check_error", "last_check_backlink", "tms"]),
    ("societe_account", &["date_last_login", "date_previous_login", "tms"]),
    ("user", &["datelastlogin", "datepreviouslogin", "iplastlogin", "ippreviouslogin", "tms"]),
    ("website", &["lastaccess", "lastpageid", "pageviews_month", "pageviews_previous_month", "pageviews_total", "tms"]),
];

/// When the instance last reported itself. All other constants count: they hold the company's identity, numbering
/// and keys.
const VOLATILE_CONSTANTS: [&str; 2] = ["MAIN_FIRST_PING*", "MAIN_LAST_PING*"];

/// Events that say no more than that something automatic happened. Not volatile: `AC_BILL_VALIDATE` and the like,
/// which come with a real change anyway and prove when it was, and all that is merely of the automatic type, since
/// the messages of a ticket are such events (code `TICKET_MSG`) and are stored nowhere else.
const VOLATILE_EVENTS: [&str; 3] = ["AC_OTH_AUTO", "AC_USER_LOGIN*", "AC_USER_LOGOUT*"];

/// The `settings` of `[plugins.fingerprint]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How a database is looked at.
    pub database: DatabaseMethod,
    /// How a folder is looked at.
    pub documents: TreeMethod,
    /// What the application's tables begin with.
    pub prefix: String,
    /// The column of [`DatabaseMethod::Tms`].
    pub timestamp_column: String,
    /// Tables, without the prefix, that never count.
    pub volatile_tables: Vec<String>,
    /// Columns that never count, by table without the prefix.
    pub volatile_columns: BTreeMap<String, Vec<String>>,
    /// Names of constants that never count.
    pub volatile_constants: Vec<String>,
    /// Codes of events that never count.
    pub volatile_events: Vec<String>,
    /// Globs of documents that do not count.
    pub exclude: Vec<String>,
}

/// How a database is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DatabaseMethod {
    /// Exact: a hash of every durable row.
    Content,
    /// Row count and newest timestamp. It misses what no timestamp tells: tables without the column, tables whose
    /// trigger does not move it, old values written back, transactions that commit late.
    Tms,
}

/// How a folder is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TreeMethod {
    /// Names, sizes, owners, modes and times.
    Metadata,
    /// The bytes of every file.
    Content,
}

impl Default for Settings {
    fn default() -> Self {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        Self {
            database: DatabaseMethod::Content,
            documents: TreeMethod::Metadata,
            prefix: "llx_".into(),
            timestamp_column: "tms".into(),
            volatile_tables: owned(&VOLATILE_TABLES),
            volatile_columns: VOLATILE_COLUMNS.iter().map(|&(table, names)| (table.into(), owned(names))).collect(),
            volatile_constants: owned(&VOLATILE_CONSTANTS),
            volatile_events: owned(&VOLATILE_EVENTS),
            exclude: owned(&EXCLUDE),
        }
    }
}

impl Settings {
    /// Reads the JSON text that the host passes; no text at all means the defaults.
    ///
    /// # Errors
    ///
    /// One lowercase sentence for the operator.
    pub fn parse(json: &str) -> Result<Self, String> {
        let json = if json.trim().is_empty() { "{}" } else { json };
        let settings: Self =
            serde_json::from_str(json).map_err(|error| format!("fingerprint settings: {}", without_place(&error)))?;
        match settings.objection() {
            Some(objection) => Err(format!("fingerprint settings: {objection}")),
            None => Ok(settings),
        }
    }

    fn objection(&self) -> Option<String> {
        if self.timestamp_column.is_empty() {
            return Some("`timestamp_column` is empty".into());
        }
        let lists = [
            ("volatile_tables", &self.volatile_tables),
            ("volatile_constants", &self.volatile_constants),
            ("volatile_events", &self.volatile_events),
            ("exclude", &self.exclude),
        ];
        let lists = lists.into_iter().chain(self.volatile_columns.values().map(|names| ("volatile_columns", names)));
        for (list, entries) in lists {
            if entries.iter().any(|entry| entry.trim().is_empty()) {
                return Some(format!("`{list}` has an empty entry"));
            }
        }
        if self.volatile_constants.iter().chain(&self.volatile_events).any(|entry| entry.trim() == "*") {
            return Some("`*` alone would leave out every row; name the table in `volatile_tables` instead".into());
        }
        // The table may be named with its prefix out of habit, and would then silently count.
        let doubled = |name: &&String| !self.prefix.is_empty() && name.starts_with(&self.prefix);
        if let Some(name) = self.volatile_tables.iter().chain(self.volatile_columns.keys()).find(doubled) {
            return Some(format!("table `{name}` is to be named without the prefix `{}`", self.prefix));
        }
        let negated = self.exclude.iter().find(|glob| glob.starts_with(['!', '#']))?;
        Some(format!("`exclude` has `{negated}`: a glob that begins with ! or # excludes nothing"))
    }
}

/// The error without its line and column: they are places in the host's JSON, which nobody wrote.
fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" at line ").map_or(text.clone(), |(what, _)| what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn the_schema_names_exactly_the_settings_and_their_defaults() {
        let schema: Value = serde_json::from_str(SCHEMA).unwrap();
        let documented: serde_json::Map<_, _> = schema["properties"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, property)| (name.clone(), property["default"].clone()))
            .collect();
        assert_eq!(Value::Object(documented), serde_json::to_value(Settings::default()).unwrap());
        assert_eq!(schema["additionalProperties"], json!(false));
    }

    #[test]
    fn no_settings_are_the_defaults_and_the_defaults_are_valid() {
        for json in ["", " ", "{}"] {
            assert_eq!(Settings::parse(json), Ok(Settings::default()), "{json:?}");
        }
        let defaults = serde_json::to_string(&Settings::default()).unwrap();
        assert_eq!(Settings::parse(&defaults), Ok(Settings::default()));
    }

    #[test]
    fn a_list_in_the_settings_replaces_the_default() {
        let settings = Settings::parse(r#"{"volatile_tables": [], "volatile_columns": {"user": ["tms"]}}"#).unwrap();
        assert!(settings.volatile_tables.is_empty());
        assert_eq!(settings.volatile_columns.len(), 1);
        assert_eq!(settings.volatile_constants, Settings::default().volatile_constants);
    }

    #[test]
    fn bad_settings_get_one_sentence_that_names_what_is_wrong() {
        for (json, part) in [
            (r#"{"databse": "tms"}"#, "unknown field `databse`, expected one of `database`, `documents`, `prefix`"),
            (r#"{"database": "count"}"#, "unknown variant `count`, expected `content` or `tms`"),
            (r#"{"documents": 1}"#, "fingerprint settings"),
            (r#"{"timestamp_column": ""}"#, "`timestamp_column` is empty"),
            (r#"{"exclude": ["*.log", ""]}"#, "`exclude` has an empty entry"),
            (r#"{"exclude": ["!keep.log"]}"#, "`!keep.log`"),
            (r#"{"volatile_columns": {"user": [""]}}"#, "`volatile_columns` has an empty entry"),
            (r#"{"volatile_constants": ["*"]}"#, "`*` alone"),
            (r#"{"volatile_tables": ["llx_events"]}"#, "`llx_events` is to be named without the prefix `llx_`"),
            ("null", "fingerprint settings"),
        ] {
            let sentence = Settings::parse(json).unwrap_err();
            assert!(sentence.contains(part) && !sentence.contains('\n'), "{json}: {sentence}");
            assert!(!sentence.contains(" line "), "{json}: {sentence}");
        }
    }
}
