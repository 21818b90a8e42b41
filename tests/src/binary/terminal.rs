//! A run in its own terminal, with a simulated keyboard.
//!
//! util-linux's `script` provides the terminal: it passes on the input and records the output. Ctrl-C is a key, and the
//! kernel sends its signal.

use super::{Outcome, Run, Running};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The key that interrupts the run.
pub const CTRL_C: &str = "\u{3}";

/// Longest wait for something to appear.
const SHOWN_TIMEOUT: Duration = Duration::from_secs(60);

/// A run in a terminal.
#[derive(Debug)]
pub struct Terminal(Running);

impl Run {
    /// Starts the run in a terminal.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start_in_terminal(self) -> Terminal {
        self.init();
        let words = [self.command.get_program()].into_iter().chain(self.command.get_args());
        let words: Vec<String> = words.map(|word| quoted(word.to_str().expect("a word in UTF-8"))).collect();
        let mut command = Command::new("script");
        // `exec` replaces the shell in between, so that Ctrl-C does not interrupt it too.
        let line = format!("exec {}", words.join(" "));
        command.args(["--quiet", "--flush", "--return", "--command", &line, "/dev/null"]).env_clear();
        command.envs(self.command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.env("SHELL", "/bin/sh").stdin(Stdio::piped());
        if let Some(folder) = self.command.get_current_dir() {
            command.current_dir(folder);
        }
        Terminal(Run { command, with_init: false }.start())
    }
}

impl Terminal {
    /// Presses keys.
    ///
    /// # Panics
    /// If the run no longer reads them.
    pub fn press(&mut self, keys: &str) {
        let keyboard = self.0.child.stdin.as_mut().expect("a keyboard");
        keyboard.write_all(keys.as_bytes()).and_then(|()| keyboard.flush()).expect("a key is taken");
    }

    /// Waits until a text has appeared this many times.
    ///
    /// # Panics
    /// If it does not appear. The message contains the output.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str, times: usize) {
        let start = Instant::now();
        while self.shown().matches(text).count() < times {
            let ended = self.0.child.try_wait().expect("the state of a child").is_some();
            let waits = !ended && start.elapsed() < SHOWN_TIMEOUT;
            assert!(waits || self.shown().contains(text), "no `{text}` appears:\n{}", self.shown());
            std::thread::sleep(super::POLL_INTERVAL);
        }
    }

    /// The output so far, of stdout and stderr.
    pub fn shown(&self) -> String {
        // `read_exact_at` does not move the file offset at which the run writes next.
        let length = self.0.stdout.metadata().map_or(0, |meta| meta.len());
        let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
        self.0.stdout.read_exact_at(&mut bytes, 0).expect("what appeared");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits for the end. `stdout` of the outcome contains the whole output.
    ///
    /// # Panics
    /// If it hangs.
    #[must_use]
    pub fn finish(self) -> Outcome {
        self.0.finish()
    }
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_in_a_terminal_detects_it_reads_lines_and_is_interrupted_by_a_key() {
        let script = "trap 'echo caught; exit 5' INT; test -t 0 && test -t 2 && echo it\\'s one; read line; echo got $line; while :; do sleep 0.1; done";
        let mut terminal = Run::with_program("/bin/sh".into(), ["-c", script]).start_in_terminal();
        terminal.wait_for("it's one", 1);
        terminal.press("words\n");
        terminal.wait_for("got words", 1);
        terminal.press(CTRL_C);
        let outcome = terminal.finish().expect_code(5);
        assert!(outcome.stdout.contains("caught"), "{}", outcome.stdout);
    }
}
