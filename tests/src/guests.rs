//! Guests that misbehave: the components of `tests/guests`, and what no message about one may hold.

use std::path::{Path, PathBuf};

/// What a guest says itself where it panics; no message of the host repeats it.
pub const OWN_WORDS: &str = "own words";

/// Longest message: a sentence, a path and what one text of a guest may fill.
const MESSAGE_BYTES_MAX: usize = 1_500;

/// The component for a role.
///
/// # Panics
/// Where it was not built.
#[must_use]
pub fn component(role: &str) -> PathBuf {
    let binary = std::env::current_exe().expect("a test has an executable");
    let target = binary.ancestors().nth(2).expect("a test lies in target/PROFILE/deps");
    let file = target.join("guests").join(format!("hostile-{role}.wasm"));
    assert!(file.is_file(), "{} is missing: run `cargo xtask plugins`", file.display());
    file
}

/// A text as a TOML string.
#[must_use]
pub fn quoted(text: &str) -> String {
    serde_json::Value::String(text.to_owned()).to_string()
}

/// The inside of a plugin's section. `rest` holds further lines.
#[must_use]
pub fn section<G: AsRef<str>>(component: &Path, grants: &[G], rest: &str) -> String {
    let grants: Vec<String> = grants.iter().map(|grant| quoted(grant.as_ref())).collect();
    format!("component = {}\ngrants = [{}]\n{rest}\n", quoted(&component.to_string_lossy()), grants.join(", "))
}

/// Checks the lines of a message: nothing that moves a cursor, nothing that a guest said itself, and no flood.
///
/// # Panics
/// Where one is otherwise.
pub fn assert_presentable(lines: &[&str]) {
    for text in lines {
        assert!(!text.chars().any(char::is_control), "{text:?}");
        assert!(!text.contains(OWN_WORDS), "{text}");
        assert!(text.len() <= MESSAGE_BYTES_MAX, "{} bytes: {text}", text.len());
    }
}
