//! Simulates years of backups, like TigerBeetle's simulator: the host's real code runs on an in-memory store with a
//! simulated clock. A seed decides what happens on each day. An oracle, which shares no code with guard or policy,
//! checks on each day that every owed state can be restored.
//!
//! If a history breaks a rule, events are removed as long as it still breaks one, and the remaining events are printed.

mod events;
mod night;
mod oracle;
mod person;
mod runs;
mod world;

pub use events::{Event, Scheduled, schedule};
pub use oracle::Violation;
pub use world::World;

use std::fmt;

/// Records are read and dropped a hundred thousand times; the C library's allocator took a fifth longer.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Counts over simulated histories.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Runs that were started.
    pub runs: u64,
    /// Of those, runs that committed a snapshot.
    pub committed: u64,
    /// Of those, runs that reported complete success.
    pub succeeded: u64,
    /// Snapshots that were deleted.
    pub forgotten: u64,
    /// Owed states that were checked.
    pub owed: u64,
    /// Answers that the administrator gave.
    pub accepted: u64,
}

impl Tally {
    /// The sum of both.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            runs: self.runs + other.runs,
            committed: self.committed + other.committed,
            succeeded: self.succeeded + other.succeeded,
            forgotten: self.forgotten + other.forgotten,
            owed: self.owed + other.owed,
            accepted: self.accepted + other.accepted,
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { runs, committed, succeeded, forgotten, owed, accepted } = self;
        write!(
            f,
            "{runs} runs, {committed} snapshots, {succeeded} runs that reported complete success, \
             {forgotten} snapshots forgotten, {accepted} answers; {owed} owed states checked"
        )
    }
}

/// A history that broke a rule, reduced as far as possible.
#[derive(Debug)]
pub struct Failure {
    /// The seed of the history.
    pub seed: u64,
    /// The remaining events.
    pub events: Vec<Scheduled>,
    /// The broken rule.
    pub violation: Violation,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {}", self.seed, self.violation)?;
        for scheduled in &self.events {
            writeln!(f, "  day {:>5}  {:?}", scheduled.day, scheduled.event)?;
        }
        Ok(())
    }
}

/// Maximum number of attempts to find a smaller history.
const SHRINKS_MAX: usize = 60;

/// Simulates the history of a seed.
///
/// # Errors
/// The smallest history found that still breaks a rule.
pub fn simulate(seed: u64, years: u16) -> Result<Tally, Box<Failure>> {
    let events = schedule(seed, years);
    match replay(seed, years, &events) {
        Ok(tally) => Ok(tally),
        Err(violation) => Err(Box::new(shrink(seed, years, events, violation))),
    }
}

/// Simulates the given events.
///
/// # Errors
/// The first broken rule.
pub fn replay(seed: u64, years: u16, events: &[Scheduled]) -> Result<Tally, Violation> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .map_err(|error| Violation { day: 0, what: format!("no runtime: {error}") })?;
    runtime.block_on(async {
        let mut world = World::new(seed);
        world.live(years, events).await?;
        Ok(world.tally)
    })
}

/// Removes halves, quarters and single events as long as the history still breaks a rule.
fn shrink(seed: u64, years: u16, mut events: Vec<Scheduled>, mut violation: Violation) -> Failure {
    let mut tries = 0;
    let mut size = events.len().div_ceil(2).max(1);
    loop {
        let mut from = 0;
        while from < events.len() && tries < SHRINKS_MAX {
            let to = (from + size).min(events.len());
            let fewer: Vec<Scheduled> = [&events[..from], &events[to..]].concat();
            tries += 1;
            match replay(seed, years, &fewer) {
                Err(still) => (events, violation) = (fewer, still),
                Ok(_) => from = to,
            }
        }
        if size == 1 || tries >= SHRINKS_MAX {
            return Failure { seed, events, violation };
        }
        size = size.div_ceil(2);
    }
}
