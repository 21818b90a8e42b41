//! Dumps a database: runs pg_dump as a child process, streams its output, and checks the dump before the stream reports
//! success. A dump that fails a check never becomes an object in the store.
//!
//! No secret is ever an argument; the password is passed only in the child's environment.

mod output;
mod remarks;

use self::output::Output;
use self::remarks::Remarks;
use super::archive::{Contents, Flaw, Scanner};
use super::client::Notice;
use super::program::{NOWHERE, Program, Version};
use super::{DatabaseFacts, OpenDatabase, Remarked};
use base::error::{Class, Error, Result};
use base::secret::{SecretString, redact};
use base::stream::{ByteStream, Writer, channel};
use base::text::printable;
use bytes::Bytes;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, PoisonError};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::ChildStdin;
use tokio::sync::mpsc;

/// Maximum number of bytes of a child's error output that are kept; the rest is discarded. A successful dump usually
/// prints nothing.
const STDERR_BYTES_MAX: usize = 64 << 10;

/// Prefixes of the programs' error messages.
const PREFIXES: [&str; 3] = ["pg_dump: error: ", "pg_restore: error: ", "initdb: error: "];

/// Lines of the error output that are shown to the user.
const STDERR_LINES_MAX: usize = 3;

/// Minimum size of a plausible dump. Even the dump of an empty database contains more than a kilobyte of definitions.
const DUMP_BYTES_MIN: u64 = 512;

/// Blocks that are buffered for the pg_restore that reads the table of contents.
const LISTED_BLOCKS_IN_FLIGHT_MAX: usize = 2;

/// The first pg_dump that supports zstd and lz4.
const ZSTD_MAJOR_MIN: u32 = 16;

/// gzip level that is used if pg_dump does not support zstd. For 1 GiB of invoices and accounting, the default level 6
/// needs 26.2 s and produces 188 MiB, level 4 needs 13.0 s for 191 MiB, level 3 needs 11.0 s for 206 MiB, and level 1
/// needs 7.2 s for 211 MiB.
const GZIP_LEVEL_AUTOMATIC: u8 = 4;

/// zstd level that is used by default. For a real Dolibarr database, its output is smaller than that of gzip level 6 in
/// half the processor time. Higher levels cost more than they save.
const ZSTD_LEVEL_AUTOMATIC: u8 = 3;

/// A dump without compression can be larger than the database: bytes are written as hexadecimal digits, and compressed
/// values are written in full.
const UNCOMPRESSED_FACTOR: u64 = 4;

/// How to dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DumpOptions {
    /// How pg_dump compresses.
    pub compression: Compression,
}

/// How pg_dump compresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// zstd if the installed pg_dump supports it, otherwise gzip.
    #[default]
    Automatic,
    /// No compression.
    None,
    /// Level 1 to 9.
    Gzip(u8),
    /// Level 1 to 19.
    Zstd(u8),
    /// Level 1 to 12.
    Lz4(u8),
}

impl Compression {
    /// The argument for pg_dump. `None` for [`Self::Automatic`], which is decided when the dump starts.
    fn argument(self, version: &Version) -> Result<Option<String>> {
        let newer = version.major >= ZSTD_MAJOR_MIN;
        let (name, level, max) = match self {
            Self::Automatic => return Ok(None),
            Self::None => return Ok(Some("--compress=0".to_owned())),
            Self::Gzip(level) => ("gzip", level, 9),
            Self::Zstd(level) => ("zstd", level, 19),
            Self::Lz4(level) => ("lz4", level, 12),
        };
        if !(1..=max).contains(&level) {
            let text = format!("{name} supports compression levels 1 to {max}, but the dump plugin asked for {level}");
            return Err(Error::new(Class::PluginRefused, text).hint("change the dump plugin's setting"));
        }
        match (name, newer) {
            ("gzip", false) => Ok(Some(format!("--compress={level}"))),
            (_, true) => Ok(Some(format!("--compress={name}:{level}"))),
            (_, false) => {
                let text = format!("pg_dump {} does not support {name} compression", version.text);
                Err(Error::config(text).hint(format!(
                    "install pg_dump {ZSTD_MAJOR_MIN} or later, or set the dump plugin's compression to automatic or \
                     gzip"
                )))
            }
        }
    }
}

