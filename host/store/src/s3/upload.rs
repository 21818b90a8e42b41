//! Uploads: one request if the object fits into one part, otherwise several parts in parallel.
//!
//! Every part but the last has the same size, chosen before the first byte, because some servers refuse a last part
//! that is larger than the others. A part is completely in memory, so that it can carry a checksum and be sent again;
//! the SHA-256 of the object is computed in order alongside. Memory is limited to [`IN_FLIGHT_BYTES_MAX`], whatever the
//! size of the object.
//!
//! The signature covers the checksum instead of a SHA-256 of the body, which saves a pass over the data. Nobody can
//! construct another body for a given MD5. CRC32C only detects damage; tampering on a connection without TLS is
//! detected by the SHA-256 in the record, which is always sent with an MD5.

use super::failure::{self, Reading};
use super::multipart::{Upload, is_stored, new_write_id};
use super::{S3, SHA256, WRITE_ID};
use crate::profile::PartChecksum;
use crate::{Created, ObjectKey, Stored};
use aws_sdk_s3::primitives::ByteStream as Body;
use aws_sdk_s3::types::CompletedPart;
use base::error::{Error, Result};
use base::stream::ByteStream;
use base64::Engine;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt};
use md5::Md5;
use sha2::{Digest, Sha256};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

/// Most parts of one upload, on every server.
const PARTS_MAX: u64 = 10_000;

/// Smallest part. Servers require at least 5 MiB, and four parts of this size at once keep a line busy.
const PART_BYTES_MIN: u64 = 8 << 20;

/// Part size if the object's size is unknown: ten thousand parts hold 117 GiB.
const PART_BYTES_UNKNOWN: u64 = 12 << 20;

/// Largest part: the whole budget. Ten thousand parts hold 312 GiB, the largest possible object.
const PART_BYTES_MAX: u64 = IN_FLIGHT_BYTES_MAX;

/// Most memory for all parts that are being filled, sent or awaited. A run has to stay below 128 MiB, which it shares
/// with the plugin engine, the compressor and the SDK.
const IN_FLIGHT_BYTES_MAX: u64 = 32 << 20;

/// Part sizes are multiples of this, for readable logs.
const PART_STEP_BYTES: u64 = 1 << 20;

/// Size of every part but the last: the smallest for which the parts hold the expected bytes plus 10 %.
fn part_bytes(expected: Option<u64>) -> u64 {
    let Some(expected) = expected else { return PART_BYTES_UNKNOWN };
    let wanted = expected.saturating_add(expected / 10).div_ceil(PARTS_MAX);
    wanted.next_multiple_of(PART_STEP_BYTES).clamp(PART_BYTES_MIN, PART_BYTES_MAX)
}

/// What to do if the object exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Existing {
    Replace,
    /// Only for profiles that support conditional writes.
    Refuse,
}

/// Stores an object from memory.
pub(super) async fn put_whole(store: &S3, key: &str, body: Bytes, existing: Existing) -> Result<Created> {
    let (body, sha256) = compute(move || {
        let sha256 = hex::encode(Sha256::digest(&body));
        (body, sha256)
    })
    .await?;
    put_hashed(store, key, body, &sha256, existing).await
}

async fn put_hashed(store: &S3, key: &str, body: Bytes, sha256: &str, existing: Existing) -> Result<Created> {
    let bytes = body.len() as u64;
    let write_id = new_write_id();
    let (body, md5) = with_md5(body).await?;
    let request = store.0.client.put_object().bucket(&store.0.bucket).key(key).body(Body::from(body)).content_md5(md5);
    let request = request.metadata(WRITE_ID, &write_id).metadata(SHA256, sha256);
    let request = request.set_if_none_match((existing == Existing::Refuse).then(|| "*".to_owned()));
    let request = request.customize().config_override(store.0.patience.upload_overrides()).disable_payload_signing();
    let reading = match request.send().await {
        Ok(_) => return Ok(Created::Created),
        Err(error) => failure::read(&error),
    };
    let is_taken = matches!(&reading, Reading::Refused { status: 409 | 412, .. });
    if !is_taken && !reading.is_ambiguous() {
        return Err(store.explain(&format!("store {key}"), reading));
    }
    // A retry of a request that was carried out finds its own object.
    match is_stored(store, key, &write_id, bytes).await {
        Ok(true) => Ok(Created::Created),
        Ok(false) if is_taken && existing == Existing::Refuse => Ok(Created::Exists),
        _ => Err(store.explain(&format!("store {key}"), reading)),
    }
}

