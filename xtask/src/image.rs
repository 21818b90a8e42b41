//! Builds the image as an OCI archive: the used parts of Debian's packages, the binary and the components. It needs
//! neither root nor a daemon nor a registry, and the same sources and packages give the same bytes.

mod debian;
mod layout;

use crate::bill::{self, Part, Subject};
use crate::release::VERSION;
use crate::run::{failure, quiet, say, timed};
use crate::sign::{EXTENSION, Key};
use crate::tree::Tree;
use crate::{cache, machine, plugins, release};
use anyhow::{Context, Result};
use jiff::Timestamp;
use layout::{ImageConfig, Layer};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};

/// The program's folder. The link on the PATH leads here, and the components are beside the program.
const HOME: &str = "usr/lib/dolibarr-backup";

/// An otherwise unused user ID, for images that are built without --user.
const USER_DEFAULT: u32 = 10_001;

/// Names for the user IDs that PostgreSQL's programs and people look up: the image's own user, and the owner of the
/// documents in Debian.
const PASSWD: &str = "\
root:x:0:0:root:/:/usr/sbin/nologin
www-data:x:33:33:www-data:/tmp:/usr/sbin/nologin
dolibarr-backup:x:10001:10001:dolibarr-backup:/tmp:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/tmp:/usr/sbin/nologin
";

const GROUP: &str = "\
root:x:0:
www-data:x:33:
dolibarr-backup:x:10001:
nogroup:x:65534:
";

/// Arguments of `cargo xtask image`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Default user and group of the image, such as 33, the owner of the documents in Debian
    #[arg(long, value_name = "UID", default_value_t = USER_DEFAULT, value_parser = clap::value_parser!(u32).range(1..))]
    user: u32,
    /// Name of the image; the tag is the version
    #[arg(long, value_name = "NAME", default_value = "dolibarr-backup")]
    name: String,
    /// Use a debug build, which builds faster and runs slower
    #[arg(long)]
    debug: bool,
    /// Sign the components with this minisign secret key
    #[arg(long, value_name = "FILE")]
    sign_key: Option<PathBuf>,
}

/// The name and the parts of an image.
pub struct Image<'a> {
    /// The folder with the binary and its `plugins`.
    pub built: &'a Path,
    pub name: &'a str,
    pub user: u32,
    /// Seconds since 1970.
    pub epoch: u64,
    /// The key that signs the components.
    pub key: Option<&'a Key>,
}

/// Builds the binary, the components, and an image with both.
pub fn run(arguments: &Arguments) -> Result<()> {
    let key = arguments.sign_key.as_deref().map(Key::read).transpose()?;
    let built = release::build(arguments.debug)?;
    let image =
        Image { built: &built, name: &arguments.name, user: arguments.user, epoch: epoch()?, key: key.as_ref() };
    let file = image.write(&built.join("image"))?;
    say(format_args!("load: docker load --input {0}, or podman load --input {0}", file.display()));
    say(format_args!("push: skopeo copy oci-archive:{} docker://REGISTRY/{}:{VERSION}", file.display(), image.name));
    Ok(())
}

/// Makes the image for the tests from the debug build. Returns its file.
pub fn build_for_tests(target: &Path) -> Result<PathBuf> {
    let built = target.join("debug");
    let image = Image { built: &built, name: "dolibarr-backup", user: USER_DEFAULT, epoch: epoch()?, key: None };
    image.write(&built.join("image"))
}

/// The time used for every file: `SOURCE_DATE_EPOCH`, else the time of the last commit, else 1970.
pub fn epoch() -> Result<u64> {
    if let Some(set) = cache::variable("SOURCE_DATE_EPOCH") {
        let hint = "set it to seconds since 1970, or unset it";
        return set.parse().map_err(|_| failure(format_args!("invalid SOURCE_DATE_EPOCH: {set:?}"), hint));
    }
    let mut log = std::process::Command::new("git");
    log.args(["log", "-1", "--format=%ct"]).current_dir(machine::root());
    let text = log.output().map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    Ok(text.ok().and_then(|text| text.parse().ok()).unwrap_or_default())
}

/// A time in RFC 3339 format.
pub fn created(epoch: u64) -> Result<String> {
    let created = i64::try_from(epoch).ok().and_then(|epoch| Timestamp::from_second(epoch).ok());
    Ok(created.context("SOURCE_DATE_EPOCH is out of range")?.to_string())
}

