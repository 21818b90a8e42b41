//! Business days, months and fiscal years in one time zone, and the instants at which they begin and end.
//!
//! One key decides everything: the civil date of the business day on which a period begins. Nothing here reads a clock
//! or compares hours or minutes.

use crate::settings::Settings;
use jiff::civil::{Date, Time};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

/// A kind of period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// A business day, from cut-off to cut-off.
    Day,
    /// A calendar month of business days.
    Month,
    /// A fiscal year, named after the year in which it ends.
    FiscalYear,
}

/// A period of at least one second.
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
    /// The calendar of a named time zone, with its rules as TZif data from the host.
    ///
    /// # Errors
    ///
    /// One sentence if the host has no rules for the name.
    #[cfg(any(target_family = "wasm", test))]
    pub fn new(time_zone: &str, tzif: &[u8], settings: &Settings) -> Result<Self, String> {
        let zone = TimeZone::tzif(time_zone, tzif)
            .map_err(|_| format!("time zone {time_zone:?} is not an IANA name such as \"Europe/Paris\""))?;
        Ok(Self::from_zone(zone, settings))
    }

    /// The calendar of a time zone.
    pub const fn from_zone(zone: TimeZone, settings: &Settings) -> Self {
        let end = settings.fiscal_year_end;
        Self { zone, cutoff: settings.cutoff.0, fiscal_year_end: (end.month, end.day) }
    }

    /// The business day of an instant. Instants outside the calendar belong to its first or last day.
    pub fn day_of(&self, instant: i64) -> Date {
        let instant = instant.clamp(Timestamp::MIN.as_second(), Timestamp::MAX.as_second());
        let timestamp = Timestamp::from_second(instant).unwrap_or_default();
        let date = self.zone.to_datetime(timestamp).date();
        // The civil date is right to within a day: the cut-off can move the business day back, and a clock that is set
        // back over midnight can move it forward.
        if self.begin(date) > instant {
            date.yesterday().unwrap_or(date)
        } else if self.begin(next(date)) <= instant {
            next(date)
        } else {
            date
        }
    }

    /// The first second of a business day. If a clock change skips the cut-off, it moves to just after the gap; if the
    /// cut-off occurs twice, the first one counts.
    pub fn begin(&self, day: Date) -> i64 {
        let beyond = || if day.year() < 0 { Timestamp::MIN } else { Timestamp::MAX };
        let begin = self.zone.to_ambiguous_timestamp(day.to_datetime(self.cutoff)).compatible();
        begin.unwrap_or_else(|_| beyond()).as_second()
    }

    /// The current period of a tier and the `count` ended ones before it, newest first. A day that the zone skipped, as
    /// Samoa did in 2011, is not a period.
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
            let (begins, ends) = (self.begin(begin), self.begin(end));
            if begins < ends {
                periods.push(Period { tier, name: self.name(tier, begin, end), begins, ends });
            }
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

