//! The administrator, who undoes mistakes and accepts intended changes.

use crate::oracle::Violation;
use crate::runs::{ENVIRONMENT, MACHINE, RETENTION};
use crate::world::World;
use base::error::Result;
use catalogue::environment;
use catalogue::history;
use catalogue::lease::Lease;
use catalogue::questions::{self, Answer, QuestionContext};
use rand::RngExt;
use std::collections::BTreeSet;

/// How often the administrator checks the status.
const LOOKS_EVERY_DAYS: u32 = 3;

impl World {
    /// Checks the status, and answers its questions once no mistake is left to undo.
    pub(crate) async fn react(&mut self) -> Result<(), Violation> {
        if self.has_a_mistake() {
            self.mistaken_on = self.day;
        }
        // The questions of the last run may come from the mistake. The next run shows whether they are gone.
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
            // A run that was killed recently may still hold the lease.
            Err(error) if error.class() == base::error::Class::Held => Ok(()),
            Err(error) => Err(self.broken(format!("accept: {error}"))),
        }
    }

    async fn answer(&mut self) -> Result<bool> {
        let (config, now) = (self.config(), self.now());
        let (environment, sources) = config.environment(ENVIRONMENT)?;
        let asked = QuestionContext {
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
