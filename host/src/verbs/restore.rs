//! `restore`: chooses a snapshot, says what would be restored from where to where, and restores one source of it.
//!
//! It changes nothing in the store, but that a restore into the environment itself is noted in its file. Each kind of source has a module of its own below.

mod database;
mod documents;

use crate::choice::{self, Which};
use crate::config::Source;
use crate::report::{self, Report};
use crate::session::Host;
use crate::verbs::accept;
use base::error::{Class, Error, Result};
use base::scratch::real;
use catalogue::history::{self, History, Object, Snapshot};
use indicatif::HumanBytes;
use serde_json::{Value, json};
use std::path::PathBuf;
use store::Store;

/// What the person asked for.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Environment, as the configuration names it
    #[arg(long = "env", value_name = "NAME")]
    pub environment: String,
    #[command(flatten)]
    pub(crate) which: Which,
    /// Which source; may be left out where there is one alone
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// A folder that does not exist yet, or an empty one; of a database, the name of a new one
    #[arg(long, value_name = "DIR|DATABASE")]
    into: PathBuf,
    /// Show what would be restored and restore nothing
    #[arg(long)]
    dry_run: bool,
    /// Read the archive without the index beside it, in one pass: where the index is damaged
    #[arg(long)]
    ignore_index: bool,
    /// Restore into what this environment itself consists of
    #[arg(long)]
    same_environment: bool,
    /// Restore a snapshot in which the source is partial or suspect, too
    #[arg(long)]
    allow_partial: bool,
    #[command(flatten)]
    to: To,
}

/// Where a database is restored to, and how.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
struct To {
    /// Another server than the environment's own: [servers.NAME] of the configuration, or postgres://USER@HOST:5432/postgres
    #[arg(long, value_name = "NAME|URL", conflicts_with = "target_env")]
    server: Option<String>,
    /// The server of another environment, such as a sandbox
    #[arg(long, value_name = "NAME")]
    target_env: Option<String>,
    /// When it is restored and checked, rename it to this, and keep what has that name under another one
    #[arg(long, value_name = "DATABASE")]
    swap: Option<String>,
    /// Replace a database of the name of --into, when its successor is restored and checked
    #[arg(long, conflicts_with = "swap")]
    overwrite: bool,
    /// Role that the database and all in it will belong to; by default the owner of the one it replaces, or the user who restores
    #[arg(long, value_name = "ROLE")]
    owner: Option<String>,
    /// Put it in place although it is not what the record says; what differs is told
    #[arg(long)]
    accept_different: bool,
    /// Jobs of pg_restore; by default as many as cores, at most four
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    jobs: Option<u8>,
    /// Folder for what is needed for a while; by default the system's
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
}

/// What is restored, whatever its kind.
struct Chosen<'h> {
    history: &'h History,
    snapshot: &'h Snapshot,
    source: &'h str,
    object: &'h Object,
}

/// Restores. When `interrupted` resolves, what was made is removed.
///
/// # Errors
/// Of class [`Class::Usage`] for a snapshot, a source or a target that cannot be; the store's; those of the source's kind.
pub async fn run(host: &Host, arguments: &Arguments, interrupted: impl Future<Output = ()>) -> Result<Report> {
    let history = history::load(&host.store, &host.environment, &host.sources.configured, host.clock.now()).await?;
    let (name, source) = choice::source(host, arguments.source.as_deref(), |_| true)?;
    let wanted = choice::Wanted::Source(name);
    let snapshot = choice::snapshot(&history, &arguments.which, wanted, &host.time_zone)?;
    let object = choice::object(snapshot, name)?;
    choice::usable(snapshot, name, arguments.allow_partial)?;
    let chosen = Chosen { history: &history, snapshot, source: name, object };
    let report = match source {
        Source::Directory(_) => {
            only_for_databases(name, &arguments.to)?;
            check_own_folders(host, arguments)?;
            documents::run(host, &chosen, arguments, interrupted).await
        }
        Source::Postgres(config) if !arguments.ignore_index => {
            database::run(host, &chosen, config, arguments, interrupted).await
        }
        Source::Postgres(_) => {
            Err(Error::new(Class::Usage, format!("`{name}` is a database, which has no index to ignore")))
        }
    }?;
    let is_own = matches!(source, Source::Directory(config) if real(&config.path) == real(&arguments.into));
    if is_own && !arguments.dry_run && report.failure.is_none() {
        note_replaced(host, name).await;
    }
    Ok(report)
}

/// What was put in place is meant; without this the next run would ask about it.
async fn note_replaced(host: &Host, name: &str) {
    if let Err(error) = accept::replaced(host, name).await {
        tracing::warn!("the environment's file does not say that {name} was restored: {error}; the next run may ask");
    }
}

/// Refuses what says nothing about documents.
fn only_for_databases(name: &str, to: &To) -> Result<()> {
    if *to == To::NOWHERE {
        return Ok(());
    }
    Err(Error::new(Class::Usage, format!("`{name}` is a folder, and one of the options is for databases"))
        .hint("documents need --into alone; see `restore --help`"))
}

/// Refuses a folder that is one of the environment itself, unless that is said to be meant.
fn check_own_folders(host: &Host, arguments: &Arguments) -> Result<()> {
    let (shown, into) = (arguments.into.display(), real(&arguments.into));
    if let Store::Directory(folder) = &*host.store
        && folder.holds(&arguments.into)
    {
        return Err(Error::new(Class::Usage, format!("{shown} is in the store {}", host.store.describe()))
            .hint("restore to another place"));
    }
    let is_within = |(_, source): &(&String, &Source)| match source {
        Source::Directory(config) => into.starts_with(real(&config.path)),
        Source::Postgres(_) => false,
    };
    match host.sources.sources.iter().find(is_within) {
        Some((name, Source::Directory(config))) if !arguments.same_environment => {
            if into == real(&config.path) {
                return Err(own_target(&shown.to_string(), host));
            }
            Err(Error::new(Class::Usage, format!("{shown} is within the folder that `{name}` saves"))
                .hint("restore to another place: the next backup would save it again; --same-environment does it all the same"))
        }
        _ => Ok(()),
    }
}

/// The refusal of whoever would restore an environment over itself.
fn own_target(target: &str, host: &Host) -> Error {
    Error::new(Class::Usage, format!("{target} is where {} itself lives", host.environment))
        .hint("restore to another place and look at it first; --same-environment does it all the same")
}

impl To {
    const NOWHERE: Self = Self {
        server: None,
        target_env: None,
        swap: None,
        overwrite: false,
        owner: None,
        accept_different: false,
        jobs: None,
        scratch: None,
    };

    /// Where files are put for a while.
    fn scratch(&self) -> PathBuf {
        self.scratch.clone().unwrap_or_else(std::env::temp_dir)
    }
}

impl Chosen<'_> {
    /// The plan's first lines, for people.
    fn text(&self, host: &Host) -> String {
        let taken = self.snapshot.id.taken();
        format!(
            "snapshot {} of {}, taken {} ({})\n  {:<10} {}, {}\n",
            self.snapshot.id,
            host.environment,
            report::local(taken, &host.time_zone),
            report::ago(taken, host.clock.now()),
            self.source,
            self.object.key,
            HumanBytes(self.object.bytes),
        )
    }

    /// The same for machines.
    fn value(&self) -> Value {
        json!({
            "snapshot": self.snapshot.id,
            "taken": self.snapshot.id.taken(),
            "source": self.source,
            "object": {
                "key": self.object.key,
                "bytes": self.object.bytes,
                "sha256": self.object.sha256,
                "made": self.object.made,
            },
        })
    }
}
