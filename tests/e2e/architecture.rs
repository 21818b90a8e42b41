//! The arrows of the architecture: who may know whom. A check looks at text, so that it needs no compiler and can say
//! file, line and rule.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use wit_parser::{FunctionKind, Resolve, WorldItem};

/// A line that breaks a rule.
#[derive(Debug, PartialEq, Eq)]
struct Breach {
    file: String,
    line: usize,
    rule: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.rule)
    }
}

/// A source file, named from the root.
struct Source {
    file: String,
    text: String,
}

impl Source {
    fn new(file: &str, text: &str) -> Self {
        Self { file: file.into(), text: text.into() }
    }

    /// Lines of code with their numbers; comments are cut off.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line.split("//").next().unwrap_or_default()))
    }

    fn breach(&self, line: usize, rule: impl Into<String>) -> Breach {
        Breach { file: self.file.clone(), line, rule: rule.into() }
    }
}

/// Crates that only some modules of the host may name. A module's path ends in `/` where everything below it may too.
struct Reserved {
    crates: &'static [&'static str],
    modules: &'static [&'static str],
    why: &'static str,
}

const RESERVED: [Reserved; 6] = [
    Reserved {
        crates: &["wasmtime", "wasmtime_wasi"],
        modules: &["capability.rs", "capability/", "plugin.rs", "plugin/", "main.rs", "*/host.rs"],
        why: "wasm stops at the plugin engine and each capability's host.rs",
    },
    Reserved {
        crates: &["aws_sdk_s3", "aws_smithy_http_client", "aws_smithy_runtime_api", "aws_smithy_types"],
        modules: &["store/s3.rs", "store/s3/"],
        why: "the AWS SDK stops at store/s3",
    },
    Reserved {
        crates: &["tokio_postgres", "tokio_postgres_rustls"],
        modules: &["postgres/"],
        why: "the PostgreSQL client stops below postgres/",
    },
    Reserved { crates: &["kube", "k8s_openapi"], modules: &["kube/"], why: "the Kubernetes client stops below kube/" },
    Reserved {
        crates: &["oci_client", "docker_credential"],
        modules: &["plugin/registry.rs", "plugin/registry/"],
        why: "registries stop at plugin/registry",
    },
    Reserved { crates: &["anyhow"], modules: &["main.rs", "cli.rs", "cli/"], why: "modules have typed errors" },
];

/// Capabilities, none of which knows another.
const CAPABILITIES: [&str; 4] = ["store", "postgres", "documents", "kube"];

/// Names that say nothing about what a module upholds.
const EMPTY_NAMES: [&str; 4] = ["util", "types", "models", "manager"];

/// Words that no function of the package may have: a plugin reads no bytes and deletes nothing.
const FORBIDDEN_WORDS: [&str; 6] = ["delete", "remove", "read", "overwrite", "unlink", "truncate"];

fn allows(modules: &[&str], module: &str) -> bool {
    modules.iter().any(|allowed| match (allowed.strip_prefix('*'), allowed.strip_suffix('/')) {
        (Some(end), _) => module.ends_with(end),
        (None, Some(_)) => module.starts_with(allowed),
        (None, None) => module == *allowed,
    })
}

/// Whether a line of code names a path that begins with `root`: `root::…`, or `use root as`.
fn names(line: &str, root: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(root).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = &line[at + root.len()..];
        let used = line.trim_start().trim_start_matches("pub ").starts_with("use ") && !after.starts_with(is_word);
        !before.is_some_and(|c| is_word(c) || c == ':') && (after.starts_with("::") || used)
    })
}

/// `host/src/store/s3.rs` is `store/s3.rs`.
fn host_module(source: &Source) -> Option<&str> {
    source.file.strip_prefix("host/src/")
}

fn reserved_crates(source: &Source) -> Vec<Breach> {
    let Some(module) = host_module(source) else { return Vec::new() };
    let strangers = RESERVED.iter().filter(|reserved| !allows(reserved.modules, module));
    let pairs = strangers.flat_map(|reserved| reserved.crates.iter().map(move |name| (*name, reserved.why)));
    let breach = |(name, why): (&str, &str)| {
        let found = source.lines().filter(|(_, line)| names(line, name)).map(|(number, _)| number);
        found.map(|number| source.breach(number, format!("`{name}` has no place here: {why}"))).collect::<Vec<_>>()
    };
    pairs.flat_map(breach).collect()
}

