//! The client: endpoint, credentials, certificates, timeouts, and the settings that make the SDK's requests acceptable
//! to every server.

use crate::StoreConfig;
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
use base::secret::{ExposeSecret, OpenCredentials, SecretSource, SecretString};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use url::Url;

/// Largest certificate file that is read. The bundles of operating systems take 250 KiB.
const CA_BYTES_MAX: u64 = 4 << 20;

/// How long an access key from a Kubernetes Secret is cached. One request per minute is negligible next to thousands to
/// the store, and a rotated key is noticed well before the old one expires.
const SECRET_CACHE_TIME: Duration = Duration::from_secs(60);

/// Timeouts and retries.
#[derive(Debug, Clone)]
pub struct Patience {
    /// Timeout for a connection.
    pub connect: Duration,
    /// Timeout for the response to a request without a body, and for the next bytes of a download.
    pub attempt: Duration,
    /// Timeout for such a request including all retries.
    pub operation: Duration,
    /// Timeout for a request with a body, and for completing an upload, which takes large stores minutes.
    pub upload_attempt: Duration,
    /// Timeout for such a request including all retries.
    pub upload_operation: Duration,
    /// Attempts of a request, including the first.
    pub attempts_max: u32,
    /// Attempts of a request with a body. Hours of work depend on it, so it must outlast an outage of minutes.
    pub upload_attempts_max: u32,
    /// Attempts of the first request. Few, because a user with a mistyped endpoint is waiting for the error.
    pub opening_attempts_max: u32,
    /// Upper bound of the first pause; it doubles with each retry.
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
            // A line of 1 Mbit/s takes seven minutes for the parts that are in flight at once.
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

    /// Overrides for requests that upload data or complete an upload.
    pub(super) fn upload_overrides(&self) -> Builder {
        let limits = self.limits(self.upload_attempt, self.upload_operation);
        Builder::new().timeout_config(limits).retry_config(self.retries(self.upload_attempts_max))
    }

    /// Overrides for the first request.
    pub(super) fn opening_overrides(&self) -> Builder {
        Builder::new().retry_config(self.retries(self.opening_attempts_max))
    }

    fn limits(&self, attempt: Duration, operation: Duration) -> TimeoutConfig {
        TimeoutConfig::builder()
            .connect_timeout(self.connect)
            .operation_attempt_timeout(attempt)
            .operation_timeout(operation)
            .build()
    }

    fn retries(&self, attempts_max: u32) -> RetryConfig {
        RetryConfig::standard()
            .with_max_attempts(attempts_max)
            .with_initial_backoff(self.backoff)
            .with_max_backoff(self.backoff_max)
    }
}

/// The result of [`connect`].
pub(super) struct Connection {
    pub client: Client,
    /// For messages.
    pub endpoint: String,
    pub keys: Arc<Keys>,
}

/// Creates the client. Sends no request to the store yet.
pub(super) async fn connect(config: &StoreConfig, patience: &Patience) -> Result<Connection> {
    let source = config.credentials.clone().ok_or_else(|| {
        Error::config("an s3:// store needs `credentials`")
            .hint("set `credentials = { files = \"FOLDER\" }`, `{ env = true }` or `{ kube_secret = \"NAMESPACE/NAME\" }` in [store]")
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
        None => endpoint_in_credentials(&source).await?.or_else(|| facts.endpoint.map(str::to_owned)),
    };
    if endpoint.is_none() && !facts.regional_endpoint {
        return Err(Error::config(format!("the profile `{}` needs an endpoint", config.profile))
            .hint("set `endpoint` in [store], such as \"https://s3.example.org\""));
    }
    let endpoint = endpoint.map(|endpoint| parse_endpoint(&endpoint)).transpose()?;
    let is_plain = endpoint.as_ref().is_some_and(|url| url.scheme() == "http");
    let shown = endpoint.as_ref().map_or_else(|| format!("AWS S3 in {region}"), shown);
    if is_plain {
        tracing::debug!(endpoint = shown, "the connection to the store does not use TLS");
    }
    let http = http_client(is_plain, config.ca_file.as_deref())?;
    let mut builder = Builder::new()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(region.to_owned()))
        .credentials_provider(Rotating(Arc::clone(&keys)))
        // Read at each use, because they rotate; reading three small files costs nothing compared to a request.
        .identity_cache(IdentityCache::no_cache())
        .http_client(http)
        .force_path_style(true)
        .disable_s3_express_session_auth(true)
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        // It mistakes a slow line for a dead one; the timeouts serve the same purpose.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .timeout_config(patience.limits(patience.attempt, patience.operation))
        .retry_config(patience.retries(patience.attempts_max))
        .retry_classifier(TooManyRequests)
        .interceptor(ExplicitLength);
    builder.set_endpoint_url(endpoint.map(|url| url.as_str().trim_end_matches('/').to_owned()));
    Ok(Connection { client: Client::from_conf(builder.build()), endpoint: shown, keys })
}

/// The endpoint that comes with the credentials, under the names that Longhorn and the AWS tools use.
async fn endpoint_in_credentials(source: &SecretSource) -> Result<Option<String>> {
    let credentials = source.open().await?;
    let endpoint = credentials.read_optional("AWS_ENDPOINTS", "AWS_ENDPOINTS")?;
    let endpoint = match endpoint {
        Some(endpoint) => Some(endpoint),
        None => credentials.read_optional("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL")?,
    };
    Ok(endpoint.map(|endpoint| endpoint.expose_secret().trim().to_owned()))
}

