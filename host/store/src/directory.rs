//! A folder as a store: on a disk or a NAS.
//!
//! An object is written to a temporary file next to its final path, synced, and renamed without replacing; then the
//! folder is synced. Only the owner can access files and folders, because backups hold personal data. Symbolic links
//! below the root are never followed, and the root is never recreated after the store was opened.

mod disk;
mod flusher;

use super::{Created, Deleted, GET_BYTES_MAX, LIST_KEYS_MAX, Meta, ObjectKey, Stored};
use base::error::{Error, Result};
use base::stream::{self, ByteStream};
use bytes::Bytes;
use disk::{failure, is_denied, is_missing, meta_of, persist_new, produce, sync_above};
use flusher::Flusher;
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tempfile::NamedTempFile;
use tokio_util::sync::CancellationToken;

/// Prefix of temporary files. The tilde keeps them out of every listing, because no object key contains one.
const TEMPORARY_PREFIX: &str = ".upload~";

/// How long to wait for abandoned uploads. Each ends at its next block.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(10);

/// Only the owner may enter a folder. `tempfile` creates files with mode 0600.
const FOLDER_MODE: u32 = 0o700;

/// A store in a folder.
#[derive(Debug, Clone)]
pub struct Directory {
    root: PathBuf,
    /// The folder did not exist when the store was opened. Reads see it as empty, and the first write creates it.
    is_new: Arc<AtomicBool>,
    /// Held for reading by every upload, including uploads whose future was dropped.
    uploads: Arc<RwLock<()>>,
}

