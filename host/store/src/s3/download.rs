//! Downloads as streams. An answer that breaks off is taken up again where it ended, as long as the object is the same.

use super::S3;
use crate::ObjectKey;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::ByteStream as Body;
use base::error::{Class, Error, Result};
use base::stream::{BLOCK_BYTES, Writer};
use bytes::BytesMut;
use std::ops::Range;

/// Times that a download is taken up again without a byte of progress in between.
const READ_RESUMES_MAX: u32 = 5;

/// Passes on a range, taking it up again where an answer breaks off.
pub(super) async fn run(store: S3, key: ObjectKey, range: Range<u64>, first: GetObjectOutput, writer: Writer) {
    let tag = first.e_tag().map(str::to_owned);
    let (mut at, mut body) = (range.start, Some(first.body));
    let mut failures = 0;
    while at < range.end {
        let before = at;
        let passed = match body.take() {
            Some(body) => pass(&store, body, &mut at, range.end, &writer).await,
            None => again(&store, &key, at..range.end, tag.as_deref()).await.map(|answer| body = Some(answer)),
        };
        if writer.is_closed() {
            return;
        }
        let Err(error) = passed else { continue };
        failures = if at > before { 1 } else { failures + 1 };
        if failures > READ_RESUMES_MAX || error.class() != Class::Unavailable {
            return writer.fail(error.context(format!("failed to read {key}"))).await;
        }
        tracing::debug!(%key, at, %error, "taking up a download again");
        tokio::time::sleep(store.0.patience.backoff(failures)).await;
    }
    // Nobody listens any more: nobody needs to hear that it ended well.
    let _ = writer.finish().await;
}

/// Passes on a body in blocks up to `end`.
async fn pass(store: &S3, mut body: Body, at: &mut u64, end: u64, writer: &Writer) -> Result<()> {
    let mut block = BytesMut::new();
    loop {
        let next = store.next(&mut body).await;
        let is_last = !matches!(next, Ok(Some(_)));
        if let Ok(Some(bytes)) = &next {
            block.extend_from_slice(bytes);
        }
        if *at + block.len() as u64 > end {
            return Err(store.length_is_wrong());
        }
        if !block.is_empty() && (is_last || block.len() >= BLOCK_BYTES) {
            *at += block.len() as u64;
            // A reader that left is noticed by whoever called.
            let _ = writer.send(block.split().freeze()).await;
        }
        if writer.is_closed() {
            return Ok(());
        }
        match next {
            Ok(Some(_)) => {}
            Ok(None) if *at < end => return Err(store.length_is_wrong()),
            Ok(None) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// The rest of an object, if it is still the same.
async fn again(store: &S3, key: &ObjectKey, range: Range<u64>, tag: Option<&str>) -> Result<Body> {
    let answer = store.fetch(key, Some(range)).await?.ok_or_else(|| crate::missing(key, &store.describe()))?;
    if answer.e_tag() == tag {
        Ok(answer.body)
    } else {
        Err(Error::new(Class::Stale, "the object changed while it was read"))
    }
}
