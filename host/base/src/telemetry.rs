//! What a run shows on the way: log lines on stderr, and on a terminal progress bars for the long parts.
//!
//! The result of a command never comes from here; it is the only thing on stdout.

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// The variable that sets what is logged, as tracing's `EnvFilter` has it.
pub const LOG_VARIABLE: &str = "DOLIBARR_BACKUP_LOG";

/// What is logged unless the variable says otherwise. The Kubernetes client calls every failed request an error, and what
/// became of it is told by whoever asked.
const FILTER: &str = "warn,kube_client=off,dolibarr_backup=info";

/// How often a spinner turns. Slow enough for a serial console.
const SPINNER_TICK: Duration = Duration::from_millis(120);

/// Lines that are held back at most while a question stands; what comes beyond is shown at once.
const HELD_BYTES_MAX: usize = 1 << 20;

/// What is held back; none while lines are shown as they come.
static HELD: Mutex<Option<Vec<u8>>> = Mutex::new(None);

/// The bars of this process; hidden unless stderr is a terminal.
static BARS: LazyLock<MultiProgress> = LazyLock::new(|| {
    let target =
        if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    MultiProgress::with_draw_target(target)
});

/// Starts logging. A second call changes nothing.
pub fn init() {
    let terminal = std::io::stderr().is_terminal();
    let wanted = crate::variables::environment_variable(LOG_VARIABLE);
    let filter = EnvFilter::try_new(wanted.as_deref().unwrap_or(FILTER)).unwrap_or_else(|_| EnvFilter::new(FILTER));
    let format = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(BehindBars)
        .with_target(false)
        .with_ansi(terminal);
    // Whoever runs several commands in one process keeps the first call's settings.
    drop(if terminal { format.without_time().try_init() } else { format.try_init() });
}

/// A bar for bytes on their way; hidden unless stderr is a terminal.
#[must_use]
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

/// A spinner for a part whose length nobody knows.
#[must_use]
pub fn spinner(name: &str) -> ProgressBar {
    let bar = show(ProgressBar::new_spinner(), name, "{prefix:16} {spinner} {elapsed}");
    if std::io::stderr().is_terminal() {
        bar.enable_steady_tick(SPINNER_TICK);
    }
    bar
}

/// Writes one line of another program's log to stderr, above the bars. It is shown as it came, without what could move a
/// cursor.
pub fn foreign_line(line: &str) {
    let line = format!("{}\n", crate::text::printable(line));
    // Nobody is left to tell when stderr is closed.
    drop(BehindBars.write_all(line.as_bytes()));
}

fn show(bar: ProgressBar, name: &str, template: &str) -> ProgressBar {
    let bar = BARS.add(bar).with_prefix(name.to_owned());
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Holds lines back until the value goes, so that a question stays the last thing on the terminal.
#[must_use]
pub fn hold_lines() -> Quiet {
    HELD.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default();
    Quiet(())
}

/// While it lives, lines are held back. There is one at a time.
#[derive(Debug)]
pub struct Quiet(());

impl Drop for Quiet {
    fn drop(&mut self) {
        let held = HELD.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default();
        // Nobody is left to tell when stderr is closed.
        drop(BehindBars.write_all(&held));
    }
}

/// Writes log lines above the bars.
struct BehindBars;

impl Write for BehindBars {
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

impl MakeWriter<'_> for BehindBars {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        Self
    }
}
