//! Checks whether a Dolibarr database and its documents agree, and how far the anti-fraud log reaches.
//!
//! `settings.rs` knows which documents Dolibarr does not record, `policy.rs` compares and decides, and this file
//! translates between them and the world `crosscheck`.

#![cfg_attr(target_family = "wasm", expect(unsafe_code, reason = "the exports that wit-bindgen generates"))]

mod policy;
mod settings;

wit_bindgen::generate!({ world: "crosscheck", path: "../../wit", generate_all });

use backup::host::documents_digests::{self as documents, Document, Tree};
use backup::host::table_rows::{self as rows, Order, Row, Table};
use backup::host::types::Error;
use exports::backup::host::crosschecking as export;
use exports::backup::host::crosschecking::{Guest, Readable, Report, RowName, ToCheck};
use kit::PluginSettings;
use policy::{Check, Comparison, DOCUMENT_COLUMNS, ENTITY, Finding, Found, Log, Noted, SIGNATURE, Verdict};
use settings::Settings;

/// Rows or documents per request. The host returns no more.
const PAGE: u32 = 1_000;

struct Plugin;

impl Guest for Plugin {
    fn settings_schema() -> String {
        Settings::SCHEMA.into()
    }

    fn checks(settings: String, tables: Vec<Readable>) -> Result<Vec<ToCheck>, Error> {
        let settings = Settings::parse(&settings).map_err(Error::Denied)?;
        let (noted, log) = table_names(&settings);
        let find = |name: &str| tables.iter().find(|readable| readable.table == name);
        let missing_grant = |name: &str, columns: &[&str]| match find(name) {
            None => Some(table_denied(name)),
            Some(table) => {
                let unlisted = columns.iter().find(|&&column| !table.columns.iter().any(|listed| listed == column));
                unlisted.map(|column| column_denied(column, name))
            }
        };
        let denied = missing_grant(&noted, &DOCUMENT_COLUMNS);
        let denied = denied.or_else(|| find(&log).and_then(|_| missing_grant(&log, &[SIGNATURE])));
        if let Some(denied) = denied {
            return Err(Error::Denied(denied));
        }
        let to_check = |check: Check| ToCheck { name: check.name().into(), counts: check.counts(&noted, &log) };
        Ok(Check::ALL.into_iter().map(to_check).collect())
    }

    fn check(settings: String, tables: Vec<(String, Table)>, tree: &Tree) -> Result<Report, Error> {
        let settings = Settings::parse(&settings).map_err(Error::Denied)?;
        let (noted, log) = table_names(&settings);
        let handed = |name: &str| tables.iter().find(|(handed, _)| handed == name).map(|(_, table)| table);
        let mut comparison = Comparison::new(settings);
        let mut findings = match handed(&noted) {
            Some(table) if compare(&mut comparison, table, &noted, tree)? => comparison.findings(),
            Some(_) | None => vec![Finding { check: Check::Noted, verdict: Verdict::Failed, count: 0, total: 1 }],
        };
        let (finding, heads) = match handed(&log) {
            Some(table) => reach(table, &log)?,
            None => (SKIPPED, Vec::new()),
        };
        findings.push(finding);
        let row = |key: &i64| RowName { table: noted.clone(), key: *key };
        let rows =
            |rows: &policy::First<i64>| export::Rows { total: rows.total, first: rows.first.iter().map(row).collect() };
        Ok(Report {
            compared: comparison.totals.compared,
            missing: rows(&comparison.totals.missing),
            altered: rows(&comparison.totals.altered),
            orphaned: export::Paths {
                total: comparison.totals.orphaned.total,
                first: comparison.totals.orphaned.first.clone(),
            },
            findings: findings.into_iter().map(export::Finding::from).collect(),
            heads,
        })
    }
}

/// The finding for a log that does not exist or may not be read.
const SKIPPED: Finding = Finding { check: Check::Log, verdict: Verdict::Skipped, count: 0, total: 0 };

/// The names of the tables of documents and of the anti-fraud log.
fn table_names(settings: &Settings) -> (String, String) {
    (format!("{}ecm_files", settings.prefix), format!("{}blockedlog", settings.prefix))
}

