//! Compares the database with the documents: plain Rust over what the host reports. It never calls the host.
//!
//! Dolibarr records each document that it creates or receives in `ecm_files`: `filepath` and `filename` are its path
//! below the documents folder, and `label` is the MD5 of its content. The documents of company N, except the first, are
//! in the folder `N`.

use crate::settings::{Ignored, Meaning, Settings};
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};

/// Columns of `ecm_files` that are compared, without the key.
pub const DOCUMENT_COLUMNS: [&str; 4] = ["entity", "filepath", "filename", "label"];

/// The column that `blockedlog` must have.
pub const SIGNATURE: &str = "signature";

/// The company of a row. A table without this column has one company.
pub const ENTITY: &str = "entity";

/// Hexadecimal digits of an MD5.
const MD5_DIGITS: usize = 32;

/// Companies whose logs are reported. The host accepts 100 heads.
const COMPANIES_MAX: usize = 100;

/// A document that the database names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noted {
    /// The row that names it.
    pub key: i64,
    /// Below the documents folder.
    pub path: String,
    /// Where to look if `path` does not exist: the same path in the company's own folder.
    pub elsewhere: Option<String>,
    /// Its MD5; `None` if the database has none.
    pub md5: Option<String>,
}

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A file with this MD5.
    File(String),
    /// Nothing.
    Missing,
    /// Something other than a file.
    NotAFile,
    /// A file that cannot be read.
    Unreadable,
}

/// Reads a row of `ecm_files`, in the order of [`DOCUMENT_COLUMNS`]. Returns `None` if the row names no document.
pub fn noted(key: i64, values: &[Option<String>; 4]) -> Option<Noted> {
    let [entity, folder, name, label] = values.each_ref().map(|value| value.as_deref().unwrap_or_default());
    let parts = folder.split('/').filter(|part| !matches!(*part, "" | "."));
    let name = name.trim_matches('/');
    if name.is_empty() {
        return None;
    }
    let path = parts.chain([name]).collect::<Vec<_>>().join("/");
    let company = entity.parse::<u32>().ok().filter(|entity| *entity > 1);
    let elsewhere =
        company.map(|company| format!("{company}/{path}")).filter(|_| !path.starts_with(&format!("{entity}/")));
    let is_md5 = label.len() == MD5_DIGITS && label.bytes().all(|b| b.is_ascii_hexdigit());
    Some(Noted { key, path, elsewhere, md5: is_md5.then(|| label.to_ascii_lowercase()) })
}

/// All things of one kind are counted; the first ones are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct First<T> {
    /// How many.
    pub total: u64,
    /// The first ones.
    pub first: Vec<T>,
}

impl<T> Default for First<T> {
    fn default() -> Self {
        Self { total: 0, first: Vec::new() }
    }
}

impl<T> First<T> {
    fn add(&mut self, one: T, shown: usize) {
        self.total += 1;
        if self.first.len() < shown {
            self.first.push(one);
        }
    }
}

/// A comparison in progress.
#[derive(Debug)]
pub struct Comparison {
    settings: Settings,
    ignored: Ignored,
    /// Hashes of the paths of existing documents that the database names: eight bytes each, because a plugin has
    /// little memory.
    named: BTreeSet<u64>,
    /// Rows whose document does not exist, with its path, until the host reports whether the archive leaves it out.
    unexplained: Vec<(i64, String)>,
    /// The counts so far.
    pub totals: Totals,
}

/// The counts of a comparison.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals {
    /// Documents that the database names.
    pub compared: u64,
    /// Of these, documents without an MD5 in the database.
    pub without_digest: u64,
    /// Rows that name no document.
    pub nameless: u64,
    /// Rows whose document does not exist, although the archive does not leave it out.
    pub missing: First<i64>,
    /// Rows whose document the archive leaves out.
    pub left_out: u64,
    /// Rows whose document has different content or cannot be read.
    pub altered: First<i64>,
    /// Documents that the database does not name.
    pub orphaned: First<String>,
    /// Documents that exist.
    pub existing: u64,
    /// Files that the host could not name or read.
    pub unseen: u64,
}

