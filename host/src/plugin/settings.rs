//! A plugin's settings against the schema that it exports itself, before anything is dumped or forgotten.
//!
//! The schema is a guest's word like any other: it is bounded, may not refer to itself or to elsewhere, and its patterns
//! are matched in linear time.

use super::Plugin;
use crate::capability::printable;
use crate::error::{Error, Result};
use jsonschema::error::ValidationErrorKind;
use jsonschema::{PatternOptions, Validator};
use serde_json::Value;

/// Longest schema. The largest shipped one has 6 KiB.
const SCHEMA_BYTES_MAX: usize = 64 << 10;

/// Names of settings, and longest value, that a message shows.
const SHOWN_CHARS_MAX: usize = 400;

impl Plugin {
    /// Compares the settings with the plugin's own schema.
    ///
    /// # Errors
    /// [`crate::error::Class::Config`] naming the setting, its value and what is valid;
    /// [`crate::error::Class::PluginRefused`] for a schema that is none.
    pub async fn check_settings(&self) -> Result<()> {
        let text = self.settings_schema().await.result?;
        let no_schema = |why: String| self.refused(format!("its settings' schema {why}"));
        if text.len() > SCHEMA_BYTES_MAX {
            return Err(no_schema(format!("is longer than {SCHEMA_BYTES_MAX} bytes")));
        }
        let schema: Value = serde_json::from_str(&text).map_err(|error| no_schema(format!("is no JSON: {error}")))?;
        // A schema that refers to itself can be endless, and one that refers to elsewhere would have to be fetched.
        if refers(&schema) {
            return Err(no_schema("holds a reference, which is not followed".to_owned()));
        }
        let validator = jsonschema::options()
            .with_pattern_options(PatternOptions::regex())
            .build(&schema)
            .map_err(|error| no_schema(format!("is no JSON Schema: {}", printable(&error.to_string()))))?;
        let settings: Value = serde_json::from_str(&self.settings).unwrap_or_default();
        self.compare(&schema, &validator, &settings)
    }

    fn compare(&self, schema: &Value, validator: &Validator, settings: &Value) -> Result<()> {
        let Err(error) = validator.validate(settings) else { return Ok(()) };
        let name = &self.name;
        let path = error.instance_path().to_string().trim_start_matches('/').replace('/', ".");
        let said = match error.kind() {
            ValidationErrorKind::AdditionalProperties { unexpected } => {
                let unexpected: Vec<String> = unexpected.iter().map(|name| format!("`{}`", printable(name))).collect();
                format!("the plugin `{name}` has no setting {}", unexpected.join(", "))
            }
            _ if path.is_empty() => format!("the settings of the plugin `{name}` are wrong: {error}"),
            _ => format!("the setting `{path}` of the plugin `{name}` is wrong: {error}"),
        };
        Err(Error::config(shortened(&said)).hint(shortened(&advice(schema, &path, name))))
    }
}

/// What would be valid, in the plugin's own words where it has some.
fn advice(schema: &Value, path: &str, name: &str) -> String {
    let setting = path.split('.').next().unwrap_or_default();
    let properties = schema.get("properties").and_then(Value::as_object);
    let described = properties.and_then(|all| all.get(setting)?.get("description")?.as_str());
    match (described, properties) {
        (Some(words), _) => format!("in [plugins.{name}], `{setting}`: {words}"),
        (None, Some(all)) if !all.is_empty() => {
            let known: Vec<String> = all.keys().map(|name| format!("`{name}`")).collect();
            format!("settings in [plugins.{name}] may hold {}", known.join(", "))
        }
        _ => format!("check settings in [plugins.{name}]; `plugins inspect` shows what the component is"),
    }
}

fn refers(schema: &Value) -> bool {
    match schema {
        Value::Object(members) => members
            .iter()
            .any(|(key, value)| matches!(key.as_str(), "$ref" | "$dynamicRef" | "$recursiveRef") || refers(value)),
        Value::Array(items) => items.iter().any(refers),
        _ => false,
    }
}

fn shortened(text: &str) -> String {
    let text = printable(text);
    if text.chars().count() <= SHOWN_CHARS_MAX {
        return text;
    }
    text.chars().take(SHOWN_CHARS_MAX).chain(" …".chars()).collect()
}
