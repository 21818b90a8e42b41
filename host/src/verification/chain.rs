//! Checks the chain of records: each record names the one before it, across the certificates of forgotten snapshots.
//!
//! An edit of the newest record can only be detected with an earlier verification of it. An edit of any other record is
//! detected by the record after it.

use base::error::{Error, Result};
use base::id::{SnapshotId, Stamp};
use catalogue::configured::Environment;
use catalogue::history::History;
use catalogue::proof::{Mark, Verification};
use catalogue::record::{Certificate, ClockDoubt, Previous, is_newer_format};
use futures::{StreamExt, TryStreamExt};
use std::collections::{BTreeMap, BTreeSet};
use store::Store;

/// Certificates and verification records that are read at the same time.
const READS_IN_FLIGHT_MAX: usize = 16;

/// The result of checking the chain.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Chain {
    /// The problems, each with the snapshot of the record.
    pub problems: Vec<(SnapshotId, String)>,
    /// Oddities that may have a harmless cause.
    pub notes: Vec<String>,
    /// Records that were followed.
    pub records: usize,
    /// Certificates that were followed.
    pub certificates: usize,
    /// SHA-256 of each record, as it is or as its certificate has it.
    pub hashes: BTreeMap<SnapshotId, String>,
}

/// A run that had a record.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Link {
    sha256: String,
    previous: Option<Previous>,
    /// Only its certificate exists.
    forgotten: bool,
    /// Its time was doubted: it may have been made after those that its id puts it before.
    doubted: bool,
}

/// The findings of an earlier verification.
struct Seen {
    at: Stamp,
    record_sha256: Option<String>,
}

/// Reads the certificates and the last verifications, and follows the chain.
pub async fn check(store: &Store, environment: &Environment, history: &History) -> Result<Chain> {
    let mut chain = Chain::default();
    let mut links = BTreeMap::new();
    let mut unreadable = Vec::new();
    for (id, certificate) in certificates(store, environment, history.forgotten.keys().copied()).await? {
        match certificate {
            Ok(Certificate { record_sha256: Some(sha256), previous, clock_doubt, .. }) => {
                chain.certificates += 1;
                links.insert(
                    id,
                    Link { sha256, previous, forgotten: true, doubted: clock_doubt.is_some_and(ClockDoubt::misplaces) },
                );
            }
            // An adopted snapshot had no record.
            Ok(_) => {}
            Err(error) => unreadable.push((id, error)),
        }
    }
    for snapshot in &history.snapshots {
        if let Some(damage) = &snapshot.damage {
            unreadable.push((snapshot.id, damage.clone()));
            links.remove(&snapshot.id);
        }
        if let (Some(record), Some(sha256)) = (&snapshot.record, &snapshot.record_sha256) {
            chain.records += 1;
            let link = Link {
                sha256: sha256.clone(),
                previous: record.previous.clone(),
                forgotten: false,
                doubted: record.clock_doubt.is_some_and(ClockDoubt::misplaces),
            };
            links.insert(snapshot.id, link);
        }
    }
    let damaged = unreadable.iter().map(|(id, _)| *id).collect();
    for (id, error) in unreadable {
        // What a newer version wrote is not damaged.
        match is_newer_format(&error) {
            true => chain.notes.push(error.to_string()),
            false => chain.problems.push((id, error.to_string())),
        }
    }
    follow(&links, &damaged, &mut chain);
    compare(&links, &damaged, history, &seen(store, environment, history).await?, &mut chain);
    chain.hashes = links.into_iter().map(|(id, link)| (id, link.sha256)).collect();
    Ok(without_known(chain, history))
}

/// Turns accepted problems into notes.
fn without_known(mut chain: Chain, history: &History) -> Chain {
    let file = history.environment.as_ref().map(|stored| &stored.file);
    // A missing record and a replaced one are accepted separately.
    let is_known = |id: &SnapshotId| {
        file.is_some_and(|file| match chain.hashes.get(id) {
            _ if file.retired_snapshots.contains(id) || file.retired_ahead.contains(id) => true,
            None if file.given_up_records.contains(id) => true,
            Some(sha256) => file.knows_edit(*id, sha256),
            None => file.known_breaks.contains(id),
        })
    };
    let (known, open): (Vec<_>, Vec<_>) = chain.problems.into_iter().partition(|(id, _)| is_known(id));
    chain.notes.extend(known.into_iter().map(|(_, what)| format!("{what} (accepted)")));
    Chain { problems: open, ..chain }
}

