//! `init`: the first version of the environment's own file.

use crate::exclusive::{check_clock, check_file, check_formats, exclusively};
use crate::identities::identities;
use crate::report::{self, Report};
use crate::session::Session;
use base::error::Result;
use base::text::counted;
use catalogue::environment::{self, EnvironmentFile};
use catalogue::history::History;
use catalogue::questions;
use serde_json::json;
use std::fmt::Write as _;

/// The command-line arguments.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Name of the environment in the configuration
    #[arg(long = "env", value_name = "NAME")]
    pub environment: String,
}

/// Creates the environment's file, and shows what is in the store. Changes nothing if the file exists.
///
/// # Errors
/// [`base::error::Class::Config`] if this machine's clock and the store's differ too much.
pub async fn run(session: &Session) -> Result<Report> {
    let now = session.clock.now();
    let load = async || session.history(now).await;
    let history = load().await?;
    if is_initialised(&history) {
        return Ok(report_of(session, &history, false));
    }
    session.check_apart()?;
    let identities = identities(session).await;
    let made = exclusively(session, now, async |lease, history| {
        check_clock(session, lease, now)?;
        check_formats(&history)?;
        if is_initialised(&history) {
            return Ok((history, false));
        }
        if history.environment.is_some() {
            check_file(session, &history)?;
        }
        lease.check().await?;
        let zone = session.time_zone_name();
        // What was answered before still holds, as far as a version is readable.
        let newest = history.environment.as_ref();
        let file = match (newest, &history.readable_before) {
            // Writing any new version adds the key of fingerprints, which files of version 1 lack.
            (Some(newest), _) => {
                EnvironmentFile { reason: "init: the key of fingerprints".to_owned(), ..newest.file.clone() }
            }
            (None, Some(before)) => EnvironmentFile {
                reason: format!("init: the version after {} could not be read", before.stamp),
                ..before.file.clone()
            },
            (None, None) => {
                let mut first = EnvironmentFile::first(
                    &session.environment,
                    &session.sources.configured,
                    &identities,
                    &session.guard,
                    zone,
                    now,
                );
                first.retention = Some(session.retention.clone());
                questions::expect_recorded(&mut first, &history, now);
                first
            }
        };
        // The stamp of a version that cannot be read must not stay the newest.
        let before = newest.or(history.readable_before.as_ref());
        environment::write(&session.store, &session.environment, before, history.newest_file(), file, now).await?;
        Ok((load().await?, true))
    });
    let (history, made) = made.await?;
    Ok(report_of(session, &history, made))
}

/// Whether there is nothing left for `init` to write.
fn is_initialised(history: &History) -> bool {
    history.environment_damage.is_none() && history.seal_key().is_some()
}

fn report_of(session: &Session, history: &History, made: bool) -> Report {
    let now = session.clock.now();
    let (environment, store) = (&session.environment, session.store.describe());
    let state = if made { "is initialised" } else { "is already initialised; nothing was changed" };
    let mut text = format!("{environment} in {store} {state}\n");
    let id = history.environment.as_ref().map(|stored| stored.file.id.clone());
    if let Some(stored) = &history.environment {
        for (name, source) in &stored.file.sources {
            let identity = source.identity.as_deref().map(|identity| format!(", {identity}")).unwrap_or_default();
            let _ = writeln!(text, "  {name:<10} {}{identity}", source.kind);
        }
    }
    let adopted = history.snapshots.iter().filter(|snapshot| snapshot.adopted).count();
    let recorded = history.snapshots.len() - adopted;
    let found = counted(recorded, "snapshot");
    let _ = writeln!(text, "  found      {found}, and {adopted} adopted from objects without a record");
    if adopted > 0 {
        let _ = writeln!(text, "  adopted snapshots are kept until you run `accept --env {environment} --adopted`");
    }
    let document = json!({
        "format_version": report::FORMAT_VERSION,
        "environment": environment.as_str(),
        "made": made,
        "id": id,
        "snapshots": recorded,
        "adopted": adopted,
        "waiting": report::questions_value(&questions::questions(session.asked(), history, now)),
    });
    Report { document, text, failure: None }
}
