//! What a crosscheck plugin found, as stored in the report of a drill.

use crate::record::PluginRecord;
use serde::{Deserialize, Serialize};

/// Maximum number of paths of each kind in a report. The totals count all of them.
pub const PATHS_MAX: usize = 100;

/// The result of a crosscheck. It is part of the report of a drill, whose `format_version` covers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CrosscheckReport {
    /// Documents that the database names.
    pub compared: u64,
    /// Documents that the database names but that do not exist.
    pub missing: Paths,
    /// Documents whose content differs from what the database recorded.
    pub altered: Paths,
    /// Documents that exist but that the database does not name.
    pub orphaned: Paths,
    /// What was checked, with the results; at least one.
    pub findings: Vec<Finding>,
    /// How far each log that is chained by signatures reaches.
    pub heads: Vec<Head>,
    /// The plugin that compared, and what it did.
    pub plugin: PluginRecord,
}

/// Paths of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Paths {
    /// How many.
    pub total: u64,
    /// The first of them, at most [`PATHS_MAX`], in printable form.
    pub first: Vec<String>,
}

/// One thing that was checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finding {
    /// What was checked, as a short phrase.
    pub name: String,
    /// The result.
    pub verdict: CrosscheckVerdict,
    /// One line for people.
    pub detail: String,
}

/// The result of one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CrosscheckVerdict {
    /// No problem was found.
    Passed,
    /// Worth knowing, but not a failure.
    Noted,
    /// A problem was found.
    Failed,
    /// It could not be checked, which is not a failure.
    Skipped,
}

/// How far a log reaches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Which log.
    pub log: String,
    /// The number of its entries.
    pub entries: u64,
    /// The key of the last one.
    pub last: i64,
    /// The signature of the last one.
    pub signature: String,
}

impl CrosscheckReport {
    /// Whether nothing failed.
    pub fn passed(&self) -> bool {
        self.failed().next().is_none()
    }

    /// The findings that failed.
    pub fn failed(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.verdict == CrosscheckVerdict::Failed)
    }
}
