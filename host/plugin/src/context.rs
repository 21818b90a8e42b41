//! What all capabilities share: the plugin's context with its handles and limits, the tally of its calls, and the
//! interfaces that need no grant, such as `log`.
//!
//! Each capability has a file in `capabilities`: a private `bindgen!` of its interface and an `impl Host for Context`.
//! The work itself is done in crates that know nothing of wasm.

mod limiter;

pub use limiter::{LimitReached, Limiter};

use crate::Role;
use base::error::{Class, Error};
use base::stream::ByteStream;
use base::text::printable;
use documents::Archived;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::oneshot;
use wasmtime::component::{HasSelf, Linker, Resource, ResourceTable};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

#[expect(missing_docs, reason = "generated from the WIT files, which hold the documentation")]
mod bindings {
    wasmtime::component::bindgen!({
        inline: "
            package host:capability;
            world shared {
                import backup:host/types@0.2.0;
                import backup:host/bytes@0.2.0;
                import backup:host/log@0.2.0;
                import backup:host/notices@0.2.0;
                import backup:host/business-zone@0.2.0;
            }",
        path: "../../wit",
        imports: { default: async | trappable },
        additional_derives: [PartialEq],
        with: { "backup:host/bytes.stream": super::Content },
    });
}
pub use bindings::backup::host::{business_zone, bytes, log, notices, types};

/// Lines that one call of a plugin may log. Even a plan for ten thousand snapshots needs only a few.
const LOG_LINES_MAX: u32 = 200;

/// Key-value pairs of one logged line.
const LOG_FIELDS_MAX: usize = 16;

/// Notices that one call of a plugin that sees rows may emit: enough for its checks, and at most 45 bytes that it could
/// choose.
const NOTICES_MAX: u32 = 20;

/// Handles that one call of a plugin may hold. A run passes in two, and the plugin creates a stream. A cross-check
/// passes in a folder and at most sixteen tables.
const HANDLES_MAX: usize = 64;

/// Streams that one call of a plugin may open. A dump needs one. Each open stream costs a reader and threads, or a
/// `pg_dump`.
const STREAMS_MAX: u32 = 4;

/// Measurements in one call of a plugin. The shipped one takes two of a database.
const MEASURES_MAX: usize = 16;

/// Memory limit of one call of a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryLimit {
    /// Linear memory of all instances of the component together.
    pub bytes_max: usize,
}

/// How often a capability was used and how much went through it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Calls, failed ones included.
    pub calls: u64,
    /// Items that the calls requested: tables that were selected, rows or documents that were handed over.
    pub items: u64,
    /// Bytes that the host moved for the plugin. They did not enter the plugin, except the text of rows that it may
    /// read. For `log.emit`, the size of the logged text.
    pub bytes: u64,
}

/// Calls by function (`interface.function`) and scope (`prod/db`).
pub type Tally = BTreeMap<(&'static str, String), Count>;

/// Adds the tally of one call to the total.
pub fn add_tally(total: &mut Tally, tally: Tally) {
    for (key, count) in tally {
        let sum = total.entry(key).or_default();
        sum.calls = sum.calls.saturating_add(count.calls);
        sum.items = sum.items.saturating_add(count.items);
        sum.bytes = sum.bytes.saturating_add(count.bytes);
    }
}

/// What a call returns to the plugin: the value, or as much of the failure as the plugin may know.
pub type GuestResult<T> = wasmtime::Result<Result<T, types::Error>>;

/// The bytes that a plugin hands on without seeing them, with the outcome of the archive that they are.
#[derive(Debug)]
pub struct Content {
    /// The bytes.
    pub bytes: ByteStream,
    /// Arrives before the stream ends; `None` for a dump.
    pub archived: Option<oneshot::Receiver<Archived>>,
}

/// One plugin call's state in the host.
pub struct Context {
    /// The handles.
    pub table: ResourceTable,
    plugin: Arc<str>,
    limiter: Limiter,
    log_lines: u32,
    notices: u32,
    streams: u32,
    measures: usize,
    tally: Tally,
    failure: Option<(types::Error, Error)>,
    last_error: Option<String>,
    wasi: Option<WasiCtx>,
    /// The business time zone that a retention plugin receives.
    pub zone: Vec<u8>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("plugin", &self.plugin).field("tally", &self.tally).finish_non_exhaustive()
    }
}

