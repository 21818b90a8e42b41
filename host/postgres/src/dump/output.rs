//! Reads the pipe from pg_dump without waking up for each of its writes.

use base::stream::BLOCK_BYTES;
use bytes::Bytes;
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::process::ChildStdout;

/// Size of the pipe, instead of the default 64 KiB: on busy cores pg_dump can continue while this program does not
/// read. A larger pipe needs privileges.
const PIPE_BYTES: usize = 1 << 20;

/// How often a pipe of [`PIPE_BYTES`] is polled. pg_dump writes 4 KiB at a time, and waking up for each write would
/// take processor time from pg_dump and the server. A pg_dump that fills the pipe sooner, at 500 MB/s, waits until the
/// next poll.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// The output of pg_dump.
pub(super) enum Output {
    /// An enlarged pipe, which is polled.
    Roomy(OwnedFd),
    /// A pipe of the default size, because this user has used up the memory that the system allows for pipes. It would
    /// fill up between two polls.
    Narrow(ChildStdout),
}

impl Output {
    pub(super) fn new(stdout: ChildStdout) -> io::Result<Self> {
        if rustix::pipe::fcntl_setpipe_size(&stdout, PIPE_BYTES).is_err() {
            return Ok(Self::Narrow(stdout));
        }
        let pipe = stdout.into_owned_fd()?;
        rustix::io::ioctl_fionbio(&pipe, true)?;
        Ok(Self::Roomy(pipe))
    }

    /// The next [`BLOCK_BYTES`], or fewer at the end. Empty after the end.
    pub(super) async fn block(&mut self) -> io::Result<Bytes> {
        let mut block = Vec::with_capacity(BLOCK_BYTES);
        while block.len() < BLOCK_BYTES && self.read(&mut block).await? > 0 {}
        Ok(Bytes::from(block))
    }

    /// Appends the available bytes, at least one, up to the spare capacity of the block. Returns 0 at the end.
    async fn read(&mut self, block: &mut Vec<u8>) -> io::Result<usize> {
        match self {
            Self::Narrow(stdout) => stdout.read_buf(block).await,
            Self::Roomy(pipe) => loop {
                match rustix::io::read(&*pipe, rustix::buffer::spare_capacity(block)) {
                    Err(Errno::AGAIN) => tokio::time::sleep(POLL_INTERVAL).await,
                    Err(Errno::INTR) => {}
                    read => return Ok(read?),
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Stdio;
    use tokio::process::{Child, Command};

    /// More than the pipe holds, then pauses in which it is empty, then a last write.
    const SCRIPT: &str = "seq 1 400000; sleep 0.05; seq 1 9; sleep 0.05; printf end";

    fn start() -> (ChildStdout, Child) {
        let mut child = Command::new("sh").args(["-c", SCRIPT]).stdout(Stdio::piped()).spawn().unwrap();
        (child.stdout.take().unwrap(), child)
    }

    async fn assert_whole(mut output: Output, mut child: Child) {
        let lines = |last: u32| (1..=last).map(|n| format!("{n}\n")).collect::<String>();
        let expected = lines(400_000) + &lines(9) + "end";
        let mut sizes = Vec::new();
        let mut all = Vec::new();
        loop {
            let block = output.block().await.unwrap();
            if block.is_empty() {
                break;
            }
            sizes.push(block.len());
            all.extend(block);
        }
        assert!(all == expected.as_bytes());
        assert_eq!(sizes, [BLOCK_BYTES, BLOCK_BYTES, expected.len() - 2 * BLOCK_BYTES]);
        assert!(child.wait().await.unwrap().success());
    }

    #[tokio::test]
    async fn a_pipe_of_any_size_is_read_to_its_end() {
        let (stdout, child) = start();
        let output = Output::new(stdout).unwrap();
        assert!(matches!(output, Output::Roomy(_)), "the pipe was not enlarged");
        assert_whole(output, child).await;
        let (stdout, child) = start();
        assert_whole(Output::Narrow(stdout), child).await;
    }
}
