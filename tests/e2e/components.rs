//! Components from a registry, by digest and with credentials, and the cache that is kept between runs.

use crate::scene::complains;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use tests::binary::{Config, Outcome, Run};
use tests::registry::{Artifact, PASSWORD, Registry, USER, docker_config};

/// A documents folder, a folder as the store, and a home with the cache and the credentials.
struct Desk {
    folder: TempDir,
}

impl Desk {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["documents", "home", "docker"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        Self { folder }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs `prune --dry-run` with a retention plugin, which loads and calls the plugin but changes nothing.
    fn run(&self, component: &str, edit: impl Fn(String) -> String) -> Outcome {
        self.verb(&["--json", "prune", "--env", "prod", "--dry-run"], component, edit)
    }

    fn verb(&self, verb: &[&str], component: &str, edit: impl Fn(String) -> String) -> Outcome {
        let config = Config::directory_store(&self.at("store"))
            .documents(("prod", "docs"), &self.at("documents"))
            .retention(component, "keep = 3");
        std::fs::write(self.at("dolibarr-backup.toml"), edit(config.text())).unwrap();
        Run::new(verb.iter().copied())
            .folder(self.folder.path())
            .env("HOME", self.at("home").to_str().unwrap())
            .env("DOCKER_CONFIG", self.at("docker").to_str().unwrap())
            .finish()
    }

    fn prune(&self, component: &str) -> Outcome {
        self.run(component, |text| text)
    }

    fn text(&self, component: &str) -> Outcome {
        let outcome = self.prune(component);
        // JSON has the sentence and the hint in one object; as text they are two lines.
        let error: serde_json::Value = serde_json::from_str(outcome.stderr.lines().last().unwrap()).unwrap();
        let stderr =
            format!("error: {}\nhint: {}\n", error["error"].as_str().unwrap(), error["hint"].as_str().unwrap());
        Outcome { stderr, ..outcome }
    }
}

fn built(name: &str) -> PathBuf {
    tests::binary::program().parent().unwrap().join("plugins").join(name)
}

/// The plugin in Python. If it is not built, returns `None` and records the skip.
fn python() -> Option<PathBuf> {
    let component = built("examples/retention-python.wasm");
    if !component.is_file() {
        tests::skip("the plugin in Python is not built: cargo xtask plugins --python");
        return None;
    }
    Some(component)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = folder.read_dir().into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn a_component_of_a_registry_is_pulled_once_and_then_needs_no_registry() {
    let Some(mut registry) = Registry::start() else { return };
    let desk = Desk::new();
    let component = std::fs::read(built("retention-last.wasm")).unwrap();
    let address = registry.push("team/retention-last", &Artifact::component(&component));
    assert!(desk.prune(&address).expect_code(0).json().is_object());
    let pinned =
        |text: String| text.replace("[plugins.retention]", "[plugins]\nrequire_digest = true\n[plugins.retention]");
    let only_retention = desk.run(&address, pinned);
    assert_eq!(only_retention.code, Some(0), "the address has a digest: {}", only_retention.stderr);
    registry.stop();
    assert!(desk.prune(&address).expect_code(0).json().is_object());
    let kept = desk.at("home/.cache/dolibarr-backup/components/sha256");
    assert_eq!(files(&kept).len(), 2, "the manifest and the component");
    let other = desk.at("other-cache");
    let elsewhere = format!("[plugins]\ncache = \"{}\"\n[plugins.retention]", other.display());
    let error = desk.run(&address, |text| text.replace("[plugins.retention]", &elsewhere)).expect_code(75).stderr;
    assert!(error.contains(&registry.host()) && error.contains("hint"), "{error}");
}

#[test]
fn what_a_registry_refuses_or_does_not_have_ends_with_a_sentence() {
    let Some(registry) = Registry::start_with_password() else { return };
    let desk = Desk::new();
    let component = std::fs::read(built("retention-last.wasm")).unwrap();
    let address = registry.push("team/retention-last", &Artifact::component(&component));
    complains(&desk.text(&address), 64, "refuses access without credentials");
    let wrong = docker_config(&desk.at("docker"), &registry.host(), USER, "canary-wrong");
    complains(&desk.text(&address), 64, "refuses access with the credentials");
    assert!(!desk.prune(&address).stderr.contains("canary"));
    let right = docker_config(&desk.at("docker"), &registry.host(), USER, PASSWORD);
    assert_eq!(wrong, right);
    let (repository, _) = address.split_once('@').unwrap();
    complains(&desk.text(&format!("{repository}:latest")), 64, "a tag can be moved to other code");
    let absent = format!("{repository}@sha256:{}", "0".repeat(64));
    complains(&desk.text(&absent), 64, "does not have it");
    complains(&desk.text(&address.replace("team/", "other/")), 64, "does not have it");
    let outcome = desk.prune(&address).expect_code(0);
    assert!(!outcome.stdout.contains(PASSWORD) && !outcome.stderr.contains(PASSWORD));
    let fingerprint = std::fs::read(built("fingerprint.wasm")).unwrap();
    let fingerprint = registry.push("team/fingerprint", &Artifact::component(&fingerprint));
    complains(&desk.text(&fingerprint), 64, "instead of");
}

/// The JSON output without the time that the plan took.
fn plan(outcome: &Outcome) -> serde_json::Value {
    let mut document = outcome.json();
    assert!(document["retention"]["plan_millis"].take().is_u64(), "{document}");
    document
}

#[test]
fn what_a_large_component_compiles_to_is_kept_and_never_loaded_when_it_was_changed() {
    let Some(component) = python() else { return };
    let component = component.to_str().unwrap();
    let desk = Desk::new();
    let first = desk.prune(component).expect_code(0);
    let [compiled] = &files(&desk.at("home/.cache/dolibarr-backup/components/compiled"))[..] else {
        panic!("expected exactly one compiled component");
    };
    let mode = std::fs::metadata(compiled).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600, "{mode:o}");
    let second = desk.prune(component).expect_code(0);
    assert_eq!(plan(&second), plan(&first));
    assert!(second.stderr.is_empty(), "{}", second.stderr);
    assert!(second.elapsed < first.elapsed / 2, "{:?} after {:?}", second.elapsed, first.elapsed);

    let mut code = std::fs::read(compiled).unwrap();
    let middle = code.len() / 2;
    code[middle] ^= 0x10;
    std::fs::write(compiled, &code).unwrap();
    let third = desk.prune(component).expect_code(0);
    assert!(third.stderr.contains("cannot be used and is compiled again"), "{}", third.stderr);
    assert_eq!(plan(&third), plan(&first));
    let fourth = desk.prune(component).expect_code(0);
    assert!(fourth.stderr.is_empty() && fourth.elapsed < first.elapsed / 2, "{:?}: {}", fourth.elapsed, fourth.stderr);
}

#[test]
fn a_cache_that_cannot_be_trusted_or_made_costs_time_and_a_warning() {
    let Some(component) = python() else { return };
    let component = component.to_str().unwrap();
    let desk = Desk::new();
    let folder = desk.at("home/.cache/dolibarr-backup/components/compiled");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777)).unwrap();
    let open = desk.prune(component).expect_code(0);
    assert!(open.stderr.contains("others may write to it"), "{}", open.stderr);
    assert!(files(&folder).is_empty(), "the untrusted folder must stay empty");
    let file =
        format!("[plugins]\ncache = \"{}/below\"\n[plugins.retention]", desk.at("dolibarr-backup.toml").display());
    let none = desk.run(component, |text| text.replace("[plugins.retention]", &file)).expect_code(0);
    assert_eq!(none.stderr.matches("the component cache is not used").count(), 1, "{}", none.stderr);
}

