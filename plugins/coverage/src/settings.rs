//! The settings, their limits, and the messages for invalid ones.

use kit::PluginSettings;
use serde::{Deserialize, Serialize};

/// Ten years; a larger value is a typing error.
const MAX_AGE_HOURS_MAX: u32 = 87_600;

/// The `settings` of `[plugins.coverage]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Maximum age of the last backup of a volume.
    pub max_age_hours: u32,
    /// Claims that need no backup.
    pub exclude: Vec<String>,
    /// Whether a ready VolumeSnapshot covers a volume.
    pub snapshots_count: bool,
}

impl Default for Settings {
    fn default() -> Self {
        // One failed nightly backup raises no alarm; two do.
        Self { max_age_hours: 48, exclude: Vec::new(), snapshots_count: false }
    }
}

impl PluginSettings for Settings {
    const PLUGIN: &'static str = "coverage";
    const SCHEMA: &'static str = include_str!("../settings.schema.json");

    fn objection(&self) -> Option<String> {
        if !(1..=MAX_AGE_HOURS_MAX).contains(&self.max_age_hours) {
            let given = self.max_age_hours;
            return Some(format!("`max_age_hours = {given}` is not between 1 and {MAX_AGE_HOURS_MAX}"));
        }
        let valid = |claim: &String| claim.split('/').count() == 2 && claim.split('/').all(|part| !part.is_empty());
        let invalid = self.exclude.iter().find(|claim| !valid(claim))?;
        Some(format!("`exclude` has `{invalid}`, expected namespace/name"))
    }
}

impl Settings {
    /// Whether a claim needs no backup.
    pub fn excludes(&self, namespace: &str, name: &str) -> bool {
        let mut patterns = self.exclude.iter().filter_map(|claim| claim.split_once('/'));
        patterns.any(|(namespace_pattern, name_pattern)| {
            let matches = |pattern: &str, text: &str| match pattern.strip_suffix('*') {
                Some(prefix) => text.starts_with(prefix),
                None => text == pattern,
            };
            matches(namespace_pattern, namespace) && matches(name_pattern, name)
        })
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
    fn invalid_settings_are_refused_with_one_sentence_that_names_the_setting() {
        kit::checks::refused::<Settings>(&[
            (r#"{"max_age": 1}"#, "unknown field `max_age`, expected one of"),
            (r#"{"max_age_hours": 0}"#, "`max_age_hours = 0` is not between 1 and 87600"),
            (r#"{"exclude": ["docs"]}"#, "`exclude` has `docs`, expected namespace/name"),
            (r#"{"exclude": ["a/b/c"]}"#, "expected namespace/name"),
        ]);
    }

    #[test]
    fn a_pattern_excludes_a_full_name_or_a_prefix() {
        let settings = Settings { exclude: vec!["cache/*".into(), "erp/tmp-*".into()], ..Settings::default() };
        for (namespace, name, excluded) in
            [("cache", "x", true), ("caches", "x", false), ("erp", "tmp-1", true), ("erp", "tmp", false)]
        {
            assert_eq!(settings.excludes(namespace, name), excluded, "{namespace}/{name}");
        }
    }
}
