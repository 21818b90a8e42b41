//! Checks rules that Cargo cannot express: which crate may depend on which, which crate owns which library, and which
//! words no function of the WIT package may use.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use wit_parser::{FunctionKind, Resolve, WorldItem};

/// A crate of the host, the crates of the host that it may depend on, and the libraries that no other crate may name.
struct Room {
    folder: &'static str,
    knows: &'static [&'static str],
    owns: &'static [&'static str],
}

/// From the bottom up. No capability depends on another, and only `plugin` owns the wasm libraries.
const ROOMS: [Room; 8] = [
    Room { folder: "host/base", knows: &[], owns: &["secrecy", "tracing-subscriber"] },
    Room {
        folder: "host/store",
        knows: &["base"],
        owns: &["aws-credential-types", "aws-sdk-s3", "aws-smithy-http-client", "aws-smithy-runtime-api"],
    },
    Room {
        folder: "host/postgres",
        knows: &["base"],
        owns: &["squawk-lexer", "tokio-postgres", "tokio-postgres-rustls"],
    },
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

/// Module names that say nothing about what the module is for.
const EMPTY_NAMES: [&str; 4] = ["util", "types", "models", "manager"];

/// Words that no function name of the WIT package may contain: a plugin reads no bytes and deletes nothing.
const FORBIDDEN_WORDS: [&str; 6] = ["delete", "remove", "read", "overwrite", "unlink", "truncate"];

/// A package of the workspace, as Cargo reads its manifest.
struct Package {
    name: String,
    /// The folder, relative to the checkout's root.
    folder: String,
    dependencies: Vec<Dependency>,
}

struct Dependency {
    /// The package's own name, or for one of ours its name in the manifest.
    name: String,
    /// Whether it is another package of the workspace.
    is_ours: bool,
    is_for_tests: bool,
}

fn packages() -> Vec<Package> {
    let mut cargo = Command::new("cargo");
    cargo.args(["metadata", "--no-deps", "--offline", "--format-version", "1"]).current_dir(root());
    let output = cargo.output().expect("cargo starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let dependency = |value: &Value| {
        let is_ours = !value["path"].is_null();
        let is_renamed = is_ours && !value["rename"].is_null();
        let name = text(&value[if is_renamed { "rename" } else { "name" }]);
        Dependency { name, is_ours, is_for_tests: value["kind"] == "dev" }
    };
    let package = |value: &Value| {
        let manifest = PathBuf::from(text(&value["manifest_path"]));
        let folder = manifest.parent().and_then(|folder| folder.strip_prefix(root()).ok()).expect("below the root");
        Package {
            name: text(&value["name"]),
            folder: folder.to_string_lossy().into_owned(),
            dependencies: value["dependencies"].as_array().expect("a list").iter().map(dependency).collect(),
        }
    };
    let packages: Vec<_> = metadata["packages"].as_array().expect("a list").iter().map(package).collect();
    assert!(packages.len() > ROOMS.len(), "the check looked at nothing");
    packages
}

/// The dependencies of a crate of the host that it must not have. Its tests may depend on anything.
fn strangers<'a>(room: &Room, dependencies: &'a [Dependency]) -> Vec<&'a str> {
    let of_others = ROOMS.iter().filter(|other| other.folder != room.folder).flat_map(|other| other.owns);
    let foreign: BTreeSet<&str> = of_others.copied().chain(["anyhow"]).collect();
    let is_stranger = |one: &&Dependency| {
        !one.is_for_tests && if one.is_ours { !room.knows.contains(&&*one.name) } else { foreign.contains(&*one.name) }
    };
    dependencies.iter().filter(is_stranger).map(|one| &*one.name).collect()
}

fn root() -> PathBuf {
    tests::workspace_root()
}

/// The files below a folder with an extension, each as its path from the root and its text.
fn files(folder: &str, extension: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().map(|entry| entry.expect("an entry").path()) {
            if entry.is_dir() && !entry.ends_with("target") {
                folders.push(entry);
            } else if entry.extension().is_some_and(|end| end == extension) {
                let file = entry.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned();
                found.push((file, fs::read_to_string(&entry).expect("a source file")));
            }
        }
    }
    assert!(!found.is_empty(), "{folder} has no .{extension} file: the check would look at nothing");
    found
}

#[test]
fn the_arrows_between_the_hosts_crates_run_downward_and_each_library_has_one_owner() {
    let packages = packages();
    let host: Vec<_> = packages.iter().filter(|package| package.folder.starts_with("host")).collect();
    assert_eq!(host.len(), ROOMS.len(), "a crate of the host is missing from `ROOMS`");
    for package in host {
        let room = ROOMS.iter().find(|room| room.folder == package.folder).expect(&package.folder);
        assert_eq!(strangers(room, &package.dependencies), Vec::<&str>::new(), "{}", package.folder);
    }
}