/// A builder's signing key.
struct Signer(minisign::KeyPair);

impl Signer {
    fn new() -> Self {
        Self(minisign::KeyPair::generate_unencrypted_keypair().unwrap())
    }

    /// The public key in the form of `signed_by`.
    fn key(&self) -> String {
        self.0.pk.to_base64()
    }

    fn sign(&self, bytes: &[u8]) -> String {
        minisign::sign(Some(&self.0.pk), &self.0.sk, bytes, None, None).unwrap().to_string()
    }
}

#[test]
fn a_component_that_has_to_be_signed_is_verified_before_anything_of_it_is_parsed() {
    let desk = Desk::new();
    let (component, signature) = (desk.at("last.wasm"), desk.at("last.wasm.minisig"));
    let bytes = std::fs::read(built("retention-last.wasm")).unwrap();
    std::fs::write(&component, &bytes).unwrap();
    let (signer, other) = (Signer::new(), Signer::new());
    let file = component.to_str().unwrap();
    let signed_by = |key: String| {
        move |text: String| text.replace("[plugins.retention]", &format!("[plugins.retention]\nsigned_by = \"{key}\""))
    };
    let refused = |says: &str| {
        let error = desk.run(file, signed_by(signer.key())).expect_code(64).stderr;
        assert!(error.contains(says) && error.contains("hint"), "{says}: {error}");
    };
    refused("is not signed, but signed_by names a key");
    std::fs::write(&signature, signer.sign(&bytes)).unwrap();
    assert!(desk.run(file, signed_by(signer.key())).expect_code(0).json().is_object());
    std::fs::write(&signature, other.sign(&bytes)).unwrap();
    refused("was signed with another key");
    std::fs::write(&signature, signer.sign(&bytes)).unwrap();
    // A parser would refuse this file with another message.
    std::fs::write(&component, b"\0asm\x0d\0\x01\0\x07\xff\xff\xff\xff\x0f").unwrap();
    refused("does not match its signature");
    std::fs::write(&component, &bytes).unwrap();
    // A key for all roles also applies to the shipped plugins, which are unsigned here. A role's own key has priority.
    let of_all = |own: &str| {
        let own = format!("[plugins]\nsigned_by = \"{}\"\n[plugins.retention]{own}", other.key());
        desk.run(file, move |text| text.replace("[plugins.retention]", &own))
    };
    let error = of_all("").expect_code(64).stderr;
    assert!(error.contains("was signed with another key"), "{error}");
    assert!(of_all(&format!("\nsigned_by = \"{}\"", signer.key())).expect_code(0).json().is_object());
    // Inspecting a component runs it too.
    let all = format!("[plugins]\nsigned_by = \"{}\"\n[plugins.retention]", signer.key());
    let unsigned = desk.at("unsigned.wasm");
    std::fs::write(&unsigned, &bytes).unwrap();
    let unsigned = unsigned.to_str().unwrap();
    for verb in [
        &["plugins", "simulate", "--years", "1", "--component", unsigned][..],
        &["plugins", "diff", file, unsigned, "--env", "prod"],
    ] {
        let error = desk.verb(verb, file, |text| text.replace("[plugins.retention]", &all)).expect_code(64).stderr;
        assert!(error.contains("is not signed, but signed_by names a key"), "{verb:?}: {error}");
    }
}

