//! Forwards connections between network namespaces: accepts them in one, opens new ones in the other, and copies the
//! bytes.
//!
//! A socket stays in the namespace where it was created, whichever thread uses it. So the machine's own addresses,
//! routes and rules are not changed.

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often to check for a new connection, and so its longest wait.
const POLL: Duration = Duration::from_millis(10);

/// Timeout of a connection to an address of this machine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A forwarded port. Dropping it stops accepting connections.
#[derive(Debug)]
pub(super) struct Forward {
    ending: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Forward {
    /// Forwards from this machine's own network into a namespace.
    pub(super) fn into_namespace(namespace: File, from: SocketAddr, to: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(from).with_context(|| format!("cannot listen on {from}"))?;
        Self::begin(listener, Some(namespace), to)
    }

    /// Forwards from a namespace into this machine's own network.
    pub(super) fn out_of_namespace(namespace: File, from: SocketAddr, to: SocketAddr) -> Result<Self> {
        let listen = std::thread::spawn(move || {
            setns(&namespace, CloneFlags::CLONE_NEWNET)?;
            TcpListener::bind(from)
        });
        let listener = listen.join().map_err(|_| anyhow!("a thread that listens in a namespace panicked"))?;
        Self::begin(listener.with_context(|| format!("cannot listen on {from} in the namespace"))?, None, to)
    }

    fn begin(listener: TcpListener, namespace: Option<File>, to: SocketAddr) -> Result<Self> {
        listener.set_nonblocking(true)?;
        let ending = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&ending);
        let thread = std::thread::spawn(move || {
            // Only this thread enters the namespace. If it cannot, nothing is served, and the test reports what it
            // could not reach.
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
        // If no connection can be made, this one is closed, and its client notices.
        if let Ok(made) = TcpStream::connect_timeout(&to, CONNECT_TIMEOUT) {
            drop(join(taken, made));
        }
    }
}

/// Copies both directions. Each ends independently, as in TCP.
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
