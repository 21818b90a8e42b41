//! What every verb does that writes and is no run: alone in its environment, after what killed runs left is cleared away.

use crate::backup::sweep;
use crate::error::Result;
use crate::history::{self, History};
use crate::host::Host;
use crate::lease::{Lease, since_boot};
use jiff::Timestamp;

/// Does some work under the environment's lease, on a history that was read under it.
///
/// # Errors
/// The lease's, the store's, and those of the work.
pub async fn exclusively<T>(
    host: &Host,
    now: Timestamp,
    work: impl AsyncFnOnce(&Lease, History) -> Result<T>,
) -> Result<T> {
    let (lease, abandoned) = Lease::take(&host.store, &host.environment, since_boot).await?;
    let lease = lease.and(host.cluster_lease().await).await?;
    let done = async {
        let history = history::load(&host.store, &host.environment, &host.sources, now).await?;
        sweep(&host.store, &host.environment, &lease, abandoned, &history).await?;
        work(&lease, history).await
    }
    .await;
    lease.release().await;
    done
}
