//! Clocks: the time of one command, and the one that counts through suspension.

use jiff::{SignedDuration, Timestamp};
use rustix::time::ClockId;
use std::time::{Duration, Instant};

/// Milliseconds since the machine started, including the time that it was suspended.
#[must_use]
pub fn since_boot() -> u64 {
    let now = rustix::time::clock_gettime(ClockId::Boottime);
    let millis = now.tv_sec.saturating_mul(1_000).saturating_add(now.tv_nsec / 1_000_000);
    u64::try_from(millis).unwrap_or(0)
}

/// The time of one command: the moment it was given, and what has passed since.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    began: Timestamp,
    since: Instant,
    /// How far it was moved from the machine's time, for tests and simulations.
    shift: SignedDuration,
}

impl Clock {
    /// A clock that shows `began` now.
    #[must_use]
    pub fn starting_at(began: Timestamp) -> Self {
        Self { began, since: Instant::now(), shift: SignedDuration::ZERO }
    }

    /// The same clock, which somebody moved by so much from the machine's time.
    #[must_use]
    pub const fn moved_by(mut self, shift: SignedDuration) -> Self {
        self.shift = shift;
        self
    }

    /// How far it was moved from the machine's time. Whoever moves that in a simulation moves the store's with it.
    #[must_use]
    pub const fn shift(&self) -> SignedDuration {
        self.shift
    }

    /// What this clock shows when the store's shows a moment.
    #[must_use]
    pub fn shown_by(&self, store: Timestamp) -> Timestamp {
        store.checked_add(self.shift).unwrap_or(store)
    }

    /// Time since the command began.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }

    /// The time now. Never earlier than when the command began, whatever is done to the machine's clock.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let passed = SignedDuration::try_from(self.since.elapsed()).unwrap_or_default();
        self.began.checked_add(passed).unwrap_or(self.began)
    }

    /// Milliseconds since an earlier time of this clock.
    #[must_use]
    pub fn millis_since(&self, earlier: Timestamp) -> u64 {
        u64::try_from(self.now().duration_since(earlier).as_millis()).unwrap_or(0)
    }
}
