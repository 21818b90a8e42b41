//! The client of the API server. It connects, sends requests, and explains each failure in one sentence.
//!
//! Objects are JSON text that is parsed here and never logged. The library's typed calls would log an answer that they
//! cannot parse, and an answer may be a Secret.

use super::ClusterConfig;
use base::error::{Class, Error, Result};
use base::text::printable;
use futures::AsyncBufRead;
use kube::api::{DeleteParams, GetParams, ListParams, LogParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::Request;
use serde_json::Value;
use std::time::Duration;

/// Timeout for one request including retries. A healthy server answers in milliseconds.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Timeout for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Objects per page of a list.
const PAGE_ITEMS: u32 = 500;

/// Most objects of one kind. For a cluster with more, the configuration must name fewer namespaces.
const ITEMS_MAX: usize = 20_000;

/// The object, or the kind of object, does not exist.
const NOT_FOUND: u16 = 404;

/// The object was changed by another client.
const CONFLICT: u16 = 409;

/// The field manager that the cluster records for this program's writes.
const FIELD_MANAGER: &str = "dolibarr-backup";

/// A kind of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind {
    group: &'static str,
    version: &'static str,
    plural: &'static str,
}

pub(super) const CONFIG_MAPS: Kind = Kind::new("", "v1", "configmaps");
pub(super) const SECRETS: Kind = Kind::new("", "v1", "secrets");
pub(super) const PODS: Kind = Kind::new("", "v1", "pods");
pub(super) const LOGS: Kind = Kind::new("", "v1", "pods/log");
pub(super) const EVENTS: Kind = Kind::new("", "v1", "events");
pub(super) const JOBS: Kind = Kind::new("batch", "v1", "jobs");
pub(super) const LEASES: Kind = Kind::new("coordination.k8s.io", "v1", "leases");

impl Kind {
    pub const fn new(group: &'static str, version: &'static str, plural: &'static str) -> Self {
        Self { group, version, plural }
    }

    fn request(self, namespace: Option<&str>) -> Request {
        let Self { group, version, plural } = self;
        let root = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
        match namespace {
            Some(namespace) => Request::new(format!("{root}/namespaces/{namespace}/{plural}")),
            None => Request::new(format!("{root}/{plural}")),
        }
    }

    /// `jobs.batch`, as `kubectl auth can-i` accepts it.
    fn shown(self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }
}

/// Describes a request, for error messages.
#[derive(Debug, Clone, Copy)]
struct Operation<'a> {
    verb: &'static str,
    kind: Kind,
    namespace: Option<&'a str>,
    name: Option<&'a str>,
}

/// Why a request failed.
enum Refused {
    /// The server answered with an error.
    Status(Box<kube::core::Status>),
    /// No answer in time.
    Silence,
    /// The answer is not valid JSON.
    InvalidJson,
    /// The server could not be reached, or the request could not be sent.
    Other(kube::Error),
}

impl From<kube::Error> for Refused {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::Status(status),
            other => Self::Other(other),
        }
    }
}

type Built = std::result::Result<http::Request<Vec<u8>>, kube::core::request::Error>;

/// A connection to one cluster.
#[derive(Clone)]
pub struct Cluster {
    client: kube::Client,
    /// For messages: the context, or `this cluster`.
    shown: String,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cluster({})", self.shown)
    }
}

impl Cluster {
    /// Reads the kubeconfig or, in a pod, the service account. Sends no request yet.
    ///
    /// # Errors
    /// [`Class::Config`] if no cluster is configured, or its configuration is invalid.
    pub async fn connect(config: &ClusterConfig) -> Result<Self> {
        let unknown = |error: &dyn std::error::Error| {
            Error::config(format!("no Kubernetes cluster is known: {}", printable(&with_causes(error))))
                .hint("set KUBECONFIG, or `kubeconfig` and `context` in [kubernetes]")
        };
        let read = match &config.kubeconfig {
            Some(file) => Kubeconfig::read_from(file),
            None => Kubeconfig::read(),
        };
        let read = match read {
            Ok(read) => read,
            Err(error) => {
                let own = kube::Config::incluster().ok();
                let own = own.filter(|_| config.kubeconfig.is_none() && config.context.is_none());
                return Self::with(own.ok_or_else(|| unknown(&error))?, "this cluster".to_owned());
            }
        };
        let options = KubeConfigOptions { context: config.context.clone(), ..KubeConfigOptions::default() };
        let context = options.context.clone().or_else(|| read.current_context.clone()).unwrap_or_default();
        let loaded = kube::Config::from_custom_kubeconfig(read, &options).await.map_err(|error| unknown(&error))?;
        Self::with(loaded, format!("the cluster of the context `{}`", printable(&context)))
    }

