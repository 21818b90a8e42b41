//! Compiled components. They are native code, so loading such a file trusts it as much as this program itself.
//!
//! An attacker who can write to the user's own files can replace the program and does not need the cache. Everyone else
//! is kept out by the owner and mode of the folder and of the file, which are read from the open descriptors and not by
//! name. That leaves accidents: a faulty disk, a file that was copied over another, an engine version that compiles
//! differently. To detect them, each file ends with a SHA-256 over its source and all preceding bytes, and the file
//! that is hashed is the one that is loaded. The file is mapped, not read: a run touches only part of an interpreter's
//! 37 MB, and a plugin's memory starts as pages of the file. Files are never written in place, so a mapping never
//! changes.

use super::{Cache, Delay, Folder};
use crate::Component;
use crate::compile::{self, COMPILED_BYTES_MAX, Failure};
use crate::{Engine, Limits};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::hash::{Hash, Hasher};
use std::io::Read;
use std::os::fd::AsRawFd;

/// Smaller components are compiled each time. The smallest shipped one has 109 kB; smaller ones compile about as fast
/// as they are read back.
const CACHED_BYTES_MIN: usize = 64 << 10;

/// Components of at least this size take seconds to compile. 18 MB of Python do; the largest shipped one (0.6 MB) takes
/// 0.1 s.
const SLOW_BYTES_MIN: usize = 1 << 20;

/// Follows the code, which an ELF file allows. Another file format gets another number.
const MAGIC: &[u8; 16] = b"compiled wasm 2\n";

/// Bytes of the hash after [`MAGIC`].
const HASH_BYTES: usize = 32;

/// Bytes at the end of every file: [`MAGIC`] and the hash.
const END_BYTES: usize = MAGIC.len() + HASH_BYTES;

/// Bytes that are hashed at once, so few that they stay in the processor's cache.
const PIECE_BYTES: usize = 128 << 10;

/// A component's compiled code, from the cache if possible.
///
/// # Errors
/// If the component cannot be compiled within its limits. A problem with the cache only costs time.
pub fn compile(
    engine: &Engine,
    component: &Component,
    limits: Limits,
    cache: Option<&Cache>,
) -> Result<wasmtime::component::Component, Failure> {
    let compile_now = || deserialize(engine, &compile::code(engine, &component.bytes, limits)?);
    let Some(cache) = cache.filter(|_| component.bytes.len() >= CACHED_BYTES_MIN) else { return compile_now() };
    let delay = if component.bytes.len() < SLOW_BYTES_MIN { Delay::Unnoticed } else { Delay::Seconds };
    let key = CacheKey::new(engine, component);
    match load(engine, cache, &key) {
        Ok(Some(compiled)) => return Ok(compiled),
        Ok(None) => {}
        Err(Refused::Folder(why)) => {
            cache.warn_unused(&why, delay);
            return compile_now();
        }
        Err(Refused::File(why)) => {
            tracing::warn!("a compiled component in the cache cannot be used and is compiled again: {why}");
        }
    }
    let code = compile::code(engine, &component.bytes, limits)?;
    if let Err(why) = store(cache, &key, &code) {
        cache.warn_unused(&why, delay);
    }
    deserialize(engine, &code)
}

/// Loads code that the compiler has just produced.
#[expect(unsafe_code, reason = "wasmtime cannot tell whether native code is its own; the comment below says why it is")]
fn deserialize(engine: &Engine, code: &[u8]) -> Result<wasmtime::component::Component, Failure> {
    // SAFETY: this program's own compiler produced the code for this engine, in this process or in a child process of
    // the same executable, and passed it on in memory.
    let component = unsafe { wasmtime::component::Component::deserialize(&engine.wasm, code) };
    component.map_err(|e| Failure::Refused(format!("{e:#}")))
}

/// What determines the compiled code: the component, and every property of the engine that affects compilation.
struct CacheKey {
    source: String,
    engine: String,
}

impl CacheKey {
    fn new(engine: &Engine, component: &Component) -> Self {
        let mut hasher = Sha256Hasher(Sha256::new());
        engine.wasm.precompile_compatibility_hash().hash(&mut hasher);
        Self { source: component.digest.clone(), engine: hex::encode(hasher.0.finalize()) }
    }

    fn file(&self) -> String {
        format!("{}-{}.cwasm", self.source, crate::short_digest(&self.engine))
    }

    /// A hasher that has consumed everything but the code, which follows.
    fn hasher(&self) -> Sha256 {
        let parts = [&MAGIC[..], self.source.as_bytes(), self.engine.as_bytes()];
        parts.iter().fold(Sha256::new(), |hash, part| hash.chain_update(part))
    }

