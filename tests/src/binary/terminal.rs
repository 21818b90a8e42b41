//! A run in a terminal of its own, with somebody at the keyboard.
//!
//! The terminal is made by util-linux's `script`: it hands on what is typed and keeps what is shown, and Ctrl-C is a key whose
//! signal the kernel sends.

use super::{Outcome, Run, Running};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The key.
pub const CTRL_C: &str = "\u{3}";

/// Longest wait for something to appear.
const SHOWN_TIMEOUT: Duration = Duration::from_secs(60);

/// A run in a terminal.
#[derive(Debug)]
pub struct Terminal(Running);

impl Run {
    /// Begins the run in a terminal.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start_in_terminal(self) -> Terminal {
        self.found();
        let words = [self.command.get_program()].into_iter().chain(self.command.get_args());
        let words: Vec<String> = words.map(|word| quoted(word.to_str().expect("a word of UTF-8"))).collect();
        let mut command = Command::new("script");
        // Replaced by the program, the shell between them is not there to be interrupted too.
        let line = format!("exec {}", words.join(" "));
        command.args(["--quiet", "--flush", "--return", "--command", &line, "/dev/null"]).env_clear();
        command.envs(self.command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.env("SHELL", "/bin/sh").stdin(Stdio::piped());
        if let Some(folder) = self.command.get_current_dir() {
            command.current_dir(folder);
        }
        Terminal(Run { command, founds: false }.start())
    }
}

impl Terminal {
    /// Presses keys.
    ///
    /// # Panics
    /// When nobody reads them any more.
    pub fn press(&mut self, keys: &str) {
        let keyboard = self.0.child.stdin.as_mut().expect("a keyboard");
        keyboard.write_all(keys.as_bytes()).and_then(|()| keyboard.flush()).expect("a key is taken");
    }

    /// Waits until a text has appeared so often.
    ///
    /// # Panics
    /// When it does not, with what is shown.
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

    /// Everything that appeared so far, what went to stdout and to stderr.
    #[must_use]
    pub fn shown(&self) -> String {
        // Where the run writes next is not moved, as it would be by reading.
        let length = self.0.stdout.metadata().map_or(0, |meta| meta.len());
        let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
        self.0.stdout.read_exact_at(&mut bytes, 0).expect("what appeared");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits for the end. All that appeared is in `stdout`.
    ///
    /// # Panics
    /// When it hangs.
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
    fn a_run_in_a_terminal_sees_one_reads_lines_and_is_interrupted_by_a_key() {
        let script = "trap 'echo caught; exit 5' INT; test -t 0 && test -t 2 && echo it\\'s one; read line; echo got $line; while :; do sleep 0.1; done";
        let mut terminal = Run::of("/bin/sh".into(), ["-c", script]).start_in_terminal();
        terminal.wait_for("it's one", 1);
        terminal.press("words\n");
        terminal.wait_for("got words", 1);
        terminal.press(CTRL_C);
        let outcome = terminal.finish().expect_code(5);
        assert!(outcome.stdout.contains("caught"), "{}", outcome.stdout);
    }
}
