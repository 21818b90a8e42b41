//! A PostgreSQL server that lives as long as its value: to restore a dump into, to look at it, and to forget it.
//!
//! It runs from the installed binaries in a folder of its own, listens on a socket in there and on no network, is never
//! root, and promises no durability. When its value goes, server and folder go. What a killed process leaves behind is
//! told by a lock that nobody holds any more, and the next one sweeps it.

mod administer;

use super::client::Dialer;
use super::dump::gist;
use super::program::{self, Program};
use super::{Config, SslMode};
use base::error::{Error, Result};
use base::scratch::{self, LOCK};
use base::secret::Source;
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// How the folder's name begins.
const PREFIX: &str = "dolibarr-backup-pg-";

/// What belongs to the server's user.
const SERVER: &str = "server";

/// Users that a server may run as where this process is root, the first that there is.
const USERS: [&str; 2] = ["postgres", "nobody"];

/// The administrator of the new server, who makes the [`USER`], and what [`administer`] says.
const ADMINISTRATOR: &str = "postgres";

/// Who restores. What a dump says is run by this user, who may make databases and nothing that reaches beyond them: no program,
/// no file, no untrusted language.
const USER: &str = "dolibarr_backup";

/// A server starts within a second; a busy machine may take longer.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Time for `initdb`, which takes a second.
const INITDB_TIMEOUT: Duration = Duration::from_secs(120);

/// How long a server may take to end once it was told to end at once.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a start or an end is looked for.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Longest path of a Unix socket, by the kernel.
const SOCKET_BYTES_MAX: usize = 107;

/// The socket's number, and the longest end of its path.
const PORT: u16 = 5432;

/// Nothing outlives the value, so nothing is made safe; and nobody but this process may connect.
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

/// The folder, which is removed when its value goes.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
    /// Held by the open file, and by nobody once this process is gone, however it went.
    _lock: File,
}

impl Throwaway {
    /// Sweeps what others left, and starts a server of the version that fits a dump best: the oldest that is not older
    /// than the server it was made of, so that what it says of definitions can be compared.
    ///
    /// # Errors
    /// Class `Config` where none is installed or this process may not start one, saying why.
    pub async fn start(dumped_version: &str, scratch: &Path) -> Result<Self> {
        let wanted = program::major(dumped_version).unwrap_or(super::SERVER_MAJOR_MIN);
        let fitting = program::servers().await.into_iter().filter(|(major, _)| *major >= wanted);
        let Some((major, bin)) = fitting.min_by_key(|(major, _)| *major) else {
            return Err(Error::config(format!("no PostgreSQL server of version {wanted} or newer is installed here"))
                .hint(format!("install postgresql-{wanted}, or name a server with --server")));
        };
        let user = other_user()?;
        sweep(scratch);
        let folder = Folder::make(scratch, user)?;
        let server = folder.path.join(SERVER);
        initialise(&bin, &server, user).await?;
        let log = File::create(folder.path.join("log")).map_err(|e| cannot(&folder.path, &e))?;
        let mut postgres = command(&bin.join("postgres"), user).into_std();
        postgres.arg("-D").arg(server.join("data")).stdout(Stdio::null()).stderr(log);
        // Ctrl-C in a terminal reaches the whole group, and this one is ended by its owner.
        let process = postgres.process_group(0).spawn().map_err(|e| not_allowed(&e))?;
        let mut started = Self { folder, process, major };
        started.wait_until_ready().await?;
        tracing::debug!(major, folder = %started.folder.path.display(), "a throwaway server is ready");
        Ok(started)
    }

    /// How to reach one of its databases.
    #[must_use]
    pub fn config(&self, database: &str) -> Config {
        self.config_as(USER, database)
    }

    fn config_as(&self, user: &str, database: &str) -> Config {
        let host = self.folder.path.join(SERVER).to_string_lossy().into_owned();
        let credentials = Source { user: Some(user.to_owned()), ..Source::default() };
        Config { ssl_mode: SslMode::Disable, ..Config::new(host, PORT, database, credentials) }
    }

    /// Its major version.
    #[must_use]
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
        gist(&String::from_utf8_lossy(&log))
    }
}

