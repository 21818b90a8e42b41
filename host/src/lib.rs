//! The command line: it reads the configuration, opens the store and the plugins, and runs one verb.
//!
//! The verbs are in [`verbs`], one file or folder each; what several of them share stands beside them here.
#![warn(missing_docs)]

pub mod archive;
pub mod choice;
pub mod cli;
pub mod compare;
pub mod config;
pub mod crosscheck;
#[cfg(test)]
mod documented;
pub mod exclusive;
pub mod fetch;
#[cfg(test)]
mod hostile;
pub mod identities;
pub mod rehearsal;
pub mod report;
pub mod retention;
pub mod saved;
pub mod session;
pub mod sweep;
pub mod tally;
pub mod verbs;
pub mod verification;
