//! What a configuration says about an environment. The catalogue does not know how to reach a source.

use base::error::{Error, Result};
use base::id::SnapshotId;
use base::text::printable;
use std::collections::BTreeMap;

/// Longest name of an environment or a source. Both become parts of keys.
const NAME_BYTES_MAX: usize = 63;

/// Folders of an environment that are reserved for the catalogue and hold no objects of sources.
pub const RESERVED: [&str; 6] = ["snapshots", "forgotten", "verified", "drills", "leases", "environment"];

/// An environment's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, derive_more::Display)]
pub struct Environment(String);

impl Environment {
    /// Checks that the name can be part of a key.
    ///
    /// # Errors
    /// [`base::error::Class::Config`] if it cannot.
    pub fn new(name: &str) -> Result<Self> {
        check_name(name, "an environment").map(|()| Self(name.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The kind of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceKind {
    /// A PostgreSQL database.
    Postgres,
    /// A folder.
    Directory,
}

impl SourceKind {
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::Postgres, Self::Directory];

    /// The kind with this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The name in the configuration and in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Directory => "directory",
        }
    }
}

/// What the configuration says about one environment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Configured {
    /// The sources by name.
    pub sources: BTreeMap<String, SourceKind>,
    /// Snapshots that are never forgotten.
    pub pinned: Vec<SnapshotId>,
}

impl Configured {
    /// Adds a source.
    ///
    /// # Errors
    /// As [`check_source_name`].
    pub fn add(&mut self, name: &str, kind: SourceKind) -> Result<()> {
        check_source_name(name)?;
        self.sources.insert(name.to_owned(), kind);
        Ok(())
    }
}

/// Checks the name of a source. Only a checked name may be part of a message.
///
/// # Errors
/// [`base::error::Class::Config`] for a name that cannot be part of keys, or that the catalogue uses itself.
pub fn check_source_name(name: &str) -> Result<()> {
    check_name(name, "a source")?;
    if RESERVED.contains(&name) {
        return Err(Error::config(format!("`{name}` cannot name a source"))
            .hint(format!("the store uses {} for its own records", RESERVED.join(", "))));
    }
    Ok(())
}

fn check_name(name: &str, what: &str) -> Result<()> {
    let valid = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let has_valid_start = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if has_valid_start && name.len() <= NAME_BYTES_MAX && name.bytes().all(valid) {
        return Ok(());
    }
    Err(Error::config(format!("`{}` cannot name {what}", printable(name)))
        .hint("use lower-case letters, digits and hyphens, at most 63, not beginning with a hyphen"))
}
