//! The verbs of the command line. Each has its `Arguments` and a `run`.

pub mod accept;
pub mod backup;
pub mod coverage;
pub mod drill;
pub mod example;
pub mod find;
pub mod get;
pub mod history;
pub mod init;
pub mod list;
pub mod plugins;
pub mod prune;
pub mod restore;
pub mod status;
pub mod unforget;
pub mod verify;
