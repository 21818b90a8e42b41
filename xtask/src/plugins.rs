//! Builds the components: every crate below `plugins/`, the misbehaving ones of the tests below `tests/guests/`, and on
//! request the examples in other languages.
//!
//! A crate becomes a core module, then a component that imports nothing but the host's package. Cargo decides what is
//! fresh; a component is written only when its bytes changed, and never seen half-written.

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

/// What `cargo xtask plugins` takes.
#[derive(clap::Args)]
pub struct Arguments {
    /// Build the examples in Python too, into the folder `examples` of the plugins; installs componentize-py once
    #[arg(long)]
    python: bool,
}

/// Builds every plugin to where the built binary looks for it.
///
/// # Errors
/// When no compiler can be had, or a plugin does not build or asks for more than the host offers.
pub fn run(arguments: &Arguments) -> Result<()> {
    let target = machine::target_folder()?;
    build(&target)?;
    if arguments.python { build_python(&target) } else { Ok(()) }
}

/// Builds the examples in Python to `plugins/examples` of both profiles.
///
/// # Errors
/// When componentize-py cannot be installed, or a plugin does not build or asks for more than the host offers.
pub fn build_python(target: &Path) -> Result<()> {
    let folder = machine::root().join("plugins/examples");
    let into: Vec<_> = ["debug", "release"].map(|profile| target.join(profile).join("plugins/examples")).to_vec();
    for name in python::names(&folder) {
        let component = python::component(&folder, &name)?;
        place(&component, &name, &into)?;
    }
    Ok(())
}

/// As [`run`] without the examples, into a target folder of the caller's choice.
///
/// # Errors
/// As [`run`].
pub fn build(target: &Path) -> Result<()> {
    let root = machine::root();
    let beside = |profile: &str, folder: &str| target.join(profile).join(folder);
    let families = [
        Family {
            crates: root.join("plugins"),
            components: vec![beside("debug", "plugins"), beside("release", "plugins")],
        },
        Family { crates: root.join("tests/guests"), components: vec![beside("debug", "guests")] },
    ];
    let names: Vec<String> = families.iter().flat_map(|family| crate_names(&family.crates)).collect();
    let compiler = machine::wasm_compiler()?;
    let modules = cache::folder()?.join(format!("wasm-{}", compiler.version));
    // Held until the components are written: another checkout's build puts other modules under the same names.
    let _held = cache::lock(&modules)?;
    cache::claim(&modules, &root, &names)?;
    timed("building the plugins", || compile(&compiler, &modules, &names))?;
    for family in &families {
        for name in crate_names(&family.crates) {
            let changed = deliver(&modules, &name, &family.components)?;
            if changed {
                say(format_args!("{name}.wasm is new in {}", family.components[0].display()));
            }
        }
    }
    Ok(())
}

/// Components beside a binary, by the name of their file.
///
/// # Errors
/// When the folder holds no component, or one of them cannot be read.
pub fn built(folder: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|end| end == "wasm"));
    paths.sort();
    if paths.is_empty() {
        return Err(failure(format_args!("no component in {}", folder.display()), "run `cargo xtask plugins`"));
    }
    let read = |path: PathBuf| {
        let name = path.file_name().context("a component has a name")?.to_string_lossy().into_owned();
        Ok((name, fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?))
    };
    paths.into_iter().map(read).collect()
}

/// Folders with a manifest, each named as its package is.
fn crate_names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let crates = entries.filter(|entry| entry.path().join("Cargo.toml").is_file());
    let mut names: Vec<_> = crates.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

fn compile(compiler: &WasmCompiler, modules: &Path, names: &[String]) -> Result<()> {
    let mut cargo = machine::cargo();
    cargo
        .args(["build", "--quiet", "--lib", "--profile", PROFILE, "--target", WASM_TARGET, "--target-dir"])
        .arg(modules);
    cargo.args(&compiler.arguments).envs(compiler.environment.iter().map(|(name, value)| (name, value)));
    cargo.args(names.iter().flat_map(|name| ["--package", name]));
    // What the host's build is told does not concern the plugins: the same sources give the same bytes everywhere.
    for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_RUSTFLAGS", "RUSTC_WRAPPER", "CARGO_BUILD_TARGET"]
    {
        cargo.env_remove(name);
    }
    cargo.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS", remapped_paths());
    loud(&mut cargo, "mend the plugin that the compiler names above, then run `cargo xtask plugins` again")
}

