//! A strict proxy in front of an S3 server: refuses what Google Cloud Storage refuses, stays silent where it stays
//! silent, and injects faults.
//!
//! It passes requests on as they came, with the client's Host header, so the client's signature stays valid behind it.
//! Every connection serves one request. It never repairs a request and it never answers from memory.

use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Longest head of a request or an answer. Real ones have less than 4 KiB.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Most headers in one head.
const HEADERS_MAX: usize = 64;

/// Smallest part of a multipart upload but the last.
const PART_BYTES_MIN: u64 = 5 << 20;

/// Most keys in one DeleteObjects.
const DELETE_KEYS_MAX: usize = 1_000;

/// A peer that says nothing for this long is gone.
const SILENCE_SECONDS_MAX: u64 = 60;

/// How clients reach the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Plain http.
    Plain,
    /// TLS, with a certificate that only [`Gcs::ca_file`] vouches for.
    Tls,
}

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names of the S3 operations")]
pub enum Operation {
    AbortMultipartUpload,
    CompleteMultipartUpload,
    CopyObject,
    CreateMultipartUpload,
    DeleteObject,
    DeleteObjects,
    GetObject,
    HeadObject,
    ListMultipartUploads,
    ListObjects,
    ListParts,
    PutObject,
    UploadPart,
    UploadPartCopy,
}

/// What goes wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// 429 with XML that no S3 client knows.
    TooManyRequests,
    /// 503 SlowDown.
    SlowDown,
    /// 403 AccessDenied.
    AccessDenied,
    /// The server does it, and the client never hears so.
    CommitThenDrop,
    /// 200 with an `Error` document; the server never hears of it.
    ErrorIn200,
    /// 204; the server never hears of it.
    Swallow,
    /// No answer for this long, then the connection ends.
    Stall(Duration),
    /// The connection ends after this many bytes of the request's body.
    ResetRequestAfter(u64),
    /// The connection ends after this many bytes of the answer's body.
    ResetAnswerAfter(u64),
}

/// A request as it was on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What it asks for.
    pub operation: Operation,
    /// Its method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
}

impl Request {
    /// The value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }

    fn body_bytes(&self) -> u64 {
        self.header("content-length").and_then(|value| value.parse().ok()).unwrap_or(0)
    }

    fn query(&self, name: &str) -> Option<&str> {
        let (_, query) = self.target.split_once('?')?;
        query.split('&').find_map(|pair| match pair.split_once('=') {
            Some((key, value)) => (key == name).then_some(value),
            None => (pair == name).then_some(""),
        })
    }
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
    /// A proxy on a free loopback port, in front of the server on 127.0.0.1:`upstream_port`.
    ///
    /// # Errors
    /// When there is no port or no certificate.
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

    /// Where clients reach it.
    #[must_use]
    pub fn endpoint(&self) -> String {
        let scheme = if self.ca.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// The certificate authority, where it speaks TLS.
    #[must_use]
    pub fn ca_file(&self) -> Option<&Path> {
        self.ca.as_ref().map(|(_, file)| file.as_path())
    }

    /// Makes the next `times` requests of an operation fail.
    pub fn inject(&self, operation: Operation, fault: Fault, times: u32) {
        self.shared.state().faults.push((operation, fault, times));
    }

    /// Every request so far, refused ones included.
    #[must_use]
    pub fn seen(&self) -> Vec<Request> {
        self.shared.state().seen.clone()
    }

    /// How many requests of an operation there were so far.
    #[must_use]
    pub fn count(&self, operation: Operation) -> usize {
        self.shared.state().seen.iter().filter(|request| request.operation == operation).count()
    }
}

impl Drop for Gcs {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::Release);
        // The accepting thread sleeps until somebody connects.
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
        // A connection that breaks is the client's to notice; the thread ends with it.
        std::thread::spawn(move || drop(serve(connection, &shared)));
    }
}

