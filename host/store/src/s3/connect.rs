//! The client: endpoint, credentials, certificates, time limits, and what makes the SDK's requests acceptable to
//! every server.

use crate::Config;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, future};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_s3::config::retry::{ClassifyRetry, RetryAction, RetryConfig};
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Builder, ConfigBag, Credentials, IdentityCache, Intercept, ProvideCredentials, Region,
    RequestChecksumCalculation, ResponseChecksumValidation, RuntimeComponents, SharedHttpClient,
    StalledStreamProtectionConfig,
};
use aws_sdk_s3::error::BoxError;
use aws_smithy_http_client::tls::{self, TlsContext, TrustStore, rustls_provider::CryptoMode};
use aws_smithy_runtime_api::client::interceptors::context::InterceptorContext;
use base::error::{Error, Result};
use base::secret::{ExposeSecret, Look, SecretString, Source};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use url::Url;

/// Longest certificate file that is read: the system's own bundles have 250 KiB.
const CA_BYTES_MAX: u64 = 4 << 20;

/// How long an access key out of a Kubernetes Secret is used before the API server is asked again: one request a minute
/// beside thousands to the store, and a rotated key is noticed well before the old one ends.
const KEPT_SECRET: Duration = Duration::from_secs(60);

/// How long to wait and how often to ask again.
#[derive(Debug, Clone)]
pub struct Patience {
    /// For a connection.
    pub connect: Duration,
    /// For the answer to a request without a body, and for the next bytes of a download.
    pub attempt: Duration,
    /// For such a request with all its repetitions.
    pub operation: Duration,
    /// For a request with a body, and for the answer to a completion, which large stores take minutes for.
    pub upload_attempt: Duration,
    /// For such a request with all its repetitions.
    pub upload_operation: Duration,
    /// Attempts of a request, the first included.
    pub attempts_max: u32,
    /// Attempts of a request with a body: hours of work hang on it, so it outlasts a disturbance of minutes.
    pub upload_attempts_max: u32,
    /// Attempts of the first request: somebody waits to hear that the endpoint is mistyped.
    pub opening_attempts_max: u32,
    /// Upper bound of the first pause; the next ones double.
    pub backoff: Duration,
    /// Upper bound of any pause.
    pub backoff_max: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            attempt: Duration::from_secs(60),
            operation: Duration::from_secs(5 * 60),
            // What is in flight at once passes a line of 1 Mbit/s in seven minutes.
            upload_attempt: Duration::from_secs(10 * 60),
            upload_operation: Duration::from_secs(40 * 60),
            attempts_max: 6,
            upload_attempts_max: 15,
            opening_attempts_max: 3,
            backoff: Duration::from_secs(1),
            backoff_max: Duration::from_secs(20),
        }
    }
}

impl Patience {
    /// The pause after the `failures`-th failure in a row.
    pub(super) fn backoff(&self, failures: u32) -> Duration {
        let doubled = self.backoff.saturating_mul(1 << failures.saturating_sub(1).min(10));
        doubled.min(self.backoff_max)
    }

    /// Overrides for requests that carry a part or complete an upload.
    pub(super) fn of_uploads(&self) -> Builder {
        let limits = self.limits(self.upload_attempt, self.upload_operation);
        Builder::new().timeout_config(limits).retry_config(self.repetitions(self.upload_attempts_max))
    }

    /// Overrides for the first request.
    pub(super) fn of_opening(&self) -> Builder {
        Builder::new().retry_config(self.repetitions(self.opening_attempts_max))
    }

    fn limits(&self, attempt: Duration, operation: Duration) -> TimeoutConfig {
        TimeoutConfig::builder()
            .connect_timeout(self.connect)
            .operation_attempt_timeout(attempt)
            .operation_timeout(operation)
            .build()
    }

    fn repetitions(&self, attempts_max: u32) -> RetryConfig {
        RetryConfig::standard()
            .with_max_attempts(attempts_max)
            .with_initial_backoff(self.backoff)
            .with_max_backoff(self.backoff_max)
    }
}

/// What [`connect`] makes.
pub(super) struct Connection {
    pub client: Client,
    /// For people.
    pub endpoint: String,
    pub keys: Arc<Keys>,
}