#[test]
fn a_signature_in_a_registry_is_a_layer_beside_the_component() {
    let Some(mut registry) = Registry::start() else { return };
    let desk = Desk::new();
    let (signer, bytes) = (Signer::new(), std::fs::read(built("retention-last.wasm")).unwrap());
    let push = |repository: &str, signature: Option<String>| {
        let mut artifact = Artifact::component(&bytes);
        artifact.layers.extend(signature.map(|signature| ("application/x-minisig", signature.into_bytes())));
        registry.push(repository, &artifact)
    };
    let (signed, unsigned) = (push("team/signed", Some(signer.sign(&bytes))), push("team/unsigned", None));
    let changed = push("team/changed", Some(signer.sign(b"something else")));
    let key = format!("[plugins.retention]\nsigned_by = \"{}\"", signer.key());
    let run = |address: &str| desk.run(address, |text| text.replace("[plugins.retention]", &key));
    assert!(run(&signed).expect_code(0).json().is_object());
    for (address, says) in [(&unsigned, "is not signed"), (&changed, "does not match its signature")] {
        for _ in ["pulled", "cached"] {
            let error = run(address).expect_code(64).stderr;
            assert!(error.contains(says), "{error}");
        }
    }
    registry.stop();
    assert!(run(&signed).expect_code(0).json().is_object(), "the component and its signature must be cached");
}
