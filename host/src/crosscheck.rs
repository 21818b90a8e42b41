//! The cross-check of both halves: a crosscheck plugin compares a database with the documents that belong to it, and the host
//! checks its answer. No backup runs it; a drill does, on what it restored.
//!
//! The plugin is handed the tables that the configuration names, each with its columns, and the folder. It reads; nothing
//! here writes anywhere.

#[cfg(test)]
mod tests;

use crate::capability::{Tally, printable};
use crate::documents::{Digests, Tree, host::DigestTree};
use crate::error::Result;
use crate::host::Host;
use crate::plugin::call::crosschecking;
use crate::plugin::{Plugin, Role};
use crate::postgres::{Session, host::RowsTable};
use crate::snapshot::PluginRecord;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Paths of each kind that a report holds. The counts say the rest.
pub const PATHS_MAX: usize = 100;

/// Findings of one report. The shipped plugin has at most seven.
const FINDINGS_MAX: usize = 64;

/// Heads of one report: one for each company.
const HEADS_MAX: usize = 100;

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

/// Compares a database with documents, as the configuration's crosscheck plugin sees them. Both are only read.
///
/// # Errors
/// As [`Host::plugin`], the plugin's own, and [`crate::error::Class::PluginRefused`] for a report that contradicts itself.
pub async fn run(host: &Host, session: &Arc<Session>, tree: &Arc<Tree>) -> Result<CrosscheckReport> {
    compare(&host.plugin(Role::Crosscheck).await?, session, tree).await
}

/// The same with a plugin that is loaded.
///
/// # Errors
/// As [`run`].
pub async fn compare(plugin: &Plugin, session: &Arc<Session>, tree: &Arc<Tree>) -> Result<CrosscheckReport> {
    let tables = plugin
        .readable()
        .iter()
        .map(|table| (table.label.clone(), RowsTable { session: Arc::clone(session), table: Arc::new(table.clone()) }));
    let documents = DigestTree(Arc::new(Digests::new(Arc::clone(tree))));
    let called = plugin.crosscheck(tables.collect(), documents).await;
    checked(plugin, called.result?, &called.tally)
}

fn checked(plugin: &Plugin, report: crosschecking::Report, tally: &Tally) -> Result<CrosscheckReport> {
    let crosschecking::Report { compared, missing, altered, orphaned, findings, heads } = report;
    let differing = missing.total.saturating_add(altered.total);
    if differing > compared {
        let said = format!("its report counts {differing} missing and altered documents of {compared} compared");
        return Err(plugin.refused(said));
    }
    if findings.is_empty() || findings.len() > FINDINGS_MAX {
        return Err(
            plugin.refused(format!("its report has {} findings, and 1 to {FINDINGS_MAX} are taken", findings.len()))
        );
    }
    if findings.iter().any(|finding| finding.name.trim().is_empty()) {
        return Err(plugin.refused("its report has a finding without a name"));
    }
    if heads.len() > HEADS_MAX {
        return Err(plugin.refused(format!("its report has {} heads, and at most {HEADS_MAX} are taken", heads.len())));
    }
    Ok(CrosscheckReport {
        compared,
        missing: paths(plugin, "missing", missing)?,
        altered: paths(plugin, "altered", altered)?,
        orphaned: paths(plugin, "orphaned", orphaned)?,
        findings: findings.into_iter().map(Finding::from).collect(),
        heads: heads.into_iter().map(Head::from).collect(),
        plugin: plugin.record(tally),
    })
}

fn paths(plugin: &Plugin, kind: &str, paths: crosschecking::Paths) -> Result<Paths> {
    let found = paths.first.len();
    if found > PATHS_MAX || found as u64 > paths.total {
        let said =
            format!("its report lists {found} {kind} documents of {}, and at most {PATHS_MAX} are taken", paths.total);
        return Err(plugin.refused(said));
    }
    Ok(Paths { total: paths.total, first: paths.first.iter().map(|path| printable(path)).collect() })
}

impl From<crosschecking::Finding> for Finding {
    fn from(finding: crosschecking::Finding) -> Self {
        let verdict = match finding.verdict {
            crosschecking::Verdict::Passed => Verdict::Passed,
            crosschecking::Verdict::Noted => Verdict::Noted,
            crosschecking::Verdict::Failed => Verdict::Failed,
            crosschecking::Verdict::Skipped => Verdict::Skipped,
        };
        Self { name: printable(&finding.name), verdict, detail: printable(&finding.detail) }
    }
}

impl From<crosschecking::Head> for Head {
    fn from(head: crosschecking::Head) -> Self {
        let crosschecking::Head { log, entries, last, signature } = head;
        Self { log: printable(&log), entries, last, signature: printable(&signature) }
    }
}
