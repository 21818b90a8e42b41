//! Against a real server: what is shared by the tests of connecting, of evidence and of dumps.

mod compression;
mod connect;
mod dump;
mod evidence;
mod opening;
mod real;
mod rows;

use super::{Config, Digest, DumpOptions, Listing, Selection, Session, SessionAttrs, SslMode, TableName};
use base::error::Result;
use base::evidence::Selected;
use base::secret::Source;
use base::stream::ByteStream;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tests::postgres::Server;

/// A password that must turn up nowhere.
const CANARY: &str = "canary-7f3a9c";

/// Every kind of column and table that a digest has to get right, and a role that may only read.
const SAMPLE: &str = include_str!("tests/sample.sql");

/// Waits until something is there.
async fn wait_for<T>(mut found: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "waited in vain");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A configuration for the administrator, who needs no password on the socket.
fn config(server: &Server, database: &str) -> Config {
    let administrator = Source { user: Some("postgres".to_owned()), ..Source::default() };
    let config = Config::new(server.socket().to_str().unwrap(), server.port(), database, administrator);
    Config { pg_dump: Some(server.bin().join("pg_dump")), ..config }
}

/// A folder with `username` and `password`, as a Secret is mounted.
fn credentials(user: &str, password: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("username"), format!("{user}\n")).unwrap();
    std::fs::write(folder.path().join("password"), format!("{password}\n")).unwrap();
    folder
}

/// A configuration for the role that may only read, over TCP.
fn reader_config(server: &Server, database: &str, credentials: &tempfile::TempDir) -> Config {
    Config {
        host: "127.0.0.1".to_owned(),
        credentials: Source { files: Some(credentials.path().to_owned()), ..Source::default() },
        ..config(server, database)
    }
}

/// A server with the database `sample`.
fn sample() -> Option<Server> {
    let server = Server::start()?;
    server.create_database("sample", &[]);
    server.psql("sample", SAMPLE);
    Some(server)
}

async fn open(config: &Config) -> Arc<Session> {
    Session::open(config, "prod/db".to_owned()).await.unwrap()
}

async fn refusal(config: &Config) -> base::error::Error {
    Session::open(config, "prod/db".to_owned()).await.unwrap_err()
}

fn whole(table: &TableName) -> Selection {
    Selection { table: table.clone(), skip_columns: Vec::new(), skip_rows: None }
}

fn public(name: &str) -> TableName {
    TableName { schema: "public".to_owned(), name: name.to_owned() }
}

/// Every table's digest.
async fn digests(session: &Session) -> BTreeMap<TableName, Digest> {
    let selections: Vec<_> = session.tables().await.unwrap().iter().map(|table| whole(&table.name)).collect();
    let digests = session.digest(&selections).await.unwrap();
    digests.into_iter().map(|digest| (digest.table.clone(), digest)).collect()
}

/// Every table's digest in a snapshot of its own.
async fn digests_now(config: &Config) -> BTreeMap<TableName, Digest> {
    let session = open(config).await;
    let digests = digests(&session).await;
    session.close().await;
    digests
}

async fn read(mut stream: ByteStream) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(block) = stream.next().await? {
        bytes.extend_from_slice(&block);
    }
    Ok(bytes)
}

/// The whole dump in a file.
async fn dump(session: &Arc<Session>, options: DumpOptions, folder: &Path) -> PathBuf {
    let file = folder.join("dump");
    std::fs::write(&file, read(session.dump(options).unwrap()).await.unwrap()).unwrap();
    file
}
