//! Whether what was restored is what was saved. The record has the selection of the fingerprint: the host measures the same selection in
//! what was restored, seals it with the same key, and compares. It asks no plugin, so it does not matter which one is configured now.

use crate::session::Host;
use base::error::{Class, Result};
use base::evidence::{Fingerprint, Measured, SealKey, Selected};
use catalogue::history::{History, Snapshot};
use catalogue::record::ArchiveRecord;
use documents::restore::COMPARED_WITH_INDEX;
use documents::{self, Tree};
use postgres::{self, Session};
use std::path::Path;

/// What a comparison came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Comparison {
    /// Everything that was measured and that a restore brings back is what was saved.
    Equal {
        /// What that rests on.
        basis: String,
        /// What is equal and still to be known, a sentence each.
        notes: Vec<String>,
        /// Whether the server prints expressions otherwise than before.
        is_reworded: bool,
    },
    /// It is something else, although the same was measured in the same way.
    Different(String),
    /// It could not be compared, and why.
    Unknown(String),
}

impl Comparison {
    /// For people, behind "compared:".
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Equal { basis, .. } => format!("equal to {basis}"),
            Self::Different(why) => why.clone(),
            Self::Unknown(why) => format!("could not be compared with the record: {why}"),
        }
    }

    /// What is to be known besides.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        match self {
            Self::Equal { notes, .. } => notes,
            Self::Different(_) | Self::Unknown(_) => &[],
        }
    }

    /// `equal`, `different` or `unknown`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Equal { .. } => "equal",
            Self::Different(_) => "different",
            Self::Unknown(_) => "unknown",
        }
    }
}

/// Compares a restored database with what the record of its snapshot says.
///
/// # Errors
/// The database's.
pub async fn database(
    host: &Host,
    restored: &postgres::Config,
    history: &History,
    snapshot: &Snapshot,
    source: &str,
) -> Result<Comparison> {
    let recorded = match recorded(history, snapshot, source) {
        Ok(recorded) => recorded,
        Err(why) => return Ok(Comparison::Unknown(why)),
    };
    let session = Session::open(restored, format!("{}/{source}", host.environment)).await?;
    let version = session.facts().server_version;
    session.list_ahead(recorded.selected);
    let measured = repeat(recorded.selected, |selected| session.measure(selected)).await;
    session.close().await;
    let found = match measured {
        Ok(measured) => recorded.key.seal(measured),
        // What was measured then is not there to be measured.
        Err(error) if error.class() == Class::PluginRefused => {
            return Ok(Comparison::Different(format!("it is not what was saved: {error}")));
        }
        Err(error) => return Err(error),
    };
    let dumped = snapshot.record.as_ref().and_then(|record| record.sources.get(source)?.database.as_ref());
    let is_other_major = dumped.is_some_and(|dumped| first_number(&dumped.server_version) != first_number(&version));
    Ok(recorded.against(found, is_other_major.then_some(version.as_str())))
}

/// Compares a restored folder with what the record of its snapshot says. Documents change while a run reads them, so what has another
/// fingerprint is not known to be different: then its archive's index counts, which it was compared with when it was restored.
///
/// # Errors
/// The folder's.
pub async fn documents(
    host: &Host,
    place: &Path,
    restored: &documents::restore::Restored,
    history: &History,
    snapshot: &Snapshot,
    source: &str,
) -> Result<Comparison> {
    let by_index = |notes: &[&str]| Comparison::Equal {
        basis: COMPARED_WITH_INDEX.to_owned(),
        notes: notes.iter().map(|note| (*note).to_owned()).collect(),
        is_reworded: false,
    };
    let recorded = match recorded(history, snapshot, source) {
        Ok(recorded) => recorded,
        Err(_) if restored.is_compared => return Ok(by_index(&[])),
        Err(why) => return Ok(Comparison::Unknown(why)),
    };
    let archive = snapshot.sources.get(source).and_then(|state| state.object.as_ref());
    let archive = archive.and_then(|object| crate::choice::recorded(history, &object.key));
    if archive.is_some_and(|archive: &ArchiveRecord| archive.problems_total > 0) {
        let lack = "some files could not be archived as they were; the record names them";
        return Ok(if restored.is_compared { by_index(&[lack]) } else { Comparison::Unknown(lack.to_owned()) });
    }
    let config = documents::Config { path: place.to_owned() };
    let tree = Tree::open(&config, format!("{}/{source}", host.environment))?;
    let found = recorded.key.seal(repeat(recorded.selected, |selected| tree.measure(selected)).await?);
    if found.value == recorded.fingerprint {
        let basis = by_fingerprint(&found.basis);
        return Ok(Comparison::Equal { basis, notes: Vec::new(), is_reworded: false });
    }
    if restored.is_compared && (tree.rests_on_times() || !restored.owners) {
        return Ok(by_index(&[]));
    }
    let why = if tree.rests_on_times() {
        "its fingerprint rests on times of change, which no restore brings back"
    } else if !restored.owners {
        "only root restores owners, which are part of its fingerprint"
    } else {
        "its fingerprint is another one: documents changed while the run read them, or something else was restored"
    };
    Ok(if restored.is_compared { by_index(&[why]) } else { Comparison::Unknown(why.to_owned()) })
}