impl Comparison {
    /// An empty comparison.
    pub fn new(settings: Settings) -> Self {
        let ignored = Ignored::new(&settings);
        Self { settings, ignored, named: BTreeSet::new(), unexplained: Vec::new(), totals: Totals::default() }
    }

    /// Records a document that the database names, with what is at its path. If nothing is there, returns the other
    /// path to look at.
    pub fn settle(&mut self, noted: Noted, found: Found) -> Option<Noted> {
        if let (Found::Missing, Some(elsewhere)) = (&found, &noted.elsewhere) {
            return Some(Noted { path: elsewhere.clone(), elsewhere: None, ..noted });
        }
        self.totals.compared += 1;
        let shown = self.settings.shown;
        match found {
            Found::Missing => self.unexplained.push((noted.key, noted.path)),
            Found::NotAFile => self.totals.missing.add(noted.key, shown),
            Found::Unreadable => {
                self.named.insert(hash(&noted.path));
                self.totals.altered.add(noted.key, shown);
            }
            Found::File(md5) => {
                self.named.insert(hash(&noted.path));
                match noted.md5 {
                    None => self.totals.without_digest += 1,
                    Some(known) if known == md5 => {}
                    Some(_) => self.totals.altered.add(noted.key, shown),
                }
            }
        }
        None
    }

    /// Removes and returns the rows whose documents were not found since the last call. Pass them to
    /// [`Comparison::missing`] with the host's answer.
    pub fn take_missing(&mut self) -> Vec<(i64, String)> {
        std::mem::take(&mut self.unexplained)
    }

    /// Records rows whose documents were not found, and whether the archive leaves each out.
    pub fn missing(&mut self, rows: impl IntoIterator<Item = (i64, bool)>) {
        for (key, is_left_out) in rows {
            match is_left_out {
                true => self.totals.left_out += 1,
                false => self.totals.missing.add(key, self.settings.shown),
            }
        }
    }

    /// Records a row that names no document.
    pub fn nameless(&mut self) {
        self.totals.nameless += 1;
    }

    /// Records a document that exists. Every row must have been recorded before.
    pub fn saw(&mut self, path: String) {
        self.totals.existing += 1;
        if !self.named.contains(&hash(&path)) && !self.ignored.matches(&path) {
            self.totals.orphaned.add(path, self.settings.shown);
        }
    }

    /// Records how many files the host could not name or read.
    pub fn unseen(&mut self, count: u64) {
        self.totals.unseen = self.totals.unseen.saturating_add(count);
    }

    /// The findings about the documents.
    pub fn findings(&self) -> Vec<Finding> {
        let Totals { compared, without_digest, nameless, missing, left_out, altered, orphaned, existing, unseen } =
            &self.totals;
        let verdict = |total: u64, meaning: Meaning| match (total, meaning) {
            (0, _) => Verdict::Passed,
            (_, Meaning::Fail) => Verdict::Failed,
            (_, Meaning::Report) => Verdict::Noted,
        };
        let (missing, altered, orphaned) = (missing.total, altered.total, orphaned.total);
        let settings = &self.settings;
        let finding = |check, verdict, count, total| Finding { check, verdict, count, total };
        let mut findings = vec![
            finding(Check::Present, verdict(missing, settings.missing), compared - missing - left_out, *compared),
            finding(Check::Unaltered, verdict(altered, settings.altered), altered, *compared),
            finding(Check::Known, verdict(orphaned, settings.orphaned), orphaned, *existing),
        ];
        let others = [
            (Check::LeftOut, *left_out, *compared),
            (Check::WithoutDigest, *without_digest, *compared),
            (Check::Nameless, *nameless, compared + nameless),
            (Check::Unseen, *unseen, existing + unseen),
        ];
        let others = others.into_iter().filter(|(_, count, _)| *count > 0);
        findings.extend(others.map(|(check, count, total)| finding(check, Verdict::Noted, count, total)));
        findings
    }
}

