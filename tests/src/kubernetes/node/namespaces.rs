//! The node's namespaces, and the shell that is their first process: it starts what it is told through a pipe, and ends
//! when the pipe does. The kernel ends every other process of the namespaces with it.

use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

/// The bridge that pods are at.
pub(super) const BRIDGE: &str = "pods";

/// A bridge without an address of its own has its ports' lowest, another one whenever a pod comes or goes, and what the other pods
/// send to the node is lost until they ask for it anew, most of a minute later.
const BRIDGE_ADDRESS: &str = "0a:58:0a:58:00:01";

/// It is a matter of a few mounts.
const ENTER_TIMEOUT: Duration = Duration::from_secs(20);

/// Each is killed, so it is a matter of the kernel.
const END_TIMEOUT: Duration = Duration::from_secs(20);

const UNSHARE: [&str; 6] = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];

/// What programs of a node write at fixed places lands in memory, and what the kubelet sets for the whole machine in files. Arguments
/// by name: the folder, the node's address, that of the API server, the bridge and its address.
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

/// Namespaces that hold processes. Dropped, they hold none, and nothing that was mounted in them is mounted any more.
#[derive(Debug)]
pub(super) struct Namespaces {
    first: Child,
    commands: Option<ChildStdin>,
    log: PathBuf,
}

/// Why there can be none.
pub(super) fn possible() -> Result<(), String> {
    let mut test = Command::new("unshare");
    test.args(UNSHARE).args(["ip", "link", "add", BRIDGE, "type", "bridge"]).stdin(Stdio::null());
    match test.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(format!("a node of Kubernetes needs namespaces with a bridge, and this machine makes none: {why}"))
        }
        Err(error) => Err(format!("a node of Kubernetes needs namespaces, and unshare cannot be started: {error}")),
    }
}

impl Namespaces {
    /// Makes them. What goes wrong in them is written to a log in the folder.
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
        let named =
            format!("folder={folder_quoted} node={node} api={api} bridge={BRIDGE} bridge_address={BRIDGE_ADDRESS}\n");
        entered.tell(&format!("{named}{SETUP}"))?;
        let start = Instant::now();
        while !folder.join("entered").exists() {
            entered.check()?;
            if start.elapsed() > ENTER_TIMEOUT {
                bail!("no namespaces after {} s: {}", ENTER_TIMEOUT.as_secs(), entered.said());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(entered)
    }

    /// The network namespace. `unshare` itself is in it too.
    pub(super) fn network(&self) -> Result<File> {
        let path = format!("/proc/{}/ns/net", self.first.id());
        File::open(&path).with_context(|| format!("cannot open {path}"))
    }

    /// Starts a program in them that runs until they end.
    pub(super) fn start(&mut self, path: &str, program: &Path, arguments: &[String], log: &Path) -> Result<()> {
        let words: Vec<String> = arguments.iter().map(|argument| quoted(argument)).collect();
        let (program, log) = (quoted(&program.display().to_string()), quoted(&log.display().to_string()));
        self.tell(&format!("PATH={} {program} {} > {log} 2>&1 < /dev/null &\n", quoted(path), words.join(" ")))
    }

    fn tell(&mut self, command: &str) -> Result<()> {
        let commands = self.commands.as_mut().context("the namespaces have ended")?;
        commands.write_all(command.as_bytes()).with_context(|| format!("the namespaces have ended: {}", self.said()))
    }

    /// # Errors
    /// When they have ended.
    pub(super) fn check(&mut self) -> Result<()> {
        match self.first.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("the namespaces ended with {status}: {}", self.said()),
        }
    }

    fn said(&self) -> String {
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
        // Fails where it has ended, as it should have.
        drop(self.first.kill());
        drop(self.first.wait());
    }
}

/// One word for a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}
