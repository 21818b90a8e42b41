//! Owed states can still be restored after unusual days. Each test is one such day or year.
//!
//! Most tests need no server: an office is a few folders of documents, and the time is simulated.

mod adopted;
mod answered;
mod bin;
mod clock;
mod collapsed;
mod corrected;
mod failing;
mod given_up;
mod proofs;
mod sources;
mod told;
mod touched;
mod two_clocks;
mod unanswered;
mod undone;
mod unreadable;

use crate::scene::{COMPILED, age_all};
use serde_json::Value;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use tempfile::TempDir;
use tests::binary::{Outcome, Run};

/// A policy that keeps only the last `keep` snapshots, so that nothing but the program itself prevents a loss after a
/// mistake.
fn keep_last(keep: usize, guard: &str) -> String {
    format!(
        "[plugins.retention]\ncomponent = \"retention-last.wasm\"\nsettings = {{ keep = {keep} }}\n[guard]\nmin_age = \"0m\"\n{guard}\n"
    )
}

/// The environment `prod`, whose sources are folders.
struct Office {
    folder: TempDir,
    /// Whether the harness has initialised it. A person must repair any later damage to the environment's file.
    founded: Cell<bool>,
}

impl Office {
    /// Creates these sources, each a folder with three documents, and a configuration with the lines `more`.
    fn new(sources: &[&str], more: &str) -> Self {
        let office = Self { folder: tempfile::tempdir().unwrap(), founded: Cell::new(false) };
        for source in sources {
            std::fs::create_dir_all(office.documents(source)).unwrap();
            for name in ["a", "b", "c"] {
                office.write(source, name, &format!("{name} of {source}"));
            }
        }
        let own: Vec<(&str, &str)> = sources.iter().map(|source| (*source, *source)).collect();
        office.configure(&own, more);
        office
    }

