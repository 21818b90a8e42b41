//! Executes the run of a night step by step, with the events that disturb it, and checks whether the run's claims are
//! true.

use crate::events::Event;
use crate::oracle::Violation;
use crate::runs::{self, ENVIRONMENT, Setting};
use crate::world::{Truth, World};
use base::error::Result;
use dolibarr_backup::report::Retention;
use dolibarr_backup::verbs::backup::course::Done;
use jiff::{SignedDuration, Timestamp};
use rand::RngExt;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;
use store::memory::Fault;

/// How often a future is polled in vain before the virtual clock moves.
const POLLS_MAX: u32 = 40;

/// How far the virtual clock moves each time.
const NAP: Duration = Duration::from_millis(500);

type Running = Pin<Box<dyn Future<Output = Result<Done>>>>;

/// An event that disturbs a night's run.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    Kill,
    Interrupt,
    Race,
    Script,
    Pause(u16),
}

impl World {
    fn setting(&self, machine: Timestamp) -> Setting {
        let truth =
            |(name, label): (&'static str, &'static str)| Some((name.to_owned(), self.truths.get(label)?.clone()));
        Setting {
            store: Arc::clone(&self.store),
            config: self.config(),
            truths: self.configured().into_iter().filter_map(truth).collect(),
            now: machine,
            wild: self.lasting.wild > self.day,
            signal: Arc::new(AtomicBool::new(false)),
        }
    }

    /// Executes the run of a night, with the events that disturb it.
    pub(crate) async fn night(&mut self, troubles: &[Event]) -> Result<(), Violation> {
        let mut machine = self.now();
        let mut trouble = None;
        for event in troubles {
            match *event {
                Event::Clock { hours } => machine += SignedDuration::from_hours(i64::from(hours)),
                Event::Kill { step } => trouble = Some((step, Trouble::Kill)),
                Event::Interrupt { step } => trouble = Some((step, Trouble::Interrupt)),
                Event::Race { step } => trouble = Some((step, Trouble::Race)),
                Event::ScriptMeanwhile { step } => trouble = Some((step, Trouble::Script)),
                Event::Pause { step, seconds } => trouble = Some((step, Trouble::Pause(seconds))),
                Event::StoreFault { step, lost, times } => {
                    let fault = if lost { Fault::AnswerLost } else { Fault::Refused };
                    (0..u64::from(times)).for_each(|next| self.memory.fail(u64::from(step) + next, fault));
                }
                _ => {}
            }
        }
        self.set_clocks(machine);
        self.oracle.under_wrong_clock(machine != self.now());
        let setting = self.setting(machine);
        let signal = Arc::clone(&setting.signal);
        let truths = setting.truths.clone();
        self.tally.runs += 1;
        let mut first: Running = Box::pin(runs::run(setting));
        let mut step = 0;
        loop {
            match trouble {
                Some((at, Trouble::Kill)) if at == step => {
                    drop(first);
                    self.let_requests_end().await;
                    return Ok(());
                }
                Some((at, Trouble::Script)) if at == step => self.script(true),
                Some((at, Trouble::Interrupt)) if at == step => signal.store(true, Ordering::Relaxed),
                Some((at, Trouble::Race)) if at == step => {
                    return self.race(first, truths, machine).await;
                }
                Some((at, Trouble::Pause(seconds))) if at == step => {
                    let later = machine + SignedDuration::from_secs(i64::from(seconds));
                    self.memory.set_now(if self.store_is_local { later } else { self.now() + (later - machine) });
                    runs::set_monotonic(runs::monotonic() + u64::from(seconds) * 1_000);
                    let setting = self.setting(later);
                    let (other_truths, mut second): (_, Running) =
                        (setting.truths.clone(), Box::pin(runs::run(setting)));
                    self.tally.runs += 1;
                    let ended = self.finish(&mut second).await;
                    self.judge(ended, &other_truths)?;
                }
                _ => {}
            }
            if let Some(ended) = self.step(&mut first).await {
                return self.judge(ended, &truths);
            }
            step += 1;
        }
    }

    /// Executes two runs at once, step by step in random order.
    async fn race(
        &mut self,
        first: Running,
        truths: BTreeMap<String, Truth>,
        machine: Timestamp,
    ) -> Result<(), Violation> {
        self.tally.runs += 1;
        let mut running = vec![first, Box::pin(runs::run(self.setting(machine)))];
        while !running.is_empty() {
            let next = self.random.random_range(0..running.len());
            if let Some(ended) = self.step(&mut running[next]).await {
                drop(running.remove(next));
                self.judge(ended, &truths)?;
            }
        }
        Ok(())
    }

    async fn finish(&mut self, running: &mut Running) -> Result<Done> {
        loop {
            if let Some(ended) = self.step(running).await {
                return ended;
            }
        }
    }

    /// Executes one step: until the run waits for a response of the store. If it waits for time to pass, the virtual
    /// clock moves.
    async fn step(&mut self, running: &mut Running) -> Option<Result<Done>> {
        let before = self.memory.operations();
        for _ in 0..POLLS_MAX {
            if let Poll::Ready(ended) = futures::poll!(running.as_mut()) {
                return Some(ended);
            }
            // Lets tasks that the run has spawned continue.
            tokio::task::yield_now().await;
            if self.memory.operations() > before {
                return None;
            }
        }
        tokio::time::sleep(NAP).await;
        None
    }

    /// Lets the background tasks of a killed run, such as the renewal of its lease, complete the requests that they
    /// have sent.
    async fn let_requests_end(&self) {
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
    }

    /// Checks whether a run's claims are true.
    fn judge(&mut self, ended: Result<Done>, truths: &BTreeMap<String, Truth>) -> Result<(), Violation> {
        let objects = self.memory.objects();
        let Ok(done) = ended else {
            self.oracle.observe(&objects);
            return Ok(());
        };
        self.tally.committed += 1;
        self.committed_on = self.day;
        self.behaved = if self.lasting.wild > self.day { 0 } else { self.behaved.saturating_add(1) };
        self.oracle.observe(&objects);
        self.oracle.unexplained(self.day, &objects)?;
        let id = done.record.id;
        if !objects.contains_key(format!("{ENVIRONMENT}/snapshots/{id}.json").as_str()) {
            return Err(self.broken(format!("the run {id} reported a commit, but its record does not exist")));
        }
        let mut all_done = done.failures.is_empty() && done.record.complete;
        match &done.retention {
            Retention::Applied(_, applied) => {
                all_done &= applied.failures.is_empty() && !applied.interrupted;
                self.tally.forgotten += applied.forgotten.len() as u64;
            }
            Retention::Frozen { .. } | Retention::Refused(_) => all_done = false,
        }
        if !all_done {
            return Ok(());
        }
        self.tally.succeeded += 1;
        for (name, source) in &done.record.sources {
            let Some(truth) = truths.get(name) else { continue };
            let object = source.object.as_ref().and_then(|object| objects.get(&object.key));
            if object.is_none_or(|object| object.bytes != truth.content()) {
                return Err(
                    self.broken(format!("the run {id} claims to hold {name}, but its object holds something else"))
                );
            }
            if !truth.is_sound() {
                return Err(self.broken(format!("the run {id} reported complete success, but {name} is not sound")));
            }
        }
        Ok(())
    }
}
