//! The cross-check: a crosscheck plugin compares a database with its documents, and the host checks the plugin's
//! answer. Backups do not run it; a drill runs it on the data that it restored.
//!
//! The plugin sees rows, so none of its text may come out. It lists its checks before it receives any data, and
//! afterwards returns only numbers. It identifies rows and documents, the host verifies that they exist, and the host
//! itself reads the columns of a row that the configuration lets a report show.
//!
//! The plugin receives the tables that the configuration names, each with its columns, and the folder. Both are only
//! read: this module never writes.

#[cfg(test)]
mod tests;

use crate::session::Session;
use crate::tally::plugin_record;
use base::error::{Error, Result};
use base::evidence::SealKey;
use base::text::printable;
use catalogue::proof::{CrosscheckReport, CrosscheckVerdict, Finding, Head, PATHS_MAX, Paths};
use catalogue::record::PluginRecord;
use documents::{Digests, Tree};
use plugin::call::crosschecking;
use plugin::capabilities::documents::DigestTree;
use plugin::capabilities::postgres::RowsTable;
use plugin::context::{self, Count, Tally};
use plugin::{Plugin, Role};
use postgres::{OpenDatabase, ReadableTable};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Checks of one plugin, and so findings of one report. The shipped plugin has nine.
const CHECKS_MAX: usize = 16;

/// Log heads in one report: one for each company.
const HEADS_MAX: usize = 100;

/// A failed cross-check, which has no report.
#[derive(Debug)]
pub struct Failed {
    /// The reason.
    pub error: Error,
    /// What the plugin did before it failed; `None` if it was not loaded.
    pub plugin: Option<PluginRecord>,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self { error, plugin: None }
    }
}

/// Compares a database with documents by the configured crosscheck plugin. `exclude` holds the exclude patterns of the
/// documents' archive.
///
/// # Errors
/// Those of [`Session::plugin`] and of the plugin, and [`base::error::Class::PluginRefused`] for a report that contradicts
/// itself.
pub async fn run(
    session: &Session,
    database: &Arc<OpenDatabase>,
    tree: &Arc<Tree>,
    exclude: &[String],
    key: Option<&SealKey>,
) -> Result<CrosscheckReport, Failed> {
    let plugin = session.plugin(Role::Crosscheck).await?;
    compare(&plugin, database, tree, exclude, key).await
}

/// The same as [`run`] with a loaded plugin. With a key, hidden values of rows have the same pseudonym in every report.
pub async fn compare(
    plugin: &Plugin,
    database: &Arc<OpenDatabase>,
    tree: &Arc<Tree>,
    exclude: &[String],
    key: Option<&SealKey>,
) -> Result<CrosscheckReport, Failed> {
    let listed = plugin.checks().await;
    let mut tally = listed.tally;
    let compared = match valid_checks(plugin, listed.result) {
        Ok(checks) => call_and_verify(plugin, &checks, database, tree, exclude, key, &mut tally).await,
        Err(error) => Err(error),
    };
    compared.map_err(|error| Failed { error, plugin: Some(plugin_record(plugin, &coarse(&tally))) })
}

/// The list of checks that a plugin returned, if it is valid.
fn valid_checks(plugin: &Plugin, listed: Result<Vec<crosschecking::ToCheck>>) -> Result<Vec<crosschecking::ToCheck>> {
    let checks = listed?;
    if checks.is_empty() || checks.len() > CHECKS_MAX {
        let why = format!("it has {} checks, but 1 to {CHECKS_MAX} are allowed", checks.len());
        return Err(plugin.refused(why));
    }
    if checks.iter().any(|check| check.name.trim().is_empty()) {
        return Err(plugin.refused("one of its checks has no name"));
    }
    Ok(checks)
}

/// Makes the call that sees rows and verifies its answer. Adds the calls of the plugin to the tally, even if it fails.
async fn call_and_verify(
    plugin: &Plugin,
    checks: &[crosschecking::ToCheck],
    database: &Arc<OpenDatabase>,
    tree: &Arc<Tree>,
    exclude: &[String],
    key: Option<&SealKey>,
    tally: &mut Tally,
) -> Result<CrosscheckReport> {
    let tables = plugin.readable().iter().map(|table| {
        (table.label.clone(), RowsTable { database: Arc::clone(database), table: Arc::new(table.clone()) })
    });
    let digests = Arc::new(Digests::new(Arc::clone(tree), exclude)?);
    let called = plugin.crosscheck(tables.collect(), DigestTree(Arc::clone(&digests))).await;
    let handed = Handed::from_tally(&called.tally, plugin.readable().iter().count());
    context::add_tally(tally, called.tally);
    let key = key.cloned().unwrap_or_else(SealKey::generate);
    ReportCheck { plugin, checks, handed, database, digests: &digests, key }.verified(called.result?, tally).await
}

