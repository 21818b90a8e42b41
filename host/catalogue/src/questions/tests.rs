//! Which questions are asked, and that each answer closes its question.

use super::*;
use crate::configured::Environment;
use crate::configured::SourceKind;
use crate::environment::StoredFile;
use crate::record::Record;
use base::id::Stamp;
use jiff::SignedDuration;
use std::collections::BTreeMap;
use store::ObjectKey;

/// A configuration.
#[derive(Clone)]
struct Setup {
    configured: Configured,
    guard: guard::GuardConfig,
    time_zone: &'static str,
}

impl Setup {
    fn context(&self) -> QuestionContext<'_> {
        QuestionContext {
            environment: "prod",
            configured: &self.configured,
            guard: &self.guard,
            time_zone: self.time_zone,
            retention: "r",
        }
    }
}

/// Folders in the time zone UTC, with the guard's defaults.
fn folders(names: &[&str]) -> Setup {
    let mut configured = Configured::default();
    for name in names {
        configured.add(name, SourceKind::Directory).unwrap();
    }
    Setup { configured, guard: guard::GuardConfig::default(), time_zone: "UTC" }
}

fn all() -> Setup {
    folders(&["docs", "mails"])
}

fn now() -> Timestamp {
    "2026-06-30T12:00:00Z".parse().unwrap()
}

/// A recorded snapshot of both sources.
fn snapshot(id: &str, docs: Condition, doubt: Option<ClockDoubt>) -> Snapshot {
    let id: SnapshotId = id.parse().unwrap();
    let state = |source: &str, condition| {
        let key = ObjectKey::parse(&format!("prod/{source}/{id}.tar.gz")).filter(|_| condition != Condition::Failed);
        Snapshot::of_one_source(id, source, condition, key).sources.remove(source).unwrap()
    };
    let sources: BTreeMap<_, _> =
        [("docs".to_owned(), state("docs", docs)), ("mails".to_owned(), state("mails", Condition::Whole))].into();
    let complete = docs == Condition::Whole;
    let record = Record { complete, clock_doubt: doubt, ..Record::blank(id, "prod") };
    let blank = Snapshot::of_one_source(id, "docs", docs, None);
    Snapshot { record: Some(record), complete, sources, clock_doubted: doubt.is_some(), ..blank }
}

fn whole(id: &str) -> Snapshot {
    snapshot(id, Condition::Whole, None)
}

fn history(snapshots: Vec<Snapshot>) -> History {
    let Setup { configured, guard, .. } = all();
    let environment = Environment::new("prod").unwrap();
    let file = EnvironmentFile::first(&environment, &configured, &BTreeMap::new(), &guard, "UTC", now());
    let mut history = History::of(snapshots);
    history.environment = Some(StoredFile { stamp: Stamp::at(now()), sha256: String::new(), file });
    history
}

/// The questions about a history under a configuration, and those that are left after an answer.
fn asked_and_left(setup: &Setup, history: &History, answer: &Answer) -> (Vec<Question>, Vec<QuestionKind>) {
    let context = setup.context();
    let before = questions(context, history, now());
    let file = &history.environment.as_ref().unwrap().file;
    let (next, changes) = self::answer(context, history, file, answer, now());
    assert_eq!(changes.is_empty(), next == *file, "{changes:?}");
    // The answer is in the file from then on. The snapshots themselves do not change.
    let snapshots = history.snapshots.iter().cloned().map(|mut snapshot| {
        snapshot.retired = next.has_given_up_record(snapshot.id) || next.retired_ahead.contains(&snapshot.id);
        snapshot.clock_doubted &= !next.trusted_times.contains(&snapshot.id);
        for (name, state) in &mut snapshot.sources {
            state.given_up = next.has_given_up(snapshot.id, name);
            if next.has_accepted(snapshot.id, name) {
                state.condition = Condition::Whole;
            }
        }
        snapshot
    });
    let mut after = History::of(snapshots.collect());
    after.missing = history.missing.difference(&next.known_breaks).copied().collect();
    after.environment = Some(StoredFile { file: next, ..history.environment.clone().unwrap() });
    let left = questions(context, &after, now()).into_iter().map(|question| question.kind).collect();
    (before, left)
}

