//! A plugin's settings against the schema that it exports itself, before anything is dumped or forgotten.
//!
//! The schema is a guest's word like any other: it is bounded, may not refer to itself or to elsewhere, and its patterns
//! are matched in linear time.

use super::Plugin;
use base::error::{Error, Result};
use base::text::printable;
use jsonschema::error::ValidationErrorKind;
use jsonschema::{PatternOptions, Validator};
use serde_json::Value;

/// Longest schema. The largest shipped one has 6 KiB.
const SCHEMA_BYTES_MAX: usize = 64 << 10;

/// Patterns of one schema. The largest shipped one has two.
const PATTERNS_MAX: usize = 100;

/// What one pattern may be compiled to, in bytes: some thousand letters and classes. A short one can stand for gigabytes.
const PATTERN_BYTES_MAX: usize = 64 << 10;

/// Names of settings, and longest value, that a message shows.
const SHOWN_CHARS_MAX: usize = 400;

impl Plugin {
    /// Compares the settings with the plugin's own schema.
    ///
    /// # Errors
    /// [`base::error::Class::Config`] naming the setting, its value and what is valid;
    /// [`base::error::Class::PluginRefused`] for a schema that is none.
    pub async fn check_settings(&self) -> Result<()> {
        let text = self.settings_schema().await.result?;
        let (schema, validator) = compiled(&text).map_err(|why| self.refused(format!("its settings' schema {why}")))?;
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

/// A schema that may be gone by, and what goes by it; or why it may not.
fn compiled(text: &str) -> Result<(Value, Validator), String> {
    if text.len() > SCHEMA_BYTES_MAX {
        return Err(format!("is longer than {SCHEMA_BYTES_MAX} bytes"));
    }
    let schema: Value = serde_json::from_str(text).map_err(|error| format!("is no JSON: {error}"))?;
    // A schema that refers to itself can be endless, and one that refers to elsewhere would have to be fetched.
    if refers(&schema) {
        return Err("holds a reference, which is not followed".to_owned());
    }
    if patterns(&schema) > PATTERNS_MAX {
        return Err(format!("has more than {PATTERNS_MAX} patterns"));
    }
    let bounded = PatternOptions::regex().size_limit(PATTERN_BYTES_MAX).dfa_size_limit(PATTERN_BYTES_MAX);
    let validator = jsonschema::options().with_pattern_options(bounded).build(&schema);
    let validator = validator.map_err(|error| format!("is no JSON Schema: {}", printable(&error.to_string())))?;
    Ok((schema, validator))
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

/// How many patterns a schema has, wherever they stand.
fn patterns(schema: &Value) -> usize {
    match schema {
        Value::Object(members) => members
            .iter()
            .map(|(key, value)| {
                let own = match (key.as_str(), value) {
                    ("pattern", Value::String(_)) => 1,
                    ("patternProperties", Value::Object(by_pattern)) => by_pattern.len(),
                    _ => 0,
                };
                own + patterns(value)
            })
            .sum(),
        Value::Array(items) => items.iter().map(patterns).sum(),
        _ => 0,
    }
}

fn shortened(text: &str) -> String {
    let text = printable(text);
    if text.chars().count() <= SHOWN_CHARS_MAX {
        return text;
    }
    text.chars().take(SHOWN_CHARS_MAX).chain(" …".chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_schema_whose_patterns_would_take_gigabytes_is_refused() {
        let refused = |schema: Value| compiled(&schema.to_string()).map(drop).unwrap_err();
        let large = |count: usize| format!("(\\p{{L}}{{{count}}}|b)");
        assert!(refused(json!({ "properties": { "keep": { "pattern": large(150) } } })).contains("is no JSON Schema"));
        assert!(refused(json!({ "patternProperties": { (large(150)): {} } })).contains("is no JSON Schema"));
        let many = |count: usize| (0..count).map(|n| json!({ "pattern": format!("^a{n}$") })).collect::<Vec<_>>();
        assert_eq!(refused(json!({ "anyOf": many(101) })), "has more than 100 patterns");
        let by_name: serde_json::Map<_, _> = (0..101).map(|n| (format!("^a{n}$"), json!({}))).collect();
        assert_eq!(refused(json!({ "patternProperties": by_name })), "has more than 100 patterns");
        let (_, validator) = compiled(&json!({ "anyOf": many(100) }).to_string()).unwrap();
        assert!(validator.is_valid(&json!("a7")) && !validator.is_valid(&json!("b")));
        // A property may well be called so.
        compiled(&json!({ "properties": { "pattern": { "pattern": "^[^/]{1,255}$" } } }).to_string()).unwrap();
    }
}
