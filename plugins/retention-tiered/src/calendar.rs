//! Business days, months and fiscal years in one time zone, and the instants at which they begin and end.
//!
//! Everything is decided by one key, the civil date of the business day on which a period begins. Nothing here
//! reads a clock, and nothing compares hours or minutes.

use crate::settings::Settings;
use jiff::civil::{Date, Time};
use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{Timestamp, ToSpan};

/// A kind of period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// A business day, from cut-off to cut-off.
    Day,
    /// A calendar month of business days.
    Month,
    /// Named after the year in which it ends.
    FiscalYear,
}

/// A period. Where `ends` is not after `begins` there is none: some zones skipped a whole day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Period {
    /// Its kind.
    pub tier: Tier,
    /// `2026-06-30`, `2026-06` or `2026`.
    pub name: String,
    /// Its first second, since 1970-01-01T00:00:00Z.
    pub begins: i64,
    /// The first second after it.
    pub ends: i64,
}

/// The business calendar.
#[derive(Debug, Clone)]
pub struct Calendar {
    zone: TimeZone,
    cutoff: Time,
    fiscal_year_end: (i8, i8),
}

impl Calendar {
    /// # Errors
    ///
    /// One sentence when the bundled time-zone database does not have the name.
    pub fn new(time_zone: &str, settings: &Settings) -> Result<Self, String> {
        let zone = TimeZoneDatabase::bundled()
            .get(time_zone)
            .map_err(|_| format!("time zone {time_zone:?} is not an IANA name such as \"Europe/Paris\""))?;
        let end = settings.fiscal_year_end;
        Ok(Self { zone, cutoff: settings.cutoff.0, fiscal_year_end: (end.month, end.day) })
    }

    /// The business day of an instant; instants beyond the calendar belong to its first or last day.
    #[must_use]
    pub fn day_of(&self, instant: i64) -> Date {
        let instant = instant.clamp(Timestamp::MIN.as_second(), Timestamp::MAX.as_second());
        let timestamp = Timestamp::from_second(instant).unwrap_or_default();
        let date = self.zone.to_datetime(timestamp).date();
        // The civil date is right to within a day: the cut-off moves it back, a clock set back over midnight forth.
        if self.begin(date) > instant {
            date.yesterday().unwrap_or(date)
        } else if self.begin(next(date)) <= instant {
            next(date)
        } else {
            date
        }
    }

    /// The first second of a business day. A cut-off that a clock change skips is moved to just after the gap, one
    /// that comes twice is the first of the two.
    #[must_use]
    pub fn begin(&self, day: Date) -> i64 {
        let beyond = || if day.year() < 0 { Timestamp::MIN } else { Timestamp::MAX };
        let begin = self.zone.to_ambiguous_timestamp(day.to_datetime(self.cutoff)).compatible();
        begin.unwrap_or_else(|_| beyond()).as_second()
    }

    /// The running period of a tier and the `count` ended ones before it, newest first.
    #[must_use]
    pub fn periods(&self, tier: Tier, count: u32, today: Date) -> Vec<Period> {
        let mut first = match tier {
            Tier::Day => Some(today),
            Tier::Month => Some(today.first_of_month()),
            Tier::FiscalYear => {
                let this_year = self.fiscal_year_end_in(today.year());
                let ends_in = if today <= this_year { today.year() } else { today.year().saturating_add(1) };
                self.fiscal_year_begin(ends_in)
            }
        };
        let mut following = first.and_then(|first| self.following(tier, first));
        let mut periods = Vec::new();
        while let (Some(begin), Some(end)) = (first, following)
            && periods.len() <= count as usize
        {
            periods.push(Period {
                tier,
                name: self.name(tier, begin, end),
                begins: self.begin(begin),
                ends: self.begin(end),
            });
            following = first;
            first = self.preceding(tier, begin);
        }
        periods
    }

    fn following(&self, tier: Tier, first: Date) -> Option<Date> {
        match tier {
            Tier::Day => first.tomorrow().ok(),
            Tier::Month => first.checked_add(1.month()).ok(),
            Tier::FiscalYear => self.fiscal_year_begin(self.fiscal_year_ending_after(first)?.checked_add(1)?),
        }
    }

    fn preceding(&self, tier: Tier, first: Date) -> Option<Date> {
        match tier {
            Tier::Day => first.yesterday().ok(),
            Tier::Month => first.checked_sub(1.month()).ok(),
            Tier::FiscalYear => self.fiscal_year_begin(self.fiscal_year_ending_after(first)?.checked_sub(1)?),
        }
    }

    fn name(&self, tier: Tier, begin: Date, end: Date) -> String {
        match tier {
            Tier::Day => begin.to_string(),
            Tier::Month => format!("{:04}-{:02}", begin.year(), begin.month()),
            Tier::FiscalYear => format!("{:04}", end.yesterday().unwrap_or(end).year()),
        }
    }

    /// The first day of the fiscal year that ends in `year`.
    fn fiscal_year_begin(&self, year: i16) -> Option<Date> {
        self.fiscal_year_end_in(year.checked_sub(1)?).tomorrow().ok()
    }

    /// The year in which the fiscal year that begins on `first` ends.
    fn fiscal_year_ending_after(&self, first: Date) -> Option<i16> {
        let this_year = self.fiscal_year_end_in(first.year());
        if first <= this_year { Some(first.year()) } else { first.year().checked_add(1) }
    }

    fn fiscal_year_end_in(&self, year: i16) -> Date {
        let (month, day) = self.fiscal_year_end;
        let first = Date::new(year, month, 1).unwrap_or(Date::MAX);
        Date::new(year, month, day).unwrap_or_else(|_| first.last_of_month())
    }
}

/// The day after, or the calendar's last.
#[must_use]
pub fn next(day: Date) -> Date {
    day.tomorrow().unwrap_or(day)
}