/// How much a plugin received in its call. It cannot have counted more.
#[derive(Debug, Clone, Copy)]
struct Handed {
    tables: u64,
    rows: u64,
    /// Documents that the plugin named.
    asked: u64,
    /// Documents that the host listed for the plugin.
    named: u64,
}

impl Handed {
    fn from_tally(tally: &Tally, tables: usize) -> Self {
        let items = |function: &str| {
            tally.iter().filter(|((called, _), _)| *called == function).map(|(_, count)| count.items).sum()
        };
        Self {
            tables: tables as u64,
            rows: items("table-rows.page"),
            asked: items("documents-digests.digests"),
            named: items("documents-digests.names"),
        }
    }

    const fn all(self) -> u64 {
        self.tables.saturating_add(self.rows).saturating_add(self.asked).saturating_add(self.named)
    }
}

/// Rounds the numbers of a tally up to powers of two. A plugin chooses them after it saw rows, so exact numbers could
/// carry information.
fn coarse(tally: &Tally) -> Tally {
    let rounded = |number: u64| if number == 0 { 0 } else { number.checked_next_power_of_two().unwrap_or(u64::MAX) };
    let count =
        |count: &Count| Count { calls: rounded(count.calls), items: rounded(count.items), bytes: rounded(count.bytes) };
    tally.iter().map(|(function, counted)| (function.clone(), count(counted))).collect()
}

/// What a report of the plugin is checked against.
struct ReportCheck<'a> {
    plugin: &'a Plugin,
    checks: &'a [crosschecking::ToCheck],
    handed: Handed,
    database: &'a OpenDatabase,
    digests: &'a Digests,
    /// Makes pseudonyms for values that may not be shown.
    key: SealKey,
}

