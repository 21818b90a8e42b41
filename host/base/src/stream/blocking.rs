//! Reads a stream as plain bytes on a thread outside the runtime, and can be stopped.

use super::ByteStream;
use crate::error::{Class, Error};
use bytes::{Buf, Bytes};
use sha2::{Digest, Sha256};
use std::io::{self, BufRead, Read};
use std::pin::Pin;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

/// Reads a stream on a thread that may block. Its errors wrap the producer's own; [`producer_error`] unwraps them.
#[derive(Debug)]
pub struct BlockingReader {
    stream: ByteStream,
    runtime: Handle,
    stop: CancellationToken,
    block: Bytes,
    ended: bool,
    bytes: u64,
    hasher: Option<Sha256>,
}

impl BlockingReader {
    /// Reads `stream` on `runtime` until `stop` is cancelled. If `hashed` is set, every byte is hashed.
    pub fn new(stream: ByteStream, runtime: Handle, stop: CancellationToken, hashed: bool) -> Self {
        let hasher = hashed.then(Sha256::new);
        Self { stream, runtime, stop, block: Bytes::new(), ended: false, bytes: 0, hasher }
    }

    /// Reads the rest. Returns the total number of bytes and, if they were hashed, their SHA-256.
    ///
    /// # Errors
    /// The producer's error.
    pub fn finish(mut self) -> io::Result<(u64, Option<[u8; 32]>)> {
        loop {
            let left = self.fill_buf()?.len();
            if left == 0 {
                return Ok((self.bytes, self.hasher.map(|hasher| hasher.finalize().into())));
            }
            self.consume(left);
        }
    }
}

impl BufRead for BlockingReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.block.is_empty() && !self.ended {
            let (stop, stream) = (&self.stop, &mut self.stream);
            let next = self.runtime.block_on(async {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => Err(interrupted_error()),
                    next = stream.next() => next,
                }
            });
            match next.map_err(io::Error::other)? {
                Some(block) => {
                    self.bytes += block.len() as u64;
                    if let Some(hasher) = &mut self.hasher {
                        hasher.update(&block);
                    }
                    self.block = block;
                }
                None => self.ended = true,
            }
        }
        Ok(&self.block)
    }

    fn consume(&mut self, bytes: usize) {
        self.block.advance(bytes.min(self.block.len()));
    }
}

impl Read for BlockingReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(into)?;
        self.consume(read);
        Ok(read)
    }
}

/// The error of work that was interrupted.
pub fn interrupted_error() -> Error {
    Error::new(Class::Interrupted, "interrupted").hint("run the command again")
}

/// Runs `work` until it ends or `interrupted` resolves, which drops the work. After an interruption, `interrupted`
/// must not be polled again.
///
/// # Errors
/// The error of the work, or [`interrupted_error`].
pub async fn run_until_interrupted<T>(
    interrupted: Pin<&mut impl Future<Output = ()>>,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    tokio::select! {
        done = work => done,
        () = interrupted => Err(interrupted_error()),
    }
}

/// Unwraps the error that a [`BlockingReader`] passed through another crate's reader. `damaged` converts other errors.
pub fn producer_error(error: io::Error, damaged: impl FnOnce(io::Error) -> Error) -> Error {
    match error.downcast::<Error>() {
        Ok(ours) => ours,
        Err(theirs) => damaged(theirs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::channel;

    async fn on_a_thread<T: Send + 'static>(work: impl FnOnce(Handle) -> T + Send + 'static) -> T {
        let runtime = Handle::current();
        tokio::task::spawn_blocking(move || work(runtime)).await.unwrap()
    }

    #[tokio::test]
    async fn bytes_arrive_in_order_and_are_hashed() {
        let (writer, stream) = channel(None);
        for block in ["", "one ", "", "two"] {
            writer.send(Bytes::from_static(block.as_bytes())).await.unwrap();
        }
        writer.finish().await.unwrap();
        let (text, done) = on_a_thread(|runtime| {
            let mut reader = BlockingReader::new(stream, runtime, CancellationToken::new(), true);
            let mut text = [0; 5];
            reader.read_exact(&mut text).unwrap();
            (text, reader.finish().unwrap())
        })
        .await;
        assert_eq!(&text, b"one t");
        assert_eq!(done, (7, Some(Sha256::digest("one two").into())));
    }

    #[tokio::test]
    async fn the_reader_reports_the_producers_error_and_ends_when_stopped() {
        let (writer, stream) = channel(None);
        writer.fail(Error::unavailable("the disk is gone")).await;
        let (_waiting, silent) = channel(None);
        let stop = CancellationToken::new();
        let late = stop.clone();
        let errors = on_a_thread(move |runtime| {
            let fail = |stream| {
                let mut reader = BlockingReader::new(stream, runtime.clone(), stop.clone(), false);
                let error = reader.read(&mut [0; 9]).unwrap_err();
                producer_error(error, |error| panic!("{error}"))
            };
            let first = fail(stream);
            late.cancel();
            [first, fail(silent)]
        })
        .await;
        assert_eq!(errors[0], Error::unavailable("the disk is gone"));
        assert_eq!(errors[1].class(), Class::Interrupted);
    }
}
