//! Grants: which capability the configuration gives to which plugin. Knows nothing of what a capability does.

use std::fmt;
use std::str::FromStr;

/// A capability that a plugin can be granted. `log` and the interfaces that hold types alone need no grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Grant {
    /// Measures of a database that a plugin selects and cannot read.
    DatabaseEvidence,
    /// Measures of a folder that a plugin selects and cannot read.
    TreeEvidence,
    /// A stream with a dump of a database.
    DatabaseDump,
    /// A stream with an archive of a folder.
    TreeArchive,
    /// New objects under one prefix.
    ObjectWrite,
    /// A Job from a template of the host's.
    KubeJob,
    /// Names, sizes and times of a cluster's volumes and of what backs them up.
    KubeVolumes,
    /// Rows of the tables and columns that the configuration names.
    TableRows,
    /// Names, sizes and digests of documents, no byte.
    DocumentsDigests,
    /// An empty, deterministic WASI context: fixed clock and randomness, no files, no network.
    Wasi,
}

impl Grant {
    /// Every grant, in the order in which they are listed to people.
    pub const ALL: [Self; 10] = [
        Self::DatabaseEvidence,
        Self::TreeEvidence,
        Self::DatabaseDump,
        Self::TreeArchive,
        Self::ObjectWrite,
        Self::KubeJob,
        Self::KubeVolumes,
        Self::TableRows,
        Self::DocumentsDigests,
        Self::Wasi,
    ];

    /// As the configuration and the WIT package spell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::DatabaseEvidence => "database-evidence",
            Self::TreeEvidence => "tree-evidence",
            Self::DatabaseDump => "database-dump",
            Self::TreeArchive => "tree-archive",
            Self::ObjectWrite => "object-write",
            Self::KubeJob => "kube-job",
            Self::KubeVolumes => "kube-volumes",
            Self::TableRows => "table-rows",
            Self::DocumentsDigests => "documents-digests",
            Self::Wasi => "wasi",
        }
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A word that names no grant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown grant `{0}`, expected one of `database-evidence`, `tree-evidence`, `database-dump`, `tree-archive`, `object-write`, `kube-job`, `kube-volumes`, `table-rows`, `documents-digests`, `wasi`"
)]
pub struct UnknownGrant(String);

impl FromStr for Grant {
    type Err = UnknownGrant;

    fn from_str(text: &str) -> Result<Self, UnknownGrant> {
        Self::ALL.into_iter().find(|grant| grant.name() == text).ok_or_else(|| UnknownGrant(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_grant_lists_every_valid_one() {
        let message = "database".parse::<Grant>().unwrap_err().to_string();
        for grant in Grant::ALL {
            assert!(message.contains(&format!("`{grant}`")), "{grant} is not in: {message}");
            assert_eq!(grant.name().parse(), Ok(grant));
        }
    }
}
