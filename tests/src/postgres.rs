//! A PostgreSQL server for tests that runs as long as its value exists: on a free loopback port and a socket, in a
//! temporary folder, with every statement in a log. It is not durable.

#[cfg(feature = "servers")]
mod certificates;

use anyhow::{Context, Result, bail, ensure};
use std::ffi::OsStr;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Debian's folder of PostgreSQL versions. The variable `POSTGRES_BIN` sets another folder, to test another version.
const PACKAGES: &str = "/usr/lib/postgresql";

/// The user that the server runs as if this process is root, because PostgreSQL refuses root.
const SYSTEM_USER: &str = "postgres";

/// A server starts within a second; a busy machine may take longer.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// The default access rules: the administrator and a standby connect through the socket, everyone else with a password.
const ACCESS: &str =
    "local all,replication postgres trust\nlocal all all scram-sha-256\nhost all all 127.0.0.1/32 scram-sha-256\n";

/// How a server differs from the default.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Lines to add to `postgresql.conf`.
    pub settings: String,
    /// See [`Server::start_private`].
    pub home: Option<PathBuf>,
    /// The complete `pg_hba.conf`.
    pub access: Option<String>,
    /// Serve TLS with a certificate only for `localhost`. This needs the feature `servers`.
    pub tls: bool,
    /// With `tls`: the certificate is self-signed and an authority, as made by `openssl req -x509`.
    pub self_signed: bool,
    /// With `tls`: the certificate is X.509 version 1, as made by `openssl x509 -req` without extensions.
    pub version_1: bool,
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    folder: TempDir,
    /// A copy of the server's programs that its user can read, if they are not installed.
    programs: Option<TempDir>,
    bin: PathBuf,
    owner: Option<(u32, u32)>,
    port: u16,
    process: Child,
}

impl Server {
    /// Starts a default server. If PostgreSQL is not installed, returns `None` and records the skip.
    ///
    /// # Panics
    /// If it is installed but does not start.
    pub fn start() -> Option<Self> {
        Self::start_with(&Options::default())
    }

    /// Starts a server with options. If PostgreSQL is not installed, returns `None` and records the skip.
    ///
    /// # Panics
    /// If it is installed but does not start.
    pub fn start_with(options: &Options) -> Option<Self> {
        let Some(bin) = programs() else {
            crate::skip("no PostgreSQL server is installed");
            return None;
        };
        Some(Self::launch(bin, options).expect("PostgreSQL does not start"))
    }

    /// Starts a default server of the [`newer`] version. If it is not installed, returns `None` and records the skip.
    ///
    /// # Panics
    /// If it is installed but does not start.
    pub fn start_newer() -> Option<Self> {
        let launched = |bin: &Path| {
            let copy = tempfile::Builder::new().prefix("pg-").tempdir()?;
            fs::set_permissions(copy.path(), fs::Permissions::from_mode(0o755))?;
            let installed = bin.parent().context("the path of the programs has no parent folder")?;
            run(Command::new("cp").arg("--recursive").arg(installed).arg(copy.path().join("programs")))?;
            let mut server = Self::launch(copy.path().join("programs/bin"), &Options::default())?;
            server.programs = Some(copy);
            Ok::<_, anyhow::Error>(server)
        };
        match newer() {
            Ok(bin) => Some(launched(&bin).expect("the newer PostgreSQL does not start")),
            Err(why) => {
                crate::skip(&why);
                None
            }
        }
    }

    /// Starts a default server for real data. `home` is made anew, only its owner may enter it, and the cluster is in it.
    /// The server ends with the calling thread, however that ends.
    ///
    /// # Errors
    /// If `home` belongs to somebody else, or the server does not start.
    pub fn start_private(bin: PathBuf, home: &Path) -> Result<Self> {
        Self::launch(bin, &Options { home: Some(home.to_owned()), ..Options::default() })
    }

