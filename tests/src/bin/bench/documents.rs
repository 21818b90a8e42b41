//! The documents half beside its peers.

use super::board::{Board, OURS};
use super::measure::{bytes, measured, shell};
use super::peers::{Borg, Restic, Rustic, S3, is_installed};
use super::trees;
use anyhow::Result;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tests::binary::Config;
use tests::garage::Garage;

const FIRST: &str = "First backup";
const FIRST_S3: &str = "First backup to an S3 server (Garage, http)";
const UNCHANGED: &str = "Unchanged day";
const CHANGED: &str = "One per cent of the files changed";
const RESTORE: &str = "Restore";
const RESTORE_S3: &str = "Restore from an S3 server";
const ONE: &str = "One document";
const ONE_S3: &str = "One document from an S3 server";

/// Sizes of the extremes.
const TINY_FILES: [u32; 2] = [100_000, 1_000_000];
const SPARSE_GIB: u64 = 20;
const UNIFORM_MIB: u64 = 1_024;

/// Backups of each extreme folder, of which the median counts.
const EXTREME_BACKUPS: u64 = 3;

/// The binary with its configuration.
struct Ours<'a> {
    binary: &'a Path,
    config: PathBuf,
}

impl<'a> Ours<'a> {
    fn new(binary: &'a Path, config: Config, tree: &Path, folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        Ok(Self { binary, config: config.documents(("prod", "docs"), tree).write(folder)? })
    }

    fn run(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.binary);
        command.args(arguments).args(["--env", "prod", "--config"]).arg(&self.config).stderr(Stdio::null());
        command
    }
}

/// What one round works with.
struct Round<'a> {
    folder: &'a Path,
    tree: &'a Path,
    ours: Ours<'a>,
    store: PathBuf,
    restic: Option<Restic>,
    rustic: Option<Rustic>,
    borg: Option<Borg>,
    s3: Option<OnS3<'a>>,
    number: usize,
}

struct OnS3<'a> {
    server: S3<'a>,
    ours: Ours<'a>,
    restic: Option<Restic>,
    has_aws: bool,
    key: String,
}

pub fn measure(folder: &Path, binary: &Path, mib: u64, rounds: usize) -> Result<Board> {
    let tree = folder.join(format!("documents-{mib}"));
    trees::realistic(&tree, mib)?;
    let garage = tests::garage::program().ok().map(|_| Garage::start()).transpose()?;
    let mut board = Board::new(format!("Documents, {mib} MiB"));
    board.notes.push(format!(
        "{} files; medians of {rounds} rounds in turns. restic deduplicates and encrypts, borg deduplicates; both keep \
         repositories of their own format. dolibarr-backup writes one `tar.gz` and its index.",
        trees::files(&tree)?
    ));
    for program in ["restic", "rustic", "borg", "pigz", "aws"] {
        if !is_installed(program) {
            board.notes.push(format!("`{program}` is not installed and left out."));
        }
    }
    if garage.is_none() {
        board.notes.push("There is no Garage here, so nothing was measured on an S3 server.".to_owned());
    }
    for number in 0..rounds {
        let round = Round::new(folder, binary, &tree, garage.as_ref(), number)?;
        round.first(&mut board)?;
        round.again(&mut board, UNCHANGED)?;
        round.restore(&mut board)?;
        round.one(&mut board)?;
        trees::change(&tree, number)?;
        round.again(&mut board, CHANGED)?;
    }
    Ok(board)
}

