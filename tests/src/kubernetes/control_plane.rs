//! The programs of a control plane and their arguments.

use super::Kubernetes;
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// The controllers for Jobs, their time to live, owner references and namespaces.
const CONTROLLERS: &str = "job,cronjob,ttl-after-finished,garbagecollector,namespace,serviceaccount,\
    serviceaccount-token,root-ca-cert-publisher,resourcequota";

/// Further controllers for pods on a node: readiness of the node, and volumes.
const NODE_CONTROLLERS: &str = ",nodelifecycle,persistentvolume-binder,pvc-protection,pv-protection,podgc";

const SERVICES: &str = "10.97.0.0/24";

/// Logs every answered request of the users that tests examine, with its objects.
pub(super) const AUDIT_POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - { level: None, userGroups: [\"system:masters\"] }
  - { level: None, users: [\"system:kube-controller-manager\", \"system:kube-scheduler\", \"system:apiserver\"] }
  - { level: None, userGroups: [\"system:serviceaccounts:kube-system\", \"system:nodes\"] }
  - { level: RequestResponse }
";

/// Lets a program collect its garbage on one core. On several it takes more time in all, and tests use the others.
pub(super) const ONE_CORE: (&str, &str) = ("GOMAXPROCS", "1");

impl Kubernetes {
    pub(super) fn start_etcd(&mut self, port: u16, peer: u16) -> Result<()> {
        let (client, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer}"));
        let arguments = [
            format!("--data-dir={}", self.path("etcd").display()),
            "--unsafe-no-fsync".to_owned(),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=default={peer}"),
        ];
        self.start("etcd", &arguments)
    }

    pub(super) fn start_api_server(&mut self, etcd: u16, node: bool) -> Result<()> {
        let file = |name: &str| self.path(name).display().to_string();
        let mut arguments = vec![
            format!("--etcd-servers=http://127.0.0.1:{etcd}"),
            "--bind-address=127.0.0.1".to_owned(),
            "--advertise-address=127.0.0.1".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            format!("--secure-port={}", self.port),
            format!("--tls-cert-file={}", file("server.crt")),
            format!("--tls-private-key-file={}", file("server.key")),
            format!("--client-ca-file={}", file("authority.crt")),
            format!("--cert-dir={}", file("certificates")),
            "--authorization-mode=Node,RBAC".to_owned(),
            // A kubelet accepts any certificate of the authority.
            format!("--kubelet-client-certificate={}", file("admin.crt")),
            format!("--kubelet-client-key={}", file("admin.key")),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={}", file("accounts.pub")),
            format!("--service-account-signing-key-file={}", file("accounts.key")),
            format!("--service-cluster-ip-range={SERVICES}"),
            format!("--audit-policy-file={}", file("audit.yaml")),
            format!("--audit-log-path={}", file("audit.log")),
        ];
        if node {
            // By its name, `localhost`, because its address is in another network namespace.
            arguments.push("--kubelet-preferred-address-types=Hostname".to_owned());
        }
        arguments.extend(self.gates());
        self.start("kube-apiserver", &arguments)
    }

    pub(super) fn start_controller_manager(&mut self, node: bool) -> Result<()> {
        let file = |name: &str| self.path(name).display().to_string();
        let mut arguments = vec![
            format!("--kubeconfig={}", file("manager.kubeconfig")),
            "--leader-elect=false".to_owned(),
            "--secure-port=0".to_owned(),
            format!("--controllers={CONTROLLERS}{}", if node { NODE_CONTROLLERS } else { "" }),
            "--use-service-account-credentials=true".to_owned(),
            format!("--service-account-private-key-file={}", file("accounts.key")),
            format!("--root-ca-file={}", file("authority.crt")),
            format!("--cert-dir={}", file("certificates")),
        ];
        if self.version < (1, 24) {
            // The old port without TLS.
            arguments.push("--port=0".to_owned());
        }
        arguments.extend(self.gates());
        self.start("kube-controller-manager", &arguments)
    }

    pub(super) fn start_scheduler(&mut self, program: &Path) -> Result<()> {
        let mut arguments = vec![
            format!("--kubeconfig={}", self.path("scheduler.kubeconfig").display()),
            "--leader-elect=false".to_owned(),
            "--secure-port=0".to_owned(),
        ];
        if self.version < (1, 24) {
            arguments.push("--port=0".to_owned());
        }
        self.start_program(program, &arguments)
    }

    /// Enables the time to live of finished Jobs, which is on by default from 1.21.
    fn gates(&self) -> Option<String> {
        (self.version < (1, 21)).then(|| "--feature-gates=TTLAfterFinished=true".to_owned())
    }

    fn start(&mut self, program: &str, arguments: &[String]) -> Result<()> {
        self.start_program(&self.programs.join(program), arguments)
    }

    fn start_program(&mut self, program: &Path, arguments: &[String]) -> Result<()> {
        let name = program.file_name().context("a program has a name")?.to_string_lossy();
        let log = fs::File::create(self.path(&format!("{name}.log")))?;
        let mut command = Command::new(program);
        command.args(arguments).envs([ONE_CORE]).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.processes.push(command.spawn().with_context(|| format!("{name} cannot be started"))?);
        Ok(())
    }
}
