//! `plugins`: shows auditors what each plugin may do, and operators what another one would do.
//!
//! `audit` and `inspect` read components without running them, so they are safe for untrusted files.

mod audit;
mod check;
mod diff;
mod explain;
mod inspect;
mod log;
mod new;
mod pack;
mod simulate;

use crate::config::Config;
use crate::report::Report;
use crate::session::Session;
use base::error::{Class, Error, Result};
use clap::Subcommand;
use jiff::Timestamp;
use plugin::lock;
use plugin::signature::Key;
use std::path::{Path, PathBuf};

/// The subcommands of `plugins`.
#[derive(Debug, Clone, Subcommand)]
pub enum Verb {
    /// Show what each configured plugin imports and is granted; fail if it imports more than that
    Audit(audit::Arguments),
    /// Show what a component imports and exports, without compiling or running it
    Inspect {
        /// The component
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Verify the signature FILE.minisig first, with this minisign public key
        #[arg(long, value_name = "KEY")]
        signed_by: Option<Key>,
    },
    /// Check that a component follows the rules for every plugin of its world, and explain each rule
    Check(check::Arguments),
    /// Create a standalone plugin project that builds and passes its tests
    New(new::Arguments),
    /// Turn a core module, as compilers write it, into a component
    Pack(pack::Arguments),
    /// Show what another component imports in addition, and what it would forget in an environment
    Diff(diff::Arguments),
    /// Simulate years of daily runs with a retention component and show which snapshots remain
    Simulate(simulate::Arguments),
    /// Explain what the fingerprint of each source is based on, from the records in the store
    Explain(explain::Arguments),
    /// Show what each plugin did in recent runs, from the records in the store
    Log(log::Arguments),
}

/// Runs a subcommand. `config` is the path of the configuration, which some subcommands do not read.
///
/// # Errors
/// Those of the subcommand; [`base::error::Class::Config`] for a configuration or a component that cannot be read.
pub async fn run(verb: &Verb, config: &Path, folder: Option<&Path>, now: Timestamp) -> Result<Report> {
    let open = async |environment: &str| {
        Session::open(Config::read(config)?, environment, folder.map(Path::to_owned), now).await
    };
    match verb {
        Verb::Audit(arguments) => audit::run(&Config::read(config)?, arguments, folder, &lock::path_for(config)).await,
        Verb::Inspect { file, signed_by } => inspect::run(file, signed_by.as_ref()),
        Verb::New(arguments) => new::run(arguments),
        Verb::Pack(arguments) => pack::run(arguments),
        Verb::Check(arguments) => check::run(arguments).await,
        Verb::Diff(arguments) => diff::run(&open(&arguments.environment).await?, arguments).await,
        Verb::Simulate(arguments) => simulate::run(&Config::read(config)?, arguments, folder, now).await,
        Verb::Explain(arguments) => explain::run(&open(&arguments.environment).await?, arguments).await,
        Verb::Log(arguments) => log::run(&open(&arguments.environment).await?, arguments).await,
    }
}

/// Parses settings from the command line: the content of a TOML table on one line.
fn settings(text: &str) -> Result<toml::Table> {
    let table: std::result::Result<Wrapped, _> = toml::from_str(&format!("settings = {{ {text} }}"));
    table.map(|wrapped| wrapped.settings).map_err(|error| {
        let why = base::text::printable(error.message());
        Error::new(Class::Usage, format!("--settings is not valid TOML: {why}"))
            .hint("write it as --settings 'keep = 14, keep_nothing = false'")
    })
}

#[derive(serde::Deserialize)]
struct Wrapped {
    settings: toml::Table,
}
