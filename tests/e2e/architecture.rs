//! Checks rules that Cargo cannot express: which crate of the host may depend on which, which crate owns which library,
//! and which words no function of the WIT package may use.

use std::collections::{BTreeMap, BTreeSet};
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

/// A crate of the host, the crates of the host that it may depend on, and the libraries that no other crate may name.
struct Room {
    folder: &'static str,
    knows: &'static [&'static str],
    owns: &'static [&'static str],
}

/// Bottom up. No capability knows another, and `plugin` alone knows wasm.
const ROOMS: [Room; 8] = [
    Room { folder: "host/base", knows: &[], owns: &["secrecy", "tracing-subscriber"] },
    Room {
        folder: "host/store",
        knows: &["base"],
        owns: &["aws-credential-types", "aws-sdk-s3", "aws-smithy-http-client", "aws-smithy-runtime-api"],
    },
    Room { folder: "host/postgres", knows: &["base"], owns: &["sqlparser", "tokio-postgres", "tokio-postgres-rustls"] },
    Room { folder: "host/documents", knows: &["base"], owns: &["ignore", "libdeflater"] },
    Room { folder: "host/kube", knows: &["base"], owns: &["k8s-openapi", "kube"] },
    Room { folder: "host/catalogue", knows: &["base", "kubernetes", "store"], owns: &[] },
    Room {
        folder: "host/plugin",
        knows: &["base", "documents", "kubernetes", "postgres", "store"],
        owns: &["docker_credential", "minisign-verify", "oci-client", "wasmparser", "wasmtime", "wasmtime-wasi"],
    },
    Room {
        folder: "host",
        knows: &["base", "catalogue", "documents", "kubernetes", "plugin", "postgres", "store"],
        owns: &["clap", "comfy-table", "maud", "prometheus-client"],
    },
];

/// The host's crates as its manifests name them.
const OURS: [&str; 7] = ["base", "catalogue", "documents", "kubernetes", "plugin", "postgres", "store"];

/// What a crate may not depend on. Tests of a crate may start anything.
fn strangers(room: &Room, manifest: &Source) -> Vec<Breach> {
    let table: toml::Table = manifest.text.parse().unwrap_or_else(|error| panic!("{}: {error}", manifest.file));
    let named: BTreeSet<String> = table
        .get("dependencies")
        .and_then(|found| found.as_table())
        .into_iter()
        .flat_map(|found| found.keys())
        .cloned()
        .collect();
    let of_others = ROOMS.iter().filter(|other| other.folder != room.folder).flat_map(|other| other.owns);
    let foreign = OURS.iter().filter(|name| !room.knows.contains(name)).chain(of_others).chain(["anyhow"].iter());
    let line = |name: &str| manifest.text.lines().position(|line| line.starts_with(name)).map_or(1, |index| index + 1);
    let found = foreign.filter(|name| named.contains(**name));
    found.map(|name| manifest.breach(line(name), format!("{} may not depend on `{name}`", room.folder))).collect()
}

/// Names that say nothing about what a module upholds.
const EMPTY_NAMES: [&str; 4] = ["util", "types", "models", "manager"];

/// Words that no function of the package may have: a plugin reads no bytes and deletes nothing.
const FORBIDDEN_WORDS: [&str; 6] = ["delete", "remove", "read", "overwrite", "unlink", "truncate"];

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
fn the_arrows_between_the_hosts_crates_run_downward_and_each_library_has_one_owner() {
    for room in &ROOMS {
        let file = format!("{}/Cargo.toml", room.folder);
        let text = fs::read_to_string(root().join(&file)).expect("a manifest");
        hold(strangers(room, &Source::new(&file, &text)));
    }
    let folders = fs::read_dir(root().join("host")).expect("host").flatten();
    let crates = folders.filter(|entry| entry.path().join("Cargo.toml").is_file()).count();
    assert_eq!(crates + 1, ROOMS.len(), "a crate below host/ has no line in this test");
}