/// Stores a stream.
pub(super) async fn put_stream(store: &S3, key: &ObjectKey, content: ByteStream) -> Result<Stored> {
    let full_key = store.full_key(key);
    let part_bytes = part_bytes(content.expected_bytes());
    let mut parts = Parts::new(content, part_bytes);
    let (first, is_last) = parts.next().await?;
    if is_last {
        let bytes = first.len() as u64;
        let (first, sha256) = compute(move || {
            let sha256 = hex::encode(Sha256::digest(&first));
            (first, sha256)
        })
        .await?;
        let refuse = store.0.facts.conditional_create;
        let existing = if refuse { Existing::Refuse } else { Existing::Replace };
        return match put_hashed(store, &full_key, first, &sha256, existing).await? {
            Created::Created => Ok(Stored { bytes, sha256 }),
            Created::Exists => Err(crate::exists(key)),
        };
    }
    let upload = Upload::begin(store, full_key).await?;
    let sent = send(&upload, parts, first).await;
    let committed = match sent {
        Ok((stored, done)) => upload.complete(done, stored.bytes).await.map(|()| stored),
        Err(error) => Err(error),
    };
    match committed {
        Ok(stored) => {
            upload.forget();
            Ok(stored)
        }
        Err(error) => {
            upload.abort().await;
            Err(error)
        }
    }
}

/// Cuts a stream into parts.
struct Parts {
    content: ByteStream,
    /// The rest of the last block, which belongs to the next part.
    rest: Bytes,
    part_bytes: u64,
    /// Buffers of parts, which are reused once their part was sent. As many as there were parts in flight at once.
    buffers: Vec<BytesMut>,
}

impl Parts {
    const fn new(content: ByteStream, part_bytes: u64) -> Self {
        Self { content, rest: Bytes::new(), part_bytes, buffers: Vec::new() }
    }

    /// A buffer for one part. Reused memory does not have to be zeroed by the kernel again.
    fn buffer(&mut self, bytes: usize) -> BytesMut {
        let free = self.buffers.iter_mut().position(|buffer| buffer.try_reclaim(bytes));
        free.map_or_else(|| BytesMut::with_capacity(bytes), |at| self.buffers.swap_remove(at))
    }

    /// The next part, and whether it is the last. Only a single part may be empty.
    async fn next(&mut self) -> Result<(Bytes, bool)> {
        let size = usize::try_from(self.part_bytes).unwrap_or(usize::MAX);
        let mut buffer = self.buffer(size);
        let is_last = loop {
            let taken = self.rest.split_to(self.rest.len().min(size - buffer.len()));
            buffer.extend_from_slice(&taken);
            if !self.rest.is_empty() {
                break false;
            }
            match self.content.next().await? {
                Some(block) => self.rest = block,
                None => break true,
            }
        };
        let part = buffer.split().freeze();
        self.buffers.push(buffer);
        Ok((part, is_last))
    }
}

/// A part that is being uploaded.
struct Part {
    number: i32,
    body: Bytes,
    /// Its share of the budget.
    _permit: OwnedSemaphorePermit,
}

/// Sends all parts. The first failure, of the producer or of the store, stops the other side.
async fn send(upload: &Upload, parts: Parts, first: Bytes) -> Result<(Stored, Vec<CompletedPart>)> {
    let (sender, receiver) = mpsc::channel(1);
    let waiting = futures::stream::unfold(receiver, |mut receiver: mpsc::Receiver<Part>| async {
        receiver.recv().await.map(|part| (part, receiver))
    });
    let sent = waiting
        .map(|part| {
            let (store, key, id) = (upload.store.clone(), upload.key.clone(), upload.id.clone());
            let task = AbortOnDropHandle::new(tokio::spawn(send_part(store, key, id, part)));
            async { task.await.unwrap_or_else(|e| Err(Error::unexpected(format!("an upload task failed: {e}")))) }
        })
        // The budget is the stricter limit.
        .buffer_unordered(usize::try_from(IN_FLIGHT_BYTES_MAX / PART_BYTES_MIN).unwrap_or(1))
        .try_collect::<Vec<_>>();
    let (stored, mut done) = futures::future::try_join(cut(parts, first, sender), sent).await?;
    done.sort_unstable_by_key(CompletedPart::part_number);
    Ok((stored, done))
}

