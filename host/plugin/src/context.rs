//! What every capability shares: the plugin's context with its handles and limits, the tally of its calls, and
//! the `log` interface, which needs no grant.
//!
//! A capability lives in `X/host.rs`: a private `bindgen!` of its interface and an `impl Host for Context`. What it
//! does is in `X/client.rs` or its siblings, which know nothing of wasm.

mod limiter;

pub use limiter::{LimitReached, Limiter};

use crate::Role;
use base::error::{Class, Error};
use base::stream::ByteStream;
use base::text::printable;
use std::collections::BTreeMap;
use std::sync::Arc;
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
        with: { "backup:host/bytes.stream": base::stream::ByteStream },
    });
}
pub use bindings::backup::host::{business_zone, bytes, log, notices, types};

/// Lines that one call of a plugin may log. A plan over ten thousand snapshots has something to say about a few.
const LOG_LINES_MAX: u32 = 200;

/// Key-value pairs of one logged line.
const LOG_FIELDS_MAX: usize = 16;

/// Numbers that one call of a plugin that sees rows may say: enough for what it looks at, and 45 bytes that it could choose.
const NOTICES_MAX: u32 = 20;

/// Handles that one call of a plugin may hold. A run passes in two and a plugin makes a stream; a cross-check passes in a
/// folder and at most sixteen tables.
const HANDLES_MAX: usize = 64;

/// Streams that one call of a plugin may open. A dump is one; each costs a reader and threads, or a `pg_dump`, from
/// the moment it is opened.
const STREAMS_MAX: u32 = 4;

/// Measurements of one call of a plugin. The shipped one takes two of a database.
const MEASURES_MAX: usize = 16;

/// What one call of a plugin may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Linear memory of all instances of the component together.
    pub bytes_max: usize,
}

/// How often a capability was used and how much went through it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Calls, failed ones included.
    pub calls: u64,
    /// Of what a call asks for many at once: tables that were selected, rows or documents that were handed over.
    pub items: u64,
    /// Bytes that the host moved for the plugin. None of them entered it, except the text of rows that it was granted to read.
    /// Of `log.emit`, what it said.
    pub bytes: u64,
}

/// Calls by function (`interface.function`) and scope (`prod/db`).
pub type Tally = BTreeMap<(&'static str, String), Count>;

/// Adds what one call did to what calls before it did.
pub fn add(total: &mut Tally, tally: Tally) {
    for (key, count) in tally {
        let sum = total.entry(key).or_default();
        sum.calls = sum.calls.saturating_add(count.calls);
        sum.items = sum.items.saturating_add(count.items);
        sum.bytes = sum.bytes.saturating_add(count.bytes);
    }
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
    failure: Option<Error>,
    last_error: Option<String>,
    wasi: Option<WasiCtx>,
    /// The business time zone of a retention plugin, as it is handed out.
    pub zone: Vec<u8>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("plugin", &self.plugin).field("tally", &self.tally).finish_non_exhaustive()
    }
}

impl Context {
    /// A context without handles.
    #[must_use]
    pub fn new(plugin: Arc<str>, memory: Memory, wasi: Option<WasiCtx>) -> Self {
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

    /// For the store's limiter.
    pub fn limiter(&mut self) -> &mut Limiter {
        &mut self.limiter
    }

    /// Opens a stream for the plugin, unless it opened too many before: then nothing is started.
    ///
    /// # Errors
    /// A trap, [`LimitReached::Streams`] among them.
    pub fn open_stream(
        &mut self,
        open: impl FnOnce() -> Result<ByteStream, Error>,
    ) -> wasmtime::Result<Result<Resource<ByteStream>, types::Error>> {
        self.streams = self.streams.saturating_add(1);
        if self.streams > STREAMS_MAX {
            return Err(LimitReached::Streams.into());
        }
        self.hand_out(open())
    }

    /// Gives the plugin a handle on what was made for it.
    ///
    /// # Errors
    /// A trap, where it holds too many handles.
    pub fn hand_out<T: Send + 'static>(
        &mut self,
        made: Result<T, Error>,
    ) -> wasmtime::Result<Result<Resource<T>, types::Error>> {
        let handle = match made {
            Ok(made) => Ok(self.table.push(made)?),
            Err(error) => Err(error),
        };
        Ok(self.answer(handle))
    }

