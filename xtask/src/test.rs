//! Runs every check, the fastest ones first. The test runner comes last, so that its summary ends the output. Skipped
//! checks are listed above it.

mod summary;

use crate::run::{failure, loud, say, shown, succeeds, timed};
use crate::{cache, chart, image, machine, plugins};
use anyhow::{Context, Result};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use summary::{Skipped, Tally};

/// Optional archive readers that tests compare with.
const ARCHIVE_READERS: [(&str, &str); 2] = [("bsdtar", "libarchive-tools"), ("7z", "p7zip-full")];

/// Arguments of `cargo xtask test`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Skip the documentation and the check of dependencies; skipped checks are listed
    #[arg(long)]
    fast: bool,
}

/// Where this run builds, and what it skipped.
struct Checks {
    target: PathBuf,
    skipped: Skipped,
}

/// Runs every check.
pub fn run(arguments: &Arguments) -> Result<()> {
    let target = target_folder()?;
    let _held = cache::lock(&target)?;
    if target != machine::target_folder()? {
        cache::claim(&target, &machine::root(), &packages()?)?;
    }
    let mut checks = Checks { skipped: Skipped::new(target.join("skipped-tests.txt"))?, target };
    checks.prepare_machine()?;
    checks.lint()?;
    if arguments.fast {
        for check in ["documentation", "dependencies"] {
            checks.skipped.note(&format!("{check}: --fast"));
        }
    } else {
        checks.document()?;
        checks.dependencies()?;
    }
    checks.build()?;
    checks.tests()
}

/// The folder to build in. CI starts with a fresh clone every time, so it builds in the cache, where an earlier run
/// built the dependencies.
fn target_folder() -> Result<PathBuf> {
    if cache::variable("CI").is_none() || cache::variable("CARGO_TARGET_DIR").is_some() {
        return machine::target_folder();
    }
    Ok(cache::folder()?.join(format!("target-{}", machine::toolchain_release()?)))
}

/// Names of the workspace's packages.
fn packages() -> Result<Vec<String>> {
    let root = machine::root();
    let mut folders = vec![root.join("host"), root.join("campaign"), root.join("tests"), root.join("xtask")];
    for several in ["host", "plugins", "tests/guests"] {
        let entries = fs::read_dir(root.join(several)).into_iter().flatten().flatten();
        folders.extend(entries.map(|entry| entry.path()).filter(|folder| folder.join("Cargo.toml").is_file()));
    }
    folders.iter().map(|folder| package_name(&folder.join("Cargo.toml"))).collect()
}

fn package_name(manifest: &Path) -> Result<String> {
    let text = fs::read_to_string(manifest).with_context(|| format!("cannot read {}", manifest.display()))?;
    let name = text.lines().find_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'));
    name.map(str::to_owned).with_context(|| format!("{} has no package name", manifest.display()))
}

impl Checks {
    fn cargo(&self) -> Command {
        let mut cargo = machine::cargo();
        cargo.env("CARGO_TARGET_DIR", &self.target);
        cargo
    }

    fn prepare_machine(&mut self) -> Result<()> {
        machine::postgres()?;
        machine::garage()?;
        for (program, package) in ARCHIVE_READERS {
            if machine::on_path(program).is_none() && machine::apt(&[package]).is_err() {
                self.skipped.note(&format!("reading archives with {program}: {package} cannot be installed"));
            }
        }
        if let Err(error) = machine::kubernetes::control_plane() {
            self.skipped.note(&format!("tests with Kubernetes: {error:#}"));
        }
        if let Err(error) = machine::kubernetes::node() {
            self.skipped.note(&format!("tests that really run pods: {error:#}"));
        }
        if let Err(error) = machine::newer_postgres() {
            self.skipped.note(&format!("dumps by a newer pg_dump: {error:#}"));
        }
        if machine::registry().is_err() {
            self.skipped.note("components from a registry: docker-registry cannot be fetched");
        }
        if machine::promtool().is_err() {
            self.skipped.note("alerts of the chart: prometheus cannot be fetched");
        }
        if let Err(error) = chart::engine() {
            self.skipped.note(&format!("the chart: {error:#}"));
        }
        Ok(())
    }

    fn lint(&self) -> Result<()> {
        timed("checking the format", || loud(self.cargo().args(["fmt", "--all", "--check"]), "run `cargo fmt --all`"))?;
        let clippy = ["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"];
        timed("linting", || loud(self.cargo().args(clippy), "fix the lints that clippy reports above"))
    }