trait Stream: Read + Write {
    /// Says that nothing more follows.
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

/// One request and its answer.
fn exchange(mut client: impl Stream, shared: &Shared) -> Result<()> {
    let (head, early) = read_head(&mut client)?;
    let request = parse_request(&head)?;
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

/// Passes the request on and the answer back.
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
    // A body may arrive with its head; whatever is beyond its length would be another request, which is not served.
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

/// The head up to its empty line, and what came after it.
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
            0 => bail!("the peer left in the middle of a head"),
            read => head.extend_from_slice(&block[..read]),
        }
    }
}

fn parse_request(head: &[u8]) -> Result<Request> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut headers);
    parsed.parse(head)?;
    let method = parsed.method.context("no method")?.to_owned();
    let target = parsed.path.context("no path")?.to_owned();
    let headers = parsed.headers.iter();
    let headers = headers
        .map(|header| (header.name.to_ascii_lowercase(), String::from_utf8_lossy(header.value).into_owned()))
        .collect();
    let mut request = Request { operation: Operation::GetObject, method, target, headers };
    request.operation = operation(&request)?;
    Ok(request)
}

fn operation(request: &Request) -> Result<Operation> {
    let has = |name: &str| request.query(name).is_some();
    let copies = request.header("x-amz-copy-source").is_some();
    let path = request.target.split('?').next().unwrap_or_default();
    let is_bucket = !path.trim_matches('/').contains('/');
    Ok(match request.method.as_str() {
        "HEAD" => Operation::HeadObject,
        "GET" if has("uploads") => Operation::ListMultipartUploads,
        "GET" if has("uploadId") => Operation::ListParts,
        "GET" if is_bucket => Operation::ListObjects,
        "GET" => Operation::GetObject,
        "PUT" if has("partNumber") && copies => Operation::UploadPartCopy,
        "PUT" if has("partNumber") => Operation::UploadPart,
        "PUT" if copies => Operation::CopyObject,
        "PUT" => Operation::PutObject,
        "POST" if has("uploads") => Operation::CreateMultipartUpload,
        "POST" if has("uploadId") => Operation::CompleteMultipartUpload,
        "POST" if has("delete") => Operation::DeleteObjects,
        "DELETE" if has("uploadId") => Operation::AbortMultipartUpload,
        "DELETE" => Operation::DeleteObject,
        other => bail!("the proxy does not know {other} {}", request.target),
    })
}

/// The answer to a request that Google Cloud Storage refuses by its head.
fn refuse(request: &Request) -> Option<String> {
    let has = |name: &str| request.header(name).is_some();
    let starts = |prefix: &str| request.headers.iter().any(|(name, _)| name.starts_with(prefix));
    let value = |name: &str| request.header(name).unwrap_or_default();
    let signed = value("authorization").split("SignedHeaders=").nth(1).and_then(|rest| rest.split(',').next());
    let is_signed = |name: &str| signed.is_some_and(|signed| signed.split(';').any(|header| header == name));
    let is_upload = matches!(request.method.as_str(), "PUT" | "POST");

    if is_upload && !has("content-length") {
        return Some(answer(
            "411 Length Required",
            "text/html",
            "<html><title>Error 411 (Length Required)!!1</title></html>",
        ));
    }
    if value("content-encoding").contains("aws-chunked")
        || has("x-amz-trailer")
        || value("x-amz-content-sha256").starts_with("STREAMING-")
        || is_signed("accept-encoding")
    {
        return Some(error("403 Forbidden", "SignatureDoesNotMatch", "the signature does not match"));
    }
    if starts("x-goog-") && starts("x-amz-") {
        return Some(error("400 Bad Request", "ExcessHeaderValues", "x-goog and x-amz headers do not mix"));
    }
    if request.operation == Operation::UploadPartCopy {
        return Some(error("400 Bad Request", "NotImplemented", "UploadPartCopy is not implemented"));
    }
    if request.operation == Operation::CreateMultipartUpload && (has("if-match") || has("if-none-match")) {
        return Some(error("400 Bad Request", "NotImplemented", "no precondition on an initiate"));
    }
    if request.operation == Operation::CompleteMultipartUpload && starts("x-amz-checksum-") {
        return Some(error("412 Precondition Failed", "PreconditionFailed", "a composite checksum"));
    }
    if request.operation == Operation::DeleteObjects && !has("content-md5") && !has("x-amz-checksum-crc32") {
        return Some(error("400 Bad Request", "MissingContentMD5", "neither Content-MD5 nor CRC32"));
    }
    // The shortest entry of the list has 31 bytes; a body beyond a thousand of the longest has too many in any case.
    if request.operation == Operation::DeleteObjects && request.body_bytes() > (DELETE_KEYS_MAX * 1_100) as u64 {
        return Some(error("400 Bad Request", "MalformedXML", "more than 1,000 keys"));
    }
    if request.target.contains("%0D") || request.target.contains("%0A") {
        return Some(error("400 Bad Request", "InvalidArgument", "a line break in a key"));
    }
    if has("x-amz-tagging") || request.query("versionId").is_some() || request.query("tagging").is_some() {
        return Some(error("400 Bad Request", "NotImplemented", "no tags and no versions by this interface"));
    }
    let class = value("x-amz-storage-class");
    if !class.is_empty() && class != "STANDARD" {
        return Some(error("400 Bad Request", "InvalidStorageClass", "a storage class of another provider"));
    }
    None
}

