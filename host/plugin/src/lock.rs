//! `capabilities.lock`: what each plugin imports and is granted. Somebody reviews and commits this file, so that a
//! machine notices when the list grows.

use super::component::{self, Import};
use super::{Component, PluginConfig, Role, bounded_file};
use base::error::{Error, Result};
use base::text::printable;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

/// Name of the lock file.
pub const FILE: &str = "capabilities.lock";

/// Version of the format.
const FORMAT_VERSION: u32 = 2;

/// First line of the file, a comment.
const FIRST_LINE: &str =
    "# What each plugin may do, as reviewed. `dolibarr-backup plugins audit` checks this file; --write updates it.\n";

/// Largest file that is read. Three plugins take two kilobytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The lock file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    format_version: u32,
    plugins: BTreeMap<String, Locked>,
}

/// The entry of one plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Locked {
    pub(crate) component: String,
    pub(crate) sha256: String,
    pub(crate) world: String,
    pub(crate) grants: BTreeSet<String>,
    /// `interface#function`.
    pub(crate) imports: BTreeSet<String>,
    /// The columns that may be read, as `table#column`.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) columns: BTreeSet<String>,
    /// The columns that a report may show, as `table#column`.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) shown: BTreeSet<String>,
    /// The columns by which rows may be left out, as `schema.table#column`.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) filters: BTreeSet<String>,
    /// The key that it must be signed with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) signed_by: Option<String>,
    /// The settings, as JSON.
    pub(crate) settings: String,
    /// Limits of one call, each written as `memory_mib 64`.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) limits: BTreeSet<String>,
}

/// A difference between the reviewed state and the current one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Whether the plugin may do more than before.
    pub grown: bool,
    /// The difference, in one sentence.
    pub description: String,
}

/// Path of the lock file that belongs to a configuration.
pub fn path_for(config: &Path) -> PathBuf {
    config.with_file_name(FILE)
}

/// Reads the lock file; `None` if it does not exist.
///
/// # Errors
/// [`base::error::Class::Config`] for a file that is not a lock file of this version.
pub fn read(file: &Path) -> Result<Option<Lock>> {
    let unreadable = |why: String| {
        Error::config(format!("{} cannot be read: {why}", file.display()))
            .hint("restore it from your repository, or review the audit and write a new one with --write")
    };
    let Some(bytes) = bounded_file::read(file, FILE_BYTES_MAX).map_err(unreadable)? else { return Ok(None) };
    let text = String::from_utf8(bytes).map_err(|_| unreadable("it is not UTF-8 text".to_owned()))?;
    let table: toml::Table = toml::from_str(&text).map_err(|error| unreadable(error.message().to_owned()))?;
    let version = table.get("format_version").and_then(toml::Value::as_integer);
    if version.is_some_and(|version| version != i64::from(FORMAT_VERSION)) {
        let version = version.unwrap_or_default();
        return Err(unreadable(format!("it has format version {version}, but this program reads {FORMAT_VERSION}")));
    }
    toml::from_str(&text).map(Some).map_err(|error| unreadable(error.message().to_owned()))
}

/// Refuses a component that differs from the reviewed one.
///
/// # Errors
/// [`base::error::Class::Config`], naming the first difference.
pub(crate) fn enforce(file: &Path, role: Role, config: &PluginConfig, component: &Component) -> Result<()> {
    let name = role.name();
    let Some(lock) = read(file)? else {
        return Err(Error::config(format!("require_lock is set, but there is no {}", file.display()))
            .hint("review the output of `plugins audit`, then write the file with --write"));
    };
    let found = Lock::new([(name.to_owned(), Locked::from_config(role, config, component)?)].into_iter());
    let known = Lock::new(lock.plugins.into_iter().filter(|(known, _)| known == name));
    match known.changes(&found).into_iter().next() {
        None => Ok(()),
        Some(change) => Err(Error::config(format!("{} does not match: {}", file.display(), change.description))
            .hint("if the change is intended, review the output of `plugins audit` and update the file with --write")),
    }
}

/// Writes the lock file completely or not at all.
///
/// # Errors
/// [`base::error::Class::Config`] if it cannot be written.
pub fn write(file: &Path, lock: &Lock) -> Result<()> {
    let failed = |why: String| {
        Error::config(format!("{} cannot be written: {why}", file.display()))
            .hint("run this where the configuration's folder is writable")
    };
    let text = toml::to_string(lock).map_err(|error| failed(error.to_string()))?;
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let written = tempfile::NamedTempFile::new_in(folder).and_then(|mut temporary| {
        io::Write::write_all(&mut temporary, FIRST_LINE.as_bytes())?;
        io::Write::write_all(&mut temporary, text.as_bytes())?;
        // The file is meant to be committed and read by others.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        temporary.as_file().set_permissions(mode)?;
        temporary.persist(file).map_err(io::Error::from)
    });
    written.map(drop).map_err(|error| failed(error.kind().to_string()))
}

