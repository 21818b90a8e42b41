//! A throwaway PostgreSQL server for restoring and checking a dump. It runs until its value is dropped.
//!
//! The server uses the installed binaries and its own directory. It listens only on a socket in that directory, never
//! runs as root, and is not durable. Dropping the value removes the server and its directory. If a process is killed,
//! nobody holds the lock in its directory any more, and the next process removes what it left behind.

mod administer;

use super::client::Dialer;
use super::dump::summarize;
use super::program::{self, Program};
use super::{DatabaseConfig, SslMode};
use base::error::{Error, Result};
use base::scratch::{self, LOCK};
use base::secret::SecretSource;
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// Prefix of the directory's name.
const PREFIX: &str = "dolibarr-backup-pg-";

/// The subdirectory that belongs to the server's user.
const SERVER: &str = "server";

/// Users that the server may run as if this process is root. The first one that exists is used.
const USERS: [&str; 2] = ["postgres", "nobody"];

/// The administrator of the new server. It creates the [`USER`] and runs the statements of [`administer`].
const ADMINISTRATOR: &str = "postgres";

/// The user who restores. It runs the statements of a dump, so it may create databases but cannot reach anything
/// outside them: no programs, no files, no untrusted languages.
const USER: &str = "dolibarr_backup";

/// Timeout for the start of the server. It usually takes less than a second; a busy machine may take longer.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Timeout for `initdb`, which usually takes a second.
const INITDB_TIMEOUT: Duration = Duration::from_secs(120);

/// Timeout for an immediate shutdown.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// How often to check whether the server has started or exited.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Maximum length of the path of a Unix socket, set by the kernel.
const SOCKET_BYTES_MAX: usize = 107;

/// The port number in the socket's name.
const PORT: u16 = 5432;

/// The data does not outlive the value, so durability is off. Only this process may connect.
const SETTINGS: &str = "listen_addresses = ''\nunix_socket_permissions = 0700\nfsync = off\nsynchronous_commit = off\n\
    full_page_writes = off\nwal_level = minimal\nmax_wal_senders = 0\nautovacuum = off\nmax_connections = 40\n\
    maintenance_work_mem = 128MB\nmax_wal_size = 4GB\nlog_min_messages = warning\n";

/// A running server.
#[derive(Debug)]
pub struct Throwaway {
    folder: Folder,
    process: Child,
    major: u32,
}

/// The directory of the server. Dropping the value removes it.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
    /// The lock is held as long as the file is open. The kernel releases it when this process ends for any reason.
    _lock: File,
}

impl Throwaway {
    /// Removes leftovers of killed processes, and starts a server in the version that fits the dump best: the oldest
    /// installed one that is not older than the dumped server, so that it prints definitions as similarly as possible.
    ///
    /// # Errors
    /// Class `Config` if no such server is installed or this process may not start one.
    pub async fn start(dumped_version: &str, scratch: &Path) -> Result<Self> {
        let wanted = program::major(dumped_version).unwrap_or(super::SERVER_MAJOR_MIN);
        let fitting = program::servers().await.into_iter().filter(|(major, _)| *major >= wanted);
        let Some((major, bin)) = fitting.min_by_key(|(major, _)| *major) else {
            return Err(Error::config(format!("no PostgreSQL server of version {wanted} or later is installed here"))
                .hint(format!("install postgresql-{wanted}, or choose a server with --server")));
        };
        let user = other_user()?;
        sweep(scratch);
        let folder = Folder::make(scratch, user)?;
        let server = folder.path.join(SERVER);
        initialise(&bin, &server, user).await?;
        let log = File::create(folder.path.join("log")).map_err(|e| unusable(&folder.path, &e))?;
        let mut postgres = command(&bin.join("postgres"), user).into_std();
        postgres.arg("-D").arg(server.join("data")).stdout(Stdio::null()).stderr(log);
        // Ctrl-C in a terminal signals the whole process group, but this server must end only when it is dropped.
        let process = postgres.process_group(0).spawn().map_err(|e| cannot_start(&e))?;
        let mut started = Self { folder, process, major };
        started.wait_until_ready().await?;
        tracing::debug!(major, folder = %started.folder.path.display(), "the throwaway server is ready");
        Ok(started)
    }

