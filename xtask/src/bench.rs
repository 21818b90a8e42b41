//! Runs the benchmark: release builds of the binary and of the measuring program, side by side with the peers in one
//! run.

use crate::run::{loud, say, timed};
use crate::{cache, machine, plugins};
use anyhow::Result;
use clap::ValueEnum;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Other backup tools to compare with, each with its Debian package.
const PEERS: [(&str, &str); 4] = [("restic", "restic"), ("borg", "borgbackup"), ("pigz", "pigz"), ("aws", "awscli")];

/// Arguments of `cargo xtask bench`.
#[derive(clap::Args)]
pub struct Arguments {
    /// What to measure; by default everything
    what: Vec<What>,
    /// Another release build of the binary, with its plugins beside it, such as one of the previous commit. Measures
    /// documents, database and plugins with both builds in turns, without the peers; prints the tables but keeps none
    #[arg(long, value_name = "PATH")]
    baseline: Option<PathBuf>,
    /// Size of the documents or the database; by default 2048 for documents and 1024 for the database
    #[arg(long)]
    mib: Option<u64>,
    /// How often to repeat each measurement
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// A realistic folder, compared with tar, pigz, restic and borg
    Documents,
    /// Unusual folders
    Extremes,
    /// A database, compared with pg_dump
    Database,
    /// What the plugins add to a run
    Plugins,
}

impl What {
    fn name(self) -> &'static str {
        match self {
            Self::Documents => "documents",
            Self::Extremes => "extremes",
            Self::Database => "database",
            Self::Plugins => "plugins",
        }
    }

    fn mib(self) -> u64 {
        if self == Self::Database { 1_024 } else { 2_048 }
    }
}

/// Builds, measures, prints the tables, and writes them with charts to `bench/results`.
pub fn run(arguments: &Arguments) -> Result<()> {
    let target = machine::target_folder()?;
    plugins::build(&target)?;
    let rustic = if arguments.baseline.is_some() {
        machine::postgres()?;
        None
    } else {
        peers(&target)?
    };
    timed("building the release", || {
        let packages =
            ["build", "--quiet", "--release", "--package", "dolibarr-backup", "--package", "tests", "--bins"];
        loud(machine::cargo().args(packages), "fix the errors that the compiler reports")
    })?;
    let release = target.join("release");
    let with_baseline: &[What] = &[What::Documents, What::Database, What::Plugins];
    let all = if arguments.baseline.is_some() { with_baseline } else { What::value_variants() };
    for what in if arguments.what.is_empty() { all } else { &arguments.what } {
        timed(&format!("measuring {}", what.name()), || {
            let mut bench = Command::new(release.join("bench"));
            if let Some(rustic) = &rustic {
                bench.env("PATH", format!("{}:{}", cache::variable("PATH").unwrap_or_default(), rustic.display()));
            }
            bench.arg(target.join("bench")).arg(release.join("dolibarr-backup"));
            bench.arg(machine::root().join("bench/results")).arg(what.name());
            bench.args(["--mib", &arguments.mib.unwrap_or(what.mib()).to_string()]);
            bench.args(["--rounds", &arguments.rounds.to_string()]);
            if let Some(baseline) = &arguments.baseline {
                bench.arg("--baseline").arg(baseline);
            }
            let status = bench.stdin(Stdio::null()).status()?;
            anyhow::ensure!(status.success(), "the benchmark ended with {status}");
            Ok(())
        })?;
    }
    Ok(())
}

/// Installs the peers. Returns the folder with rustic, if it could be built.
fn peers(target: &Path) -> Result<Option<PathBuf>> {
    machine::garage()?;
    machine::postgres()?;
    for (program, package) in PEERS {
        if machine::on_path(program).is_none() && machine::apt(&[package]).is_err() {
            say(format_args!("{package} cannot be installed and is left out"));
        }
    }
    if let Err(error) = machine::newer_postgres() {
        say(format_args!("a newer pg_dump is left out: {error:#}"));
    }
    if let Err(error) = plugins::build_python(target) {
        say(format_args!("the Python plugin is left out: {error:#}"));
    }
    let rustic = machine::rustic();
    if let Err(error) = &rustic {
        say(format_args!("rustic is left out: {error:#}"));
    }
    Ok(rustic.ok())
}
