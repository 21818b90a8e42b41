//! The settings. The defaults list what is volatile in Dolibarr.
//!
//! Data is volatile if a login, a run of the scheduler or a statistics cache changes it on a day without business. The
//! lists are short on purpose: one entry too many hides a change, one too few only costs a dump.

use kit::PluginSettings;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The log of logins, states and tokens of single sign-on (the scheduler renews them, and they are useless after a
/// restore), and PHP sessions if they are kept in the database.
const VOLATILE_TABLES: [&str; 4] = ["events", "oauth_state", "oauth_token", "session"];

/// The columns that a login, a run of the scheduler or a counter writes. `tms` is one of them, because a trigger sets
/// it at every update. A real change of such a row shows in its other columns.
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

/// When the instance last sent its usage report. All other constants count: they hold the company's identity, numbering
/// and keys.
const VOLATILE_CONSTANTS: [&str; 2] = ["MAIN_FIRST_PING*", "MAIN_LAST_PING*"];

/// Events that only record that something automatic happened. `AC_BILL_VALIDATE` and similar events are not volatile:
/// they accompany a real change and prove its time. Nor is every event of the automatic type: the messages of a ticket
/// are such events (code `TICKET_MSG`) and are stored nowhere else.
const VOLATILE_EVENTS: [&str; 3] = ["AC_OTH_AUTO", "AC_USER_LOGIN*", "AC_USER_LOGOUT*"];

/// The `settings` of `[plugins.fingerprint]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How a database is fingerprinted.
    pub database: DatabaseMethod,
    /// How a folder is fingerprinted.
    pub documents: TreeMethod,
    /// Prefix of the application's tables.
    pub prefix: String,
    /// The column that [`DatabaseMethod::Tms`] reads.
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

/// How a database is fingerprinted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DatabaseMethod {
    /// Exact: a hash of every durable row.
    Content,
    /// Row count and newest timestamp. It misses every change that no timestamp shows: tables without the column,
    /// tables whose trigger does not update it, old values written back, transactions that commit late.
    Tms,
}

/// How a folder is fingerprinted.
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
            exclude: owned(&kit::dolibarr::EXCLUDE),
        }
    }
}

impl PluginSettings for Settings {
    const PLUGIN: &'static str = "fingerprint";
    const SCHEMA: &'static str = include_str!("../settings.schema.json");

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
            return Some("`*` would leave out every row; list the table in `volatile_tables` instead".into());
        }
        // An administrator may write a table with its prefix out of habit. The table would then silently count.
        let has_prefix = |name: &&String| !self.prefix.is_empty() && name.starts_with(&self.prefix);
        if let Some(name) = self.volatile_tables.iter().chain(self.volatile_columns.keys()).find(has_prefix) {
            return Some(format!("write the table `{name}` without the prefix `{}`", self.prefix));
        }
        kit::dolibarr::objection_to_exclude(&self.exclude)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_has_exactly_the_settings_with_their_defaults() {
        kit::checks::settings_and_schema_agree::<Settings>(&[]);
    }

    #[test]
    fn a_list_in_the_settings_replaces_the_default() {
        let settings = Settings::parse(r#"{"volatile_tables": [], "volatile_columns": {"user": ["tms"]}}"#).unwrap();
        assert!(settings.volatile_tables.is_empty());
        assert_eq!(settings.volatile_columns.len(), 1);
        assert_eq!(settings.volatile_constants, Settings::default().volatile_constants);
    }

    #[test]
    fn invalid_settings_are_refused_with_one_sentence_that_names_the_setting() {
        kit::checks::refused::<Settings>(&[
            (r#"{"databse": "tms"}"#, "unknown field `databse`, expected one of `database`, `documents`, `prefix`"),
            (r#"{"database": "count"}"#, "unknown variant `count`, expected `content` or `tms`"),
            (r#"{"documents": 1}"#, "expected value"),
            (r#"{"prefix": 1}"#, "invalid type: integer `1`, expected a string"),
            (r#"{"timestamp_column": ""}"#, "`timestamp_column` is empty"),
            (r#"{"exclude": ["*.log", ""]}"#, "`exclude` has an empty entry"),
            (r#"{"exclude": ["!keep.log"]}"#, "`!keep.log`"),
            (r#"{"volatile_columns": {"user": [""]}}"#, "`volatile_columns` has an empty entry"),
            (r#"{"volatile_constants": ["*"]}"#, "`*` would leave out every row"),
            (r#"{"volatile_tables": ["llx_events"]}"#, "write the table `llx_events` without the prefix `llx_`"),
        ]);
    }
}