    /// The computed hash of a file, and the bytes at its end.
    fn read(&self, file: &mut File, length: u64) -> std::io::Result<([u8; HASH_BYTES], [u8; END_BYTES])> {
        let mut hash = self.hasher();
        let mut left = length.saturating_sub(END_BYTES as u64);
        let mut piece = vec![0; PIECE_BYTES];
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
            let piece = piece.get_mut(..wanted).unwrap_or_default();
            file.read_exact(piece)?;
            hash.update(piece);
            left -= wanted as u64;
        }
        let mut end = [0; END_BYTES];
        file.read_exact(&mut end)?;
        Ok((hash.finalize().into(), end))
    }
}

/// The standard library's hasher may change with the compiler version, and then no cached file would be found.
struct Sha256Hasher(Sha256);

impl Hasher for Sha256Hasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let digest: [u8; HASH_BYTES] = self.0.clone().finalize().into();
        digest.first_chunk().map_or(0, |first: &[u8; 8]| u64::from_le_bytes(*first))
    }
}

/// Why a cached component cannot be loaded.
#[derive(Debug)]
enum Refused {
    /// The folder is not used, neither for reading nor for writing.
    Folder(String),
    /// Only this file is unusable; it is replaced.
    File(String),
}

#[expect(unsafe_code, reason = "wasmtime cannot tell whether native code is its own; the comment below says why it is")]
fn load(engine: &Engine, cache: &Cache, key: &CacheKey) -> Result<Option<wasmtime::component::Component>, Refused> {
    let folder = Folder::make(&cache.compiled()).map_err(Refused::Folder)?;
    let running = rustix::process::geteuid().as_raw();
    let refused = |why: String| Refused::Folder(format!("{}: {why}", folder.path.display()));
    folder.ownership().and_then(|ownership| ownership.check_trusted(running)).map_err(refused)?;
    let name = key.file();
    let bad_file = |why: &dyn std::fmt::Display| Refused::File(format!("{}: {why}", folder.path.join(&name).display()));
    let open = folder.file(&name, COMPILED_BYTES_MAX, |owned| owned.check_trusted(running)).map_err(Refused::File)?;
    let Some((mut file, length)) = open else { return Ok(None) };
    if length < END_BYTES as u64 {
        return Err(bad_file(&"it is truncated"));
    }
    let (hash, end) = key.read(&mut file, length).map_err(|e| bad_file(&e))?;
    let recorded = end.strip_prefix(MAGIC).ok_or_else(|| bad_file(&"another version wrote it"))?;
    if hash != recorded {
        return Err(bad_file(&"it is damaged or belongs to another component"));
    }
    // The open file, because its name may refer to another one by now.
    let opened = format!("/proc/self/fd/{}", file.as_raw_fd());
    // SAFETY: `store` wrote this code for this component and this engine: the hash over all three is correct, only this
    // user and root can write to the file and its folder, and this program replaces such files but never modifies them.
    let compiled = unsafe { wasmtime::component::Component::deserialize_file(&engine.wasm, opened) };
    compiled.map(Some).map_err(|e| bad_file(&format_args!("{e:#}")))
}