    fn document(&self) -> Result<()> {
        let doc = ["doc", "--quiet", "--workspace", "--no-deps", "--document-private-items"];
        timed("building the documentation", || {
            loud(self.cargo().args(doc).env("RUSTDOCFLAGS", "-D warnings"), "fix the errors that rustdoc reports above")
        })
    }

    /// Checks that every dependency is used, and that none is forbidden or has a known vulnerability.
    fn dependencies(&mut self) -> Result<()> {
        match machine::cargo_machete() {
            Ok(machete) => timed("looking for unused dependencies", || {
                let mut command = Command::new(machete);
                loud(command.current_dir(machine::root()), "remove the dependencies that are listed above")
            })?,
            Err(error) => self.skipped.note(&format!("unused dependencies: {error:#}")),
        }
        match machine::cargo_deny() {
            Ok(deny) => self.rules_of_dependencies(&deny),
            Err(error) => {
                self.skipped.note(&format!("rules of dependencies: {error:#}"));
                Ok(())
            }
        }
    }

    /// Checks licences, bans and sources, which needs no network, and advisories, which needs one.
    fn rules_of_dependencies(&mut self, deny: &Path) -> Result<()> {
        let check = |what: &[&str]| {
            let mut command = Command::new(deny);
            command.current_dir(machine::root()).args(["--log-level", "error", "check"]).args(what);
            command
        };
        timed("checking the dependencies", || {
            loud(&mut check(&["bans", "licenses", "sources"]), "see deny.toml for the rule and its reason")
        })?;
        let mut fetch = Command::new("timeout");
        fetch.arg("60").arg(deny).args(["fetch", "db"]).current_dir(machine::root());
        if !succeeds(&mut fetch) {
            self.skipped.note("advisories: the database cannot be fetched");
            return Ok(());
        }
        timed("checking for advisories", || {
            loud(&mut check(&["--disable-fetch", "advisories"]), "update the crate, or give a reason in deny.toml")
        })
    }

    fn build(&mut self) -> Result<()> {
        plugins::build_with_guests(&self.target)?;
        // The rest of the suite does not need the package index.
        if let Err(error) = plugins::build_python(&self.target) {
            self.skipped.note(&format!("the Python plugin: {error:#}"));
        }
        // The binary and the tests in one build: separately they need different features of the same crates, which
        // Cargo would then build twice.
        let everything = ["build", "--quiet", "--workspace", "--all-targets"];
        timed("building the binary and the tests", || {
            loud(self.cargo().args(everything), "fix the errors that the compiler reports")
        })?;
        if let Err(error) = image::build_for_tests(&self.target) {
            self.skipped.note(&format!("the image: {error:#}"));
        }
        Ok(())
    }

    fn tests(&self) -> Result<()> {
        let mut command = self.cargo();
        if succeeds(machine::cargo().args(["nextest", "--version"])) {
            command.args(["nextest", "run", "--workspace", "--no-fail-fast", "--color", "never"]);
        } else {
            command.args(["test", "--workspace", "--lib", "--bins", "--tests", "--no-fail-fast"]);
        }
        command.env(tests::SKIPS_VARIABLE, self.skipped.file());
        say("running the tests");
        let (tally, succeeded) = follow(&mut command)?;
        self.skipped.print();
        let hint = format!("run one test: cargo nextest run NAME; run all: {}", shown(&command));
        println!("{}", tally.closing_line(self.skipped.tests()));
        match (succeeded, tally.is_empty()) {
            (true, false) => Ok(()),
            (true, true) => Err(failure("no test ran", hint)),
            (false, _) => Err(failure("tests failed", hint)),
        }
    }
}

/// Runs the tests with their output on this terminal, and counts them.
fn follow(command: &mut Command) -> Result<(Tally, bool)> {
    // Either runner may print its summary to either stream. It is recognised by its format.
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let stdout = child.stdout.take().context("the output of the runner is not captured")?;
    let stderr = child.stderr.take().context("the output of the runner is not captured")?;
    let (out, err) = std::thread::scope(|scope| {
        let out = scope.spawn(|| print_and_count(stdout, |line| println!("{line}")));
        let err = print_and_count(stderr, |line| eprintln!("{line}"));
        (out.join().unwrap_or_default(), err)
    });
    Ok((out.plus(&err), child.wait()?.success()))
}

fn print_and_count(stream: impl std::io::Read, print: impl Fn(&str)) -> Tally {
    let mut tally = Tally::default();
    for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        print(&line);
        tally.read(&line);
    }
    tally
}
