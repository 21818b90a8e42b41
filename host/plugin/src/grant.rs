//! Grants: which capabilities the configuration gives to which plugin.

use crate::capabilities;
use crate::context::Context;
use std::fmt;
use std::str::FromStr;
use wasmtime::component::Linker;

/// What is known of a grant.
struct GrantFacts {
    /// Name in the configuration and the WIT package.
    name: &'static str,
    /// Makes the interface available to a component.
    link: fn(&mut Linker<Context>) -> wasmtime::Result<()>,
}

base::table! {
    /// A capability that a plugin can be granted. `log` and interfaces that contain only types need no grant.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub enum Grant with GrantFacts {
        /// Measures of a database: the plugin selects what is measured but cannot read it.
        DatabaseEvidence { name: "database-evidence", link: capabilities::postgres::link_evidence }
        /// Measures of a folder: the plugin selects what is measured but cannot read it.
        TreeEvidence { name: "tree-evidence", link: capabilities::documents::link_evidence }
        /// A stream with a dump of a database.
        DatabaseDump { name: "database-dump", link: capabilities::postgres::link_dump }
        /// A stream with an archive of a folder.
        TreeArchive { name: "tree-archive", link: capabilities::documents::link_archive }
        /// New objects under one prefix.
        ObjectWrite { name: "object-write", link: capabilities::store::add_to_linker }
        /// A Job from one of the host's templates.
        KubeJob { name: "kube-job", link: capabilities::kube::link_job }
        /// Names, sizes and times of a cluster's volumes and of the resources that back them up.
        KubeVolumes { name: "kube-volumes", link: capabilities::kube::link_volumes }
        /// Rows of the tables and columns that the configuration names.
        TableRows { name: "table-rows", link: capabilities::postgres::link_rows }
        /// Names, sizes and digests of documents, but not their content.
        DocumentsDigests { name: "documents-digests", link: capabilities::documents::link_digests }
        /// An empty, deterministic WASI context: fixed clock and randomness, no files, no network.
        Wasi { name: "wasi", link: crate::wasi::add_to_linker }
    }
}

impl Grant {
    /// Name in the configuration and the WIT package.
    pub const fn name(self) -> &'static str {
        self.facts().name
    }

    /// Makes the interface available to a component.
    pub(crate) fn link(self, linker: &mut Linker<Context>) -> wasmtime::Result<()> {
        (self.facts().link)(linker)
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An unknown grant name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownGrant(String);

impl fmt::Display for UnknownGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = Grant::ALL.map(|grant| format!("`{grant}`")).join(", ");
        write!(f, "unknown grant `{}`, expected one of {known}", self.0)
    }
}

impl std::error::Error for UnknownGrant {}

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
