//! Simulated years, in the manner of TigerBeetle's simulator: the host's real code on a store in memory with a clock of its own.
//! A seed decides what happens on each day, and an oracle that shares no code with guard or policy wants every owed state
//! restorable on every day.
//!
//! A history that breaks a rule is made smaller, event by event, as long as it still does, and what is left is printed.

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

/// Records are read and thrown away a hundred thousand times: with the C library's allocator it took a fifth longer.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What became of one simulated history.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Runs that were begun.
    pub runs: u64,
    /// Of those, how many committed a snapshot.
    pub committed: u64,
    /// Of those, how many claimed that all is as it should be.
    pub succeeded: u64,
    /// Snapshots that were deleted in the end.
    pub forgotten: u64,
    /// Owed states that were looked for.
    pub owed: u64,
    /// Answers that a person gave.
    pub accepted: u64,
}

impl Tally {
    /// Both together.
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
            "{runs} runs, {committed} snapshots, {succeeded} claims that all is well, {forgotten} forgotten, {accepted} answers; {owed} owed states looked for"
        )
    }
}

/// A history that broke a rule, made as small as it goes.
#[derive(Debug)]
pub struct Failure {
    /// The seed that gives it.
    pub seed: u64,
    /// What is left of what happened.
    pub events: Vec<Scheduled>,
    /// The rule that it breaks.
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

/// How long smaller histories are looked for.
const SHRINKS_MAX: usize = 60;

/// Simulates the history of a seed.
///
/// # Errors
/// The smallest history found that breaks a rule.
pub fn simulate(seed: u64, years: u16) -> Result<Tally, Box<Failure>> {
    let events = schedule(seed, years);
    match replay(seed, years, &events) {
        Ok(tally) => Ok(tally),
        Err(violation) => Err(Box::new(shrink(seed, years, events, violation))),
    }
}

/// Simulates what happens on these days.
///
/// # Errors
/// The first rule that is broken.
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

/// Leaves out halves, quarters and single events as long as a rule is still broken.
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