/// Cuts the stream into parts and hashes it in order, as far ahead of the senders as the budget allows.
async fn cut(mut parts: Parts, first: Bytes, sender: mpsc::Sender<Part>) -> Result<Stored> {
    let budget = usize::try_from(IN_FLIGHT_BYTES_MAX / parts.part_bytes).unwrap_or(1).max(1);
    let budget = Arc::new(Semaphore::new(budget));
    let reserve = || async {
        let permit = Arc::clone(&budget).acquire_owned().await;
        permit.map_err(|_| Error::unexpected("the budget for parts was closed"))
    };
    let mut hash = OrderedHash::default();
    let mut bytes = 0;
    let mut number = 1;
    let mut permit = reserve().await?;
    let (mut body, mut is_last) = (first, false);
    loop {
        bytes += body.len() as u64;
        hash.update(body.clone()).await?;
        let part = Part { number, body, _permit: permit };
        if sender.send(part).await.is_err() {
            return Err(Error::unexpected("the tasks that upload the parts are gone"));
        }
        if is_last {
            return Ok(Stored { bytes, sha256: hash.finish().await? });
        }
        if u64::from(number.unsigned_abs()) >= PARTS_MAX {
            return Err(too_large(parts.part_bytes));
        }
        permit = reserve().await?;
        (body, is_last) = parts.next().await?;
        number += 1;
    }
}

fn too_large(part_bytes: u64) -> Error {
    let gib = (part_bytes * PARTS_MAX) >> 30;
    Error::unexpected(format!(
        "the object is larger than {gib} GiB, which is the limit for {PARTS_MAX} parts of {part_bytes} bytes"
    ))
    .hint("exclude data that need not be kept, or split the source; nothing of this object was stored")
}

/// SHA-256 over the parts in order, computed while the next part is being filled.
#[derive(Default)]
struct OrderedHash {
    running: Option<JoinHandle<Sha256>>,
}

impl OrderedHash {
    async fn take(&mut self) -> Result<Sha256> {
        match self.running.take() {
            None => Ok(Sha256::new()),
            Some(running) => running.await.map_err(|e| Error::unexpected(format!("a hashing thread failed: {e}"))),
        }
    }

    async fn update(&mut self, part: Bytes) -> Result<()> {
        let mut hasher = self.take().await?;
        self.running = Some(tokio::task::spawn_blocking(move || {
            hasher.update(&part);
            hasher
        }));
        Ok(())
    }

    async fn finish(mut self) -> Result<String> {
        Ok(hex::encode(self.take().await?.finalize()))
    }
}

async fn send_part(store: S3, key: String, id: String, part: Part) -> Result<CompletedPart> {
    let Part { number, body, _permit } = part;
    let request = store.0.client.upload_part().bucket(&store.0.bucket).key(&key).upload_id(id).part_number(number);
    let (request, crc32c) = match store.0.facts.part_checksum {
        PartChecksum::Md5 => {
            let (body, md5) = with_md5(body).await?;
            (request.body(Body::from(body)).content_md5(md5), None)
        }
        PartChecksum::Crc32c => {
            let (body, crc32c) = with_crc32c(body).await?;
            (request.body(Body::from(body)).checksum_crc32_c(&crc32c), Some(crc32c))
        }
    };
    let request = request.customize().config_override(store.0.patience.upload_overrides());
    let answer = request
        .disable_payload_signing()
        .send()
        .await
        .map_err(|error| store.failure(&format!("store part {number} of {key}"), error))?;
    let tag = answer.e_tag().ok_or_else(|| {
        Error::unexpected(format!("{} returned no ETag for part {number} of {key}", store.0.endpoint))
    })?;
    Ok(CompletedPart::builder().part_number(number).e_tag(tag).set_checksum_crc32_c(crc32c).build())
}

