//! Makes the crate of a new plugin: a copy of `plugins/retention-last` under another name, which builds, passes its own
//! tests and is picked up by the suite of all retention plugins. It never overwrites anything.

use crate::machine;
use crate::run::{failure, say};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// The plugin that new ones are copied from: the smallest that is whole, and held to its tests like every other.
const TEMPLATE: &str = "retention-last";

/// The line of it that says what it does, and for whom.
const TEMPLATE_SAYS: &str =
    "//! Keeps the last N complete snapshots. The smallest useful retention plugin, and the one to copy.\n";

/// What the copy says instead.
const NEW_SAYS: &str = "//! Keeps the last N complete snapshots, until `policy.rs` says otherwise.\n";

/// Longest name: as long as Cargo's registry takes, and enough for a file name.
const NAME_BYTES_MAX: usize = 64;

/// Words that name no crate: Rust's keywords that fit the pattern of a name, and what Cargo refuses or warns of.
const RESERVED: [&str; 62] = [
    "abstract",
    "alloc",
    "as",
    "async",
    "await",
    "become",
    "bin",
    "box",
    "break",
    "build",
    "const",
    "continue",
    "core",
    "crate",
    "deps",
    "do",
    "dyn",
    "else",
    "enum",
    "examples",
    "extern",
    "false",
    "final",
    "fn",
    "for",
    "gen",
    "host",
    "if",
    "impl",
    "in",
    "incremental",
    "let",
    "loop",
    "macro",
    "match",
    "mod",
    "move",
    "mut",
    "override",
    "plugins",
    "priv",
    "proc-macro",
    "pub",
    "ref",
    "return",
    "self",
    "static",
    "std",
    "struct",
    "super",
    "test",
    "tests",
    "trait",
    "true",
    "try",
    "type",
    "typeof",
    "unsafe",
    "use",
    "virtual",
    "where",
    "while",
];

/// What `cargo xtask new-plugin` takes.
#[derive(clap::Args)]
pub struct Arguments {
    /// What it decides
    world: World,
    /// Name of the crate, the folder and the component: lower-case letters, digits and hyphens
    name: String,
}

/// The worlds that a new plugin can be made for.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum World {
    /// What is kept
    Retention,
}

/// Makes the plugin in this checkout.
///
/// # Errors
/// When the name cannot be one, is taken, or the file system refuses.
pub fn run(arguments: &Arguments) -> Result<()> {
    let World::Retention = arguments.world;
    let folder = make(&machine::root(), &arguments.name)?;
    let name = &arguments.name;
    say(format_args!("{} is a plugin that keeps the last N snapshots; make it yours:", folder.display()));
    println!("  plugins/{name}/src/policy.rs             what stays, in plain Rust, with its tests");
    println!("  plugins/{name}/src/settings.rs           its settings");
    println!("  plugins/{name}/settings.schema.json      what they are called; a test holds the two together");
    println!("  cargo test -p {name}");
    println!("  cargo xtask plugins                      build {name}.wasm beside the binary");
    println!("  cargo nextest run -p dolibarr-backup plugin::suite");
    println!("docs/writing-a-plugin.md goes on from here");
    Ok(())
}

/// Makes the plugin `name` in the checkout `root`, and returns its folder. Half of one is never left behind.
///
/// # Errors
/// As [`run`].
pub fn make(root: &Path, name: &str) -> Result<PathBuf> {
    check(name)?;
    let folder = root.join("plugins").join(name);
    let taken = ["plugins", "plugins/examples", "tests/guests", ""].map(|place| root.join(place).join(name));
    if let Some(taken) = taken.iter().find(|path| path.symlink_metadata().is_ok()) {
        return Err(failure(
            format_args!("{} is already there", taken.display()),
            "choose another name, or remove it yourself",
        ));
    }
    let partial = tempfile::Builder::new().prefix(".new-plugin-").tempdir_in(root).context("cannot make a folder")?;
    copy(&root.join("plugins").join(TEMPLATE), partial.path(), name)?;
    // A rename onto a folder that came meanwhile fails unless that is empty, and then nothing is lost.
    fs::rename(partial.path(), &folder).with_context(|| format!("cannot make {}", folder.display()))?;
    set_mode(&folder)?;
    Ok(folder)
}

fn check(name: &str) -> Result<()> {
    let bad = |why: &str| {
        let shown: String = name.chars().map(|c| if c.is_control() { '?' } else { c }).take(NAME_BYTES_MAX).collect();
        failure(format!("`{shown}` cannot name a plugin: {why}"), "take something like retention-weekly")
    };
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if !name.bytes().all(plain) || !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        return Err(bad("it takes lower-case letters, digits and hyphens, and begins with a letter"));
    }
    if name.ends_with('-') || name.contains("--") {
        return Err(bad("hyphens stand between words, one at a time"));
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(bad(&format!("it is longer than {NAME_BYTES_MAX} characters")));
    }
    if RESERVED.contains(&name) {
        return Err(bad("Rust or Cargo use the word"));
    }
    Ok(())
}

