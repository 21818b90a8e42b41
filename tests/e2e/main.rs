//! The suite that drives the binary as its users do: a configuration file, real servers, stock tools to look at what
//! came of it; and what holds the shape of the tree. One test binary, so that it links once. It never uses the host's
//! library.

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
