//! What is asked, and that each answer answers it.

use super::*;
use crate::configured::Environment;
use crate::configured::SourceKind;
use crate::environment::Stored;
use crate::record::Record;
use jiff::SignedDuration;
use std::collections::BTreeMap;
use store::ObjectKey;

/// What a configuration says.
#[derive(Clone)]
struct Said {
    configured: Configured,
    guard: guard::Config,
    time_zone: &'static str,
}

impl Said {
    fn asked(&self) -> Asked<'_> {
        Asked {
            environment: "prod",
            configured: &self.configured,
            guard: &self.guard,
            time_zone: self.time_zone,
            retention: "r",
        }
    }
}

/// Folders in the time zone UTC, with the guard's defaults.
fn folders(names: &[&str]) -> Said {
    let mut configured = Configured::default();
    for name in names {
        configured.add(name, SourceKind::Directory).unwrap();
    }
    Said { configured, guard: guard::Config::default(), time_zone: "UTC" }
}

fn all() -> Said {
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
    let record = Record {
        format_version: 2,
        id,
        environment: "prod".into(),
        started: id.taken(),
        finished: id.taken(),
        time_zone: "UTC".into(),
        host_version: String::new(),
        complete: docs == Condition::Whole,
        sources: BTreeMap::new(),
        plugins: Vec::new(),
        warnings: Vec::new(),
        store_time: None,
        clock_doubt: doubt,
        environment_file: None,
        environment_sha256: None,
        met_ahead: BTreeSet::new(),
        witnessed: Vec::new(),
        previous: None,
    };
    let complete = docs == Condition::Whole;
    let blank = Snapshot::of_one_source(id, "docs", docs, None);
    Snapshot { record: Some(record), complete, sources, clock_doubted: doubt.is_some(), ..blank }
}

fn whole(id: &str) -> Snapshot {
    snapshot(id, Condition::Whole, None)
}

fn history(snapshots: Vec<Snapshot>) -> History {
    let Said { configured, guard, .. } = all();
    let environment = Environment::new("prod").unwrap();
    let file = EnvironmentFile::first(&environment, &configured, &BTreeMap::new(), &guard, "UTC", now());
    let mut history = History::of(snapshots);
    history.environment = Some(Stored { stamp: SnapshotId::at(now()), sha256: String::new(), file });
    history
}

/// What is asked of a history under a configuration, and what is left after an answer.
fn asked_and_left(said: &Said, history: &History, answer: &Answer) -> (Vec<Question>, Vec<Kind>) {
    let asked = said.asked();
    let before = questions(asked, history, now());
    let file = &history.environment.as_ref().unwrap().file;
    let (next, changes) = self::answer(asked, history, file, answer, now());
    assert_eq!(changes.is_empty(), next == *file, "{changes:?}");
    // What a person answered is in the file from then on; the snapshots are what they were.
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
    after.environment = Some(Stored { file: next, ..history.environment.clone().unwrap() });
    let left = questions(asked, &after, now()).into_iter().map(|question| question.kind).collect();
    (before, left)
}

#[test]
fn nothing_is_asked_where_all_agree() {
    let history = history(vec![whole("20260629T010000Z"), whole("20260630T010000Z")]);
    let (asked, left) = asked_and_left(&all(), &history, &Answer::default());
    assert!(asked.is_empty() && left.is_empty(), "{asked:?}");
    assert_eq!(obstacles(all().asked(), &history, now()), Vec::<String>::new());
}

#[test]
fn each_question_names_the_command_that_answers_it_and_is_gone_after_that() {
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
        let mut said = folders(&["docs"]);
        said.configured.add("mails", kind).unwrap();
        said
    };
    let weaker = guard::Config { legal_years: 1, ..guard::Config::default() };
    let retire = Answer { retire: ["mails".to_owned()].into(), ..Answer::default() };
    let give_up = Answer { lost: true, ..Answer::default() };
    let plain = Answer::default();
    let accept = "accept --env prod";
    for (case, said, snapshots, answer, kind, command) in [
        ("gone", folders(&["docs"]), two(), &retire, Kind::GoneSource, "accept --env prod --retire mails"),
        ("new", folders(&["docs", "mails", "more"]), two(), &plain, Kind::NewSource, accept),
        ("kind", of_kind(SourceKind::Postgres), two(), &plain, Kind::NewSource, accept),
        ("guard", Said { guard: weaker, ..all() }, two(), &plain, Kind::Guard, accept),
        ("zone", Said { time_zone: "Europe/Paris", ..all() }, two(), &plain, Kind::TimeZone, accept),
        (
            "suspect",
            all(),
            vec![whole("20260629T010000Z"), snapshot("20260630T010000Z", Condition::Suspect, None)],
            &plain,
            Kind::Suspect,
            accept,
        ),
        ("skew", all(), doubted("20260630T010000Z", Skew { seconds: 3_600 }), &plain, Kind::Clock, accept),
        (
            "gap",
            all(),
            doubted("20260630T010000Z", Gap { newest: id("20260101T000000Z") }),
            &plain,
            Kind::Clock,
            accept,
        ),
        (
            "behind",
            all(),
            doubted("20260629T010000Z", Behind { newest: id("20260630T010000Z") }),
            &plain,
            Kind::Clock,
            accept,
        ),
        ("future", all(), vec![whole("20260630T010000Z"), whole("20360101T000000Z")], &plain, Kind::Future, accept),
        ("lost", all(), lost(), &give_up, Kind::Lost, "accept --env prod --lost"),
        ("damaged", all(), damaged(), &give_up, Kind::DamagedRecord, "accept --env prod --lost"),
    ] {
        let history = history(snapshots);
        let (asked, left) = asked_and_left(&said, &history, answer);
        let kinds: Vec<Kind> = asked.iter().map(|question| question.kind).collect();
        assert_eq!(kinds, [kind], "{case}: {asked:?}");
        assert_eq!(asked[0].command, command, "{case}");
        assert!(asked[0].said.starts_with(|c: char| c.is_lowercase() || c.is_ascii_digit()), "{case}: {asked:?}");
        assert_eq!(left, Vec::<Kind>::new(), "{case}: still asked after its answer");
    }
}

