//! `unforget`: a snapshot leaves the bin and is kept.

use crate::exclusive::{check_clock, check_file, environment_file, exclusively};
use crate::report::{self, Report};
use crate::session::Session;
use base::error::{Class, Error, Result};
use base::id::SnapshotId;
use catalogue::environment;
use serde_json::json;
use store::Deleted;

/// The command-line arguments.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Name of the environment in the configuration
    #[arg(long = "env", value_name = "NAME")]
    pub environment: String,
    /// ID of the snapshot, as shown by `list`
    #[arg(value_name = "ID")]
    id: String,
    /// Stop keeping the snapshot, so that it may be forgotten again
    #[arg(long)]
    release: bool,
}

/// Takes a snapshot out of the bin, and keeps it from then on; with `release` it may go again.
///
/// # Errors
/// [`Class::Usage`] for an unknown snapshot.
pub async fn run(session: &Session, arguments: &Arguments) -> Result<Report> {
    let (now, release) = (session.clock.now(), arguments.release);
    let id: SnapshotId =
        arguments.id.parse().map_err(|error| Error::new(Class::Usage, error).hint("`list` shows the ids"))?;
    exclusively(session, now, async |lease, history| {
        let Some(snapshot) = history.snapshot(id) else {
            let state = if history.forgotten.contains_key(&id) { "is deleted" } else { "does not exist" };
            return Err(Error::new(Class::Usage, format!("the snapshot {id} {state}"))
                .hint("`list` shows the existing snapshots"));
        };
        let stored = environment_file(session, &history)?;
        check_clock(session, lease, now)?;
        check_file(session, &history)?;
        lease.check().await?;
        let mut next = stored.file.clone();
        let changed = if release {
            next.kept.remove(&id)
        } else {
            // One that was retired by mistake serves again. What is from the future is kept until its time has come,
            // and serves nothing before.
            let was_ahead = !catalogue::clock::is_ahead(id, now) && next.retired_ahead.remove(&id);
            was_ahead | next.retired_snapshots.remove(&id) | next.given_up_records.remove(&id) | next.kept.insert(id)
        };
        next.reason = format!("unforget {id}{}", if release { " --release" } else { "" });
        if changed {
            environment::write(&session.store, &session.environment, Some(stored), None, next, now).await?;
        }
        // From here on the next plan keeps it, also where the certificate cannot be deleted.
        if !release && snapshot.binned.is_some() {
            let deleted = session.store.delete(&catalogue::keys::certificate_key(&session.environment, id)?).await?;
            if deleted == Deleted::Retained {
                tracing::warn!("the store refused to delete the certificate of {id} (object lock or retention rule)");
            }
        }
        let outcome = match (release, changed) {
            (true, true) => "may be forgotten again",
            (true, false) => "was not kept by `unforget`",
            (false, _) => "is kept until you run `unforget --release`",
        };
        let document = json!({
            "format_version": report::FORMAT_VERSION,
            "environment": session.environment.as_str(),
            "snapshot": id,
            "kept": !release,
            "changed": changed,
        });
        Ok(Report {
            document,
            text: format!("the snapshot {id} of {} {outcome}\n", session.environment),
            failure: None,
        })
    })
    .await
}
