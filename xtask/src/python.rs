//! Builds plugins written in Python: folders below `plugins/examples` with an `app.py`.
//!
//! componentize-py packs an interpreter with the plugin and puts new random numbers into each build. Builds are
//! therefore cached by their sources, so that on one machine the same sources give the same component.

use crate::run::{failure, quiet, succeeds, timed};
use crate::{cache, machine};
use anyhow::{Context, Result};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The packages that build a plugin or become part of it, each as `name==version`.
const REQUIREMENTS: &str = "requirements.txt";

/// The main module of every Python plugin.
const APP: &str = "app";

/// Starts the tool from any folder. The script that pip installs contains the path of the folder it was installed in.
const START: &str = "import sys, componentize_py; sys.argv[0] = 'componentize-py'; sys.exit(componentize_py.script())";

/// Names of the plugins in `folder`.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let plugins = entries.filter(|entry| entry.path().join(APP).with_extension("py").is_file());
    let mut names: Vec<_> = plugins.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// Returns the component of one plugin, and builds it if its sources or the interfaces changed. A plugin named
/// `retention-…` belongs to the world `retention`.
pub fn component(folder: &Path, name: &str) -> Result<Vec<u8>> {
    let world = name.split('-').next().unwrap_or(name);
    let sources = folder.join(name);
    let wit = machine::root().join("wit");
    let requirements = sources.join(REQUIREMENTS);
    let key = key(&[files(&sources, "py")?, vec![requirements.clone()], files(&wit, "wit")?].concat())?;
    let built = cache::once(&format!("python-{name}-{key:016x}"), |into| {
        let environment = tools(&requirements)?;
        // A copy, without tests: the tool writes files beside the sources.
        let copy = into.join("sources");
        fs::create_dir(&copy)?;
        for file in files(&sources, "py")? {
            let base = file.file_name().context("a source file has no name")?;
            if !base.to_string_lossy().starts_with("test_") {
                fs::copy(&file, copy.join(base)).with_context(|| format!("cannot copy {}", file.display()))?;
            }
        }
        let mut command = Command::new(environment.join("bin/python3"));
        command.args(["-B", "-c", START, "--wit-path"]).arg(&wit).args(["--world", world, "componentize"]);
        // The tool searches the active environment for libraries.
        command
            .args(["--stub-wasi", "--python-path"])
            .arg(&copy)
            .args([APP, "--output"])
            .arg(into.join("component.wasm"));
        command.current_dir(into).env("VIRTUAL_ENV", &environment).env_remove("PYTHONPATH");
        timed(&format!("building {name} with componentize-py"), || {
            quiet(&mut command, "fix the errors above; docs/writing-a-plugin.md has a section on Python").map(drop)
        })
    })?;
    let file = built.join("component.wasm");
    fs::read(&file).with_context(|| format!("cannot read {}", file.display()))
}

/// An environment with the packages that a plugin requires.
fn tools(requirements: &Path) -> Result<PathBuf> {
    let key = key(&[requirements.to_owned()])?;
    let folder = cache::once(&format!("python-tools-{key:016x}"), |folder| {
        let file = requirements.to_string_lossy();
        timed("installing componentize-py, once on this machine", || environment(&folder.join("venv"), &["-r", &file]))
    })?;
    Ok(folder.join("venv"))
}

/// pip in a separate environment.
pub fn pip() -> Result<Command> {
    let folder = cache::once("python-pip", |folder| environment(&folder.join("venv"), &[]))?;
    let mut pip = Command::new(folder.join("venv/bin/python3"));
    pip.args(["-m", "pip", "--disable-pip-version-check"]);
    Ok(pip)
}

/// Creates an environment and installs packages in it. The packages are arguments for pip.
pub fn environment(venv: &Path, packages: &[&str]) -> Result<()> {
    let make = || {
        let mut command = Command::new("python3");
        command.args(["-m", "venv"]).arg(venv);
        command
    };
    let is_made = machine::on_path("python3").is_some() && succeeds(&mut make());
    if !is_made {
        machine::apt(&["python3-venv"])?;
        let _ = fs::remove_dir_all(venv);
        quiet(&mut make(), "install Python 3.10 or newer with its venv module")?;
    }
    install(venv, packages)
}

/// Installs packages in an environment, from wheels only.
pub fn install(venv: &Path, packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let mut pip = Command::new(venv.join("bin/python3"));
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:"]);
    quiet(pip.args(packages), "check that PyPI, or the index in pip's configuration, can be reached").map(drop)
}

/// Files directly in a folder with this extension, sorted.
fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|end| end == extension));
    if files.is_empty() {
        return Err(failure(format_args!("{} has no .{extension} file", folder.display()), "check the checkout"));
    }
    files.sort();
    Ok(files)
}

/// A cache key that depends on the name and content of each file.
fn key(files: &[PathBuf]) -> Result<u64> {
    let mut hasher = DefaultHasher::new();
    for file in files {
        file.file_name().hash(&mut hasher);
        fs::read(file).with_context(|| format!("cannot read {}", file.display()))?.hash(&mut hasher);
    }
    Ok(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_any_source_changes_the_key() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("written");
        let key_now = || key(&files(folder.path(), "py").expect("files")).expect("a key");
        write("app.py", "a = 1");
        write("notes.txt", "");
        let first = key_now();
        assert_eq!(key_now(), first);
        write("notes.txt", "changed");
        assert_eq!(key_now(), first, "a file that is not a source does not count");
        write("app.py", "a = 2");
        let second = key_now();
        assert_ne!(second, first);
        write("more.py", "");
        assert_ne!(key_now(), second);
        assert!(files(folder.path(), "wit").is_err(), "a folder without such files is an error");
    }

    #[test]
    fn the_example_is_found_and_its_own_tests_pass() {
        let examples = machine::root().join("plugins/examples");
        assert_eq!(names(&examples), ["retention-python"]);
        let folder = examples.join("retention-python");
        let Ok(environment) = tools(&folder.join(REQUIREMENTS)) else {
            ::tests::skip("the tools for Python plugins cannot be installed");
            return;
        };
        let mut command = Command::new(environment.join("bin/python3"));
        command.args(["-B", "-m", "unittest", "--quiet"]).current_dir(folder);
        quiet(&mut command, "fix the test that Python names above").expect("its tests pass");
    }
}
