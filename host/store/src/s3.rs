//! S3 servers, through the subset of S3 that all of them support: path-style addresses, Content-MD5, no trailers, one
//! delete per request, and checksum headers or preconditions only if the profile supports them.
//!
//! Only this module and its submodules use the AWS SDK. If an answer leaves open whether an upload was stored, the code
//! checks the object and recognises its own by the `write-id` in its metadata.

mod connect;
mod download;
mod failure;
mod multipart;
mod upload;
#[cfg(test)]
mod wire;

pub use connect::Patience;

use super::profile::ProfileFacts;
use super::{Created, Deleted, GET_BYTES_MAX, LIST_KEYS_MAX, Meta, ObjectKey, StoreConfig, Stored};
use aws_sdk_s3::Client;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::{ByteStream as Body, DateTime};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use base::error::{Error, Result};
use base::stream::{self, ByteStream};
use bytes::{Bytes, BytesMut};
use failure::Reading;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::task::TaskTracker;

/// Attempts to read a small object if the response body breaks off. The SDK retries requests, but not bodies.
const GET_ATTEMPTS_MAX: u32 = 4;

/// Most pages of one listing of uploads. A page holds a thousand keys, so this allows more than [`LIST_KEYS_MAX`].
const LIST_PAGES_MAX: usize = 2_000;

/// Longest wait for clean-up when the process exits early. Kubernetes allows 30 s.
const SETTLE_SECONDS_MAX: u64 = 10;

/// User metadata that identifies the upload that wrote an object.
const WRITE_ID: &str = "write-id";

/// User metadata with the SHA-256 of an object that was completely in memory before it was sent.
const SHA256: &str = "sha256";

/// A prefix in a bucket on a server.
#[derive(Clone)]
pub struct S3(Arc<Inner>);

struct Inner {
    client: Client,
    bucket: String,
    /// Empty, or ends with a slash.
    prefix: String,
    /// For messages.
    endpoint: String,
    facts: ProfileFacts,
    patience: Patience,
    keys: Arc<connect::Keys>,
    /// Running aborts of dropped uploads.
    aborts: TaskTracker,
}

impl std::fmt::Debug for S3 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3").field("url", &self.describe()).field("endpoint", &self.0.endpoint).finish_non_exhaustive()
    }
}

impl S3 {
    /// Opens a prefix and lists one key. Fails like [`super::Store::open`].
    pub async fn open(config: &StoreConfig, bucket: String, prefix: String, patience: Patience) -> Result<Self> {
        let connect::Connection { client, endpoint, keys } = connect::connect(config, &patience).await?;
        let facts = config.profile.facts();
        let inner = Inner { client, bucket, prefix, endpoint, facts, patience, keys, aborts: TaskTracker::new() };
        let store = Self(Arc::new(inner));
        let request = store.0.client.list_objects_v2().bucket(&store.0.bucket).prefix(&store.0.prefix).max_keys(1);
        let answer = request.customize().config_override(store.0.patience.opening_overrides()).send().await;
        answer.map_err(|error| store.failure("open the store", error))?;
        Ok(store)
    }

    /// The bucket and prefix as a URL.
    pub fn describe(&self) -> String {
        format!("s3://{}/{}", self.0.bucket, self.0.prefix.trim_end_matches('/'))
    }

    /// See [`super::Store::put_stream`].
    pub async fn put_stream(&self, key: &ObjectKey, content: ByteStream) -> Result<Stored> {
        if self.head(key).await?.is_some() {
            return Err(super::exists(key));
        }
        upload::put_stream(self, key, content).await
    }

    /// See [`super::Store::put`].
    pub async fn put(&self, key: &ObjectKey, body: Bytes) -> Result<()> {
        upload::put_whole(self, &self.full_key(key), body, upload::Existing::Replace).await.map(drop)
    }

    /// See [`super::Store::create`].
    pub async fn create(&self, key: &ObjectKey, body: Bytes) -> Result<Created> {
        let existing = if self.0.facts.conditional_create {
            upload::Existing::Refuse
        } else {
            if self.head(key).await?.is_some() {
                return Ok(Created::Exists);
            }
            upload::Existing::Replace
        };
        upload::put_whole(self, &self.full_key(key), body, existing).await
    }