/// Checks every link against the one that it names.
fn follow(links: &BTreeMap<SnapshotId, Link>, damaged: &BTreeSet<SnapshotId>, chain: &mut Chain) {
    let mut followers: BTreeMap<SnapshotId, SnapshotId> = BTreeMap::new();
    for (id, link) in links {
        let Some(previous) = &link.previous else {
            let mut before = links.range(..id).rev().filter(|(_, link)| !link.doubted).map(|(before, _)| before);
            // After a clock fell back, a record may seem to follow others that did not exist when it was written: all
            // that really came before it may have been forgotten.
            let before = before.next().filter(|_| !damaged.contains(id) && !link.doubted);
            if let Some(before) = before {
                chain
                    .problems
                    .push((*id, format!("the record of {id} names none before it, and there is that of {before}")));
            }
            continue;
        };
        let named = previous.id;
        let problem = match links.get(&named) {
            _ if named >= *id => Some((*id, format!("the record of {id} names {named}, which is not before it"))),
            None if damaged.contains(&named) => None,
            None => Some((named, format!("the record of {named}, which {id} names as the one before it, is missing"))),
            Some(found) if found.sha256 != previous.sha256 => {
                let what = if found.forgotten { "certificate" } else { "record" };
                Some((named, format!("the {what} of {named} is not what {id} names: it was edited or replaced")))
            }
            Some(_) => None,
        };
        chain.problems.extend(problem);
        if !link.forgotten
            && let Some(other) = followers.insert(named, *id)
        {
            chain
                .notes
                .push(format!("{other} and {id} both follow {named}: a clock was wrong, or one of them was put there"));
        }
    }
}

/// Checks the records against earlier verifications.
fn compare(
    links: &BTreeMap<SnapshotId, Link>,
    damaged: &BTreeSet<SnapshotId>,
    history: &History,
    seen: &BTreeMap<SnapshotId, Seen>,
    chain: &mut Chain,
) {
    for (id, seen) in seen {
        let at = seen.at.moment();
        let known = links.contains_key(id) || damaged.contains(id) || history.knows(*id);
        let problem = match (links.get(id), &seen.record_sha256) {
            (Some(link), Some(sha256)) if link.sha256 != *sha256 => {
                Some(format!("the record of {id} is not the one that was verified at {at}: it was edited or replaced"))
            }
            (None, Some(_)) if !known => Some(format!("the record of {id}, which was verified at {at}, is missing")),
            _ => None,
        };
        chain.problems.extend(problem.map(|problem| (*id, problem)));
    }
}

/// Reads the certificates of some snapshots, as far as they exist.
///
/// # Errors
/// The store's. A certificate that cannot be read is a result of its own.
pub async fn certificates(
    store: &Store,
    environment: &Environment,
    ids: impl IntoIterator<Item = SnapshotId>,
) -> Result<Vec<(SnapshotId, Result<Certificate>)>> {
    let read = |id: SnapshotId| async move {
        let bytes = store.get(&catalogue::keys::certificate_key(environment, id)?).await?;
        Ok::<_, Error>(bytes.map(|bytes| (id, Certificate::parse(&bytes, environment, id))))
    };
    let read: Vec<_> = futures::stream::iter(ids).map(read).buffered(READS_IN_FLIGHT_MAX).try_collect().await?;
    Ok(read.into_iter().flatten().collect())
}

