//! The host: it owns every capability and every secret, and runs the policy plugins.
#![warn(missing_docs)]

pub mod backup;
pub mod capability;
pub mod choice;
pub mod cli;
pub mod compare;
pub mod config;
pub mod crosscheck;
pub mod documents;
pub mod drill;
pub mod error;
pub mod fetch;
pub mod find;
pub mod get;
pub mod grant;
pub mod guard;
pub mod history;
pub mod host;
pub mod lease;
pub mod list;
pub mod plugin;
pub mod plugins;
pub mod postgres;
pub mod proof;
pub mod rehearsal;
pub mod report;
pub mod restore;
pub mod retention;
pub mod secret;
pub mod snapshot;
pub mod status;
pub mod store;
pub mod stream;
pub mod telemetry;
pub mod verify;
