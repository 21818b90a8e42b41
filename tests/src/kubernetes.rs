//! A real Kubernetes control plane: etcd, the API server with access control and an audit log, and the controller
//! manager, on free loopback ports and with their own folder. Without a [`Node`], tests play the kubelet.
//!
//! It cannot be reached over the network, and a test that ends, passing or failing, leaves nothing behind.

mod certificates;
mod control_plane;
mod forward;
mod kubelet;
mod node;

pub use kubelet::Kubelet;
pub use node::Node;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// The variable with the folder of the programs, as other controller tools use it.
pub const ASSETS_VARIABLE: &str = "KUBEBUILDER_ASSETS";

/// The folder in the cache into which `cargo xtask test` puts them.
const CACHED: &str = "kubernetes-1.20";

/// The programs that the folder must contain. Without the controller manager no Job gets a pod, and no garbage is
/// collected.
const PROGRAMS: [&str; 4] = ["etcd", "kube-apiserver", "kube-controller-manager", "kubectl"];

/// Lines of each log that a failure shows.
const LINES_SHOWN: usize = 8;

/// The programs that write a log.
const LOGGED: [&str; 6] =
    ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "containerd", "kubelet"];

/// The control plane starts within seven seconds on an idle machine.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// A start can lose its ports to another process between choosing and binding them.
const START_ATTEMPTS_MAX: u32 = 3;

/// How long a test waits for an action of the control plane.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A running control plane. Dropping it ends its processes and removes its data.
#[derive(Debug)]
pub struct Kubernetes {
    /// Killed in reverse order.
    processes: Vec<Child>,
    folder: tempfile::TempDir,
    programs: PathBuf,
    port: u16,
    version: (u32, u32),
}

/// The folder with the programs, or the reason for skipping tests that need them.
pub fn programs() -> Result<PathBuf, String> {
    let named = crate::variable(ASSETS_VARIABLE).map(PathBuf::from);
    let folder = named.or_else(|| crate::cache_folder().map(|cache| cache.join(CACHED)));
    let folder = folder.ok_or(format!("no Kubernetes: {ASSETS_VARIABLE} is not set"))?;
    match PROGRAMS.iter().find(|program| !folder.join(program).is_file()) {
        None => Ok(folder),
        Some(missing) => {
            Err(format!("no Kubernetes: {} has no {missing}; {ASSETS_VARIABLE} sets the folder", folder.display()))
        }
    }
}

impl Kubernetes {
    /// The control plane that the tests of this process share. The first caller starts it, and it ends when the last
    /// holder drops it. If it is not installed, returns `None` and records the skip.
    ///
    /// # Panics
    /// If it is installed but does not start.
    pub fn shared() -> Option<Arc<Self>> {
        static SHARED: Mutex<Weak<Kubernetes>> = Mutex::new(Weak::new());
        let programs = match programs() {
            Ok(programs) => programs,
            Err(why) => {
                crate::skip(&why);
                return None;
            }
        };
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = shared.upgrade() {
            return Some(running);
        }
        let mut failed = Vec::new();
        for _ in 0..START_ATTEMPTS_MAX {
            match Self::try_start(&programs, None) {
                Ok(running) => {
                    let running = Arc::new(running);
                    *shared = Arc::downgrade(&running);
                    return Some(running);
                }
                Err(error) => failed.push(error),
            }
        }
        panic!("Kubernetes does not start: {failed:#?}");
    }

