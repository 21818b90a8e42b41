//! Notes a restore into the environment itself in the environment's file.

use crate::exclusive::{check_clock, check_file, exclusively};
use crate::identities::identities;
use crate::session::Session;
use base::error::Result;
use base::id::SnapshotId;
use catalogue::environment;

/// Notes that a restore replaced a source, so that the next run does not compare it with what was there before.
pub async fn replaced(session: &Session, source: &str) -> Result<()> {
    let now = session.clock.now();
    let identity = identities(session).await.remove(source);
    exclusively(session, now, async |lease, history| {
        check_clock(session, lease, now)?;
        // Without a file, no question would be asked.
        let Some(stored) = &history.environment else { return Ok(()) };
        check_file(session, &history)?;
        let mut next = stored.file.clone();
        next.replaced.insert(source.to_owned(), SnapshotId::at(now));
        if let (Some(known), Some(identity)) = (next.sources.get_mut(source), identity) {
            known.identity = Some(identity);
        }
        next.reason = format!("restore of {source} into the environment itself");
        lease.check().await?;
        environment::write(&session.store, &session.environment, Some(stored), None, next, now).await.map(drop)
    })
    .await
}
