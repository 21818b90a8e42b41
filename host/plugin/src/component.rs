//! Finds a component, identifies it, and lists its imports. This module never compiles or runs one.

use super::Component;
use super::registry::{self, Address};
use super::signature::Key;
use super::{PluginConfig, Role, bounded_file, origin, signature, structure};
use crate::grant::Grant;
use base::error::{Error, Result};
use base::text::printable;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use wit_parser::decoding::DecodedWasm;
use wit_parser::{Resolve, WorldId, WorldItem, WorldKey};

/// The package whose interfaces this host offers.
const PACKAGE: &str = "backup:host";

/// First bytes of a core module, which has not been encoded as a component yet.
const CORE_MODULE: &[u8] = b"\0asm\x01\0\0\0";

/// Version of that package.
pub const WORLD_VERSION: &str = "0.2.0";

/// The full name of an interface of the host's package, as it stands in a component.
pub(super) fn full_name(name: &str) -> String {
    format!("{PACKAGE}/{name}@{WORLD_VERSION}")
}

/// One imported interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// Its name in the component, such as `backup:host/object-write@0.2.0`.
    pub interface: String,
    /// Its functions that the component calls.
    pub functions: Vec<String>,
    /// The grant that it needs; none for `log` and for types.
    pub needs: Option<Grant>,
}

/// Finds and reads a role's component, verifies its signature if a key is configured, and checks its digest against the
/// pinned one.
pub async fn read(role: Role, config: &PluginConfig, require_digest: bool, folder: Option<&Path>) -> Result<Component> {
    let name = role.name();
    if config.component.as_os_str().is_empty() {
        let shipped = match role {
            Role::Fingerprint | Role::Dump | Role::Coverage => name,
            Role::Retention => "retention-tiered",
            Role::Job => "dump-job",
            Role::Crosscheck => "crosscheck-dolibarr",
        };
        return Err(Error::config(format!("[plugins.{name}] does not name a component"))
            .hint(format!("add component = \"{shipped}.wasm\"")));
    }
    let address = config
        .registry_address()
        .map(Address::parse)
        .transpose()
        .map_err(|e| e.context(format!("in [plugins.{name}]")))?;
    let key = config.signed_by.as_ref();
    let (path, bytes, signature) = match &address {
        Some(address) => {
            let places = &config.places;
            let pulled = registry::fetch(address, key.is_some(), places.cache.as_ref(), places.docker.as_deref()).await;
            let pulled = pulled.map_err(|e| e.context(format!("the plugin `{name}`")))?;
            (config.component.clone(), pulled.component, pulled.signature)
        }
        None => {
            let (path, bytes) = read_file(name, locate(&config.component, folder))?;
            let signature = key.map(|_| signature::read(&path)).transpose()?.flatten();
            (path, bytes, signature)
        }
    };
    if let Some(key) = key {
        let what = format!("the component {} of the plugin `{name}`", path.display());
        key.verify(&bytes, signature.as_deref(), &what)?;
    }
    let digest = hex::encode(Sha256::digest(&bytes));
    match &config.sha256 {
        Some(pinned) if !pinned.eq_ignore_ascii_case(&digest) => {
            return Err(Error::config(format!(
                "the component {} of the plugin `{name}` has sha256 {digest}, but {} is pinned",
                path.display(),
                printable(pinned)
            ))
            .hint("if the new component is intended, review it and pin its digest; otherwise restore the old file"));
        }
        // An address in a registry contains a digest.
        None if require_digest && address.is_none() => {
            return Err(Error::config(format!("the plugin `{name}` is not pinned, but require_digest is set"))
                .hint(format!("review {}, then add sha256 = \"{digest}\" to [plugins.{name}]", path.display())));
        }
        Some(_) | None => {}
    }
    Ok(Component { path, bytes, digest })
}

