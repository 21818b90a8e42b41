//! The life of one multipart upload: it is begun, then completed or aborted, whatever happens to its caller. Also
//! checks whether an object was stored if an answer leaves that open.

use super::failure::{self, Reading, Uncertain};
use super::{S3, WRITE_ID};
use crate::profile::PartChecksum;
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use base::error::{Error, Result};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Attempts to abort an upload: a part that is still being sent can recreate it.
const ABORT_ATTEMPTS_MAX: u32 = 4;

/// Checks of a key whose upload ended without a clear answer. A large store takes a moment to assemble the parts.
const CHECKS_MAX: u32 = 3;

/// A multipart upload. Dropping it aborts it in the background, unless [`Upload::forget`] was called.
pub(super) struct Upload {
    pub store: S3,
    pub key: String,
    pub id: String,
    write_id: String,
    is_open: bool,
}

impl Upload {
    /// Begins an upload in a separate task, so that the answer is not lost if the caller is dropped before it arrives.
    pub(super) async fn begin(store: &S3, key: String) -> Result<Self> {
        let store = store.clone();
        let tracker = store.0.aborts.clone();
        let (sender, begun) = oneshot::channel();
        tracker.spawn(async move {
            // If the caller is gone, the upload is dropped here, and thereby aborted before this task counts as done.
            drop(sender.send(Self::request_begin(store, key).await));
        });
        begun.await.unwrap_or_else(|_| Err(Error::unexpected("the task that begins an upload failed")))
    }

    async fn request_begin(store: S3, key: String) -> Result<Self> {
        let write_id = new_write_id();
        let request = store.0.client.create_multipart_upload().bucket(&store.0.bucket).key(&key);
        let checksum = match store.0.facts.part_checksum {
            PartChecksum::Md5 => None,
            PartChecksum::Crc32c => Some(ChecksumAlgorithm::Crc32C),
        };
        let answer = request.metadata(WRITE_ID, &write_id).set_checksum_algorithm(checksum).send().await;
        let answer = answer.map_err(|error| store.failure(&format!("begin the upload of {key}"), error))?;
        let id = answer.upload_id().map(str::to_owned);
        let id = id.ok_or_else(|| Error::unexpected(format!("{} returned no id for an upload", store.0.endpoint)))?;
        Ok(Self { store, key, id, write_id, is_open: true })
    }

    /// Completes the upload and checks that the object exists with its size.
    pub(super) async fn complete(&self, parts: Vec<CompletedPart>, bytes: u64) -> Result<()> {
        let Err(reading) = self.request_completion(parts).await else {
            return match is_stored(&self.store, &self.key, &self.write_id, bytes).await? {
                true => Ok(()),
                false => Err(Error::unexpected(format!(
                    "{} completed the upload of {}, but returns a different object",
                    self.store.0.endpoint, self.key
                ))),
            };
        };
        if reading.is_ambiguous() && is_stored(&self.store, &self.key, &self.write_id, bytes).await.unwrap_or(false) {
            tracing::debug!(key = self.key, "the answer was unclear, but the object exists");
            return Ok(());
        }
        Err(self.store.explain(&format!("complete {}", self.key), reading))
    }

    async fn request_completion(&self, parts: Vec<CompletedPart>) -> Uncertain<()> {
        let request = self.store.0.client.complete_multipart_upload().bucket(&self.store.0.bucket).key(&self.key);
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let request = request.upload_id(&self.id).multipart_upload(parts).customize();
        let request = request.config_override(self.store.0.patience.upload_overrides());
        request.send().await.map(drop).map_err(|error| failure::read(&error))
    }

    /// Marks the upload as complete, so that dropping it does not abort it.
    pub(super) fn forget(mut self) {
        self.is_open = false;
    }

    /// Aborts the upload. The abort continues even if the caller is dropped.
    pub(super) async fn abort(mut self) {
        let abort = self.abort_in_background();
        drop(abort.await);
    }

    fn abort_in_background(&mut self) -> JoinHandle<()> {
        self.is_open = false;
        let (store, key, id) = (self.store.clone(), self.key.clone(), self.id.clone());
        self.store.0.aborts.spawn(async move { abort(&store, &key, &id).await })
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // Without a runtime the process is exiting, and the next run removes the upload.
        if self.is_open && tokio::runtime::Handle::try_current().is_ok() {
            drop(self.abort_in_background());
        }
    }
}

/// Aborts an upload until the store no longer lists it. Failures are only logged: the next run tries again.
pub(super) async fn abort(store: &S3, key: &str, id: &str) {
    for attempt in 1..=ABORT_ATTEMPTS_MAX {
        let request = store.0.client.abort_multipart_upload().bucket(&store.0.bucket).key(key).upload_id(id);
        if let Err(error) = request.send().await {
            let reading = failure::read(&error);
            let is_denied = matches!(reading, Reading::Refused { status: 401 | 403, .. });
            let error = store.explain("abort an upload", reading);
            if is_denied {
                return tracing::warn!(key, %error, "an unfinished upload remains in the store");
            }
            tracing::debug!(key, %error, "aborting an upload failed");
        }
        match store.open_uploads(key).await {
            Ok(open) if !open.iter().any(|(_, other)| other == id) => return,
            Ok(_) => tracing::debug!(key, attempt, "an aborted upload still exists"),
            Err(error) => return tracing::debug!(key, %error, "could not check whether an upload is aborted"),
        }
        tokio::time::sleep(store.0.patience.backoff(attempt)).await;
    }
    tracing::warn!(key, "an unfinished upload could not be removed; the next run tries again");
}

/// Whether the object at a key is the one that was written with this `write_id` and size.
pub(super) async fn is_stored(store: &S3, key: &str, write_id: &str, bytes: u64) -> Result<bool> {
    let mut check = 1;
    loop {
        let answer = store.0.client.head_object().bucket(&store.0.bucket).key(key).send().await;
        match answer {
            Ok(answer) => {
                let id = answer.metadata().and_then(|metadata| metadata.get(WRITE_ID)).map(String::as_str);
                let size = answer.content_length().and_then(|size| u64::try_from(size).ok());
                return Ok(id == Some(write_id) && size == Some(bytes));
            }
            Err(error) => match failure::read(&error) {
                Reading::Refused { status: 404, .. } if check >= CHECKS_MAX => return Ok(false),
                Reading::Refused { status: 404, .. } => {}
                reading => return Err(store.explain(&format!("read the metadata of {key}"), reading)),
            },
        }
        tokio::time::sleep(store.0.patience.backoff(check)).await;
        check += 1;
    }
}

/// A random id for an object's metadata. It identifies the request that wrote the object.
pub(super) fn new_write_id() -> String {
    hex::encode(rand::random::<[u8; 16]>())
}
