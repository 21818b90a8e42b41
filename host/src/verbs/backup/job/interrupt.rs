//! Decides what happens to a Job when the command that follows it is interrupted. In a terminal the user is asked;
//! otherwise the Job is stopped, or left running with `--leave-on-interrupt`.
//!
//! While the question is shown, the Job is still followed, but its log lines are held back.

use base::error::{Error, Result};
use base::telemetry;
use std::io::{BufRead, IsTerminal, Write};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How long to wait for an answer: enough to read four lines and decide. A Job does not wait longer for somebody who
/// closed the laptop.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Number of invalid answers before the Job is stopped.
const UNCLEAR_MAX: u32 = 3;

/// What to do with the Job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interruption {
    /// It is deleted.
    Stop,
    /// It keeps running and is no longer followed.
    Leave,
}

/// The user's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Choice {
    Stop,
    Leave,
    Follow,
}

/// Ctrl-C, and SIGTERM, from the moment that the value is made.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Begins to listen.
    ///
    /// # Errors
    /// [`base::error::Class::Unexpected`] when the system has no room for it.
    pub fn listen() -> Result<Self> {
        let failed = |e: std::io::Error| Error::unexpected(format!("cannot listen for signals: {e}"));
        let interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        Ok(Self { interrupt, terminate: signal(SignalKind::terminate()).map_err(failed)? })
    }

    /// The next one; whether it was Ctrl-C.
    async fn next(&mut self) -> bool {
        tokio::select! { _ = self.interrupt.recv() => true, _ = self.terminate.recv() => false }
    }
}

/// Resolves once it is decided that the Job is not followed any longer. Whoever is asked and wants to go on is asked
/// again the next time.
pub async fn decided(mut signals: Signals, job: &str, leave: bool) -> Interruption {
    loop {
        let is_ctrl_c = signals.next().await;
        if leave {
            return Interruption::Leave;
        }
        if !is_ctrl_c || !is_attended() {
            return Interruption::Stop;
        }
        let _quiet = telemetry::hold_lines();
        let answer = tokio::select! {
            answer = ask(job) => answer,
            _ = signals.next() => Choice::Stop,
            () = tokio::time::sleep(ANSWER_TIMEOUT) => {
                print(&format!("\nno answer within {} s\n", ANSWER_TIMEOUT.as_secs()));
                Choice::Stop
            }
        };
        match answer {
            Choice::Stop => return Interruption::Stop,
            Choice::Leave => return Interruption::Leave,
            Choice::Follow => {}
        }
    }
}

/// Whether there is a person to ask: a terminal to read from and to write to, and this process in front of it. One in
/// the background that read from it would be stopped.
fn is_attended() -> bool {
    let input = std::io::stdin();
    let in_front = || rustix::termios::tcgetpgrp(&input).is_ok_and(|group| group == rustix::process::getpgrp());
    input.is_terminal() && std::io::stderr().is_terminal() && in_front()
}

async fn ask(job: &str) -> Choice {
    let (namespace, name) = job.split_once('/').unwrap_or_default();
    print(&format!(
        "\nthe Job {job} is still running. What should happen to it?\n\
         \u{20} s  stop it and clean up (also on Ctrl-C, or after {} s without an answer)\n\
         \u{20} l  leave it running (follow it with `kubectl --namespace {namespace} logs --follow job/{name}`)\n\
         \u{20} f  continue following it\n[s/l/f] ",
        ANSWER_TIMEOUT.as_secs()
    ));
    for _ in 0..UNCLEAR_MAX {
        // A thread of its own waits for the line, and may wait for ever: the end of the process does not wait for it.
        let line = tokio::task::spawn_blocking(|| {
            let mut line = String::new();
            std::io::stdin().lock().read_line(&mut line).ok().filter(|bytes| *bytes > 0).map(|_| line)
        });
        let Ok(Some(line)) = line.await else { return Choice::Stop };
        match parse_answer(&line) {
            Some(answer) => return answer,
            None => print("answer s, l or f: "),
        }
    }
    Choice::Stop
}

fn parse_answer(line: &str) -> Option<Choice> {
    match line.trim().to_lowercase().as_str() {
        "s" | "stop" => Some(Choice::Stop),
        "l" | "leave" => Some(Choice::Leave),
        "f" | "follow" => Some(Choice::Follow),
        _ => None,
    }
}

fn print(text: &str) {
    let mut err = std::io::stderr().lock();
    // Nobody is left to ask when the terminal is gone.
    drop(err.write_all(text.as_bytes()).and_then(|()| err.flush()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_letter_or_its_word_and_an_empty_line_is_none() {
        let table = [
            ("s\n", Some(Choice::Stop)),
            (" L \n", Some(Choice::Leave)),
            ("follow", Some(Choice::Follow)),
            ("\n", None),
            ("", None),
            ("yes\n", None),
        ];
        for (line, expected) in table {
            assert_eq!(parse_answer(line), expected, "{line:?}");
        }
    }
}