    /// With a scheduler, also starts what pods need to run.
    fn try_start(programs: &Path, scheduler: Option<&Path>) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let [port, etcd, peer] = free_ports()?;
        let version = version(&programs.join("kube-apiserver"))?;
        certificates::write(folder.path())?;
        fs::write(folder.path().join("audit.yaml"), control_plane::AUDIT_POLICY)?;
        let mut running = Self { processes: Vec::new(), folder, programs: programs.to_owned(), port, version };
        running.write_kubeconfig("admin", "admin.kubeconfig")?;
        running.write_kubeconfig("manager", "manager.kubeconfig")?;
        running.start_etcd(etcd, peer)?;
        running.start_api_server(etcd, scheduler.is_some())?;
        // Starting kubectl takes far more time than connecting.
        let listens = |own: &Self| TcpStream::connect((Ipv4Addr::LOCALHOST, own.port)).is_ok();
        let ready = ["get", "--raw", "/readyz"];
        running.wait_for("readiness", |own| listens(own) && own.try_kubectl(&ready, "").is_ok())?;
        running.start_controller_manager(scheduler.is_some())?;
        if let Some(scheduler) = scheduler {
            running.write_kubeconfig("scheduler", "scheduler.kubeconfig")?;
            running.start_scheduler(scheduler)?;
        }
        let account = ["get", "serviceaccount", "default", "--namespace", "default"];
        running.wait_for("service accounts", |own| own.try_kubectl(&account, "").is_ok())?;
        Ok(running)
    }

    fn wait_for(&mut self, what: &str, is_there: impl Fn(&Self) -> bool) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < START_TIMEOUT {
            let ended = self.processes.iter_mut().filter_map(|process| process.try_wait().ok().flatten()).next();
            if let Some(status) = ended {
                bail!("a process ended with {status} while starting:\n{}", self.logs());
            }
            if is_there(self) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        bail!("no {what} after {} s:\n{}", START_TIMEOUT.as_secs(), self.logs())
    }

    fn logs(&self) -> String {
        let tail = |program: &str| {
            let text = fs::read_to_string(self.path(&format!("{program}.log"))).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            format!("{program}:\n{}\n", lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n"))
        };
        LOGGED.iter().map(|program| tail(program)).collect()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write_kubeconfig(&self, user: &str, file: &str) -> Result<PathBuf> {
        let at = |end: &str| self.path(&format!("{user}.{end}")).display().to_string();
        let server = format!("https://127.0.0.1:{}", self.port);
        let authority = self.path("authority.crt").display().to_string();
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": "test", "cluster": { "server": server, "certificate-authority": authority } }],
            "users": [{ "name": user, "user": { "client-certificate": at("crt"), "client-key": at("key") } }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": user } }],
            "current-context": "test",
        });
        let path = self.path(file);
        // JSON is YAML.
        fs::write(&path, config.to_string())?;
        Ok(path)
    }

    /// Major and minor version of the server.
    pub const fn version(&self) -> (u32, u32) {
        self.version
    }

    /// A kubeconfig for a user who has no rights until a role grants some.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn kubeconfig(&self, user: &str) -> PathBuf {
        let made = certificates::write_user(self.folder.path(), user)
            .and_then(|()| self.write_kubeconfig(user, &format!("{user}.kubeconfig")));
        made.unwrap_or_else(|error| panic!("no kubeconfig for {user}: {error:#}"))
    }

    /// Runs `kubectl` as the administrator.
    ///
    /// # Errors
    /// The standard error of `kubectl`, if it fails.
    pub fn try_kubectl(&self, arguments: &[&str], stdin: &str) -> Result<String> {
        let mut command = Command::new(self.programs.join("kubectl"));
        command
            .env_clear()
            .envs([control_plane::ONE_CORE])
            .arg("--kubeconfig")
            .arg(self.path("admin.kubeconfig"))
            .arg("--cache-dir")
            .arg(self.path("cache"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().context("kubectl cannot be started")?;
        child.stdin.take().context("kubectl has no input")?.write_all(stdin.as_bytes())?;
        let output = child.wait_with_output()?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kubectl {arguments:?} ended with {}: {stderr}", output.status);
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Runs `kubectl` as the administrator, and panics if it fails.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn kubectl(&self, arguments: &[&str], stdin: &str) -> String {
        self.try_kubectl(arguments, stdin).unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// Creates or changes objects from YAML.
    ///
    /// # Panics
    /// If the server refuses them.
    #[track_caller]
    pub fn apply(&self, yaml: &str) {
        self.kubectl(&["apply", "--validate=false", "--filename", "-"], yaml);
    }

    /// A new namespace with a unique name, ready for pods.
    ///
    /// # Panics
    /// If it is not ready in time.
    pub fn namespace(&self) -> String {
        let name = format!("erp-{:08x}", rand::random::<u32>());
        self.kubectl(&["create", "namespace", &name], "");
        let account = ["get", "serviceaccount", "default", "--namespace", &name];
        self.wait("a service account", || self.try_kubectl(&account, "").ok());
        name
    }

    /// Grants rules, the items of a YAML list, to a user in a namespace or everywhere.
    ///
    /// # Panics
    /// If the server refuses them.
    pub fn grant(&self, user: &str, namespace: Option<&str>, rules: &str) {
        let name = format!("{user}-{:08x}", rand::random::<u32>());
        let (prefix, place) = match namespace {
            Some(namespace) => ("", format!(", namespace: {namespace}")),
            None => ("Cluster", String::new()),
        };
        self.apply(&format!(
            "apiVersion: rbac.authorization.k8s.io/v1\nkind: {prefix}Role\nmetadata: {{ name: {name}{place} }}\nrules:\n{rules}\n---\n\
             apiVersion: rbac.authorization.k8s.io/v1\nkind: {prefix}RoleBinding\nmetadata: {{ name: {name}{place} }}\n\
             roleRef: {{ apiGroup: rbac.authorization.k8s.io, kind: {prefix}Role, name: {name} }}\n\
             subjects: [{{ apiGroup: rbac.authorization.k8s.io, kind: User, name: {user} }}]\n"
        ));
    }

    /// Objects of a kind in a namespace.
    ///
    /// # Panics
    /// If they cannot be listed.
    #[track_caller]
    pub fn list(&self, kind: &str, namespace: &str) -> Vec<Value> {
        let listed = self.kubectl(&["get", kind, "--namespace", namespace, "--output", "json"], "");
        let listed: Value = serde_json::from_str(&listed).expect("JSON");
        listed["items"].as_array().cloned().unwrap_or_default()
    }

    /// Waits until `find` returns something.
    ///
    /// # Panics
    /// If it returns nothing in time.
    #[track_caller]
    pub fn wait<T>(&self, what: &str, mut find: impl FnMut() -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(found) = find() {
                return found;
            }
            assert!(start.elapsed() < PATIENCE, "no {what} after {} s\n{}", PATIENCE.as_secs(), self.logs());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Every answered request of a user, with the objects sent in both directions.
    pub fn audit(&self, user: &str) -> Vec<Value> {
        // The file does not exist before the first request of someone other than an administrator.
        let text = fs::read_to_string(self.path("audit.log")).unwrap_or_default();
        let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        events.filter(|event| event["user"]["username"] == user).collect()
    }
}

impl Drop for Kubernetes {
    fn drop(&mut self) {
        for process in self.processes.iter_mut().rev() {
            drop(process.kill());
            drop(process.wait());
        }
    }
}

fn free_ports() -> Result<[u16; 3]> {
    let taken: Vec<TcpListener> =
        (0..3).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect::<std::io::Result<_>>()?;
    let ports: Vec<u16> =
        taken.iter().map(|listener| listener.local_addr().map(|at| at.port())).collect::<std::io::Result<_>>()?;
    ports.try_into().map_err(|_| anyhow::anyhow!("three ports"))
}

fn version(program: &Path) -> Result<(u32, u32)> {
    let output = Command::new(program).arg("--version").output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let numbers: Vec<u32> = text.split(['v', '.', '-', '+', ' ']).filter_map(|part| part.trim().parse().ok()).collect();
    match numbers[..] {
        [major, minor, ..] => Ok((major, minor)),
        _ => bail!("cannot read the version of {}: {text}", program.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_control_plane_leaves_neither_a_process_nor_a_folder() {
        let Some(running) = Kubernetes::shared() else { return };
        let (port, folder) = (running.port, running.folder.path().to_owned());
        let namespace = running.namespace();
        assert!(running.list("pods", &namespace).is_empty());
        drop(running);
        assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err());
        assert!(!folder.exists());
    }
}
