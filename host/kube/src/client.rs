//! The client of the API server: connects, asks, and says in one sentence what a refusal means.
//!
//! Objects come and go as JSON text that is parsed here and never logged: the library's own typed calls would log an answer
//! that they cannot parse, and an answer may be a Secret.

use super::Config;
use base::error::{Class, Error, Result};
use base::text::printable;
use futures::AsyncBufRead;
use kube::api::{DeleteParams, GetParams, ListParams, LogParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::Request;
use serde_json::Value;
use std::time::Duration;

/// Time for one request with its repetitions. A healthy server answers in milliseconds.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Time for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Objects of one answer.
const PAGE_ITEMS: u32 = 500;

/// Objects of one kind. A cluster with more needs narrower namespaces.
const ITEMS_MAX: usize = 20_000;

/// No such object; without an object of the protocol around it, no such kind.
const NOT_FOUND: u16 = 404;

/// Somebody else was faster.
const CONFLICT: u16 = 409;

/// How the cluster's administrator sees this program in what it writes.
const MANAGER: &str = "dolibarr-backup";

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

    /// `jobs.batch`, as `kubectl auth can-i` takes it.
    fn shown(self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }
}

/// What one request wants, for its sentence.
#[derive(Debug, Clone, Copy)]
struct Asked<'a> {
    verb: &'static str,
    kind: Kind,
    namespace: Option<&'a str>,
    name: Option<&'a str>,
}

/// Why there is no answer.
enum Refused {
    /// The server's own words.
    Status(Box<kube::core::Status>),
    /// No answer in time.
    Silence,
    /// An answer that is no JSON.
    Nonsense,
    /// No server.
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
    /// For people: the context, or `this cluster`.
    shown: String,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cluster({})", self.shown)
    }
}

