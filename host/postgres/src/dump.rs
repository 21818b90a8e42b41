//! A dump: pg_dump as a child whose output flows into a stream, and everything that must hold before the stream may
//! say that it ended well. A dump that is refused here never becomes an object.
//!
//! No secret is ever an argument; the password goes through the child's environment alone.

mod output;
mod remarks;

use self::output::Output;
use self::remarks::Remarks;
use super::archive::{Contents, Flaw, Scanner};
use super::client::Notice;
use super::program::{NOWHERE, Program, Version};
use super::{Facts, Remarked, Session};
use base::error::{Class, Error, Result};
use base::secret::redact;
use base::stream::{ByteStream, Writer, channel};
use base::text::printable;
use bytes::Bytes;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, PoisonError};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::ChildStdin;
use tokio::sync::mpsc;

/// What pg_dump says on its error output. A dump that works says nothing; beyond this it is read and dropped.
const STDERR_BYTES_MAX: usize = 64 << 10;

/// What the programs put in front of their errors.
const PREFIXES: [&str; 3] = ["pg_dump: error: ", "pg_restore: error: ", "initdb: error: "];

/// Lines of it that reach people.
const STDERR_LINES_MAX: usize = 3;

/// A dump of an empty database has more than a kilobyte of definitions in it.
const DUMP_BYTES_MIN: u64 = 512;

/// Blocks between the stream and the pg_restore that reads its table of contents.
const LISTED_BLOCKS_IN_FLIGHT_MAX: usize = 2;

/// The first pg_dump with more than gzip.
const ZSTD_MAJOR_MIN: u32 = 16;

/// Level of gzip where pg_dump knows no zstd. Of 1 GiB of invoices and accounting the default, 6, makes 188 MiB in 26.2 s, 4 makes
/// 191 MiB in 13.0 s, and 3 and 1 make 206 and 211 MiB in 11.0 and 7.2 s.
const GZIP_LEVEL_AUTOMATIC: u8 = 4;

/// On a real Dolibarr database level 3 is smaller than gzip's 6 at half the processor time; beyond it every percent
/// costs more than it saves.
const ZSTD_LEVEL_AUTOMATIC: u8 = 3;

/// A dump without compression can be longer than the database: bytes become hexadecimal digits, and compressed
/// values are spelt out.
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
    /// zstd where the installed pg_dump has it, else gzip.
    #[default]
    Automatic,
    /// Not at all.
    None,
    /// Level 1 to 9.
    Gzip(u8),
    /// Level 1 to 19.
    Zstd(u8),
    /// Level 1 to 12.
    Lz4(u8),
}

impl Compression {
    /// pg_dump's argument; none for its own default, which every version has.
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
            let found = format!("{name} has the levels 1 to {max}, not {level}");
            return Err(Error::new(Class::PluginRefused, found).hint("change the dump plugin's setting"));
        }
        match (name, newer) {
            ("gzip", false) => Ok(Some(format!("--compress={level}"))),
            (_, true) => Ok(Some(format!("--compress={name}:{level}"))),
            (_, false) => Err(Error::config(format!("pg_dump {} has no {name} compression", version.text)).hint(format!(
                "install pg_dump {ZSTD_MAJOR_MIN} or newer, or set the dump plugin's compression to automatic or gzip"
            ))),
        }
    }
}

