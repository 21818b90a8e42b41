//! What becomes of a Job whose follower is interrupted: in a terminal the person is asked, anywhere else it is stopped, or left
//! where that was asked for in advance.
//!
//! While the question stands, the Job is followed on, and its log is held back.

use base::error::{Error, Result};
use base::telemetry;
use std::io::{BufRead, IsTerminal, Write};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How long an answer is waited for: time to read four lines and to make up one's mind. Whoever closed the laptop in the
/// meantime is not waited for by a Job.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Answers that are not understood. Somebody who leans on the keyboard is no reason to wait for ever.
const UNCLEAR_MAX: u32 = 3;

/// What becomes of the Job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It is deleted.
    Stop,
    /// It goes on, and nobody here follows it.
    Leave,
}

/// What was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
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
        let failed = |e: std::io::Error| Error::unexpected(format!("signals cannot be listened to: {e}"));
        let interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        Ok(Self { interrupt, terminate: signal(SignalKind::terminate()).map_err(failed)? })
    }

    /// The next one; whether it was Ctrl-C.
    async fn next(&mut self) -> bool {
        tokio::select! { _ = self.interrupt.recv() => true, _ = self.terminate.recv() => false }
    }
}

/// Resolves once it is decided that the Job is not followed any longer. Whoever is asked and wants to go on is asked again the
/// next time.
pub async fn decided(mut signals: Signals, job: &str, leave: bool) -> Decision {
    loop {
        let by_a_key = signals.next().await;
        if leave {
            return Decision::Leave;
        }
        if !by_a_key || !is_attended() {
            return Decision::Stop;
        }
        let _quiet = telemetry::hold_lines();
        let answer = tokio::select! {
            answer = ask(job) => answer,
            _ = signals.next() => Answer::Stop,
            () = tokio::time::sleep(ANSWER_TIMEOUT) => {
                say(&format!("\nno answer within {} s\n", ANSWER_TIMEOUT.as_secs()));
                Answer::Stop
            }
        };
        match answer {
            Answer::Stop => return Decision::Stop,
            Answer::Leave => return Decision::Leave,
            Answer::Follow => {}
        }
    }
}

/// Whether there is a person to ask: a terminal to read from and to write to, and this process in front of it. One in the
/// background that read from it would be stopped.
fn is_attended() -> bool {
    let input = std::io::stdin();
    let in_front = || rustix::termios::tcgetpgrp(&input).is_ok_and(|group| group == rustix::process::getpgrp());
    input.is_terminal() && std::io::stderr().is_terminal() && in_front()
}

async fn ask(job: &str) -> Answer {
    let (namespace, name) = job.split_once('/').unwrap_or_default();
    say(&format!(
        "\nthe Job {job} still goes on. What is to become of it?\n\
         \u{20} s  stop it and clean up; so do Ctrl-C, and {} s without an answer\n\
         \u{20} l  leave it running; `kubectl --namespace {namespace} logs --follow job/{name}` shows it\n\
         \u{20} f  follow it further\n[s/l/f] ",
        ANSWER_TIMEOUT.as_secs()
    ));
    for _ in 0..UNCLEAR_MAX {
        // A thread of its own waits for the line, and may wait for ever: the end of the process does not wait for it.
        let line = tokio::task::spawn_blocking(|| {
            let mut line = String::new();
            std::io::stdin().lock().read_line(&mut line).ok().filter(|bytes| *bytes > 0).map(|_| line)
        });
        let Ok(Some(line)) = line.await else { return Answer::Stop };
        match understood(&line) {
            Some(answer) => return answer,
            None => say("answer s, l or f: "),
        }
    }
    Answer::Stop
}

fn understood(line: &str) -> Option<Answer> {
    match line.trim().to_lowercase().as_str() {
        "s" | "stop" => Some(Answer::Stop),
        "l" | "leave" => Some(Answer::Leave),
        "f" | "follow" => Some(Answer::Follow),
        _ => None,
    }
}

fn say(text: &str) {
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
            ("s\n", Some(Answer::Stop)),
            (" L \n", Some(Answer::Leave)),
            ("follow", Some(Answer::Follow)),
            ("\n", None),
            ("", None),
            ("yes\n", None),
        ];
        for (line, expected) in table {
            assert_eq!(understood(line), expected, "{line:?}");
        }
    }
}
