//! One build of the binary beside another one, such as that of the commit before: the same work, in turns, and the one that
//! begins is another one each time, because the second finds more of the folder in the page cache.

use super::{CHANGED, Config, FIRST, Ours, RESTORE, UNCHANGED, emptied, restored, trees};
use crate::board::{BASELINE, Board, OURS};
use crate::measure::measured;
use anyhow::Result;
use std::path::Path;
use std::time::Duration;

/// Unchanged days in one round: one takes a tenth of a second, so that a few say little.
const UNCHANGED_DAYS: usize = 10;

/// Restores in one round: how soon the disk takes what they write varies.
const RESTORES: usize = 2;

pub fn measure(folder: &Path, binary: &Path, baseline: &Path, mib: u64, rounds: usize) -> Result<Board> {
    let tree = folder.join(format!("documents-{mib}"));
    trees::realistic(&tree, mib)?;
    let mut board = Board::new(format!("Documents beside a baseline, {mib} MiB"));
    board.notes.push(format!(
        "{} files; medians of {rounds} rounds with {UNCHANGED_DAYS} unchanged days each, in turns. The baseline is {}.",
        trees::files(&tree)?,
        baseline.display()
    ));
    let work = folder.join("round");
    for number in 0..rounds {
        emptied(&work)?;
        let of = |binary, name: &str| {
            Ours::new(binary, Config::directory_store(&work.join(name).join("store")), &tree, &work.join(name))
        };
        let mut pair = [(OURS, of(binary, "ours")?), (BASELINE, of(baseline, "baseline")?)];
        pair.rotate_left(number % 2);
        let mut turn = |what: &str| {
            pair.reverse();
            // The store names runs by the second.
            std::thread::sleep(Duration::from_millis(1_100));
            pair.iter().try_for_each(|(name, build)| {
                let into = restored(&work, name)?.display().to_string();
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
