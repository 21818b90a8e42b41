//! `find` and `history`: what a snapshot's index says of documents, without reading the documents.

use crate::choice::{self, Which};
use crate::config::Source;
use crate::report::{self, FORMAT_VERSION, Report};
use crate::session::Host;
use base::error::{Class, Error, Result};
use base::id::SnapshotId;
use catalogue::history::{self, Object};
use documents::{self, Document, shown_path};
use globset::{GlobBuilder, GlobMatcher};
use indicatif::{HumanBytes, HumanCount};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use tokio_util::sync::CancellationToken;

/// Most documents of one JSON object; lines of text have no limit, because they are written as they are found.
const FOUND_MAX: usize = 100_000;

/// What the person asked `find` for.
#[derive(Debug, Clone, clap::Args)]
pub struct FindArguments {
    /// Environment, as the configuration names it
    #[arg(long = "env", value_name = "NAME")]
    pub environment: String,
    #[command(flatten)]
    which: Which,
    /// Which source; may be left out where there is one folder alone
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// A glob: `*.pdf` finds names at any depth, `facture/**/*.pdf` whole paths
    #[arg(value_name = "PATTERN")]
    pattern: String,
}

/// What the person asked `history` for.
#[derive(Debug, Clone, clap::Args)]
pub struct VersionsArguments {
    /// Environment, as the configuration names it
    #[arg(long = "env", value_name = "NAME")]
    pub environment: String,
    /// Which source; may be left out where there is one folder alone
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// A document, by its path below the documents folder
    #[arg(value_name = "PATH")]
    path: OsString,
}

/// Lists the documents of a snapshot that match. As text, each is written when it is found.
///
/// # Errors
/// Of class [`Class::Usage`] for a pattern that is none; [`Class::Stale`] where the archive has no index, or a damaged one.
pub async fn find(host: &Host, arguments: &FindArguments, as_json: bool) -> Result<Report> {
    let matcher = Pattern::new(&arguments.pattern)?;
    let history = history::load(&host.store, &host.environment, &host.sources.configured, host.clock.now()).await?;
    let (source, _) = choice::source(host, arguments.source.as_deref(), is_folder)?;
    let snapshot = choice::snapshot(&history, &arguments.which, choice::Wanted::Source(source), &host.time_zone)?;
    let object = choice::object(snapshot, source)?;
    let archive = choice::archive(host, &history, object, false).await?;
    let found = Arc::new(Mutex::new((Vec::new(), 0_u64)));
    let (list, zone) = (Arc::clone(&found), host.time_zone.clone());
    let each = move |document: Document| {
        if !matcher.matches(&document.path) {
            return Ok(true);
        }
        let mut found = list.lock().unwrap_or_else(PoisonError::into_inner);
        found.1 += 1;
        if !as_json {
            return written(&line(&document, &zone));
        }
        if found.0.len() < FOUND_MAX {
            found.0.push(value(&document));
        }
        Ok(true)
    };
    if !documents::each(&archive, &CancellationToken::new(), each).await? {
        return Err(no_index(object));
    }
    let (list, total) = std::mem::take(&mut *found.lock().unwrap_or_else(PoisonError::into_inner));
    let document = json!({
        "format_version": FORMAT_VERSION,
        "environment": host.environment.as_str(),
        "snapshot": snapshot.id,
        "source": source,
        "total": total,
        "documents": list,
    });
    Ok(Report { document, text: format!("{total} found in snapshot {}\n", snapshot.id), failure: None })
}