async fn with_md5(body: Bytes) -> Result<(Bytes, String)> {
    compute(move || {
        let md5 = base64::engine::general_purpose::STANDARD.encode(Md5::digest(&body));
        (body, md5)
    })
    .await
}

async fn with_crc32c(body: Bytes) -> Result<(Bytes, String)> {
    compute(move || {
        let crc32c = crc32c(&body);
        (body, crc32c)
    })
    .await
}

/// CRC32C (Castagnoli) in the header's format: big-endian, in base64.
fn crc32c(body: &[u8]) -> String {
    let sum = crc_fast::crc32_iscsi(body);
    base64::engine::general_purpose::STANDARD.encode(sum.to_be_bytes())
}

/// Runs work that takes milliseconds of CPU time on a blocking thread.
async fn compute<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::unexpected(format!("a hashing thread failed: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_thousand_parts_hold_the_expected_size_plus_a_tenth() {
        const MIB: u64 = 1 << 20;
        const GIB: u64 = 1 << 30;
        let table = [
            (None, 12 * MIB),
            (Some(0), 8 * MIB),
            (Some(1), 8 * MIB),
            (Some(70 * GIB), 8 * MIB),
            (Some(72 * GIB), 9 * MIB),
            (Some(200 * GIB), 23 * MIB),
            (Some(284 * GIB), 32 * MIB),
            (Some(700 * GIB), 32 * MIB),
            (Some(u64::MAX), 32 * MIB),
        ];
        for (expected, bytes) in table {
            assert_eq!(part_bytes(expected), bytes, "{expected:?}");
            let size = expected.unwrap_or(0);
            assert!(size > 284 * GIB || part_bytes(expected) * PARTS_MAX >= size + size / 10, "{expected:?}");
            assert!(part_bytes(expected) <= IN_FLIGHT_BYTES_MAX);
        }
    }

    #[test]
    fn crc32c_uses_the_castagnoli_polynomial() {
        // RFC 3720, appendix B.4, and the polynomial's usual check value.
        assert_eq!(crc32c(&[0; 32]), base64::engine::general_purpose::STANDARD.encode([0x8a, 0x91, 0x36, 0xaa]));
        assert_eq!(crc32c(b"123456789"), base64::engine::general_purpose::STANDARD.encode([0xe3, 0x06, 0x92, 0x83]));
    }

    async fn sizes(blocks: &[usize], part_bytes: u64) -> Vec<(usize, bool)> {
        let (writer, content) = base::stream::channel(None);
        let blocks = blocks.to_vec();
        tokio::spawn(async move {
            for block in blocks {
                writer.send(Bytes::from(vec![0; block])).await.unwrap();
            }
            writer.finish().await.unwrap();
        });
        let mut parts = Parts::new(content, part_bytes);
        let mut sizes = Vec::new();
        loop {
            let (part, is_last) = parts.next().await.unwrap();
            sizes.push((part.len(), is_last));
            if is_last {
                return sizes;
            }
        }
    }

    #[tokio::test]
    async fn all_parts_but_the_last_have_one_size_and_only_a_single_part_may_be_empty() {
        assert_eq!(sizes(&[], 10).await, [(0, true)]);
        assert_eq!(sizes(&[0, 0], 10).await, [(0, true)]);
        assert_eq!(sizes(&[9], 10).await, [(9, true)]);
        assert_eq!(sizes(&[10], 10).await, [(10, true)]);
        assert_eq!(sizes(&[10, 0], 10).await, [(10, true)]);
        assert_eq!(sizes(&[4, 6, 0, 1], 10).await, [(10, false), (1, true)]);
        assert_eq!(sizes(&[35], 10).await, [(10, false), (10, false), (10, false), (5, true)]);
        assert_eq!(sizes(&[7, 7, 6], 10).await, [(10, false), (10, true)]);
    }
}
