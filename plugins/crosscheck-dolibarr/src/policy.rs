//! How a database and documents are compared: plain Rust over what the host says, with no call of its own.
//!
//! Dolibarr notes each document that it makes or takes in `ecm_files`: `filepath` and `filename` are its path below the
//! documents folder, `label` is the MD5 of its content. The documents of company N beyond the first are in the folder `N`.

use crate::settings::{Ignored, Meaning, Settings};
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};

/// Columns of `ecm_files` that are compared, the key apart.
pub const DOCUMENT_COLUMNS: [&str; 4] = ["entity", "filepath", "filename", "label"];

/// The one of `blockedlog` that has to be there.
pub const SIGNATURE: &str = "signature";

/// The company of a row; a table without the column has one company.
pub const ENTITY: &str = "entity";

/// Hexadecimal digits of an MD5.
const MD5_DIGITS: usize = 32;

/// Companies whose logs are told apart. The host takes 100 heads.
const COMPANIES_MAX: usize = 100;

/// A document that the database names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noted {
    /// The row that names it.
    pub key: i64,
    /// Below the documents folder.
    pub path: String,
    /// Where it is if it is not there: the same path in its company's own folder.
    pub elsewhere: Option<String>,
    /// Its MD5; none where the database holds none.
    pub md5: Option<String>,
}

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A file with this MD5.
    File(String),
    /// Nothing.
    Missing,
    /// Something that is no file.
    NotAFile,
    /// Something that cannot be read.
    Unreadable,
}

/// A row of `ecm_files` in the order of [`DOCUMENT_COLUMNS`]; none for a row that names no document.
#[must_use]
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

/// Things of one kind: counted, and the first of them.
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

/// A comparison in the course of it.
#[derive(Debug)]
pub struct Comparison {
    settings: Settings,
    ignored: Ignored,
    /// Hashes of the paths of documents that are there and named: eight bytes for each, since a plugin's memory is small.
    named: BTreeSet<u64>,
    /// Rows whose document is not there, and its path, until it is known whether it was left out.
    unexplained: Vec<(i64, String)>,
    /// What came of it so far.
    pub totals: Totals,
}

/// What a comparison comes to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals {
    /// Documents that the database names.
    pub compared: u64,
    /// Those among them without an MD5 in the database.
    pub without_digest: u64,
    /// Rows that name no document.
    pub nameless: u64,
    /// Rows whose document is not there, and was not left out.
    pub missing: First<i64>,
    /// Rows whose document the archive leaves out.
    pub left_out: u64,
    /// Rows whose document is there with another content, or not to be read.
    pub altered: First<i64>,
    /// There and not named.
    pub orphaned: First<String>,
    /// Documents that are there.
    pub there: u64,
    /// Files that the host could not name or look at.
    pub unseen: u64,
}

