//! What names an archive has put where, so that reading it, restoring it and taking one document out of it come to the same: an archive
//! of `tar -r` has a name twice, of which the later one counts, as `tar` has it.

use super::parse::{Described, damaged, refused};
use crate::entry::Kind;
use crate::path::shown;
use base::error::Result;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher};

/// Names of one archive, folders on the way to them among them: they are in memory, and this many take 300 MB. A million take 40.
const NAMES_MAX: usize = 8_000_000;

/// What stands at a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Folder,
    /// The content of the entry of this number, counted from 1.
    Other(u32),
    /// A device, which is not restored.
    Nothing,
}

/// The names of an archive so far, by a hash of each. Two of one hash would be taken for one: among a million names that is one archive in
/// forty million, and it is refused or restored with a name less, which its counts show.
#[derive(Debug, Default)]
pub(crate) struct Names {
    places: HashMap<u64, Place>,
    entries: u32,
}

impl Names {
    /// Takes the next entry; whether it stands in the place of an earlier one that is no folder.
    ///
    /// # Errors
    /// Of class [`base::error::Class::Stale`] for what no folder can hold beside what came before, naming the entry.
    pub(crate) fn take(&mut self, entry: &Described) -> Result<bool> {
        self.entries = self.entries.saturating_add(1);
        if self.places.len() > NAMES_MAX {
            return Err(damaged(&format!("it has more than {NAMES_MAX} names")));
        }
        let (above, own) = keys(&entry.path);
        for key in above.into_iter().rev() {
            match self.places.insert(key, Place::Folder) {
                Some(Place::Folder) => break,
                Some(Place::Other(_)) => return Err(refused(&entry.path, "leads through what is no folder")),
                Some(Place::Nothing) | None => {}
            }
        }
        let place = match (&entry.linked, &entry.kind) {
            (Some(first), _) => match self.places.get(&keys(first).1) {
                Some(place @ Place::Other(_)) => *place,
                _ => {
                    let why = format!("is a further name of `{}`, which is no file of it", shown(first));
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
            (Some(Place::Folder), _) => Err(refused(&entry.path, "stands in it as a folder and as something else")),
        }
    }

    /// What stands at a name.
    pub(crate) fn place(&self, path: &[u8]) -> Option<Place> {
        self.places.get(&keys(path).1).copied()
    }
}

/// The hashes of the folders on the way, outermost first, and of the path itself.
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
