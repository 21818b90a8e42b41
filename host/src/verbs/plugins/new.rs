//! `plugins new`: creates a standalone plugin project. It is a copy of a shipped plugin together with the WIT package,
//! and the language's own tools build it.

use crate::report::{FORMAT_VERSION, Report};
use base::error::{Class, Error, Result};
use base::text::printable;
use clap::ValueEnum;
use include_dir::{Dir, include_dir};
use plugin::Role;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The WIT package of this host.
static WIT: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../wit");

/// The templates. They are shipped plugins and examples, so they are tested.
static RETENTION_RUST: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../plugins/retention-last");
static FINGERPRINT_RUST: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../plugins/fingerprint");
static DUMP_RUST: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../plugins/dump");
static RETENTION_PYTHON: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../plugins/examples/retention-python");
static RETENTION_JAVASCRIPT: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../plugins/examples/retention-javascript");
static KIT: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../plugins/kit");

/// Defines the versions that a manifest in the repository inherits with `workspace = true`.
const WORKSPACE: &str = include_str!("../../../../Cargo.toml");

/// The exact versions that were tested together.
const LOCK: &str = include_str!("../../../../Cargo.lock");

/// Longest name: the limit of Cargo's registry, and short enough for a file name.
const NAME_BYTES_MAX: usize = 64;

/// Builds a small component that starts fast. A panic becomes a trap.
const PROFILE: &str = "\n# A workspace of its own, even inside another workspace's folder.\n[workspace]\n\n\
                       [profile.release]\nopt-level = \"s\"\nlto = true\ncodegen-units = 1\npanic = \"abort\"\n";

/// Arguments of `plugins new`.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// What the plugin decides
    world: World,
    /// Name of two or more words: lower-case letters, digits and hyphens, such as retention-weekly
    name: String,
    /// Programming language
    #[arg(long, value_enum, default_value_t = Language::Rust)]
    language: Language,
    /// Folder in which the project folder is created
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    into: PathBuf,
}

/// The worlds that have a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum World {
    /// Which snapshots are kept
    Retention,
    /// What counts as a change
    Fingerprint,
    /// What is dumped, in which order, and how
    Dump,
}

/// The languages that have a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Language {
    /// 0.1 MB, compiles fast
    Rust,
    /// 18 MB with its interpreter
    Python,
    /// 12 MB with its interpreter
    Javascript,
}

