//! One question: what it is about, what it says, and the command that answers it.

use crate::snapshot::SnapshotId;

/// What a question is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Nobody ran `init`.
    Uninitialised,
    /// The environment's file cannot be read.
    FileDamaged,
    /// The configuration has a source that the environment does not.
    NewSource,
    /// The environment has a source that the configuration does not.
    GoneSource,
    /// A source is another thing than before, or most of it is gone.
    Suspect,
    /// The configuration weakens a rule of the guard.
    Guard,
    /// The configuration has another retention plugin, or other settings of it.
    Retention,
    /// The configuration has another time zone.
    TimeZone,
    /// The time of a run is doubted.
    Clock,
    /// A snapshot is from the future.
    Future,
    /// An object that a record names is missing.
    Lost,
    /// A record cannot be read.
    DamagedRecord,
    /// A record that another one names is missing.
    MissingRecord,
    /// A record is not what another one names.
    ChangedRecord,
    /// The environment's file is not the one that runs went by.
    OtherFile,
}

/// One question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// What it is about.
    pub kind: Kind,
    /// The source that it is about.
    pub source: Option<String>,
    /// The snapshots that it is about, oldest first.
    pub snapshots: Vec<SnapshotId>,
    /// One sentence that begins in lower case.
    pub said: String,
    /// The command that answers it, after `dolibarr-backup`.
    pub command: String,
}

impl Kind {
    /// As `status --json` and `accept --only` name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uninitialised => "uninitialised",
            Self::FileDamaged => "file-damaged",
            Self::NewSource => "new-source",
            Self::GoneSource => "gone-source",
            Self::Suspect => "suspect",
            Self::Guard => "guard",
            Self::Retention => "retention",
            Self::TimeZone => "time-zone",
            Self::Clock => "clock",
            Self::Future => "future",
            Self::Lost => "lost",
            Self::DamagedRecord => "damaged-record",
            Self::MissingRecord => "missing-record",
            Self::ChangedRecord => "changed-record",
            Self::OtherFile => "other-file",
        }
    }
}

impl Question {
    /// How `accept --only` names it: by its source, or by what it is about.
    #[must_use]
    pub fn only(&self) -> &str {
        self.source.as_deref().unwrap_or(self.kind.name())
    }
}
