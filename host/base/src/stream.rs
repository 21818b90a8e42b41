//! Streams of bytes from a producer (a dump, an archive) to a consumer (an upload), with a bounded number of blocks
//! in flight.
//!
//! A stream is complete only if its producer calls [`Writer::finish`]. A stream that stops without it is a failure, so
//! a producer that crashes never results in a truncated object.

mod blocking;

pub use blocking::{BlockingReader, interrupted_error, producer_error, run_until_interrupted};

use crate::error::{Error, Result};
use bytes::Bytes;
use indicatif::ProgressBar;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Block size that producers aim for. At this size, passing a block on costs next to nothing compared to filling it.
pub const BLOCK_BYTES: usize = 1 << 20;

/// Most blocks between a producer and its consumer. Enough to bridge pauses on either side; with [`BLOCK_BYTES`] it
/// limits the memory of a stream to 8 MiB.
pub const BLOCKS_IN_FLIGHT_MAX: usize = 8;

enum Item {
    Block(Bytes),
    End,
}

/// The producer's half.
#[derive(Debug)]
pub struct Writer {
    sender: mpsc::Sender<Result<Item>>,
}

/// The consumer's half. Dropping it stops the producer at its next block.
#[derive(Debug)]
pub struct ByteStream {
    receiver: mpsc::Receiver<Result<Item>>,
    expected_bytes: Option<u64>,
    ended: bool,
    observer: Option<ProgressBar>,
    guard: Option<Guard>,
}

/// Decides at the end of a stream whether the object that it fills may still be created.
#[derive(Clone)]
pub struct Guard(Arc<dyn Fn() -> Result<()> + Send + Sync>);

impl Guard {
    /// A guard that calls `may`.
    pub fn new(may: impl Fn() -> Result<()> + Send + Sync + 'static) -> Self {
        Self(Arc::new(may))
    }
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Guard")
    }
}

impl std::fmt::Debug for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Block(block) => write!(f, "Block({} bytes)", block.len()),
            Self::End => f.write_str("End"),
        }
    }
}

/// The consumer is gone: the producer should stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the consumer of the stream is gone")]
pub struct Closed;

/// Creates a stream. `expected_bytes` is an upper estimate of its length; a store derives its part size from it, and a
/// progress bar its length.
pub fn channel(expected_bytes: Option<u64>) -> (Writer, ByteStream) {
    let (sender, receiver) = mpsc::channel(BLOCKS_IN_FLIGHT_MAX);
    (Writer { sender }, ByteStream { receiver, expected_bytes, ended: false, observer: None, guard: None })
}

impl Writer {
    /// Passes on one block; waits while [`BLOCKS_IN_FLIGHT_MAX`] are in flight.
    ///
    /// # Errors
    /// [`Closed`] when the consumer is gone.
    pub async fn send(&self, block: Bytes) -> Result<(), Closed> {
        self.sender.send(Ok(Item::Block(block))).await.map_err(|_| Closed)
    }

    /// [`Writer::send`] for a thread outside the runtime.
    ///
    /// # Errors
    /// [`Closed`] when the consumer is gone.
    pub fn blocking_send(&self, block: Bytes) -> Result<(), Closed> {
        self.sender.blocking_send(Ok(Item::Block(block))).map_err(|_| Closed)
    }

    /// Whether the consumer is gone.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Resolves when the consumer is gone.
    pub async fn closed(&self) {
        self.sender.closed().await;
    }

    /// Marks the stream as complete.
    ///
    /// # Errors
    /// [`Closed`] when the consumer is gone.
    pub async fn finish(self) -> Result<(), Closed> {
        self.sender.send(Ok(Item::End)).await.map_err(|_| Closed)
    }

    /// [`Writer::finish`] for a thread outside the runtime.
    ///
    /// # Errors
    /// [`Closed`] when the consumer is gone.
    pub fn blocking_finish(self) -> Result<(), Closed> {
        self.sender.blocking_send(Ok(Item::End)).map_err(|_| Closed)
    }

    /// Makes the consumer fail with `error`. Has no effect if the consumer is gone.
    pub async fn fail(self, error: Error) {
        drop(self.sender.send(Err(error)).await);
    }

    /// [`Writer::fail`] for a thread outside the runtime.
    pub fn blocking_fail(self, error: Error) {
        drop(self.sender.blocking_send(Err(error)));
    }
}

impl ByteStream {
    /// The producer's upper estimate of the total length.
    pub const fn expected_bytes(&self) -> Option<u64> {
        self.expected_bytes
    }

    /// Counts the bytes that pass, on a progress bar.
    #[must_use]
    pub fn observed(mut self, bar: ProgressBar) -> Self {
        self.observer = Some(bar);
        self
    }

    /// Completes the stream only if the guard agrees at the end, so that a run that lost its lease stores nothing.
    #[must_use]
    pub fn guarded(mut self, guard: Guard) -> Self {
        self.guard = Some(guard);
        self
    }

    /// The next block; `None` once the producer has finished.
    ///
    /// # Errors
    /// The producer's error, or one of class `Unexpected` if the producer went away without finishing.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        if self.ended {
            return Ok(None);
        }
        match self.receiver.recv().await {
            Some(Ok(Item::Block(block))) => {
                if let Some(bar) = &self.observer {
                    bar.inc(block.len() as u64);
                }
                Ok(Some(block))
            }
            Some(Ok(Item::End)) => {
                if let Some(Guard(may)) = &self.guard {
                    may()?;
                }
                self.ended = true;
                Ok(None)
            }
            Some(Err(error)) => Err(error),
            None => Err(Error::unexpected("the stream ended before its producer finished")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_consumer_fails_if_the_producer_goes_away() {
        let (writer, mut stream) = channel(None);
        writer.send(Bytes::from_static(b"half")).await.unwrap();
        drop(writer);
        assert_eq!(stream.next().await.unwrap().unwrap(), "half");
        assert!(stream.next().await.is_err());
    }

    #[tokio::test]
    async fn a_finished_stream_stays_finished() {
        let (writer, mut stream) = channel(Some(5));
        writer.send(Bytes::from_static(b"whole")).await.unwrap();
        writer.finish().await.unwrap();
        assert_eq!(stream.expected_bytes(), Some(5));
        assert_eq!(stream.next().await.unwrap().unwrap(), "whole");
        assert_eq!(stream.next().await.unwrap(), None);
        assert_eq!(stream.next().await.unwrap(), None);
    }

    #[tokio::test]
    async fn dropping_the_consumer_stops_the_producer() {
        let (writer, stream) = channel(None);
        drop(stream);
        assert_eq!(writer.send(Bytes::new()).await, Err(Closed));
        assert!(writer.is_closed());
    }
}
