//! Syncs a large object to the disk while it is still being written.
//!
//! The kernel only starts writing back after seconds or gigabytes, so a single sync at the end would have to wait for
//! all of it. Synced data is dropped from the page cache: this program rarely reads it again, and a large backup would
//! evict the pages of the database and the web server.

use std::fs::File;
use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Bytes between two syncs: a fraction of a second on any disk, yet many of its largest requests. It is also roughly
/// how much of the page cache a large object uses.
const FLUSH_BYTES: u64 = 16 << 20;

/// Syncs a file on a separate thread while the caller writes it.
pub(super) struct Flusher {
    file: File,
    written: u64,
    thread: Option<(SyncSender<()>, JoinHandle<io::Result<()>>)>,
}

impl Flusher {
    pub(super) fn new(file: &File) -> io::Result<Self> {
        Ok(Self { file: file.try_clone()?, written: 0, thread: None })
    }

    /// Counts written bytes and triggers a sync when due. Never waits for the disk.
    ///
    /// # Errors
    /// If the thread cannot be started.
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
        // If the channel is full, the sync that is due includes these bytes. `finish` reports a thread that has failed.
        let _ = due.try_send(());
        Ok(())
    }

    /// Waits until everything is on the disk.
    ///
    /// # Errors
    /// The disk's error, from whichever sync saw it: the kernel reports each failure only once.
    pub(super) fn finish(self) -> io::Result<()> {
        let Some((due, thread)) = self.thread else { return self.file.sync_all() };
        drop(due);
        thread.join().map_err(|_| io::Error::other("the sync thread panicked"))??;
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

/// Best effort: failure has no consequences.
fn leave_cache(file: &File) {
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_sync_is_reported_from_the_thread_and_from_finish() {
        // A pipe accepts bytes but cannot be synced.
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
        assert!(flusher.thread.is_none(), "a small object started a thread");
        assert!(flusher.finish().is_err());
    }

    #[test]
    fn writes_never_wait_and_finish_waits_for_everything() {
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
