//! Says whether a Dolibarr database and the documents beside it agree, and how far the anti-fraud log reaches.
//!
//! `settings.rs` knows what Dolibarr does not note, `policy.rs` compares and judges, and this file translates between them and
//! the world `crosscheck`.

mod policy;
mod settings;

wit_bindgen::generate!({ world: "crosscheck", path: "../../wit", generate_all });

use backup::host::documents_digests::{self as documents, Document, Tree};
use backup::host::table_rows::{self as rows, Order, Row, Table};
use backup::host::types::Error;
use exports::backup::host::crosschecking as export;
use exports::backup::host::crosschecking::{Guest, Report};
use policy::{Comparison, DOCUMENT_COLUMNS, ENTITY, Finding, Found, LOG, Log, Noted, SIGNATURE, Verdict};
use settings::Settings;

/// Rows and documents in one question, the most that the host answers.
const PAGE: u32 = 1_000;

struct Plugin;

impl Guest for Plugin {
    fn settings_schema() -> String {
        settings::SCHEMA.into()
    }

    fn check(settings: String, tables: Vec<(String, Table)>, tree: &Tree) -> Result<Report, Error> {
        let settings = Settings::parse(&settings).map_err(Error::Denied)?;
        let name = |table: &str| format!("{}{table}", settings.prefix);
        let (noted, log) = (name("ecm_files"), name("blockedlog"));
        let handed = |name: &str| tables.iter().find(|(handed, _)| handed == name).map(|(_, table)| table);
        let Some(table) = handed(&noted) else {
            let said = format!("the table `{noted}` may not be read: name it in [plugins.crosscheck.tables]");
            return Err(Error::Denied(said));
        };
        let mut comparison = Comparison::new(settings.clone());
        let mut findings = if compare(&mut comparison, table, &noted, tree)? {
            comparison.findings()
        } else {
            let detail = format!("the database has no table {noted}; check the setting `prefix`");
            vec![Finding { name: "documents present".into(), verdict: Verdict::Failed, detail }]
        };
        let (finding, heads) = match handed(&log) {
            Some(table) => reach(table, &log)?,
            None => (skipped(format!("{log} is not among the tables of the configuration")), Vec::new()),
        };
        findings.push(finding);
        Ok(Report {
            compared: comparison.totals.compared,
            missing: comparison.totals.missing.into(),
            altered: comparison.totals.altered.into(),
            orphaned: comparison.totals.orphaned.into(),
            findings: findings.into_iter().map(export::Finding::from).collect(),
            heads,
        })
    }
}

/// Looks every named document up, and then names every document. Whether there is such a table.
fn compare(comparison: &mut Comparison, table: &Table, name: &str, tree: &Tree) -> Result<bool, Error> {
    let Some(shape) = rows::describe(table)? else { return Ok(false) };
    let mut places = [0; DOCUMENT_COLUMNS.len()];
    for (place, column) in places.iter_mut().zip(DOCUMENT_COLUMNS) {
        *place = place_of(&shape.columns, column, name)?;
    }
    each_row(table, |page| {
        let mut asked = Vec::new();
        for row in page {
            match policy::noted(&places.map(|place| row.values.get(place).cloned().flatten())) {
                Some(noted) => asked.push(noted),
                None => comparison.nameless(),
            }
        }
        let elsewhere = settle(comparison, asked, tree)?;
        settle(comparison, elsewhere, tree)?;
        Ok(())
    })?;
    let mut after = None;
    loop {
        let listing = documents::names(tree, after.as_deref(), PAGE)?;
        comparison.unseen(listing.unnamed.saturating_add(listing.unreadable));
        for document in listing.documents {
            comparison.saw(document.path);
        }
        if listing.next.is_none() {
            return Ok(true);
        }
        after = listing.next;
    }
}

/// Asks for some documents; gives back those to look for elsewhere.
fn settle(comparison: &mut Comparison, asked: Vec<Noted>, tree: &Tree) -> Result<Vec<Noted>, Error> {
    let paths: Vec<String> = asked.iter().map(|noted| noted.path.clone()).collect();
    let found = if paths.is_empty() { Vec::new() } else { documents::digests(tree, &paths)? };
    if found.len() != asked.len() {
        return Err(Error::Permanent("the host answered for other documents than those asked".into()));
    }
    let pairs = asked.into_iter().zip(found);
    Ok(pairs.filter_map(|(noted, found)| comparison.settle(noted, found.into())).collect())
}

/// How far a log reaches.
fn reach(table: &Table, name: &str) -> Result<(Finding, Vec<export::Head>), Error> {
    let Some(shape) = rows::describe(table)? else {
        return Ok((skipped(format!("the database has no table {name}")), Vec::new()));
    };
    let signature = place_of(&shape.columns, SIGNATURE, name)?;
    let entity = shape.columns.iter().position(|column| column == ENTITY);
    let mut log = Log::default();
    each_row(table, |page| {
        for row in page {
            let company =
                entity.and_then(|place| row.values.get(place).cloned().flatten()).unwrap_or_else(|| "1".into());
            log.entry(row.key, &company, row.values.get(signature).cloned().flatten());
        }
        Ok(())
    })?;
    let head = |(company, head): (&str, &policy::Head)| export::Head {
        log: format!("{name}, entity {company}"),
        entries: head.entries,
        last: head.last,
        signature: head.signature.clone(),
    };
    Ok((log.finding(shape.rows), log.heads().map(head).collect()))
}

/// Every row in the order of the key, a page at a time.
fn each_row(table: &Table, mut take: impl FnMut(&[Row]) -> Result<(), Error>) -> Result<(), Error> {
    let mut after = None;
    loop {
        let page = rows::page(table, after, Order::Ascending, PAGE)?;
        let Some(last) = page.last().map(|row| row.key) else { return Ok(()) };
        take(&page)?;
        after = Some(last);
    }
}

fn place_of(columns: &[String], column: &str, table: &str) -> Result<usize, Error> {
    columns.iter().position(|found| found == column).ok_or_else(|| {
        Error::Denied(format!(
            "the column `{column}` of {table} may not be read: name it in [plugins.crosscheck.tables]"
        ))
    })
}

fn skipped(detail: String) -> Finding {
    Finding { name: LOG.into(), verdict: Verdict::Skipped, detail }
}

impl From<Document> for Found {
    fn from(document: Document) -> Self {
        match document {
            Document::File(digest) => Self::File(digest.md5),
            Document::Missing => Self::Missing,
            Document::NotAFile => Self::NotAFile,
            Document::Unreadable(why) => Self::Unreadable(why),
        }
    }
}

impl From<policy::Paths> for export::Paths {
    fn from(paths: policy::Paths) -> Self {
        Self { total: paths.total, first: paths.first }
    }
}

impl From<Finding> for export::Finding {
    fn from(finding: Finding) -> Self {
        let verdict = match finding.verdict {
            Verdict::Passed => export::Verdict::Passed,
            Verdict::Noted => export::Verdict::Noted,
            Verdict::Failed => export::Verdict::Failed,
            Verdict::Skipped => export::Verdict::Skipped,
        };
        Self { name: finding.name, verdict, detail: finding.detail }
    }
}

// Component export names are no symbols to a native linker, and only a component needs them.
#[cfg(target_family = "wasm")]
export!(Plugin);
