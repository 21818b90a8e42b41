//! What a command shows while it runs: log lines on stderr and, on a terminal, progress bars for the long phases.
//!
//! This module never writes to stdout, which carries only the command's result.

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// The variable that sets the log filter, in the syntax of tracing's `EnvFilter`.
pub const LOG_VARIABLE: &str = "DOLIBARR_BACKUP_LOG";

/// The default log filter. The Kubernetes client logs every failed request as an error; it is switched off because the
/// callers report those failures themselves.
const FILTER: &str = "warn,kube_client=off,dolibarr_backup=info";

/// Interval between two frames of a spinner. Slow enough for a serial console.
const SPINNER_TICK: Duration = Duration::from_millis(120);

/// Most bytes of log lines that are held back while a question is open. Further lines are shown at once.
const HELD_BYTES_MAX: usize = 1 << 20;

/// Log lines that are held back; `None` while lines are shown immediately.
static HELD: Mutex<Option<Vec<u8>>> = Mutex::new(None);

/// The progress bars of this process; hidden unless stderr is a terminal.
static BARS: LazyLock<MultiProgress> = LazyLock::new(|| {
    let target =
        if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    MultiProgress::with_draw_target(target)
});

/// Starts logging. A second call has no effect.
pub fn init() {
    let terminal = std::io::stderr().is_terminal();
    let chosen = crate::variables::environment_variable(LOG_VARIABLE);
    let filter = EnvFilter::try_new(chosen.as_deref().unwrap_or(FILTER)).unwrap_or_else(|_| EnvFilter::new(FILTER));
    let format =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(AboveBars).with_target(false).with_ansi(terminal);
    // If one process runs several commands, the settings of the first call stay.
    drop(if terminal { format.without_time().try_init() } else { format.try_init() });
}

/// A progress bar for transferred bytes; hidden unless stderr is a terminal.
pub fn bar(name: &str, expected_bytes: Option<u64>) -> ProgressBar {
    let (bar, template) = match expected_bytes {
        Some(bytes) => (
            ProgressBar::new(bytes),
            "{prefix:16} {bar:24} {bytes:>11} of about {total_bytes:<11} {bytes_per_sec:>12}, {elapsed}",
        ),
        None => (ProgressBar::new_spinner(), "{prefix:16} {spinner} {bytes:>11} {bytes_per_sec:>12}, {elapsed}"),
    };
    show(bar, name, template)
}

/// A spinner for work of unknown length.
pub fn spinner(name: &str) -> ProgressBar {
    let bar = show(ProgressBar::new_spinner(), name, "{prefix:16} {spinner} {elapsed}");
    if std::io::stderr().is_terminal() {
        bar.enable_steady_tick(SPINNER_TICK);
    }
    bar
}

/// Writes one line of another program's log to stderr, above the progress bars. Only characters that could move the
/// cursor are replaced.
pub fn foreign_line(line: &str) {
    let line = format!("{}\n", crate::text::printable(line));
    // A closed stderr cannot be reported anywhere.
    drop(AboveBars.write_all(line.as_bytes()));
}

fn show(bar: ProgressBar, name: &str, template: &str) -> ProgressBar {
    let bar = BARS.add(bar).with_prefix(name.to_owned());
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Holds log lines back until the returned value is dropped, so that a question stays the last line on the terminal.
#[must_use]
pub fn hold_lines() -> Quiet {
    HELD.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default();
    Quiet(())
}

/// Log lines are held back while this value lives. Only one may exist at a time.
#[derive(Debug)]
pub struct Quiet(());

impl Drop for Quiet {
    fn drop(&mut self) {
        let held = HELD.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default();
        // A closed stderr cannot be reported anywhere.
        drop(AboveBars.write_all(&held));
    }
}

/// Writes log lines above the progress bars.
struct AboveBars;

impl Write for AboveBars {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        if let Some(held) = &mut *HELD.lock().unwrap_or_else(PoisonError::into_inner)
            && held.len() + line.len() <= HELD_BYTES_MAX
        {
            held.extend_from_slice(line);
            return Ok(line.len());
        }
        BARS.suspend(|| std::io::stderr().write(line))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

impl MakeWriter<'_> for AboveBars {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        Self
    }
}
