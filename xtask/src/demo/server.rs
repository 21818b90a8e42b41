//! A throwaway PostgreSQL on a free loopback port. It never runs as root, always has a password, and ends with this
//! process.

use crate::machine;
use crate::run::{failure, fed, quiet, say, shown, succeeds, timed};
use anyhow::{Context, Result};
use rustix::process::{Pid, Signal};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The database's name.
pub const DATABASE: &str = "dolibarr";

/// The role that makes backups. It may only read.
const READER: &str = "backup";

/// The role that owns the database. If this process is root, the server runs as the system user of the same name.
const OWNER: &str = "postgres";

/// A small server starts in half a second; a busy machine takes longer.
const START_TIME_MAX: Duration = Duration::from_secs(60);

/// How often to check whether the server is ready.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A running server.
pub struct Server {
    programs: PathBuf,
    data: PathBuf,
    port: u16,
    password: String,
    credentials: PathBuf,
    child: Child,
}

impl Server {
    /// Replaces the cluster of an earlier run with a new one and starts it.
    pub fn start(programs: &Path, folder: &Path) -> Result<Self> {
        let data = data_folder(folder);
        stop_left_over(programs, &data);
        let (password, reader_password) = (random_word()?, random_word()?);
        let credentials = folder.join("credentials");
        let port = free_port()?;
        timed("starting a throwaway PostgreSQL", || {
            let _ = fs::remove_dir_all(&credentials);
            fs::create_dir_all(&credentials).with_context(|| format!("cannot make {}", credentials.display()))?;
            write_secret(&credentials.join("username"), READER)?;
            write_secret(&credentials.join("password"), &reader_password)?;
            make_cluster(programs, &data, &password, port)?;
            let child = spawn(programs, &data)?;
            let mut server = Self { programs: programs.into(), data: data.clone(), port, password, credentials, child };
            server.wait_until_ready()?;
            server.sql("postgres", &format!("CREATE DATABASE {DATABASE}"))?;
            server.sql("postgres", &format!("CREATE ROLE {READER} LOGIN PASSWORD '{reader_password}'"))?;
            Ok(server)
        })
    }

    /// The port on the loopback interface.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// A folder with the files `username` and `password` of the read-only role.
    pub fn credentials(&self) -> &Path {
        &self.credentials
    }

    /// Runs SQL in the database as its owner.
    pub fn script(&self, sql: &str) -> Result<()> {
        self.sql(DATABASE, sql)
    }

    /// Loads a dump in the custom format. Fails if any part of it cannot be restored.
    pub fn restore(&self, dump: &Path) -> Result<()> {
        let mut restore = self.client("pg_restore");
        restore
            .args(["--no-owner", "--no-acl", "--exit-on-error", "--single-transaction", "--dbname", DATABASE])
            .arg(fs::canonicalize(dump)?);
        quiet(&mut restore, "give --dump a file written by pg_dump -Fc of this PostgreSQL version or an older one")
            .map(drop)
    }

    /// Lets the backup's role read everything.
    pub fn grant_reading(&self) -> Result<()> {
        self.script(&format!("GRANT pg_read_all_data TO {READER}"))
    }

    /// The command that starts the stopped server again.
    pub fn how_to_start(&self) -> String {
        shown(&pg_ctl(&self.programs, &self.data, "start"))
    }

    /// Stops the server.
    pub fn stop(mut self) -> Result<()> {
        self.interrupt().context("cannot stop the server")
    }

    fn sql(&self, database: &str, sql: &str) -> Result<()> {
        let mut psql = self.client("psql");
        psql.args(["--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", "--dbname", database]);
        fed(&mut psql, sql, "see the server's message above").map(drop)
    }

