//! `restore`: chooses a snapshot, says what would be restored from where to where, and restores one source of it.
//!
//! It takes no lease and changes nothing in the store. Each kind of source has a module of its own below.

mod documents;

use crate::choice::{self, Which};
use crate::config::Source;
use crate::error::{Class, Error, Result};
use crate::history::{self, History, Object, Snapshot};
use crate::host::Host;
use crate::report::{self, Report};
use indicatif::HumanBytes;
use serde_json::{Value, json};
use std::path::PathBuf;

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
    /// A folder that does not exist yet, or an empty one
    #[arg(long, value_name = "DIR")]
    into: PathBuf,
    /// Show what would be restored and restore nothing
    #[arg(long)]
    dry_run: bool,
    /// Read the archive without the index beside it, in one pass: where the index is damaged
    #[arg(long)]
    ignore_index: bool,
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
    let history = history::load(&host.store, &host.environment, &host.sources).await?;
    let (name, source) = choice::source(host, arguments.source.as_deref(), |_| true)?;
    let snapshot = choice::snapshot(&history, &arguments.which, &host.time_zone)?;
    let object = choice::object(snapshot, name)?;
    let chosen = Chosen { history: &history, snapshot, source: name, object };
    match source {
        Source::Directory(_) => documents::run(host, &chosen, arguments, interrupted).await,
        Source::Postgres(_) => {
            Err(Error::new(Class::Usage, format!("`{name}` is a database, and this restores documents"))
                .hint(format!("fetch {} and use pg_restore, as README.md shows", object.key)))
        }
    }
}

impl Chosen<'_> {
    /// The plan's first lines, for people.
    fn text(&self, host: &Host) -> String {
        let taken = self.snapshot.id.taken();
        format!(
            "snapshot {} of {}, taken {} ({} ago)\n  {:<10} {}, {}\n",
            self.snapshot.id,
            host.environment,
            report::local(taken, &host.time_zone),
            report::age(taken, host.clock.now()),
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
