//! The settings, their limits, and the messages for invalid ones.

use kit::PluginSettings;
use serde::{Deserialize, Serialize};

/// A century; a larger value is a typing error.
const FULL_AFTER_DAYS_MAX: u32 = 36_600;

/// The `settings` of `[plugins.dump]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Globs of documents to leave out.
    pub exclude: Vec<String>,
    /// Compression of database dumps.
    pub compression: Compression,
    /// After how many days an unchanged source is dumped again; 0 means never.
    pub full_after_days: u32,
    /// What to do when a document cannot be read.
    pub when_unreadable: WhenUnreadable,
}

/// How a database dump is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum Compression {
    /// The host chooses.
    Automatic,
    /// Uncompressed.
    None,
    /// Level 1 to 9.
    Gzip(u8),
    /// Level 1 to 19.
    Zstd(u8),
    /// Level 1 to 12.
    Lz4(u8),
}

/// What to do when a document cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WhenUnreadable {
    /// Name it in the record and continue.
    Report,
    /// Fail the archive.
    Fail,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            exclude: kit::dolibarr::EXCLUDE.map(str::to_owned).to_vec(),
            compression: Compression::Automatic,
            // A fingerprint is evidence, not proof. A new object each month limits the damage of a blind spot, and
            // ten years of snapshots never depend on a single object.
            full_after_days: 30,
            when_unreadable: WhenUnreadable::Report,
        }
    }
}

impl PluginSettings for Settings {
    const PLUGIN: &'static str = "dump";
    const SCHEMA: &'static str = include_str!("../settings.schema.json");

    fn objection(&self) -> Option<String> {
        if self.full_after_days > FULL_AFTER_DAYS_MAX {
            return Some(format!("`full_after_days = {}` is more than {FULL_AFTER_DAYS_MAX}", self.full_after_days));
        }
        kit::dolibarr::objection_to_exclude(&self.exclude)
    }
}

impl TryFrom<String> for Compression {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let known = match text.split_once(':') {
            None => [("automatic", Self::Automatic), ("none", Self::None)]
                .into_iter()
                .find_map(|(name, compression)| (text == name).then_some(compression)),
            Some((method, level)) => {
                let plain = level.bytes().all(|byte| byte.is_ascii_digit()) && !level.starts_with('0');
                let level = level.parse().ok().filter(|_| plain);
                match (method, level) {
                    ("gzip", Some(level @ 1..=9)) => Some(Self::Gzip(level)),
                    ("zstd", Some(level @ 1..=19)) => Some(Self::Zstd(level)),
                    ("lz4", Some(level @ 1..=12)) => Some(Self::Lz4(level)),
                    _ => None,
                }
            }
        };
        known.ok_or_else(|| {
            format!(
                "`compression = {text:?}` is not automatic, none, gzip:1 to gzip:9, zstd:1 to zstd:19 or \
                 lz4:1 to lz4:12"
            )
        })
    }
}

impl From<Compression> for String {
    fn from(compression: Compression) -> Self {
        match compression {
            Compression::Automatic => "automatic".into(),
            Compression::None => "none".into(),
            Compression::Gzip(level) => format!("gzip:{level}"),
            Compression::Zstd(level) => format!("zstd:{level}"),
            Compression::Lz4(level) => format!("lz4:{level}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_has_exactly_the_settings_with_their_defaults() {
        kit::checks::settings_and_schema_agree::<Settings>(&[("full_after_days", FULL_AFTER_DAYS_MAX.into())]);
    }

    #[test]
    fn every_compression_survives_reading_and_writing() {
        for (text, compression) in [
            ("automatic", Compression::Automatic),
            ("none", Compression::None),
            ("gzip:1", Compression::Gzip(1)),
            ("gzip:9", Compression::Gzip(9)),
            ("zstd:19", Compression::Zstd(19)),
            ("lz4:12", Compression::Lz4(12)),
        ] {
            assert_eq!(Compression::try_from(text.to_owned()), Ok(compression));
            assert_eq!(String::from(compression), text);
        }
    }

    #[test]
    fn invalid_settings_are_refused_with_one_sentence_that_names_the_setting() {
        kit::checks::refused::<Settings>(&[
            (r#"{"excludes": []}"#, "unknown field `excludes`, expected one of `exclude`, `compression`"),
            (r#"{"compression": "gzip"}"#, "`compression = \"gzip\"` is not automatic, none, gzip:1"),
            (r#"{"compression": "gzip:0"}"#, "gzip:0"),
            (r#"{"compression": "gzip:10"}"#, "gzip:10"),
            (r#"{"compression": "gzip:06"}"#, "gzip:06"),
            (r#"{"compression": "gzip:+6"}"#, "gzip:+6"),
            (r#"{"compression": "zstd:20"}"#, "zstd:20"),
            (r#"{"compression": "lz4:13"}"#, "lz4:13"),
            (r#"{"compression": "xz:6"}"#, "xz:6"),
            (r#"{"compression": "a\nb"}"#, "compression"),
            (r#"{"full_after_days": -1}"#, "-1"),
            (r#"{"full_after_days": 36601}"#, "`full_after_days = 36601` is more than 36600"),
            (r#"{"when_unreadable": "skip"}"#, "unknown variant `skip`, expected `report` or `fail`"),
            (r#"{"exclude": [" "]}"#, "`exclude` has an empty entry"),
            (r##"{"exclude": ["#x"]}"##, "`#x`"),
        ]);
    }
}
