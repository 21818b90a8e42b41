//! `capabilities.lock`: what each plugin imports and is granted, as somebody reviewed it and committed it, so that a list that
//! grows is seen by a machine.

use super::component::{self, Import};
use super::{Component, Config, Role, bounded_file};
use base::error::{Error, Result};
use base::text::printable;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

/// Its name.
pub const FILE: &str = "capabilities.lock";

/// Version of the format.
const FORMAT_VERSION: u32 = 2;

/// What it begins with.
const FIRST_LINE: &str = "# What each plugin may do, as it was reviewed. `dolibarr-backup plugins audit` compares; with --write it writes this.\n";

/// Largest file that is read. Three plugins have two kilobytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    format_version: u32,
    plugins: BTreeMap<String, Locked>,
}

/// One plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Locked {
    pub(crate) component: String,
    pub(crate) sha256: String,
    pub(crate) world: String,
    pub(crate) grants: BTreeSet<String>,
    /// `interface#function`.
    pub(crate) imports: BTreeSet<String>,
    /// `table#column`, of those that may be read.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) columns: BTreeSet<String>,
    /// `table#column`, of those that a report may show.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) shown: BTreeSet<String>,
    /// `schema.table#column`, of those that rows may be left out by.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) filters: BTreeSet<String>,
    /// The key that it must be signed with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) signed_by: Option<String>,
    /// The settings as JSON.
    pub(crate) settings: String,
    /// What one call may use up, each as `memory_mib 64`.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) limits: BTreeSet<String>,
}

/// A difference between what was reviewed and what is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Whether the plugin may do more than before.
    pub grown: bool,
    /// What is different, in a sentence.
    pub said: String,
}

/// Where it is, for a configuration.
pub fn beside(config: &Path) -> PathBuf {
    config.with_file_name(FILE)
}

/// Reads it; none where there is none.
///
/// # Errors
/// [`base::error::Class::Config`] for a file that is no lock file of this version.
pub fn read(file: &Path) -> Result<Option<Lock>> {
    let wrong = |why: String| {
        Error::config(format!("{} cannot be read: {why}", file.display()))
            .hint("restore it from your repository, or review the audit and write it anew with --write")
    };
    let Some(bytes) = bounded_file::read(file, FILE_BYTES_MAX).map_err(wrong)? else { return Ok(None) };
    let text = String::from_utf8(bytes).map_err(|_| wrong("it is no text".to_owned()))?;
    let table: toml::Table = toml::from_str(&text).map_err(|error| wrong(error.message().to_owned()))?;
    let version = table.get("format_version").and_then(toml::Value::as_integer);
    if version.is_some_and(|version| version != i64::from(FORMAT_VERSION)) {
        let version = version.unwrap_or_default();
        return Err(wrong(format!("it has version {version}, and this program knows {FORMAT_VERSION}")));
    }
    toml::from_str(&text).map(Some).map_err(|error| wrong(error.message().to_owned()))
}

/// Refuses a component that is not as it was reviewed.
///
/// # Errors
/// [`base::error::Class::Config`], naming the first difference.
pub(crate) fn enforce(file: &Path, role: Role, config: &Config, component: &Component) -> Result<()> {
    let name = role.name();
    let Some(lock) = read(file)? else {
        return Err(Error::config(format!("require_lock is set, and there is no {}", file.display()))
            .hint("review what `plugins audit` shows, then write the file with --write"));
    };
    let found = Lock::new([(name.to_owned(), Locked::of(role, config, component)?)].into_iter());
    let known = Lock::new(lock.plugins.into_iter().filter(|(known, _)| known == name));
    match known.changes(&found).into_iter().next() {
        None => Ok(()),
        Some(change) => Err(Error::config(format!("{} says something else: {}", file.display(), change.said))
            .hint("if the change is wanted, review what `plugins audit` shows and write the file anew with --write")),
    }
}

