//! The cache for slow builds and downloads: `${XDG_CACHE_HOME:-$HOME/.cache}/dolibarr-backup`, with one folder per
//! version, so that other checkouts on the machine can use them. An incomplete folder never has its final name.

use crate::run::{failure, say};
use anyhow::{Context, Result};
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

/// An environment variable; `None` if it is unset or empty.
#[expect(clippy::disallowed_methods, reason = "this is the only place in this tool that reads the environment")]
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The cache folder. Creates it if it does not exist.
pub fn folder() -> Result<PathBuf> {
    let base = match (variable("XDG_CACHE_HOME"), variable("HOME")) {
        (Some(cache), _) => PathBuf::from(cache),
        (None, Some(home)) => Path::new(&home).join(".cache"),
        (None, None) => return Err(failure("cannot determine the cache folder", "set HOME or XDG_CACHE_HOME")),
    };
    let folder = base.join("dolibarr-backup");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

/// The folder `name` of the cache. `make` fills it once under a temporary name, and only a complete folder gets the
/// final name. If two processes fill it at the same time, the folder of the first one stays.
pub fn once(name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let cache = folder()?;
    remove_abandoned(&cache, name);
    let complete = cache.join(name);
    if complete.is_dir() {
        return Ok(complete);
    }
    let partial = complete.with_file_name(format!("{name}.partial-{}", std::process::id()));
    let _ = fs::remove_dir_all(&partial);
    fs::create_dir_all(&partial).with_context(|| format!("cannot make {}", partial.display()))?;
    let made = make(&partial).and_then(|()| match fs::rename(&partial, &complete) {
        Err(error) if !complete.is_dir() => Err(error).with_context(|| format!("cannot make {}", complete.display())),
        _ => Ok(()),
    });
    let _ = fs::remove_dir_all(&partial);
    made.map(|()| complete)
}

/// Removes what processes that were killed left of the folder `name`.
fn remove_abandoned(cache: &Path, name: &str) {
    let prefix = format!("{name}.partial-");
    for entry in fs::read_dir(cache).into_iter().flatten().flatten() {
        let process = entry.file_name().to_str().and_then(|name| name.strip_prefix(&prefix)?.parse::<u32>().ok());
        if process.is_some_and(|process| !Path::new("/proc").join(process.to_string()).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Locks `folder` for this process until the result is dropped. Waits while another process holds the lock.
pub fn lock(folder: &Path) -> Result<File> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let path = folder.join(".xtask-lock");
    let file = File::options().create(true).append(true).open(&path);
    let file = file.with_context(|| format!("cannot open {}", path.display()))?;
    if matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
        say(format_args!("waiting for another run that has locked {}", folder.display()));
        file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    }
    Ok(file)
}

/// Makes a target folder that several checkouts share safe for this one. Cargo compares only the age of files, so this
/// removes the fingerprints of members that another checkout built, and Cargo builds them again. The caller holds the
/// folder's [`lock`].
pub fn claim(target: &Path, checkout: &Path, members: &[String]) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let root = fs::metadata(checkout).with_context(|| format!("cannot read {}", checkout.display()))?;
    // The inode is included because a fresh clone often has the path of an older one.
    let claim = format!("{} {} {}\n", checkout.display(), root.dev(), root.ino());
    let mark = target.join(".xtask-checkout");
    if fs::read_to_string(&mark).is_ok_and(|last| last == claim) {
        return Ok(());
    }
    let _ = fs::remove_file(&mark);
    for fingerprints in fingerprint_folders(target) {
        forget(&fingerprints, members).with_context(|| format!("cannot clean {}", fingerprints.display()))?;
    }
    fs::write(&mark, claim).with_context(|| format!("cannot write {}", mark.display()))
}

/// The `.fingerprint` folder of every profile, with or without a target triple above it.
fn fingerprint_folders(target: &Path) -> Vec<PathBuf> {
    let folders = |path: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
    };
    let first = folders(target);
    let second: Vec<_> = first.iter().flat_map(|folder| folders(folder)).collect();
    let all = first.into_iter().chain(second);
    all.map(|folder| folder.join(".fingerprint")).filter(|folder| folder.is_dir()).collect()
}

fn forget(fingerprints: &Path, members: &[String]) -> std::io::Result<()> {
    for entry in fs::read_dir(fingerprints)? {
        let entry = entry?;
        let name = entry.file_name();
        let package = name.to_str().and_then(|name| name.rsplit_once('-')).map(|(package, _)| package);
        if package.is_some_and(|package| members.iter().any(|member| member == package)) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_checkout_removes_the_members_and_keeps_the_dependencies() {
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let target = scratch.path();
        let (here, there) = (target.join("here"), target.join("there"));
        let prints = target.join("wasm32-unknown-unknown/plugin/.fingerprint");
        let (member, dependency) = (prints.join("dump-0123"), prints.join("dump-writer-0123"));
        let make = || [&here, &there, &member, &dependency].map(|path| fs::create_dir_all(path).expect("a folder"));
        let members = ["dump".to_owned()];

        make();
        claim(target, &here, &members).expect("the first claim");
        assert!(!member.exists(), "an unclaimed folder is cleaned");
        make();
        claim(target, &here, &members).expect("the same checkout");
        assert!(member.exists(), "the same checkout keeps what it built");
        claim(target, &there, &members).expect("another checkout");
        assert!(!member.exists() && dependency.exists());
    }

    #[test]
    fn only_one_process_can_lock_a_folder() {
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let target = scratch.path();
        let held = lock(target).expect("the first");
        let second = File::options().append(true).open(target.join(".xtask-lock")).expect("the lock file");
        assert!(matches!(second.try_lock(), Err(TryLockError::WouldBlock)));
        drop(held);
        second.try_lock().expect("it is free again");
    }

    #[test]
    fn what_a_killed_process_left_is_removed_and_what_a_live_one_makes_stays() {
        let cache = tempfile::tempdir().expect("a temporary folder");
        let of = |name: &str| cache.path().join(name);
        let own = of(&format!("tool-1.partial-{}", std::process::id()));
        for path in [&own, &of("tool-1.partial-4294967295"), &of("tool-2.partial-4294967295"), &of("tool-1")] {
            fs::create_dir(path).expect("a folder");
        }
        remove_abandoned(cache.path(), "tool-1");
        assert!(own.is_dir() && of("tool-2.partial-4294967295").is_dir() && of("tool-1").is_dir());
        assert!(!of("tool-1.partial-4294967295").exists());
    }
}
