//! The image that `cargo xtask image --debug` writes beside the binary: its layout, and its behaviour on a read-only
//! root as an unprivileged user. Instead of a container runtime, the tests use a separate root and `chroot`.

use crate::scene::{DATABASE, PASSWORD, Scene, succeed};
use flate2::read::GzDecoder;
use oci_spec::image::{Arch, Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType, OciLayout, Os};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// The user that runs the image: the owner of the documents in Debian, and the user of the chart's pods.
const USER: &str = "33";

/// Runs a program on its own read-only root, with what a container runtime adds: `/proc`, `/dev/null`, a `/tmp`, and
/// volumes. Arguments: root, user, volumes as `FROM:TO:ro` or `FROM:TO:rw` up to a `--`, then the command.
const CONTAINER: &str = "\
set -e
root=$1 user=$2; shift 2
mount --bind \"$root\" \"$root\"
mount -o remount,bind,ro \"$root\"
mount -t proc proc \"$root/proc\"
mount -t tmpfs -o mode=755 tmpfs \"$root/dev\"
touch \"$root/dev/null\"; mount --bind /dev/null \"$root/dev/null\"
mount -t tmpfs -o mode=1777 tmpfs \"$root/tmp\"
while [ \"$1\" != -- ]; do
  from=${1%%:*} rest=${1#*:}; to=${rest%%:*} how=${rest##*:}
  mount --bind \"$from\" \"$root$to\"; mount -o \"remount,bind,$how\" \"$root$to\"; shift
done; shift
exec env -i PATH=/usr/bin HOME=/tmp /usr/sbin/chroot --userspec=\"$user:$user\" --groups= \"$root\" \"$@\"
";

/// The built image's archive. If it does not exist, returns `None` and records the skip.
pub fn file() -> Option<PathBuf> {
    let folder = tests::binary::program().parent().unwrap().join("image");
    let mut paths = folder.read_dir().into_iter().flatten().map(|entry| entry.unwrap().path());
    let found = paths.find(|path| path.extension().is_some_and(|end| end == "tar"));
    if found.is_none() {
        tests::skip("the image is not built: cargo xtask image --debug");
    }
    found
}

/// The image's files by their path in the archive.
struct Image {
    files: BTreeMap<String, Vec<u8>>,
}

impl Image {
    /// The built image. If it does not exist, returns `None` and records the skip.
    fn built() -> Option<Self> {
        let file = file()?;
        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(std::fs::File::open(file).unwrap()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            files.insert(entry.path().unwrap().to_string_lossy().into_owned(), content);
        }
        Some(Self { files })
    }

    /// A blob. Asserts that its size and digest match its descriptor.
    #[track_caller]
    fn blob(&self, descriptor: &Descriptor) -> &[u8] {
        let digest = descriptor.as_digest_sha256().expect("a SHA-256");
        let content = &self.files[&format!("blobs/sha256/{digest}")];
        assert_eq!(content.len() as u64, descriptor.size());
        assert_eq!(hex::encode(Sha256::digest(content)), digest);
        content
    }

    fn manifest(&self) -> ImageManifest {
        let index = ImageIndex::from_reader(&self.files["index.json"][..]).unwrap();
        let [manifest] = &index.manifests()[..] else { panic!("expected exactly one manifest: {index:?}") };
        assert_eq!(manifest.media_type(), &MediaType::ImageManifest);
        assert_eq!(manifest.platform().as_ref().unwrap().os(), &Os::Linux);
        ImageManifest::from_reader(self.blob(manifest)).unwrap()
    }

    fn config(&self) -> ImageConfiguration {
        ImageConfiguration::from_reader(self.blob(self.manifest().config())).unwrap()
    }

    /// The layers, unpacked, bottom to top.
    fn layers(&self) -> Vec<Vec<u8>> {
        let unzip = |layer: &Descriptor| {
            assert_eq!(layer.media_type(), &MediaType::ImageLayerGzip);
            let mut plain = Vec::new();
            GzDecoder::new(self.blob(layer)).read_to_end(&mut plain).unwrap();
            plain
        };
        self.manifest().layers().iter().map(unzip).collect()
    }

    /// A folder with the image's files, owned by root. If it cannot be created or used, returns `None` and records the
    /// skip.
    fn root(&self) -> Option<TempDir> {
        if !rustix::process::geteuid().is_root() {
            tests::skip("the image runs in a root of its own, which takes root to make");
            return None;
        }
        let mounts = Command::new("unshare").args(["--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]).output();
        if !mounts.is_ok_and(|output| output.status.success()) {
            tests::skip("the image runs in a mount namespace of its own, and this machine allows none");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        for layer in self.layers() {
            let mut archive = tar::Archive::new(Cursor::new(layer));
            archive.set_preserve_permissions(true);
            archive.unpack(folder.path()).unwrap();
        }
        Some(folder)
    }
}

/// Runs a command in the image.
fn contain(root: &Path, volumes: &[(&Path, &str, &str)], command: &[&str]) -> Output {
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "sh", "-c", CONTAINER, "container"]).arg(root).arg(USER);
    unshare.args(volumes.iter().map(|(from, to, how)| format!("{}:{to}:{how}", from.display())));
    unshare.arg("--").args(command).output().unwrap()
}

#[track_caller]
fn expect_success(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}: {}", output.status, text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn the_layout_is_whole_and_says_who_runs_what() {
    let Some(image) = Image::built() else { return };
    let layout = OciLayout::from_reader(&image.files["oci-layout"][..]).unwrap();
    assert_eq!(layout.image_layout_version(), "1.0.0");
    let config = image.config();
    assert_eq!((config.architecture(), config.os()), (&Arch::Amd64, &Os::Linux));
    let runs = config.config().as_ref().unwrap();
    assert_eq!(runs.entrypoint().as_deref(), Some(&["/usr/bin/dolibarr-backup".to_owned()][..]));
    assert_eq!(runs.user().as_deref(), Some("10001:10001"));
    assert_eq!(runs.working_dir().as_deref(), Some("/etc/dolibarr-backup"));
    let labels = runs.labels().as_ref().unwrap();
    assert_eq!(labels["org.opencontainers.image.title"], "dolibarr-backup");
    let digests: Vec<_> =
        image.layers().iter().map(|layer| format!("sha256:{}", hex::encode(Sha256::digest(layer)))).collect();
    assert_eq!(config.rootfs().diff_ids(), &digests);
    // The archive has no unreferenced blob, and an older Docker finds the same configuration and layers.
    assert_eq!(image.files.keys().filter(|path| path.starts_with("blobs/sha256/") && path.len() > 13).count(), 4);
    let docker: serde_json::Value = serde_json::from_slice(&image.files["manifest.json"]).unwrap();
    assert!(image.files.contains_key(docker[0]["Config"].as_str().unwrap()));
    assert_eq!(docker[0]["Layers"].as_array().unwrap().len(), 2);
}

#[test]
fn nothing_in_the_image_lends_rights_or_belongs_to_anyone_but_root() {
    let Some(image) = Image::built() else { return };
    let mut files = 0;
    for layer in image.layers() {
        for entry in tar::Archive::new(Cursor::new(layer)).entries().unwrap() {
            let entry = entry.unwrap();
            let header = entry.header();
            let path = entry.path().unwrap().to_string_lossy().into_owned();
            assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (0, 0), "{path}");
            let mode = header.mode().unwrap();
            assert_eq!(mode & 0o6000, 0, "{path} is setuid or setgid");
            let writable = mode & 0o022 != 0 && !header.entry_type().is_symlink();
            assert!(!writable || matches!(path.as_str(), "tmp/" | "var/tmp/"), "{path}: {mode:o}");
            let shell = path.strip_prefix("usr/bin/").is_some_and(|name| name.ends_with("sh"));
            assert!(!shell || matches!(path.as_str(), "usr/bin/dash" | "usr/bin/sh"), "{path}: initdb needs one shell");
            files += 1;
        }
    }
    assert!(files > 100, "{files}");
}

#[test]
fn the_bill_of_materials_names_packages_crates_and_components() {
    let Some(image) = Image::built() else { return };
    let mut bill = None;
    for entry in tar::Archive::new(Cursor::new(image.layers().remove(1))).entries().unwrap() {
        let entry = entry.unwrap();
        if entry.path().unwrap().ends_with("dolibarr-backup.cdx.json") {
            bill = Some(serde_json::from_reader::<_, serde_json::Value>(entry).unwrap());
        }
    }
    let bill = bill.expect("a bill of materials");
    assert_eq!((&bill["bomFormat"], &bill["specVersion"]), (&"CycloneDX".into(), &"1.5".into()));
    let components = bill["components"].as_array().unwrap();
    let purls: Vec<_> = components.iter().filter_map(|component| component["purl"].as_str()).collect();
    for begin in ["pkg:deb/debian/libc6@", "pkg:deb/debian/libpq5@", "pkg:cargo/wasmtime@", "pkg:cargo/aws-sdk-s3@"] {
        assert!(purls.iter().any(|purl| purl.starts_with(begin)), "{begin}");
    }
    let built = tests::binary::program().parent().unwrap().join("plugins");
    for name in ["dump.wasm", "fingerprint.wasm", "retention-tiered.wasm"] {
        let component = components.iter().find(|component| component["name"] == name).expect(name);
        let digest = hex::encode(Sha256::digest(std::fs::read(built.join(name)).unwrap()));
        assert_eq!(component["hashes"][0]["content"], digest.as_str(), "{name} is not the built one");
    }
}

#[test]
fn the_binary_runs_in_the_image_without_rights_on_a_read_only_root() {
    let Some(image) = Image::built() else { return };
    let Some(root) = image.root() else { return };
    let run = |command: &[&str]| contain(root.path(), &[], command);
    let version = expect_success(&run(&["/usr/bin/dolibarr-backup", "--version"]));
    assert!(version.starts_with("dolibarr-backup "), "{version}");
    let folders = root.path().join("usr/lib/postgresql").read_dir().unwrap().map(|entry| entry.unwrap().path());
    let majors: Vec<PathBuf> = folders.collect();
    assert!(!majors.is_empty());
    for major in majors {
        for program in ["pg_dump", "pg_restore", "initdb", "postgres"] {
            let inside = Path::new("/").join(major.strip_prefix(root.path()).unwrap()).join("bin").join(program);
            let said = expect_success(&run(&[inside.to_str().unwrap(), "--version"]));
            assert!(said.contains("(PostgreSQL)"), "{program}: {said}");
        }
    }
}

#[test]
fn a_throwaway_server_can_be_made_in_the_image() {
    let Some(image) = Image::built() else { return };
    let Some(root) = image.root() else { return };
    let mut majors = root.path().join("usr/lib/postgresql").read_dir().unwrap().map(|entry| entry.unwrap().file_name());
    let bin = format!("/usr/lib/postgresql/{}/bin", majors.next().unwrap().to_str().unwrap());
    let initdb = format!("{bin}/initdb");
    // initdb starts the server several times.
    let made = contain(
        root.path(),
        &[],
        &[&initdb, "--pgdata=/tmp/data", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8"],
    );
    assert!(expect_success(&made).contains("Success"), "{made:?}");
}

#[test]
fn the_authorities_are_those_of_debian() {
    let Some(image) = Image::built() else { return };
    let mut bundle = String::new();
    for entry in tar::Archive::new(Cursor::new(image.layers().remove(0))).entries().unwrap() {
        let mut entry = entry.unwrap();
        if entry.path().unwrap().ends_with("etc/ssl/certs/ca-certificates.crt") {
            entry.read_to_string(&mut bundle).unwrap();
        }
    }
    let count = |line: &str| bundle.lines().filter(|other| *other == line).count();
    assert!(count("-----BEGIN CERTIFICATE-----") > 100, "{}", bundle.len());
    assert_eq!(count("-----BEGIN CERTIFICATE-----"), count("-----END CERTIFICATE-----"));
}

/// The configuration of an instance that is backed up from within the image.
fn configuration(scene: &Scene) -> String {
    format!(
        "time_zone = \"Europe/Paris\"\n[store]\nurl = \"file:///srv/backup/erp\"\n\
         [env.prod.sources.db]\nkind = \"postgres\"\nhost = \"127.0.0.1\"\nport = {}\ndatabase = \"{DATABASE}\"\n\
         credentials = {{ files = \"/run/secrets\" }}\n\
         [env.prod.sources.docs]\nkind = \"directory\"\npath = \"/var/www/documents\"\n",
        scene.server.port()
    )
}

#[test]
fn a_backup_from_within_the_image_is_whole() {
    let Some(image) = Image::built() else { return };
    let Some(root) = image.root() else { return };
    let Some(scene) = Scene::small() else { return };
    let at = |name: &str| scene.folder.path().join(name);
    for name in ["mounted-config", "mounted-store"] {
        std::fs::create_dir(at(name)).unwrap();
    }
    std::fs::write(at("mounted-config/dolibarr-backup.toml"), configuration(&scene)).unwrap();
    let user = USER.parse().ok();
    std::os::unix::fs::chown(at("mounted-store"), user, user).unwrap();
    // As on a real volume, the documents belong to the user that reads them.
    succeed(Command::new("chown").args(["-R", &format!("{USER}:{USER}")]).arg(&scene.documents));
    let (config, store, credentials) = (at("mounted-config"), at("mounted-store"), at("credentials"));
    let volumes = [
        (config.as_path(), "/etc/dolibarr-backup", "ro"),
        (store.as_path(), "/srv/backup", "rw"),
        (credentials.as_path(), "/run/secrets", "ro"),
        (scene.documents.as_path(), "/var/www/documents", "ro"),
    ];
    let config = "--config=/etc/dolibarr-backup/dolibarr-backup.toml";
    let run = |arguments: &[&str]| {
        let command = [&["/usr/bin/dolibarr-backup", config], arguments].concat();
        contain(root.path(), &volumes, &command)
    };
    expect_success(&run(&["plugins", "audit", "--strict"]));
    expect_success(&run(&["init", "--env", "prod"]));
    let saved = run(&["--json", "backup", "--env", "prod"]);
    let report: serde_json::Value = serde_json::from_str(&expect_success(&saved)).unwrap();
    assert!(!String::from_utf8_lossy(&saved.stderr).contains(PASSWORD));
    let dump = store.join("erp").join(crate::scene::key(&report["snapshot"]["sources"], "db"));
    assert_eq!(std::fs::metadata(&dump).unwrap().uid(), USER.parse::<u32>().unwrap());
    let unchanged: serde_json::Value =
        serde_json::from_str(&expect_success(&run(&["--json", "backup", "--env", "prod"]))).unwrap();
    assert_eq!(unchanged["snapshot"]["sources"]["db"]["outcome"], "unchanged", "{unchanged}");
    // The drill needs only the image and the store: the credentials and the documents are not mounted.
    let drilled =
        contain(root.path(), &volumes[..2], &["/usr/bin/dolibarr-backup", config, "--json", "drill", "--env", "prod"]);
    expect_success(&drilled);
    let reports = store.join("erp/prod/drills").read_dir().unwrap().count();
    assert_eq!(reports, 2, "one report as JSON, one as HTML");
    // The stock tools of this machine read what the image wrote.
    let readable = at("copied.dump");
    std::fs::copy(&dump, &readable).unwrap();
    std::fs::set_permissions(&readable, std::fs::Permissions::from_mode(0o644)).unwrap();
    scene.server.create_database("restored", &[]);
    scene.server.restore("restored", &readable);
    assert_eq!(scene.contents("restored"), scene.contents(DATABASE));
    let archive = store.join("erp").join(crate::scene::key(&report["snapshot"]["sources"], "docs"));
    succeed(Command::new("tar").arg("-tzf").arg(archive));
}

#[test]
fn the_dockerfile_makes_the_same_kind_of_image() {
    let text = std::fs::read_to_string(tests::workspace_root().join("Dockerfile")).unwrap();
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    for line in [
        "USER 10001:10001",
        "WORKDIR /etc/dolibarr-backup",
        "ENTRYPOINT [\"/usr/bin/dolibarr-backup\"]",
        "ENV HOME=/tmp",
    ] {
        assert!(lines.contains(&line), "{line}");
    }
    let secrets = lines.iter().any(|line| line.starts_with("ARG") && line.to_ascii_lowercase().contains("password"));
    assert!(!secrets);
}
