//! `get`: single documents of a snapshot, to stdout or to files.
//!
//! A document is written whole and checked, or not at all, and nothing that exists is overwritten.

use crate::archive;
use crate::choice::{self, Which};
use crate::report::{FORMAT_VERSION, Report};
use crate::session::Session;
use base::error::{Class, Error, Result, reason};
use base::stream::interrupted_error;
use documents::{self, Content, Got, Target, shown_path};
use indicatif::HumanBytes;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::FileTimes;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};
use tempfile::NamedTempFile;
use tokio_util::sync::CancellationToken;

/// The command-line arguments.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Name of the environment in the configuration
    #[arg(long = "env", value_name = "NAME")]
    pub environment: String,
    #[command(flatten)]
    pub(crate) which: Which,
    /// Source to read; optional if there is only one folder
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// A new file or an existing folder [default: stdout]
    #[arg(long, value_name = "FILE_OR_DIR")]
    output: Option<PathBuf>,
    /// Read the archive in one pass without its index, if the index is damaged
    #[arg(long)]
    ignore_index: bool,
    /// Paths of the documents, relative to the documents folder
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<OsString>,
}

/// Reads documents back.
///
/// # Errors
/// [`Class::Usage`] if a document does not exist or a file would be overwritten; [`Class::Stale`] for damage.
pub async fn run(
    session: &Session,
    arguments: &Arguments,
    json: bool,
    interrupted: impl Future<Output = ()>,
) -> Result<Report> {
    let targets = targets(arguments, json)?;
    let stop = CancellationToken::new();
    let work = get(session, arguments, &targets, &stop);
    tokio::select! {
        report = work => report,
        () = interrupted => Err(interrupted_error()),
    }
}

async fn get(
    session: &Session,
    arguments: &Arguments,
    targets: &[Option<PathBuf>],
    stop: &CancellationToken,
) -> Result<Report> {
    let history = session.history(session.clock.now()).await?;
    let (source, _) = choice::folder(session, arguments.source.as_deref())?;
    let snapshot = choice::snapshot(&history, &arguments.which, choice::Wanted::Source(source), &session.time_zone)?;
    let object = choice::object(snapshot, source)?;
    let archive = archive::open(&session.store, &history, object, arguments.ignore_index).await?;
    tracing::info!(snapshot = %snapshot.id, object = %object.key, "reading");
    let (mut text, mut documents) = (String::new(), Vec::new());
    for (path, target) in arguments.paths.iter().zip(targets) {
        let file = target.as_deref().map(Unfinished::new).transpose()?;
        let goal = file.as_ref().map(Unfinished::target).transpose()?;
        let Got { document, content } = documents::get(&archive, path.as_bytes(), goal, stop).await?;
        let shown = shown_path(&document.path);
        if let Some(target) = target {
            let _ = writeln!(text, "{} ({}) of {shown}", target.display(), HumanBytes(document.size_bytes));
        }
        documents.push(json!({
            "path": shown,
            "bytes": document.size_bytes,
            "sha256": document.sha256,
            "output": target.as_ref().map(|target| target.to_string_lossy()),
        }));
        let modified = document.modified;
        let written = tokio::task::spawn_blocking(move || match file {
            Some(file) => file.finish(modified),
            None => print(content),
        });
        written.await.map_err(|error| Error::unexpected(format!("the writing thread ended: {error}")))??;
    }
    let document = json!({
        "format_version": FORMAT_VERSION,
        "environment": session.environment.as_str(),
        "snapshot": snapshot.id,
        "source": source,
        "object": object.key,
        "documents": Value::from(documents),
    });
    Ok(Report { document, text, failure: None })
}

/// The target of each document; `None` is stdout.
fn targets(arguments: &Arguments, json: bool) -> Result<Vec<Option<PathBuf>>> {
    let usage = |text: String| Error::new(Class::Usage, text);
    let Some(output) = &arguments.output else {
        return match arguments.paths.len() {
            1 if json => Err(usage("--json and a document cannot both be written to stdout".to_owned())
                .hint("name a file with --output")),
            1 => Ok(vec![None]),
            _ => {
                Err(usage("several documents cannot be written to stdout".to_owned())
                    .hint("name a folder with --output"))
            }
        };
    };
    let several = arguments.paths.len() > 1;
    if several && !output.is_dir() {
        return Err(usage(format!("{} is not a folder, but several documents were requested", output.display()))
            .hint("create the folder first"));
    }
    let mut seen = BTreeSet::new();
    let target = |path: &OsString| {
        let target =
            if output.is_dir() { output.join(Path::new(path).file_name().unwrap_or_default()) } else { output.clone() };
        if target.symlink_metadata().is_ok() || !seen.insert(target.clone()) {
            return Err(usage(format!("{} already exists and is not overwritten", target.display()))
                .hint("name another file, or extract documents with the same name one by one"));
        }
        Ok(Some(target))
    };
    arguments.paths.iter().map(target).collect()
}

fn print(mut content: Content) -> Result<()> {
    let mut out = io::stdout().lock();
    match io::copy(&mut content, &mut out).and_then(|_| out.flush()) {
        // A reader such as `head` may close the pipe early; that is not an error.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::unexpected(format!("writing the document: {}", reason(&error))))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// A file that gets its name only when it is complete. If it is dropped before, it is removed.
struct Unfinished {
    file: NamedTempFile,
    path: PathBuf,
}

impl Unfinished {
    fn new(path: &Path) -> Result<Self> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
        let file = NamedTempFile::new_in(folder).map_err(|error| failed(path, &error))?;
        Ok(Self { file, path: path.to_owned() })
    }

    fn target(&self) -> Result<Target> {
        let file = self.file.as_file().try_clone().map_err(|error| failed(&self.path, &error))?;
        Ok(Target { file, path: self.path.clone() })
    }

    fn finish(self, (seconds, nanoseconds): (i64, u32)) -> Result<()> {
        let Self { file, path } = self;
        // A time before 1970 is not worth a failure here.
        if let Ok(seconds) = u64::try_from(seconds) {
            let modified = UNIX_EPOCH + Duration::new(seconds, nanoseconds);
            let times = FileTimes::new().set_modified(modified);
            file.as_file().set_times(times).map_err(|error| failed(&path, &error))?;
        }
        file.as_file().sync_all().map_err(|error| failed(&path, &error))?;
        file.persist_noclobber(&path).map(drop).map_err(|error| failed(&path, &error.error))
    }
}

fn failed(target: &Path, error: &io::Error) -> Error {
    Error::config(format!("{} cannot be written: {}", target.display(), reason(error)))
        .hint("choose another place with --output")
}
