//! Reads the newest version of the environment's file and checks that it is the one that runs used.

use super::listing::Keys;
use super::load::Read;
use super::{FileDoubt, History};
use crate::configured::Environment;
use crate::environment::{EnvironmentFile, StoredFile, file_key};
use crate::record::Record;
use base::error::{Error, Result};
use sha2::{Digest, Sha256};
use store::Store;

/// The newest version of the environment's file; or why it cannot be read, and the newest version that can.
#[derive(Default)]
pub(super) struct File {
    pub(super) newest: Option<StoredFile>,
    pub(super) damage: Option<Error>,
    pub(super) readable_before: Option<StoredFile>,
}

pub(super) async fn environment_file(
    store: &Store,
    environment: &Environment,
    keys: &Keys,
    before: Option<&History>,
) -> Result<File> {
    let mut found = File::default();
    for stamp in keys.environment_files.iter().rev().copied() {
        let known = before.and_then(|before| before.environment.as_ref()).filter(|known| known.stamp == stamp);
        if let Some(known) = known.filter(|_| found.damage.is_none()) {
            found.newest = Some(known.clone());
            return Ok(found);
        }
        let Some(bytes) = store.get(&file_key(environment, stamp)?).await? else { continue };
        let sha256 = hex::encode(Sha256::digest(&bytes));
        match EnvironmentFile::parse(&bytes, environment, stamp) {
            Ok(file) if found.damage.is_none() => {
                found.newest = Some(StoredFile { stamp, sha256, file });
                return Ok(found);
            }
            Ok(file) => {
                found.readable_before = Some(StoredFile { stamp, sha256, file });
                return Ok(found);
            }
            Err(error) => drop(found.damage.get_or_insert(error)),
        }
    }
    Ok(found)
}

/// Whether the newest version of the environment's file differs from the one that runs used.
pub(super) async fn file_doubt(
    store: &Store,
    environment: &Environment,
    newest: &StoredFile,
    keys: &Keys,
    records: &[Read],
) -> Result<Option<FileDoubt>> {
    let used = records.iter().filter_map(|(run, record, _)| Some((record.as_ref().ok()?.environment_file?, *run)));
    if let Some((stamp, run)) = used.max().filter(|(stamp, _)| *stamp > newest.stamp) {
        return Ok(Some(FileDoubt::Gone { stamp, run }));
    }
    // The runs after an edit used the edited file, so the first run that saw a different file is the one to name.
    let runs = records.iter().filter_map(|(run, record, _)| Some((run, record.as_ref().ok()?)));
    let mut runs = runs.filter(|(_, record)| record.environment_file == Some(newest.stamp));
    let saw_another =
        |record: &Record| record.environment_sha256.as_ref().is_some_and(|sha256| *sha256 != newest.sha256);
    if let Some((run, _)) = runs.find(|(_, record)| saw_another(record)) {
        return Ok(Some(FileDoubt::Changed { stamp: newest.stamp, run: *run }));
    }
    let named = newest.file.previous.as_ref().map(|previous| previous.stamp);
    for before in keys.environment_files.iter().rev().copied().filter(|stamp| *stamp < newest.stamp) {
        if named == Some(before) {
            break;
        }
        // `init` skips a version that cannot be read and continues from the one before it. On other nights this loop
        // reads nothing.
        let bytes = store.get(&file_key(environment, before)?).await?;
        if bytes.is_some_and(|bytes| EnvironmentFile::parse(&bytes, environment, before).is_ok()) {
            return Ok(Some(FileDoubt::Unchained { stamp: newest.stamp, before }));
        }
    }
    Ok(None)
}
