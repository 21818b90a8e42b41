//! The cross-check of both halves: a crosscheck plugin compares a database with the documents that belong to it, and the host
//! checks its answer. No backup runs it; a drill does, on what it restored.
//!
//! Such a plugin sees rows, so no text of its making comes out: it says what it looks at before it is handed anything, and after
//! that numbers alone. It names rows and documents, of which the host makes sure that they are there, and the host reads of a
//! row what the configuration lets a report show.
//!
//! The plugin is handed the tables that the configuration names, each with its columns, and the folder. It reads; nothing
//! here writes anywhere.

#[cfg(test)]
mod tests;

use crate::session::Host;
use crate::tally::plugin_record;
use base::error::{Error, Result};
use base::evidence::SealKey;
use base::text::printable;
use catalogue::proof::{CrosscheckReport, Finding, Head, PATHS_MAX, Paths, Verdict};
use catalogue::record::PluginRecord;
use documents::{Digests, Tree};
use plugin::call::crosschecking;
use plugin::capabilities::documents::DigestTree;
use plugin::capabilities::postgres::RowsTable;
use plugin::context::{self, Count, Tally};
use plugin::{Plugin, Role};
use postgres::{ReadableTable, Session};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What one plugin looks at, and so findings of one report. The shipped one has nine.
const CHECKS_MAX: usize = 16;

/// Heads of one report: one for each company.
const HEADS_MAX: usize = 100;

/// A cross-check without a report.
#[derive(Debug)]
pub struct Failed {
    /// Why.
    pub error: Error,
    /// What the plugin did all the same; none where it was not loaded.
    pub plugin: Option<PluginRecord>,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self { error, plugin: None }
    }
}

/// Compares a database with documents, as the configuration's crosscheck plugin sees them. Both are only read. `exclude` are the patterns of
/// what the documents' archive leaves out.
///
/// # Errors
/// As [`Host::plugin`], the plugin's own, and [`base::error::Class::PluginRefused`] for a report that contradicts itself.
pub async fn run(
    host: &Host,
    session: &Arc<Session>,
    tree: &Arc<Tree>,
    exclude: &[String],
    key: Option<&SealKey>,
) -> Result<CrosscheckReport, Failed> {
    let plugin = host.plugin(Role::Crosscheck).await?;
    compare(&plugin, session, tree, exclude, key).await
}

/// The same with a plugin that is loaded. With a key, what is hidden of a row has the same name in each report.
///
/// # Errors
/// As [`run`].
pub async fn compare(
    plugin: &Plugin,
    session: &Arc<Session>,
    tree: &Arc<Tree>,
    exclude: &[String],
    key: Option<&SealKey>,
) -> Result<CrosscheckReport, Failed> {
    let said = plugin.checks().await;
    let mut tally = said.tally;
    let compared = match valid(plugin, said.result) {
        Ok(checks) => answer(plugin, &checks, session, tree, exclude, key, &mut tally).await,
        Err(error) => Err(error),
    };
    compared.map_err(|error| Failed { error, plugin: Some(plugin_record(plugin, &coarse(&tally))) })
}

/// What a plugin says that it looks at.
fn valid(plugin: &Plugin, said: Result<Vec<crosschecking::ToCheck>>) -> Result<Vec<crosschecking::ToCheck>> {
    let checks = said?;
    if checks.is_empty() || checks.len() > CHECKS_MAX {
        let said = format!("it looks at {} things, and 1 to {CHECKS_MAX} are taken", checks.len());
        return Err(plugin.refused(said));
    }
    if checks.iter().any(|check| check.name.trim().is_empty()) {
        return Err(plugin.refused("something that it looks at has no name"));
    }
    Ok(checks)
}

