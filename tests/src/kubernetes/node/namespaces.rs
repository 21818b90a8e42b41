//! The node's namespaces. Their first process is a shell that runs commands from a pipe and ends when the pipe is
//! closed. The kernel then ends every other process in the namespaces.

use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

/// The bridge that pods are attached to.
pub(super) const BRIDGE: &str = "pods";

/// The bridge's MAC address. Without a fixed one, the bridge takes the lowest of its ports, so it changes when a pod
/// comes or goes. The other pods then lose what they send to the node until they resolve it again, most of a minute
/// later.
const BRIDGE_ADDRESS: &str = "0a:58:0a:58:00:01";

/// Entering takes only a few mounts.
const ENTER_TIMEOUT: Duration = Duration::from_secs(20);

/// Every process is killed, so only the kernel can delay the end.
const END_TIMEOUT: Duration = Duration::from_secs(20);

const UNSHARE: [&str; 6] = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];

/// Puts fixed paths that the node's programs write to in memory, and redirects the kubelet's machine-wide settings to
/// files. Its variables are the folder, the node's address, the API server's address, the bridge and its MAC address.
const SETUP: &str = "\
set -e
mount --make-rshared /
for place in /run /var/lib /var/log; do mount -t tmpfs tmpfs $place; done
for setting in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
  file=/run/settings/$setting
  mkdir -p ${file%/*}
  cat /proc/sys/$setting > $file
  mount --bind $file /proc/sys/$setting
done
ip link set lo up
ip link add $bridge address $bridge_address type bridge
ip address add $node/24 dev $bridge
ip address add $api/32 dev lo
ip link set $bridge up
touch \"$folder/entered\"
set +e
";

/// Namespaces with running processes. Dropping them ends the processes and removes the mounts.
#[derive(Debug)]
pub(super) struct Namespaces {
    first: Child,
    commands: Option<ChildStdin>,
    log: PathBuf,
}

/// Checks that namespaces can be created. The error is the reason for skipping the test.
pub(super) fn possible() -> Result<(), String> {
    let mut test = Command::new("unshare");
    test.args(UNSHARE).args(["ip", "link", "add", BRIDGE, "type", "bridge"]).stdin(Stdio::null());
    match test.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(format!("a Kubernetes node needs namespaces with a bridge, which cannot be created here: {reason}"))
        }
        Err(error) => Err(format!("a Kubernetes node needs namespaces, but unshare cannot be started: {error}")),
    }
}

impl Namespaces {
    /// Creates the namespaces. Errors in them are written to a log in the folder.
    pub(super) fn enter(folder: &Path, node: Ipv4Addr, api: Ipv4Addr) -> Result<Self> {
        let log = folder.join("namespaces.log");
        let written = File::create(&log)?;
        let mut unshare = Command::new("unshare");
        unshare.args(UNSHARE).arg("sh").env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        unshare.stdin(Stdio::piped()).stdout(written.try_clone()?).stderr(written);
        let mut first = unshare.spawn().context("unshare cannot be started")?;
        let commands = first.stdin.take();
        let mut entered = Self { first, commands, log };
        let folder_quoted = quoted(&folder.display().to_string());
        let variables =
            format!("folder={folder_quoted} node={node} api={api} bridge={BRIDGE} bridge_address={BRIDGE_ADDRESS}\n");
        entered.send(&format!("{variables}{SETUP}"))?;
        let start = Instant::now();
        while !folder.join("entered").exists() {
            entered.check()?;
            if start.elapsed() > ENTER_TIMEOUT {
                bail!("no namespaces after {} s: {}", ENTER_TIMEOUT.as_secs(), entered.log_text());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(entered)
    }

    /// The network namespace, which `unshare` itself has entered too.
    pub(super) fn network(&self) -> Result<File> {
        let path = format!("/proc/{}/ns/net", self.first.id());
        File::open(&path).with_context(|| format!("cannot open {path}"))
    }

    /// Starts a program in the namespaces. It runs until they end.
    pub(super) fn start(&mut self, path: &str, program: &Path, arguments: &[String], log: &Path) -> Result<()> {
        let words: Vec<String> = arguments.iter().map(|argument| quoted(argument)).collect();
        let (program, log) = (quoted(&program.display().to_string()), quoted(&log.display().to_string()));
        self.send(&format!("PATH={} {program} {} > {log} 2>&1 < /dev/null &\n", quoted(path), words.join(" ")))
    }

    fn send(&mut self, command: &str) -> Result<()> {
        let commands = self.commands.as_mut().context("the namespaces have ended")?;
        let sent = commands.write_all(command.as_bytes());
        sent.with_context(|| format!("the namespaces have ended: {}", self.log_text()))
    }

    /// Fails if the namespaces have ended.
    pub(super) fn check(&mut self) -> Result<()> {
        match self.first.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("the namespaces ended with {status}: {}", self.log_text()),
        }
    }

    fn log_text(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        drop(self.commands.take());
        let start = Instant::now();
        while matches!(self.first.try_wait(), Ok(None)) && start.elapsed() < END_TIMEOUT {
            std::thread::sleep(Duration::from_millis(20));
        }
        // Fails if the process has ended, which is the normal case.
        drop(self.first.kill());
        drop(self.first.wait());
    }
}

/// Quotes a word for a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}
