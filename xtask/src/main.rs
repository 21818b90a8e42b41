//! What a fresh machine needs.
fn main() {}
