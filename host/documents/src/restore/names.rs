//! Tracks the names of an archive, so that checking it, restoring it and reading one document agree: an archive that
//! was extended with `tar -r` may contain a name twice. As in `tar`, the later entry counts.

use super::parse::{Described, damaged, refused};
use crate::entry::Kind;
use crate::path::shown;
use base::error::Result;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher};

/// Names of one archive, including the folders above them. They are kept in memory: this many take 300 MB, a million
/// take 40 MB.
const NAMES_MAX: usize = 8_000_000;

/// What exists at a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Folder,
    /// The content of the entry with this number, counted from 1.
    Other(u32),
    /// A device, which is not restored.
    Nothing,
}

/// The names of an archive so far, by their hashes. Two names with the same hash are taken for one. With a million
/// names this happens in one archive in forty million; such an archive is refused, or restored with one name missing,
/// which its counts show.
#[derive(Debug, Default)]
pub(crate) struct Names {
    places: HashMap<u64, Place>,
    entries: u32,
}

impl Names {
    /// Adds the next entry. Returns whether it replaces an earlier one that is not a folder.
    ///
    /// # Errors
    /// [`base::error::Class::Stale`] if the entry conflicts with earlier ones, naming the entry.
    pub(crate) fn add(&mut self, entry: &Described) -> Result<bool> {
        self.entries = self.entries.saturating_add(1);
        if self.places.len() > NAMES_MAX {
            return Err(damaged(&format!("it has more than {NAMES_MAX} names")));
        }
        let (above, own) = keys(&entry.path);
        for key in above.into_iter().rev() {
            match self.places.insert(key, Place::Folder) {
                Some(Place::Folder) => break,
                Some(Place::Other(_)) => {
                    return Err(refused(&entry.path, "leads through something that is not a folder"));
                }
                Some(Place::Nothing) | None => {}
            }
        }
        let place = match (&entry.linked, &entry.kind) {
            (Some(first), _) => match self.places.get(&keys(first).1) {
                Some(place @ Place::Other(_)) => *place,
                _ => {
                    let why = format!("is a hard link to `{}`, which is not a file in the archive", shown(first));
                    return Err(refused(&entry.path, &why));
                }
            },
            (None, Kind::Folder) => Place::Folder,
            (None, Kind::CharacterDevice | Kind::BlockDevice | Kind::Socket) => Place::Nothing,
            (None, Kind::File | Kind::Link(_) | Kind::Fifo) => Place::Other(self.entries),
        };
        if entry.linked.as_ref() == Some(&entry.path) {
            return Ok(false);
        }
        match (self.places.insert(own, place), place) {
            (Some(Place::Folder), Place::Folder) | (Some(Place::Nothing) | None, _) => Ok(false),
            (Some(Place::Other(_)), _) => Ok(true),
            (Some(Place::Folder), _) => Err(refused(&entry.path, "occurs both as a folder and as something else")),
        }
    }

    /// What exists at a name.
    pub(crate) fn place(&self, path: &[u8]) -> Option<Place> {
        self.places.get(&keys(path).1).copied()
    }
}

/// The hashes of the folders above a path, outermost first, and of the path itself.
fn keys(path: &[u8]) -> (Vec<u64>, u64) {
    let mut hasher = DefaultHasher::new();
    let mut keys: Vec<u64> = Vec::new();
    for name in path.split(|byte| *byte == b'/') {
        hasher.write(name);
        hasher.write_u8(b'/');
        keys.push(hasher.finish());
    }
    let own = keys.pop().unwrap_or_default();
    (keys, own)
}
