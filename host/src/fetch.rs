//! Fetches a dump to a file and checks it against its record before it is used.
//!
//! Every byte of an object is read once. Nothing is restored here.

use base::error::{Class, Error, Result};
use base::scratch::Scratch;
use base::stream::{BlockingReader, ByteStream, interrupted_error, producer_error};
use base::telemetry;
use catalogue::history::Object;
use indicatif::HumanBytes;
use postgres::{Contents, Flaw, Scanner};
use sha2::{Digest, Sha256};
use std::io::{self, BufRead, Write};
use std::path::Path;
use store::Store;
use tempfile::NamedTempFile;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

/// A dump in a temporary file, which is removed on drop.
#[derive(Debug)]
pub struct Fetched {
    /// The file.
    pub file: NamedTempFile,
    /// Its table of contents; `None` for a format that only pg_restore can read.
    pub contents: Option<Contents>,
    /// Its folder, which a later run removes if this process is killed.
    _place: Scratch,
}

/// Reads only the header of a dump: its origin and its table of contents.
///
/// # Errors
/// [`Class::Stale`] if it is not a dump.
pub async fn contents(store: &Store, object: &Object) -> Result<Contents> {
    let unknown = || {
        flawed(object, "this version does not know its format").hint("restore it with the pg_restore of its version")
    };
    let (mut stream, mut scanner) = (store.read(&object.key, None).await?, Scanner::new());
    while let Some(block) = stream.next().await? {
        scanner.feed(&block);
        if let Some(contents) = scanner.contents().map_err(|flaw| unfit(object, flaw))? {
            let contents = contents.cloned().ok_or_else(unknown)?;
            return check_rows(object, &contents).map(|()| contents);
        }
    }
    let contents = scanner.finish().map_err(|flaw| unfit(object, flaw))?.ok_or_else(unknown)?;
    check_rows(object, &contents).map(|()| contents)
}

/// Fetches a dump and checks it against the record and against its own table of contents.
///
/// # Errors
/// [`Class::Stale`] if the object is damaged, naming it; [`Class::Unexpected`] if there is not enough space.
pub async fn dump(store: &Store, object: &Object, scratch: &Path, stop: &CancellationToken) -> Result<Fetched> {
    check_room(scratch, object.bytes)?;
    let bar = telemetry::bar("fetching", Some(object.bytes));
    let stream = store.read(&object.key, None).await?.observed(bar.clone());
    let failed = {
        let place = scratch.display().to_string();
        move |error: io::Error| {
            Error::unexpected(format!("{place} cannot be written to: {error}"))
                .hint("name a folder with enough space with --scratch")
        }
    };
    let place = Scratch::make(scratch).map_err(&failed)?;
    let mut file = tempfile::Builder::new().suffix(".dump").tempfile_in(place.path()).map_err(&failed)?;
    let (object, stop) = (object.clone(), stop.child_token());
    let _stop_on_drop = stop.clone().drop_guard();
    let runtime = Handle::current();
    let work = move || {
        let contents = read(&object, stream, &runtime, &stop, |block| file.write_all(block).map_err(&failed))?;
        file.flush().map_err(&failed)?;
        Ok(Fetched { file, contents, _place: place })
    };
    let fetched = tokio::task::spawn_blocking(work).await;
    bar.finish_and_clear();
    fetched.map_err(|error| Error::unexpected(format!("the fetching thread ended: {error}")))?
}

/// Reads and checks a dump as [`dump`] does, without keeping it.
pub async fn check(store: &Store, object: &Object, stop: &CancellationToken) -> Result<Option<Contents>> {
    let stream = store.read(&object.key, None).await?;
    let (object, stop) = (object.clone(), stop.child_token());
    let _stop_on_drop = stop.clone().drop_guard();
    let runtime = Handle::current();
    let work = tokio::task::spawn_blocking(move || read(&object, stream, &runtime, &stop, |_| Ok(())));
    work.await.map_err(|error| Error::unexpected(format!("the reading thread ended: {error}")))?
}

/// Passes every block to `each`, then checks the size and the SHA-256.
fn read(
    object: &Object,
    stream: ByteStream,
    runtime: &Handle,
    stop: &CancellationToken,
    mut each: impl FnMut(&[u8]) -> Result<()>,
) -> Result<Option<Contents>> {
    let mut reader = BlockingReader::new(stream, runtime.clone(), stop.clone(), false);
    let (mut hasher, mut scanner, mut bytes) = (Sha256::new(), Scanner::new(), 0);
    let unreadable = |error: io::Error| {
        producer_error(error, |error| Error::unavailable(format!("{} cannot be read: {error}", object.key)))
    };
    loop {
        let block = reader.fill_buf().map_err(unreadable)?;
        let length = block.len();
        if length == 0 {
            break;
        }
        hasher.update(block);
        scanner.feed(block);
        each(block)?;
        bytes += length as u64;
        reader.consume(length);
        if stop.is_cancelled() {
            return Err(interrupted_error());
        }
    }
    let found = hex::encode(hasher.finalize());
    if bytes != object.bytes {
        return Err(flawed(object, format!("it has {bytes} bytes, expected {}", object.bytes)));
    }
    if object.sha256.as_ref().is_some_and(|expected| *expected != found) {
        return Err(flawed(object, "its SHA-256 does not match the recorded one"));
    }
    let contents = scanner.finish().map_err(|flaw| unfit(object, flaw))?;
    contents.iter().try_for_each(|contents| check_rows(object, contents))?;
    Ok(contents)
}

/// Checks that a folder has enough free space.
///
/// # Errors
/// [`Class::Unexpected`] if it does not, [`Class::Config`] if the folder cannot be used.
pub fn check_room(scratch: &Path, bytes: u64) -> Result<()> {
    let place = scratch.display();
    let stat = rustix::fs::statvfs(scratch).map_err(|error| {
        Error::config(format!("{place} cannot be used: {}", io::Error::from(error).kind()))
            .hint("name a folder that this user may write to with --scratch")
    })?;
    let room = stat.f_bavail.saturating_mul(stat.f_frsize);
    if room >= bytes {
        return Ok(());
    }
    Err(Error::unexpected(format!(
        "not enough space in {place}: {} available, {} needed",
        HumanBytes(room),
        HumanBytes(bytes)
    ))
    .hint("free some space, or name another folder with --scratch"))
}

/// An error for a damaged dump.
fn flawed(object: &Object, why: impl std::fmt::Display) -> Error {
    Error::new(Class::Stale, format!("the object {} is damaged: {why}", object.key))
        .hint("take another snapshot, or put back a copy of this object; `verify` shows which snapshots are whole")
}

/// An error for an object that is not a pg_dump archive, or has another format.
fn unfit(object: &Object, flaw: Flaw) -> Error {
    match flaw {
        Flaw::Packed | Flaw::PlainSql | Flaw::TarForm | Flaw::DataOnly => {
            Error::new(Class::Stale, format!("the object {} cannot be restored here: {flaw}", object.key))
                .hint("fetch it and restore it by hand, or take another snapshot")
        }
        flaw => flawed(object, flaw),
    }
}

/// Refuses a dump of a script that has tables but no rows, as made by `pg_dump --schema-only`. Dumps made by this
/// program always contain the rows.
fn check_rows(object: &Object, contents: &Contents) -> Result<()> {
    if object.sha256.is_some() || contents.tables > 0 || contents.definitions == 0 {
        return Ok(());
    }
    Err(flawed(object, format!("it has {} tables but no rows, as made by pg_dump --schema-only", contents.definitions))
        .hint("take another snapshot; to get the empty tables, fetch the object and use pg_restore"))
}
