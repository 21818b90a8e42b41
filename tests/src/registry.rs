//! A real registry: Debian's `docker-registry` on a free loopback port, with its own folder for blobs.
//!
//! It cannot be reached over the network, and a test that ends, passing or failing, leaves nothing behind.

use anyhow::{Context, Result, bail, ensure};
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::manifest::{OciDescriptor, OciImageManifest};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference, RegistryOperation};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Debian's path of the program, in the system or in the cache folder into which `cargo xtask test` unpacks it.
const PROGRAM: &str = "usr/bin/docker-registry";

/// The registry starts within a second; a busy machine may take longer.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A start can lose its port to another process between choosing and binding it.
const START_ATTEMPTS_MAX: u32 = 3;

/// [`PASSWORD`] in the format of Apache's htpasswd. The registry accepts only bcrypt; its lowest cost suffices for
/// tests.
const PASSWORD_HASH: &str = "$2a$04$GKm7gtx5KTiju2uL1mLUFeqp7eW1CQY3RlxaYgtH.RZtnjTrso9vi";

/// The user of a registry with a password.
pub const USER: &str = "puller";

/// The password. It may occur only in the credentials file.
pub const PASSWORD: &str = "canary-registry-7d21";

/// A running registry. Dropping it ends the process and removes its data.
#[derive(Debug)]
pub struct Registry {
    server: Child,
    folder: tempfile::TempDir,
    port: u16,
    auth: RegistryAuth,
}

/// An artifact to push.
#[derive(Debug, Clone)]
pub struct Artifact<'a> {
    /// The layers with their media types. A component has one layer.
    pub layers: Vec<(&'a str, Vec<u8>)>,
    /// The media type and text of the configuration.
    pub config: (&'a str, &'a str),
}

impl<'a> Artifact<'a> {
    /// A component in the form in which `wkg` pushes it.
    pub fn component(bytes: &[u8]) -> Self {
        Self::of("application/wasm", bytes)
    }

    /// One layer of a media type.
    pub fn of(media_type: &'a str, bytes: &[u8]) -> Self {
        let config = ("application/vnd.wasm.config.v0+json", "{\"architecture\":\"wasm\",\"os\":\"wasip2\"}");
        Self { layers: vec![(media_type, bytes.to_vec())], config }
    }
}

impl Registry {
    /// Starts a registry without a password. If it is not installed, returns `None` and records the skip.
    ///
    /// # Panics
    /// If it is installed but does not start.
    pub fn start() -> Option<Self> {
        Self::launch(RegistryAuth::Anonymous)
    }

    /// Starts a registry that requires [`USER`] and [`PASSWORD`].
    ///
    /// # Panics
    /// As [`Registry::start`].
    pub fn start_with_password() -> Option<Self> {
        Self::launch(RegistryAuth::Basic(USER.into(), PASSWORD.into()))
    }

    fn launch(auth: RegistryAuth) -> Option<Self> {
        let unpacked = crate::cache_folder().map(|cache| cache.join("docker-registry"));
        let roots = [Some(PathBuf::from("/")), unpacked];
        let Some(program) = roots.into_iter().flatten().map(|root| root.join(PROGRAM)).find(|file| file.is_file())
        else {
            crate::skip("docker-registry is not installed; `cargo xtask test` fetches it");
            return None;
        };
        let started = (1..=START_ATTEMPTS_MAX).map(|_| Self::try_start(&program, auth.clone()));
        let mut failed = Vec::new();
        for attempt in started {
            match attempt {
                Ok(registry) => return Some(registry),
                Err(error) => failed.push(error),
            }
        }
        panic!("the registry does not start: {failed:#?}");
    }

