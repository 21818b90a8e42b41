//! Retention: the plugin proposes, the guard decides, and forgetting takes two steps, days apart.
//!
//! Planning is pure and works source by source: a snapshot may be forgotten if no source needs it. It then gets a
//! certificate and is in the bin, still restorable. A later run plans again, takes back the snapshots that the new plan
//! keeps, and deletes the rest when their time is up. Applying collects failures instead of stopping, because every
//! step (certificate, then record, then objects) leaves a store in which each listed snapshot is restorable.

mod bin;
mod plan;

pub use bin::{Applied, Executor, Steps, WHOLE_RUNS_IN_BIN, Wait, apply, due, take_back};
pub use plan::{Candidate, Planned, Proposal, Propose, Rules, plan, plan_of};

use base::error::{Class, Error};

/// The failure if retention is frozen, with the reasons.
pub fn frozen(why: &[String]) -> Error {
    let more = match why.len() {
        0 | 1 => String::new(),
        count => format!(", and {} more", count - 1),
    };
    let first = why.first().map_or("a question is open", String::as_str);
    Error::new(Class::RetentionIncomplete, format!("nothing was forgotten: {first}{more}"))
}
