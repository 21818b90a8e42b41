//! `plugins`: what each plugin may do, for auditors; what another one would do, for operators.
//!
//! `audit` and `inspect` read components and run nothing of them, so they also serve a file that nobody trusts.

mod audit;
mod inspect;
mod lock;

use crate::config::Config;
use crate::error::Result;
use crate::report::Report;
use clap::Subcommand;
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
    },
}

/// Carries it out. `config` names the configuration, which `inspect` does without.
///
/// # Errors
/// Those of the verb; [`crate::error::Class::Config`] for a configuration or a component that cannot be read.
pub fn run(verb: &Verb, config: &Path, folder: Option<&Path>) -> Result<Report> {
    match verb {
        Verb::Audit(arguments) => audit::run(&Config::read(config)?, arguments, folder, &lock::beside(config)),
        Verb::Inspect { file } => inspect::run(file),
    }
}