impl Drop for Throwaway {
    fn drop(&mut self) {
        let begun = Instant::now();
        // Quit: every connection ends at once and nothing is written any more. The folder goes after it.
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
        let failed = |error: io::Error| cannot(scratch, &error);
        let path = tempfile::Builder::new().prefix(PREFIX).tempdir_in(scratch).map_err(failed)?.keep();
        let made = Self::fill(&path, user);
        let lock = made.map_err(|error| {
            drop(std::fs::remove_dir_all(&path));
            cannot(&path, &error)
        })?;
        let folder = Self { path, _lock: lock };
        let socket = folder.path.join(SERVER).join(format!(".s.PGSQL.{PORT}"));
        if socket.as_os_str().len() > SOCKET_BYTES_MAX {
            return Err(Error::config(format!("the path of {} is too long for a socket", scratch.display()))
                .hint("name another folder with --scratch"));
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
            // The server's user must get to its own part, and to nothing else.
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

/// Makes the server's files.
async fn initialise(bin: &Path, server: &Path, user: Option<(u32, u32)>) -> Result<()> {
    let data = server.join("data");
    let mut initdb = command(&bin.join("initdb"), user);
    initdb.arg("--pgdata").arg(&data).args(["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]);
    initdb.arg(format!("--username={ADMINISTRATOR}"));
    let output = tokio::time::timeout(INITDB_TIMEOUT, initdb.output()).await;
    let output = output.map_err(|_| Error::unexpected("initdb does not end"))?.map_err(|e| not_allowed(&e))?;
    if !output.status.success() {
        let said = gist(&String::from_utf8_lossy(&output.stderr));
        return Err(Error::config(format!("no throwaway server can be made: {said}"))
            .hint("name a folder with room that every user may enter with --scratch, or a server with --server"));
    }
    let mut settings = std::fs::read_to_string(data.join("postgresql.conf")).map_err(|e| cannot(&data, &e))?;
    let socket = server.to_string_lossy().replace('\'', "''");
    settings.push_str(&format!("{SETTINGS}port = {PORT}\nunix_socket_directories = '{socket}'\n"));
    std::fs::write(data.join("postgresql.conf"), settings).map_err(|e| cannot(&data, &e))
}

/// A program of the server, as the server's user.
fn command(program: &Path, user: Option<(u32, u32)>) -> tokio::process::Command {
    let mut command = Program::command(program);
    command.env("TZ", "UTC").current_dir("/");
    if let Some((uid, gid)) = user {
        command.uid(uid).gid(gid);
    }
    command
}

/// The user to become: none where this process is not root.
fn other_user() -> Result<Option<(u32, u32)>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    USERS.iter().find_map(|name| ids(&users, name)).map(Some).ok_or_else(|| {
        Error::config("PostgreSQL refuses to run as root, and there is neither a user `postgres` nor `nobody`")
            .hint("run this as another user, or name a server with --server")
    })
}

/// User and group of a name in the text of `/etc/passwd`.
fn ids(users: &str, name: &str) -> Option<(u32, u32)> {
    let fields: Vec<&str> =
        users.lines().map(|l| l.split(':').collect()).find(|f: &Vec<&str>| f.first() == Some(&name))?;
    let id = |at: usize| fields.get(at)?.parse::<u32>().ok();
    let ids = (id(2)?, id(3)?);
    (ids.0 != 0).then_some(ids)
}

fn not_allowed(error: &io::Error) -> Error {
    Error::config(format!("no throwaway server can be started: {}", error.kind())).hint(
        "PostgreSQL refuses to run as root: let this process become `postgres` (CAP_SETUID, CAP_SETGID), run it as another \
         user, or name a server with --server",
    )
}

fn cannot(place: &Path, error: &io::Error) -> Error {
    Error::config(format!("{} cannot be used for a throwaway server: {}", place.display(), error.kind()))
        .hint("name a folder that this user may write to with --scratch")
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
        // It may have ended by itself, which is as well.
        let _ = kill_process(pid, signal);
    }
}

/// Removes the servers of processes that are gone. What belongs to somebody else, or is in use, is left alone.
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

/// The process that serves these files: the one that they name, if its command line names them too.
fn running(data: &Path) -> Option<u32> {
    let text = std::fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let pid: u32 = text.lines().next()?.trim().parse().ok()?;
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let named = command.split(|byte| *byte == 0).any(|argument| argument == data.as_os_str().as_encoded_bytes());
    named.then_some(pid)
}

#[cfg(test)]
mod tests;
