//! `plugins inspect`: describes a component without a configuration and without running it.

use crate::report::{FORMAT_VERSION, Report};
use base::error::{Error, Result};
use base::text::printable;
use plugin::component::{self, Import, Inspected};
use plugin::signature::{self, Key};
use serde_json::json;
use std::fmt::Write as _;
use std::path::Path;

pub(super) fn run(file: &Path, signed_by: Option<&Key>) -> Result<Report> {
    let found = component::inspect(file, signed_by)?;
    let worlds: Vec<&str> = found.roles.iter().map(|role| role.name()).collect();
    let world = worlds.first().copied();
    let mut text = format!("{}\n  sha256 {}, {} bytes\n", file.display(), found.digest, found.bytes);
    match world {
        Some(_) => {
            let _ = writeln!(text, "  a plugin of the world {} {}", worlds.join(" and of "), component::WORLD_VERSION);
        }
        None => text.push_str("  not a plugin for this version of the host\n"),
    }
    match signed_by {
        Some(key) => {
            let _ = writeln!(text, "  signed by {key}");
        }
        None if signature::beside(file).exists() => {
            text.push_str("  the file has a signature, which --signed-by KEY verifies\n");
        }
        None => {}
    }
    for export in &found.exports {
        let _ = writeln!(text, "  exports {}", printable(export));
    }
    for import in &found.imports {
        let _ = writeln!(text, "  imports {}: {}", printable(&import.interface), functions(import));
        let needs = match import.needs {
            Some(grant) => format!("needs the grant \"{grant}\""),
            None if found.is_free(import) => "needs no grant".to_owned(),
            None => "is not offered by this host".to_owned(),
        };
        let _ = writeln!(text, "          {needs}");
    }
    if found.imports.is_empty() {
        text.push_str("  imports nothing: it can only compute\n");
    }
    for line in &found.says {
        let _ = writeln!(text, "  claims {line}");
    }
    let grants: Vec<String> =
        found.imports.iter().filter_map(|import| import.needs).map(|grant| format!("\"{grant}\"")).collect();
    let failure = unfit(&found);
    for world in worlds.iter().filter(|_| failure.is_none()) {
        let _ = writeln!(
            text,
            "to use it, review this list and add to the configuration:\n\n[plugins.{world}]\ncomponent = \"{}\"\nsha256 = \"{}\"\ngrants = [{}]",
            std::path::absolute(file).unwrap_or_else(|_| file.to_owned()).display(),
            found.digest,
            grants.join(", ")
        );
        if let Some(key) = signed_by {
            let _ = writeln!(text, "signed_by = \"{key}\"");
        }
    }
    let imports: Vec<_> = found
        .imports
        .iter()
        .map(|import| {
            json!({
                "interface": printable(&import.interface),
                "functions": import.functions.iter().map(|function| printable(function)).collect::<Vec<_>>(),
                "needs": import.needs.map(|grant| grant.to_string()),
                "offered": import.needs.is_some() || found.is_free(import),
            })
        })
        .collect();
    let document = json!({
        "format_version": FORMAT_VERSION,
        "file": file.to_string_lossy(),
        "sha256": found.digest,
        "bytes": found.bytes,
        "signed_by": signed_by.map(ToString::to_string),
        "world": world,
        "worlds": worlds,
        "exports": found.exports.iter().map(|export| printable(export)).collect::<Vec<_>>(),
        "imports": imports,
        "says": found.says,
    });
    Ok(Report { document, text, failure })
}

/// Why the component cannot run on this host with any grants.
pub(super) fn unfit(found: &Inspected) -> Option<Error> {
    let shown = |names: &[String]| names.iter().map(|name| printable(name)).collect::<Vec<_>>().join(", ");
    if found.roles.is_empty() {
        let why = if found.exports.is_empty() {
            "it exports nothing".to_owned()
        } else {
            format!("it exports {}, none of which this host runs", shown(&found.exports))
        };
        return Some(Error::config(why).hint("build it for a world of this host's wit folder"));
    }
    let offered = |import: &&Import| import.needs.is_some() || found.is_free(import);
    let foreign: Vec<String> =
        found.imports.iter().filter(|import| !offered(import)).map(|import| import.interface.clone()).collect();
    (!foreign.is_empty()).then(|| {
        Error::config(format!("it imports {}, which this host does not offer", shown(&foreign)))
            .hint("build it for a world of this host's wit folder")
    })
}

fn functions(import: &Import) -> String {
    match import.functions.as_slice() {
        [] => "types only".to_owned(),
        functions => functions.iter().map(|function| printable(function)).collect::<Vec<_>>().join(", "),
    }
}
