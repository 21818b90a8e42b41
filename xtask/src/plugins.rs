//! Builds the components: every crate below `plugins/`, the misbehaving test plugins below `tests/guests/`, and on
//! request the examples in other languages.
//!
//! A crate becomes a core module, then a component that imports only the host's package. Cargo decides what is up to
//! date. A component is written only if its bytes changed, and its file is never incomplete.

use crate::machine::{self, WASM_TARGET, WasmCompiler};
use crate::run::{failure, loud, say, timed};
use crate::{cache, python};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use wit_component::{ComponentEncoder, DecodedWasm};

/// The only package that a component may import from.
const HOST_PACKAGE: &str = "backup:host/";

/// The profile of the workspace that plugins are built with.
const PROFILE: &str = "plugin";

/// Crates below one folder, and where their components go.
struct Family {
    crates: PathBuf,
    components: Vec<PathBuf>,
}

/// Arguments of `cargo xtask plugins`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Also build the Python examples, into the plugins' folder `examples`; installs componentize-py once
    #[arg(long)]
    python: bool,
}

/// Builds every plugin where the built binary looks for it.
pub fn run(arguments: &Arguments) -> Result<()> {
    let target = machine::target_folder()?;
    build_with_guests(&target)?;
    if arguments.python { build_python(&target) } else { Ok(()) }
}

/// Builds the Python examples into `plugins/examples` of both profiles.
pub fn build_python(target: &Path) -> Result<()> {
    let folder = machine::root().join("plugins/examples");
    let into: Vec<_> = ["debug", "release"].map(|profile| target.join(profile).join("plugins/examples")).to_vec();
    for name in python::names(&folder) {
        let component = python::component(&folder, &name)?;
        place(&component, &name, &into)?;
    }
    Ok(())
}

/// Builds the shipped plugins into both profiles of a target folder.
pub fn build(target: &Path) -> Result<()> {
    build_families(&[shipped(target)])
}

/// Also builds the plugins that misbehave, which only tests need.
pub fn build_with_guests(target: &Path) -> Result<()> {
    let guests = Family { crates: machine::root().join("tests/guests"), components: vec![target.join("debug/guests")] };
    build_families(&[shipped(target), guests])
}

fn shipped(target: &Path) -> Family {
    let components = ["debug", "release"].map(|profile| target.join(profile).join("plugins")).to_vec();
    Family { crates: machine::root().join("plugins"), components }
}

fn build_families(families: &[Family]) -> Result<()> {
    let root = machine::root();
    let names: Vec<String> = families.iter().flat_map(|family| component_names(&family.crates)).collect();
    let compiler = machine::wasm_compiler()?;
    let modules = cache::folder()?.join(format!("wasm-{}", compiler.version));
    // Held until the components are written: a build of another checkout writes other modules under the same names.
    let _held = cache::lock(&modules)?;
    // Includes the plugins that this build leaves out, so that no module of another checkout stays.
    let members = ["plugins", "tests/guests"].map(|folder| crate_names(&root.join(folder))).concat();
    cache::claim(&modules, &root, &members)?;
    timed("building the plugins", || compile(&compiler, &modules, &names))?;
    for family in families {
        for name in component_names(&family.crates) {
            let changed = deliver(&modules, &name, &family.components)?;
            if changed {
                say(format_args!("wrote {name}.wasm to {}", family.components[0].display()));
            }
        }
    }
    Ok(())
}

/// Reads the components in a folder, with their file names. Fails if there are none.
pub fn built(folder: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|end| end == "wasm"));
    paths.sort();
    if paths.is_empty() {
        return Err(failure(format_args!("{} contains no component", folder.display()), "run `cargo xtask plugins`"));
    }
    let read = |path: PathBuf| {
        let name = path.file_name().context("a component has no file name")?.to_string_lossy().into_owned();
        Ok((name, fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?))
    };
    paths.into_iter().map(read).collect()
}

/// Folders with a manifest. Each has the name of its package.
fn crate_names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let crates = entries.filter(|entry| entry.path().join("Cargo.toml").is_file());
    let mut names: Vec<_> = crates.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// The crates that become components, which is all but the library that they share.
fn component_names(folder: &Path) -> Vec<String> {
    let mut names = crate_names(folder);
    names.retain(|name| {
        fs::read_to_string(folder.join(name).join("Cargo.toml")).is_ok_and(|text| text.contains("\"cdylib\""))
    });
    names
}

fn compile(compiler: &WasmCompiler, modules: &Path, names: &[String]) -> Result<()> {
    let mut cargo = machine::cargo();
    cargo
        .args(["build", "--quiet", "--lib", "--profile", PROFILE, "--target", WASM_TARGET, "--target-dir"])
        .arg(modules);
    cargo.args(&compiler.arguments).envs(compiler.environment.iter().map(|(name, value)| (name, value)));
    cargo.args(names.iter().flat_map(|name| ["--package", name]));
    // Flags for the host's build must not reach the plugins: the same sources give the same bytes everywhere.
    for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_RUSTFLAGS", "RUSTC_WRAPPER", "CARGO_BUILD_TARGET"]
    {
        cargo.env_remove(name);
    }
    cargo.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS", remapped_paths());
    loud(&mut cargo, "fix the plugin that the compiler names above, then run `cargo xtask plugins` again")
}

