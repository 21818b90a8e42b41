//! The settings of the guard.

use jiff::SignedDuration;
use jiff::civil::Date;
use serde::Deserialize;

/// Years for which accounts must be kept in France: Code de commerce, article L123-22.
const LEGAL_YEARS: u16 = 10;

/// A younger snapshot may be the only one of a day that is not over.
const MIN_AGE_HOURS: u32 = 24;

/// With daily runs, one or two snapshots are dropped a day. Fifty in one run means that the policy changed, which a
/// person should confirm.
const MAX_FORGET: usize = 50;

/// Days between the two steps of forgetting. Within a week, a person who reads alerts on working days notices.
const BIN_DAYS: u16 = 7;

/// `[guard]` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GuardConfig {
    /// Number of completed fiscal years for which one snapshot each is always kept.
    pub legal_years: u16,
    /// Last day of the fiscal year, `MM-DD`.
    pub fiscal_year_end: FiscalYearEnd,
    /// Snapshots younger than this are not forgotten: `24h`, `90m`, `7d`.
    pub min_age: Age,
    /// Most snapshots that enter the bin in one run. The oldest come first.
    pub max_forget: usize,
    /// Days that a snapshot stays in the bin before it is deleted.
    pub bin_days: u16,
}

impl Default for GuardConfig {
    fn default() -> Self {
        Self {
            legal_years: LEGAL_YEARS,
            fiscal_year_end: FiscalYearEnd { month: 12, day: 31 },
            min_age: Age(SignedDuration::from_hours(i64::from(MIN_AGE_HOURS))),
            max_forget: MAX_FORGET,
            bin_days: BIN_DAYS,
        }
    }
}

impl GuardConfig {
    /// The last days of the completed fiscal years that are protected as of the given day, newest first.
    pub fn completed_years(&self, today: Date) -> Vec<Date> {
        let Some(running) = fiscal_year(self.fiscal_year_end, today) else { return Vec::new() };
        let back = 1..=i16::try_from(self.legal_years).unwrap_or(i16::MAX);
        back.filter_map(|years| self.fiscal_year_end.in_year(running.year().checked_sub(years)?)).collect()
    }
}

/// A span of time in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Age(pub SignedDuration);

impl TryFrom<String> for Age {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let invalid = || format!("`{text}` is not a valid age; expected a number with a unit, such as 24h, 90m or 7d");
        let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(invalid)?;
        let number: u32 = number.parse().map_err(|_| invalid())?;
        let seconds_each = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3_600,
            "d" => 86_400,
            _ => return Err(invalid()),
        };
        Ok(Self(SignedDuration::from_secs(i64::from(number) * seconds_each)))
    }
}

/// The last day of a fiscal year. February 29 means the last day of February in every year.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, derive_more::Display)]
#[display("{month:02}-{day:02}")]
#[serde(try_from = "String")]
pub struct FiscalYearEnd {
    month: i8,
    day: i8,
}

impl TryFrom<String> for FiscalYearEnd {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let invalid = || format!("`{text}` is not a valid day of the year; expected a month and a day, such as 12-31");
        let (month, day) = text.split_once('-').ok_or_else(invalid)?;
        let (month, day) = (month.parse().map_err(|_| invalid())?, day.parse().map_err(|_| invalid())?);
        // Checked in a leap year, which has every possible day.
        Date::new(2024, month, day).map_err(|_| invalid())?;
        Ok(Self { month, day })
    }
}

impl FiscalYearEnd {
    /// The last day of the fiscal year that ends in a calendar year.
    fn in_year(self, year: i16) -> Option<Date> {
        let first = Date::new(year, self.month, 1).ok()?;
        Date::new(year, self.month, self.day.min(first.days_in_month())).ok()
    }
}

/// The last day of the fiscal year that contains a day.
pub(super) fn fiscal_year(end: FiscalYearEnd, day: Date) -> Option<Date> {
    let this = end.in_year(day.year())?;
    if day <= this { Some(this) } else { end.in_year(day.year().checked_add(1)?) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_and_fiscal_year_ends_are_read_strictly() {
        for good in ["0m", "24h", "7d", "90m"] {
            assert!(Age::try_from(good.to_owned()).is_ok(), "{good}");
        }
        for bad in ["", "h", "24", "-1h", "1.5h", "24 h", "24é", "99999999999d"] {
            assert!(Age::try_from(bad.to_owned()).is_err(), "{bad}");
        }
        for bad in ["", "12", "13-01", "02-30", "12-32", "00-10", "2026-12-31"] {
            assert!(FiscalYearEnd::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }
}
