//! Demonstrates the main commands on a throwaway PostgreSQL, with a folder as the store.
//!
//! It writes only to its own folder and to a temporary one, and stops what it started. Real documents are read in place
//! and never changed.

use crate::run::{failure, fed, loud, quiet, say, shown, timed};
use crate::{cache, machine, plugins};
use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::fs::{self, File, Permissions};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tests::postgres::Server;

/// The environment of the demonstration's configuration.
const ENVIRONMENT: &str = "prod";

/// The database's name.
const DATABASE: &str = "dolibarr";

/// The role that makes backups. It may only read.
const READER: &str = "backup";

/// Days from now on which retention is shown: enough that the guard's `min_age` allows the first snapshots to be
/// forgotten, and so few that the time without a run raises no question.
const SIMULATED_DAYS: u32 = 40;

/// The exit code of a run that committed a suspect source.
const COMMITTED_WITH_DOUBTS: i32 = 3;

/// The exit code of a status with a question for the administrator.
const QUESTION_OPEN: i32 = 4;

/// Changes an invoice in a real database with Dolibarr's default prefix.
const CHANGE_REAL_INVOICE: &str = "UPDATE llx_facture SET total_ht = total_ht + 1, total_ttc = total_ttc + 1 \
    WHERE rowid = (SELECT max(rowid) FROM llx_facture)";

/// Arguments of `cargo xtask demo`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Dump of a real database to use instead of the sample, in pg_dump's custom format
    #[arg(long, value_name = "FILE", requires = "documents")]
    dump: Option<PathBuf>,
    /// Documents of that database: a folder, which is read in place, or a .tar.gz, unpacked into the demo's folder
    #[arg(long, value_name = "DIR", requires = "dump")]
    documents: Option<PathBuf>,
    /// Let the server run until Enter is pressed, to try more commands
    #[arg(long)]
    stay: bool,
}

/// The files of the demonstration.
struct Stage {
    folder: PathBuf,
    documents: PathBuf,
    binary: PathBuf,
    /// The name of its configuration.
    config: &'static str,
}

/// Runs the demonstration.
pub fn run(arguments: &Arguments) -> Result<()> {
    check(arguments)?;
    let programs = machine::postgres()?;
    let target = machine::target_folder()?;
    plugins::build(&target)?;
    build_binary(&target)?;
    let folder = target.join("demo");
    let _held = cache::lock(&folder)?;
    let database = Database::start(programs, &folder)?;
    let stage = prepare(arguments, &database, folder, target.join("release/dolibarr-backup"))?;
    show(&stage, &database, arguments.dump.is_some())?;
    print_next_steps(&stage, arguments.stay);
    if arguments.stay {
        say("the database runs until you press Enter");
        let _ = std::io::stdin().read_line(&mut String::new());
    }
    Ok(())
}

/// A throwaway PostgreSQL with an empty database. It stops when this process ends.
struct Database {
    server: Server,
    /// A folder with the files `username` and `password` of the role that makes backups.
    credentials: PathBuf,
}

impl Database {
    fn start(programs: PathBuf, folder: &Path) -> Result<Self> {
        // Short, because it contains a socket; not in memory, because the database may be large; and of this checkout, so
        // that the next demonstration removes what an interrupted one left.
        let name = hex::encode(Sha256::digest(folder.as_os_str().as_bytes()));
        let home = Path::new("/var/tmp").join(format!("dolibarr-backup-demo-{}", &name[..8]));
        let server = timed("starting a throwaway PostgreSQL", || {
            let hint = format!("remove {}, and check that /var/tmp has room", home.display());
            Server::start_private(programs, &home)
                .map_err(|error| failure(format_args!("the throwaway PostgreSQL did not start: {error:#}"), hint))
        })?;
        let mut random = [0; 16];
        File::open("/dev/urandom")
            .and_then(|mut file| file.read_exact(&mut random))
            .context("cannot read random bytes")?;
        let password = hex::encode(random);
        let credentials = folder.join("credentials");
        fs::create_dir_all(&credentials)
            .and_then(|()| fs::set_permissions(&credentials, Permissions::from_mode(0o700)))
            .and_then(|()| fs::write(credentials.join("username"), READER))
            .and_then(|()| fs::write(credentials.join("password"), &password))
            .with_context(|| format!("cannot write {}", credentials.display()))?;
        quiet(server.client("createdb").arg(DATABASE), "see the server's message above")?;
        let database = Self { server, credentials };
        database.script(&format!("CREATE ROLE {READER} LOGIN PASSWORD '{password}' IN ROLE pg_read_all_data"))?;
        Ok(database)
    }

