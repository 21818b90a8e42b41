//! What a crosscheck plugin found, as a drill's report keeps it.

use crate::record::PluginRecord;
use serde::{Deserialize, Serialize};

/// Paths of each kind that a report holds. The counts say the rest.
pub const PATHS_MAX: usize = 100;

/// What a cross-check came to; part of the report of a drill, whose `format_version` covers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CrosscheckReport {
    /// Documents that the database names.
    pub compared: u64,
    /// Named by the database and not there.
    pub missing: Paths,
    /// There with another content than the database noted.
    pub altered: Paths,
    /// There and not named by the database.
    pub orphaned: Paths,
    /// What was looked at and how it turned out; at least one.
    pub findings: Vec<Finding>,
    /// How far each log reaches that is chained by signatures.
    pub heads: Vec<Head>,
    /// Who compared, and what it was told.
    pub plugin: PluginRecord,
}

/// Paths of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Paths {
    /// How many.
    pub total: u64,
    /// The first of them, at most [`PATHS_MAX`], as they may be shown.
    pub first: Vec<String>,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finding {
    /// What, a short phrase.
    pub name: String,
    /// How it turned out.
    pub verdict: Verdict,
    /// One line for people.
    pub detail: String,
}

/// How something turned out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Well.
    Passed,
    /// Something to know that is no failure.
    Noted,
    /// Not well.
    Failed,
    /// It could not be looked at, and that is no failure.
    Skipped,
}

/// How far a log reaches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Which log.
    pub log: String,
    /// Its entries.
    pub entries: u64,
    /// The key of the last one.
    pub last: i64,
    /// The signature of the last one.
    pub signature: String,
}

impl CrosscheckReport {
    /// Whether nothing failed.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.failed().next().is_none()
    }

    /// What failed.
    pub fn failed(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.verdict == Verdict::Failed)
    }
}