/// The call that sees rows, and what is checked of its answer. Adds to the tally what was called in it, however it ends.
async fn answer(
    plugin: &Plugin,
    checks: &[crosschecking::ToCheck],
    session: &Arc<Session>,
    tree: &Arc<Tree>,
    exclude: &[String],
    key: Option<&SealKey>,
    tally: &mut Tally,
) -> Result<CrosscheckReport> {
    let tables = plugin
        .readable()
        .iter()
        .map(|table| (table.label.clone(), RowsTable { session: Arc::clone(session), table: Arc::new(table.clone()) }));
    let digests = Arc::new(Digests::new(Arc::clone(tree), exclude)?);
    let called = plugin.crosscheck(tables.collect(), DigestTree(Arc::clone(&digests))).await;
    let handed = Handed::of(&called.tally, plugin.readable().iter().count());
    context::add(tally, called.tally);
    let key = key.cloned().unwrap_or_else(SealKey::draw);
    Answer { plugin, checks, handed, session, digests: &digests, key }.checked(called.result?, tally).await
}

/// How much a plugin was handed in its call: it cannot have counted more.
#[derive(Debug, Clone, Copy)]
struct Handed {
    tables: u64,
    rows: u64,
    /// Documents that it named itself.
    asked: u64,
    /// Documents that were named to it.
    named: u64,
}

