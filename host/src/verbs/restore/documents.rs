//! The documents side of `restore`: the plan and the report.

use super::Arguments;
use crate::archive;
use crate::report::Report;
use crate::saved::SavedSource;
use crate::session::Session;
use base::error::Result;
use base::stream::interrupted_error;
use base::telemetry;
use base::text::counted;
use documents::{self, PROBLEMS_MAX, restore};
use indicatif::HumanBytes;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Number of entries without their attributes or time that are printed. On some file systems, every entry is one.
const LACKING_SHOWN_MAX: usize = 20;

/// What is known of an archive before it is unpacked.
struct Plan {
    archive: documents::Archive,
    files: Option<u64>,
    folders: Option<u64>,
    /// `None` if only the size of the archive itself is known.
    bytes: Option<u64>,
}

pub(super) async fn run(
    session: &Session,
    chosen: SavedSource<'_>,
    arguments: &Arguments,
    interrupted: impl Future<Output = ()>,
) -> Result<Report> {
    let stop = CancellationToken::new();
    let plan = plan(session, chosen, arguments, &stop).await?;
    let into = arguments.into.display();
    let mut text = chosen.text(session);
    let _ = writeln!(text, "  {:<10} {into}, {}", "into", plan.describe());
    let mut value = chosen.value();
    plan.add_to(&mut value, &arguments.into);
    let needed_bytes = plan.bytes.unwrap_or(chosen.object.bytes);
    let entries = plan.files.unwrap_or(0) + plan.folders.unwrap_or(0);
    restore::check_target(&arguments.into, needed_bytes, entries)?;
    if arguments.dry_run {
        return Ok(super::report(session, text, &value, None));
    }
    for line in text.lines() {
        tracing::info!("{}", line.trim_start());
    }
    let archive = observed(plan.archive, telemetry::bar("restoring", Some(chosen.object.bytes)));
    let id = format!("{:08x}", rand::random::<u32>());
    let work = restore::restore(&archive, arguments.into.clone(), id, &stop);
    let mut work = std::pin::pin!(work);
    let restored = tokio::select! {
        restored = &mut work => restored,
        () = interrupted => {
            stop.cancel();
            // It ends at its next file, and removes what it made.
            work.await.and(Err(interrupted_error()))
        }
    }?;
    let _ = writeln!(
        text,
        "restored {} ({}) and {} to {into}",
        counted(restored.files, "file"),
        HumanBytes(restored.bytes),
        counted(restored.folders, "folder"),
    );
    if !restored.owners {
        text.push_str(
            "warning: the files belong to this user; only root can restore owners and the setuid and setgid bits\n",
        );
    }
    for problem in &restored.skipped {
        let _ = writeln!(text, "warning: {}: {}", problem.path, problem.reason);
    }
    let shown = restored.lacking.iter().take(LACKING_SHOWN_MAX);
    for problem in shown.clone() {
        let _ = writeln!(text, "warning: {}: {}", problem.path, problem.reason);
    }
    if let Some(more @ 1..) = restored.lacking_total.checked_sub(shown.len() as u64) {
        let _ = writeln!(text, "warning: and {more} more; --json lists the first {PROBLEMS_MAX}");
    }
    if restored.is_compared {
        let _ = writeln!(text, "compared: equal to {}", restore::COMPARED_WITH_INDEX);
    } else {
        text.push_str("compared: not compared, because the archive has no index or the index was ignored\n");
    }
    if let Some(more @ 1..) = restored.skipped_total.checked_sub(restored.skipped.len() as u64) {
        let _ = writeln!(text, "warning: and {more} more that were left out");
    }
    let listed = |problems: &[documents::Problem]| -> Vec<Value> {
        problems.iter().map(|problem| json!({ "path": problem.path, "reason": problem.reason })).collect()
    };
    let restored = json!({
        "files": restored.files,
        "folders": restored.folders,
        "bytes": restored.bytes,
        "owners": restored.owners,
        "skipped_total": restored.skipped_total,
        "skipped": listed(&restored.skipped),
        "lacking_total": restored.lacking_total,
        "lacking": listed(&restored.lacking),
        "compared": if restored.is_compared { "equal" } else { "unknown" },
    });
    Ok(super::report(session, text, &value, Some(restored)))
}

async fn plan(
    session: &Session,
    chosen: SavedSource<'_>,
    arguments: &Arguments,
    stop: &CancellationToken,
) -> Result<Plan> {
    let archive = archive::open(&session.store, chosen.history, chosen.object, arguments.ignore_index).await?;
    let plan = match restore::survey(&archive, stop).await? {
        Some(survey) => {
            Plan { archive, files: Some(survey.files), folders: Some(survey.folders), bytes: Some(survey.bytes) }
        }
        None => {
            let recorded = archive::recorded(chosen.history, &chosen.object.key);
            let (files, bytes) = (recorded.map(|record| record.files), recorded.map(|record| record.bytes));
            Plan { archive, files, folders: None, bytes }
        }
    };
    Ok(plan)
}

impl Plan {
    fn describe(&self) -> String {
        let how = if self.archive.index.is_some() { "by its index" } else { "without an index, in one pass" };
        match (self.files, self.bytes) {
            (Some(files), Some(bytes)) => format!("{}, {}, {how}", counted(files, "file"), HumanBytes(bytes)),
            _ => format!("content unknown, {how}"),
        }
    }

    fn add_to(&self, value: &mut Value, into: &std::path::Path) {
        value["index"] = json!(self.archive.index.as_ref().map(|index| &index.name));
        value["files"] = json!(self.files);
        value["folders"] = json!(self.folders);
        value["bytes"] = json!(self.bytes);
        value["into"] = json!(into.to_string_lossy());
    }
}

/// The same archive, whose bytes are counted on a bar.
fn observed(archive: documents::Archive, bar: indicatif::ProgressBar) -> documents::Archive {
    let fetch = Arc::clone(&archive.object.fetch);
    let fetch: documents::Fetch = Arc::new(move |range| {
        let (read, bar) = (fetch(range), bar.clone());
        Box::pin(async move { Ok(read.await?.observed(bar)) })
    });
    documents::Archive { object: documents::StoredObject { fetch, ..archive.object }, index: archive.index }
}
