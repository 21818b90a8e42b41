//! The settings: what they may be, and one sentence about what is wrong with them.

use serde::{Deserialize, Serialize};

/// JSON Schema of [`Settings`]; a test holds the two together.
pub const SCHEMA: &str = include_str!("../settings.schema.json");

/// Ten years; more is a typing error.
const MAX_AGE_HOURS_MAX: u32 = 87_600;

/// The `settings` of `[plugins.coverage]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How old the last backup of a volume may be.
    pub max_age_hours: u32,
    /// Claims that need no backup.
    pub exclude: Vec<String>,
    /// Whether a ready VolumeSnapshot covers a volume.
    pub snapshots_count: bool,
}

impl Default for Settings {
    fn default() -> Self {
        // One nightly backup may fail without an alarm at night; two may not.
        Self { max_age_hours: 48, exclude: Vec::new(), snapshots_count: false }
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
            serde_json::from_str(json).map_err(|error| format!("coverage settings: {}", without_place(&error)))?;
        match settings.objection() {
            Some(objection) => Err(format!("coverage settings: {objection}")),
            None => Ok(settings),
        }
    }

    fn objection(&self) -> Option<String> {
        if !(1..=MAX_AGE_HOURS_MAX).contains(&self.max_age_hours) {
            return Some(format!("`max_age_hours = {}` is not from 1 to {MAX_AGE_HOURS_MAX}", self.max_age_hours));
        }
        let whole = |claim: &String| claim.split('/').count() == 2 && claim.split('/').all(|part| !part.is_empty());
        let wrong = self.exclude.iter().find(|claim| !whole(claim))?;
        Some(format!("`exclude` has `{wrong}`, which is not namespace/name"))
    }

    /// Whether a claim needs no backup.
    #[must_use]
    pub fn excludes(&self, namespace: &str, name: &str) -> bool {
        self.exclude.iter().filter_map(|claim| claim.split_once('/')).any(|(of, called)| {
            let matches = |pattern: &str, text: &str| match pattern.strip_suffix('*') {
                Some(beginning) => text.starts_with(beginning),
                None => text == pattern,
            };
            matches(of, namespace) && matches(called, name)
        })
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
            (r#"{"max_age": 1}"#, "unknown field `max_age`, expected one of"),
            (r#"{"max_age_hours": 0}"#, "`max_age_hours = 0` is not from 1 to 87600"),
            (r#"{"exclude": ["docs"]}"#, "`exclude` has `docs`, which is not namespace/name"),
            (r#"{"exclude": ["a/b/c"]}"#, "which is not namespace/name"),
            ("null", "coverage settings"),
        ] {
            let sentence = Settings::parse(json).unwrap_err();
            assert!(sentence.contains(part) && !sentence.contains('\n'), "{json}: {sentence}");
            assert!(!sentence.contains(" line "), "{json}: {sentence}");
        }
        assert_eq!(Settings::parse("{}"), Ok(Settings::default()));
    }

    #[test]
    fn an_excluded_claim_is_named_whole_or_by_its_beginning() {
        let settings = Settings { exclude: vec!["cache/*".into(), "erp/tmp-*".into()], ..Settings::default() };
        for (namespace, name, excluded) in
            [("cache", "x", true), ("caches", "x", false), ("erp", "tmp-1", true), ("erp", "tmp", false)]
        {
            assert_eq!(settings.excludes(namespace, name), excluded, "{namespace}/{name}");
        }
    }
}
