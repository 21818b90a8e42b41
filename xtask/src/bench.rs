//! The benchmark: release builds of the binary and of what measures it, side by side with the peers in one run.

use crate::run::{loud, timed};
use crate::{machine, plugins};
use anyhow::Result;
use std::process::{Command, Stdio};

/// Builds, measures, prints a table and keeps it under `bench/results`.
///
/// # Errors
/// When something cannot be installed, built or run.
pub fn run() -> Result<()> {
    let target = machine::target_folder()?;
    machine::garage()?;
    plugins::build(&target)?;
    timed("building the release", || {
        let packages =
            ["build", "--quiet", "--release", "--package", "dolibarr-backup", "--package", "tests", "--bins"];
        loud(machine::cargo().args(packages), "mend what the compiler names")
    })?;
    let release = target.join("release");
    let table = timed("measuring", || {
        let mut bench = Command::new(release.join("bench"));
        bench.arg(target.join("bench")).arg(release.join("dolibarr-backup"));
        let output = bench.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
        anyhow::ensure!(output.status.success(), "the benchmark ended with {}", output.status);
        Ok(String::from_utf8(output.stdout)?)
    })?;
    let results = machine::root().join("bench/results");
    std::fs::create_dir_all(&results)?;
    std::fs::write(results.join("documents.md"), format!("# First backup of documents\n\n{table}"))?;
    print!("{table}");
    Ok(())
}