/// Makes the client. Asks nobody yet.
pub(super) async fn connect(config: &Config, patience: &Patience) -> Result<Connection> {
    let source = config.credentials.clone().ok_or_else(|| {
        Error::config("an s3:// store needs `credentials`")
            .hint("give `credentials = { files = \"FOLDER\" }`, `{ env = true }` or `{ kube_secret = \"NAMESPACE/NAME\" }` in [store]")
    })?;
    let facts = config.profile.facts();
    let keys = Arc::new(Keys::new(source.clone()));
    keys.read().await?;
    let region = config.region.as_deref().filter(|region| *region != "auto" || facts.region.is_some());
    let region = region.or(facts.region).ok_or_else(|| {
        Error::config(format!("the profile `{}` needs a region", config.profile)).hint("set `region` in [store]")
    })?;
    let endpoint = match &config.endpoint {
        Some(endpoint) => Some(endpoint.clone()),
        None => endpoint_of(&source).await?.or_else(|| facts.endpoint.map(str::to_owned)),
    };
    if endpoint.is_none() && !facts.regional_endpoint {
        return Err(Error::config(format!("the profile `{}` needs an endpoint", config.profile))
            .hint("set `endpoint` in [store], such as \"https://s3.example.org\""));
    }
    let endpoint = endpoint.map(|endpoint| parse_endpoint(&endpoint)).transpose()?;
    let is_plain = endpoint.as_ref().is_some_and(|url| url.scheme() == "http");
    let shown = endpoint.as_ref().map_or_else(|| format!("AWS S3 in {region}"), shown);
    if is_plain {
        tracing::debug!(endpoint = shown, "the store is reached without TLS");
    }
    let http = http_client(is_plain, config.ca_file.as_deref())?;
    let mut builder = Builder::new()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(region.to_owned()))
        .credentials_provider(Rotating(Arc::clone(&keys)))
        // Read at every use: they rotate, and three small files cost nothing beside a request.
        .identity_cache(IdentityCache::no_cache())
        .http_client(http)
        .force_path_style(true)
        .disable_s3_express_session_auth(true)
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        // It takes a slow line for a dead one; the time limits do this job.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .timeout_config(patience.limits(patience.attempt, patience.operation))
        .retry_config(patience.repetitions(patience.attempts_max))
        .retry_classifier(TooManyRequests)
        .interceptor(ExplicitLength);
    builder.set_endpoint_url(endpoint.map(|url| url.as_str().trim_end_matches('/').to_owned()));
    Ok(Connection { client: Client::from_conf(builder.build()), endpoint: shown, keys })
}

/// The endpoint that comes with the credentials, the way Longhorn and the AWS tools name it.
async fn endpoint_of(source: &Source) -> Result<Option<String>> {
    let look = source.look().await?;
    let named = look.read_optional("AWS_ENDPOINTS", "AWS_ENDPOINTS")?;
    let named = match named {
        Some(named) => Some(named),
        None => look.read_optional("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL")?,
    };
    Ok(named.map(|named| named.expose_secret().trim().to_owned()))
}

/// Checks an endpoint. A wrong one is not shown: it came from beside a secret, and may hold a password.
fn parse_endpoint(text: &str) -> Result<Url> {
    const HINT: &str = "give a server's address, such as \"https://s3.example.org\"";
    let url = Url::parse(text).map_err(|e| Error::config(format!("the store's endpoint is wrong: {e}")).hint(HINT))?;
    let is_plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() || !is_plain || url.fragment().is_some() {
        return Err(Error::config("the store's endpoint is not `http://HOST` or `https://HOST`").hint(HINT));
    }
    Ok(url)
}

fn shown(endpoint: &Url) -> String {
    endpoint.as_str().trim_end_matches('/').to_owned()
}

/// The SDK panics on certificates that it cannot use, and in a debug build where there are none: both are checked here.
fn http_client(is_plain: bool, ca_file: Option<&Path>) -> Result<SharedHttpClient> {
    let trust = match ca_file {
        Some(file) => TrustStore::empty().with_pem_certificate(read_authorities(file)?),
        None if is_plain => TrustStore::empty(),
        None if rustls_native_certs::load_native_certs().certs.is_empty() => {
            return Err(Error::config("the system has no certificates of authorities, so no server can be trusted")
                .hint("install `ca-certificates`, or set `ca_file` in [store]"));
        }
        None => TrustStore::default(),
    };
    let context = TlsContext::builder().with_trust_store(trust).build();
    let context = context.map_err(|e| Error::unexpected(format!("TLS cannot be set up: {e}")))?;
    let client = aws_smithy_http_client::Builder::new().tls_provider(tls::Provider::Rustls(CryptoMode::Ring));
    Ok(client.tls_context(context).build_https())
}

fn read_authorities(file: &Path) -> Result<Vec<u8>> {
    let shown = file.display();
    let wrong = |what: String| {
        Error::config(format!("the certificate file {shown} {what}")).hint("give `ca_file` a file of PEM certificates")
    };
    let bytes = std::fs::metadata(file).map_err(|e| wrong(format!("cannot be read: {}", e.kind())))?.len();
    if bytes > CA_BYTES_MAX {
        return Err(wrong(format!("is longer than {CA_BYTES_MAX} bytes")));
    }
    let pem = std::fs::read(file).map_err(|e| wrong(format!("cannot be read: {}", e.kind())))?;
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|e| wrong(format!("is not PEM: {e}")))?;
        roots.add(certificate).map_err(|e| wrong(format!("holds a certificate that cannot be used: {e}")))?;
    }
    if roots.is_empty() {
        return Err(wrong("holds no certificate".to_owned()));
    }
    Ok(pem)
}

