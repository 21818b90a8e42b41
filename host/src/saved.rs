//! A source as a snapshot has it, which is what is restored and compared.

use catalogue::history::{History, Object, Snapshot};
use catalogue::record::{DatabaseRecord, SourceRecord};

/// A source of a snapshot.
#[derive(Debug, Clone, Copy)]
pub struct SavedSource<'h> {
    /// The history that has the snapshot.
    pub history: &'h History,
    /// The snapshot.
    pub snapshot: &'h Snapshot,
    /// The name of the source.
    pub name: &'h str,
    /// The object that holds its state.
    pub object: &'h Object,
}

impl<'h> SavedSource<'h> {
    /// What the record of the snapshot says about the source.
    pub fn record(&self) -> Option<&'h SourceRecord> {
        self.snapshot.record.as_ref()?.sources.get(self.name)
    }

    /// What the record says about the database that was dumped.
    pub fn database(&self) -> Option<&'h DatabaseRecord> {
        self.record()?.database.as_ref()
    }
}