/// Reads a file that may be a component.
///
/// # Errors
/// [`base::error::Class::Config`] if it cannot be read or is too long.
pub fn read_file(name: &str, path: PathBuf) -> Result<(PathBuf, Vec<u8>)> {
    let hint = if name.is_empty() {
        "check the path, which is relative to the current folder; the tools of the plugin's language build the file"
    } else {
        "give a path with a folder in it, such as ./FILE, or put the file into the folder `plugins` beside the binary \
         (`cargo xtask plugins` builds the shipped ones there)"
    };
    let role = if name.is_empty() { String::new() } else { format!(" of the plugin `{name}`") };
    let unreadable =
        |why: String| Error::config(format!("the component {}{role} cannot be read: {why}", path.display())).hint(hint);
    let missing = || unreadable(std::io::ErrorKind::NotFound.to_string());
    let bytes = bounded_file::read(&path, crate::COMPONENT_BYTES_MAX).map_err(unreadable)?.ok_or_else(missing)?;
    Ok((path, bytes))
}

/// Resolves a component's path: a bare file name refers to the plugins folder, and a path with a folder is used as it
/// is.
pub fn locate(component: &Path, folder: Option<&Path>) -> PathBuf {
    let bare = component.components().count() == 1;
    match folder {
        Some(folder) if bare => folder.join(component),
        Some(_) | None => component.to_owned(),
    }
}

/// Checks a component's exports against its role, and its imports against its grants.
///
/// # Errors
/// [`base::error::Class::Config`], which names the interface, the function and the line to add.
pub fn check(role: Role, component: &Component, config: &PluginConfig) -> Result<()> {
    let (resolve, world) = decode(role, component)?;
    check_export(role, component, &resolve, world)?;
    for import in imports_of(&resolve, world) {
        let Some(needed) = import.needs else {
            if is_free(role, &import.interface) {
                continue;
            }
            return Err(unknown_import(role, component, &import));
        };
        if !config.grants.has(needed) {
            let function = import.functions.first().map_or("a type", String::as_str);
            let mut grants: Vec<String> = config.grants.iter().map(|g| format!("\"{g}\"")).collect();
            grants.push(format!("\"{needed}\""));
            return Err(Error::config(format!(
                "the plugin `{}` ({}, sha256 {}) imports `{function}` of {}, which it is not granted",
                role.name(),
                component.path.display(),
                crate::short_digest(&component.digest),
                printable(&import.interface)
            ))
            .hint(format!(
                "to allow this, write grants = [{}] in [plugins.{}]",
                grants.join(", "),
                role.name()
            )));
        }
    }
    Ok(())
}

/// The interfaces that a component imports.
///
/// # Errors
/// [`base::error::Class::Config`] if the file is not a component.
pub fn imports(role: Role, component: &Component) -> Result<Vec<Import>> {
    let (resolve, world) = decode(role, component)?;
    Ok(imports_of(&resolve, world))
}

/// Description of a component from any origin.
#[derive(Debug)]
pub struct Inspected {
    /// SHA-256 of the file, in lower-case hexadecimal.
    pub digest: String,
    /// Size of the file.
    pub bytes: usize,
    /// The roles that it can play on this host; empty if it exports no interface of this host's version.
    pub roles: Vec<Role>,
    /// The interfaces that it exports.
    pub exports: Vec<String>,
    /// Unverified claims about its origin.
    pub says: Vec<String>,
    /// The interfaces that it imports.
    pub imports: Vec<Import>,
}

impl Inspected {
    /// Whether an import needs no grant in one of the roles that the component can play.
    pub fn is_free(&self, import: &Import) -> bool {
        let roles: &[Role] = if self.roles.is_empty() { &Role::ALL } else { &self.roles };
        roles.iter().any(|role| is_free(*role, &import.interface))
    }
}

/// Describes any component without compiling or running it. With a key, verifies the signature before parsing the file.
///
/// # Errors
/// [`base::error::Class::Config`] if the file cannot be read, is not signed with the key, or is not a component.
pub fn inspect(file: &Path, key: Option<&Key>) -> Result<Inspected> {
    let (_, bytes) = read_file("", file.to_owned())?;
    if let Some(key) = key {
        key.verify(&bytes, signature::read(file)?.as_deref(), &file.display().to_string())?;
    }
    let (resolve, world) = decode_bytes(&bytes, &file.display().to_string())?;
    let exports = names(&resolve, world, |w| &w.exports);
    let is_role = |role: &Role| exports.contains(&full_name(role.export()));
    Ok(Inspected {
        digest: hex::encode(Sha256::digest(&bytes)),
        bytes: bytes.len(),
        says: origin::claims(&bytes),
        roles: Role::ALL.into_iter().filter(is_role).collect(),
        imports: imports_of(&resolve, world),
        exports,
    })
}

