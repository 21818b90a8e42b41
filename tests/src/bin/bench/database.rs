//! The database, compared with `pg_dump`.

use super::board::{BASELINE, Board, OURS};
use super::measure::{Measured, measured};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tests::binary::Config;
use tests::postgres::Server;

const DUMP: &str = "Dump";
const FIRST: &str = "Backup that dumps, the whole run";
const FINGERPRINT: &str = "Exact fingerprint";
const UNCHANGED: &str = "Unchanged day";
const RESTORE: &str = "Restore";
const NEWER_DUMP: &str = "Dump with a newer pg_dump";

/// Gzip levels for pg_dump: the one that this program chooses, the default and the fastest.
const LEVELS: [u8; 3] = [4, 6, 1];

/// Compression arguments for the newer pg_dump: none, and the one that this program passes.
const NEWER_COMPRESSIONS: [&str; 2] = ["", "--compress=zstd:3"];

/// Measured size on disk of one unit of [`FILL`], with indexes.
const UNIT_MIB: u64 = 80;

/// The tables that are large in a real installation, in the same proportions.
const TABLES: &str = include_str!("database/tables.sql");

/// Rows of one unit; `$UNIT` is its number.
const FILL: &str = include_str!("database/fill.sql");

/// The database that a restore creates.
const RESTORED: &str = "erp_restored";

/// Unchanged days in one round with a baseline. A fingerprint takes some seconds and varies by several per cent.
const UNCHANGED_DAYS: usize = 4;

/// Starts a server and fills the database.
fn filled(mib: u64) -> Result<Server> {
    let server = Server::start().context("no PostgreSQL server is installed")?;
    server.create_database("erp", &[]);
    server.psql("erp", TABLES);
    for unit in 0..mib.div_ceil(UNIT_MIB) {
        server.psql("erp", &FILL.replace("$UNIT", &unit.to_string()));
    }
    server.psql("erp", "VACUUM ANALYZE");
    Ok(server)
}

/// Writes a configuration with these lines for the database.
fn configured(server: &Server, folder: &Path, store: &Path, lines: &str) -> Result<PathBuf> {
    fs::create_dir_all(folder)?;
    let host = server.socket().display().to_string();
    let login = folder.join("login");
    fs::create_dir_all(&login)?;
    fs::write(login.join("username"), "postgres")?;
    // The socket needs no password, but an empty file is an error.
    fs::write(login.join("password"), "unused")?;
    let config = Config::directory_store(store);
    Ok(config.database(("prod", "db"), (&host, server.port()), "erp", &login, lines).write(folder)?)
}

/// Measures the same work with two builds in turns.
pub fn with_baseline(folder: &Path, binary: &Path, baseline: &Path, mib: u64, rounds: usize) -> Result<Board> {
    let server = filled(mib)?;
    let mut board = Board::new("Database compared with a baseline");
    board.notes.push(format!(
        "Medians of {rounds} rounds with {UNCHANGED_DAYS} unchanged days each, in turns. The baseline is {}.",
        baseline.display()
    ));
    let configure = |binary, name: &str| {
        let own = folder.join(format!("database-{name}"));
        let store = own.join("store");
        let config = configured(&server, &own, &store, "")?;
        init_empty(binary, &config, &store)?;
        Ok::<_, anyhow::Error>((binary, config))
    };
    let mut pair = [(OURS, configure(binary, "ours")?), (BASELINE, configure(baseline, "baseline")?)];
    for round in 0..rounds {
        // One round has an even number of turns, so each round starts with the other build.
        pair.rotate_left(round % 2);
        for time in 0..=UNCHANGED_DAYS {
            pair.reverse();
            // The store names runs by the second.
            std::thread::sleep(std::time::Duration::from_millis(1_100));
            for (name, (build, config)) in &pair {
                let began = std::time::Instant::now();
                let source = backup(build, config)?;
                let whole = u64::try_from(began.elapsed().as_millis())?;
                board.add(FINGERPRINT, name, millis(&source, "fingerprint_millis")?);
                if source["outcome"] == "saved" {
                    board.add(DUMP, name, millis(&source, "dump_millis")?);
                    board.add(FIRST, name, Measured::from_millis(whole));
                } else {
                    ensure!(time > 0, "the first backup of a round saved nothing: {source}");
                    board.add(UNCHANGED, name, Measured::from_millis(whole));
                }
            }
        }
        pair.reverse();
        for (name, (build, config)) in &pair {
            let mut restore = verb("restore", build, config);
            restore.args(["--source", "db", "--into", RESTORED, "--server"]).arg(address(&server)?);
            board.add(RESTORE, name, measured(&mut restore)?);
            server.psql("postgres", &format!("DROP DATABASE {RESTORED}"));
        }
        // The next round must have a change to dump.
        server.psql("erp", &format!("CREATE TABLE round_{round} ()"));
    }
    Ok(board)
}

/// The server in the form of `--server`.
fn address(server: &Server) -> Result<String> {
    let socket = server.socket().to_str().context("the socket's folder is not UTF-8")?.replace('/', "%2F");
    Ok(format!("postgres://postgres@{socket}:{}/", server.port()))
}