/// Parses an endpoint. An invalid one is not shown: it may come from a Secret, and may contain a password.
fn parse_endpoint(text: &str) -> Result<Url> {
    const HINT: &str = "use a server's address, such as \"https://s3.example.org\"";
    let url =
        Url::parse(text).map_err(|e| Error::config(format!("the store's endpoint is invalid: {e}")).hint(HINT))?;
    let is_plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() || !is_plain || url.fragment().is_some() {
        return Err(Error::config("the store's endpoint is not `http://HOST` or `https://HOST`").hint(HINT));
    }
    Ok(url)
}

fn shown(endpoint: &Url) -> String {
    endpoint.as_str().trim_end_matches('/').to_owned()
}

/// Creates the HTTP client. The SDK panics on unusable certificates and, in debug builds, without any certificates, so
/// both are checked here.
fn http_client(is_plain: bool, ca_file: Option<&Path>) -> Result<SharedHttpClient> {
    let trust = match ca_file {
        Some(file) => TrustStore::empty().with_pem_certificate(read_authorities(file)?),
        None if is_plain => TrustStore::empty(),
        None if rustls_native_certs::load_native_certs().certs.is_empty() => {
            return Err(Error::config("the system has no CA certificates, so no server can be trusted")
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
    let invalid = |problem: String| {
        Error::config(format!("the certificate file {shown} {problem}")).hint("set `ca_file` to a PEM certificate file")
    };
    let bytes =
        std::fs::metadata(file).map_err(|e| invalid(format!("cannot be read: {}", base::error::reason(&e))))?.len();
    if bytes > CA_BYTES_MAX {
        return Err(invalid(format!("is larger than {CA_BYTES_MAX} bytes")));
    }
    let pem = std::fs::read(file).map_err(|e| invalid(format!("cannot be read: {}", base::error::reason(&e))))?;
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|e| invalid(format!("is not PEM: {e}")))?;
        roots.add(certificate).map_err(|e| invalid(format!("contains an unusable certificate: {e}")))?;
    }
    if roots.is_empty() {
        return Err(invalid("contains no certificate".to_owned()));
    }
    Ok(pem)
}

/// The access key. It is read at each use, or once a minute from a Kubernetes Secret.
#[derive(Debug)]
pub(super) struct Keys {
    source: SecretSource,
    /// The secrets that were read last, for redacting servers' messages.
    known: Mutex<Vec<SecretString>>,
    /// The credentials last read from a Kubernetes Secret, and when.
    cached: tokio::sync::Mutex<Option<(Instant, Credentials)>>,
}

impl Keys {
    fn new(source: SecretSource) -> Self {
        Self { source, known: Mutex::new(Vec::new()), cached: tokio::sync::Mutex::new(None) }
    }

    /// The secrets that were read last, for redaction.
    pub(super) fn known(&self) -> Vec<SecretString> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn read(self: &Arc<Self>) -> Result<Credentials> {
        if self.source.kube_secret.is_none() {
            let keys = Arc::clone(self);
            let read = tokio::task::spawn_blocking(move || keys.load(&OpenCredentials::Place(&keys.source))).await;
            return read.unwrap_or_else(|e| Err(Error::unexpected(format!("the credentials could not be read: {e}"))));
        }
        // A task of its own: an attempt that runs into its time limit must not cancel the request, or a slow API server
        // would fail every attempt.
        let keys = Arc::clone(self);
        let read = tokio::spawn(async move { keys.read_secret().await }).await;
        read.unwrap_or_else(|e| Err(Error::unexpected(format!("the credentials could not be read: {e}"))))
    }

    async fn read_secret(&self) -> Result<Credentials> {
        // Locked during the request to the API server, so that concurrent requests share one answer.
        let mut cached = self.cached.lock().await;
        if let Some((_, credentials)) = cached.as_ref().filter(|(since, _)| since.elapsed() < SECRET_CACHE_TIME) {
            return Ok(credentials.clone());
        }
        let credentials = self.load(&self.source.open().await?)?;
        *cached = Some((Instant::now(), credentials.clone()));
        Ok(credentials)
    }

    fn load(&self, source: &OpenCredentials<'_>) -> Result<Credentials> {
        let value = |name: &str| source.read(name, name);
        let mut id = value("AWS_ACCESS_KEY_ID")?;
        let (secret, token) = loop {
            let secret = value("AWS_SECRET_ACCESS_KEY")?;
            let token = source.read_optional("AWS_SESSION_TOKEN", "AWS_SESSION_TOKEN")?;
            let id_again = value("AWS_ACCESS_KEY_ID")?;
            // If a mounted secret rotates between two reads, the id and the key would not match.
            if id_again.expose_secret() == id.expose_secret() {
                break (secret, token);
            }
            id = id_again;
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

/// Retries a request that was answered with 429, which the SDK does not do.
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

/// Adds `Content-Length: 0` to uploads without a body. Google Cloud Storage answers 411 to a POST or PUT without it.
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
    fn an_endpoint_is_an_address_and_an_invalid_one_is_not_shown() {
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
    fn an_unusable_certificate_file_is_named() {
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