#[test]
fn a_stranger_in_a_manifest_is_seen_and_named_with_its_line() {
    let store = ROOMS.iter().find(|room| room.folder == "host/store").expect("a room");
    for (text, line) in [
        ("[dependencies]\nwasmtime.workspace = true\n", Some(2)),
        ("[dependencies]\nbytes.workspace = true\npostgres.workspace = true\n", Some(3)),
        ("[dependencies]\nanyhow = \"1\"\n", Some(2)),
        ("[dependencies]\naws-sdk-s3.workspace = true\nbase.workspace = true\n", None),
        ("[dev-dependencies]\npostgres.workspace = true\n", None),
    ] {
        let found = strangers(store, &Source::new("host/store/Cargo.toml", text));
        assert_eq!(found.first().map(|breach| breach.line), line, "{text}");
    }
}

/// The room of a file within its crate: the first folder or file below `src`, and for a verb the one below `verbs`.
fn room_of(path: &str) -> String {
    let mut parts = path.trim_end_matches(".rs").split('/');
    let first = parts.next().unwrap_or_default();
    match parts.next().filter(|_| first == "verbs") {
        Some(verb) => format!("verbs/{verb}"),
        None => first.to_owned(),
    }
}

/// Which rooms of a crate each of its rooms names, tests left out.
fn named_rooms(folder: &str) -> BTreeMap<String, BTreeSet<String>> {
    let below = format!("{folder}/src/");
    let mut named: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in files(&format!("{folder}/src"), "rs") {
        let file = source.file.strip_prefix(&below).expect("a file of the crate");
        if file == "lib.rs" || ["tests", "hostile", "suite"].iter().any(|part| file.contains(part)) {
            continue;
        }
        let text: Vec<&str> = source.lines().map(|(_, line)| line).take_while(|line| *line != "#[cfg(test)]").collect();
        let rooms = text.iter().flat_map(|line| line.split("crate::").skip(1)).map(|rest| {
            let path: String = rest.chars().take_while(|c| c.is_alphanumeric() || matches!(c, '_' | ':')).collect();
            room_of(&path.replace("::", "/"))
        });
        named.entry(room_of(file)).or_default().extend(rooms);
    }
    named
}

/// Rooms in a dependency cycle: those that remain after repeatedly removing rooms that depend on no remaining room.
fn circle(mut named: BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    loop {
        let there: BTreeSet<String> = named.keys().cloned().collect();
        let before = named.len();
        named.retain(|room, others| others.iter().any(|other| other != room && there.contains(other)));
        if named.len() == before {
            return named.into_keys().collect();
        }
    }
}

#[test]
fn no_two_rooms_of_a_crate_name_each_other_on_any_way_round() {
    for room in &ROOMS {
        let named = named_rooms(room.folder);
        assert!(named.len() > 1, "{}: the check looked at nothing", room.folder);
        assert_eq!(circle(named), Vec::<String>::new(), "a circle in {}", room.folder);
    }
}

#[test]
fn a_circle_is_seen() {
    let named = |arrows: &[(&str, &[&str])]| {
        let room = |(room, others): &(&str, &[&str])| {
            ((*room).to_owned(), others.iter().map(|other| (*other).to_owned()).collect())
        };
        circle(arrows.iter().map(room).collect())
    };
    assert_eq!(named(&[("a", &["b", "c"]), ("b", &["c"]), ("c", &["c", "Error"])]), Vec::<String>::new());
    assert_eq!(named(&[("a", &["b"]), ("b", &["c"]), ("c", &["b"])]), ["a", "b", "c"]);
    assert_eq!(room_of("verbs/backup/course.rs"), "verbs/backup");
    assert_eq!(room_of("guard/clocks.rs"), "guard");
}

#[test]
fn module_names_say_what_they_hold() {
    for folder in ["host", "plugins", "tests", "xtask"] {
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