#[test]
fn a_record_that_a_later_one_names_and_that_is_missing_is_asked_about_until_somebody_gives_it_up() {
    let mut history = history(vec![whole("20260628T010000Z"), whole("20260630T010000Z")]);
    history.missing = ["20260629T010000Z".parse().unwrap()].into();
    for (lost, expected) in [(false, vec![Kind::MissingRecord]), (true, vec![])] {
        let (asked, left) = asked_and_left(&all(), &history, &Answer { lost, ..Answer::default() });
        let asked: Vec<_> = asked.iter().map(|question| (question.kind, question.command.as_str())).collect();
        assert_eq!(asked, [(Kind::MissingRecord, "accept --env prod --lost")]);
        assert_eq!(left, expected);
    }
}

#[test]
fn a_snapshot_of_a_clock_that_is_ahead_is_asked_about_once() {
    let doubt = ClockDoubt::Skew { seconds: 300_000_000 };
    let ahead = snapshot("20360101T000000Z", Condition::Whole, Some(doubt));
    let history = history(vec![whole("20260630T010000Z"), ahead]);
    let (asked, left) = asked_and_left(&all(), &history, &Answer::default());
    let kinds: Vec<Kind> = asked.iter().map(|question| question.kind).collect();
    assert_eq!((kinds, left), (vec![Kind::Future], vec![]));
}

#[test]
fn a_plain_answer_retires_no_source_and_gives_nothing_up() {
    let mut snapshots = vec![whole("20260630T010000Z")];
    snapshots[0].sources.get_mut("docs").unwrap().object.as_mut().unwrap().present = false;
    let (_, left) = asked_and_left(&folders(&["docs"]), &history(snapshots), &Answer::default());
    assert_eq!(left, [Kind::GoneSource, Kind::Lost]);
}

#[test]
fn what_is_from_the_future_waits_a_gap_is_believed_and_what_is_neither_stays_second() {
    use ClockDoubt::{Behind, Gap, Skew};
    let id = |text: &str| text.parse::<SnapshotId>().unwrap();
    let judged = |taken: &str, doubt| {
        let history = history(vec![whole("20260620T010000Z"), snapshot(taken, Condition::Whole, Some(doubt))]);
        let said = all();
        let asked = said.asked();
        let (next, _) = answer(asked, &history, &history.environment.as_ref().unwrap().file, &Answer::default(), now());
        let of = |ids: &BTreeSet<SnapshotId>| ids.contains(&id(taken));
        assert!(next.retired_snapshots.is_empty(), "nobody knows which clock was wrong");
        (of(&next.retired_ahead), of(&next.trusted_times), of(&next.doubted_times))
    };
    let (waits, trusted, second) = ((true, false, false), (false, true, false), (false, false, true));
    assert_eq!(judged("20360101T000000Z", Gap { newest: id("20260620T010000Z") }), waits);
    assert_eq!(judged("20260629T000000Z", Skew { seconds: 30 * 86_400 }), second);
    assert_eq!(judged("20260629T010000Z", Skew { seconds: 3_600 }), trusted);
    assert_eq!(judged("20260629T003000Z", Skew { seconds: 3_600 }), second, "it was the day before");
    assert_eq!(judged("20260628T233000Z", Skew { seconds: -3_600 }), second, "it was the day after");
    assert_eq!(judged("20260629T000000Z", Gap { newest: id("20260101T000000Z") }), trusted);
    assert_eq!(judged("20260629T000000Z", Behind { newest: id("20360101T000000Z") }), trusted);
    assert_eq!(judged("20260622T000000Z", Behind { newest: id("20260629T000000Z") }), second);
}

#[test]
fn a_clock_is_doubted_beyond_the_limits_and_not_at_them() {
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