    fn with(mut config: kube::Config, shown: String) -> Result<Self> {
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        let client = kube::Client::try_from(config).map_err(|error| {
            Error::config(format!("could not create a client for {shown}: {}", printable(&with_causes(&error))))
                .hint("check the user and the certificates of the context in the kubeconfig")
        })?;
        Ok(Self { client, shown })
    }

    /// The cluster, for messages.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// One object; `None` if the object or its kind does not exist.
    pub(super) async fn get(&self, kind: Kind, namespace: &str, name: &str) -> Result<Option<Value>> {
        let operation = Operation { verb: "get", kind, namespace: Some(namespace), name: Some(name) };
        let request = kind.request(Some(namespace)).get(name, &GetParams::default());
        match self.send(operation, request).await {
            Err(Refused::Status(status)) if status.code == NOT_FOUND => Ok(None),
            answer => self.or_explain(operation, answer).map(Some),
        }
    }

    /// Every object of a kind that matches the selectors, which have the form `key=value`; `None` if the cluster does
    /// not know the kind.
    pub(super) async fn list(
        &self,
        kind: Kind,
        namespace: Option<&str>,
        labels: Option<&str>,
        fields: Option<&str>,
    ) -> Result<Option<Vec<Value>>> {
        let operation = Operation { verb: "list", kind, namespace, name: None };
        let mut found = Vec::new();
        let mut page = ListParams::default().limit(PAGE_ITEMS);
        page.label_selector = labels.map(str::to_owned);
        page.field_selector = fields.map(str::to_owned);
        loop {
            let answer = match self.send(operation, kind.request(namespace).list(&page)).await {
                Err(Refused::Status(status)) if status.code == NOT_FOUND => return Ok(None),
                answer => self.or_explain(operation, answer)?,
            };
            found.extend(answer.get("items").and_then(Value::as_array).cloned().unwrap_or_default());
            if found.len() > ITEMS_MAX {
                return Err(Error::config(format!("{} has more than {ITEMS_MAX} {}", self.shown, kind.shown()))
                    .hint("limit `namespaces` in the configuration"));
            }
            match answer.pointer("/metadata/continue").and_then(Value::as_str) {
                Some(token) if !token.is_empty() => page.continue_token = Some(token.to_owned()),
                Some(_) | None => return Ok(Some(found)),
            }
        }
    }

    /// Creates an object; `None` if the name already exists.
    pub(super) async fn create(&self, kind: Kind, namespace: &str, object: &Value) -> Result<Option<Value>> {
        let name = object.pointer("/metadata/name").and_then(Value::as_str);
        let operation = Operation { verb: "create", kind, namespace: Some(namespace), name };
        let request = kind.request(Some(namespace)).create(&post_params(), object.to_string().into_bytes());
        match self.send(operation, request).await {
            Err(Refused::Status(status)) if status.is_already_exists() => Ok(None),
            answer => self.or_explain(operation, answer).map(Some),
        }
    }

    /// Changes some fields of an object.
    pub(super) async fn patch(&self, kind: Kind, namespace: &str, name: &str, change: &Value) -> Result<Value> {
        let operation = Operation { verb: "patch", kind, namespace: Some(namespace), name: Some(name) };
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let request = kind.request(Some(namespace)).patch(name, &params, &Patch::Merge(change));
        let answer = self.send(operation, request).await;
        self.or_explain(operation, answer)
    }

    /// Replaces an object; `None` if another client changed or deleted it in the meantime.
    pub(super) async fn replace(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        object: &Value,
    ) -> Result<Option<Value>> {
        let operation = Operation { verb: "update", kind, namespace: Some(namespace), name: Some(name) };
        let request = kind.request(Some(namespace)).replace(name, &post_params(), object.to_string().into_bytes());
        match self.send(operation, request).await {
            Err(Refused::Status(status)) if matches!(status.code, CONFLICT | NOT_FOUND) => Ok(None),
            answer => self.or_explain(operation, answer).map(Some),
        }
    }

    /// Deletes an object and, in the background, its dependents. Succeeds if the object does not exist.
    pub(super) async fn delete(&self, kind: Kind, namespace: &str, name: &str) -> Result<()> {
        let operation = Operation { verb: "delete", kind, namespace: Some(namespace), name: Some(name) };
        let request = kind.request(Some(namespace)).delete(name, &DeleteParams::background());
        match self.send(operation, request).await {
            Err(Refused::Status(status)) if status.code == NOT_FOUND => Ok(()),
            answer => self.or_explain(operation, answer).map(drop),
        }
    }

