//! Fetching a dump to a file, whole and as it was recorded, before anything is done with it.
//!
//! Here every byte of an object is read once and held against what the record says; nothing is restored here.

use crate::session::Host;
use base::error::{Class, Error, Result};
use base::scratch::Scratch;
use base::stream::{BlockingReader, ByteStream, cause, stopped};
use base::telemetry;
use catalogue::history::Object;
use indicatif::HumanBytes;
use postgres::{Contents, Flaw, Scanner};
use sha2::{Digest, Sha256};
use std::io::{self, BufRead, Write};
use std::path::Path;
use tempfile::NamedTempFile;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

/// A dump in a file that goes with its value.
#[derive(Debug)]
pub struct Fetched {
    /// The file.
    pub file: NamedTempFile,
    /// What it holds; none for a format that only pg_restore knows.
    pub contents: Option<Contents>,
    /// Where it lies, so that what a killed process leaves is found.
    _place: Scratch,
}

/// Reads from the store what a dump says of itself: where it comes from, and its table of contents. No more of it is fetched.
///
/// # Errors
/// Of class [`Class::Stale`] for what is no dump; the store's.
pub async fn contents(host: &Host, object: &Object) -> Result<Contents> {
    let unknown = || {
        flawed(object, "it has a format that this version does not know").hint("use the pg_restore that belongs to it")
    };
    let (mut stream, mut scanner) = (host.store.read(&object.key, None).await?, Scanner::new());
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
/// Of class [`Class::Stale`], naming the object, when it is not what it was; [`Class::Unexpected`] without room for it.
pub async fn dump(host: &Host, object: &Object, scratch: &Path, stop: &CancellationToken) -> Result<Fetched> {
    check_room(scratch, object.bytes)?;
    let bar = telemetry::bar("fetching", Some(object.bytes));
    let stream = host.store.read(&object.key, None).await?.observed(bar.clone());
    let failed = {
        let place = scratch.display().to_string();
        move |error: io::Error| {
            Error::unexpected(format!("{place} cannot be written to: {error}"))
                .hint("name a folder with room with --scratch")
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
    fetched.map_err(|error| Error::unexpected(format!("the thread that fetches ended: {error}")))?
}

/// Reads a dump and checks it as [`dump`] does, and keeps nothing of it.
///
/// # Errors
/// As [`dump`].
pub async fn check(host: &Host, object: &Object, stop: &CancellationToken) -> Result<Option<Contents>> {
    let stream = host.store.read(&object.key, None).await?;
    let (object, stop) = (object.clone(), stop.child_token());
    let _stop_on_drop = stop.clone().drop_guard();
    let runtime = Handle::current();
    let work = tokio::task::spawn_blocking(move || read(&object, stream, &runtime, &stop, |_| Ok(())));
    work.await.map_err(|error| Error::unexpected(format!("the thread that reads ended: {error}")))?
}

/// Passes every block to `each`, and compares the whole.
fn read(
    object: &Object,
    stream: ByteStream,
    runtime: &Handle,
    stop: &CancellationToken,
    mut each: impl FnMut(&[u8]) -> Result<()>,
) -> Result<Option<Contents>> {
    let mut reader = BlockingReader::new(stream, runtime.clone(), stop.clone(), false);
    let (mut hasher, mut scanner, mut bytes) = (Sha256::new(), Scanner::new(), 0);
    let unreadable =
        |error: io::Error| cause(error, |error| Error::unavailable(format!("{} cannot be read: {error}", object.key)));
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
            return Err(stopped());
        }
    }
    let found = hex::encode(hasher.finalize());
    if bytes != object.bytes {
        return Err(flawed(object, format!("it has {bytes} bytes, not {}", object.bytes)));
    }
    if object.sha256.as_ref().is_some_and(|expected| *expected != found) {
        return Err(flawed(object, "its SHA-256 is not the one that was recorded"));
    }
    let contents = scanner.finish().map_err(|flaw| unfit(object, flaw))?;
    contents.iter().try_for_each(|contents| check_rows(object, contents))?;
    Ok(contents)
}

/// Whether a folder has room for so much.
///
/// # Errors
/// Of class [`Class::Unexpected`] when not, [`Class::Config`] when there is no such folder.
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
    Err(Error::unexpected(format!("not enough space in {place}: {} of {} needed", HumanBytes(room), HumanBytes(bytes)))
        .hint("make room, or name another folder with --scratch"))
}

/// The failure of whoever reads a dump that is not what it was.
fn flawed(object: &Object, why: impl std::fmt::Display) -> Error {
    Error::new(Class::Stale, format!("the object {} is damaged: {why}", object.key))
        .hint("take another snapshot, or a copy of this object; `verify` says which are whole")
}

/// The failure of whoever reads what is no archive of pg_dump, or one of another form.
fn unfit(object: &Object, flaw: Flaw) -> Error {
    match flaw {
        Flaw::Packed | Flaw::PlainSql | Flaw::TarForm | Flaw::RowsAlone => {
            Error::new(Class::Stale, format!("the object {} cannot be restored here: {flaw}", object.key))
                .hint("fetch it and restore it by hand, or take another snapshot")
        }
        flaw => flawed(object, flaw),
    }
}

/// Refuses what a script left that has tables and no row of any: `pg_dump --schema-only`. What a run of this program made has all rows that
/// there were.
fn check_rows(object: &Object, contents: &Contents) -> Result<()> {
    if object.sha256.is_some() || contents.tables > 0 || contents.definitions == 0 {
        return Ok(());
    }
    Err(flawed(
        object,
        format!("it has {} tables and the rows of none, as pg_dump --schema-only makes it", contents.definitions),
    )
    .hint("take another snapshot; for the tables alone fetch it and use pg_restore"))
}