impl World {
    const fn role(self) -> Role {
        match self {
            Self::Retention => Role::Retention,
            Self::Fingerprint => Role::Fingerprint,
            Self::Dump => Role::Dump,
        }
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<Report> {
    let name = valid_name(&arguments.name)?;
    let files = files(arguments.world, arguments.language, name)?;
    let folder = arguments.into.join(name);
    write(&arguments.into, &folder, &files)?;
    let steps = steps(arguments.world, arguments.language, name);
    let mut text = format!("{} is a plugin of the world {}\n", folder.display(), arguments.world.role().name());
    text.push_str("edit it, then build and check it in that folder:\n");
    for step in &steps {
        text.push_str(&format!("  {step}\n"));
    }
    text.push_str("its README.md describes the files\n");
    let document = json!({
        "format_version": FORMAT_VERSION,
        "folder": folder.to_string_lossy(),
        "world": arguments.world.role().name(),
        "files": files.keys().collect::<Vec<_>>(),
        "steps": steps,
    });
    Ok(Report { document, text, failure: None })
}

/// Checks that Cargo, npm and file systems accept a name. It needs two words, because a single one may be a keyword in
/// some language.
fn valid_name(name: &str) -> Result<&str> {
    let invalid = |why: &str| {
        Err(Error::new(Class::Usage, format!("`{}` is not a valid plugin name: {why}", printable(name)))
            .hint("choose a name such as retention-weekly"))
    };
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if name.len() > NAME_BYTES_MAX {
        return invalid(&format!("it is longer than {NAME_BYTES_MAX} characters"));
    }
    if !name.bytes().all(plain) || !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        return invalid("it must consist of lower-case letters, digits and hyphens, and it begins with a letter");
    }
    if name.ends_with('-') || name.contains("--") || !name.contains('-') {
        return invalid("it must have two words or more, with a hyphen between them");
    }
    Ok(name)
}

/// All files of the project, by their paths in the new folder.
fn files(world: World, language: Language, name: &str) -> Result<BTreeMap<String, String>> {
    let (template, old_name) = match (world, language) {
        (World::Retention, Language::Rust) => (&RETENTION_RUST, "retention-last"),
        (World::Fingerprint, Language::Rust) => (&FINGERPRINT_RUST, ""),
        (World::Dump, Language::Rust) => (&DUMP_RUST, ""),
        (World::Retention, Language::Python) => (&RETENTION_PYTHON, "retention-python"),
        (World::Retention, Language::Javascript) => (&RETENTION_JAVASCRIPT, "retention-javascript"),
        (World::Fingerprint | World::Dump, Language::Python | Language::Javascript) => {
            let world = world.role().name();
            return Err(Error::new(Class::Usage, format!("there is no template for a {world} plugin in that language"))
                .hint(format!("use Rust, or start from the world `{world}` in the folder wit and the tools that `plugins new retention` shows")));
        }
    };
    let mut files = BTreeMap::new();
    collect(template, &mut |path, text| {
        let text = if old_name.is_empty() { text.to_owned() } else { text.replace(old_name, name) };
        files.insert(path, text);
    });
    collect(&WIT, &mut |path, text| drop(files.insert(format!("wit/{path}"), text.to_owned())));
    match language {
        Language::Rust => make_crate(&mut files, name)?,
        Language::Python => drop(files.insert(".gitignore".to_owned(), "*.wasm\n__pycache__/\n.venv/\n".to_owned())),
        Language::Javascript => drop(files.insert(".gitignore".to_owned(), "*.wasm\nnode_modules/\n".to_owned())),
    }
    files.insert("README.md".to_owned(), readme(world, language, name));
    Ok(files)
}

/// Passes every text file of a folder, at any depth, to `take`.
fn collect(folder: &Dir<'_>, take: &mut impl FnMut(String, &str)) {
    let sources = ["rs", "json", "toml", "py", "txt", "js", "wit"];
    for file in folder.files() {
        let path = file.path().to_string_lossy().into_owned();
        let is_source = file.path().extension().is_some_and(|end| sources.iter().any(|known| end == *known));
        // npm writes this file if somebody builds the template in the repository.
        let is_generated = path.ends_with("package-lock.json");
        if let Some(text) = file.contents_utf8().filter(|_| is_source && !is_generated) {
            take(path, text);
        }
    }
    for inner in folder.dirs() {
        if !inner.path().ends_with("node_modules") {
            collect(inner, take);
        }
    }
}

fn broken(why: &str) -> Error {
    Error::unexpected(format!("the built-in template is broken: {why}"))
}

/// Turns a member of the repository's workspace into a standalone crate, with the kit as a crate in a folder of its own.
fn make_crate(files: &mut BTreeMap<String, String>, name: &str) -> Result<()> {
    collect(&KIT, &mut |path, text| drop(files.insert(format!("kit/{path}"), text.to_owned())));
    let description = format!("A plugin of dolibarr-backup, WIT package {}", plugin::component::WORLD_VERSION);
    for (path, name, description, ending) in [
        ("Cargo.toml", name, &*description, PROFILE),
        ("kit/Cargo.toml", "kit", "Reads a plugin's settings and reports its panics", ""),
    ] {
        let manifest = files.get(path).ok_or_else(|| broken("it has no manifest"))?;
        let manifest = standalone_manifest(manifest, name, description)?;
        files.insert(path.to_owned(), manifest + ending);
    }
    files.insert("Cargo.lock".to_owned(), LOCK.to_owned());
    files.insert(".gitignore".to_owned(), "*.wasm\ntarget/\n".to_owned());
    let settings = files.get_mut("src/settings.rs").ok_or_else(|| broken("it has no settings.rs"))?;
    for old in ["fingerprint", "dump"] {
        *settings =
            settings.replace(&format!("PLUGIN: &'static str = {old:?}"), &format!("PLUGIN: &'static str = {name:?}"));
    }
    let lib = files.get_mut("src/lib.rs").ok_or_else(|| broken("it has no lib.rs"))?;
    *lib = lib
        .replace("path: \"../../wit\"", "path: \"wit\"")
        .replace(" The smallest useful retention plugin, and the one to copy.", "");
    Ok(())
}

/// A manifest without what it inherits from the repository's.
fn standalone_manifest(manifest: &str, name: &str, description: &str) -> Result<String> {
    let mut manifest: toml::Table = toml::from_str(manifest).map_err(|e| broken(e.message()))?;
    let workspace: toml::Table = toml::from_str(WORKSPACE).map_err(|e| broken(e.message()))?;
    let versions = workspace.get("workspace").and_then(|workspace| workspace.get("dependencies"));
    for kind in ["dependencies", "dev-dependencies"] {
        for (dependency, wanted) in manifest.get_mut(kind).and_then(toml::Value::as_table_mut).into_iter().flatten() {
            if dependency == "kit" {
                *wanted = toml::Value::Table([("path".to_owned(), "kit".into())].into_iter().collect());
            } else if wanted.get("workspace").is_some() {
                *wanted = versions
                    .and_then(|versions| versions.get(dependency))
                    .ok_or_else(|| broken("a dependency has no version"))?
                    .clone();
            }
        }
    }
    manifest.remove("lints");
    let package = [("name", name), ("version", "0.1.0"), ("edition", "2024"), ("description", description)];
    let package = package.map(|(key, value)| (key.to_owned(), toml::Value::String(value.to_owned())));
    let mut package: toml::Table = package.into_iter().collect();
    package.insert("publish".to_owned(), toml::Value::Boolean(false));
    manifest.insert("package".to_owned(), toml::Value::Table(package));
    toml::to_string(&manifest).map_err(|e| broken(&e.to_string()))
}

/// The commands that build and check the plugin in its folder.
fn steps(world: World, language: Language, name: &str) -> Vec<String> {
    let mut steps = match language {
        Language::Rust => vec![
            "rustup target add wasm32-unknown-unknown".to_owned(),
            "cargo test".to_owned(),
            "cargo build --release --target wasm32-unknown-unknown".to_owned(),
            format!(
                "dolibarr-backup plugins pack target/wasm32-unknown-unknown/release/{}.wasm --out {name}.wasm",
                name.replace('-', "_")
            ),
        ],
        Language::Python => vec![
            "python3 -m unittest".to_owned(),
            "python3 -m venv .venv && . .venv/bin/activate && pip install -r requirements.txt".to_owned(),
            format!(
                "componentize-py --wit-path wit --world {} componentize --stub-wasi app --output {name}.wasm",
                world.role().name()
            ),
        ],
        Language::Javascript => vec!["npm install".to_owned(), "npm test".to_owned(), "npm run build".to_owned()],
    };
    steps.push(format!("dolibarr-backup plugins check {name}.wasm"));
    steps.push(format!("dolibarr-backup plugins inspect {name}.wasm"));
    steps
}

fn readme(world: World, language: Language, name: &str) -> String {
    let world = (world, world.role().name());
    let (rule, settings, glue) = match language {
        Language::Rust => ("src/policy.rs", "src/settings.rs`, `settings.schema.json", "src/lib.rs"),
        Language::Python => ("policy.py`, `test_plugin.py", "settings.py", "app.py"),
        Language::Javascript => ("policy.js`, `plugin.test.js", "settings.js", "plugin.js"),
    };
    let more = match language {
        Language::Python => {
            "| `zones.py` | the time zone, as the host provides it |\n\
             | `requirements.txt` | the build tools |\n"
        }
        Language::Javascript => "| `build.js`, `package.json` | the build script and its tools |\n",
        Language::Rust => "| `kit/` | a small crate that reads the settings and reports panics |\n",
    };
    let steps: String = steps(world.0, language, name).iter().map(|step| format!("{step}\n")).collect();
    format!(
        "# {name}\n\nA plugin of dolibarr-backup, of the world `{}`.\n\n\
         | file | purpose |\n| --- | --- |\n\
         | `{rule}` | the decision, without WebAssembly, and its tests: start here |\n\
         | `{settings}` | the settings, with one sentence for each invalid value |\n{more}\
         | `{glue}` | translates between these files and the world |\n\
         | `wit/` | the interface, version {}, with the contract of each function |\n\n\
         ```\n{steps}```\n\n\
         `check` checks the rules for every plugin of its world, and explains each rule. `inspect` prints the lines for the\n\
         configuration at the end.\n",
        world.1,
        plugin::component::WORLD_VERSION,
    )
}

/// Writes all files or none, and never overwrites anything.
fn write(into: &Path, folder: &Path, files: &BTreeMap<String, String>) -> Result<()> {
    let cannot = |path: &Path, e: &std::io::Error| {
        Error::config(format!("{} cannot be created: {}", path.display(), e.kind()))
            .hint("choose a folder that you may write to with --into")
    };
    let taken = || {
        Error::config(format!("{} already exists", folder.display()))
            .hint("choose another name, or remove the existing folder")
    };
    if folder.symlink_metadata().is_ok() {
        return Err(taken());
    }
    let partial = tempfile::Builder::new().prefix(".plugin-").tempdir_in(into).map_err(|e| cannot(into, &e))?;
    for (path, text) in files {
        let path = partial.path().join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|e| cannot(parent, &e))?;
        }
        fs::write(&path, text).map_err(|e| cannot(&path, &e))?;
    }
    // Only its owner may enter a temporary folder.
    fs::set_permissions(partial.path(), fs::Permissions::from_mode(0o755)).map_err(|e| cannot(folder, &e))?;
    // If the folder was created in the meantime, the rename fails unless that folder is empty, so nothing is lost.
    fs::rename(partial.path(), folder).map_err(|_| taken())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_name_is_refused() {
        let long = format!("a-{}", "a".repeat(NAME_BYTES_MAX));
        for (name, says) in [
            ("", "lower-case letters"),
            ("Retention-x", "lower-case letters"),
            ("retention_weekly", "lower-case letters"),
            ("../retention-x", "lower-case letters"),
            ("été-x", "lower-case letters"),
            ("7-days", "begins with a letter"),
            ("x-", "two words"),
            ("x--y", "two words"),
            ("core", "two words"),
            (long.as_str(), "longer than"),
        ] {
            let error = valid_name(name).unwrap_err();
            assert!(error.message().contains(says), "{name}: {error}");
        }
        assert_eq!(valid_name("retention-weekly").unwrap(), "retention-weekly");
    }

    #[test]
    fn every_template_is_standalone_and_does_not_refer_to_the_repository() {
        for (world, language) in [
            (World::Retention, Language::Rust),
            (World::Fingerprint, Language::Rust),
            (World::Dump, Language::Rust),
            (World::Retention, Language::Python),
            (World::Retention, Language::Javascript),
        ] {
            let files = files(world, language, "my-plugin").unwrap();
            assert!(files.contains_key("wit/worlds.wit") && files.contains_key("README.md"), "{:?}", files.keys());
            if language == Language::Rust {
                assert!(files["src/settings.rs"].contains("PLUGIN: &'static str = \"my-plugin\""), "{world:?}");
            }
            for (path, text) in &files {
                let outside = ["../..", "workspace = true", "cargo xtask"].into_iter().find(|word| text.contains(word));
                assert_eq!(outside, None, "{world:?} in {language:?}: {path}");
            }
        }
        assert!(files(World::Dump, Language::Python, "my-plugin").is_err());
    }

    #[test]
    fn nothing_is_overwritten_and_no_partial_project_remains() {
        let folder = tempfile::tempdir().unwrap();
        let arguments = |into: PathBuf| Arguments {
            world: World::Retention,
            name: "retention-mine".to_owned(),
            language: Language::Python,
            into,
        };
        run(&arguments(folder.path().to_owned())).unwrap();
        let app = folder.path().join("retention-mine/app.py");
        fs::write(&app, "mine").unwrap();
        assert!(run(&arguments(folder.path().to_owned())).unwrap_err().message().contains("already exists"));
        assert_eq!(fs::read_to_string(&app).unwrap(), "mine");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(run(&arguments(folder.path().join("not-there"))).unwrap_err().advice().is_some());
    }
}