    /// Runs SQL as the administrator.
    fn script(&self, sql: &str) -> Result<()> {
        let mut psql = self.server.client("psql");
        psql.args(["--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", "--dbname", DATABASE]);
        fed(&mut psql, sql, "see the server's message above").map(drop)
    }

    /// Loads a dump in the custom format. Fails if any part of it cannot be restored.
    fn restore(&self, dump: &Path) -> Result<()> {
        let mut restore = self.server.client("pg_restore");
        restore
            .args(["--no-owner", "--no-acl", "--exit-on-error", "--single-transaction", "--dbname", DATABASE])
            .arg(fs::canonicalize(dump)?);
        quiet(&mut restore, "give --dump a file written by pg_dump -Fc of this PostgreSQL version or an older one")
            .map(drop)
    }
}

/// Checks the arguments before anything slow starts.
fn check(arguments: &Arguments) -> Result<()> {
    if let Some(dump) = arguments.dump.as_ref().filter(|dump| !dump.is_file()) {
        return Err(failure(
            format_args!("{} is not a file", dump.display()),
            "give --dump a file that pg_dump -Fc wrote",
        ));
    }
    if let Some(documents) = arguments.documents.as_ref().filter(|documents| !documents.exists()) {
        let hint = "give --documents Dolibarr's documents folder, or a .tar.gz of it";
        return Err(failure(format_args!("{} does not exist", documents.display()), hint));
    }
    Ok(())
}

fn build_binary(target: &Path) -> Result<()> {
    let mut cargo = machine::cargo();
    cargo.args(["build", "--quiet", "--release", "--package", "dolibarr-backup", "--target-dir"]).arg(target);
    timed("building the release binary, which takes some minutes the first time", || {
        loud(&mut cargo, "fix the errors that the compiler reports")
    })
}

