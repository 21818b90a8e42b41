//! A strict proxy in front of an S3 server: it refuses what Google Cloud Storage refuses, omits what Google Cloud
//! Storage omits, and injects faults.
//!
//! It forwards requests unchanged, with the client's Host header, so that the client's signature stays valid. Each
//! connection serves one request. The proxy never repairs a request and never answers from memory.

mod request;
mod rules;

pub use self::request::{Operation, Request};

use self::rules::{answer_of_fault, refuse, refuse_parts, without_md5_of_parts};
use anyhow::{Result, bail};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Longest head of a request or response. Real ones have less than 4 KiB.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// A peer that sends nothing for this long counts as gone.
const SILENCE_SECONDS_MAX: u64 = 60;

/// How clients reach the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Plain http.
    Plain,
    /// TLS, with a certificate that only [`Gcs::ca_file`] vouches for.
    Tls,
}

/// A fault of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// 429 with XML that S3 clients do not know.
    TooManyRequests,
    /// 503 SlowDown.
    SlowDown,
    /// 403 AccessDenied.
    AccessDenied,
    /// The server executes the request, but the client gets no response.
    CommitThenDrop,
    /// 200 with an `Error` document; the request never reaches the server.
    ErrorIn200,
    /// 204; the request never reaches the server.
    Swallow,
    /// No response for this long, then the connection ends.
    Stall(Duration),
    /// The connection ends after this many bytes of the request's body.
    ResetRequestAfter(u64),
    /// The connection ends after this many bytes of the response's body.
    ResetAnswerAfter(u64),
}

#[derive(Debug, Default)]
struct State {
    seen: Vec<Request>,
    faults: Vec<(Operation, Fault, u32)>,
    /// Sizes of the parts of each upload, by part number.
    parts: BTreeMap<String, BTreeMap<u32, u64>>,
}

#[derive(Debug)]
struct Shared {
    upstream_port: u16,
    tls: Option<Arc<rustls::ServerConfig>>,
    ending: AtomicBool,
    state: Mutex<State>,
}

/// A running proxy. Dropping it closes its port.
#[derive(Debug)]
pub struct Gcs {
    shared: Arc<Shared>,
    port: u16,
    ca: Option<(tempfile::TempDir, PathBuf)>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Gcs {
    /// Starts a proxy on a free loopback port, in front of the server on 127.0.0.1:`upstream_port`.
    pub fn start(upstream_port: u16, transport: Transport) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let (tls, ca) = match transport {
            Transport::Plain => (None, None),
            Transport::Tls => {
                let (tls, folder) = certificate()?;
                let file = folder.path().join("ca.pem");
                (Some(tls), Some((folder, file)))
            }
        };
        let shared = Arc::new(Shared { upstream_port, tls, ending: AtomicBool::new(false), state: Mutex::default() });
        let accepting = Arc::clone(&shared);
        let thread = std::thread::spawn(move || accept(&listener, &accepting));
        Ok(Self { shared, port, ca, thread: Some(thread) })
    }

    /// The URL for clients.
    pub fn endpoint(&self) -> String {
        let scheme = if self.ca.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// The certificate authority, if the proxy uses TLS.
    pub fn ca_file(&self) -> Option<&Path> {
        self.ca.as_ref().map(|(_, file)| file.as_path())
    }

    /// Makes the next `times` requests of an operation fail.
    pub fn inject(&self, operation: Operation, fault: Fault, times: u32) {
        self.shared.state().faults.push((operation, fault, times));
    }

    /// Every request so far, refused ones included.
    pub fn seen(&self) -> Vec<Request> {
        self.shared.state().seen.clone()
    }

    /// The number of requests of an operation so far.
    pub fn count(&self, operation: Operation) -> usize {
        self.shared.state().seen.iter().filter(|request| request.operation == operation).count()
    }
}

impl Drop for Gcs {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::Release);
        // Wakes the accepting thread, which waits for a connection.
        drop(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_fault(&self, operation: Operation) -> Option<Fault> {
        let mut state = self.state();
        let found = state.faults.iter_mut().find(|(at, _, times)| *at == operation && *times > 0)?;
        found.2 -= 1;
        Some(found.1)
    }

    fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }
}

fn certificate() -> Result<(Arc<rustls::ServerConfig>, tempfile::TempDir)> {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("ca.pem"), made.cert.pem())?;
    let key =
        rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)?;
    Ok((Arc::new(config), folder))
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for connection in listener.incoming() {
        if shared.is_ending() {
            return;
        }
        let Ok(connection) = connection else { continue };
        let shared = Arc::clone(shared);
        // If a connection breaks, the client notices, and the thread ends.
        std::thread::spawn(move || drop(serve(connection, &shared)));
    }
}

trait Stream: Read + Write {
    /// Signals the end of the data.
    fn close(&mut self);
}

impl Stream for TcpStream {
    fn close(&mut self) {
        drop(self.shutdown(std::net::Shutdown::Write));
    }
}

impl Stream for rustls::StreamOwned<rustls::ServerConnection, TcpStream> {
    fn close(&mut self) {
        self.conn.send_close_notify();
        drop(self.flush());
        drop(self.sock.shutdown(std::net::Shutdown::Write));
    }
}

