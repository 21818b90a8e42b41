//! The objects of a snapshot: whether each is there, whole, and what its kind must be.

use crate::choice;
use crate::config::Source;
use crate::fetch;
use crate::rehearsal::as_finding;
use crate::session::Host;
use base::error::Result;
use catalogue::history::{History, Object};
use catalogue::proof::SourceProof;
use documents;
use indicatif::HumanCount;
use tokio_util::sync::CancellationToken;

/// Reads an object to its end and says what is wrong with it. What is wrong with the store is an error.
///
/// # Errors
/// The store's, and an interruption.
pub async fn read(
    host: &Host,
    history: &History,
    source: &str,
    object: &Object,
    stop: &CancellationToken,
) -> Result<SourceProof> {
    let mut proof = SourceProof { object: Some(object.key.clone()), bytes: object.bytes, ..SourceProof::default() };
    if !object.present {
        let there = host.store.head(&object.key).await?;
        proof.problems.push(match there {
            Some(meta) => format!("the object {} has {} bytes, not {}", object.key, meta.bytes, object.bytes),
            None => format!("the object {} is missing", object.key),
        });
        return Ok(proof);
    }
    let holds = match host.sources.sources.get(source) {
        Some(Source::Directory(_)) => archive(host, history, object, stop, &mut proof.problems).await,
        Some(Source::Postgres(_)) => dump(host, object, stop).await,
        // Of a source that is configured no more, the name says what it is.
        None if object.key.as_str().ends_with(".dump") => dump(host, object, stop).await,
        None => archive(host, history, object, stop, &mut proof.problems).await,
    };
    match holds {
        Ok(holds) => proof.holds = holds,
        Err(error) => proof.problems.push(as_finding(error)?),
    }
    Ok(proof)
}

async fn dump(host: &Host, object: &Object, stop: &CancellationToken) -> Result<Option<String>> {
    let contents = fetch::check(host, object, stop).await?;
    Ok(contents.map(|contents| {
        format!("{} tables of PostgreSQL {}", HumanCount(contents.tables as u64), contents.origin.server_version)
    }))
}

async fn archive(
    host: &Host,
    history: &History,
    object: &Object,
    stop: &CancellationToken,
    problems: &mut Vec<String>,
) -> Result<Option<String>> {
    let recorded = choice::recorded(history, &object.key);
    let archive = choice::archive(host, history, object, false).await?;
    if let (Some(index), None) = (recorded.and_then(|record| record.index.as_ref()), &archive.index) {
        problems.push(format!("the index {} is missing; the archive is read without it", index.key));
    }
    let checked = match documents::check(&archive, stop).await {
        Ok(checked) => checked,
        Err(error) if archive.index.is_some() => {
            problems.push(as_finding(error)?);
            // Whether the archive itself is whole is what counts; its index can be done without.
            let alone = documents::Archive { index: None, ..archive };
            documents::check(&alone, stop).await?
        }
        Err(error) => return Err(error),
    };
    if let Some(record) = recorded.filter(|record| record.files != checked.files) {
        let (expected, found) = (HumanCount(record.files), HumanCount(checked.files));
        problems.push(format!("the archive {} holds {found} files, and its record says {expected}", object.key));
    }
    let how = if checked.indexed { ", each as its index says" } else { "" };
    Ok(Some(format!("{} files and {} folders{how}", HumanCount(checked.files), HumanCount(checked.folders))))
}
