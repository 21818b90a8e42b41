//! A real S3 server: Garage on free loopback ports, with one bucket and one key, in its own process and folder.
//!
//! It cannot be reached over the network, and a test that ends, passing or failing, leaves nothing behind.

use anyhow::{Context, Result, bail};
use rand::RngExt;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// The server's version, which is part of the name of its folder in the cache.
pub const VERSION: &str = "2.5.0";

/// How long to wait for the server to start. It takes about a second on an idle machine.
const START_SECONDS_MAX: u64 = 30;

/// A start can lose its ports to another process between choosing and binding them.
const START_ATTEMPTS_MAX: u32 = 3;

/// A running server. Dropping it ends the process and removes its data.
#[derive(Debug)]
pub struct Garage {
    server: Child,
    folder: tempfile::TempDir,
    port: u16,
    key_id: String,
    secret: String,
}

/// The server's program, or the reason for skipping tests that need it.
pub fn program() -> Result<PathBuf, String> {
    let cache = variable("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| variable("HOME").map(|home| Path::new(&home).join(".cache")));
    let cache = cache.ok_or("neither XDG_CACHE_HOME nor HOME is set, so Garage cannot be found")?;
    let program = cache.join(format!("dolibarr-backup/garage-{VERSION}/bin/garage"));
    if program.is_file() { Ok(program) } else { Err(format!("Garage is not installed at {}", program.display())) }
}

#[expect(clippy::disallowed_methods, reason = "the harness finds programs in the user's cache")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Random bytes in hexadecimal.
fn random_hex(bytes: usize) -> String {
    hex::encode((0..bytes).map(|_| rand::rng().random::<u8>()).collect::<Vec<_>>())
}

impl Garage {
    /// Starts a new server.
    ///
    /// # Errors
    /// If it is not installed or does not start.
    pub fn start() -> Result<Self> {
        let program = program().map_err(anyhow::Error::msg)?;
        let mut failure = anyhow::anyhow!("garage was never started");
        for _ in 0..START_ATTEMPTS_MAX {
            match Self::try_start(&program) {
                Ok(garage) => return Ok(garage),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// The server that the tests of this process share. The first caller starts it, and it ends when the last holder
    /// drops it.
    ///
    /// # Errors
    /// If it is not installed or does not start.
    pub fn shared() -> Result<Arc<Self>> {
        static SHARED: Mutex<Weak<Garage>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(garage) = shared.upgrade() {
            return Ok(garage);
        }
        let garage = Arc::new(Self::start()?);
        *shared = Arc::downgrade(&garage);
        Ok(garage)
    }

    fn try_start(program: &Path) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let (port, rpc_port) = {
            let first = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let second = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            (first.local_addr()?.port(), second.local_addr()?.port())
        };
        let configuration = folder.path().join("garage.toml");
        let at = folder.path().display();
        std::fs::write(
            &configuration,
            format!(
                "metadata_dir = \"{at}/meta\"\ndata_dir = \"{at}/data\"\ndb_engine = \"sqlite\"\nreplication_factor = 1\n\
                 metadata_fsync = false\ndata_fsync = false\ncompression_level = \"none\"\n\
                 rpc_bind_addr = \"127.0.0.1:{rpc_port}\"\nrpc_public_addr = \"127.0.0.1:{rpc_port}\"\n\
                 rpc_secret = \"{}\"\n[s3_api]\ns3_region = \"{}\"\napi_bind_addr = \"127.0.0.1:{port}\"\n",
                random_hex(32),
                Self::REGION
            ),
        )?;
        restrict(&configuration)?;
        let (key_id, secret) = (format!("GK{}", random_hex(12)), random_hex(32));
        let credentials = folder.path().join("credentials");
        std::fs::create_dir(&credentials)?;
        std::fs::write(credentials.join("AWS_ACCESS_KEY_ID"), &key_id)?;
        std::fs::write(credentials.join("AWS_SECRET_ACCESS_KEY"), &secret)?;
        let log = std::fs::File::create(folder.path().join("log"))?;
        let server = Command::new(program)
            .arg("-c")
            .arg(&configuration)
            .args(["server", "--single-node", "--default-bucket"])
            .env("GARAGE_DEFAULT_ACCESS_KEY", &key_id)
            .env("GARAGE_DEFAULT_SECRET_KEY", &secret)
            .env("GARAGE_DEFAULT_BUCKET", Self::BUCKET)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("garage cannot be started")?;
        let mut garage = Self { server, folder, port, key_id, secret };
        garage.wait_until_ready(program, &configuration)?;
        Ok(garage)
    }

    fn wait_until_ready(&mut self, program: &Path, configuration: &Path) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(START_SECONDS_MAX) {
            if let Some(status) = self.server.try_wait()? {
                bail!("garage ended with {status} while starting:\n{}", self.log());
            }
            let mut ask = Command::new(program);
            ask.arg("-c").arg(configuration).args(["bucket", "info", Self::BUCKET]);
            let ready = ask.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?.success();
            if ready && std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("garage was not ready after {START_SECONDS_MAX} s:\n{}", self.log())
    }

    /// Creates another bucket with its own key, which has no rights in any other bucket. Returns the folder with the
    /// key as files.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn other_bucket(&self, bucket: &str) -> Result<PathBuf> {
        let (key_id, secret) = (format!("GK{}", random_hex(12)), random_hex(32));
        let credentials = self.folder.path().join(format!("credentials-{bucket}"));
        std::fs::create_dir(&credentials)?;
        std::fs::write(credentials.join("AWS_ACCESS_KEY_ID"), &key_id)?;
        std::fs::write(credentials.join("AWS_SECRET_ACCESS_KEY"), &secret)?;
        self.administer(&["bucket", "create", bucket])?;
        self.administer(&["key", "import", "--yes", "-n", bucket, &key_id, &secret])?;
        self.administer(&["bucket", "allow", "--read", "--write", bucket, "--key", &key_id])?;
        Ok(credentials)
    }

    fn administer(&self, arguments: &[&str]) -> Result<()> {
        let program = program().map_err(anyhow::Error::msg)?;
        let mut command = Command::new(program);
        command.arg("-c").arg(self.folder.path().join("garage.toml")).args(arguments).stdin(Stdio::null());
        let output = command.output().context("garage cannot be started")?;
        // The error shows only the first two words, so never the secret.
        let done = output.status.success();
        if done {
            Ok(())
        } else {
            bail!("garage {} {}: {}", arguments[0], arguments[1], String::from_utf8_lossy(&output.stderr))
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// The default bucket.
    pub const BUCKET: &str = "backup";

    /// The region for which requests must be signed.
    pub const REGION: &str = "garage";

    /// The port of the S3 interface on 127.0.0.1.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The URL of the S3 interface.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// A folder with the key as files, as Kubernetes mounts a Secret.
    pub fn credentials(&self) -> PathBuf {
        self.folder.path().join("credentials")
    }

    /// The key's id.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// The key's secret.
    pub fn secret(&self) -> &str {
        &self.secret
    }
}

/// Makes a file private, because Garage refuses a configuration with a secret that others can read.
fn restrict(file: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600))?)
}

impl Drop for Garage {
    fn drop(&mut self) {
        drop(self.server.kill());
        drop(self.server.wait());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_server_leaves_neither_a_process_nor_a_folder() {
        if let Err(why) = program() {
            crate::skip(&why);
            return;
        }
        let garage = Garage::start().unwrap();
        let (port, folder) = (garage.port(), garage.credentials());
        assert!(std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok());
        drop(garage);
        assert!(std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err());
        assert!(!folder.exists());
    }
}
