//! Checks a plugin's settings against the schema that the plugin exports, before anything is dumped or forgotten.
//!
//! The schema is untrusted like any other output of a guest: its size is limited, it may not contain references, and
//! its patterns are matched in linear time.

use super::Plugin;
use base::error::{Error, Result};
use base::text::printable;
use boon::{Compiler, ErrorKind, SchemaIndex, Schemas, UrlLoader, ValidationError};
use regex::RegexBuilder;
use serde_json::Value;

/// Longest schema. The largest shipped one has 6 KiB.
const SCHEMA_BYTES_MAX: usize = 64 << 10;

/// Patterns of one schema. The largest shipped one has two.
const PATTERNS_MAX: usize = 100;

/// Largest compiled form of one pattern, in bytes: twice what 255 characters of any kind need. A short pattern can expand
/// to gigabytes.
const PATTERN_BYTES_MAX: usize = 512 << 10;

/// What the schema is called while it is compiled.
const SCHEMA_URL: &str = "urn:settings";

/// Longest message about a setting, in characters.
const SHOWN_CHARS_MAX: usize = 400;

impl Plugin {
    /// Checks the settings against the plugin's own schema.
    ///
    /// # Errors
    /// [`base::error::Class::Config`] naming the setting, its value and what is valid;
    /// [`base::error::Class::PluginRefused`] for an invalid schema.
    pub async fn check_settings(&self) -> Result<()> {
        let text = self.settings_schema().await.result?;
        let compiled = compile_schema(&text);
        let schema = compiled.map_err(|why| self.refused(format!("its settings schema {why}")))?;
        let settings: Value = serde_json::from_str(&self.settings).unwrap_or_default();
        self.compare(&schema, &settings)
    }

    fn compare(&self, schema: &Schema, settings: &Value) -> Result<()> {
        let Err(error) = schema.check(settings) else { return Ok(()) };
        let (name, cause) = (&self.name, first_cause(&error));
        let pointer = cause.instance_location.to_string();
        let path = pointer.trim_start_matches('/').replace('/', ".");
        let message = match (&cause.kind, settings.pointer(&pointer)) {
            (ErrorKind::AdditionalProperties { got }, _) => {
                let unknown: Vec<String> = got.iter().map(|name| format!("`{}`", printable(name))).collect();
                format!("the plugin `{name}` has no setting {}", unknown.join(", "))
            }
            (kind, Some(value)) if !path.is_empty() => {
                format!("the setting `{path}` of the plugin `{name}` is invalid: `{value}`: {kind}")
            }
            (kind, _) => format!("the settings of the plugin `{name}` are invalid: {kind}"),
        };
        Err(Error::config(shortened(&message)).hint(shortened(&advice(&schema.text, &path, name))))
    }
}

/// The first cause that is not a group of others, such as the alternatives of `anyOf`.
fn first_cause<'e, 's, 'v>(error: &'e ValidationError<'s, 'v>) -> &'e ValidationError<'s, 'v> {
    match (&error.kind, error.causes.first()) {
        (ErrorKind::Schema { .. } | ErrorKind::Group, Some(cause)) => first_cause(cause),
        _ => error,
    }
}

/// A schema, as text for advice and compiled.
struct Schema {
    text: Value,
    compiled: Schemas,
    root: SchemaIndex,
}

impl Schema {
    fn check<'s, 'v>(&'s self, value: &'v Value) -> Result<(), Box<ValidationError<'s, 'v>>> {
        self.compiled.validate(value, self.root).map_err(Box::new)
    }
}

/// Loads nothing: a schema that names another one would have to be fetched.
struct NoLoader;

impl UrlLoader for NoLoader {
    fn load(&self, url: &str) -> Result<Value, Box<dyn std::error::Error>> {
        Err(format!("`{}` is not fetched", printable(url)).into())
    }
}

