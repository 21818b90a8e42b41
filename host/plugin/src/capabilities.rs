//! The capabilities, one file each. A file connects a WIT interface to the crate that does the work.

pub mod documents;
pub mod kube;
pub mod postgres;
pub mod store;
