//! pg_dump's end of the pipe, read without being woken for each of its writes.

use base::stream::BLOCK_BYTES;
use bytes::Bytes;
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::process::ChildStdout;

/// Room between pg_dump and this program, in place of 64 KiB: on busy cores pg_dump goes on while nobody reads. More needs
/// privileges.
const PIPE_BYTES: usize = 1 << 20;

/// How often a pipe of [`PIPE_BYTES`] is looked into. pg_dump writes 4 KiB at a time; being woken for each takes the cores from
/// pg_dump and the server. One that fills the pipe sooner, at 500 MB/s, waits for the rest of it.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);

/// What pg_dump writes.
pub(super) enum Output {
    /// A pipe with room, looked into at intervals.
    Roomy(OwnedFd),
    /// A pipe that would be full before the next look: the system has given this user all the room that it gives.
    Narrow(ChildStdout),
}

impl Output {
    /// # Errors
    /// The system's.
    pub(super) fn of(stdout: ChildStdout) -> io::Result<Self> {
        if rustix::pipe::fcntl_setpipe_size(&stdout, PIPE_BYTES).is_err() {
            return Ok(Self::Narrow(stdout));
        }
        let pipe = stdout.into_owned_fd()?;
        rustix::io::ioctl_fionbio(&pipe, true)?;
        Ok(Self::Roomy(pipe))
    }

    /// The next [`BLOCK_BYTES`], fewer at the end, and none after it.
    ///
    /// # Errors
    /// The system's.
    pub(super) async fn block(&mut self) -> io::Result<Bytes> {
        let mut block = Vec::with_capacity(BLOCK_BYTES);
        while block.len() < BLOCK_BYTES && self.read(&mut block).await? > 0 {}
        Ok(Bytes::from(block))
    }

    /// Appends what is there, at least one byte and at most what the block has room for; 0 at the end.
    async fn read(&mut self, block: &mut Vec<u8>) -> io::Result<usize> {
        match self {
            Self::Narrow(stdout) => stdout.read_buf(block).await,
            Self::Roomy(pipe) => loop {
                match rustix::io::read(&*pipe, rustix::buffer::spare_capacity(block)) {
                    Err(Errno::AGAIN) => tokio::time::sleep(LOOK_INTERVAL).await,
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

    /// More than the pipe holds, a pause in which it is empty, and a last word.
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
    async fn a_pipe_is_read_to_its_end_whatever_its_room() {
        let (stdout, child) = start();
        let output = Output::of(stdout).unwrap();
        assert!(matches!(output, Output::Roomy(_)), "the pipe has no room");
        assert_whole(output, child).await;
        let (stdout, child) = start();
        assert_whole(Output::Narrow(stdout), child).await;
    }
}
