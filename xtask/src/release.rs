//! Builds a release: an archive of the binary and the components, a bill of materials for each, their digests, and
//! signatures if the builder passes a key.

use crate::bill::{self, Part, Subject};
use crate::image::{architecture, created, epoch};
use crate::run::{loud, say, timed};
use crate::sign::{EXTENSION, Key};
use crate::tree::{Tree, gzip};
use crate::{machine, plugins};
use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The version of everything in the workspace.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Digests of all files, in the format of `sha256sum --check`.
const SUMS: &str = "SHA256SUMS";

/// Arguments of `cargo xtask release`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Sign with this minisign secret key. `minisign -G -s FILE` makes one and prints the public key for `signed_by`
    #[arg(long, value_name = "FILE")]
    sign_key: Option<PathBuf>,
    /// Use a debug build, which builds faster and runs slower
    #[arg(long)]
    debug: bool,
}

/// Builds everything and writes it to the folder `dist` beside the binary.
pub fn run(arguments: &Arguments) -> Result<()> {
    // An unusable key must fail before minutes of building.
    let key = arguments.sign_key.as_deref().map(Key::read).transpose()?;
    let built = build(arguments.debug)?;
    let release = Release { built: &built, key: key.as_ref(), epoch: epoch()? };
    let archive = release.write(&built.join("dist"))?;
    say(format_args!("{} has {} MiB", archive.display(), fs::metadata(&archive)?.len().div_ceil(1 << 20)));
    match &key {
        Some(key) => say(format_args!("configure the plugins with signed_by = \"{}\"", key.public())),
        None => say("nothing is signed; --sign-key signs the release"),
    }
    Ok(())
}

/// Builds the components and the binary. Returns the folder that contains both.
pub fn build(debug: bool) -> Result<PathBuf> {
    let target = machine::target_folder()?;
    plugins::build(&target)?;
    let profile = if debug { "dev" } else { "release" };
    timed("building the binary", || {
        let mut build = machine::cargo();
        build.env("CARGO_TARGET_DIR", &target);
        build.args(["build", "--quiet", "--locked", "--package", "dolibarr-backup", "--profile", profile]);
        loud(&mut build, "fix the errors that the compiler reports")
    })?;
    Ok(target.join(if debug { "debug" } else { "release" }))
}

/// The parts of a release.
struct Release<'a> {
    /// The folder with the binary and its `plugins`.
    built: &'a Path,
    key: Option<&'a Key>,
    /// Seconds since 1970, used for every time in the release.
    epoch: u64,
}

impl Release<'_> {
    /// Writes the archive and, beside it, its unpacked content. Returns the archive's path.
    fn write(&self, folder: &Path) -> Result<PathBuf> {
        // Files of an earlier build could be mistaken for this one's.
        let _ = fs::remove_dir_all(folder);
        let name = format!("dolibarr-backup-{VERSION}-linux-{}", architecture()?);
        let files = self.files()?;
        let mut archive = Tree::default();
        for (path, mode, content) in &files {
            archive.file(&format!("{name}/{path}"), *mode, content.clone());
            put(&folder.join(&name).join(path), *mode, content)?;
        }
        let bytes = gzip(&archive.tar(self.epoch)?)?;
        let archive = format!("{name}.tar.gz");
        if let Some(key) = self.key {
            let signature = key.signature(&archive, VERSION, &bytes)?;
            put(&folder.join(format!("{archive}.{EXTENSION}")), 0o644, signature.as_bytes())?;
        }
        let path = folder.join(archive);
        put(&path, 0o644, &bytes)?;
        Ok(path)
    }

    /// Path, mode and content of every file.
    fn files(&self) -> Result<Vec<(String, u32, Vec<u8>)>> {
        let created = created(self.epoch)?;
        let bill_for = |part: Part<'_>, name: &str, content: &[u8]| {
            let content = Some(content);
            bill::bill(
                &Subject { kind: "application", name, version: VERSION, created: &created, content },
                &bill::crates(part)?,
            )
        };
        let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
        let program = read(&self.built.join("dolibarr-backup"))?;
        let bill = bill_for(Part::Binary, "dolibarr-backup", &program)?;
        let mut files = vec![
            ("LICENSE".to_owned(), 0o644, read(&machine::root().join("LICENSE"))?),
            ("dolibarr-backup".to_owned(), 0o755, program),
            ("dolibarr-backup.cdx.json".to_owned(), 0o644, bill),
        ];
        for (name, component) in plugins::built(&self.built.join("plugins"))? {
            let package = name.trim_end_matches(".wasm");
            let bill = bill_for(Part::Plugin(package), package, &component)?;
            files.push((format!("plugins/{package}.cdx.json"), 0o644, bill));
            if let Some(key) = self.key {
                let signature = key.signature(&name, VERSION, &component)?;
                files.push((format!("plugins/{name}.{EXTENSION}"), 0o644, signature.into_bytes()));
            }
            files.push((format!("plugins/{name}"), 0o644, component));
        }
        let mut sums = String::new();
        for (path, _, content) in &files {
            writeln!(sums, "{}  {path}", hex::encode(Sha256::digest(content)))?;
        }
        if let Some(key) = self.key {
            let signature = key.signature(SUMS, VERSION, sums.as_bytes())?;
            files.push((format!("{SUMS}.{EXTENSION}"), 0o644, signature.into_bytes()));
        }
        files.push((SUMS.to_owned(), 0o644, sums.into_bytes()));
        Ok(files)
    }
}