fn serve(connection: TcpStream, shared: &Shared) -> Result<()> {
    let silence = Some(Duration::from_secs(SILENCE_SECONDS_MAX));
    connection.set_read_timeout(silence)?;
    connection.set_write_timeout(silence)?;
    connection.set_nodelay(true)?;
    match &shared.tls {
        None => exchange(connection, shared),
        Some(tls) => {
            exchange(rustls::StreamOwned::new(rustls::ServerConnection::new(Arc::clone(tls))?, connection), shared)
        }
    }
}

/// Serves one request.
fn exchange(mut client: impl Stream, shared: &Shared) -> Result<()> {
    let (head, early) = read_head(&mut client)?;
    let request = Request::parse(&head)?;
    shared.state().seen.push(request.clone());
    let bytes = request.body_bytes();
    let refused = refuse(&request).or_else(|| refuse_parts(&request, &mut shared.state()));
    let fault = if refused.is_some() { None } else { shared.take_fault(request.operation) };
    if let Some(Fault::ResetRequestAfter(after)) = fault {
        drain(&mut client, &early, after.min(bytes))?;
        return Ok(());
    }
    let canned = refused.or_else(|| fault.and_then(answer_of_fault));
    if let Some(answer) = canned {
        drain(&mut client, &early, bytes)?;
        client.write_all(answer.as_bytes())?;
        client.flush()?;
        client.close();
        return Ok(());
    }
    if let Some(Fault::Stall(duration)) = fault {
        drain(&mut client, &early, bytes)?;
        let start = Instant::now();
        while start.elapsed() < duration && !shared.is_ending() {
            std::thread::sleep(Duration::from_millis(20));
        }
        return Ok(());
    }
    forward(client, &head, &early, &request, shared, fault)
}

/// Forwards the request, and sends the response back.
fn forward(
    mut client: impl Stream,
    head: &[u8],
    early: &[u8],
    request: &Request,
    shared: &Shared,
    fault: Option<Fault>,
) -> Result<()> {
    let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, shared.upstream_port))?;
    server.set_read_timeout(Some(Duration::from_secs(SILENCE_SECONDS_MAX)))?;
    server.write_all(&closing(head, |line| line.to_owned()))?;
    let bytes = request.body_bytes();
    // Part of the body may arrive with the head. Bytes beyond its length belong to another request and are not served.
    let early = early.get(..early.len().min(usize::try_from(bytes)?)).unwrap_or_default();
    server.write_all(early)?;
    pass(&mut client, &mut server, bytes - early.len() as u64)?;

    let (answer, rest) = read_head(&mut server)?;
    if fault == Some(Fault::CommitThenDrop) {
        std::io::copy(&mut server, &mut std::io::sink())?;
        return Ok(());
    }
    client.write_all(&closing(&answer, without_md5_of_parts))?;
    if let Some(Fault::ResetAnswerAfter(after)) = fault {
        let kept = rest.get(..rest.len().min(usize::try_from(after)?)).unwrap_or_default();
        client.write_all(kept)?;
        pass(&mut server, &mut client, after - kept.len() as u64)?;
        client.flush()?;
        return Ok(());
    }
    client.write_all(&rest)?;
    std::io::copy(&mut server, &mut client)?;
    client.flush()?;
    client.close();
    Ok(())
}

/// Reads the head up to its empty line. Returns it with the bytes that followed.
fn read_head(stream: &mut impl Read) -> Result<(Vec<u8>, Vec<u8>)> {
    let mut head = Vec::new();
    let mut block = [0; 8 << 10];
    loop {
        if let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = head.split_off(end + 4);
            return Ok((head, rest));
        }
        if head.len() > HEAD_BYTES_MAX {
            bail!("a head is longer than {HEAD_BYTES_MAX} bytes");
        }
        match stream.read(&mut block)? {
            0 => bail!("the peer closed the connection in the middle of a head"),
            read => head.extend_from_slice(&block[..read]),
        }
    }
}

/// The head with `connection: close`. Every other line is passed through `change`.
fn closing(head: &[u8], change: impl Fn(&str) -> String) -> Vec<u8> {
    let head = String::from_utf8_lossy(head);
    let mut changed = String::with_capacity(head.len() + 32);
    for line in head.split("\r\n").filter(|line| !line.is_empty()) {
        if !line.to_ascii_lowercase().starts_with("connection:") {
            changed.push_str(&change(line));
            changed.push_str("\r\n");
        }
    }
    changed.push_str("connection: close\r\n\r\n");
    changed.into_bytes()
}

/// Reads and discards a body of `bytes` bytes, of which `early` has already arrived.
fn drain(client: &mut impl Read, early: &[u8], bytes: u64) -> Result<()> {
    pass(client, &mut std::io::sink(), bytes.saturating_sub(early.len() as u64))
}

fn pass(from: &mut impl Read, to: &mut impl Write, bytes: u64) -> Result<()> {
    let passed = std::io::copy(&mut from.take(bytes), to)?;
    if passed < bytes {
        bail!("the peer closed the connection in the middle of a body");
    }
    Ok(())
}
