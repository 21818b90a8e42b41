//! The settings, their limits, and the messages for invalid ones.

use jiff::civil::Time;
use kit::PluginSettings;
use serde::{Deserialize, Serialize};

/// Ten years of days: a daily tier longer than what the yearly tier covers is a typing error.
const DAYS_MAX: u32 = 3_660;
/// A century, for the same reason.
const MONTHS_MAX: u32 = 1_200;
/// A century, for the same reason.
const YEARS_MAX: u32 = 100;

/// The `settings` of `[plugins.retention]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How many past business days have an owed end.
    pub daily: u32,
    /// How many past months have an owed end.
    pub monthly: u32,
    /// How many past fiscal years have an owed end.
    pub yearly: u32,
    /// When one business day ends and the next begins, local time.
    pub cutoff: Cutoff,
    /// Last day of the fiscal year.
    pub fiscal_year_end: FiscalYearEnd,
    /// For how many days the record of a failed run is kept; `None` means the value of `daily`.
    pub incomplete_days: Option<u32>,
    /// Confirms that `daily`, `monthly` and `yearly` are intentionally 0.
    pub keep_nothing: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            daily: 30,
            monthly: 12,
            yearly: 10,
            cutoff: Cutoff(Time::midnight()),
            fiscal_year_end: FiscalYearEnd { month: 12, day: 31 },
            incomplete_days: None,
            keep_nothing: false,
        }
    }
}

impl Settings {
    /// For how many days the record of a failed run is kept.
    pub fn incomplete_days(&self) -> u32 {
        self.incomplete_days.unwrap_or(self.daily)
    }
}

impl PluginSettings for Settings {
    const PLUGIN: &'static str = "retention-tiered";
    const SCHEMA: &'static str = include_str!("../settings.schema.json");

    fn objection(&self) -> Option<String> {
        let counts = [
            ("daily", self.daily, DAYS_MAX),
            ("monthly", self.monthly, MONTHS_MAX),
            ("yearly", self.yearly, YEARS_MAX),
            ("incomplete_days", self.incomplete_days(), DAYS_MAX),
        ];
        if let Some((name, given, max)) = counts.into_iter().find(|(_, given, max)| given > max) {
            return Some(format!("`{name} = {given}` is more than {max}"));
        }
        let nothing = self.daily == 0 && self.monthly == 0 && self.yearly == 0;
        match (nothing, self.keep_nothing) {
            (true, false) => Some("`daily = 0`, `monthly = 0` and `yearly = 0` also need `keep_nothing = true`".into()),
            (false, true) => {
                Some("`keep_nothing = true` also needs `daily = 0`, `monthly = 0` and `yearly = 0`".into())
            }
            _ => None,
        }
    }
}

/// Local time of day, written `HH:MM`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cutoff(pub Time);

impl TryFrom<String> for Cutoff {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        two_numbers(&text, ':')
            .and_then(|(hour, minute)| Time::new(hour, minute, 0, 0).ok())
            .map(Self)
            .ok_or_else(|| format!("`cutoff = \"{text}\"` is not a time of day such as \"03:00\""))
    }
}

impl From<Cutoff> for String {
    fn from(cutoff: Cutoff) -> Self {
        format!("{:02}:{:02}", cutoff.0.hour(), cutoff.0.minute())
    }
}

/// A day of any year, written `MM-DD`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct FiscalYearEnd {
    /// 1 to 12.
    pub month: i8,
    /// 1 to what the month has in a leap year.
    pub day: i8,
}

impl TryFrom<String> for FiscalYearEnd {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        // Some leap year, so that 02-29 is a day.
        let exists = |(month, day): &(i8, i8)| jiff::civil::Date::new(2024, *month, *day).is_ok();
        two_numbers(&text, '-')
            .filter(exists)
            .map(|(month, day)| Self { month, day })
            .ok_or_else(|| format!("`fiscal_year_end = \"{text}\"` is not a day of the year such as \"03-31\""))
    }
}

impl From<FiscalYearEnd> for String {
    fn from(end: FiscalYearEnd) -> Self {
        format!("{:02}-{:02}", end.month, end.day)
    }
}

fn two_numbers(text: &str, between: char) -> Option<(i8, i8)> {
    let number = |digits: &str| {
        let plain = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| digits.parse().ok()).flatten()
    };
    let (first, second) = text.split_once(between)?;
    Some((number(first)?, number(second)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_has_exactly_the_settings_with_their_defaults_and_limits() {
        kit::checks::settings_and_schema_agree::<Settings>(&[
            ("daily", DAYS_MAX.into()),
            ("monthly", MONTHS_MAX.into()),
            ("yearly", YEARS_MAX.into()),
            ("incomplete_days", DAYS_MAX.into()),
        ]);
    }

    #[test]
    fn every_setting_is_read() {
        let json = r#"{"daily": 7, "monthly": 3, "yearly": 0, "cutoff": "03:30", "fiscal_year_end": "02-29",
                       "incomplete_days": 5, "keep_nothing": false}"#;
        let settings = Settings::parse(json).unwrap();
        assert_eq!((settings.daily, settings.monthly, settings.yearly), (7, 3, 0));
        assert_eq!(String::from(settings.cutoff), "03:30");
        assert_eq!(settings.fiscal_year_end, FiscalYearEnd { month: 2, day: 29 });
        assert_eq!(settings.incomplete_days(), 5);
    }

    #[test]
    fn invalid_settings_are_refused_with_one_sentence_that_names_the_setting() {
        kit::checks::refused::<Settings>(&[
            (r#"{"dayly": 3}"#, "unknown field `dayly`, expected one of `daily`, `monthly`, `yearly`, `cutoff`"),
            (r#"{"daily": -1}"#, "-1"),
            (r#"{"daily": 3661}"#, "`daily = 3661` is more than 3660"),
            (r#"{"monthly": 1201}"#, "`monthly = 1201` is more than 1200"),
            (r#"{"yearly": 101}"#, "`yearly = 101` is more than 100"),
            (r#"{"incomplete_days": 3661}"#, "`incomplete_days = 3661`"),
            (r#"{"cutoff": "24:00"}"#, "`cutoff = \"24:00\"` is not a time of day"),
            (r#"{"cutoff": "3:00"}"#, "is not a time of day"),
            (r#"{"cutoff": "+3:00"}"#, "is not a time of day"),
            (r#"{"cutoff": ""}"#, "is not a time of day"),
            (r#"{"fiscal_year_end": "02-30"}"#, "is not a day of the year"),
            (r#"{"fiscal_year_end": "31-12"}"#, "is not a day of the year"),
            (r#"{"fiscal_year_end": "00-10"}"#, "is not a day of the year"),
            (r#"{"daily": 0, "monthly": 0, "yearly": 0}"#, "also need `keep_nothing = true`"),
            (r#"{"keep_nothing": true}"#, "also needs `daily = 0`"),
        ]);
    }

    #[test]
    fn keeping_nothing_needs_explicit_settings() {
        let json = r#"{"daily": 0, "monthly": 0, "yearly": 0, "keep_nothing": true}"#;
        assert!(Settings::parse(json).unwrap().keep_nothing);
    }
}