    fn try_start(program: &Path, auth: RegistryAuth) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let at = folder.path().display();
        let mut config = format!(
            "version: 0.1\nlog: {{ level: warn }}\nstorage:\n  filesystem: {{ rootdirectory: {at}/data }}\n\
             http: {{ addr: \"127.0.0.1:{port}\" }}\n"
        );
        if auth != RegistryAuth::Anonymous {
            std::fs::write(folder.path().join("htpasswd"), format!("{USER}:{PASSWORD_HASH}\n"))?;
            let _ = writeln!(config, "auth: {{ htpasswd: {{ realm: tests, path: {at}/htpasswd }} }}");
        }
        let file = folder.path().join("config.yml");
        std::fs::write(&file, config)?;
        let log = std::fs::File::create(folder.path().join("log"))?;
        let mut command = Command::new(program);
        command.arg("serve").arg(&file).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let server = command.spawn().context("docker-registry cannot be started")?;
        let mut registry = Self { server, folder, port, auth };
        registry.wait_until_ready()?;
        Ok(registry)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < START_TIMEOUT {
            if let Some(status) = self.server.try_wait()? {
                let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
                bail!("docker-registry ended with {status} while starting:\n{log}");
            }
            if TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("docker-registry was not ready after {} s", START_TIMEOUT.as_secs())
    }

    /// The registry's name in an address: `127.0.0.1:port`.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Pushes an artifact with the tag `latest`, and returns its address by digest: `oci://…@sha256:…`.
    ///
    /// # Panics
    /// If the registry refuses it.
    pub fn push(&self, repository: &str, artifact: &Artifact<'_>) -> String {
        let reference = Reference::with_tag(self.host(), repository.into(), "latest".into());
        let pushed = std::thread::scope(|scope| {
            let push = || -> Result<String> {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(self.push_to(&reference, artifact))
            };
            scope.spawn(push).join().expect("the push does not panic")
        });
        let digest = pushed.unwrap_or_else(|e| panic!("cannot push to {reference}: {e:#}"));
        format!("oci://{}/{repository}@sha256:{digest}", self.host())
    }

    async fn push_to(&self, reference: &Reference, artifact: &Artifact<'_>) -> Result<String> {
        drop(rustls::crypto::ring::default_provider().install_default());
        let client = Client::try_from(ClientConfig { protocol: ClientProtocol::Http, ..ClientConfig::default() })?;
        client.auth(reference, &self.auth, RegistryOperation::Push).await?;
        let mut layers = Vec::new();
        for (media_type, bytes) in &artifact.layers {
            layers.push(push_blob(&client, reference, media_type, bytes).await?);
        }
        let config = push_blob(&client, reference, artifact.config.0, artifact.config.1.as_bytes()).await?;
        let manifest = OciImageManifest {
            media_type: Some("application/vnd.oci.image.manifest.v1+json".into()),
            config,
            layers,
            ..OciImageManifest::default()
        };
        let body = serde_json::to_vec(&manifest)?;
        let digest = hex::encode(Sha256::digest(&body));
        client.push_manifest_raw(reference, body, "application/vnd.oci.image.manifest.v1+json".parse()?).await?;
        ensure!(self.blob(&digest).is_file(), "the registry did not store the manifest at the expected path");
        Ok(digest)
    }

    /// The file in which the registry stores a blob, by its hexadecimal sha256. Tests can tamper with it.
    pub fn blob(&self, digest: &str) -> PathBuf {
        let blobs = self.folder.path().join("data/docker/registry/v2/blobs/sha256");
        blobs.join(digest.get(..2).unwrap_or_default()).join(digest).join("data")
    }

    /// Stops the registry. Its address stays the same but no longer answers.
    pub fn stop(&mut self) {
        drop(self.server.kill());
        drop(self.server.wait());
    }
}

async fn push_blob(client: &Client, to: &Reference, media_type: &str, bytes: &[u8]) -> Result<OciDescriptor> {
    let digest = format!("sha256:{}", hex::encode(Sha256::digest(bytes)));
    client.push_blob(to, bytes.to_vec(), &digest).await?;
    let size = i64::try_from(bytes.len())?;
    Ok(OciDescriptor { media_type: media_type.into(), digest, size, ..OciDescriptor::default() })
}

/// Writes a `config.json` as `docker login` does, and returns its path.
///
/// # Panics
/// If it cannot be written.
pub fn docker_config(folder: &Path, host: &str, user: &str, password: &str) -> PathBuf {
    use base64::Engine as _;
    let auth = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    let file = folder.join("config.json");
    let text = serde_json::json!({ "auths": { host: { "auth": auth } } }).to_string();
    std::fs::write(&file, text).expect("a writable folder");
    file
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop();
    }
}
