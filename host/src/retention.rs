//! Retention: the plugin proposes, the guard decides, and forgetting takes two steps, days apart.
//!
//! Planning is pure and shown before it acts. It goes source by source: a snapshot may go if no source needs it. What may go
//! gets a certificate and lies in the bin, still restorable; a later run plans anew, takes back what is wanted again, and
//! deletes the rest when its time is up. Applying collects failures instead of stopping, because every single step leaves a
//! store in which each listed snapshot is restorable: certificate, record, and objects last.

mod bin;
mod plan;

pub use bin::{Applied, Hands, Steps, WHOLE_RUNS_IN_BIN, Wait, apply, due, take_back};
pub use plan::{Candidate, Planned, Proposal, Propose, Rules, plan, plan_of};

use base::error::{Class, Error};

/// The failure of whoever would forget while something keeps it from being done.
#[must_use]
pub fn frozen(why: &[String]) -> Error {
    let more = match why.len() {
        0 | 1 => String::new(),
        count => format!(", and {} more", count - 1),
    };
    let first = why.first().map_or("something waits for an answer", String::as_str);
    Error::new(Class::RetentionIncomplete, format!("nothing was forgotten: {first}{more}"))
}
