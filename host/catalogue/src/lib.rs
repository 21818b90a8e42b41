//! What a store holds for an environment and who may change it: the environment's file, run records, verification and
//! drill reports, the lease, the retention guard, and the questions that wait for a person.
#![warn(missing_docs)]

pub mod clock;
pub mod configured;
pub mod environment;
pub mod guard;
pub mod history;
pub mod judgement;
pub mod keys;
pub mod lease;
pub mod proof;
pub mod questions;
pub mod record;
