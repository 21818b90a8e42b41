//! The host: it owns every capability and every secret, and runs the policy plugins.
#![warn(missing_docs)]

pub mod capability;
pub mod config;
pub mod error;
pub mod grant;
pub mod postgres;
pub mod secret;
pub mod snapshot;
pub mod store;
pub mod stream;
