//! Counts the results of the test runner, and lists skipped tests.

use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Numbers of passed and failed tests.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    passed: usize,
    failed: usize,
}

impl Tally {
    /// Reads one line of a runner's output. Lines other than summaries are ignored.
    pub fn read(&mut self, line: &str) {
        if let Some(counted) = nextest(line).or_else(|| libtest(line)) {
            *self = self.plus(&counted);
        }
    }

    /// The sum of both.
    pub const fn plus(&self, other: &Self) -> Self {
        Self { passed: self.passed + other.passed, failed: self.failed + other.failed }
    }

    /// Whether no test ran.
    pub const fn is_empty(&self) -> bool {
        self.passed + self.failed == 0
    }

    /// `N passed, N failed, N skipped`. The runner counts a test that skipped itself as passed; this line counts it
    /// only as skipped.
    pub fn closing_line(&self, skipped: usize) -> String {
        format!("{} passed, {} failed, {skipped} skipped", self.passed.saturating_sub(skipped), self.failed)
    }
}

/// `Summary [   0.6s] 11 tests run: 9 passed (1 slow), 1 failed, 1 timed out, 0 skipped`
fn nextest(line: &str) -> Option<Tally> {
    let (_, counts) = line.trim_start().strip_prefix("Summary [")?.split_once("run: ")?;
    let mut tally = Tally::default();
    let without_remarks = counts.split('(').map(|part| part.split_once(')').map_or(part, |(_, rest)| rest));
    for count in without_remarks.collect::<String>().split(',') {
        let (number, kind) = count.trim().split_once(' ')?;
        match (number.parse::<usize>().ok()?, kind.trim()) {
            (number, "passed") => tally.passed += number,
            (_, "skipped") => {}
            (number, _) => tally.failed += number,
        }
    }
    Some(tally)
}

/// `test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s`
fn libtest(line: &str) -> Option<Tally> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let number = |kind: &str| counts.split(';').find_map(|count| count.trim().strip_suffix(kind)?.trim().parse().ok());
    Some(Tally { passed: number("passed")?, failed: number("failed")? })
}

/// What this run skipped, by tests and by this tool.
pub struct Skipped {
    file: PathBuf,
    notes: Vec<String>,
}

impl Skipped {
    /// Creates or empties `file`, to which tests append.
    pub fn new(file: PathBuf) -> Result<Self> {
        fs::write(&file, "").with_context(|| format!("cannot write {}", file.display()))?;
        Ok(Self { file, notes: Vec::new() })
    }

    /// The file to which tests append.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Records that this tool skipped something.
    pub fn note(&mut self, what: &str) {
        eprintln!("skipped: {what}");
        self.notes.push(what.to_owned());
    }

    /// The number of tests that skipped themselves or a part of themselves.
    pub fn tests(&self) -> usize {
        let lines = self.lines();
        lines.iter().filter_map(|line| line.split_once(": ")).map(|(test, _)| test).collect::<BTreeSet<_>>().len()
    }

    /// Lists everything that was skipped.
    pub fn print(&self) {
        for what in self.notes.iter().chain(&self.lines()) {
            println!("skipped: {what}");
        }
    }

    fn lines(&self) -> BTreeSet<String> {
        fs::read_to_string(&self.file).unwrap_or_default().lines().map(str::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_of_both_runners_are_counted() {
        for (line, passed, failed) in [
            ("     Summary [   0.629s] 11 tests run: 11 passed, 0 skipped", 11, 0),
            ("Summary [ 0.6s] 5/12 tests run: 3 passed (1 slow, 1 flaky), 1 failed, 1 timed out, 2 skipped", 3, 2),
            ("     Summary [   0.000s] 1 test run: 0 passed, 1 failed, 0 skipped", 0, 1),
            ("     Summary [   0.000s] 0 tests run: 0 passed, 0 skipped", 0, 0),
            ("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s", 3, 0),
            ("test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out", 1, 2),
            ("a test that prints 5 passed, 3 failed", 0, 0),
            ("", 0, 0),
        ] {
            let mut tally = Tally::default();
            tally.read(line);
            assert_eq!(tally, Tally { passed, failed }, "{line}");
        }
    }

    #[test]
    fn several_test_binaries_add_up() {
        let mut tally = Tally::default();
        assert!(tally.is_empty());
        tally.read("test result: ok. 3 passed; 0 failed; 0 ignored");
        tally.read("test result: FAILED. 1 passed; 2 failed; 0 ignored");
        assert_eq!(tally.closing_line(1), "3 passed, 2 failed, 1 skipped");
    }

    #[test]
    fn a_test_that_skipped_two_parts_is_one_skipped_test() {
        let file = std::env::temp_dir().join(format!("xtask-skips-{}", std::process::id()));
        let mut skipped = Skipped::new(file.clone()).expect("a file");
        skipped.note("advisories: no network");
        assert_eq!(skipped.tests(), 0, "a check that this tool skips is not a test");
        fs::write(&file, "a::b: no data\na::b: no server\na::c: no data\n").expect("written");
        assert_eq!(skipped.tests(), 2);
        let _ = fs::remove_file(file);
    }
}