/// The next day, or the last day of the calendar.
pub fn next(day: Date) -> Date {
    day.tomorrow().unwrap_or(day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Cutoff, FiscalYearEnd};

    fn calendar(zone: &str, cutoff: &str, fiscal_year_end: &str) -> Calendar {
        let settings = Settings {
            cutoff: Cutoff::try_from(cutoff.to_owned()).unwrap(),
            fiscal_year_end: FiscalYearEnd::try_from(fiscal_year_end.to_owned()).unwrap(),
            ..Settings::default()
        };
        Calendar::from_zone(jiff::tz::TimeZoneDatabase::bundled().get(zone).unwrap(), &settings)
    }

    fn utc(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_second()
    }

    #[test]
    fn an_instant_belongs_to_the_latest_business_day_that_has_begun() {
        for (case, zone, cutoff, instant, day) in [
            ("the month's last second", "Europe/Paris", "00:00", "2026-06-30T21:59:59Z", "2026-06-30"),
            ("the boundary instant", "Europe/Paris", "00:00", "2026-06-30T22:00:00Z", "2026-07-01"),
            ("02:00 on the 1st, cut-off 03:00", "Europe/Paris", "03:00", "2026-07-01T00:00:00Z", "2026-06-30"),
            ("03:00 on the 1st, cut-off 03:00", "Europe/Paris", "03:00", "2026-07-01T01:00:00Z", "2026-07-01"),
            ("an evening cut-off", "Europe/Paris", "18:00", "2026-06-30T15:59:59Z", "2026-06-29"),
            ("December 31", "Europe/Paris", "00:00", "2026-12-31T22:59:59Z", "2026-12-31"),
            ("January 1", "Europe/Paris", "00:00", "2026-12-31T23:00:00Z", "2027-01-01"),
            ("New Year's night, cut-off 03:00", "Europe/Paris", "03:00", "2027-01-01T01:59:59Z", "2026-12-31"),
            ("a leap day", "UTC", "00:00", "2028-02-29T23:59:59Z", "2028-02-29"),
            ("after a leap day", "UTC", "00:00", "2028-03-01T00:00:00Z", "2028-03-01"),
            ("the first 02:30 of a fold, cut-off 02:30", "Europe/Paris", "02:30", "2026-10-25T00:30:00Z", "2026-10-25"),
            ("the second 02:10 of it", "Europe/Paris", "02:30", "2026-10-25T01:10:00Z", "2026-10-25"),
            ("before a skipped 02:30", "Europe/Paris", "02:30", "2026-03-29T00:59:59Z", "2026-03-28"),
            ("03:10 where 02:30 is skipped", "Europe/Paris", "02:30", "2026-03-29T01:10:00Z", "2026-03-28"),
            ("03:30 where 02:30 is skipped", "Europe/Paris", "02:30", "2026-03-29T01:30:00Z", "2026-03-29"),
            ("a day without a midnight", "America/Sao_Paulo", "00:00", "2018-11-04T03:00:00Z", "2018-11-04"),
            ("midnight twice, the second 23:30", "America/Sao_Paulo", "00:00", "2018-02-18T02:30:00Z", "2018-02-17"),
            ("after a skipped day", "Pacific/Apia", "00:00", "2011-12-30T10:00:00Z", "2011-12-31"),
        ] {
            assert_eq!(calendar(zone, cutoff, "12-31").day_of(utc(instant)).to_string(), day, "{case}");
        }
    }

    #[test]
    fn a_day_has_23_24_or_25_hours_and_a_skipped_day_has_0() {
        for (zone, day, hours) in [
            ("Europe/Paris", "2026-03-29", 23),
            ("Europe/Paris", "2026-06-30", 24),
            ("Europe/Paris", "2026-10-25", 25),
            ("Pacific/Apia", "2011-12-30", 0),
        ] {
            let calendar = calendar(zone, "00:00", "12-31");
            let day = day.parse().unwrap();
            assert_eq!((calendar.begin(next(day)) - calendar.begin(day)) / 3600, hours, "{zone} {day}");
        }
    }

    #[test]
    fn fiscal_years_end_on_the_configured_day_and_are_named_after_the_year_in_which_they_end() {
        for (end, today, name, begins, ends) in [
            ("12-31", "2026-06-30", "2026", "2026-01-01", "2027-01-01"),
            ("12-31", "2026-12-31", "2026", "2026-01-01", "2027-01-01"),
            ("12-31", "2027-01-01", "2027", "2027-01-01", "2028-01-01"),
            ("03-31", "2026-03-31", "2026", "2025-04-01", "2026-04-01"),
            ("03-31", "2026-04-01", "2027", "2026-04-01", "2027-04-01"),
            ("06-30", "2026-12-01", "2027", "2026-07-01", "2027-07-01"),
            ("02-28", "2028-02-29", "2029", "2028-02-29", "2029-03-01"),
            ("02-29", "2028-02-29", "2028", "2027-03-01", "2028-03-01"),
            ("02-29", "2027-02-28", "2027", "2026-03-01", "2027-03-01"),
            ("02-29", "2027-03-01", "2028", "2027-03-01", "2028-03-01"),
        ] {
            let calendar = calendar("UTC", "00:00", end);
            let periods = calendar.periods(Tier::FiscalYear, 2, today.parse().unwrap());
            let midnight = |day: &str| utc(&format!("{day}T00:00:00Z"));
            assert_eq!(periods[0].name, name, "{end} {today}");
            assert_eq!((periods[0].begins, periods[0].ends), (midnight(begins), midnight(ends)), "{end} {today}");
            assert_eq!(periods.len(), 3);
            assert!(periods.windows(2).all(|pair| pair[0].begins == pair[1].ends), "{periods:?}");
        }
    }

    #[test]
    fn periods_adjoin_and_stop_at_the_edge_of_the_calendar() {
        let calendar = calendar("Europe/Paris", "03:00", "12-31");
        let names = |tier, count, today: &str| -> Vec<String> {
            calendar.periods(tier, count, today.parse().unwrap()).into_iter().map(|period| period.name).collect()
        };
        assert_eq!(names(Tier::Day, 2, "2028-03-01"), ["2028-03-01", "2028-02-29", "2028-02-28"]);
        assert_eq!(names(Tier::Month, 2, "2027-01-31"), ["2027-01", "2026-12", "2026-11"]);
        assert_eq!(names(Tier::Day, 0, "2026-06-30"), ["2026-06-30"]);
        assert_eq!(calendar.periods(Tier::Day, 9, Date::MIN).len(), 1);
        assert!(calendar.periods(Tier::Day, 9, Date::MAX).is_empty());
        assert_eq!(calendar.day_of(i64::MAX), Date::MAX);
        assert_eq!(calendar.day_of(i64::MIN), calendar.day_of(Timestamp::MIN.as_second()));
    }

    #[test]
    fn an_unknown_time_zone_is_refused_with_one_sentence() {
        for zone in ["Europe/Pariss", "", "CET+1", "../etc/passwd"] {
            let sentence = Calendar::new(zone, b"", &Settings::default()).unwrap_err();
            assert!(sentence.contains("is not an IANA name") && !sentence.contains('\n'), "{sentence}");
        }
    }
}