fn put(path: &Path, mode: u32, content: &[u8]) -> Result<()> {
    let folder = path.parent().context("the path of a file has no folder")?;
    let written = fs::create_dir_all(folder).and_then(|()| fs::write(path, content));
    let written = written.and_then(|()| fs::set_permissions(path, Permissions::from_mode(mode)));
    written.with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sign::tests::{is_signed, key};
    use std::collections::BTreeMap;
    use std::process::Command;

    /// Placeholder files with the names of shipped plugins, so that Cargo knows their crates. Building the real ones
    /// takes minutes.
    const PLUGINS: [&str; 2] = ["plugins/dump.wasm", "plugins/retention-tiered.wasm"];

    fn built() -> tempfile::TempDir {
        let built = tempfile::tempdir().expect("a folder");
        for name in ["dolibarr-backup"].iter().chain(&PLUGINS) {
            put(&built.path().join(name), 0o755, name.as_bytes()).expect("written");
        }
        built
    }

    fn by_path(release: &Release<'_>) -> BTreeMap<String, Vec<u8>> {
        release.files().expect("files").into_iter().map(|(path, _, content)| (path, content)).collect()
    }

    #[test]
    fn every_component_has_a_bill_and_a_valid_signature() {
        let built = built();
        let (key, public) = key(built.path());
        let files = by_path(&Release { built: built.path(), key: Some(&key), epoch: 1_782_777_600 });
        for plugin in PLUGINS {
            let signature = String::from_utf8(files[&format!("{plugin}.minisig")].clone()).expect("text");
            assert!(is_signed(&public, &signature, &files[plugin]), "{plugin}");
            let bill = &files[&plugin.replace(".wasm", ".cdx.json")];
            let bill: serde_json::Value = serde_json::from_slice(bill).expect("JSON");
            let digest = hex::encode(Sha256::digest(&files[plugin]));
            assert_eq!(bill["metadata"]["component"]["hashes"][0]["content"], digest.as_str(), "{bill}");
            let crates = bill["components"].as_array().expect("crates");
            assert!(crates.iter().any(|part| part["name"] == "wit-bindgen"), "{bill}");
            assert!(!crates.iter().any(|part| part["name"] == "wasmtime"), "{bill}");
        }
        let signature = String::from_utf8(files["SHA256SUMS.minisig"].clone()).expect("text");
        assert!(is_signed(&public, &signature, &files["SHA256SUMS"]));
    }

    #[test]
    fn unpacked_files_match_their_digests() {
        let built = built();
        let release = Release { built: built.path(), key: None, epoch: 1_782_777_600 };
        let dist = built.path().join("dist");
        put(&dist.join("left-by-an-earlier-build"), 0o644, b"").expect("written");
        let archive = release.write(&dist).expect("a release");
        assert!(!dist.join("left-by-an-earlier-build").exists());
        let unpacked = Command::new("tar").arg("-xzf").arg(&archive).current_dir(built.path()).status().expect("tar");
        assert!(unpacked.success());
        let name = archive.file_name().expect("a name").to_string_lossy().replace(".tar.gz", "");
        let folder = built.path().join(&name);
        for place in [&folder, &dist.join(name)] {
            let program = fs::metadata(place.join("dolibarr-backup")).expect("the program");
            assert_eq!(program.permissions().mode() & 0o777, 0o755, "{}", place.display());
        }
        let checked = Command::new("sha256sum").args(["--check", "--strict", SUMS]).current_dir(&folder).output();
        let checked = checked.expect("sha256sum");
        let lines = String::from_utf8_lossy(&checked.stdout);
        assert!(checked.status.success() && lines.lines().count() == 7, "{lines}");
        assert!(!folder.join("plugins/dump.wasm.minisig").exists(), "no key was passed");
    }

    #[test]
    fn the_same_build_gives_the_same_bytes_except_signatures() {
        let built = built();
        let release = Release { built: built.path(), key: None, epoch: 1_782_777_600 };
        assert_eq!(release.files().expect("files"), release.files().expect("files"));
        let later = Release { epoch: 1_782_777_601, ..release };
        assert_ne!(by_path(&later)["dolibarr-backup.cdx.json"], by_path(&release)["dolibarr-backup.cdx.json"]);
    }
}