/// Why a dump stopped.
enum Stop {
    /// The receiver dropped the stream.
    Closed,
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl OpenDatabase {
    /// Starts a dump of the snapshot. The end of the stream reports whether it succeeded. Dropping the stream kills
    /// pg_dump immediately.
    ///
    /// # Errors
    /// Class `PluginRefused` for an invalid level; `Config` for a compression that the installed pg_dump does not
    /// support.
    pub fn dump(self: &Arc<Self>, options: DumpOptions) -> Result<ByteStream> {
        let argument = options.compression.argument(&self.program.version)?;
        let factor = if options.compression == Compression::None { UNCOMPRESSED_FACTOR } else { 1 };
        let (writer, stream) = channel(Some(self.facts.database_bytes.saturating_mul(factor)));
        let session = Arc::clone(self);
        tokio::spawn(async move {
            let outcome = tokio::select! {
                () = writer.closed() => Err(Stop::Closed),
                outcome = session.produce(options.compression, argument, &writer) => outcome,
            };
            match outcome {
                Ok(()) => drop(writer.finish().await),
                Err(Stop::Closed) => tracing::debug!(scope = session.scope, "dump cancelled"),
                Err(Stop::Failed(error)) => writer.fail(error).await,
            }
        });
        Ok(stream)
    }

    async fn produce(&self, compression: Compression, argument: Option<String>, writer: &Writer) -> Result<(), Stop> {
        let argument = match compression {
            Compression::Automatic => self.automatic_compression().await,
            _ => argument,
        };
        let login = self.dialer.login().await?;
        let mut command = Program::command(&self.program.pg_dump);
        self.dialer.set_environment(&mut command, &login);
        command
            .arg("--format=custom")
            .arg("--no-password")
            // The connection string of a subscription contains a password, and a restored database must not replicate
            // from production.
            .arg("--no-subscriptions")
            // A role may have a different default encoding, which cannot represent every text.
            .env("PGCLIENTENCODING", &self.facts.encoding)
            .arg(format!("--snapshot={}", self.snapshot))
            .arg(format!("--lock-wait-timeout={}s", super::client::LOCK_TIMEOUT_SECONDS))
            .args(argument)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|e| self.cannot_run("pg_dump", &e))?;
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(Stop::Failed(Error::unexpected("pg_dump was started without output pipes")));
        };
        let (listed, blocks) = mpsc::channel(LISTED_BLOCKS_IN_FLIGHT_MAX);
        let ((bytes, scanner), stderr, listing) = tokio::try_join!(
            pump(Output::new(stdout).map_err(|e| broken_pipe(&e))?, writer, listed),
            async { collect(stderr).await.map_err(|e| Stop::Failed(broken_pipe(&e))) },
            async { self.list(blocks).await.map_err(Stop::Failed) },
        )?;
        let status = child.wait().await.map_err(|e| broken_pipe(&e))?;
        let secrets: Vec<_> = login.password.iter().collect();
        let stderr = without_notices(stderr, &self.holder.notices());
        let remarks = Remarks::parse(&stderr, &secrets);
        let finished = Finished { status, stderr, secrets: &secrets, bytes, contents: scanner.finish(), listing };
        finished.check(&self.facts, &remarks).map_err(|error| error.context(self.dialer.target(&login.user)))?;
        for remark in &remarks.partial {
            tracing::warn!(scope = self.scope, "something is missing from the dump: {remark}");
        }
        for remark in &remarks.harmless {
            tracing::info!(scope = self.scope, "pg_dump: {remark}");
        }
        for left_out in self.facts.left_out() {
            tracing::info!(scope = self.scope, "{left_out}");
        }
        let remarked = Remarked { notes: remarks.harmless, lacking: remarks.partial };
        *self.remarks.lock().unwrap_or_else(PoisonError::into_inner) = remarked;
        tracing::debug!(scope = self.scope, bytes, "dump complete");
        Ok(())
    }

    /// The argument for zstd if pg_dump is new enough and was built with it, otherwise gzip. `None` leaves the choice
    /// to pg_dump.
    async fn automatic_compression(&self) -> Option<String> {
        if self.program.version.major < ZSTD_MAJOR_MIN {
            return Some(format!("--compress={GZIP_LEVEL_AUTOMATIC}"));
        }
        let argument = format!("--compress=zstd:{ZSTD_LEVEL_AUTOMATIC}");
        // pg_dump checks its options before it connects, and this host does not exist.
        let mut probe = Program::command(&self.program.pg_dump);
        probe.env("PGHOST", NOWHERE).args(["--format=custom", "--no-password", &argument]);
        match probe.output().await {
            Ok(output) if !String::from_utf8_lossy(&output.stderr).contains("compression") => Some(argument),
            _ => None,
        }
    }

    /// Lets pg_restore read the table of contents from the stream. pg_restore exits once it has read it.
    async fn list(&self, mut blocks: mpsc::Receiver<Bytes>) -> Result<ListedArchive> {
        let mut command = Program::command(&self.program.pg_restore());
        command.arg("--list").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|e| self.cannot_run("pg_restore", &e))?;
        let stdin = child.stdin.take();
        let feed = async move {
            let Some(mut stdin): Option<ChildStdin> = stdin else { return };
            while let Some(block) = blocks.recv().await {
                if stdin.write_all(&block).await.is_err() {
                    return;
                }
            }
        };
        let ((), output) = tokio::join!(feed, child.wait_with_output());
        let output = output.map_err(|e| broken_pipe(&e))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let entries = text.lines().find_map(|line| line.strip_prefix(";     TOC Entries: ")?.trim().parse().ok());
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok(ListedArchive { status: output.status, entries: entries.unwrap_or(0), stderr })
    }

    fn cannot_run(&self, name: &str, error: &std::io::Error) -> Error {
        let path = self.program.pg_dump.with_file_name(name);
        Error::config(format!("{} cannot be run: {}", path.display(), base::error::reason(error)))
            .hint("reinstall the PostgreSQL client programs")
    }
}