impl Directory {
    /// Opens the folder. If it does not exist, its parent must exist, so that an unmounted disk is noticed; the first
    /// write then creates it.
    ///
    /// # Errors
    /// [`base::error::Class::Config`] if it cannot be used.
    pub async fn open(root: PathBuf) -> Result<Self> {
        blocking(move || {
            let is_new = match std::fs::metadata(&root) {
                Ok(meta) if meta.is_dir() => false,
                Ok(_) => {
                    return Err(Error::config(format!("the store {} is not a folder", root.display()))
                        .hint("set the store's URL to the path of a folder"));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => may_be_created(&root).map(|()| true)?,
                Err(error) => return Err(failure("open the store", &root, &error)),
            };
            if !is_new {
                std::fs::read_dir(&root).map_err(|error| failure("open the store", &root, &error))?;
            }
            Ok(Self { root, is_new: Arc::new(AtomicBool::new(is_new)), uploads: Arc::default() })
        })
        .await
    }

    /// The folder as a URL.
    pub fn describe(&self) -> String {
        url::Url::from_file_path(&self.root).map_or_else(|()| self.root.display().to_string(), String::from)
    }

    /// See [`super::Store::put_stream`].
    pub async fn put_stream(&self, key: &ObjectKey, content: ByteStream) -> Result<Stored> {
        let (directory, key) = (self.clone(), key.clone());
        let abandoned = CancellationToken::new();
        // Dropping this future stops the thread at its next block.
        let _guard = abandoned.clone().drop_guard();
        let runtime = tokio::runtime::Handle::current();
        blocking(move || {
            let uploads = Arc::clone(&directory.uploads);
            let _upload = uploads.read().unwrap_or_else(PoisonError::into_inner);
            directory.receive(&key, content, &abandoned, &runtime)
        })
        .await
    }

    /// See [`super::Store::settle`].
    pub async fn settle(&self) {
        let uploads = Arc::clone(&self.uploads);
        let settled = blocking(move || {
            drop(uploads.write().unwrap_or_else(PoisonError::into_inner));
            Ok(())
        });
        if tokio::time::timeout(SETTLE_TIME_MAX, settled).await.is_err() {
            tracing::warn!("an abandoned upload to the folder is still running");
        }
    }

    /// See [`super::Store::put`].
    pub async fn put(&self, key: &ObjectKey, body: Bytes) -> Result<()> {
        let (directory, key) = (self.clone(), key.clone());
        blocking(move || {
            let (file, place) = directory.write_temporary(&key, &body)?;
            file.persist(&place).map_err(|e| failure("store", &place, &e.error))?;
            sync_above(&place)
        })
        .await
    }

    /// See [`super::Store::create`].
    pub async fn create(&self, key: &ObjectKey, body: Bytes) -> Result<Created> {
        let (directory, key) = (self.clone(), key.clone());
        blocking(move || {
            let (file, place) = directory.write_temporary(&key, &body)?;
            persist_new(file, &place)
        })
        .await
    }

    /// See [`super::Store::get`].
    pub async fn get(&self, key: &ObjectKey) -> Result<Option<Bytes>> {
        let (directory, key) = (self.clone(), key.clone());
        blocking(move || {
            let Some((file, bytes)) = directory.open_object(&key)? else { return Ok(None) };
            if bytes > GET_BYTES_MAX {
                return Err(super::too_large(&key, bytes));
            }
            let mut body = Vec::new();
            file.take(GET_BYTES_MAX)
                .read_to_end(&mut body)
                .map_err(|error| failure("read", &directory.place(&key), &error))?;
            Ok(Some(Bytes::from(body)))
        })
        .await
    }

    /// See [`super::Store::head`].
    pub async fn head(&self, key: &ObjectKey) -> Result<Option<Meta>> {
        let (directory, key) = (self.clone(), key.clone());
        blocking(move || {
            let place = directory.place(&key);
            match std::fs::symlink_metadata(&place) {
                Ok(meta) if meta.is_file() => meta_of(key, &meta, &place).map(Some),
                Ok(_) => Ok(None),
                Err(error) if is_missing(&error) => directory.check_root().map(|()| None),
                Err(error) => Err(failure("read the metadata of", &place, &error)),
            }
        })
        .await
    }

    /// See [`super::Store::list`].
    pub async fn list(&self, under: &str) -> Result<Vec<Meta>> {
        let (directory, under) = (self.clone(), under.to_owned());
        blocking(move || {
            let mut found = Vec::new();
            directory.walk(&under, &mut |name, entry| {
                let Some(key) = ObjectKey::parse(&name) else {
                    tracing::debug!(name, "skipped a file that is not an object");
                    return Ok(());
                };
                if found.len() >= LIST_KEYS_MAX {
                    return Err(Error::unexpected(format!("the store has more than {LIST_KEYS_MAX} objects")));
                }
                match entry.metadata() {
                    Ok(meta) => found.push(meta_of(key, &meta, &entry.path())?),
                    Err(error) if is_missing(&error) => {}
                    Err(error) => return Err(failure("read the metadata of", &entry.path(), &error)),
                }
                Ok(())
            })?;
            Ok(found)
        })
        .await
    }

    /// See [`super::Store::delete`].
    pub async fn delete(&self, key: &ObjectKey) -> Result<Deleted> {
        let (directory, key) = (self.clone(), key.clone());
        blocking(move || {
            let place = directory.place(&key);
            match std::fs::remove_file(&place) {
                Ok(()) => sync_above(&place).map(|()| Deleted::Gone),
                Err(error) if is_missing(&error) => directory.check_root().map(|()| Deleted::Gone),
                Err(error) if is_denied(&error) => Ok(Deleted::Retained),
                Err(error) => Err(failure("delete", &place, &error)),
            }
        })
        .await
    }

    /// See [`super::Store::abort_uploads`].
    pub async fn abort_uploads(&self, under: &str) -> Result<u32> {
        let (directory, under) = (self.clone(), under.to_owned());
        blocking(move || {
            let mut removed = 0;
            directory.walk(&under, &mut |name, entry| {
                let file = name.rsplit('/').next().unwrap_or_default();
                if !file.starts_with(TEMPORARY_PREFIX) {
                    return Ok(());
                }
                match std::fs::remove_file(entry.path()) {
                    Ok(()) => removed += 1,
                    Err(error) if is_missing(&error) => {}
                    Err(error) => return Err(failure("remove", &entry.path(), &error)),
                }
                Ok(())
            })?;
            Ok(removed)
        })
        .await
    }

    /// See [`super::Store::read`].
    pub async fn read(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<ByteStream> {
        let (directory, key) = (self.clone(), key.clone());
        let (mut file, range, place) = blocking(move || {
            let opened = directory.open_object(&key)?;
            let (file, bytes) = opened.ok_or_else(|| super::missing(&key, &directory.describe()))?;
            let range = range.unwrap_or(0..bytes);
            if range.end > bytes {
                return Err(super::too_short(&key, range.end, bytes));
            }
            Ok((file, range, directory.place(&key)))
        })
        .await?;
        let length = range.end.saturating_sub(range.start);
        let (writer, stream) = stream::channel(Some(length));
        tokio::task::spawn_blocking(move || {
            if let Err(error) = file.seek(SeekFrom::Start(range.start)) {
                return writer.blocking_fail(failure("read", &place, &error));
            }
            produce(file, length, &place, writer);
        });
        Ok(stream)
    }

    /// Whether the store is `other` or lies below it. If the store's folder does not exist yet, its parent is checked.
    pub fn is_below(&self, other: &Path) -> bool {
        let own = std::fs::canonicalize(&self.root);
        let own = own.or_else(|_| self.root.parent().map_or_else(|| Ok(PathBuf::new()), std::fs::canonicalize));
        own.is_ok_and(|own| own.starts_with(other))
    }

    /// Whether a path, which need not exist, lies in the store's folder.
    pub fn holds(&self, path: &Path) -> bool {
        std::fs::canonicalize(&self.root).is_ok_and(|own| base::scratch::resolve_links(path).starts_with(own))
    }

    /// If the process runs as root, gives a new file or folder to the store's owner, who could not read it otherwise.
    fn give_to_owner(&self, created: &Path) -> Result<()> {
        if !rustix::process::geteuid().is_root() {
            return Ok(());
        }
        let chown = || {
            let owner = std::fs::metadata(&self.root)?;
            std::os::unix::fs::lchown(created, Some(owner.uid()), Some(owner.gid()))
        };
        chown().map_err(|error| failure("change the owner of", created, &error))
    }

    fn place(&self, key: &ObjectKey) -> PathBuf {
        self.root.join(key.as_str())
    }

    /// Fails if the root is gone. A missing object must not be confused with a store whose disk was unmounted.
    fn check_root(&self) -> Result<()> {
        match std::fs::metadata(&self.root) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.is_new.load(Ordering::Acquire) => Ok(()),
            Err(error) => Err(failure("open the store", &self.root, &error)),
        }
    }

    /// An object's file and its size; `None` if it does not exist.
    fn open_object(&self, key: &ObjectKey) -> Result<Option<(File, u64)>> {
        let place = self.place(key);
        let nofollow = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or_default();
        let file = match OpenOptions::new().read(true).custom_flags(nofollow).open(&place) {
            Ok(file) => file,
            Err(error) if is_missing(&error) => return self.check_root().map(|()| None),
            Err(error) => return Err(failure("read", &place, &error)),
        };
        let meta = file.metadata().map_err(|error| failure("read", &place, &error))?;
        Ok(meta.is_file().then_some((file, meta.len())))
    }

    /// Creates the folders of an object, and the root only if it did not exist when the store was opened.
    fn create_folders(&self, key: &ObjectKey) -> Result<PathBuf> {
        if self.is_new.load(Ordering::Acquire) {
            create_root(&self.root)?;
            self.is_new.store(false, Ordering::Release);
        }
        let mut folder = self.root.clone();
        let Some((above, _)) = key.as_str().rsplit_once('/') else { return Ok(folder) };
        for segment in above.split('/') {
            folder.push(segment);
            match std::fs::DirBuilder::new().mode(FOLDER_MODE).create(&folder) {
                Ok(()) => {
                    self.give_to_owner(&folder)?;
                    sync_above(&folder)?;
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(failure("create", &folder, &error)),
            }
        }
        Ok(folder)
    }

    /// A new temporary file next to an object's path, and that path.
    fn temporary(&self, key: &ObjectKey) -> Result<(NamedTempFile, PathBuf)> {
        let folder = self.create_folders(key)?;
        let file = tempfile::Builder::new().prefix(TEMPORARY_PREFIX).tempfile_in(&folder);
        let file = file.map_err(|error| failure("write to", &folder, &error))?;
        self.give_to_owner(file.path())?;
        Ok((file, self.place(key)))
    }

    /// Writes a small object to a temporary file and syncs it.
    fn write_temporary(&self, key: &ObjectKey, body: &[u8]) -> Result<(NamedTempFile, PathBuf)> {
        let (mut file, place) = self.temporary(key)?;
        file.write_all(body).map_err(|error| failure("write", &place, &error))?;
        file.as_file().sync_all().map_err(|error| failure("write", &place, &error))?;
        Ok((file, place))
    }

    /// Stores a stream. On any failure, dropping the handle removes the temporary file.
    fn receive(
        &self,
        key: &ObjectKey,
        mut content: ByteStream,
        abandoned: &CancellationToken,
        runtime: &tokio::runtime::Handle,
    ) -> Result<Stored> {
        let (mut file, place) = self.temporary(key)?;
        if place.symlink_metadata().is_ok() {
            return Err(super::exists(key));
        }
        let failed = |error: io::Error| failure("write", &place, &error);
        let mut flusher = Flusher::new(file.as_file()).map_err(failed)?;
        let (mut hasher, mut bytes) = (Sha256::new(), 0);
        while let Some(block) = runtime.block_on(next_unless(abandoned, &mut content))? {
            file.write_all(&block).map_err(failed)?;
            flusher.wrote(block.len() as u64).map_err(failed)?;
            hasher.update(&block);
            bytes += block.len() as u64;
        }
        flusher.finish().map_err(failed)?;
        if abandoned.is_cancelled() {
            return Err(interrupted());
        }
        match persist_new(file, &place)? {
            Created::Created => Ok(Stored { bytes, sha256: hex::encode(hasher.finalize()) }),
            Created::Exists => Err(super::exists(key)),
        }
    }

    /// Visits every file below a folder, with its path below the root. Links are skipped, and so are folders whose
    /// names are not valid in a key.
    fn walk(&self, under: &str, visit: &mut dyn FnMut(String, &std::fs::DirEntry) -> Result<()>) -> Result<()> {
        self.check_root()?;
        let mut folders = vec![under.to_owned()];
        while let Some(name) = folders.pop() {
            let place = self.root.join(&name);
            let entries = match std::fs::read_dir(&place) {
                Ok(entries) => entries,
                Err(error) if is_missing(&error) => continue,
                Err(error) => return Err(failure("list", &place, &error)),
            };
            for entry in entries {
                let entry = entry.map_err(|error| failure("list", &place, &error))?;
                let Ok(segment) = entry.file_name().into_string() else { continue };
                let below = format!("{name}{segment}");
                let kind = entry.file_type().map_err(|error| failure("list", &place, &error))?;
                if kind.is_file() {
                    visit(below, &entry)?;
                } else if kind.is_dir() && ObjectKey::parse(&below).is_some() {
                    folders.push(below + "/");
                }
            }
        }
        Ok(())
    }
}

/// The next block, or an error as soon as the upload is abandoned.
async fn next_unless(abandoned: &CancellationToken, content: &mut ByteStream) -> Result<Option<Bytes>> {
    tokio::select! {
        biased;
        () = abandoned.cancelled() => Err(interrupted()),
        block = content.next() => block,
    }
}

fn interrupted() -> Error {
    Error::new(base::error::Class::Interrupted, "the upload was abandoned")
}

/// Runs blocking work on the runtime's blocking threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::unexpected(format!("a worker thread of the store failed: {error}"))),
    }
}

fn may_be_created(root: &Path) -> Result<()> {
    match root.parent().map(std::fs::metadata) {
        Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => Err(missing_parent(root)),
        Some(Err(error)) => Err(failure("open the store", root, &error)),
        Some(Ok(_)) | None => Ok(()),
    }
}

fn missing_parent(root: &Path) -> Error {
    Error::config(format!("neither the store {} nor its parent folder exists", root.display()))
        .hint("mount the disk, or create the folder")
}

fn create_root(root: &Path) -> Result<()> {
    match std::fs::DirBuilder::new().mode(FOLDER_MODE).create(root) {
        Ok(()) => sync_above(root),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(missing_parent(root)),
        Err(error) => Err(failure("create", root, &error)),
    }
}

#[cfg(test)]
mod tests;
