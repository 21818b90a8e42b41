use super::*;
use ::tests::registry::{Artifact, PASSWORD, Registry, USER, docker_config};
use base::error::Class;
use std::path::PathBuf;

const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0 a component, as far as a registry can tell";

fn parse(address: &str) -> Result<Address> {
    Address::parse(address.strip_prefix(SCHEME).unwrap())
}

fn cache(folder: &tempfile::TempDir) -> Cache {
    Cache::new(folder.path().join("cache"))
}

/// Fetches as a command does, on a runtime.
fn fetched(address: &Address, signed: bool, cache: Option<&Cache>, docker: Option<&Path>) -> Result<FetchedComponent> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(fetch(address, signed, cache, docker))
}

/// A component's bytes, without asking for a signature.
fn bytes(address: &Address, cache: Option<&Cache>, docker: Option<&Path>) -> Result<Vec<u8>> {
    fetched(address, false, cache, docker).map(|fetched| fetched.component)
}

fn digest_of(address: &str) -> &str {
    address.rsplit(':').next().unwrap()
}

#[test]
fn an_address_has_a_registry_a_repository_and_a_digest() {
    let digest = "a".repeat(64);
    for (address, loopback) in [
        (format!("oci://registry.example.org/team/retention@sha256:{digest}"), false),
        (format!("oci://registry.example.org/team/retention:1.2@sha256:{digest}"), false),
        (format!("oci://localhost:5000/retention@sha256:{digest}"), true),
        (format!("oci://127.0.0.9:5000/retention@sha256:{digest}"), true),
        (format!("oci://127.0.0.1.example.org/retention@sha256:{digest}"), false),
        (format!("oci://localhost.example.org:5000/retention@sha256:{digest}"), false),
    ] {
        let parsed = parse(&address).unwrap();
        assert_eq!((parsed.is_loopback(), parsed.digest), (loopback, digest.clone()), "{address}");
    }
}

#[test]
fn an_address_without_a_sha256_digest_is_refused_with_a_hint() {
    let digest = "a".repeat(64);
    for (address, says) in [
        ("oci://registry.example.org/retention:latest".to_owned(), "has no digest, but a tag can be moved"),
        ("oci://registry.example.org/retention".into(), "has no digest"),
        (format!("oci://team/retention@sha256:{digest}"), "has no registry"),
        (format!("oci://retention@sha256:{digest}"), "has no registry"),
        (format!("oci://registry.example.org/retention@sha512:{digest}{digest}"), "is not sha256"),
        ("oci://registry.example.org/retention@sha256:abc".into(), "is not a valid address"),
        ("oci://registry.example.org/Retention@sha256:abc".into(), "is not a valid address"),
        ("oci://".into(), "is not a valid address"),
        ("oci://\u{1b}[31m".into(), "is not a valid address"),
    ] {
        let error = parse(&address).unwrap_err();
        assert_eq!(error.class(), Class::Config, "{address}");
        assert!(error.message().contains(says), "{address}: {error}");
        assert!(!error.message().contains('\u{1b}') && error.advice().unwrap().contains("@sha256:"), "{error:?}");
    }
}

#[test]
fn a_component_is_pulled_once_and_needs_no_registry_after_that() {
    let Some(mut registry) = Registry::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    for media_type in LAYERS {
        let address = parse(&registry.push("team/retention", &Artifact::of(media_type, COMPONENT))).unwrap();
        assert_eq!(bytes(&address, Some(&cache(&folder)), None).unwrap(), COMPONENT, "{media_type}");
    }
    let address = parse(&registry.push("team/retention", &Artifact::component(COMPONENT))).unwrap();
    registry.stop();
    assert_eq!(bytes(&address, Some(&cache(&folder)), None).unwrap(), COMPONENT);
    let error = bytes(&address, None, None).unwrap_err();
    assert_eq!(error.class(), Class::Unavailable, "{error}");
    assert!(error.message().contains(registry.host().as_str()), "{error}");
    assert!(error.advice().unwrap().contains("cached"), "{error:?}");
}

#[test]
fn a_damaged_cache_is_detected_and_repaired_from_the_registry() {
    let Some(mut registry) = Registry::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let text = registry.push("retention", &Artifact::component(COMPONENT));
    let address = parse(&text).unwrap();
    let fetch = || bytes(&address, Some(&cache(&folder)), None);
    let layer = hex::encode(Sha256::digest(COMPONENT));
    for digest in [digest_of(&text), &layer] {
        fetch().unwrap();
        let file = folder.path().join("cache/sha256").join(digest);
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[9] ^= 1;
        std::fs::write(&file, bytes).unwrap();
        assert_eq!(fetch().unwrap(), COMPONENT, "{digest}");
    }
    let file = folder.path().join("cache/sha256").join(&layer);
    std::fs::write(file, b"evil").unwrap();
    registry.stop();
    assert_eq!(fetch().unwrap_err().class(), Class::Unavailable, "the replaced file is never used");
}

