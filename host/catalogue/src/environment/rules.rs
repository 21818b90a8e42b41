//! The persisted rules of the guard, and their comparison with those of a configuration.

use crate::guard;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Snapshots that entered the bin before the given time stay there for this many days: weakening a rule does not
/// shorten their stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LongerBin {
    /// Days in the bin.
    pub days: u16,
    /// When the rule became weaker.
    pub entered_before: Timestamp,
}

/// The persisted rules of the guard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuardRules {
    /// Number of completed fiscal years for which one state of each source is kept.
    pub legal_years: u16,
    /// Last day of the fiscal year, `MM-DD`.
    pub fiscal_year_end: String,
    /// Snapshots younger than this are not forgotten.
    pub min_age_seconds: u64,
    /// Most snapshots that enter the bin in one run.
    pub max_forget: usize,
    /// Days that a snapshot stays in the bin.
    pub bin_days: u16,
}

impl GuardRules {
    /// The rules of a configuration.
    pub fn of(config: &guard::GuardConfig) -> Self {
        Self {
            legal_years: config.legal_years,
            fiscal_year_end: config.fiscal_year_end.to_string(),
            min_age_seconds: config.min_age.0.as_secs().unsigned_abs(),
            max_forget: config.max_forget,
            bin_days: config.bin_days,
        }
    }

    /// These rules, strengthened by a configuration; `None` if it strengthens nothing.
    pub fn strengthened_by(&self, config: &guard::GuardConfig) -> Option<Self> {
        let new = Self::of(config);
        let both = Self {
            legal_years: self.legal_years.max(new.legal_years),
            fiscal_year_end: self.fiscal_year_end.clone(),
            min_age_seconds: self.min_age_seconds.max(new.min_age_seconds),
            max_forget: self.max_forget.min(new.max_forget),
            bin_days: self.bin_days.max(new.bin_days),
        };
        (both != *self).then_some(both)
    }

    /// How a configuration weakens these rules, one phrase each; empty if it does not.
    #[must_use]
    pub fn weakened_by(&self, config: &guard::GuardConfig) -> Vec<String> {
        let new = Self::of(config);
        let mut found = Vec::new();
        let mut compare = |name: &str, weaker: bool, old: &dyn std::fmt::Display, new: &dyn std::fmt::Display| {
            if weaker {
                found.push(format!("{name} {old} becomes {new}"));
            }
        };
        compare("legal_years", new.legal_years < self.legal_years, &self.legal_years, &new.legal_years);
        compare(
            "fiscal_year_end",
            new.fiscal_year_end != self.fiscal_year_end,
            &self.fiscal_year_end,
            &new.fiscal_year_end,
        );
        let seconds = |seconds: u64| format!("{seconds}s");
        let (old_age, new_age) = (seconds(self.min_age_seconds), seconds(new.min_age_seconds));
        compare("min_age", new.min_age_seconds < self.min_age_seconds, &old_age, &new_age);
        compare("max_forget", new.max_forget > self.max_forget, &self.max_forget, &new.max_forget);
        compare("bin_days", new.bin_days < self.bin_days, &self.bin_days, &new.bin_days);
        found
    }
}
