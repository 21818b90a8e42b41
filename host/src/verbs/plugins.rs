//! `plugins`: what each plugin may do, for auditors; what another one would do, for operators.
//!
//! `audit` and `inspect` read components and run nothing of them, so they also serve a file that nobody trusts.

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
use crate::session::Host;
use base::error::{Class, Error, Result};
use clap::Subcommand;
use jiff::Timestamp;
use plugin::lock;
use plugin::signature::Key;
use std::path::{Path, PathBuf};

/// What the person asked for.
#[derive(Debug, Clone, Subcommand)]
pub enum Verb {
    /// Show what each configured plugin imports and is granted; fail where it imports more
    Audit(audit::Arguments),
    /// Show what any component imports and exports; compiles and runs nothing of it
    Inspect {
        /// The component
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Verify the signature FILE.minisig first, with this public key of minisign
        #[arg(long, value_name = "KEY")]
        signed_by: Option<Key>,
    },
    /// Try whether a component does what every plugin of its world has to do, and explain each rule
    Check(check::Arguments),
    /// Make a plugin of your own, outside of any repository, that builds and passes its tests
    New(new::Arguments),
    /// Make a component of a core module, as compilers leave it
    Pack(pack::Arguments),
    /// Show what another component may do more, and what it would forget of an environment
    Diff(diff::Arguments),
    /// Run a retention component over years of daily runs and show what is left
    Simulate(simulate::Arguments),
    /// Show in words what the fingerprint of each source rests on, from the records in the store
    Explain(explain::Arguments),
    /// Show what each plugin did in the last runs, from the records in the store
    Log(log::Arguments),
}

/// Carries it out. `config` names the configuration, which `inspect` does without.
///
/// # Errors
/// Those of the verb; [`base::error::Class::Config`] for a configuration or a component that cannot be read.
pub async fn run(verb: &Verb, config: &Path, folder: Option<&Path>, now: Timestamp) -> Result<Report> {
    let host =
        async |environment: &str| Host::open(Config::read(config)?, environment, folder.map(Path::to_owned), now).await;
    match verb {
        Verb::Audit(arguments) => audit::run(&Config::read(config)?, arguments, folder, &lock::beside(config)),
        Verb::Inspect { file, signed_by } => inspect::run(file, signed_by.as_ref()),
        Verb::New(arguments) => new::run(arguments),
        Verb::Pack(arguments) => pack::run(arguments),
        Verb::Check(arguments) => check::run(arguments).await,
        Verb::Diff(arguments) => diff::run(&host(&arguments.environment).await?, arguments).await,
        Verb::Simulate(arguments) => simulate::run(&Config::read(config)?, arguments, folder, now).await,
        Verb::Explain(arguments) => explain::run(&host(&arguments.environment).await?, arguments).await,
        Verb::Log(arguments) => log::run(&host(&arguments.environment).await?, arguments).await,
    }
}

/// Settings as a person writes them on a command line: the inside of a TOML table, one line.
fn settings(text: &str) -> Result<toml::Table> {
    let table: std::result::Result<Wrapped, _> = toml::from_str(&format!("settings = {{ {text} }}"));
    table.map(|wrapped| wrapped.settings).map_err(|error| {
        let said = base::text::printable(error.message());
        Error::new(Class::Usage, format!("--settings is no TOML: {said}"))
            .hint("write it as --settings 'keep = 14, keep_nothing = false'")
    })
}

#[derive(serde::Deserialize)]
struct Wrapped {
    settings: toml::Table,
}