/// A reproducible hash: [`DefaultHasher::new`] has fixed keys.
fn hash(path: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    hasher.finish()
}

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing wrong.
    Passed,
    /// Worth knowing, but not a failure.
    Noted,
    /// The check failed.
    Failed,
    /// The check could not be made.
    Skipped,
}

/// A check. Its number is its place in [`Check::ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// Whether the database has the table of documents.
    Noted,
    /// Documents that the database names and that exist.
    Present,
    /// Documents that the archive leaves out.
    LeftOut,
    /// Documents whose content differs from the MD5 in the database.
    Unaltered,
    /// Documents that the database does not name.
    Known,
    /// Documents without an MD5 in the database.
    WithoutDigest,
    /// Rows that name no document.
    Nameless,
    /// Files that could not be read.
    Unseen,
    /// The anti-fraud log.
    Log,
}

impl Check {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Noted,
        Self::Present,
        Self::LeftOut,
        Self::Unaltered,
        Self::Known,
        Self::WithoutDigest,
        Self::Nameless,
        Self::Unseen,
        Self::Log,
    ];

    /// The name of the check in the report.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Noted => "documents noted",
            Self::Present => "documents present",
            Self::LeftOut => "documents left out",
            Self::Unaltered => "documents unaltered",
            Self::Known => "documents known",
            Self::WithoutDigest => "documents without digest",
            Self::Nameless => "rows without a name",
            Self::Unseen => "documents unseen",
            Self::Log => "anti-fraud log",
        }
    }

    /// What is counted; the report puts it after `3 of 1064`. `noted` and `log` are the names of the tables.
    pub fn counts(self, noted: &str, log: &str) -> String {
        match self {
            Self::Noted => format!("table named {noted} exists; check the setting `prefix`"),
            Self::Present => "documents that the database names exist".into(),
            Self::LeftOut => "documents that the database names are left out by the exclude patterns".into(),
            Self::Unaltered => "documents differ from their MD5 in the database, or cannot be read".into(),
            Self::Known => "documents are not named by the database".into(),
            Self::WithoutDigest => "documents have no MD5 in the database: only their existence was checked".into(),
            Self::Nameless => format!("rows of {noted} name no document"),
            Self::Unseen => "files have a name that is not UTF-8 or could not be read".into(),
            Self::Log => format!("entries of {log} have a signature"),
        }
    }
}

/// One line of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finding {
    /// The check.
    pub check: Check,
    /// Its result.
    pub verdict: Verdict,
    /// How many.
    pub count: u64,
    /// Of how many.
    pub total: u64,
}

/// The anti-fraud log. Signatures chain the entries of each company, so its last entry stands for all before it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Log {
    companies: BTreeMap<String, Head>,
    signed: u64,
}

/// How far the log of one company reaches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Head {
    /// Its entries.
    pub entries: u64,
    /// The key of the last entry.
    pub last: i64,
}

impl Log {
    /// Records an entry. Entries must come in key order.
    pub fn entry(&mut self, key: i64, company: &str, is_signed: bool) {
        self.signed += u64::from(is_signed);
        let head = self.companies.entry(company.to_owned()).or_default();
        *head = Head { entries: head.entries + 1, last: key };
    }

    /// The head of each company, by company.
    pub fn heads(&self) -> impl Iterator<Item = &Head> {
        self.companies.values().take(COMPANIES_MAX)
    }

    /// The finding about the log. `rows` is the number of rows that the database counts.
    pub fn finding(&self, rows: u64) -> Finding {
        let entries: u64 = self.companies.values().map(|head| head.entries).sum();
        let verdict = match (entries, self.signed) {
            (0, _) if rows == 0 => Verdict::Skipped,
            (entries, signed) if entries == rows && signed == entries => Verdict::Passed,
            _ => Verdict::Failed,
        };
        Finding { check: Check::Log, verdict, count: self.signed, total: rows }
    }
}

#[cfg(test)]
mod tests;
