//! Measures the built binary side by side with its peers: the same input and the same store, in turns, in one run.
//!
//! This is not a test, and no number makes it fail. `cargo xtask bench` builds what it needs and starts it. A peer that
//! this machine lacks is left out, and the table notes it.

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
    /// Working folder on the disk to measure; needs six times the size of the documents
    folder: PathBuf,
    /// Release build of the binary
    binary: PathBuf,
    /// Folder for the table and the chart
    results: PathBuf,
    /// What to measure
    what: What,
    /// Another build of the binary, with its plugins beside it. Both builds are measured in turns, without the peers;
    /// the table is printed but not kept
    #[arg(long)]
    baseline: Option<PathBuf>,
    /// Size of the documents or the database
    #[arg(long, default_value_t = 2_048)]
    mib: u64,
    /// How often to repeat each piece of work; the medians are shown
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum What {
    /// A realistic folder: first backup, unchanged day, some changes, restore, one document
    Documents,
    /// Unusual folders: many files, a sparse file, nothing or everything compressible
    Extremes,
    /// A database: its dump and its fingerprint
    Database,
    /// The cost of loading, linking and calling the plugins
    Plugins,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    fs::create_dir_all(&arguments.folder).with_context(|| format!("cannot make {}", arguments.folder.display()))?;
    fs::create_dir_all(&arguments.results)?;
    let Arguments { folder, binary, results, what, baseline, mib, rounds } = arguments;
    if let Some(baseline) = baseline {
        let board = match what {
            What::Documents => documents::with_baseline(&folder, &binary, &baseline, mib, rounds)?,
            What::Database => database::with_baseline(&folder, &binary, &baseline, mib, rounds)?,
            What::Plugins => plugins::with_baseline(&folder, &binary, &baseline, rounds)?,
            What::Extremes => bail!("unusual folders are measured without a baseline"),
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