impl Context {
    /// A context without handles.
    pub fn new(plugin: Arc<str>, memory: MemoryLimit, wasi: Option<WasiCtx>) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(HANDLES_MAX);
        let limiter = Limiter::new(memory.bytes_max);
        Self {
            table,
            plugin,
            limiter,
            log_lines: 0,
            notices: 0,
            streams: 0,
            measures: 0,
            tally: Tally::new(),
            failure: None,
            last_error: None,
            wasi,
            zone: Vec::new(),
        }
    }

    /// The limiter for wasmtime's store.
    pub fn limiter(&mut self) -> &mut Limiter {
        &mut self.limiter
    }

    /// Opens a stream for the plugin. If it has already opened too many, nothing is started.
    ///
    /// # Errors
    /// A trap, such as [`LimitReached::Streams`].
    pub fn open_stream(&mut self, open: impl FnOnce() -> Result<Content, Error>) -> GuestResult<Resource<Content>> {
        self.streams = self.streams.saturating_add(1);
        if self.streams > STREAMS_MAX {
            return Err(LimitReached::Streams.into());
        }
        self.hand_out(open())
    }

    /// Gives the plugin a handle to a value.
    ///
    /// # Errors
    /// A trap if the plugin holds too many handles.
    pub fn hand_out<T: Send + 'static>(&mut self, value: Result<T, Error>) -> GuestResult<Resource<T>> {
        let handle = match value {
            Ok(value) => Ok(self.table.push(value)?),
            Err(error) => Err(error),
        };
        Ok(self.answer(handle))
    }

    /// Counts a measurement that is about to begin.
    ///
    /// # Errors
    /// [`Class::PluginRefused`] if there were too many in this call.
    pub fn begin_measure(&mut self) -> Result<(), Error> {
        self.measures = self.measures.saturating_add(1);
        if self.measures <= MEASURES_MAX {
            return Ok(());
        }
        let why = format!("the plugin measures more than {MEASURES_MAX} times in one call");
        Err(Error::new(Class::PluginRefused, why))
    }

    /// Counts one call, the items that it requested, and the bytes that were moved for it.
    pub fn count(&mut self, function: &'static str, scope: &str, items: u64, bytes: u64) {
        let count = self.tally.entry((function, scope.to_owned())).or_default();
        count.calls = count.calls.saturating_add(1);
        count.items = count.items.saturating_add(items);
        count.bytes = count.bytes.saturating_add(bytes);
    }

    /// Takes the tally of the calls so far.
    pub fn take_tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }

    /// Converts a result for the plugin, and keeps a failure with its class and hint for the report. The plugin learns
    /// only the kind of failure, because a server's message may contain a row.
    pub fn answer<T: std::fmt::Debug>(&mut self, result: Result<T, Error>) -> Result<T, types::Error> {
        let answer = result.map_err(|error| {
            let answer = guest_error(error.class());
            self.failure = Some((answer.clone(), error));
            answer
        });
        #[cfg(test)]
        heard::note(&answer);
        answer
    }

    /// Takes the last error that the plugin logged in this call. Before a trap, this is the message of a panic.
    pub fn take_last_error(&mut self) -> Option<String> {
        self.last_error.take()
    }

    /// Takes the last failure of a capability in this call.
    pub fn take_failure(&mut self) -> Option<(types::Error, Error)> {
        self.failure.take()
    }
}

/// The error that a plugin receives for a failure: it shows what the plugin can do, without the server's message.
fn guest_error(class: Class) -> types::Error {
    let words = guest_message(class).to_owned();
    match class {
        Class::Config | Class::Usage | Class::Held | Class::PluginRefused => types::Error::Denied(words),
        Class::Unavailable | Class::Interrupted => types::Error::Transient(words),
        Class::PluginTrapped | Class::RetentionIncomplete | Class::Stale | Class::Unexpected => {
            types::Error::Permanent(words)
        }
    }
}

/// The text of that error. A plugin that returns the same text passes the failure on.
pub const fn guest_message(class: Class) -> &'static str {
    match class {
        Class::Config | Class::Usage | Class::Held | Class::PluginRefused => {
            "the host refuses this; its own report says why"
        }
        Class::Unavailable | Class::Interrupted => "a service does not answer; the host's own report says which",
        Class::PluginTrapped | Class::RetentionIncomplete | Class::Stale | Class::Unexpected => {
            "this failed; the host's own report says why"
        }
    }
}

