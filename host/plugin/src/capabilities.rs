//! The capabilities, a file each: the WIT interface on one side, the crate that does the work on the other.

pub mod documents;
pub mod kube;
pub mod postgres;
pub mod store;