fn store(cache: &Cache, key: &CacheKey, code: &[u8]) -> Result<(), String> {
    let folder = Folder::make(&cache.compiled())?;
    let hash: [u8; HASH_BYTES] = key.hasher().chain_update(code).finalize().into();
    folder.write(&key.file(), &[code, MAGIC, &hash])?;
    // Code that an earlier engine compiled from the same component is of no use any more.
    folder.sweep(|name| name.starts_with(&key.source) && name != key.file());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};

    /// A component that is large enough to be cached: a custom section fills it.
    fn component(mark: u8) -> Component {
        let mut bytes = wat::parse_str("(component (core module (func (export \"f\"))))").unwrap();
        let length = CACHED_BYTES_MIN;
        bytes.push(0);
        let mut left = length + 3;
        while left >= 0x80 {
            bytes.push((left & 0x7f) as u8 | 0x80);
            left >>= 7;
        }
        bytes.push(left as u8);
        bytes.extend([2, b'x', mark]);
        bytes.extend(std::iter::repeat_n(0, length));
        Component { path: "large.wasm".into(), digest: hex::encode(Sha256::digest(&bytes)), bytes }
    }

    struct Place {
        folder: tempfile::TempDir,
        cache: Cache,
        engine: Engine,
    }

    impl Place {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let cache = Cache::new(folder.path().join("cache"));
            Self { folder, cache, engine: Engine::new().unwrap() }
        }

        fn load(&self, component: &Component) -> Result<bool, Refused> {
            load(&self.engine, &self.cache, &CacheKey::new(&self.engine, component)).map(|found| found.is_some())
        }

        fn file(&self, component: &Component) -> PathBuf {
            self.cache.compiled().join(CacheKey::new(&self.engine, component).file())
        }

        fn compile(&self, component: &Component) {
            compile(&self.engine, component, Limits::default(), Some(&self.cache)).unwrap();
        }
    }

    fn mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_compiled_component_is_loaded_and_a_small_one_is_never_stored() {
        let place = Place::new();
        let large = component(1);
        assert!(!place.load(&large).unwrap());
        place.compile(&large);
        assert!(place.load(&large).unwrap());
        assert_eq!(std::fs::metadata(place.file(&large)).unwrap().permissions().mode() & 0o777, 0o600);
        let bytes = wat::parse_str("(component)").unwrap();
        let small = Component { path: "small.wasm".into(), digest: hex::encode(Sha256::digest(&bytes)), bytes };
        place.compile(&small);
        assert!(!place.file(&small).exists());
    }

    #[test]
    fn a_flipped_byte_is_detected_and_the_component_is_compiled_again() {
        let place = Place::new();
        let large = component(1);
        place.compile(&large);
        let file = place.file(&large);
        let whole = std::fs::read(&file).unwrap();
        let last = whole.len() - 1;
        for at in [0, whole.len() / 2, whole.len() - END_BYTES, whole.len() - HASH_BYTES, last] {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            std::fs::remove_file(&file).unwrap();
            std::fs::write(&file, &damaged).unwrap();
            mode(&file, 0o600);
            assert!(matches!(place.load(&large), Err(Refused::File(_))), "byte {at}");
            place.compile(&large);
            assert!(place.load(&large).unwrap(), "byte {at} was not replaced");
        }
        for length in [0, MAGIC.len(), END_BYTES, END_BYTES + 5, last] {
            std::fs::write(&file, &whole[..length]).unwrap();
            assert!(matches!(place.load(&large), Err(Refused::File(_))), "{length} bytes");
        }
    }

    #[test]
    fn the_code_of_another_component_is_not_loaded() {
        let place = Place::new();
        let (one, other) = (component(1), component(2));
        place.compile(&one);
        place.compile(&other);
        std::fs::copy(place.file(&other), place.file(&one)).unwrap();
        assert!(matches!(place.load(&one), Err(Refused::File(_))));
    }

    #[test]
    fn a_file_or_folder_that_others_may_write_to_is_not_trusted() {
        let place = Place::new();
        let large = component(1);
        place.compile(&large);
        let file = place.file(&large);
        mode(&file, 0o622);
        assert!(matches!(place.load(&large), Err(Refused::File(_))));
        place.compile(&large);
        assert!(place.load(&large).unwrap(), "replaced by our own file");
        let elsewhere = place.folder.path().join("elsewhere");
        std::fs::rename(&file, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &file).unwrap();
        assert!(matches!(place.load(&large), Err(Refused::File(_))), "a link");
        mode(&place.cache.compiled(), 0o777);
        assert!(matches!(place.load(&large), Err(Refused::Folder(_))));
        place.compile(&large);
        assert!(std::fs::symlink_metadata(&file).unwrap().is_symlink(), "nothing is written there either");
    }

    #[test]
    fn a_file_or_folder_of_another_user_is_not_trusted() {
        if !rustix::process::geteuid().is_root() {
            ::tests::skip("only root can give a file to another user");
            return;
        }
        let place = Place::new();
        let large = component(1);
        place.compile(&large);
        std::os::unix::fs::chown(place.file(&large), Some(65_534), None).unwrap();
        assert!(matches!(place.load(&large), Err(Refused::File(_))));
        std::os::unix::fs::chown(place.cache.compiled(), Some(65_534), None).unwrap();
        assert!(matches!(place.load(&large), Err(Refused::Folder(_))));
    }

    #[test]
    fn code_of_an_earlier_engine_is_removed_and_other_components_stay() {
        let place = Place::new();
        let (one, other) = (component(1), component(2));
        place.compile(&other);
        let before = place.cache.compiled().join(format!("{}-0123456789ab.cwasm", one.digest));
        std::fs::write(&before, b"of an older engine").unwrap();
        place.compile(&one);
        assert!(!before.exists() && place.file(&other).exists() && place.file(&one).exists());
    }
}
