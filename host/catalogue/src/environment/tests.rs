use super::*;
use crate::configured::{Configured, Environment, SourceKind};
use crate::record::to_bytes;

fn rules() -> GuardRules {
    GuardRules::of(&guard::GuardConfig::default())
}

/// The first file of an environment with one folder.
fn first(now: Timestamp) -> EnvironmentFile {
    let mut configured = Configured::default();
    configured.add("docs", SourceKind::Directory).unwrap();
    let environment = Environment::new("prod").unwrap();
    EnvironmentFile::first(&environment, &configured, &BTreeMap::new(), &guard::GuardConfig::default(), "UTC", now)
}

#[test]
fn a_guard_is_weakened_by_lower_limits_or_another_fiscal_year_but_not_by_higher_limits() {
    let default = guard::GuardConfig::default();
    let weaker = |config: guard::GuardConfig| rules().weakened_by(&config);
    assert!(weaker(default.clone()).is_empty());
    assert_eq!(weaker(guard::GuardConfig { legal_years: 1, ..default.clone() }), ["legal_years 10 becomes 1"]);
    assert_eq!(weaker(guard::GuardConfig { bin_days: 0, ..default.clone() }), ["bin_days 7 becomes 0"]);
    assert_eq!(weaker(guard::GuardConfig { max_forget: 51, ..default.clone() }), ["max_forget 50 becomes 51"]);
    let june = guard::GuardConfig { fiscal_year_end: "06-30".to_owned().try_into().unwrap(), ..default.clone() };
    assert_eq!(weaker(june), ["fiscal_year_end 12-31 becomes 06-30"]);
    let stronger = guard::GuardConfig { legal_years: 11, max_forget: 1, bin_days: 30, ..default };
    assert!(weaker(stronger).is_empty());
}

#[test]
fn a_shorter_wait_applies_only_to_snapshots_that_enter_the_bin_later() {
    let at = |day: i64| Timestamp::from_second(1_780_000_000 + day * 86_400).unwrap();
    let mut file = first(at(0));
    let mut take = |bin_days, day| {
        file.take_rules(&guard::GuardConfig { bin_days, ..guard::GuardConfig::default() }, at(day));
        [0, 9, 19, 29].map(|since| file.bin_days(at(since)))
    };
    assert_eq!(take(7, 5), [7, 7, 7, 7]);
    assert_eq!(take(2, 10), [7, 7, 2, 2]);
    // Snapshots that are already in the bin keep the longest wait that they were promised. A longer wait applies to
    // all.
    assert_eq!(take(1, 20), [7, 7, 7, 1]);
    assert_eq!(take(30, 25), [30, 30, 30, 30]);
}

#[test]
fn a_newer_an_edited_or_another_environments_file_is_refused() {
    let stamp: Stamp = "20260630T010000Z".parse().unwrap();
    let environment = Environment::new("prod").unwrap();
    let file = first(stamp.moment());
    assert_eq!(file.sources["docs"].kind, "directory");
    let text = String::from_utf8(to_bytes(&file).unwrap()).unwrap();
    assert_eq!(EnvironmentFile::parse(text.as_bytes(), &environment, stamp).unwrap(), file);
    for (edited, says) in [
        (text.replace("\"format_version\": 3", "\"format_version\": 9"), "newer version"),
        (text.replace("\"environment\": \"prod\"", "\"environment\": \"sandbox\""), "put a copy"),
        (text.replace("\"id\"", "\"surprise\": 1, \"id\""), "put a copy"),
        (String::new(), "put a copy"),
    ] {
        let error = EnvironmentFile::parse(edited.as_bytes(), &environment, stamp).unwrap_err();
        assert!(error.advice().unwrap().contains(says), "{error:?}");
    }
}