fn decode(role: Role, component: &Component) -> Result<(Resolve, WorldId)> {
    decode_bytes(&component.bytes, &format!("{} of the plugin `{}`", component.path.display(), role.name()))
}

pub(super) fn decode_bytes(bytes: &[u8], what: &str) -> Result<(Resolve, WorldId)> {
    let not_a_component = |why: &str| {
        Error::config(format!("{what} is not a WebAssembly component{why}"))
            .hint("`dolibarr-backup plugins pack` turns the core module that a compiler writes into a component")
    };
    if bytes.starts_with(CORE_MODULE) {
        return Err(not_a_component(", but a core module"));
    }
    // The decoder trusts the lengths in the file, so they are checked first.
    structure::check(bytes).map_err(|flaw| not_a_component(&format!(": {flaw}")))?;
    match wit_parser::decoding::decode(bytes) {
        Ok(DecodedWasm::Component(resolve, world)) => Ok((resolve, world)),
        Ok(DecodedWasm::WitPackage(..)) => Err(not_a_component(", but a WIT package")),
        Err(error) => Err(not_a_component(&format!(": {}", printable(&format!("{error:#}").replace('\n', " "))))),
    }
}

fn check_export(role: Role, component: &Component, resolve: &Resolve, world: WorldId) -> Result<()> {
    let expected = full_name(role.export());
    let exports: Vec<String> = names(resolve, world, |w| &w.exports);
    if exports.contains(&expected) {
        return Ok(());
    }
    let same_interface = exports.iter().find(|e| e.split('@').next() == expected.split('@').next());
    let (why, hint) = match same_interface {
        Some(other) => (
            format!("is made for {}, but this host offers {expected}", printable(other)),
            "rebuild the plugin against this version's wit folder, or use the host version that it needs".to_owned(),
        ),
        None if exports.is_empty() => {
            ("exports nothing".to_owned(), format!("use a component for the world `{}`", role.name()))
        }
        None => (
            format!("exports {} instead of {expected}", printable(&exports.join(", "))),
            format!("use a component for the world `{}`", role.name()),
        ),
    };
    Err(Error::config(format!("{} of the plugin `{}` {why}", component.path.display(), role.name())).hint(hint))
}

fn names(
    resolve: &Resolve,
    world: WorldId,
    side: impl Fn(&wit_parser::World) -> &wit_parser::IndexMap<WorldKey, WorldItem>,
) -> Vec<String> {
    resolve
        .worlds
        .get(world)
        .map(|w| side(w).keys().map(|key| resolve.name_world_key(key)).collect())
        .unwrap_or_default()
}

fn imports_of(resolve: &Resolve, world: WorldId) -> Vec<Import> {
    let Some(world) = resolve.worlds.get(world) else { return Vec::new() };
    let import = |(key, item): (&WorldKey, &WorldItem)| {
        let interface = resolve.name_world_key(key);
        let functions = match item {
            WorldItem::Interface { id, .. } => {
                resolve.interfaces.get(*id).map(|i| i.functions.keys().cloned().collect()).unwrap_or_default()
            }
            WorldItem::Function(function) => vec![function.name.clone()],
            WorldItem::Type { .. } => Vec::new(),
        };
        Import { needs: grant_for(&interface), interface, functions }
    };
    world.imports.iter().map(import).collect()
}

fn grant_for(interface: &str) -> Option<Grant> {
    if interface.starts_with("wasi:") {
        return Some(Grant::Wasi);
    }
    Grant::ALL.into_iter().find(|grant| interface == full_name(grant.name()))
}

/// Whether an interface needs no grant: the log, or notices for a plugin that sees rows; the business time zone for a
/// retention plugin; and interfaces that contain only types.
pub fn is_free(role: Role, interface: &str) -> bool {
    let messages = if role.sees_rows() { "notices" } else { "log" };
    let zone = (role == Role::Retention).then_some("business-zone");
    let mut free = [messages, "types", "bytes"].into_iter().chain(zone);
    free.any(|free| interface == full_name(free))
}