    /// See [`super::Store::get`].
    pub async fn get(&self, key: &ObjectKey) -> Result<Option<Bytes>> {
        let mut attempt = 1;
        loop {
            let Some(answer) = self.fetch(key, None).await? else { return Ok(None) };
            let bytes = length_of(key, &answer)?;
            if bytes > GET_BYTES_MAX {
                return Err(super::too_large(key, bytes));
            }
            let mut body = BytesMut::new();
            match self.collect(answer.body, bytes, &mut body).await {
                Ok(()) => return Ok(Some(body.freeze())),
                Err(error) if attempt >= GET_ATTEMPTS_MAX => return Err(error.context(format!("failed to read {key}"))),
                Err(error) => tracing::debug!(%key, %error, "reading again"),
            }
            tokio::time::sleep(self.0.patience.backoff(attempt)).await;
            attempt += 1;
        }
    }

    /// See [`super::Store::head`].
    pub async fn head(&self, key: &ObjectKey) -> Result<Option<Meta>> {
        match self.0.client.head_object().bucket(&self.0.bucket).key(self.full_key(key)).send().await {
            Ok(answer) => {
                let bytes = size(key, answer.content_length())?;
                let modified = timestamp(key, answer.last_modified())?;
                Ok(Some(Meta { key: key.clone(), bytes, modified }))
            }
            Err(error) => match failure::read(&error) {
                Reading::Refused { status: 404, .. } => Ok(None),
                reading => Err(self.explain(&format!("read the metadata of {key}"), reading)),
            },
        }
    }

