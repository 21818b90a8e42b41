//! Measures the time and memory of one piece of work, done once.

use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How often to read a process's peak memory. The kernel keeps the peak, so only the last moment can be missed.
const PEAK_INTERVAL: Duration = Duration::from_millis(2);

/// The time and memory of one piece of work.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    pub seconds: f64,
    /// Largest resident memory of the process itself; `None` if several processes work together.
    pub peak_mib: Option<f64>,
}

impl Measured {
    /// A time that was measured elsewhere.
    pub fn from_millis(millis: u64) -> Self {
        Self { seconds: Duration::from_millis(millis).as_secs_f64(), peak_mib: None }
    }
}

/// Runs a command to its end, after the disk has completed all earlier writes.
pub fn measured(command: &mut Command) -> Result<Measured> {
    rustix::fs::sync();
    let began = Instant::now();
    let mut child = start(command)?;
    let mut peak_kib = 0;
    let status = loop {
        peak_kib = peak_kib.max(peak(&child));
        if let Some(status) = child.try_wait()? {
            break status;
        }
        std::thread::sleep(PEAK_INTERVAL);
    };
    ensure!(status.success(), "{command:?} ended with {status}");
    let is_shell = command.get_program() == "bash";
    Ok(Measured {
        seconds: began.elapsed().as_secs_f64(),
        peak_mib: (!is_shell).then(|| f64::from(peak_kib) / 1_024.0),
    })
}

fn start(command: &mut Command) -> Result<Child> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().with_context(|| format!("{command:?}"))
}

/// The kernel's high-water mark of a process's resident memory, in KiB.
fn peak(child: &Child) -> u32 {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

/// A bash pipeline in which every part must succeed. `arguments` are `$1` and so on.
pub fn shell<'a>(script: &str, arguments: impl IntoIterator<Item = &'a Path>) -> Command {
    let mut command = Command::new("bash");
    command.args(["-o", "pipefail", "-c", script, "bench"]).args(arguments);
    command
}

/// Size in bytes of a file, or of all files below a folder.
pub fn bytes(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else { return fs::metadata(path).map_or(0, |meta| meta.len()) };
    let size = |entry: fs::DirEntry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => bytes(&entry.path()),
        _ => entry.metadata().map_or(0, |meta| meta.len()),
    };
    entries.flatten().map(size).sum()
}

/// The machine on which the numbers were measured.
pub fn machine() -> Result<String> {
    let cpu = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
    let memory = fs::read_to_string("/proc/meminfo")?;
    let kib = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let cores = std::thread::available_parallelism()?;
    Ok(format!(
        "{cores} cores ({}), {} GiB of memory, Linux {}; files are read from the page cache unless the kernel evicted \
         them\n",
        model.trim_start_matches([' ', '\t', ':']),
        kib.unwrap_or(0) >> 20,
        kernel.trim()
    ))
}