impl Image<'_> {
    /// Makes the image and writes it, with its bill of materials, to a folder. Returns the image's file.
    pub fn write(&self, folder: &Path) -> Result<PathBuf> {
        // An image of an earlier build could be mistaken for this one's.
        let _ = fs::remove_dir_all(folder);
        let packages = timed("fetching Debian's packages", debian::packages)?;
        let (image, bill) = timed("making the image", || self.make(&packages))?;
        let file = folder.join(format!("{}-{VERSION}.tar", self.name.replace('/', "-")));
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        for (path, bytes) in [(&file, &image), (&folder.join("dolibarr-backup.cdx.json"), &bill)] {
            fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
            say(format_args!("{} has {} MiB", path.display(), bytes.len().div_ceil(1 << 20)));
        }
        Ok(file)
    }

    fn make(&self, packages: &[debian::Package]) -> Result<(Vec<u8>, Vec<u8>)> {
        let created = created(self.epoch)?;
        let components = plugins::built(&self.built.join("plugins"))?;
        let subject =
            Subject { kind: "container", name: self.name, version: VERSION, created: &created, content: None };
        let mut parts: Vec<_> = packages.iter().map(debian::Package::in_bill).collect();
        parts.extend(bill::crates(Part::Image)?);
        parts.extend(components.iter().map(|(name, content)| bill::component(name, VERSION, content)));
        let bill = bill::bill(&subject, &parts)?;

        let mut system = Tree::merged();
        debian::unpack(packages, &mut system)?;
        furnish(&mut system);
        let mut ours = Tree::default();
        let program = self.built.join("dolibarr-backup");
        let binary = fs::read(&program).with_context(|| format!("cannot read {}", program.display()))?;
        ours.file(&format!("{HOME}/dolibarr-backup"), 0o755, binary);
        ours.link("usr/bin/dolibarr-backup", "../lib/dolibarr-backup/dolibarr-backup");
        for (name, component) in components {
            if let Some(key) = self.key {
                let signature = key.signature(&name, VERSION, &component)?;
                ours.file(&format!("{HOME}/plugins/{name}.{EXTENSION}"), 0o644, signature);
            }
            ours.file(&format!("{HOME}/plugins/{name}"), 0o644, component);
        }
        ours.file("usr/share/sbom/dolibarr-backup.cdx.json", 0o644, bill.clone());
        let license = machine::root().join("LICENSE");
        let text = fs::read(&license).with_context(|| format!("cannot read {}", license.display()))?;
        ours.file("usr/share/doc/dolibarr-backup/copyright", 0o644, text);

        let layers = [
            Layer { from: "Debian's packages, listed in usr/share/sbom", tree: system },
            Layer { from: "dolibarr-backup and its plugins", tree: ours },
        ];
        let user = format!("{0}:{0}", self.user);
        let reference = format!("{}:{VERSION}", self.name);
        let config = ImageConfig {
            reference: &reference,
            epoch: self.epoch,
            created: &created,
            architecture: architecture()?,
            user: &user,
            environment: &["PATH=/usr/bin", "HOME=/tmp"],
            entrypoint: &["/usr/bin/dolibarr-backup"],
            folder: "/etc/dolibarr-backup",
            labels: json!({
                "org.opencontainers.image.title": "dolibarr-backup",
                "org.opencontainers.image.description": "Keeps a Dolibarr ERP restorable for ten years",
                "org.opencontainers.image.version": VERSION,
                "org.opencontainers.image.licenses": env!("CARGO_PKG_LICENSE"),
                "org.opencontainers.image.created": created,
            }),
        };
        Ok((layout::archive(&layers, &config)?, bill))
    }
}

/// Adds the files that programs expect in a system, and the mount points of volumes.
fn furnish(system: &mut Tree) {
    system.file("etc/passwd", 0o644, PASSWD);
    system.file("etc/group", 0o644, GROUP);
    system.file("etc/nsswitch.conf", 0o644, "passwd: files\ngroup: files\nhosts: files dns\n");
    for folder in
        ["dev", "proc", "sys", "run/secrets", "etc/dolibarr-backup", "var/www/documents", "srv/backup", "scratch"]
    {
        system.folder(folder, 0o755);
    }
    for folder in ["tmp", "var/tmp"] {
        system.folder(folder, 0o1777);
    }
}

/// The machine's architecture, by its OCI name.
pub fn architecture() -> Result<&'static str> {
    let debian = quiet(std::process::Command::new("dpkg").arg("--print-architecture"), "build the image on Debian")?;
    match debian.trim() {
        "amd64" => Ok("amd64"),
        "arm64" => Ok("arm64"),
        other => Err(failure(format_args!("images for {other} are not supported"), "use the Dockerfile")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_builds_give_the_same_bytes() {
        let packages = match debian::packages() {
            Ok(packages) => packages,
            Err(error) => return ::tests::skip(&format!("no image can be made: {error:#}")),
        };
        // The content of the image does not matter here, and building the host takes minutes.
        let built = tempfile::tempdir().expect("a folder");
        fs::create_dir(built.path().join("plugins")).expect("a folder");
        for name in ["dolibarr-backup", "plugins/b.wasm", "plugins/a.wasm"] {
            fs::write(built.path().join(name), name).expect("written");
        }
        let image = Image { built: built.path(), name: "team/backup", user: 33, epoch: 1_782_777_600, key: None };
        let first = image.make(&packages).expect("an image");
        assert_eq!(image.make(&packages).expect("an image"), first);
        let later = Image { epoch: 1_782_777_601, ..image };
        assert_ne!(later.make(&packages).expect("an image"), first, "the time is part of the image");
    }
}