impl Lock {
    /// The current state, by role.
    pub fn new(plugins: impl Iterator<Item = (String, Locked)>) -> Self {
        Self { format_version: FORMAT_VERSION, plugins: plugins.collect() }
    }

    /// The differences in `now`, with those that grew first.
    pub fn changes(&self, now: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        for (name, found) in &now.plugins {
            match self.plugins.get(name) {
                Some(known) => known.changes(name, found, &mut changes),
                None => changes.push(Change { grown: true, description: format!("the plugin `{name}` is new") }),
            }
        }
        let gone = self.plugins.keys().filter(|name| !now.plugins.contains_key(*name));
        changes.extend(gone.map(|name| Change { grown: false, description: format!("the plugin `{name}` is gone") }));
        changes.sort_by_key(|change| !change.grown);
        changes
    }
}

impl Locked {
    /// The entry of a plugin as it is configured now.
    ///
    /// # Errors
    /// [`base::error::Class::Config`] if the file is not a component.
    pub fn from_config(role: Role, config: &PluginConfig, component: &Component) -> Result<Self> {
        let filters = (role == Role::Fingerprint).then(|| config.filters());
        Ok(Self {
            component: config.component.display().to_string(),
            sha256: component.digest.clone(),
            world: format!("{}@{}", role.name(), component::WORLD_VERSION),
            grants: config.grants.iter().map(|grant| grant.to_string()).collect(),
            imports: component::imports(role, component)?.iter().flat_map(qualified_functions).collect(),
            columns: columns(config).collect(),
            shown: config.shown.columns().collect(),
            filters: filters.iter().flat_map(|filters| filters.columns().collect::<Vec<_>>()).collect(),
            signed_by: config.signed_by.as_ref().map(ToString::to_string),
            settings: serde_json::to_string(&config.settings).unwrap_or_default(),
            limits: config.limits.named().collect(),
        })
    }

    fn changes(&self, name: &str, now: &Self, changes: &mut Vec<Change>) {
        for (what, before, after) in [
            ("imports", &self.imports, &now.imports),
            ("is granted", &self.grants, &now.grants),
            ("may read", &self.columns, &now.columns),
            ("shows in its reports", &self.shown, &now.shown),
            ("may leave out rows by", &self.filters, &now.filters),
            ("has the limits", &self.limits, &now.limits),
        ] {
            let grown: Vec<&str> = after.difference(before).map(String::as_str).collect();
            if !grown.is_empty() {
                let description = format!("`{name}` now {what} {}", grown.join(", "));
                changes.push(Change { grown: true, description });
            }
            let shrunk: Vec<&str> = before.difference(after).map(String::as_str).collect();
            if !shrunk.is_empty() {
                let description = format!("`{name}` no longer {what} {}", shrunk.join(", "));
                changes.push(Change { grown: false, description });
            }
        }
        if self.signed_by != now.signed_by {
            let description = match (&self.signed_by, &now.signed_by) {
                (Some(before), Some(after)) => format!("`{name}` must be signed by {after} instead of {before}"),
                (Some(before), None) => format!("`{name}` no longer has to be signed by {before}"),
                (None, after) => {
                    format!("`{name}` now has to be signed by {}", after.as_deref().unwrap_or_default())
                }
            };
            // With another key, another author may be behind the code. Requiring a first signature permits nothing
            // more.
            changes.push(Change { grown: self.signed_by.is_some(), description });
        }
        if self.settings != now.settings {
            let description = format!("`{name}` has the settings {} instead of {}", now.settings, self.settings);
            changes.push(Change { grown: false, description: printable(&description) });
        }
        if self.world != now.world {
            let description = format!("`{name}` is of the world {} instead of {}", now.world, self.world);
            changes.push(Change { grown: true, description });
        }
        if self.sha256 != now.sha256 {
            let description = format!("`{name}` has sha256 {} instead of {}", now.sha256, self.sha256);
            changes.push(Change { grown: false, description });
        } else if self.component != now.component {
            let description = format!("`{name}` comes from {} instead of {}", now.component, self.component);
            changes.push(Change { grown: false, description });
        }
    }
}

/// The columns of tables that may be read, as `table#column`.
pub fn columns(config: &PluginConfig) -> impl Iterator<Item = String> {
    config.tables.iter().flat_map(|table| table.columns.iter().map(|column| format!("{}#{column}", table.label)))
}