fn capabilities_apart(source: &Source) -> Vec<Breach> {
    let Some(module) = host_module(source) else { return Vec::new() };
    let own = module.split(['/', '.']).next().unwrap_or_default();
    if !CAPABILITIES.contains(&own) {
        return Vec::new();
    }
    let mut breaches = Vec::new();
    for other in CAPABILITIES.iter().filter(|other| **other != own) {
        for (number, line) in source.lines().filter(|(_, line)| names_module(line, other)) {
            breaches
                .push(source.breach(number, format!("capability `{own}` names capability `{other}`: {}", line.trim())));
        }
    }
    breaches
}

/// `crate::other`, `super::super::other`, or `other` in the braces of `use crate::{…}`.
fn names_module(line: &str, module: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let whole = |at: usize| !line[at + module.len()..].starts_with(is_word);
    let direct = ["crate::", "super::"]
        .iter()
        .any(|root| line.match_indices(&format!("{root}{module}")).any(|(at, _)| whole(at + root.len())));
    let braces = line.split_once("crate::{").map_or("", |(_, rest)| rest);
    direct || braces.split(['{', '}', ',']).any(|part| part.trim().split("::").next() == Some(module))
}

fn grant_knows_nothing_of_ours(source: &Source) -> Vec<Breach> {
    if host_module(source) != Some("grant.rs") {
        return Vec::new();
    }
    let found = source.lines().filter(|(_, line)| names(line, "crate"));
    found.map(|(number, _)| source.breach(number, "`grant` depends on nothing of ours")).collect()
}

fn name_says_something(source: &Source) -> Vec<Breach> {
    let stem = Path::new(&source.file).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let empty = EMPTY_NAMES.contains(&stem);
    let rule =
        || source.breach(1, format!("`{stem}` says nothing: a type lives beside the code that upholds its invariant"));
    empty.then(rule).into_iter().collect()
}

/// Dependencies of a manifest on crates of this workspace, with the line that names each.
fn workspace_dependencies(manifest: &Source, ours: &[String], rule: &str) -> Vec<Breach> {
    let table: toml::Table = manifest.text.parse().unwrap_or_else(|error| panic!("{}: {error}", manifest.file));
    let mut found = Vec::new();
    collect_dependencies(&table, &mut found);
    let named = found.into_iter().filter(|(name, dependency)| dependency.get("path").is_some() || ours.contains(name));
    let line = |name: &str| manifest.text.lines().position(|line| line.contains(name)).map_or(1, |index| index + 1);
    named.map(|(name, _)| manifest.breach(line(&name), format!("{rule}: `{name}`"))).collect()
}

/// Also below `target.'cfg(…)'`.
fn collect_dependencies(table: &toml::Table, into: &mut Vec<(String, toml::Value)>) {
    for (key, value) in table {
        let Some(inner) = value.as_table() else { continue };
        if key.ends_with("dependencies") {
            into.extend(inner.iter().map(|(name, value)| {
                let package = value.get("package").and_then(|package| package.as_str()).unwrap_or(name);
                (package.to_owned(), value.clone())
            }));
        } else {
            collect_dependencies(inner, into);
        }
    }
}

fn root() -> PathBuf {
    tests::workspace_root()
}

fn files(folder: &str, extension: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in
            fs::read_dir(&folder).into_iter().flatten().map(|entry| entry.expect("an entry of a folder").path())
        {
            let hidden = entry.file_name().is_some_and(|name| name == "target");
            if entry.is_dir() && !hidden {
                folders.push(entry);
            } else if entry.extension().is_some_and(|end| end == extension) {
                let file = entry.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned();
                sources.push(Source::new(&file, &fs::read_to_string(&entry).expect("a source file")));
            }
        }
    }
    assert!(!sources.is_empty(), "{folder} has no .{extension} file: the check would look at nothing");
    sources.sort_by(|a, b| a.file.cmp(&b.file));
    sources
}

#[track_caller]
fn hold(breaches: Vec<Breach>) {
    let lines: Vec<_> = breaches.iter().map(ToString::to_string).collect();
    assert!(lines.is_empty(), "\n{}", lines.join("\n"));
}

fn hold_everywhere(folder: &str, check: fn(&Source) -> Vec<Breach>) {
    hold(files(folder, "rs").iter().flat_map(check).collect());
}

