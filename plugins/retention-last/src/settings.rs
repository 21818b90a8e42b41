//! The settings, their limits, and the messages for invalid ones.

use kit::PluginSettings;
use serde::{Deserialize, Serialize};

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

impl PluginSettings for Settings {
    const PLUGIN: &'static str = "retention-last";
    const SCHEMA: &'static str = include_str!("../settings.schema.json");

    fn objection(&self) -> Option<String> {
        match (self.keep, self.keep_nothing) {
            (0, false) => Some("`keep = 0` also needs `keep_nothing = true`".into()),
            (1.., true) => Some("`keep_nothing = true` also needs `keep = 0`".into()),
            _ => None,
        }
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
            (r#"{"kep": 3}"#, "unknown field `kep`, expected `keep` or `keep_nothing`"),
            (r#"{"keep": -1}"#, "-1"),
            (r#"{"keep": "3"}"#, "expected u32"),
            (r#"{"keep": 0}"#, "also needs `keep_nothing = true`"),
            (r#"{"keep_nothing": true}"#, "also needs `keep = 0`"),
        ]);
    }

    #[test]
    fn keeping_nothing_needs_both_settings() {
        let settings = Settings::parse(r#"{"keep": 0, "keep_nothing": true}"#).unwrap();
        assert_eq!(settings, Settings { keep: 0, keep_nothing: true });
    }
}
