//! `history`: the versions of one document across the snapshots, by their indexes; no document is read.

use crate::archive;
use crate::choice;
use crate::report::document::{described, value};
use crate::report::{FORMAT_VERSION, Report};
use crate::session::Session;
use base::error::{Class, Error, Result};
use base::id::SnapshotId;
use base::text::counted;
use catalogue::history::Object;
use documents::{self, Document, shown_path};
use indicatif::HumanCount;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use tokio_util::sync::CancellationToken;

/// The command-line arguments.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Name of the environment in the configuration
    #[arg(long = "env", value_name = "NAME")]
    pub environment: String,
    /// Source to read; optional if there is only one folder
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Path of the document, relative to the documents folder
    #[arg(value_name = "PATH")]
    path: OsString,
}

/// Shows the versions of one document that the snapshots hold, newest first.
///
/// # Errors
/// [`Class::Usage`] if no snapshot has it.
pub async fn run(session: &Session, arguments: &Arguments) -> Result<Report> {
    let history = session.history(session.clock.now()).await?;
    let (source, _) = choice::folder(session, arguments.source.as_deref())?;
    let path = arguments.path.as_bytes();
    let (mut versions, mut unknown) = (Vec::<(Option<Document>, Vec<SnapshotId>)>::new(), Vec::new());
    let mut last: Option<(&Object, Option<Document>)> = None;
    for snapshot in history.snapshots.iter().rev() {
        let Ok(object) = choice::object(snapshot, source) else { continue };
        let known = last.as_ref().filter(|(same, _)| same.key == object.key).map(|(_, document)| document.clone());
        let document = match known {
            Some(document) => document,
            None => {
                let archive = archive::open(&session.store, &history, object, false).await?;
                if archive.index.is_none() {
                    unknown.push(snapshot.id);
                    continue;
                }
                documents::look_up(&archive, path, &CancellationToken::new()).await?
            }
        };
        last = Some((object, document.clone()));
        match versions.last_mut().filter(|(same, _)| *same == document) {
            Some((_, ids)) => ids.push(snapshot.id),
            None => versions.push((document, vec![snapshot.id])),
        }
    }
    if versions.iter().all(|(document, _)| document.is_none()) {
        let shown = shown_path(path);
        if let Some(newest) = unknown.first() {
            let (text, shown_count) = ("without an index were not searched", HumanCount(unknown.len() as u64));
            return Err(Error::new(
                Class::Usage,
                format!("no snapshot with an index has a document `{shown}`, and {shown_count} {text}"),
            )
            .hint(format!("search the newest of them with `get --snapshot {newest} PATH`")));
        }
        return Err(Error::new(Class::Usage, format!("no snapshot has a document `{shown}`"))
            .hint("`find` lists the documents of a snapshot; paths are relative to the documents folder"));
    }
    let mut text = String::new();
    for (document, ids) in &versions {
        let (newest, oldest) = (ids.first().copied(), ids.last().copied());
        let range = newest.zip(oldest).map_or_else(String::new, |(newest, oldest)| {
            if newest == oldest { newest.to_string() } else { format!("{oldest} to {newest}") }
        });
        let description =
            document.as_ref().map_or_else(|| "absent".to_owned(), |document| described(document, &session.time_zone));
        let _ = writeln!(text, "{description}  in {range} ({})", counted(ids.len(), "snapshot"));
    }
    if !unknown.is_empty() {
        let count = counted(unknown.len(), "snapshot");
        let _ = writeln!(text, "note: the archives of {count} have no index; search them with `get`");
    }
    let list: Vec<Value> = versions
        .iter()
        .map(|(document, ids)| json!({ "document": document.as_ref().map(value), "snapshots": ids }))
        .collect();
    let document = json!({
        "format_version": FORMAT_VERSION,
        "environment": session.environment.as_str(),
        "source": source,
        "path": shown_path(path),
        "versions": list,
        "without_index": unknown,
    });
    Ok(Report { document, text, failure: None })
}