/// Flags that keep the paths of this machine out of panic messages.
fn remapped_paths() -> String {
    let home = cache::variable("CARGO_HOME").or_else(|| cache::variable("HOME").map(|home| format!("{home}/.cargo")));
    home.map_or_else(String::new, |home| format!("--remap-path-prefix={home}=/cargo"))
}

/// Writes one component to every folder where it differs. Returns whether it wrote any.
fn deliver(modules: &Path, name: &str, folders: &[PathBuf]) -> Result<bool> {
    let module = modules.join(WASM_TARGET).join(PROFILE).join(format!("{}.wasm", name.replace('-', "_")));
    let bytes = fs::read(&module).with_context(|| format!("cannot read {}", module.display()))?;
    let component = componentize(&bytes).with_context(|| format!("cannot make a component from {name}"))?;
    place(&component, name, folders)
}

/// Writes a component to every folder where it differs, after checking its imports.
fn place(component: &[u8], name: &str, folders: &[PathBuf]) -> Result<bool> {
    let strange = strange_imports(component).with_context(|| format!("cannot read the component of {name}"))?;
    if !strange.is_empty() {
        let message = format!("plugin {name} imports {}", strange.join(", "));
        return Err(failure(message, format_args!("a plugin may only import {HOST_PACKAGE}*; see wit/worlds.wit")));
    }
    let mut changed = false;
    for folder in folders {
        changed |= write_if_changed(&folder.join(format!("{name}.wasm")), component)?;
    }
    Ok(changed)
}

fn componentize(module: &[u8]) -> Result<Vec<u8>> {
    ComponentEncoder::default().validate(true).module(module)?.encode().map_err(|error| {
        let hint = "the core module may only import what wit-bindgen generates from wit/, not WASI or JavaScript";
        error.context(failure("its core module does not fit the interfaces", hint))
    })
}

/// The first bytes of a core module.
const CORE_MODULE: &[u8] = b"\0asm\x01\0\0\0";

/// Names of imports from outside the host's package.
fn strange_imports(component: &[u8]) -> Result<Vec<String>> {
    // The decoder mistakes a core module for a component without a world.
    if component.starts_with(CORE_MODULE) {
        return Err(failure("it is a core module", "it must be encoded as a component first"));
    }
    let DecodedWasm::Component(resolve, world) = wit_component::decode(component)? else {
        return Err(failure("it is a WIT package", "it must be a component with code in it"));
    };
    let world = resolve.worlds.get(world).context("the component's world is not defined")?;
    let names = world.imports.keys().map(|key| resolve.name_world_key(key));
    Ok(names.filter(|name| !name.starts_with(HOST_PACKAGE)).collect())
}

fn write_if_changed(path: &Path, bytes: &[u8]) -> Result<bool> {
    if fs::read(path).is_ok_and(|existing| existing == bytes) {
        return Ok(false);
    }
    let folder = path.parent().context("the path of a component has no folder")?;
    let partial = path.with_extension(format!("partial-{}", std::process::id()));
    let written =
        fs::create_dir_all(folder).and_then(|()| fs::write(&partial, bytes)).and_then(|()| fs::rename(&partial, path));
    if written.is_err() {
        let _ = fs::remove_file(&partial);
    }
    written.with_context(|| format!("cannot write {}", path.display())).map(|()| true)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The smallest module, which imports one function.
    const MODULE_WITH_AN_IMPORT: &[u8] = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x02\x09\x01\x03env\x01f\0\0";

    /// The smallest component: its preamble alone.
    const EMPTY_COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

    #[test]
    fn a_folder_without_components_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(built(folder.path()).is_err());
        assert!(built(&folder.path().join("none")).is_err());
    }

    #[test]
    fn a_module_with_foreign_imports_cannot_become_a_component() {
        assert!(componentize(MODULE_WITH_AN_IMPORT).is_err());
        assert!(componentize(b"").is_err());
        assert!(componentize(b"not wasm").is_err());
    }

    #[test]
    fn a_component_without_imports_has_no_strange_ones() {
        assert_eq!(strange_imports(EMPTY_COMPONENT).expect("a component"), Vec::<String>::new());
        assert!(strange_imports(MODULE_WITH_AN_IMPORT).is_err(), "a core module is not a component");
    }

    #[test]
    fn a_component_is_written_only_when_its_bytes_changed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("plugins/x.wasm");
        assert!(write_if_changed(&path, b"one").expect("written"));
        assert!(!write_if_changed(&path, b"one").expect("unchanged"));
        assert!(write_if_changed(&path, b"two").expect("written"));
        assert_eq!(
            fs::read_dir(folder.path().join("plugins")).expect("the folder").count(),
            1,
            "no partial file is left"
        );
    }
}
