//! Environment variables. No other module reads them.

use std::path::{Path, PathBuf};

/// The value of an environment variable; `None` if it is unset, empty or not UTF-8.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
pub fn environment_variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The cache folder, which may be deleted at any time: `${XDG_CACHE_HOME:-$HOME/.cache}/dolibarr-backup/components`.
/// `None` if neither variable is set, or if the home folder does not exist: the program must not create one for a user
/// who has none.
pub fn cache_folder() -> Option<PathBuf> {
    let set = environment_variable("XDG_CACHE_HOME").map(PathBuf::from).filter(|folder| folder.is_absolute());
    let home = environment_variable("HOME").map(PathBuf::from).filter(|home| home.is_dir());
    let base = set.or_else(|| home.map(|home| home.join(".cache")))?;
    Some(base.join("dolibarr-backup/components"))
}

/// Docker's configuration file, which holds credentials for registries:
/// `${DOCKER_CONFIG:-$HOME/.docker}/config.json`.
pub fn docker_config() -> Option<PathBuf> {
    let set = environment_variable("DOCKER_CONFIG").map(PathBuf::from);
    let folder = set.or_else(|| environment_variable("HOME").map(|home| Path::new(&home).join(".docker")))?;
    Some(folder.join("config.json"))
}