fn by_fingerprint(basis: &str) -> String {
    format!("the record by its fingerprint, {basis}")
}

/// What a record says, and what it takes to say it again.
struct Recorded<'h> {
    fingerprint: &'h str,
    basis: &'h str,
    selected: &'h [Selected],
    seals: &'h [Option<String>],
    key: &'h SealKey,
}

impl Recorded<'_> {
    /// Measure by measure: content and structure have to be equal, a restore may reword expressions, and it gives no rights.
    fn against(&self, found: Fingerprint, other_major: Option<&str>) -> Comparison {
        let (mut differing, mut notes, mut is_reworded) = (Vec::new(), Vec::new(), false);
        for ((selected, then), now) in self.selected.iter().zip(self.seals).zip(&found.seals) {
            let Some(then) = then else {
                notes.push(format!("the {} moved on while the dump was made", selected.describe()));
                continue;
            };
            match selected {
                _ if then == now => {}
                Selected::Definitions => is_reworded = true,
                Selected::Rights => {}
                _ => differing.push(selected),
            }
        }
        let names = differing.iter().map(|selected| selected.describe()).collect::<Vec<_>>().join(", ");
        let (has, had) = (&found.basis, self.basis);
        match (differing.as_slice(), other_major) {
            ([], _) => Comparison::Equal { basis: by_fingerprint(&found.basis), notes, is_reworded },
            ([Selected::Structure], Some(version)) => {
                Comparison::Unknown(format!("PostgreSQL {version} describes its structure in another way"))
            }
            _ => Comparison::Different(format!(
                "it is not what was saved: its {names} differ; it has {has}, and the record says {had}"
            )),
        }
    }
}

fn recorded<'h>(history: &'h History, snapshot: &'h Snapshot, source: &str) -> Result<Recorded<'h>, String> {
    let record = snapshot.record.as_ref().ok_or("the snapshot has no record")?;
    let found = record.sources.get(source).and_then(|source| Some((source, source.fingerprint.as_deref()?)));
    let (source, fingerprint) = found.ok_or("the record has no fingerprint of it")?;
    if source.selected.is_empty() {
        return Err(
            "an older version fingerprinted it, and recorded no selection that could be measured again".to_owned()
        );
    }
    if !SealKey::is_current(fingerprint) {
        return Err("another version fingerprinted it, in a way that this one does not measure".to_owned());
    }
    if source.seals.len() != source.selected.len() {
        return Err("the record has not a seal for each thing that was measured".to_owned());
    }
    let key = history.seal_key().ok_or("the environment's file, which has the key of its fingerprint, is not there")?;
    if !key.sealed(fingerprint) {
        return Err(
            "its fingerprint was sealed with a key that the environment's file does not have any more".to_owned()
        );
    }
    let basis = source.basis.as_deref().unwrap_or("nothing");
    Ok(Recorded { fingerprint, basis, selected: &source.selected, seals: &source.seals, key })
}

/// Measures again what was measured then, rows first, which come last and take longest: meanwhile the rest is listed.
async fn repeat<F: Future<Output = Result<Measured>>>(
    selected: &[Selected],
    measure: impl Fn(Selected) -> F,
) -> Result<Vec<Measured>> {
    let mut measured = Vec::new();
    for selected in selected.iter().rev() {
        measured.push(measure(selected.clone()).await?);
    }
    measured.reverse();
    Ok(measured)
}

fn first_number(version: &str) -> &str {
    version.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default()
}
