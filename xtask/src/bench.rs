//! The benchmark: release builds of the binary and of what measures it, side by side with the peers in one run.

use crate::run::{loud, say, timed};
use crate::{cache, machine, plugins};
use anyhow::Result;
use clap::ValueEnum;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Peers, each with the Debian package that has it.
const PEERS: [(&str, &str); 4] = [("restic", "restic"), ("borg", "borgbackup"), ("pigz", "pigz"), ("aws", "awscli")];

/// What `cargo xtask bench` takes.
#[derive(clap::Args)]
pub struct Arguments {
    /// What to measure; everything by default
    what: Vec<What>,
    /// Another release build of the binary, such as that of the commit before, with its plugins beside it: documents, database and plugins
    /// are measured in turns with it, without the peers, and the tables are shown and not kept
    #[arg(long, value_name = "PATH")]
    baseline: Option<PathBuf>,
    /// Size of the documents and of the database; 2048 and 1024 by default
    #[arg(long)]
    mib: Option<u64>,
    /// Times that each piece of work is done
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// A realistic folder, beside tar, pigz, restic and borg
    Documents,
    /// Folders that are out of the ordinary
    Extremes,
    /// A database, beside pg_dump
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

/// Builds, measures, prints tables and keeps them with charts under `bench/results`.
///
/// # Errors
/// When something cannot be installed, built or run.
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
        loud(machine::cargo().args(packages), "mend what the compiler names")
    })?;
    let release = target.join("release");
    let beside_baseline: &[What] = &[What::Documents, What::Database, What::Plugins];
    let all = if arguments.baseline.is_some() { beside_baseline } else { What::value_variants() };
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

/// Gets what the binary is measured beside; gives back the folder that rustic is in.
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
        say(format_args!("the plugin in Python is left out: {error:#}"));
    }
    let rustic = machine::rustic();
    if let Err(error) = &rustic {
        say(format_args!("rustic is left out: {error:#}"));
    }
    Ok(rustic.ok())
}