fn unknown_import(role: Role, component: &Component, import: &Import) -> Error {
    if role.sees_rows() && is_free(Role::Dump, &import.interface) {
        let name = component.path.display();
        return Error::config(format!(
            "the plugin `{}` ({name}) imports {}, but it sees rows, so it may not emit text",
            role.name(),
            printable(&import.interface)
        ))
        .hint("a crosscheck plugin uses `notices`, a level and a number, instead of `log`");
    }
    Error::config(format!(
        "the plugin `{}` ({}, sha256 {}) imports {}, which this host does not offer",
        role.name(),
        component.path.display(),
        crate::short_digest(&component.digest),
        printable(&import.interface)
    ))
    .hint(format!(
        "this host offers the interfaces of {PACKAGE}@{WORLD_VERSION}; rebuild the plugin against its wit folder"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(component: &Path) -> PluginConfig {
        PluginConfig { component: component.to_owned(), ..PluginConfig::default() }
    }

    /// Reads a file, for which nothing is waited for.
    fn read_now(role: Role, config: &PluginConfig, require_digest: bool, folder: Option<&Path>) -> Result<Component> {
        use futures::FutureExt;
        read(role, config, require_digest, folder).now_or_never().expect("a file needs no network")
    }

    #[test]
    fn missing_empty_garbage_and_core_module_files_give_different_errors() {
        let folder = tempfile::tempdir().unwrap();
        let table: [(&str, &[u8], &str); 3] = [
            ("empty.wasm", b"", "is not a WebAssembly component"),
            ("garbage.wasm", b"#!/bin/sh\n", "is not a WebAssembly component"),
            ("core.wasm", b"\0asm\x01\0\0\0", "but a core module"),
        ];
        for (name, bytes, expected) in table {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            let config = config(&path);
            let component = read_now(Role::Dump, &config, false, None).unwrap();
            let error = check(Role::Dump, &component, &config).unwrap_err();
            assert!(error.message().contains(expected), "{error}");
            assert!(error.advice().is_some());
        }
        let error = read_now(Role::Dump, &config(&folder.path().join("missing.wasm")), false, None).unwrap_err();
        assert!(error.message().contains("cannot be read"), "{error}");
    }

    #[test]
    fn a_pinned_digest_is_checked_and_a_missing_one_gives_the_line_to_add() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.wasm");
        std::fs::write(&path, b"x").unwrap();
        let pinned = |sha256: Option<String>| PluginConfig { sha256, ..config(&path) };
        let digest = hex::encode(Sha256::digest(b"x"));
        assert!(read_now(Role::Dump, &pinned(Some(digest.to_uppercase())), true, None).is_ok());
        assert!(
            read_now(Role::Dump, &pinned(Some("00".into())), false, None).unwrap_err().message().contains("is pinned")
        );
        let unpinned = read_now(Role::Dump, &pinned(None), true, None).unwrap_err();
        assert!(unpinned.advice().unwrap().contains(&digest), "{unpinned:?}");
    }

    #[test]
    fn a_bare_name_refers_to_the_plugins_folder_and_a_path_is_used_as_it_is() {
        let folder = Path::new("/opt/plugins");
        assert_eq!(locate(Path::new("dump.wasm"), Some(folder)), Path::new("/opt/plugins/dump.wasm"));
        assert_eq!(locate(Path::new("/x/dump.wasm"), Some(folder)), Path::new("/x/dump.wasm"));
        assert_eq!(locate(Path::new("mine/dump.wasm"), Some(folder)), Path::new("mine/dump.wasm"));
    }

    #[test]
    fn a_grant_covers_an_interface_of_this_version_and_wasi_its_own() {
        assert_eq!(grant_for("backup:host/object-write@0.2.0"), Some(Grant::ObjectWrite));
        assert_eq!(grant_for("backup:host/object-write@0.1.0"), None);
        assert_eq!(grant_for("wasi:cli/environment@0.2.6"), Some(Grant::Wasi));
        assert_eq!(grant_for("evil:host/object-write@0.2.0"), None);
        assert!(is_free(Role::Dump, "backup:host/log@0.2.0") && !is_free(Role::Dump, "other:host/log@0.2.0"));
        assert!(!is_free(Role::Crosscheck, "backup:host/log@0.2.0"), "a log line could contain a row");
        assert!(is_free(Role::Crosscheck, "backup:host/notices@0.2.0"));
    }
}
