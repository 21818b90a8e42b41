//! `capabilities.lock`: what each plugin imports and is granted, as somebody reviewed it and committed it, so that a list that
//! grows is seen by a machine.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

/// Its name.
pub(super) const FILE: &str = "capabilities.lock";

/// Version of the format.
const FORMAT_VERSION: u32 = 1;

/// What it begins with.
const FIRST_LINE: &str = "# What each plugin may do, as it was reviewed. `dolibarr-backup plugins audit` compares; with --write it writes this.\n";

/// Largest file that is read. Three plugins have two kilobytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Lock {
    format_version: u32,
    plugins: BTreeMap<String, Locked>,
}

/// One plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Locked {
    pub(super) component: String,
    pub(super) sha256: String,
    pub(super) world: String,
    pub(super) grants: BTreeSet<String>,
    /// `interface#function`.
    pub(super) imports: BTreeSet<String>,
    /// `table#column`, of those that may be read.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) columns: BTreeSet<String>,
}

/// A difference between what was reviewed and what is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    /// Whether the plugin may do more than before.
    pub(super) grown: bool,
    pub(super) said: String,
}

/// Where it is, for a configuration.
pub(super) fn beside(config: &Path) -> PathBuf {
    config.with_file_name(FILE)
}

/// Reads it; none where there is none.
///
/// # Errors
/// [`crate::error::Class::Config`] for a file that is no lock file of this version.
pub(super) fn read(file: &Path) -> Result<Option<Lock>> {
    let wrong = |why: String| {
        Error::config(format!("{} cannot be read: {why}", file.display()))
            .hint("restore it from your repository, or review the audit and write it anew with --write")
    };
    match std::fs::metadata(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(wrong(error.kind().to_string())),
        Ok(meta) if meta.len() > FILE_BYTES_MAX => {
            return Err(wrong(format!("it is longer than {FILE_BYTES_MAX} bytes")));
        }
        Ok(_) => {}
    }
    let text = std::fs::read_to_string(file).map_err(|error| wrong(error.kind().to_string()))?;
    let lock: Lock = toml::from_str(&text).map_err(|error| wrong(error.message().to_owned()))?;
    if lock.format_version != FORMAT_VERSION {
        return Err(wrong(format!("it has version {}, and this program knows {FORMAT_VERSION}", lock.format_version)));
    }
    Ok(Some(lock))
}

/// Writes it whole or not at all.
///
/// # Errors
/// [`crate::error::Class::Config`] where it cannot be written.
pub(super) fn write(file: &Path, lock: &Lock) -> Result<()> {
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
    pub(super) fn new(plugins: impl Iterator<Item = (String, Locked)>) -> Self {
        Self { format_version: FORMAT_VERSION, plugins: plugins.collect() }
    }

    /// What is different now, the grown first.
    pub(super) fn changes(&self, now: &Self) -> Vec<Change> {
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
    fn changes(&self, name: &str, now: &Self, changes: &mut Vec<Change>) {
        for (what, before, after) in [
            ("imports", &self.imports, &now.imports),
            ("is granted", &self.grants, &now.grants),
            ("may read", &self.columns, &now.columns),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn locked(grants: &[&str], imports: &[&str], sha256: &str) -> Lock {
        let all = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let locked = Locked {
            component: "dump.wasm".into(),
            sha256: sha256.into(),
            world: "dump@0.1.0".into(),
            grants: all(grants),
            imports: all(imports),
            columns: BTreeSet::new(),
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
            ("format_version = 1\n", "plugins"),
            ("format_version = 1\nplugins = {}\nmore = 1\n", "more"),
            ("format_version = 2\nplugins = {}\n", "it has version 2, and this program knows 1"),
        ] {
            std::fs::write(&file, text).unwrap();
            let error = read(&file).unwrap_err();
            assert!(error.message().contains(expected), "{error}");
            assert!(error.advice().is_some());
        }
    }
}