    /// Writes a configuration with these sources, each as its name and its folder.
    fn configure(&self, sources: &[(&str, &str)], more: &str) {
        let of = |(name, folder): &(&str, &str)| {
            let path = self.documents(folder);
            format!("[env.prod.sources.{name}]\nkind = \"directory\"\npath = \"{}\"\n", path.display())
        };
        let sources: String = sources.iter().map(of).collect();
        let store = self.at("store");
        let text =
            format!("time_zone = \"Europe/Paris\"\n[store]\nurl = \"file://{}\"\n{sources}{more}\n", store.display());
        std::fs::write(self.at("dolibarr-backup.toml"), text).unwrap();
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn documents(&self, source: &str) -> PathBuf {
        self.at("documents").join(source)
    }

    fn write(&self, source: &str, name: &str, text: &str) {
        std::fs::write(self.documents(source).join(name), text).unwrap();
    }

    /// Moves the folder of a source away, as if it were not mounted.
    fn hide(&self, source: &str) {
        std::fs::rename(self.documents(source), self.at("hidden")).unwrap();
    }

    fn show(&self, source: &str) {
        let path = self.documents(source);
        if path.is_dir() {
            std::fs::remove_dir(&path).unwrap();
        }
        std::fs::rename(self.at("hidden"), path).unwrap();
    }

    fn run(&self, arguments: &[&str]) -> Outcome {
        let run = Run::new(arguments.iter().copied()).folder(self.folder.path()).env("XDG_CACHE_HOME", COMPILED);
        let founded = self.founded.get();
        self.founded.set(founded || arguments.contains(&"backup") || arguments.contains(&"init"));
        if founded { run.without_init().finish() } else { run.finish() }
    }

    /// The JSON output of a verb for `prod` at a moment; null if there is none.
    #[track_caller]
    fn verb(&self, verb: &[&str], now: &str, code: i32) -> Value {
        let all = [&["--json"], verb, &["--env", "prod", "--now", now]].concat();
        let outcome = self.run(&all).expect_code(code);
        if outcome.stdout.is_empty() { Value::Null } else { outcome.json() }
    }

    /// A night's backup of the documents as they are.
    #[track_caller]
    fn backup(&self, now: &str, code: i32) -> Value {
        self.verb(&["backup"], now, code)
    }

    /// A night's backup after a working day: the first document of every existing source contains the day.
    #[track_caller]
    fn worked(&self, now: &str, code: i32) -> Value {
        self.work(now);
        self.backup(now, code)
    }

    /// A day's work on every existing source.
    fn work(&self, now: &str) {
        for entry in std::fs::read_dir(self.at("documents")).unwrap() {
            std::fs::write(entry.unwrap().path().join("a"), now).unwrap();
        }
    }

    #[track_caller]
    fn status(&self, now: &str, code: i32) -> Value {
        self.verb(&["status"], now, code)["environments"][0].clone()
    }

    /// Asserts that `status` shows no problem.
    #[track_caller]
    fn is_green(&self, now: &str) {
        let status = self.status(now, 0);
        assert_eq!(status["problems"].as_array().map(Vec::len), Some(0), "{status}");
    }

    fn snapshots(&self, now: &str) -> Vec<Value> {
        self.verb(&["list"], now, 0)["snapshots"].as_array().unwrap().clone()
    }

    /// Ids of the snapshots, newest first.
    fn ids(&self, now: &str) -> Vec<String> {
        self.snapshots(now).iter().map(|snapshot| snapshot["id"].as_str().unwrap().to_owned()).collect()
    }

    /// Whether `list` shows the time of a snapshot as doubted.
    #[track_caller]
    fn is_doubted(&self, id: &str, now: &str) -> bool {
        let found = self.snapshots(now).into_iter().find(|found| found["id"] == id);
        found.unwrap_or_else(|| panic!("{id} is gone"))["time_doubted"].as_bool().unwrap()
    }

    /// The content of a source's first document after a restore; `which` is `--at` or `--snapshot` and its value.
    #[track_caller]
    fn restored(&self, source: &str, which: [&str; 2], now: &str) -> String {
        self.restored_saying(source, &which, now).0
    }

    /// The same, and the restore's stderr. Without `which`, it restores the newest state.
    #[track_caller]
    fn restored_saying(&self, source: &str, which: &[&str], now: &str) -> (String, String) {
        let into = tempfile::tempdir_in(self.folder.path()).unwrap();
        let target = into.path().join("restored");
        let restore =
            ["restore", "--env", "prod", "--source", source, "--into", target.to_str().unwrap(), "--now", now];
        let outcome = self.run(&[&restore[..], which].concat()).expect_code(0);
        (std::fs::read_to_string(target.join("a")).unwrap(), outcome.stderr)
    }

    /// Every object of a source in the store, by its name.
    fn objects(&self, source: &str) -> BTreeMap<String, Vec<u8>> {
        let entries = std::fs::read_dir(self.at("store/prod").join(source)).into_iter().flatten().map(Result::unwrap);
        entries.map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())).collect()
    }

    /// Names of the versions of the environment's file.
    fn environment_files(&self) -> BTreeSet<String> {
        let entries = std::fs::read_dir(self.at("store/prod/environment")).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// The number of certificates: one for each snapshot that is in the bin or was deleted.
    fn certificates(&self) -> usize {
        std::fs::read_dir(self.at("store/prod/forgotten")).map_or(0, Iterator::count)
    }

    /// Changes file times as if everything in the bin had entered it this many days earlier, and the last run were
    /// today.
    fn age_bin(&self, days: u64) {
        age_all(&self.at("store/prod"), days, 1);
    }

    /// Changes file times as if the bin and all records had been written this many days earlier.
    fn pass(&self, days: u64) {
        age_all(&self.at("store/prod"), days, 0);
    }

    fn put(&self, key: &str, bytes: &[u8]) {
        let path = self.at("store").join(key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    /// Makes twenty snapshots: the ends of nine years, with gaps that the administrator accepts, and eleven days.
    #[track_caller]
    fn old(&self) {
        for year in 2016..=2024 {
            let now = format!("{year}-12-31T22:00:00Z");
            let _ = self.worked(&now, if year == 2016 { 0 } else { 3 });
        }
        let _ = self.verb(&["accept"], "2025-01-01T12:00:00Z", 0);
        for day in 1..=11 {
            let _ = self.worked(&format!("2025-01-{day:02}T22:00:00Z"), 0);
        }
        let _ = self.verb(&["verify"], "2025-01-11T22:30:00Z", 0);
        assert_eq!((self.ids("2025-01-11T23:00:00Z").len(), self.certificates()), (20, 0));
    }

    /// Asserts that every state of [`Office::old`] can be restored.
    #[track_caller]
    fn has_all_of_old(&self, source: &str, now: &str) {
        let years = (2016..=2024).map(|year| format!("{year}-12-31"));
        for day in years.chain((1..=11).map(|day| format!("2025-01-{day:02}"))) {
            assert_eq!(self.restored(source, ["--at", &day], now), format!("{day}T22:00:00Z"));
        }
    }
}

/// Kind and source of every problem.
fn problems(status: &Value) -> Vec<(&str, Option<&str>)> {
    let problems = status["problems"].as_array().unwrap().iter();
    problems.map(|problem| (problem["kind"].as_str().unwrap(), problem["source"].as_str())).collect()
}

/// The command that each problem of a kind names.
fn commands<'s>(status: &'s Value, kind: &str) -> Vec<&'s str> {
    let problems = status["problems"].as_array().unwrap().iter().filter(|problem| problem["kind"] == kind);
    problems.map(|problem| problem["command"].as_str().unwrap()).collect()
}

/// The ids in one list of a run's retention result.
fn listed(result: &Value, what: &str) -> Vec<String> {
    let retention = &result["retention"];
    // Frozen, the retention changes nothing and lists nothing.
    assert!(retention[what].is_array() || retention["state"] == "frozen", "no list `{what}`: {result}");
    let list = retention[what].as_array();
    list.into_iter().flatten().map(|id| id.as_str().unwrap().to_owned()).collect()
}
