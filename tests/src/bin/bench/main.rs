//! Measures the built binary side by side with its peers: the same input, the same store, in turns, in one run.
//!
//! `cargo xtask bench` builds what it needs and starts it. It is no test: nothing fails on a number. What a peer needs
//! and this machine lacks is left out, and the table says so.

mod board;
mod database;
mod documents;
mod extremes;
mod measure;
mod peers;
mod plugins;
mod trees;

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use std::fs;
use std::path::PathBuf;

/// What to measure, and where.
#[derive(Debug, Parser)]
struct Arguments {
    /// Working folder, on the disk that is to be measured; it needs six times the documents' size
    folder: PathBuf,
    /// The binary, built for release
    binary: PathBuf,
    /// Where the table and the chart go
    results: PathBuf,
    /// What to measure
    what: What,
    /// Another build of the binary, with its plugins beside it: what both do is measured in turns, without the peers, and the table is
    /// shown and not kept
    #[arg(long)]
    baseline: Option<PathBuf>,
    /// Size of the documents or of the database
    #[arg(long, default_value_t = 2_048)]
    mib: u64,
    /// Times that each piece of work is done; medians are shown
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum What {
    /// A realistic folder: first backup, unchanged day, some changes, restore, one document
    Documents,
    /// Folders that are out of the ordinary: many files, a sparse one, nothing or everything compressible
    Extremes,
    /// A database: its dump and its fingerprint
    Database,
    /// What loading, linking and calling the plugins adds
    Plugins,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    fs::create_dir_all(&arguments.folder).with_context(|| format!("cannot make {}", arguments.folder.display()))?;
    fs::create_dir_all(&arguments.results)?;
    let Arguments { folder, binary, results, what, baseline, mib, rounds } = arguments;
    if let Some(baseline) = baseline {
        let board = match what {
            What::Documents => documents::beside_baseline(&folder, &binary, &baseline, mib, rounds)?,
            What::Database => database::beside_baseline(&folder, &binary, &baseline, mib, rounds)?,
            What::Plugins => plugins::beside_baseline(&folder, &binary, &baseline, rounds)?,
            What::Extremes => bail!("folders that are out of the ordinary are measured without a baseline"),
        };
        print!("{}\n{}", measure::machine()?, board.markdown());
        return Ok(());
    }
    let (name, board) = match what {
        What::Documents => ("documents", documents::measure(&folder, &binary, mib, rounds)?),
        What::Extremes => ("extremes", extremes::measure(&folder, &binary)?),
        What::Database => ("database", database::measure(&folder, &binary, mib, rounds)?),
        What::Plugins => ("plugins", plugins::measure(&folder, &binary, mib, rounds)?),
    };
    let table = format!("{}\n{}", measure::machine()?, board.markdown());
    fs::write(results.join(format!("{name}.md")), format!("# {}\n\n{table}", board.title))?;
    fs::write(results.join(format!("{name}.svg")), board.svg())?;
    print!("{table}");
    Ok(())
}
