//! Untrusted files. Inspecting or running one must cost neither memory nor time for what the file claims, and must not
//! end in a crash instead of a message.

use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tests::binary::program;

/// The memory that a refusal may take: a file of the largest size is read completely, and once more for decoding.
const REFUSAL_BYTES_MAX: u64 = 256 << 20;
const REFUSAL_TIME_MAX: Duration = Duration::from_secs(10);

/// Largest file that is read at all.
const FILE_BYTES_MAX: usize = 64 << 20;

const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";
const MODULE: &[u8] = b"\0asm\x01\0\0\0";

/// A number in WebAssembly's encoding.
fn number(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn section(id: u8, content: &[u8]) -> Vec<u8> {
    [&[id][..], &number(content.len()), content].concat()
}

fn name(text: &str) -> Vec<u8> {
    [&number(text.len())[..], text.as_bytes()].concat()
}

/// A vector of `count` entries.
fn vector(count: usize, entry: impl Fn(usize) -> Vec<u8>) -> Vec<u8> {
    let entries = (0..count).flat_map(entry);
    number(count).into_iter().chain(entries).collect()
}

fn component(sections: &[Vec<u8>]) -> Vec<u8> {
    [COMPONENT, &sections.concat()].concat()
}

fn custom(called: &str, content: &[u8]) -> Vec<u8> {
    section(0, &[&name(called), content].concat())
}

/// Files of the largest allowed size, each of which costs the most work in one step: decoding, validating or reading to
/// the end. The number of entries is chosen to fill `bytes`.
fn greedy(bytes: usize) -> Vec<(&'static str, Vec<u8>)> {
    let types = |entry: Vec<u8>| component(&[section(7, &vector(bytes / entry.len(), |_| entry.clone()))]);
    let labels = |count: usize| vector(count, |i| name(&format!("a{i}")));
    let fields = |count: usize| vector(count, |i| [name(&format!("a{i}")), vec![0x7d]].concat());
    let declarations = |kind: u8| [vec![kind], vector(99_999, |_| vec![1, 0x7d])].concat();
    let nested = [vec![1, 0x42], vector(999_999.min(bytes / 2 - 20), |_| vec![1, 0x7d])].concat();
    let of_module = |sections: &[Vec<u8>]| component(&[section(1, &[MODULE, &sections.concat()].concat())]);
    let import =
        |i: usize, length: usize| [vec![0], name(&format!("a{i}{}", "-b".repeat(length))), vec![1, 0]].concat();
    let interface = section(7, &[1, 0x40, 0, 1, 0]);
    let imports = |length: usize| {
        let count = bytes / (2 * length + 12);
        component(&[interface.clone(), section(10, &vector(count, |i| import(i, length)))])
    };
    vec![
        ("component types", types(declarations(0x41))),
        ("instance types", types(declarations(0x42))),
        (
            "instance types inside a single one",
            component(&[section(7, &[vec![1, 0x42], vector(bytes / nested.len(), |_| nested.clone())].concat())]),
        ),
        ("records", types([vec![0x72], fields(9_999)].concat())),
        ("enumerations", types([vec![0x6d], labels(9_999)].concat())),
        ("flags", types([vec![0x6e], labels(32)].concat())),
        ("tuples", types([vec![0x6f], vector(9_999, |_| vec![0x7d])].concat())),
        ("small types", types(vec![0x7d])),
        ("function types", types([&[0x40][..], &fields(16), &[1, 0]].concat())),
        ("imports with long names", imports(75)),
        ("imports with short names", imports(1)),
        ("a long name in each of many imports", {
            let function = [&[1, 0x40][..], &vector(1, |_| [name(&"a".repeat(99_000)), vec![0x7d]].concat()), &[1, 0]];
            component(&[section(7, &function.concat()), section(10, &vector(30_000, |i| import(i, 1)))])
        }),
        ("custom sections", component(&[custom("", b"").repeat(bytes / 3)])),
        ("core types", of_module(&[section(1, &vector(bytes / 3, |_| vec![0x60, 0, 0]))])),
        (
            "core types of one group",
            of_module(&[section(1, &[vec![1, 0x4e], vector(bytes / 3, |_| vec![0x60, 0, 0])].concat())]),
        ),
        (
            "core imports",
            of_module(&[section(
                2,
                &vector(bytes / 14, |i| [name("m"), name(&format!("f{i}")), vec![2, 0, 0]].concat()),
            )]),
        ),
        (
            "documentation of a package",
            component(&[custom("package-docs", &[&[1, b'{'][..], &vec![b' '; bytes]].concat())]),
        ),
        (
            "documentation of worlds that are not there",
            component(&[custom(
                "package-docs",
                &[
                    &b"\x01{\"worlds\":{"[..],
                    (0..bytes / 24)
                        .map(|i| format!("\"w{i}\":{{\"docs\":\"d\"}}"))
                        .collect::<Vec<_>>()
                        .join(",")
                        .as_bytes(),
                    b"}}",
                ]
                .concat(),
            )]),
        ),
        ("names for people", component(&[custom("component-name", &vec![0; bytes])])),
        ("a custom section", component(&[custom("x", &vec![0; bytes])])),
        (
            "data",
            of_module(&[
                section(5, &[1, 0, 1]),
                section(11, &[&[1, 0, 0x41, 0, 0x0b][..], &number(bytes), &vec![0; bytes]].concat()),
            ]),
        ),
        ("zeros", vec![0; bytes]),
        ("zeros behind a header", [COMPONENT, &vec![0; bytes]].concat()),
        ("levels of nested components", [COMPONENT, &[4, 0x7f]].concat().repeat(bytes / 10)),
    ]
}

/// Runs `plugins inspect` on a file with a memory limit. Returns its output and its exit code, `None` if it was killed.
#[expect(unsafe_code, reason = "`pre_exec` is the only way to limit a child; the comment below says why it is safe")]
fn inspect(file: &Path, bytes_max: u64) -> (Option<i32>, String, Duration) {
    let mut command = Command::new(program());
    command.args(["plugins", "inspect"]).arg(file).env_clear().stdout(Stdio::null()).stderr(Stdio::piped());
    let limit = rustix::process::Rlimit { current: Some(bytes_max), maximum: Some(bytes_max) };
    // SAFETY: between fork and exec there is one system call, which allocates nothing.
    unsafe {
        command.pre_exec(move || Ok(rustix::process::setrlimit(rustix::process::Resource::Data, limit)?));
    }
    let begun = Instant::now();
    let mut child = command.spawn().unwrap();
    while child.try_wait().unwrap().is_none() {
        if begun.elapsed() > 3 * REFUSAL_TIME_MAX {
            child.kill().unwrap();
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let took = begun.elapsed();
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned(), took)
}

#[test]
fn fourteen_bytes_that_claim_four_gigabytes_are_refused_with_a_reason_and_a_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tiny.wasm");
    std::fs::write(&file, b"\0asm\x0d\0\x01\0\x07\xff\xff\xff\xff\x0f").unwrap();
    let (code, said, _) = inspect(&file, 32 << 20);
    assert_eq!(code, Some(64), "{said}");
    assert!(said.contains("unexpected end-of-file at byte 14"), "{said}");
    assert_eq!(said.lines().count(), 2, "a sentence and a hint: {said}");
}

#[test]
fn no_file_takes_much_memory_or_time_to_be_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("greedy.wasm");
    // The largest size that is read at all, and one just below the limit on declarations, which reaches the decoder.
    for bytes in [FILE_BYTES_MAX - 1_000, (2 << 20) - 300_000] {
        for (what, content) in greedy(bytes) {
            assert!(content.len() <= FILE_BYTES_MAX, "{what}: {}", content.len());
            std::fs::write(&file, &content).unwrap();
            let (code, said, took) = inspect(&file, REFUSAL_BYTES_MAX);
            println!("{what}, {bytes} bytes: {} ms", took.as_millis());
            assert_eq!(code, Some(64), "{what} of {bytes} bytes: {said}");
            assert!(said.starts_with("error: ") && said.contains("\nhint: "), "{what}: {said}");
            assert!(took < REFUSAL_TIME_MAX, "{what} of {bytes} bytes took {took:?}");
        }
    }
}

