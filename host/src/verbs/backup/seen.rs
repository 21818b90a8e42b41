//! What a run observed about an open source.

use super::Opened;
use catalogue::judgement::Seen;
use catalogue::record::{ArchiveRecord, Measure};

/// Of an open source, once it was dumped.
pub(super) fn seen(opened: &Opened, archive: Option<&ArchiveRecord>) -> Seen {
    Seen {
        identity: identity(opened),
        measure: measure(opened, archive),
        unreadable: archive.map_or(0, |archive| archive.unreadable_total),
        below_unreadable: archive.and_then(|archive| archive.below_unreadable),
        lacking: match opened {
            Opened::Database(database) => database.remarks().lacking,
            Opened::Tree(_) => Vec::new(),
        },
    }
}

/// The identity of the open database; `None` for a folder.
pub(super) fn identity(opened: &Opened) -> Option<String> {
    match opened {
        Opened::Database(database) => database.facts().identity,
        Opened::Tree(_) => None,
    }
}

/// How much an open source holds, as far as this run counted it.
fn measure(opened: &Opened, archive: Option<&ArchiveRecord>) -> Measure {
    match opened {
        Opened::Database(database) => {
            Measure { tables: Some(database.facts().tables), rows: database.rows_read(), ..Measure::default() }
        }
        Opened::Tree(_) => Measure {
            files: archive.map(|archive| archive.files),
            bytes: archive.map(|archive| archive.bytes),
            ..Measure::default()
        },
    }
}
