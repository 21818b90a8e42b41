//! Real servers for tests.
#![warn(missing_docs)]

pub mod postgres;
