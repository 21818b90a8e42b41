//! The suite that drives the binary as users do: with a configuration file, real servers, and stock tools to check the
//! results. It also checks the structure of the source tree. It is a single test binary, so that it links once, and it
//! never uses the host's library.

mod adopted;
mod architecture;
mod backup;
mod change;
mod chart;
mod components;
mod databases;
mod drilled;
mod failed;
mod format;
mod image;
mod input;
mod killed;
mod kubernetes;
mod node;
mod owed;
mod plugins;
mod restored;
mod scene;
mod secrets;
mod status;
mod stores;
mod untrusted;
mod verified;
