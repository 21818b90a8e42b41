//! Clocks: the clock of one command, and the boot clock, which also counts while the machine is suspended.

use jiff::{SignedDuration, Timestamp};
use rustix::time::ClockId;
use std::time::{Duration, Instant};

/// Milliseconds since the machine started, including time in suspension.
pub fn since_boot() -> u64 {
    let now = rustix::time::clock_gettime(ClockId::Boottime);
    let millis = now.tv_sec.saturating_mul(1_000).saturating_add(now.tv_nsec / 1_000_000);
    u64::try_from(millis).unwrap_or(0)
}

/// The clock of one command: the time at which it started plus the time elapsed since.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    began: Timestamp,
    since: Instant,
    /// Offset from the machine's time, for tests and simulations.
    shift: SignedDuration,
}

impl Clock {
    /// A clock that shows `began` now.
    pub fn starting_at(began: Timestamp) -> Self {
        Self { began, since: Instant::now(), shift: SignedDuration::ZERO }
    }

    /// Records that this clock is offset by `shift` from the machine's time.
    #[must_use]
    pub const fn moved_by(mut self, shift: SignedDuration) -> Self {
        self.shift = shift;
        self
    }

    /// Offset from the machine's time. A simulation that moves the machine's clock also moves the store's.
    pub const fn shift(&self) -> SignedDuration {
        self.shift
    }

    /// The time on this clock when the store's clock shows `store`.
    pub fn shown_by(&self, store: Timestamp) -> Timestamp {
        store.checked_add(self.shift).unwrap_or(store)
    }

    /// Time since the command began.
    pub fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }

    /// The time now. It only moves forward, even if the machine's clock is set back.
    pub fn now(&self) -> Timestamp {
        let elapsed = SignedDuration::try_from(self.since.elapsed()).unwrap_or_default();
        self.began.checked_add(elapsed).unwrap_or(self.began)
    }

    /// Milliseconds since an earlier time of this clock.
    pub fn millis_since(&self, earlier: Timestamp) -> u64 {
        u64::try_from(self.now().duration_since(earlier).as_millis()).unwrap_or(0)
    }
}
