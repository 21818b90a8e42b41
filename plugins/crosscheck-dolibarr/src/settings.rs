//! The settings, with what Dolibarr does not note of its documents as their defaults.

use serde::{Deserialize, Serialize};
use wildmatch::WildMatch;

/// JSON Schema of [`Settings`]; a test holds the two together.
pub const SCHEMA: &str = include_str!("../settings.schema.json");

/// Work folders, pictures made from others, logs, the locks of the installer, and the templates and flags that it unpacks:
/// Dolibarr makes them without noting them.
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

/// Paths of each kind that are listed. One screen; the counts say the rest.
const SHOWN: usize = 20;

/// What the host takes of each kind.
const SHOWN_MAX: usize = 100;

/// The `settings` of `[plugins.crosscheck]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// What the application's tables begin with.
    pub prefix: String,
    /// A document that the database names is not there.
    pub missing: Meaning,
    /// It has another digest.
    pub altered: Meaning,
    /// The database does not name it.
    pub orphaned: Meaning,
    /// Patterns of documents that are never orphaned.
    pub orphans_ignored: Vec<String>,
    /// Paths of each kind that are listed.
    pub shown: usize,
}

/// What a difference means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Meaning {
    /// The cross-check fails.
    Fail,
    /// It is reported.
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

impl Settings {
    /// Reads the JSON text that the host passes; no text at all means the defaults.
    ///
    /// # Errors
    ///
    /// One lowercase sentence for the operator.
    pub fn parse(json: &str) -> Result<Self, String> {
        let json = if json.trim().is_empty() { "{}" } else { json };
        let settings: Self =
            serde_json::from_str(json).map_err(|error| format!("crosscheck settings: {}", without_place(&error)))?;
        match settings.objection() {
            Some(objection) => Err(format!("crosscheck settings: {objection}")),
            None => Ok(settings),
        }
    }

    fn objection(&self) -> Option<String> {
        if self.shown > SHOWN_MAX {
            return Some(format!("`shown` is {}, and at most {SHOWN_MAX} paths of each kind are listed", self.shown));
        }
        let names_nothing = |pattern: &&String| pattern.trim().is_empty() || pattern.trim_end_matches('/').is_empty();
        if self.orphans_ignored.iter().any(|pattern| names_nothing(&pattern)) {
            return Some("`orphans_ignored` has an empty entry".into());
        }
        let deep = self.orphans_ignored.iter().find(|pattern| pattern.trim_end_matches('/').contains('/'))?;
        Some(format!("`orphans_ignored` has `{deep}`: a pattern names a folder or a file at any depth, not a path"))
    }
}

/// The patterns, ready to match.
#[derive(Debug, Clone)]
pub struct Ignored {
    folders: Vec<WildMatch>,
    files: Vec<WildMatch>,
}

impl Ignored {
    /// Of checked settings.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        let (folders, files): (Vec<&String>, Vec<&String>) =
            settings.orphans_ignored.iter().partition(|pattern| pattern.ends_with('/'));
        Self {
            folders: folders.iter().map(|pattern| WildMatch::new(pattern.trim_end_matches('/'))).collect(),
            files: files.iter().map(|pattern| WildMatch::new(pattern)).collect(),
        }
    }

    /// Whether a document is one that Dolibarr does not note.
    #[must_use]
    pub fn has(&self, path: &str) -> bool {
        let (folders, file) = path.rsplit_once('/').unwrap_or(("", path));
        self.files.iter().any(|pattern| pattern.matches(file))
            || folders.split('/').any(|folder| self.folders.iter().any(|pattern| pattern.matches(folder)))
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
    fn the_schema_names_exactly_the_settings_their_defaults_and_their_limits() {
        let schema: Value = serde_json::from_str(SCHEMA).unwrap();
        let documented: serde_json::Map<_, _> = schema["properties"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, property)| (name.clone(), property["default"].clone()))
            .collect();
        assert_eq!(Value::Object(documented), serde_json::to_value(Settings::default()).unwrap());
        assert_eq!(schema["additionalProperties"], json!(false));
        assert_eq!(schema["properties"]["shown"]["maximum"], json!(SHOWN_MAX));
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
    fn a_mistake_is_told_in_one_sentence_that_names_it() {
        for (json, part) in [
            (r#"{"prefx": "x"}"#, "unknown field `prefx`"),
            (r#"{"missing": "ignore"}"#, "unknown variant `ignore`, expected `fail` or `report`"),
            (r#"{"shown": -1}"#, "-1"),
            (r#"{"shown": 101}"#, "`shown` is 101"),
            (r#"{"orphans_ignored": ["*.log", ""]}"#, "has an empty entry"),
            (r#"{"orphans_ignored": ["/"]}"#, "has an empty entry"),
            (r#"{"orphans_ignored": ["facture/temp/"]}"#, "`facture/temp/`"),
            ("null", "crosscheck settings"),
        ] {
            let sentence = Settings::parse(json).unwrap_err();
            assert!(sentence.contains(part) && !sentence.contains('\n'), "{json}: {sentence}");
            assert!(!sentence.contains(" line "), "{json}: {sentence}");
        }
    }

    #[test]
    fn what_dolibarr_does_not_note_is_told_by_its_folder_or_its_name() {
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
            assert_eq!(ignored.has(path), expected, "{path}");
        }
        assert!(!Ignored::new(&Settings { orphans_ignored: Vec::new(), ..Settings::default() }).has("a/temp/b"));
    }
}
