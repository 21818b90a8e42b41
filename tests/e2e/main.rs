//! Drives the real binary against real servers, and holds the shape of the tree. One test binary, so that it links once.

mod architecture;
