//! The administrator: undoes mistakes, which is what makes them mistakes, and answers what is meant.

use crate::oracle::Violation;
use crate::runs::{ENVIRONMENT, MACHINE, RETENTION};
use crate::world::World;
use base::error::Result;
use catalogue::environment;
use catalogue::history;
use catalogue::lease::Lease;
use catalogue::questions::{self, Answer, Asked};
use rand::RngExt;
use std::collections::BTreeSet;

/// How often somebody looks at the status.
const LOOKS_EVERY_DAYS: u32 = 3;

impl World {
    /// Looks, and answers once nothing is there that will be undone.
    pub(crate) async fn react(&mut self) -> Result<(), Violation> {
        if self.has_a_mistake() {
            self.mistaken_on = self.day;
        }
        // What the last run found may have been the mistake: the next run says whether it is gone.
        let is_stale = self.committed_on <= self.mistaken_on;
        if !self.day.is_multiple_of(LOOKS_EVERY_DAYS) || is_stale || self.random.random_bool(0.3) {
            return Ok(());
        }
        match self.answer().await {
            Ok(answered) => {
                self.tally.accepted += u64::from(answered);
                self.oracle.observe(&self.memory.objects());
                Ok(())
            }
            // A run that died a moment ago may still hold the lease.
            Err(error) if error.class() == base::error::Class::Held => Ok(()),
            Err(error) => Err(self.broken(format!("accept: {error}"))),
        }
    }

    async fn answer(&mut self) -> Result<bool> {
        let (config, now) = (self.config(), self.now());
        let (environment, sources) = config.environment(ENVIRONMENT)?;
        let asked = Asked {
            environment: ENVIRONMENT,
            configured: &sources.configured,
            guard: &config.guard,
            time_zone: config.time_zone.iana_name().unwrap_or("UTC"),
            retention: RETENTION,
        };
        let history = history::load(&self.store, environment, &sources.configured, now).await?;
        let Some(stored) = &history.environment else { return Ok(false) };
        if questions::questions(asked, &history, now).is_empty() && !self.must_retire {
            return Ok(false);
        }
        let retire: BTreeSet<String> = self.must_retire.then(|| "docs".to_owned()).into_iter().collect();
        let adopted = self.random.random_bool(0.5);
        let answer = Answer { retire, lost: true, adopted, ..Answer::default() };
        let (next, changes) = questions::answer(asked, &history, &stored.file, &answer, now);
        if changes.is_empty() {
            return Ok(false);
        }
        let (lease, _) = Lease::take(&self.store, environment, MACHINE).await?;
        let written = environment::write(&self.store, environment, Some(stored), None, next, now).await;
        lease.release().await;
        written?;
        self.must_retire = false;
        Ok(true)
    }
}