/// Shows the versions of one document that the snapshots hold, newest first.
///
/// # Errors
/// Of class [`Class::Usage`] when no snapshot has it; the store's.
pub async fn versions(host: &Host, arguments: &VersionsArguments) -> Result<Report> {
    let history = history::load(&host.store, &host.environment, &host.sources.configured, host.clock.now()).await?;
    let (source, _) = choice::source(host, arguments.source.as_deref(), is_folder)?;
    let path = arguments.path.as_bytes();
    let (mut versions, mut unknown) = (Vec::<(Option<Document>, Vec<SnapshotId>)>::new(), Vec::new());
    let mut last: Option<(&Object, Option<Document>)> = None;
    for snapshot in history.snapshots.iter().rev() {
        let Ok(object) = choice::object(snapshot, source) else { continue };
        let known = last.as_ref().filter(|(same, _)| same.key == object.key).map(|(_, document)| document.clone());
        let document = match known {
            Some(document) => document,
            None => {
                let archive = choice::archive(host, &history, object, false).await?;
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
            .hint(format!("`get --snapshot {newest} PATH` reads one of them to its end")));
        }
        return Err(Error::new(Class::Usage, format!("no snapshot has a document `{shown}`"))
            .hint("`find` lists what a snapshot has; a path is relative to the documents folder"));
    }
    let mut text = String::new();
    for (document, ids) in &versions {
        let (newest, oldest) = (ids.first().copied(), ids.last().copied());
        let range = newest.zip(oldest).map_or_else(String::new, |(newest, oldest)| {
            if newest == oldest { newest.to_string() } else { format!("{oldest} to {newest}") }
        });
        let said =
            document.as_ref().map_or_else(|| "not there".to_owned(), |document| described(document, &host.time_zone));
        let _ = writeln!(text, "{said}  in {range} ({} snapshots)", ids.len());
    }
    if !unknown.is_empty() {
        let _ = writeln!(text, "note: {} snapshots have an archive without an index; `get` reads them", unknown.len());
    }
    let list: Vec<Value> = versions
        .iter()
        .map(|(document, ids)| json!({ "document": document.as_ref().map(value), "snapshots": ids }))
        .collect();
    let document = json!({
        "format_version": FORMAT_VERSION,
        "environment": host.environment.as_str(),
        "source": source,
        "path": shown_path(path),
        "versions": list,
        "without_index": unknown,
    });
    Ok(Report { document, text, failure: None })
}

fn is_folder(source: &Source) -> bool {
    matches!(source, Source::Directory(_))
}

fn no_index(object: &Object) -> Error {
    Error::new(Class::Stale, format!("the archive {} has no index to search", object.key))
        .hint("`get --env E PATH` reads a document without one, `tar -tzf` lists them")
}

/// A glob over names or over whole paths.
#[derive(Debug)]
struct Pattern {
    glob: GlobMatcher,
    of_names: bool,
}

impl Pattern {
    fn new(text: &str) -> Result<Self> {
        let glob =
            GlobBuilder::new(text.trim_start_matches("./")).literal_separator(true).build().map_err(|error| {
                let text = base::text::printable(text);
                Error::new(Class::Usage, format!("`{text}` is no pattern: {}", error.kind()))
                    .hint("quote it: '*.pdf', 'facture/FA26*/*'")
            })?;
        Ok(Self { glob: glob.compile_matcher(), of_names: !text.contains('/') })
    }

    fn matches(&self, path: &[u8]) -> bool {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
        !path.is_empty() && self.glob.is_match(Path::new(OsStr::from_bytes(if self.of_names { name } else { path })))
    }
}

fn described(document: &Document, zone: &TimeZone) -> String {
    let (seconds, _) = document.modified;
    let modified =
        Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |time| report::local(time, zone));
    let sum = document.sha256.as_ref().and_then(|sum| sum.get(..12)).unwrap_or("-");
    format!("{:<6} {:>11}  {modified}  {sum:<12}", document.kind, HumanBytes(document.size_bytes).to_string())
}

fn line(document: &Document, zone: &TimeZone) -> String {
    let first = document.first.as_ref().map_or_else(String::new, |first| format!(" = {}", shown_path(first)));
    format!("{}  {}{first}\n", described(document, zone), shown_path(&document.path))
}

fn value(document: &Document) -> Value {
    let text = String::from_utf8(document.path.clone()).ok();
    json!({
        "path": text,
        "shown": shown_path(&document.path),
        "kind": document.kind,
        "bytes": document.size_bytes,
        "modified": Timestamp::from_second(document.modified.0).ok(),
        "sha256": document.sha256,
        "first_name": document.first.as_ref().map(|first| shown_path(first)),
    })
}

/// Writes a line to stdout; whether somebody still reads.
fn written(line: &str) -> Result<bool> {
    match io::stdout().lock().write_all(line.as_bytes()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Error::unexpected(format!("writing the result: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_without_a_slash_finds_names_and_one_with_it_paths() {
        for (pattern, path, expected) in [
            ("*.pdf", "facture/FA1/FA1.pdf", true),
            ("*.pdf", "facture/pdf", false),
            ("FA1", "facture/FA1", true),
            ("facture/*", "facture/FA1", true),
            ("facture/*", "facture/FA1/FA1.pdf", false),
            ("facture/**", "facture/FA1/FA1.pdf", true),
            ("./facture/FA?/*.pdf", "facture/FA1/FA1.pdf", true),
            ("*", "", false),
            ("caf?*", "x/café", true),
        ] {
            assert_eq!(Pattern::new(pattern).unwrap().matches(path.as_bytes()), expected, "{pattern} {path}");
        }
        assert!(Pattern::new("*.txt").unwrap().matches(b"d/caf\xe9.txt"));
        assert_eq!(Pattern::new("[").unwrap_err().class(), Class::Usage);
    }
}
