//! Runs the built binary as a user does, with a configuration file, arguments and a clean environment; and kills it.

mod config;
mod terminal;

pub use config::Config;
pub use terminal::{CTRL_C, Terminal};

use serde_json::Value;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A run that takes longer counts as hanging.
const RUN_TIME_MAX: Duration = Duration::from_secs(120);

/// How often to check for a run's end or a condition. Short compared with a phase of a small run.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// The PATH of a run, for pg_dump and other tools.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// The built binary, in the target folder of this test.
///
/// # Panics
/// If it is not built.
pub fn program() -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test's binary");
    let profile = test.ancestors().find(|folder| folder.join("deps").is_dir() && folder.join(".fingerprint").is_dir());
    let program =
        profile.unwrap_or_else(|| panic!("{} is not in a target folder", test.display())).join("dolibarr-backup");
    let advice = "run `cargo xtask test`, or `cargo build -p dolibarr-backup` and `cargo xtask plugins`";
    assert!(program.is_file(), "{} is not built: {advice}", program.display());
    program
}

/// A run that has not started.
#[derive(Debug)]
pub struct Run {
    command: Command,
    /// Whether `init` runs before a `backup`.
    with_init: bool,
}

impl Run {
    /// The binary with `arguments`. Its environment contains only a PATH.
    ///
    /// # Panics
    /// If the binary is not built.
    pub fn new<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Self {
        Self::with_program(program(), arguments)
    }

    fn with_program<'a>(program: PathBuf, arguments: impl IntoIterator<Item = &'a str>) -> Self {
        let mut command = Command::new(program);
        command.args(arguments).env_clear().env("PATH", PATH).stdin(Stdio::null());
        Self { command, with_init: true }
    }

    /// Leaves out the `init` that otherwise runs before a `backup`.
    #[must_use]
    pub const fn without_init(mut self) -> Self {
        self.with_init = false;
        self
    }

    /// Runs `init` for the environment of a `backup`. Its errors are ignored, because the backup reports them too.
    fn init(&self) {
        let words: Vec<&str> = self.command.get_args().filter_map(std::ffi::OsStr::to_str).collect();
        let writes = words.contains(&"backup") && !words.contains(&"--dry-run") && !words.contains(&"plugins");
        if !self.with_init || !writes {
            return;
        }
        let option = |name: &str| words.windows(2).find(|pair| pair[0] == name).map(|pair| pair[1]);
        let mut init = Command::new(self.command.get_program());
        for name in ["--config", "--now"] {
            init.args(option(name).into_iter().flat_map(|value| [name, value]));
        }
        init.args(["init", "--env", option("--env").unwrap_or("prod")]).env_clear().stdin(Stdio::null());
        init.envs(self.command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        if let Some(folder) = self.command.get_current_dir() {
            init.current_dir(folder);
        }
        drop(init.output());
    }

    /// Adds a variable to the environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Sets the working folder.
    pub fn folder(mut self, folder: &std::path::Path) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// Runs to the end.
    ///
    /// # Panics
    /// If it cannot be started or hangs.
    #[must_use]
    pub fn finish(self) -> Outcome {
        self.start().finish()
    }

    /// Starts the run.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start(mut self) -> Running {
        self.init();
        // Files, not pipes: nothing has to read them during the run, and they survive a kill.
        let stdout = tempfile::tempfile().expect("a temporary file");
        let stderr = tempfile::tempfile().expect("a temporary file");
        self.command.stdout(stdout.try_clone().expect("a second handle"));
        self.command.stderr(stderr.try_clone().expect("a second handle"));
        let child = self.command.spawn().unwrap_or_else(|error| panic!("cannot start {:?}: {error}", self.command));
        Running { child, stdout, stderr, started: Instant::now() }
    }
}

/// A run in progress. Dropping it kills it.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: File,
    stderr: File,
    started: Instant,
}

