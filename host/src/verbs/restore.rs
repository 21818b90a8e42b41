//! `restore`: chooses a snapshot, shows the plan, and restores one source.
//!
//! It writes nothing to the store, except that a restore over the environment itself is noted in the environment's file.
//! Each kind of source has a module of its own below.

mod database;
mod documents;
mod replaced;

use crate::choice::{self, Which};
use crate::config::Source;
use crate::report::{self, Report};
use crate::saved::SavedSource;
use crate::session::Session;
use base::error::{Class, Error, Result};
use base::scratch::resolve_links;
use catalogue::configured::Environment;
use indicatif::HumanBytes;
use serde_json::{Value, json};
use std::path::PathBuf;
use store::Store;

/// The command-line arguments.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Name of the environment in the configuration
    #[arg(long = "env", value_name = "NAME")]
    pub environment: String,
    #[command(flatten)]
    pub(crate) which: Which,
    /// Source to restore; optional if there is only one
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// For documents: a new or empty folder. For a database: the name of a new database
    #[arg(long, value_name = "DIR|DATABASE")]
    into: PathBuf,
    /// Show what would be restored, without restoring anything
    #[arg(long)]
    dry_run: bool,
    /// Read the archive in one pass without its index, if the index is damaged
    #[arg(long)]
    ignore_index: bool,
    /// Allow restoring over the environment's own database or folder
    #[arg(long)]
    same_environment: bool,
    /// Also restore a snapshot in which the source is partial or suspect
    #[arg(long)]
    allow_partial: bool,
    #[command(flatten)]
    to: Target,
}

/// Where a database is restored to, and how.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
struct Target {
    /// Server to restore to, instead of the environment's own: NAME from [servers.NAME], or
    /// postgres://USER@HOST:5432/postgres
    #[arg(long, value_name = "NAME|URL", conflicts_with = "target_env")]
    server: Option<String>,
    /// Restore to the server of another environment, such as a sandbox
    #[arg(long, value_name = "NAME")]
    target_env: Option<String>,
    /// After restoring and checking, rename the new database to this name; a database that already has it is kept under
    /// another name
    #[arg(long, value_name = "DATABASE")]
    swap: Option<String>,
    /// Replace an existing database named by --into, after the new one is restored and checked
    #[arg(long, conflicts_with = "swap")]
    overwrite: bool,
    /// Role that will own the database and everything in it [default: the owner of the replaced database, or the
    /// connecting user]
    #[arg(long, value_name = "ROLE")]
    owner: Option<String>,
    /// Put the database in place even if it differs from the record; the differences are shown
    #[arg(long)]
    accept_different: bool,
    /// Number of pg_restore jobs [default: the number of cores, at most 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    jobs: Option<u8>,
    /// Folder for temporary files [default: the system's temporary folder]
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
}

/// Restores. When `interrupted` resolves, what was made is removed.
///
/// # Errors
/// [`Class::Usage`] for an unknown snapshot or source, or an unusable target.
pub async fn run(session: &Session, arguments: &Arguments, interrupted: impl Future<Output = ()>) -> Result<Report> {
    let history = session.history(session.clock.now()).await?;
    let (name, source) =
        choice::source(&session.environment, &session.sources.sources, arguments.source.as_deref(), |_| true)?;
    let wanted = choice::Wanted::Source(name);
    let snapshot = choice::snapshot(&history, &arguments.which, wanted, &session.time_zone)?;
    let object = choice::object(snapshot, name)?;
    choice::usable(snapshot, name, arguments.allow_partial)?;
    let chosen = SavedSource { history: &history, snapshot, name, object };
    let report = match source {
        Source::Directory(_) => {
            only_for_databases(name, &arguments.to)?;
            check_own_folders(session, arguments)?;
            documents::run(session, chosen, arguments, interrupted).await
        }
        Source::Postgres(config) if !arguments.ignore_index => {
            database::run(session, chosen, config, arguments, interrupted).await
        }
        Source::Postgres(_) => {
            Err(Error::new(Class::Usage, format!("`{name}` is a database, which has no index to ignore")))
        }
    }?;
    let is_own =
        matches!(source, Source::Directory(config) if resolve_links(&config.path) == resolve_links(&arguments.into));
    if is_own && !arguments.dry_run && report.failure.is_none() {
        note_replaced(session, name).await;
    }
    Ok(report)
}