impl Comparison {
    /// A comparison that has seen nothing.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let ignored = Ignored::new(&settings);
        Self { settings, ignored, named: BTreeSet::new(), unexplained: Vec::new(), totals: Totals::default() }
    }

    /// Takes in a document that the database names and what is at its path. Gives back the other path to look at where
    /// nothing is at the first one.
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

    /// The rows whose documents are not there, since it was asked last; [`Comparison::missing`] takes them back.
    pub fn take_missing(&mut self) -> Vec<(i64, String)> {
        std::mem::take(&mut self.unexplained)
    }

    /// Takes in rows whose documents are not there, and whether the archive leaves them out.
    pub fn missing(&mut self, rows: impl IntoIterator<Item = (i64, bool)>) {
        for (key, is_left_out) in rows {
            match is_left_out {
                true => self.totals.left_out += 1,
                false => self.totals.missing.add(key, self.settings.shown),
            }
        }
    }

    /// Takes in a row that names no document.
    pub fn nameless(&mut self) {
        self.totals.nameless += 1;
    }

    /// Takes in a document that is there, after every row.
    pub fn saw(&mut self, path: String) {
        self.totals.there += 1;
        if !self.named.contains(&hash(&path)) && !self.ignored.has(&path) {
            self.totals.orphaned.add(path, self.settings.shown);
        }
    }

    /// Takes in how many files could not be named or looked at.
    pub fn unseen(&mut self, count: u64) {
        self.totals.unseen = self.totals.unseen.saturating_add(count);
    }

    /// What the documents come to.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        let Totals { compared, without_digest, nameless, missing, left_out, altered, orphaned, there, unseen } =
            &self.totals;
        let judged = |total: u64, meaning: Meaning| match (total, meaning) {
            (0, _) => Verdict::Passed,
            (_, Meaning::Fail) => Verdict::Failed,
            (_, Meaning::Report) => Verdict::Noted,
        };
        let (missing, altered, orphaned) = (missing.total, altered.total, orphaned.total);
        let settings = &self.settings;
        let of = |check, verdict, count, total| Finding { check, verdict, count, total };
        let mut findings = vec![
            of(Check::Present, judged(missing, settings.missing), compared - missing - left_out, *compared),
            of(Check::Unaltered, judged(altered, settings.altered), altered, *compared),
            of(Check::Known, judged(orphaned, settings.orphaned), orphaned, *there),
        ];
        let others = [
            (Check::LeftOut, *left_out, *compared),
            (Check::WithoutDigest, *without_digest, *compared),
            (Check::Nameless, *nameless, compared + nameless),
            (Check::Unseen, *unseen, there + unseen),
        ];
        let others = others.into_iter().filter(|(_, count, _)| *count > 0);
        findings.extend(others.map(|(check, count, total)| of(check, Verdict::Noted, count, total)));
        findings
    }
}

/// A hash that is the same every time: [`DefaultHasher::new`] has fixed keys.
fn hash(path: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    hasher.finish()
}

/// How something turned out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Well.
    Passed,
    /// Worth knowing.
    Noted,
    /// Not well.
    Failed,
    /// It could not be looked at.
    Skipped,
}

/// Something that is looked at. The number of each is its place in [`Check::ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// Whether the database has the table of documents.
    Noted,
    /// Documents that the database names and that are there.
    Present,
    /// Documents that the archive leaves out.
    LeftOut,
    /// Documents with another content than the database noted.
    Unaltered,
    /// Documents that the database does not name.
    Known,
    /// Documents of which the database notes no MD5.
    WithoutDigest,
    /// Rows that name no document.
    Nameless,
    /// Files that could not be looked at.
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

    /// What is looked at.
    #[must_use]
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

    /// What is counted, behind `3 of 1064`. `noted` and `log` are the names of the tables.
    #[must_use]
    pub fn counts(self, noted: &str, log: &str) -> String {
        match self {
            Self::Noted => format!("table named {noted} is there; check the setting `prefix`"),
            Self::Present => "documents that the database names are there".into(),
            Self::LeftOut => "documents that the database names are left out by the exclude patterns".into(),
            Self::Unaltered => "documents have another content than the database noted, or cannot be read".into(),
            Self::Known => "documents are there and not named by the database".into(),
            Self::WithoutDigest => "documents have no MD5 in the database, so they were looked for alone".into(),
            Self::Nameless => format!("rows of {noted} name no document"),
            Self::Unseen => "files have no name in UTF-8 or could not be looked at".into(),
            Self::Log => format!("entries of {log} have a signature"),
        }
    }
}

/// One line of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at.
    pub check: Check,
    /// How it turned out.
    pub verdict: Verdict,
    /// How many.
    pub count: u64,
    /// Of how many.
    pub total: u64,
}

/// The anti-fraud log: each company's entries are chained by signatures, so the last one stands for all before it.
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
    /// The key of the last.
    pub last: i64,
}

impl Log {
    /// Takes in an entry, in the order of the keys.
    pub fn entry(&mut self, key: i64, company: &str, is_signed: bool) {
        self.signed += u64::from(is_signed);
        let head = self.companies.entry(company.to_owned()).or_default();
        *head = Head { entries: head.entries + 1, last: key };
    }

    /// The head of each company, by company.
    pub fn heads(&self) -> impl Iterator<Item = &Head> {
        self.companies.values().take(COMPANIES_MAX)
    }

    /// What it comes to. `rows` is what the database counts.
    #[must_use]
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
