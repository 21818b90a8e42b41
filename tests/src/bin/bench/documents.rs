//! Documents, compared with the peers.

mod baseline;
mod s3;

use super::board::{Board, OURS};
use super::measure::{bytes, measured, shell};
use super::peers::{Borg, Restic, Rustic, is_installed};
use super::trees;
use anyhow::Result;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tests::binary::Config;

const FIRST: &str = "First backup";
const UNCHANGED: &str = "Unchanged day";
const CHANGED: &str = "One per cent of the files changed";
const RESTORE: &str = "Restore";
const ONE: &str = "One document";

/// The binary with its configuration, and its environment initialised.
pub struct Ours<'a> {
    binary: &'a Path,
    config: PathBuf,
}

impl<'a> Ours<'a> {
    pub fn new(binary: &'a Path, config: Config, tree: &Path, folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let ours = Self { binary, config: config.documents(("prod", "docs"), tree).write(folder)? };
        // An old baseline may not have this verb. The backup reports any other error.
        let _ = ours.run(&["init"]).stdout(Stdio::null()).status()?;
        Ok(ours)
    }

    pub fn run(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.binary);
        command.args(arguments).args(["--env", "prod", "--config"]).arg(&self.config).stderr(Stdio::null());
        command
    }
}

/// The folders and programs of one round.
struct Round<'a> {
    folder: &'a Path,
    tree: &'a Path,
    ours: Ours<'a>,
    store: PathBuf,
    restic: Option<Restic>,
    rustic: Option<Rustic>,
    borg: Option<Borg>,
    number: usize,
}

pub use baseline::measure as with_baseline;

pub fn measure(folder: &Path, binary: &Path, mib: u64, rounds: usize) -> Result<Board> {
    let tree = folder.join(format!("documents-{mib}"));
    trees::realistic(&tree, mib)?;
    let mut board = Board::new(format!("Documents, {mib} MiB"));
    board.notes.push(format!(
        "{} files; medians of {rounds} rounds in turns. restic deduplicates and encrypts, borg deduplicates; both keep \
         repositories of their own format. dolibarr-backup writes one `tar.gz` and its index.",
        trees::files(&tree)?
    ));
    board.notes.push(
        "For the first backup, `cat` has put the folder into the page cache. Before the work with changed files, the \
         restores may have evicted it, so that it is read from the disk."
            .to_owned(),
    );
    for program in ["restic", "rustic", "borg", "pigz", "aws"] {
        if !is_installed(program) {
            board.notes.push(format!("`{program}` is not installed and is left out."));
        }
    }
    let has_server = tests::garage::program().is_ok();
    board.notes.push(if has_server {
        "Each round starts a new Garage as the S3 server, on the same machine. Earlier stores are removed first, so \
         that every peer has the same free memory, and one backup that is not measured warms the server up."
            .to_owned()
    } else {
        "Garage is not installed, so nothing was measured on an S3 server.".to_owned()
    });
    let work = folder.join("round");
    for number in 0..rounds {
        let round = Round::new(emptied(&work)?, binary, &tree, number)?;
        round.first(&mut board)?;
        round.again(&mut board, UNCHANGED)?;
        round.restore(&mut board)?;
        round.one(&mut board)?;
        trees::change(&tree, number)?;
        round.again(&mut board, CHANGED)?;
        if has_server {
            s3::measure(&mut board, emptied(&work)?, binary, &tree)?;
        }
    }
    fs::remove_dir_all(&work)?;
    Ok(board)
}

/// Empties a folder, or creates it.
fn emptied(folder: &Path) -> Result<&Path> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::create_dir_all(folder)?;
    Ok(folder)
}

/// A path to restore to that does not exist. Removes earlier restores.
fn restore_target(folder: &Path, who: &str) -> Result<PathBuf> {
    let parent = folder.join("restored");
    Ok(emptied(&parent)?.join(who))
}

