//! An image on disk: an OCI layout, as a folder's content in one archive, which Docker can load too.
//!
//! The JSON has sorted keys and no time but the one that is passed in.

use crate::tree::{Tree, gzip};
use anyhow::Result;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// What runs in the image, and as whom.
pub struct Runs<'a> {
    /// Name and tag, as `dolibarr-backup:0.1.0`.
    pub reference: &'a str,
    /// Seconds since 1970 that stand in for every time.
    pub epoch: u64,
    /// The same as RFC 3339 has it.
    pub created: &'a str,
    /// As Go and OCI name it, such as `amd64`.
    pub architecture: &'a str,
    /// User and group, as `10001:10001`.
    pub user: &'a str,
    /// Environment, a `NAME=VALUE` each.
    pub environment: &'a [&'a str],
    /// The program and its first arguments.
    pub entrypoint: &'a [&'a str],
    /// Where it starts.
    pub folder: &'a str,
    /// Labels by name.
    pub labels: Value,
}

/// One layer: what it is, and its files.
pub struct Layer<'a> {
    /// Where its files come from, for whoever looks at the image's history.
    pub from: &'a str,
    pub tree: Tree,
}

/// The image as one archive.
///
/// # Errors
/// When a path cannot be written.
pub fn archive(layers: &[Layer], runs: &Runs) -> Result<Vec<u8>> {
    let mut files = Tree::default();
    let (mut diff_ids, mut descriptors, mut history) = (Vec::new(), Vec::new(), Vec::new());
    for layer in layers {
        let plain = layer.tree.tar(runs.epoch)?;
        diff_ids.push(digest(&plain));
        let media_type = "application/vnd.oci.image.layer.v1.tar+gzip";
        descriptors.push(blob(&mut files, media_type, gzip(&plain)?));
        history.push(json!({"created": runs.created, "created_by": layer.from}));
    }
    let config = json!({
        "created": runs.created,
        "architecture": runs.architecture,
        "os": "linux",
        "config": {
            "User": runs.user,
            "Env": runs.environment,
            "Entrypoint": runs.entrypoint,
            "WorkingDir": runs.folder,
            "Labels": runs.labels,
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
        "annotations": runs.labels,
    });
    let mut named = blob(&mut files, "application/vnd.oci.image.manifest.v1+json", bytes(&manifest));
    let tag = runs.reference.rsplit(':').next().unwrap_or_default();
    named["platform"] = json!({"architecture": runs.architecture, "os": "linux"});
    // What containerd and what everybody else names an image by.
    named["annotations"] =
        json!({"io.containerd.image.name": qualified(runs.reference), "org.opencontainers.image.ref.name": tag});
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [named],
    });
    files.file("oci-layout", 0o644, bytes(&json!({"imageLayoutVersion": "1.0.0"})));
    files.file("index.json", 0o644, bytes(&index));
    // An older Docker reads this instead of the index.
    let paths: Vec<_> = descriptors.iter().map(path_of).collect();
    let docker = json!([{"Config": path_of(&config), "RepoTags": [runs.reference], "Layers": paths}]);
    files.file("manifest.json", 0o644, bytes(&docker));
    files.tar(runs.epoch)
}

/// A reference with what is left out in a short one. Kubernetes asks containerd for no other form, and an image that was
/// imported under a short name is never found.
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
    fn a_name_is_the_one_that_kubernetes_asks_for() {
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
