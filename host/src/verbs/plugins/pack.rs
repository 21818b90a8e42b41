//! `plugins pack`: turns the core module that a compiler writes into a component. The module already describes its
//! world.

use crate::report::{FORMAT_VERSION, Report};
use base::error::{Error, Result};
use plugin::component;
use serde_json::json;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Arguments of `plugins pack`.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// The core module, as written by `cargo build --target wasm32-unknown-unknown`
    #[arg(value_name = "MODULE")]
    module: PathBuf,
    /// The component to write; an existing file is replaced
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> Result<Report> {
    let Arguments { module, out } = arguments;
    let (_, bytes) = component::read_file("", module.clone())?;
    let component = wit_component::ComponentEncoder::default().module(&bytes).and_then(|mut encoder| encoder.encode());
    let component = component.map_err(|error| {
        let why = base::text::printable(&format!("{error:#}").replace('\n', " "));
        Error::config(format!("{} cannot become a component: {why}", module.display())).hint(
            "build it for wasm32-unknown-unknown with wit-bindgen; the host offers only the imports in the folder wit",
        )
    })?;
    write(out, &component)?;
    let found = component::inspect(out, None)?;
    let text = format!("{} has sha256 {}, {} bytes\n", out.display(), found.digest, found.bytes);
    let document = json!({
        "format_version": FORMAT_VERSION,
        "file": out.to_string_lossy(),
        "sha256": found.digest,
        "bytes": found.bytes,
    });
    Ok(Report { document, text, failure: super::inspect::unfit(&found) })
}

/// Writes the file completely or not at all.
fn write(out: &Path, component: &[u8]) -> Result<()> {
    let cannot = |why: String| {
        Error::config(format!("{} cannot be written: {why}", out.display())).hint("choose another path with --out")
    };
    let folder = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(folder)
        .map_err(|e| cannot(e.kind().to_string()))?;
    file.write_all(component).map_err(|e| cannot(e.kind().to_string()))?;
    file.persist(out).map_err(|e| cannot(e.error.kind().to_string()))?;
    Ok(())
}
