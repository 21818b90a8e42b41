//! What a run leaves in the store for as long as it holds the lease, and which process it is.

use base::id::SnapshotId;
use rustix::process::Pid;
use serde::{Deserialize, Serialize};
use store::ObjectKey;

/// Version of a mark's format. Version 1 named a run and no keys.
const FORMAT_VERSION: u32 = 2;

/// Whoever a mark belongs to. Persisted, but only for as long as a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    pub(super) format_version: u32,
    /// Drawn by its run: a mark that was swept and written again by somebody else is not this one.
    #[serde(default)]
    pub(super) nonce: String,
    /// The run, as soon as it has an id.
    #[serde(default)]
    pub run: Option<SnapshotId>,
    /// What the run is about to make, or has made.
    #[serde(default)]
    pub keys: Vec<ObjectKey>,
    pub(super) host: String,
    pub(super) process: Process,
}

/// A process, told apart from any other of any machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Process {
    boot: String,
    namespace: String,
    pub(super) pid: u32,
    started: String,
}

/// Reads a mark; none where it cannot be read.
#[must_use]
pub fn read_mark(bytes: &[u8]) -> Option<Mark> {
    serde_json::from_slice::<Mark>(bytes).ok().filter(|mark| mark.format_version <= FORMAT_VERSION)
}

impl Mark {
    /// A new one of this process, which says nothing of a run yet.
    pub(super) fn own(nonce: String) -> Self {
        let (host, process) = (hostname(), Process::own());
        Self { format_version: FORMAT_VERSION, nonce, run: None, keys: Vec::new(), host, process }
    }

    /// Whether its process is known to be gone.
    pub(super) fn is_of_a_dead_process(&self) -> bool {
        self.process.is_dead()
    }

    /// Whether it says what its run makes. One of version 1 does not.
    #[must_use]
    pub const fn names_keys(&self) -> bool {
        self.format_version >= 2
    }
}

pub(super) fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

impl Process {
    fn own() -> Self {
        let pid = std::process::id();
        Self { boot: boot(), namespace: namespace(), pid, started: started(pid).unwrap_or_default() }
    }

    /// Whether the process is known to be gone: it ran in this very process namespace of this boot, and no process
    /// of its number and start is there. The kernel is asked by a signal that does nothing, because `/proc` may hide the
    /// processes of other users; a `/proc` that cannot be read says nothing.
    fn is_dead(&self) -> bool {
        let here =
            !self.boot.is_empty() && self.boot == boot() && !self.namespace.is_empty() && self.namespace == namespace();
        if !here {
            return false;
        }
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return false };
        match rustix::process::test_kill_process(pid) {
            Err(rustix::io::Errno::SRCH) => true,
            // It is another user's.
            Err(_) => false,
            Ok(()) => match state(self.pid) {
                State::Running(started) => !self.started.is_empty() && started != self.started,
                State::Ended => true,
                State::Hidden => false,
            },
        }
    }
}

/// What `/proc` says of a process that there is.
enum State {
    /// When it started, in the kernel's ticks since boot.
    Running(String),
    /// It ended and was not waited for: it does nothing any more.
    Ended,
    /// Nothing.
    Hidden,
}

fn boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

fn namespace() -> String {
    std::fs::read_link("/proc/self/ns/pid").map(|link| link.display().to_string()).unwrap_or_default()
}

/// The state is the first field of `/proc/PID/stat` after the name, which stands in parentheses and may hold anything; the
/// start is the 20th.
fn state(pid: u32) -> State {
    let fields = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
        Some((fields.next()?.to_owned(), fields.nth(18)?.to_owned()))
    };
    match fields() {
        Some((state, _)) if state == "Z" || state == "X" => State::Ended,
        Some((_, started)) => State::Running(started),
        None => State::Hidden,
    }
}

fn started(pid: u32) -> Option<String> {
    match state(pid) {
        State::Running(started) => Some(started),
        State::Ended | State::Hidden => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_process_lives_and_a_process_that_ended_is_dead() {
        assert!(!Process::own().is_dead());
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process { pid: child.id(), started: started(child.id()).unwrap(), ..Process::own() };
        assert!(!process.is_dead());
        assert!(
            Process { started: "0".into(), ..process.clone() }.is_dead(),
            "the number was given to another process"
        );
        assert!(!Process { boot: "another machine".into(), ..process.clone() }.is_dead());
        child.kill().unwrap();
        assert!(process.clone().started != String::new());
        child.wait().unwrap();
        assert!(process.is_dead());
    }
}
