//! The settings. The defaults list the documents that Dolibarr does not record in its database.

use kit::PluginSettings;
use serde::{Deserialize, Serialize};
use wildmatch::WildMatch;

/// Work folders, thumbnails and previews, logs, the installer's locks, and the templates and flags that it unpacks.
/// Dolibarr creates them without recording them.
const ORPHANS_IGNORED: [&str; 9] = [
    "temp/",
    "thumbs/",
    "doctemplates/",
    "flags/",
    "*.log",
    "*.meta",
    "*.pdf_preview-*.png",
    "install.lock",
    "upgrade.unlock",
];

/// Paths of each kind to list: one screen. The counts cover the rest.
const SHOWN: usize = 20;

/// The most paths of each kind that the host accepts.
const SHOWN_MAX: usize = 100;

/// The `settings` of `[plugins.crosscheck]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Prefix of the application's tables.
    pub prefix: String,
    /// For a document that the database names and that does not exist.
    pub missing: Meaning,
    /// For a document whose digest differs from the one in the database.
    pub altered: Meaning,
    /// For a document that the database does not name.
    pub orphaned: Meaning,
    /// Patterns of documents that never count as orphaned.
    pub orphans_ignored: Vec<String>,
    /// How many paths of each kind to list.
    pub shown: usize,
}

/// What a difference leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Meaning {
    /// The cross-check fails.
    Fail,
    /// The difference is only reported.
    Report,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            prefix: "llx_".into(),
            missing: Meaning::Fail,
            altered: Meaning::Fail,
            orphaned: Meaning::Report,
            orphans_ignored: ORPHANS_IGNORED.iter().map(|&pattern| pattern.to_owned()).collect(),
            shown: SHOWN,
        }
    }
}

impl PluginSettings for Settings {
    const PLUGIN: &'static str = "crosscheck";
    const SCHEMA: &'static str = include_str!("../settings.schema.json");

    fn objection(&self) -> Option<String> {
        if self.shown > SHOWN_MAX {
            return Some(format!("`shown = {}` is more than {SHOWN_MAX}", self.shown));
        }
        let is_empty = |pattern: &&String| pattern.trim().is_empty() || pattern.trim_end_matches('/').is_empty();
        if self.orphans_ignored.iter().any(|pattern| is_empty(&pattern)) {
            return Some("`orphans_ignored` has an empty entry".into());
        }
        let path = self.orphans_ignored.iter().find(|pattern| pattern.trim_end_matches('/').contains('/'))?;
        Some(format!("`orphans_ignored` has `{path}`: a pattern is the name of a folder or file, not a path"))
    }
}

/// The compiled patterns of `orphans_ignored`.
#[derive(Debug, Clone)]
pub struct Ignored {
    folders: Vec<WildMatch>,
    files: Vec<WildMatch>,
}

impl Ignored {
    /// Compiles the patterns of settings that [`Settings::parse`] accepted.
    pub fn new(settings: &Settings) -> Self {
        let (folders, files): (Vec<&String>, Vec<&String>) =
            settings.orphans_ignored.iter().partition(|pattern| pattern.ends_with('/'));
        Self {
            folders: folders.iter().map(|pattern| WildMatch::new(pattern.trim_end_matches('/'))).collect(),
            files: files.iter().map(|pattern| WildMatch::new(pattern)).collect(),
        }
    }

    /// Whether a document matches a pattern, so that it is never orphaned.
    pub fn matches(&self, path: &str) -> bool {
        let (folders, file) = path.rsplit_once('/').unwrap_or(("", path));
        self.files.iter().any(|pattern| pattern.matches(file))
            || folders.split('/').any(|folder| self.folders.iter().any(|pattern| pattern.matches(folder)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_has_exactly_the_settings_with_their_defaults_and_limits() {
        kit::checks::settings_and_schema_agree::<Settings>(&[("shown", SHOWN_MAX as u64)]);
    }

    #[test]
    fn invalid_settings_are_refused_with_one_sentence_that_names_the_setting() {
        kit::checks::refused::<Settings>(&[
            (r#"{"prefx": "x"}"#, "unknown field `prefx`"),
            (r#"{"missing": "ignore"}"#, "unknown variant `ignore`, expected `fail` or `report`"),
            (r#"{"shown": -1}"#, "-1"),
            (r#"{"shown": 101}"#, "`shown = 101` is more than 100"),
            (r#"{"orphans_ignored": ["*.log", ""]}"#, "has an empty entry"),
            (r#"{"orphans_ignored": ["/"]}"#, "has an empty entry"),
            (r#"{"orphans_ignored": ["facture/temp/"]}"#, "`facture/temp/`"),
        ]);
    }

    #[test]
    fn documents_that_dolibarr_does_not_record_are_recognised_by_folder_or_name() {
        let ignored = Ignored::new(&Settings::default());
        for (path, expected) in [
            ("facture/temp/massgeneration/1/all.pdf", true),
            ("temp", false),
            ("facture/FA2601-0001/FA2601-0001.pdf", false),
            ("facture/FA2601-0001/FA2601-0001.pdf_preview-0.png", true),
            ("facture/FA2601-0001/FA2601-0001.meta", true),
            ("dolibarr.log", true),
            ("dolibarr.log.pdf", false),
            ("2/mycompany/logos/thumbs/logo_mini.png", true),
            ("install.lock", true),
            ("doctemplates/invoices/template_invoice.odt", true),
            ("medias/image/flags/fr.png", true),
            ("medias/image/logo.png", false),
            ("temporary/x.pdf", false),
            ("", false),
        ] {
            assert_eq!(ignored.matches(path), expected, "{path}");
        }
        assert!(!Ignored::new(&Settings { orphans_ignored: Vec::new(), ..Settings::default() }).matches("a/temp/b"));
    }
}