/// Looks up every document that the table names, then lists every document. Returns whether the table exists.
fn compare(comparison: &mut Comparison, table: &Table, name: &str, tree: &Tree) -> Result<bool, Error> {
    let Some(shape) = rows::describe(table)? else { return Ok(false) };
    let mut places = [0; DOCUMENT_COLUMNS.len()];
    for (place, column) in places.iter_mut().zip(DOCUMENT_COLUMNS) {
        *place = place_of(&shape.columns, column, name)?;
    }
    each_row(table, |page| {
        let mut asked = Vec::new();
        for row in page {
            match policy::noted(row.key, &places.map(|place| row.values.get(place).cloned().flatten())) {
                Some(noted) => asked.push(noted),
                None => comparison.nameless(),
            }
        }
        let elsewhere = settle(comparison, asked, tree)?;
        settle(comparison, elsewhere, tree)?;
        let missing = comparison.take_missing();
        if !missing.is_empty() {
            let paths: Vec<String> = missing.iter().map(|(_, path)| path.clone()).collect();
            comparison.missing(missing.into_iter().map(|(key, _)| key).zip(documents::left_out(tree, &paths)?));
        }
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

/// Looks up some documents. Returns those that must be looked up at another path.
fn settle(comparison: &mut Comparison, asked: Vec<Noted>, tree: &Tree) -> Result<Vec<Noted>, Error> {
    let paths: Vec<String> = asked.iter().map(|noted| noted.path.clone()).collect();
    let found = if paths.is_empty() { Vec::new() } else { documents::digests(tree, &paths)? };
    if found.len() != asked.len() {
        return Err(Error::Permanent("the host answered for other documents than requested".into()));
    }
    let pairs = asked.into_iter().zip(found);
    Ok(pairs.filter_map(|(noted, found)| comparison.settle(noted, found.into())).collect())
}

/// How far the anti-fraud log reaches: a finding and the last entry of each company.
fn reach(table: &Table, name: &str) -> Result<(Finding, Vec<export::Head>), Error> {
    let Some(shape) = rows::describe(table)? else {
        return Ok((SKIPPED, Vec::new()));
    };
    let signature = place_of(&shape.columns, SIGNATURE, name)?;
    let entity = shape.columns.iter().position(|column| column == ENTITY);
    let mut log = Log::default();
    each_row(table, |page| {
        for row in page {
            let company = entity.and_then(|place| row.values.get(place).cloned().flatten());
            let is_signed = row.values.get(signature).and_then(Option::as_ref).is_some_and(|text| !text.is_empty());
            log.entry(row.key, company.as_deref().unwrap_or("1"), is_signed);
        }
        Ok(())
    })?;
    let head = |head: &policy::Head| export::Head {
        last: RowName { table: name.into(), key: head.last },
        entries: head.entries,
        part: entity.map(|_| ENTITY.into()),
        signature: SIGNATURE.into(),
    };
    Ok((log.finding(shape.rows), log.heads().map(head).collect()))
}

/// Passes every row to `visit` in key order, one page at a time.
fn each_row(table: &Table, mut visit: impl FnMut(&[Row]) -> Result<(), Error>) -> Result<(), Error> {
    let mut after = None;
    loop {
        let page = rows::page(table, after, Order::Ascending, PAGE)?;
        let Some(last) = page.last().map(|row| row.key) else { return Ok(()) };
        visit(&page)?;
        after = Some(last);
    }
}

fn place_of(columns: &[String], column: &str, table: &str) -> Result<usize, Error> {
    let place = columns.iter().position(|found| found == column);
    place.ok_or_else(|| Error::Denied(column_denied(column, table)))
}

fn table_denied(table: &str) -> String {
    format!("the plugin may not read the table `{table}`: list it in [plugins.crosscheck.tables]")
}

fn column_denied(column: &str, table: &str) -> String {
    format!("the plugin may not read the column `{column}` of {table}: list it in [plugins.crosscheck.tables]")
}

impl From<Document> for Found {
    fn from(document: Document) -> Self {
        match document {
            Document::File(digest) => Self::File(digest.md5),
            Document::Missing => Self::Missing,
            Document::NotAFile => Self::NotAFile,
            Document::Unreadable(_) => Self::Unreadable,
        }
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
        Self { check: finding.check as u32, verdict, count: finding.count, total: finding.total }
    }
}

// A native linker does not accept the export names of a component, and only a component needs them.
#[cfg(target_family = "wasm")]
export!(Plugin);