fn broken_pipe(error: &std::io::Error) -> Error {
    Error::unexpected(format!("the output of pg_dump cannot be read: {}", base::error::reason(error)))
}

/// Forwards the output of pg_dump in whole blocks, without copying.
async fn pump(mut output: Output, writer: &Writer, listed: mpsc::Sender<Bytes>) -> Result<(u64, Scanner), Stop> {
    let (mut bytes, mut scanner, mut listed) = (0, Scanner::new(), Some(listed));
    loop {
        let block = output.block().await.map_err(|e| broken_pipe(&e))?;
        if block.is_empty() {
            return Ok((bytes, scanner));
        }
        bytes += block.len() as u64;
        scanner.feed(&block);
        if let Some(sender) = &listed
            && sender.send(block.clone()).await.is_err()
        {
            listed = None;
        }
        writer.send(block).await.map_err(|_| Stop::Closed)?;
    }
}

/// The first [`STDERR_BYTES_MAX`] of a child's error output. The rest is read and discarded, so that the child does not
/// block.
pub(super) async fn collect(mut stderr: impl AsyncRead + Unpin) -> std::io::Result<String> {
    let (mut kept, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let read = stderr.read(&mut buffer).await?;
        if read == 0 {
            return Ok(String::from_utf8_lossy(&kept).into_owned());
        }
        let room = STDERR_BYTES_MAX.saturating_sub(kept.len());
        kept.extend(buffer.iter().take(read.min(room)));
    }
}

/// Removes the notices that the server sends to every connection, such as a changed collation version. This run has
/// already logged them. All other error output of pg_dump still has to be classified.
fn without_notices(mut stderr: String, notices: &[Notice]) -> String {
    for Notice { severity, message, detail, hint } in notices {
        let mut text = format!("{severity}:  {message}\n");
        for (label, more) in [("DETAIL", detail), ("HINT", hint)] {
            if let Some(more) = more {
                text.push_str(&format!("{label}:  {more}\n"));
            }
        }
        stderr = stderr.replace(&text, "");
    }
    stderr
}

/// The result of `pg_restore --list`.
struct ListedArchive {
    status: ExitStatus,
    entries: u64,
    stderr: String,
}

/// The result of a pg_dump that has exited.
struct Finished<'s> {
    status: ExitStatus,
    /// With the secrets, because a short one may be a part of any message by which it is classified.
    stderr: String,
    secrets: &'s [&'s SecretString],
    bytes: u64,
    contents: Result<Option<Contents>, Flaw>,
    listing: ListedArchive,
}

