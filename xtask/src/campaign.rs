//! Simulated years: the host's real code, every fault, and an oracle.

use crate::machine;
use crate::run::loud;
use anyhow::Result;

/// What `cargo xtask campaign` takes.
#[derive(clap::Args)]
pub struct Arguments {
    /// How many histories
    #[arg(long, default_value_t = 100)]
    runs: u64,
    /// The first seed; the others follow it
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Years of each history
    #[arg(long, default_value_t = 5)]
    years: u16,
}

/// Runs them on all cores, and prints each history that breaks a rule as small as it goes.
///
/// # Errors
/// When a history breaks a rule, or the program cannot be built.
pub fn run(arguments: &Arguments) -> Result<()> {
    let Arguments { runs, seed, years } = arguments;
    let mut cargo = machine::cargo();
    cargo.args(["run", "--quiet", "--package", "campaign", "--"]);
    cargo.args(["--runs", &runs.to_string(), "--seed", &seed.to_string(), "--years", &years.to_string()]);
    loud(&mut cargo, "run the seed that is named above alone: --runs 1 --seed SEED")
}