/// Writes it whole or not at all.
///
/// # Errors
/// [`base::error::Class::Config`] where it cannot be written.
pub fn write(file: &Path, lock: &Lock) -> Result<()> {
    let failed = |why: String| {
        Error::config(format!("{} cannot be written: {why}", file.display()))
            .hint("run where the configuration's folder may be written to")
    };
    let text = toml::to_string(lock).map_err(|error| failed(error.to_string()))?;
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let written = tempfile::NamedTempFile::new_in(folder).and_then(|mut temporary| {
        io::Write::write_all(&mut temporary, FIRST_LINE.as_bytes())?;
        io::Write::write_all(&mut temporary, text.as_bytes())?;
        // It is to be committed and read by others.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        temporary.as_file().set_permissions(mode)?;
        temporary.persist(file).map_err(io::Error::from)
    });
    written.map(drop).map_err(|error| failed(error.kind().to_string()))
}

impl Lock {
    /// What is there now, by role.
    pub fn new(plugins: impl Iterator<Item = (String, Locked)>) -> Self {
        Self { format_version: FORMAT_VERSION, plugins: plugins.collect() }
    }

    /// What is different now, the grown first.
    pub fn changes(&self, now: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        for (name, found) in &now.plugins {
            match self.plugins.get(name) {
                Some(known) => known.changes(name, found, &mut changes),
                None => changes.push(Change { grown: true, said: format!("the plugin `{name}` is new") }),
            }
        }
        let gone = self.plugins.keys().filter(|name| !now.plugins.contains_key(*name));
        changes.extend(gone.map(|name| Change { grown: false, said: format!("the plugin `{name}` is gone") }));
        changes.sort_by_key(|change| !change.grown);
        changes
    }
}

impl Locked {
    /// What a plugin is and may do, as it is configured.
    ///
    /// # Errors
    /// [`base::error::Class::Config`] when the file is no component.
    pub fn of(role: Role, config: &Config, component: &Component) -> Result<Self> {
        let filters = (role == Role::Fingerprint).then(|| config.filters());
        Ok(Self {
            component: config.component.display().to_string(),
            sha256: component.digest.clone(),
            world: format!("{}@{}", role.name(), component::WORLD_VERSION),
            grants: config.grants.iter().map(|grant| grant.to_string()).collect(),
            imports: component::imports(role, component)?.iter().flat_map(spelt).collect(),
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
            ("has in its reports", &self.shown, &now.shown),
            ("may leave out rows by", &self.filters, &now.filters),
            ("has the limits", &self.limits, &now.limits),
        ] {
            let grown: Vec<&str> = after.difference(before).map(String::as_str).collect();
            if !grown.is_empty() {
                changes.push(Change { grown: true, said: format!("`{name}` now {what} {}", grown.join(", ")) });
            }
            let shrunk: Vec<&str> = before.difference(after).map(String::as_str).collect();
            if !shrunk.is_empty() {
                changes.push(Change { grown: false, said: format!("`{name}` no longer {what} {}", shrunk.join(", ")) });
            }
        }
        if self.signed_by != now.signed_by {
            let said = match (&self.signed_by, &now.signed_by) {
                (Some(before), Some(after)) => format!("`{name}` has to be signed by {after} instead of {before}"),
                (Some(before), None) => format!("`{name}` no longer has to be signed by {before}"),
                (None, after) => {
                    format!("`{name}` now has to be signed by {}", after.as_deref().unwrap_or_default())
                }
            };
            // Another hand may be behind the code; that a hand is asked for at all is no growth.
            changes.push(Change { grown: self.signed_by.is_some(), said });
        }
        if self.settings != now.settings {
            let said = format!("`{name}` has the settings {} instead of {}", now.settings, self.settings);
            changes.push(Change { grown: false, said: printable(&said) });
        }
        if self.world != now.world {
            let said = format!("`{name}` is of the world {} instead of {}", now.world, self.world);
            changes.push(Change { grown: true, said });
        }
        if self.sha256 != now.sha256 {
            let said = format!("`{name}` has sha256 {} instead of {}", now.sha256, self.sha256);
            changes.push(Change { grown: false, said });
        } else if self.component != now.component {
            let said = format!("`{name}` comes from {} instead of {}", now.component, self.component);
            changes.push(Change { grown: false, said });
        }
    }
}

/// What may be read of tables, as `table#column`.
pub fn columns(config: &Config) -> impl Iterator<Item = String> {
    config.tables.iter().flat_map(|table| table.columns.iter().map(|column| format!("{}#{column}", table.label)))
}

/// Function by function.
fn spelt(import: &Import) -> Vec<String> {
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
    fn what_grows_is_told_from_what_shrinks() {
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
            assert_eq!(found.iter().map(|c| (c.grown, c.said.as_str())).collect::<Vec<_>>(), expected);
        }
        let from_nothing = Lock::new(std::iter::empty()).changes(&known);
        assert_eq!(from_nothing, [Change { grown: true, said: "the plugin `dump` is new".into() }]);
    }

