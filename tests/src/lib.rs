//! Real servers, a small Dolibarr and the built binary, for tests and the demonstration.
//!
//! Nothing here uses the host's library, so tests see only what a user sees.
#![warn(missing_docs)]

pub mod binary;
#[cfg(feature = "servers")]
pub mod garage;
#[cfg(feature = "servers")]
pub mod gcs;
pub mod guests;
pub mod helm;
#[cfg(feature = "servers")]
pub mod kubernetes;
pub mod postgres;
#[cfg(feature = "servers")]
pub mod registry;
pub mod sample;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The variable with the path of the file that collects skips, because a runner hides the output of passed tests.
pub const SKIPS_VARIABLE: &str = "DOLIBARR_BACKUP_SKIPS";

/// A newer PostgreSQL than the distribution's, for some tests. `cargo xtask` unpacks it into a folder with this version
/// in its name.
pub const NEWER_POSTGRES_VERSION: &str = "17.11.0";

/// Records that the running test, or a part of it, is skipped, and why. The caller must return.
pub fn skip(reason: &str) {
    println!("skipped: {reason}");
    let Some(path) = variable(SKIPS_VARIABLE) else { return };
    let thread = std::thread::current();
    let line = format!("{}: {}\n", thread.name().unwrap_or("unnamed test"), reason.replace('\n', " "));
    // A single write, so that lines of concurrent tests do not mix.
    let written =
        File::options().create(true).append(true).open(&path).and_then(|mut file| file.write_all(line.as_bytes()));
    written.unwrap_or_else(|error| panic!("cannot record a skipped test in {path}: {error}"));
}

/// The checkout's root.
///
/// # Panics
/// Outside a checkout.
pub fn workspace_root() -> PathBuf {
    // Cargo and nextest pass the package at run time; the compiled-in path may be that of another checkout.
    let package = variable("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let root = Path::new(&package).ancestors().find(|folder| folder.join("wit/worlds.wit").is_file());
    root.unwrap_or_else(|| panic!("{package} is not in a checkout")).to_path_buf()
}

/// The optional folder with real data beside the checkout. If it does not exist, the skip is recorded.
pub fn shared() -> Option<PathBuf> {
    let folder = workspace_root().parent()?.join("shared");
    if folder.join("dolibarr").is_dir() {
        return Some(folder);
    }
    skip("no real Dolibarr data beside the checkout");
    None
}

/// The cache of `cargo xtask`.
fn cache_folder() -> Option<PathBuf> {
    let set = variable("XDG_CACHE_HOME").map(PathBuf::from);
    let base = set.or_else(|| variable("HOME").map(|home| Path::new(&home).join(".cache")))?;
    Some(base.join("dolibarr-backup"))
}

#[expect(clippy::disallowed_methods, reason = "the edge of the harness: the one place that reads the environment")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_holds_the_workspace() {
        assert!(workspace_root().join("Cargo.lock").is_file());
    }
}
