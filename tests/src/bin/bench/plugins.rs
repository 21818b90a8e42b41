//! The cost of the plugins: loading, linking and calling them, and a policy over a long history.

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
const FULL: &str = "First backup of the documents";

/// Snapshots in the long history: twenty-seven years of daily runs.
const SNAPSHOTS: u32 = 10_000;

/// The first run of the long history.
const FIRST_RUN: &str = "1998-01-01T01:00:00Z";

/// The component that `cargo xtask plugins --python` builds.
const PYTHON_COMPONENT: &str = "plugins/examples/retention-python.wasm";

/// A configuration with its own cache.
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

    /// Empties the store and initialises the environment.
    fn init_empty(&self, store: &Path) -> Result<()> {
        // Does not exist before the first run.
        drop(fs::remove_dir_all(store));
        measured(&mut self.run(&["init", "--env", "prod"])).map(drop)
    }

    /// Removes the cache, so that the next run is cold.
    fn forget_cache(&self) {
        // Does not exist before the first run.
        drop(fs::remove_dir_all(&self.cache));
    }
}

/// Starts in one round with a baseline. One takes a fraction of a second.
const STARTS: usize = 5;

/// Measures how long two builds take to load, link and call their plugins, in turns.
pub fn with_baseline(folder: &Path, binary: &Path, baseline: &Path, rounds: usize) -> Result<Board> {
    let mut board = Board::new("Plugins compared with a baseline");
    board.notes.push(format!(
        "Medians of {rounds} rounds with {STARTS} starts each, in turns. A cold start has an empty cache of compiled \
         components. The baseline is {}.",
        baseline.display()
    ));
    let empty = folder.join("empty");
    fs::create_dir_all(&empty)?;
    let configure = |binary, name: &str| -> Result<_> {
        let own = folder.join(format!("plugins-{name}"));
        let store = own.join("store");
        fs::create_dir_all(&own)?;
        let config = Config::directory_store(&store).documents(("prod", "docs"), &empty).write(&own)?;
        Ok((Place { binary, config, cache: own.join("cache") }, store))
    };
    let mut pair = [(OURS, configure(binary, "ours")?), (BASELINE, configure(baseline, "baseline")?)];
    for _ in 0..rounds * STARTS {
        pair.reverse();
        for (name, (build, store)) in &pair {
            build.init_empty(store)?;
            build.forget_cache();
            board.add(&format!("{RUN}, cold"), name, measured(&mut build.run(&["backup", "--env", "prod"]))?);
            build.init_empty(store)?;
            board.add(&format!("{RUN}, warm"), name, measured(&mut build.run(&["backup", "--env", "prod"]))?);
            board.add(AUDIT, name, measured(&mut build.run(&["plugins", "audit"]))?);
        }
    }
    Ok(board)
}

pub fn measure(folder: &Path, binary: &Path, mib: u64, rounds: usize) -> Result<Board> {
    let mut board = Board::new("Plugins");
    board.notes.push(format!(
        "Medians of {rounds} rounds. A cold start has an empty cache of compiled components, a warm start has the \
         cache of the previous run. An empty folder costs nothing to archive, so the whole run is an upper bound for \
         the cost of the plugins."
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
            run.init_empty(&store)?;
            if is_cold {
                run.forget_cache();
            }
            board.add(RUN, who, measured(&mut run.run(&["backup", "--env", "prod"]))?);
        }
        board.add(AUDIT, OURS, measured(&mut run.run(&["plugins", "audit"]))?);
        full.init_empty(&full_store)?;
        board.add(FULL, OURS, measured(&mut full.run(&["backup", "--env", "prod"]))?);
    }
    long_history(&mut board, &run, &store, rounds)?;
    python(&mut board, binary, folder, &empty, rounds)?;
    Ok(board)
}

/// Measures retention over ten thousand records, made from the record of a real run.
fn long_history(board: &mut Board, run: &Place<'_>, store: &Path, rounds: usize) -> Result<()> {
    let records = store.join("prod/snapshots");
    let one = fs::read_dir(&records)?.next().context("the run wrote no record")??.path();
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
        let millis = document["retention"]["plan_millis"].as_u64().context("the plan has no time")?;
        board.add(&work, "`retention-tiered`", Measured::from_millis(millis));
    }
    Ok(())
}

/// Measures the start of a plugin with an interpreter, cold and warm, compared with a native plugin.
fn python(board: &mut Board, binary: &Path, folder: &Path, empty: &Path, rounds: usize) -> Result<()> {
    let component = binary.with_file_name(PYTHON_COMPONENT);
    if !component.is_file() {
        board.notes.push("The Python plugin is not built: run `cargo xtask plugins --python`.".to_owned());
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
    native.init_empty(&store)?;
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
