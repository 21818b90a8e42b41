//! A node that really runs pods: containerd and the kubelet, with a control plane.
//!
//! They run in their own network, mount and process namespaces. Everything they start and mount ends with the first
//! process of these namespaces, and that process ends when the holder of its pipe ends, for any reason. On the machine
//! itself the node uses only control groups. Pods reach only the offered ports; there is no name server, and network
//! policies are not enforced.

mod cgroups;
mod namespaces;
mod sandbox;

use super::forward::Forward;
use super::{Kubernetes, certificates, free_ports, programs, version};
use anyhow::{Result, ensure};
use cgroups::Cgroups;
use namespaces::Namespaces;
use serde_json::{Value, json};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The folder in the cache with the kubelet and the scheduler.
const CACHED: &str = "kubernetes-1.20-node";

/// The folder in the cache with containerd and related programs, unpacked from Debian's packages.
const CACHED_RUNTIME: &str = "containerd";

/// The programs in the two folders.
const PROGRAMS: [&str; 2] = ["kubelet", "kube-scheduler"];
const RUNTIME: [&str; 6] = [
    "usr/bin/containerd",
    "usr/bin/containerd-shim-runc-v2",
    "usr/bin/ctr",
    "usr/sbin/runc",
    "usr/lib/cni/bridge",
    "bin/busybox",
];

/// The node's name. The API server connects to the kubelet by this name, at a port that leads into the namespace.
const NAME: &str = "localhost";

/// The port at which pods reach the API server.
const API_PORT: u16 = 443;

/// The image of the process that holds a pod's namespaces.
const SANDBOX: &str = "localhost/sandbox:1";

/// A running cluster of one node. Dropping it ends its processes and pods, and removes their data.
#[derive(Debug)]
pub struct Node {
    // Fields are dropped, and so end, in this order.
    forwards: Vec<Forward>,
    namespaces: Namespaces,
    cgroups: Cgroups,
    cluster: Kubernetes,
    runtime: PathBuf,
}