impl ReportCheck<'_> {
    async fn verified(&self, report: crosschecking::Report, tally: &Tally) -> Result<CrosscheckReport> {
        let crosschecking::Report { compared, missing, altered, orphaned, findings, heads } = report;
        self.at_most("compares", compared, self.handed.asked, "documents")?;
        self.at_most("names", orphaned.total, self.handed.named, "orphaned documents")?;
        let differing = missing.total.saturating_add(altered.total);
        if differing > compared {
            return Err(self.plugin.refused("its report counts more missing and altered documents than it compares"));
        }
        Ok(CrosscheckReport {
            compared,
            missing: self.rows("missing", missing).await?,
            altered: self.rows("altered", altered).await?,
            orphaned: self.paths(orphaned).await?,
            findings: self.findings(findings)?,
            heads: self.heads(heads).await?,
            plugin: plugin_record(self.plugin, &coarse(tally)),
        })
    }

    /// Refuses a count above what the plugin received. The message contains no number, because the count, and how much
    /// the plugin requested, may encode data that it read.
    fn at_most(&self, does: &str, count: u64, handed: u64, what: &str) -> Result<()> {
        if count <= handed {
            return Ok(());
        }
        Err(self.plugin.refused(format!("its report {does} more {what} than the plugin received")))
    }

    fn findings(&self, mut findings: Vec<crosschecking::Finding>) -> Result<Vec<Finding>> {
        let named: BTreeSet<u32> = findings.iter().map(|finding| finding.check).collect();
        if findings.is_empty() || named.len() < findings.len() {
            return Err(self.plugin.refused("its report has no findings, or two for one check"));
        }
        // The order could carry information, like that of rows, documents and heads.
        findings.sort_unstable_by_key(|finding| finding.check);
        findings.into_iter().map(|finding| self.finding(&finding)).collect()
    }

    fn finding(&self, finding: &crosschecking::Finding) -> Result<Finding> {
        let crosschecking::Finding { check, verdict, count, total } = *finding;
        let check = usize::try_from(check).ok().and_then(|check| self.checks.get(check)).ok_or_else(|| {
            let count = self.checks.len();
            self.plugin.refused(format!("its report has a finding for a check that is not among the {count} announced"))
        })?;
        if count > total {
            return Err(self.plugin.refused("its report counts more things than its own total"));
        }
        self.at_most("counts", total, self.handed.all(), "things")?;
        let verdict = match verdict {
            crosschecking::Verdict::Passed => CrosscheckVerdict::Passed,
            crosschecking::Verdict::Noted => CrosscheckVerdict::Noted,
            crosschecking::Verdict::Failed => CrosscheckVerdict::Failed,
            crosschecking::Verdict::Skipped => CrosscheckVerdict::Skipped,
        };
        let detail = printable(&format!("{count} of {total} {}", check.counts));
        Ok(Finding { name: printable(&check.name), verdict, detail })
    }

    /// Verifies the rows that the report names, and reads the columns that may be shown.
    async fn rows(&self, kind: &str, rows: crosschecking::Rows) -> Result<Paths> {
        let found = rows.first.len();
        self.check_list(kind, found, rows.total)?;
        let named: BTreeMap<(&str, i64), &crosschecking::RowName> =
            rows.first.iter().map(|row| ((row.table.as_str(), row.key), row)).collect();
        let mut by_table: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
        for (table, key) in named.keys() {
            by_table.entry(table).or_default().push(*key);
        }
        let mut values = BTreeMap::new();
        for (label, keys) in by_table {
            let table = self.table(label)?;
            values.insert(label, (table, self.database.named_rows(table, &keys, &table.shown).await?));
        }
        let shown = |row: &crosschecking::RowName| {
            let (table, values) = values.get(row.table.as_str())?;
            let values: Vec<&str> = values.get(&row.key)?.iter().flatten().map(String::as_str).collect();
            let label = || format!("{} {}", table.label, row.key);
            Some(if values.is_empty() { label() } else { printable(&values.join("/")) })
        };
        let first = named.values().map(|row| shown(row).ok_or_else(|| self.missing_row(row)));
        Ok(Paths { total: rows.total, first: first.collect::<Result<_>>()? })
    }

    async fn paths(&self, paths: crosschecking::Paths) -> Result<Paths> {
        self.check_list("orphaned", paths.first.len(), paths.total)?;
        let first: Vec<String> = paths.first.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
        let there = self.digests.are_files(first.clone()).await?;
        if there.len() < first.len() || there.contains(&false) {
            return Err(self.plugin.refused("its report names an orphaned document that does not exist"));
        }
        Ok(Paths { total: paths.total, first: first.iter().map(|path| printable(path)).collect() })
    }

    async fn heads(&self, heads: Vec<crosschecking::Head>) -> Result<Vec<Head>> {
        if heads.len() > HEADS_MAX {
            return Err(self.plugin.refused(format!("its report has more than {HEADS_MAX} heads")));
        }
        let mut checked = Vec::with_capacity(heads.len());
        for head in heads {
            self.at_most("counts", head.entries, self.handed.rows, "entries of a log")?;
            let table = self.table(&head.last.table)?;
            let columns: Vec<String> = head.part.iter().chain([&head.signature]).cloned().collect();
            let is_shown = |column: &String| table.shown.contains(column);
            if !columns.iter().all(|column| table.columns.contains(column)) {
                return Err(self.plugin.refused("its report names a column that the plugin may not read"));
            }
            let rows = self.database.named_rows(table, &[head.last.key], &columns).await?;
            let values = rows.get(&head.last.key).ok_or_else(|| self.missing_row(&head.last))?;
            let (parts, signature) = values.split_at(head.part.as_slice().len().min(values.len()));
            let part = head.part.iter().zip(parts).map(|(column, value)| {
                let value = value.as_deref().unwrap_or("null");
                // A pseudonym still distinguishes the logs, in this report and in later ones.
                let value = if is_shown(column) { value.to_owned() } else { self.key.pseudonym(value) };
                format!(", {column} {value}")
            });
            let log = printable(&format!("{}{}", table.label, part.collect::<String>()));
            if checked.iter().any(|known: &Head| known.log == log) {
                return Err(self.plugin.refused("its report names one log twice"));
            }
            // The plugin's own count could carry information, so the host counts the entries.
            let entries = self.database.count_matching_rows(table, head.part.as_slice(), parts).await?;
            let signature = signature.first().filter(|_| is_shown(&head.signature)).cloned().flatten();
            let signature = printable(&signature.unwrap_or_default());
            checked.push(Head { log, entries, last: head.last.key, signature });
        }
        checked.sort_unstable_by(|a, b| a.log.cmp(&b.log));
        Ok(checked)
    }

    fn check_list(&self, kind: &str, found: usize, total: u64) -> Result<()> {
        if found <= PATHS_MAX && found as u64 <= total {
            return Ok(());
        }
        let why = format!("its report lists more {kind} documents than it counts, or more than {PATHS_MAX}");
        Err(self.plugin.refused(why))
    }

    fn table(&self, label: &str) -> Result<&ReadableTable> {
        self.plugin
            .readable()
            .iter()
            .find(|table| table.label == label)
            .ok_or_else(|| self.plugin.refused("its report names a table that the plugin did not receive"))
    }

    fn missing_row(&self, row: &crosschecking::RowName) -> Error {
        self.plugin.refused(format!("its report names a row of {} that does not exist", printable(&row.table)))
    }
}