impl Cluster {
    /// Reads the kubeconfig, or in a pod its service account. Asks nobody yet.
    ///
    /// # Errors
    /// [`Class::Config`] when there is no cluster to talk to, or what describes it is wrong.
    pub async fn connect(config: &Config) -> Result<Self> {
        let wrong = |error: &dyn std::error::Error| {
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
                return Self::with(own.ok_or_else(|| wrong(&error))?, "this cluster".to_owned());
            }
        };
        let options = KubeConfigOptions { context: config.context.clone(), ..KubeConfigOptions::default() };
        let context = options.context.clone().or_else(|| read.current_context.clone()).unwrap_or_default();
        let loaded = kube::Config::from_custom_kubeconfig(read, &options).await.map_err(|error| wrong(&error))?;
        Self::with(loaded, format!("the cluster of the context `{}`", printable(&context)))
    }

    fn with(mut config: kube::Config, shown: String) -> Result<Self> {
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        let client = kube::Client::try_from(config).map_err(|error| {
            Error::config(format!("{shown} cannot be talked to: {}", printable(&with_causes(&error))))
                .hint("check the user and the certificates of the context in the kubeconfig")
        })?;
        Ok(Self { client, shown })
    }

    /// For people: which cluster.
    #[must_use]
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// One object; none where there is no such object, or no such kind.
    pub(super) async fn get(&self, kind: Kind, namespace: &str, name: &str) -> Result<Option<Value>> {
        let asked = Asked { verb: "get", kind, namespace: Some(namespace), name: Some(name) };
        let request = kind.request(Some(namespace)).get(name, &GetParams::default());
        match self.ask(asked, request).await {
            Err(Refused::Status(status)) if status.code == NOT_FOUND => Ok(None),
            answer => self.explained(asked, answer).map(Some),
        }
    }

    /// Every object of a kind that the selectors match, both of the form `key=value`; none where the cluster does not know the
    /// kind.
    pub(super) async fn list(
        &self,
        kind: Kind,
        namespace: Option<&str>,
        labels: Option<&str>,
        fields: Option<&str>,
    ) -> Result<Option<Vec<Value>>> {
        let asked = Asked { verb: "list", kind, namespace, name: None };
        let mut found = Vec::new();
        let mut page = ListParams::default().limit(PAGE_ITEMS);
        page.label_selector = labels.map(str::to_owned);
        page.field_selector = fields.map(str::to_owned);
        loop {
            let answer = match self.ask(asked, kind.request(namespace).list(&page)).await {
                Err(Refused::Status(status)) if status.code == NOT_FOUND => return Ok(None),
                answer => self.explained(asked, answer)?,
            };
            found.extend(answer.get("items").and_then(Value::as_array).cloned().unwrap_or_default());
            if found.len() > ITEMS_MAX {
                return Err(Error::config(format!("{} has more than {ITEMS_MAX} {}", self.shown, kind.shown()))
                    .hint("name fewer namespaces in the configuration"));
            }
            match answer.pointer("/metadata/continue").and_then(Value::as_str) {
                Some(token) if !token.is_empty() => page.continue_token = Some(token.to_owned()),
                Some(_) | None => return Ok(Some(found)),
            }
        }
    }

    /// A new object; none where one of that name exists.
    pub(super) async fn create(&self, kind: Kind, namespace: &str, object: &Value) -> Result<Option<Value>> {
        let name = object.pointer("/metadata/name").and_then(Value::as_str);
        let asked = Asked { verb: "create", kind, namespace: Some(namespace), name };
        let request = kind.request(Some(namespace)).create(&written(), object.to_string().into_bytes());
        match self.ask(asked, request).await {
            Err(Refused::Status(status)) if status.is_already_exists() => Ok(None),
            answer => self.explained(asked, answer).map(Some),
        }
    }

    /// Changes some fields of an object.
    pub(super) async fn patch(&self, kind: Kind, namespace: &str, name: &str, change: &Value) -> Result<Value> {
        let asked = Asked { verb: "patch", kind, namespace: Some(namespace), name: Some(name) };
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let request = kind.request(Some(namespace)).patch(name, &params, &Patch::Merge(change));
        let answer = self.ask(asked, request).await;
        self.explained(asked, answer)
    }

    /// Replaces an object by a newer version of itself; none where somebody else was faster, or it is gone.
    pub(super) async fn replace(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        object: &Value,
    ) -> Result<Option<Value>> {
        let asked = Asked { verb: "update", kind, namespace: Some(namespace), name: Some(name) };
        let request = kind.request(Some(namespace)).replace(name, &written(), object.to_string().into_bytes());
        match self.ask(asked, request).await {
            Err(Refused::Status(status)) if matches!(status.code, CONFLICT | NOT_FOUND) => Ok(None),
            answer => self.explained(asked, answer).map(Some),
        }
    }

    /// Deletes an object, and what it owns in its wake. One that is gone already is as well.
    pub(super) async fn delete(&self, kind: Kind, namespace: &str, name: &str) -> Result<()> {
        let asked = Asked { verb: "delete", kind, namespace: Some(namespace), name: Some(name) };
        let request = kind.request(Some(namespace)).delete(name, &DeleteParams::background());
        match self.ask(asked, request).await {
            Err(Refused::Status(status)) if status.code == NOT_FOUND => Ok(()),
            answer => self.explained(asked, answer).map(drop),
        }
    }

    /// The log of a pod's container from its beginning, each line behind its time, for as long as the container runs.
    pub(super) async fn log(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
    ) -> Result<impl AsyncBufRead + Unpin + use<>> {
        let asked = Asked { verb: "get", kind: LOGS, namespace: Some(namespace), name: Some(pod) };
        let container = Some(container.to_owned());
        let params = LogParams { container, follow: true, timestamps: true, ..LogParams::default() };
        let answer = match PODS.request(Some(namespace)).logs(pod, &params) {
            Ok(request) => self.client.request_stream(request).await,
            Err(error) => Err(kube::Error::BuildRequest(error)),
        };
        answer.map(Box::pin).map_err(|error| self.explain(asked, error.into()))
    }

    async fn ask(&self, asked: Asked<'_>, request: Built) -> std::result::Result<Value, Refused> {
        let request = request.map_err(|error| Refused::Other(kube::Error::BuildRequest(error)))?;
        let Asked { verb, kind, namespace, name } = asked;
        tracing::debug!(verb, kind = %kind.shown(), namespace, name, "asking {}", self.shown);
        let text = match tokio::time::timeout(REQUEST_TIMEOUT, self.client.request_text(request)).await {
            Ok(text) => text?,
            Err(_) => return Err(Refused::Silence),
        };
        serde_json::from_str(&text).map_err(|_| Refused::Nonsense)
    }

    fn explained(&self, asked: Asked<'_>, answer: std::result::Result<Value, Refused>) -> Result<Value> {
        answer.map_err(|refused| self.explain(asked, refused))
    }

    /// What a refusal means for the person who reads it.
    fn explain(&self, asked: Asked<'_>, refused: Refused) -> Error {
        let Asked { verb, kind, namespace, name } = asked;
        let (kind, shown) = (kind.shown(), &self.shown);
        let of = name.map(|name| format!(" `{name}`")).unwrap_or_default();
        let place = namespace.map(|namespace| format!(" in the namespace `{namespace}`")).unwrap_or_default();
        let doing = format!("{verb} {kind}{of}{place}");
        let status = match refused {
            Refused::Status(status) => status,
            Refused::Silence => {
                let waited = REQUEST_TIMEOUT.as_secs();
                return Error::unavailable(format!("{doing}: {shown} did not answer within {waited} s"));
            }
            Refused::Nonsense => return Error::unexpected(format!("{doing}: {shown} answered no JSON")),
            Refused::Other(error) => return self.unreachable(&doing, &error),
        };
        let said = printable(&status.message.replace('\n', " "));
        match status.code {
            401 => Error::config(format!("{doing}: {shown} does not know this user"))
                .hint("log in to the cluster again, or check the user of the context in the kubeconfig"),
            // Access control says what the user cannot do; whatever else refuses has words of its own.
            403 if said.contains(" cannot ") => Error::config(format!("{doing}: {shown} does not allow it: {said}"))
                .hint(format!("grant `{verb}` on `{kind}`{place}; docs/kubernetes.md lists what each command needs")),
            400..=428 => {
                Error::config(format!("{doing}: {shown} refuses it: {said}")).hint("the reason is the cluster's own")
            }
            429 | 500.. => Error::unavailable(format!("{doing}: {shown} cannot do it now: {said}")),
            _ => Error::unexpected(format!("{doing}: {shown} answered {}: {said}", status.code)),
        }
    }

    fn unreachable(&self, doing: &str, error: &kube::Error) -> Error {
        let message = format!("{doing}: {} cannot be reached: {}", self.shown, printable(&with_causes(error)));
        if is_about_certificates(error) {
            return Error::config(message).hint("check the server's certificate and the authority in the kubeconfig");
        }
        match error {
            kube::Error::Auth(_) | kube::Error::BuildRequest(_) | kube::Error::InferKubeconfig(_) => {
                Error::config(message).hint("check the user of the context in the kubeconfig")
            }
            _ => Error::new(Class::Unavailable, message).hint("check that the cluster can be reached from here"),
        }
    }
}

/// Whether a certificate is at fault, however deep. An error of the operating system's kind does not name as its cause what it
/// carries.
fn is_about_certificates(error: &kube::Error) -> bool {
    let mut at = std::error::Error::source(error);
    while let Some(cause) = at {
        if cause.is::<rustls::Error>() {
            return true;
        }
        at = match cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(carried) => Some(carried),
            None => cause.source(),
        };
    }
    false
}

fn written() -> PostParams {
    PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() }
}

/// What is behind an error, the nearest first.
fn causes<'e>(error: &'e dyn std::error::Error) -> impl Iterator<Item = &'e (dyn std::error::Error + 'static)> {
    std::iter::successors(error.source(), |cause| cause.source())
}

/// An error and what is behind it, in one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    for cause in causes(error).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text.replace('\n', " ")
}
