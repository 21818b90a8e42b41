//! Decides which sources to dump, in which order, and why. A pure function; it never opens a source.
//!
//! A source is carried over only if everything proves that it may be: its fingerprint is equal, the store holds the
//! object, and the object's age is known and within the limit. If any proof is missing, the source is dumped.

use crate::exports::backup::host::dumping::{Action, Decision, Evidence, Source};
use crate::settings::Settings;
use jiff::Timestamp;
use jiff::tz::Offset;

const DAY_SECONDS: i64 = 86_400;

/// Decides for every source, in dump order: databases before folders, so that the later archive holds every document
/// that they name; each kind by name.
pub fn plan(now: i64, force: bool, settings: &Settings, mut sources: Vec<Source>) -> Vec<Decision> {
    sources.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    let decisions = sources.into_iter().map(|source| {
        let (action, reason) = match unchanged(now, force, settings, &source) {
            Ok(since) => (Action::Carry, since),
            Err(reason) => (Action::Dump, reason),
        };
        Decision { source: source.name, action, reason }
    });
    decisions.collect()
}

/// Since when the source is unchanged, or why it must be dumped.
fn unchanged(now: i64, force: bool, settings: &Settings, source: &Source) -> Result<String, String> {
    if force {
        return Err("forced".into());
    }
    let Some(carried) = &source.carried else { return Err("no earlier object".into()) };
    if !carried.present {
        return Err("the carried object is missing or has a different size".into());
    }
    if carried.bytes == 0 {
        return Err("the carried object is empty".into());
    }
    match source.evidence {
        Evidence::Unchanged => {}
        Evidence::Changed => return Err("content changed".into()),
        Evidence::Incomparable => return Err("the fingerprint measures something else than before".into()),
        Evidence::Missing => return Err("no fingerprint".into()),
    }
    let made = date(carried.made);
    if carried.made > now {
        return Err(format!("the carried object is from the future ({made})"));
    }
    let days = now.saturating_sub(carried.made) / DAY_SECONDS;
    if settings.full_after_days > 0 && days >= i64::from(settings.full_after_days) {
        return Err(format!("the carried object is {} old", in_days(days)));
    }
    Ok(format!("unchanged since {made} ({})", in_days(days)))
}

/// The UTC date, as in the names of objects.
fn date(instant: i64) -> String {
    match Timestamp::from_second(instant) {
        Ok(timestamp) => Offset::UTC.to_datetime(timestamp).date().to_string(),
        Err(_) => format!("second {instant}"),
    }
}

fn in_days(days: i64) -> String {
    if days == 1 { "1 day".into() } else { format!("{days} days") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exports::backup::host::dumping::{Carried, Kind};
    use proptest::prelude::*;

    fn at(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_second()
    }

    fn now() -> i64 {
        at("2026-07-04T01:00:00Z")
    }

    fn carried(made: &str) -> Carried {
        Carried { made: at(made), bytes: 9, present: true }
    }

    fn source(carried: Option<Carried>) -> Source {
        Source { name: "db".into(), kind: Kind::Database, evidence: Evidence::Unchanged, carried }
    }

    fn decide(force: bool, full_after_days: u32, source: Source) -> (bool, String) {
        let settings = Settings { full_after_days, ..Settings::default() };
        let decision = plan(now(), force, &settings, vec![source]).pop().unwrap();
        (decision.action == Action::Carry, decision.reason)
    }

    #[test]
    fn each_case_leads_to_its_decision_with_its_reason() {
        let june = carried("2026-06-30T01:00:00Z");
        let with = |change: fn(&mut Carried)| {
            let mut carried = june;
            change(&mut carried);
            source(Some(carried))
        };
        let found = |evidence| Source { evidence, ..source(Some(june)) };
        for (expected, reason, force, full_after_days, source) in [
            (true, "unchanged since 2026-06-30 (4 days)", false, 30, source(Some(june))),
            (true, "unchanged since 2026-07-03 (1 day)", false, 30, source(Some(carried("2026-07-03T01:00:00Z")))),
            (true, "unchanged since 2026-07-04 (0 days)", false, 1, source(Some(carried("2026-07-04T01:00:00Z")))),
            (true, "unchanged since 2026-06-04 (29 days)", false, 30, source(Some(carried("2026-06-04T01:00:01Z")))),
            (false, "the carried object is 30 days old", false, 30, source(Some(carried("2026-06-04T01:00:00Z")))),
            (false, "the carried object is 1 day old", false, 1, source(Some(carried("2026-07-03T01:00:00Z")))),
            (true, "unchanged since 2016-07-04 (3652 days)", false, 0, source(Some(carried("2016-07-04T01:00:00Z")))),
            (false, "forced", true, 30, source(Some(june))),
            (false, "forced", true, 30, source(None)),
            (false, "no earlier object", false, 30, source(None)),
            (false, "no fingerprint", false, 30, found(Evidence::Missing)),
            (false, "content changed", false, 30, found(Evidence::Changed)),
            (false, "the fingerprint measures something else than before", false, 30, found(Evidence::Incomparable)),
            (false, "the carried object is missing or has a different size", false, 30, with(|c| c.present = false)),
            (false, "the carried object is empty", false, 30, with(|c| c.bytes = 0)),
            (
                false,
                "the carried object is from the future (2026-07-05)",
                false,
                30,
                source(Some(carried("2026-07-05T01:00:00Z"))),
            ),
        ] {
            assert_eq!(decide(force, full_after_days, source), (expected, reason.to_owned()));
        }
    }

    #[test]
    fn databases_come_before_folders_and_each_kind_is_sorted_by_name() {
        let named = |name: &str, kind| Source { name: name.into(), kind, ..source(None) };
        let sources = vec![
            named("docs", Kind::Tree),
            named("zdb", Kind::Database),
            named("custom", Kind::Tree),
            named("db", Kind::Database),
        ];
        let order: Vec<_> =
            plan(now(), false, &Settings::default(), sources).into_iter().map(|decision| decision.source).collect();
        assert_eq!(order, ["db", "zdb", "custom", "docs"]);
        assert!(plan(now(), false, &Settings::default(), vec![]).is_empty());
    }

    proptest! {
        #[test]
        fn a_source_is_carried_only_with_every_proof(
            now: i64, made: i64, bytes in 0..3_u64, present: bool, force: bool, full_after_days in 0..60_u32,
            evidence in prop::sample::select(vec![
                Evidence::Unchanged, Evidence::Changed, Evidence::Incomparable, Evidence::Missing,
            ]),
        ) {
            let source = Source { evidence, ..source(Some(Carried { made, bytes, present })) };
            let settings = Settings { full_after_days, ..Settings::default() };
            let decision = plan(now, force, &settings, vec![source]).pop().unwrap();
            prop_assert!(!decision.reason.is_empty());
            if decision.action == Action::Carry {
                prop_assert!(!force && present && bytes > 0 && evidence == Evidence::Unchanged && made <= now);
            }
        }
    }
}
