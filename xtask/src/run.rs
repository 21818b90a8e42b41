//! Runs child processes and reports on them: one short line per step, the duration of a long step, and on failure one
//! sentence with a hint.

use anyhow::{Context, Error, Result};
use std::fmt;
use std::io::{Seek, Write};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Longer steps report their duration.
const WORTH_MENTIONING: Duration = Duration::from_secs(2);

/// Lines of output shown after a quiet command fails.
const LINES_SHOWN_MAX: usize = 40;

/// An error with a hint.
#[derive(Debug)]
struct Advised {
    message: String,
    hint: String,
}

impl fmt::Display for Advised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Advised {}

/// Builds an error from one lowercase sentence and a hint.
pub fn failure(message: impl fmt::Display, hint: impl fmt::Display) -> Error {
    Error::new(Advised { message: message.to_string(), hint: hint.to_string() })
}

/// Prints an error and the first hint in its chain.
pub fn report(error: &Error) {
    eprintln!("error: {error:#}");
    if let Some(advised) = error.chain().find_map(|cause| cause.downcast_ref::<Advised>()) {
        eprintln!("hint: {}", advised.hint);
    }
}

/// Prints a progress line.
pub fn say(line: impl fmt::Display) {
    eprintln!("xtask: {line}");
}

/// Prints what starts, runs it, and prints the duration if it took long.
pub fn timed<T>(doing: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    say(doing);
    let started = Instant::now();
    let result = work()?;
    if started.elapsed() >= WORTH_MENTIONING {
        say(format_args!("{doing}: {:.0} s", started.elapsed().as_secs_f64()));
    }
    Ok(result)
}

/// Runs a command that writes to this terminal. Fails unless it exits with 0.
pub fn loud(command: &mut Command, hint: &str) -> Result<()> {
    let status = command.stdin(Stdio::null()).status().map_err(|error| cannot_start(command, &error))?;
    if status.success() { Ok(()) } else { Err(failure(format_args!("{} failed: {status}", shown(command)), hint)) }
}

/// Runs a command and returns its standard output. Fails unless it exits with 0, and then shows its last output.
pub fn quiet(command: &mut Command, hint: &str) -> Result<String> {
    finished(command.stdin(Stdio::null()), hint)
}

/// Does the same as [`quiet`], with text on the command's standard input.
pub fn fed(command: &mut Command, input: &str, hint: &str) -> Result<String> {
    let mut file = tempfile::tempfile().context("cannot make a temporary file")?;
    file.write_all(input.as_bytes()).and_then(|()| file.rewind()).context("cannot write a temporary file")?;
    finished(command.stdin(file), hint)
}

fn finished(command: &mut Command, hint: &str) -> Result<String> {
    let output = command.output().map_err(|error| cannot_start(command, &error))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    show_tail(&output);
    Err(failure(format_args!("{} failed: {}", shown(command), output.status), hint))
}

/// Whether a command starts and exits with 0. Its output is discarded.
pub fn succeeds(command: &mut Command) -> bool {
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// A command line that can be pasted into a shell.
pub fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| quoted(&word.to_string_lossy())).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@+%".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.into() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

fn cannot_start(command: &Command, error: &std::io::Error) -> Error {
    let program = command.get_program().to_string_lossy().into_owned();
    failure(format_args!("cannot start {program}: {error}"), format_args!("install {program}, or put it on the PATH"))
}

fn show_tail(output: &Output) {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    for line in &lines[lines.len().saturating_sub(LINES_SHOWN_MAX)..] {
        eprintln!("  {line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_can_be_pasted_into_a_shell() {
        let table =
            [("plain-1.2/x=y", "plain-1.2/x=y"), ("", "''"), ("two words", "'two words'"), ("it's", r"'it'\''s'")];
        for (word, want) in table {
            assert_eq!(shown(Command::new("x").arg(word)), format!("x {want}"));
        }
    }

    #[test]
    fn a_failed_command_is_named_in_the_error() {
        let error = quiet(Command::new("sh").args(["-c", "exit 3"]), "try again").expect_err("it exits with 3");
        assert!(error.to_string().contains("exit status: 3"), "{error}");
        assert!(quiet(&mut Command::new("/nonexistent/tool"), "").is_err());
    }
}