impl Node {
    /// The node's address, at which pods reach the offered ports.
    pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);

    /// Starts a node and waits until it is ready. If the machine cannot run one, returns `None` and records the skip.
    ///
    /// # Panics
    /// If the machine can run one but it does not start.
    pub fn start() -> Option<Self> {
        match Requirements::find() {
            Ok(needed) => Some(Self::try_start(&needed).unwrap_or_else(|error| panic!("no node: {error:#}"))),
            Err(why) => {
                crate::skip(&why);
                None
            }
        }
    }

    fn try_start(needed: &Requirements) -> Result<Self> {
        let cluster = Kubernetes::try_start(&needed.control_plane, Some(&needed.node.join("kube-scheduler")))?;
        let folder = cluster.folder.path().to_owned();
        let cgroups = Cgroups::create()?;
        let namespaces = Namespaces::enter(&folder, Self::ADDRESS, certificates::FIRST_SERVICE.into())?;
        let runtime = needed.runtime.clone();
        let mut node = Self { forwards: Vec::new(), namespaces, cgroups, cluster, runtime };
        node.start_containerd(&folder)?;
        let archive = folder.join("sandbox.tar");
        sandbox::write(&archive, SANDBOX, &node.runtime.join("bin/busybox"))?;
        node.import(&archive)?;
        node.start_kubelet(&folder, &needed.node.join("kubelet"))?;
        Ok(node)
    }

    /// The node's control plane.
    pub const fn cluster(&self) -> &Kubernetes {
        &self.cluster
    }

    /// Lets pods reach a port of this machine's loopback address at [`Self::ADDRESS`].
    ///
    /// # Panics
    /// If it cannot be offered.
    pub fn offer(&mut self, port: u16) {
        let (from, to) = (SocketAddr::from((Self::ADDRESS, port)), SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        self.pass_out(from, to).unwrap_or_else(|error| panic!("port {port} cannot be offered: {error:#}"));
    }

    fn pass_out(&mut self, from: SocketAddr, to: SocketAddr) -> Result<()> {
        self.forwards.push(Forward::out_of_namespace(self.namespaces.network()?, from, to)?);
        Ok(())
    }

    /// Imports the images of an archive into the node.
    pub fn import(&self, archive: &Path) -> Result<()> {
        let output = self.ctr(&["images", "import"]).arg(archive).output()?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "cannot import {}: {stderr}", archive.display());
        Ok(())
    }

    /// Names of the images that pods can use.
    pub fn images(&self) -> Result<Vec<String>> {
        let output = self.ctr(&["images", "list", "--quiet"]).output()?;
        ensure!(output.status.success(), "cannot list the images: {}", String::from_utf8_lossy(&output.stderr));
        let names = String::from_utf8(output.stdout)?;
        Ok(names.lines().filter(|name| !name.starts_with("sha256:") && *name != SANDBOX).map(str::to_owned).collect())
    }

    /// A kubeconfig with every right, and the folder of the `kubectl` that goes with it.
    pub fn administrator(&self) -> (PathBuf, &Path) {
        (self.cluster.path("admin.kubeconfig"), &self.cluster.programs)
    }

    fn ctr(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.runtime.join("usr/bin/ctr"));
        command.env_clear().arg("--address").arg(self.cluster.path("containerd.sock"));
        command.args(["--namespace", "k8s.io"]).args(arguments).stdin(Stdio::null());
        command
    }

    fn start_containerd(&mut self, folder: &Path) -> Result<()> {
        let at = |name: &str| json!(folder.join(name)).to_string();
        fs::create_dir(folder.join("cni"))?;
        fs::write(folder.join("cni/pods.conflist"), pod_network().to_string())?;
        // A root with limited rights may not lower the out-of-memory score of its processes.
        let config = format!(
            "version = 2\nroot = {}\nstate = \"/run/containerd\"\n\
             disabled_plugins = [\"io.containerd.internal.v1.opt\", \"io.containerd.internal.v1.restart\"]\n\
             [grpc]\naddress = {}\n\
             [plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"{SANDBOX}\"\nrestrict_oom_score_adj = true\n\
             [plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = {}\nconf_dir = {}\n",
            at("containerd"),
            at("containerd.sock"),
            json!(self.runtime.join("usr/lib/cni")),
            at("cni"),
        );
        fs::write(folder.join("containerd.toml"), config)?;
        let path = format!("{0}/usr/bin:{0}/usr/sbin:/usr/sbin:/usr/bin:/sbin:/bin", self.runtime.display());
        let program = self.runtime.join("usr/bin/containerd");
        let arguments = ["--config".to_owned(), folder.join("containerd.toml").display().to_string()];
        self.namespaces.start(&path, &program, &arguments, &folder.join("containerd.log"))?;
        self.ready("containerd", |node| node.ctr(&["version"]).output().is_ok_and(|output| output.status.success()))
    }

    fn start_kubelet(&mut self, folder: &Path, program: &Path) -> Result<()> {
        let [port, ..] = free_ports()?;
        let api = SocketAddr::from((Ipv4Addr::LOCALHOST, self.cluster.port));
        self.pass_out(api, api)?;
        self.pass_out((certificates::FIRST_SERVICE, API_PORT).into(), api)?;
        let (outside, inside) = ((Ipv4Addr::LOCALHOST, port).into(), (Self::ADDRESS, port).into());
        self.forwards.push(Forward::into_namespace(self.namespaces.network()?, outside, inside)?);

        certificates::write_node(folder, NAME)?;
        let kubeconfig = self.cluster.write_kubeconfig("node", "node.kubeconfig")?;
        let config = kubelet_configuration(folder, port, self.cgroups.name());
        fs::write(folder.join("kubelet.json"), config.to_string())?;
        let option = |name: &str, value: &Path| format!("--{name}={}", value.display());
        let arguments = [
            option("config", &folder.join("kubelet.json")),
            option("kubeconfig", &kubeconfig),
            option("root-dir", &folder.join("kubelet")),
            option("cert-dir", &folder.join("kubelet-certificates")),
            option("volume-plugin-dir", &folder.join("volume-plugins")),
            "--container-runtime=remote".to_owned(),
            format!("--container-runtime-endpoint=unix://{}", folder.join("containerd.sock").display()),
            format!("--hostname-override={NAME}"),
            format!("--node-ip={}", Self::ADDRESS),
        ];
        self.namespaces.start("/usr/sbin:/usr/bin:/sbin:/bin", program, &arguments, &folder.join("kubelet.log"))?;
        self.ready("ready node", |node| {
            let get = [
                "get",
                "node",
                NAME,
                "--output",
                "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}{.spec.taints}",
            ];
            node.cluster.try_kubectl(&get, "").is_ok_and(|ready| ready == "True")
        })
    }

    fn ready(&mut self, what: &str, is_there: impl Fn(&Self) -> bool) -> Result<()> {
        let start = std::time::Instant::now();
        while start.elapsed() < super::START_TIMEOUT {
            self.namespaces.check()?;
            if is_there(self) {
                return Ok(());
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        anyhow::bail!("no {what} after {} s:\n{}", super::START_TIMEOUT.as_secs(), self.cluster.logs())
    }
}

/// A bridge with the node's address, and an address for each pod.
fn pod_network() -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [{
            "type": "bridge",
            "bridge": namespaces::BRIDGE,
            "isGateway": true,
            "ipam": {
                "type": "host-local",
                "dataDir": "/run/pod-addresses",
                "ranges": [[{ "subnet": "10.88.0.0/24", "rangeStart": "10.88.0.10" }]],
                "routes": [{ "dst": "0.0.0.0/0" }],
            },
        }],
    })
}

