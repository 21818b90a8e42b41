//! Files that are not proper components: with other imports or versions, with corrupted bytes, and components that no
//! compiler would produce.

use super::*;
use wit_component::{ComponentEncoder, StringEncoding};
use wit_parser::Resolve;

/// A component of the world `retention` with `body` in its `plan` and `extra` in its module. `imports` contains lines
/// of its world, and `packages` the texts of further WIT packages.
fn component(packages: &[&str], imports: &str, extra: &str, body: &str) -> tempfile::NamedTempFile {
    let mut resolve = Resolve::default();
    resolve.push_dir(::tests::workspace_root().join("wit")).unwrap();
    for (index, package) in packages.iter().enumerate() {
        resolve.push_str(format!("package-{index}.wit"), package).unwrap();
    }
    let world = format!("package hostile:guest; world guest {{ {imports} include backup:host/retention@0.2.0; }}");
    let package = resolve.push_str("guest.wit", &world).unwrap();
    encode(&resolve, package, extra, body, component::WORLD_VERSION)
}

fn encode(
    resolve: &Resolve,
    package: wit_parser::PackageId,
    extra: &str,
    body: &str,
    version: &str,
) -> tempfile::NamedTempFile {
    let world = resolve.select_world(&[package], Some("guest")).unwrap();
    let mut module = wat::parse_str(format!(
        "(module {extra}
            (memory (export \"memory\") 1)
            (func (export \"cabi_realloc\") (param i32 i32 i32 i32) (result i32) i32.const 1024)
            (func (export \"backup:host/retaining@{version}#settings-schema\") (result i32) unreachable)
            (func (export \"backup:host/retaining@{version}#plan\")
                (param i64 i32 i32 i32 i32 i32 i32) (result i32) {body}))"
    ))
    .unwrap();
    wit_component::embed_component_metadata(&mut module, resolve, world, StringEncoding::UTF8).unwrap();
    let bytes = ComponentEncoder::default().module(&module).unwrap().validate(true).encode().unwrap();
    file(&bytes)
}

fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::Builder::new().suffix(".wasm").tempfile().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    file
}

fn refusal(file: &tempfile::NamedTempFile, rest: &str) -> Error {
    load_file(Role::Retention, file.path(), rest).map(|_| ()).unwrap_err()
}

#[test]
fn an_import_that_is_not_granted_or_offered_is_reported_before_anything_runs() {
    let wasi = "package wasi:cli@0.2.6; interface environment { get-arguments: func() -> list<string>; }";
    let evil = "package evil:host@0.2.0; interface deletion { delete-all: func(); }";
    let newer = "package backup:host@0.3.0; interface log { shout: func(); }";
    let put = "(import \"backup:host/object-write@0.2.0\" \"put\" (func (param i32 i32 i32 i32 i32)))";
    let table = [
        (
            component(
                &[wasi],
                "import wasi:cli/environment@0.2.6;",
                "(import \"wasi:cli/environment@0.2.6\" \"get-arguments\" (func (param i32)))",
                "unreachable",
            ),
            "imports `get-arguments` of wasi:cli/environment@0.2.6, which it is not granted",
            "grants = [\"wasi\"] in [plugins.retention]",
        ),
        (
            component(&[], "import backup:host/object-write@0.2.0;", put, "unreachable"),
            "imports `put` of backup:host/object-write@0.2.0, which it is not granted",
            "grants = [\"object-write\"] in [plugins.retention]",
        ),
        (
            component(
                &[evil],
                "import evil:host/deletion@0.2.0;",
                "(import \"evil:host/deletion@0.2.0\" \"delete-all\" (func))",
                "unreachable",
            ),
            "imports evil:host/deletion@0.2.0, which this host does not offer",
            "backup:host@0.2.0",
        ),
        (
            component(
                &[newer],
                "import backup:host/log@0.3.0;",
                "(import \"backup:host/log@0.3.0\" \"shout\" (func))",
                "unreachable",
            ),
            "imports backup:host/log@0.3.0, which this host does not offer",
            "rebuild the plugin",
        ),
    ];
    for (file, expected, hint) in table {
        let error = refusal(&file, "");
        assert_blamed(&error, Role::Retention, Class::Config, expected);
        assert!(error.advice().unwrap().contains(hint), "{error:?}");
    }
}

#[test]
fn a_component_for_another_version_of_the_world_is_refused_with_that_version() {
    let mut resolve = Resolve::default();
    let wit = ::tests::workspace_root().join("wit");
    let text: String = std::fs::read_dir(&wit)
        .unwrap()
        .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap())
        .map(|text| text.replace("package backup:host@0.2.0;", ""))
        .collect();
    let text = format!("package backup:host@0.3.0;\n{text}");
    resolve.push_str("newer.wit", &text).unwrap();
    let world = "package hostile:guest; world guest { include backup:host/retention@0.3.0; }";
    let package = resolve.push_str("guest.wit", world).unwrap();
    let error = refusal(&encode(&resolve, package, "", "unreachable", "0.3.0"), "");
    assert_blamed(&error, Role::Retention, Class::Config, "is made for backup:host/retaining@0.3.0");
    assert!(error.advice().unwrap().contains("rebuild the plugin"), "{error:?}");
}

#[tokio::test]
async fn handwritten_components_are_stopped_too() {
    let place = Place::new().await;
    let eight = "(memory 384)".repeat(7);
    let long_list = "i32.const 0 (i32.store (i32.const 0) (i32.const 0)) (i32.store (i32.const 4) (i32.const 8)) \
                     (i32.store (i32.const 8) (i32.const -1))";
    for (extra, body, expected) in [
        // 24 MiB each: they exceed the limit only together.
        (eight.as_str(), "unreachable", "needs more than 64 MiB of memory"),
        ("(table 90000 funcref) (table 90000 funcref)", "unreachable", "elements in its tables"),
        ("(func $spin (loop (br 0))) (start $spin)", "unreachable", "computed for more than 1 s"),
        ("", "(loop (result i32) (br 0))", "computed for more than 1 s"),
        ("(func $deep (call $deep)) (start $deep)", "unreachable", "of stack"),
        ("", "i32.const -8", "was stopped: "),
        ("", "i32.const 3", "was stopped: "),
        ("", long_list, "was stopped: "),
        ("", "(i32.div_u (i32.const 1) (i32.const 0))", "ran into a wasm trap: "),
        ("", "(i32.load (i32.const -1))", "ran into a wasm trap: "),
    ] {
        let file = component(&[], "", extra, body);
        let plugin = load_file(Role::Retention, file.path(), "limits = { compute_seconds = 1 }").unwrap();
        assert_blamed(&place.call(&plugin).await.unwrap_err(), Role::Retention, Class::PluginTrapped, expected);
    }
}

#[test]
fn a_truncated_or_corrupted_file_is_refused_or_harmless_and_never_a_panic() {
    let bytes = std::fs::read(guest(Role::Retention)).unwrap();
    for length in (0..bytes.len()).step_by(bytes.len() / 60) {
        let error = refusal(&file(&bytes[..length]), "");
        assert_blamed(&error, Role::Retention, Class::Config, "");
    }
    // Compiling takes longest, so most files are only decoded.
    for (index, position) in (0..bytes.len()).step_by(bytes.len() / 400).enumerate() {
        let mut bytes = bytes.clone();
        bytes[position] ^= [0x01, 0x80, 0xff][index % 3];
        let file = file(&bytes);
        let config: PluginConfig = toml::from_str(&section(Role::Retention, file.path(), "")).unwrap();
        let read = component::read(Role::Retention, &config, false, None)
            .now_or_never()
            .expect("a file needs no network")
            .unwrap();
        if let Err(error) = component::check(Role::Retention, &read, &config) {
            assert_blamed(&error, Role::Retention, Class::Config, "");
        } else if index % 20 == 0
            && let Err(error) = load_file(Role::Retention, file.path(), "")
        {
            assert_blamed(&error, Role::Retention, Class::Config, "");
        }
    }
}

#[test]
fn native_code_text_folders_and_devices_are_not_components() {
    let folder = tempfile::tempdir().unwrap();
    let native = std::env::current_exe().unwrap();
    let begun = Instant::now();
    for path in [folder.path(), Path::new("/dev/zero"), Path::new("/dev/null")] {
        let error = load_file(Role::Retention, path, "").map(|_| ()).unwrap_err();
        assert_blamed(&error, Role::Retention, Class::Config, "it is not a regular file");
    }
    // The output of `wasmtime compile` is an ELF file too, and would run without checks.
    let head = std::fs::read(native).unwrap()[..4_096].to_vec();
    for bytes in [head.as_slice(), b"(component)", b"\0asm\x0d\0\x01\0"] {
        assert_blamed(&refusal(&file(bytes), ""), Role::Retention, Class::Config, "");
    }
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn a_plugin_with_wasi_finds_an_empty_world_and_cannot_wait_forever() {
    let place = Place::new().await;
    let environment = "package wasi:cli@0.2.6; interface environment {
        get-environment: func() -> list<tuple<string, string>>; get-arguments: func() -> list<string>; }";
    let wall = "package wasi:clocks@0.2.6; interface wall-clock {
        record datetime { seconds: u64, nanoseconds: u32 } now: func() -> datetime; }";
    let preopens = "package wasi:filesystem@0.2.6; interface types { resource descriptor; }
        interface preopens { use types.{descriptor}; get-directories: func() -> list<tuple<descriptor, string>>; }";
    let poll = "package wasi:io@0.2.6; interface poll { resource pollable { block: func(); } }";
    let clock = "package wasi:clocks@0.2.6; interface monotonic-clock {
        use wasi:io/poll@0.2.6.{pollable}; subscribe-duration: func(when: u64) -> pollable; }";
    let list = |name: &str, interface: &str| {
        let import = format!("(import \"wasi:{interface}@0.2.6\" \"{name}\" (func $ask (param i32)))");
        (interface.to_owned(), import)
    };
    let divides_if_the_list_is_not_empty =
        "(call $ask (i32.const 512)) (drop (i32.div_u (i32.const 1) (i32.eqz (i32.load (i32.const 516))))) unreachable";
    let divides_if_the_clock_runs =
        "(call $ask (i32.const 512)) (drop (i32.div_u (i32.const 1) (i64.eqz (i64.load (i32.const 512))))) unreachable";
    let waits_for_a_year = "(call $block (call $ask (i64.const 31536000000000000))) unreachable";
    let table = [
        (vec![environment], list("get-environment", "cli/environment"), divides_if_the_list_is_not_empty, "panicked"),
        (vec![environment], list("get-arguments", "cli/environment"), divides_if_the_list_is_not_empty, "panicked"),
        (vec![preopens], list("get-directories", "filesystem/preopens"), divides_if_the_list_is_not_empty, "panicked"),
        (vec![wall], list("now", "clocks/wall-clock"), divides_if_the_clock_runs, "panicked"),
        (
            vec![poll, clock],
            (
                "clocks/monotonic-clock".to_owned(),
                "(import \"wasi:clocks/monotonic-clock@0.2.6\" \"subscribe-duration\" (func $ask (param i64) (result i32)))
                 (import \"wasi:io/poll@0.2.6\" \"[method]pollable.block\" (func $block (param i32)))"
                    .to_owned(),
            ),
            // The wait ends at once, and the guest continues.
            waits_for_a_year,
            "panicked",
        ),
    ];
    for (packages, (interface, extra), body, expected) in table {
        let file = component(&packages, &format!("import wasi:{interface}@0.2.6;"), &extra, body);
        let config = format!(
            "component = {}\ngrants = [\"wasi\"]\nlimits = {{ call_seconds = 1 }}",
            quoted(&file.path().to_string_lossy())
        );
        let plugins = Plugins { retention: toml::from_str(&config).unwrap(), ..Plugins::default() };
        let plugin = Plugin::load(&Engine::new().unwrap(), &plugins, Role::Retention, None)
            .now_or_never()
            .expect("a file needs no network")
            .unwrap();
        let error = place.call(&plugin).await.unwrap_err();
        assert_blamed(&error, Role::Retention, Class::PluginTrapped, expected);
    }
}
