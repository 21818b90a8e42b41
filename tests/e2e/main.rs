//! The suite that drives the binary as its users do: a configuration file, real servers, stock tools to look at what
//! came of it. It never uses the host's library.

mod backup;
mod change;
mod scene;
mod stores;