#[test]
fn nothing_is_asked_if_everything_agrees() {
    let history = history(vec![whole("20260629T010000Z"), whole("20260630T010000Z")]);
    let (asked, left) = asked_and_left(&all(), &history, &Answer::default());
    assert!(asked.is_empty() && left.is_empty(), "{asked:?}");
    assert_eq!(obstacles(all().context(), &history, now()), Vec::<String>::new());
}

#[test]
fn each_question_names_the_command_that_answers_and_closes_it() {
    use ClockDoubt::{Behind, Gap, Skew};
    let id = |text: &str| text.parse::<SnapshotId>().unwrap();
    let two = || vec![whole("20260629T010000Z"), whole("20260630T010000Z")];
    let doubted = |id: &str, doubt| vec![whole("20260628T010000Z"), snapshot(id, Condition::Whole, Some(doubt))];
    let lost = || {
        let mut snapshots = two();
        snapshots[0].sources.get_mut("docs").unwrap().object.as_mut().unwrap().present = false;
        snapshots
    };
    let damaged = || {
        let mut snapshots = two();
        (snapshots[0].record, snapshots[0].damage) = (None, Some(base::error::Error::unexpected("damaged")));
        snapshots
    };
    let of_kind = |kind| {
        let mut setup = folders(&["docs"]);
        setup.configured.add("mails", kind).unwrap();
        setup
    };
    let weaker = guard::GuardConfig { legal_years: 1, ..guard::GuardConfig::default() };
    let retire = Answer { retire: ["mails".to_owned()].into(), ..Answer::default() };
    let give_up = Answer { lost: true, ..Answer::default() };
    let plain = Answer::default();
    let accept = "accept --env prod";
    for (case, setup, snapshots, answer, kind, command) in [
        ("gone", folders(&["docs"]), two(), &retire, QuestionKind::GoneSource, "accept --env prod --retire mails"),
        ("new", folders(&["docs", "mails", "more"]), two(), &plain, QuestionKind::NewSource, accept),
        ("kind", of_kind(SourceKind::Postgres), two(), &plain, QuestionKind::NewSource, accept),
        ("guard", Setup { guard: weaker, ..all() }, two(), &plain, QuestionKind::Guard, accept),
        ("zone", Setup { time_zone: "Europe/Paris", ..all() }, two(), &plain, QuestionKind::TimeZone, accept),
        (
            "suspect",
            all(),
            vec![whole("20260629T010000Z"), snapshot("20260630T010000Z", Condition::Suspect, None)],
            &plain,
            QuestionKind::Suspect,
            accept,
        ),
        ("skew", all(), doubted("20260630T010000Z", Skew { seconds: 3_600 }), &plain, QuestionKind::Clock, accept),
        (
            "gap",
            all(),
            doubted("20260630T010000Z", Gap { newest: id("20260101T000000Z").stamp() }),
            &plain,
            QuestionKind::Clock,
            accept,
        ),
        (
            "behind",
            all(),
            doubted("20260629T010000Z", Behind { newest: id("20260630T010000Z").stamp() }),
            &plain,
            QuestionKind::Clock,
            accept,
        ),
        (
            "future",
            all(),
            vec![whole("20260630T010000Z"), whole("20360101T000000Z")],
            &plain,
            QuestionKind::Future,
            accept,
        ),
        ("lost", all(), lost(), &give_up, QuestionKind::Lost, "accept --env prod --lost"),
        ("damaged", all(), damaged(), &give_up, QuestionKind::DamagedRecord, "accept --env prod --lost"),
    ] {
        let history = history(snapshots);
        let (asked, left) = asked_and_left(&setup, &history, answer);
        let kinds: Vec<QuestionKind> = asked.iter().map(|question| question.kind).collect();
        assert_eq!(kinds, [kind], "{case}: {asked:?}");
        assert_eq!(asked[0].command, command, "{case}");
        assert!(asked[0].text.starts_with(|c: char| c.is_lowercase() || c.is_ascii_digit()), "{case}: {asked:?}");
        assert_eq!(left, Vec::<QuestionKind>::new(), "{case}: still asked after its answer");
    }
}

#[test]
fn a_missing_record_that_a_later_one_names_is_asked_about_until_it_is_given_up() {
    let mut history = history(vec![whole("20260628T010000Z"), whole("20260630T010000Z")]);
    history.missing = ["20260629T010000Z".parse().unwrap()].into();
    for (lost, expected) in [(false, vec![QuestionKind::MissingRecord]), (true, vec![])] {
        let (asked, left) = asked_and_left(&all(), &history, &Answer { lost, ..Answer::default() });
        let asked: Vec<_> = asked.iter().map(|question| (question.kind, question.command.as_str())).collect();
        assert_eq!(asked, [(QuestionKind::MissingRecord, "accept --env prod --lost")]);
        assert_eq!(left, expected);
    }
}

