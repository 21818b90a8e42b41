//! Misbehaving guests: the components of `tests/guests`, and what no message about a guest may contain.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A text in the panic messages of guests. No message of the host may repeat it.
pub const OWN_WORDS: &str = "own words";

/// Longest message: a sentence, a path and one text from a guest.
const MESSAGE_BYTES_MAX: usize = 1_500;

/// The misbehaving component for a role.
///
/// # Panics
/// If it was not built.
pub fn component(role: &str) -> PathBuf {
    let binary = std::env::current_exe().expect("a test has an executable");
    let target = binary.ancestors().nth(2).expect("a test is in target/PROFILE/deps");
    let file = target.join("guests").join(format!("hostile-{role}.wasm"));
    assert!(file.is_file(), "{} is missing: run `cargo xtask plugins`", file.display());
    file
}

/// A text as a TOML string.
pub fn quoted(text: &str) -> String {
    serde_json::Value::String(text.to_owned()).to_string()
}

/// The lines of a plugin's section in the configuration. `rest` is appended.
pub fn section<G: AsRef<str>>(component: &Path, grants: &[G], rest: &str) -> String {
    let grants: Vec<String> = grants.iter().map(|grant| quoted(grant.as_ref())).collect();
    format!("component = {}\ngrants = [{}]\n{rest}\n", quoted(&component.to_string_lossy()), grants.join(", "))
}

/// Checks the lines of a message: no control characters, no text from a guest's panic, and no excessive length.
///
/// # Panics
/// If a line breaks a rule.
pub fn assert_presentable(lines: &[&str]) {
    for text in lines {
        assert!(!text.chars().any(char::is_control), "{text:?}");
        assert!(!text.contains(OWN_WORDS), "{text}");
        assert!(text.len() <= MESSAGE_BYTES_MAX, "{} bytes: {text}", text.len());
    }
}

/// Every file below a folder with its bytes.
pub fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            // A temporary file may vanish between the two calls.
            found.insert(path.clone(), std::fs::read(&path).unwrap_or_default());
        }
    }
    found
}
