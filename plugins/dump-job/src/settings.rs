//! The settings, their limits, and the messages for invalid ones.

use serde::{Deserialize, Serialize};

/// JSON Schema of [`Settings`]; a test keeps the two in step.
pub const SCHEMA: &str = include_str!("../settings.schema.json");

/// The `settings` of `[plugins.job]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Dump every source in every Job.
    pub force: bool,
    /// Places that must have a borrowed Secret before a Job is created.
    pub secrets: Vec<String>,
}

impl Settings {
    /// Reads the JSON text that the host passes. An empty text means the defaults.
    ///
    /// # Errors
    ///
    /// One lowercase sentence for the operator.
    pub fn parse(json: &str) -> Result<Self, String> {
        let json = if json.trim().is_empty() { "{}" } else { json };
        let settings: Self =
            serde_json::from_str(json).map_err(|error| format!("dump-job settings: {}", without_position(&error)))?;
        if settings.secrets.iter().any(|place| place.trim().is_empty()) {
            return Err("dump-job settings: `secrets` has an empty entry".into());
        }
        Ok(settings)
    }
}

/// The error without its line and column. They refer to the host's JSON; the administrator wrote TOML.
fn without_position(error: &serde_json::Error) -> String {
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
    fn invalid_settings_are_refused_with_one_sentence_that_names_the_setting() {
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
