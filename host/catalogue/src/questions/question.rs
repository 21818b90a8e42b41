//! One question: its kind, its text and the command that answers it.

use base::id::SnapshotId;
use std::collections::BTreeSet;

/// What is known of a kind.
struct Facts {
    /// The name in `status --json` and in `accept --only`.
    name: &'static str,
}

base::table! {
    /// The kind of a question.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub enum QuestionKind with Facts {
        /// Nobody ran `init`.
        Uninitialised { name: "uninitialised" }
        /// The environment's file cannot be read.
        FileDamaged { name: "file-damaged" }
        /// A newer version of this program wrote a record or the environment's file.
        NewerFormat { name: "newer-format" }
        /// The configuration has a source that the environment does not have.
        NewSource { name: "new-source" }
        /// The environment has a source that the configuration does not have.
        GoneSource { name: "gone-source" }
        /// A source is a different one than before, or most of it is gone.
        Suspect { name: "suspect" }
        /// The configuration weakens a rule of the guard.
        Guard { name: "guard" }
        /// The configuration has another retention plugin, or other settings for it.
        Retention { name: "retention" }
        /// The configuration has another time zone.
        TimeZone { name: "time-zone" }
        /// The time of a run is doubted.
        Clock { name: "clock" }
        /// Two clocks disagreed, and by both the time has passed.
        Clocks { name: "clocks" }
        /// A snapshot is from the future.
        Future { name: "future" }
        /// An object that a record names is missing.
        Lost { name: "lost" }
        /// A record cannot be read.
        DamagedRecord { name: "damaged-record" }
        /// A record that another record names is missing.
        MissingRecord { name: "missing-record" }
        /// A record is not the one that another record names.
        ChangedRecord { name: "changed-record" }
        /// The environment's file is not the one that runs used.
        OtherFile { name: "other-file" }
    }
}

/// One question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Its kind.
    pub kind: QuestionKind,
    /// The source that it is about.
    pub source: Option<String>,
    /// The snapshots that it is about, oldest first.
    pub snapshots: Vec<SnapshotId>,
    /// One sentence that starts in lower case.
    pub text: String,
    /// The command that answers it, after `dolibarr-backup`.
    pub command: String,
}

impl QuestionKind {
    /// The name in `status --json` and in `accept --only`.
    pub const fn name(self) -> &'static str {
        self.facts().name
    }
}

impl Question {
    /// Its unique name: the kind and the source, such as `suspect:docs`, or the kind alone.
    pub fn name(&self) -> String {
        question_name(self.kind.name(), self.source.as_deref())
    }
}

/// Builds the name that [`Question::name`] returns.
pub fn question_name(kind: &str, source: Option<&str>) -> String {
    source.map_or_else(|| kind.to_owned(), |source| format!("{kind}:{source}"))
}

/// The names by which a person can select questions: the source, the kind, or both. Each entry has a kind and may have
/// a source.
#[derive(Debug, Default)]
pub struct Names<'a>(Vec<(&'a str, Option<&'a str>)>);

impl<'a> FromIterator<(&'a str, Option<&'a str>)> for Names<'a> {
    fn from_iter<I: IntoIterator<Item = (&'a str, Option<&'a str>)>>(things: I) -> Self {
        Self(things.into_iter().collect())
    }
}

impl<'a> Names<'a> {
    /// The names of open questions, and of failed verifications, which have no question.
    pub fn of(waiting: &'a [Question]) -> Self {
        let waiting = waiting.iter().map(|question| (question.kind.name(), question.source.as_deref()));
        waiting.chain([(super::DISPROVED, None)]).collect()
    }

    /// The shortest name that selects only this entry. If a kind and a source have the same name, it means the kind.
    pub fn shortest(&self, kind: &'a str, source: Option<&'a str>) -> String {
        let own = BTreeSet::from([question_name(kind, source)]);
        let short = source.filter(|source| self.meant(source).is_ok_and(|meant| meant == own));
        short.map_or_else(|| question_name(kind, source), str::to_owned)
    }

    /// The full names of the entries that a person means. A source alone is enough if it has only one entry.
    ///
    /// # Errors
    /// The names to choose from.
    pub fn meant(&self, name: &str) -> Result<BTreeSet<String>, BTreeSet<String>> {
        let names = |wanted: &dyn Fn(&str, Option<&str>) -> bool| -> BTreeSet<String> {
            let wanted = self.0.iter().filter(|(kind, source)| wanted(kind, *source));
            wanted.map(|(kind, source)| question_name(kind, *source)).collect()
        };
        let whole = names(&|kind, source| question_name(kind, source) == name);
        let kind = names(&|kind, _| kind == name);
        let source = names(&|_, source| source == Some(name));
        match [whole, kind].into_iter().find(|meant| !meant.is_empty()) {
            Some(meant) => Ok(meant),
            None if source.len() == 1 => Ok(source),
            None if source.is_empty() => Err(names(&|_, _| true)),
            None => Err(source),
        }
    }
}