#[test]
fn a_stranger_is_seen() {
    let store = ROOMS.iter().find(|room| room.folder == "host/store").expect("a room");
    for (name, is_ours, is_for_tests, is_stranger) in [
        ("wasmtime", false, false, true),
        ("postgres", true, false, true),
        ("anyhow", false, false, true),
        ("aws-sdk-s3", false, false, false),
        ("base", true, false, false),
        ("postgres", true, true, false),
    ] {
        let found = [Dependency { name: name.into(), is_ours, is_for_tests }];
        assert_eq!(!strangers(store, &found).is_empty(), is_stranger, "{name}");
    }
}

/// The room of a file, which is its top-level module: the first folder or file below `src`, or below `verbs` for a
/// verb.
fn room_of(path: &str) -> String {
    let mut parts = path.trim_end_matches(".rs").split('/');
    let first = parts.next().unwrap_or_default();
    match parts.next().filter(|_| first == "verbs") {
        Some(verb) => format!("verbs/{verb}"),
        None => first.to_owned(),
    }
}

/// For each room of a crate, the rooms of the same crate that its code names. Tests are left out.
fn named_rooms(folder: &str) -> BTreeMap<String, BTreeSet<String>> {
    let below = format!("{folder}/src/");
    let mut named: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (file, text) in files(&format!("{folder}/src"), "rs") {
        let file = file.strip_prefix(&below).expect("a file of the crate");
        if file == "lib.rs" || ["tests", "hostile", "suite"].iter().any(|part| file.contains(part)) {
            continue;
        }
        let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
        let code = lines.take_while(|line| *line != "#[cfg(test)]");
        let rooms = code.flat_map(|line| line.split("crate::").skip(1)).map(|rest| {
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
        assert_eq!(circle(named), Vec::<String>::new(), "a dependency cycle in {}", room.folder);
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
    for (file, _) in ["host", "plugins", "tests", "xtask"].iter().flat_map(|folder| files(folder, "rs")) {
        let stem = Path::new(&file).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        assert!(!EMPTY_NAMES.contains(&stem), "{file}: a type lives beside the code that upholds its invariant");
    }
}

/// The build finds a plugin by its folder's name.
#[test]
fn a_plugin_is_named_as_its_folder_is_and_knows_the_wit_and_the_kit_alone() {
    let packages = packages();
    let plugins: Vec<_> = packages.iter().filter(|package| package.folder.starts_with("plugins/")).collect();
    assert!(plugins.iter().any(|plugin| plugin.dependencies.iter().any(|one| one.is_ours)), "the kit was not seen");
    for plugin in plugins {
        assert_eq!(plugin.folder, format!("plugins/{}", plugin.name));
        let ours = plugin.dependencies.iter().filter(|one| one.is_ours && one.name != "kit");
        assert_eq!(ours.map(|one| &*one.name).collect::<Vec<_>>(), Vec::<&str>::new(), "{}", plugin.name);
    }
}

#[test]
fn the_tests_drive_the_binary_and_never_the_hosts_library() {
    let packages = packages();
    let tests = packages.iter().find(|package| package.folder == "tests").expect("the package");
    assert!(tests.dependencies.iter().all(|one| !one.is_ours));
}

#[test]
fn a_wit_file_holds_the_one_interface_it_is_named_after() {
    for (file, text) in files("wit", "wit") {
        let stem = Path::new(&file).file_stem().and_then(|stem| stem.to_str()).expect("a name");
        let interfaces: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("interface ")).collect();
        if stem == "worlds" {
            assert!(interfaces.is_empty(), "{file}: it must contain only worlds");
            continue;
        }
        let [one] = interfaces[..] else { panic!("{file}: expected one interface, found {interfaces:?}") };
        assert_eq!(one.trim_end_matches([' ', '{']), stem, "{file}: it must be named after its interface");
    }
}

#[test]
fn a_plugin_can_neither_read_bytes_nor_delete_anything() {
    assert_eq!(forbidden_functions(&package()), Vec::<String>::new());
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

/// Functions that a plugin must not have, with the reason.
fn forbidden_functions(resolve: &Resolve) -> Vec<String> {
    let mut found = Vec::new();
    for (_, interface) in resolve.interfaces.iter() {
        let name = interface.name.as_deref().unwrap_or_default();
        for function in interface.functions.values() {
            let mut words = function.name.split(['-', '.', ']']);
            if let Some(word) = words.find(|word| FORBIDDEN_WORDS.contains(word)) {
                found.push(format!("wit/{name}.wit: `{}`: no plugin may {word}", function.name));
            }
            if name == "bytes" || !matches!(function.kind, FunctionKind::Freestanding) {
                found.push(format!("wit/{name}.wit: `{}`: resources are handles without methods", function.name));
            }
        }
    }
    found
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
