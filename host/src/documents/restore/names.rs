//! What names an archive has put where, so that reading it and restoring it come to the same: an archive of `tar -r` has a name
//! twice, of which the later one counts, as `tar` has it.

use super::parse::{Described, refused};
use crate::documents::entry::{Kind, shown};
use crate::documents::path;
use crate::error::Result;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;

/// A path by its hash: a million of them take some 40 MiB.
type Key = [u8; 16];

/// What stands at a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Folder,
    Other,
    /// A device, which is not restored.
    Nothing,
}

/// The names of an archive so far.
#[derive(Debug, Default)]
pub(in crate::documents) struct Names(HashMap<Key, Place>);

impl Names {
    /// Takes the next entry; whether it stands in the place of an earlier one that is no folder.
    ///
    /// # Errors
    /// Of class [`crate::error::Class::Stale`] for what no folder can hold beside what came before, naming the entry.
    pub(in crate::documents) fn take(&mut self, entry: &Described) -> Result<bool> {
        let mut above = path::split(&entry.path).0;
        while !above.is_empty() {
            match self.0.insert(key(above), Place::Folder) {
                Some(Place::Folder) => break,
                Some(Place::Other) => return Err(refused(&entry.path, "leads through what is no folder")),
                Some(Place::Nothing) | None => above = path::split(above).0,
            }
        }
        if let Some(first) = &entry.linked
            && self.0.get(&key(first)) != Some(&Place::Other)
        {
            let why = format!("is a further name of `{}`, which is no file of it", shown(first));
            return Err(refused(&entry.path, &why));
        }
        if entry.linked.as_ref() == Some(&entry.path) {
            return Ok(false);
        }
        let place = match entry.kind {
            Kind::Folder => Place::Folder,
            Kind::CharacterDevice | Kind::BlockDevice | Kind::Socket => Place::Nothing,
            Kind::File | Kind::Link(_) | Kind::Fifo => Place::Other,
        };
        match (self.0.insert(key(&entry.path), place), place) {
            (Some(Place::Folder), Place::Folder) | (Some(Place::Nothing) | None, _) => Ok(false),
            (Some(Place::Other), Place::Other | Place::Nothing) => Ok(true),
            (Some(Place::Other | Place::Folder), _) => {
                Err(refused(&entry.path, "stands in it as a folder and as something else"))
            }
        }
    }
}

fn key(path: &[u8]) -> Key {
    let mut key = Key::default();
    key.iter_mut().zip(Sha256::digest(path)).for_each(|(slot, byte)| *slot = byte);
    key
}