    /// The configuration for connecting to one of the server's databases.
    pub fn config(&self, database: &str) -> DatabaseConfig {
        self.config_as(USER, database)
    }

    fn config_as(&self, user: &str, database: &str) -> DatabaseConfig {
        let host = self.folder.path.join(SERVER).to_string_lossy().into_owned();
        let credentials = SecretSource { user: Some(user.to_owned()), ..SecretSource::default() };
        DatabaseConfig { ssl_mode: SslMode::Disable, ..DatabaseConfig::new(host, PORT, database, credentials) }
    }

    /// The major version of the server.
    pub const fn major(&self) -> u32 {
        self.major
    }

    async fn wait_until_ready(&mut self) -> Result<()> {
        let begun = Instant::now();
        let dialer = Dialer::for_restore(&self.config_as(ADMINISTRATOR, "postgres"))?;
        loop {
            if let Ok(Some(status)) = self.process.try_wait() {
                return Err(Error::unexpected(format!("the throwaway server ended with {status}: {}", self.log())));
            }
            if let Ok(connection) = dialer.connect().await {
                let made = connection.execute(&format!("CREATE ROLE {USER} LOGIN CREATEDB")).await;
                return made.map_err(|refused| refused.error);
            }
            if begun.elapsed() > START_TIMEOUT {
                let text =
                    format!("the throwaway server is not ready after {} s: {}", START_TIMEOUT.as_secs(), self.log());
                return Err(Error::unavailable(text));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    fn log(&self) -> String {
        let log = std::fs::read(self.folder.path.join("log")).unwrap_or_default();
        summarize(&String::from_utf8_lossy(&log))
    }
}

impl Drop for Throwaway {
    fn drop(&mut self) {
        let begun = Instant::now();
        // SIGQUIT is an immediate shutdown: all connections end at once and nothing more is written. After that, the
        // directory is removed.
        signal(self.process.id(), Signal::QUIT);
        while begun.elapsed() < END_TIMEOUT && matches!(self.process.try_wait(), Ok(None)) {
            std::thread::sleep(POLL_INTERVAL);
        }
        if matches!(self.process.try_wait(), Ok(None)) {
            drop(self.process.kill());
            drop(self.process.wait());
        }
    }
}

impl Folder {
    fn make(scratch: &Path, user: Option<(u32, u32)>) -> Result<Self> {
        let failed = |error: io::Error| unusable(scratch, &error);
        let path = tempfile::Builder::new().prefix(PREFIX).tempdir_in(scratch).map_err(failed)?.keep();
        let made = Self::fill(&path, user);
        let lock = made.map_err(|error| {
            drop(std::fs::remove_dir_all(&path));
            unusable(&path, &error)
        })?;
        let folder = Self { path, _lock: lock };
        let socket = folder.path.join(SERVER).join(format!(".s.PGSQL.{PORT}"));
        if socket.as_os_str().len() > SOCKET_BYTES_MAX {
            return Err(Error::config(format!("the path of {} is too long for a socket", scratch.display()))
                .hint("choose another directory with --scratch"));
        }
        Ok(folder)
    }

    fn fill(path: &Path, user: Option<(u32, u32)>) -> io::Result<File> {
        let lock = File::create(path.join(LOCK))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        let server = path.join(SERVER);
        std::fs::create_dir(&server)?;
        std::fs::set_permissions(&server, Permissions::from_mode(0o700))?;
        if let Some((uid, gid)) = user {
            // The server's user must be able to enter its own subdirectory, and nothing else.
            std::fs::set_permissions(path, Permissions::from_mode(0o711))?;
            chown(&server, Some(uid), Some(gid))?;
        }
        Ok(lock)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        match std::fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!("{} cannot be removed: {}", self.path.display(), error.kind());
            }
            _ => {}
        }
    }
}

/// Creates the server's data directory.
async fn initialise(bin: &Path, server: &Path, user: Option<(u32, u32)>) -> Result<()> {
    let data = server.join("data");
    let mut initdb = command(&bin.join("initdb"), user);
    initdb.arg("--pgdata").arg(&data).args(["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]);
    initdb.arg(format!("--username={ADMINISTRATOR}"));
    let output = tokio::time::timeout(INITDB_TIMEOUT, initdb.output()).await;
    let output = output.map_err(|_| Error::unexpected("initdb does not exit"))?.map_err(|e| cannot_start(&e))?;
    if !output.status.success() {
        let stderr = summarize(&String::from_utf8_lossy(&output.stderr));
        return Err(Error::config(format!("the throwaway server cannot be created: {stderr}")).hint(
            "choose a directory with enough space that every user may enter with --scratch, or a server with --server",
        ));
    }
    let mut settings = std::fs::read_to_string(data.join("postgresql.conf")).map_err(|e| unusable(&data, &e))?;
    let socket = server.to_string_lossy().replace('\'', "''");
    settings.push_str(&format!("{SETTINGS}port = {PORT}\nunix_socket_directories = '{socket}'\n"));
    std::fs::write(data.join("postgresql.conf"), settings).map_err(|e| unusable(&data, &e))
}

/// A command that runs a program of the server as the server's user.
fn command(program: &Path, user: Option<(u32, u32)>) -> tokio::process::Command {
    let mut command = Program::command(program);
    command.env("TZ", "UTC").current_dir("/");
    if let Some((uid, gid)) = user {
        command.uid(uid).gid(gid);
    }
    command
}

/// The user and group that the server runs as. `None` if this process is not root.
fn other_user() -> Result<Option<(u32, u32)>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    USERS.iter().find_map(|name| ids(&users, name)).map(Some).ok_or_else(|| {
        Error::config("PostgreSQL refuses to run as root, and neither user `postgres` nor user `nobody` exists")
            .hint("run this program as another user, or choose a server with --server")
    })
}

/// The user and group IDs of a user in the text of `/etc/passwd`. `None` for root.
fn ids(users: &str, name: &str) -> Option<(u32, u32)> {
    let fields: Vec<&str> =
        users.lines().map(|l| l.split(':').collect()).find(|f: &Vec<&str>| f.first() == Some(&name))?;
    let id = |at: usize| fields.get(at)?.parse::<u32>().ok();
    let ids = (id(2)?, id(3)?);
    (ids.0 != 0).then_some(ids)
}

fn cannot_start(error: &io::Error) -> Error {
    Error::config(format!("the throwaway server cannot be started: {}", error.kind())).hint(
        "PostgreSQL refuses to run as root: allow this process to become `postgres` (CAP_SETUID, CAP_SETGID), run it \
         as another user, or choose a server with --server",
    )
}

fn unusable(place: &Path, error: &io::Error) -> Error {
    Error::config(format!("{} cannot be used for the throwaway server: {}", place.display(), error.kind()))
        .hint("choose a directory that this user may write to with --scratch")
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
        // The process may already have exited, which is fine.
        let _ = kill_process(pid, signal);
    }
}

/// Removes the servers of processes that no longer exist. Servers in use and directories of other users are kept.
pub(super) fn sweep(scratch: &Path) {
    scratch::sweep_after(scratch, PREFIX, |folder| {
        let data = folder.join(SERVER).join("data");
        let Some(pid) = running(&data) else { return };
        signal(pid, Signal::QUIT);
        let begun = Instant::now();
        while begun.elapsed() < END_TIMEOUT && running(&data).is_some() {
            std::thread::sleep(POLL_INTERVAL);
        }
    });
}

/// The server process of a data directory: the one in its PID file, if its command line contains the directory.
fn running(data: &Path) -> Option<u32> {
    let text = std::fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let pid: u32 = text.lines().next()?.trim().parse().ok()?;
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let named = command.split(|byte| *byte == 0).any(|argument| argument == data.as_os_str().as_encoded_bytes());
    named.then_some(pid)
}

#[cfg(test)]
mod tests;