/// A working retention plugin with an unused module that costs a compiler gigabytes: each of 10,000 variables changes
/// in one of two branches, so the compiler must track every variable at each join.
fn costly(folder: &Path) -> PathBuf {
    let variables = 10_000;
    let mut body = [number(1), number(variables), vec![0x7f]].concat();
    for i in 0..variables {
        body.extend([&[0x20, 0, 0x04, 0x40, 0x20, 1, 0x21][..], &number(i), &[0x0b]].concat());
    }
    body.push(0x0b);
    let functions = 90;
    let module = [
        MODULE,
        &section(1, &[1, 0x60, 0, 0]),
        &section(3, &vector(functions, |_| vec![0])),
        &section(10, &vector(functions, |_| [number(body.len()), body.clone()].concat())),
    ]
    .concat();
    let honest = std::fs::read(program().parent().unwrap().join("plugins/retention-last.wasm")).unwrap();
    let file = folder.join("costly.wasm");
    std::fs::write(&file, [honest, section(1, &module)].concat()).unwrap();
    file
}

/// Simulates a year with a component under these limits.
fn simulate(folder: &Path, component: &Path, limits: &str) -> tests::binary::Outcome {
    let config = tests::binary::Config::directory_store(&folder.join("store"))
        .documents(("prod", "docs"), folder)
        .retention(component.to_str().unwrap(), "keep = 3");
    let text = config.text().replace("[plugins.retention]", &format!("[plugins.retention]\nlimits = {{ {limits} }}"));
    std::fs::write(folder.join("dolibarr-backup.toml"), text).unwrap();
    tests::binary::Run::new(["plugins", "simulate", "--years", "1"])
        .folder(folder)
        .env("HOME", folder.to_str().unwrap())
        .finish()
}

