//! `find`: the documents of a snapshot that match a pattern, by its index; no document is read.

use crate::archive;
use crate::choice::{self, Which};
use crate::report::document::{described, value};
use crate::report::{FORMAT_VERSION, Report};
use crate::session::Session;
use base::error::{Class, Error, Result};
use catalogue::history::Object;
use documents::{self, Document, shown_path};
use globset::{GlobBuilder, GlobMatcher};
use jiff::tz::TimeZone;
use serde_json::json;
use std::ffi::OsStr;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use tokio_util::sync::CancellationToken;

/// Most documents of one JSON object; lines of text have no limit, because they are written as they are found.
const FOUND_MAX: usize = 100_000;

/// The command-line arguments.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Name of the environment in the configuration
    #[arg(long = "env", value_name = "NAME")]
    pub environment: String,
    #[command(flatten)]
    which: Which,
    /// Source to read; optional if there is only one folder
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// A glob: `*.pdf` matches file names at any depth, `facture/**/*.pdf` matches whole paths
    #[arg(value_name = "PATTERN")]
    pattern: String,
}

/// Lists the documents of a snapshot that match. As text, each is written when it is found.
///
/// # Errors
/// [`Class::Usage`] for an invalid pattern; [`Class::Stale`] if the archive has no index, or a damaged one.
pub async fn run(session: &Session, arguments: &Arguments, as_json: bool) -> Result<Report> {
    let matcher = PathGlob::new(&arguments.pattern)?;
    let history = session.history(session.clock.now()).await?;
    let (source, _) = choice::folder(session, arguments.source.as_deref())?;
    let snapshot = choice::snapshot(&history, &arguments.which, choice::Wanted::Source(source), &session.time_zone)?;
    let object = choice::object(snapshot, source)?;
    let archive = archive::open(&session.store, &history, object, false).await?;
    let found = Arc::new(Mutex::new((Vec::new(), 0_u64)));
    let (list, zone) = (Arc::clone(&found), session.time_zone.clone());
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
        "environment": session.environment.as_str(),
        "snapshot": snapshot.id,
        "source": source,
        "total": total,
        "documents": list,
    });
    Ok(Report { document, text: format!("{total} found in snapshot {}\n", snapshot.id), failure: None })
}

fn no_index(object: &Object) -> Error {
    Error::new(Class::Stale, format!("the archive {} has no index to search", object.key))
        .hint("read one document with `get --env E PATH`, or list them with `tar -tzf`")
}

/// A glob over names or over whole paths.
#[derive(Debug)]
struct PathGlob {
    glob: GlobMatcher,
    of_names: bool,
}

impl PathGlob {
    fn new(text: &str) -> Result<Self> {
        let glob =
            GlobBuilder::new(text.trim_start_matches("./")).literal_separator(true).build().map_err(|error| {
                let text = base::text::printable(text);
                Error::new(Class::Usage, format!("`{text}` is not a valid pattern: {}", error.kind()))
                    .hint("quote the pattern, as in '*.pdf' or 'facture/FA26*/*'")
            })?;
        Ok(Self { glob: glob.compile_matcher(), of_names: !text.contains('/') })
    }

    fn matches(&self, path: &[u8]) -> bool {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
        !path.is_empty() && self.glob.is_match(Path::new(OsStr::from_bytes(if self.of_names { name } else { path })))
    }
}

fn line(document: &Document, zone: &TimeZone) -> String {
    let first = document.first.as_ref().map_or_else(String::new, |first| format!(" = {}", shown_path(first)));
    format!("{}  {}{first}\n", described(document, zone), shown_path(&document.path))
}

/// Writes a line to stdout; returns whether the reader is still there.
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
            assert_eq!(PathGlob::new(pattern).unwrap().matches(path.as_bytes()), expected, "{pattern} {path}");
        }
        assert!(PathGlob::new("*.txt").unwrap().matches(b"d/caf\xe9.txt"));
        assert_eq!(PathGlob::new("[").unwrap_err().class(), Class::Usage);
    }
}
