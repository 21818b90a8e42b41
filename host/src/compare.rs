//! Checks whether restored data is what was saved. The record contains the selection of the fingerprint: the host
//! measures the same selection in the restored data, seals it with the same key, and compares. No plugin is involved,
//! so the configured one does not matter.

use crate::saved::SavedSource;
use base::error::{Class, Result};
use base::evidence::{Fingerprint, Measured, SealKey, Selected};
use catalogue::configured::Environment;
use catalogue::proof::Compared;
use catalogue::record::ArchiveRecord;
use documents::restore::COMPARED_WITH_INDEX;
use documents::{self, Tree};
use postgres::{self, OpenDatabase};
use std::path::Path;

/// The result of a comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Comparison {
    /// Everything that was measured, and that a restore can bring back, is equal.
    Equal {
        /// What was compared.
        basis: String,
        /// Notes that do not affect equality, one sentence each.
        notes: Vec<String>,
        /// Whether the server prints expressions differently than before.
        is_reworded: bool,
    },
    /// The same selection was measured in the same way, but the result differs.
    Different(String),
    /// It could not be compared, with the reason.
    Unknown(String),
}

impl Comparison {
    /// Text for users, printed after `compared:`.
    pub fn describe(&self) -> String {
        match self {
            Self::Equal { basis, .. } => format!("equal to {basis}"),
            Self::Different(why) => why.clone(),
            Self::Unknown(why) => format!("could not be compared with the record: {why}"),
        }
    }

    /// Notes for the user.
    pub fn notes(&self) -> &[String] {
        match self {
            Self::Equal { notes, .. } => notes,
            Self::Different(_) | Self::Unknown(_) => &[],
        }
    }

    /// The value that a proof records.
    pub const fn outcome(&self) -> Compared {
        match self {
            Self::Equal { .. } => Compared::Equal,
            Self::Different(_) => Compared::Different,
            Self::Unknown(_) => Compared::Unknown,
        }
    }
}

/// Compares a restored database with what the record of its snapshot says.
pub async fn database(
    environment: &Environment,
    restored: &postgres::DatabaseConfig,
    saved: SavedSource<'_>,
) -> Result<Comparison> {
    let recorded = match recorded(saved) {
        Ok(recorded) => recorded,
        Err(why) => return Ok(Comparison::Unknown(why)),
    };
    let database = OpenDatabase::open(restored, format!("{environment}/{}", saved.name)).await?;
    let version = database.facts().server_version;
    database.list_ahead(recorded.selected);
    let measured = repeat(recorded.selected, |selected| database.measure(selected)).await;
    database.close().await;
    let found = match measured {
        Ok(measured) => recorded.key.seal(measured),
        // Something that was measured for the record is missing now.
        Err(error) if error.class() == Class::PluginRefused => {
            return Ok(Comparison::Different(format!("it is not what was saved: {error}")));
        }
        Err(error) => return Err(error),
    };
    let is_other_major =
        saved.database().is_some_and(|dumped| first_number(&dumped.server_version) != first_number(&version));
    Ok(recorded.against(found, is_other_major.then_some(version.as_str())))
}

/// Compares a restored folder with the record of its snapshot. Documents may change while a run reads them, so a
/// different fingerprint does not prove a difference. In that case the comparison with the archive's index counts.
pub async fn documents(
    environment: &Environment,
    place: &Path,
    restored: &documents::restore::RestoredFolder,
    saved: SavedSource<'_>,
) -> Result<Comparison> {
    let by_index = |notes: &[&str]| Comparison::Equal {
        basis: COMPARED_WITH_INDEX.to_owned(),
        notes: notes.iter().map(|note| (*note).to_owned()).collect(),
        is_reworded: false,
    };
    let recorded = match recorded(saved) {
        Ok(recorded) => recorded,
        Err(_) if restored.is_compared => return Ok(by_index(&[])),
        Err(why) => return Ok(Comparison::Unknown(why)),
    };
    let archive = crate::archive::recorded(saved.history, &saved.object.key);
    if archive.is_some_and(|archive: &ArchiveRecord| archive.problems_total > 0) {
        let lack = "some files could not be archived unchanged; the record lists them";
        return Ok(if restored.is_compared { by_index(&[lack]) } else { Comparison::Unknown(lack.to_owned()) });
    }
    let config = documents::FolderConfig { path: place.to_owned() };
    let tree = Tree::open(&config, format!("{environment}/{}", saved.name))?;
    let found = recorded.key.seal(repeat(recorded.selected, |selected| tree.measure(selected)).await?);
    if found.value == recorded.fingerprint {
        let basis = by_fingerprint(&found.basis);
        return Ok(Comparison::Equal { basis, notes: Vec::new(), is_reworded: false });
    }
    if restored.is_compared && (tree.rests_on_times() || !restored.owners) {
        return Ok(by_index(&[]));
    }
    let why = if tree.rests_on_times() {
        "its fingerprint uses change times, which a restore cannot bring back"
    } else if !restored.owners {
        "its fingerprint includes owners, which only root can restore"
    } else {
        "its fingerprint differs: documents changed while the run read them, or something else was restored"
    };
    Ok(if restored.is_compared { by_index(&[why]) } else { Comparison::Unknown(why.to_owned()) })
}

fn by_fingerprint(basis: &str) -> String {
    format!("the record by its fingerprint, {basis}")
}

/// The recorded fingerprint, and what is needed to compute it again.
struct Recorded<'h> {
    fingerprint: &'h str,
    basis: &'h str,
    selected: &'h [Selected],
    seals: &'h [Option<String>],
    key: &'h SealKey,
}

impl Recorded<'_> {
    /// Compares each measurement. Content and structure must be equal; a restore may reword expressions and does not
    /// restore privileges.
    fn against(&self, found: Fingerprint, other_major: Option<&str>) -> Comparison {
        let (mut differing, mut notes, mut is_reworded) = (Vec::new(), Vec::new(), false);
        for ((selected, then), now) in self.selected.iter().zip(self.seals).zip(&found.seals) {
            let Some(then) = then else {
                notes.push(format!("the {} changed while the dump was made", selected.describe()));
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
                Comparison::Unknown(format!("PostgreSQL {version} describes the structure differently"))
            }
            _ => Comparison::Different(format!(
                "it is not what was saved: its {names} differ; it has {has}, and the record says {had}"
            )),
        }
    }
}

fn recorded(saved: SavedSource<'_>) -> Result<Recorded<'_>, String> {
    saved.snapshot.record.as_ref().ok_or("the snapshot has no record")?;
    let found = saved.record().and_then(|source| Some((source, source.fingerprint.as_deref()?)));
    let (source, fingerprint) = found.ok_or("the record has no fingerprint of it")?;
    if source.selected.is_empty() {
        return Err("it was fingerprinted by an older version, which did not record what it measured".to_owned());
    }
    if !SealKey::is_current(fingerprint) {
        return Err("it was fingerprinted by another version, in a way that this version does not support".to_owned());
    }
    if source.seals.len() != source.selected.len() {
        return Err("the record does not have a seal for each measurement".to_owned());
    }
    let key = saved.history.seal_key().ok_or("the environment's file, which holds the fingerprint key, is missing")?;
    if !key.sealed(fingerprint) {
        return Err("its fingerprint was sealed with a key that is no longer in the environment's file".to_owned());
    }
    let basis = source.basis.as_deref().unwrap_or("nothing");
    Ok(Recorded { fingerprint, basis, selected: &source.selected, seals: &source.seals, key })
}

/// Measures a selection again. It starts with the rows, which are last in the selection and take longest; the rest is
/// listed in the meantime.
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