/// The access key, read at every use; out of a Kubernetes Secret, once a minute.
#[derive(Debug)]
pub(super) struct Keys {
    source: Source,
    /// The last that were read, to cut them out of servers' messages.
    known: Mutex<Vec<SecretString>>,
    /// The last out of a Kubernetes Secret, and when.
    kept: tokio::sync::Mutex<Option<(Instant, Credentials)>>,
}

impl Keys {
    fn new(source: Source) -> Self {
        Self { source, known: Mutex::new(Vec::new()), kept: tokio::sync::Mutex::new(None) }
    }

    /// The secrets that were read last.
    pub(super) fn known(&self) -> Vec<SecretString> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn read(self: &Arc<Self>) -> Result<Credentials> {
        if self.source.kube_secret.is_none() {
            let keys = Arc::clone(self);
            let read = tokio::task::spawn_blocking(move || keys.open(&Look::Place(&keys.source))).await;
            return read.unwrap_or_else(|e| Err(Error::unexpected(format!("the credentials could not be read: {e}"))));
        }
        // Held while the API server is asked, so that one of many requests asks it.
        let mut kept = self.kept.lock().await;
        if let Some((_, credentials)) = kept.as_ref().filter(|(since, _)| since.elapsed() < KEPT_SECRET) {
            return Ok(credentials.clone());
        }
        let credentials = self.open(&self.source.look().await?)?;
        *kept = Some((Instant::now(), credentials.clone()));
        Ok(credentials)
    }

    fn open(&self, look: &Look<'_>) -> Result<Credentials> {
        let value = |name: &str| look.read(name, name);
        let mut id = value("AWS_ACCESS_KEY_ID")?;
        let (secret, token) = loop {
            let secret = value("AWS_SECRET_ACCESS_KEY")?;
            let token = look.read_optional("AWS_SESSION_TOKEN", "AWS_SESSION_TOKEN")?;
            let same = value("AWS_ACCESS_KEY_ID")?;
            // A mounted secret that rotates between two files would give half of each.
            if same.expose_secret() == id.expose_secret() {
                break (secret, token);
            }
            id = same;
        };
        let credentials = Credentials::new(
            id.expose_secret(),
            secret.expose_secret(),
            token.as_ref().map(|token| token.expose_secret().to_owned()),
            None,
            "dolibarr-backup",
        );
        let known = [Some(secret), token].into_iter().flatten().collect();
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = known;
        Ok(credentials)
    }
}

#[derive(Debug)]
struct Rotating(Arc<Keys>);

impl ProvideCredentials for Rotating {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async move {
            let read: provider::Result = self.0.read().await.map_err(CredentialsError::provider_error);
            read
        })
    }
}

/// The SDK does not repeat a request that was answered with 429.
#[derive(Debug)]
struct TooManyRequests;

impl ClassifyRetry for TooManyRequests {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        let status = context.response().map(|response| response.status().as_u16());
        if status == Some(429) { RetryAction::throttling_error() } else { RetryAction::NoActionIndicated }
    }

    fn name(&self) -> &'static str {
        "too many requests"
    }
}

/// Google Cloud Storage answers 411 to a POST or PUT that announces no length, even where there is no body.
#[derive(Debug)]
struct ExplicitLength;

impl Intercept for ExplicitLength {
    fn name(&self) -> &'static str {
        "explicit length"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let request = context.request_mut();
        let is_upload = matches!(request.method(), "POST" | "PUT");
        let is_empty = request.body().bytes().is_some_and(<[u8]>::is_empty);
        if is_upload && is_empty && request.headers().get("content-length").is_none() {
            request.headers_mut().insert("content-length", "0");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::error::Class;

    #[test]
    fn an_endpoint_is_an_address_and_a_wrong_one_is_not_shown() {
        for text in ["http://127.0.0.1:9000", "https://storage.googleapis.com/", "https://gateway.example.org/s3"] {
            assert!(parse_endpoint(text).is_ok(), "{text}");
        }
        for text in
            ["", "s3.example.org", "ftp://x", "https://me:hunter2-canary@x", "https://x/?canary", "https://x#canary"]
        {
            let error = parse_endpoint(text).unwrap_err();
            assert_eq!(error.class(), Class::Config, "{text}");
            assert!(error.advice().is_some() && !format!("{error:?}").contains("canary"), "{error:?}");
        }
    }

    #[test]
    fn a_certificate_file_that_cannot_be_used_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let cases = [
            ("empty.pem", ""),
            ("text.pem", "no certificate"),
            ("broken.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        ];
        for (name, text) in cases {
            let file = folder.path().join(name);
            std::fs::write(&file, text).unwrap();
            let error = http_client(false, Some(&file)).unwrap_err();
            assert!(error.class() == Class::Config && error.message().contains(name), "{error}");
        }
        let error = http_client(false, Some(&folder.path().join("missing.pem"))).unwrap_err();
        assert!(error.message().contains("missing.pem"), "{error}");
    }

    #[test]
    fn pauses_double_up_to_their_bound() {
        let patience = Patience::default();
        let pauses: Vec<_> = (1..=7).map(|failures| patience.backoff(failures).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 20, 20]);
    }
}