fn manifests() -> Vec<Source> {
    let folders = ["host", "plugins", "tests", "xtask"];
    folders
        .iter()
        .flat_map(|folder| files(folder, "toml"))
        .filter(|source| source.file.ends_with("Cargo.toml"))
        .collect()
}

fn our_packages() -> Vec<String> {
    let name = |source: &Source| -> Option<String> {
        let table: toml::Table = source.text.parse().ok()?;
        Some(table.get("package")?.get("name")?.as_str()?.to_owned())
    };
    manifests().iter().filter_map(name).collect()
}

#[test]
fn external_crates_stop_at_the_modules_that_own_them() {
    hold_everywhere("host/src", reserved_crates);
}

#[test]
fn no_capability_names_another() {
    hold_everywhere("host/src", capabilities_apart);
}

#[test]
fn grants_depend_on_nothing_of_ours() {
    assert!(root().join("host/src/grant.rs").is_file());
    hold_everywhere("host/src", grant_knows_nothing_of_ours);
}

#[test]
fn module_names_say_what_they_hold() {
    for folder in ["host/src", "plugins", "tests", "xtask"] {
        hold_everywhere(folder, name_says_something);
    }
}

#[test]
fn plugins_depend_on_the_wit_alone() {
    let ours = our_packages();
    let plugins = manifests().into_iter().filter(|source| source.file.starts_with("plugins/"));
    hold(plugins.flat_map(|source| workspace_dependencies(&source, &ours, "a plugin knows wit/ alone")).collect());
}

#[test]
fn a_plugin_package_is_named_as_its_folder_is() {
    for source in manifests().iter().filter(|source| source.file.starts_with("plugins/")) {
        let folder = Path::new(&source.file).parent().and_then(Path::file_name).expect("a folder");
        let name = format!("name = {folder:?}");
        assert!(
            source.text.lines().any(|line| line == name),
            "{}:1: the build finds a plugin by its folder's name",
            source.file
        );
    }
}

#[test]
fn the_tests_see_what_a_user_sees() {
    let manifest =
        files("tests", "toml").into_iter().find(|source| source.file == "tests/Cargo.toml").expect("a manifest");
    let rule = "tests drive the binary, never the host's library";
    hold(workspace_dependencies(&manifest, &our_packages(), rule));
}

#[test]
fn a_wit_file_holds_the_one_interface_it_is_named_after() {
    for source in files("wit", "wit") {
        let stem = Path::new(&source.file).file_stem().and_then(|stem| stem.to_str()).expect("a name");
        let interfaces: Vec<_> = source.lines().filter_map(|(_, line)| line.strip_prefix("interface ")).collect();
        if stem == "worlds" {
            assert!(interfaces.is_empty(), "{}:1: worlds.wit holds worlds alone", source.file);
            continue;
        }
        let [one] = interfaces[..] else {
            panic!("{}:1: one file holds one interface, not {interfaces:?}", source.file)
        };
        assert_eq!(one.trim_end_matches([' ', '{']), stem, "{}:1: the file is named after its interface", source.file);
    }
}

#[test]
fn a_plugin_can_neither_read_bytes_nor_delete_anything() {
    hold(forbidden_functions(&package()));
}

#[test]
fn there_are_six_worlds_and_they_import_from_our_package_alone() {
    let resolve = package();
    let worlds: Vec<_> = resolve.worlds.iter().map(|(_, world)| world).collect();
    let mut names: Vec<_> = worlds.iter().map(|world| world.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        ["coverage", "crosscheck", "dump", "fingerprint", "job", "retention"],
        "wit/worlds.wit:1: exactly six kinds of plugin"
    );
    for world in worlds {
        for (key, item) in &world.imports {
            let name = resolve.name_world_key(key);
            let ours = name.starts_with("backup:host/") && matches!(item, WorldItem::Interface { .. });
            assert!(ours, "wit/worlds.wit:1: world {} imports {name}", world.name);
        }
    }
}

fn package() -> Resolve {
    let mut resolve = Resolve::default();
    resolve.push_dir(root().join("wit")).expect("the WIT package parses");
    resolve
}

