//! Unusual documents folders. They show how time and memory grow, not which program is faster.

use super::board::{Board, OURS};
use super::documents::Ours;
use super::measure::{bytes, measured};
use super::trees;
use anyhow::Result;
use std::fs;
use std::path::Path;
use std::process::Command;
use tests::binary::Config;

const TINY_FILES: [u32; 2] = [100_000, 1_000_000];
const SPARSE_GIB: u64 = 20;
const UNIFORM_MIB: u64 = 1_024;

/// Backups of each folder. The median counts.
const BACKUPS: u64 = 3;

pub fn measure(folder: &Path, binary: &Path) -> Result<Board> {
    let mut board = Board::new("Unusual documents folders");
    let runs = "Medians of three backups; everything else ran once. `tar` restores its own archive. In the runs with \
                many files, nothing is removed until the end: ext4 does not reuse what was removed in the last six \
                minutes, and checks all of it for each new file.";
    board.notes.push(runs.to_owned());
    let all = folder.join("extremes");
    // Usually this does not exist.
    drop(fs::remove_dir_all(&all));
    let name = format!("one sparse file of {SPARSE_GIB} GiB");
    extreme(&mut board, &all, binary, &name, |tree| trees::sparse(tree, SPARSE_GIB))?;
    let name = format!("{UNIFORM_MIB} MiB, nothing compressible");
    extreme(&mut board, &all, binary, &name, |tree| trees::uniform(tree, UNIFORM_MIB, true))?;
    let name = format!("{UNIFORM_MIB} MiB, everything compressible");
    extreme(&mut board, &all, binary, &name, |tree| trees::uniform(tree, UNIFORM_MIB, false))?;
    fs::remove_dir_all(&all)?;
    for count in TINY_FILES {
        let name = format!("{count} files of 250 bytes");
        extreme(&mut board, &all, binary, &name, |tree| trees::tiny(tree, count))?;
    }
    fs::remove_dir_all(&all)?;
    Ok(board)
}

fn extreme(
    board: &mut Board,
    all: &Path,
    binary: &Path,
    name: &str,
    make: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    let folder = all.join(name.replace(' ', "-"));
    let (tree, store, archive) = (folder.join("documents"), folder.join("store"), folder.join("peer.tar.gz"));
    make(&tree)?;
    let ours = Ours::new(binary, Config::directory_store(&store), &tree, &folder.join("ours"))?;
    for _ in 0..BACKUPS {
        // The store names runs by the second.
        std::thread::sleep(std::time::Duration::from_millis(1_100));
        board.add(name, OURS, measured(&mut ours.run(&["backup", "--force"]))?);
    }
    board.stored(name, OURS, bytes(&store.join("prod/docs")) / BACKUPS);
    board.add(
        name,
        "`tar -czSf`",
        measured(Command::new("tar").arg("-czSf").arg(&archive).arg("-C").arg(&tree).arg("."))?,
    );
    board.stored(name, "`tar -czSf`", bytes(&archive));
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    board.add(name, "dolibarr-backup, unchanged", measured(&mut ours.run(&["backup"]))?);
    let into = folder.join("restored").display().to_string();
    let restore = measured(&mut ours.run(&["restore", "--source", "docs", "--into", &into]))?;
    board.add(name, "dolibarr-backup, restore", restore);
    let peer = folder.join("restored by tar");
    fs::create_dir(&peer)?;
    board.add(name, "`tar -xzf`", measured(Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(&peer))?);
    let one = folder.join("one").display().to_string();
    let get = measured(&mut ours.run(&["get", &trees::one(&tree)?, "--output", &one]))?;
    board.add(name, "dolibarr-backup, one document", get);
    Ok(())
}
