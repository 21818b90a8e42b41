//! The events that can happen on a day, drawn from a seed.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Something that happens on a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A source cannot be reached.
    Outage { database: bool, days: u16 },
    /// Entries of the documents cannot be read.
    Unreadable { days: u16 },
    /// A source is empty: its disk is not mounted or, if `meant`, somebody deliberately started from scratch.
    Emptied { database: bool, days: u16, meant: bool },
    /// The name leads to another database.
    OtherDatabase { days: u16 },
    /// The run is killed at a step.
    Kill { step: u16 },
    /// The run receives a signal at a step.
    Interrupt { step: u16 },
    /// A second run starts when the first is at a step.
    Race { step: u16 },
    /// The run pauses at a step for this long, and another run happens in between.
    Pause { step: u16, seconds: u16 },
    /// A request fails, or its response is lost.
    StoreFault { step: u16, lost: bool, times: u8 },
    /// The run's clock is ahead or behind.
    Clock { hours: i32 },
    /// The documents have another name in the configuration.
    Renamed { days: u16, meant: bool },
    /// The documents are not in the configuration.
    Removed { days: u16 },
    /// Another source is configured permanently.
    Added,
    /// Another time zone is configured.
    TimeZone { days: u16 },
    /// A weaker guard is configured.
    WeakGuard { days: u16 },
    /// The retention plugin forgets everything.
    WildPlugin { days: u16 },
    /// A script also saves, in the same second as the next run if `same`.
    Script { same: bool },
    /// A script saves in the same second as the run, when the run is at a step.
    ScriptMeanwhile { step: u16 },
    /// An object is lost.
    Lost,
    /// A verification wrongly reports the newest snapshot as damaged.
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

/// Slightly more than the steps of an ordinary run.
const STEPS: u16 = 60;

/// One day in this many has an event. A bad month has six.
const EVENT_EVERY_DAYS: u32 = 9;

/// How long a mistake in a configuration lasts at most: shorter than a snapshot stays in the bin.
const MISTAKE_DAYS_MAX: u16 = 5;

/// The events in the years of a seed.
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

/// An offset of hours, days, months or up to a decade, in either direction.
fn hours(random: &mut StdRng) -> i32 {
    let ahead: i32 = match random.random_range(0..4) {
        0 => random.random_range(1..24),
        1 => random.random_range(24..24 * 40),
        2 => random.random_range(24 * 46..24 * 400),
        _ => random.random_range(24 * 400..24 * 3_650),
    };
    if random.random_bool(0.7) { ahead } else { -ahead }
}