/// Remembers the sizes of parts, and refuses to complete an upload with a small one before the last.
fn refuse_parts(request: &Request, state: &mut State) -> Option<String> {
    let upload = request.query("uploadId")?.to_owned();
    match request.operation {
        Operation::UploadPart => {
            let number = request.query("partNumber")?.parse().ok()?;
            state.parts.entry(upload).or_default().insert(number, request.body_bytes());
            None
        }
        Operation::CompleteMultipartUpload => {
            let parts = state.parts.get(&upload)?;
            let is_small = parts.values().rev().skip(1).any(|bytes| *bytes < PART_BYTES_MIN);
            is_small.then(|| error("400 Bad Request", "EntityTooSmall", "a part before the last is too small"))
        }
        _ => None,
    }
}

/// The answer that a fault gives in the server's stead, if it gives one.
fn answer_of_fault(fault: Fault) -> Option<String> {
    match fault {
        Fault::TooManyRequests => Some(answer(
            "429 Too Many Requests",
            "application/xml",
            "<?xml version='1.0'?><RateLimit><Reason>rateLimitExceeded</Reason></RateLimit>",
        )),
        Fault::SlowDown => Some(error("503 Service Unavailable", "SlowDown", "reduce your request rate")),
        Fault::AccessDenied => Some(error("403 Forbidden", "AccessDenied", "access denied")),
        Fault::ErrorIn200 => Some(error("200 OK", "InternalError", "an internal error, please try again")),
        Fault::Swallow => Some("HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n".to_owned()),
        Fault::CommitThenDrop | Fault::Stall(_) | Fault::ResetRequestAfter(_) | Fault::ResetAnswerAfter(_) => None,
    }
}

fn error(status: &str, code: &str, message: &str) -> String {
    let body =
        format!("<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>{message}</Message></Error>");
    answer(status, "application/xml", &body)
}

fn answer(status: &str, kind: &str, body: &str) -> String {
    let bytes = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {bytes}\r\nconnection: close\r\n\r\n{body}")
}

/// A head with `connection: close`, each other line passed through `change`.
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

/// Google Cloud Storage has no MD5 for an object of several parts, and its ETag does not look like one.
fn without_md5_of_parts(line: &str) -> String {
    let is_of_parts = line.to_ascii_lowercase().starts_with("etag:") && line.contains('-');
    if is_of_parts { "etag: \"CKih16GjycICEAE=\"".to_owned() } else { line.to_owned() }
}

/// Reads and forgets `bytes` of a body of which `early` is here already.
fn drain(client: &mut impl Read, early: &[u8], bytes: u64) -> Result<()> {
    pass(client, &mut std::io::sink(), bytes.saturating_sub(early.len() as u64))
}

fn pass(from: &mut impl Read, to: &mut impl Write, bytes: u64) -> Result<()> {
    let passed = std::io::copy(&mut from.take(bytes), to)?;
    if passed < bytes {
        bail!("the peer left in the middle of a body");
    }
    Ok(())
}