/// Parses a schema and compiles its validator, or returns why the schema is refused.
fn compile_schema(text: &str) -> Result<Schema, String> {
    if text.len() > SCHEMA_BYTES_MAX {
        return Err(format!("is longer than {SCHEMA_BYTES_MAX} bytes"));
    }
    let schema: Value = serde_json::from_str(text).map_err(|error| format!("is not valid JSON: {error}"))?;
    // A schema that refers to itself can be endless, and one that refers to another would have to be fetched.
    if has_ref(&schema) {
        return Err("contains a reference, which is not supported".to_owned());
    }
    let mut patterns = Vec::new();
    collect_patterns(&schema, &mut patterns);
    if patterns.len() > PATTERNS_MAX {
        return Err(format!("has more than {PATTERNS_MAX} patterns"));
    }
    for pattern in patterns {
        let bounded = RegexBuilder::new(pattern).size_limit(PATTERN_BYTES_MAX).build();
        bounded.map_err(|e| format!("has an invalid pattern: {}", printable(&e.to_string())))?;
    }
    let invalid =
        |error: &dyn std::fmt::Display| format!("is not a valid JSON Schema: {}", printable(&error.to_string()));
    let (mut compiler, mut compiled) = (Compiler::new(), Schemas::new());
    compiler.use_loader(Box::new(NoLoader));
    compiler.add_resource(SCHEMA_URL, schema.clone()).map_err(|error| invalid(&error))?;
    let root = compiler.compile(SCHEMA_URL, &mut compiled).map_err(|error| invalid(&error))?;
    Ok(Schema { text: schema, compiled, root })
}

/// The valid values, from the schema's description if it has one.
fn advice(schema: &Value, path: &str, name: &str) -> String {
    let setting = path.split('.').next().unwrap_or_default();
    let properties = schema.get("properties").and_then(Value::as_object);
    let described = properties.and_then(|all| all.get(setting)?.get("description")?.as_str());
    match (described, properties) {
        (Some(words), _) => format!("in [plugins.{name}], `{setting}`: {words}"),
        (None, Some(all)) if !all.is_empty() => {
            let known: Vec<String> = all.keys().map(|name| format!("`{name}`")).collect();
            format!("settings in [plugins.{name}] may contain {}", known.join(", "))
        }
        _ => format!("check settings in [plugins.{name}]; `plugins inspect` describes the component"),
    }
}

fn has_ref(schema: &Value) -> bool {
    match schema {
        Value::Object(members) => members
            .iter()
            .any(|(key, value)| matches!(key.as_str(), "$ref" | "$dynamicRef" | "$recursiveRef") || has_ref(value)),
        Value::Array(items) => items.iter().any(has_ref),
        _ => false,
    }
}

/// The patterns of a schema, wherever they are.
fn collect_patterns<'s>(schema: &'s Value, patterns: &mut Vec<&'s str>) {
    match schema {
        Value::Object(members) => {
            for (key, value) in members {
                match (key.as_str(), value) {
                    ("pattern", Value::String(pattern)) => patterns.push(pattern),
                    ("patternProperties", Value::Object(by_pattern)) => {
                        patterns.extend(by_pattern.keys().map(String::as_str));
                    }
                    _ => {}
                }
                collect_patterns(value, patterns);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect_patterns(item, patterns)),
        _ => {}
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
        let refused = |schema: Value| compile_schema(&schema.to_string()).map(drop).unwrap_err();
        let large = |count: usize| format!("(\\p{{L}}{{{count}}}|b)");
        assert!(refused(json!({ "properties": { "keep": { "pattern": large(150) } } })).contains("invalid pattern"));
        assert!(refused(json!({ "patternProperties": { (large(150)): {} } })).contains("invalid pattern"));
        let many = |count: usize| (0..count).map(|n| json!({ "pattern": format!("^a{n}$") })).collect::<Vec<_>>();
        assert_eq!(refused(json!({ "anyOf": many(101) })), "has more than 100 patterns");
        let by_name: serde_json::Map<_, _> = (0..101).map(|n| (format!("^a{n}$"), json!({}))).collect();
        assert_eq!(refused(json!({ "patternProperties": by_name })), "has more than 100 patterns");
        let schema = compile_schema(&json!({ "anyOf": many(100) }).to_string()).unwrap();
        assert!(schema.check(&json!("a7")).is_ok() && schema.check(&json!("b")).is_err());
        // A property may be called `pattern`.
        compile_schema(&json!({ "properties": { "pattern": { "pattern": "^[^/]{1,255}$" } } }).to_string()).unwrap();
    }

    #[test]
    fn a_schema_reaches_no_other_document() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("other.json");
        std::fs::write(&file, "{}").unwrap();
        let url = format!("file://{}", file.display());
        for schema in [json!({ "$schema": url }), json!({ "properties": { "keep": { "$ref": url } } })] {
            let refused = compile_schema(&schema.to_string()).map(drop).unwrap_err();
            assert!(refused.contains("error loading") || refused.contains("a reference"), "{refused}");
        }
        compile_schema(&json!({ "$schema": "https://json-schema.org/draft/2020-12/schema" }).to_string()).unwrap();
    }
}
