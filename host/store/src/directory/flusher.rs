//! A large object's way to the disk while it is still being written.
//!
//! The kernel starts to write after seconds or gigabytes, and a sync at the end would then wait for all of it. What is on the
//! disk leaves the page cache: this program seldom reads it again, and a large backup would push out what the database and
//! the web server read.

use std::fs::File;
use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Bytes after which what was written goes to the disk: a fraction of a second of any disk, and many of its largest requests.
/// It is also about what a large object takes of the page cache.
const FLUSH_BYTES: u64 = 16 << 20;

/// Sends a file to the disk beside whoever writes it.
pub(super) struct Flusher {
    file: File,
    written: u64,
    thread: Option<(SyncSender<()>, JoinHandle<io::Result<()>>)>,
}

impl Flusher {
    /// # Errors
    /// The system's.
    pub(super) fn new(file: &File) -> io::Result<Self> {
        Ok(Self { file: file.try_clone()?, written: 0, thread: None })
    }

    /// Notes what was written; never waits for the disk.
    ///
    /// # Errors
    /// When there is no room for a thread.
    pub(super) fn wrote(&mut self, bytes: u64) -> io::Result<()> {
        self.written += bytes;
        if self.written < FLUSH_BYTES {
            return Ok(());
        }
        self.written = 0;
        let due = match &self.thread {
            Some((due, _)) => due,
            None => &self.thread.insert(start(self.file.try_clone()?)?).0,
        };
        // One that is at work takes these bytes along next time. One that has failed says so in `finish`.
        let _ = due.try_send(());
        Ok(())
    }

    /// Waits until everything is on the disk.
    ///
    /// # Errors
    /// The disk's, whichever sync it was that met it: the kernel tells of each failure once.
    pub(super) fn finish(self) -> io::Result<()> {
        let Some((due, thread)) = self.thread else { return self.file.sync_all() };
        drop(due);
        thread.join().map_err(|_| io::Error::other("the thread that syncs has ended"))??;
        self.file.sync_all()?;
        leave_cache(&self.file);
        Ok(())
    }
}

fn start(file: File) -> io::Result<(SyncSender<()>, JoinHandle<io::Result<()>>)> {
    let (due, times) = sync_channel(1);
    let work = move || {
        times.iter().try_for_each(|()| {
            file.sync_data()?;
            leave_cache(&file);
            Ok(())
        })
    };
    Ok((due, std::thread::Builder::new().name("sync".to_owned()).spawn(work)?))
}

/// A wish: where the system does not grant it, nothing is lost.
fn leave_cache(file: &File) {
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_synced_is_a_failure_whoever_met_it() {
        // A pipe takes bytes and has no disk.
        let (_read, write) = std::io::pipe().unwrap();
        let pipe = || File::from(std::os::fd::OwnedFd::from(write.try_clone().unwrap()));
        let mut flusher = Flusher::new(&pipe()).unwrap();
        flusher.wrote(FLUSH_BYTES).unwrap();
        assert!(flusher.thread.is_some());
        let (due, thread) = flusher.thread.take().unwrap();
        drop(due);
        assert!(thread.join().unwrap().is_err());
        let mut flusher = Flusher::new(&pipe()).unwrap();
        flusher.wrote(FLUSH_BYTES - 1).unwrap();
        assert!(flusher.thread.is_none(), "small objects have no thread");
        assert!(flusher.finish().is_err());
    }

    #[test]
    fn a_writer_never_waits_and_the_end_waits_for_all() {
        let mut file = tempfile::tempfile().unwrap();
        let mut flusher = Flusher::new(&file).unwrap();
        for _ in 0..9 {
            std::io::Write::write_all(&mut file, &[7; 4096]).unwrap();
            flusher.wrote(FLUSH_BYTES).unwrap();
        }
        flusher.finish().unwrap();
        assert_eq!(file.metadata().unwrap().len(), 9 * 4096);
    }
}