/// Loads the database, prepares the documents and writes the configuration.
fn prepare(arguments: &Arguments, database: &Database, folder: PathBuf, binary: PathBuf) -> Result<Stage> {
    for part in ["documents", "store"] {
        let path = folder.join(part);
        if path.exists() {
            fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    timed("loading the database", || match &arguments.dump {
        Some(dump) => database.restore(dump),
        None => database.script(&tests::sample::sql()),
    })?;
    let documents = prepare_documents(arguments.documents.as_deref(), &folder.join("documents"))?;
    let store = folder.join("store");
    fs::create_dir(&store).with_context(|| format!("cannot make {}", store.display()))?;
    let config = configuration(&documents, &store, database);
    let path = folder.join("dolibarr-backup.toml");
    fs::write(&path, config).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(Stage { folder, documents, binary, config: "dolibarr-backup.toml" })
}

fn prepare_documents(given: Option<&Path>, own: &Path) -> Result<PathBuf> {
    match given {
        Some(folder) if folder.is_dir() => {
            fs::canonicalize(folder).with_context(|| format!("cannot read {}", folder.display()))
        }
        Some(archive) => {
            fs::create_dir(own).with_context(|| format!("cannot make {}", own.display()))?;
            quiet(
                Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(own),
                "give --documents a .tar.gz or a folder",
            )?;
            only_folder_in(own)
        }
        None => {
            tests::sample::write_documents(own).with_context(|| format!("cannot write {}", own.display()))?;
            Ok(own.to_path_buf())
        }
    }
}

/// Returns the only folder in an unpacked archive, or `folder` itself if the archive contains more.
fn only_folder_in(folder: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
    let entries = entries.with_context(|| format!("cannot read {}", folder.display()))?;
    match entries.as_slice() {
        [one] if one.path().is_dir() => Ok(one.path()),
        _ => Ok(folder.to_path_buf()),
    }
}

fn configuration(documents: &Path, store: &Path, database: &Database) -> String {
    let text = |path: &Path| format!("{:?}", path.to_string_lossy());
    let url = format!("file://{}", store.display());
    format!(
        r#"# Written by `cargo xtask demo`.
time_zone = "Europe/Paris"

[store]
url = {url:?}

[env.{ENVIRONMENT}.sources.db]
kind = "postgres"
host = "127.0.0.1"
port = {port}
ssl_mode = "disable"
database = "{DATABASE}"
credentials = {{ files = {credentials} }}

[env.{ENVIRONMENT}.sources.docs]
kind = "directory"
path = {documents}

[plugins.fingerprint]
component = "fingerprint.wasm"
grants = ["database-evidence", "tree-evidence"]

[plugins.dump]
component = "dump.wasm"
grants = ["database-dump", "tree-archive", "object-write"]

[plugins.retention]
component = "retention-tiered.wasm"
grants = []
settings = {{ daily = 30, monthly = 12, yearly = 10, fiscal_year_end = "12-31" }}
"#,
        port = database.server.port(),
        credentials = text(&database.credentials),
        documents = text(documents),
    )
}

/// Shows a first backup, an unchanged day, a changed invoice, a question about an empty folder, the list and the bin.
fn show(stage: &Stage, database: &Database, real: bool) -> Result<()> {
    heading("initialise the environment once; backup refuses a store that was not initialised");
    stage.run(&["init"])?;
    heading("a first backup: both sources are new");
    stage.run(&["backup"])?;
    heading("a second backup: nothing changed, so nothing is dumped, but the run is recorded");
    stage.run(&["backup"])?;
    if real {
        heading("an invoice changes in the throwaway database");
        database.script(CHANGE_REAL_INVOICE)?;
    } else {
        heading("an invoice changes: its amount, its line in the ledger, its PDF");
        database.script(tests::sample::CHANGE_INVOICE)?;
        tests::sample::rewrite_invoice_pdf(&stage.documents).context("cannot rewrite the invoice's PDF")?;
    }
    stage.run(&["backup"])?;
    heading("the documents' disk is not mounted: the backup is saved but suspect; nothing is forgotten (exit code 3)");
    let unmounted = stage.unmounted()?;
    unmounted.run_to(&["backup"], COMMITTED_WITH_DOUBTS)?;
    heading("status shows a question and the command that answers it (exit code 4)");
    stage.run_to(&["status"], QUESTION_OPEN)?;
    heading("the administrator accepts the change, so that new backups of the documents count again");
    stage.run(&["accept"])?;
    stage.run(&["backup"])?;
    heading("the snapshots, and why each is kept");
    stage.run(&["list"])?;
    let now = quiet(
        Command::new("date").args(["-u", "-d", &format!("{SIMULATED_DAYS} days"), "+%Y-%m-%dT%H:%M:%SZ"]),
        "install coreutils",
    )?;
    heading(&format!("retention {SIMULATED_DAYS} days from now: snapshots to forget stay in the bin for a week"));
    stage.run(&["prune", "--now", now.trim()])?;
    stage.run(&["list", "--now", now.trim()])
}

fn heading(text: &str) {
    eprintln!("\n# {text}");
}

impl Stage {
    /// Runs the binary and prints the command line so that it can be pasted.
    fn run(&self, verb: &[&str]) -> Result<()> {
        self.run_to(verb, 0)
    }

    /// Does the same for a command that must end with an exit code.
    fn run_to(&self, verb: &[&str], code: i32) -> Result<()> {
        let mut command = self.command(verb);
        eprintln!("$ {}", shown(&command));
        let status = command.status().with_context(|| format!("cannot start {}", self.binary.display()))?;
        if status.code() == Some(code) {
            return Ok(());
        }
        Err(failure(
            format_args!("the command ended with {status}, expected exit code {code}"),
            "see its message above; the demo's folder is kept",
        ))
    }

    /// The same environment with an empty folder in place of the documents.
    fn unmounted(&self) -> Result<Self> {
        let empty = self.folder.join("unmounted");
        fs::create_dir_all(&empty).with_context(|| format!("cannot make {}", empty.display()))?;
        let text = fs::read_to_string(self.config()).context("cannot read the configuration")?;
        let quoted = |path: &Path| format!("{:?}", path.to_string_lossy());
        let config = self.folder.join("unmounted.toml");
        fs::write(&config, text.replace(&quoted(&self.documents), &quoted(&empty)))
            .context("cannot write to the demo's folder")?;
        let (folder, documents, binary) = (self.folder.clone(), empty, self.binary.clone());
        Ok(Self { folder, documents, binary, config: "unmounted.toml" })
    }

    fn config(&self) -> PathBuf {
        self.folder.join(self.config)
    }

    fn command(&self, verb: &[&str]) -> Command {
        let mut command = Command::new(from_here(&self.binary));
        command.arg("--config").arg(from_here(&self.config()));
        command.arg(verb[0]).args(["--env", ENVIRONMENT]).args(&verb[1..]);
        command
    }
}

/// The path relative to the current folder, if it is below it.
fn from_here(path: &Path) -> PathBuf {
    let here = std::env::current_dir().ok();
    let relative = here.and_then(|here| path.strip_prefix(here).ok().map(Path::to_path_buf));
    relative.unwrap_or_else(|| path.to_path_buf())
}

fn print_next_steps(stage: &Stage, is_running: bool) {
    let folder = from_here(&stage.folder);
    let path = |name: &str| folder.join(name).display().to_string();
    let show = |verb: &[&str]| shown(&stage.command(verb));
    let force = show(&["backup", "--force"]);
    let list = show(&["list"]);
    let when = if is_running { "until you press Enter" } else { "in a new demonstration (cargo xtask demo --stay)" };
    say("done");
    eprintln!(
        "
configuration  {config}
store          {store}
documents      {documents}

Without the database:
  {list}
  {list} --json
  find {store} -type f
  tar -tzf {store}/{ENVIRONMENT}/docs/*.tar.gz | head

With the database, {when}:
  {force}
  other settings in the configuration: retention-last.wasm with settings = {{ keep = 1 }}, or documents = \"content\"",
        config = path("dolibarr-backup.toml"),
        store = path("store"),
        documents = from_here(&stage.documents).display(),
    );
}

#[cfg(test)]
mod tests_of_the_demo {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    #[test]
    fn a_real_dump_needs_its_documents_and_the_reverse() {
        for (line, accepted) in [
            (&["demo"][..], true),
            (&["demo", "--dump", "x", "--documents", "y"], true),
            (&["demo", "--dump", "x"], false),
            (&["demo", "--documents", "y"], false),
        ] {
            assert_eq!(Line::try_parse_from(line).is_ok(), accepted, "{line:?}");
        }
    }

    #[test]
    fn a_missing_dump_is_refused_before_anything_is_built() {
        let line =
            Line::try_parse_from(["demo", "--dump", "/nonexistent", "--documents", "/"]).map(|line| line.arguments);
        let Ok(arguments) = line else { panic!("it parses") };
        assert!(check(&arguments).is_err_and(|error| error.to_string().contains("/nonexistent is not a file")));
    }
}