/// Notes that the replacement is intended; otherwise the next run would ask about it.
async fn note_replaced(session: &Session, name: &str) {
    if let Err(error) = replaced::replaced(session, name).await {
        tracing::warn!(
            "could not note in the environment's file that {name} was restored: {error}; the next run may ask about it"
        );
    }
}

/// Refuses options that only apply to databases.
fn only_for_databases(name: &str, to: &Target) -> Result<()> {
    if *to == Target::DEFAULT {
        return Ok(());
    }
    Err(Error::new(Class::Usage, format!("`{name}` is a folder, but one of the options is only for databases"))
        .hint("use only --into for documents; see `restore --help`"))
}

/// Refuses a folder that is one of the environment itself, unless the user confirmed it.
fn check_own_folders(session: &Session, arguments: &Arguments) -> Result<()> {
    let (shown, into) = (arguments.into.display(), resolve_links(&arguments.into));
    if let Store::Directory(folder) = &*session.store
        && folder.holds(&arguments.into)
    {
        return Err(Error::new(Class::Usage, format!("{shown} is inside the store {}", session.store.describe()))
            .hint("restore to another place"));
    }
    let is_within = |(_, source): &(&String, &Source)| match source {
        Source::Directory(config) => into.starts_with(resolve_links(&config.path)),
        Source::Postgres(_) => false,
    };
    match session.sources.sources.iter().find(is_within) {
        Some((name, Source::Directory(config))) if !arguments.same_environment => {
            if into == resolve_links(&config.path) {
                return Err(own_target(&shown.to_string(), &session.environment));
            }
            Err(Error::new(Class::Usage, format!("{shown} is inside the folder that `{name}` backs up"))
                .hint("restore to another place, because the next backup would save it again; use --same-environment to restore here anyway"))
        }
        _ => Ok(()),
    }
}

/// An error for a restore of an environment over itself.
fn own_target(target: &str, environment: &Environment) -> Error {
    Error::new(Class::Usage, format!("{target} is part of {environment} itself"))
        .hint("restore to another place and check it first; use --same-environment to restore here anyway")
}

impl Target {
    const DEFAULT: Self = Self {
        server: None,
        target_env: None,
        swap: None,
        overwrite: false,
        owner: None,
        accept_different: false,
        jobs: None,
        scratch: None,
    };

    /// The folder for temporary files.
    fn scratch(&self) -> PathBuf {
        self.scratch.clone().unwrap_or_else(std::env::temp_dir)
    }
}

/// The report of a restore, or of its plan if nothing was to be restored.
fn report(session: &Session, mut text: String, plan: &Value, restored: Option<Value>) -> Report {
    let mut document = json!({
        "format_version": report::FORMAT_VERSION,
        "environment": session.environment.as_str(),
        "dry_run": restored.is_none(),
        "plan": plan,
    });
    match restored {
        Some(restored) => document["restored"] = restored,
        None => text.push_str("nothing was restored\n"),
    }
    Report { document, text, failure: None }
}

impl SavedSource<'_> {
    /// The plan's first lines, for people.
    fn text(&self, session: &Session) -> String {
        let taken = self.snapshot.id.taken();
        format!(
            "snapshot {} of {}, taken {} ({})\n  {:<10} {}, {}\n",
            self.snapshot.id,
            session.environment,
            report::local(taken, &session.time_zone),
            report::ago(taken, session.clock.now()),
            self.name,
            self.object.key,
            HumanBytes(self.object.bytes),
        )
    }

    /// The same for machines.
    fn value(&self) -> Value {
        json!({
            "snapshot": self.snapshot.id,
            "taken": self.snapshot.id.taken(),
            "source": self.name,
            "object": {
                "key": self.object.key,
                "bytes": self.object.bytes,
                "sha256": self.object.sha256,
                "made": self.object.made,
            },
        })
    }
}