#[test]
fn a_snapshot_from_the_future_is_asked_about_once() {
    let doubt = ClockDoubt::Skew { seconds: 300_000_000 };
    let ahead = snapshot("20360101T000000Z", Condition::Whole, Some(doubt));
    let history = history(vec![whole("20260630T010000Z"), ahead]);
    let (asked, left) = asked_and_left(&all(), &history, &Answer::default());
    let kinds: Vec<QuestionKind> = asked.iter().map(|question| question.kind).collect();
    assert_eq!((kinds, left), (vec![QuestionKind::Future], vec![]));
}

#[test]
fn a_plain_answer_retires_no_source_and_gives_nothing_up() {
    let mut snapshots = vec![whole("20260630T010000Z")];
    snapshots[0].sources.get_mut("docs").unwrap().object.as_mut().unwrap().present = false;
    let (_, left) = asked_and_left(&folders(&["docs"]), &history(snapshots), &Answer::default());
    assert_eq!(left, [QuestionKind::GoneSource, QuestionKind::Lost]);
}

#[test]
fn a_future_time_waits_a_gap_is_trusted_and_an_unclear_time_is_doubted() {
    use ClockDoubt::{Behind, Gap, Skew};
    let id = |text: &str| text.parse::<SnapshotId>().unwrap();
    let judged = |taken: &str, doubt| {
        let history = history(vec![whole("20260620T010000Z"), snapshot(taken, Condition::Whole, Some(doubt))]);
        let setup = all();
        let context = setup.context();
        let file = &history.environment.as_ref().unwrap().file;
        let (next, _) = answer(context, &history, file, &Answer::default(), now());
        let has = |ids: &BTreeSet<SnapshotId>| ids.contains(&id(taken));
        assert!(next.retired_snapshots.is_empty(), "it is unknown which clock was wrong");
        (has(&next.retired_ahead), has(&next.trusted_times), has(&next.doubted_times))
    };
    let (waits, trusted, second) = ((true, false, false), (false, true, false), (false, false, true));
    assert_eq!(judged("20360101T000000Z", Gap { newest: id("20260620T010000Z").stamp() }), waits);
    assert_eq!(judged("20260629T000000Z", Skew { seconds: 30 * 86_400 }), second);
    assert_eq!(judged("20260629T010000Z", Skew { seconds: 3_600 }), trusted);
    assert_eq!(judged("20260629T003000Z", Skew { seconds: 3_600 }), second, "it was the day before");
    assert_eq!(judged("20260628T233000Z", Skew { seconds: -3_600 }), second, "it was the day after");
    assert_eq!(judged("20260629T000000Z", Gap { newest: id("20260101T000000Z").stamp() }), trusted);
    assert_eq!(judged("20260629T000000Z", Behind { newest: id("20360101T000000Z").stamp() }), trusted);
    assert_eq!(judged("20260622T000000Z", Behind { newest: id("20260629T000000Z").stamp() }), second);
}

#[test]
fn a_clock_is_doubted_beyond_the_limits_but_not_at_them() {
    let history = history(vec![whole("20260630T010000Z")]);
    let newest: Timestamp = "2026-06-30T12:00:00Z".parse().unwrap();
    let at = |seconds: i64| newest + SignedDuration::from_secs(seconds);
    let (skew, gap) = (SKEW_MAX.as_secs(), GAP_MAX.as_secs());
    for (now, store, doubted) in [
        (at(0), at(0), false),
        (at(skew), at(0), false),
        (at(skew + 1), at(0), true),
        (at(0), at(skew + 1), true),
        (at(-skew), at(-skew), false),
        (at(-skew - 1), at(-skew - 1), true),
        (at(gap), at(gap), false),
        (at(gap + 1), at(gap + 1), true),
    ] {
        assert_eq!(clock_doubt(now, store, &history).is_some(), doubted, "{now} and {store}");
    }
    assert_eq!(clock_doubt(at(0), at(0), &History::default()), None, "nothing is known, so nothing contradicts");
}