#[test]
fn content_with_another_digest_is_refused() {
    let Some(registry) = Registry::start() else { return };
    let layer = hex::encode(Sha256::digest(COMPONENT));
    let text = registry.push("retention", &Artifact::component(COMPONENT));
    let address = parse(&text).unwrap();
    let file = registry.blob(&layer);
    let mut same_length = COMPONENT.to_vec();
    same_length[20] ^= 1;
    std::fs::write(&file, same_length).unwrap();
    let error = bytes(&address, None, None).unwrap_err();
    assert!(error.class() == Class::Config && error.message().contains("a component with another digest"), "{error}");
    std::fs::write(&file, COMPONENT).unwrap();
    bytes(&address, None, None).unwrap();
    let manifest = registry.blob(digest_of(&text));
    let other = std::fs::read_to_string(&manifest).unwrap().replace("application/wasm", "application/wasn");
    std::fs::write(&manifest, other).unwrap();
    let error = bytes(&address, None, None).unwrap_err();
    assert!(error.class() == Class::Config && error.message().contains("a manifest with another digest"), "{error}");
}

#[test]
fn an_artifact_that_is_not_a_component_is_refused_with_the_reason() {
    let Some(registry) = Registry::start() else { return };
    let two = Artifact {
        layers: vec![("application/wasm", b"one".to_vec()), ("application/wasm", b"two".to_vec())],
        ..Artifact::component(COMPONENT)
    };
    let table = [
        (two, "has 2 layers"),
        (Artifact { layers: Vec::new(), ..Artifact::component(COMPONENT) }, "has 0 layers"),
        (Artifact::of("application/vnd.oci.image.layer.v1.tar+gzip", COMPONENT), "tar+gzip, which is not a component"),
    ];
    for (artifact, says) in table {
        let address = parse(&registry.push("other", &artifact)).unwrap();
        let error = bytes(&address, None, None).unwrap_err();
        assert!(error.class() == Class::Config && error.message().contains(says), "{error}");
        assert!(error.advice().unwrap().contains("application/wasm"), "{error:?}");
    }
}

/// A component with signatures as the first layers.
fn signed(signatures: &[&[u8]]) -> Artifact<'static> {
    let mut artifact = Artifact::component(COMPONENT);
    let layers = signatures.iter().map(|signature| (signature::MEDIA_TYPE, signature.to_vec()));
    artifact.layers.splice(0..0, layers);
    artifact
}

#[test]
fn a_signature_is_another_layer_and_is_pulled_and_cached_only_on_request() {
    let Some(mut registry) = Registry::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let text = registry.push("retention", &signed(&[b"four lines"]));
    let address = parse(&text).unwrap();
    let kept = || std::fs::read_dir(folder.path().join("cache/sha256")).unwrap().count();
    let fetch = |signed| fetched(&address, signed, Some(&cache(&folder)), None);
    let with = |signature: Option<&[u8]>| FetchedComponent {
        component: COMPONENT.to_vec(),
        signature: signature.map(<[u8]>::to_vec),
    };
    assert_eq!(fetch(false).unwrap(), with(None));
    assert_eq!(kept(), 2, "manifest and component");
    assert_eq!(fetch(true).unwrap(), with(Some(b"four lines")), "it is pulled when requested later");
    assert_eq!(kept(), 3);
    let unsigned = parse(&registry.push("unsigned", &Artifact::component(COMPONENT))).unwrap();
    assert_eq!(fetched(&unsigned, true, None, None).unwrap(), with(None));
    registry.stop();
    assert_eq!(fetch(true).unwrap(), with(Some(b"four lines")));
}

#[test]
fn a_changed_too_long_or_second_signature_is_refused() {
    let Some(registry) = Registry::start() else { return };
    let long = vec![b'x'; usize::try_from(signature::BYTES_MAX).unwrap() + 1];
    for (artifact, says) in [
        (signed(&[b"one", b"two"]), "has 2 signatures"),
        (signed(&[&long]), "the signature oci://"),
        (Artifact { layers: signed(&[b"one"]).layers[..1].to_vec(), ..signed(&[]) }, "has 0 layers"),
    ] {
        let address = parse(&registry.push("other", &artifact)).unwrap();
        let error = fetched(&address, true, None, None).unwrap_err();
        assert!(error.class() == Class::Config && error.message().contains(says), "{error}");
    }
    let address = parse(&registry.push("changed", &signed(&[b"four lines"]))).unwrap();
    std::fs::write(registry.blob(&hex::encode(Sha256::digest(b"four lines"))), b"four linez").unwrap();
    let error = fetched(&address, true, None, None).unwrap_err();
    assert!(error.message().contains("a signature with another digest"), "{error}");
}

