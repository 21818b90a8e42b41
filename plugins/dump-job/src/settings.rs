//! The settings, their limits, and the messages for invalid ones.

use kit::PluginSettings;
use serde::{Deserialize, Serialize};

/// The `settings` of `[plugins.job]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Dump every source in every Job.
    pub force: bool,
    /// Places that must have a borrowed Secret before a Job is created.
    pub secrets: Vec<String>,
}

impl PluginSettings for Settings {
    const PLUGIN: &'static str = "dump-job";
    const SCHEMA: &'static str = include_str!("../settings.schema.json");

    fn objection(&self) -> Option<String> {
        let has_empty = self.secrets.iter().any(|place| place.trim().is_empty());
        has_empty.then(|| "`secrets` has an empty entry".into())
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
            (r#"{"forse": true}"#, "unknown field `forse`, expected `force` or `secrets`"),
            (r#"{"force": 1}"#, "expected a boolean"),
            (r#"{"secrets": [" "]}"#, "`secrets` has an empty entry"),
        ]);
    }
}