    /// See [`super::Store::list`].
    pub async fn list(&self, under: &str) -> Result<Vec<Meta>> {
        let prefix = format!("{}{under}", self.0.prefix);
        let request = self.0.client.list_objects_v2().bucket(&self.0.bucket).prefix(prefix);
        let mut pages = request.into_paginator().send();
        let mut found = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| self.failure("list the store", error))?;
            for object in page.contents() {
                let full = object.key().unwrap_or_default();
                let Some(key) = full.strip_prefix(&self.0.prefix).and_then(ObjectKey::parse) else {
                    tracing::debug!(key = full, "skipped an object with a foreign key");
                    continue;
                };
                let bytes = size(&key, object.size())?;
                let modified = timestamp(&key, object.last_modified())?;
                found.push(Meta { key, bytes, modified });
            }
            if found.len() > LIST_KEYS_MAX {
                return Err(Error::unexpected(format!("the store has more than {LIST_KEYS_MAX} objects")));
            }
        }
        Ok(found)
    }

    /// See [`super::Store::delete`].
    pub async fn delete(&self, key: &ObjectKey) -> Result<Deleted> {
        match self.0.client.delete_object().bucket(&self.0.bucket).key(self.full_key(key)).send().await {
            Ok(_) => Ok(Deleted::Gone),
            Err(error) => match failure::read(&error) {
                Reading::Refused { status: 404, code, .. } if code != "NoSuchBucket" => Ok(Deleted::Gone),
                reading if reading.is_retention() => {
                    tracing::debug!(%key, ?reading, "the store refused to delete an object");
                    Ok(Deleted::Retained)
                }
                reading => Err(self.explain(&format!("delete {key}"), reading)),
            },
        }
    }

    /// See [`super::Store::abort_uploads`].
    pub async fn abort_uploads(&self, under: &str) -> Result<u32> {
        self.settle().await;
        let open = self.open_uploads(&format!("{}{under}", self.0.prefix)).await?;
        let mut aborted = 0;
        for (key, id) in open {
            if key.strip_prefix(&self.0.prefix).and_then(ObjectKey::parse).is_none() {
                tracing::debug!(key, "skipped an upload with a foreign key");
                continue;
            }
            multipart::abort(self, &key, &id).await;
            aborted += 1;
        }
        Ok(aborted)
    }

    /// See [`super::Store::read`].
    pub async fn read(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<ByteStream> {
        if range.as_ref().is_some_and(|range| range.start >= range.end) {
            let (writer, stream) = stream::channel(Some(0));
            let _ = writer.finish().await;
            return Ok(stream);
        }
        let answer = self.fetch(key, range.clone()).await?;
        let answer = answer.ok_or_else(|| super::missing(key, &self.describe()))?;
        let bytes = length_of(key, &answer)?;
        let range = range.unwrap_or(0..bytes);
        if bytes != range.end - range.start {
            return Err(super::too_short(key, range.end, range.start + bytes));
        }
        let (writer, stream) = stream::channel(Some(bytes));
        tokio::spawn(download::run(self.clone(), key.clone(), range, answer, writer));
        Ok(stream)
    }

    /// See [`super::Store::settle`].
    pub async fn settle(&self) {
        self.0.aborts.close();
        let wait = Duration::from_secs(SETTLE_SECONDS_MAX);
        if tokio::time::timeout(wait, self.0.aborts.wait()).await.is_err() {
            tracing::warn!("abandoned uploads are not cleaned up yet; the next run will remove them");
        }
        self.0.aborts.reopen();
    }

    /// An object's full key in the bucket.
    fn full_key(&self, key: &ObjectKey) -> String {
        format!("{}{key}", self.0.prefix)
    }

    fn failure<E>(&self, doing: &str, error: SdkError<E, HttpResponse>) -> Error
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        self.explain(doing, failure::read(&error))
    }

    fn explain(&self, doing: &str, reading: Reading) -> Error {
        let error = failure::explain(reading, &self.0.bucket, &self.0.endpoint, &self.0.keys.known());
        error.context(format!("failed to {doing}"))
    }

    /// The response for an object; `None` if it does not exist.
    async fn fetch(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<Option<GetObjectOutput>> {
        let request = self.0.client.get_object().bucket(&self.0.bucket).key(self.full_key(key));
        let header = range.as_ref().map(|range| format!("bytes={}-{}", range.start, range.end.saturating_sub(1)));
        match request.set_range(header).send().await {
            Ok(answer) => Ok(Some(answer)),
            Err(error) => match failure::read(&error) {
                Reading::Refused { status: 404, code, .. } if code != "NoSuchBucket" => Ok(None),
                Reading::Refused { status: 416, .. } => {
                    let end = range.map_or(0, |range| range.end);
                    let bytes = self.head(key).await?.map_or(0, |meta| meta.bytes);
                    Err(super::too_short(key, end, bytes))
                }
                reading => Err(self.explain(&format!("read {key}"), reading)),
            },
        }
    }

    /// The next bytes of a body; `None` at its end.
    async fn next(&self, body: &mut Body) -> Result<Option<Bytes>> {
        let endpoint = &self.0.endpoint;
        match tokio::time::timeout(self.0.patience.attempt, body.next()).await {
            Err(_) => Err(Error::unavailable(format!("{endpoint} sent no data for {:?}", self.0.patience.attempt))),
            Ok(Some(Err(error))) => {
                Err(Error::unavailable(format!("{endpoint} cut off the response: {}", failure::innermost(&error))))
            }
            Ok(Some(Ok(bytes))) => Ok(Some(bytes)),
            Ok(None) => Ok(None),
        }
    }

    /// Reads a body of exactly `bytes`.
    async fn collect(&self, mut body: Body, bytes: u64, into: &mut BytesMut) -> Result<()> {
        while let Some(block) = self.next(&mut body).await? {
            if (into.len() + block.len()) as u64 > bytes {
                return Err(self.wrong_length());
            }
            into.extend_from_slice(&block);
        }
        if into.len() as u64 == bytes { Ok(()) } else { Err(self.wrong_length()) }
    }

    fn wrong_length(&self) -> Error {
        Error::unavailable(format!("a response from {} does not have the announced length", self.0.endpoint))
    }

    /// Keys and ids of the multipart uploads whose keys begin with `prefix`.
    async fn open_uploads(&self, prefix: &str) -> Result<Vec<(String, String)>> {
        let mut found = Vec::new();
        let (mut key_marker, mut id_marker) = (None, None);
        for _ in 0..LIST_PAGES_MAX {
            let request = self.0.client.list_multipart_uploads().bucket(&self.0.bucket).prefix(prefix);
            let request = request.set_key_marker(key_marker.take()).set_upload_id_marker(id_marker.take());
            let page = request.send().await.map_err(|error| self.failure("list unfinished uploads", error))?;
            let uploads = page.uploads().iter().filter_map(|upload| Some((upload.key()?, upload.upload_id()?)));
            found.extend(uploads.map(|(key, id)| (key.to_owned(), id.to_owned())));
            if !page.is_truncated().unwrap_or(false) {
                return Ok(found);
            }
            key_marker = page.next_key_marker().map(str::to_owned);
            id_marker = page.next_upload_id_marker().map(str::to_owned);
        }
        Err(Error::unexpected(format!("the list of unfinished uploads has more than {LIST_PAGES_MAX} pages")))
    }
}

fn length_of(key: &ObjectKey, answer: &GetObjectOutput) -> Result<u64> {
    size(key, answer.content_length())
}

fn size(key: &ObjectKey, bytes: Option<i64>) -> Result<u64> {
    bytes
        .and_then(|bytes| u64::try_from(bytes).ok())
        .ok_or_else(|| Error::unexpected(format!("the store did not report the size of {key}")))
}

fn timestamp(key: &ObjectKey, at: Option<&DateTime>) -> Result<jiff::Timestamp> {
    let nanos = |at: &DateTime| i32::try_from(at.subsec_nanos()).ok();
    at.and_then(|at| jiff::Timestamp::new(at.secs(), nanos(at)?).ok())
        .ok_or_else(|| Error::unexpected(format!("the store did not report when {key} was last modified")))
}
