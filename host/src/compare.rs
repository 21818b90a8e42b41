//! Whether what was restored is what was saved: the fingerprint plugin looks at it again, and its word is held against the
//! record's. It can do so only where the same plugin looks in the same way; otherwise that is said.

use crate::documents::{self, Tree};
use crate::error::Result;
use crate::history::{History, Snapshot};
use crate::host::Host;
use crate::plugin::call::Fingerprint;
use crate::plugin::{Plugin, Role};
use crate::postgres::{self, Session};
use crate::snapshot::{ArchiveRecord, PluginRecord};
use std::path::Path;

/// What a comparison came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Comparison {
    /// The fingerprint is the recorded one; what it rests on.
    Equal(String),
    /// It is another one, although the same plugin looked in the same way.
    Different(String),
    /// It could not be compared, and why.
    Unknown(String),
}

impl Comparison {
    /// For people, behind "compared:".
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Equal(basis) => format!("equal to the record by its fingerprint, {basis}"),
            Self::Different(why) => why.clone(),
            Self::Unknown(why) => format!("could not be compared with the record: {why}"),
        }
    }

    /// `equal`, `different` or `unknown`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Equal(_) => "equal",
            Self::Different(_) => "different",
            Self::Unknown(_) => "unknown",
        }
    }
}

/// Compares a restored database with what the record of its snapshot says.
///
/// # Errors
/// The database's and the plugin's.
pub async fn database(
    host: &Host,
    restored: &postgres::Config,
    snapshot: &Snapshot,
    source: &str,
) -> Result<Comparison> {
    let recorded = match recorded(snapshot, source) {
        Ok(recorded) => recorded,
        Err(why) => return Ok(Comparison::Unknown(why)),
    };
    let plugin = host.plugin(Role::Fingerprint).await?;
    let session = Session::open(restored, format!("{}/{source}", host.environment)).await?;
    let version = session.facts().server_version;
    let called = plugin.of_database(postgres::host::EvidenceDatabase(session.clone())).await;
    session.close().await;
    let found = called.result?;
    if found.value == recorded.fingerprint {
        return Ok(Comparison::Equal(found.basis));
    }
    let dumped = snapshot.record.as_ref().and_then(|record| record.sources.get(source)?.database.as_ref());
    let other_major = dumped.is_some_and(|dumped| first_number(&dumped.server_version) != first_number(&version));
    if other_major {
        return Ok(Comparison::Unknown(format!("PostgreSQL {version} describes its definitions in another way")));
    }
    Ok(judged(&plugin, &recorded, found))
}

/// Compares a restored folder with what the record of its snapshot says. Documents change while a run reads them, so what is
/// not equal is not known to be different; that each file is whole shows when it is restored.
///
/// # Errors
/// The folder's and the plugin's.
pub async fn documents(
    host: &Host,
    restored: &Path,
    history: &History,
    snapshot: &Snapshot,
    source: &str,
    owners: bool,
) -> Result<Comparison> {
    let recorded = match recorded(snapshot, source) {
        Ok(recorded) => recorded,
        Err(why) => return Ok(Comparison::Unknown(why)),
    };
    let archive = snapshot.sources.get(source).and_then(|state| state.object.as_ref());
    let archive = archive.and_then(|object| crate::choice::recorded(history, &object.key));
    if archive.is_some_and(|archive: &ArchiveRecord| archive.problems_total > 0) {
        return Ok(Comparison::Unknown(
            "some files could not be archived as they were; the record names them".to_owned(),
        ));
    }
    let plugin = host.plugin(Role::Fingerprint).await?;
    let config = documents::Config { path: restored.to_owned() };
    let tree = Tree::open(&config, format!("{}/{source}", host.environment))?;
    let found = plugin.of_tree(documents::host::EvidenceTree(tree.clone())).await.result?;
    if found.value == recorded.fingerprint {
        return Ok(Comparison::Equal(found.basis));
    }
    let why = if tree.rests_on_times() {
        "its fingerprint rests on times of change, which no restore brings back".to_owned()
    } else if !owners {
        "only root restores owners, which are part of its fingerprint".to_owned()
    } else {
        match judged(&plugin, &recorded, found) {
            Comparison::Unknown(why) => why,
            Comparison::Equal(_) | Comparison::Different(_) => {
                "its fingerprint is another one: documents changed while the run read them, or something else was restored".to_owned()
            }
        }
    };
    Ok(Comparison::Unknown(why))
}

/// What a record says, and who said it.
struct Recorded<'s> {
    fingerprint: &'s str,
    plugin: &'s PluginRecord,
}

fn recorded<'s>(snapshot: &'s Snapshot, source: &str) -> Result<Recorded<'s>, String> {
    let record = snapshot.record.as_ref().ok_or("the snapshot has no record")?;
    let fingerprint = record.sources.get(source).and_then(|source| source.fingerprint.as_deref());
    let fingerprint = fingerprint.ok_or("the record has no fingerprint of it")?;
    let plugin = record.plugins.iter().find(|plugin| plugin.name == Role::Fingerprint.name());
    Ok(Recorded { fingerprint, plugin: plugin.ok_or("the record does not name the plugin that fingerprinted it")? })
}

/// What another fingerprint than the recorded one means.
fn judged(plugin: &Plugin, recorded: &Recorded<'_>, found: Fingerprint) -> Comparison {
    if plugin.digest() != recorded.plugin.sha256 {
        return Comparison::Unknown("another version of the fingerprint plugin looked at it then".to_owned());
    }
    match &recorded.plugin.settings_sha256 {
        Some(settings) if *settings == plugin.settings_sha256() => Comparison::Different(format!(
            "it is not what was saved: its fingerprint is {}, and the record has {}",
            found.value, recorded.fingerprint
        )),
        Some(_) => Comparison::Unknown("the fingerprint plugin had other settings then".to_owned()),
        None => Comparison::Unknown("the record does not say which settings the fingerprint plugin had".to_owned()),
    }
}

fn first_number(version: &str) -> &str {
    version.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default()
}