    /// Follows the log of a container from its beginning. Each line starts with its timestamp.
    pub(super) async fn log(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
    ) -> Result<impl AsyncBufRead + Unpin + use<>> {
        let operation = Operation { verb: "get", kind: LOGS, namespace: Some(namespace), name: Some(pod) };
        let container = Some(container.to_owned());
        let params = LogParams { container, follow: true, timestamps: true, ..LogParams::default() };
        let answer = match PODS.request(Some(namespace)).logs(pod, &params) {
            Ok(request) => self.client.request_stream(request).await,
            Err(error) => Err(kube::Error::BuildRequest(error)),
        };
        answer.map(Box::pin).map_err(|error| self.explain(operation, error.into()))
    }

    async fn send(&self, operation: Operation<'_>, request: Built) -> std::result::Result<Value, Refused> {
        let request = request.map_err(|error| Refused::Other(kube::Error::BuildRequest(error)))?;
        let Operation { verb, kind, namespace, name } = operation;
        tracing::debug!(verb, kind = %kind.shown(), namespace, name, "sending a request to {}", self.shown);
        let text = match tokio::time::timeout(REQUEST_TIMEOUT, self.client.request_text(request)).await {
            Ok(text) => text?,
            Err(_) => return Err(Refused::Silence),
        };
        serde_json::from_str(&text).map_err(|_| Refused::InvalidJson)
    }

    fn or_explain(&self, operation: Operation<'_>, answer: std::result::Result<Value, Refused>) -> Result<Value> {
        answer.map_err(|refused| self.explain(operation, refused))
    }

    /// Turns a failure into an error for people.
    fn explain(&self, operation: Operation<'_>, refused: Refused) -> Error {
        let Operation { verb, kind, namespace, name } = operation;
        let (kind, shown) = (kind.shown(), &self.shown);
        let object = name.map(|name| format!(" `{name}`")).unwrap_or_default();
        let place = namespace.map(|namespace| format!(" in the namespace `{namespace}`")).unwrap_or_default();
        let doing = format!("{verb} {kind}{object}{place}");
        let status = match refused {
            Refused::Status(status) => status,
            Refused::Silence => {
                let waited = REQUEST_TIMEOUT.as_secs();
                return Error::unavailable(format!("{doing}: {shown} did not answer within {waited} s"));
            }
            Refused::InvalidJson => return Error::unexpected(format!("{doing}: the answer from {shown} is not JSON")),
            Refused::Other(error) => return self.unreachable(&doing, &error),
        };
        let reason = printable(&status.message.replace('\n', " "));
        match status.code {
            401 => Error::config(format!("{doing}: {shown} does not accept this user"))
                .hint("log in to the cluster again, or check the user of the context in the kubeconfig"),
            // RBAC's message says that the user "cannot" do it; admission controllers have their own messages.
            403 if reason.contains(" cannot ") => Error::config(format!(
                "{doing}: {shown} does not allow it: {reason}"
            ))
            .hint(format!("grant `{verb}` on `{kind}`{place}; docs/kubernetes.md lists what each command needs")),
            400..=428 => {
                Error::config(format!("{doing}: {shown} refused it: {reason}")).hint("the message is the cluster's own")
            }
            429 | 500.. => Error::unavailable(format!("{doing}: {shown} cannot do it at the moment: {reason}")),
            _ => Error::unexpected(format!("{doing}: {shown} answered with status {}: {reason}", status.code)),
        }
    }

    fn unreachable(&self, doing: &str, error: &kube::Error) -> Error {
        let message = format!("{doing}: {} cannot be reached: {}", self.shown, printable(&with_causes(error)));
        if is_about_certificates(error) {
            return Error::config(message).hint("check the server's certificate and the CA in the kubeconfig");
        }
        match error {
            kube::Error::Auth(_) | kube::Error::BuildRequest(_) | kube::Error::InferKubeconfig(_) => {
                Error::config(message).hint("check the user of the context in the kubeconfig")
            }
            _ => Error::new(Class::Unavailable, message).hint("check that the cluster can be reached from here"),
        }
    }
}

/// Whether a certificate error is anywhere in the chain of causes. `io::Error` does not return its inner error as its
/// source, so that is checked separately.
fn is_about_certificates(error: &kube::Error) -> bool {
    let mut at = std::error::Error::source(error);
    while let Some(cause) = at {
        if cause.is::<rustls::Error>() {
            return true;
        }
        at = match cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => cause.source(),
        };
    }
    false
}

fn post_params() -> PostParams {
    PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() }
}

/// The causes of an error, nearest first.
fn causes<'e>(error: &'e dyn std::error::Error) -> impl Iterator<Item = &'e (dyn std::error::Error + 'static)> {
    std::iter::successors(error.source(), |cause| cause.source())
}

/// An error and its causes, in one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    for cause in causes(error).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text.replace('\n', " ")
}