impl<'a> Round<'a> {
    fn new(
        folder: &'a Path,
        binary: &'a Path,
        tree: &'a Path,
        garage: Option<&'a Garage>,
        number: usize,
    ) -> Result<Self> {
        let fresh = |name: &str| {
            let path = folder.join(name);
            // Not there in the first round.
            drop(fs::remove_dir_all(&path));
            path
        };
        let store = fresh("store");
        let ours = Ours::new(binary, Config::directory_store(&store), tree, &fresh("ours"))?;
        let cache = fresh("restic-cache");
        let restic = is_installed("restic")
            .then(|| Restic { repository: fresh("restic").display().to_string(), cache: cache.clone() });
        let rustic =
            is_installed("rustic").then(|| Rustic { repository: fresh("rustic"), cache: fresh("rustic-cache") });
        let borg = is_installed("borg").then(|| Borg { repository: fresh("borg"), base: fresh("borg-base") });
        let key = format!("bench-{}", rand::random::<u64>());
        let s3 = garage.map(|garage| {
            let url = format!("s3://{}/{key}", Garage::BUCKET);
            let config = Config::s3_store(&url, &garage.endpoint(), Garage::REGION, "garage", &garage.credentials());
            let server = S3(garage);
            let restic = is_installed("restic").then(|| server.restic(&format!("{key}-restic"), &cache));
            let ours = Ours::new(binary, config, tree, &fresh("ours-s3"))?;
            anyhow::Ok(OnS3 { server, ours, restic, has_aws: is_installed("aws"), key })
        });
        Ok(Self { folder, tree, ours, store, restic, rustic, borg, s3: s3.transpose()?, number })
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
        let Some(s3) = &self.s3 else { return Ok(()) };
        board.add(FIRST_S3, OURS, measured(&mut s3.ours.run(&["backup"]))?);
        if s3.has_aws {
            let mut piped = s3.server.tar_to(self.tree, &format!("{}-tar", s3.key));
            board.add(FIRST_S3, "`tar -czf - \\| aws s3 cp -`", measured(&mut piped)?);
        }
        if let Some(restic) = &s3.restic {
            measured(&mut s3.server.with_credentials(restic.run(&["init"], self.tree)))?;
            let mut backup = s3.server.with_credentials(restic.run(&["backup", "."], self.tree));
            board.add(FIRST_S3, "restic", measured(&mut backup)?);
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
        let into = |name: &str| -> Result<PathBuf> {
            let folder = self.folder.join("restored");
            if folder.exists() {
                fs::remove_dir_all(&folder)?;
            }
            let target = folder.join(name);
            fs::create_dir_all(&target)?;
            Ok(target)
        };
        let target = into("ours")?;
        fs::remove_dir(&target)?;
        let text = target.display().to_string();
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
        let Some(s3) = &self.s3 else { return Ok(()) };
        let target = into("ours")?;
        fs::remove_dir(&target)?;
        let text = target.display().to_string();
        board.add(RESTORE_S3, OURS, measured(&mut s3.ours.run(&["restore", "--source", "docs", "--into", &text]))?);
        if s3.has_aws {
            let mut piped = s3.server.tar_from(&format!("{}-tar", s3.key), &into("aws")?);
            board.add(RESTORE_S3, "`aws s3 cp - \\| tar -xzf -`", measured(&mut piped)?);
        }
        if let Some(restic) = &s3.restic {
            let target = into("restic")?.display().to_string();
            let restore = restic.run(&["restore", "latest", "--target", &target], self.tree);
            board.add(RESTORE_S3, "restic", measured(&mut s3.server.with_credentials(restore))?);
        }
        fs::remove_dir_all(self.folder.join("restored"))?;
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
        let Some(s3) = &self.s3 else { return Ok(()) };
        fs::remove_file(&target)?;
        board.add(ONE_S3, OURS, measured(&mut s3.ours.run(&["get", &path, "--output", &text]))?);
        if let Some(restic) = &s3.restic {
            let dump = restic.run(&["dump", "latest", &format!("/{path}")], self.tree);
            board.add(ONE_S3, "restic", measured(&mut s3.server.with_credentials(dump))?);
        }
        Ok(())
    }
}

/// They show how time and memory grow, not who is faster.
pub fn measure_extremes(folder: &Path, binary: &Path) -> Result<Board> {
    let mut board = Board::new("Documents out of the ordinary");
    let runs = "Medians of three backups; one run each of everything else. The folder is removed after it.";
    board.notes.push(runs.to_owned());
    for count in TINY_FILES {
        let name = format!("{count} files of 250 bytes");
        extreme(&mut board, folder, binary, &name, |tree| trees::tiny(tree, count))?;
    }
    let name = format!("one sparse file of {SPARSE_GIB} GiB");
    extreme(&mut board, folder, binary, &name, |tree| trees::sparse(tree, SPARSE_GIB))?;
    let name = format!("{UNIFORM_MIB} MiB, nothing compressible");
    extreme(&mut board, folder, binary, &name, |tree| trees::uniform(tree, UNIFORM_MIB, true))?;
    let name = format!("{UNIFORM_MIB} MiB, everything compressible");
    extreme(&mut board, folder, binary, &name, |tree| trees::uniform(tree, UNIFORM_MIB, false))?;
    Ok(board)
}

fn extreme(
    board: &mut Board,
    folder: &Path,
    binary: &Path,
    name: &str,
    make: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    let (tree, store, archive) = (folder.join("extreme"), folder.join("store"), folder.join("peer.tar.gz"));
    for left in [&tree, &store] {
        // Not there as a rule.
        drop(fs::remove_dir_all(left));
    }
    make(&tree)?;
    let ours = Ours::new(binary, Config::directory_store(&store), &tree, &folder.join("ours"))?;
    for _ in 0..EXTREME_BACKUPS {
        // The store names runs by the second.
        std::thread::sleep(std::time::Duration::from_millis(1_100));
        board.add(name, OURS, measured(&mut ours.run(&["backup", "--force"]))?);
    }
    board.stored(name, OURS, bytes(&store.join("prod/docs")) / EXTREME_BACKUPS);
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    board.add(name, "dolibarr-backup, unchanged", measured(&mut ours.run(&["backup"]))?);
    let restored = folder.join("restored");
    let text = restored.display().to_string();
    let restore = measured(&mut ours.run(&["restore", "--source", "docs", "--into", &text]))?;
    board.add(name, "dolibarr-backup, restore", restore);
    fs::remove_dir_all(&restored)?;
    let get = measured(&mut ours.run(&["get", &trees::one(&tree)?]))?;
    board.add(name, "dolibarr-backup, one document", get);
    board.add(
        name,
        "`tar -czSf`",
        measured(Command::new("tar").arg("-czSf").arg(&archive).arg("-C").arg(&tree).arg("."))?,
    );
    board.stored(name, "`tar -czSf`", bytes(&archive));
    fs::remove_dir_all(&tree)?;
    fs::remove_dir_all(&store)?;
    Ok(())
}
