//! Checks the objects of a snapshot: each exists, is whole, and has the format of its kind.

use crate::archive;
use crate::config::Source;
use crate::fetch;
use crate::session::Session;
use base::error::Result;
use base::text::counted;
use catalogue::history::{History, Object};
use catalogue::proof::SourceProof;
use documents;
use indicatif::HumanCount;
use tokio_util::sync::CancellationToken;

/// Reads an object to its end and says what is wrong with it. What is wrong with the store is an error.
pub async fn read(
    session: &Session,
    history: &History,
    source: &str,
    object: &Object,
    stop: &CancellationToken,
) -> Result<SourceProof> {
    let mut proof = SourceProof { object: Some(object.key.clone()), bytes: object.bytes, ..SourceProof::default() };
    if !object.present {
        let there = session.store.head(&object.key).await?;
        proof.problems.push(match there {
            Some(meta) => format!("the object {} has {} bytes, not {}", object.key, meta.bytes, object.bytes),
            None => format!("the object {} is missing", object.key),
        });
        return Ok(proof);
    }
    let holds = match session.sources.sources.get(source) {
        Some(Source::Directory(_)) => archive(session, history, object, stop, &mut proof.problems).await,
        Some(Source::Postgres(_)) => dump(session, object, stop).await,
        // The file name shows the kind of a source that is no longer configured.
        None if object.key.as_str().ends_with(".dump") => dump(session, object, stop).await,
        None => archive(session, history, object, stop, &mut proof.problems).await,
    };
    match holds {
        Ok(holds) => proof.holds = holds,
        Err(error) => proof.problems.push(error.into_finding()?),
    }
    Ok(proof)
}

async fn dump(session: &Session, object: &Object, stop: &CancellationToken) -> Result<Option<String>> {
    let contents = fetch::check(&session.store, object, stop).await?;
    Ok(contents.map(|contents| {
        format!("{} of PostgreSQL {}", counted(contents.tables, "table"), contents.origin.server_version)
    }))
}

async fn archive(
    session: &Session,
    history: &History,
    object: &Object,
    stop: &CancellationToken,
    problems: &mut Vec<String>,
) -> Result<Option<String>> {
    let recorded = archive::recorded(history, &object.key);
    let archive = archive::open(&session.store, history, object, false).await?;
    if let (Some(index), None) = (recorded.and_then(|record| record.index.as_ref()), &archive.index) {
        problems.push(format!("the index {} is missing; the archive is read without it", index.key));
    }
    let checked = match documents::check(&archive, stop).await {
        Ok(checked) => checked,
        Err(error) if archive.index.is_some() => {
            problems.push(error.into_finding()?);
            // The archive can be restored without its index, so check it alone.
            let alone = documents::Archive { index: None, ..archive };
            documents::check(&alone, stop).await?
        }
        Err(error) => return Err(error),
    };
    if let Some(record) = recorded.filter(|record| record.files != checked.files) {
        let (expected, found) = (HumanCount(record.files), counted(checked.files, "file"));
        problems.push(format!("the archive {} holds {found}, and its record says {expected}", object.key));
    }
    let how = if checked.indexed { ", all matching the index" } else { "" };
    Ok(Some(format!("{} and {}{how}", counted(checked.files, "file"), counted(checked.folders, "folder"))))
}