impl WasiView for Context {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let ctx = self.wasi.get_or_insert_with(|| WasiCtx::builder().build());
        WasiCtxView { ctx, table: &mut self.table }
    }
}

/// Links the interfaces that need no grant: `log`, or `notices` for a plugin that sees rows, and the time zone for a
/// retention plugin.
pub fn add_to_linker(linker: &mut Linker<Context>, role: Role) -> wasmtime::Result<()> {
    types::add_to_linker::<_, HasSelf<_>>(linker, |context| context)?;
    bytes::add_to_linker::<_, HasSelf<_>>(linker, |context| context)?;
    if role == Role::Retention {
        business_zone::add_to_linker::<_, HasSelf<_>>(linker, |context| context)?;
    }
    if role.sees_rows() {
        notices::add_to_linker::<_, HasSelf<_>>(linker, |context| context)
    } else {
        log::add_to_linker::<_, HasSelf<_>>(linker, |context| context)
    }
}

impl types::Host for Context {}

impl business_zone::Host for Context {
    async fn tzif(&mut self) -> wasmtime::Result<Vec<u8>> {
        Ok(self.zone.clone())
    }
}

impl bytes::Host for Context {}

impl bytes::HostStream for Context {
    async fn drop(&mut self, stream: Resource<Content>) -> wasmtime::Result<()> {
        self.table.delete(stream)?;
        Ok(())
    }
}

impl log::Host for Context {
    async fn emit(
        &mut self,
        level: log::Level,
        message: String,
        fields: Vec<(String, String)>,
    ) -> wasmtime::Result<()> {
        let bytes = fields.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>() + message.len();
        self.count("log.emit", "", 0, bytes as u64);
        self.log_lines = self.log_lines.saturating_add(1);
        if self.log_lines > LOG_LINES_MAX {
            if self.log_lines == LOG_LINES_MAX + 1 {
                tracing::warn!(plugin = %self.plugin, "the plugin logged more than {LOG_LINES_MAX} lines; the rest is dropped");
            }
            return Ok(());
        }
        let mut line = printable(&message);
        for (key, value) in fields.iter().take(LOG_FIELDS_MAX) {
            line.push_str(&format!(" {}={}", printable(key), printable(value)));
        }
        if level == log::Level::Error {
            self.last_error = Some(printable(&line));
        }
        self.log_line(level, &printable(&line));
        Ok(())
    }
}

impl Context {
    /// Logs a line that is marked as the plugin's.
    fn log_line(&self, level: log::Level, line: &str) {
        match level {
            log::Level::Debug => tracing::debug!(plugin = %self.plugin, "{line}"),
            log::Level::Info => tracing::info!(plugin = %self.plugin, "{line}"),
            log::Level::Warn => tracing::warn!(plugin = %self.plugin, "{line}"),
            log::Level::Error => tracing::error!(plugin = %self.plugin, "{line}"),
        }
    }
}

impl notices::Host for Context {
    async fn emit(&mut self, level: notices::Level, number: u16) -> wasmtime::Result<()> {
        self.notices = self.notices.saturating_add(1);
        // Counting further ones would let out one more number from a plugin that sees rows.
        if self.notices <= NOTICES_MAX {
            self.count("notices.emit", "", 0, 0);
        } else {
            if self.notices == NOTICES_MAX + 1 {
                tracing::warn!(plugin = %self.plugin, "the plugin emitted more than {NOTICES_MAX} notices; the rest is dropped");
            }
            return Ok(());
        }
        let level = match level {
            notices::Level::Debug => log::Level::Debug,
            notices::Level::Info => log::Level::Info,
            notices::Level::Warn => log::Level::Warn,
            notices::Level::Error => log::Level::Error,
        };
        self.log_line(level, &format!("notice {number}"));
        Ok(())
    }
}

/// The answers that guests of this thread received, for tests that compare them.
#[cfg(test)]
pub(crate) mod heard {
    use std::cell::RefCell;

    thread_local! {
        static HEARD: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    }

    pub(super) fn note(answer: &impl std::fmt::Debug) {
        HEARD.with_borrow_mut(|heard| heard.push(format!("{answer:?}")));
    }

    /// Takes the recorded answers.
    pub(crate) fn take() -> Vec<String> {
        HEARD.take()
    }
}