#[test]
fn compiling_ends_at_its_limits_in_a_process_of_its_own_and_nothing_else_does() {
    let folder = tempfile::tempdir().unwrap();
    let costly = costly(folder.path());
    let of = |limits: &str, said: &str| {
        let outcome = simulate(folder.path(), &costly, limits).expect_code(64);
        assert!(outcome.stderr.contains(said), "{}", outcome.stderr);
        assert!(outcome.stderr.contains("hint: "), "{}", outcome.stderr);
    };
    of("compile_mib = 200", "compiling it needs more than 200 MiB of memory");
    of("compile_mib = 16384, compile_seconds = 1", "compiling it takes more than 1 s of processor time");
    // A component that can never compile is also reported, and does not cause a loop.
    of("compile_mib = 1", "the process that compiles it");
    let honest = program().parent().unwrap().join("plugins/retention-last.wasm");
    let _ = simulate(folder.path(), &honest, "compile_mib = 200, compile_seconds = 60").expect_code(0);
}

/// Starts the compiling process with a limit of one second of processor time, passes it a component after some time,
/// and returns how it ended.
fn compile_after(wait: Duration, component: &[u8]) -> std::process::ExitStatus {
    let mut child = Command::new(program())
        .args(["compile-component", "1024", "1"])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(wait);
    // The process may already have ended.
    drop(child.stdin.take().map(|mut stdin| stdin.write_all(component)));
    child.wait().unwrap()
}

#[test]
fn a_machine_that_is_busy_with_something_else_refuses_no_component_and_waits_for_none_for_ever() {
    let honest = std::fs::read(program().parent().unwrap().join("plugins/retention-last.wasm")).unwrap();
    let late = compile_after(Duration::from_millis(2_500), &honest);
    assert!(late.success(), "{late}: time before the compilation was counted");
    let never = compile_after(Duration::from_millis(4_500), &honest);
    assert_eq!(never.signal(), Some(rustix::process::Signal::ALARM.as_raw()), "{never}");
}

#[test]
#[expect(unsafe_code, reason = "`pre_exec` is the only way to limit a child; the comment below says why it is safe")]
fn limits_that_this_program_has_already_stay_where_they_are_lower() {
    let limit = rustix::process::Rlimit { current: Some(100), maximum: Some(100) };
    let mut command = Command::new(program());
    command.args(["compile-component", "1024", "120"]).env_clear().stdin(Stdio::piped()).stdout(Stdio::null());
    // SAFETY: between fork and exec there is one system call, which allocates nothing.
    unsafe {
        command.pre_exec(move || Ok(rustix::process::setrlimit(rustix::process::Resource::Cpu, limit)?));
    }
    let mut child = command.spawn().unwrap();
    let limits = || std::fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap_or_default();
    let begun = Instant::now();
    // Apart from the limit on memory, this is the last limit that the process sets before it reads.
    while !limits().lines().any(|line| line.starts_with("Max core file size") && line.contains(" 0 ")) {
        assert!(begun.elapsed() < Duration::from_secs(10), "{}", limits());
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(100));
    let found = limits();
    let processor = found.lines().find(|line| line.starts_with("Max cpu time")).unwrap_or_default().to_owned();
    child.kill().unwrap();
    child.wait().unwrap();
    // The limit is below the maximum, at which the process would end without a message.
    let (current, maximum) = ("99", "100");
    assert!(processor.split_whitespace().any(|word| word == current) && processor.contains(maximum), "{processor}");
}

#[test]
fn whoever_compiles_sees_no_environment_and_does_not_outlive_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let costly = costly(folder.path());
    let config = tests::binary::Config::directory_store(&folder.path().join("store"))
        .documents(("prod", "docs"), folder.path())
        .retention(costly.to_str().unwrap(), "keep = 3");
    let limits = "[plugins.retention]\nlimits = { compile_mib = 16384 }";
    std::fs::write(folder.path().join("dolibarr-backup.toml"), config.text().replace("[plugins.retention]", limits))
        .unwrap();
    let mut compiler = None;
    let running = tests::binary::Run::new(["plugins", "simulate", "--years", "1"])
        .folder(folder.path())
        .env("HOME", folder.path().to_str().unwrap())
        .env("AWS_SECRET_ACCESS_KEY", "canary-secret")
        .start();
    let parent = running.id();
    let _ = running.kill_when(|| {
        let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
        let of_threads = std::fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
        let all = of_threads
            .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok())
            .collect::<String>();
        let Some(child) = [children, all].concat().split_whitespace().next().map(str::to_owned) else { return false };
        let arguments = std::fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
        if !String::from_utf8_lossy(&arguments).contains("compile-component") {
            return false;
        }
        assert_eq!(std::fs::read(format!("/proc/{child}/environ")).unwrap_or_default(), b"", "it has an environment");
        compiler = Some(child);
        true
    });
    let compiler = PathBuf::from(format!("/proc/{}", compiler.unwrap()));
    let is_gone = || {
        let state = std::fs::read_to_string(compiler.join("stat")).unwrap_or_default();
        state.is_empty() || state.contains(") Z ")
    };
    let begun = Instant::now();
    while !is_gone() {
        assert!(begun.elapsed() < Duration::from_secs(10), "the compiling process outlives its parent");
        std::thread::sleep(Duration::from_millis(10));
    }
}