impl Handed {
    fn of(tally: &Tally, tables: usize) -> Self {
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

/// How often a plugin calls a function, and for how much, is a number that it chooses after it saw rows: of each only the power of two that it
/// does not exceed is kept.
fn coarse(tally: &Tally) -> Tally {
    let rounded = |number: u64| if number == 0 { 0 } else { number.checked_next_power_of_two().unwrap_or(u64::MAX) };
    let count =
        |count: &Count| Count { calls: rounded(count.calls), items: rounded(count.items), bytes: rounded(count.bytes) };
    tally.iter().map(|(function, counted)| (function.clone(), count(counted))).collect()
}

/// What an answer of the plugin is checked with.
struct Answer<'a> {
    plugin: &'a Plugin,
    checks: &'a [crosschecking::ToCheck],
    handed: Handed,
    session: &'a Session,
    digests: &'a Digests,
    /// What names that which is not to be shown.
    key: SealKey,
}

impl Answer<'_> {
    async fn checked(&self, report: crosschecking::Report, tally: &Tally) -> Result<CrosscheckReport> {
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

    /// Refuses a number of things that it was not handed. That number may be anything that it read, and so may be how much it asked for.
    fn at_most(&self, does: &str, count: u64, handed: u64, what: &str) -> Result<()> {
        if count <= handed {
            return Ok(());
        }
        Err(self.plugin.refused(format!("its report {does} more {what} than it was handed")))
    }

    fn findings(&self, mut findings: Vec<crosschecking::Finding>) -> Result<Vec<Finding>> {
        let named: BTreeSet<u32> = findings.iter().map(|finding| finding.check).collect();
        if findings.is_empty() || named.len() < findings.len() {
            return Err(self.plugin.refused("its report has no finding, or two on one check"));
        }
        // Their order could say anything, as that of rows, documents and heads.
        findings.sort_unstable_by_key(|finding| finding.check);
        findings.into_iter().map(|finding| self.finding(&finding)).collect()
    }

    fn finding(&self, finding: &crosschecking::Finding) -> Result<Finding> {
        let crosschecking::Finding { check, verdict, count, total } = *finding;
        let check = usize::try_from(check).ok().and_then(|check| self.checks.get(check)).ok_or_else(|| {
            let said = format!("its report has a finding on a check beside the {} that it named", self.checks.len());
            self.plugin.refused(said)
        })?;
        if count > total {
            return Err(self.plugin.refused("its report counts more things than there are of them"));
        }
        self.at_most("counts", total, self.handed.all(), "things")?;
        let verdict = match verdict {
            crosschecking::Verdict::Passed => Verdict::Passed,
            crosschecking::Verdict::Noted => Verdict::Noted,
            crosschecking::Verdict::Failed => Verdict::Failed,
            crosschecking::Verdict::Skipped => Verdict::Skipped,
        };
        let detail = printable(&format!("{count} of {total} {}", check.counts));
        Ok(Finding { name: printable(&check.name), verdict, detail })
    }

    /// What may be shown of rows that were named.
    async fn rows(&self, kind: &str, rows: crosschecking::Rows) -> Result<Paths> {
        let found = rows.first.len();
        self.listed(kind, found, rows.total)?;
        let named: BTreeMap<(&str, i64), &crosschecking::RowName> =
            rows.first.iter().map(|row| ((row.table.as_str(), row.key), row)).collect();
        let mut by_table: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
        for (table, key) in named.keys() {
            by_table.entry(table).or_default().push(*key);
        }
        let mut values = BTreeMap::new();
        for (label, keys) in by_table {
            let table = self.table(label)?;
            values.insert(label, (table, self.session.named_rows(table, &keys, &table.shown).await?));
        }
        let shown = |row: &crosschecking::RowName| {
            let (table, values) = values.get(row.table.as_str())?;
            let values: Vec<&str> = values.get(&row.key)?.iter().flatten().map(String::as_str).collect();
            let label = || format!("{} {}", table.label, row.key);
            Some(if values.is_empty() { label() } else { printable(&values.join("/")) })
        };
        let first = named.values().map(|row| shown(row).ok_or_else(|| self.no_row(row)));
        Ok(Paths { total: rows.total, first: first.collect::<Result<_>>()? })
    }

    async fn paths(&self, paths: crosschecking::Paths) -> Result<Paths> {
        self.listed("orphaned", paths.first.len(), paths.total)?;
        let first: Vec<String> = paths.first.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
        let there = self.digests.are_files(first.clone()).await?;
        if there.len() < first.len() || there.contains(&false) {
            return Err(self.plugin.refused("its report names an orphaned document that is not there"));
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
                return Err(self.plugin.refused("its report names a column that it may not read"));
            }
            let rows = self.session.named_rows(table, &[head.last.key], &columns).await?;
            let values = rows.get(&head.last.key).ok_or_else(|| self.no_row(&head.last))?;
            let (parts, signature) = values.split_at(head.part.as_slice().len().min(values.len()));
            let part = head.part.iter().zip(parts).map(|(column, value)| {
                let value = value.as_deref().unwrap_or("null");
                // What is not to be shown still tells the logs apart, in this report and the next.
                let value = if is_shown(column) { value.to_owned() } else { self.key.pseudonym(value) };
                format!(", {column} {value}")
            });
            let log = printable(&format!("{}{}", table.label, part.collect::<String>()));
            if checked.iter().any(|known: &Head| known.log == log) {
                return Err(self.plugin.refused("its report names one log twice"));
            }
            // How long a log is, is a number that may say anything: the host counts.
            let entries = self.session.rows_like(table, head.part.as_slice(), parts).await?;
            let signature = signature.first().filter(|_| is_shown(&head.signature)).cloned().flatten();
            let signature = printable(&signature.unwrap_or_default());
            checked.push(Head { log, entries, last: head.last.key, signature });
        }
        checked.sort_unstable_by(|a, b| a.log.cmp(&b.log));
        Ok(checked)
    }

    fn listed(&self, kind: &str, found: usize, total: u64) -> Result<()> {
        if found <= PATHS_MAX && found as u64 <= total {
            return Ok(());
        }
        let said = format!("its report lists more {kind} documents than it counts, or more than {PATHS_MAX}");
        Err(self.plugin.refused(said))
    }

    fn table(&self, label: &str) -> Result<&ReadableTable> {
        self.plugin
            .readable()
            .iter()
            .find(|table| table.label == label)
            .ok_or_else(|| self.plugin.refused("its report names a table that it was not handed"))
    }

    fn no_row(&self, row: &crosschecking::RowName) -> Error {
        self.plugin.refused(format!("its report names a row of {} that is not there", printable(&row.table)))
    }
}