/// Why a dump stopped.
enum Stop {
    /// Nobody wants it any more.
    Closed,
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Session {
    /// Starts a dump of the snapshot. Whether it succeeded shows when the stream ends; dropping the stream kills
    /// pg_dump at once.
    ///
    /// # Errors
    /// Class `PluginRefused` for a level that does not exist, `Config` for a compression that the installed pg_dump does
    /// not have.
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
                Err(Stop::Closed) => tracing::debug!(scope = session.scope, "dump given up"),
                Err(Stop::Failed(error)) => writer.fail(error).await,
            }
        });
        Ok(stream)
    }

    async fn produce(&self, wanted: Compression, argument: Option<String>, writer: &Writer) -> Result<(), Stop> {
        let argument = match wanted {
            Compression::Automatic => self.automatic().await,
            _ => argument,
        };
        let login = self.dialer.login().await?;
        let mut command = Program::command(&self.program.pg_dump);
        self.dialer.by_environment(&mut command, &login);
        command
            .arg("--format=custom")
            .arg("--no-password")
            // The connection string of a subscription holds a password, and a restored database must not draw from production.
            .arg("--no-subscriptions")
            // A role may have another one by default, which not every text fits into.
            .env("PGCLIENTENCODING", &self.facts.encoding)
            .arg(format!("--snapshot={}", self.snapshot))
            .arg(format!("--lock-wait-timeout={}s", super::client::LOCK_TIMEOUT_SECONDS))
            .args(argument)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|e| self.cannot_run("pg_dump", &e))?;
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(Stop::Failed(Error::unexpected("pg_dump was started without its outputs")));
        };
        let (listed, blocks) = mpsc::channel(LISTED_BLOCKS_IN_FLIGHT_MAX);
        let ((bytes, scanner), stderr, listing) = tokio::try_join!(
            pump(Output::of(stdout).map_err(|e| broken_pipe(&e))?, writer, listed),
            async { collect(stderr).await.map_err(|e| Stop::Failed(broken_pipe(&e))) },
            async { self.list(blocks).await.map_err(Stop::Failed) },
        )?;
        let status = child.wait().await.map_err(|e| broken_pipe(&e))?;
        let secrets: Vec<_> = login.password.iter().collect();
        let stderr = redact(&without_notices(stderr, &self.holder.notices()), &secrets);
        let remarks = Remarks::of(&stderr);
        let made = Made { status, stderr, bytes, contents: scanner.finish(), listing };
        made.judge(&self.facts, &remarks).map_err(|error| error.context(self.dialer.target(&login.user)))?;
        for remark in &remarks.partial {
            tracing::warn!(scope = self.scope, "the dump lacks something: {remark}");
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

    /// zstd, if pg_dump is new enough and was built with it; gzip otherwise.
    async fn automatic(&self) -> Option<String> {
        if self.program.version.major < ZSTD_MAJOR_MIN {
            return Some(format!("--compress={GZIP_LEVEL_AUTOMATIC}"));
        }
        let argument = format!("--compress=zstd:{ZSTD_LEVEL_AUTOMATIC}");
        // It checks its options before it looks for a server, and there is none.
        let mut probe = Program::command(&self.program.pg_dump);
        probe.env("PGHOST", NOWHERE).args(["--format=custom", "--no-password", &argument]);
        match probe.output().await {
            Ok(output) if !String::from_utf8_lossy(&output.stderr).contains("compression") => Some(argument),
            _ => None,
        }
    }

    /// Has pg_restore read the table of contents of what goes by. It ends when it has, and takes no more.
    async fn list(&self, mut blocks: mpsc::Receiver<Bytes>) -> Result<Listing> {
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
        Ok(Listing { status: output.status, entries: entries.unwrap_or(0), stderr })
    }

    fn cannot_run(&self, name: &str, error: &std::io::Error) -> Error {
        let path = self.program.pg_dump.with_file_name(name);
        Error::config(format!("{} cannot be run: {}", path.display(), error.kind()))
            .hint("install the PostgreSQL client programs anew")
    }
}

fn broken_pipe(error: &std::io::Error) -> Error {
    Error::unexpected(format!("what pg_dump writes cannot be read: {}", error.kind()))
}

/// Passes on what pg_dump writes, whole blocks at a time, without a copy.
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

/// The first [`STDERR_BYTES_MAX`] of a child's error output; the rest is read, so that the child can go on.
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

/// Takes out what the server tells everyone who connects, such as that a collation's version changed. This run
/// heard and logged it already; anything else on pg_dump's error output is a failure.
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

/// What pg_restore found.
struct Listing {
    status: ExitStatus,
    entries: u64,
    stderr: String,
}

/// What came out of a pg_dump that has ended.
struct Made {
    status: ExitStatus,
    /// Without secrets.
    stderr: String,
    bytes: u64,
    contents: Result<Option<Contents>, Flaw>,
    listing: Listing,
}