impl Finished<'_> {
    fn summary(&self) -> String {
        redact(&summarize(&self.stderr), self.secrets)
    }

    /// Checks that this is a complete dump of the database. Each check has been missing from somebody's backup tool at
    /// some point.
    fn check(&self, facts: &DatabaseFacts, remarks: &Remarks) -> Result<()> {
        if !self.status.success() {
            return Err(self.failure());
        }
        if !remarks.unknown.is_empty() {
            return Err(Error::unexpected(format!("pg_dump reported a problem: {}", self.summary()))
                .hint("if the message is harmless, report it, so that a later version accepts it"));
        }
        if self.bytes < DUMP_BYTES_MIN {
            let text = format!("pg_dump wrote only {} bytes, which is too short for a dump", self.bytes);
            return Err(Error::unexpected(text));
        }
        let contents = match &self.contents {
            Ok(contents) => contents,
            Err(flaw) => return Err(Error::unexpected(format!("the dump is not complete: {flaw}"))),
        };
        if !self.listing.status.success() {
            let stderr = summarize(&self.listing.stderr);
            return Err(Error::unexpected(format!("pg_restore cannot read the dump: {stderr}"))
                .hint("install pg_dump and pg_restore in the same version and with the same compression libraries"));
        }
        if self.listing.entries == 0 {
            return Err(Error::unexpected("pg_restore finds no entries in the dump"));
        }
        match contents {
            Some(Contents { tables, .. }) if (*tables as u64) < facts.tables => {
                Err(Error::unexpected(format!("the dump has {tables} tables, but the database has {}", facts.tables))
                    .hint("check that `pg_dump` is not a script that leaves tables out"))
            }
            _ => Ok(()),
        }
    }

    fn failure(&self) -> Error {
        if let Some(signal) = self.status.signal() {
            let error = Error::unexpected(format!("pg_dump was killed by signal {signal}"));
            return if signal == 9 { error.hint("check whether it exceeded a memory limit") } else { error };
        }
        let code = self.status.code().unwrap_or(-1);
        let (class, hint) = classify(&self.stderr);
        let text = match self.summary() {
            text if text.is_empty() => format!("pg_dump ended with exit code {code} and no error message"),
            text => format!("pg_dump failed: {text}"),
        };
        let error = Error::new(class, text);
        if hint.is_empty() { error } else { error.hint(hint) }
    }
}

/// The first nonempty lines, without the program name at the beginning.
pub(super) fn summarize(stderr: &str) -> String {
    let lines = stderr.lines().map(str::trim).filter(|line| !line.is_empty()).take(STDERR_LINES_MAX);
    let stripped = |line: &str| PREFIXES.iter().find_map(|prefix| line.strip_prefix(prefix)).map(str::to_owned);
    let lines = lines.map(|line| stripped(line).unwrap_or_else(|| line.to_owned()));
    printable(&lines.collect::<Vec<_>>().join("; "))
}

/// The class and hint for an error of pg_dump. pg_dump runs in the C locale, but the messages of a server in another
/// language match no entry and get the class `Unexpected`.
fn classify(stderr: &str) -> (Class, &'static str) {
    const SIGNS: [(&str, Class, &str); 14] = [
        ("password authentication failed", Class::Config, "check the password under `credentials`"),
        ("no password supplied", Class::Config, "check the password under `credentials`"),
        ("no pg_hba.conf entry", Class::Config, "allow this host in the server's pg_hba.conf"),
        ("permission denied", Class::Config, "allow the role to read everything: `GRANT pg_read_all_data TO role`"),
        ("row-level security", Class::Config, "grant the role BYPASSRLS"),
        ("server version mismatch", Class::Config, "install a pg_dump that is not older than the server"),
        ("certificate", Class::Config, "check `ssl_mode` and `ssl_root_cert`"),
        ("does not support compression", Class::Config, "set the dump plugin's compression to automatic or gzip"),
        ("connection to server", Class::Unavailable, ""),
        ("could not connect", Class::Unavailable, ""),
        ("server closed the connection", Class::Unavailable, ""),
        ("terminating connection", Class::Unavailable, ""),
        ("canceling statement due to", Class::Unavailable, "another session holds a lock; run again when it has ended"),
        ("invalid snapshot identifier", Class::Unavailable, ""),
    ];
    let found = SIGNS.iter().find(|(sign, ..)| stderr.contains(sign));
    found.map_or((Class::Unexpected, ""), |(_, class, hint)| (*class, *hint))
}
