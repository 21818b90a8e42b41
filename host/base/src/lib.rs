//! Code that every crate of the host shares. It does not know about stores, databases, clusters or plugins.
#![warn(missing_docs)]

pub mod clock;
pub mod error;
pub mod evidence;
pub mod id;
pub mod reference;
pub mod scratch;
pub mod secret;
pub mod stream;
pub mod table;
pub mod telemetry;
pub mod text;
pub mod variables;