    fn launch(bin: PathBuf, options: &Options) -> Result<Self> {
        let owner = if rustix::process::geteuid().is_root() { Some(system_user()?) } else { None };
        let folder = match &options.home {
            None => tempfile::Builder::new().prefix("pg-").tempdir()?,
            Some(home) => {
                make_private(home, owner).with_context(|| format!("cannot make the folder {}", home.display()))?;
                tempfile::Builder::new().prefix("pg-").tempdir_in(home)?
            }
        };
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        give(folder.path(), owner)?;
        let data = folder.path().join("data");
        let mut initdb = as_owner(bin.join("initdb"), owner);
        initdb.arg("--pgdata").arg(&data).args(["--username=postgres", "--auth=trust", "--encoding=UTF8"]);
        run(initdb.args(["--locale=C.UTF-8", "--no-sync"]))?;
        if options.tls {
            #[cfg(feature = "servers")]
            certificates::write(folder.path(), owner, options)?;
        }
        fs::write(data.join("pg_hba.conf"), options.access.as_deref().unwrap_or(ACCESS))?;
        let shown = folder.path().display();
        let tls = if options.tls {
            format!(
                "ssl = on\nssl_cert_file = '{shown}/server.crt'\nssl_key_file = '{shown}/server.key'\n\
                 ssl_ca_file = '{shown}/root.crt'\n"
            )
        } else {
            String::new()
        };
        let settings = format!("{tls}{}", options.settings);
        Self::serve(bin, owner, folder, &settings, options.home.is_some())
    }

    /// Starts a standby that follows this server as long as both run.
    ///
    /// # Panics
    /// If it does not start.
    pub fn standby(&self) -> Self {
        let started = || {
            let folder = tempfile::Builder::new().prefix("pg-").tempdir()?;
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
            give(folder.path(), self.owner)?;
            let mut copy = as_owner(self.bin.join("pg_basebackup"), self.owner);
            copy.env("PGHOST", self.socket()).env("PGPORT", self.port.to_string()).env("PGUSER", "postgres");
            run(copy
                .args(["--checkpoint=fast", "--no-sync", "--write-recovery-conf", "--pgdata"])
                .arg(folder.path().join("data")))?;
            Self::serve(self.bin.clone(), self.owner, folder, "", false)
        };
        started().expect("the standby does not start")
    }

    /// Starts a server on an existing data folder. If `is_bound`, it ends with the calling thread.
    fn serve(bin: PathBuf, owner: Option<(u32, u32)>, folder: TempDir, more: &str, is_bound: bool) -> Result<Self> {
        let (data, shown) = (folder.path().join("data"), folder.path().display().to_string());
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let settings = format!(
            "listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = '{shown}'\nfsync = off\n\
             full_page_writes = off\nautovacuum = off\nmax_connections = 40\nlog_statement = all\nlog_min_messages = warning\n\
             log_line_prefix = '%u|%a|'\n{more}\n"
        );
        let mut file = fs::read_to_string(data.join("postgresql.conf"))?;
        file.push_str(&settings);
        fs::write(data.join("postgresql.conf"), file)?;
        let log = fs::File::create(folder.path().join("log"))?;
        let mut postgres = if is_bound {
            let mut bound = as_owner("setpriv", owner);
            bound.args(["--pdeathsig", "INT", "--"]).arg(bin.join("postgres"));
            bound
        } else {
            as_owner(bin.join("postgres"), owner)
        };
        // The extensions of a copy need the libraries shipped with it, not the system's older ones.
        postgres.env("LD_LIBRARY_PATH", bin.join("../lib"));
        let process = postgres.arg("-D").arg(&data).stdout(Stdio::null()).stderr(log).spawn()?;
        let mut server = Self { folder, programs: None, bin, owner, port, process };
        server.wait_until_ready()?;
        Ok(server)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < START_TIMEOUT {
            if let Some(status) = self.process.try_wait()? {
                bail!("the server ended with {status}: {}", self.log());
            }
            let mut ready = as_owner(self.bin.join("pg_isready"), None);
            if ready.arg("-q").arg("-h").arg(self.socket()).arg("-p").arg(self.port.to_string()).status()?.success() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("the server is not ready after {START_TIMEOUT:?}: {}", self.log())
    }

    /// The folder of the socket. Through it, only `postgres` needs no password.
    pub fn socket(&self) -> &Path {
        self.folder.path()
    }

    /// The TCP port on 127.0.0.1, which is also the number of the socket.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The programs of the server's version.
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// The log so far, with lines of the form `user|application|LEVEL:  …`.
    pub fn log(&self) -> String {
        fs::read(self.folder.path().join("log"))
            .map_or_else(|_| String::new(), |log| String::from_utf8_lossy(&log).into_owned())
    }

    /// The certificate that signed the server's.
    pub fn root_certificate(&self) -> PathBuf {
        self.folder.path().join("root.crt")
    }

    /// The server's own certificate.
    pub fn server_certificate(&self) -> PathBuf {
        self.folder.path().join("server.crt")
    }

    /// A certificate for the role `reader` and its key, signed by the same root certificate.
    pub fn client_certificate(&self) -> (PathBuf, PathBuf) {
        (self.folder.path().join("client.crt"), self.folder.path().join("client.key"))
    }

    /// A root certificate that signed nothing.
    pub fn stranger_certificate(&self) -> PathBuf {
        self.folder.path().join("stranger.crt")
    }

    /// Runs statements as the administrator, each in its own transaction. Returns their output, unaligned and without
    /// headers.
    ///
    /// # Panics
    /// If a statement fails.
    pub fn psql(&self, database: &str, sql: &str) -> String {
        let mut psql = self.client("psql");
        psql.args(["--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1"]);
        let input = self.folder.path().join("input.sql");
        fs::write(&input, sql).expect("the statements cannot be written");
        run(psql.arg("--dbname").arg(connection_string(database)).arg("--file").arg(&input)).expect("psql failed")
    }

    /// Creates an empty database.
    ///
    /// # Panics
    /// If it cannot be created.
    pub fn create_database(&self, name: &str, arguments: &[&str]) {
        let mut createdb = self.client("createdb");
        run(createdb.arg("--template=template0").args(arguments).arg("--").arg(name)).expect("createdb failed");
    }

    /// Restores a dump into an empty database in the documented way.
    ///
    /// # Panics
    /// If any part of it cannot be restored.
    pub fn restore(&self, database: &str, dump: &Path) {
        let mut restore = self.client("pg_restore");
        restore.args(["--no-owner", "--no-acl", "--exit-on-error", "--single-transaction"]);
        run(restore.arg("--dbname").arg(connection_string(database)).arg(dump)).expect("pg_restore failed");
    }

    /// A client program that connects as the administrator.
    pub fn client(&self, program: impl AsRef<Path>) -> Command {
        let mut command = as_owner(self.bin.join(program), None);
        command.env("PGHOST", self.socket()).env("PGPORT", self.port.to_string()).env("PGUSER", "postgres");
        command
    }

    /// The user and group that own the files, if the test runs as a different user.
    pub const fn owner(&self) -> Option<(u32, u32)> {
        self.owner
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.process.id().cast_signed()) {
            // SIGQUIT ends every connection at once and writes nothing.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::QUIT);
        }
        drop(self.process.wait());
    }
}

