//! The settings: what they may be, and one sentence about what is wrong with them.

use serde::{Deserialize, Serialize};

/// JSON Schema of [`Settings`]; a test holds the two together.
pub const SCHEMA: &str = include_str!("../settings.schema.json");

/// The `settings` of `[plugins.job]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Every Job dumps every source.
    pub force: bool,
    /// Places that must have a borrowed Secret.
    pub secrets: Vec<String>,
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
            serde_json::from_str(json).map_err(|error| format!("dump-job settings: {}", without_place(&error)))?;
        if settings.secrets.iter().any(|place| place.trim().is_empty()) {
            return Err("dump-job settings: `secrets` has an empty entry".into());
        }
        Ok(settings)
    }
}

/// The text is the host's own, so line and column say nothing to the person who wrote TOML.
fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or_default().to_owned()
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
    fn bad_settings_get_one_sentence_that_names_what_is_wrong() {
        for (json, part) in [
            (r#"{"forse": true}"#, "unknown field `forse`, expected `force` or `secrets`"),
            (r#"{"force": 1}"#, "expected a boolean"),
            (r#"{"secrets": [" "]}"#, "`secrets` has an empty entry"),
            ("null", "dump-job settings"),
        ] {
            let sentence = Settings::parse(json).unwrap_err();
            assert!(sentence.contains(part) && !sentence.contains('\n'), "{json}: {sentence}");
            assert!(!sentence.contains(" line "), "{json}: {sentence}");
        }
        assert_eq!(Settings::parse(""), Ok(Settings::default()));
    }
}
