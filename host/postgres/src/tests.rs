//! Tests against a real server, and the helpers that they share.

mod compression;
mod connect;
mod dump;
mod evidence;
mod opening;
mod real;
mod rows;

use super::{DatabaseConfig, Digest, DumpOptions, Listing, OpenDatabase, Selection, SessionAttrs, SslMode, TableName};
use base::error::Result;
use base::evidence::Selected;
use base::secret::SecretSource;
use base::stream::ByteStream;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tests::postgres::Server;

/// A password that must never appear anywhere.
const CANARY: &str = "canary-7f3a9c";

/// All kinds of columns and tables that a digest must handle, and a role that may only read.
const SAMPLE: &str = include_str!("tests/sample.sql");

/// Waits until `found` returns a value.
async fn wait_for<T>(mut found: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "timed out");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A configuration for the administrator, who needs no password on the socket.
fn config(server: &Server, database: &str) -> DatabaseConfig {
    let administrator = SecretSource { user: Some("postgres".to_owned()), ..SecretSource::default() };
    let config = DatabaseConfig::new(server.socket().to_str().unwrap(), server.port(), database, administrator);
    DatabaseConfig { pg_dump: Some(server.bin().join("pg_dump")), ..config }
}

/// A directory with the files `username` and `password`, like a mounted Secret.
fn credentials(user: &str, password: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("username"), format!("{user}\n")).unwrap();
    std::fs::write(folder.path().join("password"), format!("{password}\n")).unwrap();
    folder
}

/// A configuration for the role that may only read, over TCP.
fn reader_config(server: &Server, database: &str, credentials: &tempfile::TempDir) -> DatabaseConfig {
    DatabaseConfig {
        host: "127.0.0.1".to_owned(),
        credentials: SecretSource { files: Some(credentials.path().to_owned()), ..SecretSource::default() },
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

async fn open(config: &DatabaseConfig) -> Arc<OpenDatabase> {
    OpenDatabase::open(config, "prod/db".to_owned()).await.unwrap()
}

async fn refusal(config: &DatabaseConfig) -> base::error::Error {
    OpenDatabase::open(config, "prod/db".to_owned()).await.unwrap_err()
}

fn whole(table: &TableName) -> Selection {
    Selection { table: table.clone(), skip_columns: Vec::new(), skip_rows: None }
}

fn public(name: &str) -> TableName {
    TableName { schema: "public".to_owned(), name: name.to_owned() }
}

/// The digests of all tables.
async fn digests(session: &OpenDatabase) -> BTreeMap<TableName, Digest> {
    let selections: Vec<_> = session.tables().await.unwrap().iter().map(|table| whole(&table.name)).collect();
    let digests = session.digest(&selections).await.unwrap();
    digests.into_iter().map(|digest| (digest.table.clone(), digest)).collect()
}

/// The digests of all tables in a new snapshot.
async fn digests_now(config: &DatabaseConfig) -> BTreeMap<TableName, Digest> {
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

/// Writes the whole dump to a file.
async fn dump(session: &Arc<OpenDatabase>, options: DumpOptions, folder: &Path) -> PathBuf {
    let file = folder.join("dump");
    std::fs::write(&file, read(session.dump(options).unwrap()).await.unwrap()).unwrap();
    file
}
