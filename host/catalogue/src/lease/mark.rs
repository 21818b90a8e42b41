//! The mark that a run keeps in the store while it holds the lease, and the process that the run belongs to.

use base::id::SnapshotId;
use rustix::process::Pid;
use serde::{Deserialize, Serialize};
use store::ObjectKey;

/// Version of the mark's format. Version 1 named a run but no keys.
const FORMAT_VERSION: u32 = 2;

/// The owner of a lease. Stored only as long as the run lasts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseMark {
    pub(super) format_version: u32,
    /// Drawn by the run, so that a mark that was swept and rewritten by another run is recognised.
    #[serde(default)]
    pub(super) nonce: String,
    /// The run, once it has an id.
    #[serde(default)]
    pub run: Option<SnapshotId>,
    /// What the run is about to make, or has made.
    #[serde(default)]
    pub keys: Vec<ObjectKey>,
    pub(super) host: String,
    pub(super) process: Process,
}

/// A process, distinguishable from any other on any machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Process {
    boot: String,
    namespace: String,
    pub(super) pid: u32,
    started: String,
}

/// Reads a mark; `None` if it cannot be read.
pub fn read_mark(bytes: &[u8]) -> Option<LeaseMark> {
    serde_json::from_slice::<LeaseMark>(bytes).ok().filter(|mark| mark.format_version <= FORMAT_VERSION)
}

impl LeaseMark {
    /// A new mark of this process that names no run yet.
    pub(super) fn own(nonce: String) -> Self {
        let (host, process) = (hostname(), Process::own());
        Self { format_version: FORMAT_VERSION, nonce, run: None, keys: Vec::new(), host, process }
    }

    /// Whether its process is known to be gone.
    pub(super) fn is_of_a_dead_process(&self) -> bool {
        self.process.is_dead()
    }

    /// Whether it lists the keys that its run makes. Version 1 did not.
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

    /// Whether the process is known to be gone: it ran in this process namespace since this boot, and no process with
    /// its number and start time exists. The null signal is used to ask the kernel, because `/proc` may hide the
    /// processes of other users; an unreadable `/proc` proves nothing.
    fn is_dead(&self) -> bool {
        let is_local =
            !self.boot.is_empty() && self.boot == boot() && !self.namespace.is_empty() && self.namespace == namespace();
        if !is_local {
            return false;
        }
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return false };
        match rustix::process::test_kill_process(pid) {
            Err(rustix::io::Errno::SRCH) => true,
            // The process belongs to another user.
            Err(_) => false,
            Ok(()) => match state(self.pid) {
                ProcessState::Running(started) => !self.started.is_empty() && started != self.started,
                ProcessState::Ended => true,
                ProcessState::Hidden => false,
            },
        }
    }
}

/// What `/proc` shows about an existing process.
enum ProcessState {
    /// Running; the start time is in the kernel's ticks since boot.
    Running(String),
    /// It ended but its parent has not waited for it.
    Ended,
    /// `/proc` shows nothing.
    Hidden,
}

fn boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

fn namespace() -> String {
    std::fs::read_link("/proc/self/ns/pid").map(|link| link.display().to_string()).unwrap_or_default()
}

/// The state is the first field of `/proc/PID/stat` after the name, which is in parentheses and may contain anything.
/// The start time is the 20th.
fn state(pid: u32) -> ProcessState {
    let fields = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
        Some((fields.next()?.to_owned(), fields.nth(18)?.to_owned()))
    };
    match fields() {
        Some((state, _)) if state == "Z" || state == "X" => ProcessState::Ended,
        Some((_, started)) => ProcessState::Running(started),
        None => ProcessState::Hidden,
    }
}

fn started(pid: u32) -> Option<String> {
    match state(pid) {
        ProcessState::Running(started) => Some(started),
        ProcessState::Ended | ProcessState::Hidden => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_process_is_alive_and_a_process_that_ended_is_dead() {
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
