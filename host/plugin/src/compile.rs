//! Compiles a component in a child process.
//!
//! The input determines how much a compiler consumes: a megabyte of code can take gigabytes and minutes. This process
//! holds leases and secrets and must finish its run, so a child process compiles: the same program, with an empty
//! environment, no open files except its ends of three pipes, and limits that it sets on itself before it reads the
//! first byte.

use super::{Engine, Limits};
use base::text::printable;
use rustix::process::{Resource, Rlimit, Signal};
use std::ffi::OsString;
use std::fmt;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

/// First argument of the child process, in place of a verb. The limits follow it.
const VERB: &str = "compile-component";

/// Memory of the child in MiB unless `limits` says otherwise. The example in Python, 18 MB of WebAssembly, takes 450
/// MiB.
const MEMORY_MIB: u64 = 1 << 10;

/// Processor time in seconds unless `limits` says otherwise. The example in Python takes 7 s.
const SECONDS: u64 = 120;

/// Ratio of the wall-clock limit to the processor limit. On a busy machine, a compiler may get only a quarter of a
/// core, and a process that waits forever uses no processor time.
const WALL_FACTOR: u64 = 4;

/// Largest compiled component. Code is about twice the size of its component.
pub const COMPILED_BYTES_MAX: u64 = 512 << 20;

/// Bytes of the child's stderr that are read. The first line of it is shown.
const COMPLAINT_BYTES_MAX: u64 = 4 << 10;

/// Set by the program itself. Another program that uses this library does not call [`run_child`], so it compiles components
/// in its own process and must trust them.
static BY_CHILD: OnceLock<()> = OnceLock::new();

/// Makes this process compile in child processes from now on.
pub fn compile_in_children() {
    BY_CHILD.get_or_init(|| ());
}

/// Why compilation failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The compiler rejects the component.
    Refused(String),
    /// It needs more memory than this limit in MiB.
    Memory(u64),
    /// It takes more processor time than this limit in seconds.
    Time(u64),
    /// It did not finish within this wall-clock limit in seconds.
    Wall(u64),
    /// The child ended in another way.
    Died(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(why) => f.write_str(why),
            Self::Memory(mib) => write!(f, "compiling it needs more than {mib} MiB of memory"),
            Self::Time(seconds) => write!(f, "compiling it takes more than {seconds} s of processor time"),
            Self::Wall(seconds) => write!(f, "compiling it did not finish within {seconds} s"),
            Self::Died(how) => write!(f, "the process that compiles it {how}"),
        }
    }
}

/// The code of a component, as [`wasmtime::Engine::precompile_component`] makes it.
///
/// # Errors
/// See [`Failure`].
pub fn code(engine: &Engine, bytes: &[u8], limits: Limits) -> Result<Vec<u8>, Failure> {
    if BY_CHILD.get().is_none() {
        return engine.wasm.precompile_component(bytes).map_err(|e| Failure::Refused(format!("{e:#}")));
    }
    let (mib, seconds) = (limits.compile_mib.unwrap_or(MEMORY_MIB), limits.compile_seconds.unwrap_or(SECONDS));
    let died = |why: std::io::Error| Failure::Died(format!("could not be run: {why}"));
    // The running executable, even if its file has been replaced since.
    let mut child = Command::new("/proc/self/exe")
        .args([VERB, &mib.to_string(), &seconds.to_string()])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(died)?;
    let (code, stderr) = exchange(&mut child, bytes);
    let status = child.wait().map_err(died)?;
    let code = code.map_err(died)?;
    if !status.success() {
        return Err(failure(status, &stderr, mib, seconds));
    }
    if code.len() as u64 > COMPILED_BYTES_MAX {
        return Err(Failure::Refused(format!("its compiled code is larger than {} MiB", COMPILED_BYTES_MAX >> 20)));
    }
    Ok(code)
}

