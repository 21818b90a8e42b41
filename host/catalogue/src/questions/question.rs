//! One question: what it is about, what it says, and the command that answers it.

use base::id::SnapshotId;
use std::collections::BTreeSet;

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
    /// Two clocks disagreed, and the time has come by both.
    Clocks,
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
            Self::Clocks => "clocks",
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
    /// Its own name, which no other question has: what it is about and the source, `suspect:docs`, or what it is about alone.
    #[must_use]
    pub fn name(&self) -> String {
        name_of(self.kind.name(), self.source.as_deref())
    }
}

/// What [`Question::name`] is made of.
pub fn name_of(kind: &str, source: Option<&str>) -> String {
    source.map_or_else(|| kind.to_owned(), |source| format!("{kind}:{source}"))
}

/// What a person may name of some things, each of a kind and perhaps of a source: the source, the kind, or both.
#[derive(Debug, Default)]
pub struct Names<'a>(Vec<(&'a str, Option<&'a str>)>);

impl<'a> FromIterator<(&'a str, Option<&'a str>)> for Names<'a> {
    fn from_iter<I: IntoIterator<Item = (&'a str, Option<&'a str>)>>(things: I) -> Self {
        Self(things.into_iter().collect())
    }
}

impl<'a> Names<'a> {
    /// Of what waits, and of failed verifications, about which nothing waits.
    #[must_use]
    pub fn of(waiting: &'a [Question]) -> Self {
        let waiting = waiting.iter().map(|question| (question.kind.name(), question.source.as_deref()));
        waiting.chain([(super::DISPROVED, None)]).collect()
    }

    /// The shortest name by which one of them alone is meant. What it is about comes before a source that is called the same.
    pub fn shortest(&self, kind: &'a str, source: Option<&'a str>) -> String {
        let own = BTreeSet::from([name_of(kind, source)]);
        let short = source.filter(|source| self.meant(source).is_ok_and(|meant| meant == own));
        short.map_or_else(|| name_of(kind, source), str::to_owned)
    }

    /// The names, in full, of what a person means. A source says which one is meant if there is but one thing of it.
    ///
    /// # Errors
    /// The names that there are to choose from.
    pub fn meant(&self, name: &str) -> Result<BTreeSet<String>, BTreeSet<String>> {
        let of = |wanted: &dyn Fn(&str, Option<&str>) -> bool| -> BTreeSet<String> {
            let wanted = self.0.iter().filter(|(kind, source)| wanted(kind, *source));
            wanted.map(|(kind, source)| name_of(kind, *source)).collect()
        };
        let whole = of(&|kind, source| name_of(kind, source) == name);
        let kind = of(&|kind, _| kind == name);
        let source = of(&|_, source| source == Some(name));
        match [whole, kind].into_iter().find(|meant| !meant.is_empty()) {
            Some(meant) => Ok(meant),
            None if source.len() == 1 => Ok(source),
            None if source.is_empty() => Err(of(&|_, _| true)),
            None => Err(source),
        }
    }
}