fn kubelet_configuration(folder: &Path, port: u16, cgroup: &str) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": Node::ADDRESS,
        "port": port,
        "healthzPort": 0,
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": false },
            "x509": { "clientCAFile": folder.join("authority.crt") },
        },
        "authorization": { "mode": "AlwaysAllow" },
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{cgroup}"),
        "enforceNodeAllocatable": [],
        "failSwapOn": false,
        // Report changes on the node at once, and check a deleted pod again soon.
        "nodeStatusUpdateFrequency": "1s",
        "syncFrequency": "2s",
        "makeIPTablesUtilChains": false,
        "resolvConf": "",
        // The node shares the machine's disk, so a full disk must not evict anything.
        "evictionHard": {},
        "imageGCHighThresholdPercent": 100,
    })
}

/// The folders with everything that a node needs.
struct Requirements {
    control_plane: PathBuf,
    node: PathBuf,
    runtime: PathBuf,
}

impl Requirements {
    /// Finds the folders, or returns the reason for skipping the test.
    fn find() -> Result<Self, String> {
        let cache = crate::cache_folder().ok_or("no cache folder is known, so the programs of a node are missing")?;
        let check = |folder: PathBuf, programs: &[&str]| match programs.iter().find(|name| !folder.join(name).is_file())
        {
            None => Ok(folder),
            Some(missing) => {
                Err(format!("no Kubernetes node: {} has no {missing}; see `cargo xtask node`", folder.display()))
            }
        };
        let needed = Self {
            control_plane: programs()?,
            node: check(cache.join(CACHED), &PROGRAMS)?,
            runtime: check(cache.join(CACHED_RUNTIME), &RUNTIME)?,
        };
        let get = |program: PathBuf| version(&program).map_err(|error| format!("no Kubernetes node: {error:#}"));
        let (server, kubelet) = (get(needed.control_plane.join("kube-apiserver"))?, get(needed.node.join("kubelet"))?);
        if server != kubelet {
            return Err(format!("the control plane is Kubernetes {server:?}, but the node is {kubelet:?}"));
        }
        if !rustix::process::geteuid().is_root() {
            return Err("a Kubernetes node runs containers, which needs root".to_owned());
        }
        namespaces::possible()?;
        cgroups::possible()?;
        Ok(needed)
    }
}