pub fn measure(folder: &Path, binary: &Path, mib: u64, rounds: usize) -> Result<Board> {
    let server = filled(mib)?;
    let size = server.psql("erp", "SELECT pg_database_size('erp') >> 20");
    let version = server.psql("erp", "SHOW server_version");
    let mut board = Board::new("Database");
    board.notes.push(format!(
        "{} MiB on disk, PostgreSQL {}; medians of {rounds} rounds in turns. The peer is `pg_dump` to /dev/null, at \
         several gzip levels. Times of dolibarr-backup come from its record, except for the unchanged day, which is \
         the whole run.",
        size.trim(),
        version.trim()
    ));
    let store = folder.join("store");
    let newer = tests::postgres::newer();
    match &newer {
        Ok(_) => board.notes.push(format!(
            "The newer pg_dump is that of PostgreSQL {}, with the same server.",
            tests::NEWER_POSTGRES_VERSION
        )),
        Err(why) => board.notes.push(format!("A newer pg_dump is left out: {why}.")),
    }
    let config = |name: &str, lines: &str| -> Result<_> {
        configured(&server, &folder.join(format!("database-{name}")), &store, lines)
    };
    let (several, one) = (config("several", "")?, config("one", "connections = 1\n")?);
    let newer = newer.ok().map(|bin| {
        let path = bin.join("pg_dump");
        config("newer", &format!("pg_dump = {:?}\n", path.display().to_string())).map(|config| (path, config))
    });
    let newer = newer.transpose()?;
    for round in 0..rounds {
        init_empty(binary, &several, &store)?;
        let source = backup(binary, &several)?;
        board.add(DUMP, OURS, millis(&source, "dump_millis")?);
        board.stored(DUMP, OURS, source["object"]["bytes"].as_u64().context("no size")?);
        board.add(FINGERPRINT, OURS, millis(&source, "fingerprint_millis")?);
        for level in LEVELS {
            let who = format!("`pg_dump -Fc --compress={level}`");
            let peer = || pg_dump(&server, Path::new("pg_dump"), &format!("--compress={level}"));
            board.add(DUMP, &who, measured(&mut peer())?);
            if round == 0 {
                board.stored(DUMP, &who, written(peer(), folder)?);
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(1_100));
        board.add(UNCHANGED, OURS, measured(&mut command(binary, &several))?);
        std::thread::sleep(std::time::Duration::from_millis(1_100));
        let source = backup(binary, &one)?;
        board.add(FINGERPRINT, "over one connection", millis(&source, "fingerprint_millis")?);
        let Some((program, config)) = &newer else { continue };
        init_empty(binary, config, &store)?;
        let source = backup(binary, config)?;
        board.add(NEWER_DUMP, OURS, millis(&source, "dump_millis")?);
        board.stored(NEWER_DUMP, OURS, source["object"]["bytes"].as_u64().context("no size")?);
        for compression in NEWER_COMPRESSIONS {
            let who = format!("`pg_dump -Fc{}{compression}`", if compression.is_empty() { "" } else { " " });
            let peer = || pg_dump(&server, program, compression);
            board.add(NEWER_DUMP, &who, measured(&mut peer())?);
            if round == 0 {
                board.stored(NEWER_DUMP, &who, written(peer(), folder)?);
            }
        }
    }
    Ok(board)
}

fn command(binary: &Path, config: &Path) -> Command {
    verb("backup", binary, config)
}

fn verb(verb: &str, binary: &Path, config: &Path) -> Command {
    let mut command = Command::new(binary);
    command.args([verb, "--env", "prod", "--json", "--config"]).arg(config).stderr(Stdio::null());
    command
}

/// Empties the store and initialises the environment.
fn init_empty(binary: &Path, config: &Path, store: &Path) -> Result<()> {
    drop(fs::remove_dir_all(store));
    measured(&mut verb("init", binary, config)).map(drop)
}

/// Runs a backup. Returns the source's entry in its report.
fn backup(binary: &Path, config: &Path) -> Result<Value> {
    // As before each run of a peer.
    rustix::fs::sync();
    let output = command(binary, config).stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "the backup ended with {}", output.status);
    let mut document: Value = serde_json::from_slice(&output.stdout)?;
    Ok(document["snapshot"]["sources"]["db"].take())
}

fn millis(source: &Value, name: &str) -> Result<Measured> {
    Ok(Measured::from_millis(source[name].as_u64().with_context(|| format!("the report has no {name}: {source}"))?))
}

fn pg_dump(server: &Server, program: &Path, compression: &str) -> Command {
    let mut command = server.client(program);
    command.arg("-Fc").args(Some(compression).filter(|text| !text.is_empty())).args(["--dbname", "erp"]);
    command
}

/// Runs a command and returns the size of its output in bytes.
fn written(mut command: Command, folder: &Path) -> Result<u64> {
    let file = folder.join("peer.dump");
    let status = command.stdin(Stdio::null()).stdout(fs::File::create(&file)?).status()?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(fs::metadata(&file)?.len())
}
