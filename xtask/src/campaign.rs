//! Simulates years of backups with the host's real code, all faults, and an oracle that checks the result.

use crate::machine;
use crate::run::loud;
use anyhow::Result;

/// Arguments of `cargo xtask campaign`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Number of histories
    #[arg(long, default_value_t = 100)]
    runs: u64,
    /// First seed; each further history uses the next number
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Years of each history
    #[arg(long, default_value_t = 5)]
    years: u16,
}

/// Simulates the histories on all cores. Prints each history that breaks a rule, reduced as far as possible.
pub fn run(arguments: &Arguments) -> Result<()> {
    let Arguments { runs, seed, years } = arguments;
    let mut cargo = machine::cargo();
    cargo.args(["run", "--quiet", "--package", "campaign", "--"]);
    cargo.args(["--runs", &runs.to_string(), "--seed", &seed.to_string(), "--years", &years.to_string()]);
    loud(&mut cargo, "to repeat one history, use the seed printed above: --runs 1 --seed SEED")
}
