//! Plays the kubelet of one node: binds pods, reports the state of their containers, and serves their logs to the API
//! server.
//!
//! The same server also provides third-party kinds through the API server's aggregation layer. They could be custom
//! resources, but server 1.20 built with a newer Go compiler crashes on the first one.

use super::Kubernetes;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Maximum number of header lines to read from a request.
const REQUEST_LINES_MAX: usize = 100;

/// A node. Dropping it stops serving logs.
#[derive(Debug)]
pub struct Kubelet {
    cluster: Arc<Kubernetes>,
    node: String,
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Answers by path.
    answers: Mutex<BTreeMap<String, String>>,
    ending: AtomicBool,
}

impl Kubelet {
    /// Creates a node that is ready.
    ///
    /// # Panics
    /// If it cannot be created.
    pub fn start(cluster: &Arc<Kubernetes>) -> Self {
        Self::try_start(cluster).unwrap_or_else(|error| panic!("no kubelet: {error:#}"))
    }

    fn try_start(cluster: &Arc<Kubernetes>) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let node = format!("node-{port}");
        let shared = Arc::new(Shared::default());
        let config = server_config()?;
        let served = Arc::clone(&shared);
        std::thread::spawn(move || accept(&listener, &config, &served));
        let object = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": node } });
        cluster.try_kubectl(&["create", "--filename", "-"], &object.to_string())?;
        let path = format!("/api/v1/nodes/{node}");
        let mut object: Value = serde_json::from_str(&cluster.try_kubectl(&["get", "--raw", &path], "")?)?;
        object["status"]["addresses"] = json!([{ "type": "InternalIP", "address": "127.0.0.1" }]);
        object["status"]["daemonEndpoints"] = json!({ "kubeletEndpoint": { "Port": port } });
        let status = format!("{path}/status");
        cluster.try_kubectl(&["replace", "--raw", &status, "--filename", "-"], &object.to_string())?;
        Ok(Self { cluster: Arc::clone(cluster), node, port, shared })
    }

    /// Waits for the pod of a Job.
    ///
    /// # Panics
    /// If no pod appears in time.
    #[track_caller]
    pub fn pod_of(&self, namespace: &str) -> Value {
        self.cluster.wait("pod", || self.cluster.list("pods", namespace).into_iter().next())
    }

    /// Binds a pod to the node.
    ///
    /// # Panics
    /// If the server refuses it.
    #[track_caller]
    pub fn bind(&self, pod: &Value) {
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": { "name": pod["metadata"]["name"] },
            "target": { "apiVersion": "v1", "kind": "Node", "name": self.node },
        });
        self.cluster
            .kubectl(&["create", "--raw", &format!("{}/binding", path(pod)), "--filename", "-"], &binding.to_string());
    }

    /// Sets the pod's phase and the state of its one container.
    ///
    /// # Panics
    /// If the server refuses it.
    #[track_caller]
    pub fn report(&self, pod: &Value, phase: &str, state: &Value) {
        self.change(pod, |status| {
            status["phase"] = json!(phase);
            status["containerStatuses"] = json!([{
                "name": container(pod), "ready": false, "restartCount": 0, "image": "i", "imageID": "", "state": state,
            }]);
        });
    }

    /// Sets a condition of a pod.
    ///
    /// # Panics
    /// If the server refuses it.
    #[track_caller]
    pub fn condition(&self, pod: &Value, condition: &Value) {
        self.change(pod, |status| status["conditions"] = json!([condition]));
    }

    fn change(&self, pod: &Value, change: impl FnOnce(&mut Value)) {
        let path = path(pod);
        let now = self.cluster.kubectl(&["get", "--raw", &path], "");
        let mut now: Value = serde_json::from_str(&now).expect("JSON");
        change(&mut now["status"]);
        let status = format!("{path}/status");
        self.cluster.kubectl(&["replace", "--raw", &status, "--filename", "-"], &now.to_string());
    }

    /// Reports that the container runs and has written these lines so far.
    #[track_caller]
    pub fn run(&self, pod: &Value, lines: &[&str]) {
        self.write(pod, lines);
        self.report(pod, "Running", &json!({ "running": { "startedAt": "2026-06-30T01:00:00Z" } }));
    }

    /// Reports that the container has ended and wrote these lines in total.
    #[track_caller]
    pub fn end(&self, pod: &Value, exit_code: i32, reason: &str, lines: &[&str]) {
        self.write(pod, lines);
        let phase = if exit_code == 0 { "Succeeded" } else { "Failed" };
        self.report(pod, phase, &json!({ "terminated": { "exitCode": exit_code, "reason": reason } }));
    }

    fn write(&self, pod: &Value, lines: &[&str]) {
        let timed = lines.iter().enumerate().map(|(n, line)| format!("2026-06-30T01:00:{n:02}.000000000Z {line}\n"));
        let name = |at: &str| pod["metadata"][at].as_str().expect("a name").to_owned();
        let path = format!("/containerLogs/{}/{}/{}", name("namespace"), name("name"), container(pod));
        self.shared.answer(path, timed.collect());
    }

    /// Serves objects of one group, by the plural names of their kinds, in one namespace. A second call replaces them.
    ///
    /// # Panics
    /// If the API server does not accept them.
    #[track_caller]
    pub fn serve(&self, group: &str, version: &str, namespace: &str, kinds: &BTreeMap<&str, Vec<Value>>) {
        let root = format!("/apis/{group}/{version}");
        let resource = |plural: &&str| json!({ "name": plural, "kind": plural, "namespaced": true, "verbs": ["list"] });
        let resources: Vec<Value> = kinds.keys().map(resource).collect();
        let known = json!({
            "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": format!("{group}/{version}"), "resources": resources,
        });
        self.shared.answer(root.clone(), known.to_string());
        for (plural, items) in kinds {
            let list =
                json!({ "kind": "List", "apiVersion": format!("{group}/{version}"), "metadata": {}, "items": items });
            self.shared.answer(format!("{root}/namespaces/{namespace}/{plural}"), list.to_string());
        }
        let service = format!("kinds-{}", self.port);
        self.cluster.apply(&format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{ name: {service}, namespace: default }}\n\
             spec: {{ type: ExternalName, externalName: localhost, ports: [{{ port: {port} }}] }}\n---\n\
             apiVersion: apiregistration.k8s.io/v1\nkind: APIService\nmetadata: {{ name: {version}.{group} }}\n\
             spec:\n  group: {group}\n  version: {version}\n  groupPriorityMinimum: 1000\n  versionPriority: 10\n\
             \u{20} insecureSkipTLSVerify: true\n  service: {{ name: {service}, namespace: default, port: {port} }}\n",
            port = self.port
        ));
        self.cluster.wait("group of kinds", || self.cluster.try_kubectl(&["get", "--raw", &root], "").ok());
    }
}

