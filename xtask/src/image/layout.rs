//! An image on disk: an OCI layout in a single archive, which Docker can load too.
//!
//! The JSON has sorted keys, and the only time in it is the given one.

use crate::tree::{Tree, gzip};
use anyhow::Result;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The image's configuration.
pub struct ImageConfig<'a> {
    /// Name and tag, such as `dolibarr-backup:0.1.0`.
    pub reference: &'a str,
    /// Seconds since 1970, used for every time in the image.
    pub epoch: u64,
    /// The same time in RFC 3339 format.
    pub created: &'a str,
    /// The OCI name of the architecture, such as `amd64`.
    pub architecture: &'a str,
    /// User and group, such as `10001:10001`.
    pub user: &'a str,
    /// Environment variables, each as `NAME=VALUE`.
    pub environment: &'a [&'a str],
    /// The program and its first arguments.
    pub entrypoint: &'a [&'a str],
    /// Working folder.
    pub folder: &'a str,
    /// Labels by name.
    pub labels: Value,
}

/// One layer of the image.
pub struct Layer<'a> {
    /// Where its files come from, for the image's history.
    pub from: &'a str,
    pub tree: Tree,
}

/// The image as one archive.
pub fn archive(layers: &[Layer], image: &ImageConfig) -> Result<Vec<u8>> {
    let mut files = Tree::default();
    let (mut diff_ids, mut descriptors, mut history) = (Vec::new(), Vec::new(), Vec::new());
    for layer in layers {
        let plain = layer.tree.tar(image.epoch)?;
        diff_ids.push(digest(&plain));
        let media_type = "application/vnd.oci.image.layer.v1.tar+gzip";
        descriptors.push(blob(&mut files, media_type, gzip(&plain)?));
        history.push(json!({"created": image.created, "created_by": layer.from}));
    }
    let config = json!({
        "created": image.created,
        "architecture": image.architecture,
        "os": "linux",
        "config": {
            "User": image.user,
            "Env": image.environment,
            "Entrypoint": image.entrypoint,
            "WorkingDir": image.folder,
            "Labels": image.labels,
        },
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": history,
    });
    let config = blob(&mut files, "application/vnd.oci.image.config.v1+json", bytes(&config));
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config,
        "layers": descriptors,
        "annotations": image.labels,
    });
    let mut descriptor = blob(&mut files, "application/vnd.oci.image.manifest.v1+json", bytes(&manifest));
    let tag = image.reference.rsplit(':').next().unwrap_or_default();
    descriptor["platform"] = json!({"architecture": image.architecture, "os": "linux"});
    // containerd reads the first annotation, other tools the second.
    descriptor["annotations"] =
        json!({"io.containerd.image.name": qualified(image.reference), "org.opencontainers.image.ref.name": tag});
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [descriptor],
    });
    files.file("oci-layout", 0o644, bytes(&json!({"imageLayoutVersion": "1.0.0"})));
    files.file("index.json", 0o644, bytes(&index));
    // Older Docker versions read this instead of the index.
    let paths: Vec<_> = descriptors.iter().map(path_of).collect();
    let docker = json!([{"Config": path_of(&config), "RepoTags": [image.reference], "Layers": paths}]);
    files.file("manifest.json", 0o644, bytes(&docker));
    files.tar(image.epoch)
}

/// The full form of a short reference. Kubernetes asks containerd only for this form and never finds an image that was
/// imported under a short name.
fn qualified(reference: &str) -> String {
    match reference.split_once('/') {
        None => format!("docker.io/library/{reference}"),
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => reference.to_owned(),
        Some(_) => format!("docker.io/{reference}"),
    }
}

/// Adds a blob and returns its descriptor.
fn blob(files: &mut Tree, media_type: &str, content: Vec<u8>) -> Value {
    let descriptor = json!({"mediaType": media_type, "digest": digest(&content), "size": content.len()});
    files.file(&path_of(&descriptor), 0o644, content);
    descriptor
}

fn path_of(descriptor: &Value) -> String {
    format!("blobs/{}", descriptor["digest"].as_str().unwrap_or_default().replace(':', "/"))
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn bytes(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_expanded_as_kubernetes_does_it() {
        for (reference, want) in [
            ("dolibarr-backup:0.1.0", "docker.io/library/dolibarr-backup:0.1.0"),
            ("team/backup:1", "docker.io/team/backup:1"),
            ("localhost/backup:1", "localhost/backup:1"),
            ("registry.example.org/team/backup:1", "registry.example.org/team/backup:1"),
            ("registry:5000/backup:1", "registry:5000/backup:1"),
        ] {
            assert_eq!(qualified(reference), want);
        }
    }
}