    #[test]
    fn another_signer_or_none_is_a_growth_and_a_first_one_is_not() {
        let by = |key: Option<&str>| {
            let mut lock = locked(&[], &[], "00");
            lock.plugins.values_mut().for_each(|plugin| plugin.signed_by = key.map(str::to_owned));
            lock
        };
        for (before, after, grown, said) in [
            (Some("A"), None, true, "`dump` no longer has to be signed by A"),
            (Some("A"), Some("B"), true, "`dump` has to be signed by B instead of A"),
            (None, Some("A"), false, "`dump` now has to be signed by A"),
        ] {
            assert_eq!(by(before).changes(&by(after)), [Change { grown, said: said.into() }]);
        }
    }

    #[test]
    fn a_column_more_that_may_be_read_is_a_growth() {
        let reading = |columns: &[&str]| {
            let mut lock = locked(&[], &[], "00");
            let columns = columns.iter().map(|column| (*column).to_owned()).collect();
            lock.plugins.values_mut().for_each(|plugin| plugin.columns = BTreeSet::clone(&columns));
            lock
        };
        let (few, many) = (reading(&["t#id"]), reading(&["t#id", "t#label"]));
        let change = |grown, said: &str| Change { grown, said: said.into() };
        assert_eq!(few.changes(&many), [change(true, "`dump` now may read t#label")]);
        assert_eq!(many.changes(&few), [change(false, "`dump` no longer may read t#label")]);
    }

    #[test]
    fn it_comes_back_as_it_was_written_and_always_looks_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let file = beside(&folder.path().join("dolibarr-backup.toml"));
        assert_eq!(file, folder.path().join("capabilities.lock"));
        assert_eq!(read(&file).unwrap(), None);
        let lock = locked(&["b", "a"], &["i#g", "i#f"], "00");
        write(&file, &lock).unwrap();
        let first = std::fs::read_to_string(&file).unwrap();
        assert!(first.starts_with("# What each plugin may do"), "{first}");
        assert_eq!(read(&file).unwrap(), Some(locked(&["a", "b"], &["i#f", "i#g"], "00")));
        write(&file, &lock).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), first);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing half-written stays");
    }

    #[test]
    fn what_is_no_lock_file_of_this_version_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(FILE);
        for (text, expected) in [
            ("not toml", "cannot be read"),
            ("format_version = 2\n", "plugins"),
            ("format_version = 2\nplugins = {}\nmore = 1\n", "more"),
            ("format_version = 1\nplugins = {}\n", "it has version 1, and this program knows 2"),
            ("format_version = 3\nplugins = {}\n", "it has version 3, and this program knows 2"),
        ] {
            std::fs::write(&file, text).unwrap();
            let error = read(&file).unwrap_err();
            assert!(error.message().contains(expected), "{error}");
            assert!(error.advice().is_some());
        }
        for target in ["/dev/zero", "/"] {
            std::fs::remove_file(&file).unwrap();
            std::os::unix::fs::symlink(target, &file).unwrap();
            assert!(read(&file).unwrap_err().message().contains("it is no file"));
        }
        std::fs::remove_file(&file).unwrap();
        std::fs::write(&file, "#".repeat(usize::try_from(FILE_BYTES_MAX).unwrap() + 1)).unwrap();
        assert!(read(&file).unwrap_err().message().contains("longer than"));
    }
}
