//! What the plugins cost: loading, linking and calling them, and a policy over a long history.

use super::board::{BASELINE, Board, OURS};
use super::measure::{Measured, measured};
use super::trees;
use anyhow::{Context, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tests::binary::Config;

const RUN: &str = "A whole run over an empty folder: three plugins loaded, linked and called";
const AUDIT: &str = "`plugins audit`";
const PYTHON: &str = "`list` with a retention plugin in Python";
const FULL: &str = "First backup of the documents, and of it the plugins";

/// Snapshots of the long history: twenty-seven years of daily runs.
const SNAPSHOTS: u32 = 10_000;

/// The first of them.
const FIRST_RUN: &str = "1998-01-01T01:00:00Z";

/// The component that `cargo xtask plugins --python` builds.
const PYTHON_COMPONENT: &str = "plugins/examples/retention-python.wasm";

/// A folder, an environment and a cache of its own.
struct Place<'a> {
    binary: &'a Path,
    config: PathBuf,
    cache: PathBuf,
}

impl Place<'_> {
    fn run(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.binary);
        command.args(arguments).arg("--config").arg(&self.config).stderr(Stdio::null());
        command.env("XDG_CACHE_HOME", &self.cache);
        command
    }

    /// Makes the environment in a store that is empty from now on.
    fn found(&self, store: &Path) -> Result<()> {
        // Not there before the first run.
        drop(fs::remove_dir_all(store));
        measured(&mut self.run(&["init", "--env", "prod"])).map(drop)
    }

    /// Makes the next run the first one on its machine.
    fn forget_cache(&self) {
        // Not there before the first run.
        drop(fs::remove_dir_all(&self.cache));
    }
}

/// Starts in one round beside a baseline: one takes a fraction of a second.
const STARTS: usize = 5;

/// What one build takes to load, link and call its plugins, and another one, in turns.
pub fn beside_baseline(folder: &Path, binary: &Path, baseline: &Path, rounds: usize) -> Result<Board> {
    let mut board = Board::new("Plugins beside a baseline");
    board.notes.push(format!(
        "Medians of {rounds} rounds with {STARTS} starts each, in turns. Cold is with an empty cache of compiled components. The baseline is {}.",
        baseline.display()
    ));
    let empty = folder.join("empty");
    fs::create_dir_all(&empty)?;
    let of = |binary, name: &str| -> Result<_> {
        let own = folder.join(format!("plugins-{name}"));
        let store = own.join("store");
        fs::create_dir_all(&own)?;
        let config = Config::directory_store(&store).documents(("prod", "docs"), &empty).write(&own)?;
        Ok((Place { binary, config, cache: own.join("cache") }, store))
    };
    let mut pair = [(OURS, of(binary, "ours")?), (BASELINE, of(baseline, "baseline")?)];
    for _ in 0..rounds * STARTS {
        pair.reverse();
        for (name, (build, store)) in &pair {
            build.found(store)?;
            build.forget_cache();
            board.add(&format!("{RUN}, cold"), name, measured(&mut build.run(&["backup", "--env", "prod"]))?);
            build.found(store)?;
            board.add(&format!("{RUN}, warm"), name, measured(&mut build.run(&["backup", "--env", "prod"]))?);
            board.add(AUDIT, name, measured(&mut build.run(&["plugins", "audit"]))?);
        }
    }
    Ok(board)
}