fn forbidden_functions(resolve: &Resolve) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for (_, interface) in resolve.interfaces.iter() {
        let file = format!("wit/{}.wit", interface.name.as_deref().unwrap_or_default());
        for function in interface.functions.values() {
            let breach = |rule: String| Breach { file: file.clone(), line: 1, rule };
            let words: Vec<_> = function.name.split(['-', '.', ']']).collect();
            if let Some(word) = FORBIDDEN_WORDS.iter().find(|word| words.contains(word)) {
                breaches.push(breach(format!("`{}`: no plugin may {word}", function.name)));
            }
            if interface.name.as_deref() == Some("bytes") || !matches!(function.kind, FunctionKind::Freestanding) {
                breaches.push(breach(format!("`{}`: resources are handles without methods", function.name)));
            }
        }
    }
    breaches
}

#[test]
fn a_breach_is_seen_and_named_with_its_line() {
    type Check = fn(&Source) -> Vec<Breach>;
    let table: [(Check, &str, &str, bool); 20] = [
        (reserved_crates, "host/src/backup.rs", "use wasmtime::Store;", true),
        (reserved_crates, "host/src/backup.rs", "    let x: wasmtime::Result<()> = y;", true),
        (reserved_crates, "host/src/backup.rs", "// wasmtime::Store is not used here", false),
        (reserved_crates, "host/src/backup.rs", "let my_wasmtime::x = crate::plugin::wasmtime::y;", false),
        (reserved_crates, "host/src/plugin/engine.rs", "use wasmtime::Store;", false),
        (reserved_crates, "host/src/postgres/host.rs", "use wasmtime::Store;", false),
        (reserved_crates, "host/src/store/directory.rs", "use aws_sdk_s3 as s3;", true),
        (reserved_crates, "host/src/store/s3/upload.rs", "use aws_sdk_s3::Client;", false),
        (reserved_crates, "host/src/postgres.rs", "use tokio_postgres::Client;", true),
        (reserved_crates, "host/src/job.rs", "let client = kube::Client::try_default();", true),
        (reserved_crates, "host/src/job.rs", "use crate::kube::Cluster;", false),
        (reserved_crates, "host/src/retention.rs", "fn f() -> anyhow::Result<()> {", true),
        (capabilities_apart, "host/src/store/s3.rs", "use crate::postgres::Client;", true),
        (capabilities_apart, "host/src/postgres/host.rs", "use crate::{error::Error, store::Store};", true),
        (capabilities_apart, "host/src/postgres/host.rs", "use crate::stored::Thing;", false),
        (capabilities_apart, "host/src/backup.rs", "use crate::store::Store;", false),
        (grant_knows_nothing_of_ours, "host/src/grant.rs", "use crate::error::Error;", true),
        (grant_knows_nothing_of_ours, "host/src/grant.rs", "use std::fmt;", false),
        (name_says_something, "plugins/dump/src/util.rs", "", true),
        (name_says_something, "plugins/dump/src/utility_model.rs", "", false),
    ];
    for (check, file, line, is_breach) in table {
        let breaches = check(&Source::new(file, &format!("//! A module.\n{line}\n")));
        assert_eq!(!breaches.is_empty(), is_breach, "{file}: {line}: {breaches:?}");
        let where_it_is = if line.is_empty() { 1 } else { 2 };
        assert!(breaches.iter().all(|breach| breach.line == where_it_is && breach.file == file), "{breaches:?}");
    }
}

#[test]
fn a_dependency_on_our_own_crates_is_seen_wherever_it_is_declared() {
    let ours = ["dolibarr-backup".to_owned()];
    for (text, is_breach) in [
        ("[dependencies]\nserde = \"1\"", false),
        ("[dependencies]\ndolibarr-backup.workspace = true", true),
        ("[dev-dependencies]\nx = { path = \"../host\" }", true),
        ("[target.'cfg(unix)'.dependencies]\nx = { package = \"dolibarr-backup\", version = \"1\" }", true),
        ("", false),
    ] {
        let breaches = workspace_dependencies(&Source::new("plugins/x/Cargo.toml", text), &ours, "rule");
        assert_eq!(!breaches.is_empty(), is_breach, "{text}");
    }
}

#[test]
fn a_function_that_reads_or_deletes_is_seen() {
    for (function, is_breach) in [
        ("delete-object: func(key: string);", true),
        ("read: func() -> list<u8>;", true),
        ("resource r { next: func() -> u8; }", true),
        ("ready: func() -> bool;", false),
    ] {
        let mut resolve = Resolve::default();
        let text = format!("package backup:host@0.2.0;\ninterface x {{ {function} }}\n");
        resolve.push_str("x.wit", &text).expect("WIT");
        assert_eq!(!forbidden_functions(&resolve).is_empty(), is_breach, "{function}");
    }
}