#[test]
fn a_missing_component_is_distinguished_from_an_unreachable_registry() {
    let Some(registry) = Registry::start() else { return };
    let text = registry.push("retention", &Artifact::component(COMPONENT));
    let table = [
        (text.replace(digest_of(&text), &"0".repeat(64)), Class::Config, "does not have it"),
        (text.replace("/retention", "/absent"), Class::Config, "does not have it"),
        (text.replace(&registry.host(), "127.0.0.1:1"), Class::Unavailable, "127.0.0.1:1 cannot be used"),
        (text.replace(&registry.host(), "absent.invalid"), Class::Unavailable, "absent.invalid cannot be used"),
    ];
    for (address, class, says) in table {
        let error = bytes(&parse(&address).unwrap(), None, None).unwrap_err();
        assert!(error.class() == class && error.message().contains(says), "{error}");
        assert!(error.advice().is_some());
    }
}

#[test]
fn a_component_beyond_the_limit_is_refused_before_and_during_the_download() {
    let Some(registry) = Registry::start() else { return };
    let long = vec![0; usize::try_from(COMPONENT_BYTES_MAX).unwrap() + 1];
    let address = parse(&registry.push("long", &Artifact::component(&long))).unwrap();
    let declared = parse(&registry.push("short", &Artifact::component(COMPONENT))).unwrap();
    std::fs::write(registry.blob(&hex::encode(Sha256::digest(COMPONENT))), &long).unwrap();
    for address in [address, declared] {
        let error = bytes(&address, None, None).unwrap_err();
        assert!(error.class() == Class::Config && error.message().contains("is longer than"), "{error}");
    }
}

#[test]
fn credentials_come_from_docker_and_wrong_ones_are_reported_without_showing_them() {
    let Some(registry) = Registry::start_with_password() else { return };
    let folder = tempfile::tempdir().unwrap();
    let address = parse(&registry.push("private/retention", &Artifact::component(COMPONENT))).unwrap();
    let right = docker_config(folder.path(), &registry.host(), USER, PASSWORD);
    assert_eq!(bytes(&address, None, Some(&right)).unwrap(), COMPONENT);
    let wrong = docker_config(folder.path(), &registry.host(), USER, "canary-wrong");
    let elsewhere = folder.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let other = docker_config(&elsewhere, "registry.example.org", USER, PASSWORD);
    let table: [(Option<PathBuf>, &str); 4] = [
        (Some(wrong), "with the credentials of Docker's configuration"),
        (Some(other), "without credentials"),
        (Some(folder.path().join("absent.json")), "without credentials"),
        (None, "without credentials"),
    ];
    for (docker, says) in table {
        let error = bytes(&address, None, docker.as_deref()).unwrap_err();
        assert!(error.class() == Class::Config && error.message().contains(says), "{error}");
        assert!(error.advice().unwrap().contains("docker login"), "{error:?}");
        assert!(!format!("{error:?}").contains("canary"), "{error:?}");
    }
}

#[test]
fn an_unusable_docker_configuration_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.json");
    let address = parse(&format!("oci://registry.example.org/x@sha256:{}", "a".repeat(64))).unwrap();
    let table = [
        ("{", "cannot be parsed"),
        ("{\"auths\": {\"registry.example.org\": {\"auth\": \"canary\"}}}", "cannot be parsed"),
        ("{\"auths\": {\"registry.example.org\": {\"identitytoken\": \"canary\"}}}", "identity token"),
        ("{\"credHelpers\": {\"registry.example.org\": \"absent-helper\"}}", "cannot be started"),
    ];
    for (text, says) in table {
        std::fs::write(&file, text).unwrap();
        let error = credentials(&file, &address).unwrap_err();
        assert!(error.class() == Class::Config && error.message().contains(says), "{error}");
        assert!(!format!("{error:?}").contains("canary"), "{error:?}");
    }
    std::fs::write(&file, "{}").unwrap();
    assert_eq!(credentials(&file, &address).unwrap(), RegistryAuth::Anonymous);
}