impl Shared {
    fn answer(&self, path: String, body: String) {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).insert(path, body);
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::Release);
        // Wakes the thread that waits for connections.
        drop(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)));
    }
}

fn path(pod: &Value) -> String {
    let name = |at: &str| pod["metadata"][at].as_str().expect("a name").to_owned();
    format!("/api/v1/namespaces/{}/pods/{}", name("namespace"), name("name"))
}

fn container(pod: &Value) -> &str {
    pod["spec"]["containers"][0]["name"].as_str().expect("a container")
}

/// A self-signed certificate. The API server has no authority configured for kubelets, so it accepts any certificate.
fn server_config() -> Result<Arc<rustls::ServerConfig>> {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()])?;
    let key =
        rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)?;
    Ok(Arc::new(config))
}

fn accept(listener: &TcpListener, config: &Arc<rustls::ServerConfig>, shared: &Arc<Shared>) {
    for connection in listener.incoming() {
        if shared.ending.load(Ordering::Acquire) {
            return;
        }
        let Ok(connection) = connection else { continue };
        let (config, shared) = (Arc::clone(config), Arc::clone(shared));
        // If a connection breaks, the API server notices, and the thread ends.
        std::thread::spawn(move || drop(serve(connection, config, &shared)));
    }
}

/// Answers one request with the text stored for its path.
fn serve(connection: TcpStream, config: Arc<rustls::ServerConfig>, shared: &Shared) -> Result<()> {
    let tls = rustls::ServerConnection::new(config)?;
    let mut stream = BufReader::new(rustls::StreamOwned::new(tls, connection));
    let mut first = String::new();
    stream.read_line(&mut first)?;
    let mut line = String::new();
    for _ in 0..REQUEST_LINES_MAX {
        line.clear();
        if stream.read_line(&mut line)? <= 2 {
            break;
        }
    }
    let target = first.split(' ').nth(1).context("no path")?;
    let path = target.split('?').next().unwrap_or_default();
    let found = shared.answers.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned();
    let (status, body) = found.map_or(("404 Not Found", "nothing here\n".to_owned()), |body| ("200 OK", body));
    let kind = if path.starts_with("/apis/") { "application/json" } else { "text/plain" };
    let stream = stream.get_mut();
    write!(
        stream,
        "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )?;
    stream.conn.send_close_notify();
    stream.flush()?;
    Ok(())
}
