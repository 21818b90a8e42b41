//! Connections from one network namespace into another: taken in the one, made anew in the other, and joined byte for byte.
//!
//! A socket stays in the namespace that it was made in, whichever thread uses it. So no address, route or rule of the machine's
//! own network is touched.

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often a new connection is looked for. It is the longest that one waits.
const POLL: Duration = Duration::from_millis(10);

/// Time for a connection to an address of this machine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A port that is passed on. Dropped, it takes no connection any more.
#[derive(Debug)]
pub(super) struct Forward {
    ending: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Forward {
    /// From this machine's own network into a namespace.
    pub(super) fn into_namespace(namespace: File, from: SocketAddr, to: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(from).with_context(|| format!("{from} cannot be listened at"))?;
        Self::begin(listener, Some(namespace), to)
    }

    /// From a namespace into this machine's own network.
    pub(super) fn out_of_namespace(namespace: File, from: SocketAddr, to: SocketAddr) -> Result<Self> {
        let listen = std::thread::spawn(move || {
            setns(&namespace, CloneFlags::CLONE_NEWNET)?;
            TcpListener::bind(from)
        });
        let listener = listen.join().map_err(|_| anyhow!("a thread that listens in a namespace panicked"))?;
        Self::begin(listener.with_context(|| format!("{from} cannot be listened at in the namespace"))?, None, to)
    }

    fn begin(listener: TcpListener, namespace: Option<File>, to: SocketAddr) -> Result<Self> {
        listener.set_nonblocking(true)?;
        let ending = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&ending);
        let thread = std::thread::spawn(move || {
            // Only this thread enters it; one that cannot serves nobody, and the test says what it could not reach.
            if namespace.is_none_or(|namespace| setns(&namespace, CloneFlags::CLONE_NEWNET).is_ok()) {
                serve(&listener, to, &ended);
            }
        });
        Ok(Self { ending, thread: Some(thread) })
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Release);
        drop(self.thread.take().map(JoinHandle::join));
    }
}

fn serve(listener: &TcpListener, to: SocketAddr, ended: &AtomicBool) {
    while !ended.load(Ordering::Acquire) {
        let Ok((taken, _)) = listener.accept() else {
            std::thread::sleep(POLL);
            continue;
        };
        // A connection that cannot be made is one that is closed: its client sees it.
        if let Ok(made) = TcpStream::connect_timeout(&to, CONNECT_TIMEOUT) {
            drop(join(taken, made));
        }
    }
}

/// Each direction ends by itself, as TCP has it.
fn join(one: TcpStream, other: TcpStream) -> Result<()> {
    one.set_nodelay(true)?;
    other.set_nodelay(true)?;
    for (mut from, mut to) in [(one.try_clone()?, other.try_clone()?), (other, one)] {
        std::thread::spawn(move || {
            let copied = std::io::copy(&mut from, &mut to);
            drop(to.shutdown(Shutdown::Write));
            if copied.is_err() {
                drop(from.shutdown(Shutdown::Both));
            }
        });
    }
    Ok(())
}