    /// Lets a measurement begin, unless there were too many in this call.
    ///
    /// # Errors
    /// Class `PluginRefused`.
    pub fn begin_measure(&mut self) -> Result<(), Error> {
        self.measures = self.measures.saturating_add(1);
        if self.measures <= MEASURES_MAX {
            return Ok(());
        }
        let why = format!("the plugin measures more than {MEASURES_MAX} times in one call");
        Err(Error::new(Class::PluginRefused, why))
    }

    /// Counts one call, how many things it asked for, and the bytes that were moved for it.
    pub fn count(&mut self, function: &'static str, scope: &str, items: u64, bytes: u64) {
        let count = self.tally.entry((function, scope.to_owned())).or_default();
        count.calls = count.calls.saturating_add(1);
        count.items = count.items.saturating_add(items);
        count.bytes = count.bytes.saturating_add(bytes);
    }

    /// What the plugin did so far.
    pub fn take_tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }

    /// Gives the plugin its answer and keeps a failure, with its class and hint, for the report. The plugin learns what kind of
    /// failure it is and no more: a server's words may hold a row.
    pub fn answer<T: std::fmt::Debug>(&mut self, result: Result<T, Error>) -> Result<T, types::Error> {
        let answer = result.map_err(|error| {
            let answer = told(error.class());
            self.failure = Some(error);
            answer
        });
        #[cfg(test)]
        heard::note(&answer);
        answer
    }

    /// The last error that the plugin logged in this call: before a trap, what a panic says.
    pub fn take_last_error(&mut self) -> Option<String> {
        self.last_error.take()
    }

    /// The last failure of a capability in this call.
    pub fn take_failure(&mut self) -> Option<Error> {
        self.failure.take()
    }
}

/// What a plugin is told of a failure: what it can do about it, and no word of a server's.
fn told(class: Class) -> types::Error {
    let words = words(class).to_owned();
    match class {
        Class::Config | Class::Usage | Class::Held | Class::PluginRefused => types::Error::Denied(words),
        Class::Unavailable | Class::Interrupted => types::Error::Transient(words),
        Class::PluginTrapped | Class::RetentionIncomplete | Class::Stale | Class::Unexpected => {
            types::Error::Permanent(words)
        }
    }
}

/// The words of it: a plugin that answers with the same hands the failure on.
#[must_use]
pub const fn words(class: Class) -> &'static str {
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

/// Links what needs no grant: lines for the operator, or numbers alone for a plugin that sees rows; the time zone for one that plans.
///
/// # Errors
/// When an interface is linked twice.
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
    async fn drop(&mut self, stream: Resource<ByteStream>) -> wasmtime::Result<()> {
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
        let said = fields.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>() + message.len();
        self.count("log.emit", "", 0, said as u64);
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
        self.say(level, &printable(&line));
        Ok(())
    }
}

impl Context {
    /// Tells the operator what the plugin says, as said by the plugin.
    fn say(&self, level: log::Level, line: &str) {
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
        // How many more there are would be one more number of a plugin that sees rows.
        if self.notices <= NOTICES_MAX {
            self.count("notices.emit", "", 0, 0);
        } else {
            if self.notices == NOTICES_MAX + 1 {
                tracing::warn!(plugin = %self.plugin, "the plugin gave more than {NOTICES_MAX} notices; the rest is dropped");
            }
            return Ok(());
        }
        let level = match level {
            notices::Level::Debug => log::Level::Debug,
            notices::Level::Info => log::Level::Info,
            notices::Level::Warn => log::Level::Warn,
            notices::Level::Error => log::Level::Error,
        };
        self.say(level, &format!("notice {number}"));
        Ok(())
    }
}

/// What guests of this thread were told, for tests that compare it.
#[cfg(test)]
pub(crate) mod heard {
    use std::cell::RefCell;

    thread_local! {
        static HEARD: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    }

    pub(super) fn note(answer: &impl std::fmt::Debug) {
        HEARD.with_borrow_mut(|heard| heard.push(format!("{answer:?}")));
    }

    /// Takes what was noted.
    pub(crate) fn take() -> Vec<String> {
        HEARD.take()
    }
}
