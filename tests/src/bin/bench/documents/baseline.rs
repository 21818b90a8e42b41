//! Compares two builds of the binary, such as this one and that of the previous commit. Both do the same work in turns,
//! and they alternate in starting, because the second finds more of the folder in the page cache.

use super::{CHANGED, Config, FIRST, Ours, RESTORE, UNCHANGED, emptied, restore_target, trees};
use crate::board::{BASELINE, Board, OURS};
use crate::measure::measured;
use anyhow::Result;
use std::path::Path;
use std::time::Duration;

/// Unchanged days in one round. One takes a tenth of a second, so a few would say little.
const UNCHANGED_DAYS: usize = 10;

/// Restores in one round. There are several, because the speed of disk writes varies.
const RESTORES: usize = 2;

pub fn measure(folder: &Path, binary: &Path, baseline: &Path, mib: u64, rounds: usize) -> Result<Board> {
    let tree = folder.join(format!("documents-{mib}"));
    trees::realistic(&tree, mib)?;
    let mut board = Board::new(format!("Documents compared with a baseline, {mib} MiB"));
    board.notes.push(format!(
        "{} files; medians of {rounds} rounds with {UNCHANGED_DAYS} unchanged days each, in turns. The baseline is {}.",
        trees::files(&tree)?,
        baseline.display()
    ));
    let work = folder.join("round");
    for number in 0..rounds {
        emptied(&work)?;
        let configure = |binary, name: &str| {
            Ours::new(binary, Config::directory_store(&work.join(name).join("store")), &tree, &work.join(name))
        };
        let mut pair = [(OURS, configure(binary, "ours")?), (BASELINE, configure(baseline, "baseline")?)];
        pair.rotate_left(number % 2);
        let mut turn = |what: &str| {
            pair.reverse();
            // The store names runs by the second.
            std::thread::sleep(Duration::from_millis(1_100));
            pair.iter().try_for_each(|(name, build)| {
                let into = restore_target(&work, name)?.display().to_string();
                let restore: &[&str] = &["restore", "--source", "docs", "--into", &into];
                let mut run = build.run(if what == RESTORE { restore } else { &["backup"] });
                board.add(what, name, measured(&mut run)?);
                Ok::<_, anyhow::Error>(())
            })
        };
        turn(FIRST)?;
        for _ in 0..UNCHANGED_DAYS {
            turn(UNCHANGED)?;
        }
        for _ in 0..RESTORES {
            turn(RESTORE)?;
        }
        trees::change(&tree, number)?;
        turn(CHANGED)?;
    }
    std::fs::remove_dir_all(&work)?;
    Ok(board)
}
