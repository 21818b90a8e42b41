//! What every crate of the host shares. It knows no store, no database, no cluster and no plugin.
#![warn(missing_docs)]

pub mod clock;
pub mod error;
pub mod evidence;
pub mod id;
pub mod reference;
pub mod scratch;
pub mod secret;
pub mod stream;
pub mod telemetry;
pub mod text;
pub mod variables;
