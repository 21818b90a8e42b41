//! Components in a registry, addressed as `oci://registry/repository@sha256:…`.
//!
//! A component is identified by its digest, so that neither the registry nor anybody on the network path can replace
//! it: the manifest must hash to the digest in the configuration, and the component to the digest in the manifest. This
//! module never resolves a tag, never pushes, and never follows URLs in a manifest.

#[cfg(test)]
mod tests;

use super::COMPONENT_BYTES_MAX;
use super::cache::Cache;
use super::signature;
use base::error::{Error, Result};
use base::text::printable;
use docker_credential::{CredentialRetrievalError, DockerCredential};
use futures::StreamExt;
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::{DigestError, OciDistributionError, OciErrorCode};
use oci_client::manifest::{OCI_IMAGE_MEDIA_TYPE, OciDescriptor, OciImageManifest, WASM_LAYER_MEDIA_TYPE};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use sha2::{Digest, Sha256};
use std::path::Path;
use std::time::Duration;

/// Prefix of a component's address in a registry.
pub const SCHEME: &str = "oci://";

/// Media types of a layer that is a component: the one that `wkg` and `wash` push now, and that of older tools.
const LAYERS: [&str; 2] = ["application/wasm", WASM_LAYER_MEDIA_TYPE];

/// Largest manifest that is read. A component's manifest has one kilobyte, and the specification asks registries to
/// accept manifests of up to at least 4 MiB.
const MANIFEST_BYTES_MAX: usize = 4 << 20;

/// Longest pull of manifest and component together. The largest component takes five minutes at 2 Mbit/s.
const PULL_TIME_MAX: Duration = Duration::from_secs(300);

/// Longest wait for a connection: twice the delay that the loss of its first packet causes.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);

/// Longest wait for the next bytes. A registry that first fetches from another one is silent for some seconds.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// The address of a component in a registry, with its manifest's digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    reference: Reference,
    digest: String,
}

impl Address {
    /// Parses the part after `oci://`.
    ///
    /// # Errors
    /// [`base::error::Class::Config`] unless it consists of a registry, a repository and a sha256 digest.
    pub fn parse(text: &str) -> Result<Self> {
        let shown = printable(text);
        let form = "write oci://REGISTRY/REPOSITORY@sha256:DIGEST";
        let invalid = |why: &str| Error::config(format!("`{SCHEME}{shown}` {why}")).hint(form);
        let reference: Reference = text.parse().map_err(|e| invalid(&format!("is not a valid address: {e}")))?;
        // A name without a registry would mean Docker Hub.
        if text.split('/').next() != Some(reference.registry()) {
            return Err(invalid("has no registry"));
        }
        let Some(digest) = reference.digest() else {
            return Err(invalid("has no digest, but a tag can be moved to other code").hint(format!(
                "{form}; `docker buildx imagetools inspect`, `crane digest` and `oras resolve` print the digest of a tag"
            )));
        };
        let digits = digest.strip_prefix("sha256:").filter(|digits| is_sha256(digits));
        let digest = digits.ok_or_else(|| invalid("has a digest that is not sha256"))?.to_owned();
        Ok(Self { reference, digest })
    }

    /// The registry with its port, as credentials name it.
    fn registry(&self) -> &str {
        self.reference.registry()
    }

    /// Whether the registry runs on this machine, so that the connection needs no encryption.
    fn is_loopback(&self) -> bool {
        let host = self.registry().rsplit_once(':').map_or(self.registry(), |(host, _)| host);
        host == "localhost" || host.parse::<std::net::Ipv4Addr>().is_ok_and(|address| address.is_loopback())
    }
}

