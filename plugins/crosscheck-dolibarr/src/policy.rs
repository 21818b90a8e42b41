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
    /// Why it cannot be read.
    Unreadable(String),
}

/// A row of `ecm_files` in the order of [`DOCUMENT_COLUMNS`]; none for a row that names no document.
#[must_use]
pub fn noted(values: &[Option<String>; 4]) -> Option<Noted> {
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
    Some(Noted { path, elsewhere, md5: is_md5.then(|| label.to_ascii_lowercase()) })
}

/// Paths of one kind: counted, and the first of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Paths {
    /// How many.
    pub total: u64,
    /// The first ones.
    pub first: Vec<String>,
}

impl Paths {
    fn add(&mut self, path: String, shown: usize) {
        self.total += 1;
        if self.first.len() < shown {
            self.first.push(path);
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
    /// Named and not there.
    pub missing: Paths,
    /// There with another content, or not to be read.
    pub altered: Paths,
    /// There and not named.
    pub orphaned: Paths,
    /// Files that the host could not name or look at.
    pub unseen: u64,
}

impl Comparison {
    /// A comparison that has seen nothing.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let ignored = Ignored::new(&settings);
        Self { settings, ignored, named: BTreeSet::new(), totals: Totals::default() }
    }

    /// Takes in a document that the database names and what is at its path. Gives back the other path to look at where
    /// nothing is at the first one.
    pub fn settle(&mut self, noted: Noted, found: Found) -> Option<Noted> {
        if let (Found::Missing, Some(elsewhere)) = (&found, &noted.elsewhere) {
            return Some(Noted { path: elsewhere.clone(), elsewhere: None, md5: noted.md5 });
        }
        self.totals.compared += 1;
        let shown = self.settings.shown;
        match found {
            Found::Missing | Found::NotAFile => self.totals.missing.add(noted.path, shown),
            Found::Unreadable(why) => {
                self.named.insert(hash(&noted.path));
                self.totals.altered.add(format!("{} ({why})", noted.path), shown);
            }
            Found::File(md5) => {
                self.named.insert(hash(&noted.path));
                match noted.md5 {
                    None => self.totals.without_digest += 1,
                    Some(known) if known == md5 => {}
                    Some(_) => self.totals.altered.add(noted.path, shown),
                }
            }
        }
        None
    }

    /// Takes in a row that names no document.
    pub fn nameless(&mut self) {
        self.totals.nameless += 1;
    }

    /// Takes in a document that is there, after every row.
    pub fn saw(&mut self, path: String) {
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
        let Totals { compared, without_digest, nameless, missing, altered, orphaned, unseen } = &self.totals;
        let judged = |paths: &Paths, meaning: Meaning| match (paths.total, meaning) {
            (0, _) => Verdict::Passed,
            (_, Meaning::Fail) => Verdict::Failed,
            (_, Meaning::Report) => Verdict::Noted,
        };
        let finding = |name: &str, verdict, detail| Finding { name: name.into(), verdict, detail };
        let mut findings = vec![
            finding(
                "documents present",
                judged(missing, self.settings.missing),
                format!("{} of {compared} documents that the database names are there", compared - missing.total),
            ),
            finding(
                "documents unaltered",
                judged(altered, self.settings.altered),
                format!("{} have another content than the database noted", altered.total),
            ),
            finding(
                "documents known",
                judged(orphaned, self.settings.orphaned),
                format!("{} are there and not named by the database", orphaned.total),
            ),
        ];
        if *without_digest > 0 {
            let said =
                format!("of {without_digest} documents the database notes no MD5, so they were looked for alone");
            findings.push(finding("documents without digest", Verdict::Noted, said));
        }
        if *nameless > 0 {
            let said = format!("{nameless} rows name no document");
            findings.push(finding("rows without a name", Verdict::Noted, said));
        }
        if *unseen > 0 {
            let said = format!("{unseen} files have no name in UTF-8 or could not be looked at");
            findings.push(finding("documents unseen", Verdict::Noted, said));
        }
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

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at.
    pub name: String,
    /// How it turned out.
    pub verdict: Verdict,
    /// One line for people.
    pub detail: String,
}

/// The anti-fraud log: each company's entries are chained by signatures, so the last one stands for all before it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Log {
    companies: BTreeMap<String, Head>,
    unsigned: u64,
}

/// How far the log of one company reaches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Head {
    /// Its entries.
    pub entries: u64,
    /// The key of the last.
    pub last: i64,
    /// The signature of the last.
    pub signature: String,
}

impl Log {
    /// Takes in an entry, in the order of the keys.
    pub fn entry(&mut self, key: i64, company: &str, signature: Option<String>) {
        let signature = signature.unwrap_or_default();
        self.unsigned += u64::from(signature.is_empty());
        let head = self.companies.entry(company.to_owned()).or_default();
        *head = Head { entries: head.entries + 1, last: key, signature };
    }

    /// Each company with its head, by company.
    pub fn heads(&self) -> impl Iterator<Item = (&str, &Head)> {
        self.companies.iter().take(COMPANIES_MAX).map(|(company, head)| (company.as_str(), head))
    }

    /// What it comes to. `rows` is what the database counts.
    #[must_use]
    pub fn finding(&self, rows: u64) -> Finding {
        let entries: u64 = self.companies.values().map(|head| head.entries).sum();
        let (verdict, detail) = if entries != rows {
            (Verdict::Failed, format!("{entries} entries were read of {rows}"))
        } else if self.unsigned > 0 {
            (Verdict::Failed, format!("{} of {entries} entries have no signature", self.unsigned))
        } else if entries == 0 {
            (Verdict::Skipped, "it has no entry".into())
        } else {
            let last = self.companies.values().max_by_key(|head| head.last).cloned().unwrap_or_default();
            (Verdict::Passed, format!("{entries} entries, the last is {} with signature {}", last.last, last.signature))
        };
        Finding { name: LOG.into(), verdict, detail }
    }
}

/// The name of the log's finding.
pub const LOG: &str = "anti-fraud log";

#[cfg(test)]
mod tests;