impl Made {
    /// Whether it is a whole dump of the database. Every condition has once been the one that was missing in
    /// somebody's backup.
    fn judge(&self, facts: &Facts, remarks: &Remarks) -> Result<()> {
        if !self.status.success() {
            return Err(self.failure());
        }
        if !remarks.unknown.is_empty() {
            return Err(Error::unexpected(format!("pg_dump reported a problem: {}", gist(&self.stderr)))
                .hint("if the message is harmless, report it, so that it is known"));
        }
        if self.bytes < DUMP_BYTES_MIN {
            return Err(Error::unexpected(format!("pg_dump made {} bytes, which cannot be a dump", self.bytes)));
        }
        let contents = match &self.contents {
            Ok(contents) => contents,
            Err(flaw) => return Err(Error::unexpected(format!("the dump is not whole: {flaw}"))),
        };
        if !self.listing.status.success() {
            let stderr = gist(&self.listing.stderr);
            return Err(Error::unexpected(format!("pg_restore cannot read the dump: {stderr}"))
                .hint("install pg_dump and pg_restore of one version, built with the same compressions"));
        }
        if self.listing.entries == 0 {
            return Err(Error::unexpected("pg_restore finds nothing in the dump"));
        }
        match contents {
            Some(Contents { tables, .. }) if (*tables as u64) < facts.tables => {
                Err(Error::unexpected(format!("the dump holds {tables} tables and the database {}", facts.tables))
                    .hint("check that `pg_dump` is not a script that leaves tables out"))
            }
            _ => Ok(()),
        }
    }

    fn failure(&self) -> Error {
        if let Some(signal) = self.status.signal() {
            let error = Error::unexpected(format!("pg_dump was killed by signal {signal}"));
            return if signal == 9 { error.hint("look for a memory limit that it ran into") } else { error };
        }
        let code = self.status.code().unwrap_or(-1);
        let (class, hint) = blame(&self.stderr);
        let text = match gist(&self.stderr) {
            text if text.is_empty() => format!("pg_dump ended with exit code {code} and without a word"),
            text => format!("pg_dump failed: {text}"),
        };
        let error = Error::new(class, text);
        if hint.is_empty() { error } else { error.hint(hint) }
    }
}

/// The first lines that say something, without the program's name in front.
pub(super) fn gist(stderr: &str) -> String {
    let lines = stderr.lines().map(str::trim).filter(|line| !line.is_empty()).take(STDERR_LINES_MAX);
    let own = |line: &str| PREFIXES.iter().find_map(|prefix| line.strip_prefix(prefix)).map(str::to_owned);
    let lines = lines.map(|line| own(line).unwrap_or_else(|| line.to_owned()));
    printable(&lines.collect::<Vec<_>>().join("; "))
}

/// What pg_dump's words call for. It runs in the C locale; a server that speaks another language gets the class of
/// the last row.
fn blame(stderr: &str) -> (Class, &'static str) {
    const SIGNS: [(&str, Class, &str); 14] = [
        ("password authentication failed", Class::Config, "check the password under `credentials`"),
        ("no password supplied", Class::Config, "check the password under `credentials`"),
        ("no pg_hba.conf entry", Class::Config, "let pg_hba.conf of the server admit this host"),
        ("permission denied", Class::Config, "let the role read everything: `GRANT pg_read_all_data TO role`"),
        ("row-level security", Class::Config, "give the role BYPASSRLS"),
        ("server version mismatch", Class::Config, "install a pg_dump that is not older than the server"),
        ("certificate", Class::Config, "check `ssl_mode` and `ssl_root_cert`"),
        ("does not support compression", Class::Config, "set the dump plugin's compression to automatic or gzip"),
        ("connection to server", Class::Unavailable, ""),
        ("could not connect", Class::Unavailable, ""),
        ("server closed the connection", Class::Unavailable, ""),
        ("terminating connection", Class::Unavailable, ""),
        ("canceling statement due to", Class::Unavailable, "another session holds a lock; run again when it is done"),
        ("invalid snapshot identifier", Class::Unavailable, ""),
    ];
    let found = SIGNS.iter().find(|(sign, ..)| stderr.contains(sign));
    found.map_or((Class::Unexpected, ""), |(_, class, hint)| (*class, *hint))
}