fn is_sha256(digits: &str) -> bool {
    digits.len() == 64 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// A component fetched from a registry.
#[derive(Debug, PartialEq, Eq)]
pub struct FetchedComponent {
    /// Its bytes.
    pub component: Vec<u8>,
    /// The signature that was pushed with it, if it was requested.
    pub signature: Option<Vec<u8>>,
}

/// The bytes of a component and, if `signed`, of its signature. They come from the cache if possible, otherwise from
/// the registry.
///
/// `docker` is a file with credentials in the format of Docker's `config.json`. A pull takes at most
/// [`PULL_TIME_MAX`].
///
/// # Errors
/// [`base::error::Class::Unavailable`] if the registry cannot be reached or fails;
/// [`base::error::Class::Config`] if it denies access, does not have the component, or returns something else.
pub async fn fetch(
    address: &Address,
    signed: bool,
    cache: Option<&Cache>,
    docker: Option<&Path>,
) -> Result<FetchedComponent> {
    if let Some(found) = cache.and_then(|cache| cached(address, signed, cache)) {
        return Ok(found);
    }
    let auth = docker.map_or(Ok(RegistryAuth::Anonymous), |file| credentials(file, address))?;
    let pulled = tokio::time::timeout(PULL_TIME_MAX, pull(address, signed, &auth)).await;
    let pulled = pulled.unwrap_or_else(|_| Err(too_slow(address)));
    let pulled = pulled.map_err(|e| e.context(format!("pulling {SCHEME}{}", address.reference)))?;
    if let Some(cache) = cache {
        cache.keep(&address.digest, &pulled.manifest);
        cache.keep(&pulled.layers.component.digest, &pulled.fetched.component);
        if let (Some(layer), Some(signature)) = (&pulled.layers.signature, &pulled.fetched.signature) {
            cache.keep(&layer.digest, signature);
        }
    }
    Ok(pulled.fetched)
}

/// The result of a pull, with each part checked against its digest.
struct Pulled {
    manifest: Vec<u8>,
    layers: Layers,
    fetched: FetchedComponent,
}

/// The layers that a manifest names.
struct Layers {
    component: Layer,
    signature: Option<Layer>,
}

/// One blob.
struct Layer {
    descriptor: OciDescriptor,
    /// The digits of its sha256.
    digest: String,
    /// Its kind, for errors.
    what: &'static str,
    bytes_max: u64,
}

/// The component from the cache. The cache returns only bytes with the right digest, so a complete chain is as good as
/// a pull.
fn cached(address: &Address, signed: bool, cache: &Cache) -> Option<FetchedComponent> {
    let manifest = cache.find(&address.digest, MANIFEST_BYTES_MAX as u64)?;
    let layers = layers_of(address, &manifest).ok()?;
    let found = |layer: &Layer| cache.find(&layer.digest, layer.bytes_max);
    let signature = match layers.signature.filter(|_| signed) {
        Some(layer) => Some(found(&layer)?),
        None => None,
    };
    Some(FetchedComponent { component: found(&layers.component)?, signature })
}

async fn pull(address: &Address, signed: bool, auth: &RegistryAuth) -> Result<Pulled> {
    let client = client(address)?;
    let fail = |e| failure(address, auth, e);
    let manifest = client.pull_manifest_raw(&address.reference, auth, &[OCI_IMAGE_MEDIA_TYPE]).await.map_err(fail)?.0;
    if manifest.len() > MANIFEST_BYTES_MAX || hex::encode(Sha256::digest(&manifest)) != address.digest {
        return Err(mismatch(address, "manifest"));
    }
    let layers = layers_of(address, &manifest)?;
    let signature = match layers.signature.as_ref().filter(|_| signed) {
        Some(layer) => Some(pull_layer(&client, address, layer, auth).await?),
        None => None,
    };
    let component = pull_layer(&client, address, &layers.component, auth).await?;
    Ok(Pulled { manifest: manifest.to_vec(), layers, fetched: FetchedComponent { component, signature } })
}

async fn pull_layer(client: &Client, address: &Address, layer: &Layer, auth: &RegistryAuth) -> Result<Vec<u8>> {
    let fail = |e| failure(address, auth, e);
    let mut stream = client.pull_blob_stream(&address.reference, &layer.descriptor).await.map_err(fail)?.stream;
    let mut blob = Vec::new();
    while let Some(bytes) = stream.next().await {
        // The client checks a layer while it streams, and reports a mismatch as an I/O error with that cause.
        let bytes = bytes.map_err(|e| match e.get_ref().is_some_and(|inner| inner.is::<DigestError>()) {
            true => mismatch(address, layer.what),
            false => fail(OciDistributionError::IoError(e)),
        })?;
        blob.extend_from_slice(&bytes);
        if blob.len() as u64 > layer.bytes_max {
            return Err(too_long(address, layer.what, layer.bytes_max));
        }
    }
    if hex::encode(Sha256::digest(&blob)) == layer.digest { Ok(blob) } else { Err(mismatch(address, layer.what)) }
}

fn client(address: &Address) -> Result<Client> {
    // An error means that a provider is already installed. All providers in this process are ring.
    drop(rustls::crypto::ring::default_provider().install_default());
    let config = ClientConfig {
        protocol: if address.is_loopback() { ClientProtocol::Http } else { ClientProtocol::Https },
        platform_resolver: None,
        connect_timeout: Some(CONNECT_TIME_MAX),
        read_timeout: Some(SILENCE_MAX),
        user_agent: concat!("dolibarr-backup/", env!("CARGO_PKG_VERSION")),
        ..ClientConfig::default()
    };
    Client::try_from(config).map_err(|e| Error::unexpected(format!("starting a client for registries: {e}")))
}

/// The layers of a manifest: the component, and its signature if there is one.
fn layers_of(address: &Address, manifest: &[u8]) -> Result<Layers> {
    let invalid = |why: &str| {
        Error::config(format!("the manifest of {SCHEME}{} {why}", address.reference)).hint(
            "push the component with `wkg oci push` or `wash push`, as one layer of the media type application/wasm",
        )
    };
    let manifest: OciImageManifest =
        serde_json::from_slice(manifest).map_err(|_| invalid("is not a single-artifact manifest"))?;
    let (signatures, layers): (Vec<_>, Vec<_>) =
        manifest.layers.iter().partition(|layer| layer.media_type == signature::MEDIA_TYPE);
    let [component] = layers[..] else {
        return Err(invalid(&format!("has {} layers, but a component has one", layers.len())));
    };
    if !LAYERS.contains(&component.media_type.as_str()) {
        let media_type = printable(&component.media_type);
        return Err(invalid(&format!("has a layer of the type {media_type}, which is not a component")));
    }
    if signatures.len() > 1 {
        return Err(invalid(&format!("has {} signatures, but a component has one", signatures.len())));
    }
    let layer = |descriptor: &OciDescriptor, what, bytes_max| {
        if u64::try_from(descriptor.size).is_ok_and(|bytes| bytes > bytes_max) {
            return Err(too_long(address, what, bytes_max));
        }
        let digits = descriptor.digest.strip_prefix("sha256:").filter(|digits| is_sha256(digits));
        let digest = digits.ok_or_else(|| invalid("names a layer by a digest that is not sha256"))?.to_owned();
        // URLs that a manifest may give for a layer are ignored.
        Ok(Layer { descriptor: OciDescriptor { urls: None, ..descriptor.clone() }, digest, what, bytes_max })
    };
    Ok(Layers {
        component: layer(component, "component", COMPONENT_BYTES_MAX)?,
        signature: signatures.first().map(|found| layer(found, "signature", signature::BYTES_MAX)).transpose()?,
    })
}

/// The credentials for a registry in Docker's configuration; anonymous access if it has none.
fn credentials(file: &Path, address: &Address) -> Result<RegistryAuth> {
    let registry = match address.registry() {
        "docker.io" | "index.docker.io" => "https://index.docker.io/v1/",
        registry => registry,
    };
    let unusable = |why: &str| {
        Error::config(format!("the credentials for {registry} in {} {why}", file.display()))
            .hint(format!("run `docker login {registry}`, or set DOCKER_CONFIG to the folder of another config.json"))
    };
    let open = match std::fs::File::open(file) {
        Ok(open) => std::io::BufReader::new(open),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(RegistryAuth::Anonymous),
        Err(e) => return Err(unusable(&format!("cannot be read: {}", e.kind()))),
    };
    match docker_credential::get_credential_from_reader(open, registry) {
        Ok(DockerCredential::UsernamePassword(user, password)) => Ok(RegistryAuth::Basic(user, password)),
        Ok(DockerCredential::IdentityToken(_)) => Err(unusable("are an identity token, which is not supported")),
        Err(CredentialRetrievalError::NoCredentialConfigured) => Ok(RegistryAuth::Anonymous),
        // Docker's helpers print this and exit with 1 if they have no credentials.
        Err(CredentialRetrievalError::HelperFailure { stdout, .. }) if stdout.contains("credentials not found") => {
            Ok(RegistryAuth::Anonymous)
        }
        // A helper's output may contain a secret.
        Err(CredentialRetrievalError::HelperFailure { helper, .. }) => {
            Err(unusable(&format!("could not be obtained: docker-credential-{} failed", printable(&helper))))
        }
        Err(CredentialRetrievalError::HelperCommunicationError) => {
            Err(unusable("could not be obtained: their credential helper cannot be started"))
        }
        Err(_) => Err(unusable("cannot be parsed")),
    }
}

/// Translates a client's error for the person who configured the component.
fn failure(address: &Address, auth: &RegistryAuth, error: OciDistributionError) -> Error {
    let registry = address.registry();
    let unavailable = |why: &str| {
        Error::unavailable(format!("the registry {registry} cannot be used: {}", printable(why))).hint(
            "try again when the registry is back; a component that was pulled once is cached and needs no registry",
        )
    };
    let refused = || {
        let who = match auth {
            RegistryAuth::Anonymous => "without credentials",
            RegistryAuth::Basic(..) | RegistryAuth::Bearer(_) => "with the credentials of Docker's configuration",
        };
        Error::config(format!("the registry {registry} refuses access {who}")).hint(format!(
            "run `docker login {registry}`, or set DOCKER_CONFIG to a folder whose config.json has access"
        ))
    };
    let absent = || {
        Error::config(format!("the registry {registry} does not have it"))
            .hint("check the repository and the digest, and whether the component was deleted from the registry")
    };
    match error {
        OciDistributionError::UnauthorizedError { .. } | OciDistributionError::AuthenticationFailure(_) => refused(),
        OciDistributionError::ServerError { code: 401 | 403, .. } => refused(),
        OciDistributionError::ImageManifestNotFoundError(_) | OciDistributionError::ServerError { code: 404, .. } => {
            absent()
        }
        OciDistributionError::RegistryError { envelope, .. } => match envelope.errors.first().map(|e| &e.code) {
            Some(OciErrorCode::Unauthorized | OciErrorCode::Denied) => refused(),
            Some(
                OciErrorCode::ManifestUnknown
                | OciErrorCode::ManifestBlobUnknown
                | OciErrorCode::BlobUnknown
                | OciErrorCode::NameUnknown
                | OciErrorCode::NotFound,
            ) => absent(),
            _ => unavailable(&envelope.to_string()),
        },
        OciDistributionError::DigestError(_) => mismatch(address, "manifest"),
        OciDistributionError::ServerError { code, .. } => unavailable(&format!("it answered with {code}")),
        OciDistributionError::RequestError(e) => unavailable(&root_cause(&e)),
        OciDistributionError::IoError(e) => unavailable(&root_cause(&e)),
        other => unavailable(&other.to_string()),
    }
}

/// The innermost cause, which describes the failure. The outer ones only repeat the address.
fn root_cause(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).last().map(ToString::to_string).unwrap_or_default()
}

fn mismatch(address: &Address, what: &str) -> Error {
    let message = format!("the registry {} returned a {what} with another digest", address.registry());
    Error::config(message)
        .hint("nothing was used; the registry is damaged or was tampered with, so check the registry first")
}

fn too_long(address: &Address, what: &str, bytes_max: u64) -> Error {
    Error::config(format!("the {what} {SCHEME}{} is longer than {bytes_max} bytes", address.reference))
        .hint("check that the address names a plugin; even an interpreter with its library has only 18 MB")
}

fn too_slow(address: &Address) -> Error {
    let seconds = PULL_TIME_MAX.as_secs();
    Error::unavailable(format!("the registry {} took longer than {seconds} s", address.registry()))
        .hint("try again, or download the component first and configure its file")
}