/// The programs of a newer PostgreSQL than the distribution's, built with zstd, or the reason for skipping tests that
/// need them.
pub fn newer() -> Result<PathBuf, String> {
    let cache = crate::cache_folder().ok_or("no cache folder is known, so a newer PostgreSQL is missing")?;
    let bin = cache.join(format!("postgresql-{}/bin", crate::NEWER_POSTGRES_VERSION));
    let runs = |program: &&str| {
        let mut command = Command::new(bin.join(program));
        command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    // They are binaries for one kind of machine and need its libraries.
    match ["pg_dump", "pg_restore"].iter().find(|program| !runs(program)) {
        None => Ok(bin),
        Some(program) => {
            Err(format!("no newer PostgreSQL is installed: {} cannot be run", bin.join(program).display()))
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the variable selects the PostgreSQL to test")]
fn programs() -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os("POSTGRES_BIN") {
        return Some(folder.into());
    }
    let mut versions: Vec<_> = fs::read_dir(PACKAGES).ok()?.flatten().map(|entry| entry.path().join("bin")).collect();
    versions
        .retain(|bin| ["initdb", "postgres", "psql", "pg_restore"].iter().all(|program| bin.join(program).is_file()));
    versions.sort();
    versions.pop()
}

fn system_user() -> Result<(u32, u32)> {
    let id = |flag: &str| -> Result<u32> {
        let text = run(Command::new("id").arg(flag).arg(SYSTEM_USER))?;
        text.trim().parse().context("id did not print a number")
    };
    Ok((id("-u")?, id("-g")?))
}

fn as_owner(program: impl AsRef<OsStr>, owner: Option<(u32, u32)>) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .stdin(Stdio::null())
        .current_dir("/");
    if let Some((user, group)) = owner {
        command.uid(user).gid(group);
    }
    command
}

/// A database name in a form that libpq does not take for another connection string.
fn connection_string(database: &str) -> String {
    format!("dbname='{}'", database.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// Makes an empty folder that only the owner may enter, in place of an earlier one.
fn make_private(home: &Path, owner: Option<(u32, u32)>) -> std::io::Result<()> {
    if let Err(error) = fs::remove_dir_all(home)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Err(error);
    }
    fs::DirBuilder::new().mode(0o700).create(home)?;
    if let Some((user, group)) = owner { chown(home, Some(user), Some(group)) } else { Ok(()) }
}

fn give(path: &Path, owner: Option<(u32, u32)>) -> Result<()> {
    if let Some((user, group)) = owner {
        chown(path, Some(user), Some(group))?;
    }
    Ok(())
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} ended with {}: {stderr}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}
