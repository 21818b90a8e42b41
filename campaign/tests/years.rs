//! Five hundred simulated years with a fixed set of seeds, in parts that a runner spreads over the cores.

use campaign::{Event, Scheduled, Tally, replay, simulate};

/// Years of each history: long enough that days, months and years leave their tiers.
const YEARS: u16 = 5;

/// Histories of each part.
const HISTORIES: u64 = 25;

#[track_caller]
fn part(number: u64) {
    let mut total = Tally::default();
    for seed in (0..HISTORIES).map(|history| 1 + number * HISTORIES + history) {
        let tally = simulate(seed, YEARS).unwrap_or_else(|failure| panic!("{failure}"));
        total = total.plus(tally);
    }
    println!("{} years: {total}", HISTORIES * u64::from(YEARS));
    // A simulation in which nothing happens would prove nothing.
    let Tally { runs, committed, succeeded, forgotten, owed, accepted } = total;
    assert!(runs > HISTORIES * 1_000 && committed > runs * 8 / 10 && succeeded > committed / 2, "{total}");
    assert!(forgotten > committed / 2 && owed > 100_000 && accepted > HISTORIES * 5, "{total}");
}

#[test]
fn the_first_hundred_and_twenty_five_years_lose_nothing() {
    part(0);
}

#[test]
fn the_second_hundred_and_twenty_five_years_lose_nothing() {
    part(1);
}

#[test]
fn the_third_hundred_and_twenty_five_years_lose_nothing() {
    part(2);
}

#[test]
fn the_fourth_hundred_and_twenty_five_years_lose_nothing() {
    part(3);
}

/// Each kind of event that happens at a step, alone and at every step of a run.
#[test]
fn every_trouble_at_every_step_of_a_run_loses_nothing() {
    let kinds: [fn(u16) -> Event; 7] = [
        |step| Event::Kill { step },
        |step| Event::Interrupt { step },
        |step| Event::Race { step },
        |step| Event::Pause { step, seconds: 200 },
        |step| Event::StoreFault { step, lost: true, times: 1 },
        |step| Event::StoreFault { step, lost: false, times: 2 },
        |step| Event::ScriptMeanwhile { step },
    ];
    for kind in kinds {
        // A month without events fills the bin. Then each day tests the next step.
        let events: Vec<Scheduled> =
            (0..60).map(|step| Scheduled { day: 45 + u32::from(step), event: kind(step) }).collect();
        let tally = replay(7, 1, &events).unwrap_or_else(|violation| panic!("{:?}: {violation}", kind(0)));
        assert!(tally.forgotten > 100, "{:?}: {tally}", kind(0));
    }
}

/// Found by seed 57: while a question was open, the time in the bin went on even for snapshots that the plan wanted to
/// keep again.
#[test]
fn what_is_wanted_again_leaves_the_bin_while_something_waits_for_an_answer() {
    let scheduled = |day, event| Scheduled { day, event };
    let events = [
        scheduled(84, Event::WildPlugin { days: 3 }),
        scheduled(87, Event::Clock { hours: -4_115 }),
        scheduled(92, Event::WildPlugin { days: 4 }),
    ];
    for seed in 0..40 {
        let _ = replay(seed, 1, &events).unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
    }
}

/// Found by seeds 1000051 and 1000140: a snapshot whose time is doubted was kept instead of a whole one whose
/// verification had failed.
#[test]
fn a_run_under_a_clock_that_is_behind_takes_no_place_of_a_snapshot_that_was_disproved() {
    let scheduled = |day, event| Scheduled { day, event };
    let events = [
        scheduled(115, Event::Holiday { days: 54 }),
        scheduled(124, Event::Disproved),
        scheduled(172, Event::Clock { hours: -354 }),
    ];
    for seed in (1_000_140..1_000_150).chain(0..10) {
        let _ = replay(seed, 2, &events).unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
    }
}

/// Found by seed 76: a clock was ahead, and before the time of its runs came, another clock fell behind all of them.
#[test]
fn a_third_clock_does_not_say_which_of_two_was_right() {
    let scheduled = |day, hours| Scheduled { day, event: Event::Clock { hours } };
    let events = [scheduled(192, 6182), scheduled(271, 1200), scheduled(335, -6868)];
    let _ = replay(76, 2, &events).unwrap_or_else(|violation| panic!("{violation}"));
}

/// Found by seeds 49 and 95: `accept` confirmed the time of the snapshot at the end of a month. A year later it doubted
/// every run since another clock was in use, including that snapshot. That snapshot stays owed; the one that it had
/// replaced does not become owed again.
#[test]
fn what_was_called_right_and_is_doubted_again_stays() {
    let scheduled = |day, event| Scheduled { day, event };
    let clocks = [
        scheduled(723, Event::Clock { hours: 8_344 }),
        scheduled(1_004, Event::Clock { hours: 8_195 }),
        scheduled(1_058, Event::Holiday { days: 31 }),
    ];
    let _ = replay(49, 3, &clocks).unwrap_or_else(|violation| panic!("{violation}"));
    let emptied = [
        scheduled(855, Event::Emptied { database: false, days: 45, meant: false }),
        scheduled(872, Event::Clock { hours: 5_691 }),
        scheduled(1_085, Event::Holiday { days: 56 }),
    ];
    let _ = replay(95, 4, &emptied).unwrap_or_else(|violation| panic!("{violation}"));
}

/// Found by seed 2000007: a run that was paused right before its commit left a record whose objects another run had
/// deleted.
#[test]
fn a_run_that_is_paused_anywhere_leaves_no_record_without_its_objects() {
    for seed in 500..504 {
        let events: Vec<Scheduled> = (0..240)
            .map(|day| Scheduled {
                day: 5 + day,
                event: Event::Pause { step: u16::try_from(day % 24).unwrap(), seconds: 312 },
            })
            .collect();
        let _ = replay(seed, 1, &events).unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
    }
}

/// Found by seed 4000003: a source had been unreadable since it got its name. When it was then emptied, there was
/// nothing to compare it with.
#[test]
fn what_never_was_whole_is_held_against_what_was_read_of_it() {
    let scheduled = |day, event| Scheduled { day, event };
    let events = [
        scheduled(107, Event::Unreadable { days: 55 }),
        scheduled(126, Event::Renamed { days: 1, meant: true }),
        scheduled(161, Event::Emptied { database: false, days: 48, meant: false }),
    ];
    for seed in (4_000_000..4_000_010).chain(0..10) {
        let _ = replay(seed, 1, &events).unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
    }
}

/// A failure is useful only if it can be reproduced.
#[test]
fn a_seed_gives_the_same_history_every_time() {
    for seed in [5, 43] {
        let once = simulate(seed, 2).unwrap_or_else(|failure| panic!("{failure}"));
        for _ in 0..2 {
            assert_eq!(simulate(seed, 2).unwrap_or_else(|failure| panic!("{failure}")), once, "seed {seed}");
        }
    }
}

#[test]
fn a_seed_gives_the_same_events_every_time_and_another_one_others() {
    assert_eq!(campaign::schedule(5, 3), campaign::schedule(5, 3));
    assert_ne!(campaign::schedule(5, 3), campaign::schedule(6, 3));
}
