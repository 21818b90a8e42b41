//! The image of the process that holds a pod's namespaces: a single static program that sleeps.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::path::Path;

/// Longer than any test.
const SECONDS: &str = "1000000";

/// Writes the image as an archive that containerd imports.
pub(super) fn write(archive: &Path, name: &str, busybox: &Path) -> Result<()> {
    let program = fs::read(busybox).with_context(|| format!("cannot read {}", busybox.display()))?;
    let mut layer = tar::Builder::new(Vec::new());
    append(&mut layer, "sleep", 0o755, &program)?;
    let layer = layer.into_inner()?;
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": { "Entrypoint": ["/sleep", SECONDS] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", hex::encode(Sha256::digest(&layer)))] },
    });
    let manifest: Value = json!([{ "Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"] }]);
    let mut image = tar::Builder::new(File::create(archive)?);
    append(&mut image, "layer.tar", 0o644, &layer)?;
    append(&mut image, "config.json", 0o644, config.to_string().as_bytes())?;
    append(&mut image, "manifest.json", 0o644, manifest.to_string().as_bytes())?;
    Ok(image.finish()?)
}

fn append(to: &mut tar::Builder<impl std::io::Write>, name: &str, mode: u32, content: &[u8]) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len().try_into()?);
    header.set_mode(mode);
    header.set_entry_type(tar::EntryType::Regular);
    Ok(to.append_data(&mut header, name, content)?)
}