/// Keeps the paths of this machine out of the panic messages.
fn remapped_paths() -> String {
    let home = cache::variable("CARGO_HOME").or_else(|| cache::variable("HOME").map(|home| format!("{home}/.cargo")));
    home.map_or_else(String::new, |home| format!("--remap-path-prefix={home}=/cargo"))
}

/// Writes one component to every folder where it differs, and says whether it did in any.
fn deliver(modules: &Path, name: &str, folders: &[PathBuf]) -> Result<bool> {
    let module = modules.join(WASM_TARGET).join(PROFILE).join(format!("{}.wasm", name.replace('-', "_")));
    let bytes = fs::read(&module).with_context(|| format!("cannot read {}", module.display()))?;
    let component = componentize(&bytes).with_context(|| format!("cannot make a component of {name}"))?;
    place(&component, name, folders)
}

/// Writes a component that asks for nothing strange to every folder where it differs.
fn place(component: &[u8], name: &str, folders: &[PathBuf]) -> Result<bool> {
    let strange = strange_imports(component).with_context(|| format!("cannot read the component of {name}"))?;
    if !strange.is_empty() {
        let message = format!("plugin {name} imports {}", strange.join(", "));
        return Err(failure(message, format_args!("a plugin may import {HOST_PACKAGE}* alone; see wit/worlds.wit")));
    }
    let mut changed = false;
    for folder in folders {
        changed |= write_if_changed(&folder.join(format!("{name}.wasm")), component)?;
    }
    Ok(changed)
}

fn componentize(module: &[u8]) -> Result<Vec<u8>> {
    ComponentEncoder::default().validate(true).module(module)?.encode().map_err(|error| {
        let hint = "the core module may import only what wit-bindgen generates from wit/: no WASI, no JavaScript";
        error.context(failure("its core module does not fit the interfaces", hint))
    })
}

/// How a core module begins.
const CORE_MODULE: &[u8] = b"\0asm\x01\0\0\0";

/// Names of imports from outside the host's package.
fn strange_imports(component: &[u8]) -> Result<Vec<String>> {
    // The decoder takes a core module for a component without a world.
    if component.starts_with(CORE_MODULE) {
        return Err(failure("it is a core module", "it must be encoded as a component first"));
    }
    let DecodedWasm::Component(resolve, world) = wit_component::decode(component)? else {
        return Err(failure("it is a WIT package", "it must be a component with code in it"));
    };
    let world = resolve.worlds.get(world).context("the component has no world")?;
    let names = world.imports.keys().map(|key| resolve.name_world_key(key));
    Ok(names.filter(|name| !name.starts_with(HOST_PACKAGE)).collect())
}

fn write_if_changed(path: &Path, bytes: &[u8]) -> Result<bool> {
    if fs::read(path).is_ok_and(|there| there == bytes) {
        return Ok(false);
    }
    let folder = path.parent().context("a component needs a folder")?;
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
    fn a_folder_without_components_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(built(folder.path()).is_err());
        assert!(built(&folder.path().join("none")).is_err());
    }

    #[test]
    fn a_module_that_imports_from_elsewhere_makes_no_component() {
        assert!(componentize(MODULE_WITH_AN_IMPORT).is_err());
        assert!(componentize(b"").is_err());
        assert!(componentize(b"not wasm").is_err());
    }

    #[test]
    fn a_component_without_imports_asks_for_nothing() {
        assert_eq!(strange_imports(EMPTY_COMPONENT).expect("a component"), Vec::<String>::new());
        assert!(strange_imports(MODULE_WITH_AN_IMPORT).is_err(), "a core module is no component");
    }

    #[test]
    fn a_component_is_written_only_when_its_bytes_changed() {
        let folder = std::env::temp_dir().join(format!("xtask-plugins-{}", std::process::id()));
        let path = folder.join("plugins/x.wasm");
        assert!(write_if_changed(&path, b"one").expect("written"));
        assert!(!write_if_changed(&path, b"one").expect("unchanged"));
        assert!(write_if_changed(&path, b"two").expect("written"));
        assert_eq!(fs::read_dir(folder.join("plugins")).expect("the folder").count(), 1, "no partial file is left");
        let _ = fs::remove_dir_all(folder);
    }
}