pub fn measure(folder: &Path, binary: &Path, mib: u64, rounds: usize) -> Result<Board> {
    let mut board = Board::new("Plugins");
    board.notes.push(format!(
        "Medians of {rounds} rounds. Cold is with an empty cache of compiled components, warm with the one that the run before it left. \
         An empty folder costs nothing to archive, so the whole run is an upper bound of what the plugins add."
    ));
    let (empty, tree) = (folder.join("empty"), folder.join(format!("documents-{mib}")));
    fs::create_dir_all(&empty)?;
    trees::realistic(&tree, mib)?;
    let place = |name: &str, tree: &Path, config: fn(Config) -> Config| -> Result<(Place<'_>, PathBuf)> {
        let (store, own) = (folder.join(format!("plugins-store-{name}")), folder.join(format!("plugins-{name}")));
        drop(fs::remove_dir_all(&store));
        fs::create_dir_all(&own)?;
        let config = config(Config::directory_store(&store)).documents(("prod", "docs"), tree).write(&own)?;
        Ok((Place { binary, config, cache: own.join("cache") }, store))
    };
    let (run, store) = place("run", &empty, |config| config)?;
    let (full, full_store) = place("full", &tree, |config| config)?;
    for _ in 0..rounds {
        for (who, is_cold) in [("dolibarr-backup, cold", true), ("dolibarr-backup, warm", false)] {
            run.found(&store)?;
            if is_cold {
                run.forget_cache();
            }
            board.add(RUN, who, measured(&mut run.run(&["backup", "--env", "prod"]))?);
        }
        board.add(AUDIT, OURS, measured(&mut run.run(&["plugins", "audit"]))?);
        full.found(&full_store)?;
        board.add(FULL, OURS, measured(&mut full.run(&["backup", "--env", "prod"]))?);
    }
    long_history(&mut board, &run, &store, rounds)?;
    python(&mut board, binary, folder, &empty, rounds)?;
    Ok(board)
}

/// Ten thousand records made from the one that a real run wrote.
fn long_history(board: &mut Board, run: &Place<'_>, store: &Path, rounds: usize) -> Result<()> {
    let records = store.join("prod/snapshots");
    let one = fs::read_dir(&records)?.next().context("the run left no record")??.path();
    let record: Value = serde_json::from_slice(&fs::read(&one)?)?;
    let first: Timestamp = FIRST_RUN.parse()?;
    for day in 0..SNAPSHOTS {
        let id = (first + SignedDuration::from_hours(24 * i64::from(day))).strftime("%Y%m%dT%H%M%SZ").to_string();
        let mut record = record.clone();
        record["id"] = json!(id);
        record["previous"] = Value::Null;
        fs::write(records.join(format!("{id}.json")), serde_json::to_vec_pretty(&record)?)?;
    }
    let work = format!("Retention over {SNAPSHOTS} snapshots, the call alone");
    for _ in 0..rounds {
        let mut prune = run.run(&["prune", "--env", "prod", "--dry-run", "--no-limit", "--json"]);
        let output = prune.output()?;
        ensure!(output.status.success(), "{prune:?} ended with {}", output.status);
        let document: Value = serde_json::from_slice(&output.stdout)?;
        let millis = document["retention"]["plan_millis"].as_u64().context("the plan names no time")?;
        board.add(&work, "`retention-tiered`", Measured::of_millis(millis));
    }
    Ok(())
}

/// The start of an interpreter, cold and warm, beside a plugin that is none.
fn python(board: &mut Board, binary: &Path, folder: &Path, empty: &Path, rounds: usize) -> Result<()> {
    let component = binary.with_file_name(PYTHON_COMPONENT);
    if !component.is_file() {
        board.notes.push("There is no plugin in Python here: `cargo xtask plugins --python` builds it.".to_owned());
        return Ok(());
    }
    let store = folder.join("plugins-store-python");
    let place = |name: &str, component: &str| -> Result<Place<'_>> {
        let own = folder.join(format!("plugins-{name}"));
        fs::create_dir_all(&own)?;
        let config = Config::directory_store(&store).documents(("prod", "docs"), empty);
        let config = config.retention(component, "keep = 7").write(&own)?;
        Ok(Place { binary, config, cache: own.join("cache") })
    };
    let interpreter = place("python", &component.display().to_string())?;
    let native = place("last", "retention-last.wasm")?;
    native.found(&store)?;
    measured(&mut native.run(&["backup", "--env", "prod"]))?;
    let list = ["list", "--env", "prod"];
    for _ in 0..rounds {
        interpreter.forget_cache();
        board.add(PYTHON, "Python, first start", measured(&mut interpreter.run(&list))?);
        board.add(PYTHON, "Python, second start", measured(&mut interpreter.run(&list))?);
        board.add(PYTHON, "`retention-last` in Rust", measured(&mut native.run(&list))?);
    }
    Ok(())
}
