//! The settings, their limits, and the messages for invalid ones.

use serde::{Deserialize, Serialize};

/// JSON Schema of [`Settings`]; a test keeps the two in step.
pub const SCHEMA: &str = include_str!("../settings.schema.json");

/// The `settings` of `[plugins.retention]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How many of the last complete snapshots to keep.
    pub keep: u32,
    /// Confirms that `keep = 0` is intended.
    pub keep_nothing: bool,
}

impl Default for Settings {
    fn default() -> Self {
        // A month of nightly backups.
        Self { keep: 30, keep_nothing: false }
    }
}

impl Settings {
    /// Reads the JSON text that the host passes. An empty text means the defaults.
    ///
    /// # Errors
    ///
    /// One lowercase sentence for the operator.
    pub fn parse(json: &str) -> Result<Self, String> {
        let json = if json.trim().is_empty() { "{}" } else { json };
        let settings: Self = serde_json::from_str(json)
            .map_err(|error| format!("retention-last settings: {}", without_position(&error)))?;
        match (settings.keep, settings.keep_nothing) {
            (0, false) => Err("retention-last settings: `keep = 0` also needs `keep_nothing = true`".into()),
            (1.., true) => Err("retention-last settings: `keep_nothing = true` also needs `keep = 0`".into()),
            _ => Ok(settings),
        }
    }
}

/// The error without its line and column. They refer to the host's JSON; the administrator wrote TOML.
fn without_position(error: &serde_json::Error) -> String {
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
    fn empty_settings_are_the_defaults() {
        for json in ["", " ", "{}"] {
            assert_eq!(Settings::parse(json), Ok(Settings::default()), "{json:?}");
        }
    }

    #[test]
    fn invalid_settings_are_refused_with_one_sentence_that_names_the_setting() {
        for (json, part) in [
            (r#"{"kep": 3}"#, "unknown field `kep`, expected `keep` or `keep_nothing`"),
            (r#"{"keep": -1}"#, "-1"),
            (r#"{"keep": "3"}"#, "expected u32"),
            (r#"{"keep": 0}"#, "also needs `keep_nothing = true`"),
            (r#"{"keep_nothing": true}"#, "also needs `keep = 0`"),
            ("null", "retention-last settings"),
        ] {
            let sentence = Settings::parse(json).unwrap_err();
            assert!(sentence.contains(part) && !sentence.contains('\n'), "{json}: {sentence}");
            assert!(!sentence.contains(" line "), "{json}: {sentence}");
        }
    }

    #[test]
    fn keeping_nothing_needs_both_settings() {
        let settings = Settings::parse(r#"{"keep": 0, "keep_nothing": true}"#).unwrap();
        assert_eq!(settings, Settings { keep: 0, keep_nothing: true });
    }
}
