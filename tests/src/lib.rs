//! Real servers, a small Dolibarr and the built binary, for tests and the demonstration.
//!
//! Nothing here knows the host's library: whatever uses it sees what a user sees.
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
#[cfg(feature = "servers")]
pub mod postgres;
#[cfg(feature = "servers")]
pub mod registry;
pub mod sample;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Names the file that collects what tests skipped, because a runner hides what a passed test prints.
pub const SKIPS_VARIABLE: &str = "DOLIBARR_BACKUP_SKIPS";

/// The newer PostgreSQL that some tests use beside the distribution's; it is part of the folder into which `cargo xtask` unpacks it.
pub const NEWER_POSTGRES_VERSION: &str = "17.11.0";

/// Says that the running test, or a part of it, was not run, and why. The caller returns.
pub fn skip(reason: &str) {
    println!("skipped: {reason}");
    let Some(path) = variable(SKIPS_VARIABLE) else { return };
    let thread = std::thread::current();
    let line = format!("{}: {}\n", thread.name().unwrap_or("unnamed test"), reason.replace('\n', " "));
    // One write, so that lines of tests that run side by side do not mix.
    let written =
        File::options().create(true).append(true).open(&path).and_then(|mut file| file.write_all(line.as_bytes()));
    written.unwrap_or_else(|error| panic!("cannot note a skipped test in {path}: {error}"));
}

/// The checkout's root.
///
/// # Panics
/// Outside a checkout.
#[must_use]
pub fn workspace_root() -> PathBuf {
    // Cargo and nextest say at run time which package they run; what was compiled in may be another checkout's.
    let package = variable("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let root = Path::new(&package).ancestors().find(|folder| folder.join("wit/worlds.wit").is_file());
    root.unwrap_or_else(|| panic!("{package} is not in a checkout")).to_path_buf()
}

/// The folder with real data that may lie beside the checkout. Where it does not, the test's skip is noted.
#[must_use]
pub fn shared() -> Option<PathBuf> {
    let folder = workspace_root().parent()?.join("shared");
    if folder.join("dolibarr").is_dir() {
        return Some(folder);
    }
    skip("no real Dolibarr data beside the checkout");
    None
}

/// Where `cargo xtask` keeps what it fetched and built.
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