/// Creates a folder and returns its path.
fn created(folder: PathBuf) -> Result<PathBuf> {
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

impl<'a> Round<'a> {
    fn new(folder: &'a Path, binary: &'a Path, tree: &'a Path, number: usize) -> Result<Self> {
        let at = |name: &str| folder.join(name);
        let store = at("store");
        let ours = Ours::new(binary, Config::directory_store(&store), tree, &at("ours"))?;
        let restic = is_installed("restic")
            .then(|| Restic { repository: at("restic").display().to_string(), cache: at("restic-cache") });
        let rustic = is_installed("rustic").then(|| Rustic { repository: at("rustic"), cache: at("rustic-cache") });
        let borg = is_installed("borg").then(|| Borg { repository: at("borg"), base: at("borg-base") });
        Ok(Self { folder, tree, ours, store, restic, rustic, borg, number })
    }

    fn archive(&self) -> PathBuf {
        self.folder.join("peer.tar.gz")
    }

    fn first(&self, board: &mut Board) -> Result<()> {
        let cat = "find . -type f -print0 | xargs -0 cat > /dev/null";
        board.add(FIRST, "`cat` of all files", measured(shell(cat, []).current_dir(self.tree))?);
        board.add(FIRST, OURS, measured(&mut self.ours.run(&["backup"]))?);
        board.stored(FIRST, OURS, bytes(&self.store.join("prod/docs")));
        let archive = self.archive();
        let tar = "`tar -czf`";
        board.add(
            FIRST,
            tar,
            measured(Command::new("tar").arg("-czf").arg(&archive).arg("-C").arg(self.tree).arg("."))?,
        );
        board.stored(FIRST, tar, bytes(&archive));
        if is_installed("pigz") {
            let piped = self.folder.join("peer.pigz.tar.gz");
            let script = "tar -cf - -C \"$1\" . | pigz > \"$2\"";
            board.add(FIRST, "`tar | pigz`", measured(&mut shell(script, [self.tree, &piped]))?);
            board.stored(FIRST, "`tar | pigz`", bytes(&piped));
        }
        if let Some(restic) = &self.restic {
            measured(&mut restic.run(&["init"], self.tree))?;
            board.add(FIRST, "restic", measured(&mut restic.run(&["backup", "."], self.tree))?);
            board.stored(FIRST, "restic", bytes(Path::new(&restic.repository)));
        }
        if let Some(rustic) = &self.rustic {
            measured(&mut rustic.run(&["init"], self.tree))?;
            board.add(FIRST, "rustic", measured(&mut rustic.run(&["backup", "."], self.tree))?);
            board.stored(FIRST, "rustic", bytes(&rustic.repository));
        }
        if let Some(borg) = &self.borg {
            measured(&mut borg.run(&["init", "--encryption", "none"], self.tree))?;
            board.add(FIRST, "borg", measured(&mut borg.run(&["create", "::first", "."], self.tree))?);
            board.stored(FIRST, "borg", bytes(&borg.repository));
        }
        Ok(())
    }

    fn again(&self, board: &mut Board, work: &str) -> Result<()> {
        let before = bytes(&self.store);
        // The store names runs by the second.
        std::thread::sleep(std::time::Duration::from_millis(1_100));
        board.add(work, OURS, measured(&mut self.ours.run(&["backup"]))?);
        board.stored(work, OURS, bytes(&self.store) - before);
        if let Some(restic) = &self.restic {
            let before = bytes(Path::new(&restic.repository));
            board.add(work, "restic", measured(&mut restic.run(&["backup", "."], self.tree))?);
            board.stored(work, "restic", bytes(Path::new(&restic.repository)) - before);
        }
        if let Some(rustic) = &self.rustic {
            let before = bytes(&rustic.repository);
            board.add(work, "rustic", measured(&mut rustic.run(&["backup", "."], self.tree))?);
            board.stored(work, "rustic", bytes(&rustic.repository).saturating_sub(before));
        }
        if let Some(borg) = &self.borg {
            let before = bytes(&borg.repository);
            let name = format!("::{}-{}", work.len(), self.number);
            board.add(work, "borg", measured(&mut borg.run(&["create", &name, "."], self.tree))?);
            board.stored(work, "borg", bytes(&borg.repository).saturating_sub(before));
        }
        Ok(())
    }

    fn restore(&self, board: &mut Board) -> Result<()> {
        let into = |name: &str| created(restore_target(self.folder, name)?);
        let text = restore_target(self.folder, "ours")?.display().to_string();
        board.add(RESTORE, OURS, measured(&mut self.ours.run(&["restore", "--source", "docs", "--into", &text]))?);
        let target = into("tar")?;
        board.add(
            RESTORE,
            "`tar -xzf`",
            measured(Command::new("tar").arg("-xzf").arg(self.archive()).arg("-C").arg(target))?,
        );
        if let Some(restic) = &self.restic {
            let target = into("restic")?.display().to_string();
            board.add(
                RESTORE,
                "restic",
                measured(&mut restic.run(&["restore", "latest", "--target", &target], self.tree))?,
            );
        }
        if let Some(rustic) = &self.rustic {
            let target = into("rustic")?.display().to_string();
            board.add(RESTORE, "rustic", measured(&mut rustic.run(&["restore", "latest", &target], self.tree))?);
        }
        if let Some(borg) = &self.borg {
            board.add(RESTORE, "borg", measured(&mut borg.run(&["extract", "::first"], &into("borg")?))?);
        }
        Ok(())
    }

    fn one(&self, board: &mut Board) -> Result<()> {
        let path = trees::one(self.tree)?;
        let target = self.folder.join("one");
        let text = target.display().to_string();
        drop(fs::remove_file(&target));
        board.add(ONE, OURS, measured(&mut self.ours.run(&["get", &path, "--output", &text]))?);
        let below = format!("./{path}");
        let mut tar = Command::new("tar");
        tar.arg("-xzOf").arg(self.archive()).arg(&below);
        board.add(ONE, "`tar -xzf`", measured(&mut tar)?);
        if let Some(restic) = &self.restic {
            let mut dump = restic.run(&["dump", "latest", &format!("/{path}")], self.tree);
            board.add(ONE, "restic", measured(&mut dump)?);
        }
        if let Some(rustic) = &self.rustic {
            board.add(ONE, "rustic", measured(&mut rustic.run(&["dump", &format!("latest:{path}")], self.tree))?);
        }
        if let Some(borg) = &self.borg {
            board.add(ONE, "borg", measured(&mut borg.run(&["extract", "--stdout", "::first", &path], self.tree))?);
        }
        Ok(())
    }
}