/// Copies text files; every mention of the template's name becomes one of the new plugin's.
fn copy(from: &Path, to: &Path, name: &str) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            fs::create_dir(&target)?;
            copy(&source, &target, name)?;
            continue;
        }
        let text = fs::read_to_string(&source).with_context(|| format!("cannot read {}", source.display()))?;
        let text = text.replace(TEMPLATE_SAYS, NEW_SAYS).replace(TEMPLATE, name);
        fs::write(&target, text).with_context(|| format!("cannot write {}", target.display()))?;
    }
    Ok(())
}

/// A temporary folder is its maker's alone; a crate is everybody's who may read the checkout.
fn set_mode(folder: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).context("cannot open the folder to others")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    /// A checkout in a folder of its own, without what was built and without its history.
    fn checkout() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        let mut tar = Command::new("tar");
        tar.args(["-c", "--exclude=./target*", "--exclude=./.git", "-C"]).arg(machine::root()).arg(".");
        let mut packing = tar.stdout(Stdio::piped()).spawn().expect("tar starts");
        let archive = packing.stdout.take().expect("its output");
        let unpacked = Command::new("tar").args(["-x", "-C"]).arg(folder.path()).stdin(archive).status();
        assert!(unpacked.expect("tar starts").success() && packing.wait().expect("tar ends").success());
        folder
    }

    #[test]
    fn a_new_plugin_builds_and_passes_its_tests() {
        let name = "retention-made-by-a-test";
        let checkout = checkout();
        let folder = make(checkout.path(), name).expect("a new plugin");
        let lib = fs::read_to_string(folder.join("src/lib.rs")).expect("its glue");
        assert!(!lib.contains("one to copy") && lib.contains("world: \"retention\""), "{lib}");
        // No other checkout's member is built, so sharing what was compiled of the dependencies is safe.
        let binary = std::env::current_exe().expect("this binary");
        let target = binary.ancestors().nth(3).expect("a target folder");
        let mut test = Command::new(crate::cache::variable("CARGO").unwrap_or_else(|| "cargo".into()));
        test.args(["test", "--offline", "--quiet", "--package", name, "--lib"]).current_dir(checkout.path());
        let output = test.env("CARGO_TARGET_DIR", target).output().expect("cargo starts");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{out}\n{err}");
        assert!(out.contains("test result: ok") && !out.contains(" 0 passed"), "{out}");
        let error = make(checkout.path(), name).expect_err("it is there already").to_string();
        assert!(error.contains("is already there"), "{error}");
        let unchanged = fs::read_to_string(folder.join("src/lib.rs")).expect("its glue");
        assert_eq!(unchanged, lib, "nothing is overwritten");
    }

    #[test]
    fn a_name_that_cannot_be_one_is_refused_and_leaves_nothing() {
        let root = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(root.path().join("plugins/retention-last")).expect("a folder");
        fs::create_dir_all(root.path().join("plugins/examples/retention-python")).expect("a folder");
        fs::write(root.path().join("xtask"), "").expect("a file");
        let long = "a".repeat(NAME_BYTES_MAX + 1);
        for (name, says) in [
            ("", "lower-case letters"),
            ("Retention", "lower-case letters"),
            ("retention_weekly", "lower-case letters"),
            ("../retention", "lower-case letters"),
            ("/tmp/retention", "lower-case letters"),
            ("été", "lower-case letters"),
            ("7-days", "begins with a letter"),
            ("-x", "begins with a letter"),
            ("x-", "one at a time"),
            ("x--y", "one at a time"),
            ("test", "use the word"),
            ("examples", "use the word"),
            (long.as_str(), "longer than"),
            ("retention-last", "already there"),
            ("retention-python", "already there"),
            ("xtask", "already there"),
        ] {
            let error = make(root.path(), name).expect_err(name).to_string();
            assert!(error.contains(says), "{name}: {error}");
        }
        let left: Vec<_> = fs::read_dir(root.path().join("plugins")).expect("plugins").flatten().collect();
        assert_eq!(left.len(), 2, "{left:?}");
    }

    #[test]
    fn the_template_still_says_what_is_replaced() {
        let lib = machine::root().join("plugins").join(TEMPLATE).join("src/lib.rs");
        assert!(fs::read_to_string(lib).expect("the template").starts_with(TEMPLATE_SAYS));
    }
}