impl Running {
    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the condition holds while the run continues.
    ///
    /// # Panics
    /// If the run ends first, or hangs.
    #[track_caller]
    pub fn wait_until(&mut self, what: &str, condition: impl FnMut() -> bool) {
        if let Some(status) = self.wait_unless(condition) {
            panic!("the run ended before {what} ({status}); its standard error:\n{}", text(&mut self.stderr));
        }
    }

    /// Waits for the end.
    ///
    /// # Panics
    /// If it hangs.
    #[must_use]
    pub fn finish(mut self) -> Outcome {
        let status = self.wait_unless(|| false);
        self.outcome(status.expect("the condition never holds, so the run has ended"))
    }

    /// Sends SIGKILL as soon as the condition holds. If the run ends first, returns its normal outcome.
    ///
    /// # Panics
    /// If neither happens in time.
    #[must_use]
    pub fn kill_when(mut self, condition: impl FnMut() -> bool) -> Outcome {
        let status = self.wait_unless(condition).unwrap_or_else(|| {
            self.child.kill().expect("a kill");
            self.child.wait().expect("its end")
        });
        self.outcome(status)
    }

    /// Waits for the end or the condition. Returns `None` if the condition held first.
    fn wait_unless(&mut self, mut condition: impl FnMut() -> bool) -> Option<ExitStatus> {
        loop {
            if let Some(status) = self.child.try_wait().expect("the state of a child") {
                return Some(status);
            }
            if condition() {
                return None;
            }
            let hangs = self.started.elapsed() > RUN_TIME_MAX;
            assert!(!hangs, "the run hangs; its standard error so far:\n{}", text(&mut self.stderr));
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    fn outcome(&mut self, status: ExitStatus) -> Outcome {
        Outcome {
            code: status.code(),
            signal: status.signal(),
            stdout: text(&mut self.stdout),
            stderr: text(&mut self.stderr),
            elapsed: self.started.elapsed(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail if it has already ended, which is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(file: &mut File) -> String {
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).expect("what the run wrote");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// How a run ended and what it wrote.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The exit code; `None` after a signal.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Time from start to end.
    pub elapsed: Duration,
}

impl Outcome {
    /// Asserts the exit code, and shows the output if it differs.
    ///
    /// # Panics
    /// If the exit code differs.
    #[track_caller]
    #[must_use]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Standard output as JSON.
    ///
    /// # Panics
    /// If it is not exactly one JSON value.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("invalid JSON: {error}: {}", self.stdout))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Run {
        Run::with_program("/bin/sh".into(), ["-c", script])
    }

    #[test]
    fn an_outcome_has_the_output_and_the_exit_code() {
        let outcome = shell("echo '{\"a\": 1}'; echo oops >&2; exit 3").finish().expect_code(3);
        assert_eq!((outcome.json()["a"].as_i64(), outcome.stderr.as_str()), (Some(1), "oops\n"));
    }

    #[test]
    fn a_run_inherits_no_environment() {
        let outcome = shell("echo \"${HOME:-none} $ONE\"").env("ONE", "1").finish().expect_code(0);
        assert_eq!(outcome.stdout, "none 1\n");
    }

    #[test]
    fn a_run_is_killed_when_the_condition_holds() {
        let outcome = shell("echo begun; exec sleep 60").start().kill_when(|| true);
        assert_eq!((outcome.code, outcome.signal), (None, Some(9)));
    }

    #[test]
    fn a_run_that_ends_before_the_condition_holds_is_not_killed() {
        let outcome = shell("exit 0").start().kill_when(|| false);
        assert_eq!((outcome.code, outcome.signal), (Some(0), None));
    }

    #[test]
    #[should_panic(expected = "the run ended before dawn (exit status: 3); its standard error:\nno light")]
    fn a_run_that_ends_before_the_awaited_condition_is_reported() {
        shell("echo no light >&2; exit 3").start().wait_until("dawn", || false);
    }
}
