//! Streaming downloads. If a response breaks off, the download resumes at the same position, provided that the object
//! has not changed.

use super::S3;
use crate::ObjectKey;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::ByteStream as Body;
use base::error::{Class, Error, Result};
use base::stream::{BLOCK_BYTES, Writer};
use bytes::BytesMut;
use std::ops::Range;

/// Most consecutive attempts to resume a download without a byte of progress.
const READ_RESUMES_MAX: u32 = 5;

/// Sends a range to `writer`, and resumes if a response breaks off.
pub(super) async fn run(store: S3, key: ObjectKey, range: Range<u64>, first: GetObjectOutput, writer: Writer) {
    let tag = first.e_tag().map(str::to_owned);
    let (mut at, mut body) = (range.start, Some(first.body));
    let mut failures = 0;
    while at < range.end {
        let before = at;
        let passed = match body.take() {
            Some(body) => pass(&store, body, &mut at, range.end, &writer).await,
            None => resume(&store, &key, at..range.end, tag.as_deref()).await.map(|answer| body = Some(answer)),
        };
        if writer.is_closed() {
            return;
        }
        let Err(error) = passed else { continue };
        failures = if at > before { 1 } else { failures + 1 };
        if failures > READ_RESUMES_MAX || error.class() != Class::Unavailable {
            return writer.fail(error.context(format!("failed to read {key}"))).await;
        }
        tracing::debug!(%key, at, %error, "resuming a download");
        tokio::time::sleep(store.0.patience.backoff(failures)).await;
    }
    // If the reader is gone, nobody needs to know that the stream is complete.
    let _ = writer.finish().await;
}

/// Sends a body in blocks up to `end`.
async fn pass(store: &S3, mut body: Body, at: &mut u64, end: u64, writer: &Writer) -> Result<()> {
    let mut block = BytesMut::new();
    loop {
        let next = store.next(&mut body).await;
        let is_last = !matches!(next, Ok(Some(_)));
        if let Ok(Some(bytes)) = &next {
            block.extend_from_slice(bytes);
        }
        if *at + block.len() as u64 > end {
            return Err(store.wrong_length());
        }
        if !block.is_empty() && (is_last || block.len() >= BLOCK_BYTES) {
            *at += block.len() as u64;
            // The caller notices if the reader is gone.
            let _ = writer.send(block.split().freeze()).await;
        }
        if writer.is_closed() {
            return Ok(());
        }
        match next {
            Ok(Some(_)) => {}
            Ok(None) if *at < end => return Err(store.wrong_length()),
            Ok(None) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// Requests the rest of an object and checks that it has not changed.
async fn resume(store: &S3, key: &ObjectKey, range: Range<u64>, tag: Option<&str>) -> Result<Body> {
    let answer = store.fetch(key, Some(range)).await?.ok_or_else(|| crate::missing(key, &store.describe()))?;
    if answer.e_tag() == tag {
        Ok(answer.body)
    } else {
        Err(Error::new(Class::Stale, "the object changed during the download"))
    }
}
