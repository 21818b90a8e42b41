//! Other runs that want the lease, or had it.

use super::mark::{LeaseMark, read_mark};
use super::{Abandoned, LIFE};
use crate::configured::Environment;
use base::error::{Class, Error, Result};
use jiff::{SignedDuration, Timestamp};
use store::{Meta, ObjectKey, Store};

pub(super) struct Rival {
    mark: Option<LeaseMark>,
    pub(super) age: SignedDuration,
}

pub(super) struct Rivals {
    /// When this run's mark was written, by the store's time.
    pub(super) now: Timestamp,
    pub(super) live: Vec<Rival>,
    pub(super) abandoned: Vec<Abandoned>,
    /// Marks that are younger than this run's by more than a lease's life, because the store's clock was set back.
    /// Their age does not show whether they are renewed.
    pub(super) from_the_future: Vec<(ObjectKey, Timestamp, Option<LeaseMark>)>,
}

impl Rivals {
    /// Checks whether the marks from the future were renewed in the meantime, which gives them the current time.
    pub(super) async fn recheck_future_marks(&mut self, store: &Store, environment: &Environment) -> Result<()> {
        let marks = store.list(&format!("{environment}/leases/")).await?;
        for (key, modified, mark) in std::mem::take(&mut self.from_the_future) {
            let Some(meta) = marks.iter().find(|meta| meta.key == key) else { continue };
            match mark {
                mark if meta.modified != modified => self.live.push(Rival { mark, age: SignedDuration::MAX }),
                Some(mark) => self.abandoned.push(Abandoned { mark, key }),
                None => warn_unreadable(&key),
            }
        }
        Ok(())
    }
}

/// Finds the other marks of an environment, with their age relative to this run's mark.
pub(super) async fn find(store: &Store, environment: &Environment, own: &ObjectKey) -> Result<Rivals> {
    let marks = store.list(&format!("{environment}/leases/")).await?;
    let Some(now) = marks.iter().find(|meta| &meta.key == own).map(|meta| meta.modified) else {
        return Err(Error::unavailable("the store does not list what was just written to it")
            .hint("the lease needs a store that lists its own writes at once, as S3 has done since 2020"));
    };
    let mut rivals = Rivals { now, live: Vec::new(), abandoned: Vec::new(), from_the_future: Vec::new() };
    for Meta { key, modified, .. } in marks.into_iter().filter(|meta| &meta.key != own) {
        let Some(bytes) = store.get(&key).await? else { continue };
        let mark = read_mark(&bytes);
        let age = now.duration_since(modified);
        let dead = age > LIFE || mark.as_ref().is_some_and(LeaseMark::is_of_a_dead_process);
        match (dead, mark) {
            (true, Some(mark)) => rivals.abandoned.push(Abandoned { mark, key }),
            (true, None) => warn_unreadable(&key),
            (false, mark) if age < -LIFE => rivals.from_the_future.push((key, modified, mark)),
            (false, mark) => rivals.live.push(Rival { mark, age }),
        }
    }
    Ok(rivals)
}

/// It is unknown which run wrote the mark, so nothing is cleaned up for it. The mark stays until a person removes it.
fn warn_unreadable(key: &ObjectKey) {
    tracing::warn!("{key} is not a readable lease mark");
}

pub(super) fn held_error(environment: &Environment, live: &[Rival]) -> Error {
    let who = live.iter().find_map(|rival| {
        let mark = rival.mark.as_ref()?;
        let run = mark.run.map(|run| format!("run {run}, ")).unwrap_or_default();
        Some(format!(" ({run}process {} on {})", mark.process.pid, base::text::printable(&mark.host)))
    });
    Error::new(Class::Held, format!("another run holds the lease of {environment}{}", who.unwrap_or_default()))
        .hint(format!("wait for it to end; if it died, its lease expires {} s after its last renewal", LIFE.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::{Lease, Machine};
    use std::sync::Arc;
    use store::memory::Memory;

    #[tokio::test(start_paused = true)]
    async fn an_unreadable_mark_blocks_no_run_forever_whatever_its_time() {
        let environment = &crate::configured::Environment::new("prod").unwrap();
        let now: Timestamp = "2026-06-30T01:00:00Z".parse().unwrap();
        for (ahead, is_free) in [(-600, true), (0, false), (600, true), (315_360_000, true)] {
            let memory = Memory::new(now + SignedDuration::from_secs(ahead));
            memory.place(ObjectKey::parse("prod/leases/torn.json").unwrap(), bytes::Bytes::from_static(b"{"));
            memory.set_now(now);
            let taken = Lease::take(
                &Arc::new(Store::Memory(memory)),
                environment,
                Machine { monotonic: || 1_000_000, ..Machine::OWN },
            )
            .await;
            assert_eq!(taken.is_ok(), is_free, "{ahead} s ahead: {taken:?}");
        }
    }
}