    fn client(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.env("PGHOST", "127.0.0.1").env("PGPORT", self.port.to_string()).env("PGSSLMODE", "disable");
        command.env("PGUSER", OWNER).env("PGPASSWORD", &self.password).current_dir("/");
        command
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let started = Instant::now();
        while !succeeds(&mut self.client("pg_isready")) {
            let ended = self.child.try_wait().context("cannot check whether the server still runs")?;
            if ended.is_some() || started.elapsed() > START_TIME_MAX {
                let log = log_file(&self.data);
                let hint = format!("see its log: {}", log.display());
                return Err(failure("the throwaway PostgreSQL did not start", hint));
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }

    /// SIGINT is PostgreSQL's fast shutdown: sessions end, data is written.
    fn interrupt(&mut self) -> std::io::Result<()> {
        if self.child.try_wait()?.is_none() {
            rustix::process::kill_process(Pid::from_child(&self.child), Signal::INT)?;
            self.child.wait()?;
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.interrupt() {
            say(format_args!("cannot stop the throwaway server, process {}: {error}", self.child.id()));
        }
    }
}

/// The cluster's folder: in the demo's folder, or for root where the server's user can reach it.
fn data_folder(folder: &Path) -> PathBuf {
    if !machine::is_root() {
        return folder.join("postgresql/data");
    }
    let name: String =
        folder.to_string_lossy().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    Path::new("/var/tmp").join(format!("dolibarr-backup{name}")).join("data")
}

fn log_file(data: &Path) -> PathBuf {
    data.with_file_name("log")
}

/// A PostgreSQL program that runs as the server's user.
fn as_owner(program: &Path) -> Command {
    let mut command = Command::new(if machine::is_root() { Path::new("runuser") } else { program });
    if machine::is_root() {
        command.args(["-u", OWNER, "--"]).arg(program);
    }
    // That user may not be able to read the current folder.
    command.current_dir("/");
    command
}

fn pg_ctl(programs: &Path, data: &Path, verb: &str) -> Command {
    let mut command = as_owner(&programs.join("pg_ctl"));
    command.arg("-D").arg(data).args(["-w", "-s", "-l"]).arg(log_file(data)).arg(verb);
    command
}

/// Stops the server of an earlier run, which somebody may have started again.
fn stop_left_over(programs: &Path, data: &Path) {
    if data.join("postmaster.pid").is_file() {
        say("stopping the server of an earlier demo");
        let _ = succeeds(&mut pg_ctl(programs, data, "stop"));
    }
}

fn make_cluster(programs: &Path, data: &Path, password: &str, port: u16) -> Result<()> {
    let folder = data.parent().context("a cluster needs a folder")?;
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
    let password_file = folder.join("password");
    write_secret(&password_file, password)?;
    File::create(log_file(data)).context("cannot make the server's log")?;
    if machine::is_root() {
        let mut give = Command::new("chown");
        quiet(give.args(["-R", OWNER]).arg(folder), "the user postgres comes with Debian's package postgresql")?;
    }
    let mut initdb = as_owner(&programs.join("initdb"));
    initdb.arg("-D").arg(data).arg("--pwfile").arg(&password_file);
    initdb.args(["-U", OWNER, "-A", "scram-sha-256", "-E", "UTF8", "--locale", "C.UTF-8", "--no-sync"]);
    quiet(&mut initdb, "see the message of initdb above")?;
    let settings = format!(
        "listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = ''\n\
         fsync = off # a throwaway\nlog_timezone = 'UTC'\ntimezone = 'UTC'\n"
    );
    let path = data.join("postgresql.auto.conf");
    let mut file =
        File::options().append(true).open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    file.write_all(settings.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}

/// Starts the server in this terminal's process group, so that Ctrl-C reaches it too. If this process dies in any other
/// way, the kernel stops the server.
fn spawn(programs: &Path, data: &Path) -> Result<Child> {
    let log = File::options().append(true).open(log_file(data)).context("cannot open the server's log")?;
    let mut command = Command::new("setpriv");
    if machine::is_root() {
        command.args(["--reuid", OWNER, "--regid", OWNER, "--init-groups"]);
    }
    command.args(["--pdeathsig", "INT", "--"]).arg(programs.join("postgres")).arg("-D").arg(data).current_dir("/");
    command.stdin(Stdio::null()).stdout(log.try_clone().context("cannot share the server's log")?).stderr(log);
    command.spawn().map_err(|error| failure(format_args!("cannot start PostgreSQL: {error}"), "install util-linux"))
}

fn write_secret(path: &Path, secret: &str) -> Result<()> {
    let file = File::options().write(true).create_new(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| file.write_all(secret.as_bytes()));
    written.with_context(|| format!("cannot write {}", path.display()))
}

fn random_word() -> Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)).context("cannot read /dev/urandom")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port on the loopback interface")?;
    Ok(listener.local_addr().context("no free port on the loopback interface")?.port())
}