/// Each function with its interface, as `interface#function`.
fn qualified_functions(import: &Import) -> Vec<String> {
    let interface = printable(&import.interface);
    match import.functions.as_slice() {
        [] => vec![interface],
        functions => functions.iter().map(|function| format!("{interface}#{}", printable(function))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locked(grants: &[&str], imports: &[&str], sha256: &str) -> Lock {
        let all = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let locked = Locked {
            component: "dump.wasm".into(),
            sha256: sha256.into(),
            world: "dump@0.2.0".into(),
            grants: all(grants),
            imports: all(imports),
            columns: BTreeSet::new(),
            shown: BTreeSet::new(),
            filters: BTreeSet::new(),
            signed_by: None,
            settings: "{}".into(),
            limits: BTreeSet::new(),
        };
        Lock::new([("dump".to_owned(), locked)].into_iter())
    }

    #[test]
    fn growth_is_distinguished_from_shrinkage() {
        let known = locked(&["a"], &["i#f", "i#g"], "00");
        for (now, expected) in [
            (locked(&["a"], &["i#f", "i#g"], "00"), vec![]),
            (locked(&["a", "b"], &["i#f", "i#g"], "00"), vec![(true, "`dump` now is granted b")]),
            (locked(&["a"], &["i#f", "i#g", "i#h"], "00"), vec![(true, "`dump` now imports i#h")]),
            (locked(&["a"], &["i#f"], "00"), vec![(false, "`dump` no longer imports i#g")]),
            (
                locked(&["a"], &["i#f", "j#x"], "11"),
                vec![
                    (true, "`dump` now imports j#x"),
                    (false, "`dump` no longer imports i#g"),
                    (false, "`dump` has sha256 11 instead of 00"),
                ],
            ),
            (Lock::new(std::iter::empty()), vec![(false, "the plugin `dump` is gone")]),
        ] {
            let found = known.changes(&now);
            assert_eq!(found.iter().map(|c| (c.grown, c.description.as_str())).collect::<Vec<_>>(), expected);
        }
        let from_nothing = Lock::new(std::iter::empty()).changes(&known);
        assert_eq!(from_nothing, [Change { grown: true, description: "the plugin `dump` is new".into() }]);
    }

    #[test]
    fn another_signer_or_none_counts_as_growth_but_a_first_one_does_not() {
        let by = |key: Option<&str>| {
            let mut lock = locked(&[], &[], "00");
            lock.plugins.values_mut().for_each(|plugin| plugin.signed_by = key.map(str::to_owned));
            lock
        };
        for (before, after, grown, description) in [
            (Some("A"), None, true, "`dump` no longer has to be signed by A"),
            (Some("A"), Some("B"), true, "`dump` must be signed by B instead of A"),
            (None, Some("A"), false, "`dump` now has to be signed by A"),
        ] {
            assert_eq!(by(before).changes(&by(after)), [Change { grown, description: description.into() }]);
        }
    }

    #[test]
    fn another_readable_column_counts_as_growth() {
        let reading = |columns: &[&str]| {
            let mut lock = locked(&[], &[], "00");
            let columns = columns.iter().map(|column| (*column).to_owned()).collect();
            lock.plugins.values_mut().for_each(|plugin| plugin.columns = BTreeSet::clone(&columns));
            lock
        };
        let (few, many) = (reading(&["t#id"]), reading(&["t#id", "t#label"]));
        let change = |grown, description: &str| Change { grown, description: description.into() };
        assert_eq!(few.changes(&many), [change(true, "`dump` now may read t#label")]);
        assert_eq!(many.changes(&few), [change(false, "`dump` no longer may read t#label")]);
    }

    #[test]
    fn a_written_file_reads_back_equal_and_is_reproducible() {
        let folder = tempfile::tempdir().unwrap();
        let file = path_for(&folder.path().join("dolibarr-backup.toml"));
        assert_eq!(file, folder.path().join("capabilities.lock"));
        assert_eq!(read(&file).unwrap(), None);
        let lock = locked(&["b", "a"], &["i#g", "i#f"], "00");
        write(&file, &lock).unwrap();
        let first = std::fs::read_to_string(&file).unwrap();
        assert!(first.starts_with("# What each plugin may do"), "{first}");
        assert_eq!(read(&file).unwrap(), Some(locked(&["a", "b"], &["i#f", "i#g"], "00")));
        write(&file, &lock).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), first);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no partial file remains");
    }

    #[test]
    fn a_file_that_is_not_a_lock_file_of_this_version_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(FILE);
        for (text, expected) in [
            ("not toml", "cannot be read"),
            ("format_version = 2\n", "plugins"),
            ("format_version = 2\nplugins = {}\nmore = 1\n", "more"),
            ("format_version = 1\nplugins = {}\n", "it has format version 1, but this program reads 2"),
            ("format_version = 3\nplugins = {}\n", "it has format version 3, but this program reads 2"),
        ] {
            std::fs::write(&file, text).unwrap();
            let error = read(&file).unwrap_err();
            assert!(error.message().contains(expected), "{error}");
            assert!(error.advice().is_some());
        }
        for target in ["/dev/zero", "/"] {
            std::fs::remove_file(&file).unwrap();
            std::os::unix::fs::symlink(target, &file).unwrap();
            assert!(read(&file).unwrap_err().message().contains("it is not a regular file"));
        }
        std::fs::remove_file(&file).unwrap();
        std::fs::write(&file, "#".repeat(usize::try_from(FILE_BYTES_MAX).unwrap() + 1)).unwrap();
        assert!(read(&file).unwrap_err().message().contains("longer than"));
    }
}