/// Sends the component to a child, and receives the code and the text of its stderr.
fn exchange(child: &mut Child, bytes: &[u8]) -> (std::io::Result<Vec<u8>>, String) {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    std::thread::scope(|scope| {
        // A write error can be ignored: a child that ends before it has read everything reports the reason itself.
        scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(bytes)));
        let complaint = scope.spawn(move || {
            let mut text = Vec::new();
            drop(stderr.map(|stderr| stderr.take(COMPLAINT_BYTES_MAX).read_to_end(&mut text)));
            String::from_utf8_lossy(&text).into_owned()
        });
        let mut code = Vec::new();
        let read = stdout.map_or(Ok(0), |stdout| stdout.take(COMPILED_BYTES_MAX + 1).read_to_end(&mut code));
        (read.map(|_| code), complaint.join().unwrap_or_default())
    })
}

/// Derives the failure from the exit status of a child.
fn failure(status: ExitStatus, stderr: &str, mib: u64, seconds: u64) -> Failure {
    let line = printable(stderr.lines().find(|line| !line.trim().is_empty()).unwrap_or_default());
    match status.signal() {
        Some(signal) if signal == Signal::XCPU.as_raw() => Failure::Time(seconds),
        Some(signal) if signal == Signal::ALARM.as_raw() => Failure::Wall(seconds.saturating_mul(WALL_FACTOR)),
        Some(signal) if signal == Signal::ABORT.as_raw() && line.contains("memory allocation") => Failure::Memory(mib),
        Some(signal) => Failure::Died(format!("was killed by signal {signal}{}", suffix(&line))),
        None if status.code() == Some(i32::from(base::error::Class::Config.exit_code())) => Failure::Refused(line),
        None => Failure::Died(format!("failed{}", suffix(&line))),
    }
}

/// The line as the end of a message.
fn suffix(line: &str) -> String {
    if line.is_empty() { String::new() } else { format!(": {line}") }
}

/// The child's side: reads a component from stdin, writes its code to stdout, and returns the exit code. `None` if the
/// command line is for something else.
pub fn run_child(arguments: impl IntoIterator<Item = OsString>) -> Option<u8> {
    let arguments: Vec<_> = arguments.into_iter().map(|argument| argument.to_string_lossy().into_owned()).collect();
    let [VERB, mib, seconds] = *arguments.iter().map(String::as_str).collect::<Vec<_>>() else { return None };
    let (Ok(mib), Ok(seconds)) = (mib.parse(), seconds.parse()) else { return None };
    Some(match limit(mib, seconds).and_then(|()| compile()) {
        Ok(()) => 0,
        Err(why) => {
            // An error can be ignored: if stderr is closed, nobody reads it.
            drop(writeln!(std::io::stderr(), "{}", why.replace('\n', " ")));
            base::error::Class::Config.exit_code()
        }
    })
}

/// Sets limits that end this process if it uses too much memory or time, or if its parent ends.
fn limit(mib: u64, seconds: u64) -> Result<(), String> {
    let cannot = |e: rustix::io::Errno| format!("the limits of the compiler cannot be set: {e}");
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(cannot)?;
    // An existing lower limit stays, because a process may not raise it.
    let at_most = |resource: Resource, current: u64, maximum: u64| {
        let margin = maximum - current;
        let maximum = maximum.min(rustix::process::getrlimit(resource).maximum.unwrap_or(u64::MAX));
        let current = current.min(maximum.saturating_sub(margin));
        let limit = Rlimit { current: Some(current), maximum: Some(maximum) };
        rustix::process::setrlimit(resource, limit).map_err(cannot)
    };
    // Limits written memory, not mapped memory: allocators reserve space for each thread that they never touch.
    let bytes = mib.saturating_mul(1 << 20);
    at_most(Resource::Data, bytes, bytes)?;
    at_most(Resource::Core, 0, 0)?;
    // The soft limit sends SIGXCPU, which identifies the cause. The hard limit sends SIGKILL, which does not.
    at_most(Resource::Cpu, seconds, seconds.saturating_add(1))?;
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(seconds.saturating_mul(WALL_FACTOR)));
        let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::ALARM);
    });
    Ok(())
}

fn compile() -> Result<(), String> {
    let mut bytes = Vec::new();
    std::io::stdin().lock().read_to_end(&mut bytes).map_err(|e| format!("reading the component: {e}"))?;
    let engine = Engine::compiler().map_err(|e| e.to_string())?;
    let code = engine.wasm.precompile_component(&bytes).map_err(|e| format!("{e:#}"))?;
    std::io::stdout().lock().write_all(&code).map_err(|e| format!("writing the code: {e}"))
}