/// The last verification of every snapshot.
async fn seen(store: &Store, environment: &Environment, history: &History) -> Result<BTreeMap<SnapshotId, Seen>> {
    let mut last: BTreeMap<SnapshotId, Mark> = BTreeMap::new();
    // They are sorted by snapshot and time.
    for mark in history.verifications.iter().filter(|mark| mark.passed) {
        last.insert(mark.snapshot, *mark);
    }
    let read = |mark: Mark| async move {
        let bytes = store.get(&mark.key(environment)?).await?;
        // An unreadable verification says nothing about the chain.
        let read =
            bytes.and_then(|bytes| Verification::parse(&bytes).ok()).filter(|read| read.snapshot == mark.snapshot);
        Ok::<_, Error>(read.map(|read| (mark.snapshot, Seen { at: mark.at, record_sha256: read.record_sha256 })))
    };
    let read: Vec<_> =
        futures::stream::iter(last.into_values()).map(read).buffered(READS_IN_FLIGHT_MAX).try_collect().await?;
    Ok(read.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(day: u32) -> SnapshotId {
        format!("202606{day:02}T010000Z").parse().unwrap()
    }

    fn link(day: u32, previous: Option<u32>, forgotten: bool) -> (SnapshotId, Link) {
        let previous = previous.map(|day| Previous { id: id(day), sha256: format!("sha{day}") });
        (id(day), Link { sha256: format!("sha{day}"), previous, forgotten, doubted: false })
    }

    fn whole() -> BTreeMap<SnapshotId, Link> {
        [
            link(1, None, true),
            link(2, Some(1), false),
            link(3, Some(2), true),
            link(4, Some(3), false),
            link(5, Some(4), false),
        ]
        .into()
    }

    fn problems(links: &BTreeMap<SnapshotId, Link>, damaged: &[u32]) -> Vec<String> {
        let mut chain = Chain::default();
        follow(links, &damaged.iter().map(|day| id(*day)).collect(), &mut chain);
        chain.problems.into_iter().map(|(id, why)| format!("{id} {why}")).collect()
    }

    #[test]
    fn an_unbroken_chain_is_followed_across_certificates() {
        assert_eq!(problems(&whole(), &[]), Vec::<String>::new());
        assert_eq!(problems(&BTreeMap::new(), &[]), Vec::<String>::new());
    }

    #[test]
    fn a_missing_an_edited_and_a_reordered_record_are_named() {
        for day in 1..=4 {
            let mut links = whole();
            links.remove(&id(day));
            let found = problems(&links, &[]);
            assert!(
                found.len() == 1 && found[0].starts_with(&id(day).to_string()) && found[0].contains("missing"),
                "{found:?}"
            );
            assert_eq!(problems(&links, &[day]), Vec::<String>::new(), "one that is damaged is reported as such");

            let mut links = whole();
            links.get_mut(&id(day)).unwrap().sha256 = "other".into();
            let found = problems(&links, &[]);
            assert!(
                found.len() == 1 && found[0].starts_with(&id(day).to_string()) && found[0].contains("edited"),
                "{found:?}"
            );
        }
        let mut links = whole();
        links.get_mut(&id(2)).unwrap().previous = Some(Previous { id: id(4), sha256: "sha4".into() });
        assert!(problems(&links, &[])[0].contains("not before it"));
        let mut links = whole();
        links.get_mut(&id(5)).unwrap().previous = None;
        assert!(problems(&links, &[])[0].contains("names none before it"), "a chain that begins anew");
    }

    #[test]
    fn a_run_under_a_clock_that_was_far_behind_does_not_break_the_chain_for_ever() {
        for forgotten in [false, true] {
            let mut links: BTreeMap<_, _> = [link(2, None, false), link(3, Some(2), false)].into();
            links.extend([link(1, None, forgotten)]);
            assert!(problems(&links, &[])[0].contains("names none before it"));
            links.get_mut(&id(1)).unwrap().doubted = true;
            assert_eq!(problems(&links, &[]), Vec::<String>::new());
        }
    }

    #[test]
    fn two_that_follow_one_are_noted_and_a_forgotten_one_between_is_not() {
        let mut chain = Chain::default();
        let links = [link(1, None, false), link(2, Some(1), true), link(3, Some(1), false)].into();
        follow(&links, &BTreeSet::new(), &mut chain);
        assert_eq!(chain, Chain::default(), "an incomplete run in between was forgotten");
        let links = [link(1, None, false), link(2, Some(1), false), link(3, Some(1), false)].into();
        follow(&links, &BTreeSet::new(), &mut chain);
        assert!(chain.problems.is_empty() && chain.notes.len() == 1, "{chain:?}");
    }
}
