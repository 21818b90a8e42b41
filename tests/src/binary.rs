//! Runs the built binary as a user does: a configuration file, arguments, a clean environment; and kills it.

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

/// A run that takes longer hangs.
const RUN_TIME_MAX: Duration = Duration::from_secs(120);

/// How often a run's end or a condition is looked for: short beside a phase of a small run.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// Where pg_dump and other tools are looked for.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// The built binary, in the target folder that this test was built into.
///
/// # Panics
/// When it is not built.
#[must_use]
pub fn program() -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test's binary");
    let profile = test.ancestors().find(|folder| folder.join("deps").is_dir() && folder.join(".fingerprint").is_dir());
    let program =
        profile.unwrap_or_else(|| panic!("{} is in no target folder", test.display())).join("dolibarr-backup");
    let advice = "run `cargo xtask test`, or `cargo build -p dolibarr-backup` and `cargo xtask plugins`";
    assert!(program.is_file(), "{} is not built: {advice}", program.display());
    program
}

/// One run that has not begun.
#[derive(Debug)]
pub struct Run {
    command: Command,
    founds: bool,
}

impl Run {
    /// The binary with `arguments`, and nothing in its environment but a PATH.
    ///
    /// # Panics
    /// When the binary is not built.
    #[must_use]
    pub fn new<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Self {
        Self::of(program(), arguments)
    }

    fn of<'a>(program: PathBuf, arguments: impl IntoIterator<Item = &'a str>) -> Self {
        let mut command = Command::new(program);
        command.args(arguments).env_clear().env("PATH", PATH).stdin(Stdio::null());
        Self { command, founds: true }
    }

    /// Without the `init` that comes before a `backup`, as an administrator runs it once.
    #[must_use]
    pub const fn without_init(mut self) -> Self {
        self.founds = false;
        self
    }

    /// Founds the environment that a `backup` is of, where nobody did. What goes wrong here goes wrong in the run itself.
    fn found(&self) {
        let words: Vec<&str> = self.command.get_args().filter_map(std::ffi::OsStr::to_str).collect();
        let writes = words.contains(&"backup") && !words.contains(&"--dry-run") && !words.contains(&"plugins");
        if !self.founds || !writes {
            return;
        }
        let named = |name: &str| words.windows(2).find(|pair| pair[0] == name).map(|pair| pair[1]);
        let mut init = Command::new(self.command.get_program());
        for name in ["--config", "--now"] {
            init.args(named(name).into_iter().flat_map(|value| [name, value]));
        }
        init.args(["init", "--env", named("--env").unwrap_or("prod")]).env_clear().stdin(Stdio::null());
        init.envs(self.command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        if let Some(folder) = self.command.get_current_dir() {
            init.current_dir(folder);
        }
        drop(init.output());
    }

    /// With one more variable in the environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// In another working folder.
    #[must_use]
    pub fn folder(mut self, folder: &std::path::Path) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// Runs to the end.
    ///
    /// # Panics
    /// When it cannot be started or hangs.
    #[must_use]
    pub fn finish(self) -> Outcome {
        self.start().finish()
    }

    /// Begins the run.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(mut self) -> Running {
        self.found();
        // Files, not pipes: nobody has to read along, and they outlive a kill.
        let stdout = tempfile::tempfile().expect("a temporary file");
        let stderr = tempfile::tempfile().expect("a temporary file");
        self.command.stdout(stdout.try_clone().expect("a second handle"));
        self.command.stderr(stderr.try_clone().expect("a second handle"));
        let child = self.command.spawn().unwrap_or_else(|error| panic!("cannot start {:?}: {error}", self.command));
        Running { child, stdout, stderr, started: Instant::now() }
    }
}

/// A run in progress. Dropped, it is killed.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: File,
    stderr: File,
    started: Instant,
}

impl Running {
    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the condition holds, while the run goes on.
    ///
    /// # Panics
    /// When the run ends before it does, or hangs.
    #[track_caller]
    pub fn wait_until(&mut self, what: &str, condition: impl FnMut() -> bool) {
        if let Some(status) = self.wait_unless(condition) {
            panic!("the run ended before {what} ({status}); its standard error:\n{}", text(&mut self.stderr));
        }
    }

    /// Waits for the end.
    ///
    /// # Panics
    /// When it hangs.
    #[must_use]
    pub fn finish(mut self) -> Outcome {
        let status = self.wait_unless(|| false);
        self.outcome(status.expect("only an end ends the wait"))
    }

    /// Sends SIGKILL as soon as the condition holds. A run that ended before it did is returned as it ended.
    ///
    /// # Panics
    /// When neither happens in time.
    #[must_use]
    pub fn kill_when(mut self, condition: impl FnMut() -> bool) -> Outcome {
        let status = self.wait_unless(condition).unwrap_or_else(|| {
            self.child.kill().expect("a kill");
            self.child.wait().expect("its end")
        });
        self.outcome(status)
    }

    /// None when the condition came first.
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
        // Both fail where it has ended already, which is as well.
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
    /// The exit code; none after a signal.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// From start to end.
    pub elapsed: Duration,
}

impl Outcome {
    /// Asserts the exit code; whatever the run wrote is shown when it is another one.
    ///
    /// # Panics
    /// When it is another one.
    #[track_caller]
    #[must_use]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Standard output as JSON.
    ///
    /// # Panics
    /// When it is not exactly one JSON value.
    #[track_caller]
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("no JSON: {error}: {}", self.stdout))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Run {
        Run::of("/bin/sh".into(), ["-c", script])
    }

    #[test]
    fn a_run_gives_back_what_it_wrote_and_how_it_ended() {
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
    fn a_run_that_ends_while_it_is_waited_for_something_else_is_told() {
        shell("echo no light >&2; exit 3").start().wait_until("dawn", || false);
    }
}
