//! What may happen on a day, drawn from a seed.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Something that happens on a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A source cannot be reached.
    Outage { database: bool, days: u16 },
    /// Entries of the documents cannot be read.
    Unreadable { days: u16 },
    /// A source is empty: a disk that is not mounted, or, where it is meant, somebody who began anew.
    Emptied { database: bool, days: u16, meant: bool },
    /// Another database stands behind the name.
    OtherDatabase { days: u16 },
    /// The run is killed at a step.
    Kill { step: u16 },
    /// The run gets a signal at a step.
    Interrupt { step: u16 },
    /// A second run begins when the first is at a step.
    Race { step: u16 },
    /// The run is paused at a step for so long, and another one comes meanwhile.
    Pause { step: u16, seconds: u16 },
    /// A request fails, or its answer gets lost.
    StoreFault { step: u16, lost: bool, times: u8 },
    /// The run is under a clock that is ahead or behind.
    Clock { hours: i32 },
    /// The documents have another name in the configuration.
    Renamed { days: u16, meant: bool },
    /// The documents are not in the configuration.
    Removed { days: u16 },
    /// A further source is configured for good.
    Added,
    /// Another time zone is configured.
    TimeZone { days: u16 },
    /// A weaker guard is configured.
    WeakGuard { days: u16 },
    /// A plugin forgets everything.
    WildPlugin { days: u16 },
    /// A script saves beside the program, in the second of the next run where `same` says so.
    Script { same: bool },
    /// A script saves in the very second of the run, when that is at a step.
    ScriptMeanwhile { step: u16 },
    /// An object is lost.
    Lost,
    /// A verification finds the newest snapshot damaged, although it is not.
    Disproved,
    /// Nothing runs.
    Holiday { days: u16 },
}

/// An event on its day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scheduled {
    /// Days since the first run.
    pub day: u32,
    /// What happens.
    pub event: Event,
}

/// Steps of an ordinary run, and some more.
const STEPS: u16 = 60;

/// One day in so many has an event. A bad month has six.
const EVENT_EVERY_DAYS: u32 = 9;

/// The longest time that a mistake in a configuration stays: shorter than a snapshot lies in the bin.
const MISTAKE_DAYS_MAX: u16 = 5;

/// What happens in the years of a seed.
#[must_use]
pub fn schedule(seed: u64, years: u16) -> Vec<Scheduled> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut events = Vec::new();
    for day in 1..u32::from(years) * 365 {
        if random.random_ratio(1, EVENT_EVERY_DAYS) {
            events.push(Scheduled { day, event: draw(&mut random) });
        }
    }
    events
}

fn draw(random: &mut StdRng) -> Event {
    let database = random.random_bool(0.5);
    let step = random.random_range(0..STEPS);
    let mistake = random.random_range(1..=MISTAKE_DAYS_MAX);
    let days = match random.random_range(0..10) {
        0 => random.random_range(20..60),
        _ => random.random_range(1..8),
    };
    match random.random_range(0..24) {
        0 | 1 => Event::Outage { database, days },
        2 => Event::Unreadable { days },
        3 => Event::Emptied { database, days, meant: random.random_bool(0.2) },
        4 => Event::OtherDatabase { days: mistake },
        5..=7 => Event::Kill { step },
        8 => Event::Interrupt { step },
        9 | 10 => Event::Race { step },
        11 | 12 => Event::Pause { step, seconds: random.random_range(30..400) },
        13 | 14 => Event::StoreFault { step, lost: random.random_bool(0.6), times: random.random_range(1..4) },
        15 => Event::Clock { hours: hours(random) },
        16 => Event::Renamed { days: mistake, meant: random.random_bool(0.3) },
        17 => Event::Removed { days: mistake },
        18 => [Event::Added, Event::TimeZone { days: mistake }][usize::from(random.random_bool(0.7))],
        19 => Event::WeakGuard { days: mistake },
        20 => Event::WildPlugin { days: mistake },
        21 => [Event::Script { same: random.random_bool(0.5) }, Event::ScriptMeanwhile { step }]
            [usize::from(random.random_bool(0.5))],
        22 => [Event::Lost, Event::Disproved][usize::from(random.random_bool(0.7))],
        _ => Event::Holiday { days: random.random_range(1..70) },
    }
}

/// Minutes, days, months or a decade, to either side.
fn hours(random: &mut StdRng) -> i32 {
    let ahead: i32 = match random.random_range(0..4) {
        0 => random.random_range(1..24),
        1 => random.random_range(24..24 * 40),
        2 => random.random_range(24 * 46..24 * 400),
        _ => random.random_range(24 * 400..24 * 3_650),
    };
    if random.random_bool(0.7) { ahead } else { -ahead }
}
